//! The fields of Identify data that are sets of flags. Unknown bits are kept: `from_bits_retain`.

use bitflags::bitflags;

bitflags! {
    /// CMIC: controller multi-path I/O and namespace sharing capabilities.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Cmic: u8 {
        /// The NVM subsystem may have more than one port.
        const MULTIPLE_PORTS = 1 << 0;
        /// The NVM subsystem may have more than one controller.
        const MULTIPLE_CONTROLLERS = 1 << 1;
        /// The controller is a virtual function.
        const VIRTUAL_FUNCTION = 1 << 2;
        /// Asymmetric namespace access is reported.
        const ANA_REPORTING = 1 << 3;
    }
}

bitflags! {
    /// OAES: optional asynchronous events supported. The same bits enable them (feature 0Bh).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Oaes: u32 {
        /// Namespace attribute notices.
        const NAMESPACE_ATTRIBUTE = 1 << 8;
        /// Firmware activation notices.
        const FIRMWARE_ACTIVATION = 1 << 9;
        /// Asymmetric namespace access change notices.
        const ANA_CHANGE = 1 << 11;
        /// Predictable latency event aggregate log change notices.
        const PREDICTABLE_LATENCY = 1 << 12;
        /// LBA status information alert notices.
        const LBA_STATUS_INFORMATION = 1 << 13;
        /// Endurance group event aggregate log change notices.
        const ENDURANCE_GROUP_EVENT = 1 << 14;
        /// Normal NVM subsystem shutdown events.
        const NORMAL_SUBSYSTEM_SHUTDOWN = 1 << 15;
        /// Temperature threshold hysteresis recovery events.
        const TEMPERATURE_HYSTERESIS = 1 << 16;
        /// Reachability group change notices.
        const REACHABILITY_GROUPS_CHANGE = 1 << 17;
        /// Allocated namespace attribute notices.
        const ALLOCATED_NAMESPACE_ATTRIBUTE = 1 << 19;
        /// Zone descriptor changed notices.
        const ZONE_DESCRIPTOR_CHANGED = 1 << 27;
        /// Discovery log page change notices.
        const DISCOVERY_LOG_CHANGE = 1 << 31;
    }
}

bitflags! {
    /// CTRATT: controller attributes.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Ctratt: u32 {
        /// Host identifiers of 128 bits.
        const HOST_ID_128 = 1 << 0;
        /// Non-operational power state permissive mode.
        const NON_OPERATIONAL_PERMISSIVE = 1 << 1;
        /// NVM sets.
        const NVM_SETS = 1 << 2;
        /// Read recovery levels.
        const READ_RECOVERY_LEVELS = 1 << 3;
        /// Endurance groups.
        const ENDURANCE_GROUPS = 1 << 4;
        /// Predictable latency mode.
        const PREDICTABLE_LATENCY = 1 << 5;
        /// Traffic based keep alive: any command restarts the timer.
        const TRAFFIC_BASED_KEEP_ALIVE = 1 << 6;
        /// Namespace granularity.
        const NAMESPACE_GRANULARITY = 1 << 7;
        /// Submission queue associations.
        const SQ_ASSOCIATIONS = 1 << 8;
        /// The UUID list.
        const UUID_LIST = 1 << 9;
        /// More than one domain.
        const MULTI_DOMAIN = 1 << 10;
        /// Fixed capacity management.
        const FIXED_CAPACITY_MANAGEMENT = 1 << 11;
        /// Variable capacity management.
        const VARIABLE_CAPACITY_MANAGEMENT = 1 << 12;
        /// Endurance groups can be deleted.
        const DELETE_ENDURANCE_GROUP = 1 << 13;
        /// NVM sets can be deleted.
        const DELETE_NVM_SET = 1 << 14;
        /// Extended LBA formats (more than 16).
        const EXTENDED_LBA_FORMATS = 1 << 15;
        /// MDTS does not include interleaved metadata.
        const MDTS_WITHOUT_METADATA = 1 << 16;
        /// The host memory buffer may be restricted in non-operational states.
        const HMB_RESTRICT = 1 << 17;
        /// Reservations and the host identifier interact (RHII).
        const RESERVATIONS_HOST_ID_INTERACTION = 1 << 18;
        /// Flexible data placement.
        const FLEXIBLE_DATA_PLACEMENT = 1 << 19;
    }
}

bitflags! {
    /// OACS: optional admin commands supported.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Oacs: u16 {
        /// Security Send and Security Receive.
        const SECURITY = 1 << 0;
        /// Format NVM.
        const FORMAT_NVM = 1 << 1;
        /// Firmware Commit and Firmware Image Download.
        const FIRMWARE = 1 << 2;
        /// Namespace Management and Namespace Attachment.
        const NAMESPACE_MANAGEMENT = 1 << 3;
        /// Device Self-test.
        const DEVICE_SELF_TEST = 1 << 4;
        /// Directive Send and Directive Receive.
        const DIRECTIVES = 1 << 5;
        /// NVMe-MI Send and NVMe-MI Receive.
        const NVME_MI = 1 << 6;
        /// Virtualization Management.
        const VIRTUALIZATION_MANAGEMENT = 1 << 7;
        /// Doorbell Buffer Config.
        const DOORBELL_BUFFER_CONFIG = 1 << 8;
        /// Get LBA Status.
        const GET_LBA_STATUS = 1 << 9;
        /// Lockdown.
        const LOCKDOWN = 1 << 10;
        /// Host managed live migration.
        const HOST_MANAGED_LIVE_MIGRATION = 1 << 11;
    }
}

bitflags! {
    /// LPA: log page attributes.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Lpa: u8 {
        /// SMART / Health Information for each namespace.
        const SMART_PER_NAMESPACE = 1 << 0;
        /// Commands Supported and Effects.
        const COMMANDS_SUPPORTED_AND_EFFECTS = 1 << 1;
        /// Extended data: 32-bit NUMD and a log page offset.
        const EXTENDED_DATA = 1 << 2;
        /// Telemetry.
        const TELEMETRY = 1 << 3;
        /// Persistent Event log.
        const PERSISTENT_EVENT = 1 << 4;
        /// Supported Log Pages and the other logs that describe the controller.
        const SUPPORTED_LOG_PAGES = 1 << 5;
        /// Telemetry data area 4.
        const TELEMETRY_AREA_4 = 1 << 6;
    }
}

bitflags! {
    /// ANACAP: asymmetric namespace access capabilities.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Anacap: u8 {
        /// ANA Optimized state is reported.
        const OPTIMIZED = 1 << 0;
        /// ANA Non-Optimized state is reported.
        const NON_OPTIMIZED = 1 << 1;
        /// ANA Inaccessible state is reported.
        const INACCESSIBLE = 1 << 2;
        /// ANA Persistent Loss state is reported.
        const PERSISTENT_LOSS = 1 << 3;
        /// ANA Change state is reported.
        const CHANGE = 1 << 4;
        /// A namespace keeps its ANA group while attached.
        const GROUP_STATIC = 1 << 6;
        /// Namespace Management accepts an ANA group.
        const GROUP_MANAGED = 1 << 7;
    }
}

bitflags! {
    /// ONCS: optional NVM commands supported.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Oncs: u16 {
        /// Compare.
        const COMPARE = 1 << 0;
        /// Write Uncorrectable.
        const WRITE_UNCORRECTABLE = 1 << 1;
        /// Dataset Management.
        const DATASET_MANAGEMENT = 1 << 2;
        /// Write Zeroes.
        const WRITE_ZEROES = 1 << 3;
        /// Save in Set Features and Select in Get Features.
        const FEATURE_SAVE = 1 << 4;
        /// Reservations.
        const RESERVATIONS = 1 << 5;
        /// The Timestamp feature.
        const TIMESTAMP = 1 << 6;
        /// Verify.
        const VERIFY = 1 << 7;
        /// Copy.
        const COPY = 1 << 8;
        /// A Copy of one range is atomic as a write is.
        const COPY_ATOMIC = 1 << 9;
        /// Every Copy is a fast one (NVMALFC, since 2.1).
        const ALL_FAST_COPY = 1 << 10;
        /// Write Zeroes with Deallocate has a size limit of its own (MAXWZD).
        const WRITE_ZEROES_DEALLOCATE = 1 << 11;
        /// Write Zeroes can zero a whole namespace.
        const NAMESPACE_ZEROES = 1 << 12;
    }
}

bitflags! {
    /// FUSES: fused operation support.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Fuses: u16 {
        /// Compare and Write.
        const COMPARE_AND_WRITE = 1 << 0;
    }
}

bitflags! {
    /// VWC: volatile write cache.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Vwc: u8 {
        /// There is a volatile write cache: data is safe only after Flush or with FUA.
        const PRESENT = 1 << 0;
        /// It is reported what Flush with the broadcast NSID does: it fails, but for `FLUSH_ALL`.
        const FLUSH_ALL_REPORTED = 0b10 << 1;
        /// Flush with the broadcast NSID flushes all namespaces. Includes `FLUSH_ALL_REPORTED`.
        const FLUSH_ALL = 0b11 << 1;
    }
}

bitflags! {
    /// SGLS: SGL support.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Sgls: u32 {
        /// SGLs without any requirement on alignment.
        const SUPPORTED = 0b01;
        /// SGLs whose addresses and lengths are multiples of four bytes.
        const SUPPORTED_DWORD_ALIGNED = 0b10;
        /// Keyed SGL data block descriptors.
        const KEYED = 1 << 2;
        /// SGL bit bucket descriptors.
        const BIT_BUCKET = 1 << 16;
        /// A byte aligned contiguous metadata buffer.
        const METADATA_BYTE_ALIGNED = 1 << 17;
        /// An SGL may be longer than the data.
        const LONGER_THAN_DATA = 1 << 18;
        /// An SGL for metadata in MPTR.
        const METADATA_SGL = 1 << 19;
        /// The address may be an offset: in-capsule data.
        const OFFSET = 1 << 20;
        /// Transport SGL data block descriptors.
        const TRANSPORT = 1 << 21;
    }
}

bitflags! {
    /// OFCS: optional fabrics commands supported.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Ofcs: u16 {
        /// Disconnect.
        const DISCONNECT = 1 << 0;
    }
}

bitflags! {
    /// NSFEAT: namespace features.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Nsfeat: u8 {
        /// Thin provisioning.
        const THIN_PROVISIONING = 1 << 0;
        /// NAWUN, NAWUPF and NACWU are those of this namespace.
        const ATOMIC_BOUNDARIES = 1 << 1;
        /// Reading deallocated blocks can be made an error.
        const DEALLOCATED_ERROR = 1 << 2;
        /// NGUID and EUI64 are never used again for another namespace.
        const IDENTIFIERS_NOT_REUSED = 1 << 3;
        /// NPWG, NPWA, NPDG, NPDA and NOWS are valid.
        const OPTIMAL_IO = 1 << 4;
    }
}

bitflags! {
    /// NMIC: namespace multi-path I/O and sharing capabilities.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Nmic: u8 {
        /// More than one controller may be attached at once.
        const SHARED = 1 << 0;
        /// The namespace is dispersed.
        const DISPERSED = 1 << 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_that_nobody_has_named_survive() {
        assert_eq!(Oacs::from_bits_retain(0xf002).bits(), 0xf002);
        assert!(Oacs::from_bits_retain(0xf002).contains(Oacs::FORMAT_NVM));
        assert_eq!(Ctratt::from_bits_retain(u32::MAX).bits(), u32::MAX);
    }

    #[test]
    fn flags_stand_at_the_bits_of_the_specification() {
        assert_eq!(Oncs::TIMESTAMP.bits(), 0x40);
        assert_eq!(Ctratt::TRAFFIC_BASED_KEEP_ALIVE.bits(), 0x40);
        assert_eq!(Ctratt::EXTENDED_LBA_FORMATS.bits(), 0x8000);
        assert_eq!(Oacs::GET_LBA_STATUS.bits(), 0x200);
        assert_eq!(Oaes::DISCOVERY_LOG_CHANGE.bits(), 0x8000_0000);
        assert_eq!((Sgls::SUPPORTED | Sgls::OFFSET | Sgls::TRANSPORT).bits(), 0x30_0001);
        assert_eq!((Vwc::PRESENT | Vwc::FLUSH_ALL).bits(), 0x7);
    }
}
