//! Structures of log pages (NVMe Base 2.0, 5.16.1).

use core::fmt;
use core::mem::{offset_of, size_of};
use std::borrow::Cow;

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Status;
use crate::identify::zeroed_default;
use crate::text;

/// SMART / Health Information, log page 02h.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SmartLog {
    /// Critical warning: see [`Self::WARNING_SPARE`] and its siblings.
    pub critical_warning: u8,
    /// Composite temperature in kelvin.
    pub composite_temperature: U16,
    /// Available spare in percent.
    pub available_spare: u8,
    /// Available spare threshold in percent.
    pub available_spare_threshold: u8,
    /// Percentage of the life used; may exceed 100, 255 stands for more.
    pub percentage_used: u8,
    /// Endurance group critical warning summary.
    pub endurance_group_critical_warning: u8,
    reserved7: [u8; 25],
    /// Data read, in units of 512,000 bytes.
    pub data_units_read: U128,
    /// Data written, in units of 512,000 bytes.
    pub data_units_written: U128,
    /// Read commands completed.
    pub host_read_commands: U128,
    /// Write commands completed.
    pub host_write_commands: U128,
    /// Time with I/O commands outstanding, in minutes.
    pub controller_busy_time: U128,
    /// Power cycles.
    pub power_cycles: U128,
    /// Power-on hours.
    pub power_on_hours: U128,
    /// Shutdowns without notification.
    pub unsafe_shutdowns: U128,
    /// Unrecovered data integrity errors.
    pub media_errors: U128,
    /// Error log entries over the life of the controller.
    pub error_log_entries: U128,
    /// Time above the warning temperature, in minutes.
    pub warning_temperature_time: U32,
    /// Time above the critical temperature, in minutes.
    pub critical_temperature_time: U32,
    /// Temperature sensors in kelvin; 0 where there is none.
    pub temperature_sensors: [U16; 8],
    /// Transitions to thermal management temperature 1.
    pub thermal_management_1_count: U32,
    /// Transitions to thermal management temperature 2.
    pub thermal_management_2_count: U32,
    /// Time in thermal management temperature 1, in seconds.
    pub thermal_management_1_time: U32,
    /// Time in thermal management temperature 2, in seconds.
    pub thermal_management_2_time: U32,
    reserved232: [u8; 280],
}

const _: () = assert!(size_of::<SmartLog>() == 512);
const _: () = assert!(offset_of!(SmartLog, data_units_read) == 32);
const _: () = assert!(offset_of!(SmartLog, error_log_entries) == 176);
const _: () = assert!(offset_of!(SmartLog, warning_temperature_time) == 192);
const _: () = assert!(offset_of!(SmartLog, thermal_management_1_count) == 216);

zeroed_default!(SmartLog);

impl SmartLog {
    /// Critical warning: available spare is below its threshold.
    pub const WARNING_SPARE: u8 = 1 << 0;
    /// Critical warning: a temperature is beyond a threshold.
    pub const WARNING_TEMPERATURE: u8 = 1 << 1;
    /// Critical warning: reliability is degraded.
    pub const WARNING_RELIABILITY: u8 = 1 << 2;
    /// Critical warning: all media is read only.
    pub const WARNING_READ_ONLY: u8 = 1 << 3;
    /// Critical warning: the volatile memory backup has failed.
    pub const WARNING_VOLATILE_BACKUP: u8 = 1 << 4;
    /// Critical warning: the persistent memory region is read only or unreliable.
    pub const WARNING_PMR: u8 = 1 << 5;

    /// Composite temperature in degrees Celsius; `None` when the drive reports none (0 kelvin).
    #[must_use]
    pub fn celsius(&self) -> Option<i32> {
        match self.composite_temperature.get() {
            0 => None,
            kelvin => Some(i32::from(kelvin) - 273),
        }
    }
}

impl fmt::Debug for SmartLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmartLog")
            .field("critical_warning", &self.critical_warning)
            .field("celsius", &self.celsius())
            .field("available_spare", &self.available_spare)
            .field("percentage_used", &self.percentage_used)
            .field("data_units_read", &self.data_units_read.get())
            .field("data_units_written", &self.data_units_written.get())
            .field("power_on_hours", &self.power_on_hours.get())
            .field("media_errors", &self.media_errors.get())
            .finish_non_exhaustive()
    }
}

/// One entry of Error Information, log page 01h.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ErrorLogEntry {
    /// Counts errors over the life of the controller; 0 in an invalid entry.
    pub error_count: U64,
    /// Submission queue of the command, FFFFh when it belongs to none.
    pub sqid: U16,
    /// Identifier of the command, FFFFh when it belongs to none.
    pub cid: U16,
    /// Status as in the completion, phase tag included ([`Self::status`]).
    pub status_field: U16,
    /// Byte in bits 7:0 and bit in bits 10:8 of the wrong parameter, FFFFh when it is none.
    pub parameter_error_location: U16,
    /// First block that had the error.
    pub lba: U64,
    /// Namespace of the command.
    pub nsid: U32,
    /// Whether there is vendor specific information: its log page.
    pub vendor_specific: u8,
    /// Transport type.
    pub trtype: u8,
    /// Command set identifier of the command.
    pub csi: u8,
    /// Opcode of the command.
    pub opcode: u8,
    /// Specific to the command.
    pub command_specific: U64,
    /// Specific to the transport.
    pub transport_specific: U16,
    reserved42: [u8; 21],
    /// Log page version: 1 where CSI and opcode are valid.
    pub version: u8,
}

const _: () = assert!(size_of::<ErrorLogEntry>() == 64);
const _: () = assert!(offset_of!(ErrorLogEntry, lba) == 16);
const _: () = assert!(offset_of!(ErrorLogEntry, command_specific) == 32);
const _: () = assert!(offset_of!(ErrorLogEntry, version) == 63);

impl ErrorLogEntry {
    /// The status, without the phase tag.
    #[must_use]
    pub const fn status(&self) -> Status {
        Status::from_bits(self.status_field.get() >> 1)
    }
}

/// Firmware Slot Information, log page 03h.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FirmwareSlotLog {
    /// Active firmware info: active slot in bits 2:0, slot after the next reset in bits 6:4.
    pub afi: u8,
    reserved1: [u8; 7],
    /// Firmware revisions of slots 1 to 7, ASCII padded with spaces; zero when empty.
    pub frs: [[u8; 8]; 7],
    reserved64: [u8; 448],
}

const _: () = assert!(size_of::<FirmwareSlotLog>() == 512);
const _: () = assert!(offset_of!(FirmwareSlotLog, frs) == 8);

zeroed_default!(FirmwareSlotLog);

impl FirmwareSlotLog {
    /// The slot whose firmware runs, 1 to 7.
    #[must_use]
    pub const fn active_slot(&self) -> u8 {
        self.afi & 0x7
    }

    /// The slot that the next reset activates, 1 to 7; 0 when it is not reported.
    #[must_use]
    pub const fn next_slot(&self) -> u8 {
        self.afi >> 4 & 0x7
    }

    /// The firmware revision in `slot`, 1 to 7; `None` when there is no such slot or it is empty.
    #[must_use]
    pub fn revision(&self, slot: u8) -> Option<Cow<'_, str>> {
        let field = self.frs.get(usize::from(slot).checked_sub(1)?)?;
        let revision = text::padded(field);
        if revision.is_empty() { None } else { Some(revision) }
    }

    /// Sets the firmware revision of `slot`, cut to 8 bytes. Slots other than 1 to 7 do not exist and are
    /// ignored.
    pub fn set_revision(&mut self, slot: u8, revision: &str) {
        if let Some(field) = usize::from(slot).checked_sub(1).and_then(|index| self.frs.get_mut(index)) {
            text::fill(field, revision, b' ');
        }
    }
}

impl fmt::Debug for FirmwareSlotLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = (1..=7).filter_map(|slot| Some((slot, self.revision(slot)?)));
        f.debug_struct("FirmwareSlotLog")
            .field("active_slot", &self.active_slot())
            .field("next_slot", &self.next_slot())
            .field("revisions", &slots.collect::<Vec<_>>())
            .finish()
    }
}

/// Commands Supported and Effects, log page 05h. Entries are [`CommandEffects`](super::CommandEffects).
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommandsSupportedAndEffectsLog {
    /// Effects of admin commands by opcode.
    pub admin: [U32; 256],
    /// Effects of I/O commands by opcode.
    pub io: [U32; 256],
    reserved2048: [u8; 2048],
}

const _: () = assert!(size_of::<CommandsSupportedAndEffectsLog>() == 4096);
const _: () = assert!(offset_of!(CommandsSupportedAndEffectsLog, io) == 1024);

zeroed_default!(CommandsSupportedAndEffectsLog);

impl CommandsSupportedAndEffectsLog {
    /// Effects of the admin command `opcode`.
    #[must_use]
    pub const fn admin_effects(&self, opcode: u8) -> super::CommandEffects {
        super::CommandEffects::from_bits(self.admin[opcode as usize].get())
    }

    /// Effects of the I/O command `opcode`.
    #[must_use]
    pub const fn io_effects(&self, opcode: u8) -> super::CommandEffects {
        super::CommandEffects::from_bits(self.io[opcode as usize].get())
    }
}

impl fmt::Debug for CommandsSupportedAndEffectsLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let supported = |entries: &[U32; 256]| -> Vec<usize> {
            (0..256).filter(|&opcode| entries[opcode].get() & 1 != 0).collect()
        };
        f.debug_struct("CommandsSupportedAndEffectsLog")
            .field("admin", &supported(&self.admin))
            .field("io", &supported(&self.io))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temperature_that_is_not_reported_is_none() {
        let mut smart = SmartLog::default();
        assert_eq!(smart.celsius(), None);
        smart.composite_temperature.set(310);
        assert_eq!(smart.celsius(), Some(37));
        assert_eq!(smart.as_bytes()[1..3], [0x36, 0x01]);
    }

    #[test]
    fn counters_of_128_bits_are_read_from_the_bytes_of_a_drive() {
        let mut bytes = [0; 512];
        bytes[48] = 2;
        bytes[48 + 15] = 1;
        let smart = SmartLog::read_from_bytes(&bytes).unwrap();
        assert_eq!(smart.data_units_written.get(), 1 << 120 | 2);
    }

    #[test]
    fn an_error_entry_gives_the_status_without_the_phase() {
        let mut entry = ErrorLogEntry::default();
        entry.status_field.set(Status::LBA_OUT_OF_RANGE.with_dnr().bits() << 1 | 1);
        assert_eq!(entry.status(), Status::LBA_OUT_OF_RANGE.with_dnr());
    }

    #[test]
    fn firmware_slots_count_from_one() {
        let mut log = FirmwareSlotLog { afi: 0x21, ..Default::default() };
        log.set_revision(1, "1.0");
        log.set_revision(7, "123456789");
        log.set_revision(0, "none");
        log.set_revision(8, "none");
        assert_eq!((log.active_slot(), log.next_slot()), (1, 2));
        assert_eq!(log.revision(1).as_deref(), Some("1.0"));
        assert_eq!(log.revision(7).as_deref(), Some("12345678"));
        for slot in [0, 2, 8, 255] {
            assert_eq!(log.revision(slot), None);
        }
        assert_eq!(log.as_bytes()[8..16], *b"1.0     ");
    }

    #[test]
    fn effects_are_found_by_opcode() {
        let mut log = CommandsSupportedAndEffectsLog::default();
        log.io[1].set(3);
        assert!(log.io_effects(1).supported() && log.io_effects(1).logical_block_content_change());
        assert!(!log.admin_effects(1).supported());
        assert_eq!(log.as_bytes()[1024 + 4], 3);
    }
}
