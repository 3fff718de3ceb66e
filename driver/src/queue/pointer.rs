//! The data pointer of a command: PRPs, or one SGL descriptor (NVMe Base 2.0, 4.1).
//!
//! Memory of a command is contiguous for the device, whatever its length, so one descriptor always does. It is exact
//! where PRPs are not: it carries the length, and a drive whose command implies another one must refuse it. PRPs only
//! name pages, and what keeps a drive from moving more than it was asked for is what stands behind the last of them.

use gangway_spec::command::{PSDT_PRP, PSDT_SGL};
use gangway_spec::identify::Sgls;
use gangway_spec::opcode::nvm;
use gangway_spec::{SubmissionQueueEntry, TransferDirection, admin_opcode_name, nvm_opcode_name};
use zerocopy::little_endian::U64;

use super::{QueuePair, SubmitError, keeps_memory};
use crate::dma::CommandData;
use crate::prp::{self, PrpError};

/// How I/O commands name the memory that they transfer. Admin commands use PRPs, always: the specification allows
/// nothing else over PCIe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DataPointers {
    /// SGLs on a drive that takes them, PRPs on others.
    ///
    /// With SGLs the drive itself refuses a command that would move more than it was given, and transfers of more than
    /// two pages need no list that the driver writes and the drive fetches. They cost less for every length: to take a
    /// buffer and submit a read takes 509 instructions by SGL, and by PRPs 571 for 4 KiB, 675 for 16 KiB and 1263 for
    /// 128 KiB (callgrind, `cargo bench -p gangway-driver --bench commands`). Dataset Management goes by PRPs all the
    /// same, unless the drive takes SGLs that are longer than the data (SGLS bit 18): hosts give it a buffer for the
    /// longest list there can be, because some drives read that much. So do commands with metadata in a buffer of its own, unless the drive
    /// takes that beside an SGL (SGLS bit 17).
    #[default]
    Auto,
    /// PRPs, whatever the drive can do.
    Prp,
    /// SGLs for every I/O command. A drive that takes none is refused.
    Sgl,
}

/// How a queue pair uses SGLs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SglRules {
    /// Addresses and lengths have none of these bits set.
    unaligned: u64,
    /// Whether a buffer may be longer than what its command moves.
    longer: bool,
    /// Whether metadata may lie in a buffer of its own beside an SGL.
    metadata: bool,
    /// Whether what the rules do not allow goes by SGL too, for the drive to judge.
    always: bool,
}

impl SglRules {
    /// How to use the SGLs of a drive. `None`: not at all.
    pub(crate) fn of(sgls: Sgls, wanted: DataPointers) -> Option<Self> {
        // The lowest two bits are one field, whose value 3 is reserved.
        let unaligned = match sgls.bits() & 0b11 {
            0b01 => 0,
            0b10 => 0b11,
            _ => return None,
        };
        let always = match wanted {
            DataPointers::Auto => false,
            DataPointers::Prp => return None,
            DataPointers::Sgl => true,
        };
        Some(Self {
            unaligned,
            longer: sgls.contains(Sgls::LONGER_THAN_DATA),
            metadata: sgls.contains(Sgls::METADATA_BYTE_ALIGNED),
            always,
        })
    }

    /// Whether a command goes by SGL whose memory is this, with or without metadata in a buffer of its own.
    #[inline]
    pub(super) fn apply_to(self, opcode: u8, iova: u64, len: usize, metadata: bool) -> bool {
        self.always
            || ((iova | len as u64) & self.unaligned == 0
                && (self.metadata || !metadata)
                && (opcode != nvm::DATASET_MANAGEMENT || self.longer))
    }
}

/// What stands in the data pointer of an entry, and what PSDT says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DataPointer {
    words: (u64, u64),
    psdt: u8,
}

impl DataPointer {
    /// Two PRP entries.
    #[inline]
    pub(super) const fn prp(prp1: u64, prp2: u64) -> Self {
        Self { words: (prp1, prp2), psdt: PSDT_PRP }
    }

    /// An SGL data block descriptor: type and subtype 0 in the highest byte, so the second word is the length.
    #[inline]
    const fn data_block(iova: u64, len: u32) -> Self {
        Self { words: (iova, len as u64), psdt: PSDT_SGL }
    }

    /// The words of `entry` with this data pointer, an identifier and a metadata pointer in it.
    ///
    /// Word by word, since the entry of every command comes through here.
    #[inline]
    pub(super) fn words_of(self, entry: &SubmissionQueueEntry, cid: u16, mptr: u64) -> [U64; 8] {
        /// Of the first word: all but PSDT (bits 15:14) and the identifier (bits 31:16).
        const KEPT: u64 = !0xffff_c000;
        let mut words: [U64; 8] = zerocopy::transmute!(*entry);
        let first = words[0].get() & KEPT | u64::from(self.psdt) << 14 | u64::from(cid) << 16;
        words[0].set(first);
        words[2].set(mptr);
        words[3].set(self.words.0);
        words[4].set(self.words.1);
        words
    }
}

/// Where in a page memory of `len` bytes is to begin, so that PRPs guard a command of unknown length
/// ([`SubmitError::Unguarded`]): bytes behind the page's start, below 4096. `None` when no place does, which is so for
/// some lengths just above a page; use more memory for these.
pub fn guarded_start(len: usize) -> Option<usize> {
    prp::guarded_start(len)
}

impl QueuePair {
    /// Checks a command whose first `len` bytes of data are moved, writes its PRP list if it needs one, and gives its
    /// data pointer.
    #[inline]
    pub(super) fn prepare(
        &mut self,
        entry: &SubmissionQueueEntry,
        data: &CommandData,
        len: usize,
    ) -> Result<DataPointer, SubmitError> {
        let slot = self.check_room()?;
        let opcode = entry.opcode;
        if self.qid == 0 && keeps_memory(entry) {
            return Err(SubmitError::KeepsMemory { opcode });
        }
        let direction = entry.transfer_direction();
        let (iova, memory) = match (data.iova(), data.direction()) {
            (Some(iova), Some(memory)) if len > 0 => (iova, memory),
            // Without data the pointer is reserved, or the command may look at it in error.
            _ if direction == TransferDirection::None => return Ok(DataPointer::prp(0, 0)),
            _ if self.sgl.is_some() => return Ok(DataPointer::data_block(0, 0)),
            _ => return Ok(DataPointer::prp(self.lists.poison(), self.lists.poison())),
        };
        let allowed = match direction {
            TransferDirection::None => false,
            TransferDirection::HostToController => memory.device_reads(),
            TransferDirection::ControllerToHost => memory.device_writes(),
            TransferDirection::Bidirectional => memory.device_reads() && memory.device_writes(),
        };
        if !allowed {
            return Err(SubmitError::WrongDirection { opcode });
        }
        let too_long = SubmitError::TooLong { len, limit: self.max_transfer };
        if len > self.max_transfer {
            return Err(too_long);
        }
        let metadata = data.len() > len;
        if self.sgl.is_some_and(|rules| rules.apply_to(opcode, iova, len, metadata)) {
            // No longer than a buffer can be, which is a u32.
            return Ok(DataPointer::data_block(iova, len as u32));
        }
        let poison = self.lists.poison();
        let mut list = self.lists.slot(slot);
        let pointers = prp::describe(iova, len, poison, &mut list).map_err(|error| match error {
            PrpError::Misaligned => SubmitError::Misaligned { iova },
            PrpError::TooLong => too_long,
        })?;
        if pointers.list_entries > 0 {
            // Behind the end of the list stands what the slot's last list left there: pages of somebody's data.
            let used = &mut self.list_entries[slot];
            list.poison(pointers.list_entries..*used as usize);
            *used = pointers.list_entries as u32;
        }
        if !pointers.guarded() && !length_is_known(self.qid, opcode) {
            return Err(SubmitError::Unguarded { opcode, len });
        }
        Ok(DataPointer::prp(pointers.prp1, pointers.prp2))
    }
}

/// Whether a specification says how much a command of this opcode moves, so that who submits it can know.
fn length_is_known(qid: u16, opcode: u8) -> bool {
    if qid == 0 { admin_opcode_name(opcode).is_some() } else { nvm_opcode_name(opcode).is_some() }
}
