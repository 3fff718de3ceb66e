//! The admin queue: what a host is told about the drive, what it may ask for, and what it may not.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::collections::BTreeSet;
use std::time::Duration;

use gangway_driver::emulated::EmulatedConfig;
use gangway_fabric::host::client::{AdminQueue, Transfer};
use gangway_spec::aen::{self, AsyncEvent};
use gangway_spec::feature::{self, fid, select};
use gangway_spec::identify::{
    Cmic, Ctratt, IdentifyController, IdentifyNamespace, NamespaceIdDescriptor, Nmic, Oncs, cns,
};
use gangway_spec::log::{CommandsSupportedAndEffectsLog, FirmwareSlotLog, GetLogPage, SmartLog, lid};
use gangway_spec::opcode::{FIRST_VENDOR_IO, admin, nvm};
use gangway_spec::registers;
use gangway_spec::{Status, SubmissionQueueEntry};
use gangway_tests::{Setup, TestTarget, command, pattern, subsystem};
use zerocopy::{FromBytes, IntoBytes};

/// How long nothing must happen before it counts as nothing.
const SILENCE: Duration = Duration::from_millis(300);

fn drive(block: u32, namespaces: u32) -> EmulatedConfig {
    EmulatedConfig { size: 8 << 20, block, namespaces, ..EmulatedConfig::default() }
}

fn serve(drive: EmulatedConfig) -> TestTarget {
    TestTarget::with(Setup { drives: vec![drive], ..Setup::default() })
}

fn status(admin: &mut AdminQueue, entry: &SubmissionQueueEntry, transfer: Transfer) -> Status {
    admin.command(entry, transfer).unwrap().0.status()
}

/// Whether a command was refused, for good: because there is no such thing (`unknown`), or because no policy opens it.
fn is_closed(status: Status, unknown: Status) -> bool {
    (status.is(unknown) || status.is(Status::OPERATION_DENIED)) && status.dnr()
}

fn identify(cns: u8, nsid: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(admin::IDENTIFY);
    entry.nsid.set(nsid);
    entry.cdw10.set(cns.into());
    entry
}

fn log_page(lid: u8, length: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::from(GetLogPage::new(lid, length));
    entry.nsid.set(u32::MAX);
    entry
}

fn features(opcode: u8, fid: u8, select: u8, cdw11: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.cdw10.set(u32::from(fid) | u32::from(select) << 8);
    entry.cdw11.set(cdw11);
    entry
}

#[test]
fn identify_controller_is_the_drives_own_but_for_what_is_about_the_path() {
    for (block, namespaces) in [(4096, 1), (512, 3)] {
        let target = serve(drive(block, namespaces));
        let mut admin = target.host(1);
        let seen = IdentifyController::read_from_bytes(&admin.identify(cns::CONTROLLER, 0).unwrap()).unwrap();
        let own = &target.infos[0].identify;

        // Ours.
        assert_eq!(seen.cntlid.get(), admin.cntlid());
        assert_eq!(seen.subnqn(), subsystem(0).as_str());
        assert_ne!(seen.kas.get(), 0);
        assert!(seen.ioccsz.get() >= 4 && seen.iorcsz.get() == 1 && seen.icdoff.get() == 0);
        assert_eq!((seen.sqes, seen.cqes), (0x66, 0x44));
        assert!(seen.maxcmd.get() > 0 && seen.msdbd == 1 && seen.sgls.get() & 0b11 != 0);
        assert_eq!(seen.cmic().bits() & Cmic::MULTIPLE_CONTROLLERS.bits(), Cmic::MULTIPLE_CONTROLLERS.bits());
        assert!(seen.ctratt().contains(Ctratt::TRAFFIC_BASED_KEEP_ALIVE | Ctratt::HOST_ID_128));
        assert_eq!((seen.hmpre.get(), seen.hmmin.get(), seen.fuses.get(), seen.anacap), (0, 0, 0, 0));
        assert!(seen.mdts <= own.mdts && seen.mdts > 0);

        // Nothing is promised that the drive does not promise.
        assert_eq!(seen.oacs.get() & !own.oacs.get(), 0);
        // Reservations are kept by the target.
        assert_eq!(seen.oncs.get() & !(own.oncs.get() | Oncs::RESERVATIONS.bits()), 0);
        assert_eq!(seen.lpa & !own.lpa, 0);
        assert_eq!(seen.frmw & !own.frmw, 0);
        assert_eq!(seen.sanicap.get() & !own.sanicap.get(), 0);

        // Everything else is the drive's own, byte by byte.
        let mut expected = (**own).clone();
        (expected.cntlid, expected.subnqn, expected.kas) = (seen.cntlid, seen.subnqn, seen.kas);
        (expected.ioccsz, expected.iorcsz, expected.icdoff) = (seen.ioccsz, seen.iorcsz, seen.icdoff);
        (expected.fcatt, expected.msdbd, expected.sgls) = (seen.fcatt, seen.msdbd, seen.sgls);
        (expected.maxcmd, expected.sqes, expected.cqes) = (seen.maxcmd, seen.sqes, seen.cqes);
        (expected.mdts, expected.aerl, expected.acl) = (seen.mdts, seen.aerl, seen.acl);
        (expected.cmic, expected.ctratt, expected.ver) = (seen.cmic, seen.ctratt, seen.ver);
        (expected.ofcs, expected.oaes, expected.oacs) = (seen.ofcs, seen.oaes, seen.oacs);
        (expected.oncs, expected.lpa) = (seen.oncs, seen.lpa);
        (expected.crdt1, expected.crdt2) = (seen.crdt1, seen.crdt2);
        // Of what the policy does not open: firmware without a reset, self-tests, Sanitize.
        (expected.frmw, expected.sanicap) = (own.frmw & 0b1111, 0.into());
        (expected.edstt, expected.dsto) = (0.into(), 0);
        for (at, (seen, expected)) in seen.as_bytes().iter().zip(expected.as_bytes()).enumerate() {
            assert_eq!(seen, expected, "byte {at} of Identify Controller");
        }
        assert_eq!(seen.ver.get(), admin.property_get(registers::VS).unwrap() as u32, "VER is VS");
    }
}

#[test]
fn identify_namespace_is_the_drives_own_but_for_what_is_about_sharing_it() {
    for (block, namespaces) in [(4096, 1), (512, 3)] {
        let target = serve(drive(block, namespaces));
        let mut admin = target.host(1);
        assert_eq!(admin.active_namespaces().unwrap(), (1..=namespaces).collect::<Vec<u32>>());
        for own in &target.infos[0].namespaces {
            let seen = admin.identify_namespace(own.nsid).unwrap();
            assert_eq!(seen.block_size(), Some(block));
            assert!(seen.nmic().contains(Nmic::SHARED));
            let mut expected: IdentifyNamespace = (*own.identify).clone();
            (expected.nmic, expected.rescap) = (expected.nmic | Nmic::SHARED.bits(), 0xfe);
            (expected.anagrpid, expected.nsattr) = (0.into(), 0);
            for (at, (seen, expected)) in seen.as_bytes().iter().zip(expected.as_bytes()).enumerate() {
                assert_eq!(seen, expected, "byte {at} of namespace {}", own.nsid);
            }
            let descriptors = admin.identify(cns::NAMESPACE_DESCRIPTORS, own.nsid).unwrap();
            let found: Vec<(u8, Vec<u8>)> = NamespaceIdDescriptor::parse(&descriptors)
                .map(|descriptor| (descriptor.nidt, descriptor.nid.to_vec()))
                .collect();
            assert!(found.contains(&(NamespaceIdDescriptor::EUI64, own.identify.eui64.to_vec())));
            assert!(found.contains(&(NamespaceIdDescriptor::NGUID, own.identify.nguid.to_vec())));
        }
    }
}

#[test]
fn the_active_list_goes_on_behind_the_namespace_that_is_named() {
    let target = serve(drive(512, 5));
    let mut admin = target.host(1);
    for after in 0..8_u32 {
        let data = admin.identify(cns::ACTIVE_NAMESPACE_LIST, after).unwrap();
        let list: Vec<u32> =
            data.chunks(4).map(|nsid| u32::from_le_bytes(nsid.try_into().unwrap())).collect();
        let expected: Vec<u32> = (after + 1..=5).collect();
        assert_eq!(&list[..expected.len()], expected);
        assert!(list[expected.len()..].iter().all(|nsid| *nsid == 0));
    }
    let entry = identify(cns::ACTIVE_NAMESPACE_LIST, u32::MAX - 1);
    assert!(status(&mut admin, &entry, Transfer::Read(4096)).is(Status::INVALID_NAMESPACE_OR_FORMAT));
    let entry = identify(cns::NAMESPACE, 6);
    assert!(status(&mut admin, &entry, Transfer::Read(4096)).is(Status::INVALID_NAMESPACE_OR_FORMAT));
}

#[test]
fn identify_gives_what_it_knows_and_refuses_the_rest() {
    let target = serve(drive(4096, 1));
    let mut admin = target.host(1);
    let works = [cns::NAMESPACE, cns::CONTROLLER, cns::ACTIVE_NAMESPACE_LIST, cns::NAMESPACE_DESCRIPTORS];
    for cns in 0..=255_u8 {
        let nsid = if matches!(cns, cns::NAMESPACE | cns::NAMESPACE_DESCRIPTORS) { 1 } else { 0 };
        let found = status(&mut admin, &identify(cns, nsid), Transfer::Read(4096));
        if works.contains(&cns) {
            assert!(found.is_success(), "CNS {cns:#x}: {found}");
        } else {
            assert!(found.is(Status::INVALID_FIELD) && found.dnr(), "CNS {cns:#x}: {found}");
        }
    }
    for length in [4, 512, 4092, 4100, 8192] {
        let found = status(&mut admin, &identify(cns::CONTROLLER, 0), Transfer::Read(length));
        assert_eq!(found, Status::DATA_SGL_LENGTH_INVALID.with_dnr(), "{length} bytes");
    }
    assert_eq!(
        status(&mut admin, &identify(1, 0), Transfer::None),
        Status::DATA_SGL_LENGTH_INVALID.with_dnr()
    );
}

#[test]
fn log_pages_come_from_the_drive() {
    let target = serve(drive(4096, 1));
    let (mut admin, mut queue) = target.queue(1);
    queue.write_blocks(1, 0, 4096, &pattern(0, 1, 4096 * 5)).unwrap();
    queue.read_blocks(1, 0, 2, 4096).unwrap();
    let data = admin.log_page(lid::SMART, u32::MAX, 0, 512, true).unwrap();
    let smart = SmartLog::read_from_bytes(&data).unwrap();
    assert_eq!(smart.celsius(), Some(40));
    assert_eq!((smart.host_write_commands.get(), smart.host_read_commands.get()), (1, 1));
    assert_eq!(admin.log_page(lid::SMART, u32::MAX, 64, 32, true).unwrap(), data[64..96], "from an offset");

    let data = admin.log_page(lid::FIRMWARE_SLOT, 0, 0, 512, true).unwrap();
    let firmware = admin.identify_controller().unwrap().firmware().into_owned();
    let slots = FirmwareSlotLog::read_from_bytes(&data).unwrap();
    assert_eq!(slots.revision(slots.active_slot()).as_deref(), Some(firmware.as_str()));

    // An error is in the drive's log.
    let before = admin.log_page(lid::ERROR, 0, 0, 64, true).unwrap();
    let other = Transfer::Write(pattern(0, 2, 4096).into());
    let completed = queue.execute(&command(nvm::COMPARE, 0, 1), other).unwrap();
    assert!(completed.entry.status().is(Status::COMPARE_FAILURE));
    assert_ne!(admin.log_page(lid::ERROR, 0, 0, 64, true).unwrap(), before);

    assert_eq!(admin.log_page(lid::CHANGED_NAMESPACES, 0, 0, 4096, true).unwrap(), vec![0; 4096]);
}

#[test]
fn log_pages_that_are_not_known_or_change_something_by_being_read_are_refused() {
    let target = serve(drive(4096, 1));
    let mut admin = target.host(1);
    let works = [
        lid::ERROR,
        lid::SMART,
        lid::FIRMWARE_SLOT,
        lid::CHANGED_NAMESPACES,
        lid::COMMANDS_SUPPORTED_AND_EFFECTS,
        lid::DEVICE_SELF_TEST,
        lid::RESERVATION_NOTIFICATION,
        lid::SANITIZE_STATUS,
    ];
    for id in 0..=255_u8 {
        let found = status(&mut admin, &log_page(id, 512), Transfer::Read(512));
        if works.contains(&id) {
            assert!(found.is_success(), "log page {id:#x}: {found}");
        } else {
            assert!(is_closed(found, Status::INVALID_LOG_PAGE), "log page {id:#x}: {found}");
        }
        // The length that the command implies is what counts, whatever the SGL says.
        for length in [508, 516, 4096] {
            let found = status(&mut admin, &log_page(id, 512), Transfer::Read(length));
            // A log page that the drive may or may not have is refused for its length first.
            let length_first = found.is(Status::DATA_SGL_LENGTH_INVALID);
            let closed = !works.contains(&id) && is_closed(found, Status::INVALID_LOG_PAGE);
            assert!(length_first || closed, "log page {id:#x}, {length} bytes: {found}");
        }
    }
    let mut endless = log_page(lid::SMART, 4);
    endless.cdw10.set(endless.cdw10.get() | 0xffff << 16);
    endless.cdw11.set(0xffff);
    let found = status(&mut admin, &endless, Transfer::Read(4096));
    assert!(found.is(Status::INVALID_FIELD) && found.dnr(), "{found}");
    admin.keep_alive().unwrap();
}

/// What can be seen of a drive's state.
fn state(admin: &mut AdminQueue) -> Vec<Vec<u8>> {
    let mut state = vec![
        admin.identify(cns::CONTROLLER, 0).unwrap(),
        admin.identify(cns::NAMESPACE, 1).unwrap(),
        admin.identify(cns::ACTIVE_NAMESPACE_LIST, 0).unwrap(),
        admin.log_page(lid::FIRMWARE_SLOT, 0, 0, 512, true).unwrap(),
    ];
    for fid in 0..=255_u8 {
        if fid == fid::TIMESTAMP {
            continue;
        }
        let mut entry = features(admin::GET_FEATURES, fid, select::CURRENT, 0);
        entry.nsid.set(u32::from(fid == fid::ERROR_RECOVERY));
        let (entry, data) = admin.command(&entry, Transfer::None).unwrap();
        state.push([entry.status.as_bytes(), entry.dw0.as_bytes(), &data].concat());
    }
    state
}

/// Whatever data `opcode` may go with.
fn transfers(opcode: u8) -> Vec<Transfer> {
    let write = || Transfer::Write(vec![0xff; 4096].into());
    match opcode & 3 {
        0 => vec![Transfer::None],
        1 => vec![Transfer::None, write()],
        2 => vec![Transfer::None, Transfer::Read(4096)],
        // Both ways: the controller may ask for data first.
        _ => vec![Transfer::None, write()],
    }
}

#[test]
fn every_admin_opcode_is_answered_and_none_changes_the_drive() {
    let target = serve(drive(4096, 2));
    let (mut admin, mut queue) = target.queue(1);
    let data = pattern(0, 1, 64 * 4096);
    queue.write_blocks(1, 0, 4096, &data).unwrap();
    let before = state(&mut admin);
    let mut open = BTreeSet::new();
    for opcode in 0..=255_u8 {
        if opcode == admin::ASYNC_EVENT_REQUEST {
            continue;
        }
        for dwords in [0_u32, 1, 0xffff_ffff] {
            for transfer in transfers(opcode) {
                let mut entry = SubmissionQueueEntry::new(opcode);
                entry.nsid.set(1);
                // What would set our own features is not the drive's business, and of interest elsewhere.
                let dword10 = if opcode == admin::SET_FEATURES { dwords & !0x0f | 0x02 } else { dwords };
                entry.cdw10.set(dword10);
                for dword in [&mut entry.cdw11, &mut entry.cdw12, &mut entry.cdw13, &mut entry.cdw14] {
                    dword.set(dwords);
                }
                let found = status(&mut admin, &entry, transfer);
                if !is_closed(found, Status::INVALID_OPCODE) {
                    open.insert(opcode);
                }
            }
        }
    }
    let expected = BTreeSet::from([
        admin::GET_LOG_PAGE,
        admin::IDENTIFY,
        admin::ABORT,
        admin::SET_FEATURES,
        admin::GET_FEATURES,
        admin::KEEP_ALIVE,
        admin::FABRICS,
    ]);
    // The emulated drive does not know Get LBA Status, which is open as well.
    open.remove(&admin::GET_LBA_STATUS);
    assert_eq!(open.difference(&expected).collect::<Vec<_>>(), Vec::<&u8>::new());
    assert_eq!(expected.difference(&open).collect::<Vec<_>>(), Vec::<&u8>::new());
    assert!(state(&mut admin) == before, "a command changed the drive");
    assert!(queue.read_blocks(1, 0, 64, 4096).unwrap() == data, "a command changed data");
    target.assert_no_violations();
}

#[test]
fn the_effects_log_promises_what_works_and_nothing_else() {
    let target = serve(drive(4096, 1));
    let (mut admin, mut queue) = target.queue(1);
    let data = admin.log_page(lid::COMMANDS_SUPPORTED_AND_EFFECTS, 0, 0, 4096, true).unwrap();
    let log = CommandsSupportedAndEffectsLog::read_from_bytes(&data).unwrap();
    for opcode in 0..=255_u8 {
        if matches!(opcode, admin::ASYNC_EVENT_REQUEST | admin::FABRICS) {
            continue;
        }
        let promised = log.admin[usize::from(opcode)].get() & 1 == 1;
        let found = status(&mut admin, &SubmissionQueueEntry::new(opcode), Transfer::None);
        let known = !is_closed(found, Status::INVALID_OPCODE);
        // It is refused for its parameters before the drive can say that it does not know it.
        let unclear = opcode == admin::GET_LBA_STATUS;
        assert!(promised == known || (unclear && !promised), "admin opcode {opcode:#x}: {found}");
    }
    assert_eq!(log.admin[usize::from(admin::ASYNC_EVENT_REQUEST)].get() & 1, 1);
    for opcode in 0..=255_u8 {
        if opcode == admin::FABRICS {
            continue;
        }
        let promised = log.io[usize::from(opcode)].get() & 1 == 1;
        let known = transfers(opcode).into_iter().chain([Transfer::None]).any(|transfer| {
            let completed = queue.execute(&command(opcode, 0, 1), transfer).unwrap();
            !completed.entry.status().is(Status::INVALID_OPCODE)
        });
        assert!(!promised || known, "I/O opcode {opcode:#x} is promised and does not work");
    }
}

/// A command of an I/O opcode that would succeed if it were allowed, with its data.
fn proper(opcode: u8) -> (SubmissionQueueEntry, Transfer) {
    let mut entry = command(opcode, 8, 1);
    let transfer = match opcode {
        nvm::WRITE => Transfer::Write(vec![9; 4096].into()),
        nvm::COMPARE => Transfer::Write(pattern(8, 1, 4096).into()),
        nvm::READ => Transfer::Read(4096),
        nvm::DATASET_MANAGEMENT => {
            (entry.cdw10, entry.cdw11, entry.cdw12) = (0.into(), (1 << 2).into(), 0.into());
            let range = gangway_spec::nvm::DatasetManagementRange::new(8, 1);
            Transfer::Write(range.as_bytes().into())
        }
        nvm::FLUSH => {
            (entry.cdw10, entry.cdw12) = (0.into(), 0.into());
            Transfer::None
        }
        _ => Transfer::None,
    };
    (entry, transfer)
}

#[test]
fn every_io_opcode_is_answered_and_what_is_not_known_does_not_reach_the_drive() {
    let target = serve(drive(4096, 1));
    let (_admin, mut queue) = target.queue(1);
    queue.write_blocks(1, 0, 4096, &pattern(0, 3, 4096 * 64)).unwrap();
    let known = [
        nvm::FLUSH,
        nvm::WRITE,
        nvm::READ,
        nvm::WRITE_UNCORRECTABLE,
        nvm::COMPARE,
        nvm::WRITE_ZEROES,
        nvm::DATASET_MANAGEMENT,
        nvm::VERIFY,
        nvm::RESERVATION_REGISTER,
        nvm::RESERVATION_REPORT,
        nvm::RESERVATION_ACQUIRE,
        nvm::RESERVATION_RELEASE,
        nvm::COPY,
    ];
    for opcode in (0..=255_u8).filter(|opcode| !known.contains(opcode) && *opcode != admin::FABRICS) {
        for transfer in transfers(opcode) {
            let completed = queue.execute(&command(opcode, 0, 1), transfer).unwrap();
            let expected = match opcode {
                FIRST_VENDOR_IO.. if opcode & 3 == 3 => Status::INVALID_FIELD,
                // A policy could open it.
                FIRST_VENDOR_IO.. => Status::OPERATION_DENIED,
                _ => Status::INVALID_OPCODE,
            };
            assert_eq!(completed.entry.status(), expected.with_dnr(), "opcode {opcode:#x}");
        }
    }
    assert!(queue.read_blocks(1, 0, 64, 4096).unwrap() == pattern(0, 3, 4096 * 64));
    for opcode in [nvm::FLUSH, nvm::WRITE, nvm::READ, nvm::WRITE_ZEROES, nvm::DATASET_MANAGEMENT, nvm::VERIFY]
    {
        let (entry, transfer) = proper(opcode);
        let completed = queue.execute(&entry, transfer).unwrap();
        assert!(completed.entry.status().is_success(), "opcode {opcode:#x}: {}", completed.entry.status());
    }
    for nsid in [0, 2, 1000, u32::MAX - 1] {
        let (mut entry, transfer) = proper(nvm::READ);
        entry.nsid.set(nsid);
        let completed = queue.execute(&entry, transfer).unwrap();
        assert_eq!(
            completed.entry.status(),
            Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr(),
            "NSID {nsid:#x}"
        );
    }
    target.assert_no_violations();
}

#[test]
fn a_read_only_export_can_be_read_and_not_be_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    let backing = gangway_driver::emulated::Backing::File(path);
    let drive = EmulatedConfig { backing, ..drive(4096, 1) };
    {
        let target = serve(drive.clone());
        let (_admin, mut queue) = target.queue(1);
        queue.write_blocks(1, 0, 4096, &pattern(0, 1, 4096 * 8)).unwrap();
        queue.write_blocks(1, 8, 4096, &pattern(8, 1, 4096)).unwrap();
        target.shutdown();
    }
    let target = TestTarget::with(Setup { drives: vec![drive], read_only: true, ..Setup::default() });
    let (mut admin, mut queue) = target.queue(1);
    assert_eq!(admin.identify_namespace(1).unwrap().nsattr & 1, 1, "Identify says so");
    let changes = [nvm::WRITE, nvm::WRITE_UNCORRECTABLE, nvm::WRITE_ZEROES, nvm::DATASET_MANAGEMENT];
    for opcode in 0..=255_u8 {
        if opcode == admin::FABRICS {
            continue;
        }
        let (entry, transfer) = proper(opcode);
        let found = queue.execute(&entry, transfer).unwrap().entry.status();
        if changes.contains(&opcode) {
            assert_eq!(found, Status::NAMESPACE_IS_WRITE_PROTECTED.with_dnr(), "opcode {opcode:#x}");
        } else {
            assert!(
                !found.is(Status::NAMESPACE_IS_WRITE_PROTECTED) || opcode == nvm::COPY,
                "opcode {opcode:#x}"
            );
        }
    }
    assert!(queue.read_blocks(1, 0, 8, 4096).unwrap() == pattern(0, 1, 4096 * 8));
    assert!(queue.read_blocks(1, 8, 1, 4096).unwrap() == pattern(8, 1, 4096));
}

#[test]
fn features_are_the_hosts_own_or_the_drives_and_the_drives_are_not_changed() {
    let target = serve(drive(4096, 1));
    let mut admin = target.host(1);
    let get = |admin: &mut AdminQueue, fid, select, cdw11, transfer| {
        let (entry, data) =
            admin.command(&features(admin::GET_FEATURES, fid, select, cdw11), transfer).unwrap();
        (entry.status(), entry.dw0.get(), data)
    };
    let set = |admin: &mut AdminQueue, fid, cdw11| {
        status(admin, &features(admin::SET_FEATURES, fid, 0, cdw11), Transfer::None)
    };
    // The host's own.
    let two = feature::number_of_queues(2, 2);
    assert_eq!(admin.set_number_of_queues(2).unwrap(), 2);
    assert_eq!(get(&mut admin, fid::NUMBER_OF_QUEUES, 0, 0, Transfer::None), (Status::SUCCESS, two, vec![]));
    assert_eq!(admin.set_number_of_queues(1000).unwrap(), 16, "as many as the export grants");
    assert!(set(&mut admin, fid::ASYNC_EVENT_CONFIGURATION, 0x0f).is_success());
    assert_eq!(get(&mut admin, fid::ASYNC_EVENT_CONFIGURATION, 0, 0, Transfer::None).1, 0x0f);
    let default = get(&mut admin, fid::ASYNC_EVENT_CONFIGURATION, select::DEFAULT, 0, Transfer::None);
    assert_eq!(default.1, 0, "the default is not what was set");
    let mut other = target.host(2);
    assert_eq!(
        get(&mut other, fid::ASYNC_EVENT_CONFIGURATION, 0, 0, Transfer::None).1,
        0,
        "another host's own"
    );
    let id = get(&mut admin, fid::HOST_IDENTIFIER, 0, 1, Transfer::Read(16));
    assert_eq!(id, (Status::SUCCESS, 0, vec![1; 16]));
    let short = get(&mut admin, fid::HOST_IDENTIFIER, 0, 0, Transfer::Read(16)).0;
    assert_eq!(short, Status::INVALID_FIELD.with_dnr(), "a fabrics host has an identifier of 128 bits");
    assert!(set(&mut admin, fid::HOST_IDENTIFIER, 1).is(Status::FEATURE_NOT_CHANGEABLE));

    // The drive's.
    for fid in [fid::ARBITRATION, fid::POWER_MANAGEMENT, fid::TEMPERATURE_THRESHOLD, fid::WRITE_ATOMICITY] {
        let before = get(&mut admin, fid, select::CURRENT, 0, Transfer::None);
        assert!(before.0.is_success(), "feature {fid:#x}: {}", before.0);
        let refused = set(&mut admin, fid, before.1 ^ 1);
        assert_eq!(refused, Status::FEATURE_NOT_CHANGEABLE.with_dnr(), "feature {fid:#x}");
        assert_eq!(get(&mut admin, fid, select::CURRENT, 0, Transfer::None), before);
        let (_, supported, _) = get(&mut admin, fid, select::SUPPORTED_CAPABILITIES, 0, Transfer::None);
        assert_eq!(
            supported & (select::SUPPORTED_CHANGEABLE | select::SUPPORTED_SAVEABLE),
            0,
            "feature {fid:#x}"
        );
    }
    assert_eq!(get(&mut admin, fid::TIMESTAMP, 0, 0, Transfer::Read(8)).0, Status::SUCCESS);
    assert_eq!(
        get(&mut admin, fid::TIMESTAMP, 0, 0, Transfer::Read(16)).0,
        Status::DATA_SGL_LENGTH_INVALID.with_dnr()
    );

    // Neither.
    for fid in [
        0x00,
        fid::INTERRUPT_COALESCING,
        fid::INTERRUPT_VECTOR_CONFIGURATION,
        fid::HOST_MEMORY_BUFFER,
        0xc0,
        0xff,
    ] {
        let (found, ..) = get(&mut admin, fid, 0, 0, Transfer::None);
        assert!(is_closed(found, Status::INVALID_FIELD), "feature {fid:#x}: {found}");
        assert!(!set(&mut admin, fid, 1).is_success(), "feature {fid:#x}");
    }
}

#[test]
fn event_requests_are_kept_up_to_the_limit_and_answered_by_events_alone() {
    let target = serve(drive(4096, 1));
    let mut admin = target.host(1);
    let limit = admin.identify_controller().unwrap().aerl + 1;
    assert_eq!(limit, 4);
    let request = SubmissionQueueEntry::new(admin::ASYNC_EVENT_REQUEST);
    for _ in 0..limit {
        admin.queue().submit(&request, Transfer::None).unwrap();
    }
    let beyond = status(&mut admin, &request, Transfer::None);
    assert!(beyond.is(Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED), "{beyond}");
    // An event that was not asked for is not told, nor is any other command's completion taken for one.
    target.probes[0].raise_event(AsyncEvent::new(aen::TYPE_SMART, aen::SMART_TEMPERATURE, lid::SMART));
    admin.log_page(lid::SMART, u32::MAX, 0, 512, false).unwrap();
    assert!(admin.queue().wait(SILENCE).unwrap().is_none(), "an event request is answered without an event");
    // A reset of the controller ends them without a completion: the host may use their identifiers again by then.
    admin.disable().unwrap();
    assert!(admin.queue().wait(SILENCE).unwrap().is_none(), "an event request is answered after a reset");
    assert_eq!(admin.queue().in_flight(), 0);
    // Neither side loses room for commands, however often that happens.
    for _ in 0..50 {
        admin.enable().unwrap();
        for _ in 0..limit {
            admin.queue().submit(&request, Transfer::None).unwrap();
        }
        admin.disable().unwrap();
    }
}
