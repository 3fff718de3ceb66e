//! Mounted file systems, in every mount namespace that can be read, and swap.

use std::{collections::HashSet, fs};

use super::{Process, Use, processes};
use crate::sysfs::{DeviceNode, DeviceNumber, Roots, attribute, entries};

/// One line of a mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    number: DeviceNumber,
    at: String,
    fs: String,
    source: String,
}

/// All mounts.
#[derive(Debug)]
pub(super) struct Mounts {
    /// With the process of whose namespace it is; `None` for our own.
    found: Vec<(DeviceNode, Mount, Option<Process>)>,
    /// Members of file systems that span devices: their nodes, and what the file system is.
    spanning: Vec<(Vec<DeviceNode>, &'static str)>,
}

impl Mounts {
    pub(super) fn read(roots: &Roots) -> Self {
        let spanning = spanning(roots);
        let mut found = Vec::new();
        let mut add = |text: &str, process: Option<&Process>| {
            for mount in parse(text) {
                let node = block_of(roots, &mount);
                found.extend(node.map(|node| (node, mount, process.cloned())));
            }
        };
        let own = roots.proc.join("self");
        add(&fs::read_to_string(own.join("mountinfo")).unwrap_or_default(), None);
        // A namespace shows more or less of itself depending on the root directory of who looks.
        let view = |process: &std::path::Path| {
            Some((fs::read_link(process.join("ns/mnt")).ok()?, fs::read_link(process.join("root")).ok()?))
        };
        let mut seen: HashSet<_> = view(&own).into_iter().collect();
        for pid in processes::pids(roots) {
            let directory = roots.proc.join(pid.to_string());
            if view(&directory).is_some_and(|view| seen.insert(view))
                && let Ok(text) = fs::read_to_string(directory.join("mountinfo"))
            {
                add(&text, Some(&Process::read(roots, pid)));
            }
        }
        Self { found, spanning }
    }

    /// The mounts of a device. Those of other namespaces only when it is not mounted in ours: services
    /// often run in a copy of our namespace, and would only repeat it.
    pub(super) fn of(&self, node: DeviceNode) -> Vec<Use> {
        let spanning = self.spanning.iter().find(|(members, _)| members.contains(&node));
        let same = |other: DeviceNode| {
            other == node || spanning.is_some_and(|(members, _)| members.contains(&other))
        };
        let mut places = HashSet::new();
        let all: Vec<_> = self.found.iter().filter(|(found, ..)| same(*found)).collect();
        let ours = all.iter().any(|(_, _, process)| process.is_none());
        let uses: Vec<Use> = all
            .into_iter()
            .filter(|(_, mount, process)| (process.is_none() || !ours) && places.insert(mount.at.clone()))
            .map(|(_, mount, process)| Use::Mounted {
                at: mount.at.clone(),
                fs: mount.fs.clone(),
                within: process.clone(),
            })
            .collect();
        match spanning {
            Some((_, fs)) if uses.is_empty() => vec![Use::FileSystem { fs: (*fs).to_owned() }],
            _ => uses,
        }
    }
}

/// The block device of a mount. File systems that span devices have a number of their own, of no device, and
/// name one of their devices as source.
fn block_of(roots: &Roots, mount: &Mount) -> Option<DeviceNode> {
    if mount.number.major != 0 {
        return Some(DeviceNode::block(mount.number));
    }
    let spanning = matches!(mount.fs.as_str(), "btrfs" | "bcachefs");
    // bcachefs names all of its devices, with colons between them.
    let first = mount.source.split(':').next()?;
    (spanning && first.starts_with('/')).then(|| roots.node_of(first))?
}

/// The devices of each btrfs and bcachefs.
fn spanning(roots: &Roots) -> Vec<(Vec<DeviceNode>, &'static str)> {
    let mut found = Vec::new();
    let base = roots.sys.join("fs/btrfs");
    for uuid in entries(&base) {
        let devices = base.join(uuid).join("devices");
        let numbers =
            entries(&devices).into_iter().filter_map(|name| attribute(&devices.join(name).join("dev")));
        found.push((nodes(numbers), "btrfs"));
    }
    let base = roots.sys.join("fs/bcachefs");
    for uuid in entries(&base) {
        let own = base.join(uuid);
        let numbers =
            entries(&own).into_iter().filter_map(|name| attribute(&own.join(name).join("block/dev")));
        found.push((nodes(numbers), "bcachefs"));
    }
    found.retain(|(members, _)| !members.is_empty());
    found
}

fn nodes(numbers: impl Iterator<Item = String>) -> Vec<DeviceNode> {
    numbers.filter_map(|text| text.parse().ok()).map(DeviceNode::block).collect()
}

/// Lines are `id parent major:minor root mountpoint options optional... - type source options`.
fn parse(text: &str) -> Vec<Mount> {
    let line = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(2);
        let number = mount.next()?.parse().ok()?;
        let at = unescape(mount.nth(1)?);
        let mut file_system = file_system.split(' ');
        Some(Mount { number, at, fs: unescape(file_system.next()?), source: unescape(file_system.next()?) })
    };
    text.lines().filter_map(line).collect()
}

/// The devices that are used as swap; swap files show as the mount of their file system.
pub(super) fn swaps(roots: &Roots) -> Vec<DeviceNode> {
    let text = fs::read_to_string(roots.proc.join("swaps")).unwrap_or_default();
    let names = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    names.filter_map(|name| roots.node_of(&unescape(name))).collect()
}

/// The kernel writes blanks and backslashes in paths as three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = (byte == b'\\').then(|| tail.get(..3)).flatten();
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &tail[3..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountinfo_line_is_read_with_and_without_optional_fields() {
        let text = "36 35 98:1 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n\
                    37 35 0:5 / /dev rw - devtmpfs udev rw\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].number, DeviceNumber { major: 98, minor: 1 });
        assert_eq!(mounts[0].at, "/mnt 2");
        assert_eq!(mounts[0].fs, "ext3");
        assert_eq!(mounts[0].source, "/dev/root");
        assert_eq!(mounts[1].at, "/dev");
    }

    #[test]
    fn lines_that_are_cut_off_are_passed_over() {
        assert_eq!(parse("36 35 98:1 /\n36 35\n\n36 35 x:1 / / rw - ext4 /dev/sda rw\n"), []);
    }

    #[test]
    fn escapes_are_decoded_and_other_backslashes_kept() {
        assert_eq!(unescape("a\\040b\\134c"), "a b\\c");
        assert_eq!(unescape("a\\b\\04"), "a\\b\\04");
        assert_eq!(unescape("\\303\\244"), "ä");
    }
}
