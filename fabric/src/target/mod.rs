//! The controller's side of one connection: a state machine without a socket.
//!
//! [`Connection::want`] says where the next bytes of the stream belong. Bytes of headers go to
//! [`Connection::receive`], which answers with at most one [`Event`] and may append PDUs to `out`. Bytes of
//! payload go to wherever the caller keeps the data of that command, and [`Connection::placed`] is shown what
//! went there. What the caller sends is `out`, with the payload of each read between what
//! [`Connection::data_header`] and [`Connection::data_end`] wrote for it.
//!
//! When the host asks for digests, it gets them. A wrong header digest ends the connection. A wrong data digest costs
//! its command: [`Event::DataComplete`] says so, and the caller answers with [`Status::TRANSIENT_TRANSPORT_ERROR`].
//!
//! Nothing is allocated per command: `out` belongs to the caller, who keeps spare capacity in it, and the table of
//! commands is made once, by [`Connection::establish`]. Digests are computed while the data is in the cache, once.
//!
//! # Invariants
//! - A slot is taken by [`Event::Command`] or [`Event::Refused`] and freed by [`Connection::respond`],
//!   [`Connection::data_end`], or [`Connection::data_header`] if that header ends the command. Each command is answered exactly once.
//! - After an error of `receive`, or [`Event::HostTerminated`], nothing of the stream is looked at any more.
//! - A malformed command costs that command; a malformed PDU costs the connection. Framing depends on PDU headers
//!   alone, so a wrong SGL descriptor never breaks it.
//!
//! # What this does not do
//! - It does not look for two outstanding commands with one CID. A host that does this confuses only itself: slots,
//!   not CIDs, tell commands apart here, and each answer carries the CID of its own command.
//! - It asks for all data of a command with one R2T, so a host's MAXR2T never matters.

mod command;
mod connection;
mod slots;
#[cfg(test)]
mod tests;

pub use connection::{Connection, DataEnd};
pub use slots::Slot;

use gangway_spec::{Status, SubmissionQueueEntry};

use crate::term::FatalErrorStatus;

/// Bytes that fit into a capsule on the admin queue, and with fabrics commands on any queue, whatever IOCCSZ says
/// (NVMe/TCP transport 1.0, 3.3.2.1).
pub const ADMIN_IN_CAPSULE_DATA: u32 = 8192;

/// What a connection needs to know beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes of data that a capsule on an I/O queue may carry: IOCCSZ x 16 - 64.
    /// [`ADMIN_IN_CAPSULE_DATA`] applies to the admin queue and to fabrics commands.
    pub in_capsule_data: u32,
    /// MAXH2CDATA: bytes of data in one H2CData PDU at most. Rounded down to a multiple of 4, and up to 4096, as
    /// the specification demands.
    pub max_h2c_data: u32,
}

/// Where the next bytes of the stream belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// To [`Connection::receive`], which takes this many at most before it asks for something else.
    Header {
        /// Bytes that it takes at most.
        at_most: usize,
        /// Bytes that are certain to belong to it: who reads no more than these from a socket never has bytes left
        /// over.
        at_least: usize,
    },
    /// Into the data of a command; then [`Connection::placed`].
    Payload {
        /// The command.
        slot: Slot,
        /// Where in the command's data the next byte belongs.
        offset: u32,
        /// Bytes that follow each other in the stream.
        remaining: u32,
    },
    /// Nowhere: they are read and dropped; then [`Connection::discarded`].
    Discard {
        /// Bytes.
        remaining: u32,
    },
    /// Nowhere: the connection is terminated.
    Nothing,
}

/// What the host did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The connection is initialized: ICResp was appended to `out`.
    Initialized,
    /// A command arrived. Its in-capsule data, if any, follows as [`Want::Payload`].
    Command {
        /// Names the command until it is answered.
        slot: Slot,
        /// The command. This is the only copy: what is checked is what is executed.
        entry: SubmissionQueueEntry,
        /// The data that the command's SGL declares.
        data: CapsuleData,
    },
    /// A command arrived that must not be executed: answer it with `status`. In-capsule data of it is discarded.
    Refused {
        /// Names the command until it is answered.
        slot: Slot,
        /// The command.
        entry: SubmissionQueueEntry,
        /// What to answer.
        status: Status,
    },
    /// All data of the command was placed: in-capsule data, or what [`Connection::request_data`] asked for.
    DataComplete {
        /// The command.
        slot: Slot,
        /// Whether all of it is what the host sent. If not, a data digest was wrong, and the command must not be
        /// executed: answer it with [`Status::TRANSIENT_TRANSPORT_ERROR`].
        intact: bool,
    },
    /// The host ends the connection because of an error that it found.
    HostTerminated {
        /// What was wrong.
        fes: FatalErrorStatus,
        /// Where it was wrong, see [`Fatal::fei`](crate::term::Fatal::fei).
        fei: u32,
    },
}

/// The data of a command, as its SGL declares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapsuleData {
    /// None.
    None,
    /// In the capsule, right behind the command.
    InCapsule {
        /// Bytes, at least 1.
        len: u32,
    },
    /// By the transport: the caller fetches it with [`Connection::request_data`] or sends it with
    /// [`Connection::data_header`], as the direction of the command's opcode says.
    Transport {
        /// Bytes, at least 1.
        len: u32,
    },
}

/// The end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// How it ended.
    pub status: Status,
    /// Dwords 0 (low half) and 1 of the completion.
    pub result: u64,
}

impl Reply {
    /// Success, with nothing in the completion's dwords.
    pub const SUCCESS: Self = Self { status: Status::SUCCESS, result: 0 };

    /// A command that ended with `status` and has no result.
    pub const fn status(status: Status) -> Self {
        Self { status, result: 0 }
    }
}
