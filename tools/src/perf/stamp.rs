//! Data that says itself where and when it was written, so that a read can tell whether it got the right data.
//!
//! Every logical block carries a stamp: a mark, its place, its generation, the run that wrote it; then bytes that
//! follow from these; at its end a checksum of all that.

use thiserror::Error;

use super::workload::Random;

const MARK: u64 = u64::from_le_bytes(*b"gangwayV");
const WORD: usize = size_of::<u64>();
/// Mark, place, generation and run.
const HEAD: usize = 4 * WORD;

/// What a block of data says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Byte offset in the namespace.
    pub(crate) offset: u64,
    /// How often the place was written in the run, this time included.
    pub(crate) generation: u64,
    /// Which run wrote it.
    pub(crate) run: u64,
}

/// Why a block is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Wrong {
    /// It carries no stamp.
    #[error("was never written by a run with --verify, or the write was lost")]
    Unstamped,
    /// Its bytes do not belong together.
    #[error("has a wrong checksum: it is corrupt, or torn between two writes")]
    Checksum,
    /// It belongs elsewhere.
    #[error("holds the data of offset {found:#x}")]
    Misplaced {
        /// Where it belongs.
        found: u64,
    },
    /// It is not what was written there last.
    #[error("holds generation {found} of run {run:016x} in place of generation {expected} of this run")]
    Stale {
        /// What was found.
        found: u64,
        /// By whom.
        run: u64,
        /// What was written last.
        expected: u64,
    },
}

/// Fills a block, of a multiple of 8 bytes and 64 at least.
pub(crate) fn fill(block: &mut [u8], stamp: Stamp) {
    let (words, _) = block.as_chunks_mut::<WORD>();
    let Some((sum, words)) = words.split_last_mut() else { return };
    let head = [MARK, stamp.offset, stamp.generation, stamp.run];
    let seed = stamp.offset ^ stamp.generation.rotate_left(40) ^ stamp.run.rotate_left(20);
    let mut random = Random::new(seed);
    let mut checksum = Checksum::default();
    for (index, word) in words.iter_mut().enumerate() {
        let value = head.get(index).copied().unwrap_or_else(|| random.next());
        *word = value.to_le_bytes();
        checksum.add(index, value);
    }
    *sum = checksum.value().to_le_bytes();
}

/// Reads the stamp of a block.
///
/// # Errors
/// There is none, or it does not fit the rest of the block.
pub(crate) fn read(block: &[u8]) -> Result<Stamp, Wrong> {
    let (words, _) = block.as_chunks::<WORD>();
    let Some((sum, words)) = words.split_last() else { return Err(Wrong::Unstamped) };
    let word = |index: usize| words.get(index).map_or(0, |word| u64::from_le_bytes(*word));
    if word(0) != MARK {
        return Err(Wrong::Unstamped);
    }
    let mut checksum = Checksum::default();
    for (index, word) in words.iter().enumerate() {
        checksum.add(index, u64::from_le_bytes(*word));
    }
    if checksum.value() != u64::from_le_bytes(*sum) {
        return Err(Wrong::Checksum);
    }
    Ok(Stamp { offset: word(1), generation: word(2), run: word(3) })
}

/// Smallest block that has room for stamp and checksum, in bytes.
pub(crate) const SMALLEST: usize = HEAD + 4 * WORD;

/// A sum over words that depends on their order: four chains, so that a processor works on them side by side.
#[derive(Default)]
struct Checksum([u64; 4]);

impl Checksum {
    #[inline]
    fn add(&mut self, index: usize, word: u64) {
        let lane = &mut self.0[index % 4];
        *lane = (*lane ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
    }

    fn value(&self) -> u64 {
        let mut sum = 0;
        for lane in self.0 {
            sum = Random::new(sum ^ lane).next();
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { offset: 0x1234_5000, generation: 7, run: 99 };

    fn block(length: usize) -> Vec<u8> {
        let mut block = vec![0; length];
        fill(&mut block, STAMP);
        block
    }

    #[test]
    fn a_block_says_what_was_written() {
        for length in [SMALLEST, 512, 520, 4096] {
            assert_eq!(read(&block(length)), Ok(STAMP), "{length}");
        }
    }

    #[test]
    fn any_bit_that_changes_is_noticed() {
        let good = block(512);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn words_that_change_places_are_noticed() {
        let mut bad = block(512);
        let (left, right) = bad.split_at_mut(256);
        left[64..72].swap_with_slice(&mut right[64..72]);
        assert_eq!(read(&bad), Err(Wrong::Checksum));
    }

    #[test]
    fn halves_of_two_generations_are_noticed() {
        let mut torn = block(4096);
        let mut next = vec![0; 4096];
        fill(&mut next, Stamp { generation: 8, ..STAMP });
        torn[2048..].copy_from_slice(&next[2048..]);
        assert_eq!(read(&torn), Err(Wrong::Checksum));
    }

    #[test]
    fn what_was_never_stamped_says_so() {
        assert_eq!(read(&[0; 512]), Err(Wrong::Unstamped));
        assert_eq!(read(&[0xff; 4096]), Err(Wrong::Unstamped));
        assert_eq!(read(&[]), Err(Wrong::Unstamped));
    }
}
