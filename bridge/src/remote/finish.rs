//! What the drive answered, as the host gets it.

use gangway_spec::identify::{CommandSetIndependentNamespace, IdentifyController, IdentifyNamespace};
use gangway_spec::opcode::admin;
use zerocopy::FromBytes;

use super::decide::Finish;
use super::identity::{self, Identity};
use super::{attachment, command_sets, common, namespaces};
use crate::drive::Drive;
use crate::export::{Export, Identifiers, identifiers};
use crate::policy::table::{self, Place};
use crate::reservation::is_reservation;

/// Applies `finish` to the data of a successful command that went to this drive, with this NSID as the host gave it.
pub(super) fn data(
    finish: Finish,
    mut data: Vec<u8>,
    identity: &Identity<'_>,
    export: &Export,
    (drive, nsid): (&Drive, u32),
) -> Vec<u8> {
    match finish {
        Finish::AsItIs
        | Finish::FeatureCapabilities { .. }
        | Finish::CommandSets
        | Finish::Telemetry
        | Finish::NamespaceStructure
        | Finish::Allocated
        | Finish::Controllers { .. }
        | Finish::CreatedNamespace
        | Finish::ActiveNamespaces { .. } => {}
        Finish::Zeroes => data.fill(0),
        Finish::Controller => {
            if let Ok(structure) = IdentifyController::mut_from_bytes(&mut data) {
                common::narrow_to_all(structure, export);
                identity::controller(structure, identity);
            }
        }
        Finish::AttachedControllers { first } => {
            let own = drive.info().identify.cntlid.get();
            return attachment::to_host(&data, identity.cntlid, own, first);
        }
        Finish::Namespace | Finish::AllocatedNamespace => {
            if let Ok(structure) = IdentifyNamespace::mut_from_bytes(&mut data) {
                identity::namespace(structure, export.read_only, identity.rescap);
                if export.identifiers == Identifiers::Derived {
                    (structure.nguid, structure.eui64) = Default::default();
                }
            }
        }
        Finish::Descriptors => {
            if let Some(uuid) = identity.view.namespace(nsid).and_then(|shown| shown.ids.derived) {
                data = identifiers::descriptors(&data, uuid);
            }
            if command_sets::offered(export) {
                command_sets::complete(&mut data);
            }
        }
        Finish::IndependentNamespace => {
            if let Ok(structure) = CommandSetIndependentNamespace::mut_from_bytes(&mut data) {
                identity::independent_namespace(structure, export.read_only, identity.rescap);
            }
        }
        Finish::ErrorLog { .. } => namespaces::translate_errors(identity.view, drive.index(), &mut data),
        Finish::SelfTestLog { .. } => {
            namespaces::translate_self_tests(identity.view, drive.index(), &mut data)
        }
        Finish::EffectsLog { offset, csi } => refuse_in_effects(identity, csi, &mut data, offset),
        Finish::SupportedLogPages { offset } => correct_log_pages(identity, &mut data, offset),
    }
    data
}

/// CSUPP of a dword of the Commands Supported and Effects log page, LSUPP of one of the Supported Log Pages.
const SUPPORTED: u32 = 1;

/// Commands Supported and Effects: 256 dwords for admin commands, 256 for I/O commands. Clearing CSUPP (bit 0) and the
/// rest of a dword says that the command is not supported. What is done here is supported, whatever the drive says.
fn refuse_in_effects(identity: &Identity<'_>, csi: u8, data: &mut [u8], offset: u64) {
    for (index, dword) in data.chunks_exact_mut(4).enumerate() {
        let index = offset / 4 + index as u64;
        let open = match index {
            0..=255 => identity.opens(index as u8),
            256..=511 => identity.opens_io(csi, (index - 256) as u8),
            _ => true,
        };
        if !open {
            dword.fill(0);
        } else if index == u64::from(admin::KEEP_ALIVE) || index >= 256 && is_reservation((index - 256) as u8)
        {
            dword.copy_from_slice(&SUPPORTED.to_le_bytes());
        }
    }
}

/// Supported Log Pages: a dword per log page. Those that are kept here are supported, whatever the drive says.
fn correct_log_pages(identity: &Identity<'_>, data: &mut [u8], offset: u64) {
    for (index, dword) in data.chunks_exact_mut(4).enumerate() {
        let Ok(id) = u8::try_from(offset / 4 + index as u64) else { return };
        if !identity.reads(id) {
            dword.fill(0);
        } else if matches!(table::log_page(id), Place::Here(_)) {
            dword.copy_from_slice(&SUPPORTED.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::ExportView;
    use crate::policy::Policy;
    use gangway_spec::identify::csi;
    use gangway_spec::log::lid;
    use gangway_spec::opcode::{nvm, zns};
    use gangway_spec::registers::Version;
    use gangway_spec::reservation::Rescap;

    /// Has `change` correct a page for hosts of a policy. `whole`: they see a whole drive.
    fn with_identity(policy: &Policy, whole: bool, change: impl FnOnce(&Identity<'_>)) {
        let view = ExportView { whole, ..ExportView::default() };
        let subsystem = "nqn.2014-08.org.example:drive".parse().unwrap();
        let (cntlid, version) = (1, Version::V1_4);
        let rescap = Rescap::all();
        let identity =
            Identity { cntlid, subsystem: &subsystem, version, view: &view, policy, fna: 0, rescap };
        change(&identity);
    }

    /// What becomes of a Commands Supported and Effects log of ones.
    fn effects((policy, whole): (&Policy, bool), csi: u8, length: usize, offset: u64) -> Vec<u8> {
        let mut page = vec![0xff; length];
        with_identity(policy, whole, |identity| refuse_in_effects(identity, csi, &mut page, offset));
        page
    }

    fn policy(items: &[&str]) -> Policy {
        Policy::new(items.iter().map(|item| item.parse().unwrap()), [])
    }

    #[test]
    fn the_effects_log_promises_exactly_the_io_commands_that_are_open() {
        let policy = Policy::new(["io:c1h".parse().unwrap()], ["io:09h".parse().unwrap()]);
        for (set, zones) in [(csi::NVM, false), (csi::ZONED_NAMESPACE, true)] {
            let page = effects((&policy, true), set, 4096, 0);
            let open = |opcode: u8| page[1024 + usize::from(opcode) * 4..][..4] == [0xff; 4];
            assert!(open(nvm::READ) && open(nvm::COPY) && !open(nvm::DATASET_MANAGEMENT));
            assert!(open(0xc1) && !open(0xc2) && !open(nvm::RESERVATION_REGISTER));
            assert_eq!((open(zns::ZONE_APPEND), open(zns::ZONE_MANAGEMENT_SEND)), (zones, zones));
        }
        let page = effects((&policy, false), csi::NVM, 4096, 0);
        assert_eq!(page[1024 + 0xc1 * 4..][..4], [0; 4], "it is about more than is shown");
    }

    #[test]
    fn refused_commands_are_not_promised_wherever_the_log_is_read_from() {
        let at = |opcode: u8| usize::from(opcode) * 4;
        let looks = policy(&["inspect"]);
        let page = effects((&looks, true), csi::NVM, 2048, 0);
        assert_eq!(page[at(admin::FORMAT_NVM)..][..4], [0; 4]);
        assert_eq!(page[at(admin::IDENTIFY)..][..4], [0xff; 4]);
        let piece = effects((&looks, true), csi::NVM, 4, at(admin::FORMAT_NVM) as u64);
        assert_eq!(piece, [0; 4]);
        let page = effects((&policy(&["inspect", "vendor"]), true), csi::NVM, 2048, 0);
        assert_eq!(
            (&page[at(0xc0)..][..4], &page[at(admin::SANITIZE)..][..4]),
            (&[0xff; 4][..], &[0; 4][..])
        );
    }

    #[test]
    fn what_is_about_namespaces_that_are_not_shown_is_not_promised() {
        let at = |opcode: u8| usize::from(opcode) * 4;
        let everything = policy(&["inspect", "manage", "vendor"]);
        let [whole, part] = [true, false].map(|whole| effects((&everything, whole), csi::NVM, 2048, 0));
        for opcode in [0xc0, admin::SANITIZE, admin::NAMESPACE_MANAGEMENT, admin::NAMESPACE_ATTACHMENT] {
            assert_eq!(whole[at(opcode)..][..4], [0xff; 4], "{opcode:#x}");
            assert_eq!(part[at(opcode)..][..4], [0; 4], "{opcode:#x}");
        }
        assert_eq!(part[at(admin::FORMAT_NVM)..][..4], [0xff; 4], "of one namespace");
    }

    #[test]
    fn the_supported_log_pages_are_those_of_the_drive_that_are_open_and_those_that_are_kept_here() {
        let pages = |whole, drives: u8, offset: u64| {
            let mut page = vec![drives; 1024 - offset as usize];
            let open = policy(&["inspect", "tune"]);
            with_identity(&open, whole, |identity| correct_log_pages(identity, &mut page, offset));
            page
        };
        let of = |page: &[u8], id: u8| page[usize::from(id) * 4..][..4].to_vec();
        for (whole, drives) in [(true, 0xff), (false, 0xff), (true, 0)] {
            let page = pages(whole, drives, 0);
            assert_eq!(of(&page, lid::SMART), [drives; 4]);
            assert_eq!(of(&page, lid::TELEMETRY_HOST), [if whole { drives } else { 0 }; 4]);
            for id in [lid::CHANGED_NAMESPACES, lid::RESERVATION_NOTIFICATION] {
                assert_eq!(of(&page, id), SUPPORTED.to_le_bytes(), "log page {id:#x}");
            }
            for id in [lid::ANA, lid::DISCOVERY, 0xc0] {
                assert_eq!(of(&page, id), [0; 4], "log page {id:#x}");
            }
            let at = usize::from(lid::RESERVATION_NOTIFICATION) * 4;
            assert_eq!(pages(whole, drives, at as u64), page[at..], "wherever it is read from");
        }
    }
}
