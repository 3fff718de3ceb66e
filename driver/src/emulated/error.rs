//! Why an emulated drive cannot be had.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::config::ConfigError;
use crate::dma::DmaError;

/// Why an emulated drive could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EmulatedError {
    /// A drive cannot have these properties.
    #[error("emulated drive: {0}")]
    Config(#[from] ConfigError),
    /// The drive could not be given its view of DMA memory.
    #[error("emulated drive: {0}")]
    Dma(#[from] DmaError),
    /// The drive was taken away by a declared fault.
    #[error("{name} is not there: it was taken away")]
    Removed {
        /// Name of the function.
        name: String,
    },
    /// The drive's function is open already.
    #[error("{name} is in use")]
    InUse {
        /// Name of the function.
        name: String,
    },
    /// No memory for the data.
    #[error(
        "emulated drive: no address space for {len} bytes of data: {source}; make it smaller, or keep it in a file"
    )]
    Memory {
        /// Bytes asked for.
        len: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something about the file failed.
    #[error("emulated drive: could not {action} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another process, or another drive of this one, has the file.
    #[error(
        "emulated drive: {path} is in use by another drive, of this process or of another; a file can be one drive only",
        path = path.display()
    )]
    FileInUse {
        /// The file.
        path: PathBuf,
    },
    /// The path names a device, a pipe or the like.
    #[error("emulated drive: {path} is not an ordinary file", path = path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file exists and has another size.
    #[error(
        "emulated drive: {path} has {found} bytes, the drive would have {expected}; give the size it was made with \
         (size times namespaces), or another file",
        path = path.display()
    )]
    FileSize {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
        /// The size of the drive in bytes, all namespaces together.
        expected: u64,
    },
    /// There is no memory for the doorbells that a driver in another process shares.
    #[error("emulated drive: no shared memory for its doorbells: {0}")]
    Doorbells(io::Error),
    /// The process may not write files of that size.
    #[error(
        "emulated drive: {path} would have {len} bytes, but this process may only write files of {limit} bytes; raise \
         the limit with `ulimit -f unlimited`, or make the drive smaller",
        path = path.display()
    )]
    FileSizeLimit {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        len: u64,
        /// The limit (RLIMIT_FSIZE), in bytes.
        limit: u64,
    },
}
