//! What VFIO says about regions and IOMMUs: structures followed by a chain of capabilities.
//!
//! The kernel is trusted, but these are offsets into a buffer that come from outside it: a chain that leaves
//! its buffer or runs in circles ends the parse, it does not end the process.

use std::ops::RangeInclusive;

use vfio_bindings::bindings::vfio::{
    VFIO_IOMMU_INFO_CAPS, VFIO_IOMMU_INFO_PGSIZES, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
    VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, VFIO_REGION_INFO_CAP_SPARSE_MMAP, VFIO_REGION_INFO_FLAG_CAPS,
    VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
};

/// Why an answer of the kernel could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The answer ends before the structure does.
    #[error("the answer has {len} bytes, {needed} were expected")]
    Short {
        /// Bytes of the answer.
        len: usize,
        /// Bytes that are needed.
        needed: usize,
    },
    /// A capability lies outside the answer, or the chain of capabilities does not move forward.
    #[error("the chain of capabilities is broken at offset {offset}")]
    BrokenChain {
        /// Offset in the answer.
        offset: usize,
    },
    /// An area that may be mapped lies outside its region.
    #[error("the mappable area at {offset:#x}, {len:#x} bytes long, is not inside its region")]
    AreaOutside {
        /// Offset of the area in its region.
        offset: u64,
        /// Bytes of the area.
        len: u64,
    },
}

/// A region of a device (`vfio_region_info`): a BAR, or the configuration space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// Bytes; 0 when the device does not have this region.
    pub(crate) size: u64,
    /// Where the region is in the device's file.
    pub(crate) file_offset: u64,
    /// Whether it can be read and written through the file.
    pub(crate) accessible: bool,
    /// The parts that may be mapped into memory, ascending, not overlapping, as offsets in the region.
    pub(crate) mappable: Vec<Area>,
}

/// A part of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Area {
    fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.len)
    }
}

impl Region {
    /// Parses what `VFIO_DEVICE_GET_REGION_INFO` answered. Areas are cut to whole pages of `page` bytes.
    pub(super) fn parse(answer: &[u8], page: u64) -> Result<Self, AnswerError> {
        let region = Self::parse_as_is(answer)?;
        Ok(Self { mappable: whole_pages(region.mappable, page), ..region })
    }

    /// The same with the areas that may be mapped as they are given, in that order.
    pub(crate) fn parse_as_is(answer: &[u8]) -> Result<Self, AnswerError> {
        let flags = word(answer, 4)?;
        let size = quad(answer, 16)?;
        let file_offset = quad(answer, 24)?;
        let both = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
        let mut mappable = Vec::new();
        if flags & VFIO_REGION_INFO_FLAG_MMAP != 0 {
            mappable.push(Area { offset: 0, len: size });
            if flags & VFIO_REGION_INFO_FLAG_CAPS != 0 {
                for capability in Chain::new(answer, word(answer, 12)?) {
                    let (id, body) = capability?;
                    if u32::from(id) == VFIO_REGION_INFO_CAP_SPARSE_MMAP {
                        mappable = sparse_areas(body, size)?;
                    }
                }
            }
        }
        Ok(Self { size, file_offset, accessible: flags & both == both, mappable })
    }
}

/// `vfio_region_info_cap_sparse_mmap` behind its header: a count, a reserved word, then the areas.
fn sparse_areas(body: &[u8], region_size: u64) -> Result<Vec<Area>, AnswerError> {
    let count = word(body, 0)? as usize;
    let mut areas = Vec::new();
    for index in 0..count {
        // No capacity is reserved for `count`: a wrong one ends at the end of the answer.
        let at = 8 + index * 16;
        let area = Area { offset: quad(body, at)?, len: quad(body, at + 8)? };
        if area.end().is_none_or(|end| end > region_size) {
            return Err(AnswerError::AreaOutside { offset: area.offset, len: area.len });
        }
        areas.push(area);
    }
    Ok(areas)
}

/// Cuts areas to whole pages, drops the empty ones, and joins those that touch or overlap.
fn whole_pages(mut areas: Vec<Area>, page: u64) -> Vec<Area> {
    areas.sort_by_key(|area| area.offset);
    let mut result: Vec<Area> = Vec::new();
    for area in areas {
        let (Some(start), Some(end)) = (area.offset.checked_next_multiple_of(page), area.end()) else {
            continue;
        };
        let end = end - end % page;
        if start >= end {
            continue;
        }
        match result.last_mut() {
            Some(last) if last.offset + last.len >= start => last.len = last.len.max(end - last.offset),
            _ => result.push(Area { offset: start, len: end - start }),
        }
    }
    result
}

/// The properties of a container's IOMMU (`vfio_iommu_type1_info`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IommuInfo {
    /// Addresses that devices may be given, ascending. All 64 bits when the kernel does not say.
    pub(super) ranges: Vec<RangeInclusive<u64>>,
    /// The sizes of pages that can be mapped, one bit each (bit 12: 4 KiB).
    pub(super) page_sizes: u64,
    /// How many more mappings the container takes, when the kernel says so (5.10 and later).
    pub(super) available_mappings: Option<u32>,
}

impl IommuInfo {
    /// Parses what `VFIO_IOMMU_GET_INFO` answered.
    pub(super) fn parse(answer: &[u8]) -> Result<Self, AnswerError> {
        let flags = word(answer, 4)?;
        let page_sizes =
            if flags & VFIO_IOMMU_INFO_PGSIZES != 0 { quad(answer, 8)? } else { DEFAULT_PAGE_SIZES };
        let mut ranges = None;
        let mut available_mappings = None;
        if flags & VFIO_IOMMU_INFO_CAPS != 0 {
            for capability in Chain::new(answer, word(answer, 16)?) {
                let (id, body) = capability?;
                match u32::from(id) {
                    VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE => ranges = Some(iova_ranges(body)?),
                    VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL => available_mappings = Some(word(body, 0)?),
                    _ => {}
                }
            }
        }
        Ok(Self { ranges: ranges.unwrap_or_else(|| vec![0..=u64::MAX]), page_sizes, available_mappings })
    }
}

/// What every IOMMU that Linux runs on can map, should the kernel not say.
const DEFAULT_PAGE_SIZES: u64 = 4096;

/// `vfio_iommu_type1_info_cap_iova_range` behind its header: a count, a reserved word, then pairs of first
/// and last address.
fn iova_ranges(body: &[u8]) -> Result<Vec<RangeInclusive<u64>>, AnswerError> {
    let count = word(body, 0)? as usize;
    let mut ranges = Vec::new();
    for index in 0..count {
        let at = 8 + index * 16;
        let range = quad(body, at)?..=quad(body, at + 8)?;
        if !range.is_empty() {
            ranges.push(range);
        }
    }
    ranges.sort_by_key(|range| *range.start());
    Ok(ranges)
}

/// The capabilities of an answer: `(id, what follows the header up to the end of the answer)`.
struct Chain<'a> {
    answer: &'a [u8],
    next: usize,
}

/// Bytes of `vfio_info_cap_header`: id (16 bits), version (16), offset of the next one (32; 0 = the last).
const HEADER_LEN: usize = 8;

impl<'a> Chain<'a> {
    fn new(answer: &'a [u8], first: u32) -> Self {
        Self { answer, next: first as usize }
    }
}

impl<'a> Iterator for Chain<'a> {
    type Item = Result<(u16, &'a [u8]), AnswerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == 0 {
            return None;
        }
        let at = self.next;
        // The chain must move forward, else a wrong offset would keep us here for ever.
        self.next = 0;
        let broken = || Some(Err(AnswerError::BrokenChain { offset: at }));
        let Some(header) = self.answer.get(at..).and_then(|rest| rest.first_chunk::<HEADER_LEN>()) else {
            return broken();
        };
        let next = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]) as usize;
        if next != 0 && next < at + HEADER_LEN {
            return broken();
        }
        self.next = next;
        let id = u16::from_ne_bytes([header[0], header[1]]);
        Some(Ok((id, &self.answer[at + HEADER_LEN..])))
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32, AnswerError> {
    field(bytes, at).map(u32::from_ne_bytes)
}

fn quad(bytes: &[u8], at: usize) -> Result<u64, AnswerError> {
    field(bytes, at).map(u64::from_ne_bytes)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], AnswerError> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .ok_or(AnswerError::Short { len: bytes.len(), needed: at.saturating_add(N) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;
    const MMAP_CAPS: u32 = VFIO_REGION_INFO_FLAG_READ
        | VFIO_REGION_INFO_FLAG_WRITE
        | VFIO_REGION_INFO_FLAG_MMAP
        | VFIO_REGION_INFO_FLAG_CAPS;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn quads(quads: &[u64]) -> Vec<u8> {
        quads.iter().flat_map(|quad| quad.to_ne_bytes()).collect()
    }

    fn header(id: u16, next: u32) -> Vec<u8> {
        [&id.to_ne_bytes()[..], &1u16.to_ne_bytes(), &next.to_ne_bytes()].concat()
    }

    /// `vfio_region_info` of BAR0 with `size` bytes and whatever follows it.
    fn region(flags: u32, cap_offset: u32, size: u64, tail: &[u8]) -> Vec<u8> {
        let argsz = 32 + tail.len() as u32;
        [words(&[argsz, flags, 0, cap_offset]), quads(&[size, 0]), tail.to_vec()].concat()
    }

    fn sparse(next: u32, areas: &[(u64, u64)]) -> Vec<u8> {
        let areas: Vec<u64> = areas.iter().flat_map(|&(offset, len)| [offset, len]).collect();
        let count = areas.len() as u32 / 2;
        [header(1, next), words(&[count, 0]), quads(&areas)].concat()
    }

    fn areas(region: &Region) -> Vec<(u64, u64)> {
        region.mappable.iter().map(|area| (area.offset, area.len)).collect()
    }

    #[test]
    fn a_region_without_capabilities_is_mappable_as_a_whole() {
        let answer = region(MMAP_CAPS & !VFIO_REGION_INFO_FLAG_CAPS, 0, 0x4000, &[]);
        let region = Region::parse(&answer, PAGE).unwrap();
        assert_eq!(areas(&region), [(0, 0x4000)]);
        assert!(region.accessible);
    }

    #[test]
    fn a_region_that_may_not_be_mapped_has_no_areas() {
        let answer = region(VFIO_REGION_INFO_FLAG_READ, 0, 0x4000, &[]);
        let region = Region::parse(&answer, PAGE).unwrap();
        assert!(region.mappable.is_empty());
        assert!(!region.accessible);
    }

    #[test]
    fn only_the_sparse_areas_of_a_region_are_mappable() {
        let answer = region(MMAP_CAPS, 32, 0x8000, &sparse(0, &[(0, 0x2000), (0x3000, 0x5000)]));
        assert_eq!(areas(&Region::parse(&answer, PAGE).unwrap()), [(0, 0x2000), (0x3000, 0x5000)]);
    }

    #[test]
    fn the_sparse_capability_is_found_behind_others() {
        let tail = [header(3, 40), sparse(0, &[(0x1000, 0x1000)])].concat();
        let answer = region(MMAP_CAPS, 32, 0x4000, &tail);
        assert_eq!(areas(&Region::parse(&answer, PAGE).unwrap()), [(0x1000, 0x1000)]);
    }

    #[test]
    fn an_empty_sparse_list_means_that_nothing_is_mappable() {
        let answer = region(MMAP_CAPS, 32, 0x4000, &sparse(0, &[]));
        assert!(Region::parse(&answer, PAGE).unwrap().mappable.is_empty());
    }

    #[test]
    fn areas_are_sorted_cut_to_pages_and_joined() {
        let list = [(0x3000, 0x1000), (0x800, 0x1900), (0x5000, 0x800), (0x2000, 0x1000)];
        let answer = region(MMAP_CAPS, 32, 0x8000, &sparse(0, &list));
        assert_eq!(areas(&Region::parse(&answer, PAGE).unwrap()), [(0x1000, 0x3000)]);
    }

    #[test]
    fn an_area_outside_its_region_is_refused() {
        for area in [(0x3000, 0x2000), (u64::MAX, 2), (0x4001, 0)] {
            let answer = region(MMAP_CAPS, 32, 0x4000, &sparse(0, &[area]));
            let error = Region::parse(&answer, PAGE).unwrap_err();
            assert_eq!(error, AnswerError::AreaOutside { offset: area.0, len: area.1 });
        }
    }

    #[test]
    fn a_count_of_areas_beyond_the_answer_is_refused() {
        let mut tail = sparse(0, &[(0, 0x1000)]);
        tail[8..12].copy_from_slice(&u32::MAX.to_ne_bytes());
        let error = Region::parse(&region(MMAP_CAPS, 32, 0x4000, &tail), PAGE).unwrap_err();
        assert!(matches!(error, AnswerError::Short { .. }), "{error}");
    }

    #[test]
    fn a_chain_that_leaves_the_answer_or_runs_in_circles_is_refused() {
        for (first, next) in [(4000, 0), (32, 32), (32, 8), (32, u32::MAX), (36, 0), (u32::MAX, 0)] {
            let answer = region(MMAP_CAPS, first, 0x4000, &header(9, next));
            let error = Region::parse(&answer, PAGE).unwrap_err();
            assert!(matches!(error, AnswerError::BrokenChain { .. }), "first {first}, next {next}: {error}");
        }
    }

    #[test]
    fn every_truncation_of_an_answer_is_refused_without_panic() {
        let answer = region(MMAP_CAPS, 32, 0x8000, &sparse(0, &[(0, 0x2000), (0x3000, 0x5000)]));
        for len in 0..answer.len() {
            assert!(Region::parse(&answer[..len], PAGE).is_err(), "{len} bytes");
        }
        assert!(Region::parse(&answer, PAGE).is_ok());
    }

    /// `vfio_iommu_type1_info` with 4 KiB and 2 MiB pages and whatever follows it.
    fn iommu(flags: u32, cap_offset: u32, tail: &[u8]) -> Vec<u8> {
        let argsz = 24 + tail.len() as u32;
        [words(&[argsz, flags]), quads(&[0x20_1000]), words(&[cap_offset, 0]), tail.to_vec()].concat()
    }

    #[test]
    fn an_iommu_of_39_bits_reports_its_ranges_and_free_mappings() {
        let ranges =
            [header(1, 64), words(&[2, 0]), quads(&[0xfef0_0000, 0x7f_ffff_ffff, 0, 0xfedf_ffff])].concat();
        assert_eq!(24 + ranges.len() - 8, 64);
        let mut ranges = ranges;
        ranges[4..8].copy_from_slice(&72u32.to_ne_bytes());
        let tail = [ranges, header(3, 0), words(&[65_535])].concat();
        let info =
            IommuInfo::parse(&iommu(VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS, 24, &tail)).unwrap();
        assert_eq!(info.ranges, [0..=0xfedf_ffff, 0xfef0_0000..=0x7f_ffff_ffff]);
        assert_eq!(info.page_sizes, 0x20_1000);
        assert_eq!(info.available_mappings, Some(65_535));
    }

    #[test]
    fn an_iommu_that_says_nothing_has_all_addresses() {
        let info = IommuInfo::parse(&iommu(0, 0, &[])).unwrap();
        assert_eq!(
            info,
            IommuInfo { ranges: vec![0..=u64::MAX], page_sizes: 4096, available_mappings: None }
        );
    }

    #[test]
    fn a_range_that_ends_before_it_starts_is_left_out() {
        let tail = [header(1, 0), words(&[2, 0]), quads(&[9, 3, 0x1000, 0x1fff])].concat();
        let info = IommuInfo::parse(&iommu(VFIO_IOMMU_INFO_CAPS, 24, &tail)).unwrap();
        assert_eq!(info.ranges, [0x1000..=0x1fff]);
    }

    #[test]
    fn every_truncation_of_an_iommu_answer_is_refused_without_panic() {
        let tail = [header(1, 0), words(&[1, 0]), quads(&[0, 0xffff])].concat();
        let answer = iommu(VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS, 24, &tail);
        for len in 0..answer.len() {
            assert!(IommuInfo::parse(&answer[..len]).is_err(), "{len} bytes");
        }
    }
}
