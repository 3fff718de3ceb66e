//! The host's side of NVMe/TCP.
//!
//! - [`Connection`]: one queue without sockets, bytes in and events out, as on the controller's side.
//! - [`client`]: a blocking host over TCP that is built on it: connect, admin and I/O queues.
//! - [`discovery`]: asks a discovery service what there is.

pub mod client;
pub mod discovery;

mod connection;
mod slots;
#[cfg(test)]
mod tests;

pub use connection::{
    ADMIN_IN_CAPSULE, Config, Connection, ConnectionError, Event, Submitted, Transfer, Want,
};
pub use slots::{Data, QueueFull, Tag};
