//! What a load generator needs of a queue, whatever is behind it.

use std::os::fd::BorrowedFd;

use gangway_spec::{CompletionQueueEntry, SubmissionQueueEntry};

/// A command that completed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    /// The slot it was submitted from.
    pub(crate) slot: usize,
    /// Its completion.
    pub(crate) entry: CompletionQueueEntry,
}

/// One I/O queue with as many slots as commands can be outstanding. Each slot has a buffer of the size of a command's
/// data; when nobody looks at data, all may have the same one.
pub(crate) trait IoQueue {
    /// The data of a slot without a command.
    fn data(&mut self, slot: usize) -> &mut [u8];

    /// Takes a Read or a Write of the size that the queue was made for. Identifier and data pointer are set here.
    ///
    /// # Errors
    /// The queue cannot be used any more.
    fn submit(&mut self, slot: usize, entry: &SubmissionQueueEntry) -> anyhow::Result<()>;

    /// Lets the device know of the commands that were submitted, all at once.
    ///
    /// # Errors
    /// The queue cannot be used any more.
    fn flush(&mut self) -> anyhow::Result<()>;

    /// Appends completions to `done`; `scratch` is memory to receive into, the same for all queues of a thread so that
    /// it stays in the processor's cache. Whether anything came, complete or not.
    ///
    /// # Errors
    /// The queue cannot be used any more.
    fn poll(&mut self, scratch: &mut [u8], done: &mut Vec<Done>) -> anyhow::Result<bool>;

    /// What to sleep on until there is something to poll; `None` when only polling tells.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// Whether [`IoQueue::flush`] left something because there is no room for it at the moment.
    fn is_blocked(&self) -> bool;
}

/// What a namespace is like, and what commands may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Namespace {
    /// Its identifier.
    pub(crate) nsid: u32,
    /// Bytes of a logical block.
    pub(crate) block: u32,
    /// Logical blocks.
    pub(crate) blocks: u64,
    /// Most bytes of one command.
    pub(crate) max_transfer: u64,
}

/// What is the same for all queues of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueShape {
    /// Most commands outstanding.
    pub(crate) depth: u16,
    /// Bytes of a command's data.
    pub(crate) unit_bytes: usize,
    /// Each slot has its own buffer, and what is read is put there.
    pub(crate) keep_data: bool,
}

/// A device that was opened.
pub(crate) trait Session {
    /// Its queues.
    type Queue: IoQueue + Send;

    /// The namespace that commands go to.
    fn namespace(&self) -> &Namespace;

    /// Makes `count` queues.
    ///
    /// # Errors
    /// The device does not have so many, or they cannot be that deep.
    fn queues(&mut self, count: usize, shape: QueueShape) -> anyhow::Result<Vec<Self::Queue>>;

    /// Ends the queues and then the session.
    ///
    /// # Errors
    /// The device does not answer.
    fn close(self, queues: Vec<Self::Queue>) -> anyhow::Result<()>;
}
