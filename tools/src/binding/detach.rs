//! `unbind`: from vfio-pci back to the driver that a function had.

use super::{
    Machine, NVME, Outcome, Record, Refusal, Report, Standing, Status, VFIO_PCI, check, distinct,
    refusal::Holder,
    step::{self, Claims, Step},
};
use crate::{
    sysfs::{PciAddress, PciFunction, Roots, attribute, controller_of, functions},
    usage::System,
};

/// A function to give back.
struct Candidate {
    function: PciFunction,
    record: Option<Record>,
    /// The driver to give it back to, if any.
    target: Option<String>,
}

/// Gives the functions back to their drivers. All are checked before the first is touched; one that fails
/// does not keep the others from going back. With `dry_run`, checks and says what would be done.
pub(crate) fn unbind(
    roots: &Roots,
    machine: &mut dyn Machine,
    addresses: &[PciAddress],
    dry_run: bool,
) -> Report {
    let addresses = distinct(addresses);
    let system = System::read(roots);
    let checked: Vec<_> =
        addresses.iter().map(|&address| examine(roots, machine, &system, address, &addresses)).collect();
    let refused = checked.iter().any(Result::is_err);
    let mut outcomes = Vec::new();
    for (checked, &address) in checked.into_iter().zip(&addresses) {
        outcomes.push(match checked {
            Err(refusals) => Outcome::refused(roots, address, refusals),
            Ok(None) => forget(roots, machine, address, refused, dry_run),
            Ok(Some(candidate)) => proceed(roots, machine, &candidate, refused, dry_run),
        });
    }
    Report { outcomes, notes: Vec::new() }
}

fn examine(
    roots: &Roots,
    machine: &mut dyn Machine,
    system: &System,
    address: PciAddress,
    named: &[PciAddress],
) -> Result<Option<Candidate>, Vec<Refusal>> {
    let standing = Standing::load(roots, address).is_some();
    let function = match check::nvme_function(roots, address) {
        Ok(function) => function,
        // The drive was taken out, or another card is in its place: its standing binding can still go.
        Err(_) if standing => return Ok(None),
        Err(refusal) => return Err(vec![refusal]),
    };
    let record = Record::load(roots, &function);
    let had = record.as_ref().and_then(|record| record.driver.clone());
    let target = had.or_else(|| takes_drivers(roots, &function).then(|| NVME.to_owned()));
    let mut refusals = Vec::new();
    match function.driver.as_deref() {
        Some(VFIO_PCI) => refusals.extend(holder(roots, machine, system, &function)),
        Some(driver) if Some(driver) == target.as_deref() || driver == NVME => {}
        Some(_) if standing => return Ok(None),
        Some(driver) => refusals.push(Refusal::ForeignDriver { driver: driver.to_owned() }),
        None if record.is_some() || standing => {}
        None => refusals.push(Refusal::NoDriver { address }),
    }
    let candidate = Candidate { function, record, target };
    if let Some(target) = candidate.target.as_ref().filter(|_| !candidate.is_back())
        && !roots.pci_driver(target).exists()
    {
        // Loading a driver hands it every function without one.
        let taken = |other: &PciFunction| {
            other.is_nvme() && other.driver.is_none() && other.driver_override.is_none()
        };
        let others: Vec<PciAddress> = functions(roots)
            .iter()
            .filter(|other| taken(other) && !named.contains(&other.address))
            .map(|other| other.address)
            .collect();
        if !others.is_empty() {
            refusals.push(Refusal::ModuleTakesOthers { module: target.clone(), others });
        }
    }
    if refusals.is_empty() { Ok(Some(candidate)) } else { Err(refusals) }
}

/// Whether the kernel lets drivers take a function: virtual ones of a physical function with automatic probing off
/// are for virtual machines, and have none.
fn takes_drivers(roots: &Roots, function: &PciFunction) -> bool {
    let physical = function.physical_function.map(|physical| roots.pci_function(physical));
    let autoprobe = physical.and_then(|directory| attribute(&directory.join("sriov_drivers_autoprobe")));
    autoprobe.as_deref() != Some("0")
}

impl Candidate {
    fn is_back(&self) -> bool {
        self.function.driver.as_deref().is_some_and(|driver| driver != VFIO_PCI)
    }
}

/// Who uses the function through VFIO. Taking it away would block until they let go, and with another
/// function of their group given to a kernel driver, older kernels stop the machine.
fn holder(
    roots: &Roots,
    machine: &mut dyn Machine,
    system: &System,
    function: &PciFunction,
) -> Option<Refusal> {
    let group = function.iommu_group.unwrap_or_default();
    if let Some(process) = system.processes_driving(roots, function).into_iter().next() {
        return Some(Refusal::GroupHeld { group, holder: Holder::Process(process) });
    }
    let node = roots.dev.join("vfio").join(group.to_string());
    match machine.group_is_free(&node) {
        Ok(true) => None,
        Ok(false) => Some(Refusal::GroupHeld { group, holder: Holder::Unseen }),
        Err(error) => {
            let hint = if error.kind() == std::io::ErrorKind::PermissionDenied {
                "; run as root (sudo)"
            } else {
                ""
            };
            Some(Refusal::CannotClaim { node, reason: format!("{error}{hint}") })
        }
    }
}

fn proceed(
    roots: &Roots,
    machine: &mut dyn Machine,
    candidate: &Candidate,
    refused: bool,
    dry_run: bool,
) -> Outcome {
    let function = &candidate.function;
    let address = function.address;
    let mut outcome = Outcome::new(roots, address, Status::Unchanged);
    outcome.driver_before.clone_from(&function.driver);
    outcome.driver.clone_from(&function.driver);
    outcome.iommu_group = function.iommu_group;
    let mut steps = unpersist(roots, address);
    if candidate.is_back() {
        describe(roots, &mut outcome);
    } else {
        steps.extend(plan(roots, candidate));
    }
    take(roots, machine, &mut outcome, &steps, refused, dry_run);
    if outcome.status != Status::Changed || candidate.is_back() {
        return outcome;
    }
    // Disks follow their controller a moment later; what comes next on the command line may want them. When
    // none come, as when the namespaces were deleted meanwhile, that is no failure of ours.
    let had_disks =
        candidate.record.as_ref().and_then(|record| record.physical_size).is_some_and(|size| size > 0);
    step::until(machine, &format!("the namespaces of {address}"), || {
        describe(roots, &mut outcome);
        !had_disks || !outcome.disks.is_empty()
    });
    outcome
}

/// Ends the standing binding of an address whose function is none of ours.
fn forget(
    roots: &Roots,
    machine: &mut dyn Machine,
    address: PciAddress,
    refused: bool,
    dry_run: bool,
) -> Outcome {
    let mut outcome = Outcome::new(roots, address, Status::Unchanged);
    outcome.driver = PciFunction::read(roots, address).and_then(|function| function.driver);
    outcome.driver_before.clone_from(&outcome.driver);
    take(roots, machine, &mut outcome, &unpersist(roots, address), refused, dry_run);
    outcome
}

/// First of all: no event of the function shall bring it back.
fn unpersist(roots: &Roots, address: PciAddress) -> Vec<Step> {
    let standing = Standing::load(roots, address).is_some() || Standing::rule_path(roots, address).exists();
    standing.then_some(Step::Unpersist { address }).into_iter().collect()
}

/// Takes the steps, or says why not.
fn take(
    roots: &Roots,
    machine: &mut dyn Machine,
    outcome: &mut Outcome,
    steps: &[Step],
    refused: bool,
    dry_run: bool,
) {
    if steps.is_empty() {
        return;
    }
    if refused {
        outcome.status = Status::Withheld;
        return;
    }
    if dry_run {
        outcome.status = Status::Planned;
        outcome.steps = steps.iter().map(Step::to_string).collect();
        return;
    }
    for step in steps {
        if let Err(error) = step::execute(roots, machine, &mut Claims::default(), step) {
            outcome.status = Status::Failed;
            outcome.problems.push(error.to_string());
            outcome.problems.push(state(roots, outcome.address));
            outcome.driver = PciFunction::read(roots, outcome.address).and_then(|function| function.driver);
            return;
        }
    }
    outcome.status = Status::Changed;
    outcome.persistent.1 = false;
}

/// Gives a function that was bound a moment ago to the kernel's driver; its standing binding stays. The result is
/// what went wrong.
pub(super) fn give_back(roots: &Roots, machine: &mut dyn Machine, address: PciAddress) -> Vec<String> {
    let mut steps = steps(roots, address, Some(NVME), None);
    steps.push(Step::Forget { address });
    let run = |step: &Step| step::execute(roots, machine, &mut Claims::default(), step);
    steps.iter().map(run).filter_map(Result::err).map(|error| error.to_string()).collect()
}

/// What the kernel has made of a function.
fn describe(roots: &Roots, outcome: &mut Outcome) {
    let Some(function) = PciFunction::read(roots, outcome.address) else { return };
    let controller = controller_of(roots, &function);
    outcome.driver = function.driver;
    outcome.controller = controller.as_ref().map(|controller| controller.name.clone());
    outcome.disks =
        controller.map(|it| it.disks.into_iter().map(|disk| disk.name).collect()).unwrap_or_default();
}

fn plan(roots: &Roots, candidate: &Candidate) -> Vec<Step> {
    let address = candidate.function.address;
    let mut plan = Vec::new();
    if candidate.record.is_none() {
        // It was bound by other means. Should we fail half-way, the next attempt knows where it belongs.
        let mut record = Record::of(&candidate.function, None);
        record.driver.clone_from(&candidate.target);
        record.driver_override = None;
        plan.push(Step::Remember { address, record });
    }
    let before = candidate.record.as_ref().and_then(|record| record.driver_override.as_deref());
    plan.extend(steps(roots, address, candidate.target.as_deref(), before));
    plan.push(Step::Forget { address });
    plan
}

/// From whatever driver a function has now to `driver`, or to none. What is so already is left out.
pub(super) fn steps(
    roots: &Roots,
    address: PciAddress,
    driver: Option<&str>,
    driver_override: Option<&str>,
) -> Vec<Step> {
    let now = PciFunction::read(roots, address);
    let (driver_now, override_now) = now.map(|now| (now.driver, now.driver_override)).unwrap_or_default();
    let mut steps = Vec::new();
    if let Some(driver) = driver
        && !roots.pci_driver(driver).exists()
    {
        // First of all: without it there is nothing to give the function back to.
        steps.push(Step::Load { module: driver.to_owned() });
    }
    if driver_now.is_some() && driver_now.as_deref() != driver {
        steps.extend(driver_now.as_deref().map(|now| Step::unbind(roots, address, now)));
    }
    // An override that names another driver than the one it goes back to would keep it from going back.
    let kept = driver_override.filter(|name| driver.is_none_or(|driver| driver == *name));
    if override_now.as_deref() != kept {
        steps.push(Step::override_with(roots, address, kept));
    }
    if let Some(driver) = driver.filter(|driver| driver_now.as_deref() != Some(driver)) {
        steps.push(Step::bind(roots, address, driver));
        steps.push(Step::ExpectDriver { address, driver: driver.to_owned() });
    }
    steps
}

fn state(roots: &Roots, address: PciAddress) -> String {
    let driver = PciFunction::read(roots, address).and_then(|function| function.driver);
    match driver {
        Some(driver) => format!("it is bound to {driver} now"),
        None => "it has no driver now: repeat this command when the cause is mended".into(),
    }
}

#[cfg(test)]
#[path = "detach_tests.rs"]
mod tests;
