//! The control plane, on tokio: accepting connections, Connect, admin queues, and the life of associations. It talks
//! to reactors through messages and is never on the way of an I/O.

mod admin;
mod barrier;
mod exports;
mod handle;
mod link;
mod listen;
mod namespaces;
mod registry;
mod relay;
mod reservations;
mod session;
mod status;
mod under_way;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use gangway_driver::dma::DmaDomain;
use gangway_fabric::congestion::CongestionControl;
use gangway_spec::fabrics::Nqn;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use self::exports::Catalogue;
pub use self::handle::TargetHandle;
use self::registry::Registry;
use crate::association::Association;
use crate::drive::{Drive, DriveError, Verdict};
use crate::events::Notice;
use crate::export::{ExportConfig, ExportError, RemoveError};
use crate::reactor::{self, Message, ReactorConfig, ReactorError, ReactorHandle, ReservationRequest, Scope};
use crate::reservation::{Reservations, StateError, Store};

/// Connections at most that have not said yet what they are for.
const STRANGERS: usize = 256;
/// How long after hosts have gone their memory is given back, in one go for all that went meanwhile.
const TIDY: Duration = Duration::from_secs(5);
/// How long commands on drives may take when the target ends, before the drives are stopped with them.
const FAREWELL: Duration = Duration::from_secs(10);

/// What a target serves, and with what.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// The CPUs to run a reactor on, one each.
    pub reactors: Vec<usize>,
    /// Sizes of each reactor's memory.
    pub reactor: ReactorConfig,
    /// Where to listen. Port 0 takes any free port.
    pub listen: Vec<SocketAddr>,
    /// Connections at most, admin queues included, but those to the discovery controller. Further ones are refused as
    /// long as there are so many.
    pub max_connections: usize,
    /// How TCP keeps from sending more than the network carries.
    pub congestion_control: CongestionControl,
    /// Directory for what outlives the process: reservations that persist. Without one none do.
    pub state: Option<PathBuf>,
}

/// Why a target cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}{}", hint(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Connections cannot have the congestion control that they should.
    #[error(
        "cannot use congestion control {name}: {source} (/proc/sys/net/ipv4/tcp_available_congestion_control has what there is, \
         tcp_allowed_congestion_control beside it what does not need CAP_NET_ADMIN)"
    )]
    CongestionControl {
        /// Its name.
        name: CongestionControl,
        /// What the kernel said.
        source: io::Error,
    },
    /// A reactor cannot be started.
    #[error(transparent)]
    Reactor(#[from] ReactorError),
    /// A drive cannot be used.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// Two drives have one index.
    #[error("there is a drive {index} already")]
    SameDrive {
        /// The index.
        index: usize,
    },
    /// Two drives are controllers of one NVM subsystem, and have a namespace in common: what is reserved, or formatted, by
    /// way of one would not be known of the other.
    #[error(
        "{drive} and {other} are two controllers of one drive (model and serial number are the same), and both have \
         namespace {nsid}; serve it by way of one of them, with several exports if need be"
    )]
    SameNamespace {
        /// The one.
        drive: String,
        /// The other.
        other: String,
        /// A namespace that both have.
        nsid: u32,
    },
    /// An export cannot be made.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// Reservations that were kept cannot be known, or those to come cannot be kept.
    #[error(transparent)]
    State(#[from] StateError),
    /// It is too late to add anything.
    #[error("the target is ending")]
    Ended,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            " (another program, or another gangway, listens there; choose with --listen)"
        }
        io::ErrorKind::AddrNotAvailable => " (this machine has no such address)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need root)",
        _ => "",
    }
}

pub(crate) struct Shared {
    catalogue: Catalogue,
    pub(crate) reservations: Arc<Reservations>,
    reactors: Vec<ReactorHandle>,
    reactor_config: ReactorConfig,
    registry: Registry,
    listeners: Vec<SocketAddr>,
    max_connections: usize,
    strangers: Arc<Semaphore>,
    /// Told when an association has ended.
    departed: Notify,
    /// Held while it is found out which events the hosts of drives want.
    adding_up: Mutex<()>,
}

impl Shared {
    /// Sends every reactor a message and waits until all have answered.
    async fn tell_all(&self, message: impl Fn(oneshot::Sender<()>) -> Message) {
        let mut answers = Vec::new();
        for reactor in &self.reactors {
            let (done, answer) = oneshot::channel();
            if reactor.send(message(done)) {
                answers.push(answer);
            }
        }
        for answer in answers {
            let _ = answer.await;
        }
    }

    /// Tells every host of an export, from any thread.
    pub(crate) fn tell_hosts(&self, export: usize, notice: Notice) {
        for association in self.registry.of_export(export) {
            association.tell(notice.clone());
        }
    }

    /// Whether there are as many connections as there can be.
    fn is_full(&self) -> bool {
        let queues: usize = self.reactors.iter().map(ReactorHandle::connections).sum();
        self.registry.with_exports() + queues >= self.max_connections
    }

    /// Waits until no command in `scope` is left on a drive.
    async fn drain(&self, scope: Scope) {
        self.tell_all(|done| Message::Drain { scope: scope.clone(), done }).await;
    }

    /// Waits until nothing is left on the drive of what the host of an association sent on queues that are gone, or
    /// in other associations.
    async fn drain_host(&self, association: &Association) {
        let Some(export) = association.export else { return };
        self.drain(Scope::Host { host: association.host(), export, association: association.id }).await;
    }

    /// Aborts command `cid` of an association's I/O queue `qid`: see [`Verdict`].
    fn abort(&self, association: &Association, (qid, cid): (u16, u16), verdict: &Verdict) {
        for reactor in &self.reactors {
            let (association, verdict) = (association.id, verdict.clone());
            reactor.send(Message::Abort { association, qid, cid, verdict });
        }
    }

    /// Drops the I/O queues of an association.
    async fn close_queues(&self, association: &Association) {
        let association = association.id;
        self.tell_all(|done| Message::Close { association, done }).await;
    }

    /// Ends an association: its I/O queues and its admin queue.
    async fn close(&self, association: &Association) {
        association.close();
        self.registry.remove(association);
        self.want_events(association, 0);
        self.close_queues(association).await;
        self.departed.notify_one();
    }
}

/// A running target.
pub struct Target {
    shared: Arc<Shared>,
    tasks: Arc<Tasks>,
    _threads: Reactors,
}

/// What goes on beside each other. It ends with the target.
type Tasks = Mutex<JoinSet<()>>;

/// The reactors of a target. They end with it, also when it did not come to be.
#[derive(Default)]
struct Reactors {
    handles: Vec<ReactorHandle>,
    threads: Vec<JoinHandle<()>>,
}

impl Reactors {
    fn start(
        &mut self,
        index: usize,
        cpu: usize,
        domain: &DmaDomain,
        config: &ReactorConfig,
        reservations: mpsc::UnboundedSender<ReservationRequest>,
    ) -> Result<(), ReactorError> {
        let (handle, thread) = reactor::spawn(index, cpu, domain, config, reservations)?;
        self.handles.push(handle);
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Reactors {
    fn drop(&mut self) {
        for handle in &self.handles {
            handle.send(Message::Stop);
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a reactor panicked");
            }
        }
    }
}

impl Target {
    /// Starts reactors, connects the drives to them and listens. Exports name drives by their [`Drive::index`].
    ///
    /// # Errors
    /// [`TargetError`].
    pub async fn start(
        config: TargetConfig,
        domain: &DmaDomain,
        drives: Vec<Drive>,
        exports: Vec<ExportConfig>,
    ) -> Result<Self, TargetError> {
        let mut sockets = Vec::new();
        for address in &config.listen {
            sockets.push(listen::listen(*address, &config.congestion_control)?);
        }
        let listeners = sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect();

        let store = config.state.as_deref().map(Store::open).transpose()?;
        let mut threads = Reactors::default();
        let (sender, requests) = mpsc::unbounded_channel();
        for (index, cpu) in config.reactors.iter().enumerate() {
            threads.start(index, *cpu, domain, &config.reactor, sender.clone())?;
        }
        let shared = Arc::new(Shared {
            catalogue: Catalogue::default(),
            reservations: Arc::new(Reservations::new(store)),
            reactors: threads.handles.clone(),
            reactor_config: config.reactor,
            registry: Registry::default(),
            listeners,
            max_connections: config.max_connections,
            strangers: Arc::new(Semaphore::new(STRANGERS)),
            departed: Notify::new(),
            adding_up: Mutex::default(),
        });
        let target = Self { shared: Arc::clone(&shared), tasks: Arc::default(), _threads: threads };
        let prepared = async {
            for drive in drives {
                target.add_drive(drive).await?;
            }
            for export in exports {
                target.add_export(export).await?;
            }
            Ok(())
        };
        if let Err(error) = prepared.await {
            // In order, while there are reactors to give queue pairs back.
            target.shutdown().await;
            return Err(error);
        }
        let mut tasks = target.tasks();
        for socket in sockets {
            tasks.spawn(listen::accept(socket, Arc::clone(&shared)));
        }
        tasks.spawn(Arc::clone(&shared).serve_reservations(requests));
        tasks.spawn(tidy_up(Arc::clone(&shared)));
        drop(tasks);
        Ok(target)
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`TargetHandle::add_drive`].
    ///
    /// # Errors
    /// As there.
    pub async fn add_drive(&self, drive: Drive) -> Result<(), TargetError> {
        self.handle().add_drive(drive).await
    }

    /// See [`TargetHandle::remove_drive`].
    ///
    /// # Errors
    /// As there.
    pub async fn remove_drive(&self, index: usize) -> Result<bool, RemoveError> {
        self.handle().remove_drive(index).await
    }

    /// See [`TargetHandle::add_export`].
    ///
    /// # Errors
    /// As there.
    pub async fn add_export(&self, config: ExportConfig) -> Result<(), TargetError> {
        self.handle().add_export(config).await
    }

    /// See [`TargetHandle::remove_export`].
    ///
    /// # Errors
    /// As there.
    pub async fn remove_export(&self, nqn: &Nqn) -> Result<(), RemoveError> {
        self.handle().remove_export(nqn).await
    }

    /// The addresses that it listens on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.shared.listeners
    }

    /// What asks the target, and changes it, while it runs.
    pub fn handle(&self) -> TargetHandle {
        TargetHandle { shared: Arc::clone(&self.shared), tasks: Arc::downgrade(&self.tasks) }
    }

    /// Associations that exist now.
    pub fn associations(&self) -> usize {
        self.shared.registry.all().len()
    }

    /// Ends in order: no new connections, hosts dropped, commands on the drives completed, drives shut down. Gives the
    /// names of the drives that could not be shut down in order: they may not have kept all data that they had promised
    /// to keep.
    pub async fn shutdown(self) -> Vec<String> {
        self.shared.end_changes().await;
        let mut tasks = std::mem::take(&mut *self.tasks());
        tasks.shutdown().await;
        for association in self.shared.registry.all() {
            self.shared.close(&association).await;
        }
        let drained = async {
            for export in self.shared.exports().iter() {
                self.shared.drain(Scope::Export(export.index)).await;
            }
        };
        if tokio::time::timeout(FAREWELL, drained).await.is_err() {
            tracing::warn!("drives still have commands of hosts that are gone; they are stopped with them");
        }
        // All at once: one that takes its time must not hold up the others, should somebody lose patience.
        let mut shutdowns = JoinSet::new();
        for drive in self.shared.catalogue.drives().iter() {
            let drive = Arc::clone(drive);
            shutdowns.spawn(async move { (!drive.shutdown().await).then(|| drive.info().name.clone()) });
        }
        shutdowns.join_all().await.into_iter().flatten().collect()
    }
}

/// Gives the memory of hosts that have gone back to the system.
async fn tidy_up(shared: Arc<Shared>) {
    loop {
        shared.departed.notified().await;
        tokio::time::sleep(TIDY).await;
        // It may take milliseconds, which other tasks need not wait for.
        let _ = tokio::task::spawn_blocking(gangway_driver::heap::give_back).await;
    }
}
