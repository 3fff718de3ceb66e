//! Drives and exports that come and go while the target runs and other hosts use it.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use gangway_bridge::{
    Access, ChangeError, Drive, DriveEvent, ExportConfig, ExportError, HostPolicies, Identifiers, Mapping,
    ReactorConfig, RemoveError, Selection, Target, TargetConfig, TargetError,
};
use gangway_driver::controller::Options as ControllerOptions;
use gangway_driver::dma::DmaDomain;
use gangway_driver::emulated::EmulatedConfig;
use gangway_driver::emulated::EmulatedFunction;
use gangway_fabric::congestion::CongestionControl;
use gangway_fabric::host::client::{AdminQueue, HostError, Options, Transfer};
use gangway_fabric::host::discovery;
use gangway_spec::aen::AsyncEvent;
use gangway_spec::discovery::SUBTYPE_NVM;
use gangway_spec::fabrics::Nqn;
use gangway_spec::feature::fid;
use gangway_spec::identify::Oaes;
use gangway_spec::log::lid;
use gangway_spec::opcode::{admin, nvm};
use gangway_spec::{Status, SubmissionQueueEntry};
use gangway_tests::wire::{REFUSAL, Wire, by_transport, h2c_data, refused};
use gangway_tests::{Bystander, Setup, TestTarget, command, eventually, identity, pattern, subsystem};

const SILENCE: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(20);

fn config(number: usize, namespaces: Selection) -> ExportConfig {
    ExportConfig {
        nqn: subsystem(number),
        namespaces,
        access: Access::AnyHost,
        read_only: false,
        max_io_queues: 4,
        policies: HostPolicies::default(),
        limits: Default::default(),
        identifiers: Identifiers::Own,
    }
}

fn add_export(target: &TestTarget, config: ExportConfig) -> Result<(), TargetError> {
    target.ask(|target| Box::pin(target.add_export(config)))
}

fn remove_export(target: &TestTarget, number: usize) -> Result<(), RemoveError> {
    target.ask(move |target| Box::pin(async move { target.remove_export(&subsystem(number)).await }))
}

fn remove_drive(target: &TestTarget, index: usize) -> Result<bool, RemoveError> {
    target.ask(move |target| Box::pin(target.remove_drive(index)))
}

fn listed(target: &TestTarget, host: u8) -> Vec<Nqn> {
    let entries = discovery::fetch(target.address, &identity(host), &Options::default()).unwrap();
    let exports = entries.iter().filter(|entry| entry.subtype == SUBTYPE_NVM);
    exports.map(|entry| entry.subnqn().unwrap()).collect()
}

fn connect(target: &TestTarget, host: u8, export: usize) -> Result<AdminQueue, HostError> {
    AdminQueue::connect(target.address, &subsystem(export), &identity(host), &Options::default())
}

fn drive(block: u32) -> EmulatedConfig {
    EmulatedConfig { size: 8 << 20, block, namespaces: 2, ..EmulatedConfig::default() }
}

#[test]
fn a_drive_is_added_used_and_removed_while_others_go_on() {
    let target = TestTarget::start();
    let bystander = Bystander::start(&target, 9, 0);
    for round in 1..=3_u64 {
        // The number of a drive that is gone is another's.
        let probe = target.add_drive(1, drive(512));
        assert!(connect(&target, 1, 1).is_err(), "no export shows it yet");
        let both =
            vec![Mapping { nsid: 1, drive: 1, drive_nsid: 2 }, Mapping { nsid: 2, drive: 0, drive_nsid: 1 }];
        add_export(&target, config(1, Selection::Namespaces(both))).unwrap();
        assert_eq!(listed(&target, 1), [subsystem(0), subsystem(1)]);
        let mut admin = connect(&target, 1, 1).unwrap();
        admin.enable().unwrap();
        assert_eq!(admin.active_namespaces().unwrap(), [1, 2]);
        let mut queue = admin.connect_io(1).unwrap();
        queue.write_blocks(1, 5, 512, &pattern(5, round, 4096)).unwrap();
        assert_eq!(queue.read_blocks(1, 5, 8, 512).unwrap(), pattern(5, round, 4096));
        queue.read_blocks(2, 1000, 1, 4096).unwrap();
        assert!(matches!(remove_drive(&target, 1), Err(RemoveError::InUse { .. })));
        remove_export(&target, 1).unwrap();
        assert!(queue.read_blocks(1, 5, 8, 512).is_err(), "its connection is gone");
        assert!(admin.keep_alive().is_err());
        assert_eq!(listed(&target, 1), [subsystem(0)]);
        let refused = connect(&target, 1, 1);
        assert!(
            matches!(refused, Err(HostError::Refused { status, .. }) if status.dnr()),
            "it is gone for good"
        );
        assert_eq!(remove_drive(&target, 1), Ok(true), "it is shut down in order");
        assert_eq!(probe.violations(), 0);
        bystander.assert_goes_on();
    }
    bystander.finish();
    target.assert_no_violations();
    eventually("all hosts have gone", || target.associations() == 0);
}

#[test]
fn an_export_is_taken_back_under_load_and_the_drives_other_export_goes_on() {
    let target = TestTarget::start();
    let bystander = Bystander::start(&target, 9, 0);
    add_export(&target, config(1, Selection::Drive(0))).unwrap();
    let mut loads = Vec::new();
    for host in 1..=3 {
        let mut admin = connect(&target, host, 1).unwrap();
        admin.enable().unwrap();
        let mut queue = admin.connect_io(1).unwrap();
        loads.push(std::thread::spawn(move || {
            let _admin = admin;
            let mut done = 0_u64;
            loop {
                for place in 0..8 {
                    let write = command(nvm::WRITE, 2000 + u64::from(host) * 100 + place, 1);
                    if queue.submit(&write, Transfer::Write(vec![host; 4096].into())).is_err() {
                        return done;
                    }
                }
                while queue.in_flight() > 0 {
                    match queue.wait(PATIENCE) {
                        Ok(Some(completed)) => assert!(completed.entry.status().is_success()),
                        Ok(None) => panic!("nothing came for {PATIENCE:?}"),
                        Err(_) => return done,
                    }
                    done += 1;
                }
            }
        }));
    }
    std::thread::sleep(Duration::from_millis(300));
    remove_export(&target, 1).unwrap();
    for load in loads {
        assert!(load.join().unwrap() > 0, "it had worked before");
    }
    bystander.finish();
    assert!(matches!(remove_export(&target, 1), Err(RemoveError::NoSuchExport { .. })));
    target.assert_no_violations();
}

#[test]
fn what_cannot_be_added_or_removed_is_refused_with_the_reason_and_changes_nothing() {
    let target = TestTarget::start();
    let mapping = |nsid, drive, drive_nsid| Selection::Namespaces(vec![Mapping { nsid, drive, drive_nsid }]);
    let refused = |config: ExportConfig| match add_export(&target, config) {
        Err(TargetError::Export(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refused(config(0, Selection::Drive(0))), ExportError::SameName { .. }));
    assert!(matches!(refused(config(1, Selection::Drive(7))), ExportError::NoSuchDrive { drive: 7, .. }));
    assert!(matches!(refused(config(1, mapping(1, 3, 1))), ExportError::NoSuchDrive { drive: 3, .. }));
    let error = refused(config(1, mapping(1, 0, 9)));
    assert!(
        matches!(&error, ExportError::NoSuchNamespace { drive_nsid: 9, found, .. } if *found == [1]),
        "{error}"
    );
    assert!(matches!(refused(config(1, mapping(0, 0, 1))), ExportError::InvalidNsid { nsid: 0, .. }));
    assert!(matches!(remove_drive(&target, 4), Err(RemoveError::NoSuchDrive { index: 4 })));
    assert!(matches!(remove_drive(&target, 0), Err(RemoveError::InUse { .. })));
    assert_eq!(listed(&target, 1), [subsystem(0)]);
    target.queue(1).1.read_blocks(1, 0, 1, 4096).unwrap();
}

#[test]
fn a_target_that_cannot_start_gives_its_drives_back_in_order() {
    let domain = DmaDomain::new();
    // What is mapped for drives of a process is mapped for each of them.
    let (_witness, probe) = EmulatedFunction::with_probe(drive(512), &domain).unwrap();
    let before = probe.mappings();
    let function = EmulatedFunction::new(drive(512), &domain).unwrap();
    let mut function = Some(function);
    let open = Box::new(move || function.take().ok_or("it is not opened again".into()));
    let drive = Drive::start(0, open, ControllerOptions::default()).unwrap();
    let settings = TargetConfig {
        reactors: vec![0],
        reactor: ReactorConfig { data_memory: 8 << 20, receive_chunks: 16, ..ReactorConfig::default() },
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        max_connections: 16,
        congestion_control: CongestionControl::default(),
        state: None,
    };
    let wrong = config(0, Selection::Namespaces(vec![Mapping { nsid: 1, drive: 0, drive_nsid: 9 }]));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let refused = runtime.block_on(Target::start(settings, &domain, vec![drive], vec![wrong])).err().unwrap();
    assert!(matches!(refused, TargetError::Export(ExportError::NoSuchNamespace { .. })), "{refused}");
    assert_eq!(probe.mappings(), before, "memory that a drive might still reach would have been kept");
}

#[test]
fn discovery_controllers_tell_of_exports_that_come_and_go_to_the_hosts_that_may_see_them() {
    let target = TestTarget::start();
    let options = Options { kato: Duration::from_secs(30), ..Options::default() };
    let mut hosts: Vec<AdminQueue> = [1, 2]
        .map(|host| {
            let mut admin =
                AdminQueue::connect(target.address, &Nqn::discovery(), &identity(host), &options).unwrap();
            admin.enable().unwrap();
            let mut set = SubmissionQueueEntry::new(admin::SET_FEATURES);
            set.cdw10.set(fid::ASYNC_EVENT_CONFIGURATION.into());
            set.cdw11.set(Oaes::DISCOVERY_LOG_CHANGE.bits());
            assert!(admin.command(&set, Transfer::None).unwrap().0.status().is_success());
            admin
        })
        .into();
    for host in &mut hosts {
        host.queue().submit(&SubmissionQueueEntry::new(admin::ASYNC_EVENT_REQUEST), Transfer::None).unwrap();
        host.queue().flush().unwrap();
    }
    let generation = |admin: &mut AdminQueue| {
        let header = admin.log_page(lid::DISCOVERY, 0, 0, 16, false).unwrap();
        (u64::from_le_bytes(header[..8].try_into().unwrap()), header[8])
    };
    let before = generation(&mut hosts[0]);
    assert_eq!(before.1, 2, "the export, and discovery itself");
    let only = Access::Hosts(BTreeSet::from([identity(1).nqn.to_string()]));
    add_export(&target, ExportConfig { access: only, ..config(1, Selection::Drive(0)) }).unwrap();
    let told = hosts[0].queue().wait(PATIENCE).unwrap().expect("an event in time");
    assert_eq!(AsyncEvent::from_dw0(told.entry.dw0.get()), AsyncEvent::DISCOVERY_LOG_CHANGE);
    assert!(hosts[1].queue().wait(SILENCE).unwrap().is_none(), "it is not for this host");
    let after = generation(&mut hosts[0]);
    assert!(after.0 != before.0 && after.1 == 3, "{after:?}");
    assert_eq!(generation(&mut hosts[1]).1, 2);
    hosts[0].queue().submit(&SubmissionQueueEntry::new(admin::ASYNC_EVENT_REQUEST), Transfer::None).unwrap();
    hosts[0].queue().flush().unwrap();
    remove_export(&target, 1).unwrap();
    assert!(hosts[0].queue().wait(PATIENCE).unwrap().is_some());
    assert_eq!(generation(&mut hosts[0]).1, 2);
}

#[test]
fn an_export_that_is_back_is_connected_to_again() {
    let target = TestTarget::start();
    for _ in 0..20 {
        add_export(&target, config(1, Selection::Drive(0))).unwrap();
        let mut admin = connect(&target, 1, 1).unwrap();
        admin.enable().unwrap();
        let mut queue = admin.connect_io(1).unwrap();
        queue.read_blocks(1, 0, 1, 4096).unwrap();
        remove_export(&target, 1).unwrap();
        let ended = queue.execute(&command(nvm::READ, 0, 1), Transfer::Read(4096));
        assert!(ended.is_err(), "{:?}", ended.map(|ended| ended.entry.status()));
    }
    eventually("its associations are gone", || target.associations() == 0);
    target.assert_no_violations();
}

fn mapping(nsid: u32, drive: usize, drive_nsid: u32) -> Mapping {
    Mapping { nsid, drive, drive_nsid }
}

fn add_namespaces(target: &TestTarget, export: usize, added: Vec<Mapping>) -> Result<(), ChangeError> {
    target.ask(move |target| {
        let handle = target.handle();
        Box::pin(async move { handle.add_namespaces(&subsystem(export), &added).await })
    })
}

fn remove_namespaces(target: &TestTarget, export: usize, removed: Vec<u32>) -> Result<(), ChangeError> {
    target.ask(move |target| {
        let handle = target.handle();
        Box::pin(async move { handle.remove_namespaces(&subsystem(export), &removed).await })
    })
}

/// Commands that drives have.
fn with_drives(target: &TestTarget) -> usize {
    let status = target.ask(|target| {
        let handle = target.handle();
        Box::pin(async move { handle.status().await })
    });
    status.hosts.iter().map(|host| host.with_drives).sum()
}

/// The NSIDs that the next event names.
fn told(admin: &mut AdminQueue) -> Vec<u32> {
    let completed = admin.queue().wait(PATIENCE).unwrap().expect("an event in time");
    assert_eq!(AsyncEvent::from_dw0(completed.entry.dw0.get()), AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED);
    let page = admin.log_page(lid::CHANGED_NAMESPACES, u32::MAX, 0, 4096, false).unwrap();
    admin.queue().submit(&SubmissionQueueEntry::new(admin::ASYNC_EVENT_REQUEST), Transfer::None).unwrap();
    admin.queue().flush().unwrap();
    let nsids = page.chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
    nsids.take_while(|nsid| *nsid != 0).collect()
}

#[test]
fn namespaces_of_another_drive_join_an_export_and_leave_it_while_its_host_goes_on() {
    let target = TestTarget::start();
    add_export(&target, config(1, Selection::Namespaces(vec![mapping(1, 0, 1)]))).unwrap();
    let mut admin = connect(&target, 1, 1).unwrap();
    admin.enable().unwrap();
    let mut set = SubmissionQueueEntry::new(admin::SET_FEATURES);
    set.cdw10.set(fid::ASYNC_EVENT_CONFIGURATION.into());
    set.cdw11.set(Oaes::NAMESPACE_ATTRIBUTE.bits());
    assert!(admin.command(&set, Transfer::None).unwrap().0.status().is_success());
    admin.queue().submit(&SubmissionQueueEntry::new(admin::ASYNC_EVENT_REQUEST), Transfer::None).unwrap();
    admin.queue().flush().unwrap();
    let mut queue = admin.connect_io(1).unwrap();
    let mut other = admin.connect_io(2).unwrap();
    // Of its first namespace it reads and writes all the time.
    let (stop, stopped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (ends, rounds) = (Arc::clone(&stop), Arc::clone(&stopped));
    let load = std::thread::spawn(move || {
        while !ends.load(Ordering::Relaxed) {
            let round = rounds.fetch_add(1, Ordering::Relaxed);
            other.write_blocks(1, 3, 4096, &pattern(3, round, 8192)).unwrap();
            assert_eq!(other.read_blocks(1, 3, 2, 4096).unwrap(), pattern(3, round, 8192));
        }
    });
    for round in 1..=3_u64 {
        let probe = target.add_drive(1, drive(4096));
        assert!(queue.read_blocks(5, 0, 1, 4096).is_err(), "nothing shows it yet");
        add_namespaces(&target, 1, vec![mapping(5, 1, 2), mapping(9, 1, 1)]).unwrap();
        assert_eq!(told(&mut admin), [5, 9]);
        assert_eq!(admin.active_namespaces().unwrap(), [1, 5, 9]);
        queue.write_blocks(5, 7, 4096, &pattern(7, round, 4096)).unwrap();
        assert_eq!(queue.read_blocks(5, 7, 1, 4096).unwrap(), pattern(7, round, 4096));
        assert!(queue.read_blocks(9, 7, 1, 4096).unwrap() != pattern(7, round, 4096));
        assert!(matches!(remove_drive(&target, 1), Err(RemoveError::InUse { .. })));
        remove_namespaces(&target, 1, vec![9]).unwrap();
        assert_eq!(told(&mut admin), [9]);
        assert!(queue.read_blocks(9, 0, 1, 4096).is_err());
        queue.read_blocks(5, 7, 1, 4096).unwrap();
        remove_namespaces(&target, 1, vec![5]).unwrap();
        assert_eq!(told(&mut admin), [5]);
        assert_eq!(admin.active_namespaces().unwrap(), [1]);
        assert!(queue.read_blocks(5, 7, 1, 4096).is_err());
        assert_eq!(remove_drive(&target, 1), Ok(true));
        assert_eq!(probe.violations(), 0);
        let before = stopped.load(Ordering::Relaxed);
        eventually("the host goes on", || load.is_finished() || stopped.load(Ordering::Relaxed) > before + 1);
    }
    stop.store(true, Ordering::Relaxed);
    load.join().unwrap();
    target.assert_no_violations();
}

#[test]
fn a_namespace_leaves_an_export_when_drives_have_completed_what_its_hosts_gave() {
    let slow = EmulatedConfig { latency: Some(Duration::from_secs(2)), ..drive(4096) };
    let target = TestTarget::with(Setup {
        drives: vec![drive(4096), slow],
        exports: Some(vec![Selection::Namespaces(vec![mapping(1, 0, 1), mapping(2, 1, 1)])]),
        ..Setup::default()
    });
    let (_admin, mut queue) = target.queue(1);
    queue
        .submit(
            &SubmissionQueueEntry { nsid: 2.into(), ..command(nvm::WRITE, 0, 1) },
            Transfer::Write(vec![7; 4096].into()),
        )
        .unwrap();
    queue.flush().unwrap();
    eventually("the drive has it", || with_drives(&target) == 1);
    remove_namespaces(&target, 0, vec![2]).unwrap();
    assert_eq!(remove_drive(&target, 1), Ok(true));
    let completed = queue.wait(PATIENCE).unwrap().expect("an answer in time");
    assert!(completed.entry.status().is_success(), "the drive had it: {}", completed.entry.status());
}

#[test]
fn an_export_keeps_the_promises_that_its_hosts_were_told() {
    let target = TestTarget::start();
    add_export(&target, config(1, Selection::Namespaces(vec![mapping(1, 0, 1)]))).unwrap();
    let small = target.add_drive(1, EmulatedConfig { mdts: 5, ..drive(4096) });
    let refused = add_namespaces(&target, 1, vec![mapping(2, 1, 1)]);
    assert!(matches!(refused, Err(ChangeError::PromisesLess { .. })), "{refused:?}");
    assert_eq!(remove_drive(&target, 1), Ok(true), "nothing has it");
    for (refused, what) in [
        (remove_namespaces(&target, 1, vec![1]), "its only namespace"),
        (remove_namespaces(&target, 1, vec![2]), "one that it has not"),
        (remove_namespaces(&target, 0, vec![1]), "one of a whole drive"),
        (add_namespaces(&target, 0, vec![mapping(2, 0, 1)]), "one more of a whole drive"),
        (add_namespaces(&target, 7, vec![mapping(2, 0, 1)]), "one of an export that there is not"),
        (add_namespaces(&target, 1, vec![mapping(1, 0, 1)]), "the same once more"),
    ] {
        assert!(refused.is_err(), "{what}");
    }
    assert_eq!(small.violations(), 0);
    let mut admin = connect(&target, 1, 1).unwrap();
    admin.enable().unwrap();
    assert_eq!(admin.active_namespaces().unwrap(), [1]);
}

#[test]
fn what_commands_to_a_drive_that_is_gone_still_have_is_not_taken_from_the_next_one_of_its_number() {
    const MIB: u32 = 1 << 20;
    let memory = ReactorConfig { data_memory: 4 << 20, ..ReactorConfig::default() };
    let target = TestTarget::with(Setup {
        drives: vec![drive(4096), drive(4096)],
        exports: Some(vec![Selection::Namespaces(vec![mapping(1, 0, 1), mapping(2, 1, 1)])]),
        memory,
        ..Setup::default()
    });
    let write = |cid: u16, length: u32| {
        let mut entry = SubmissionQueueEntry { nsid: 2.into(), ..command(nvm::WRITE, 0, length / 4096) };
        entry.cid.set(cid);
        by_transport(entry, length)
    };
    let data = vec![7; MIB as usize];
    let host = identity(1);
    let (mut admin, cntlid) = Wire::admin(target.address, &subsystem(0), &host);
    let mut wires: Vec<Wire> =
        (1..=4).map(|qid| Wire::io(target.address, cntlid, qid, &subsystem(0), &host)).collect();
    // Three have the drive's part of the memory between them, and keep their data back.
    let lengths = [MIB, MIB / 2, MIB / 2];
    let mut asked = Vec::new();
    for (wire, length) in wires.iter_mut().zip(lengths) {
        wire.send(&write(1, length));
        asked.push(wire.r2t());
    }
    // One waits for its connection's part, and one for the drive's.
    for at in [0, 3] {
        wires[at].send(&write(2, MIB));
        assert_eq!(wires[at].status(&refused()), REFUSAL);
    }
    let mut abort = SubmissionQueueEntry::new(admin::ABORT);
    abort.cdw10.set(2 | 1 << 16);
    // It is answered when the data has come.
    admin.send(&by_transport(abort, 0));
    assert!(admin.status(&by_transport(SubmissionQueueEntry::new(admin::KEEP_ALIVE), 0)).is_success());

    remove_namespaces(&target, 0, vec![2]).unwrap();
    for at in [0, 3] {
        let response = wires[at].response();
        assert_eq!(response.cid.get(), 2);
        assert_eq!(
            response.status(),
            Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr(),
            "it does not wait any more"
        );
    }
    assert_eq!(remove_drive(&target, 1), Ok(true));
    let probe = target.add_drive(1, drive(4096));
    add_namespaces(&target, 0, vec![mapping(2, 1, 1)]).unwrap();
    wires[0].send(&h2c_data(&asked[0], 0, &data, true));
    assert_eq!(wires[0].response().status(), Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr());
    wires[1].send(&h2c_data(&asked[1], 0, &data[..lengths[1] as usize], true));
    assert_eq!(wires[1].response().status(), Status::ABORT_REQUESTED);
    // The third goes with its data.
    drop(wires.remove(2));
    for _ in 0..3 {
        // All of the new drive's part, twice: at most two are on their way.
        for pair in [[0, 1], [1, 2], [0, 2]] {
            let asked = pair.map(|at| {
                wires[at].send(&write(3, MIB));
                wires[at].r2t()
            });
            for (at, r2t) in pair.into_iter().zip(asked) {
                wires[at].send(&h2c_data(&r2t, 0, &data, true));
                assert!(wires[at].response().status().is_success());
            }
        }
    }
    assert_eq!(probe.violations(), 0);
    target.assert_no_violations();
}

/// Pulls a drive out, and waits until hosts see none of its namespaces.
fn pull_out(target: &TestTarget, drive: usize) {
    let mut events = target.events(drive);
    target.probes[drive].remove();
    eventually(
        "its namespaces are withdrawn",
        || matches!(events.try_recv(), Ok(DriveEvent::Namespaces(left)) if left.is_empty()),
    );
}

#[test]
fn an_export_changes_while_one_of_its_namespaces_is_away() {
    let target = TestTarget::with(Setup {
        drives: vec![drive(4096), drive(4096)],
        exports: Some(vec![Selection::Namespaces(vec![mapping(1, 0, 1), mapping(2, 1, 1)])]),
        ..Setup::default()
    });
    pull_out(&target, 1);
    add_namespaces(&target, 0, vec![mapping(3, 0, 2)]).unwrap();
    let mut admin = connect(&target, 1, 0).unwrap();
    admin.enable().unwrap();
    assert_eq!(admin.active_namespaces().unwrap(), [1, 3]);
    let refused = add_namespaces(&target, 0, vec![mapping(4, 1, 2)]);
    assert!(refused.is_err(), "what is added has to be there");
    remove_namespaces(&target, 0, vec![3]).unwrap();
    remove_namespaces(&target, 0, vec![2]).unwrap();
    assert_eq!(admin.active_namespaces().unwrap(), [1]);
}

#[test]
fn a_drive_that_was_pulled_out_keeps_another_controller_of_it_from_being_served() {
    let twice = || EmulatedConfig { serial: Some("TWICE".to_owned()), ..drive(4096) };
    let target = TestTarget::with(Setup { drives: vec![twice()], ..Setup::default() });
    pull_out(&target, 0);
    let mut function = Some(EmulatedFunction::new(twice(), &DmaDomain::new()).unwrap());
    let open = Box::new(move || function.take().ok_or("it is not opened again".into()));
    let second = Drive::start(1, open, ControllerOptions::default()).unwrap();
    let refused = target.ask(|target| Box::pin(target.add_drive(second)));
    assert!(matches!(refused, Err(TargetError::SameNamespace { nsid: 1, .. })), "{refused:?}");
    target.add_drive(1, drive(4096));
}
