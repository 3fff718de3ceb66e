//! A software NVMe controller in this process.
//!
//! [`EmulatedFunction`] stands where a PCI function on vfio-pci would: registers, doorbells, queues in DMA memory,
//! behind an IOMMU of its own. The driver above does not know the difference. It follows NVMe 1.4 and is strict, since a
//! test bed that forgives hides faults: what the specification calls undefined stops the controller (CSTS.CFS), and DMA
//! to memory that is not mapped, or not for that direction, fails and is [counted](EmulatedProbe::violations).
//!
//! # How it runs
//!
//! There is no thread, unless the drive is served to other processes ([`crate::vfio_user::server`]). Whoever rings a doorbell steps the queue pair ([`crate::function::Stepper`]), and the drive does
//! its work then and there. The state of each queue pair is behind a lock that is taken once per step and contended only
//! by what concerns the whole controller: reset, changed mappings, Abort. So when CC.EN was written 0, no step is under
//! way, and none touches memory any more.
//!
//! # Faults
//!
//! A drive can be told to misbehave ([`FaultRule`]): from its options, and at any time through [`EmulatedProbe`]. A drive
//! that was told nothing pays a branch per step for it.
//!
//! # What this does not do
//!
//! - Keeping its shape: a file keeps the data alone. Formats, namespaces and zones are what the options say again when the
//!   drive is made anew, so what Format NVM, Namespace Management or zones have changed does not outlive the process.
//! - Interrupts within a process: vectors are accepted and checked. Drivers in other processes are interrupted.
//! - SGLs of admin commands and of metadata, bit buckets, fused operations, saved features, queues that are not
//!   contiguous (CAP.CQR), memory pages of other sizes: they are not promised and are refused.
//! - Atomicity between queues: a block that one queue writes while another reads or writes the same one may come out
//!   mixed.

mod admin;
mod capabilities;
mod commands;
mod config;
mod counters;
mod device;
mod error;
mod error_log;
mod faults;
mod function;
mod held;
mod identity;
mod io;
mod memory;
mod namespace;
mod options;
mod protection;
mod prp;
mod registers;
mod ring;
mod served;
mod sgl;
mod shadow;
mod store;
#[cfg(test)]
mod tests;
mod vendor;

pub use capabilities::Capabilities;
pub use config::{Backing, ConfigError, DEPTH_MAX, EmulatedConfig, MDTS_MAX, NAMESPACES_MAX, QUEUES_MAX};
pub use error::EmulatedError;
pub use faults::{
    CommandMatch, Corruption, FaultAction, FaultCounts, FaultError, FaultId, FaultRule, Occurrence,
    QueueMatch, REORDER_LIMIT,
};
pub use function::{EmulatedFunction, EmulatedProbe};
pub(crate) use memory::SharedMemory;
pub use options::{NamespaceIds, ZoneConfig};
pub(crate) use served::{ServedDevice, Turns};
