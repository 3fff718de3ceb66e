//! A reactor allocates nothing for the commands of connections that are in use, whatever their shape.

#![allow(unsafe_code)] // An allocator is unsafe by nature; this one only counts what the system's does.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use gangway_bridge::{Limits, Poll, ReactorConfig};
use gangway_fabric::host::client::{AdminQueue, IoQueue, Options, Transfer};
use gangway_spec::opcode::nvm;
use gangway_tests::meeting::Meeting;
use gangway_tests::{Setup, TestTarget, command, pattern};

/// Whether allocations count now.
static COUNTING: AtomicBool = AtomicBool::new(false);
/// Allocations of reactors while they counted.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// Where the first of them was made.
static FIRST: Mutex<Option<Backtrace>> = Mutex::new(None);

thread_local! {
    /// Whether this thread is a reactor, once that is known.
    static REACTOR: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Whether this thread is a reactor: they are known by their names.
fn is_reactor() -> bool {
    REACTOR.with(|known| {
        known.get().unwrap_or_else(|| {
            // What finding that out allocates is not asked about.
            known.set(Some(false));
            let reactor = std::thread::current().name().is_some_and(|name| name.starts_with("reactor-"));
            known.set(Some(reactor));
            reactor
        })
    })
}

fn note() {
    if !COUNTING.load(Ordering::Relaxed) || !is_reactor() {
        return;
    }
    if ALLOCATIONS.fetch_add(1, Ordering::Relaxed) == 0 {
        REACTOR.set(Some(false));
        *FIRST.lock().unwrap() = Some(Backtrace::force_capture());
        REACTOR.set(Some(true));
    }
}

struct Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time: what reactors of another one allocate must not count.
static TURN: Mutex<()> = Mutex::new(());

/// What reactors allocate while `work` is done, and where they begin with it.
fn allocations(work: impl FnOnce()) -> (u64, String) {
    ALLOCATIONS.store(0, Ordering::SeqCst);
    COUNTING.store(true, Ordering::SeqCst);
    work();
    COUNTING.store(false, Ordering::SeqCst);
    let first = FIRST.lock().unwrap().take();
    (ALLOCATIONS.load(Ordering::SeqCst), first.map_or(String::new(), |place| place.to_string()))
}

/// Queues of one host in the test.
const QUEUES: u16 = 2;
/// Blocks of the drive that each queue has to itself.
const BLOCKS: u64 = 4096;
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes and reads `count` times `blocks` blocks, `depth` commands at a time, and checks what is read.
fn load(queue: &mut IoQueue, first: u64, blocks: u32, depth: usize, count: u64) {
    let bytes = blocks as usize * 4096;
    let places = BLOCKS / u64::from(blocks);
    let data: Vec<_> = (0..places).map(|place| pattern(first + place, 1, bytes)).collect();
    for writes in [true, false] {
        let mut started = 0;
        let mut waiting = std::collections::HashMap::new();
        while started < count || !waiting.is_empty() {
            while started < count && waiting.len() < depth {
                let place = started % places;
                let lba = first + place * u64::from(blocks);
                let (opcode, transfer) = if writes {
                    (nvm::WRITE, Transfer::Write(data[place as usize].as_slice().into()))
                } else {
                    (nvm::READ, Transfer::Read(bytes as u32))
                };
                let tag = queue.submit(&command(opcode, lba, blocks), transfer).unwrap();
                waiting.insert(tag, place);
                started += 1;
            }
            let completed = queue.wait(PATIENCE).unwrap().expect("a completion in time");
            assert!(completed.entry.status().is_success(), "{}", completed.entry.status());
            let place = waiting.remove(&completed.tag).expect("a command that is outstanding") as usize;
            // What was not written yet is not compared.
            let written = (place as u64) < count;
            assert!(writes || !written || completed.data == data[place], "the data at {place} differs");
        }
    }
}

/// All shapes of load on one queue, `scale` times as much as the least.
fn all_shapes(queue: &mut IoQueue, first: u64, scale: u64) {
    for depth in [1, 32, 128] {
        load(queue, first, 1, depth, 250 * scale);
        load(queue, first, 32, depth, 40 * scale);
    }
}

/// Connects two hosts with two queues each, and asserts that no reactor allocates anything for their commands after
/// these have been there once.
fn nothing_is_allocated(options: &Options, setup: Setup) {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let target = TestTarget::with(setup);
    let options = Options { queue_size: 129, ..options.clone() };
    let mut hosts: Vec<AdminQueue> = Vec::new();
    let mut queues: Vec<IoQueue> = Vec::new();
    let (connecting, _) = allocations(|| {
        hosts = (1..=2).map(|number| target.host_with(number, 0, &options)).collect();
        for host in &mut hosts {
            queues.extend((1..=QUEUES).map(|qid| host.connect_io(qid).unwrap()));
        }
    });
    assert!(connecting > 0, "reactors set memory aside for connections, and that counts");

    // The test itself is one of those that wait.
    let meeting = Meeting::of(queues.len() + 1);
    std::thread::scope(|scope| {
        let meeting = &meeting;
        let member = meeting.join();
        for (index, mut queue) in (0_u64..).zip(queues) {
            scope.spawn(move || {
                let member = meeting.join();
                let first = index * BLOCKS;
                all_shapes(&mut queue, first, 1);
                member.wait();
                member.wait();
                all_shapes(&mut queue, first, 4);
                member.wait();
            });
        }
        member.wait();
        let (count, place) = allocations(|| {
            member.wait();
            member.wait();
        });
        assert_eq!(count, 0, "reactors allocated, first here:\n{place}");
    });
    target.assert_no_violations();
}

/// A target with memory for all that the test has on the way at a time.
fn plenty() -> Setup {
    let memory = ReactorConfig { data_memory: 64 << 20, ..ReactorConfig::default() };
    Setup { reactors: 2, memory, ..Setup::default() }
}

#[test]
fn no_command_allocates() {
    for in_capsule in [true, false] {
        nothing_is_allocated(&Options { in_capsule, ..Options::default() }, plenty());
    }
}

#[test]
fn no_command_with_digests_allocates() {
    let digests = Options { header_digest: true, data_digest: true, ..Options::default() };
    for (in_capsule, flow_control, hpda) in [(true, false, 0), (false, true, 31)] {
        nothing_is_allocated(&Options { in_capsule, flow_control, hpda, ..digests.clone() }, plenty());
    }
}

#[test]
fn no_command_allocates_that_waits_for_memory() {
    // A fiftieth of what hosts ask for at a time.
    let memory = ReactorConfig { data_memory: 1 << 20, ..ReactorConfig::default() };
    let setup = Setup { memory, ..Setup::default() };
    nothing_is_allocated(&Options { in_capsule: false, ..Options::default() }, setup);
}

#[test]
fn no_command_allocates_that_waits_for_a_limit() {
    let mut limits = Limits::default();
    for rule in ["host=iops=20k,burst=5ms", "namespace=iops=30k,burst=5ms"] {
        let (subject, limit) = Limits::parse_rule(rule).unwrap();
        limits.set(subject, limit);
    }
    // With little memory data in capsules cannot wait: answers do.
    let little = ReactorConfig { data_memory: 1 << 20, ..ReactorConfig::default() };
    for (in_capsule, memory) in [(true, plenty().memory), (false, plenty().memory), (true, little)] {
        let setup = Setup { limits: limits.clone(), memory, ..plenty() };
        nothing_is_allocated(&Options { in_capsule, ..Options::default() }, setup);
    }
}

#[test]
fn no_command_allocates_on_a_reactor_that_never_sleeps_or_never_spins() {
    for poll in [Poll::Always, Poll::Never] {
        let memory = ReactorConfig { poll, ..plenty().memory };
        nothing_is_allocated(&Options::default(), Setup { memory, ..plenty() });
    }
}
