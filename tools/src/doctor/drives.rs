//! The drives: which can be served, and what is in the way; and what former commands have left.

use super::Finding;
use crate::{
    binding::{self, Machine, Options, Record, Refusal, Standing, Status, VFIO_PCI, standing_addresses},
    sysfs::{PciAddress, PciFunction, Roots, entries, functions, group_members},
    usage::System,
};

/// Findings about the named functions, or about all NVMe functions.
pub(super) fn findings(roots: &Roots, machine: &mut dyn Machine, named: &[PciAddress]) -> Vec<Finding> {
    let system = System::read(roots);
    let (addresses, all_count) = if named.is_empty() {
        let nvme = functions(roots).into_iter().filter(PciFunction::is_nvme);
        let all: Vec<PciAddress> = nvme.map(|function| function.address).collect();
        let count = all.len();
        (all, Some(count))
    } else {
        (named.to_vec(), None)
    };
    let mut found = Vec::new();
    let mut servable = 0;
    for &address in &addresses {
        let finding = match PciFunction::read(roots, address) {
            Some(function) if function.is_bound_to(VFIO_PCI) => {
                bound(roots, machine, &system, &function, all_count.is_none())
            }
            _ => unbound(roots, machine, address, if named.is_empty() { &[] } else { named }),
        };
        servable += usize::from(finding.1);
        found.push(finding.0);
    }
    match all_count {
        Some(0) => found.push(
            Finding::problem("drives", "this machine has no NVMe function on its PCI bus")
                .remedy("to try things out: `gangway serve` without arguments serves an emulated drive"),
        ),
        Some(count) if servable == 0 => found.push(Finding::problem(
            "drives",
            format!("none of the {count} NVMe drives of this machine can be served as things are"),
        )),
        _ => {}
    }
    found.extend(left_behind(roots));
    found.extend(standing(roots));
    found
}

/// A drive that vfio-pci has, and whether it can be served.
fn bound(
    roots: &Roots,
    machine: &mut dyn Machine,
    system: &System,
    function: &PciFunction,
    named: bool,
) -> (Finding, bool) {
    let address = function.address;
    let subject = address.to_string();
    let grave = if named { Finding::problem } else { Finding::warning };
    let options = Options { dry_run: true, ..Options::default() };
    let report = binding::bind(roots, machine, &[address], &options);
    if let Some(refusal) = report.outcomes.iter().flat_map(|outcome| &outcome.refusals).next() {
        return (grave(subject, refusal.to_string()), false);
    }
    let holders = system.processes_driving(roots, function);
    if let Some(holder) = holders.first() {
        let text = format!("driven by {holder} through VFIO");
        if named {
            return (
                Finding::problem(subject, text).remedy("end that process, or leave the drive to it"),
                false,
            );
        }
        return (Finding::ok(subject, text), true);
    }
    let nodes = function.vfio_paths(roots);
    let Some(node) = nodes.iter().find(|node| node.exists()) else {
        let text = "bound to vfio-pci, but it has no node below /dev/vfio".to_owned();
        return (
            grave(subject, text).remedy(format!("gangway unbind {address}; gangway bind {address}")),
            false,
        );
    };
    if !machine.may_open(node) {
        let text = format!("bound to vfio-pci, but this user may not open {}", node.display());
        return (grave(subject, text).remedy(format!("sudo gangway bind --owner $USER {address}")), false);
    }
    (Finding::ok(subject, format!("bound to vfio-pci: gangway serve --device pci:{address}")), true)
}

/// A drive that vfio-pci has not: what `bind` would say of it.
fn unbound(
    roots: &Roots,
    machine: &mut dyn Machine,
    address: PciAddress,
    named: &[PciAddress],
) -> (Finding, bool) {
    let subject = address.to_string();
    let options = Options { dry_run: true, ..Options::default() };
    // All of a group go together: what `bind` would be told to take.
    let together = if named.is_empty() { nvme_of_group(roots, address) } else { named.to_vec() };
    let report = binding::bind(roots, machine, &together, &options);
    let Some(outcome) = report.outcomes.into_iter().find(|outcome| outcome.address == address) else {
        return (Finding::problem(subject, Refusal::NoSuchFunction.to_string()), false);
    };
    if outcome.status != Status::Refused {
        let names: Vec<String> = together.iter().map(PciAddress::to_string).collect();
        return (Finding::ok(subject, format!("free: gangway bind {}", names.join(" "))), true);
    }
    let explained = |refusal: &Refusal| match refusal {
        // Why, and what to do, is said of the machine.
        Refusal::IommuOff => "cannot be bound while the IOMMU is off".to_owned(),
        other => other.to_string(),
    };
    let texts: Vec<String> = outcome.refusals.iter().map(explained).collect();
    let text = texts.join("; ");
    let used = outcome.refusals.iter().any(Refusal::is_use);
    let finding = match (named.is_empty(), used) {
        (false, _) => Finding::problem(subject, text),
        // What a machine runs from is in nobody's way.
        (true, true) => Finding::ok(subject, format!("in use here: {text}")),
        (true, false) => Finding::warning(subject, text),
    };
    (finding, false)
}

/// The NVMe functions that share an IOMMU group with one, and that one.
fn nvme_of_group(roots: &Roots, address: PciAddress) -> Vec<PciAddress> {
    let group = PciFunction::read(roots, address).and_then(|function| function.iommu_group);
    let members = group.map(|group| group_members(roots, group)).unwrap_or_default();
    let members = members.iter().filter_map(|name| PciFunction::read(roots, name.parse().ok()?));
    let nvme: Vec<PciAddress> =
        members.filter(PciFunction::is_nvme).map(|function| function.address).collect();
    if nvme.is_empty() { vec![address] } else { nvme }
}

/// Records of drives that were taken, or were about to be, and are not with vfio-pci.
fn left_behind(roots: &Roots) -> Vec<Finding> {
    let names = entries(&roots.run.join("gangway/bind"));
    let addresses = names.iter().filter_map(|name| name.parse::<PciAddress>().ok());
    let stale = addresses.filter_map(|address| {
        let function = PciFunction::read(roots, address)?;
        Record::load(roots, &function)?;
        (!function.is_bound_to(VFIO_PCI)).then(|| {
            let driver = function.driver.as_deref().unwrap_or("no driver").to_owned();
            let text = format!("a bind or unbind of it was interrupted; it has {driver} now");
            let remedy =
                format!("`gangway bind {address}` to take it, or `gangway unbind {address}` to give it back");
            Finding::warning(address.to_string(), text).remedy(remedy)
        })
    });
    stale.collect()
}

/// Bindings that were to last, and do not hold.
fn standing(roots: &Roots) -> Vec<Finding> {
    let mut found = Vec::new();
    for address in standing_addresses(roots) {
        let subject = address.to_string();
        let Some(standing) = Standing::load(roots, address) else { continue };
        let again = format!("gangway bind --persist {address}");
        let end = format!("gangway unbind {address}");
        if !Standing::rule_path(roots, address).exists() {
            let text = "to be bound at each boot, but its rule for udev is gone";
            found.push(Finding::warning(&subject, text).remedy(again));
            continue;
        }
        if !standing.program.exists() {
            let text = format!(
                "to be bound at each boot by {}, which is not there any more",
                standing.program.display()
            );
            found.push(Finding::warning(&subject, text).remedy(&again));
        }
        match PciFunction::read(roots, address) {
            None => {
                let text = "to be bound at each boot, but its slot is empty";
                found.push(Finding::warning(&subject, text).remedy(end));
            }
            Some(function) if !function.is_bound_to(VFIO_PCI) => {
                let driver = function.driver.as_deref().unwrap_or("no driver");
                let text = format!(
                    "to be bound at each boot (serial number {}), but it has {driver} now; the kernel's log says why \
                     (dmesg | grep gangway)",
                    standing.record.serial_number.as_deref().unwrap_or("unknown")
                );
                found.push(Finding::warning(&subject, text).remedy(format!("{again}, or {end}")));
            }
            Some(_) => {}
        }
    }
    found
}
