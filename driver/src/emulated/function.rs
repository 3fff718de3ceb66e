//! The emulated drive as the driver sees it: a [`Function`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gangway_spec::Status;
use gangway_spec::aen::AsyncEvent;
use gangway_spec::registers::DOORBELLS;
use gangway_spec::zns::ZoneState;

use super::config::EmulatedConfig;
use super::device::Device;
use super::error::EmulatedError;
use crate::dma::{DmaDomain, Iommu};
use crate::function::{Function, FunctionError, Stepper};
use crate::mmio::Doorbell;

/// Numbers the drives of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A software NVMe controller, to be driven like any other function.
pub struct EmulatedFunction {
    device: Arc<Device>,
    domain: DmaDomain,
    iommu: Arc<dyn Iommu>,
}

impl EmulatedFunction {
    /// Makes a drive and attaches it to `domain`.
    ///
    /// # Errors
    /// Such a drive cannot exist, its data has no place, its file is in use or has another size.
    #[expect(clippy::new_ret_no_self, reason = "callers hold functions of any kind, as trait objects")]
    pub fn new(config: EmulatedConfig, domain: &DmaDomain) -> Result<Box<dyn Function>, EmulatedError> {
        Ok(Self::with_probe(config, domain)?.0)
    }

    /// As [`new`](Self::new), with a look at the inside for tests.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_probe(
        config: EmulatedConfig,
        domain: &DmaDomain,
    ) -> Result<(Box<dyn Function>, EmulatedProbe), EmulatedError> {
        let name = format!("emulated:{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let probe = EmulatedProbe { device: Arc::new(Device::new(name, config)?) };
        Ok((probe.open(domain)?, probe))
    }
}

impl fmt::Debug for EmulatedFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmulatedFunction").field("name", &self.device.name).finish_non_exhaustive()
    }
}

impl Drop for EmulatedFunction {
    fn drop(&mut self) {
        // Steppers may live on, as doorbells do; from here on they find no queue, and no memory either.
        self.device.reset();
        self.domain.detach(&self.iommu);
        self.device.iommu.clear();
        self.device.open.store(false, Ordering::Release);
    }
}

impl EmulatedFunction {
    fn check(&self, what: &'static str, offset: u32, end: u64) -> Result<(), FunctionError> {
        let function = || self.device.name.clone();
        if !offset.is_multiple_of(4) {
            return Err(FunctionError::Misaligned { function: function(), what, offset });
        }
        if u64::from(offset) >= end {
            return Err(FunctionError::OutOfBounds { function: function(), what, offset, end });
        }
        Ok(())
    }

    /// Offset behind the last doorbell.
    fn end(&self) -> u64 {
        let doorbells = 2 * u64::from(self.device.queue_count());
        u64::from(DOORBELLS) + (doorbells << (2 + self.device.config.stride))
    }
}

impl Function for EmulatedFunction {
    fn name(&self) -> &str {
        &self.device.name
    }

    fn domain(&self) -> &DmaDomain {
        &self.domain
    }

    fn read_register32(&self, offset: u32) -> Result<u32, FunctionError> {
        self.check("register", offset, self.end())?;
        // Doorbells are write-only; what a read of one gives is not specified.
        Ok(if offset < DOORBELLS { self.device.read_register(offset) } else { 0 })
    }

    fn write_register32(&self, offset: u32, value: u32) -> Result<(), FunctionError> {
        self.check("register", offset, self.end())?;
        if offset < DOORBELLS {
            self.device.write_register(offset, value);
        } else {
            self.doorbell(offset)?.write(value);
        }
        Ok(())
    }

    fn forbid_dma(&self) -> Result<(), FunctionError> {
        self.device.reset();
        Ok(())
    }

    fn reset(&self) -> Result<(), FunctionError> {
        if self.device.is_gone() {
            return Err(FunctionError::Gone { function: self.device.name.clone() });
        }
        self.device.reset_registers();
        Ok(())
    }

    fn doorbell(&self, offset: u32) -> Result<Doorbell, FunctionError> {
        let end = self.end();
        self.check("doorbell", offset, end)?;
        let outside = || FunctionError::OutOfBounds {
            function: self.device.name.clone(),
            what: "doorbell",
            offset,
            end,
        };
        let stride = 4 << self.device.config.stride;
        let number =
            offset.checked_sub(DOORBELLS).filter(|place| place % stride == 0).ok_or_else(outside)? / stride;
        let index = self.device.doorbell_index((number / 2) as u16, number % 2 == 1);
        Doorbell::in_memory(Arc::clone(&self.device.doorbells), index).ok_or_else(outside)
    }

    fn stepper(&self, qid: u16) -> Option<Box<dyn Stepper>> {
        Some(Box::new(QueueStepper { device: Arc::clone(&self.device), qid }))
    }
}

/// Lets the drive work on one queue pair.
struct QueueStepper {
    device: Arc<Device>,
    qid: u16,
}

impl Stepper for QueueStepper {
    #[inline]
    fn step(&mut self) {
        self.device.step(self.qid);
    }
}

/// A look at the inside of an emulated drive, and a hand on it.
#[derive(Clone)]
pub struct EmulatedProbe {
    pub(super) device: Arc<Device>,
}

impl fmt::Debug for EmulatedProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmulatedProbe").field("name", &self.device.name).finish_non_exhaustive()
    }
}

impl EmulatedProbe {
    /// How often the driver did what no driver may: made the drive touch memory that is not mapped or not for that
    /// direction, wrote an impossible doorbell, or configured the controller wrongly. 0 is the only good answer.
    pub fn violations(&self) -> u64 {
        self.device.violations.load(Ordering::Relaxed)
    }

    /// Makes the zone that begins at `zslba` read-only or offline, as media that wears out does. Hosts are told of it.
    ///
    /// # Errors
    /// There is no such namespace or zone.
    pub fn wear_out_zone(&self, nsid: u32, zslba: u64, state: ZoneState) -> Result<(), Status> {
        let namespace = self.device.namespaces.active(nsid)?;
        let mut zones = namespace.zones().ok_or(Status::INVALID_FIELD)?;
        zones.wear_out(zslba, state)?;
        drop(zones);
        self.device.raise(AsyncEvent::ZONE_DESCRIPTOR_CHANGED.of(nsid));
        Ok(())
    }

    /// How many pieces of memory are mapped for the drive.
    pub fn mappings(&self) -> usize {
        self.device.iommu.mappings()
    }

    /// Opens the function of the drive, as one opens that of a drive which is found on the bus again: when it was closed,
    /// and was not taken away by a fault, or is back.
    ///
    /// # Errors
    /// [`EmulatedError::Removed`], [`EmulatedError::InUse`], or there is no room for it in the domain.
    pub fn open(&self, domain: &DmaDomain) -> Result<Box<dyn Function>, EmulatedError> {
        let name = || self.device.name.clone();
        if self.device.is_gone() {
            return Err(EmulatedError::Removed { name: name() });
        }
        if self.device.open.swap(true, Ordering::AcqRel) {
            return Err(EmulatedError::InUse { name: name() });
        }
        let iommu: Arc<dyn Iommu> = Arc::clone(&self.device.iommu) as _;
        if let Err(error) = domain.attach(Arc::clone(&iommu)) {
            self.device.open.store(false, Ordering::Release);
            return Err(error.into());
        }
        Ok(Box::new(EmulatedFunction { device: Arc::clone(&self.device), domain: domain.clone(), iommu }))
    }

    /// Reports an asynchronous event, at the next step of the admin queue that finds a request for one.
    pub fn raise_event(&self, event: AsyncEvent) {
        self.device.raise(event);
    }
}
