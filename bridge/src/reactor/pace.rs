//! When a reactor spins and when it sleeps.
//!
//! Sleeping costs a wake-up: some microseconds of CPU, and as much latency or more; in virtual machines, where an idle CPU
//! is stopped, ten times as much, and whoever wakes it pays again. Spinning costs what it spins. So it pays to spin when the
//! next thing comes soon, or notably sooner than to one who sleeps, and never otherwise.

use std::time::{Duration, Instant};

use super::HOUSEKEEPING;

/// What a reactor does when nothing is there to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Poll {
    /// Spins while the next command is expected soon, or notably sooner than after a sleep, and sleeps otherwise.
    #[default]
    Adaptive,
    /// Never sleeps: the lowest latency, and a CPU that is always busy.
    Always,
    /// Never spins: sleeps whenever there is nothing to do, at once. Completions of drives that do not interrupt are looked for
    /// now and then.
    Never,
}

/// What the next wait may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// None: look and go on.
    Look,
    /// None, but whoever else wants the CPU goes first.
    GiveWay,
    /// So long at most.
    AtMost(Duration),
    /// Until something comes.
    Forever,
}

/// Silences up to which a reactor spins whatever it gains by that.
const SHORT_SILENCE: Duration = Duration::from_micros(10);
/// Silences of hosts are taken for no longer than this, so that a pause is soon forgotten.
const LONGEST_PAUSE: Duration = Duration::from_millis(2);
/// Others who have the CPU for longer when they go first compute, and do not bring the next command.
const LONG_TURN: Duration = Duration::from_micros(500);
/// Of how much time they may have so much in such turns before a reactor leaves the CPU to them, and for how long.
const WATCH: Duration = Duration::from_millis(50);
const MOST_LOST: Duration = Duration::from_millis(5);
const CROWDED: Duration = Duration::from_millis(250);
/// Longest time that one silence is spun through where they are short. One that lasts longer is not like those before it.
const LONGEST_SPIN: Duration = Duration::from_micros(60);
/// The same where that makes silences shorter which are longer.
const LONGEST_WORTH_A_TRY: Duration = Duration::from_millis(1);
/// The same while drives have commands.
const LONGEST_DRIVE_SPIN: Duration = Duration::from_micros(150);
/// Of how many silences of slow drives one is spun through, to learn whether they still are; of how many phases of hosts'
/// silences one.
const PROBE: u32 = 16;
/// How many silences of hosts one such try is: they get shorter when other threads have found their places beside a
/// reactor that spins. So many are slept through as well, more rarely, to learn what spinning gains.
const PHASE: u32 = 64;
/// Silences from one try to the next.
const TRY: u32 = PROBE * PHASE;
/// How long sleeps between looks at a drive take that does not interrupt: an eighth of what it takes to answer, within
/// these.
const SHORTEST_NAP: Duration = Duration::from_micros(50);
const LONGEST_NAP: Duration = Duration::from_millis(1);
/// Beyond this it no longer matters how long a silence was.
const LONGEST_SILENCE: Duration = Duration::from_millis(8);

/// What drives have of a reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outstanding {
    /// No command.
    Nothing,
    /// Commands whose completions end a wait.
    Announced,
    /// Commands whose completions are to be looked for.
    Silent,
}

/// Watches how events follow each other.
#[derive(Debug)]
pub(super) struct Pace {
    poll: Poll,
    /// Since when there is nothing to do.
    quiet_since: Option<Instant>,
    /// What half of the silences are shorter than that are spun through while drives have no commands.
    pause: Duration,
    /// The same of those that are slept through. What spinning gains is the difference: how long it takes to be woken, and
    /// to wake, here and now.
    sleep: Duration,
    /// What half of the silences are shorter than while drives have commands: the few long ones, which every drive has,
    /// do not make it slow. Spins and naps teach it: what an interrupt ends looks longer than it is by a wake-up.
    answer: Duration,
    /// Whether drives had commands at the last wait, and whether a limit's clock may have ended it.
    awaited: bool,
    timed: bool,
    /// Whether this silence teaches `answer`.
    watched: bool,
    /// Whether this silence teaches `pause`.
    spun: bool,
    /// Silences of drives so far, around.
    silences: u32,
    /// Where in the course of tries it is: of four times [`TRY`] silences of hosts one phase at the beginning of each quarter is
    /// a try, and one in the first is slept through.
    pauses: u32,
    /// Whether spinning makes silences of hosts shorter.
    gains: bool,
    /// Time that others took in long turns who went first, and since when that is counted.
    lost: Duration,
    lost_since: Option<Instant>,
    /// Until when it leaves its CPU to others rather than spin.
    crowded_until: Option<Instant>,
}

impl Pace {
    pub(super) fn new(poll: Poll) -> Self {
        Self {
            poll,
            quiet_since: None,
            // The first silence that is shorter is hope enough for a try.
            pause: LONGEST_WORTH_A_TRY,
            sleep: LONGEST_WORTH_A_TRY,
            answer: Duration::ZERO,
            awaited: false,
            timed: false,
            watched: false,
            spun: false,
            silences: 0,
            pauses: TRY - 1,
            gains: false,
            lost: Duration::ZERO,
            lost_since: None,
            crowded_until: None,
        }
    }

    /// Whether it may cost CPU time to let others go first, for latency's sake.
    pub(super) fn is_adaptive(&self) -> bool {
        self.poll == Poll::Adaptive
    }

    /// Notes what a turn that began at `now` found: whether anything `happened`.
    pub(super) fn note(&mut self, happened: bool, now: Instant) {
        if happened {
            let silence = self.silence(now);
            // A turn that follows another without a look between says nothing, nor does what a clock ends.
            if !self.awaited && !self.timed && (self.spun || !silence.is_zero()) {
                self.learn_pause(silence.min(LONGEST_PAUSE));
            }
            if self.watched && !self.timed {
                self.answer = towards(self.answer, silence.min(LONGEST_SILENCE), 8);
            }
            self.quiet_since = None;
            self.silences = self.silences.wrapping_add(self.awaited.into());
            self.watched = false;
            self.spun = false;
        } else {
            self.quiet_since.get_or_insert(now);
        }
    }

    /// Notes a silence of hosts.
    fn learn_pause(&mut self, silence: Duration) {
        let known = if self.spun { &mut self.pause } else { &mut self.sleep };
        // Fine steps: what spinning gains is a difference between two of them.
        *known = towards(*known, silence, 32);
        let longest = self.sleep.min(LONGEST_WORTH_A_TRY);
        // A quarter to begin with, an eighth to go on.
        self.gains = self.pause * 8 < longest * if self.gains { 7 } else { 6 };
        // The next try waits until there is hope, and begins then. One that spins goes on to where it sleeps to see.
        if self.gains || self.sleep < LONGEST_WORTH_A_TRY || !(self.pauses + 1).is_multiple_of(TRY) {
            self.pauses = (self.pauses + 1) % (4 * TRY);
        }
    }

    /// Notes that there is nothing to do at `now`. Whether that is new.
    pub(super) fn falls_silent(&mut self, now: Instant) -> bool {
        let is_new = self.quiet_since.is_none();
        self.quiet_since.get_or_insert(now);
        is_new
    }

    /// How long there was nothing to do, without what the turn before took to do.
    fn silence(&self, now: Instant) -> Duration {
        self.quiet_since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }

    /// What the next wait may be. `timed`: some commands wait for a limit.
    pub(super) fn wait(&mut self, outstanding: Outstanding, timed: bool, now: Instant) -> Wait {
        self.awaited = outstanding != Outstanding::Nothing;
        self.timed = timed;
        self.crowded_until = self.crowded_until.filter(|until| now < *until);
        let spins = match self.poll {
            Poll::Always => return Wait::Look,
            Poll::Never => false,
            Poll::Adaptive if self.crowded_until.is_some() => false,
            Poll::Adaptive if self.awaited => {
                !timed && self.silence(now) < LONGEST_DRIVE_SPIN && self.drives_are_fast()
            }
            Poll::Adaptive => !timed && self.silence(now) < self.host_spin(),
        };
        self.spun |= !self.awaited && spins;
        self.watched |= self.awaited && (spins || outstanding == Outstanding::Silent);
        match outstanding {
            // Giving way costs a system call each time.
            Outstanding::Nothing if spins && self.silence(now) < SHORT_SILENCE => Wait::Look,
            _ if spins => Wait::GiveWay,
            Outstanding::Nothing => Wait::Forever,
            // Not for ever: time limits are looked at, and a drive that forgets an interrupt is not waited for.
            Outstanding::Announced => Wait::AtMost(HOUSEKEEPING),
            Outstanding::Silent => Wait::AtMost((self.answer / 8).clamp(SHORTEST_NAP, LONGEST_NAP)),
        }
    }

    /// Notes that others went first and had the CPU for `away`, until `now`. One who computes all the time would have it for
    /// milliseconds again and again, and the reactor in between; if it sleeps it gets it back as soon as there is something
    /// to do.
    pub(super) fn gave_way(&mut self, away: Duration, now: Instant) {
        if away <= LONG_TURN {
            return;
        }
        if self.lost_since.is_none_or(|since| now.duration_since(since) > WATCH) {
            (self.lost, self.lost_since) = (Duration::ZERO, Some(now));
        }
        // One turn, however long, may be an accident.
        self.lost += away.min(MOST_LOST * 3 / 5);
        if self.lost > MOST_LOST {
            self.crowded_until = Some(now + CROWDED);
        }
    }

    /// How long a silence of hosts is spun through. For short ones that is cheap. Longer ones must get shorter by it, which
    /// is tried now and then.
    fn host_spin(&self) -> Duration {
        if self.pause < SHORT_SILENCE {
            return LONGEST_SPIN;
        }
        let phase = self.pauses / PHASE;
        let tries = phase.is_multiple_of(PROBE) && self.sleep < LONGEST_WORTH_A_TRY;
        if tries || self.gains && phase != PROBE / 2 {
            self.sleep.clamp(LONGEST_SPIN, LONGEST_WORTH_A_TRY)
        } else {
            Duration::ZERO
        }
    }

    /// Whether half of the answers come before a spin for them ends.
    fn drives_are_fast(&self) -> bool {
        self.answer < LONGEST_DRIVE_SPIN || self.silences.is_multiple_of(PROBE)
    }
}

/// A median that follows: it goes one of `parts` up for what is longer, and as much down for what is shorter.
fn towards(median: Duration, seen: Duration, parts: u32) -> Duration {
    let step = (median + Duration::from_micros(8)) / parts;
    if seen > median { seen.min(median + step) } else { seen.max(median.saturating_sub(step)) }
}

#[cfg(test)]
mod tests;
