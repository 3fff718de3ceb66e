//! Memory of another process, of which the file is at hand: what a client of vfio-user gives its device to reach.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FileType, FsWord, fstat, fstatfs};

use crate::sigbus::BusGuard;

/// What `fstatfs` calls the file system of huge pages.
const HUGETLBFS: FsWord = 0x9584_58f6;

/// Memory of another process, mapped into this one as long as this lives.
///
/// Its owner may shorten the file. That is noticed by an access to what is gone, which then reaches memory of this
/// process that nobody looks at.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    first: NonNull<u8>,
    len: u64,
    // Before the mapping, or it would guard whatever is mapped there next.
    guard: BusGuard,
    _mapping: MmapRaw,
}

// SAFETY: the pointer names shared memory that is not tied to a thread, and is used for raw copies only.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Maps `len` bytes at `offset` into a file.
    ///
    /// # Errors
    /// `InvalidInput` when the file has no such bytes or is none that keeps memory, or what the kernel says.
    pub(crate) fn map(file: BorrowedFd<'_>, offset: u64, len: u64, writable: bool) -> io::Result<Arc<Self>> {
        let wrong = || io::Error::from(io::ErrorKind::InvalidInput);
        let stat = fstat(file)?;
        let end = offset.checked_add(len).filter(|_| len > 0).ok_or_else(wrong)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
            || u64::try_from(stat.st_size).map_or(true, |size| end > size)
        {
            return Err(wrong());
        }
        let page = match fstatfs(file)? {
            system if system.f_type == HUGETLBFS => u64::try_from(system.f_bsize).map_err(|_| wrong())?,
            _ => rustix::param::page_size() as u64,
        };
        let start = offset / page * page;
        let whole = end.checked_next_multiple_of(page).ok_or_else(wrong)? - start;
        let whole = usize::try_from(whole).map_err(|_| wrong())?;
        let mut options = MmapOptions::new();
        options.offset(start).len(whole);
        let file = file.as_raw_fd();
        let mapping = if writable { options.map_raw(file)? } else { options.map_raw_read_only(file)? };
        let guard = BusGuard::new(mapping.as_ptr() as usize, whole)?;
        let base = NonNull::new(mapping.as_mut_ptr()).ok_or_else(wrong)?;
        // SAFETY: `offset` is in the page that the mapping begins with.
        let first = unsafe { base.add((offset - start) as usize) };
        Ok(Arc::new(Self { first, len, guard, _mapping: mapping }))
    }

    /// The first byte; valid as long as this lives, for reads, and for writes when it was mapped so.
    pub(super) fn first(&self) -> NonNull<u8> {
        self.first
    }

    /// How many bytes follow it.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Whether an access has found a part of it gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.guard.gone()
    }
}
