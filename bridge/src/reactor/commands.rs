//! Commands between a connection and a drive, the software queues in which they wait, and the memory they use.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use gangway_driver::dma::{BufferPool, CommandData, DmaBuffer};
use gangway_driver::queue::{Completion, QueuePair};
use gangway_fabric::target::Slot;
use gangway_spec::command::{SubmissionQueueEntry, TransferDirection};
use gangway_spec::status::Status;
use slab::Slab;

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
    pub(super) entry: SubmissionQueueEntry,
    /// `None` once the connection is gone.
    pub(super) connection: Option<usize>,
    pub(super) slot: Slot,
    pub(super) host: u128,
    pub(super) association: u64,
    pub(super) export: usize,
    /// Order of arrival on this reactor.
    pub(super) sequence: u64,
    pub(super) admitted: Admitted,
    pub(super) data: CommandData,
    /// Whether its data was asked for with R2T.
    pub(super) requested: bool,
    pub(super) stage: Stage,
}

impl Command {
    /// Whether the drive has it or will have it without the host doing anything more.
    pub(super) fn is_on_its_way(&self) -> bool {
        match self.stage {
            Stage::Queued | Stage::WithDrive => true,
            Stage::Memory => self.admitted.direction != TransferDirection::HostToController,
            Stage::Refused(_) | Stage::Held | Stage::Receiving => false,
        }
    }
}

/// A drive as one reactor uses it.
pub(super) struct DriveSlot {
    pub(super) link: DriveLink,
    pub(super) pair: Option<QueuePair>,
    pub(super) failed: bool,
    /// A fault was reported; the manager's freeze is to come.
    pub(super) faulted: bool,
    /// Software queues with commands in them, in the order in which they have their turn.
    backlog: VecDeque<usize>,
}

#[derive(Debug, Default)]
struct SoftwareQueue {
    pending: VecDeque<usize>,
}

/// Everything of a reactor that is not a connection.
pub(super) struct Engine {
    pub(super) commands: Slab<Command>,
    drives: Vec<Option<DriveSlot>>,
    queues: Vec<SoftwareQueue>,
    /// Memory that drives read: data of writes.
    pub(super) to_drive: BufferPool,
    /// Memory that drives write: data of reads.
    pub(super) from_drive: BufferPool,
    /// Memory for in-capsule data when there is none in `to_drive`. What `to_drive` lent for data that is still to
    /// come may come behind such a capsule, so the capsule must never wait for it.
    capsules: BufferPool,
    /// Commands that wait for a buffer, first come first served, by direction.
    pub(super) awaiting_to: VecDeque<usize>,
    pub(super) awaiting_from: VecDeque<usize>,
    pub(super) completions: Vec<Completion>,
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
            drives: Vec::new(),
            queues: Vec::new(),
            to_drive,
            from_drive,
            capsules,
            awaiting_to: VecDeque::new(),
            awaiting_from: VecDeque::new(),
            completions: Vec::with_capacity(1024),
            io_timeout,
            sequence: 0,
        }
    }

    /// Makes room for `more` commands, so that none allocates on its way.
    pub(super) fn reserve(&mut self, more: usize) {
        self.commands.reserve(more);
        let total = self.commands.capacity();
        self.awaiting_to.reserve(total.saturating_sub(self.awaiting_to.len()));
        self.awaiting_from.reserve(total.saturating_sub(self.awaiting_from.len()));
        for queue in &mut self.queues {
            queue.pending.reserve(total.saturating_sub(queue.pending.len()));
        }
    }

    /// Makes software queue number `queue` exist.
    pub(super) fn ensure_queue(&mut self, queue: usize) {
        let total = self.commands.capacity();
        while self.queues.len() <= queue {
            self.queues.push(SoftwareQueue { pending: VecDeque::with_capacity(total) });
        }
    }

    pub(super) fn link(&mut self, drive: usize, link: DriveLink) {
        while self.drives.len() <= drive {
            self.drives.push(None);
        }
        let slot = DriveSlot {
            link,
            pair: None,
            failed: false,
            faulted: false,
            backlog: VecDeque::with_capacity(64),
        };
        self.drives[drive] = Some(slot);
    }

    pub(super) fn drive(&mut self, drive: usize) -> Option<&mut DriveSlot> {
        self.drives.get_mut(drive)?.as_mut()
    }

    pub(super) fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Commands that drives have of this reactor.
    pub(super) fn with_drives(&self) -> usize {
        self.drives.iter().flatten().filter_map(|slot| slot.pair.as_ref()).map(QueuePair::outstanding).sum()
    }

    /// A buffer for data in the given direction.
    pub(super) fn take_buffer(&mut self, direction: TransferDirection, length: u32) -> Option<DmaBuffer> {
        let pool = match direction {
            TransferDirection::ControllerToHost => &mut self.from_drive,
            _ => &mut self.to_drive,
        };
        let mut buffer = pool.take(length as usize)?;
        buffer.set_len(length as usize);
        Some(buffer)
    }

    /// A buffer for in-capsule data.
    pub(super) fn take_capsule_buffer(&mut self, length: u32) -> Option<DmaBuffer> {
        self.take_buffer(TransferDirection::HostToController, length).or_else(|| {
            let mut buffer = self.capsules.take(length as usize)?;
            buffer.set_len(length as usize);
            Some(buffer)
        })
    }

    /// Whether commands wait for memory.
    pub(super) fn is_short_of_memory(&self) -> bool {
        !self.awaiting_to.is_empty() || !self.awaiting_from.is_empty()
    }

    pub(super) fn release_buffer(&mut self, buffer: DmaBuffer) {
        if buffer.direction().device_writes() {
            self.from_drive.put(buffer);
        } else {
            // One of `capsules` finds its way home from here.
            self.to_drive.put(buffer);
        }
    }

    pub(super) fn release(&mut self, data: CommandData) {
        if let CommandData::Buffer(buffer) = data {
            self.release_buffer(buffer);
        }
    }

    /// Takes a command off the books and gives its memory back.
    pub(super) fn forget(&mut self, index: usize) {
        if let Some(command) = self.commands.try_remove(index) {
            self.release(command.data);
        }
    }

    /// Sends a command to its drive now, or puts it into its software queue.
    pub(super) fn dispatch(&mut self, index: usize, now: Instant) -> Option<GivenUp> {
        let Admitted { drive, queue, .. } = self.commands[index].admitted;
        let Some(Some(slot)) = self.drives.get_mut(drive) else {
            return Some(GivenUp { command: index, status: Status::INTERNAL_PATH_ERROR });
        };
        if slot.failed {
            return Some(GivenUp { command: index, status: Status::INTERNAL_PATH_ERROR });
        }
        let direct = slot.backlog.is_empty() && slot.pair.as_ref().is_some_and(QueuePair::has_room);
        if direct {
            return self.submit(index, now);
        }
        self.commands[index].stage = Stage::Queued;
        let pending = &mut self.queues[queue].pending;
        if pending.is_empty() {
            slot.backlog.push_back(queue);
        }
        pending.push_back(index);
        None
    }

    fn submit(&mut self, index: usize, now: Instant) -> Option<GivenUp> {
        let command = &mut self.commands[index];
        let Some(pair) = self.drives[command.admitted.drive].as_mut().and_then(|slot| slot.pair.as_mut())
        else {
            return Some(GivenUp { command: index, status: Status::INTERNAL_PATH_ERROR });
        };
        let mut entry = command.entry;
        entry.nsid = command.admitted.nsid.into();
        entry.mptr = 0.into();
        let data = std::mem::replace(&mut command.data, CommandData::None);
        match pair.submit(&entry, data, index as u64, now + self.io_timeout) {
            Ok(()) => {
                command.stage = Stage::WithDrive;
                None
            }
            Err(rejected) => {
                tracing::error!(reason = %rejected.reason, command = %entry, "the queue pair refused a command");
                command.data = rejected.data;
                Some(GivenUp { command: index, status: Status::INTERNAL_ERROR })
            }
        }
    }

    /// Moves commands from software queues to hardware queues as far as there is room, each namespace in turn.
    pub(super) fn pump(&mut self, now: Instant, given_up: &mut Vec<GivenUp>) {
        for drive in 0..self.drives.len() {
            while let Some(slot) = self.drives[drive].as_mut() {
                if !slot.failed && !slot.pair.as_ref().is_some_and(QueuePair::has_room) {
                    break;
                }
                let failed = slot.failed;
                let Some(queue) = slot.backlog.pop_front() else { break };
                let Some(index) = self.queues[queue].pending.pop_front() else { continue };
                if !self.queues[queue].pending.is_empty() {
                    slot.backlog.push_back(queue);
                }
                if failed {
                    given_up.push(GivenUp { command: index, status: Status::INTERNAL_PATH_ERROR });
                } else {
                    given_up.extend(self.submit(index, now));
                }
            }
        }
    }

    /// Rings each drive's doorbell once for all that was submitted.
    pub(super) fn ring(&mut self) {
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
                slot.link.report_fault(fault.to_string());
            }
        }
        self.completions.len() - before
    }

    /// Reports drives that let a command's time limit pass.
    pub(super) fn check_deadlines(&mut self, now: Instant) {
        for slot in self.drives.iter_mut().flatten() {
            let Some(pair) = slot.pair.as_ref() else { continue };
            if slot.faulted {
                continue;
            }
            if let Some(overdue) = pair.overdue(now) {
                slot.faulted = true;
                slot.link.report_fault(overdue.to_string());
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
                self.awaiting_to.retain(|waiting| *waiting != index);
                self.awaiting_from.retain(|waiting| *waiting != index);
            }
            Stage::Refused(_) | Stage::Held | Stage::Receiving | Stage::WithDrive => {}
        }
        self.forget(index);
    }
}
