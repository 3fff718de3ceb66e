//! How much of its CPUs a thread or a process used.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rustix::thread::CpuSet;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Kernel ticks per second in `/proc/PID/stat`: what Linux shows to user space on every architecture.
const TICKS_PER_SECOND: u64 = 100;

/// Keeps this thread, and what it starts from now on, on some CPUs.
pub(crate) fn pin(cpus: &[usize]) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    rustix::thread::sched_setaffinity(None, &set)
        .with_context(|| format!("cannot run on CPU {cpus:?}: is it there, and allowed (`taskset -p $$`)?"))
}

/// CPU time that this thread has used.
pub(crate) fn thread_time() -> Duration {
    duration(clock_gettime(ClockId::ThreadCPUTime))
}

/// What this thread has used and missed so far.
pub(crate) fn thread_usage() -> Usage {
    let waited = scheduler_statistics(Path::new("/proc/thread-self")).unwrap_or_default().waited;
    Usage { cpu: thread_time(), waited }
}

/// What a thread, or all threads of a process, had of the processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Time that it ran.
    pub(crate) cpu: Duration,
    /// Time that it could have run, had it not been for others. Without CONFIG_SCHED_INFO it is not known, and zero.
    pub(crate) waited: Duration,
}

impl Usage {
    /// What was added since an earlier look.
    pub(crate) fn since(self, before: Self) -> Self {
        let cpu = self.cpu.saturating_sub(before.cpu);
        Self { cpu, waited: self.waited.saturating_sub(before.waited) }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.cpu += other.cpu;
        self.waited += other.waited;
    }
}

fn duration(time: Timespec) -> Duration {
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// The CPU time of another process.
#[derive(Clone, Debug)]
pub(crate) struct ProcessClock {
    folder: PathBuf,
}

/// What each thread of a process had used at some moment, by thread identifier.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading(HashMap<OsString, Usage>);

impl Reading {
    /// What was used since an earlier reading. What a thread used that has ended since then is missing.
    pub(crate) fn since(&self, before: &Self) -> Usage {
        let mut sum = Usage::default();
        for (thread, usage) in &self.0 {
            sum += usage.since(before.0.get(thread).copied().unwrap_or_default());
        }
        sum
    }
}

impl ProcessClock {
    /// The clock of a process.
    ///
    /// # Errors
    /// There is no such process.
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let clock = Self { folder: format!("/proc/{pid}/task").into() };
        clock.read().with_context(|| format!("cannot read the CPU time of process {pid}"))?;
        Ok(clock)
    }

    /// What its threads have used so far. Of a thread that runs just now, what it has used since the last timer tick
    /// is missing.
    ///
    /// # Errors
    /// The process has ended.
    pub(crate) fn read(&self) -> io::Result<Reading> {
        let mut threads = HashMap::new();
        for task in fs::read_dir(&self.folder)? {
            let task = task?;
            // A thread may end while this looks at it.
            if let Some(usage) = scheduler_statistics(&task.path()).or_else(|| ticks(&task.path())) {
                threads.insert(task.file_name(), usage);
            }
        }
        Ok(Reading(threads))
    }
}

/// Nanoseconds; missing in kernels without CONFIG_SCHED_INFO.
fn scheduler_statistics(task: &Path) -> Option<Usage> {
    let text = fs::read_to_string(task.join("schedstat")).ok()?;
    let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok().map(Duration::from_nanos));
    Some(Usage { cpu: numbers.next()?, waited: numbers.next()? })
}

/// User and system time, in ticks.
fn ticks(task: &Path) -> Option<Usage> {
    let text = fs::read_to_string(task.join("stat")).ok()?;
    // The name in parentheses may hold anything; utime and stime are fields 14 and 15, the state is field 3.
    let (_, fields) = text.rsplit_once(')')?;
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
    Some(Usage { cpu: Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND), waited: Duration::ZERO })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sources_see_the_work_of_a_thread() {
        let own = PathBuf::from("/proc/thread-self");
        let (before, before_ticks) = (scheduler_statistics(&own).unwrap(), ticks(&own).unwrap());
        let clock = ProcessClock::of(std::process::id()).unwrap();
        let reading = clock.read().unwrap();
        let start = thread_time();
        while thread_time() - start < Duration::from_millis(150) {}
        assert!(scheduler_statistics(&own).unwrap().since(before).cpu >= Duration::from_millis(100));
        assert!(ticks(&own).unwrap().since(before_ticks).cpu >= Duration::from_millis(100));
        assert!(clock.read().unwrap().since(&reading).cpu >= Duration::from_millis(100));
    }

    #[test]
    fn threads_that_begin_count_and_those_that_ended_do_not_take_away() {
        let reading = |threads: &[(&str, u64)]| {
            let usage =
                |nanos| Usage { cpu: Duration::from_nanos(nanos), waited: Duration::from_nanos(2 * nanos) };
            Reading(threads.iter().map(|(name, nanos)| (OsString::from(name), usage(*nanos))).collect())
        };
        let before = reading(&[("1", 100), ("2", 1_000_000)]);
        let used = reading(&[("1", 150), ("3", 7)]).since(&before);
        assert_eq!((used.cpu, used.waited), (Duration::from_nanos(57), Duration::from_nanos(114)));
    }

    #[test]
    fn a_process_that_is_not_there_has_no_clock() {
        assert!(ProcessClock::of(u32::MAX).is_err());
    }
}
