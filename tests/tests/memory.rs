//! Memory that connections share: one that hoards it gets no more than its part, and not for long.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::time::Duration;

use gangway_bridge::ReactorConfig;
use gangway_fabric::host::client::Transfer;
use gangway_spec::opcode::{admin, nvm};
use gangway_spec::{SubmissionQueueEntry, registers};
use gangway_tests::wire::{Wire, by_transport};
use gangway_tests::{
    Bystander, Setup, TestTarget, command, eventually, identity, pattern, subsystem, use_all_memory,
};

/// A host with many I/O queues.
struct Hoarder {
    _admin: Wire,
    queues: Vec<Wire>,
}

impl Hoarder {
    fn new(target: &TestTarget) -> Self {
        let host = identity(66);
        let (admin, cntlid) = Wire::admin(target.address, &subsystem(0), &host);
        let queues = (1..=8).map(|qid| Wire::io(target.address, cntlid, qid, &subsystem(0), &host)).collect();
        Self { _admin: admin, queues }
    }
}

/// The hoarder is gone, no command is forgotten, and all memory is there.
fn assert_as_before(target: &TestTarget, bystander: Bystander) {
    bystander.finish();
    eventually("all associations are gone", || target.associations() == 0);
    let (_admin, mut queue) = target.queue(9);
    use_all_memory(&mut queue, 77);
    target.assert_no_violations();
}

/// A target with so little memory that one host could take all of it.
fn small() -> TestTarget {
    let memory = ReactorConfig {
        data_memory: 4 << 20,
        receive_chunks: 4,
        host_timeout: Duration::from_secs(1),
        ..ReactorConfig::default()
    };
    TestTarget::with(Setup { memory, ..Setup::default() })
}

#[test]
fn a_host_that_never_sends_the_data_of_its_writes_does_not_starve_others() {
    let target = small();
    let mut hoarder = Hoarder::new(&target);
    let write = by_transport(command(nvm::WRITE, 1000, 256), 1 << 20);
    for queue in &mut hoarder.queues {
        queue.send(&write.repeat(100));
    }
    hoarder.queues[0].r2t();
    let (_admin, mut queue) = target.queue(2);
    use_all_memory(&mut queue, 1);
    let bystander = Bystander::start(&target, 1, 0);
    bystander.assert_goes_on();
    drop(hoarder);
    drop((queue, _admin));
    assert_as_before(&target, bystander);
}

#[test]
fn a_host_that_reads_nothing_does_not_starve_others() {
    let target = small();
    let mut hoarder = Hoarder::new(&target);
    let read = by_transport(command(nvm::READ, 0, 256), 1 << 20);
    for queue in &mut hoarder.queues {
        queue.send(&read.repeat(100));
    }
    let (_admin, mut queue) = target.queue(2);
    use_all_memory(&mut queue, 1);
    let bystander = Bystander::start(&target, 1, 0);
    bystander.assert_goes_on();
    drop(hoarder);
    drop((queue, _admin));
    assert_as_before(&target, bystander);
}

#[test]
fn a_host_that_asks_and_never_listens_does_not_make_the_target_grow() {
    let target = TestTarget::start();
    let bystander = Bystander::start(&target, 1, 0);
    {
        let host = identity(7);
        let (mut wire, _) = Wire::admin(target.address, &subsystem(0), &host);
        let mut identify = SubmissionQueueEntry::new(admin::IDENTIFY);
        identify.cdw10.set(1);
        let flood = by_transport(identify, 4096).repeat(1024);
        let mut sent = 0;
        // As long as the target takes commands that it cannot answer, it has to keep the answers. A command is 72
        // bytes, its answer more than 4096: what the kernel buffers is far less than this, and the answers to all of
        // it were more than a gigabyte.
        let most = 24 << 20;
        while sent < most {
            let taken = wire.send_for(&flood, Duration::from_millis(500));
            sent += taken;
            if taken < flood.len() {
                break;
            }
        }
        assert!(sent < most, "the target takes commands without end from a host that reads no answer");
        bystander.assert_goes_on();
    }
    assert_as_before(&target, bystander);
}

#[test]
fn writes_of_many_connections_in_capsules_and_by_r2t_share_little_memory_without_a_deadlock() {
    let memory = ReactorConfig {
        data_memory: 1 << 20,
        receive_chunk: 64 << 10,
        receive_chunks: 3,
        ..ReactorConfig::default()
    };
    let target = TestTarget::with(Setup { memory, ..Setup::default() });
    let mut admin = target.host(1);
    let queues: Vec<_> = (1..=16).map(|qid| admin.connect_io(qid).unwrap()).collect();
    std::thread::scope(|scope| {
        for (index, mut queue) in (0_u64..).zip(queues) {
            scope.spawn(move || {
                let first = index * 1000;
                let mut places = Vec::new();
                for n in 0..120 {
                    let (lba, blocks) = (first + n * 8, [1, 2, 7, 1, 8, 2][(n % 6) as usize]);
                    places.push((lba, blocks));
                    let data = pattern(lba, index, blocks as usize * 4096);
                    queue.submit(&command(nvm::WRITE, lba, blocks), Transfer::Write(data.into())).unwrap();
                }
                for _ in 0..places.len() {
                    let completed =
                        queue.wait(Duration::from_secs(60)).unwrap().expect("a completion in time");
                    assert!(completed.entry.status().is_success());
                }
                for (lba, blocks) in places {
                    let read = queue.read_blocks(1, lba, blocks, 4096).unwrap();
                    assert!(
                        read == pattern(lba, index, blocks as usize * 4096),
                        "{blocks} blocks at {lba} differ"
                    );
                }
            });
        }
    });
    let cap = admin.property_get(registers::CAP).unwrap();
    assert_ne!(cap, 0, "the admin queue is alive");
    target.assert_no_violations();
}
