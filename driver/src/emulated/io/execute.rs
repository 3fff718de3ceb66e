//! What I/O commands do. Plain blocks are the quick way; whatever is more than that (metadata, zones, blocks that were
//! made unreadable) is in [`special`](super::special).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use gangway_spec::{Status, SubmissionQueueEntry, nvm, opcode};
use zerocopy::FromBytes;

use crate::emulated::commands;
use crate::emulated::counters::Counters;
use crate::emulated::device::Device;
use crate::emulated::memory::{Access, DmaMemory};
use crate::emulated::namespace::{Namespace, Table};
use crate::emulated::prp::{DataPointer, PrpReader};
use crate::emulated::store::dma_status;
use crate::emulated::vendor;

/// Most ranges of a Dataset Management command.
const DSM_RANGES: usize = nvm::dsm::MAX_RANGES as usize;
const DSM_RANGE_LEN: usize = size_of::<nvm::DatasetManagementRange>();

/// What the commands of one queue work with.
#[derive(Default)]
pub(in crate::emulated) struct Work {
    /// Counted since the drive was made.
    pub(in crate::emulated) counters: Counters,
    /// The namespaces that commands can name.
    pub(in crate::emulated) namespaces: Arc<Table>,
    pub(super) buffers: Buffers,
}

/// Where blocks with metadata are put together and taken apart. Grown when needed, and kept.
#[derive(Default)]
pub(super) struct Buffers {
    /// What the data pointer describes, when that is extended blocks.
    pub(super) stream: Vec<u8>,
    /// The data of all blocks.
    pub(super) data: Vec<u8>,
    /// The metadata of all blocks.
    pub(super) metadata: Vec<u8>,
}

impl Work {
    /// Has the blocks fetched of a command that is executed soon, if it is one that just moves them.
    #[inline]
    pub(super) fn prefetch(&self, entry: &SubmissionQueueEntry) {
        if matches!(entry.opcode, opcode::nvm::READ | opcode::nvm::WRITE)
            && let Ok(namespace) = self.namespaces.get(entry.nsid.get())
            && let Ok(range) = namespace.range(nvm::slba(entry), nvm::nlb(entry).into())
        {
            namespace.region.prefetch(range);
        }
    }
}

impl Device {
    /// Executes a command: its status, and dwords 0 and 1 of its completion.
    #[inline]
    pub(super) fn execute(
        &self,
        prps: &mut PrpReader,
        work: &mut Work,
        host: &DmaMemory,
        entry: &SubmissionQueueEntry,
    ) -> (Status, u64) {
        let Work { counters, namespaces, buffers } = work;
        let result = Execution { device: self, prps, counters, namespaces, buffers, host, entry }.run();
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
pub(in crate::emulated) struct Execution<'a> {
    pub(in crate::emulated) device: &'a Device,
    pub(in crate::emulated) prps: &'a mut PrpReader,
    pub(super) counters: &'a mut Counters,
    pub(super) namespaces: &'a Table,
    pub(super) buffers: &'a mut Buffers,
    pub(in crate::emulated) host: &'a DmaMemory,
    pub(in crate::emulated) entry: &'a SubmissionQueueEntry,
}

impl<'a> Execution<'a> {
    #[inline]
    fn run(&mut self) -> Result<u64, Status> {
        if self.entry.flags != 0 && !self.device.takes_sgl(self.entry) {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        match self.entry.opcode {
            opcode::nvm::READ => self.read(),
            opcode::nvm::WRITE => self.write(),
            _ => return self.run_others(),
        }?;
        Ok(0)
    }

    fn run_others(&mut self) -> Result<u64, Status> {
        if !commands::offers_io(self.device, self.entry.opcode) {
            return Err(Status::INVALID_OPCODE.with_dnr());
        }
        match self.entry.opcode {
            opcode::nvm::FLUSH => self.flush(),
            opcode::nvm::WRITE_UNCORRECTABLE => self.write_uncorrectable(),
            opcode::nvm::COMPARE => self.compare(),
            opcode::nvm::WRITE_ZEROES => self.write_zeroes(),
            opcode::nvm::DATASET_MANAGEMENT => self.dataset_management(),
            opcode::nvm::VERIFY => self.verify(),
            opcode::nvm::COPY => self.copy(),
            opcode::zns::ZONE_MANAGEMENT_SEND => self.zone_management_send(),
            opcode::zns::ZONE_MANAGEMENT_RECEIVE => self.zone_management_receive(),
            opcode::zns::ZONE_APPEND => return self.zone_append(),
            vendor::STORE | vendor::FETCH | vendor::OVERFETCH => self.vendor(),
            _ => Err(Status::INVALID_OPCODE.with_dnr()),
        }?;
        Ok(0)
    }

    /// The namespace that the command names.
    #[inline]
    pub(in crate::emulated) fn namespace(&self) -> Result<&'a Namespace, Status> {
        self.namespaces.get(self.entry.nsid.get())
    }

    /// The first block that the command names, and how many.
    #[inline]
    pub(super) fn blocks(&self) -> (u64, u64) {
        (nvm::slba(self.entry), nvm::nlb(self.entry).into())
    }

    /// The blocks that the command names, to be moved from or to the host.
    #[inline]
    pub(super) fn transfer(&self, namespace: &Namespace) -> Result<(u64, usize), Status> {
        let (slba, blocks) = self.blocks();
        let range = namespace.range(slba, blocks)?;
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

    /// Waits for the media if the command asks for that.
    #[inline]
    pub(super) fn settle(&self) -> Result<(), Status> {
        if self.is_durable() { self.device.store.flush() } else { Ok(()) }
    }

    #[inline]
    fn read(&mut self) -> Result<(), Status> {
        let namespace = self.namespace()?;
        let (offset, len) = self.transfer(namespace)?;
        // With Force Unit Access what is read must be on the media, so what waits in the cache goes there first.
        if self.device.store.has_volatile_cache() && nvm::IoControl::of(self.entry).fua() {
            self.device.store.flush()?;
        }
        if namespace.is_plain() {
            self.move_to_host(namespace, offset, len)?;
        } else {
            self.read_special(namespace)?;
        }
        self.counters.reads += 1;
        self.counters.units_read += len as u64 / 512;
        Ok(())
    }

    #[inline(always)]
    pub(super) fn move_to_host(
        &mut self,
        namespace: &Namespace,
        mut offset: u64,
        len: usize,
    ) -> Result<(), Status> {
        for span in self.prps.resolve(self.host, self.prp(), len, Access::Write)? {
            namespace.region.read(offset, self.host, span.iova, span.len)?;
            offset += span.len as u64;
        }
        Ok(())
    }

    #[inline]
    fn write(&mut self) -> Result<(), Status> {
        let namespace = self.namespace()?;
        let (offset, len) = self.transfer(namespace)?;
        self.refuse_directives()?;
        if namespace.is_plain() {
            self.move_from_host(namespace, offset, len)?;
        } else {
            self.write_special(namespace)?;
        }
        self.settle()?;
        self.counters.writes += 1;
        self.counters.units_written += len as u64 / 512;
        Ok(())
    }

    #[inline(always)]
    pub(super) fn move_from_host(
        &mut self,
        namespace: &Namespace,
        mut offset: u64,
        len: usize,
    ) -> Result<(), Status> {
        for span in self.prps.resolve(self.host, self.prp(), len, Access::Read)? {
            namespace.region.write(offset, self.host, span.iova, span.len)?;
            offset += span.len as u64;
        }
        Ok(())
    }

    /// DTYPE must be zero on a drive that has no directives.
    #[inline]
    pub(super) fn refuse_directives(&self) -> Result<(), Status> {
        if nvm::IoControl::of(self.entry).dtype() != 0 {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        Ok(())
    }

    /// Reads what the data pointer describes into memory of the drive.
    pub(super) fn receive(&mut self, into: &mut [u8]) -> Result<(), Status> {
        let mut rest = into;
        let len = rest.len();
        for span in self.prps.resolve(self.host, self.prp(), len, Access::Read)? {
            let (piece, after) = rest.split_at_mut(span.len);
            self.host.read(span.iova, piece).map_err(dma_status)?;
            rest = after;
        }
        Ok(())
    }

    /// Writes memory of the drive to what the data pointer describes.
    pub(super) fn send(&mut self, from: &[u8]) -> Result<(), Status> {
        let mut rest = from;
        for span in self.prps.resolve(self.host, self.prp(), from.len(), Access::Write)? {
            let (piece, after) = rest.split_at(span.len);
            self.host.write(span.iova, piece).map_err(dma_status)?;
            rest = after;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Status> {
        if self.entry.nsid.get() == gangway_spec::command::NSID_BROADCAST {
            self.namespaces.iter().try_for_each(Namespace::admit)?;
        } else {
            self.namespace()?.admit()?;
        }
        self.device.store.flush()
    }

    fn compare(&mut self) -> Result<(), Status> {
        let namespace = self.namespace()?;
        let (mut offset, len) = self.transfer(namespace)?;
        if namespace.is_plain() {
            for span in self.prps.resolve(self.host, self.prp(), len, Access::Read)? {
                namespace.region.compare(offset, self.host, span.iova, span.len)?;
                offset += span.len as u64;
            }
        } else {
            self.compare_special(namespace)?;
        }
        self.counters.reads += 1;
        self.counters.units_read += len as u64 / 512;
        Ok(())
    }

    fn verify(&mut self) -> Result<(), Status> {
        let namespace = self.namespace()?;
        let (slba, blocks) = self.blocks();
        let range = namespace.range(slba, blocks)?;
        if namespace.is_plain() {
            namespace.region.verify(range.offset, range.len)?;
        } else {
            self.verify_special(namespace)?;
        }
        self.counters.reads += 1;
        self.counters.units_read += range.len / 512;
        Ok(())
    }

    fn write_zeroes(&mut self) -> Result<(), Status> {
        let namespace = self.namespace()?;
        let (slba, blocks) = self.blocks();
        let range = namespace.range(slba, blocks)?;
        self.refuse_directives()?;
        if namespace.is_plain() {
            let deallocate = nvm::IoControl::of(self.entry).deac();
            namespace.region.zero(range.offset, range.len, deallocate)?;
        } else {
            self.write_zeroes_special(namespace)?;
        }
        self.settle()?;
        self.counters.writes += 1;
        Ok(())
    }

    fn dataset_management(&mut self) -> Result<(), Status> {
        let namespace = self.namespace()?;
        namespace.admit()?;
        let count = nvm::dsm::range_count(self.entry) as usize;
        let mut list = [0; DSM_RANGES * DSM_RANGE_LEN];
        let list = &mut list[..count * DSM_RANGE_LEN];
        self.receive(list)?;
        // All ranges are checked before any is acted upon, so that a bad one leaves the data as it was.
        for act in [false, true] {
            for range in list.chunks_exact(DSM_RANGE_LEN) {
                let Ok(range) = nvm::DatasetManagementRange::read_from_bytes(range) else { continue };
                let (slba, blocks) = (range.slba.get(), range.length.get().into());
                namespace.range(slba, blocks)?;
                // Without Deallocate the ranges are hints about future use, of which this drive makes none.
                if act && blocks > 0 && self.entry.cdw11.get() & nvm::dsm::DEALLOCATE != 0 {
                    deallocate(namespace, slba, blocks)?;
                }
            }
        }
        Ok(())
    }
}

/// Gives back the room of blocks, which read as zeroes from then on, and with protection tags that nobody checks.
pub(super) fn deallocate(namespace: &Namespace, slba: u64, blocks: u64) -> Result<(), Status> {
    let range = namespace.range(slba, blocks)?;
    namespace.region.zero(range.offset, range.len, true)?;
    if namespace.format.metadata > 0 {
        let range = namespace.metadata_range(slba, blocks);
        namespace.region.zero(range.offset, range.len, true)?;
    }
    namespace.make_readable(slba, blocks);
    Ok(())
}
