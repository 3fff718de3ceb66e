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
//! - Bus mastering is switched on when the controller is known to be disabled, and off before anything is
//!   unmapped: a function that is closed, or was just opened, does no DMA, whatever state its controller was
//!   left in.
//! - A device that is pulled out gives [`FunctionError::Gone`], never a signal.
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
use std::sync::Arc;

use gangway_spec::registers::{DOORBELLS, VS};
use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_PCI, VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX,
};

use self::bar::{Bar, BarError};
use self::capability::Region;
use self::container::Membership;
use self::sysfs::Places;

pub use self::capability::AnswerError;
pub use self::error::VfioError;

use crate::address::PciAddress;
use crate::dma::DmaDomain;
use crate::function::{Function, FunctionError, Interrupt, Stepper};
use crate::mmio::Doorbell;

/// Offset of the command register in the configuration space (PCI Base 3.0, 6.2.2).
const PCI_COMMAND: u64 = 4;
/// Command register: the device answers accesses to its BARs.
const MEMORY_SPACE: u16 = 1 << 1;
/// Command register: the device may do DMA.
const BUS_MASTER: u16 = 1 << 2;

/// The registers, and the doorbells of the admin queue with the shortest stride, which every controller has.
const SMALLEST_BAR: u64 = DOORBELLS as u64 + 8;

/// An NVMe controller on PCI Express, held through vfio-pci until it is dropped.
#[derive(Debug)]
pub struct VfioFunction {
    name: String,
    domain: DmaDomain,
    bar: Bar,
    config: Config,
    // Last: its drop unmaps memory, and gives the group back once the device is closed.
    _membership: Membership,
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
        tracing::debug!(%address, group, bar0 = ?bar0, "opened");
        Ok(Self {
            name: format!("pci:{address}"),
            domain: domain.clone(),
            bar,
            config,
            _membership: membership,
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

    fn refused(&self, error: BarError, action: &str, offset: u32) -> FunctionError {
        match error {
            BarError::Outside => self.out_of_bounds("register", offset),
            // What vfio-pci answers when the device is lost or decodes no memory.
            BarError::File(source) if matches!(source.raw_os_error(), Some(libc::EIO | libc::ENODEV)) => {
                self.gone()
            }
            BarError::File(source) => FunctionError::Io {
                function: self.name.clone(),
                action: format!("{action} the register at {offset:#x}"),
                source,
            },
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
        // All ones is what a device that left the bus reads as. Some registers may hold that value; VS never
        // does.
        let gone = value == u32::MAX
            && (offset == VS || self.bar.read32(VS).is_ok_and(|version| version == u32::MAX));
        if gone || self.bar.gone() { Err(self.gone()) } else { Ok(value) }
    }

    fn write_register32(&self, offset: u32, value: u32) -> Result<(), FunctionError> {
        self.check_offset("register", offset)?;
        self.bar.write32(offset, value).map_err(|error| self.refused(error, "write", offset))?;
        if self.bar.gone() { Err(self.gone()) } else { Ok(()) }
    }

    fn allow_dma(&self) -> Result<(), FunctionError> {
        self.config.set_command(BUS_MASTER, 0).map_err(|source| FunctionError::Io {
            function: self.name.clone(),
            action: "switch bus mastering on".to_owned(),
            source,
        })
    }

    fn forbid_dma(&self) -> Result<(), FunctionError> {
        // The write is not posted: when it is done, so are the device's writes to memory before it (PCI Express Base
        // 3.0, 2.4.1). A device that is not there has lost its link, and with it its permission to do DMA.
        match self.config.set_command(0, BUS_MASTER) {
            Ok(()) => Ok(()),
            Err(_) if self.bar.gone() => Ok(()),
            Err(source) => match self.read_register32(VS) {
                Err(FunctionError::Gone { .. }) => Ok(()),
                _ => Err(FunctionError::Io {
                    function: self.name.clone(),
                    action: "switch bus mastering off".to_owned(),
                    source,
                }),
            },
        }
    }

    fn enable_interrupts(&self, vectors: u16) -> Result<Vec<Interrupt>, FunctionError> {
        interrupt::enable(&self.config.device, vectors).map_err(|source| FunctionError::Io {
            function: self.name.clone(),
            action: format!("switch {vectors} interrupts on"),
            source,
        })
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
        // The kernel does this too when it closes the device, but a doorbell that somebody still holds keeps
        // it open.
        if let Err(error) = self.forbid_dma() {
            tracing::warn!(%error, "a function is closed that may still reach memory");
        }
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

    /// Sets and clears bits of the command register.
    fn set_command(&self, set: u16, clear: u16) -> io::Result<()> {
        // Saturating: an offset that makes no sense is the kernel's error then, not an overflow here.
        let position = self.file_offset.saturating_add(PCI_COMMAND);
        let mut bytes = [0; 2];
        self.device.read_exact_at(&mut bytes, position)?;
        let command = u16::from_le_bytes(bytes) & !clear | set;
        self.device.write_all_at(&command.to_le_bytes(), position)
    }
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
