//! A drive and its manager: the thread that owns the controller, its admin queue and its resets.
//!
//! Reactors own the I/O queue pairs. To reset a drive the manager asks every reactor for its pair back (owning the
//! pair is the proof that nobody else touches it), stops the controller, and only then frees what the drive could
//! reach. Commands that arrive meanwhile wait in the reactors' software queues.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gangway_driver::controller::{Controller, ControllerError, Options};
use gangway_driver::dma::{BufferPool, CommandData, Direction, DmaError};
use gangway_driver::function::Function;
use gangway_driver::queue::{Completion, QueuePair};
use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::completion::CompletionQueueEntry;
use gangway_spec::identify::{IdentifyController, IdentifyNamespace};
use gangway_spec::registers::{ControllerCapabilities, Version};
use gangway_spec::status::Status;
use tokio::sync::oneshot;

use crate::admission::Format;
use crate::reactor::{DriveState, Message, ReactorHandle};

/// How long reactors may take to stop using a drive before it counts as lost.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);
/// Memory for data of admin commands.
const ADMIN_MEMORY: usize = 2 << 20;
/// How often the admin queue is looked at while commands are outstanding.
const ADMIN_NAP: Duration = Duration::from_micros(100);

/// Why a drive cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The controller did not start or work. Its own errors name the drive.
    #[error("{source}")]
    Controller {
        /// The drive.
        drive: String,
        /// What went wrong.
        source: ControllerError,
    },
    /// No memory for admin commands.
    #[error("{drive}: cannot set aside memory for admin commands: {source}")]
    Memory {
        /// The drive.
        drive: String,
        /// What went wrong.
        source: DmaError,
    },
    /// Fewer queue pairs than reactors.
    #[error(
        "{drive} grants {granted} I/O queue pairs, but {wanted} reactors need one each; name at most {granted} CPUs with --reactors"
    )]
    Queues {
        /// The drive.
        drive: String,
        /// What it grants.
        granted: u16,
        /// What is needed.
        wanted: usize,
    },
    /// The manager's thread could not be started, or has ended.
    #[error("{drive}: its manager is not running")]
    Gone {
        /// The drive.
        drive: String,
    },
}

/// A namespace as the drive reports it.
#[derive(Clone, Debug)]
pub struct DriveNamespace {
    /// Its NSID on the drive.
    pub nsid: u32,
    /// Identify Namespace.
    pub identify: Box<IdentifyNamespace>,
    /// Its block format; `None` when NVMe/TCP cannot carry it.
    pub format: Option<Format>,
}

/// What a drive said of itself when it was started.
#[derive(Clone, Debug)]
pub struct DriveInfo {
    /// Its address, such as `pci:0000:01:00.0`.
    pub name: String,
    /// Identify Controller.
    pub identify: Box<IdentifyController>,
    /// CAP.
    pub capabilities: ControllerCapabilities,
    /// VS.
    pub version: Version,
    /// Active namespaces, by NSID.
    pub namespaces: Vec<DriveNamespace>,
    /// Bytes that one command can transfer at most.
    pub max_transfer: u32,
}

/// The end of an admin command.
#[derive(Debug)]
pub(crate) struct AdminReply {
    pub(crate) entry: CompletionQueueEntry,
    pub(crate) data: Vec<u8>,
}

struct AdminRequest {
    entry: SubmissionQueueEntry,
    /// Bytes that it reads. Nothing that is forwarded brings data to the drive.
    length: usize,
    timeout: Duration,
    reply: oneshot::Sender<AdminReply>,
}

enum Request {
    Admin(AdminRequest),
    Fault(String),
    Connect { reactors: Vec<ReactorHandle>, done: oneshot::Sender<Result<(), DriveError>> },
    Shutdown { done: oneshot::Sender<()> },
}

/// A reactor's line to the manager of a drive.
#[derive(Clone)]
pub(crate) struct DriveLink {
    sender: mpsc::Sender<Request>,
}

impl DriveLink {
    /// Reports that the drive's queue went wrong; a reset follows.
    pub(crate) fn report_fault(&self, what: String) {
        let _ = self.sender.send(Request::Fault(what));
    }
}

/// A started drive.
#[derive(Debug)]
pub struct Drive {
    index: usize,
    info: Arc<DriveInfo>,
    sender: mpsc::Sender<Request>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drive {
    /// Starts the controller behind `function` and a manager for it. Blocks until the controller is ready.
    ///
    /// # Errors
    /// [`DriveError`] when the controller does not start or does not identify itself.
    pub fn start(index: usize, function: Box<dyn Function>, options: Options) -> Result<Self, DriveError> {
        let name = function.name().to_owned();
        let failed = |source| DriveError::Controller { drive: name.clone(), source };
        let mut controller = Controller::start(function, options).map_err(failed)?;
        let mut namespaces = Vec::new();
        for nsid in controller.active_namespaces().map_err(failed)? {
            let identify = controller.identify_namespace(nsid).map_err(failed)?;
            namespaces.push(DriveNamespace { nsid, format: Format::of(&identify), identify });
        }
        let info = Arc::new(DriveInfo {
            name: name.clone(),
            identify: Box::new(controller.identify().clone()),
            capabilities: controller.capabilities(),
            version: controller.version(),
            namespaces,
            max_transfer: controller.max_transfer(),
        });
        let largest = (controller.max_transfer() as usize).clamp(4096, ADMIN_MEMORY);
        let memory = BufferPool::new(controller.domain(), Direction::DeviceWrites, ADMIN_MEMORY, largest)
            .map_err(|source| DriveError::Memory { drive: name.clone(), source })?;
        let (sender, inbox) = mpsc::channel();
        let manager = Manager {
            index,
            name: name.clone(),
            controller,
            link: DriveLink { sender: sender.clone() },
            inbox,
            reactors: Vec::new(),
            memory,
            waiting: VecDeque::new(),
            outstanding: HashMap::new(),
            next_user: 0,
            completions: Vec::with_capacity(64),
            failed: false,
        };
        let thread = std::thread::Builder::new()
            .name(format!("drive-{index}"))
            .spawn(move || manager.run())
            .map_err(|_| DriveError::Gone { drive: name })?;
        Ok(Self { index, info, sender, thread: Mutex::new(Some(thread)) })
    }

    /// Index of the drive in the process.
    pub fn index(&self) -> usize {
        self.index
    }

    /// What it said of itself.
    pub fn info(&self) -> &Arc<DriveInfo> {
        &self.info
    }

    /// Gives each reactor a queue pair of the drive.
    pub(crate) async fn connect(&self, reactors: Vec<ReactorHandle>) -> Result<(), DriveError> {
        let (done, wait) = oneshot::channel();
        let gone = || DriveError::Gone { drive: self.info.name.clone() };
        self.sender.send(Request::Connect { reactors, done }).map_err(|_| gone())?;
        wait.await.map_err(|_| gone())?
    }

    /// Executes an admin command that reads `length` bytes. `None` when the drive is gone.
    pub(crate) async fn admin(
        &self,
        entry: SubmissionQueueEntry,
        length: usize,
        timeout: Duration,
    ) -> Option<AdminReply> {
        let (reply, wait) = oneshot::channel();
        self.sender.send(Request::Admin(AdminRequest { entry, length, timeout, reply })).ok()?;
        wait.await.ok()
    }

    /// Takes the queue pairs back, shuts the controller down in order and ends the manager.
    pub(crate) async fn shutdown(&self) {
        let (done, wait) = oneshot::channel();
        if self.sender.send(Request::Shutdown { done }).is_ok() {
            let _ = wait.await;
        }
        self.join();
    }

    fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!(drive = %self.info.name, "the drive's manager panicked");
        }
    }
}

impl Drop for Drive {
    /// A drive that never came to be served, because something else failed, is shut down all the same.
    fn drop(&mut self) {
        let (done, _) = oneshot::channel();
        let _ = self.sender.send(Request::Shutdown { done });
        self.join();
    }
}

struct Manager {
    index: usize,
    name: String,
    controller: Controller,
    link: DriveLink,
    inbox: mpsc::Receiver<Request>,
    reactors: Vec<ReactorHandle>,
    memory: BufferPool,
    waiting: VecDeque<AdminRequest>,
    outstanding: HashMap<u64, oneshot::Sender<AdminReply>>,
    next_user: u64,
    completions: Vec<Completion>,
    failed: bool,
}

impl Manager {
    fn run(mut self) {
        loop {
            let request = if self.outstanding.is_empty() {
                self.inbox.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
            } else {
                self.inbox.recv_timeout(ADMIN_NAP)
            };
            match request {
                Ok(Request::Admin(request)) => self.waiting.push_back(request),
                Ok(Request::Fault(what)) => self.reset(&what),
                Ok(Request::Connect { reactors, done }) => {
                    let _ = done.send(self.connect(reactors));
                }
                Ok(Request::Shutdown { done }) => {
                    self.shutdown();
                    let _ = done.send(());
                    return;
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    self.shutdown();
                    return;
                }
            }
            self.submit();
            self.reap();
        }
    }

    fn connect(&mut self, reactors: Vec<ReactorHandle>) -> Result<(), DriveError> {
        let granted = self.controller.io_queue_limit();
        if usize::from(granted) < reactors.len() {
            return Err(DriveError::Queues { drive: self.name.clone(), granted, wanted: reactors.len() });
        }
        for reactor in &reactors {
            reactor.send(Message::Link { drive: self.index, link: self.link.clone() });
        }
        self.reactors = reactors;
        let pairs = self
            .create_pairs()
            .map_err(|source| DriveError::Controller { drive: self.name.clone(), source })?;
        self.hand_out(pairs, Vec::new());
        Ok(())
    }

    /// Creates a queue pair for every reactor.
    fn create_pairs(&mut self) -> Result<Vec<QueuePair>, ControllerError> {
        (0..self.reactors.len()).map(|_| self.controller.create_io_queue_pair()).collect()
    }

    /// Hands out a queue pair to every reactor, with those of its commands that a reset interrupted.
    fn hand_out(&self, pairs: Vec<QueuePair>, mut interrupted: Interrupted) {
        for (reactor, pair) in self.reactors.iter().zip(pairs) {
            let interrupted = take_share(&mut interrupted, reactor.index);
            let state = DriveState::Ready(Box::new(pair));
            reactor.send(Message::Thaw { drive: self.index, state, interrupted });
        }
    }

    fn submit(&mut self) {
        while let Some(request) = self.waiting.pop_front() {
            if self.failed {
                answer(request.reply, Status::INTERNAL_PATH_ERROR);
                continue;
            }
            if !self.controller.admin_queue().has_room() {
                self.waiting.push_front(request);
                return;
            }
            let data = match request.length {
                0 => Some(CommandData::None),
                length => self.memory.take(length).map(|mut buffer| {
                    // What a drive does not write must not show a host what was in the buffer before.
                    buffer.fill(0);
                    CommandData::Buffer(buffer)
                }),
            };
            let Some(data) = data else {
                if self.outstanding.is_empty() {
                    answer(request.reply, Status::INVALID_FIELD.with_dnr());
                    continue;
                }
                self.waiting.push_front(request);
                return;
            };
            self.next_user += 1;
            let user = self.next_user;
            let deadline = Instant::now() + request.timeout;
            let queue = self.controller.admin_queue();
            match queue.submit(&request.entry, data, user, deadline) {
                Ok(()) => {
                    queue.ring();
                    self.outstanding.insert(user, request.reply);
                }
                Err(rejected) => {
                    tracing::error!(drive = %self.name, reason = %rejected.reason, "an admin command was not submitted");
                    self.release(rejected.data);
                    answer(request.reply, Status::INTERNAL_ERROR);
                }
            }
        }
    }

    fn release(&mut self, data: CommandData) {
        if let CommandData::Buffer(buffer) = data {
            self.memory.put(buffer);
        }
    }

    fn reap(&mut self) {
        if self.outstanding.is_empty() {
            return;
        }
        let reaped = self.controller.reap_admin(&mut self.completions);
        let overdue = self.controller.admin_queue().overdue(Instant::now());
        for Completion { user, entry, data } in std::mem::take(&mut self.completions) {
            let bytes = match &data {
                CommandData::Buffer(buffer) => buffer.to_vec(),
                _ => Vec::new(),
            };
            self.release(data);
            if let Some(reply) = self.outstanding.remove(&user) {
                let _ = reply.send(AdminReply { entry, data: bytes });
            }
        }
        if let Err(fault) = reaped {
            self.reset(&fault.to_string());
        } else if let Some(overdue) = overdue {
            self.reset(&overdue.to_string());
        }
    }

    /// Takes all queue pairs back from the reactors. False when one of them did not answer.
    fn freeze(&self) -> (Vec<(usize, QueuePair)>, bool) {
        let (reply, answers) = mpsc::channel();
        let mut expected = 0;
        for reactor in &self.reactors {
            if reactor.send(Message::Freeze { drive: self.index, reply: reply.clone() }) {
                expected += 1;
            }
        }
        drop(reply);
        let deadline = Instant::now() + FREEZE_LIMIT;
        let mut pairs = Vec::new();
        for _ in 0..expected {
            match answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((reactor, Some(pair))) => pairs.push((reactor, pair)),
                Ok((_, None)) => {}
                Err(_) => return (pairs, false),
            }
        }
        (pairs, true)
    }

    fn reset(&mut self, why: &str) {
        if self.failed {
            return;
        }
        tracing::warn!(drive = %self.name, why, "resetting the drive; commands to it wait");
        let (pairs, complete) = self.freeze();
        if !complete {
            return self.fail("a reactor did not stop using it", abandon(pairs));
        }
        let stopped = match self.controller.disable() {
            Ok(stopped) => stopped,
            Err(error) => return self.fail(&error.to_string(), abandon(pairs)),
        };
        let mut interrupted = Interrupted::new();
        for (reactor, pair) in pairs {
            match pair.dismantle(&stopped) {
                Ok(commands) => interrupted.push((reactor, commands)),
                Err(pair) => interrupted.extend(abandon(vec![(reactor, pair)])),
            }
        }
        let restarted = self.controller.restart();
        // The admin queue was made anew: what it had is answered here, its memory is free.
        for (_, reply) in self.outstanding.drain() {
            answer(reply, Status::COMMAND_INTERRUPTED);
        }
        for (_, data) in self.controller.take_aborted_admin() {
            self.release(data);
        }
        // Faults that were reported of the queues that are gone are settled; those of the new ones are not.
        let requests: Vec<Request> = self.inbox.try_iter().collect();
        for request in requests {
            if !matches!(request, Request::Fault(_)) {
                let _ = self.link.sender.send(request);
            }
        }
        match restarted.and_then(|()| self.create_pairs()) {
            Ok(pairs) => {
                self.hand_out(pairs, interrupted);
                tracing::info!(drive = %self.name, "the drive works again");
            }
            Err(error) => self.fail(&error.to_string(), interrupted),
        }
    }

    fn fail(&mut self, why: &str, mut interrupted: Interrupted) {
        tracing::error!(drive = %self.name, why, "the drive is lost; commands to it fail from now on");
        self.failed = true;
        for reactor in &self.reactors {
            let interrupted = take_share(&mut interrupted, reactor.index);
            reactor.send(Message::Thaw { drive: self.index, state: DriveState::Failed, interrupted });
        }
        for (_, reply) in self.outstanding.drain() {
            answer(reply, Status::INTERNAL_PATH_ERROR);
        }
    }

    fn shutdown(&mut self) {
        let (pairs, _) = self.freeze();
        match self.controller.shutdown() {
            Ok(stopped) => {
                for (_, pair) in pairs {
                    if let Err(pair) = pair.dismantle(&stopped) {
                        drop(pair);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(drive = %self.name, %error, "the drive did not shut down in order");
            }
        }
    }
}

/// Commands that a drive never completed, by reactor.
type Interrupted = Vec<(usize, Vec<(u64, CommandData)>)>;

fn take_share(interrupted: &mut Interrupted, reactor: usize) -> Vec<(u64, CommandData)> {
    let share = interrupted.iter().position(|(index, _)| *index == reactor);
    share.map(|at| interrupted.swap_remove(at).1).unwrap_or_default()
}

/// Gives up pairs whose drive is not known to have stopped: their commands are answered, their memory is never used
/// again.
fn abandon(pairs: Vec<(usize, QueuePair)>) -> Interrupted {
    pairs
        .into_iter()
        .map(|(reactor, pair)| {
            (reactor, pair.abandon().into_iter().map(|user| (user, CommandData::None)).collect())
        })
        .collect()
}

fn answer(reply: oneshot::Sender<AdminReply>, status: Status) {
    let _ = reply.send(AdminReply { entry: CompletionQueueEntry::new(0, status), data: Vec::new() });
}
