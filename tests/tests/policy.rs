//! What a policy opens works, and is promised; what it does not open is neither.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::time::Duration;

use gangway_bridge::policy::Item;
use gangway_bridge::policy::table::Class;
use gangway_bridge::{HostPolicies, Policy};
use gangway_driver::emulated::{Capabilities, EmulatedConfig};
use gangway_fabric::host::client::{AdminQueue, Transfer};
use gangway_spec::feature::{fid, select};
use gangway_spec::identify::{Oacs, Oncs};
use gangway_spec::log::{CommandsSupportedAndEffectsLog, lid};
use gangway_spec::opcode::admin;
use gangway_spec::{Status, SubmissionQueueEntry};
use gangway_tests::{Setup, TestTarget, identity};
use zerocopy::FromBytes;

fn policy(items: &[&str]) -> Policy {
    let allow = items.iter().map(|item| item.parse().unwrap()).chain([Item::Class(Class::Inspect)]);
    Policy::new(allow, [])
}

fn serve(policies: HostPolicies) -> TestTarget {
    let drive = EmulatedConfig { size: 8 << 20, ..EmulatedConfig::default() };
    TestTarget::with(Setup { drives: vec![drive], policies, ..Setup::default() })
}

fn entry(opcode: u8, nsid: u32, cdw10: u32, cdw11: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.nsid.set(nsid);
    entry.cdw10.set(cdw10);
    entry.cdw11.set(cdw11);
    entry
}

fn status(admin: &mut AdminQueue, entry: &SubmissionQueueEntry, transfer: Transfer) -> Status {
    admin.command(entry, transfer).unwrap().0.status()
}

fn atomicity(admin: &mut AdminQueue) -> u64 {
    let get = entry(admin::GET_FEATURES, 0, fid::WRITE_ATOMICITY.into(), 0);
    admin.command(&get, Transfer::None).unwrap().0.result()
}

fn promised(admin: &mut AdminQueue, opcode: u8) -> bool {
    let data = admin.log_page(lid::COMMANDS_SUPPORTED_AND_EFFECTS, 0, 0, 4096, true).unwrap();
    let log = CommandsSupportedAndEffectsLog::read_from_bytes(&data).unwrap();
    log.admin[usize::from(opcode)].get() & 1 == 1
}

#[test]
fn features_of_the_drive_can_be_set_where_tune_is_open_and_every_host_sees_it() {
    let target = serve(HostPolicies::all(policy(&["tune"])));
    let (mut one, mut other) = (target.host(1), target.host(2));
    let set = |value| entry(admin::SET_FEATURES, 0, fid::WRITE_ATOMICITY.into(), value);
    for value in [0, 1, 0] {
        assert_eq!(status(&mut one, &set(value), Transfer::None), Status::SUCCESS);
        assert_eq!((atomicity(&mut one), atomicity(&mut other)), (value.into(), value.into()));
    }
    // With data, which has the length that the feature says.
    let set = entry(admin::SET_FEATURES, 0, fid::TIMESTAMP.into(), 0);
    let time = 1_700_000_000_000_u64;
    assert_eq!(
        status(&mut one, &set, Transfer::Write(time.to_le_bytes()[..4].into())),
        Status::DATA_SGL_LENGTH_INVALID.with_dnr()
    );
    assert_eq!(
        status(&mut one, &set, Transfer::Write(time.to_le_bytes().as_slice().into())),
        Status::SUCCESS
    );
    let get = entry(admin::GET_FEATURES, 0, fid::TIMESTAMP.into(), 0);
    let (_, data) = other.command(&get, Transfer::Read(8)).unwrap();
    let told = u64::from_le_bytes([data[0], data[1], data[2], data[3], data[4], data[5], 0, 0]);
    assert!((time..time + 3_600_000).contains(&told), "the drive's clock says {told}");
    target.assert_no_violations();
}

#[test]
fn one_feature_can_be_opened_or_refused_by_itself() {
    let set = |admin: &mut AdminQueue, id: u8| {
        status(admin, &entry(admin::SET_FEATURES, 0, id.into(), 0), Transfer::None)
    };
    let changeable = |admin: &mut AdminQueue, id: u8| {
        let cdw10 = u32::from(id) | u32::from(select::SUPPORTED_CAPABILITIES) << 8;
        let (entry, _) = admin.command(&entry(admin::GET_FEATURES, 0, cdw10, 0), Transfer::None).unwrap();
        entry.result() & u64::from(select::SUPPORTED_CHANGEABLE) != 0
    };
    let refused = Status::FEATURE_NOT_CHANGEABLE.with_dnr();
    let only = policy(&["feature:0ah"]);
    let tune = ["tune".parse().unwrap(), Item::Class(Class::Inspect)];
    let without = Policy::new(tune, ["feature:0ah".parse().unwrap()]);
    for (policy, atomicity, arbitration) in [(only, true, false), (without, false, true)] {
        let target = serve(HostPolicies::all(policy));
        let mut admin = target.host(1);
        for (id, open) in [(fid::WRITE_ATOMICITY, atomicity), (fid::ARBITRATION, arbitration)] {
            assert_eq!(set(&mut admin, id), if open { Status::SUCCESS } else { refused }, "feature {id:#x}");
            assert_eq!(changeable(&mut admin, id), open, "feature {id:#x}");
        }
    }
}

#[test]
fn what_is_not_open_is_denied_and_not_promised_to_the_host_concerned() {
    let mut policies = HostPolicies::default();
    policies.name(&identity(1).nqn, policy(&["tune", "firmware", "vendor", "manage"]));
    let target = serve(policies);
    let drive = &target.infos[0].identify;
    let (mut trusted, mut other) = (target.host(1), target.host(2));
    let classes: &[(u8, Oacs)] = &[
        (admin::DEVICE_SELF_TEST, Oacs::DEVICE_SELF_TEST),
        (admin::FIRMWARE_COMMIT, Oacs::FIRMWARE),
        (admin::SECURITY_RECEIVE, Oacs::SECURITY),
        (admin::FORMAT_NVM, Oacs::FORMAT_NVM),
        (admin::NAMESPACE_MANAGEMENT, Oacs::NAMESPACE_MANAGEMENT),
        (admin::NAMESPACE_ATTACHMENT, Oacs::NAMESPACE_MANAGEMENT),
    ];
    for &(opcode, bit) in classes {
        let of =
            |admin: &mut AdminQueue| Oacs::from_bits_retain(admin.identify_controller().unwrap().oacs.get());
        assert_eq!(of(&mut trusted).contains(bit), Oacs::from_bits_retain(drive.oacs.get()).contains(bit));
        assert!(!of(&mut other).contains(bit));
        let entry = entry(opcode, 0, 0, 0);
        assert!(!status(&mut trusted, &entry, Transfer::None).is(Status::OPERATION_DENIED), "{opcode:#x}");
        assert_eq!(status(&mut other, &entry, Transfer::None), Status::OPERATION_DENIED.with_dnr());
        assert!(!promised(&mut other, opcode), "{opcode:#x}");
    }
    // Whatever is open: our own use of the drive, and what is not known here.
    for opcode in [
        admin::LOCKDOWN,
        admin::CREATE_IO_SQ,
        admin::DELETE_IO_CQ,
        admin::DOORBELL_BUFFER_CONFIG,
        admin::CAPACITY_MANAGEMENT,
    ] {
        for host in [&mut trusted, &mut other] {
            let refused = status(host, &entry(opcode, 1, 0, 0), Transfer::None);
            assert_eq!(refused, Status::INVALID_OPCODE.with_dnr(), "{opcode:#x}");
            assert!(!promised(host, opcode), "{opcode:#x}");
        }
    }
    let oncs =
        |admin: &mut AdminQueue| Oncs::from_bits_retain(admin.identify_controller().unwrap().oncs.get());
    let own = Oncs::from_bits_retain(drive.oncs.get());
    assert_eq!(oncs(&mut trusted).contains(Oncs::TIMESTAMP), own.contains(Oncs::TIMESTAMP));
    assert!(!oncs(&mut other).contains(Oncs::TIMESTAMP));
    target.assert_no_violations();
}

#[test]
fn one_host_at_a_time_talks_to_the_security_of_the_drive() {
    let target = serve(HostPolicies::all(policy(&["manage"])));
    let (mut one, mut other) = (target.host(1), target.host(2));
    for opcode in [admin::SECURITY_SEND, admin::SECURITY_RECEIVE] {
        let command = entry(opcode, 0, 0, 0);
        // The drive knows neither.
        assert!(status(&mut one, &command, Transfer::None).is(Status::INVALID_OPCODE));
        assert_eq!(status(&mut other, &command, Transfer::None), Status::OPERATION_DENIED, "{opcode:#x}");
    }
    let format = entry(admin::FORMAT_NVM, 1, 0, 0);
    assert_eq!(status(&mut other, &format, Transfer::None), Status::SUCCESS, "it is about that alone");
    // An answer may be left that nobody else is to have.
    one.shutdown().unwrap();
    let receive = entry(admin::SECURITY_RECEIVE, 0, 0, 0);
    assert_eq!(status(&mut other, &receive, Transfer::None), Status::OPERATION_DENIED);
}

#[test]
fn commands_of_different_hosts_that_are_about_a_whole_drive_follow_each_other() {
    const PATIENCE: Duration = Duration::from_secs(20);
    let capabilities = Capabilities { vendor: true, ..Capabilities::default() };
    let drive = EmulatedConfig { size: 8 << 20, capabilities, ..EmulatedConfig::default() };
    let policies = HostPolicies::all(policy(&["vendor", "manage"]));
    let target = TestTarget::with(Setup { drives: vec![drive], policies, ..Setup::default() });
    let probe = &target.probes[0];
    let [store, fetch] = [0xc1, 0xc2].map(|opcode| entry(opcode, 0, 3, 0));
    let (mut one, mut other) = (target.host(1), target.host(2));
    // Until the host takes it back.
    probe.add_fault("drop:op=0xc1:admin".parse().unwrap());
    let fetches = probe.add_fault("delay=0ms:op=0xc2:admin".parse().unwrap());
    let formats = probe.add_fault("delay=0ms:format".parse().unwrap());
    let matched = |id| probe.fault_counts(id).unwrap().matched;
    let tag = one.queue().submit(&store, Transfer::Write(vec![7; 16].into())).unwrap();
    one.queue().flush().unwrap();
    gangway_tests::eventually("the drive has it", || probe.commands_held() == 1);
    // A host's own do not wait for each other.
    one.queue().submit(&fetch, Transfer::Read(16)).unwrap();
    assert_eq!(one.queue().wait(PATIENCE).unwrap().unwrap().entry.status(), Status::SUCCESS);
    assert_eq!((matched(fetches), probe.commands_held()), (1, 1));
    for command in [&fetch, &entry(admin::FORMAT_NVM, 1, 0, 0)] {
        let transfer = if command.opcode == 0xc2 { Transfer::Read(16) } else { Transfer::None };
        other.queue().submit(command, transfer).unwrap();
    }
    other.queue().flush().unwrap();
    assert!(other.queue().wait(Duration::from_millis(300)).unwrap().is_none());
    assert_eq!((matched(fetches), matched(formats)), (1, 0), "the drive has nothing of the other host");
    let abort = entry(admin::ABORT, 0, u32::from(one.queue().cid(tag)) << 16, 0);
    one.queue().submit(&abort, Transfer::None).unwrap();
    one.queue().flush().unwrap();
    for _ in 0..2 {
        let status = one.queue().wait(PATIENCE).unwrap().unwrap().entry.status();
        assert!(status.is_success() || status.is(Status::ABORT_REQUESTED), "{status}");
        assert_eq!(other.queue().wait(PATIENCE).unwrap().unwrap().entry.status(), Status::SUCCESS);
    }
    assert_eq!((matched(fetches), matched(formats)), (2, 1));
    target.assert_no_violations();
}

#[test]
fn one_host_at_a_time_downloads_firmware() {
    let target = serve(HostPolicies::all(policy(&["firmware"])));
    let download = entry(admin::FIRMWARE_IMAGE_DOWNLOAD, 0, 1023, 0);
    let piece = vec![0; 4096];
    let denied = |admin: &mut AdminQueue| {
        status(admin, &download, Transfer::Write(piece.as_slice().into())) == Status::OPERATION_DENIED
    };
    let (mut one, mut other) = (target.host(1), target.host(2));
    assert!(!denied(&mut one));
    assert!(denied(&mut other) && !denied(&mut one), "the first goes on");
    // A commit ends it, whatever the drive makes of it.
    status(&mut one, &entry(admin::FIRMWARE_COMMIT, 0, 0, 0), Transfer::None);
    assert!(!denied(&mut other) && denied(&mut one));
    // So does leaving.
    other.shutdown().unwrap();
    gangway_tests::eventually("the other host's claim to end", || !denied(&mut one));
    target.assert_no_violations();
}
