//! Header and data digests (section 3.4.3): CRC-32C of a PDU's header, and of its data.

/// Bytes of a digest, which is sent with its least significant byte first.
pub(crate) const DIGEST_LENGTH: usize = 4;

/// The CRC-32C of bytes that come in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Crc32c(u32);

impl Crc32c {
    const fn new() -> Self {
        Self(u32::MAX)
    }

    // The way of data without digests stays short.
    #[inline(never)]
    fn update(&mut self, bytes: &[u8]) {
        // Mostly all of the data is in one piece, which takes a shorter way.
        if *self == Self::new() {
            self.0 = !digest(bytes);
            return;
        }
        let mut digest =
            crc_fast::Digest::new_with_init_state(crc_fast::CrcAlgorithm::Crc32Iscsi, u64::from(self.0));
        digest.update(bytes);
        // A CRC of 32 bits.
        self.0 = digest.get_state() as u32;
    }

    const fn finish(self) -> u32 {
        !self.0
    }
}

/// The digest of `bytes`.
#[inline]
pub(crate) fn digest(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// Whether the bytes behind `bytes` begin with its digest. Not inlined: the way of capsules without digests stays short.
#[inline(never)]
pub(crate) fn is_followed_by_its_own(bytes: &[u8], behind: &[u8]) -> bool {
    behind.first_chunk().is_some_and(|received| u32::from_le_bytes(*received) == digest(bytes))
}

/// Lets the first use, which looks at what the processor can do, be now and not on the path of an I/O. Short and long
/// data take different ways.
pub(crate) fn warm_up() {
    let bytes = [0; 8192];
    std::hint::black_box((digest(&bytes[..24]), digest(&bytes)));
}

/// The data digest of the PDU that is being received: computed while its data is placed, and compared with the one
/// that arrives behind the data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DataDigest {
    computed: Crc32c,
    received: [u8; DIGEST_LENGTH],
    /// Bytes that have not arrived. 0 when the PDU has no digest, and nothing is computed then.
    missing: u8,
}

impl DataDigest {
    pub(crate) const fn new() -> Self {
        Self { computed: Crc32c::new(), received: [0; DIGEST_LENGTH], missing: 0 }
    }

    /// A PDU begins whose data has a digest behind it.
    pub(crate) fn start(&mut self) {
        *self = Self { missing: DIGEST_LENGTH as u8, ..Self::new() };
    }

    /// The next bytes of the data.
    #[inline]
    pub(crate) fn placed(&mut self, bytes: &[u8]) {
        if self.missing > 0 {
            self.computed.update(bytes);
        }
    }

    /// Takes the digest of `bytes`, all the data, from the front of `behind`, and says whether it is right. `None` when some
    /// of either came before or is still to come.
    pub(crate) fn take_whole(&mut self, bytes: &[u8], behind: &[u8]) -> Option<bool> {
        let received = behind.first_chunk()?;
        if self.missing() != DIGEST_LENGTH || self.computed != Crc32c::new() {
            return None;
        }
        self.missing = 0;
        Some(u32::from_le_bytes(*received) == digest(bytes))
    }

    /// Bytes of the digest that have not arrived.
    #[inline]
    pub(crate) const fn missing(&self) -> usize {
        self.missing as usize
    }

    /// Takes bytes of the digest from the front of `bytes` and returns how many.
    #[inline]
    pub(crate) fn take(&mut self, bytes: &[u8]) -> usize {
        if let Some(whole) = bytes.first_chunk()
            && self.missing() == DIGEST_LENGTH
        {
            (self.received, self.missing) = (*whole, 0);
            return DIGEST_LENGTH;
        }
        let at = DIGEST_LENGTH - self.missing();
        let taken = self.missing().min(bytes.len());
        self.received[at..at + taken].copy_from_slice(&bytes[..taken]);
        // At most 4.
        self.missing -= taken as u8;
        taken
    }

    /// Whether the digest that arrived is that of the data.
    pub(crate) fn is_right(&self) -> bool {
        u32::from_le_bytes(self.received) == self.computed.finish()
    }
}

#[cfg(test)]
pub(crate) mod oracle {
    //! PDUs with digests, made of PDUs without them by other means than those under test.

    use crate::pdu::DigestFlags;

    /// What goes between header and data, and behind the data, of a PDU without digests and padding, so that it
    /// becomes one with `digests` whose data is aligned to `alignment` bytes.
    pub(crate) fn with_digests(plain: &[u8], digests: DigestFlags, alignment: usize) -> Vec<u8> {
        let (header, data) = plain.split_at(plain[2].into());
        let mut pdu = header.to_vec();
        let mut data_start = header.len();
        let mut end = plain.len();
        if digests.contains(DigestFlags::HEADER) {
            pdu[1] |= 1;
            data_start += 4;
            end += 4;
        }
        if !data.is_empty() {
            let aligned = data_start.next_multiple_of(alignment);
            end += aligned - data_start;
            data_start = aligned;
            pdu[3] = data_start as u8;
        }
        if digests.contains(DigestFlags::DATA) && !data.is_empty() {
            pdu[1] |= 2;
            end += 4;
        }
        pdu[4..8].copy_from_slice(&(end as u32).to_le_bytes());
        if digests.contains(DigestFlags::HEADER) {
            pdu.extend(crc32c::crc32c(&pdu).to_le_bytes());
        }
        if !data.is_empty() {
            pdu.resize(data_start, 0);
            pdu.extend(data);
        }
        if digests.contains(DigestFlags::DATA) && !data.is_empty() {
            pdu.extend(crc32c::crc32c(data).to_le_bytes());
        }
        assert_eq!(pdu.len(), end);
        pdu
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_digests_of_known_data_are_those_of_rfc_3720() {
        // RFC 3720, B.4.
        assert_eq!(digest(&[0; 32]), 0x8a91_36aa);
        assert_eq!(digest(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(digest(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(digest(b"123456789"), 0xe306_9283);
        assert_eq!(digest(&[]), 0);
    }

    proptest! {
        #[test]
        fn a_digest_is_the_same_in_pieces_of_any_size_and_by_another_implementation(
            bytes in prop::collection::vec(any::<u8>(), 0..20_000),
            sizes in prop::collection::vec(1..5000_usize, 1..20),
        ) {
            let expected = crc32c::crc32c(&bytes);
            prop_assert_eq!(digest(&bytes), expected);
            let mut data_digest = DataDigest::new();
            data_digest.start();
            let mut rest = &bytes[..];
            for size in sizes.iter().cycle() {
                let (piece, behind) = rest.split_at(rest.len().min(*size));
                data_digest.placed(piece);
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            for byte in expected.to_le_bytes() {
                prop_assert_eq!(data_digest.take(&[byte]), 1);
            }
            prop_assert!(data_digest.is_right());
            prop_assert_eq!(data_digest.take(&[0; 9]), 0);
            let wrong = expected ^ 0x8000;
            data_digest.missing = 4;
            prop_assert_eq!(data_digest.take(&wrong.to_le_bytes()), 4);
            prop_assert!(!data_digest.is_right());
        }
    }
}
