//! `bind --restore`: what udev runs for a function with a standing binding, at boot and when it is plugged in.

use super::{
    Machine, Options, Outcome, Record, Refusal, Report, Standing, Status, VFIO_PCI, attach, detach, distinct,
    step::{self, Claims, Step},
};
use crate::{
    output::explain,
    sysfs::{PciAddress, PciFunction, Roots, controller_of, group_members},
};

/// Binds the drive at `address`, and those of its IOMMU group that have a standing binding too, as only all of a
/// group can be bound. A drive that is not the one that was bound goes to the kernel's driver.
pub(crate) fn restore(roots: &Roots, machine: &mut dyn Machine, address: PciAddress) -> Report {
    let mut ours = Vec::new();
    let mut outcomes = Vec::new();
    for address in together(roots, address) {
        match identify(roots, machine, address) {
            Ok(drive) => ours.push(drive),
            Err(refusal) => {
                let mut outcome = Outcome::refused(roots, address, vec![refusal]);
                release(roots, machine, &mut outcome);
                outcomes.push(outcome);
            }
        }
    }
    let mut notes = Vec::new();
    if !ours.is_empty() {
        let addresses: Vec<PciAddress> = ours.iter().map(|drive| drive.address).collect();
        let options = Options {
            // One node for all of a group.
            owner: ours.iter().find_map(|drive| drive.standing.owner.clone()),
            known: ours.iter().map(|drive| (drive.address, drive.standing.record.clone())).collect(),
            ..Options::default()
        };
        let mut report = attach::bind(roots, machine, &addresses, &options);
        for drive in ours.iter().filter(|drive| !drive.verified) {
            let outcome = report.outcomes.iter_mut().find(|outcome| outcome.address == drive.address);
            if let Some(outcome) =
                outcome.filter(|it| matches!(it.status, Status::Changed | Status::Unchanged))
            {
                verify(roots, machine, drive, outcome, &mut notes);
            }
        }
        outcomes.extend(report.outcomes);
        notes.extend(report.notes);
    }
    Report { outcomes, notes }
}

/// A drive that is to be bound.
struct Drive {
    address: PciAddress,
    standing: Standing,
    /// Whether its serial number has been compared.
    verified: bool,
}

fn together(roots: &Roots, address: PciAddress) -> Vec<PciAddress> {
    let group = PciFunction::read(roots, address).and_then(|function| function.iommu_group);
    let members = group.map(|group| group_members(roots, group)).unwrap_or_default();
    let members = members.iter().filter_map(|name| name.parse().ok());
    let others = members.filter(|member| Standing::load(roots, *member).is_some());
    distinct(&std::iter::once(address).chain(others).collect::<Vec<_>>())
}

/// Whether the drive that is there is the one that was bound, as far as that can be seen before it is touched.
fn identify(roots: &Roots, machine: &mut dyn Machine, address: PciAddress) -> Result<Drive, Refusal> {
    let standing = Standing::load(roots, address).ok_or(Refusal::NotPersistent)?;
    let function = PciFunction::read(roots, address).ok_or(Refusal::NoSuchFunction)?;
    let expected = standing.record.serial_number.clone().unwrap_or_default();
    if !standing.record.is_of(&function) {
        let found = format!("that of another type ({}:{})", function.vendor, function.device);
        return Err(Refusal::OtherDrive { expected, found });
    }
    // One that was bound since the machine started has been compared.
    let remembered = Record::load(roots, &function);
    let mut verified = function.is_bound_to(VFIO_PCI)
        && remembered.is_some_and(|record| record.serial_number == standing.record.serial_number);
    if function.driver.is_some() && !function.is_bound_to(VFIO_PCI) {
        let mut serial = None;
        step::until(machine, &format!("the serial number of {address}"), || {
            serial = controller_of(roots, &function).and_then(|controller| controller.serial);
            serial.is_some()
        });
        if let Some(found) = serial {
            if found != expected {
                return Err(Refusal::OtherDrive { expected, found });
            }
            verified = true;
        }
    }
    Ok(Drive { address, standing, verified })
}

/// Lets the kernel's driver have a drive that is not ours.
fn release(roots: &Roots, machine: &mut dyn Machine, outcome: &mut Outcome) {
    let Some(function) = PciFunction::read(roots, outcome.address) else { return };
    let ours = function.driver_override.as_deref() == Some(VFIO_PCI);
    // Without a standing binding udev went by a rule that is gone: it looks for changes every few seconds only.
    let other = matches!(outcome.refusals[..], [Refusal::OtherDrive { .. } | Refusal::NotPersistent]);
    if !ours || !other || function.is_bound_to(VFIO_PCI) {
        return;
    }
    let mut steps = vec![Step::override_with(roots, outcome.address, None)];
    if function.driver.is_none() {
        steps.push(Step::Write {
            file: roots.sys.join("bus/pci/drivers_probe"),
            text: outcome.address.to_string(),
        });
    }
    for step in steps {
        if let Err(error) = step::execute(roots, machine, &mut Claims::default(), &step) {
            outcome.problems.push(error.to_string());
        }
    }
}

/// Asks a drive that is bound now for its serial number; one with another goes back to the kernel.
fn verify(
    roots: &Roots,
    machine: &mut dyn Machine,
    drive: &Drive,
    outcome: &mut Outcome,
    notes: &mut Vec<String>,
) {
    let address = drive.address;
    let expected = drive.standing.record.serial_number.clone().unwrap_or_default();
    match machine.serial_number(address) {
        Ok(found) if found == expected => {
            // vfio-pci may have been loaded for another drive and have taken this one by its override.
            let record = drive.standing.record.clone();
            let remember = Step::Remember { address, record };
            if let Err(error) = step::execute(roots, machine, &mut Claims::default(), &remember) {
                outcome.problems.push(error.to_string());
            }
        }
        Ok(found) => {
            let back = detach::give_back(roots, machine, address);
            *outcome = Outcome::refused(roots, address, vec![Refusal::OtherDrive { expected, found }]);
            outcome.problems = back;
        }
        Err(error) => notes.push(format!(
            "{address}: its serial number could not be compared with {expected}: {}",
            explain(&error)
        )),
    }
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
