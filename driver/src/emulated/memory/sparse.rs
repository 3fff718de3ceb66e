//! Data of a drive in anonymous memory: pages are taken as they are written, and given back by Deallocate.

use std::io;
use std::ptr::NonNull;

use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};

use super::{DmaFault, DmaMemory, Purpose, copy};

/// Up to this size huge pages are asked for: quicker, and a drive so small cannot waste much by them.
const HUGE_PAGES_UP_TO: usize = 4 << 30;
const PAGE: usize = 4096;

/// Zero-filled memory that takes no more than what was written to it.
pub(in crate::emulated) struct SparseMemory {
    memory: MmapRaw,
}

impl SparseMemory {
    /// `len` bytes of zeroes.
    ///
    /// # Errors
    /// The kernel does not give so much address space.
    pub(in crate::emulated) fn new(len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let memory: MmapRaw = MmapOptions::new().len(len).no_reserve_swap().map_anon()?.into();
        if len <= HUGE_PAGES_UP_TO {
            // Only a hint: a kernel without transparent huge pages refuses it, and all works the same.
            let _ = memory.advise(Advice::HugePage);
        }
        Ok(Self { memory })
    }

    /// The memory at `offset`, when `len` bytes are there.
    #[inline]
    fn at(&self, offset: u64, len: usize) -> Option<NonNull<u8>> {
        let end = usize::try_from(offset).ok()?.checked_add(len)?;
        if end > self.memory.len() {
            return None;
        }
        // SAFETY: `offset` is inside the mapping.
        NonNull::new(unsafe { self.memory.as_mut_ptr().add(offset as usize) })
    }

    /// Says that a range is to be read or written soon. Of a long one the processor finds all but the beginning itself.
    #[inline]
    pub(in crate::emulated) fn prefetch(&self, offset: u64, len: u64) {
        let len = len.min(PAGE as u64) as usize;
        if let Some(data) = self.at(offset, len) {
            copy::prefetch(data.as_ptr(), len);
        }
    }

    /// Copies data of the drive to host memory.
    ///
    /// # Errors
    /// The host memory may not be written, or the range is not inside.
    #[inline]
    pub(in crate::emulated) fn read(
        &self,
        offset: u64,
        host: &DmaMemory,
        iova: u64,
        len: usize,
    ) -> Result<(), DmaFault> {
        let mut data = self.at(offset, len).ok_or(DmaFault)?;
        host.pieces(iova, len, Purpose::DataWrite, |memory, len| {
            // SAFETY: `pieces` and `at` vouch for both sides; the data of a drive is never part of host memory.
            unsafe {
                copy::copy(memory.as_ptr(), data.as_ptr(), len);
                data = data.add(len);
            }
            Ok(())
        })
    }

    /// Copies host memory into the data of the drive.
    ///
    /// # Errors
    /// The host memory may not be read, or the range is not inside.
    #[inline]
    pub(in crate::emulated) fn write(
        &self,
        offset: u64,
        host: &DmaMemory,
        iova: u64,
        len: usize,
    ) -> Result<(), DmaFault> {
        let mut data = self.at(offset, len).ok_or(DmaFault)?;
        host.pieces(iova, len, Purpose::DataRead, |memory, len| {
            // SAFETY: `pieces` and `at` vouch for both sides; the data of a drive is never part of host memory.
            unsafe {
                copy::copy(data.as_ptr(), memory.as_ptr(), len);
                data = data.add(len);
            }
            Ok(())
        })
    }

    /// Copies data of the drive out, for Compare.
    ///
    /// # Errors
    /// The range is not inside.
    pub(in crate::emulated) fn peek(&self, offset: u64, into: &mut [u8]) -> Result<(), DmaFault> {
        let data = self.at(offset, into.len()).ok_or(DmaFault)?;
        // SAFETY: `at` vouches for the source; `into` is a unique reference to as many bytes.
        unsafe { copy::copy(into.as_mut_ptr(), data.as_ptr(), into.len()) };
        Ok(())
    }

    /// Copies into the data of the drive, for what passes through its own memory.
    ///
    /// # Errors
    /// The range is not inside.
    pub(in crate::emulated) fn poke(&self, offset: u64, from: &[u8]) -> Result<(), DmaFault> {
        let data = self.at(offset, from.len()).ok_or(DmaFault)?;
        // SAFETY: `at` vouches for the destination; `from` is a reference to as many bytes, which lie elsewhere.
        unsafe { copy::copy(data.as_ptr(), from.as_ptr(), from.len()) };
        Ok(())
    }

    /// Makes a range read as zeroes and gives back the pages that lie wholly in it.
    ///
    /// # Errors
    /// The range is not inside.
    pub(in crate::emulated) fn zero(&self, offset: u64, len: u64) -> Result<(), DmaFault> {
        let len = usize::try_from(len).map_err(|_| DmaFault)?;
        let data = self.at(offset, len).ok_or(DmaFault)?;
        let start = offset as usize;
        let first = start.next_multiple_of(PAGE);
        let last = (start + len) / PAGE * PAGE;
        let released = first < last && {
            // SAFETY: whole pages inside the mapping, of which no reference exists; they read as zeroes from now on.
            unsafe { self.memory.unchecked_advise_range(UncheckedAdvice::DontNeed, first, last - first) }
                .is_ok()
        };
        // SAFETY: all of it is inside the range that `at` checked.
        unsafe {
            if released {
                copy::zero(data.as_ptr(), first - start);
                copy::zero(data.add(last - start).as_ptr(), start + len - last);
            } else {
                copy::zero(data.as_ptr(), len);
            }
        }
        Ok(())
    }
}
