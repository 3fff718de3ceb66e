//! Remote controllers: what one association sees on its admin queue.
//!
//! A remote controller decides what each admin command means (answered here, forwarded, refused) and how the drive's
//! answers look to the host. It does no I/O: the task that owns the connection carries out what it decides.

pub(crate) mod decide;
pub(crate) mod identity;
pub(crate) mod limits;
pub(crate) mod reach;

mod attachment;
mod command_sets;
mod common;
mod controller;
mod discovery;
mod features;
mod finish;
mod namespaces;
mod series;
mod telemetry;

pub(crate) use common::keeps_promises;
pub(crate) use controller::{Action, Order, RemoteController};
pub(crate) use discovery::DiscoveryService;
pub(crate) use series::SeriesLock;
pub(crate) use telemetry::Collected;
