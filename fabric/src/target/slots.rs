//! The commands of a connection that were not answered yet.

/// Names a command from its arrival to its answer. Slots count from 0, below the queue's size, and are used again.
pub type Slot = u16;

/// Commands that a host may have outstanding before its queue has a size: Connect, and little else.
const BEFORE_CONNECT: u16 = 4;

/// What a command's data waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is no command.
    Free,
    /// Nothing: the caller has the command and all that was sent of its data.
    Idle,
    /// In-capsule data is arriving.
    InCapsule,
    /// An R2T asked for the data.
    Requested,
}

/// A command that was not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    /// As the host gave it: any value, at any depth.
    pub(super) cid: u16,
    pub(super) phase: Phase,
    /// Whether the caller does not want the data that still arrives.
    pub(super) discard: bool,
    /// Whether a data digest was wrong.
    pub(super) damaged: bool,
    /// Bytes of data that the SGL declares.
    pub(super) length: u32,
    /// Bytes of data that arrived.
    pub(super) received: u32,
}

impl Command {
    /// A command without data.
    pub(super) const fn new(cid: u16) -> Self {
        Self { cid, phase: Phase::Idle, discard: false, damaged: false, length: 0, received: 0 }
    }
}

/// The table of commands: no allocation but in [`Slots::new`] and [`Slots::resize`].
#[derive(Debug)]
pub(super) struct Slots {
    table: Vec<Command>,
    /// Used as a stack, so that the slot freed last, which is warm in the cache, is used next.
    free: Vec<Slot>,
    limit: usize,
}

impl Slots {
    pub(super) fn new() -> Self {
        let mut slots = Self { table: Vec::new(), free: Vec::new(), limit: 0 };
        slots.resize(BEFORE_CONNECT);
        slots
    }

    /// Lets `size` commands be outstanding from now on. Commands keep their slots.
    pub(super) fn resize(&mut self, size: u16) {
        const FREE: Command = Command { phase: Phase::Free, ..Command::new(0) };
        self.limit = usize::from(size);
        let old = self.table.len();
        if self.limit > old {
            self.table.reserve_exact(self.limit - old);
            self.table.resize(self.limit, FREE);
            self.free.reserve_exact(self.limit - self.free.len());
            self.free.extend((old as Slot..size).rev());
        }
    }

    #[inline]
    pub(super) fn outstanding(&self) -> usize {
        self.table.len() - self.free.len()
    }

    /// A slot for a command, unless as many as the queue has entries are outstanding.
    #[inline]
    pub(super) fn take(&mut self, command: Command) -> Option<Slot> {
        if self.outstanding() >= self.limit {
            return None;
        }
        let slot = self.free.pop()?;
        self.table[usize::from(slot)] = command;
        Some(slot)
    }

    /// The slot of a command with this identifier.
    pub(super) fn find(&self, cid: u16) -> Option<Slot> {
        let found =
            self.table.iter().position(|command| command.phase != Phase::Free && command.cid == cid)?;
        Slot::try_from(found).ok()
    }

    /// The command in `slot`, if there is one.
    #[inline]
    pub(super) fn get(&self, slot: Slot) -> Option<&Command> {
        self.table.get(usize::from(slot)).filter(|command| command.phase != Phase::Free)
    }

    /// The command in `slot`, if there is one.
    #[inline]
    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Command> {
        self.table.get_mut(usize::from(slot)).filter(|command| command.phase != Phase::Free)
    }

    /// Frees `slot` and returns the command that it held, if any.
    #[inline]
    pub(super) fn release(&mut self, slot: Slot) -> Option<Command> {
        let command = self.get_mut(slot)?;
        let released = *command;
        command.phase = Phase::Free;
        self.free.push(slot);
        Some(released)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMAND: Command = Command::new(9);

    #[test]
    fn no_more_slots_are_given_than_the_queue_has_entries() {
        let mut slots = Slots::new();
        let connect = slots.take(COMMAND).unwrap();
        slots.resize(2);
        assert!(slots.take(COMMAND).is_some());
        assert_eq!(slots.take(COMMAND), None);
        assert!(slots.release(connect).is_some());
        assert!(slots.take(COMMAND).is_some());
        assert_eq!(slots.take(COMMAND), None);
        assert_eq!(slots.outstanding(), 2);
    }

    #[test]
    fn a_larger_table_gives_each_slot_once_and_keeps_the_commands_it_had() {
        let mut slots = Slots::new();
        let connect = slots.take(Command { cid: 77, ..COMMAND }).unwrap();
        slots.resize(128);
        let mut seen: Vec<Slot> = std::iter::from_fn(|| slots.take(COMMAND)).collect();
        assert_eq!(slots.get(connect).map(|command| command.cid), Some(77));
        seen.push(connect);
        seen.sort_unstable();
        assert_eq!(seen, (0..128).collect::<Vec<Slot>>());
    }

    #[test]
    fn a_slot_is_freed_once() {
        let mut slots = Slots::new();
        let slot = slots.take(COMMAND).unwrap();
        assert!(slots.release(slot).is_some());
        assert!(slots.release(slot).is_none());
        assert!(slots.release(999).is_none());
        assert_eq!(slots.outstanding(), 0);
    }
}
