//! The 64-byte submission queue entry and its data pointer (NVMe Base 2.0, 3.3.3 and 4.1).

mod sgl;

use core::fmt;
use core::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned, transmute};

use crate::opcode;
pub use crate::opcode::{admin_opcode_name, nvm_opcode_name};
pub use sgl::SglDescriptor;

/// The namespace identifier that stands for all namespaces (NVMe Base 2.0, 3.2.1.2).
pub const NSID_BROADCAST: u32 = 0xffff_ffff;

/// PSDT: the data pointer holds two PRP entries.
pub const PSDT_PRP: u8 = 0;
/// PSDT: the data pointer is an SGL descriptor; MPTR, where used, is the address of a contiguous buffer.
/// The only value that fabrics commands may use.
pub const PSDT_SGL: u8 = 1;
/// PSDT: the data pointer is an SGL descriptor; MPTR, where used, is the address of an SGL segment.
pub const PSDT_SGL_METADATA_SGL: u8 = 2;

/// A command as it stands on a submission queue or at the start of a command capsule
/// (NVMe Base 2.0, 3.3.3.1).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SubmissionQueueEntry {
    /// Opcode; bits 1:0 say which way data goes (see [`TransferDirection`]).
    pub opcode: u8,
    /// FUSE in bits 1:0 and PSDT in bits 7:6.
    pub flags: u8,
    /// Command identifier, unique among the outstanding commands of its queue.
    pub cid: U16,
    /// Namespace identifier.
    pub nsid: U32,
    /// Command dword 2.
    pub cdw2: U32,
    /// Command dword 3.
    pub cdw3: U32,
    /// Metadata pointer.
    pub mptr: U64,
    /// Data pointer: two PRP entries or one SGL descriptor, as PSDT says.
    pub dptr: [u8; 16],
    /// Command dword 10.
    pub cdw10: U32,
    /// Command dword 11.
    pub cdw11: U32,
    /// Command dword 12.
    pub cdw12: U32,
    /// Command dword 13.
    pub cdw13: U32,
    /// Command dword 14.
    pub cdw14: U32,
    /// Command dword 15.
    pub cdw15: U32,
}

const _: () = assert!(size_of::<SubmissionQueueEntry>() == 64);
const _: () = assert!(offset_of!(SubmissionQueueEntry, mptr) == 16);
const _: () = assert!(offset_of!(SubmissionQueueEntry, dptr) == 24);
const _: () = assert!(offset_of!(SubmissionQueueEntry, cdw10) == 40);
const _: () = assert!(offset_of!(SubmissionQueueEntry, cdw15) == 60);

impl SubmissionQueueEntry {
    /// A command with this opcode and zeroes everywhere else.
    #[must_use]
    pub fn new(opcode: u8) -> Self {
        Self { opcode, ..Self::new_zeroed() }
    }

    /// Puts two PRP entries into the data pointer and says so in PSDT.
    pub fn set_prp(&mut self, prp1: u64, prp2: u64) {
        self.dptr = transmute!([U64::new(prp1), U64::new(prp2)]);
        self.set_psdt(PSDT_PRP);
    }

    /// The first half of the data pointer, as PRP entry 1.
    #[must_use]
    pub fn prp1(&self) -> u64 {
        let prps: [U64; 2] = transmute!(self.dptr);
        prps[0].get()
    }

    /// The second half of the data pointer, as PRP entry 2.
    #[must_use]
    pub fn prp2(&self) -> u64 {
        let prps: [U64; 2] = transmute!(self.dptr);
        prps[1].get()
    }

    /// The data pointer, as SGL descriptor 1.
    #[must_use]
    pub fn sgl(&self) -> SglDescriptor {
        transmute!(self.dptr)
    }

    /// Puts an SGL descriptor into the data pointer and says so in PSDT.
    pub fn set_sgl(&mut self, sgl: SglDescriptor) {
        self.dptr = transmute!(sgl);
        self.set_psdt(PSDT_SGL);
    }

    /// Fused operation: 0 none, 1 first command, 2 second command, 3 reserved.
    #[must_use]
    pub const fn fuse(&self) -> u8 {
        self.flags & 0x3
    }

    /// PRP or SGL for data transfer: see [`PSDT_PRP`] and its siblings; 3 is reserved.
    #[must_use]
    pub const fn psdt(&self) -> u8 {
        self.flags >> 6
    }

    /// Sets PSDT to the lowest two bits of `psdt`.
    pub fn set_psdt(&mut self, psdt: u8) {
        self.flags = (self.flags & 0x3f) | (psdt << 6);
    }

    /// Which way this command's data goes. A fabrics command says so in its type, not in its opcode.
    #[must_use]
    pub const fn transfer_direction(&self) -> TransferDirection {
        if self.opcode == opcode::admin::FABRICS {
            return TransferDirection::of_opcode(self.nsid.to_bytes()[0]);
        }
        TransferDirection::of_opcode(self.opcode)
    }

    /// A view that prints the name of the opcode as an admin command.
    #[must_use]
    pub const fn display_admin(&self) -> impl fmt::Display + '_ {
        NamedEntry { entry: self, name: admin_opcode_name(self.opcode) }
    }

    /// A view that prints the name of the opcode as an I/O command.
    #[must_use]
    pub const fn display_io(&self) -> impl fmt::Display + '_ {
        NamedEntry { entry: self, name: nvm_opcode_name(self.opcode) }
    }
}

/// Whether an opcode is an admin or an I/O command is known by the queue alone, so this prints the number;
/// [`SubmissionQueueEntry::display_admin`] and [`SubmissionQueueEntry::display_io`] print the name.
impl fmt::Display for SubmissionQueueEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        NamedEntry { entry: self, name: None }.fmt(f)
    }
}

struct NamedEntry<'a> {
    entry: &'a SubmissionQueueEntry,
    name: Option<&'static str>,
}

impl fmt::Display for NamedEntry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = self.entry;
        match self.name {
            Some(name) => write!(f, "{name} (opcode {:02X}h)", entry.opcode)?,
            None => write!(f, "opcode {:02X}h", entry.opcode)?,
        }
        if entry.opcode == opcode::admin::FABRICS {
            let fctype = entry.nsid.to_bytes()[0];
            match crate::fabrics::fctype::name(fctype) {
                Some(name) => write!(f, " {name}")?,
                None => write!(f, " type {fctype:02X}h")?,
            }
            write!(f, " CID {:04X}h", entry.cid)?;
        } else {
            write!(f, " CID {:04X}h NSID {:X}h", entry.cid, entry.nsid)?;
        }
        match entry.psdt() {
            PSDT_PRP => write!(f, " PRP {:X}h {:X}h", entry.prp1(), entry.prp2())?,
            PSDT_SGL | PSDT_SGL_METADATA_SGL => write!(f, " SGL {}", entry.sgl())?,
            _ => f.write_str(" PSDT 3h")?,
        }
        if entry.fuse() != 0 {
            write!(f, " FUSE {:X}h", entry.fuse())?;
        }
        f.write_str(" CDW10-15")?;
        for dword in [entry.cdw10, entry.cdw11, entry.cdw12, entry.cdw13, entry.cdw14, entry.cdw15] {
            write!(f, " {:08X}", dword.get())?;
        }
        Ok(())
    }
}

/// Which way the data of a command goes, as bits 1:0 of its opcode say (NVMe Base 2.0, 3.3.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransferDirection {
    /// No data is transferred.
    None,
    /// The controller reads the host's memory: a write.
    HostToController,
    /// The controller writes the host's memory: a read.
    ControllerToHost,
    /// Both ways.
    Bidirectional,
}

impl TransferDirection {
    /// The direction in an opcode, or in the type of a fabrics command, which is coded the same way.
    #[must_use]
    pub const fn of_opcode(opcode: u8) -> Self {
        match opcode & 0x3 {
            0 => Self::None,
            1 => Self::HostToController,
            2 => Self::ControllerToHost,
            _ => Self::Bidirectional,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prp_entries_are_little_endian_and_clear_psdt() {
        let mut entry = SubmissionQueueEntry::new(opcode::nvm::READ);
        entry.flags = 0x41;
        entry.set_prp(0x0102_0304_0506_0708, 0x1112_1314_1516_1718);
        assert_eq!(entry.as_bytes()[24..32], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(entry.as_bytes()[39], 0x11);
        assert_eq!((entry.prp1(), entry.prp2()), (0x0102_0304_0506_0708, 0x1112_1314_1516_1718));
        assert_eq!((entry.psdt(), entry.fuse()), (PSDT_PRP, 1));
    }

    #[test]
    fn an_sgl_sets_psdt_and_leaves_fuse_alone() {
        let mut entry = SubmissionQueueEntry::new(opcode::nvm::WRITE);
        entry.flags = 0x82;
        entry.set_sgl(SglDescriptor::transport(4096));
        assert_eq!((entry.flags, entry.psdt(), entry.fuse()), (0x42, PSDT_SGL, 2));
        assert_eq!(entry.sgl(), SglDescriptor::transport(4096));
        assert_eq!(entry.as_bytes()[39], 0x5a);
    }

    #[test]
    fn the_direction_comes_from_the_opcode_or_the_fabrics_type() {
        assert_eq!(TransferDirection::of_opcode(opcode::nvm::FLUSH), TransferDirection::None);
        assert_eq!(TransferDirection::of_opcode(opcode::nvm::WRITE), TransferDirection::HostToController);
        assert_eq!(TransferDirection::of_opcode(opcode::nvm::READ), TransferDirection::ControllerToHost);
        assert_eq!(TransferDirection::of_opcode(0xc3), TransferDirection::Bidirectional);
        let mut fabrics = SubmissionQueueEntry::new(opcode::admin::FABRICS);
        fabrics.nsid.set(u32::from(crate::fabrics::fctype::CONNECT));
        assert_eq!(fabrics.transfer_direction(), TransferDirection::HostToController);
        fabrics.nsid.set(u32::from(crate::fabrics::fctype::PROPERTY_GET));
        assert_eq!(fabrics.transfer_direction(), TransferDirection::None);
    }

    #[test]
    fn a_person_can_read_a_command() {
        let mut entry = SubmissionQueueEntry::new(0x02);
        entry.cid.set(0x1f);
        entry.nsid.set(1);
        entry.set_prp(0x2000, 0);
        entry.cdw10.set(8);
        let tail = "CID 001Fh NSID 1h PRP 2000h 0h \
                    CDW10-15 00000008 00000000 00000000 00000000 00000000 00000000";
        assert_eq!(entry.to_string(), format!("opcode 02h {tail}"));
        assert_eq!(entry.display_io().to_string(), format!("Read (opcode 02h) {tail}"));
        assert_eq!(entry.display_admin().to_string(), format!("Get Log Page (opcode 02h) {tail}"));
    }
}
