//! Attempts of a host to reach more than it is given: each is refused before the drive sees a command, which the drive
//! counts; what a drive itself does wrong ends at memory that nobody else has.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use gangway_bridge::{HostPolicies, Mapping, Policy, Selection};
use gangway_fabric::host::client::{AdminQueue, IoQueue, Transfer};
use gangway_spec::SglDescriptor;
use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::feature::fid;
use gangway_spec::log::{GetLogPage, lid};
use gangway_spec::nvm::{CopyRange, DatasetManagementRange, set_nlb, set_slba};
use gangway_spec::opcode::{admin, nvm, zns};
use gangway_spec::status::Status;
use gangway_spec::zns::{receive, send};
use gangway_tests::wire::{Wire, by_transport, h2c_data, with_data};
use gangway_tests::{Setup, TestTarget, copy_across, enable_copy_formats, identity, pattern, subsystem};
use zerocopy::IntoBytes;

/// Vendor commands of the emulated drive: data to it, from it, and more from it than it was asked for.
const STORE: u8 = 0xc1;
const FETCH: u8 = 0xc2;
const OVERFETCH: u8 = 0xc6;

/// Blocks of the ordinary namespaces, and of the zoned one.
const BLOCKS: u64 = 256;

/// A target and one host that may do everything.
struct Attack {
    target: TestTarget,
    admin: AdminQueue,
    queue: IoQueue,
}

impl Attack {
    fn new(drives: &[&str], exports: Option<Vec<Selection>>) -> Self {
        let classes = ["inspect", "tune", "manage", "firmware", "vendor"];
        let policy = Policy::new(classes.map(|class| class.parse().unwrap()), []);
        let target = TestTarget::with(Setup {
            drives: drives.iter().map(|options| options.parse().unwrap()).collect(),
            exports,
            policies: HostPolicies::all(policy),
            ..Setup::default()
        });
        let (admin, queue) = target.queue(1);
        Self { target, admin, queue }
    }

    /// How many commands the drives see of those that `matching` names while `attempt` goes on.
    fn seen<T>(&mut self, matching: &str, attempt: impl FnOnce(&mut Self) -> T) -> (T, u64) {
        let probes = self.target.probes.clone();
        gangway_tests::seen(&probes, matching, || attempt(self))
    }

    /// An I/O command that must not reach a drive.
    #[track_caller]
    fn io(&mut self, entry: &SubmissionQueueEntry, transfer: Transfer, status: Status) {
        let what = entry.display_io().to_string();
        let (found, seen) =
            self.seen("io", |this| this.queue.execute(entry, transfer).unwrap().entry.status());
        assert_eq!(found, status.with_dnr(), "{what}");
        assert_eq!(seen, 0, "the drive has seen {what}");
    }

    /// An admin command that must not reach a drive. (It has admin commands of the target's own, too, but none with
    /// this opcode and this NSID.)
    #[track_caller]
    fn admin(&mut self, entry: &SubmissionQueueEntry, transfer: Transfer, status: Status) {
        let what = entry.display_admin().to_string();
        let matching = format!("admin:op={}:nsid={}", entry.opcode, entry.nsid);
        let (found, seen) =
            self.seen(&matching, |this| this.admin.command(entry, transfer).unwrap().0.status());
        assert_eq!(found, status.with_dnr(), "{what}");
        assert_eq!(seen, 0, "the drive has seen {what}");
    }
}

fn command(opcode: u8, nsid: u32, slba: u64, blocks: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.nsid.set(nsid);
    set_slba(&mut entry, slba);
    set_nlb(&mut entry, blocks);
    entry
}

/// Whether a command has data, as its opcode says.
fn moves_data(opcode: u8) -> bool {
    opcode & 3 != 0
}

/// As many bytes, the way that the opcode says.
fn bytes(opcode: u8, length: usize) -> Transfer {
    match opcode & 3 {
        _ if length == 0 => Transfer::None,
        2 => Transfer::Read(length as u32),
        _ => Transfer::Write(vec![0x5a; length].into()),
    }
}

/// Every I/O command of the NVM and ZNS command sets, proper ones for eight blocks, with their length.
fn proper(nsid: u32) -> Vec<(SubmissionQueueEntry, usize)> {
    let zones = |opcode, cdw12: u32, cdw13: u32| {
        let mut entry = command(opcode, nsid, 0, 1);
        (entry.cdw12, entry.cdw13) = (cdw12.into(), cdw13.into());
        entry
    };
    let with = |opcode, length| (command(opcode, nsid, 0, 8), length);
    vec![
        with(nvm::READ, 32768),
        with(nvm::WRITE, 32768),
        with(nvm::COMPARE, 32768),
        with(nvm::WRITE_ZEROES, 0),
        with(nvm::WRITE_UNCORRECTABLE, 0),
        with(nvm::VERIFY, 0),
        with(nvm::FLUSH, 0),
        (zones(nvm::COPY, 1, 0), 64),
        (zones(zns::ZONE_MANAGEMENT_RECEIVE, 127, receive::REPORT.into()), 512),
        (zones(zns::ZONE_MANAGEMENT_SEND, 0, send::OPEN.into()), 0),
        (zones(zns::ZONE_MANAGEMENT_SEND, 0, send::SET_DESCRIPTOR_EXTENSION.into()), 64),
        with(zns::ZONE_APPEND, 32768),
    ]
}

const ZONED: &str = "zoned,size=1MiB,zone-size=64KiB,zone-extension=64";

#[test]
fn an_sgl_of_another_length_than_the_command_implies() {
    let mut attack = Attack::new(&[ZONED], None);
    for (entry, length) in proper(1).into_iter().filter(|(entry, _)| moves_data(entry.opcode)) {
        for wrong in [0, 4, 64, 512, 4096, length.saturating_sub(4), length + 4, 2 * length, 131_072] {
            if wrong != length {
                attack.io(&entry, bytes(entry.opcode, wrong), Status::DATA_SGL_LENGTH_INVALID);
            }
        }
    }
    // A list may come in a longer buffer, but not beyond the longest list, nor in a shorter one.
    let mut trim = command(nvm::DATASET_MANAGEMENT, 1, 1, 1);
    trim.cdw10.set(1);
    for wrong in [0, 16, 28, 4100, 8192] {
        attack.io(&trim, bytes(trim.opcode, wrong), Status::DATA_SGL_LENGTH_INVALID);
    }
    attack.target.assert_no_violations();
}

#[test]
fn an_sgl_of_another_length_than_an_admin_command_implies() {
    let mut attack = Attack::new(&["size=1MiB"], None);
    let with = |opcode, cdw10: u32, cdw11: u32| {
        let mut entry = SubmissionQueueEntry::new(opcode);
        (entry.nsid, entry.cdw10, entry.cdw11) = (1.into(), cdw10.into(), cdw11.into());
        entry
    };
    for (entry, length) in [
        (with(admin::IDENTIFY, 1, 0), 4096),
        (with(admin::GET_LOG_PAGE, 127 << 16 | u32::from(lid::SMART), 0), 512),
        (with(admin::GET_LOG_PAGE, 255 << 16 | u32::from(lid::TELEMETRY_HOST), 0), 1024),
        (with(admin::SET_FEATURES, fid::TIMESTAMP.into(), 0), 8),
        (with(admin::GET_FEATURES, fid::TIMESTAMP.into(), 0), 8),
        (with(admin::FIRMWARE_IMAGE_DOWNLOAD, 1023, 0), 4096),
        (with(admin::SECURITY_SEND, 0, 512), 512),
        (with(admin::SECURITY_RECEIVE, 0, 512), 512),
        (with(admin::DEVICE_SELF_TEST, 1, 0), 0),
        (with(admin::SANITIZE, 2, 0), 0),
        (with(0xc4, 0, 0), 0),
    ] {
        for wrong in [0, 4, length - length.min(4), length + 4, 8192] {
            if wrong != length {
                // What has no data gets none, by whichever way it comes.
                let nowhere = !moves_data(entry.opcode);
                let status = if nowhere { Status::INVALID_FIELD } else { Status::DATA_SGL_LENGTH_INVALID };
                attack.admin(&entry, bytes(entry.opcode, wrong), status);
            }
        }
    }
    let both_ways = SubmissionQueueEntry::new(0xc3);
    attack.admin(&both_ways, bytes(1, 4), Status::INVALID_FIELD);
    attack.target.assert_no_violations();
}

#[test]
fn namespaces_outside_the_export_wherever_they_are_named() {
    // Namespace 2 is the second of the drive; its first, and the other drive, belong to others.
    let mapping = Mapping { nsid: 2, drive: 0, drive_nsid: 2 };
    let exports = Some(vec![Selection::Namespaces(vec![mapping]), Selection::Drive(1)]);
    let mut attack = Attack::new(&["size=1MiB,namespaces=3", "size=1MiB"], exports);
    for nsid in [0, 1, 3, 4, u32::MAX - 1, u32::MAX] {
        let trim = (command(nvm::DATASET_MANAGEMENT, nsid, 0, 1), 16);
        let vendor = (command(FETCH, nsid, 0, 1), 512);
        for (entry, length) in proper(nsid).into_iter().chain([trim, vendor]) {
            attack.io(&entry, bytes(entry.opcode, length), Status::INVALID_NAMESPACE_OR_FORMAT);
        }
    }
    for nsid in [1, 3, 4, u32::MAX - 1] {
        for (opcode, cdw10) in [
            (admin::GET_FEATURES, u32::from(fid::ERROR_RECOVERY)),
            (admin::SET_FEATURES, u32::from(fid::ERROR_RECOVERY)),
            (admin::DEVICE_SELF_TEST, 1),
        ] {
            let mut entry = SubmissionQueueEntry::new(opcode);
            entry.nsid.set(nsid);
            entry.cdw10.set(cdw10);
            attack.admin(&entry, Transfer::None, Status::INVALID_NAMESPACE_OR_FORMAT);
        }
        let mut smart = SubmissionQueueEntry::from(GetLogPage::new(lid::SMART, 512));
        smart.nsid.set(nsid);
        attack.admin(&smart, Transfer::Read(512), Status::INVALID_NAMESPACE_OR_FORMAT);
    }
    // What is about all of the drive, and what nobody knows the reach of.
    for (opcode, cdw10) in [(admin::SANITIZE, 2), (STORE, 0), (0xc4, 0), (admin::FIRMWARE_COMMIT, 8)] {
        let mut entry = SubmissionQueueEntry::new(opcode);
        (entry.cdw10, entry.nsid) = (cdw10.into(), 2.into());
        attack.admin(&entry, Transfer::None, Status::OPERATION_DENIED);
    }
    attack.io(&command(FETCH, 2, 0, 1), Transfer::Read(512), Status::OPERATION_DENIED);
    // Copy names its sources in its data, too; format 3h the drive does not have.
    enable_copy_formats(&mut attack.admin, 0xffff);
    for snsid in [0, 1, 3, 4, u32::MAX - 1, u32::MAX] {
        let (copy, list) = copy_across(2, 0, &[(2, 0, 0), (snsid, 0, 0)]);
        attack.io(&copy, list, Status::INVALID_NAMESPACE_OR_FORMAT);
    }
    for source in [(2, BLOCKS, 0), (2, BLOCKS - 1, 1), (2, u64::MAX, 0), (2, 0, u16::MAX)] {
        let (copy, list) = copy_across(2, 0, &[(2, 0, 0), source]);
        attack.io(&copy, list, Status::LBA_OUT_OF_RANGE);
    }
    let (mut copy, _) = copy_across(2, 0, &[(2, 0, 0)]);
    copy.cdw12.set(3 << 8);
    attack.io(&copy, Transfer::Write(vec![0; 40].into()), Status::INVALID_FIELD);
    enable_copy_formats(&mut attack.admin, 0);
    let (copy, list) = copy_across(2, 0, &[(2, 0, 0)]);
    attack.io(&copy, list, Status::INVALID_FIELD);
    attack.target.assert_no_violations();
}

#[test]
fn blocks_beyond_the_end_in_commands_and_in_their_lists() {
    let mut attack = Attack::new(&[ZONED], None);
    for (entry, length) in proper(1) {
        if matches!(entry.opcode, nvm::FLUSH | nvm::COPY) {
            continue;
        }
        for slba in [BLOCKS, BLOCKS + 1, 1 << 32, u64::MAX, u64::MAX - 7, u64::MAX - 8] {
            let mut entry = entry;
            set_slba(&mut entry, slba);
            attack.io(&entry, bytes(entry.opcode, length), Status::LBA_OUT_OF_RANGE);
        }
    }
    attack.io(&command(nvm::VERIFY, 1, BLOCKS - 7, 8), Transfer::None, Status::LBA_OUT_OF_RANGE);
    attack.io(&command(nvm::WRITE_ZEROES, 1, 0, 65536), Transfer::None, Status::LBA_OUT_OF_RANGE);
    for (slba, length) in [(BLOCKS, 1), (BLOCKS - 1, 2), (0, u32::MAX), (u64::MAX, 1), (u64::MAX, u32::MAX)] {
        let mut trim = command(nvm::DATASET_MANAGEMENT, 1, 0, 1);
        (trim.cdw10, trim.cdw11) = (1.into(), 4.into());
        let list = [DatasetManagementRange::new(0, 1), DatasetManagementRange::new(slba, length)];
        attack.io(&trim, Transfer::Write(list.as_bytes().into()), Status::LBA_OUT_OF_RANGE);
        let mut copy = command(nvm::COPY, 1, 0, 1);
        copy.cdw12.set(0);
        let nlb = (length.min(65536) - 1) as u16;
        let range = CopyRange { slba: slba.into(), nlb: nlb.into(), ..Default::default() };
        attack.io(&copy, Transfer::Write(range.as_bytes().into()), Status::LBA_OUT_OF_RANGE);
    }
    // The destination: as long as all sources together.
    let mut copy = command(nvm::COPY, 1, BLOCKS - 3, 1);
    copy.cdw12.set(1);
    let list = [CopyRange { nlb: 1.into(), ..Default::default() }; 2];
    attack.io(&copy, Transfer::Write(list.as_bytes().into()), Status::LBA_OUT_OF_RANGE);
    attack.target.assert_no_violations();
}

#[test]
fn transfers_beyond_what_one_command_may_and_of_lengths_that_nothing_guards() {
    let mut attack = Attack::new(&["size=16MiB,vendor,mdts=2"], None);
    for opcode in [nvm::READ, nvm::WRITE] {
        attack.io(&command(opcode, 1, 0, 5), bytes(opcode, 20480), Status::INVALID_FIELD);
    }
    for opcode in [STORE, FETCH] {
        for length in [4097, 4099, 16388, 65536] {
            attack.io(&command(opcode, 1, 0, 1), bytes(opcode, length), Status::INVALID_FIELD);
        }
    }
    attack.target.assert_no_violations();
}

/// A vendor's command for `length` bytes from the beginning of the drive's scratch memory, which goes on for `more`.
fn vendor(opcode: u8, length: u32, more: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.nsid.set(1);
    (entry.cdw10, entry.cdw13) = ((length / 4).into(), more.into());
    entry
}

/// A drive that moves more than it was asked for finds nothing behind the memory of its command, on either queue.
#[test]
fn a_drive_that_moves_more_than_its_host_said() {
    for options in ["size=16MiB,vendor", "size=16MiB,vendor,sgl"] {
        let mut attack = Attack::new(&[options], None);
        let (_other_admin, mut other) = attack.target.queue(2);
        let data: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 251) as u8).collect();
        other.write_blocks(1, 0, 4096, &data).unwrap();
        for length in [512, 4096, 8192, 12_288, 65_536] {
            // Whatever is in the memory of commands before, it was somebody else's.
            assert!(other.read_blocks(1, 0, 256, 4096).unwrap() == data);
            for more in [4096, 65_536, 1 << 20] {
                let lie = vendor(OVERFETCH, length, more);
                let io = attack.queue.execute(&lie, Transfer::Read(length)).unwrap().entry.status();
                let stopped = if options.ends_with("sgl") {
                    Status::DATA_SGL_LENGTH_INVALID
                } else {
                    Status::DATA_TRANSFER_ERROR
                };
                assert!(io.is(stopped), "{options}: {length} bytes and {more} more: {io}");
                let admin = attack.admin.command(&lie, Transfer::Read(length)).unwrap().0.status();
                assert!(admin.is(Status::DATA_TRANSFER_ERROR), "{length} bytes and {more} more: {admin}");
            }
        }
        assert!(attack.target.probes[0].violations() > 0, "the drive was stopped");
        assert!(other.read_blocks(1, 0, 256, 4096).unwrap() == data, "others are not concerned");
        let honest = attack.queue.execute(&vendor(FETCH, 4096, 0), Transfer::Read(4096)).unwrap();
        assert_eq!((honest.entry.status(), &honest.data[..]), (Status::SUCCESS, &[0; 4096][..]));
    }
}

/// A vendor's command without data, whatever way its opcode says that data goes.
#[test]
fn a_vendors_command_without_data_is_executed_and_the_connection_goes_on() {
    for options in ["size=16MiB,vendor", "size=16MiB,vendor,sgl"] {
        let mut attack = Attack::new(&[options], None);
        for _ in 0..300 {
            for opcode in [STORE, FETCH, OVERFETCH] {
                let (done, seen) = attack.seen(&format!("io:op={opcode}"), |this| {
                    this.queue.execute(&vendor(opcode, 0, 0), Transfer::None).unwrap()
                });
                assert_eq!(
                    (done.entry.status(), done.data.len(), seen),
                    (Status::SUCCESS, 0, 1),
                    "{opcode:#x}"
                );
            }
        }
        let data = pattern(3, 1, 4096);
        let stored =
            attack.queue.execute(&vendor(STORE, 4096, 0), Transfer::Write(data.clone().into())).unwrap();
        let fetched = attack.queue.execute(&vendor(FETCH, 4096, 0), Transfer::Read(4096)).unwrap();
        assert_eq!((stored.entry.status(), fetched.data), (Status::SUCCESS, data));
        attack.target.assert_no_violations();
    }
}

/// A drive that writes less than it was asked for shows its host nothing of what others had in that memory.
#[test]
fn a_drive_that_writes_less_than_its_host_said() {
    let options = format!("{ZONED},vendor,fault=skip:op=0xc2,fault=skip:op=0x7a");
    let mut attack = Attack::new(&[&options], None);
    let (_other_admin, mut other) = attack.target.queue(2);
    let mut append = command(zns::ZONE_APPEND, 1, 0, 16);
    append.cdw13.set(0);
    let secret = Transfer::Write(vec![0x5a; 65536].into());
    assert!(other.execute(&append, secret).unwrap().entry.status().is_success());
    for length in [512, 4096, 8192, 65_536] {
        assert_eq!(other.read_blocks(1, 0, 16, 4096).unwrap(), [0x5a; 65536]);
        let mut report = command(zns::ZONE_MANAGEMENT_RECEIVE, 1, 0, 1);
        report.cdw12.set(length / 4 - 1);
        for entry in [vendor(FETCH, length, 0), report] {
            let done = attack.queue.execute(&entry, Transfer::Read(length)).unwrap();
            assert!(done.entry.status().is_success());
            assert!(done.data.iter().all(|byte| *byte == 0), "{length} bytes of {}", entry.display_io());
        }
    }
    attack.target.assert_no_violations();
}

/// What a host does to a proper command.
type Change = Box<dyn Fn(&mut SubmissionQueueEntry)>;

#[test]
fn fused_commands_pointers_of_a_hosts_own_and_metadata() {
    let mut attack = Attack::new(&["size=1MiB"], None);
    let (subsystem, host) = (subsystem(0), identity(3));
    let (_admin, cntlid) = Wire::admin(attack.target.address, &subsystem, &host);
    let mut wire = Wire::io(attack.target.address, cntlid, 1, &subsystem, &host);
    let ((), seen) = attack.seen("io", |_| {
        for opcode in [nvm::READ, nvm::WRITE, nvm::COMPARE, nvm::VERIFY, nvm::FLUSH, nvm::COPY, FETCH] {
            let mut changes: Vec<Change> = Vec::new();
            for flags in [0x41, 0x42, 0x43, 0x00, 0x80, 0xc0] {
                changes.push(Box::new(move |entry| entry.flags = flags));
            }
            changes.push(Box::new(|entry| entry.mptr.set(0x1000)));
            // An address of the host's in place of the data that it sends.
            changes.push(Box::new(|entry| entry.set_prp(0xdead_0000, 0xbeef_0000)));
            for change in changes {
                let mut entry = command(opcode, 1, 0, 1);
                entry.set_sgl(SglDescriptor::transport(if opcode & 3 == 0 { 0 } else { 4096 }));
                change(&mut entry);
                let status = wire.status(&with_data(&entry, &[]));
                assert!(!status.is_success() && status.dnr(), "{}: {status}", entry.display_io());
            }
        }
    });
    assert_eq!(seen, 0);
    attack.target.assert_no_violations();
}

/// What was checked is what the drive gets: data that a host sends again for a command ends its connection.
#[test]
fn a_list_that_is_sent_again_after_it_was_checked() {
    let mut attack = Attack::new(&["size=1MiB"], None);
    let data = vec![0x77; 64 * 4096];
    attack.queue.write_blocks(1, 0, 4096, &data).unwrap();
    let (subsystem, host) = (subsystem(0), identity(3));
    let (_admin, cntlid) = Wire::admin(attack.target.address, &subsystem, &host);
    for _ in 0..20 {
        let mut wire = Wire::io(attack.target.address, cntlid, 1, &subsystem, &host);
        let mut trim = command(nvm::DATASET_MANAGEMENT, 1, 0, 1);
        (trim.cdw10, trim.cdw11) = (0.into(), 4.into());
        wire.send(&by_transport(trim, 16));
        let r2t = wire.r2t();
        let (good, bad) = (DatasetManagementRange::new(200, 1), DatasetManagementRange::new(0, 64));
        let both =
            [h2c_data(&r2t, 0, good.as_bytes(), true), h2c_data(&r2t, 0, bad.as_bytes(), true)].concat();
        wire.send(&both);
        wire.drain();
        assert!(attack.queue.read_blocks(1, 0, 64, 4096).unwrap() == data);
        while attack.target.associations() > 2 {
            std::thread::yield_now();
        }
    }
    attack.target.assert_no_violations();
}
