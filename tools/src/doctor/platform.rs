//! What firmware and kernel offer: the IOMMU, modules and their options, lockdown.

use std::fs;

use super::Finding;
use crate::{
    binding::{VFIO_PCI, built_in, listed},
    sysfs::{Roots, attribute, entries},
};

/// Extended capability of an Intel IOMMU: it remaps interrupts (VT-d 4.0, 11.4.3: ECAP.IR).
const ECAP_INTERRUPT_REMAPPING: u64 = 1 << 3;

pub(super) fn findings(roots: &Roots) -> Vec<Finding> {
    let mut found = vec![iommu(roots)];
    found.extend(interrupt_remapping(roots));
    found.extend(modules(roots));
    found.extend(options(roots));
    found.extend(lockdown(roots));
    found
}

/// Whether drives can be kept from reaching memory that is not theirs.
fn iommu(roots: &Roots) -> Finding {
    let subject = "IOMMU";
    let groups = roots.sys.join("kernel/iommu_groups");
    // VFIO's mode without IOMMU makes groups that say so by their name.
    let real =
        |group: &String| attribute(&groups.join(group).join("name")).as_deref() != Some("vfio-noiommu");
    let count = entries(&groups).iter().filter(|group| real(group)).count();
    if count > 0 {
        let units = entries(&roots.sys.join("class/iommu")).join(", ");
        let units = if units.is_empty() { String::new() } else { format!(" ({units})") };
        return Finding::ok(subject, format!("on{units}, {count} groups"));
    }
    let line = attribute(&roots.proc.join("cmdline")).unwrap_or_default();
    let switched_off = ["intel_iommu=off", "amd_iommu=off", "iommu=off"];
    let word = line.split_whitespace().rev().find(|word| switched_off.contains(word));
    let table = |name: &str| roots.sys.join("firmware/acpi/tables").join(name).exists();
    let boot = "GRUB_CMDLINE_LINUX in /etc/default/grub, then `update-grub` (or `grub2-mkconfig -o \
                /boot/grub2/grub.cfg`) and reboot";
    let (why, remedy) = if let Some(word) = word {
        (format!("the kernel's command line says {word}"), format!("remove {word} from {boot}"))
    } else if table("DMAR") {
        (
            "the firmware offers VT-d by its ACPI table DMAR, but the kernel does not use it".to_owned(),
            format!("add intel_iommu=on to {boot}"),
        )
    } else if table("IVRS") {
        (
            "the firmware offers AMD-Vi by its ACPI table IVRS, but the kernel does not use it".to_owned(),
            "`dmesg | grep -i AMD-Vi` says why; a kernel must be built with CONFIG_AMD_IOMMU".to_owned(),
        )
    } else {
        (
            "the firmware offers none: there is no ACPI table DMAR or IVRS".to_owned(),
            "switch on VT-d or AMD-Vi (SVM, IOMMU) in the firmware's setup; a virtual machine must be given a \
             virtual IOMMU"
                .to_owned(),
        )
    };
    let text = format!("off ({why}): a drive could reach all memory of the machine, so vfio-pci takes none");
    Finding::problem(subject, text).remedy(remedy)
}

/// Without it the kernel lets VFIO have no device, as one could forge the interrupts of others.
fn interrupt_remapping(roots: &Roots) -> Option<Finding> {
    let class = roots.sys.join("class/iommu");
    let ecaps = entries(&class).into_iter().filter_map(|unit| {
        let text = attribute(&class.join(unit).join("intel-iommu/ecap"))?;
        u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()
    });
    let ecaps: Vec<u64> = ecaps.collect();
    let lacking = ecaps.iter().any(|ecap| ecap & ECAP_INTERRUPT_REMAPPING == 0);
    let unsafe_allowed = option(roots, "vfio_iommu_type1", "allow_unsafe_interrupts").as_deref() == Some("Y");
    let subject = "interrupts";
    if unsafe_allowed {
        let text =
            "vfio_iommu_type1 allows unsafe interrupts: a drive in user space could forge those of others";
        return Some(Finding::warning(subject, text).remedy(
            "where the machine remaps interrupts, remove allow_unsafe_interrupts from /etc/modprobe.d and reload the \
             module",
        ));
    }
    lacking.then(|| {
        Finding::problem(subject, "the IOMMU does not remap interrupts, so the kernel gives VFIO no device").remedy(
            "switch on interrupt remapping (x2APIC) in the firmware's setup, for a virtual machine in its virtual IOMMU; \
             where you trust the drive: options vfio_iommu_type1 allow_unsafe_interrupts=1 in /etc/modprobe.d",
        )
    })
}

fn modules(roots: &Roots) -> Vec<Finding> {
    let state = |module: &str| {
        let name = module.replace('-', "_");
        if roots.sys.join("module").join(name).exists() || roots.pci_driver(module).exists() {
            Some("loaded")
        } else if built_in(roots, module) {
            Some("built into the kernel")
        } else if listed(roots, "modules.dep", module) {
            Some("not loaded; `gangway bind` does that")
        } else {
            None
        }
    };
    let mut found = Vec::new();
    for (module, option) in [(VFIO_PCI, "CONFIG_VFIO_PCI"), ("vfio_iommu_type1", "CONFIG_VFIO_IOMMU_TYPE1")] {
        found.push(match state(module) {
            Some(state) => Finding::ok(module, state),
            None => Finding::problem(module, "this kernel has no such module: drives cannot be given to user space")
                .remedy(format!(
                    "install the kernel's modules package (Debian: linux-image, Ubuntu: linux-modules-extra), or build the \
                     kernel with {option}"
                )),
        });
    }
    // Only what connects needs it, which is mostly another machine.
    let host = match state("nvme-tcp") {
        Some(_) => "there: this machine can be a host, too",
        None => "not there; only hosts need it, to connect",
    };
    found.push(Finding::ok("nvme-tcp", host));
    found
}

/// Parameters of modules that matter.
fn options(roots: &Roots) -> Vec<Finding> {
    let mut found = Vec::new();
    if option(roots, "vfio", "enable_unsafe_noiommu_mode").as_deref() == Some("Y") {
        let text = "VFIO's mode without IOMMU is allowed: programs may be given drives that reach all memory. Gangway \
                    refuses such drives";
        let remedy = "echo N > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode, and remove it from \
                      /etc/modprobe.d";
        found.push(Finding::warning("noiommu", text).remedy(remedy));
    }
    if let Some(value) = option(roots, "vfio_pci", "disable_idle_d3") {
        found.push(Finding::ok(
            "idle drives",
            match value.as_str() {
                "Y" => "stay awake while nobody has them open (disable_idle_d3)",
                _ => {
                    "sleep (D3) while nobody has them open; for a drive that does not wake from it: options vfio-pci \
                     disable_idle_d3=1 in /etc/modprobe.d"
                }
            },
        ));
    }
    found
}

fn option(roots: &Roots, module: &str, name: &str) -> Option<String> {
    attribute(&roots.sys.join("module").join(module).join("parameters").join(name))
}

/// What a kernel that trusts nobody forbids.
fn lockdown(roots: &Roots) -> Option<Finding> {
    let secure_boot = "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    // Four bytes of attributes, then the value.
    let secure = fs::read(roots.sys.join(secure_boot)).is_ok_and(|bytes| bytes.get(4) == Some(&1));
    let modes = attribute(&roots.sys.join("kernel/security/lockdown")).unwrap_or_default();
    let mode = modes.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(mode, _)| mode);
    let mode = mode.filter(|mode| *mode != "none");
    let text = match (secure, mode) {
        (false, None) => return None,
        (true, None) => "secure boot is on".to_owned(),
        (false, Some(mode)) => format!("the kernel is locked down ({mode})"),
        (true, Some(mode)) => format!("secure boot is on and the kernel locked down ({mode})"),
    };
    Some(Finding::ok(
        "lockdown",
        format!("{text}: VFIO works; modules must be signed, as those of distributions are"),
    ))
}
