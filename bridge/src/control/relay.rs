//! Passes on what a drive tells of to the hosts of its exports.

use std::sync::Arc;

use gangway_spec::aen::{self, AsyncEvent};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::Shared;
use crate::drive::{Drive, DriveEvent};
use crate::events::Notice;

/// Tells the hosts of every export that has something of a drive of each event of it.
pub(super) async fn relay(shared: Arc<Shared>, drive: Arc<Drive>, mut events: Receiver<DriveEvent>) {
    loop {
        match events.recv().await {
            Ok(DriveEvent::Reported(reported)) if is_for_hosts(reported.event) => {
                for export in shared.exports().iter().filter(|export| export.drive(drive.index()).is_some()) {
                    shared.tell_hosts(export.index, Notice::Event(reported.event));
                }
            }
            Ok(_) => {}
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(drive = %drive.info().name, missed, "the drive tells of more than can be passed on to hosts");
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Whether an event of the drive is for hosts as it is. Whether one wants it, and may read of it, its controller knows.
fn is_for_hosts(event: AsyncEvent) -> bool {
    match (event.kind, event.info) {
        // The drive takes all hosts for one: what is about namespaces, reservations and paths they are told from here.
        // Changed zones are in a list that the first reader clears.
        (
            aen::TYPE_NOTICE,
            aen::NOTICE_NAMESPACE_ATTRIBUTE_CHANGED
            | aen::NOTICE_ANA_CHANGE
            | aen::NOTICE_ZONE_DESCRIPTOR_CHANGED
            | aen::NOTICE_DISCOVERY_LOG_CHANGE,
        )
        | (aen::TYPE_IO_COMMAND_SET, aen::IO_COMMAND_SET_RESERVATION_LOG) => false,
        // It is not the subsystem that hosts are connected to.
        (aen::TYPE_IMMEDIATE, aen::IMMEDIATE_NORMAL_SUBSYSTEM_SHUTDOWN) => false,
        // Without a log page there is no saying who may know.
        (aen::TYPE_VENDOR, _) => event.log_page != 0,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use gangway_spec::log::lid;

    use super::*;

    #[test]
    fn what_is_kept_for_each_host_here_is_not_passed_on_from_the_drive() {
        let reservation =
            AsyncEvent::new(aen::TYPE_IO_COMMAND_SET, aen::IO_COMMAND_SET_RESERVATION_LOG, 0x80);
        for event in [AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED, AsyncEvent::ANA_CHANGE, reservation] {
            assert!(!is_for_hosts(event), "{event}");
        }
        let smart = AsyncEvent::new(aen::TYPE_SMART, aen::SMART_SPARE, lid::SMART);
        let telemetry =
            AsyncEvent::new(aen::TYPE_NOTICE, aen::NOTICE_TELEMETRY_LOG_CHANGED, lid::TELEMETRY_CONTROLLER);
        let vendor = AsyncEvent::new(aen::TYPE_VENDOR, 1, 0xc3);
        for event in [smart, telemetry, vendor, AsyncEvent::FIRMWARE_ACTIVATION_STARTING] {
            assert!(is_for_hosts(event), "{event}");
        }
        assert!(!is_for_hosts(AsyncEvent::new(aen::TYPE_VENDOR, 1, 0)));
    }
}
