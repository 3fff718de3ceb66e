//! By what hosts tell namespaces apart.

use std::fmt::Write;

use gangway_spec::fabrics::Nqn;
use gangway_spec::identify::{NamespaceIdDescriptor, NamespaceIdDescriptorBuilder};
use uuid::Uuid;

use crate::drive::{DriveInfo, DriveNamespace};

/// Which identifiers namespaces have for hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Identifiers {
    /// The drive's own: NGUID, EUI-64 and UUID, as far as it gives them.
    #[default]
    Own,
    /// A UUID made of the export's name and of what the drive says of the namespace, the same each time, and nothing
    /// else. So a host can have the drive itself as well, or the same namespace by another export, as another namespace.
    Derived,
}

/// The name space (RFC 4122, 4.3) of UUIDs that are made here.
const MADE_HERE: Uuid = Uuid::from_u128(0x1e59_c1ba_3c0b_4e0b_9a52_c27b_3f0d_83f7);

/// The UUID of a namespace in the export of this name.
pub(super) fn derive(nqn: &Nqn, drive: &DriveInfo, namespace: &DriveNamespace) -> [u8; 16] {
    let ids = namespace.ids();
    let mut name = format!("{nqn} ");
    let given: &[u8] = if ids.nguid != [0; 16] {
        &ids.nguid
    } else if ids.eui64 != [0; 8] {
        &ids.eui64
    } else {
        // Not its UUID: hosts know those of drives that give nothing else by what follows.
        &[]
    };
    for byte in given {
        // Writing to a string does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    if given.is_empty() {
        let _ = write!(name, "{} {} {}", drive.identify.model(), drive.identify.serial(), namespace.nsid);
    }
    Uuid::new_v5(&MADE_HERE, name.as_bytes()).into_bytes()
}

/// The Namespace Identification Descriptor list with `uuid` in place of the drive's identifiers.
pub(crate) fn descriptors(own: &[u8], uuid: [u8; 16]) -> Vec<u8> {
    let mut list = NamespaceIdDescriptorBuilder::new();
    let uuid = (NamespaceIdDescriptor::UUID, &uuid[..]);
    let kept = NamespaceIdDescriptor::parse(own).filter(|one| one.nidt == NamespaceIdDescriptor::CSI);
    for (nidt, nid) in [uuid].into_iter().chain(kept.map(|one| (one.nidt, one.nid))) {
        // One that does not fit is left out; these two do.
        let _ = list.push(nidt, nid);
    }
    list.as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_keeps_what_says_no_identity() {
        let mut own = NamespaceIdDescriptorBuilder::new();
        own.push(NamespaceIdDescriptor::EUI64, &[1; 8]).unwrap();
        own.push(NamespaceIdDescriptor::NGUID, &[2; 16]).unwrap();
        own.push(NamespaceIdDescriptor::UUID, &[3; 16]).unwrap();
        own.push(NamespaceIdDescriptor::CSI, &[2]).unwrap();
        let list = descriptors(own.as_bytes(), [9; 16]);
        let found: Vec<_> = NamespaceIdDescriptor::parse(&list).map(|one| (one.nidt, one.nid)).collect();
        assert_eq!(found, [(NamespaceIdDescriptor::UUID, &[9; 16][..]), (NamespaceIdDescriptor::CSI, &[2])]);
    }
}
