//! Admin commands of hosts, on the drive's admin queue.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use gangway_driver::controller::{Controller, ControllerError};
use gangway_driver::dma::{BufferPool, CommandData, Direction, DmaDomain};
use gangway_driver::queue::{Completion, SubmitError, guarded_start};
use gangway_spec::status::Status;
use tokio::sync::oneshot;

use super::abort::Ticket;
use super::limits;
use super::link::{AdminReply, AdminRequest, AdminTransfer};

/// Slots of the admin queue that hosts leave to the manager: for aborts, and for its own commands.
const KEPT_FREE: usize = 16;

/// The commands that hosts sent to the admin queue.
pub(super) struct Admin {
    memory: BufferPool,
    waiting: VecDeque<AdminRequest>,
    outstanding: HashMap<u64, Outstanding>,
    next_user: u64,
    completions: Vec<Completion>,
    nap: Duration,
}

/// A command that the drive has.
struct Outstanding {
    ticket: Ticket,
    /// Its host asked for it to be aborted.
    unwanted: bool,
    reply: oneshot::Sender<AdminReply>,
}

impl Admin {
    pub(super) fn new(memory: BufferPool) -> Self {
        Self {
            memory,
            waiting: VecDeque::new(),
            outstanding: HashMap::new(),
            next_user: 0,
            completions: Vec::with_capacity(64),
            nap: limits::SHORTEST_NAP,
        }
    }

    pub(super) fn push(&mut self, request: AdminRequest) {
        self.waiting.push_back(request);
    }

    /// Answers a command that waits as aborted. Whether it waited.
    pub(super) fn withdraw(&mut self, ticket: Ticket) -> bool {
        let waits = self.waiting.iter().position(|request| request.ticket == ticket);
        let Some(request) = waits.and_then(|place| self.waiting.remove(place)) else { return false };
        answer(request.reply, Status::ABORT_REQUESTED);
        true
    }

    /// The drive's identifier of a command that it has and that its host wants aborted.
    pub(super) fn abort(&mut self, ticket: Ticket, controller: &mut Controller) -> Option<u16> {
        let (user, outstanding) =
            self.outstanding.iter_mut().find(|(_, outstanding)| outstanding.ticket == ticket)?;
        outstanding.unwanted = true;
        controller.admin_queue().cid_of(*user)
    }

    /// Whether there are commands of hosts, with the drive or waiting for room there.
    pub(super) fn is_busy(&self) -> bool {
        !self.outstanding.is_empty() || !self.waiting.is_empty()
    }

    /// How long to sleep until the queue of a drive that does not interrupt is looked at again.
    pub(super) fn next_nap(&mut self) -> Duration {
        let nap = self.nap;
        self.nap = (nap * 2).min(limits::LONGEST_NAP);
        nap
    }

    /// Something happened that others may follow soon.
    pub(super) fn stays_awake(&mut self) {
        self.nap = limits::SHORTEST_NAP;
    }

    /// Submits as many of the waiting commands as there is room for. Whether there was any.
    pub(super) fn submit(&mut self, controller: &mut Controller) -> bool {
        let waited = self.waiting.len();
        while let Some(request) = self.waiting.pop_front() {
            // A host that is gone has no more wishes: what it asked for must not happen later.
            if request.association.as_ref().is_some_and(|host| host.is_closed()) {
                continue;
            }
            let queue = controller.admin_queue();
            if !queue.has_room() || queue.outstanding() + KEPT_FREE >= queue.capacity() {
                self.waiting.push_front(request);
                break;
            }
            let Some(data) = self.memory_for(&request.transfer, controller.domain()) else {
                answer(request.reply, Status::INTERNAL_ERROR);
                continue;
            };
            self.next_user += 1;
            let user = self.next_user;
            let limit = controller.time_limits().admin(&request.entry);
            let queue = controller.admin_queue();
            match queue.submit(&request.entry, data, user, Instant::now() + limit) {
                Ok(()) => {
                    queue.ring();
                    let AdminRequest { ticket, reply, .. } = request;
                    self.outstanding.insert(user, Outstanding { ticket, unwanted: false, reply });
                    self.stays_awake();
                }
                Err(rejected) => {
                    self.release(rejected.data);
                    let status = match rejected.reason {
                        // A vendor's command of a length that no pointers keep it to.
                        SubmitError::Unguarded { .. } => Status::INVALID_FIELD.with_dnr(),
                        reason => {
                            let drive = controller.function_name();
                            tracing::error!(drive, %reason, "an admin command was not submitted");
                            Status::INTERNAL_ERROR
                        }
                    };
                    answer(request.reply, status);
                }
            }
        }
        self.waiting.len() < waited
    }

    /// Answers what the drive has completed.
    ///
    /// # Errors
    /// When the admin queue went wrong.
    pub(super) fn reap(&mut self, controller: &mut Controller) -> Result<(), ControllerError> {
        let mut completions = std::mem::take(&mut self.completions);
        let reaped = controller.reap_admin(&mut completions);
        for Completion { user, entry, data } in completions.drain(..) {
            self.stays_awake();
            let bytes = match &data {
                CommandData::Buffer(buffer) if buffer.direction().device_writes() => buffer.to_vec(),
                _ => Vec::new(),
            };
            self.release(data);
            let Some(Outstanding { unwanted, reply, .. }) = self.outstanding.remove(&user) else { continue };
            if entry.status().is(Status::ABORT_REQUESTED) && !unwanted {
                // It took too long. Its host may try again.
                answer(reply, Status::COMMAND_INTERRUPTED);
            } else {
                let _ = reply.send(AdminReply { entry, data: bytes });
            }
        }
        self.completions = completions;
        reaped.map(drop)
    }

    /// Memory for the data of a command, placed so that a drive which moves more than was asked for finds nothing behind
    /// it. `None`: there is none.
    fn memory_for(&mut self, transfer: &AdminTransfer, domain: &DmaDomain) -> Option<CommandData> {
        let len = match transfer {
            AdminTransfer::FromDrive(len) => *len,
            AdminTransfer::ToDrive(data) => data.len(),
        };
        if len == 0 {
            return Some(CommandData::None);
        }
        let start = guarded_start(len).unwrap_or(0);
        let buffer = match transfer {
            AdminTransfer::FromDrive(_) => self.memory.take(start + len),
            AdminTransfer::ToDrive(_) => None,
        };
        // Rare, so it is made for each. Nobody waits for what another host has: its commands may take minutes.
        let direction = match transfer {
            AdminTransfer::FromDrive(_) => Direction::DeviceWrites,
            AdminTransfer::ToDrive(_) => Direction::DeviceReads,
        };
        let made = || {
            domain
                .buffer(start + len, direction)
                .inspect_err(|error| tracing::warn!(%error, len, "an admin command has no memory"))
                .ok()
        };
        let mut buffer = buffer.or_else(made)?;
        buffer.set_len(len);
        buffer.begin_at(start);
        match transfer {
            // What a drive does not write must not show a host what was in the buffer before.
            AdminTransfer::FromDrive(_) => buffer.fill(0),
            AdminTransfer::ToDrive(data) => buffer.copy_from_slice(data),
        }
        Some(CommandData::Buffer(buffer))
    }

    fn release(&mut self, data: CommandData) {
        if let CommandData::Buffer(buffer) = data {
            // One that was made for its command is freed by this.
            self.memory.put(buffer);
        }
    }

    /// Answers what the drive had, which is stopped or gone: it will not complete it. `aborted` is the memory that comes
    /// back.
    pub(super) fn interrupt(&mut self, aborted: Vec<(u64, CommandData)>) {
        for (_, data) in aborted {
            self.release(data);
        }
        for (_, outstanding) in self.outstanding.drain() {
            answer(outstanding.reply, Status::COMMAND_INTERRUPTED);
        }
    }

    /// Answers what waits: there is no drive to send it to.
    pub(super) fn refuse(&mut self, status: Status) {
        for request in self.waiting.drain(..) {
            answer(request.reply, status);
        }
    }
}

fn answer(reply: oneshot::Sender<AdminReply>, status: Status) {
    let _ = reply.send(AdminReply::status(status));
}
