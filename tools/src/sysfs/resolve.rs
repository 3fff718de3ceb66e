//! From what a user typed to the address of a function.

use std::fs;

use super::{
    PciAddress, Roots, attribute, entries, link_name,
    nvme::{disk_numbers, is_controller},
};

/// Why an argument names no function.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResolveError {
    /// A block or character device was named; drives are named by address only, since names change from
    /// boot to boot and vanish when a drive is bound.
    #[error("'{given}' is {}: name the drive by its PCI address, {}", whose(.addresses), choice(.addresses))]
    DeviceName { given: String, addresses: Vec<PciAddress> },
    /// A device whose controller is not on the PCI bus.
    #[error("'{given}' is not a PCI drive: its controller is reached over {transport}")]
    NotPci { given: String, transport: String },
    /// Neither an address nor a device.
    #[error(transparent)]
    NoAddress(#[from] super::address::ParseAddressError),
}

fn whose(addresses: &[PciAddress]) -> &'static str {
    if addresses.len() == 1 {
        "a device of the kernel"
    } else {
        "a multipath device with several drives behind it"
    }
}

fn choice(addresses: &[PciAddress]) -> String {
    addresses.iter().map(PciAddress::to_string).collect::<Vec<_>>().join(" or ")
}

/// The address that `text` is; when it is the name of a device, an error that says which address it has.
pub(crate) fn resolve(roots: &Roots, text: &str) -> Result<PciAddress, ResolveError> {
    let error = match text.parse() {
        Ok(address) => return Ok(address),
        Err(error) => error,
    };
    let controllers = controllers_of(roots, &device_name(roots, text));
    if controllers.is_empty() {
        return Err(error.into());
    }
    let given = text.to_owned();
    let addresses: Vec<PciAddress> = controllers
        .iter()
        .filter_map(|name| link_name(&roots.sys.join("class/nvme").join(name).join("device"))?.parse().ok())
        .collect();
    if addresses.is_empty() {
        let transport = attribute(&roots.sys.join("class/nvme").join(&controllers[0]).join("transport"));
        return Err(ResolveError::NotPci {
            given,
            transport: transport.unwrap_or_else(|| "a fabric".into()),
        });
    }
    Err(ResolveError::DeviceName { given, addresses })
}

/// The kernel's name of what may be a path, a link such as those below /dev/disk, or just the name.
fn device_name(roots: &Roots, text: &str) -> String {
    let below = text.strip_prefix("/dev/").unwrap_or(text);
    let path = fs::canonicalize(roots.dev.join(below)).ok();
    let name =
        path.as_deref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| below.to_owned())
}

fn controllers_of(roots: &Roots, name: &str) -> Vec<String> {
    if is_controller(name) && roots.sys.join("class/nvme").join(name).exists() {
        return vec![name.to_owned()];
    }
    let class = if disk_numbers(name, "ng").is_some() { "class/nvme-generic" } else { "class/block" };
    let Ok(mut directory) = fs::canonicalize(roots.sys.join(class).join(name)) else { return Vec::new() };
    if directory.join("partition").exists() {
        directory.pop();
    }
    directory.pop();
    // Now either the controller's directory, or that of a subsystem with links to its controllers.
    let own = directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if is_controller(&own) {
        return vec![own];
    }
    if !own.starts_with("nvme-subsys") {
        return Vec::new();
    }
    entries(&directory).into_iter().filter(|entry| is_controller(entry)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    fn complaint(fake: &Fake, text: &str) -> String {
        resolve(&fake.roots, text).unwrap_err().to_string()
    }

    #[test]
    fn a_device_name_is_answered_with_its_address() {
        let fake = Fake::new();
        fake.drive("0000:01:00.0", 1, "nvme3");
        fake.namespace("0000:01:00.0", "nvme3", "nvme3n1", 1, 2048);
        fake.partition("nvme3n1", "nvme3n1p2", 2);
        fake.link("dev/disk/by-id/nvme-Fake_Drive", "../../nvme3n1");
        for text in [
            "nvme3",
            "/dev/nvme3",
            "/dev/nvme3n1",
            "nvme3n1p2",
            "/dev/ng3n1",
            "/dev/disk/by-id/nvme-Fake_Drive",
        ] {
            assert!(complaint(&fake, text).contains("0000:01:00.0"), "{text}: {}", complaint(&fake, text));
        }
        assert_eq!(resolve(&fake.roots, "pci:01:00.0").unwrap().to_string(), "0000:01:00.0");
    }

    #[test]
    fn a_multipath_device_is_answered_with_all_its_addresses() {
        let fake = Fake::new();
        fake.drive("0000:01:00.0", 1, "nvme0");
        fake.drive("0000:02:00.0", 2, "nvme1");
        fake.multipath_head("nvme-subsys0", "nvme0n1", 1, 2048);
        fake.path("nvme-subsys0", "0000:01:00.0", "nvme0", "nvme0c0n1");
        fake.path("nvme-subsys0", "0000:02:00.0", "nvme1", "nvme0c1n1");
        assert!(complaint(&fake, "/dev/nvme0n1").contains("0000:01:00.0 or 0000:02:00.0"));
    }

    #[test]
    fn a_fabrics_controller_is_said_to_be_no_pci_drive() {
        let fake = Fake::new();
        fake.write("sys/devices/virtual/nvme-fabrics/ctl/nvme9/transport", "tcp\n");
        fake.link("sys/class/nvme/nvme9", "../../devices/virtual/nvme-fabrics/ctl/nvme9");
        assert!(complaint(&fake, "/dev/nvme9").contains("reached over tcp"));
    }

    #[test]
    fn nonsense_is_told_what_an_address_looks_like() {
        let fake = Fake::new();
        assert!(complaint(&fake, "/dev/sda").contains("0000:01:00.0"));
        assert!(complaint(&fake, "").contains("not a PCI address"));
    }
}
