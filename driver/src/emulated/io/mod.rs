//! I/O queues: taking commands, and letting them wait if the drive is to be slow. What they do is in [`execute`].

pub(super) mod copy;
mod execute;
mod special;
mod zoned;

use std::sync::atomic::Ordering;
use std::time::Instant;

use gangway_spec::Status;

use super::device::Device;
use super::held::Held;
use super::memory::DmaMemory;
use super::prp::PrpReader;
use super::ring::{CompletionQueue, SubmissionQueue};
pub(super) use execute::{Execution, Work};

/// Commands between the one that a drive in memory is about to execute and the one whose blocks it has fetched meanwhile.
/// With one a copy of 4 KiB takes two thirds of the time that it takes otherwise, with none a little more than that, and
/// with three no less.
const BETWEEN: u32 = 1;

/// The drive's side of an I/O submission queue, whether the queue exists at present or not.
#[derive(Default)]
pub(super) struct IoQueue {
    active: Option<Active>,
    /// What its commands work with; resets do not take it back.
    pub(super) work: Work,
}

struct Active {
    sq: SubmissionQueue,
    prps: PrpReader,
    /// Commands of a slow or faulty drive that wait.
    held: Held,
}

impl IoQueue {
    /// Makes the queue. Everything that commands of a drive without faults need is allocated here.
    pub(super) fn create(&mut self, sq: SubmissionQueue, device: &Device) {
        let held = Held::with_capacity(device.config.latency.map_or(0, |_| sq.size() as usize));
        self.active = Some(Active { sq, prps: PrpReader::new(device.max_transfer()), held });
    }

    /// The completion queue it is tied to, when it exists.
    pub(super) fn completion_queue(&self) -> Option<u16> {
        self.active.as_ref().map(|active| active.sq.completion_queue)
    }

    /// Takes the queue away with everything in it.
    pub(super) fn reset(&mut self) {
        self.active = None;
    }

    /// How many commands wait.
    pub(super) fn held(&self) -> usize {
        self.active.as_ref().map_or(0, |active| active.held.len())
    }

    /// Marks a waiting command as aborted, to be completed at the next step. `false` when there is no such command.
    pub(super) fn abort(&mut self, cid: u16) -> bool {
        self.active.as_mut().is_some_and(|active| active.held.abort(cid, Instant::now()))
    }

    /// Ends the queue: commands that wait are completed as aborted, as far as there is room.
    pub(super) fn delete(&mut self, device: &Device, host: &DmaMemory) {
        let Some(mut active) = self.active.take() else { return };
        let Some(mut cq) = device.completion_queue(active.sq.completion_queue) else { return };
        let Some(cq) = cq.as_mut() else { return };
        // The host may have made room since the last step.
        active.sq.asleep = false;
        if !device.ring_from_memory(host, &mut active.sq, cq) {
            return;
        }
        for command in active.held.drain() {
            let status = if command.aborted { Status::ABORT_REQUESTED } else { Status::ABORTED_SQ_DELETION };
            if !cq.has_room() || !device.post(host, &active.sq, cq, &command.entry, (status, 0)) {
                return;
            }
        }
    }
}

impl Device {
    /// Does what the doorbells of an I/O queue pair ask for.
    pub(super) fn step_io(&self, qid: u16) {
        let Some(gate) = self.io_queue(qid) else { return };
        let mut inside = gate.enter();
        let inside = &mut *inside;
        let (host, queue) = (&inside.memory, &mut inside.state);
        // Looked at inside the gate: a reset clears it first and then passes through the gate.
        let Some(active) = queue.active.as_mut().filter(|_| self.is_running()) else { return };
        let Some(mut cq) = self.completion_queue(active.sq.completion_queue) else { return };
        let Some(cq) = cq.as_mut() else { return };
        if self.attentive.load(Ordering::Acquire) {
            if self.ring_from_memory(host, &mut active.sq, cq) {
                loop {
                    self.run_attentively(active, &mut queue.work, cq, host);
                    if self.rest(host, &mut active.sq, cq, &active.held) {
                        return;
                    }
                }
            }
        } else if self.ring(&mut active.sq, cq) {
            self.run(active, &mut queue.work, cq, host);
        }
    }

    /// Executes commands as they are taken. A command is only taken when its completion has a place.
    #[inline]
    fn run(&self, active: &mut Active, work: &mut Work, cq: &mut CompletionQueue, host: &DmaMemory) {
        let Active { sq, prps, .. } = active;
        let prefetches = self.store.prefetches();
        while !sq.is_empty() && cq.has_room() {
            let Ok(entry) = sq.fetch(host) else { return self.unreadable(sq) };
            if prefetches && let Some(later) = sq.look_ahead(host, BETWEEN) {
                work.prefetch(&later);
            }
            let done = self.execute(prps, work, host, &entry);
            if !self.post(host, sq, cq, &entry, done) {
                return;
            }
        }
    }

    /// Looks at commands one by one: some wait before they are executed, so that data moves late as well, and to some
    /// a fault happens.
    fn run_attentively(
        &self,
        active: &mut Active,
        work: &mut Work,
        cq: &mut CompletionQueue,
        host: &DmaMemory,
    ) {
        let now = Instant::now();
        let Active { sq, prps, held } = active;
        cq.settle(host, now);
        loop {
            if !self.post_again(host, sq, cq, held) {
                return;
            }
            if cq.has_room()
                && let Some(command) = held.take_due(now)
            {
                let done = match self.foregone(&command) {
                    Some(status) => (status, 0),
                    None => {
                        prps.forget();
                        let done = self.execute(prps, work, host, &command.entry);
                        prps.spoil(host, &command.entry, &command.treatment, done)
                    }
                };
                if !self.finish(host, sq, cq, held, (&command, done, now)) {
                    return;
                }
            } else if sq.is_empty()
                || !cq.has_room()
                || held.len() >= sq.size() as usize
                || !self.is_running()
            {
                return;
            } else {
                let Ok(entry) = sq.fetch(host) else { return self.unreadable(sq) };
                if held.holds(entry.cid.get()) {
                    if !self.post(host, sq, cq, &entry, (Status::CID_CONFLICT.with_dnr(), 0)) {
                        return;
                    }
                    continue;
                }
                let Some(treatment) = self.treat(sq.id, &entry) else { return };
                held.admit(entry, treatment, now, self.config.latency.unwrap_or_default());
            }
        }
    }

    #[cold]
    pub(super) fn unreadable(&self, sq: &SubmissionQueue) {
        self.fail(&format!("submission queue {} is not in memory that may be read", sq.id));
    }
}
