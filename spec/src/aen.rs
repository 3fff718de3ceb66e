//! The result of an Asynchronous Event Request (NVMe Base 2.0, 5.2).

use core::fmt;

use crate::log::lid;

/// Event type: error status.
pub const TYPE_ERROR: u8 = 0;
/// Event type: SMART / health status.
pub const TYPE_SMART: u8 = 1;
/// Event type: notice.
pub const TYPE_NOTICE: u8 = 2;
/// Event type: immediate.
pub const TYPE_IMMEDIATE: u8 = 3;
/// Event type: specific to an I/O command set.
pub const TYPE_IO_COMMAND_SET: u8 = 6;
/// Event type: the vendor's.
pub const TYPE_VENDOR: u8 = 7;

/// Error status: write to an invalid doorbell register.
pub const ERROR_INVALID_DOORBELL: u8 = 0x00;
/// Error status: invalid value written to a doorbell register.
pub const ERROR_INVALID_DOORBELL_VALUE: u8 = 0x01;
/// Error status: diagnostic failure.
pub const ERROR_DIAGNOSTIC_FAILURE: u8 = 0x02;
/// Error status: persistent internal error.
pub const ERROR_PERSISTENT_INTERNAL: u8 = 0x03;
/// Error status: transient internal error.
pub const ERROR_TRANSIENT_INTERNAL: u8 = 0x04;
/// Error status: firmware image load error.
pub const ERROR_FIRMWARE_IMAGE_LOAD: u8 = 0x05;

/// SMART / health status: NVM subsystem reliability.
pub const SMART_RELIABILITY: u8 = 0x00;
/// SMART / health status: temperature threshold.
pub const SMART_TEMPERATURE: u8 = 0x01;
/// SMART / health status: spare below threshold.
pub const SMART_SPARE: u8 = 0x02;

/// Notice: namespace attribute changed.
pub const NOTICE_NAMESPACE_ATTRIBUTE_CHANGED: u8 = 0x00;
/// Notice: firmware activation starting.
pub const NOTICE_FIRMWARE_ACTIVATION_STARTING: u8 = 0x01;
/// Notice: telemetry log changed.
pub const NOTICE_TELEMETRY_LOG_CHANGED: u8 = 0x02;
/// Notice: asymmetric namespace access change.
pub const NOTICE_ANA_CHANGE: u8 = 0x03;
/// Notice: predictable latency event aggregate log change.
pub const NOTICE_PREDICTABLE_LATENCY: u8 = 0x04;
/// Notice: LBA status information alert.
pub const NOTICE_LBA_STATUS: u8 = 0x05;
/// Notice: endurance group event aggregate log change.
pub const NOTICE_ENDURANCE_GROUP_EVENT: u8 = 0x06;
/// Notice: zone descriptor changed.
pub const NOTICE_ZONE_DESCRIPTOR_CHANGED: u8 = 0xef;
/// Notice: discovery log page change.
pub const NOTICE_DISCOVERY_LOG_CHANGE: u8 = 0xf0;

/// Immediate: normal NVM subsystem shutdown.
pub const IMMEDIATE_NORMAL_SUBSYSTEM_SHUTDOWN: u8 = 0x00;
/// Immediate: temperature threshold hysteresis recovery.
pub const IMMEDIATE_TEMPERATURE_HYSTERESIS_RECOVERY: u8 = 0x01;

/// I/O command set: reservation log page available.
pub const IO_COMMAND_SET_RESERVATION_LOG: u8 = 0x00;
/// I/O command set: sanitize operation completed.
pub const IO_COMMAND_SET_SANITIZE_COMPLETED: u8 = 0x01;
/// I/O command set: sanitize operation completed with unexpected deallocation.
pub const IO_COMMAND_SET_SANITIZE_UNEXPECTED_DEALLOCATION: u8 = 0x02;

/// What a completed Asynchronous Event Request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AsyncEvent {
    /// Event type, 0 to 7: see [`TYPE_NOTICE`] and its siblings.
    pub kind: u8,
    /// Event information; what it means depends on the type.
    pub info: u8,
    /// The log page to read. Events of this kind stay masked until it is read without retaining them.
    pub log_page: u8,
    /// The event specific parameter: what a few kinds of event are about, 0 for the others.
    pub parameter: u32,
}

impl AsyncEvent {
    /// The namespaces or their attributes have changed.
    pub const NAMESPACE_ATTRIBUTE_CHANGED: Self =
        Self::new(TYPE_NOTICE, NOTICE_NAMESPACE_ATTRIBUTE_CHANGED, lid::CHANGED_NAMESPACES);
    /// Zones have changed by themselves. [`AsyncEvent::parameter`] is their namespace.
    pub const ZONE_DESCRIPTOR_CHANGED: Self =
        Self::new(TYPE_NOTICE, NOTICE_ZONE_DESCRIPTOR_CHANGED, lid::CHANGED_ZONE_LIST);
    /// Firmware activation is starting.
    pub const FIRMWARE_ACTIVATION_STARTING: Self =
        Self::new(TYPE_NOTICE, NOTICE_FIRMWARE_ACTIVATION_STARTING, lid::FIRMWARE_SLOT);
    /// The controller has collected telemetry.
    pub const TELEMETRY_LOG_CHANGED: Self =
        Self::new(TYPE_NOTICE, NOTICE_TELEMETRY_LOG_CHANGED, lid::TELEMETRY_CONTROLLER);
    /// The ANA state of a group has changed.
    pub const ANA_CHANGE: Self = Self::new(TYPE_NOTICE, NOTICE_ANA_CHANGE, lid::ANA);
    /// The discovery log has changed.
    pub const DISCOVERY_LOG_CHANGE: Self =
        Self::new(TYPE_NOTICE, NOTICE_DISCOVERY_LOG_CHANGE, lid::DISCOVERY);

    /// The Reservation Notification log has a page to be read.
    pub const RESERVATION_LOG_AVAILABLE: Self =
        Self::new(TYPE_IO_COMMAND_SET, IO_COMMAND_SET_RESERVATION_LOG, lid::RESERVATION_NOTIFICATION);

    /// An event of type `kind` (its lowest three bits).
    #[must_use]
    pub const fn new(kind: u8, info: u8, log_page: u8) -> Self {
        Self { kind: kind & 0x7, info, log_page, parameter: 0 }
    }

    /// The same about this.
    #[must_use]
    pub const fn of(self, parameter: u32) -> Self {
        Self { parameter, ..self }
    }

    /// The event in dword 0 of a completion.
    #[must_use]
    pub const fn from_dw0(dw0: u32) -> Self {
        Self::new(dw0 as u8, (dw0 >> 8) as u8, (dw0 >> 16) as u8)
    }

    /// Dword 0 of a completion that reports this event.
    #[must_use]
    pub const fn into_dw0(self) -> u32 {
        (self.log_page as u32) << 16 | (self.info as u32) << 8 | (self.kind & 0x7) as u32
    }

    /// Dwords 0 and 1 of a completion that reports this event.
    #[must_use]
    pub const fn into_result(self) -> u64 {
        (self.parameter as u64) << 32 | self.into_dw0() as u64
    }

    /// What happened; `None` when it is unknown or the vendor's.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match (self.kind, self.info) {
            (TYPE_ERROR, ERROR_INVALID_DOORBELL) => "Write to Invalid Doorbell Register",
            (TYPE_ERROR, ERROR_INVALID_DOORBELL_VALUE) => "Invalid Doorbell Write Value",
            (TYPE_ERROR, ERROR_DIAGNOSTIC_FAILURE) => "Diagnostic Failure",
            (TYPE_ERROR, ERROR_PERSISTENT_INTERNAL) => "Persistent Internal Error",
            (TYPE_ERROR, ERROR_TRANSIENT_INTERNAL) => "Transient Internal Error",
            (TYPE_ERROR, ERROR_FIRMWARE_IMAGE_LOAD) => "Firmware Image Load Error",
            (TYPE_SMART, SMART_RELIABILITY) => "NVM Subsystem Reliability",
            (TYPE_SMART, SMART_TEMPERATURE) => "Temperature Threshold",
            (TYPE_SMART, SMART_SPARE) => "Spare Below Threshold",
            (TYPE_NOTICE, NOTICE_NAMESPACE_ATTRIBUTE_CHANGED) => "Namespace Attribute Changed",
            (TYPE_NOTICE, NOTICE_FIRMWARE_ACTIVATION_STARTING) => "Firmware Activation Starting",
            (TYPE_NOTICE, NOTICE_TELEMETRY_LOG_CHANGED) => "Telemetry Log Changed",
            (TYPE_NOTICE, NOTICE_ANA_CHANGE) => "Asymmetric Namespace Access Change",
            (TYPE_NOTICE, NOTICE_PREDICTABLE_LATENCY) => "Predictable Latency Event Aggregate Log Change",
            (TYPE_NOTICE, NOTICE_LBA_STATUS) => "LBA Status Information Alert",
            (TYPE_NOTICE, NOTICE_ENDURANCE_GROUP_EVENT) => "Endurance Group Event Aggregate Log Page Change",
            (TYPE_NOTICE, NOTICE_ZONE_DESCRIPTOR_CHANGED) => "Zone Descriptor Changed",
            (TYPE_NOTICE, NOTICE_DISCOVERY_LOG_CHANGE) => "Discovery Log Page Change",
            (TYPE_IMMEDIATE, IMMEDIATE_NORMAL_SUBSYSTEM_SHUTDOWN) => "Normal NVM Subsystem Shutdown",
            (TYPE_IMMEDIATE, IMMEDIATE_TEMPERATURE_HYSTERESIS_RECOVERY) => {
                "Temperature Threshold Hysteresis Recovery"
            }
            (TYPE_IO_COMMAND_SET, IO_COMMAND_SET_RESERVATION_LOG) => "Reservation Log Page Available",
            (TYPE_IO_COMMAND_SET, IO_COMMAND_SET_SANITIZE_COMPLETED) => "Sanitize Operation Completed",
            (TYPE_IO_COMMAND_SET, IO_COMMAND_SET_SANITIZE_UNEXPECTED_DEALLOCATION) => {
                "Sanitize Operation Completed With Unexpected Deallocation"
            }
            _ => return None,
        })
    }
}

impl fmt::Display for AsyncEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.name() {
            Some(name) => name,
            None if self.kind == TYPE_VENDOR => "Vendor specific event",
            None => "Unknown event",
        };
        let (kind, info, log_page) = (self.kind, self.info, self.log_page);
        write!(f, "{name} (type {kind:X}h info {info:02X}h log page {log_page:02X}h)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_the_dword_of_the_specification() {
        assert_eq!(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.into_dw0(), 0x0004_0002);
        assert_eq!(AsyncEvent::DISCOVERY_LOG_CHANGE.into_dw0(), 0x0070_f002);
        assert_eq!(AsyncEvent::from_dw0(0x000c_0302), AsyncEvent::ANA_CHANGE);
        assert_eq!(AsyncEvent::ZONE_DESCRIPTOR_CHANGED.of(3).into_result(), 0x0000_0003_00bf_ef02);
    }

    #[test]
    fn reserved_bits_do_not_leak_into_an_event() {
        let event = AsyncEvent::from_dw0(0xffff_ffff);
        assert_eq!((event.kind, event.info, event.log_page), (7, 0xff, 0xff));
        assert_eq!(event.into_dw0(), 0x00ff_ff07);
    }

    #[test]
    fn a_person_can_read_an_event() {
        assert_eq!(
            AsyncEvent::from_dw0(0x0002_0101).to_string(),
            "Temperature Threshold (type 1h info 01h log page 02h)"
        );
        assert_eq!(
            AsyncEvent::new(TYPE_VENDOR, 9, 0xc0).to_string(),
            "Vendor specific event (type 7h info 09h log page C0h)"
        );
    }
}
