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
    /// Never spins: sleeps whenever there is nothing to do. Completions of drives that do not interrupt are looked for
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

/// Silences up to which spinning pays: about what it takes to fall asleep and be woken.
const WORTH_SPINNING: Duration = Duration::from_micros(10);
/// By how much a silence that is slept through looks longer than it is. Without this a reactor that once slept would
/// find none worth spinning again.
const WAKE_UP: Duration = Duration::from_micros(12);
/// Silences of hosts are taken for no longer than this, so that a pause is soon forgotten.
const LONGEST_PAUSE: Duration = Duration::from_millis(1);
/// Longest time that one silence is spun through. A silence that lasts longer is not like those before it.
const LONGEST_SPIN: Duration = Duration::from_micros(60);
/// The same while drives have commands.
const LONGEST_DRIVE_SPIN: Duration = Duration::from_micros(150);
/// Of how many silences of slow drives one is spun through, to learn whether they still are.
const PROBE: u32 = 16;
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
    /// How long nothing happens, on average, while drives have no commands.
    pause: Duration,
    /// What half of the silences are shorter than while drives have commands: the few long ones, which every drive has,
    /// do not make it slow. Spins and naps teach it: what an interrupt ends looks longer than it is by a wake-up.
    answer: Duration,
    /// Whether drives had commands at the last wait.
    awaited: bool,
    /// Whether this silence teaches `answer`.
    watched: bool,
    /// Since when this silence is slept through.
    asleep_since: Option<Instant>,
    /// Silences of drives so far, around.
    silences: u32,
}

impl Pace {
    pub(super) fn new(poll: Poll) -> Self {
        Self {
            poll,
            quiet_since: None,
            pause: LONGEST_PAUSE,
            answer: Duration::ZERO,
            awaited: false,
            watched: false,
            asleep_since: None,
            silences: 0,
        }
    }

    /// Notes what a turn that began at `now` found: whether anything `happened`.
    pub(super) fn note(&mut self, happened: bool, now: Instant) {
        if happened {
            // What came before it slept woke nobody.
            let slept = self.asleep_since.map_or(Duration::ZERO, |since| now.duration_since(since));
            let woken = slept.min(WAKE_UP);
            let pause = self.silence(now).saturating_sub(woken).min(LONGEST_PAUSE);
            // Averages in which a change shows after a few events.
            self.pause = (self.pause * 3 + pause) / 4;
            if self.watched {
                self.answer = towards(self.answer, self.silence(now).min(LONGEST_SILENCE));
            }
            self.quiet_since = None;
            self.silences = self.silences.wrapping_add(self.awaited.into());
            self.watched = false;
            self.asleep_since = None;
        } else {
            self.quiet_since.get_or_insert(now);
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

    /// What the next wait may be.
    pub(super) fn wait(&mut self, outstanding: Outstanding, now: Instant) -> Wait {
        self.awaited = outstanding != Outstanding::Nothing;
        let spins = match self.poll {
            Poll::Always => return Wait::Look,
            Poll::Never => false,
            Poll::Adaptive if self.awaited => {
                self.silence(now) < LONGEST_DRIVE_SPIN && self.drives_are_fast()
            }
            Poll::Adaptive => self.pause < WORTH_SPINNING && self.silence(now) < LONGEST_SPIN,
        };
        self.watched |= self.awaited && (spins || outstanding == Outstanding::Silent);
        match outstanding {
            // Not worth the system call elsewhere, where spins are short and the next command is near.
            Outstanding::Announced | Outstanding::Silent if spins => Wait::GiveWay,
            Outstanding::Nothing if spins => Wait::Look,
            Outstanding::Nothing => Wait::Forever,
            // Not for ever: time limits are looked at, and a drive that forgets an interrupt is not waited for.
            Outstanding::Announced => Wait::AtMost(HOUSEKEEPING),
            Outstanding::Silent => Wait::AtMost((self.answer / 8).clamp(SHORTEST_NAP, LONGEST_NAP)),
        }
    }

    /// Notes that the reactor falls asleep at `now`, in a silence.
    pub(super) fn sleeps(&mut self, now: Instant) {
        self.asleep_since.get_or_insert(now);
    }

    /// Whether half of the answers come before a spin for them ends.
    fn drives_are_fast(&self) -> bool {
        self.answer < LONGEST_DRIVE_SPIN || self.silences.is_multiple_of(PROBE)
    }
}

/// A median that follows: it goes an eighth up for what is longer, and an eighth down for what is shorter.
fn towards(median: Duration, seen: Duration) -> Duration {
    let step = median / 8 + Duration::from_micros(1);
    if seen > median { seen.min(median + step) } else { seen.max(median.saturating_sub(step)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    /// A pace after silences of this length, and when the last of them began.
    fn after_silences(poll: Poll, silence: Duration) -> (Pace, Instant) {
        let mut now = Instant::now();
        let mut pace = Pace::new(poll);
        for _ in 0..50 {
            pace.note(false, now);
            now += silence;
            pace.note(true, now);
        }
        pace.note(false, now);
        (pace, now)
    }

    #[test]
    fn it_sleeps_when_idle_however_busy_it_was() {
        let (mut pace, now) = after_silences(Poll::Adaptive, micros(5));
        assert_eq!(pace.wait(Outstanding::Nothing, now + micros(10)), Wait::Look);
        assert_eq!(pace.wait(Outstanding::Nothing, now + micros(100)), Wait::Forever);
    }

    #[test]
    fn it_spins_again_when_silences_are_short_but_for_its_own_waking_up() {
        let (mut pace, mut now) = after_silences(Poll::Adaptive, micros(200));
        for _ in 0..50 {
            assert_eq!(pace.wait(Outstanding::Nothing, now), Wait::Forever);
            pace.falls_silent(now);
            pace.sleeps(now);
            now += micros(18);
            pace.note(true, now);
            if pace.wait(Outstanding::Nothing, now) == Wait::Look {
                return;
            }
        }
        panic!("it sleeps, and so takes 6 us for 18");
    }

    #[test]
    fn a_silence_that_ends_as_it_falls_asleep_is_as_long_as_it_is() {
        let (mut pace, mut now) = after_silences(Poll::Adaptive, micros(200));
        for _ in 0..50 {
            assert_eq!(pace.wait(Outstanding::Nothing, now), Wait::Forever, "it takes 6 us for 18");
            pace.falls_silent(now);
            pace.sleeps(now + micros(17));
            now += micros(18);
            pace.note(true, now);
        }
    }

    #[test]
    fn it_does_not_spin_for_events_that_are_far_apart() {
        let (mut pace, now) = after_silences(Poll::Adaptive, micros(200));
        assert_eq!(pace.wait(Outstanding::Nothing, now), Wait::Forever);
    }

    #[test]
    fn it_spins_for_drives_and_then_looks_at_them_now_and_then() {
        let (mut pace, now) = after_silences(Poll::Adaptive, micros(200));
        pace.note(false, now);
        assert_eq!(pace.wait(Outstanding::Silent, now + micros(10)), Wait::GiveWay);
        assert_eq!(pace.wait(Outstanding::Silent, now + micros(200)), Wait::AtMost(SHORTEST_NAP));
        assert_eq!(pace.wait(Outstanding::Announced, now + micros(200)), Wait::AtMost(HOUSEKEEPING));
    }

    #[test]
    fn it_sleeps_at_once_when_drives_are_slow_but_looks_again_whether_they_still_are() {
        let mut now = Instant::now();
        let mut pace = Pace::new(Poll::Adaptive);
        let mut answer_after = |pace: &mut Pace, gap| {
            let wait = pace.wait(Outstanding::Announced, now);
            pace.note(false, now);
            now += gap;
            pace.note(true, now);
            wait
        };
        for _ in 0..40 * PROBE {
            answer_after(&mut pace, micros(600));
        }
        let spins = (0..PROBE).filter(|_| answer_after(&mut pace, micros(600)) == Wait::GiveWay).count();
        assert_eq!(spins, 1);
        for _ in 0..20 * PROBE {
            answer_after(&mut pace, micros(50));
        }
        assert_eq!(answer_after(&mut pace, micros(50)), Wait::GiveWay);
    }

    #[test]
    fn it_goes_on_spinning_for_a_fast_drive_of_which_some_answers_take_long() {
        let mut now = Instant::now();
        let mut pace = Pace::new(Poll::Adaptive);
        for command in 0..1000 {
            assert_eq!(pace.wait(Outstanding::Announced, now), Wait::GiveWay, "command {command}");
            pace.note(false, now);
            now += if command % 5 == 4 { Duration::from_millis(5) } else { micros(60) };
            pace.note(true, now);
        }
    }

    #[test]
    fn it_naps_longer_for_drives_that_take_longer() {
        let mut now = Instant::now();
        let mut pace = Pace::new(Poll::Never);
        for _ in 0..100 {
            pace.wait(Outstanding::Silent, now);
            pace.note(false, now);
            now += Duration::from_millis(4);
            pace.note(true, now);
        }
        let Wait::AtMost(nap) = pace.wait(Outstanding::Silent, now) else { panic!("it must sleep") };
        assert!(nap > micros(400) && nap <= micros(500), "{nap:?}");
    }

    #[test]
    fn always_and_never_mean_what_they_say() {
        let (mut pace, now) = after_silences(Poll::Always, micros(500));
        assert_eq!(pace.wait(Outstanding::Nothing, now + Duration::from_secs(9)), Wait::Look);
        let (mut pace, now) = after_silences(Poll::Never, micros(1));
        assert_eq!(pace.wait(Outstanding::Nothing, now), Wait::Forever);
        assert_eq!(pace.wait(Outstanding::Silent, now), Wait::AtMost(SHORTEST_NAP));
    }
}
