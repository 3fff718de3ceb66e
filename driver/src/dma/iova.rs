//! Which I/O virtual addresses are in use, within the ranges that the attached IOMMUs can map.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Addresses from here on are preferred: below lie the windows that platforms reserve, and what 32-bit devices need.
const PREFERRED_FROM: u64 = 1 << 32;

/// IOVA 0 is never handed out: a zero data pointer is a mistake that must fault, not a page of somebody's data.
const LOWEST: u64 = 4096;

/// First-fit allocator of IOVAs.
#[derive(Debug)]
pub(super) struct IovaSpace {
    /// What may be used: sorted, disjoint, inclusive.
    ranges: Vec<RangeInclusive<u64>>,
    /// What is used: first address to last address.
    used: BTreeMap<u64, u64>,
}

impl IovaSpace {
    pub(super) fn new(ranges: Vec<RangeInclusive<u64>>) -> Self {
        Self { ranges: normalise(ranges), used: BTreeMap::new() }
    }

    /// Confines what is handed out from now on; what is in use stays in use.
    pub(super) fn set_ranges(&mut self, ranges: Vec<RangeInclusive<u64>>) {
        self.ranges = normalise(ranges);
    }

    /// Takes `len` bytes at a multiple of `align` (a power of two).
    pub(super) fn allocate(&mut self, len: u64, align: u64) -> Option<u64> {
        debug_assert!(len > 0 && align.is_power_of_two());
        let iova =
            self.first_fit(len, align, PREFERRED_FROM).or_else(|| self.first_fit(len, align, LOWEST))?;
        self.used.insert(iova, iova + (len - 1));
        Some(iova)
    }

    /// Gives back what [`IovaSpace::allocate`] handed out.
    pub(super) fn release(&mut self, iova: u64) {
        let was = self.used.remove(&iova);
        debug_assert!(was.is_some(), "released an IOVA that was not in use");
    }

    fn first_fit(&self, len: u64, align: u64, lowest: u64) -> Option<u64> {
        self.ranges.iter().find_map(|range| {
            let mut candidate = align_up((*range.start()).max(lowest), align)?;
            loop {
                let end = candidate.checked_add(len - 1)?;
                if end > *range.end() {
                    return None;
                }
                // Of the areas in use, the one that starts last at or below `end` is the only one that can overlap
                // from above or from below: areas in use are disjoint.
                match self.used.range(..=end).next_back() {
                    Some((_, &used_last)) if used_last >= candidate => {
                        candidate = align_up(used_last.checked_add(1)?, align)?;
                    }
                    _ => return Some(candidate),
                }
            }
        })
    }
}

/// What two sets of ranges have in common.
pub(super) fn intersect(a: &[RangeInclusive<u64>], b: &[RangeInclusive<u64>]) -> Vec<RangeInclusive<u64>> {
    let common = a.iter().flat_map(|x| {
        b.iter().filter_map(move |y| {
            let start = (*x.start()).max(*y.start());
            let end = (*x.end()).min(*y.end());
            (start <= end).then_some(start..=end)
        })
    });
    normalise(common.collect())
}

/// Whether `first..=last` lies within one of `ranges`, which are normalised.
pub(super) fn contains(ranges: &[RangeInclusive<u64>], first: u64, last: u64) -> bool {
    ranges.iter().any(|range| *range.start() <= first && last <= *range.end())
}

/// Sorts, drops the empty ones, and joins those that touch: an area may then span what was reported in pieces.
pub(super) fn normalise(mut ranges: Vec<RangeInclusive<u64>>) -> Vec<RangeInclusive<u64>> {
    ranges.retain(|range| range.start() <= range.end());
    ranges.sort_by_key(|range| *range.start());
    let mut joined: Vec<RangeInclusive<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if *range.start() <= last.end().saturating_add(1) => {
                *last = *last.start()..=(*last.end()).max(*range.end());
            }
            _ => joined.push(range),
        }
    }
    joined
}

fn align_up(value: u64, align: u64) -> Option<u64> {
    value.checked_next_multiple_of(align)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn addresses_above_four_gigabytes_are_preferred_and_those_below_used_when_they_are_full() {
        let mut space = IovaSpace::new(vec![0..=4 * GIB + 0x1fff]);
        assert_eq!(space.allocate(0x1000, 0x1000), Some(4 * GIB));
        assert_eq!(space.allocate(0x1000, 0x1000), Some(4 * GIB + 0x1000));
        assert_eq!(space.allocate(0x1000, 0x1000), Some(0x1000));
    }

    #[test]
    fn an_area_may_lie_across_the_fourth_gigabyte_when_it_fits_nowhere_else() {
        let mut space = IovaSpace::new(vec![4 * GIB - 0x1000..=4 * GIB + 0xfff]);
        assert_eq!(space.allocate(0x2000, 0x1000), Some(4 * GIB - 0x1000));
    }

    #[test]
    fn address_zero_is_never_handed_out() {
        let mut space = IovaSpace::new(vec![0..=0x1fff]);
        assert_eq!(space.allocate(0x1000, 0x1000), Some(0x1000));
        assert_eq!(space.allocate(0x1000, 0x1000), None);
    }

    #[test]
    fn odd_ranges_are_used_only_where_an_aligned_area_fits() {
        // A range that begins and ends in the middle of pages, one too small, and one at the very top.
        let mut space =
            IovaSpace::new(vec![0x1_0000_0801..=0x1_0000_37ff, 0x2000..=0x2ffe, u64::MAX - 0xfff..=u64::MAX]);
        assert_eq!(space.allocate(0x1000, 0x1000), Some(0x1_0000_1000));
        assert_eq!(space.allocate(0x1000, 0x1000), Some(0x1_0000_2000));
        assert_eq!(space.allocate(0x1000, 0x1000), Some(u64::MAX - 0xfff));
        assert_eq!(space.allocate(0x1000, 0x1000), None);
    }

    #[test]
    fn a_released_area_is_found_again_between_two_used_ones() {
        let mut space = IovaSpace::new(vec![4 * GIB..=4 * GIB + 0x2fff]);
        let areas: Vec<_> = (0..3).map(|_| space.allocate(0x1000, 0x1000)).collect();
        assert!(areas.iter().all(Option::is_some));
        space.release(areas[1].unwrap());
        assert_eq!(space.allocate(0x2000, 0x1000), None);
        assert_eq!(space.allocate(0x1000, 0x1000), areas[1]);
    }

    #[test]
    fn an_area_does_not_cross_a_hole() {
        let mut space = IovaSpace::new(vec![4 * GIB..=4 * GIB + 0xfff, 4 * GIB + 0x2000..=4 * GIB + 0x3fff]);
        assert_eq!(space.allocate(0x2000, 0x1000), Some(4 * GIB + 0x2000));
    }

    #[test]
    fn touching_ranges_are_one_and_overlaps_intersect() {
        assert_eq!(normalise(vec![5..=9, 0..=4, 20..=30, 25..=27]), vec![0..=9, 20..=30]);
        assert_eq!(intersect(&[0..=9, 20..=29], &[5..=24, 29..=40]), vec![5..=9, 20..=24, 29..=29]);
        assert!(contains(&[5..=9], 5, 9));
        assert!(!contains(&[5..=9], 5, 10));
    }

    proptest::proptest! {
        #[test]
        fn areas_in_use_never_overlap_and_stay_in_range(
            ranges in proptest::collection::vec((0u64..64, 0u64..16), 1..5),
            steps in proptest::collection::vec((1u64..5, 0u32..3, proptest::bool::ANY), 1..60),
        ) {
            let base = 4 * GIB - 16 * 0x800;
            let ranges = normalise(
                ranges.iter().map(|&(start, len)| base + start * 0x800..=base + (start + len) * 0x800).collect());
            let mut space = IovaSpace::new(ranges.clone());
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (pages, shift, release) in steps {
                if release && !held.is_empty() {
                    space.release(held.swap_remove(0).0);
                    continue;
                }
                let (len, align) = (pages * 0x1000, 0x1000u64 << shift);
                match space.allocate(len, align) {
                    Some(iova) => {
                        assert_eq!(iova % align, 0);
                        assert!(contains(&ranges, iova, iova + len - 1));
                        assert!(held.iter().all(|&(start, other)| iova + len <= start || start + other <= iova));
                        held.push((iova, len));
                    }
                    None => {
                        // Nothing was overlooked: every aligned place is out of range or taken.
                        for candidate in (base..base + 128 * 0x800).filter(|c| c % align == 0) {
                            assert!(!contains(&ranges, candidate, candidate + len - 1)
                                || held.iter().any(|&(start, other)| candidate < start + other && start < candidate + len));
                        }
                    }
                }
            }
        }
    }
}
