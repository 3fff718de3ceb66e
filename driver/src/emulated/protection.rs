//! End-to-end data protection (NVM Command Set 1.0, 5.2): the 8 bytes of guard, application tag and reference tag that
//! belong to a block, all big-endian.

use gangway_spec::{Status, SubmissionQueueEntry, nvm};

/// Bytes of protection information.
pub(super) const TUPLE: usize = 8;
/// PRCHK: check the guard.
const GUARD: u8 = 1 << 2;
/// PRCHK: check the application tag.
const APPLICATION_TAG: u8 = 1 << 1;
/// PRCHK: check the reference tag.
const REFERENCE_TAG: u8 = 1 << 0;

/// How the blocks of a namespace are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Protection {
    /// Type 1, 2 or 3.
    pub(super) kind: u8,
    /// Where in the metadata of a block the protection information is.
    pub(super) offset: usize,
}

/// What a command says about protection information.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// PRINFO: what is checked, and whether the drive inserts or strips.
    pub(super) prinfo: u8,
    /// Initial or expected initial reference tag.
    pub(super) reference: u32,
    /// Application tag.
    pub(super) application: u16,
    /// The bits of the application tag that are checked.
    pub(super) mask: u16,
}

impl Expected {
    /// What CDW12, CDW14 and CDW15 say.
    pub(super) fn of(entry: &SubmissionQueueEntry) -> Self {
        Self::new(nvm::IoControl::of(entry).prinfo(), entry.cdw14.get(), entry.cdw15.get())
    }

    /// What these fields say, the last of them with the layout of CDW15.
    pub(super) fn new(prinfo: u8, reference: u32, tags: u32) -> Self {
        Self { prinfo, reference, application: tags as u16, mask: (tags >> 16) as u16 }
    }

    /// PRACT: the drive inserts protection information, or strips it.
    pub(super) fn acts(&self) -> bool {
        self.prinfo & nvm::IoControl::PRACT != 0
    }
}

impl Protection {
    /// Checks that what the command expects can be.
    ///
    /// # Errors
    /// Invalid Protection Information: type 1 begins with the block's number, and type 3 has no reference tag to check.
    pub(super) fn admit(&self, expected: &Expected, slba: u64) -> Result<(), Status> {
        let checked = expected.prinfo & REFERENCE_TAG != 0;
        match self.kind {
            1 if checked && expected.reference != slba as u32 => {
                Err(Status::INVALID_PROTECTION_INFORMATION.with_dnr())
            }
            3 if checked => Err(Status::INVALID_PROTECTION_INFORMATION.with_dnr()),
            _ => Ok(()),
        }
    }

    /// The reference tag of the block that is `index` blocks behind the first.
    fn reference(&self, expected: &Expected, index: usize) -> u32 {
        if self.kind == 3 { expected.reference } else { expected.reference.wrapping_add(index as u32) }
    }

    /// Checks a block as the command asks.
    ///
    /// # Errors
    /// The check that failed.
    pub(super) fn check(
        &self,
        expected: &Expected,
        index: usize,
        data: &[u8],
        metadata: &[u8],
    ) -> Result<(), Status> {
        let (before, tuple) = metadata.split_at(self.offset);
        let guard = u16::from_be_bytes([tuple[0], tuple[1]]);
        let application = u16::from_be_bytes([tuple[2], tuple[3]]);
        let reference = u32::from_be_bytes([tuple[4], tuple[5], tuple[6], tuple[7]]);
        // The tags by which an application says that the block is not to be checked.
        if application == u16::MAX && (self.kind != 3 || reference == u32::MAX) {
            return Ok(());
        }
        if expected.prinfo & GUARD != 0 && guard != crc16(crc16(0, data), before) {
            return Err(Status::GUARD_CHECK_ERROR);
        }
        let mask = expected.mask;
        if expected.prinfo & APPLICATION_TAG != 0 && application & mask != expected.application & mask {
            return Err(Status::APPLICATION_TAG_CHECK_ERROR);
        }
        if expected.prinfo & REFERENCE_TAG != 0
            && self.kind != 3
            && reference != self.reference(expected, index)
        {
            return Err(Status::REFERENCE_TAG_CHECK_ERROR);
        }
        Ok(())
    }

    /// Inserts protection information into the metadata of a block.
    pub(super) fn insert(&self, expected: &Expected, index: usize, data: &[u8], metadata: &mut [u8]) {
        let (before, tuple) = metadata.split_at_mut(self.offset);
        let guard = crc16(crc16(0, data), before);
        tuple[..2].copy_from_slice(&guard.to_be_bytes());
        tuple[2..4].copy_from_slice(&expected.application.to_be_bytes());
        tuple[4..TUPLE].copy_from_slice(&self.reference(expected, index).to_be_bytes());
    }

    /// Adds to the reference tag of a block.
    pub(super) fn move_reference(&self, metadata: &mut [u8], by: u32) {
        let tag = &mut metadata[self.offset + 4..][..4];
        let reference = u32::from_be_bytes([tag[0], tag[1], tag[2], tag[3]]).wrapping_add(by);
        tag.copy_from_slice(&reference.to_be_bytes());
    }

    /// Turns the protection information of a block into the form that is stored, and back: inverted, so that storage
    /// full of zeroes holds the tags of blocks that were never written, all ones, which nobody checks.
    pub(super) fn invert(&self, metadata: &mut [u8]) {
        metadata[self.offset..][..TUPLE].iter_mut().for_each(|byte| *byte = !*byte);
    }
}

/// CRC-16 T10-DIF of `bytes`, going on from `crc`.
pub(super) fn crc16(crc: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(crc, |crc, byte| crc << 8 ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { crc << 1 ^ 0x8bb7 } else { crc << 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_is_the_crc_of_the_standard() {
        // The check value of CRC-16/T10-DIF, and two vectors of T10's SBC-4.
        assert_eq!(crc16(0, b"123456789"), 0xd0db);
        assert_eq!(crc16(0, &[0; 32]), 0);
        assert_eq!(crc16(0, &[0xff; 32]), 0xa293);
    }

    #[test]
    fn what_is_inserted_passes_every_check() {
        for (kind, offset) in [(1, 0), (2, 8), (3, 56)] {
            let protection = Protection { kind, offset };
            let mut metadata = [7; 64];
            let insert = Expected { prinfo: 8, reference: 100, application: 0x55, mask: 0 };
            protection.insert(&insert, 3, &[9; 512], &mut metadata);
            let check = Expected { prinfo: 7, mask: 0xffff, ..insert };
            assert_eq!(protection.check(&check, 3, &[9; 512], &metadata), Ok(()));
            assert_eq!(protection.check(&check, 3, &[8; 512], &metadata), Err(Status::GUARD_CHECK_ERROR));
            let tag = Expected { application: 0x56, ..check };
            let refused = Err(Status::APPLICATION_TAG_CHECK_ERROR);
            assert_eq!(protection.check(&tag, 3, &[9; 512], &metadata), refused);
            assert_eq!(protection.check(&Expected { mask: 0xf0, ..tag }, 3, &[9; 512], &metadata), Ok(()));
            let other = if kind == 3 { Ok(()) } else { Err(Status::REFERENCE_TAG_CHECK_ERROR) };
            assert_eq!(protection.check(&check, 4, &[9; 512], &metadata), other);
        }
    }

    #[test]
    fn storage_of_zeroes_holds_tags_that_nobody_checks() {
        for kind in 1..=3 {
            let protection = Protection { kind, offset: 0 };
            let mut metadata = [0; 8];
            protection.invert(&mut metadata);
            let check = Expected { prinfo: 7, reference: 1, application: 1, mask: 0xffff };
            assert_eq!(protection.check(&check, 0, &[1; 512], &metadata), Ok(()));
        }
    }
}
