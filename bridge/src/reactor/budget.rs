//! The part of a reactor's memory that one connection may have, and for how long its host may do nothing with it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What one connection takes of the memory that it shares with others, for one direction.
#[derive(Debug)]
pub(super) struct Budget {
    /// Bytes taken or waited for.
    pub(super) used: usize,
    /// Commands that wait until `used` falls.
    pub(super) held: VecDeque<usize>,
}

impl Budget {
    /// A budget for a queue of `depth` entries.
    pub(super) fn new(depth: usize) -> Self {
        Self { used: 0, held: VecDeque::with_capacity(depth + 1) }
    }

    /// Whether `length` bytes more would be too many. One command always has its way.
    pub(super) fn is_beyond(&self, length: usize, limit: usize) -> bool {
        self.used > 0 && self.used + length > limit
    }

    pub(super) fn give_back(&mut self, length: usize) {
        self.used = self.used.saturating_sub(length);
    }
}

/// Bytes that count as progress. A host that doles its data out byte by byte keeps memory as long as one that stops.
const PROGRESS: u64 = 64 << 10;

/// Since when a host has done next to nothing about what it owes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watch {
    progress: u64,
    since: Option<Instant>,
}

impl Watch {
    /// For how long a host that `owes` something has made no progress. It is looked at from time to time only.
    pub(super) fn idle_for(&mut self, owes: bool, progress: u64, now: Instant) -> Duration {
        if !owes || progress.wrapping_sub(self.progress) >= PROGRESS || self.since.is_none() {
            *self = Self { progress, since: owes.then_some(now) };
        }
        self.since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_command_has_its_way_however_large_it_is() {
        let mut budget = Budget::new(4);
        assert!(!budget.is_beyond(100, 10));
        budget.used += 100;
        assert!(budget.is_beyond(1, 10));
        budget.give_back(95);
        assert!(!budget.is_beyond(5, 10));
        assert!(budget.is_beyond(6, 10));
    }

    #[test]
    fn a_host_is_idle_while_it_owes_something_and_makes_no_progress() {
        let start = Instant::now();
        let mut watch = Watch::default();
        assert_eq!(watch.idle_for(false, 0, start), Duration::ZERO);
        assert_eq!(watch.idle_for(true, 7, start + SECOND), Duration::ZERO);
        assert_eq!(watch.idle_for(true, 7, start + 3 * SECOND), 2 * SECOND);
        assert_eq!(watch.idle_for(true, 8, start + 4 * SECOND), 3 * SECOND, "a byte is no progress");
        let there = 7 + PROGRESS;
        assert_eq!(watch.idle_for(true, there, start + 5 * SECOND), Duration::ZERO, "progress");
        assert_eq!(watch.idle_for(true, there, start + 6 * SECOND), SECOND);
        assert_eq!(watch.idle_for(false, there, start + 7 * SECOND), Duration::ZERO, "nothing is owed");
        // Owing again, at the same place, it has its time anew.
        assert_eq!(watch.idle_for(true, there, start + 9 * SECOND), Duration::ZERO);
        assert_eq!(watch.idle_for(true, there, start + 11 * SECOND), 2 * SECOND);
    }
}
