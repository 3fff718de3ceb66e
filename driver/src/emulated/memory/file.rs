//! Data of a drive in a file, moved between the file and host memory by the kernel.
//!
//! The file is never mapped: a full disk or a file that somebody truncates is an error of a system call here, not a
//! signal.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;

use super::{DmaFault, DmaMemory, Purpose};
use crate::emulated::EmulatedError;

/// Zeroes to write where the file system cannot make holes.
static ZEROES: [u8; 65_536] = [0; 65_536];

/// What went wrong between file and host memory.
#[derive(Debug)]
pub(in crate::emulated) enum FileError {
    /// Host memory may not be accessed so.
    Dma,
    /// The kernel's error, or an unexpected end of the file.
    Io(io::Error),
}

impl From<DmaFault> for FileError {
    fn from(DmaFault: DmaFault) -> Self {
        Self::Dma
    }
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for FileError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// A file that this process alone uses, as long as the data of a drive.
pub(in crate::emulated) struct FileStore {
    file: File,
    path: PathBuf,
}

/// Beyond this limit the kernel sends a signal instead of an error, so it may never be reached.
fn check_size_limit(path: &Path, len: u64) -> Result<(), EmulatedError> {
    match rustix::process::getrlimit(rustix::process::Resource::Fsize).current {
        Some(limit) if limit < len => Err(EmulatedError::FileSizeLimit { path: path.to_owned(), len, limit }),
        _ => Ok(()),
    }
}

impl FileStore {
    /// Opens the file, or creates it sparse, `len` bytes long, and locks it.
    ///
    /// # Errors
    /// It cannot be opened, another process uses it, or it has another length.
    pub(in crate::emulated) fn open(path: &Path, len: u64) -> Result<Self, EmulatedError> {
        let failed =
            |action| move |source: io::Error| EmulatedError::File { action, path: path.to_owned(), source };
        check_size_limit(path, len)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed("open"))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(EmulatedError::FileInUse { path: path.to_owned() }),
            Err(error) => return Err(failed("lock")(error.into())),
        }
        let metadata = file.metadata().map_err(failed("inspect"))?;
        if !metadata.is_file() {
            return Err(EmulatedError::NotAFile { path: path.to_owned() });
        }
        match metadata.len() {
            0 => file.set_len(len).map_err(failed("set the size of"))?,
            found if found != len => {
                return Err(EmulatedError::FileSize { path: path.to_owned(), found, expected: len });
            }
            _ => {}
        }
        Ok(Self { file, path: path.to_owned() })
    }

    /// Reads from the file into host memory.
    ///
    /// # Errors
    /// The kernel's, or [`io::ErrorKind::UnexpectedEof`] when the file ends too early.
    pub(in crate::emulated) fn read(
        &self,
        mut offset: u64,
        host: &DmaMemory,
        iova: u64,
        len: usize,
    ) -> Result<(), FileError> {
        host.pieces(iova, len, Purpose::DataWrite, |memory, len| {
            let mut done = 0;
            while done < len {
                // SAFETY: `pieces` vouches for the memory; the kernel writes no more than is left of it.
                let read = unsafe {
                    let rest = memory.as_ptr().add(done).cast();
                    libc::pread(self.file.as_raw_fd(), rest, len - done, offset as libc::off_t)
                };
                match progress(read)? {
                    Some(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                    read => {
                        done += read.unwrap_or(0);
                        offset += read.unwrap_or(0) as u64;
                    }
                }
            }
            Ok(())
        })
    }

    /// Writes host memory to the file.
    ///
    /// # Errors
    /// The kernel's.
    pub(in crate::emulated) fn write(
        &self,
        mut offset: u64,
        host: &DmaMemory,
        iova: u64,
        len: usize,
    ) -> Result<(), FileError> {
        host.pieces(iova, len, Purpose::DataRead, |memory, len| {
            let mut done = 0;
            while done < len {
                // SAFETY: `pieces` vouches for the memory; the kernel reads no more than is left of it.
                let written = unsafe {
                    let rest = memory.as_ptr().add(done).cast();
                    libc::pwrite(self.file.as_raw_fd(), rest, len - done, offset as libc::off_t)
                };
                match progress(written)? {
                    Some(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                    written => {
                        done += written.unwrap_or(0);
                        offset += written.unwrap_or(0) as u64;
                    }
                }
            }
            Ok(())
        })
    }

    /// Reads from the file into memory of the drive, for Compare and Verify.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(in crate::emulated) fn peek(&self, offset: u64, into: &mut [u8]) -> Result<(), FileError> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, into, offset)?;
        Ok(())
    }

    /// Writes memory of the drive to the file.
    ///
    /// # Errors
    /// The kernel's.
    pub(in crate::emulated) fn poke(&self, offset: u64, from: &[u8]) -> Result<(), FileError> {
        std::os::unix::fs::FileExt::write_all_at(&self.file, from, offset)?;
        Ok(())
    }

    /// Makes the file at least `end` bytes long.
    ///
    /// # Errors
    /// It cannot be.
    pub(in crate::emulated) fn reach(&self, end: u64) -> Result<(), EmulatedError> {
        let failed = |source| EmulatedError::File { action: "enlarge", path: self.path.clone(), source };
        if self.file.metadata().map_err(failed)?.len() < end {
            check_size_limit(&self.path, end)?;
            self.file.set_len(end).map_err(failed)?;
        }
        Ok(())
    }

    /// Makes a range read as zeroes; with `release` its room on the disk is given back, where the file system can.
    ///
    /// # Errors
    /// The kernel's.
    pub(in crate::emulated) fn zero(&self, offset: u64, len: u64, release: bool) -> Result<(), FileError> {
        let flags = if release {
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE
        } else {
            FallocateFlags::ZERO_RANGE
        };
        match rustix::fs::fallocate(&self.file, flags, offset, len) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => self.write_zeroes(offset, len),
            result => Ok(result?),
        }
    }

    fn write_zeroes(&self, mut offset: u64, mut len: u64) -> Result<(), FileError> {
        while len > 0 {
            let piece = len.min(ZEROES.len() as u64);
            std::os::unix::fs::FileExt::write_all_at(&self.file, &ZEROES[..piece as usize], offset)?;
            offset += piece;
            len -= piece;
        }
        Ok(())
    }

    /// Waits until everything written is on the disk.
    ///
    /// # Errors
    /// The kernel's: what was written since the last success may be lost.
    pub(in crate::emulated) fn flush(&self) -> Result<(), FileError> {
        Ok(rustix::fs::fdatasync(&self.file)?)
    }
}

/// How far a system call came; `None` when it was interrupted before it did anything.
fn progress(result: isize) -> io::Result<Option<usize>> {
    match usize::try_from(result) {
        Ok(moved) => Ok(Some(moved)),
        Err(_) => {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted { Ok(None) } else { Err(error) }
        }
    }
}
