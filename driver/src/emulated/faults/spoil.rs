//! What a faulty drive does to the data of a command that it has executed.

use gangway_spec::{Status, SubmissionQueueEntry, TransferDirection};

use super::Treatment;
use crate::emulated::memory::{Access, DmaMemory};
use crate::emulated::prp::{DataPointer, PrpReader};
use crate::emulated::store::dma_status;

/// What is written where nothing should be.
const RUBBISH: [u8; 256] = [0xa5; 256];

impl PrpReader {
    /// Does to the data of the command that was executed last what was declared; gives its status and result from then on.
    pub(in crate::emulated) fn spoil(
        &mut self,
        host: &DmaMemory,
        entry: &SubmissionQueueEntry,
        treatment: &Treatment,
        (status, result): (Status, u64),
    ) -> (Status, u64) {
        if !status.is_success() || self.spans.is_empty() {
            return (status, result);
        }
        let direction = entry.transfer_direction();
        if let Some(bit) = treatment.flip
            && direction == TransferDirection::ControllerToHost
        {
            self.flip(host, bit);
        }
        let Some(more) = treatment.overrun else { return (status, result) };
        let access = match direction {
            TransferDirection::HostToController => Access::Read,
            _ => Access::Write,
        };
        match self.run_on(host, DataPointer::of(entry), more as usize, access) {
            Ok(()) => (status, result),
            Err(error) => (error, 0),
        }
    }

    /// Turns a bit of the data over, counted from its beginning. Nothing happens when there is less data.
    fn flip(&self, host: &DmaMemory, bit: u32) {
        let mut at = bit as usize / 8;
        for span in &self.spans {
            if at < span.len {
                // It was written there a moment ago.
                let _ = host.flip(span.iova + at as u64, 1 << (bit % 8));
                return;
            }
            at -= span.len;
        }
    }

    /// Goes on for so many bytes behind the end of the data, as a drive does that takes the command for a longer one. It
    /// stops where the IOMMU stops it.
    pub(in crate::emulated) fn run_on(
        &mut self,
        host: &DmaMemory,
        pointer: DataPointer,
        more: usize,
        access: Access,
    ) -> Result<(), Status> {
        let moved: usize = self.spans.iter().map(|span| span.len).sum();
        match pointer {
            DataPointer::Prp(prp1, prp2) => self.follow(host, (prp1, prp2), moved + more)?,
            // The list itself says where the memory ends.
            DataPointer::Sgl(_) => return Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr()),
        }
        let mut rest = moved;
        for span in &self.spans {
            let skipped = rest.min(span.len);
            rest -= skipped;
            for at in (skipped..span.len).step_by(RUBBISH.len()) {
                let (iova, len) = (span.iova + at as u64, RUBBISH.len().min(span.len - at));
                match access {
                    Access::Write => host.write(iova, &RUBBISH[..len]),
                    Access::Read => host.check(iova, len, Access::Read),
                }
                .map_err(dma_status)?;
            }
        }
        Ok(())
    }
}
