//! Addresses of devices: how a person names a drive on a command line.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

use crate::dma::DmaDomain;
use crate::emulated::{ConfigError, EmulatedConfig, EmulatedError, EmulatedFunction};
use crate::function::Function;
use crate::vfio::{VfioError, VfioFunction};
use crate::vfio_user::{VfioUserError, VfioUserFunction};

/// The place of a PCI function: domain, bus, device and function number.
///
/// Written as the kernel writes it, `0000:01:00.0`; the domain may be left out when it is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl PciAddress {
    /// The address of a function; `None` when `device` is above 31 or `function` above 7.
    pub fn new(domain: u32, bus: u8, device: u8, function: u8) -> Option<Self> {
        (device < 32 && function < 8).then_some(Self { domain, bus, device, function })
    }

    /// The PCI domain (segment). Wider than 16 bits behind some root complexes (VMD).
    pub fn domain(&self) -> u32 {
        self.domain
    }

    /// The bus number.
    pub fn bus(&self) -> u8 {
        self.bus
    }

    /// The device number, 0 to 31.
    pub fn device(&self) -> u8 {
        self.device
    }

    /// The function number, 0 to 7.
    pub fn function(&self) -> u8 {
        self.function
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

impl FromStr for PciAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let parse = || {
            let (place, function) = text.rsplit_once('.')?;
            let mut parts = place.rsplit(':');
            let device = hex(parts.next()?, 2)?;
            let bus = hex(parts.next()?, 2)?;
            let domain = parts.next().map_or(Some(0), |domain| hex(domain, 8))?;
            if parts.next().is_some() {
                return None;
            }
            Self::new(
                domain,
                bus.try_into().ok()?,
                device.try_into().ok()?,
                hex(function, 1)?.try_into().ok()?,
            )
        };
        parse().ok_or_else(|| AddressError::Pci { text: text.to_owned() })
    }
}

/// Hexadecimal digits, at least one and at most `most`; no sign, no prefix.
fn hex(text: &str, most: usize) -> Option<u32> {
    let digits = (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits { u32::from_str_radix(text, 16).ok() } else { None }
}

/// Which device to drive.
///
/// `pci:0000:01:00.0` is a drive of this machine, `vfio-user:/run/nvme.sock` one that another process serves on a
/// socket, `emulated` a software drive of this process, whose properties may follow:
/// `emulated:size=1GiB,block=4096,namespaces=2,file=disk.img` (see [`EmulatedConfig`]).
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a process has a handful of addresses")]
pub enum DeviceAddress {
    /// A PCI function that is bound to vfio-pci.
    Pci(PciAddress),
    /// A drive that another process serves: the path of its socket, or of the folder that SPDK's target put it in.
    VfioUser(PathBuf),
    /// A software drive of this process.
    Emulated(EmulatedConfig),
}

impl DeviceAddress {
    /// Opens the device, of whatever kind it is, for use with the memory of `domain`.
    ///
    /// # Errors
    /// What the kind of device says: [`VfioFunction::open`], [`VfioUserFunction::open`], [`EmulatedFunction::new`].
    pub fn open(&self, domain: &DmaDomain) -> Result<Box<dyn Function>, OpenError> {
        Ok(match self {
            Self::Pci(address) => VfioFunction::open(*address, domain)?,
            Self::VfioUser(path) => VfioUserFunction::open(path, domain)?,
            Self::Emulated(config) => EmulatedFunction::new(config.clone(), domain)?,
        })
    }
}

/// Why a device could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A PCI function could not be had from vfio-pci.
    #[error(transparent)]
    Vfio(#[from] VfioError),
    /// A device that another process serves could not be reached.
    #[error(transparent)]
    VfioUser(#[from] VfioUserError),
    /// An emulated drive could not be made.
    #[error(transparent)]
    Emulated(#[from] EmulatedError),
}

impl fmt::Display for DeviceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => write!(f, "pci:{address}"),
            Self::VfioUser(path) => write!(f, "vfio-user:{}", path.display()),
            Self::Emulated(config) => {
                let options = config.to_string();
                if options.is_empty() { f.write_str("emulated") } else { write!(f, "emulated:{options}") }
            }
        }
    }
}

impl FromStr for DeviceAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
        match (kind, rest) {
            ("pci", Some(address)) => address.parse().map(Self::Pci),
            ("vfio-user", Some(path)) if !path.is_empty() => Ok(Self::VfioUser(path.into())),
            ("emulated", options) => Ok(Self::Emulated(options.unwrap_or_default().parse()?)),
            _ => Err(AddressError::Kind { text: text.to_owned() }),
        }
    }
}

/// Why a text does not name a device.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AddressError {
    /// The text begins with no kind of device that there is.
    #[error(
        "\"{text}\" is not a device: write pci:0000:01:00.0 for a drive bound to vfio-pci, vfio-user:/PATH/TO/SOCKET \
         for one that another process serves, or emulated, or emulated:OPTION=VALUE,..."
    )]
    Kind {
        /// What was given.
        text: String,
    },
    /// What should be a PCI address is none.
    #[error(
        "\"{text}\" is not a PCI address: write domain:bus:device.function in hexadecimal, as in 0000:01:00.0"
    )]
    Pci {
        /// What was given.
        text: String,
    },
    /// The options of an emulated drive are wrong.
    #[error("emulated drive: {0}")]
    Emulated(#[from] ConfigError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pci_address_is_printed_as_the_kernel_does() {
        for (text, printed) in [
            ("0000:01:00.0", "0000:01:00.0"),
            ("01:00.0", "0000:01:00.0"),
            ("0:1:2.3", "0000:01:02.3"),
            ("10000:FF:1f.7", "10000:ff:1f.7"),
        ] {
            let address: PciAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), printed);
            assert_eq!(printed.parse(), Ok(address));
        }
    }

    #[test]
    fn what_is_not_a_pci_address_is_refused() {
        for text in [
            "",
            ".",
            ":",
            "0000:01:00",
            "0000:01:20.0",
            "0000:01:00.8",
            "0000:100:00.0",
            "0:0000:01:00.0",
            "+1:00.0",
            "0000:01:00.0 ",
            "0000::00.0",
            "0000:01:00.-1",
            "zz:00.0",
            "000000001:01:00.0",
        ] {
            let error = text.parse::<PciAddress>().unwrap_err();
            assert_eq!(error, AddressError::Pci { text: text.to_owned() });
        }
    }

    #[test]
    fn a_device_address_survives_being_printed() {
        for text in [
            "pci:0000:01:00.0",
            "vfio-user:/run/nvme:0,a=b.sock",
            "emulated",
            "emulated:size=2GiB,block=512,namespaces=2,file=disk.img",
            "emulated:null",
            "emulated:latency=5ms",
        ] {
            let address: DeviceAddress = text.parse().unwrap();
            assert_eq!(address.to_string().parse(), Ok(address.clone()), "{address}");
        }
    }

    #[test]
    fn a_device_of_unknown_kind_is_refused_with_the_kinds_there_are() {
        for text in ["", "pci", "nvme0", "tcp:1.2.3.4", "Emulated", "vfio-user", "vfio-user:"] {
            let error = text.parse::<DeviceAddress>().unwrap_err().to_string();
            assert!(error.contains("pci:") && error.contains("emulated"), "{error}");
        }
    }
}
