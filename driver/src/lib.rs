//! Gangway's NVMe driver in user space.
//!
//! From the bottom up:
//!
//! - [`function`]: the hardware boundary. Behind it a PCI function on vfio-pci ([`vfio`]), a controller that another
//!   process serves ([`vfio_user`]) or a software controller in this process ([`emulated`]); [`address`] names any.
//! - [`dma`]: memory that devices may reach: regions, buffers, pools, receive chunks, and one IOMMU domain for all
//!   drives of a process.
//! - [`queue`]: submission and completion queue pairs. Single-threaded by construction; posting and ringing are two
//!   operations.
//! - [`asynchronous`]: the same for asynchronous programs, a command being a future.
//! - [`controller`]: reset, enable, Identify, creation and deletion of I/O queue pairs, events, abort, shutdown.
//!
//! # What always holds
//!
//! - A buffer that was submitted belongs to its command until its completion was seen, until its queue was deleted,
//!   or until the controller is known to be stopped ([`controller::Stopped`]). It cannot be had earlier: it was moved.
//! - An I/O virtual address is not used again while a device could still write to it. What cannot be proven to be
//!   quiet is leaked, mapping and all.
//! - A completion that names no outstanding command faults its queue pair, instead of completing something else.
//! - Data pointers never name memory beyond the command's own: SGLs say how long it is, and what stands behind PRPs is
//!   a page that is never mapped.
//!
//! # What this does not do
//!
//! - Interrupts by wire (INTx): a drive that has neither MSI-X nor MSI is polled.
//! - SGLs of more than one descriptor (memory is contiguous for the drive), SGLs for metadata, controller memory
//!   buffers, memory page sizes other than 4 KiB.
//! - Isolation of drives from each other: all drives of a process share one IOMMU domain and so trust each other.

pub mod address;
mod areas;
pub mod asynchronous;
pub mod controller;
pub mod dma;
pub mod emulated;
pub mod function;
pub mod heap;
pub mod mmio;
mod prp;
pub mod queue;
mod sigbus;
mod sync;
pub mod vfio;
pub mod vfio_user;

#[cfg(test)]
mod testing;

pub use controller::{Controller, Stopped};
pub use dma::{
    BufferPool, CommandData, Direction, DmaBuffer, DmaDomain, DmaSlice, ReceiveChunk, ReceivePool,
};
pub use function::{Function, FunctionError, Interrupt, Stepper};
pub use mmio::Doorbell;
pub use queue::{Completion, QueuePair};
