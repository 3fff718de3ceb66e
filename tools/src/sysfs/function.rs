//! PCI functions as sysfs shows them.

use std::{fs, path::PathBuf};

use super::{DeviceNode, PciAddress, Roots, attribute, entries, link_name, number};

/// Class code of an NVMe I/O controller: mass storage, non-volatile memory, NVM Express (NVMe over PCIe
/// Transport 1.0, 3.4).
const CLASS_NVME: u32 = 0x01_08_02;
/// Class and subclass of a PCI-to-PCI bridge; the programming interface varies.
const CLASS_PCI_BRIDGE: u32 = 0x06_04;

/// A function at the moment it was read.
#[derive(Clone, Debug)]
pub(crate) struct PciFunction {
    pub address: PciAddress,
    /// Its directory in sysfs, with links resolved.
    pub directory: PathBuf,
    /// Class, subclass and programming interface.
    pub class: u32,
    /// Four hexadecimal digits.
    pub vendor: String,
    /// Four hexadecimal digits.
    pub device: String,
    /// Who built the card around the controller: four hexadecimal digits.
    pub subsystem_vendor: String,
    /// Four hexadecimal digits.
    pub subsystem_device: String,
    pub driver: Option<String>,
    pub driver_override: Option<String>,
    pub iommu_group: Option<u32>,
    /// `None` on machines with a single node.
    pub numa_node: Option<u32>,
    /// SR-IOV virtual functions that are enabled below this one.
    pub virtual_functions: u32,
    /// The function that this one, a virtual function of SR-IOV, belongs to.
    pub physical_function: Option<PciAddress>,
}

impl PciFunction {
    /// Reads a function; `None` when there is none at this address.
    pub(crate) fn read(roots: &Roots, address: PciAddress) -> Option<Self> {
        let directory = fs::canonicalize(roots.pci_function(address)).ok()?;
        let id = |name| attribute(&directory.join(name)).map(|text| text.trim_start_matches("0x").to_owned());
        Some(Self {
            address,
            class: u32::from_str_radix(&id("class")?, 16).ok()?,
            vendor: id("vendor").unwrap_or_default(),
            device: id("device").unwrap_or_default(),
            subsystem_vendor: id("subsystem_vendor").unwrap_or_default(),
            subsystem_device: id("subsystem_device").unwrap_or_default(),
            driver: link_name(&directory.join("driver")),
            driver_override: attribute(&directory.join("driver_override")).filter(|text| text != "(null)"),
            iommu_group: link_name(&directory.join("iommu_group")).and_then(|name| name.parse().ok()),
            numa_node: number(&directory.join("numa_node")),
            virtual_functions: number(&directory.join("sriov_numvfs")).unwrap_or(0),
            physical_function: link_name(&directory.join("physfn")).and_then(|name| name.parse().ok()),
            directory,
        })
    }

    pub(crate) fn is_nvme(&self) -> bool {
        self.class == CLASS_NVME
    }

    /// Bridges forward a group's traffic and take no part in its isolation.
    pub(crate) fn is_bridge(&self) -> bool {
        self.class >> 8 == CLASS_PCI_BRIDGE
    }

    pub(crate) fn is_bound_to(&self, driver: &str) -> bool {
        self.driver.as_deref() == Some(driver)
    }

    /// Nodes through which a program drives this function itself, and their names: the group's, and those of
    /// vfio's and uio's own character devices.
    pub(crate) fn user_space_nodes(&self, roots: &Roots) -> Vec<(String, DeviceNode)> {
        let mut files = Vec::new();
        if let Some(group) = self.iommu_group {
            let file = roots.sys.join("class/vfio").join(group.to_string()).join("dev");
            files.push((format!("/dev/vfio/{group}"), file));
        }
        for (kind, place) in [("vfio-dev", "/dev/vfio/devices"), ("uio", "/dev")] {
            let directory = self.directory.join(kind);
            let node = |name: String| (format!("{place}/{name}"), directory.join(name).join("dev"));
            files.extend(entries(&directory).into_iter().map(node));
        }
        let node = |(name, file): (String, PathBuf)| {
            let number = attribute(&file)?.parse().ok()?;
            Some((name, DeviceNode::character(number)))
        };
        files.into_iter().filter_map(node).collect()
    }

    /// The nodes that vfio-pci makes for this function: that of its group, and on kernels that have it, its
    /// own.
    pub(crate) fn vfio_paths(&self, roots: &Roots) -> Vec<PathBuf> {
        let group = self.iommu_group.map(|group| roots.dev.join("vfio").join(group.to_string()));
        let own = entries(&self.directory.join("vfio-dev")).into_iter();
        group.into_iter().chain(own.map(|name| roots.dev.join("vfio/devices").join(name))).collect()
    }
}

/// All functions of the machine, by address.
pub(crate) fn functions(roots: &Roots) -> Vec<PciFunction> {
    let mut addresses: Vec<PciAddress> =
        entries(&roots.sys.join("bus/pci/devices")).iter().filter_map(|name| name.parse().ok()).collect();
    addresses.sort();
    addresses.into_iter().filter_map(|address| PciFunction::read(roots, address)).collect()
}

/// The names of the devices in an IOMMU group; not all of them need be PCI functions.
pub(crate) fn group_members(roots: &Roots, group: u32) -> Vec<String> {
    entries(&roots.sys.join("kernel/iommu_groups").join(group.to_string()).join("devices"))
}
