//! What an event says.

use std::fmt;

use gangway_spec::aen::{self, AsyncEvent};

/// An event that the controller told of. It was cleared by reading its log page: further ones of its type can come.
/// Telemetry that the controller collected is left to be cleared by whoever fetches it (log page 08h, without Retain
/// Asynchronous Event).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened, as the controller put it.
    pub event: AsyncEvent,
    /// The event specific parameter (dword 1): a namespace, for events of zones.
    pub parameter: u32,
    /// The log page, or the beginning of a long one; empty when the event names none, or it could not be read.
    pub page: Vec<u8>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// An error that belongs to no command. The page is the error log.
    Error,
    /// The health of the drive changed. The page is the SMART log.
    Health {
        /// The critical warnings at present ([`SmartLog`](gangway_spec::log::SmartLog) names the bits), when the page
        /// could be read.
        critical_warning: Option<u8>,
    },
    /// Namespaces came, went or changed.
    NamespacesChanged(ChangedNamespaces),
    /// The controller stops for a while to activate firmware. Deadlines were put off.
    FirmwareActivationStarting,
    /// The controller collected telemetry.
    TelemetryChanged,
    /// The state of an ANA group changed. The page is the ANA log, or its first 4096 bytes.
    AnaChanged,
    /// Zones of a namespace changed by themselves. The page is its list of changed zones.
    ZonesChanged {
        /// The namespace.
        nsid: u32,
    },
    /// A reservation that this host takes part in changed. The page is one reservation notification.
    ReservationChanged,
    /// A Sanitize ended. The page is the Sanitize Status log.
    SanitizeCompleted,
    /// The NVM subsystem is about to be shut down.
    SubsystemShutdown,
    /// Something that the vendor knows.
    Vendor,
    /// Something else.
    Other,
}

/// Which namespaces changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangedNamespaces {
    /// These, ascending.
    These(Vec<u32>),
    /// More than the list has room for, or the list could not be read: look at all.
    Any,
}

impl Event {
    /// What happened.
    pub fn kind(&self) -> EventKind {
        match (self.event.kind, self.event.info) {
            (aen::TYPE_ERROR, _) => EventKind::Error,
            (aen::TYPE_SMART, _) | (aen::TYPE_IMMEDIATE, aen::IMMEDIATE_TEMPERATURE_HYSTERESIS_RECOVERY) => {
                EventKind::Health { critical_warning: self.page.first().copied() }
            }
            (aen::TYPE_NOTICE, aen::NOTICE_NAMESPACE_ATTRIBUTE_CHANGED) => {
                EventKind::NamespacesChanged(ChangedNamespaces::listed(&self.page))
            }
            (aen::TYPE_NOTICE, aen::NOTICE_FIRMWARE_ACTIVATION_STARTING) => {
                EventKind::FirmwareActivationStarting
            }
            (aen::TYPE_NOTICE, aen::NOTICE_TELEMETRY_LOG_CHANGED) => EventKind::TelemetryChanged,
            (aen::TYPE_NOTICE, aen::NOTICE_ANA_CHANGE) => EventKind::AnaChanged,
            (aen::TYPE_NOTICE, aen::NOTICE_ZONE_DESCRIPTOR_CHANGED) => {
                EventKind::ZonesChanged { nsid: self.parameter }
            }
            (aen::TYPE_IMMEDIATE, aen::IMMEDIATE_NORMAL_SUBSYSTEM_SHUTDOWN) => EventKind::SubsystemShutdown,
            (aen::TYPE_IO_COMMAND_SET, aen::IO_COMMAND_SET_RESERVATION_LOG) => EventKind::ReservationChanged,
            (
                aen::TYPE_IO_COMMAND_SET,
                aen::IO_COMMAND_SET_SANITIZE_COMPLETED | aen::IO_COMMAND_SET_SANITIZE_UNEXPECTED_DEALLOCATION,
            ) => EventKind::SanitizeCompleted,
            (aen::TYPE_VENDOR, _) => EventKind::Vendor,
            _ => EventKind::Other,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.event)?;
        match self.kind() {
            EventKind::Health { critical_warning: Some(bits) } => write!(f, ", critical warning {bits:#04x}"),
            EventKind::NamespacesChanged(ChangedNamespaces::These(nsids)) => {
                write!(f, ", namespaces {nsids:?}")
            }
            _ => Ok(()),
        }
    }
}

impl ChangedNamespaces {
    /// Reads a Changed Namespace List (NVMe Base 2.0, 5.16.1.5): identifiers up to a zero, or FFFFFFFFh alone when there
    /// are too many.
    fn listed(page: &[u8]) -> Self {
        let ids = page.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]));
        let ids: Vec<u32> = ids.take_while(|&id| id != 0).collect();
        if page.is_empty() || ids.contains(&u32::MAX) { Self::Any } else { Self::These(ids) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(dw0: u32, page: &[u8]) -> EventKind {
        Event { event: AsyncEvent::from_dw0(dw0), parameter: 3, page: page.to_vec() }.kind()
    }

    #[test]
    fn events_are_what_their_type_and_information_say() {
        assert_eq!(kind(0x0001_0300, &[]), EventKind::Error);
        assert_eq!(kind(0x0002_0101, &[2, 0]), EventKind::Health { critical_warning: Some(2) });
        assert_eq!(kind(0x0002_0101, &[]), EventKind::Health { critical_warning: None });
        assert_eq!(kind(0x0003_0102, &[]), EventKind::FirmwareActivationStarting);
        assert_eq!(kind(0x00bf_ef02, &[]), EventKind::ZonesChanged { nsid: 3 });
        assert_eq!(kind(0x0081_0106, &[]), EventKind::SanitizeCompleted);
        assert_eq!(kind(0x0081_0206, &[]), EventKind::SanitizeCompleted);
        assert_eq!(kind(0x00c0_0007, &[]), EventKind::Vendor);
        assert_eq!(kind(0x00c0_0004, &[]), EventKind::Other);
    }

    #[test]
    fn a_list_of_changed_namespaces_ends_at_a_zero_and_may_stand_for_all() {
        let page = |ids: &[u32]| ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>();
        let changed = |ids| match kind(0x0004_0002, &page(ids)) {
            EventKind::NamespacesChanged(changed) => changed,
            other => panic!("{other:?}"),
        };
        assert_eq!(changed(&[2, 5, 0, 7]), ChangedNamespaces::These(vec![2, 5]));
        assert_eq!(changed(&[0, 0]), ChangedNamespaces::These(vec![]));
        assert_eq!(changed(&[u32::MAX, 0]), ChangedNamespaces::Any);
        assert_eq!(changed(&[]), ChangedNamespaces::Any, "the page could not be read");
    }
}
