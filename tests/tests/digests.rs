//! Header and data digests that are wrong: what they cost, and that the drive never sees such data.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::time::Duration;

use gangway_fabric::host::client::{AdminQueue, Options};
use gangway_fabric::pdu::{C2hData, CapsuleResp, CommonHeader, DigestFlags, IcReq, IcResp, PduType, R2t};
use gangway_fabric::term::FatalErrorStatus as Fes;
use gangway_spec::log::lid;
use gangway_spec::opcode::nvm;
use gangway_spec::{CompletionQueueEntry, Status};
use gangway_tests::wire::{Wire, by_transport, capsule, connect, h2c_data};
use gangway_tests::{Bystander, TestTarget, command, identity, pattern, subsystem, use_all_memory};
use zerocopy::{FromBytes, IntoBytes};

const BLOCK: usize = 4096;
/// Bytes of a block that no test writes.
const OLD: [u8; BLOCK] = [0; BLOCK];

/// Where something is changed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    Header,
    HeaderDigest,
    Data,
    DataDigest,
}

/// One connection on which everything has digests. They come from another CRC than the target's.
struct Link {
    wire: Wire,
    digests: DigestFlags,
}

impl Link {
    fn initialized(target: &TestTarget, digests: DigestFlags) -> Self {
        let mut wire = Wire::open(target.address);
        wire.send(IcReq::new(0, digests, 0).as_bytes());
        let response = IcResp::read_from_bytes(&wire.pdu().expect("an ICResp")).unwrap();
        assert_eq!(response.dgst, digests.bits());
        Self { wire, digests }
    }

    /// I/O queue 1 of the controller `cntlid` of host 1.
    fn io(target: &TestTarget, cntlid: u16, digests: DigestFlags) -> Self {
        let mut link = Self::initialized(target, digests);
        link.send(&connect(1, 128, Some(cntlid), &subsystem(0), &identity(1)), Fault::None);
        assert!(link.response().status().is_success());
        link
    }

    /// A PDU without digests as it is sent, but for `fault`.
    fn pdu(&self, plain: &[u8], fault: Fault) -> Vec<u8> {
        let (header, data) = plain.split_at(plain[CommonHeader::HLEN as usize].into());
        let header_digest = self.digests.contains(DigestFlags::HEADER);
        let data_digest = self.digests.contains(DigestFlags::DATA) && !data.is_empty();
        let mut pdu = header.to_vec();
        pdu[1] |= u8::from(header_digest) | u8::from(data_digest) << 1;
        let before = header.len() + if header_digest { 4 } else { 0 };
        if !data.is_empty() {
            pdu[CommonHeader::PDO as usize] = before as u8;
        }
        let length = before + data.len() + if data_digest { 4 } else { 0 };
        pdu[4..8].copy_from_slice(&(length as u32).to_le_bytes());
        if header_digest {
            pdu.extend(crc32c::crc32c(&pdu).to_le_bytes());
        }
        pdu.extend(data);
        if data_digest {
            pdu.extend(crc32c::crc32c(data).to_le_bytes());
        }
        assert_eq!(pdu.len(), length);
        match fault {
            Fault::None => {}
            // Reserved in H2CData, in no use by the target in a command.
            Fault::Header => pdu[23] ^= 1,
            Fault::HeaderDigest => pdu[header.len()] ^= 0x80,
            Fault::Data => pdu[before + data.len() / 3] ^= 4,
            Fault::DataDigest => pdu[length - 1] ^= 0x20,
        }
        pdu
    }

    fn send(&mut self, plain: &[u8], fault: Fault) {
        let bytes = self.pdu(plain, fault);
        self.wire.send(&bytes);
    }

    /// The next PDU without its digests, which must be right.
    fn receive(&mut self) -> Vec<u8> {
        let pdu = self.wire.pdu().expect("a PDU");
        let hlen = usize::from(pdu[CommonHeader::HLEN as usize]);
        let mut plain = pdu[..hlen].to_vec();
        let mut rest = &pdu[hlen..];
        let header_digest = self.digests.contains(DigestFlags::HEADER);
        assert_eq!(pdu[1] & 1 != 0, header_digest);
        if header_digest {
            let (digest, behind) = rest.split_first_chunk::<4>().unwrap();
            assert_eq!(u32::from_le_bytes(*digest), crc32c::crc32c(&pdu[..hlen]));
            rest = behind;
        }
        let data_digest = self.digests.contains(DigestFlags::DATA) && PduType(pdu[0]) == PduType::C2H_DATA;
        assert_eq!(pdu[1] & 2 != 0, data_digest);
        if data_digest {
            let (data, digest) = rest.split_last_chunk::<4>().unwrap();
            assert_eq!(u32::from_le_bytes(*digest), crc32c::crc32c(data));
            rest = data;
        }
        plain.extend(rest);
        plain
    }

    fn response(&mut self) -> CompletionQueueEntry {
        let pdu = self.receive();
        assert_eq!(PduType(pdu[0]), PduType::CAPSULE_RESP);
        CapsuleResp::read_from_bytes(&pdu).unwrap().entry
    }

    /// Writes by R2T, in PDUs of `cut` bytes, of which number `wrong` has the fault.
    fn write(&mut self, lba: u64, data: &[u8], cut: usize, wrong: usize, fault: Fault) -> Status {
        let entry = command(nvm::WRITE, lba, (data.len() / BLOCK) as u32);
        self.send(&by_transport(entry, data.len() as u32), Fault::None);
        let r2t = R2t::read_from_bytes(&self.receive()).unwrap();
        assert_eq!(r2t.r2tl.get() as usize, data.len());
        for (number, chunk) in data.chunks(cut).enumerate() {
            let offset = number * cut;
            let plain = h2c_data(&r2t, offset as u32, chunk, offset + chunk.len() == data.len());
            self.send(&plain, if number == wrong { fault } else { Fault::None });
        }
        self.response().status()
    }

    fn read(&mut self, lba: u64, blocks: usize) -> Vec<u8> {
        let length = blocks * BLOCK;
        self.send(&by_transport(command(nvm::READ, lba, blocks as u32), length as u32), Fault::None);
        let pdu = self.receive();
        let (header, data) = C2hData::read_from_prefix(&pdu).unwrap();
        assert_eq!((header.header.pdu_type, header.datal.get() as usize), (PduType::C2H_DATA, length));
        assert!(self.response().status().is_success());
        data.to_vec()
    }
}

/// Host Write Commands of the SMART log: what has reached the drive.
fn writes(admin: &mut AdminQueue) -> u64 {
    let log = admin.log_page(lid::SMART, u32::MAX, 0, 512, true).unwrap();
    u64::from_le_bytes(log[80..88].try_into().unwrap())
}

#[test]
fn a_wrong_header_digest_ends_the_connection_and_names_the_digest() {
    let target = TestTarget::start();
    let bystander = Bystander::start(&target, 2, 1000);
    for digests in [DigestFlags::HEADER, DigestFlags::all()] {
        for fault in [Fault::Header, Fault::HeaderDigest] {
            for place in ["before Connect", "admin", "I/O", "within a write"] {
                let admin = target.host(1);
                let mut link = Link::initialized(&target, digests);
                let mut plain = capsule(command(nvm::FLUSH, 0, 1), &[]);
                match place {
                    "admin" => {
                        link.send(&connect(0, 32, None, &subsystem(0), &identity(3)), Fault::None);
                        assert!(link.response().status().is_success());
                    }
                    "I/O" => link = Link::io(&target, admin.cntlid(), digests),
                    "within a write" => {
                        link = Link::io(&target, admin.cntlid(), digests);
                        link.send(&by_transport(command(nvm::WRITE, 0, 2), 8192), Fault::None);
                        let r2t = R2t::read_from_bytes(&link.receive()).unwrap();
                        link.send(&h2c_data(&r2t, 0, &[7; 4096], false), Fault::None);
                        plain = h2c_data(&r2t, 4096, &[7; 4096], true);
                    }
                    _ => {}
                }
                let hlen = usize::from(plain[CommonHeader::HLEN as usize]);
                let bytes = link.pdu(&plain, fault);
                let digest = u32::from_le_bytes(bytes[hlen..hlen + 4].try_into().unwrap());
                link.wire.send(&bytes);
                let terminated = link.wire.terminated();
                assert_eq!((terminated.fes, terminated.fei), (Fes::HEADER_DIGEST_ERROR, digest), "{place}");
            }
        }
    }
    bystander.finish();
    let (_admin, mut queue) = target.queue(1);
    use_all_memory(&mut queue, 3);
    target.assert_no_violations();
}

#[test]
fn a_write_with_a_wrong_data_digest_fails_does_not_reach_the_drive_and_leaves_the_connection() {
    let target = TestTarget::start();
    for digests in [DigestFlags::DATA, DigestFlags::all()] {
        let mut admin = target.host(1);
        let mut link = Link::io(&target, admin.cntlid(), digests);
        for (round, fault) in [(1, Fault::Data), (2, Fault::DataDigest)] {
            let before = writes(&mut admin);
            // In the capsule, in one piece.
            let data = pattern(5, round, BLOCK);
            link.send(&capsule(command(nvm::WRITE, 5, 1), &data), fault);
            assert_eq!(link.response().status(), Status::TRANSIENT_TRANSPORT_ERROR);
            // By R2T, in PDUs that end within a page, of which any may be the wrong one.
            let large = pattern(100, round, 64 * BLOCK);
            for wrong in 0..4 {
                let status = link.write(100, &large, 70_004, wrong, fault);
                assert_eq!(status, Status::TRANSIENT_TRANSPORT_ERROR);
            }
            assert_eq!(writes(&mut admin), before, "the drive was given damaged data");
            assert_eq!(link.read(5, 1), OLD);
            assert_eq!(link.read(100, 64), OLD.repeat(64));
            // The connection is as good as ever.
            link.send(&capsule(command(nvm::WRITE, 300 + round, 1), &data), Fault::None);
            assert!(link.response().status().is_success());
            assert_eq!(link.read(300 + round, 1), data);
            assert!(link.write(400 + round * 64, &large, 70_004, 0, Fault::None).is_success());
            assert!(link.read(400 + round * 64, 64) == large);
            assert_eq!(writes(&mut admin), before + 2);
        }
    }
    let (_admin, mut queue) = target.queue(4);
    use_all_memory(&mut queue, 3);
    target.assert_no_violations();
}

#[test]
fn a_capsule_in_pieces_is_held_until_its_digest_has_come() {
    let target = TestTarget::start();
    let mut admin = target.host(1);
    let mut link = Link::io(&target, admin.cntlid(), DigestFlags::all());
    let length = 76 + BLOCK + 4;
    for (round, cuts) in (1_u64..).zip([
        vec![40, 76, 1000],
        vec![length - 4],
        vec![76 + 2000, length - 4],
        vec![75, 77, length - 5, length - 3, length - 1],
    ]) {
        for (fault, status) in [
            (Fault::None, Status::SUCCESS),
            (Fault::Data, Status::TRANSIENT_TRANSPORT_ERROR),
            (Fault::DataDigest, Status::TRANSIENT_TRANSPORT_ERROR),
        ] {
            let before = writes(&mut admin);
            let lba = round * 2 + u64::from(fault != Fault::None);
            let data = pattern(lba, round, BLOCK);
            let bytes = link.pdu(&capsule(command(nvm::WRITE, lba, 1), &data), fault);
            assert_eq!(bytes.len(), length);
            let mut sent = 0;
            for cut in &cuts {
                link.wire.send(&bytes[sent..*cut]);
                sent = *cut;
                // So that the pieces are received one by one; what is tested does not depend on it.
                std::thread::sleep(Duration::from_millis(20));
                assert_eq!(writes(&mut admin), before, "executed before its digest was seen");
            }
            link.wire.send(&bytes[sent..]);
            assert_eq!(link.response().status(), status);
            assert_eq!(writes(&mut admin), before + u64::from(fault == Fault::None));
            assert!(link.read(lba, 1) == if fault == Fault::None { &data[..] } else { &OLD[..] });
        }
    }
    target.assert_no_violations();
}

#[test]
fn a_command_that_is_refused_is_refused_whatever_its_digest() {
    let target = TestTarget::start();
    let admin = target.host(1);
    let mut link = Link::io(&target, admin.cntlid(), DigestFlags::all());
    for fault in [Fault::None, Fault::Data, Fault::DataDigest] {
        let mut entry = command(nvm::WRITE, 0, 1);
        entry.nsid.set(7);
        link.send(&capsule(entry, &[1; BLOCK]), fault);
        assert_eq!(link.response().status(), Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr());
        assert_eq!(link.read(0, 1), OLD);
    }
}

#[test]
fn connect_with_a_wrong_data_digest_may_be_tried_again() {
    let target = TestTarget::start();
    let mut link = Link::initialized(&target, DigestFlags::all());
    let bytes = connect(0, 32, None, &subsystem(0), &identity(1));
    for fault in [Fault::Data, Fault::DataDigest] {
        link.send(&bytes, fault);
        assert_eq!(link.response().status(), Status::TRANSIENT_TRANSPORT_ERROR);
    }
    assert_eq!(target.associations(), 0);
    link.send(&bytes, Fault::None);
    assert!(link.response().status().is_success());
    assert_eq!(target.associations(), 1);
}

#[test]
fn queues_of_one_association_may_differ_in_their_digests() {
    let target = TestTarget::start();
    let options = Options { header_digest: true, ..Options::default() };
    let mut admin = target.host_with(1, 0, &options);
    let mut link = Link::io(&target, admin.cntlid(), DigestFlags::DATA);
    let data = pattern(9, 1, 2 * BLOCK);
    assert!(link.write(9, &data, 4096, 0, Fault::None).is_success());
    assert!(link.read(9, 2) == data);
    admin.keep_alive().unwrap();
}
