//! `gangway perf`: a load generator for any device.

pub(crate) mod bench;
mod compare;
mod cpu;
mod distance;
pub(crate) mod floor;
mod local;
mod namespace;
mod outbound;
mod queue;
mod report;
mod run;
mod spread;
mod stamp;
mod tally;
mod tcp;
#[cfg(test)]
mod tests;
pub(crate) mod units;
mod verify;
mod worker;
mod workload;

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use gangway_fabric::pdu::DigestFlags;
use gangway_spec::fabrics::Nqn;

use self::compare::Subject;
use self::report::Report;
use self::run::Run;
use self::worker::Limit;
use self::workload::Pattern;
use crate::cpus::{self, CpuList};
use crate::device::Address;
use crate::exit::Exit;
use crate::output::{self, Format};

/// How long to measure when nothing is said.
const DEFAULT_TIME: Duration = Duration::from_secs(10);

const EXAMPLES: &str = "\
Examples:
  gangway perf tcp:192.0.2.7:4420/nqn.2014-08.org.example:disk1
      random 4 KiB reads, 32 at a time, for 10 seconds
  gangway perf pci:0000:01:00.0 --rw randrw --mix 70 --queues 4 --cpu 0-3 --time 60
      a drive of this machine (bound with `gangway bind`), one thread and queue on each of four CPUs
  gangway perf DEVICE --rw write --block-size 64k --size 1GiB --count 16384 --verify --yes
  gangway perf DEVICE --rw read --block-size 64k --size 1GiB --count 16384 --verify
      writes a region of 1 GiB once, and checks all of it afterwards
  gangway perf tcp:A:4420/NQN --target-pid PID --compare tcp:B:4420/NQN --compare-pid PID --rounds 10
      two targets in turn, with the CPU time that each of them uses per I/O

CPU time of a target is that of all its threads; a thread that spins is busy whatever it does.
Depth and block size are those of each queue and command; --size and --offset choose a region of the namespace.";

/// Puts a load on a device, and measures it.
///
/// DEVICE is tcp:HOST:PORT/NQN for what a target exports, pci:ADDRESS for a drive of this machine, vfio-user:SOCKET for
/// one that another process serves, or
/// emulated:OPTIONS for a drive in memory.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Perf {
    /// What to measure
    device: Address,
    /// What to do
    #[arg(long, value_enum, default_value_t)]
    rw: Pattern,
    /// Percentage of reads, of randrw and rw
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    mix: u8,
    /// Bytes of each command
    #[arg(long, value_name = "SIZE", default_value = "4KiB", value_parser = units::parse_size)]
    block_size: u64,
    /// Commands outstanding on each queue
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4095))]
    depth: u16,
    /// I/O queues; of a target: connections
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    queues: u16,
    /// How long to measure [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = units::parse_seconds, conflicts_with = "count")]
    time: Option<Duration>,
    /// How many commands to do, in place of a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// How long to run before measuring
    #[arg(long, value_name = "SECONDS", value_parser = units::parse_seconds, conflicts_with = "count")]
    warmup: Option<Duration>,
    /// Bytes of the namespace to use [default: all from --offset on]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    size: Option<u64>,
    /// Where they begin
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = units::parse_size)]
    offset: u64,
    /// Namespace [default: the first]
    #[arg(long, value_name = "NSID", value_parser = clap::value_parser!(u32).range(1..))]
    nsid: Option<u32>,
    /// Write data that says where and when it was written, and check what is read
    #[arg(long)]
    verify: bool,
    /// CPUs, such as `2` or `0,2-4`: one thread each, among which the queues are divided [default: a thread for each
    /// queue, as far as there are CPUs, wherever the kernel puts them]
    #[arg(long, value_name = "LIST")]
    cpu: Option<CpuList>,
    /// Spin instead of sleeping while nothing comes; drives of this machine are always polled
    #[arg(long)]
    poll: bool,
    /// Go without submission queue flow control, so that a read needs no response of its own
    #[arg(long)]
    no_sqflow: bool,
    /// Protect the headers of PDUs with digests, over TCP
    #[arg(long)]
    hdr_digest: bool,
    /// Protect the data of PDUs with digests, over TCP
    #[arg(long)]
    data_digest: bool,
    /// Name of this host [default: made up]
    #[arg(long, value_name = "NQN")]
    host_nqn: Option<Nqn>,
    /// Process that serves the device: measure the CPU time that it uses
    #[arg(long, value_name = "PID")]
    target_pid: Option<u32>,
    /// Another device, to be measured in turn with the first
    #[arg(long, value_name = "DEVICE")]
    compare: Option<Address>,
    /// Process that serves the other device
    #[arg(long, value_name = "PID", requires = "compare")]
    compare_pid: Option<u32>,
    /// Pairs of measurements
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Overwrite data without asking
    #[arg(long)]
    yes: bool,
    /// How to show the results
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

impl Perf {
    /// Measures, and prints what came of it.
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        if !self.may_overwrite()? {
            return Ok(Exit::Failure);
        }
        let run = self.plan()?;
        let a = Subject { device: &self.device, target: self.target_pid };
        if let Some(other) = &self.compare {
            let b = Subject { device: other, target: self.compare_pid };
            let comparison = compare::compare(&run, &a, &b, self.rounds)?;
            match self.output {
                Format::Table => output::print(&comparison.text())?,
                Format::Json => output::print_json(&comparison)?,
            }
            return Ok(Exit::Success);
        }
        let outcome = run.against(&self.device)?;
        let report = Report::new(self.device.to_string(), &run, &outcome);
        match self.output {
            Format::Table => output::print(&report.text())?,
            Format::Json => output::print_json(&report)?,
        }
        Ok(Exit::Success)
    }

    fn plan(&self) -> anyhow::Result<Run> {
        let allowed = cpus::allowed()?.0;
        let cpus = self.cpu.clone().unwrap_or_default().0;
        let missing = cpus.iter().find(|cpu| !allowed.contains(cpu));
        ensure!(
            missing.is_none(),
            "--cpu: this process may not run on CPU {}",
            missing.copied().unwrap_or(0)
        );
        let mut digests = DigestFlags::empty();
        digests.set(DigestFlags::HEADER, self.hdr_digest);
        digests.set(DigestFlags::DATA, self.data_digest);
        Ok(Run {
            pattern: self.rw,
            mix: self.mix,
            block_size: self.block_size,
            depth: self.depth,
            queues: self.queues.into(),
            warmup: self.warmup.unwrap_or_default(),
            limit: match self.count {
                Some(count) => Limit::Count(count),
                None => Limit::Time(self.time.unwrap_or(DEFAULT_TIME)),
            },
            offset: self.offset,
            size: self.size,
            nsid: self.nsid.unwrap_or(0),
            verify: self.verify,
            cpus,
            poll: self.poll,
            flow_control: !self.no_sqflow,
            digests,
            host: self.host_nqn.clone(),
            target: self.target_pid,
            show_progress: true,
        })
    }

    /// Whether nobody would miss what is overwritten, or somebody said that it may be.
    fn may_overwrite(&self) -> anyhow::Result<bool> {
        let devices = std::iter::once(&self.device).chain(&self.compare);
        let lost: Vec<String> =
            devices.filter(|device| device.keeps_data()).map(ToString::to_string).collect();
        if self.rw.writes() == Some(false) || self.yes || lost.is_empty() {
            return Ok(true);
        }
        let lost = lost.join(" and ");
        if !io::stdin().is_terminal() {
            eprintln!("error: this overwrites data of {lost}: say --yes if that is meant");
            return Ok(false);
        }
        eprint!("This overwrites data of {lost}. Go on? [y/N] ");
        io::stderr().flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}
