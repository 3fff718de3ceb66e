//! Reservations: which hosts may use a namespace, as they agree among themselves (NVMe Base 2.0, 8.19).
//!
//! The drive takes all hosts for one, so reservations are kept here, for each namespace of each drive, whichever exports
//! show it. A host is its 128-bit host identifier. What a reservation forbids is refused before the drive sees it.
//!
//! - `state`: what commands do to registrants and reservation. Pure.
//! - `access`: who may do what while a namespace is reserved. Pure.
//! - `report`: what Reservation Report returns. Pure.
//! - `log`: the notifications that a controller has for its host.
//! - `registry`: all namespaces, with what is in force.
//! - `store`: the files that let reservations survive a restart.

mod access;
mod log;
mod registry;
mod report;
mod state;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use self::access::{CONFLICT, Eviction, Group, Guard, is_reservation};
pub(crate) use self::log::NotificationLog;
pub(crate) use self::registry::{Entry, Key, Reservations, Waiting};
pub(crate) use self::report::report;
pub(crate) use self::state::{Command, Host, Namespace, Outcome};
pub use self::store::StateError;
pub(crate) use self::store::Store;
