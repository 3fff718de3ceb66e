//! What the end-to-end tests share: a target in this process with emulated drives, and hosts that connect to it.

pub mod conformance;
pub mod drive_check;
pub mod heap;
pub mod listening;
pub mod load;
pub mod meeting;
pub mod process;
pub mod system_calls;
pub mod wire;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use gangway_bridge::{
    Access, Drive, DriveEvent, DriveInfo, ExportConfig, HostPolicies, Identifiers, Limit, Limits,
    ReactorConfig, Selection, Subject, Target, TargetConfig,
};
use gangway_driver::controller::Options as ControllerOptions;
use gangway_driver::dma::DmaDomain;
use gangway_driver::emulated::{EmulatedConfig, EmulatedFunction, EmulatedProbe, FaultRule};
use gangway_fabric::congestion::CongestionControl;
use gangway_fabric::host::client::{AdminQueue, HostIdentity, IoQueue, Options, Transfer};
use gangway_spec::SubmissionQueueEntry;
use gangway_spec::fabrics::{HostId, Nqn};
use gangway_spec::feature::{HostBehaviorSupport, fid};
use gangway_spec::nvm::CopyRange;
use gangway_spec::opcode::{admin, nvm};
use tokio::sync::broadcast;
use zerocopy::IntoBytes;

/// How the target of a test differs from the usual one.
#[derive(Clone, Debug)]
pub struct Setup {
    /// One emulated drive each.
    pub drives: Vec<EmulatedConfig>,
    /// What each export shows, in place of one drive each.
    pub exports: Option<Vec<Selection>>,
    /// What is in the place of each of them after it was removed; `None`: it comes back itself.
    pub replacement: Option<EmulatedConfig>,
    /// Opening a drive again takes as long as somebody holds this.
    pub opening: Arc<Mutex<()>>,
    /// Reactors, all on the first CPU that is allowed: tests are about order, not speed.
    pub reactors: usize,
    /// Memory of each reactor.
    pub memory: ReactorConfig,
    /// Who may connect.
    pub access: Access,
    /// Refuse writes.
    pub read_only: bool,
    /// By what hosts tell namespaces apart.
    pub identifiers: Identifiers,
    /// What hosts may do besides I/O.
    pub policies: HostPolicies,
    /// What hosts and namespaces may have in a second.
    pub limits: Limits,
    /// I/O queues that one host may have.
    pub max_io_queues: u16,
    /// Connections that all hosts may have.
    pub max_connections: usize,
    /// Where to listen; port 0 takes any free port.
    pub listen: Vec<SocketAddr>,
    /// Where reservations are kept.
    pub state: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Self {
        let drive = EmulatedConfig { size: 64 << 20, ..EmulatedConfig::default() };
        Self {
            drives: vec![drive],
            exports: None,
            replacement: None,
            opening: Arc::default(),
            reactors: 1,
            memory: ReactorConfig { data_memory: 8 << 20, receive_chunks: 16, ..ReactorConfig::default() },
            access: Access::AnyHost,
            read_only: false,
            identifiers: Identifiers::Own,
            policies: HostPolicies::default(),
            limits: Limits::default(),
            max_io_queues: 16,
            max_connections: 4096,
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            state: None,
        }
    }
}

type Question = Box<dyn for<'a> FnOnce(&'a Target) -> Pin<Box<dyn Future<Output = ()> + 'a>> + Send>;

/// A target in this process, served from a thread of its own until it is dropped.
pub struct TestTarget {
    /// Where it listens first.
    pub address: SocketAddr,
    /// Everywhere that it listens.
    pub addresses: Vec<SocketAddr>,
    /// What its drives noticed.
    pub probes: Vec<EmulatedProbe>,
    /// What its drives say of themselves.
    pub infos: Vec<Arc<DriveInfo>>,
    events: Vec<broadcast::Receiver<DriveEvent>>,
    /// The memory that its drives reach.
    domain: DmaDomain,
    questions: Option<tokio::sync::mpsc::UnboundedSender<Question>>,
    thread: Option<JoinHandle<Vec<String>>>,
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
        let domain = DmaDomain::new();
        let memory = domain.clone();
        let (started, wait) = mpsc::channel();
        let (questions, mut asked) = tokio::sync::mpsc::unbounded_channel::<Question>();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let (target, probes, infos, events) = start(setup, memory).await;
                started.send((target.addresses().to_vec(), probes, infos, events)).expect("the test waits");
                while let Some(question) = asked.recv().await {
                    question(&target).await;
                }
                target.shutdown().await
            })
        });
        let (addresses, probes, infos, events) = wait.recv().expect("the target starts");
        let address = addresses[0];
        let (questions, thread) = (Some(questions), Some(thread));
        Self { address, addresses, probes, infos, events, domain, questions, thread }
    }

    /// Associations that the target has now.
    ///
    /// # Panics
    /// When the target has ended.
    pub fn associations(&self) -> usize {
        self.ask(|target| Box::pin(async { target.associations() }))
    }

    /// Limits a host or a namespace of all exports from now on.
    ///
    /// # Panics
    /// When the target has ended.
    pub fn set_limit(&self, subject: Subject, limit: Limit) {
        self.ask(move |target| {
            Box::pin(async move {
                target.handle().set_limit(None, subject, limit).await;
            })
        });
    }

    /// Has something done to the target where it runs; what came of it.
    ///
    /// # Panics
    /// When the target has ended.
    pub fn ask<T: Send + 'static>(
        &self,
        question: impl for<'a> FnOnce(&'a Target) -> Pin<Box<dyn Future<Output = T> + 'a>> + Send + 'static,
    ) -> T {
        let (answer, wait) = mpsc::channel();
        let question: Question = Box::new(move |target| {
            Box::pin(async move {
                let _ = answer.send(question(target).await);
            })
        });
        let asked = self.questions.as_ref().map(|questions| questions.send(question));
        assert!(matches!(asked, Some(Ok(()))), "the target has ended");
        wait.recv().expect("the target answers")
    }

    /// Adds a drive to the running target.
    ///
    /// # Panics
    /// When it does not start, or is not taken.
    pub fn add_drive(&self, index: usize, config: EmulatedConfig) -> EmulatedProbe {
        let (function, probe) =
            EmulatedFunction::with_probe(config, &self.domain).expect("an emulated drive");
        let mut function = Some(function);
        let open = Box::new(move || function.take().ok_or("it is not opened again".into()));
        let drive = Drive::start(index, open, ControllerOptions::default()).expect("the drive starts");
        self.ask(|target| Box::pin(target.add_drive(drive))).expect("the drive is taken");
        probe
    }

    /// What happens to a drive from the target's start on.
    pub fn events(&self, drive: usize) -> broadcast::Receiver<DriveEvent> {
        self.events[drive].resubscribe()
    }

    /// Shuts the target down in order and waits until that is done. Gives the drives that were not shut down in order.
    ///
    /// # Panics
    /// When the target panicked.
    pub fn shutdown(mut self) -> Vec<String> {
        self.questions = None;
        self.thread.take().map_or_else(Vec::new, |thread| thread.join().expect("the target panicked"))
    }

    /// Lets the target shut down without waiting for it. It takes long when a drive completes nothing.
    pub fn abandon(self) {
        std::thread::spawn(move || drop(self));
    }

    /// Connects a host by its number and enables its controller.
    ///
    /// # Panics
    /// When that fails.
    pub fn host(&self, number: u8) -> AdminQueue {
        self.host_with(number, 0, &Options::default())
    }

    /// Connects a host to a drive, or rather to the export of this number.
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
        self.questions = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the target panicked");
        }
    }
}

type Started = (Target, Vec<EmulatedProbe>, Vec<Arc<DriveInfo>>, Vec<broadcast::Receiver<DriveEvent>>);

async fn start(setup: Setup, domain: DmaDomain) -> Started {
    let exports = setup.exports.unwrap_or_else(|| (0..setup.drives.len()).map(Selection::Drive).collect());
    let mut drives = Vec::new();
    let mut probes = Vec::new();
    let mut infos = Vec::new();
    let mut events = Vec::new();
    for (index, config) in setup.drives.into_iter().enumerate() {
        let (function, probe) = EmulatedFunction::with_probe(config, &domain).expect("an emulated drive");
        let (again, domain, replacement) = (probe.clone(), domain.clone(), setup.replacement.clone());
        let opening = Arc::clone(&setup.opening);
        let mut function = Some(function);
        let open = Box::new(move || {
            if let Some(function) = function.take() {
                return Ok(function);
            }
            let _held = opening.lock();
            match &replacement {
                Some(config) => EmulatedFunction::new(config.clone(), &domain).map_err(Into::into),
                None => again.open(&domain).map_err(Into::into),
            }
        });
        let options =
            ControllerOptions { io_queues_wanted: setup.reactors as u16, ..ControllerOptions::default() };
        let drive = Drive::start(index, open, options).expect("the drive starts");
        infos.push(Arc::clone(drive.info()));
        events.push(drive.events());
        drives.push(drive);
        probes.push(probe);
    }
    let export = |(index, namespaces)| ExportConfig {
        nqn: subsystem(index),
        namespaces,
        access: setup.access.clone(),
        read_only: setup.read_only,
        policies: setup.policies.clone(),
        limits: setup.limits.clone(),
        identifiers: setup.identifiers,
        max_io_queues: setup.max_io_queues,
    };
    let exports = exports.into_iter().enumerate().map(export).collect();
    let config = TargetConfig {
        reactors: vec![0; setup.reactors],
        reactor: setup.memory,
        listen: setup.listen,
        max_connections: setup.max_connections,
        congestion_control: CongestionControl::default(),
        state: setup.state,
    };
    let target = Target::start(config, &domain, drives, exports).await.expect("the target starts");
    (target, probes, infos, events)
}

/// The name of export number `drive`: that of the drive, unless exports are others.
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

/// The command `opcode` for `blocks` logical blocks of namespace 1 from `lba` on.
pub fn command(opcode: u8, lba: u64, blocks: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.nsid.set(1);
    gangway_spec::nvm::set_slba(&mut entry, lba);
    gangway_spec::nvm::set_nlb(&mut entry, blocks);
    entry
}

/// Has a controller take these formats of Copy, as bits of OCFS (Host Behavior Support).
///
/// # Panics
/// When it does not.
pub fn enable_copy_formats(host: &mut AdminQueue, formats: u16) {
    let behavior = HostBehaviorSupport { cdfe: formats.into(), ..HostBehaviorSupport::default() };
    let mut set = SubmissionQueueEntry::new(admin::SET_FEATURES);
    set.cdw10.set(fid::HOST_BEHAVIOR_SUPPORT.into());
    let (done, _) = host.command(&set, Transfer::Write(behavior.as_bytes().into())).expect("an answer");
    assert!(done.status().is_success(), "{}", done.status());
}

/// A Copy to namespace `nsid` from its block `slba` on, of so many blocks (0's based) of these namespaces from a block on;
/// with its list.
pub fn copy_across(nsid: u32, slba: u64, sources: &[(u32, u64, u16)]) -> (SubmissionQueueEntry, Transfer) {
    let mut entry = SubmissionQueueEntry::new(nvm::COPY);
    entry.nsid.set(nsid);
    gangway_spec::nvm::set_slba(&mut entry, slba);
    entry.cdw12.set(2 << 8 | (sources.len() as u32 - 1));
    let range = |(snsid, slba, nlb): &(u32, u64, u16)| CopyRange {
        snsid: (*snsid).into(),
        slba: (*slba).into(),
        nlb: (*nlb).into(),
        ..CopyRange::default()
    };
    let list: Vec<_> = sources.iter().map(range).collect();
    (entry, Transfer::Write(list.as_bytes().into()))
}

/// How many commands drives see of those that `matching` names, as a fault would, while `attempt` goes on.
///
/// # Panics
/// When `matching` names nothing.
pub fn seen<T>(probes: &[EmulatedProbe], matching: &str, attempt: impl FnOnce() -> T) -> (T, u64) {
    // A fault that never happens counts what could have met it.
    let rule: FaultRule = format!("drop:{matching}:nth=1000000000").parse().expect("a rule");
    let counts: Vec<_> = probes.iter().map(|probe| probe.add_fault(rule.clone())).collect();
    let result = attempt();
    let ended = probes.iter().zip(counts);
    (result, ended.map(|(probe, id)| probe.remove_fault(id).expect("it is there still").matched).sum())
}

/// Runs a workload that needs all memory of the target at once, and verifies it: commands of 1 MiB on a queue as full
/// as it gets. Memory that somebody kept would leave it waiting for ever.
///
/// # Panics
/// When a command fails or does not complete, or data is wrong.
pub fn use_all_memory(queue: &mut IoQueue, round: u64) {
    const PATIENCE: Duration = Duration::from_secs(60);
    let blocks = (1 << 20) / 4096;
    for (opcode, writes) in [(nvm::WRITE, true), (nvm::READ, false)] {
        let mut waiting = HashMap::new();
        for lba in (0..32).map(|place| place * u64::from(blocks)) {
            let transfer = if writes {
                Transfer::Write(pattern(lba, round, 1 << 20).into())
            } else {
                Transfer::Read(1 << 20)
            };
            let tag = queue.submit(&command(opcode, lba, blocks), transfer).expect("room on the queue");
            waiting.insert(tag, lba);
        }
        while !waiting.is_empty() {
            let completed = queue.wait(PATIENCE).expect("a connection").expect("a completion in time");
            let lba = waiting.remove(&completed.tag).expect("a completion of a command that is outstanding");
            assert!(completed.entry.status().is_success(), "{}", completed.entry.status());
            assert!(writes || completed.data == pattern(lba, round, 1 << 20), "the data at {lba} differs");
        }
    }
}

/// A host that uses the target all the time, on a thread of its own, and verifies every block that it reads.
pub struct Bystander {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Bystander {
    /// Connects host `number` to drive 0, where it has the blocks from `first_lba` on to itself, 64 of them.
    ///
    /// # Panics
    /// When it cannot connect.
    pub fn start(target: &TestTarget, number: u8, first_lba: u64) -> Self {
        let (mut admin, mut queue) = target.queue(number);
        let stop = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicU64::new(0));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            let mut round = 0;
            while !stopped.load(Ordering::Relaxed) {
                round += 1;
                for (lba, blocks) in
                    [(first_lba, 1_u32), (first_lba + 1, 2), (first_lba + 3, 17), (first_lba + 20, 40)]
                {
                    let data = pattern(lba, round, blocks as usize * 4096);
                    queue.write_blocks(1, lba, 4096, &data).expect("a write of the bystander");
                    let read = queue.read_blocks(1, lba, blocks, 4096).expect("a read of the bystander");
                    assert!(read == data, "round {round}: {blocks} blocks at {lba} differ");
                }
                admin.keep_alive().expect("the bystander's association");
                counter.store(round, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { stop, rounds, thread: Some(thread) }
    }

    /// Waits until it has written and read all its blocks anew.
    ///
    /// # Panics
    /// When it does not within 20 seconds.
    pub fn assert_goes_on(&self) {
        let before = self.rounds.load(Ordering::Relaxed);
        let ended = || self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        eventually("the bystander goes on", || ended() || self.rounds.load(Ordering::Relaxed) > before + 1);
        assert!(!ended(), "the bystander failed");
    }

    /// Ends it.
    ///
    /// # Panics
    /// When something that it did failed.
    pub fn finish(mut self) {
        self.assert_goes_on();
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok(), "the bystander failed");
        }
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
