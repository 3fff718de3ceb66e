//! Reservations: hosts agree among themselves who may use a namespace, and the drive sees nothing of what they forbid.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gangway_bridge::policy::{HostPolicies, Item, Policy};
use gangway_bridge::{Mapping, Selection};
use gangway_driver::emulated::EmulatedConfig;
use gangway_fabric::host::client::{AdminQueue, HostIdentity, IoQueue, Options, Transfer};
use gangway_spec::aen::AsyncEvent;
use gangway_spec::feature::fid;
use gangway_spec::identify::{IdentifyController, Oncs, cns};
use gangway_spec::log::lid;
use gangway_spec::opcode::{admin, nvm};
use gangway_spec::reservation::{
    ExtendedRegisteredController, ExtendedReservationStatus, NotificationMask, Rescap,
    ReservationAcquireData, ReservationNotificationLog, ReservationParameters, ReservationRegisterData,
    ReservationReleaseData, ReservationType, cptpl, notification, racqa, rrega, rrela,
};
use gangway_spec::{Status, SubmissionQueueEntry};
use gangway_tests::wire::{self, Wire};
use gangway_tests::{Setup, TestTarget, command, eventually, identity, pattern, subsystem};
use zerocopy::{FromBytes, IntoBytes};

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

/// A host with one I/O queue. Its key is its number.
struct Host {
    admin: AdminQueue,
    queue: IoQueue,
    number: u8,
    /// What it knows the namespace as.
    nsid: u32,
}

impl Host {
    fn connect(target: &TestTarget, number: u8) -> Self {
        Self::of(target, number, 0, 1)
    }

    /// One of this export, which shows the namespace as `nsid`.
    fn of(target: &TestTarget, number: u8, export: usize, nsid: u32) -> Self {
        let mut admin = target.host_with(number, export, &Options::default());
        let queue = admin.connect_io(1).unwrap();
        Self { admin, queue, number, nsid }
    }

    /// One that is a registrant.
    fn registered(target: &TestTarget, number: u8) -> Self {
        let mut host = Self::connect(target, number);
        assert_eq!(host.register(rrega::REGISTER, cptpl::NO_CHANGE), Status::SUCCESS);
        host
    }

    fn key(&self) -> u64 {
        self.number.into()
    }

    fn give(&mut self, opcode: u8, parameters: ReservationParameters, data: &[u8]) -> Status {
        let mut entry = SubmissionQueueEntry::new(opcode);
        entry.nsid.set(self.nsid);
        parameters.apply(&mut entry);
        self.queue.execute(&entry, Transfer::Write(data.into())).unwrap().entry.status()
    }

    fn register(&mut self, action: u8, cptpl: u8) -> Status {
        let parameters = ReservationParameters { action, ignore_existing_key: false, rtype: 0, cptpl };
        let data = ReservationRegisterData { crkey: self.key().into(), nrkey: self.key().into() };
        self.give(nvm::RESERVATION_REGISTER, parameters, data.as_bytes())
    }

    fn acquire(&mut self, action: u8, kind: ReservationType, prkey: u64) -> Status {
        let parameters =
            ReservationParameters { action, ignore_existing_key: false, rtype: kind.value(), cptpl: 0 };
        let data = ReservationAcquireData { crkey: self.key().into(), prkey: prkey.into() };
        self.give(nvm::RESERVATION_ACQUIRE, parameters, data.as_bytes())
    }

    fn release(&mut self, action: u8, kind: ReservationType) -> Status {
        let parameters =
            ReservationParameters { action, ignore_existing_key: false, rtype: kind.value(), cptpl: 0 };
        let data = ReservationReleaseData { crkey: self.key().into() };
        self.give(nvm::RESERVATION_RELEASE, parameters, data.as_bytes())
    }

    fn report(&mut self, length: u32) -> (ExtendedReservationStatus, Vec<ExtendedRegisteredController>) {
        let mut entry = SubmissionQueueEntry::new(nvm::RESERVATION_REPORT);
        entry.nsid.set(self.nsid);
        entry.cdw10.set(length / 4 - 1);
        entry.cdw11.set(1);
        let completed = self.queue.execute(&entry, Transfer::Read(length)).unwrap();
        assert_eq!(completed.entry.status(), Status::SUCCESS);
        assert_eq!(completed.data.len(), length as usize);
        let (status, rest) = ExtendedReservationStatus::read_from_prefix(&completed.data).unwrap();
        let (controllers, rest) =
            rest.split_at(usize::from(status.registered.get()) * size_of::<ExtendedRegisteredController>());
        assert!(rest.iter().all(|byte| *byte == 0), "what other commands left in memory is not shown");
        let controllers = controllers
            .chunks_exact(64)
            .map(|one| ExtendedRegisteredController::read_from_bytes(one).unwrap());
        (status, controllers.collect())
    }

    fn io(&mut self, opcode: u8, transfer: Transfer) -> Status {
        let mut entry = command(opcode, 8, 1);
        entry.nsid.set(self.nsid);
        self.queue.execute(&entry, transfer).unwrap().entry.status()
    }

    fn write(&mut self, round: u64) -> Status {
        self.io(nvm::WRITE, Transfer::Write(pattern(8, round, 4096).into()))
    }

    fn read(&mut self) -> Status {
        self.io(nvm::READ, Transfer::Read(4096))
    }

    fn set_feature(&mut self, id: u8, nsid: u32, value: u32) -> Status {
        let mut entry = SubmissionQueueEntry::new(admin::SET_FEATURES);
        entry.nsid.set(nsid);
        entry.cdw10.set(id.into());
        entry.cdw11.set(value);
        self.admin.command(&entry, Transfer::None).unwrap().0.status()
    }

    fn feature(&mut self, id: u8, nsid: u32) -> Result<u32, Status> {
        let mut entry = SubmissionQueueEntry::new(admin::GET_FEATURES);
        entry.nsid.set(nsid);
        entry.cdw10.set(id.into());
        let (completion, _) = self.admin.command(&entry, Transfer::None).unwrap();
        if completion.status().is_success() { Ok(completion.dw0.get()) } else { Err(completion.status()) }
    }

    /// Asks for one event.
    fn listen(&mut self) {
        let request = SubmissionQueueEntry::new(admin::ASYNC_EVENT_REQUEST);
        self.admin.queue().submit(&request, Transfer::None).unwrap();
        self.admin.queue().flush().unwrap();
    }

    fn told(&mut self) -> AsyncEvent {
        let completed = self.admin.queue().wait(PATIENCE).unwrap().expect("an event in time");
        AsyncEvent::from_dw0(completed.entry.dw0.get())
    }

    fn notification(&mut self) -> (u64, u8, u8, u32) {
        let page = self.admin.log_page(lid::RESERVATION_NOTIFICATION, 0, 0, 64, false).unwrap();
        let page = ReservationNotificationLog::read_from_bytes(&page).unwrap();
        (page.count.get(), page.kind, page.available, page.nsid.get())
    }
}

const CONFLICT: Status = Status::RESERVATION_CONFLICT.with_dnr();

use ReservationType::{ExclusiveAccess, WriteExclusive, WriteExclusiveRegistrantsOnly};

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
fn each_type_keeps_out_whom_the_specification_says_and_the_drive_sees_nothing_of_it() {
    let target = target();
    let probe = &target.probes[0];
    let mut holder = Host::registered(&target, 1);
    let mut registrant = Host::registered(&target, 2);
    let mut stranger = Host::connect(&target, 3);
    assert_eq!(holder.write(1), Status::SUCCESS);
    for kind in ReservationType::ALL {
        assert_eq!(holder.acquire(racqa::ACQUIRE, kind, 0), Status::SUCCESS);
        let seen = [nvm::WRITE, nvm::READ].map(|opcode| {
            let rule = format!("delay=0ms:{}", if opcode == nvm::WRITE { "write" } else { "read" });
            probe.add_fault(rule.parse().unwrap())
        });
        let expected = |allowed: bool| if allowed { Status::SUCCESS } else { CONFLICT };
        let shared = kind.is_for_registrants();
        assert_eq!((holder.write(2), holder.read()), (Status::SUCCESS, Status::SUCCESS), "{kind}");
        assert_eq!(registrant.write(3), expected(shared), "{kind}");
        assert_eq!(registrant.read(), expected(shared || !kind.excludes_reads()), "{kind}");
        assert_eq!(stranger.write(4), CONFLICT, "{kind}");
        assert_eq!(stranger.read(), expected(!kind.excludes_reads()), "{kind}");
        assert_eq!(stranger.io(nvm::FLUSH, Transfer::None), CONFLICT, "{kind}");
        assert_eq!(stranger.io(nvm::WRITE_ZEROES, Transfer::None), CONFLICT, "{kind}");
        let [writes, reads] = seen.map(|id| probe.remove_fault(id).unwrap().matched);
        assert_eq!(writes, 1 + u64::from(shared), "{kind}: what is refused does not reach the drive");
        assert_eq!(
            reads,
            1 + u64::from(shared || !kind.excludes_reads()) + u64::from(!kind.excludes_reads()),
            "{kind}"
        );
        // Another namespace of the drive is not concerned.
        let mut elsewhere = command(nvm::WRITE, 0, 1);
        elsewhere.nsid.set(2);
        let written = stranger.queue.execute(&elsewhere, Transfer::Write(vec![7; 4096].into())).unwrap();
        assert_eq!(written.entry.status(), Status::SUCCESS);
        assert_eq!(holder.release(rrela::RELEASE, kind), Status::SUCCESS);
        assert_eq!(stranger.write(5), Status::SUCCESS, "{kind}: it is free again");
    }
    target.assert_no_violations();
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
fn a_write_whose_data_arrives_after_another_host_acquired_the_namespace_is_refused() {
    let target = target();
    let mut holder = Host::registered(&target, 1);
    assert_eq!(holder.write(1), Status::SUCCESS);
    let (_admin, cntlid) = Wire::admin(target.address, &subsystem(0), &identity(9));
    let mut wire = Wire::io(target.address, cntlid, 1, &subsystem(0), &identity(9));
    wire.send(&wire::by_transport(command(nvm::WRITE, 8, 4), 16384));
    let r2t = wire.r2t();
    assert_eq!(holder.acquire(racqa::ACQUIRE, WriteExclusive, 0), Status::SUCCESS);
    wire.send(&wire::h2c_data(&r2t, 0, &[0xee; 16384], true));
    assert_eq!(wire.response().status(), CONFLICT);
    assert_eq!(holder.queue.read_blocks(1, 8, 1, 4096).unwrap(), pattern(8, 1, 4096));
    // The connection is none the worse for it.
    wire.send(&wire::by_transport(command(nvm::READ, 8, 1), 4096));
    assert!(wire.pdu().is_some());
}

#[test]
fn an_acquire_ends_when_the_drive_has_no_command_any_more_that_it_forbids() {
    let target = target();
    let mut holder = Host::registered(&target, 1);
    let mut other = Host::connect(&target, 2);
    let probe = &target.probes[0];
    probe.add_fault("delay=700ms:write:nth=1".parse().unwrap());
    let data = pattern(8, 5, 4096);
    other.queue.submit(&command(nvm::WRITE, 8, 1), Transfer::Write(data.clone().into())).unwrap();
    other.queue.flush().unwrap();
    eventually("the drive has the write", || probe.commands_held() == 1);
    assert_eq!(holder.acquire(racqa::ACQUIRE, ExclusiveAccess, 0), Status::SUCCESS);
    assert_eq!(probe.commands_held(), 0, "the write has ended before the reservation began");
    let completed = other.queue.wait(PATIENCE).unwrap().unwrap();
    assert_eq!(completed.entry.status(), Status::SUCCESS, "it came first");
    assert_eq!(holder.queue.read_blocks(1, 8, 1, 4096).unwrap(), data);
}

#[test]
fn preempt_and_abort_ends_the_commands_of_the_preempted_host() {
    let target = target();
    let mut one = Host::registered(&target, 1);
    let mut two = Host::registered(&target, 2);
    assert_eq!(two.acquire(racqa::ACQUIRE, WriteExclusiveRegistrantsOnly, 0), Status::SUCCESS);
    // More than the drive takes at a time, some of it slow: a part is with the drive, a part waits here.
    let probe = &target.probes[0];
    probe.add_fault("delay=300ms:write:every=8".parse().unwrap());
    let mut outstanding = 0;
    while !two.queue.is_full() {
        let data = pattern(8, outstanding, 4096);
        two.queue.submit(&command(nvm::WRITE, 8, 1), Transfer::Write(data.into())).unwrap();
        outstanding += 1;
    }
    two.queue.flush().unwrap();
    eventually("the drive has some", || probe.commands_held() > 0);
    assert_eq!(one.acquire(racqa::PREEMPT_AND_ABORT, WriteExclusive, 2), Status::SUCCESS);
    assert_eq!(one.write(77), Status::SUCCESS);
    for _ in 0..outstanding {
        let status = two.queue.wait(PATIENCE).unwrap().expect("each command ends").entry.status();
        let ended = [Status::SUCCESS, Status::ABORTED_PREEMPT_AND_ABORT.with_dnr(), CONFLICT];
        assert!(ended.contains(&status), "{status}");
    }
    assert_eq!(one.queue.read_blocks(1, 8, 1, 4096).unwrap(), pattern(8, 77, 4096), "no ghost write");
    assert_eq!(two.write(1), CONFLICT);
    assert_eq!(two.register(rrega::UNREGISTER, 0), CONFLICT, "it is no registrant any more");
    target.assert_no_violations();
}

/// Writes without a pause to where the reservations are, with several commands at a time, until it is told to stop. Gives
/// how many were refused.
fn noise(target: &TestTarget, number: u8, stop: &AtomicBool) -> u64 {
    let mut host = Host::connect(target, number);
    let mut refused = 0;
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) || host.queue.in_flight() > 0 {
        while !stop.load(Ordering::Relaxed) && host.queue.in_flight() < 8 {
            round += 1;
            // In the capsule, and asked for.
            let blocks = if round % 2 == 0 { 1 } else { 4 };
            let data = vec![number; blocks as usize * 4096];
            host.queue.submit(&command(nvm::WRITE, 8, blocks), Transfer::Write(data.into())).unwrap();
        }
        host.queue.flush().unwrap();
        let status = host.queue.wait(PATIENCE).unwrap().expect("each write ends").entry.status();
        assert!(status == Status::SUCCESS || status == CONFLICT, "{status}");
        refused += u64::from(status == CONFLICT);
    }
    refused
}

#[test]
fn nothing_of_others_lands_between_acquire_and_release_however_much_they_write() {
    const ROUNDS: u64 = 60;
    let latency = Some(Duration::from_micros(200));
    let setup =
        Setup { drives: vec![EmulatedConfig { latency, ..drive() }], reactors: 2, ..Setup::default() };
    let target = TestTarget::with(setup);
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let strangers = [11, 12].map(|number| {
            threads.spawn({
                let (target, stop) = (&target, &stop);
                move || noise(target, number, stop)
            })
        });
        let holders = [1_u8, 2].map(|number| {
            let target = &target;
            threads.spawn(move || {
                let mut host = Host::registered(target, number);
                for round in 0..ROUNDS {
                    let begin = Instant::now();
                    while host.acquire(racqa::ACQUIRE, WriteExclusive, 0) == CONFLICT {
                        assert!(begin.elapsed() < PATIENCE, "the other host keeps its reservation");
                    }
                    let data = pattern(u64::from(number), round, 4 * 4096);
                    host.queue.write_blocks(1, 8, 4096, &data).unwrap();
                    for _ in 0..3 {
                        assert!(
                            host.queue.read_blocks(1, 8, 4, 4096).unwrap() == data,
                            "round {round} of {number}"
                        );
                    }
                    assert_eq!(host.release(rrela::RELEASE, WriteExclusive), Status::SUCCESS);
                }
            })
        });
        let held = holders.map(|holder| holder.join().is_ok());
        stop.store(true, Ordering::Relaxed);
        for stranger in strangers {
            assert!(stranger.join().unwrap() > 0, "it was refused at times");
        }
        assert_eq!(held, [true, true]);
    });
    target.assert_no_violations();
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

#[test]
fn admin_commands_that_change_a_namespace_are_kept_from_those_who_may_not_write_to_it() {
    let policies =
        HostPolicies::all(Policy::new(["inspect", "manage"].map(|item| item.parse::<Item>().unwrap()), []));
    let setup = Setup { drives: vec![drive()], policies, ..Setup::default() };
    let target = TestTarget::with(setup);
    let mut holder = Host::registered(&target, 1);
    let mut other = Host::connect(&target, 2);
    let mut sanitize = SubmissionQueueEntry::new(admin::SANITIZE);
    sanitize.cdw10.set(2);
    let run = |host: &mut Host| host.admin.command(&sanitize, Transfer::None).unwrap().0.status();
    assert_eq!(holder.acquire(racqa::ACQUIRE, WriteExclusive, 0), Status::SUCCESS);
    assert_eq!(run(&mut other), CONFLICT);
    assert_eq!(run(&mut holder), Status::SUCCESS);
}

/// A target whose hosts may manage its drive.
fn managed(drive: EmulatedConfig) -> TestTarget {
    let items = ["inspect", "manage"].map(|item| item.parse::<Item>().unwrap());
    let policies = HostPolicies::all(Policy::new(items, []));
    TestTarget::with(Setup { drives: vec![drive], policies, ..Setup::default() })
}

/// Sends an admin command that somebody waits for later.
fn begin(host: &mut Host, opcode: u8) {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.nsid.set(1);
    host.admin.queue().submit(&entry, Transfer::None).unwrap();
    host.admin.queue().flush().unwrap();
}

fn ended(host: &mut Host) -> Status {
    host.admin.queue().wait(PATIENCE).unwrap().expect("it ends").entry.status()
}

#[test]
fn an_acquire_ends_when_the_drive_has_no_admin_command_any_more_that_it_forbids() {
    let target = managed(drive());
    let mut holder = Host::registered(&target, 1);
    let mut other = Host::connect(&target, 2);
    let probe = &target.probes[0];
    probe.add_fault("delay=700ms:format:nth=1".parse().unwrap());
    begin(&mut other, admin::FORMAT_NVM);
    eventually("the drive has the format", || probe.commands_held() == 1);
    assert_eq!(holder.acquire(racqa::ACQUIRE, ExclusiveAccess, 0), Status::SUCCESS);
    assert_eq!(probe.commands_held(), 0, "the format has ended before the reservation began");
    assert_eq!(ended(&mut other), Status::SUCCESS, "it came first");
}

#[test]
fn an_admin_command_that_waits_while_the_namespace_is_reserved_does_not_reach_the_drive() {
    let target = managed(drive());
    let mut holder = Host::registered(&target, 1);
    let mut other = Host::connect(&target, 2);
    let probe = &target.probes[0];
    assert_eq!(holder.write(3), Status::SUCCESS);
    let formats = probe.add_fault("delay=0ms:format".parse().unwrap());
    // A write of the holder keeps the format waiting.
    probe.add_fault("delay=1500ms:write:nth=1".parse().unwrap());
    let mut writer = Host::connect(&target, 1);
    let data = pattern(8, 4, 4096);
    writer.queue.submit(&command(nvm::WRITE, 8, 1), Transfer::Write(data.clone().into())).unwrap();
    writer.queue.flush().unwrap();
    eventually("the drive has the write", || probe.commands_held() == 1);
    begin(&mut other, admin::FORMAT_NVM);
    assert!(other.admin.queue().wait(SILENCE).unwrap().is_none(), "the format waits");
    assert_eq!(holder.acquire(racqa::ACQUIRE, ExclusiveAccess, 0), Status::SUCCESS);
    assert_eq!(ended(&mut other), CONFLICT);
    assert_eq!(probe.remove_fault(formats).unwrap().matched, 0);
    assert_eq!(writer.queue.wait(PATIENCE).unwrap().unwrap().entry.status(), Status::SUCCESS);
    assert_eq!(holder.queue.read_blocks(1, 8, 1, 4096).unwrap(), data);
}

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

#[test]
fn a_host_that_leaves_while_its_command_waits_harms_nobody() {
    let target = target();
    let mut holder = Host::registered(&target, 1);
    let probe = &target.probes[0];
    for round in 0..10 {
        let mut other = Host::connect(&target, 2);
        let mut waiting = Host::registered(&target, 3);
        probe.add_fault("delay=50ms:write:nth=1".parse().unwrap());
        other.queue.submit(&command(nvm::WRITE, 9, 1), Transfer::Write(vec![1; 4096].into())).unwrap();
        other.queue.flush().unwrap();
        eventually("the drive has the write", || probe.commands_held() == 1);
        let mut entry = SubmissionQueueEntry::new(nvm::RESERVATION_ACQUIRE);
        entry.nsid.set(1);
        entry.cdw10.set(1 << 8);
        let data = ReservationAcquireData { crkey: 3.into(), prkey: 0.into() };
        for _ in 0..8 {
            waiting.queue.submit(&entry, Transfer::Write(data.as_bytes().into())).unwrap();
        }
        waiting.queue.flush().unwrap();
        drop((waiting, other));
        probe.clear_faults();
        let begin = Instant::now();
        // Whether the command was executed before its host left, or not at all, the holder can have its way.
        while holder.acquire(racqa::PREEMPT, WriteExclusive, 3) != Status::SUCCESS {
            assert!(begin.elapsed() < PATIENCE);
        }
        assert_eq!(holder.write(round), Status::SUCCESS);
        assert_eq!(holder.release(rrela::RELEASE, WriteExclusive), Status::SUCCESS);
    }
    target.assert_no_violations();
}
