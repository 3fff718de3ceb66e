//! `bind`: from the kernel's driver to vfio-pci.

use std::{io::ErrorKind, path::PathBuf, time::Duration};

use super::{
    Machine, Outcome, Owner, Ownership, Record, Refusal, Report, Standing, Status, VFIO_PCI, check, detach,
    distinct, persist,
    step::{self, Claims, Step, StepError},
};
use crate::{
    sysfs::{Controller, DeviceNode, Disk, PciAddress, PciFunction, Roots, controller_of},
    usage::{Process, System},
};

/// How long uses that go away by themselves, such as udev's look at a new disk, are waited for.
const SETTLING: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(100);
const TYPE1: &str = "vfio_iommu_type1";

/// How to bind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Only check, and say what would be done.
    pub dry_run: bool,
    /// Who the nodes are given to.
    pub owner: Option<Owner>,
    /// Bind at each boot, too.
    pub persist: bool,
    /// What drives are known to be that have no driver yet which could tell.
    pub known: Vec<(PciAddress, Record)>,
}

/// A function that passed the first checks.
struct Candidate {
    function: PciFunction,
    controller: Option<Controller>,
    record: Option<Record>,
    standing: Option<Standing>,
    /// Its nodes, when it is bound already, and who has them.
    nodes: Vec<(PathBuf, Ownership)>,
    /// The processes that drive it, when it is bound already.
    holders: Vec<Process>,
}

impl Candidate {
    fn is_bound(&self) -> bool {
        self.function.is_bound_to(VFIO_PCI)
    }

    fn disks(&self) -> &[Disk] {
        self.controller.as_ref().map_or(&[], |controller| &controller.disks)
    }
}

/// Gives the functions to vfio-pci: all of them or none. With `dry_run`,
/// checks and says what would be done.
pub(crate) fn bind(
    roots: &Roots,
    machine: &mut dyn Machine,
    addresses: &[PciAddress],
    options: &Options,
) -> Report {
    let addresses = distinct(addresses);
    let mut waited = Duration::ZERO;
    loop {
        let attempt = Attempt::prepare(roots, machine, &addresses, options);
        if attempt.is_passing() && waited < SETTLING {
            // What we hold would keep others from finishing what we wait for.
            drop(attempt);
            machine.pause(POLL);
            waited += POLL;
            continue;
        }
        let mut report = if attempt.is_refused() || options.dry_run {
            attempt.report(roots)
        } else {
            attempt.carry_out(roots, machine)
        };
        if options.persist {
            report.notes.extend(persist::early_driver(roots).map(early_driver_note));
        }
        return report;
    }
}

fn early_driver_note(why: &'static str) -> String {
    format!(
        "the kernel's nvme driver is there before udev reads its rules ({why}): at boot it has the drive for a \
         moment, and gangway takes it only if nothing uses it by then. Keep MD, LVM and ZFS from assembling what is on \
         it, or put the rule (/etc/udev/rules.d/10-gangway-*.rules) into the initramfs, and rebuild that \
         (`update-initramfs -u`, `dracut -f`)"
    )
}

/// All functions of one command, checked, with their disks held.
struct Attempt<'a> {
    candidates: Vec<Result<Candidate, PciAddress>>,
    refusals: Vec<Vec<Refusal>>,
    claims: Claims,
    notes: Vec<String>,
    options: &'a Options,
    /// What udev is to run at boot.
    program: PathBuf,
}

impl<'a> Attempt<'a> {
    fn prepare(
        roots: &Roots,
        machine: &mut dyn Machine,
        addresses: &[PciAddress],
        options: &'a Options,
    ) -> Self {
        let mut candidates = Vec::new();
        let mut system = None;
        let program = if options.persist { machine.program() } else { Ok(PathBuf::new()) };
        let mut refusals = Vec::new();
        for &address in addresses {
            match check::nvme_function(roots, address) {
                Ok(function) => {
                    let controller = controller_of(roots, &function);
                    let record = Record::load(roots, &function);
                    let bound = function.is_bound_to(VFIO_PCI);
                    let mut found: Vec<Refusal> = check::token(roots, &function).into_iter().collect();
                    if !bound {
                        found.extend(check::isolation(roots, &function, addresses));
                    }
                    found.extend(program.clone().err().map(Refusal::Program));
                    refusals.push(found);
                    let nodes = if bound { step::vfio_nodes(roots, address) } else { Vec::new() };
                    let nodes = nodes.into_iter().filter_map(|node| {
                        let ownership = machine.ownership(&node).ok()?;
                        Some((node, ownership))
                    });
                    let nodes = nodes.collect();
                    let holders = if bound {
                        let system = system.get_or_insert_with(|| System::read(roots));
                        system.processes_driving(roots, &function)
                    } else {
                        Vec::new()
                    };
                    let standing = Standing::load(roots, address);
                    candidates.push(Ok(Candidate { function, controller, record, standing, nodes, holders }));
                }
                Err(refusal) => {
                    refusals.push(vec![refusal]);
                    candidates.push(Err(address));
                }
            }
        }
        let program = program.unwrap_or_default();
        let claims = Claims::default();
        let mut attempt = Self { candidates, refusals, claims, notes: Vec::new(), options, program };
        if attempt.candidates.iter().flatten().any(|candidate| !candidate.is_bound()) {
            attempt.check_uses(roots, machine);
        }
        attempt
    }

    /// Claims first, looks afterwards: what begins after the look would need a claim of its own.
    fn check_uses(&mut self, roots: &Roots, machine: &mut dyn Machine) {
        let mut claimed_by_others = Vec::new();
        let mut unclaimable = Vec::new();
        for disk in self.candidates.iter().flatten().flat_map(Candidate::disks) {
            // Two paths of one head, both named, share their disk.
            if self.claims.0.iter().any(|(name, _)| *name == disk.name) {
                continue;
            }
            match claim(roots, machine, disk) {
                Ok(claim) => self.claims.0.push((disk.name.clone(), claim)),
                Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                    claimed_by_others.push(disk.name.clone())
                }
                Err(error) if self.options.dry_run && error.kind() == ErrorKind::PermissionDenied => {
                    self.notes.push(format!(
                        "/dev/{} could not be opened to see whether it is free: run as root (sudo) for that",
                        disk.name
                    ));
                }
                Err(error) => unclaimable.push((disk.name.clone(), error)),
            }
        }
        let system = System::read(roots);
        let unseen = system.unreadable_processes();
        let blind = unseen > 0 && !self.options.dry_run && !machine.is_root();
        if unseen > 0 && !blind {
            self.notes.push(format!(
                "the open files of {unseen} processes could not be read; they may use a drive"
            ));
        }
        for (candidate, refusals) in self.candidates.iter().zip(&mut self.refusals) {
            let Ok(candidate) = candidate else { continue };
            if candidate.is_bound() {
                continue;
            }
            // One that appeared after the others were listed is held by nobody.
            let now = controller_of(roots, &candidate.function);
            let names = |controller: Option<&Controller>| -> Vec<String> {
                controller
                    .map(|it| it.disks.iter().map(|disk| disk.name.clone()).collect())
                    .unwrap_or_default()
            };
            refusals.extend(
                (names(now.as_ref()) != names(candidate.controller.as_ref())).then_some(Refusal::Unsettled),
            );
            refusals.extend(blind.then_some(Refusal::CannotSeeProcesses { count: unseen }));
            let own = |name: &String| candidate.disks().iter().any(|disk| disk.name == *name);
            let claimed: Vec<String> = claimed_by_others.iter().filter(|name| own(name)).cloned().collect();
            let controller = candidate.controller.as_ref();
            refusals.extend(check::uses(roots, &system, &candidate.function, controller, &claimed));
            for (name, error) in unclaimable.iter().filter(|(name, _)| own(name)) {
                let hint =
                    if error.kind() == ErrorKind::PermissionDenied { "; run as root (sudo)" } else { "" };
                refusals.push(Refusal::CannotClaim {
                    node: roots.dev.join(name),
                    reason: format!("{error}{hint}"),
                });
            }
        }
    }

    fn is_refused(&self) -> bool {
        self.refusals.iter().any(|refusals| !refusals.is_empty())
    }

    /// Whether all that stands in the way goes away by itself.
    fn is_passing(&self) -> bool {
        let passing = |refusal: &Refusal| match refusal {
            Refusal::InUse(usage) | Refusal::InUseBehindMultipath { usage, .. } => usage.is_passing(),
            Refusal::Unsettled => true,
            _ => false,
        };
        self.is_refused() && self.refusals.iter().flatten().all(passing)
    }

    /// The outcomes when nothing is done.
    fn report(self, roots: &Roots) -> Report {
        let refused = self.is_refused();
        let mut preparation: Vec<String> = modules(roots).iter().map(|(step, _)| step.to_string()).collect();
        let plans = self.plans(roots);
        let mut outcomes = Vec::new();
        for ((candidate, refusals), steps) in self.candidates.iter().zip(self.refusals).zip(plans) {
            let mut outcome = match candidate {
                Err(address) => Outcome::new(roots, *address, Status::Refused),
                Ok(candidate) => outcome_of(roots, candidate),
            };
            outcome.status = match candidate {
                _ if !refusals.is_empty() => Status::Refused,
                Ok(_) if steps.is_empty() => Status::Unchanged,
                _ if refused => Status::Withheld,
                _ => Status::Planned,
            };
            if outcome.status == Status::Planned {
                if !candidate.as_ref().is_ok_and(Candidate::is_bound) {
                    outcome.steps.append(&mut preparation);
                }
                outcome.steps.extend(steps.iter().map(Step::to_string));
            }
            outcome.refusals = refusals;
            outcomes.push(outcome);
        }
        Report { outcomes, notes: self.notes }
    }

    /// The steps for each function, in order.
    fn plans(&self, roots: &Roots) -> Vec<Vec<Step>> {
        let all: Vec<Option<&Candidate>> =
            self.candidates.iter().map(|candidate| candidate.as_ref().ok()).collect();
        let plan = |(index, candidate): (usize, &Option<&Candidate>)| {
            let Some(candidate) = candidate else { return Vec::new() };
            let mut plan = Vec::new();
            // A disk that a later function leads to as well is held until that one is unbound, too.
            let needed_later = |disk: &&Disk| {
                all[index + 1..]
                    .iter()
                    .flatten()
                    .any(|later| later.disks().iter().any(|d| d.name == disk.name))
            };
            let remembered = self.remembered(candidate);
            if !candidate.is_bound() {
                plan.extend(steps(roots, candidate, remembered.clone(), |disk| !needed_later(disk)));
            }
            plan.extend(self.more_steps(candidate, remembered));
            plan
        };
        all.iter().enumerate().map(plan).collect()
    }

    /// What is known of a drive, best source first.
    fn remembered(&self, candidate: &Candidate) -> Record {
        let function = &candidate.function;
        let address = function.address;
        let known =
            || self.options.known.iter().find(|(known, _)| *known == address).map(|(_, it)| it.clone());
        if function.driver.is_none() || candidate.is_bound() {
            // Perhaps we were interrupted half-way last time: then the record still knows more than we do.
            let record = candidate.record.clone().or_else(known);
            return record.unwrap_or_else(|| Record::of(function, None));
        }
        Record::of(function, candidate.controller.as_ref())
    }

    /// What is wished besides the binding itself, as far as it is not so already.
    fn more_steps(&self, candidate: &Candidate, remembered: Record) -> Vec<Step> {
        let address = candidate.function.address;
        let mut steps = Vec::new();
        if let Some(owner) = &self.options.owner {
            let fits = |(_, now): &(PathBuf, Ownership)| owner.applied_to(*now) == *now;
            if candidate.nodes.is_empty() || !candidate.nodes.iter().all(fits) {
                steps.push(Step::Own { address, owner: owner.clone() });
            }
        }
        if self.options.persist {
            let standing = Standing {
                record: remembered,
                owner: self.options.owner.clone(),
                program: self.program.clone(),
            };
            if candidate.standing.as_ref() != Some(&standing) {
                steps.push(Step::Persist { address, standing: Box::new(standing) });
            }
        }
        steps
    }

    fn carry_out(mut self, roots: &Roots, machine: &mut dyn Machine) -> Report {
        let plans = self.plans(roots);
        let candidates: Vec<&Candidate> = self.candidates.iter().flatten().collect();
        let mut outcomes: Vec<Outcome> =
            candidates.iter().map(|candidate| outcome_of(roots, candidate)).collect();
        let mut done = 0;
        let result = if candidates.iter().all(|candidate| candidate.is_bound()) {
            Ok(())
        } else {
            load_modules(roots, machine, &mut self.notes)
        };
        let result = result.and_then(|()| {
            for plan in &plans {
                // Counted first: the one that fails has to be undone, too.
                done += 1;
                for step in plan {
                    step::execute(roots, machine, &mut self.claims, step)?;
                }
            }
            Ok(())
        });
        // The kernel's driver frees a disk only when nobody has it open; it must be gone before it comes back.
        self.claims.0.clear();
        for (index, (candidate, outcome)) in candidates.iter().zip(&mut outcomes).enumerate().rev() {
            if plans[index].is_empty() {
                continue;
            }
            outcome.status = match &result {
                Ok(()) => Status::Changed,
                Err(_) if index >= done => Status::Withheld,
                Err(error) => {
                    let failed = index + 1 == done;
                    outcome.problems.extend(failed.then(|| error.to_string()));
                    outcome.problems.extend(undo(roots, machine, candidate, self.options.persist));
                    if failed { Status::Failed } else { Status::Undone }
                }
            };
            if outcome.status == Status::Changed {
                outcome.driver = Some(VFIO_PCI.into());
                outcome.vfio_node = step::vfio_node(roots, candidate.function.address);
                outcome.owner.clone_from(&self.options.owner);
                outcome.persistent.1 |= self.options.persist;
            }
        }
        if let (Err(error), 0) = (&result, done) {
            // A module is missing; no function was touched.
            for outcome in outcomes.iter_mut().filter(|outcome| outcome.status == Status::Withheld) {
                outcome.status = Status::Failed;
                outcome.problems.push(error.to_string());
            }
        }
        Report { outcomes, notes: self.notes }
    }
}

fn outcome_of(roots: &Roots, candidate: &Candidate) -> Outcome {
    let function = &candidate.function;
    let mut outcome = Outcome::new(roots, function.address, Status::Unchanged);
    outcome.driver_before.clone_from(&function.driver);
    outcome.driver.clone_from(&function.driver);
    outcome.iommu_group = function.iommu_group;
    outcome.holders.clone_from(&candidate.holders);
    outcome.vfio_node = step::vfio_node(roots, function.address).filter(|_| candidate.is_bound());
    outcome
}

fn claim(roots: &Roots, machine: &mut dyn Machine, disk: &Disk) -> std::io::Result<std::fs::File> {
    let node = roots.dev.join(&disk.name);
    let claim = machine.claim(&node)?;
    // A node that was made by hand may be of another disk.
    if (roots.node)(&node)? != disk.number.map(DeviceNode::block) {
        return Err(std::io::Error::other("the node is not that of this disk"));
    }
    Ok(claim)
}

fn steps(
    roots: &Roots,
    candidate: &Candidate,
    record: Record,
    release: impl Fn(&&Disk) -> bool,
) -> Vec<Step> {
    let function = &candidate.function;
    let address = function.address;
    let disks = candidate.disks();
    let mut steps = vec![Step::Remember { address, record }];
    steps.extend(disks.iter().map(|disk| Step::Flush { disk: disk.name.clone() }));
    steps.push(Step::override_with(roots, address, Some(VFIO_PCI)));
    steps.extend(function.driver.as_ref().map(|driver| Step::unbind(roots, address, driver)));
    steps.extend(disks.iter().filter(release).map(|disk| Step::Release { disk: disk.name.clone() }));
    // Rather than to `drivers_probe`, which does not say why a driver did not take a function.
    steps.push(Step::bind(roots, address, VFIO_PCI));
    steps.push(Step::ExpectDriver { address, driver: VFIO_PCI.into() });
    steps.push(Step::AwaitNode { address });
    steps
}

/// The modules that are missing, and whether we cannot do without.
fn modules(roots: &Roots) -> Vec<(Step, bool)> {
    let mut missing = Vec::new();
    if !roots.pci_driver(VFIO_PCI).exists() {
        missing.push((Step::Load { module: VFIO_PCI.into() }, true));
    }
    // With iommufd there may be no type1 at all.
    if !roots.sys.join("module").join(TYPE1).exists() {
        missing.push((Step::Load { module: TYPE1.into() }, !roots.dev.join("iommu").exists()));
    }
    missing
}

fn load_modules(roots: &Roots, machine: &mut dyn Machine, notes: &mut Vec<String>) -> Result<(), StepError> {
    for (step, needed) in modules(roots) {
        match step::execute(roots, machine, &mut Claims::default(), &step) {
            Err(error) if needed => return Err(error),
            Err(error) => notes.push(error.to_string()),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Brings a function back to how it was, as far as it goes. The result is what did not go.
fn undo(roots: &Roots, machine: &mut dyn Machine, candidate: &Candidate, persist: bool) -> Vec<String> {
    let function = &candidate.function;
    let address = function.address;
    let mut steps = Vec::new();
    if persist {
        // A rule that could only half be written must not stay.
        steps.push(match &candidate.standing {
            Some(standing) => Step::Persist { address, standing: Box::new(standing.clone()) },
            None => Step::Unpersist { address },
        });
    }
    if candidate.is_bound() {
        let given_back = |(node, ownership): &(PathBuf, Ownership)| Step::OwnAs {
            node: node.clone(),
            ownership: *ownership,
        };
        steps.extend(candidate.nodes.iter().map(given_back));
    } else {
        steps.extend(detach::steps(
            roots,
            address,
            function.driver.as_deref(),
            function.driver_override.as_deref(),
        ));
        steps.push(match &candidate.record {
            Some(record) => Step::Remember { address, record: record.clone() },
            None => Step::Forget { address },
        });
    }
    let mut problems = Vec::new();
    for step in steps {
        if let Err(error) = step::execute(roots, machine, &mut Claims::default(), &step) {
            problems.push(format!("not undone: {error}"));
        }
    }
    problems
}

#[cfg(test)]
#[path = "attach_tests.rs"]
mod tests;
