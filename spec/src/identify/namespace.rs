//! Identify Namespace of the NVM Command Set, CNS 00h (NVM Command Set 1.0, 4.1.5.1).

use core::fmt;
use core::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Nmic, Nsfeat, zeroed_default};

/// What a namespace is and how it is formatted.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// Namespace size in blocks.
    pub nsze: U64,
    /// Namespace capacity in blocks: how many may be allocated.
    pub ncap: U64,
    /// Namespace utilization in blocks: how many are allocated.
    pub nuse: U64,
    /// Namespace features ([`Nsfeat`]).
    pub nsfeat: u8,
    /// Number of LBA formats, 0's based.
    pub nlbaf: u8,
    /// Formatted LBA size: format index in bits 3:0 and 6:5, extended data in bit 4.
    pub flbas: u8,
    /// Metadata capabilities.
    pub mc: u8,
    /// End-to-end data protection capabilities.
    pub dpc: u8,
    /// End-to-end data protection type settings.
    pub dps: u8,
    /// Namespace multi-path I/O and sharing capabilities ([`Nmic`]).
    pub nmic: u8,
    /// Reservation capabilities ([`Rescap`](crate::reservation::Rescap)).
    pub rescap: u8,
    /// Format progress indicator.
    pub fpi: u8,
    /// Deallocate logical block features.
    pub dlfeat: u8,
    /// Namespace atomic write unit normal in blocks, 0's based.
    pub nawun: U16,
    /// Namespace atomic write unit power fail in blocks, 0's based.
    pub nawupf: U16,
    /// Namespace atomic compare and write unit in blocks, 0's based.
    pub nacwu: U16,
    /// Namespace atomic boundary size normal in blocks, 0's based.
    pub nabsn: U16,
    /// Namespace atomic boundary offset in blocks.
    pub nabo: U16,
    /// Namespace atomic boundary size power fail in blocks, 0's based.
    pub nabspf: U16,
    /// Namespace optimal I/O boundary in blocks.
    pub noiob: U16,
    /// NVM capacity in bytes, 128 bits.
    pub nvmcap: [u8; 16],
    /// Namespace preferred write granularity in blocks, 0's based.
    pub npwg: U16,
    /// Namespace preferred write alignment in blocks, 0's based.
    pub npwa: U16,
    /// Namespace preferred deallocate granularity in blocks, 0's based.
    pub npdg: U16,
    /// Namespace preferred deallocate alignment in blocks, 0's based.
    pub npda: U16,
    /// Namespace optimal write size in blocks, 0's based.
    pub nows: U16,
    /// Maximum single source range length of Copy, in blocks.
    pub mssrl: U16,
    /// Maximum copy length in blocks.
    pub mcl: U32,
    /// Maximum source range count of Copy, 0's based.
    pub msrc: u8,
    /// Key per I/O status.
    pub kpios: u8,
    /// Number of unique attribute LBA formats.
    pub nulbaf: u8,
    reserved83: u8,
    /// Key per I/O data access alignment and granularity.
    pub kpiodaag: U32,
    reserved88: [u8; 4],
    /// ANA group identifier.
    pub anagrpid: U32,
    reserved96: [u8; 3],
    /// Namespace attributes: bit 0 write protected.
    pub nsattr: u8,
    /// NVM set identifier.
    pub nvmsetid: U16,
    /// Endurance group identifier.
    pub endgid: U16,
    /// Namespace globally unique identifier, big-endian; zero when there is none.
    pub nguid: [u8; 16],
    /// IEEE extended unique identifier, big-endian; zero when there is none.
    pub eui64: [u8; 8],
    /// LBA formats; NLBAF + 1 + NULBAF of them are valid.
    pub lbaf: [LbaFormat; 64],
    /// The vendor's.
    pub vs: [u8; 3712],
}

const _: () = {
    assert!(size_of::<IdentifyNamespace>() == 4096);
    assert!(offset_of!(IdentifyNamespace, nsfeat) == 24);
    assert!(offset_of!(IdentifyNamespace, nmic) == 30);
    assert!(offset_of!(IdentifyNamespace, nawun) == 34);
    assert!(offset_of!(IdentifyNamespace, noiob) == 46);
    assert!(offset_of!(IdentifyNamespace, nvmcap) == 48);
    assert!(offset_of!(IdentifyNamespace, npwg) == 64);
    assert!(offset_of!(IdentifyNamespace, mssrl) == 74);
    assert!(offset_of!(IdentifyNamespace, msrc) == 80);
    assert!(offset_of!(IdentifyNamespace, nulbaf) == 82);
    assert!(offset_of!(IdentifyNamespace, anagrpid) == 92);
    assert!(offset_of!(IdentifyNamespace, nsattr) == 99);
    assert!(offset_of!(IdentifyNamespace, endgid) == 102);
    assert!(offset_of!(IdentifyNamespace, nguid) == 104);
    assert!(offset_of!(IdentifyNamespace, eui64) == 120);
    assert!(offset_of!(IdentifyNamespace, lbaf) == 128);
    assert!(offset_of!(IdentifyNamespace, vs) == 384);
};

zeroed_default!(IdentifyNamespace);

impl IdentifyNamespace {
    /// FLBAS: metadata is interleaved with the data of each block (an extended block).
    pub const FLBAS_EXTENDED: u8 = 1 << 4;
    /// DPS: type of protection information, 1 to 3; 0 when there is none.
    pub const DPS_TYPE: u8 = 0x7;
    /// DPS: protection information stands in the first bytes of the metadata.
    pub const DPS_FIRST: u8 = 1 << 3;

    /// Index of the LBA format the namespace is formatted with.
    ///
    /// The two upper bits count only with more than 16 formats; older drives leave anything there.
    #[must_use]
    pub const fn lba_format_index(&self) -> usize {
        let lower = (self.flbas & 0x0f) as usize;
        if self.nlbaf as usize + 1 + self.nulbaf as usize > 16 {
            return lower | ((self.flbas & 0x60) >> 1) as usize;
        }
        lower
    }

    /// The LBA format the namespace is formatted with.
    #[must_use]
    pub const fn current_lba_format(&self) -> LbaFormat {
        self.lbaf[self.lba_format_index()]
    }

    /// Bytes of data in a block, without metadata; `None` when the drive reports less than 512 bytes or more
    /// than 2 GiB, which nobody can use.
    #[must_use]
    pub const fn block_size(&self) -> Option<u32> {
        self.current_lba_format().block_size()
    }

    /// Bytes of metadata of a block.
    #[must_use]
    pub const fn metadata_size(&self) -> u16 {
        self.current_lba_format().ms.get()
    }

    /// Whether metadata is transferred within the data, so that a block is longer by
    /// [`Self::metadata_size`] on its way.
    #[must_use]
    pub const fn is_extended(&self) -> bool {
        self.flbas & Self::FLBAS_EXTENDED != 0
    }

    /// Size of the namespace in bytes, without metadata; `None` when the block size is unusable or the size is
    /// beyond 64 bits.
    #[must_use]
    pub const fn size_in_bytes(&self) -> Option<u64> {
        match self.block_size() {
            Some(block) => self.nsze.get().checked_mul(block as u64),
            None => None,
        }
    }

    /// NSFEAT as flags.
    #[must_use]
    pub const fn nsfeat(&self) -> Nsfeat {
        Nsfeat::from_bits_retain(self.nsfeat)
    }

    /// NMIC as flags.
    #[must_use]
    pub const fn nmic(&self) -> Nmic {
        Nmic::from_bits_retain(self.nmic)
    }
}

/// Size and format: all 4096 bytes would hide them.
impl fmt::Debug for IdentifyNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentifyNamespace")
            .field("nsze", &self.nsze.get())
            .field("ncap", &self.ncap.get())
            .field("nuse", &self.nuse.get())
            .field("flbas", &self.flbas)
            .field("lba_format", &self.current_lba_format())
            .field("nsfeat", &self.nsfeat())
            .field("nmic", &self.nmic())
            .finish_non_exhaustive()
    }
}

/// One way to format a namespace (NVM Command Set 1.0, figure 98).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct LbaFormat {
    /// Metadata size in bytes.
    pub ms: U16,
    /// LBA data size as a power of two; 0 when the format is not available.
    pub lbads: u8,
    /// Relative performance, bits 1:0; 0 is best.
    pub rp: u8,
}

const _: () = assert!(size_of::<LbaFormat>() == 4);

impl LbaFormat {
    /// A format of 2 to the power of `lbads` bytes with `ms` bytes of metadata.
    #[must_use]
    pub const fn new(lbads: u8, ms: u16) -> Self {
        Self { ms: U16::new(ms), lbads, rp: 0 }
    }

    /// Bytes of data in a block; `None` outside of 512 bytes to 2 GiB.
    #[must_use]
    pub const fn block_size(&self) -> Option<u32> {
        match self.lbads {
            9..=31 => Some(1 << self.lbads),
            _ => None,
        }
    }
}

impl fmt::Display for LbaFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.block_size() {
            Some(size) => write!(f, "{size} B")?,
            None => write!(f, "2^{} B", self.lbads)?,
        }
        match self.ms.get() {
            0 => Ok(()),
            metadata => write!(f, " + {metadata} B"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(flbas: u8, nlbaf: u8) -> IdentifyNamespace {
        let mut namespace = IdentifyNamespace { flbas, nlbaf, ..Default::default() };
        namespace.lbaf[1] = LbaFormat::new(12, 8);
        namespace.lbaf[33] = LbaFormat::new(9, 0);
        namespace
    }

    #[test]
    fn the_block_size_is_that_of_the_current_format() {
        let namespace = formatted(0x11, 3);
        assert_eq!((namespace.block_size(), namespace.metadata_size()), (Some(4096), 8));
        assert!(namespace.is_extended());
    }

    #[test]
    fn the_upper_index_bits_count_only_with_more_than_16_formats() {
        assert_eq!(formatted(0x41, 15).lba_format_index(), 1);
        assert_eq!(formatted(0x41, 16).lba_format_index(), 33);
        let mut namespace = formatted(0x41, 0);
        namespace.nulbaf = 63;
        assert_eq!(namespace.block_size(), Some(512));
        assert_eq!(formatted(0xff, 63).lba_format_index(), 63);
    }

    #[test]
    fn an_impossible_block_size_is_none() {
        let mut namespace = IdentifyNamespace::default();
        for (lbads, size) in [(0, None), (8, None), (9, Some(512)), (31, Some(1 << 31)), (32, None)] {
            namespace.lbaf[0].lbads = lbads;
            assert_eq!(namespace.block_size(), size);
        }
    }

    #[test]
    fn a_size_beyond_64_bits_is_none() {
        let mut namespace = formatted(0x01, 1);
        namespace.nsze.set(256);
        assert_eq!(namespace.size_in_bytes(), Some(1 << 20));
        namespace.nsze.set(1 << 52);
        assert_eq!(namespace.size_in_bytes(), None);
    }

    #[test]
    fn a_person_can_read_a_format() {
        assert_eq!(LbaFormat::new(9, 0).to_string(), "512 B");
        assert_eq!(LbaFormat::new(12, 64).to_string(), "4096 B + 64 B");
        assert_eq!(LbaFormat::new(3, 0).to_string(), "2^3 B");
    }
}
