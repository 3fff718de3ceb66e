//! Memory that connections share: one that hoards it gets no more than its part, and not for long.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::collections::VecDeque;
use std::time::Duration;

use gangway_bridge::ReactorConfig;
use gangway_driver::emulated::EmulatedConfig;
use gangway_fabric::host::client::{AdminQueue, IoQueue, Options, Transfer};
use gangway_fabric::pdu::{CapsuleResp, PduType, R2t};
use gangway_spec::opcode::{admin, nvm};
use gangway_spec::{Status, SubmissionQueueEntry, registers};
use gangway_tests::wire::{REFUSAL, Wire, by_transport, capsule, h2c_data, refused};
use gangway_tests::{
    Bystander, Setup, TestTarget, command, eventually, identity, pattern, subsystem, use_all_memory,
};
use zerocopy::FromBytes;

/// A host with many I/O queues.
struct Hoarder {
    _admin: Wire,
    queues: Vec<Wire>,
}

impl Hoarder {
    fn new(target: &TestTarget) -> Self {
        Self::with(target, 8)
    }

    fn with(target: &TestTarget, queues: u16) -> Self {
        let host = identity(66);
        let (admin, cntlid) = Wire::admin(target.address, &subsystem(0), &host);
        let io = |qid| Wire::io(target.address, cntlid, qid, &subsystem(0), &host);
        Self { _admin: admin, queues: (1..=queues).map(io).collect() }
    }
}

/// The status of the next response. R2Ts that come before it are added to `asked`.
fn next_status(wire: &mut Wire, asked: &mut VecDeque<R2t>) -> Status {
    loop {
        let pdu = wire.pdu().expect("a response");
        match PduType(pdu[0]) {
            PduType::R2T => asked.push_back(R2t::read_from_bytes(&pdu).unwrap()),
            PduType::CAPSULE_RESP => return CapsuleResp::ref_from_bytes(&pdu).unwrap().entry.status(),
            other => panic!("{other} instead of a response"),
        }
    }
}

/// Returns when the target has taken everything that was sent so far, and nothing of it has completed. R2Ts that came
/// by then are added to `asked`.
fn assert_taken(wire: &mut Wire, asked: &mut VecDeque<R2t>) {
    wire.send(&refused());
    assert_eq!(next_status(wire, asked), REFUSAL, "a command has completed");
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

/// Asserts that the target takes less than `most` bytes of `flood`, sent again and again, of a host that reads nothing.
fn assert_stops_taking(wire: &mut Wire, flood: &[u8], most: usize) {
    let mut sent = 0;
    while sent < most {
        let taken = wire.send_for(flood, Duration::from_millis(500));
        sent += taken;
        if taken < flood.len() {
            return;
        }
    }
    panic!("the target takes commands without end from a host that reads no answer");
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
        // As long as the target takes commands that it cannot answer, it has to keep the answers. A command is 72
        // bytes, its answer more than 4096: what the kernel buffers is far less than this, and the answers to all of
        // it were more than a gigabyte.
        assert_stops_taking(&mut wire, &flood, 24 << 20);
        bystander.assert_goes_on();
    }
    assert_as_before(&target, bystander);
}

#[test]
fn a_host_that_sends_what_is_refused_and_never_listens_does_not_make_the_target_grow() {
    let target = TestTarget::start();
    let bystander = Bystander::start(&target, 1, 0);
    {
        let mut hoarder = Hoarder::with(&target, 1);
        let wire = &mut hoarder.queues[0];
        wire.set_receive_buffer(64 << 10);
        let flood = refused().repeat(4096);
        // Command and answer are 72 and 24 bytes: a kernel may hold as much of either as its limits say, which is far
        // less than this.
        assert_stops_taking(wire, &flood, 128 << 20);
        bystander.assert_goes_on();
    }
    assert_as_before(&target, bystander);
}

#[test]
fn a_host_that_doles_its_data_out_byte_by_byte_does_not_keep_memory_that_others_wait_for() {
    let target = small();
    let mut hoarder = Hoarder::with(&target, 4);
    for wire in &mut hoarder.queues {
        wire.send(&by_transport(command(nvm::WRITE, 1000, 256), 1 << 20));
        let r2t = wire.r2t();
        // The header of the data, and none of it yet.
        wire.send(&h2c_data(&r2t, 0, &[1; 1 << 20], true)[..24]);
    }
    let (admin, mut queue) = target.queue(2);
    let data = pattern(0, 1, 16 * 4096);
    queue.submit(&command(nvm::WRITE, 0, 16), Transfer::Write(data.clone().into())).unwrap();
    queue.flush().unwrap();
    let completed = (0..200).find_map(|_| {
        for wire in &mut hoarder.queues {
            wire.send(&[1]);
        }
        queue.wait(Duration::from_millis(100)).unwrap()
    });
    let completed = completed.expect("the write of another host while one doles its data out");
    assert!(completed.entry.status().is_success(), "{}", completed.entry.status());
    assert!(queue.read_blocks(1, 0, 16, 4096).unwrap() == data, "the data differs");
    let bystander = Bystander::start(&target, 1, 100);
    drop((hoarder, queue, admin));
    assert_as_before(&target, bystander);
}

/// A target with a drive that never completes anything, and one that does at once.
fn stuck(memory: ReactorConfig) -> TestTarget {
    let drive = EmulatedConfig { size: 64 << 20, ..EmulatedConfig::default() };
    let stuck = EmulatedConfig { latency: Some(Duration::from_secs(3000)), ..drive.clone() };
    // Long after the test has failed, the stuck drive would be reset.
    let memory = ReactorConfig { io_timeout: Duration::from_secs(600), ..memory };
    TestTarget::with(Setup { drives: vec![stuck, drive], memory, max_io_queues: 32, ..Setup::default() })
}

/// A host on the drive of [`stuck`] that works.
fn on_the_other_drive(target: &TestTarget) -> (AdminQueue, IoQueue) {
    let mut admin = target.host_with(2, 1, &Options::default());
    let queue = admin.connect_io(1).unwrap();
    (admin, queue)
}

fn memory_of(data_memory: usize) -> ReactorConfig {
    ReactorConfig { data_memory, receive_chunk: 64 << 10, receive_chunks: 16, ..ReactorConfig::default() }
}

#[test]
fn writes_to_a_stuck_drive_leave_memory_to_another_drive() {
    let target = stuck(memory_of(8 << 20));
    let mut hoarder = Hoarder::new(&target);
    let data = vec![1; 1 << 20];
    let mut asked = VecDeque::new();
    let mut given = 0;
    for wire in &mut hoarder.queues {
        wire.send(&by_transport(command(nvm::WRITE, 0, 256), 1 << 20).repeat(16));
        // Twice, because data that was taken may make the target ask for more after the answer.
        let mut quiet = 0;
        while quiet < 2 {
            assert_taken(wire, &mut asked);
            quiet = if asked.is_empty() { quiet + 1 } else { 0 };
            for r2t in asked.drain(..) {
                wire.send(&h2c_data(&r2t, 0, &data, true));
                given += 1;
            }
        }
    }
    assert!(given > 1, "the stuck drive has its share");
    assert_the_other_has_its_share(target, hoarder, asked);
}

/// The other drive's commands have memory, while nothing of what is with the stuck one has completed.
fn assert_the_other_has_its_share(target: TestTarget, mut hoarder: Hoarder, mut asked: VecDeque<R2t>) {
    let (_admin, mut queue) = on_the_other_drive(&target);
    use_all_memory(&mut queue, 1);
    for wire in &mut hoarder.queues {
        assert_taken(wire, &mut asked);
    }
    target.assert_no_violations();
    target.abandon();
}

#[test]
fn reads_from_a_stuck_drive_leave_memory_to_another_drive() {
    let target = stuck(memory_of(8 << 20));
    let mut hoarder = Hoarder::new(&target);
    let mut asked = VecDeque::new();
    for wire in &mut hoarder.queues {
        wire.send(&by_transport(command(nvm::READ, 0, 256), 1 << 20).repeat(16));
        assert_taken(wire, &mut asked);
    }
    assert_the_other_has_its_share(target, hoarder, asked);
}

#[test]
fn writes_in_capsules_to_a_stuck_drive_leave_receive_memory_to_another_drive() {
    let target = stuck(memory_of(8 << 20));
    let mut hoarder = Hoarder::with(&target, 1);
    let wire = &mut hoarder.queues[0];
    let (_admin, mut queue) = on_the_other_drive(&target);
    let mut asked = VecDeque::new();
    for round in 0..100 {
        wire.send(&capsule(command(nvm::WRITE, round, 1), &[1; 4096]));
        assert_taken(wire, &mut asked);
        // So much that the next write to the stuck drive arrives in another chunk.
        for lba in 0..16 {
            queue.write_blocks(1, lba, 4096, &pattern(lba, round, 4096)).unwrap();
        }
    }
    for lba in 0..16 {
        assert!(queue.read_blocks(1, lba, 1, 4096).unwrap() == pattern(lba, 99, 4096), "block {lba} differs");
    }
    target.assert_no_violations();
    target.abandon();
}

#[test]
fn connections_that_wait_for_a_stuck_drive_leave_receive_memory_to_another_drive() {
    let target = stuck(memory_of(8 << 20));
    let host = identity(66);
    let (_admin, cntlid) = Wire::admin(target.address, &subsystem(0), &host);
    let (_other, mut queue) = on_the_other_drive(&target);
    // Far more than the stuck drive's share of memory, so that connections stop in the midst of a capsule. There are
    // more of them than chunks to receive into.
    let writes = capsule(command(nvm::WRITE, 0, 2), &[1; 8192]).repeat(100);
    let mut waiting = Vec::new();
    for qid in 1..=24 {
        let mut wire = Wire::io(target.address, cntlid, qid, &subsystem(0), &host);
        wire.send_for(&writes, Duration::from_millis(100));
        waiting.push(wire);
        queue.write_blocks(1, 0, 4096, &pattern(0, u64::from(qid), 4096)).unwrap();
    }
    assert!(queue.read_blocks(1, 0, 1, 4096).unwrap() == pattern(0, 24, 4096));
    target.assert_no_violations();
    target.abandon();
}

#[test]
fn a_large_write_is_not_overtaken_for_ever_by_small_ones() {
    const SMALL: u32 = 16 << 10;
    const EACH: usize = 64;
    // Hosts that are slow by intent are not to be ended.
    let memory = ReactorConfig { host_timeout: Duration::from_secs(600), ..memory_of(4 << 20) };
    let target = TestTarget::with(Setup { memory, ..Setup::default() });
    let mut small = Hoarder::with(&target, 5);
    let write = by_transport(command(nvm::WRITE, 0, SMALL / 4096), SMALL);
    // Four of them take all the memory, and the fifth waits.
    let mut asked: Vec<VecDeque<R2t>> = vec![VecDeque::new(); small.queues.len()];
    for (wire, asked) in small.queues.iter_mut().zip(&mut asked) {
        wire.send(&write.repeat(EACH));
        assert_taken(wire, asked);
    }
    assert_eq!(asked.iter().map(VecDeque::len).sum::<usize>(), 4 * EACH);

    let host = identity(7);
    let (_admin, cntlid) = Wire::admin(target.address, &subsystem(0), &host);
    let mut large = Wire::io(target.address, cntlid, 1, &subsystem(0), &host);
    large.send(&by_transport(command(nvm::WRITE, 1024, 256), 1 << 20));
    let mut answer = VecDeque::new();
    assert_taken(&mut large, &mut answer);
    // Each small write that is done is followed by another one. Those that came before the large one, and some, may
    // have their turn first.
    let mut overtaken = 0;
    while answer.is_empty() {
        for (wire, asked) in small.queues.iter_mut().zip(&mut asked) {
            assert_taken(wire, asked);
            let Some(r2t) = asked.pop_front() else { continue };
            wire.send(&h2c_data(&r2t, 0, &[1; SMALL as usize], true));
            assert!(next_status(wire, asked).is_success());
            wire.send(&write);
            overtaken += 1;
        }
        assert!(
            overtaken < 10 * 5 * EACH,
            "the large write waits for memory that small ones take again and again"
        );
        assert_taken(&mut large, &mut answer);
    }
    let data = pattern(1024, 1, 1 << 20);
    large.send(&h2c_data(&answer[0], 0, &data, true));
    assert!(next_status(&mut large, &mut answer).is_success());
    drop(small);
    let (_admin, mut queue) = target.queue(2);
    assert!(queue.read_blocks(1, 1024, 256, 4096).unwrap() == data, "the data of the large write differs");
    target.assert_no_violations();
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

#[test]
fn a_socket_that_found_no_memory_to_receive_into_is_served_though_no_other_one_stirs() {
    // One chunk, of which a few dozen capsules leave too little for anything else until they have been worked through.
    let memory = ReactorConfig { receive_chunk: 20 << 10, receive_chunks: 1, ..ReactorConfig::default() };
    let target = TestTarget::with(Setup { memory, ..Setup::default() });
    let mut host = Hoarder::with(&target, 2);
    let [talker, other] = &mut host.queues[..] else { panic!("two queues") };
    const MANY: usize = 100;
    for _ in 0..400 {
        talker.send(&refused().repeat(MANY));
        other.send(&refused());
        // Nothing more is sent until the other one has its answer.
        assert_eq!(other.response().status(), REFUSAL);
        for _ in 0..MANY {
            assert_eq!(talker.response().status(), REFUSAL);
        }
    }
}
