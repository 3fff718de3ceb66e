//! What keeps the data of a drive, whichever kind it is, and what its failures mean to a host.

use std::io;
use std::sync::Arc;

use gangway_spec::Status;
use tracing::warn;

use super::config::{Backing, EmulatedConfig};
use super::error::EmulatedError;
use super::memory::{DmaFault, DmaMemory, FileError, FileStore, SparseMemory};
use super::namespace::ByteRange;

/// Bytes that Compare and Verify look at together.
const PIECE: usize = 16 << 10;

/// What keeps the data of a drive.
pub(super) enum Store {
    Memory,
    File(Arc<FileStore>),
    Null,
}

impl Store {
    /// Opens what `config` asks for.
    pub(super) fn open(config: &EmulatedConfig) -> Result<Self, EmulatedError> {
        Ok(match &config.backing {
            Backing::Memory => Self::Memory,
            Backing::File(path) => Self::File(Arc::new(FileStore::open(path, config.capacity())?)),
            Backing::Null => Self::Null,
        })
    }

    /// The place for `len` bytes of a namespace, from `start` on where places have addresses.
    pub(super) fn region(&self, start: u64, len: u64) -> Result<Region, EmulatedError> {
        Ok(match self {
            Self::Memory => {
                let memory =
                    SparseMemory::new(len).map_err(|source| EmulatedError::Memory { len, source })?;
                Region::Memory(memory)
            }
            Self::File(file) => {
                file.reach(start + len)?;
                Region::File(Arc::clone(file), start)
            }
            Self::Null => Region::Null,
        })
    }

    /// Whether what was written may be lost until it is flushed.
    pub(super) fn has_volatile_cache(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// Whether there is data to compare with.
    pub(super) fn keeps_data(&self) -> bool {
        !matches!(self, Self::Null)
    }

    /// Whether it is worth telling it what is read or written soon: it is where the processor can be told.
    #[inline]
    pub(super) fn prefetches(&self) -> bool {
        cfg!(target_arch = "x86_64") && matches!(self, Self::Memory)
    }

    /// Makes everything written so far durable.
    pub(super) fn flush(&self) -> Result<(), Status> {
        match self {
            Self::File(file) => file.flush().map_err(|error| write_status(error, 0)),
            Self::Memory | Self::Null => Ok(()),
        }
    }
}

/// The data of one namespace. Offsets and lengths are in bytes and inside the namespace.
pub(super) enum Region {
    Memory(SparseMemory),
    /// From this byte of the file on.
    File(Arc<FileStore>, u64),
    Null,
}

impl Region {
    /// Says that a range is to be read or written soon, where that makes it quicker.
    #[inline]
    pub(super) fn prefetch(&self, range: ByteRange) {
        if let Self::Memory(memory) = self {
            memory.prefetch(range.offset, range.len);
        }
    }

    /// From the drive to the host.
    #[inline(always)]
    pub(super) fn read(&self, offset: u64, host: &DmaMemory, iova: u64, len: usize) -> Result<(), Status> {
        match self {
            Self::Memory(memory) => memory.read(offset, host, iova, len).map_err(dma_status),
            Self::File(file, start) => {
                let offset = start + offset;
                file.read(offset, host, iova, len).map_err(|error| read_status(error, offset))
            }
            Self::Null => Ok(()),
        }
    }

    /// From the host to the drive.
    #[inline(always)]
    pub(super) fn write(&self, offset: u64, host: &DmaMemory, iova: u64, len: usize) -> Result<(), Status> {
        match self {
            Self::Memory(memory) => memory.write(offset, host, iova, len).map_err(dma_status),
            Self::File(file, start) => {
                let offset = start + offset;
                file.write(offset, host, iova, len).map_err(|error| write_status(error, offset))
            }
            Self::Null => Ok(()),
        }
    }

    /// Compares what the host has with what the drive has.
    pub(super) fn compare(&self, offset: u64, host: &DmaMemory, iova: u64, len: usize) -> Result<(), Status> {
        let (mut ours, mut theirs) = ([0; PIECE], [0; PIECE]);
        let mut done = 0;
        while done < len {
            let piece = PIECE.min(len - done);
            host.read(iova + done as u64, &mut theirs[..piece]).map_err(dma_status)?;
            self.peek(offset + done as u64, &mut ours[..piece])?;
            if ours[..piece] != theirs[..piece] {
                return Err(Status::COMPARE_FAILURE);
            }
            done += piece;
        }
        Ok(())
    }

    /// Makes sure that a range can be read. Memory always can.
    pub(super) fn verify(&self, offset: u64, len: u64) -> Result<(), Status> {
        let Self::File(file, start) = self else { return Ok(()) };
        let offset = start + offset;
        let mut data = [0; PIECE];
        let mut done = 0;
        while done < len {
            let piece = (PIECE as u64).min(len - done);
            file.peek(offset + done, &mut data[..piece as usize])
                .map_err(|error| read_status(error, offset + done))?;
            done += piece;
        }
        Ok(())
    }

    /// Makes a range read as zeroes; with `release` its room is given back.
    pub(super) fn zero(&self, offset: u64, len: u64, release: bool) -> Result<(), Status> {
        match self {
            Self::Memory(memory) => memory.zero(offset, len).map_err(dma_status),
            Self::File(file, start) => {
                let offset = start + offset;
                file.zero(offset, len, release).map_err(|error| write_status(error, offset))
            }
            Self::Null => Ok(()),
        }
    }

    /// From the drive into memory of its own.
    pub(super) fn peek(&self, offset: u64, into: &mut [u8]) -> Result<(), Status> {
        match self {
            Self::Memory(memory) => memory.peek(offset, into).map_err(dma_status),
            Self::File(file, start) => {
                let offset = start + offset;
                file.peek(offset, into).map_err(|error| read_status(error, offset))
            }
            Self::Null => Ok(()),
        }
    }

    /// From memory of the drive's own to its data.
    pub(super) fn poke(&self, offset: u64, from: &[u8]) -> Result<(), Status> {
        match self {
            Self::Memory(memory) => memory.poke(offset, from).map_err(dma_status),
            Self::File(file, start) => {
                let offset = start + offset;
                file.poke(offset, from).map_err(|error| write_status(error, offset))
            }
            Self::Null => Ok(()),
        }
    }
}

pub(super) fn dma_status(DmaFault: DmaFault) -> Status {
    Status::DATA_TRANSFER_ERROR.with_dnr()
}

#[cold]
fn read_status(error: FileError, offset: u64) -> Status {
    match error {
        FileError::Dma => dma_status(DmaFault),
        FileError::Io(error) => {
            warn!("emulated drive: could not read its file at byte {offset}: {error}");
            Status::UNRECOVERED_READ_ERROR
        }
    }
}

#[cold]
fn write_status(error: FileError, offset: u64) -> Status {
    match error {
        FileError::Dma => dma_status(DmaFault),
        FileError::Io(error) => {
            warn!("emulated drive: could not write its file at byte {offset}: {error}");
            match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                    Status::CAPACITY_EXCEEDED
                }
                _ => Status::WRITE_FAULT,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_capacity_exceeded_and_other_errors_are_faults() {
        let write = |code| write_status(FileError::Io(io::Error::from_raw_os_error(code)), 0);
        for code in [libc::ENOSPC, libc::EDQUOT, libc::EFBIG] {
            assert_eq!(write(code), Status::CAPACITY_EXCEEDED);
        }
        assert_eq!(write(libc::EIO), Status::WRITE_FAULT);
        let read = |error| read_status(FileError::Io(error), 0);
        assert_eq!(read(io::Error::from_raw_os_error(libc::EIO)), Status::UNRECOVERED_READ_ERROR);
        assert_eq!(read(io::ErrorKind::UnexpectedEof.into()), Status::UNRECOVERED_READ_ERROR);
        assert!(read_status(FileError::Dma, 0).is(Status::DATA_TRANSFER_ERROR));
    }
}
