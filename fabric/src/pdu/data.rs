//! H2CData, C2HData and R2T (sections 3.6.2.8 to 3.6.2.10).

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{CommonHeader, Layout, PduFlags, PduType};

/// The header of data that goes to the controller, in answer to an R2T.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct H2cData {
    /// HLEN is 24.
    pub header: CommonHeader,
    /// CCCID: the identifier of the command that the data belongs to.
    pub cccid: U16,
    /// TTAG: the tag of the R2T that asked for the data.
    pub ttag: U16,
    /// DATAO: bytes from the start of the command's data to this PDU's data.
    pub datao: U32,
    /// DATAL: bytes of data in this PDU.
    pub datal: U32,
    /// Reserved.
    pub reserved: [u8; 4],
}

const _: () = assert!(size_of::<H2cData>() == 24);

impl H2cData {
    /// Byte offset of CCCID.
    pub const CCCID: u32 = 8;
    /// Byte offset of TTAG.
    pub const TTAG: u32 = 10;
    /// Byte offset of DATAO.
    pub const DATAO: u32 = 12;
    /// Byte offset of DATAL.
    pub const DATAL: u32 = 16;

    /// The header of `datal` bytes at `datao` of the data that the R2T with `ttag` asked for.
    pub fn new(cccid: u16, ttag: u16, datao: u32, datal: u32, last: bool, cpda: u8) -> Self {
        let flags = if last { PduFlags::LAST } else { PduFlags::empty() };
        Self {
            header: CommonHeader::with_data(PduType::H2C_DATA, flags, 24, Layout::new(24, cpda, datal)),
            cccid: U16::new(cccid),
            ttag: U16::new(ttag),
            datao: U32::new(datao),
            datal: U32::new(datal),
            reserved: [0; 4],
        }
    }
}

/// The header of data that goes to the host.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct C2hData {
    /// HLEN is 24.
    pub header: CommonHeader,
    /// CCCID: the identifier of the command that the data belongs to.
    pub cccid: U16,
    /// Reserved.
    pub reserved1: [u8; 2],
    /// DATAO: bytes from the start of the command's data to this PDU's data.
    pub datao: U32,
    /// DATAL: bytes of data in this PDU.
    pub datal: U32,
    /// Reserved.
    pub reserved2: [u8; 4],
}

const _: () = assert!(size_of::<C2hData>() == 24);

impl C2hData {
    /// Byte offset of CCCID.
    pub const CCCID: u32 = 8;
    /// Byte offset of DATAO.
    pub const DATAO: u32 = 12;
    /// Byte offset of DATAL.
    pub const DATAL: u32 = 16;

    /// The header of `datal` bytes at `datao` of the data of command `cccid`.
    pub fn new(cccid: u16, datao: u32, datal: u32, flags: PduFlags, hpda: u8) -> Self {
        Self {
            header: CommonHeader::with_data(PduType::C2H_DATA, flags, 24, Layout::new(24, hpda, datal)),
            cccid: U16::new(cccid),
            reserved1: [0; 2],
            datao: U32::new(datao),
            datal: U32::new(datal),
            reserved2: [0; 4],
        }
    }
}

/// Ready to Transfer: the controller asks for data of a command.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct R2t {
    /// HLEN and PLEN are 24.
    pub header: CommonHeader,
    /// CCCID: the identifier of the command.
    pub cccid: U16,
    /// TTAG: the tag that the host's H2CData repeats.
    pub ttag: U16,
    /// R2TO: bytes from the start of the command's data to the data that is asked for.
    pub r2to: U32,
    /// R2TL: bytes that are asked for.
    pub r2tl: U32,
    /// Reserved.
    pub reserved: [u8; 4],
}

const _: () = assert!(size_of::<R2t>() == 24);

impl R2t {
    /// Byte offset of CCCID.
    pub const CCCID: u32 = 8;
    /// Byte offset of R2TO.
    pub const R2TO: u32 = 12;
    /// Byte offset of R2TL.
    pub const R2TL: u32 = 16;

    /// A request for `r2tl` bytes at `r2to` of the data of command `cccid`.
    pub fn new(cccid: u16, ttag: u16, r2to: u32, r2tl: u32) -> Self {
        Self {
            header: CommonHeader::bare(PduType::R2T, 24),
            cccid: U16::new(cccid),
            ttag: U16::new(ttag),
            r2to: U32::new(r2to),
            r2tl: U32::new(r2tl),
            reserved: [0; 4],
        }
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn the_fields_lie_where_fatal_error_information_points() {
        assert_eq!(offset_of!(H2cData, cccid), H2cData::CCCID as usize);
        assert_eq!(offset_of!(H2cData, ttag), H2cData::TTAG as usize);
        assert_eq!(offset_of!(H2cData, datao), H2cData::DATAO as usize);
        assert_eq!(offset_of!(H2cData, datal), H2cData::DATAL as usize);
        assert_eq!(offset_of!(C2hData, cccid), C2hData::CCCID as usize);
        assert_eq!(offset_of!(C2hData, datao), C2hData::DATAO as usize);
        assert_eq!(offset_of!(C2hData, datal), C2hData::DATAL as usize);
        assert_eq!(offset_of!(R2t, cccid), R2t::CCCID as usize);
        assert_eq!(offset_of!(R2t, r2to), R2t::R2TO as usize);
        assert_eq!(offset_of!(R2t, r2tl), R2t::R2TL as usize);
    }

    #[test]
    fn the_data_of_a_transfer_pdu_counts_in_plen_and_pdo() {
        let pdu = C2hData::new(7, 0, 512, PduFlags::LAST | PduFlags::SUCCESS, 31);
        assert_eq!(pdu.header.pdo, 128);
        assert_eq!(pdu.header.plen.get(), 640);
        assert_eq!(pdu.header.flags, 0b1100);
        let pdu = H2cData::new(7, 9, 4096, 512, false, 0);
        assert_eq!(pdu.header.pdo, 24);
        assert_eq!(pdu.header.plen.get(), 536);
        assert_eq!(pdu.header.flags, 0);
    }
}
