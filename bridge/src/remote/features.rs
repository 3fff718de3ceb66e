//! Features that are kept here, because they are about the association and not about the drive.

use std::time::Instant;

use gangway_spec::command::{NSID_BROADCAST, SubmissionQueueEntry};
use gangway_spec::feature::{
    HostBehaviorSupport, feature_id, feature_save, feature_select, feature_transfer_length, fid, select,
};
use gangway_spec::nvm::copy::FORMATS_ACROSS;
use gangway_spec::reservation::NotificationMask;
use gangway_spec::status::Status;
use zerocopy::{FromBytes, IntoBytes};

use super::command_sets;
use super::controller::{Action, RemoteController};
use crate::policy::table::{self, Place};
use crate::reservation::Key;

/// Whether a feature is kept here.
pub(super) fn is_ours(entry: &SubmissionQueueEntry) -> bool {
    matches!(table::set_feature(feature_id(entry)), Place::Here(_))
}

/// Set Features of what is kept here.
pub(super) fn set(
    controller: &mut RemoteController,
    entry: &SubmissionQueueEntry,
    data: &[u8],
    now: Instant,
) -> Result<Action, Status> {
    let id = feature_id(entry);
    let value = entry.cdw11.get();
    if is_about_reservations(id) && !controller.policy.reserves() {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    if id == fid::HOST_IDENTIFIER {
        return Err(Status::FEATURE_NOT_CHANGEABLE.with_dnr());
    }
    if feature_save(entry) {
        return Err(Status::FEATURE_NOT_SAVEABLE.with_dnr());
    }
    if data.len() != feature_transfer_length(entry) as usize {
        return Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr());
    }
    match id {
        fid::IO_COMMAND_SET_PROFILE if !has_command_sets(controller) => Err(Status::INVALID_FIELD.with_dnr()),
        // There is one combination of command sets.
        fid::IO_COMMAND_SET_PROFILE if value & 0x1ff != 0 => {
            Err(Status::IO_COMMAND_SET_COMBINATION_REJECTED.with_dnr())
        }
        fid::IO_COMMAND_SET_PROFILE => Ok(Action::result(0)),
        fid::NUMBER_OF_QUEUES => {
            let (submission, completion) = (value as u16, (value >> 16) as u16);
            let limit = controller.export().map_or(0, |export| export.max_io_queues);
            if submission == u16::MAX || completion == u16::MAX || limit == 0 {
                return Err(Status::INVALID_FIELD.with_dnr());
            }
            if controller.association.has_queues() {
                return Err(Status::COMMAND_SEQUENCE_ERROR.with_dnr());
            }
            // Over fabrics a queue is a pair, so the smaller number counts. Both are 0's based.
            controller.association.grant_queues(submission.min(completion) + 1, limit);
            Ok(Action::result(queues(controller)))
        }
        fid::ASYNC_EVENT_CONFIGURATION => {
            controller.events.configure(value);
            Ok(Action::result(0))
        }
        fid::HOST_BEHAVIOR_SUPPORT => {
            // Retry delays, and formats of Copy that all drives have. The rest is about what Identify does not promise,
            // and stays off.
            let behavior = HostBehaviorSupport::ref_from_bytes(data)
                .map_err(|_| Status::DATA_SGL_LENGTH_INVALID.with_dnr())?;
            let formats = behavior.cdfe.get() & FORMATS_ACROSS & offered_copy_formats(controller);
            controller.association.set_behavior(behavior.acre == 1, formats);
            Ok(Action::result(0))
        }
        fid::RESERVATION_NOTIFICATION_MASK => {
            let mask = NotificationMask::from_bits_truncate(value);
            for (nsid, _) in namespaces(controller, entry.nsid.get())? {
                controller.association.notifications().set_mask(nsid, mask);
            }
            Ok(Action::result(0))
        }
        fid::RESERVATION_PERSISTENCE => {
            let keys = namespaces(controller, entry.nsid.get())?.into_iter().map(|(_, key)| key).collect();
            Ok(Action::Persist { keys, persists: value & 1 != 0 })
        }
        _ => {
            controller.keep_alive.set_kato_millis(value, now);
            Ok(Action::result(0))
        }
    }
}

/// Get Features of what is kept here.
pub(super) fn get(
    controller: &mut RemoteController,
    entry: &SubmissionQueueEntry,
    declared: u32,
) -> Result<Action, Status> {
    let (id, selected) = (feature_id(entry), feature_select(entry));
    if selected > select::SUPPORTED_CAPABILITIES || is_about_reservations(id) && !controller.policy.reserves()
    {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    if id == fid::IO_COMMAND_SET_PROFILE && !has_command_sets(controller) {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    // EXHID: a fabrics host has a 128-bit identifier (NVMe Base 2.0, 5.27.1.25).
    let capabilities = selected == select::SUPPORTED_CAPABILITIES;
    if id == fid::HOST_IDENTIFIER && !capabilities && entry.cdw11.get() & 1 == 0 {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    let length = feature_transfer_length(entry);
    if declared != length {
        return Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr());
    }
    if capabilities {
        let changeable = if id == fid::HOST_IDENTIFIER { 0 } else { select::SUPPORTED_CHANGEABLE };
        let scope = if is_about_reservations(id) { select::SUPPORTED_NAMESPACE_SPECIFIC } else { 0 };
        return Ok(Action::result(changeable | scope));
    }
    Ok(match id {
        fid::HOST_IDENTIFIER => Action::data(controller.association.connect.host_id.0.to_vec()),
        fid::NUMBER_OF_QUEUES => Action::result(queues(controller)),
        fid::HOST_BEHAVIOR_SUPPORT => {
            let mut behavior = HostBehaviorSupport::default();
            if selected != select::DEFAULT {
                behavior.acre = controller.association.retries_later().into();
                behavior.cdfe.set(controller.association.copy_formats());
            }
            Action::data(behavior.as_bytes().to_vec())
        }
        fid::IO_COMMAND_SET_PROFILE => Action::result(0),
        // No event, until the host says which.
        fid::ASYNC_EVENT_CONFIGURATION if selected == select::DEFAULT => Action::result(0),
        fid::ASYNC_EVENT_CONFIGURATION => Action::result(controller.events.configuration()),
        fid::RESERVATION_NOTIFICATION_MASK => {
            let (nsid, _) = namespace(controller, entry.nsid.get())?;
            Action::result(controller.association.notifications().mask(nsid).bits())
        }
        fid::RESERVATION_PERSISTENCE => {
            let (_, key) = namespace(controller, entry.nsid.get())?;
            let known = controller.reservations.entry(key).ok_or(NO_NAMESPACE)?;
            Action::result(known.namespace().persists().into())
        }
        _ => Action::result(controller.keep_alive.kato_millis()),
    })
}

fn is_about_reservations(id: u8) -> bool {
    matches!(id, fid::RESERVATION_NOTIFICATION_MASK | fid::RESERVATION_PERSISTENCE)
}

const NO_NAMESPACE: Status = Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr();

/// The namespaces of the export that a command names, each with the NSID that the host knows it by: FFFFFFFFh names all.
fn namespaces(controller: &RemoteController, nsid: u32) -> Result<Vec<(u32, Key)>, Status> {
    let export = controller.export().ok_or(Status::INVALID_FIELD.with_dnr())?;
    let view = export.view();
    let named = view.namespaces.iter().filter(|shown| nsid == NSID_BROADCAST || shown.nsid == nsid);
    let named: Vec<_> = named.map(|shown| (shown.nsid, (shown.drive, shown.drive_nsid))).collect();
    if named.is_empty() { Err(NO_NAMESPACE) } else { Ok(named) }
}

/// The one namespace that a command names.
fn namespace(controller: &RemoteController, nsid: u32) -> Result<(u32, Key), Status> {
    if nsid == NSID_BROADCAST {
        return Err(NO_NAMESPACE);
    }
    namespaces(controller, nsid)?.into_iter().next().ok_or(NO_NAMESPACE)
}

fn has_command_sets(controller: &RemoteController) -> bool {
    controller.export().is_some_and(|export| command_sets::offered(export))
}

fn offered_copy_formats(controller: &RemoteController) -> u16 {
    controller.export().map_or(0, |export| export.view().copy_formats)
}

/// Number of Queues as its result reports it: both halves 0's based.
fn queues(controller: &RemoteController) -> u32 {
    let granted = u32::from(controller.association.granted_queues()).saturating_sub(1);
    granted << 16 | granted
}
