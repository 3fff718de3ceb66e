//! H2CTermReq and C2HTermReq (sections 3.6.2.4 and 3.6.2.5).

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{CommonHeader, MAX_HEADER, PduType};

/// Bytes at most that follow the header of a term request: the header of the PDU in error.
pub const MAX_TERM_DATA: usize = MAX_HEADER;

/// The header of a Terminate Connection Request; the header of the PDU in error follows.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TermReq {
    /// HLEN is 24, PLEN at most 152; there is no PDO.
    pub header: CommonHeader,
    /// FES: what was wrong, see [`FatalErrorStatus`](crate::term::FatalErrorStatus).
    pub fes: U16,
    /// FEI: where it was wrong; its meaning depends on FES.
    pub fei: U32,
    /// Reserved.
    pub reserved: [u8; 10],
}

const _: () = assert!(size_of::<TermReq>() == 24);

impl TermReq {
    /// A term request of type `pdu_type` that is followed by `data` bytes (at most [`MAX_TERM_DATA`]).
    pub fn new(pdu_type: PduType, fes: u16, fei: u32, data: u8) -> Self {
        let mut header = CommonHeader::bare(pdu_type, 24);
        header.plen = U32::new(24 + u32::from(data));
        Self { header, fes: U16::new(fes), fei: U32::new(fei), reserved: [0; 10] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_request_lies_as_the_specification_has_it() {
        let term = TermReq::new(PduType::C2H_TERM, 1, 0x0102_0304, 72);
        let bytes = term.as_bytes();
        assert_eq!(bytes[..14], [3, 0, 24, 0, 96, 0, 0, 0, 1, 0, 4, 3, 2, 1]);
        assert_eq!(bytes[14..], [0; 10]);
    }
}
