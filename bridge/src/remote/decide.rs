//! What happens to an admin command that is not answered by the protocol: it goes to the drive, or is refused.
//!
//! What the policy has in no class is refused, so that a command which a future specification adds is not forwarded by
//! accident. The length of every transfer is computed here from the command, except where a vendor defines it.

use gangway_spec::TransferDirection;
use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::feature::{feature_id, feature_select, feature_transfer_length, select};
use gangway_spec::identify::{IDENTIFY_LENGTH, cns};
use gangway_spec::log::{GetLogPage, lid};
use gangway_spec::opcode::{FIRST_VENDOR_ADMIN, admin};
use gangway_spec::registers::Version;
use gangway_spec::status::Status;

use super::reach::Reach;
use crate::admission::ExportView;
use crate::policy::Policy;
use crate::policy::table::{self, Class, Place};

/// First feature and first log page that a vendor may define (NVMe Base 2.0, 5.15.1 and 5.16.1).
const FIRST_VENDOR_ID: u8 = 0xc0;

/// What to do with what the drive answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    AsItIs,
    Controller,
    Namespace,
    IndependentNamespace,
    /// What an I/O command set says of a namespace.
    NamespaceStructure,
    Descriptors,
    /// Nothing: zeroes, as of a namespace that is inactive.
    Zeroes,
    /// What is about an I/O command set as a whole, as far as a drive answers it.
    CommandSets,
    /// The list of namespaces, of one I/O command set or of all. It is made here.
    ActiveNamespaces {
        csi: Option<u8>,
    },
    /// What is there besides active namespaces, and how they are made.
    Allocated,
    AllocatedNamespace,
    /// Controllers from this one on that a namespace is attached to.
    AttachedControllers {
        first: u16,
    },
    /// Controllers from this one on. The list is made here.
    Controllers {
        first: u16,
    },
    /// The result is the NSID of a namespace.
    CreatedNamespace,
    ErrorLog {
        offset: u64,
    },
    SelfTestLog {
        offset: u64,
    },
    /// It is known here whether the host has read what the drive collected by itself.
    Telemetry,
    EffectsLog {
        offset: u64,
        csi: u8,
    },
    SupportedLogPages {
        offset: u64,
    },
    FeatureCapabilities {
        id: u8,
    },
}

/// A command that may go to the drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    pub(crate) direction: TransferDirection,
    /// Bytes that it transfers.
    pub(crate) length: u32,
    pub(crate) finish: Finish,
    /// Whether it changes the state of the drive, and is therefore written down.
    pub(crate) changes: bool,
}

impl Finish {
    /// Whether it is about namespaces that are not attached, too, or about how they are made.
    pub(crate) fn is_about_the_inventory(self) -> bool {
        matches!(
            self,
            Finish::Allocated
                | Finish::AllocatedNamespace
                | Finish::AttachedControllers { .. }
                | Finish::Controllers { .. }
        )
    }
}

impl Forward {
    fn reads(length: u32, finish: Finish) -> Self {
        Self { direction: TransferDirection::ControllerToHost, length, finish, changes: false }
    }

    /// Brings `length` bytes to the drive, and changes it.
    fn writes(length: u32) -> Self {
        Self { direction: TransferDirection::HostToController, length, finish: Finish::AsItIs, changes: true }
    }
}

const NO_SUCH_COMMAND: Status = Status::INVALID_OPCODE.with_dnr();
const INVALID_FIELD: Status = Status::INVALID_FIELD.with_dnr();
const DENIED: Status = Status::OPERATION_DENIED.with_dnr();

/// Decides on a command whose SGL declares `declared` bytes.
///
/// # Errors
/// The status to refuse it with: Operation Denied when the policy could allow it, else the one that says that the
/// controller has no such thing.
pub(crate) fn decide(
    policy: &Policy,
    entry: &SubmissionQueueEntry,
    declared: u32,
) -> Result<Forward, Status> {
    let opcode = entry.opcode;
    allowed(table::admin(opcode), policy.admin(opcode), NO_SUCH_COMMAND)?;
    match opcode {
        admin::IDENTIFY => identify(policy, entry),
        admin::GET_LOG_PAGE => log_page(policy, entry),
        admin::GET_FEATURES => get_feature(policy, entry, declared),
        admin::SET_FEATURES => set_feature(policy, entry, declared),
        // MNDW, 0's based, in dwords (NVM Command Set 1.0, 4.2.1).
        admin::GET_LBA_STATUS => Ok(Forward::reads(dwords(entry.cdw12.get())?, Finish::AsItIs)),
        admin::DEVICE_SELF_TEST | admin::FIRMWARE_COMMIT | admin::SANITIZE | admin::FORMAT_NVM => {
            Ok(Forward::writes(0))
        }
        // What is created is described, what is deleted is not (NVMe Base 2.0, 5.23).
        admin::NAMESPACE_MANAGEMENT => match entry.cdw10.get() & 0xf {
            0 => Ok(Forward { finish: Finish::CreatedNamespace, ..Forward::writes(IDENTIFY_LENGTH as u32) }),
            1 => Ok(Forward::writes(0)),
            _ => Err(INVALID_FIELD),
        },
        // A controller list, whichever way it goes (NVMe Base 2.0, 5.22).
        admin::NAMESPACE_ATTACHMENT => match entry.cdw10.get() & 0xf {
            0 | 1 => Ok(Forward::writes(IDENTIFY_LENGTH as u32)),
            _ => Err(INVALID_FIELD),
        },
        // NUMD, 0's based, in dwords (NVMe Base 2.0, 5.13).
        admin::FIRMWARE_IMAGE_DOWNLOAD => Ok(Forward::writes(dwords(entry.cdw10.get())?)),
        // TL and AL, in bytes (NVMe Base 2.0, 5.25 and 5.26).
        admin::SECURITY_SEND => Ok(Forward::writes(entry.cdw11.get())),
        admin::SECURITY_RECEIVE => {
            Ok(Forward { changes: true, ..Forward::reads(entry.cdw11.get(), Finish::AsItIs) })
        }
        FIRST_VENDOR_ADMIN.. => vendor(entry, declared),
        _ => Err(NO_SUCH_COMMAND),
    }
}

/// # Errors
/// `unknown` for what the controller has not, Operation Denied for what the policy keeps from this host.
fn allowed(place: Place, open: bool, unknown: Status) -> Result<(), Status> {
    match place {
        _ if open => Ok(()),
        Place::Class(_) => Err(DENIED),
        Place::Here(_) | Place::Never(_) => Err(unknown),
    }
}

/// Bytes of a 0's based number of dwords.
fn dwords(count: u32) -> Result<u32, Status> {
    count.checked_add(1).and_then(|count| count.checked_mul(4)).ok_or(INVALID_FIELD)
}

fn identify(policy: &Policy, entry: &SubmissionQueueEntry) -> Result<Forward, Status> {
    let manages = policy.admin(admin::NAMESPACE_MANAGEMENT);
    let finish = match (entry.cdw10.get() & 0xff) as u8 {
        cns::NAMESPACE => Finish::Namespace,
        cns::CONTROLLER => Finish::Controller,
        cns::ACTIVE_NAMESPACE_LIST => Finish::ActiveNamespaces { csi: None },
        cns::IO_COMMAND_SET_ACTIVE_LIST => {
            Finish::ActiveNamespaces { csi: Some((entry.cdw11.get() >> 24) as u8) }
        }
        cns::NAMESPACE_DESCRIPTORS => Finish::Descriptors,
        cns::COMMAND_SET_INDEPENDENT_NAMESPACE => Finish::IndependentNamespace,
        cns::IO_COMMAND_SET_NAMESPACE => Finish::NamespaceStructure,
        // What is there to be attached is for who may do that.
        cns::ALLOCATED_NAMESPACE_LIST
        | cns::IO_COMMAND_SET_ALLOCATED_LIST
        | cns::IO_COMMAND_SET_ALLOCATED_NAMESPACE
        | cns::NAMESPACE_GRANULARITY
            if manages =>
        {
            Finish::Allocated
        }
        cns::ALLOCATED_NAMESPACE if manages => Finish::AllocatedNamespace,
        cns::ATTACHED_CONTROLLER_LIST if manages => {
            Finish::AttachedControllers { first: (entry.cdw10.get() >> 16) as u16 }
        }
        cns::CONTROLLER_LIST if manages => Finish::Controllers { first: (entry.cdw10.get() >> 16) as u16 },
        cns::IO_COMMAND_SET_CONTROLLER | cns::IO_COMMAND_SET_COMBINATIONS => Finish::CommandSets,
        cns::NVM_SET_LIST | cns::UUID_LIST | cns::ENDURANCE_GROUP_LIST => Finish::AsItIs,
        _ => return Err(INVALID_FIELD),
    };
    Ok(Forward::reads(4096, finish))
}

fn log_page(policy: &Policy, entry: &SubmissionQueueEntry) -> Result<Forward, Status> {
    let command = GetLogPage::from(entry);
    allowed(table::log_page(command.lid), policy.log_page(command.lid), Status::INVALID_LOG_PAGE.with_dnr())?;
    let length = u32::try_from(command.length()).map_err(|_| INVALID_FIELD)?;
    let offset = command.lpo;
    if !command.offset_is_index && !offset.is_multiple_of(4) {
        return Err(INVALID_FIELD);
    }
    let finish = match command.lid {
        // The offset of these is needed to know which entries were read.
        lid::SUPPORTED_LOG_PAGES
        | lid::COMMANDS_SUPPORTED_AND_EFFECTS
        | lid::ERROR
        | lid::TELEMETRY_HOST
        | lid::TELEMETRY_CONTROLLER
        | lid::DEVICE_SELF_TEST
            if command.offset_is_index =>
        {
            return Err(INVALID_FIELD);
        }
        lid::ERROR => Finish::ErrorLog { offset },
        lid::TELEMETRY_HOST | lid::TELEMETRY_CONTROLLER => Finish::Telemetry,
        lid::DEVICE_SELF_TEST => Finish::SelfTestLog { offset },
        lid::SUPPORTED_LOG_PAGES => Finish::SupportedLogPages { offset },
        lid::COMMANDS_SUPPORTED_AND_EFFECTS => Finish::EffectsLog { offset, csi: command.csi },
        _ => Finish::AsItIs,
    };
    let changes = table::log_page(command.lid) == Place::Class(Class::Tune);
    Ok(Forward { changes, ..Forward::reads(length, finish) })
}

fn get_feature(policy: &Policy, entry: &SubmissionQueueEntry, declared: u32) -> Result<Forward, Status> {
    let id = feature_id(entry);
    match table::get_feature(id) {
        Place::Class(Class::Inspect) => {}
        place => allowed(place, policy.sets_feature(id), INVALID_FIELD)?,
    }
    Ok(if feature_select(entry) == select::SUPPORTED_CAPABILITIES {
        Forward::reads(0, Finish::FeatureCapabilities { id })
    } else if id >= FIRST_VENDOR_ID {
        Forward::reads(declared, Finish::AsItIs)
    } else {
        Forward::reads(feature_transfer_length(entry), Finish::AsItIs)
    })
}

fn set_feature(policy: &Policy, entry: &SubmissionQueueEntry, declared: u32) -> Result<Forward, Status> {
    let id = feature_id(entry);
    // What Get Features knows and nobody may change is not changeable.
    let refused = match table::set_feature(id) {
        Place::Class(_) => Status::FEATURE_NOT_CHANGEABLE.with_dnr(),
        Place::Here(_) | Place::Never(_) => INVALID_FIELD,
    };
    if !policy.sets_feature(id) {
        return Err(refused);
    }
    let length = if id >= FIRST_VENDOR_ID { declared } else { feature_transfer_length(entry) };
    Ok(Forward::writes(length))
}

/// A vendor's command: where its data goes is in its opcode, how long it is only the host knows.
fn vendor(entry: &SubmissionQueueEntry, declared: u32) -> Result<Forward, Status> {
    let direction = TransferDirection::of_opcode(entry.opcode);
    if direction == TransferDirection::Bidirectional {
        return Err(INVALID_FIELD);
    }
    let length = if direction == TransferDirection::None { 0 } else { declared };
    Ok(Forward { direction, ..Forward::writes(length) })
}

/// The entry as the drive gets it.
pub(crate) fn to_drive(entry: &SubmissionQueueEntry, drive_version: Version) -> SubmissionQueueEntry {
    let mut entry = *entry;
    entry.mptr = 0.into();
    entry.set_psdt(0);
    if entry.opcode == admin::GET_LOG_PAGE
        && drive_version >= Version(0x0001_0300)
        && GetLogPage::from(&entry).lid != lid::TELEMETRY_CONTROLLER
    {
        // Retain Asynchronous Event: one host's read must not acknowledge the drive's event for all others. But telemetry
        // the drive collects anew only when somebody has acknowledged it.
        entry.cdw10 = (entry.cdw10.get() | 1 << 15).into();
    }
    entry
}

/// Whether a host of this policy can read a log page, here or from a drive of what is shown.
pub(crate) fn log_page_is_open(policy: &Policy, view: &ExportView, id: u8) -> bool {
    match table::log_page(id) {
        Place::Here(_) => match id {
            lid::RESERVATION_NOTIFICATION => policy.reserves(),
            lid::CHANGED_ZONE_LIST => view.has_zones(),
            _ => true,
        },
        _ => policy.log_page(id) && Reach::of_log_page(id).is_within(view),
    }
}

#[cfg(test)]
mod tests {
    use gangway_spec::feature::fid;

    use super::*;
    use crate::policy::Item;

    fn entry(opcode: u8, cdw10: u32, cdw11: u32) -> SubmissionQueueEntry {
        let mut entry = SubmissionQueueEntry::new(opcode);
        entry.cdw10 = cdw10.into();
        entry.cdw11 = cdw11.into();
        entry
    }

    fn policy(items: &str) -> Policy {
        Policy::new(items.split(',').map(|item| item.parse::<Item>().unwrap()), [])
    }

    #[test]
    fn logs_whose_reading_changes_something_are_refused_unless_opened() {
        let read = |policy: &Policy, id: u8| decide(policy, &entry(admin::GET_LOG_PAGE, id.into(), 0), 4);
        for id in [lid::TELEMETRY_HOST, lid::TELEMETRY_CONTROLLER, lid::PERSISTENT_EVENT, 0xc0, 0xff] {
            assert_eq!(read(&Policy::default(), id), Err(DENIED), "log page {id:#x}");
        }
        for id in [lid::ANA, lid::RESERVATION_NOTIFICATION, 0x99] {
            let refused = read(&policy("inspect,tune,manage,vendor"), id);
            assert_eq!(refused, Err(Status::INVALID_LOG_PAGE.with_dnr()), "log page {id:#x}");
        }
        assert!(read(&policy("inspect,tune"), lid::TELEMETRY_HOST).unwrap().changes);
        assert!(!read(&policy("inspect,vendor"), 0xc0).unwrap().changes);
    }

    #[test]
    fn the_length_of_a_log_page_is_what_numd_says() {
        let read = |cdw10, cdw11| decide(&Policy::default(), &entry(admin::GET_LOG_PAGE, cdw10, cdw11), 0);
        assert_eq!(read(u32::from(lid::SMART) | 127 << 16, 0).unwrap().length, 512);
        assert_eq!(read(u32::from(lid::SMART) | 0xffff << 16, 1).unwrap().length, 0x2_0000 * 4);
        assert_eq!(read(u32::from(lid::SMART) | 0xffff << 16, 0xffff), Err(INVALID_FIELD));
    }

    #[test]
    fn reading_a_log_leaves_the_drives_event_for_other_hosts() {
        let read = entry(admin::GET_LOG_PAGE, u32::from(lid::SMART), 0);
        assert_eq!(to_drive(&read, Version::V1_4).cdw10.get() & (1 << 15), 1 << 15);
        assert_eq!(to_drive(&read, Version::V1_2_1).cdw10.get() & (1 << 15), 0, "reserved before 1.3");
    }

    #[test]
    fn lengths_come_from_the_command_and_a_vendors_from_the_sgl() {
        let all = policy("inspect,tune,manage,firmware,vendor");
        let length = |opcode, cdw10, cdw11| {
            let forward = decide(&all, &entry(opcode, cdw10, cdw11), 7777).unwrap();
            (forward.direction, forward.length)
        };
        use TransferDirection::{ControllerToHost, HostToController, None};
        assert_eq!(length(admin::FIRMWARE_IMAGE_DOWNLOAD, 1023, 0), (HostToController, 4096));
        assert_eq!(length(admin::SECURITY_SEND, 0, 600), (HostToController, 600));
        assert_eq!(length(admin::SECURITY_RECEIVE, 0, 512), (ControllerToHost, 512));
        assert_eq!(length(admin::SET_FEATURES, fid::TIMESTAMP.into(), 0), (HostToController, 8));
        assert_eq!(length(admin::SET_FEATURES, 0xc5, 0), (HostToController, 7777));
        assert_eq!(length(admin::GET_FEATURES, 0xc5, 0), (ControllerToHost, 7777));
        assert_eq!(length(0xc1, 0, 0), (HostToController, 7777));
        assert_eq!(length(0xc2, 0, 0), (ControllerToHost, 7777));
        assert_eq!(length(0xc4, 0, 0), (None, 0));
        assert_eq!(decide(&all, &entry(0xc3, 0, 0), 4), Err(INVALID_FIELD), "both ways at once");
    }
}
