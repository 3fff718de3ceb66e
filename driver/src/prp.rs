//! Physical Region Pages: how a command names the memory it transfers (NVMe Base 2.0, 4.1.1).
//!
//! PRP1 names the first page, with an offset. PRP2 is the second page when there are two, and a list of the rest
//! when there are more. A list is a page of 512 entries; when the transfer needs more, the last entry of each page
//! but the final one points to the next page of the list.
//!
//! A device that moves more than the driver thinks must not find memory behind these pointers: PRP2 of a transfer
//! within one page, and the entries of a list behind its end, are the poison address, at which nothing is mapped. PRP2
//! of a transfer of two pages cannot be: a device that moves more than two takes it for a list, and finds data there.
//! [`Pointers::guarded`] tells such transfers, and [`guarded_start`] how to avoid them.

use crate::dma::PAGE_SIZE;

/// Entries of one page of a PRP list.
pub(crate) const ENTRIES_PER_PAGE: usize = PAGE_SIZE / size_of::<u64>();

/// Where the PRP list of a command goes: pages in memory that the device can read.
pub(crate) trait ListPages {
    /// How many pages there are.
    fn pages(&self) -> usize;
    /// I/O virtual address of a page.
    fn page_iova(&self, page: usize) -> u64;
    /// Sets entry `index`, counted over all pages.
    fn set(&mut self, index: usize, value: u64);
}

/// Why memory cannot be described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PrpError {
    /// The first byte is not at a multiple of 4.
    Misaligned,
    /// The list does not fit the pages there are.
    TooLong,
}

/// What goes into the data pointer of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pointers {
    pub(crate) prp1: u64,
    pub(crate) prp2: u64,
    /// Entries of the list that are in use, chain pointers included; 0 when there is no list.
    pub(crate) list_entries: usize,
    /// Whether PRP2 is the second page of data.
    second_page: bool,
}

impl Pointers {
    /// Whether a device that moves more than was described comes upon the poison address. It does not when what it
    /// would then take for (the rest of) the list is a page of data: PRP2 of two pages, or the last entry of a page of
    /// the list that is full.
    pub(crate) const fn guarded(&self) -> bool {
        guarded(self.second_page, self.list_entries)
    }
}

const fn guarded(second_page: bool, list_entries: usize) -> bool {
    !second_page && (list_entries == 0 || !list_entries.is_multiple_of(ENTRIES_PER_PAGE))
}

/// Where in a page `len` bytes are to begin to be guarded ([`Pointers::guarded`]); `None` when no place does.
pub(crate) fn guarded_start(len: usize) -> Option<usize> {
    // Further on in the page only makes a difference where it takes one entry more.
    let reaching =
        (len.next_multiple_of(PAGE_SIZE) - len).next_multiple_of(4) + 4 * usize::from(len.is_multiple_of(4));
    [0, reaching].into_iter().filter(|&start| start < PAGE_SIZE).find(|&start| {
        let entries = entries_for(start, len);
        let list = if entries > 1 { entries + pages_for(entries) - 1 } else { 0 };
        guarded(entries == 1, list)
    })
}

/// List entries, besides PRP1, for a transfer of `len` bytes that begins `offset` bytes into a page.
const fn entries_for(offset: usize, len: usize) -> usize {
    (offset + len).div_ceil(PAGE_SIZE).saturating_sub(1)
}

/// Pages that a list of `entries` data entries takes, with their chain pointers.
const fn pages_for(entries: usize) -> usize {
    if entries <= ENTRIES_PER_PAGE {
        1
    } else {
        1 + (entries - ENTRIES_PER_PAGE).div_ceil(ENTRIES_PER_PAGE - 1)
    }
}

/// Pages of list that any transfer of up to `len` bytes can need, wherever in a page it begins.
pub(crate) const fn list_pages_for(len: usize) -> usize {
    pages_for(entries_for(PAGE_SIZE - 4, len))
}

/// Describes `len` bytes (at least 1) of contiguous I/O virtual addresses from `iova` on.
#[inline(always)]
pub(crate) fn describe(
    iova: u64,
    len: usize,
    poison: u64,
    list: &mut impl ListPages,
) -> Result<Pointers, PrpError> {
    if !iova.is_multiple_of(4) {
        return Err(PrpError::Misaligned);
    }
    let offset = (iova % PAGE_SIZE as u64) as usize;
    let second = iova - offset as u64 + PAGE_SIZE as u64;
    match entries_for(offset, len) {
        0 => Ok(Pointers { prp1: iova, prp2: poison, list_entries: 0, second_page: false }),
        1 => Ok(Pointers { prp1: iova, prp2: second, list_entries: 0, second_page: true }),
        entries => list_from(iova, second, entries, list),
    }
}

/// The same for more than two pages: `entries` of them from `second` on are in the list.
fn list_from(
    iova: u64,
    second: u64,
    entries: usize,
    list: &mut impl ListPages,
) -> Result<Pointers, PrpError> {
    if pages_for(entries) > list.pages() {
        return Err(PrpError::TooLong);
    }
    let mut index = 0;
    for entry in 0..entries {
        let at_page_end = index % ENTRIES_PER_PAGE == ENTRIES_PER_PAGE - 1;
        if at_page_end && entry + 1 < entries {
            list.set(index, list.page_iova(index / ENTRIES_PER_PAGE + 1));
            index += 1;
        }
        list.set(index, second + (entry * PAGE_SIZE) as u64);
        index += 1;
    }
    Ok(Pointers { prp1: iova, prp2: list.page_iova(0), list_entries: index, second_page: false })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POISON: u64 = 0xdead_0000;
    const LIST: u64 = 0x7000_0000;

    /// List pages that are not contiguous: a chain that is followed by arithmetic ends up in the wrong place.
    struct Pages(Vec<[u64; ENTRIES_PER_PAGE]>);

    impl Pages {
        fn new(pages: usize) -> Self {
            Self(vec![[POISON; ENTRIES_PER_PAGE]; pages])
        }

        fn at(&self, iova: u64) -> &[u64; ENTRIES_PER_PAGE] {
            let page = (LIST - iova) / (2 * PAGE_SIZE as u64);
            assert_eq!(self.page_iova(page as usize), iova, "not the address of a list page");
            &self.0[page as usize]
        }
    }

    impl ListPages for Pages {
        fn pages(&self) -> usize {
            self.0.len()
        }
        fn page_iova(&self, page: usize) -> u64 {
            LIST - (page * 2 * PAGE_SIZE) as u64
        }
        fn set(&mut self, index: usize, value: u64) {
            self.0[index / ENTRIES_PER_PAGE][index % ENTRIES_PER_PAGE] = value;
        }
    }

    /// What a device does with PRPs, page by page as the specification tells it: the byte ranges it touches.
    fn walk(pointers: Pointers, len: usize, list: &Pages) -> Vec<(u64, usize)> {
        let page = PAGE_SIZE as u64;
        let mut ranges = Vec::new();
        let mut left = len;
        let first = left.min((page - pointers.prp1 % page) as usize);
        ranges.push((pointers.prp1, first));
        left -= first;
        if left > 0 && left <= PAGE_SIZE {
            assert_eq!(pointers.prp2 % page, 0);
            ranges.push((pointers.prp2, left));
            return ranges;
        }
        let mut current = list.at(pointers.prp2);
        let mut index = 0;
        while left > 0 {
            if index == ENTRIES_PER_PAGE - 1 && left > PAGE_SIZE {
                current = list.at(current[index]);
                index = 0;
            }
            assert_eq!(current[index] % page, 0, "list entries have no offset");
            let count = left.min(PAGE_SIZE);
            ranges.push((current[index], count));
            left -= count;
            index += 1;
        }
        ranges
    }

    fn walk_if_needed(iova: u64, len: usize, pages: usize) -> Vec<(u64, usize)> {
        let mut list = Pages::new(pages);
        let pointers = describe(iova, len, POISON, &mut list).unwrap();
        let offset = (iova % PAGE_SIZE as u64) as usize;
        if offset + len <= PAGE_SIZE {
            assert_eq!((pointers.prp1, pointers.prp2, pointers.list_entries), (iova, POISON, 0));
            return vec![(iova, len)];
        }
        // Whatever is not in use is poison.
        let used = list.0.iter().flatten().take(pointers.list_entries).filter(|&&entry| entry == POISON);
        assert_eq!(used.count(), 0);
        assert!(list.0.iter().flatten().skip(pointers.list_entries).all(|&entry| entry == POISON));
        walk(pointers, len, &list)
    }

    fn assert_covers(iova: u64, len: usize) {
        let mut next = iova;
        for (start, count) in walk_if_needed(iova, len, list_pages_for(len)) {
            assert_eq!(start, next, "iova {iova:#x} len {len}");
            next += count as u64;
        }
        assert_eq!(next, iova + len as u64);
    }

    #[test]
    fn every_length_around_every_boundary_is_described_exactly() {
        let page = PAGE_SIZE;
        // One page, two, three, a full list, one more (chained), two full lists, one more.
        for pages in [1, 2, 3, 4, 512, 513, 514, 1023, 1024, 1025, 1535, 1536] {
            for delta in [-4isize, -1, 0, 1, 4] {
                for offset in [0, 4, 512, page - 4] {
                    let len = (pages * page) as isize + delta;
                    assert_covers(0x1_0000_0000 + offset as u64, len as usize);
                }
            }
        }
    }

    #[test]
    fn a_transfer_within_a_page_leaves_no_memory_behind_prp2() {
        let pointers = describe(0x5004, PAGE_SIZE - 4, POISON, &mut Pages::new(1)).unwrap();
        assert_eq!((pointers.prp1, pointers.prp2, pointers.list_entries), (0x5004, POISON, 0));
    }

    #[test]
    fn a_transfer_that_crosses_one_page_boundary_uses_prp2() {
        let pointers = describe(0x5004, PAGE_SIZE, POISON, &mut Pages::new(1)).unwrap();
        assert_eq!((pointers.prp1, pointers.prp2, pointers.list_entries), (0x5004, 0x6000, 0));
    }

    /// What a device that moves `more` than `len` bytes takes for an address: never a page of the data.
    fn assert_guarded(iova: u64, len: usize) {
        let mut list = Pages::new(list_pages_for(len));
        let pointers = describe(iova, len, POISON, &mut list).unwrap();
        assert!(pointers.guarded(), "{iova:#x} {len}");
        if pointers.list_entries == 0 {
            assert_eq!(pointers.prp2, POISON);
            return;
        }
        // The entry behind the last one, and the place where a longer list would go on.
        let entries: Vec<u64> = list.0.iter().flatten().copied().collect();
        assert_eq!(entries[pointers.list_entries], POISON, "{iova:#x} {len}");
        let end_of_page = pointers.list_entries.next_multiple_of(ENTRIES_PER_PAGE) - 1;
        assert_eq!(entries[end_of_page], POISON, "{iova:#x} {len}");
    }

    #[test]
    fn every_length_but_a_few_bytes_above_a_page_can_be_guarded() {
        let longest = (2 * ENTRIES_PER_PAGE + 3) * PAGE_SIZE;
        let mut without = Vec::new();
        for len in (1..=longest).step_by(1021).chain(1..3 * PAGE_SIZE).chain(
            [511, 512, 513, 1022, 1023, 1024]
                .iter()
                .flat_map(|pages| pages * PAGE_SIZE - 9..pages * PAGE_SIZE + 9),
        ) {
            match guarded_start(len) {
                Some(start) => {
                    assert!(start < PAGE_SIZE && start.is_multiple_of(4));
                    assert_guarded(0x7_0000_0000 + start as u64, len);
                }
                None => without.push(len),
            }
        }
        without.sort_unstable();
        without.dedup();
        let just_above = |pages: usize| pages * PAGE_SIZE + 1..=pages * PAGE_SIZE + 4;
        let expected: Vec<usize> = just_above(1).chain(just_above(512)).chain(just_above(1023)).collect();
        assert_eq!(without, expected);
        assert_eq!(
            (guarded_start(4096), guarded_start(8192), guarded_start(12288)),
            (Some(0), Some(4), Some(0))
        );
    }

    #[test]
    fn an_address_that_is_not_a_multiple_of_four_is_refused() {
        for offset in 1..4 {
            assert_eq!(describe(0x5000 + offset, 8, POISON, &mut Pages::new(1)), Err(PrpError::Misaligned));
        }
    }

    #[test]
    fn a_list_that_does_not_fit_its_pages_is_refused() {
        let full = (ENTRIES_PER_PAGE + 1) * PAGE_SIZE;
        assert!(describe(0x5000, full, POISON, &mut Pages::new(1)).is_ok());
        assert_eq!(describe(0x5000, full + 1, POISON, &mut Pages::new(1)), Err(PrpError::TooLong));
        assert_eq!(describe(0x5004, full, POISON, &mut Pages::new(1)), Err(PrpError::TooLong));
    }

    proptest! {
        #[test]
        fn prps_walked_back_are_the_bytes_that_were_described(
            page in 1u64..1 << 40, dword in 0u64..1024, len in 1usize..5 << 20,
        ) {
            assert_covers(page * PAGE_SIZE as u64 + dword * 4, len);
        }
    }
}
