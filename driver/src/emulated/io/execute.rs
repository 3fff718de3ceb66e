//! What I/O commands do.

use std::sync::atomic::Ordering;

use gangway_spec::{Status, SubmissionQueueEntry, nvm, opcode};
use zerocopy::FromBytes;

use crate::emulated::counters::Counters;
use crate::emulated::device::Device;
use crate::emulated::memory::{Access, DmaMemory};
use crate::emulated::namespace::ByteRange;
use crate::emulated::prp::{DataPointer, PrpReader};
use crate::emulated::store::dma_status;

/// Most ranges of a Dataset Management command.
const DSM_RANGES: usize = nvm::dsm::MAX_RANGES as usize;
const DSM_RANGE_LEN: usize = size_of::<nvm::DatasetManagementRange>();

impl Device {
    /// Executes a command: its status, and dwords 0 and 1 of its completion.
    #[inline]
    pub(super) fn execute(
        &self,
        prps: &mut PrpReader,
        counters: &mut Counters,
        host: &DmaMemory,
        entry: &SubmissionQueueEntry,
    ) -> (Status, u64) {
        let result = Execution { device: self, prps, counters, host, entry }.run();
        if let Err(status) = result
            && status.sct() == Status::SCT_MEDIA
            && !status.is(Status::COMPARE_FAILURE)
        {
            counters.media_errors += 1;
        }
        match result {
            Ok(result) => (Status::SUCCESS, result),
            Err(status) => (status, 0),
        }
    }
}

/// One I/O command with all it needs.
struct Execution<'a> {
    device: &'a Device,
    prps: &'a mut PrpReader,
    counters: &'a mut Counters,
    host: &'a DmaMemory,
    entry: &'a SubmissionQueueEntry,
}

impl Execution<'_> {
    #[inline]
    fn run(&mut self) -> Result<u64, Status> {
        if self.entry.flags != 0 && !self.device.takes_sgl(self.entry) {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        match self.entry.opcode {
            opcode::nvm::READ => self.read(),
            opcode::nvm::WRITE => self.write(),
            opcode::nvm::FLUSH => self.flush(),
            opcode::nvm::COMPARE if self.device.store.keeps_data() => self.compare(),
            opcode::nvm::WRITE_ZEROES => self.write_zeroes(),
            opcode::nvm::DATASET_MANAGEMENT => self.dataset_management(),
            opcode::nvm::VERIFY => self.verify(),
            _ => Err(Status::INVALID_OPCODE.with_dnr()),
        }?;
        Ok(0)
    }

    fn nsid(&self) -> u32 {
        self.entry.nsid.get()
    }

    /// The blocks that the command names.
    #[inline]
    fn blocks(&self) -> Result<ByteRange, Status> {
        let blocks = u64::from(nvm::nlb(self.entry));
        self.device.namespaces.range(self.nsid(), nvm::slba(self.entry), blocks)
    }

    /// The blocks that the command names, to be moved from or to the host.
    #[inline]
    fn transfer(&self) -> Result<(u64, usize), Status> {
        let range = self.blocks()?;
        if range.len > self.device.max_transfer() as u64 {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        Ok((range.offset, range.len as usize))
    }

    #[inline]
    fn prp(&self) -> DataPointer {
        DataPointer::of(self.entry)
    }

    /// Whether the command must be on the media when it completes.
    #[inline]
    fn is_durable(&self) -> bool {
        self.device.store.has_volatile_cache()
            && (nvm::IoControl::of(self.entry).fua() || !self.device.write_cache.load(Ordering::Relaxed))
    }

    #[inline]
    fn read(&mut self) -> Result<(), Status> {
        let (mut offset, len) = self.transfer()?;
        // With Force Unit Access what is read must be on the media, so what waits in the cache goes there first.
        if self.device.store.has_volatile_cache() && nvm::IoControl::of(self.entry).fua() {
            self.device.store.flush()?;
        }
        for span in self.prps.resolve(self.host, self.prp(), len, Access::Write)? {
            self.device.store.read(offset, self.host, span.iova, span.len)?;
            offset += span.len as u64;
        }
        self.counters.reads += 1;
        self.counters.units_read += len as u64 / 512;
        Ok(())
    }

    #[inline]
    fn write(&mut self) -> Result<(), Status> {
        let (mut offset, len) = self.transfer()?;
        self.refuse_directives()?;
        for span in self.prps.resolve(self.host, self.prp(), len, Access::Read)? {
            self.device.store.write(offset, self.host, span.iova, span.len)?;
            offset += span.len as u64;
        }
        if self.is_durable() {
            self.device.store.flush()?;
        }
        self.counters.writes += 1;
        self.counters.units_written += len as u64 / 512;
        Ok(())
    }

    /// DTYPE must be zero on a drive that has no directives.
    #[inline]
    fn refuse_directives(&self) -> Result<(), Status> {
        if nvm::IoControl::of(self.entry).dtype() != 0 {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Status> {
        self.device.namespaces.check_or_all(self.nsid())?;
        self.device.store.flush()
    }

    fn compare(&mut self) -> Result<(), Status> {
        let (mut offset, len) = self.transfer()?;
        for span in self.prps.resolve(self.host, self.prp(), len, Access::Read)? {
            self.device.store.compare(offset, self.host, span.iova, span.len)?;
            offset += span.len as u64;
        }
        self.counters.reads += 1;
        self.counters.units_read += len as u64 / 512;
        Ok(())
    }

    fn verify(&mut self) -> Result<(), Status> {
        let range = self.blocks()?;
        self.device.store.verify(range.offset, range.len)?;
        self.counters.reads += 1;
        self.counters.units_read += range.len / 512;
        Ok(())
    }

    fn write_zeroes(&mut self) -> Result<(), Status> {
        let range = self.blocks()?;
        self.refuse_directives()?;
        let deallocate = nvm::IoControl::of(self.entry).deac();
        self.device.store.zero(range.offset, range.len, deallocate)?;
        if self.is_durable() {
            self.device.store.flush()?;
        }
        self.counters.writes += 1;
        Ok(())
    }

    fn dataset_management(&mut self) -> Result<(), Status> {
        self.device.namespaces.check(self.nsid())?;
        let count = nvm::dsm::range_count(self.entry) as usize;
        let mut list = [0; DSM_RANGES * DSM_RANGE_LEN];
        let list = &mut list[..count * DSM_RANGE_LEN];
        let mut at = 0;
        for span in self.prps.resolve(self.host, self.prp(), list.len(), Access::Read)? {
            self.host.read(span.iova, &mut list[at..at + span.len]).map_err(dma_status)?;
            at += span.len;
        }
        // All ranges are checked before any is acted upon, so that a bad one leaves the data as it was.
        for act in [false, true] {
            for range in list.chunks_exact(DSM_RANGE_LEN) {
                let Ok(range) = nvm::DatasetManagementRange::read_from_bytes(range) else { continue };
                let bytes =
                    self.device.namespaces.range(self.nsid(), range.slba.get(), range.length.get().into())?;
                // Without Deallocate the ranges are hints about future use, of which this drive makes none.
                if act && bytes.len > 0 && self.entry.cdw11.get() & nvm::dsm::DEALLOCATE != 0 {
                    self.device.store.zero(bytes.offset, bytes.len, true)?;
                }
            }
        }
        Ok(())
    }
}
