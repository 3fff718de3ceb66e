//! The emulated controller as a whole: what its registers, queues and namespaces share.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use gangway_spec::aen::AsyncEvent;
use gangway_spec::{CompletionQueueEntry, Status, SubmissionQueueEntry};
use tracing::warn;

use super::admin::Admin;
use super::config::EmulatedConfig;
use super::counters::Counters;
use super::error::EmulatedError;
use super::error_log::ErrorLog;
use super::faults::{Corruption, Faults};
use super::held::{Command, Held};
use super::identity::Identity;
use super::io::{IoQueue, copy};
use super::memory::{DmaFault, DmaMemory, EmulatedIommu, Gate};
use super::namespace::Namespaces;
use super::prp::PAGE;
use super::registers::Registers;
use super::ring::{CompletionQueue, SubmissionQueue};
use super::shadow::ShadowDoorbells;
use super::store::Store;
use super::vendor::Scratch;
use crate::mmio::DoorbellPage;

/// Doorbells are kept this many registers apart, so that two queues never share a cache line. The host cannot tell: it
/// knows offsets in BAR0 only.
const DOORBELL_SPREAD: usize = 32;

/// The doorbells of a device: the memory, and how many registers they are apart in it.
pub(super) struct Doorbells {
    pub(super) page: Arc<DoorbellPage>,
    pub(super) spread: usize,
}

/// Events that wait until the admin queue takes them over, at most; further ones are dropped, as nobody listens.
const EVENTS_LIMIT: usize = 64;

/// An emulated NVMe controller with everything that is behind it.
///
/// Locks are taken in this order: registers, admin gate, gate of an I/O queue, completion queue; then one of the error
/// log, the faults, the events, the last failure and the scratch memory, in which nothing else is locked.
pub(super) struct Device {
    pub(super) name: String,
    pub(super) config: EmulatedConfig,
    pub(super) identity: Identity,
    pub(super) namespaces: Namespaces,
    pub(super) store: Store,
    pub(super) registers: Mutex<Registers>,
    /// CC, for those who may not lock the registers.
    pub(super) configuration: AtomicU32,
    /// Whether queues are processed: from enable on, until reset, shutdown or a fatal error.
    pub(super) running: AtomicBool,
    /// CSTS.CFS.
    pub(super) fatal: AtomicBool,
    /// Whether writes may stay in the volatile cache (feature 06h).
    pub(super) write_cache: AtomicBool,
    /// Formats of Copy that are enabled, as bits of OCFS (feature 16h).
    pub(super) copy_formats: AtomicU16,
    pub(super) doorbells: Arc<DoorbellPage>,
    doorbell_spread: usize,
    pub(super) iommu: Arc<EmulatedIommu>,
    /// What the driver did that it must never do.
    pub(super) violations: Arc<AtomicU64>,
    pub(super) admin: Arc<Gate<Admin>>,
    /// I/O queue pairs; queue identifier 1 is at index 0.
    pub(super) io: Box<[Arc<Gate<IoQueue>>]>,
    /// Completion queues by identifier, the admin one included.
    completion_queues: Box<[Alone<Mutex<Option<CompletionQueue>>>]>,
    pub(super) error_log: Mutex<ErrorLog>,
    /// Events that the admin queue has not taken over yet.
    events: Mutex<Vec<AsyncEvent>>,
    pub(super) faults: Faults,
    pub(super) scratch: Scratch,
    /// Why it failed last, until telemetry has it.
    failure: Mutex<Option<String>>,
    /// Doorbells that the host keeps in memory.
    pub(super) shadow: Mutex<Option<ShadowDoorbells>>,
    /// Whether commands are looked at one by one: some may wait or meet a fault, or doorbells are in memory.
    pub(super) attentive: AtomicBool,
    /// Whether its function is open: one at a time.
    pub(super) open: AtomicBool,
    pub(super) since: Instant,
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is complete; dwords 0 and 1 of the completion hold `result`.
    Complete { status: Status, result: u64 },
    /// It stays with the drive.
    Kept,
}

impl From<Status> for Outcome {
    fn from(status: Status) -> Self {
        Self::Complete { status, result: 0 }
    }
}

impl Device {
    /// A device whose doorbells are memory of this process.
    pub(super) fn new(name: String, config: EmulatedConfig) -> Result<Self, EmulatedError> {
        let page = DoorbellPage::new(2 * (usize::from(config.queues) + 1) * DOORBELL_SPREAD);
        Self::with_doorbells(name, config, Doorbells { page, spread: DOORBELL_SPREAD })
    }

    /// A device with doorbells elsewhere. There must be two for each queue pair, the admin queue included.
    pub(super) fn with_doorbells(
        name: String,
        config: EmulatedConfig,
        doorbells: Doorbells,
    ) -> Result<Self, EmulatedError> {
        config.validate()?;
        let store = Store::open(&config)?;
        let identity = Identity::of(&config);
        let violations = Arc::new(AtomicU64::new(0));
        let iommu = Arc::new(EmulatedIommu::new(Arc::clone(&violations)));
        let queues = usize::from(config.queues) + 1;
        let admin = iommu.gate(Admin::new(&config));
        let io = (1..queues).map(|_| iommu.gate(IoQueue::default())).collect();
        let device = Self {
            namespaces: Namespaces::new(&config, &store)?,
            identity,
            store,
            registers: Mutex::new(Registers::new(&config)),
            configuration: AtomicU32::new(0),
            running: AtomicBool::new(false),
            fatal: AtomicBool::new(false),
            write_cache: AtomicBool::new(true),
            copy_formats: AtomicU16::new(copy::FIRST_FORMATS),
            doorbells: doorbells.page,
            doorbell_spread: doorbells.spread,
            iommu,
            violations,
            admin,
            io,
            completion_queues: (0..queues).map(|_| Alone(Mutex::new(None))).collect(),
            error_log: Mutex::new(ErrorLog::default()),
            events: Mutex::default(),
            faults: Faults::new(&config.faults),
            scratch: if config.capabilities.vendor { Scratch::new() } else { Scratch::default() },
            failure: Mutex::default(),
            shadow: Mutex::new(None),
            attentive: AtomicBool::new(config.latency.is_some() || !config.faults.is_empty()),
            open: AtomicBool::new(false),
            since: Instant::now(),
            name,
            config,
        };
        device.publish_namespaces();
        Ok(device)
    }

    /// Hours since the drive was made.
    pub(super) fn power_on_hours(&self) -> u64 {
        self.since.elapsed().as_secs() / 3600
    }

    /// Bytes that one command may move.
    pub(super) fn max_transfer(&self) -> usize {
        PAGE << self.config.mdts
    }

    /// Queue identifiers in use, the admin queue's included: 0 to this, exclusive.
    pub(super) fn queue_count(&self) -> u16 {
        self.config.queues + 1
    }

    /// The gate of an I/O queue pair.
    pub(super) fn io_queue(&self, qid: u16) -> Option<&Gate<IoQueue>> {
        self.io.get(usize::from(qid).checked_sub(1)?).map(AsRef::as_ref)
    }

    /// A completion queue, locked; it may not exist at present. `None` when it never can.
    pub(super) fn completion_queue(&self, qid: u16) -> Option<MutexGuard<'_, Option<CompletionQueue>>> {
        self.completion_queues.get(usize::from(qid)).map(|queue| lock(&queue.0))
    }

    /// Where in the doorbell page the doorbell of a queue is.
    pub(super) fn doorbell_index(&self, qid: u16, completion: bool) -> usize {
        (2 * usize::from(qid) + usize::from(completion)) * self.doorbell_spread
    }

    /// Sets the doorbell of a queue to zero, as its creation does.
    pub(super) fn reset_doorbell(&self, qid: u16, completion: bool) {
        self.doorbells.reset_one(self.doorbell_index(qid, completion));
    }

    #[inline]
    pub(super) fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    /// Does what the doorbells of a queue pair ask for.
    pub(super) fn step(&self, qid: u16) {
        if qid == 0 {
            self.step_admin();
        } else {
            self.step_io(qid);
        }
    }

    /// Takes over both doorbells of a submission queue and its completion queue.
    #[inline]
    pub(super) fn ring(&self, sq: &mut SubmissionQueue, cq: &mut CompletionQueue) -> bool {
        let tail = self.doorbells.load(self.doorbell_index(sq.id, false)).unwrap_or(0);
        let head = self.doorbells.load(self.doorbell_index(sq.completion_queue, true)).unwrap_or(0);
        self.ring_to(sq, cq, (tail, head))
    }

    /// Takes over a tail of a submission queue and a head of its completion queue.
    #[inline]
    pub(super) fn ring_to(
        &self,
        sq: &mut SubmissionQueue,
        cq: &mut CompletionQueue,
        (tail, head): (u32, u32),
    ) -> bool {
        if sq.ring(tail).is_err() {
            self.fail(&format!("tail doorbell of submission queue {} has the invalid value {tail}", sq.id));
            return false;
        }
        if cq.ring(head).is_err() {
            let id = sq.completion_queue;
            self.fail(&format!("head doorbell of completion queue {id} has the invalid value {head}"));
            return false;
        }
        true
    }

    /// Posts a completion. Completions with an error get an entry in the error log.
    #[inline(always)]
    pub(super) fn post(
        &self,
        host: &DmaMemory,
        sq: &SubmissionQueue,
        cq: &mut CompletionQueue,
        entry: &SubmissionQueueEntry,
        (status, result): (Status, u64),
    ) -> bool {
        let status = if status.is_success() { status } else { self.log_error(sq.id, entry, status) };
        let posted = cq.post(host, completion(sq, entry, (status, result)));
        self.check_posted(posted, sq)
    }

    /// Whether a completion was posted; the controller stops if it could not be.
    #[inline]
    fn check_posted(&self, posted: Result<(), DmaFault>, sq: &SubmissionQueue) -> bool {
        if posted.is_err() {
            self.fail(&format!(
                "completion queue {} is not in memory that may be written",
                sq.completion_queue
            ));
        }
        posted.is_ok()
    }

    /// How a command ends that is not to be executed; `None` when it is.
    pub(super) fn foregone(&self, command: &Command) -> Option<Status> {
        if command.aborted {
            return Some(Status::ABORT_REQUESTED);
        }
        command.treatment.status.or(command.treatment.skip.then_some(Status::SUCCESS))
    }

    /// Completes a command that was looked at, with whatever was declared for its completion.
    pub(super) fn finish(
        &self,
        host: &DmaMemory,
        sq: &SubmissionQueue,
        cq: &mut CompletionQueue,
        held: &mut Held,
        (command, (status, result), now): (&Command, (Status, u64), Instant),
    ) -> bool {
        let Command { entry, treatment, .. } = command;
        if treatment.lose {
            return true;
        }
        let logged = if status.is_success() { status } else { self.log_error(sq.id, entry, status) };
        // A status that was declared is given as it was declared, also when the log has an entry that More denies.
        let status = treatment.status.unwrap_or(logged);
        let mut completion = completion(sq, entry, (status, result));
        if let Some(corruption) = treatment.corruption {
            corruption.apply(&mut completion, sq.size());
        }
        let posted = match (treatment.corruption, treatment.late_phase) {
            (Some(Corruption::Phase), _) => cq.post_unseen(host, completion, None),
            (_, Some(time)) => cq.post_unseen(host, completion, now.checked_add(time)),
            _ => cq.post(host, completion),
        };
        held.count_completion(treatment.duplicate.then_some(completion));
        self.check_posted(posted, sq)
    }

    /// Posts the completions that are to be written twice for the second time, as far as there is room.
    pub(super) fn post_again(
        &self,
        host: &DmaMemory,
        sq: &SubmissionQueue,
        cq: &mut CompletionQueue,
        held: &mut Held,
    ) -> bool {
        while cq.has_room()
            && let Some(completion) = held.take_again()
        {
            let posted = cq.post(host, completion);
            if !self.check_posted(posted, sq) {
                return false;
            }
        }
        true
    }

    /// Reports an event at the next step of the admin queue that finds a request for it. To be called from anywhere,
    /// whatever is locked.
    pub(super) fn raise(&self, event: AsyncEvent) {
        let mut events = lock(&self.events);
        if events.len() < EVENTS_LIMIT {
            events.push(event);
        }
    }

    /// The events that were raised since the last call.
    pub(super) fn take_events(&self) -> Vec<AsyncEvent> {
        std::mem::take(&mut *lock(&self.events))
    }

    #[cold]
    fn log_error(&self, sq_id: u16, entry: &SubmissionQueueEntry, status: Status) -> Status {
        if status.is(Status::ABORT_REQUESTED) || status.is(Status::ABORTED_SQ_DELETION) {
            return status;
        }
        let status = status.with_more();
        lock(&self.error_log).record(sq_id, entry, status);
        status
    }

    /// Sets CSTS.CFS and stops: the host did what no driver may do, or the drive cannot reach its queues.
    #[cold]
    pub(super) fn fail(&self, why: &str) {
        self.violations.fetch_add(1, Ordering::Relaxed);
        self.stop_fatally(why);
    }

    /// Sets CSTS.CFS and stops, through no fault of the host.
    #[cold]
    pub(super) fn stop_fatally(&self, why: &str) {
        self.running.store(false, Ordering::Release);
        self.fatal.store(true, Ordering::Release);
        warn!("{}: controller fatal status: {why}", self.name);
        *lock(&self.failure) = Some(why.to_owned());
    }

    /// Why the controller failed since the last call.
    pub(super) fn take_failure(&self) -> Option<String> {
        lock(&self.failure).take()
    }

    /// Waits until whoever is inside a gate has left it. With [`running`](Self::running) cleared before, no step is
    /// under way afterwards.
    pub(super) fn pass_through_gates(&self) {
        drop(self.admin.enter());
        self.io.iter().for_each(|gate| drop(gate.enter()));
    }

    /// Forgets all queues and everything that a controller reset forgets. When this returns, no step is under way and
    /// no later one touches host memory until the controller is enabled again.
    pub(super) fn reset(&self) {
        self.running.store(false, Ordering::Release);
        self.admin.enter().state.reset(self.power_on_hours());
        for gate in &self.io {
            gate.enter().state.reset();
        }
        for queue in &self.completion_queues {
            *lock(&queue.0) = None;
        }
        self.doorbells.reset();
        *lock(&self.shadow) = None;
        let faults = self.faults.reset();
        self.attentive.store(faults || self.config.latency.is_some(), Ordering::Release);
        self.take_events();
        self.fatal.store(false, Ordering::Release);
        self.write_cache.store(true, Ordering::Relaxed);
        self.copy_formats.store(copy::FIRST_FORMATS, Ordering::Relaxed);
    }

    /// Sets the admin queues up and starts. Sizes are in entries, addresses were checked for alignment.
    ///
    /// `false` when the queues are not in memory that the drive can reach.
    pub(super) fn start(&self, (asq, asq_size): (u64, u32), (acq, acq_size): (u64, u32)) -> bool {
        let mut admin = self.admin.enter();
        let inside = &mut *admin;
        if !SubmissionQueue::is_reachable(&inside.memory, asq, asq_size)
            || !CompletionQueue::is_reachable(&inside.memory, acq, acq_size)
        {
            return false;
        }
        inside.state.start(SubmissionQueue::new(0, 0, asq, asq_size));
        if let Some(mut queue) = self.completion_queue(0) {
            *queue = Some(CompletionQueue::new(acq, acq_size, Some(0)));
        }
        self.running.store(true, Ordering::Release);
        true
    }

    /// What all queues have counted.
    pub(super) fn counters(&self) -> Counters {
        self.io.iter().fold(Counters::default(), |sum, gate| sum + gate.enter().state.work.counters)
    }
}

/// The completion of a command.
#[inline]
fn completion(
    sq: &SubmissionQueue,
    entry: &SubmissionQueueEntry,
    (status, result): (Status, u64),
) -> CompletionQueueEntry {
    let mut completion = CompletionQueueEntry::new(entry.cid.get(), status);
    completion.set_result(result);
    completion.sq_head.set(sq.head());
    completion.sq_id.set(sq.id);
    completion
}

/// Something in cache lines of its own: what two threads write to must not share one.
#[repr(align(128))]
struct Alone<T>(T);

/// Locks; a panic of another holder left nothing that would be unsafe to see.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
