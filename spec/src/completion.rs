//! The 16-byte completion queue entry (NVMe Base 2.0, 3.3.3.2).

use core::fmt;
use core::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Status;

/// A completion as it stands on a completion queue or in a response capsule.
///
/// Over fabrics the phase bit is reserved and the submission queue identifier too.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct CompletionQueueEntry {
    /// Dword 0, the command's result.
    pub dw0: U32,
    /// Dword 1, the upper half of the results that have one.
    pub dw1: U32,
    /// Submission queue head pointer: entries before it may be used again.
    pub sq_head: U16,
    /// Submission queue identifier.
    pub sq_id: U16,
    /// Identifier of the command that completed.
    pub cid: U16,
    /// Phase tag in bit 0, status above it. Use [`Self::status`] and [`Self::phase`].
    pub status: U16,
}

const _: () = assert!(size_of::<CompletionQueueEntry>() == 16);
const _: () = assert!(offset_of!(CompletionQueueEntry, status) == 14);

impl CompletionQueueEntry {
    /// A completion of command `cid` with this status, phase 0 and no result.
    #[must_use]
    pub fn new(cid: u16, status: Status) -> Self {
        Self { cid: U16::new(cid), status: U16::new(status.bits() << 1), ..Self::new_zeroed() }
    }

    /// The phase tag.
    #[must_use]
    pub const fn phase(&self) -> bool {
        self.status.to_bytes()[0] & 1 == 1
    }

    /// Sets the phase tag.
    pub fn set_phase(&mut self, phase: bool) {
        self.status.set((self.status.get() & !1) | u16::from(phase));
    }

    /// The status, without the phase tag.
    #[must_use]
    pub const fn status(&self) -> Status {
        Status::from_bits(self.status.get() >> 1)
    }

    /// Sets the status and leaves the phase tag as it is.
    pub fn set_status(&mut self, status: Status) {
        self.status.set((status.bits() << 1) | u16::from(self.phase()));
    }

    /// Dwords 0 and 1 as one number.
    #[must_use]
    pub const fn result(&self) -> u64 {
        (self.dw1.get() as u64) << 32 | self.dw0.get() as u64
    }

    /// Sets dwords 0 and 1.
    pub fn set_result(&mut self, result: u64) {
        self.dw0.set((result & 0xffff_ffff) as u32);
        self.dw1.set((result >> 32) as u32);
    }
}

impl fmt::Display for CompletionQueueEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cid, sq, head) = (self.cid.get(), self.sq_id.get(), self.sq_head.get());
        write!(f, "CID {cid:04X}h SQ {sq} head {head} result {:X}h: {}", self.result(), self.status())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phase_and_status_share_a_field_without_touching_each_other() {
        let mut entry = CompletionQueueEntry::new(7, Status::INVALID_FIELD.with_dnr());
        assert_eq!(entry.status.get(), 0x8004);
        entry.set_phase(true);
        assert_eq!((entry.phase(), entry.status()), (true, Status::INVALID_FIELD.with_dnr()));
        entry.set_status(Status::SUCCESS);
        assert_eq!((entry.phase(), entry.status()), (true, Status::SUCCESS));
        entry.set_phase(false);
        assert_eq!(entry.status.get(), 0);
    }

    #[test]
    fn a_result_fills_both_dwords() {
        let mut entry = CompletionQueueEntry::new(0, Status::SUCCESS);
        entry.set_result(0x1122_3344_5566_7788);
        assert_eq!((entry.dw0.get(), entry.dw1.get()), (0x5566_7788, 0x1122_3344));
        assert_eq!(entry.result(), 0x1122_3344_5566_7788);
    }

    #[test]
    fn a_person_can_read_a_completion() {
        let mut entry = CompletionQueueEntry::new(0x12, Status::LBA_OUT_OF_RANGE.with_dnr());
        entry.sq_id.set(1);
        entry.sq_head.set(5);
        let text = "CID 0012h SQ 1 head 5 result 0h: LBA Out of Range (SCT 0h SC 80h, DNR)";
        assert_eq!(entry.to_string(), text);
    }
}
