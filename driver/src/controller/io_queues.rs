//! Creation and deletion of I/O queue pairs (NVMe Base 2.0, 5.4 to 5.7).

use gangway_spec::registers::{
    ControllerCapabilities, completion_queue_head_doorbell, submission_queue_tail_doorbell,
};
use gangway_spec::{SubmissionQueueEntry, opcode};

use super::epoch::Run;
use super::{AdminData, Controller, ControllerError};
use crate::dma::CommandData;
use crate::function::Function;
use crate::queue::{Parts, QueuePair};

/// Physically contiguous, in CDW11 of both Create commands.
const PC: u32 = 1 << 0;
/// Interrupts enabled, in CDW11 of Create I/O Completion Queue; the vector stands in its upper half.
const IEN: u32 = 1 << 1;

/// A queue pair that was not deleted. Dropping it leaks its memory, since the controller may still use it.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct DeletionFailed {
    /// The queue pair.
    pub pair: Box<QueuePair>,
    /// Why not.
    pub error: ControllerError,
}

impl Controller {
    /// Makes an I/O queue pair: a completion queue, which interrupts if [`Options::interrupts`](super::Options) asks for
    /// it and the function can, and a submission queue on it.
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
        let mut pair =
            new_queue_pair(&*self.function, self.run.clone(), self.capabilities, qid, entries, max_transfer)?;
        let (sq, cq) = pair.addresses();

        let vector = self.vector_of(qid);
        let interrupting = vector.map_or(0, |vector| u32::from(vector) << 16 | IEN);
        let create_cq = create(opcode::admin::CREATE_IO_CQ, &pair, interrupting | PC);
        if let Err(error) = self.admin_with_queue(create_cq, cq) {
            return Err(self.give_up(pair, error));
        }
        let on_queue = u32::from(qid) << 16 | PC;
        if let Err(error) = self.admin_with_queue(create(opcode::admin::CREATE_IO_SQ, &pair, on_queue), sq) {
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
    /// that the queue is deleted; gives what was given with those that were outstanding, completed now or not.
    ///
    /// # Errors
    /// [`DeletionFailed`], with the queue pair: for one of another controller or an earlier run
    /// ([`ControllerError::ForeignQueue`]), else as [`Controller::admin`]. The controller may then still use its memory
    /// and have its commands. Once the controller is stopped the queue pair can be dismantled.
    pub fn delete_io_queue_pair(
        &mut self,
        pair: QueuePair,
    ) -> Result<Vec<(u64, CommandData)>, DeletionFailed> {
        let qid = pair.qid();
        let failed = |pair, error| Err(DeletionFailed { pair: Box::new(pair), error });
        if pair.epoch() != self.run.epoch() || !self.queues_in_use.contains(&qid) {
            let error = ControllerError::ForeignQueue { function: self.function_name().to_owned(), qid };
            return failed(pair, error);
        }
        for opcode in [opcode::admin::DELETE_IO_SQ, opcode::admin::DELETE_IO_CQ] {
            if let Err(error) = self.admin(delete(opcode, qid), AdminData::None) {
                return failed(pair, error);
            }
        }
        self.queues_in_use.remove(&qid);
        Ok(pair.discard())
    }

    /// The vector of an I/O queue: its own, or one that it shares when there are fewer than queues.
    fn vector_of(&self, qid: u16) -> Option<u16> {
        match self.interrupts.len() as u16 {
            0 => None,
            1 => Some(0),
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
) -> Result<QueuePair, ControllerError> {
    let stride = capabilities.dstrd();
    let parts = Parts {
        qid,
        run,
        entries,
        max_transfer,
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
