//! A load on a faulty drive that knows what every command was for and what every block may hold.

use std::collections::{BTreeSet, HashMap};
use std::thread;
use std::time::{Duration, Instant};

use gangway_driver::controller::Options;
use gangway_driver::emulated::{EmulatedConfig, EmulatedFunction, EmulatedProbe};
use gangway_driver::{
    BufferPool, CommandData, Completion, Controller, Direction, DmaBuffer, DmaDomain, QueuePair, Stopped,
};
use gangway_spec::{Status, SubmissionQueueEntry, nvm, opcode};

/// Bytes that a command moves on the regions of the drive, in turn: a block, a page, more than a page, two pages, lists.
const LENGTHS: [usize; 6] = [512, 4096, 4608, 8192, 12_288, 32_768];
const LARGEST: usize = 32_768;
const BLOCK: usize = 512;
const REGIONS: usize = 48;
const POOL: usize = 1 << 20;
/// What memory holds that no command was given.
const CANARY: u8 = 0x5a;
/// How long anything may take in the end, on a busy machine.
const BOUND: Duration = Duration::from_secs(60);

/// The options of a small drive, with these in front.
pub(crate) fn drive(options: &str) -> EmulatedConfig {
    format!("{options},size=2MiB,block=512,queues=2,depth=32,ready-timeout=500ms").parse().unwrap()
}

pub(crate) fn hasty() -> Options {
    Options { queue_depth: 17, admin_timeout: Duration::from_millis(300), ..Options::default() }
}

struct Command {
    region: usize,
    /// What a write writes.
    version: Option<u64>,
}

pub(crate) struct Load {
    pub(crate) controller: Controller,
    pub(crate) probe: EmulatedProbe,
    pair: Option<QueuePair>,
    reads: BufferPool,
    writes: BufferPool,
    canaries: Vec<DmaBuffer>,
    /// What each region may hold; 0 is zeroes.
    versions: Vec<BTreeSet<u64>>,
    outstanding: HashMap<u64, Command>,
    /// Users and versions count from 1.
    last: u64,
    /// How long a command may take before everything is reset.
    patience: Duration,
    pub(crate) resets: usize,
    pub(crate) failed: usize,
    pub(crate) spoiled: usize,
    pub(crate) completed: usize,
}

impl Load {
    pub(crate) fn start(options: &str, patience: Duration) -> Self {
        let domain = DmaDomain::new();
        let (function, probe) = EmulatedFunction::with_probe(drive(options), &domain).unwrap();
        let mut controller = Controller::start(function, hasty()).unwrap();
        let pair = Some(controller.create_io_queue_pair().unwrap());
        let mut reads = BufferPool::new(&domain, Direction::DeviceWrites, POOL, LARGEST).unwrap();
        let writes = BufferPool::new(&domain, Direction::DeviceReads, POOL, LARGEST).unwrap();
        // Every second buffer of the pool is nobody's.
        let mut canaries = Vec::new();
        let all: Vec<_> = std::iter::from_fn(|| reads.take(LARGEST)).collect();
        for (at, mut buffer) in all.into_iter().enumerate() {
            buffer.fill(CANARY);
            if at % 2 == 0 { canaries.push(buffer) } else { reads.put(buffer) }
        }
        Self {
            controller,
            probe,
            pair,
            reads,
            writes,
            canaries,
            versions: vec![BTreeSet::from([0]); REGIONS],
            outstanding: HashMap::new(),
            last: 0,
            patience,
            resets: 0,
            failed: 0,
            spoiled: 0,
            completed: 0,
        }
    }

    /// Runs so many commands, and resets whenever something is wrong, until each has ended.
    pub(crate) fn run(&mut self, commands: usize) {
        let bound = Instant::now() + BOUND;
        let mut left = commands;
        while left > 0 || !self.outstanding.is_empty() {
            assert!(Instant::now() < bound, "it does not come to an end");
            while left > 0 && self.pair().has_room() && self.outstanding.len() < REGIONS / 2 {
                self.submit();
                left -= 1;
            }
            self.pair().ring();
            let mut completions = Vec::new();
            let fault = self.pair().reap(&mut completions).err();
            completions.into_iter().for_each(|completion| self.complete(completion));
            if fault.is_some() || self.pair().overdue(Instant::now()).is_some() {
                self.reset();
            }
        }
    }

    /// Submits so many commands and takes what completes of itself.
    pub(crate) fn run_until_stuck(&mut self, commands: usize) {
        for _ in 0..commands {
            if self.pair().has_room() {
                self.submit();
            }
            self.reap();
        }
    }

    pub(crate) fn reap(&mut self) {
        self.pair().ring();
        let mut completions = Vec::new();
        self.pair().reap(&mut completions).unwrap();
        completions.into_iter().for_each(|completion| self.complete(completion));
    }

    /// Identifiers of all commands that are outstanding.
    pub(crate) fn overdue_cids(&mut self) -> Vec<u16> {
        let late = Instant::now() + 10 * BOUND;
        self.pair().all_overdue(late).map(|overdue| overdue.cid).collect()
    }

    /// Deletes the queue pair, with which all of its commands end.
    pub(crate) fn delete_pair(&mut self) {
        let pair = self.pair.take().expect("there is one");
        let Ok(deleted) = self.controller.delete_io_queue_pair(pair) else { panic!("it is not deleted") };
        deleted.completed.into_iter().for_each(|completion| self.complete(completion));
        assert!(deleted.outstanding.is_empty(), "the drive completes what it ends");
        assert!(self.outstanding.is_empty());
    }

    /// Tries to delete the queue pair, which fails.
    pub(crate) fn fail_to_delete_pair(&mut self) {
        let pair = self.pair.take().expect("there is one");
        let Err(failed) = self.controller.delete_io_queue_pair(pair) else { panic!("it is deleted") };
        failed.completed.into_iter().for_each(|completion| self.complete(completion));
        self.pair = Some(*failed.pair);
    }

    fn pair(&mut self) -> &mut QueuePair {
        self.pair.as_mut().expect("there is one but while it is reset")
    }

    fn submit(&mut self) {
        self.last += 1;
        let user = self.last;
        let busy = |region: usize| self.outstanding.values().any(|command| command.region == region);
        let start = (user as usize).wrapping_mul(0x9e37_79b9) >> 7;
        let region = (0..REGIONS).map(|at| (start + at) % REGIONS).find(|&region| !busy(region)).unwrap();
        let len = length(region);
        let write = !user.is_multiple_of(3);
        let mut entry = SubmissionQueueEntry::new(if write { opcode::nvm::WRITE } else { opcode::nvm::READ });
        entry.nsid.set(1);
        nvm::set_slba(&mut entry, (region * LARGEST / BLOCK) as u64);
        nvm::set_nlb(&mut entry, (len / BLOCK) as u32);
        let mut buffer = if write { self.writes.take(len) } else { self.reads.take(len) }.unwrap();
        if write {
            fill(&mut buffer, user);
        }
        let deadline = Instant::now() + self.patience;
        self.pair().submit(&entry, buffer.into(), user, deadline).unwrap();
        self.outstanding.insert(user, Command { region, version: write.then_some(user) });
    }

    fn complete(&mut self, completion: Completion) {
        let user = completion.user;
        let command = self.outstanding.remove(&user);
        let Command { region, version } = command.expect("each command ends once, and was submitted");
        self.completed += 1;
        let status: Status = completion.entry.status();
        match (status.is_success(), version) {
            (true, Some(version)) => self.versions[region] = BTreeSet::from([version]),
            (true, None) => {
                let data = completion.data.bytes();
                assert_eq!(data.len(), length(region));
                let known = self.versions[region].iter().any(|&version| holds(data, version));
                self.spoiled += usize::from(!known);
            }
            (false, version) => {
                self.versions[region].extend(version);
                self.failed += 1;
            }
        }
        self.put(completion.data);
    }

    fn put(&mut self, data: CommandData) {
        let CommandData::Buffer(buffer) = data else { panic!("a buffer was given") };
        if buffer.direction() == self.reads.direction() {
            self.reads.put(buffer)
        } else {
            self.writes.put(buffer)
        }
    }

    /// Stops the controller, takes back what is outstanding, and starts again.
    fn reset(&mut self) {
        self.resets += 1;
        let stopped = eventually(|| self.controller.disable());
        self.take_back(&stopped);
        eventually(|| self.controller.restart());
        self.pair = Some(eventually(|| self.controller.create_io_queue_pair()));
    }

    /// Everything that is outstanding comes back, once.
    pub(crate) fn take_back(&mut self, stopped: &Stopped) {
        let pair = self.pair.take().expect("as above");
        for (user, data) in pair.dismantle(stopped).expect("it is of this controller") {
            let command = self.outstanding.remove(&user).expect("each command ends once, and was submitted");
            // Whether it was executed nobody knows.
            self.versions[command.region].extend(command.version);
            self.put(data);
        }
        assert!(self.outstanding.is_empty(), "nothing got lost");
    }

    /// After everything: all works, all data is what it should be, all memory is back.
    pub(crate) fn check(mut self) {
        let before = (self.resets, self.failed, self.spoiled);
        self.probe.clear_faults();
        self.patience = BOUND;
        self.run(3 * REGIONS);
        assert_eq!((self.resets, self.failed, self.spoiled), before, "without faults there are none");
        let pair = self.pair.take().expect("as above");
        let Ok(deleted) = self.controller.delete_io_queue_pair(pair) else { panic!("it is not deleted") };
        assert!(deleted.completed.is_empty() && deleted.outstanding.is_empty());
        self.check_memory();
    }

    /// All memory is back and nobody has touched what was not his.
    pub(crate) fn check_memory(&self) {
        let kept: usize = self.canaries.iter().map(|buffer| buffer.capacity()).sum();
        assert_eq!(self.reads.available() + kept, self.reads.capacity());
        assert_eq!(self.writes.available(), self.writes.capacity());
        for canary in &self.canaries {
            assert!(canary.iter().all(|&byte| byte == CANARY), "something was written to foreign memory");
        }
    }
}

fn length(region: usize) -> usize {
    LENGTHS[region % LENGTHS.len()]
}

/// Bytes that no other version has at any place.
fn word(version: u64, at: usize) -> u64 {
    if version == 0 { 0 } else { version << 16 | at as u64 }
}

fn fill(buffer: &mut [u8], version: u64) {
    for (at, bytes) in buffer.chunks_exact_mut(8).enumerate() {
        bytes.copy_from_slice(&word(version, at).to_le_bytes());
    }
}

fn holds(data: &[u8], version: u64) -> bool {
    data.chunks_exact(8).enumerate().all(|(at, bytes)| bytes == word(version, at).to_le_bytes())
}

/// Tries until it works, which it must within bounds: a drive that was removed may be on its way back.
pub(crate) fn eventually<T, E: std::fmt::Display>(mut what: impl FnMut() -> Result<T, E>) -> T {
    let bound = Instant::now() + BOUND;
    loop {
        match what() {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < bound, "{error}"),
        }
        thread::sleep(Duration::from_millis(2));
    }
}
