//! Abort: of commands that wait in the target, that the drive has, and that are none of the host's.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::time::{Duration, Instant};

use gangway_bridge::{HostPolicies, Policy};
use gangway_driver::emulated::{EmulatedConfig, FaultAction, FaultRule};
use gangway_fabric::host::client::{AdminQueue, IoQueue, Transfer};
use gangway_spec::log::lid;
use gangway_spec::opcode::{admin, nvm};
use gangway_spec::{CompletionQueueEntry, Status, SubmissionQueueEntry};
use gangway_tests::wire::{self, Wire};
use gangway_tests::{
    Bystander, Setup, TestTarget, command, eventually, identity, pattern, subsystem, use_all_memory,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A target whose drive has these faults.
fn target(faults: &[&str]) -> TestTarget {
    let target = TestTarget::start();
    for fault in faults {
        target.probes[0].add_fault(fault.parse::<FaultRule>().unwrap());
    }
    target
}

/// Submits a read of one block and waits until the drive has it.
fn read_with_drive(target: &TestTarget, queue: &mut IoQueue, lba: u64) -> u16 {
    let before = target.probes[0].commands_held();
    let tag = queue.submit(&command(nvm::READ, lba, 1), Transfer::Read(4096)).unwrap();
    queue.flush().unwrap();
    eventually("the drive has the command", || target.probes[0].commands_held() > before);
    queue.queue().cid(tag)
}

fn status(queue: &mut IoQueue) -> Status {
    queue.wait(PATIENCE).unwrap().expect("a completion in time").entry.status()
}

#[test]
fn a_command_that_the_drive_has_is_aborted_there() {
    let target = target(&["drop:read:lba=5"]);
    let (mut admin, mut queue) = target.queue(1);
    let bystander = Bystander::start(&target, 2, 100);
    for round in 0..20 {
        let cid = read_with_drive(&target, &mut queue, 5);
        assert!(admin.abort(1, cid).unwrap(), "round {round}");
        // It has completed by then: Abort is answered behind it.
        let status = queue.wait(Duration::ZERO).unwrap().map(|completed| completed.entry.status());
        assert!(status.is_none_or(|status| status.is(Status::ABORT_REQUESTED)), "round {round}: {status:?}");
        if status.is_none() {
            assert!(self::status(&mut queue).is(Status::ABORT_REQUESTED), "round {round}");
        }
        assert!(!admin.abort(1, cid).unwrap(), "round {round}: there is no such command any more");
    }
    queue.read_blocks(1, 6, 1, 4096).unwrap();
    bystander.finish();
    target.assert_no_violations();
}

#[test]
fn a_drive_that_does_not_abort_is_not_said_to_have_aborted() {
    let target = target(&["delay=1s:read:lba=5", "skip:abort"]);
    let (mut admin, mut queue) = target.queue(1);
    let cid = read_with_drive(&target, &mut queue, 5);
    assert!(!admin.abort(1, cid).unwrap());
    assert!(status(&mut queue).is_success());
}

#[test]
fn a_host_cannot_abort_what_is_not_its_own() {
    let target = target(&["delay=1s:read:lba=5"]);
    let (_other_admin, mut other) = target.queue(1);
    let (mut admin, _queue) = target.queue(2);
    let (mut same_host, _) = target.queue(1);
    let cid = read_with_drive(&target, &mut other, 5);
    assert!(!admin.abort(1, cid).unwrap());
    assert!(!admin.abort(2, cid).unwrap() && !admin.abort(u16::MAX, cid).unwrap());
    assert!(!same_host.abort(1, cid).unwrap(), "of another association");
    assert!(status(&mut other).is_success());
}

#[test]
fn commands_that_wait_for_a_drive_that_is_away_are_aborted_at_once() {
    let target = target(&[]);
    let (mut admin, mut queue) = target.queue(1);
    let (_other_admin, mut other) = target.queue(2);
    queue.read_blocks(1, 0, 1, 4096).unwrap();
    target.probes[0].remove_for(Duration::from_secs(6));
    let mut events = target.events(0);
    eventually("the drive is missed", || {
        matches!(events.try_recv(), Ok(gangway_bridge::DriveEvent::Removed))
    });
    let commands: Vec<_> = (0..8)
        .map(|lba| match lba % 3 {
            0 => queue.submit(&command(nvm::READ, lba, 1), Transfer::Read(4096)).unwrap(),
            1 => queue.submit(&command(nvm::WRITE, lba, 1), Transfer::Write(vec![7; 4096].into())).unwrap(),
            _ => queue.submit(&command(nvm::WRITE, lba, 16), Transfer::Write(vec![7; 65536].into())).unwrap(),
        })
        .collect();
    // Sends also what R2Ts ask for.
    assert!(queue.wait(Duration::from_millis(500)).unwrap().is_none());
    other.submit(&command(nvm::READ, 0, 1), Transfer::Read(4096)).unwrap();
    other.flush().unwrap();
    let begin = Instant::now();
    for tag in commands {
        let cid = queue.queue().cid(tag);
        assert!(admin.abort(1, cid).unwrap());
        let completed = queue.wait(PATIENCE).unwrap().unwrap();
        assert_eq!(completed.tag, tag);
        assert!(completed.entry.status().is(Status::ABORT_REQUESTED), "{}", completed.entry.status());
    }
    assert!(begin.elapsed() < Duration::from_secs(6), "none had to wait for the drive");
    // What others have waiting goes on when the drive is back, and nothing of the rest was executed.
    assert!(status(&mut other).is_success());
    assert_eq!(queue.read_blocks(1, 1, 1, 4096).unwrap(), vec![0; 4096]);
    use_all_memory(&mut queue, 1);
    target.assert_no_violations();
}

#[test]
fn commands_that_wait_for_memory_are_aborted_and_give_their_turn_to_others() {
    let latency = Some(Duration::from_secs(1));
    let drive = EmulatedConfig { size: 64 << 20, latency, ..EmulatedConfig::default() };
    let target = TestTarget::with(Setup { drives: vec![drive], ..Setup::default() });
    let (mut admin, mut queue) = target.queue(1);
    // More than one connection may have at a time.
    for (opcode, writes) in [(nvm::READ, false), (nvm::WRITE, true)] {
        let tags: Vec<_> = (0..12)
            .map(|n| {
                let transfer =
                    if writes { Transfer::Write(vec![1; 1 << 20].into()) } else { Transfer::Read(1 << 20) };
                queue.submit(&command(opcode, n * 256, 256), transfer).unwrap()
            })
            .collect();
        assert!(queue.wait(Duration::from_millis(300)).unwrap().is_none());
        let mut aborted = Vec::new();
        for &tag in tags[4..].iter().rev().step_by(2) {
            if admin.abort(1, queue.queue().cid(tag)).unwrap() {
                aborted.push(tag);
            }
        }
        assert!(aborted.len() >= 3, "{opcode:#x}: of {aborted:?} all but what the drive has");
        for _ in &tags {
            let completed = queue.wait(PATIENCE).unwrap().expect("all complete");
            let status = completed.entry.status();
            assert_eq!(status.is(Status::ABORT_REQUESTED), aborted.contains(&completed.tag), "{status}");
            assert!(status.is_success() || status.is(Status::ABORT_REQUESTED), "{status}");
        }
    }
    use_all_memory(&mut queue, 2);
    target.assert_no_violations();
}

#[test]
fn a_write_whose_data_is_arriving_ends_when_it_has_and_is_not_executed() {
    let target = target(&[]);
    let host = identity(1);
    let mut admin = target.host(1);
    let limit = usize::from(admin.identify_controller().unwrap().acl) + 1;
    let mut queue = Wire::io(target.address, admin.cntlid(), 1, &subsystem(0), &host);
    let mut entry = command(nvm::WRITE, 3, 16);
    entry.cid.set(77);
    queue.send(&wire::by_transport(entry, 65536));
    let r2t = queue.r2t();
    queue.send(&wire::h2c_data(&r2t, 0, &[9; 4096], false));
    // As many Aborts as there may be wait for its end.
    let mut abort = SubmissionQueueEntry::new(admin::ABORT);
    abort.cdw10.set(77 << 16 | 1);
    for _ in 0..limit {
        admin.queue().submit(&abort, Transfer::None).unwrap();
    }
    assert!(admin.queue().wait(Duration::from_millis(300)).unwrap().is_none());
    let (beyond, _) = admin.command(&abort, Transfer::None).unwrap();
    assert!(beyond.status().is(Status::ABORT_COMMAND_LIMIT_EXCEEDED), "{}", beyond.status());
    queue.send(&wire::h2c_data(&r2t, 4096, &[9; 61440], true));
    let response: CompletionQueueEntry = queue.response();
    assert_eq!(response.cid.get(), 77);
    assert!(response.status().is(Status::ABORT_REQUESTED), "{}", response.status());
    for _ in 0..limit {
        let answer = admin.queue().wait(PATIENCE).unwrap().unwrap().entry;
        assert_eq!((answer.status(), answer.dw0.get()), (Status::SUCCESS, 0));
    }
    let mut reader = admin.connect_io(2).unwrap();
    assert_eq!(reader.read_blocks(1, 3, 16, 4096).unwrap(), vec![0; 65536]);
    use_all_memory(&mut reader, 1);
    target.assert_no_violations();
}

/// The next two completions of an admin queue: of the command, then of the Abort.
fn pair(admin: &mut AdminQueue) -> (CompletionQueueEntry, CompletionQueueEntry) {
    let mut next = || admin.queue().wait(PATIENCE).unwrap().expect("a completion in time").entry;
    (next(), next())
}

#[test]
fn event_requests_and_admin_commands_are_aborted_and_completed_before_the_abort() {
    let target = target(&["drop:admin:op=0x02:once"]);
    let mut admin = target.host(1);
    let request = SubmissionQueueEntry::new(admin::ASYNC_EVENT_REQUEST);
    let tag = admin.queue().submit(&request, Transfer::None).unwrap();
    let mut abort = SubmissionQueueEntry::new(admin::ABORT);
    abort.cdw10.set(u32::from(admin.queue().cid(tag)) << 16);
    admin.queue().submit(&abort, Transfer::None).unwrap();
    let (first, second) = pair(&mut admin);
    assert_eq!((first.status().is(Status::ABORT_REQUESTED), second.dw0.get()), (true, 0), "{first:?}");
    let log = gangway_spec::log::GetLogPage::new(lid::SMART, 512);
    let tag = admin.queue().submit(&log.into(), Transfer::Read(512)).unwrap();
    admin.queue().flush().unwrap();
    eventually("the drive has the command", || target.probes[0].commands_held() > 0);
    abort.cdw10.set(u32::from(admin.queue().cid(tag)) << 16);
    admin.queue().submit(&abort, Transfer::None).unwrap();
    let (first, second) = pair(&mut admin);
    assert_eq!((first.status().is(Status::ABORT_REQUESTED), second.dw0.get()), (true, 0), "{first:?}");
    // Abort of nothing, and of itself.
    assert!(!admin.abort(0, 0x7777).unwrap());
    assert!(admin.identify_controller().is_ok());
}

#[test]
fn a_reset_forgets_what_is_being_aborted() {
    let target = target(&[]);
    target.probes[0].add_fault(FaultRule::new(FaultAction::Drop));
    let (mut admin, mut queue) = target.queue(1);
    target.probes[0].add_fault("drop:abort:once".parse().unwrap());
    let cid = read_with_drive(&target, &mut queue, 5);
    let mut abort = SubmissionQueueEntry::new(admin::ABORT);
    abort.cdw10.set(u32::from(cid) << 16 | 1);
    admin.queue().submit(&abort, Transfer::None).unwrap();
    assert!(admin.queue().wait(Duration::from_millis(200)).unwrap().is_none());
    admin.disable().unwrap();
    admin.enable().unwrap();
    assert!(
        admin.queue().wait(Duration::from_millis(200)).unwrap().is_none(),
        "an answer to what is forgotten"
    );
    assert!(admin.identify_controller().is_ok());
    target.probes[0].clear_faults();
    // The drive is reset for not answering Abort; what the host does next waits for that.
    let mut queue = admin.connect_io(1).unwrap();
    queue.read_blocks(1, 5, 1, 4096).unwrap();
    target.assert_no_violations();
}

/// Submits Format NVM while the drive has a read that takes two seconds, so that the Format waits in the target.
fn format_that_waits(target: &TestTarget, admin: &mut AdminQueue, queue: &mut IoQueue) -> u16 {
    target.probes[0].add_fault("delay=2s:read:lba=5:once".parse::<FaultRule>().unwrap());
    read_with_drive(target, queue, 5);
    let mut format = SubmissionQueueEntry::new(admin::FORMAT_NVM);
    format.nsid.set(1);
    let tag = admin.queue().submit(&format, Transfer::None).unwrap();
    admin.queue().flush().unwrap();
    admin.queue().cid(tag)
}

#[test]
fn a_format_that_waits_for_io_to_end_is_taken_back_by_abort_and_by_a_reset() {
    let manage = ["inspect", "manage"].map(|item| item.parse().unwrap());
    let policies = HostPolicies::all(Policy::new(manage, []));
    let target = TestTarget::with(Setup { policies, ..Setup::default() });
    let (mut admin, mut queue) = target.queue(1);
    let (_other_admin, mut other) = target.queue(2);
    let data = pattern(20, 1, 4096);
    other.write_blocks(1, 20, 4096, &data).unwrap();
    let cid = format_that_waits(&target, &mut admin, &mut queue);
    let mut abort = SubmissionQueueEntry::new(admin::ABORT);
    abort.cdw10.set(u32::from(cid) << 16);
    admin.queue().submit(&abort, Transfer::None).unwrap();
    let (first, second) = pair(&mut admin);
    assert_eq!((first.cid.get(), first.status().is(Status::ABORT_REQUESTED)), (cid, true), "{first:?}");
    assert_eq!((second.status(), second.dw0.get()), (Status::SUCCESS, 0));
    assert!(status(&mut queue).is_success());
    assert_eq!(other.read_blocks(1, 20, 1, 4096).unwrap(), data);

    format_that_waits(&target, &mut admin, &mut queue);
    // The Format arrives before the reset does.
    admin.disable().unwrap();
    admin.enable().unwrap();
    let _queue = admin.connect_io(1).unwrap();
    assert_eq!(other.read_blocks(1, 20, 1, 4096).unwrap(), data);
}
