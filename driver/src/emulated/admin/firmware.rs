//! Firmware Image Download and Firmware Commit (NVMe Base 1.4, 5.11 and 5.12).
//!
//! An image is any number of whole units of [`UNIT`] bytes that begins so (numbers are little-endian):
//!
//! | bytes | what |
//! |---|---|
//! | 0-7 | the firmware revision: printable ASCII, padded with spaces |
//! | 8-15 | [`MAGIC`] |
//! | 16-19 | bytes of the whole image |
//! | 20-23 | flags; bit 0: it can only be activated by a reset |
//!
//! The drive runs nothing of it: the revision is all that an activation changes.

use std::collections::BTreeMap;

use gangway_spec::Status;
use gangway_spec::aen::AsyncEvent;
use gangway_spec::identify::Oaes;
use gangway_spec::log::FirmwareSlotLog;

use super::{AdminCommand, Answer, invalid_field};

/// What makes bytes an image.
const MAGIC: &[u8; 8] = b"GWFWIMG1";
/// Flags of an image: it can only be activated by a reset.
const NEEDS_RESET: u32 = 1 << 0;
/// FWUG: pieces begin at, and are, multiples of this many bytes.
const UNIT: u64 = 4096;
/// FWUG as Identify has it.
pub(super) const GRANULARITY: u8 = 1;
/// Bytes of the largest image.
const MOST: u64 = 4 << 20;
/// Slots; the first is read-only.
const SLOTS: usize = 3;
/// FRMW: the slots, the first of them read-only; activation without a reset.
pub(super) const UPDATES: u8 = 1 << 4 | (SLOTS as u8) << 1 | 1;
/// MTFA: an activation without reset takes at most this long, in units of 100 ms.
pub(super) const ACTIVATION_TIME: u16 = 1;
/// The firmware that a drive comes with.
const FIRST: &str = "1.0";

/// What can be activated.
#[derive(Clone, Debug)]
struct Image {
    revision: String,
    needs_reset: bool,
}

/// The firmware slots, and what was downloaded for them.
pub(super) struct Firmware {
    slots: [Option<Image>; SLOTS],
    /// Index of the slot whose firmware runs.
    active: usize,
    /// The firmware that runs: a slot may be given another image meanwhile.
    running: String,
    /// Index of the slot that the next reset activates.
    next: Option<usize>,
    /// Pieces of an image by their first byte.
    pieces: BTreeMap<u64, Vec<u8>>,
}

impl Default for Firmware {
    fn default() -> Self {
        let mut slots = [const { None }; SLOTS];
        slots[0] = Some(Image { revision: FIRST.to_owned(), needs_reset: false });
        Self { slots, active: 0, running: FIRST.to_owned(), next: None, pieces: BTreeMap::new() }
    }
}

impl Firmware {
    /// FR: the revision of the firmware that runs.
    pub(super) fn revision(&self) -> &str {
        &self.running
    }

    /// Whether an activation waits for the next reset.
    pub(super) fn waits_for_reset(&self) -> bool {
        self.next.is_some()
    }

    /// A controller reset activates what waits for it, and has the drive forget what was not committed.
    pub(super) fn reset(&mut self) {
        self.pieces.clear();
        if let Some(next) = self.next.take() {
            self.activate(next);
        }
    }

    fn activate(&mut self, slot: usize) {
        if let Some(image) = &self.slots[slot] {
            self.running.clone_from(&image.revision);
            self.active = slot;
        }
    }

    pub(super) fn log(&self) -> FirmwareSlotLog {
        let number = |slot: usize| slot as u8 + 1;
        let mut log = FirmwareSlotLog::default();
        log.afi = number(self.active) | self.next.map_or(0, number) << 4;
        for (slot, image) in self.slots.iter().enumerate() {
            if let Some(image) = image {
                log.set_revision(number(slot), &image.revision);
            }
        }
        log
    }

    fn overlaps(&self, offset: u64, len: u64) -> bool {
        let before = self.pieces.range(..offset + len).next_back();
        before.is_some_and(|(start, piece)| start + piece.len() as u64 > offset)
    }

    /// What the pieces are together; they are gone then. `None` when there are none.
    fn assemble(&mut self) -> Option<Result<Image, Status>> {
        let pieces = std::mem::take(&mut self.pieces);
        if pieces.is_empty() {
            return None;
        }
        let mut bytes = Vec::new();
        for (start, piece) in pieces {
            if start != bytes.len() as u64 {
                break;
            }
            bytes.extend_from_slice(&piece);
        }
        Some(Image::read(&bytes).ok_or(Status::INVALID_FIRMWARE_IMAGE.with_dnr()))
    }

    /// The slot that an image goes to when the host leaves the choice to the drive: an empty one, else one that does not
    /// run.
    fn choose(&self) -> usize {
        let writable = 1..SLOTS;
        let empty = writable.clone().find(|slot| self.slots[*slot].is_none());
        empty.or_else(|| writable.rev().find(|slot| *slot != self.active)).unwrap_or(SLOTS - 1)
    }
}

impl Image {
    fn read(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        let revision = str::from_utf8(bytes.get(..8)?).ok()?;
        let printable = revision.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        let is_one = bytes.get(8..16)? == MAGIC && number(16)? as usize == bytes.len();
        (is_one && printable && !revision.trim().is_empty()).then_some(Self {
            revision: revision.trim_end().to_owned(),
            needs_reset: number(20)? & NEEDS_RESET != 0,
        })
    }
}

impl AdminCommand<'_> {
    pub(super) fn firmware_image_download(&mut self) -> Answer {
        let len = (u64::from(self.entry.cdw10.get()) + 1) * 4;
        let offset = u64::from(self.entry.cdw11.get()) * 4;
        let in_units = len.is_multiple_of(UNIT) && offset.is_multiple_of(UNIT);
        if !in_units || offset + len > MOST || len > self.device.max_transfer() as u64 {
            return invalid_field();
        }
        if self.admin.firmware.overlaps(offset, len) {
            return Err(Status::OVERLAPPING_RANGE.with_dnr());
        }
        let mut piece = vec![0; len as usize];
        self.receive(&mut piece)?;
        self.admin.firmware.pieces.insert(offset, piece);
        Ok(0)
    }

    pub(super) fn firmware_commit(&mut self) -> Answer {
        let cdw10 = self.entry.cdw10.get();
        let (slot, action) = (cdw10 as usize & 0x7, cdw10 >> 3 & 0x7);
        if action > ACTIVATE_NOW {
            return invalid_field();
        }
        if slot > SLOTS {
            return Err(Status::INVALID_FIRMWARE_SLOT.with_dnr());
        }
        let firmware = &mut self.admin.firmware;
        let new = if action == ACTIVATE { None } else { firmware.assemble() };
        // Only an image of the slot itself can be activated as it is.
        if new.is_none() && matches!(action, REPLACE | REPLACE_AND_ACTIVATE) {
            return Err(Status::INVALID_FIRMWARE_IMAGE.with_dnr());
        }
        let slot = match (slot.checked_sub(1), new.is_some()) {
            (Some(0), true) | (None, false) => return Err(Status::INVALID_FIRMWARE_SLOT.with_dnr()),
            (Some(index), _) => index,
            (None, true) => firmware.choose(),
        };
        if let Some(new) = new {
            firmware.slots[slot] = Some(new?);
        }
        let Some(image) = &firmware.slots[slot] else {
            return Err(Status::INVALID_FIRMWARE_IMAGE.with_dnr());
        };
        match action {
            REPLACE => {}
            ACTIVATE_NOW if !image.needs_reset => {
                firmware.next = None;
                firmware.activate(slot);
                self.admin.notify(Oaes::FIRMWARE_ACTIVATION, AsyncEvent::FIRMWARE_ACTIVATION_STARTING);
            }
            _ => firmware.next = Some(slot),
        }
        if action == ACTIVATE_NOW && self.admin.firmware.next.is_some() {
            return Err(Status::FIRMWARE_REQUIRES_CONTROLLER_RESET);
        }
        Ok(0)
    }
}

/// Commit Action: the image that was downloaded replaces the slot's.
const REPLACE: u32 = 0;
/// Commit Action: so it does, and runs from the next reset on.
const REPLACE_AND_ACTIVATE: u32 = 1;
/// Commit Action: the slot's image runs from the next reset on.
const ACTIVATE: u32 = 2;
/// Commit Action: the slot's image, or what was downloaded for it, runs at once.
const ACTIVATE_NOW: u32 = 3;
