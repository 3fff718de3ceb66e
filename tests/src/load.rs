//! A load of several hosts that goes on over whatever happens to a drive, and notices what gets lost on the way.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use gangway_fabric::host::client::{AdminQueue, IoQueue, Transfer};
use gangway_spec::Status;
use gangway_spec::opcode::nvm;

use crate::{TestTarget, command, eventually, pattern};

/// Places of each host, of two blocks each.
const PLACES: u64 = 48;
/// Commands of a host at a time.
const DEPTH: usize = 16;
/// How long a host waits for an answer, whichever it is.
const PATIENCE: Duration = Duration::from_secs(60);
const BLOCKS: u32 = 2;
const BYTES: usize = BLOCKS as usize * 4096;

#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    rounds: AtomicU64,
    retries: AtomicU64,
}

/// Hosts that each write all their places anew and read them back, for ever. They do as Linux does: a command that failed
/// and may be tried again is tried again.
pub struct Load {
    hosts: Vec<(Arc<Tally>, Option<JoinHandle<()>>)>,
}

impl Load {
    /// Connects hosts 101 and following to drive 0.
    ///
    /// # Panics
    /// When one cannot connect.
    pub fn start(target: &TestTarget, hosts: u8) -> Self {
        Self::with(hosts, |number| target.queue(number))
    }

    /// The same for hosts that `connect` connects by their numbers.
    pub fn with(hosts: u8, connect: impl Fn(u8) -> (AdminQueue, IoQueue)) -> Self {
        let start = |number: u8| {
            let (mut admin, mut queue) = connect(101 + number);
            let tally = Arc::new(Tally::default());
            let mine = Arc::clone(&tally);
            let thread = std::thread::spawn(move || {
                let first = 2048 + u64::from(number) * PLACES * u64::from(BLOCKS);
                let mut round = 0;
                while !mine.stop.load(Ordering::Relaxed) {
                    round += 1;
                    for (opcode, writes) in [(nvm::WRITE, true), (nvm::READ, false)] {
                        run(&mut queue, &mine, opcode, writes, first, round);
                    }
                    admin.keep_alive().expect("the association lives");
                    mine.rounds.store(round, Ordering::Relaxed);
                }
            });
            (tally, Some(thread))
        };
        Self { hosts: (0..hosts).map(start).collect() }
    }

    /// Waits until every host has written and verified all its places anew.
    ///
    /// # Panics
    /// When one does not within 20 seconds, or failed.
    pub fn assert_goes_on(&self) {
        let rounds = |tally: &Tally| tally.rounds.load(Ordering::Relaxed);
        let before: Vec<u64> = self.hosts.iter().map(|(tally, _)| rounds(tally)).collect();
        let failed =
            || self.hosts.iter().any(|(_, thread)| thread.as_ref().is_none_or(JoinHandle::is_finished));
        eventually("all hosts go on", || {
            let on = self.hosts.iter().zip(&before).all(|((tally, _), before)| rounds(tally) > before + 1);
            on || failed()
        });
        assert!(!failed(), "a host failed");
    }

    /// Commands that had to be tried again so far, of all hosts.
    pub fn retries(&self) -> u64 {
        self.hosts.iter().map(|(tally, _)| tally.retries.load(Ordering::Relaxed)).sum()
    }

    /// Lets every host do all its work once more, and ends them.
    ///
    /// # Panics
    /// When something that a host did failed.
    pub fn finish(mut self) {
        self.assert_goes_on();
        self.hosts.iter().for_each(|(tally, _)| tally.stop.store(true, Ordering::Relaxed));
        for (_, thread) in &mut self.hosts {
            assert!(thread.take().is_none_or(|thread| thread.join().is_ok()), "a host failed");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.hosts.iter().for_each(|(tally, _)| tally.stop.store(true, Ordering::Relaxed));
        for thread in self.hosts.iter_mut().filter_map(|(_, thread)| thread.take()) {
            let _ = thread.join();
        }
    }
}

/// Writes or reads all places, several at a time.
fn run(queue: &mut IoQueue, tally: &Tally, opcode: u8, writes: bool, first: u64, round: u64) {
    // Another order each time.
    let lba = |n: u64| first + (n * 7 + round) % PLACES * u64::from(BLOCKS);
    let mut to_do: BTreeMap<u64, u64> = (0..PLACES).map(|n| (n, lba(n))).collect();
    let mut waiting = HashMap::new();
    loop {
        while waiting.len() < DEPTH
            && let Some((n, lba)) = to_do.pop_first()
        {
            let transfer = match writes {
                true => Transfer::Write(pattern(lba, round, BYTES).into()),
                false => Transfer::Read(BYTES as u32),
            };
            let tag = queue.submit(&command(opcode, lba, BLOCKS), transfer).expect("room on the queue");
            assert!(waiting.insert(tag, (n, lba)).is_none(), "the queue gives a tag twice");
        }
        if waiting.is_empty() {
            return;
        }
        let completed = queue.wait(PATIENCE).expect("the connection lives").expect("an answer in time");
        let (n, lba) = waiting.remove(&completed.tag).expect("an answer to a command that waits for one");
        let status = completed.entry.status();
        if status.is_success() {
            assert!(writes || completed.data == pattern(lba, round, BYTES), "round {round}: {lba} differs");
            continue;
        }
        assert!(!status.dnr() && status.crd() == 0, "command {opcode:#x} at {lba}: {status}");
        if status.is(Status::NAMESPACE_NOT_READY) {
            // Not at once and again, or this is all that the target does.
            std::thread::sleep(Duration::from_millis(20));
        }
        tally.retries.fetch_add(1, Ordering::Relaxed);
        to_do.insert(n, lba);
    }
}
