//! BAR0: the parts of it that may be mapped are mapped, the rest is read and written through the device's
//! file.

#![allow(unsafe_code)] // The promise that a mapping stays as long as its registers stands here.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

use super::capability::{Area, Region};
use crate::mmio::{Doorbell, MappedRegisters};
use crate::sigbus::BusGuard;

/// A region of registers of a device.
#[derive(Debug)]
pub(super) struct Bar {
    device: Arc<File>,
    size: u64,
    file_offset: u64,
    accessible: bool,
    pieces: Vec<Piece>,
}

/// A mapped part of a region.
#[derive(Debug)]
pub(crate) struct Piece {
    area: Area,
    registers: MappedRegisters,
    mapping: Arc<Mapping>,
}

/// The memory behind a piece; alive as long as the piece or a doorbell in it.
#[derive(Debug)]
struct Mapping {
    // First: the guard must be gone before the memory is, or it would stand in for whatever is mapped there
    // next.
    guard: BusGuard,
    memory: MmapRaw,
}

/// What became of an access.
#[derive(Debug)]
pub(super) enum BarError {
    /// The offset is in no mapped part, and the region cannot be reached through the file either.
    Outside,
    /// The kernel refused to read or write the file.
    File(io::Error),
}

impl Bar {
    /// Maps what may be mapped of the region.
    pub(super) fn map(device: Arc<File>, region: &Region) -> io::Result<Self> {
        let pieces = region
            .mappable
            .iter()
            .map(|area| Piece::map(&*device, region.file_offset, *area))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            device,
            size: region.size,
            file_offset: region.file_offset,
            accessible: region.accessible,
            pieces,
        })
    }

    /// Bytes of the region.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Whether an access has found the registers gone.
    pub(super) fn gone(&self) -> bool {
        self.pieces.iter().any(Piece::gone)
    }

    /// Takes the registers out of this process: the kernel then does not keep the device open because of them. Doorbells
    /// stay memory that may be written, to no effect.
    pub(super) fn revoke(&self) {
        for piece in &self.pieces {
            if let Err(error) = piece.mapping.revoke() {
                tracing::warn!(%error, "the registers of a device stay mapped until its doorbells are gone");
            }
        }
    }

    pub(super) fn read32(&self, offset: u32) -> Result<u32, BarError> {
        if let Some(value) = self.pieces.iter().find_map(|piece| piece.read32(offset)) {
            return Ok(value);
        }
        let mut bytes = [0; 4];
        self.device.read_exact_at(&mut bytes, self.file_position(offset)?).map_err(BarError::File)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(super) fn write32(&self, offset: u32, value: u32) -> Result<(), BarError> {
        if self.pieces.iter().any(|piece| piece.write32(offset, value)) {
            return Ok(());
        }
        self.device.write_all_at(&value.to_le_bytes(), self.file_position(offset)?).map_err(BarError::File)
    }

    /// The doorbell at `offset`; `None` when that is not in a mapped part.
    pub(super) fn doorbell(&self, offset: u32) -> Option<Doorbell> {
        self.pieces.iter().find_map(|piece| piece.doorbell(offset))
    }

    fn file_position(&self, offset: u32) -> Result<u64, BarError> {
        let inside = u64::from(offset) + 4 <= self.size;
        self.file_offset
            .checked_add(u64::from(offset))
            .filter(|_| inside && self.accessible)
            .ok_or(BarError::Outside)
    }
}

impl Mapping {
    /// Puts private memory in the place of the registers.
    fn revoke(&self) -> io::Result<()> {
        // SAFETY: the pages are those of this mapping, which stays one mapping of the same length: whoever drops it
        // unmaps all of it. Nothing but volatile accesses to registers reach them.
        let placed = unsafe {
            libc::mmap(
                self.memory.as_mut_ptr().cast(),
                self.memory.len(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if placed == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Piece {
    /// Maps a part of a region that begins at `file_offset` in `file`.
    ///
    /// # Errors
    /// The kernel does not map it, or too many areas are mapped.
    pub(crate) fn map(file: impl AsFd, file_offset: u64, area: Area) -> io::Result<Self> {
        let position = file_offset.checked_add(area.offset).ok_or(io::ErrorKind::InvalidInput)?;
        let len = usize::try_from(area.len).map_err(|_| io::ErrorKind::InvalidInput)?;
        let memory = MmapOptions::new().offset(position).len(len).map_raw(file.as_fd().as_raw_fd())?;
        let base = NonNull::new(memory.as_mut_ptr()).ok_or(io::ErrorKind::InvalidData)?;
        let guard = BusGuard::new(base.as_ptr() as usize, len)?;
        let mapping = Arc::new(Mapping { guard, memory });
        // SAFETY: `base` is page-aligned, and `len` bytes from it on stay mapped, readable and writable,
        // until the last holder of `mapping` is gone. Only `MappedRegisters` knows the pointer.
        let registers = unsafe { MappedRegisters::new(base, len, Arc::<Mapping>::clone(&mapping)) };
        Ok(Self { area, registers, mapping })
    }

    /// Whether an access has found the registers gone.
    pub(crate) fn gone(&self) -> bool {
        self.mapping.guard.gone()
    }

    /// Reads the register at `offset` in the region; `None` when it is not in this part.
    pub(crate) fn read32(&self, offset: u32) -> Option<u32> {
        self.registers.read32(self.inside(offset)?)
    }

    /// Writes the register at `offset` in the region; `false` when it is not in this part.
    pub(crate) fn write32(&self, offset: u32, value: u32) -> bool {
        self.inside(offset).and_then(|offset| self.registers.write32(offset, value)).is_some()
    }

    /// The doorbell at `offset` in the region; `None` when it is not in this part.
    pub(crate) fn doorbell(&self, offset: u32) -> Option<Doorbell> {
        self.registers.doorbell(self.inside(offset)?)
    }

    /// Where an offset in the region lies in this piece.
    fn inside(&self, offset: u32) -> Option<usize> {
        usize::try_from(u64::from(offset).checked_sub(self.area.offset)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 0x1000;

    /// A file that stands for a device: its region of four pages starts at the second page of the file, and
    /// the pages 0 and 2 of the region may be mapped.
    fn bar() -> (Bar, Arc<File>) {
        let file = rustix::fs::memfd_create("bar", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = Arc::new(File::from(file));
        file.set_len(5 * PAGE).unwrap();
        let mappable = vec![Area { offset: 0, len: PAGE }, Area { offset: 2 * PAGE, len: PAGE }];
        let region = Region { size: 4 * PAGE, file_offset: PAGE, accessible: true, mappable };
        (Bar::map(Arc::clone(&file), &region).unwrap(), file)
    }

    #[test]
    fn registers_are_reached_in_mapped_and_unmapped_parts_alike() {
        let (bar, file) = bar();
        for offset in (0..4 * PAGE as u32).step_by(4) {
            bar.write32(offset, !offset).unwrap();
        }
        for offset in (0..4 * PAGE as u32).step_by(4) {
            assert_eq!(bar.read32(offset).unwrap(), !offset);
            let mut bytes = [0; 4];
            file.read_exact_at(&mut bytes, PAGE + u64::from(offset)).unwrap();
            assert_eq!(u32::from_le_bytes(bytes), !offset);
        }
    }

    #[test]
    fn registers_beyond_the_region_are_refused_though_the_file_goes_on() {
        let (bar, file) = bar();
        file.set_len(16 * PAGE).unwrap();
        for offset in [4 * PAGE as u32, 4 * PAGE as u32 - 2, u32::MAX - 3] {
            assert!(matches!(bar.read32(offset), Err(BarError::Outside)), "{offset:#x}");
            assert!(matches!(bar.write32(offset, 0), Err(BarError::Outside)), "{offset:#x}");
        }
    }

    #[test]
    fn a_region_that_cannot_be_read_has_only_its_mapped_parts() {
        let (mut bar, _file) = bar();
        bar.accessible = false;
        assert!(bar.read32(0).is_ok());
        assert!(matches!(bar.read32(PAGE as u32), Err(BarError::Outside)));
    }

    #[test]
    fn doorbells_exist_in_mapped_parts_only_and_outlive_the_bar() {
        let (bar, file) = bar();
        assert!(bar.doorbell(PAGE as u32).is_none());
        assert!(bar.doorbell(3 * PAGE as u32 - 2).is_none());
        let doorbell = bar.doorbell(2 * PAGE as u32 + 8).unwrap();
        drop(bar);
        doorbell.write(77);
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 3 * PAGE + 8).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), 77);
    }

    #[test]
    fn doorbells_of_registers_that_were_revoked_reach_nothing() {
        let (bar, file) = bar();
        let doorbell = bar.doorbell(8).unwrap();
        bar.revoke();
        doorbell.write(77);
        drop(bar);
        doorbell.write(78);
        let mut bytes = [1; 4];
        file.read_exact_at(&mut bytes, PAGE + 8).unwrap();
        assert_eq!(bytes, [0; 4]);
    }

    #[test]
    fn a_device_that_vanishes_reads_as_ones_and_takes_no_doorbell_with_it() {
        let (bar, file) = bar();
        let doorbell = bar.doorbell(0).unwrap();
        assert!(!bar.gone());
        file.set_len(0).unwrap();
        doorbell.write(1);
        assert!(bar.gone());
        assert_eq!(bar.read32(2 * PAGE as u32).unwrap(), u32::MAX);
    }
}
