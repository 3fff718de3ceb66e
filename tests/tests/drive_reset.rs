//! Drives that do not answer in time.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::time::Duration;

use gangway_bridge::ReactorConfig;
use gangway_driver::emulated::EmulatedConfig;
use gangway_fabric::host::client::{IoQueue, Options, Transfer};
use gangway_spec::feature::fid;
use gangway_spec::opcode::{admin, nvm};
use gangway_spec::{Status, SubmissionQueueEntry};
use gangway_tests::wire::Wire;
use gangway_tests::{Setup, TestTarget, command, identity, pattern, subsystem, use_all_memory};

const PATIENCE: Duration = Duration::from_secs(30);

fn drive(latency: Option<Duration>) -> EmulatedConfig {
    EmulatedConfig { size: 64 << 20, latency, ..EmulatedConfig::default() }
}

/// A target that gives its drives 400 ms for a command, and reactors that serve two drives: one that is stuck and one
/// that is not.
fn stuck() -> TestTarget {
    let memory = ReactorConfig {
        data_memory: 8 << 20,
        receive_chunks: 16,
        io_timeout: Duration::from_millis(400),
        ..ReactorConfig::default()
    };
    let drives = vec![drive(Some(Duration::from_secs(3000))), drive(None)];
    TestTarget::with(Setup { drives, memory, ..Setup::default() })
}

/// Fills the queue with reads and writes and returns the statuses that they end with.
fn statuses(queue: &mut IoQueue, count: u64) -> Vec<Status> {
    for n in 0..count {
        let (opcode, transfer) = match n % 3 {
            0 => (nvm::READ, Transfer::Read(1 << 16)),
            1 => (nvm::WRITE, Transfer::Write(vec![1; 1 << 16].into())),
            _ => (nvm::FLUSH, Transfer::None),
        };
        let mut entry = command(opcode, n * 16, 16);
        if opcode == nvm::FLUSH {
            (entry.cdw10, entry.cdw12) = (0.into(), 0.into());
        }
        queue.submit(&entry, transfer).unwrap();
    }
    (0..count).map(|_| queue.wait(PATIENCE).unwrap().expect("an answer in time").entry.status()).collect()
}

#[test]
fn commands_of_a_drive_that_is_stuck_may_be_tried_again_and_connections_live() {
    let target = stuck();
    let (mut admin, mut queue) = target.queue(1);
    for round in 0..3 {
        for status in statuses(&mut queue, 30) {
            assert!(status.is(Status::COMMAND_INTERRUPTED), "round {round}: {status}");
            assert!(!status.dnr(), "the host may try again");
            assert_eq!(status.crd(), 0, "the host has not said that it heeds delays");
        }
        assert_eq!(admin.active_namespaces().unwrap(), [1], "the admin queue of the drive works");
        admin.keep_alive().unwrap();
    }
    // New queues can be had, too.
    let mut another = admin.connect_io(2).unwrap();
    assert!(statuses(&mut another, 3).iter().all(|status| status.is(Status::COMMAND_INTERRUPTED)));
    target.assert_no_violations();
}

#[test]
fn a_host_that_heeds_delays_is_told_when_to_try_again() {
    let target = stuck();
    let (mut admin, mut queue) = target.queue(1);
    let delay = admin.identify_controller().unwrap().crdt1.get();
    assert!((1..=50).contains(&delay), "{delay} times 100 ms");
    // Host Behavior Support: ACRE, and what is not promised.
    let mut set = SubmissionQueueEntry::new(admin::SET_FEATURES);
    set.cdw10.set(fid::HOST_BEHAVIOR_SUPPORT.into());
    let mut behavior = vec![0; 512];
    (behavior[0], behavior[1]) = (1, 1);
    let (entry, _) = admin.command(&set, Transfer::Write(behavior.into())).unwrap();
    assert!(entry.status().is_success(), "{}", entry.status());
    let get = SubmissionQueueEntry { opcode: admin::GET_FEATURES, ..set };
    let (_, behavior) = admin.command(&get, Transfer::Read(512)).unwrap();
    assert_eq!((behavior.len(), &behavior[..2]), (512, &[1, 0][..]));
    for status in statuses(&mut queue, 6) {
        assert!(status.is(Status::COMMAND_INTERRUPTED) && !status.dnr(), "{status}");
        assert_eq!(status.crd(), 1);
    }
    // A reset of the controller forgets it.
    admin.disable().unwrap();
    admin.enable().unwrap();
    let mut queue = admin.connect_io(1).unwrap();
    assert!(statuses(&mut queue, 3).iter().all(|status| status.crd() == 0));
}

#[test]
fn a_drive_that_is_stuck_does_not_delay_another_one() {
    let target = stuck();
    let (_stuck_admin, mut stuck_queue) = target.queue(1);
    let mut admin = target.host_with(1, 1, &Options::default());
    let mut queue = admin.connect_io(1).unwrap();
    for round in 0..4 {
        stuck_queue.submit(&command(nvm::READ, 0, 16), Transfer::Read(1 << 16)).unwrap();
        stuck_queue.flush().unwrap();
        let data = pattern(5, round, 1 << 16);
        queue.write_blocks(1, 5, 4096, &data).unwrap();
        assert!(queue.read_blocks(1, 5, 16, 4096).unwrap() == data);
        assert!(
            stuck_queue.wait(Duration::ZERO).unwrap().is_none(),
            "the other drive had to wait for this one"
        );
        // While the stuck drive is reset, and after it, the other one goes on.
        let status = loop {
            queue.read_blocks(1, 5, 16, 4096).unwrap();
            if let Some(completed) = stuck_queue.wait(Duration::ZERO).unwrap() {
                break completed.entry.status();
            }
        };
        assert!(status.is(Status::COMMAND_INTERRUPTED), "{status}");
    }
    // What the stuck drive had is back in the pools, which both drives share.
    use_all_memory(&mut queue, 1);
    target.assert_no_violations();
}

#[test]
fn a_host_that_goes_away_during_a_reset_leaves_nothing_behind() {
    let target = stuck();
    let host = identity(1);
    for _ in 0..4 {
        let (admin, cntlid) = Wire::admin(target.address, &subsystem(0), &host);
        // This waits until what was left behind by the round before has ended with a reset.
        let mut io = Wire::io(target.address, cntlid, 1, &subsystem(0), &host);
        io.send(&gangway_tests::wire::by_transport(command(nvm::READ, 0, 256), 1 << 20).repeat(20));
        io.send(&gangway_tests::wire::capsule(command(0x03, 0, 1), &[]));
        assert!(io.response().status().is(Status::INVALID_OPCODE));
        drop((admin, io));
    }
    let mut admin = target.host_with(2, 1, &Options::default());
    let mut queue = admin.connect_io(1).unwrap();
    use_all_memory(&mut queue, 1);
    target.assert_no_violations();
}

#[test]
fn a_target_whose_drive_is_stuck_for_good_still_ends() {
    let setup = Setup { drives: vec![drive(Some(Duration::from_secs(3000)))], ..Setup::default() };
    let target = TestTarget::with(setup);
    let (_admin, mut queue) = target.queue(1);
    for lba in 0..20 {
        queue.submit(&command(nvm::WRITE, lba, 1), Transfer::Write(vec![1; 4096].into())).unwrap();
    }
    queue.flush().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    target.shutdown();
    assert!(queue.wait(PATIENCE).is_err(), "the connection is closed");
}
