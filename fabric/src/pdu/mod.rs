//! The PDUs of NVMe/TCP (section 3.6), byte for byte.
//!
//! HLEN, PDO and PLEN count bytes; HPDA and CPDA count dwords, 0's based.

mod capsule;
mod data;
mod framing;
mod initialize;
mod term_req;

pub use capsule::{CapsuleCmd, CapsuleResp};
pub use data::{C2hData, H2cData, R2t};
pub(crate) use framing::Framing;
pub use initialize::{DigestFlags, IcReq, IcResp, MAX_PDA, MIN_MAX_H2C_DATA};
pub use term_req::{MAX_TERM_DATA, TermReq};

use core::fmt;

use bitflags::bitflags;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::digest::DIGEST_LENGTH;

/// Bytes of the largest PDU header (ICReq and ICResp).
pub const MAX_HEADER: usize = 128;

/// Which PDU it is (byte 0 of every PDU).
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, PartialEq, Eq, Hash, Default,
)]
#[repr(transparent)]
pub struct PduType(pub u8);

impl PduType {
    /// Initialize Connection Request, host to controller.
    pub const ICREQ: Self = Self(0x00);
    /// Initialize Connection Response, controller to host.
    pub const ICRESP: Self = Self(0x01);
    /// Host to Controller Terminate Connection Request.
    pub const H2C_TERM: Self = Self(0x02);
    /// Controller to Host Terminate Connection Request.
    pub const C2H_TERM: Self = Self(0x03);
    /// Command capsule, host to controller.
    pub const CAPSULE_CMD: Self = Self(0x04);
    /// Response capsule, controller to host.
    pub const CAPSULE_RESP: Self = Self(0x05);
    /// Host to Controller Data Transfer.
    pub const H2C_DATA: Self = Self(0x06);
    /// Controller to Host Data Transfer.
    pub const C2H_DATA: Self = Self(0x07);
    /// Ready to Transfer, controller to host.
    pub const R2T: Self = Self(0x09);

    /// The specification's name, if the type is defined.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::ICREQ => "ICReq",
            Self::ICRESP => "ICResp",
            Self::H2C_TERM => "H2CTermReq",
            Self::C2H_TERM => "C2HTermReq",
            Self::CAPSULE_CMD => "CapsuleCmd",
            Self::CAPSULE_RESP => "CapsuleResp",
            Self::H2C_DATA => "H2CData",
            Self::C2H_DATA => "C2HData",
            Self::R2T => "R2T",
            _ => return None,
        })
    }

    /// Bytes of the header (HLEN) that a PDU of this type has, if the type is defined.
    pub const fn header_length(self) -> Option<u8> {
        Some(match self {
            Self::ICREQ | Self::ICRESP => 128,
            Self::CAPSULE_CMD => 72,
            Self::H2C_TERM
            | Self::C2H_TERM
            | Self::CAPSULE_RESP
            | Self::H2C_DATA
            | Self::C2H_DATA
            | Self::R2T => 24,
            _ => return None,
        })
    }
}

impl fmt::Display for PduType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "PDU type {:02X}h", self.0),
        }
    }
}

impl fmt::Debug for PduType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PduType({self})")
    }
}

bitflags! {
    /// The FLAGS byte of the common header.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PduFlags: u8 {
        /// HDGSTF: a header digest follows the header.
        const HEADER_DIGEST = 1 << 0;
        /// DDGSTF: a data digest follows the data.
        const DATA_DIGEST = 1 << 1;
        /// LAST_PDU, of data PDUs: no further data belongs to the transfer.
        const LAST = 1 << 2;
        /// SUCCESS, of C2HData: the command succeeded and no response capsule follows.
        const SUCCESS = 1 << 3;
    }
}

/// The eight bytes that every PDU starts with (section 3.6.1).
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq, Default,
)]
#[repr(C)]
pub struct CommonHeader {
    /// Which PDU it is.
    pub pdu_type: PduType,
    /// FLAGS, see [`PduFlags`].
    pub flags: u8,
    /// HLEN: bytes of the header, without its digest.
    pub hlen: u8,
    /// PDO: bytes from the start of the PDU to its data; 0 in a PDU without data.
    pub pdo: u8,
    /// PLEN: bytes of the PDU, with header, digests, padding and data.
    pub plen: U32,
}

const _: () = assert!(size_of::<CommonHeader>() == 8);

impl CommonHeader {
    /// Byte offsets of the fields, as Fatal Error Information names them.
    pub const PDU_TYPE: u32 = 0;
    /// Byte offset of FLAGS.
    pub const FLAGS: u32 = 1;
    /// Byte offset of HLEN.
    pub const HLEN: u32 = 2;
    /// Byte offset of PDO.
    pub const PDO: u32 = 3;
    /// Byte offset of PLEN.
    pub const PLEN: u32 = 4;

    /// The common header of a PDU without data: `hlen` bytes in all.
    pub const fn bare(pdu_type: PduType, hlen: u8) -> Self {
        Self { pdu_type, flags: 0, hlen, pdo: 0, plen: U32::new(hlen as u32) }
    }

    /// The common header of a PDU that carries data laid out as `layout` says.
    pub const fn with_data(pdu_type: PduType, flags: PduFlags, hlen: u8, layout: Layout) -> Self {
        Self { pdu_type, flags: flags.bits(), hlen, pdo: layout.pdo, plen: U32::new(layout.plen) }
    }

    /// FLAGS as flags; undefined bits are kept.
    pub const fn flags(&self) -> PduFlags {
        PduFlags::from_bits_retain(self.flags)
    }
}

/// Where the data of a PDU stands, and how long the PDU is.
///
/// The one place that knows what lies between header and data, and behind the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes from the start of the PDU to its data.
    pub pdo: u8,
    /// Bytes of the whole PDU.
    pub plen: u32,
}

impl Layout {
    /// The layout of a PDU with `hlen` bytes of header and `length` bytes of data, for a receiver that asked
    /// for `pda` (HPDA or CPDA: dwords, 0's based, at most [`MAX_PDA`]).
    ///
    /// Lengths beyond what PLEN can say are the caller's error; PLEN saturates then.
    pub const fn new(hlen: u8, pda: u8, length: u32) -> Self {
        Self::with_digests(hlen, pda, length, DigestFlags::empty())
    }

    /// The same for a connection with digests: the header's stands right behind it, before the padding, and the
    /// data's right behind the data. A PDU without data (`length` 0) has no PDO and no data digest.
    pub const fn with_digests(hlen: u8, pda: u8, length: u32, digests: DigestFlags) -> Self {
        let header_digest = if digests.contains(DigestFlags::HEADER) { DIGEST_LENGTH as u32 } else { 0 };
        let header = hlen as u32 + header_digest;
        if length == 0 && !digests.is_empty() {
            return Self { pdo: 0, plen: header };
        }
        let data_digest = if digests.contains(DigestFlags::DATA) { DIGEST_LENGTH as u32 } else { 0 };
        let pda = if pda > MAX_PDA { MAX_PDA } else { pda };
        // Division is slow, and the usual alignment needs none.
        let pdo =
            if pda == 0 { header.next_multiple_of(4) } else { header.next_multiple_of((pda as u32 + 1) * 4) };
        Self { pdo: pdo as u8, plen: pdo.saturating_add(length).saturating_add(data_digest) }
    }

    /// Bytes of padding between a header of `hlen` bytes without digest and the data.
    pub const fn padding(&self, hlen: u8) -> usize {
        self.pdo.saturating_sub(hlen) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_stands_right_behind_the_header_when_nothing_else_is_asked_for() {
        assert_eq!(Layout::new(24, 0, 4096), Layout { pdo: 24, plen: 4120 });
        assert_eq!(Layout::new(72, 0, 512).padding(72), 0);
    }

    #[test]
    fn data_is_aligned_to_the_dwords_the_receiver_asked_for() {
        for pda in 0..=MAX_PDA {
            let layout = Layout::new(24, pda, 100);
            let alignment = (u32::from(pda) + 1) * 4;
            assert_eq!(u32::from(layout.pdo) % alignment, 0);
            assert!(layout.pdo >= 24);
            assert!(layout.padding(24) < alignment as usize);
            assert_eq!(layout.plen, u32::from(layout.pdo) + 100);
        }
        assert_eq!(Layout::new(24, 31, 8).pdo, 128);
    }

    #[test]
    fn digests_count_in_pdo_and_plen() {
        let both = DigestFlags::all();
        assert_eq!(Layout::with_digests(24, 0, 4096, both), Layout { pdo: 28, plen: 28 + 4096 + 4 });
        assert_eq!(Layout::with_digests(24, 0, 4096, DigestFlags::DATA), Layout { pdo: 24, plen: 4124 });
        assert_eq!(Layout::with_digests(24, 6, 8, DigestFlags::HEADER), Layout { pdo: 28, plen: 36 });
        assert_eq!(Layout::with_digests(24, 5, 8, DigestFlags::HEADER), Layout { pdo: 48, plen: 56 });
        assert_eq!(Layout::with_digests(72, 31, 8, both), Layout { pdo: 128, plen: 140 });
        assert_eq!(Layout::with_digests(24, 31, 0, both), Layout { pdo: 0, plen: 28 });
    }

    #[test]
    fn a_type_the_specification_does_not_define_has_a_number_for_a_name() {
        assert_eq!(PduType(0x08).to_string(), "PDU type 08h");
        assert_eq!(PduType::C2H_DATA.to_string(), "C2HData");
    }

    #[test]
    fn the_common_header_lies_as_the_specification_has_it() {
        let header = CommonHeader {
            pdu_type: PduType::H2C_DATA,
            flags: 4,
            hlen: 24,
            pdo: 28,
            plen: U32::new(0x0102_0304),
        };
        assert_eq!(header.as_bytes(), [6, 4, 24, 28, 4, 3, 2, 1]);
    }
}
