//! I/O command sets besides NVM: what a controller says of those that its namespaces belong to.
//!
//! A controller has command sets when one of its export's drives has them. What is about the controller is said here, from
//! what is shown; what is about a namespace its drive says, and what a drive without command sets does not say of its
//! namespaces, is added.

use std::sync::Arc;

use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::identify::{
    IDENTIFY_LENGTH, NamespaceIdDescriptor, NamespaceIdDescriptorBuilder, cns, csi,
};
use gangway_spec::registers::ControllerCapabilities;
use gangway_spec::status::Status;
use gangway_spec::zns::IdentifyZonedController;
use zerocopy::IntoBytes;

use super::common;
use crate::admission::ExportView;
use crate::drive::Drive;
use crate::export::Export;

const INVALID_FIELD: Status = Status::INVALID_FIELD.with_dnr();
/// The controller identifier that stands for the controller which is asked.
const THIS_CONTROLLER: u16 = 0xffff;
/// The unit of ZASL: the smallest memory page.
const PAGE: u32 = 4096;

/// Whether a drive has I/O command sets besides NVM.
pub(super) fn on_drive(drive: &Drive) -> bool {
    drive.info().capabilities.css() & ControllerCapabilities::CSS_IO_COMMAND_SETS != 0
}

/// Whether the controllers of an export have them.
pub(super) fn offered(export: &Export) -> bool {
    export.drives().iter().any(|drive| on_drive(drive))
}

/// CAP.CSS.
pub(super) fn capability(export: &Export) -> u8 {
    let more = if offered(export) { ControllerCapabilities::CSS_IO_COMMAND_SETS } else { 0 };
    ControllerCapabilities::CSS_NVM | more
}

/// What Identify answers here about a command set as a whole; `None` when a drive is to answer it.
///
/// # Errors
/// Invalid Field where the question is about another controller, or about a command set that is not shown.
pub(super) fn identify(
    view: &ExportView,
    drives: &[Arc<Drive>],
    entry: &SubmissionQueueEntry,
    cntlid: u16,
) -> Result<Option<Vec<u8>>, Status> {
    let asked = (entry.cdw10.get() >> 16) as u16;
    match (entry.cdw10.get() as u8, (entry.cdw11.get() >> 24) as u8) {
        // Who has one drive has its own answer.
        (cns::IO_COMMAND_SET_CONTROLLER, csi::NVM) if drives.len() == 1 => Ok(None),
        (cns::IO_COMMAND_SET_CONTROLLER, csi::NVM) => {
            Ok(Some(common::least(drives, None).as_bytes().to_vec()))
        }
        (cns::IO_COMMAND_SET_CONTROLLER, csi::ZONED_NAMESPACE) => Ok(Some(zoned_controller(view))),
        (cns::IO_COMMAND_SET_COMBINATIONS, _) if asked == cntlid || asked == THIS_CONTROLLER => {
            Ok(Some(combinations(view)))
        }
        // Namespaces of other command sets are not shown.
        _ => Err(INVALID_FIELD),
    }
}

/// Identify Controller of the Zoned Namespace Command Set: ZASL, which says that appends are as long as any transfer, or
/// what the least of the drives takes.
fn zoned_controller(view: &ExportView) -> Vec<u8> {
    let mut controller = IdentifyZonedController::default();
    let zoned = view.namespaces.iter().filter(|one| one.csi == csi::ZONED_NAMESPACE);
    let limit = zoned.map(|one| one.zones.append).min().unwrap_or(u32::MAX);
    if limit < view.max_transfer {
        controller.zasl = (limit / PAGE).max(1).ilog2() as u8;
    }
    controller.as_bytes().to_vec()
}

/// The one combination of command sets: those of the namespaces, and NVM.
fn combinations(view: &ExportView) -> Vec<u8> {
    let sets = view.namespaces.iter().fold(1_u64 << csi::NVM, |sets, one| sets | 1 << (one.csi & 63));
    let mut data = vec![0; IDENTIFY_LENGTH];
    data[..8].copy_from_slice(&sets.to_le_bytes());
    data
}

/// Adds the command set to a list of descriptors that does not have it: it is mandatory where there are several
/// (NVMe Base 2.0, 5.17.2.3).
pub(super) fn complete(descriptors: &mut Vec<u8>) {
    let mut list = NamespaceIdDescriptorBuilder::new();
    for descriptor in NamespaceIdDescriptor::parse(descriptors) {
        if descriptor.nidt == NamespaceIdDescriptor::CSI
            || list.push(descriptor.nidt, descriptor.nid).is_err()
        {
            return;
        }
    }
    if list.push(NamespaceIdDescriptor::CSI, &[csi::NVM]).is_ok() {
        *descriptors = list.as_bytes().to_vec();
    }
}

#[cfg(test)]
mod tests {
    use gangway_spec::nvm::BlockFormat;
    use gangway_spec::opcode::admin;
    use zerocopy::FromBytes;

    use super::*;
    use crate::admission::{NamespaceIds, NamespaceView, ZoneLimits};

    fn view(appends: &[u32]) -> ExportView {
        let namespaces = appends.iter().enumerate().map(|(index, append)| NamespaceView {
            nsid: index as u32 + 1,
            drive: 0,
            drive_nsid: index as u32 + 1,
            queue: 0,
            across: 0,
            csi: if *append > 0 { csi::ZONED_NAMESPACE } else { csi::NVM },
            format: BlockFormat::plain(4096),
            blocks: 8,
            zones: ZoneLimits { append: *append, extension: 0 },
            ids: NamespaceIds::default(),
            read_only: false,
        });
        ExportView { namespaces: namespaces.collect(), max_transfer: 1 << 20, ..ExportView::default() }
    }

    fn ask(view: &ExportView, cns: u8, csi: u8, asked: u16) -> Result<Option<Vec<u8>>, Status> {
        let mut entry = SubmissionQueueEntry::new(admin::IDENTIFY);
        entry.cdw10.set(u32::from(asked) << 16 | u32::from(cns));
        entry.cdw11.set(u32::from(csi) << 24);
        identify(view, &[], &entry, 7)
    }

    #[test]
    fn the_limit_of_appends_is_that_of_transfers_unless_a_drive_has_a_smaller_one() {
        for (appends, zasl) in [
            (&[][..], 0),
            (&[0], 0),
            (&[0, 1 << 20], 0),
            (&[4 << 20], 0),
            (&[1 << 20, 64 << 10, 128 << 10], 4),
            (&[8192], 1),
        ] {
            let data = ask(&view(appends), cns::IO_COMMAND_SET_CONTROLLER, csi::ZONED_NAMESPACE, 0);
            let data = data.unwrap().unwrap();
            assert_eq!(IdentifyZonedController::ref_from_bytes(&data).unwrap().zasl, zasl, "{appends:?}");
        }
        assert_eq!(ask(&view(&[]), cns::IO_COMMAND_SET_CONTROLLER, csi::KEY_VALUE, 0), Err(INVALID_FIELD));
    }

    #[test]
    fn the_combination_of_command_sets_is_that_of_the_namespaces_of_this_controller() {
        let ask = |appends: &[u32], asked| {
            let answer = ask(&view(appends), cns::IO_COMMAND_SET_COMBINATIONS, 0, asked);
            answer.map(|data| data.unwrap()[..16].to_vec())
        };
        let vector = |sets: u64| Ok([sets.to_le_bytes(), [0; 8]].concat());
        assert_eq!(ask(&[0], 7), vector(0b001));
        assert_eq!(ask(&[0, 8192], 0xffff), vector(0b101));
        assert_eq!(ask(&[8192], 8), Err(INVALID_FIELD), "another controller");
    }

    #[test]
    fn a_list_of_identifiers_names_the_command_set_once() {
        let mut list = NamespaceIdDescriptorBuilder::new();
        list.push(NamespaceIdDescriptor::NGUID, &[5; 16]).unwrap();
        let mut data = list.as_bytes().to_vec();
        list.push(NamespaceIdDescriptor::CSI, &[csi::NVM]).unwrap();
        complete(&mut data);
        assert_eq!(data, list.as_bytes());
        complete(&mut data);
        assert_eq!(data, list.as_bytes());
    }
}
