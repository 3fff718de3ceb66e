//! How a host comes to a controller, and how that is enabled, reset and shut down.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::collections::BTreeSet;

use gangway_bridge::Access;
use gangway_driver::emulated::EmulatedConfig;
use gangway_fabric::host::client::{AdminQueue, HostError, Options, Transfer};
use gangway_spec::identify::cns;
use gangway_spec::opcode::admin;
use gangway_spec::registers::{self, ControllerConfiguration, ControllerStatus};
use gangway_spec::{Status, SubmissionQueueEntry};
use gangway_tests::wire::{Wire, connect};
use gangway_tests::{Setup, TestTarget, identity, pattern, subsystem};

fn drive(block: u32, namespaces: u32) -> EmulatedConfig {
    EmulatedConfig { size: 8 << 20, block, namespaces, ..EmulatedConfig::default() }
}

#[test]
fn a_host_that_is_not_on_the_list_is_refused_for_good() {
    let access = Access::Hosts(BTreeSet::from([identity(1).nqn.as_str().to_owned()]));
    let target = TestTarget::with(Setup { access, ..Setup::default() });
    let _allowed = target.queue(1);
    let refused = AdminQueue::connect(target.address, &subsystem(0), &identity(2), &Options::default());
    let Err(HostError::Refused { status, .. }) = refused else { panic!("the host was let in") };
    assert_eq!(status, Status::CONNECT_INVALID_HOST.with_dnr());
    assert_eq!(target.associations(), 1);
}

/// Status, and the offset of the parameter at fault (within the data of the command if bit 16 is set).
fn refusal(target: &TestTarget, connect: &[u8]) -> (Status, u32) {
    let entry = Wire::initialized(target.address).execute(connect);
    (entry.status(), entry.dw0.get())
}

#[test]
fn a_connect_that_is_wrong_is_refused_with_the_parameter_at_fault() {
    const IN_DATA: u32 = 1 << 16;
    const SUBNQN: u32 = IN_DATA | 256;
    const HOSTNQN: u32 = IN_DATA | 512;
    const HOSTID: u32 = IN_DATA;
    const CNTLID: u32 = IN_DATA | 16;
    const QID: u32 = 42;
    const SQSIZE: u32 = 44;
    let invalid = Status::CONNECT_INVALID_PARAMETERS.with_dnr();
    let two = vec![drive(4096, 1), drive(4096, 1)];
    let target = TestTarget::with(Setup { drives: two, max_io_queues: 4, ..Setup::default() });
    let host = identity(1);
    let unknown = "nqn.2014-08.org.example:nothing".parse().unwrap();
    assert_eq!(refusal(&target, &connect(0, 32, None, &unknown, &host)), (invalid, SUBNQN));
    assert_eq!(refusal(&target, &connect(0, 32, Some(7), &subsystem(0), &host)), (invalid, CNTLID));
    assert_eq!(refusal(&target, &connect(0, 1, None, &subsystem(0), &host)), (invalid, SQSIZE));
    assert_eq!(refusal(&target, &connect(0, 4096, None, &subsystem(0), &host)), (invalid, SQSIZE));
    assert_eq!(refusal(&target, &connect(1, 32, Some(999), &subsystem(0), &host)), (invalid, CNTLID));
    assert_eq!(refusal(&target, &connect(1, 32, None, &subsystem(0), &host)), (invalid, CNTLID));
    assert_eq!(target.associations(), 0);

    let mut admin = AdminQueue::connect(target.address, &subsystem(0), &host, &Options::default()).unwrap();
    let own = Some(admin.cntlid());
    let sequence = (Status::COMMAND_SEQUENCE_ERROR.with_dnr(), 0);
    assert_eq!(refusal(&target, &connect(1, 32, own, &subsystem(0), &host)), sequence, "not enabled yet");
    admin.enable().unwrap();
    let first = admin.connect_io(1).unwrap();
    assert_eq!(refusal(&target, &connect(1, 32, own, &subsystem(0), &host)), sequence, "queue 1 twice");
    assert_eq!(
        refusal(&target, &connect(5, 32, own, &subsystem(0), &host)),
        (invalid, QID),
        "beyond the limit"
    );
    assert_eq!(refusal(&target, &connect(0xffff, 32, own, &subsystem(0), &host)), (invalid, QID));
    assert_eq!(
        refusal(&target, &connect(2, 1025, own, &subsystem(0), &host)),
        (invalid, SQSIZE),
        "beyond MQES"
    );
    assert_eq!(
        refusal(&target, &connect(2, 32, own, &subsystem(1), &host)),
        (invalid, SUBNQN),
        "another subsystem"
    );
    let renamed = gangway_fabric::host::client::HostIdentity { nqn: identity(2).nqn, id: host.id };
    assert_eq!(refusal(&target, &connect(2, 32, own, &subsystem(0), &renamed)), (invalid, HOSTNQN));
    let other_id = gangway_fabric::host::client::HostIdentity { nqn: host.nqn.clone(), id: identity(2).id };
    assert_eq!(refusal(&target, &connect(2, 32, own, &subsystem(0), &other_id)), (invalid, HOSTID));
    // The number of queues is settled before the first of them.
    assert!(admin.set_number_of_queues(2).is_err());
    drop(first);
    // Fewer queues are asked for than there could be.
    gangway_tests::eventually("the queue is gone", || {
        admin.set_number_of_queues(2).is_ok_and(|granted| granted == 2)
    });
    assert_eq!(
        refusal(&target, &connect(3, 32, own, &subsystem(0), &host)),
        (invalid, QID),
        "beyond what was granted"
    );
    admin.connect_io(2).unwrap();
}

#[test]
fn a_controller_can_be_reset_and_enabled_again() {
    let target = TestTarget::start();
    let mut controller = target.host(1);
    for round in 0..5 {
        let mut queue = controller.connect_io(1).unwrap();
        let mut second = controller.connect_io(2).unwrap();
        queue.write_blocks(1, 0, 4096, &pattern(0, round, 4096)).unwrap();
        assert!(second.read_blocks(1, 0, 1, 4096).unwrap() == pattern(0, round, 4096));
        controller.disable().unwrap();
        assert!(queue.read_blocks(1, 0, 1, 4096).is_err(), "its I/O queues are gone");
        assert!(second.read_blocks(1, 0, 1, 4096).is_err());
        let mut identify = SubmissionQueueEntry::new(admin::IDENTIFY);
        identify.cdw10.set(cns::CONTROLLER.into());
        let refused = controller.command(&identify, Transfer::Read(4096)).unwrap().0.status();
        assert!(refused.is(Status::COMMAND_SEQUENCE_ERROR), "{refused}");
        let csts = ControllerStatus::from_bits(controller.property_get(registers::CSTS).unwrap() as u32);
        assert!(!csts.rdy() && !csts.cfs());
        controller.enable().unwrap();
    }
    assert_eq!(target.associations(), 1);
}

#[test]
fn a_shutdown_is_reported_complete_and_the_controller_can_be_used_again_after_a_reset() {
    for kind in [ControllerConfiguration::SHN_NORMAL, ControllerConfiguration::SHN_ABRUPT] {
        let target = TestTarget::start();
        let (mut admin, mut queue) = target.queue(1);
        queue.write_blocks(1, 0, 4096, &[1; 4096]).unwrap();
        let cc = admin.property_get(registers::CC).unwrap() as u32;
        let cc = ControllerConfiguration::from_bits(cc);
        admin.property_set(registers::CC, cc.with_shn(kind).into_bits()).unwrap();
        gangway_tests::eventually("the shutdown is complete", || {
            let csts = ControllerStatus::from_bits(admin.property_get(registers::CSTS).unwrap() as u32);
            csts.shst() == ControllerStatus::SHST_COMPLETE
        });
        assert!(queue.read_blocks(1, 0, 1, 4096).is_err(), "its I/O queues are gone");
        let host = identity(1);
        let refused = refusal(&target, &connect(1, 32, Some(admin.cntlid()), &subsystem(0), &host)).0;
        assert!(refused.is(Status::COMMAND_SEQUENCE_ERROR), "no I/O queues after a shutdown: {refused}");
        admin.property_set(registers::CC, 0).unwrap();
        admin.enable().unwrap();
        let mut queue = admin.connect_io(1).unwrap();
        assert_eq!(queue.read_blocks(1, 0, 1, 4096).unwrap(), [1; 4096]);
    }
}

#[test]
fn a_configuration_that_cannot_be_is_a_fatal_status_and_a_reset_ends_it() {
    let target = TestTarget::start();
    let good = ControllerConfiguration::new().with_en(true).with_iosqes(6).with_iocqes(4);
    for wrong in [good.with_iosqes(5), good.with_iocqes(5), good.with_mps(15), good.with_css(5)] {
        let mut admin =
            AdminQueue::connect(target.address, &subsystem(0), &identity(1), &Options::default()).unwrap();
        // Refused at once, or enabled into a fatal status.
        if admin.property_set(registers::CC, wrong.into_bits()).is_ok() {
            let csts = ControllerStatus::from_bits(admin.property_get(registers::CSTS).unwrap() as u32);
            assert!(csts.cfs() && !csts.rdy(), "CC {:#x}", wrong.into_bits());
        }
        admin.property_set(registers::CC, 0).unwrap();
        admin.enable().unwrap();
        admin.connect_io(1).unwrap();
    }
}
