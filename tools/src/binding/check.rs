//! What must hold before a function is touched.

use super::{GroupMember, Refusal, VFIO_PCI};
use crate::{
    sysfs::{Controller, PciAddress, PciFunction, Roots, entries, group_members},
    usage::{System, Usage, Use},
};

/// The function at an address, if it is an NVMe function.
pub(super) fn nvme_function(roots: &Roots, address: PciAddress) -> Result<PciFunction, Refusal> {
    let function = PciFunction::read(roots, address).ok_or(Refusal::NoSuchFunction)?;
    if !function.is_nvme() {
        return Err(Refusal::NotNvme { class: function.class });
    }
    Ok(function)
}

/// Whether user space may have this function at all, given which others it gets with it.
pub(super) fn isolation(roots: &Roots, function: &PciFunction, named: &[PciAddress]) -> Vec<Refusal> {
    let mut found = Vec::new();
    if function.virtual_functions > 0 {
        let sriov_numvfs = roots.pci_function(function.address).join("sriov_numvfs");
        found.push(Refusal::HasVirtualFunctions { count: function.virtual_functions, sriov_numvfs });
    }
    let Some(group) = function.iommu_group else {
        let no_groups = entries(&roots.sys.join("kernel/iommu_groups")).is_empty();
        found.push(if no_groups { Refusal::IommuOff } else { Refusal::NoIommuGroup });
        return found;
    };
    let members = group_members(roots, group);
    let together: Vec<PciAddress> = members
        .iter()
        .filter_map(|name| PciFunction::read(roots, name.parse().ok()?))
        .filter(PciFunction::is_nvme)
        .map(|function| function.address)
        .collect();
    let others: Vec<GroupMember> =
        members.into_iter().filter_map(|name| in_the_way(roots, name, named)).collect();
    if !others.is_empty() {
        found.push(Refusal::GroupNotViable { group, others, together });
    }
    found
}

/// Whether nobody but the program that drives its physical function may open this function. Other uses of the
/// physical function are no obstacle: it stays with its driver.
pub(super) fn token(roots: &Roots, function: &PciFunction) -> Option<Refusal> {
    let physical = PciFunction::read(roots, function.physical_function?)?;
    physical.is_bound_to(VFIO_PCI).then_some(Refusal::NeedsToken { physical: physical.address })
}

/// A member of the group that stays with a kernel driver which may use its memory.
fn in_the_way(roots: &Roots, name: String, named: &[PciAddress]) -> Option<GroupMember> {
    let Ok(address) = name.parse() else {
        let link = roots.sys.join("bus/platform/devices").join(&name).join("driver");
        let member = GroupMember { driver: crate::sysfs::link_name(&link), name, is_nvme: false };
        return (!member.driver_is_harmless()).then_some(member);
    };
    // One that was removed a moment ago is in nobody's way.
    let function = PciFunction::read(roots, address)?;
    let member = GroupMember { name, driver: function.driver.clone(), is_nvme: function.is_nvme() };
    let goes_along = named.contains(&address) && function.is_nvme();
    (!goes_along && !function.is_bridge() && !member.driver_is_harmless()).then_some(member)
}

/// The uses of a function as refusals; `claimed` are its disks that could not be claimed.
pub(super) fn uses(
    roots: &Roots,
    system: &System,
    function: &PciFunction,
    controller: Option<&Controller>,
    claimed: &[String],
) -> Vec<Refusal> {
    let mut usages = system.users_of(roots, function, controller);
    for disk in claimed {
        // An exclusive use that was seen explains it; a plain open does not claim anything.
        let explained = usages.iter().any(|usage| {
            is_on(disk, &usage.device) && !matches!(usage.what, Some(Use::Open(_) | Use::Exported { .. }))
        });
        if !explained {
            usages.push(system.claimed(disk));
        }
    }
    usages.into_iter().map(|usage| refusal(usage, controller)).collect()
}

fn refusal(usage: Usage, controller: Option<&Controller>) -> Refusal {
    let disks = controller.iter().flat_map(|controller| &controller.disks);
    match disks.into_iter().find(|disk| !disk.other_paths.is_empty() && is_on(&disk.name, &usage.device)) {
        Some(disk) => Refusal::InUseBehindMultipath {
            disk: format!("/dev/{}", disk.name),
            others: disk.other_paths.clone(),
            usage: Box::new(usage),
        },
        None => Refusal::InUse(Box::new(usage)),
    }
}

/// Whether a device is this disk or a partition of it.
fn is_on(disk: &str, device: &str) -> bool {
    let rest = device.strip_prefix("/dev/").and_then(|name| name.strip_prefix(disk));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('p'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_on_its_disk_and_not_on_one_with_a_longer_name() {
        assert!(is_on("nvme0n1", "/dev/nvme0n1") && is_on("nvme0n1", "/dev/nvme0n1p12"));
        assert!(!is_on("nvme0n1", "/dev/nvme0n12") && !is_on("nvme0n1", "/dev/nvme0"));
    }
}
