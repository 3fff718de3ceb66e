//! The two sides of a doorbell in memory: who rings, and who looks.
#![allow(unsafe_code)] // One instruction that Rust has no name for.

use crate::sync::{AtomicU32, Ordering, fence};

/// Changes a doorbell in memory from `old` to `new`. Says whether the other side has stopped looking, and is to be told
/// by its register.
#[inline]
pub(crate) fn tell(doorbell: &AtomicU32, event: &AtomicU32, old: u16, new: u16) -> bool {
    doorbell.store(u32::from(new).to_le(), Ordering::Release);
    settle();
    needs_event(u32::from_le(event.load(Ordering::Acquire)) as u16, old, new)
}

/// The store before it is seen by the device before the load after it is done: else a device that goes to sleep at
/// this moment does not see the new value, and its event index is not seen here.
#[inline]
fn settle() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier has no operands and no effect but order.
    unsafe {
        std::arch::asm!("dsb sy", options(nostack, preserves_flags));
    }
    fence(Ordering::SeqCst);
}

/// Whether a change from `old` to `new` passes the event index: the device has stopped looking at `event`, which is
/// one of the values from `old` up to, but not including, `new`.
///
/// Indexes go round at the queue's size; a round trip of 16 bits on the way changes nothing in which lies between.
#[inline]
pub(crate) const fn needs_event(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
