//! What is asked of a device: which commands, where, in which order.

use clap::ValueEnum;

/// Which way data goes, and in which order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pattern {
    /// Sequential reads.
    Read,
    /// Sequential writes.
    Write,
    /// Reads at random places.
    #[default]
    Randread,
    /// Writes at random places.
    Randwrite,
    /// Reads and writes at random places.
    Randrw,
    /// Sequential reads and writes.
    Rw,
}

impl Pattern {
    /// Whether places are chosen at random.
    pub(crate) fn is_random(self) -> bool {
        matches!(self, Self::Randread | Self::Randwrite | Self::Randrw)
    }

    /// Whether there are writes; `None`: some.
    pub(crate) fn writes(self) -> Option<bool> {
        match self {
            Self::Read | Self::Randread => Some(false),
            Self::Write | Self::Randwrite => Some(true),
            Self::Rw | Self::Randrw => None,
        }
    }

    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Randread => "randread",
            Self::Randwrite => "randwrite",
            Self::Randrw => "randrw",
            Self::Rw => "rw",
        }
    }
}

/// What one of `queues` queues has of `total` things, which all of them share as evenly as can be: the first one, and
/// the first one of the next queue.
pub(crate) fn share(total: u64, index: u64, queues: u64) -> (u64, u64) {
    let edge = |index: u64| (u128::from(total) * u128::from(index) / u128::from(queues.max(1))) as u64;
    (edge(index), edge(index + 1))
}

/// A sequence of numbers that looks random (splitmix64): the same for the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    #[inline]
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }
}

/// The commands of one queue. Places are counted in units of the block size of the workload.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    random: Random,
    pattern: Pattern,
    /// Percentage of reads in a mixed pattern.
    mix: u8,
    first: u64,
    units: u64,
    cursor: u64,
}

impl Source {
    /// The commands of queue `index` of `queues` over a region of `units` units.
    ///
    /// `apart`: the queue keeps to a part of the region that is its own. Sequential queues always do when there is
    /// room for that, since otherwise all would read what the first one has just brought into caches.
    pub(crate) fn new(pattern: Pattern, mix: u8, units: u64, index: u64, queues: u64, apart: bool) -> Self {
        let (first, units) = if (apart || !pattern.is_random()) && units >= queues {
            let (first, end) = share(units, index, queues);
            (first, end - first)
        } else {
            (0, units)
        };
        Self { random: Random::new(index), pattern, mix, first, units, cursor: 0 }
    }

    /// First unit and number of units that the commands keep to.
    pub(crate) fn range(&self) -> (u64, u64) {
        (self.first, self.units)
    }

    /// The next command: whether it writes, and the unit.
    #[inline]
    pub(crate) fn next(&mut self) -> (bool, u64) {
        let write = match self.pattern.writes() {
            Some(write) => write,
            None => self.random.below(100) >= u64::from(self.mix),
        };
        if self.pattern.is_random() {
            return (write, self.first + self.random.below(self.units));
        }
        let unit = self.first + self.cursor;
        self.cursor += 1;
        if self.cursor == self.units {
            self.cursor = 0;
        }
        (write, unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequential_queues_cover_the_region_once_and_begin_again() {
        let mut seen = [0; 10];
        for index in 0..3 {
            let mut source = Source::new(Pattern::Read, 0, 10, index, 3, false);
            let (first, units) = source.range();
            for expected in (first..first + units).chain([first]) {
                let (write, unit) = source.next();
                assert_eq!((write, unit), (false, expected));
                seen[unit as usize] += 1;
            }
            seen[first as usize] -= 1;
        }
        assert_eq!(seen, [1; 10]);
    }

    #[test]
    fn random_places_stay_in_the_region_and_reach_all_of_it() {
        let mut source = Source::new(Pattern::Randwrite, 0, 100, 1, 4, false);
        let mut seen = [false; 100];
        for _ in 0..10_000 {
            let (write, unit) = source.next();
            assert!(write);
            seen[unit as usize] = true;
        }
        assert!(seen.iter().all(|seen| *seen));
    }

    #[test]
    fn queues_that_keep_apart_never_meet() {
        let mut seen = [None; 103];
        for index in 0..4 {
            let mut source = Source::new(Pattern::Randread, 0, 103, index, 4, true);
            for _ in 0..5_000 {
                let (_, unit) = source.next();
                assert_eq!(*seen[unit as usize].get_or_insert(index), index);
            }
        }
        assert!(seen.iter().all(Option::is_some));
    }

    #[test]
    fn the_mix_is_the_percentage_of_reads() {
        for (mix, least, most) in [(0, 0, 0), (100, 10_000, 10_000), (70, 6_700, 7_300)] {
            let mut source = Source::new(Pattern::Randrw, mix, 8, 0, 1, false);
            let reads = (0..10_000).filter(|_| !source.next().0).count();
            assert!((least..=most).contains(&reads), "{mix}: {reads}");
        }
    }

    #[test]
    fn more_queues_than_units_share_the_region() {
        let mut source = Source::new(Pattern::Read, 0, 2, 5, 8, false);
        assert_eq!((source.next().1, source.next().1, source.next().1), (0, 1, 0));
    }
}
