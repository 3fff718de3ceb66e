//! `gangway doctor`: what this machine has, lacks, and needs for its drives to be served.
//!
//! Nothing is changed, and each finding says what it means and which command mends it. What can be asked of
//! [`crate::binding`] is asked there, so that doctor and `bind` never disagree.

mod drives;
mod platform;
mod process;

use anyhow::Context;
use serde::Serialize;

use crate::{
    binding::Machine,
    exit::Exit,
    output::{self, Format, printable},
    sysfs::{PciAddress, Roots, resolve},
};

/// Looks at this machine and its drives, and says what is in the way of serving them and what to do about it.
///
/// Without addresses: at all NVMe drives, where one that the kernel uses is no problem as long as another one can
/// be served. With addresses: at these, each of which must be free or bound already.
#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    /// PCI address, such as 0000:01:00.0, 01:00.0 or pci:0000:01:00.0 (see `gangway list`).
    #[arg(value_name = "ADDRESS")]
    addresses: Vec<String>,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

impl Doctor {
    /// # Errors
    /// Standard output cannot be written.
    pub(crate) fn run(&self, roots: &Roots, machine: &mut dyn Machine) -> anyhow::Result<Exit> {
        let mut addresses = Vec::new();
        for text in &self.addresses {
            match resolve(roots, text) {
                Ok(address) => addresses.push(address),
                Err(error) => {
                    eprintln!("error: {}", printable(&error.to_string()));
                    return Ok(Exit::Usage);
                }
            }
        }
        let diagnosis = diagnose(roots, machine, &process::Limits::of_this_process(), &addresses);
        match self.output {
            Format::Json => output::print_json(&diagnosis),
            Format::Table => output::print(&text(&diagnosis)),
        }
        .context("cannot write the result")?;
        Ok(if diagnosis.serving_possible { Exit::Success } else { Exit::Failure })
    }
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// Serving works, but something is less than it could be, or will fail later.
    Warning,
    /// Serving is not possible.
    Problem,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "PROBLEM",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Finding {
    level: Level,
    /// A few words, or the address of a drive.
    subject: String,
    /// What it is like, and what that means.
    text: String,
    /// What to do about it.
    remedy: Option<String>,
}

impl Finding {
    fn new(level: Level, subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self { level, subject: subject.into(), text: text.into(), remedy: None }
    }

    fn ok(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Level::Ok, subject, text)
    }

    fn warning(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Level::Warning, subject, text)
    }

    fn problem(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Level::Problem, subject, text)
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Diagnosis {
    serving_possible: bool,
    findings: Vec<Finding>,
}

fn diagnose(
    roots: &Roots,
    machine: &mut dyn Machine,
    limits: &process::Limits,
    addresses: &[PciAddress],
) -> Diagnosis {
    let mut findings = platform::findings(roots);
    let drives = drives::findings(roots, machine, addresses);
    findings.extend(process::findings(roots, machine, limits, addresses.len()));
    findings.extend(drives);
    let serving_possible = findings.iter().all(|finding| finding.level != Level::Problem);
    Diagnosis { serving_possible, findings }
}

fn text(diagnosis: &Diagnosis) -> String {
    let findings = &diagnosis.findings;
    let width = findings.iter().map(|finding| finding.subject.chars().count()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for finding in findings {
        let (level, subject) = (finding.level.word(), &finding.subject);
        lines.push(format!("{level:<7}  {subject:<width$}  {}", finding.text.replace('\n', "?")));
        if let Some(remedy) = &finding.remedy {
            lines.push(format!("{:<7}  {:<width$}  -> {}", "", "", remedy.replace('\n', "?")));
        }
    }
    let problems = findings.iter().filter(|finding| finding.level == Level::Problem).count();
    lines.push(String::new());
    lines.push(match problems {
        0 => "Serving is possible.".to_owned(),
        1 => "Serving is not possible: see the problem above.".to_owned(),
        _ => format!("Serving is not possible: see the {problems} problems above."),
    });
    printable(&lines.join("\n"))
}

#[cfg(test)]
mod tests;
