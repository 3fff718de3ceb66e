//! Which namespaces are allocated and attached, and how much of the drive each takes.

use std::sync::{Arc, Mutex, MutexGuard};

use gangway_spec::Status;
use gangway_spec::command::NSID_BROADCAST;
use gangway_spec::identify::csi;

use super::format::Format;
use super::zones::{Shape, Zones};
use super::{Namespace, SHAPE, Table};
use crate::emulated::config::EmulatedConfig;
use crate::emulated::device::lock;
use crate::emulated::error::EmulatedError;
use crate::emulated::store::Store;

/// All namespaces of a drive.
pub(in crate::emulated) struct Namespaces {
    inventory: Mutex<Inventory>,
    /// NN: the largest identifier that a namespace can have.
    max: u32,
    /// Bytes of the drive, allocated or not (TNVMCAP).
    capacity: u64,
    zones: Option<Shape>,
}

/// What is allocated at present.
struct Inventory {
    /// Namespace 1 is at index 0.
    slots: Box<[Slot]>,
}

#[derive(Default)]
struct Slot {
    /// How many namespaces have had the identifier.
    generation: u32,
    allocated: Option<Allocated>,
}

struct Allocated {
    namespace: Arc<Namespace>,
    /// Where its region begins in the store.
    start: u64,
    attached: bool,
}

/// A namespace that is to be made.
#[derive(Clone, Copy, Debug)]
pub(in crate::emulated) struct Wanted {
    pub(in crate::emulated) csi: u8,
    pub(in crate::emulated) format: Format,
    /// Bytes that it takes.
    pub(in crate::emulated) capacity: u64,
}

impl Namespaces {
    /// The namespaces that a new drive has: all alike, one behind the other.
    pub(in crate::emulated) fn new(config: &EmulatedConfig, store: &Store) -> Result<Self, EmulatedError> {
        let namespaces = Self {
            inventory: Mutex::new(Inventory {
                slots: (0..config.max_namespaces()).map(|_| Slot::default()).collect(),
            }),
            max: config.max_namespaces(),
            capacity: config.capacity(),
            zones: config.zones.map(|zones| zones.shape()),
        };
        let csi = if config.zones.is_some() { csi::ZONED_NAMESPACE } else { csi::NVM };
        for nsid in 1..=config.namespaces {
            let start = u64::from(nsid - 1) * config.size;
            let wanted = Wanted { csi, format: config.format(), capacity: config.size };
            let namespace = namespaces.make(nsid, 0, wanted, store, start)?;
            let slot = &mut namespaces.lock().slots[nsid as usize - 1];
            slot.allocated = Some(Allocated { namespace: Arc::new(namespace), start, attached: true });
        }
        Ok(namespaces)
    }

    fn lock(&self) -> MutexGuard<'_, Inventory> {
        lock(&self.inventory)
    }

    fn make(
        &self,
        nsid: u32,
        generation: u32,
        Wanted { csi, format, capacity }: Wanted,
        store: &Store,
        start: u64,
    ) -> Result<Namespace, EmulatedError> {
        let mut blocks = capacity / format.stored();
        let mut zones = None;
        if let (csi::ZONED_NAMESPACE, Some(shape)) = (csi, self.zones) {
            let made = Zones::new(shape, format, blocks);
            blocks = made.blocks();
            zones = Some(Mutex::new(made));
        }
        let shaped = zones.is_some() || format.metadata > 0;
        Ok(Namespace {
            nsid,
            generation,
            csi,
            blocks,
            capacity,
            format,
            region: store.region(start, capacity)?,
            zones,
            special: if shaped { SHAPE } else { 0 }.into(),
            refusal: 0.into(),
            uncorrectable: Mutex::default(),
        })
    }

    /// NN: the largest identifier that a namespace can have.
    pub(in crate::emulated) fn max(&self) -> u32 {
        self.max
    }

    /// TNVMCAP: bytes of the drive.
    pub(in crate::emulated) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// UNVMCAP: bytes that no namespace takes.
    pub(in crate::emulated) fn unallocated(&self) -> u64 {
        self.capacity - self.lock().taken()
    }

    /// How zones are made, on a drive that can have them.
    pub(in crate::emulated) fn zones(&self) -> Option<Shape> {
        self.zones
    }

    /// Those that I/O commands can name.
    pub(in crate::emulated) fn table(&self) -> Table {
        let attached = |slot: &Slot| {
            let allocated = slot.allocated.as_ref().filter(|allocated| allocated.attached)?;
            Some(Arc::clone(&allocated.namespace))
        };
        Table { attached: self.lock().slots.iter().map(attached).collect() }
    }

    /// Checks that an identifier could name one namespace.
    ///
    /// # Errors
    /// Invalid Namespace or Format.
    pub(in crate::emulated) fn valid(&self, nsid: u32) -> Result<(), Status> {
        if (1..=self.max).contains(&nsid) {
            Ok(())
        } else {
            Err(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr())
        }
    }

    /// The namespace with this identifier, attached or not.
    ///
    /// # Errors
    /// Invalid Namespace or Format when none can have it.
    pub(in crate::emulated) fn allocated(&self, nsid: u32) -> Result<Option<(Arc<Namespace>, bool)>, Status> {
        self.valid(nsid)?;
        let inventory = self.lock();
        let allocated = inventory.slots[nsid as usize - 1].allocated.as_ref();
        Ok(allocated.map(|allocated| (Arc::clone(&allocated.namespace), allocated.attached)))
    }

    /// The attached namespace with this identifier.
    ///
    /// # Errors
    /// Invalid Namespace or Format when none can have it, Invalid Field when none is attached by it.
    pub(in crate::emulated) fn active(&self, nsid: u32) -> Result<Arc<Namespace>, Status> {
        match self.allocated(nsid)? {
            Some((namespace, true)) => Ok(namespace),
            _ => Err(Status::INVALID_FIELD.with_dnr()),
        }
    }

    /// Checks that an identifier names an attached namespace, or stands for all.
    ///
    /// # Errors
    /// As [`active`](Self::active).
    pub(in crate::emulated) fn active_or_all(&self, nsid: u32) -> Result<(), Status> {
        if nsid == NSID_BROADCAST { Ok(()) } else { self.active(nsid).map(drop) }
    }

    /// The namespaces behind `after`, in ascending order, each with whether it is attached.
    pub(in crate::emulated) fn list(&self, after: u32) -> Vec<(Arc<Namespace>, bool)> {
        let inventory = self.lock();
        let behind = inventory.slots.iter().skip(after as usize);
        behind
            .filter_map(|slot| slot.allocated.as_ref())
            .map(|allocated| (Arc::clone(&allocated.namespace), allocated.attached))
            .collect()
    }

    /// Does what a shutdown does to zones: none stays open.
    pub(in crate::emulated) fn shut_down(&self) {
        for (namespace, _) in self.list(0) {
            if let Some(mut zones) = namespace.zones() {
                zones.shut_down();
            }
        }
    }

    /// Allocates a namespace and gives its identifier; it is not attached.
    ///
    /// # Errors
    /// Namespace Insufficient Capacity, Namespace Identifier Unavailable.
    pub(in crate::emulated) fn create(&self, wanted: Wanted, store: &Store) -> Result<u32, Status> {
        let (nsid, generation, start) = {
            let inventory = self.lock();
            if wanted.capacity > self.capacity - inventory.taken() {
                return Err(Status::NAMESPACE_INSUFFICIENT_CAPACITY.with_dnr());
            }
            let free = inventory.slots.iter().position(|slot| slot.allocated.is_none());
            let index = free.ok_or(Status::NAMESPACE_IDENTIFIER_UNAVAILABLE.with_dnr())?;
            (index as u32 + 1, inventory.slots[index].generation + 1, inventory.place(wanted.capacity))
        };
        let made = self.make(nsid, generation, wanted, store, start);
        let namespace = made.map_err(|_| Status::NAMESPACE_INSUFFICIENT_CAPACITY.with_dnr())?;
        // What another namespace has left there is nobody's any more.
        namespace.erase()?;
        let slot = &mut self.lock().slots[nsid as usize - 1];
        slot.generation = generation;
        slot.allocated = Some(Allocated { namespace: Arc::new(namespace), start, attached: false });
        Ok(nsid)
    }

    /// Frees a namespace; its data is gone once the tables that list it are.
    pub(in crate::emulated) fn delete(&self, nsid: u32) {
        if let Some(slot) = self.lock().slots.get_mut(nsid.wrapping_sub(1) as usize) {
            slot.allocated = None;
        }
    }

    /// Attaches or detaches an allocated namespace.
    pub(in crate::emulated) fn attach(&self, nsid: u32, attach: bool) {
        let mut inventory = self.lock();
        let slot = inventory.slots.get_mut(nsid.wrapping_sub(1) as usize);
        if let Some(allocated) = slot.and_then(|slot| slot.allocated.as_mut()) {
            allocated.attached = attach;
        }
    }

    /// Gives a namespace another format. Its data is gone.
    ///
    /// # Errors
    /// The store's.
    pub(in crate::emulated) fn reformat(
        &self,
        old: &Namespace,
        format: Format,
        store: &Store,
    ) -> Result<Arc<Namespace>, Status> {
        let index = old.nsid as usize - 1;
        let start = self.lock().slots[index].allocated.as_ref().map_or(0, |allocated| allocated.start);
        let wanted = Wanted { csi: old.csi, format, capacity: old.capacity };
        let made = self.make(old.nsid, old.generation, wanted, store, start);
        let namespace = Arc::new(made.map_err(|_| Status::INTERNAL_ERROR)?);
        namespace.erase()?;
        if let Some(allocated) = &mut self.lock().slots[index].allocated {
            allocated.namespace = Arc::clone(&namespace);
        }
        Ok(namespace)
    }
}

impl Inventory {
    fn taken(&self) -> u64 {
        let allocated = self.slots.iter().filter_map(|slot| slot.allocated.as_ref());
        allocated.map(|allocated| allocated.namespace.capacity).sum()
    }

    /// The first place in the store with room for `capacity` bytes. When what is free is in pieces, that is behind all
    /// others: only addresses are lost by it, as files and memory are sparse.
    fn place(&self, capacity: u64) -> u64 {
        let allocated = self.slots.iter().filter_map(|slot| slot.allocated.as_ref());
        let mut taken: Vec<(u64, u64)> =
            allocated.map(|allocated| (allocated.start, allocated.namespace.capacity)).collect();
        taken.sort_unstable();
        let mut at = 0;
        for (start, len) in taken {
            if start >= at + capacity {
                break;
            }
            // On pages, so that giving room back works.
            at = at.max((start + len).next_multiple_of(4096));
        }
        at
    }
}
