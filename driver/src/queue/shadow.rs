//! Shadow doorbells: doorbells in memory, for controllers to which a register write is expensive because software
//! stands behind it (Doorbell Buffer Config; NVMe Base 2.0, 5.8 and annex B.5).
//!
//! The driver writes a tail or head to its shadow, and to the register only when it passes the event index, which the
//! controller keeps beside it: the value up to which it looks at the shadow by itself. Both sides write first and then
//! look, with a full barrier between, so that one of them sees the other.
#![allow(unsafe_code)] // Memory that a device reads and writes at the same time: raw pointers and atomics, here alone.

use std::ptr::NonNull;
use std::sync::Arc;

use super::event_index::tell;
use crate::dma::{Direction, DmaDomain, DmaError, DmaRegion, PAGE_SIZE};
use crate::mmio::Doorbell;
use crate::sync::{AtomicU32, Ordering};

/// The two pages that a controller was given: doorbells, and event indexes. They stay mapped while anybody holds this.
#[derive(Clone)]
pub(crate) struct ShadowDoorbells(Arc<Pages>);

struct Pages {
    region: DmaRegion,
    base: NonNull<u32>,
    /// CAP.DSTRD: the pages are laid out as the registers are.
    stride: u8,
}

// SAFETY: the pointer is into the region that stands beside it, which is not tied to a thread.
unsafe impl Send for Pages {}
// SAFETY: all access goes through atomics.
unsafe impl Sync for Pages {}

/// 32-bit words of a page.
const WORDS: usize = PAGE_SIZE / size_of::<u32>();

impl ShadowDoorbells {
    /// Pages for queue pairs 0 to `highest_qid`, all zeroes; `None` when the doorbells of so many do not fit a page.
    pub(crate) fn new(domain: &DmaDomain, stride: u8, highest_qid: u16) -> Result<Option<Self>, DmaError> {
        if place(2 * usize::from(highest_qid) + 1, stride) >= WORDS {
            return Ok(None);
        }
        // The controller only needs to read the doorbells, and to write the event indexes. Some write both.
        let region = domain.allocate(2 * PAGE_SIZE, Direction::Bidirectional)?;
        let base = region.pointer(0, 2 * PAGE_SIZE).cast();
        Ok(Some(Self(Arc::new(Pages { region, base, stride }))))
    }

    /// I/O virtual addresses of the doorbells and of the event indexes.
    pub(crate) fn addresses(&self) -> (u64, u64) {
        let iova = self.0.region.iova();
        (iova, iova + PAGE_SIZE as u64)
    }

    /// The shadow of a queue's doorbell, set to `value`. What the last queue of that identifier left there is gone.
    fn of(&self, doorbell: usize, value: u16, always: bool) -> Shadow {
        let index = place(doorbell, self.0.stride);
        assert!(index < WORDS, "queue pairs beyond the pages were never promised");
        let shadow = Shadow { pages: self.clone(), index, always };
        shadow.event().store(0, Ordering::Relaxed);
        shadow.doorbell().store(u32::from(value).to_le(), Ordering::Release);
        shadow
    }
}

/// Word of a page at which a doorbell stands: submission queue tails are even, completion queue heads odd.
const fn place(doorbell: usize, stride: u8) -> usize {
    doorbell << (stride & 0xf)
}

/// One doorbell in memory.
struct Shadow {
    pages: ShadowDoorbells,
    index: usize,
    /// Whether the register is written each time.
    always: bool,
}

impl Shadow {
    fn doorbell(&self) -> &AtomicU32 {
        // SAFETY: inside the first page, checked when this was made; aligned; only ever accessed by atomics here.
        unsafe { AtomicU32::from_ptr(self.pages.0.base.add(self.index).as_ptr()) }
    }

    fn event(&self) -> &AtomicU32 {
        // SAFETY: inside the second page, checked when this was made; as above.
        unsafe { AtomicU32::from_ptr(self.pages.0.base.add(WORDS + self.index).as_ptr()) }
    }

    /// Changes the doorbell from `old` to `new`. Says whether the register is to be written too.
    #[inline]
    fn tell(&self, old: u16, new: u16) -> bool {
        tell(self.doorbell(), self.event(), old, new) || self.always
    }
}

/// A doorbell of a queue pair: its register, and its shadow if the controller has one.
pub(super) struct Bell {
    register: Doorbell,
    shadow: Option<Shadow>,
    /// What the controller was last told.
    told: u16,
}

impl Bell {
    pub(super) fn new(register: Doorbell) -> Self {
        Self { register, shadow: None, told: 0 }
    }

    /// Gives a doorbell its shadow, with what was told so far in it. `always`: the register is written as well.
    pub(super) fn set_shadow(&mut self, shadow: &ShadowDoorbells, doorbell: usize, always: bool) {
        self.shadow = Some(shadow.of(doorbell, self.told, always));
    }

    pub(super) fn remove_shadow(&mut self) {
        self.shadow = None;
    }

    /// The pages that the shadow is in.
    pub(super) fn pages(&self) -> Option<ShadowDoorbells> {
        self.shadow.as_ref().map(|shadow| shadow.pages.clone())
    }

    /// Tells the controller of a new tail or head, which differs from the last one.
    #[inline]
    pub(super) fn ring(&mut self, value: u16) {
        let old = std::mem::replace(&mut self.told, value);
        if self.shadow.as_ref().is_none_or(|shadow| shadow.tell(old, value)) {
            self.register.write(u32::from(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::queue::event_index::needs_event;

    /// The values that a doorbell goes through on its way, one by one.
    fn passes(event: u16, old: u16, new: u16, entries: u16) -> bool {
        let mut at = old;
        while at != new {
            if at == event {
                return true;
            }
            at = (at + 1) % entries;
        }
        false
    }

    proptest! {
        #[test]
        fn the_register_is_written_exactly_when_the_event_index_is_passed(
            entries in 2u16..1025, event: u16, old: u16, step: u16,
        ) {
            let (event, old) = (event % entries, old % entries);
            let new = (old + 1 + step % (entries - 1)) % entries;
            prop_assert_eq!(needs_event(event, old, new), passes(event, old, new, entries));
        }
    }

    #[test]
    fn shadows_are_laid_out_as_the_registers_are() {
        let domain = DmaDomain::new();
        for (stride, highest) in [(0, 511), (1, 255), (4, 31), (9, 0)] {
            let pages = ShadowDoorbells::new(&domain, stride, highest).unwrap().expect("they fit");
            let (doorbells, events) = pages.addresses();
            assert_eq!(events, doorbells + 4096);
            let last = pages.of(2 * usize::from(highest) + 1, 7, false);
            assert_eq!(last.index * 4, (2 * usize::from(highest) + 1) * (4 << stride));
            assert!(ShadowDoorbells::new(&domain, stride, highest + 1).unwrap().is_none(), "{stride}");
        }
    }
}
