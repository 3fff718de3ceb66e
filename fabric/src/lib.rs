//! NVMe/TCP without sockets, for both ends.
//!
//! - [`pdu`]: the PDUs of the NVMe/TCP transport as types, [`term`]: how a broken connection is reported.
//! - [`target`]: the controller's side of one connection, bytes in and events out. [`host`]: the host's side, and a
//!   blocking client on top of it.
//! - [`connect`], [`properties`], [`keep_alive`], [`events`], [`discovery`]: what a fabrics controller does by
//!   itself.
//!
//! [`congestion`] is the one thing that is told to sockets, which whoever uses this has.
//!
//! Payload never travels through the protocol code: a connection consumes the bytes of headers and says where the
//! bytes behind them belong; the caller, which knows the buffers, puts them there and shows them to the connection,
//! which looks at them only when there are data digests to compute.
//!
//! The section numbers are those of the "NVM Express TCP Transport Specification", revision 1.0, unless another
//! document is named.
#![forbid(unsafe_code)]

pub mod congestion;
pub mod connect;
mod digest;
pub mod discovery;
pub mod events;
pub mod host;
pub mod keep_alive;
pub mod pdu;
pub mod properties;
pub mod target;
pub mod term;
