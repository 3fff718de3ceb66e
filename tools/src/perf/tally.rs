//! What was measured.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::cpu::Usage;

/// Longest latency that is told apart from longer ones, in nanoseconds.
const LONGEST: u64 = 100_000_000_000;
/// Significant digits of latencies.
const DIGITS: u8 = 3;

/// What one thread, or all of them, did in the measured time.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Latencies of reads, in nanoseconds.
    pub(crate) reads: Histogram<u64>,
    /// Latencies of writes, in nanoseconds.
    pub(crate) writes: Histogram<u64>,
    /// How long was measured.
    pub(crate) elapsed: Duration,
    /// What the load generator had of the processor meanwhile.
    pub(crate) usage: Usage,
    /// Blocks read with `--verify` that carried no stamp.
    pub(crate) unstamped: u64,
}

impl Tally {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("constant bounds that are valid");
        Self {
            reads: histogram(),
            writes: histogram(),
            elapsed: Duration::ZERO,
            usage: Usage::default(),
            unstamped: 0,
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.reads.reset();
        self.writes.reset();
    }

    /// Notes a command that took `nanos`.
    #[inline]
    pub(crate) fn record(&mut self, write: bool, nanos: u64) {
        let histogram = if write { &mut self.writes } else { &mut self.reads };
        histogram.saturating_record(nanos.max(1));
    }

    /// Commands.
    pub(crate) fn ios(&self) -> u64 {
        self.reads.len() + self.writes.len()
    }

    /// Adds what another thread did at the same time.
    pub(crate) fn merge(&mut self, other: &Self) {
        // Both have the same bounds, so that every value of one has its place in the other.
        for (mine, theirs) in [(&mut self.reads, &other.reads), (&mut self.writes, &other.writes)] {
            mine.add(theirs).unwrap_or_else(|_| unreachable!("the same bounds"));
        }
        self.elapsed = self.elapsed.max(other.elapsed);
        self.usage += other.usage;
        self.unstamped += other.unstamped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_added_up() {
        let (mut a, mut b) = (Tally::new(), Tally::new());
        a.record(false, 1000);
        a.elapsed = Duration::from_secs(2);
        b.record(false, 3000);
        b.record(true, u64::MAX);
        b.elapsed = Duration::from_secs(1);
        b.usage.cpu = Duration::from_millis(5);
        a.merge(&b);
        assert_eq!((a.ios(), a.reads.len(), a.writes.len()), (3, 2, 1));
        assert_eq!((a.elapsed, a.usage.cpu), (Duration::from_secs(2), Duration::from_millis(5)));
        assert!(a.writes.max() >= LONGEST);
        a.clear();
        assert_eq!(a.ios(), 0);
    }
}
