//! Reading what the kernel tells about this machine: PCI functions, NVMe controllers, device nodes.
//!
//! Everything is reached through [`Roots`], so that the tests run on a faked tree in a temporary folder.
//! sysfs changes while it is read (drives come and go), so a missing or unreadable attribute is never an
//! error here: it reads as `None` or as an empty list, and the caller decides what that means.

mod address;
mod function;
mod node;
mod nvme;
mod resolve;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

pub(crate) use address::PciAddress;
pub(crate) use function::{PciFunction, functions, group_members};
pub(crate) use node::{DeviceNode, DeviceNumber, NodeKind};
pub(crate) use nvme::{Controller, Disk, controller_of};
pub(crate) use resolve::resolve;

/// Where the kernel's file systems are mounted.
#[derive(Clone, Debug)]
pub(crate) struct Roots {
    /// sysfs, with configfs below `kernel/config`.
    pub sys: PathBuf,
    /// procfs.
    pub proc: PathBuf,
    /// The device nodes.
    pub dev: PathBuf,
    /// State that lasts until the next boot.
    pub run: PathBuf,
    /// The machine's configuration.
    pub etc: PathBuf,
    /// The modules of its kernels, a directory for each release.
    pub modules: PathBuf,
    /// Which device a path leads to: `None` when it is no device node.
    pub node: fn(&Path) -> io::Result<Option<DeviceNode>>,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            proc: "/proc".into(),
            dev: "/dev".into(),
            run: "/run".into(),
            etc: "/etc".into(),
            modules: "/lib/modules".into(),
            node: node::node_at,
        }
    }
}

impl Roots {
    /// The directory of a PCI function.
    pub(crate) fn pci_function(&self, address: PciAddress) -> PathBuf {
        self.sys.join("bus/pci/devices").join(address.to_string())
    }

    /// The directory of a PCI driver; it exists while the driver is loaded.
    pub(crate) fn pci_driver(&self, driver: &str) -> PathBuf {
        self.sys.join("bus/pci/drivers").join(driver)
    }

    /// The directory of a block device, whole disk or partition.
    pub(crate) fn block(&self, name: &str) -> PathBuf {
        self.sys.join("class/block").join(name)
    }

    /// The device behind a path as the kernel or a user wrote it, such as `/dev/disk/by-id/...`.
    pub(crate) fn node_of(&self, path: &str) -> Option<DeviceNode> {
        let path = match Path::new(path).strip_prefix("/dev") {
            Ok(below) => self.dev.join(below),
            Err(_) => PathBuf::from(path),
        };
        (self.node)(&path).ok().flatten()
    }

    /// The process identifier of this program, as `/proc` counts.
    pub(crate) fn own_pid(&self) -> Option<u32> {
        link_name(&self.proc.join("self"))?.parse().ok()
    }
}

/// An attribute's text without surrounding blanks; `None` when there is none or it is empty.
pub(crate) fn attribute(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// A decimal attribute.
pub(crate) fn number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    attribute(path)?.parse().ok()
}

/// The last component of what a symbolic link points to.
pub(crate) fn link_name(path: &Path) -> Option<String> {
    Some(fs::read_link(path).ok()?.file_name()?.to_string_lossy().into_owned())
}

/// The names in a directory, sorted; empty when it cannot be read.
pub(crate) fn entries(path: &Path) -> Vec<String> {
    let Ok(directory) = fs::read_dir(path) else { return Vec::new() };
    let mut names: Vec<String> =
        directory.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_by_key(|name| natural_key(name));
    names
}

/// Sorts `nvme10` behind `nvme2`.
fn natural_key(name: &str) -> Vec<(String, u64)> {
    let mut key = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, tail) = tail.split_at(end);
        key.push((text.to_owned(), number.parse().unwrap_or(u64::MAX)));
        rest = tail;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_their_numbers() {
        let mut names = vec!["nvme10n1", "nvme2n10", "nvme2n9", "dm-0"];
        names.sort_by_key(|name| natural_key(name));
        assert_eq!(names, ["dm-0", "nvme2n9", "nvme2n10", "nvme10n1"]);
    }
}
