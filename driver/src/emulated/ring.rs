//! Submission and completion queues from the drive's side.

use std::time::Instant;

use gangway_spec::{CompletionQueueEntry, SubmissionQueueEntry};
use zerocopy::transmute;

use super::memory::{Access, DmaFault, DmaMemory};

/// Bytes of a submission queue entry.
const SQ_ENTRY: u64 = 64;
/// Bytes of a completion queue entry.
const CQ_ENTRY: u64 = 16;

/// A doorbell was written that no queue of this size, or in this state, can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidDoorbell;

/// A submission queue: the host fills it and moves the tail, the drive empties it and moves the head.
pub(super) struct SubmissionQueue {
    pub(super) id: u16,
    /// The completion queue that its completions go to.
    pub(super) completion_queue: u16,
    base: u64,
    size: u32,
    head: u32,
    tail: u32,
    /// The drive does not look at shadow doorbells until the register is written.
    pub(super) asleep: bool,
}

impl SubmissionQueue {
    pub(super) fn new(id: u16, completion_queue: u16, base: u64, size: u32) -> Self {
        Self { id, completion_queue, base, size, head: 0, tail: 0, asleep: false }
    }

    /// Whether the drive may read a submission queue there.
    pub(super) fn is_reachable(host: &DmaMemory, base: u64, size: u32) -> bool {
        host.check(base, size as usize * SQ_ENTRY as usize, Access::Read).is_ok()
    }

    /// How many entries it has.
    pub(super) fn size(&self) -> u32 {
        self.size
    }

    /// Whether all commands that the drive knows of were taken.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// The tail, as far as the drive knows of it.
    pub(super) fn tail(&self) -> u32 {
        self.tail
    }

    /// Takes over what the tail doorbell says.
    ///
    /// # Errors
    /// The tail is beyond the end, or has overtaken the head.
    #[inline]
    pub(super) fn ring(&mut self, tail: u32) -> Result<(), InvalidDoorbell> {
        if tail == self.tail {
            return Ok(());
        }
        let free = self.size - 1 - distance(self.head, self.tail, self.size);
        if tail >= self.size || distance(self.tail, tail, self.size) > free {
            return Err(InvalidDoorbell);
        }
        self.tail = tail;
        Ok(())
    }

    /// Takes the next command. The queue must not be [empty](Self::is_empty).
    ///
    /// # Errors
    /// The queue's memory may not be read.
    #[inline]
    pub(super) fn fetch(&mut self, host: &DmaMemory) -> Result<SubmissionQueueEntry, DmaFault> {
        debug_assert!(!self.is_empty(), "the caller looked whether there is one");
        let entry = host.read_entry(self.base + u64::from(self.head) * SQ_ENTRY)?;
        self.head = next(self.head, self.size);
        Ok(transmute!(entry))
    }

    /// The command that is `ahead` places behind the next one, if the drive knows of it already and may read it. It is not
    /// taken: the host may change it until it is.
    #[inline]
    pub(super) fn look_ahead(&self, host: &DmaMemory, ahead: u32) -> Option<SubmissionQueueEntry> {
        if ahead >= distance(self.head, self.tail, self.size) {
            return None;
        }
        let index = self.head + ahead;
        let index = if index >= self.size { index - self.size } else { index };
        let entry = host.peek_entry(self.base + u64::from(index) * SQ_ENTRY)?;
        Some(transmute!(entry))
    }

    /// Head pointer as completions report it.
    pub(super) fn head(&self) -> u16 {
        self.head as u16
    }
}

/// A completion queue: the drive fills it, the host empties it and moves the head.
pub(super) struct CompletionQueue {
    base: u64,
    size: u32,
    head: u32,
    tail: u32,
    phase: bool,
    /// Entries that were written with the wrong phase, to be written again.
    late: Vec<Late>,
    /// The vector that it interrupts with.
    vector: Option<u16>,
    /// The tail that the last interrupt told of; [`u32::MAX`] when there is something to tell whatever the tail is.
    told: u32,
}

/// An entry whose phase is wrong until a time.
struct Late {
    due: Instant,
    index: u32,
    entry: CompletionQueueEntry,
}

impl CompletionQueue {
    pub(super) fn new(base: u64, size: u32, vector: Option<u16>) -> Self {
        Self { base, size, head: 0, tail: 0, phase: true, late: Vec::new(), vector, told: 0 }
    }

    /// Whether something was posted since the last call; then also the vector to interrupt with.
    pub(super) fn take_news(&mut self) -> Option<Option<u16>> {
        if self.told == self.tail {
            return None;
        }
        self.told = self.tail;
        Some(self.vector)
    }

    /// Whether the drive may write a completion queue there.
    pub(super) fn is_reachable(host: &DmaMemory, base: u64, size: u32) -> bool {
        host.check(base, size as usize * CQ_ENTRY as usize, Access::Write).is_ok()
    }

    /// Takes over what the head doorbell says.
    ///
    /// # Errors
    /// The head is beyond the end, or has overtaken the tail.
    #[inline]
    pub(super) fn ring(&mut self, head: u32) -> Result<(), InvalidDoorbell> {
        if head >= self.size
            || distance(self.head, head, self.size) > distance(self.head, self.tail, self.size)
        {
            return Err(InvalidDoorbell);
        }
        self.head = head;
        Ok(())
    }

    /// Whether another completion fits.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        next(self.tail, self.size) != self.head
    }

    /// Hands a completion to the host. There must be [room](Self::has_room).
    ///
    /// # Errors
    /// The queue's memory may not be written.
    #[inline]
    pub(super) fn post(&mut self, host: &DmaMemory, mut entry: CompletionQueueEntry) -> Result<(), DmaFault> {
        debug_assert!(self.has_room(), "the caller looked for room");
        entry.set_phase(self.phase);
        self.write(host, entry)
    }

    /// Hands a completion over with the wrong phase, so that the host does not see it: until a time, or for good.
    /// There must be [room](Self::has_room).
    ///
    /// # Errors
    /// The queue's memory may not be written.
    pub(super) fn post_unseen(
        &mut self,
        host: &DmaMemory,
        mut entry: CompletionQueueEntry,
        until: Option<Instant>,
    ) -> Result<(), DmaFault> {
        entry.set_phase(self.phase);
        self.late.extend(until.map(|due| Late { due, index: self.tail, entry }));
        entry.set_phase(!self.phase);
        self.write(host, entry)
    }

    #[inline]
    fn write(&mut self, host: &DmaMemory, entry: CompletionQueueEntry) -> Result<(), DmaFault> {
        host.write_completion(self.base + u64::from(self.tail) * CQ_ENTRY, transmute!(entry))?;
        self.tail = next(self.tail, self.size);
        if self.tail == 0 {
            self.phase = !self.phase;
        }
        Ok(())
    }

    /// Whether no phase is to be put right.
    pub(super) fn is_settled(&self) -> bool {
        self.late.is_empty()
    }

    /// Puts phases right whose time has come.
    pub(super) fn settle(&mut self, host: &DmaMemory, now: Instant) {
        let (base, size, head, tail) = (self.base, self.size, self.head, self.tail);
        let told = &mut self.told;
        self.late.retain(|late| {
            // One that the host has passed over is none of its completions any more.
            let outstanding = distance(head, late.index, size) < distance(head, tail, size);
            if outstanding && late.due <= now {
                // The queue was in memory when the entry was written. If it no longer is, nobody looks for it.
                let _ =
                    host.write_completion(base + u64::from(late.index) * CQ_ENTRY, transmute!(late.entry));
                *told = u32::MAX;
            }
            outstanding && late.due > now
        });
    }
}

#[inline]
fn next(index: u32, size: u32) -> u32 {
    if index + 1 == size { 0 } else { index + 1 }
}

/// Entries from `from` up to `to`, both below `size`.
#[inline]
fn distance(from: u32, to: u32, size: u32) -> u32 {
    if to >= from { to - from } else { to + size - from }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::dma::{Direction, DmaDomain};
    use crate::emulated::memory::EmulatedIommu;

    #[test]
    fn a_tail_beyond_the_queue_or_past_its_head_is_invalid() {
        let mut queue = SubmissionQueue::new(1, 1, 0x10000, 4);
        assert_eq!(queue.ring(4), Err(InvalidDoorbell));
        assert_eq!(queue.ring(2), Ok(()));
        assert_eq!(queue.ring(1), Err(InvalidDoorbell), "3 more do not fit beside 2");
        assert_eq!(queue.ring(0), Err(InvalidDoorbell), "a full queue has an empty entry left");
        assert_eq!(queue.ring(3), Ok(()));
    }

    #[test]
    fn what_is_looked_at_ahead_is_what_will_be_fetched_and_nothing_behind_the_tail() {
        let violations = Arc::new(AtomicU64::new(0));
        let iommu = Arc::new(EmulatedIommu::new(Arc::clone(&violations)));
        let gate = iommu.gate(());
        let domain = DmaDomain::new();
        domain.attach(iommu).unwrap();
        let mut memory = domain.buffer(4 * SQ_ENTRY as usize, Direction::DeviceReads).unwrap();
        for (index, entry) in memory.chunks_exact_mut(SQ_ENTRY as usize).enumerate() {
            entry[0] = 0x10 + index as u8;
        }
        let inside = gate.enter();
        let mut queue = SubmissionQueue::new(1, 1, memory.iova(), 4);
        for (tail, waiting) in [(3, &[0x10, 0x11, 0x12][..]), (1, &[0x13, 0x10])] {
            queue.ring(tail).unwrap();
            let seen = (0..4).map_while(|ahead| queue.look_ahead(&inside.memory, ahead));
            assert_eq!(seen.map(|entry| entry.opcode).collect::<Vec<_>>(), waiting);
            for opcode in waiting {
                assert_eq!(queue.fetch(&inside.memory).unwrap().opcode, *opcode);
            }
        }
        assert!(queue.look_ahead(&inside.memory, 0).is_none());

        // A queue that goes on behind the page that may be read.
        let mut queue = SubmissionQueue::new(1, 1, memory.iova() + 4096 - SQ_ENTRY, 4);
        queue.ring(3).unwrap();
        assert!(queue.look_ahead(&inside.memory, 0).is_some());
        assert!(queue.look_ahead(&inside.memory, 1).is_none());
        queue.fetch(&inside.memory).unwrap();
        assert_eq!(violations.load(Ordering::Relaxed), 0);
        assert!(queue.fetch(&inside.memory).is_err());
        assert_eq!(violations.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_head_may_move_up_to_the_tail_and_no_further() {
        let mut queue = CompletionQueue { head: 2, tail: 1, ..CompletionQueue::new(0, 4, None) };
        assert!(!queue.has_room());
        assert_eq!(queue.ring(4), Err(InvalidDoorbell));
        assert_eq!(queue.ring(0), Ok(()));
        assert!(queue.has_room());
        assert_eq!(queue.ring(2), Err(InvalidDoorbell));
        assert_eq!(queue.ring(3), Err(InvalidDoorbell), "it does not move back");
        assert_eq!(queue.ring(1), Ok(()));
    }
}
