//! What Identify says of namespaces and controllers of the NVM Command Set alone: CNS 05h and 06h with CSI 00h (NVM
//! Command Set 1.0, 4.1.5.2 and 4.1.5.3).

use core::mem::{offset_of, size_of};

use bitfield_struct::bitfield;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::zeroed_default;

/// CNS 05h, CSI 00h: what extended LBA formats add to Identify Namespace.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NvmNamespace {
    /// Logical block storage tag mask.
    pub lbstm: U64,
    /// Protection information capabilities.
    pub pic: u8,
    reserved9: [u8; 3],
    /// Extensions of the LBA formats, by the same index.
    pub elbaf: [ExtendedLbaFormat; 64],
    reserved268: [u8; 3828],
}

const _: () = assert!(size_of::<NvmNamespace>() == 4096);
const _: () = assert!(offset_of!(NvmNamespace, elbaf) == 12);

zeroed_default!(NvmNamespace);

/// What an LBA format has beside sizes (NVM Command Set 1.0, figure 101).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(transparent)]
pub struct ExtendedLbaFormat(U32);

#[bitfield(u32)]
struct ExtendedLbaFormatBits {
    #[bits(7)]
    sts: u8,
    #[bits(2)]
    pif: u8,
    #[bits(23)]
    __: u32,
}

impl ExtendedLbaFormat {
    /// PIF: a guard of 16 bits.
    pub const GUARD_16: u8 = 0;
    /// PIF: a guard of 32 bits.
    pub const GUARD_32: u8 = 1;
    /// PIF: a guard of 64 bits.
    pub const GUARD_64: u8 = 2;

    /// A guard of 16 bits and no storage tag.
    #[must_use]
    pub const fn new() -> Self {
        Self(U32::ZERO)
    }

    /// Storage tag size in bits.
    #[must_use]
    pub const fn sts(self) -> u8 {
        ExtendedLbaFormatBits::from_bits(self.0.get()).sts()
    }

    /// Protection information format: see [`Self::GUARD_16`] and its siblings. 3 is said in another field.
    #[must_use]
    pub const fn pif(self) -> u8 {
        ExtendedLbaFormatBits::from_bits(self.0.get()).pif()
    }

    /// The same with another protection information format (its lowest two bits).
    #[must_use]
    pub const fn with_pif(self, pif: u8) -> Self {
        Self(U32::new(ExtendedLbaFormatBits::from_bits(self.0.get()).with_pif(pif & 0x3).into_bits()))
    }

    /// Bytes of protection information; `None` when the format is unknown.
    #[must_use]
    pub const fn protection_information_size(self) -> Option<u32> {
        match self.pif() {
            Self::GUARD_16 => Some(8),
            Self::GUARD_32 | Self::GUARD_64 => Some(16),
            _ => None,
        }
    }
}

/// CNS 06h, CSI 00h: limits of commands that move no data. Each is a power of two of the smallest memory page size where
/// not stated otherwise; 0 is no limit.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NvmController {
    /// Verify size limit.
    pub vsl: u8,
    /// Write Zeroes size limit.
    pub wzsl: u8,
    /// Write Uncorrectable size limit.
    pub wusl: u8,
    /// Dataset Management ranges limit.
    pub dmrl: u8,
    /// Dataset Management range size limit in blocks.
    pub dmrsl: U32,
    /// Dataset Management size limit in blocks.
    pub dmsl: U64,
    reserved16: [u8; 4080],
}

const _: () = assert!(size_of::<NvmController>() == 4096);
const _: () = assert!(offset_of!(NvmController, dmsl) == 8);

zeroed_default!(NvmController);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_size_and_guard_stand_at_the_bits_of_the_specification() {
        let format = ExtendedLbaFormat::read_from_bytes(&[0xa0, 0x00, 0x00, 0x00]).unwrap();
        assert_eq!((format.sts(), format.pif()), (32, ExtendedLbaFormat::GUARD_32));
        let format = ExtendedLbaFormat::read_from_bytes(&[0x30, 0x01, 0xff, 0xff]).unwrap();
        assert_eq!((format.sts(), format.pif()), (48, ExtendedLbaFormat::GUARD_64));
        assert_eq!(ExtendedLbaFormat::new().with_pif(2).as_bytes(), [0, 1, 0, 0]);
        assert_eq!(ExtendedLbaFormat::new().with_pif(3).protection_information_size(), None);
    }
}
