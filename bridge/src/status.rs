//! What a running target is doing, for those who ask.

use std::ops::{Add, AddAssign};

use gangway_spec::command::TransferDirection;
use gangway_spec::fabrics::Nqn;
use gangway_spec::status::Status;

use crate::limits::{Limit, Subject};

/// I/O commands that were completed, and bytes that they moved between host and drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Commands with data from the drive.
    pub reads: u64,
    /// Bytes of it.
    pub read_bytes: u64,
    /// Commands with data for the drive.
    pub writes: u64,
    /// Bytes of it.
    pub write_bytes: u64,
    /// Commands without data.
    pub others: u64,
}

impl Tally {
    #[inline]
    pub(crate) fn count(&mut self, direction: TransferDirection, length: u32) {
        match direction {
            TransferDirection::ControllerToHost => {
                self.reads += 1;
                self.read_bytes += u64::from(length);
            }
            TransferDirection::None => self.others += 1,
            _ => {
                self.writes += 1;
                self.write_bytes += u64::from(length);
            }
        }
    }
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            reads: self.reads + other.reads,
            read_bytes: self.read_bytes + other.read_bytes,
            writes: self.writes + other.writes,
            write_bytes: self.write_bytes + other.write_bytes,
            others: self.others + other.others,
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// What a target is doing.
#[derive(Clone, Debug, Default)]
pub struct TargetStatus {
    /// Associations of hosts with exports.
    pub hosts: Vec<HostStatus>,
    /// What is exported.
    pub exports: Vec<ExportStatus>,
    /// The drives.
    pub drives: Vec<DriveStatus>,
    /// The reactors.
    pub reactors: Vec<ReactorStatus>,
}

/// One host's association with a controller.
#[derive(Clone, Debug)]
pub struct HostStatus {
    /// The host's NQN.
    pub nqn: String,
    /// Its Host Identifier.
    pub host_id: [u8; 16],
    /// The NQN of the export.
    pub subsystem: String,
    /// The controller's identifier.
    pub cntlid: u16,
    /// I/O queues that are connected.
    pub queues: usize,
    /// Commands that drives have of it now.
    pub with_drives: usize,
    /// Queues that wait for a limit.
    pub waiting: usize,
    /// What it did since it connected.
    pub tally: Tally,
}

/// One export.
#[derive(Clone, Debug)]
pub struct ExportStatus {
    /// Its NQN.
    pub nqn: String,
    /// Whether commands that change data are refused.
    pub read_only: bool,
    /// Its namespaces: the NSID that hosts know, the drive's name, and the NSID there.
    pub namespaces: Vec<(u32, String, u32)>,
    /// Its limits.
    pub limits: Vec<(Subject, Limit)>,
}

/// What an export needs, and who uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportUse {
    /// Its NQN.
    pub nqn: Nqn,
    /// Indices of its drives, whether they have namespaces or not; the first answers what is about the controller.
    pub drives: Vec<usize>,
    /// A host for each association.
    pub hosts: Vec<Nqn>,
}

/// One drive.
#[derive(Clone, Debug)]
pub struct DriveStatus {
    /// Its address, such as `pci:0000:01:00.0`.
    pub name: String,
    /// Its model.
    pub model: String,
    /// Its serial number.
    pub serial: String,
    /// How it is.
    pub condition: DriveCondition,
    /// Commands that it has now.
    pub commands: usize,
}

/// How a drive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriveCondition {
    /// It works.
    Works,
    /// It is being reset, or was removed: commands wait.
    Away,
    /// Commands to it end with this status.
    Refuses(Status),
}

/// One reactor.
#[derive(Clone, Copy, Debug)]
pub struct ReactorStatus {
    /// The CPU that it runs on.
    pub cpu: usize,
    /// Connections that it has.
    pub connections: usize,
}

/// What one reactor knows of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueReport {
    pub(crate) association: u64,
    pub(crate) with_drives: usize,
    pub(crate) waits: bool,
    pub(crate) tally: Tally,
}

/// What one reactor knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReactorReport {
    pub(crate) queues: Vec<QueueReport>,
    /// By drive.
    pub(crate) drives: Vec<(usize, DriveCondition, usize)>,
}
