//! The zones of a namespace: their states, their write pointers, and the limits on how many may be open and active
//! (ZNS Command Set 1.1, 2.1).

use std::collections::BTreeSet;

use gangway_spec::Status;
use gangway_spec::zns::{ChangedZoneList, ZoneDescriptor, ZoneState, send};

use super::format::Format;

/// How the zones of a drive are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::emulated) struct Shape {
    /// Bytes from one zone to the next, without metadata.
    pub(in crate::emulated) size: u64,
    /// Bytes of a zone that can be written, without metadata.
    pub(in crate::emulated) capacity: u64,
    /// Most zones that may be open at once; 0 is no limit.
    pub(in crate::emulated) max_open: u32,
    /// Most zones that may be active at once; 0 is no limit.
    pub(in crate::emulated) max_active: u32,
    /// Bytes of a zone descriptor extension, a multiple of 64.
    pub(in crate::emulated) extension: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Zone {
    state: ZoneState,
    attributes: u8,
    /// The write pointer, as blocks from the start of the zone.
    written: u64,
}

impl Zone {
    const EMPTY: Self = Self { state: ZoneState::EMPTY, attributes: 0, written: 0 };
}

/// The zones of one namespace.
pub(in crate::emulated) struct Zones {
    /// Blocks from one zone to the next.
    size: u64,
    /// Blocks of a zone that can be written.
    capacity: u64,
    max_open: u32,
    max_active: u32,
    extension: usize,
    zones: Box<[Zone]>,
    extensions: Box<[u8]>,
    open: u32,
    active: u32,
    /// Zones that changed by themselves since the list of them was read.
    changed: BTreeSet<u64>,
}

type Done = Result<(), Status>;

impl Zones {
    /// As many zones as `blocks` blocks have room for, all empty.
    pub(in crate::emulated) fn new(shape: Shape, format: Format, blocks: u64) -> Self {
        let size = (shape.size >> format.shift).max(1);
        let count = (blocks / size) as usize;
        Self {
            size,
            capacity: (shape.capacity >> format.shift).clamp(1, size),
            max_open: shape.max_open,
            max_active: shape.max_active,
            extension: shape.extension,
            zones: vec![Zone::EMPTY; count].into(),
            extensions: vec![0; count * shape.extension].into(),
            open: 0,
            active: 0,
            changed: BTreeSet::new(),
        }
    }

    /// Blocks of the namespace: whole zones.
    pub(in crate::emulated) fn blocks(&self) -> u64 {
        self.size * self.zones.len() as u64
    }

    /// Most zones that may be open; 0 is no limit.
    pub(in crate::emulated) fn max_open(&self) -> u32 {
        self.max_open
    }

    /// Most zones that may be active; 0 is no limit.
    pub(in crate::emulated) fn max_active(&self) -> u32 {
        self.max_active
    }

    /// Bytes of a zone descriptor extension.
    pub(in crate::emulated) fn extension_len(&self) -> usize {
        self.extension
    }

    /// The zone that a block is in, and the zone's first block.
    ///
    /// # Errors
    /// LBA Out of Range.
    fn find(&self, lba: u64) -> Result<(usize, u64), Status> {
        let index = (lba / self.size) as usize;
        if index >= self.zones.len() {
            return Err(Status::LBA_OUT_OF_RANGE.with_dnr());
        }
        Ok((index, index as u64 * self.size))
    }

    /// Checks that blocks may be read: they are in one zone, which is not offline.
    ///
    /// # Errors
    /// Zone Boundary Error, Zone Is Offline.
    pub(in crate::emulated) fn admit_read(&self, slba: u64, blocks: u64) -> Done {
        let (index, start) = self.find(slba)?;
        if self.zones[index].state == ZoneState::OFFLINE {
            return Err(Status::ZONE_IS_OFFLINE.with_dnr());
        }
        if slba + blocks > start + self.size {
            return Err(Status::ZONE_BOUNDARY_ERROR.with_dnr());
        }
        Ok(())
    }

    /// Takes the place for a write: the zone is opened if it has to be. [`Self::written`] moves the write pointer.
    ///
    /// # Errors
    /// What the zone does not allow.
    pub(in crate::emulated) fn admit_write(&mut self, slba: u64, blocks: u64) -> Done {
        let (index, start) = self.find(slba)?;
        let zone = self.zones[index];
        let status = match zone.state {
            ZoneState::FULL => Status::ZONE_IS_FULL,
            ZoneState::READ_ONLY => Status::ZONE_IS_READ_ONLY,
            ZoneState::OFFLINE => Status::ZONE_IS_OFFLINE,
            _ if slba != start + zone.written => Status::ZONE_INVALID_WRITE,
            _ if zone.written + blocks > self.capacity => Status::ZONE_BOUNDARY_ERROR,
            _ => return self.open(index, ZoneState::IMPLICITLY_OPENED),
        };
        Err(status.with_dnr())
    }

    /// Where a Zone Append to the zone that begins at `zslba` goes: its write pointer.
    ///
    /// # Errors
    /// Invalid Field: no zone begins there.
    pub(in crate::emulated) fn append_at(&self, zslba: u64) -> Result<u64, Status> {
        let (index, start) = self.find(zslba)?;
        if start != zslba {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        Ok(start + self.zones[index].written)
    }

    /// Blocks were written at the write pointer.
    pub(in crate::emulated) fn written(&mut self, slba: u64, blocks: u64) {
        let Ok((index, _)) = self.find(slba) else { return };
        self.zones[index].written += blocks;
        if self.zones[index].written >= self.capacity {
            self.set(index, ZoneState::FULL);
        }
    }

    /// Puts a zone into a state and counts what that takes or frees.
    fn set(&mut self, index: usize, state: ZoneState) {
        let zone = &mut self.zones[index];
        self.open = self.open + u32::from(state.is_open()) - u32::from(zone.state.is_open());
        self.active = self.active + u32::from(state.is_active()) - u32::from(zone.state.is_active());
        zone.state = state;
        match state {
            ZoneState::EMPTY => *zone = Zone::EMPTY,
            ZoneState::FULL => zone.written = self.capacity,
            _ => {}
        }
    }

    /// Opens a zone that is empty, closed or open, in that manner.
    fn open(&mut self, index: usize, how: ZoneState) -> Done {
        let state = self.zones[index].state;
        if state.is_open() {
            // An implicit open takes nothing back from an explicit one.
            if how == ZoneState::EXPLICITLY_OPENED {
                self.set(index, how);
            }
            return Ok(());
        }
        self.activate(index)?;
        if self.max_open != 0 && self.open >= self.max_open {
            // What was opened implicitly is the drive's to close.
            let implicit = self.zones.iter().position(|zone| zone.state == ZoneState::IMPLICITLY_OPENED);
            let implicit = implicit.ok_or(Status::TOO_MANY_OPEN_ZONES.with_dnr())?;
            self.set(implicit, ZoneState::CLOSED);
        }
        self.set(index, how);
        Ok(())
    }

    /// Checks that a zone may become active.
    fn activate(&self, index: usize) -> Done {
        let is_new = !self.zones[index].state.is_active();
        if is_new && self.max_active != 0 && self.active >= self.max_active {
            return Err(Status::TOO_MANY_ACTIVE_ZONES.with_dnr());
        }
        Ok(())
    }

    /// Does a zone send action to one zone. `true` when the zone's data is gone.
    ///
    /// # Errors
    /// LBA Out of Range, Invalid Field when no zone begins there or there is no such action, Invalid Zone State
    /// Transition, and what limits say.
    pub(in crate::emulated) fn act(&mut self, zslba: u64, action: u8) -> Result<bool, Status> {
        let (index, start) = self.find(zslba)?;
        if start != zslba {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        let state = self.zones[index].state;
        let possible = state.is_open() || state == ZoneState::CLOSED;
        let refused = Err(Status::INVALID_ZONE_STATE_TRANSITION.with_dnr());
        match action {
            send::OPEN if possible || state == ZoneState::EMPTY => {
                self.open(index, ZoneState::EXPLICITLY_OPENED)?
            }
            send::CLOSE if possible => self.set(index, ZoneState::CLOSED),
            send::FINISH if possible || matches!(state, ZoneState::EMPTY | ZoneState::FULL) => {
                self.set(index, ZoneState::FULL);
            }
            send::RESET if possible || matches!(state, ZoneState::EMPTY | ZoneState::FULL) => {
                self.set(index, ZoneState::EMPTY);
                return Ok(true);
            }
            send::OFFLINE if matches!(state, ZoneState::READ_ONLY | ZoneState::OFFLINE) => {
                self.set(index, ZoneState::OFFLINE);
            }
            send::OPEN | send::CLOSE | send::FINISH | send::RESET | send::OFFLINE => return refused,
            _ => return Err(Status::INVALID_FIELD.with_dnr()),
        }
        Ok(false)
    }

    /// Does a zone send action to all zones that it suits, and calls `gone` with the first block of each whose data is
    /// gone.
    ///
    /// # Errors
    /// As [`act`](Self::act).
    pub(in crate::emulated) fn act_on_all(&mut self, action: u8, mut gone: impl FnMut(u64) -> Done) -> Done {
        let suits = |state: ZoneState| match action {
            send::OPEN => state == ZoneState::CLOSED,
            send::CLOSE => state.is_open(),
            send::FINISH => state.is_active(),
            send::RESET => state.is_active() || state == ZoneState::FULL,
            send::OFFLINE => state == ZoneState::READ_ONLY,
            _ => false,
        };
        if !matches!(action, send::OPEN | send::CLOSE | send::FINISH | send::RESET | send::OFFLINE) {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        if action == send::OPEN {
            let closed = self.zones.iter().filter(|zone| zone.state == ZoneState::CLOSED).count() as u32;
            let explicit =
                self.zones.iter().filter(|zone| zone.state == ZoneState::EXPLICITLY_OPENED).count() as u32;
            if self.max_open != 0 && closed + explicit > self.max_open {
                return Err(Status::TOO_MANY_OPEN_ZONES.with_dnr());
            }
        }
        for index in 0..self.zones.len() {
            if suits(self.zones[index].state) {
                let start = index as u64 * self.size;
                if self.act(start, action)? {
                    gone(start)?;
                }
            }
        }
        Ok(())
    }

    /// Gives an empty zone its descriptor extension, by which it becomes closed.
    ///
    /// # Errors
    /// As [`act`](Self::act); Invalid Field also when the extension has not the length of this drive's.
    pub(in crate::emulated) fn extend(&mut self, zslba: u64, extension: &[u8]) -> Done {
        let (index, start) = self.find(zslba)?;
        if start != zslba || extension.is_empty() || extension.len() != self.extension {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        if self.zones[index].state != ZoneState::EMPTY {
            return Err(Status::INVALID_ZONE_STATE_TRANSITION.with_dnr());
        }
        self.activate(index)?;
        self.extensions[index * self.extension..][..self.extension].copy_from_slice(extension);
        self.set(index, ZoneState::CLOSED);
        self.zones[index].attributes |= ZoneDescriptor::EXTENSION_VALID;
        Ok(())
    }

    /// All zones from the one with `slba` on, with their extensions.
    ///
    /// # Errors
    /// LBA Out of Range.
    pub(in crate::emulated) fn report(
        &self,
        slba: u64,
    ) -> Result<impl Iterator<Item = (ZoneDescriptor, &[u8])>, Status> {
        let (first, _) = self.find(slba)?;
        Ok((first..self.zones.len()).map(|index| (self.descriptor(index), self.extension(index))))
    }

    fn extension(&self, index: usize) -> &[u8] {
        &self.extensions[index * self.extension..][..self.extension]
    }

    fn descriptor(&self, index: usize) -> ZoneDescriptor {
        let zone = self.zones[index];
        let start = index as u64 * self.size;
        let mut descriptor = ZoneDescriptor::default();
        descriptor.zt = ZoneDescriptor::SEQUENTIAL_WRITE_REQUIRED;
        descriptor.set_state(zone.state);
        descriptor.za = zone.attributes;
        descriptor.zcap.set(self.capacity);
        descriptor.zslba.set(start);
        // Without meaning in these states: all ones, so that nobody takes it for one.
        let has_pointer = !matches!(zone.state, ZoneState::FULL | ZoneState::READ_ONLY | ZoneState::OFFLINE);
        descriptor.wp.set(if has_pointer { start + zone.written } else { u64::MAX });
        descriptor
    }

    /// Blocks from one zone to the next.
    pub(in crate::emulated) fn size(&self) -> u64 {
        self.size
    }

    /// All zones are empty again.
    pub(in crate::emulated) fn reset_all(&mut self) {
        self.zones.fill(Zone::EMPTY);
        (self.open, self.active) = (0, 0);
    }

    /// What becomes of open zones when the drive is shut down: closed, or empty when nothing was written to them.
    pub(in crate::emulated) fn shut_down(&mut self) {
        for index in 0..self.zones.len() {
            let zone = self.zones[index];
            if zone.state.is_open() {
                let untouched = zone.written == 0 && zone.attributes & ZoneDescriptor::EXTENSION_VALID == 0;
                self.set(index, if untouched { ZoneState::EMPTY } else { ZoneState::CLOSED });
            }
        }
    }

    /// Makes a zone read-only or offline, as worn media does.
    pub(in crate::emulated) fn wear_out(&mut self, zslba: u64, state: ZoneState) -> Done {
        let (index, _) = self.find(zslba)?;
        self.set(index, state);
        self.changed.insert(zslba);
        Ok(())
    }

    /// The list of zones that changed by themselves.
    pub(in crate::emulated) fn changed(&self) -> ChangedZoneList {
        let changed: Vec<u64> = self.changed.iter().copied().collect();
        ChangedZoneList::of(Some(&changed))
    }

    /// That list was read.
    pub(in crate::emulated) fn forget_changed(&mut self) {
        self.changed.clear();
    }
}
