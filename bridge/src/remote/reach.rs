//! How much of a drive an admin command is about, and so which exports may have it.

use gangway_spec::command::{NSID_BROADCAST, SubmissionQueueEntry};
use gangway_spec::feature::{feature_id, fid};
use gangway_spec::log::{GetLogPage, lid};
use gangway_spec::opcode::{FIRST_VENDOR_ADMIN, admin};

use crate::admission::ExportView;

/// FNA: a Format that erases nothing securely is of all namespaces (NVMe Base 2.0, figure 275).
const FORMATS_ALL: u8 = 1 << 0;
/// FNA: a secure erase as part of a Format is of all namespaces.
const ERASES_ALL: u8 = 1 << 1;

/// SEL of Namespace Management: delete. SEL of Namespace Attachment: detach.
const TAKES_AWAY: u32 = 1;

/// How much of a drive a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The namespace that it names, or nothing that a namespace has.
    Namespace,
    /// All that the drive has, exported or not.
    Drive,
    /// Which namespaces there are.
    Inventory,
}

impl Reach {
    /// What commands of an opcode may be about. What a vendor's does is not known.
    pub(crate) fn of_opcode(opcode: u8) -> Self {
        match opcode {
            admin::SANITIZE
            | admin::SECURITY_SEND
            | admin::SECURITY_RECEIVE
            | admin::FIRMWARE_IMAGE_DOWNLOAD
            | admin::FIRMWARE_COMMIT
            | FIRST_VENDOR_ADMIN.. => Reach::Drive,
            admin::NAMESPACE_MANAGEMENT | admin::NAMESPACE_ATTACHMENT => Reach::Inventory,
            _ => Reach::Namespace,
        }
    }

    /// What a log page is about, whatever NSID it is read with. That of persistent events tells what became of every
    /// namespace; what a drive collects as telemetry, or a vendor shows, is not known.
    pub(crate) fn of_log_page(id: u8) -> Self {
        match id {
            lid::PERSISTENT_EVENT | lid::TELEMETRY_HOST | lid::TELEMETRY_CONTROLLER | 0xc0.. => Reach::Drive,
            _ => Reach::Namespace,
        }
    }

    /// What Set Features of a feature changes. Those of the drive take any NSID for all (NVMe Base 2.0, 5.27.1).
    pub(crate) fn of_feature(id: u8) -> Self {
        match id {
            fid::LBA_RANGE_TYPE | fid::ERROR_RECOVERY | fid::NAMESPACE_WRITE_PROTECTION => Reach::Namespace,
            _ => Reach::Drive,
        }
    }

    /// What Format NVM is about on a drive of these attributes, in the worst case.
    pub(crate) fn of_format(fna: u8) -> Self {
        if fna & (FORMATS_ALL | ERASES_ALL) != 0 { Reach::Drive } else { Reach::Namespace }
    }

    /// What a command is about. `changes`: it changes the drive. `fna`: what the drive says of Format NVM.
    pub(crate) fn of(entry: &SubmissionQueueEntry, changes: bool, fna: u8) -> Self {
        match Self::of_opcode(entry.opcode) {
            Reach::Namespace if changes && matches!(entry.nsid.get(), 0 | NSID_BROADCAST) => Reach::Drive,
            Reach::Namespace if altered(entry, fna) == Some(Altered::All) => Reach::Drive,
            Reach::Namespace if entry.opcode == admin::GET_LOG_PAGE => {
                Self::of_log_page(GetLogPage::from(entry).lid)
            }
            Reach::Namespace if entry.opcode == admin::SET_FEATURES => Self::of_feature(feature_id(entry)),
            reach => reach,
        }
    }

    /// Whether hosts of an export may have such a command.
    pub(crate) fn is_within(self, view: &ExportView) -> bool {
        match self {
            Reach::Namespace => true,
            // Who sees the whole drive sees what is made, too.
            Reach::Drive | Reach::Inventory => view.whole,
        }
    }
}

/// Namespaces whose blocks a command gives another meaning, or takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Altered {
    /// The one that has this NSID on the drive.
    One(u32),
    /// All of the drive.
    All,
}

impl Altered {
    fn named(nsid: u32) -> Self {
        // What a drive takes 0 for is not known.
        if matches!(nsid, 0 | NSID_BROADCAST) { Altered::All } else { Altered::One(nsid) }
    }
}

/// What a command alters, if it is one that does.
pub(crate) fn altered(entry: &SubmissionQueueEntry, fna: u8) -> Option<Altered> {
    let cdw10 = entry.cdw10.get();
    let named = Altered::named(entry.nsid.get());
    match entry.opcode {
        admin::FORMAT_NVM => {
            let erases = cdw10 >> 9 & 0x7 != 0;
            let all = fna & if erases { ERASES_ALL } else { FORMATS_ALL } != 0;
            Some(if all { Altered::All } else { named })
        }
        admin::NAMESPACE_MANAGEMENT | admin::NAMESPACE_ATTACHMENT if cdw10 & 0xf == TAKES_AWAY => Some(named),
        _ => None,
    }
}

/// Whether commands of an opcode may change more than what a namespace says of itself: hosts have them in turn.
pub(crate) fn is_about_more(opcode: u8) -> bool {
    Reach::of_opcode(opcode) != Reach::Namespace || opcode == admin::FORMAT_NVM
}

/// Whether a command is Namespace Management that deletes.
pub(crate) fn deletes(entry: &SubmissionQueueEntry) -> bool {
    entry.opcode == admin::NAMESPACE_MANAGEMENT && entry.cdw10.get() & 0xf == TAKES_AWAY
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(opcode: u8, nsid: u32, cdw10: u32) -> SubmissionQueueEntry {
        let mut entry = SubmissionQueueEntry::new(opcode);
        entry.nsid = nsid.into();
        entry.cdw10 = cdw10.into();
        entry
    }

    #[test]
    fn what_is_about_the_whole_drive_is_known_as_such() {
        let reach = |opcode, cdw10, nsid| Reach::of(&entry(opcode, nsid, cdw10), true, 0);
        for opcode in [admin::SANITIZE, admin::SECURITY_SEND, admin::SECURITY_RECEIVE, 0xc0, 0xff - 3] {
            assert_eq!(reach(opcode, 0, 1), Reach::Drive, "{opcode:#x}");
        }
        assert_eq!(reach(admin::DEVICE_SELF_TEST, 0, NSID_BROADCAST), Reach::Drive);
        assert_eq!(reach(admin::DEVICE_SELF_TEST, 0, 1), Reach::Namespace);
        assert_eq!(reach(admin::SET_FEATURES, fid::ERROR_RECOVERY.into(), NSID_BROADCAST), Reach::Drive);
        assert_eq!(reach(admin::SET_FEATURES, fid::ERROR_RECOVERY.into(), 1), Reach::Namespace);
        for id in [fid::VOLATILE_WRITE_CACHE, fid::POWER_MANAGEMENT, fid::READ_RECOVERY_LEVEL, 0xc0, 0xff] {
            for nsid in [0, 1, NSID_BROADCAST] {
                assert_eq!(reach(admin::SET_FEATURES, id.into(), nsid), Reach::Drive, "{id:#x} of {nsid:#x}");
            }
        }
        assert_eq!(reach(admin::FIRMWARE_COMMIT, 0, 0), Reach::Drive);
        assert_eq!(reach(admin::NAMESPACE_MANAGEMENT, 0, 0), Reach::Inventory);
        for nsid in [1, NSID_BROADCAST] {
            let log = |id: u8| Reach::of(&entry(admin::GET_LOG_PAGE, nsid, id.into()), false, 0);
            assert_eq!(log(lid::SMART), Reach::Namespace);
            for id in [lid::PERSISTENT_EVENT, lid::TELEMETRY_HOST, lid::TELEMETRY_CONTROLLER, 0xc0, 0xff] {
                assert_eq!(log(id), Reach::Drive, "log page {id:#x} of {nsid:#x}");
            }
        }
    }

    #[test]
    fn a_format_is_of_one_namespace_unless_the_drive_knows_no_other_than_of_all() {
        let secure = 1 << 9;
        for (fna, cdw10, nsid, expected) in [
            (0, 0, 3, Altered::One(3)),
            (0, secure, 3, Altered::One(3)),
            (0, 0, NSID_BROADCAST, Altered::All),
            (FORMATS_ALL, 0, 3, Altered::All),
            (FORMATS_ALL, secure, 3, Altered::One(3)),
            (ERASES_ALL, 0, 3, Altered::One(3)),
            (ERASES_ALL, secure, 3, Altered::All),
        ] {
            let format = entry(admin::FORMAT_NVM, nsid, cdw10);
            assert_eq!(altered(&format, fna), Some(expected), "{fna:#x} {cdw10:#x} {nsid:#x}");
            let reach = Reach::of(&format, true, fna);
            assert_eq!(reach == Reach::Drive, expected == Altered::All);
        }
        assert_eq!(Reach::of_format(0), Reach::Namespace);
        assert_eq!(Reach::of_format(ERASES_ALL), Reach::Drive);
    }

    #[test]
    fn only_what_takes_away_keeps_io_out() {
        for (opcode, sel, expected) in [
            (admin::NAMESPACE_MANAGEMENT, 0, None),
            (admin::NAMESPACE_MANAGEMENT, 1, Some(Altered::One(2))),
            (admin::NAMESPACE_ATTACHMENT, 0, None),
            (admin::NAMESPACE_ATTACHMENT, 1, Some(Altered::One(2))),
            (admin::SET_FEATURES, 1, None),
        ] {
            assert_eq!(altered(&entry(opcode, 2, sel), 0), expected);
        }
    }

    #[test]
    fn what_is_about_more_than_a_namespace_is_for_who_sees_the_whole_drive() {
        let view = |whole| ExportView { whole, ..ExportView::default() };
        for (reach, part) in [(Reach::Namespace, true), (Reach::Drive, false), (Reach::Inventory, false)] {
            let within = [view(false), view(true)].map(|view| reach.is_within(&view));
            assert_eq!(within, [part, true], "{reach:?}");
        }
    }
}
