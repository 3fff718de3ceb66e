//! How a connection ends that the target terminates while it has more to say, or the host does.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::time::Duration;

use gangway_bridge::ReactorConfig;
use gangway_driver::emulated::EmulatedConfig;
use gangway_fabric::host::client::{AdminQueue, Transfer};
use gangway_fabric::pdu::CommonHeader;
use gangway_fabric::term::FatalErrorStatus as Fes;
use gangway_spec::log::lid;
use gangway_spec::opcode::nvm;
use gangway_tests::wire::{Terminated, Wire, by_transport, capsule};
use gangway_tests::{Setup, TestTarget, command, eventually, identity, subsystem};

/// A target whose drive takes `latency` for each command, with memory for large reads.
fn slow(latency: Duration) -> TestTarget {
    let drive = EmulatedConfig { size: 64 << 20, latency: Some(latency), ..EmulatedConfig::default() };
    let memory = ReactorConfig { data_memory: 32 << 20, receive_chunks: 16, ..ReactorConfig::default() };
    TestTarget::with(Setup { drives: vec![drive], memory, ..Setup::default() })
}

/// Host Read Commands and Host Write Commands of the SMART log: what the drive has executed.
fn executed(admin: &mut AdminQueue) -> (u64, u64) {
    let log = admin.log_page(lid::SMART, u32::MAX, 0, 512, true).unwrap();
    let at = |offset| u64::from_le_bytes(log[offset..offset + 8].try_into().unwrap());
    (at(64), at(80))
}

/// HLEN of a Flush command is wrong.
const WRONG_HLEN: Terminated = Terminated { fes: Fes::INVALID_PDU_HEADER_FIELD, fei: CommonHeader::HLEN };

fn wrong_hlen() -> Vec<u8> {
    let mut bytes = capsule(command(nvm::FLUSH, 0, 1), &[]);
    bytes[CommonHeader::HLEN as usize] = 9;
    bytes
}

#[test]
fn what_the_drive_completes_after_a_termination_request_does_not_follow_it() {
    let target = slow(Duration::from_millis(300));
    let mut admin = target.host(66);
    let mut io = Wire::io(target.address, admin.cntlid(), 1, &subsystem(0), &identity(66));
    // More data than the kernel takes while nobody reads it, so that the termination request has to wait behind it.
    io.set_receive_buffer(64 << 10);
    io.send(&by_transport(command(nvm::READ, 0, 256), 1 << 20).repeat(8));
    eventually("the reads are executed", || executed(&mut admin).0 == 8);
    let mut last = capsule(command(nvm::WRITE, 0, 1), &[1; 4096]);
    last.extend_from_slice(&wrong_hlen());
    io.send(&last);
    eventually("the write is executed", || executed(&mut admin).1 == 1);
    io.set_receive_buffer(4 << 20);
    assert_eq!(io.terminated(), WRONG_HLEN);
    target.assert_no_violations();
}

#[test]
fn a_host_that_goes_on_sending_receives_its_termination_request() {
    let target = slow(Duration::from_millis(200));
    let mut admin = target.host(66);
    let mut io = Wire::io(target.address, admin.cntlid(), 1, &subsystem(0), &identity(66));
    let mut last = by_transport(command(nvm::READ, 0, 1), 4096);
    last.extend_from_slice(&wrong_hlen());
    io.send(&last);
    // Also when the drive completes something meanwhile.
    eventually("the read is executed", || executed(&mut admin).0 == 1);
    // More than the kernel takes when the target does not. A connection that is closed with something unread is reset,
    // and what the host has not read by then is lost to it.
    let rest = vec![0; 24 << 20];
    assert_eq!(io.send_for(&rest, Duration::from_secs(10)), rest.len(), "the target drops what follows");
    assert_eq!(io.terminated(), WRONG_HLEN);
    target.assert_no_violations();
}

#[test]
fn commands_that_complete_after_a_termination_request_leave_those_of_other_hosts_alone() {
    let target = slow(Duration::from_millis(300));
    let mut admin = target.host(66);
    let mut ended = Wire::io(target.address, admin.cntlid(), 1, &subsystem(0), &identity(66));
    let mut last = by_transport(command(nvm::READ, 0, 1), 4096).repeat(8);
    last.extend_from_slice(&wrong_hlen());
    ended.send(&last);
    eventually("the reads are executed", || executed(&mut admin).0 == 8);
    // Another host's commands have the places of those by now, and are with the drive when the first host is gone.
    let (_other, mut queue) = target.queue(2);
    for lba in 0..8 {
        queue.submit(&command(nvm::READ, lba, 1), Transfer::Read(4096)).unwrap();
    }
    queue.flush().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(ended.terminated(), WRONG_HLEN);
    drop(ended);
    for _ in 0..8 {
        let completed = queue.wait(Duration::from_secs(10)).unwrap().expect("an answer");
        assert!(completed.entry.status().is_success(), "{}", completed.entry.status());
    }
    target.assert_no_violations();
}
