//! A blocking host over TCP.
//!
//! [`AdminQueue::connect`] makes an association, [`AdminQueue::connect_io`] adds I/O queues to it. A queue belongs to
//! one thread at a time and may be moved to another. Commands are queued by `submit` and leave together with the next
//! `flush` or `wait`, so that many of them share one system call.
//!
//! Nothing happens in the background: a host that asked for a keep-alive timeout has to call
//! [`AdminQueue::keep_alive`] in time.

mod admin;
mod error;
mod io;
mod outbound;
mod queue;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use gangway_spec::CompletionQueueEntry;
use gangway_spec::fabrics::{HostId, Nqn};

pub use admin::AdminQueue;
pub use error::HostError;
pub use io::IoQueue;
pub use queue::Queue;

use super::Tag;
use crate::pdu::DigestFlags;

/// Who a host says that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostIdentity {
    /// The host's name.
    pub nqn: Nqn,
    /// The host's identifier: the same for all its associations.
    pub id: HostId,
}

/// How a host connects.
#[derive(Debug, Clone)]
pub struct Options {
    /// Entries of each I/O queue, 1's based, at least 2: one command less than that may be in flight.
    pub queue_size: u16,
    /// Entries of the admin queue, 1's based, at least 2.
    pub admin_queue_size: u16,
    /// Keep Alive Timeout; zero for none.
    pub kato: Duration,
    /// Whether the controller is asked for SQ flow control.
    pub flow_control: bool,
    /// Whether writes that fit into a capsule travel in it.
    pub in_capsule: bool,
    /// HPDA: alignment of the data of C2HData, in dwords, 0's based, at most 31.
    pub hpda: u8,
    /// Whether headers have digests.
    pub header_digest: bool,
    /// Whether data has digests.
    pub data_digest: bool,
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How long a command may take that is waited for.
    pub command_timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            queue_size: 128,
            admin_queue_size: 32,
            kato: Duration::ZERO,
            flow_control: true,
            in_capsule: true,
            hpda: 0,
            header_digest: false,
            data_digest: false,
            connect_timeout: Duration::from_secs(10),
            command_timeout: Duration::from_secs(30),
        }
    }
}

impl Options {
    /// The digests that the controller is asked for.
    pub fn digests(&self) -> DigestFlags {
        let mut digests = DigestFlags::empty();
        digests.set(DigestFlags::HEADER, self.header_digest);
        digests.set(DigestFlags::DATA, self.data_digest);
        digests
    }
}

/// The data that goes with a command.
#[derive(Debug, Clone)]
pub enum Transfer {
    /// None.
    None,
    /// To the controller. Shared, so that a buffer can be written many times without being copied.
    Write(Arc<[u8]>),
    /// From the controller: so many bytes at most, in a new buffer.
    Read(u32),
    /// From the controller: into this buffer, as many bytes at most as it is long.
    ReadInto(Vec<u8>),
}

/// A command that completed.
#[derive(Debug, Clone)]
pub struct Completed {
    /// The command, as `submit` named it.
    pub tag: Tag,
    /// Its completion.
    pub entry: CompletionQueueEntry,
    /// The data received, cut to what the controller sent.
    pub data: Vec<u8>,
}
