//! Zones: reports, appends with the LBA that they give, writes at the write pointer and elsewhere, state changes.

use gangway_driver::controller::Namespace;
use gangway_spec::opcode::zns as opcodes;
use gangway_spec::zns::{
    ZoneDescriptor, ZoneReportHeader, ZoneState, ZonedLbaFormatExtension, receive, send,
};
use gangway_spec::{Status, SubmissionQueueEntry, nvm, opcode};
use zerocopy::FromBytes;

use super::{Outcome, Queue, command, expect, expect_bytes, pattern};

pub(super) fn check(queue: &mut Queue, namespace: &Namespace, longest: u32) -> Outcome<()> {
    let (Some(zoned), Some(identify), Some(format)) =
        (&namespace.zoned, &namespace.identify, namespace.format)
    else {
        return Err("it does not say how its zones are".into());
    };
    let ZonedLbaFormatExtension { zsze, .. } = zoned.lbafe[identify.lba_format_index()];
    let (nsid, block) = (namespace.nsid, format.block_size as usize);
    let mut reset = SubmissionQueueEntry::new(opcodes::ZONE_MANAGEMENT_SEND);
    reset.nsid.set(nsid);
    reset.cdw13.set(u32::from(send::RESET) | send::SELECT_ALL);
    queue.tell("Reset of all zones", &reset)?;
    let zones = report(queue, nsid, 0)?;
    expect("number of zones", identify.nsze.get() / zsze.get(), zones.len() as u64)?;
    for zone in &zones {
        expect(
            "a zone after its reset",
            (ZoneState::EMPTY, zone.zslba.get()),
            (zone.state(), zone.wp.get()),
        )?;
    }
    let zone = zones.last().ok_or("no zones")?;
    let (first, capacity) = (zone.zslba.get(), zone.zcap.get());

    // Appends of all lengths, each where the last one ended.
    let mut wp = first;
    let mut written = Vec::new();
    let most = (longest as usize / block).min(capacity as usize / 4) as u32;
    for blocks in [1, 3, 8, 9, most] {
        let append = command(opcodes::ZONE_APPEND, nsid, first, blocks);
        let data = pattern(wp, blocks as usize * block);
        let done = queue.write(&append, &data, 0)?;
        expect("Zone Append", Status::SUCCESS, done.entry.status())?;
        expect("the LBA that Zone Append gives", wp, done.entry.result())?;
        wp += u64::from(blocks);
        written.extend_from_slice(&data);
    }
    let write = command(opcode::nvm::WRITE, nsid, wp, 2);
    let data = pattern(wp, 2 * block);
    expect("Write at the write pointer", Status::SUCCESS, queue.write(&write, &data, 0)?.entry.status())?;
    wp += 2;
    written.extend_from_slice(&data);
    let status = queue.write(&command(opcode::nvm::WRITE, nsid, first, 1), &data[..block], 0)?.entry.status();
    expect("Write behind the write pointer, refused", true, status.is(Status::ZONE_INVALID_WRITE))?;

    for (at, piece) in written.chunks(16 * block).enumerate() {
        let read = command(opcode::nvm::READ, nsid, first + at as u64 * 16, (piece.len() / block) as u32);
        let (status, found) = queue.read(&read, piece.len(), 0)?;
        expect("Read", Status::SUCCESS, status)?;
        expect_bytes("what was appended", piece, &found)?;
    }
    expect_state(queue, nsid, first, ZoneState::IMPLICITLY_OPENED, Some(wp))?;
    change(queue, nsid, first, send::CLOSE)?;
    expect_state(queue, nsid, first, ZoneState::CLOSED, Some(wp))?;
    change(queue, nsid, first, send::OPEN)?;
    expect_state(queue, nsid, first, ZoneState::EXPLICITLY_OPENED, Some(wp))?;
    change(queue, nsid, first, send::FINISH)?;
    expect_state(queue, nsid, first, ZoneState::FULL, None)?;
    let append = command(opcodes::ZONE_APPEND, nsid, first, 1);
    let status = queue.write(&append, &pattern(1, block), 0)?.entry.status();
    expect("Zone Append to a full zone, refused", true, status.is(Status::ZONE_IS_FULL))?;
    change(queue, nsid, first, send::RESET)?;
    expect_state(queue, nsid, first, ZoneState::EMPTY, Some(first))
}

fn change(queue: &mut Queue, nsid: u32, zone: u64, action: u8) -> Outcome<()> {
    let mut entry = SubmissionQueueEntry::new(opcodes::ZONE_MANAGEMENT_SEND);
    entry.nsid.set(nsid);
    nvm::set_slba(&mut entry, zone);
    entry.cdw13.set(u32::from(action));
    queue.tell(&format!("Zone Management Send {action:#04x}"), &entry)
}

fn expect_state(queue: &mut Queue, nsid: u32, slba: u64, state: ZoneState, wp: Option<u64>) -> Outcome<()> {
    let zones = report(queue, nsid, slba)?;
    let zone = zones.first().ok_or("the zone is not reported")?;
    expect("state of the zone", state, zone.state())?;
    wp.map_or(Ok(()), |wp| expect("write pointer of the zone", wp, zone.wp.get()))
}

/// The zones from the one at `slba` on.
fn report(queue: &mut Queue, nsid: u32, slba: u64) -> Outcome<Vec<ZoneDescriptor>> {
    let len = queue.pair.max_transfer().min(64 << 10);
    let mut entry = SubmissionQueueEntry::new(opcodes::ZONE_MANAGEMENT_RECEIVE);
    entry.nsid.set(nsid);
    nvm::set_slba(&mut entry, slba);
    entry.cdw12.set((len / 4 - 1) as u32);
    entry.cdw13.set(receive::PARTIAL | u32::from(receive::REPORT));
    let (status, data) = queue.read(&entry, len, 0)?;
    expect("Zone Management Receive", Status::SUCCESS, status)?;
    let (header, rest) = ZoneReportHeader::ref_from_prefix(&data).map_err(|_| "a report without head")?;
    let zones = rest.chunks_exact(size_of::<ZoneDescriptor>()).take(header.nzones.get() as usize);
    let zones: Vec<ZoneDescriptor> =
        zones.filter_map(|zone| ZoneDescriptor::read_from_bytes(zone).ok()).collect();
    expect("number of zones in the report", header.nzones.get(), zones.len() as u64)?;
    Ok(zones)
}
