//! The parameters of Get Log Page (NVMe Base 2.0, 5.16).

use crate::{SubmissionQueueEntry, opcode};

/// What a Get Log Page command asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GetLogPage {
    /// Log page identifier.
    pub lid: u8,
    /// Log specific parameter, 7 bits.
    pub lsp: u8,
    /// Retain asynchronous event: reading does not clear the event.
    pub rae: bool,
    /// Number of dwords, 0's based. Its upper half counts only where LPA has extended data.
    pub numd: u32,
    /// Log specific identifier.
    pub lsi: u16,
    /// Log page offset, in bytes or as an index ([`Self::offset_is_index`]).
    pub lpo: u64,
    /// UUID index, 7 bits.
    pub uuid_index: u8,
    /// OT: the offset counts entries instead of bytes.
    pub offset_is_index: bool,
    /// Command set identifier.
    pub csi: u8,
}

impl GetLogPage {
    /// Asks for `length` bytes of a log page from its start, without clearing its event. `length` is rounded
    /// up to whole dwords, of which there is at least one.
    #[must_use]
    pub const fn new(lid: u8, length: u32) -> Self {
        Self {
            lid,
            lsp: 0,
            rae: true,
            numd: length.div_ceil(4).saturating_sub(1),
            lsi: 0,
            lpo: 0,
            uuid_index: 0,
            offset_is_index: false,
            csi: 0,
        }
    }

    /// How many bytes the command transfers: 4 to 16 GiB.
    #[must_use]
    pub const fn length(&self) -> u64 {
        (self.numd as u64 + 1) * 4
    }
}

impl From<&SubmissionQueueEntry> for GetLogPage {
    /// The parameters in a command. The opcode is not checked.
    fn from(entry: &SubmissionQueueEntry) -> Self {
        let (cdw10, cdw11, cdw14) = (entry.cdw10.get(), entry.cdw11.get(), entry.cdw14.get());
        Self {
            lid: cdw10 as u8,
            lsp: (cdw10 >> 8) as u8 & 0x7f,
            rae: cdw10 & 1 << 15 != 0,
            numd: cdw10 >> 16 | cdw11 << 16,
            lsi: (cdw11 >> 16) as u16,
            lpo: u64::from(entry.cdw13.get()) << 32 | u64::from(entry.cdw12.get()),
            uuid_index: cdw14 as u8 & 0x7f,
            offset_is_index: cdw14 & 1 << 23 != 0,
            csi: (cdw14 >> 24) as u8,
        }
    }
}

impl From<GetLogPage> for SubmissionQueueEntry {
    /// The command, without namespace, identifier and data pointer.
    fn from(get: GetLogPage) -> Self {
        let mut entry = Self::new(opcode::admin::GET_LOG_PAGE);
        let lsp = u32::from(get.lsp & 0x7f) << 8;
        entry.cdw10.set(get.numd << 16 | u32::from(get.rae) << 15 | lsp | u32::from(get.lid));
        entry.cdw11.set(u32::from(get.lsi) << 16 | get.numd >> 16);
        entry.cdw12.set(get.lpo as u32);
        entry.cdw13.set((get.lpo >> 32) as u32);
        let offset_type = u32::from(get.offset_is_index) << 23;
        entry.cdw14.set(u32::from(get.csi) << 24 | offset_type | u32::from(get.uuid_index & 0x7f));
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::lid;

    #[test]
    fn every_parameter_survives_the_command() {
        let get = GetLogPage {
            lid: lid::PERSISTENT_EVENT,
            lsp: 0x7f,
            rae: true,
            numd: 0x1234_5678,
            lsi: 0x9abc,
            lpo: 0x1122_3344_5566_7788,
            uuid_index: 0x7f,
            offset_is_index: true,
            csi: 2,
        };
        let entry = SubmissionQueueEntry::from(get);
        assert_eq!(entry.opcode, 2);
        assert_eq!(entry.cdw10.get(), 0x5678_ff0d);
        assert_eq!(entry.cdw11.get(), 0x9abc_1234);
        assert_eq!(entry.cdw14.get(), 0x0280_007f);
        assert_eq!(GetLogPage::from(&entry), get);
    }

    #[test]
    fn the_length_is_in_whole_dwords_and_does_not_overflow() {
        assert_eq!(GetLogPage::new(lid::SMART, 512).length(), 512);
        assert_eq!(GetLogPage::new(lid::SMART, 510).length(), 512);
        assert_eq!(GetLogPage::new(lid::SMART, 0).length(), 4);
        let longest = GetLogPage { numd: u32::MAX, ..GetLogPage::default() };
        assert_eq!(longest.length(), 1 << 34);
    }
}
