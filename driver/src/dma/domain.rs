//! One I/O address space for all drives of the process.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::buffer::LONGEST;
use super::iova::{IovaSpace, contains, intersect, normalise};
use super::region::HUGE_PAGE;
use super::{Direction, DmaBuffer, DmaError, DmaRegion, RegionMemory};

/// What is assumed until an IOMMU says what it can do: 39 bits, as the smallest ones in use have, without the window
/// that x86 reserves for interrupts.
const DEFAULT_RANGES: [RangeInclusive<u64>; 2] = [0x1000..=0xfedf_ffff, 0xfef0_0000..=0x7f_ffff_ffff];

/// Something that translates the addresses devices use: a VFIO container, or the memory view of an emulated drive.
///
/// An implementation must not hold the [`DmaDomain`] it is attached to, which holds it. It is called with the
/// domain's lock held and must not call the domain.
pub trait Iommu: Any + Send + Sync {
    /// Addresses that can be mapped; at least one range. They may shrink when devices join; the domain is then told
    /// by [`DmaDomain::refresh`].
    fn ranges(&self) -> Vec<RangeInclusive<u64>>;

    /// The smallest size and alignment of a mapping, in bytes; a power of two.
    fn granule(&self) -> u64 {
        4096
    }

    /// Maps `memory` whole at `iova`, with no more permission than `direction` asks for.
    ///
    /// # Errors
    /// [`DmaError::Map`], [`DmaError::LockedMemory`], [`DmaError::TooManyMappings`]; nothing is mapped then.
    fn map(&self, iova: u64, memory: &RegionMemory, direction: Direction) -> Result<(), DmaError>;

    /// Takes away the mapping of `len` bytes that [`Iommu::map`] made at `iova`.
    ///
    /// # Errors
    /// [`DmaError::Unmap`]; the mapping must then be assumed to be there still.
    fn unmap(&self, iova: u64, len: u64) -> Result<(), DmaError>;
}

/// One IOMMU domain: memory that is allocated from it is mapped at the same IOVA for every device of the process.
///
/// Cloning gives another handle on the same domain.
#[derive(Clone)]
pub struct DmaDomain(Arc<Mutex<State>>);

struct State {
    iommus: Vec<Arc<dyn Iommu>>,
    space: IovaSpace,
    ranges: Vec<RangeInclusive<u64>>,
    mapped: BTreeMap<u64, Mapped>,
    /// Reserved in `space`, never mapped.
    poison: u64,
}

struct Mapped {
    memory: Arc<RegionMemory>,
    direction: Direction,
}

impl Default for DmaDomain {
    fn default() -> Self {
        Self::new()
    }
}

impl DmaDomain {
    /// An empty domain without any IOMMU.
    pub fn new() -> Self {
        let ranges = normalise(DEFAULT_RANGES.to_vec());
        let mut space = IovaSpace::new(ranges.clone());
        let poison =
            space.allocate(poison_len(), poison_len()).expect("an empty address space has a free page");
        Self(Arc::new(Mutex::new(State {
            iommus: Vec::new(),
            space,
            ranges,
            mapped: BTreeMap::new(),
            poison,
        })))
    }

    /// Makes zeroed memory of at least `len` bytes and maps it into all attached IOMMUs.
    ///
    /// # Errors
    /// When there is no memory, no free IOVA, or an IOMMU refuses.
    pub fn allocate(&self, len: usize, direction: Direction) -> Result<DmaRegion, DmaError> {
        let memory = Arc::new(RegionMemory::new(len)?);
        let size = memory.len() as u64;
        let mut state = self.lock();
        let granule = state.granule();
        // Large regions sit at huge-page boundaries, so that the IOMMU can use large pages too.
        let align = if memory.len() >= HUGE_PAGE { granule.max(HUGE_PAGE as u64) } else { granule };
        let iova = state
            .space
            .allocate(size.next_multiple_of(granule), align)
            .ok_or(DmaError::NoIova { len: size })?;
        for (index, iommu) in state.iommus.iter().enumerate() {
            if let Err(error) = iommu.map(iova, &memory, direction) {
                if unmap_from_all(&state.iommus[..index], iova, size) {
                    state.space.release(iova);
                } else {
                    std::mem::forget(memory);
                }
                return Err(error);
            }
        }
        state.mapped.insert(iova, Mapped { memory: Arc::clone(&memory), direction });
        drop(state);
        Ok(DmaRegion::new(self.clone(), memory, iova, direction))
    }

    /// Allocates a region and makes one buffer of it.
    ///
    /// # Errors
    /// As [`DmaDomain::allocate`].
    pub fn buffer(&self, len: usize, direction: Direction) -> Result<DmaBuffer, DmaError> {
        // A region is rounded up to pages, huge ones perhaps.
        if len > LONGEST - HUGE_PAGE {
            return Err(DmaError::BadLength { len });
        }
        let mut buffer = DmaBuffer::whole(self.allocate(len, direction)?);
        buffer.set_len(len);
        Ok(buffer)
    }

    /// Adds an IOMMU: everything that is allocated is mapped into it now, and everything to come when it comes.
    ///
    /// # Errors
    /// [`DmaError::OutsideRanges`] when it cannot map addresses that are in use, [`DmaError::NoIova`] when it has no
    /// range in common with the others, or its own refusal of a mapping. It is not attached then, and has no mappings.
    pub fn attach(&self, iommu: Arc<dyn Iommu>) -> Result<(), DmaError> {
        let mut state = self.lock();
        let ranges = normalise(iommu.ranges());
        let common = if state.iommus.is_empty() { ranges } else { intersect(&state.ranges, &ranges) };
        let poison = state.narrow(&common)?;
        for (index, (&iova, mapped)) in state.mapped.iter().enumerate() {
            if let Err(error) = iommu.map(iova, &mapped.memory, mapped.direction) {
                for (&iova, mapped) in state.mapped.iter().take(index) {
                    unmap_or_leak(&*iommu, iova, &mapped.memory);
                }
                state.unpoison(poison);
                return Err(error);
            }
        }
        state.adopt(common, poison);
        state.iommus.push(iommu);
        Ok(())
    }

    /// Reads the ranges of all attached IOMMUs again, after a device joined one of them.
    ///
    /// # Errors
    /// As [`DmaDomain::attach`]; the domain goes on with the ranges it had.
    pub fn refresh(&self) -> Result<(), DmaError> {
        let mut state = self.lock();
        let Some(common) =
            state.iommus.iter().map(|iommu| normalise(iommu.ranges())).reduce(|a, b| intersect(&a, &b))
        else {
            return Ok(());
        };
        let poison = state.narrow(&common)?;
        state.adopt(common, poison);
        Ok(())
    }

    /// Removes an IOMMU whose devices are closed, and takes all mappings out of it. Whether all of them went, so that
    /// nothing of this domain is reached through it any more.
    pub fn detach(&self, iommu: &Arc<dyn Iommu>) -> bool {
        let mut state = self.lock();
        let Some(index) = state.iommus.iter().position(|other| same(other, iommu)) else { return true };
        let iommu = state.iommus.swap_remove(index);
        let mut all = true;
        for (&iova, mapped) in &state.mapped {
            all &= unmap_or_leak(&*iommu, iova, &mapped.memory);
        }
        all
    }

    /// The attached IOMMU of type `T`, if there is one: for the second drive that joins the container of the first.
    pub fn attached<T: Iommu>(&self) -> Option<Arc<T>> {
        let state = self.lock();
        state.iommus.iter().find_map(|iommu| {
            let any: Arc<dyn Any + Send + Sync> = Arc::<dyn Iommu>::clone(iommu);
            any.downcast::<T>().ok()
        })
    }

    /// An IOVA at which nothing is ever mapped: where data pointers point that no device is to use. A device that
    /// uses one all the same faults in the IOMMU.
    pub fn poison_iova(&self) -> u64 {
        self.lock().poison
    }

    /// Unmaps a region that is being dropped. Its IOVA is only used again when every IOMMU took the mapping away.
    pub(super) fn release(&self, iova: u64) {
        let mut state = self.lock();
        let Some(mapped) = state.mapped.remove(&iova) else { return };
        if unmap_from_all(&state.iommus, iova, mapped.memory.len() as u64) {
            state.space.release(iova);
        } else {
            std::mem::forget(mapped.memory);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change to the state is complete before anything that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for DmaDomain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.lock();
        f.debug_struct("DmaDomain")
            .field("iommus", &state.iommus.len())
            .field("regions", &state.mapped.len())
            .field("ranges", &state.ranges)
            .finish()
    }
}

impl State {
    fn granule(&self) -> u64 {
        self.iommus.iter().map(|iommu| iommu.granule()).fold(rustix::param::page_size() as u64, u64::max)
    }

    /// Checks that everything in use lies within `common`. Gives a new page for poison when the old one does not:
    /// an address that cannot be mapped may be one at which a device reaches something else, such as interrupts.
    fn narrow(&mut self, common: &[RangeInclusive<u64>]) -> Result<Option<u64>, DmaError> {
        for (&iova, mapped) in &self.mapped {
            let last = iova + (mapped.memory.len() as u64 - 1);
            if !contains(common, iova, last) {
                return Err(DmaError::OutsideRanges { iova, last });
            }
        }
        if contains(common, self.poison, self.poison + (poison_len() - 1)) {
            return Ok(None);
        }
        let before = self.ranges.clone();
        self.space.set_ranges(common.to_vec());
        let poison = self.space.allocate(poison_len(), poison_len());
        self.space.set_ranges(before);
        poison.map(Some).ok_or(DmaError::NoIova { len: poison_len() })
    }

    /// Confines the domain to `common`. A poison page that is replaced stays reserved: queue pairs point at it.
    fn adopt(&mut self, common: Vec<RangeInclusive<u64>>, poison: Option<u64>) {
        self.poison = poison.unwrap_or(self.poison);
        self.space.set_ranges(common.clone());
        self.ranges = common;
    }

    fn unpoison(&mut self, poison: Option<u64>) {
        if let Some(poison) = poison {
            self.space.release(poison);
        }
    }
}

/// The poison area, in bytes: one page of the system, which is a multiple of what devices call a page.
fn poison_len() -> u64 {
    rustix::param::page_size() as u64
}

fn same(a: &Arc<dyn Iommu>, b: &Arc<dyn Iommu>) -> bool {
    // Addresses alone: the same object may be known by two vtables.
    std::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
}

/// Takes a mapping out of an IOMMU that leaves the domain. If it cannot, the memory must stay for good, as a device
/// may still reach it, and `false` says so.
fn unmap_or_leak(iommu: &dyn Iommu, iova: u64, memory: &Arc<RegionMemory>) -> bool {
    match iommu.unmap(iova, memory.len() as u64) {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(%error, "a mapping outlives its drive; its memory is leaked");
            std::mem::forget(Arc::clone(memory));
            false
        }
    }
}

/// Whether all of them did.
fn unmap_from_all(iommus: &[Arc<dyn Iommu>], iova: u64, len: u64) -> bool {
    let mut all = true;
    for iommu in iommus {
        if let Err(error) = iommu.unmap(iova, len) {
            tracing::error!(%error, "memory that a device may still reach is leaked");
            all = false;
        }
    }
    all
}
