//! What can go wrong with DMA memory.

use std::io;

use thiserror::Error;

/// Why memory could not be had, mapped or unmapped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DmaError {
    /// A region of no bytes, or of more than can be addressed, was asked for.
    #[error("a DMA region of {len} bytes cannot be made")]
    BadLength {
        /// Bytes asked for.
        len: usize,
    },
    /// The kernel gave no memory.
    #[error(
        "could not {action} for {len} bytes of DMA memory: {source}; free memory, or use fewer or smaller buffers"
    )]
    Memory {
        /// What was tried: create, allocate, map.
        action: &'static str,
        /// Bytes asked for.
        len: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// No gap in the IOVA ranges common to all drives is large enough.
    #[error(
        "no {len} bytes of I/O virtual addresses are left in the ranges that all attached IOMMUs share; \
         serve fewer drives in one process, or use smaller buffers"
    )]
    NoIova {
        /// Bytes asked for.
        len: u64,
    },
    /// An IOMMU that is being attached cannot map memory which is already in use.
    #[error(
        "the IOMMU of this drive cannot map I/O virtual addresses {iova:#x}..={last:#x}, which are in use by the \
         drives opened before it; open this drive first, or in a process of its own"
    )]
    OutsideRanges {
        /// First IOVA of the region that does not fit.
        iova: u64,
        /// Last IOVA of it.
        last: u64,
    },
    /// The kernel refused to map memory for a device.
    #[error("could not map {len} bytes at I/O virtual address {iova:#x}: {source}")]
    Map {
        /// First IOVA.
        iova: u64,
        /// Bytes.
        len: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The limit on locked memory was hit (RLIMIT_MEMLOCK).
    #[error(
        "locking {needed} more bytes of memory for a device exceeds the limit on locked memory of {limit} bytes; \
         raise it with `ulimit -l unlimited`, `LimitMEMLOCK=infinity` in a systemd unit, or `memlock` in \
         /etc/security/limits.conf, or run with CAP_IPC_LOCK"
    )]
    LockedMemory {
        /// The limit, in bytes.
        limit: u64,
        /// Bytes that were to be locked in addition.
        needed: u64,
    },
    /// The IOMMU has no room for another mapping.
    #[error("the IOMMU has no room for another mapping (limit {limit}); use fewer, larger regions")]
    TooManyMappings {
        /// Mappings that the IOMMU allows.
        limit: u32,
    },
    /// The kernel refused to take a mapping away.
    #[error("could not unmap {len} bytes at I/O virtual address {iova:#x}: {source}")]
    Unmap {
        /// First IOVA.
        iova: u64,
        /// Bytes.
        len: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// Anything else an IOMMU answered.
    #[error("IOMMU: {message}")]
    Iommu {
        /// What was tried and what was answered.
        message: String,
    },
}
