//! The commands outstanding on a queue pair, and the identifiers they go by.

use std::time::Instant;

use crate::dma::CommandData;

/// Bits of a command identifier that name the slot. The rest counts how often the slot was used, so that a completion
/// that comes late or twice does not complete the slot's next command.
const SLOT_BITS: u32 = 10;

/// One less than the identifiers would allow: slot 1023 in its last generation would be FFFFh, which is reserved
/// (NVMe Base 2.0, 3.3.3.1).
pub(super) const MAX_SLOTS: usize = (1 << SLOT_BITS) - 1;

const GENERATIONS: u8 = 1 << (16 - SLOT_BITS);

/// A command that waits for its completion.
#[derive(Debug)]
pub(super) struct Outstanding {
    pub(super) user: u64,
    pub(super) data: CommandData,
    pub(super) deadline: Instant,
    pub(super) opcode: u8,
    pub(super) nsid: u32,
    /// How many commands were put onto the queue before it.
    pub(super) number: u64,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u8,
    outstanding: Option<Outstanding>,
}

/// A fixed number of slots.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    /// The most recently used last: its list and its entry are still in the cache.
    free: Vec<u16>,
}

impl Slots {
    pub(super) fn new(count: usize) -> Self {
        assert!(count <= MAX_SLOTS);
        Self { slots: (0..count).map(|_| Slot::default()).collect(), free: (0..count as u16).rev().collect() }
    }

    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    pub(super) fn outstanding(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The slot that the next command gets.
    #[inline]
    pub(super) fn next_free(&self) -> Option<usize> {
        self.free.last().map(|&slot| usize::from(slot))
    }

    /// Puts a command into the slot that [`Slots::next_free`] named, and gives its identifier.
    #[inline]
    pub(super) fn occupy(&mut self, command: Outstanding) -> Option<u16> {
        let index = self.free.pop()?;
        let slot = &mut self.slots[usize::from(index)];
        slot.outstanding = Some(command);
        Some(u16::from(slot.generation) << SLOT_BITS | index)
    }

    /// Takes the command out that goes by `cid`, if it is outstanding and one of the first `told` that were put onto
    /// the queue: what was given with it, and its data.
    #[inline]
    pub(super) fn complete(&mut self, cid: u16, told: u64) -> Option<(u64, CommandData)> {
        let index = cid & ((1 << SLOT_BITS) - 1);
        let slot = self.slots.get_mut(usize::from(index))?;
        if u16::from(slot.generation) != cid >> SLOT_BITS {
            return None;
        }
        let Outstanding { user, data, .. } = slot.outstanding.take_if(|command| command.number < told)?;
        slot.generation = (slot.generation + 1) % GENERATIONS;
        self.free.push(index);
        Some((user, data))
    }

    /// Takes all commands out.
    pub(super) fn take_all(&mut self) -> Vec<(u64, CommandData)> {
        let commands = self.iter_cids().collect::<Vec<_>>();
        commands.into_iter().filter_map(|cid| self.complete(cid, u64::MAX)).collect()
    }

    /// The commands outstanding, with their identifiers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, &Outstanding)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let cid = u16::from(slot.generation) << SLOT_BITS | index as u16;
            slot.outstanding.as_ref().map(|command| (cid, command))
        })
    }

    fn iter_cids(&self) -> impl Iterator<Item = u16> {
        self.iter().map(|(cid, _)| cid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(user: u64) -> Outstanding {
        Outstanding { user, data: CommandData::None, deadline: Instant::now(), opcode: 0, nsid: 0, number: 0 }
    }

    #[test]
    fn an_identifier_names_its_command_once() {
        let mut slots = Slots::new(2);
        let (a, b) = (slots.occupy(command(1)).unwrap(), slots.occupy(command(2)).unwrap());
        assert!(slots.occupy(command(3)).is_none());
        assert_eq!(slots.complete(b, 1).unwrap().0, 2);
        assert!(slots.complete(b, 1).is_none());
        let c = slots.occupy(command(4)).unwrap();
        assert_ne!(b, c, "the slot is used again under another identifier");
        assert!(slots.complete(b, 1).is_none());
        assert_eq!(slots.complete(c, 1).unwrap().0, 4);
        assert_eq!(slots.complete(a, 1).unwrap().0, 1);
        assert_eq!(slots.outstanding(), 0);
    }

    #[test]
    fn no_identifier_is_the_reserved_one() {
        let mut slots = Slots::new(MAX_SLOTS);
        for _ in 0..usize::from(GENERATIONS) + 1 {
            let cids: Vec<_> = (0..MAX_SLOTS).map(|_| slots.occupy(command(0)).unwrap()).collect();
            assert!(!cids.contains(&0xffff));
            assert!(cids.iter().all(|&cid| slots.complete(cid, 1).is_some()));
        }
    }

    #[test]
    fn identifiers_of_no_slot_are_unknown() {
        let mut slots = Slots::new(2);
        slots.occupy(command(1)).unwrap();
        for cid in [1, 2, 1023, 0x0400, 0xffff] {
            assert!(slots.complete(cid, 1).is_none(), "{cid:#x}");
        }
        assert_eq!(slots.take_all().len(), 1);
    }
}
