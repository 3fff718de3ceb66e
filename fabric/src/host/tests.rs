//! What a host makes of a controller that keeps to the protocol, and of one that does not.

mod digests;

use gangway_spec::{CompletionQueueEntry, Status, SubmissionQueueEntry, opcode};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

use super::{
    ADMIN_IN_CAPSULE, Config, Connection, ConnectionError, Data, Event, QueueFull, Tag, Transfer, Want,
};
use crate::pdu::{
    C2hData, CapsuleCmd, CapsuleResp, DigestFlags, H2cData, IcReq, IcResp, PduFlags, PduType, R2t, TermReq,
};
use crate::term::{Fatal, FatalErrorStatus};

const CONFIG: Config = Config {
    hpda: 0,
    digests: DigestFlags::empty(),
    queue_size: 8,
    in_capsule: 4096,
    fabrics_in_capsule: ADMIN_IN_CAPSULE,
};

/// A host whose controller answered ICReq, and what it sent after that.
struct Host {
    connection: Connection,
    out: Vec<u8>,
}

impl Host {
    fn new(config: Config, response: IcResp) -> Host {
        let mut host = Host { connection: Connection::new(config), out: Vec::new() };
        host.connection.start(&mut host.out);
        let event = host.feed(response.as_bytes()).unwrap();
        assert!(matches!(event[..], [Event::Initialized { .. }]));
        host.out.clear();
        host
    }

    fn ready() -> Host {
        Host::new(CONFIG, ic_resp())
    }

    fn submit(&mut self, opcode: u8, data: Data) -> (Tag, u16) {
        self.out.clear();
        let entry = SubmissionQueueEntry::new(opcode);
        let tag = self.connection.submit(&entry, data, &mut self.out).unwrap().tag;
        let (capsule, _) = CapsuleCmd::read_from_prefix(&self.out).unwrap();
        self.out.clear();
        (tag, capsule.entry.cid.get())
    }

    fn write(&mut self, length: u32) -> (Tag, u16) {
        self.submit(opcode::nvm::WRITE, Data::Send(length))
    }

    fn read(&mut self, length: u32) -> (Tag, u16) {
        self.submit(opcode::nvm::READ, Data::Receive(length))
    }

    /// Feeds a stream; payload is thrown away.
    fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Event>, ConnectionError> {
        feed(&mut self.connection, bytes, &mut self.out)
    }

    /// The error that must end the connection, which the term request must repeat.
    fn fault(&mut self, bytes: &[u8]) -> (FatalErrorStatus, u32) {
        self.out.clear();
        let error = self.feed(bytes).unwrap_err();
        assert_eq!(self.connection.want(), Want::Nothing);
        let ConnectionError::Protocol(Fatal { fes, fei, .. }) = error else {
            panic!("not found by the host: {error}");
        };
        let (term, data) = TermReq::read_from_prefix(&self.out).unwrap();
        assert_eq!(term.header.pdu_type, PduType::H2C_TERM);
        assert_eq!((term.fes.get(), term.fei.get()), (fes.0, fei));
        assert!(bytes.starts_with(data) && data.len() >= 8);
        (fes, fei)
    }

    fn request(&mut self, pdu: R2t) -> Transfer {
        let mut events = self.feed(pdu.as_bytes()).unwrap();
        match events.pop() {
            Some(Event::DataRequested(transfer)) if events.is_empty() => transfer,
            event => panic!("{event:?}"),
        }
    }
}

fn feed(
    connection: &mut Connection,
    mut bytes: &[u8],
    out: &mut Vec<u8>,
) -> Result<Vec<Event>, ConnectionError> {
    let mut events = Vec::new();
    while !bytes.is_empty() {
        let (taken, event) = match connection.want() {
            Want::Payload { remaining, .. } => {
                let count = bytes.len().min(remaining as usize);
                (count, connection.placed(&bytes[..count]))
            }
            Want::Header { at_most } => {
                let result = connection.receive(bytes, out)?;
                assert!(result.0 <= at_most && result.0 > 0);
                result
            }
            Want::Nothing => panic!("the connection has ended"),
        };
        events.extend(event);
        bytes = &bytes[taken..];
    }
    Ok(events)
}

fn ic_resp() -> IcResp {
    IcResp::new(0, DigestFlags::empty(), 8192)
}

fn response(cid: u16) -> CapsuleResp {
    CapsuleResp::new(CompletionQueueEntry::new(cid, Status::SUCCESS))
}

fn c2h(cid: u16, offset: u32, length: u32, flags: PduFlags) -> Vec<u8> {
    let mut bytes = C2hData::new(cid, offset, length, flags, 0).as_bytes().to_vec();
    bytes.resize(bytes.len() + length as usize, 0xaa);
    bytes
}

/// Makes a PDU for the command with an identifier.
type PduFor = fn(u16) -> Vec<u8>;

/// A PDU with one byte changed.
fn with_byte(pdu: &[u8], offset: usize, value: u8) -> Vec<u8> {
    let mut bytes = pdu.to_vec();
    bytes[offset] = value;
    bytes
}

const INVALID: FatalErrorStatus = FatalErrorStatus::INVALID_PDU_HEADER_FIELD;
const SEQUENCE: FatalErrorStatus = FatalErrorStatus::PDU_SEQUENCE_ERROR;
const RANGE: FatalErrorStatus = FatalErrorStatus::DATA_TRANSFER_OUT_OF_RANGE;

#[test]
fn the_first_pdu_is_an_icreq() {
    let mut connection = Connection::new(Config { hpda: 3, ..CONFIG });
    assert_eq!(connection.want(), Want::Nothing);
    let mut out = Vec::new();
    connection.start(&mut out);
    let request = IcReq::ref_from_bytes(&out).unwrap();
    assert_eq!((request.hpda, request.dgst, request.maxr2t.get()), (3, 0, 0));
    assert!(!connection.is_initialized());
}

#[test]
fn an_icresp_with_any_field_out_of_range_is_refused_at_that_field() {
    let good = ic_resp();
    for (offset, value, fei) in [
        (1, 0x01, 1),   // HDGSTF
        (2, 24, 2),     // HLEN
        (4, 129, 4),    // PLEN
        (8, 1, 8),      // PFV
        (10, 32, 10),   // CPDA
        (11, 1, 11),    // header digests that were not asked for
        (11, 2, 11),    // data digests that were not asked for
        (12, 2, 12),    // MAXH2CDATA not a multiple of 4
        (13, 0x0f, 12), // MAXH2CDATA below 4096
    ] {
        let mut host = Host { connection: Connection::new(CONFIG), out: Vec::new() };
        host.connection.start(&mut host.out);
        assert_eq!(host.fault(&with_byte(good.as_bytes(), offset, value)), (INVALID, fei), "byte {offset}");
    }
}

#[test]
fn pdus_in_the_wrong_state_are_sequence_errors() {
    let r2t = R2t::new(0, 0, 0, 4);
    for bytes in [response(0).as_bytes(), r2t.as_bytes(), &c2h(0, 0, 4, PduFlags::LAST)] {
        let mut host = Host { connection: Connection::new(CONFIG), out: Vec::new() };
        host.connection.start(&mut host.out);
        assert_eq!(host.fault(bytes), (SEQUENCE, 0));
    }
    assert_eq!(Host::ready().fault(ic_resp().as_bytes()), (SEQUENCE, 0));
}

#[test]
fn pdus_that_only_a_host_sends_and_unknown_ones_are_invalid() {
    for pdu_type in (0..=255).filter(|value| ![1, 3, 5, 7, 9].contains(value)) {
        let bytes = with_byte(response(0).as_bytes(), 0, pdu_type);
        assert_eq!(Host::ready().fault(&bytes), (INVALID, 0), "type {pdu_type:#x}");
    }
}

#[test]
fn a_term_request_of_the_controller_is_reported_with_its_reason() {
    let mut out = Vec::new();
    Fatal::field(4, &[9; 24]).write(PduType::C2H_TERM, &mut out);
    let mut host = Host::ready();
    let error = host.feed(&out[..24]).unwrap_err();
    assert_eq!(error, ConnectionError::Terminated { fes: INVALID, fei: 4 });
    assert!(host.out.is_empty(), "a term request is not answered");
    assert_eq!(host.connection.want(), Want::Nothing);
}

#[test]
fn data_that_fits_goes_in_the_capsule_and_other_data_waits_for_an_r2t() {
    let mut host = Host::ready();
    for (opcode, length, in_capsule) in [
        (opcode::nvm::WRITE, 4096, true),
        (opcode::nvm::WRITE, 4097, false),
        (opcode::admin::FABRICS, 8192, true),
        (opcode::admin::FABRICS, 8193, false),
        (opcode::nvm::WRITE, 0, false),
    ] {
        host.out.clear();
        let entry = SubmissionQueueEntry::new(opcode);
        let submitted = host.connection.submit(&entry, Data::Send(length), &mut host.out).unwrap();
        assert_eq!(submitted.in_capsule, in_capsule, "{length} bytes");
        let capsule = CapsuleCmd::ref_from_bytes(&host.out).unwrap();
        assert_eq!(capsule.entry.sgl().identifier, if in_capsule { 0x01 } else { 0x5a });
        assert_eq!(capsule.entry.sgl().length.get(), length);
        assert_eq!(capsule.entry.psdt(), 1);
        let expected = 72 + if in_capsule { length } else { 0 };
        assert_eq!(capsule.header.plen.get(), expected);
    }
}

#[test]
fn in_capsule_data_is_padded_as_the_controller_asked() {
    let mut host = Host::new(CONFIG, IcResp::new(31, DigestFlags::empty(), 8192));
    let entry = SubmissionQueueEntry::new(opcode::nvm::WRITE);
    host.connection.submit(&entry, Data::Send(512), &mut host.out).unwrap();
    assert_eq!(host.out.len(), 128);
    assert_eq!(host.out[3], 128, "PDO");
    assert_eq!(host.out[72..], [0; 56]);
}

#[test]
fn a_queue_holds_one_command_less_than_its_size_until_they_are_released() {
    let mut host = Host::ready();
    let commands: Vec<_> = (0..7).map(|_| host.read(512)).collect();
    assert!(host.connection.is_full());
    let entry = SubmissionQueueEntry::new(opcode::nvm::READ);
    let full = host.connection.submit(&entry, Data::None, &mut Vec::new());
    assert_eq!(full, Err(QueueFull));
    let (tag, cid) = commands[3];
    host.feed(response(cid).as_bytes()).unwrap();
    assert!(host.connection.is_full());
    host.connection.release(tag);
    assert_eq!((host.connection.is_full(), host.connection.in_use()), (false, 6));
}

#[test]
fn a_read_is_placed_where_it_belongs_however_the_stream_is_cut() {
    for step in [1, 2, 7, 24, 25, 1000, 10_000] {
        let mut host = Host::ready();
        let (tag, cid) = host.read(3000);
        let (other, other_cid) = host.read(100);
        let mut stream = c2h(cid, 0, 1000, PduFlags::empty());
        stream.extend(c2h(other_cid, 0, 100, PduFlags::LAST));
        stream.extend(c2h(cid, 1000, 2000, PduFlags::LAST));
        stream.extend_from_slice(response(other_cid).as_bytes());
        stream.extend_from_slice(response(cid).as_bytes());

        let mut responses = Vec::new();
        for piece in stream.chunks(step) {
            responses.extend(host.feed(piece).unwrap());
        }
        let expected = |tag, cid, received| Event::Response { tag, entry: response(cid).entry, received };
        assert_eq!(
            responses,
            [expected(other, other_cid, 100), expected(tag, cid, 3000)],
            "{step} at a time"
        );
    }
}

#[test]
fn the_payload_wanted_next_is_named_with_its_offset() {
    let mut host = Host::ready();
    let (tag, cid) = host.read(3000);
    host.feed(&c2h(cid, 0, 1000, PduFlags::empty())).unwrap();
    host.feed(&c2h(cid, 1000, 2000, PduFlags::LAST)[..24 + 5]).unwrap();
    assert_eq!(host.connection.want(), Want::Payload { tag, offset: 1005, remaining: 1995 });
}

#[test]
fn data_pdus_that_break_a_rule_end_the_connection() {
    let flags = PduFlags::LAST;
    let cases: [(&str, PduFor, FatalErrorStatus, u32); 10] = [
        ("unknown command", |cid| c2h(cid + 1, 0, 512, PduFlags::LAST), INVALID, 8),
        ("gap", |cid| c2h(cid, 4, 512, PduFlags::LAST), RANGE, 0),
        ("too long", |cid| c2h(cid, 0, 4100, PduFlags::LAST), RANGE, 0),
        (
            "overflow",
            |cid| {
                let mut pdu = C2hData::new(cid, 0, u32::MAX - 3, PduFlags::LAST, 0);
                pdu.header.plen = U32::new(20);
                pdu.as_bytes().to_vec()
            },
            INVALID,
            4,
        ),
        ("empty", |cid| c2h(cid, 0, 0, PduFlags::LAST), INVALID, 16),
        ("PLEN", |cid| with_byte(&c2h(cid, 0, 512, PduFlags::LAST), 4, 0), INVALID, 4),
        ("PDO within the header", |cid| with_byte(&c2h(cid, 0, 512, PduFlags::LAST), 3, 20), INVALID, 3),
        ("PDO not aligned", |cid| with_byte(&c2h(cid, 0, 512, PduFlags::LAST), 3, 26), INVALID, 3),
        ("HLEN", |cid| with_byte(&c2h(cid, 0, 512, PduFlags::LAST), 2, 25), INVALID, 2),
        ("data digest", |cid| c2h(cid, 0, 512, PduFlags::DATA_DIGEST), INVALID, 1),
    ];
    for (name, pdu, fes, fei) in cases {
        let mut host = Host::ready();
        let (_, cid) = host.read(4096);
        assert_eq!(host.fault(&pdu(cid)), (fes, fei), "{name}");
    }

    let mut host = Host::ready();
    let (_, cid) = host.write(8192);
    assert_eq!(host.fault(&c2h(cid, 0, 512, flags)), (SEQUENCE, 0), "data for a write");

    let mut host = Host::ready();
    let (_, cid) = host.read(4096);
    host.feed(&c2h(cid, 0, 512, flags)).unwrap();
    assert_eq!(host.fault(&c2h(cid, 512, 512, flags)), (SEQUENCE, 0), "data after the last");
}

#[test]
fn success_stands_for_a_response_with_the_last_data() {
    let mut host = Host::ready();
    let (tag, cid) = host.read(1024);
    assert_eq!(host.feed(&c2h(cid, 0, 512, PduFlags::empty())).unwrap(), []);
    let events = host.feed(&c2h(cid, 512, 512, PduFlags::LAST | PduFlags::SUCCESS)).unwrap();
    assert_eq!(events, [Event::Response { tag, entry: response(cid).entry, received: 1024 }]);
    assert_eq!(host.fault(response(cid).as_bytes()), (INVALID, 20), "a second completion");

    let mut host = Host::ready();
    let (_, cid) = host.read(1024);
    let not_last = c2h(cid, 0, 512, PduFlags::SUCCESS);
    assert_eq!(host.fault(&not_last), (INVALID, 1));
}

#[test]
fn data_is_padded_as_the_host_asked() {
    let mut host = Host::new(Config { hpda: 31, ..CONFIG }, ic_resp());
    let (tag, cid) = host.read(512);
    let mut stream = C2hData::new(cid, 0, 512, PduFlags::LAST, 31).as_bytes().to_vec();
    assert_eq!(host.feed(&stream).unwrap(), []);
    assert_eq!(host.connection.want(), Want::Header { at_most: 104 });
    host.feed(&[0; 104]).unwrap();
    assert_eq!(host.connection.want(), Want::Payload { tag, offset: 0, remaining: 512 });

    let mut host = Host::new(Config { hpda: 31, ..CONFIG }, ic_resp());
    let (_, cid) = host.read(512);
    stream = c2h(cid, 0, 512, PduFlags::LAST);
    assert_eq!(host.fault(&stream), (INVALID, 3), "not padded");
}

#[test]
fn completions_that_nobody_waits_for_end_the_connection() {
    let mut host = Host::ready();
    let (tag, cid) = host.read(512);
    assert_eq!(host.feed(response(cid).as_bytes()).unwrap().len(), 1);
    host.connection.release(tag);
    let (again, later_cid) = host.read(512);
    assert_eq!(tag, again);
    assert_ne!(cid, later_cid);
    assert_eq!(host.fault(response(cid).as_bytes()), (INVALID, 20), "the completion of an earlier command");
    for cid in [7, u16::MAX] {
        assert_eq!(Host::ready().fault(response(cid).as_bytes()), (INVALID, 20));
    }
    let mut host = Host::ready();
    let (_, cid) = host.read(512);
    assert_eq!(host.fault(&with_byte(response(cid).as_bytes(), 4, 25)), (INVALID, 4));
}

#[test]
fn h2cdata_is_cut_at_maxh2cdata_and_only_the_last_says_so() {
    let mut host = Host::new(CONFIG, IcResp::new(0, DigestFlags::empty(), 4096));
    let (tag, cid) = host.write(20_000);
    // Two R2Ts, one after the other.
    for (start, length, cuts) in [(0, 9000, &[4096, 4096, 808][..]), (9000, 11_000, &[4096, 4096, 2808])] {
        let mut transfer = host.request(R2t::new(cid, 0xbeef, start, length));
        assert_eq!((transfer.tag(), transfer.remaining()), (tag, length));
        let mut offset = start;
        for (index, &cut) in cuts.iter().enumerate() {
            let last = index + 1 == cuts.len();
            host.out.clear();
            let range = host.connection.data_header(&mut transfer, &mut host.out);
            assert_eq!(range, offset as usize..(offset + cut) as usize);
            let expected = H2cData::new(cid, 0xbeef, offset, cut, last, 0);
            assert_eq!(host.out, expected.as_bytes());
            offset += cut;
        }
        host.out.clear();
        assert!(host.connection.data_header(&mut transfer, &mut host.out).is_empty());
        assert!(host.out.is_empty());
    }
    assert_eq!(host.feed(response(cid).as_bytes()).unwrap().len(), 1);
}

#[test]
fn h2cdata_is_padded_as_the_controller_asked() {
    let mut host = Host::new(CONFIG, IcResp::new(15, DigestFlags::empty(), 8192));
    let (_, cid) = host.write(8000);
    let mut transfer = host.request(R2t::new(cid, 1, 0, 8000));
    host.connection.data_header(&mut transfer, &mut host.out);
    assert_eq!(host.out.len(), 64);
    assert_eq!(host.out[3], 64, "PDO");
}

#[test]
fn r2ts_that_break_a_rule_end_the_connection() {
    for (name, length, r2t, expected) in [
        ("zero length", 8192, R2t::new(0, 1, 0, 0), (INVALID, 16)),
        ("beyond the data", 8192, R2t::new(0, 1, 0, 8193), (RANGE, 0)),
        ("overflow", 8192, R2t::new(0, 1, 0, u32::MAX), (RANGE, 0)),
        ("gap", 8192, R2t::new(0, 1, 4, 4), (RANGE, 0)),
        ("data that went with the capsule", 4096, R2t::new(0, 1, 0, 4096), (SEQUENCE, 0)),
    ] {
        let mut host = Host::ready();
        let (_, cid) = host.write(length);
        let r2t = R2t { cccid: cid.into(), ..r2t };
        assert_eq!(host.fault(r2t.as_bytes()), expected, "{name}");
    }

    let mut host = Host::ready();
    let (_, cid) = host.write(8192);
    assert_eq!(host.fault(R2t::new(cid + 1, 1, 0, 8).as_bytes()), (INVALID, 8), "unknown command");

    let mut host = Host::ready();
    let (_, cid) = host.read(8192);
    assert_eq!(host.fault(R2t::new(cid, 1, 0, 8).as_bytes()), (SEQUENCE, 0), "for a read");

    let mut host = Host::ready();
    let (_, cid) = host.write(8192);
    host.request(R2t::new(cid, 1, 0, 4096));
    let second = R2t::new(cid, 2, 4096, 4096);
    assert_eq!(host.fault(second.as_bytes()), (FatalErrorStatus::R2T_LIMIT_EXCEEDED, 0), "two at a time");

    let mut host = Host::ready();
    let (_, cid) = host.write(8192);
    host.request(R2t::new(cid, 1, 0, 4096));
    assert_eq!(host.fault(response(cid).as_bytes()), (SEQUENCE, 0), "completed while data is asked for");
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]

    #[test]
    fn random_bytes_never_panic_and_never_ask_for_more_than_a_command_has(
        stream in proptest::collection::vec(pdu_like(), 1..8),
    ) {
        let mut host = Host::ready();
        for length in [512, 4096, 8192] {
            host.read(length);
            host.write(length);
        }
        for bytes in stream {
            if host.connection.want() == Want::Nothing || host.feed(&bytes).is_err() {
                break;
            }
            if let Want::Payload { offset, remaining, .. } = host.connection.want() {
                proptest::prop_assert!(offset + remaining <= 8192);
            }
        }
    }
}

/// Random bytes that often start like a PDU of a controller.
fn pdu_like() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
    use proptest::prelude::*;
    let types = prop::sample::select(vec![5_u8, 5, 7, 7, 9, 9, 1, 3, 8, 0xff]);
    (types, any::<u8>(), 0..8_u16, any::<[u8; 12]>(), prop::collection::vec(any::<u8>(), 0..64)).prop_map(
        |(pdu_type, flags, cid, fields, tail)| {
            // Small numbers, so that some of them are right.
            let length = u32::from(fields[0] % 3) * 512;
            let offset = u32::from(fields[1] % 2) * 512;
            let mut bytes = vec![pdu_type, flags & 0x0c, 24, 24];
            let plen = if pdu_type == 7 { 24 + length } else { 24 };
            bytes.extend_from_slice(&plen.to_le_bytes());
            bytes.extend_from_slice(&(cid | 8).to_le_bytes());
            bytes.extend_from_slice(&fields[2..4]);
            bytes.extend_from_slice(&offset.to_le_bytes());
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(&fields[4..8]);
            bytes.extend(tail);
            bytes
        },
    )
}
