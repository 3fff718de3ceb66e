//! Memory behind file descriptors, mapped here and at a fixed IOVA for devices.
#![allow(unsafe_code)] // The one place that turns a mapping into pointers, after checking that they are inside.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};

use super::{Direction, DmaDomain, DmaError};

/// Size of the huge pages that are tried for large regions, in bytes.
pub(super) const HUGE_PAGE: usize = 2 << 20;

/// The memory of a region as an IOMMU needs it: where it is mapped in this process, and the file it is in.
#[derive(Debug)]
pub struct RegionMemory {
    mapping: MmapRaw,
    file: File,
    huge: bool,
}

impl RegionMemory {
    /// Makes zeroed memory of at least `len` bytes: huge pages when it is large and there are free ones.
    pub(super) fn new(len: usize) -> Result<Self, DmaError> {
        if len == 0 || len > isize::MAX as usize - HUGE_PAGE {
            return Err(DmaError::BadLength { len });
        }
        if len >= HUGE_PAGE {
            match Self::with_pages(len.next_multiple_of(HUGE_PAGE), true) {
                Ok(memory) => return Ok(memory),
                Err(error) => tracing::debug!(%error, "no huge pages, using ordinary ones"),
            }
        }
        Self::with_pages(len.next_multiple_of(rustix::param::page_size()), false)
    }

    fn with_pages(len: usize, huge: bool) -> Result<Self, DmaError> {
        let failed = |action| move |source: io::Error| DmaError::Memory { action, len, source };
        let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        if huge {
            flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        }
        let file: File = rustix::fs::memfd_create("gangway-dma", flags)
            .map_err(io::Error::from)
            .map_err(failed("create a file"))?
            .into();
        file.set_len(len as u64).map_err(failed("size the file"))?;
        // The pages are taken now, so that having none is an error here and not a SIGBUS at first use.
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len as u64)
            .map_err(io::Error::from)
            .map_err(failed("find free pages"))?;
        // The size is final: nobody who holds the descriptor can truncate the file under the mapping.
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(io::Error::from)
            .map_err(failed("seal the file"))?;
        let mapping = MmapOptions::new().len(len).map_raw(&file).map_err(failed("map the file"))?;
        // A child must not share, and by copy-on-write move, pages that a device has the physical addresses of.
        mapping.advise(Advice::DontFork).map_err(failed("keep it from children"))?;
        Ok(Self { mapping, file, huge })
    }

    /// First byte in this process's address space. Page-aligned.
    pub fn as_ptr(&self) -> *mut u8 {
        self.mapping.as_mut_ptr()
    }

    /// Length in bytes: a multiple of the page size.
    pub fn len(&self) -> usize {
        self.mapping.len()
    }

    /// Never: regions have at least one page.
    pub fn is_empty(&self) -> bool {
        self.mapping.len() == 0
    }

    /// The file that holds the memory from its offset 0 on, for devices in other processes.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether it consists of huge pages.
    pub fn is_huge(&self) -> bool {
        self.huge
    }
}

/// Memory at one IOVA, mapped into every IOMMU of its domain until it is dropped.
#[derive(Debug)]
pub struct DmaRegion {
    domain: DmaDomain,
    memory: Arc<RegionMemory>,
    iova: u64,
    direction: Direction,
}

impl DmaRegion {
    pub(super) fn new(domain: DmaDomain, memory: Arc<RegionMemory>, iova: u64, direction: Direction) -> Self {
        Self { domain, memory, iova, direction }
    }

    /// I/O virtual address of the first byte. Page-aligned.
    #[inline]
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// Length in bytes: what was asked for, rounded up to pages.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Never: regions have at least one page.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    /// What devices may do with it.
    #[inline]
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Whether it consists of huge pages.
    pub fn is_huge(&self) -> bool {
        self.memory.is_huge()
    }

    /// Pointer to the `len` bytes from `offset` on, after checking that they are inside.
    ///
    /// # Panics
    /// When they are not: offsets come from allocators of this crate, never from outside.
    pub(crate) fn pointer(&self, offset: usize, len: usize) -> NonNull<u8> {
        let end = offset.checked_add(len).expect("offsets inside a region do not overflow");
        assert!(end <= self.len(), "a piece lies inside its region");
        let base = NonNull::new(self.memory.as_ptr()).expect("a mapping is never at address 0");
        // SAFETY: offset <= len of the mapping, which is one object of at most isize::MAX bytes.
        unsafe { base.add(offset) }
    }
}

impl Drop for DmaRegion {
    fn drop(&mut self) {
        self.domain.release(self.iova);
    }
}
