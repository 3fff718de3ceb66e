//! For tests: an IOMMU over this process's memory, and the device's side of a queue pair, moved by hand.
#![allow(unsafe_code)] // Devices reach memory by address. This one checks each against what is mapped.

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use gangway_spec::{CompletionQueueEntry, Status, SubmissionQueueEntry};
use zerocopy::{FromBytes, IntoBytes};

use crate::controller::epoch::{Epoch, Run};
use crate::dma::{Direction, DmaDomain, DmaError, Iommu, PAGE_SIZE, RegionMemory};
use crate::mmio::{Doorbell, DoorbellPage};
use crate::queue::{Parts, QueuePair, SglRules};

/// An IOMMU that remembers what is mapped.
pub(crate) struct Memory {
    mapped: Mutex<BTreeMap<u64, (usize, usize, Direction)>>,
    ranges: Mutex<Vec<RangeInclusive<u64>>>,
    /// How many more mappings succeed.
    maps_left: AtomicUsize,
    refuse_unmap: AtomicBool,
}

impl Memory {
    pub(crate) fn new(ranges: Vec<RangeInclusive<u64>>) -> Arc<Self> {
        Arc::new(Self {
            mapped: Mutex::default(),
            ranges: Mutex::new(ranges),
            maps_left: AtomicUsize::new(usize::MAX),
            refuse_unmap: AtomicBool::new(false),
        })
    }

    /// A domain with such an IOMMU attached.
    pub(crate) fn in_domain() -> (DmaDomain, Arc<Self>) {
        let (domain, memory) = (DmaDomain::new(), Self::new(vec![0x1000..=0xff_ffff_ffff]));
        domain.attach(Arc::clone(&memory) as Arc<dyn Iommu>).unwrap();
        (domain, memory)
    }

    pub(crate) fn set_ranges(&self, ranges: Vec<RangeInclusive<u64>>) {
        *self.ranges.lock().unwrap() = ranges;
    }

    pub(crate) fn allow_maps(&self, count: usize) {
        self.maps_left.store(count, Ordering::Relaxed);
    }

    pub(crate) fn refuse_unmap(&self, refuse: bool) {
        self.refuse_unmap.store(refuse, Ordering::Relaxed);
    }

    /// First address and length of each mapping.
    pub(crate) fn mappings(&self) -> Vec<(u64, usize)> {
        self.mapped.lock().unwrap().iter().map(|(&iova, &(_, len, _))| (iova, len)).collect()
    }

    /// Reads as a device does; panics where an IOMMU would fault.
    pub(crate) fn read(&self, iova: u64, into: &mut [u8]) {
        let pointer = self.translate(iova, into.len(), Direction::device_reads);
        // SAFETY: inside a mapped region; the tests run device and driver on one thread.
        unsafe { std::ptr::copy_nonoverlapping(pointer.cast_const(), into.as_mut_ptr(), into.len()) }
    }

    /// Writes as a device does; panics where an IOMMU would fault.
    pub(crate) fn write(&self, iova: u64, from: &[u8]) {
        let pointer = self.translate(iova, from.len(), Direction::device_writes);
        // SAFETY: inside a mapped region; the tests run device and driver on one thread.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), pointer, from.len()) }
    }

    pub(crate) fn read_u64(&self, iova: u64) -> u64 {
        let mut bytes = [0; 8];
        self.read(iova, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn translate(&self, iova: u64, len: usize, allowed: impl Fn(Direction) -> bool) -> *mut u8 {
        self.reach(iova, len, allowed).unwrap_or_else(|fault| panic!("{fault}"))
    }

    /// Where a device finds memory, or why the IOMMU stops it.
    pub(crate) fn reach(
        &self,
        iova: u64,
        len: usize,
        allowed: impl Fn(Direction) -> bool,
    ) -> Result<*mut u8, String> {
        let mapped = self.mapped.lock().unwrap();
        let found = mapped.range(..=iova).next_back();
        let Some((&start, &(pointer, size, direction))) = found else {
            return Err(format!("nothing is mapped at {iova:#x}"));
        };
        let offset = (iova - start) as usize;
        if offset + len > size {
            return Err(format!("nothing is mapped at {iova:#x} for {len} bytes"));
        }
        if !allowed(direction) {
            return Err(format!("{iova:#x} is mapped {direction:?}"));
        }
        Ok((pointer + offset) as *mut u8)
    }
}

impl Iommu for Memory {
    fn ranges(&self) -> Vec<RangeInclusive<u64>> {
        self.ranges.lock().unwrap().clone()
    }

    fn map(&self, iova: u64, memory: &RegionMemory, direction: Direction) -> Result<(), DmaError> {
        let len = memory.len() as u64;
        let left = self.maps_left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(DmaError::Map { iova, len, source: io::ErrorKind::StorageFull.into() });
        }
        self.maps_left.store(left - 1, Ordering::Relaxed);
        let mut mapped = self.mapped.lock().unwrap();
        let overlaps = mapped.iter().any(|(&at, &(_, size, _))| at < iova + len && iova < at + size as u64);
        assert!(!overlaps, "{iova:#x} is mapped already");
        mapped.insert(iova, (memory.as_ptr() as usize, memory.len(), direction));
        Ok(())
    }

    fn unmap(&self, iova: u64, len: u64) -> Result<(), DmaError> {
        if self.refuse_unmap.load(Ordering::Relaxed) {
            return Err(DmaError::Unmap { iova, len, source: io::ErrorKind::ResourceBusy.into() });
        }
        let removed = self.mapped.lock().unwrap().remove(&iova);
        assert_eq!(removed.map(|(_, size, _)| size as u64), Some(len), "unmapped what was not mapped");
        Ok(())
    }
}

/// The device's side of one queue pair. It does nothing by itself.
pub(crate) struct Device {
    pub(crate) memory: Arc<Memory>,
    page: Arc<DoorbellPage>,
    sq: u64,
    cq: u64,
    entries: u16,
    qid: u16,
    /// Next entry to fetch.
    pub(crate) head: u16,
    tail: u16,
    phase: bool,
}

/// A queue pair of `entries` with the device's side of it, in the first run of a controller of its own.
pub(crate) fn queue_pair(
    domain: &DmaDomain,
    memory: &Arc<Memory>,
    entries: u16,
    max_transfer: usize,
) -> (QueuePair, Device, Epoch) {
    queue_pair_of(1, domain, memory, entries, max_transfer)
}

/// The same with a queue identifier of choice.
pub(crate) fn queue_pair_of(
    qid: u16,
    domain: &DmaDomain,
    memory: &Arc<Memory>,
    entries: u16,
    max_transfer: usize,
) -> (QueuePair, Device, Epoch) {
    queue_pair_with(None, qid, domain, memory, entries, max_transfer)
}

/// The same on a device that takes SGLs.
pub(crate) fn queue_pair_with(
    sgl: Option<SglRules>,
    qid: u16,
    domain: &DmaDomain,
    memory: &Arc<Memory>,
    entries: u16,
    max_transfer: usize,
) -> (QueuePair, Device, Epoch) {
    let (page, epoch) = (DoorbellPage::new(2), Epoch::first());
    let parts = Parts {
        qid,
        run: Run::new(epoch),
        entries,
        max_transfer,
        sgl,
        tail_doorbell: Doorbell::in_memory(Arc::clone(&page), 0).unwrap(),
        head_doorbell: Doorbell::in_memory(Arc::clone(&page), 1).unwrap(),
    };
    let pair = QueuePair::new(domain, parts).unwrap();
    let (sq, cq) = pair.addresses();
    let memory = Arc::clone(memory);
    (pair, Device { memory, page, sq, cq, entries, qid, head: 0, tail: 0, phase: true }, epoch)
}

impl Device {
    /// The device's side of an admin queue pair, at the first two doorbells of a page.
    pub(crate) fn admin(
        memory: Arc<Memory>,
        page: Arc<DoorbellPage>,
        (sq, cq): (u64, u64),
        entries: u16,
    ) -> Self {
        Self { memory, page, sq, cq, entries, qid: 0, head: 0, tail: 0, phase: true }
    }

    /// What the tail doorbell was last rung with.
    pub(crate) fn rung_tail(&self) -> u16 {
        self.page.load(0).unwrap() as u16
    }

    /// Whether the tail doorbell is rung by what `ring` does.
    pub(crate) fn is_rung(&self, ring: impl FnOnce()) -> bool {
        Doorbell::in_memory(Arc::clone(&self.page), 0).unwrap().write(u32::MAX);
        ring();
        self.page.load(0) != Some(u32::MAX)
    }

    /// What the head doorbell was last rung with.
    pub(crate) fn rung_head(&self) -> u16 {
        self.page.load(1).unwrap() as u16
    }

    /// Fetches all entries that the doorbell tells of.
    pub(crate) fn fetch(&mut self) -> Vec<SubmissionQueueEntry> {
        let mut entries = Vec::new();
        assert!(self.rung_tail() < self.entries, "the doorbell is beyond the queue");
        while self.head != self.rung_tail() {
            entries.push(self.fetch_one());
        }
        entries
    }

    /// Fetches the next entry, whatever the doorbell says.
    pub(crate) fn fetch_one(&mut self) -> SubmissionQueueEntry {
        let mut bytes = [0; 64];
        self.memory.read(self.sq + u64::from(self.head) * 64, &mut bytes);
        self.head = (self.head + 1) % self.entries;
        SubmissionQueueEntry::read_from_bytes(&bytes).unwrap()
    }

    /// Where the next completion goes.
    pub(crate) fn completed_tail(&self) -> u16 {
        self.tail
    }

    /// Completes a command, with what was fetched so far as queue head.
    pub(crate) fn complete(&mut self, cid: u16, result: u64) {
        let mut entry = CompletionQueueEntry::new(cid, Status::SUCCESS);
        entry.set_result(result);
        entry.sq_id.set(self.qid);
        entry.sq_head.set(self.head);
        self.post(entry);
    }

    /// Writes a completion, with the right phase.
    pub(crate) fn post(&mut self, mut entry: CompletionQueueEntry) {
        entry.set_phase(self.phase);
        self.memory.write(self.cq + u64::from(self.tail) * 16, entry.as_bytes());
        self.tail += 1;
        if self.tail == self.entries {
            self.tail = 0;
            self.phase = !self.phase;
        }
    }

    /// The pieces of memory that a command names for `len` bytes, page by page.
    pub(crate) fn pages(&self, entry: &SubmissionQueueEntry, len: usize) -> Vec<(u64, usize)> {
        let (pieces, fault) = self.follow(entry, len);
        assert_eq!(fault, None);
        pieces
    }

    /// The pieces that a command names for `len` bytes, up to where the IOMMU or the pointers themselves stop a device.
    pub(crate) fn follow(
        &self,
        entry: &SubmissionQueueEntry,
        len: usize,
    ) -> (Vec<(u64, usize)>, Option<String>) {
        if entry.psdt() != 0 {
            let sgl = entry.sgl();
            let form = (entry.psdt(), sgl.identifier, sgl.reserved);
            assert_eq!(form, (1, 0, [0; 3]), "a data block with an address");
            if sgl.length.get() as usize != len {
                return (Vec::new(), Some("Data SGL Length Invalid".into()));
            }
            return (vec![(sgl.address.get(), len)], None);
        }
        let (page, mut left) = (PAGE_SIZE as u64, len);
        let first = left.min((page - entry.prp1() % page) as usize);
        let mut pieces = vec![(entry.prp1(), first)];
        left -= first;
        if left > 0 && left <= PAGE_SIZE {
            pieces.push((entry.prp2(), left));
            return (pieces, None);
        }
        let mut at = entry.prp2();
        while left > 0 {
            for chained in [true, false] {
                if chained && !(at % page == page - 8 && left > PAGE_SIZE) {
                    continue;
                }
                if let Err(fault) = self.memory.reach(at, 8, Direction::device_reads) {
                    return (pieces, Some(fault));
                }
                if chained {
                    at = self.memory.read_u64(at);
                }
            }
            let count = left.min(PAGE_SIZE);
            pieces.push((self.memory.read_u64(at), count));
            left -= count;
            at += 8;
        }
        (pieces, None)
    }

    /// Reads the data of a write command.
    pub(crate) fn read_data(&self, entry: &SubmissionQueueEntry, len: usize) -> Vec<u8> {
        let mut data = Vec::new();
        for (iova, count) in self.pages(entry, len) {
            let mut piece = vec![0; count];
            self.memory.read(iova, &mut piece);
            data.extend(piece);
        }
        data
    }

    /// Writes the data of a read command.
    pub(crate) fn write_data(&self, entry: &SubmissionQueueEntry, data: &[u8]) {
        let mut rest = data;
        for (iova, count) in self.pages(entry, data.len()) {
            let (piece, others) = rest.split_at(count);
            self.memory.write(iova, piece);
            rest = others;
        }
    }
}
