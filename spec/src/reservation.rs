//! Reservations: their commands, what they transfer, and the log page that tells of them (NVMe Base 2.0, 7.2 to 7.5
//! and 8.19).

use core::fmt;
use core::mem::{offset_of, size_of};

use bitflags::bitflags;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::SubmissionQueueEntry;
use crate::identify::zeroed_default;

/// Who may do what while a namespace is reserved. Each discriminant is the value of RTYPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReservationType {
    /// The holder may write; everybody may read.
    WriteExclusive = 1,
    /// The holder may read and write.
    ExclusiveAccess = 2,
    /// Registrants may write; everybody may read. One of them is the holder.
    WriteExclusiveRegistrantsOnly = 3,
    /// Registrants may read and write. One of them is the holder.
    ExclusiveAccessRegistrantsOnly = 4,
    /// Registrants may write; everybody may read. All of them are holders.
    WriteExclusiveAllRegistrants = 5,
    /// Registrants may read and write. All of them are holders.
    ExclusiveAccessAllRegistrants = 6,
}

impl ReservationType {
    /// All there are, by value.
    pub const ALL: [Self; 6] = [
        Self::WriteExclusive,
        Self::ExclusiveAccess,
        Self::WriteExclusiveRegistrantsOnly,
        Self::ExclusiveAccessRegistrantsOnly,
        Self::WriteExclusiveAllRegistrants,
        Self::ExclusiveAccessAllRegistrants,
    ];

    /// The type of a value of RTYPE; `None` for 0, which is no reservation, and for values that have no meaning.
    #[must_use]
    pub fn from_value(value: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.value() == value)
    }

    /// The value of RTYPE.
    #[must_use]
    pub const fn value(self) -> u8 {
        self as u8
    }

    /// Whether every registrant holds the reservation.
    #[must_use]
    pub const fn is_all_registrants(self) -> bool {
        matches!(self, Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants)
    }

    /// Whether registrants may do what the holder may.
    #[must_use]
    pub const fn is_for_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Whether those who may not write may not read either.
    #[must_use]
    pub const fn excludes_reads(self) -> bool {
        matches!(
            self,
            Self::ExclusiveAccess
                | Self::ExclusiveAccessRegistrantsOnly
                | Self::ExclusiveAccessAllRegistrants
        )
    }
}

impl fmt::Display for ReservationType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WriteExclusive => "Write Exclusive",
            Self::ExclusiveAccess => "Exclusive Access",
            Self::WriteExclusiveRegistrantsOnly => "Write Exclusive - Registrants Only",
            Self::ExclusiveAccessRegistrantsOnly => "Exclusive Access - Registrants Only",
            Self::WriteExclusiveAllRegistrants => "Write Exclusive - All Registrants",
            Self::ExclusiveAccessAllRegistrants => "Exclusive Access - All Registrants",
        })
    }
}

bitflags! {
    /// RESCAP: what a namespace can do about reservations (NVM Command Set 1.0, 4.1.5.1).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Rescap: u8 {
        /// Reservations can persist through power loss.
        const PERSIST_THROUGH_POWER_LOSS = 1 << 0;
        /// Write Exclusive.
        const WRITE_EXCLUSIVE = 1 << 1;
        /// Exclusive Access.
        const EXCLUSIVE_ACCESS = 1 << 2;
        /// Write Exclusive - Registrants Only.
        const WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 1 << 3;
        /// Exclusive Access - Registrants Only.
        const EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 1 << 4;
        /// Write Exclusive - All Registrants.
        const WRITE_EXCLUSIVE_ALL_REGISTRANTS = 1 << 5;
        /// Exclusive Access - All Registrants.
        const EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 1 << 6;
        /// Ignore Existing Key is used as NVMe 1.3 defines it.
        const IGNORE_EXISTING_KEY_1_3 = 1 << 7;
    }
}

/// RREGA: what Reservation Register does.
pub mod rrega {
    /// Registers a key.
    pub const REGISTER: u8 = 0;
    /// Unregisters the host.
    pub const UNREGISTER: u8 = 1;
    /// Replaces the key of the host.
    pub const REPLACE: u8 = 2;
}

/// CPTPL: how Reservation Register changes whether reservations persist through power loss.
pub mod cptpl {
    /// Not at all.
    pub const NO_CHANGE: u8 = 0;
    /// They do not persist.
    pub const CLEAR: u8 = 2;
    /// They persist.
    pub const SET: u8 = 3;
}

/// RACQA: what Reservation Acquire does.
pub mod racqa {
    /// Acquires a reservation.
    pub const ACQUIRE: u8 = 0;
    /// Takes another host's reservation, registration or both away.
    pub const PREEMPT: u8 = 1;
    /// The same, and aborts that host's commands.
    pub const PREEMPT_AND_ABORT: u8 = 2;
}

/// RRELA: what Reservation Release does.
pub mod rrela {
    /// Releases the reservation.
    pub const RELEASE: u8 = 0;
    /// Releases the reservation and removes all registrants.
    pub const CLEAR: u8 = 1;
}

/// The parameters of Reservation Register (7.3), Acquire (7.2) and Release (7.4): all are in CDW10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservationParameters {
    /// RREGA, RACQA or RRELA.
    pub action: u8,
    /// IEKEY: the key of the host is not looked at.
    pub ignore_existing_key: bool,
    /// RTYPE; not in Register.
    pub rtype: u8,
    /// CPTPL; in Register only.
    pub cptpl: u8,
}

impl From<&SubmissionQueueEntry> for ReservationParameters {
    fn from(entry: &SubmissionQueueEntry) -> Self {
        let cdw10 = entry.cdw10.get();
        Self {
            action: cdw10 as u8 & 0x7,
            ignore_existing_key: cdw10 & 1 << 3 != 0,
            rtype: (cdw10 >> 8) as u8,
            cptpl: (cdw10 >> 30) as u8,
        }
    }
}

impl ReservationParameters {
    /// Puts the parameters into a command.
    pub fn apply(self, entry: &mut SubmissionQueueEntry) {
        let iekey = u32::from(self.ignore_existing_key) << 3;
        let rtype = u32::from(self.rtype) << 8;
        entry.cdw10.set(u32::from(self.cptpl & 0x3) << 30 | rtype | iekey | u32::from(self.action & 0x7));
    }
}

/// Bytes that Reservation Report transfers: NUMD of CDW10 is 0's based and in dwords (7.5).
#[must_use]
pub const fn report_length(entry: &SubmissionQueueEntry) -> u64 {
    (entry.cdw10.get() as u64 + 1) * 4
}

/// EDS: whether Reservation Report asks for the data structure with 128-bit host identifiers (CDW11 bit 0).
#[must_use]
pub const fn report_is_extended(entry: &SubmissionQueueEntry) -> bool {
    entry.cdw11.get() & 1 != 0
}

/// What Reservation Register brings.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ReservationRegisterData {
    /// CRKEY: the key that the host is registered with.
    pub crkey: U64,
    /// NRKEY: the key to register.
    pub nrkey: U64,
}

/// What Reservation Acquire brings.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ReservationAcquireData {
    /// CRKEY: the key that the host is registered with.
    pub crkey: U64,
    /// PRKEY: the key whose registrants are preempted.
    pub prkey: U64,
}

/// What Reservation Release brings.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ReservationReleaseData {
    /// CRKEY: the key that the host is registered with.
    pub crkey: U64,
}

const _: () = assert!(size_of::<ReservationRegisterData>() == 16);
const _: () = assert!(size_of::<ReservationAcquireData>() == 16);
const _: () = assert!(size_of::<ReservationReleaseData>() == 8);

/// The head of what Reservation Report returns when it is asked for 128-bit host identifiers. Registered controllers
/// follow.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ExtendedReservationStatus {
    /// GEN: rises with each change of the registrants.
    pub generation: U32,
    /// RTYPE; 0 when there is no reservation.
    pub rtype: u8,
    /// REGSTRNT: how many registered controllers there are, also when they did not fit.
    pub registered: U16,
    reserved7: [u8; 2],
    /// PTPLS: 1 when reservations persist through power loss.
    pub ptpls: u8,
    reserved10: [u8; 54],
}

const _: () = assert!(size_of::<ExtendedReservationStatus>() == 64);
const _: () = assert!(offset_of!(ExtendedReservationStatus, registered) == 5);
const _: () = assert!(offset_of!(ExtendedReservationStatus, ptpls) == 9);

zeroed_default!(ExtendedReservationStatus);

/// A controller whose host is a registrant, with its 128-bit host identifier.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ExtendedRegisteredController {
    /// CNTLID; FFFFh when the host has no controller now.
    pub cntlid: U16,
    /// RCSTS: bit 0 says that the host holds the reservation.
    pub rcsts: u8,
    reserved3: [u8; 5],
    /// RKEY: the key that the host is registered with.
    pub rkey: U64,
    /// HOSTID: the host.
    pub hostid: [u8; 16],
    reserved32: [u8; 32],
}

const _: () = assert!(size_of::<ExtendedRegisteredController>() == 64);
const _: () = assert!(offset_of!(ExtendedRegisteredController, rkey) == 8);
const _: () = assert!(offset_of!(ExtendedRegisteredController, hostid) == 16);

zeroed_default!(ExtendedRegisteredController);

impl ExtendedRegisteredController {
    /// CNTLID of a registrant without a controller.
    pub const NO_CONTROLLER: u16 = 0xffff;
}

/// What a page of the Reservation Notification log tells of.
pub mod notification {
    /// There is nothing to tell.
    pub const EMPTY: u8 = 0;
    /// The host is no registrant any more, because another preempted it.
    pub const REGISTRATION_PREEMPTED: u8 = 1;
    /// The reservation that the host took part in was released.
    pub const RESERVATION_RELEASED: u8 = 2;
    /// The reservation is gone, with all registrants, because another host cleared it.
    pub const RESERVATION_PREEMPTED: u8 = 3;
}

bitflags! {
    /// Reservation Notification Mask (feature 82h): which notifications a controller does not want.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct NotificationMask: u32 {
        /// REGPRE: Registration Preempted.
        const REGISTRATION_PREEMPTED = 1 << notification::REGISTRATION_PREEMPTED;
        /// RESREL: Reservation Released.
        const RESERVATION_RELEASED = 1 << notification::RESERVATION_RELEASED;
        /// RESPRE: Reservation Preempted.
        const RESERVATION_PREEMPTED = 1 << notification::RESERVATION_PREEMPTED;
    }
}

/// Reservation Notification, log page 80h (5.16.1.24).
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReservationNotificationLog {
    /// Which notification of this controller it is, from 1. A gap says that some were lost.
    pub count: U64,
    /// What happened: see [`notification`].
    pub kind: u8,
    /// How many more pages there are to be read; 255 stands for more.
    pub available: u8,
    reserved10: [u8; 2],
    /// Where it happened.
    pub nsid: U32,
    reserved16: [u8; 48],
}

const _: () = assert!(size_of::<ReservationNotificationLog>() == 64);
const _: () = assert!(offset_of!(ReservationNotificationLog, nsid) == 12);

zeroed_default!(ReservationNotificationLog);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opcode::nvm;

    #[test]
    fn every_type_has_the_value_of_the_specification_and_its_capability_bit() {
        for (kind, value) in ReservationType::ALL.into_iter().zip(1_u8..) {
            assert_eq!((kind.value(), ReservationType::from_value(value)), (value, Some(kind)));
            assert!(Rescap::from_bits(1 << value).is_some());
        }
        for value in [0, 7, 8, 0xff] {
            assert_eq!(ReservationType::from_value(value), None);
        }
    }

    #[test]
    fn parameters_survive_the_command() {
        let parameters =
            ReservationParameters { action: 2, ignore_existing_key: true, rtype: 6, cptpl: cptpl::SET };
        let mut entry = SubmissionQueueEntry::new(nvm::RESERVATION_REGISTER);
        parameters.apply(&mut entry);
        assert_eq!(entry.cdw10.get(), 0xc000_060a);
        assert_eq!(ReservationParameters::from(&entry), parameters);
    }

    #[test]
    fn a_report_transfers_what_numd_says() {
        let mut entry = SubmissionQueueEntry::new(nvm::RESERVATION_REPORT);
        entry.cdw10.set(15);
        assert_eq!((report_length(&entry), report_is_extended(&entry)), (64, false));
        entry.cdw10.set(u32::MAX);
        entry.cdw11.set(1);
        assert_eq!((report_length(&entry), report_is_extended(&entry)), (1 << 34, true));
    }

    #[test]
    fn types_differ_in_who_may_do_what() {
        use ReservationType as Type;
        let of = |predicate: fn(Type) -> bool| {
            Type::ALL.into_iter().filter(|kind| predicate(*kind)).map(Type::value).collect::<Vec<_>>()
        };
        assert_eq!(of(Type::is_all_registrants), [5, 6]);
        assert_eq!(of(Type::is_for_registrants), [3, 4, 5, 6]);
        assert_eq!(of(Type::excludes_reads), [2, 4, 6]);
    }
}
