//! What tells a pool of buffers that were dropped, on whatever thread.

use crate::sync::{AtomicBool, AtomicU8, Ordering};

/// Per smallest block of a region: whether a buffer that began there was dropped, and of which order it was.
#[derive(Debug)]
pub(crate) struct Marks {
    /// 0, or the order + 1.
    marks: Box<[AtomicU8]>,
    any: AtomicBool,
}

impl Marks {
    pub(crate) fn new(blocks: usize) -> Self {
        Self { marks: (0..blocks).map(|_| AtomicU8::new(0)).collect(), any: AtomicBool::new(false) }
    }

    /// Notes that a buffer was dropped. Nothing happens where there is no such block.
    pub(crate) fn note(&self, block: usize, order: u8) {
        if let Some(mark) = self.marks.get(block) {
            mark.store(order + 1, Ordering::Release);
            // Not a plain store: that would take the place of another thread's, whose mark could then be overlooked.
            self.any.swap(true, Ordering::Release);
        }
    }

    /// Calls `found(block, order)` for each buffer that was dropped since the last call. What its holder did with its
    /// bytes has happened by then.
    pub(crate) fn collect(&self, mut found: impl FnMut(usize, u8)) {
        if !self.any.load(Ordering::Relaxed) || !self.any.swap(false, Ordering::Acquire) {
            return;
        }
        for (block, mark) in self.marks.iter().enumerate() {
            if mark.load(Ordering::Relaxed) != 0 {
                found(block, mark.swap(0, Ordering::Acquire) - 1);
            }
        }
    }
}
