//! Every fault that a drive can be given, alone and under the load of four hosts: nothing is lost, doubled or wrong, and
//! all goes on in bounded time.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::time::Duration;

use gangway_bridge::ReactorConfig;
use gangway_driver::emulated::{Capabilities, EmulatedConfig};
use gangway_tests::load::Load;
use gangway_tests::{Setup, TestTarget, eventually, use_all_memory};

/// Two reactors, and a drive that has a second for a command, and half of one to get ready.
fn target() -> TestTarget {
    let memory = ReactorConfig {
        data_memory: 8 << 20,
        receive_chunks: 16,
        io_timeout: Duration::from_secs(1),
        ..ReactorConfig::default()
    };
    let capabilities = Capabilities { ready_timeout: Duration::from_millis(500), ..Capabilities::default() };
    let drive = EmulatedConfig { size: 64 << 20, capabilities, ..EmulatedConfig::default() };
    TestTarget::with(Setup { drives: vec![drive], reactors: 2, memory, ..Setup::default() })
}

/// Lets hosts work, gives the drive these faults, and sees that all happen, and that all hosts go on with what they
/// wrote. Gives how many commands had to be tried again.
fn survives(faults: &[&str]) -> u64 {
    let target = target();
    let load = Load::start(&target, 4);
    load.assert_goes_on();
    let probe = &target.probes[0];
    let declared: Vec<_> =
        faults.iter().map(|fault| (probe.add_fault(fault.parse().unwrap()), fault)).collect();
    for (id, fault) in declared {
        eventually(&format!("{fault} happens"), || {
            probe.fault_counts(id).is_some_and(|counts| counts.fired > 0)
        });
    }
    load.assert_goes_on();
    probe.clear_faults();
    let retries = load.retries();
    load.finish();
    // What the drive had when it went wrong is back in the pools.
    let (_admin, mut queue) = target.queue(1);
    use_all_memory(&mut queue, 1);
    target.assert_no_violations();
    retries
}

/// As [`survives`], and some commands were answered so that hosts tried them again.
fn interrupts(faults: &[&str]) {
    assert!(survives(faults) > 0, "{faults:?}");
}

#[test]
fn commands_that_the_drive_keeps_are_aborted() {
    interrupts(&["drop:write:nth=40", "drop:read:nth=40"]);
}

#[test]
fn many_commands_that_the_drive_keeps_are_aborted() {
    interrupts(&["drop:from=20:count=60"]);
}

#[test]
fn completions_that_never_come_cost_their_queue_only() {
    interrupts(&["lose:write:nth=40", "lose:read:nth=40"]);
}

#[test]
fn a_queue_that_cannot_be_deleted_costs_a_reset() {
    interrupts(&["lose:write:nth=40", "status=0x6:delete-sq:once"]);
}

#[test]
fn a_queue_that_cannot_be_made_anew_costs_a_reset() {
    interrupts(&["lose:write:nth=40", "status=0x6:create-sq:once"]);
}

#[test]
fn an_abort_that_is_not_answered_costs_a_reset() {
    interrupts(&["lose:write:nth=40", "drop:abort:once"]);
}

#[test]
fn a_controller_that_fails_is_reset() {
    interrupts(&["cfs:write:nth=40"]);
}

#[test]
fn a_controller_that_fails_and_cannot_be_disabled_is_cut_off_and_tried_again() {
    interrupts(&["not-disabled=3s:once", "cfs:write:nth=40"]);
}

#[test]
fn a_controller_that_does_not_get_ready_is_tried_again() {
    interrupts(&["not-ready:once", "cfs:write:nth=40"]);
}

#[test]
fn a_controller_that_fails_while_it_is_started_anew_is_tried_again() {
    interrupts(&["cfs:create-cq:once", "cfs:write:nth=40"]);
}

#[test]
fn completions_of_unknown_commands_cost_a_reset() {
    interrupts(&["corrupt=cid:write:nth=40"]);
}

#[test]
fn completions_of_another_queue_cost_a_reset() {
    interrupts(&["corrupt=sqid:read:nth=40"]);
}

#[test]
fn completions_with_an_impossible_head_cost_a_reset() {
    interrupts(&["corrupt=sqhead:read:nth=40"]);
}

#[test]
fn completions_of_all_ones_cost_a_reset() {
    interrupts(&["corrupt=ones:write:nth=40"]);
}

#[test]
fn completions_that_come_twice_cost_a_reset() {
    interrupts(&["duplicate:write:nth=40"]);
}

#[test]
fn a_phase_bit_gone_wrong_costs_no_more_than_its_queue() {
    interrupts(&["corrupt=phase:read:nth=40"]);
}

#[test]
fn completions_may_come_late_and_in_any_order() {
    let faults = ["late-phase=100ms:write:nth=40", "delay=300ms:read:every=50", "reorder=5:write:every=7"];
    assert_eq!(survives(&faults), 0);
}

#[test]
fn commands_that_fail_and_may_be_tried_again_are_the_hosts_affair() {
    // Namespace Not Ready and Command Interrupted.
    interrupts(&["status=0x82:read:nth=40", "status=0x21:write:every=50"]);
}

#[test]
fn a_drive_that_is_taken_away_and_put_back_goes_on() {
    interrupts(&["remove=2s:write:nth=40"]);
}

#[test]
fn faults_may_come_one_upon_the_other() {
    interrupts(&[
        "drop:write:every=300",
        "lose:read:nth=700",
        "cfs:write:nth=1500",
        "duplicate:read:nth=2000",
        "remove=1s:write:nth=3000",
    ]);
}
