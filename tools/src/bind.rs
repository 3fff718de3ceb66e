//! `gangway bind` and `gangway unbind`.

use anyhow::Context;
use serde::Serialize;

use crate::{
    binding::{self, Machine, Outcome, Refusal, Report, Status, VFIO_PCI},
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
}

/// Gives drives back from vfio-pci to the driver they had.
///
/// Refuses a drive that a process is driving. A drive that has its kernel driver already is left as it is.
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
        self.arguments.run(roots, machine, Direction::Bind)
    }
}

impl Unbind {
    /// # Errors
    /// Standard output cannot be written.
    pub(crate) fn run(&self, roots: &Roots, machine: &mut dyn Machine) -> anyhow::Result<Exit> {
        self.arguments.run(roots, machine, Direction::Unbind)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Bind,
    Unbind,
}

impl Arguments {
    fn run(&self, roots: &Roots, machine: &mut dyn Machine, direction: Direction) -> anyhow::Result<Exit> {
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
        let report = match direction {
            Direction::Bind => binding::bind(roots, machine, &addresses, self.dry_run),
            Direction::Unbind => binding::unbind(roots, machine, &addresses, self.dry_run),
        };
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
        let devices: Vec<String> = devices.iter().map(|address| format!("--device pci:{address}")).collect();
        output::print(&format!("Next: gangway serve {}", devices.join(" ")))?;
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
    match (outcome.status, direction) {
        (Status::Changed, Direction::Bind) => {
            format!("{address}: bound to {VFIO_PCI}{group}; before: {driver}")
        }
        (Status::Changed, Direction::Unbind) => format!("{address}: given back to {now}{controller}"),
        (Status::Unchanged, Direction::Bind) => format!("{address}: already bound to {VFIO_PCI}{group}"),
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

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    address: String,
    result: &'static str,
    driver: Option<String>,
    driver_before: Option<String>,
    iommu_group: Option<u32>,
    vfio_path: Option<String>,
    controller: Option<String>,
    /// Paths of the block devices that the kernel made of it.
    device_paths: Vec<String>,
    reasons: Vec<Reason>,
    steps: Vec<String>,
    problems: Vec<String>,
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
