//! A drive and its manager: the thread that owns the controller, its admin queue and its recovery.
//!
//! Reactors own the I/O queue pairs. To reset a drive the manager asks every reactor for its pair back (owning the
//! pair is the proof that nobody else touches it), stops the controller, and only then frees what the drive could
//! reach. Commands that arrive meanwhile wait in the reactors' software queues. [`limits`] lists the steps that are
//! taken before that, and how long each may take.
//!
//! # What crosses threads
//!
//! Messages, in both directions, over channels that keep their order, and queue pairs, which move in them. There is
//! no state that two threads share but the [`Opener`], which one thread at a time uses (the one that opens a drive that
//! was removed), and the number that says which events hosts want. So what has to be argued is which messages can be late:
//!
//! - What a reactor reports of its queue pair may arrive when that pair is gone. A report names the pair by the number
//!   under which it was issued, and the manager drops those of another number.
//! - A command that a reactor reported as overdue may complete while the manager has it aborted, and its identifier may
//!   name another command by then. So the queue pair is asked for under the condition that the command of this identifier
//!   is overdue, which the reactor, who owns it, looks at when it answers.
//! - A drive that was removed may be opened when the manager has ended. It is closed then. Before that the manager, which
//!   has it opened once at a time, waits for it in no other state.
//! - A reactor may answer when the manager no longer waits. Its answer, the pair, comes back to it then: it gives the
//!   pair's memory up and answers the commands.

mod abort;
mod admin;
mod events;
mod info;
mod ladder;
mod limits;
mod link;
mod manager;
mod power;
mod removal;
mod turns;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use gangway_driver::controller::{Controller, ControllerError, Options};
use gangway_driver::dma::{BufferPool, Direction, DmaError};
use gangway_driver::function::Function;
use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::identify::{IDENTIFY_LENGTH, cns};
use gangway_spec::opcode;
use gangway_spec::status::Status;
use tokio::sync::{broadcast, mpsc, oneshot};

use self::abort::Target;
pub(crate) use self::abort::{Ticket, Verdict};
use self::admin::Admin;
pub use self::events::DriveEvent;
pub(crate) use self::events::NamespaceChange;
pub use self::info::{DriveInfo, DriveNamespace};
pub(crate) use self::link::{AdminReply, AdminTransfer, DriveLink};
use self::link::{AdminRequest, Request};
use self::manager::Manager;
pub(crate) use self::turns::{Turn, Turns};
use crate::association::Association;
use crate::reactor::ReactorHandle;
use crate::remote::{Collected, SeriesLock};

/// Memory for data of admin commands.
const ADMIN_MEMORY: usize = 2 << 20;
/// Events that a subscriber may be behind before it misses some.
const EVENTS: usize = 64;

/// Why a drive cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// Its function could not be opened.
    #[error(transparent)]
    Open(OpenError),
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
    /// The kernel refused what the manager needs.
    #[error("{drive}: cannot start its manager: {source}")]
    Manager {
        /// The drive.
        drive: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The manager's thread has ended.
    #[error("{drive}: its manager is not running")]
    Gone {
        /// The drive.
        drive: String,
    },
}

/// Why a function could not be opened.
pub type OpenError = Box<dyn std::error::Error + Send + Sync>;

/// Opens the function of a drive: when it is started, and again and again after it was removed.
pub type Opener = Box<dyn FnMut() -> Result<Box<dyn Function>, OpenError> + Send>;

/// A started drive.
#[derive(Debug)]
pub struct Drive {
    index: usize,
    info: Arc<DriveInfo>,
    /// What is in force on the reactors.
    namespaces: Mutex<Arc<[DriveNamespace]>>,
    series: SeriesLock,
    turns: Turns,
    alteration: tokio::sync::Mutex<()>,
    reservable: tokio::sync::RwLock<()>,
    link: DriveLink,
    events: broadcast::Sender<DriveEvent>,
    telemetry: Collected,
    /// Tickets that were given.
    tickets: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drive {
    /// Starts the controller of the function that `open` gives, and a manager for it. Blocks until the controller is
    /// ready. When the drive is removed, `open` is called until the drive is back.
    ///
    /// # Errors
    /// [`DriveError`] when the function cannot be opened, or the controller does not start or does not identify itself.
    pub fn start(index: usize, mut open: Opener, options: Options) -> Result<Self, DriveError> {
        let function = open().map_err(DriveError::Open)?;
        let name = function.name().to_owned();
        let failed = |source| DriveError::Controller { drive: name.clone(), source };
        let mut controller = Controller::start(function, options.clone()).map_err(failed)?;
        let info = Arc::new(DriveInfo::read(name.clone(), &mut controller).map_err(failed)?);
        let memory =
            BufferPool::new(controller.domain(), Direction::DeviceWrites, ADMIN_MEMORY, ADMIN_MEMORY)
                .map_err(|source| DriveError::Memory { drive: name.clone(), source })?;
        let refused = |source| DriveError::Manager { drive: name.clone(), source };
        let (link, inbox) = DriveLink::new().map_err(refused)?;
        let (events, _) = broadcast::channel(EVENTS);
        let manager = Manager::new(
            index,
            (open, options),
            Arc::clone(&info),
            controller,
            Admin::new(memory),
            (link.clone(), inbox),
            events.clone(),
        );
        let thread = std::thread::Builder::new()
            .name(format!("drive-{index}"))
            .spawn(move || manager.run())
            .map_err(refused)?;
        Ok(Self {
            index,
            namespaces: Mutex::new(info.namespaces.as_slice().into()),
            info,
            series: SeriesLock::default(),
            turns: Turns::default(),
            alteration: tokio::sync::Mutex::default(),
            reservable: tokio::sync::RwLock::default(),
            link,
            events,
            telemetry: Collected::default(),
            tickets: AtomicU64::new(0),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Index of the drive in the process.
    pub fn index(&self) -> usize {
        self.index
    }

    /// What it said of itself when it was started.
    pub fn info(&self) -> &Arc<DriveInfo> {
        &self.info
    }

    /// Its namespaces as they are now, by NSID.
    pub fn namespaces(&self) -> Arc<[DriveNamespace]> {
        Arc::clone(&self.namespaces.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes note of a change of its namespaces, which is about to be put in force. Gives the former ones.
    pub(crate) fn set_namespaces(&self, namespaces: Arc<[DriveNamespace]>) -> Arc<[DriveNamespace]> {
        std::mem::replace(&mut self.namespaces.lock().unwrap_or_else(PoisonError::into_inner), namespaces)
    }

    /// Who is in the midst of what takes several commands.
    pub(crate) fn series(&self) -> &SeriesLock {
        &self.series
    }

    /// Whose turn it is to change it as a whole.
    pub(crate) fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Held by who gives its blocks another meaning.
    pub(crate) fn alteration(&self) -> &tokio::sync::Mutex<()> {
        &self.alteration
    }

    /// Shared by admin commands that reservations can forbid, from the check until the drive has ended them. Whoever had it
    /// alone after a reservation began knows that the drive has none that was allowed before.
    pub(crate) fn reservable(&self) -> &tokio::sync::RwLock<()> {
        &self.reservable
    }

    /// Whether `other` is another controller of the same NVM subsystem, where an NSID is unique (NVMe Base 2.0, 3.2.1.2).
    pub(crate) fn is_of_subsystem_of(&self, other: &Self) -> bool {
        let (one, two) = (&self.info.identify, &other.info.identify);
        self.index != other.index && (one.sn, one.mn) == (two.sn, two.mn)
    }

    /// A namespace that `other` has as well, being another controller of the same NVM subsystem. One that has none now,
    /// as it was pulled out, has those that it had when it was started.
    pub(crate) fn shares_namespace_with(&self, other: &Self) -> Option<u32> {
        if !self.is_of_subsystem_of(other) {
            return None;
        }
        let now = other.namespaces();
        let theirs = if now.is_empty() { &other.info.namespaces } else { &*now };
        let is_theirs = |nsid: &u32| theirs.iter().any(|namespace| namespace.nsid == *nsid);
        self.namespaces().iter().map(|namespace| namespace.nsid).find(is_theirs)
    }

    /// What happens to the drive from now on.
    pub fn events(&self) -> broadcast::Receiver<DriveEvent> {
        self.events.subscribe()
    }

    /// Changes of its namespaces since it was started, each to be acknowledged when it is in force. There is one
    /// receiver: whoever asks last.
    pub(crate) fn changes(&self) -> mpsc::UnboundedReceiver<NamespaceChange> {
        let (sender, changes) = mpsc::unbounded_channel();
        // A manager that has ended has no changes.
        self.link.send(Request::Follow(sender));
        changes
    }

    /// Gives each reactor a queue pair of the drive.
    pub(crate) async fn connect(&self, reactors: Vec<ReactorHandle>) -> Result<(), DriveError> {
        let (done, wait) = oneshot::channel();
        let gone = || DriveError::Gone { drive: self.info.name.clone() };
        if !self.link.send(Request::Connect { reactors, done }) {
            return Err(gone());
        }
        wait.await.map_err(|_| gone())?
    }

    /// What it was seen to have collected about itself.
    pub(crate) fn telemetry(&self) -> &Collected {
        &self.telemetry
    }

    /// Says what the drive is to tell of besides what its manager wants to know: bits of the Asynchronous Event
    /// Configuration.
    pub(crate) fn want_events(&self, configuration: u32) {
        self.link.want_events(configuration);
    }

    /// A name for an admin command, which [`Drive::abort`] knows it by.
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket(self.tickets.fetch_add(1, Ordering::Relaxed))
    }

    /// Asks for an admin command to be aborted. `verdict` is told when it was not; when it was, it completes.
    pub(crate) fn abort(&self, ticket: Ticket, verdict: Verdict) {
        self.link.send(Request::Abort { target: Target::Admin(ticket), verdict });
    }

    /// Drops an admin command that the drive has not got yet.
    pub(crate) fn withdraw(&self, ticket: Ticket) {
        self.link.send(Request::Withdraw(ticket));
    }

    /// Executes an admin command of a host. `None` when the manager has ended, or the host left before the drive had it.
    pub(crate) async fn admin(
        &self,
        ticket: Ticket,
        entry: SubmissionQueueEntry,
        transfer: AdminTransfer,
        association: Arc<Association>,
    ) -> Option<AdminReply> {
        self.execute(ticket, entry, transfer, Some(association)).await
    }

    /// Whether the drive has a namespace of this number, attached or not (CNS 10h). `None` when its manager has ended.
    ///
    /// # Errors
    /// The status that says why that cannot be known now.
    pub(crate) async fn allocates(&self, nsid: u32) -> Option<Result<bool, Status>> {
        let mut entry = SubmissionQueueEntry::new(opcode::admin::IDENTIFY);
        entry.nsid.set(nsid.saturating_sub(1));
        entry.cdw10.set(cns::ALLOCATED_NAMESPACE_LIST.into());
        let transfer = AdminTransfer::FromDrive(IDENTIFY_LENGTH);
        let AdminReply { entry, data } = self.execute(self.ticket(), entry, transfer, None).await?;
        Some(match entry.status() {
            // The list goes up from the next number.
            status if status.is_success() => Ok(data.starts_with(&nsid.to_le_bytes())),
            status => Err(status),
        })
    }

    async fn execute(
        &self,
        ticket: Ticket,
        entry: SubmissionQueueEntry,
        transfer: AdminTransfer,
        association: Option<Arc<Association>>,
    ) -> Option<AdminReply> {
        let (reply, wait) = oneshot::channel();
        self.link
            .send(Request::Admin(AdminRequest { ticket, entry, transfer, association, reply }))
            .then_some(wait)?
            .await
            .ok()
    }

    /// Takes the queue pairs back, shuts the controller down in order and ends the manager. Whether the controller was
    /// shut down in order, so that it kept all data that it had promised to keep. Nothing can be done with it afterwards.
    pub async fn shutdown(&self) -> bool {
        let (done, wait) = oneshot::channel();
        let in_order = self.link.send(Request::Shutdown { done }) && wait.await.unwrap_or(false);
        self.join();
        in_order
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
        self.link.send(Request::Shutdown { done });
        self.join();
    }
}
