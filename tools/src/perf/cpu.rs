//! CPUs: which to run on, and how much of their time was used.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::thread::CpuSet;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Kernel ticks per second in `/proc/PID/stat`: what Linux shows to user space on every architecture.
const TICKS_PER_SECOND: u64 = 100;

/// CPUs as a person writes them: `2` or `0,2-4`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuList(pub(crate) Vec<usize>);

impl FromStr for CpuList {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut cpus = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| {
                text.parse::<usize>()
                    .with_context(|| format!("\"{part}\" is no CPU and no range such as 0-3"))
            };
            let (first, last) = (number(first)?, number(last)?);
            if first > last || last >= CpuSet::MAX_CPU {
                bail!("\"{part}\" is no range of CPUs");
            }
            cpus.extend(first..=last);
        }
        Ok(Self(cpus.into_iter().collect()))
    }
}

/// The CPUs that this thread may run on.
pub(crate) fn allowed() -> anyhow::Result<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(None).context("cannot ask which CPUs may be used")?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

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

fn duration(time: Timespec) -> Duration {
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// The CPU time of another process.
#[derive(Clone, Debug)]
pub(crate) struct ProcessClock {
    folder: PathBuf,
}

/// CPU time that each thread of a process had used at some moment, by thread identifier.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading(HashMap<OsString, Duration>);

impl Reading {
    /// CPU time used since an earlier reading. What a thread used that has ended since then is missing.
    pub(crate) fn since(&self, before: &Self) -> Duration {
        let used = |(thread, time): (&OsString, &Duration)| {
            time.saturating_sub(before.0.get(thread).copied().unwrap_or_default())
        };
        self.0.iter().map(used).sum()
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
        let mut times = HashMap::new();
        for task in fs::read_dir(&self.folder)? {
            let task = task?;
            // A thread may end while this looks at it.
            if let Some(time) = scheduler_time(&task.path()).or_else(|| ticks(&task.path())) {
                times.insert(task.file_name(), time);
            }
        }
        Ok(Reading(times))
    }
}

/// Nanoseconds; missing in kernels without CONFIG_SCHED_INFO.
fn scheduler_time(task: &Path) -> Option<Duration> {
    let text = fs::read_to_string(task.join("schedstat")).ok()?;
    Some(Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?))
}

/// User and system time, in ticks.
fn ticks(task: &Path) -> Option<Duration> {
    let text = fs::read_to_string(task.join("stat")).ok()?;
    // The name in parentheses may hold anything; utime and stime are fields 14 and 15, the state is field 3.
    let (_, fields) = text.rsplit_once(')')?;
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
    Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_read() {
        assert_eq!("0".parse::<CpuList>().unwrap().0, [0]);
        assert_eq!("4,0,2-3".parse::<CpuList>().unwrap().0, [0, 2, 3, 4]);
        for wrong in ["", "a", "3-1", "-1", "1-", "0-99999999"] {
            assert!(wrong.parse::<CpuList>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn both_sources_see_the_work_of_a_thread() {
        let own = PathBuf::from("/proc/thread-self");
        let (before, before_ticks) = (scheduler_time(&own).unwrap(), ticks(&own).unwrap());
        let clock = ProcessClock::of(std::process::id()).unwrap();
        let reading = clock.read().unwrap();
        let start = thread_time();
        while thread_time() - start < Duration::from_millis(150) {}
        assert!(scheduler_time(&own).unwrap() - before >= Duration::from_millis(100));
        assert!(ticks(&own).unwrap() - before_ticks >= Duration::from_millis(100));
        assert!(clock.read().unwrap().since(&reading) >= Duration::from_millis(100));
    }

    #[test]
    fn threads_that_begin_count_and_those_that_ended_do_not_take_away() {
        let reading = |threads: &[(&str, u64)]| {
            let entry = |(name, nanos): &(&str, u64)| (OsString::from(name), Duration::from_nanos(*nanos));
            Reading(threads.iter().map(entry).collect())
        };
        let before = reading(&[("1", 100), ("2", 1_000_000)]);
        assert_eq!(reading(&[("1", 150), ("3", 7)]).since(&before), Duration::from_nanos(57));
    }

    #[test]
    fn a_process_that_is_not_there_has_no_clock() {
        assert!(ProcessClock::of(u32::MAX).is_err());
    }
}
