//! `gangway serve`.

mod announce;
mod changes;
mod drives;
mod exports;
mod site;
mod terms;
mod wanted;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use gangway_bridge::{Access, Drive, Poll, ReactorConfig, Target, TargetConfig};
use gangway_driver::address::DeviceAddress;
use gangway_driver::dma::DmaDomain;
use gangway_fabric::congestion::CongestionControl;
use tokio::signal::unix::{Signal, SignalKind, signal};

pub(crate) use self::announce::announce;
pub(crate) use self::changes::{Added, InUse, Removed};
use self::drives::Leaving;
pub(crate) use self::exports::NamespaceArg;
pub(crate) use self::site::{Doing, DriveSettings, Site};
pub(crate) use self::terms::Terms;
pub(crate) use self::wanted::Wanted;
use self::wanted::{Line, Member, Numbers};
use crate::control;
use crate::cpus::{self, CpuList};
use crate::exit::Exit;
use crate::perf::units;
use crate::{files, output};

/// The port that IANA assigned to NVMe over TCP.
const PORT: u16 = 4420;
/// Connections of all hosts at most, unless another number is asked for.
const MAX_CONNECTIONS: u32 = 4096;

const EXAMPLES: &str = "\
Examples:
  gangway serve
      An emulated drive of 1 GiB in memory, on 127.0.0.1:4420, to try things out.
  gangway serve --device pci:0000:01:00.0 --listen 192.0.2.7 --allow-host nqn.2014-08.org.nvmexpress:uuid:...
      A real drive (bound with `gangway bind 0000:01:00.0`) for one host; its NQN is in /etc/nvme/hostnqn there.
  gangway serve --device emulated:size=8GiB,block=4096,namespaces=2,file=disk.img
      An emulated drive that keeps its data in a file.
  gangway serve --device emulated:fault=status=0x281:read:lba=1000-1007,fault=remove=5s:write:nth=5000
      An emulated drive with a bad place, which is pulled out and put back in the midst of things (docs/faults.md).
  gangway serve --device pci:0000:01:00.0 --device pci:0000:02:00.0 \\
      --export nqn=nqn.2014-08.org.example:db,ns=1=1/3,ns=2=2/1,host=nqn.2014-08.org.nvmexpress:uuid:... \\
      --export nqn=nqn.2014-08.org.example:backup,drive=1,read-only
      Namespace 3 of the first drive and 1 of the second for one host, as 1 and 2; all of the first one, to be read.
  gangway serve --device pci:0000:01:00.0 --limit host=iops=50k,bandwidth=500MiB --limit namespace:2=iops=100k
      No host has more than that in a second, nor all together of namespace 2 (docs/sharing.md).
  gangway serve --device pci:0000:01:00.0 --allow tune --allow-for nqn.2014-08.org.example:admin=tune,firmware
      Hosts may set features and start self-tests; one of them may also update the firmware.
  gangway serve --device pci:0000:01:00.0 --export nqn=nqn.2014-08.org.example:ops,drive=1,allow=manage,host=nqn... \\
      --export nqn=nqn.2014-08.org.example:db,drive=1
      Hosts of the first export may also format the drive and manage its namespaces.
  gangway serve --device pci:0000:01:00.0 --listen 192.0.2.7 --allow-any-host --state /var/lib/gangway
      Hosts may reserve namespaces, and what they make to persist is in force again after a restart.";

/// Exports drives over NVMe/TCP until SIGINT or SIGTERM.
///
/// Without arguments: an emulated drive of 1 GiB on 127.0.0.1:4420.
#[derive(Args, Clone, Debug, Default)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Serve {
    /// Drive to export, each under an NQN of its own: `pci:ADDRESS`, `vfio-user:/PATH/TO/SOCKET` for one
    /// that another process serves (SPDK's target, `gangway emulate`), or `emulated` with options such as
    /// `emulated:size=1GiB,block=4096,namespaces=2,file=disk.img` (or `null`, `latency=5ms`, `mdts=5`, `serial=X`)
    #[arg(long, value_name = "DEVICE")]
    device: Vec<DeviceAddress>,
    /// Address to listen on, with port 4420 unless another is given [default: 127.0.0.1:4420]
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = listen_address)]
    listen: Vec<SocketAddr>,
    #[command(flatten)]
    terms: Terms,
    /// Socket by which `gangway status`, `top`, `limit`, `add` and `remove` reach this server; only its user may open it
    /// [default: /run/gangway.sock, or gangway.sock in $XDG_RUNTIME_DIR; none where that is taken]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// CPUs to serve I/O on, such as `2` or `0,2-4`, one thread each [default: one CPU, the last that is allowed]
    #[arg(long, value_name = "LIST")]
    reactors: Option<CpuList>,
    /// What reactors do when there is nothing to do
    #[arg(long, value_enum, default_value_t)]
    poll: PollArg,
    /// Congestion control of TCP connections, one of /proc/sys/net/ipv4/tcp_available_congestion_control, or `system` for
    /// what the system uses [default: `auto`, which is that too, but CUBIC in place of BBR: on the short ways of a storage
    /// network BBR costs up to half of what a CPU can serve]
    #[arg(long, value_name = "NAME")]
    congestion_control: Option<CongestionControl>,
    /// Connections of all hosts at most, one for each of their queues; further ones are refused [default: 4096]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    max_connections: Option<u32>,
    /// Memory of each reactor for data of writes, and as much again for data of reads; commands wait when it is used
    /// up, and one connection has a quarter of it at most [default: 32MiB]
    #[arg(long, value_name = "SIZE", value_parser = data_memory)]
    data_memory: Option<usize>,
    /// Directory for what outlives `serve`: reservations that hosts made to persist (docs/sharing.md). Use the same one each
    /// time; without one no reservation survives a restart
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// `--poll`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum PollArg {
    /// Spin while the next command is expected soon, or notably sooner than after a sleep, and sleep otherwise
    #[default]
    Adaptive,
    /// Never sleep: the lowest latency, and CPUs that are always busy
    Always,
    /// Never spin: the least CPU time
    Never,
}

impl From<PollArg> for Poll {
    fn from(argument: PollArg) -> Self {
        match argument {
            PollArg::Adaptive => Poll::Adaptive,
            PollArg::Always => Poll::Always,
            PollArg::Never => Poll::Never,
        }
    }
}

impl Serve {
    /// Serves until a signal.
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let checked = self.wanted().and_then(|wanted| {
            let access = wanted.check(&[], &self.addresses())?;
            Ok((wanted, access, self.reactors()?))
        });
        let (wanted, access, reactors) = match checked {
            Ok(checked) => checked,
            Err(problem) => {
                eprintln!("error: {}", output::explain(&problem));
                return Ok(Exit::Usage);
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let result = runtime.block_on(self.serve(wanted, access, reactors));
        // A start that was interrupted may go on in a thread of its own; nobody waits for it.
        runtime.shutdown_background();
        result
    }

    fn wanted(&self) -> anyhow::Result<Wanted> {
        let devices = if self.device.is_empty() { vec!["emulated".parse()?] } else { self.device.clone() };
        Ok(Wanted { devices, terms: self.terms.clone() })
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        if self.listen.is_empty() {
            vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)]
        } else {
            self.listen.clone()
        }
    }

    fn reactors(&self) -> anyhow::Result<Vec<usize>> {
        let allowed = cpus::allowed()?;
        let Some(CpuList(wanted)) = &self.reactors else {
            return Ok(allowed.0.last().copied().into_iter().collect());
        };
        if let Some(missing) = wanted.iter().find(|cpu| !allowed.0.contains(cpu)) {
            bail!("--reactors: this process may not run on CPU {missing}; it may on {allowed}");
        }
        Ok(wanted.clone())
    }

    async fn serve(&self, wanted: Wanted, access: Access, reactors: Vec<usize>) -> anyhow::Result<Exit> {
        // Before anything is started, so that no signal can end the program in the middle.
        let mut signals = Signals::listen()?;
        let control = control::Listener::open(self.control.as_deref())?;
        let (target, site, lines) = tokio::select! {
            started = self.start(wanted, access, reactors) => started?,
            name = signals.next() => {
                tracing::info!("{name}: ending before the start was complete");
                return Ok(Exit::Success);
            }
        };
        let mut lines = lines.iter();
        let announced = lines
            .try_for_each(|Line { nqn, what }| announce(nqn.as_str(), what, target.addresses()))
            .context("cannot say that the target is ready");
        if announced.is_ok() {
            let asked = async {
                match control {
                    Some(control) => control.serve(Arc::clone(&site)).await,
                    None => std::future::pending().await,
                }
            };
            let name = tokio::select! {
                name = signals.next() => name,
                never = asked => match never {},
            };
            tracing::info!("{name}: ending in order; a second signal ends at once");
        }
        let end = async {
            // What is being added or removed is in place, or gone.
            let mut not_in_order = site.end().await;
            not_in_order.extend(target.shutdown().await);
            not_in_order
        };
        // Pinned out here, because dropping it would wait for the drives' threads.
        let mut end = std::pin::pin!(end);
        let not_in_order = tokio::select! {
            not_in_order = &mut end => not_in_order,
            name = signals.next() => {
                eprintln!("error: {name} came while the drives were shut down: they are left as they are");
                // Threads that wait for a drive would hold up any other end. The kernel takes the drives' memory away.
                std::process::exit(Exit::NotInOrder.code().into());
            }
        };
        announced?;
        if not_in_order.is_empty() {
            return Ok(Exit::Success);
        }
        eprintln!(
            "error: not shut down in order: {}; what was in a volatile write cache may be lost",
            not_in_order.join(", ")
        );
        Ok(Exit::NotInOrder)
    }

    /// Starts the drives and the target. What there is to say of its exports comes with it.
    async fn start(
        &self,
        wanted: Wanted,
        access: Access,
        reactors: Vec<usize>,
    ) -> anyhow::Result<(Target, Arc<Site>, Vec<Line>)> {
        let domain = DmaDomain::new();
        let settings = DriveSettings {
            reactors: reactors.len() as u16,
            // Who never sleeps need not be woken.
            interrupts: !matches!(self.poll, PollArg::Always),
        };
        let (mut drives, mut members): (Vec<Drive>, Vec<Member>) = Default::default();
        let (numbers, leaving) = (Numbers::default(), Leaving::new());
        for device in &wanted.devices {
            let number = numbers.take();
            let options = settings.options(wanted.terms.prp);
            let say = |text: &str| eprintln!("{text}");
            let started =
                drives::start(number.index(), device.clone(), &domain, options, &leaving, say).await?;
            members.push(Member { number, device: device.clone(), info: Arc::clone(started.info()) });
            drives.extend(started.take());
        }
        let exports = wanted.exports(&members, &[], &access)?;
        let max_connections =
            self.max_connections(files::allowed(), other_files(drives.len(), reactors.len()));
        let all: Vec<&Member> = members.iter().collect();
        let lines: Vec<Line> = exports.iter().map(|export| Line::of(export, &all)).collect();
        let usual = ReactorConfig::default();
        let data_memory = self.data_memory.unwrap_or(usual.data_memory);
        let config = TargetConfig {
            reactors,
            reactor: ReactorConfig { poll: self.poll.into(), data_memory, ..usual },
            listen: self.addresses(),
            max_connections,
            congestion_control: self.congestion_control.clone().unwrap_or_default(),
            state: self.state.clone(),
        };
        let target = Target::start(config, &domain, drives, exports).await?;
        let addresses = target.addresses().to_vec();
        let served = (numbers, members, leaving);
        let site = Site::new(target.handle(), domain, settings, wanted.terms, addresses, served);
        Ok((target, Arc::new(site), lines))
    }

    /// As many as are wanted, and as there may be open files: `allowed`, of which `others` are not connections.
    fn max_connections(&self, allowed: u64, others: u64) -> usize {
        let possible = possible_connections(self.max_connections.unwrap_or(MAX_CONNECTIONS), allowed, others);
        if let Some(wanted) = self.max_connections.filter(|wanted| *wanted > possible) {
            tracing::warn!(
                "--max-connections {wanted}: no more than {possible} are possible, since {allowed} files may be open: \
                 raise the limit (`ulimit -Hn`)"
            );
        }
        possible as usize
    }
}

/// The signals that ask the program to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?,
        })
    }

    /// Waits for the next one; its name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Open files that are not connections that hosts have made, with room to spare: of each drive what it is opened by,
/// and an event for its admin queue and each reactor; connections that have not said yet whose they are.
fn other_files(drives: usize, reactors: usize) -> u64 {
    /// As many connections the target lets wait that nobody knows yet.
    const STRANGERS: u64 = 256;
    const REST: u64 = 64;
    drives as u64 * (reactors as u64 + 4) + STRANGERS + REST
}

/// How many of the `wanted` connections there can be. One host with one queue needs two.
fn possible_connections(wanted: u32, allowed: u64, others: u64) -> u32 {
    let room = allowed.saturating_sub(others).max(2);
    wanted.min(u32::try_from(room).unwrap_or(u32::MAX))
}

fn data_memory(text: &str) -> Result<usize, String> {
    /// As much as one command can transfer.
    const LEAST: usize = 1 << 20;
    let size = units::parse_size(text)?;
    usize::try_from(size).ok().filter(|size| *size >= LEAST).ok_or_else(|| "1MiB is the least".to_owned())
}

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    text.parse().or_else(|_| bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT))).map_err(|_| {
        "expected an IP address, with or without a port, such as 192.0.2.7:4420 or [::1]:4420".to_owned()
    })
}

#[cfg(test)]
pub(crate) mod tests;
