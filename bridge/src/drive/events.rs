//! What happens to a drive, for the control plane and for operators.

use std::sync::{Arc, mpsc};

use gangway_driver::controller::{Event, EventKind};
use gangway_spec::identify::Oaes;
use gangway_spec::log::{SanitizeLog, SmartLog};
use zerocopy::FromBytes;

use super::DriveNamespace;

/// Something that happened to a drive.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DriveEvent {
    /// The drive told of something. Its log page was read, so that the next event of its type can come.
    Reported(Event),
    /// The active namespaces or their formats are others now.
    Namespaces(Arc<[DriveNamespace]>),
    /// It is being reset; commands wait.
    Resetting,
    /// It was removed; it is looked for.
    Removed,
    /// It works again, after a reset or after it was removed.
    Works,
    /// It is given up: all commands fail until the program is started again.
    Failed,
}

/// What is always to be told of, as the Asynchronous Event Configuration has it: critical warnings, namespaces, firmware
/// that is activated, and zones: also a host that wants no events may ask which of them have changed.
pub(super) const OWN_EVENTS: u32 = 0xff
    | Oaes::NAMESPACE_ATTRIBUTE.bits()
    | Oaes::FIRMWARE_ACTIVATION.bits()
    | Oaes::ZONE_DESCRIPTOR_CHANGED.bits();

/// Namespaces that changed, to be put in force on all reactors.
#[derive(Debug)]
pub(crate) struct NamespaceChange {
    pub(crate) namespaces: Arc<[DriveNamespace]>,
    /// Told when no reactor goes by the old ones any more.
    pub(crate) done: mpsc::Sender<()>,
}

/// What an event means to whoever runs the drive, and whether something is wrong with it.
pub(super) fn explain(event: &Event) -> (bool, String) {
    let text = |text: &str| text.to_owned();
    match event.kind() {
        EventKind::Error => (true, format!("it reports an error of its own ({event}); see its error log")),
        EventKind::Health { critical_warning: None } => {
            (true, text("its health changed, and its SMART log cannot be read"))
        }
        EventKind::Health { critical_warning: Some(0) } => {
            (false, text("its health changed; there is no critical warning any more"))
        }
        EventKind::Health { critical_warning: Some(bits) } => (true, warnings(bits)),
        EventKind::NamespacesChanged(_) => (false, text("namespaces were made, deleted or changed")),
        EventKind::FirmwareActivationStarting => {
            (false, text("it activates firmware; commands may take longer for a while"))
        }
        EventKind::SanitizeCompleted => sanitized(&event.page),
        EventKind::SubsystemShutdown => (true, text("it is about to be shut down by something else")),
        _ => (false, format!("it reports: {event}")),
    }
}

/// Critical Warning of the SMART log (NVMe Base 2.0, 5.16.1.3).
fn warnings(bits: u8) -> String {
    let known = [
        (SmartLog::WARNING_SPARE, "spare blocks run out"),
        (SmartLog::WARNING_TEMPERATURE, "the temperature is beyond a limit"),
        (SmartLog::WARNING_RELIABILITY, "it is no longer reliable: replace it"),
        (SmartLog::WARNING_READ_ONLY, "it takes no more writes: replace it"),
        (SmartLog::WARNING_VOLATILE_BACKUP, "its memory is no longer safe from a power loss"),
        (SmartLog::WARNING_PMR, "its persistent memory region is read-only or unreliable"),
    ];
    let named: Vec<&str> = known.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, text)| *text).collect();
    match named.is_empty() {
        true => format!("critical warning {bits:#04x}"),
        false => format!("critical warning: {}", named.join("; ")),
    }
}

/// The Sanitize Status log (NVMe Base 2.0, 5.16.1.25).
fn sanitized(page: &[u8]) -> (bool, String) {
    match SanitizeLog::read_from_bytes(page).map(|log| log.status()) {
        Ok(SanitizeLog::FAILED) => (true, "a Sanitize failed: data may be left on it".to_owned()),
        _ => (false, "a Sanitize has completed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use gangway_spec::aen::{self, AsyncEvent};
    use gangway_spec::log::lid;

    use super::*;

    fn said(event: AsyncEvent, page: &[u8]) -> (bool, String) {
        explain(&Event { event, parameter: 0, page: page.to_vec() })
    }

    #[test]
    fn a_critical_warning_is_told_in_words() {
        let smart = AsyncEvent::new(aen::TYPE_SMART, aen::SMART_TEMPERATURE, lid::SMART);
        let (alarming, text) = said(smart, &[0b1010]);
        assert!(alarming && text.contains("temperature") && text.contains("no more writes"), "{text}");
        assert!(said(smart, &[0x80]).1.contains("0x80"));
        assert!(!said(smart, &[0]).0);
        assert!(said(smart, &[]).0, "nobody knows");
    }

    #[test]
    fn a_sanitize_that_failed_is_alarming() {
        let done = AsyncEvent::new(
            aen::TYPE_IO_COMMAND_SET,
            aen::IO_COMMAND_SET_SANITIZE_COMPLETED,
            lid::SANITIZE_STATUS,
        );
        let mut page = vec![0; 512];
        page[2] = 1;
        assert!(!said(done, &page).0);
        page[2] = 3;
        assert!(said(done, &page).0);
        assert!(!said(done, &[]).0);
    }
}
