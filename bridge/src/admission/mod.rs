//! The admission step: what an I/O command may do, decided before it can reach a drive.
//!
//! The drive gets data pointers that are ours and a transfer length that the command itself implies, so the length
//! that the command implies is computed here and compared with what the host's SGL declares. What cannot be
//! computed is refused, but for commands of a vendor, whose memory is guarded. Blocks beyond the end of a namespace are
//! refused as well, and lists of blocks are looked at when they have arrived: a drive that is careless with them must not
//! reach another namespace.

mod payload;
mod rules;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use gangway_driver::queue::guarded_start;
use gangway_spec::command::{SubmissionQueueEntry, TransferDirection};
use gangway_spec::identify::csi;
use gangway_spec::nvm::BlockFormat;
use gangway_spec::opcode::nvm;
use gangway_spec::status::Status;

pub use self::rules::Handling;
pub(crate) use self::rules::is_known;
use crate::limits::LimitBook;
use crate::policy::Policy;
use crate::reservation::{Group, Guard, is_reservation};

/// The format of a namespace if NVMe/TCP can carry it: metadata in a buffer of its own has no place in a capsule (NVMe
/// over Fabrics has no metadata pointer).
pub(crate) fn carried(format: BlockFormat) -> Option<BlockFormat> {
    (format.metadata_size == 0 || format.interleaved).then_some(format)
}

/// One namespace as an export shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceView {
    /// The NSID that hosts use.
    pub nsid: u32,
    /// Index of the drive in the process.
    pub drive: usize,
    /// The NSID on the drive.
    pub drive_nsid: u32,
    /// Index of the software queue that its commands wait in, unique in the process.
    pub queue: usize,
    /// That of commands which reach other namespaces of its drive, too, as far as the export shows them.
    pub across: usize,
    /// The I/O command set that it belongs to.
    pub csi: u8,
    /// Its block format.
    pub format: BlockFormat,
    /// How many blocks it has.
    pub blocks: u64,
    /// Limits of its zones, if it has some.
    pub zones: ZoneLimits,
    /// What tells it from another that has its NSID later.
    pub ids: NamespaceIds,
    /// Whether commands that change data are refused.
    pub read_only: bool,
}

impl NamespaceView {
    /// Whether it has zones.
    pub fn is_zoned(&self) -> bool {
        self.csi == csi::ZONED_NAMESPACE
    }

    /// Whether what was admitted for it is right for `now`, too: the same namespace, which may have grown.
    pub(crate) fn lives_on_in(&self, now: &NamespaceView) -> bool {
        now.blocks >= self.blocks && *self == NamespaceView { blocks: self.blocks, ..now.clone() }
    }
}

/// Identifiers that a namespace keeps as long as it lives; zero where the drive gives none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceIds {
    /// NGUID.
    pub nguid: [u8; 16],
    /// EUI64.
    pub eui64: [u8; 8],
    /// UUID.
    pub uuid: [u8; 16],
    /// The UUID that hosts see instead of all these, if they do not see them.
    pub derived: Option<[u8; 16]>,
}

/// What the lengths of commands to zones depend on; all 0 where there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneLimits {
    /// Bytes that one Zone Append may write at most.
    pub append: u32,
    /// Bytes of a zone descriptor extension.
    pub extension: u32,
}

/// What an export shows to the reactors: an immutable snapshot, replaced as a whole.
#[derive(Clone, Debug, Default)]
pub struct ExportView {
    /// Rises with every published change.
    pub version: u64,
    /// Ordered by `nsid`.
    pub namespaces: Vec<NamespaceView>,
    /// Whether it shows all namespaces of one drive, those that are made later included, and of no other.
    pub whole: bool,
    /// NN: the largest NSID that can occur.
    pub nn: u32,
    /// Whether Flush may name all namespaces (NSID FFFFFFFFh).
    pub broadcast_flush: bool,
    /// Bytes that one command may transfer at most.
    pub max_transfer: u32,
    /// Formats in which Copy can list its source ranges, as bits of OCFS: those that all drives have enabled.
    pub copy_formats: u16,
    /// What hosts and namespaces may have in a second. It changes apart from the rest.
    pub limits: Arc<LimitBook>,
    /// What keeps hosts from the namespaces that are reserved, by `nsid`. Mostly there are none.
    pub(crate) guards: Vec<(u32, Arc<Guard>)>,
}

/// Who has a command once its data is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// The drive.
    Drive,
    /// The control plane, which keeps reservations.
    Reservations,
    /// Nobody any more: it ends with this status.
    Nowhere(Status),
}

/// Who gave a list of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedBy {
    /// The host.
    pub host: u128,
    /// The formats of Copy that it has enabled, as bits of OCFS. 0h and 1h always are.
    pub copy_formats: u16,
}

/// A command that may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Who has it once its data is there.
    pub course: Course,
    /// Index of the drive.
    pub drive: usize,
    /// Software queue that the command waits in.
    pub queue: usize,
    /// The NSID to put into the entry.
    pub nsid: u32,
    /// Which way its data goes.
    pub direction: TransferDirection,
    /// Bytes of data.
    pub length: u32,
    /// What has to be done with its memory.
    pub handling: Handling,
}

impl Admitted {
    /// Whether it may reach this namespace of a drive, by its NSID there, or any for `None`.
    pub(crate) fn reaches(&self, drive: usize, nsid: Option<u32>) -> bool {
        let of_several = self.nsid == BROADCAST || self.handling == Handling::Across;
        self.drive == drive && nsid.is_none_or(|nsid| of_several || nsid == self.nsid)
    }
}

const BROADCAST: u32 = u32::MAX;
const NO_NAMESPACE: Status = Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr();
const DENIED: Status = Status::OPERATION_DENIED.with_dnr();

impl ExportView {
    /// The namespace that hosts know as `nsid`.
    #[inline]
    pub fn namespace(&self, nsid: u32) -> Option<&NamespaceView> {
        self.namespaces
            .binary_search_by_key(&nsid, |namespace| namespace.nsid)
            .ok()
            .map(|at| &self.namespaces[at])
    }

    /// Whether it shows one drive as it is: all namespaces, under the numbers that they have there.
    pub fn is_plain(&self) -> bool {
        self.whole && self.namespaces.iter().all(|namespace| namespace.nsid == namespace.drive_nsid)
    }

    /// Whether one of its namespaces has zones.
    pub fn has_zones(&self) -> bool {
        self.namespaces.iter().any(NamespaceView::is_zoned)
    }

    /// What hosts know namespace `drive_nsid` of a drive as; `None` when it is not shown.
    pub fn remote_nsid(&self, drive: usize, drive_nsid: u32) -> Option<u32> {
        self.of_drive(drive, drive_nsid).map(|namespace| namespace.nsid)
    }

    fn of_drive(&self, drive: usize, drive_nsid: u32) -> Option<&NamespaceView> {
        self.namespaces.iter().find(|one| (one.drive, one.drive_nsid) == (drive, drive_nsid))
    }

    /// Decides on an I/O command of a host with this policy, whose capsule declares `declared` bytes of data.
    ///
    /// # Errors
    /// The status to answer with; `DNR` is set where the same command can never succeed.
    #[inline]
    pub fn admit(
        &self,
        entry: &SubmissionQueueEntry,
        declared: u32,
        policy: &Policy,
    ) -> Result<Admitted, Status> {
        let opcode = entry.opcode;
        let nsid = entry.nsid.get();
        if nsid == BROADCAST && opcode == nvm::FLUSH && self.broadcast_flush {
            return self.flush_all(declared, policy);
        }
        let namespace = self.namespace(nsid).ok_or(NO_NAMESPACE)?;
        let rule = rules::rule(entry, namespace)?;
        if !policy.io(opcode) {
            return Err(closed(opcode));
        }
        if namespace.read_only && rule.changes {
            return Err(Status::NAMESPACE_IS_WRITE_PROTECTED.with_dnr());
        }
        rule.length.check(declared)?;
        if declared > self.max_transfer {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        let (first, blocks) = rule.blocks;
        if !is_within(namespace.blocks, first, blocks) {
            return Err(Status::LBA_OUT_OF_RANGE.with_dnr());
        }
        if rule.handling == Handling::Guarded {
            self.admit_vendor(declared)?;
        }
        Ok(Admitted {
            course: rule.course,
            drive: namespace.drive,
            queue: if rule.handling == Handling::Across { namespace.across } else { namespace.queue },
            nsid: namespace.drive_nsid,
            direction: rule.direction,
            length: declared,
            handling: rule.handling,
        })
    }

    fn flush_all(&self, declared: u32, policy: &Policy) -> Result<Admitted, Status> {
        let first = self.namespaces.first().ok_or(NO_NAMESPACE)?;
        if !policy.io(nvm::FLUSH) {
            return Err(DENIED);
        }
        if declared != 0 {
            return Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr());
        }
        Ok(Admitted {
            course: Course::Drive,
            drive: first.drive,
            queue: first.across,
            nsid: BROADCAST,
            direction: TransferDirection::None,
            length: 0,
            handling: Handling::Plain,
        })
    }

    /// Whether reservations let `host` give this command, which was admitted, to its namespace. `FFFFFFFFh` names all.
    #[inline]
    pub(crate) fn permits(&self, host: u128, entry: &SubmissionQueueEntry) -> bool {
        self.guards.is_empty() || self.guards_permit(host, entry)
    }

    fn guards_permit(&self, host: u128, entry: &SubmissionQueueEntry) -> bool {
        self.group_is_permitted(host, entry.nsid.get(), Group::of_io(entry.opcode))
    }

    fn group_is_permitted(&self, host: u128, nsid: u32, group: Group) -> bool {
        let concerned = |(guarded, _): &&(u32, Arc<Guard>)| nsid == BROADCAST || *guarded == nsid;
        self.guards.iter().filter(concerned).all(|(_, guard)| guard.permits(host, group))
    }

    /// What a vendor's command does to the rest of the drive nobody knows, and PRPs have to guard its memory.
    fn admit_vendor(&self, declared: u32) -> Result<(), Status> {
        if !self.whole {
            return Err(DENIED);
        }
        let length = declared as usize;
        let guarded = guarded_start(length).is_some_and(|start| start + length <= self.max_transfer as usize);
        if length == 0 || guarded { Ok(()) } else { Err(Status::INVALID_FIELD.with_dnr()) }
    }

    /// Checks the list that has arrived as the data of an admitted command of `host`. `entry` has the NSID of the drive, and
    /// so have the entries of the list, where they name namespaces, when this returns.
    ///
    /// # Errors
    /// The status to answer with, if the drive must not have it.
    pub fn check_list(
        &self,
        entry: &SubmissionQueueEntry,
        admitted: &Admitted,
        host: ListedBy,
        list: &mut [u8],
    ) -> Result<(), Status> {
        let of_command =
            |one: &&NamespaceView| (one.drive, one.drive_nsid) == (admitted.drive, admitted.nsid);
        let namespace = self.namespaces.iter().find(of_command).ok_or(NO_NAMESPACE)?;
        if admitted.handling == Handling::Across {
            payload::check_across(self, entry, namespace, host, list)
        } else {
            payload::check(entry, namespace, list)
        }
    }
}

/// The status of a command that the policy has closed. Reservations are no part of the drive: who may not use them finds
/// a controller that has none.
#[cold]
fn closed(opcode: u8) -> Status {
    if is_reservation(opcode) { Status::INVALID_OPCODE.with_dnr() } else { DENIED }
}

/// Whether `blocks` blocks from `first` on are among `all`.
#[inline]
const fn is_within(all: u64, first: u64, blocks: u64) -> bool {
    match first.checked_add(blocks) {
        Some(end) => end <= all,
        None => false,
    }
}
