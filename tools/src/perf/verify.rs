//! What should be where: the memory of a run with `--verify`.

use anyhow::bail;

use super::stamp::{self, Stamp, Wrong};

/// Most units (of the block size of the workload) that one queue keeps in mind: 4 bytes each.
const MOST_UNITS: u64 = 1 << 28;

/// The top bit of a unit: a command is under way there.
const BUSY: u32 = 1 << 31;

/// Knows what one queue wrote to its part of the region.
#[derive(Debug)]
pub(crate) struct Verifier {
    run: u64,
    /// First unit.
    first: u64,
    /// Generation of each unit, 0 when it was not written in this run.
    generations: Vec<u32>,
    /// Bytes of a unit.
    unit_bytes: usize,
    /// Bytes of a logical block.
    block: usize,
    /// Byte offset of unit 0 in the namespace.
    base: u64,
    /// Nothing is written, so an unstamped block is one whose write was lost.
    strict: bool,
    /// Blocks read that nobody had stamped.
    unstamped: u64,
}

/// Where the units are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// First unit.
    pub(crate) first: u64,
    /// Units.
    pub(crate) units: u64,
    /// Bytes of a unit.
    pub(crate) unit_bytes: usize,
    /// Bytes of a logical block.
    pub(crate) block: usize,
    /// Byte offset of unit 0 in the namespace.
    pub(crate) base: u64,
}

impl Verifier {
    /// Nothing written yet. `strict`: nothing will be, so all of the region must have been before.
    pub(crate) fn new(geometry: Geometry, run: u64, strict: bool) -> anyhow::Result<Self> {
        let Geometry { first, units, unit_bytes, block, base } = geometry;
        if units > MOST_UNITS {
            bail!("--verify keeps every block in mind: choose a smaller region with --size");
        }
        if block < stamp::SMALLEST {
            bail!("--verify needs blocks of {} bytes at least", stamp::SMALLEST);
        }
        let generations = vec![0; units as usize];
        Ok(Self { run, first, generations, unit_bytes, block, base, strict, unstamped: 0 })
    }

    /// Takes a unit for a command; another one if one is under way there, since the order of the two would be open.
    /// `None` when all are taken.
    pub(crate) fn claim(&mut self, unit: u64) -> Option<u64> {
        let count = self.generations.len();
        let start = (unit - self.first) as usize;
        let index = (start..count).chain(0..start).find(|index| self.generations[*index] & BUSY == 0)?;
        self.generations[index] |= BUSY;
        Some(self.first + index as u64)
    }

    /// Writes the next generation of a claimed unit into `data`.
    pub(crate) fn stamp(&self, unit: u64, data: &mut [u8]) {
        let generation = u64::from(self.generation(unit) + 1);
        for (index, block) in data.chunks_exact_mut(self.block).enumerate() {
            let offset = self.offset(unit, index);
            stamp::fill(block, Stamp { offset, generation, run: self.run });
        }
    }

    /// A claimed unit was written.
    pub(crate) fn written(&mut self, unit: u64) {
        let next = self.generation(unit) + 1;
        if let Some(generation) = self.generations.get_mut((unit - self.first) as usize) {
            *generation = next;
        }
    }

    /// A claimed unit was read.
    ///
    /// # Errors
    /// Which block is wrong, and how.
    pub(crate) fn check(&mut self, unit: u64, data: &[u8]) -> anyhow::Result<()> {
        let generation = self.generation(unit);
        if let Some(claimed) = self.generations.get_mut((unit - self.first) as usize) {
            *claimed = generation;
        }
        for (index, block) in data.chunks_exact(self.block).enumerate() {
            let offset = self.offset(unit, index);
            match self.check_block(offset, generation.into(), block) {
                Err(Wrong::Unstamped) if generation == 0 && !self.strict => self.unstamped += 1,
                Err(wrong) => bail!("verify: the block at byte {offset:#x} of the namespace {wrong}"),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn check_block(&self, offset: u64, generation: u64, block: &[u8]) -> Result<(), Wrong> {
        let stamp = stamp::read(block)?;
        if stamp.offset != offset {
            return Err(Wrong::Misplaced { found: stamp.offset });
        }
        if generation > 0 && (stamp.generation, stamp.run) != (generation, self.run) {
            return Err(Wrong::Stale { found: stamp.generation, run: stamp.run, expected: generation });
        }
        Ok(())
    }

    /// Blocks read that nobody had stamped.
    pub(crate) fn unstamped(&self) -> u64 {
        self.unstamped
    }

    fn generation(&self, unit: u64) -> u32 {
        self.generations.get((unit - self.first) as usize).map_or(0, |generation| generation & !BUSY)
    }

    fn offset(&self, unit: u64, index: usize) -> u64 {
        self.base + unit * self.unit_bytes as u64 + (index * self.block) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry = Geometry { first: 4, units: 4, unit_bytes: 1024, block: 512, base: 1 << 20 };

    fn verifier(strict: bool) -> Verifier {
        Verifier::new(GEOMETRY, 1, strict).unwrap()
    }

    fn written(verifier: &mut Verifier, unit: u64) -> Vec<u8> {
        let mut data = vec![0; 1024];
        assert_eq!(verifier.claim(unit), Some(unit));
        verifier.stamp(unit, &mut data);
        verifier.written(unit);
        data
    }

    #[test]
    fn what_was_written_last_is_right_and_what_was_before_is_not() {
        let mut verifier = verifier(false);
        let first = written(&mut verifier, 5);
        verifier.check(5, &first).unwrap();
        let second = written(&mut verifier, 5);
        verifier.check(5, &second).unwrap();
        let error = verifier.check(5, &first).unwrap_err().to_string();
        assert!(error.contains("generation 1") && error.contains("generation 2"), "{error}");
    }

    #[test]
    fn data_of_another_place_is_wrong_with_the_place_it_belongs_to() {
        let mut verifier = verifier(false);
        let data = written(&mut verifier, 5);
        written(&mut verifier, 6);
        let error = verifier.check(6, &data).unwrap_err().to_string();
        assert!(error.contains("0x101800") && error.contains("0x101400"), "{error}");
    }

    #[test]
    fn a_second_block_is_looked_at_like_the_first() {
        let mut verifier = verifier(false);
        let mut data = written(&mut verifier, 4);
        data[600] ^= 1;
        assert!(verifier.check(4, &data).unwrap_err().to_string().contains("0x101200"));
    }

    #[test]
    fn unwritten_blocks_are_counted_unless_all_should_have_been_written() {
        let mut lenient = verifier(false);
        lenient.check(7, &[0; 1024]).unwrap();
        assert_eq!(lenient.unstamped(), 2);
        assert!(verifier(true).check(7, &[0; 1024]).is_err());
    }

    #[test]
    fn blocks_of_an_earlier_run_are_right_until_this_one_writes_them() {
        let mut earlier = verifier(false);
        let data = written(&mut earlier, 5);
        let mut later = Verifier::new(GEOMETRY, 2, false).unwrap();
        later.check(5, &data).unwrap();
        written(&mut later, 5);
        assert!(later.check(5, &data).is_err());
    }

    #[test]
    fn two_commands_never_meet_at_one_place() {
        let mut verifier = verifier(false);
        let claimed: Vec<_> = (0..4).map(|_| verifier.claim(6).unwrap()).collect();
        assert_eq!(claimed, [6, 7, 4, 5]);
        assert_eq!(verifier.claim(6), None);
        verifier.written(7);
        assert_eq!(verifier.claim(6), Some(7));
    }
}
