//! Hosts that go away with commands in flight, and come back.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gangway_bridge::ReactorConfig;
use gangway_driver::emulated::EmulatedConfig;
use gangway_fabric::host::client::{AdminQueue, IoQueue, Options, Transfer};
use gangway_spec::Status;
use gangway_spec::log::lid;
use gangway_spec::opcode::nvm;
use gangway_tests::wire::{REFUSAL, Wire, by_transport, capsule, connect, h2c_data, refused};
use gangway_tests::{
    Bystander, Setup, TestTarget, command, eventually, identity, pattern, subsystem, use_all_memory,
};

/// Where the writes of these tests go, and how many there are.
const FIRST: u64 = 100;
const WRITES: u64 = 8;

/// How a host leaves its connections.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Departure {
    /// They are closed.
    Close,
    /// They are closed with something unread, so that the target sees a reset.
    Reset,
    /// They stay open, as those of a machine that lost its power do.
    HalfOpen,
}

/// A target whose drive takes `latency` for each command, with two reactors so that a host that comes back can meet
/// another one than before.
fn slow(latency: Duration) -> TestTarget {
    let drive = EmulatedConfig { size: 64 << 20, latency: Some(latency), ..EmulatedConfig::default() };
    TestTarget::with(Setup { drives: vec![drive], reactors: 2, ..Setup::default() })
}

/// Returns when everything that was sent is with the drive.
fn assert_taken(wire: &mut Wire) {
    assert_eq!(wire.status(&refused()), REFUSAL);
}

/// Writes of pattern `round` to all blocks of the test, which the drive has when this returns, and has not finished.
fn write_all(wire: &mut Wire, round: u64) {
    for lba in FIRST..FIRST + WRITES {
        wire.send(&capsule(command(nvm::WRITE, lba, 1), &pattern(lba, round, 4096)));
    }
    assert_taken(wire);
}

/// Host Write Commands of the SMART log: writes that the drive has executed.
fn executed_writes(admin: &mut AdminQueue) -> u64 {
    let log = admin.log_page(lid::SMART, u32::MAX, 0, 512, true).unwrap();
    u64::from_le_bytes(log[80..88].try_into().unwrap())
}

fn a_host_that_comes_back_is_not_overtaken_by_itself(departure: Departure) {
    let target = slow(Duration::from_millis(1500));
    let host = identity(1);
    let (admin, cntlid) = Wire::admin(target.address, &subsystem(0), &host);
    let mut io = Wire::io(target.address, cntlid, 1, &subsystem(0), &host);
    write_all(&mut io, 0xa);
    let mut kept = None;
    match departure {
        Departure::Close => drop((admin, io)),
        Departure::Reset => {
            // Its answer will stay unread.
            io.send(&refused());
            std::thread::sleep(Duration::from_millis(50));
            drop((admin, io));
        }
        Departure::HalfOpen => kept = Some((admin, io)),
    }

    let mut admin = target.host(1);
    assert_eq!(executed_writes(&mut admin), 0, "the drive is not that fast");
    let mut queue = admin.connect_io(1).unwrap();
    assert_eq!(
        executed_writes(&mut admin),
        WRITES,
        "the new queue was let in before the old writes were done"
    );
    for lba in FIRST..FIRST + WRITES {
        let data = pattern(lba, 0xb, 4096);
        queue.submit(&command(nvm::WRITE, lba, 1), Transfer::Write(data.into())).unwrap();
    }
    for _ in 0..WRITES {
        let completed = queue.wait(Duration::from_secs(30)).unwrap().unwrap();
        assert!(completed.entry.status().is_success());
    }
    for _ in 0..2 {
        let read = queue.read_blocks(1, FIRST, WRITES as u32, 4096).unwrap();
        for (lba, block) in (FIRST..).zip(read.chunks(4096)) {
            assert!(block == pattern(lba, 0xb, 4096), "block {lba} has old data");
        }
    }
    if let Some((_admin, mut io)) = kept {
        for _ in 0..WRITES {
            assert!(io.response().status().is_success(), "the association of before was left alone");
        }
    }
    target.assert_no_violations();
}

#[test]
fn writes_of_a_host_that_closed_its_connections_do_not_overtake_its_new_ones() {
    a_host_that_comes_back_is_not_overtaken_by_itself(Departure::Close);
}

#[test]
fn writes_of_a_host_that_was_reset_do_not_overtake_its_new_ones() {
    a_host_that_comes_back_is_not_overtaken_by_itself(Departure::Reset);
}

#[test]
fn writes_of_an_association_that_is_half_open_do_not_overtake_those_of_the_new_one() {
    a_host_that_comes_back_is_not_overtaken_by_itself(Departure::HalfOpen);
}

/// Asserts that a new queue was connected only when the old writes were done, and that what it writes stays.
fn assert_let_in_last(admin: &mut AdminQueue, queue: &mut IoQueue) {
    assert_eq!(executed_writes(admin), WRITES, "the new queue was let in before the old writes were done");
    queue.write_blocks(1, FIRST, 4096, &pattern(FIRST, 0xb, 4096)).unwrap();
    assert_eq!(queue.read_blocks(1, FIRST, 1, 4096).unwrap(), pattern(FIRST, 0xb, 4096));
}

#[test]
fn writes_before_a_controller_reset_do_not_overtake_those_after_it() {
    let target = slow(Duration::from_millis(1500));
    let host = identity(1);
    let mut admin = target.host(1);
    let mut io = Wire::io(target.address, admin.cntlid(), 1, &subsystem(0), &host);
    write_all(&mut io, 0xa);
    admin.disable().unwrap();
    io.drain();
    admin.enable().unwrap();
    let mut queue = admin.connect_io(1).unwrap();
    assert_let_in_last(&mut admin, &mut queue);
}

#[test]
fn writes_of_a_queue_that_is_gone_do_not_overtake_those_of_its_successor() {
    let target = slow(Duration::from_millis(1500));
    let host = identity(1);
    let mut admin = target.host(1);
    let mut other = admin.connect_io(2).unwrap();
    let mut io = Wire::io(target.address, admin.cntlid(), 1, &subsystem(0), &host);
    write_all(&mut io, 0xa);
    drop(io);
    // Another queue of the association, in use all the time, does not hold up the new one.
    let read = other.submit(&command(nvm::READ, 0, 1), Transfer::Read(4096)).unwrap();
    other.flush().unwrap();
    let mut queue = admin.connect_io(1).unwrap();
    assert_let_in_last(&mut admin, &mut queue);
    assert_eq!(other.wait(Duration::from_secs(20)).unwrap().map(|completed| completed.tag), Some(read));
}

#[test]
fn another_host_and_another_drive_do_not_wait_for_what_a_dead_host_left_behind() {
    let latency = Some(Duration::from_millis(2500));
    let slow = EmulatedConfig { size: 64 << 20, latency, ..EmulatedConfig::default() };
    let fast = EmulatedConfig { latency: None, ..slow.clone() };
    let target = TestTarget::with(Setup { drives: vec![slow, fast], reactors: 2, ..Setup::default() });
    let host = identity(1);
    let mut second = target.host(2);
    let (admin, cntlid) = Wire::admin(target.address, &subsystem(0), &host);
    let mut io = Wire::io(target.address, cntlid, 1, &subsystem(0), &host);
    write_all(&mut io, 0xa);
    drop((admin, io));
    let mut admin = target.host(1);
    let let_in = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let queue = admin.connect_io(1).unwrap();
            let_in.store(true, Ordering::SeqCst);
            drop(queue);
        });
        // Its first Connect is refused when the target has seen the other one, which it answers in order.
        let mut queue = second.connect_io(1).unwrap();
        assert!(!let_in.load(Ordering::SeqCst), "the other host had to wait for the fence");
        // The same host on another drive, where it left nothing.
        let mut elsewhere = target.host_with(1, 1, &Options::default());
        let mut fast = elsewhere.connect_io(1).unwrap();
        fast.write_blocks(1, 0, 4096, &[1; 4096]).unwrap();
        assert_eq!(fast.read_blocks(1, 0, 1, 4096).unwrap(), [1; 4096]);
        assert!(!let_in.load(Ordering::SeqCst), "the other drive had to wait for the fence");
        // The other host works, too.
        queue.read_blocks(1, 0, 1, 4096).unwrap();
    });
    assert!(let_in.load(Ordering::SeqCst));
}

#[test]
fn memory_of_a_dead_hosts_commands_is_used_again_only_when_the_drive_has_finished_them() {
    let drive = EmulatedConfig {
        size: 64 << 20,
        latency: Some(Duration::from_millis(400)),
        ..EmulatedConfig::default()
    };
    let memory = ReactorConfig { data_memory: 4 << 20, ..ReactorConfig::default() };
    let target = TestTarget::with(Setup { drives: vec![drive], memory, ..Setup::default() });
    let host = identity(1);
    let (_second, mut other) = target.queue(2);
    let (admin, cntlid) = Wire::admin(target.address, &subsystem(0), &host);
    // Four writes of a megabyte take all the memory for writes, four reads all for reads.
    let first = 40 * 256;
    let mut wires = Vec::new();
    for place in 0..4_u16 {
        let mut wire = Wire::io(target.address, cntlid, place + 1, &subsystem(0), &host);
        let lba = first + u64::from(place) * 256;
        wire.send(&by_transport(command(nvm::WRITE, lba, 256), 1 << 20));
        let r2t = wire.r2t();
        wire.send(&h2c_data(&r2t, 0, &pattern(lba, 0xa, 1 << 20), true));
        wire.send(&by_transport(command(nvm::READ, 0, 256), 1 << 20));
        assert_taken(&mut wire);
        wires.push(wire);
    }
    drop((admin, wires));
    // Data of another pattern, through the same memory, as soon as it is to be had.
    use_all_memory(&mut other, 0xb);
    for place in 0..4 {
        let lba = first + place * 256;
        let read = other.read_blocks(1, lba, 256, 4096).unwrap();
        assert!(read == pattern(lba, 0xa, 1 << 20), "the write at {lba} was not finished as it was begun");
    }
    target.assert_no_violations();
}

#[test]
fn a_host_may_connect_and_leave_as_often_as_it_likes() {
    let target = TestTarget::with(Setup { reactors: 2, ..Setup::default() });
    let bystander = Bystander::start(&target, 9, 8000);
    let mut identifiers = BTreeSet::new();
    for round in 0..60_u64 {
        let mut admin = target.host(1);
        assert!(identifiers.insert(admin.cntlid()), "a controller identifier is used again at once");
        let mut queues: Vec<_> = (1..=4).map(|qid| admin.connect_io(qid).unwrap()).collect();
        for (place, queue) in (0..).zip(&mut queues) {
            for lba in 0..16 {
                let lba = place * 64 + lba;
                let data = pattern(lba, round, 4096);
                queue.submit(&command(nvm::WRITE, lba, 1), Transfer::Write(data.into())).unwrap();
                queue.submit(&command(nvm::READ, 1000, 32), Transfer::Read(32 * 4096)).unwrap();
            }
            queue.flush().unwrap();
        }
        match round % 3 {
            0 => drop((queues, admin)),
            1 => drop((admin, queues)),
            _ => {
                admin.shutdown().unwrap();
                for mut queue in queues {
                    let ended = (0..40).find_map(|_| queue.wait(Duration::from_secs(20)).err());
                    assert!(ended.is_some(), "a shut down controller has no I/O queues");
                }
            }
        }
    }
    eventually("the associations are gone", || target.associations() == 1);
    bystander.finish();
    let (_admin, mut queue) = target.queue(2);
    use_all_memory(&mut queue, 3);
    target.assert_no_violations();
}

#[test]
fn a_queue_identifier_can_be_used_again_when_its_connection_is_gone() {
    let target = TestTarget::start();
    let mut admin = target.host(1);
    let mut first = admin.connect_io(1).unwrap();
    first.write_blocks(1, 0, 4096, &[3; 4096]).unwrap();
    let host = identity(1);
    let mut wire = Wire::initialized(target.address);
    let again = connect(1, 128, Some(admin.cntlid()), &subsystem(0), &host);
    assert!(wire.status(&again).is(Status::COMMAND_SEQUENCE_ERROR), "it is in use");
    drop(first);
    eventually("the identifier is free", || wire.status(&again).is_success());
    let read = by_transport(command(nvm::READ, 0, 1), 4096);
    wire.send(&read);
    assert_eq!(wire.pdu().unwrap()[24..], [3; 4096]);
}

#[test]
fn a_queue_that_says_disconnect_is_gone_and_its_association_is_not() {
    let target = TestTarget::start();
    let mut admin = target.host(1);
    let host = identity(1);
    let mut wire = Wire::io(target.address, admin.cntlid(), 1, &subsystem(0), &host);
    let disconnect = capsule(gangway_spec::fabrics::DisconnectCommand::new().into(), &[]);
    assert!(wire.status(&disconnect).is_success());
    assert!(wire.pdu().is_none(), "the connection is closed");
    drop(wire);
    admin.keep_alive().unwrap();
    eventually("the identifier is free", || admin.connect_io(1).is_ok());
    assert_eq!(target.associations(), 1);
}

#[test]
fn two_associations_of_one_host_work_at_the_same_time() {
    let target = TestTarget::with(Setup { reactors: 2, ..Setup::default() });
    let first = Bystander::start(&target, 1, 0);
    let second = Bystander::start(&target, 1, 200);
    first.assert_goes_on();
    second.assert_goes_on();
    assert_eq!(target.associations(), 2);
    first.finish();
    second.assert_goes_on();
    second.finish();
    target.assert_no_violations();
}
