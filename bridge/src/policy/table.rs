//! Where each admin command, feature and log page belongs.

use std::fmt;

use gangway_spec::feature::fid;
use gangway_spec::identify::csi;
use gangway_spec::log::lid;
use gangway_spec::opcode::{FIRST_VENDOR_ADMIN, FIRST_VENDOR_IO, admin, nvm};

use crate::admission::is_known;

/// A class of commands, to be opened as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Reading, writing and the other I/O commands of the specification. Open unless it is refused.
    Io,
    /// Looking at the drive. Nothing changes by it.
    Inspect,
    /// What can be taken back, and is about performance or diagnosis: features, self-test, telemetry.
    Tune,
    /// What destroys data, locks the drive or cannot be taken back.
    Manage,
    /// Downloading and activating firmware.
    Firmware,
    /// What a vendor defines: admin commands, features and log pages from C0h on, I/O commands from 80h on.
    Vendor,
}

impl Class {
    /// All there are.
    pub const ALL: [Class; 6] =
        [Class::Io, Class::Inspect, Class::Tune, Class::Manage, Class::Firmware, Class::Vendor];

    /// Its name, as it is written on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Io => "io",
            Class::Inspect => "inspect",
            Class::Tune => "tune",
            Class::Manage => "manage",
            Class::Firmware => "firmware",
            Class::Vendor => "vendor",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }

    /// Whether commands of it may change what namespaces hold.
    pub(super) const fn may_change_data(self) -> bool {
        matches!(self, Class::Manage | Class::Vendor)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where something belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The target answers it itself, for the reason given.
    Here(&'static str),
    /// It is refused whatever a policy says, for the reason given.
    Never(&'static str),
    /// A policy decides, by this class.
    Class(Class),
}

const OWN_USE: &str = "it steers the target's own use of the drive";
const ALL_HOSTS: &str = "the drive takes all hosts for one, so it would be about all of them";
const PER_HOST: &str = "it is kept for each host by the target";
const AMONG_HOSTS: &str = "the target keeps reservations, because the drive takes all hosts for one";
const OTHERS: &str = "it would reach commands of other hosts";
const LOCKS: &str = "it could bar commands that the target itself needs";
const UNKNOWN: &str = "what it does or transfers is not known here";

/// Where an admin command belongs.
pub const fn admin(opcode: u8) -> Place {
    match opcode {
        admin::DELETE_IO_SQ
        | admin::CREATE_IO_SQ
        | admin::DELETE_IO_CQ
        | admin::CREATE_IO_CQ
        | admin::DOORBELL_BUFFER_CONFIG
        | admin::VIRTUALIZATION_MANAGEMENT => Place::Never(OWN_USE),
        admin::ABORT | admin::ASYNC_EVENT_REQUEST | admin::KEEP_ALIVE | admin::FABRICS => {
            Place::Here(PER_HOST)
        }
        // Of these the feature or the log page decides as well.
        admin::IDENTIFY
        | admin::GET_FEATURES
        | admin::SET_FEATURES
        | admin::GET_LOG_PAGE
        | admin::GET_LBA_STATUS => Place::Class(Class::Inspect),
        admin::DIRECTIVE_SEND | admin::DIRECTIVE_RECEIVE => Place::Never(ALL_HOSTS),
        admin::DEVICE_SELF_TEST => Place::Class(Class::Tune),
        admin::SECURITY_SEND
        | admin::SECURITY_RECEIVE
        | admin::SANITIZE
        | admin::FORMAT_NVM
        | admin::NAMESPACE_MANAGEMENT
        | admin::NAMESPACE_ATTACHMENT => Place::Class(Class::Manage),
        admin::LOCKDOWN => Place::Never(LOCKS),
        admin::FIRMWARE_IMAGE_DOWNLOAD | admin::FIRMWARE_COMMIT => Place::Class(Class::Firmware),
        FIRST_VENDOR_ADMIN.. => Place::Class(Class::Vendor),
        _ => Place::Never(UNKNOWN),
    }
}

/// Where an I/O command belongs.
pub const fn io(opcode: u8) -> Place {
    match opcode {
        nvm::IO_MANAGEMENT_RECEIVE | nvm::IO_MANAGEMENT_SEND => Place::Never(ALL_HOSTS),
        nvm::CANCEL => Place::Never(OTHERS),
        FIRST_VENDOR_IO.. => Place::Class(Class::Vendor),
        _ if is_known(csi::ZONED_NAMESPACE, opcode) => Place::Class(Class::Io),
        _ => Place::Never(UNKNOWN),
    }
}

/// Where Set Features of a feature belongs.
pub const fn set_feature(id: u8) -> Place {
    match id {
        fid::NUMBER_OF_QUEUES
        | fid::ASYNC_EVENT_CONFIGURATION
        | fid::IO_COMMAND_SET_PROFILE
        | fid::KEEP_ALIVE_TIMER
        | fid::HOST_BEHAVIOR_SUPPORT
        | fid::HOST_IDENTIFIER
        | fid::RESERVATION_NOTIFICATION_MASK => Place::Here(PER_HOST),
        fid::RESERVATION_PERSISTENCE => Place::Here(AMONG_HOSTS),
        fid::INTERRUPT_COALESCING
        | fid::INTERRUPT_VECTOR_CONFIGURATION
        | fid::HOST_MEMORY_BUFFER
        | fid::CONTROLLER_DATA_QUEUE => Place::Never(OWN_USE),
        fid::FLEXIBLE_DATA_PLACEMENT | fid::FDP_EVENTS => Place::Never(ALL_HOSTS),
        fid::ARBITRATION
        | fid::POWER_MANAGEMENT
        | fid::LBA_RANGE_TYPE
        | fid::TEMPERATURE_THRESHOLD
        | fid::ERROR_RECOVERY
        | fid::VOLATILE_WRITE_CACHE
        | fid::WRITE_ATOMICITY
        | fid::APST
        | fid::TIMESTAMP
        | fid::HCTM
        | fid::NON_OPERATIONAL_POWER_STATE
        | fid::READ_RECOVERY_LEVEL
        | fid::SOFTWARE_PROGRESS_MARKER => Place::Class(Class::Tune),
        fid::SANITIZE_CONFIG | fid::NAMESPACE_WRITE_PROTECTION | fid::BOOT_PARTITION_WRITE_PROTECTION => {
            Place::Class(Class::Manage)
        }
        0xc0.. => Place::Class(Class::Vendor),
        _ => Place::Never(UNKNOWN),
    }
}

/// Where Get Features of a feature belongs: whatever can be set can be looked at.
pub const fn get_feature(id: u8) -> Place {
    match set_feature(id) {
        Place::Class(Class::Tune | Class::Manage) => Place::Class(Class::Inspect),
        place => place,
    }
}

/// Where Get Log Page of a log page belongs.
pub const fn log_page(id: u8) -> Place {
    match id {
        lid::CHANGED_NAMESPACES | lid::RESERVATION_NOTIFICATION | lid::CHANGED_ZONE_LIST => {
            Place::Here(PER_HOST)
        }
        lid::SUPPORTED_LOG_PAGES
        | lid::ERROR
        | lid::SMART
        | lid::FIRMWARE_SLOT
        | lid::COMMANDS_SUPPORTED_AND_EFFECTS
        | lid::ENDURANCE_GROUP
        | lid::SANITIZE_STATUS
        | lid::DEVICE_SELF_TEST => Place::Class(Class::Inspect),
        // Reading them makes the drive collect, or keep a context.
        lid::TELEMETRY_HOST | lid::TELEMETRY_CONTROLLER | lid::PERSISTENT_EVENT => Place::Class(Class::Tune),
        0xc0.. => Place::Class(Class::Vendor),
        _ => Place::Never(UNKNOWN),
    }
}
