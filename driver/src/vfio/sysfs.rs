//! What the kernel's file systems say about a PCI function before VFIO is asked: its class, driver and IOMMU
//! group.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::VfioError;
use crate::address::PciAddress;

/// Class code of an NVMe I/O controller (PCI Code and ID Assignment: mass storage, non-volatile memory, NVM
/// Express).
const NVME_CLASS: u32 = 0x01_08_02;

/// Where the kernel's file systems are. Tests put trees of their own there.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) sys: PathBuf,
    pub(super) proc: PathBuf,
    pub(super) dev: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into(), dev: "/dev".into() }
    }
}

impl Places {
    /// The file of VFIO's container.
    pub(super) fn container(&self) -> PathBuf {
        self.dev.join("vfio/vfio")
    }

    /// The file of an IOMMU group.
    pub(super) fn group(&self, group: u32) -> PathBuf {
        self.dev.join("vfio").join(group.to_string())
    }

    /// Checks that a function is an NVMe drive, belongs to vfio-pci and is behind an IOMMU; returns its
    /// group.
    pub(super) fn check(&self, address: PciAddress) -> Result<u32, VfioError> {
        let function = self.sys.join("bus/pci/devices").join(address.to_string());
        let failed = |source| VfioError::File { action: "look at", path: function.clone(), source };
        if !function.try_exists().map_err(failed)? {
            return Err(VfioError::NotFound { address });
        }
        let class = read(&function.join("class"))?;
        let class = u32::from_str_radix(class.trim_start_matches("0x"), 16).unwrap_or(0);
        if class != NVME_CLASS {
            return Err(VfioError::NotNvme { address, class });
        }
        // Before the driver is looked at: without an IOMMU vfio-pci takes no function, so binding would not
        // help.
        let link = function.join("iommu_group");
        let group =
            link_name(&link)?.and_then(|name| name.parse().ok()).ok_or(VfioError::NoIommu { address })?;
        let driver = driver(&function)?;
        if !driver.as_deref().is_some_and(is_vfio) {
            return Err(VfioError::NotBound { address, driver });
        }
        // VFIO's mode without IOMMU makes a group that says so by its name.
        if fs::read_to_string(link.join("name")).is_ok_and(|name| name.trim() == "vfio-noiommu") {
            return Err(VfioError::UnsafeNoIommu { address });
        }
        Ok(group)
    }

    /// The functions of a group that keep VFIO from using it, and their drivers.
    pub(super) fn in_the_way(&self, group: u32) -> Result<Vec<(String, String)>, VfioError> {
        let devices = self.sys.join("kernel/iommu_groups").join(group.to_string()).join("devices");
        let failed = |source| VfioError::File { action: "list", path: devices.clone(), source };
        let mut others = Vec::new();
        for entry in fs::read_dir(&devices).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // Functions without a driver do no DMA, and the drivers of bridges are known to do none.
            if let Some(driver) = driver(&entry.path())?
                && !is_vfio(&driver)
                && !["pci-stub", "pcieport"].contains(&driver.as_str())
            {
                others.push((entry.file_name().to_string_lossy().into_owned(), driver));
            }
        }
        others.sort();
        Ok(others)
    }

    /// Has the interrupts of a function's vector come to one CPU. The kernel knows them by numbers of its own, and by the
    /// names that VFIO gave them.
    pub(super) fn steer(&self, address: PciAddress, vector: u16, cpu: usize) -> io::Result<()> {
        let vectors = self.sys.join("bus/pci/devices").join(address.to_string()).join("msi_irqs");
        for number in fs::read_dir(vectors)? {
            let interrupt = self.proc.join("irq").join(number?.file_name());
            let is_it = |kind| interrupt.join(format!("{kind}[{vector}]({address})")).exists();
            if ["vfio-msix", "vfio-msi"].into_iter().any(is_it) {
                return fs::write(interrupt.join("smp_affinity_list"), format!("{cpu}\n"));
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "the kernel does not show which of its interrupts it is"))
    }

    /// The processes that have a file open, as far as this process may look: `name (pid)`.
    pub(super) fn holders(&self, file: &Path) -> Vec<String> {
        let mut holders = Vec::new();
        for process in fs::read_dir(&self.proc).into_iter().flatten().flatten() {
            let name = process.file_name();
            let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
            else {
                continue;
            };
            let open = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
            if open.into_iter().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == file)) {
                let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                holders.push(format!("{} ({pid})", command.trim()));
            }
        }
        holders.sort();
        holders
    }
}

/// Whether a driver is vfio-pci, or one made for certain devices on top of it.
fn is_vfio(driver: &str) -> bool {
    driver == "vfio-pci" || driver.ends_with("-vfio-pci") || driver.ends_with("_vfio_pci")
}

fn driver(function: &Path) -> Result<Option<String>, VfioError> {
    link_name(&function.join("driver"))
}

/// The last part of what a link points to; `None` when there is no link.
fn link_name(link: &Path) -> Result<Option<String>, VfioError> {
    match fs::read_link(link) {
        Ok(target) => Ok(target.file_name().map(|name| name.to_string_lossy().into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(VfioError::File { action: "read the link", path: link.to_owned(), source }),
    }
}

fn read(path: &Path) -> Result<String, VfioError> {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(|source| VfioError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    /// A machine of files.
    struct Machine {
        root: TempDir,
        places: Places,
    }

    impl Machine {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let [sys, proc, dev] = ["sys", "proc", "dev"].map(|name| root.path().join(name));
            for path in [&sys, &proc, &dev] {
                fs::create_dir(path).unwrap();
            }
            Self { root, places: Places { sys, proc, dev } }
        }

        fn function(&self, name: &str, class: &str, driver: Option<&str>, group: Option<u32>) {
            let function = self.root.path().join("sys/bus/pci/devices").join(name);
            fs::create_dir_all(&function).unwrap();
            fs::write(function.join("class"), format!("{class}\n")).unwrap();
            if let Some(driver) = driver {
                let directory = self.root.path().join("sys/bus/pci/drivers").join(driver);
                fs::create_dir_all(&directory).unwrap();
                symlink(directory, function.join("driver")).unwrap();
            }
            if let Some(group) = group {
                let directory = self.root.path().join("sys/kernel/iommu_groups").join(group.to_string());
                fs::create_dir_all(directory.join("devices")).unwrap();
                symlink(&function, directory.join("devices").join(name)).unwrap();
                symlink(directory, function.join("iommu_group")).unwrap();
            }
        }

        fn check(&self) -> Result<u32, VfioError> {
            self.places.check(DRIVE.parse().unwrap())
        }
    }

    const DRIVE: &str = "0000:01:00.0";
    const CLASS: &str = "0x010802";

    #[test]
    fn a_drive_on_vfio_pci_is_found_with_its_group() {
        let machine = Machine::new();
        machine.function(DRIVE, CLASS, Some("vfio-pci"), Some(7));
        assert_eq!(machine.check().unwrap(), 7);
        assert_eq!(machine.places.in_the_way(7).unwrap(), []);
    }

    #[test]
    fn the_interrupts_of_a_vector_are_steered_and_no_others() {
        let machine = Machine::new();
        machine.function(DRIVE, CLASS, Some("vfio-pci"), Some(7));
        let steered = |number: u32| {
            fs::read_to_string(machine.places.proc.join(format!("irq/{number}/smp_affinity_list"))).unwrap()
        };
        for (number, name) in [(31, "vfio-msix[0](0000:01:00.0)"), (29, "vfio-msix[1](0000:01:00.0)")] {
            let vector = machine.places.sys.join(format!("bus/pci/devices/{DRIVE}/msi_irqs"));
            fs::create_dir_all(&vector).unwrap();
            fs::write(vector.join(number.to_string()), "msix\n").unwrap();
            let interrupt = machine.places.proc.join(format!("irq/{number}"));
            fs::create_dir_all(interrupt.join(name)).unwrap();
            fs::write(interrupt.join("smp_affinity_list"), "0-3\n").unwrap();
        }
        machine.places.steer(DRIVE.parse().unwrap(), 1, 2).unwrap();
        assert_eq!((steered(31).as_str(), steered(29).as_str()), ("0-3\n", "2\n"));
        let unknown = machine.places.steer(DRIVE.parse().unwrap(), 2, 2).unwrap_err();
        assert_eq!(unknown.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_function_that_is_not_there_is_named() {
        let error = Machine::new().check().unwrap_err();
        assert!(matches!(error, VfioError::NotFound { .. }));
        assert!(error.to_string().contains(DRIVE), "{error}");
    }

    #[test]
    fn a_function_that_is_no_nvme_drive_is_refused() {
        let machine = Machine::new();
        machine.function(DRIVE, "0x010601", Some("vfio-pci"), Some(7));
        let error = machine.check().unwrap_err();
        assert!(matches!(error, VfioError::NotNvme { class: 0x01_06_01, .. }), "{error}");
    }

    #[test]
    fn a_drive_of_another_driver_is_refused_with_the_command_that_helps() {
        for driver in [Some("nvme"), None, Some("notvfio-pci")] {
            let machine = Machine::new();
            machine.function(DRIVE, CLASS, driver, Some(7));
            let error = machine.check().unwrap_err();
            assert!(
                matches!(&error, VfioError::NotBound { driver: found, .. } if found.as_deref() == driver)
            );
            assert!(error.to_string().contains("`gangway bind 0000:01:00.0`"), "{error}");
        }
    }

    #[test]
    fn a_drive_without_an_iommu_is_refused_before_binding_is_advised() {
        let machine = Machine::new();
        machine.function(DRIVE, CLASS, Some("nvme"), None);
        assert!(matches!(machine.check().unwrap_err(), VfioError::NoIommu { .. }));
    }

    #[test]
    fn a_drive_in_the_mode_without_iommu_is_refused() {
        let machine = Machine::new();
        machine.function(DRIVE, CLASS, Some("vfio-pci"), Some(0));
        fs::write(machine.root.path().join("sys/kernel/iommu_groups/0/name"), "vfio-noiommu\n").unwrap();
        assert!(matches!(machine.check().unwrap_err(), VfioError::UnsafeNoIommu { .. }));
    }

    #[test]
    fn only_functions_with_drivers_that_do_dma_are_in_the_way() {
        let machine = Machine::new();
        machine.function(DRIVE, CLASS, Some("vfio-pci"), Some(7));
        machine.function("0000:01:00.1", "0x040300", Some("snd_hda_intel"), Some(7));
        machine.function("0000:01:00.2", "0x040300", None, Some(7));
        machine.function("0000:00:1c.0", "0x060400", Some("pcieport"), Some(7));
        machine.function("0000:02:00.0", CLASS, Some("nvme"), Some(8));
        let others = machine.places.in_the_way(7).unwrap();
        assert_eq!(others, [("0000:01:00.1".to_owned(), "snd_hda_intel".to_owned())]);
        let error = VfioError::GroupNotViable { address: DRIVE.parse().unwrap(), group: 7, others };
        assert!(error.to_string().contains("0000:01:00.1 (snd_hda_intel)"), "{error}");
    }

    #[test]
    fn a_group_that_is_not_there_gives_an_error_with_its_path() {
        let error = Machine::new().places.in_the_way(9).unwrap_err();
        assert!(error.to_string().contains("iommu_groups/9"), "{error}");
    }

    #[test]
    fn the_processes_that_hold_a_group_are_named() {
        let machine = Machine::new();
        let group = machine.places.group(7);
        for (pid, command, file) in [("12", "qemu", group.clone()), ("13", "other", "/dev/null".into())] {
            let process = machine.root.path().join("proc").join(pid);
            fs::create_dir_all(process.join("fd")).unwrap();
            fs::write(process.join("comm"), format!("{command}\n")).unwrap();
            symlink(file, process.join("fd/3")).unwrap();
        }
        fs::create_dir(machine.root.path().join("proc/self")).unwrap();
        let holders = machine.places.holders(&group);
        assert_eq!(holders, ["qemu (12)"]);
        let error = VfioError::Busy { path: "/dev/vfio/7".into(), holders };
        assert!(error.to_string().starts_with("/dev/vfio/7 is in use by qemu (12);"), "{error}");
    }
}
