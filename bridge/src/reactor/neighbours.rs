//! Whoever else wants the reactor's CPU.
//!
//! An answer may wake somebody on the very CPU that it was sent from: the kernel of a host on the same machine. The
//! scheduler lets a thread that has the CPU go on until it falls asleep, and the way there is a twentieth of the time of
//! such a host's command in a small virtual machine. A reactor that is about to fall asleep behind its answers gives way
//! first instead. Where it has the CPU to itself that is a system call in vain, and where somebody computes all the time
//! it is a long wait for nothing: so it tries now and then, and goes on only while it helps.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Of how many times that it falls asleep a reactor tries once whether anybody waits.
const PROBE: u32 = 64;
/// The same while those who wait run for long.
const RARELY: u32 = 64 * PROBE;
/// Whoever runs for longer was not about to bring the next command. The scheduler lets those who compute go on for some
/// milliseconds.
const LONGEST_TURN: Duration = Duration::from_millis(1);

/// What a reactor knows of who waits for its CPU when it falls asleep.
#[derive(Debug)]
pub(super) struct Neighbours {
    /// What the scheduler says of this thread. `None` when it says nothing; then nobody is let go first.
    statistics: Option<File>,
    /// Somebody waited the last time that was tried, and was soon done.
    wait: bool,
    /// How often it falls asleep until it tries again.
    until_probe: u32,
}

impl Neighbours {
    /// Nobody is let go first.
    pub(super) fn unknown() -> Self {
        Self { statistics: None, wait: false, until_probe: PROBE }
    }

    /// Those of the thread that calls this.
    pub(super) fn of_this_thread() -> Self {
        Self { statistics: File::open("/proc/thread-self/schedstat").ok(), ..Self::unknown() }
    }

    /// Lets them go first, if there were some lately. Whether it gave way, to somebody or to nobody.
    pub(super) fn go_first(&mut self) -> bool {
        self.until_probe -= 1;
        if self.until_probe > 0 {
            if self.wait && give_way() > LONGEST_TURN {
                self.wait = false;
            }
            return self.wait;
        }
        self.until_probe = PROBE;
        let Some(before) = self.slices() else { return false };
        let away = give_way();
        self.wait = self.slices().is_some_and(|slices| slices != before) && away <= LONGEST_TURN;
        if away > LONGEST_TURN {
            self.until_probe = RARELY;
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
fn give_way() -> Duration {
    let begin = Instant::now();
    rustix::thread::sched_yield();
    begin.elapsed()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Barrier};

    use super::*;

    fn pin(cpu: usize) {
        let mut only = rustix::thread::CpuSet::new();
        only.set(cpu);
        rustix::thread::sched_setaffinity(None, &only).unwrap();
    }

    /// Of `tries` probes beside a thread on the same CPU that does `what` all the time, how many found that somebody waits
    /// who is soon done. `None` where the scheduler keeps no statistics.
    fn found(tries: u32, what: fn()) -> Option<u32> {
        let cpus = rustix::thread::sched_getaffinity(None).unwrap();
        let cpu = (0..1024).find(|cpu| cpus.is_set(*cpu)).unwrap();
        let (stop, both) = (Arc::new(AtomicBool::new(false)), Arc::new(Barrier::new(2)));
        let beside = {
            let (stop, both) = (Arc::clone(&stop), Arc::clone(&both));
            std::thread::spawn(move || {
                pin(cpu);
                both.wait();
                while !stop.load(Ordering::Relaxed) {
                    what();
                }
            })
        };
        let probing = std::thread::spawn(move || {
            pin(cpu);
            both.wait();
            let mut neighbours = Neighbours::of_this_thread();
            neighbours.slices().filter(|slices| *slices > 0)?;
            let probe = |_: &u32| {
                neighbours.until_probe = 1;
                assert!(neighbours.go_first());
                neighbours.wait
            };
            Some((0..tries).filter(probe).count() as u32)
        });
        let found = probing.join();
        stop.store(true, Ordering::Relaxed);
        beside.join().unwrap();
        found.unwrap()
    }

    #[test]
    fn somebody_who_is_soon_done_is_let_go_first() {
        let Some(found) = found(50, rustix::thread::sched_yield) else { return };
        assert!(found > 25, "somebody waited all the time, and was noticed {found} times of 50");
    }

    #[test]
    fn somebody_who_computes_all_the_time_is_not_waited_for() {
        let Some(found) = found(20, std::hint::spin_loop) else { return };
        assert!(found < 10, "{found} times of 20");
    }

    #[test]
    fn without_the_schedulers_statistics_nobody_is_let_go_first() {
        let mut neighbours = Neighbours::unknown();
        assert!((0..3 * PROBE).all(|_| !neighbours.go_first()));
    }
}
