//! `gangway bench`: what this program's target costs, beside the least that any target costs.

mod children;
mod report;
mod shape;

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;

use self::children::{Children, Running};
use self::report::{Round, Sample, ShapeResult};
use self::shape::Shape;
use super::report::Report;
use super::run::Run;
use super::worker::Limit;
use super::{cpu, distance, units};
use crate::exit::Exit;
use crate::output::{self, Format};

/// What is not measured of each run.
const WARMUP: Duration = Duration::from_millis(200);

const EXAMPLES: &str = "\
Examples:
  gangway bench                                  all shapes; takes some five minutes
  gangway bench --quick                          to see whether it works; too short to rely on
  gangway bench --shape randread,4k,32,1 --rounds 11 --time 2
  gangway bench --device emulated:size=1GiB --output json > before.json

The floor is a process of this program that answers with canned replies of the same sizes and does nothing else; what
it costs is TCP. Floor and targets run on one CPU, the load generator on another, in turn, round by round; the ratios
are those of neighbours. Rounds in which the distance of the two CPUs changed (on a virtual machine it may) do not
count as long as there are others. Figures are medians, with the smallest and the largest in parentheses.";

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
    /// Shape of load PATTERN,SIZE,DEPTH,CONNECTIONS, with `,poll` if both ends spin [default: those of the docs]
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
    /// CPU of floor and targets [default: the first]
    #[arg(long, value_name = "CPU")]
    server_cpu: Option<usize>,
    /// CPU of the load generator [default: the last]
    #[arg(long, value_name = "CPU")]
    client_cpu: Option<usize>,
    /// Go without submission queue flow control
    #[arg(long)]
    no_sqflow: bool,
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
    shapes: Vec<ShapeResult>,
}

/// The targets of a benchmark.
struct Targets {
    floor: Running,
    polling_floor: Running,
    drives: Vec<Running>,
    /// `floor`, then the drives.
    names: Vec<String>,
}

impl Bench {
    /// Runs the benchmark, and prints what came of it.
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let allowed = cpu::allowed()?;
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

        let children = Children::default();
        children.end_with_signals()?;
        let targets = self.start(&children, server_cpu)?;
        let mut results = Vec::new();
        for (index, shape) in shapes.iter().enumerate() {
            if std::io::stderr().is_terminal() {
                eprintln!("{} of {}: {shape}", index + 1, shapes.len());
            }
            let rounds = (0..rounds)
                .map(|round| self.round(*shape, &targets, (server_cpu, client_cpu), time, round))
                .collect::<anyhow::Result<_>>()?;
            let result = ShapeResult::new(*shape, &targets.names, rounds);
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
                shapes: results,
            })?;
        }
        Ok(Exit::Success)
    }

    fn start(&self, children: &Children, server_cpu: usize) -> anyhow::Result<Targets> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let floor = ["bench-floor", "--until-eof", "--cpu", &server_cpu.to_string()];
        let usual = ["emulated:null,size=16MiB", "emulated:size=16MiB"];
        let devices = if self.device.is_empty() { words(&usual) } else { self.device.clone() };
        let serve = |device: &String| {
            let cpu = server_cpu.to_string();
            let mut arguments =
                words(&["serve", "--device", device, "--listen", "127.0.0.1:0", "--reactors", &cpu]);
            arguments.extend(self.serve_arg.iter().cloned());
            children.start(&arguments, server_cpu)
        };
        Ok(Targets {
            floor: children.start(&words(&floor), server_cpu)?,
            polling_floor: children.start(&[words(&floor), words(&["--poll"])].concat(), server_cpu)?,
            drives: devices.iter().map(serve).collect::<anyhow::Result<_>>()?,
            names: std::iter::once("floor".to_owned()).chain(devices).collect(),
        })
    }

    /// Measures all targets once; which one is first changes from round to round.
    fn round(
        &self,
        shape: Shape,
        targets: &Targets,
        (server_cpu, client_cpu): (usize, usize),
        time: Duration,
        round: u32,
    ) -> anyhow::Result<Round> {
        let floor = if shape.poll { &targets.polling_floor } else { &targets.floor };
        let running: Vec<&Running> = std::iter::once(floor).chain(&targets.drives).collect();
        let mut samples: Vec<Option<Sample>> = vec![None; running.len()];
        let mut before = distance::round_trip(server_cpu, client_cpu)?;
        for turn in 0..running.len() {
            let index = (turn + round as usize) % running.len();
            let Running { device, pid } = running[index];
            let run = Run {
                pattern: shape.pattern,
                mix: 0,
                block_size: shape.block_size,
                depth: shape.depth,
                queues: shape.connections.into(),
                warmup: WARMUP,
                limit: Limit::Time(time),
                offset: 0,
                // The same for all, so that caches see the same.
                size: Some(16 << 20),
                nsid: 0,
                verify: false,
                cpus: vec![client_cpu],
                poll: shape.poll,
                flow_control: !self.no_sqflow,
                host: None,
                target: Some(*pid),
                show_progress: false,
            };
            let outcome =
                run.against(device).with_context(|| format!("{}: {shape}", targets.names[index]))?;
            let after = distance::round_trip(server_cpu, client_cpu)?;
            let report = Report::new(targets.names[index].clone(), &run, &outcome);
            samples[index] = Some(Sample { distance_before: before, distance_after: after, report });
            before = after;
        }
        Ok(Round { samples: samples.into_iter().flatten().collect() })
    }
}
