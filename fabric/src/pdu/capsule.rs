//! Command and response capsules (sections 3.6.2.6 and 3.6.2.7).

use gangway_spec::{CompletionQueueEntry, SubmissionQueueEntry};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{CommonHeader, Layout, PduFlags, PduType};

/// A command capsule's header; in-capsule data may follow.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct CapsuleCmd {
    /// HLEN is 72.
    pub header: CommonHeader,
    /// The command.
    pub entry: SubmissionQueueEntry,
}

const _: () = assert!(size_of::<CapsuleCmd>() == 72);

impl CapsuleCmd {
    /// The capsule of `entry` with `in_capsule` bytes of data, for a controller that answered `cpda`.
    pub fn new(entry: SubmissionQueueEntry, cpda: u8, in_capsule: u32) -> Self {
        let header = if in_capsule == 0 {
            CommonHeader::bare(PduType::CAPSULE_CMD, 72)
        } else {
            let layout = Layout::new(72, cpda, in_capsule);
            CommonHeader::with_data(PduType::CAPSULE_CMD, PduFlags::empty(), 72, layout)
        };
        Self { header, entry }
    }
}

/// A response capsule.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct CapsuleResp {
    /// HLEN and PLEN are 24.
    pub header: CommonHeader,
    /// The completion.
    pub entry: CompletionQueueEntry,
}

const _: () = assert!(size_of::<CapsuleResp>() == 24);

impl CapsuleResp {
    /// The capsule of `entry`.
    pub fn new(entry: CompletionQueueEntry) -> Self {
        Self { header: CommonHeader::bare(PduType::CAPSULE_RESP, 24), entry }
    }
}
