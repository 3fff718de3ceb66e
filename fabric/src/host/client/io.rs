//! An I/O queue.

use std::time::Duration;

use gangway_spec::{SubmissionQueueEntry, nvm, opcode};

use super::{Completed, HostError, Queue, Transfer};
use crate::host::Tag;

/// An I/O queue of an association.
pub struct IoQueue {
    pub(super) queue: Queue,
    pub(super) qid: u16,
}

impl IoQueue {
    /// The queue's identifier.
    pub fn qid(&self) -> u16 {
        self.qid
    }

    /// Queues a command: see [`Queue::submit`].
    ///
    /// # Errors
    /// The queue is full, or the data is longer than a command can say.
    pub fn submit(&mut self, entry: &SubmissionQueueEntry, transfer: Transfer) -> Result<Tag, HostError> {
        self.queue.submit(entry, transfer)
    }

    /// Sends what the socket takes at the moment.
    ///
    /// # Errors
    /// The connection broke.
    pub fn flush(&mut self) -> Result<(), HostError> {
        self.queue.flush()
    }

    /// Waits for a completion, and sends what is queued if it has to wait: see [`Queue::wait`].
    ///
    /// # Errors
    /// The connection ended.
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<Completed>, HostError> {
        self.queue.wait(timeout)
    }

    /// Submits a command and waits for its completion, whatever its status: see [`Queue::execute`].
    ///
    /// # Errors
    /// The queue is full, the connection ended, or the command did not complete in time.
    pub fn execute(
        &mut self,
        entry: &SubmissionQueueEntry,
        transfer: Transfer,
    ) -> Result<Completed, HostError> {
        self.queue.execute(entry, transfer)
    }

    /// Commands that were submitted and whose completion the caller has not got.
    pub fn in_flight(&self) -> usize {
        self.queue.in_flight()
    }

    /// Whether there is no room for a command.
    pub fn is_full(&self) -> bool {
        self.queue.is_full()
    }

    /// The queue as such.
    pub fn queue(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// Reads `blocks` logical blocks (1's based, at most 65536) of `block_size` bytes each.
    ///
    /// # Errors
    /// The command failed, or one of the errors of [`IoQueue::execute`].
    pub fn read_blocks(
        &mut self,
        nsid: u32,
        slba: u64,
        blocks: u32,
        block_size: u32,
    ) -> Result<Vec<u8>, HostError> {
        let length = blocks
            .checked_mul(block_size)
            .ok_or(HostError::TooLong { length: blocks as usize * block_size as usize })?;
        let entry = io_command(opcode::nvm::READ, nsid, slba, blocks);
        let completed = self.succeed(&entry, Transfer::Read(length))?;
        if completed.data.len() != length as usize {
            return Err(HostError::ShortData {
                command: entry.display_io().to_string(),
                expected: length as usize,
                received: completed.data.len(),
            });
        }
        Ok(completed.data)
    }

    /// Writes `data`, whose length must be a multiple of `block_size` bytes, from logical block `slba` on.
    ///
    /// # Errors
    /// The command failed, or one of the errors of [`IoQueue::execute`].
    pub fn write_blocks(
        &mut self,
        nsid: u32,
        slba: u64,
        block_size: u32,
        data: &[u8],
    ) -> Result<(), HostError> {
        let blocks = data.len() / block_size.max(1) as usize;
        let blocks = u32::try_from(blocks).map_err(|_| HostError::TooLong { length: data.len() })?;
        let entry = io_command(opcode::nvm::WRITE, nsid, slba, blocks);
        self.succeed(&entry, Transfer::Write(data.into())).map(|_| ())
    }

    /// Makes the drive write what it has cached for a namespace.
    ///
    /// # Errors
    /// The command failed, or one of the errors of [`IoQueue::execute`].
    pub fn flush_namespace(&mut self, nsid: u32) -> Result<(), HostError> {
        let mut entry = SubmissionQueueEntry::new(opcode::nvm::FLUSH);
        entry.nsid.set(nsid);
        self.succeed(&entry, Transfer::None).map(|_| ())
    }

    fn succeed(&mut self, entry: &SubmissionQueueEntry, transfer: Transfer) -> Result<Completed, HostError> {
        let completed = self.execute(entry, transfer)?;
        let status = completed.entry.status();
        if !status.is_success() {
            return Err(HostError::Command { command: entry.display_io().to_string(), status });
        }
        Ok(completed)
    }
}

fn io_command(opcode: u8, nsid: u32, slba: u64, blocks: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.nsid.set(nsid);
    nvm::set_slba(&mut entry, slba);
    nvm::set_nlb(&mut entry, blocks);
    entry
}
