//! What can go wrong on the way to a drive, and what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::capability::AnswerError;
use crate::address::PciAddress;
use crate::dma::DmaError;

/// Why a PCI function could not be opened through vfio-pci.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VfioError {
    /// There is no such function.
    #[error("there is no PCI function {address} on this machine; `gangway list` shows its NVMe drives")]
    NotFound {
        /// The function.
        address: PciAddress,
    },
    /// The function is something else than an NVMe controller.
    #[error("{address} is not an NVMe drive: its PCI class is {class:06x}h, that of NVMe is 010802h")]
    NotNvme {
        /// The function.
        address: PciAddress,
        /// Its class code: base class, subclass, programming interface.
        class: u32,
    },
    /// Another driver has the function, or none.
    #[error("{address} {}; give it to vfio-pci with `gangway bind {address}`", held_by(.driver.as_deref()))]
    NotBound {
        /// The function.
        address: PciAddress,
        /// The driver that has it.
        driver: Option<String>,
    },
    /// The function is in no IOMMU group.
    #[error(
        "{address} is not behind an IOMMU, so it cannot be used safely from user space; switch the IOMMU on in the \
         firmware (VT-d, AMD-Vi, SMMU) and in the kernel (`intel_iommu=on` on its command line for Intel)"
    )]
    NoIommu {
        /// The function.
        address: PciAddress,
    },
    /// The function is in VFIO's mode without IOMMU.
    #[error(
        "{address} is offered without an IOMMU (vfio.enable_unsafe_noiommu_mode); this is refused, since the \
         drive could then read and write all memory of the machine"
    )]
    UnsafeNoIommu {
        /// The function.
        address: PciAddress,
    },
    /// Other functions of the group are used by other drivers.
    #[error(
        "IOMMU group {group} of {address} can only be used as a whole, but drivers have other functions of it: {}; \
         bind those to vfio-pci too or unbind them from their drivers, or put the drive into another slot",
        Members(.others)
    )]
    GroupNotViable {
        /// The function.
        address: PciAddress,
        /// Number of its IOMMU group.
        group: u32,
        /// The functions in the way, and their drivers.
        others: Vec<(String, String)>,
    },
    /// A file of VFIO is not there.
    #[error("{} is not there; load VFIO with `modprobe vfio-pci`", .path.display())]
    NoVfio {
        /// The file.
        path: PathBuf,
    },
    /// A file of VFIO may not be opened.
    #[error(
        "no permission to open {}; run as root, or make the file belong to the user that runs this",
        .path.display()
    )]
    Permission {
        /// The file.
        path: PathBuf,
    },
    /// The group is in use.
    #[error("{} is in use{}; a group belongs to one process at a time", .path.display(), Holders(.holders))]
    Busy {
        /// The group's file.
        path: PathBuf,
        /// The processes that have it open, as far as this process may know: `name (pid)`.
        holders: Vec<String>,
    },
    /// Something in sysfs, procfs or `/dev` could not be read.
    #[error("could not {action} {}: {source}", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel's VFIO is not one that this driver knows.
    #[error(
        "the kernel's VFIO {what}; the type 1 IOMMU of version 0 is needed (`modprobe vfio_iommu_type1`)"
    )]
    Unsupported {
        /// What it lacks.
        what: String,
    },
    /// The group does not fit into the container of the drives that are open already.
    #[error(
        "the kernel refuses to put IOMMU group {group} of {address} into one IOMMU domain with the drives that are \
         open already: {source}; serve this drive from a process of its own"
    )]
    Join {
        /// The function.
        address: PciAddress,
        /// Number of its IOMMU group.
        group: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The memory of this process could not be mapped for the drive.
    #[error("{address}: {source}")]
    Dma {
        /// The function.
        address: PciAddress,
        /// Why.
        source: DmaError,
    },
    /// A request to VFIO was refused.
    #[error("{address}: could not {action}: {source}")]
    Request {
        /// The function.
        address: PciAddress,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel's answer makes no sense.
    #[error("{address}: what the kernel says about {what} cannot be understood: {source}")]
    Answer {
        /// The function.
        address: PciAddress,
        /// What was asked about.
        what: &'static str,
        /// Why not.
        source: AnswerError,
    },
    /// BAR0 is not what an NVMe controller has.
    #[error("{address}: its BAR0 {what}")]
    Registers {
        /// The function.
        address: PciAddress,
        /// What is wrong.
        what: String,
    },
}

fn held_by(driver: Option<&str>) -> String {
    driver.map_or_else(|| "has no driver".to_owned(), |driver| format!("belongs to the driver `{driver}`"))
}

struct Members<'a>(&'a [(String, String)]);

impl fmt::Display for Members<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, driver)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{name} ({driver})")?;
        }
        Ok(())
    }
}

struct Holders<'a>(&'a [String]);

impl fmt::Display for Holders<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " by {}", self.0.join(", ")) }
    }
}
