//! What can go wrong for a host.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use gangway_spec::Status;
use gangway_spec::fabrics::{ConnectInvalidParameter, Nqn};

use crate::discovery::LogPageError;
use crate::host::{ConnectionError, QueueFull};

/// Why something that a host asked for did not happen.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// There is no TCP connection.
    #[error(
        "cannot connect to {address}: {source}; does the target listen there, and does a firewall let you through?"
    )]
    Unreachable {
        /// Where the target should be.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The TCP connection broke.
    #[error("the connection to {address} broke: {source}")]
    Broken {
        /// The target.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The target closed the connection.
    #[error("{address} closed the connection; its log should say why")]
    Closed {
        /// The target.
        address: SocketAddr,
    },
    /// One side broke the protocol.
    #[error("the connection to {address} ended: {source}")]
    Protocol {
        /// The target.
        address: SocketAddr,
        /// Which side, and how.
        source: ConnectionError,
    },
    /// An answer did not come in time. The command is still in flight: drop the queue.
    #[error("{address} did not answer {what} within {} ms", after.as_millis())]
    Timeout {
        /// The target.
        address: SocketAddr,
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
    },
    /// The controller refused a queue.
    #[error(
        "{subsystem} refused to connect queue {qid}: {}{}",
        status.fabrics_name().unwrap_or("unknown status"),
        parameter.map(|parameter| format!(", {parameter}")).unwrap_or_default()
    )]
    Refused {
        /// The subsystem that was asked for.
        subsystem: Nqn,
        /// The queue that was asked for.
        qid: u16,
        /// The controller's answer.
        status: Status,
        /// The parameter that the controller does not like.
        parameter: Option<ConnectInvalidParameter>,
    },
    /// The controller wants the host to authenticate, which this host cannot.
    #[error("{subsystem} demands authentication, which this host does not know")]
    AuthenticationRequired {
        /// The subsystem that was asked for.
        subsystem: Nqn,
    },
    /// A command failed.
    #[error("{command} failed: {status}")]
    Command {
        /// The command.
        command: String,
        /// The controller's answer.
        status: Status,
    },
    /// A command succeeded, but the controller sent less data than its answer has to have.
    #[error("{command} returned {received} of {expected} bytes")]
    ShortData {
        /// The command.
        command: String,
        /// Bytes that it must return.
        expected: usize,
        /// Bytes that it returned.
        received: usize,
    },
    /// The controller reports a fatal status instead of becoming ready.
    #[error(
        "the controller set CSTS.CFS while it was enabled: it does not like the configuration, or it has failed"
    )]
    ControllerFatal,
    /// As many commands are in flight as the queue takes.
    #[error(transparent)]
    QueueFull(#[from] QueueFull),
    /// The data of one command cannot be that long.
    #[error("{length} bytes are too many for one command")]
    TooLong {
        /// Bytes.
        length: usize,
    },
    /// The target's discovery log page makes no sense.
    #[error(transparent)]
    Discovery(#[from] LogPageError),
    /// The discovery log page changed every time while it was read.
    #[error("the discovery log page of {address} kept changing while it was read; try again later")]
    DiscoveryUnstable {
        /// The target.
        address: SocketAddr,
    },
}
