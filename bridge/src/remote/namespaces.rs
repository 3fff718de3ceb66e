//! NSIDs in admin commands: hosts name namespaces by the numbers of their export, drives by their own.
//!
//! [`ExportView`] has the table. Lists of namespaces are made from it here, so that hosts see nothing that a drive has
//! besides; what drives say of NSIDs in their logs is translated, or taken out.

use gangway_spec::command::{NSID_BROADCAST, SubmissionQueueEntry};
use gangway_spec::identify::IDENTIFY_LENGTH;
use gangway_spec::log::{ErrorLogEntry, SelfTestResult};
use gangway_spec::opcode::admin;
use gangway_spec::status::Status;
use zerocopy::FromBytes;

use super::decide::Finish;
use crate::admission::ExportView;

/// NSIDs in a list at most.
const LIST_ENTRIES: usize = IDENTIFY_LENGTH / 4;
/// The first NSID that no list can start behind (NVMe Base 2.0, 5.17.2.2).
const LIST_END: u32 = 0xffff_fffe;
/// Bytes before the first result of the Device Self-test log.
const SELF_TEST_HEADER: usize = 4;
/// The NSID of a self-test's result is valid.
const NSID_VALID: u8 = 1 << 0;
/// The NSID and the LBA of a self-test's result are valid.
const PLACE_VALID: u8 = NSID_VALID | 1 << 1;

const NO_SUCH_NAMESPACE: Status = Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr();

/// Where a command goes, by the NSID in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// To the drive that answers what is about the controller, with its NSID as it is.
    Primary,
    /// To this drive, under this NSID.
    Drive { drive: usize, nsid: u32 },
    /// To no namespace: what says which namespaces there are says of this one that it is inactive.
    Inactive,
}

/// Where a command goes.
///
/// # Errors
/// The status of a controller that has no such namespace.
pub(super) fn destination(
    view: &ExportView,
    entry: &SubmissionQueueEntry,
    finish: Finish,
) -> Result<Destination, Status> {
    let nsid = entry.nsid.get();
    if let Finish::EffectsLog { csi, .. } = finish
        && let Some(one) = view.namespaces.iter().find(|one| one.csi == csi)
    {
        // Of a command set the drive knows that has it.
        return Ok(Destination::Drive { drive: one.drive, nsid });
    }
    let of_namespace = match finish {
        Finish::Namespace | Finish::IndependentNamespace | Finish::NamespaceStructure => true,
        Finish::Descriptors => true,
        // What else Identify gives is about the controller, whatever NSID stands there.
        _ if entry.opcode == admin::IDENTIFY => return Ok(Destination::Primary),
        _ => false,
    };
    if let Some(shown) = view.namespace(nsid) {
        return Ok(Destination::Drive { drive: shown.drive, nsid: shown.drive_nsid });
    }
    match finish {
        _ if nsid == 0 || nsid == NSID_BROADCAST => Ok(Destination::Primary),
        // A namespace that is not attached has its number on the drive.
        _ if view.whole && is_for_unattached(entry.opcode) => Ok(Destination::Primary),
        Finish::Descriptors if nsid <= view.nn => Err(Status::INVALID_FIELD.with_dnr()),
        _ if of_namespace && nsid <= view.nn => Ok(Destination::Inactive),
        _ => Err(NO_SUCH_NAMESPACE),
    }
}

/// Whether a command can be about a namespace that is not attached.
fn is_for_unattached(opcode: u8) -> bool {
    matches!(opcode, admin::NAMESPACE_MANAGEMENT | admin::NAMESPACE_ATTACHMENT | admin::FORMAT_NVM)
}

/// A list of the namespaces behind `after`, of one I/O command set if it is named (CNS 02h and 07h).
///
/// # Errors
/// Invalid Namespace or Format when no list can start there.
pub(super) fn active(view: &ExportView, after: u32, csi: Option<u8>) -> Result<Vec<u8>, Status> {
    if after >= LIST_END {
        return Err(NO_SUCH_NAMESPACE);
    }
    let listed =
        view.namespaces.iter().filter(|one| one.nsid > after && csi.is_none_or(|csi| one.csi == csi));
    let mut data = vec![0; IDENTIFY_LENGTH];
    for (place, one) in data.chunks_exact_mut(4).zip(listed.take(LIST_ENTRIES)) {
        place.copy_from_slice(&one.nsid.to_le_bytes());
    }
    Ok(data)
}

/// Whether what a log page of the drive says of namespaces can be translated when it is read like this.
pub(super) fn can_translate(view: &ExportView, finish: Finish) -> bool {
    match finish {
        Finish::ErrorLog { offset } => {
            view.is_plain() || offset.is_multiple_of(size_of::<ErrorLogEntry>() as u64)
        }
        Finish::SelfTestLog { offset } => view.is_plain() || offset == 0,
        _ => true,
    }
}

/// Translates the Error Information log of a drive. What is about namespaces that are not shown does not say where.
pub(super) fn translate_errors(view: &ExportView, drive: usize, data: &mut [u8]) {
    if view.is_plain() {
        return;
    }
    let mut entries = data.chunks_exact_mut(size_of::<ErrorLogEntry>());
    for bytes in &mut entries {
        let Ok(entry) = ErrorLogEntry::mut_from_bytes(bytes) else { continue };
        let nsid = entry.nsid.get();
        if nsid == 0 || nsid == NSID_BROADCAST {
            continue;
        }
        let remote = view.remote_nsid(drive, nsid);
        entry.nsid = remote.unwrap_or(0).into();
        if remote.is_none() {
            entry.lba = 0.into();
            entry.command_specific = 0.into();
        }
    }
    // A piece of an entry may not have its NSID.
    entries.into_remainder().fill(0);
}

/// Translates the Device Self-test log of a drive in the same way.
pub(super) fn translate_self_tests(view: &ExportView, drive: usize, data: &mut [u8]) {
    if view.is_plain() {
        return;
    }
    let start = SELF_TEST_HEADER.min(data.len());
    let mut results = data[start..].chunks_exact_mut(size_of::<SelfTestResult>());
    for bytes in &mut results {
        let Ok(result) = SelfTestResult::mut_from_bytes(bytes) else { continue };
        let nsid = result.nsid.get();
        if result.valid & NSID_VALID == 0 || nsid == NSID_BROADCAST {
            continue;
        }
        match view.remote_nsid(drive, nsid) {
            Some(remote) => result.nsid = remote.into(),
            None => {
                result.valid &= !PLACE_VALID;
                result.nsid = 0.into();
                result.failing_lba = 0.into();
            }
        }
    }
    results.into_remainder().fill(0);
}

#[cfg(test)]
mod tests {
    use gangway_spec::identify::csi;
    use gangway_spec::nvm::BlockFormat;
    use zerocopy::IntoBytes;

    use super::*;
    use crate::admission::{NamespaceIds, NamespaceView, ZoneLimits};

    /// Namespace 2 is namespace 7 of drive 0, namespace 5 is namespace 1 of drive 3.
    fn view() -> ExportView {
        let namespace = |nsid, drive, drive_nsid, csi| NamespaceView {
            nsid,
            drive,
            drive_nsid,
            queue: 0,
            across: 0,
            csi,
            format: BlockFormat::plain(512),
            blocks: 8,
            zones: ZoneLimits::default(),
            ids: NamespaceIds::default(),
            read_only: false,
        };
        let namespaces = vec![namespace(2, 0, 7, csi::NVM), namespace(5, 3, 1, csi::ZONED_NAMESPACE)];
        ExportView { namespaces, nn: 6, ..ExportView::default() }
    }

    fn numbers(list: &[u8]) -> Vec<u32> {
        let numbers = list.chunks(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
        numbers.take_while(|number| *number != 0).collect()
    }

    #[test]
    fn lists_have_the_numbers_of_the_export() {
        let view = view();
        assert_eq!(numbers(&active(&view, 0, None).unwrap()), [2, 5]);
        assert_eq!(numbers(&active(&view, 2, None).unwrap()), [5]);
        assert_eq!(numbers(&active(&view, 5, None).unwrap()), [0; 0]);
        assert_eq!(numbers(&active(&view, 0, Some(csi::ZONED_NAMESPACE)).unwrap()), [5]);
        for after in [LIST_END, u32::MAX] {
            assert_eq!(active(&view, after, None), Err(NO_SUCH_NAMESPACE));
        }
    }

    #[test]
    fn a_list_has_1024_entries_at_most_and_goes_on_behind_the_last() {
        let mut view = view();
        let first = view.namespaces[0].clone();
        view.namespaces = (1..=1500).map(|nsid| NamespaceView { nsid, ..first.clone() }).collect();
        let list = numbers(&active(&view, 0, None).unwrap());
        assert_eq!((list.len(), list[1023]), (1024, 1024));
        assert_eq!(numbers(&active(&view, 1024, None).unwrap()).len(), 476);
    }

    #[test]
    fn commands_go_to_the_drive_of_the_namespace_that_they_name() {
        let view = view();
        let to = |opcode, nsid: u32, finish| {
            let mut entry = SubmissionQueueEntry::new(opcode);
            entry.nsid = nsid.into();
            destination(&view, &entry, finish)
        };
        use Finish::{AsItIs, Controller, Descriptors, IndependentNamespace, Namespace, NamespaceStructure};
        for (nsid, drive, own) in [(2, 0, 7), (5, 3, 1)] {
            let there = Ok(Destination::Drive { drive, nsid: own });
            assert_eq!(to(admin::GET_FEATURES, nsid, AsItIs), there);
            for finish in [Namespace, IndependentNamespace, NamespaceStructure, Descriptors] {
                assert_eq!(to(admin::IDENTIFY, nsid, finish), there);
            }
            assert_eq!(to(admin::IDENTIFY, nsid, Controller), Ok(Destination::Primary));
        }
        // Those of drives that are not shown under these numbers, and those that nobody has.
        for nsid in [1, 3, 4, 6] {
            assert_eq!(to(admin::GET_LOG_PAGE, nsid, AsItIs), Err(NO_SUCH_NAMESPACE));
            assert_eq!(to(admin::IDENTIFY, nsid, Namespace), Ok(Destination::Inactive));
            assert_eq!(to(admin::IDENTIFY, nsid, IndependentNamespace), Ok(Destination::Inactive));
            assert_eq!(to(admin::IDENTIFY, nsid, Descriptors), Err(Status::INVALID_FIELD.with_dnr()));
        }
        for finish in [Namespace, IndependentNamespace, NamespaceStructure, Descriptors] {
            assert_eq!(to(admin::IDENTIFY, 7, finish), Err(NO_SUCH_NAMESPACE), "beyond NN");
        }
        for nsid in [0, NSID_BROADCAST] {
            assert_eq!(to(admin::GET_LOG_PAGE, nsid, AsItIs), Ok(Destination::Primary));
        }
    }

    #[test]
    fn the_error_log_names_namespaces_as_the_export_does_and_not_those_that_are_not_shown() {
        let entry = |nsid: u32| {
            let mut entry = ErrorLogEntry::default();
            entry.error_count.set(9);
            entry.lba.set(1234);
            entry.nsid.set(nsid);
            entry
        };
        let mut data = Vec::new();
        for nsid in [7, 1, 0, NSID_BROADCAST] {
            data.extend_from_slice(entry(nsid).as_bytes());
        }
        data.extend_from_slice(&entry(1).as_bytes()[..24]);
        translate_errors(&view(), 0, &mut data);
        let found: Vec<(u32, u64)> = data
            .chunks_exact(64)
            .map(|bytes| ErrorLogEntry::read_from_bytes(bytes).unwrap())
            .map(|entry| (entry.nsid.get(), entry.lba.get()))
            .collect();
        assert_eq!(found, [(2, 1234), (0, 0), (0, 1234), (NSID_BROADCAST, 1234)]);
        assert_eq!(data[256..], [0; 24]);
    }

    #[test]
    fn the_self_test_log_names_namespaces_as_the_export_does() {
        let result = |nsid: u32, valid| {
            let mut result = SelfTestResult::default();
            result.valid = valid;
            result.nsid.set(nsid);
            result.failing_lba.set(55);
            result
        };
        let mut data = vec![0; SELF_TEST_HEADER];
        for (nsid, valid) in [(7, 0b11), (8, 0b1111), (8, 0)] {
            data.extend_from_slice(result(nsid, valid).as_bytes());
        }
        translate_self_tests(&view(), 0, &mut data);
        let found: Vec<(u32, u8)> = data[SELF_TEST_HEADER..]
            .chunks_exact(28)
            .map(|bytes| SelfTestResult::read_from_bytes(bytes).unwrap())
            .map(|result| (result.nsid.get(), result.valid))
            .collect();
        assert_eq!(found, [(2, 0b11), (0, 0b1100), (8, 0)]);
    }

    #[test]
    fn logs_are_read_by_whole_entries_where_they_are_translated() {
        let (mapped, plain) = (view(), ExportView { whole: true, ..ExportView::default() });
        for (finish, readable) in [
            (Finish::ErrorLog { offset: 128 }, true),
            (Finish::ErrorLog { offset: 4 }, false),
            (Finish::SelfTestLog { offset: 0 }, true),
            (Finish::SelfTestLog { offset: 4 }, false),
            (Finish::AsItIs, true),
        ] {
            assert_eq!(can_translate(&mapped, finish), readable, "{finish:?}");
            assert!(can_translate(&plain, finish));
        }
    }
}
