//! Limits of hosts and namespaces: kept to, shared fairly, changed while they are in force, and no burden for others.
//!
//! What takes time here has a least time, never a longest one.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gangway_bridge::{Limit, Limits, ReactorConfig, Subject};
use gangway_driver::emulated::EmulatedConfig;
use gangway_fabric::host::client::{AdminQueue, IoQueue, Transfer};
use gangway_fabric::pdu::{CapsuleResp, PduType, R2t};
use gangway_spec::opcode::{admin, nvm};
use gangway_spec::{CompletionQueueEntry, Status, SubmissionQueueEntry};
use gangway_tests::wire::{REFUSAL, Wire, by_transport, capsule, h2c_data, refused};
use gangway_tests::{
    Bystander, Setup, TestTarget, command, eventually, identity, pattern, subsystem, use_all_memory,
};
use zerocopy::FromBytes;

const PATIENCE: Duration = Duration::from_secs(30);

fn limits(rules: &[String]) -> Limits {
    let mut limits = Limits::default();
    for rule in rules {
        let (subject, limit) = Limits::parse_rule(rule).unwrap();
        limits.set(subject, limit);
    }
    limits
}

fn limited(reactors: usize, rules: &[String]) -> TestTarget {
    TestTarget::with(Setup { reactors, limits: limits(rules), ..Setup::default() })
}

/// The rule for one host of the tests.
fn host(number: u8, limit: &str) -> String {
    format!("host:{}={limit}", identity(number).nqn)
}

fn queues(admin: &mut AdminQueue, count: u16) -> Vec<IoQueue> {
    (1..=count).map(|qid| admin.connect_io(qid).unwrap()).collect()
}

fn ask(queue: &mut IoQueue, reads: usize) {
    for lba in 0..reads as u64 {
        queue.submit(&command(nvm::READ, lba, 1), Transfer::Read(4096)).unwrap();
    }
    queue.flush().unwrap();
}

/// Commands that have completed by now.
fn collect(queues: &mut [IoQueue]) -> usize {
    let mut completed = 0;
    for queue in queues {
        while let Some(done) = queue.wait(Duration::ZERO).unwrap() {
            assert!(done.entry.status().is_success());
            completed += 1;
        }
    }
    completed
}

fn finish(queue: &mut IoQueue) {
    while queue.in_flight() > 0 {
        assert!(queue.wait(PATIENCE).unwrap().expect("a completion in time").entry.status().is_success());
    }
}

#[test]
fn all_queues_of_a_host_on_all_reactors_have_one_limit_together_and_others_have_none() {
    let target = limited(2, &[host(1, "iops=200,burst=0ms")]);
    let mut admin = target.host(1);
    let mut mine = queues(&mut admin, 4);
    let bystander = Bystander::start(&target, 2, 1024);
    let start = Instant::now();
    mine.iter_mut().for_each(|queue| ask(queue, 25));
    mine.iter_mut().for_each(finish);
    // 200 in a second, and what each reactor may be ahead.
    assert!(start.elapsed() > Duration::from_millis(450), "100 commands took {:?}", start.elapsed());
    bystander.finish();
    target.assert_no_violations();
}

#[test]
fn hosts_have_a_limited_namespace_in_turn_however_many_queues_they_have() {
    let target = limited(1, &["namespace:1=iops=300,burst=0ms".to_owned()]);
    let (mut admin, mut admin_2) = (target.host(1), target.host(2));
    let mut many = queues(&mut admin, 8);
    let mut one = queues(&mut admin_2, 1);
    many.iter_mut().for_each(|queue| ask(queue, 100));
    std::thread::sleep(Duration::from_millis(30));
    collect(&mut many);
    ask(&mut one[0], 40);
    finish(&mut one[0]);
    let before = collect(&mut many);
    assert!((20..=100).contains(&before), "{before} commands of the host with many queues, 40 of the other");
    target.set_limit(Subject::Namespace(1), Limit::NONE);
    many.iter_mut().for_each(finish);
    target.assert_no_violations();
}

/// Writes and reads back in pieces of `blocks` blocks, many at a time.
fn write_and_verify(queue: &mut IoQueue, blocks: u32, pieces: u64) {
    let bytes = blocks * 4096;
    for (opcode, writes) in [(nvm::WRITE, true), (nvm::READ, false)] {
        let mut waiting = HashMap::new();
        for lba in (0..pieces).map(|piece| piece * u64::from(blocks)) {
            let transfer = match writes {
                true => Transfer::Write(pattern(lba, 1, bytes as usize).into()),
                false => Transfer::Read(bytes),
            };
            waiting.insert(queue.submit(&command(opcode, lba, blocks), transfer).unwrap(), lba);
        }
        while !waiting.is_empty() {
            let done = queue.wait(PATIENCE).unwrap().expect("a completion in time");
            let lba = waiting.remove(&done.tag).unwrap();
            assert!(done.entry.status().is_success(), "{}", done.entry.status());
            assert!(writes || done.data == pattern(lba, 1, bytes as usize), "the data at {lba} differs");
        }
    }
}

#[test]
fn commands_that_wait_for_bandwidth_keep_their_data_in_capsules_and_out_of_them() {
    let target = limited(1, &["host=bandwidth=8MiB,burst=0ms".to_owned(), "namespace=iops=2k".to_owned()]);
    let (_admin, mut queue) = target.queue(1);
    let start = Instant::now();
    write_and_verify(&mut queue, 1, 100);
    write_and_verify(&mut queue, 2, 100);
    write_and_verify(&mut queue, 32, 12);
    // 5.4 MB both ways together, at 8.4 MB/s.
    assert!(start.elapsed() > Duration::from_millis(580), "{:?}", start.elapsed());
    target.assert_no_violations();
}

#[test]
fn commands_larger_than_what_their_limit_gives_in_a_second_go_on() {
    let target = limited(1, &["host=bandwidth=512KiB".to_owned()]);
    let (_admin, mut queue) = target.queue(1);
    write_and_verify(&mut queue, 256, 1);
    target.assert_no_violations();
}

#[test]
fn a_limit_that_is_lifted_lets_go_what_waits_and_one_that_comes_holds_what_is_new() {
    let target = limited(2, &["host=iops=1".to_owned()]);
    let mut admin = target.host(1);
    let mut mine = queues(&mut admin, 4);
    mine.iter_mut().for_each(|queue| ask(queue, 50));
    std::thread::sleep(Duration::from_millis(50));
    // At this rate it would take minutes.
    target.set_limit(Subject::EachHost, Limit::NONE);
    mine.iter_mut().for_each(finish);
    target
        .set_limit(Subject::Host(identity(1).nqn.as_str().to_owned()), "iops=100,burst=0ms".parse().unwrap());
    let start = Instant::now();
    mine.iter_mut().for_each(|queue| ask(queue, 10));
    mine.iter_mut().for_each(finish);
    assert!(start.elapsed() > Duration::from_millis(350), "40 commands took {:?}", start.elapsed());
    target.assert_no_violations();
}

#[test]
fn a_host_that_waits_for_its_limit_takes_no_memory_from_others_and_may_leave() {
    let target = limited(1, &[host(1, "iops=1")]);
    let mut admin = target.host(1);
    let mut slow = queues(&mut admin, 16);
    for queue in &mut slow {
        for (place, blocks) in [1, 2, 2, 32].into_iter().cycle().enumerate().take(100) {
            let data = vec![7; blocks as usize * 4096];
            // Behind what the other host uses: some are executed meanwhile.
            let lba = 8192 + place as u64 * 32;
            queue.submit(&command(nvm::WRITE, lba, blocks), Transfer::Write(data.into())).unwrap();
        }
        queue.flush().unwrap();
    }
    let (_other, mut queue) = target.queue(2);
    use_all_memory(&mut queue, 3);
    drop((slow, admin));
    eventually("the slow host is gone", || target.associations() == 1);
    // The same host, with nothing left of what it did before.
    target.set_limit(Subject::Host(identity(1).nqn.as_str().to_owned()), Limit::NONE);
    let (_admin, mut queue) = target.queue(1);
    write_and_verify(&mut queue, 2, 50);
    target.assert_no_violations();
}

#[test]
fn a_command_that_waits_for_a_limit_can_be_aborted_and_those_behind_it_go_on() {
    let target = limited(1, &["host=iops=1".to_owned()]);
    let (mut admin, mut queue) = target.queue(1);
    let mut tags = Vec::new();
    for lba in 0..6 {
        // In their capsules, by turns.
        let (opcode, transfer) = match lba % 2 {
            0 => (nvm::READ, Transfer::Read(4096)),
            _ => (nvm::WRITE, Transfer::Write(pattern(lba, 1, 4096).into())),
        };
        tags.push(queue.submit(&command(opcode, lba, 1), transfer).unwrap());
    }
    queue.flush().unwrap();
    assert!(queue.wait(PATIENCE).unwrap().unwrap().entry.status().is_success());
    for tag in &tags[1..3] {
        let cid = queue.queue().cid(*tag);
        assert!(admin.abort(1, cid).unwrap());
        let completed = queue.wait(PATIENCE).unwrap().unwrap();
        assert_eq!((completed.tag, completed.entry.status()), (*tag, Status::ABORT_REQUESTED));
    }
    target.set_limit(Subject::EachHost, Limit::NONE);
    finish(&mut queue);
    assert_eq!(queue.read_blocks(1, 5, 1, 4096).unwrap(), pattern(5, 1, 4096));
    assert_eq!(queue.read_blocks(1, 1, 1, 4096).unwrap(), vec![0; 4096], "the aborted write was not done");
    target.assert_no_violations();
}

#[test]
fn a_host_that_is_always_at_its_limit_connects_once_more() {
    let target = limited(1, &["host=iops=50,burst=0ms".to_owned()]);
    let (admin, mut queue) = target.queue(1);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let more = 8_usize.saturating_sub(queue.in_flight());
                ask(&mut queue, more);
                assert!(
                    queue.wait(PATIENCE).unwrap().expect("a completion in time").entry.status().is_success()
                );
            }
        });
        // By then some of its commands wait, at any time.
        std::thread::sleep(Duration::from_millis(300));
        let (_admin, second) = target.queue(1);
        stop.store(true, Ordering::Relaxed);
        busy.join().unwrap();
        drop(second);
    });
    finish(&mut queue);
    drop(admin);
    target.assert_no_violations();
}

/// The I/O queues 1 to `count` of host 1, and its admin queue.
fn wires(target: &TestTarget, count: u16) -> (Wire, Vec<Wire>) {
    let host = identity(1);
    let (admin, cntlid) = Wire::admin(target.address, &subsystem(0), &host);
    let io = |qid| Wire::io(target.address, cntlid, qid, &subsystem(0), &host);
    (admin, (1..=count).map(io).collect())
}

/// Where writes begin that do not touch what [`use_all_memory`] verifies.
const OWN: u64 = 10_000;

/// `count` writes with data in their capsules, as many reads, and as many writes with data that is to be asked for.
fn some_of_each(count: u64) -> Vec<u8> {
    let each = |place| {
        let lba = OWN + place;
        let in_capsule = capsule(command(nvm::WRITE, lba, 1), &pattern(lba, 5, 4096));
        let read = by_transport(command(nvm::READ, place, 1), 4096);
        [in_capsule, read, by_transport(command(nvm::WRITE, OWN + 1000 + 8 * place, 8), 32768)].concat()
    };
    (0..count).flat_map(each).collect()
}

/// The next response of a host that sends what it is asked for. Data of reads is passed over.
fn next_response(wire: &mut Wire) -> CompletionQueueEntry {
    loop {
        let pdu = wire.pdu().expect("the connection lives");
        match PduType(pdu[0]) {
            PduType::CAPSULE_RESP => return CapsuleResp::ref_from_bytes(&pdu).unwrap().entry,
            PduType::R2T => {
                let r2t = R2t::read_from_bytes(&pdu).unwrap();
                let data = vec![9; r2t.r2tl.get() as usize];
                wire.send(&h2c_data(&r2t, 0, &data, true));
            }
            other => assert_eq!(other, PduType::C2H_DATA),
        }
    }
}

#[test]
fn data_that_was_asked_for_is_received_behind_commands_that_wait() {
    const LARGE: u16 = 77;
    let target = limited(1, &["host=iops=1".to_owned()]);
    let (_admin, mut wires) = wires(&target, 1);
    let wire = &mut wires[0];
    let mut write = command(nvm::WRITE, OWN + 2000, 256);
    write.cid.set(LARGE);
    wire.send(&by_transport(write, 1 << 20));
    let r2t = wire.r2t();
    wire.send(&some_of_each(30));
    wire.send(&h2c_data(&r2t, 0, &pattern(1, 1, 1 << 20), true));
    let mut before = 0;
    loop {
        let entry = next_response(wire);
        assert!(entry.status().is_success(), "{}", entry.status());
        if entry.cid.get() == LARGE {
            break;
        }
        before += 1;
    }
    // At this rate each of them takes a second.
    assert!(before < 10, "{before} of 90 commands that wait came before the write whose data was there");
    target.assert_no_violations();
}

#[test]
fn hosts_at_their_limit_keep_no_memory_that_others_wait_for_and_stay_connected() {
    let memory = ReactorConfig {
        data_memory: 4 << 20,
        receive_chunks: 4,
        host_timeout: Duration::from_secs(3),
        ..ReactorConfig::default()
    };
    let target = TestTarget::with(Setup { memory, ..Setup::default() });
    let (_admin, mut wires) = wires(&target, 8);
    // Half of them have all memory for data of writes between them when the limit comes.
    let mut asked = Vec::new();
    for (index, wire) in wires[..4].iter_mut().enumerate() {
        wire.send(&by_transport(command(nvm::WRITE, OWN + 2000 + 256 * index as u64, 256), 1 << 20));
        asked.push(wire.r2t());
    }
    target.set_limit(Subject::Host(identity(1).nqn.as_str().to_owned()), "iops=1".parse().unwrap());
    for wire in &mut wires {
        wire.send(&some_of_each(40));
    }
    for (wire, r2t) in wires.iter_mut().zip(&asked) {
        wire.send(&h2c_data(r2t, 0, &[4; 1 << 20], true));
    }
    let (_other, mut queue) = target.queue(2);
    for round in 0..3 {
        use_all_memory(&mut queue, round);
        // By then a host that keeps memory from others would be gone.
        std::thread::sleep(Duration::from_millis(1300));
    }
    for wire in &mut wires {
        wire.send(&refused());
    }
    target.set_limit(Subject::Host(identity(1).nqn.as_str().to_owned()), Limit::NONE);
    // All at a time: who keeps the others waiting for data is ended.
    std::thread::scope(|scope| {
        for (index, wire) in wires.iter_mut().enumerate() {
            scope.spawn(move || {
                let (mut done, mut refused) = (0, 0);
                while done < 120 + usize::from(index < 4) || refused < 1 {
                    match next_response(wire).status() {
                        REFUSAL => refused += 1,
                        status if status.is_success() => done += 1,
                        status => panic!("{status}"),
                    }
                }
            });
        }
    });
    for lba in OWN..OWN + 40 {
        assert!(queue.read_blocks(1, lba, 1, 4096).unwrap() == pattern(lba, 5, 4096), "block {lba} differs");
    }
    target.assert_no_violations();
}

#[test]
fn more_data_in_capsules_than_there_is_room_for_is_written_and_no_faster_than_it_may() {
    let memory = ReactorConfig { data_memory: 1 << 20, ..ReactorConfig::default() };
    let limits = limits(&[host(1, "iops=800,burst=0ms")]);
    let target = TestTarget::with(Setup { memory, limits, ..Setup::default() });
    let mut admin = target.host(1);
    let mut mine = queues(&mut admin, 4);
    let start = Instant::now();
    for (first, queue) in (0..).step_by(100).zip(&mut mine) {
        for lba in first..first + 100 {
            queue
                .submit(&command(nvm::WRITE, lba, 1), Transfer::Write(pattern(lba, 3, 4096).into()))
                .unwrap();
        }
        queue.flush().unwrap();
    }
    let (_other, mut queue) = target.queue(2);
    use_all_memory_beside(&mut queue);
    mine.iter_mut().for_each(finish);
    assert!(start.elapsed() > Duration::from_millis(450), "400 commands took {:?}", start.elapsed());
    for lba in 0..400 {
        assert!(queue.read_blocks(1, lba, 1, 4096).unwrap() == pattern(lba, 3, 4096), "block {lba} differs");
    }
    target.assert_no_violations();
}

#[test]
fn what_a_host_owes_when_it_leaves_it_owes_when_it_is_back() {
    let memory = ReactorConfig { data_memory: 1 << 20, ..ReactorConfig::default() };
    let limits = limits(&[host(1, "iops=100,burst=0ms")]);
    let target = TestTarget::with(Setup { memory, limits, ..Setup::default() });
    let start = Instant::now();
    {
        let (_admin, mut wires) = wires(&target, 4);
        for wire in &mut wires {
            wire.send(&capsule(command(nvm::WRITE, OWN, 1), &[1; 4096]).repeat(120));
            wire.send(&refused());
            while next_response(wire).status() != REFUSAL {}
        }
    }
    eventually("the host is gone", || target.associations() == 0);
    let (_admin, mut queue) = target.queue(1);
    ask(&mut queue, 1);
    finish(&mut queue);
    // Of 480 writes some 30 waited and are void. The others were executed: 4.5 s.
    assert!(start.elapsed() > Duration::from_secs(3), "it had its turn after {:?}", start.elapsed());
    target.assert_no_violations();
}

#[test]
fn data_that_waits_for_a_limit_takes_a_part_of_the_memory_however_little_each_command_has() {
    let memory = ReactorConfig { data_memory: 4 << 20, receive_chunks: 4, ..ReactorConfig::default() };
    let limits = limits(&[host(1, "iops=1")]);
    let target = TestTarget::with(Setup { memory, limits, ..Setup::default() });
    let (_admin, mut wires) = wires(&target, 10);
    // Each of them has a page for its 16 bytes.
    let range = [(1_u64 << 32).to_le_bytes(), OWN.to_le_bytes()].concat();
    let mut list = command(nvm::DATASET_MANAGEMENT, 0, 1);
    list.cdw10.set(0);
    for wire in &mut wires {
        wire.send(&capsule(list, &range).repeat(120));
        wire.send(&refused());
        while next_response(wire).status() != REFUSAL {}
    }
    let (_other, mut queue) = target.queue(2);
    use_all_memory(&mut queue, 1);
    target.assert_no_violations();
}

#[test]
fn data_that_waits_for_a_limit_leaves_a_drive_its_share_of_the_memory() {
    let memory = ReactorConfig { data_memory: 8 << 20, ..ReactorConfig::default() };
    // A share is as much as the largest write.
    let small = EmulatedConfig { size: 1 << 20, ..EmulatedConfig::default() };
    let drives = [Setup::default().drives, vec![small; 7]].concat();
    let limits = limits(&[host(1, "iops=1")]);
    let target = TestTarget::with(Setup { drives, memory, limits, ..Setup::default() });
    let (_admin, mut wires) = wires(&target, 4);
    for wire in &mut wires {
        wire.send(&capsule(command(nvm::WRITE, OWN, 1), &[1; 4096]).repeat(120));
        wire.send(&refused());
        while next_response(wire).status() != REFUSAL {}
    }
    let (_other, mut queue) = target.queue(2);
    use_all_memory(&mut queue, 1);
    target.assert_no_violations();
}

/// Writes more at a time than there is memory for, beside what [`pattern`] is compared with.
fn use_all_memory_beside(queue: &mut IoQueue) {
    for place in 0..16_u64 {
        let data = vec![8; 256 << 10];
        queue.submit(&command(nvm::WRITE, 8192 + 64 * place, 64), Transfer::Write(data.into())).unwrap();
    }
    finish(queue);
}

#[test]
fn a_connection_with_one_command_does_not_wait_behind_all_those_of_another_one_of_its_host() {
    let target = limited(1, &["host=iops=50,burst=0ms".to_owned()]);
    let mut admin = target.host(1);
    let mut two = queues(&mut admin, 2);
    let (many, one) = two.split_at_mut(1);
    ask(&mut many[0], 100);
    std::thread::sleep(Duration::from_millis(30));
    collect(many);
    ask(&mut one[0], 1);
    finish(&mut one[0]);
    let before = collect(many);
    assert!(before < 50, "{before} of 100 commands of another connection came first");
    target.set_limit(Subject::EachHost, Limit::NONE);
    finish(&mut many[0]);
    target.assert_no_violations();
}

#[test]
fn commands_to_a_namespace_at_its_limit_hold_up_none_to_another() {
    let drive = EmulatedConfig { namespaces: 2, size: 64 << 20, ..EmulatedConfig::default() };
    let rules = ["namespace:1=iops=1".to_owned(), "namespace:2=iops=10k".to_owned()];
    let target = TestTarget::with(Setup { drives: vec![drive], limits: limits(&rules), ..Setup::default() });
    let (_admin, mut queue) = target.queue(1);
    ask(&mut queue, 50);
    let mut to_the_other = command(nvm::READ, 0, 1);
    to_the_other.nsid.set(2);
    let tag = queue.submit(&to_the_other, Transfer::Read(4096)).unwrap();
    queue.flush().unwrap();
    let mut before = 0;
    while queue.wait(PATIENCE).unwrap().expect("a completion in time").tag != tag {
        before += 1;
    }
    // At this rate each of them takes a second.
    assert!(before < 10, "{before} of 50 commands to the other namespace came first");
    target.set_limit(Subject::Namespace(1), Limit::NONE);
    finish(&mut queue);
    target.assert_no_violations();
}

#[test]
fn a_host_with_writes_that_wait_for_its_limit_connects_once_more() {
    let target = limited(1, &["host=iops=1".to_owned()]);
    let (_admin, mut queue) = target.queue(1);
    for lba in 0..100 {
        queue.submit(&command(nvm::WRITE, lba, 1), Transfer::Write(pattern(lba, 1, 4096).into())).unwrap();
    }
    queue.flush().unwrap();
    // What is written by the new connection must not be overwritten by what was sent before.
    let (_admin, mut second) = target.queue(1);
    target.set_limit(Subject::EachHost, Limit::NONE);
    for lba in 0..100 {
        second.write_blocks(1, lba, 4096, &pattern(lba, 2, 4096)).unwrap();
    }
    finish(&mut queue);
    for lba in 0..100 {
        assert!(second.read_blocks(1, lba, 1, 4096).unwrap() == pattern(lba, 2, 4096), "block {lba} differs");
    }
    target.assert_no_violations();
}

#[test]
fn hosts_have_equal_parts_of_a_limited_bandwidth_whatever_the_size_of_their_commands() {
    let target = limited(1, &["namespace:1=bandwidth=16MiB,burst=0ms".to_owned()]);
    let (mut admin, mut admin_2) = (target.host(1), target.host(2));
    let (mut large, mut small) = (queues(&mut admin, 1), queues(&mut admin_2, 1));
    let (large, small) = (&mut large[0], &mut small[0]);
    const LARGE: u32 = 128 << 10;
    let (mut large_bytes, mut small_bytes) = (0_u64, 0_u64);
    // Both always have more than enough that waits.
    while large_bytes < 4 << 20 {
        while large.in_flight() < 8 {
            large.submit(&command(nvm::READ, 0, LARGE / 4096), Transfer::Read(LARGE)).unwrap();
        }
        large.flush().unwrap();
        let more = 120_usize.saturating_sub(small.in_flight());
        ask(small, more);
        while large.wait(Duration::ZERO).unwrap().is_some() {
            large_bytes += u64::from(LARGE);
        }
        small_bytes += 4096 * collect(std::slice::from_mut(small)) as u64;
        std::thread::sleep(Duration::from_millis(1));
    }
    // Small commands cost a block more each, so that host has half as many bytes for its commands.
    let ratio = small_bytes as f64 / large_bytes as f64;
    assert!((0.3..1.2).contains(&ratio), "{small_bytes} bytes beside {large_bytes}");
    target.set_limit(Subject::Namespace(1), Limit::NONE);
    finish(large);
    finish(small);
    target.assert_no_violations();
}

#[test]
fn limits_that_come_and_go_and_hosts_that_abort_and_leave_amid_them_leave_nothing_behind() {
    let memory = ReactorConfig { data_memory: 4 << 20, receive_chunks: 4, ..ReactorConfig::default() };
    let target = TestTarget::with(Setup { memory, reactors: 2, ..Setup::default() });
    let subjects =
        [Subject::EachHost, Subject::EachNamespace, Subject::Host(identity(1).nqn.as_str().to_owned())];
    for round in 0..12_usize {
        for (number, subject) in subjects.iter().enumerate() {
            // By turns none, some, all of them, and in every order.
            let limit = if (round >> number) % 2 == 0 { "iops=1,burst=0ms" } else { "iops=3k,bandwidth=30M" };
            target.set_limit(subject.clone(), limit.parse().unwrap());
        }
        let (mut admin, mut wires) = wires(&target, 4);
        for wire in &mut wires {
            wire.send(&some_of_each(40));
            wire.send(&refused());
            // When that is answered, all of it has been taken in.
            while next_response(wire).status() != REFUSAL {}
        }
        for qid in 1..=4 {
            // All commands of the test have identifier 0. Nobody waits for an answer: that to the Abort of a write comes when
            // its data has come.
            let mut abort = SubmissionQueueEntry::new(admin::ABORT);
            abort.cdw10.set(qid);
            admin.send(&capsule(abort, &[]));
        }
        target.set_limit(subjects[round % 3].clone(), Limit::NONE);
        // Two leave while their commands wait, the others when they have been aborted in part.
        wires.truncate(2);
        target.set_limit(subjects[(round + 1) % 3].clone(), "iops=2".parse().unwrap());
    }
    for subject in subjects {
        target.set_limit(subject, Limit::NONE);
    }
    eventually("all hosts are gone", || target.associations() == 0);
    let (_admin, mut queue) = target.queue(2);
    use_all_memory(&mut queue, 1);
    target.assert_no_violations();
}
