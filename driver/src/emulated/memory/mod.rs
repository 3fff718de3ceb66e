//! The memory that an emulated drive touches: its window to the host's DMA memory, and what keeps its data.
//!
//! [`EmulatedIommu`] plays the IOMMU: it knows which I/O virtual addresses are mapped to what, and in which direction.
//! A queue of the drive sees host memory only through the [`DmaMemory`] that its [`Gate`] hands out, and only while it
//! is inside the gate. Taking a mapping away passes through every gate, so when that has returned no queue is still at
//! work on the memory, and none finds it again.
#![allow(unsafe_code)] // Host memory may change at any time, so it is reached through raw pointers and raw copies only.

mod copy;
mod file;
mod shared;
mod sparse;

use std::cell::Cell;
use std::fmt;
use std::ops::RangeInclusive;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tracing::warn;

use crate::dma::{Direction, DmaError, Iommu, RegionMemory};

pub(super) use file::{FileError, FileStore};
pub(crate) use shared::SharedMemory;
pub(super) use sparse::SparseMemory;

/// What the drive wants to do with host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// The drive reads host memory.
    Read,
    /// The drive writes host memory.
    Write,
}

/// The drive was told to touch memory that is not mapped, or not for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DmaFault;

#[derive(Clone)]
struct Mapping {
    iova: u64,
    len: u64,
    memory: NonNull<u8>,
    direction: Direction,
    /// Who keeps the memory where no domain does.
    _owner: Option<Arc<SharedMemory>>,
}

impl Mapping {
    fn permits(&self, access: Access) -> bool {
        match access {
            Access::Read => self.direction.device_reads(),
            Access::Write => self.direction.device_writes(),
        }
    }
}

// SAFETY: the pointer names shared memory that is not tied to a thread; it is only used for raw copies inside gates.
unsafe impl Send for Mapping {}
// SAFETY: as above; a mapping is never changed once it is in a table.
unsafe impl Sync for Mapping {}

/// All mappings, by ascending IOVA.
#[derive(Default)]
struct Table {
    mappings: Vec<Mapping>,
}

/// Host memory as a queue of the drive sees it. Only to be had inside a [`Gate`].
pub(super) struct DmaMemory {
    table: Arc<Table>,
    /// The mapping that was used last for each [`Purpose`], which permits what that needs, and is most likely the next
    /// one: what an IOMMU has its translation cache for.
    recent: [Cell<Translation>; 4],
    violations: Arc<AtomicU64>,
}

/// What is mapped at some addresses.
#[derive(Clone, Copy)]
struct Translation {
    iova: u64,
    len: u64,
    memory: NonNull<u8>,
}

// SAFETY: as for `Mapping`.
unsafe impl Send for Translation {}

impl Translation {
    /// Of no address.
    const NONE: Self = Self { iova: 0, len: 0, memory: NonNull::dangling() };

    /// The memory behind an address, and how many bytes there are from there on.
    #[inline]
    fn at(&self, iova: u64) -> Option<(NonNull<u8>, u64)> {
        let offset = iova.wrapping_sub(self.iova);
        // SAFETY: `offset` is below the length of the mapping, all of which is one piece of memory.
        (offset < self.len).then(|| (unsafe { self.memory.add(offset as usize) }, self.len - offset))
    }
}

/// What memory is accessed for.
#[derive(Clone, Copy)]
enum Purpose {
    Submission,
    Completion,
    DataRead,
    DataWrite,
}

impl Purpose {
    fn of(access: Access) -> Self {
        match access {
            Access::Read => Purpose::DataRead,
            Access::Write => Purpose::DataWrite,
        }
    }

    fn access(self) -> Access {
        match self {
            Purpose::Submission | Purpose::DataRead => Access::Read,
            Purpose::Completion | Purpose::DataWrite => Access::Write,
        }
    }
}

impl DmaMemory {
    /// The memory behind `iova`, and how many contiguous bytes of it may be accessed for `purpose`, at least 1. `None`
    /// when it may not be.
    ///
    /// The pointer is valid for that access as long as the gate is not left: the mapping owns the memory, or the domain
    /// keeps it until `unmap` has returned, and that waits for the gate.
    #[inline]
    fn find(&self, iova: u64, purpose: Purpose) -> Option<(NonNull<u8>, u64)> {
        match self.recent[purpose as usize].get().at(iova) {
            None => self.look_up(iova, purpose),
            found => found,
        }
    }

    #[cold]
    fn look_up(&self, iova: u64, purpose: Purpose) -> Option<(NonNull<u8>, u64)> {
        let mappings = &self.table.mappings;
        let before = mappings.partition_point(|mapping| mapping.iova <= iova);
        let mapping = &mappings[before.checked_sub(1)?];
        if !mapping.permits(purpose.access()) {
            return None;
        }
        let translation = Translation { iova: mapping.iova, len: mapping.len, memory: mapping.memory };
        let found = translation.at(iova)?;
        self.recent[purpose as usize].set(translation);
        Some(found)
    }

    /// Calls `visit` for each contiguous piece of host memory behind `len` bytes at `iova`, in order, until it fails.
    ///
    /// The pointer is valid for the bytes of the piece, for the access asked for, until `visit` returns.
    #[inline]
    fn pieces<E: From<DmaFault>>(
        &self,
        mut iova: u64,
        mut len: usize,
        purpose: Purpose,
        mut visit: impl FnMut(NonNull<u8>, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        while len > 0 {
            let Some((memory, there)) = self.find(iova, purpose) else {
                return Err(self.violation(iova, len, purpose.access()).into());
            };
            let piece = there.min(len as u64) as usize;
            visit(memory, piece)?;
            len -= piece;
            iova = iova.wrapping_add(piece as u64);
        }
        Ok(())
    }

    /// The memory of `len` bytes at `iova` that must lie in one piece, as [`find`](Self::find) gives it, for accesses of
    /// words of type `T`.
    ///
    /// # Errors
    /// They may not be accessed for `purpose`, or are not in one piece, or not aligned.
    #[inline]
    fn whole<T>(&self, iova: u64, len: usize, purpose: Purpose) -> Result<NonNull<T>, DmaFault> {
        self.find_whole(iova, len, purpose).ok_or_else(|| self.violation(iova, len, purpose.access()))
    }

    /// The same without a word about what may not be accessed.
    #[inline]
    fn find_whole<T>(&self, iova: u64, len: usize, purpose: Purpose) -> Option<NonNull<T>> {
        let (memory, there) = self.find(iova, purpose)?;
        (there >= len as u64 && memory.cast::<T>().is_aligned()).then(|| memory.cast())
    }

    /// Whether all of `len` bytes at `iova` may be accessed so.
    ///
    /// # Errors
    /// They may not; that is counted as a violation.
    #[inline]
    pub(super) fn check(&self, iova: u64, len: usize, access: Access) -> Result<(), DmaFault> {
        self.pieces(iova, len, Purpose::of(access), |_, _| Ok(()))
    }

    /// Reads host memory into memory of the drive.
    ///
    /// # Errors
    /// Not all of it may be read; what was read until then is undefined.
    #[inline]
    pub(super) fn read(&self, iova: u64, into: &mut [u8]) -> Result<(), DmaFault> {
        let mut at = into.as_mut_ptr();
        self.pieces(iova, into.len(), Purpose::DataRead, |memory, len| {
            // SAFETY: `pieces` vouches for `memory`; `at` walks through `into`, whose length is that of all pieces.
            unsafe {
                copy::copy(at, memory.as_ptr(), len);
                at = at.add(len);
            }
            Ok(())
        })
    }

    /// Writes memory of the drive to host memory.
    ///
    /// # Errors
    /// Not all of it may be written; the part before that was.
    #[inline]
    pub(super) fn write(&self, iova: u64, from: &[u8]) -> Result<(), DmaFault> {
        let mut at = from.as_ptr();
        self.pieces(iova, from.len(), Purpose::DataWrite, |memory, len| {
            // SAFETY: `pieces` vouches for `memory`; `at` walks through `from`, whose length is that of all pieces.
            unsafe {
                copy::copy(memory.as_ptr(), at, len);
                at = at.add(len);
            }
            Ok(())
        })
    }

    /// Turns bits of a byte over that the drive has written.
    ///
    /// # Errors
    /// It may not be written.
    pub(super) fn flip(&self, iova: u64, bits: u8) -> Result<(), DmaFault> {
        self.pieces(iova, 1, Purpose::DataWrite, |memory, _| {
            // SAFETY: `pieces` vouches for a byte; it is accessed as an atomic, as the host may do anything meanwhile.
            unsafe { memory.cast::<AtomicU8>().as_ref() }.fetch_xor(bits, Ordering::Relaxed);
            Ok(())
        })
    }

    /// Reads a 32-bit word that the host may change at any time.
    ///
    /// # Errors
    /// It may not be read, or is not aligned.
    pub(super) fn read_word(&self, iova: u64) -> Result<u32, DmaFault> {
        Ok(u32::from_le(self.word(iova, Purpose::DataRead)?.load(Ordering::Acquire)))
    }

    /// Writes a 32-bit word that the host may look at at any time.
    ///
    /// # Errors
    /// It may not be written, or is not aligned.
    pub(super) fn write_word(&self, iova: u64, value: u32) -> Result<(), DmaFault> {
        self.word(iova, Purpose::DataWrite)?.store(value.to_le(), Ordering::Release);
        Ok(())
    }

    fn word(&self, iova: u64, purpose: Purpose) -> Result<&AtomicU32, DmaFault> {
        let word = self.whole(iova, size_of::<u32>(), purpose)?;
        // SAFETY: `whole` vouches for 4 aligned bytes; the host accesses them as an atomic too.
        Ok(unsafe { word.as_ref() })
    }

    /// Reads a submission queue entry.
    ///
    /// # Errors
    /// It may not be read. Queues begin at pages, so that no entry lies in two mappings.
    #[inline]
    pub(super) fn read_entry(&self, iova: u64) -> Result<[u64; 8], DmaFault> {
        self.peek_entry(iova).ok_or_else(|| self.violation(iova, 64, Access::Read))
    }

    /// Reads a submission queue entry if it may be read. If not that is no violation: nobody has asked for it yet.
    #[inline]
    pub(super) fn peek_entry(&self, iova: u64) -> Option<[u64; 8]> {
        let words = self.find_whole::<u64>(iova, 64, Purpose::Submission)?;
        // SAFETY: `find_whole` vouches for 64 aligned bytes. The host may change them meanwhile.
        Some(std::array::from_fn(|at| unsafe { words.add(at).read_volatile() }))
    }

    /// Writes a completion queue entry: its last dword, which holds the phase, after the others.
    ///
    /// Dword by dword, as the host reads it: atomic accesses of two sizes to one place that may happen at the same
    /// time are not defined.
    ///
    /// # Errors
    /// It may not be written.
    #[inline]
    pub(super) fn write_completion(&self, iova: u64, entry: [u32; 4]) -> Result<(), DmaFault> {
        let words = self.whole::<AtomicU32>(iova, 16, Purpose::Completion)?;
        for (index, word) in entry.into_iter().enumerate() {
            let order = if index == 3 { Ordering::Release } else { Ordering::Relaxed };
            // SAFETY: `whole` vouches for 16 aligned bytes; the host reads the last dword as an atomic, and the others
            // only once it has seen that one.
            unsafe { words.add(index).as_ref() }.store(word, order);
        }
        Ok(())
    }

    #[cold]
    fn violation(&self, iova: u64, len: usize, access: Access) -> DmaFault {
        self.violations.fetch_add(1, Ordering::Relaxed);
        warn!("emulated drive: {access:?} of {len} bytes at IOVA {iova:#x}, which is not mapped for that");
        DmaFault
    }
}

/// The way of a queue to host memory, and the lock around the queue's own state. In cache lines of its own, since each
/// queue is another thread's.
#[repr(align(128))]
pub(super) struct Gate<T> {
    inner: Mutex<Inside<T>>,
}

/// What is behind a gate: host memory, and the state of the queue.
pub(super) struct Inside<T> {
    /// Host memory.
    pub(super) memory: DmaMemory,
    /// The state that the gate guards.
    pub(super) state: T,
}

impl<T> Gate<T> {
    /// Goes in, once whoever is inside has left.
    #[inline]
    pub(super) fn enter(&self) -> MutexGuard<'_, Inside<T>> {
        // A panic inside leaves no state that would be unsafe to look at; tests that panic then end in order.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that sees host memory and must be told when mappings change.
trait Refresh: Send + Sync {
    fn refresh(&self, table: &Arc<Table>);
}

impl<T: Send> Refresh for Gate<T> {
    fn refresh(&self, table: &Arc<Table>) {
        let memory = &mut self.enter().memory;
        memory.table = Arc::clone(table);
        memory.recent.iter_mut().for_each(|recent| recent.set(Translation::NONE));
    }
}

/// The IOMMU in front of an emulated drive.
pub(super) struct EmulatedIommu {
    state: Mutex<State>,
    violations: Arc<AtomicU64>,
}

struct State {
    table: Arc<Table>,
    gates: Vec<Weak<dyn Refresh>>,
}

impl fmt::Debug for EmulatedIommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmulatedIommu").field("violations", &self.violations).finish_non_exhaustive()
    }
}

impl EmulatedIommu {
    /// An IOMMU without mappings. Faults are counted in `violations`.
    pub(super) fn new(violations: Arc<AtomicU64>) -> Self {
        Self { state: Mutex::new(State { table: Arc::default(), gates: Vec::new() }), violations }
    }

    /// A new gate around `state`.
    pub(super) fn gate<T: Send + 'static>(&self, state: T) -> Arc<Gate<T>> {
        let mut iommu = self.lock();
        let memory = DmaMemory {
            table: Arc::clone(&iommu.table),
            recent: [const { Cell::new(Translation::NONE) }; 4],
            violations: Arc::clone(&self.violations),
        };
        let gate = Arc::new(Gate { inner: Mutex::new(Inside { memory, state }) });
        let weak: Weak<Gate<T>> = Arc::downgrade(&gate);
        iommu.gates.push(weak);
        gate
    }

    /// How many mappings there are.
    pub(super) fn mappings(&self) -> usize {
        self.lock().table.mappings.len()
    }

    /// Takes all mappings away, as the end of the drive does.
    pub(super) fn clear(&self) {
        self.lock().publish(Table::default());
    }

    /// Maps memory of another process.
    ///
    /// # Errors
    /// As [`Iommu::map`].
    pub(super) fn map_shared(
        &self,
        iova: u64,
        memory: Arc<SharedMemory>,
        direction: Direction,
    ) -> Result<(), DmaError> {
        let (first, len) = (memory.first(), memory.len());
        self.insert(Mapping { iova, len, memory: first, direction, _owner: Some(memory) })
    }

    fn insert(&self, new: Mapping) -> Result<(), DmaError> {
        let refuse = |message: String| Err(DmaError::Iommu { message });
        let (iova, len) = (new.iova, new.len);
        let Some(end) = iova.checked_add(len).filter(|_| len > 0) else {
            return refuse(format!("{len} bytes cannot be mapped at {iova:#x}"));
        };
        let mut state = self.lock();
        let mappings = &state.table.mappings;
        let index = mappings.partition_point(|mapping| mapping.iova < iova);
        let taken = mappings.get(index).is_some_and(|next| next.iova < end)
            || index.checked_sub(1).is_some_and(|before| mappings[before].iova + mappings[before].len > iova);
        if taken {
            return refuse(format!("something is mapped between {iova:#x} and {end:#x} already"));
        }
        let mut mappings = mappings.clone();
        mappings.insert(index, new);
        state.publish(Table { mappings });
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Makes `table` the one that every queue sees. When this returns, no queue uses the one before.
    fn publish(&mut self, table: Table) {
        self.table = Arc::new(table);
        self.gates.retain(|gate| gate.upgrade().inspect(|gate| gate.refresh(&self.table)).is_some());
    }
}

impl Iommu for EmulatedIommu {
    fn ranges(&self) -> Vec<RangeInclusive<u64>> {
        // 48 bits, as real IOMMUs have; the first page stays free so that an address of zero is always an error.
        vec![0x1000..=(1 << 48) - 1]
    }

    fn map(&self, iova: u64, region: &RegionMemory, direction: Direction) -> Result<(), DmaError> {
        let Some(memory) = NonNull::new(region.as_ptr()) else {
            return Err(DmaError::Iommu { message: "memory at address zero cannot be mapped".to_owned() });
        };
        self.insert(Mapping { iova, len: region.len() as u64, memory, direction, _owner: None })
    }

    fn unmap(&self, iova: u64, len: u64) -> Result<(), DmaError> {
        let mut state = self.lock();
        let mut mappings = state.table.mappings.clone();
        let Some(index) = mappings.iter().position(|mapping| mapping.iova == iova && mapping.len == len)
        else {
            let message = format!("{len} bytes at {iova:#x} are not one mapping, so they cannot be unmapped");
            return Err(DmaError::Iommu { message });
        };
        mappings.remove(index);
        state.publish(Table { mappings });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::{DmaBuffer, DmaDomain};

    /// A domain with an IOMMU, a gate behind it, and its count of violations.
    fn drive() -> (DmaDomain, Arc<Gate<()>>, Arc<AtomicU64>) {
        let violations = Arc::new(AtomicU64::new(0));
        let iommu = Arc::new(EmulatedIommu::new(Arc::clone(&violations)));
        let gate = iommu.gate(());
        let domain = DmaDomain::new();
        domain.attach(iommu).unwrap();
        (domain, gate, violations)
    }

    #[test]
    fn memory_is_seen_as_long_as_it_is_mapped() {
        let (domain, gate, violations) = drive();
        let mut buffer = domain.buffer(8192, Direction::Bidirectional).unwrap();
        buffer[4090..4096].copy_from_slice(b"abcdef");
        let iova = buffer.iova();
        let mut read = [0; 6];
        gate.enter().memory.read(iova + 4090, &mut read).unwrap();
        assert_eq!(&read, b"abcdef");
        gate.enter().memory.write(iova + 8190, b"gh").unwrap();
        assert_eq!(&buffer[8190..], b"gh");
        assert_eq!(violations.load(Ordering::Relaxed), 0);
        drop(buffer);
        assert_eq!(gate.enter().memory.read(iova, &mut read), Err(DmaFault));
        assert_eq!(violations.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn neighbouring_mappings_are_crossed_and_gaps_are_not() {
        let (domain, gate, _) = drive();
        let buffers: Vec<_> =
            (0..3).map(|_| domain.buffer(4096, Direction::Bidirectional).unwrap()).collect();
        let mut iovas: Vec<_> = buffers.iter().map(DmaBuffer::iova).collect();
        iovas.sort_unstable();
        assert!(iovas.windows(2).all(|pair| pair[1] == pair[0] + 4096), "the domain packs them");
        let bytes: Vec<u8> = (0..8192u32).map(|at| (at / 7) as u8).collect();
        let inside = gate.enter();
        inside.memory.write(iovas[0] + 2048, &bytes).unwrap();
        let mut back = vec![0; 8192];
        inside.memory.read(iovas[0] + 2048, &mut back).unwrap();
        assert!(back == bytes);
        assert_eq!(inside.memory.check(iovas[2], 4097, Access::Read), Err(DmaFault));
        assert_eq!(inside.memory.check(iovas[0] - 1, 2, Access::Read), Err(DmaFault));
        assert_eq!(inside.memory.check(u64::MAX, 2, Access::Read), Err(DmaFault));
    }

    #[test]
    fn a_direction_is_all_that_is_allowed() {
        let (domain, gate, violations) = drive();
        let (reads, writes) = (Direction::DeviceReads, Direction::DeviceWrites);
        let source = domain.buffer(4096, reads).unwrap();
        let sink = domain.buffer(4096, writes).unwrap();
        let inside = gate.enter();
        assert_eq!(inside.memory.check(source.iova(), 4096, Access::Read), Ok(()));
        assert_eq!(inside.memory.check(sink.iova(), 4096, Access::Write), Ok(()));
        assert_eq!(inside.memory.check(source.iova(), 1, Access::Write), Err(DmaFault));
        assert_eq!(inside.memory.check(sink.iova(), 1, Access::Read), Err(DmaFault));
        assert_eq!(violations.load(Ordering::Relaxed), 2);
    }

    /// Maps as asked, after having tried what must be refused.
    struct Meddler(EmulatedIommu);

    impl Iommu for Meddler {
        fn ranges(&self) -> Vec<RangeInclusive<u64>> {
            self.0.ranges()
        }

        fn map(&self, iova: u64, memory: &RegionMemory, direction: Direction) -> Result<(), DmaError> {
            self.0.map(iova, memory, direction)?;
            for overlapping in [iova, iova - 4096, iova + 4096, u64::MAX - 4095] {
                assert!(self.0.map(overlapping, memory, direction).is_err(), "{overlapping:#x}");
            }
            for (iova, len) in [(iova, 4096), (iova + 4096, 4096), (iova + 8192, 8192)] {
                assert!(self.0.unmap(iova, len).is_err(), "{iova:#x}");
            }
            Ok(())
        }

        fn unmap(&self, iova: u64, len: u64) -> Result<(), DmaError> {
            self.0.unmap(iova, len)
        }
    }

    #[test]
    fn mappings_that_overlap_or_are_unknown_are_refused() {
        let domain = DmaDomain::new();
        let meddler = Arc::new(Meddler(EmulatedIommu::new(Arc::default())));
        domain.attach(Arc::clone(&meddler) as _).unwrap();
        drop(domain.buffer(8192, Direction::DeviceReads).unwrap());
        assert!(meddler.0.lock().table.mappings.is_empty());
    }
}
