//! How PDUs leave: with the digests and the padding that the two ends agreed on.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{CommonHeader, DigestFlags, Layout, PduFlags};
use crate::digest;

/// What ICReq and ICResp settled about the PDUs that one side sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Framing {
    pub(crate) digests: DigestFlags,
    /// The receiver's HPDA or CPDA.
    pub(crate) pda: u8,
}

impl Framing {
    /// Before the connection is initialized.
    pub(crate) const PLAIN: Self = Self { digests: DigestFlags::empty(), pda: 0 };

    /// Appends the header of a PDU, as its constructor made it for `length` bytes of data and [`Framing::pda`], and
    /// all that stands between it and the data.
    #[inline]
    pub(crate) fn append<T: IntoBytes + Immutable>(self, pdu: &T, length: u32, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(pdu.as_bytes());
        if !self.digests.is_empty() {
            self.finish(start, length, out);
        }
        if length > 0 && (self.pda > 0 || !self.digests.is_empty()) {
            pad(start, out);
        }
    }

    /// Makes room for the digests in the header that starts at `start`, and appends its own.
    fn finish(self, start: usize, length: u32, out: &mut Vec<u8>) {
        let Ok((header, _)) = CommonHeader::mut_from_prefix(&mut out[start..]) else { return };
        let layout = Layout::with_digests(header.hlen, self.pda, length, self.digests);
        let mut flags = header.flags();
        flags.set(PduFlags::HEADER_DIGEST, self.digests.contains(DigestFlags::HEADER));
        flags.set(PduFlags::DATA_DIGEST, self.digests.contains(DigestFlags::DATA) && length > 0);
        header.flags = flags.bits();
        header.pdo = layout.pdo;
        header.plen.set(layout.plen);
        if self.digests.contains(DigestFlags::HEADER) {
            let digest = digest::digest(&out[start..]);
            out.extend_from_slice(&digest.to_le_bytes());
        }
    }
}

/// Appends what stands between the header that starts at `start` and its data.
fn pad(start: usize, out: &mut Vec<u8>) {
    // PDO.
    let data = usize::from(out[start + CommonHeader::PDO as usize]);
    out.resize(start + data, 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::oracle::with_digests;
    use crate::pdu::{C2hData, R2t};

    #[test]
    fn a_header_is_followed_by_its_digest_and_then_by_padding() {
        for bits in 0..4 {
            for pda in [0, 1, 2, 7, 31] {
                let framing = Framing { digests: DigestFlags::from_bits_retain(bits), pda };
                let mut out = vec![9; 5];
                framing.append(&C2hData::new(7, 0, 100, PduFlags::LAST, pda), 100, &mut out);
                let mut plain = C2hData::new(7, 0, 100, PduFlags::LAST, 0).as_bytes().to_vec();
                plain.extend([1; 100]);
                let expected = with_digests(&plain, framing.digests, (usize::from(pda) + 1) * 4);
                assert_eq!(out[..5], [9; 5]);
                assert_eq!(out[5..], expected[..out.len() - 5], "{framing:?}");
                assert_eq!(out.len() - 5, usize::from(expected[3]), "{framing:?}");

                out.clear();
                let r2t = R2t::new(1, 2, 3, 4);
                framing.append(&r2t, 0, &mut out);
                assert_eq!(out, with_digests(r2t.as_bytes(), framing.digests, 4), "{framing:?}");
            }
        }
    }
}
