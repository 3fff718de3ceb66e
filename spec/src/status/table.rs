//! Every status code of NVMe Base 2.0 and 2.1, of the NVM, Key Value and Zoned Namespace command sets, and of
//! fabrics commands, with the specification's names.

use super::Status;

/// Declares the constants and the function that names them, so that no code is without a name.
macro_rules! statuses {
    ($name:ident $list:ident { $(($sct:literal, $sc:literal) $constant:ident $text:literal,)* }) => {
        impl Status {
            $(
                #[doc = concat!($text, " (SCT ", stringify!($sct), ", SC ", stringify!($sc), ").")]
                pub const $constant: Status = Status::new($sct, $sc);
            )*
        }

        /// The name of the status with this code type (10:8) and code (7:0).
        pub(super) const fn $name(code: u16) -> Option<&'static str> {
            match (code >> 8, code & 0xff) {
                $(($sct, $sc) => Some($text),)*
                _ => None,
            }
        }

        #[cfg(test)]
        const $list: &[(Status, &str)] = &[$((Status::$constant, $text)),*];
    };
}

statuses! { name ALL {
    (0, 0x00) SUCCESS "Successful Completion",
    (0, 0x01) INVALID_OPCODE "Invalid Command Opcode",
    (0, 0x02) INVALID_FIELD "Invalid Field in Command",
    (0, 0x03) CID_CONFLICT "Command ID Conflict",
    (0, 0x04) DATA_TRANSFER_ERROR "Data Transfer Error",
    (0, 0x05) ABORTED_POWER_LOSS "Commands Aborted due to Power Loss Notification",
    (0, 0x06) INTERNAL_ERROR "Internal Error",
    (0, 0x07) ABORT_REQUESTED "Command Abort Requested",
    (0, 0x08) ABORTED_SQ_DELETION "Command Aborted due to SQ Deletion",
    (0, 0x09) ABORTED_FAILED_FUSED "Command Aborted due to Failed Fused Command",
    (0, 0x0a) ABORTED_MISSING_FUSED "Command Aborted due to Missing Fused Command",
    (0, 0x0b) INVALID_NAMESPACE_OR_FORMAT "Invalid Namespace or Format",
    (0, 0x0c) COMMAND_SEQUENCE_ERROR "Command Sequence Error",
    (0, 0x0d) INVALID_SGL_SEGMENT_DESCRIPTOR "Invalid SGL Segment Descriptor",
    (0, 0x0e) INVALID_SGL_DESCRIPTOR_COUNT "Invalid Number of SGL Descriptors",
    (0, 0x0f) DATA_SGL_LENGTH_INVALID "Data SGL Length Invalid",
    (0, 0x10) METADATA_SGL_LENGTH_INVALID "Metadata SGL Length Invalid",
    (0, 0x11) SGL_DESCRIPTOR_TYPE_INVALID "SGL Descriptor Type Invalid",
    (0, 0x12) INVALID_USE_OF_CMB "Invalid Use of Controller Memory Buffer",
    (0, 0x13) INVALID_PRP_OFFSET "PRP Offset Invalid",
    (0, 0x14) ATOMIC_WRITE_UNIT_EXCEEDED "Atomic Write Unit Exceeded",
    (0, 0x15) OPERATION_DENIED "Operation Denied",
    (0, 0x16) SGL_OFFSET_INVALID "SGL Offset Invalid",
    (0, 0x18) HOST_IDENTIFIER_INCONSISTENT "Host Identifier Inconsistent Format",
    (0, 0x19) KEEP_ALIVE_TIMEOUT_EXPIRED "Keep Alive Timer Expired",
    (0, 0x1a) KEEP_ALIVE_TIMEOUT_INVALID "Keep Alive Timeout Invalid",
    (0, 0x1b) ABORTED_PREEMPT_AND_ABORT "Command Aborted due to Preempt and Abort",
    (0, 0x1c) SANITIZE_FAILED "Sanitize Failed",
    (0, 0x1d) SANITIZE_IN_PROGRESS "Sanitize In Progress",
    (0, 0x1e) SGL_DATA_BLOCK_GRANULARITY_INVALID "SGL Data Block Granularity Invalid",
    (0, 0x1f) COMMAND_NOT_SUPPORTED_FOR_QUEUE_IN_CMB "Command Not Supported for Queue in CMB",
    (0, 0x20) NAMESPACE_IS_WRITE_PROTECTED "Namespace is Write Protected",
    (0, 0x21) COMMAND_INTERRUPTED "Command Interrupted",
    (0, 0x22) TRANSIENT_TRANSPORT_ERROR "Transient Transport Error",
    (0, 0x23) COMMAND_PROHIBITED_BY_LOCKDOWN "Command Prohibited by Command and Feature Lockdown",
    (0, 0x24) ADMIN_COMMAND_MEDIA_NOT_READY "Admin Command Media Not Ready",
    (0, 0x25) INVALID_KEY_TAG "Invalid Key Tag",
    (0, 0x26) HOST_DISPERSED_NAMESPACE_SUPPORT_NOT_ENABLED "Host Dispersed Namespace Support Not Enabled",
    (0, 0x27) HOST_IDENTIFIER_NOT_INITIALIZED "Host Identifier Not Initialized",
    (0, 0x28) INCORRECT_KEY "Incorrect Key",
    (0, 0x29) FDP_DISABLED "FDP Disabled",
    (0, 0x2a) INVALID_PLACEMENT_HANDLE_LIST "Invalid Placement Handle List",
    (0, 0x80) LBA_OUT_OF_RANGE "LBA Out of Range",
    (0, 0x81) CAPACITY_EXCEEDED "Capacity Exceeded",
    (0, 0x82) NAMESPACE_NOT_READY "Namespace Not Ready",
    (0, 0x83) RESERVATION_CONFLICT "Reservation Conflict",
    (0, 0x84) FORMAT_IN_PROGRESS "Format In Progress",
    (0, 0x85) INVALID_VALUE_SIZE "Invalid Value Size",
    (0, 0x86) INVALID_KEY_SIZE "Invalid Key Size",
    (0, 0x87) KV_KEY_DOES_NOT_EXIST "KV Key Does Not Exist",
    (0, 0x88) UNRECOVERED_ERROR "Unrecovered Error",
    (0, 0x89) KEY_EXISTS "Key Exists",

    (1, 0x00) COMPLETION_QUEUE_INVALID "Completion Queue Invalid",
    (1, 0x01) INVALID_QUEUE_IDENTIFIER "Invalid Queue Identifier",
    (1, 0x02) INVALID_QUEUE_SIZE "Invalid Queue Size",
    (1, 0x03) ABORT_COMMAND_LIMIT_EXCEEDED "Abort Command Limit Exceeded",
    (1, 0x05) ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED "Asynchronous Event Request Limit Exceeded",
    (1, 0x06) INVALID_FIRMWARE_SLOT "Invalid Firmware Slot",
    (1, 0x07) INVALID_FIRMWARE_IMAGE "Invalid Firmware Image",
    (1, 0x08) INVALID_INTERRUPT_VECTOR "Invalid Interrupt Vector",
    (1, 0x09) INVALID_LOG_PAGE "Invalid Log Page",
    (1, 0x0a) INVALID_FORMAT "Invalid Format",
    (1, 0x0b) FIRMWARE_REQUIRES_CONVENTIONAL_RESET "Firmware Activation Requires Conventional Reset",
    (1, 0x0c) INVALID_QUEUE_DELETION "Invalid Queue Deletion",
    (1, 0x0d) FEATURE_NOT_SAVEABLE "Feature Identifier Not Saveable",
    (1, 0x0e) FEATURE_NOT_CHANGEABLE "Feature Not Changeable",
    (1, 0x0f) FEATURE_NOT_NAMESPACE_SPECIFIC "Feature Not Namespace Specific",
    (1, 0x10) FIRMWARE_REQUIRES_SUBSYSTEM_RESET "Firmware Activation Requires NVM Subsystem Reset",
    (1, 0x11) FIRMWARE_REQUIRES_CONTROLLER_RESET "Firmware Activation Requires Controller Level Reset",
    (1, 0x12) FIRMWARE_REQUIRES_MAXIMUM_TIME_VIOLATION "Firmware Activation Requires Maximum Time Violation",
    (1, 0x13) FIRMWARE_ACTIVATION_PROHIBITED "Firmware Activation Prohibited",
    (1, 0x14) OVERLAPPING_RANGE "Overlapping Range",
    (1, 0x15) NAMESPACE_INSUFFICIENT_CAPACITY "Namespace Insufficient Capacity",
    (1, 0x16) NAMESPACE_IDENTIFIER_UNAVAILABLE "Namespace Identifier Unavailable",
    (1, 0x18) NAMESPACE_ALREADY_ATTACHED "Namespace Already Attached",
    (1, 0x19) NAMESPACE_IS_PRIVATE "Namespace Is Private",
    (1, 0x1a) NAMESPACE_NOT_ATTACHED "Namespace Not Attached",
    (1, 0x1b) THIN_PROVISIONING_NOT_SUPPORTED "Thin Provisioning Not Supported",
    (1, 0x1c) CONTROLLER_LIST_INVALID "Controller List Invalid",
    (1, 0x1d) DEVICE_SELF_TEST_IN_PROGRESS "Device Self-test In Progress",
    (1, 0x1e) BOOT_PARTITION_WRITE_PROHIBITED "Boot Partition Write Prohibited",
    (1, 0x1f) INVALID_CONTROLLER_IDENTIFIER "Invalid Controller Identifier",
    (1, 0x20) INVALID_SECONDARY_CONTROLLER_STATE "Invalid Secondary Controller State",
    (1, 0x21) INVALID_NUMBER_OF_CONTROLLER_RESOURCES "Invalid Number of Controller Resources",
    (1, 0x22) INVALID_RESOURCE_IDENTIFIER "Invalid Resource Identifier",
    (1, 0x23) SANITIZE_PROHIBITED_WITH_PMR "Sanitize Prohibited While Persistent Memory Region is Enabled",
    (1, 0x24) ANA_GROUP_IDENTIFIER_INVALID "ANA Group Identifier Invalid",
    (1, 0x25) ANA_ATTACH_FAILED "ANA Attach Failed",
    (1, 0x26) INSUFFICIENT_CAPACITY "Insufficient Capacity",
    (1, 0x27) NAMESPACE_ATTACHMENT_LIMIT_EXCEEDED "Namespace Attachment Limit Exceeded",
    (1, 0x28) PROHIBITION_NOT_SUPPORTED "Prohibition of Command Execution Not Supported",
    (1, 0x29) IO_COMMAND_SET_NOT_SUPPORTED "I/O Command Set Not Supported",
    (1, 0x2a) IO_COMMAND_SET_NOT_ENABLED "I/O Command Set Not Enabled",
    (1, 0x2b) IO_COMMAND_SET_COMBINATION_REJECTED "I/O Command Set Combination Rejected",
    (1, 0x2c) INVALID_IO_COMMAND_SET "Invalid I/O Command Set",
    (1, 0x2d) IDENTIFIER_UNAVAILABLE "Identifier Unavailable",
    (1, 0x2e) NAMESPACE_IS_DISPERSED "Namespace Is Dispersed",
    (1, 0x2f) INVALID_DISCOVERY_INFORMATION "Invalid Discovery Information",
    (1, 0x30) ZONING_DATA_STRUCTURE_LOCKED "Zoning Data Structure Locked",
    (1, 0x31) ZONING_DATA_STRUCTURE_NOT_FOUND "Zoning Data Structure Not Found",
    (1, 0x32) INSUFFICIENT_DISCOVERY_RESOURCES "Insufficient Discovery Resources",
    (1, 0x33) REQUESTED_FUNCTION_DISABLED "Requested Function Disabled",
    (1, 0x34) ZONEGROUP_ORIGINATOR_INVALID "ZoneGroup Originator Invalid",
    (1, 0x35) INVALID_HOST "Invalid Host",
    (1, 0x36) INVALID_NVM_SUBSYSTEM "Invalid NVM Subsystem",
    (1, 0x37) INVALID_CONTROLLER_DATA_QUEUE "Invalid Controller Data Queue",
    (1, 0x38) NOT_ENOUGH_RESOURCES "Not Enough Resources",
    (1, 0x39) CONTROLLER_SUSPENDED "Controller Suspended",
    (1, 0x3a) CONTROLLER_NOT_SUSPENDED "Controller Not Suspended",
    (1, 0x3b) CONTROLLER_DATA_QUEUE_FULL "Controller Data Queue Full",
    (1, 0x7f) STREAM_RESOURCE_ALLOCATION_FAILED "Stream Resource Allocation Failed",
    (1, 0x80) CONFLICTING_ATTRIBUTES "Conflicting Attributes",
    (1, 0x81) INVALID_PROTECTION_INFORMATION "Invalid Protection Information",
    (1, 0x82) WRITE_TO_READ_ONLY_RANGE "Attempted Write to Read Only Range",
    (1, 0x83) COMMAND_SIZE_LIMIT_EXCEEDED "Command Size Limit Exceeded",
    (1, 0x84) INVALID_COMMAND_ID "Invalid Command ID",
    (1, 0x85) INCOMPATIBLE_NAMESPACE_OR_FORMAT "Incompatible Namespace or Format",
    (1, 0x86) FAST_COPY_NOT_POSSIBLE "Fast Copy Not Possible",
    (1, 0x87) OVERLAPPING_IO_RANGE "Overlapping I/O Range",
    (1, 0x88) NAMESPACE_NOT_REACHABLE "Namespace Not Reachable",
    (1, 0x89) INSUFFICIENT_RESOURCES "Insufficient Resources",
    (1, 0xb6) INVALID_ZONE_OPERATION_REQUEST "Invalid Zone Operation Request",
    (1, 0xb7) ZRWA_RESOURCES_UNAVAILABLE "ZRWA Resources Unavailable",
    (1, 0xb8) ZONE_BOUNDARY_ERROR "Zone Boundary Error",
    (1, 0xb9) ZONE_IS_FULL "Zone Is Full",
    (1, 0xba) ZONE_IS_READ_ONLY "Zone Is Read Only",
    (1, 0xbb) ZONE_IS_OFFLINE "Zone Is Offline",
    (1, 0xbc) ZONE_INVALID_WRITE "Zone Invalid Write",
    (1, 0xbd) TOO_MANY_ACTIVE_ZONES "Too Many Active Zones",
    (1, 0xbe) TOO_MANY_OPEN_ZONES "Too Many Open Zones",
    (1, 0xbf) INVALID_ZONE_STATE_TRANSITION "Invalid Zone State Transition",

    (2, 0x80) WRITE_FAULT "Write Fault",
    (2, 0x81) UNRECOVERED_READ_ERROR "Unrecovered Read Error",
    (2, 0x82) GUARD_CHECK_ERROR "End-to-end Guard Check Error",
    (2, 0x83) APPLICATION_TAG_CHECK_ERROR "End-to-end Application Tag Check Error",
    (2, 0x84) REFERENCE_TAG_CHECK_ERROR "End-to-end Reference Tag Check Error",
    (2, 0x85) COMPARE_FAILURE "Compare Failure",
    (2, 0x86) ACCESS_DENIED "Access Denied",
    (2, 0x87) DEALLOCATED_OR_UNWRITTEN_BLOCK "Deallocated or Unwritten Logical Block",
    (2, 0x88) STORAGE_TAG_CHECK_ERROR "End-to-end Storage Tag Check Error",

    (3, 0x00) INTERNAL_PATH_ERROR "Internal Path Error",
    (3, 0x01) ANA_PERSISTENT_LOSS "Asymmetric Access Persistent Loss",
    (3, 0x02) ANA_INACCESSIBLE "Asymmetric Access Inaccessible",
    (3, 0x03) ANA_TRANSITION "Asymmetric Access Transition",
    (3, 0x60) CONTROLLER_PATHING_ERROR "Controller Pathing Error",
    (3, 0x70) HOST_PATHING_ERROR "Host Pathing Error",
    (3, 0x71) ABORTED_BY_HOST "Command Aborted By Host",
}}

statuses! { fabrics_name FABRICS {
    (1, 0x80) CONNECT_INCOMPATIBLE_FORMAT "Connect Incompatible Format",
    (1, 0x81) CONNECT_CONTROLLER_BUSY "Connect Controller Busy",
    (1, 0x82) CONNECT_INVALID_PARAMETERS "Connect Invalid Parameters",
    (1, 0x83) CONNECT_RESTART_DISCOVERY "Connect Restart Discovery",
    (1, 0x84) CONNECT_INVALID_HOST "Connect Invalid Host",
    (1, 0x85) INVALID_QUEUE_TYPE "Invalid Queue Type",
    (1, 0x90) DISCOVERY_RESTART "Discover Restart",
    (1, 0x91) AUTHENTICATION_REQUIRED "Authentication Required",
}}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_code_is_declared_twice_and_all_are_in_order() {
        for table in [ALL, FABRICS] {
            for pair in table.windows(2) {
                assert!(pair[0].0.bits() < pair[1].0.bits(), "{} and {}", pair[0].1, pair[1].1);
            }
        }
    }

    #[test]
    fn no_name_is_used_twice() {
        let mut names: Vec<_> = ALL.iter().chain(FABRICS).map(|(_, name)| *name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }

    #[test]
    fn every_status_knows_its_name() {
        for (status, text) in ALL {
            assert_eq!(status.name(), Some(*text));
            assert_eq!(status.with_dnr().with_crd(3).name(), Some(*text));
        }
        for (status, text) in FABRICS {
            assert_eq!(status.fabrics_name(), Some(*text));
        }
    }
}
