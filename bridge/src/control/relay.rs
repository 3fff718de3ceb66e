//! Passes on what a drive tells of to the hosts of its exports.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, Weak};

use gangway_driver::controller::EventKind;
use gangway_spec::aen::{self, AsyncEvent};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::Shared;
use crate::association::Association;
use crate::drive::{Drive, DriveEvent};
use crate::events::Notice;
use crate::export::Export;

/// Tells the hosts of every export that shows a drive as its own of each event of it. (Of an export of several drives that
/// is the first: it is the one whose log pages hosts read. What is of a namespace all hosts hear who see that.)
///
/// A drive that is given up by all others ends it.
pub(super) async fn relay(shared: Arc<Shared>, drive: Weak<Drive>, mut events: Receiver<DriveEvent>) {
    loop {
        let event = events.recv().await;
        let Some(drive) = drive.upgrade() else { return };
        match event {
            Ok(DriveEvent::Reported(reported)) if is_for_hosts(reported.event) => {
                if reported.event == AsyncEvent::TELEMETRY_LOG_CHANGED {
                    drive.telemetry().look_at(&reported.page);
                }
                for export in shared.exports_of(&drive) {
                    shared.tell_hosts(export.index, Notice::Event(reported.event));
                }
            }
            Ok(DriveEvent::Reported(reported)) => {
                if let EventKind::ZonesChanged { nsid } = reported.kind() {
                    shared.tell_of_zones(&drive, nsid, reported.page.into());
                }
            }
            Ok(_) => {}
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(drive = %drive.info().name, missed, "the drive tells of more than can be passed on to hosts");
                // Some of that may have been about zones: any of them may have changed.
                for nsid in shared.zoned_namespaces(&drive) {
                    shared.tell_of_zones(&drive, nsid, Arc::default());
                }
            }
            Err(RecvError::Closed) => return,
        }
    }
}

impl Shared {
    /// The exports whose controllers are those of this drive.
    fn exports_of(&self, drive: &Drive) -> Vec<Arc<Export>> {
        let exports = self.exports();
        let own = exports.iter().filter(|export| export.primary().index() == drive.index());
        own.cloned().collect()
    }

    /// Tells hosts of zones of a namespace that changed by themselves. The drive's list of them was cleared by being read:
    /// each host has one of its own.
    fn tell_of_zones(&self, drive: &Drive, drive_nsid: u32, page: Arc<[u8]>) {
        for (export, nsid) in self.exports_showing((drive.index(), drive_nsid)) {
            self.tell_hosts(export, Notice::ZonesChanged(nsid, Arc::clone(&page)));
        }
    }

    /// The namespaces of a drive with zones that any host sees.
    fn zoned_namespaces(&self, drive: &Drive) -> BTreeSet<u32> {
        let views: Vec<_> = self.exports().iter().map(|export| export.view()).collect();
        let shown = views.iter().flat_map(|view| &view.namespaces);
        let zoned = shown.filter(|shown| shown.drive == drive.index() && shown.is_zoned());
        zoned.map(|shown| shown.drive_nsid).collect()
    }

    /// Notes what the host of an association wants to be told of, and has drives tell of what their hosts want to know.
    pub(super) fn want_events(&self, association: &Association, configuration: u32) {
        if !association.want_events(configuration) {
            return;
        }
        // Two who add up at a time would each miss what the other has just said.
        let _adding_up = self.adding_up.lock().unwrap_or_else(PoisonError::into_inner);
        for drive in self.catalogue.drives().iter() {
            let hosts =
                self.exports_of(drive).into_iter().flat_map(|export| self.registry.of_export(export.index));
            drive.want_events(hosts.fold(0, |all, host| all | host.wanted_events()));
        }
    }
}

/// Whether an event of the drive is for hosts as it is. Whether one wants it, and may read of it, its controller knows.
fn is_for_hosts(event: AsyncEvent) -> bool {
    match (event.kind, event.info) {
        // The drive takes all hosts for one: what is about namespaces, reservations and paths they are told from here.
        // Changed zones are in a list that the first reader clears: each host has its own.
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
