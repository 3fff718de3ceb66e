//! One thread of the load generator: turns of receiving, submitting and sending over all its queues.
//!
//! Nothing in a turn allocates, and the clock is read once per turn that brought something: commands that complete
//! together have one time of completion, which is also the time at which those in their place begin.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use gangway_spec::{SubmissionQueueEntry, nvm, opcode};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::cpu::{self, Usage};
use super::queue::{Done, IoQueue, Namespace};
use super::tally::Tally;
use super::verify::Verifier;
use super::workload::Source;

/// Bytes received at a time: enough for many commands, and little enough to stay in the processor's cache.
const SCRATCH: usize = 64 * 1024;
/// How often the clock is looked at while nothing comes.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// Turns between two looks at the clock while nothing comes, when polling.
const SPINS: u32 = 64;
/// How long a queue may answer nothing at all.
const PATIENCE: u64 = 30_000_000_000;
/// Queues up to which a polling thread tries to receive from each; with more it asks the kernel which are worth it.
const FEW: usize = 4;
/// Commands on a queue up to which a polling thread tries to receive without asking first. To try takes the socket's lock,
/// which the target needs to bring something: with many commands underway that makes the target a twentieth slower. With
/// few commands each answer is waited for, and a system call less is noticed sooner.
const ALONE: u16 = 8;
/// With more commands outstanding than this, something is likely to have come before a thread can fall asleep.
const MANY: usize = 8;

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// After this time.
    Time(Duration),
    /// After so many commands of all queues together.
    Count(u64),
}

/// What is the same for all threads.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) namespace: Namespace,
    /// First block of unit 0.
    pub(crate) first_block: u64,
    /// Blocks of a command.
    pub(crate) unit_blocks: u32,
    /// Commands outstanding on each queue.
    pub(crate) depth: u16,
    /// Spin instead of sleeping.
    pub(crate) poll: bool,
    /// Not measured.
    pub(crate) warmup: Duration,
    pub(crate) limit: Limit,
}

/// What threads tell each other while they run.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// Everybody stops.
    pub(crate) stop: AtomicBool,
}

/// Commands that a thread completed, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Progress(pub(crate) AtomicU64);

/// A queue and what is done with it.
pub(crate) struct Lane<Q> {
    queue: Q,
    source: Source,
    verifier: Option<Verifier>,
    /// Commands that may still be started.
    budget: u64,
    slots: Vec<Slot>,
    outstanding: usize,
    /// When something came last.
    heard: u64,
    /// Whether the kernel was asked to tell when there is room to send.
    watched: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    started: u64,
    unit: u64,
    write: bool,
}

impl<Q: IoQueue> Lane<Q> {
    /// `budget`: how many commands may be started.
    pub(crate) fn new(queue: Q, source: Source, verifier: Option<Verifier>, depth: u16, budget: u64) -> Self {
        let slots = vec![Slot::default(); depth.into()];
        Self { queue, source, verifier, budget, slots, outstanding: 0, heard: 0, watched: false }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Warmup,
    Measuring,
    /// No command is started any more.
    Draining,
}

/// A thread's work.
pub(crate) struct Worker<'a, Q> {
    task: &'a Task,
    lanes: Vec<Lane<Q>>,
    signals: &'a Signals,
    progress: &'a Progress,
    read: SubmissionQueueEntry,
    write: SubmissionQueueEntry,
    epoll: Option<OwnedFd>,
    scratch: Box<[u8]>,
    done: Vec<Done>,
    tally: Tally,
    phase: Phase,
    start: Instant,
    /// When measuring began, in nanoseconds since `start`, and what the thread had used then.
    since: (u64, Usage),
    completed: u64,
}

impl<'a, Q: IoQueue> Worker<'a, Q> {
    /// Nothing is submitted yet.
    ///
    /// # Errors
    /// The kernel refuses to watch the queues.
    pub(crate) fn new(
        task: &'a Task,
        lanes: Vec<Lane<Q>>,
        signals: &'a Signals,
        progress: &'a Progress,
    ) -> anyhow::Result<Self> {
        let template = |opcode| {
            let mut entry = SubmissionQueueEntry::new(opcode);
            entry.nsid.set(task.namespace.nsid);
            nvm::set_nlb(&mut entry, task.unit_blocks);
            entry
        };
        let sleeps = lanes.iter().all(|lane| lane.queue.descriptor().is_some());
        let tries_each = task.poll && lanes.len() <= FEW && task.depth <= ALONE;
        let epoll = if sleeps && !tries_each { Some(watch(&lanes)?) } else { None };
        Ok(Self {
            task,
            signals,
            progress,
            read: template(opcode::nvm::READ),
            write: template(opcode::nvm::WRITE),
            epoll,
            scratch: vec![0; SCRATCH].into(),
            done: Vec::with_capacity(usize::from(task.depth) + 1),
            tally: Tally::new(),
            phase: Phase::Warmup,
            start: Instant::now(),
            since: (0, Usage::default()),
            completed: 0,
            lanes,
        })
    }

    /// Does all of it. `measured` is called when the measured time is over. Gives the queues back in any case.
    pub(crate) fn run(mut self, measured: impl FnOnce()) -> (Vec<Q>, anyhow::Result<Tally>) {
        self.start = Instant::now();
        let result = self.work(measured);
        let queues = self.lanes.into_iter().map(|lane| lane.queue).collect();
        (queues, result.map(|()| self.tally))
    }

    fn work(&mut self, measured: impl FnOnce()) -> anyhow::Result<()> {
        let mut measured = Some(measured);
        let mut events = Vec::with_capacity(self.lanes.len().clamp(1, 256));
        self.advance(0);
        for index in 0..self.lanes.len() {
            for slot in 0..usize::from(self.task.depth) {
                self.begin(index, slot, 0)?;
            }
            self.lanes[index].queue.flush()?;
        }
        let (mut now, mut idle) = (0, 0);
        loop {
            self.advance(now);
            if self.phase == Phase::Draining {
                if let Some(measured) = measured.take() {
                    measured();
                }
                if self.lanes.iter().all(|lane| lane.outstanding == 0) {
                    return Ok(());
                }
            }
            let latest = self.turn(&mut events, idle)?;
            match latest {
                Some(time) => (now, idle) = (time, 0),
                None => {
                    idle = idle.wrapping_add(1);
                    // Sleeping takes long enough to look at the clock after it.
                    if idle.is_multiple_of(SPINS) || (self.epoll.is_some() && !self.task.poll) {
                        now = self.now();
                        self.lose_patience(now)?;
                    }
                }
            }
        }
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Looks whether it is time for something else.
    fn advance(&mut self, now: u64) {
        if self.phase == Phase::Warmup && now >= self.task.warmup.as_nanos() as u64 {
            self.phase = Phase::Measuring;
            self.tally.clear();
            self.since = (now, cpu::thread_usage());
        }
        if self.phase != Phase::Draining && (self.is_over(now) || self.signals.stop.load(Ordering::Relaxed)) {
            self.phase = Phase::Draining;
            self.tally.elapsed = Duration::from_nanos(now - self.since.0);
            self.tally.usage = cpu::thread_usage().since(self.since.1);
            self.tally.unstamped =
                self.lanes.iter().flat_map(|lane| &lane.verifier).map(Verifier::unstamped).sum();
        }
    }

    fn is_over(&self, now: u64) -> bool {
        match self.task.limit {
            Limit::Time(time) => {
                self.phase == Phase::Measuring && now - self.since.0 >= time.as_nanos() as u64
            }
            // Before the first turn nothing is outstanding either, but there is a budget.
            Limit::Count(_) => self.lanes.iter().all(|lane| lane.outstanding == 0 && lane.budget == 0),
        }
    }

    /// Serves every queue that may have something. The time, if one of them had.
    fn turn(&mut self, events: &mut Vec<epoll::Event>, idle: u32) -> anyhow::Result<Option<u64>> {
        let Some(epoll) = &self.epoll else {
            let mut latest = None;
            for index in 0..self.lanes.len() {
                latest = self.serve(index)?.or(latest);
            }
            return Ok(latest);
        };
        if idle == 0 && self.lanes.len() == 1 && self.lanes[0].outstanding > MANY {
            // Saves a system call as long as the device keeps up.
            return self.serve(0);
        }
        events.clear();
        let timeout = if self.task.poll { Timespec { tv_sec: 0, tv_nsec: 0 } } else { TICK };
        match epoll::wait(epoll, spare_capacity(events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for the device"),
        }
        let mut latest = None;
        for event in events.iter() {
            latest = self.serve(event.data.u64() as usize)?.or(latest);
        }
        Ok(latest)
    }

    /// Takes what a queue has, puts new commands in the place of those that completed, and sends them together.
    #[inline]
    fn serve(&mut self, index: usize) -> anyhow::Result<Option<u64>> {
        let came = self.lanes[index].queue.poll(&mut self.scratch, &mut self.done)?;
        let mut latest = None;
        if came {
            let now = self.now();
            latest = Some(now);
            self.lanes[index].heard = now;
            let mut done = std::mem::take(&mut self.done);
            self.completed += done.len() as u64;
            for done in done.drain(..) {
                self.finish(index, done, now)?;
                self.begin(index, done.slot, now)?;
            }
            self.done = done;
            self.progress.0.store(self.completed, Ordering::Relaxed);
        }
        let lane = &mut self.lanes[index];
        lane.queue.flush()?;
        if lane.queue.is_blocked() != lane.watched
            && let (Some(epoll), Some(descriptor)) = (&self.epoll, lane.queue.descriptor())
        {
            lane.watched = !lane.watched;
            let mut interest = epoll::EventFlags::IN;
            interest.set(epoll::EventFlags::OUT, lane.watched);
            epoll::modify(epoll, descriptor, epoll::EventData::new_u64(index as u64), interest)?;
        }
        Ok(latest)
    }

    /// Submits the next command from a free slot, if there is to be one.
    #[inline]
    fn begin(&mut self, index: usize, slot: usize, now: u64) -> anyhow::Result<()> {
        let lane = &mut self.lanes[index];
        if self.phase == Phase::Draining || lane.budget == 0 {
            return Ok(());
        }
        lane.budget -= 1;
        let (write, mut unit) = lane.source.next();
        if let Some(verifier) = &mut lane.verifier {
            unit =
                verifier.claim(unit).context("--verify needs more blocks than commands are outstanding")?;
            if write {
                verifier.stamp(unit, lane.queue.data(slot));
            }
        }
        lane.slots[slot] = Slot { started: now, unit, write };
        let mut entry = if write { self.write } else { self.read };
        nvm::set_slba(&mut entry, self.task.first_block + unit * u64::from(self.task.unit_blocks));
        lane.queue.submit(slot, &entry)?;
        lane.outstanding += 1;
        Ok(())
    }

    #[inline]
    fn finish(&mut self, index: usize, done: Done, now: u64) -> anyhow::Result<()> {
        let lane = &mut self.lanes[index];
        let Slot { started, unit, write } = lane.slots[done.slot];
        lane.outstanding -= 1;
        let status = done.entry.status();
        if !status.is_success() {
            let block = self.task.first_block + unit * u64::from(self.task.unit_blocks);
            let (name, count) = (if write { "write" } else { "read" }, self.task.unit_blocks);
            bail!("a {name} of {count} blocks at block {block} failed: {status}");
        }
        if self.phase != Phase::Draining {
            self.tally.record(write, now - started);
        }
        match &mut lane.verifier {
            Some(verifier) if write => verifier.written(unit),
            Some(verifier) => verifier.check(unit, lane.queue.data(done.slot))?,
            None => {}
        }
        Ok(())
    }

    fn lose_patience(&self, now: u64) -> anyhow::Result<()> {
        let stuck = |lane: &Lane<Q>| lane.outstanding > 0 && now.saturating_sub(lane.heard) > PATIENCE;
        if let Some(lane) = self.lanes.iter().find(|lane| stuck(lane)) {
            bail!("no answer to {} commands for {} s", lane.outstanding, PATIENCE / 1_000_000_000);
        }
        Ok(())
    }
}

fn watch<Q: IoQueue>(lanes: &[Lane<Q>]) -> anyhow::Result<OwnedFd> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (index, lane) in lanes.iter().enumerate() {
        if let Some(descriptor) = lane.queue.descriptor() {
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, descriptor, data, epoll::EventFlags::IN)?;
        }
    }
    Ok(epoll)
}
