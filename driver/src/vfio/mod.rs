//! NVMe functions of this machine, taken through the kernel's vfio-pci.
//!
//! A function is reached through three files: its IOMMU group (`/dev/vfio/N`), the container that the groups
//! of all drives of the process share (`/dev/vfio/vfio`, type 1 IOMMU), and the device that the group gives
//! out. The registers are mapped from BAR0, memory is mapped for the device by the container as the
//! [`DmaDomain`] asks for it.
//!
//! # What always holds
//!
//! - A device is opened only behind an IOMMU, and can reach only what the domain maps, in the direction it is
//!   mapped.
//! - Bus mastering is switched on when the controller is known to be disabled, and off before a function that
//!   answers is closed: one that was closed, or was just opened, does no DMA, whatever state its controller was
//!   left in. One that does not answer is kept from memory by the IOMMU: its group is taken out of the container.
//! - A device that is pulled out gives [`FunctionError::Gone`], never a signal.
//! - A function that is dropped is closed, whoever still holds a doorbell of it: the system, which may be waiting to remove
//!   the device, gets it back.
//!
//! # What this does not do
//!
//! - `/dev/iommu` and `/dev/vfio/devices`; virtual functions that need a token; binding to
//!   vfio-pci, which is the `gangway bind` command's.

pub(crate) mod bar;
pub(crate) mod capability;
mod container;
mod error;
mod interrupt;
mod ioctl;
mod sysfs;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use gangway_spec::registers::{DOORBELLS, VS};
use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET, VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX,
};

use self::bar::{Bar, BarError};
use self::capability::Region;
use self::container::Membership;
use self::interrupt::Vectors;
use self::sysfs::Places;

pub use self::capability::AnswerError;
pub use self::error::VfioError;

use crate::address::PciAddress;
use crate::dma::DmaDomain;
use crate::function::{Function, FunctionError, Interrupt, Notices, Stepper};
use crate::mmio::Doorbell;

/// Offset of the command register in the configuration space (PCI Base 3.0, 6.2.2).
const PCI_COMMAND: u64 = 4;
/// Command register: the device answers accesses to its BARs.
const MEMORY_SPACE: u16 = 1 << 1;
/// Command register: the device may do DMA.
const BUS_MASTER: u16 = 1 << 2;

/// Command register: bits that are reserved, and so zero. They are ones when no device answers; of the others the kernel
/// makes some up.
const RESERVED: u16 = 0xf800;

/// The registers, and the doorbells of the admin queue with the shortest stride, which every controller has.
const SMALLEST_BAR: u64 = DOORBELLS as u64 + 8;

/// An NVMe controller on PCI Express, held through vfio-pci until it is dropped.
#[derive(Debug)]
pub struct VfioFunction {
    name: String,
    address: PciAddress,
    places: Places,
    domain: DmaDomain,
    bar: Bar,
    config: Config,
    /// The kernel can reset it alone.
    resettable: bool,
    vectors: Mutex<Vectors>,
    notices: Notices,
    // Last: its drop gives the group back once the device is closed.
    membership: Membership,
}

impl VfioFunction {
    /// Opens the function at `address`, which must be bound to vfio-pci, and prepares it to reach the memory of
    /// `domain`.
    ///
    /// The first function of a domain makes a VFIO container, later ones join it. Nothing is done to the
    /// controller yet, but what the kernel does at open: it resets the function if that can be done alone.
    ///
    /// # Errors
    /// [`VfioError`] says what is in the way and what to do about it.
    pub fn open(address: PciAddress, domain: &DmaDomain) -> Result<Box<dyn Function>, VfioError> {
        Ok(Box::new(Self::open_at(&Places::default(), address, domain)?))
    }

    fn open_at(places: &Places, address: PciAddress, domain: &DmaDomain) -> Result<Self, VfioError> {
        let group = places.check(address)?;
        let membership = Membership::join(places, address, group, domain)?;
        let device = Arc::new(membership.device(address)?);
        let request = |action| move |source| VfioError::Request { address, action, source };
        let flags = ioctl::device_flags(device.as_fd()).map_err(request("ask what it is"))?;
        if flags & VFIO_DEVICE_FLAGS_PCI == 0 {
            return Err(VfioError::Unsupported {
                what: format!("does not offer {address} as a PCI function"),
            });
        }
        let config =
            Config::new(Arc::clone(&device), &region(&device, address, VFIO_PCI_CONFIG_REGION_INDEX)?);
        // Before the first access to the BAR, which a device without memory decoding does not answer.
        config.set_command(MEMORY_SPACE, 0).map_err(request("switch its memory decoding on"))?;
        let bar0 = region(&device, address, VFIO_PCI_BAR0_REGION_INDEX)?;
        let bar = map_registers(&device, address, &bar0)?;
        // Without them a removal shows in accesses that fail.
        let notices = interrupt::notices(&device).unwrap_or_else(|error| {
            tracing::warn!(%address, %error, "the kernel does not tell of its removal");
            Notices::default()
        });
        tracing::debug!(%address, group, bar0 = ?bar0, "opened");
        Ok(Self {
            name: format!("pci:{address}"),
            address,
            places: places.clone(),
            domain: domain.clone(),
            bar,
            config,
            resettable: flags & VFIO_DEVICE_FLAGS_RESET != 0,
            vectors: Mutex::default(),
            notices,
            membership,
        })
    }

    fn check_offset(&self, what: &'static str, offset: u32) -> Result<(), FunctionError> {
        if !offset.is_multiple_of(4) {
            return Err(FunctionError::Misaligned { function: self.name.clone(), what, offset });
        }
        if u64::from(offset) + 4 > self.bar.size() {
            return Err(self.out_of_bounds(what, offset));
        }
        Ok(())
    }

    fn out_of_bounds(&self, what: &'static str, offset: u32) -> FunctionError {
        FunctionError::OutOfBounds { function: self.name.clone(), what, offset, end: self.bar.size() }
    }

    fn gone(&self) -> FunctionError {
        FunctionError::Gone { function: self.name.clone() }
    }

    fn vectors(&self) -> MutexGuard<'_, Vectors> {
        self.vectors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, action: &str, source: io::Error) -> FunctionError {
        if source.raw_os_error() == Some(libc::ENODEV) {
            return self.gone();
        }
        FunctionError::Io { function: self.name.clone(), action: action.to_owned(), source }
    }

    fn refused(&self, error: BarError, action: &str, offset: u32) -> FunctionError {
        match error {
            BarError::Outside => self.out_of_bounds("register", offset),
            // What vfio-pci answers when the device is lost or decodes no memory.
            BarError::File(source) if matches!(source.raw_os_error(), Some(libc::EIO | libc::ENODEV)) => {
                self.gone()
            }
            BarError::File(source) => self.failed(&format!("{action} the register at {offset:#x}"), source),
        }
    }
}

impl Function for VfioFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn domain(&self) -> &DmaDomain {
        &self.domain
    }

    fn read_register32(&self, offset: u32) -> Result<u32, FunctionError> {
        self.check_offset("register", offset)?;
        let value = self.bar.read32(offset).map_err(|error| self.refused(error, "read", offset))?;
        // All ones is what a device that left the bus reads as, all zeroes what it does in some virtual machines. Other
        // registers may hold such a value; VS never does.
        let absent = |value| matches!(value, 0 | u32::MAX);
        let gone = absent(value) && (offset == VS || self.bar.read32(VS).is_ok_and(absent));
        if gone || self.bar.gone() { Err(self.gone()) } else { Ok(value) }
    }

    fn write_register32(&self, offset: u32, value: u32) -> Result<(), FunctionError> {
        self.check_offset("register", offset)?;
        self.bar.write32(offset, value).map_err(|error| self.refused(error, "write", offset))?;
        if self.bar.gone() { Err(self.gone()) } else { Ok(()) }
    }

    fn allow_dma(&self) -> Result<(), FunctionError> {
        self.config
            .set_command(BUS_MASTER, 0)
            .map_err(|source| self.failed("switch bus mastering on", source))
    }

    fn forbid_dma(&self) -> Result<(), FunctionError> {
        let failed = |source| self.failed("switch bus mastering off", source);
        self.config.set_command(0, BUS_MASTER).map_err(failed)?;
        // The answer to a read comes after the device's writes to memory before it (PCI Express Base 3.0, 2.4.1). Only a
        // device that gives one is known to have heard.
        match self.config.command().map_err(failed)? {
            command if !answers(command) => Err(self.gone()),
            command if command & BUS_MASTER != 0 => {
                Err(failed(io::Error::other("the device goes on being a bus master")))
            }
            _ => Ok(()),
        }
    }

    fn close(mut self: Box<Self>) -> Result<(), FunctionError> {
        match self.forbid_dma() {
            Ok(()) => return Ok(()),
            // The kernel would wait a minute for it to come out of a reset.
            Err(FunctionError::Gone { .. }) => {}
            // A reset is as good a proof.
            Err(_) if self.reset().is_ok() => return Ok(()),
            Err(_) => {}
        }
        let (name, group) = (self.name.clone(), self.membership.group());
        let reaches_nothing = self.membership.leave();
        let closed = move || {
            // The kernel resets what it gets back, and takes its time over what does not answer.
            drop(self);
            group
        };
        if reaches_nothing {
            // Without a thread it happens here.
            if let Err(error) = thread::Builder::new().name("close".to_owned()).spawn(closed) {
                tracing::debug!(%error, "closed in place");
            }
            return Ok(());
        }
        // Nothing stays that the IOMMU lets through.
        closed().cut_off().map_err(|source| FunctionError::Io {
            function: name,
            action: "take its IOMMU group out of the container".to_owned(),
            source,
        })
    }

    fn can_reset(&self) -> bool {
        self.resettable
    }

    fn reset(&self) -> Result<(), FunctionError> {
        if !self.resettable {
            return Err(FunctionError::Unsupported { function: self.name.clone(), what: "be reset alone" });
        }
        ioctl::reset(self.config.device.as_fd()).map_err(|source| self.failed("reset it", source))?;
        self.revive()
    }

    fn revive(&self) -> Result<(), FunctionError> {
        // The kernel compares what it believes with what the device says, and restores its BARs first if need be.
        self.config
            .set_command(MEMORY_SPACE, BUS_MASTER)
            .map_err(|source| self.failed("switch its memory decoding on", source))?;
        self.vectors()
            .restore(&self.config.device)
            .map_err(|source| self.failed("switch its interrupts on again", source))
    }

    fn notices(&self) -> Notices {
        self.notices.clone()
    }

    fn enable_interrupts(&self, vectors: u16) -> Result<Vec<Interrupt>, FunctionError> {
        let enabled = Vectors::enable(&self.config.device, vectors)
            .map_err(|source| self.failed(&format!("switch {vectors} interrupts on"), source))?;
        let interrupts = enabled.interrupts().to_vec();
        *self.vectors() = enabled;
        Ok(interrupts)
    }

    fn steer_interrupt(&self, vector: u16, cpu: usize) -> Result<(), FunctionError> {
        self.places
            .steer(self.address, vector, cpu)
            .map_err(|source| self.failed(&format!("have interrupt {vector} come to CPU {cpu}"), source))
    }

    fn doorbell(&self, offset: u32) -> Result<Doorbell, FunctionError> {
        self.check_offset("doorbell", offset)?;
        if offset < DOORBELLS {
            return Err(self.out_of_bounds("doorbell", offset));
        }
        self.bar.doorbell(offset).ok_or_else(|| FunctionError::Io {
            function: self.name.clone(),
            action: format!("map the doorbell at {offset:#x}"),
            source: io::Error::new(
                io::ErrorKind::Unsupported,
                "the kernel does not let this part of BAR0 be mapped",
            ),
        })
    }

    fn stepper(&self, _qid: u16) -> Option<Box<dyn Stepper>> {
        None
    }
}

impl Drop for VfioFunction {
    fn drop(&mut self) {
        match self.forbid_dma() {
            // What is gone does not answer.
            Ok(()) | Err(FunctionError::Gone { .. }) => {}
            Err(error) => tracing::warn!(%error, "a function is closed that may still reach memory"),
        }
        self.membership.leave();
        // A doorbell that somebody still holds would keep the device open otherwise, and a removal waiting.
        self.bar.revoke();
    }
}

/// The configuration space, reached through the device's file.
#[derive(Debug)]
struct Config {
    device: Arc<File>,
    file_offset: u64,
}

impl Config {
    fn new(device: Arc<File>, region: &Region) -> Self {
        Self { device, file_offset: region.file_offset }
    }

    /// Sets and clears bits of the command register. ENODEV when the device does not answer: what it reads as then is
    /// not to be written to it.
    fn set_command(&self, set: u16, clear: u16) -> io::Result<()> {
        let command = self.command()?;
        if !answers(command) {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        let command = command & !clear | set;
        self.device.write_all_at(&command.to_le_bytes(), self.position())
    }

    /// The command register.
    fn command(&self) -> io::Result<u16> {
        let mut bytes = [0; 2];
        self.device.read_exact_at(&mut bytes, self.position())?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn position(&self) -> u64 {
        // Saturating: an offset that makes no sense is the kernel's error then, not an overflow here.
        self.file_offset.saturating_add(PCI_COMMAND)
    }
}

/// Whether a device answers whose command register reads as this.
fn answers(command: u16) -> bool {
    command & RESERVED != RESERVED
}

fn region(device: &File, address: PciAddress, index: u32) -> Result<Region, VfioError> {
    let answer = ioctl::region_info(device.as_fd(), index).map_err(|source| VfioError::Request {
        address,
        action: "ask where its registers are",
        source,
    })?;
    Region::parse(&answer, rustix::param::page_size() as u64).map_err(|source| VfioError::Answer {
        address,
        what: "its registers",
        source,
    })
}

fn map_registers(device: &Arc<File>, address: PciAddress, region: &Region) -> Result<Bar, VfioError> {
    let wrong = |what: String| VfioError::Registers { address, what };
    if region.size < SMALLEST_BAR {
        return Err(wrong(format!(
            "has {} bytes; an NVMe controller has {SMALLEST_BAR} at least",
            region.size
        )));
    }
    let bar = Bar::map(Arc::clone(device), region).map_err(|source| VfioError::Request {
        address,
        action: "map its registers",
        source,
    })?;
    if bar.doorbell(DOORBELLS).is_none() {
        return Err(wrong("has doorbells that the kernel does not let be mapped".to_owned()));
    }
    Ok(bar)
}

#[cfg(test)]
mod tests;
