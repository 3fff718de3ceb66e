//! Reservations: hosts agree among themselves who may use a namespace, and the drive sees nothing of what they forbid.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

mod administration;
mod enforcement;
mod host;
mod persistence;
mod policy;

use std::time::Duration;

use gangway_bridge::{Mapping, Selection};
use gangway_driver::emulated::EmulatedConfig;
use gangway_fabric::host::client::Transfer;
use gangway_spec::aen::AsyncEvent;
use gangway_spec::feature::fid;
use gangway_spec::identify::{IdentifyController, Oncs, cns};
use gangway_spec::opcode::nvm;
use gangway_spec::reservation::ReservationType::{
    ExclusiveAccess, WriteExclusive, WriteExclusiveRegistrantsOnly,
};
use gangway_spec::reservation::{NotificationMask, Rescap, cptpl, notification, racqa, rrega, rrela};
use gangway_spec::{Status, SubmissionQueueEntry};
use gangway_tests::{Setup, TestTarget, eventually};
use zerocopy::FromBytes;

use self::host::Host;

/// How long what must happen may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing must happen before it counts as nothing.
const SILENCE: Duration = Duration::from_millis(300);

fn drive() -> EmulatedConfig {
    EmulatedConfig { size: 8 << 20, namespaces: 2, ..EmulatedConfig::default() }
}

fn target() -> TestTarget {
    TestTarget::with(Setup { drives: vec![drive()], reactors: 2, ..Setup::default() })
}

const CONFLICT: Status = Status::RESERVATION_CONFLICT.with_dnr();

#[test]
fn identify_promises_reservations_and_what_they_can_do() {
    let target = target();
    let mut admin = target.host(1);
    let controller =
        IdentifyController::read_from_bytes(&admin.identify(cns::CONTROLLER, 0).unwrap()).unwrap();
    assert!(Oncs::from_bits_retain(controller.oncs.get()).contains(Oncs::RESERVATIONS));
    let rescap = Rescap::from_bits_retain(admin.identify_namespace(1).unwrap().rescap);
    assert_eq!(rescap, Rescap::all() - Rescap::PERSIST_THROUGH_POWER_LOSS, "there is no place to keep them");
}

#[test]
fn a_report_says_who_is_registered_through_which_controllers_and_who_holds_the_reservation() {
    let target = target();
    let mut one = Host::registered(&target, 1);
    let mut two = Host::registered(&target, 2);
    let again = Host::connect(&target, 1);
    assert_eq!(two.acquire(racqa::ACQUIRE, WriteExclusive, 0), Status::SUCCESS);
    let (status, controllers) = one.report(8192);
    assert_eq!((status.generation.get(), status.rtype, status.ptpls), (2, WriteExclusive.value(), 0));
    let mut found: Vec<_> =
        controllers.iter().map(|one| (one.hostid[0], one.cntlid.get(), one.rcsts, one.rkey.get())).collect();
    found.sort_unstable();
    let mut expected =
        vec![(1, one.admin.cntlid(), 0, 1), (1, again.admin.cntlid(), 0, 1), (2, two.admin.cntlid(), 1, 2)];
    expected.sort_unstable();
    assert_eq!(found, expected);
    let holder = two.admin.cntlid();
    drop(two);
    eventually("the holder's controller is gone", || {
        let (_, controllers) = one.report(8192);
        controllers.iter().all(|controller| controller.cntlid.get() != holder)
    });
    let (status, controllers) = one.report(8192);
    assert_eq!(status.rtype, WriteExclusive.value(), "a host that left holds what it held");
    assert!(controllers.iter().any(|one| (one.hostid[0], one.cntlid.get(), one.rcsts) == (2, 0xffff, 1)));

    let mut short = SubmissionQueueEntry::new(nvm::RESERVATION_REPORT);
    short.nsid.set(1);
    short.cdw10.set(15);
    let refused = one.queue.execute(&short, Transfer::Read(64)).unwrap().entry.status();
    assert_eq!(refused, Status::HOST_IDENTIFIER_INCONSISTENT.with_dnr(), "EDS is needed");
}

#[test]
fn exports_that_show_one_namespace_share_its_reservations() {
    let other_way = Selection::Namespaces(vec![Mapping { nsid: 7, drive: 0, drive_nsid: 1 }]);
    let exports = Some(vec![Selection::Drive(0), other_way]);
    let target = TestTarget::with(Setup { drives: vec![drive()], exports, ..Setup::default() });
    let mut one = Host::registered(&target, 1);
    let mut two = Host::of(&target, 2, 1, 7);
    assert_eq!(two.register(rrega::REGISTER, cptpl::NO_CHANGE), Status::SUCCESS);
    assert_eq!(two.acquire(racqa::ACQUIRE, ExclusiveAccess, 0), Status::SUCCESS);
    assert_eq!((one.write(1), one.read()), (CONFLICT, CONFLICT));
    assert_eq!(two.write(2), Status::SUCCESS);
    assert_eq!(one.report(4096), two.report(4096));
    two.listen();
    assert_eq!(one.acquire(racqa::PREEMPT, WriteExclusive, 2), Status::SUCCESS);
    assert_eq!(two.told(), AsyncEvent::RESERVATION_LOG_AVAILABLE);
    let told = two.notification();
    assert_eq!(told, (1, notification::REGISTRATION_PREEMPTED, 0, 7), "by the number that it knows");
    assert_eq!((one.write(3), two.write(4), two.read()), (Status::SUCCESS, CONFLICT, Status::SUCCESS));
}

#[test]
fn hosts_are_told_what_others_did_and_only_what_they_want_to_hear() {
    let target = target();
    let mut one = Host::registered(&target, 1);
    let mut two = Host::registered(&target, 2);
    let mut three = Host::registered(&target, 3);
    assert_eq!(three.feature(fid::RESERVATION_NOTIFICATION_MASK, 1), Ok(0));
    let mask = NotificationMask::RESERVATION_RELEASED.bits();
    assert_eq!(three.set_feature(fid::RESERVATION_NOTIFICATION_MASK, u32::MAX, mask), Status::SUCCESS);
    assert_eq!(three.feature(fid::RESERVATION_NOTIFICATION_MASK, 2), Ok(mask));
    for nsid in [0, 3, u32::MAX] {
        let refused = Err(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr());
        assert_eq!(three.feature(fid::RESERVATION_NOTIFICATION_MASK, nsid), refused);
    }
    for host in [&mut one, &mut two, &mut three] {
        host.listen();
    }
    assert_eq!(one.acquire(racqa::ACQUIRE, WriteExclusiveRegistrantsOnly, 0), Status::SUCCESS);
    assert_eq!(one.release(rrela::RELEASE, WriteExclusiveRegistrantsOnly), Status::SUCCESS);
    assert_eq!(two.told(), AsyncEvent::RESERVATION_LOG_AVAILABLE);
    // Before two reads of it, more happens.
    assert_eq!(one.acquire(racqa::PREEMPT, WriteExclusive, 2), Status::SUCCESS);
    assert_eq!(one.acquire(racqa::PREEMPT, WriteExclusive, 3), Status::SUCCESS);
    two.listen();
    assert!(two.admin.queue().wait(SILENCE).unwrap().is_none(), "masked until the log is read");
    assert_eq!(two.notification(), (1, notification::RESERVATION_RELEASED, 1, 1));
    assert_eq!(two.told(), AsyncEvent::RESERVATION_LOG_AVAILABLE, "there is another page");
    assert_eq!(two.notification(), (2, notification::REGISTRATION_PREEMPTED, 0, 1));
    assert_eq!(two.notification(), (0, notification::EMPTY, 0, 0));
    assert_eq!(three.told(), AsyncEvent::RESERVATION_LOG_AVAILABLE);
    assert_eq!(three.notification(), (1, notification::REGISTRATION_PREEMPTED, 0, 1));
    assert!(one.admin.queue().wait(SILENCE).unwrap().is_none(), "nobody is told of what it did itself");
    two.admin.disable().unwrap();
    two.admin.enable().unwrap();
}
