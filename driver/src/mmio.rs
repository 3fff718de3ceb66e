//! Memory-mapped registers and doorbells.
//!
//! Registers of a real drive are reached through a mapping of its BAR0 (`MappedRegisters`, which only the
//! `vfio` module makes), those of an emulated drive are ordinary memory ([`DoorbellPage`]). The queues above
//! see a [`Doorbell`] and do not know which of the two it is.
#![allow(unsafe_code)] // Device registers are reached through raw pointers into a mapping; nothing safe can name them.

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use memmap2::MmapOptions;
use rustix::fs::{MemfdFlags, SealFlags};
use volatile_register::RW;

/// Bytes of one doorbell register when CAP.DSTRD is 0 (NVMe over PCIe Transport, 3.1.2).
const REGISTER_LEN: usize = size_of::<u32>();

/// One doorbell register: a place that is only ever written.
///
/// It keeps the memory behind it mapped, so it may outlive the function that it came from: a write to the
/// doorbell of a closed function is lost, it never lands in foreign memory.
///
/// The order between queue entries and a doorbell is the business of the queue: it puts the fence before the
/// call of [`write`](Self::write).
pub struct Doorbell {
    target: Target,
}

enum Target {
    Register { register: NonNull<RW<u32>>, _mapping: Arc<dyn Any + Send + Sync> },
    Memory { page: Arc<DoorbellPage>, index: usize },
    Remote(Box<dyn RemoteRegister>),
}

/// A register that is written by other means than memory. A write that fails is lost.
pub(crate) trait RemoteRegister: Send + std::fmt::Debug {
    fn write(&self, value: u32);
}

// SAFETY: the pointer names a device register inside a mapping that `_mapping` keeps alive and that is not
// tied to a thread. Registers may be written from any thread; the type is not `Sync`, so two threads never
// write through one value.
unsafe impl Send for Doorbell {}

impl Doorbell {
    /// A doorbell in ordinary memory, for a device that is stepped by this process.
    ///
    /// `index` counts 32-bit registers from the start of the page. `None` when the page has no such register.
    pub fn in_memory(page: Arc<DoorbellPage>, index: usize) -> Option<Self> {
        (index < page.len()).then(|| Self { target: Target::Memory { page, index } })
    }

    /// A doorbell of a device whose registers cannot be mapped.
    pub(crate) fn remote(register: Box<dyn RemoteRegister>) -> Self {
        Self { target: Target::Remote(register) }
    }

    /// Writes the new tail (submission queue) or head (completion queue), as one 32-bit store.
    #[inline]
    pub fn write(&self, value: u32) {
        match &self.target {
            Target::Register { register, .. } => {
                // SAFETY: `MappedRegisters::doorbell` checked that the register lies inside the mapping,
                // aligned, and `_mapping` keeps it mapped. Writing a doorbell makes the device read queue
                // memory, which is what the owner of the queue asks for by calling this.
                unsafe { register.as_ref().write(value.to_le()) }
            }
            Target::Memory { page, index } => page.registers()[*index].store(value, Ordering::Release),
            Target::Remote(register) => register.write(value),
        }
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Register { register, .. } => f.debug_tuple("Doorbell").field(register).finish(),
            Target::Memory { index, .. } => f.debug_tuple("Doorbell::in_memory").field(index).finish(),
            Target::Remote(register) => f.debug_tuple("Doorbell::remote").field(register).finish(),
        }
    }
}

/// The doorbell registers of a device that is emulated by this process, in memory of its own or in memory that a driver
/// in another process writes to.
///
/// The driver writes them through [`Doorbell`]; the device [loads](Self::load) them when it is stepped.
pub struct DoorbellPage {
    first: NonNull<AtomicU32>,
    count: usize,
    _memory: Box<dyn Any + Send + Sync>,
}

// SAFETY: the memory is not tied to a thread, and all of it is atomics.
unsafe impl Send for DoorbellPage {}
// SAFETY: as above.
unsafe impl Sync for DoorbellPage {}

impl fmt::Debug for DoorbellPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.registers()).finish()
    }
}

impl DoorbellPage {
    /// `count` doorbell registers, all zero.
    pub fn new(count: usize) -> Arc<Self> {
        let memory: Arc<[AtomicU32]> = (0..count).map(|_| AtomicU32::new(0)).collect();
        let first = NonNull::from(&memory[..]).cast();
        Arc::new(Self { first, count, _memory: Box::new(memory) })
    }

    /// `count` doorbell registers, all zero, from `offset` bytes on in a file that others can map. The file has whole
    /// pages, and cannot be shortened.
    ///
    /// # Errors
    /// What the kernel says when there is no memory.
    pub(crate) fn in_file(count: usize, offset: usize) -> io::Result<(Arc<Self>, File)> {
        let page = rustix::param::page_size();
        let len = (offset + count * REGISTER_LEN).next_multiple_of(page);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(rustix::fs::memfd_create("gangway-doorbells", flags)?);
        file.set_len(len as u64)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let mapping = MmapOptions::new().len(len).map_raw(&file)?;
        // SAFETY: `offset` is inside the mapping, which begins at a page.
        let first = NonNull::new(unsafe { mapping.as_mut_ptr().add(offset) }.cast::<AtomicU32>())
            .filter(|first| first.is_aligned())
            .ok_or(io::ErrorKind::InvalidInput)?;
        Ok((Arc::new(Self { first, count, _memory: Box::new(mapping) }), file))
    }

    fn registers(&self) -> &[AtomicU32] {
        // SAFETY: `_memory` has `count` registers from `first` on for as long as this lives, aligned; other processes may
        // write to them, which is what atomics are for.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }

    /// How many registers the page has.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether the page has no registers at all.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What was last written to a register; `None` when the page has no such register.
    ///
    /// Everything that the writer did before it rang is visible to the caller afterwards.
    #[inline]
    pub fn load(&self, index: usize) -> Option<u32> {
        self.registers().get(index).map(|register| register.load(Ordering::Acquire))
    }

    /// Writes a register; nothing happens when the page has no such register.
    pub(crate) fn store(&self, index: usize, value: u32) {
        if let Some(register) = self.registers().get(index) {
            register.store(value, Ordering::Release);
        }
    }

    /// What was written to a register since it was last taken; `None` when nothing was, or there is no such register. A
    /// write of `u32::MAX`, which no doorbell can hold, counts as none.
    pub(crate) fn take(&self, index: usize) -> Option<u32> {
        let value = self.registers().get(index)?.swap(u32::MAX, Ordering::AcqRel);
        (value != u32::MAX).then_some(value)
    }

    /// Sets every register to zero, as a controller reset does.
    pub fn reset(&self) {
        for register in self.registers() {
            register.store(0, Ordering::Release);
        }
    }

    /// Sets one register to zero, as the creation of its queue does; nothing happens when the page has no
    /// such register.
    pub fn reset_one(&self, index: usize) {
        if let Some(register) = self.registers().get(index) {
            register.store(0, Ordering::Release);
        }
    }
}

/// A piece of a device's registers that is mapped into this process.
pub(crate) struct MappedRegisters {
    base: NonNull<u8>,
    len: usize,
    mapping: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the mapping is not tied to a thread, and all access goes through volatile 32-bit loads and stores
// of device registers, which the device itself serialises. No reference to the memory is ever handed out.
unsafe impl Send for MappedRegisters {}
// SAFETY: as above; there is no state on this side that two threads could see half-changed.
unsafe impl Sync for MappedRegisters {}

impl MappedRegisters {
    /// Registers from `base` on, `len` bytes of them.
    ///
    /// # Safety
    /// `base` is aligned to 4 bytes, `base..base + len` stays mapped readable and writable for as long as
    /// `mapping` lives, and no Rust reference to that memory exists, now or later.
    pub(crate) unsafe fn new(base: NonNull<u8>, len: usize, mapping: Arc<dyn Any + Send + Sync>) -> Self {
        Self { base, len, mapping }
    }

    /// Reads a register; `None` when it is not (wholly, aligned) in this piece.
    pub(crate) fn read32(&self, offset: usize) -> Option<u32> {
        let register = self.register(offset)?;
        // SAFETY: `register` checked bounds and alignment; `mapping` keeps the memory mapped while `self`
        // lives.
        Some(u32::from_le(unsafe { register.as_ref() }.read()))
    }

    /// Writes a register; `None` when it is not (wholly, aligned) in this piece.
    pub(crate) fn write32(&self, offset: usize, value: u32) -> Option<()> {
        let register = self.register(offset)?;
        // SAFETY: `register` checked bounds and alignment; `mapping` keeps the memory mapped while `self`
        // lives. What a register does when it is written concerns the device; its reach into this process is
        // bounded by the IOMMU.
        unsafe { register.as_ref().write(value.to_le()) }
        Some(())
    }

    /// The doorbell at `offset`; `None` when it is not (wholly, aligned) in this piece.
    pub(crate) fn doorbell(&self, offset: usize) -> Option<Doorbell> {
        let register = self.register(offset)?;
        Some(Doorbell { target: Target::Register { register, _mapping: Arc::clone(&self.mapping) } })
    }

    fn register(&self, offset: usize) -> Option<NonNull<RW<u32>>> {
        let end = offset.checked_add(REGISTER_LEN)?;
        if end > self.len || !offset.is_multiple_of(REGISTER_LEN) {
            return None;
        }
        // SAFETY: `offset` is below `len`, so the sum stays inside the mapping.
        Some(unsafe { self.base.add(offset) }.cast())
    }
}

impl fmt::Debug for MappedRegisters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedRegisters").field("base", &self.base).field("len", &self.len).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Eight registers of memory standing for a BAR, kept alive as a mapping is.
    fn registers() -> (MappedRegisters, Arc<DoorbellPage>) {
        let page = DoorbellPage::new(8);
        let base = NonNull::from(&page.registers()[0]).cast::<u8>();
        // SAFETY: the page is alive as long as the Arc that is passed along; its atomics permit writes from
        // elsewhere.
        let mapped = unsafe { MappedRegisters::new(base, 32, page.clone()) };
        (mapped, page)
    }

    #[test]
    fn a_doorbell_in_memory_shows_the_device_what_was_written() {
        let page = DoorbellPage::new(4);
        let doorbell = Doorbell::in_memory(page.clone(), 3).expect("the page has 4 registers");
        doorbell.write(17);
        assert_eq!(page.load(3), Some(17));
        assert_eq!(page.load(2), Some(0));
        page.reset();
        assert_eq!(page.load(3), Some(0));
    }

    #[test]
    fn a_doorbell_beyond_the_page_does_not_exist() {
        let page = DoorbellPage::new(4);
        assert!(Doorbell::in_memory(page.clone(), 4).is_none());
        assert_eq!(page.load(4), None);
    }

    #[test]
    fn mapped_registers_are_read_and_written_in_place() {
        let (mapped, page) = registers();
        assert_eq!(mapped.write32(8, 0xdead_beef), Some(()));
        assert_eq!(page.load(2), Some(0xdead_beef));
        assert_eq!(mapped.read32(8), Some(0xdead_beef));
    }

    #[test]
    fn registers_outside_or_across_the_end_of_a_mapping_are_refused() {
        let (mapped, _page) = registers();
        for offset in [32, 30, 29, 2, usize::MAX, usize::MAX - 3] {
            assert_eq!(mapped.read32(offset), None, "offset {offset}");
            assert_eq!(mapped.write32(offset, 0), None, "offset {offset}");
            assert!(mapped.doorbell(offset).is_none(), "offset {offset}");
        }
        assert!(mapped.read32(28).is_some());
    }

    #[test]
    fn a_doorbell_outlives_the_registers_it_came_from() {
        let (mapped, page) = registers();
        let doorbell = mapped.doorbell(4).expect("inside");
        drop(mapped);
        doorbell.write(5);
        assert_eq!(page.load(1), Some(5));
    }
}
