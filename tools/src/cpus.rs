//! CPUs as a person writes them, and those that may be used.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use anyhow::{Context, bail};
use rustix::thread::CpuSet;

/// CPUs such as `2` or `0,2-4`, in rising order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuList(pub(crate) Vec<usize>);

impl FromStr for CpuList {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut cpus = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| {
                text.trim()
                    .parse::<usize>()
                    .with_context(|| format!("`{part}` is no CPU and no range such as 0-3"))
            };
            let (first, last) = (number(first)?, number(last)?);
            if first > last || last >= CpuSet::MAX_CPU {
                bail!("`{part}` is no range of CPUs");
            }
            cpus.extend(first..=last);
        }
        Ok(Self(cpus.into_iter().collect()))
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = &self.0[..];
        let mut separator = "";
        while let Some((&first, _)) = rest.split_first() {
            let length = rest.iter().enumerate().take_while(|(at, cpu)| **cpu == first + at).count();
            let last = first + length - 1;
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ",";
            rest = &rest[length..];
        }
        Ok(())
    }
}

/// The CPUs that this thread may run on.
///
/// # Errors
/// The kernel does not say.
pub(crate) fn allowed() -> anyhow::Result<CpuList> {
    let set = rustix::thread::sched_getaffinity(None).context("cannot ask which CPUs may be used")?;
    Ok(CpuList((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_read_and_written() {
        let list = |text: &str| text.parse::<CpuList>().unwrap();
        assert_eq!(list("0").0, [0]);
        assert_eq!(list("4,0,2-3").0, [0, 2, 3, 4]);
        for wrong in ["", "a", "3-1", "-1", "1-", "0-99999999"] {
            assert!(wrong.parse::<CpuList>().is_err(), "{wrong}");
        }
        assert_eq!(list("0,2,3,4,9").to_string(), "0,2-4,9");
    }

    #[test]
    fn some_cpu_may_be_used() {
        assert!(!allowed().unwrap().0.is_empty());
    }
}
