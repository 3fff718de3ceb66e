//! What connections cost that are not in use: memory, and CPU time.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use gangway_fabric::pdu::DigestFlags;
use serde::Serialize;

use super::children::Running;
use crate::device::{Address, resolve};
use crate::output;
use crate::perf::cpu::ProcessClock;
use crate::perf::queue::{QueueShape, Session};
use crate::perf::run::Load;
use crate::perf::tcp::{HostOptions, TcpSession};
use crate::perf::units::{grouped, time};

/// Commands that a queue can have outstanding: those of Linux, with 128 entries.
const DEPTH: u16 = 127;
/// What hosts ask for, as Linux does.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long a target may take to give memory back.
const GIVE_BACK: Duration = Duration::from_secs(10);

/// What was measured.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Idle {
    pub(super) device: String,
    /// I/O queues.
    pub(super) connections: usize,
    /// Admin queues, one for each association.
    pub(super) admin_connections: usize,
    pub(super) seconds: f64,
    /// The part of one CPU that the target's threads used.
    pub(super) cpu: f64,
    /// Bytes of the target's memory that are in RAM, but for its program: without connections, with them, and after
    /// they have gone.
    pub(super) resident_before: u64,
    pub(super) resident: u64,
    pub(super) resident_after: u64,
    /// Bytes that each connection added, admin queues among them.
    pub(super) memory_per_connection: u64,
    /// Bytes that the kernel keeps for each connection's data, at both ends. What else a socket takes there, some
    /// kilobytes, no statistics tell.
    pub(super) kernel_memory_per_connection: u64,
}

impl Idle {
    /// Opens connections to a target, and looks at it while nothing happens on them but what keeps them alive.
    ///
    /// # Errors
    /// The connections cannot be made, or are lost.
    pub(super) fn measure(
        name: &str,
        running: &Running,
        connections: usize,
        duration: Duration,
    ) -> anyhow::Result<Self> {
        let Address::Tcp { target, subsystem } = &running.device else { bail!("a target is wanted") };
        let host = HostOptions {
            nqn: None,
            flow_control: true,
            digests: DigestFlags::empty(),
            keep_alive: KEEP_ALIVE,
        };
        let (resident_before, kernel_before) = (resident(running.pid)?, kernel_memory()?);
        let mut session = TcpSession::open(resolve(target)?, subsystem, 0, &host)?;
        let shape = QueueShape { depth: DEPTH, unit_bytes: 4096, keep_data: false };
        let queues = session.queues(connections, shape)?;
        let clock = ProcessClock::of(running.pid)?;
        // What setting them up takes is no part of it.
        thread::sleep(Duration::from_millis(500));
        let (begin, before) = (Instant::now(), clock.read()?);
        while begin.elapsed() < duration {
            session.keep_alive().context("a connection was lost")?;
            let left = duration.saturating_sub(begin.elapsed());
            thread::sleep(left.min(KEEP_ALIVE / 2));
        }
        let load = Load::of(clock.read()?.since(&before), begin.elapsed());
        let seconds = begin.elapsed().as_secs_f64();
        let (resident_with, kernel) = (resident(running.pid)?, kernel_memory()?);
        let admin_connections = session.associations();
        let all = (connections + admin_connections) as u64;
        session.close(queues)?;
        let memory_per_connection = resident_with.saturating_sub(resident_before) / all;
        let gone = Instant::now();
        let given_back = |now: u64| now <= resident_before + resident_before / 10;
        while !given_back(resident(running.pid)?) && gone.elapsed() < GIVE_BACK {
            thread::sleep(Duration::from_millis(200));
        }
        Ok(Self {
            device: name.to_owned(),
            connections,
            admin_connections,
            seconds,
            cpu: load.cpu,
            resident_before,
            resident: resident_with,
            resident_after: resident(running.pid)?,
            memory_per_connection,
            kernel_memory_per_connection: kernel.saturating_sub(kernel_before) / all,
        })
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let kib = |bytes: u64| format!("{} KiB", grouped(bytes as f64 / 1024.0));
        let rows = vec![
            vec![
                "CPU".to_owned(),
                format!("{:.3} % of one CPU over {}", self.cpu * 100.0, time(self.seconds * 1e9)),
            ],
            vec!["memory of each connection".to_owned(), kib(self.memory_per_connection)],
            vec!["the kernel's for its data".to_owned(), kib(self.kernel_memory_per_connection)],
            vec!["memory before".to_owned(), kib(self.resident_before)],
            vec!["with all connections".to_owned(), kib(self.resident)],
            vec!["after they have gone".to_owned(), kib(self.resident_after)],
        ];
        let (queues, admins) = (grouped(self.connections as f64), self.admin_connections);
        let title = format!("{}: {queues} idle connections, and {admins} admin queues", self.device);
        output::table(&[&title, ""], rows)
    }
}

/// Bytes of a process's memory that are in RAM, but for what it has of files: its program.
fn resident(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let kib = number_after(&text, "RssAnon:").zip(number_after(&text, "RssShmem:"));
    kib.map(|(own, shared)| (own + shared) << 10)
        .with_context(|| format!("{path} does not say what is in RAM"))
}

/// Bytes that the kernel has in use for TCP's data, of the whole machine.
fn kernel_memory() -> anyhow::Result<u64> {
    let path = "/proc/net/sockstat";
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let tcp = text.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = number_after(tcp, " mem ").with_context(|| format!("{path} has no memory of TCP"))?;
    Ok(pages * rustix::param::page_size() as u64)
}

fn number_after(text: &str, name: &str) -> Option<u64> {
    text.split_once(name)?.1.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_what_stands_before_them() {
        assert_eq!(number_after("VmRSS:\t 9 kB\nRssAnon:\t   1234 kB\n", "RssAnon:"), Some(1234));
        let line = "TCP: inuse 5 orphan 0 tw 2 alloc 7 mem 11";
        assert_eq!(number_after(line, " mem "), Some(11));
        assert_eq!(number_after(line, "VmRSS:"), None);
        assert!(resident(std::process::id()).unwrap() > 0);
    }
}
