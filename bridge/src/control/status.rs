//! What a running target is doing.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Shared;
use crate::drive::Drive;
use crate::export::Export;
use crate::reactor::Message;
use crate::status::{
    DriveCondition, DriveStatus, ExportStatus, HostStatus, QueueReport, ReactorReport, ReactorStatus,
    TargetStatus,
};

impl Shared {
    pub(super) async fn status(&self) -> TargetStatus {
        let mut reports = Vec::new();
        for reactor in &self.reactors {
            let (reply, report) = oneshot::channel();
            if reactor.send(Message::Report { reply })
                && let Ok(report) = report.await
            {
                reports.push(report);
            }
        }
        let (exports, drives) = (self.exports(), self.catalogue.drives());
        let mut queues: HashMap<u64, Vec<QueueReport>> = HashMap::new();
        for report in reports.iter().flat_map(|report| &report.queues) {
            queues.entry(report.association).or_default().push(*report);
        }
        let mut hosts = Vec::new();
        for association in self.registry.all() {
            let subsystem = exports.iter().find(|export| Some(export.index) == association.export);
            let Some(subsystem) = subsystem else { continue };
            let reports = queues.remove(&association.id).unwrap_or_default();
            hosts.push(HostStatus {
                nqn: association.connect.host.to_string(),
                host_id: association.connect.host_id.0,
                subsystem: subsystem.nqn.to_string(),
                cntlid: association.cntlid,
                queues: reports.len(),
                with_drives: reports.iter().map(|report| report.with_drives).sum(),
                waiting: reports.iter().filter(|report| report.waits).count(),
                tally: reports.iter().fold(association.past(), |sum, report| sum + report.tally),
            });
        }
        TargetStatus {
            hosts,
            exports: exports.iter().map(|export| export_status(export, &drives)).collect(),
            drives: drives.iter().map(|drive| drive_status(drive, &reports)).collect(),
            reactors: self
                .reactors
                .iter()
                .map(|reactor| ReactorStatus { cpu: reactor.cpu, connections: reactor.connections() })
                .collect(),
        }
    }
}

fn export_status(export: &Export, drives: &[Arc<Drive>]) -> ExportStatus {
    let name = |index: usize| {
        drives
            .iter()
            .find(|drive| drive.index() == index)
            .map_or_else(String::new, |drive| drive.info().name.clone())
    };
    let view = export.view();
    ExportStatus {
        nqn: export.nqn.to_string(),
        read_only: export.read_only,
        namespaces: view.namespaces.iter().map(|one| (one.nsid, name(one.drive), one.drive_nsid)).collect(),
        limits: export.limits.limits().rules().map(|(subject, limit)| (subject.clone(), *limit)).collect(),
    }
}

fn drive_status(drive: &Drive, reports: &[ReactorReport]) -> DriveStatus {
    let of_drive =
        || reports.iter().flat_map(|report| &report.drives).filter(|(index, ..)| *index == drive.index());
    // While it is reset or comes back, reactors follow each other. It works when it does for all of them.
    let condition = of_drive().map(|(_, condition, _)| *condition).find(|one| *one != DriveCondition::Works);
    let identify = &drive.info().identify;
    DriveStatus {
        name: drive.info().name.clone(),
        model: identify.model().into_owned(),
        serial: identify.serial().into_owned(),
        condition: condition.unwrap_or(DriveCondition::Works),
        commands: of_drive().map(|(_, _, commands)| commands).sum(),
    }
}
