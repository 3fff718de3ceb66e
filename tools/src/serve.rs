//! `gangway serve`.

mod exports;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use gangway_bridge::policy::table::Class;
use gangway_bridge::policy::{HostPolicies, Item, Policy};
use gangway_bridge::{
    Access, Drive, DriveInfo, ExportConfig, Identifiers, Limit, Limits, Poll, ReactorConfig, Selection,
    Subject, Target, TargetConfig,
};
use gangway_driver::address::DeviceAddress;
use gangway_driver::controller::Options;
use gangway_driver::dma::DmaDomain;
use gangway_driver::emulated::Backing;
use gangway_driver::queue::DataPointers;
use gangway_fabric::congestion::CongestionControl;
use gangway_spec::fabrics::Nqn;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::exports::{ExportArg, Named};
use crate::control;
use crate::cpus::{self, CpuList};
use crate::exit::Exit;
use crate::perf::units;
use crate::{files, output};

/// The port that IANA assigned to NVMe over TCP.
const PORT: u16 = 4420;
/// I/O queues that one host may have at most.
const MAX_IO_QUEUES: u16 = 64;
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
    /// NQN to export a drive as; once for each --device, in the same order [default: from the drive's serial number]
    #[arg(long, value_name = "NQN", conflicts_with = "export")]
    nqn: Vec<Nqn>,
    /// What hosts see under one name, in place of each drive under its own: `nqn=NQN,ns=NSID=DRIVE/NSID,...` for namespaces,
    /// each with the NSID that hosts use, or `nqn=NQN,drive=DRIVE` for a whole drive; may be given several times. DRIVE is
    /// the place of a --device, from 1, a PCI address or a serial number. With `host=NQN`, which may be given several times,
    /// these hosts may connect to it instead of those that --allow-host names; with `read-only`, what changes data is refused;
    /// `derive-ids` is --derive-ids for it alone
    #[arg(long, value_name = "EXPORT")]
    export: Vec<ExportArg>,
    /// Let the host with this NQN connect, and no other that is not named
    #[arg(long, value_name = "NQN", conflicts_with = "allow_any_host")]
    allow_host: Vec<Nqn>,
    /// Let any host connect that reaches the address
    #[arg(long)]
    allow_any_host: bool,
    /// Refuse every command that changes data
    #[arg(long)]
    read_only: bool,
    /// Give namespaces identifiers (a UUID) of the export's own instead of the drive's, so that a host can have the drive itself,
    /// or the same namespace by another export, as well
    #[arg(long)]
    derive_ids: bool,
    /// What hosts may do besides I/O and looking at the drive: classes (`tune`: features, self-test, telemetry; `firmware`;
    /// `vendor`: vendor commands; `manage`: formats, namespaces, sanitize, security, write protection), or single ones, such as `admin:14h`,
    /// `feature:06h`, `log:07h`
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    allow: Vec<Item>,
    /// What of that hosts may not do
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    refuse: Vec<Item>,
    /// What one host may do instead of what --allow says, such as `nqn.2014-08.org.example:admin=tune,firmware`
    #[arg(long, value_name = "NQN=WHAT", value_parser = host_policy)]
    allow_for: Vec<(Nqn, Vec<Item>)>,
    /// What a host or a namespace may have in a second: `host=iops=50k,bandwidth=500MiB` for each host, `host:NQN=...` for one,
    /// `namespace=...` or `namespace:NSID=...` for all hosts together; with `,burst=1s` as much as that is saved up
    #[arg(long, value_name = "WHOSE=LIMIT", value_parser = Limits::parse_rule)]
    limit: Vec<(Subject, Limit)>,
    /// Socket by which `gangway status`, `top` and `limit` reach this server; only its user may open it
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
    /// Name memory to drives by PRPs alone, for a drive that offers SGLs and fails with them
    #[arg(long)]
    prp: bool,
}

/// `--poll`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum PollArg {
    /// Spin while the next command is expected soon, sleep otherwise
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
        let checked = self.check_names().and_then(|()| self.check_devices()).and_then(|()| {
            self.check_exports()?;
            Ok((Rights { access: self.access()?, policies: self.policies()? }, self.reactors()?))
        });
        let (rights, reactors) = match checked {
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
        let result = runtime.block_on(self.serve(rights, reactors));
        // A start that was interrupted may go on in a thread of its own; nobody waits for it.
        runtime.shutdown_background();
        result
    }

    /// Names that no export can have.
    fn check_names(&self) -> anyhow::Result<()> {
        if self.nqn.len() > self.device.len().max(1) {
            bail!("more --nqn than --device: each drive is exported once");
        }
        for (index, nqn) in self.nqn.iter().enumerate() {
            if nqn.is_discovery() {
                bail!(
                    "--nqn {nqn}: that is the name of the discovery subsystem, which every target has; choose another"
                );
            }
            if self.nqn[..index].contains(nqn) {
                bail!("--nqn {nqn} is given twice: each drive needs a name of its own");
            }
        }
        Ok(())
    }

    /// Exports that name no drive there can be, and drives that none of them names.
    fn check_exports(&self) -> anyhow::Result<()> {
        if self.export.is_empty() {
            return Ok(());
        }
        let devices = self.devices()?;
        let drives: Vec<Named<'_>> = devices.iter().map(|device| Named { device, serial: None }).collect();
        let mut named = Vec::new();
        for (index, export) in self.export.iter().enumerate() {
            if self.export[..index].iter().any(|other| other.nqn == export.nqn) {
                bail!("--export nqn={} is given twice: each export needs a name of its own", export.nqn);
            }
            named.extend(export.drives(&drives)?);
        }
        // One may be named by its serial number, which is not known yet.
        if !named.contains(&None)
            && let Some(unused) = (0..devices.len()).find(|index| !named.contains(&Some(*index)))
        {
            bail!("--device {}: no --export names it", devices[unused]);
        }
        Ok(())
    }

    fn devices(&self) -> anyhow::Result<Vec<DeviceAddress>> {
        Ok(if self.device.is_empty() { vec!["emulated".parse()?] } else { self.device.clone() })
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        if self.listen.is_empty() {
            vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)]
        } else {
            self.listen.clone()
        }
    }

    /// A drive that moves no data leaves in a buffer what the last command put there, which must not be another
    /// drive's data: that of other hosts.
    fn check_devices(&self) -> anyhow::Result<()> {
        let is_null = |device: &&DeviceAddress| matches!(device, DeviceAddress::Emulated(config) if config.backing == Backing::Null);
        let nulls = self.device.iter().filter(is_null).count();
        if nulls > 0 && nulls < self.device.len() {
            bail!(
                "a drive that is `null` moves no data, so its reads could show what other drives hold: serve it in a \
                 process of its own"
            );
        }
        Ok(())
    }

    /// Who may connect. Beyond loopback nobody may unless the operator says who.
    fn access(&self) -> anyhow::Result<Access> {
        if !self.allow_host.is_empty() {
            let hosts: BTreeSet<String> = self.allow_host.iter().map(|nqn| nqn.to_string()).collect();
            return Ok(Access::Hosts(hosts));
        }
        if !self.export.is_empty() && self.export.iter().all(|export| !export.hosts.is_empty()) {
            // Nobody that no export names.
            return Ok(Access::Hosts(BTreeSet::new()));
        }
        let exposed = self.addresses().into_iter().find(|address| !address.ip().to_canonical().is_loopback());
        match exposed {
            Some(address) if !self.allow_any_host => bail!(
                "{address} can be reached from other machines: name the hosts that may connect with --allow-host NQN, or in \
                 each --export with host=NQN (`cat /etc/nvme/hostnqn` there), or say --allow-any-host"
            ),
            _ => Ok(Access::AnyHost),
        }
    }

    /// What hosts may do besides I/O.
    fn policies(&self) -> anyhow::Result<HostPolicies> {
        let policy = |allow: &[Item]| {
            let allow = allow.iter().copied().chain([Item::Class(Class::Inspect)]);
            Policy::new(allow, self.refuse.iter().copied())
        };
        let mut policies = HostPolicies::all(policy(&self.allow));
        for (host, allow) in &self.allow_for {
            let named = self.allow_host.contains(host)
                || self.export.iter().any(|export| export.hosts.contains(host.as_str()));
            if !self.allow_host.is_empty() && !named {
                bail!("--allow-for {host}: this host may not connect, as no --allow-host names it");
            }
            policies.name(host, policy(allow));
        }
        let read_only = self.read_only || self.export.iter().any(|export| export.read_only);
        if read_only && policies.change_data() {
            bail!("read-only contradicts the classes manage and vendor: their commands may change data");
        }
        Ok(policies)
    }

    fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        for (subject, limit) in &self.limit {
            limits.set(subject.clone(), *limit);
        }
        limits
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

    async fn serve(&self, rights: Rights, reactors: Vec<usize>) -> anyhow::Result<Exit> {
        // Before anything is started, so that no signal can end the program in the middle.
        let mut signals = Signals::listen()?;
        let control = control::Listener::open(self.control.as_deref())?;
        let target = tokio::select! {
            started = self.start(rights, reactors) => started?,
            name = signals.next() => {
                tracing::info!("{name}: ending before the start was complete");
                return Ok(Exit::Success);
            }
        };
        let announced = target.announced.context("cannot say that the target is ready");
        if announced.is_ok() {
            let asked = async {
                match control {
                    Some(control) => control.serve(target.target.handle()).await,
                    None => std::future::pending().await,
                }
            };
            let name = tokio::select! {
                name = signals.next() => name,
                never = asked => match never {},
            };
            tracing::info!("{name}: ending in order; a second signal ends at once");
        }
        // Pinned out here, because dropping it would wait for the drives' threads.
        let mut shutdown = std::pin::pin!(target.target.shutdown());
        let not_in_order = tokio::select! {
            not_in_order = &mut shutdown => not_in_order,
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

    async fn start(&self, rights: Rights, reactors: Vec<usize>) -> anyhow::Result<Started> {
        let domain = DmaDomain::new();
        let devices = self.devices()?;
        let mut drives = Vec::new();
        for (index, device) in devices.iter().enumerate() {
            // Who never sleeps need not be woken.
            let options = Options {
                io_queues_wanted: reactors.len() as u16,
                interrupts: !matches!(self.poll, PollArg::Always),
                data_pointers: if self.prp { DataPointers::Prp } else { DataPointers::Auto },
                ..Options::default()
            };
            drives.push(start(index, device.clone(), &domain, options).await?);
        }
        let exports = self.exports(&devices, &drives, &rights)?;
        let max_connections =
            self.max_connections(files::allowed(), other_files(drives.len(), reactors.len()));
        let lines: Vec<Line> = exports.iter().map(|export| Line::of(export, &drives)).collect();
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
        let announced = announce(&lines, target.addresses());
        Ok(Started { target, announced })
    }

    /// What is to be exported: what --export says, or each drive under a name of its own.
    fn exports(
        &self,
        devices: &[DeviceAddress],
        drives: &[Drive],
        rights: &Rights,
    ) -> anyhow::Result<Vec<ExportConfig>> {
        let config = |nqn, namespaces, (read_only, derive_ids), hosts: &BTreeSet<String>| ExportConfig {
            nqn,
            namespaces,
            identifiers: if derive_ids { Identifiers::Derived } else { Identifiers::Own },
            access: if hosts.is_empty() { rights.access.clone() } else { Access::Hosts(hosts.clone()) },
            policies: rights.policies.clone(),
            limits: self.limits(),
            read_only,
            max_io_queues: MAX_IO_QUEUES,
        };
        if self.export.is_empty() {
            let each = drives.iter().enumerate().map(|(index, drive)| {
                let nqn = self.nqn.get(index).cloned().map_or_else(|| default_nqn(drive.info()), Ok)?;
                Ok(config(nqn, Selection::Drive(index), (self.read_only, self.derive_ids), &BTreeSet::new()))
            });
            return each.collect();
        }
        let serial = |drive: &Drive| Some(drive.info().identify.serial().into_owned());
        let known: Vec<Named<'_>> = devices
            .iter()
            .zip(drives)
            .map(|(device, drive)| Named { device, serial: serial(drive) })
            .collect();
        let each = self.export.iter().map(|export| {
            let namespaces =
                export.selection(&known).with_context(|| format!("--export nqn={}", export.nqn))?;
            let settings = (self.read_only || export.read_only, self.derive_ids || export.derive_ids);
            Ok(config(export.nqn.clone(), namespaces, settings, &export.hosts))
        });
        each.collect()
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

/// What is said of an export.
struct Line {
    nqn: Nqn,
    what: String,
}

impl Line {
    fn of(export: &ExportConfig, drives: &[Drive]) -> Self {
        let mut what = match &export.namespaces {
            Selection::Drive(drive) => {
                drives.get(*drive).map_or_else(String::new, |drive| describe(drive.info()))
            }
            Selection::Namespaces(mappings) => {
                let each = mappings.iter().map(|one| {
                    let drive = drives.get(one.drive).map_or("", |drive| drive.info().name.as_str());
                    format!("namespace {} is {} of {drive}", one.nsid, one.drive_nsid)
                });
                each.collect::<Vec<_>>().join(", ")
            }
        };
        if export.read_only {
            what.push_str(", read-only");
        }
        Self { nqn: export.nqn.clone(), what }
    }
}

fn announce(exports: &[Line], addresses: &[SocketAddr]) -> io::Result<()> {
    for Line { nqn, what } in exports {
        for address in addresses {
            let (ip, port) = (shown(address.ip()), address.port());
            output::print(&format!("Ready: {nqn} at {address} ({what})"))?;
            output::print(&format!("  nvme connect -t tcp -a {ip} -s {port} -n {nqn}"))?;
        }
    }
    Ok(())
}

/// What hosts may.
struct Rights {
    access: Access,
    policies: HostPolicies,
}

/// A target that runs, and whether that could be said on standard output.
struct Started {
    target: Target,
    announced: io::Result<()>,
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

/// `NQN=WHAT,WHAT`: names have no `=`, or what follows the last one is no list.
fn host_policy(text: &str) -> Result<(Nqn, Vec<Item>), String> {
    let (host, items) =
        text.rsplit_once('=').ok_or("write NQN=WHAT, as in nqn.2014-08.org.example:admin=tune")?;
    let host = host.parse::<Nqn>().map_err(|error| error.to_string())?;
    let items = items.split(',').filter(|item| !item.is_empty()).map(str::parse);
    let items = items
        .collect::<Result<_, _>>()
        .map_err(|error: gangway_bridge::policy::ItemError| error.to_string())?;
    Ok((host, items))
}

/// Opens a device and starts its controller, saying so when it takes long.
async fn start(
    index: usize,
    device: DeviceAddress,
    domain: &DmaDomain,
    options: Options,
) -> anyhow::Result<Drive> {
    let name = device.to_string();
    let domain = domain.clone();
    let mut starting = tokio::task::spawn_blocking(move || {
        let open = move || device.open(&domain).map_err(Into::into);
        anyhow::Ok(Drive::start(index, Box::new(open), options)?)
    });
    let mut seconds = 0;
    loop {
        tokio::select! {
            started = &mut starting => {
                let started = started.context("the start was interrupted")?;
                return started.map_err(|error| cannot_export(&name, error));
            }
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                seconds += 1;
                eprintln!("{name}: waiting for the controller to get ready ({seconds} s)");
            }
        }
    }
}

/// Says which drive it is about, unless the error says so itself.
fn cannot_export(name: &str, error: anyhow::Error) -> anyhow::Error {
    let bare = name.strip_prefix("pci:").unwrap_or(name);
    if error.to_string().contains(bare) {
        error.context("cannot export a drive")
    } else {
        error.context(format!("cannot export {name}"))
    }
}

/// A name that stays the same over restarts and machines: made of the drive's serial number.
fn default_nqn(info: &DriveInfo) -> anyhow::Result<Nqn> {
    let serial = info.identify.serial();
    let clean: String =
        serial.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect();
    if clean.is_empty() {
        bail!("{}: the drive has no serial number to make an NQN of; give one with --nqn", info.name);
    }
    format!("nqn.2026-11.io.gangway:{clean}").parse().context("cannot make an NQN of the serial number")
}

fn describe(info: &DriveInfo) -> String {
    let bytes: u64 = info
        .namespaces
        .iter()
        .filter_map(|namespace| {
            namespace.identify.nsze.get().checked_mul(namespace.identify.block_size()?.into())
        })
        .sum();
    let count = info.namespaces.len();
    let plural = if count == 1 { "" } else { "s" };
    let model = output::printable(&info.identify.model());
    format!("{}, {model}, {} in {count} namespace{plural}", info.name, output::size(bytes))
}

/// The address to type: a wildcard stands for whatever address the host reaches this machine by.
fn shown(ip: IpAddr) -> String {
    if ip.is_unspecified() { "ADDRESS".to_owned() } else { ip.to_string() }
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
mod tests;
