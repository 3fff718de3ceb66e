//! Fatal errors: how a side tells the other that the connection is beyond repair (section 3.7).

use core::fmt;

use zerocopy::{FromBytes, IntoBytes};

use crate::pdu::{CommonHeader, MAX_TERM_DATA, PduType, TermReq};

/// FES: why a connection is terminated.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FatalErrorStatus(pub u16);

impl FatalErrorStatus {
    /// A field of the PDU header has a value that it must not have; FEI is the field's byte offset.
    pub const INVALID_PDU_HEADER_FIELD: Self = Self(1);
    /// The PDU is not allowed now.
    pub const PDU_SEQUENCE_ERROR: Self = Self(2);
    /// The header digest is wrong; FEI is the digest that was received.
    pub const HEADER_DIGEST_ERROR: Self = Self(3);
    /// The data lies outside of what the transfer allows.
    pub const DATA_TRANSFER_OUT_OF_RANGE: Self = Self(4);
    /// Said by a controller: a PDU carries more data than the controller takes in one.
    pub const DATA_TRANSFER_LIMIT_EXCEEDED: Self = Self(5);
    /// Said by a host: more R2Ts are outstanding than the host's MAXR2T.
    pub const R2T_LIMIT_EXCEEDED: Self = Self(5);
    /// A parameter is not supported; FEI is the field's byte offset.
    pub const UNSUPPORTED_PARAMETER: Self = Self(6);

    /// The specification's name, if the value is defined. Value 5 has one name for each direction.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            1 => "Invalid PDU Header Field",
            2 => "PDU Sequence Error",
            3 => "Header Digest Error",
            4 => "Data Transfer Out of Range",
            5 => "Data Transfer Limit Exceeded / R2T Limit Exceeded",
            6 => "Unsupported Parameter",
            _ => return None,
        })
    }

    /// Whether FEI is the byte offset of a field.
    const fn points_at_a_field(self) -> bool {
        matches!(self, Self::INVALID_PDU_HEADER_FIELD | Self::UNSUPPORTED_PARAMETER)
    }
}

impl fmt::Display for FatalErrorStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} (FES {:02X}h)", self.0),
            None => write!(f, "FES {:02X}h", self.0),
        }
    }
}

impl fmt::Debug for FatalErrorStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FatalErrorStatus({self})")
    }
}

/// What the peer did that ends the connection: the very content of the term request that tells it so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fatal {
    /// What was wrong.
    pub fes: FatalErrorStatus,
    /// Where: the byte offset of the field for `INVALID_PDU_HEADER_FIELD` and `UNSUPPORTED_PARAMETER`, the
    /// received digest for `HEADER_DIGEST_ERROR`, else 0.
    pub fei: u32,
    /// The header in error as far as it was received, at most [`MAX_TERM_DATA`] bytes.
    header: Box<[u8]>,
}

impl Fatal {
    /// An error of the PDU whose header, as far as it was received, is `header`.
    #[cold]
    pub fn new(fes: FatalErrorStatus, fei: u32, header: &[u8]) -> Self {
        Self { fes, fei, header: header[..header.len().min(MAX_TERM_DATA)].into() }
    }

    /// A field that has a value it must not have.
    #[cold]
    pub fn field(fei: u32, header: &[u8]) -> Self {
        Self::new(FatalErrorStatus::INVALID_PDU_HEADER_FIELD, fei, header)
    }

    /// A PDU that is not allowed now.
    #[cold]
    pub fn sequence(header: &[u8]) -> Self {
        Self::new(FatalErrorStatus::PDU_SEQUENCE_ERROR, 0, header)
    }

    /// The header in error as far as it was received.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// The type of the PDU in error, if that much of it was received.
    pub fn pdu_type(&self) -> Option<PduType> {
        CommonHeader::ref_from_prefix(&self.header).ok().map(|(header, _)| header.pdu_type)
    }

    /// Appends the term request of type `pdu_type` (`H2C_TERM` from a host, `C2H_TERM` from a controller).
    pub fn write(&self, pdu_type: PduType, out: &mut Vec<u8>) {
        // `new` cuts the header to 128 bytes.
        let term = TermReq::new(pdu_type, self.fes.0, self.fei, self.header.len() as u8);
        out.extend_from_slice(term.as_bytes());
        out.extend_from_slice(&self.header);
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the peer broke the NVMe/TCP protocol: {}", self.fes)?;
        if self.fes.points_at_a_field() {
            write!(f, " at byte {}", self.fei)?;
        }
        match self.pdu_type() {
            Some(pdu_type) => write!(f, " of a {pdu_type} PDU"),
            None => Ok(()),
        }
    }
}

impl core::error::Error for Fatal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fatal_error_says_what_is_wrong_where() {
        let header = CommonHeader::bare(PduType::H2C_DATA, 24);
        let fatal = Fatal::field(CommonHeader::PLEN, header.as_bytes());
        assert_eq!(
            fatal.to_string(),
            "the peer broke the NVMe/TCP protocol: Invalid PDU Header Field (FES 01h) at byte 4 of a H2CData PDU"
        );
        assert_eq!(FatalErrorStatus(0x99).to_string(), "FES 99h");
    }

    #[test]
    fn a_term_request_carries_the_header_in_error_and_no_more_than_128_bytes_of_it() {
        let fatal = Fatal::sequence(&[7; 500]);
        let mut out = Vec::new();
        fatal.write(PduType::H2C_TERM, &mut out);
        assert_eq!(out.len(), 152);
        let (term, data) = TermReq::ref_from_prefix(&out).unwrap();
        assert_eq!(term.header.pdu_type, PduType::H2C_TERM);
        assert_eq!(term.header.plen.get(), 152);
        assert_eq!(term.fes.get(), 2);
        assert_eq!(data, [7; 128]);
    }
}
