//! Which process has which device open or mapped.

use std::{
    collections::HashSet,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use crate::sysfs::{DeviceNode, NodeKind, Roots, attribute, entries};

/// A process, as people look for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Process {
    pub pid: u32,
    pub command: String,
}

impl Process {
    pub(super) fn read(roots: &Roots, pid: u32) -> Self {
        let command = attribute(&roots.proc.join(pid.to_string()).join("comm"));
        Self { pid, command: command.unwrap_or_else(|| "?".into()) }
    }

    pub(super) fn is_device_manager(&self) -> bool {
        ["udev", "(udev-worker)", "mdev", "blkid"].iter().any(|name| self.command.contains(name))
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.command, self.pid)
    }
}

/// What the processes of this machine, without ourselves, hold.
#[derive(Debug, Default)]
pub(super) struct Processes {
    held: HashSet<(DeviceNode, Process)>,
    /// Register files of PCI functions (`resource0` and so on) that are open or mapped.
    registers: HashSet<(PathBuf, Process)>,
    /// Processes whose files we may not look at.
    pub(super) unreadable: usize,
}

impl Processes {
    pub(super) fn read(roots: &Roots) -> Self {
        let mut all = Self::default();
        let own = roots.own_pid();
        for pid in pids(roots).into_iter().filter(|pid| Some(*pid) != own) {
            match links(&roots.proc.join(pid.to_string()).join("fd")) {
                Ok(links) => all.add(roots, pid, links),
                Err(error) if has_ended(&error) => {}
                Err(_) => all.unreadable += 1,
            }
        }
        all
    }

    fn add(&mut self, roots: &Roots, pid: u32, mut links: Vec<(PathBuf, PathBuf)>) {
        links.extend(mapped(roots, pid));
        let mut process = None;
        for (file, target) in links {
            let registers = target.starts_with(&roots.sys) && is_register_file(&target);
            let node = (roots.node)(&file).ok().flatten().filter(is_of_interest);
            if registers || node.is_some() {
                let process = process.get_or_insert_with(|| Process::read(roots, pid));
                self.held.extend(node.map(|node| (node, process.clone())));
                if registers {
                    self.registers.insert((target, process.clone()));
                }
            }
        }
    }

    /// Who holds a node, by process identifier.
    pub(super) fn holding(&self, node: DeviceNode) -> impl Iterator<Item = &Process> {
        sorted(self.held.iter().filter(move |(held, _)| *held == node).map(|(_, process)| process))
    }

    /// Who has the registers of the function in `directory` open.
    pub(super) fn mapping(&self, directory: &Path) -> impl Iterator<Item = &Process> {
        let here = |(file, _): &&(PathBuf, Process)| file.parent() == Some(directory);
        sorted(self.registers.iter().filter(here).map(|(_, process)| process))
    }
}

fn sorted<'a>(processes: impl Iterator<Item = &'a Process>) -> std::vec::IntoIter<&'a Process> {
    let mut all: Vec<&Process> = processes.collect();
    all.sort();
    all.into_iter()
}

pub(super) fn pids(roots: &Roots) -> Vec<u32> {
    entries(&roots.proc).iter().filter_map(|name| name.parse().ok()).collect()
}

/// The links of a directory and what they point to.
fn links(directory: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let links = fs::read_dir(directory)?.flatten().map(|entry| entry.path());
    Ok(links.filter_map(|link| fs::read_link(&link).ok().map(|target| (link, target))).collect())
}

/// Files that stay mapped after they were closed. Only device nodes and register files matter, so only they
/// are looked at: a process may have thousands of mappings.
fn mapped(roots: &Roots, pid: u32) -> Vec<(PathBuf, PathBuf)> {
    let directory = roots.proc.join(pid.to_string());
    let maps = fs::read(directory.join("maps")).unwrap_or_default();
    let line = |line: &[u8]| {
        let line = String::from_utf8_lossy(line);
        let start = line.find('/')?;
        let (fields, target) = line.split_at(start);
        let target = PathBuf::from(target.trim_end_matches(" (deleted)"));
        let wanted = target.starts_with(&roots.dev) || is_register_file(&target);
        // In maps the bounds are padded to eight digits, in the names of map_files they are not.
        let (low, high) = fields.split(' ').next().filter(|_| wanted)?.split_once('-')?;
        let bound = |text| u64::from_str_radix(text, 16).ok();
        Some((directory.join("map_files").join(format!("{:x}-{:x}", bound(low)?, bound(high)?)), target))
    };
    maps.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// Whether a process was gone before its files could be read.
fn has_ended(error: &io::Error) -> bool {
    let no_process = rustix::io::Errno::SRCH.raw_os_error();
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(no_process)
}

fn is_register_file(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("resource"))
}

/// Every process has some of these open: memory devices such as /dev/null, and terminals.
fn is_of_interest(node: &DeviceNode) -> bool {
    const EVERYWHERE: [u32; 4] = [1, 4, 5, 136];
    node.kind == NodeKind::Block || !EVERYWHERE.contains(&node.number.major)
}
