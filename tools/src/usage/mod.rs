//! What uses a drive.
//!
//! [`System`] is read once, since mounts, swap and open files are listed for the whole machine;
//! [`System::users_of`] then follows one drive's namespaces, partitions and everything stacked on them.
//!
//! Not all uses can be seen this way. ZFS, external journals and others claim a block device inside the
//! kernel and leave no trace in sysfs; only an exclusive open tells ([`Use::Claimed`]). A program that holds
//! a device only through an io_uring's registered files is not seen at all.

mod exports;
mod mounts;
mod processes;
mod stack;

use std::fmt;

use crate::sysfs::{Controller, PciFunction, Roots, attribute, entries};

pub(crate) use processes::Process;

/// One use of a drive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Usage {
    /// The namespace, partition or character device that is used, such as `/dev/nvme0n1p2`; what a program
    /// has of the function when it drives it itself, such as `/dev/vfio/7`.
    pub device: String,
    /// What is stacked on it, lowest first.
    pub via: Vec<Layer>,
    /// What uses the topmost layer; `None` when that layer exists and nothing is known to use it.
    pub what: Option<Use>,
}

/// A block device made of others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Layer {
    /// The name people know it by: `vg0-root`, `md127`, `loop0`.
    pub name: String,
    /// Such as `LVM` or `MD raid1`.
    pub kind: String,
}

/// The ways in which a device is used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Use {
    /// A mounted file system; `within` names a process of the mount namespace when it is not our own.
    Mounted {
        at: String,
        fs: String,
        within: Option<Process>,
    },
    /// A member of a file system of several devices, mounted where we cannot see it.
    FileSystem {
        fs: String,
    },
    Swap,
    /// A target of this kernel exports it.
    Exported {
        target: &'static str,
        name: String,
    },
    /// Registered with bcache, as a cache or as a backing device.
    Bcache,
    /// A process has it open, or mapped.
    Open(Process),
    /// Something holds it exclusively, and nothing above says what. `pools`: the ZFS pools of this machine.
    Claimed {
        pools: Vec<String>,
    },
}

impl Use {
    /// One word for programs to match on.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Mounted { .. } => "mount",
            Self::FileSystem { .. } => "filesystem",
            Self::Swap => "swap",
            Self::Exported { .. } => "export",
            Self::Bcache => "bcache",
            Self::Open(_) => "open",
            Self::Claimed { .. } => "claimed",
        }
    }

    /// What a person does to end it.
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::Mounted { within: None, .. } => "unmount it",
            Self::Mounted { within: Some(_), .. } => "unmount it there or end that process",
            Self::FileSystem { .. } => "unmount the file system",
            Self::Swap => "swapoff it",
            Self::Exported { .. } => "end the export",
            Self::Bcache => "stop and unregister it",
            Self::Open(_) => "end that process",
            Self::Claimed { pools } if pools.is_empty() => "find out what holds it and end that",
            Self::Claimed { .. } => "export the pool (`zpool export`) or end what holds it",
        }
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { at, fs, within: None } => write!(f, "mounted on {at} ({fs})"),
            Self::Mounted { at, fs, within: Some(process) } => {
                write!(f, "mounted on {at} ({fs}) in the mount namespace of {process}")
            }
            Self::FileSystem { fs } => write!(f, "part of a mounted {fs} file system"),
            Self::Swap => f.write_str("used as swap"),
            Self::Exported { target, name } => write!(f, "exported by {target} as {name}"),
            Self::Bcache => f.write_str("registered with bcache"),
            Self::Open(process) => write!(f, "open by {process}"),
            Self::Claimed { pools } if pools.is_empty() => {
                f.write_str("held exclusively by something in the kernel")
            }
            Self::Claimed { pools } => {
                write!(f, "held exclusively, perhaps by ZFS (pools here: {})", pools.join(", "))
            }
        }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.device)?;
        for layer in &self.via {
            write!(f, " -> {} ({})", layer.name, layer.kind)?;
        }
        match &self.what {
            Some(what) => write!(f, " {what}"),
            None => Ok(()),
        }
    }
}

impl Usage {
    /// What a person does to end it.
    pub(crate) fn remedy(&self) -> &'static str {
        self.what.as_ref().map_or("remove what is built on it", Use::remedy)
    }

    /// Device managers look at every new device for a moment, and some claim it while they do; such a use
    /// may go away by itself.
    pub(crate) fn is_passing(&self) -> bool {
        match &self.what {
            Some(Use::Open(process)) => process.is_device_manager(),
            Some(Use::Claimed { .. }) => true,
            _ => false,
        }
    }
}

/// The users of all block and character devices of this machine at one moment.
#[derive(Debug)]
pub(crate) struct System {
    mounts: mounts::Mounts,
    swaps: Vec<crate::sysfs::DeviceNode>,
    processes: processes::Processes,
    exports: Vec<exports::Export>,
    loops: Vec<(crate::sysfs::DeviceNode, String)>,
    pools: Vec<String>,
}

impl System {
    pub(crate) fn read(roots: &Roots) -> Self {
        Self {
            mounts: mounts::Mounts::read(roots),
            swaps: mounts::swaps(roots),
            processes: processes::Processes::read(roots),
            exports: exports::exports(roots),
            loops: stack::loops(roots),
            // Each imported pool has a directory; the module's own counters are plain files.
            pools: entries(&roots.proc.join("spl/kstat/zfs"))
                .into_iter()
                .filter(|name| roots.proc.join("spl/kstat/zfs").join(name).is_dir())
                .collect(),
        }
    }

    /// Processes whose open files may not be read, so that a use by them would go unseen.
    pub(crate) fn unreadable_processes(&self) -> usize {
        self.processes.unreadable
    }

    /// What to say when a claim fails although nothing was seen to use the device.
    pub(crate) fn claimed(&self, device: &str) -> Usage {
        let what = Use::Claimed { pools: self.pools.clone() };
        Usage { device: format!("/dev/{device}"), via: Vec::new(), what: Some(what) }
    }

    /// Every use of a function and of what the kernel's driver made of it.
    pub(crate) fn users_of(
        &self,
        roots: &Roots,
        function: &PciFunction,
        controller: Option<&Controller>,
    ) -> Vec<Usage> {
        let mut found = Vec::new();
        for disk in controller.iter().flat_map(|controller| &controller.disks) {
            stack::follow(self, roots, &disk.name, &mut found);
        }
        for (name, node) in controller.iter().flat_map(|controller| &controller.characters) {
            let device = format!("/dev/{name}");
            let users = self.processes.holding(*node).map(|process| Use::Open(process.clone()));
            let exports = exports::of_node(&self.exports, *node);
            found.extend(users.chain(exports).map(|what| Usage {
                device: device.clone(),
                via: Vec::new(),
                what: Some(what),
            }));
        }
        found.extend(self.drivers_in_user_space(roots, function));
        let mut seen = std::collections::HashSet::new();
        found.retain(|usage| seen.insert(usage.clone()));
        found
    }

    /// The processes of [`System::drivers_in_user_space`].
    pub(crate) fn processes_driving(&self, roots: &Roots, function: &PciFunction) -> Vec<Process> {
        let usages = self.drivers_in_user_space(roots, function).into_iter();
        let process = |usage: Usage| match usage.what {
            Some(Use::Open(process)) => Some(process),
            _ => None,
        };
        usages.filter_map(process).collect()
    }

    /// Uses by processes that drive the function themselves: through VFIO, through UIO, or through a mapping of its
    /// registers.
    pub(crate) fn drivers_in_user_space(&self, roots: &Roots, function: &PciFunction) -> Vec<Usage> {
        let nodes = function.user_space_nodes(roots);
        let through_nodes = nodes.iter().flat_map(|(name, node)| {
            self.processes.holding(*node).map(move |process| (process, name.as_str()))
        });
        let through_registers =
            self.processes.mapping(&function.directory).map(|process| (process, "its registers"));
        let mut processes: Vec<(&Process, &str)> = through_nodes.chain(through_registers).collect();
        // Once each, by the first way in which it has the function.
        processes.sort_by_key(|(process, _)| *process);
        processes.dedup_by_key(|(process, _)| *process);
        let usage = |(process, device): (&Process, &str)| Usage {
            device: device.to_owned(),
            via: Vec::new(),
            what: Some(Use::Open(process.clone())),
        };
        processes.into_iter().map(usage).collect()
    }
}

/// The name of a device-mapper device and what made it, from its name and UUID.
fn device_mapper_layer(roots: &Roots, block: &str) -> Layer {
    let directory = roots.block(block).join("dm");
    let uuid = attribute(&directory.join("uuid")).unwrap_or_default();
    let kind = match uuid.split('-').next().unwrap_or_default() {
        "LVM" => "LVM",
        "CRYPT" => "dm-crypt",
        "mpath" => "dm-multipath",
        prefix if prefix.starts_with("part") => "partition by device mapper",
        _ => "device mapper",
    };
    Layer { name: attribute(&directory.join("name")).unwrap_or_else(|| block.to_owned()), kind: kind.into() }
}

#[cfg(test)]
mod tests;
