//! Every fault that the emulated drive can be told to have, each alone, against the driver: no completion is lost, doubled
//! or taken for another's, no data but what was spoiled is wrong, all memory comes back, and a reset always helps in
//! the end. With PRPs, SGLs and shadow doorbells.
//!
//! The same under AddressSanitizer: see `tests/README.md`.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

mod load;

use std::time::{Duration, Instant};

use gangway_driver::controller::{AbortOutcome, AdminData, Controller, ControllerError, Health};
use gangway_driver::emulated::EmulatedFunction;
use gangway_driver::{Direction, DmaDomain, FunctionError};
use gangway_spec::aen::{self, AsyncEvent};
use gangway_spec::log::lid;
use gangway_spec::{SubmissionQueueEntry, opcode};

use load::{Load, drive, eventually, hasty};

const COMMANDS: usize = 200;
/// Commands that never end are given up after this.
const SHORT: Duration = Duration::from_millis(100);
/// Commands that are to end by themselves are not.
const LONG: Duration = Duration::from_secs(50);

/// What a fault leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leads {
    /// Nothing that anybody would notice.
    Nowhere,
    /// Commands that fail, and no more.
    ToFailures,
    /// At least a reset.
    ToResets,
    /// One read whose data is wrong.
    ToWrongData,
}

const FAULTS: [(&str, Leads); 30] = [
    ("drop:nth=20", Leads::ToResets),
    ("drop:read:every=31", Leads::ToResets),
    ("lose:nth=20", Leads::ToResets),
    ("lose:write:once", Leads::ToResets),
    ("delay=5ms:every=7", Leads::Nowhere),
    ("delay=20ms:nth=1", Leads::Nowhere),
    ("delay=1ms", Leads::Nowhere),
    ("reorder=3:every=4", Leads::Nowhere),
    ("reorder=15:nth=1", Leads::Nowhere),
    ("reorder=1:read", Leads::Nowhere),
    ("late-phase=2ms:every=13", Leads::Nowhere),
    ("duplicate:nth=20", Leads::ToResets),
    ("duplicate:nth=1", Leads::ToResets),
    ("corrupt=cid:nth=20", Leads::ToResets),
    ("corrupt=sqid:nth=20", Leads::ToResets),
    ("corrupt=sqhead:nth=20", Leads::ToResets),
    ("corrupt=phase:nth=20", Leads::ToResets),
    ("corrupt=phase:nth=17", Leads::ToResets),
    ("corrupt=ones:nth=20", Leads::ToResets),
    ("corrupt=status:every=9", Leads::ToFailures),
    ("status=0x281:every=5", Leads::ToFailures),
    ("status=0x6+dnr+more:write:count=30", Leads::ToFailures),
    ("flip=77:read:nth=9", Leads::ToWrongData),
    ("overrun=512:every=3", Leads::ToFailures),
    ("overrun=65536:every=3", Leads::ToFailures),
    ("cfs:nth=20", Leads::ToResets),
    ("cfs:nth=1", Leads::ToResets),
    ("remove=30ms:nth=20", Leads::ToResets),
    ("event=temperature:every=10", Leads::Nowhere),
    ("event=namespace:nth=1", Leads::Nowhere),
];

/// Each fault on a drive of its own, which is driven in this way.
fn every_fault(way: &str) {
    for (fault, leads) in FAULTS {
        let context = format!("{fault} with \"{way}\"");
        println!("{context}");
        let patience = if leads == Leads::ToResets { SHORT } else { LONG };
        let mut load = Load::start(way, patience);
        assert_eq!(load.controller.uses_sgls(), way.contains("sgl"));
        assert_eq!(load.controller.has_shadow_doorbells(), way.contains("shadow"));
        let mapped = load.probe.mappings();
        let id = load.probe.add_fault(fault.parse().unwrap());
        load.run(COMMANDS);
        let fired = load.probe.fault_counts(id).unwrap().fired;
        assert!(fired > 0, "{context}");
        assert_eq!(load.resets > 0, leads == Leads::ToResets, "{context}: {} resets", load.resets);
        assert_eq!(load.failed > 0, leads == Leads::ToFailures, "{context}: {} failed", load.failed);
        let spoiled = usize::from(leads == Leads::ToWrongData);
        assert_eq!(load.spoiled, spoiled, "{context}: wrong data");
        // Only a drive that was told to reach beyond its memory has done so: the driver never made one.
        let reaches = fault.starts_with("overrun") && !way.contains("sgl");
        assert_eq!(load.probe.violations() > 0, reaches, "{context}");
        assert_eq!(load.probe.mappings(), mapped, "{context}: memory");
        load.check();
    }
}

#[test]
fn every_fault_alone_loses_doubles_and_confuses_nothing() {
    every_fault("");
}

#[test]
fn every_fault_alone_loses_doubles_and_confuses_nothing_with_sgls() {
    every_fault("sgl");
}

#[test]
fn every_fault_alone_loses_doubles_and_confuses_nothing_with_shadow_doorbells() {
    every_fault("shadow-doorbells");
}

#[test]
fn faults_together_and_again_and_again_lose_nothing_either() {
    let mut load = Load::start("sgl,shadow-doorbells", SHORT);
    for fault in [
        "drop:every=97",
        "delay=2ms:every=5",
        "reorder=2:every=7",
        "status=0x281:every=11",
        "duplicate:every=151",
        "corrupt=cid:every=173",
        "late-phase=1ms:every=19",
        "cfs:every=211",
        "remove=5ms:every=307",
    ] {
        load.probe.add_fault(fault.parse().unwrap());
    }
    load.run(1500);
    assert!(load.resets > 5 && load.completed > 500, "{} {}", load.resets, load.completed);
    assert_eq!((load.spoiled, load.probe.violations()), (0, 0));
    load.check();
}

#[test]
fn a_drive_that_is_gone_for_good_gives_its_memory_back_once_it_is_cut_off() {
    for way in ["", "sgl,shadow-doorbells"] {
        let mut load = Load::start(&format!("{way},fault=drop:from=10"), LONG);
        let probe = load.probe.clone();
        load.run_until_stuck(64);
        probe.remove();
        assert_eq!(load.controller.health(), Health::Gone);
        let error = load.controller.disable().unwrap_err();
        assert!(matches!(error, ControllerError::Function(FunctionError::Gone { .. })), "{error}");
        let stopped = load.controller.isolate().unwrap();
        load.take_back(&stopped);
        load.check_memory();
        assert_eq!(probe.violations(), 0);
    }
}

#[test]
fn a_controller_that_does_not_stop_keeps_what_it_may_still_write_to() {
    let mut load = Load::start("fault=delay=20ms,fault=not-disabled", LONG);
    let probe = load.probe.clone();
    load.run_until_stuck(8);
    let error = load.controller.disable().unwrap_err();
    assert!(matches!(error, ControllerError::Timeout { .. }), "{error}");
    // It goes on writing meanwhile, and finds its memory.
    assert_eq!(probe.violations(), 0);
    probe.clear_faults();
    drop(load);
}

#[test]
fn a_controller_that_does_not_get_ready_is_an_error_in_bounded_time_and_may_be_tried_again() {
    let (function, probe) =
        EmulatedFunction::with_probe(drive("fault=not-ready:once"), &DmaDomain::new()).unwrap();
    let asked = Instant::now();
    let error = Controller::start(function, hasty()).unwrap_err();
    assert!(matches!(error, ControllerError::Timeout { .. }), "{error}");
    assert!(asked.elapsed() < Duration::from_secs(30));
    assert_eq!(probe.violations(), 0);

    let mut load = Load::start("", LONG);
    load.probe.add_fault("not-ready:once".parse().unwrap());
    load.probe.add_fault("not-disabled=100ms:once".parse().unwrap());
    assert!(load.controller.restart().is_err());
    eventually(|| load.controller.restart());
    assert_eq!(load.controller.active_namespaces().unwrap(), [1]);
}

#[test]
fn a_slow_start_is_waited_for() {
    let config = drive("fault=not-ready=300ms");
    let (function, _probe) = EmulatedFunction::with_probe(config, &DmaDomain::new()).unwrap();
    assert_eq!(Controller::start(function, hasty()).unwrap().active_namespaces().unwrap(), [1]);
}

#[test]
fn a_drive_with_larger_pages_is_refused_before_it_is_enabled() {
    let (function, probe) = EmulatedFunction::with_probe(drive("page=8192"), &DmaDomain::new()).unwrap();
    let error = Controller::start(function, hasty()).unwrap_err();
    assert!(error.to_string().contains("8192"), "{error}");
    assert_eq!(probe.violations(), 0);
}

#[test]
fn faults_of_the_admin_queue_are_errors_in_bounded_time_and_a_restart_helps() {
    for fault in [
        "drop:identify:once",
        "lose:identify:once",
        "duplicate:identify:once",
        "corrupt=cid:identify:once",
        "corrupt=sqid:identify:once",
        "corrupt=sqhead:identify:once",
        "corrupt=phase:identify:once",
        "corrupt=ones:identify:once",
        "status=0x6:identify:once",
        "cfs:identify:once",
        "overrun=8192:identify:once",
        "remove=20ms:identify:once",
    ] {
        let mut load = Load::start("", LONG);
        let id = load.probe.add_fault(fault.parse().unwrap());
        // A second completion of the first is found when the next one is waited for.
        let first = load.controller.identify_namespace(1);
        let second = load.controller.identify_namespace(1);
        assert!(first.is_err() || second.is_err(), "{fault}");
        assert_eq!(load.probe.fault_counts(id).unwrap().fired, 1, "{fault}");
        let stopped = eventually(|| load.controller.disable());
        load.take_back(&stopped);
        eventually(|| load.controller.restart());
        assert_eq!(load.controller.active_namespaces().unwrap(), [1], "{fault}");
        load.check_memory();
    }
}

#[test]
fn every_step_of_starting_may_fail_and_leaves_nothing_behind() {
    for step in 1..=12 {
        for what in ["drop", "status=0x6", "cfs", "remove", "corrupt=cid"] {
            let domain = DmaDomain::new();
            let options = format!("sgl,shadow-doorbells,fault={what}:admin:nth={step}");
            let (function, probe) = EmulatedFunction::with_probe(drive(&options), &domain).unwrap();
            let started = Controller::start(function, hasty());
            let pair = started.and_then(|mut controller| {
                let pair = controller.create_io_queue_pair()?;
                controller.shutdown()?;
                drop(pair);
                Ok(())
            });
            // Beyond the last step everything went well.
            drop(pair);
            assert_eq!(probe.violations(), 0, "{options}");
        }
    }
}

#[test]
fn commands_that_are_held_can_be_aborted_and_end_with_their_queue() {
    let mut load = Load::start("fault=drop", LONG);
    load.run_until_stuck(4);
    let cids = load.overdue_cids();
    assert_eq!(cids.len(), 4);
    assert_eq!(load.controller.abort(1, cids[1]).unwrap(), AbortOutcome::Aborted);
    assert_eq!(load.controller.abort(1, cids[1]).unwrap(), AbortOutcome::NotAborted);
    load.reap();
    assert_eq!((load.completed, load.failed), (1, 1));
    load.probe.add_fault("skip:abort:once".parse().unwrap());
    assert_eq!(load.controller.abort(1, cids[0]).unwrap(), AbortOutcome::NotAborted);
    load.delete_pair();
    load.check_memory();
}

#[test]
fn a_drive_that_ignores_abort_and_deletion_is_reset() {
    let mut load = Load::start("fault=drop,fault=drop:abort,fault=drop:delete-sq", LONG);
    load.run_until_stuck(4);
    let cids = load.overdue_cids();
    assert!(load.controller.abort(1, cids[0]).is_err());
    load.fail_to_delete_pair();
    let stopped = load.controller.disable().unwrap();
    load.take_back(&stopped);
    load.check_memory();
}

#[test]
fn events_on_demand_reach_who_asks_for_them() {
    let mut load = Load::start("", LONG);
    for event in [
        AsyncEvent::FIRMWARE_ACTIVATION_STARTING,
        AsyncEvent::new(aen::TYPE_SMART, aen::SMART_SPARE, lid::SMART),
        AsyncEvent::new(aen::TYPE_ERROR, aen::ERROR_PERSISTENT_INTERNAL, lid::ERROR),
        AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED,
    ] {
        load.probe.raise_event(event);
        let found = eventually(|| {
            load.controller.reap_admin(&mut Vec::new()).map_err(|error| error.to_string())?;
            load.controller.take_events().pop().ok_or_else(|| format!("{event:?} did not come"))
        });
        assert_eq!(found.event, event);
    }
}

#[test]
fn what_a_drive_may_reach_is_mapped_no_longer_than_needed() {
    let domain = DmaDomain::new();
    let (function, probe) = EmulatedFunction::with_probe(drive(""), &domain).unwrap();
    let mut controller = Controller::start(function, hasty()).unwrap();
    let before = probe.mappings();
    let buffer = domain.buffer(4096, Direction::DeviceWrites).unwrap();
    assert_eq!(probe.mappings(), before + 1);
    drop(buffer);
    let entry = SubmissionQueueEntry::new(opcode::admin::IDENTIFY);
    assert!(controller.admin(entry, AdminData::In(4096)).is_err(), "there is no namespace 0");
    assert_eq!(probe.mappings(), before);
}
