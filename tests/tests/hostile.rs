//! Input that no good host sends: it costs the connection that it came on, and nothing else.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::time::Duration;

use gangway_fabric::pdu::{
    C2hData, CapsuleCmd, CapsuleResp, CommonHeader, DigestFlags, H2cData, IcReq, IcResp, PduFlags, PduType,
    R2t, TermReq,
};
use gangway_fabric::term::FatalErrorStatus as Fes;
use gangway_spec::fabrics::{DisconnectCommand, PropertyGet};
use gangway_spec::opcode::{admin, nvm};
use gangway_spec::{CompletionQueueEntry, SglDescriptor, Status, SubmissionQueueEntry, registers};
use gangway_tests::wire::{Wire, by_transport, capsule, connect, enable, h2c_data, with_data};
use gangway_tests::{
    Bystander, Setup, TestTarget, command, eventually, identity, pattern, subsystem, use_all_memory,
};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use zerocopy::IntoBytes;

/// Where a connection stands when the hostile bytes come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    BeforeIcReq,
    BeforeConnect,
    Admin,
    Io,
}

use Place::{Admin, BeforeConnect, BeforeIcReq, Io};

/// A hostile host: one association, kept so that there is a controller to connect I/O queues to.
struct Hostile<'a> {
    target: &'a TestTarget,
    _admin: Wire,
    cntlid: u16,
}

impl<'a> Hostile<'a> {
    fn new(target: &'a TestTarget, number: u8) -> Self {
        let (admin, cntlid) = Wire::admin(target.address, &subsystem(0), &identity(number));
        Self { target, _admin: admin, cntlid }
    }

    fn at(&self, place: Place) -> Wire {
        let address = self.target.address;
        match place {
            BeforeIcReq => Wire::open(address),
            BeforeConnect => Wire::initialized(address),
            Admin => Wire::admin(address, &subsystem(0), &identity(77)).0,
            Io => self.io(),
        }
    }

    /// An I/O queue. The identifier of an earlier one is free only when the target has noticed its end.
    fn io(&self) -> Wire {
        let host = identity(66);
        for _ in 0..100 {
            for qid in 1..=16 {
                let mut wire = Wire::initialized(self.target.address);
                let entry = wire.execute(&connect(qid, 128, Some(self.cntlid), &subsystem(0), &host));
                if entry.status().is_success() {
                    return wire;
                }
                assert!(entry.status().is(Status::COMMAND_SEQUENCE_ERROR), "{}", entry.status());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("no I/O queue becomes free");
    }
}

fn hostile(target: &TestTarget) -> Hostile<'_> {
    Hostile::new(target, 66)
}

/// All connections but the bystander's are gone, no command is forgotten, and all memory is there.
fn assert_as_before(target: &TestTarget, bystander: Bystander) {
    bystander.finish();
    eventually("the hostile associations are gone", || target.associations() == 0);
    let (_admin, mut queue) = target.queue(9);
    use_all_memory(&mut queue, 77);
    target.assert_no_violations();
}

/// The bytes of `header` with the byte at `at` replaced.
fn with_byte(header: &impl AsBytes, at: usize, value: u8) -> Vec<u8> {
    let mut bytes = header.bytes();
    bytes[at] = value;
    bytes
}

/// The bytes of `header` with another PLEN.
fn with_plen(header: &impl AsBytes, plen: u32) -> Vec<u8> {
    let mut bytes = header.bytes();
    bytes[4..8].copy_from_slice(&plen.to_le_bytes());
    bytes
}

trait AsBytes {
    fn bytes(&self) -> Vec<u8>;
}

impl<T: IntoBytes + zerocopy::Immutable> AsBytes for T {
    fn bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }
}

fn icreq() -> IcReq {
    IcReq::new(0, DigestFlags::empty(), 0)
}

fn flush() -> CapsuleCmd {
    let mut entry = command(nvm::FLUSH, 0, 1);
    entry.set_sgl(SglDescriptor::transport(0));
    CapsuleCmd::new(entry, 0, 0)
}

/// What is wrong, where the connection stands, what is sent, and FES and FEI of the answer.
type Case = (&'static str, &'static [Place], Vec<u8>, (Fes, u32));

#[test]
fn a_field_out_of_range_is_named_in_the_termination_request_wherever_the_connection_stands() {
    let header = |field: u32| (Fes::INVALID_PDU_HEADER_FIELD, field);
    let cases: Vec<Case> = vec![
        ("ICReq: PFV", &[BeforeIcReq], with_byte(&icreq(), 8, 1), header(IcReq::PFV)),
        ("ICReq: HPDA", &[BeforeIcReq], with_byte(&icreq(), 10, 32), header(IcReq::HPDA)),
        ("ICReq: HLEN", &[BeforeIcReq], with_byte(&icreq(), 2, 127), header(CommonHeader::HLEN)),
        ("ICReq: PLEN too short", &[BeforeIcReq], with_plen(&icreq(), 127), header(CommonHeader::PLEN)),
        ("ICReq: PLEN too long", &[BeforeIcReq], with_plen(&icreq(), 129), header(CommonHeader::PLEN)),
        (
            "unknown type",
            &[BeforeIcReq, BeforeConnect, Admin, Io],
            vec![0x08; 128],
            header(CommonHeader::PDU_TYPE),
        ),
        (
            "type FFh",
            &[BeforeIcReq, BeforeConnect, Admin, Io],
            vec![0xff; 128],
            header(CommonHeader::PDU_TYPE),
        ),
        (
            "capsule: HLEN",
            &[BeforeConnect, Admin, Io],
            with_byte(&flush(), 2, 64),
            header(CommonHeader::HLEN),
        ),
        (
            "capsule: HLEN 0",
            &[BeforeConnect, Admin, Io],
            with_byte(&flush(), 2, 0),
            header(CommonHeader::HLEN),
        ),
        (
            "capsule: HLEN 255",
            &[BeforeConnect, Admin, Io],
            with_byte(&flush(), 2, 255),
            header(CommonHeader::HLEN),
        ),
        ("capsule: PLEN 0", &[BeforeConnect, Admin, Io], with_plen(&flush(), 0), header(CommonHeader::PLEN)),
        (
            "capsule: PLEN below HLEN",
            &[BeforeConnect, Admin, Io],
            with_plen(&flush(), 71),
            header(CommonHeader::PLEN),
        ),
        (
            "capsule: data, but no PDO",
            &[BeforeConnect, Admin, Io],
            with_plen(&flush(), 584),
            header(CommonHeader::PDO),
        ),
        (
            "capsule: PDO not a multiple of four",
            &[BeforeConnect, Admin, Io],
            {
                let mut bytes = with_plen(&flush(), 584);
                bytes[3] = 73;
                bytes
            },
            header(CommonHeader::PDO),
        ),
        (
            "capsule: PDO behind the PDU",
            &[BeforeConnect, Admin, Io],
            {
                let mut bytes = with_plen(&flush(), 100);
                bytes[3] = 200;
                bytes
            },
            header(CommonHeader::PDO),
        ),
        (
            "capsule: header digest",
            &[BeforeConnect, Admin, Io],
            with_byte(&flush(), 1, 1),
            header(CommonHeader::FLAGS),
        ),
        (
            "capsule: data digest",
            &[BeforeConnect, Admin, Io],
            with_byte(&flush(), 1, 2),
            header(CommonHeader::FLAGS),
        ),
        (
            "capsule: more data than a capsule may have",
            &[BeforeConnect, Admin, Io],
            {
                let mut bytes = with_plen(&flush(), 72 + 8193);
                bytes[3] = 72;
                bytes
            },
            (Fes::DATA_TRANSFER_LIMIT_EXCEEDED, 0),
        ),
        (
            "capsule: four GiB of data",
            &[BeforeConnect, Admin, Io],
            {
                let mut bytes = with_plen(&flush(), u32::MAX);
                bytes[3] = 72;
                bytes
            },
            (Fes::DATA_TRANSFER_LIMIT_EXCEEDED, 0),
        ),
        (
            "H2CData without R2T",
            &[BeforeConnect, Admin, Io],
            H2cData::new(1, 0, 0, 512, true, 0).bytes(),
            header(H2cData::TTAG),
        ),
        (
            "H2CData beyond every TTAG",
            &[BeforeConnect, Admin, Io],
            H2cData::new(1, 0xffff, 0, 512, true, 0).bytes(),
            header(H2cData::TTAG),
        ),
        (
            "H2CData: HLEN",
            &[BeforeConnect, Admin, Io],
            with_byte(&H2cData::new(1, 0, 0, 512, true, 0), 2, 72),
            header(CommonHeader::HLEN),
        ),
        (
            "H2CTermReq: HLEN",
            &[BeforeIcReq, BeforeConnect, Admin, Io],
            with_byte(&TermReq::new(PduType::H2C_TERM, 1, 0, 0), 2, 8),
            header(CommonHeader::HLEN),
        ),
        (
            "H2CTermReq: PLEN",
            &[BeforeIcReq, BeforeConnect, Admin, Io],
            with_plen(&TermReq::new(PduType::H2C_TERM, 1, 0, 0), 153),
            header(CommonHeader::PLEN),
        ),
        ("second ICReq", &[BeforeConnect, Admin, Io], icreq().bytes(), (Fes::PDU_SEQUENCE_ERROR, 0)),
        ("capsule before ICReq", &[BeforeIcReq], flush().bytes(), (Fes::PDU_SEQUENCE_ERROR, 0)),
        (
            "H2CData before ICReq",
            &[BeforeIcReq],
            H2cData::new(1, 0, 0, 512, true, 0).bytes(),
            (Fes::PDU_SEQUENCE_ERROR, 0),
        ),
    ];
    let target = TestTarget::start();
    let bystander = Bystander::start(&target, 1, 0);
    {
        let hostile = hostile(&target);
        for (what, places, bytes, (fes, fei)) in cases {
            for &place in places {
                let mut wire = hostile.at(place);
                wire.send(&bytes);
                // Bytes that follow are of no interest, and must not turn the last words into a reset.
                wire.send(&[0xa5; 10_000]);
                let terminated = wire.terminated();
                assert_eq!((terminated.fes, terminated.fei), (fes, fei), "{what}, {place:?}");
            }
        }
        bystander.assert_goes_on();
    }
    assert_as_before(&target, bystander);
}

#[test]
fn pdus_that_only_a_controller_sends_are_refused_from_a_host() {
    let pdus = [
        IcResp::new(0, DigestFlags::empty(), 8192).bytes(),
        TermReq::new(PduType::C2H_TERM, 1, 0, 0).bytes(),
        CapsuleResp::new(CompletionQueueEntry::new(0, Status::SUCCESS)).bytes(),
        C2hData::new(0, 0, 512, PduFlags::LAST, 0).bytes(),
        R2t::new(0, 0, 0, 512).bytes(),
    ];
    let target = TestTarget::start();
    let bystander = Bystander::start(&target, 1, 0);
    {
        let hostile = hostile(&target);
        for pdu in pdus {
            for place in [BeforeIcReq, BeforeConnect, Admin, Io] {
                let mut wire = hostile.at(place);
                wire.send(&pdu);
                let terminated = wire.terminated();
                let expected = (Fes::INVALID_PDU_HEADER_FIELD, CommonHeader::PDU_TYPE);
                assert_eq!((terminated.fes, terminated.fei), expected, "{:?} {place:?}", PduType(pdu[0]));
            }
        }
    }
    assert_as_before(&target, bystander);
}

/// H2CData for the write that `r2t` asked data of, and what a target must say to it.
fn wrong_data(r2t: &R2t) -> Vec<(&'static str, Vec<u8>, (Fes, u32))> {
    let (cccid, ttag) = (r2t.cccid.get(), r2t.ttag.get());
    let field = |field| (Fes::INVALID_PDU_HEADER_FIELD, field);
    let out_of_range = (Fes::DATA_TRANSFER_OUT_OF_RANGE, 0);
    let pdu = |cccid, ttag, offset, length, last| H2cData::new(cccid, ttag, offset, length, last, 0).bytes();
    vec![
        ("CCCID", pdu(cccid ^ 1, ttag, 0, 65536, true), field(H2cData::CCCID)),
        ("TTAG", pdu(cccid, ttag + 1, 0, 65536, true), field(H2cData::TTAG)),
        ("TTAG FFFFh", pdu(cccid, 0xffff, 0, 65536, true), field(H2cData::TTAG)),
        ("DATAO", pdu(cccid, ttag, 4096, 4096, false), out_of_range),
        ("DATAO behind the data", pdu(cccid, ttag, 65536, 4096, true), out_of_range),
        ("DATAO FFFFFFFFh", pdu(cccid, ttag, u32::MAX, 4096, true), out_of_range),
        ("DATAL 0", pdu(cccid, ttag, 0, 0, false), field(H2cData::DATAL)),
        ("DATAL beyond the data", pdu(cccid, ttag, 0, 65540, true), out_of_range),
        (
            "DATAL beyond MAXH2CDATA",
            pdu(cccid, ttag, 0, (1 << 20) + 4, true),
            (Fes::DATA_TRANSFER_LIMIT_EXCEEDED, 0),
        ),
        (
            "PLEN against DATAL",
            with_plen(&H2cData::new(cccid, ttag, 0, 4096, false, 0), 24 + 4100),
            field(CommonHeader::PLEN),
        ),
        ("LAST too early", pdu(cccid, ttag, 0, 4096, true), field(CommonHeader::FLAGS)),
        ("LAST missing", pdu(cccid, ttag, 0, 65536, false), field(CommonHeader::FLAGS)),
    ]
}

#[test]
fn data_that_no_r2t_asked_for_in_this_way_ends_the_connection_and_frees_its_buffer() {
    let target = TestTarget::start();
    let bystander = Bystander::start(&target, 1, 0);
    {
        let hostile = hostile(&target);
        let write = by_transport(command(nvm::WRITE, 1000, 16), 65536);
        let cases = wrong_data(&R2t::new(0, 0, 0, 65536)).len();
        for case in 0..cases {
            let mut wire = hostile.io();
            wire.send(&write);
            let (what, bytes, expected) = wrong_data(&wire.r2t()).swap_remove(case);
            wire.send(&bytes);
            let terminated = wire.terminated();
            assert_eq!((terminated.fes, terminated.fei), expected, "{what}");
        }
        // The same when some of the data is there already.
        for case in ["again", "further on"] {
            let mut wire = hostile.io();
            wire.send(&write);
            let r2t = wire.r2t();
            wire.send(&h2c_data(&r2t, 0, &[1; 4096], false));
            wire.send(&h2c_data(&r2t, if case == "again" { 0 } else { 8192 }, &[1; 4096], false));
            assert_eq!(wire.terminated().fes, Fes::DATA_TRANSFER_OUT_OF_RANGE, "{case}");
        }
    }
    // Nothing of it reached the drive.
    let (_admin, mut queue) = target.queue(3);
    assert_eq!(queue.read_blocks(1, 1000, 16, 4096).unwrap(), vec![0; 65536]);
    drop((queue, _admin));
    assert_as_before(&target, bystander);
}

#[test]
fn commands_in_the_wrong_state_get_a_status_and_the_connection_goes_on() {
    let target = TestTarget::start();
    let bystander = Bystander::start(&target, 1, 0);
    {
        let sequence_error = Status::COMMAND_SEQUENCE_ERROR.with_dnr();
        // Before Connect, whatever the queue is going to be.
        let mut wire = Wire::initialized(target.address);
        let get = capsule(PropertyGet::new64(registers::CAP).into(), &[]);
        let identify = by_transport(SubmissionQueueEntry::new(admin::IDENTIFY), 4096);
        let read = by_transport(command(nvm::READ, 0, 1), 4096);
        let write = capsule(command(nvm::WRITE, 0, 1), &[7; 4096]);
        for early in [&get, &identify, &read, &write, &by_transport(command(nvm::WRITE, 0, 16), 65536)] {
            assert_eq!(wire.status(early), sequence_error);
        }
        let host = identity(5);
        let connected = wire.execute(&connect(0, 32, None, &subsystem(0), &host));
        assert!(connected.status().is_success(), "the connection was not harmed");
        let cntlid = connected.dw0.get() as u16;
        assert_eq!(
            wire.status(&connect(0, 32, None, &subsystem(0), &host)),
            sequence_error,
            "a second Connect"
        );

        // Before the controller is enabled.
        assert_eq!(wire.status(&identify), sequence_error);
        let mut early = Wire::initialized(target.address);
        let io = connect(1, 32, Some(cntlid), &subsystem(0), &host);
        assert_eq!(early.status(&io), sequence_error, "an I/O queue of a controller that is not enabled");
        wire.enable();
        assert!(early.status(&io).is_success(), "the same connection, now that it is");

        // Commands of the other kind of queue.
        assert_eq!(early.status(&io), sequence_error, "a second Connect");
        assert_eq!(early.status(&get), Status::INVALID_FIELD.with_dnr(), "Property Get on an I/O queue");
        assert_eq!(early.status(&enable()), Status::INVALID_FIELD.with_dnr(), "Property Set on an I/O queue");
        assert_eq!(wire.status(&capsule(command(0x03, 0, 1), &[])), Status::INVALID_OPCODE.with_dnr());
        let refused = wire.status(&capsule(DisconnectCommand::new().into(), &[]));
        assert_eq!(refused, Status::INVALID_QUEUE_TYPE.with_dnr(), "Disconnect deletes I/O queues only");

        // Nothing of it harmed either queue.
        let mut flush = command(nvm::FLUSH, 0, 1);
        flush.cdw12.set(0);
        assert!(early.status(&capsule(flush, &[])).is_success());
        assert!(wire.status(&get).is_success());
    }
    assert_as_before(&target, bystander);
}

#[test]
fn data_pointers_that_a_transport_cannot_serve_get_a_status() {
    let target = TestTarget::start();
    let bystander = Bystander::start(&target, 1, 0);
    {
        let hostile = hostile(&target);
        let mut wire = hostile.io();
        let write = |sgl: SglDescriptor, data: &[u8]| {
            let mut entry = command(nvm::WRITE, 0, 1);
            entry.set_sgl(sgl);
            with_data(&entry, data)
        };
        let odd = |identifier| SglDescriptor { identifier, ..SglDescriptor::transport(4096) };
        let at = |address: u64| SglDescriptor { address: address.into(), ..SglDescriptor::in_capsule(4096) };
        let cases: Vec<(&str, Vec<u8>, Status)> = vec![
            ("keyed", write(odd(0x40), &[]), Status::SGL_DESCRIPTOR_TYPE_INVALID),
            ("bit bucket", write(odd(0x10), &[]), Status::SGL_DESCRIPTOR_TYPE_INVALID),
            ("segment", write(odd(0x20), &[]), Status::SGL_DESCRIPTOR_TYPE_INVALID),
            ("address", write(odd(0x00), &[]), Status::SGL_DESCRIPTOR_TYPE_INVALID),
            ("offset into the data", write(at(8), &[1; 4096]), Status::SGL_OFFSET_INVALID),
            (
                "longer than the capsule",
                write(SglDescriptor::in_capsule(4096), &[1; 2048]),
                Status::DATA_SGL_LENGTH_INVALID,
            ),
            (
                "shorter than the capsule",
                write(SglDescriptor::in_capsule(2048), &[1; 4096]),
                Status::DATA_SGL_LENGTH_INVALID,
            ),
            (
                "other than the blocks",
                write(SglDescriptor::in_capsule(8192), &[1; 8192]),
                Status::DATA_SGL_LENGTH_INVALID,
            ),
            ("no data", write(SglDescriptor::transport(0), &[]), Status::DATA_SGL_LENGTH_INVALID),
            ("more than MDTS", by_transport(command(nvm::WRITE, 0, 257), 257 * 4096), Status::INVALID_FIELD),
            ("4 GiB", by_transport(command(nvm::WRITE, 0, 1), u32::MAX), Status::DATA_SGL_LENGTH_INVALID),
            ("a read into the capsule", capsule(command(nvm::READ, 0, 1), &[0; 4096]), Status::INVALID_FIELD),
        ];
        for (what, bytes, status) in cases {
            assert_eq!(wire.status(&bytes), status.with_dnr(), "{what}");
        }
        for (what, psdt, fuse) in [
            ("PRP", 0_u8, 0),
            ("PSDT 10b", 2, 0),
            ("PSDT 11b", 3, 0),
            ("fused", 1, 1),
            ("fused, second", 1, 2),
        ] {
            let mut entry = command(nvm::WRITE, 0, 1);
            entry.set_sgl(SglDescriptor::transport(4096));
            entry.flags = psdt << 6 | fuse;
            assert_eq!(wire.status(&with_data(&entry, &[])), Status::INVALID_FIELD.with_dnr(), "{what}");
        }
        let mut entry = command(nvm::WRITE, 0, 1);
        entry.mptr.set(0x1000);
        assert_eq!(
            wire.status(&by_transport(entry, 4096)),
            Status::INVALID_FIELD.with_dnr(),
            "a metadata pointer"
        );
        // The queue works as ever, beside the blocks of the bystander.
        let data = pattern(100, 7, 4096);
        assert!(wire.status(&capsule(command(nvm::WRITE, 100, 1), &data)).is_success());
    }
    assert_as_before(&target, bystander);
}

#[test]
fn more_commands_than_the_queue_has_entries_end_the_connection() {
    let latency = Some(Duration::from_millis(300));
    let mut setup = Setup::default();
    setup.drives[0].latency = latency;
    let target = TestTarget::with(setup);
    {
        let hostile = hostile(&target);
        let mut wire = hostile.io();
        let read = by_transport(command(nvm::READ, 0, 1), 4096);
        wire.send(&read.repeat(129));
        let terminated = wire.terminated();
        assert_eq!(terminated.fes, Fes::PDU_SEQUENCE_ERROR);
    }
    let (_admin, mut queue) = target.queue(9);
    use_all_memory(&mut queue, 5);
    target.assert_no_violations();
}

#[test]
fn the_same_command_identifier_twice_at_a_time_is_answered_twice() {
    let target = TestTarget::start();
    let hostile = hostile(&target);
    let mut wire = hostile.io();
    let mut write = command(nvm::WRITE, 5, 1);
    write.cid.set(0xbeef);
    let both = [capsule(write, &[1; 4096]), capsule(write, &[2; 4096])].concat();
    wire.send(&both);
    for _ in 0..2 {
        let response = wire.response();
        assert_eq!((response.cid.get(), response.status()), (0xbeef, Status::SUCCESS));
    }
}

#[test]
fn random_bytes_cost_nobody_else_anything() {
    let target = TestTarget::start();
    let bystander = Bystander::start(&target, 1, 0);
    {
        let hostile = hostile(&target);
        let config = ProptestConfig {
            cases: 160,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(2),
            ..ProptestConfig::default()
        };
        let place = prop_oneof![Just(BeforeIcReq), Just(BeforeConnect), Just(Admin), Just(Io)];
        let bytes = prop::collection::vec(any::<u8>(), 1..600);
        // Half of them start like a PDU, so that they get further.
        let start = prop::option::of((prop::sample::select(vec![0_u8, 2, 4, 6]), 0..600_u32));
        TestRunner::new(config)
            .run(&(place, bytes, start), |(place, mut bytes, start)| {
                if let Some((kind, more)) = start {
                    let hlen = PduType(kind).header_length().unwrap_or(24);
                    let plen = u32::from(hlen) + more / 4 * 4;
                    let header = CommonHeader {
                        pdu_type: PduType(kind),
                        flags: 0,
                        hlen,
                        pdo: hlen,
                        plen: plen.into(),
                    };
                    bytes.splice(0..0, header.bytes());
                }
                let mut wire = hostile.at(place);
                wire.send(&bytes);
                wire.finish();
                wire.drain();
                Ok(())
            })
            .unwrap();
    }
    assert_as_before(&target, bystander);
}

/// Everything that a good host sends on its two connections, in order, with the length of each answer.
struct Script {
    host: u8,
}

impl Script {
    /// Runs the session until `cut` bytes were sent, then drops its connections. False when the session was over
    /// before.
    fn run(&self, target: &TestTarget, cut: usize) -> bool {
        let host = identity(self.host);
        let mut left = cut;
        let mut admin = Wire::open(target.address);
        if !say(&mut admin, &icreq().bytes(), &mut left) {
            return true;
        }
        admin.pdu().unwrap();
        if !say(&mut admin, &connect(0, 32, None, &subsystem(0), &host), &mut left) {
            return true;
        }
        let cntlid = admin.response().dw0.get() as u16;
        if !say(&mut admin, &enable(), &mut left) {
            return true;
        }
        admin.response();
        let mut io = Wire::open(target.address);
        if !say(&mut io, &icreq().bytes(), &mut left) {
            return true;
        }
        io.pdu().unwrap();
        if !say(&mut io, &connect(1, 32, Some(cntlid), &subsystem(0), &host), &mut left) {
            return true;
        }
        assert!(io.response().status().is_success());
        let data = pattern(500, 3, 1024);
        let write = [&data[..], &[9; 3072]].concat();
        if !say(&mut io, &capsule(command(nvm::WRITE, 500, 1), &write), &mut left) {
            return true;
        }
        assert!(io.response().status().is_success());
        if !say(&mut io, &by_transport(command(nvm::WRITE, 501, 3), 3 * 4096), &mut left) {
            return true;
        }
        let r2t = io.r2t();
        if !say(&mut io, &h2c_data(&r2t, 0, &[4; 4096], false), &mut left)
            || !say(&mut io, &h2c_data(&r2t, 4096, &[5; 8192], true), &mut left)
        {
            return true;
        }
        assert!(io.response().status().is_success());
        if !say(&mut io, &by_transport(command(nvm::READ, 500, 4), 4 * 4096), &mut left) {
            return true;
        }
        let read = io.pdu().unwrap();
        assert_eq!(read[24..24 + 1024], data);
        assert!(io.response().status().is_success());
        false
    }
}

/// Sends `bytes` as far as `left` goes; false when that is not all of them.
fn say(wire: &mut Wire, bytes: &[u8], left: &mut usize) -> bool {
    let count = bytes.len().min(*left);
    *left -= count;
    wire.send(&bytes[..count]);
    count == bytes.len()
}

#[test]
fn a_session_cut_at_every_byte_leaves_nothing_behind() {
    let target = TestTarget::start();
    let bystander = Bystander::start(&target, 1, 0);
    let script = Script { host: 4 };
    let mut cut = 0;
    while script.run(&target, cut) {
        cut += 1;
        assert!(cut < 100_000, "the session ends");
    }
    assert!(cut > 15_000, "the whole session was run: {cut}");
    assert_as_before(&target, bystander);
}
