//! Areas of addresses that a signal handler looks up while others come and go.

use crate::sync::{AtomicBool, AtomicUsize, Ordering};

/// A place for an area. A handler reads it at any moment, so each part is atomic.
pub(crate) struct Slot {
    /// Address of the first byte; 0 = the slot is free.
    pub(crate) start: AtomicUsize,
    /// Address behind the last byte. Written before `start`.
    pub(crate) end: AtomicUsize,
    /// Whether an access to the area has failed.
    pub(crate) gone: AtomicBool,
}

/// Puts the area from `start` to `end` into a free slot and gives its index. One thread at a time.
pub(crate) fn take(slots: &[Slot], start: usize, end: usize) -> Option<usize> {
    let index = slots.iter().position(|slot| slot.start.load(Ordering::Relaxed) == 0)?;
    slots[index].gone.store(false, Ordering::Relaxed);
    slots[index].end.store(end, Ordering::Relaxed);
    slots[index].start.store(start, Ordering::SeqCst);
    Some(index)
}

/// Frees a slot.
pub(crate) fn release(slot: &Slot) {
    slot.start.store(0, Ordering::SeqCst);
}

/// The slot whose area contains `address`. Never waits.
pub(crate) fn find(slots: &[Slot], address: usize) -> Option<&Slot> {
    slots.iter().find(|slot| {
        let start = slot.start.load(Ordering::SeqCst);
        let end = slot.end.load(Ordering::SeqCst);
        // Read again: had the slot changed hands between the two loads, `end` would belong to another area.
        // The area that faults keeps its slot, since whoever accesses it keeps it mapped.
        start != 0 && start <= address && address < end && slot.start.load(Ordering::SeqCst) == start
    })
}
