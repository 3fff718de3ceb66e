//! Creation and deletion of I/O queues (NVMe Base 1.4, 5.3 to 5.6).

use std::sync::atomic::Ordering;

use gangway_spec::Status;
use gangway_spec::registers::ControllerConfiguration;

use super::{AdminCommand, Answer, invalid_field};
use crate::emulated::device::lock;
use crate::emulated::memory::Access;
use crate::emulated::prp::PAGE;
use crate::emulated::ring::{CompletionQueue, SubmissionQueue};
use crate::emulated::shadow::ShadowDoorbells;
use crate::emulated::store::dma_status;

/// PC: the queue is physically contiguous (CDW11 of both Create commands).
const PHYSICALLY_CONTIGUOUS: u32 = 1 << 0;
/// IEN: the completion queue interrupts (CDW11 of Create I/O Completion Queue).
const INTERRUPTS_ENABLED: u32 = 1 << 1;
/// The entry sizes that Identify Controller requires, as CC must state them: powers of two.
const ENTRY_SIZES: (u8, u8) = (6, 4);

impl AdminCommand<'_> {
    /// Queue identifier and number of entries, checked as far as both kinds of queue agree.
    fn new_queue(&self, granted: u16) -> Result<(u16, u32), Status> {
        let (qid, size) = (self.entry.cdw10.get() as u16, (self.entry.cdw10.get() >> 16) + 1);
        if qid == 0 || qid > granted {
            return Err(Status::INVALID_QUEUE_IDENTIFIER.with_dnr());
        }
        if size < 2 || size > self.device.config.depth {
            return Err(Status::INVALID_QUEUE_SIZE.with_dnr());
        }
        if self.entry.cdw11.get() & PHYSICALLY_CONTIGUOUS == 0 {
            return invalid_field();
        }
        if !self.entry.prp1().is_multiple_of(PAGE as u64) {
            return Err(Status::INVALID_PRP_OFFSET.with_dnr());
        }
        Ok((qid, size))
    }

    pub(super) fn create_completion_queue(&mut self) -> Answer {
        let (qid, size) = self.new_queue(self.admin.granted.completion)?;
        // Within a process nobody is interrupted; the vector has to be one that the device would have all the same.
        let vector = self.entry.cdw11.get() >> 16;
        if vector >= u32::from(self.device.queue_count()) {
            return Err(Status::INVALID_INTERRUPT_VECTOR.with_dnr());
        }
        if self.configured_entry_sizes().1 != ENTRY_SIZES.1 {
            return Err(Status::INVALID_QUEUE_SIZE.with_dnr());
        }
        let Some(mut queue) = self.device.completion_queue(qid) else {
            return Err(Status::INVALID_QUEUE_IDENTIFIER.with_dnr());
        };
        if queue.is_some() {
            return Err(Status::INVALID_QUEUE_IDENTIFIER.with_dnr());
        }
        if !CompletionQueue::is_reachable(self.host, self.entry.prp1(), size) {
            return Err(Status::DATA_TRANSFER_ERROR.with_dnr());
        }
        self.device.reset_doorbell(qid, true);
        let interrupts = self.entry.cdw11.get() & INTERRUPTS_ENABLED != 0;
        let vector = interrupts.then_some(vector as u16);
        *queue = Some(CompletionQueue::new(self.entry.prp1(), size, vector));
        self.admin.has_io_queues = true;
        Ok(0)
    }

    pub(super) fn create_submission_queue(&mut self) -> Answer {
        let (qid, size) = self.new_queue(self.admin.granted.submission)?;
        let completion = (self.entry.cdw11.get() >> 16) as u16;
        if completion == 0 || completion > self.admin.granted.completion {
            return Err(Status::INVALID_QUEUE_IDENTIFIER.with_dnr());
        }
        let exists = self.device.completion_queue(completion).is_some_and(|queue| queue.is_some());
        if !exists {
            return Err(Status::COMPLETION_QUEUE_INVALID.with_dnr());
        }
        if self.configured_entry_sizes().0 != ENTRY_SIZES.0 {
            return Err(Status::INVALID_QUEUE_SIZE.with_dnr());
        }
        let Some(gate) = self.device.io_queue(qid) else {
            return Err(Status::INVALID_QUEUE_IDENTIFIER.with_dnr());
        };
        let mut inside = gate.enter();
        if inside.state.completion_queue().is_some() {
            return Err(Status::INVALID_QUEUE_IDENTIFIER.with_dnr());
        }
        if !SubmissionQueue::is_reachable(self.host, self.entry.prp1(), size) {
            return Err(Status::DATA_TRANSFER_ERROR.with_dnr());
        }
        self.device.reset_doorbell(qid, false);
        let sq = SubmissionQueue::new(qid, completion, self.entry.prp1(), size);
        inside.state.create(sq, self.device);
        self.admin.has_io_queues = true;
        Ok(0)
    }

    pub(super) fn delete_submission_queue(&mut self) -> Answer {
        let qid = self.entry.cdw10.get() as u16;
        let gate = self.device.io_queue(qid).ok_or(Status::INVALID_QUEUE_IDENTIFIER.with_dnr())?;
        let mut inside = gate.enter();
        if inside.state.completion_queue().is_none() {
            return Err(Status::INVALID_QUEUE_IDENTIFIER.with_dnr());
        }
        let inside = &mut *inside;
        inside.state.delete(self.device, &inside.memory);
        Ok(0)
    }

    pub(super) fn delete_completion_queue(&mut self) -> Answer {
        let qid = self.entry.cdw10.get() as u16;
        // The admin completion queue cannot be deleted.
        let exists = qid != 0 && self.device.completion_queue(qid).is_some_and(|queue| queue.is_some());
        if !exists {
            return Err(Status::INVALID_QUEUE_IDENTIFIER.with_dnr());
        }
        if self.device.io.iter().any(|gate| gate.enter().state.completion_queue() == Some(qid)) {
            return Err(Status::INVALID_QUEUE_DELETION.with_dnr());
        }
        if let Some(mut queue) = self.device.completion_queue(qid) {
            *queue = None;
        }
        Ok(0)
    }

    /// Doorbell Buffer Config (NVMe Base 1.4, 5.7).
    pub(super) fn configure_doorbell_buffers(&mut self) -> Answer {
        if !self.device.config.capabilities.shadow_doorbells {
            return Err(Status::INVALID_OPCODE.with_dnr());
        }
        let (doorbells, events) = (self.entry.prp1(), self.entry.prp2());
        if !doorbells.is_multiple_of(PAGE as u64) || !events.is_multiple_of(PAGE as u64) {
            return invalid_field();
        }
        self.host.check(doorbells, PAGE, Access::Read).map_err(dma_status)?;
        self.host.check(events, PAGE, Access::Write).map_err(dma_status)?;
        *lock(&self.device.shadow) = Some(ShadowDoorbells { doorbells, events });
        self.device.attentive.store(true, Ordering::Release);
        Ok(0)
    }

    /// CC.IOSQES and CC.IOCQES.
    fn configured_entry_sizes(&self) -> (u8, u8) {
        let bits = self.device.configuration.load(Ordering::Acquire);
        let configuration = ControllerConfiguration::from_bits(bits);
        (configuration.iosqes(), configuration.iocqes())
    }
}
