//! Commands of the NVM Command Set (NVM Command Set 1.0, 3).

mod format;

use core::mem::{offset_of, size_of};

use bitfield_struct::bitfield;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::SubmissionQueueEntry;
pub use format::{BlockFormat, Protection};

/// Most blocks that one command can name.
pub const MAX_BLOCKS: u32 = 1 << 16;

/// First block of a command (CDW10 and CDW11).
#[must_use]
pub const fn slba(entry: &SubmissionQueueEntry) -> u64 {
    (entry.cdw11.get() as u64) << 32 | entry.cdw10.get() as u64
}

/// Sets the first block of a command.
pub fn set_slba(entry: &mut SubmissionQueueEntry, slba: u64) {
    entry.cdw10.set(slba as u32);
    entry.cdw11.set((slba >> 32) as u32);
}

/// Number of blocks of a command: 1 to 65536, though the field counts from 0 (CDW12 bits 15:0).
#[must_use]
pub const fn nlb(entry: &SubmissionQueueEntry) -> u32 {
    (entry.cdw12.get() & 0xffff) + 1
}

/// Sets the number of blocks of a command, 1's based.
///
/// # Panics
/// When `blocks` is not 1 to 65536: a command for another number of blocks than was meant must not be sent.
pub fn set_nlb(entry: &mut SubmissionQueueEntry, blocks: u32) {
    assert!((1..=MAX_BLOCKS).contains(&blocks), "a command names 1 to 65536 blocks, not {blocks}");
    entry.cdw12.set((entry.cdw12.get() & !0xffff) | (blocks - 1));
}

/// CDW12 of Read, Write and their relatives.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct IoControl {
    /// Number of logical blocks, 0's based. [`nlb`] is 1's based.
    pub nlb: u16,
    #[bits(4)]
    __: u8,
    /// Directive type, of writes.
    #[bits(4)]
    pub dtype: u8,
    /// Storage tag check.
    pub stc: bool,
    /// Deallocate, of Write Zeroes.
    pub deac: bool,
    /// Protection information: what is checked in bits 2:0 (guard, application tag, reference tag, from bit 2
    /// down) and the action in bit 3 ([`Self::PRACT`]).
    #[bits(4)]
    pub prinfo: u8,
    /// Force unit access: the data is on non-volatile media when the command completes.
    pub fua: bool,
    /// Limited retry.
    pub lr: bool,
}

impl IoControl {
    /// PRINFO: the controller inserts or strips protection information.
    pub const PRACT: u8 = 1 << 3;

    /// The control bits of a command.
    #[must_use]
    pub const fn of(entry: &SubmissionQueueEntry) -> Self {
        Self::from_bits(entry.cdw12.get())
    }
}

/// Dataset Management (NVM Command Set 1.0, 3.2.3).
pub mod dsm {
    use crate::SubmissionQueueEntry;

    /// CDW11: the ranges are an integral dataset for reads.
    pub const INTEGRAL_READ: u32 = 1 << 0;
    /// CDW11: the ranges are an integral dataset for writes.
    pub const INTEGRAL_WRITE: u32 = 1 << 1;
    /// CDW11: deallocate.
    pub const DEALLOCATE: u32 = 1 << 2;
    /// Most ranges of a command.
    pub const MAX_RANGES: u32 = 256;

    /// Number of ranges of a Dataset Management command, 1 to 256 (CDW10 bits 7:0 count from 0).
    #[must_use]
    pub const fn range_count(entry: &SubmissionQueueEntry) -> u32 {
        (entry.cdw10.get() & 0xff) + 1
    }
}

/// One range of Dataset Management.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct DatasetManagementRange {
    /// Context attributes: hints about the use of the range.
    pub context_attributes: U32,
    /// Length in blocks, 1's based; 0 is an empty range.
    pub length: U32,
    /// First block.
    pub slba: U64,
}

const _: () = assert!(size_of::<DatasetManagementRange>() == 16);

impl DatasetManagementRange {
    /// `length` blocks from `slba` on, without hints.
    #[must_use]
    pub const fn new(slba: u64, length: u32) -> Self {
        Self { context_attributes: U32::ZERO, length: U32::new(length), slba: U64::new(slba) }
    }
}

/// Copy (NVM Command Set 1.0, 3.2.2).
pub mod copy {
    use crate::SubmissionQueueEntry;

    /// Number of source ranges of a Copy command, 1 to 256 (CDW12 bits 7:0 count from 0).
    #[must_use]
    pub const fn range_count(entry: &SubmissionQueueEntry) -> u32 {
        (entry.cdw12.get() & 0xff) + 1
    }

    /// Format of the source ranges of a Copy command (CDW12 bits 11:8).
    #[must_use]
    pub const fn descriptor_format(entry: &SubmissionQueueEntry) -> u8 {
        (entry.cdw12.get() >> 8) as u8 & 0xf
    }

    /// The formats that are known, as bits of OCFS: those of [`descriptor_length`].
    pub const FORMATS: u16 = 1 << 0 | 1 << 1 | FORMATS_ACROSS;

    /// The formats whose source ranges name namespaces, as bits of OCFS: 2h and 3h. A drive has them only when Host
    /// Behavior Support enables them ([`HostBehaviorSupport`](crate::feature::HostBehaviorSupport)).
    pub const FORMATS_ACROSS: u16 = 1 << 2 | 1 << 3;

    /// The format of a Copy command, as a bit of OCFS.
    #[must_use]
    pub const fn format_bit(entry: &SubmissionQueueEntry) -> u16 {
        1 << descriptor_format(entry)
    }

    /// Bytes of a source range of this format; `None` when the format is unknown.
    #[must_use]
    pub const fn descriptor_length(format: u8) -> Option<u32> {
        match format {
            0 | 2 => Some(32),
            1 | 3 => Some(40),
            _ => None,
        }
    }
}

/// One source range of Copy, in format 0; with a namespace in format 2 (NVM Command Set 1.0, figure 33). Those of formats 1
/// and 3 begin alike, up to what is said of protection information.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct CopyRange {
    /// Source namespace in format 2; 0 in format 0.
    pub snsid: U32,
    /// Zero.
    pub reserved4: U32,
    /// First block.
    pub slba: U64,
    /// Number of blocks, 0's based ([`Self::blocks`]).
    pub nlb: U16,
    /// Zero.
    pub reserved18: [u8; 4],
    /// Source options in format 2; 0 in format 0.
    pub sopt: U16,
    /// Expected initial block reference tag.
    pub eilbrt: U32,
    /// Expected block application tag.
    pub elbat: U16,
    /// Expected block application tag mask.
    pub elbatm: U16,
}

const _: () = assert!(size_of::<CopyRange>() == 32);
const _: () = assert!(offset_of!(CopyRange, slba) == 8);
const _: () = assert!(offset_of!(CopyRange, nlb) == 16);
const _: () = assert!(offset_of!(CopyRange, eilbrt) == 24);

impl CopyRange {
    /// Number of blocks, 1 to 65536.
    #[must_use]
    pub const fn blocks(&self) -> u32 {
        self.nlb.get() as u32 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opcode;

    #[test]
    fn block_counts_start_at_one_and_leave_the_control_bits_alone() {
        let mut entry = SubmissionQueueEntry::new(opcode::nvm::WRITE);
        assert_eq!(nlb(&entry), 1);
        entry.cdw12.set(IoControl::new().with_fua(true).into_bits());
        set_nlb(&mut entry, MAX_BLOCKS);
        assert_eq!((nlb(&entry), entry.cdw12.get()), (65536, 0x4000_ffff));
        set_nlb(&mut entry, 1);
        assert_eq!((nlb(&entry), IoControl::of(&entry).fua()), (1, true));
    }

    #[test]
    #[should_panic(expected = "1 to 65536 blocks, not 65537")]
    fn more_blocks_than_a_command_can_name_are_not_cut_silently() {
        set_nlb(&mut SubmissionQueueEntry::new(opcode::nvm::WRITE), MAX_BLOCKS + 1);
    }

    #[test]
    fn the_first_block_has_64_bits() {
        let mut entry = SubmissionQueueEntry::new(opcode::nvm::READ);
        set_slba(&mut entry, 0x1122_3344_5566_7788);
        assert_eq!((entry.cdw10.get(), entry.cdw11.get()), (0x5566_7788, 0x1122_3344));
        assert_eq!(slba(&entry), 0x1122_3344_5566_7788);
    }

    #[test]
    fn control_bits_stand_where_the_specification_puts_them() {
        let bits = [
            (IoControl::new().with_dtype(0xf), 0x00f0_0000),
            (IoControl::new().with_stc(true), 1 << 24),
            (IoControl::new().with_deac(true), 1 << 25),
            (IoControl::new().with_prinfo(0xf), 0x3c00_0000),
            (IoControl::new().with_prinfo(IoControl::PRACT), 1 << 29),
            (IoControl::new().with_fua(true), 1 << 30),
            (IoControl::new().with_lr(true), 1 << 31),
        ];
        for (control, expected) in bits {
            assert_eq!(control.into_bits(), expected, "{control:?}");
        }
    }

    #[test]
    fn ranges_are_counted_from_zero_on_the_wire() {
        let mut entry = SubmissionQueueEntry::new(opcode::nvm::DATASET_MANAGEMENT);
        assert_eq!(dsm::range_count(&entry), 1);
        entry.cdw10.set(0xffff_ffff);
        assert_eq!(dsm::range_count(&entry), dsm::MAX_RANGES);
        entry.cdw12.set(0x3ff);
        assert_eq!((copy::range_count(&entry), copy::descriptor_format(&entry)), (256, 3));
        assert_eq!(copy::format_bit(&entry), 1 << 3);
        assert_eq!(copy::descriptor_length(3), Some(40));
        assert_eq!(copy::descriptor_length(9), None);
        let known = (0..16).filter(|format| copy::descriptor_length(*format).is_some());
        assert_eq!(known.fold(0, |all, format| all | 1 << format), copy::FORMATS);
    }

    #[test]
    fn ranges_have_the_layout_of_the_specification() {
        let range = DatasetManagementRange::new(0x0102, 8);
        assert_eq!(range.as_bytes(), [0, 0, 0, 0, 8, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        let range = CopyRange { nlb: U16::new(0xffff), ..Default::default() };
        assert_eq!(range.blocks(), 65536);
    }
}
