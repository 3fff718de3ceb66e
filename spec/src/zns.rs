//! The Zoned Namespace Command Set (ZNS Command Set 1.1): its Identify data, zone descriptors and commands.

use core::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::SubmissionQueueEntry;
use crate::identify::zeroed_default;

/// Identify Namespace of the Zoned Namespace Command Set: CNS 05h with CSI 02h (ZNS Command Set 1.1, 4.1.5.1).
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyZonedNamespace {
    /// Zone operation characteristics: [`Self::ZOC_VARIABLE_CAPACITY`] and its siblings.
    pub zoc: U16,
    /// Optional zoned command support: [`Self::OZCS_READ_ACROSS_ZONE_BOUNDARIES`] and its siblings.
    pub ozcs: U16,
    /// Maximum active resources, 0's based; all ones is no limit.
    pub mar: U32,
    /// Maximum open resources, 0's based; all ones is no limit.
    pub mor: U32,
    /// Reset recommended limit in seconds.
    pub rrl: U32,
    /// Finish recommended limit in seconds.
    pub frl: U32,
    /// Reset recommended limits 1 to 3.
    pub rrl_further: [U32; 3],
    /// Finish recommended limits 1 to 3.
    pub frl_further: [U32; 3],
    /// Number of ZRWA resources, 0's based.
    pub numzrwa: U32,
    /// ZRWA flush granularity in blocks.
    pub zrwafg: U16,
    /// ZRWA size in blocks.
    pub zrwasz: U16,
    /// ZRWA capability.
    pub zrwacap: u8,
    reserved53: [u8; 2763],
    /// Extensions of the LBA formats, by the same index.
    pub lbafe: [ZonedLbaFormatExtension; 64],
    /// The vendor's.
    pub vs: [u8; 256],
}

const _: () = assert!(size_of::<IdentifyZonedNamespace>() == 4096);
const _: () = assert!(offset_of!(IdentifyZonedNamespace, numzrwa) == 44);
const _: () = assert!(offset_of!(IdentifyZonedNamespace, lbafe) == 2816);
const _: () = assert!(offset_of!(IdentifyZonedNamespace, vs) == 3840);

zeroed_default!(IdentifyZonedNamespace);

impl IdentifyZonedNamespace {
    /// ZOC: the capacity of zones may change.
    pub const ZOC_VARIABLE_CAPACITY: u16 = 1 << 0;
    /// ZOC: the controller may finish zones by itself (zone active excursions).
    pub const ZOC_ACTIVE_EXCURSIONS: u16 = 1 << 1;
    /// OZCS: reads may cross zone boundaries.
    pub const OZCS_READ_ACROSS_ZONE_BOUNDARIES: u16 = 1 << 0;
    /// OZCS: the namespace has zone random write areas.
    pub const OZCS_ZRWA: u16 = 1 << 1;

    /// Most zones that may be active at once; `None` is no limit.
    #[must_use]
    pub const fn max_active(&self) -> Option<u32> {
        resources(self.mar)
    }

    /// Most zones that may be open at once; `None` is no limit.
    #[must_use]
    pub const fn max_open(&self) -> Option<u32> {
        resources(self.mor)
    }
}

const fn resources(field: U32) -> Option<u32> {
    match field.get() {
        u32::MAX => None,
        most => Some(most + 1),
    }
}

/// What an LBA format means for zones (ZNS Command Set 1.1, figure 49).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ZonedLbaFormatExtension {
    /// Zone size in blocks.
    pub zsze: U64,
    /// Zone descriptor extension size in units of 64 bytes.
    pub zdes: u8,
    reserved9: [u8; 7],
}

const _: () = assert!(size_of::<ZonedLbaFormatExtension>() == 16);

impl ZonedLbaFormatExtension {
    /// Zones of `blocks` blocks, with descriptor extensions of `zdes` times 64 bytes.
    #[must_use]
    pub const fn new(blocks: u64, zdes: u8) -> Self {
        Self { zsze: U64::new(blocks), zdes, reserved9: [0; 7] }
    }
}

/// Identify Controller of the Zoned Namespace Command Set: CNS 06h with CSI 02h (ZNS Command Set 1.1, 4.1.5.2).
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyZonedController {
    /// Zone append size limit as a power of two of the smallest memory page size; 0 is MDTS.
    pub zasl: u8,
    reserved1: [u8; 4095],
}

const _: () = assert!(size_of::<IdentifyZonedController>() == 4096);

zeroed_default!(IdentifyZonedController);

/// Zone state (ZNS Command Set 1.1, figure 37: bits 7:4 of byte 1 of a zone descriptor).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ZoneState(pub u8);

impl ZoneState {
    /// ZSE: Empty.
    pub const EMPTY: Self = Self(0x1);
    /// ZSIO: Implicitly Opened.
    pub const IMPLICITLY_OPENED: Self = Self(0x2);
    /// ZSEO: Explicitly Opened.
    pub const EXPLICITLY_OPENED: Self = Self(0x3);
    /// ZSC: Closed.
    pub const CLOSED: Self = Self(0x4);
    /// ZSRO: Read Only.
    pub const READ_ONLY: Self = Self(0xd);
    /// ZSF: Full.
    pub const FULL: Self = Self(0xe);
    /// ZSO: Offline.
    pub const OFFLINE: Self = Self(0xf);

    /// The specification's name; `None` when the state is unknown.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::EMPTY => "Empty",
            Self::IMPLICITLY_OPENED => "Implicitly Opened",
            Self::EXPLICITLY_OPENED => "Explicitly Opened",
            Self::CLOSED => "Closed",
            Self::READ_ONLY => "Read Only",
            Self::FULL => "Full",
            Self::OFFLINE => "Offline",
            _ => return None,
        })
    }

    /// Whether a zone in this state takes an open resource.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::IMPLICITLY_OPENED | Self::EXPLICITLY_OPENED)
    }

    /// Whether a zone in this state takes an active resource.
    #[must_use]
    pub const fn is_active(self) -> bool {
        self.is_open() || matches!(self, Self::CLOSED)
    }
}

/// One zone in a zone report (ZNS Command Set 1.1, figure 37).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ZoneDescriptor {
    /// Zone type in bits 3:0: [`Self::SEQUENTIAL_WRITE_REQUIRED`].
    pub zt: u8,
    /// Zone state in bits 7:4 ([`Self::state`]).
    pub zs: u8,
    /// Zone attributes: [`Self::FINISHED_BY_CONTROLLER`] and its siblings.
    pub za: u8,
    /// Zone attributes information.
    pub zai: u8,
    reserved4: [u8; 4],
    /// Zone capacity in blocks.
    pub zcap: U64,
    /// Zone start LBA.
    pub zslba: U64,
    /// Write pointer; no meaning in the states Full, Read Only and Offline.
    pub wp: U64,
    reserved32: [u8; 32],
}

const _: () = assert!(size_of::<ZoneDescriptor>() == 64);
const _: () = assert!(offset_of!(ZoneDescriptor, wp) == 24);

impl ZoneDescriptor {
    /// ZT: writes must be sequential.
    pub const SEQUENTIAL_WRITE_REQUIRED: u8 = 2;
    /// ZA: the controller has finished the zone.
    pub const FINISHED_BY_CONTROLLER: u8 = 1 << 0;
    /// ZA: finishing the zone is recommended.
    pub const FINISH_RECOMMENDED: u8 = 1 << 1;
    /// ZA: resetting the zone is recommended.
    pub const RESET_RECOMMENDED: u8 = 1 << 2;
    /// ZA: the zone descriptor extension is valid.
    pub const EXTENSION_VALID: u8 = 1 << 7;

    /// The state of the zone.
    #[must_use]
    pub const fn state(&self) -> ZoneState {
        ZoneState(self.zs >> 4)
    }

    /// Sets the state of the zone.
    pub fn set_state(&mut self, state: ZoneState) {
        self.zs = state.0 << 4;
    }
}

/// What a zone report begins with; descriptors follow, each with its extension in an extended report
/// (ZNS Command Set 1.1, figures 36 and 38).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ZoneReportHeader {
    /// Number of zones: in the report if it is partial, else those that match from the start of the report on.
    pub nzones: U64,
    reserved8: [U64; 7],
}

const _: () = assert!(size_of::<ZoneReportHeader>() == 64);

/// Zone send actions (ZNS Command Set 1.1, figure 40: CDW13 bits 7:0).
pub mod send {
    /// Close.
    pub const CLOSE: u8 = 0x01;
    /// Finish.
    pub const FINISH: u8 = 0x02;
    /// Open.
    pub const OPEN: u8 = 0x03;
    /// Reset.
    pub const RESET: u8 = 0x04;
    /// Offline.
    pub const OFFLINE: u8 = 0x05;
    /// Set the zone descriptor extension.
    pub const SET_DESCRIPTOR_EXTENSION: u8 = 0x10;
    /// Flush the zone random write area.
    pub const FLUSH_ZRWA: u8 = 0x11;

    /// CDW13: the action is meant for all zones that it suits.
    pub const SELECT_ALL: u32 = 1 << 8;
}

/// Zone receive actions and what they are about (ZNS Command Set 1.1, figures 33 and 34).
pub mod receive {
    /// ZRA: report zones.
    pub const REPORT: u8 = 0x00;
    /// ZRA: report zones with their extensions.
    pub const EXTENDED_REPORT: u8 = 0x01;

    /// ZRASF: all zones.
    pub const ALL: u8 = 0x00;
    /// ZRASF: zones in the state Empty.
    pub const EMPTY: u8 = 0x01;
    /// ZRASF: zones in the state Implicitly Opened.
    pub const IMPLICITLY_OPENED: u8 = 0x02;
    /// ZRASF: zones in the state Explicitly Opened.
    pub const EXPLICITLY_OPENED: u8 = 0x03;
    /// ZRASF: zones in the state Closed.
    pub const CLOSED: u8 = 0x04;
    /// ZRASF: zones in the state Full.
    pub const FULL: u8 = 0x05;
    /// ZRASF: zones in the state Read Only.
    pub const READ_ONLY: u8 = 0x06;
    /// ZRASF: zones in the state Offline.
    pub const OFFLINE: u8 = 0x07;

    /// CDW13: Number of Zones counts only the zones that are in the report.
    pub const PARTIAL: u32 = 1 << 16;
}

/// Zone Management Send: the action (CDW13 bits 7:0; [`send`]).
#[must_use]
pub const fn send_action(entry: &SubmissionQueueEntry) -> u8 {
    entry.cdw13.get() as u8
}

/// Zone Management Receive: the action (CDW13 bits 7:0; [`receive`]).
#[must_use]
pub const fn receive_action(entry: &SubmissionQueueEntry) -> u8 {
    entry.cdw13.get() as u8
}

/// Zone Management Receive: which zones are reported (CDW13 bits 15:8; [`receive`]).
#[must_use]
pub const fn receive_filter(entry: &SubmissionQueueEntry) -> u8 {
    (entry.cdw13.get() >> 8) as u8
}

/// Zone Management Receive: bytes to transfer (CDW12 counts dwords from 0).
#[must_use]
pub const fn receive_length(entry: &SubmissionQueueEntry) -> u64 {
    (entry.cdw12.get() as u64 + 1) * 4
}

/// Changed Zone List, log page BFh: zones of a namespace that changed since it was read (ZNS Command Set 1.1, 4.1.1).
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChangedZoneList {
    /// How many zones the list names; [`ChangedZoneList::MORE`] when there are more than it has room for, and it names
    /// none.
    pub nrzid: U16,
    reserved2: [u8; 6],
    /// ZSLBA of each, ascending.
    pub zids: [U64; 511],
}

const _: () = assert!(size_of::<ChangedZoneList>() == 4096);

zeroed_default!(ChangedZoneList);

impl ChangedZoneList {
    /// There are more zones than the list has room for.
    pub const MORE: u16 = 0xffff;

    /// The list of these zones, in ascending order; `None` stands for more than there is room for.
    #[must_use]
    pub fn of(zones: Option<&[u64]>) -> Self {
        let mut list = Self::default();
        match zones {
            Some(zones) if zones.len() <= list.zids.len() => {
                list.nrzid.set(zones.len() as u16);
                list.zids.iter_mut().zip(zones).for_each(|(place, zone)| place.set(*zone));
            }
            _ => list.nrzid.set(Self::MORE),
        }
        list
    }

    /// The zones that it names; `None` when there are more.
    #[must_use]
    pub fn zones(&self) -> Option<impl Iterator<Item = u64> + '_> {
        let count = usize::from(self.nrzid.get());
        let named = self.zids.get(..count)?;
        Some(named.iter().map(|zone| zone.get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_stand_in_the_upper_half_of_their_byte() {
        let mut zone = ZoneDescriptor::default();
        zone.set_state(ZoneState::FULL);
        assert_eq!((zone.zs, zone.state(), zone.state().name()), (0xe0, ZoneState::FULL, Some("Full")));
        assert_eq!(ZoneState(9).name(), None);
    }

    #[test]
    fn limits_are_counted_from_zero_and_all_ones_is_none() {
        let zoned = IdentifyZonedNamespace { mar: 3.into(), mor: u32::MAX.into(), ..Default::default() };
        assert_eq!((zoned.max_active(), zoned.max_open()), (Some(4), None));
    }

    #[test]
    fn only_open_and_closed_zones_are_active() {
        let active: Vec<u8> = (0..16).filter(|state| ZoneState(*state).is_active()).collect();
        assert_eq!(active, [2, 3, 4]);
    }

    #[test]
    fn a_list_of_changed_zones_says_when_it_cannot_name_them() {
        let list = ChangedZoneList::of(Some(&[0, 4096]));
        assert_eq!(
            list.as_bytes()[..24],
            [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(list.zones().map(Vec::from_iter), Some(vec![0, 4096]));
        let most: Vec<u64> = (0..511).collect();
        assert_eq!(ChangedZoneList::of(Some(&most)).zones().map(Vec::from_iter), Some(most));
        let more = ChangedZoneList::of(Some(&[1; 512]));
        assert_eq!((more.nrzid.get(), more.zones().is_none(), more.zids[0].get()), (0xffff, true, 0));
        assert_eq!(ChangedZoneList::of(None), more);
    }

    #[test]
    fn a_report_is_asked_for_in_dwords() {
        let mut entry = SubmissionQueueEntry::new(0x7a);
        entry.cdw12.set(0x3ff);
        entry
            .cdw13
            .set(receive::PARTIAL | u32::from(receive::FULL) << 8 | u32::from(receive::EXTENDED_REPORT));
        assert_eq!(receive_length(&entry), 4096);
        assert_eq!((receive_action(&entry), receive_filter(&entry)), (1, 5));
    }
}
