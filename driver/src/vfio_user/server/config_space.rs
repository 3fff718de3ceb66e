//! The PCI configuration space of a served controller (PCI Base 3.0, 6.1; PCI Express Base 3.0, 7.8).

use gangway_spec::registers::DOORBELLS;

/// Bytes of the configuration space of a PCI Express function.
pub(super) const SIZE: usize = 4096;

/// Nobody's: this project has no vendor identifier, and those of others come with workarounds for their devices.
const VENDOR: u16 = 0xfffe;
const DEVICE: u16 = 0x0001;
/// Revision 0; a non-volatile memory controller for NVM Express.
const CLASS: u32 = 0x0108_0200;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const BAR4: usize = 0x20;
const SUBSYSTEM: usize = 0x2c;
const CAPABILITIES: usize = 0x34;

const POWER: usize = 0x40;
const EXPRESS: usize = 0x50;
const MSIX: usize = 0x90;

/// Memory space, bus master, parity, SERR, interrupt disable.
const COMMAND_WRITABLE: u16 = 0x0546;
const BUS_MASTER: u16 = 1 << 2;
/// Device Control of the PCI Express capability: start a function-level reset. It reads as zero.
const START_RESET: u16 = 1 << 15;
/// A BAR of 64 bits in memory.
const BAR_64: u32 = 0x4;

/// The region that the table of vectors is in, and the bytes of an entry.
pub(super) const TABLE_BAR: u32 = 4;
const TABLE_ENTRY: usize = 16;

/// What lies where in BAR4.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tables {
    /// Offset of the pending bits; the table of vectors is at 0.
    pending: usize,
    /// Bytes of both, a power of two.
    pub(super) size: usize,
}

impl Tables {
    pub(super) fn new(vectors: u16) -> Self {
        let pending = (usize::from(vectors) * TABLE_ENTRY).next_multiple_of(4096);
        let bits = usize::from(vectors).div_ceil(64) * 8;
        Self { pending, size: (pending + bits).next_power_of_two() }
    }
}

/// Bytes of BAR0: what the registers and doorbells take, as a power of two.
pub(super) fn bar0_size(end: u64) -> u64 {
    end.max(4 * u64::from(DOORBELLS)).next_power_of_two()
}

/// The configuration space with what of it may be written.
pub(super) struct ConfigSpace {
    bytes: Box<[u8; SIZE]>,
    writable: Box<[u8; SIZE]>,
}

impl ConfigSpace {
    /// As it is after power-on.
    pub(super) fn new(bar0: u64, vectors: u16) -> Self {
        let mut space = Self { bytes: Box::new([0; SIZE]), writable: Box::new([0; SIZE]) };
        let tables = Tables::new(vectors);
        space.set(0, VENDOR.to_le_bytes(), [0; 2]);
        space.set(2, DEVICE.to_le_bytes(), [0; 2]);
        space.set(COMMAND, [0; 2], COMMAND_WRITABLE.to_le_bytes());
        // There is a list of capabilities.
        space.set(STATUS, 0x0010u16.to_le_bytes(), [0; 2]);
        space.set(8, CLASS.to_le_bytes(), [0; 4]);
        space.set(0x0c, [0], [0xff]);
        for (at, size) in [(BAR0, bar0), (BAR4, tables.size as u64)] {
            space.set(at, u64::from(BAR_64).to_le_bytes(), (!(size - 1)).to_le_bytes());
        }
        space.set(SUBSYSTEM, VENDOR.to_le_bytes(), [0; 2]);
        space.set(SUBSYSTEM + 2, DEVICE.to_le_bytes(), [0; 2]);
        space.set(CAPABILITIES, [POWER as u8], [0]);
        space.set(0x3c, [0], [0xff]);

        // Power management 1.2: D0 and D3, and no reset when it comes back from D3.
        space.set(POWER, [0x01, EXPRESS as u8, 0x03, 0x00], [0; 4]);
        space.set(POWER + 4, [0x08, 0, 0, 0], [0x03, 0, 0, 0]);

        // PCI Express, version 2, an endpoint; role-based error reporting, function-level reset; a link of 8 GT/s, 4 wide.
        space.set(EXPRESS, [0x10, MSIX as u8, 0x02, 0x00], [0; 4]);
        space.set(EXPRESS + 4, (1u32 << 28 | 1 << 15).to_le_bytes(), [0; 4]);
        space.set(EXPRESS + 8, [0x10, 0x28], [0xff, 0x7f]);
        space.set(EXPRESS + 0x0c, 0x43u32.to_le_bytes(), [0; 4]);
        space.set(EXPRESS + 0x10, [0; 2], [0xfb, 0x03]);
        space.set(EXPRESS + 0x12, 0x43u16.to_le_bytes(), [0; 2]);

        space.set(MSIX, [0x11, 0], [0; 2]);
        space.set(MSIX + 2, (vectors - 1).to_le_bytes(), [0, 0xc0]);
        space.set(MSIX + 4, TABLE_BAR.to_le_bytes(), [0; 4]);
        space.set(MSIX + 8, (tables.pending as u32 | TABLE_BAR).to_le_bytes(), [0; 4]);
        space
    }

    fn set<const N: usize>(&mut self, at: usize, value: [u8; N], writable: [u8; N]) {
        self.bytes[at..at + N].copy_from_slice(&value);
        self.writable[at..at + N].copy_from_slice(&writable);
    }

    /// `len` bytes at `offset`; `None` when they are not all inside.
    pub(super) fn read(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        self.bytes.get(start..start.checked_add(len)?)
    }

    /// Writes what may be written of it. Gives whether a function-level reset was asked for; `None` when the bytes are
    /// not all inside.
    pub(super) fn write(&mut self, offset: u64, from: &[u8]) -> Option<bool> {
        let start = usize::try_from(offset).ok()?;
        let range = start..start.checked_add(from.len())?;
        let old = self.bytes.get_mut(range.clone())?;
        for ((old, new), mask) in old.iter_mut().zip(from).zip(&self.writable[range]) {
            *old = *old & !mask | new & mask;
        }
        let control = EXPRESS + 9;
        let asked = control.checked_sub(start).and_then(|at| from.get(at));
        Some(asked.is_some_and(|byte| byte & (START_RESET >> 8) as u8 != 0))
    }

    /// Whether the function may do DMA.
    pub(super) fn is_bus_master(&self) -> bool {
        u16::from_le_bytes([self.bytes[COMMAND], self.bytes[COMMAND + 1]]) & BUS_MASTER != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(space: &ConfigSpace, at: u64) -> u16 {
        let bytes = space.read(at, 2).unwrap();
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    #[test]
    fn the_capabilities_are_chained_and_found() {
        let space = ConfigSpace::new(0x4000, 65);
        assert_eq!(word(&space, 6) & 0x10, 0x10);
        let mut at = space.read(0x34, 1).unwrap()[0];
        let mut found = Vec::new();
        while at != 0 {
            let header = space.read(at.into(), 2).unwrap();
            found.push(header[0]);
            at = header[1];
        }
        assert_eq!(found, [0x01, 0x10, 0x11]);
        assert_eq!(word(&space, MSIX as u64 + 2), 64, "65 vectors, counted from 0");
    }

    #[test]
    fn a_bar_answers_all_ones_with_its_size() {
        let mut space = ConfigSpace::new(0x8000, 65);
        space.write(BAR0 as u64, &[0xff; 8]);
        assert_eq!(space.read(BAR0 as u64, 8).unwrap(), 0xffff_ffff_ffff_8004u64.to_le_bytes());
    }

    #[test]
    fn what_is_read_only_stays() {
        let mut space = ConfigSpace::new(0x4000, 9);
        let before = space.bytes.clone();
        assert_eq!(space.write(0, &[0xff; 4]), Some(false));
        assert_eq!(space.write(POWER as u64, &[0; 4]), Some(false));
        assert_eq!(space.bytes, before);
        assert!(!space.is_bus_master());
        space.write(4, &[0xff; 2]);
        assert!(space.is_bus_master());
        assert_eq!(word(&space, 4), COMMAND_WRITABLE);
    }

    #[test]
    fn a_reset_is_asked_for_by_its_bit_and_the_bit_does_not_stay() {
        let mut space = ConfigSpace::new(0x4000, 9);
        let control = EXPRESS as u64 + 8;
        assert_eq!(space.write(control, &0x2810u16.to_le_bytes()), Some(false));
        assert_eq!(space.write(control, &0xa810u16.to_le_bytes()), Some(true));
        assert_eq!(word(&space, control), 0x2810);
        assert_eq!(space.write(control + 1, &[0x80]), Some(true));
    }

    #[test]
    fn accesses_beyond_the_end_are_refused() {
        let mut space = ConfigSpace::new(0x4000, 9);
        for (offset, len) in [(4096, 1), (4095, 2), (u64::MAX, 1), (0, 4097)] {
            assert!(space.read(offset, len).is_none());
            assert!(space.write(offset, &vec![0; len]).is_none());
        }
        assert!(space.read(4092, 4).is_some());
    }
}
