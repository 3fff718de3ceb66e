//! What a reservation forbids does not reach the drive, whenever it is sent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gangway_driver::emulated::EmulatedConfig;
use gangway_fabric::host::client::Transfer;
use gangway_spec::opcode::nvm;
use gangway_spec::reservation::ReservationType::{
    ExclusiveAccess, WriteExclusive, WriteExclusiveRegistrantsOnly,
};
use gangway_spec::reservation::{ReservationAcquireData, ReservationType, racqa, rrega, rrela};
use gangway_spec::{Status, SubmissionQueueEntry};
use gangway_tests::wire::Wire;
use gangway_tests::{Setup, TestTarget, command, eventually, identity, pattern, subsystem, wire};
use zerocopy::IntoBytes;

use crate::host::Host;
use crate::{CONFLICT, PATIENCE, drive, target};

#[test]
fn each_type_keeps_out_whom_the_specification_says_and_the_drive_sees_nothing_of_it() {
    let target = target();
    let probe = &target.probes[0];
    let mut holder = Host::registered(&target, 1);
    let mut registrant = Host::registered(&target, 2);
    let mut stranger = Host::connect(&target, 3);
    assert_eq!(holder.write(1), Status::SUCCESS);
    for kind in ReservationType::ALL {
        assert_eq!(holder.acquire(racqa::ACQUIRE, kind, 0), Status::SUCCESS);
        let seen = [nvm::WRITE, nvm::READ].map(|opcode| {
            let rule = format!("delay=0ms:{}", if opcode == nvm::WRITE { "write" } else { "read" });
            probe.add_fault(rule.parse().unwrap())
        });
        let expected = |allowed: bool| if allowed { Status::SUCCESS } else { CONFLICT };
        let shared = kind.is_for_registrants();
        assert_eq!((holder.write(2), holder.read()), (Status::SUCCESS, Status::SUCCESS), "{kind}");
        assert_eq!(registrant.write(3), expected(shared), "{kind}");
        assert_eq!(registrant.read(), expected(shared || !kind.excludes_reads()), "{kind}");
        assert_eq!(stranger.write(4), CONFLICT, "{kind}");
        assert_eq!(stranger.read(), expected(!kind.excludes_reads()), "{kind}");
        assert_eq!(stranger.io(nvm::FLUSH, Transfer::None), CONFLICT, "{kind}");
        assert_eq!(stranger.io(nvm::WRITE_ZEROES, Transfer::None), CONFLICT, "{kind}");
        let [writes, reads] = seen.map(|id| probe.remove_fault(id).unwrap().matched);
        assert_eq!(writes, 1 + u64::from(shared), "{kind}: what is refused does not reach the drive");
        assert_eq!(
            reads,
            1 + u64::from(shared || !kind.excludes_reads()) + u64::from(!kind.excludes_reads()),
            "{kind}"
        );
        // Another namespace of the drive is not concerned.
        let mut elsewhere = command(nvm::WRITE, 0, 1);
        elsewhere.nsid.set(2);
        let written = stranger.queue.execute(&elsewhere, Transfer::Write(vec![7; 4096].into())).unwrap();
        assert_eq!(written.entry.status(), Status::SUCCESS);
        assert_eq!(holder.release(rrela::RELEASE, kind), Status::SUCCESS);
        assert_eq!(stranger.write(5), Status::SUCCESS, "{kind}: it is free again");
    }
    target.assert_no_violations();
}

#[test]
fn a_write_whose_data_arrives_after_another_host_acquired_the_namespace_is_refused() {
    let target = target();
    let mut holder = Host::registered(&target, 1);
    assert_eq!(holder.write(1), Status::SUCCESS);
    let (_admin, cntlid) = Wire::admin(target.address, &subsystem(0), &identity(9));
    let mut wire = Wire::io(target.address, cntlid, 1, &subsystem(0), &identity(9));
    wire.send(&wire::by_transport(command(nvm::WRITE, 8, 4), 16384));
    let r2t = wire.r2t();
    assert_eq!(holder.acquire(racqa::ACQUIRE, WriteExclusive, 0), Status::SUCCESS);
    wire.send(&wire::h2c_data(&r2t, 0, &[0xee; 16384], true));
    assert_eq!(wire.response().status(), CONFLICT);
    assert_eq!(holder.queue.read_blocks(1, 8, 1, 4096).unwrap(), pattern(8, 1, 4096));
    // The connection is none the worse for it.
    wire.send(&wire::by_transport(command(nvm::READ, 8, 1), 4096));
    assert!(wire.pdu().is_some());
}

#[test]
fn an_acquire_ends_when_the_drive_has_no_command_any_more_that_it_forbids() {
    let target = target();
    let mut holder = Host::registered(&target, 1);
    let mut other = Host::connect(&target, 2);
    let probe = &target.probes[0];
    probe.add_fault("delay=700ms:write:nth=1".parse().unwrap());
    let data = pattern(8, 5, 4096);
    other.queue.submit(&command(nvm::WRITE, 8, 1), Transfer::Write(data.clone().into())).unwrap();
    other.queue.flush().unwrap();
    eventually("the drive has the write", || probe.commands_held() == 1);
    assert_eq!(holder.acquire(racqa::ACQUIRE, ExclusiveAccess, 0), Status::SUCCESS);
    assert_eq!(probe.commands_held(), 0, "the write has ended before the reservation began");
    let completed = other.queue.wait(PATIENCE).unwrap().unwrap();
    assert_eq!(completed.entry.status(), Status::SUCCESS, "it came first");
    assert_eq!(holder.queue.read_blocks(1, 8, 1, 4096).unwrap(), data);
}

#[test]
fn preempt_and_abort_ends_the_commands_of_the_preempted_host() {
    let target = target();
    let mut one = Host::registered(&target, 1);
    let mut two = Host::registered(&target, 2);
    assert_eq!(two.acquire(racqa::ACQUIRE, WriteExclusiveRegistrantsOnly, 0), Status::SUCCESS);
    // More than the drive takes at a time, some of it slow: a part is with the drive, a part waits here.
    let probe = &target.probes[0];
    probe.add_fault("delay=300ms:write:every=8".parse().unwrap());
    let mut outstanding = 0;
    while !two.queue.is_full() {
        let data = pattern(8, outstanding, 4096);
        two.queue.submit(&command(nvm::WRITE, 8, 1), Transfer::Write(data.into())).unwrap();
        outstanding += 1;
    }
    two.queue.flush().unwrap();
    eventually("the drive has some", || probe.commands_held() > 0);
    assert_eq!(one.acquire(racqa::PREEMPT_AND_ABORT, WriteExclusive, 2), Status::SUCCESS);
    assert_eq!(one.write(77), Status::SUCCESS);
    for _ in 0..outstanding {
        let status = two.queue.wait(PATIENCE).unwrap().expect("each command ends").entry.status();
        let ended = [Status::SUCCESS, Status::ABORTED_PREEMPT_AND_ABORT.with_dnr(), CONFLICT];
        assert!(ended.contains(&status), "{status}");
    }
    assert_eq!(one.queue.read_blocks(1, 8, 1, 4096).unwrap(), pattern(8, 77, 4096), "no ghost write");
    assert_eq!(two.write(1), CONFLICT);
    assert_eq!(two.register(rrega::UNREGISTER, 0), CONFLICT, "it is no registrant any more");
    target.assert_no_violations();
}

/// Writes without a pause to where the reservations are, with several commands at a time, until it is told to stop. Gives
/// how many were refused.
fn noise(target: &TestTarget, number: u8, stop: &AtomicBool) -> u64 {
    let mut host = Host::connect(target, number);
    let mut refused = 0;
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) || host.queue.in_flight() > 0 {
        while !stop.load(Ordering::Relaxed) && host.queue.in_flight() < 8 {
            round += 1;
            // In the capsule, and asked for.
            let blocks = if round % 2 == 0 { 1 } else { 4 };
            let data = vec![number; blocks as usize * 4096];
            host.queue.submit(&command(nvm::WRITE, 8, blocks), Transfer::Write(data.into())).unwrap();
        }
        host.queue.flush().unwrap();
        let status = host.queue.wait(PATIENCE).unwrap().expect("each write ends").entry.status();
        assert!(status == Status::SUCCESS || status == CONFLICT, "{status}");
        refused += u64::from(status == CONFLICT);
    }
    refused
}

#[test]
fn nothing_of_others_lands_between_acquire_and_release_however_much_they_write() {
    const ROUNDS: u64 = 60;
    let latency = Some(Duration::from_micros(200));
    let setup =
        Setup { drives: vec![EmulatedConfig { latency, ..drive() }], reactors: 2, ..Setup::default() };
    let target = TestTarget::with(setup);
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let strangers = [11, 12].map(|number| {
            threads.spawn({
                let (target, stop) = (&target, &stop);
                move || noise(target, number, stop)
            })
        });
        let holders = [1_u8, 2].map(|number| {
            let target = &target;
            threads.spawn(move || {
                let mut host = Host::registered(target, number);
                for round in 0..ROUNDS {
                    let begin = Instant::now();
                    while host.acquire(racqa::ACQUIRE, WriteExclusive, 0) == CONFLICT {
                        assert!(begin.elapsed() < PATIENCE, "the other host keeps its reservation");
                    }
                    let data = pattern(u64::from(number), round, 4 * 4096);
                    host.queue.write_blocks(1, 8, 4096, &data).unwrap();
                    for _ in 0..3 {
                        assert!(
                            host.queue.read_blocks(1, 8, 4, 4096).unwrap() == data,
                            "round {round} of {number}"
                        );
                    }
                    assert_eq!(host.release(rrela::RELEASE, WriteExclusive), Status::SUCCESS);
                }
            })
        });
        let held = holders.map(|holder| holder.join().is_ok());
        stop.store(true, Ordering::Relaxed);
        for stranger in strangers {
            assert!(stranger.join().unwrap() > 0, "it was refused at times");
        }
        assert_eq!(held, [true, true]);
    });
    target.assert_no_violations();
}

#[test]
fn a_host_that_leaves_while_its_command_waits_harms_nobody() {
    let target = target();
    let mut holder = Host::registered(&target, 1);
    let probe = &target.probes[0];
    for round in 0..10 {
        let mut other = Host::connect(&target, 2);
        let mut waiting = Host::registered(&target, 3);
        probe.add_fault("delay=50ms:write:nth=1".parse().unwrap());
        other.queue.submit(&command(nvm::WRITE, 9, 1), Transfer::Write(vec![1; 4096].into())).unwrap();
        other.queue.flush().unwrap();
        eventually("the drive has the write", || probe.commands_held() == 1);
        let mut entry = SubmissionQueueEntry::new(nvm::RESERVATION_ACQUIRE);
        entry.nsid.set(1);
        entry.cdw10.set(1 << 8);
        let data = ReservationAcquireData { crkey: 3.into(), prkey: 0.into() };
        for _ in 0..8 {
            waiting.queue.submit(&entry, Transfer::Write(data.as_bytes().into())).unwrap();
        }
        waiting.queue.flush().unwrap();
        drop((waiting, other));
        probe.clear_faults();
        let begin = Instant::now();
        // Whether the command was executed before its host left, or not at all, the holder can have its way.
        while holder.acquire(racqa::PREEMPT, WriteExclusive, 3) != Status::SUCCESS {
            assert!(begin.elapsed() < PATIENCE);
        }
        assert_eq!(holder.write(round), Status::SUCCESS);
        assert_eq!(holder.release(rrela::RELEASE, WriteExclusive), Status::SUCCESS);
    }
    target.assert_no_violations();
}
