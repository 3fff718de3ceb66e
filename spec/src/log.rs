//! Log pages, and the command that reads them (NVMe Base 2.0, 5.16).

mod get;
mod operations;
mod pages;

pub use get::GetLogPage;
pub use operations::{DeviceSelfTestLog, SanitizeLog, SelfTestResult, TelemetryHeader};
pub use pages::{CommandsSupportedAndEffectsLog, ErrorLogEntry, FirmwareSlotLog, SmartLog};

use bitfield_struct::bitfield;

/// Log page identifiers.
pub mod lid {
    /// Declares the constants and the function that names them.
    macro_rules! log_pages {
        ($($name:ident = $value:literal $text:literal,)*) => {
            $(
                #[doc = concat!($text, ".")]
                pub const $name: u8 = $value;
            )*

            /// The specification's name of a log page; `None` when it is unknown or the vendor's.
            #[must_use]
            pub const fn name(lid: u8) -> Option<&'static str> {
                match lid {
                    $($value => Some($text),)*
                    _ => None,
                }
            }

            #[cfg(test)]
            pub(super) const ALL: &[u8] = &[$($value),*];
        };
    }

    log_pages! {
        SUPPORTED_LOG_PAGES = 0x00 "Supported Log Pages",
        ERROR = 0x01 "Error Information",
        SMART = 0x02 "SMART / Health Information",
        FIRMWARE_SLOT = 0x03 "Firmware Slot Information",
        CHANGED_NAMESPACES = 0x04 "Changed Namespace List",
        COMMANDS_SUPPORTED_AND_EFFECTS = 0x05 "Commands Supported and Effects",
        DEVICE_SELF_TEST = 0x06 "Device Self-test",
        TELEMETRY_HOST = 0x07 "Telemetry Host-Initiated",
        TELEMETRY_CONTROLLER = 0x08 "Telemetry Controller-Initiated",
        ENDURANCE_GROUP = 0x09 "Endurance Group Information",
        PREDICTABLE_LATENCY_PER_NVM_SET = 0x0a "Predictable Latency Per NVM Set",
        PREDICTABLE_LATENCY_EVENT_AGGREGATE = 0x0b "Predictable Latency Event Aggregate",
        ANA = 0x0c "Asymmetric Namespace Access",
        PERSISTENT_EVENT = 0x0d "Persistent Event Log",
        LBA_STATUS = 0x0e "LBA Status Information",
        ENDURANCE_GROUP_EVENT_AGGREGATE = 0x0f "Endurance Group Event Aggregate",
        MEDIA_UNIT_STATUS = 0x10 "Media Unit Status",
        SUPPORTED_CAPACITY_CONFIGURATION_LIST = 0x11 "Supported Capacity Configuration List",
        FEATURE_IDENTIFIERS_EFFECTS = 0x12 "Feature Identifiers Supported and Effects",
        NVME_MI_COMMANDS_EFFECTS = 0x13 "NVMe-MI Commands Supported and Effects",
        COMMAND_AND_FEATURE_LOCKDOWN = 0x14 "Command and Feature Lockdown",
        BOOT_PARTITION = 0x15 "Boot Partition",
        ROTATIONAL_MEDIA = 0x16 "Rotational Media Information",
        DISPERSED_NAMESPACE_SUBSYSTEMS = 0x17 "Dispersed Namespace Participating NVM Subsystems",
        MANAGEMENT_ADDRESS_LIST = 0x18 "Management Address List",
        PHYSICAL_INTERFACE_RECEIVER_EYE = 0x19 "Physical Interface Receiver Eye Opening Measurement",
        REACHABILITY_GROUPS = 0x1a "Reachability Groups",
        REACHABILITY_ASSOCIATIONS = 0x1b "Reachability Associations",
        CHANGED_ALLOCATED_NAMESPACES = 0x1c "Changed Allocated Namespace List",
        FDP_CONFIGURATIONS = 0x20 "FDP Configurations",
        RECLAIM_UNIT_HANDLE_USAGE = 0x21 "Reclaim Unit Handle Usage",
        FDP_STATISTICS = 0x22 "FDP Statistics",
        FDP_EVENTS = 0x23 "FDP Events",
        DISCOVERY = 0x70 "Discovery",
        HOST_DISCOVERY = 0x71 "Host Discovery",
        AVE_DISCOVERY = 0x72 "AVE Discovery",
        PULL_MODEL_DDC_REQUEST = 0x73 "Pull Model DDC Request",
        RESERVATION_NOTIFICATION = 0x80 "Reservation Notification",
        SANITIZE_STATUS = 0x81 "Sanitize Status",
        CHANGED_ZONE_LIST = 0xbf "Changed Zone List",
    }
}

/// One entry of the Commands Supported and Effects log (NVMe Base 2.0, figure 211). The Feature
/// Identifiers log uses the same lowest bits.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CommandEffects {
    /// CSUPP: the command is supported.
    pub supported: bool,
    /// LBCC: may change user data.
    pub logical_block_content_change: bool,
    /// NCC: may change the capability of a namespace.
    pub namespace_capability_change: bool,
    /// NIC: may change which namespaces there are.
    pub namespace_inventory_change: bool,
    /// CCC: may change the controller's capabilities.
    pub controller_capability_change: bool,
    #[bits(9)]
    __: u16,
    /// CSER: relaxations of CSE.
    #[bits(2)]
    pub relaxations: u8,
    /// CSE: 0 no restriction, 1 no other command for the namespace, 2 no other command at all.
    #[bits(3)]
    pub execution: u8,
    /// UUID Index in the command is honoured.
    pub uuid_selection: bool,
    /// CSP: what the command affects.
    #[bits(12)]
    pub scope: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_pages_are_declared_once_and_in_order() {
        assert!(lid::ALL.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(lid::name(lid::SMART), Some("SMART / Health Information"));
        assert_eq!(lid::name(0xc0), None);
    }

    #[test]
    fn effects_stand_at_the_bits_of_the_specification() {
        let write = CommandEffects::new().with_supported(true).with_logical_block_content_change(true);
        assert_eq!(write.into_bits(), 0x3);
        assert_eq!(CommandEffects::new().with_relaxations(3).into_bits(), 0xc000);
        assert_eq!(CommandEffects::new().with_execution(7).into_bits(), 0x7_0000);
        assert_eq!(CommandEffects::new().with_uuid_selection(true).into_bits(), 0x8_0000);
        assert_eq!(CommandEffects::new().with_scope(0xfff).into_bits(), 0xfff0_0000);
    }
}
