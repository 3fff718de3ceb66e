//! I/O commands that are wrong, and commands that take their time.

use gangway_spec::nvm::{DatasetManagementRange, dsm};

use super::*;

/// A command and a change to it.
fn with(
    mut entry: SubmissionQueueEntry,
    change: impl FnOnce(&mut SubmissionQueueEntry),
) -> SubmissionQueueEntry {
    change(&mut entry);
    entry
}

#[test]
fn each_wrong_command_gets_its_status() {
    let mut host = Host::new("size=1MiB,block=512,namespaces=2,mdts=2");
    let mut queue = host.create_queue(1);
    let buffer = host.buffer(8 * PAGE, Direction::Bidirectional);
    let iova = buffer.iova();
    let poison = host.domain.poison_iova();
    let page = PAGE as u64;
    let read =
        |slba, blocks| with(io_command(opcode::nvm::READ, slba, blocks), |entry| entry.set_prp(iova, 0));
    for (entry, status) in [
        (read(2048, 1), Status::LBA_OUT_OF_RANGE),
        (read(2047, 2), Status::LBA_OUT_OF_RANGE),
        (read(u64::MAX, 1), Status::LBA_OUT_OF_RANGE),
        (read(u64::MAX - 1, 65536), Status::LBA_OUT_OF_RANGE),
        (read(0, 33), Status::INVALID_FIELD),
        (with(read(0, 1), |entry| entry.nsid.set(0)), Status::INVALID_NAMESPACE_OR_FORMAT),
        (with(read(0, 1), |entry| entry.nsid.set(3)), Status::INVALID_NAMESPACE_OR_FORMAT),
        (with(read(0, 1), |entry| entry.nsid.set(u32::MAX)), Status::INVALID_NAMESPACE_OR_FORMAT),
        (with(read(0, 1), |entry| entry.flags = 1), Status::INVALID_FIELD),
        (with(read(0, 1), |entry| entry.flags = 2), Status::INVALID_FIELD),
        (with(read(0, 1), |entry| entry.flags = 0x40), Status::INVALID_FIELD),
        (with(read(0, 1), |entry| entry.set_prp(iova + 1, 0)), Status::INVALID_PRP_OFFSET),
        (with(read(0, 1), |entry| entry.set_prp(iova + 2, 0)), Status::INVALID_PRP_OFFSET),
        (with(read(0, 16), |entry| entry.set_prp(iova, iova + page + 4)), Status::INVALID_PRP_OFFSET),
        (with(read(0, 32), |entry| entry.set_prp(iova, iova + page + 4)), Status::INVALID_PRP_OFFSET),
        (with(read(0, 1), |entry| entry.set_prp(poison, 0)), Status::DATA_TRANSFER_ERROR),
        (with(read(0, 16), |entry| entry.set_prp(iova, poison)), Status::DATA_TRANSFER_ERROR),
        (with(read(0, 32), |entry| entry.set_prp(iova, poison)), Status::DATA_TRANSFER_ERROR),
        (with(read(0, 1), |entry| entry.set_prp(0, 0)), Status::DATA_TRANSFER_ERROR),
        (with(read(0, 1), |entry| entry.set_prp(u64::MAX - 3, 0)), Status::DATA_TRANSFER_ERROR),
        (with(read(0, 1), |entry| entry.opcode = opcode::zns::ZONE_APPEND), Status::INVALID_OPCODE),
        (with(read(0, 1), |entry| entry.opcode = 0x80), Status::INVALID_OPCODE),
        (
            with(io_command(opcode::nvm::WRITE, 0, 1), |entry| {
                entry.set_prp(iova, 0);
                entry.cdw12.set(1 << 20);
            }),
            Status::INVALID_FIELD,
        ),
        (io_command(opcode::nvm::WRITE_ZEROES, 2000, 49), Status::LBA_OUT_OF_RANGE),
        (io_command(opcode::nvm::VERIFY, 2000, 49), Status::LBA_OUT_OF_RANGE),
        (with(io_command(opcode::nvm::FLUSH, 0, 1), |e| e.nsid.set(3)), Status::INVALID_NAMESPACE_OR_FORMAT),
    ] {
        let found = queue.run(&entry).status();
        assert!(found.is(status) && found.dnr(), "{}: {found} instead of {status}", entry.display_io());
    }
    assert_eq!(
        queue.run(&with(io_command(opcode::nvm::FLUSH, 0, 1), |e| e.nsid.set(u32::MAX))).status(),
        Status::SUCCESS
    );
    assert_eq!(host.probe.violations(), 5, "accesses to memory that is not mapped");
    assert!(!host.status().cfs());
}

#[test]
fn dma_against_the_direction_of_a_mapping_fails_and_is_counted() {
    let mut host = Host::new("size=1MiB");
    let mut queue = host.create_queue(1);
    let readable = host.buffer(PAGE, Direction::DeviceReads);
    let writable = host.buffer(PAGE, Direction::DeviceWrites);
    let run = |queue: &mut Queue, opcode, iova| {
        queue.run(&with(io_command(opcode, 0, 1), |entry| entry.set_prp(iova, 0))).status()
    };
    assert_eq!(run(&mut queue, opcode::nvm::WRITE, readable.iova()), Status::SUCCESS);
    assert_eq!(run(&mut queue, opcode::nvm::READ, writable.iova()), Status::SUCCESS);
    assert_eq!(host.probe.violations(), 0);
    assert!(run(&mut queue, opcode::nvm::READ, readable.iova()).is(Status::DATA_TRANSFER_ERROR));
    assert!(run(&mut queue, opcode::nvm::WRITE, writable.iova()).is(Status::DATA_TRANSFER_ERROR));
    assert!(run(&mut queue, opcode::nvm::COMPARE, writable.iova()).is(Status::DATA_TRANSFER_ERROR));
    assert_eq!(host.probe.violations(), 3);
}

#[test]
fn a_slow_drive_moves_data_when_the_command_completes() {
    let mut host = Host::new("latency=20ms,size=1MiB");
    let mut queue = host.create_queue(1);
    let mut buffer = host.buffer(PAGE, Direction::Bidirectional);
    let write = with(io_command(opcode::nvm::WRITE, 0, 1), |entry| entry.set_prp(buffer.iova(), 0));
    buffer.fill(1);
    queue.submit(&write);
    assert!(queue.poll().is_none());
    // The drive fetches the data late, as a slow one may.
    buffer.fill(2);
    let completion = loop {
        if let Some(completion) = queue.poll() {
            break completion;
        }
    };
    assert_eq!(completion.status(), Status::SUCCESS);
    buffer.fill(0);
    queue.submit(&with(write, |entry| entry.opcode = opcode::nvm::READ));
    while queue.poll().is_none() {}
    assert!(buffer.iter().all(|byte| *byte == 2));
}

#[test]
fn a_command_identifier_in_use_is_a_conflict() {
    let mut host = Host::new("latency=3600s");
    let mut queue = host.create_queue(1);
    let flush = with(io_command(opcode::nvm::FLUSH, 0, 1), |entry| entry.cid.set(9));
    queue.submit(&flush);
    assert!(queue.poll().is_none());
    assert!(queue.run(&flush).status().is(Status::CID_CONFLICT));
}

#[test]
fn a_slow_drive_answers_in_order_and_completes_everything() {
    let mut host = Host::new("latency=1ms");
    let mut queue = host.create_queue(1);
    let mut next = 0u16;
    let mut seen = 0u16;
    while seen < 200 {
        while next < 200 && next - seen < ENTRIES - 1 {
            queue.put(&with(io_command(opcode::nvm::FLUSH, 0, 1), |entry| entry.cid.set(next)));
            next += 1;
        }
        queue.ring();
        while let Some(completion) = queue.poll() {
            assert_eq!((completion.cid.get(), completion.status()), (seen, Status::SUCCESS));
            seen += 1;
        }
    }
    assert_eq!(host.probe.violations(), 0);
}

#[test]
fn a_bad_range_leaves_the_others_as_they_were() {
    let mut host = Host::new("size=1MiB");
    let mut queue = host.create_queue(1);
    let mut buffer = host.buffer(PAGE, Direction::Bidirectional);
    buffer.fill(0x77);
    let iova = buffer.iova();
    let with_data = |entry| with(entry, |entry: &mut SubmissionQueueEntry| entry.set_prp(iova, 0));
    assert_eq!(queue.run(&with_data(io_command(opcode::nvm::WRITE, 3, 1))).status(), Status::SUCCESS);
    let ranges = [DatasetManagementRange::new(3, 1), DatasetManagementRange::new(255, 2)];
    buffer[..32].copy_from_slice(ranges.as_bytes());
    let deallocate = |count: u32| {
        with(SubmissionQueueEntry::new(opcode::nvm::DATASET_MANAGEMENT), |entry| {
            entry.nsid.set(1);
            entry.cdw10.set(count - 1);
            entry.cdw11.set(dsm::DEALLOCATE);
            entry.set_prp(iova, 0);
        })
    };
    assert!(queue.run(&deallocate(2)).status().is(Status::LBA_OUT_OF_RANGE));
    assert_eq!(queue.run(&with_data(io_command(opcode::nvm::READ, 3, 1))).status(), Status::SUCCESS);
    assert!(buffer.iter().all(|byte| *byte == 0x77));
    buffer[..32].copy_from_slice(ranges.as_bytes());
    assert_eq!(queue.run(&deallocate(1)).status(), Status::SUCCESS);
    assert_eq!(queue.run(&with_data(io_command(opcode::nvm::READ, 3, 1))).status(), Status::SUCCESS);
    assert!(buffer.iter().all(|byte| *byte == 0));
}
