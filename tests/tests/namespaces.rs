//! Exports that show some namespaces, renumbered, of one drive or of several.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use gangway_bridge::{HostPolicies, Identifiers, Mapping, Policy, Selection};
use gangway_driver::emulated::{Backing, EmulatedConfig, ZoneConfig};
use gangway_fabric::host::client::{AdminQueue, Options, Transfer};
use gangway_spec::feature::{fid, select};
use gangway_spec::identify::{NamespaceIdDescriptor, Vwc, cns, csi};
use gangway_spec::log::{ErrorLogEntry, lid};
use gangway_spec::opcode::{admin, nvm};
use gangway_spec::{Status, SubmissionQueueEntry};
use gangway_tests::{Setup, TestTarget, command, pattern};
use zerocopy::FromBytes;

const NO_SUCH_NAMESPACE: Status = Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr();
const DENIED: Status = Status::OPERATION_DENIED.with_dnr();

fn drive(block: u32, namespaces: u32) -> EmulatedConfig {
    EmulatedConfig { size: 8 << 20, block, namespaces, ..EmulatedConfig::default() }
}

fn shown(mappings: &[(u32, usize, u32)]) -> Selection {
    let mapping = |&(nsid, drive, drive_nsid)| Mapping { nsid, drive, drive_nsid };
    Selection::Namespaces(mappings.iter().map(mapping).collect())
}

/// Two drives: of the first, with three namespaces, the third is 1; of the second the first is 7. The second export
/// shows all of the first drive.
fn target() -> TestTarget {
    let everything = ["inspect", "tune", "manage", "firmware", "vendor"].map(|class| class.parse().unwrap());
    TestTarget::with(Setup {
        drives: vec![drive(4096, 3), drive(512, 1)],
        exports: Some(vec![shown(&[(1, 0, 3), (7, 1, 1)]), Selection::Drive(0)]),
        policies: HostPolicies::all(Policy::new(everything, [])),
        ..Setup::default()
    })
}

fn status(admin: &mut AdminQueue, entry: &SubmissionQueueEntry, transfer: Transfer) -> Status {
    admin.command(entry, transfer).unwrap().0.status()
}

fn entry(opcode: u8, nsid: u32, cdw10: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.nsid.set(nsid);
    entry.cdw10.set(cdw10);
    entry
}

#[test]
fn a_host_sees_the_namespaces_of_its_export_under_their_numbers_there() {
    let target = target();
    let mut admin = target.host(1);
    assert_eq!(admin.active_namespaces().unwrap(), [1, 7]);
    let (first, second) = (&target.infos[0].namespaces[2], &target.infos[1].namespaces[0]);
    for (nsid, own) in [(1, first), (7, second)] {
        let seen = admin.identify_namespace(nsid).unwrap();
        assert_eq!(
            (seen.nguid, seen.nsze, seen.block_size()),
            (own.identify.nguid, own.identify.nsze, own.identify.block_size())
        );
        let descriptors = admin.identify(cns::NAMESPACE_DESCRIPTORS, nsid).unwrap();
        assert!(descriptors.windows(16).any(|bytes| bytes == own.identify.nguid), "namespace {nsid}");
    }
    // Those of the drives that are not shown, and numbers that nobody has.
    for nsid in [2, 3, 6] {
        assert_eq!(admin.identify(cns::NAMESPACE, nsid).unwrap(), vec![0; 4096], "namespace {nsid}");
        let found = status(
            &mut admin,
            &entry(admin::IDENTIFY, nsid, cns::NAMESPACE_DESCRIPTORS.into()),
            Transfer::Read(4096),
        );
        assert_eq!(found, Status::INVALID_FIELD.with_dnr(), "namespace {nsid}");
    }
    let found = status(&mut admin, &entry(admin::IDENTIFY, 8, cns::NAMESPACE.into()), Transfer::Read(4096));
    assert_eq!(found, NO_SUCH_NAMESPACE, "beyond NN");
    let identify = admin.identify_controller().unwrap();
    assert_eq!(identify.nn.get(), 7);
    let vwc = Vwc::from_bits_retain(identify.vwc);
    assert!(
        vwc.contains(Vwc::FLUSH_ALL_REPORTED) && !vwc.contains(Vwc::FLUSH_ALL),
        "a Flush of all is not promised"
    );
    target.assert_no_violations();
}

#[test]
fn io_reaches_the_namespace_that_is_shown_under_the_number_and_no_other() {
    let target = target();
    let mut part = target.host_with(1, 0, &Options::default());
    let mut whole = target.host_with(2, 1, &Options::default());
    let (mut part, mut whole) = (part.connect_io(1).unwrap(), whole.connect_io(1).unwrap());
    for nsid in 1..=3 {
        whole.write_blocks(nsid, 0, 4096, &pattern(u64::from(nsid), 1, 4096)).unwrap();
    }
    part.write_blocks(7, 0, 512, &pattern(77, 1, 512)).unwrap();
    assert_eq!(part.read_blocks(1, 0, 1, 4096).unwrap(), pattern(3, 1, 4096), "the third of the first drive");
    assert_eq!(part.read_blocks(7, 0, 1, 512).unwrap(), pattern(77, 1, 512));
    part.write_blocks(1, 0, 4096, &pattern(33, 2, 4096)).unwrap();
    assert_eq!(whole.read_blocks(3, 0, 1, 4096).unwrap(), pattern(33, 2, 4096));
    assert_eq!(whole.read_blocks(1, 0, 1, 4096).unwrap(), pattern(1, 1, 4096));
    for nsid in [0, 2, 3, 8, u32::MAX] {
        let mut read = command(nvm::READ, 0, 1);
        read.nsid.set(nsid);
        let ended = part.execute(&read, Transfer::Read(4096)).unwrap();
        assert_eq!(ended.entry.status(), NO_SUCH_NAMESPACE, "namespace {nsid:#x}");
    }
    let mut flush = command(nvm::FLUSH, 0, 1);
    flush.nsid.set(u32::MAX);
    assert_eq!(part.execute(&flush, Transfer::None).unwrap().entry.status(), NO_SUCH_NAMESPACE);
    assert!(whole.execute(&flush, Transfer::None).unwrap().entry.status().is_success());
    target.assert_no_violations();
}

#[test]
fn what_is_about_a_whole_drive_is_refused_to_who_sees_a_part_of_it() {
    let target = target();
    let mut part = target.host_with(1, 0, &Options::default());
    let mut whole = target.host_with(2, 1, &Options::default());
    assert_eq!(part.identify_controller().unwrap().sanicap.get(), 0);
    assert_ne!(whole.identify_controller().unwrap().sanicap.get(), 0);
    for (opcode, cdw10) in [(admin::SANITIZE, 2), (admin::FIRMWARE_COMMIT, 0), (admin::DEVICE_SELF_TEST, 1)] {
        let found = status(&mut part, &entry(opcode, u32::MAX, cdw10), Transfer::None);
        assert_eq!(found, Status::OPERATION_DENIED.with_dnr(), "opcode {opcode:#x}");
    }
    // A self-test of one namespace is asked of its drive.
    let test = entry(admin::DEVICE_SELF_TEST, 7, 1);
    assert!(status(&mut part, &test, Transfer::None).is_success());
    assert_eq!(status(&mut part, &entry(admin::DEVICE_SELF_TEST, 3, 1), Transfer::None), NO_SUCH_NAMESPACE);
    target.assert_no_violations();
}

#[test]
fn naming_a_namespace_does_not_make_a_command_one_of_that_namespace() {
    let target = target();
    let mut part = target.host_with(1, 0, &Options::default());
    let mut whole = target.host_with(2, 1, &Options::default());
    let supported = |admin: &mut AdminQueue, id: u8, nsid| {
        let get =
            entry(admin::GET_FEATURES, nsid, u32::from(select::SUPPORTED_CAPABILITIES) << 8 | u32::from(id));
        admin.command(&get, Transfer::None).unwrap().0.result() as u32 & select::SUPPORTED_CHANGEABLE
    };
    for nsid in [0, 1, 7, u32::MAX] {
        let set = entry(admin::SET_FEATURES, nsid, fid::WRITE_ATOMICITY.into());
        assert_eq!(status(&mut part, &set, Transfer::None), DENIED, "namespace {nsid:#x}");
        let log = entry(admin::GET_LOG_PAGE, nsid, 127 << 16 | u32::from(lid::TELEMETRY_HOST));
        assert_eq!(status(&mut part, &log, Transfer::Read(512)), DENIED, "namespace {nsid:#x}");
    }
    assert!(
        status(&mut part, &entry(admin::SET_FEATURES, 7, fid::ERROR_RECOVERY.into()), Transfer::None)
            .is_success()
    );
    assert!(
        status(&mut whole, &entry(admin::SET_FEATURES, 0, fid::WRITE_ATOMICITY.into()), Transfer::None)
            .is_success()
    );
    let id = fid::WRITE_ATOMICITY;
    assert_eq!(
        (supported(&mut part, id, 0), supported(&mut whole, id, 0)),
        (0, select::SUPPORTED_CHANGEABLE)
    );
    target.assert_no_violations();
}

#[test]
fn logs_name_namespaces_as_the_export_does() {
    let target = target();
    let mut part = target.host_with(1, 0, &Options::default());
    let mut whole = target.host_with(2, 1, &Options::default());
    let (mut part_queue, mut whole_queue) = (part.connect_io(1).unwrap(), whole.connect_io(1).unwrap());
    target.probes[0].add_fault("status=0x281:read:lba=1000".parse().unwrap());
    let mut read = command(nvm::READ, 1000, 1);
    for (sees_whole, nsid) in [(true, 1), (true, 3), (false, 1)] {
        read.nsid.set(nsid);
        let queue = if sees_whole { &mut whole_queue } else { &mut part_queue };
        let ended = queue.execute(&read, Transfer::Read(4096)).unwrap();
        assert!(ended.entry.status().is(Status::UNRECOVERED_READ_ERROR));
    }
    let entries = |admin: &mut AdminQueue| -> Vec<(u64, u32)> {
        let data = admin.log_page(lid::ERROR, u32::MAX, 0, 64 * 8, true).unwrap();
        let entries = data.chunks_exact(64).map(|bytes| ErrorLogEntry::read_from_bytes(bytes).unwrap());
        entries.map(|entry| (entry.error_count.get(), entry.nsid.get())).collect()
    };
    let (seen, own) = (entries(&mut part), entries(&mut whole));
    let translated: Vec<(u64, u32)> =
        own.iter().map(|&(count, nsid)| (count, if nsid == 3 { 1 } else { 0 })).collect();
    assert_eq!(seen, translated);
    let namespaces: Vec<u32> = own[..3].iter().map(|(_, nsid)| *nsid).collect();
    assert_eq!(namespaces, [3, 3, 1], "the newest first");
    // A piece of an entry would not say whose it is.
    let mut piece = entry(admin::GET_LOG_PAGE, u32::MAX, u32::from(lid::ERROR) | 15 << 16);
    piece.cdw12.set(4);
    assert_eq!(status(&mut part, &piece, Transfer::Read(64)), Status::INVALID_FIELD.with_dnr());
    assert!(status(&mut whole, &piece, Transfer::Read(64)).is_success());
}

#[test]
fn a_host_learns_of_the_write_cache_of_any_of_its_drives() {
    let folder = tempfile::tempdir().unwrap();
    let cached = EmulatedConfig { backing: Backing::File(folder.path().join("drive")), ..drive(4096, 1) };
    let target = TestTarget::with(Setup {
        drives: vec![drive(4096, 1), cached],
        exports: Some(vec![shown(&[(1, 0, 1), (2, 1, 1)]), Selection::Drive(0)]),
        ..Setup::default()
    });
    let cache = |export| {
        let mut admin = target.host_with(1, export, &Options::default());
        Vwc::from_bits_retain(admin.identify_controller().unwrap().vwc).contains(Vwc::PRESENT)
    };
    assert!(cache(0), "the second drive has one, and needs Flush");
    assert!(!cache(1), "the first has none");
    target.assert_no_violations();
}

/// Set Features or Get Features of the volatile write cache: the status, and what it says.
fn write_cache(admin: &mut AdminQueue, opcode: u8, on: u32) -> Result<u32, Status> {
    let mut entry = entry(opcode, 0, fid::VOLATILE_WRITE_CACHE.into());
    entry.cdw11.set(on);
    let (completion, _) = admin.command(&entry, Transfer::None).unwrap();
    if completion.status().is_success() { Ok(completion.dw0.get()) } else { Err(completion.status()) }
}

#[test]
fn the_write_cache_of_several_drives_is_on_as_long_as_that_of_one_is() {
    let folder = tempfile::tempdir().unwrap();
    let cached = |name| EmulatedConfig { backing: Backing::File(folder.path().join(name)), ..drive(4096, 1) };
    let target = TestTarget::with(Setup {
        drives: vec![drive(4096, 1), cached("one"), cached("two")],
        exports: Some(vec![
            shown(&[(1, 0, 1), (2, 1, 1), (3, 2, 1)]),
            Selection::Drive(1),
            Selection::Drive(2),
        ]),
        policies: HostPolicies::all(Policy::new(["inspect", "tune"].map(|class| class.parse().unwrap()), [])),
        ..Setup::default()
    });
    let mut hosts = [0, 1, 2].map(|export| target.host_with(1, export, &Options::default()));
    for (drive, on, expected) in [(1, 0, 1), (2, 0, 0), (1, 1, 1)] {
        assert_eq!(write_cache(&mut hosts[drive], admin::SET_FEATURES, on), Ok(0));
        assert_eq!(write_cache(&mut hosts[drive], admin::GET_FEATURES, 0), Ok(on));
        assert_eq!(write_cache(&mut hosts[0], admin::GET_FEATURES, 0), Ok(expected));
    }
    assert_eq!(write_cache(&mut hosts[0], admin::SET_FEATURES, 0), Err(DENIED), "it is of whole drives");
    assert_eq!(write_cache(&mut hosts[1], admin::GET_FEATURES, 0), Ok(1));
    target.assert_no_violations();
}

#[test]
fn what_a_command_set_says_of_a_controller_is_there_when_one_of_its_drives_has_command_sets() {
    let zoned = EmulatedConfig { zones: Some(ZoneConfig::default()), size: 64 << 20, ..drive(4096, 1) };
    let target = TestTarget::with(Setup {
        drives: vec![drive(4096, 1), zoned],
        exports: Some(vec![shown(&[(1, 0, 1), (2, 1, 1)])]),
        ..Setup::default()
    });
    let mut admin = target.host(1);
    let mut ask = |set: u8| {
        let mut entry = entry(admin::IDENTIFY, 0, cns::IO_COMMAND_SET_CONTROLLER.into());
        entry.cdw11.set(u32::from(set) << 24);
        let (completion, data) = admin.command(&entry, Transfer::Read(4096)).unwrap();
        (completion.status(), data)
    };
    // The first drive knows nothing of command sets, the second has no limits.
    for set in [csi::NVM, csi::ZONED_NAMESPACE] {
        assert_eq!(ask(set), (Status::SUCCESS, vec![0; 4096]), "command set {set}");
    }
    assert_eq!(ask(csi::KEY_VALUE).0, Status::INVALID_FIELD.with_dnr());
}

#[test]
fn identifiers_can_be_the_exports_own_and_are_the_same_each_time() {
    let seen = || {
        let own = EmulatedConfig { serial: Some("IDS".to_owned()), ..drive(4096, 2) };
        let target = TestTarget::with(Setup {
            drives: vec![own],
            exports: Some(vec![Selection::Drive(0), shown(&[(1, 0, 1)])]),
            identifiers: Identifiers::Derived,
            ..Setup::default()
        });
        let identifiers = |export, nsid| {
            let mut admin = target.host_with(1, export, &Options::default());
            let namespace = admin.identify_namespace(nsid).unwrap();
            assert_eq!((namespace.nguid, namespace.eui64), ([0; 16], [0; 8]));
            assert!(namespace.nsze.get() > 0);
            let list = admin.identify(cns::NAMESPACE_DESCRIPTORS, nsid).unwrap();
            let found: Vec<(u8, Vec<u8>)> =
                NamespaceIdDescriptor::parse(&list).map(|one| (one.nidt, one.nid.to_vec())).collect();
            assert_eq!(found[0].0, NamespaceIdDescriptor::UUID);
            assert!(found[1..].iter().all(|(nidt, _)| *nidt == NamespaceIdDescriptor::CSI), "{found:?}");
            found[0].1.clone()
        };
        [identifiers(0, 1), identifiers(0, 2), identifiers(1, 1)]
    };
    let first = seen();
    assert!(first[0] != first[1] && first[0] != first[2], "{first:?}");
    assert_eq!(seen(), first);
}
