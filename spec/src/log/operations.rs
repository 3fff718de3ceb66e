//! Log pages about long operations: self-test, sanitize, telemetry (NVMe Base 2.0, 5.16.1).

use core::mem::{offset_of, size_of};
use std::borrow::Cow;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::identify::zeroed_default;
use crate::text;

/// Device Self-test, log page 06h.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DeviceSelfTestLog {
    /// Current operation in bits 3:0: [`Self::SHORT`] and its siblings.
    pub current_operation: u8,
    /// Current completion in percent, bits 6:0.
    pub current_completion: u8,
    reserved2: [u8; 2],
    /// The last results, newest first; those that were never filled have the result [`SelfTestResult::UNUSED`].
    pub results: [SelfTestResult; 20],
}

const _: () = assert!(size_of::<DeviceSelfTestLog>() == 564);

zeroed_default!(DeviceSelfTestLog);

impl DeviceSelfTestLog {
    /// Current operation, and self-test code of a result: none in progress.
    pub const NONE: u8 = 0x0;
    /// A short self-test.
    pub const SHORT: u8 = 0x1;
    /// An extended self-test.
    pub const EXTENDED: u8 = 0x2;
    /// Self-test code of the command: abort the self-test.
    pub const ABORT: u8 = 0xf;
}

/// One result in the Device Self-test log (NVMe Base 2.0, figure 215).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SelfTestResult {
    /// Result in bits 3:0 ([`Self::result`]), self-test code in bits 7:4 ([`Self::code`]).
    pub status: u8,
    /// The first segment that failed.
    pub segment: u8,
    /// Which of the following fields are valid: NSID in bit 0, LBA 1, status code type 2, status code 3.
    pub valid: u8,
    reserved3: u8,
    /// Power-on hours when it ended.
    pub power_on_hours: U64,
    /// Namespace that failed.
    pub nsid: U32,
    /// LBA that failed.
    pub failing_lba: U64,
    /// Status code type of the failure, bits 2:0.
    pub status_code_type: u8,
    /// Status code of the failure.
    pub status_code: u8,
    /// The vendor's.
    pub vs: U16,
}

const _: () = assert!(size_of::<SelfTestResult>() == 28);

impl SelfTestResult {
    /// Result: completed without error.
    pub const PASSED: u8 = 0x0;
    /// Result: aborted by a Device Self-test command.
    pub const ABORTED_BY_COMMAND: u8 = 0x1;
    /// Result: aborted by a controller level reset.
    pub const ABORTED_BY_RESET: u8 = 0x2;
    /// Result: aborted because a namespace was removed.
    pub const ABORTED_BY_NAMESPACE_REMOVAL: u8 = 0x3;
    /// Result: aborted by Format NVM.
    pub const ABORTED_BY_FORMAT: u8 = 0x4;
    /// Result: aborted by a sanitize operation.
    pub const ABORTED_BY_SANITIZE: u8 = 0x9;
    /// Result: the entry was never filled.
    pub const UNUSED: u8 = 0xf;

    /// How it ended.
    #[must_use]
    pub const fn result(&self) -> u8 {
        self.status & 0xf
    }

    /// Which self-test it was.
    #[must_use]
    pub const fn code(&self) -> u8 {
        self.status >> 4
    }
}

/// Sanitize Status, log page 81h.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SanitizeLog {
    /// Sanitize progress: the fraction done, in 65536ths; FFFFh when none is in progress.
    pub sprog: U16,
    /// Sanitize status: [`Self::status`], overwrite passes done in bits 7:3, global data erased in bit 8.
    pub sstat: U16,
    /// CDW10 of the Sanitize command that started the last operation.
    pub scdw10: U32,
    /// Estimated time of an overwrite in seconds; all ones when it is not reported.
    pub overwrite_time: U32,
    /// Estimated time of a block erase in seconds.
    pub block_erase_time: U32,
    /// Estimated time of a crypto erase in seconds.
    pub crypto_erase_time: U32,
    /// Estimated time of an overwrite with No-Deallocate After Sanitize, in seconds.
    pub overwrite_no_deallocate_time: U32,
    /// Estimated time of a block erase with No-Deallocate After Sanitize, in seconds.
    pub block_erase_no_deallocate_time: U32,
    /// Estimated time of a crypto erase with No-Deallocate After Sanitize, in seconds.
    pub crypto_erase_no_deallocate_time: U32,
    reserved32: [u8; 480],
}

const _: () = assert!(size_of::<SanitizeLog>() == 512);
const _: () = assert!(offset_of!(SanitizeLog, crypto_erase_no_deallocate_time) == 28);

zeroed_default!(SanitizeLog);

impl SanitizeLog {
    /// Status: never sanitized.
    pub const NEVER: u8 = 0;
    /// Status: the last operation succeeded.
    pub const SUCCEEDED: u8 = 1;
    /// Status: an operation is in progress.
    pub const IN_PROGRESS: u8 = 2;
    /// Status: the last operation failed.
    pub const FAILED: u8 = 3;
    /// Status: the last operation succeeded, and blocks were deallocated though that was not asked for.
    pub const SUCCEEDED_UNEXPECTED_DEALLOCATION: u8 = 4;
    /// SSTAT: nothing was written since the drive was made or last sanitized.
    pub const GLOBAL_DATA_ERASED: u16 = 1 << 8;

    /// How the last operation ended, or that it goes on.
    #[must_use]
    pub const fn status(&self) -> u8 {
        (self.sstat.get() & 0x7) as u8
    }
}

/// What a Telemetry log (07h and 08h) begins with; data blocks of 512 bytes follow.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TelemetryHeader {
    /// The log page identifier.
    pub lid: u8,
    reserved1: [u8; 4],
    /// IEEE OUI of the vendor.
    pub ieee: [u8; 3],
    /// The last data block of data area 1; 0 when it is empty.
    pub data_area_1_last: U16,
    /// The last data block of data area 2.
    pub data_area_2_last: U16,
    /// The last data block of data area 3.
    pub data_area_3_last: U16,
    reserved14: [u8; 2],
    /// The last data block of data area 4.
    pub data_area_4_last: U32,
    reserved20: [u8; 361],
    /// Host-initiated data generation number.
    pub host_generation: u8,
    /// Whether there is controller-initiated data.
    pub controller_available: u8,
    /// Controller-initiated data generation number.
    pub controller_generation: u8,
    /// Why the data was captured; the vendor's.
    pub reason: [u8; 128],
}

const _: () = assert!(size_of::<TelemetryHeader>() == 512);
const _: () = assert!(offset_of!(TelemetryHeader, data_area_1_last) == 8);
const _: () = assert!(offset_of!(TelemetryHeader, controller_available) == 382);
const _: () = assert!(offset_of!(TelemetryHeader, reason) == 384);

zeroed_default!(TelemetryHeader);

impl TelemetryHeader {
    /// Bytes of a data block.
    pub const BLOCK: usize = 512;

    /// Why the data was captured, as text, which many vendors make it.
    #[must_use]
    pub fn reason(&self) -> Cow<'_, str> {
        text::terminated(&self.reason)
    }

    /// The last data block of data areas 1 to `area`, of 4.
    #[must_use]
    pub fn last_block(&self, area: u8) -> u32 {
        let lasts = [
            self.data_area_1_last.get().into(),
            self.data_area_2_last.get().into(),
            self.data_area_3_last.get().into(),
            self.data_area_4_last.get(),
        ];
        lasts.into_iter().take(area.into()).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_hold_two_numbers_in_a_byte() {
        let result = SelfTestResult { status: 0x21, ..Default::default() };
        let (passed, aborted) = (SelfTestResult::PASSED, SelfTestResult::ABORTED_BY_COMMAND);
        assert_eq!((result.result(), result.code()), (aborted, DeviceSelfTestLog::EXTENDED));
        assert_ne!(result.result(), passed);
    }

    #[test]
    fn the_state_of_sanitize_is_in_three_bits() {
        let log = SanitizeLog { sstat: 0x010a.into(), ..Default::default() };
        assert_eq!(log.status(), SanitizeLog::IN_PROGRESS);
    }
}
