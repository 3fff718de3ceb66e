//! Creation and deletion of I/O queue pairs (NVMe Base 2.0, 5.4 to 5.7).

use gangway_spec::registers::{
    ControllerCapabilities, completion_queue_head_doorbell, submission_queue_tail_doorbell,
};
use gangway_spec::{SubmissionQueueEntry, opcode};

use super::epoch::Run;
use super::{AdminData, Controller, ControllerError};
use crate::dma::CommandData;
use crate::function::Function;
use crate::queue::{Completion, Parts, QueuePair, SglRules};

/// Physically contiguous, in CDW11 of both Create commands.
const PC: u32 = 1 << 0;
/// Interrupts enabled, in CDW11 of Create I/O Completion Queue; the vector stands in its upper half.
const IEN: u32 = 1 << 1;

/// What a deleted queue pair leaves behind.
#[derive(Debug, Default)]
pub struct Deleted {
    /// Commands that the controller completed before, or as aborted.
    pub completed: Vec<Completion>,
    /// Commands that it never completed, with what was given along with them. It has ended them all the same.
    pub outstanding: Vec<(u64, CommandData)>,
}

/// A queue pair that was not deleted. The controller may go on with its commands; once it is stopped the queue pair can
/// be dismantled. Dropping it leaks its memory.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct DeletionFailed {
    /// The queue pair. Its submission queue may be gone already: nothing is to be submitted to it any more.
    pub pair: Box<QueuePair>,
    /// Commands of it whose completions came meanwhile.
    pub completed: Vec<Completion>,
    /// Why not.
    pub error: ControllerError,
}

impl Controller {
    /// Makes an I/O queue pair: a completion queue, which interrupts if [`Options::interrupts`](super::Options) asks for
    /// it and the function has two vectors at least, and a submission queue on it.
    ///
    /// # Errors
    /// [`ControllerError::NoMoreQueues`] when as many exist as the controller grants, else as [`Controller::admin`].
    pub fn create_io_queue_pair(&mut self) -> Result<QueuePair, ControllerError> {
        let limit = self.io_queue_limit;
        let Some(qid) = (1..=limit).find(|&qid| !self.queues_in_use.contains(&qid)) else {
            return Err(ControllerError::NoMoreQueues { function: self.function_name().to_owned(), limit });
        };
        let entries = self.options.io_entries(self.capabilities);
        let max_transfer = self.max_transfer as usize;
        let mut pair = new_queue_pair(
            &*self.function,
            self.run.clone(),
            self.capabilities,
            qid,
            entries,
            max_transfer,
            self.sgl,
        )?;
        let (sq, cq) = pair.addresses();
        if let Some(shadow) = &self.shadow_doorbells {
            pair.set_shadow_doorbells(shadow, false);
        }

        let vector = self.vector_of(qid);
        let interrupting = vector.map_or(0, |vector| u32::from(vector) << 16 | IEN);
        let create_cq = create(opcode::admin::CREATE_IO_CQ, &pair, interrupting | PC);
        if let Err(error) = self.admin_with_kept_memory(create_cq, (cq, 0)) {
            return Err(self.give_up(pair, error));
        }
        let on_queue = u32::from(qid) << 16 | PC;
        let create_sq = create(opcode::admin::CREATE_IO_SQ, &pair, on_queue);
        if let Err(error) = self.admin_with_kept_memory(create_sq, (sq, 0)) {
            return Err(match self.admin(delete(opcode::admin::DELETE_IO_CQ, qid), AdminData::None) {
                Ok(_) => self.give_up(pair, error),
                Err(second) => {
                    tracing::error!(%second, "a completion queue without submission queue is left behind");
                    self.queues_in_use.insert(qid);
                    self.orphans.push(pair);
                    error
                }
            });
        }
        pair.set_stepper(self.function.stepper(qid));
        pair.set_interrupt(vector.map(|vector| self.interrupts[usize::from(vector)].clone()));
        self.queues_in_use.insert(qid);
        Ok(pair)
    }

    /// Deletes an I/O queue pair, the submission queue first. The controller ends all commands of it before it says
    /// that the submission queue is deleted; most controllers complete each of them, as aborted.
    ///
    /// Takes 10 s for each of the two queues at most.
    ///
    /// # Errors
    /// [`DeletionFailed`], with the queue pair: [`ControllerError::ForeignQueue`] when it is of another controller or an
    /// earlier run, else as [`Controller::admin`]. Its identifier is not used again before the controller was disabled, and
    /// it can be dismantled then.
    pub fn delete_io_queue_pair(&mut self, mut pair: QueuePair) -> Result<Deleted, DeletionFailed> {
        let qid = pair.qid();
        let mut completed = Vec::new();
        let deleted = if pair.epoch() != self.run.epoch() || !self.queues_in_use.contains(&qid) {
            Err(ControllerError::ForeignQueue { function: self.function_name().to_owned(), qid })
        } else {
            self.delete_both(&mut pair, &mut completed)
        };
        if let Err(error) = deleted {
            return Err(DeletionFailed { pair: Box::new(pair), completed, error });
        }
        self.queues_in_use.remove(&qid);
        Ok(Deleted { completed, outstanding: pair.discard() })
    }

    fn delete_both(
        &mut self,
        pair: &mut QueuePair,
        completed: &mut Vec<Completion>,
    ) -> Result<(), ControllerError> {
        self.admin(delete(opcode::admin::DELETE_IO_SQ, pair.qid()), AdminData::None)?;
        // While the completion queue is still the controller's: its doorbell is rung once more.
        if let Err(fault) = pair.reap(completed) {
            tracing::warn!(%fault, "found while its queue was deleted");
        }
        self.admin(delete(opcode::admin::DELETE_IO_CQ, pair.qid()), AdminData::None)?;
        Ok(())
    }

    /// Has the interrupts of a queue pair come to the CPU that its owner runs on, as far as the system lets that be
    /// chosen. A vector that queue pairs share goes to the CPU that was named last. It does not outlive a reset.
    ///
    /// # Errors
    /// As [`Function::steer_interrupt`]; not when the queue pair does not interrupt.
    pub fn steer_interrupt(&self, pair: &QueuePair, cpu: usize) -> Result<(), ControllerError> {
        match self.vector_of(pair.qid()) {
            Some(vector) => Ok(self.function.steer_interrupt(vector, cpu)?),
            None => Ok(()),
        }
    }

    /// The vector of an I/O queue: its own, or one that it shares with other I/O queues when there are fewer than queues.
    /// None when there is only that of the admin queue, whose reader would take the signals of the others.
    fn vector_of(&self, qid: u16) -> Option<u16> {
        match self.interrupts.len() as u16 {
            0 | 1 => None,
            vectors => Some(1 + (qid - 1) % (vectors - 1)),
        }
    }

    /// After a failed creation: the controller refused and knows nothing of the queue, or it did not answer and may.
    fn give_up(&mut self, pair: QueuePair, error: ControllerError) -> ControllerError {
        if matches!(error, ControllerError::Status { .. } | ControllerError::Rejected { .. }) {
            pair.discard();
        } else {
            self.queues_in_use.insert(pair.qid());
            self.orphans.push(pair);
        }
        error
    }
}

/// Makes the memory of a queue pair; the controller is not told.
pub(super) fn new_queue_pair(
    function: &dyn Function,
    run: Run,
    capabilities: ControllerCapabilities,
    qid: u16,
    entries: u16,
    max_transfer: usize,
    sgl: Option<SglRules>,
) -> Result<QueuePair, ControllerError> {
    let stride = capabilities.dstrd();
    let parts = Parts {
        qid,
        run,
        entries,
        max_transfer,
        sgl,
        tail_doorbell: function.doorbell(submission_queue_tail_doorbell(qid, stride))?,
        head_doorbell: function.doorbell(completion_queue_head_doorbell(qid, stride))?,
    };
    QueuePair::new(function.domain(), parts)
        .map_err(|source| ControllerError::Dma { function: function.name().to_owned(), source })
}

fn create(opcode: u8, pair: &QueuePair, cdw11: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.cdw10.set(u32::from(pair.entries() - 1) << 16 | u32::from(pair.qid()));
    entry.cdw11.set(cdw11);
    entry
}

fn delete(opcode: u8, qid: u16) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.cdw10.set(u32::from(qid));
    entry
}
