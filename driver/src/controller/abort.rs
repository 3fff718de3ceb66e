//! Abort (NVMe Base 2.0, 5.1): the first step of recovery, and the mildest.

use std::time::{Duration, Instant};

use gangway_spec::{Status, SubmissionQueueEntry, opcode};

use super::registers::Poll;
use super::tag::Tag;
use super::{Controller, ControllerError};
use crate::dma::CommandData;
use crate::queue::{Completion, SubmitError};

/// Bit 0 of the result: the command was not aborted.
const NOT_ABORTED: u32 = 1 << 0;

/// What became of a command that was to be aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortOutcome {
    /// The controller aborted it. Its completion came before this answer, or is there now.
    Aborted,
    /// The controller did not abort it: it completed meanwhile, or the controller does not abort such commands. It may
    /// still complete.
    NotAborted,
    /// The controller refused Abort itself.
    Refused(Status),
}

/// An Abort that the controller has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortAnswer {
    /// Queue of the command that was to be aborted.
    pub qid: u16,
    /// Identifier of that command.
    pub cid: u16,
    /// What became of it.
    pub outcome: AbortOutcome,
}

/// Abort commands that are under way, and their answers.
#[derive(Debug, Default)]
pub(super) struct Aborts {
    outstanding: usize,
    answers: Vec<AbortAnswer>,
}

impl Aborts {
    pub(super) fn completed(&mut self, qid: u16, cid: u16, completion: &Completion) {
        self.outstanding = self.outstanding.saturating_sub(1);
        let status = completion.entry.status();
        let outcome = if !status.is_success() {
            AbortOutcome::Refused(status)
        } else if completion.entry.dw0.get() & NOT_ABORTED == 0 {
            AbortOutcome::Aborted
        } else {
            AbortOutcome::NotAborted
        };
        self.answers.push(AbortAnswer { qid, cid, outcome });
    }
}

impl Controller {
    /// How many Abort commands can be outstanding: what the controller states (ACL), and one more.
    pub fn abort_limit(&self) -> usize {
        usize::from(self.identify.acl) + 1
    }

    /// Asks the controller to abort command `cid` of queue `qid`, and does not wait. The answer comes with
    /// [`Controller::take_abort_answers`]; that of the command itself comes on its own queue, aborted or not, or never.
    ///
    /// The controller is given `patience` to answer, or [`TimeLimits::admin`](super::TimeLimits::admin), 5 s at most, for an
    /// Abort that is a step of recovery (`None`). Later Abort is overdue itself.
    ///
    /// # Errors
    /// [`ControllerError::TooManyAborts`] when as many are outstanding as the controller allows, or
    /// [`ControllerError::Rejected`] when the admin queue takes no more.
    pub fn submit_abort(
        &mut self,
        qid: u16,
        cid: u16,
        patience: Option<Duration>,
    ) -> Result<(), ControllerError> {
        let limit = self.abort_limit();
        if self.aborts.outstanding >= limit {
            return Err(ControllerError::TooManyAborts { function: self.function_name().to_owned(), limit });
        }
        let mut entry = SubmissionQueueEntry::new(opcode::admin::ABORT);
        entry.cdw10.set(u32::from(cid) << 16 | u32::from(qid));
        let deadline = Instant::now() + patience.unwrap_or_else(|| self.limits.admin(&entry));
        let user = Tag::Abort { qid, cid }.user();
        if let Err(rejected) = self.admin.submit(&entry, CommandData::None, user, deadline) {
            return Err(self.rejected(&entry, rejected.reason));
        }
        self.aborts.outstanding += 1;
        self.admin.ring();
        Ok(())
    }

    /// The answers to [`Controller::submit_abort`] that have come. [`Controller::reap_admin`] looks for them, and so does
    /// whatever waits for an admin command.
    pub fn take_abort_answers(&mut self) -> Vec<AbortAnswer> {
        std::mem::take(&mut self.aborts.answers)
    }

    /// Asks the controller to abort command `cid` of queue `qid`, and waits for its answer: 5 s at most. When as many
    /// Abort commands are outstanding as the controller allows, it waits for one of them first, within the same time.
    /// Answers to earlier ones of the same queue and identifier that nobody took are dropped.
    ///
    /// # Errors
    /// As [`Controller::admin`]. That the command was not aborted, or Abort was refused, is no error.
    pub fn abort(&mut self, qid: u16, cid: u16) -> Result<AbortOutcome, ControllerError> {
        let entry = SubmissionQueueEntry::new(opcode::admin::ABORT);
        let mut poll = Poll::new(self.limits.admin(&entry));
        let mut submitted = false;
        loop {
            // Of commands that were waited for in vain nobody wants to know any more.
            self.reap_own()?;
            let answers = &mut self.aborts.answers;
            if let Some(found) = answers.iter().position(|answer| (answer.qid, answer.cid) == (qid, cid))
                && submitted
            {
                return Ok(answers.swap_remove(found).outcome);
            }
            if !submitted {
                // Of an earlier command that went by the same identifier.
                self.aborts.answers.retain(|answer| (answer.qid, answer.cid) != (qid, cid));
                match self.submit_abort(qid, cid, None) {
                    Ok(()) => submitted = true,
                    Err(
                        ControllerError::TooManyAborts { .. }
                        | ControllerError::Rejected { reason: SubmitError::Full, .. },
                    ) => {}
                    Err(error) => return Err(error),
                }
            }
            self.wait_on(&mut poll, &entry)?;
        }
    }
}
