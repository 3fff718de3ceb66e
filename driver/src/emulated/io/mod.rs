//! I/O queues: taking commands, and letting them wait if the drive is to be slow. What they do is in [`execute`].

mod execute;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use gangway_spec::{Status, SubmissionQueueEntry};

use super::counters::Counters;
use super::device::Device;
use super::memory::DmaMemory;
use super::prp::PrpReader;
use super::ring::{CompletionQueue, SubmissionQueue};

/// The drive's side of an I/O submission queue, whether the queue exists at present or not.
#[derive(Default)]
pub(super) struct IoQueue {
    active: Option<Active>,
    /// Counted since the drive was made; resets do not take it back.
    pub(super) counters: Counters,
}

struct Active {
    sq: SubmissionQueue,
    prps: PrpReader,
    /// Commands of a slow drive that wait for their time, in the order they came in.
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    due: Instant,
    entry: SubmissionQueueEntry,
    aborted: bool,
}

impl IoQueue {
    /// Makes the queue. Everything its commands will need is allocated here.
    pub(super) fn create(&mut self, sq: SubmissionQueue, max_transfer: usize, latency: Option<Duration>) {
        let waiting = VecDeque::with_capacity(latency.map_or(0, |_| sq.size() as usize));
        self.active = Some(Active { sq, prps: PrpReader::new(max_transfer), waiting });
    }

    /// The completion queue it is tied to, when it exists.
    pub(super) fn completion_queue(&self) -> Option<u16> {
        self.active.as_ref().map(|active| active.sq.completion_queue)
    }

    /// Takes the queue away with everything in it.
    pub(super) fn reset(&mut self) {
        self.active = None;
    }

    /// Marks a waiting command as aborted, to be completed at the next step. `false` when there is no such command.
    pub(super) fn abort(&mut self, cid: u16) -> bool {
        let Some(active) = &mut self.active else { return false };
        let found =
            active.waiting.iter().position(|waiting| !waiting.aborted && waiting.entry.cid.get() == cid);
        let Some(mut waiting) = found.and_then(|index| active.waiting.remove(index)) else { return false };
        waiting.aborted = true;
        waiting.due = Instant::now();
        active.waiting.push_front(waiting);
        true
    }

    /// Ends the queue: commands that wait are completed as aborted, as far as there is room.
    pub(super) fn delete(&mut self, device: &Device, host: &DmaMemory) {
        let Some(mut active) = self.active.take() else { return };
        let Some(mut cq) = device.completion_queue(active.sq.completion_queue) else { return };
        let Some(cq) = cq.as_mut() else { return };
        if !device.ring(&mut active.sq, cq) {
            return;
        }
        for waiting in active.waiting.drain(..) {
            if !cq.has_room()
                || !device.post(host, &active.sq, cq, &waiting.entry, (Status::ABORTED_SQ_DELETION, 0))
            {
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
        if !self.ring(&mut active.sq, cq) {
            return;
        }
        match self.config.latency {
            None => self.run(active, &mut queue.counters, cq, host),
            Some(latency) => self.run_slowly(latency, active, &mut queue.counters, cq, host),
        }
    }

    /// Executes commands as they are taken. A command is only taken when its completion has a place.
    #[inline]
    fn run(&self, active: &mut Active, counters: &mut Counters, cq: &mut CompletionQueue, host: &DmaMemory) {
        while cq.has_room() {
            match active.sq.fetch(host) {
                Ok(Some(entry)) => {
                    let done = self.execute(&mut active.prps, counters, host, &entry);
                    if !self.post(host, &active.sq, cq, &entry, done) {
                        return;
                    }
                }
                Ok(None) => return,
                Err(_) => return self.unreadable(&active.sq),
            }
        }
    }

    /// Lets commands wait before they are executed, so that data moves late as well.
    fn run_slowly(
        &self,
        latency: Duration,
        active: &mut Active,
        counters: &mut Counters,
        cq: &mut CompletionQueue,
        host: &DmaMemory,
    ) {
        let now = Instant::now();
        while active.waiting.len() < active.sq.size() as usize {
            match active.sq.fetch(host) {
                Ok(Some(entry)) => {
                    if active.waiting.iter().any(|waiting| waiting.entry.cid == entry.cid) {
                        if !cq.has_room() {
                            return self.fail(
                                "a command identifier was used twice and the completion queue is full",
                            );
                        }
                        if !self.post(host, &active.sq, cq, &entry, (Status::CID_CONFLICT.with_dnr(), 0)) {
                            return;
                        }
                        continue;
                    }
                    active.waiting.push_back(Waiting { due: now + latency, entry, aborted: false });
                }
                Ok(None) => break,
                Err(_) => return self.unreadable(&active.sq),
            }
        }
        while cq.has_room() && active.waiting.front().is_some_and(|waiting| waiting.due <= now) {
            let Some(Waiting { entry, aborted, .. }) = active.waiting.pop_front() else { return };
            let done = if aborted {
                (Status::ABORT_REQUESTED, 0)
            } else {
                self.execute(&mut active.prps, counters, host, &entry)
            };
            if !self.post(host, &active.sq, cq, &entry, done) {
                return;
            }
        }
    }

    #[cold]
    pub(super) fn unreadable(&self, sq: &SubmissionQueue) {
        self.fail(&format!("submission queue {} is not in memory that may be read", sq.id));
    }
}
