//! What crosses threads in the driver, in every order in which threads can go on and see each other's memory (loom).
//!
//! The files that hold it are compiled here a second time, with loom's atomics in place of those of the standard
//! library: `cargo test -p gangway-driver --test interleavings`.

mod sync {
    pub(crate) use loom::sync::atomic::{
        AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
}

#[path = "../src/areas.rs"]
mod areas;
#[path = "../src/queue/event_index.rs"]
mod event_index;
#[path = "../src/dma/marks.rs"]
mod marks;
#[path = "../src/controller/signals.rs"]
mod signals;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use self::sync::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};

/// Memory that one thread has at a time. Loom fails when two touch it and nothing orders them.
struct Bytes(UnsafeCell<u32>);

// SAFETY: loom itself watches over who touches it, which is what these tests are for.
#[allow(unsafe_code)]
unsafe impl Sync for Bytes {}

impl Bytes {
    fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    fn set(&self, value: u32) {
        // SAFETY: as above.
        #[allow(unsafe_code)]
        self.0.with_mut(|bytes| unsafe { *bytes = value });
    }

    fn get(&self) -> u32 {
        // SAFETY: as above.
        #[allow(unsafe_code)]
        self.0.with(|bytes| unsafe { *bytes })
    }
}

#[test]
fn no_buffer_that_is_dropped_on_another_thread_is_overlooked_and_what_was_in_it_is_seen() {
    loom::model(|| {
        let shared = Arc::new((marks::Marks::new(2), [Bytes::new(), Bytes::new()]));
        let threads: Vec<_> = (0..2)
            .map(|block| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    shared.1[block].set(block as u32 + 1);
                    shared.0.note(block, block as u8);
                })
            })
            .collect();
        let mut found = Vec::new();
        let mut collect = || {
            shared.0.collect(|block, order| {
                assert_eq!((usize::from(order), shared.1[block].get()), (block, block as u32 + 1));
                // Whoever takes the buffer next writes to it.
                shared.1[block].set(0);
                found.push(block);
            });
        };
        collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        collect();
        found.sort_unstable();
        assert_eq!(found, [0, 1], "each of them, once");
    });
}

#[test]
fn a_handler_finds_the_area_of_its_address_while_other_areas_come_and_go() {
    loom::model(|| {
        let slot = || areas::Slot {
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            gone: AtomicBool::new(false),
        };
        let slots = Arc::new([slot(), slot()]);
        // The first slot is taken again and again, for areas on both sides of the one that faults.
        assert_eq!(areas::take(&slots[..], 10, 20), Some(0));
        assert_eq!(areas::take(&slots[..], 50, 60), Some(1));
        let others = Arc::clone(&slots);
        let thread = thread::spawn(move || {
            areas::release(&others[0]);
            assert_eq!(areas::take(&others[..], 70, 80), Some(0));
            areas::release(&others[0]);
            assert_eq!(areas::take(&others[..], 30, 40), Some(0));
        });
        let slot = areas::find(&slots[..], 55).expect("it stays where it is");
        slot.gone.store(true, Ordering::Release);
        assert!(slots[1].gone.load(Ordering::Acquire));
        assert!(areas::find(&slots[..], 65).is_none(), "an address of nobody");
        thread.join().unwrap();
        assert!(!slots[0].gone.load(Ordering::Acquire));
    });
}

#[test]
fn a_device_that_goes_to_sleep_while_a_doorbell_is_rung_in_memory_sees_it_or_is_told() {
    // The device looks at this index by itself no more.
    const AWAKE: u32 = 7;
    loom::model(|| {
        let shared = Arc::new((AtomicU32::new(0), AtomicU32::new(AWAKE), Bytes::new()));
        let device = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let (doorbell, event, entry) = &*device;
            event.store(0, Ordering::Release);
            fence(Ordering::SeqCst);
            let seen = doorbell.load(Ordering::Acquire);
            if seen == 1 {
                assert_eq!(entry.get(), 0xfeed, "the entry is there before the doorbell");
            }
            seen == 1
        });
        let (doorbell, event, entry) = &*shared;
        entry.set(0xfeed);
        let told = event_index::tell(doorbell, event, 0, 1);
        let seen = thread.join().unwrap();
        assert!(told || seen, "it sleeps, and nobody wakes it");
    });
}

#[test]
fn who_knows_that_the_next_run_began_knows_that_this_one_ended() {
    loom::model(|| {
        let shared = Arc::new((signals::Signals::new(), AtomicBool::new(false), Bytes::new()));
        let manager = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let (run, next, reason) = &*manager;
            reason.set(1);
            run.be_patient(3);
            run.end();
            next.store(true, Ordering::Release);
        });
        let (run, next, reason) = &*shared;
        run.be_patient(5);
        // A reactor that still has a queue pair of the old run, and was given one of the next.
        if next.load(Ordering::Acquire) {
            assert!(!run.is_on(), "it would ring the doorbells of the next run");
        }
        if !run.is_on() {
            assert_eq!((reason.get(), run.patience()), (1, 5));
        }
        thread.join().unwrap();
        assert_eq!(run.patience(), 5, "the longer patience counts");
        run.be_patient_only(2);
        assert_eq!(run.patience(), 2, "until it is withdrawn");
    });
}
