//! Property Get, Property Set and Disconnect (NVMe Base 2.0, 6.4 to 6.6).

use core::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{fctype, same_bytes_as_an_entry};
use crate::opcode::admin::FABRICS;

/// ATTRIB bits 2:0: the property has four bytes.
const SIZE_4: u8 = 0;
/// ATTRIB bits 2:0: the property has eight bytes.
const SIZE_8: u8 = 1;

const fn property_size(attrib: u8) -> Option<u8> {
    match attrib & 0x7 {
        SIZE_4 => Some(4),
        SIZE_8 => Some(8),
        _ => None,
    }
}

/// Reads a controller property. The value is in dwords 0 and 1 of the completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PropertyGet {
    /// 7Fh.
    pub opcode: u8,
    /// FUSE and PSDT.
    pub flags: u8,
    /// Command identifier.
    pub cid: U16,
    /// 04h.
    pub fctype: u8,
    reserved5: [u8; 35],
    /// Size of the property in bits 2:0 ([`Self::size`]).
    pub attrib: u8,
    reserved41: [u8; 3],
    /// Offset of the property, as in [`crate::registers`].
    pub ofst: U32,
    reserved48: [u8; 16],
}

const _: () = assert!(offset_of!(PropertyGet, attrib) == 40);
const _: () = assert!(offset_of!(PropertyGet, ofst) == 44);

same_bytes_as_an_entry!(PropertyGet);

impl PropertyGet {
    /// Reads the property of four bytes at `ofst`.
    #[must_use]
    pub fn new32(ofst: u32) -> Self {
        Self { attrib: SIZE_4, ..Self::new64(ofst) }
    }

    /// Reads the property of eight bytes at `ofst`.
    #[must_use]
    pub fn new64(ofst: u32) -> Self {
        Self {
            opcode: FABRICS,
            fctype: fctype::PROPERTY_GET,
            attrib: SIZE_8,
            ofst: U32::new(ofst),
            ..Self::new_zeroed()
        }
    }

    /// Size of the property in bytes, 4 or 8; `None` when the command names a reserved size.
    #[must_use]
    pub const fn size(&self) -> Option<u8> {
        property_size(self.attrib)
    }
}

/// Writes a controller property.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PropertySet {
    /// 7Fh.
    pub opcode: u8,
    /// FUSE and PSDT.
    pub flags: u8,
    /// Command identifier.
    pub cid: U16,
    /// 00h.
    pub fctype: u8,
    reserved5: [u8; 35],
    /// Size of the property in bits 2:0 ([`Self::size`]).
    pub attrib: u8,
    reserved41: [u8; 3],
    /// Offset of the property, as in [`crate::registers`].
    pub ofst: U32,
    /// The value; its lower half for a property of four bytes.
    pub value: U64,
    reserved56: [u8; 8],
}

const _: () = assert!(offset_of!(PropertySet, attrib) == 40);
const _: () = assert!(offset_of!(PropertySet, value) == 48);

same_bytes_as_an_entry!(PropertySet);

impl PropertySet {
    /// Writes the property of four bytes at `ofst`.
    #[must_use]
    pub fn new32(ofst: u32, value: u32) -> Self {
        Self { attrib: SIZE_4, ..Self::new64(ofst, value.into()) }
    }

    /// Writes the property of eight bytes at `ofst`.
    #[must_use]
    pub fn new64(ofst: u32, value: u64) -> Self {
        Self {
            opcode: FABRICS,
            fctype: fctype::PROPERTY_SET,
            attrib: SIZE_8,
            ofst: U32::new(ofst),
            value: U64::new(value),
            ..Self::new_zeroed()
        }
    }

    /// Size of the property in bytes, 4 or 8; `None` when the command names a reserved size.
    #[must_use]
    pub const fn size(&self) -> Option<u8> {
        property_size(self.attrib)
    }
}

/// Deletes the I/O queue that it is sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DisconnectCommand {
    /// 7Fh.
    pub opcode: u8,
    /// FUSE and PSDT.
    pub flags: u8,
    /// Command identifier.
    pub cid: U16,
    /// 08h.
    pub fctype: u8,
    reserved5: [u8; 35],
    /// Record format, 0.
    pub recfmt: U16,
    reserved42: [u8; 22],
}

const _: () = assert!(offset_of!(DisconnectCommand, recfmt) == 40);

same_bytes_as_an_entry!(DisconnectCommand);

impl DisconnectCommand {
    /// The command, which has no parameters.
    #[must_use]
    pub fn new() -> Self {
        Self { opcode: FABRICS, fctype: fctype::DISCONNECT, ..Self::new_zeroed() }
    }
}

impl Default for DisconnectCommand {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SubmissionQueueEntry, registers};

    #[test]
    fn a_property_get_is_the_entry_the_specification_describes() {
        let entry = SubmissionQueueEntry::from(PropertyGet::new64(registers::CAP));
        assert_eq!((entry.opcode, entry.fctype()), (0x7f, fctype::PROPERTY_GET));
        assert_eq!((entry.cdw10.get(), entry.cdw11.get()), (1, 0));
        let entry = SubmissionQueueEntry::from(PropertyGet::new32(registers::CSTS));
        assert_eq!((entry.cdw10.get(), entry.cdw11.get()), (0, 0x1c));
    }

    #[test]
    fn a_property_set_carries_its_value_in_dwords_12_and_13() {
        let set = PropertySet::new64(registers::ASQ, 0x1122_3344_5566_7788);
        let entry = SubmissionQueueEntry::from(set);
        assert_eq!((entry.cdw12.get(), entry.cdw13.get()), (0x5566_7788, 0x1122_3344));
        assert_eq!(PropertySet::from(&entry), set);
        assert_eq!(PropertySet::new32(registers::CC, u32::MAX).value.get(), u64::from(u32::MAX));
    }

    #[test]
    fn reserved_property_sizes_are_refused() {
        let mut get = PropertyGet::new32(0);
        let sizes = (0..8).map(|attrib| {
            get.attrib = attrib;
            get.size()
        });
        assert_eq!(sizes.collect::<Vec<_>>(), [Some(4), Some(8), None, None, None, None, None, None]);
    }
}
