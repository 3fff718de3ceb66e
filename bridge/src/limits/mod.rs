//! Limits: how many commands, and how many bytes, a host or a namespace may have in a second.
//!
//! - [`Limit`] and [`Limits`]: what an operator says.
//! - [`Meter`]: a limit in force. All reactors share it, and take from it in batches.
//! - [`LimitBook`]: the meters of an export, by host and by namespace.

mod book;
mod meter;
mod rules;

pub use book::LimitBook;
pub(crate) use meter::{Meter, Purse};
pub use rules::{Limit, LimitError, Limits, Subject};
