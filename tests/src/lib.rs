//! What the end-to-end tests share: a target in this process with emulated drives, and hosts that connect to it.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use gangway_bridge::{Access, Drive, ExportConfig, ReactorConfig, Target, TargetConfig};
use gangway_driver::controller::Options as ControllerOptions;
use gangway_driver::dma::DmaDomain;
use gangway_driver::emulated::{EmulatedConfig, EmulatedFunction, EmulatedProbe};
use gangway_fabric::host::client::{AdminQueue, HostIdentity, IoQueue, Options};
use gangway_spec::fabrics::{HostId, Nqn};
use tokio::sync::oneshot;

/// How the target of a test differs from the usual one.
#[derive(Clone, Debug)]
pub struct Setup {
    /// One emulated drive each.
    pub drives: Vec<EmulatedConfig>,
    /// Reactors, all on the first CPU that is allowed: tests are about order, not speed.
    pub reactors: usize,
    /// Memory of each reactor.
    pub memory: ReactorConfig,
    /// Who may connect.
    pub access: Access,
    /// Refuse writes.
    pub read_only: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let drive = EmulatedConfig { size: 64 << 20, ..EmulatedConfig::default() };
        Self {
            drives: vec![drive],
            reactors: 1,
            memory: ReactorConfig { data_memory: 8 << 20, receive_chunks: 16, ..ReactorConfig::default() },
            access: Access::AnyHost,
            read_only: false,
        }
    }
}

/// A target in this process, served from a thread of its own until it is dropped.
pub struct TestTarget {
    /// Where it listens.
    pub address: SocketAddr,
    /// What its drives noticed.
    pub probes: Vec<EmulatedProbe>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TestTarget {
    /// Starts a target with one drive of 64 MiB.
    pub fn start() -> Self {
        Self::with(Setup::default())
    }

    /// Starts a target on a free port of the loopback address.
    ///
    /// # Panics
    /// When it does not start.
    pub fn with(setup: Setup) -> Self {
        let (started, wait) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let (target, probes) = start(setup).await;
                started.send((target.addresses()[0], probes)).expect("the test waits");
                let _ = stopped.await;
                target.shutdown().await;
            });
        });
        let (address, probes) = wait.recv().expect("the target starts");
        Self { address, probes, stop: Some(stop), thread: Some(thread) }
    }

    /// Connects a host by its number and enables its controller.
    ///
    /// # Panics
    /// When that fails.
    pub fn host(&self, number: u8) -> AdminQueue {
        self.host_with(number, 0, &Options::default())
    }

    /// Connects a host to a drive.
    ///
    /// # Panics
    /// When that fails.
    pub fn host_with(&self, number: u8, drive: usize, options: &Options) -> AdminQueue {
        let mut admin = AdminQueue::connect(self.address, &subsystem(drive), &identity(number), options)
            .expect("a connection");
        admin.enable().expect("the controller gets ready");
        admin
    }

    /// Connects a host and its I/O queue 1.
    ///
    /// # Panics
    /// When that fails.
    pub fn queue(&self, number: u8) -> (AdminQueue, IoQueue) {
        let mut admin = self.host(number);
        let queue = admin.connect_io(1).expect("an I/O queue");
        (admin, queue)
    }

    /// Asserts that the drives saw nothing that a drive must never see.
    ///
    /// # Panics
    /// When they did.
    pub fn assert_no_violations(&self) {
        for probe in &self.probes {
            assert_eq!(probe.violations(), 0, "the drive was given something that it must not be given");
        }
    }
}

impl Drop for TestTarget {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the target panicked");
        }
    }
}

async fn start(setup: Setup) -> (Target, Vec<EmulatedProbe>) {
    let domain = DmaDomain::new();
    let mut drives = Vec::new();
    let mut probes = Vec::new();
    for (index, config) in setup.drives.into_iter().enumerate() {
        let (function, probe) = EmulatedFunction::with_probe(config, &domain).expect("an emulated drive");
        let options =
            ControllerOptions { io_queues_wanted: setup.reactors as u16, ..ControllerOptions::default() };
        let drive = Drive::start(index, function, options).expect("the drive starts");
        let config = ExportConfig {
            nqn: subsystem(index),
            access: setup.access.clone(),
            read_only: setup.read_only,
            max_io_queues: 16,
        };
        drives.push((drive, config));
        probes.push(probe);
    }
    let config = TargetConfig {
        reactors: vec![0; setup.reactors],
        reactor: setup.memory,
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
    };
    let target = Target::start(config, &domain, drives).await.expect("the target starts");
    (target, probes)
}

/// The subsystem of drive number `drive`.
///
/// # Panics
/// Never: the name is valid.
pub fn subsystem(drive: usize) -> Nqn {
    format!("nqn.2014-08.org.example:drive-{drive}").parse().expect("a valid name")
}

/// Host number `number`.
///
/// # Panics
/// Never: the name is valid.
pub fn identity(number: u8) -> HostIdentity {
    let nqn = format!("nqn.2014-08.org.example:host-{number}").parse().expect("a valid name");
    HostIdentity { nqn, id: HostId([number; 16]) }
}

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within 20 seconds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}: not within 20 seconds");
}

/// Bytes that differ between places and rounds, so that a block that lands elsewhere, or stays old, is noticed.
pub fn pattern(lba: u64, round: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    let mut word = 0_u64;
    while bytes.len() < length {
        let seed = lba.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round.wrapping_mul(0xd134_2543_de82_ef95) ^ word;
        let mixed = (seed ^ seed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bytes.extend_from_slice(&(mixed ^ mixed >> 32).to_le_bytes());
        word += 1;
    }
    bytes.truncate(length);
    bytes
}
