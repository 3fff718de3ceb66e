//! Aborts that hosts ask for.
//!
//! A host's Abort names a command by the host's identifiers. Whoever has the command translates them: the control plane to
//! a [`Ticket`] for admin commands, a reactor to the drive's own identifier for I/O commands. Between that and the drive's
//! taking the Abort the command may complete, and its identifier may come again after 64 more commands in its slot. Should
//! the drive then abort another one, the host of that is told that it was interrupted, and tries again.

use std::collections::VecDeque;

use gangway_driver::controller::{AbortAnswer, AbortOutcome, Controller, ControllerError};
use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::opcode::admin;
use tokio::sync::mpsc::UnboundedSender;

use super::manager::{Condition, Manager, Setback};

/// Names an admin command of a host from the moment that it is sent to the manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ticket(pub(super) u64);

/// Where it is said whether a command was aborted. The first word counts; when all ends are dropped without any, it was
/// not.
pub(crate) type Verdict = UnboundedSender<bool>;

/// The command that is to be aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// An admin command.
    Admin(Ticket),
    /// Command `cid` on the `issue`-th queue pair that a reactor got.
    Io { reactor: usize, issue: u64, qid: u16, cid: u16 },
}

/// Aborts that wait until the drive takes one more, and those that it has.
#[derive(Default)]
pub(super) struct HostAborts {
    waiting: VecDeque<Asked>,
    asked: Vec<Asked>,
}

struct Asked {
    qid: u16,
    cid: u16,
    verdict: Verdict,
}

impl HostAborts {
    /// Whether the drive is waited for.
    pub(super) fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || !self.asked.is_empty()
    }

    /// Forgets all: the queues that they were about are gone, and with them the commands.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Forgets those about a queue that is made anew: its identifiers name other commands then.
    pub(super) fn forget(&mut self, qid: u16) {
        self.waiting.retain(|asked| asked.qid != qid);
        self.asked.retain(|asked| asked.qid != qid);
    }

    /// The drive has answered an Abort. That it aborted the command is said by who gets its completion, when it comes.
    pub(super) fn note(&mut self, answer: &AbortAnswer) {
        for asked in self.asked.extract_if(.., |asked| (asked.qid, asked.cid) == (answer.qid, answer.cid)) {
            if answer.outcome != AbortOutcome::Aborted {
                let _ = asked.verdict.send(false);
            }
        }
    }

    /// Asks the drive for as many as it lets itself be asked for at a time.
    fn submit(&mut self, controller: &mut Controller) -> Result<(), ControllerError> {
        while let Some(next) = self.waiting.pop_front() {
            // The host has gone, or its command has ended.
            if next.verdict.is_closed() {
                continue;
            }
            // A drive may do one thing after the other, a Format first. It is no reason to reset it.
            let patience = controller.time_limits().admin(&SubmissionQueueEntry::new(admin::FORMAT_NVM));
            match controller.submit_abort(next.qid, next.cid, Some(patience)) {
                Ok(()) => self.asked.push(next),
                Err(ControllerError::TooManyAborts { .. } | ControllerError::Rejected { .. }) => {
                    self.waiting.push_front(next);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Manager {
    /// Aborts a command, if it is here or with the drive.
    pub(super) fn abort(&mut self, target: Target, verdict: Verdict) {
        if matches!(target, Target::Admin(ticket) if self.admin.withdraw(ticket)) {
            return;
        }
        let Condition::Works(controller) = &mut self.condition else {
            let _ = verdict.send(false);
            return;
        };
        let found = match target {
            Target::Admin(ticket) => self.admin.abort(ticket, controller).map(|cid| (0, cid)),
            Target::Io { reactor, issue, qid, cid } => {
                (self.issues.get(reactor) == Some(&issue)).then_some((qid, cid))
            }
        };
        match found {
            Some((qid, cid)) => self.aborts.waiting.push_back(Asked { qid, cid, verdict }),
            // It has ended, or is about to.
            None => drop(verdict.send(false)),
        }
    }

    /// Asks the drive for what hosts want aborted. What is overdue comes first: it decides about the drive.
    pub(super) fn ask_for_hosts(&mut self) -> Result<(), Setback> {
        let Condition::Works(controller) = &mut self.condition else { return Ok(()) };
        if !self.ladder.is_busy() {
            self.aborts.submit(controller)?;
        }
        Ok(())
    }
}
