//! What connections cost that are not in use.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::time::Duration;

use gangway_fabric::host::client::{IoQueue, Options, Transfer};
use gangway_spec::opcode::nvm;
use gangway_tests::process::{TargetProcess, allow_files};
use gangway_tests::wire::{Wire, by_transport};
use gangway_tests::{command, eventually, identity, subsystem};

const HOSTS: u8 = 16;
/// I/O queues of each host.
const QUEUES: u16 = 64;
/// Admin queues included.
const CONNECTIONS: u64 = HOSTS as u64 * (QUEUES as u64 + 1);
/// Bytes of memory that an idle connection may cost.
const MOST: u64 = 32 << 10;

/// Connects all hosts with all their queues, of 128 entries each. The first of each 65 is an admin queue.
fn connect(target: &TargetProcess) -> Vec<Wire> {
    let mut all = Vec::new();
    for number in 1..=HOSTS {
        let host = identity(number);
        let (admin, cntlid) = Wire::admin(target.address, &subsystem(0), &host);
        all.push(admin);
        all.extend((1..=QUEUES).map(|qid| Wire::io(target.address, cntlid, qid, &subsystem(0), &host)));
    }
    all
}

/// Uses all memory for data, which is the same however many connections there are.
fn touch_data_memory(queue: &mut IoQueue) {
    const BYTES: u32 = 1 << 20;
    for (opcode, writes) in [(nvm::WRITE, true), (nvm::READ, false)] {
        for lba in 0..64 {
            let transfer =
                if writes { Transfer::Write(vec![1; BYTES as usize].into()) } else { Transfer::Read(BYTES) };
            queue.submit(&command(opcode, lba * 256, BYTES / 4096), transfer).unwrap();
        }
        for _ in 0..64 {
            let completed = queue.wait(Duration::from_secs(60)).unwrap().expect("a completion in time");
            assert!(completed.entry.status().is_success(), "{}", completed.entry.status());
        }
    }
    // In capsules, which fill receive memory.
    for _ in 0..200 {
        for lba in 0..100 {
            queue.submit(&command(nvm::WRITE, lba, 1), Transfer::Write(vec![1; 4096].into())).unwrap();
        }
        for _ in 0..100 {
            queue.wait(Duration::from_secs(60)).unwrap().expect("a completion in time");
        }
    }
}

#[test]
fn idle_connections_cost_little_memory_and_give_it_back() {
    allow_files(CONNECTIONS + 100);
    let target = TargetProcess::start(env!("CARGO_BIN_EXE_gangway-test-target"), "adaptive");
    let mut admin = target.host(100, &Options::default());
    let mut queue = admin.connect_io(1).unwrap();
    touch_data_memory(&mut queue);
    let before = target.resident();
    // What is left of one crowd would show in the next.
    let mut earlier_left = None;
    for round in 0..4 {
        let mut all = connect(&target);
        assert_eq!(all.len() as u64, CONNECTIONS);
        let new = target.resident().saturating_sub(before) / CONNECTIONS;
        // As many commands as a queue takes; one connection after the other, since they share memory for data.
        let read = by_transport(command(nvm::READ, 0, 1), 4096);
        for queue in all.chunks_mut(usize::from(QUEUES) + 1).flat_map(|host| &mut host[1..]) {
            queue.send(&read.repeat(127));
            for _ in 0..2 * 127 {
                queue.pdu().expect("data and a response for each");
            }
        }
        let used = target.resident().saturating_sub(before) / CONNECTIONS;
        println!("an idle connection: {new} bytes, {used} after it was used");
        assert!(new <= MOST, "an idle connection takes {new} bytes");
        assert!(used <= MOST, "an idle connection takes {used} bytes after it was used");
        drop(all);
        let left = || target.resident().saturating_sub(before);
        // What nobody uses is given back a while after hosts have gone. Lists with room for as many connections stay,
        // and the C library keeps some.
        eventually("memory is given back", || left() < CONNECTIONS * 4 * 1024);
        // What each crowd leaves a little of would be a leak. The first one finds memory in one piece, later ones do not.
        if round > 0 {
            let earlier = *earlier_left.get_or_insert_with(left);
            eventually("as much is given back as before", || left() <= earlier + CONNECTIONS * 1024);
        }
    }
    drop((queue, admin));
}
