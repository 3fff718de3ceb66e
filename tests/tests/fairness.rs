//! Hosts that share a drive: none keeps another waiting behind all that it has asked for.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use gangway_driver::emulated::EmulatedConfig;
use gangway_fabric::host::client::{AdminQueue, Transfer};
use gangway_spec::opcode::nvm;
use gangway_tests::{Setup, TestTarget, command};

const PATIENCE: Duration = Duration::from_secs(20);
/// How long the drive takes for a command, of however many at a time.
const LATENCY: Duration = Duration::from_millis(150);

fn slow_drive() -> TestTarget {
    let drive = EmulatedConfig { size: 64 << 20, latency: Some(LATENCY), ..EmulatedConfig::default() };
    TestTarget::with(Setup { drives: vec![drive], ..Setup::default() })
}

/// A host that fills all the queues it may have with reads, once.
struct Greedy {
    asked_for: usize,
    completed: Arc<AtomicUsize>,
    queues: Vec<JoinHandle<()>>,
    _admin: AdminQueue,
}

impl Greedy {
    fn start(target: &TestTarget, blocks: u32) -> Self {
        let mut admin = target.host(1);
        let completed = Arc::new(AtomicUsize::new(0));
        let mut asked_for = 0;
        let mut queues = Vec::new();
        for qid in 1..=16 {
            let mut queue = admin.connect_io(qid).unwrap();
            while !queue.is_full() {
                queue.submit(&command(nvm::READ, 0, blocks), Transfer::Read(blocks * 4096)).unwrap();
                asked_for += 1;
            }
            queue.flush().unwrap();
            let completed = Arc::clone(&completed);
            queues.push(std::thread::spawn(move || {
                while queue.in_flight() > 0 {
                    let done = queue.wait(PATIENCE).unwrap().unwrap();
                    assert!(done.entry.status().is_success());
                    completed.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        Self { asked_for, completed, queues, _admin: admin }
    }

    /// Commands that have completed by now.
    fn completed(&self) -> usize {
        self.completed.load(Ordering::Relaxed)
    }

    /// Waits until all have.
    fn finish(self) {
        for queue in self.queues {
            queue.join().unwrap();
        }
        assert_eq!(self.completed.load(Ordering::Relaxed), self.asked_for);
    }
}

/// Another host reads a block while commands of a greedy one wait for room on the drive, or for memory. At `most` so many
/// of these come first.
fn another_is_served_amid(blocks: u32, most: usize) {
    let target = slow_drive();
    let (_admin, mut queue) = target.queue(2);
    // Known as a host with commands of its own.
    queue.read_blocks(1, 0, 1, 4096).unwrap();
    let greedy = Greedy::start(&target, blocks);
    std::thread::sleep(LATENCY / 3);
    let earlier = greedy.completed();
    queue.submit(&command(nvm::READ, 9, 1), Transfer::Read(4096)).unwrap();
    let completed = queue.wait(PATIENCE).unwrap().unwrap();
    assert!(completed.entry.status().is_success());
    let before = greedy.completed() - earlier;
    assert!(before <= most, "{before} of {} commands of the greedy host came first", greedy.asked_for);
    greedy.finish();
    target.assert_no_violations();
}

#[test]
fn a_host_that_fills_the_hardware_queue_leaves_room_for_others() {
    // Four fifths of the drive's 255, twice: when the other's command comes, and when it has completed.
    another_is_served_amid(1, 2 * 204);
}

#[test]
fn a_host_that_takes_all_memory_shares_it_with_others() {
    // 64 such reads have all of the memory. Those of each connection that wait for it are 256 together.
    another_is_served_amid(32, 3 * 64);
}
