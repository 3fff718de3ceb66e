//! The messages of vfio-user 0.x, as far as they are used here.
//!
//! They are the structures of the kernel's VFIO interface behind a header. Both ends are on one machine, so fields have
//! that machine's byte order.

use std::mem::size_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The version of the protocol that is spoken.
pub(super) const MAJOR: u16 = 0;
/// Its minor version; a lower one of the peer is fine.
pub(super) const MINOR: u16 = 1;

/// Bytes of the longest message that is sent or taken: a header and this much. Registers are small.
pub(super) const LONGEST_PAYLOAD: usize = 64 << 10;

/// File descriptors that come with a message, at most.
pub(super) const MOST_FILES: usize = 64;

/// Numbers of the commands.
pub(super) mod command {
    pub(in crate::vfio_user) const VERSION: u16 = 1;
    pub(in crate::vfio_user) const DMA_MAP: u16 = 2;
    pub(in crate::vfio_user) const DMA_UNMAP: u16 = 3;
    pub(in crate::vfio_user) const DEVICE_GET_INFO: u16 = 4;
    pub(in crate::vfio_user) const DEVICE_GET_REGION_INFO: u16 = 5;
    pub(in crate::vfio_user) const DEVICE_GET_IRQ_INFO: u16 = 7;
    pub(in crate::vfio_user) const DEVICE_SET_IRQS: u16 = 8;
    pub(in crate::vfio_user) const REGION_READ: u16 = 9;
    pub(in crate::vfio_user) const REGION_WRITE: u16 = 10;
    pub(in crate::vfio_user) const DEVICE_RESET: u16 = 13;
}

/// What precedes every message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Header {
    /// Chosen by who sends the command, repeated in the reply.
    pub(super) id: u16,
    pub(super) command: u16,
    /// Bytes of the message, this header included.
    pub(super) size: u32,
    pub(super) flags: u32,
    /// In a reply with [`Header::ERROR`]: an `errno`.
    pub(super) error: u32,
}

impl Header {
    /// Bits 3:0 of the flags: 0 for a command, 1 for a reply.
    pub(super) const TYPE: u32 = 0xf;
    pub(super) const REPLY: u32 = 1;
    /// In a command: the sender wants no reply.
    pub(super) const NO_REPLY: u32 = 1 << 4;
    pub(super) const ERROR: u32 = 1 << 5;

    pub(super) fn is_reply(&self) -> bool {
        self.flags & Self::TYPE == Self::REPLY
    }
}

/// Bytes of a [`Header`].
pub(super) const HEADER_LEN: usize = size_of::<Header>();

/// `VERSION`; a JSON text with capabilities and a zero byte follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Version {
    pub(super) major: u16,
    pub(super) minor: u16,
}

/// `DMA_MAP`; the memory is in the file that comes with it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct DmaMap {
    pub(super) argsz: u32,
    pub(super) flags: u32,
    /// Where the memory begins in the file.
    pub(super) offset: u64,
    pub(super) address: u64,
    pub(super) size: u64,
}

impl DmaMap {
    /// The device may read.
    pub(super) const READ: u32 = 1 << 0;
    /// The device may write.
    pub(super) const WRITE: u32 = 1 << 1;
}

/// `DMA_UNMAP`, and its reply.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct DmaUnmap {
    pub(super) argsz: u32,
    pub(super) flags: u32,
    pub(super) address: u64,
    pub(super) size: u64,
}

/// `DEVICE_GET_INFO` and its reply (`vfio_device_info`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct DeviceInfo {
    pub(super) argsz: u32,
    pub(super) flags: u32,
    pub(super) regions: u32,
    pub(super) irqs: u32,
}

/// `DEVICE_GET_REGION_INFO` and its reply (`vfio_region_info`); capabilities follow.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RegionInfo {
    pub(super) argsz: u32,
    pub(super) flags: u32,
    pub(super) index: u32,
    pub(super) capabilities: u32,
    pub(super) size: u64,
    pub(super) offset: u64,
}

/// `DEVICE_GET_IRQ_INFO` and its reply (`vfio_irq_info`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct IrqInfo {
    pub(super) argsz: u32,
    pub(super) flags: u32,
    pub(super) index: u32,
    pub(super) count: u32,
}

/// `DEVICE_SET_IRQS` (`vfio_irq_set`); eventfds come as files, one for each vector.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct IrqSet {
    pub(super) argsz: u32,
    pub(super) flags: u32,
    pub(super) index: u32,
    pub(super) start: u32,
    pub(super) count: u32,
}

/// `REGION_READ`, `REGION_WRITE` and their replies; the data follow in a write and in the reply to a read.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RegionAccess {
    pub(super) offset: u64,
    pub(super) region: u32,
    pub(super) count: u32,
}

const _: () = {
    assert!(size_of::<Header>() == 16);
    assert!(size_of::<Version>() == 4);
    assert!(size_of::<DmaMap>() == 32);
    assert!(size_of::<DmaUnmap>() == 24);
    assert!(size_of::<DeviceInfo>() == 16);
    assert!(size_of::<RegionInfo>() == 32);
    assert!(size_of::<IrqInfo>() == 16);
    assert!(size_of::<IrqSet>() == 20);
    assert!(size_of::<RegionAccess>() == 16);
};
