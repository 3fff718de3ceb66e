//! Reservations and admin commands.

use gangway_bridge::policy::{HostPolicies, Item, Policy};
use gangway_driver::emulated::{EmulatedConfig, NamespaceIds};
use gangway_fabric::host::client::Transfer;
use gangway_spec::opcode::{admin, nvm};
use gangway_spec::reservation::ReservationType::{ExclusiveAccess, WriteExclusive};
use gangway_spec::reservation::racqa;
use gangway_spec::{CompletionQueueEntry, IdentifyNamespace, Status, SubmissionQueueEntry};
use gangway_tests::{Setup, TestTarget, command, eventually, pattern};
use zerocopy::IntoBytes;

use crate::host::Host;
use crate::{CONFLICT, PATIENCE, SILENCE, drive};

/// FLBAS of blocks of 4096 bytes without metadata.
const FORMAT_4096: u8 = 4;

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

/// A drive whose namespaces have these identifiers, with one namespace and room for more.
fn roomy(ids: NamespaceIds) -> EmulatedConfig {
    let room = EmulatedConfig { capacity: Some(32 << 20), max_namespaces: Some(4), ..drive() };
    EmulatedConfig { namespaces: 1, ids, ..room }
}

fn manage(host: &mut Host, opcode: u8, nsid: u32, sel: u32, transfer: Transfer) -> CompletionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.nsid.set(nsid);
    entry.cdw10.set(sel);
    host.admin.command(&entry, transfer).unwrap().0
}

/// Makes a namespace that gets number 1, and attaches it.
fn make(host: &mut Host) {
    let mut wanted = IdentifyNamespace::default();
    (wanted.nsze, wanted.ncap, wanted.flbas) = (256.into(), 256.into(), FORMAT_4096);
    let made = manage(host, admin::NAMESPACE_MANAGEMENT, 0, 0, Transfer::Write(wanted.as_bytes().into()));
    assert_eq!((made.status(), made.dw0.get()), (Status::SUCCESS, 1));
    let mut list = vec![0; 4096];
    list[0] = 1;
    list[2..4].copy_from_slice(&host.admin.cntlid().to_le_bytes());
    let attached = manage(host, admin::NAMESPACE_ATTACHMENT, 1, 0, Transfer::Write(list.into()));
    assert_eq!(attached.status(), Status::SUCCESS);
}

/// Has `host` delete namespace 1, and the drive be reset before it has said that it did. `fault`: what it does instead.
fn cut_off_deletion(target: &TestTarget, host: &mut Host, fault: &str) {
    let probe = &target.probes[0];
    let deletion = probe.add_fault(format!("{fault}:op=0x0d:admin:nth=1").parse().unwrap());
    let mut entry = SubmissionQueueEntry::new(admin::NAMESPACE_MANAGEMENT);
    entry.nsid.set(1);
    entry.cdw10.set(1);
    host.admin.queue().submit(&entry, Transfer::None).unwrap();
    host.admin.queue().flush().unwrap();
    eventually("the drive has it", || probe.fault_counts(deletion).unwrap().fired == 1);
    probe.set_fatal();
    assert_eq!(ended(host), Status::COMMAND_INTERRUPTED);
    probe.clear_faults();
}

#[test]
fn a_namespace_that_is_made_anew_has_nothing_of_one_whose_deletion_was_cut_off() {
    for ids in [NamespaceIds::None, NamespaceIds::Uuid] {
        let target = managed(roomy(ids));
        let mut holder = Host::registered(&target, 1);
        let mut other = Host::connect(&target, 2);
        assert_eq!(holder.acquire(racqa::ACQUIRE, ExclusiveAccess, 0), Status::SUCCESS);
        assert_eq!(other.read(), CONFLICT);
        cut_off_deletion(&target, &mut holder, "lose");
        make(&mut other);
        assert_eq!((other.read(), other.write(1)), (Status::SUCCESS, Status::SUCCESS), "{ids}");
        assert_eq!(other.report(4096).1.len(), 0);
    }
}

#[test]
fn a_reservation_ends_with_a_namespace_whose_deletion_was_cut_off_and_stays_when_it_was_not_deleted() {
    for (fault, deleted) in [("lose", true), ("drop", false)] {
        let target = managed(roomy(NamespaceIds::All));
        let mut holder = Host::registered(&target, 1);
        let mut other = Host::connect(&target, 2);
        assert_eq!(holder.acquire(racqa::ACQUIRE, ExclusiveAccess, 0), Status::SUCCESS);
        cut_off_deletion(&target, &mut holder, fault);
        let mut sanitize = || manage(&mut other, admin::SANITIZE, 0, 2, Transfer::None).status();
        if deleted {
            eventually("nothing is reserved any more", || sanitize() == Status::SUCCESS);
        } else {
            std::thread::sleep(SILENCE);
            assert_eq!(sanitize(), CONFLICT);
            assert_eq!((other.read(), holder.read()), (CONFLICT, Status::SUCCESS));
        }
    }
}
