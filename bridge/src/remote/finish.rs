//! What the drive answered, as the host gets it.

use gangway_spec::identify::{CommandSetIndependentNamespace, IdentifyController, IdentifyNamespace};
use gangway_spec::opcode::{FIRST_VENDOR_IO, admin};
use zerocopy::FromBytes;

use super::decide::{self, Finish};
use super::identity::{self, Identity};
use super::namespaces;
use crate::admission::is_known;
use crate::export::Export;
use crate::policy::Policy;

/// Applies `finish` to the data of a successful command that went to this drive.
pub(super) fn data(
    finish: Finish,
    mut data: Vec<u8>,
    identity: &Identity<'_>,
    export: &Export,
    drive: usize,
) -> Vec<u8> {
    match finish {
        Finish::AsItIs
        | Finish::FeatureCapabilities { .. }
        | Finish::Descriptors
        | Finish::Telemetry
        | Finish::NamespaceStructure
        | Finish::ActiveNamespaces { .. } => {}
        Finish::Zeroes => data.fill(0),
        Finish::Controller => {
            if let Ok(structure) = IdentifyController::mut_from_bytes(&mut data) {
                identity::controller(structure, identity);
            }
        }
        Finish::Namespace => {
            if let Ok(structure) = IdentifyNamespace::mut_from_bytes(&mut data) {
                identity::namespace(structure, export.read_only);
            }
        }
        Finish::IndependentNamespace => {
            if let Ok(structure) = CommandSetIndependentNamespace::mut_from_bytes(&mut data) {
                identity::independent_namespace(structure, export.read_only);
            }
        }
        Finish::ErrorLog { .. } => namespaces::translate_errors(identity.view, drive, &mut data),
        Finish::SelfTestLog { .. } => namespaces::translate_self_tests(identity.view, drive, &mut data),
        Finish::EffectsLog { offset, csi } => {
            refuse_in_effects((identity.policy, identity.view.whole), csi, &mut data, offset)
        }
        Finish::SupportedLogPages { offset } => refuse_in_log_pages(identity.policy, &mut data, offset),
    }
    data
}

/// CSUPP of a dword of the Commands Supported and Effects log page.
const SUPPORTED: u32 = 1;

/// Commands Supported and Effects: 256 dwords for admin commands, 256 for I/O commands. Clearing CSUPP (bit 0) and the
/// rest of a dword says that the command is not supported. Keep Alive is supported here, whatever the drive says.
fn refuse_in_effects((policy, whole_drive): (&Policy, bool), csi: u8, data: &mut [u8], offset: u64) {
    for (index, dword) in data.chunks_exact_mut(4).enumerate() {
        let index = offset / 4 + index as u64;
        let open = match index {
            0..=255 => decide::admin_opcode_is_open(policy, index as u8, whole_drive),
            256..=511 => io_opcode_is_open((policy, whole_drive), csi, (index - 256) as u8),
            _ => true,
        };
        if !open {
            dword.fill(0);
        } else if index == u64::from(admin::KEEP_ALIVE) {
            dword.copy_from_slice(&SUPPORTED.to_le_bytes());
        }
    }
}

/// Whether a host can use an I/O command of a command set.
fn io_opcode_is_open((policy, whole_drive): (&Policy, bool), csi: u8, opcode: u8) -> bool {
    policy.io(opcode) && (is_known(csi, opcode) || opcode >= FIRST_VENDOR_IO && whole_drive)
}

/// Supported Log Pages: a dword per log page.
fn refuse_in_log_pages(policy: &Policy, data: &mut [u8], offset: u64) {
    for (index, dword) in data.chunks_exact_mut(4).enumerate() {
        let id = offset / 4 + index as u64;
        if id < 256 && !decide::log_page_is_open(policy, id as u8) {
            dword.fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gangway_spec::identify::csi;
    use gangway_spec::opcode::{nvm, zns};

    #[test]
    fn the_effects_log_promises_exactly_the_io_commands_that_are_open() {
        let policy = Policy::new(["io:c1h".parse().unwrap()], ["io:09h".parse().unwrap()]);
        for (set, zones) in [(csi::NVM, false), (csi::ZONED_NAMESPACE, true)] {
            let mut page = vec![0xff; 4096];
            refuse_in_effects((&policy, true), set, &mut page, 0);
            let open = |opcode: u8| page[1024 + usize::from(opcode) * 4..][..4] == [0xff; 4];
            assert!(open(nvm::READ) && open(nvm::COPY) && !open(nvm::DATASET_MANAGEMENT));
            assert!(open(0xc1) && !open(0xc2) && !open(nvm::RESERVATION_REGISTER));
            assert_eq!((open(zns::ZONE_APPEND), open(zns::ZONE_MANAGEMENT_SEND)), (zones, zones));
        }
        assert!(!io_opcode_is_open((&policy, false), csi::NVM, 0xc1), "it is about more than is shown");
    }

    #[test]
    fn refused_commands_are_not_promised_wherever_the_log_is_read_from() {
        let mut page = vec![0xff; 2048];
        let policy = Policy::default();
        refuse_in_effects((&policy, true), csi::NVM, &mut page, 0);
        let at = |opcode: u8| usize::from(opcode) * 4;
        assert_eq!(page[at(admin::FORMAT_NVM)..][..4], [0; 4]);
        assert_eq!(page[at(admin::IDENTIFY)..][..4], [0xff; 4]);
        let mut piece = vec![0xff; 4];
        refuse_in_effects((&policy, true), csi::NVM, &mut piece, at(admin::FORMAT_NVM) as u64);
        assert_eq!(piece, [0; 4]);

        let mut page = vec![0xff; 2048];
        refuse_in_effects(
            (&Policy::new(["inspect", "vendor"].map(|class| class.parse().unwrap()), []), true),
            csi::NVM,
            &mut page,
            0,
        );
        assert_eq!(
            (&page[at(0xc0)..][..4], &page[at(admin::SANITIZE)..][..4]),
            (&[0xff; 4][..], &[0; 4][..])
        );
        refuse_in_effects((&Policy::default(), false), csi::NVM, &mut page, 0);
        assert_eq!(page[at(0xc0)..][..4], [0; 4], "it is about namespaces that are not shown");
    }
}
