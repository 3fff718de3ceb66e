//! `gangway bind` and `gangway unbind`.

use anyhow::Context;
use serde::Serialize;

use crate::{
    binding::{self, Machine, Options, Outcome, Owner, Refusal, Report, Status, VFIO_PCI},
    exit::Exit,
    output::{self, Format, printable},
    sysfs::{PciAddress, Roots, resolve},
};

/// Takes drives from the kernel and gives them to vfio-pci, so that `gangway serve` can drive them.
///
/// Refuses a drive that is in use, and says by what. All drives are checked before the first is touched; when
/// something fails after that, what was done is undone. The drive's data is not changed.
#[derive(Debug, clap::Args)]
pub(crate) struct Bind {
    #[command(flatten)]
    arguments: Arguments,
    /// Bind the drive at each boot, too, until `gangway unbind` ends that. Another drive in the same slot, told by its
    /// serial number, is left to the kernel.
    #[arg(long)]
    persist: bool,
    /// Who may drive it without being root: the owner of /dev/vfio/N. With --persist this lasts as well.
    #[arg(long, value_name = "USER[:GROUP]")]
    owner: Option<String>,
    /// What udev runs for a function with a standing binding.
    #[arg(long, hide = true, conflicts_with_all = ["persist", "owner", "dry_run"])]
    restore: bool,
}

/// Gives drives back from vfio-pci to the driver they had.
///
/// Refuses a drive that a process is driving. A drive that has its kernel driver already is left as it is. A binding
/// that was made with --persist ends.
#[derive(Debug, clap::Args)]
pub(crate) struct Unbind {
    #[command(flatten)]
    arguments: Arguments,
}

#[derive(Debug, clap::Args)]
struct Arguments {
    /// PCI address, such as 0000:01:00.0, 01:00.0 or pci:0000:01:00.0 (see `gangway list`).
    #[arg(required = true, value_name = "ADDRESS")]
    addresses: Vec<String>,
    /// Check everything and print each step without doing any.
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

impl Bind {
    /// # Errors
    /// Standard output cannot be written.
    pub(crate) fn run(&self, roots: &Roots, machine: &mut dyn Machine) -> anyhow::Result<Exit> {
        let owner = self.owner.as_deref().map(|text| Owner::find(roots, text));
        let owner = match owner.transpose() {
            Ok(owner) => owner,
            Err(error) => {
                eprintln!("error: --owner: {}", printable(&error.to_string()));
                return Ok(Exit::Usage);
            }
        };
        let options =
            Options { dry_run: self.arguments.dry_run, owner, persist: self.persist, ..Options::default() };
        self.arguments.run(roots, machine, Direction::Bind, |machine, addresses| {
            if !self.restore {
                return binding::bind(roots, machine, addresses, &options);
            }
            let reports = addresses.iter().map(|&address| binding::restore(roots, machine, address));
            let mut all = Report { outcomes: Vec::new(), notes: Vec::new() };
            for report in reports.collect::<Vec<_>>() {
                all.outcomes.extend(report.outcomes);
                all.notes.extend(report.notes);
            }
            log_restored(machine, &all);
            all
        })
    }
}

/// Nobody sees what a program says that udev runs: what matters goes to the kernel's log.
fn log_restored(machine: &mut dyn Machine, report: &Report) {
    for outcome in report.outcomes.iter().filter(|outcome| outcome.status != Status::Unchanged) {
        machine.log(&printable(&sentence(outcome, Direction::Bind)));
    }
    for note in &report.notes {
        machine.log(&printable(note));
    }
}

impl Unbind {
    /// # Errors
    /// Standard output cannot be written.
    pub(crate) fn run(&self, roots: &Roots, machine: &mut dyn Machine) -> anyhow::Result<Exit> {
        let dry_run = self.arguments.dry_run;
        self.arguments.run(roots, machine, Direction::Unbind, |machine, addresses| {
            binding::unbind(roots, machine, addresses, dry_run)
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Bind,
    Unbind,
}

impl Arguments {
    fn run(
        &self,
        roots: &Roots,
        machine: &mut dyn Machine,
        direction: Direction,
        work: impl FnOnce(&mut dyn Machine, &[PciAddress]) -> Report,
    ) -> anyhow::Result<Exit> {
        let mut addresses = Vec::new();
        let mut mistaken = false;
        for text in &self.addresses {
            match resolve(roots, text) {
                Ok(address) => addresses.push(address),
                Err(error) => {
                    eprintln!("error: {}", printable(&error.to_string()));
                    mistaken = true;
                }
            }
        }
        if mistaken {
            return Ok(Exit::Usage);
        }
        // Two at a time would see each other's half-done work. Who may not take the lock may do nothing else either.
        let lock = if self.dry_run { None } else { machine.lock(&roots.run.join("gangway/lock")).ok() };
        let report = work(machine, &addresses);
        drop(lock);
        for note in &report.notes {
            tracing::warn!("{}", printable(note));
        }
        let written = match self.output {
            Format::Json => output::print_json(&json(&report, direction)),
            Format::Table => print(&report, direction),
        };
        written.context("cannot write the result")?;
        Ok(exit(&report))
    }
}

fn exit(report: &Report) -> Exit {
    let status = |status: Status| report.outcomes.iter().any(|outcome| outcome.status == status);
    let in_use = report.outcomes.iter().flat_map(|outcome| &outcome.refusals).any(Refusal::is_use);
    if status(Status::Failed) || status(Status::Undone) {
        Exit::Failure
    } else if in_use {
        Exit::InUse
    } else if status(Status::Refused) {
        Exit::Failure
    } else {
        Exit::Success
    }
}

/// What was done goes to standard output, what was not to standard error.
fn print(report: &Report, direction: Direction) -> std::io::Result<()> {
    for outcome in &report.outcomes {
        let text = printable(&sentence(outcome, direction));
        match outcome.status {
            Status::Changed | Status::Unchanged | Status::Planned => output::print(&text)?,
            _ => eprintln!("{text}"),
        }
    }
    let addresses = |wanted: &[Status]| -> Vec<PciAddress> {
        let outcomes = report.outcomes.iter().filter(|outcome| wanted.contains(&outcome.status));
        outcomes.map(|outcome| outcome.address).collect()
    };
    if !addresses(&[Status::Refused]).is_empty() {
        eprintln!("Nothing was changed.");
    } else if direction == Direction::Bind && addresses(&[Status::Failed, Status::Planned]).is_empty() {
        let devices = addresses(&[Status::Changed, Status::Unchanged]);
        let each = |option: &str| {
            let devices: Vec<String> =
                devices.iter().map(|address| format!("{option}pci:{address}")).collect();
            devices.join(" ")
        };
        output::print(&format!("Next: gangway serve {}", each("--device ")))?;
        output::print(&format!("      or, where that runs already: gangway add {}", each("")))?;
    }
    Ok(())
}

fn sentence(outcome: &Outcome, direction: Direction) -> String {
    let address = outcome.address;
    let driver = outcome.driver_before.as_deref().unwrap_or("no driver");
    let node = outcome.vfio_node.as_ref().map(|node| format!(", {}", node.display())).unwrap_or_default();
    let group = outcome.iommu_group.map(|group| format!(" (IOMMU group {group}{node})")).unwrap_or_default();
    let disks: Vec<String> = outcome.disks.iter().map(|name| format!("/dev/{name}")).collect();
    let disks = if disks.is_empty() { String::new() } else { format!(" ({})", disks.join(", ")) };
    let controller = outcome.controller.as_ref().map(|name| format!(" as {name}{disks}")).unwrap_or_default();
    let now = outcome.driver.as_deref().unwrap_or("its driver");
    let indented = |lines: Vec<String>| lines.iter().map(|line| format!("\n  {line}")).collect::<String>();
    let more = more(outcome);
    match (outcome.status, direction) {
        (Status::Changed, Direction::Bind) => {
            format!("{address}: bound to {VFIO_PCI}{group}; before: {driver}{more}")
        }
        (Status::Changed, Direction::Unbind) if outcome.driver == outcome.driver_before => {
            format!("{address}: {driver} has it already{controller}{more}")
        }
        (Status::Changed, Direction::Unbind) if outcome.driver.is_none() => {
            format!("{address}: taken from {VFIO_PCI}; it has no driver, as before{more}")
        }
        (Status::Changed, Direction::Unbind) => format!("{address}: given back to {now}{controller}{more}"),
        (Status::Unchanged, Direction::Bind) => {
            format!("{address}: already bound to {VFIO_PCI}{group}{more}")
        }
        (Status::Unchanged, Direction::Unbind) => {
            format!("{address}: not bound to {VFIO_PCI}; {driver} has it already{controller}")
        }
        (Status::Planned, _) => format!("{address}: would be done:{}", indented(outcome.steps.clone())),
        (Status::Refused, _) => {
            format!(
                "{address}: refused:{}",
                indented(outcome.refusals.iter().map(Refusal::to_string).collect())
            )
        }
        (Status::Withheld, _) => format!("{address}: left alone because of the others"),
        (Status::Failed, _) => format!("{address}: failed:{}", indented(outcome.problems.clone())),
        (Status::Undone, _) => {
            format!("{address}: undone because of another failure{}", indented(outcome.problems.clone()))
        }
    }
}

/// What else there is to say of a function that is now as it was wished.
fn more(outcome: &Outcome) -> String {
    let mut text = String::new();
    if let Some(owner) = &outcome.owner {
        text.push_str(&format!("; its node belongs to {owner}"));
    }
    match outcome.persistent {
        (_, true) => text.push_str("; persistent"),
        (true, false) => text.push_str("; no longer persistent"),
        (false, false) => {}
    }
    if !outcome.holders.is_empty() {
        let holders: Vec<String> = outcome.holders.iter().map(ToString::to_string).collect();
        text.push_str(&format!("; driven by {}", holders.join(", ")));
    }
    text
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    address: String,
    result: &'static str,
    driver: Option<String>,
    driver_before: Option<String>,
    iommu_group: Option<u32>,
    vfio_path: Option<String>,
    /// Whether it is bound at each boot.
    persistent: bool,
    /// Who its node was given to.
    owner: Option<String>,
    /// The processes that drive it.
    holders: Vec<Holder>,
    controller: Option<String>,
    /// Paths of the block devices that the kernel made of it.
    device_paths: Vec<String>,
    reasons: Vec<Reason>,
    steps: Vec<String>,
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Holder {
    process_id: u32,
    command: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Reason {
    in_use: bool,
    text: String,
}

fn json(report: &Report, direction: Direction) -> Vec<Entry> {
    let entry = |outcome: &Outcome| Entry {
        address: outcome.address.to_string(),
        result: match (outcome.status, direction) {
            (Status::Changed, Direction::Bind) => "bound",
            (Status::Unchanged, Direction::Bind) => "already-bound",
            (Status::Changed, Direction::Unbind) => "unbound",
            (Status::Unchanged, Direction::Unbind) => "already-unbound",
            (Status::Planned, _) => "planned",
            (Status::Refused, _) => "refused",
            (Status::Withheld, _) => "withheld",
            (Status::Failed, _) => "failed",
            (Status::Undone, _) => "undone",
        },
        driver: outcome.driver.clone(),
        driver_before: outcome.driver_before.clone(),
        iommu_group: outcome.iommu_group,
        vfio_path: outcome.vfio_node.as_ref().map(|node| node.display().to_string()),
        persistent: outcome.persistent.1,
        owner: outcome.owner.as_ref().map(ToString::to_string),
        holders: outcome
            .holders
            .iter()
            .map(|process| Holder { process_id: process.pid, command: process.command.clone() })
            .collect(),
        controller: outcome.controller.clone(),
        device_paths: outcome.disks.iter().map(|name| format!("/dev/{name}")).collect(),
        reasons: outcome
            .refusals
            .iter()
            .map(|refusal| Reason { in_use: refusal.is_use(), text: refusal.to_string() })
            .collect(),
        steps: outcome.steps.clone(),
        problems: outcome.problems.clone(),
    };
    report.outcomes.iter().map(entry).collect()
}

#[cfg(test)]
#[path = "bind_tests.rs"]
mod tests;
