//! Bindings that last over a reboot.
//!
//! Two files stand for one: a record below `/etc/gangway/bind`, which says what drive it was and who may open
//! it, and a rule for udev. At boot, and when a drive is plugged in, udev reads the rule for the function as
//! soon as it is there. The rule
//!
//! - names vfio-pci in `driver_override`, so that the kernel's nvme driver leaves the drive alone from the
//!   beginning: what a remote host keeps on it (MD arrays, LVM, ZFS) must not be assembled here;
//! - runs `gangway bind --restore`, which does what `bind` does, with all its checks, and compares the serial
//!   number.
//!
//! A rule alone cannot know the serial number, as nobody has asked the drive yet: it goes by slot, vendor,
//! device and subsystem. So a drive of the same type in the same slot is bound for a moment, is asked for its
//! serial number, and is given back to the kernel when that is another one. Where the kernel's driver had the
//! drive first (it is built in, or was loaded in the initramfs), the serial number is compared before anything
//! is touched.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Machine, Owner, Record};
use crate::{
    output::printable,
    sysfs::{PciAddress, PciFunction, Roots, attribute, controller_of, entries, functions},
    usage::{System, Use},
};

/// A binding that lasts over a reboot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Standing {
    /// The drive, as it was when it was bound.
    pub record: Record,
    /// Who its nodes are given to.
    pub owner: Option<Owner>,
    /// What udev runs.
    pub program: PathBuf,
}

impl Standing {
    fn record_path(roots: &Roots, address: PciAddress) -> PathBuf {
        directory(roots).join(address.to_string())
    }

    pub(crate) fn rule_path(roots: &Roots, address: PciAddress) -> PathBuf {
        // Before the rules that load drivers.
        roots.etc.join("udev/rules.d").join(format!("10-gangway-{address}.rules"))
    }

    /// The standing binding of an address, whatever is there now.
    pub(crate) fn load(roots: &Roots, address: PciAddress) -> Option<Self> {
        serde_json::from_str(&attribute(&Self::record_path(roots, address))?).ok()
    }

    pub(super) fn save(
        &self,
        roots: &Roots,
        address: PciAddress,
        machine: &mut dyn Machine,
    ) -> io::Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        machine.save(&Self::record_path(roots, address), &text)?;
        machine.save(&Self::rule_path(roots, address), &self.rule(address))
    }

    /// The rule goes first: without it the record does nothing.
    pub(super) fn remove(roots: &Roots, address: PciAddress, machine: &mut dyn Machine) -> io::Result<()> {
        machine.remove(&Self::rule_path(roots, address))?;
        machine.remove(&Self::record_path(roots, address))
    }

    fn rule(&self, address: PciAddress) -> String {
        let Record { vendor, device, subsystem_vendor, subsystem_device, .. } = &self.record;
        // A name of the drive's must not end the comment.
        let name = |text: &Option<String>| printable(text.as_deref().unwrap_or("?")).replace('\n', "?");
        let model = name(&self.record.model_number);
        let serial = name(&self.record.serial_number);
        let program = self.program.display();
        let mut matches = vec![
            "ACTION==\"add\"".to_owned(),
            "SUBSYSTEM==\"pci\"".to_owned(),
            format!("KERNEL==\"{address}\""),
            "ATTR{class}==\"0x010802\"".to_owned(),
        ];
        let ids = [
            ("vendor", vendor),
            ("device", device),
            ("subsystem_vendor", subsystem_vendor),
            ("subsystem_device", subsystem_device),
        ];
        matches.extend(
            ids.iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(attribute, value)| format!("ATTR{{{attribute}}}==\"0x{value}\"")),
        );
        format!(
            "# Written by `gangway bind --persist`; `gangway unbind {address}` removes it.\n\
             # The drive: {model}, serial number {serial}. What is run here compares the serial number, and gives\n\
             # another drive back to the kernel.\n\
             {}, ATTR{{driver_override}}=\"vfio-pci\", RUN+=\"{program} bind --restore {address}\"\n",
            matches.join(", ")
        )
    }
}

fn directory(roots: &Roots) -> PathBuf {
    roots.etc.join("gangway/bind")
}

/// The addresses that have a standing binding.
pub(crate) fn standing_addresses(roots: &Roots) -> Vec<PciAddress> {
    entries(&directory(roots)).iter().filter_map(|name| name.parse().ok()).collect()
}

/// Why the kernel's driver has drives before udev reads its rules, if it does.
pub(super) fn early_driver(roots: &Roots) -> Option<&'static str> {
    if built_in(roots, "nvme") {
        return Some("it is built into this kernel");
    }
    let system = System::read(roots);
    let holds_root = |function: &PciFunction| {
        let controller = controller_of(roots, function);
        let usages = system.users_of(roots, function, controller.as_ref());
        usages
            .iter()
            .any(|usage| matches!(&usage.what, Some(Use::Mounted { at, within: None, .. }) if at == "/"))
    };
    let found = functions(roots).iter().filter(|function| function.is_nvme()).any(holds_root);
    found.then_some("the initramfs has it, since another NVMe drive holds the root file system")
}

/// Whether a module is part of the running kernel itself.
pub(crate) fn built_in(roots: &Roots, module: &str) -> bool {
    listed(roots, "modules.builtin", module)
}

/// Whether a list of the running kernel's modules names a module.
pub(crate) fn listed(roots: &Roots, list: &str, module: &str) -> bool {
    let Some(release) = attribute(&roots.proc.join("sys/kernel/osrelease")) else { return false };
    let list = attribute(&roots.modules.join(release).join(list)).unwrap_or_default();
    // Names are written with either, whatever the module's own name has.
    let wanted = module.replace('-', "_");
    list.lines().any(|line| {
        let file = line.split(':').next().unwrap_or_default();
        let name = Path::new(file).file_name().unwrap_or_default().to_string_lossy().replace('-', "_");
        name.split_once(".ko").is_some_and(|(name, _)| name == wanted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    const ADDRESS: &str = "0000:01:00.0";

    fn standing(fake: &Fake) -> Standing {
        fake.drive(ADDRESS, 1, "nvme0");
        let function = fake.pci(ADDRESS);
        let controller = controller_of(&fake.roots, &function);
        Standing {
            record: Record::of(&function, controller.as_ref()),
            owner: None,
            program: "/usr/local/bin/gangway".into(),
        }
    }

    #[test]
    fn the_rule_matches_slot_and_type_and_runs_the_rest() {
        let fake = Fake::new();
        let rule = standing(&fake).rule(ADDRESS.parse().unwrap());
        let lines: Vec<&str> = rule.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            ["ACTION==\"add\", SUBSYSTEM==\"pci\", KERNEL==\"0000:01:00.0\", ATTR{class}==\"0x010802\", \
              ATTR{vendor}==\"0x1b36\", ATTR{device}==\"0x0010\", ATTR{subsystem_vendor}==\"0x1af4\", \
              ATTR{subsystem_device}==\"0x1100\", ATTR{driver_override}=\"vfio-pci\", \
              RUN+=\"/usr/local/bin/gangway bind --restore 0000:01:00.0\""]
        );
        assert!(rule.contains("SN-nvme0"), "{rule}");
    }

    #[test]
    fn a_serial_number_cannot_add_a_line_to_the_rule() {
        let fake = Fake::new();
        let mut standing = standing(&fake);
        standing.record.serial_number = Some("X\nRUN+=\"evil\"".into());
        let rule = standing.rule(ADDRESS.parse().unwrap());
        assert_eq!(rule.lines().filter(|line| !line.starts_with('#')).count(), 1, "{rule}");
    }

    #[test]
    fn modules_are_found_under_either_spelling_and_any_compression() {
        let fake = Fake::new();
        fake.write("proc/sys/kernel/osrelease", "6.1.0\n");
        fake.write("lib/modules/6.1.0/modules.builtin", "kernel/drivers/nvme/host/nvme-core.ko\n");
        fake.write(
            "lib/modules/6.1.0/modules.dep",
            "kernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/drivers/vfio/vfio.ko.xz\n",
        );
        assert!(built_in(&fake.roots, "nvme_core") && !built_in(&fake.roots, "nvme"));
        assert!(
            listed(&fake.roots, "modules.dep", "vfio_pci") && !listed(&fake.roots, "modules.dep", "vfio")
        );
    }
}
