//! `telemetry-log`: what a drive collected about itself, for its maker to read.

use std::path::PathBuf;

use anyhow::{bail, ensure};
use clap::Args;
use gangway_spec::command::NSID_BROADCAST;
use gangway_spec::identify::Lpa;
use gangway_spec::log::{GetLogPage, TelemetryHeader, lid};

use crate::exit::Exit;
use crate::nvme::args::{self, Format, Output, Target};
use crate::nvme::fields::Object;
use crate::nvme::session::{self, Session};
use crate::nvme::show;
use crate::output;

/// LSP of the host-initiated log: collect anew.
const CREATE: u8 = 1;
/// How often a log is read again that changed while it was read.
const ATTEMPTS: usize = 3;

/// Collects and reads telemetry (log pages 07h and 08h)
///
/// A drive collects when it is asked to, and by itself when something went wrong (`--controller-init`). What it
/// collected is for its maker; the header says why and how much it is. What a drive collected by itself stays until its
/// log page is read without `--rae` (`gangway get-log -i 8 -l 512`). `-o binary` gives the log itself, and not its header.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway telemetry-log pci:0000:01:00.0 --output-file telemetry.bin      collects, and writes everything
  gangway telemetry-log tcp:192.0.2.7:4420/NQN -c                         what it collected by itself: the header
  gangway telemetry-log pci:0000:01:00.0 -g 0 -d 1 -O old.bin             data area 1 of what was collected last")]
pub(crate) struct TelemetryLog {
    #[command(flatten)]
    target: Target,
    /// Write the log to this file
    #[arg(short = 'O', long, value_name = "FILE")]
    output_file: Option<PathBuf>,
    /// Have the drive collect first: 1, or 0 to read what was collected last
    #[arg(short = 'g', long, value_name = "0|1", value_parser = args::number8, default_value_t = 1)]
    host_generate: u8,
    /// What the drive collected by itself
    #[arg(short, long)]
    controller_init: bool,
    /// Data areas up to this one, of 4
    #[arg(short, long, value_name = "AREA", value_parser = args::number8, default_value_t = 3)]
    data_area: u8,
    #[command(flatten)]
    format: Format,
}

impl TelemetryLog {
    pub(in crate::nvme) fn run(&self) -> anyhow::Result<Exit> {
        ensure!((1..=4).contains(&self.data_area), "--data-area is 1, 2, 3 or 4");
        ensure!(self.host_generate <= 1, "--host-generate is 0 or 1");
        session::with(&self.target, |session| {
            ensure!(
                session.controller().lpa().contains(Lpa::TELEMETRY),
                "{} has no telemetry (LPA), or its target does not open it: `gangway serve --allow tune` does",
                session.name()
            );
            let whole = self.output_file.is_some() || self.format.output == Output::Binary;
            let (header, bytes) = self.read(session, whole)?;
            if whole {
                show::binary(self.output_file.as_deref(), &bytes)?;
            }
            let title = format!("Telemetry Log of {}", session.name());
            match self.format.output {
                Output::Normal => output::print(&format!("{title}:\n{}", decode(&header).lines(false)))?,
                Output::Json => output::print_json(&decode(&header))?,
                Output::Binary => {}
            }
            Ok(Exit::Success)
        })
    }

    /// The header, and with `whole` the log up to the data area asked for.
    fn read(&self, session: &mut Session, whole: bool) -> anyhow::Result<(TelemetryHeader, Vec<u8>)> {
        let lid = if self.controller_init { lid::TELEMETRY_CONTROLLER } else { lid::TELEMETRY_HOST };
        let mut lsp = if self.controller_init { 0 } else { CREATE * self.host_generate };
        let page = |lsp, lpo| GetLogPage { lsp, lpo, ..super::page(lid) };
        for _ in 0..ATTEMPTS {
            let first = session.log(page(lsp, 0), NSID_BROADCAST, TelemetryHeader::BLOCK)?;
            // It is collected once; from here on the same is read.
            lsp = 0;
            let header: Box<TelemetryHeader> = session::structure(&first)?;
            if !whole {
                return Ok((*header, first));
            }
            let length = header.last_block(self.data_area) as usize * TelemetryHeader::BLOCK;
            let rest = if length > 0 {
                session.log(page(0, TelemetryHeader::BLOCK as u64), NSID_BROADCAST, length)?
            } else {
                Vec::new()
            };
            let after = session.log(page(0, 0), NSID_BROADCAST, TelemetryHeader::BLOCK)?;
            let after: Box<TelemetryHeader> = session::structure(&after)?;
            if generation(&after, lid) == generation(&header, lid) {
                return Ok((*header, [first, rest].concat()));
            }
        }
        bail!("{} collected anew while its log was read, {ATTEMPTS} times", session.name())
    }
}

/// What changes when the drive collects anew.
fn generation(header: &TelemetryHeader, lid: u8) -> u8 {
    if lid == lid::TELEMETRY_HOST { header.host_generation } else { header.controller_generation }
}

fn decode(header: &TelemetryHeader) -> Object {
    let mut object = Object::default();
    let o = &mut object;
    o.bits("log_id", header.lid);
    let [low, middle, high] = header.ieee;
    o.text("ieee_oui", format!("{high:02x}{middle:02x}{low:02x}"));
    for area in 1..=4_u8 {
        let last = header.last_block(area);
        // An area ends where the one before it does when it has nothing of its own.
        o.number(format!("data_area_{area}_last_block"), last)
            .shown(format!("{last} ({} bytes)", u64::from(last) * TelemetryHeader::BLOCK as u64));
    }
    o.number("host_generation", header.host_generation);
    o.number("controller_data_available", header.controller_available);
    o.number("controller_generation", header.controller_generation);
    o.text("reason", header.reason());
    object
}
