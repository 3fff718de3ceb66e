//! Memory that devices may reach.
//!
//! A [`DmaDomain`] hands out [`DmaRegion`]s and keeps them mapped, at the same I/O virtual address (IOVA), in every
//! IOMMU that is attached to it. Regions are few and large; what moves through the program are pieces of them:
//! [`DmaBuffer`]s from a [`BufferPool`], and [`DmaSlice`]s of a [`ReceiveChunk`].
//!
//! # Who may touch what, when
//!
//! Bytes are only reachable through a piece in hand. A `DmaBuffer` is moved into the queue pair while a device may
//! touch it, so ordinary references into it are sound. A `DmaSlice` is shared with the device, but its memory is
//! mapped for the device to read only, so no device can change it under a reference.
//!
//! This trusts a drive to leave memory alone once it completed a command. One that does not can change the content of
//! whatever is mapped for it to write, and of nothing else: an IOMMU knows mappings, not commands. So nothing that is
//! checked and then used is read twice from memory that a drive may write.

mod buffer;
mod chunk;
mod domain;
mod error;
mod iova;
mod marks;
mod pool;
mod region;
#[cfg(test)]
mod tests;

pub use buffer::{CommandData, DmaBuffer};
pub use chunk::{DmaSlice, ReceiveChunk, ReceivePool};
pub use domain::{DmaDomain, Iommu};
pub use error::DmaError;
pub use pool::BufferPool;
pub use region::{DmaRegion, RegionMemory};

/// The memory page size the driver uses with controllers, in bytes (CC.MPS = 0).
pub const PAGE_SIZE: usize = 4096;

/// What devices may do with a piece of memory. Mappings carry no more permission than this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The device reads what the CPU wrote: submission queues, PRP lists, data of writes.
    DeviceReads,
    /// The device writes what the CPU then reads: completion queues, data of reads.
    DeviceWrites,
    /// Both.
    Bidirectional,
}

impl Direction {
    /// Whether a device may read such memory.
    pub const fn device_reads(self) -> bool {
        matches!(self, Direction::DeviceReads | Direction::Bidirectional)
    }

    /// Whether a device may write such memory.
    pub const fn device_writes(self) -> bool {
        matches!(self, Direction::DeviceWrites | Direction::Bidirectional)
    }
}
