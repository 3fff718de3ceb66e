//! Who a drive is: serial number and globally unique identifiers.
//!
//! Two subsystems that report the same identifiers are refused by hosts, so drives must differ without anybody having
//! to see to it; and a drive that keeps its data in a file should be the same one tomorrow.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use super::config::{Backing, EmulatedConfig};
use super::options::NamespaceIds;

/// The identifiers of one drive.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// Serial number.
    pub(super) serial: String,
    /// What everything else is derived from.
    seed: u64,
    /// Which identifiers its namespaces have.
    ids: NamespaceIds,
}

impl Identity {
    pub(super) fn of(config: &EmulatedConfig) -> Self {
        let seed = match (&config.serial, &config.backing) {
            (Some(serial), _) => hash(&[config.model.as_bytes(), b"\0", serial.as_bytes()]),
            (None, Backing::File(path)) => seed_of_path(path),
            (None, Backing::Memory | Backing::Null) => RandomState::new().hash_one("emulated drive"),
        };
        Self {
            serial: config.serial.clone().unwrap_or_else(|| format!("GW{seed:016X}")),
            seed,
            ids: config.ids,
        }
    }

    /// NVMe qualified name of the subsystem.
    pub(super) fn subnqn(&self) -> String {
        let uuid = u128::from_be_bytes(self.derive_uuid(0, 0));
        let fields = [uuid >> 96, uuid >> 80 & 0xffff, uuid >> 64 & 0xffff, uuid >> 48 & 0xffff];
        let node = uuid & 0xffff_ffff_ffff;
        format!(
            "nqn.2014-08.org.nvmexpress:uuid:{:08x}-{:04x}-{:04x}-{:04x}-{node:012x}",
            fields[0], fields[1], fields[2], fields[3]
        )
    }

    /// UUID of a namespace, the `generation`th with its identifier. Zeroes when it has none, as of the other identifiers.
    pub(super) fn uuid(&self, nsid: u32, generation: u32) -> [u8; 16] {
        if self.ids == NamespaceIds::None { [0; 16] } else { self.derive_uuid(nsid, generation) }
    }

    /// A UUID of the version that is free for any use (RFC 9562, 5.8). NSID 0 stands for the subsystem.
    fn derive_uuid(&self, nsid: u32, generation: u32) -> [u8; 16] {
        let mut uuid = self.derive(b"uuid", nsid, generation);
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        uuid
    }

    /// Namespace Globally Unique Identifier, of the locally administered kind.
    pub(super) fn nguid(&self, nsid: u32, generation: u32) -> [u8; 16] {
        if self.ids != NamespaceIds::All {
            return [0; 16];
        }
        let mut nguid = self.derive(b"nguid", nsid, generation);
        nguid[0] = nguid[0] & 0xfc | 0x02;
        nguid
    }

    /// IEEE Extended Unique Identifier, of the locally administered kind.
    pub(super) fn eui64(&self, nsid: u32, generation: u32) -> [u8; 8] {
        if self.ids != NamespaceIds::All {
            return [0; 8];
        }
        let mut eui64 = hash(&[&self.seed.to_be_bytes(), b"eui64", &which(nsid, generation)]).to_be_bytes();
        eui64[0] = eui64[0] & 0xfc | 0x02;
        eui64
    }

    fn derive(&self, purpose: &[u8], nsid: u32, generation: u32) -> [u8; 16] {
        let half = |half: &[u8]| hash(&[&self.seed.to_be_bytes(), purpose, half, &which(nsid, generation)]);
        (u128::from(half(b"0")) << 64 | u128::from(half(b"1"))).to_be_bytes()
    }
}

/// What tells a namespace from all others of the drive, those included that are gone.
fn which(nsid: u32, generation: u32) -> [u8; 8] {
    (u64::from(generation) << 32 | u64::from(nsid)).to_be_bytes()
}

fn seed_of_path(path: &Path) -> u64 {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    hash(&[b"file\0", path.as_os_str().as_encoded_bytes()])
}

/// FNV-1a with a final mix, so that inputs which differ in their last bits differ everywhere. It has to give the same
/// result in every version of this program, which hashers of the standard library do not promise.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in parts.iter().copied().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(options: &str) -> Identity {
        Identity::of(&options.parse().unwrap())
    }

    #[test]
    fn drives_without_a_serial_number_differ() {
        let (one, other) = (identity(""), identity(""));
        assert_ne!(one.serial, other.serial);
        assert_ne!(one.subnqn(), other.subnqn());
        assert_ne!(one.nguid(1, 0), other.nguid(1, 0));
        assert!(one.serial.len() <= 20);
    }

    #[test]
    fn the_same_serial_number_gives_the_same_drive() {
        let (one, other) = (identity("serial=A"), identity("serial=A,size=2GiB"));
        assert_eq!((one.serial.as_str(), one.subnqn()), ("A", other.subnqn()));
        assert_eq!(
            (one.nguid(2, 0), one.eui64(2, 0), one.uuid(2, 0)),
            (other.nguid(2, 0), other.eui64(2, 0), other.uuid(2, 0))
        );
        assert_eq!(identity("file=/nonexistent/a").serial, identity("file=/nonexistent/a").serial);
        assert_ne!(identity("file=/nonexistent/a").serial, identity("file=/nonexistent/b").serial);
    }

    #[test]
    fn namespaces_have_the_identifiers_that_are_asked_for() {
        let all = identity("serial=A");
        for (options, uuid) in [("serial=A,ids=uuid", all.uuid(1, 0)), ("serial=A,ids=none", [0; 16])] {
            let some = identity(options);
            assert_eq!((some.nguid(1, 0), some.eui64(1, 0), some.uuid(1, 0)), ([0; 16], [0; 8], uuid));
            assert_eq!(some.subnqn(), all.subnqn());
        }
    }

    #[test]
    fn namespaces_of_a_drive_differ() {
        let drive = identity("serial=A");
        assert_ne!(drive.nguid(1, 0), drive.nguid(2, 0));
        assert_ne!(drive.eui64(1, 0), drive.eui64(2, 0));
        assert_ne!(drive.uuid(1, 0), drive.uuid(2, 0));
        assert_ne!(drive.uuid(1, 0), drive.uuid(1, 1), "a new one has its identifier");
        assert_eq!(drive.uuid(1, 0)[6] >> 4, 8);
        assert_eq!(drive.uuid(1, 0)[8] >> 6, 2);
    }
}
