//! The scatter gather list descriptor (NVMe Base 2.0, 4.1.2).

use core::fmt;
use core::mem::size_of;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// One SGL descriptor in its common form: address, length and a type with a subtype.
///
/// Keyed descriptors (type 4h) lay the middle out differently; they belong to RDMA.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SglDescriptor {
    /// Address, or offset into the capsule's data with [`Self::SUBTYPE_OFFSET`].
    pub address: U64,
    /// Length in bytes.
    pub length: U32,
    /// Zero.
    pub reserved: [u8; 3],
    /// Type in bits 7:4, subtype in bits 3:0.
    pub identifier: u8,
}

const _: () = assert!(size_of::<SglDescriptor>() == 16);

impl SglDescriptor {
    /// Type: data block.
    pub const TYPE_DATA_BLOCK: u8 = 0x0;
    /// Type: bit bucket, data that is thrown away.
    pub const TYPE_BIT_BUCKET: u8 = 0x1;
    /// Type: segment, the address of further descriptors.
    pub const TYPE_SEGMENT: u8 = 0x2;
    /// Type: last segment.
    pub const TYPE_LAST_SEGMENT: u8 = 0x3;
    /// Type: keyed data block.
    pub const TYPE_KEYED_DATA_BLOCK: u8 = 0x4;
    /// Type: transport data block, data that the transport moves by its own means.
    pub const TYPE_TRANSPORT_DATA_BLOCK: u8 = 0x5;
    /// Type: the vendor's.
    pub const TYPE_VENDOR: u8 = 0xf;

    /// Subtype: the address is an address.
    pub const SUBTYPE_ADDRESS: u8 = 0x0;
    /// Subtype: the address is an offset into the capsule's data.
    pub const SUBTYPE_OFFSET: u8 = 0x1;
    /// Subtype: specific to the transport. The one that NVMe/TCP uses with transport data blocks.
    pub const SUBTYPE_TRANSPORT: u8 = 0xa;

    /// The identifier of data inside the capsule: data block with an offset.
    pub const IDENTIFIER_IN_CAPSULE: u8 = (Self::TYPE_DATA_BLOCK << 4) | Self::SUBTYPE_OFFSET;
    /// The identifier of data that NVMe/TCP moves with its own PDUs.
    pub const IDENTIFIER_TRANSPORT: u8 = (Self::TYPE_TRANSPORT_DATA_BLOCK << 4) | Self::SUBTYPE_TRANSPORT;

    /// `length` bytes that follow the command in its capsule.
    #[must_use]
    pub const fn in_capsule(length: u32) -> Self {
        Self::with(length, Self::IDENTIFIER_IN_CAPSULE)
    }

    /// `length` bytes that the transport moves; 0 for a command without data.
    #[must_use]
    pub const fn transport(length: u32) -> Self {
        Self::with(length, Self::IDENTIFIER_TRANSPORT)
    }

    const fn with(length: u32, identifier: u8) -> Self {
        Self { address: U64::ZERO, length: U32::new(length), reserved: [0; 3], identifier }
    }

    /// The descriptor's type, bits 7:4 of the identifier.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        self.identifier >> 4
    }

    /// The descriptor's subtype, bits 3:0 of the identifier.
    #[must_use]
    pub const fn subtype(&self) -> u8 {
        self.identifier & 0xf
    }
}

impl fmt::Display for SglDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.length.get();
        match self.identifier {
            Self::IDENTIFIER_IN_CAPSULE => {
                write!(f, "{length} bytes in capsule at {:X}h", self.address.get())
            }
            Self::IDENTIFIER_TRANSPORT => write!(f, "{length} bytes by transport"),
            other => write!(f, "type {other:02X}h, {length} bytes at {:X}h", self.address.get()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_descriptors_of_nvme_tcp_have_their_identifiers() {
        let inline = SglDescriptor::in_capsule(512);
        assert_eq!(inline.as_bytes(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0x01]);
        assert_eq!((inline.kind(), inline.subtype()), (0, 1));
        let transport = SglDescriptor::transport(0);
        assert_eq!(transport.identifier, 0x5a);
        assert_eq!((transport.kind(), transport.subtype()), (5, 0xa));
    }

    #[test]
    fn a_person_can_read_a_descriptor() {
        assert_eq!(SglDescriptor::in_capsule(512).to_string(), "512 bytes in capsule at 0h");
        assert_eq!(SglDescriptor::transport(8).to_string(), "8 bytes by transport");
        let keyed = SglDescriptor { identifier: 0x4f, ..SglDescriptor::transport(1) };
        assert_eq!(keyed.to_string(), "type 4Fh, 1 bytes at 0h");
    }
}
