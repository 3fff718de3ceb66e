//! What the drive answered, as the host gets it.

use gangway_spec::identify::{CommandSetIndependentNamespace, IdentifyController, IdentifyNamespace};
use gangway_spec::opcode::{admin, nvm};
use zerocopy::FromBytes;

use super::decide::{self, Finish};
use super::identity::{self, Identity};
use super::namespaces;
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
        Finish::EffectsLog { offset } => {
            refuse_in_effects(identity.policy, identity.view.whole, &mut data, offset)
        }
        Finish::SupportedLogPages { offset } => refuse_in_log_pages(identity.policy, &mut data, offset),
    }
    data
}

/// CSUPP of a dword of the Commands Supported and Effects log page.
const SUPPORTED: u32 = 1;

/// Commands Supported and Effects: 256 dwords for admin commands, 256 for I/O commands. Clearing CSUPP (bit 0) and the
/// rest of a dword says that the command is not supported. Keep Alive is supported here, whatever the drive says.
fn refuse_in_effects(policy: &Policy, whole_drive: bool, data: &mut [u8], offset: u64) {
    for (index, dword) in data.chunks_exact_mut(4).enumerate() {
        let index = offset / 4 + index as u64;
        let open = match index {
            0..=255 => decide::admin_opcode_is_open(policy, index as u8, whole_drive),
            256..=511 => io_opcode_is_open((index - 256) as u8),
            _ => true,
        };
        if !open {
            dword.fill(0);
        } else if index == u64::from(admin::KEEP_ALIVE) {
            dword.copy_from_slice(&SUPPORTED.to_le_bytes());
        }
    }
}

fn io_opcode_is_open(opcode: u8) -> bool {
    // An opcode is open when admission finds anything but "no such opcode" to say about it.
    matches!(
        opcode,
        nvm::FLUSH
            | nvm::WRITE
            | nvm::READ
            | nvm::WRITE_UNCORRECTABLE
            | nvm::COMPARE
            | nvm::WRITE_ZEROES
            | nvm::DATASET_MANAGEMENT
            | nvm::VERIFY
            | nvm::COPY
    )
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
    use crate::admission::{ExportView, NamespaceIds, NamespaceView};
    use gangway_spec::command::SubmissionQueueEntry;
    use gangway_spec::nvm::BlockFormat;
    use gangway_spec::status::Status;

    #[test]
    fn the_effects_log_promises_exactly_the_io_commands_that_admission_knows() {
        let format = BlockFormat::plain(512);
        let namespace = NamespaceView {
            nsid: 1,
            drive: 0,
            drive_nsid: 1,
            queue: 0,
            csi: gangway_spec::identify::csi::NVM,
            format,
            ids: NamespaceIds::default(),
            read_only: false,
        };
        let view = ExportView { namespaces: vec![namespace], max_transfer: 4096, ..ExportView::default() };
        for opcode in 0..=255 {
            let mut entry = SubmissionQueueEntry::new(opcode);
            entry.nsid = 1.into();
            let known = view.admit(&entry, 1) != Err(Status::INVALID_OPCODE.with_dnr());
            assert_eq!(io_opcode_is_open(opcode), known, "opcode {opcode:#x}");
        }
    }

    #[test]
    fn refused_commands_are_not_promised_wherever_the_log_is_read_from() {
        let mut page = vec![0xff; 2048];
        let policy = Policy::default();
        refuse_in_effects(&policy, true, &mut page, 0);
        let at = |opcode: u8| usize::from(opcode) * 4;
        assert_eq!(page[at(admin::FORMAT_NVM)..][..4], [0; 4]);
        assert_eq!(page[at(admin::IDENTIFY)..][..4], [0xff; 4]);
        let mut piece = vec![0xff; 4];
        refuse_in_effects(&policy, true, &mut piece, at(admin::FORMAT_NVM) as u64);
        assert_eq!(piece, [0; 4]);

        let mut page = vec![0xff; 2048];
        refuse_in_effects(
            &Policy::new(["inspect", "vendor"].map(|class| class.parse().unwrap()), []),
            true,
            &mut page,
            0,
        );
        assert_eq!(
            (&page[at(0xc0)..][..4], &page[at(admin::SANITIZE)..][..4]),
            (&[0xff; 4][..], &[0; 4][..])
        );
        refuse_in_effects(&Policy::default(), false, &mut page, 0);
        assert_eq!(page[at(0xc0)..][..4], [0; 4], "it is about namespaces that are not shown");
    }
}
