//! A host that asked for digests. What is sent and expected comes from another CRC.

use super::*;
use crate::digest::oracle::with_digests;

/// A host whose controller agreed to `digests` and asked for alignment, and what makes PDUs of that controller.
struct Peer {
    host: Host,
    digests: DigestFlags,
    alignment: usize,
}

impl Peer {
    fn new(digests: DigestFlags, hpda: u8, cpda: u8) -> Peer {
        let config = Config { digests, hpda, ..CONFIG };
        let host = Host::new(config, IcResp::new(cpda, digests, 4096));
        Peer { host, digests, alignment: (usize::from(hpda) + 1) * 4 }
    }

    fn both() -> Peer {
        Peer::new(DigestFlags::all(), 0, 0)
    }

    fn pdu(&self, plain: &[u8]) -> Vec<u8> {
        with_digests(plain, self.digests, self.alignment)
    }

    /// That a command runs as if nothing had happened.
    fn goes_on(&mut self) {
        let (tag, cid) = self.host.read(512);
        let mut bytes = self.pdu(&c2h(cid, 0, 512, PduFlags::LAST));
        bytes.extend(self.pdu(response(cid).as_bytes()));
        let expected = Event::Response { tag, entry: response(cid).entry, received: 512 };
        assert_eq!(self.host.feed(&bytes).unwrap(), [expected]);
        self.host.connection.release(tag);
    }
}

fn every_kind() -> impl Iterator<Item = DigestFlags> {
    (0..4).map(DigestFlags::from_bits_retain)
}

#[test]
fn icreq_asks_for_digests_and_icresp_must_agree_to_them() {
    for asked in every_kind() {
        for answered in every_kind() {
            let mut host =
                Host { connection: Connection::new(Config { digests: asked, ..CONFIG }), out: Vec::new() };
            host.connection.start(&mut host.out);
            assert_eq!(IcReq::ref_from_bytes(&host.out).unwrap().dgst, asked.bits());
            let response = IcResp::new(0, answered, 8192);
            if asked == answered {
                assert_eq!(host.feed(response.as_bytes()).unwrap().len(), 1);
            } else {
                assert_eq!(host.fault(response.as_bytes()), (INVALID, 11));
            }
        }
    }
}

#[test]
fn capsules_and_data_leave_with_digests_and_padding() {
    for digests in every_kind() {
        for cpda in [0, 1, 7, 31] {
            let alignment = (usize::from(cpda) + 1) * 4;
            let mut peer = Peer::new(digests, 0, cpda);
            let data: Vec<u8> = (0..5000).map(|i| (i * 7 / 3) as u8).collect();
            for length in [0, 512, 4096] {
                let Host { connection, out } = &mut peer.host;
                let entry = SubmissionQueueEntry::new(opcode::nvm::WRITE);
                let submitted = connection.submit(&entry, Data::Send(length), out).unwrap();
                assert_eq!(submitted.in_capsule, length > 0);
                let (capsule, _) = CapsuleCmd::read_from_prefix(out).unwrap();
                let mut plain = CapsuleCmd::new(capsule.entry, 0, length).as_bytes().to_vec();
                if submitted.in_capsule {
                    let data = &data[..length as usize];
                    plain.extend(data);
                    out.extend(data);
                    connection.data_end(data, out);
                }
                assert_eq!(*out, with_digests(&plain, digests, alignment));
                out.clear();
            }
            let (_, cid) = peer.host.write(5000);
            let r2t = peer.pdu(R2t::new(cid, 9, 0, 5000).as_bytes());
            let Event::DataRequested(mut transfer) = peer.host.feed(&r2t).unwrap().remove(0) else {
                panic!("no data was requested");
            };
            let Host { connection, out } = &mut peer.host;
            for (range, last) in [(0..4096, false), (4096..5000, true)] {
                out.clear();
                assert_eq!(connection.data_header(&mut transfer, out), range);
                out.extend(&data[range.clone()]);
                connection.data_end(&data[range.clone()], out);
                let header = H2cData::new(cid, 9, range.start as u32, range.len() as u32, last, 0);
                let plain = [header.as_bytes(), &data[range]].concat();
                assert_eq!(*out, with_digests(&plain, digests, alignment));
            }
        }
    }
}

#[test]
fn data_and_responses_are_understood_however_the_stream_is_cut() {
    for digests in every_kind() {
        for (hpda, flow_control) in [(0, true), (0, false), (31, true), (6, false)] {
            for step in [1, 2, 3, 5, 28, 1000, 10_000] {
                let mut peer = Peer::new(digests, hpda, 0);
                let (tag, cid) = peer.host.read(3000);
                let mut stream = peer.pdu(&c2h(cid, 0, 1000, PduFlags::empty()));
                if flow_control {
                    stream.extend(peer.pdu(&c2h(cid, 1000, 2000, PduFlags::LAST)));
                    stream.extend(peer.pdu(response(cid).as_bytes()));
                } else {
                    stream.extend(peer.pdu(&c2h(cid, 1000, 2000, PduFlags::LAST | PduFlags::SUCCESS)));
                }
                let mut events = Vec::new();
                for piece in stream.chunks(step) {
                    events.extend(peer.host.feed(piece).unwrap());
                }
                let expected = Event::Response { tag, entry: response(cid).entry, received: 3000 };
                assert_eq!(events, [expected], "{digests:?}, {step} at a time");
                peer.host.connection.release(tag);
            }
        }
    }
}

#[test]
fn a_header_changed_at_any_byte_ends_the_connection_with_the_digest_that_came_with_it() {
    // Type, HLEN, and PLEN of a PDU without data are known beforehand, so another error is found first.
    for at in (1..28).filter(|at| ![2, 4, 5, 6, 7].contains(at)) {
        let mut peer = Peer::both();
        let (_, cid) = peer.host.read(512);
        let mut bytes = peer.pdu(response(cid).as_bytes());
        bytes[at] ^= 0x40;
        let received = u32::from_le_bytes(bytes[24..].try_into().unwrap());
        assert_eq!(peer.host.fault(&bytes), (FatalErrorStatus::HEADER_DIGEST_ERROR, received), "byte {at}");
    }
}

#[test]
fn digests_that_do_not_come_are_not_waited_for() {
    for (digests, sent) in [(0, 1), (0, 2), (1, 0), (1, 3), (2, 0), (2, 3), (3, 1), (3, 2)] {
        let digests = DigestFlags::from_bits_retain(digests);
        let mut peer = Peer::new(digests, 0, 0);
        let (_, cid) = peer.host.read(512);
        let data = c2h(cid, 0, 512, PduFlags::LAST);
        let bytes = with_digests(&data, DigestFlags::from_bits_retain(sent), 4);
        assert_eq!(peer.host.fault(&bytes[..24]), (INVALID, 1), "{digests:?}, but {sent}");
    }
}

#[test]
fn a_wrong_digest_of_received_data_fails_that_command_only() {
    for flow_control in [true, false] {
        for wrong in 0..2 {
            let mut peer = Peer::new(DigestFlags::all(), 0, 0);
            let (tag, cid) = peer.host.read(1000);
            let last = if flow_control { PduFlags::LAST } else { PduFlags::LAST | PduFlags::SUCCESS };
            let mut stream = Vec::new();
            for (number, flags) in [PduFlags::empty(), last].into_iter().enumerate() {
                let mut bytes = peer.pdu(&c2h(cid, number as u32 * 500, 500, flags));
                if number == wrong {
                    bytes[300] ^= 1;
                }
                stream.extend(bytes);
            }
            if flow_control {
                stream.extend(peer.pdu(response(cid).as_bytes()));
            }
            let events = peer.host.feed(&stream).unwrap();
            let [Event::Response { tag: completed, entry, received: 1000 }] = events[..] else {
                panic!("{events:?}")
            };
            assert_eq!((completed, entry.status()), (tag, Status::TRANSIENT_TRANSPORT_ERROR));
            peer.host.connection.release(tag);
            peer.goes_on();
        }
    }
}

#[test]
fn an_error_of_the_controller_says_more_than_a_wrong_digest() {
    let mut peer = Peer::both();
    let (_, cid) = peer.host.read(500);
    let mut stream = peer.pdu(&c2h(cid, 0, 500, PduFlags::LAST));
    *stream.last_mut().unwrap() ^= 1;
    let failed = CompletionQueueEntry::new(cid, Status::UNRECOVERED_READ_ERROR);
    stream.extend(peer.pdu(CapsuleResp::new(failed).as_bytes()));
    let events = peer.host.feed(&stream).unwrap();
    assert!(matches!(events[..], [Event::Response { entry, .. }] if entry == failed));
}

#[test]
fn a_term_request_has_no_digest() {
    let mut out = Vec::new();
    Fatal::field(4, &[9; 24]).write(PduType::C2H_TERM, &mut out);
    let error = Peer::both().host.feed(&out[..24]).unwrap_err();
    assert_eq!(error, ConnectionError::Terminated { fes: INVALID, fei: 4 });
}
