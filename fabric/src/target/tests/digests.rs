//! Connections with header digests, data digests, or both. What is sent and expected comes from another CRC.

use super::*;
use crate::digest::oracle::with_digests;
use crate::pdu::{C2hData, IcResp, PduFlags, R2t};

const CID: u16 = 0xbeef;
const WRITE: u8 = opcode::nvm::WRITE;

/// A connected I/O queue with digests, and an alignment that the host asked for.
struct Peer {
    harness: Harness,
    digests: DigestFlags,
    alignment: usize,
}

impl Peer {
    fn new(digests: DigestFlags, hpda: u8, flow_control: bool) -> Self {
        let mut harness = Harness::new();
        harness.feed(IcReq::new(hpda, digests, 0).as_bytes()).unwrap();
        let mut peer = Self { harness, digests, alignment: 4 * (usize::from(hpda) + 1) };
        let slot = peer.complete(&capsule(connect_entry(), &[7; 1024]), true);
        peer.harness.connection.establish(1, QUEUE_SIZE, flow_control);
        peer.respond(slot, &Reply::SUCCESS);
        peer
    }

    fn both() -> Self {
        Self::new(DigestFlags::all(), 0, true)
    }

    /// What a host sends in place of `plain`.
    fn pdu(&self, plain: &[u8]) -> Vec<u8> {
        with_digests(plain, self.digests, 4)
    }

    /// Feeds a command with data in its capsule.
    fn complete(&mut self, plain: &[u8], intact: bool) -> Slot {
        let bytes = self.pdu(plain);
        self.complete_as(&bytes, intact)
    }

    fn complete_as(&mut self, bytes: &[u8], intact: bool) -> Slot {
        let events = self.harness.feed(bytes).unwrap();
        let [Event::Command { slot, .. }, Event::DataComplete { slot: complete, intact: found }] = events[..]
        else {
            panic!("{events:?}")
        };
        assert_eq!((slot, intact), (complete, found));
        slot
    }

    /// Feeds a command without data in its capsule.
    fn command(&mut self, plain: &[u8]) -> Slot {
        let bytes = self.pdu(plain);
        self.harness.command(&bytes)
    }

    fn respond(&mut self, slot: Slot, reply: &Reply) -> CompletionQueueEntry {
        self.harness.out.clear();
        self.harness.connection.respond(slot, reply, &mut self.harness.out);
        self.harness.data.remove(&slot);
        let (response, _) = CapsuleResp::read_from_prefix(&self.harness.out).unwrap();
        let plain = CapsuleResp::new(response.entry);
        assert_eq!(self.harness.out, with_digests(plain.as_bytes(), self.digests, self.alignment));
        response.entry
    }

    /// A write of `len` bytes whose data was asked for.
    fn requested(&mut self, cid: u16, len: u32) -> Slot {
        let slot = self.command(&capsule(entry(WRITE, cid, SglDescriptor::transport(len)), &[]));
        self.harness.out.clear();
        self.harness.connection.request_data(slot, &mut self.harness.out);
        let plain = R2t::new(cid, slot, 0, len);
        assert_eq!(self.harness.out, with_digests(plain.as_bytes(), self.digests, self.alignment));
        slot
    }

    /// That a command runs as if nothing had happened.
    fn goes_on(&mut self) {
        let slot = self.complete(&write(1, 512), true);
        assert_eq!(self.harness.data[&slot], pattern(512));
        assert!(self.respond(slot, &Reply::SUCCESS).status().is_success());
        assert_eq!(self.harness.connection.commands_outstanding(), 0);
    }
}

fn write(cid: u16, len: u32) -> Vec<u8> {
    capsule(entry(WRITE, cid, SglDescriptor::in_capsule(len)), &pattern(len as usize))
}

fn flush() -> Vec<u8> {
    capsule(entry(opcode::nvm::FLUSH, 3, SglDescriptor::transport(0)), &[])
}

fn every_kind() -> impl Iterator<Item = DigestFlags> {
    (0..4).map(DigestFlags::from_bits_retain)
}

/// `bytes` with the last of them changed: the data digest, if there is one.
fn spoilt(mut bytes: Vec<u8>) -> Vec<u8> {
    *bytes.last_mut().unwrap() ^= 1;
    bytes
}

#[test]
fn icresp_agrees_to_the_digests_that_icreq_asks_for() {
    for (asked, answered) in [(0, 0), (1, 1), (2, 2), (3, 3), (0xfc, 0), (0xff, 3)] {
        let mut harness = Harness::new();
        let mut request = icreq(0);
        request[IcReq::DGST as usize] = asked;
        assert_eq!(harness.feed(&request), Ok(vec![Event::Initialized]));
        let response = IcResp::read_from_bytes(&harness.out).unwrap();
        assert_eq!(response.dgst, answered);
        assert_eq!(response.header.as_bytes(), [1, 0, 128, 0, 128, 0, 0, 0]);
    }
}

#[test]
fn commands_and_data_are_understood_however_the_stream_is_cut() {
    for digests in every_kind() {
        for size in [1, 2, 3, 4, 5, 7, 24, 28, 76, 1000, 100_000] {
            let mut peer = Peer::new(digests, 0, true);
            let slot = peer.requested(CID, 10_000);
            let data = pattern(10_000);
            let mut bytes = peer.pdu(&h2c_data(CID, slot, 0, &data[..8000], false));
            bytes.extend(peer.pdu(&write(9, 512)));
            bytes.extend(peer.pdu(&h2c_data(CID, slot, 8000, &data[8000..], true)));
            bytes.extend(peer.pdu(&flush()));
            let events = peer.harness.feed_by(&bytes, &mut std::iter::repeat(size)).unwrap();
            let [
                Event::Command { slot: other, .. },
                Event::DataComplete { slot: first, intact: true },
                Event::DataComplete { slot: second, intact: true },
                Event::Command { data: CapsuleData::None, .. },
            ] = events[..]
            else {
                panic!("{events:?}")
            };
            assert_eq!((first, second), (other, slot));
            assert_eq!((&peer.harness.data[&slot], &peer.harness.data[&other]), (&data, &pattern(512)));
        }
    }
}

#[test]
fn padding_stands_between_the_header_digest_and_the_data() {
    for alignment in [8, 32, 128] {
        let mut peer = Peer::both();
        let bytes = with_digests(&write(5, 512), peer.digests, alignment);
        let slot = peer.complete_as(&bytes, true);
        assert_eq!(peer.harness.data[&slot], pattern(512));
        let slot = peer.requested(CID, 512);
        let bytes = with_digests(&h2c_data(CID, slot, 0, &pattern(512), true), peer.digests, alignment);
        assert_eq!(peer.harness.feed(&bytes), Ok(vec![Event::DataComplete { slot, intact: true }]));
        assert_eq!(peer.harness.data[&slot], pattern(512));
    }
}

#[test]
fn data_for_the_host_has_the_digests_and_the_padding_that_it_asked_for() {
    for digests in every_kind() {
        for (hpda, flow_control) in [(0, true), (0, false), (6, true), (31, false)] {
            let mut peer = Peer::new(digests, hpda, flow_control);
            let read = capsule(entry(opcode::nvm::READ, CID, SglDescriptor::transport(5000)), &[]);
            let slot = peer.command(&read);
            let (data, out) = (pattern(5000), &mut peer.harness.out);
            out.clear();
            let end = peer.harness.connection.data_header(slot, &data, &Reply::SUCCESS, out);
            assert_eq!(end.has_response(), flow_control);
            out.extend(&data);
            peer.harness.connection.data_end(end, out);
            let flags = if flow_control { PduFlags::LAST } else { PduFlags::LAST | PduFlags::SUCCESS };
            let mut plain = C2hData::new(CID, 0, 5000, flags, 0).as_bytes().to_vec();
            plain.extend(&data);
            let expected = with_digests(&plain, digests, peer.alignment);
            assert_eq!(out[..expected.len()], expected);
            let response = if digests.contains(DigestFlags::HEADER) { 28 } else { 24 };
            assert_eq!(out.len() - expected.len(), if flow_control { response } else { 0 });
            assert_eq!(peer.harness.connection.commands_outstanding(), 0);
        }
    }
}

#[test]
fn a_header_changed_at_any_byte_ends_the_connection_with_the_digest_that_came_with_it() {
    let plain = flush();
    // Type and HLEN say where the digest is. What they must be is known, so another error is found first.
    for at in (0..76).filter(|at| ![0, 2].contains(at)) {
        let mut peer = Peer::both();
        let mut bytes = peer.pdu(&plain);
        bytes[at] ^= 0x80;
        let received = u32::from_le_bytes(bytes[72..].try_into().unwrap());
        assert_eq!(peer.harness.fatal(&bytes), (3, received), "byte {at}");
        assert_eq!(peer.harness.out.len(), 24 + 72);
    }
    let mut peer = Peer::both();
    let slot = peer.requested(CID, 512);
    let mut bytes = peer.pdu(&h2c_data(CID, slot, 0, &pattern(512), true));
    bytes[24] ^= 1;
    let received = u32::from_le_bytes(bytes[24..28].try_into().unwrap());
    assert_eq!(peer.harness.fatal(&bytes), (3, received));
}

#[test]
fn a_header_digest_that_does_not_come_is_not_waited_for() {
    let mut peer = Peer::both();
    assert_eq!(peer.harness.fatal(&flush()), (1, 1));
    let mut peer = Peer::both();
    let mut bytes = peer.pdu(&flush());
    bytes[4] = 72;
    assert_eq!(peer.harness.fatal(&bytes[..72]), (1, 4));
}

#[test]
fn a_header_digest_that_was_not_agreed_on_is_an_invalid_flag() {
    let mut peer = Peer::new(DigestFlags::DATA, 0, true);
    assert_eq!(peer.harness.fatal(&with_digests(&flush(), DigestFlags::HEADER, 4)), (1, 1));
}

#[test]
fn data_with_a_digest_says_so_and_has_room_for_it() {
    let mut peer = Peer::both();
    let bytes = with_digests(&write(5, 512), DigestFlags::HEADER, 4);
    assert_eq!(peer.harness.fatal(&bytes), (1, 1));
    let mut peer = Peer::new(DigestFlags::HEADER, 0, true);
    let bytes = with_digests(&write(5, 512), DigestFlags::all(), 4);
    assert_eq!(peer.harness.fatal(&bytes), (1, 1));
    // PLEN ends within the digest.
    let mut peer = Peer::new(DigestFlags::DATA, 0, true);
    let mut bytes = flush();
    bytes[1] = 2;
    bytes[3] = 72;
    bytes[4] = 75;
    assert_eq!(peer.harness.fatal(&bytes), (1, 4));
}

#[test]
fn a_term_request_has_no_digest() {
    let mut peer = Peer::both();
    let mut term = Vec::new();
    Fatal::field(10, &flush()).write(PduType::H2C_TERM, &mut term);
    let fes = FatalErrorStatus::INVALID_PDU_HEADER_FIELD;
    assert_eq!(peer.harness.feed(&term), Ok(vec![Event::HostTerminated { fes, fei: 10 }]));
}

#[test]
fn a_wrong_digest_of_in_capsule_data_costs_that_command_only() {
    for digests in [DigestFlags::DATA, DigestFlags::all()] {
        let mut peer = Peer::new(digests, 0, true);
        let bytes = peer.pdu(&write(CID, 512));
        let slot = peer.complete_as(&spoilt(bytes.clone()), false);
        peer.respond(slot, &Reply::status(Status::TRANSIENT_TRANSPORT_ERROR));
        peer.goes_on();
        // Data that is not what the digest was made of.
        let mut damaged = bytes;
        let at = damaged.len() - 4 - 200;
        damaged[at] ^= 0x40;
        let slot = peer.complete_as(&damaged, false);
        peer.respond(slot, &Reply::status(Status::TRANSIENT_TRANSPORT_ERROR));
        peer.goes_on();
    }
}

#[test]
fn a_wrong_digest_of_any_of_several_data_pdus_is_told_when_all_data_has_come() {
    for wrong in 0..3 {
        let mut peer = Peer::both();
        let slot = peer.requested(CID, 3000);
        for (number, chunk) in (0_u32..).zip(pattern(3000).chunks(1000)) {
            let bytes = peer.pdu(&h2c_data(CID, slot, number * 1000, chunk, number == 2));
            let bytes = if number == wrong { spoilt(bytes) } else { bytes };
            let expected =
                if number == 2 { vec![Event::DataComplete { slot, intact: false }] } else { vec![] };
            assert_eq!(peer.harness.feed(&bytes), Ok(expected));
        }
        peer.respond(slot, &Reply::status(Status::TRANSIENT_TRANSPORT_ERROR));
        peer.goes_on();
    }
}

#[test]
fn the_digest_of_data_that_nobody_wants_is_passed_over() {
    let mut peer = Peer::both();
    let keyed = SglDescriptor { identifier: 0x40, ..SglDescriptor::transport(64) };
    let bytes = peer.pdu(&capsule(entry(WRITE, 5, keyed), &pattern(64)));
    for bytes in [spoilt(bytes.clone()), bytes] {
        let events = peer.harness.feed_by(&bytes, &mut std::iter::repeat(3)).unwrap();
        let [Event::Refused { slot, status, .. }] = events[..] else { panic!("{events:?}") };
        peer.respond(slot, &Reply::status(status));
        peer.goes_on();
    }
    // Half of it had been placed when it was no longer wanted.
    let slot = peer.requested(CID, 512);
    let bytes = peer.pdu(&h2c_data(CID, slot, 0, &pattern(512), true));
    assert_eq!(peer.harness.feed(&bytes[..28 + 256]), Ok(vec![]));
    peer.harness.connection.discard_data(slot);
    let complete = Event::DataComplete { slot, intact: true };
    assert_eq!(peer.harness.feed(&bytes[28 + 256..]), Ok(vec![complete]));
    peer.respond(slot, &Reply::status(Status::ABORT_REQUESTED));
    peer.goes_on();
}

#[test]
fn no_data_may_have_a_digest_too() {
    let mut peer = Peer::new(DigestFlags::DATA, 0, true);
    // Flagged, but not there, as some hosts do; then there, and that of no bytes is 0.
    let mut flagged = flush();
    flagged[1] = 2;
    let mut present = flagged.clone();
    present[3] = 72;
    present[4] = 76;
    present.extend([0; 4]);
    for bytes in [flagged, present] {
        let events = peer.harness.feed_by(&bytes, &mut std::iter::repeat(1)).unwrap();
        let [Event::Command { slot, data: CapsuleData::None, .. }] = events[..] else { panic!("{events:?}") };
        peer.respond(slot, &Reply::SUCCESS);
        peer.goes_on();
    }
}

#[test]
fn a_host_that_owes_the_rest_of_a_data_pdu_owes_its_digest_too() {
    let mut peer = Peer::both();
    let bytes = peer.pdu(&write(CID, 512));
    for cut in 1..bytes.len() {
        let mut peer = Peer::both();
        peer.harness.feed(&bytes[..cut]).unwrap();
        assert_eq!(peer.harness.connection.is_within_data(), cut >= 76, "{cut} bytes");
    }
    peer.harness.feed(&bytes).unwrap();
    assert!(!peer.harness.connection.is_within_data());
}
