//! What a reactor keeps of a drive: its queue pair, the software queues before it, and the memory its commands have.

use std::collections::VecDeque;
use std::time::Instant;

use gangway_driver::queue::{QueuePair, Rejected, SubmitError};
use gangway_spec::command::TransferDirection;
use gangway_spec::status::Status;

use super::command::{Command, NO_DRIVE, Stage};
use super::fair::FairQueue;
use super::message::Hold;
use super::tenants::Tenant;
use crate::drive::DriveLink;

/// How many times as much of a hardware queue as is free one host may have, when there are others. So there is always room
/// for who comes next: one busy host has four fifths at most, two have four ninths each.
const GREED: usize = 4;

/// A drive as one reactor uses it.
pub(super) struct DriveSlot {
    pub(super) link: DriveLink,
    pub(super) pair: Option<QueuePair>,
    /// Whether its completions end a sleep.
    pub(super) interrupts: bool,
    /// By what its manager knows this reactor, and the queue pair.
    pub(super) place: usize,
    pub(super) issue: u64,
    /// There is no drive: what its commands end with.
    pub(super) refuses: Option<Status>,
    /// Commands have to be looked at again: for `refuses`, or because some are held.
    pub(super) guarded: bool,
    /// A fault was reported; the manager's freeze is to come.
    pub(super) faulted: bool,
    /// Commands that were reported to be overdue.
    pub(super) late: Vec<u16>,
    /// Software queues with commands in them, in the order in which they have their turn.
    pub(super) backlog: VecDeque<usize>,
    /// Commands to it that wait for a buffer, for each [`Way`].
    pub(super) waiting: [FairQueue; 2],
    /// Bytes of memory that commands to it have, for each [`Way`].
    pub(super) taken: [usize; 2],
    /// Bytes of memory with data of writes that wait for a limit.
    pub(super) aside: usize,
    /// Commands on its hardware queue, by host.
    pub(super) with_drive: Vec<u32>,
}

impl DriveSlot {
    /// A drive that has no queue pair yet. `place`: by what its manager knows the reactor.
    pub(super) fn new(link: DriveLink, place: usize) -> Self {
        Self {
            link,
            pair: None,
            interrupts: false,
            place,
            issue: 0,
            refuses: None,
            guarded: false,
            faulted: false,
            late: Vec::new(),
            backlog: VecDeque::with_capacity(64),
            waiting: Default::default(),
            taken: [0; 2],
            aside: 0,
            with_drive: Vec::new(),
        }
    }

    /// Makes room for so many hosts.
    pub(super) fn make_room(&mut self, tenants: usize) {
        self.waiting.iter_mut().for_each(|waiting| waiting.make_room(tenants));
        if self.with_drive.len() < tenants {
            self.with_drive.resize(tenants, 0);
        }
    }

    /// Whether the hardware queue has room.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        self.pair.as_ref().is_some_and(QueuePair::has_room)
    }

    /// Whether a host may have one more command on a hardware queue that has room, when there are so many hosts.
    #[inline]
    pub(super) fn may_have_more(&self, tenant: Tenant, hosts: usize) -> bool {
        hosts <= 1 || self.is_modest(tenant)
    }

    fn is_modest(&self, tenant: Tenant) -> bool {
        let free = self.pair.as_ref().map_or(0, |pair| pair.capacity() - pair.outstanding());
        (self.with_drive[tenant.index()] as usize) < GREED * free
    }

    /// Puts a command onto the hardware queue. Whether that has room, and takes commands at present.
    ///
    /// # Errors
    /// The status to answer it with.
    #[inline]
    pub(super) fn submit(
        &mut self,
        index: usize,
        command: &mut Command,
        deadline: Instant,
    ) -> Result<bool, Status> {
        let Some(pair) = self.pair.as_mut() else { return Ok(false) };
        let data = std::mem::take(&mut command.data);
        match pair.submit(&command.entry, data, index as u64, deadline) {
            Ok(()) => {
                command.stage = Stage::WithDrive;
                self.with_drive[command.tenant.index()] += 1;
                Ok(true)
            }
            Err(rejected) => turned_down(command, rejected),
        }
    }

    /// It works, with this queue pair.
    pub(super) fn works(&mut self, pair: QueuePair, issue: u64, interrupts: bool) {
        self.pair = Some(pair);
        self.issue = issue;
        self.interrupts = interrupts;
        self.refuses = None;
        self.faulted = false;
        self.late.clear();
    }

    /// Whether `length` bytes more are within its share. One command always has its way.
    #[inline]
    pub(super) fn is_within(&self, share: &[usize; 2], way: Way, length: usize) -> bool {
        let taken = self.taken[way as usize];
        taken == 0 || taken + length <= share[way as usize]
    }
}

#[cold]
fn turned_down(command: &mut Command, Rejected { data, reason }: Rejected) -> Result<bool, Status> {
    command.data = data;
    if matches!(reason, SubmitError::Full | SubmitError::Stopped) {
        return Ok(false);
    }
    tracing::error!(%reason, command = %command.entry, "the queue pair refused a command");
    Err(Status::INTERNAL_ERROR)
}

/// The two ways of data, each with memory of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Data of writes.
    ToDrive = 0,
    /// Data of reads.
    FromDrive = 1,
}

impl Way {
    pub(super) fn of(direction: TransferDirection) -> Self {
        match direction {
            TransferDirection::ControllerToHost => Way::FromDrive,
            _ => Way::ToDrive,
        }
    }
}

/// Commands to one namespace, or to several of an export, that wait for room on the hardware queue, or until they may go on.
#[derive(Debug)]
pub(super) struct SoftwareQueue {
    pub(super) pending: FairQueue,
    /// The drive, and the NSIDs there of all namespaces that they may reach.
    pub(super) drive: usize,
    pub(super) nsids: Box<[u32]>,
    pub(super) hold: Hold,
}

impl Default for SoftwareQueue {
    fn default() -> Self {
        Self { pending: FairQueue::default(), drive: NO_DRIVE, nsids: Box::default(), hold: Hold::Release }
    }
}

/// What becomes of a command that is about to go to its drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    MayGo,
    Waits,
    Refused(Status),
}

/// What becomes of a command to a drive that would wait in `queue`.
#[cold]
pub(super) fn passage(slot: &DriveSlot, queue: &SoftwareQueue) -> Passage {
    match (slot.refuses, queue.hold) {
        (Some(status), _) | (None, Hold::Refuse(status)) => Passage::Refused(status),
        (None, Hold::Back) => Passage::Waits,
        (None, Hold::Release) => Passage::MayGo,
    }
}
