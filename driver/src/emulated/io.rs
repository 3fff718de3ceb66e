//! I/O queues: taking commands, letting them wait if the drive is to be slow, and executing them.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gangway_spec::{Status, SubmissionQueueEntry, nvm, opcode};
use zerocopy::FromBytes;

use super::counters::Counters;
use super::device::Device;
use super::memory::{Access, DmaMemory};
use super::namespace::ByteRange;
use super::prp::PrpReader;
use super::ring::{CompletionQueue, SubmissionQueue};
use super::store::dma_status;

/// Most ranges of a Dataset Management command.
const DSM_RANGES: usize = nvm::dsm::MAX_RANGES as usize;
const DSM_RANGE_LEN: usize = size_of::<nvm::DatasetManagementRange>();

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
                    let status = self.execute(&mut active.prps, counters, host, &entry);
                    if !self.post(host, &active.sq, cq, &entry, (status, 0)) {
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
            let status = if aborted {
                Status::ABORT_REQUESTED
            } else {
                self.execute(&mut active.prps, counters, host, &entry)
            };
            if !self.post(host, &active.sq, cq, &entry, (status, 0)) {
                return;
            }
        }
    }

    #[cold]
    pub(super) fn unreadable(&self, sq: &SubmissionQueue) {
        self.fail(&format!("submission queue {} is not in memory that may be read", sq.id));
    }

    #[inline]
    fn execute(
        &self,
        prps: &mut PrpReader,
        counters: &mut Counters,
        host: &DmaMemory,
        entry: &SubmissionQueueEntry,
    ) -> Status {
        let result = Execution { device: self, prps, counters, host, entry }.run();
        if let Err(status) = result
            && status.sct() == Status::SCT_MEDIA
            && !status.is(Status::COMPARE_FAILURE)
        {
            counters.media_errors += 1;
        }
        result.err().unwrap_or(Status::SUCCESS)
    }
}

/// One I/O command with all it needs.
struct Execution<'a> {
    device: &'a Device,
    prps: &'a mut PrpReader,
    counters: &'a mut Counters,
    host: &'a DmaMemory,
    entry: &'a SubmissionQueueEntry,
}

impl Execution<'_> {
    #[inline]
    fn run(&mut self) -> Result<(), Status> {
        // Neither fused operations nor SGLs are promised by Identify; the other bits are reserved.
        if self.entry.flags != 0 {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        match self.entry.opcode {
            opcode::nvm::READ => self.read(),
            opcode::nvm::WRITE => self.write(),
            opcode::nvm::FLUSH => self.flush(),
            opcode::nvm::COMPARE if self.device.store.keeps_data() => self.compare(),
            opcode::nvm::WRITE_ZEROES => self.write_zeroes(),
            opcode::nvm::DATASET_MANAGEMENT => self.dataset_management(),
            opcode::nvm::VERIFY => self.verify(),
            _ => Err(Status::INVALID_OPCODE.with_dnr()),
        }
    }

    fn nsid(&self) -> u32 {
        self.entry.nsid.get()
    }

    /// The blocks that the command names.
    #[inline]
    fn blocks(&self) -> Result<ByteRange, Status> {
        let blocks = u64::from(nvm::nlb(self.entry));
        self.device.namespaces.range(self.nsid(), nvm::slba(self.entry), blocks)
    }

    /// The blocks that the command names, to be moved from or to the host.
    #[inline]
    fn transfer(&self) -> Result<(u64, usize), Status> {
        let range = self.blocks()?;
        if range.len > self.device.max_transfer() as u64 {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        Ok((range.offset, range.len as usize))
    }

    #[inline]
    fn prp(&self) -> (u64, u64) {
        (self.entry.prp1(), self.entry.prp2())
    }

    /// Whether the command must be on the media when it completes.
    #[inline]
    fn is_durable(&self) -> bool {
        self.device.store.has_volatile_cache()
            && (nvm::IoControl::of(self.entry).fua() || !self.device.write_cache.load(Ordering::Relaxed))
    }

    #[inline]
    fn read(&mut self) -> Result<(), Status> {
        let (mut offset, len) = self.transfer()?;
        // With Force Unit Access what is read must be on the media, so what waits in the cache goes there first.
        if self.device.store.has_volatile_cache() && nvm::IoControl::of(self.entry).fua() {
            self.device.store.flush()?;
        }
        for span in self.prps.resolve(self.host, self.prp(), len, Access::Write)? {
            self.device.store.read(offset, self.host, span.iova, span.len)?;
            offset += span.len as u64;
        }
        self.counters.reads += 1;
        self.counters.units_read += len as u64 / 512;
        Ok(())
    }

    #[inline]
    fn write(&mut self) -> Result<(), Status> {
        let (mut offset, len) = self.transfer()?;
        self.refuse_directives()?;
        for span in self.prps.resolve(self.host, self.prp(), len, Access::Read)? {
            self.device.store.write(offset, self.host, span.iova, span.len)?;
            offset += span.len as u64;
        }
        if self.is_durable() {
            self.device.store.flush()?;
        }
        self.counters.writes += 1;
        self.counters.units_written += len as u64 / 512;
        Ok(())
    }

    /// DTYPE must be zero on a drive that has no directives.
    #[inline]
    fn refuse_directives(&self) -> Result<(), Status> {
        if nvm::IoControl::of(self.entry).dtype() != 0 {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Status> {
        self.device.namespaces.check_or_all(self.nsid())?;
        self.device.store.flush()
    }

    fn compare(&mut self) -> Result<(), Status> {
        let (mut offset, len) = self.transfer()?;
        for span in self.prps.resolve(self.host, self.prp(), len, Access::Read)? {
            self.device.store.compare(offset, self.host, span.iova, span.len)?;
            offset += span.len as u64;
        }
        self.counters.reads += 1;
        self.counters.units_read += len as u64 / 512;
        Ok(())
    }

    fn verify(&mut self) -> Result<(), Status> {
        let range = self.blocks()?;
        self.device.store.verify(range.offset, range.len)?;
        self.counters.reads += 1;
        self.counters.units_read += range.len / 512;
        Ok(())
    }

    fn write_zeroes(&mut self) -> Result<(), Status> {
        let range = self.blocks()?;
        self.refuse_directives()?;
        let deallocate = nvm::IoControl::of(self.entry).deac();
        self.device.store.zero(range.offset, range.len, deallocate)?;
        if self.is_durable() {
            self.device.store.flush()?;
        }
        self.counters.writes += 1;
        Ok(())
    }

    fn dataset_management(&mut self) -> Result<(), Status> {
        self.device.namespaces.check(self.nsid())?;
        let count = nvm::dsm::range_count(self.entry) as usize;
        let mut list = [0; DSM_RANGES * DSM_RANGE_LEN];
        let list = &mut list[..count * DSM_RANGE_LEN];
        let mut at = 0;
        for span in self.prps.resolve(self.host, self.prp(), list.len(), Access::Read)? {
            self.host.read(span.iova, &mut list[at..at + span.len]).map_err(dma_status)?;
            at += span.len;
        }
        // All ranges are checked before any is acted upon, so that a bad one leaves the data as it was.
        for act in [false, true] {
            for range in list.chunks_exact(DSM_RANGE_LEN) {
                let Ok(range) = nvm::DatasetManagementRange::read_from_bytes(range) else { continue };
                let bytes =
                    self.device.namespaces.range(self.nsid(), range.slba.get(), range.length.get().into())?;
                // Without Deallocate the ranges are hints about future use, of which this drive makes none.
                if act && bytes.len > 0 && self.entry.cdw11.get() & nvm::dsm::DEALLOCATE != 0 {
                    self.device.store.zero(bytes.offset, bytes.len, true)?;
                }
            }
        }
        Ok(())
    }
}
