//! The rings of a queue pair and its PRP lists: the only places where the driver writes memory that a device reads
//! at the same time, and reads memory that a device writes at the same time.
#![allow(unsafe_code)] // Such memory is reached through raw pointers with volatile and atomic accesses, here alone.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{self, AtomicU32, Ordering};

use gangway_spec::{CompletionQueueEntry, SubmissionQueueEntry};
use zerocopy::little_endian::U64;

use crate::dma::{Direction, DmaDomain, DmaError, DmaRegion, PAGE_SIZE};
use crate::prp::{ENTRIES_PER_PAGE, ListPages};

/// Everything the CPU wrote to rings, lists and data before this is seen by a device that sees a doorbell written
/// after it.
///
/// On x86-64 stores leave in program order, so that only the compiler must be kept from moving them. Elsewhere the
/// store to the doorbell, which is device memory, must wait for the stores to ordinary memory.
#[inline]
pub(super) fn publish() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier has no operands and no effect but order.
    unsafe {
        std::arch::asm!("dsb st", options(nostack, preserves_flags));
    }
    #[cfg(target_arch = "x86_64")]
    atomic::fence(Ordering::Release);
    #[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
    atomic::fence(Ordering::SeqCst);
}

/// What a device wrote before the completion entry that was just read, is read after it: the rest of the entry, and
/// the data.
///
/// x86-64 keeps loads in order. On aarch64 the acquiring load, and every fence of the language, order within the inner
/// shareable domain only; a device may be outside of it.
#[inline]
fn observe() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier has no operands and no effect but order.
    unsafe {
        std::arch::asm!("dmb oshld", options(nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
    atomic::fence(Ordering::SeqCst);
}

/// The memory of a submission queue.
pub(super) struct SubmissionRing {
    region: Arc<DmaRegion>,
    base: NonNull<[u64; 8]>,
    entries: u16,
}

// SAFETY: the pointer is into the region it keeps alive, which is not tied to a thread; there is one owner.
unsafe impl Send for SubmissionRing {}

impl SubmissionRing {
    /// Bytes that the ring takes, in whole pages.
    pub(super) fn bytes(entries: u16) -> usize {
        (usize::from(entries) * size_of::<SubmissionQueueEntry>()).next_multiple_of(PAGE_SIZE)
    }

    /// A ring in the first bytes of `region`.
    pub(super) fn new(region: &Arc<DmaRegion>, entries: u16) -> Self {
        let base = region.pointer(0, Self::bytes(entries)).cast();
        Self { region: Arc::clone(region), base, entries }
    }

    pub(super) fn iova(&self) -> u64 {
        self.region.iova()
    }

    pub(super) fn region(&self) -> &Arc<DmaRegion> {
        &self.region
    }

    /// Writes an entry. The device does not look at it before the doorbell was rung for it.
    #[inline]
    pub(super) fn write(&mut self, index: u16, entry: [U64; 8]) {
        assert!(index < self.entries);
        // SAFETY: index < entries, whose 64 bytes each were checked to be inside the region; page-aligned base.
        let words = unsafe { self.base.add(usize::from(index)) }.cast::<u64>();
        for (at, word) in entry.into_iter().enumerate() {
            // SAFETY: one of the 8 words of the entry.
            unsafe { words.add(at).write_volatile(word.get().to_le()) }
        }
    }
}

/// The memory of a completion queue.
pub(super) struct CompletionRing {
    region: Arc<DmaRegion>,
    base: NonNull<u32>,
    entries: u16,
}

// SAFETY: as for the submission ring.
unsafe impl Send for CompletionRing {}

impl CompletionRing {
    /// A ring of its own region, all zeroes: no entry has the phase of the first round.
    pub(super) fn new(domain: &DmaDomain, entries: u16) -> Result<Self, DmaError> {
        let bytes = usize::from(entries) * size_of::<CompletionQueueEntry>();
        let region = Arc::new(domain.allocate(bytes, Direction::DeviceWrites)?);
        let base = region.pointer(0, bytes).cast();
        Ok(Self { region, base, entries })
    }

    pub(super) fn iova(&self) -> u64 {
        self.region.iova()
    }

    pub(super) fn region(&self) -> &Arc<DmaRegion> {
        &self.region
    }

    /// The entry at `index`, if the device wrote it in the round of `phase`.
    #[inline]
    pub(super) fn read(&self, index: u16, phase: bool) -> Option<CompletionQueueEntry> {
        assert!(index < self.entries);
        // SAFETY: index < entries, whose 16 bytes each were checked to be inside the region; page-aligned base. The
        // device may be writing: the last word is only accessed atomically, the others volatile.
        let words = unsafe {
            let entry = self.base.add(usize::from(index) * 4);
            // The device writes the word with the phase last, or all at once (NVMe Base 2.0, 3.3.3.2). What belongs
            // to it, and the data of the command, must not be read before it.
            let last = AtomicU32::from_ptr(entry.add(3).as_ptr()).load(Ordering::Acquire);
            if (u32::from_le(last) >> 16) & 1 != u32::from(phase) {
                return None;
            }
            observe();
            [entry.read_volatile(), entry.add(1).read_volatile(), entry.add(2).read_volatile(), last]
        };
        Some(zerocopy::transmute!(words))
    }
}

/// PRP list pages: the same number for each slot of the queue pair.
pub(super) struct PrpLists {
    region: Arc<DmaRegion>,
    base: NonNull<u64>,
    offset: usize,
    pages_per_slot: usize,
    slots: usize,
    poison: u64,
}

// SAFETY: as for the submission ring.
unsafe impl Send for PrpLists {}

impl PrpLists {
    /// Bytes that the lists of all slots take.
    pub(super) fn bytes(slots: usize, pages_per_slot: usize) -> usize {
        slots * pages_per_slot * PAGE_SIZE
    }

    /// Lists in `region` from `offset` (a multiple of the page size) on, all poison.
    pub(super) fn new(
        region: &Arc<DmaRegion>,
        offset: usize,
        slots: usize,
        pages_per_slot: usize,
        poison: u64,
    ) -> Self {
        assert!(offset.is_multiple_of(PAGE_SIZE));
        let base = region.pointer(offset, Self::bytes(slots, pages_per_slot)).cast();
        let mut lists = Self { region: Arc::clone(region), base, offset, pages_per_slot, slots, poison };
        for slot in 0..slots {
            lists.slot(slot).poison(0..pages_per_slot * ENTRIES_PER_PAGE);
        }
        lists
    }

    pub(super) fn poison(&self) -> u64 {
        self.poison
    }

    /// The pages of one slot. No command of the slot may be outstanding.
    #[inline]
    pub(super) fn slot(&mut self, slot: usize) -> SlotList<'_> {
        assert!(slot < self.slots);
        SlotList { lists: self, slot }
    }
}

/// The PRP list pages of one slot.
pub(super) struct SlotList<'a> {
    lists: &'a mut PrpLists,
    slot: usize,
}

impl SlotList<'_> {
    /// Overwrites entries with the poison address.
    pub(super) fn poison(&mut self, entries: std::ops::Range<usize>) {
        let poison = self.lists.poison;
        entries.for_each(|index| self.set(index, poison));
    }
}

impl ListPages for SlotList<'_> {
    fn pages(&self) -> usize {
        self.lists.pages_per_slot
    }

    fn page_iova(&self, page: usize) -> u64 {
        let page = self.slot * self.lists.pages_per_slot + page;
        self.lists.region.iova() + (self.lists.offset + page * PAGE_SIZE) as u64
    }

    #[inline]
    fn set(&mut self, index: usize, value: u64) {
        assert!(index < self.lists.pages_per_slot * ENTRIES_PER_PAGE);
        let index = self.slot * self.lists.pages_per_slot * ENTRIES_PER_PAGE + index;
        // SAFETY: slot and index were checked against what was checked to be inside the region; page-aligned base.
        unsafe { self.lists.base.add(index).write_volatile(value.to_le()) }
    }
}
