//! What an admin queue has under way: commands that the drive has, and Aborts.

use std::collections::HashMap;
use std::sync::Arc;

use gangway_fabric::events::Moment;
use gangway_fabric::target::{Reply, Slot};
use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::status::Status;
use tokio::sync::{mpsc, watch};

use crate::drive::{AdminReply, Drive, Ticket, Verdict};
use crate::remote::decide::Forward;
use crate::remote::limits;

/// Commands of one host that the drive has at a time; further ones wait unread.
const MOST_FORWARDED: usize = 16;
/// Bytes that these commands may read together before further ones wait. One may always be as large as it likes.
const MOST_FORWARDED_BYTES: usize = 1 << 20;

/// Bit 0 of dword 0 of Abort's completion: the command was not aborted (NVMe Base 2.0, 5.1).
const NOT_ABORTED: u64 = 1 << 0;

/// Something that was under way has ended.
pub(super) enum Ended {
    Forwarded(Box<Forwarded>),
    /// A command that was executed here.
    Executed {
        id: u64,
        status: Status,
    },
    Abort {
        id: u64,
        aborted: bool,
    },
    Shutdown {
        id: u64,
    },
}

/// A command that the drive has answered.
pub(super) struct Forwarded {
    pub(super) id: u64,
    pub(super) entry: SubmissionQueueEntry,
    pub(super) forward: Forward,
    pub(super) moment: Moment,
    /// The drive that had it.
    pub(super) drive: Arc<Drive>,
    pub(super) answer: AdminReply,
}

/// A command on its way to a drive. It goes there, or is taken back before: which of both is decided once.
#[derive(Clone)]
pub(super) struct Errand {
    drive: Arc<Drive>,
    ticket: Ticket,
    outcome: Arc<watch::Sender<Option<Outcome>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Sent,
    TakenBack,
}

impl Errand {
    pub(super) fn new(drive: Arc<Drive>, ticket: Ticket) -> Self {
        Self { drive, ticket, outcome: Arc::default() }
    }

    fn decide(&self, outcome: Outcome) -> bool {
        self.outcome.send_if_modified(|decided| {
            let first = decided.is_none();
            decided.get_or_insert(outcome);
            first
        });
        *self.outcome.borrow() == Some(outcome)
    }

    /// Waits until the command is taken back.
    pub(super) async fn taken_back(&self) {
        let taken_back = |outcome: &Option<Outcome>| *outcome == Some(Outcome::TakenBack);
        // The sender is there as long as this is.
        let _ = self.outcome.subscribe().wait_for(taken_back).await;
    }

    /// The command goes to its drive. False when it was taken back.
    pub(super) fn set_out(&self) -> bool {
        self.decide(Outcome::Sent)
    }

    /// Takes the command back, or has the drive abort it.
    fn abort(&self, verdict: Verdict) {
        if !self.decide(Outcome::TakenBack) {
            self.drive.abort(self.ticket, verdict);
        }
    }

    /// Takes the command back, unless the drive has it.
    fn withdraw(&self) {
        if !self.decide(Outcome::TakenBack) {
            self.drive.withdraw(self.ticket);
        }
    }
}

/// A command that has no answer yet.
struct Command {
    /// `None`: the host has forgotten it, by a reset of its controller.
    slot: Option<Slot>,
    bytes: usize,
    /// `None`: it is for no drive, and cannot be aborted.
    errand: Option<Errand>,
}

/// An Abort that was not answered yet.
struct Abort {
    slot: Slot,
    /// The command of this queue that it is about: Abort is answered behind it. The verdict is kept, as that of the drive
    /// counts only if it is that nothing was aborted.
    command: Option<(Slot, Verdict)>,
}

/// What the drive has of an admin queue, and what is being aborted. Numbers are not used again, unlike slots.
pub(super) struct UnderWay {
    commands: HashMap<u64, Command>,
    aborts: HashMap<u64, Abort>,
    bytes: usize,
    /// The shutdown that the host asked for last.
    shutdown: Option<u64>,
    last: u64,
    ends: mpsc::UnboundedSender<Ended>,
}

impl UnderWay {
    /// Nothing, and where it is told what has ended.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Ended>) {
        let (ends, ended) = mpsc::unbounded_channel();
        let (commands, aborts) = (HashMap::new(), HashMap::new());
        (Self { commands, aborts, bytes: 0, shutdown: None, last: 0, ends }, ended)
    }

    /// Whether further commands may be read.
    pub(super) fn has_room(&self) -> bool {
        self.commands.len() < MOST_FORWARDED && self.bytes < MOST_FORWARDED_BYTES
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// A command goes to a drive, or is executed here. Gives its number, and where its answer is to be sent.
    pub(super) fn begin(
        &mut self,
        slot: Slot,
        bytes: usize,
        errand: Option<Errand>,
    ) -> (u64, mpsc::UnboundedSender<Ended>) {
        let id = self.next();
        self.bytes += bytes;
        self.commands.insert(id, Command { slot: Some(slot), bytes, errand });
        (id, self.ends.clone())
    }

    /// A command has its answer. Gives its slot, if the host waits for it.
    pub(super) fn end(&mut self, id: u64) -> Option<Slot> {
        let command = self.commands.remove(&id)?;
        self.bytes -= command.bytes;
        command.slot
    }

    /// An Abort begins. Gives where its outcome is to be told.
    ///
    /// # Errors
    /// What to answer when there are as many as there may be.
    pub(super) fn begin_abort(&mut self, slot: Slot) -> Result<Verdict, Reply> {
        if self.aborts.len() >= usize::from(limits::ABORTS) {
            return Err(Reply::status(Status::ABORT_COMMAND_LIMIT_EXCEEDED));
        }
        let id = self.next();
        self.aborts.insert(id, Abort { slot, command: None });
        let (verdict, mut said) = mpsc::unbounded_channel();
        let ends = self.ends.clone();
        tokio::spawn(async move {
            let aborted = said.recv().await.unwrap_or(false);
            // The queue may have ended meanwhile.
            let _ = ends.send(Ended::Abort { id, aborted });
        });
        Ok(verdict)
    }

    /// Asks for the command in slot `command`, if the drive has it, to be aborted, for the Abort in slot `slot`.
    pub(super) fn abort(&mut self, slot: Slot, command: Slot, verdict: Verdict) {
        let found = self.commands.values().find(|found| found.slot == Some(command));
        let abort = self.aborts.values_mut().find(|abort| abort.slot == slot);
        if let (Some(Command { errand: Some(errand), .. }), Some(abort)) = (found, abort) {
            abort.command = Some((command, verdict.clone()));
            errand.abort(verdict);
        }
    }

    /// Whether a command was aborted is known. Gives what to answer to Abort, unless that was answered.
    pub(super) fn end_abort(&mut self, id: u64, aborted: bool) -> Option<(Slot, Reply)> {
        self.aborts.remove(&id).map(|abort| (abort.slot, answer(aborted)))
    }

    /// The command of this queue in slot `command` has ended. Gives the Aborts that were about it, and their answers.
    pub(super) fn end_aborts_of(&mut self, command: Slot, status: Status) -> Vec<(Slot, Reply)> {
        let about =
            |_: &u64, abort: &mut Abort| abort.command.as_ref().is_some_and(|(slot, _)| *slot == command);
        let aborted = status.is(Status::ABORT_REQUESTED);
        self.aborts.extract_if(about).map(|(_, abort)| (abort.slot, answer(aborted))).collect()
    }

    /// A shutdown begins. Gives its number, and where its end is to be told.
    pub(super) fn begin_shutdown(&mut self) -> (u64, mpsc::UnboundedSender<Ended>) {
        let id = self.next();
        self.shutdown = Some(id);
        (id, self.ends.clone())
    }

    /// A shutdown has ended. Whether it is one that the host waits for.
    pub(super) fn end_shutdown(&mut self, id: u64) -> bool {
        self.shutdown.take_if(|waited| *waited == id).is_some()
    }

    /// The controller was reset: nothing of all this is answered, and what the drive has not got it need not get. Gives
    /// the slots.
    pub(super) fn forget(&mut self) -> Vec<Slot> {
        self.shutdown = None;
        let mut slots: Vec<Slot> = self.aborts.drain().map(|(_, abort)| abort.slot).collect();
        for command in self.commands.values_mut() {
            let Some(slot) = command.slot.take() else { continue };
            slots.push(slot);
            if let Some(errand) = &command.errand {
                errand.withdraw();
            }
        }
        slots
    }
}

fn answer(aborted: bool) -> Reply {
    Reply { status: Status::SUCCESS, result: if aborted { 0 } else { NOT_ABORTED } }
}
