//! Block devices and controllers that this kernel's own targets export, from configfs.

use std::path::Path;

use super::Use;
use crate::sysfs::{DeviceNode, Roots, attribute, entries};

/// Something exported.
#[derive(Clone, Debug)]
pub(super) struct Export {
    node: DeviceNode,
    target: &'static str,
    name: String,
}

pub(super) fn of_node(exports: &[Export], node: DeviceNode) -> impl Iterator<Item = Use> {
    let here = exports.iter().filter(move |export| export.node == node);
    here.map(|export| Use::Exported { target: export.target, name: export.name.clone() })
}

pub(super) fn exports(roots: &Roots) -> Vec<Export> {
    let mut found = Vec::new();
    let subsystems = roots.sys.join("kernel/config/nvmet/subsystems");
    for nqn in entries(&subsystems) {
        let subsystem = subsystems.join(&nqn);
        let namespaces = subsystem.join("namespaces");
        let places = entries(&namespaces).into_iter().map(|nsid| namespaces.join(nsid));
        for place in places.chain([subsystem.join("passthru")]) {
            // Opened only while it is enabled.
            let enabled = attribute(&place.join("enable")).is_some_and(|text| text != "0");
            let node = enabled.then(|| node_named_in(roots, &place.join("device_path"))).flatten();
            found.extend(node.map(|node| Export { node, target: "nvmet", name: nqn.clone() }));
        }
    }
    let core = roots.sys.join("kernel/config/target/core");
    for adapter in entries(&core).into_iter().filter(|name| name.starts_with("iblock_")) {
        for name in entries(&core.join(&adapter)) {
            let node = node_named_in(roots, &core.join(&adapter).join(&name).join("udev_path"));
            found.extend(node.map(|node| Export { node, target: "LIO", name }));
        }
    }
    found
}

fn node_named_in(roots: &Roots, file: &Path) -> Option<DeviceNode> {
    roots.node_of(&attribute(file)?)
}
