//! NVMe controllers of the kernel's driver, and the block devices that their namespaces appear as.
//!
//! With native multipathing a namespace appears twice: as a hidden `nvmeScCnN` in the controller's own
//! directory, where S is the subsystem, C the controller and N the namespace head, and as the head `nvmeSnN`
//! in the subsystem's directory, which is what is mounted. Without it the controller's directory holds the
//! block device itself, whose first number may still be that of a subsystem. So names are looked up, never
//! derived from the controller's number.

use std::{fs, path::Path};

use super::{DeviceNode, DeviceNumber, PciFunction, Roots, attribute, entries, number};

/// A controller that the kernel's driver runs.
#[derive(Clone, Debug)]
pub(crate) struct Controller {
    /// Such as `nvme0`.
    pub name: String,
    pub model: Option<String>,
    pub serial: Option<String>,
    pub firmware: Option<String>,
    pub disks: Vec<Disk>,
    /// The controller's and its namespaces' character devices: names and numbers.
    pub characters: Vec<(String, DeviceNode)>,
}

/// A namespace's block device as users see it.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    /// Such as `nvme0n1`: the head, when there is one.
    pub name: String,
    pub nsid: Option<u32>,
    /// Capacity in bytes.
    pub size: u64,
    /// Logical block size in bytes.
    pub block_size: Option<u32>,
    pub number: Option<DeviceNumber>,
    /// Other controllers that lead to the same namespace.
    pub other_paths: Vec<String>,
}

impl Controller {
    /// Capacity of all namespaces in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.disks.iter().map(|disk| disk.size).sum()
    }
}

/// The controller that the kernel's driver made of a function; `None` when another driver has the function.
pub(crate) fn controller_of(roots: &Roots, function: &PciFunction) -> Option<Controller> {
    let parent = function.directory.join("nvme");
    let name = entries(&parent).into_iter().next()?;
    let directory = parent.join(&name);
    let mut disks = Vec::new();
    let mut characters = Vec::new();
    characters.extend(character(&directory, &name));
    for entry in entries(&directory) {
        if let Some((subsystem, _, namespace)) = path_numbers(&entry) {
            let head = format!("nvme{subsystem}n{namespace}");
            if let Some((disk, generic)) = multipath_disk(roots, &name, &directory.join(&entry), &head) {
                disks.push(disk);
                characters.extend(generic);
            }
        } else if disk_numbers(&entry, "nvme").is_some() {
            disks.push(disk(&directory.join(&entry), &entry, Vec::new()));
        } else if disk_numbers(&entry, "ng").is_some() {
            characters.extend(character(&directory.join(&entry), &entry));
        }
    }
    Some(Controller {
        model: attribute(&directory.join("model")),
        serial: attribute(&directory.join("serial")),
        firmware: attribute(&directory.join("firmware_rev")),
        disks,
        characters,
        name,
    })
}

/// The head of a hidden path, and the head's character device. `None` while the head has no block device,
/// as when the path has only just appeared.
fn multipath_disk(
    roots: &Roots,
    controller: &str,
    path: &Path,
    head: &str,
) -> Option<(Disk, Option<(String, DeviceNode)>)> {
    let directory = fs::canonicalize(roots.block(head)).ok()?;
    let subsystem = directory.parent()?;
    let (_, _, namespace) = path_numbers(&path.file_name()?.to_string_lossy())?;
    let leads_here = |other: &String| {
        entries(&subsystem.join(other))
            .iter()
            .any(|entry| path_numbers(entry).is_some_and(|(_, _, n)| n == namespace))
    };
    let other_paths = entries(subsystem)
        .into_iter()
        .filter(|entry| is_controller(entry) && entry != controller)
        .filter(leads_here)
        .collect();
    let mut found = disk(&directory, head, other_paths);
    found.nsid = found.nsid.or_else(|| number(&path.join("nsid")));
    let generic = head.replacen("nvme", "ng", 1);
    let generic = character(&subsystem.join(&generic), &generic);
    Some((found, generic))
}

fn disk(directory: &Path, name: &str, other_paths: Vec<String>) -> Disk {
    // sysfs counts in units of 512 bytes whatever the block size is.
    let sectors: u64 = number(&directory.join("size")).unwrap_or(0);
    Disk {
        name: name.to_owned(),
        nsid: number(&directory.join("nsid")),
        size: sectors.saturating_mul(512),
        block_size: number(&directory.join("queue/logical_block_size")),
        number: attribute(&directory.join("dev")).and_then(|text| text.parse().ok()),
        other_paths,
    }
}

fn character(directory: &Path, name: &str) -> Option<(String, DeviceNode)> {
    let number = attribute(&directory.join("dev"))?.parse().ok()?;
    Some((name.to_owned(), DeviceNode::character(number)))
}

/// `nvme3`, and not `nvme3n1`.
pub(super) fn is_controller(name: &str) -> bool {
    name.strip_prefix("nvme").is_some_and(|rest| digits(rest).is_some())
}

/// `nvme0n1` gives 0 and 1; with `ng` as prefix, `ng0n1` does.
pub(super) fn disk_numbers(name: &str, prefix: &str) -> Option<(u32, u32)> {
    let (instance, namespace) = name.strip_prefix(prefix)?.split_once('n')?;
    Some((digits(instance)?, digits(namespace)?))
}

/// `nvme0c1n2` gives 0, 1 and 2.
fn path_numbers(name: &str) -> Option<(u32, u32, u32)> {
    let (subsystem, rest) = name.strip_prefix("nvme")?.split_once('c')?;
    let (controller, namespace) = rest.split_once('n')?;
    Some((digits(subsystem)?, digits(controller)?, digits(namespace)?))
}

fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    #[test]
    fn names_of_disks_paths_and_controllers_are_told_apart() {
        assert!(is_controller("nvme12") && !is_controller("nvme1n1") && !is_controller("nvme"));
        assert_eq!(disk_numbers("nvme1n23", "nvme"), Some((1, 23)));
        assert_eq!(disk_numbers("nvme1c0n23", "nvme"), None);
        assert_eq!(disk_numbers("nvme1n23p1", "nvme"), None);
        assert_eq!(disk_numbers("ng0n1", "ng"), Some((0, 1)));
        assert_eq!(path_numbers("nvme1c0n23"), Some((1, 0, 23)));
        assert_eq!(path_numbers("nvme1n1"), None);
    }

    #[test]
    fn a_controller_without_multipath_has_its_disks_in_its_own_directory() {
        let fake = Fake::new();
        fake.drive("0000:01:00.0", 1, "nvme0");
        fake.namespace("0000:01:00.0", "nvme0", "nvme0n1", 1, 2048);
        fake.namespace("0000:01:00.0", "nvme0", "nvme0n2", 2, 4096);
        let controller = controller_of(&fake.roots, &fake.pci("0000:01:00.0")).unwrap();
        assert_eq!(controller.name, "nvme0");
        assert_eq!(controller.model.as_deref(), Some("Fake Drive"));
        assert_eq!(controller.serial.as_deref(), Some("SN-nvme0"));
        assert_eq!(controller.firmware.as_deref(), Some("1.0"));
        assert_eq!(controller.size(), (2048 + 4096) * 512);
        let names: Vec<&str> = controller.disks.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!(names, ["nvme0n1", "nvme0n2"]);
        assert_eq!(controller.disks[1].nsid, Some(2));
        assert!(controller.disks[1].other_paths.is_empty());
        let characters: Vec<&str> = controller.characters.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(characters, ["nvme0", "ng0n1", "ng0n2"]);
    }

    #[test]
    fn a_hidden_path_leads_to_the_head_and_its_other_paths() {
        let fake = Fake::new();
        fake.drive("0000:01:00.0", 1, "nvme0");
        fake.drive("0000:02:00.0", 2, "nvme1");
        fake.multipath_head("nvme-subsys0", "nvme0n1", 7, 2048);
        fake.path("nvme-subsys0", "0000:01:00.0", "nvme0", "nvme0c0n1");
        fake.path("nvme-subsys0", "0000:02:00.0", "nvme1", "nvme0c1n1");
        let controller = controller_of(&fake.roots, &fake.pci("0000:01:00.0")).unwrap();
        assert_eq!(controller.disks.len(), 1);
        assert_eq!(controller.disks[0].name, "nvme0n1");
        assert_eq!(controller.disks[0].nsid, Some(7));
        assert_eq!(controller.disks[0].other_paths, ["nvme1"]);
        assert!(controller.characters.iter().any(|(name, _)| name == "ng0n1"));
    }
}
