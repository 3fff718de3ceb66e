//! A thousand connections at a time: each has its turn, however little memory there is, and idle ones cost little.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use gangway_bridge::ReactorConfig;
use gangway_fabric::host::Tag;
use gangway_fabric::host::client::{AdminQueue, HostError, IoQueue, Options, Transfer};
use gangway_spec::opcode::nvm;
use gangway_tests::meeting::Meeting;
use gangway_tests::process::allow_files;
use gangway_tests::{Setup, TestTarget, command, eventually, identity, pattern, subsystem};

const HOSTS: u8 = 16;
/// I/O queues of each host.
const QUEUES: u16 = 64;
const CONNECTIONS: usize = HOSTS as usize * QUEUES as usize;
/// Threads of all hosts together.
const THREADS: usize = 4;

/// One crowd at a time: two would need twice as many open files.
static TURN: Mutex<()> = Mutex::new(());

/// A queue that writes and reads its own blocks, over and over.
struct Lane {
    queue: IoQueue,
    index: usize,
    waiting: HashMap<Tag, Step>,
    /// Times that all of its blocks were written and read.
    rounds: u64,
}

/// A command of a round.
#[derive(Clone, Copy)]
struct Step {
    lba: u64,
    blocks: u32,
    writes: bool,
}

impl Lane {
    /// Blocks of each queue.
    const BLOCKS: u64 = 16;
    /// Commands that write them, by their blocks: some go in a capsule, others wait for an R2T.
    const SIZES: [u32; 4] = [1, 2, 5, 8];

    fn new(queue: IoQueue, index: usize) -> Self {
        Self { queue, index, waiting: HashMap::new(), rounds: 0 }
    }

    fn submit(&mut self, writes: bool) {
        let mut lba = self.index as u64 * Self::BLOCKS;
        for blocks in Self::SIZES {
            let bytes = blocks as usize * 4096;
            let (opcode, transfer) = if writes {
                (nvm::WRITE, Transfer::Write(pattern(lba, self.rounds, bytes).into()))
            } else {
                (nvm::READ, Transfer::Read(bytes as u32))
            };
            let tag = self.queue.submit(&command(opcode, lba, blocks), transfer).unwrap();
            self.waiting.insert(tag, Step { lba, blocks, writes });
            lba += u64::from(blocks);
        }
    }

    /// Takes what has completed, checks it, and goes on with what comes next. Waits for nothing.
    fn turn(&mut self) {
        if self.waiting.is_empty() {
            self.submit(true);
        }
        while let Some(completed) = self.queue.wait(Duration::ZERO).expect("no connection is lost") {
            let step = self.waiting.remove(&completed.tag).expect("a command that is outstanding");
            let Step { lba, blocks, writes } = step;
            assert!(completed.entry.status().is_success(), "{}", completed.entry.status());
            let right = writes || completed.data == pattern(lba, self.rounds, blocks as usize * 4096);
            assert!(right, "queue {}, round {}: the data at {lba} differs", self.index, self.rounds);
            if self.waiting.is_empty() {
                self.rounds += u64::from(!writes);
                self.submit(!writes);
            }
        }
    }
}

/// Connects hosts `numbers` with all their queues.
fn connect(target: &TestTarget, numbers: std::ops::Range<u8>) -> (Vec<AdminQueue>, Vec<IoQueue>) {
    let options = Options { queue_size: 16, ..Options::default() };
    let mut admins: Vec<_> = numbers.map(|number| target.host_with(number, 0, &options)).collect();
    let connect = |admin: &mut AdminQueue| (1..=QUEUES).map(|qid| admin.connect_io(qid).unwrap()).collect();
    let queues = admins.iter_mut().flat_map(|admin| -> Vec<IoQueue> { connect(admin) }).collect();
    (admins, queues)
}

/// Connects all hosts at the same time, and keeps all connections busy until each has gone through so many rounds.
/// Asserts that each of them gets there while none of the others ever stops, and reads what it wrote. How many rounds
/// the others have by then is a matter of how this test's threads are scheduled, and not looked at.
fn each_has_its_turn(memory: ReactorConfig, rounds: u64) {
    const PATIENCE: Duration = Duration::from_secs(240);
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // Both ends of all connections are in this process.
    allow_files(2 * (CONNECTIONS as u64 + u64::from(HOSTS)) + 100);
    // Hosts that are slow because all of them share a CPU are not to be ended.
    let memory = ReactorConfig { host_timeout: Duration::from_secs(600), ..memory };
    let target = TestTarget::with(Setup { reactors: 2, memory, max_io_queues: QUEUES, ..Setup::default() });
    let done: Vec<AtomicU64> = (0..CONNECTIONS).map(|_| AtomicU64::new(0)).collect();
    let meeting = Meeting::of(THREADS);
    let each = usize::from(HOSTS) / THREADS;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (target, done, meeting) = (&target, &done, &meeting);
            scope.spawn(move || {
                let member = meeting.join();
                let first = thread * each;
                let (_admins, queues) = connect(target, first as u8 + 1..(first + each) as u8 + 1);
                let index = first * usize::from(QUEUES);
                let mut lanes: Vec<Lane> =
                    queues.into_iter().zip(index..).map(|(queue, index)| Lane::new(queue, index)).collect();
                member.wait();
                assert_eq!(target.associations(), usize::from(HOSTS));
                let begin = Instant::now();
                let slowest = || done.iter().map(|rounds| rounds.load(Ordering::Relaxed)).min().unwrap();
                while slowest() < rounds {
                    for lane in &mut lanes {
                        lane.turn();
                        done[lane.index].store(lane.rounds, Ordering::Relaxed);
                    }
                    member.check();
                    let starved = || {
                        let few = |index: &usize| done[*index].load(Ordering::Relaxed) < rounds;
                        (0..CONNECTIONS).filter(few).count()
                    };
                    assert!(begin.elapsed() < PATIENCE, "{} connections do not get on", starved());
                }
                // Nobody ends before everybody has what it takes.
                member.wait();
            });
        }
    });
    target.assert_no_violations();
    eventually("all hosts are gone", || target.associations() == 0);
}

#[test]
fn no_more_connections_are_accepted_than_are_allowed_until_others_have_gone() {
    let target = TestTarget::with(Setup { max_connections: 5, ..Setup::default() });
    let (mut first, second) = (target.host(1), target.host(2));
    let mut queues: Vec<IoQueue> = (1..=3).map(|qid| first.connect_io(qid).unwrap()).collect();
    let busy = |error: HostError| assert!(error.to_string().contains("Busy"), "{error}");
    busy(first.connect_io(4).map(drop).unwrap_err());
    let third = || AdminQueue::connect(target.address, &subsystem(0), &identity(3), &Options::default());
    busy(third().map(drop).unwrap_err());
    for queue in &mut queues {
        queue.read_blocks(1, 0, 1, 4096).expect("those who are there go on");
    }
    drop(second);
    eventually("there is room for another one", || third().is_ok());
    target.assert_no_violations();
}

#[test]
fn a_thousand_connections_at_a_time_each_read_what_they_wrote() {
    each_has_its_turn(ReactorConfig::default(), 10);
}

#[test]
fn a_thousand_connections_share_little_memory_and_each_has_its_turn() {
    // A hundredth of what they ask for at a time.
    let memory = ReactorConfig {
        data_memory: 1 << 20,
        receive_chunk: 64 << 10,
        receive_chunks: 8,
        ..ReactorConfig::default()
    };
    each_has_its_turn(memory, 3);
}
