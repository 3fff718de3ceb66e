//! How a namespace is formatted, and what its commands therefore transfer.

use super::{IoControl, nlb};
use crate::SubmissionQueueEntry;
use crate::identify::{IdentifyNamespace, NvmNamespace};

/// The block format of a namespace, as far as transfers depend on it. The same for the command sets that build on the
/// NVM Command Set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockFormat {
    /// Bytes of data in a logical block.
    pub block_size: u32,
    /// Bytes of metadata of a logical block; 0 when there are none.
    pub metadata_size: u32,
    /// Whether metadata follows the data of each block in the same buffer (FLBAS bit 4); else it has a buffer of its own.
    pub interleaved: bool,
    /// The protection information in the metadata, if the namespace is formatted with it.
    pub protection: Option<Protection>,
}

/// End-to-end protection of a namespace (NVM Command Set 1.0, 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protection {
    /// Type 1, 2 or 3.
    pub kind: u8,
    /// Bytes of protection information in the metadata of each block: 8 with a 16-bit guard, else 16.
    pub size: u32,
    /// Whether it stands in the first bytes of the metadata (DPS bit 3); else in the last.
    pub first: bool,
}

impl BlockFormat {
    /// Blocks of `block_size` bytes without metadata.
    #[must_use]
    pub const fn plain(block_size: u32) -> Self {
        Self { block_size, metadata_size: 0, interleaved: false, protection: None }
    }

    /// The format that a namespace is in. `extended` is what Identify says of the formats beyond [`IdentifyNamespace`]
    /// (CNS 05h, CSI 00h). It is needed where the controller has extended LBA formats (CTRATT bit 15); without it the
    /// guard has 16 bits.
    ///
    /// `None` when nobody can tell what its commands transfer: the block size is unusable, or the protection
    /// information is of a format unknown here, or larger than the metadata.
    #[must_use]
    pub fn of(namespace: &IdentifyNamespace, extended: Option<&NvmNamespace>) -> Option<Self> {
        let block_size = namespace.block_size()?;
        let metadata_size = u32::from(namespace.metadata_size());
        let protection = match namespace.dps & IdentifyNamespace::DPS_TYPE {
            0 => None,
            kind => {
                let size = match extended {
                    Some(extended) => {
                        extended.elbaf[namespace.lba_format_index()].protection_information_size()?
                    }
                    None => 8,
                };
                let first = namespace.dps & IdentifyNamespace::DPS_FIRST != 0;
                Some(Protection { kind, size, first })
            }
        };
        if protection.is_some_and(|protection| protection.size > metadata_size) {
            return None;
        }
        let interleaved = metadata_size > 0 && namespace.is_extended();
        Some(Self { block_size, metadata_size, interleaved, protection })
    }

    /// Bytes that a command which names blocks transfers through its data pointer: Read, Write, Compare, Zone Append.
    /// At most 2^47.
    #[must_use]
    pub const fn transfer_length(&self, entry: &SubmissionQueueEntry) -> u64 {
        let metadata = if self.interleaved { self.metadata_on_the_way(entry) } else { 0 };
        nlb(entry) as u64 * (self.block_size as u64 + metadata as u64)
    }

    /// Bytes that such a command transfers through its metadata pointer. At most 2^32.
    #[must_use]
    pub const fn metadata_length(&self, entry: &SubmissionQueueEntry) -> u64 {
        let metadata = if self.interleaved { 0 } else { self.metadata_on_the_way(entry) };
        nlb(entry) as u64 * metadata as u64
    }

    /// Bytes of metadata of each block that a command transfers, one way or the other.
    const fn metadata_on_the_way(&self, entry: &SubmissionQueueEntry) -> u32 {
        let action = IoControl::of(entry).prinfo() & IoControl::PRACT != 0;
        match self.protection {
            // The controller inserts the protection information of writes and strips that of reads, and when there is
            // nothing else in the metadata, nothing of it is transferred (NVM Command Set 1.0, 5.2.2).
            Some(protection) if action && protection.size == self.metadata_size => 0,
            _ => self.metadata_size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::{ExtendedLbaFormat, LbaFormat};
    use crate::nvm::set_nlb;
    use crate::opcode;

    fn namespace(lbads: u8, ms: u16, flbas: u8, dps: u8) -> IdentifyNamespace {
        let mut namespace = IdentifyNamespace::default();
        (namespace.flbas, namespace.dps) = (flbas, dps);
        namespace.lbaf[usize::from(flbas & 0xf)] = LbaFormat::new(lbads, ms);
        namespace
    }

    fn command(blocks: u32, prinfo: u8) -> SubmissionQueueEntry {
        let mut entry = SubmissionQueueEntry::new(opcode::nvm::WRITE);
        entry.cdw12.set(IoControl::new().with_prinfo(prinfo).with_fua(true).into_bits());
        set_nlb(&mut entry, blocks);
        entry
    }

    /// Transfer through the data pointer and through the metadata pointer, without and with PRACT, of 3 blocks.
    fn lengths(namespace: &IdentifyNamespace, extended: Option<&NvmNamespace>) -> [(u64, u64); 2] {
        let format = BlockFormat::of(namespace, extended).unwrap();
        [0, IoControl::PRACT].map(|prinfo| {
            // What is checked changes nothing in what is transferred.
            let entry = command(3, prinfo | 0b111);
            (format.transfer_length(&entry), format.metadata_length(&entry))
        })
    }

    const EXTENDED: u8 = IdentifyNamespace::FLBAS_EXTENDED;

    #[test]
    fn interleaved_metadata_makes_blocks_longer_and_separate_metadata_does_not() {
        assert_eq!(lengths(&namespace(12, 0, 0, 0), None), [(3 * 4096, 0); 2]);
        assert_eq!(lengths(&namespace(12, 0, EXTENDED, 0), None), [(3 * 4096, 0); 2]);
        assert_eq!(lengths(&namespace(9, 8, EXTENDED, 0), None), [(3 * 520, 0); 2]);
        assert_eq!(lengths(&namespace(9, 8, 0, 0), None), [(3 * 512, 3 * 8); 2]);
        assert_eq!(lengths(&namespace(12, 64, 1 | EXTENDED, 0), None), [(3 * 4160, 0); 2]);
    }

    #[test]
    fn with_pract_metadata_that_is_protection_information_alone_is_not_transferred() {
        for dps in [1, 2, 3, 9] {
            assert_eq!(lengths(&namespace(9, 8, EXTENDED, dps), None), [(3 * 520, 0), (3 * 512, 0)]);
            assert_eq!(lengths(&namespace(9, 8, 0, dps), None), [(3 * 512, 3 * 8), (3 * 512, 0)]);
            // With more in it than that, all of it is.
            assert_eq!(lengths(&namespace(12, 16, EXTENDED, dps), None), [(3 * 4112, 0); 2]);
            assert_eq!(lengths(&namespace(12, 16, 0, dps), None), [(3 * 4096, 3 * 16); 2]);
        }
    }

    #[test]
    fn larger_guards_have_sixteen_bytes_of_protection_information() {
        for format in [ExtendedLbaFormat::GUARD_32, ExtendedLbaFormat::GUARD_64] {
            let mut extended = NvmNamespace::default();
            extended.elbaf[1] = ExtendedLbaFormat::new().with_pif(format);
            let namespace = |ms| namespace(12, ms, 1 | EXTENDED, 1);
            assert_eq!(lengths(&namespace(16), Some(&extended)), [(3 * 4112, 0), (3 * 4096, 0)]);
            assert_eq!(lengths(&namespace(64), Some(&extended)), [(3 * 4160, 0); 2]);
            assert_eq!(BlockFormat::of(&namespace(8), Some(&extended)), None, "it has no room");
        }
        let extended = NvmNamespace::default();
        assert_eq!(lengths(&namespace(9, 8, EXTENDED, 1), Some(&extended))[1], (3 * 512, 0));
    }

    #[test]
    fn what_cannot_be_known_is_not_guessed() {
        assert_eq!(BlockFormat::of(&namespace(8, 0, 0, 0), None), None);
        assert_eq!(BlockFormat::of(&namespace(9, 0, 0, 1), None), None, "protection without metadata");
        let mut extended = NvmNamespace::default();
        extended.elbaf[0] = ExtendedLbaFormat::new().with_pif(3);
        assert_eq!(
            BlockFormat::of(&namespace(12, 16, 0, 1), Some(&extended)),
            None,
            "qualified by another field"
        );
        assert!(BlockFormat::of(&namespace(12, 16, 0, 0), Some(&extended)).is_some(), "not protected");
    }

    #[test]
    fn the_longest_transfer_there_can_be_does_not_overflow() {
        let format = BlockFormat::of(&namespace(31, u16::MAX, EXTENDED, 0), None).unwrap();
        assert_eq!(format.transfer_length(&command(65536, 0)), 65536 * ((1 << 31) + 65535));
    }
}
