//! `gangway bench`: what this program's target costs, beside the least that any target costs.

mod children;
mod idle;
mod report;
mod shape;

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use gangway_driver::address::DeviceAddress;
use gangway_driver::emulated::Backing;
use gangway_fabric::pdu::DigestFlags;
use serde::Serialize;

use self::children::{Children, Running};
use self::idle::Idle;
use self::report::{Round, Sample, ShapeResult};
use self::shape::Shape;
use super::report::Report;
use super::run::Run;
use super::worker::Limit;
use super::workload::Pattern;
use super::{distance, units};
use crate::device::Address;
use crate::exit::Exit;
use crate::files;
use crate::output::{self, Format};

/// What is not measured of each run.
const WARMUP: Duration = Duration::from_millis(200);
/// Bytes of each drive that are read and written.
const MEASURED: u64 = 16 << 20;

const EXAMPLES: &str = "\
Examples:
  gangway bench                                  all shapes; takes some five minutes
  gangway bench --quick                          to see whether it works; too short to rely on
  gangway bench --shape randread,4k,32,1 --rounds 11 --time 2
  gangway bench --device emulated:size=1GiB --output json > before.json
  gangway bench --idle 1000                      what connections cost that are not in use, over a minute

The floor is a process of this program that answers with canned replies of the same sizes and does nothing else; what
it costs is TCP. Floor and targets run on one CPU, the load generator on another, where it spins. They are measured in
turn, round by round, and the ratios are those of neighbours. Rounds in which the distance of the two CPUs changed (on
a virtual machine it may) or others wanted to run there do not count as long as there are better ones. Figures are medians; behind ± is how far the
outermost round is from it, in parentheses are the smallest and the largest.";

/// Measures the target of this program with emulated drives.
///
/// CPU time per I/O, IOPS and latency, in turn with those of a floor of canned replies. Only processes that it starts
/// itself are used, on free ports of the loopback interface.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Bench {
    /// Drive to export, each by a process of its own [default: emulated:null,size=16MiB and emulated:size=16MiB]
    #[arg(long, value_name = "DEVICE")]
    device: Vec<String>,
    /// Shape of load PATTERN,SIZE,DEPTH,CONNECTIONS, with `,poll` if floor and targets spin [default: a dozen, from one command at a time to 1024 connections]
    #[arg(long, value_name = "SHAPE")]
    shape: Vec<Shape>,
    /// Rounds of each shape [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// How long to measure each target in each round [default: 1]
    #[arg(long, value_name = "SECONDS", value_parser = units::parse_seconds)]
    time: Option<Duration>,
    /// Three short rounds
    #[arg(long)]
    quick: bool,
    /// Measure nothing but what so many idle connections cost the first target: CPU time, for --time [default then: 60]
    /// seconds, and memory
    #[arg(long, value_name = "CONNECTIONS", conflicts_with_all = ["shape", "rounds", "quick", "no_sqflow", "digests"], value_parser = clap::value_parser!(u16).range(1..))]
    idle: Option<u16>,
    /// CPU of floor and targets [default: the first]
    #[arg(long, value_name = "CPU")]
    server_cpu: Option<usize>,
    /// CPU of the load generator [default: the last]
    #[arg(long, value_name = "CPU")]
    client_cpu: Option<usize>,
    /// Go without submission queue flow control
    #[arg(long)]
    no_sqflow: bool,
    /// Protect headers and data of the targets' PDUs with digests; the floor has none
    #[arg(long)]
    digests: bool,
    /// Argument for `gangway serve`, such as --serve-arg=--read-only
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    serve_arg: Vec<String>,
    /// How to show the results
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

/// The results.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Results {
    server_cpu: usize,
    client_cpu: usize,
    seconds: f64,
    flow_control: bool,
    digests: bool,
    shapes: Vec<ShapeResult>,
}

/// A target that can be measured.
struct Subject {
    name: String,
    /// What it is started with.
    arguments: Vec<String>,
    /// It sleeps while it is not measured.
    running: Running,
}

impl Subject {
    /// What it is started with when it is to spin: it is started for each measurement then, since it would be in the
    /// way of the others.
    fn spinning(&self) -> Vec<String> {
        let serves = self.arguments.first().is_some_and(|command| command == "serve");
        let more = if serves { ["--poll", "always"].as_slice() } else { ["--poll"].as_slice() };
        self.arguments.iter().map(String::as_str).chain(more.iter().copied()).map(str::to_owned).collect()
    }
}

/// Both ends of each connection have a file open, each in a process of its own.
fn enough_files(connections: u64, allowed: u64) -> anyhow::Result<()> {
    /// What else a target may have open, admin queues among it.
    const OTHERS: u64 = 512;
    let needed = connections + OTHERS;
    ensure!(
        needed <= allowed,
        "{connections} connections need {needed} open files, and only {allowed} are allowed: raise the hard limit \
         (`ulimit -Hn`), or choose fewer connections with --shape or --idle"
    );
    Ok(())
}

impl Bench {
    /// Runs the benchmark, and prints what came of it.
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let allowed = crate::cpus::allowed()?.0;
        let server_cpu = self.server_cpu.or(allowed.first().copied()).context("there is no CPU")?;
        let client_cpu = self.client_cpu.or(allowed.last().copied()).context("there is no CPU")?;
        ensure!(
            server_cpu != client_cpu && allowed.contains(&server_cpu) && allowed.contains(&client_cpu),
            "a benchmark needs two CPUs, one for the target and one for the load generator; this process may run on {allowed:?}"
        );
        let (rounds, time) =
            if self.quick { (3, Duration::from_millis(300)) } else { (5, Duration::from_secs(1)) };
        let (rounds, time) = (self.rounds.unwrap_or(rounds), self.time.unwrap_or(time));
        let shapes = if self.shape.is_empty() { Shape::usual() } else { self.shape.clone() };

        // Before anything is measured, which would be lost.
        let widest = shapes.iter().map(|shape| shape.connections).max();
        enough_files(self.idle.or(widest).unwrap_or_default().into(), files::allowed())?;
        let children = Children::default();
        children.end_with_signals()?;
        if let Some(connections) = self.idle {
            return self.measure_idle(&children, server_cpu, connections.into());
        }
        let subjects = self.start(&children, (server_cpu, client_cpu))?;
        let names: Vec<String> = subjects.iter().map(|subject| subject.name.clone()).collect();
        let mut results = Vec::new();
        for (index, shape) in shapes.iter().enumerate() {
            if std::io::stderr().is_terminal() {
                eprintln!("{} of {}: {shape}", index + 1, shapes.len());
            }
            let rounds = (0..rounds)
                .map(|round| {
                    self.round(*shape, (&subjects, &children), (server_cpu, client_cpu), time, round)
                })
                .collect::<anyhow::Result<_>>()?;
            let result = ShapeResult::new(*shape, &names, rounds);
            if self.output == Format::Table {
                output::print(&format!("{}\n", result.text()))?;
            }
            results.push(result);
        }
        if self.output == Format::Json {
            output::print_json(&Results {
                server_cpu,
                client_cpu,
                seconds: time.as_secs_f64(),
                flow_control: !self.no_sqflow,
                digests: self.digests,
                shapes: results,
            })?;
        }
        Ok(Exit::Success)
    }

    fn measure_idle(
        &self,
        children: &Children,
        server_cpu: usize,
        connections: usize,
    ) -> anyhow::Result<Exit> {
        let (device, arguments) = self.targets(server_cpu).swap_remove(0);
        let running = children.start(&arguments, server_cpu)?;
        let time = self.time.unwrap_or(Duration::from_secs(60));
        let idle = Idle::measure(&device, &running, connections, time)?;
        match self.output {
            Format::Table => output::print(&idle.text())?,
            Format::Json => output::print_json(&idle)?,
        }
        Ok(Exit::Success)
    }

    /// The devices, and what the targets that export them are started with.
    fn targets(&self, server_cpu: usize) -> Vec<(String, Vec<String>)> {
        let cpu = server_cpu.to_string();
        let usual = ["emulated:null,size=16MiB", "emulated:size=16MiB"].map(str::to_owned);
        let devices = if self.device.is_empty() { &usual[..] } else { &self.device };
        let target = |device: &String| {
            let serve = ["serve", "--device", device, "--listen", "127.0.0.1:0", "--reactors", &cpu];
            (device.clone(), [serve.map(str::to_owned).as_slice(), &self.serve_arg].concat())
        };
        devices.iter().map(target).collect()
    }

    /// Starts all targets, the floor first.
    fn start(
        &self,
        children: &Children,
        (server_cpu, client_cpu): (usize, usize),
    ) -> anyhow::Result<Vec<Subject>> {
        let floor = ["bench-floor", "--until-eof", "--cpu", &server_cpu.to_string()].map(str::to_owned);
        let mut all = vec![("floor".to_owned(), floor.to_vec())];
        all.extend(self.targets(server_cpu));
        let start = |(name, arguments): (String, Vec<String>)| {
            let running = children.start(&arguments, server_cpu)?;
            self.fill(&name, &running.device, client_cpu);
            Ok(Subject { name, arguments, running })
        };
        all.into_iter().map(start).collect()
    }

    /// Measures all targets once; which one is first changes from round to round.
    fn round(
        &self,
        shape: Shape,
        (subjects, children): (&[Subject], &Children),
        (server_cpu, client_cpu): (usize, usize),
        time: Duration,
        round: u32,
    ) -> anyhow::Result<Round> {
        let mut samples: Vec<Option<Sample>> = vec![None; subjects.len()];
        let mut before = distance::round_trip(server_cpu, client_cpu)?;
        for turn in 0..subjects.len() {
            let index = (turn + round as usize) % subjects.len();
            let subject = &subjects[index];
            let spinning = shape.poll.then(|| children.start(&subject.spinning(), server_cpu)).transpose()?;
            let Running { device, pid } = spinning.as_ref().unwrap_or(&subject.running);
            if let Some(spinning) = &spinning {
                self.fill(&subject.name, &spinning.device, client_cpu);
                before = distance::round_trip(server_cpu, client_cpu)?;
            }
            let digests = self.digests && index > 0;
            let run = Run { target: Some(*pid), ..self.load(shape, Limit::Time(time), client_cpu, digests) };
            let outcome = run.against(device).with_context(|| format!("{}: {shape}", subject.name))?;
            if let Some(spinning) = &spinning {
                children.stop(spinning);
            }
            let after = distance::round_trip(server_cpu, client_cpu)?;
            let report = Report::new(subject.name.clone(), &run, &outcome);
            samples[index] = Some(Sample { distance_before: before, distance_after: after, report });
            before = after;
        }
        Ok(Round { samples: samples.into_iter().flatten().collect() })
    }

    fn load(&self, shape: Shape, limit: Limit, client_cpu: usize, digests: bool) -> Run {
        Run {
            pattern: shape.pattern,
            mix: 0,
            block_size: shape.block_size,
            depth: shape.depth,
            queues: shape.connections.into(),
            warmup: WARMUP,
            limit,
            offset: 0,
            // The same for all, so that caches see the same.
            size: Some(MEASURED),
            nsid: 0,
            verify: false,
            cpus: vec![client_cpu],
            // It has a CPU of its own: asleep, it would make the target wake it up with every send.
            poll: true,
            flow_control: !self.no_sqflow,
            digests: if digests { DigestFlags::all() } else { DigestFlags::empty() },
            host: None,
            target: None,
            show_progress: false,
        }
    }

    /// Writes all that will be read of a drive in memory: blocks that were never written may all be the same page of
    /// zeroes, which stays in the CPU's nearest caches.
    fn fill(&self, name: &str, device: &Address, client_cpu: usize) {
        /// What any drive takes in one command.
        const PIECE: u64 = 4096;
        let Some(depth) = self.fill_depth(name) else { return };
        let shape = Shape { pattern: Pattern::Write, block_size: PIECE, depth, connections: 1, poll: false };
        let all = Limit::Count(MEASURED / PIECE);
        let run = Run { warmup: Duration::ZERO, ..self.load(shape, all, client_cpu, false) };
        if let Err(error) = run.against(device) {
            eprintln!(
                "{name}: reads come from blocks that were never written, which are cheap to read: {error:#}"
            );
        }
    }

    /// With how many commands at a time a target's drive may be written to; `None` when it has nothing to be written, or
    /// something that somebody could miss, or may be another one than its name says.
    fn fill_depth(&self, name: &str) -> Option<u16> {
        let Ok(Address::Local(DeviceAddress::Emulated(config))) = name.parse() else { return None };
        let others = ["--device", "--export"];
        let is_this = |argument: &String| !others.iter().any(|other| argument.starts_with(other));
        let in_memory = config.backing == Backing::Memory && self.serve_arg.iter().all(is_this);
        // Zones are written in order.
        in_memory.then_some(if config.zones.is_some() { 1 } else { 32 })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        bench: Bench,
    }

    #[test]
    fn only_drives_in_memory_are_written_before_they_are_read() {
        let depth = |line: &[&str], name| Line::parse_from(line).bench.fill_depth(name);
        assert_eq!(depth(&["bench"], "emulated:size=16MiB"), Some(32));
        assert_eq!(depth(&["bench"], "emulated:zoned,size=64MiB"), Some(1));
        for other in
            ["floor", "emulated:null,size=16MiB", "emulated:file=/srv/disk,size=16MiB", "pci:0000:01:00.0"]
        {
            assert_eq!(depth(&["bench"], other), None, "{other}");
        }
        // The target may export another drive then.
        assert_eq!(depth(&["bench", "--serve-arg=--device=pci:0000:01:00.0"], "emulated:size=16MiB"), None);
    }

    #[test]
    fn too_few_open_files_are_noticed_before_anything_is_measured() {
        assert!(enough_files(1024, 4096).is_ok() && enough_files(1, 1024).is_ok());
        let refused = enough_files(1024, 1024).unwrap_err().to_string();
        assert!(refused.contains("ulimit -Hn"), "{refused}");
    }
}
