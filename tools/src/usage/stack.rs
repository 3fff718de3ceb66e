//! What is stacked on a block device: partitions, holders, loop devices, and so on upwards.

use std::fs;

use super::{Layer, System, Usage, Use, device_mapper_layer, exports};
use crate::sysfs::{DeviceNode, NodeKind, Roots, attribute, entries};

/// Stacks of real machines have five or six layers; more is a loop in a tree that changed meanwhile.
const MAX_LAYERS: usize = 16;

/// Adds every use of a disk, its partitions, and what is built on either.
pub(super) fn follow(system: &System, roots: &Roots, disk: &str, found: &mut Vec<Usage>) {
    visit(system, roots, disk, &format!("/dev/{disk}"), &[], found);
    for partition in partitions(roots, disk) {
        visit(system, roots, &partition, &format!("/dev/{partition}"), &[], found);
    }
}

/// Adds the uses of one block device; `device` and `via` say how it is reached from the drive.
fn visit(system: &System, roots: &Roots, block: &str, device: &str, via: &[Layer], found: &mut Vec<Usage>) {
    let directory = roots.block(block);
    let usage = |what| Usage { device: device.to_owned(), via: via.to_vec(), what };
    let number = attribute(&directory.join("dev")).and_then(|text| text.parse().ok());
    let node = number.map(DeviceNode::block);
    let before = found.len();
    let mut uses: Vec<Use> = Vec::new();
    if let Some(node) = node {
        uses.extend(system.mounts.of(node));
        uses.extend(system.swaps.contains(&node).then_some(Use::Swap));
        uses.extend(exports::of_node(&system.exports, node));
        uses.extend(system.processes.holding(node).map(|process| Use::Open(process.clone())));
    }
    found.extend(uses.into_iter().map(|what| usage(Some(what))));
    let mut above: Vec<String> = entries(&directory.join("holders"));
    // A bcache device that is running shows as holder of its backing device and needs no second line.
    if above.is_empty() && directory.join("bcache").is_dir() && !block.starts_with("bcache") {
        found.push(usage(Some(Use::Bcache)));
    }
    above.extend(
        system.loops.iter().filter(|(backing, _)| Some(*backing) == node).map(|(_, name)| name.clone()),
    );
    if !via.is_empty() {
        // Partitions of the drive itself are separate devices of it; those of a layer are one layer more.
        above.extend(partitions(roots, block));
    }
    if via.len() < MAX_LAYERS {
        for name in &above {
            let mut via = via.to_vec();
            via.push(layer(roots, name));
            visit(system, roots, name, device, &via, found);
        }
    }
    if !via.is_empty() && found.len() == before {
        found.push(usage(None));
    }
}

fn layer(roots: &Roots, block: &str) -> Layer {
    let directory = roots.block(block);
    if directory.join("dm").is_dir() {
        return device_mapper_layer(roots, block);
    }
    let kind = if directory.join("partition").exists() {
        "partition".into()
    } else if directory.join("md").is_dir() {
        let level = attribute(&directory.join("md/level")).map(|level| format!("MD {level}"));
        level.unwrap_or_else(|| "MD".into())
    } else if directory.join("loop").is_dir() {
        "loop device".into()
    } else if block.starts_with("bcache") {
        "bcache".into()
    } else if block.starts_with("drbd") {
        "DRBD".into()
    } else {
        "block device".into()
    };
    Layer { name: block.to_owned(), kind }
}

fn partitions(roots: &Roots, disk: &str) -> Vec<String> {
    let directory = roots.block(disk);
    let mut names = entries(&directory);
    names.retain(|name| name.starts_with(disk) && directory.join(name).join("partition").exists());
    names
}

/// Loop devices whose backing file is a block device, with that device.
pub(super) fn loops(roots: &Roots) -> Vec<(DeviceNode, String)> {
    let of = |name: String| {
        let backing = fs::read_to_string(roots.block(&name).join("loop/backing_file")).ok()?;
        let node = roots.node_of(backing.trim_end_matches('\n').trim_end_matches(" (deleted)"))?;
        (node.kind == NodeKind::Block).then_some((node, name))
    };
    entries(&roots.sys.join("class/block"))
        .into_iter()
        .filter(|name| name.starts_with("loop"))
        .filter_map(of)
        .collect()
}
