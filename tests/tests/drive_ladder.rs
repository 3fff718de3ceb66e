//! The steps that are taken when a drive does not answer, one by one, and what hosts see of them.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::sync::Arc;
use std::time::Duration;

use gangway_bridge::{DriveEvent, ReactorConfig};
use gangway_driver::controller::EventKind;
use gangway_driver::emulated::{Backing, Capabilities, EmulatedConfig, FaultId};
use gangway_fabric::host::client::{AdminQueue, IoQueue, Transfer};
use gangway_spec::Status;
use gangway_spec::aen::{self, AsyncEvent};
use gangway_spec::identify::Oaes;
use gangway_spec::log::lid;
use gangway_spec::opcode::nvm;
use gangway_tests::listening::{NAMESPACES_CHANGED, ask, changed_namespaces, listen, told};
use gangway_tests::load::Load;
use gangway_tests::{Setup, TestTarget, command, eventually, pattern, use_all_memory};

const PATIENCE: Duration = Duration::from_secs(40);

fn target(reactors: usize) -> TestTarget {
    let memory = ReactorConfig {
        data_memory: 8 << 20,
        receive_chunks: 16,
        io_timeout: Duration::from_millis(500),
        ..ReactorConfig::default()
    };
    let capabilities = Capabilities { ready_timeout: Duration::from_millis(500), ..Capabilities::default() };
    let drive = EmulatedConfig { size: 64 << 20, capabilities, ..EmulatedConfig::default() };
    TestTarget::with(Setup { drives: vec![drive], reactors, memory, ..Setup::default() })
}

fn declare(target: &TestTarget, fault: &str) -> FaultId {
    target.probes[0].add_fault(fault.parse().unwrap())
}

fn fired(target: &TestTarget, fault: FaultId) -> u64 {
    target.probes[0].fault_counts(fault).unwrap().fired
}

/// Writes block 5 and gives the status.
fn write(queue: &mut IoQueue, round: u64) -> Status {
    queue.submit(&command(nvm::WRITE, 5, 1), Transfer::Write(pattern(5, round, 4096).into())).unwrap();
    queue.wait(PATIENCE).unwrap().expect("an answer in time").entry.status()
}

fn read(queue: &mut IoQueue) -> Vec<u8> {
    queue.read_blocks(1, 5, 1, 4096).unwrap()
}

/// A fault that does next to nothing, and counts the commands that it concerns.
fn count(target: &TestTarget, command: &str) -> FaultId {
    declare(target, &format!("delay=1ms:{command}:every=1"))
}

/// What commands to a namespace end with that is not shown.
const WITHDRAWN: Status = Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr();

#[test]
fn a_command_that_can_be_aborted_costs_neither_its_queue_nor_a_reset() {
    let target = target(1);
    let (_admin, mut queue) = target.queue(1);
    assert!(write(&mut queue, 1).is_success());
    let (aborts, deletions) = (count(&target, "abort"), count(&target, "delete-sq"));
    let reset = count(&target, "create-cq");
    declare(&target, "drop:write:once");
    let status = write(&mut queue, 2);
    assert!(status.is(Status::COMMAND_INTERRUPTED) && !status.dnr(), "{status}");
    assert_eq!(read(&mut queue), pattern(5, 1, 4096), "what was aborted was not executed");
    assert!(write(&mut queue, 3).is_success());
    assert_eq!((fired(&target, aborts), fired(&target, deletions), fired(&target, reset)), (1, 0, 0));
    target.assert_no_violations();
}

#[test]
fn a_queue_that_is_made_anew_does_not_stop_those_of_other_reactors() {
    let target = target(2);
    // Hosts on both reactors, and one that meets the fault.
    let (_admin, mut queue) = target.queue(1);
    let load = Load::start(&target, 3);
    let (deletions, identifies) = (count(&target, "delete-sq"), count(&target, "identify"));
    declare(&target, "lose:write:lba=5:once");
    let status = write(&mut queue, 1);
    assert!(status.is(Status::COMMAND_INTERRUPTED) && !status.dnr(), "{status}");
    assert_eq!(read(&mut queue), pattern(5, 1, 4096), "only its completion was lost");
    assert_eq!(fired(&target, deletions), 1, "the other reactor keeps its queue");
    assert_eq!(fired(&target, identifies), 0, "it was no reset");
    load.finish();
    target.assert_no_violations();
}

#[test]
fn a_drive_that_no_reset_helps_is_given_up_and_says_so_for_good() {
    let target = target(2);
    let (mut admin, mut queue) = target.queue(1);
    let mut events = target.events(0);
    declare(&target, "not-ready");
    declare(&target, "cfs:write:once");
    assert!(write(&mut queue, 1).is(Status::COMMAND_INTERRUPTED));
    // Held while the drive is tried, and refused when it is given up; or it comes after that.
    let status = write(&mut queue, 2);
    assert!(status == Status::NAMESPACE_NOT_READY.with_dnr() || status == WITHDRAWN, "{status}");
    eventually("its namespaces are withdrawn", || write(&mut queue, 3) == WITHDRAWN);
    admin.keep_alive().unwrap();
    eventually("they are listed no more", || admin.active_namespaces().unwrap().is_empty());
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        seen.push(event);
    }
    let expected = matches!(&seen[..], [DriveEvent::Resetting, DriveEvent::Namespaces(none), DriveEvent::Failed] if none.is_empty());
    assert!(expected, "{seen:?}");
    target.assert_no_violations();
    let name = target.infos[0].name.clone();
    assert_eq!(target.shutdown(), [name], "it was not shut down in order");
}

#[test]
fn a_controller_that_failed_is_noticed_though_nothing_waits_for_it() {
    let target = target(1);
    let mut events = target.events(0);
    target.probes[0].set_fatal();
    eventually("the reset is told of", || matches!(events.try_recv(), Ok(DriveEvent::Works)));
    let (_admin, mut queue) = target.queue(1);
    assert!(write(&mut queue, 1).is_success());
    assert_eq!(read(&mut queue), pattern(5, 1, 4096));
}

#[test]
fn a_drive_that_is_away_for_long_takes_its_namespaces_with_it_and_brings_them_back() {
    let target = target(2);
    let (mut admin, mut queue) = target.queue(1);
    let mut asleep = target.host(2);
    listen(&mut asleep, Oaes::NAMESPACE_ATTRIBUTE.bits());
    assert!(write(&mut queue, 1).is_success());
    target.probes[0].remove();
    // In whichever stage the removal is noticed: the first may have been with the drive.
    let status = (0..3)
        .map(|round| write(&mut queue, 10 + round))
        .find(|status| !status.is(Status::COMMAND_INTERRUPTED));
    let status = status.unwrap();
    assert!(status.is(Status::NAMESPACE_NOT_READY) && !status.dnr(), "{status}");
    assert_eq!(told(&mut asleep), NAMESPACES_CHANGED);
    assert_eq!(changed_namespaces(&mut asleep), [1]);
    assert!(asleep.active_namespaces().unwrap().is_empty());
    // At once, and the connection lives.
    for round in 20..30 {
        assert_eq!(write(&mut queue, round), WITHDRAWN);
    }
    admin.keep_alive().unwrap();
    ask(&mut asleep);
    target.probes[0].put_back();
    assert_eq!(told(&mut asleep), NAMESPACES_CHANGED);
    assert_eq!(changed_namespaces(&mut asleep), [1]);
    assert_eq!(asleep.active_namespaces().unwrap(), [1]);
    // A host that is told can use it at once.
    assert_eq!(read(&mut queue)[..], pattern(5, 1, 4096)[..], "what was written before is there");
    assert!(write(&mut queue, 40).is_success());
    use_all_memory(&mut queue, 1);
    target.assert_no_violations();
    assert!(target.shutdown().is_empty(), "it was shut down in order");
}

#[test]
fn opening_a_drive_that_takes_for_ever_does_not_keep_commands_waiting() {
    let setup = Setup::default();
    let opening = Arc::clone(&setup.opening);
    let target = TestTarget::with(setup);
    let (_admin, mut queue) = target.queue(1);
    assert!(write(&mut queue, 1).is_success());
    let held = opening.lock().unwrap();
    target.probes[0].remove();
    eventually("commands fail", || write(&mut queue, 2) == WITHDRAWN);
    target.probes[0].put_back();
    assert_eq!(write(&mut queue, 3), WITHDRAWN, "it is not open yet");
    drop(held);
    eventually("the drive is taken up again", || write(&mut queue, 4).is_success());
    assert_eq!(read(&mut queue), pattern(5, 4, 4096));
}

#[test]
fn a_drive_whose_cache_lost_its_power_is_not_served_to_hosts_that_were_connected() {
    let folder = tempfile::tempdir().unwrap();
    let backing = Backing::File(folder.path().join("drive"));
    let drive = EmulatedConfig { size: 64 << 20, backing, ..EmulatedConfig::default() };
    let target = TestTarget::with(Setup { drives: vec![drive], ..Setup::default() });
    let (_admin, mut queue) = target.queue(1);
    assert!(write(&mut queue, 1).is_success());
    target.probes[0].remove_for(Duration::from_millis(500));
    // The first may have been with the drive.
    let refused =
        (0..2).map(|round| write(&mut queue, 10 + round)).find(|s| !s.is(Status::COMMAND_INTERRUPTED));
    let status = refused.unwrap();
    assert!(status.is(Status::NAMESPACE_NOT_READY), "{status}");
    eventually("its namespace is withdrawn", || write(&mut queue, 20) == WITHDRAWN);
}

/// A drive with serial number FIRST is removed, and in its place is one with this serial number.
fn replaced_by(serial: &str) -> (TestTarget, AdminQueue, IoQueue) {
    let config = |serial: &str| EmulatedConfig {
        size: 64 << 20,
        serial: Some(serial.to_owned()),
        ..EmulatedConfig::default()
    };
    let setup =
        Setup { drives: vec![config("FIRST")], replacement: Some(config(serial)), ..Setup::default() };
    let target = TestTarget::with(setup);
    let (admin, mut queue) = target.queue(1);
    assert!(write(&mut queue, 1).is_success());
    target.probes[0].remove();
    (target, admin, queue)
}

#[test]
fn another_drive_in_the_place_of_one_that_was_removed_is_not_served() {
    let (_target, _admin, mut queue) = replaced_by("SECOND");
    eventually("commands fail", || write(&mut queue, 2) == WITHDRAWN);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(write(&mut queue, 3), WITHDRAWN, "the other drive is not taken for it");
}

#[test]
fn a_drive_is_known_again_by_its_model_and_serial_number() {
    let (_target, _admin, mut queue) = replaced_by("FIRST");
    eventually("it is taken up", || write(&mut queue, 2).is_success());
    assert_eq!(read(&mut queue), pattern(5, 2, 4096));
}

#[test]
fn what_the_drive_tells_of_is_handed_up() {
    let target = target(1);
    let mut events = target.events(0);
    let smart = AsyncEvent::new(aen::TYPE_SMART, aen::SMART_TEMPERATURE, lid::SMART);
    for _ in 0..2 {
        // The second one comes only if the first was cleared.
        target.probes[0].raise_event(smart);
        eventually("the event is handed up", || match events.try_recv() {
            Ok(DriveEvent::Reported(event)) => {
                assert!(matches!(event.kind(), EventKind::Health { critical_warning: Some(_) }));
                assert_eq!(event.page.len(), 512);
                true
            }
            _ => false,
        });
    }
    target.assert_no_violations();
}
