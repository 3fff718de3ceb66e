//! Faults that are declared: a drive that does what drives should not, at the command that was named.
//!
//! Without rules, and without a latency, queues take their way past all of this by one branch, on
//! [`Device::attentive`].

mod probe;
mod rule;
mod spoil;
mod text;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gangway_spec::aen::AsyncEvent;
use gangway_spec::{Status, SubmissionQueueEntry};

pub use probe::{FaultCounts, FaultId};
pub use rule::{CommandMatch, Corruption, FaultAction, FaultRule, Occurrence, QueueMatch, REORDER_LIMIT};
pub use text::FaultError;

use super::device::{Device, lock};

/// The faults that are declared at present, and what the drive is in for because of them.
#[derive(Default)]
pub(super) struct Faults {
    /// Whether something is declared, or was since the last reset.
    possible: AtomicBool,
    rules: Mutex<Vec<Declared>>,
    next_id: AtomicU64,
    /// Whether the drive is not there at present, ...
    gone: AtomicBool,
    /// ... and when it comes back.
    back_at: Mutex<Option<Instant>>,
    /// How often its power was off, and how often of these it was not shut down before.
    outages: (AtomicU64, AtomicU64),
}

struct Declared {
    id: u64,
    rule: FaultRule,
    matched: u64,
    fired: u64,
}

impl Declared {
    /// Counts a match and says whether the fault happens at it.
    fn happens(&mut self, age: Duration) -> bool {
        if age < self.rule.occurrence.after {
            return false;
        }
        self.matched += 1;
        let happens = self.rule.occurrence.holds(self.matched, self.fired);
        self.fired += u64::from(happens);
        happens
    }
}

/// What is to happen to one command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Treatment {
    pub(super) hold: Option<Hold>,
    /// It is not executed and ends so.
    pub(super) status: Option<Status>,
    /// It is not executed.
    pub(super) skip: bool,
    /// Its completion is not written.
    pub(super) lose: bool,
    pub(super) duplicate: bool,
    pub(super) corruption: Option<Corruption>,
    pub(super) late_phase: Option<Duration>,
    /// This bit of the data is turned over.
    pub(super) flip: Option<u32>,
    /// So many bytes more are moved.
    pub(super) overrun: Option<u32>,
}

/// How long a command is kept before it is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    For(Duration),
    /// Until so many others of its queue have completed.
    Behind(u32),
    Forever,
}

/// What happens to the controller because of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Fatal,
    Removed(Option<Duration>),
}

impl Faults {
    pub(super) fn new(rules: &[FaultRule]) -> Self {
        let faults = Self::default();
        for rule in rules {
            faults.add(rule.clone());
        }
        faults
    }

    fn add(&self, rule: FaultRule) -> u64 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        lock(&self.rules).push(Declared { id, rule, matched: 0, fired: 0 });
        self.possible.store(true, Ordering::Release);
        id
    }

    /// A reset leaves no command behind that was kept: when nothing is declared any more, nothing is to be looked at.
    /// Says whether something is.
    pub(super) fn reset(&self) -> bool {
        let rules = lock(&self.rules);
        self.possible.store(!rules.is_empty(), Ordering::Release);
        !rules.is_empty()
    }

    /// What the rules say of a command that was just taken.
    fn judge(
        &self,
        (sq_id, entry): (u16, &SubmissionQueueEntry),
        age: Duration,
        mut event: impl FnMut(AsyncEvent),
    ) -> Result<Treatment, End> {
        let (mut treatment, mut end) = (Treatment::default(), None);
        for declared in lock(&self.rules).iter_mut() {
            let action = declared.rule.action;
            if action.is_of_controller()
                || !declared.rule.commands.holds(sq_id, entry)
                || !declared.happens(age)
            {
                continue;
            }
            match action {
                FaultAction::Drop => treatment.hold = Some(Hold::Forever),
                FaultAction::Lose => treatment.lose = true,
                FaultAction::Skip => treatment.skip = true,
                FaultAction::Delay(time) => treatment.hold = Some(Hold::For(time)),
                FaultAction::Reorder(others) => treatment.hold = Some(Hold::Behind(others)),
                FaultAction::Duplicate => treatment.duplicate = true,
                FaultAction::Corrupt(corruption) => treatment.corruption = Some(corruption),
                FaultAction::LatePhase(time) => treatment.late_phase = Some(time),
                FaultAction::Flip(bit) => treatment.flip = Some(bit),
                FaultAction::Overrun(more) => treatment.overrun = Some(more),
                FaultAction::Fail(status) => treatment.status = Some(status),
                FaultAction::Fatal => end = Some(End::Fatal),
                FaultAction::Remove(time) => end = Some(End::Removed(time)),
                FaultAction::Event(raised) => event(raised),
                FaultAction::NotReady(_) | FaultAction::NotDisabled(_) => {}
            }
        }
        end.map_or(Ok(treatment), Err)
    }

    /// How long CSTS.RDY is to stay behind CC.EN, which was just written.
    pub(super) fn unready(&self, enabled: bool, age: Duration) -> Option<Unready> {
        let mut found = None;
        for declared in lock(&self.rules).iter_mut() {
            let time = match declared.rule.action {
                FaultAction::NotReady(time) if enabled => time,
                FaultAction::NotDisabled(time) if !enabled => time,
                _ => continue,
            };
            if declared.happens(age) {
                found = Some(time.map_or(Unready::ForGood, |time| Unready::Until(Instant::now() + time)));
            }
        }
        found
    }
}

/// How long CSTS.RDY does not follow CC.EN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unready {
    Until(Instant),
    ForGood,
}

impl Unready {
    pub(super) fn is_over(self) -> bool {
        match self {
            Self::Until(time) => Instant::now() >= time,
            Self::ForGood => false,
        }
    }
}

impl FaultAction {
    /// Whether it happens to the controller when CC is written, and not at a command.
    pub(super) fn is_of_controller(self) -> bool {
        matches!(self, Self::NotReady(_) | Self::NotDisabled(_))
    }
}

impl Device {
    /// What is to happen to a command that was just taken. `None`: it ended the controller.
    pub(super) fn treat(&self, sq_id: u16, entry: &SubmissionQueueEntry) -> Option<Treatment> {
        if !self.faults.possible.load(Ordering::Relaxed) {
            return Some(Treatment::default());
        }
        let judged = self.faults.judge((sq_id, entry), self.since.elapsed(), |event| self.raise(event));
        match judged {
            Ok(treatment) => return Some(treatment),
            Err(End::Fatal) => self.stop_fatally("a declared fault"),
            Err(End::Removed(time)) => self.vanish(time),
        }
        None
    }

    /// The drive is not there any more: all its registers read as ones, and no queue is worked on. Whoever is inside a
    /// gate at this moment may finish what it is at.
    fn vanish(&self, time: Option<Duration>) {
        *lock(&self.faults.back_at) = time.map(|time| Instant::now() + time);
        self.faults.gone.store(true, Ordering::Release);
        self.running.store(false, Ordering::Release);
    }

    /// Whether the drive is not there. One whose time to come back has come is back before this returns.
    pub(super) fn is_gone(&self) -> bool {
        if !self.faults.gone.load(Ordering::Acquire) {
            return false;
        }
        let back = lock(&self.faults.back_at).is_some_and(|time| Instant::now() >= time);
        if back {
            self.come_back();
        }
        !back
    }

    /// How often its power was off, and how often of these it was not shut down before.
    pub(super) fn outages(&self) -> (u64, u64) {
        let (all, unsafe_ones) = &self.faults.outages;
        (all.load(Ordering::Relaxed), unsafe_ones.load(Ordering::Relaxed))
    }

    /// The drive is there again, as after its power was switched on.
    fn come_back(&self) {
        let mut registers = lock(&self.registers);
        // Another thread may have seen the same and been quicker; what the host did since is not to be undone.
        if self.faults.gone.load(Ordering::Acquire) {
            self.faults.outages.0.fetch_add(1, Ordering::Relaxed);
            self.faults.outages.1.fetch_add(u64::from(!registers.shutdown), Ordering::Relaxed);
            self.reset_all(&mut registers);
            self.faults.gone.store(false, Ordering::Release);
        }
    }
}
