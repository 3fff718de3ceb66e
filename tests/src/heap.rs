//! What is allocated, exactly: the memory that a process has in RAM also holds gaps between what it uses.

#![allow(unsafe_code)] // An allocator is unsafe by nature; this one only counts what the system's does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicIsize, Ordering};

static BYTES: AtomicIsize = AtomicIsize::new(0);
static PIECES: AtomicIsize = AtomicIsize::new(0);

/// The system's allocator with a count, for a program to have as its `#[global_allocator]`.
pub struct Counting;

fn note(bytes: isize, pieces: isize) {
    BYTES.fetch_add(bytes, Ordering::Relaxed);
    PIECES.fetch_add(pieces, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize, 1);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize, 1);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size as isize - layout.size() as isize, 0);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(-(layout.size() as isize), -1);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What is allocated at a moment. As text: both numbers, with a space between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocated {
    /// Bytes that were asked for.
    pub bytes: isize,
    /// Pieces that they are in.
    pub pieces: isize,
}

impl Allocated {
    /// What this process has now. Nothing, unless its allocator is [`Counting`].
    #[must_use]
    pub fn now() -> Self {
        Self { bytes: BYTES.load(Ordering::Relaxed), pieces: PIECES.load(Ordering::Relaxed) }
    }
}

impl fmt::Display for Allocated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.bytes, self.pieces)
    }
}

impl FromStr for Allocated {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<isize>().map_err(|error| format!("{text:?}: {error}"));
        let (bytes, pieces) = text.trim().split_once(' ').ok_or_else(|| format!("{text:?}: one number"))?;
        Ok(Self { bytes: number(bytes)?, pieces: number(pieces)? })
    }
}
