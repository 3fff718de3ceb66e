//! The commands that a queue has in flight, and the identifiers by which the controller knows them.

/// Names a command of one queue from its submission until it is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(u16);

impl Tag {
    /// A number below the queue size, for tables of the caller's own. It is used again for later commands.
    pub fn index(self) -> usize {
        self.0.into()
    }
}

/// The data of a command, as far as the protocol has to know about it. Lengths are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// There is none.
    None,
    /// To the controller.
    Send(u32),
    /// From the controller, at most so much.
    Receive(u32),
}

impl Data {
    /// Bytes that the command declares.
    pub fn length(self) -> u32 {
        match self {
            Data::None => 0,
            Data::Send(length) | Data::Receive(length) => length,
        }
    }
}

/// As many commands are in flight as the queue takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full: reap a completion before submitting another command")]
pub struct QueueFull;

/// Where a command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Free,
    InFlight,
    /// The completion has arrived, and the caller has not released the command yet.
    Completed,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) state: State,
    /// Distinguishes the commands that use the slot one after the other, so that a late or doubled completion is
    /// not taken for that of another command.
    generation: u16,
    pub(super) data: Data,
    /// The data went with the capsule: no R2T may ask for it.
    pub(super) in_capsule: bool,
    /// Bytes received, or bytes that R2Ts have asked for.
    pub(super) moved: u32,
    /// An R2T is not answered in full yet.
    pub(super) requested: bool,
    /// The last data PDU to the host has arrived.
    pub(super) last_received: bool,
    /// A data digest was wrong.
    pub(super) damaged: bool,
}

/// The slots of one queue.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// Low bits of a command identifier that hold the slot; the generation is above them.
    slot_bits: u32,
}

impl Slots {
    /// Slots for a queue of `queue_size` entries, of which one always stays empty.
    pub(super) fn new(queue_size: u16) -> Slots {
        let count = queue_size.saturating_sub(1);
        let slot = || Slot {
            state: State::Free,
            generation: 0,
            data: Data::None,
            in_capsule: false,
            moved: 0,
            requested: false,
            last_received: false,
            damaged: false,
        };
        Slots {
            slots: (0..count).map(|_| slot()).collect(),
            free: (0..count).rev().collect(),
            // Since there is one slot less than entries, FFFFh, which is no valid identifier, never comes up.
            slot_bits: u32::from(queue_size).next_power_of_two().trailing_zeros(),
        }
    }

    pub(super) fn take(&mut self, data: Data, in_capsule: bool) -> Result<Tag, QueueFull> {
        let index = self.free.pop().ok_or(QueueFull)?;
        let slot = &mut self.slots[usize::from(index)];
        *slot = Slot {
            state: State::InFlight,
            generation: slot.generation.wrapping_add(1),
            data,
            in_capsule,
            moved: 0,
            requested: false,
            last_received: false,
            damaged: false,
        };
        Ok(Tag(index))
    }

    pub(super) fn release(&mut self, tag: Tag) {
        if let Some(slot) = self.slots.get_mut(tag.index())
            && slot.state == State::Completed
        {
            slot.state = State::Free;
            self.free.push(tag.0);
        }
    }

    /// Frees the slots of all commands in flight: none of them will be completed.
    pub(super) fn abandon(&mut self) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.state == State::InFlight {
                slot.state = State::Free;
                // There are fewer slots than a u16 has values.
                self.free.push(index as u16);
            }
        }
    }

    /// The command identifier of the command in a slot.
    pub(super) fn cid(&self, tag: Tag) -> u16 {
        let generation = self.slots[tag.index()].generation;
        generation.checked_shl(self.slot_bits).unwrap_or(0) | tag.0
    }

    /// The slot of the command in flight that has this identifier.
    pub(super) fn in_flight(&mut self, cid: u16) -> Option<(Tag, &mut Slot)> {
        let tag = Tag((u32::from(cid) & ((1 << self.slot_bits) - 1)) as u16);
        if self.slots.get(tag.index())?.state != State::InFlight || self.cid(tag) != cid {
            return None;
        }
        Some((tag, &mut self.slots[tag.index()]))
    }

    pub(super) fn get_mut(&mut self, tag: Tag) -> &mut Slot {
        &mut self.slots[tag.index()]
    }

    /// Bytes of a command's data that were moved.
    pub(super) fn moved(&self, tag: Tag) -> u32 {
        self.slots[tag.index()].moved
    }

    /// Commands that are not released yet.
    pub(super) fn used(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_queue_takes_one_command_less_than_it_has_entries() {
        for queue_size in [2, 3, 32, 33, 1024] {
            let mut slots = Slots::new(queue_size);
            let mut cids = HashSet::new();
            for _ in 1..queue_size {
                let tag = slots.take(Data::None, false).unwrap();
                assert!(cids.insert(slots.cid(tag)));
                assert_eq!(slots.in_flight(slots.cid(tag)).unwrap().0, tag);
            }
            assert_eq!(slots.take(Data::None, false), Err(QueueFull));
            assert!(slots.is_full());
        }
    }

    #[test]
    fn a_slot_that_is_used_again_has_another_command_identifier() {
        let mut slots = Slots::new(2);
        let mut cids = HashSet::new();
        for _ in 0..1000 {
            let tag = slots.take(Data::None, false).unwrap();
            let cid = slots.cid(tag);
            assert!(cids.insert(cid) && cid != u16::MAX);
            slots.get_mut(tag).state = State::Completed;
            assert!(slots.in_flight(cid).is_none());
            slots.release(tag);
        }
    }

    #[test]
    fn the_largest_queue_has_no_room_for_generations_and_still_works() {
        let mut slots = Slots::new(u16::MAX);
        let tag = slots.take(Data::None, false).unwrap();
        assert_eq!(slots.cid(tag), 0);
        assert_eq!(slots.in_flight(0).unwrap().0, tag);
        assert!(slots.in_flight(u16::MAX).is_none());
    }

    #[test]
    fn a_command_in_flight_is_not_released() {
        let mut slots = Slots::new(3);
        let tag = slots.take(Data::None, false).unwrap();
        slots.release(tag);
        assert_eq!(slots.used(), 1);
        slots.get_mut(tag).state = State::Completed;
        slots.release(tag);
        slots.release(tag);
        assert_eq!(slots.used(), 0);
    }
}
