//! When a reactor spins and when it sleeps.
//!
//! Sleeping costs a wake-up: some microseconds of CPU, and as much latency or more. Spinning costs what it spins.
//! So it pays to spin when the next thing is expected sooner than a wake-up takes, and never otherwise.

use std::time::{Duration, Instant};

use super::HOUSEKEEPING;

/// What a reactor does when nothing is there to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Poll {
    /// Spins while the next command is expected soon, sleeps otherwise.
    #[default]
    Adaptive,
    /// Never sleeps: the lowest latency, and a CPU that is always busy.
    Always,
    /// Never spins: sleeps whenever there is nothing to do. Completions of drives are looked for every millisecond then.
    Never,
}

/// What the next wait may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// None: look and go on.
    Look,
    /// So long at most.
    AtMost(Duration),
    /// Until something comes.
    Forever,
}

/// Gaps between events up to which spinning pays: about what it takes to fall asleep and be woken.
const WORTH_SPINNING: Duration = Duration::from_micros(20);
/// Longest time that one silence is spun through. A silence that lasts longer is not like those before it.
const LONGEST_SPIN: Duration = Duration::from_micros(60);
/// The same while drives have commands: they cannot wake a reactor.
const LONGEST_DRIVE_SPIN: Duration = Duration::from_micros(150);
/// How long sleeps between looks at a drive take: what `epoll_wait` takes at least.
const NAP: Duration = Duration::from_millis(1);

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
    /// When something happened last.
    last: Instant,
    /// How far events lie apart, on average.
    gap: Duration,
}

impl Pace {
    pub(super) fn new(poll: Poll, now: Instant) -> Self {
        Self { poll, last: now, gap: Duration::from_millis(1) }
    }

    /// Notes what a turn that began at `now` found: whether anything `happened`.
    pub(super) fn note(&mut self, happened: bool, now: Instant) {
        if happened {
            let gap = now.duration_since(self.last).min(Duration::from_millis(1));
            // An average in which a change shows after a few events.
            self.gap = (self.gap * 3 + gap) / 4;
            self.last = now;
        }
    }

    /// What the next wait may be.
    pub(super) fn wait(&self, outstanding: Outstanding, now: Instant) -> Wait {
        let silence = now.duration_since(self.last);
        let spins = match self.poll {
            Poll::Always => return Wait::Look,
            Poll::Never => false,
            Poll::Adaptive if outstanding != Outstanding::Nothing => silence < LONGEST_DRIVE_SPIN,
            Poll::Adaptive => self.gap < WORTH_SPINNING && silence < LONGEST_SPIN,
        };
        match outstanding {
            _ if spins => Wait::Look,
            Outstanding::Nothing => Wait::Forever,
            // Not for ever: time limits are looked at, and a drive that forgets an interrupt is not waited for.
            Outstanding::Announced => Wait::AtMost(HOUSEKEEPING),
            Outstanding::Silent => Wait::AtMost(NAP),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    /// A pace after events that came `gap` apart, and when the last of them was.
    fn after_gaps(poll: Poll, gap: Duration) -> (Pace, Instant) {
        let mut now = Instant::now();
        let mut pace = Pace::new(poll, now);
        for _ in 0..50 {
            now += gap;
            pace.note(true, now);
        }
        (pace, now)
    }

    #[test]
    fn it_sleeps_when_idle_however_busy_it_was() {
        let (pace, now) = after_gaps(Poll::Adaptive, micros(5));
        assert_eq!(pace.wait(Outstanding::Nothing, now + micros(10)), Wait::Look);
        assert_eq!(pace.wait(Outstanding::Nothing, now + micros(100)), Wait::Forever);
    }

    #[test]
    fn it_does_not_spin_for_events_that_are_far_apart() {
        let (pace, now) = after_gaps(Poll::Adaptive, micros(200));
        assert_eq!(pace.wait(Outstanding::Nothing, now), Wait::Forever);
    }

    #[test]
    fn it_spins_for_drives_and_then_looks_at_them_now_and_then() {
        let (pace, now) = after_gaps(Poll::Adaptive, micros(200));
        assert_eq!(pace.wait(Outstanding::Silent, now + micros(10)), Wait::Look);
        assert_eq!(pace.wait(Outstanding::Silent, now + micros(200)), Wait::AtMost(NAP));
        assert_eq!(pace.wait(Outstanding::Announced, now + micros(200)), Wait::AtMost(HOUSEKEEPING));
    }

    #[test]
    fn always_and_never_mean_what_they_say() {
        let (pace, now) = after_gaps(Poll::Always, micros(500));
        assert_eq!(pace.wait(Outstanding::Nothing, now + Duration::from_secs(9)), Wait::Look);
        let (pace, now) = after_gaps(Poll::Never, micros(1));
        assert_eq!(pace.wait(Outstanding::Nothing, now), Wait::Forever);
        assert_eq!(pace.wait(Outstanding::Silent, now), Wait::AtMost(NAP));
    }
}
