//! Shadow doorbells from the drive's side (NVMe Base 2.0, 5.8 and annex B.5).
//!
//! While the drive has something to do on a queue it looks at the doorbells in host memory by itself. When it has nothing,
//! it leaves the event index and sleeps: then only a write to the register wakes it, so that a driver which leaves that
//! out is found out.

use std::sync::atomic::{Ordering, fence};

use super::device::{Device, lock};
use super::held::Held;
use super::memory::{DmaFault, DmaMemory};
use super::ring::{CompletionQueue, SubmissionQueue};

/// Where the host's doorbells are, and where it looks for the event indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ShadowDoorbells {
    pub(super) doorbells: u64,
    pub(super) events: u64,
}

impl Device {
    /// Bytes from the beginning of either page to what belongs to a doorbell: as among the registers.
    fn shadow_offset(&self, qid: u16, completion: bool) -> u64 {
        (2 * u64::from(qid) + u64::from(completion)) << (2 + self.config.stride)
    }

    /// Takes over both doorbells of an I/O queue pair, from memory if the host keeps them there. `false` when there is
    /// nothing to do, or the controller failed.
    pub(super) fn ring_from_memory(
        &self,
        host: &DmaMemory,
        sq: &mut SubmissionQueue,
        cq: &mut CompletionQueue,
    ) -> bool {
        let Some(shadow) = *lock(&self.shadow) else { return self.ring(sq, cq) };
        let rung = self.doorbells.take(self.doorbell_index(sq.id, false)).is_some();
        if sq.asleep && !rung {
            return false;
        }
        sq.asleep = false;
        self.look(host, sq, cq, shadow)
    }

    /// Goes to sleep when a queue has nothing to do. `false` when there turned out to be something, which is to be done
    /// now.
    pub(super) fn rest(
        &self,
        host: &DmaMemory,
        sq: &mut SubmissionQueue,
        cq: &mut CompletionQueue,
        held: &Held,
    ) -> bool {
        let Some(shadow) = *lock(&self.shadow) else { return true };
        if !sq.is_empty() || !held.is_idle() || !cq.is_settled() || !self.is_running() {
            return true;
        }
        let event = shadow.events + self.shadow_offset(sq.id, false);
        if host.write_word(event, sq.tail()).is_err() {
            self.fail("the event indexes are not in memory that may be written");
            return true;
        }
        // The index is seen by the host before the doorbell is looked at once more: else the host could leave the
        // register alone at the very moment at which nobody looks at the memory any more.
        fence(Ordering::SeqCst);
        if !self.look(host, sq, cq, shadow) {
            return true;
        }
        sq.asleep = sq.is_empty();
        sq.asleep
    }

    fn look(
        &self,
        host: &DmaMemory,
        sq: &mut SubmissionQueue,
        cq: &mut CompletionQueue,
        shadow: ShadowDoorbells,
    ) -> bool {
        let read = |qid, completion| -> Result<u32, DmaFault> {
            host.read_word(shadow.doorbells + self.shadow_offset(qid, completion))
        };
        match (read(sq.id, false), read(sq.completion_queue, true)) {
            (Ok(tail), Ok(head)) => self.ring_to(sq, cq, (tail, head)),
            _ => {
                self.fail("the shadow doorbells are not in memory that may be read");
                false
            }
        }
    }
}
