//! What can go wrong on the way to a device that another process serves.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::dma::DmaError;
use crate::vfio::AnswerError;

/// Why a device could not be opened through vfio-user.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VfioUserError {
    /// There is no such socket.
    #[error(
        "there is no socket {}; start the program that serves the device (`gangway emulate --socket {}` serves an \
         emulated one)", .path.display(), .path.display()
    )]
    NotFound {
        /// The socket.
        path: PathBuf,
    },
    /// The path is too long for an address of a socket.
    #[error("the path {} is too long for a socket: it may have 107 bytes; use a shorter one, or a symbolic link", .path.display())]
    PathTooLong {
        /// The socket.
        path: PathBuf,
    },
    /// The socket is there, and nobody listens.
    #[error("nobody listens on {}: the program that served the device has ended; start it again", .path.display())]
    Deserted {
        /// The socket.
        path: PathBuf,
    },
    /// The socket may not be used.
    #[error("{} may not be used by this user; its owner, or root, may", .path.display())]
    Permission {
        /// The socket.
        path: PathBuf,
    },
    /// The server hung up before it said anything.
    #[error("the server of {} hung up: it serves one client at a time, and may have one already", .path.display())]
    Busy {
        /// The socket.
        path: PathBuf,
    },
    /// No connection, for another reason.
    #[error("could not connect to {}: {source}", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The server speaks another protocol.
    #[error("the server of {} speaks vfio-user {major}.{minor}; this driver speaks 0.x", .path.display())]
    Version {
        /// The socket.
        path: PathBuf,
        /// Its major version.
        major: u16,
        /// Its minor version.
        minor: u16,
    },
    /// The server refused a request, or did not answer it.
    #[error("could not {action} of the server of {}: {source}", .path.display())]
    Request {
        /// The socket.
        path: PathBuf,
        /// What was asked.
        action: &'static str,
        /// What it answered.
        source: io::Error,
    },
    /// The server answered something that cannot be.
    #[error("the server of {} describes {what} in a way that makes no sense: {source}", .path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What was asked for.
        what: &'static str,
        /// What is wrong with the answer.
        source: AnswerError,
    },
    /// The device is none that this driver can drive.
    #[error("{} serves no NVMe controller on PCI: {why}", .path.display())]
    NotNvme {
        /// The socket.
        path: PathBuf,
        /// What it is.
        why: String,
    },
    /// The memory of the domain could not be given to the server.
    #[error("the server of {} cannot reach the memory of this process: {source}", .path.display())]
    Dma {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        source: DmaError,
    },
}
