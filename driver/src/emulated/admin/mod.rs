//! The admin queue: taking its commands, and executing those that are no subject of their own.

mod events;
mod features;
mod firmware;
mod format;
mod identify;
mod logs;
mod namespaces;
mod operation;
mod queues;
mod sanitize;
mod self_test;
mod telemetry;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use gangway_spec::aen::AsyncEvent;
use gangway_spec::identify::Oaes;
use gangway_spec::{Status, SubmissionQueueEntry, opcode};

use super::commands;
use super::config::EmulatedConfig;
use super::device::{Device, Outcome};
use super::held::Held;
use super::memory::{Access, DmaMemory};
use super::prp::{PAGE, PrpReader};
use super::ring::SubmissionQueue;
use super::store::dma_status;
use super::vendor;
use events::Events;
use features::Features;
use firmware::Firmware;
use format::Formatting;
use sanitize::Sanitizing;
use self_test::SelfTests;
use telemetry::Telemetry;

/// Abort commands that may be outstanding (ACL + 1). They are executed at once, unless a fault holds them up.
pub(super) const ABORT_LIMIT: u8 = 4;
/// Asynchronous Event Requests that may be outstanding (AERL + 1).
pub(super) const EVENT_REQUEST_LIMIT: u8 = 4;

/// The drive's side of the admin queue, and all that only admin commands touch.
pub(super) struct Admin {
    sq: Option<SubmissionQueue>,
    pub(super) prps: PrpReader,
    pub(super) events: Events,
    /// Commands that a fault holds up.
    pub(super) held: Held,
    /// A command of this queue that the present command has aborted.
    aborted: Option<u16>,
    features: Features,
    /// Whether an I/O queue was created since the last reset.
    has_io_queues: bool,
    /// Cleared by reset; queue identifiers granted by Number of Queues.
    granted: Granted,
    firmware: Firmware,
    self_tests: SelfTests,
    sanitizing: Sanitizing,
    telemetry: Telemetry,
    /// The format that goes on.
    formatting: Option<Formatting>,
    /// The namespaces of the Changed Namespace List.
    changed_namespaces: BTreeSet<u32>,
    config: EmulatedConfig,
}

/// How many I/O queues of each kind the host was granted.
#[derive(Clone, Copy)]
struct Granted {
    submission: u16,
    completion: u16,
}

impl Admin {
    pub(super) fn new(config: &EmulatedConfig) -> Self {
        Self {
            sq: None,
            prps: PrpReader::new(PAGE << config.mdts),
            events: Events::default(),
            held: Held::default(),
            aborted: None,
            features: Features::new(config),
            has_io_queues: false,
            granted: Granted { submission: config.queues, completion: config.queues },
            firmware: Firmware::default(),
            self_tests: SelfTests::default(),
            sanitizing: Sanitizing::default(),
            telemetry: Telemetry::default(),
            formatting: None,
            changed_namespaces: BTreeSet::new(),
            config: config.clone(),
        }
    }

    /// Starts with these queues.
    pub(super) fn start(&mut self, sq: SubmissionQueue) {
        self.sq = Some(sq);
    }

    /// Forgets what a controller reset forgets.
    pub(super) fn reset(&mut self, power_on_hours: u64) {
        self.sq = None;
        self.events = Events::default();
        self.held = Held::default();
        self.aborted = None;
        self.features.reset(&self.config);
        self.has_io_queues = false;
        self.granted = Granted { submission: self.config.queues, completion: self.config.queues };
        self.firmware.reset();
        self.self_tests.reset(power_on_hours);
        // Nobody is left to wait for it.
        if let Some(formatting) = self.formatting.take() {
            formatting.finish();
        }
        self.changed_namespaces.clear();
    }

    /// Ends what goes on and is over by the clock: the identifier of a command that is complete by that.
    fn finish_operations(&mut self) -> Option<u16> {
        let formatting = self.formatting.take_if(|formatting| formatting.clock.is_done())?;
        formatting.finish();
        Some(formatting.cid)
    }

    /// Reports an event of a kind that the host has to have enabled.
    fn notify(&mut self, kind: Oaes, event: AsyncEvent) {
        if self.features.enables(kind) {
            self.events.raise(event);
        }
    }

    /// What Identify says of a namespace has changed, or whether there is one.
    fn changed(&mut self, nsid: u32) {
        self.changed_namespaces.insert(nsid);
        self.notify(Oaes::NAMESPACE_ATTRIBUTE, AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED);
    }

    /// Why a command is not even looked at, with those that are outstanding.
    fn refusal(&self, entry: &SubmissionQueueEntry) -> Option<Status> {
        let (cid, limit) = (entry.cid.get(), usize::from(ABORT_LIMIT));
        if self.events.holds(cid) || self.held.holds(cid) {
            return Some(Status::CID_CONFLICT.with_dnr());
        }
        let too_many = entry.opcode == opcode::admin::ABORT && self.held.count(opcode::admin::ABORT) >= limit;
        too_many.then_some(Status::ABORT_COMMAND_LIMIT_EXCEEDED.with_dnr())
    }

    /// Takes an outstanding command of this queue away, to be completed as aborted. `false` when there is none.
    fn abort(&mut self, cid: u16) -> bool {
        let found = self.events.cancel(cid) || self.held.remove(cid);
        if found {
            self.aborted = Some(cid);
        }
        found
    }
}

impl Device {
    /// Does what the doorbells of the admin queue ask for.
    pub(super) fn step_admin(&self) {
        let mut inside = self.admin.enter();
        let inside = &mut *inside;
        let (host, admin) = (&inside.memory, &mut inside.state);
        // Taken out for the time of the step, as commands need the rest of the state.
        let Some(mut sq) = admin.sq.take_if(|_| self.is_running()) else { return };
        self.process_admin(admin, &mut sq, host);
        admin.sq = Some(sq);
    }

    fn process_admin(&self, admin: &mut Admin, sq: &mut SubmissionQueue, host: &DmaMemory) {
        let Some(mut cq) = self.completion_queue(0) else { return };
        let Some(cq) = cq.as_mut() else { return };
        if !self.ring(sq, cq) {
            return;
        }
        let now = Instant::now();
        cq.settle(host, now);
        loop {
            admin.self_tests.settle(self.power_on_hours());
            admin.settle_sanitize(self);
            for event in self.take_events() {
                if event == AsyncEvent::TELEMETRY_LOG_CHANGED {
                    admin.collect_telemetry(self, "a declared event");
                } else if event == AsyncEvent::ZONE_DESCRIPTOR_CHANGED.of(event.parameter) {
                    admin.notify(Oaes::ZONE_DESCRIPTOR_CHANGED, event);
                } else {
                    admin.events.raise(event);
                }
            }
            admin.settle_telemetry(self);
            while cq.has_room()
                && let Some(cid) = admin.finish_operations()
            {
                let entry = SubmissionQueueEntry { cid: cid.into(), ..Default::default() };
                if !self.post(host, sq, cq, &entry, (Status::SUCCESS, 0)) {
                    return;
                }
            }
            while cq.has_room()
                && let Some((request, event)) = admin.events.deliver()
            {
                let entry = SubmissionQueueEntry { cid: request.into(), ..Default::default() };
                if !self.post(host, sq, cq, &entry, (Status::SUCCESS, event.into_result())) {
                    return;
                }
            }
            // A command is only executed when its completion has a place.
            if !self.post_again(host, sq, cq, &mut admin.held) || !cq.has_room() {
                return;
            }
            if let Some(command) = admin.held.take_due(now) {
                let outcome = match self.foregone(&command) {
                    // An Abort that does nothing says so.
                    Some(Status::SUCCESS) if command.entry.opcode == opcode::admin::ABORT => {
                        Outcome::Complete { status: Status::SUCCESS, result: NOT_ABORTED.into() }
                    }
                    Some(status) => status.into(),
                    None => {
                        admin.prps.forget();
                        let outcome = AdminCommand { device: self, admin, host, entry: &command.entry }.run();
                        match outcome {
                            Outcome::Complete { status, result } => {
                                let done = (status, result);
                                let (status, result) =
                                    admin.prps.spoil(host, &command.entry, &command.treatment, done);
                                Outcome::Complete { status, result }
                            }
                            Outcome::Kept => Outcome::Kept,
                        }
                    }
                };
                // What a command aborts on this queue is completed before it.
                if let Some(cid) = admin.aborted.take() {
                    let entry = SubmissionQueueEntry { cid: cid.into(), ..Default::default() };
                    if !self.post(host, sq, cq, &entry, (Status::ABORT_REQUESTED, 0)) || !cq.has_room() {
                        return;
                    }
                }
                if let Outcome::Complete { status, result } = outcome
                    && !self.finish(host, sq, cq, &mut admin.held, (&command, (status, result), now))
                {
                    return;
                }
                continue;
            }
            if sq.is_empty() || admin.held.len() >= sq.size() as usize || !self.is_running() {
                return;
            }
            let Ok(entry) = sq.fetch(host) else { return self.unreadable(sq) };
            match admin.refusal(&entry) {
                Some(status) => {
                    if !self.post(host, sq, cq, &entry, (status, 0)) {
                        return;
                    }
                }
                None => {
                    let Some(treatment) = self.treat(0, &entry) else { return };
                    admin.held.admit(entry, treatment, now, Duration::ZERO);
                }
            }
        }
    }
}

/// One admin command with all it needs.
pub(super) struct AdminCommand<'a> {
    pub(super) device: &'a Device,
    pub(super) admin: &'a mut Admin,
    pub(super) host: &'a DmaMemory,
    pub(super) entry: &'a SubmissionQueueEntry,
}

/// Dword 0 of the completion, or why there is none.
pub(super) type Answer = Result<u32, Status>;

impl AdminCommand<'_> {
    fn run(&mut self) -> Outcome {
        if self.entry.flags != 0 {
            return Status::INVALID_FIELD.with_dnr().into();
        }
        if !commands::offers_admin(self.device, self.entry.opcode) {
            return Status::INVALID_OPCODE.with_dnr().into();
        }
        if let Some(status) = self.admin.sanitizing.refusal()
            && !commands::runs_while_sanitizing(self.entry.opcode)
        {
            return status.into();
        }
        let answer = match self.entry.opcode {
            opcode::admin::IDENTIFY => self.identify(),
            opcode::admin::CREATE_IO_CQ => self.create_completion_queue(),
            opcode::admin::CREATE_IO_SQ => self.create_submission_queue(),
            opcode::admin::DELETE_IO_SQ => self.delete_submission_queue(),
            opcode::admin::DELETE_IO_CQ => self.delete_completion_queue(),
            opcode::admin::GET_LOG_PAGE => self.get_log_page(),
            opcode::admin::GET_FEATURES => self.get_features(),
            opcode::admin::SET_FEATURES => self.set_features(),
            opcode::admin::ABORT => self.abort(),
            opcode::admin::DOORBELL_BUFFER_CONFIG => self.configure_doorbell_buffers(),
            opcode::admin::ASYNC_EVENT_REQUEST => {
                if self.admin.events.request(self.entry.cid.get()) {
                    return Outcome::Kept;
                }
                Err(Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED.with_dnr())
            }
            opcode::admin::FIRMWARE_COMMIT => self.firmware_commit(),
            opcode::admin::FIRMWARE_IMAGE_DOWNLOAD => self.firmware_image_download(),
            opcode::admin::DEVICE_SELF_TEST => self.device_self_test(),
            opcode::admin::SANITIZE => self.sanitize(),
            opcode::admin::NAMESPACE_MANAGEMENT => self.namespace_management(),
            opcode::admin::NAMESPACE_ATTACHMENT => self.namespace_attachment(),
            opcode::admin::FORMAT_NVM => return self.format_nvm().unwrap_or_else(Outcome::from),
            vendor::STORE | vendor::FETCH | vendor::OVERFETCH => self.vendor(),
            _ => Err(Status::INVALID_OPCODE.with_dnr()),
        };
        match answer {
            Ok(result) => Outcome::Complete { status: Status::SUCCESS, result: result.into() },
            Err(status) => status.into(),
        }
    }

    /// Writes the data of the answer to the host.
    fn send(&mut self, data: &[u8]) -> Answer {
        let prp = (self.entry.prp1(), self.entry.prp2());
        let mut rest = data;
        for span in self.admin.prps.resolve(self.host, prp, data.len(), Access::Write)? {
            let (piece, after) = rest.split_at(span.len);
            self.host.write(span.iova, piece).map_err(dma_status)?;
            rest = after;
        }
        Ok(0)
    }

    /// Reads the data of the command from the host.
    fn receive(&mut self, data: &mut [u8]) -> Result<(), Status> {
        let prp = (self.entry.prp1(), self.entry.prp2());
        let mut rest = data;
        let len = rest.len();
        for span in self.admin.prps.resolve(self.host, prp, len, Access::Read)? {
            let (piece, after) = rest.split_at_mut(span.len);
            self.host.read(span.iova, piece).map_err(dma_status)?;
            rest = after;
        }
        Ok(())
    }

    /// Bit 0 of the answer says whether the command was *not* aborted (NVMe Base 1.4, 5.1).
    fn abort(&mut self) -> Answer {
        let (qid, cid) = (self.entry.cdw10.get() as u16, (self.entry.cdw10.get() >> 16) as u16);
        if qid == 0 {
            return Ok(if self.admin.abort(cid) { 0 } else { NOT_ABORTED });
        }
        let Some(gate) = self.device.io_queue(qid) else { return Ok(NOT_ABORTED) };
        if !gate.enter().state.abort(cid) {
            return Ok(NOT_ABORTED);
        }
        // The aborted command is completed before Abort itself is.
        self.device.step_io(qid);
        Ok(0)
    }
}

/// What Abort answers when it did not abort.
const NOT_ABORTED: u32 = 1 << 0;

/// A command asks for something that Identify does not promise, or makes no sense.
fn invalid_field<T>() -> Result<T, Status> {
    Err(Status::INVALID_FIELD.with_dnr())
}
