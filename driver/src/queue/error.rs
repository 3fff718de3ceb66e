//! Why a command is not accepted, and why a queue pair is given up.

use thiserror::Error;

use crate::dma::CommandData;

/// A command that was not submitted, with its data back.
#[derive(Debug, Error)]
#[error("{reason}")]
pub struct Rejected {
    /// The memory that came with the command.
    pub data: CommandData,
    /// Why.
    pub reason: SubmitError,
}

/// Why a command was not submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// As many commands are outstanding as the queue has room for. Submit again after reaping.
    #[error("the queue pair is full")]
    Full,
    /// The data is longer than what the controller, or the queue's PRP lists, allow.
    #[error("{len} bytes are more than one command can transfer ({limit})")]
    TooLong {
        /// Bytes of data.
        len: usize,
        /// Bytes that are allowed.
        limit: usize,
    },
    /// The data begins at an address that is not a multiple of 4.
    #[error("data at I/O virtual address {iova:#x} does not begin at a multiple of 4")]
    Misaligned {
        /// The address.
        iova: u64,
    },
    /// No specification known here says how much the opcode moves, and PRPs for memory of this length, beginning where
    /// it does, would let a drive that moves more take the data for addresses of further memory. Begin it elsewhere in
    /// its first page ([`guarded_start`](super::guarded_start), [`DmaBuffer::begin_at`](crate::DmaBuffer::begin_at)),
    /// or use SGLs.
    #[error(
        "opcode {opcode:#04x} may move more than the {len} bytes that it is given, and a drive that does would take data \
         for addresses; memory of {len} bytes must begin elsewhere in its first page, or be longer"
    )]
    Unguarded {
        /// The command's opcode.
        opcode: u8,
        /// Bytes of data.
        len: usize,
    },
    /// The memory of a command with metadata holds no data besides.
    #[error("{len} bytes do not hold data and {metadata} bytes of metadata behind it")]
    NoRoomForMetadata {
        /// Bytes of memory.
        len: usize,
        /// Bytes of metadata.
        metadata: usize,
    },
    /// The command reads or writes memory that is not mapped for the device to read or write.
    #[error("opcode {opcode:#04x} transfers data in a direction that its memory is not mapped for")]
    WrongDirection {
        /// The command's opcode.
        opcode: u8,
    },
    /// The controller would go on using memory after the command completed: a queue, doorbells, a host memory buffer.
    #[error(
        "opcode {opcode:#04x} would give the controller memory for longer than the command; I/O queues are made with \
         Controller::create_io_queue_pair, other such memory is not supported"
    )]
    KeepsMemory {
        /// The command's opcode.
        opcode: u8,
    },
    /// The queue pair is faulted or its controller was stopped.
    #[error("the queue pair no longer takes commands")]
    Stopped,
}

/// Something a controller must never do. The queue pair takes no more commands; only a reset of the controller gives
/// the memory of outstanding commands back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum QueueFault {
    /// The completion queue reads as all ones.
    #[error("queue {qid}: the completion queue reads as all ones; the controller is gone")]
    Gone {
        /// Queue identifier.
        qid: u16,
    },
    /// A completion for a command that is not outstanding: it never was, it completed before, or the device was not
    /// told of it yet.
    #[error("queue {qid}: a completion names command {cid:#06x}, which is not outstanding")]
    UnknownCommand {
        /// Queue identifier.
        qid: u16,
        /// The identifier in the completion.
        cid: u16,
    },
    /// A completion of another submission queue.
    #[error("queue {qid}: a completion says it is of submission queue {sq_id}")]
    WrongQueue {
        /// Queue identifier.
        qid: u16,
        /// The submission queue in the completion.
        sq_id: u16,
    },
    /// A submission queue head beyond the queue's end.
    #[error("queue {qid}: a completion reports submission queue head {sq_head}, beyond the queue's end")]
    BadHead {
        /// Queue identifier.
        qid: u16,
        /// The head in the completion.
        sq_head: u16,
    },
}
