//! Command capsules, what they may declare, and their responses.

use super::*;

const READ: u8 = opcode::nvm::READ;
const WRITE: u8 = opcode::nvm::WRITE;
const FLUSH: u8 = opcode::nvm::FLUSH;

fn none() -> SglDescriptor {
    SglDescriptor::transport(0)
}

#[test]
fn the_connect_of_the_linux_host_is_understood_byte_by_byte() {
    // CapsuleCmd with PDO 72 and PLEN 1096, then the entry: opcode 7Fh, flags 40h (SGL), CID 0, FCTYPE 1, SGL with
    // 1024 bytes in the capsule, SQSIZE 31, KATO 5000 ms.
    let mut bytes = vec![0; 72];
    bytes[..8].copy_from_slice(&[4, 0, 72, 72, 0x48, 4, 0, 0]);
    bytes[8..13].copy_from_slice(&[0x7f, 0x40, 0, 0, 1]);
    bytes[8 + 32..8 + 36].copy_from_slice(&[0, 4, 0, 0]);
    bytes[8 + 39] = 0x01;
    bytes[8 + 44] = 31;
    bytes[8 + 48..8 + 50].copy_from_slice(&[0x88, 0x13]);
    let data = pattern(1024);
    bytes.extend_from_slice(&data);
    for size in [1, 2, 3, 7, 8, 71, 72, 73, 1096] {
        let mut harness = Harness::initialized(0);
        let events = harness.feed_by(&bytes, &mut std::iter::repeat(size)).unwrap();
        let [
            Event::Command { slot, entry, data: declared },
            Event::DataComplete { slot: complete, intact: true },
        ] = events[..]
        else {
            panic!("{events:?}")
        };
        assert_eq!((slot, declared), (complete, CapsuleData::InCapsule { len: 1024 }));
        assert_eq!(entry.as_bytes(), &bytes[8..72]);
        assert_eq!(harness.data[&slot], data);
    }
}

#[test]
fn connect_comes_first_and_once() {
    let mut harness = Harness::initialized(0);
    let refused = Status::COMMAND_SEQUENCE_ERROR.with_dnr();
    let property_get = fabrics_entry(fctype::PROPERTY_GET, 1, none());
    assert_eq!(harness.refused(&capsule(entry(FLUSH, 2, none()), &[])), refused);
    assert_eq!(harness.refused(&capsule(property_get, &[])), refused);
    let connect = harness.command(&capsule(connect_entry(), &[0; 1024]));
    assert_eq!(harness.refused(&capsule(connect_entry(), &[0; 1024])), refused);
    assert_eq!(harness.refused(&capsule(property_get, &[])), refused);
    harness.connection.establish(0, QUEUE_SIZE, true);
    harness.respond(connect, &Reply::SUCCESS);
    assert_eq!(harness.refused(&capsule(connect_entry(), &[0; 1024])), refused);
    harness.command(&capsule(property_get, &[]));
}

#[test]
fn connect_may_be_tried_again_after_it_failed() {
    let mut harness = Harness::initialized(0);
    let slot = harness.command(&capsule(connect_entry(), &[0; 1024]));
    let status = Status::CONNECT_INVALID_PARAMETERS.with_dnr();
    let answer = harness.respond(slot, &Reply { status, result: 0x0001_0004 });
    assert_eq!((answer.status(), answer.result(), answer.sq_head.get()), (status, 0x0001_0004, 0));
    assert!(!harness.connection.is_established());
    harness.connect(0, true);
}

#[test]
fn connect_may_bring_its_data_by_r2t() {
    let mut harness = Harness::initialized(0);
    let connect = fabrics_entry(fctype::CONNECT, 5, SglDescriptor::transport(1024));
    let slot = harness.command(&capsule(connect, &[]));
    harness.connection.request_data(slot, &mut harness.out);
    let data = pattern(1024);
    let events = harness.feed(&h2c_data(5, slot, 0, &data, true)).unwrap();
    assert_eq!(events, [Event::DataComplete { slot, intact: true }]);
    assert_eq!(harness.data[&slot], data);
}

#[test]
fn any_cid_is_echoed_whatever_the_depth_of_the_queue() {
    let mut harness = Harness::connected(1, true);
    for cid in [0, 1, 0xffff, 0x8000, 0xf07f, 0x0fff] {
        let slot = harness.command(&capsule(entry(FLUSH, cid, none()), &[]));
        assert!(slot < QUEUE_SIZE);
        assert_eq!(harness.connection.cid(slot), Some(cid));
        assert_eq!(harness.connection.slot_of(cid), Some(slot));
        let status = Status::LBA_OUT_OF_RANGE.with_dnr();
        let answer = harness.respond(slot, &Reply { status, result: 0x1122_3344_5566_7788 });
        assert_eq!((answer.cid.get(), answer.status()), (cid, status));
        assert_eq!((answer.dw0.get(), answer.dw1.get()), (0x5566_7788, 0x1122_3344));
        assert_eq!((answer.sq_id.get(), answer.phase()), (0, false));
        assert_eq!(harness.connection.cid(slot), None);
        assert_eq!(harness.connection.slot_of(cid), None);
    }
}

#[test]
fn a_cid_is_used_again_at_once_after_its_completion() {
    let mut harness = Harness::connected(1, true);
    for _ in 0..3 * u32::from(QUEUE_SIZE) {
        let slot = harness.command(&capsule(entry(FLUSH, 0x1234, none()), &[]));
        harness.respond(slot, &Reply::SUCCESS);
    }
}

#[test]
fn commands_are_answered_in_any_order_each_with_its_own_cid() {
    let mut harness = Harness::connected(1, true);
    let mut slots: Vec<(u16, Slot)> = (0..QUEUE_SIZE)
        .map(|i| (0xff00 + i, harness.command(&capsule(entry(FLUSH, 0xff00 + i, none()), &[]))))
        .collect();
    slots.rotate_left(3);
    slots.swap(0, 5);
    for (cid, slot) in slots {
        assert_eq!(harness.respond(slot, &Reply::SUCCESS).cid.get(), cid);
    }
}

#[test]
fn sqhd_advances_once_per_completion_modulo_the_queue_size() {
    let mut harness = Harness::connected(1, true);
    for i in 0..3 * QUEUE_SIZE {
        let slot = harness.command(&capsule(entry(FLUSH, i, none()), &[]));
        // The response to Connect was the first.
        assert_eq!(harness.respond(slot, &Reply::SUCCESS).sq_head.get(), (i + 2) % QUEUE_SIZE);
    }
}

#[test]
fn without_flow_control_only_the_response_to_connect_has_a_head_pointer() {
    let mut harness = Harness::connected(1, false);
    for i in 0..QUEUE_SIZE {
        let slot = harness.command(&capsule(entry(FLUSH, i, none()), &[]));
        assert_eq!(harness.respond(slot, &Reply::SUCCESS).sq_head.get(), 0);
    }
}

#[test]
fn a_command_that_is_forgotten_frees_its_slot_and_counts_as_fetched() {
    for (flow_control, heads) in [(true, 2), (false, 0)] {
        let mut harness = Harness::connected(1, flow_control);
        let flush = capsule(entry(FLUSH, 7, none()), &[]);
        // More than there are slots.
        for _ in 0..3 * QUEUE_SIZE {
            let slot = harness.command(&flush);
            harness.connection.forget(slot);
            assert_eq!(harness.connection.commands_outstanding(), 0);
        }
        let before = {
            let slot = harness.command(&flush);
            harness.respond(slot, &Reply::SUCCESS).sq_head.get()
        };
        let forgotten = harness.command(&flush);
        harness.connection.forget(forgotten);
        let slot = harness.command(&flush);
        let after = harness.respond(slot, &Reply::SUCCESS).sq_head.get();
        assert_eq!((after + QUEUE_SIZE - before) % QUEUE_SIZE, heads);
    }
}

#[test]
fn more_commands_than_the_queue_has_entries_end_the_connection() {
    let mut harness = Harness::connected(1, true);
    for i in 0..QUEUE_SIZE {
        harness.command(&capsule(entry(FLUSH, i, none()), &[]));
    }
    assert_eq!(harness.connection.commands_outstanding(), usize::from(QUEUE_SIZE));
    assert_eq!(harness.fatal(&capsule(entry(FLUSH, 100, none()), &[])), (2, 0));
    assert_eq!(harness.connection.commands_outstanding(), usize::from(QUEUE_SIZE));
}

#[test]
fn fused_commands_prps_and_metadata_are_refused_without_harm_to_the_connection() {
    let mut harness = Harness::connected(1, true);
    let invalid = Status::INVALID_FIELD.with_dnr();
    let good = entry(WRITE, 3, SglDescriptor::in_capsule(512));
    for flags in [0x00, 0x80, 0xc0, 0x41, 0x42, 0x43] {
        assert_eq!(harness.refused(&capsule(SubmissionQueueEntry { flags, ..good }, &[1; 512])), invalid);
    }
    let mut metadata = good;
    metadata.mptr.set(0x1000);
    assert_eq!(harness.refused(&capsule(metadata, &[1; 512])), invalid);
    assert_eq!(harness.discarded, 7 * 512);
    harness.command(&capsule(good, &[1; 512]));
}

#[test]
fn sgl_descriptors_that_tcp_does_not_have_are_refused_without_harm_to_the_connection() {
    let mut harness = Harness::connected(1, true);
    for identifier in (0..=255).filter(|identifier| !matches!(identifier, 0x01 | 0x5a)) {
        for (opcode, data) in [(WRITE, &[1; 512][..]), (READ, &[])] {
            let sgl = SglDescriptor { identifier, ..SglDescriptor::transport(512) };
            let status = harness.refused(&capsule(entry(opcode, 3, sgl), data));
            assert_eq!(status, Status::SGL_DESCRIPTOR_TYPE_INVALID.with_dnr(), "{identifier:02x}");
        }
    }
}

#[test]
fn in_capsule_data_starts_at_offset_0_and_has_the_length_of_the_capsule() {
    let mut harness = Harness::connected(1, true);
    let mut offset = SglDescriptor::in_capsule(512);
    offset.address.set(4);
    let status = harness.refused(&capsule(entry(WRITE, 3, offset), &[1; 512]));
    assert_eq!(status, Status::SGL_OFFSET_INVALID.with_dnr());
    for (sgl, carried) in [
        (SglDescriptor::in_capsule(512), 508),
        (SglDescriptor::in_capsule(512), 516),
        (SglDescriptor::in_capsule(512), 0),
        (SglDescriptor::in_capsule(u32::MAX), 512),
        (SglDescriptor::in_capsule(0), 512),
        (SglDescriptor::transport(512), 512),
        (SglDescriptor::transport(0), 512),
    ] {
        let status = harness.refused(&capsule(entry(WRITE, 3, sgl), &vec![1; carried]));
        assert_eq!(status, Status::DATA_SGL_LENGTH_INVALID.with_dnr(), "{sgl} with {carried}");
    }
}

#[test]
fn a_command_that_returns_data_cannot_have_it_in_its_capsule() {
    let mut harness = Harness::connected(1, true);
    for opcode in [READ, FLUSH] {
        let status = harness.refused(&capsule(entry(opcode, 3, SglDescriptor::in_capsule(512)), &[1; 512]));
        assert_eq!(status, Status::INVALID_FIELD.with_dnr());
    }
}

#[test]
fn an_sgl_of_length_0_of_either_kind_is_a_command_without_data() {
    let mut harness = Harness::connected(1, true);
    for (opcode, sgl) in [
        (FLUSH, SglDescriptor::transport(0)),
        (FLUSH, SglDescriptor::in_capsule(0)),
        (READ, SglDescriptor::transport(0)),
        (WRITE, SglDescriptor::in_capsule(0)),
    ] {
        let events = harness.feed(&capsule(entry(opcode, 1, sgl), &[])).unwrap();
        assert!(matches!(events[..], [Event::Command { data: CapsuleData::None, .. }]), "{events:?}");
    }
}

#[test]
fn property_commands_have_no_sgl_whatever_stands_in_its_place() {
    let mut harness = Harness::connected(0, true);
    for fctype in [fctype::PROPERTY_GET, fctype::PROPERTY_SET, fctype::DISCONNECT] {
        let reserved = SglDescriptor { identifier: 0, ..SglDescriptor::transport(0) };
        let events = harness.feed(&capsule(fabrics_entry(fctype, 1, reserved), &[])).unwrap();
        assert!(matches!(events[..], [Event::Command { data: CapsuleData::None, .. }]), "{events:?}");
    }
    let with_data = capsule(fabrics_entry(fctype::PROPERTY_SET, 1, none()), &[0; 8]);
    assert_eq!(harness.refused(&with_data), Status::DATA_SGL_LENGTH_INVALID.with_dnr());
}

#[test]
fn the_admin_queue_and_fabrics_commands_take_8192_bytes_in_the_capsule_whatever_ioccsz_says() {
    let too_long = Status::DATA_SGL_LENGTH_INVALID.with_dnr();
    let write = |len: u32| capsule(entry(WRITE, 3, SglDescriptor::in_capsule(len)), &pattern(len as usize));
    let send = |len: u32| {
        let sgl = SglDescriptor::in_capsule(len);
        capsule(fabrics_entry(fctype::AUTHENTICATION_SEND, 3, sgl), &pattern(len as usize))
    };
    let mut io = Harness::connected(1, true);
    io.command(&write(4096));
    assert_eq!(io.refused(&write(4100)), too_long);
    let slot = io.command(&send(8192));
    assert_eq!(io.data[&slot], pattern(8192));
    Harness::connected(0, true).command(&write(8192));
    Harness::connected(0, true).command(&send(8192));
    // Beyond what any capsule carries, nobody reads on.
    assert_eq!(Harness::connected(0, true).fatal(&write(8196)), (5, 0));
    assert_eq!(io.fatal(&send(8196)), (5, 0));
}

#[test]
fn an_absurd_plen_ends_the_connection_before_any_of_it_is_read() {
    let mut bytes = capsule(entry(WRITE, 3, SglDescriptor::in_capsule(512)), &[1; 512]);
    bytes[4..8].copy_from_slice(&[0xff; 4]);
    assert_eq!(Harness::connected(1, true).fatal(&bytes), (5, 0));
    for plen in [0, 8, 71] {
        bytes[4..8].copy_from_slice(&[plen, 0, 0, 0]);
        assert_eq!(Harness::connected(1, true).fatal(&bytes), (1, 4));
    }
}

#[test]
fn pdo_points_behind_the_header_at_a_dword_inside_the_pdu() {
    let good = capsule(entry(WRITE, 3, SglDescriptor::in_capsule(8)), &[1; 8]);
    for pdo in (0..=255).filter(|pdo| !matches!(pdo, 72 | 76)) {
        let mut bytes = good.clone();
        bytes[3] = pdo;
        assert_eq!(Harness::connected(1, true).fatal(&bytes), (1, 3), "PDO {pdo}");
    }
    let bare = capsule(entry(FLUSH, 3, none()), &[]);
    for pdo in (1..=255).filter(|pdo| *pdo != 72) {
        let mut bytes = bare.clone();
        bytes[3] = pdo;
        assert_eq!(Harness::connected(1, true).fatal(&bytes), (1, 3), "PDO {pdo}");
    }
}

#[test]
fn padding_in_front_of_in_capsule_data_is_skipped() {
    let data = pattern(512);
    let sgl = SglDescriptor::in_capsule(512);
    let mut bytes = CapsuleCmd::new(entry(WRITE, 3, sgl), 31, 512).as_bytes().to_vec();
    bytes.resize(128, 0xee);
    bytes.extend_from_slice(&data);
    for size in [1, 5, 72, 100, 128, 640] {
        let mut harness = Harness::connected(1, true);
        let events = harness.feed_by(&bytes, &mut std::iter::repeat(size)).unwrap();
        let [Event::Command { slot, .. }, Event::DataComplete { .. }] = events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(harness.data[&slot], data);
    }
}

#[test]
fn digests_that_were_not_agreed_on_are_an_invalid_flag() {
    for flags in 1..=3 {
        let mut bytes = capsule(entry(FLUSH, 3, none()), &[]);
        bytes[1] = flags;
        assert_eq!(Harness::connected(1, true).fatal(&bytes), (1, 1));
    }
}

#[test]
fn a_command_answered_before_its_data_arrived_does_not_disturb_the_next() {
    let mut harness = Harness::connected(1, true);
    let first = capsule(entry(WRITE, 3, SglDescriptor::in_capsule(512)), &[1; 512]);
    let events = harness.feed(&first[..200]).unwrap();
    let [Event::Command { slot, .. }] = events[..] else { panic!("{events:?}") };
    harness.respond(slot, &Reply::status(Status::INVALID_OPCODE.with_dnr()));
    assert_eq!(harness.connection.want(), Want::Discard { remaining: 384 });
    assert_eq!(harness.feed(&first[200..]), Ok(vec![]));
    let data = pattern(512);
    let slot = harness.command(&capsule(entry(WRITE, 4, SglDescriptor::in_capsule(512)), &data));
    assert_eq!(harness.data[&slot], data);
}

#[test]
fn in_capsule_data_that_is_not_wanted_is_discarded_and_completes() {
    let mut harness = Harness::connected(1, true);
    let bytes = capsule(entry(WRITE, 3, SglDescriptor::in_capsule(512)), &[1; 512]);
    let events = harness.feed(&bytes[..72]).unwrap();
    let [Event::Command { slot, .. }] = events[..] else { panic!("{events:?}") };
    harness.connection.discard_data(slot);
    assert_eq!(harness.feed(&bytes[72..]), Ok(vec![Event::DataComplete { slot, intact: true }]));
    assert_eq!(harness.discarded, 512);
}
