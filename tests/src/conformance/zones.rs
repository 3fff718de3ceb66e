//! The zone state machine, appends and reports.

use gangway_spec::SubmissionQueueEntry;
use gangway_spec::opcode::{nvm, zns as op};
use gangway_spec::zns::{ZoneDescriptor, send};
use zerocopy::FromBytes;

use super::{Data, Subject, command, digest, status};
use crate::drive_check::Outcome;

/// Zones that are looked at.
const ZONES: usize = 5;

const ACTIONS: [(&str, u8); 5] = [
    ("open", send::OPEN),
    ("close", send::CLOSE),
    ("finish", send::FINISH),
    ("reset", send::RESET),
    ("offline", send::OFFLINE),
];

fn act(slba: u64, action: u8, flags: u32) -> SubmissionQueueEntry {
    let mut entry = command(op::ZONE_MANAGEMENT_SEND, slba, 1);
    entry.cdw12.set(0);
    entry.cdw13.set(flags | u32::from(action));
    entry
}

fn report(slba: u64, len: u32, cdw13: u32) -> SubmissionQueueEntry {
    let mut entry = command(op::ZONE_MANAGEMENT_RECEIVE, slba, 1);
    entry.cdw12.set(len / 4 - 1);
    entry.cdw13.set(cdw13);
    entry
}

/// The state and write pointer of the first zones; the pointer only where it has a meaning.
fn states(subject: &mut Subject) -> Outcome<String> {
    let len = 64 * (ZONES + 1);
    let done = subject.io(&report(0, len as u32, 0), Data::In(len), 0)?;
    let zones =
        done.data.bytes()[64..].chunks_exact(64).filter_map(|it| ZoneDescriptor::read_from_bytes(it).ok());
    let zones = zones.map(|zone| match zone.zs >> 4 {
        state @ (0xd..=0xf) => format!("{state:x}"),
        state => format!("{state:x}@{}", zone.wp.get()),
    });
    Ok(zones.collect::<Vec<_>>().join(" "))
}

/// Runs a command and notes its status, its result, and the zones afterwards.
fn step(subject: &mut Subject, case: &str, entry: &SubmissionQueueEntry, data: Data<'_>) -> Outcome<()> {
    let done = subject.io(entry, data, 0)?;
    let zones = states(subject)?;
    let answer = format!("{} result {:x} zones {zones}", status(done.entry.status()), done.entry.result());
    subject.note(format!("zone: {case}"), answer);
    Ok(())
}

pub(super) fn run(subject: &mut Subject) -> Outcome<()> {
    let (block, blocks) = (subject.block_size(), subject.blocks());
    let format = subject.namespace.identify.as_ref().map_or(0, |identify| identify.lba_format_index());
    let Some(zoned) = &subject.namespace.zoned else { return Ok(()) };
    let size = zoned.lbafe[format].zsze.get();
    let one = vec![5; block];
    let done = subject.io(&report(0, 4096, 0), Data::In(4096), 0)?;
    let capacity =
        ZoneDescriptor::read_from_bytes(&done.data.bytes()[64..128]).map_or(0, |zone| zone.zcap.get());
    subject.note("zone: the first report", digest(done.data.bytes()));

    // Each action in each state.
    type Prepare = (&'static str, &'static [u8], bool);
    let prepared: [Prepare; 5] = [
        ("empty", &[], false),
        ("implicitly open", &[], true),
        ("explicitly open", &[send::OPEN], false),
        ("closed", &[send::CLOSE], true),
        ("full", &[send::FINISH], false),
    ];
    for (state, actions, written) in prepared {
        for (name, action) in ACTIONS {
            subject.io(&act(0, send::RESET, send::SELECT_ALL), Data::None, 0)?;
            if written {
                subject.io(&command(nvm::WRITE, size, 1), Data::Out(&one), 0)?;
            }
            for action in actions {
                subject.io(&act(size, *action, 0), Data::None, 0)?;
            }
            step(subject, &format!("{name} one that is {state}"), &act(size, action, 0), Data::None)?;
        }
        let write = command(nvm::WRITE, size + u64::from(written), 1);
        subject.io(&act(0, send::RESET, send::SELECT_ALL), Data::None, 0)?;
        if written {
            subject.io(&command(nvm::WRITE, size, 1), Data::Out(&one), 0)?;
        }
        for action in actions {
            subject.io(&act(size, *action, 0), Data::None, 0)?;
        }
        step(subject, &format!("write one that is {state}"), &write, Data::Out(&one))?;
        let append = command(op::ZONE_APPEND, size, 1);
        step(subject, &format!("append to one that is {state}"), &append, Data::Out(&one))?;
    }
    subject.io(&act(0, send::RESET, send::SELECT_ALL), Data::None, 0)?;
    for (case, entry) in [
        ("act within a zone", act(1, send::OPEN, 0)),
        ("act behind the last", act(blocks, send::OPEN, 0)),
        ("an action that is none", act(0, 0x77, 0)),
        ("no action", act(0, 0, 0)),
        ("write not at the pointer", command(nvm::WRITE, 1, 1)),
        ("append within a zone", command(op::ZONE_APPEND, 1, 1)),
        ("append behind the last", command(op::ZONE_APPEND, blocks, 1)),
        ("write zeroes not at the pointer", command(nvm::WRITE_ZEROES, 1, 1)),
        ("write zeroes", command(nvm::WRITE_ZEROES, 0, 4)),
        ("write uncorrectable", command(nvm::WRITE_UNCORRECTABLE, 4, 1)),
        ("read what was not written", command(nvm::READ, size + 4, 1)),
        ("read behind the last", command(nvm::READ, blocks, 1)),
    ] {
        let data = if entry.opcode == op::ZONE_MANAGEMENT_SEND
            || matches!(entry.opcode, nvm::WRITE_ZEROES | nvm::WRITE_UNCORRECTABLE)
        {
            Data::None
        } else {
            Data::Out(&one)
        };
        step(subject, case, &entry, data)?;
    }
    let two = vec![6; 2 * block];
    step(subject, "read over a boundary", &command(nvm::READ, size - 1, 2), Data::Out(&two))?;
    // To one block before the end of what a zone can be written.
    subject.io(&act(0, send::RESET, send::SELECT_ALL), Data::None, 0)?;
    let mut at = 0;
    while at + 1 < capacity {
        let many = (capacity - 1 - at).min(8);
        subject.io(&command(nvm::WRITE_ZEROES, at, many as u32), Data::None, 0)?;
        at += many;
    }
    step(subject, "write over the capacity", &command(nvm::WRITE, capacity - 1, 2), Data::Out(&two))?;
    step(subject, "append over the capacity", &command(op::ZONE_APPEND, 0, 2), Data::Out(&two))?;
    step(subject, "write the last block", &command(nvm::WRITE, capacity - 1, 1), Data::Out(&one))?;
    step(subject, "write to a full zone", &command(nvm::WRITE, capacity, 1), Data::Out(&one))?;
    limits(subject, size, &one)?;
    for (case, entry, len) in [
        ("without room for a header", report(0, 60, 0), 60),
        ("of a header alone", report(0, 64, 0), 64),
        ("from within a zone on", report(size + 1, 128, 0), 128),
        ("partial", report(0, 128, 1 << 16), 128),
        ("of empty zones", report(0, 128, 1 << 8), 128),
        ("of closed zones", report(0, 128, 4 << 8), 128),
        ("of an unknown kind", report(0, 128, 9 << 8), 128),
        ("extended", report(0, 128, 1), 128),
        ("with an unknown action", report(0, 128, 2), 128),
        ("behind the last", report(blocks, 128, 0), 128),
    ] {
        let done = subject.io(&entry, Data::In(len), 0)?;
        let zones = if done.entry.status().is_success() { done.data.bytes()[0] } else { 0 };
        subject.note(format!("zone report {case}"), format!("{} zones {zones}", status(done.entry.status())));
    }
    Ok(())
}

/// More open and active zones than there may be.
fn limits(subject: &mut Subject, size: u64, one: &[u8]) -> Outcome<()> {
    subject.io(&act(0, send::RESET, send::SELECT_ALL), Data::None, 0)?;
    for zone in 0..ZONES as u64 {
        let write = command(nvm::WRITE, zone * size, 1);
        step(subject, &format!("write to zone {zone}"), &write, Data::Out(one))?;
    }
    for zone in 0..ZONES as u64 {
        step(subject, &format!("open zone {zone}"), &act(zone * size, send::OPEN, 0), Data::None)?;
    }
    for (name, action) in [ACTIONS[1], ACTIONS[0], ACTIONS[2], ACTIONS[3], ACTIONS[4]] {
        step(subject, &format!("{name} all"), &act(0, action, send::SELECT_ALL), Data::None)?;
    }
    Ok(())
}
