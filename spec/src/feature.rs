//! Features, and the commands that get and set them (NVMe Base 2.0, 5.15 and 5.27).

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{SubmissionQueueEntry, opcode};

/// Feature identifiers.
pub mod fid {
    /// Declares the constants and the function that names them.
    macro_rules! features {
        ($($name:ident = $value:literal $text:literal,)*) => {
            $(
                #[doc = concat!($text, ".")]
                pub const $name: u8 = $value;
            )*

            /// The specification's name of a feature; `None` when it is unknown or the vendor's.
            #[must_use]
            pub const fn name(fid: u8) -> Option<&'static str> {
                match fid {
                    $($value => Some($text),)*
                    _ => None,
                }
            }

            #[cfg(test)]
            pub(super) const ALL: &[u8] = &[$($value),*];
        };
    }

    features! {
        ARBITRATION = 0x01 "Arbitration",
        POWER_MANAGEMENT = 0x02 "Power Management",
        LBA_RANGE_TYPE = 0x03 "LBA Range Type",
        TEMPERATURE_THRESHOLD = 0x04 "Temperature Threshold",
        ERROR_RECOVERY = 0x05 "Error Recovery",
        VOLATILE_WRITE_CACHE = 0x06 "Volatile Write Cache",
        NUMBER_OF_QUEUES = 0x07 "Number of Queues",
        INTERRUPT_COALESCING = 0x08 "Interrupt Coalescing",
        INTERRUPT_VECTOR_CONFIGURATION = 0x09 "Interrupt Vector Configuration",
        WRITE_ATOMICITY = 0x0a "Write Atomicity Normal",
        ASYNC_EVENT_CONFIGURATION = 0x0b "Asynchronous Event Configuration",
        APST = 0x0c "Autonomous Power State Transition",
        HOST_MEMORY_BUFFER = 0x0d "Host Memory Buffer",
        TIMESTAMP = 0x0e "Timestamp",
        KEEP_ALIVE_TIMER = 0x0f "Keep Alive Timer",
        HCTM = 0x10 "Host Controlled Thermal Management",
        NON_OPERATIONAL_POWER_STATE = 0x11 "Non-Operational Power State Config",
        READ_RECOVERY_LEVEL = 0x12 "Read Recovery Level Config",
        PREDICTABLE_LATENCY_MODE_CONFIG = 0x13 "Predictable Latency Mode Config",
        PREDICTABLE_LATENCY_MODE_WINDOW = 0x14 "Predictable Latency Mode Window",
        LBA_STATUS_REPORT_INTERVAL = 0x15 "LBA Status Information Report Interval",
        HOST_BEHAVIOR_SUPPORT = 0x16 "Host Behavior Support",
        SANITIZE_CONFIG = 0x17 "Sanitize Config",
        ENDURANCE_GROUP_EVENT_CONFIGURATION = 0x18 "Endurance Group Event Configuration",
        IO_COMMAND_SET_PROFILE = 0x19 "I/O Command Set Profile",
        SPINUP_CONTROL = 0x1a "Spinup Control",
        POWER_LOSS_SIGNALING_CONFIG = 0x1b "Power Loss Signaling Config",
        PERFORMANCE_CHARACTERISTICS = 0x1c "Performance Characteristics",
        FLEXIBLE_DATA_PLACEMENT = 0x1d "Flexible Data Placement",
        FDP_EVENTS = 0x1e "Flexible Data Placement Events",
        NAMESPACE_ADMIN_LABEL = 0x1f "Namespace Admin Label",
        KEY_VALUE_CONFIGURATION = 0x20 "Key Value Configuration",
        CONTROLLER_DATA_QUEUE = 0x21 "Controller Data Queue",
        EMBEDDED_MANAGEMENT_CONTROLLER_ADDRESS = 0x78 "Embedded Management Controller Address",
        HOST_MANAGEMENT_AGENT_ADDRESS = 0x79 "Host Management Agent Address",
        ENHANCED_CONTROLLER_METADATA = 0x7d "Enhanced Controller Metadata",
        CONTROLLER_METADATA = 0x7e "Controller Metadata",
        NAMESPACE_METADATA = 0x7f "Namespace Metadata",
        SOFTWARE_PROGRESS_MARKER = 0x80 "Software Progress Marker",
        HOST_IDENTIFIER = 0x81 "Host Identifier",
        RESERVATION_NOTIFICATION_MASK = 0x82 "Reservation Notification Mask",
        RESERVATION_PERSISTENCE = 0x83 "Reservation Persistence",
        NAMESPACE_WRITE_PROTECTION = 0x84 "Namespace Write Protection Config",
        BOOT_PARTITION_WRITE_PROTECTION = 0x85 "Boot Partition Write Protection Config",
    }
}

/// Which value of a feature Get Features asks for (CDW10 bits 10:8).
pub mod select {
    /// The value in effect.
    pub const CURRENT: u8 = 0;
    /// The value without any Set Features.
    pub const DEFAULT: u8 = 1;
    /// The value that survives a reset.
    pub const SAVED: u8 = 2;
    /// What can be done with the feature: see [`SUPPORTED_SAVEABLE`] and its siblings. No data is transferred.
    pub const SUPPORTED_CAPABILITIES: u8 = 3;

    /// Supported capabilities: the feature can be saved.
    pub const SUPPORTED_SAVEABLE: u32 = 1 << 0;
    /// Supported capabilities: the feature belongs to a namespace.
    pub const SUPPORTED_NAMESPACE_SPECIFIC: u32 = 1 << 1;
    /// Supported capabilities: the feature can be changed.
    pub const SUPPORTED_CHANGEABLE: u32 = 1 << 2;
}

/// Telemetry Log Notices in dword 11 of Asynchronous Event Configuration: the controller may tell that it has collected
/// telemetry. LPA promises it, not OAES.
pub const TELEMETRY_LOG_NOTICES: u32 = 1 << 10;

/// EXHID in dword 11 of the Host Identifier feature: the identifier has 16 bytes, not 8.
pub const EXTENDED_HOST_IDENTIFIER: u32 = 1 << 0;

/// What the host can do, said by the Host Behavior Support feature (NVMe Base 2.1, 5.1.25.1.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct HostBehaviorSupport {
    /// Advanced command retry: 1 when the host heeds retry delays.
    pub acre: u8,
    /// Extended telemetry data area 4: 1 when the host reads it.
    pub etdas: u8,
    /// Extended LBA formats: 1 when the host knows them.
    pub lbafee: u8,
    /// Host dispersed namespaces: 1 when the host knows them.
    pub hdisns: u8,
    /// Copy descriptor formats enabled, a bit each as in OCFS. 0h and 1h always are, and have none.
    pub cdfe: U16,
    /// Zero.
    pub reserved6: [u8; 506],
}

const _: () = assert!(size_of::<HostBehaviorSupport>() == 512);

impl Default for HostBehaviorSupport {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

/// The specification's name of a feature; `None` when it is unknown or the vendor's.
#[must_use]
pub const fn feature_name(fid: u8) -> Option<&'static str> {
    fid::name(fid)
}

/// Most bytes of data that Get Features or Set Features transfers for a feature; 0 when there is no data.
///
/// What one command transfers can be less: [`feature_transfer_length`]. Of a vendor's feature nothing is known;
/// it is 0 here.
#[must_use]
pub const fn feature_data_length(fid: u8) -> u32 {
    match fid {
        fid::LBA_RANGE_TYPE
        | fid::HOST_MEMORY_BUFFER
        | fid::PERFORMANCE_CHARACTERISTICS
        | fid::ENHANCED_CONTROLLER_METADATA
        | fid::CONTROLLER_METADATA
        | fid::NAMESPACE_METADATA => 4096,
        fid::PREDICTABLE_LATENCY_MODE_CONFIG
        | fid::HOST_BEHAVIOR_SUPPORT
        | fid::EMBEDDED_MANAGEMENT_CONTROLLER_ADDRESS
        | fid::HOST_MANAGEMENT_AGENT_ADDRESS => 512,
        fid::FDP_EVENTS => 510,
        fid::APST | fid::NAMESPACE_ADMIN_LABEL => 256,
        fid::HOST_IDENTIFIER => 16,
        fid::TIMESTAMP => 8,
        _ => 0,
    }
}

/// Bytes of data that this Get Features or Set Features command transfers; 0 for any other command.
#[must_use]
pub const fn feature_transfer_length(entry: &SubmissionQueueEntry) -> u32 {
    let is_get = match entry.opcode {
        opcode::admin::GET_FEATURES => true,
        opcode::admin::SET_FEATURES => false,
        _ => return 0,
    };
    if is_get && feature_select(entry) == select::SUPPORTED_CAPABILITIES {
        return 0;
    }
    let fid = feature_id(entry);
    let cdw11 = entry.cdw11.get();
    match fid {
        fid::HOST_IDENTIFIER if cdw11 & EXTENDED_HOST_IDENTIFIER == 0 => 8,
        // Set Features has the buffer's address in the command; only Get Features returns a structure.
        fid::HOST_MEMORY_BUFFER if !is_get => 0,
        // NOET in bits 23:16 counts the events: two bytes of description each are read, one byte each is
        // written.
        fid::FDP_EVENTS => (cdw11 >> 16 & 0xff) * if is_get { 2 } else { 1 },
        _ => feature_data_length(fid),
    }
}

/// The feature that a Get Features or Set Features command names (CDW10 bits 7:0).
#[must_use]
pub const fn feature_id(entry: &SubmissionQueueEntry) -> u8 {
    entry.cdw10.get() as u8
}

/// Which value a Get Features command asks for: see [`select`].
#[must_use]
pub const fn feature_select(entry: &SubmissionQueueEntry) -> u8 {
    (entry.cdw10.get() >> 8) as u8 & 0x7
}

/// Whether a Set Features command asks to save the value (CDW10 bit 31).
#[must_use]
pub const fn feature_save(entry: &SubmissionQueueEntry) -> bool {
    entry.cdw10.get() >> 31 == 1
}

/// Number of Queues: CDW11 of Set Features and dword 0 of the completion, for I/O submission and completion
/// queues. Both counts are 1's based here and 0's based in the dword; 0 and counts above 65535 are brought
/// into the range that the field has.
#[must_use]
pub const fn number_of_queues(submission: u32, completion: u32) -> u32 {
    const fn field(count: u32) -> u32 {
        match count {
            0 => 0,
            // FFFFh is not a valid value of the field.
            0xffff.. => 0xfffe,
            _ => count - 1,
        }
    }
    field(completion) << 16 | field(submission)
}

/// The 1's based counts of I/O submission and completion queues in a dword of Number of Queues.
#[must_use]
pub const fn queue_counts(dword: u32) -> (u32, u32) {
    ((dword & 0xffff) + 1, (dword >> 16) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(opcode: u8, cdw10: u32, cdw11: u32) -> SubmissionQueueEntry {
        let mut entry = SubmissionQueueEntry::new(opcode);
        entry.cdw10.set(cdw10);
        entry.cdw11.set(cdw11);
        entry
    }

    fn get(fid: u8, cdw11: u32) -> u32 {
        feature_transfer_length(&command(opcode::admin::GET_FEATURES, fid.into(), cdw11))
    }

    fn set(fid: u8, cdw11: u32) -> u32 {
        feature_transfer_length(&command(opcode::admin::SET_FEATURES, fid.into(), cdw11))
    }

    #[test]
    fn features_are_declared_once_and_in_order() {
        assert!(fid::ALL.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(feature_name(0x07), Some("Number of Queues"));
        assert_eq!(feature_name(0xc0), None);
    }

    #[test]
    fn the_transfer_length_depends_on_the_whole_command() {
        assert_eq!((get(fid::TIMESTAMP, 0), set(fid::TIMESTAMP, 0)), (8, 8));
        assert_eq!((get(fid::HOST_IDENTIFIER, 0), get(fid::HOST_IDENTIFIER, 1)), (8, 16));
        assert_eq!((get(fid::HOST_MEMORY_BUFFER, 0), set(fid::HOST_MEMORY_BUFFER, 1)), (4096, 0));
        assert_eq!((get(fid::FDP_EVENTS, 0xff_0000), set(fid::FDP_EVENTS, 3 << 16)), (510, 3));
        assert_eq!((get(fid::NUMBER_OF_QUEUES, 0), set(fid::NUMBER_OF_QUEUES, 0)), (0, 0));
        assert_eq!(get(0xc0, 0), 0);
    }

    #[test]
    fn asking_for_capabilities_transfers_nothing() {
        let cdw10 = u32::from(select::SUPPORTED_CAPABILITIES) << 8 | u32::from(fid::APST);
        let entry = command(opcode::admin::GET_FEATURES, cdw10, 0);
        assert_eq!((feature_id(&entry), feature_select(&entry)), (fid::APST, 3));
        assert_eq!(feature_transfer_length(&entry), 0);
        // Set Features has no select: those bits are reserved there.
        assert_eq!(feature_transfer_length(&command(opcode::admin::SET_FEATURES, cdw10, 0)), 256);
        assert_eq!(feature_transfer_length(&command(opcode::admin::IDENTIFY, cdw10, 0)), 0);
    }

    #[test]
    fn no_command_transfers_more_than_its_feature_says() {
        for fid in 0..=u8::MAX {
            for cdw11 in [0, 1, u32::MAX] {
                assert!(get(fid, cdw11) <= feature_data_length(fid));
                assert!(set(fid, cdw11) <= feature_data_length(fid));
            }
        }
    }

    #[test]
    fn save_is_the_top_bit() {
        assert!(feature_save(&command(opcode::admin::SET_FEATURES, 1 << 31, 0)));
        assert!(!feature_save(&command(opcode::admin::SET_FEATURES, 0x7fff_ffff, 0)));
    }

    #[test]
    fn queue_counts_are_zero_based_on_the_wire() {
        assert_eq!(number_of_queues(4, 8), 0x0007_0003);
        assert_eq!(queue_counts(0x0007_0003), (4, 8));
        assert_eq!(number_of_queues(0, 100_000), 0xfffe_0000);
        assert_eq!(queue_counts(number_of_queues(65535, 1)), (65535, 1));
        assert_eq!(queue_counts(u32::MAX), (65536, 65536));
    }
}
