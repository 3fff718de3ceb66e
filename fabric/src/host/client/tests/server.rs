//! A target as small as can be: one namespace in memory, one thread per connection.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use gangway_spec::fabrics::{CNTLID_MAX, Nqn, PropertyGet, PropertySet, fctype};
use gangway_spec::identify::cns;
use gangway_spec::log::{GetLogPage, lid};
use gangway_spec::registers::Version;
use gangway_spec::{
    IdentifyController, IdentifyNamespace, Status, SubmissionQueueEntry, TransferDirection, feature, nvm,
    opcode,
};
use zerocopy::IntoBytes;

use crate::connect::{ConnectError, ConnectRequest, accepted};
use crate::discovery::{Identity, Listing, LogPage};
use crate::events::{AsyncEvent, AsyncEvents};
use crate::properties::{Capabilities, Effect, Properties};
use crate::target::{CapsuleData, Config, Connection, Event, Reply, Slot, Want};

pub(super) const BLOCK: u32 = 512;
pub(super) const BLOCKS: u64 = 64 * 1024;

/// What differs between tests.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) target: Config,
    pub(super) listings: Vec<Listing>,
    /// Counts up with every read of the discovery log page, as if it changed all the time.
    pub(super) unstable: bool,
    /// Raised by a Keep Alive command, of all things, so that a test can choose when.
    pub(super) event: Option<AsyncEvent>,
    pub(super) allowed_host: Option<Nqn>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            target: Config { in_capsule_data: 4096, max_h2c_data: 128 * 1024 },
            listings: Vec::new(),
            unstable: false,
            event: None,
            allowed_host: None,
        }
    }
}

pub(super) fn subsystem() -> Nqn {
    "nqn.2014-08.org.example:drive".parse().unwrap()
}

struct Drive {
    setup: Setup,
    data: Mutex<Vec<u8>>,
    associations: Mutex<HashMap<u16, ConnectRequest>>,
    generation: Mutex<u64>,
}

/// A running target. It serves as many connections as it was started for.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(connections: usize, setup: Setup) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let drive = Arc::new(Drive {
            setup,
            data: Mutex::new(vec![0; (BLOCKS * u64::from(BLOCK)) as usize]),
            associations: Mutex::default(),
            generation: Mutex::new(1),
        });
        let thread = std::thread::spawn(move || {
            let sessions: Vec<_> = (0..connections)
                .map(|_| {
                    let (stream, _) = listener.accept().unwrap();
                    let drive = Arc::clone(&drive);
                    std::thread::spawn(move || Session::new(drive, stream).run())
                })
                .collect();
            for session in sessions {
                session.join().unwrap();
            }
        });
        Server { address, thread: Some(thread) }
    }

    /// Waits until all connections have ended, and fails if one of them panicked.
    pub(super) fn join(mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

struct Session {
    drive: Arc<Drive>,
    stream: TcpStream,
    connection: Connection,
    request: Option<ConnectRequest>,
    cntlid: u16,
    properties: Properties,
    events: AsyncEvents<Slot>,
    /// Commands whose data is arriving.
    waiting: HashMap<Slot, (SubmissionQueueEntry, Vec<u8>)>,
    out: Vec<u8>,
}

impl Session {
    fn new(drive: Arc<Drive>, stream: TcpStream) -> Session {
        let capabilities = Capabilities { max_queue_entries: 1024, timeout: Duration::from_secs(1), css: 1 };
        Session {
            connection: Connection::new(drive.setup.target),
            drive,
            stream,
            request: None,
            cntlid: 0,
            properties: Properties::new(capabilities.build(Version::V2_0), Version::V2_0),
            events: AsyncEvents::new(2),
            waiting: HashMap::new(),
            out: Vec::new(),
        }
    }

    fn run(mut self) {
        let mut buffer = vec![0; 40_000];
        loop {
            let count = match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(count) => count,
            };
            let mut bytes = &buffer[..count];
            while !bytes.is_empty() {
                let (taken, event) = match self.connection.want() {
                    Want::Header { .. } => {
                        self.connection.receive(bytes, &mut self.out).expect("a host that behaves")
                    }
                    Want::Payload { slot, offset, remaining } => {
                        let count = bytes.len().min(remaining as usize);
                        self.waiting.get_mut(&slot).unwrap().1[offset as usize..][..count]
                            .copy_from_slice(&bytes[..count]);
                        (count, self.connection.placed(&bytes[..count]))
                    }
                    want => panic!("{want:?}"),
                };
                bytes = &bytes[taken..];
                if let Some(event) = event {
                    self.on_event(event);
                }
            }
            // The host may be gone: it has got what it wanted.
            if self.stream.write_all(&self.out).is_err() {
                return;
            }
            self.out.clear();
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Initialized => {}
            Event::Command { slot, entry, data } => match data {
                CapsuleData::InCapsule { len } => {
                    self.waiting.insert(slot, (entry, vec![0; len as usize]));
                }
                CapsuleData::Transport { len }
                    if entry.transfer_direction() == TransferDirection::HostToController =>
                {
                    self.waiting.insert(slot, (entry, vec![0; len as usize]));
                    self.connection.request_data(slot, &mut self.out);
                }
                _ => self.execute(slot, entry, Vec::new()),
            },
            Event::DataComplete { slot, intact: true } => {
                let (entry, data) = self.waiting.remove(&slot).unwrap();
                self.execute(slot, entry, data);
            }
            event => panic!("{event:?}"),
        }
    }

    fn respond(&mut self, slot: Slot, status: Status, result: u64) {
        self.connection.respond(slot, &Reply { status, result }, &mut self.out);
    }

    fn send(&mut self, slot: Slot, data: &[u8]) {
        let end = self.connection.data_header(slot, data, &Reply::SUCCESS, &mut self.out);
        self.out.extend_from_slice(data);
        self.connection.data_end(end, &mut self.out);
    }

    fn execute(&mut self, slot: Slot, entry: SubmissionQueueEntry, data: Vec<u8>) {
        if entry.opcode == opcode::admin::FABRICS {
            return self.fabrics(slot, entry, &data);
        }
        match self.request.as_ref().map(ConnectRequest::is_admin) {
            Some(true) => self.admin(slot, entry),
            Some(false) => self.io(slot, entry, &data),
            None => self.respond(slot, Status::COMMAND_SEQUENCE_ERROR, 0),
        }
    }

    fn fabrics(&mut self, slot: Slot, entry: SubmissionQueueEntry, data: &[u8]) {
        let result = match entry.fctype() {
            fctype::CONNECT => match self.connect(&entry, data) {
                Ok(result) => Ok(result),
                Err(error) => return self.respond(slot, error.status, error.result()),
            },
            fctype::PROPERTY_GET => self.properties.get(&PropertyGet::from(entry)),
            fctype::PROPERTY_SET => self.properties.set(&PropertySet::from(entry)).map(|effect| {
                if let Effect::Shutdown { .. } = effect {
                    self.properties.shutdown_complete();
                }
                0
            }),
            _ => Err(Status::INVALID_OPCODE),
        };
        match result {
            Ok(result) => self.respond(slot, Status::SUCCESS, result),
            Err(status) => self.respond(slot, status, 0),
        }
    }

    fn connect(&mut self, entry: &SubmissionQueueEntry, data: &[u8]) -> Result<u64, ConnectError> {
        let request = ConnectRequest::parse(entry, data)?;
        request.check_queue_size(1024)?;
        if request.subsystem != subsystem() && !request.subsystem.is_discovery() {
            return Err(ConnectError::unknown_subsystem());
        }
        if self.drive.setup.allowed_host.as_ref().is_some_and(|host| *host != request.host) {
            return Err(ConnectError::host_not_allowed());
        }
        let mut associations = self.drive.associations.lock().unwrap();
        if request.is_admin() {
            self.cntlid = associations.len() as u16 + 1;
            assert!(self.cntlid <= CNTLID_MAX);
            associations.insert(self.cntlid, request.clone());
        } else {
            let admin = associations.get(&request.cntlid).ok_or(ConnectError::unknown_controller())?;
            request.check_association(admin)?;
            self.cntlid = request.cntlid;
        }
        self.connection.establish(request.qid, request.queue_size, !request.flow_control_disabled);
        self.request = Some(request);
        Ok(accepted(self.cntlid))
    }

    fn admin(&mut self, slot: Slot, entry: SubmissionQueueEntry) {
        if !self.properties.is_ready() {
            return self.respond(slot, Status::COMMAND_SEQUENCE_ERROR, 0);
        }
        match entry.opcode {
            opcode::admin::IDENTIFY => match self.identify(entry.cdw10.get() as u8, entry.nsid.get()) {
                Some(data) => self.send(slot, &data),
                None => self.respond(slot, Status::INVALID_FIELD, 0),
            },
            opcode::admin::SET_FEATURES => {
                assert_eq!(feature::feature_id(&entry), feature::fid::NUMBER_OF_QUEUES);
                let (submission, completion) = feature::queue_counts(entry.cdw11.get());
                let granted = feature::number_of_queues(submission.min(4), completion.min(4));
                self.respond(slot, Status::SUCCESS, granted.into());
            }
            opcode::admin::KEEP_ALIVE => {
                self.respond(slot, Status::SUCCESS, 0);
                if let Some(event) = self.drive.setup.event {
                    self.events.raise(event);
                }
                self.report();
            }
            opcode::admin::ASYNC_EVENT_REQUEST => {
                self.events.configure(u32::MAX);
                match self.events.request(slot) {
                    Ok(()) => self.report(),
                    Err(status) => self.respond(slot, status, 0),
                }
            }
            opcode::admin::GET_LOG_PAGE => {
                let get = GetLogPage::from(&entry);
                assert_eq!(get.lid, lid::DISCOVERY);
                let mut generation = self.drive.generation.lock().unwrap();
                *generation += u64::from(self.drive.setup.unstable);
                let local = self.stream.local_addr().unwrap().ip();
                let page = LogPage::new(*generation, &self.drive.setup.listings, local);
                drop(generation);
                let mut data = vec![0; get.length() as usize];
                page.read(get.lpo, &mut data);
                self.send(slot, &data);
            }
            _ => self.respond(slot, Status::INVALID_OPCODE, 0),
        }
    }

    fn report(&mut self) {
        while let Some((slot, result)) = self.events.report() {
            self.respond(slot, Status::SUCCESS, result);
        }
    }

    fn identify(&self, cns: u8, nsid: u32) -> Option<Vec<u8>> {
        let subsystem = &self.request.as_ref()?.subsystem;
        match cns {
            cns::CONTROLLER if subsystem.is_discovery() => {
                let identity = Identity {
                    cntlid: self.cntlid,
                    version: Version::V2_0,
                    model: "discovery",
                    serial: "1",
                    firmware: "1",
                    max_commands: 32,
                    async_event_limit: 2,
                    subsystem,
                };
                Some(identity.identify_controller().as_bytes().to_vec())
            }
            cns::CONTROLLER => {
                let mut controller = IdentifyController::default();
                controller.set_model("memory");
                controller.cntlid.set(self.cntlid);
                controller.ioccsz.set((self.drive.setup.target.in_capsule_data + 64) / 16);
                Some(controller.as_bytes().to_vec())
            }
            cns::ACTIVE_NAMESPACE_LIST => {
                // 1500 namespaces, so that one list is not enough.
                let mut list: Vec<u8> = (nsid + 1..=1500).take(1024).flat_map(u32::to_le_bytes).collect();
                list.resize(4096, 0);
                Some(list)
            }
            cns::NAMESPACE => {
                let mut namespace = IdentifyNamespace::default();
                namespace.nsze.set(BLOCKS);
                namespace.lbaf[0].lbads = 9;
                Some(namespace.as_bytes().to_vec())
            }
            _ => None,
        }
    }

    fn io(&mut self, slot: Slot, entry: SubmissionQueueEntry, data: &[u8]) {
        let start = nvm::slba(&entry) as usize * BLOCK as usize;
        let end = start + nvm::nlb(&entry) as usize * BLOCK as usize;
        let drive = Arc::clone(&self.drive);
        let mut store = drive.data.lock().unwrap();
        if end > store.len() {
            return self.respond(slot, Status::LBA_OUT_OF_RANGE.with_dnr(), 0);
        }
        match entry.opcode {
            opcode::nvm::READ => self.send(slot, &store[start..end]),
            opcode::nvm::WRITE => {
                store[start..end].copy_from_slice(data);
                self.respond(slot, Status::SUCCESS, 0);
            }
            opcode::nvm::FLUSH => self.respond(slot, Status::SUCCESS, 0),
            _ => self.respond(slot, Status::INVALID_OPCODE, 0),
        }
    }
}
