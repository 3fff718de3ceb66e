//! Commands between a connection and a drive, the software queues in which they wait, and the memory they use.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use gangway_driver::dma::{BufferPool, CommandData, DmaBuffer};
use gangway_driver::queue::{Completion, QueuePair};
use gangway_fabric::target::Slot;
use gangway_spec::command::{SubmissionQueueEntry, TransferDirection};
use gangway_spec::status::Status;
use slab::Slab;

use super::batch::{BatchPool, SendBatch};
use super::pace::Outstanding;
use crate::admission::Admitted;
use crate::drive::DriveLink;

/// Where a command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Will be answered with this status once its in-capsule data has passed.
    Refused(Status),
    /// A buffer is to be had first.
    Memory,
    /// Its connection has as much data on the way as it may; it has its turn later.
    Held,
    /// Its data is arriving.
    Receiving,
    /// In a software queue.
    Queued,
    /// On the drive's submission queue: the drive may touch its buffer.
    WithDrive,
}

#[derive(Debug)]
pub(super) struct Command {
    /// As the host gave it, with the NSID that the drive knows.
    pub(super) entry: SubmissionQueueEntry,
    /// `None` once the connection is gone.
    pub(super) connection: Option<usize>,
    pub(super) slot: Slot,
    /// Order of arrival on this reactor.
    pub(super) sequence: u64,
    pub(super) admitted: Admitted,
    pub(super) data: CommandData,
    /// Whether its data was asked for with R2T.
    pub(super) requested: bool,
    /// Bytes of memory that count against its drive's share.
    pub(super) memory: usize,
    pub(super) stage: Stage,
}

impl Command {
    /// Whether the drive has it or will have it without the host doing anything more.
    pub(super) fn is_on_its_way(&self) -> bool {
        match self.stage {
            Stage::Queued | Stage::WithDrive => true,
            Stage::Memory | Stage::Held => self.admitted.direction != TransferDirection::HostToController,
            Stage::Refused(_) | Stage::Receiving => false,
        }
    }
}

/// Whose a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) host: u128,
    pub(super) association: u64,
    pub(super) export: usize,
}

/// A command that a drive still has, though its connection is gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Orphan {
    command: usize,
    pub(super) sequence: u64,
    pub(super) origin: Origin,
}

/// What is to be known of a command when its drive has completed it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) connection: Option<usize>,
    pub(super) slot: Slot,
    pub(super) direction: TransferDirection,
    pub(super) length: u32,
}

/// A drive as one reactor uses it.
pub(super) struct DriveSlot {
    pub(super) link: DriveLink,
    pub(super) pair: Option<QueuePair>,
    /// Whether its completions end a sleep.
    pub(super) interrupts: bool,
    /// By what its manager knows this reactor, and the queue pair.
    place: usize,
    issue: u64,
    /// There is no drive: what its commands end with.
    pub(super) refuses: Option<Status>,
    /// Commands may have to be refused: for `refuses`, or because a namespace was withdrawn.
    guarded: bool,
    /// A fault was reported; the manager's freeze is to come.
    faulted: bool,
    /// Commands that were reported to be overdue.
    late: Vec<u16>,
    /// Software queues with commands in them, in the order in which they have their turn.
    backlog: VecDeque<usize>,
    /// Commands to it that wait for a buffer, first come first served, for each [`Way`].
    waiting: [VecDeque<usize>; 2],
    /// Bytes of memory that commands to it have, for each [`Way`].
    taken: [usize; 2],
}

impl DriveSlot {
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
    fn is_within(&self, share: &[usize; 2], way: Way, length: usize) -> bool {
        let taken = self.taken[way as usize];
        taken == 0 || taken + length <= share[way as usize]
    }
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

#[derive(Debug, Default)]
struct SoftwareQueue {
    pending: VecDeque<usize>,
    /// Its namespace is not what commands were admitted for.
    withdrawn: bool,
}

/// What commands to a withdrawn namespace end with.
pub(super) const WITHDRAWN: Status = Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr();

/// What a command ends with that must not go to its drive.
#[cold]
fn refusal(slot: &DriveSlot, queue: &SoftwareQueue) -> Option<Status> {
    slot.refuses.or(queue.withdrawn.then_some(WITHDRAWN))
}

/// Commands for which there is room in any case.
const LEAST_ROOM: usize = 1024;

/// Everything of a reactor that is not a connection.
pub(super) struct Engine {
    pub(super) commands: Slab<Command>,
    /// Commands whose connections are gone, while drives have them.
    pub(super) orphans: Vec<Orphan>,
    drives: Vec<Option<DriveSlot>>,
    /// Bytes of memory that commands to one drive may have while others have none, for each [`Way`]. Otherwise a drive
    /// that is stuck would end up with all of it, and stop every other one.
    share: [usize; 2],
    /// When commands that are submitted in this turn count as stuck.
    deadline: Instant,
    queues: Vec<SoftwareQueue>,
    /// Memory that drives read: data of writes.
    to_drive: BufferPool,
    /// Memory that drives write: data of reads.
    from_drive: BufferPool,
    /// Memory for in-capsule data when there is none in `to_drive`. What `to_drive` lent for data that is still to
    /// come may come behind such a capsule, so the capsule must never wait for it.
    capsules: BufferPool,
    /// Commands that all connections can have at a time.
    depth: usize,
    /// Commands that drives were not told of yet.
    submitted: usize,
    pub(super) completions: Vec<Completion>,
    /// What connections fill with answers.
    pub(super) batches: BatchPool,
    /// What the protocol answers by itself: nothing, on queues that are connected.
    pub(super) answers: Vec<u8>,
    io_timeout: Duration,
    sequence: u64,
}

/// A command that the engine gave up: the caller answers with `status`.
#[derive(Debug)]
pub(super) struct GivenUp {
    pub(super) command: usize,
    pub(super) status: Status,
}

impl Engine {
    pub(super) fn new(
        to_drive: BufferPool,
        from_drive: BufferPool,
        capsules: BufferPool,
        io_timeout: Duration,
    ) -> Self {
        Self {
            commands: Slab::new(),
            orphans: Vec::new(),
            drives: Vec::new(),
            share: [usize::MAX; 2],
            deadline: Instant::now(),
            queues: Vec::new(),
            to_drive,
            from_drive,
            capsules,
            depth: 0,
            submitted: 0,
            completions: Vec::with_capacity(1024),
            batches: BatchPool::default(),
            answers: Vec::new(),
            io_timeout,
            sequence: 0,
        }
    }

    /// Makes room for the commands of one more connection, so that none allocates on its way.
    pub(super) fn add_depth(&mut self, depth: usize) {
        self.depth += depth;
        self.batches.admit(depth);
        self.commands.reserve(self.depth.saturating_sub(self.commands.len()));
        for slot in self.drives.iter_mut().flatten() {
            for waiting in &mut slot.waiting {
                waiting.reserve(self.depth.saturating_sub(waiting.len()));
            }
        }
        for queue in &mut self.queues {
            queue.pending.reserve(self.depth.saturating_sub(queue.pending.len()));
        }
    }

    /// A connection is gone.
    pub(super) fn remove_depth(&mut self, depth: usize) {
        self.depth -= depth;
        self.batches.dismiss();
        // What many connections needed is not kept for few.
        if self.commands.capacity() > 4 * self.depth.max(LEAST_ROOM) {
            self.commands.shrink_to_fit();
            self.commands.reserve(self.depth.saturating_sub(self.commands.len()));
            for slot in self.drives.iter_mut().flatten() {
                slot.waiting.iter_mut().for_each(|waiting| waiting.shrink_to(self.depth));
            }
            self.queues.iter_mut().for_each(|queue| queue.pending.shrink_to(self.depth));
        }
    }

    /// Makes software queue number `queue` exist.
    pub(super) fn ensure_queue(&mut self, queue: usize) {
        while self.queues.len() <= queue {
            self.queues
                .push(SoftwareQueue { pending: VecDeque::with_capacity(self.depth), withdrawn: false });
        }
    }

    pub(super) fn link(&mut self, drive: usize, link: DriveLink, place: usize) {
        while self.drives.len() <= drive {
            self.drives.push(None);
        }
        let slot = DriveSlot {
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
            waiting: [VecDeque::with_capacity(self.depth), VecDeque::with_capacity(self.depth)],
            taken: [0; 2],
        };
        self.drives[drive] = Some(slot);
        let drives = self.drives.iter().flatten().count();
        if drives > 1 {
            self.share = [self.to_drive.capacity() / drives, self.from_drive.capacity() / drives];
        }
    }

    /// A turn begins.
    pub(super) fn begin_turn(&mut self, now: Instant) {
        self.deadline = now + self.io_timeout;
    }

    pub(super) fn drive(&mut self, drive: usize) -> Option<&mut DriveSlot> {
        self.drives.get_mut(drive)?.as_mut()
    }

    /// One reap finds no more than all drives can have, and shall not allocate.
    pub(super) fn make_room_for_completions(&mut self) {
        let pairs = self.drives.iter().flatten().filter_map(|slot| slot.pair.as_ref());
        let most = pairs.map(QueuePair::capacity).sum::<usize>();
        self.completions.reserve(most.saturating_sub(self.completions.len()));
    }

    pub(super) fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// What drives have of this reactor, and whether they will say so when it is done.
    pub(super) fn with_drives(&self) -> Outstanding {
        let busy = |slot: &&DriveSlot| slot.pair.as_ref().is_some_and(|pair| pair.outstanding() > 0);
        let mut slots = self.drives.iter().flatten().filter(busy).peekable();
        if slots.peek().is_none() {
            Outstanding::Nothing
        } else if slots.all(|slot| slot.interrupts) {
            Outstanding::Announced
        } else {
            Outstanding::Silent
        }
    }

    /// Whether a command may have `length` bytes of memory now: there is some, and its drive has not had its share.
    fn may_have(&mut self, drive: usize, way: Way, length: usize) -> bool {
        let within = self
            .drives
            .get(drive)
            .and_then(Option::as_ref)
            .is_none_or(|slot| slot.is_within(&self.share, way, length));
        let pool = match way {
            Way::ToDrive => &mut self.to_drive,
            Way::FromDrive => &mut self.from_drive,
        };
        within && pool.has(length)
    }

    /// Gives a command its buffer, if it is its turn and there is one; puts it into the list of those that wait
    /// otherwise, and returns false. `first`: it is the first of these.
    pub(super) fn provide(&mut self, index: usize, first: bool) -> bool {
        if self.take(index, first) {
            return true;
        }
        let Some(command) = self.commands.get_mut(index) else { return false };
        command.stage = Stage::Memory;
        let way = Way::of(command.admitted.direction) as usize;
        if let Some(Some(slot)) = self.drives.get_mut(command.admitted.drive) {
            if first {
                slot.waiting[way].push_front(index);
            } else {
                slot.waiting[way].push_back(index);
            }
        }
        false
    }

    /// Gives a command its buffer, unless there is none, or others wait for one and it is not `first` among them.
    #[inline]
    fn take(&mut self, index: usize, first: bool) -> bool {
        let Some(command) = self.commands.get_mut(index) else { return false };
        let Admitted { drive, direction, length, .. } = command.admitted;
        let (way, length) = (Way::of(direction), length as usize);
        let mut slot = self.drives.get_mut(drive).and_then(Option::as_mut);
        if let Some(slot) = &slot {
            let others_first = !first && !slot.waiting[way as usize].is_empty();
            if others_first || !slot.is_within(&self.share, way, length) {
                return false;
            }
        }
        let pool = match way {
            Way::ToDrive => &mut self.to_drive,
            Way::FromDrive => &mut self.from_drive,
        };
        let Some(buffer) = pool.take(length) else { return false };
        if let Some(slot) = &mut slot {
            slot.taken[way as usize] += length;
            command.memory = length;
        }
        command.data = CommandData::Buffer(buffer);
        true
    }

    /// Gives a command a buffer for its in-capsule data. False when there is none.
    pub(super) fn provide_for_capsule(&mut self, index: usize) -> bool {
        if self.take(index, false) {
            return true;
        }
        let Some(command) = self.commands.get_mut(index) else { return false };
        let Some(buffer) = self.capsules.take(command.admitted.length as usize) else { return false };
        command.data = CommandData::Buffer(buffer);
        true
    }

    /// The next command that waits for memory and can have it now.
    pub(super) fn next_fed(&mut self, way: Way) -> Option<usize> {
        for drive in 0..self.drives.len() {
            let Some(slot) = self.drives[drive].as_ref() else { continue };
            let Some(&index) = slot.waiting[way as usize].front() else { continue };
            let length = self.commands.get(index).map_or(0, |command| command.admitted.length as usize);
            if self.may_have(drive, way, length) {
                if let Some(slot) = self.drives[drive].as_mut() {
                    slot.waiting[way as usize].pop_front();
                }
                return Some(index);
            }
        }
        None
    }

    /// Whether commands wait for memory, for data of the given way.
    pub(super) fn is_short_of_memory(&self, way: Way) -> bool {
        self.drives.iter().flatten().any(|slot| !slot.waiting[way as usize].is_empty())
    }

    pub(super) fn release_buffer(&mut self, buffer: DmaBuffer) {
        if buffer.direction().device_writes() {
            self.from_drive.put(buffer);
        } else {
            // One of `capsules` finds its way home from here.
            self.to_drive.put(buffer);
        }
    }

    /// Takes back a batch that has left, or never will, with its buffers.
    pub(super) fn retire(&mut self, mut batch: Box<SendBatch>) {
        batch.recycle(|buffer| self.release_buffer(buffer));
        self.batches.put(batch);
    }

    pub(super) fn release(&mut self, data: CommandData) {
        if let CommandData::Buffer(buffer) = data {
            self.release_buffer(buffer);
        }
    }

    /// Takes a command off the books, and gives back the buffer that it has in hand. Its memory no longer counts
    /// against its drive's share.
    pub(super) fn remove(&mut self, index: usize) -> Option<Ended> {
        let command = self.commands.get_mut(index)?;
        let Admitted { drive, direction, length, .. } = command.admitted;
        let ended = Ended { connection: command.connection, slot: command.slot, direction, length };
        let data = std::mem::take(&mut command.data);
        if command.memory > 0
            && let Some(Some(slot)) = self.drives.get_mut(drive)
        {
            slot.taken[Way::of(direction) as usize] -= command.memory;
        }
        self.commands.remove(index);
        self.release(data);
        if ended.connection.is_none() {
            self.orphans.retain(|orphan| orphan.command != index);
        }
        Some(ended)
    }

    /// A command's connection is gone; its drive still has it.
    pub(super) fn orphan(&mut self, index: usize, origin: Origin) {
        if let Some(command) = self.commands.get_mut(index) {
            command.connection = None;
            self.orphans.push(Orphan { command: index, sequence: command.sequence, origin });
        }
    }

    /// Sends a command to its drive now, or puts it into its software queue.
    pub(super) fn dispatch(&mut self, index: usize) -> Option<GivenUp> {
        let Admitted { drive, queue, .. } = self.commands[index].admitted;
        let Some(Some(slot)) = self.drives.get_mut(drive) else {
            return Some(GivenUp { command: index, status: Status::INTERNAL_PATH_ERROR });
        };
        if slot.guarded
            && let Some(status) = refusal(slot, &self.queues[queue])
        {
            return Some(GivenUp { command: index, status });
        }
        let direct = slot.backlog.is_empty() && slot.pair.as_ref().is_some_and(QueuePair::has_room);
        if direct {
            return self.submit(index);
        }
        self.commands[index].stage = Stage::Queued;
        let pending = &mut self.queues[queue].pending;
        if pending.is_empty() {
            slot.backlog.push_back(queue);
        }
        pending.push_back(index);
        None
    }

    fn submit(&mut self, index: usize) -> Option<GivenUp> {
        let command = &mut self.commands[index];
        let Some(pair) = self.drives[command.admitted.drive].as_mut().and_then(|slot| slot.pair.as_mut())
        else {
            return Some(GivenUp { command: index, status: Status::INTERNAL_PATH_ERROR });
        };
        let data = std::mem::take(&mut command.data);
        match pair.submit(&command.entry, data, index as u64, self.deadline) {
            Ok(()) => {
                command.stage = Stage::WithDrive;
                self.submitted += 1;
                None
            }
            Err(rejected) => {
                tracing::error!(reason = %rejected.reason, command = %command.entry, "the queue pair refused a command");
                command.data = rejected.data;
                Some(GivenUp { command: index, status: Status::INTERNAL_ERROR })
            }
        }
    }

    /// Moves commands from software queues to hardware queues as far as there is room, each namespace in turn.
    pub(super) fn pump(&mut self, given_up: &mut Vec<GivenUp>) {
        for drive in 0..self.drives.len() {
            while let Some(slot) = self.drives[drive].as_mut() {
                if slot.refuses.is_none() && !slot.pair.as_ref().is_some_and(QueuePair::has_room) {
                    break;
                }
                let refuses = slot.refuses;
                let Some(queue) = slot.backlog.pop_front() else { break };
                let Some(index) = self.queues[queue].pending.pop_front() else { continue };
                if !self.queues[queue].pending.is_empty() {
                    slot.backlog.push_back(queue);
                }
                match refuses {
                    Some(status) => given_up.push(GivenUp { command: index, status }),
                    None => given_up.extend(self.submit(index)),
                }
            }
        }
    }

    /// Says whether the namespace of a software queue is withdrawn. Gives up the commands that wait in it if so.
    pub(super) fn set_withdrawn(&mut self, queue: usize, withdrawn: bool, given_up: &mut Vec<GivenUp>) {
        let Some(software) = self.queues.get_mut(queue) else { return };
        software.withdrawn = withdrawn;
        if withdrawn {
            // An emptied queue stays in the backlog and is passed over when its turn comes.
            let pending = software.pending.drain(..);
            given_up.extend(pending.map(|command| GivenUp { command, status: WITHDRAWN }));
        }
    }

    /// Notes for which drives commands may have to be refused.
    pub(super) fn guard(&mut self) {
        let withdrawn = self.queues.iter().any(|queue| queue.withdrawn);
        for slot in self.drives.iter_mut().flatten() {
            slot.guarded = withdrawn || slot.refuses.is_some();
        }
    }

    /// Commands that drives were not told of yet.
    pub(super) fn submitted(&self) -> usize {
        self.submitted
    }

    /// Rings each drive's doorbell once for all that was submitted.
    pub(super) fn ring(&mut self) {
        self.submitted = 0;
        for slot in self.drives.iter_mut().flatten() {
            if let Some(pair) = slot.pair.as_mut() {
                pair.ring();
            }
        }
    }

    /// Collects what drives have completed. A drive whose queue went wrong is reported to its manager.
    pub(super) fn reap(&mut self) -> usize {
        let before = self.completions.len();
        for slot in self.drives.iter_mut().flatten() {
            let Some(pair) = slot.pair.as_mut() else { continue };
            if pair.outstanding() == 0 || slot.faulted {
                continue;
            }
            if let Err(fault) = pair.reap(&mut self.completions) {
                slot.faulted = true;
                slot.link.report_fault(slot.place, slot.issue, fault.to_string());
            }
        }
        self.completions.len() - before
    }

    /// Reports commands whose time limits have passed, each once.
    pub(super) fn check_deadlines(&mut self, now: Instant) {
        for slot in self.drives.iter_mut().flatten() {
            let DriveSlot { pair: Some(pair), late, link, place, issue, faulted: false, .. } = slot else {
                continue;
            };
            // Identifiers come again.
            late.retain(|cid| pair.all_overdue(now).any(|overdue| overdue.cid == *cid));
            for overdue in pair.all_overdue(now) {
                if !late.contains(&overdue.cid) {
                    late.push(overdue.cid);
                    link.report_overdue(*place, *issue, pair.qid(), overdue);
                }
            }
        }
    }

    /// Takes a command that is not with a drive out of whatever list it waits in.
    pub(super) fn withdraw(&mut self, index: usize) {
        let Some(command) = self.commands.get(index) else { return };
        match command.stage {
            Stage::Queued => {
                let queue = command.admitted.queue;
                // An emptied queue stays in the backlog and is passed over when its turn comes.
                self.queues[queue].pending.retain(|waiting| *waiting != index);
                if self.queues[queue].pending.is_empty() {
                    for slot in self.drives.iter_mut().flatten() {
                        slot.backlog.retain(|listed| *listed != queue);
                    }
                }
            }
            Stage::Memory => {
                let Admitted { drive, direction, .. } = command.admitted;
                if let Some(slot) = self.drive(drive) {
                    slot.waiting[Way::of(direction) as usize].retain(|waiting| *waiting != index);
                }
            }
            Stage::Refused(_) | Stage::Held | Stage::Receiving | Stage::WithDrive => {}
        }
        self.remove(index);
    }
}
