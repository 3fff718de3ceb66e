//! What is admitted, and what is not.

use gangway_spec::identify::csi;
use gangway_spec::nvm::{CopyRange, DatasetManagementRange, Protection, copy, set_nlb, set_slba};
use gangway_spec::opcode::{nvm, zns};
use gangway_spec::zns::{receive, send};
use zerocopy::IntoBytes;

use super::*;

fn view() -> ExportView {
    let format = BlockFormat::plain(512);
    let namespace = NamespaceView {
        nsid: 3,
        drive: 1,
        drive_nsid: 7,
        queue: 5,
        across: 6,
        csi: csi::NVM,
        format,
        blocks: 1000,
        zones: ZoneLimits::default(),
        read_only: false,
        ids: NamespaceIds::default(),
    };
    let locked = NamespaceView { nsid: 4, read_only: true, ..namespace.clone() };
    let zones = ZoneLimits { append: 8192, extension: 128 };
    let zoned =
        NamespaceView { nsid: 9, drive_nsid: 2, csi: csi::ZONED_NAMESPACE, zones, ..namespace.clone() };
    ExportView {
        namespaces: vec![namespace, locked, zoned],
        max_transfer: 128 * 1024,
        whole: true,
        ..ExportView::default()
    }
}

/// What a host gets that may do everything.
fn admit(entry: &SubmissionQueueEntry, declared: u32) -> Result<Admitted, Status> {
    view().admit(entry, declared, &open())
}

fn open() -> Policy {
    Policy::new(["vendor".parse().unwrap()], [])
}

fn command(opcode: u8, nsid: u32, cdw12: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.nsid = nsid.into();
    entry.cdw12 = cdw12.into();
    entry
}

#[test]
fn a_read_is_admitted_with_the_length_that_it_implies_and_the_nsid_of_the_drive() {
    let admitted = admit(&command(nvm::READ, 3, 7), 4096).unwrap();
    assert_eq!(
        admitted,
        Admitted {
            course: Course::Drive,
            drive: 1,
            queue: 5,
            nsid: 7,
            direction: TransferDirection::ControllerToHost,
            length: 4096,
            handling: Handling::Plain,
        }
    );
}

#[test]
fn an_sgl_longer_or_shorter_than_the_command_implies_is_refused() {
    for declared in [0, 512, 4095, 4097, 8192] {
        let refused = admit(&command(nvm::WRITE, 3, 7), declared).unwrap_err();
        assert_eq!(refused, Status::DATA_SGL_LENGTH_INVALID.with_dnr(), "{declared} bytes");
    }
}

#[test]
fn a_list_of_ranges_may_come_in_a_larger_buffer_but_not_in_a_smaller_one() {
    let mut trim = command(nvm::DATASET_MANAGEMENT, 3, 0);
    trim.cdw10 = 1.into();
    for declared in [32, 4096] {
        assert_eq!(admit(&trim, declared).unwrap().length, declared);
    }
    for declared in [0, 16, 4112] {
        let refused = admit(&trim, declared).unwrap_err();
        assert_eq!(refused, Status::DATA_SGL_LENGTH_INVALID.with_dnr(), "{declared} bytes");
    }
}

#[test]
fn control_bits_above_nlb_do_not_change_the_length() {
    let fua = 1 << 30;
    assert_eq!(admit(&command(nvm::WRITE, 3, 7 | fua), 4096).unwrap().length, 4096);
}

#[test]
fn transfers_beyond_the_limit_are_refused() {
    let refused = admit(&command(nvm::READ, 3, 256), 257 * 512).unwrap_err();
    assert_eq!(refused, Status::INVALID_FIELD.with_dnr());
}

#[test]
fn namespaces_outside_the_export_do_not_exist() {
    for nsid in [0, 1, 7, BROADCAST] {
        let refused = admit(&command(nvm::FLUSH, nsid, 0), 0).unwrap_err();
        assert_eq!(refused, Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr(), "NSID {nsid:#x}");
    }
}

#[test]
fn a_read_only_namespace_refuses_everything_that_changes_data_and_nothing_else() {
    let view = view();
    let mut refused = Vec::new();
    for opcode in 0..=255_u8 {
        let mut entry = command(opcode, 4, 0);
        entry.cdw10 = 0.into();
        for declared in [0, 16, 32, 512] {
            if view.admit(&entry, declared, &open()) == Err(Status::NAMESPACE_IS_WRITE_PROTECTED.with_dnr()) {
                refused.push(opcode);
                break;
            }
        }
    }
    let mut expected =
        vec![nvm::WRITE, nvm::WRITE_UNCORRECTABLE, nvm::WRITE_ZEROES, nvm::DATASET_MANAGEMENT, nvm::COPY];
    // Whatever a vendor's does, but for those that move data both ways and are refused anyway.
    expected.extend((0x80..=0xff_u8).filter(|opcode| opcode & 3 != 3));
    expected.sort_unstable();
    assert_eq!(refused, expected);
    assert!(view.admit(&command(nvm::READ, 4, 0), 512, &open()).is_ok());
}

#[test]
fn opcodes_that_are_not_listed_are_refused() {
    for (nsid, csi) in [(3, csi::NVM), (9, csi::ZONED_NAMESPACE)] {
        for opcode in 0..0x80_u8 {
            let unknown = admit(&command(opcode, nsid, 0), 1) == Err(Status::INVALID_OPCODE.with_dnr());
            assert_eq!(unknown, !is_known(csi, opcode), "opcode {opcode:#x} of command set {csi}");
        }
    }
    for opcode in [0x12, 0x18, 0x1d, 0x79, 0x7d, 0x7f] {
        assert!(!is_known(csi::NVM, opcode));
    }
}

#[test]
fn interleaved_metadata_counts_unless_the_drive_inserts_it_itself() {
    const PRACT: u32 = 1 << 29;
    let protection = |size| Some(Protection { kind: 1, size, first: false });
    // Bytes of metadata, of protection information in it, and what two blocks take without and with PRACT.
    for (metadata_size, protection, plain, action) in [
        (8, None, 2 * 4104, 2 * 4104),
        (8, protection(8), 2 * 4104, 2 * 4096),
        (16, protection(8), 2 * 4112, 2 * 4112),
        (16, protection(16), 2 * 4112, 2 * 4096),
        (64, protection(16), 2 * 4160, 2 * 4160),
    ] {
        let mut view = view();
        view.namespaces[0].format =
            BlockFormat { block_size: 4096, metadata_size, interleaved: true, protection };
        for opcode in [nvm::READ, nvm::WRITE, nvm::COMPARE] {
            for (control, length) in [(0, plain), (PRACT, action)] {
                for declared in [2 * 4096, 2 * 4104, 2 * 4112, 2 * 4160] {
                    let admitted = view.admit(&command(opcode, 3, 1 | control), declared, &open());
                    let what = format!("{metadata_size} bytes, {protection:?}, {control:#x}, {declared}");
                    assert_eq!(admitted.is_ok(), declared == length, "{what}");
                }
            }
        }
    }
}

#[test]
fn metadata_in_a_buffer_of_its_own_is_not_carried() {
    let format =
        |metadata_size, interleaved| BlockFormat { metadata_size, interleaved, ..BlockFormat::plain(4096) };
    assert_eq!(carried(format(8, false)), None);
    assert_eq!(carried(format(8, true)), Some(format(8, true)));
    assert_eq!(carried(format(0, false)), Some(format(0, false)));
}

#[test]
fn reservation_commands_bring_or_take_what_the_specification_says_and_do_not_go_to_the_drive() {
    let mut report = command(nvm::RESERVATION_REPORT, 3, 0);
    report.cdw10.set(15);
    for (entry, length) in [
        (command(nvm::RESERVATION_REGISTER, 3, 0), 16),
        (command(nvm::RESERVATION_ACQUIRE, 4, 0), 16),
        (command(nvm::RESERVATION_RELEASE, 3, 0), 8),
        (report, 64),
    ] {
        let admitted = admit(&entry, length).unwrap();
        assert_eq!((admitted.course, admitted.length, admitted.nsid), (Course::Reservations, length, 7));
        for wrong in [0, length - 4, length + 4] {
            let refused = admit(&entry, wrong).unwrap_err();
            assert_eq!(refused, Status::DATA_SGL_LENGTH_INVALID.with_dnr(), "{wrong} bytes");
        }
    }
}

#[test]
fn a_flush_of_all_namespaces_is_kept_from_hosts_that_may_not_write_to_one_of_them() {
    let mut view = view();
    let flush = command(nvm::FLUSH, BROADCAST, 0);
    assert!(view.permits(2, &flush) && view.permits(2, &command(nvm::WRITE, 4, 0)));
    view.guards = vec![(4, Arc::new(Guard::exclusive(1)))];
    assert!(view.permits(1, &flush) && !view.permits(2, &flush));
    assert!(view.permits(2, &command(nvm::WRITE, 3, 0)) && !view.permits(2, &command(nvm::WRITE, 4, 0)));
}

#[test]
fn copy_is_refused_when_nobody_knows_the_format_of_its_ranges() {
    assert!(admit(&command(nvm::COPY, 3, 0), 32).is_ok());
    for format in 4..16 {
        let refused = admit(&command(nvm::COPY, 3, format << 8), 32).unwrap_err();
        assert_eq!(refused, Status::INVALID_FIELD.with_dnr());
    }
}

/// Reads, writes and the like of `blocks` blocks from `first` on.
fn at(opcode: u8, nsid: u32, first: u64, blocks: u32) -> SubmissionQueueEntry {
    let mut entry = command(opcode, nsid, 0);
    set_slba(&mut entry, first);
    set_nlb(&mut entry, blocks);
    entry
}

#[test]
fn blocks_beyond_the_end_are_refused_however_they_are_counted() {
    let moves = |opcode| matches!(opcode, nvm::READ | nvm::WRITE | nvm::COMPARE | zns::ZONE_APPEND);
    for opcode in [
        nvm::READ,
        nvm::WRITE,
        nvm::COMPARE,
        nvm::VERIFY,
        nvm::WRITE_ZEROES,
        nvm::WRITE_UNCORRECTABLE,
        zns::ZONE_APPEND,
    ] {
        for (first, blocks, good) in [
            (0, 8, true),
            (992, 8, true),
            (993, 8, false),
            (1000, 1, false),
            (1 << 32, 1, false),
            (u64::MAX, 1, false),
            (u64::MAX - 7, 8, false),
            (u64::MAX - 6, 8, false),
        ] {
            let declared = if moves(opcode) { blocks * 512 } else { 0 };
            let expected = if good { Ok(declared) } else { Err(Status::LBA_OUT_OF_RANGE.with_dnr()) };
            let decided = admit(&at(opcode, 9, first, blocks), declared).map(|admitted| admitted.length);
            assert_eq!(decided, expected, "{opcode:#x}: {blocks} blocks from {first}");
        }
    }
    // As many as a command can name: the length does not overflow, and there are not so many.
    let everything = at(nvm::VERIFY, 3, 0, 65536);
    assert_eq!(admit(&everything, 0), Err(Status::LBA_OUT_OF_RANGE.with_dnr()));
}

#[test]
fn zones_are_managed_by_their_lengths_and_within_the_namespace() {
    let manage = |opcode, nsid, first: u64, cdw12: u32, cdw13: u32| {
        let mut entry = command(opcode, nsid, cdw12);
        set_slba(&mut entry, first);
        entry.cdw13 = cdw13.into();
        entry
    };
    let (wrong, outside) = (Status::DATA_SGL_LENGTH_INVALID.with_dnr(), Status::LBA_OUT_OF_RANGE.with_dnr());
    let send =
        |first, action, declared| admit(&manage(zns::ZONE_MANAGEMENT_SEND, 9, first, 0, action), declared);
    for action in [send::CLOSE, send::FINISH, send::OPEN, send::RESET, send::OFFLINE, send::FLUSH_ZRWA] {
        let admitted = send(999, action.into(), 0).unwrap();
        assert_eq!((admitted.direction, admitted.nsid), (TransferDirection::None, 2));
        assert_eq!(send(999, action.into(), 128), Err(wrong));
        assert_eq!(send(1000, action.into(), 0), Err(outside));
        assert!(send(1000, u32::from(action) | send::SELECT_ALL, 0).is_ok(), "the place means nothing then");
    }
    let extension = u32::from(send::SET_DESCRIPTOR_EXTENSION);
    assert_eq!(send(0, extension, 128).unwrap().direction, TransferDirection::HostToController);
    assert_eq!(send(0, extension, 64), Err(wrong));
    for unknown in [0, 6, 0x12, 0xff] {
        assert_eq!(send(0, unknown, 0), Err(Status::INVALID_FIELD.with_dnr()), "action {unknown:#x}");
    }

    let receive = |first, action: u8, declared| {
        admit(&manage(zns::ZONE_MANAGEMENT_RECEIVE, 9, first, 1023, action.into()), declared)
    };
    for action in [receive::REPORT, receive::EXTENDED_REPORT] {
        let admitted = receive(0, action, 4096).unwrap();
        assert_eq!(
            (admitted.direction, admitted.handling),
            (TransferDirection::ControllerToHost, Handling::Cleared)
        );
        for declared in [0, 4092, 4100] {
            assert_eq!(receive(0, action, declared), Err(wrong));
        }
        assert_eq!(receive(1000, action, 4096), Err(outside));
    }
    assert_eq!(receive(0, 2, 4096), Err(Status::INVALID_FIELD.with_dnr()));
    let longest = manage(zns::ZONE_MANAGEMENT_RECEIVE, 9, 0, u32::MAX, 0);
    assert_eq!(admit(&longest, 0), Err(wrong), "16 GiB are not 0");

    assert!(admit(&at(zns::ZONE_APPEND, 9, 0, 16), 8192).is_ok());
    let beyond = admit(&at(zns::ZONE_APPEND, 9, 0, 17), 8704);
    assert_eq!(beyond, Err(Status::INVALID_FIELD.with_dnr()), "the limit of appends");
}

#[test]
fn a_vendors_command_is_admitted_where_its_memory_can_be_guarded() {
    for (opcode, declared, expected) in [
        (0xc1, 512, Ok(TransferDirection::HostToController)),
        (0xc2, 4096, Ok(TransferDirection::ControllerToHost)),
        (0xc2, 8192, Ok(TransferDirection::ControllerToHost)),
        (0xc0, 0, Ok(TransferDirection::None)),
        (0xc0, 4, Err(Status::DATA_SGL_LENGTH_INVALID)),
        (0xc3, 512, Err(Status::INVALID_FIELD)),
        // No place in a page has something behind it that stops a drive.
        (0xc2, 4097, Err(Status::INVALID_FIELD)),
        (0xc2, 256 << 10, Err(Status::INVALID_FIELD)),
    ] {
        let decided = admit(&command(opcode, 3, 0), declared).map(|admitted| {
            assert_eq!((admitted.length, admitted.handling), (declared, Handling::Guarded));
            admitted.direction
        });
        assert_eq!(decided, expected.map_err(Status::with_dnr), "{opcode:#x} with {declared} bytes");
    }
    for nsid in [0, 1, BROADCAST] {
        let refused = admit(&command(0xc2, nsid, 0), 512).unwrap_err();
        assert_eq!(refused, Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr());
    }
    let part = ExportView { whole: false, ..view() };
    assert_eq!(
        part.admit(&command(0xc2, 3, 0), 512, &open()),
        Err(DENIED),
        "it may be about more than is shown"
    );
}

#[test]
fn a_policy_decides_on_io_commands_too() {
    let policy = Policy::new(
        ["io:c2h".parse().unwrap()],
        ["io:09h", "io:02h", "io:00h"].map(|item| item.parse().unwrap()),
    );
    let decide = |opcode, declared| view().admit(&command(opcode, 3, 0), declared, &policy).map(drop);
    assert_eq!((decide(nvm::WRITE, 512), decide(0xc2, 512)), (Ok(()), Ok(())));
    for (opcode, declared) in [(nvm::READ, 512), (nvm::FLUSH, 0), (nvm::DATASET_MANAGEMENT, 16), (0xc1, 512)]
    {
        assert_eq!(decide(opcode, declared), Err(DENIED), "{opcode:#x}");
    }
    let all = ExportView { broadcast_flush: true, ..view() };
    assert_eq!(all.admit(&command(nvm::FLUSH, BROADCAST, 0), 0, &policy), Err(DENIED));
    let flush = all.admit(&command(nvm::FLUSH, BROADCAST, 0), 0, &open()).unwrap();
    assert_eq!(flush.queue, 6, "it waits while any of them is altered");
}

/// A host that has enabled all formats of Copy.
const BY: ListedBy = ListedBy { host: 2, copy_formats: copy::FORMATS_ACROSS };

/// What becomes of a command with this list.
fn listed(entry: &SubmissionQueueEntry, list: &[u8]) -> Result<(), Status> {
    assert_eq!(admit(entry, list.len() as u32)?.handling, Handling::List);
    let mut checked = list.to_vec();
    listed_by(&view(), BY, entry, &mut checked)?;
    assert!(checked == list);
    Ok(())
}

fn listed_by(
    view: &ExportView,
    by: ListedBy,
    entry: &SubmissionQueueEntry,
    list: &mut [u8],
) -> Result<(), Status> {
    let admitted = view.admit(entry, list.len() as u32, &open())?;
    let entry = SubmissionQueueEntry { nsid: admitted.nsid.into(), ..*entry };
    view.check_list(&entry, &admitted, by, list)
}

#[test]
fn ranges_to_deallocate_are_within_the_namespace() {
    let list = |ranges: &[(u64, u32)], named: u32| {
        let mut entry = command(nvm::DATASET_MANAGEMENT, 3, 0);
        entry.cdw10 = (named - 1).into();
        let ranges = ranges.iter().map(|(slba, length)| DatasetManagementRange::new(*slba, *length));
        listed(&entry, ranges.collect::<Vec<_>>().as_bytes())
    };
    let outside = Err(Status::LBA_OUT_OF_RANGE.with_dnr());
    assert_eq!(list(&[(0, 1000), (999, 1), (1000, 0)], 3), Ok(()));
    assert_eq!(list(&[(0, 8), (999, 2)], 2), outside);
    assert_eq!(list(&[(u64::MAX, 1)], 1), outside);
    assert_eq!(list(&[(u64::MAX - 7, u32::MAX)], 1), outside);
    assert_eq!(list(&[(0, 8), (5000, 8)], 1), Ok(()), "what is behind the list is not part of it");
}

#[test]
fn what_is_copied_is_within_the_namespace_and_so_is_where_it_goes() {
    for format in [0, 1] {
        let length = copy::descriptor_length(format).unwrap() as usize;
        let copy = |to: u64, ranges: &[(u64, u16)]| {
            let mut entry = command(nvm::COPY, 3, u32::from(format) << 8 | (ranges.len() - 1) as u32);
            set_slba(&mut entry, to);
            let mut list = Vec::new();
            for (slba, nlb) in ranges {
                let range = CopyRange { slba: (*slba).into(), nlb: (*nlb).into(), ..Default::default() };
                list.extend_from_slice(range.as_bytes());
                list.resize(list.len().next_multiple_of(length), 0);
            }
            listed(&entry, &list)
        };
        let outside = Err(Status::LBA_OUT_OF_RANGE.with_dnr());
        assert_eq!(copy(0, &[(992, 7), (0, 99)]), Ok(()), "format {format}");
        assert_eq!(copy(0, &[(992, 7), (993, 7)]), outside);
        assert_eq!(copy(992, &[(0, 3), (0, 3)]), Ok(()));
        assert_eq!(copy(992, &[(0, 3), (0, 4)]), outside, "the destination is as long as all sources");
        assert_eq!(copy(u64::MAX, &[(0, 0)]), outside);
        assert_eq!(copy(0, &[(u64::MAX, 0)]), outside);
    }
}

/// A Copy to block 0 of namespace 3, in a format that names namespaces: of so many blocks of these, from there on.
fn copy_across(format: u8, ranges: &[(u32, u64, u16)]) -> (SubmissionQueueEntry, Vec<u8>) {
    let length = copy::descriptor_length(format).unwrap() as usize;
    let mut list = Vec::new();
    for (snsid, slba, nlb) in ranges {
        let (slba, nlb) = ((*slba).into(), (*nlb).into());
        let range = CopyRange { snsid: (*snsid).into(), slba, nlb, ..Default::default() };
        list.extend_from_slice(range.as_bytes());
        list.resize(list.len().next_multiple_of(length), 0);
    }
    (command(nvm::COPY, 3, u32::from(format) << 8 | (ranges.len() - 1) as u32), list)
}

/// An export with a namespace of another size, one of another drive, and one with other blocks.
fn several() -> ExportView {
    let mut view = ExportView { copy_formats: 0xf, ..view() };
    let first = view.namespaces[0].clone();
    view.namespaces[1] = NamespaceView { drive_nsid: 8, blocks: 2000, ..view.namespaces[1].clone() };
    view.namespaces.push(NamespaceView { nsid: 12, drive: 2, ..first.clone() });
    view.namespaces.push(NamespaceView { nsid: 13, format: BlockFormat::plain(4096), ..first });
    view
}

#[test]
fn what_is_copied_from_other_namespaces_is_within_them_and_they_are_called_as_the_drive_does() {
    let view = several();
    for format in [2, 3] {
        let length = copy::descriptor_length(format).unwrap() as usize;
        let check = |ranges: &[(u32, u64, u16)]| {
            let (entry, mut list) = copy_across(format, ranges);
            listed_by(&view, BY, &entry, &mut list).map(|()| list)
        };
        let list = check(&[(4, 1999, 0), (3, 992, 7), (9, 0, 99)]).unwrap();
        let (_, there) = copy_across(format, &[(8, 1999, 0), (7, 992, 7), (2, 0, 99)]);
        assert!(list == there, "format {format}, ranges of {length} bytes");
        let outside = Err(Status::LBA_OUT_OF_RANGE.with_dnr());
        assert_eq!(check(&[(3, 0, 0), (4, 1999, 1)]), outside);
        assert_eq!(check(&[(3, 999, 1)]), outside);
        assert_eq!(check(&[(4, u64::MAX, 0)]), outside);
        assert_eq!(check(&[(4, 0, 999), (4, 0, 0)]), outside, "the destination is as long as all sources");
        for unknown in [0, 2, 5, 7, 8, BROADCAST] {
            assert_eq!(check(&[(3, 0, 0), (unknown, 0, 0)]), Err(NO_NAMESPACE), "source {unknown}");
        }
        for (source, why) in [(12, "of another drive"), (13, "with blocks of another size")] {
            let incompatible = Err(Status::INCOMPATIBLE_NAMESPACE_OR_FORMAT.with_dnr());
            assert_eq!(check(&[(source, 0, 0)]), incompatible, "{why}");
        }
    }
}

#[test]
fn copies_from_other_namespaces_need_host_and_drives_that_have_enabled_them() {
    let (entry, list) = copy_across(2, &[(4, 0, 0)]);
    let check = |drives, host| {
        let view = ExportView { copy_formats: drives, ..several() };
        listed_by(&view, ListedBy { copy_formats: host, ..BY }, &entry, &mut list.clone())
    };
    assert_eq!(check(1 << 2, 1 << 2), Ok(()));
    for (drives, host) in [(0xf, 0), (0b1011, 0xf), (0xf, 1 << 3)] {
        assert_eq!(check(drives, host), Err(Status::INVALID_FIELD.with_dnr()), "{drives:#x}, {host:#x}");
    }
    let longer = list.len() as u32 + 32;
    assert_eq!(several().admit(&entry, longer, &open()), Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr()));
}

#[test]
fn nobody_copies_from_a_namespace_that_is_reserved_for_others() {
    let (entry, list) = copy_across(2, &[(3, 0, 0), (4, 0, 0)]);
    let mut view = several();
    view.guards = vec![(4, Arc::new(Guard::exclusive(1)))];
    let check = |host| listed_by(&view, ListedBy { host, ..BY }, &entry, &mut list.clone());
    assert_eq!(check(1), Ok(()));
    assert_eq!(check(2), Err(Status::RESERVATION_CONFLICT.with_dnr()));
}

#[test]
fn a_copy_from_other_namespaces_counts_as_a_command_to_all_of_its_drive() {
    let (entry, list) = copy_across(2, &[(4, 0, 0)]);
    let admitted = several().admit(&entry, list.len() as u32, &open()).unwrap();
    assert_eq!((admitted.handling, admitted.queue, admitted.nsid), (Handling::Across, 6, 7));
    assert!([None, Some(7), Some(8)].into_iter().all(|nsid| admitted.reaches(1, nsid)));
    assert!(!admitted.reaches(2, Some(7)));
    let own = admit(&command(nvm::READ, 3, 0), 512).unwrap();
    assert!(own.reaches(1, Some(7)) && own.reaches(1, None) && !own.reaches(1, Some(8)));
}
