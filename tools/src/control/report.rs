//! What a server says of itself, as JSON has it.

use gangway_bridge::{DriveCondition, TargetStatus};
use serde::{Deserialize, Serialize};

/// The answer to `status`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Report {
    pub(super) hosts: Vec<Host>,
    pub(super) exports: Vec<Export>,
    pub(super) drives: Vec<Drive>,
    pub(super) reactors: Vec<Reactor>,
}

/// A host that is connected to an export.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Host {
    #[serde(rename = "HostNQN")]
    pub(super) nqn: String,
    #[serde(rename = "HostID")]
    pub(super) id: String,
    #[serde(rename = "SubsystemNQN")]
    pub(super) subsystem: String,
    #[serde(rename = "Cntlid")]
    pub(super) cntlid: u16,
    pub(super) queues: usize,
    /// Queues that wait for a limit.
    pub(super) limited_queues: usize,
    /// Commands that drives have.
    pub(super) outstanding: usize,
    #[serde(flatten)]
    pub(super) done: Done,
}

/// What was done since the host connected.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Done {
    pub(super) reads: u64,
    pub(super) read_bytes: u64,
    pub(super) writes: u64,
    pub(super) write_bytes: u64,
    /// Commands without data.
    pub(super) others: u64,
}

impl Done {
    /// What was done since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            reads: self.reads.saturating_sub(before.reads),
            read_bytes: self.read_bytes.saturating_sub(before.read_bytes),
            writes: self.writes.saturating_sub(before.writes),
            write_bytes: self.write_bytes.saturating_sub(before.write_bytes),
            others: self.others.saturating_sub(before.others),
        }
    }
}

/// What hosts can connect to.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Export {
    #[serde(rename = "SubsystemNQN")]
    pub(super) nqn: String,
    pub(super) read_only: bool,
    pub(super) namespaces: Vec<Namespace>,
    /// As `--limit` has them.
    pub(super) limits: Vec<String>,
}

/// A namespace of an export.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Namespace {
    #[serde(rename = "NSID")]
    pub(super) nsid: u32,
    #[serde(rename = "Drive")]
    pub(super) drive: String,
    #[serde(rename = "DriveNSID")]
    pub(super) drive_nsid: u32,
}

/// A drive.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Drive {
    pub(super) name: String,
    pub(super) model_number: String,
    pub(super) serial_number: String,
    /// `works`, `away` (commands wait), or the status that commands end with.
    pub(super) state: String,
    /// Commands that it has.
    pub(super) outstanding: usize,
}

/// A reactor.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Reactor {
    #[serde(rename = "CPU")]
    pub(super) cpu: usize,
    pub(super) connections: usize,
}

impl From<TargetStatus> for Report {
    fn from(status: TargetStatus) -> Self {
        let hosts = status.hosts.into_iter().map(|host| Host {
            nqn: host.nqn,
            id: uuid::Uuid::from_bytes(host.host_id).to_string(),
            subsystem: host.subsystem,
            cntlid: host.cntlid,
            queues: host.queues,
            limited_queues: host.waiting,
            outstanding: host.with_drives,
            done: Done {
                reads: host.tally.reads,
                read_bytes: host.tally.read_bytes,
                writes: host.tally.writes,
                write_bytes: host.tally.write_bytes,
                others: host.tally.others,
            },
        });
        let exports = status.exports.into_iter().map(|export| {
            let namespace = |(nsid, drive, drive_nsid)| Namespace { nsid, drive, drive_nsid };
            let limits = export.limits.iter().map(|(subject, limit)| format!("{subject}={limit}"));
            Export {
                nqn: export.nqn,
                read_only: export.read_only,
                limits: limits.collect(),
                namespaces: export.namespaces.into_iter().map(namespace).collect(),
            }
        });
        let drives = status.drives.into_iter().map(|drive| Drive {
            name: drive.name,
            model_number: drive.model,
            serial_number: drive.serial,
            state: match drive.condition {
                DriveCondition::Works => "works".to_owned(),
                DriveCondition::Away => "away".to_owned(),
                DriveCondition::Refuses(status) => status.to_string(),
            },
            outstanding: drive.commands,
        });
        let reactors = status
            .reactors
            .iter()
            .map(|reactor| Reactor { cpu: reactor.cpu, connections: reactor.connections });
        Self {
            hosts: hosts.collect(),
            exports: exports.collect(),
            drives: drives.collect(),
            reactors: reactors.collect(),
        }
    }
}
