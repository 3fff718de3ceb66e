//! Limits of hosts and namespaces: kept to, shared fairly, changed while they are in force, and no burden for others.
//!
//! What takes time here has a least time, never a longest one.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gangway_bridge::{Limit, Limits, Subject};
use gangway_fabric::host::client::{AdminQueue, IoQueue, Transfer};
use gangway_spec::Status;
use gangway_spec::opcode::nvm;
use gangway_tests::{Bystander, Setup, TestTarget, command, eventually, identity, pattern, use_all_memory};

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
            let lba = 4096 + place as u64 * 32;
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
