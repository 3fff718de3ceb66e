//! Whoever else wants the reactor's CPU.
//!
//! An answer may wake somebody on the very CPU that it was sent from: the kernel of a host on the same machine. The
//! scheduler lets a thread that has the CPU go on until it falls asleep, and the way there is a twelfth of the time of
//! such a host's command in a small virtual machine. A reactor that is about to fall asleep behind its answers gives way
//! first instead. Where it has the CPU to itself that is a system call in vain, and where somebody computes all the time
//! it is a long wait for nothing: so it tries now and then, and goes on only while it helps.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Of how many times that it falls asleep a reactor tries once whether anybody waits.
const PROBE: u32 = 64;
/// The same at most while those who wait run for long.
const RARELY: u32 = 64 * PROBE;
/// Whoever runs for longer was not about to bring the next command. The scheduler lets those who compute go on for some
/// milliseconds.
const LONGEST_TURN: Duration = Duration::from_millis(1);
/// The same for turns on average.
const LONGEST_AVERAGE: Duration = Duration::from_micros(400);
/// A turn counts as no longer than this: a single one may be an accident.
const HEAVIEST_TURN: Duration = Duration::from_millis(2);

/// Those who wait for the CPU of a thread when it falls asleep.
#[derive(Debug)]
pub(super) struct Neighbours {
    /// What the scheduler says of this thread. `None` when it says nothing; then nobody is let go first.
    statistics: Option<File>,
    experience: Experience,
}

impl Neighbours {
    /// Nobody is let go first.
    pub(super) fn unknown() -> Self {
        Self { statistics: None, experience: Experience::default() }
    }

    /// Those of the thread that calls this.
    pub(super) fn of_this_thread() -> Self {
        Self { statistics: File::open("/proc/thread-self/schedstat").ok(), ..Self::unknown() }
    }

    /// Lets them go first, if there were some lately. Whether it gave way, to somebody or to nobody.
    pub(super) fn go_first(&mut self) -> bool {
        match self.experience.next() {
            Step::Nothing => return false,
            Step::GiveWay => self.experience.gave_way(give_way()),
            Step::Probe => {
                let Some(before) = self.slices() else { return false };
                let away = give_way();
                let somebody = self.slices().is_some_and(|slices| slices != before);
                self.experience.probed(somebody, away);
            }
        }
        true
    }

    /// How often this thread was given a CPU (proc(5), the last number of `schedstat`).
    fn slices(&self) -> Option<u64> {
        let mut text = [0; 64];
        let length = self.statistics.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..length]).ok()?;
        text.split_ascii_whitespace().next_back()?.parse().ok()
    }
}

/// Gives way once. How long that took.
pub(super) fn give_way() -> Duration {
    let begin = Instant::now();
    rustix::thread::sched_yield();
    begin.elapsed()
}

/// What to do as the reactor falls asleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    GiveWay,
    /// The same, and look whether somebody had the CPU.
    Probe,
}

/// What was learnt of the neighbours.
#[derive(Debug)]
struct Experience {
    /// Somebody waited at the last probe, and is soon done as a rule.
    wait: bool,
    /// How long their turns are.
    average: Duration,
    /// How often the reactor falls asleep between two probes, and until the next.
    interval: u32,
    until_probe: u32,
}

impl Default for Experience {
    fn default() -> Self {
        Self { wait: false, average: Duration::ZERO, interval: PROBE, until_probe: PROBE }
    }
}

impl Experience {
    fn next(&mut self) -> Step {
        self.until_probe -= 1;
        if self.until_probe == 0 {
            self.until_probe = self.interval;
            Step::Probe
        } else if self.wait {
            Step::GiveWay
        } else {
            Step::Nothing
        }
    }

    /// They had the CPU for so long, if there were any.
    fn gave_way(&mut self, away: Duration) {
        self.average = (self.average * 7 + away.min(HEAVIEST_TURN)) / 8;
        self.wait = self.average < LONGEST_AVERAGE;
    }

    fn probed(&mut self, somebody: bool, away: Duration) {
        if self.wait {
            self.gave_way(away);
        } else {
            self.average = away;
            self.wait = away < LONGEST_TURN;
        }
        let is_heavy = !self.wait;
        self.wait &= somebody;
        self.interval = if is_heavy { (self.interval * 2).min(RARELY) } else { PROBE };
        self.until_probe = self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(30);
    const LONG: Duration = Duration::from_millis(3);

    /// How often a reactor gives way of `sleeps` times, when that lets `turn(number)` run for so long.
    fn gives_way(
        experience: &mut Experience,
        sleeps: u32,
        mut turn: impl FnMut(u32) -> Option<Duration>,
    ) -> u32 {
        let mut count = 0;
        for _ in 0..sleeps {
            let step = experience.next();
            if step == Step::Nothing {
                continue;
            }
            count += 1;
            let ran = turn(count);
            let away = ran.unwrap_or_default();
            match step {
                Step::Probe => experience.probed(ran.is_some(), away),
                _ => experience.gave_way(away),
            }
        }
        count
    }

    #[test]
    fn somebody_who_is_soon_done_is_let_go_first_each_time() {
        let mut experience = Experience::default();
        assert_eq!(gives_way(&mut experience, 10 * PROBE, |_| Some(SHORT)), 9 * PROBE + 1);
    }

    #[test]
    fn where_nobody_waits_it_tries_one_time_of_64() {
        let mut experience = Experience::default();
        assert_eq!(gives_way(&mut experience, 10 * PROBE, |_| None), 10);
        // One who came and went.
        gives_way(&mut experience, 2 * PROBE, |_| Some(SHORT));
        assert!(gives_way(&mut experience, 100 * PROBE, |_| None) < 99 + 2 * PROBE);
    }

    #[test]
    fn somebody_who_computes_all_the_time_is_not_waited_for() {
        let mut experience = Experience::default();
        assert!(gives_way(&mut experience, 1000 * PROBE, |_| Some(LONG)) < 30);
        // And is forgotten when he has gone.
        gives_way(&mut experience, RARELY, |_| Some(SHORT));
        assert_eq!(gives_way(&mut experience, PROBE, |_| Some(SHORT)), PROBE);
    }

    #[test]
    fn somebody_who_computes_half_of_the_time_is_hardly_waited_for() {
        let mut experience = Experience::default();
        let turn = |number: u32| Some(if number.is_multiple_of(2) { SHORT } else { LONG });
        assert!(gives_way(&mut experience, 100 * PROBE, turn) < 600);
    }

    #[test]
    fn a_long_turn_now_and_then_does_not_matter() {
        let mut experience = Experience::default();
        let turn = |number: u32| Some(if number.is_multiple_of(25) { LONG } else { SHORT });
        assert!(gives_way(&mut experience, 100 * PROBE, turn) > 90 * PROBE);
    }

    #[test]
    fn what_the_scheduler_says_is_understood() {
        let mut neighbours = Neighbours::of_this_thread();
        // Kernels may be built without it.
        let Some(before) = neighbours.slices().filter(|slices| *slices > 0) else { return };
        std::thread::sleep(Duration::from_millis(1));
        assert!(neighbours.slices().unwrap() > before);
        neighbours.experience.until_probe = 1;
        assert!(neighbours.go_first());
    }

    #[test]
    fn without_the_schedulers_statistics_nobody_is_let_go_first() {
        let mut neighbours = Neighbours::unknown();
        assert!((0..3 * PROBE).all(|_| !neighbours.go_first()));
    }
}
