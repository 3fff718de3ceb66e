//! ICReq and ICResp (sections 3.6.2.2 and 3.6.2.3): the first PDU of each side.

use bitflags::bitflags;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{CommonHeader, PduType};

/// Largest HPDA and CPDA: 31, so data starts at a multiple of 128 bytes.
pub const MAX_PDA: u8 = 31;

/// Smallest MAXH2CDATA that a controller may answer, in bytes.
pub const MIN_MAX_H2C_DATA: u32 = 4096;

bitflags! {
    /// The DGST byte of ICReq and ICResp.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DigestFlags: u8 {
        /// HDGST_ENABLE: every header but those of ICReq, ICResp and term requests is followed by its CRC-32C.
        const HEADER = 1 << 0;
        /// DDGST_ENABLE: data is followed by its CRC-32C.
        const DATA = 1 << 1;
    }
}

/// Initialize Connection Request: the host's first PDU.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct IcReq {
    /// HLEN and PLEN are 128.
    pub header: CommonHeader,
    /// PFV: the version of the PDU format, 0.
    pub pfv: U16,
    /// HPDA: alignment that the host wants for the data of C2HData, dwords, 0's based.
    pub hpda: u8,
    /// DGST, see [`DigestFlags`].
    pub dgst: u8,
    /// MAXR2T: outstanding R2Ts per command that the host takes, 0's based.
    pub maxr2t: U32,
    /// Reserved.
    pub reserved: [u8; 112],
}

const _: () = assert!(size_of::<IcReq>() == 128);

impl IcReq {
    /// Byte offset of PFV.
    pub const PFV: u32 = 8;
    /// Byte offset of HPDA.
    pub const HPDA: u32 = 10;
    /// Byte offset of DGST.
    pub const DGST: u32 = 11;

    /// A request for PDU format 0.
    pub fn new(hpda: u8, dgst: DigestFlags, maxr2t: u32) -> Self {
        Self {
            header: CommonHeader::bare(PduType::ICREQ, 128),
            pfv: U16::ZERO,
            hpda,
            dgst: dgst.bits(),
            maxr2t: U32::new(maxr2t),
            reserved: [0; 112],
        }
    }
}

/// Initialize Connection Response: the controller's first PDU.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct IcResp {
    /// HLEN and PLEN are 128.
    pub header: CommonHeader,
    /// PFV: the version of the PDU format, 0.
    pub pfv: U16,
    /// CPDA: alignment that the controller wants for the data it receives, dwords, 0's based.
    pub cpda: u8,
    /// DGST: what both sides use from now on, see [`DigestFlags`].
    pub dgst: u8,
    /// MAXH2CDATA: bytes of data in one H2CData PDU at most, a multiple of 4, at least [`MIN_MAX_H2C_DATA`].
    pub maxh2cdata: U32,
    /// Reserved.
    pub reserved: [u8; 112],
}

const _: () = assert!(size_of::<IcResp>() == 128);

impl IcResp {
    /// Byte offset of PFV.
    pub const PFV: u32 = 8;
    /// Byte offset of CPDA.
    pub const CPDA: u32 = 10;
    /// Byte offset of DGST.
    pub const DGST: u32 = 11;
    /// Byte offset of MAXH2CDATA.
    pub const MAXH2CDATA: u32 = 12;

    /// A response for PDU format 0.
    pub fn new(cpda: u8, dgst: DigestFlags, maxh2cdata: u32) -> Self {
        Self {
            header: CommonHeader::bare(PduType::ICRESP, 128),
            pfv: U16::ZERO,
            cpda,
            dgst: dgst.bits(),
            maxh2cdata: U32::new(maxh2cdata),
            reserved: [0; 112],
        }
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn the_fields_lie_where_fatal_error_information_points() {
        assert_eq!(offset_of!(IcReq, pfv), IcReq::PFV as usize);
        assert_eq!(offset_of!(IcReq, hpda), IcReq::HPDA as usize);
        assert_eq!(offset_of!(IcReq, dgst), IcReq::DGST as usize);
        assert_eq!(offset_of!(IcReq, maxr2t), 12);
        assert_eq!(offset_of!(IcResp, cpda), IcResp::CPDA as usize);
        assert_eq!(offset_of!(IcResp, maxh2cdata), IcResp::MAXH2CDATA as usize);
    }
}
