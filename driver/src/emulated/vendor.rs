//! Commands of a vendor (option `vendor`): they stand for those that real drives have beyond the specification, so that
//! what passes them on can be tested.
//!
//! All are there on the admin queue and, for a namespace that is attached, on I/O queues. They have the form that the
//! specification has for commands of vendors (NVMe Base 1.4, 4.2.2), as AVSCC and ICSVSCC say: dword 10 is the length of
//! the data in dwords.
//!
//! | opcode | data | |
//! |---|---|---|
//! | C1h | to the drive | puts it into the drive's scratch memory of 64 KiB, at the byte that dword 12 says |
//! | C2h | from the drive | gives what is there |
//! | C6h | from the drive | the same, but lies: it goes on for as many bytes more as dword 13 says, until something stops it |
//!
//! C6h with a dword 13 that is not 0 ends with Data Transfer Error when the IOMMU stops it, with Data SGL Length Invalid
//! when its SGL does, and with success when nothing does: then it has written where nothing was meant to be written.
//! Scratch memory outlives resets, not the drive. Places beyond it, or not at a dword, are refused with Invalid Field.

use std::ops::Range;
use std::sync::Mutex;

use gangway_spec::{Status, SubmissionQueueEntry};

use super::admin::{AdminCommand, Answer};
use super::device::{Device, lock};
use super::io::Execution;
use super::memory::{Access, DmaMemory};
use super::prp::{DataPointer, PrpReader};
use super::store::dma_status;

/// Puts data into scratch memory.
pub(super) const STORE: u8 = 0xc1;
/// Gives what is in scratch memory.
pub(super) const FETCH: u8 = 0xc2;
/// Gives what is in scratch memory, and more than was asked for.
pub(super) const OVERFETCH: u8 = 0xc6;

/// AVSCC and ICSVSCC: commands of the vendor have the form of the specification.
pub(super) const STANDARD_FORM: u8 = 1 << 0;

/// Bytes of scratch memory.
const SIZE: usize = 64 << 10;

/// Memory of the drive that only commands of the vendor reach.
#[derive(Default)]
pub(super) struct Scratch(Mutex<Vec<u8>>);

impl Scratch {
    /// For a drive that has these commands.
    pub(super) fn new() -> Self {
        Self(Mutex::new(vec![0; SIZE]))
    }
}

impl AdminCommand<'_> {
    pub(super) fn vendor(&mut self) -> Answer {
        run(self.device, &mut self.admin.prps, self.host, self.entry)?;
        Ok(0)
    }
}

impl Execution<'_> {
    pub(super) fn vendor(&mut self) -> Result<(), Status> {
        self.namespace()?.admit()?;
        run(self.device, self.prps, self.host, self.entry)
    }
}

fn run(
    device: &Device,
    prps: &mut PrpReader,
    host: &DmaMemory,
    entry: &SubmissionQueueEntry,
) -> Result<(), Status> {
    let place = place(device, entry)?;
    if place.is_empty() {
        return Ok(());
    }
    let access = if entry.opcode == STORE { Access::Read } else { Access::Write };
    let pointer = DataPointer::of(entry);
    let mut scratch = lock(&device.scratch.0);
    let mut rest = scratch.get_mut(place).ok_or(Status::INTERNAL_ERROR)?;
    for span in prps.resolve(host, pointer, rest.len(), access)? {
        let (piece, after) = rest.split_at_mut(span.len);
        match access {
            Access::Read => host.read(span.iova, piece),
            Access::Write => host.write(span.iova, piece),
        }
        .map_err(dma_status)?;
        rest = after;
    }
    if entry.opcode == OVERFETCH && entry.cdw13.get() > 0 {
        prps.run_on(host, pointer, entry.cdw13.get() as usize, access)?;
    }
    Ok(())
}

/// Where in scratch memory a command's data is.
fn place(device: &Device, entry: &SubmissionQueueEntry) -> Result<Range<usize>, Status> {
    let (start, len) = (entry.cdw12.get() as usize, entry.cdw10.get() as usize * 4);
    let most = device.max_transfer();
    // What a lie adds is moved as well, so it has a limit too.
    let fits = start.is_multiple_of(4) && start + len <= SIZE && len <= most;
    if fits && (entry.opcode != OVERFETCH || entry.cdw13.get() as usize <= most) {
        Ok(start..start + len)
    } else {
        Err(Status::INVALID_FIELD.with_dnr())
    }
}
