//! I/O commands on blocks.

use gangway_spec::opcode::{nvm as op, zns};
use gangway_spec::{SubmissionQueueEntry, nvm};
use zerocopy::IntoBytes;

use super::{Data, Subject, command, digest, status};
use crate::drive_check::Outcome;

/// Commands with cases of their own.
const APART: [u8; 4] = [op::READ, op::WRITE, op::COMPARE, op::DATASET_MANAGEMENT];
/// Of other parts of the specification: zones, reservations, I/O management.
const OTHERS: [u8; 10] = [
    gangway_spec::opcode::admin::FABRICS,
    zns::ZONE_MANAGEMENT_SEND,
    zns::ZONE_MANAGEMENT_RECEIVE,
    zns::ZONE_APPEND,
    op::RESERVATION_REGISTER,
    op::RESERVATION_REPORT,
    op::RESERVATION_ACQUIRE,
    op::RESERVATION_RELEASE,
    op::IO_MANAGEMENT_RECEIVE,
    op::IO_MANAGEMENT_SEND,
];

pub(super) fn run(subject: &mut Subject) -> Outcome<()> {
    let (block, blocks) = (subject.block_size(), subject.blocks());
    // Interleaved metadata makes blocks longer on their way; a buffer of its own is left out where nothing is checked.
    let metadata = subject
        .namespace
        .format
        .map_or(0, |format| if format.interleaved { format.metadata_size as usize } else { 0 });
    let len = block + metadata;
    if metadata == 0 && subject.namespace.format.is_some_and(|format| format.metadata_size > 0) {
        return Ok(());
    }
    for opcode in (0..=u8::MAX).filter(|opcode| !APART.contains(opcode)) {
        if OTHERS.contains(&opcode) || opcode == op::COPY {
            continue;
        }
        let mut entry = SubmissionQueueEntry::new(opcode);
        entry.nsid.set(1);
        subject.try_io(format!("io opcode {opcode:02x}"), &entry, Data::of(opcode))?;
    }
    for nsid in [0, 1, 2, 0x1000, 0xffff_fffe, u32::MAX] {
        for opcode in [op::READ, op::WRITE, op::FLUSH, op::WRITE_ZEROES, op::VERIFY] {
            let mut entry = command(opcode, 0, 1);
            entry.nsid.set(nsid);
            let data = if matches!(opcode, op::READ | op::WRITE) { Data::In(len) } else { Data::None };
            subject.try_io(format!("io opcode {opcode:02x} nsid {nsid:x}"), &entry, data)?;
        }
    }
    for opcode in [op::READ, op::WRITE, op::COMPARE, op::WRITE_ZEROES, op::VERIFY, op::WRITE_UNCORRECTABLE] {
        for (what, slba) in [
            ("the last block", blocks - 1),
            ("behind the last", blocks),
            ("2^32 behind", blocks + (1 << 32)),
            ("the largest number", u64::MAX),
        ] {
            let data =
                if matches!(opcode, op::READ | op::WRITE | op::COMPARE) { Data::In(len) } else { Data::None };
            subject.try_io(format!("io opcode {opcode:02x} at {what}"), &command(opcode, slba, 1), data)?;
        }
        // The second block is outside.
        let data = Data::In(2 * len);
        let data = if matches!(opcode, op::READ | op::WRITE | op::COMPARE) { data } else { Data::None };
        subject.try_io(
            format!("io opcode {opcode:02x} over the end"),
            &command(opcode, blocks - 1, 2),
            data,
        )?;
    }
    subject.try_io(
        "write what was uncorrectable",
        &command(op::WRITE, blocks - 1, 1),
        Data::Out(&vec![0; len]),
    )?;
    for flags in 1..=3 {
        let entry = SubmissionQueueEntry { flags, ..command(op::READ, 0, 1) };
        subject.try_io(format!("read fuse {flags}"), &entry, Data::In(len))?;
    }
    for (what, bits) in [("fua", 1 << 30), ("lr", 1 << 31), ("dtype 1", 1 << 20)] {
        for opcode in [op::READ, op::WRITE] {
            let mut entry = command(opcode, 0, 1);
            entry.cdw12.set(entry.cdw12.get() | bits);
            subject.try_io(format!("io opcode {opcode:02x} {what}"), &entry, Data::In(len))?;
        }
    }
    contents(subject, len)?;
    deallocation(subject, len)?;
    copy(subject, len)
}

fn contents(subject: &mut Subject, len: usize) -> Outcome<()> {
    let bytes: Vec<u8> = (0..4 * len).map(|at| (at * 7 + at / 251) as u8).collect();
    let read = |subject: &mut Subject, what: &str| -> Outcome<()> {
        let done = subject.io(&command(op::READ, 8, 4), Data::In(4 * len), 0)?;
        let answer = format!("{} {}", status(done.entry.status()), digest(done.data.bytes()));
        subject.note(format!("read {what}"), answer);
        Ok(())
    };
    subject.try_io("write four blocks", &command(op::WRITE, 8, 4), Data::Out(&bytes))?;
    read(subject, "after the write")?;
    subject.try_io("compare what is equal", &command(op::COMPARE, 8, 4), Data::Out(&bytes))?;
    let mut other = bytes.clone();
    other[3 * len] ^= 1;
    subject.try_io("compare what is not", &command(op::COMPARE, 8, 4), Data::Out(&other))?;
    subject.try_io("verify", &command(op::VERIFY, 8, 4), Data::None)?;
    subject.try_io("zero one block", &command(op::WRITE_ZEROES, 9, 1), Data::None)?;
    read(subject, "after one block was zeroed")?;
    let mut deallocate = command(op::WRITE_ZEROES, 8, 4);
    deallocate.cdw12.set(deallocate.cdw12.get() | 1 << 25);
    subject.try_io("zero with deallocate", &deallocate, Data::None)?;
    read(subject, "after all were zeroed")
}

fn deallocation(subject: &mut Subject, len: usize) -> Outcome<()> {
    subject.try_io("write one block", &command(op::WRITE, 20, 1), Data::Out(&vec![7; len]))?;
    let blocks = subject.blocks();
    for (what, ranges, attributes) in [
        ("a block", vec![(20, 1)], 4),
        ("nothing", vec![(0, 0)], 4),
        ("what is outside", vec![(blocks, 1)], 4),
        ("what leaves it", vec![(blocks - 1, 2)], 4),
        ("hints outside", vec![(blocks, 1)], 1),
        ("hints alone", vec![(0, 1)], 3),
    ] {
        let ranges: Vec<nvm::DatasetManagementRange> =
            ranges.into_iter().map(|(slba, length)| nvm::DatasetManagementRange::new(slba, length)).collect();
        let mut entry = SubmissionQueueEntry::new(op::DATASET_MANAGEMENT);
        entry.nsid.set(1);
        entry.cdw10.set(ranges.len() as u32 - 1);
        entry.cdw11.set(attributes);
        subject.try_io(format!("dataset management of {what}"), &entry, Data::Out(ranges.as_bytes()))?;
    }
    Ok(())
}

fn copy(subject: &mut Subject, len: usize) -> Outcome<()> {
    subject.try_io("write the source", &command(op::WRITE, 30, 2), Data::Out(&vec![9; 2 * len]))?;
    let blocks = subject.blocks();
    for (what, ranges, target, bits) in [
        ("two blocks", vec![(30, 1u16)], 40, 0),
        ("from two places", vec![(31, 0), (8, 0)], 50, 0),
        ("from outside", vec![(blocks, 0)], 40, 0),
        ("to outside", vec![(30, 1)], blocks - 1, 0),
        ("more than a range may have", vec![(0, 128)], 200, 0),
        ("more than all may have", vec![(0, 100), (0, 100)], 400, 0),
        ("in format 2", vec![(30, 1)], 40, 2 << 8),
        ("in format 15", vec![(30, 1)], 40, 15 << 8),
    ] {
        let ranges: Vec<nvm::CopyRange> = ranges
            .into_iter()
            .map(|(slba, nlb): (u64, u16)| nvm::CopyRange {
                slba: slba.into(),
                nlb: nlb.into(),
                ..Default::default()
            })
            .collect();
        let mut entry = SubmissionQueueEntry::new(op::COPY);
        entry.nsid.set(1);
        nvm::set_slba(&mut entry, target);
        entry.cdw12.set((ranges.len() as u32 - 1) | bits);
        subject.try_io(format!("copy {what}"), &entry, Data::Out(ranges.as_bytes()))?;
    }
    let done = subject.io(&command(op::READ, 40, 2), Data::In(2 * len), 0)?;
    subject.note("read the copy", digest(done.data.bytes()));
    Ok(())
}
