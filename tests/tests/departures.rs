//! Hosts that reset their controllers, shut them down, leave or fall silent while the drive is stuck with their commands.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::time::{Duration, Instant};

use gangway_bridge::ReactorConfig;
use gangway_fabric::host::client::{AdminQueue, IoQueue, Options, Transfer};
use gangway_spec::log::{GetLogPage, lid};
use gangway_spec::opcode::nvm;
use gangway_spec::registers::{self, ControllerConfiguration, ControllerStatus};
use gangway_tests::{Bystander, Setup, TestTarget, command, eventually, use_all_memory};

/// How long the drive may take for a command.
const IO_TIMEOUT: Duration = Duration::from_secs(5);
/// A part of that: what must not wait for the drive takes less.
const SOON: Duration = Duration::from_secs(3);

/// A target whose drive never completes a command for the first 64 blocks, and does not abort one either: it takes a queue
/// of its own to get rid of it.
fn stuck() -> TestTarget {
    let memory = ReactorConfig {
        data_memory: 8 << 20,
        receive_chunks: 16,
        io_timeout: IO_TIMEOUT,
        ..ReactorConfig::default()
    };
    let target = TestTarget::with(Setup { memory, ..Setup::default() });
    for fault in ["drop:read:lba=0-63", "drop:write:lba=0-63", "skip:abort"] {
        target.probes[0].add_fault(fault.parse().unwrap());
    }
    target
}

/// Leaves reads and writes with the drive.
fn get_stuck(target: &TestTarget, queue: &mut IoQueue) {
    for lba in [0, 16, 32] {
        queue.submit(&command(nvm::WRITE, lba, 16), Transfer::Write(vec![5; 65536].into())).unwrap();
        queue.submit(&command(nvm::READ, lba, 16), Transfer::Read(65536)).unwrap();
    }
    // Sends what R2Ts ask for, too.
    assert!(queue.wait(Duration::from_millis(500)).unwrap().is_none());
    assert_eq!(target.probes[0].commands_held(), 6);
}

/// Whether a host gets a queue, and all memory, once the drive has let go of what was left with it.
fn assert_recovers(target: &TestTarget, admin: &mut AdminQueue) {
    target.probes[0].clear_faults();
    let mut queue = admin.connect_io(1).unwrap();
    assert_eq!(target.probes[0].commands_held(), 0, "let in before the drive was done with what came before");
    use_all_memory(&mut queue, 7);
    target.assert_no_violations();
}

fn shst(admin: &mut AdminQueue) -> u8 {
    ControllerStatus::from_bits(admin.property_get(registers::CSTS).unwrap() as u32).shst()
}

#[test]
fn a_reset_does_not_wait_for_a_drive_that_is_stuck_and_new_queues_do() {
    let target = stuck();
    let bystander = Bystander::start(&target, 9, 10_000);
    let (mut admin, mut queue) = target.queue(1);
    get_stuck(&target, &mut queue);
    let begin = Instant::now();
    for _ in 0..3 {
        admin.disable().unwrap();
        admin.enable().unwrap();
        assert_eq!(admin.active_namespaces().unwrap(), [1]);
    }
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    assert_recovers(&target, &mut admin);
    bystander.finish();
}

#[test]
fn a_shutdown_is_under_way_until_the_drive_has_let_go_and_the_host_can_see_that() {
    let target = stuck();
    let (mut admin, mut queue) = target.queue(1);
    get_stuck(&target, &mut queue);
    let cc = ControllerConfiguration::from_bits(admin.property_get(registers::CC).unwrap() as u32);
    let normal = cc.with_shn(ControllerConfiguration::SHN_NORMAL).into_bits();
    let begin = Instant::now();
    admin.property_set(registers::CC, normal).unwrap();
    assert_eq!(shst(&mut admin), ControllerStatus::SHST_OCCURRING);
    admin.keep_alive().unwrap();
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    eventually("the shutdown is complete", || shst(&mut admin) == ControllerStatus::SHST_COMPLETE);
    assert_eq!(target.probes[0].commands_held(), 0);
    admin.property_set(registers::CC, 0).unwrap();
    admin.enable().unwrap();
    assert_recovers(&target, &mut admin);
}

#[test]
fn a_host_that_falls_silent_is_gone_in_its_time_though_the_drive_has_its_commands() {
    let target = stuck();
    let mut silent =
        target.host_with(1, 0, &Options { kato: Duration::from_millis(700), ..Options::default() });
    let mut queue = silent.connect_io(1).unwrap();
    get_stuck(&target, &mut queue);
    // A command of the admin queue, too, which the drive takes its time for.
    let log = GetLogPage::new(lid::SMART, 512);
    target.probes[0].add_fault("delay=4s:admin:op=0x02:once".parse().unwrap());
    silent.queue().submit(&log.into(), Transfer::Read(512)).unwrap();
    silent.queue().flush().unwrap();
    let begin = Instant::now();
    eventually("the association ends", || target.associations() == 0);
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    // The same host comes back.
    assert_recovers(&target, &mut target.host(1));
}

#[test]
fn a_host_that_closes_its_connections_is_gone_at_once_though_the_drive_has_its_commands() {
    let target = stuck();
    let (admin, mut queue) = target.queue(1);
    get_stuck(&target, &mut queue);
    let begin = Instant::now();
    drop(queue);
    admin.disconnect();
    eventually("the association ends", || target.associations() == 0);
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    assert_recovers(&target, &mut target.host(1));
}
