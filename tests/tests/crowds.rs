//! What hosts that came and went leave behind: nothing.

#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::time::Duration;

use gangway_bridge::Limits;
use gangway_spec::SubmissionQueueEntry;
use gangway_spec::opcode::{admin, nvm};
use gangway_tests::heap::{Allocated, Counting};
use gangway_tests::wire::{Wire, by_transport, capsule, h2c_data};
use gangway_tests::{Setup, TestTarget, command, eventually, identity, pattern, subsystem};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HOSTS: u8 = 6;
/// I/O queues of each host.
const QUEUES: u16 = 8;

/// Hosts that nobody has seen before come with all their queues, use them in every way, and go: some in order, others in
/// the midst of commands.
fn crowd(target: &TestTarget, round: u8) {
    let mut all = Vec::new();
    for number in 0..HOSTS {
        let host = identity(1 + round * HOSTS + number);
        let (mut admin, cntlid) = Wire::admin(target.address, &subsystem(0), &host);
        // They are told of events, register for reservations, and ask what there is.
        admin.send(&capsule(SubmissionQueueEntry::new(admin::ASYNC_EVENT_REQUEST), &[]));
        let mut configuration = SubmissionQueueEntry::new(admin::SET_FEATURES);
        configuration.cdw10.set(0x0b);
        configuration.cdw11.set(0x11f);
        assert!(admin.status(&capsule(configuration, &[])).is_success());
        let queues = (1..=QUEUES).map(|qid| Wire::io(target.address, cntlid, qid, &subsystem(0), &host));
        let mut queues: Vec<Wire> = queues.collect();
        for (index, queue) in queues.iter_mut().enumerate() {
            assert!(queue.status(&capsule(command(nvm::WRITE, 7, 1), &[3; 4096])).is_success());
            queue.send(&by_transport(command(nvm::WRITE, 8, 32), 128 << 10));
            let r2t = queue.r2t();
            if index % 2 == 0 {
                queue.send(&h2c_data(&r2t, 0, &[4; 128 << 10], true));
                assert!(queue.response().status().is_success());
            }
            queue.send(&by_transport(command(nvm::READ, 9, 1), 4096).repeat(20));
            queue.send(&capsule(command(nvm::WRITE, 9, 1), &[5; 4096])[..1000]);
        }
        let register = command(nvm::RESERVATION_REGISTER, 0, 1);
        let keys = [0_u64.to_le_bytes(), 9_u64.to_le_bytes()].concat();
        let mut another = Wire::io(target.address, cntlid, QUEUES + 1, &subsystem(0), &host);
        let registered = another.status(&capsule(register, &keys));
        assert!(registered.is_success(), "{registered}");
        let mut leave = register;
        leave.cdw10.set(1);
        assert!(another.status(&capsule(leave, &keys[8..].repeat(2))).is_success());
        all.push((admin, queues, another));
    }
    drop(all);
    // And one that ends in order.
    let (mut admin, mut queue) = target.queue(1 + round * HOSTS);
    queue.write_blocks(1, 100, 4096, &pattern(100, 1, 8 * 4096)).unwrap();
    assert!(queue.read_blocks(1, 100, 8, 4096).unwrap() == pattern(100, 1, 8 * 4096));
    assert!(queue.read_blocks(99, 0, 1, 4096).is_err(), "there is no such namespace");
    admin.identify_controller().unwrap();
    drop(queue);
    admin.shutdown().unwrap();
}

#[test]
fn hosts_that_came_and_went_leave_nothing_behind() {
    let mut limits = Limits::default();
    for rule in ["host=iops=1M", "namespace=bandwidth=10GiB"] {
        let (subject, limit) = Limits::parse_rule(rule).unwrap();
        limits.set(subject, limit);
    }
    for limits in [Limits::default(), limits] {
        let target = TestTarget::with(Setup { reactors: 2, limits, ..Setup::default() });
        let mut earlier: Option<Allocated> = None;
        for round in 0..12 {
            crowd(&target, round);
            eventually("all hosts are gone", || target.associations() == 0);
            // Lists get room for as many as there are at a time, once and for all.
            if round < 4 {
                std::thread::sleep(Duration::from_millis(200));
                continue;
            }
            let before = *earlier.get_or_insert_with(Allocated::now);
            // A channel has a piece more or less for what it carries. Of each crowd much less than one for each host.
            let as_before = || {
                let now = Allocated::now();
                now.bytes < before.bytes + (32 << 10) && now.pieces < before.pieces + 3 * isize::from(HOSTS)
            };
            eventually("nothing is left of the next crowd", as_before);
        }
        target.assert_no_violations();
    }
}
