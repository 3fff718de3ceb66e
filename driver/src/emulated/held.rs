//! Commands that a queue of the drive has taken and not completed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use gangway_spec::{CompletionQueueEntry, SubmissionQueueEntry};

use super::faults::{Hold, REORDER_LIMIT, Treatment};

/// The commands of one submission queue that wait, in the order they came in.
#[derive(Default)]
pub(super) struct Held {
    commands: VecDeque<Command>,
    /// Completions that are to be written once more.
    again: VecDeque<CompletionQueueEntry>,
    /// How many commands of the queue were completed.
    completed: u64,
}

/// A command with what is to happen to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    pub(super) entry: SubmissionQueueEntry,
    pub(super) treatment: Treatment,
    /// It ends without having been executed.
    pub(super) aborted: bool,
    /// `None`: never.
    due: Option<Instant>,
    /// It is due as well when so many commands were completed.
    behind: u64,
}

impl Held {
    pub(super) fn with_capacity(commands: usize) -> Self {
        Self { commands: VecDeque::with_capacity(commands), ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.commands.len()
    }

    /// Whether nothing is to be done for the queue, now or later.
    pub(super) fn is_idle(&self) -> bool {
        self.commands.is_empty() && self.again.is_empty()
    }

    /// Whether a command with this identifier waits.
    pub(super) fn holds(&self, cid: u16) -> bool {
        self.commands.iter().any(|command| command.entry.cid.get() == cid)
    }

    /// How many commands with this opcode wait.
    pub(super) fn count(&self, opcode: u8) -> usize {
        self.commands.iter().filter(|command| command.entry.opcode == opcode).count()
    }

    /// Takes a command in. It waits for `latency`, and for what its treatment says.
    pub(super) fn admit(
        &mut self,
        entry: SubmissionQueueEntry,
        treatment: Treatment,
        now: Instant,
        latency: Duration,
    ) {
        let (due, behind) = match treatment.hold {
            None => (Some(now + latency), u64::MAX),
            Some(Hold::For(time)) => (now.checked_add(latency + time), u64::MAX),
            Some(Hold::Behind(others)) => {
                (Some(now + latency + REORDER_LIMIT), self.completed + u64::from(others))
            }
            Some(Hold::Forever) => (None, u64::MAX),
        };
        self.commands.push_back(Command { entry, treatment, aborted: false, due, behind });
    }

    /// The first command whose time has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Command> {
        let completed = self.completed;
        let is_due =
            |command: &Command| command.due.is_some_and(|due| due <= now) || command.behind <= completed;
        let index = self.commands.iter().position(is_due)?;
        self.commands.remove(index)
    }

    /// Aborts a command that waits: it is due at once, before all others. `false` when none has this identifier.
    pub(super) fn abort(&mut self, cid: u16, now: Instant) -> bool {
        let found =
            self.commands.iter().position(|command| !command.aborted && command.entry.cid.get() == cid);
        let Some(command) = found.and_then(|index| self.commands.remove(index)) else { return false };
        // Whatever was declared for its completion does not apply to this one.
        let treatment = Treatment::default();
        self.commands.push_front(Command { aborted: true, due: Some(now), treatment, ..command });
        true
    }

    /// Takes a command that waits away. `false` when none has this identifier.
    pub(super) fn remove(&mut self, cid: u16) -> bool {
        let found = self.commands.iter().position(|command| command.entry.cid.get() == cid);
        found.and_then(|index| self.commands.remove(index)).is_some()
    }

    /// Takes all out, to be ended with their queue.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Command> + '_ {
        self.again.clear();
        self.commands.drain(..)
    }

    /// A command was completed; perhaps its completion is to be written once more.
    pub(super) fn count_completion(&mut self, again: Option<CompletionQueueEntry>) {
        self.completed += 1;
        self.again.extend(again);
    }

    /// The next completion that is to be written once more.
    pub(super) fn take_again(&mut self) -> Option<CompletionQueueEntry> {
        self.again.pop_front()
    }
}
