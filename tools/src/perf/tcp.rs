//! A namespace behind NVMe/TCP: associations, and I/O queues that do no more per command than they must.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use gangway_fabric::congestion::CongestionControl;
use gangway_fabric::host::client::{AdminQueue, HostIdentity, Options};
use gangway_fabric::host::{ADMIN_IN_CAPSULE, Config, Connection, Data, Event, Want};
use gangway_fabric::pdu::DigestFlags;
use gangway_spec::fabrics::{ConnectCommand, ConnectData, HostId, Nqn};
use gangway_spec::registers::{self, ControllerCapabilities};
use gangway_spec::{SubmissionQueueEntry, TransferDirection};
use zerocopy::IntoBytes;

use super::namespace;
use super::outbound::Outbound;
use super::queue::{Done, IoQueue, Namespace, QueueShape, Session};

/// How long setting up a queue may take.
const SETUP: Duration = Duration::from_secs(15);

/// What a session is told about the host's side.
#[derive(Clone, Debug)]
pub(crate) struct HostOptions {
    /// The host's name; one made up for this process when there is none.
    pub(crate) nqn: Option<Nqn>,
    /// Whether to ask for SQ flow control.
    pub(crate) flow_control: bool,
    /// Which digests to ask for.
    pub(crate) digests: DigestFlags,
    /// After how long without a sign of life the target may end an association; zero for never.
    pub(crate) keep_alive: Duration,
}

/// A subsystem that this host is connected to, with as many associations as its queues need.
pub(crate) struct TcpSession {
    address: SocketAddr,
    subsystem: Nqn,
    identity: HostIdentity,
    options: Options,
    admins: Vec<AdminQueue>,
    namespace: Namespace,
    /// Bytes of data in a capsule of an I/O queue.
    in_capsule: u32,
    /// Most commands outstanding on a queue (CAP.MQES).
    most_outstanding: u16,
}

impl TcpSession {
    /// Connects and looks at a namespace; `nsid` 0 is the first one there is.
    ///
    /// # Errors
    /// The target cannot be reached or refuses, or has no such namespace.
    pub(crate) fn open(
        address: SocketAddr,
        subsystem: &Nqn,
        nsid: u32,
        host: &HostOptions,
    ) -> anyhow::Result<Self> {
        let id = uuid::Uuid::new_v4();
        let nqn = match &host.nqn {
            Some(nqn) => nqn.clone(),
            None => format!("nqn.2014-08.org.nvmexpress:uuid:{id}").parse()?,
        };
        let identity = HostIdentity { nqn, id: HostId(id.into_bytes()) };
        let options = Options {
            flow_control: host.flow_control,
            header_digest: host.digests.contains(DigestFlags::HEADER),
            data_digest: host.digests.contains(DigestFlags::DATA),
            kato: host.keep_alive,
            ..Options::default()
        };
        let mut admin = AdminQueue::connect(address, subsystem, &identity, &options)?;
        admin.enable()?;
        let capabilities = ControllerCapabilities::from_bits(admin.property_get(registers::CAP)?);
        let controller = admin.identify_controller()?;
        let nsid = if nsid > 0 { nsid } else { namespace::first(&admin.active_namespaces()?)? };
        let page = 4096 << capabilities.mpsmin();
        let max_transfer = controller.max_transfer(page).unwrap_or(u64::from(u32::MAX));
        let identify =
            admin.identify_namespace(nsid).with_context(|| format!("cannot use namespace {nsid}"))?;
        let namespace = namespace::examine(nsid, &identify, max_transfer)?;
        let entry = size_of::<SubmissionQueueEntry>() as u32;
        Ok(Self {
            address,
            subsystem: subsystem.clone(),
            identity,
            options,
            admins: vec![admin],
            namespace,
            in_capsule: controller.ioccsz.get().saturating_mul(16).saturating_sub(entry),
            most_outstanding: capabilities.mqes(),
        })
    }

    /// Associations that there are.
    pub(crate) fn associations(&self) -> usize {
        self.admins.len()
    }

    /// Gives a sign of life.
    ///
    /// # Errors
    /// An association has ended.
    pub(crate) fn keep_alive(&mut self) -> anyhow::Result<()> {
        Ok(self.admins.iter_mut().try_for_each(AdminQueue::keep_alive)?)
    }

    fn connect_queue(&self, cntlid: u16, qid: u16, shape: QueueShape) -> anyhow::Result<TcpQueue> {
        let config = Config {
            hpda: 0,
            digests: self.options.digests(),
            queue_size: shape.depth + 1,
            in_capsule: self.in_capsule,
            fabrics_in_capsule: ADMIN_IN_CAPSULE,
        };
        let mut command = ConnectCommand::new(qid, config.queue_size);
        if !self.options.flow_control {
            command.cattr = ConnectCommand::CATTR_DISABLE_SQ_FLOW_CONTROL;
        }
        let mut data = ConnectData::new(self.identity.id, &self.subsystem, &self.identity.nqn);
        data.cntlid.set(cntlid);
        let stream = TcpStream::connect_timeout(&self.address, self.options.connect_timeout)?;
        stream.set_nodelay(true)?;
        CongestionControl::Auto.apply(&stream)?;
        let mut setup = Setup { stream, connection: Connection::new(config) };
        setup.run(&command.into(), &data)?;
        setup.stream.set_nonblocking(true)?;
        Ok(TcpQueue::new(setup.stream, setup.connection, shape))
    }
}

impl Session for TcpSession {
    type Queue = TcpQueue;

    fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn queues(&mut self, count: usize, shape: QueueShape) -> anyhow::Result<Vec<TcpQueue>> {
        ensure!(
            shape.depth <= self.most_outstanding,
            "the controller takes {} commands on a queue at most: choose a smaller --depth",
            self.most_outstanding
        );
        // One association may grant fewer queues than are wanted; all of them are made before the first I/O.
        let mut grants = Vec::new();
        let mut missing = count;
        while missing > 0 {
            if grants.len() == self.admins.len() {
                let mut admin =
                    AdminQueue::connect(self.address, &self.subsystem, &self.identity, &self.options)?;
                admin.enable()?;
                self.admins.push(admin);
            }
            let admin = &mut self.admins[grants.len()];
            let granted = admin.set_number_of_queues(missing.try_into().unwrap_or(u16::MAX))?;
            ensure!(granted > 0, "the controller grants no I/O queue");
            missing -= missing.min(granted.into());
            grants.push((admin.cntlid(), granted));
        }
        let places =
            grants.into_iter().flat_map(|(cntlid, granted)| (1..=granted).map(move |qid| (cntlid, qid)));
        places
            .take(count)
            .map(|(cntlid, qid)| {
                self.connect_queue(cntlid, qid, shape)
                    .with_context(|| format!("cannot connect I/O queue {qid}"))
            })
            .collect()
    }

    fn close(self, queues: Vec<TcpQueue>) -> anyhow::Result<()> {
        drop(queues);
        for admin in self.admins {
            admin.shutdown()?;
        }
        Ok(())
    }
}

/// A queue that is being set up, on a socket that blocks.
struct Setup {
    stream: TcpStream,
    connection: Connection,
}

impl Setup {
    fn run(&mut self, command: &SubmissionQueueEntry, data: &ConnectData) -> anyhow::Result<()> {
        let mut out = Vec::new();
        self.connection.start(&mut out);
        self.exchange(&mut out, |event| matches!(event, Event::Initialized { .. }))?;
        let data = data.as_bytes();
        self.connection.submit(command, Data::Send(data.len() as u32), &mut out)?;
        // Behind the capsule in any case: no controller takes less than 8 KiB there (NVMe/TCP 1.0, 3.3.2.1).
        out.extend_from_slice(data);
        self.connection.data_end(data, &mut out);
        let event = self.exchange(&mut out, |event| matches!(event, Event::Response { .. }))?;
        let Event::Response { tag, entry, .. } = event else {
            bail!("the controller did not answer Connect")
        };
        self.connection.release(tag);
        let status = entry.status();
        if let Some(name) = (!status.is_success()).then(|| status.fabrics_name().unwrap_or("unknown status"))
        {
            bail!("Connect was refused: {name} ({status})");
        }
        let required = ConnectCommand::RESPONSE_AUTHENTICATION_REQUIRED
            | ConnectCommand::RESPONSE_SECURE_CHANNEL_REQUIRED;
        ensure!(
            entry.dw0.get() & required == 0,
            "the controller wants authentication, which is not supported"
        );
        Ok(())
    }

    /// Sends `out` and receives until something `wanted` happens. Nothing else is expected, and nothing is read that
    /// belongs to what comes later.
    fn exchange(&mut self, out: &mut Vec<u8>, wanted: impl Fn(&Event) -> bool) -> anyhow::Result<Event> {
        std::io::Write::write_all(&mut self.stream, out)?;
        out.clear();
        let deadline = Instant::now() + SETUP;
        let mut byte = [0];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "no answer within {} s", SETUP.as_secs());
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut byte) {
                Ok(0) => bail!("the controller closed the connection"),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(error) => return Err(error.into()),
            }
            match self.connection.receive(&byte, out)? {
                (_, Some(event)) if wanted(&event) => return Ok(event),
                (1, None) => {}
                _ => bail!("the controller answered something else than was expected"),
            }
        }
    }
}

/// Where the data of commands is.
enum Store {
    /// The same for all writes; what is read is dropped.
    Common(Box<[u8]>),
    /// Each slot's own, one behind the other.
    Own(Box<[u8]>),
}

/// An I/O queue over TCP.
pub(crate) struct TcpQueue {
    stream: TcpStream,
    connection: Connection,
    outbound: Outbound,
    store: Store,
    unit_bytes: usize,
    /// Slot of each tag.
    slots: Box<[u16]>,
}

impl TcpQueue {
    fn new(stream: TcpStream, connection: Connection, shape: QueueShape) -> Self {
        let QueueShape { depth, unit_bytes, keep_data } = shape;
        let store = if keep_data {
            Store::Own(vec![0; unit_bytes * usize::from(depth)].into())
        } else {
            Store::Common(vec![0xa5; unit_bytes].into())
        };
        let slots = vec![0; usize::from(depth) + 1].into();
        Self { stream, connection, outbound: Outbound::default(), store, unit_bytes, slots }
    }

    /// Where the data of a slot begins in the store.
    fn start(&self, slot: usize) -> usize {
        match self.store {
            Store::Common(_) => 0,
            Store::Own(_) => slot * self.unit_bytes,
        }
    }

    /// Sends bytes of the store as the payload of the PDU whose header was written last.
    #[inline]
    fn send_data(&mut self, range: Range<usize>) {
        let (Store::Common(store) | Store::Own(store)) = &self.store;
        self.outbound.payload(range.clone());
        self.connection.data_end(&store[range], self.outbound.headers());
    }

    fn on_event(&mut self, event: Event, done: &mut Vec<Done>) -> anyhow::Result<()> {
        match event {
            Event::Response { tag, entry, received } => {
                let slot = usize::from(self.slots[tag.index()]);
                self.connection.release(tag);
                let short = received > 0 && received as usize != self.unit_bytes;
                ensure!(!short, "the controller sent {received} bytes in place of {}", self.unit_bytes);
                done.push(Done { slot, entry });
            }
            Event::DataRequested(mut transfer) => {
                let start = self.start(usize::from(self.slots[transfer.tag().index()]));
                while transfer.remaining() > 0 {
                    let range = self.connection.data_header(&mut transfer, self.outbound.headers());
                    self.send_data(start + range.start..start + range.end);
                }
            }
            Event::Initialized { .. } => {}
        }
        Ok(())
    }

    fn take(&mut self, mut bytes: &[u8], done: &mut Vec<Done>) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            let (taken, event) = match self.connection.want() {
                Want::Payload { tag, offset, remaining } => {
                    let count = bytes.len().min(remaining as usize);
                    if let Store::Own(store) = &mut self.store {
                        let start = usize::from(self.slots[tag.index()]) * self.unit_bytes + offset as usize;
                        store[start..start + count].copy_from_slice(&bytes[..count]);
                    }
                    (count, self.connection.placed(&bytes[..count]))
                }
                Want::Header { .. } => match self.connection.receive(bytes, self.outbound.headers()) {
                    Ok(result) => result,
                    Err(error) => {
                        // The reason for the end is more interesting than whether the controller hears of it.
                        let _ = self.flush();
                        return Err(error.into());
                    }
                },
                Want::Nothing => bail!("the connection has ended"),
            };
            bytes = &bytes[taken..];
            if let Some(event) = event {
                self.on_event(event, done)?;
            }
        }
        Ok(())
    }
}

impl IoQueue for TcpQueue {
    fn data(&mut self, slot: usize) -> &mut [u8] {
        let start = self.start(slot);
        let (Store::Common(store) | Store::Own(store)) = &mut self.store;
        &mut store[start..start + self.unit_bytes]
    }

    #[inline]
    fn submit(&mut self, slot: usize, entry: &SubmissionQueueEntry) -> anyhow::Result<()> {
        let length = self.unit_bytes as u32;
        let data = match entry.transfer_direction() {
            TransferDirection::HostToController => Data::Send(length),
            _ => Data::Receive(length),
        };
        let submitted = self.connection.submit(entry, data, self.outbound.headers())?;
        self.slots[submitted.tag.index()] = slot as u16;
        if submitted.in_capsule {
            let start = self.start(slot);
            self.send_data(start..start + self.unit_bytes);
        }
        Ok(())
    }

    #[inline]
    fn flush(&mut self) -> anyhow::Result<()> {
        if self.outbound.is_empty() {
            return Ok(());
        }
        let (Store::Common(store) | Store::Own(store)) = &self.store;
        self.outbound.send(&mut self.stream, store).context("cannot send to the controller")
    }

    #[inline]
    fn poll(&mut self, scratch: &mut [u8], done: &mut Vec<Done>) -> anyhow::Result<bool> {
        let count = match self.stream.read(scratch) {
            Ok(0) => bail!("the controller closed the connection"),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(false);
            }
            Err(error) => return Err(error).context("cannot receive from the controller"),
        };
        self.take(&scratch[..count], done)?;
        Ok(true)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.stream.as_fd())
    }

    #[inline]
    fn is_blocked(&self) -> bool {
        !self.outbound.is_empty()
    }
}
