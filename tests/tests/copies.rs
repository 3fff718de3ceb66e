//! Copy from other namespaces: under the numbers of the export, from what a host may read, and by the blocks that are there.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::time::Duration;

use gangway_bridge::{DriveEvent, HostPolicies, Limits, Mapping, Policy, Selection};
use gangway_driver::emulated::EmulatedConfig;
use gangway_fabric::host::client::{AdminQueue, IoQueue, Options, Transfer};
use gangway_spec::feature::{HostBehaviorSupport, fid};
use gangway_spec::opcode::{admin, nvm};
use gangway_spec::reservation::{
    ReservationAcquireData, ReservationParameters, ReservationRegisterData, ReservationType, racqa, rrega,
};
use gangway_spec::{Status, SubmissionQueueEntry};
use gangway_tests::{Setup, TestTarget, copy_across, enable_copy_formats, eventually, pattern};
use zerocopy::{FromBytes, IntoBytes};

const PATIENCE: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_millis(300);
/// The formats that the emulated drive has.
const FORMATS: u16 = 1 << 0 | 1 << 2;
const ACROSS: u16 = 1 << 2;
/// The LBA format of 512 bytes, and the one of 4096.
const FORMAT_512: u32 = 0;
const FORMAT_4096: u32 = 4;

fn drive(namespaces: u32) -> EmulatedConfig {
    EmulatedConfig { size: 8 << 20, block: 4096, namespaces, ..EmulatedConfig::default() }
}

fn setup(drive: EmulatedConfig) -> Setup {
    let manages = Policy::new(["inspect", "manage"].map(|class| class.parse().unwrap()), []);
    Setup { drives: vec![drive], reactors: 2, policies: HostPolicies::all(manages), ..Setup::default() }
}

/// A host that has enabled what there is.
fn host(target: &TestTarget, number: u8, export: usize) -> (AdminQueue, IoQueue) {
    let mut admin = target.host_with(number, export, &Options::default());
    enable_copy_formats(&mut admin, ACROSS);
    let queue = admin.connect_io(1).unwrap();
    (admin, queue)
}

fn copy(queue: &mut IoQueue, nsid: u32, slba: u64, sources: &[(u32, u64, u16)]) -> Status {
    let (entry, list) = copy_across(nsid, slba, sources);
    queue.execute(&entry, list).unwrap().entry.status()
}

fn begin_copy(queue: &mut IoQueue, nsid: u32, slba: u64, sources: &[(u32, u64, u16)]) {
    let (entry, list) = copy_across(nsid, slba, sources);
    queue.submit(&entry, list).unwrap();
    queue.flush().unwrap();
}

fn ended(queue: &mut IoQueue) -> Status {
    queue.wait(PATIENCE).unwrap().expect("an answer in time").entry.status()
}

fn assert_waits(queue: &mut IoQueue) {
    assert!(queue.wait(SILENCE).unwrap().is_none(), "it waits");
}

fn behavior(admin: &mut AdminQueue) -> HostBehaviorSupport {
    let mut get = SubmissionQueueEntry::new(admin::GET_FEATURES);
    get.cdw10.set(fid::HOST_BEHAVIOR_SUPPORT.into());
    let (_, data) = admin.command(&get, Transfer::Read(512)).unwrap();
    HostBehaviorSupport::read_from_bytes(&data).unwrap()
}

#[test]
fn what_is_copied_comes_from_the_namespaces_that_the_export_shows_under_these_numbers() {
    let shown = [(1, 0, 3), (4, 0, 1), (7, 1, 1)];
    let mapping = |(nsid, drive, drive_nsid)| Mapping { nsid, drive, drive_nsid };
    let exports = Some(vec![Selection::Namespaces(shown.map(mapping).to_vec()), Selection::Drive(0)]);
    let target = TestTarget::with(Setup { drives: vec![drive(3), drive(1)], exports, ..Setup::default() });
    let (mut admin, mut part) = host(&target, 1, 0);
    let (_whole_admin, mut whole) = host(&target, 2, 1);
    assert_eq!(admin.identify_controller().unwrap().ocfs.get(), FORMATS);
    for nsid in 1..=3 {
        whole.write_blocks(nsid, 0, 4096, &pattern(u64::from(nsid), 1, 16 * 4096)).unwrap();
    }
    let before = pattern(3, 1, 16 * 4096);
    assert_eq!(copy(&mut part, 1, 100, &[(4, 2, 1), (1, 5, 0)]), Status::SUCCESS);
    let expected = [&pattern(1, 1, 16 * 4096)[2 * 4096..4 * 4096], &before[5 * 4096..6 * 4096]].concat();
    assert!(part.read_blocks(1, 100, 3, 4096).unwrap() == expected);
    assert!(whole.read_blocks(3, 100, 3, 4096).unwrap() == expected, "the third of the drive");
    assert!(whole.read_blocks(3, 0, 16, 4096).unwrap() == before);

    let (_, seen) = seen(&target, || {
        assert_eq!(copy(&mut part, 1, 0, &[(2, 0, 0)]), Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr());
        assert_eq!(copy(&mut part, 1, 0, &[(7, 0, 0)]), Status::INCOMPATIBLE_NAMESPACE_OR_FORMAT.with_dnr());
    });
    assert_eq!(seen, 0);
    target.assert_no_violations();
}

/// How many copies the drives see while `attempt` goes on.
fn seen<T>(target: &TestTarget, attempt: impl FnOnce() -> T) -> (T, u64) {
    gangway_tests::seen(&target.probes, &format!("io:op={:#x}", nvm::COPY), attempt)
}

#[test]
fn each_host_enables_formats_for_itself_until_its_controller_is_reset() {
    let target = TestTarget::with(setup(drive(2)));
    let (mut admin, mut queue) = host(&target, 1, 0);
    let mut other = target.host(2);
    let mut others_queue = other.connect_io(1).unwrap();
    enable_copy_formats(&mut admin, 0xffff);
    assert_eq!((behavior(&mut admin).acre, behavior(&mut admin).cdfe.get()), (0, ACROSS), "what there is");
    assert_eq!(behavior(&mut other), HostBehaviorSupport::default());
    let refused = Status::INVALID_FIELD.with_dnr();
    assert_eq!(copy(&mut others_queue, 1, 0, &[(2, 0, 0)]), refused);
    assert_eq!(copy(&mut queue, 1, 0, &[(2, 0, 0)]), Status::SUCCESS);
    drop(queue);
    admin.disable().unwrap();
    admin.enable().unwrap();
    let mut queue = admin.connect_io(1).unwrap();
    assert_eq!(behavior(&mut admin), HostBehaviorSupport::default());
    assert_eq!(copy(&mut queue, 1, 0, &[(2, 0, 0)]), refused);
    target.assert_no_violations();
}

#[test]
fn a_drive_that_was_reset_copies_from_other_namespaces_as_before() {
    let target = TestTarget::with(setup(drive(2)));
    let (_admin, mut queue) = host(&target, 1, 0);
    let data = pattern(1, 1, 4096);
    queue.write_blocks(2, 9, 4096, &data).unwrap();
    let mut events = target.events(0);
    target.probes[0].set_fatal();
    eventually("the reset is told of", || matches!(events.try_recv(), Ok(DriveEvent::Works)));
    assert_eq!(copy(&mut queue, 1, 7, &[(2, 9, 0)]), Status::SUCCESS);
    assert!(queue.read_blocks(1, 7, 1, 4096).unwrap() == data);
    target.assert_no_violations();
}

fn format(admin: &mut AdminQueue, nsid: u32, lbaf: u32) {
    let mut format = SubmissionQueueEntry::new(admin::FORMAT_NVM);
    (format.nsid, format.cdw10) = (nsid.into(), lbaf.into());
    admin.queue().submit(&format, Transfer::None).unwrap();
    admin.queue().flush().unwrap();
}

fn formatted(admin: &mut AdminQueue) {
    assert!(admin.queue().wait(PATIENCE).unwrap().expect("in time").entry.status().is_success());
}

#[test]
fn a_copy_waits_while_its_source_is_formatted() {
    let target =
        TestTarget::with(setup(EmulatedConfig { operation: Some(Duration::from_secs(4)), ..drive(3) }));
    let (mut first, _queue) = host(&target, 1, 0);
    let (mut second, mut queue) = host(&target, 2, 0);
    queue.write_blocks(2, 0, 4096, &pattern(2, 1, 4096)).unwrap();
    queue.write_blocks(1, 0, 4096, &pattern(1, 1, 4096)).unwrap();
    let ((), copies) = seen(&target, || {
        format(&mut first, 2, FORMAT_4096);
        eventually("the format goes on", || second.identify_namespace(2).unwrap().fpi & 0x7f > 0);
        begin_copy(&mut queue, 1, 0, &[(2, 0, 0)]);
        assert_waits(&mut queue);
    });
    assert_eq!(copies, 0, "the drive has not got it");
    formatted(&mut first);
    assert_eq!(ended(&mut queue), Status::SUCCESS);
    assert!(queue.read_blocks(1, 0, 1, 4096).unwrap() == [0; 4096], "of what the format left");
    assert_eq!(copy(&mut queue, 1, 0, &[(3, 0, 0)]), Status::SUCCESS);
    target.assert_no_violations();
}

#[test]
fn a_format_waits_for_copies_that_the_drive_has_from_its_namespace() {
    let target = TestTarget::with(setup(drive(2)));
    let (mut first, _queue) = host(&target, 1, 0);
    let (_second, mut queue) = host(&target, 2, 0);
    let data = pattern(2, 1, 4096);
    queue.write_blocks(2, 0, 4096, &data).unwrap();
    let delay = format!("delay=3000ms:io:op={:#x}:once", nvm::COPY);
    target.probes[0].add_fault(delay.parse().unwrap());
    begin_copy(&mut queue, 1, 0, &[(2, 0, 0)]);
    assert_waits(&mut queue);
    format(&mut first, 2, FORMAT_4096);
    assert!(first.queue().wait(SILENCE).unwrap().is_none(), "the drive has the copy still");
    assert_eq!(ended(&mut queue), Status::SUCCESS);
    formatted(&mut first);
    assert!(queue.read_blocks(1, 0, 1, 4096).unwrap() == data, "it was executed before the format");
    target.assert_no_violations();
}

/// Has a host take a namespace for itself alone.
fn reserve(queue: &mut IoQueue, nsid: u32) {
    let key = ReservationRegisterData { crkey: 0.into(), nrkey: 1.into() };
    let registered =
        about_reservations(queue, nsid, nvm::RESERVATION_REGISTER, rrega::REGISTER, key.as_bytes());
    assert_eq!(registered, Status::SUCCESS);
    let key = ReservationAcquireData { crkey: 1.into(), prkey: 0.into() };
    let acquired = about_reservations(queue, nsid, nvm::RESERVATION_ACQUIRE, racqa::ACQUIRE, key.as_bytes());
    assert_eq!(acquired, Status::SUCCESS);
}

fn about_reservations(queue: &mut IoQueue, nsid: u32, opcode: u8, action: u8, data: &[u8]) -> Status {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.nsid.set(nsid);
    let rtype = if opcode == nvm::RESERVATION_ACQUIRE { ReservationType::ExclusiveAccess.value() } else { 0 };
    ReservationParameters { action, ignore_existing_key: false, rtype, cptpl: 0 }.apply(&mut entry);
    queue.execute(&entry, Transfer::Write(data.into())).unwrap().entry.status()
}

/// Where namespace 1 takes one command in a second.
fn limited(setup: Setup) -> TestTarget {
    let mut limits = Limits::default();
    let (subject, limit) = Limits::parse_rule("namespace:1=iops=1,burst=0ms").unwrap();
    limits.set(subject, limit);
    TestTarget::with(Setup { limits, ..setup })
}

/// Has copies from namespace 2 to namespace 1 wait for the limit of the latter.
fn have_copies_wait(queue: &mut IoQueue) {
    for _ in 0..30 {
        begin_copy(queue, 1, 0, &[(2, 0, 0)]);
    }
    assert_eq!(ended(queue), Status::SUCCESS);
    let mut passed = 1;
    while let Some(done) = queue.wait(SILENCE).unwrap() {
        assert_eq!(done.entry.status(), Status::SUCCESS);
        passed += 1;
    }
    assert!(passed < 10, "{passed} passed at once");
}

/// What they were admitted for has changed: they are to be tried again.
fn assert_interrupted(queue: &mut IoQueue) {
    let mut interrupted = 0;
    while queue.in_flight() > 0 {
        let status = ended(queue);
        assert!(matches!(status, Status::SUCCESS | Status::COMMAND_INTERRUPTED), "{status}");
        interrupted += u32::from(status == Status::COMMAND_INTERRUPTED);
    }
    assert!(interrupted > 10, "{interrupted} were to be looked at again");
}

#[test]
fn a_copy_that_waits_does_not_pass_the_reservation_of_its_source() {
    let target = limited(setup(drive(3)));
    let (_first, mut holder) = host(&target, 1, 0);
    let (_second, mut queue) = host(&target, 2, 0);
    have_copies_wait(&mut queue);
    reserve(&mut holder, 2);
    assert_interrupted(&mut queue);
    let (status, copies) = seen(&target, || copy(&mut queue, 3, 0, &[(2, 0, 0)]));
    assert_eq!(
        (status, copies),
        (Status::RESERVATION_CONFLICT.with_dnr(), 0),
        "the drive sees nothing of it"
    );
    assert_eq!(copy(&mut queue, 3, 0, &[(1, 0, 0)]), Status::SUCCESS);
    target.assert_no_violations();
}

#[test]
fn a_copy_that_waits_is_looked_at_again_when_its_source_has_other_blocks() {
    let target = limited(setup(drive(3)));
    let (mut first, _queue) = host(&target, 1, 0);
    let (_second, mut queue) = host(&target, 2, 0);
    have_copies_wait(&mut queue);
    format(&mut first, 2, FORMAT_512);
    formatted(&mut first);
    assert_interrupted(&mut queue);
    let (status, copies) = seen(&target, || copy(&mut queue, 3, 0, &[(2, 0, 0)]));
    assert_eq!((status, copies), (Status::INCOMPATIBLE_NAMESPACE_OR_FORMAT.with_dnr(), 0));
    assert_eq!(copy(&mut queue, 3, 0, &[(1, 0, 0)]), Status::SUCCESS);
    target.assert_no_violations();
}

#[test]
fn copies_are_not_concerned_by_what_others_do_with_namespaces_that_their_export_does_not_show() {
    let part = |mappings: &[(u32, u32)]| {
        let mapping = |&(nsid, drive_nsid)| Mapping { nsid, drive: 0, drive_nsid };
        Selection::Namespaces(mappings.iter().map(mapping).collect())
    };
    let exports = Some(vec![part(&[(7, 1)]), part(&[(1, 2), (2, 3)])]);
    let drive = EmulatedConfig { operation: Some(Duration::from_secs(5)), ..drive(3) };
    let target = limited(Setup { exports, ..setup(drive) });
    let (mut others, mut others_queue) = host(&target, 1, 0);
    let (_admin, mut queue) = host(&target, 2, 1);
    have_copies_wait(&mut queue);
    reserve(&mut others_queue, 7);
    format(&mut others, 7, FORMAT_512);
    // The first may be from before the format.
    for _ in 0..2 {
        assert_eq!(ended(&mut queue), Status::SUCCESS, "it had only to wait for its limit");
    }
    assert!(others.queue().wait(Duration::ZERO).unwrap().is_none(), "the format goes on");
    formatted(&mut others);
    assert!(queue.in_flight() > 10, "the others wait still");
    while let Some(done) = queue.wait(SILENCE).unwrap() {
        assert_eq!(done.entry.status(), Status::SUCCESS);
    }
    target.assert_no_violations();
}
