//! How a namespace is formatted: block, metadata, protection information.

use gangway_spec::Status;
use gangway_spec::identify::LbaFormat;

use crate::emulated::protection::Protection;

/// The LBA formats that every drive has, by index; the same, in the same places, as QEMU's drive has.
pub(in crate::emulated) const FORMATS: [(u8, u16); 8] =
    [(9, 0), (9, 8), (9, 16), (9, 64), (12, 0), (12, 8), (12, 16), (12, 64)];

/// MC: metadata may be part of an extended block (bit 0), or in a buffer of its own (bit 1).
pub(in crate::emulated) const METADATA_CAPABILITIES: u8 = 0b11;
/// DPC: types 1 to 3, in the first and in the last 8 bytes of the metadata.
pub(in crate::emulated) const PROTECTION_CAPABILITIES: u8 = 0b1_1111;

/// How a namespace is formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::emulated) struct Format {
    /// Index of the LBA format.
    pub(in crate::emulated) index: u8,
    /// LBADS: the size of a block as a power of two.
    pub(in crate::emulated) shift: u8,
    /// Bytes of metadata of a block.
    pub(in crate::emulated) metadata: u16,
    /// Whether metadata is transferred as part of an extended block.
    pub(in crate::emulated) extended: bool,
    /// End-to-end protection, when it is on.
    pub(in crate::emulated) protection: Option<Protection>,
}

impl Format {
    /// The format that a drive has with these settings, as Format NVM and Namespace Management give them.
    ///
    /// # Errors
    /// Invalid Format: there is no such LBA format, or it has no room for protection information.
    pub(in crate::emulated) fn new(
        index: u8,
        extended: bool,
        dps: u8,
        keeps_data: bool,
    ) -> Result<Self, Status> {
        let refused = Err(Status::INVALID_FORMAT.with_dnr());
        let Some((shift, metadata)) = FORMATS.get(usize::from(index)).copied() else { return refused };
        let protection = match dps & 0x7 {
            0 => None,
            kind @ 1..=3 if metadata >= 8 => {
                let offset = if dps & 1 << 3 != 0 { 0 } else { metadata - 8 };
                Some(Protection { kind, offset: offset.into() })
            }
            _ => return refused,
        };
        if metadata > 0 && !keeps_data {
            return refused;
        }
        // Without metadata there is nothing that a block could be extended by.
        Ok(Self { index, shift, metadata, extended: extended && metadata > 0, protection })
    }

    /// The index of the LBA format with blocks of this many bytes and this much metadata.
    pub(in crate::emulated) fn index_of(block: u32, metadata: u16) -> Option<u8> {
        let found = FORMATS.iter().position(|(shift, ms)| 1 << shift == block && *ms == metadata);
        found.map(|index| index as u8)
    }

    /// The formats as Identify lists them. A drive that keeps no data keeps no metadata either.
    pub(in crate::emulated) fn list(keeps_data: bool) -> [LbaFormat; FORMATS.len()] {
        FORMATS.map(|(shift, metadata)| {
            if metadata > 0 && !keeps_data { LbaFormat::new(0, 0) } else { LbaFormat::new(shift, metadata) }
        })
    }

    /// Bytes of data in a block.
    pub(in crate::emulated) fn block(&self) -> usize {
        1 << self.shift
    }

    /// Bytes that a block takes, metadata included.
    pub(in crate::emulated) fn stored(&self) -> u64 {
        (1 << self.shift) + u64::from(self.metadata)
    }

    /// FLBAS of Identify Namespace.
    pub(in crate::emulated) fn flbas(&self) -> u8 {
        self.index | u8::from(self.extended) << 4
    }

    /// DPS of Identify Namespace.
    pub(in crate::emulated) fn dps(&self) -> u8 {
        self.protection.map_or(0, |protection| {
            let first = protection.offset == 0 && self.metadata > 8;
            protection.kind | u8::from(first) << 3
        })
    }
}
