//! Declared faults, seen by hand: what the drive does when it is told to misbehave.

use std::time::{Duration, Instant};

use gangway_spec::aen::AsyncEvent;
use gangway_spec::registers::{CAP, CC, CSTS};

use super::*;
use crate::emulated::{FaultCounts, FaultId};

fn flush() -> SubmissionQueueEntry {
    io_command(opcode::nvm::FLUSH, 0, 1)
}

fn with_cid(mut entry: SubmissionQueueEntry, cid: u16) -> SubmissionQueueEntry {
    entry.cid.set(cid);
    entry
}

fn abort(qid: u16, cid: u16) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode::admin::ABORT);
    entry.cid.set(0x7000);
    entry.cdw10.set(u32::from(cid) << 16 | u32::from(qid));
    entry
}

/// A drive with one I/O queue.
fn drive(options: &str) -> (Host, Queue) {
    let mut host = Host::new(options);
    let queue = host.create_queue(1);
    (host, queue)
}

fn declare(host: &Host, rule: &str) -> FaultId {
    host.probe.add_fault(rule.parse().unwrap())
}

/// Polls until a completion comes.
fn wait(queue: &mut Queue) -> CompletionQueueEntry {
    loop {
        if let Some(completion) = queue.poll() {
            return completion;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The identifiers and statuses of all completions there are.
fn all(queue: &mut Queue) -> Vec<(u16, Status)> {
    std::iter::from_fn(|| queue.poll()).map(|entry| (entry.cid.get(), entry.status())).collect()
}

#[test]
fn a_dropped_command_never_completes_and_those_around_it_do() {
    let (host, mut queue) = drive("fault=drop:flush:nth=2");
    for cid in 1..=3 {
        queue.put(&with_cid(flush(), cid));
    }
    queue.ring();
    assert_eq!(all(&mut queue), [(1, Status::SUCCESS), (3, Status::SUCCESS)]);
    assert_eq!((host.probe.commands_held(), host.probe.violations()), (1, 0));
}

#[test]
fn a_dropped_write_writes_nothing_and_a_lost_one_does() {
    let (host, mut queue) = drive("block=4096");
    let mut buffer = host.buffer(PAGE, Direction::Bidirectional);
    let mut run = |rule: &str, opcode, slba, byte: u8| {
        let fault = declare(&host, rule);
        buffer.fill(byte);
        let mut entry = with_cid(io_command(opcode, slba, 1), 0x100 + slba as u16);
        entry.set_prp(buffer.iova(), 0);
        queue.submit(&entry);
        let completions = all(&mut queue).len();
        host.probe.remove_fault(fault).unwrap();
        (completions, buffer[0])
    };
    assert_eq!(run("drop:write", opcode::nvm::WRITE, 1, 7).0, 0);
    assert_eq!(run("lose:write", opcode::nvm::WRITE, 2, 8).0, 0);
    assert_eq!(run("skip:write", opcode::nvm::WRITE, 3, 9).0, 1);
    for (slba, expected) in [(1, 0), (2, 8), (3, 0)] {
        let mut entry = with_cid(io_command(opcode::nvm::READ, slba, 1), 0x200);
        buffer.fill(0xee);
        entry.set_prp(buffer.iova(), 0);
        assert_eq!(queue.run(&entry).status(), Status::SUCCESS);
        assert_eq!(buffer[0], expected, "block {slba}");
    }
    assert_eq!(host.probe.commands_held(), 1, "the drive knows nothing of a lost command any more");
}

#[test]
fn a_delayed_command_completes_after_the_delay_and_others_pass_it() {
    let (_host, mut queue) = drive("fault=delay=30ms:write-zeroes");
    let asked = Instant::now();
    queue.put(&with_cid(io_command(opcode::nvm::WRITE_ZEROES, 0, 1), 1));
    queue.put(&with_cid(flush(), 2));
    queue.ring();
    assert_eq!(wait(&mut queue).cid.get(), 2);
    assert_eq!(wait(&mut queue).cid.get(), 1);
    assert!(asked.elapsed() >= Duration::from_millis(30));
}

#[test]
fn a_reordered_command_waits_for_so_many_others_but_not_for_ever() {
    let (_host, mut queue) = drive("fault=reorder=2:nth=1");
    for cid in 1..=4 {
        queue.put(&with_cid(flush(), cid));
    }
    queue.ring();
    let order: Vec<u16> = all(&mut queue).into_iter().map(|(cid, _)| cid).collect();
    assert_eq!(order, [2, 3, 1, 4]);
    let (_host, mut queue) = drive("fault=reorder=2:nth=1");
    queue.submit(&with_cid(flush(), 1));
    assert!(queue.poll().is_none());
    assert_eq!(wait(&mut queue).cid.get(), 1);
}

#[test]
fn a_declared_status_is_given_bit_by_bit_and_stands_in_the_error_log() {
    let (mut host, mut queue) = drive("fault=status=0x281:read:lba=5,fault=status=0x1983+dnr+more:flush");
    for (slba, blocks, status) in
        [(4, 1, Status::SUCCESS), (3, 3, Status::from_bits(0x281)), (6, 2, Status::SUCCESS)]
    {
        let buffer = host.buffer(4 * PAGE, Direction::DeviceWrites);
        let mut list = host.buffer(PAGE, Direction::DeviceReads);
        for page in 1..4 {
            let entry = buffer.iova() + (page * PAGE) as u64;
            list[(page - 1) * 8..page * 8].copy_from_slice(&entry.to_le_bytes());
        }
        let mut read = io_command(opcode::nvm::READ, slba, blocks);
        let second = if blocks == 3 { list.iova() } else { buffer.iova() + PAGE as u64 };
        read.set_prp(buffer.iova(), second);
        assert_eq!(queue.run(&read).status(), status);
    }
    assert_eq!(queue.run(&flush()).status(), Status::from_bits(0x7983));
    let mut log = SubmissionQueueEntry::new(opcode::admin::GET_LOG_PAGE);
    log.cdw10.set(15 << 16 | 1);
    let log = host.admin_read(&log, 64).unwrap();
    assert_eq!(log[0], 2, "two errors so far");
}

#[test]
fn a_duplicated_completion_comes_twice() {
    let (_host, mut queue) = drive("fault=duplicate:once");
    queue.put(&with_cid(flush(), 7));
    queue.put(&with_cid(flush(), 8));
    queue.ring();
    assert_eq!(all(&mut queue).iter().map(|(cid, _)| *cid).collect::<Vec<_>>(), [7, 7, 8]);
}

#[test]
fn each_field_of_a_completion_can_be_wrong() {
    for (field, check) in [
        ("cid", (|entry| entry.cid.get() == !9) as fn(&CompletionQueueEntry) -> bool),
        ("sqid", |entry| entry.sq_id.get() == 2),
        ("sqhead", |entry| entry.sq_head.get() == ENTRIES),
        ("status", |entry| entry.status().bits() == 0x7fff),
    ] {
        let (_host, mut queue) = drive(&format!("fault=corrupt={field}:once"));
        queue.submit(&with_cid(flush(), 9));
        assert!(queue.poll().is_some_and(|entry| check(&entry)), "{field}");
        assert_eq!(queue.run(&with_cid(flush(), 10)).status(), Status::SUCCESS);
    }
    let (_host, mut queue) = drive("fault=corrupt=ones:once");
    queue.submit(&with_cid(flush(), 9));
    assert_eq!(queue.cq[..14], [0xff; 14]);
}

#[test]
fn a_wrong_phase_hides_a_completion_and_those_behind_it() {
    let (_host, mut queue) = drive("fault=corrupt=phase:once");
    queue.submit(&with_cid(flush(), 1));
    queue.submit(&with_cid(flush(), 2));
    assert!(queue.poll().is_none());
    assert_eq!(u16::from_le_bytes([queue.cq[12], queue.cq[13]]), 1, "it is there");
    assert_eq!(u16::from_le_bytes([queue.cq[28], queue.cq[29]]), 2);
}

#[test]
fn a_late_phase_is_put_right() {
    let (_host, mut queue) = drive("fault=late-phase=20ms:once");
    queue.submit(&with_cid(flush(), 1));
    queue.submit(&with_cid(flush(), 2));
    assert!(queue.poll().is_none());
    assert_eq!((wait(&mut queue).cid.get(), wait(&mut queue).cid.get()), (1, 2));
}

#[test]
fn an_abort_ends_what_is_held_before_it_completes_itself() {
    let (mut host, mut queue) = drive("fault=drop:flush:nth=1,fault=delay=3600s:write-zeroes");
    queue.put(&with_cid(flush(), 1));
    queue.put(&with_cid(io_command(opcode::nvm::WRITE_ZEROES, 0, 1), 2));
    queue.ring();
    for cid in [2, 1] {
        assert_eq!(host.admin(&abort(1, cid)).dw0.get(), 0);
        assert_eq!(all(&mut queue), [(cid, Status::ABORT_REQUESTED)]);
        assert_eq!(host.admin(&abort(1, cid)).dw0.get() & 1, 1, "it is gone");
    }
    assert_eq!(host.probe.commands_held(), 0);
}

#[test]
fn admin_commands_and_event_requests_can_be_aborted() {
    let (mut host, _queue) = drive("fault=drop:identify:once");
    host.admin.put(&with_cid(SubmissionQueueEntry::new(opcode::admin::IDENTIFY), 1));
    host.admin.put(&with_cid(SubmissionQueueEntry::new(opcode::admin::ASYNC_EVENT_REQUEST), 2));
    host.admin.ring();
    for cid in [1, 2] {
        host.admin.submit(&abort(0, cid));
        assert_eq!(all(&mut host.admin), [(cid, Status::ABORT_REQUESTED), (0x7000, Status::SUCCESS)]);
    }
    assert_eq!(host.admin(&abort(0, 3)).dw0.get(), 1);
}

#[test]
fn more_aborts_than_promised_are_refused() {
    let (mut host, _queue) = drive("fault=drop:abort");
    for index in 0..4 {
        host.admin.submit(&with_cid(abort(1, 1), index));
        assert!(host.admin.poll().is_none());
    }
    let status = host.admin(&with_cid(abort(1, 1), 4)).status();
    assert!(status.is(Status::ABORT_COMMAND_LIMIT_EXCEEDED), "{status}");
}

#[test]
fn an_abort_that_is_skipped_says_that_it_did_nothing() {
    let (mut host, mut queue) = drive("fault=drop:flush,fault=skip:abort");
    queue.submit(&with_cid(flush(), 1));
    assert_eq!(host.admin(&abort(1, 1)).dw0.get(), 1);
    assert!(queue.poll().is_none());
}

#[test]
fn deleting_the_queue_ends_its_commands() {
    let (mut host, mut queue) = drive("fault=drop:flush");
    queue.put(&with_cid(flush(), 1));
    queue.put(&with_cid(flush(), 2));
    queue.ring();
    assert!(host.admin(&delete(opcode::admin::DELETE_IO_SQ, 1)).status().is_success());
    let ended = Status::ABORTED_SQ_DELETION;
    assert_eq!(all(&mut queue), [(1, ended), (2, ended)]);
    assert!(host.admin(&delete(opcode::admin::DELETE_IO_CQ, 1)).status().is_success());
    assert_eq!(host.probe.violations(), 0);
}

#[test]
fn the_fatal_status_stops_everything_until_a_reset() {
    let (mut host, mut queue) = drive("fault=cfs:flush:nth=2");
    queue.put(&with_cid(flush(), 1));
    queue.put(&with_cid(flush(), 2));
    queue.put(&with_cid(flush(), 3));
    queue.ring();
    assert_eq!(all(&mut queue), [(1, Status::SUCCESS)]);
    assert!(host.status().cfs());
    host.admin.submit(&SubmissionQueueEntry::new(opcode::admin::IDENTIFY));
    assert!(host.admin.poll().is_none());
    host.configure(ControllerConfiguration::new());
    assert_eq!((host.status().into_bits(), host.probe.violations()), (0, 0));
}

#[test]
fn a_removed_drive_reads_as_ones_and_comes_back_disabled_with_its_data() {
    let (mut host, mut queue) = drive("fault=remove:flush");
    queue.submit(&flush());
    assert!(queue.poll().is_none());
    assert_eq!(host.function.read_register64(CAP).unwrap(), u64::MAX);
    assert_eq!(host.function.read_register32(CSTS).unwrap(), u32::MAX);
    host.configure(good_configuration());
    host.probe.put_back();
    assert_eq!(host.status().into_bits(), 0);
    assert_eq!(host.function.read_register32(CC).unwrap(), 0);
    drop(queue);
    host.probe.clear_faults();
    host.start_again();
    assert_eq!(host.create_queue(1).run(&flush()).status(), Status::SUCCESS);
    assert_eq!(host.probe.violations(), 0);
}

#[test]
fn a_drive_that_is_removed_for_a_time_comes_back_by_itself() {
    let host = Host::new("");
    host.probe.remove_for(Duration::from_millis(20));
    assert_eq!(host.function.read_register32(CSTS).unwrap(), u32::MAX);
    while host.function.read_register32(CSTS).unwrap() == u32::MAX {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(host.status().into_bits(), 0);
}

#[test]
fn readiness_can_fail_to_come_be_late_and_stay() {
    let host =
        Host::disabled("fault=not-ready:nth=1,fault=not-ready=20ms:nth=2,fault=not-disabled=20ms:nth=2");
    host.configure(good_configuration());
    assert_eq!(host.status().into_bits(), 0);
    host.configure(ControllerConfiguration::new());
    host.configure(good_configuration());
    assert_eq!(host.status().into_bits(), 0);
    while !host.status().rdy() {
        std::thread::sleep(Duration::from_millis(1));
    }
    host.configure(ControllerConfiguration::new());
    assert!(host.status().rdy());
    while host.status().rdy() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(host.probe.violations(), 0);
}

#[test]
fn a_controller_that_does_not_get_disabled_works_on() {
    let (host, mut queue) = drive("fault=not-disabled");
    host.configure(ControllerConfiguration::new());
    assert!(host.status().rdy());
    assert_eq!(queue.run(&flush()).status(), Status::SUCCESS);
}

#[test]
fn an_event_can_be_declared_for_a_command_and_raised_by_hand() {
    let (mut host, mut queue) = drive("fault=event=spare:flush:once");
    for cid in 0..2 {
        host.admin.submit(&with_cid(SubmissionQueueEntry::new(opcode::admin::ASYNC_EVENT_REQUEST), cid));
    }
    assert_eq!(queue.run(&flush()).status(), Status::SUCCESS);
    let event = |completion: CompletionQueueEntry| AsyncEvent::from_dw0(completion.dw0.get());
    assert_eq!(event(host.admin.poll().unwrap()), AsyncEvent::new(1, 2, 2));
    host.probe.raise_event(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED);
    assert_eq!(event(host.admin.poll().unwrap()), AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED);
}

#[test]
fn faults_are_counted_and_can_be_withdrawn() {
    let (host, mut queue) = drive("");
    let fault = declare(&host, "status=0x6:flush:every=2");
    let failed: Vec<bool> = (0..4).map(|_| !queue.run(&flush()).status().is_success()).collect();
    assert_eq!(failed, [true, false, true, false]);
    let counts = FaultCounts { matched: 4, fired: 2 };
    assert_eq!(host.probe.fault_counts(fault), Some(counts));
    assert_eq!(host.probe.remove_fault(fault), Some(counts));
    assert_eq!((host.probe.fault_counts(fault), host.probe.remove_fault(fault)), (None, None));
    assert_eq!(queue.run(&flush()).status(), Status::SUCCESS);
}

#[test]
fn a_fault_may_wait_for_the_drive_to_have_an_age() {
    let (_host, mut queue) = drive("fault=status=0x6:after=3600s");
    assert_eq!(queue.run(&flush()).status(), Status::SUCCESS);
}

#[test]
fn a_bit_of_what_is_read_can_be_wrong() {
    let (mut host, mut queue) = drive("size=1MiB,fault=flip=8005:read:once,fault=flip:identify:nth=2");
    let sink = host.buffer(PAGE, Direction::DeviceWrites);
    let mut read = io_command(opcode::nvm::READ, 0, 1);
    read.set_prp(sink.iova(), 0);
    assert_eq!(queue.run(&read).status(), Status::SUCCESS);
    let wrong: Vec<_> = (0..PAGE).filter(|&at| sink[at] != 0).map(|at| (at, sink[at])).collect();
    assert_eq!(wrong, [(1000, 1 << 5)]);
    assert_eq!(queue.run(&read).status(), Status::SUCCESS);
    assert!(sink.iter().all(|&byte| byte == 0));
    let (good, bad) = (host.identify(1, 0).unwrap(), host.identify(1, 0).unwrap());
    assert_eq!((good[0] ^ bad[0], &good[1..]), (1, &bad[1..]));
    assert_eq!(host.probe.violations(), 0);
}

#[test]
fn a_drive_that_moves_too_much_is_stopped_by_the_iommu() {
    let (host, mut queue) = drive("size=1MiB,block=512,sgl,fault=overrun=5000");
    let poison = host.domain.poison_iova();
    let sink = host.buffer(PAGE, Direction::DeviceWrites);
    let mut read = io_command(opcode::nvm::READ, 0, 1);
    read.set_prp(sink.iova(), poison);
    assert!(queue.run(&read).status().is(Status::DATA_TRANSFER_ERROR));
    assert!(sink[..512].iter().all(|&byte| byte == 0), "the data was there before");
    let mut write = io_command(opcode::nvm::WRITE, 0, 1);
    let source = host.buffer(PAGE, Direction::DeviceReads);
    write.set_prp(source.iova(), poison);
    assert!(queue.run(&write).status().is(Status::DATA_TRANSFER_ERROR));
    assert!(host.probe.violations() >= 2);
    let before = host.probe.violations();
    let mut sgl = io_command(opcode::nvm::READ, 0, 1);
    sgl.set_prp(sink.iova(), 512);
    sgl.set_psdt(gangway_spec::command::PSDT_SGL);
    assert!(queue.run(&sgl).status().is(Status::DATA_SGL_LENGTH_INVALID));
    assert_eq!(host.probe.violations(), before);
}
