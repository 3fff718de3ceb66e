//! Whoever else wants the reactor's CPU.
//!
//! An answer may wake somebody on the very CPU that it was sent from: a host's own kernel, where hosts and target share
//! a machine. The scheduler lets a thread that has the CPU go on for a while, here until it falls asleep, and the way
//! there takes a tenth of such a host's time. A reactor that has nothing more to do gives way at once instead. Where it
//! has the CPU to itself that is a system call in vain, so it looks now and then whether it is.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Of how many times that it falls asleep a reactor tries once whether anybody waits.
const PROBE: u32 = 64;

/// What a reactor knows of who waits for its CPU when it falls asleep.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    /// What the scheduler says of this thread. `None` when it says nothing; then nobody is let go first.
    statistics: Option<File>,
    /// Somebody waited the last time that was tried.
    wait: bool,
    /// How often it fell asleep, around.
    sleeps: u32,
}

impl Neighbours {
    /// Those of the thread that calls this.
    pub(super) fn of_this_thread() -> Self {
        Self { statistics: File::open("/proc/thread-self/schedstat").ok(), ..Self::default() }
    }

    /// Lets them go first, if there were some lately.
    pub(super) fn go_first(&mut self) {
        self.sleeps = self.sleeps.wrapping_add(1);
        if self.sleeps.is_multiple_of(PROBE) {
            let before = self.slices();
            rustix::thread::sched_yield();
            self.wait = before.is_some() && self.slices() != before;
        } else if self.wait {
            rustix::thread::sched_yield();
        }
    }

    /// How often this thread was given a CPU (proc(5), the last number of `schedstat`).
    fn slices(&self) -> Option<u64> {
        let mut text = [0; 64];
        let length = self.statistics.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..length]).ok()?;
        text.split_ascii_whitespace().next_back()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// What a thread on `cpu` finds out, and how often it found that somebody waited in `tries` probes.
    fn probes(tries: u32) -> u32 {
        let mut neighbours = Neighbours::of_this_thread();
        (0..tries)
            .filter(|_| {
                (0..PROBE).for_each(|_| neighbours.go_first());
                neighbours.wait
            })
            .count() as u32
    }

    #[test]
    fn somebody_on_the_same_cpu_is_noticed() {
        let cpus = rustix::thread::sched_getaffinity(None).unwrap();
        let cpu = (0..1024).find(|cpu| cpus.is_set(*cpu)).unwrap();
        let pin = move || {
            let mut only = rustix::thread::CpuSet::new();
            only.set(cpu);
            rustix::thread::sched_setaffinity(None, &only).unwrap();
        };
        let stop = Arc::new(AtomicBool::new(false));
        let busy = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                pin();
                while !stop.load(Ordering::Relaxed) {
                    rustix::thread::sched_yield();
                }
            })
        };
        let found = std::thread::spawn(move || {
            pin();
            probes(50)
        })
        .join()
        .unwrap();
        stop.store(true, Ordering::Relaxed);
        busy.join().unwrap();
        assert!(found > 25, "somebody waited all the time, and was noticed {found} times of 50");
    }

    #[test]
    fn without_the_schedulers_statistics_nobody_is_let_go_first() {
        let mut neighbours = Neighbours::default();
        (0..3 * PROBE).for_each(|_| neighbours.go_first());
        assert!(!neighbours.wait);
    }
}
