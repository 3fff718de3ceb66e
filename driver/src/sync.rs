//! The atomics of what crosses threads. The files that take them from here are compiled a second time by
//! `tests/interleavings.rs`, with those of loom, which tries every order in which threads can go on.

pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
