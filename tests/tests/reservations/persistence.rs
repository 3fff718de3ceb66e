//! Reservations that survive a restart, and those that do not.

use std::path::Path;

use gangway_driver::emulated::EmulatedConfig;
use gangway_fabric::host::client::{AdminQueue, HostIdentity, Options};
use gangway_spec::Status;
use gangway_spec::feature::fid;
use gangway_spec::reservation::ReservationType::{ExclusiveAccess, WriteExclusive};
use gangway_spec::reservation::{Rescap, cptpl, racqa, rrega};
use gangway_tests::{Setup, TestTarget, eventually, identity, subsystem};

use crate::host::Host;
use crate::{CONFLICT, drive, target};

fn persistent(state: &Path) -> TestTarget {
    let drive = EmulatedConfig { serial: Some("RESERVED".to_owned()), ..drive() };
    TestTarget::with(Setup { drives: vec![drive], state: Some(state.to_owned()), ..Setup::default() })
}

#[test]
fn reservations_that_persist_are_in_force_after_a_restart_and_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let target = persistent(folder.path());
    let mut one = Host::connect(&target, 1);
    let rescap = Rescap::from_bits_retain(one.admin.identify_namespace(1).unwrap().rescap);
    assert_eq!(rescap, Rescap::all());
    assert_eq!(one.register(rrega::REGISTER, cptpl::SET), Status::SUCCESS);
    assert_eq!(one.feature(fid::RESERVATION_PERSISTENCE, 1), Ok(1));
    assert_eq!(one.feature(fid::RESERVATION_PERSISTENCE, 2), Ok(0));
    assert_eq!(one.acquire(racqa::ACQUIRE, ExclusiveAccess, 0), Status::SUCCESS);
    let (before, _) = one.report(4096);
    drop(one);
    drop(target);

    let target = persistent(folder.path());
    let mut two = Host::connect(&target, 2);
    assert_eq!((two.write(1), two.read()), (CONFLICT, CONFLICT), "before its holder is back");
    let (after, controllers) = two.report(4096);
    assert_eq!((after.generation, after.rtype, after.ptpls), (before.generation, before.rtype, 1));
    assert_eq!(controllers.len(), 1);
    let mut one = Host::connect(&target, 1);
    assert_eq!((one.write(1), one.read()), (Status::SUCCESS, Status::SUCCESS));
    assert_eq!(one.set_feature(fid::RESERVATION_PERSISTENCE, 1, 0), Status::SUCCESS);
    assert_eq!(two.read(), CONFLICT, "it is held as long as the target runs");
    drop((one, two));
    drop(target);

    let target = persistent(folder.path());
    let mut two = Host::connect(&target, 2);
    assert_eq!((two.write(1), two.read()), (Status::SUCCESS, Status::SUCCESS));
    assert_eq!(two.report(4096).1.len(), 0);
}

#[test]
fn while_a_namespace_is_reserved_registrants_alone_say_whether_that_persists() {
    let folder = tempfile::tempdir().unwrap();
    let target = persistent(folder.path());
    let mut one = Host::connect(&target, 1);
    let mut two = Host::registered(&target, 2);
    let mut stranger = Host::connect(&target, 3);
    assert_eq!(stranger.set_feature(fid::RESERVATION_PERSISTENCE, 1, 1), Status::SUCCESS, "it is free");
    assert_eq!(one.register(rrega::REGISTER, cptpl::SET), Status::SUCCESS);
    assert_eq!(one.acquire(racqa::ACQUIRE, WriteExclusive, 0), Status::SUCCESS);
    for nsid in [1, u32::MAX] {
        assert_eq!(stranger.set_feature(fid::RESERVATION_PERSISTENCE, nsid, 0), CONFLICT);
        assert_eq!(one.feature(fid::RESERVATION_PERSISTENCE, 1), Ok(1));
    }
    assert_eq!(two.set_feature(fid::RESERVATION_PERSISTENCE, 1, 0), Status::SUCCESS);
    assert_eq!(one.feature(fid::RESERVATION_PERSISTENCE, 1), Ok(0));
}

#[test]
fn the_host_identifier_of_a_registrant_is_not_taken_from_a_host_of_another_name() {
    let folder = tempfile::tempdir().unwrap();
    let connect = |target: &TestTarget| {
        let thief = HostIdentity { nqn: identity(2).nqn, id: identity(1).id };
        let options = Options::default();
        AdminQueue::connect(target.address, &subsystem(0), &thief, &options).map(drop)
    };
    let target = persistent(folder.path());
    let mut one = Host::connect(&target, 1);
    assert!(connect(&target).is_err(), "it is connected");
    assert_eq!(one.register(rrega::REGISTER, cptpl::SET), Status::SUCCESS);
    drop(one);
    drop(target);
    let target = persistent(folder.path());
    let refused = connect(&target).unwrap_err().to_string();
    assert!(refused.contains("HOSTID"), "{refused}");
    let mut one = Host::connect(&target, 1);
    assert_eq!(one.register(rrega::UNREGISTER, cptpl::NO_CHANGE), Status::SUCCESS);
    drop(one);
    eventually("the identifier is free", || connect(&target).is_ok());
}

#[test]
fn without_a_place_to_keep_them_reservations_cannot_be_made_to_persist() {
    let target = target();
    let mut one = Host::connect(&target, 1);
    assert_eq!(one.register(rrega::REGISTER, cptpl::SET), Status::INVALID_FIELD.with_dnr());
    assert_eq!(one.set_feature(fid::RESERVATION_PERSISTENCE, 1, 1), Status::INVALID_FIELD.with_dnr());
    assert_eq!(one.report(4096).1.len(), 0);
}

#[test]
fn a_change_that_cannot_be_kept_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let target = persistent(folder.path());
    let mut one = Host::connect(&target, 1);
    assert_eq!(one.register(rrega::REGISTER, cptpl::SET), Status::SUCCESS);
    std::fs::remove_dir_all(folder.path().join("reservations")).unwrap();
    assert_eq!(one.acquire(racqa::ACQUIRE, ExclusiveAccess, 0), Status::INTERNAL_ERROR);
    assert_eq!(one.report(4096).0.rtype, 0, "nothing has changed");
    std::fs::create_dir(folder.path().join("reservations")).unwrap();
    assert_eq!(one.acquire(racqa::ACQUIRE, ExclusiveAccess, 0), Status::SUCCESS);
}
