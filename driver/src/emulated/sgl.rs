//! Scatter gather lists as the drive reads them (NVMe Base 2.0, 4.1.2): data blocks, alone or in segments, at any
//! address. Their lengths must add up to what the command moves. Bit buckets are not promised.

use gangway_spec::command::PSDT_SGL;
use gangway_spec::{SglDescriptor, Status, SubmissionQueueEntry};
use zerocopy::FromBytes;

use super::device::Device;
use super::memory::DmaMemory;
use super::prp::{PAGE, PrpReader, Span};
use super::store::dma_status;

/// Bytes of a descriptor.
const DESCRIPTOR: usize = size_of::<SglDescriptor>();
/// Most descriptors of one command, so that a list which leads back to itself comes to an end.
const MOST_DESCRIPTORS: usize = 8192;
/// PSDT in the flags of an entry, beside FUSE and reserved bits.
const PSDT_SHIFT: u32 = 6;

impl Device {
    /// Whether the flags of an I/O command say no more than that its data pointer is an SGL, which this drive takes.
    /// Fused operations, and SGLs for metadata, are not promised.
    pub(super) fn takes_sgl(&self, entry: &SubmissionQueueEntry) -> bool {
        self.config.capabilities.sgl && entry.flags == PSDT_SGL << PSDT_SHIFT
    }
}

/// Where further descriptors are.
struct Segment {
    iova: u64,
    len: usize,
    last: bool,
}

impl Segment {
    /// Of a descriptor that says where; `None` when it is of another type.
    fn of(descriptor: &SglDescriptor) -> Result<Option<Self>, Status> {
        let last = match descriptor.kind() {
            SglDescriptor::TYPE_SEGMENT => false,
            SglDescriptor::TYPE_LAST_SEGMENT => true,
            _ => return Ok(None),
        };
        let len = descriptor.length.get() as usize;
        if descriptor.subtype() != SglDescriptor::SUBTYPE_ADDRESS {
            return Err(Status::SGL_DESCRIPTOR_TYPE_INVALID.with_dnr());
        }
        if len == 0 || !len.is_multiple_of(DESCRIPTOR) {
            return Err(Status::INVALID_SGL_SEGMENT_DESCRIPTOR.with_dnr());
        }
        Ok(Some(Self { iova: descriptor.address.get(), len, last }))
    }
}

impl PrpReader {
    /// Lists the memory that an SGL describes, `len` bytes.
    pub(super) fn follow_sgl(
        &mut self,
        host: &DmaMemory,
        first: SglDescriptor,
        len: usize,
    ) -> Result<(), Status> {
        self.spans.clear();
        let mut rest = len;
        let mut next = Segment::of(&first)?;
        if next.is_none() {
            self.add_block(&first, &mut rest)?;
        }
        let mut seen = 0;
        while let Some(segment) = next.take() {
            for at in (0..segment.len).step_by(DESCRIPTOR) {
                let in_page = at % PAGE;
                if in_page == 0 {
                    let piece = PAGE.min(segment.len - at);
                    let iova = segment.iova.wrapping_add(at as u64);
                    host.read(iova, &mut self.list[..piece]).map_err(dma_status)?;
                }
                seen += 1;
                if seen > MOST_DESCRIPTORS {
                    return Err(Status::INVALID_SGL_DESCRIPTOR_COUNT.with_dnr());
                }
                let Ok(descriptor) = SglDescriptor::read_from_bytes(&self.list[in_page..][..DESCRIPTOR])
                else {
                    return Err(Status::INTERNAL_ERROR);
                };
                let at_end = at + DESCRIPTOR == segment.len;
                match Segment::of(&descriptor)? {
                    // A segment goes on in one other, which its last descriptor names; the last one goes on nowhere.
                    Some(further) if at_end && !segment.last => next = Some(further),
                    None if !at_end || segment.last => self.add_block(&descriptor, &mut rest)?,
                    _ => return Err(Status::INVALID_SGL_SEGMENT_DESCRIPTOR.with_dnr()),
                }
            }
        }
        // Identify does not say that an SGL may be longer than the data, and shorter it never may.
        if rest == 0 { Ok(()) } else { Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr()) }
    }

    fn add_block(&mut self, descriptor: &SglDescriptor, rest: &mut usize) -> Result<(), Status> {
        let block = (SglDescriptor::TYPE_DATA_BLOCK, SglDescriptor::SUBTYPE_ADDRESS);
        if (descriptor.kind(), descriptor.subtype()) != block {
            return Err(Status::SGL_DESCRIPTOR_TYPE_INVALID.with_dnr());
        }
        let len = descriptor.length.get() as usize;
        *rest = rest.checked_sub(len).ok_or(Status::DATA_SGL_LENGTH_INVALID.with_dnr())?;
        if len > 0 {
            self.spans.push(Span { iova: descriptor.address.get(), len });
        }
        Ok(())
    }
}
