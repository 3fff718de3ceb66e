//! R2T and H2CData, C2HData and SUCCESS.

use super::*;
use crate::pdu::{C2hData, R2t};

const CID: u16 = 0xbeef;

/// A connection with a write of `len` bytes in its returned slot whose data was asked for.
fn requested(len: u32) -> (Harness, Slot) {
    let mut harness = Harness::connected(1, true);
    // Something else in the first slots, so that the tag is not 0 by accident.
    for cid in 0..3 {
        harness.command(&capsule(entry(opcode::nvm::FLUSH, cid, SglDescriptor::transport(0)), &[]));
    }
    let slot = harness.command(&capsule(write(len), &[]));
    harness.out.clear();
    harness.connection.request_data(slot, &mut harness.out);
    (harness, slot)
}

fn write(len: u32) -> SubmissionQueueEntry {
    entry(opcode::nvm::WRITE, CID, SglDescriptor::transport(len))
}

fn read(len: u32) -> Vec<u8> {
    capsule(entry(opcode::nvm::READ, CID, SglDescriptor::transport(len)), &[])
}

#[test]
fn one_r2t_asks_for_all_data_of_the_command() {
    let (harness, slot) = requested(20_000);
    let r2t = R2t::read_from_bytes(&harness.out).unwrap();
    assert_eq!(r2t.header.as_bytes(), [9, 0, 24, 0, 24, 0, 0, 0]);
    assert_eq!((r2t.cccid.get(), r2t.ttag.get()), (CID, slot));
    assert_eq!((r2t.r2to.get(), r2t.r2tl.get()), (0, 20_000));
}

#[test]
fn h2c_data_cut_at_maxh2cdata_arrives_whole_however_it_is_split() {
    let data = pattern(20_000);
    for size in [1, 3, 24, 25, 1000, 8216, 30_000] {
        let (mut harness, slot) = requested(20_000);
        let mut bytes = Vec::new();
        for (i, chunk) in data.chunks(8192).enumerate() {
            bytes.extend(h2c_data(CID, slot, i as u32 * 8192, chunk, i == 2));
        }
        let events = harness.feed_by(&bytes, &mut std::iter::repeat(size)).unwrap();
        assert_eq!(events, [Event::DataComplete { slot, intact: true }]);
        assert_eq!(harness.data[&slot], data);
        assert_eq!(harness.respond(slot, &Reply::SUCCESS).cid.get(), CID);
    }
}

#[test]
fn transfers_of_two_commands_may_take_turns() {
    let (mut harness, first) = requested(16);
    let second = harness.command(&capsule(SubmissionQueueEntry { cid: 5.into(), ..write(16) }, &[]));
    harness.connection.request_data(second, &mut harness.out);
    let data = pattern(32);
    let mut bytes = h2c_data(CID, first, 0, &data[..8], false);
    bytes.extend(h2c_data(5, second, 0, &data[16..], true));
    bytes.extend(h2c_data(CID, first, 8, &data[8..16], true));
    let events = harness.feed(&bytes).unwrap();
    assert_eq!(
        events,
        [
            Event::DataComplete { slot: second, intact: true },
            Event::DataComplete { slot: first, intact: true }
        ]
    );
    assert_eq!((&harness.data[&first][..], &harness.data[&second][..]), (&data[..16], &data[16..]));
}

#[test]
fn each_field_of_h2c_data_out_of_range_ends_the_connection_with_its_own_error() {
    // Each case changes one field of 8 good bytes at offset 8 of a transfer of 24.
    type Change = fn(&mut H2cData);
    let cases: [(&str, Change, (u16, u32)); 16] = [
        ("header digest", |pdu| pdu.header.flags |= 1, (1, 1)),
        ("data digest", |pdu| pdu.header.flags |= 2, (1, 1)),
        ("LAST too early", |pdu| pdu.header.flags |= 4, (1, 1)),
        ("PDO 0", |pdu| pdu.header.pdo = 0, (1, 3)),
        ("PDO inside the header", |pdu| pdu.header.pdo = 20, (1, 3)),
        ("PDO not at a dword", |pdu| pdu.header.pdo = 25, (1, 3)),
        ("PDO behind the PDU", |pdu| pdu.header.pdo = 252, (1, 3)),
        ("PLEN too short", |pdu| pdu.header.plen.set(31), (1, 4)),
        ("PLEN too long", |pdu| pdu.header.plen.set(u32::MAX), (1, 4)),
        ("CCCID of another command", |pdu| pdu.cccid.set(1), (1, 8)),
        ("DATAO behind", |pdu| pdu.datao.set(0), (4, 0)),
        ("DATAO ahead", |pdu| pdu.datao.set(16), (4, 0)),
        ("DATAO that overflows", |pdu| pdu.datao.set(u32::MAX), (4, 0)),
        ("DATAL 0", |pdu| pdu.datal.set(0), (1, 16)),
        ("DATAL beyond the command", |pdu| pdu.datal.set(17), (4, 0)),
        ("DATAL beyond MAXH2CDATA", |pdu| pdu.datal.set(8196), (5, 0)),
    ];
    for (name, change, answer) in cases {
        let (mut harness, slot) = requested(24);
        harness.feed(&h2c_data(CID, slot, 0, &[1; 8], false)).unwrap();
        let mut pdu = H2cData::new(CID, slot, 8, 8, false, 0);
        change(&mut pdu);
        let mut bytes = pdu.as_bytes().to_vec();
        bytes.extend([2; 8]);
        assert_eq!(harness.fatal(&bytes), answer, "{name}");
    }
}

#[test]
fn the_last_pdu_of_a_transfer_says_so() {
    let (mut harness, slot) = requested(16);
    assert_eq!(harness.fatal(&h2c_data(CID, slot, 0, &[1; 16], false)), (1, 1));
}

#[test]
fn a_ttag_that_nobody_waits_for_is_an_invalid_field() {
    for ttag in [0, 1, 4, QUEUE_SIZE, 0xffff] {
        let (mut harness, slot) = requested(16);
        assert_ne!(ttag, slot);
        // 0 and 1 are commands without an R2T, 4 is a free slot, the others do not exist.
        assert_eq!(harness.fatal(&h2c_data(CID, ttag, 0, &[1; 16], true)), (1, 10), "TTAG {ttag}");
    }
    // An R2T is used up by its last byte.
    let (mut harness, slot) = requested(16);
    let bytes = h2c_data(CID, slot, 0, &[1; 16], true);
    assert_eq!(harness.feed(&bytes), Ok(vec![Event::DataComplete { slot, intact: true }]));
    assert_eq!(harness.fatal(&bytes), (1, 10));
}

#[test]
fn data_that_nobody_asked_for_is_refused() {
    let mut harness = Harness::connected(1, true);
    let slot = harness.command(&capsule(write(16), &[]));
    assert_eq!(harness.fatal(&h2c_data(CID, slot, 0, &[1; 16], true)), (1, 10));
}

#[test]
fn a_ttag_of_0_is_as_good_as_any() {
    let mut harness = Harness::connected(1, true);
    let slot = harness.command(&capsule(write(16), &[]));
    assert_eq!(slot, 0);
    harness.connection.request_data(slot, &mut harness.out);
    let events = harness.feed(&h2c_data(CID, 0, 0, &[1; 16], true)).unwrap();
    assert_eq!(events, [Event::DataComplete { slot, intact: true }]);
}

#[test]
fn requested_data_that_is_not_wanted_any_more_is_discarded_and_completes() {
    let (mut harness, slot) = requested(16);
    let data = pattern(16);
    harness.feed(&h2c_data(CID, slot, 0, &data[..8], false)).unwrap();
    harness.connection.discard_data(slot);
    let events = harness.feed(&h2c_data(CID, slot, 8, &data[8..], true)).unwrap();
    assert_eq!(events, [Event::DataComplete { slot, intact: true }]);
    assert_eq!((harness.discarded, &harness.data[&slot][8..]), (8, &[0; 8][..]));
    harness.respond(slot, &Reply::status(Status::ABORT_REQUESTED));
}

#[test]
fn padding_in_front_of_h2c_data_is_skipped() {
    let (mut harness, slot) = requested(16);
    let mut bytes = H2cData::new(CID, slot, 0, 16, true, 15).as_bytes().to_vec();
    bytes.resize(64, 0xee);
    bytes.extend(pattern(16));
    let events = harness.feed_by(&bytes, &mut std::iter::repeat(1)).unwrap();
    assert_eq!(events, [Event::DataComplete { slot, intact: true }]);
    assert_eq!(harness.data[&slot], pattern(16));
}

#[test]
fn with_flow_control_a_read_ends_with_its_response() {
    let mut harness = Harness::connected(1, true);
    let slot = harness.command(&read(4096));
    harness.out.clear();
    let end = harness.connection.data_header(slot, &[0; 4096], &Reply::SUCCESS, &mut harness.out);
    assert!(end.has_response());
    let pdu = C2hData::read_from_bytes(&harness.out).unwrap();
    assert_eq!(pdu.header.as_bytes(), [7, 4, 24, 24, 24, 16, 0, 0]);
    assert_eq!((pdu.cccid.get(), pdu.datao.get(), pdu.datal.get()), (CID, 0, 4096));
    assert_eq!(harness.connection.commands_outstanding(), 1);
    harness.out.clear();
    harness.connection.data_end(end, &mut harness.out);
    assert_eq!(CapsuleResp::read_from_bytes(&harness.out).unwrap().entry.cid.get(), CID);
    assert_eq!(harness.connection.commands_outstanding(), 0);
}

#[test]
fn success_rides_on_the_data_only_without_flow_control_and_when_the_completion_says_nothing_else() {
    let status = |status| Reply::status(status);
    for (flow_control, reply, success) in [
        (false, Reply::SUCCESS, true),
        (true, Reply::SUCCESS, false),
        (false, Reply { result: 1, ..Reply::SUCCESS }, false),
        (false, Reply { result: 1 << 32, ..Reply::SUCCESS }, false),
        (false, status(Status::UNRECOVERED_READ_ERROR), false),
        (false, status(Status::SUCCESS.with_more()), false),
        (true, status(Status::UNRECOVERED_READ_ERROR), false),
    ] {
        let mut harness = Harness::connected(1, flow_control);
        let slot = harness.command(&read(512));
        harness.out.clear();
        let end = harness.connection.data_header(slot, &[0; 512], &reply, &mut harness.out);
        assert_eq!(end.has_response(), !success);
        let pdu = C2hData::read_from_bytes(&harness.out).unwrap();
        assert_eq!(pdu.header.flags, if success { 0b1100 } else { 0b0100 });
        assert_eq!(harness.connection.commands_outstanding(), usize::from(!success));
        harness.out.clear();
        harness.connection.data_end(end, &mut harness.out);
        assert_eq!(harness.out.len(), if success { 0 } else { 24 });
        assert_eq!(harness.connection.commands_outstanding(), 0);
    }
}

#[test]
fn data_for_the_host_is_padded_only_when_the_host_asked_for_alignment() {
    for hpda in 0..=31 {
        let mut harness = Harness::initialized(hpda).connect(1, false);
        let slot = harness.command(&read(100));
        harness.out.clear();
        let end = harness.connection.data_header(slot, &[0; 100], &Reply::SUCCESS, &mut harness.out);
        assert!(!end.has_response());
        let (pdu, padding) = C2hData::ref_from_prefix(&harness.out).unwrap();
        let alignment = 4 * (usize::from(hpda) + 1);
        assert_eq!(usize::from(pdu.header.pdo), 24_usize.next_multiple_of(alignment));
        assert_eq!(24 + padding.len(), usize::from(pdu.header.pdo));
        assert!(padding.iter().all(|byte| *byte == 0));
        assert_eq!(pdu.header.plen.get() as usize, 24 + padding.len() + 100);
    }
}
