//! What happens to an admin command: answered here, forwarded to the drive, or refused.
//!
//! Only the class `inspect` goes to the drive: commands by which a host looks and nothing changes. What is not
//! listed is refused, so that a command which a future specification adds is not forwarded by accident.

use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::feature::{feature_transfer_length, fid};
use gangway_spec::identify::cns;
use gangway_spec::log::{GetLogPage, lid};
use gangway_spec::opcode::admin;
use gangway_spec::registers::Version;
use gangway_spec::status::Status;

/// What to do with what the drive answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    AsItIs,
    Controller,
    Namespace { nsid: u32 },
    IndependentNamespace { nsid: u32 },
    NamespaceList,
    Descriptors { nsid: u32 },
    EffectsLog { offset: u64 },
    SupportedLogPages { offset: u64 },
    FeatureCapabilities,
}

/// A command that may go to the drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    /// Bytes that the drive will transfer to the host.
    pub(crate) length: u32,
    pub(crate) finish: Finish,
}

/// Decides on a command of the class `inspect`.
///
/// # Errors
/// The status to refuse it with.
pub(crate) fn inspect(entry: &SubmissionQueueEntry) -> Result<Forward, Status> {
    match entry.opcode {
        admin::IDENTIFY => identify(entry),
        admin::GET_LOG_PAGE => log_page(entry),
        admin::GET_FEATURES => feature(entry),
        // MNDW, 0's based, in dwords (NVM Command Set 1.0, 4.2.1).
        admin::GET_LBA_STATUS => dwords(entry.cdw12.get()).map(as_it_is),
        admin::DIRECTIVE_RECEIVE => directive(entry),
        _ => Err(Status::INVALID_OPCODE.with_dnr()),
    }
}

fn as_it_is(length: u32) -> Forward {
    Forward { length, finish: Finish::AsItIs }
}

/// Bytes of a 0's based number of dwords.
fn dwords(count: u32) -> Result<u32, Status> {
    count.checked_add(1).and_then(|count| count.checked_mul(4)).ok_or(Status::INVALID_FIELD.with_dnr())
}

fn identify(entry: &SubmissionQueueEntry) -> Result<Forward, Status> {
    let nsid = entry.nsid.get();
    let finish = match (entry.cdw10.get() & 0xff) as u8 {
        cns::NAMESPACE => Finish::Namespace { nsid },
        cns::CONTROLLER => Finish::Controller,
        cns::ACTIVE_NAMESPACE_LIST | cns::IO_COMMAND_SET_ACTIVE_LIST => Finish::NamespaceList,
        cns::NAMESPACE_DESCRIPTORS => Finish::Descriptors { nsid },
        cns::COMMAND_SET_INDEPENDENT_NAMESPACE => Finish::IndependentNamespace { nsid },
        cns::IO_COMMAND_SET_NAMESPACE => Finish::Descriptors { nsid },
        cns::NVM_SET_LIST | cns::IO_COMMAND_SET_CONTROLLER | cns::UUID_LIST | cns::ENDURANCE_GROUP_LIST => {
            Finish::AsItIs
        }
        _ => return Err(Status::INVALID_FIELD.with_dnr()),
    };
    Ok(Forward { length: 4096, finish })
}

/// Log pages that can be read without changing anything, but for the event that reading acknowledges (see
/// [`to_drive`]).
fn log_page(entry: &SubmissionQueueEntry) -> Result<Forward, Status> {
    let command = GetLogPage::from(entry);
    let length = u32::try_from(command.length()).map_err(|_| Status::INVALID_FIELD.with_dnr())?;
    let offset = command.lpo;
    if !command.offset_is_index && !offset.is_multiple_of(4) {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    let finish = match command.lid {
        // The offset of these is needed to know which entries were read.
        lid::SUPPORTED_LOG_PAGES | lid::COMMANDS_SUPPORTED_AND_EFFECTS if command.offset_is_index => {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        lid::SUPPORTED_LOG_PAGES => Finish::SupportedLogPages { offset },
        lid::COMMANDS_SUPPORTED_AND_EFFECTS => Finish::EffectsLog { offset },
        id if log_page_is_listed(id) => Finish::AsItIs,
        _ => return Err(Status::INVALID_LOG_PAGE.with_dnr()),
    };
    Ok(Forward { length, finish })
}

/// Whether a log page goes to the drive. The Changed Namespace List is kept here, per host.
pub(crate) fn log_page_is_listed(id: u8) -> bool {
    matches!(
        id,
        lid::SUPPORTED_LOG_PAGES
            | lid::ERROR
            | lid::SMART
            | lid::FIRMWARE_SLOT
            | lid::COMMANDS_SUPPORTED_AND_EFFECTS
            | lid::ENDURANCE_GROUP
            | lid::SANITIZE_STATUS
            | lid::DEVICE_SELF_TEST
    )
}

/// Features that steer our own use of the drive, or that are not the drive's to answer.
pub(crate) fn feature_is_ours(id: u8) -> bool {
    matches!(
        id,
        fid::NUMBER_OF_QUEUES | fid::ASYNC_EVENT_CONFIGURATION | fid::KEEP_ALIVE_TIMER | fid::HOST_IDENTIFIER
    )
}

fn feature(entry: &SubmissionQueueEntry) -> Result<Forward, Status> {
    let id = (entry.cdw10.get() & 0xff) as u8;
    let select = (entry.cdw10.get() >> 8) & 0x7;
    let listed = matches!(
        id,
        fid::ARBITRATION
            | fid::POWER_MANAGEMENT
            | fid::TEMPERATURE_THRESHOLD
            | fid::ERROR_RECOVERY
            | fid::VOLATILE_WRITE_CACHE
            | fid::WRITE_ATOMICITY
            | fid::LBA_RANGE_TYPE
            | fid::TIMESTAMP
    );
    if !listed {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    if select == SELECT_CAPABILITIES {
        return Ok(Forward { length: 0, finish: Finish::FeatureCapabilities });
    }
    Ok(as_it_is(feature_transfer_length(entry)))
}

/// SEL of Get Features: supported capabilities.
pub(crate) const SELECT_CAPABILITIES: u32 = 0b011;

/// Directive Receive operations that only look: Return Parameters, and the status of streams.
fn directive(entry: &SubmissionQueueEntry) -> Result<Forward, Status> {
    let operation = entry.cdw11.get() & 0xff;
    let directive = (entry.cdw11.get() >> 8) & 0xff;
    match (directive, operation) {
        (0, 1) | (1, 1 | 2) => dwords(entry.cdw10.get()).map(as_it_is),
        _ => Err(Status::INVALID_FIELD.with_dnr()),
    }
}

/// The entry as the drive gets it.
pub(crate) fn to_drive(entry: &SubmissionQueueEntry, drive_version: Version) -> SubmissionQueueEntry {
    let mut entry = *entry;
    entry.mptr = 0.into();
    entry.set_psdt(0);
    if entry.opcode == admin::GET_LOG_PAGE && drive_version >= Version(0x0001_0300) {
        // Retain Asynchronous Event: one host's read must not acknowledge the drive's event for all others.
        entry.cdw10 = (entry.cdw10.get() | 1 << 15).into();
    }
    entry
}

/// Opcodes of the admin command set that a host can use, here or on the drive.
pub(crate) fn admin_opcode_is_open(opcode: u8) -> bool {
    matches!(
        opcode,
        admin::IDENTIFY
            | admin::GET_LOG_PAGE
            | admin::GET_FEATURES
            | admin::SET_FEATURES
            | admin::ABORT
            | admin::ASYNC_EVENT_REQUEST
            | admin::KEEP_ALIVE
            | admin::GET_LBA_STATUS
            | admin::DIRECTIVE_RECEIVE
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(opcode: u8, cdw10: u32, cdw11: u32) -> SubmissionQueueEntry {
        let mut entry = SubmissionQueueEntry::new(opcode);
        entry.cdw10 = cdw10.into();
        entry.cdw11 = cdw11.into();
        entry
    }

    #[test]
    fn only_opcodes_that_look_are_forwarded() {
        let forwarded: Vec<u8> = (0..=255_u8)
            .filter(|opcode| {
                inspect(&entry(*opcode, 0x0001_0002, 0x1)) != Err(Status::INVALID_OPCODE.with_dnr())
            })
            .collect();
        let mut expected = [
            admin::GET_LOG_PAGE,
            admin::IDENTIFY,
            admin::GET_FEATURES,
            admin::DIRECTIVE_RECEIVE,
            admin::GET_LBA_STATUS,
        ];
        expected.sort_unstable();
        assert_eq!(forwarded, expected);
    }

    #[test]
    fn logs_whose_reading_changes_something_are_refused() {
        for id in
            [lid::TELEMETRY_HOST, lid::TELEMETRY_CONTROLLER, lid::PERSISTENT_EVENT, lid::ANA, 0xc0, 0xff]
        {
            let refused = inspect(&entry(admin::GET_LOG_PAGE, u32::from(id), 0)).unwrap_err();
            assert_eq!(refused, Status::INVALID_LOG_PAGE.with_dnr(), "log page {id:#x}");
        }
    }

    #[test]
    fn the_length_of_a_log_page_is_what_numd_says() {
        let smart = inspect(&entry(admin::GET_LOG_PAGE, u32::from(lid::SMART) | 127 << 16, 0)).unwrap();
        assert_eq!(smart.length, 512);
        let long = inspect(&entry(admin::GET_LOG_PAGE, u32::from(lid::SMART) | 0xffff << 16, 1)).unwrap();
        assert_eq!(long.length, 0x2_0000 * 4);
        let endless = inspect(&entry(admin::GET_LOG_PAGE, u32::from(lid::SMART) | 0xffff << 16, 0xffff));
        assert_eq!(endless, Err(Status::INVALID_FIELD.with_dnr()));
    }

    #[test]
    fn reading_a_log_leaves_the_drives_event_for_other_hosts() {
        let read = entry(admin::GET_LOG_PAGE, u32::from(lid::SMART), 0);
        assert_eq!(to_drive(&read, Version::V1_4).cdw10.get() & (1 << 15), 1 << 15);
        assert_eq!(to_drive(&read, Version::V1_2_1).cdw10.get() & (1 << 15), 0, "reserved before 1.3");
    }

    #[test]
    fn directives_that_allocate_are_refused() {
        assert!(inspect(&entry(admin::DIRECTIVE_RECEIVE, 0, 0x0001)).is_ok());
        assert!(inspect(&entry(admin::DIRECTIVE_RECEIVE, 0, 0x0103)).is_err());
    }
}
