//! The I/O Command Set data structure, CNS 1Ch (NVMe Base 2.0, 5.17.2.20): which command sets a controller can have
//! enabled together.

use core::mem::size_of;

use bitflags::bitflags;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{csi, zeroed_default};

bitflags! {
    /// A combination of I/O command sets: a bit for each I/O Command Set Identifier.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct CommandSets: u64 {
        /// NVM Command Set.
        const NVM = 1 << csi::NVM;
        /// Key Value Command Set.
        const KEY_VALUE = 1 << csi::KEY_VALUE;
        /// Zoned Namespace Command Set.
        const ZONED_NAMESPACE = 1 << csi::ZONED_NAMESPACE;
    }
}

impl CommandSets {
    /// Whether a command set is in it.
    #[must_use]
    pub const fn has(self, csi: u8) -> bool {
        csi < 64 && self.bits() >> csi & 1 == 1
    }
}

/// The combinations of I/O command sets that a controller supports.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IoCommandSets {
    /// A combination each, by the index that I/O Command Set Profile (feature 19h) selects; 0 is none.
    pub combinations: [U64; 512],
}

const _: () = assert!(size_of::<IoCommandSets>() == 4096);

zeroed_default!(IoCommandSets);

impl IoCommandSets {
    /// The combinations there are, each with its index.
    pub fn iter(&self) -> impl Iterator<Item = (u16, CommandSets)> {
        (0..).zip(&self.combinations).filter_map(|(index, combination)| match combination.get() {
            0 => None,
            bits => Some((index, CommandSets::from_bits_retain(bits))),
        })
    }

    /// The combination to use: one with the NVM Command Set before one without, then that of the most command sets, then
    /// the first. `None` when there is none.
    #[must_use]
    pub fn widest(&self) -> Option<(u16, CommandSets)> {
        // Of equals `max_by_key` gives the last.
        let rank = |sets: CommandSets| (sets.has(csi::NVM), sets.bits().count_ones());
        self.iter().max_by_key(|&(index, sets)| (rank(sets), u16::MAX - index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn combinations(list: &[(usize, u64)]) -> IoCommandSets {
        let mut sets = IoCommandSets::default();
        for &(index, bits) in list {
            sets.combinations[index].set(bits);
        }
        sets
    }

    #[test]
    fn the_widest_combination_with_the_nvm_command_set_is_used() {
        assert_eq!(combinations(&[]).widest(), None);
        let zoned = CommandSets::NVM | CommandSets::ZONED_NAMESPACE;
        assert_eq!(combinations(&[(0, 1), (1, 5), (2, 3)]).widest(), Some((1, zoned)));
        assert_eq!(combinations(&[(3, 1), (7, 0b1110)]).widest(), Some((3, CommandSets::NVM)));
        assert_eq!(combinations(&[(511, 0b110)]).widest().map(|(index, _)| index), Some(511));
    }

    #[test]
    fn sets_that_nobody_has_named_are_kept() {
        let (_, sets) = combinations(&[(0, 1 << 63 | 1)]).widest().unwrap();
        assert!(sets.has(63) && sets.has(csi::NVM) && !sets.has(csi::KEY_VALUE) && !sets.has(64));
    }
}
