//! What a process that serves may have: memory, files, nodes; and settings of the machine that cost speed.

use gangway_bridge::ReactorConfig;
use rustix::{
    process::{Resource, getrlimit},
    thread::CapabilitySet,
};

use super::Finding;
use crate::{
    binding::Machine,
    output,
    sysfs::{Roots, attribute, number},
};

/// Memory of a drive itself: its queues, their lists, and what admin commands carry.
const MEMORY_OF_A_DRIVE: u64 = 8 << 20;
/// Files of a server without connections, generously.
const OTHER_FILES: u64 = 256;
/// Connections that `serve` allows unless told otherwise.
const CONNECTIONS: u64 = 4096;

/// What the kernel allows this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes that may be locked; `None`: any number.
    pub(super) locked: Option<u64>,
    /// Files that may be open; `None`: any number.
    pub(super) files: Option<u64>,
}

impl Limits {
    pub(super) fn of_this_process() -> Self {
        let exempt = rustix::thread::capabilities(None)
            .is_ok_and(|capabilities| capabilities.effective.contains(CapabilitySet::IPC_LOCK));
        Self {
            locked: if exempt { None } else { getrlimit(Resource::Memlock).current },
            files: getrlimit(Resource::Nofile).maximum,
        }
    }
}

/// Memory that `serve` locks with one reactor, as it does when not told otherwise.
fn needed(drives: usize) -> u64 {
    let reactor = ReactorConfig::default();
    let bytes = 2 * reactor.data_memory + reactor.receive_chunk * reactor.receive_chunks;
    bytes as u64 + drives.max(1) as u64 * MEMORY_OF_A_DRIVE
}

pub(super) fn findings(
    roots: &Roots,
    machine: &mut dyn Machine,
    limits: &Limits,
    drives: usize,
) -> Vec<Finding> {
    let mut found = vec![huge_pages(roots, drives), locked_memory(limits, drives), files(limits)];
    found.extend(container(roots, machine));
    found.extend(congestion_control(roots));
    found.extend(governor(roots));
    found
}

fn huge_pages(roots: &Roots, drives: usize) -> Finding {
    let subject = "huge pages";
    let info = attribute(&roots.proc.join("meminfo")).unwrap_or_default();
    let value = |name: &str| -> u64 {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    let (total, free, size) =
        (value("HugePages_Total"), value("HugePages_Free"), value("Hugepagesize") << 10);
    let wanted = needed(drives).div_ceil(size.max(1 << 20));
    let text = if total == 0 {
        "none: ordinary pages are used, which cost the IOMMU more look-ups".to_owned()
    } else if free < wanted {
        format!("{free} of {total} are free, {wanted} are needed: ordinary pages are used beside them")
    } else {
        return Finding::ok(subject, format!("{free} of {total} are free ({})", output::size(free * size)));
    };
    let remedy = format!(
        "echo {} > /proc/sys/vm/nr_hugepages (vm.nr_hugepages in /etc/sysctl.d to keep it)",
        total - free + wanted
    );
    Finding::warning(subject, text).remedy(remedy)
}

fn locked_memory(limits: &Limits, drives: usize) -> Finding {
    let subject = "locked memory";
    let needed = needed(drives);
    match limits.locked {
        None => Finding::ok(subject, "no limit"),
        Some(limit) if limit >= needed => Finding::ok(
            subject,
            format!("{} MiB; some {} MiB are needed with one reactor", limit >> 20, needed >> 20),
        ),
        Some(limit) => Finding::problem(
            subject,
            format!(
                "this user may lock {} MiB; some {} MiB are needed with one reactor and its usual memory",
                limit >> 20,
                needed >> 20
            ),
        )
        .remedy(format!(
            "`ulimit -l {}` (memlock in /etc/security/limits.conf, LimitMEMLOCK in a systemd unit), or less with \
             --data-memory, or run as root",
            needed >> 10
        )),
    }
}

fn files(limits: &Limits) -> Finding {
    let subject = "open files";
    let wanted = CONNECTIONS + OTHER_FILES;
    match limits.files {
        None => Finding::ok(subject, "no limit"),
        Some(limit) if limit >= wanted => Finding::ok(subject, format!("{limit} are allowed")),
        Some(limit) => Finding::warning(
            subject,
            format!(
                "{limit} are allowed: each queue of a host is one, so no more than {} connections",
                limit.saturating_sub(OTHER_FILES)
            ),
        )
        .remedy(format!(
            "`ulimit -n {wanted}` (nofile in /etc/security/limits.conf, LimitNOFILE in a systemd unit)"
        )),
    }
}

/// The node that every user of VFIO needs.
fn container(roots: &Roots, machine: &mut dyn Machine) -> Option<Finding> {
    let node = roots.dev.join("vfio/vfio");
    // Without the module there is none, and binding loads it.
    if !node.exists() || machine.may_open(&node) {
        return None;
    }
    let text = format!("this user may not open {}, without which no drive can be served", node.display());
    Some(
        Finding::problem("VFIO", text)
            .remedy(format!("chmod 666 {} (as udev's own rules have it)", node.display())),
    )
}

/// What this project has measured, and no more: docs/performance.md.
fn congestion_control(roots: &Roots) -> Option<Finding> {
    let name = attribute(&roots.proc.join("sys/net/ipv4/tcp_congestion_control"))?;
    (name == "bbr").then(|| {
        let text = "TCP uses bbr, which paces what is sent: on loopback and short networks a third less throughput \
                    than with cubic at 128 KiB";
        Finding::warning("network", text).remedy("sysctl net.ipv4.tcp_congestion_control=cubic")
    })
}

/// A clock that goes up only under long load is slow for short work; drivers that manage it themselves do well.
fn governor(roots: &Roots) -> Option<Finding> {
    let policy = roots.sys.join("devices/system/cpu/cpu0/cpufreq");
    let governor = attribute(&policy.join("scaling_governor"))?;
    let driver = attribute(&policy.join("scaling_driver")).unwrap_or_default();
    let manages_itself = driver.starts_with("intel_pstate") || driver.starts_with("amd-pstate");
    let cpus: u32 = number(&policy.join("cpuinfo_max_freq")).unwrap_or(0) / 1000;
    (governor == "powersave" && !manages_itself).then(|| {
        let text = format!(
            "the CPUs stay at their lowest clock (governor powersave; up to {cpus} MHz are possible)"
        );
        Finding::warning("CPU clock", text).remedy("cpupower frequency-set -g performance")
    })
}
