//! A machine for the tests: a tree like those of sysfs, procfs and /dev in a temporary folder, and a kernel
//! that answers writes to it as the real one does.

use std::{
    cell::Cell,
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    binding::{Machine, ModuleError, Ownership, ProgramError},
    sysfs::{DeviceNode, NodeKind, PciAddress, PciFunction, Roots, attribute},
};

/// The tree.
pub(crate) struct Fake {
    pub(crate) roots: Roots,
    base: PathBuf,
    minor: Cell<u32>,
    _folder: TempDir,
}

/// A device node is a plain file that says `block 259:1`.
fn node_at(path: &Path) -> io::Result<Option<DeviceNode>> {
    let text = fs::read_to_string(path)?;
    let node = text.split_once(' ').and_then(|(kind, number)| {
        let kind = match kind {
            "block" => NodeKind::Block,
            "character" => NodeKind::Character,
            _ => return None,
        };
        Some(DeviceNode { kind, number: number.trim().parse().ok()? })
    });
    Ok(node)
}

impl Fake {
    /// A machine with both drivers, the IOMMU modules, one process (us) and no drive.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(folder.path()).unwrap();
        let root = |name| base.join(name);
        let roots = Roots {
            sys: root("sys"),
            proc: root("proc"),
            dev: root("dev"),
            run: root("run"),
            etc: root("etc"),
            modules: root("lib/modules"),
            node: node_at,
        };
        let fake = Self { roots, base, minor: Cell::new(0), _folder: folder };
        fake.driver("nvme");
        fake.driver("vfio-pci");
        fake.write("sys/module/vfio_iommu_type1/refcnt", "0\n");
        fake.process(1000, "gangway", 1);
        fake.link("proc/self", "1000");
        fake.write("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n");
        fake
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.base.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn append(&self, path: &str, text: &str) {
        let old = fs::read_to_string(self.base.join(path)).unwrap_or_default();
        self.write(path, &(old + text));
    }

    pub(crate) fn remove(&self, path: &str) {
        fs::remove_dir_all(self.base.join(path)).unwrap();
    }

    /// Removes a file or a link.
    pub(crate) fn remove_file(&self, path: &str) {
        fs::remove_file(self.base.join(path)).unwrap();
    }

    pub(crate) fn read(&self, path: &str) -> Option<String> {
        attribute(&self.base.join(path))
    }

    /// A symbolic link; `target` is taken as it is.
    pub(crate) fn link(&self, path: &str, target: &str) {
        let path = self.base.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        symlink(target, path).unwrap();
    }

    pub(crate) fn driver(&self, name: &str) {
        for file in ["bind", "unbind"] {
            self.write(&format!("sys/bus/pci/drivers/{name}/{file}"), "");
        }
    }

    /// A PCI function without driver.
    pub(crate) fn function(&self, address: &str, class: &str, group: Option<u32>) {
        let directory = format!("sys/devices/pci0000:00/{address}");
        let attributes = [
            ("class", format!("0x{class}\n")),
            ("vendor", "0x1b36\n".into()),
            ("device", "0x0010\n".into()),
            ("subsystem_vendor", "0x1af4\n".into()),
            ("subsystem_device", "0x1100\n".into()),
            ("driver_override", "(null)\n".into()),
            ("numa_node", "-1\n".into()),
        ];
        for (name, text) in attributes {
            self.write(&format!("{directory}/{name}"), &text);
        }
        self.link(
            &format!("sys/bus/pci/devices/{address}"),
            &format!("../../../devices/pci0000:00/{address}"),
        );
        if let Some(group) = group {
            self.link(&format!("{directory}/iommu_group"), &format!("../../../kernel/iommu_groups/{group}"));
            self.link(
                &format!("sys/kernel/iommu_groups/{group}/devices/{address}"),
                &format!("../../../../devices/pci0000:00/{address}"),
            );
        }
    }

    /// A function as it is now.
    pub(crate) fn pci(&self, address: &str) -> PciFunction {
        PciFunction::read(&self.roots, address.parse().unwrap()).unwrap()
    }

    pub(crate) fn set_driver(&self, address: &str, driver: &str) {
        self.link(
            &format!("sys/devices/pci0000:00/{address}/driver"),
            &format!("../../../bus/pci/drivers/{driver}"),
        );
    }

    /// An NVMe function with the kernel's driver and a controller without namespaces.
    pub(crate) fn drive(&self, address: &str, group: u32, controller: &str) {
        self.function(address, "010802", Some(group));
        self.set_driver(address, "nvme");
        self.controller(address, controller);
    }

    fn controller(&self, address: &str, controller: &str) {
        let directory = format!("sys/devices/pci0000:00/{address}/nvme/{controller}");
        let serial = format!("SN-{controller}            \n");
        for (name, text) in [("model", "Fake Drive   \n"), ("serial", &serial), ("firmware_rev", "1.0\n")] {
            self.write(&format!("{directory}/{name}"), text);
        }
        self.write(&format!("{directory}/transport"), "pcie\n");
        self.link(&format!("{directory}/device"), &format!("../../../{address}"));
        self.node(&directory, controller, "character");
        self.link(
            &format!("sys/class/nvme/{controller}"),
            &format!("../../devices/pci0000:00/{address}/nvme/{controller}"),
        );
    }

    /// Gives a directory of sysfs a number, and /dev a node of it.
    fn node(&self, directory: &str, name: &str, kind: &str) {
        self.minor.set(self.minor.get() + 1);
        let number = format!("{}:{}", if kind == "block" { 259 } else { 240 }, self.minor.get());
        self.write(&format!("{directory}/dev"), &format!("{number}\n"));
        self.write(&format!("dev/{name}"), &format!("{kind} {number}\n"));
    }

    fn block(&self, directory: &str, name: &str) {
        self.node(directory, name, "block");
        fs::create_dir_all(self.base.join(directory).join("holders")).unwrap();
        let target = directory.strip_prefix("sys/").unwrap();
        self.link(&format!("sys/class/block/{name}"), &format!("../../{target}"));
    }

    fn disk(&self, directory: &str, name: &str, nsid: u32, sectors: u64) {
        self.block(directory, name);
        self.write(&format!("{directory}/nsid"), &format!("{nsid}\n"));
        self.write(&format!("{directory}/size"), &format!("{sectors}\n"));
        self.write(&format!("{directory}/queue/logical_block_size"), "512\n");
    }

    fn generic(&self, directory: &str, disk: &str) {
        let name = disk.replacen("nvme", "ng", 1);
        self.node(&format!("{directory}/{name}"), &name, "character");
        let target = directory.strip_prefix("sys/").unwrap();
        self.link(&format!("sys/class/nvme-generic/{name}"), &format!("../../{target}/{name}"));
    }

    /// A namespace without multipath.
    pub(crate) fn namespace(&self, address: &str, controller: &str, name: &str, nsid: u32, sectors: u64) {
        let directory = format!("sys/devices/pci0000:00/{address}/nvme/{controller}");
        self.disk(&format!("{directory}/{name}"), name, nsid, sectors);
        self.generic(&directory, name);
    }

    pub(crate) fn multipath_head(&self, subsystem: &str, name: &str, nsid: u32, sectors: u64) {
        let directory = format!("sys/devices/virtual/nvme-subsystem/{subsystem}");
        self.disk(&format!("{directory}/{name}"), name, nsid, sectors);
        self.generic(&directory, name);
    }

    /// A path to a head: a hidden disk without node.
    pub(crate) fn path(&self, subsystem: &str, address: &str, controller: &str, name: &str) {
        let directory = format!("sys/devices/pci0000:00/{address}/nvme/{controller}");
        self.write(&format!("{directory}/{name}/hidden"), "1\n");
        self.link(
            &format!("sys/devices/virtual/nvme-subsystem/{subsystem}/{controller}"),
            &format!("../../../pci0000:00/{address}/nvme/{controller}"),
        );
    }

    /// Where a block device is, from the base of the tree.
    fn block_directory(&self, name: &str) -> String {
        let directory = fs::canonicalize(self.roots.block(name)).unwrap();
        directory.strip_prefix(&self.base).unwrap().to_str().unwrap().to_owned()
    }

    pub(crate) fn partition(&self, disk: &str, name: &str, number: u32) {
        let directory = format!("{}/{name}", self.block_directory(disk));
        self.block(&directory, name);
        self.write(&format!("{directory}/partition"), &format!("{number}\n"));
    }

    /// A virtual block device; `attributes` are files in its directory.
    pub(crate) fn virtual_block(&self, name: &str, attributes: &[(&str, &str)]) {
        let directory = format!("sys/devices/virtual/block/{name}");
        self.block(&directory, name);
        for (file, text) in attributes {
            self.write(&format!("{directory}/{file}"), &format!("{text}\n"));
        }
    }

    pub(crate) fn holder(&self, below: &str, above: &str) {
        let directory = self.block_directory(below);
        self.write(&format!("{directory}/holders/{above}"), "");
    }

    pub(crate) fn number(&self, block: &str) -> String {
        attribute(&self.roots.block(block).join("dev")).unwrap()
    }

    /// Mounts a block device in our own mount namespace.
    pub(crate) fn mount(&self, block: &str, at: &str) {
        self.mount_for(1000, &self.number(block), at, "ext4", &format!("/dev/{block}"));
    }

    pub(crate) fn mount_for(&self, pid: u32, number: &str, at: &str, fs: &str, source: &str) {
        let line = format!("30 1 {number} / {at} rw shared:1 - {fs} {source} rw\n");
        self.append(&format!("proc/{pid}/mountinfo"), &line);
    }

    /// A process in the mount namespace of that number.
    pub(crate) fn process(&self, pid: u32, command: &str, namespace: u32) {
        self.write(&format!("proc/{pid}/comm"), &format!("{command}\n"));
        self.write(&format!("proc/{pid}/mountinfo"), "");
        self.write(&format!("proc/{pid}/maps"), "");
        self.link(&format!("proc/{pid}/ns/mnt"), &format!("mnt:[{namespace}]"));
        self.link(&format!("proc/{pid}/root"), "/");
        fs::create_dir_all(self.base.join(format!("proc/{pid}/fd"))).unwrap();
    }

    /// A process opens a file below /dev.
    pub(crate) fn open(&self, pid: u32, fd: u32, name: &str) {
        let target = self.roots.dev.join(name);
        self.link(&format!("proc/{pid}/fd/{fd}"), target.to_str().unwrap());
    }

    pub(crate) fn vfio_group(&self, group: u32) {
        self.node(&format!("sys/class/vfio/{group}"), &format!("vfio/{group}"), "character");
    }

    fn path_of(&self, path: &Path) -> String {
        path.strip_prefix(&self.base).unwrap_or(path).to_str().unwrap().to_owned()
    }
}

/// What happens while time passes.
pub(crate) type Meanwhile<'a> = Box<dyn FnMut(&Fake) + 'a>;

/// The kernel, and a journal of what it was asked to do.
pub(crate) struct Kernel<'a> {
    fake: &'a Fake,
    pub(crate) journal: Vec<String>,
    /// Files (by how their path ends) that answer with an error instead, and on which write.
    pub(crate) failing: HashMap<String, io::ErrorKind>,
    /// Disks that somebody holds exclusively.
    pub(crate) claimed: Vec<String>,
    pub(crate) group_is_busy: bool,
    /// Modules that can be loaded.
    pub(crate) modules: Vec<&'static str>,
    pub(crate) root: bool,
    pub(crate) notices: Vec<String>,
    pub(crate) paused: Duration,
    /// Called at each pause.
    pub(crate) meanwhile: Option<Meanwhile<'a>>,
    /// Called before each claim.
    pub(crate) before_claim: Option<Meanwhile<'a>>,
    /// Who owns which file; those that are not here are root's.
    pub(crate) owners: HashMap<String, Ownership>,
    /// The serial number that drives say, asked directly.
    pub(crate) serial: Option<&'static str>,
    /// Where this program is, or why it must not be run by root.
    pub(crate) program: Result<&'static str, &'static str>,
    /// Whether the driver takes a function that is written to its `bind`.
    pub(crate) takes: bool,
}

impl<'a> Kernel<'a> {
    pub(crate) fn new(fake: &'a Fake) -> Self {
        Self {
            fake,
            journal: Vec::new(),
            failing: HashMap::new(),
            claimed: Vec::new(),
            group_is_busy: false,
            modules: vec!["nvme", "vfio-pci", "vfio_iommu_type1"],
            root: true,
            notices: Vec::new(),
            paused: Duration::ZERO,
            meanwhile: None,
            before_claim: None,
            owners: HashMap::new(),
            serial: None,
            program: Ok("/usr/local/bin/gangway"),
            takes: true,
        }
    }

    /// The journal without the drive's record, which has a test of its own.
    pub(crate) fn changes(&self) -> Vec<&str> {
        self.journal.iter().map(String::as_str).filter(|line| !line.contains("run/gangway")).collect()
    }

    fn fail(&self, path: &str) -> io::Result<()> {
        match self.failing.iter().find(|(end, _)| path.ends_with(end.as_str())) {
            Some((_, kind)) => Err((*kind).into()),
            None => Ok(()),
        }
    }

    fn unbind(&mut self, driver: &str, address: &str) -> io::Result<()> {
        let directory = self.fake.roots.sys.join("devices/pci0000:00").join(address);
        let bound = fs::read_link(directory.join("driver")).ok();
        if bound.is_none_or(|bound| !bound.ends_with(driver)) {
            return Err(io::Error::from_raw_os_error(19));
        }
        fs::remove_file(directory.join("driver"))?;
        if driver == "nvme" {
            fs::remove_dir_all(directory.join("nvme"))?;
        }
        Ok(())
    }

    fn bind(&mut self, driver: &str, address: &str) -> io::Result<()> {
        let directory = format!("sys/devices/pci0000:00/{address}");
        let wanted = self.fake.read(&format!("{directory}/driver_override"));
        let matches = match wanted.as_deref() {
            None | Some("(null)") => driver == "nvme",
            Some(wanted) => wanted == driver,
        };
        let bound = self.fake.base.join(&directory).join("driver").is_symlink();
        if !matches || bound {
            return Err(io::Error::from_raw_os_error(19));
        }
        if !self.takes {
            return Ok(());
        }
        self.fake.set_driver(address, driver);
        match driver {
            "nvme" => {
                self.fake.controller(address, "nvme7");
                self.fake.namespace(address, "nvme7", "nvme7n1", 1, 2048);
            }
            _ => {
                let group = fs::read_link(self.fake.base.join(&directory).join("iommu_group")).unwrap();
                self.fake.vfio_group(group.file_name().unwrap().to_str().unwrap().parse().unwrap());
            }
        }
        Ok(())
    }
}

impl Machine for Kernel<'_> {
    fn claim(&mut self, node: &Path) -> io::Result<File> {
        if let Some(before_claim) = &mut self.before_claim {
            before_claim(self.fake);
        }
        let name = node.file_name().unwrap().to_str().unwrap();
        self.fail(name)?;
        if self.claimed.iter().any(|claimed| claimed == name) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        File::open(node)
    }

    fn flush(&mut self, node: &Path, _claim: &File) -> io::Result<()> {
        self.journal.push(format!("flush {}", self.fake.path_of(node)));
        self.fail("flush")
    }

    fn group_is_free(&mut self, _node: &Path) -> io::Result<bool> {
        Ok(!self.group_is_busy)
    }

    fn write(&mut self, file: &Path, text: &str) -> io::Result<()> {
        let path = self.fake.path_of(file);
        self.journal.push(format!("{path} = {text:?}"));
        self.fail(&path)?;
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            ["sys", "bus", "pci", "drivers", driver, "unbind"] => self.unbind(driver, text),
            ["sys", "bus", "pci", "drivers", driver, "bind"] => self.bind(driver, text),
            ["sys", "bus", "pci", "drivers_probe"] => self.bind("nvme", text),
            ["sys", "bus", "pci", "devices", _, "driver_override"] => {
                fs::write(file, if text == "\n" { "(null)\n".into() } else { format!("{text}\n") })
            }
            _ => panic!("unexpected write to {path}"),
        }
    }

    fn load(&mut self, module: &str) -> Result<(), ModuleError> {
        self.journal.push(format!("load {module}"));
        if !self.modules.contains(&module) {
            let reason = format!("module {module} not found");
            return Err(ModuleError::Failed { module: module.into(), option: "CONFIG_X", reason });
        }
        match module {
            "vfio_iommu_type1" => self.fake.write("sys/module/vfio_iommu_type1/refcnt", "0\n"),
            driver => self.fake.driver(driver),
        }
        Ok(())
    }

    fn save(&mut self, file: &Path, text: &str) -> io::Result<()> {
        let path = self.fake.path_of(file);
        self.journal.push(format!("save {path}"));
        self.fail(&path)?;
        self.fake.write(&path, text);
        Ok(())
    }

    fn remove(&mut self, file: &Path) -> io::Result<()> {
        self.journal.push(format!("remove {}", self.fake.path_of(file)));
        let _ = fs::remove_file(file);
        Ok(())
    }

    fn ownership(&mut self, file: &Path) -> io::Result<Ownership> {
        let root = Ownership { user: 0, group: 0, mode: 0o600 };
        Ok(self.owners.get(&self.fake.path_of(file)).copied().unwrap_or(root))
    }

    fn own(&mut self, file: &Path, ownership: Ownership) -> io::Result<()> {
        let path = self.fake.path_of(file);
        let Ownership { user, group, mode } = ownership;
        self.journal.push(format!("own {path} {user}:{group} {mode:o}"));
        self.fail(&path)?;
        self.owners.insert(path, ownership);
        Ok(())
    }

    fn program(&mut self) -> Result<PathBuf, ProgramError> {
        self.program
            .map(PathBuf::from)
            .map_err(|reason| ProgramError { program: "/home/alice/gangway".into(), reason: reason.into() })
    }

    fn serial_number(&mut self, address: PciAddress) -> anyhow::Result<String> {
        self.journal.push(format!("ask {address}"));
        self.serial.map(str::to_owned).ok_or_else(|| anyhow::anyhow!("it does not answer"))
    }

    fn lock(&mut self, file: &Path) -> io::Result<File> {
        self.fake.write(&self.fake.path_of(file), "");
        File::open(file)
    }

    fn log(&mut self, text: &str) {
        self.notices.push(text.to_owned());
    }

    fn may_open(&mut self, file: &Path) -> bool {
        self.fail(&self.fake.path_of(file)).is_ok()
    }

    fn pause(&mut self, time: Duration) {
        self.paused += time;
        if let Some(meanwhile) = &mut self.meanwhile {
            meanwhile(self.fake);
        }
    }

    fn notice(&mut self, text: &str) {
        self.notices.push(text.to_owned());
    }

    fn is_root(&self) -> bool {
        self.root
    }
}
