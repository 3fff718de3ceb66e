//! Data pointers as the drive reads them, with every rule checked: here Physical Region Pages (NVMe Base 2.0, 4.1.1), in
//! [`sgl`](super::sgl) the others.

use gangway_spec::command::PSDT_PRP;
use gangway_spec::{SglDescriptor, Status, SubmissionQueueEntry};

use super::memory::{Access, DmaMemory};
use super::store::dma_status;

/// The only memory page size of the drive (CC.MPS = 0), in bytes.
pub(super) const PAGE: usize = 4096;

const ENTRY: usize = size_of::<u64>();

/// Host memory that is contiguous in I/O virtual addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) iova: u64,
    pub(super) len: usize,
}

/// What a command's data pointer is.
#[derive(Clone, Copy, Debug)]
pub(super) enum DataPointer {
    /// PRP entries 1 and 2.
    Prp(u64, u64),
    /// The first SGL descriptor.
    Sgl(SglDescriptor),
}

impl DataPointer {
    /// That of a command whose PSDT was found to be one of those that there are.
    #[inline]
    pub(super) fn of(entry: &SubmissionQueueEntry) -> Self {
        if entry.psdt() == PSDT_PRP { Self::Prp(entry.prp1(), entry.prp2()) } else { Self::Sgl(entry.sgl()) }
    }
}

impl From<(u64, u64)> for DataPointer {
    fn from((prp1, prp2): (u64, u64)) -> Self {
        Self::Prp(prp1, prp2)
    }
}

/// Turns data pointers into spans. Its memory is taken once, for the largest transfer.
pub(super) struct PrpReader {
    pub(super) spans: Vec<Span>,
    pub(super) list: Box<[u8; PAGE]>,
}

impl PrpReader {
    /// For transfers of up to `largest` bytes.
    pub(super) fn new(largest: usize) -> Self {
        // One page more than the length asks for, as the first one may be entered in its middle.
        Self { spans: Vec::with_capacity(largest / PAGE + 1), list: Box::new([0; PAGE]) }
    }

    /// Forgets the last transfer.
    pub(super) fn forget(&mut self) {
        self.spans.clear();
    }

    /// The host memory of a transfer of `len` bytes; all of it may be accessed as asked for.
    ///
    /// # Errors
    /// PRP Offset Invalid, what is wrong with an SGL, or Data Transfer Error when anything is not mapped for the access.
    #[inline(always)]
    pub(super) fn resolve(
        &mut self,
        host: &DmaMemory,
        pointer: impl Into<DataPointer>,
        len: usize,
        access: Access,
    ) -> Result<&[Span], Status> {
        match pointer.into() {
            DataPointer::Prp(prp1, prp2) => self.follow(host, (prp1, prp2), len)?,
            DataPointer::Sgl(descriptor) => self.follow_sgl(host, descriptor, len)?,
        }
        for span in &self.spans {
            host.check(span.iova, span.len, access).map_err(dma_status)?;
        }
        Ok(&self.spans)
    }

    /// Lists the memory that two PRP entries describe.
    #[inline(always)]
    pub(super) fn follow(
        &mut self,
        host: &DmaMemory,
        (prp1, prp2): (u64, u64),
        len: usize,
    ) -> Result<(), Status> {
        if !prp1.is_multiple_of(4) {
            return Err(Status::INVALID_PRP_OFFSET.with_dnr());
        }
        let first = len.min(PAGE - prp1 as usize % PAGE);
        self.spans.clear();
        self.spans.push(Span { iova: prp1, len: first });
        match len - first {
            0 => Ok(()),
            rest @ ..=PAGE => self.append(prp2, rest),
            rest => self.follow_list(host, prp2, rest),
        }
    }

    /// Adds a page, or its beginning, to the spans.
    #[inline]
    fn append(&mut self, iova: u64, len: usize) -> Result<(), Status> {
        if !iova.is_multiple_of(PAGE as u64) {
            return Err(Status::INVALID_PRP_OFFSET.with_dnr());
        }
        match self.spans.last_mut() {
            Some(last) if last.iova.wrapping_add(last.len as u64) == iova => last.len += len,
            _ => self.spans.push(Span { iova, len }),
        }
        Ok(())
    }

    /// Adds the `rest` bytes that a PRP list, of one or more pages, describes.
    fn follow_list(&mut self, host: &DmaMemory, mut list: u64, mut rest: usize) -> Result<(), Status> {
        if !list.is_multiple_of(ENTRY as u64) {
            return Err(Status::INVALID_PRP_OFFSET.with_dnr());
        }
        loop {
            let room = (PAGE - list as usize % PAGE) / ENTRY;
            let needed = rest.div_ceil(PAGE);
            // When more is needed than fits, the last entry of the page points at the next one.
            let (entries, chained) = if needed > room { (room, true) } else { (needed, false) };
            host.read(list, &mut self.list[..entries * ENTRY]).map_err(dma_status)?;
            for index in 0..entries - usize::from(chained) {
                let len = rest.min(PAGE);
                self.append(self.entry(index), len)?;
                rest -= len;
            }
            if !chained {
                return Ok(());
            }
            list = self.entry(entries - 1);
            if !list.is_multiple_of(PAGE as u64) {
                return Err(Status::INVALID_PRP_OFFSET.with_dnr());
            }
        }
    }

    fn entry(&self, index: usize) -> u64 {
        let mut entry = [0; ENTRY];
        entry.copy_from_slice(&self.list[index * ENTRY..][..ENTRY]);
        u64::from_le_bytes(entry)
    }
}
