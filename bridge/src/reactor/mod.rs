//! Reactors: one pinned thread each, owning some connections and one queue pair per drive.
//!
//! A turn takes what arrived on sockets, puts commands onto hardware queues, rings each doorbell once, reaps
//! completions and sends all replies of a connection with one call. It spins only while drives have commands of it,
//! and sleeps on its sockets otherwise. Nothing on the way of a command allocates, locks or logs.

mod batch;
mod budget;
mod commands;
mod connection;
mod message;
mod sockets;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gangway_driver::dma::{BufferPool, CommandData, Direction, DmaDomain, DmaError, ReceivePool};
use gangway_driver::queue::Completion;
use gangway_fabric::target::Reply;
use gangway_spec::status::Status;
use rustix::event::Timespec;
use slab::Slab;
use tokio::sync::oneshot;

use self::commands::{Engine, GivenUp, Way};
use self::connection::{Connection, Context, End, Phase};
pub(crate) use self::message::{Adoption, DriveState, Message, ReactorHandle, Scope};
use self::sockets::{Receive, ReceiveMemory, SocketEvent, Sockets};
use crate::admission::ExportView;
use crate::remote::limits;

/// Turns without news before a reactor that waits for a drive starts to sleep between looks.
const SPINS: u32 = 500;
/// How long such a sleep takes at first, and how long when nothing comes for long.
const NAP: Duration = Duration::from_micros(50);
const LONG_NAP: Duration = Duration::from_millis(1);
/// Turns without news before naps become long ones.
const NAPS: u32 = SPINS + 200;
/// How often time limits are looked at.
const HOUSEKEEPING: Duration = Duration::from_millis(200);
/// How long the host may take to close a connection after a termination request (NVMe/TCP 1.0, 3.5).
const LINGER: Duration = Duration::from_secs(5);

/// Sizes of a reactor's memory.
#[derive(Clone, Copy, Debug)]
pub struct ReactorConfig {
    /// Bytes for data of writes, and as many again for data of reads.
    pub data_memory: usize,
    /// Bytes of a chunk of receive memory.
    pub receive_chunk: usize,
    /// Chunks of receive memory.
    pub receive_chunks: usize,
    /// The largest transfer of one command, in bytes.
    pub max_transfer: usize,
    /// How long a drive may take for a command before it counts as stuck.
    pub io_timeout: Duration,
    /// How long a host may neither send data that it was asked for nor receive answers, while others wait for the
    /// memory that this takes. Then its connection is ended.
    pub host_timeout: Duration,
}

impl Default for ReactorConfig {
    fn default() -> Self {
        Self {
            data_memory: 32 << 20,
            receive_chunk: 128 << 10,
            receive_chunks: 64,
            max_transfer: 1 << 20,
            io_timeout: Duration::from_secs(25),
            host_timeout: Duration::from_secs(5),
        }
    }
}

/// Why a reactor could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ReactorError {
    /// Its memory could not be had.
    #[error("cannot set aside memory for reactor {index}: {source}")]
    Memory {
        /// The reactor.
        index: usize,
        /// What went wrong.
        source: DmaError,
    },
    /// The kernel refused something.
    #[error("cannot start reactor {index} on CPU {cpu}: {source}")]
    Start {
        /// The reactor.
        index: usize,
        /// Where it should run.
        cpu: usize,
        /// What went wrong.
        source: io::Error,
    },
}

pub(crate) struct Reactor {
    inbox: mpsc::Receiver<Message>,
    wake: Arc<OwnedFd>,
    sockets: Sockets,
    memory: ReceiveMemory,
    connections: Slab<Connection>,
    /// Connection of each socket.
    by_socket: Vec<usize>,
    exports: Vec<Arc<ExportView>>,
    engine: Engine,
    events: Vec<SocketEvent>,
    given_up: Vec<GivenUp>,
    /// Connections with replies that have not been handed to their socket.
    to_flush: Vec<usize>,
    /// Connections that wait for a buffer before they can receive more.
    starved: VecDeque<usize>,
    /// Connections that may have room for commands that they held back.
    unsettled: Vec<usize>,
    drains: Vec<Drain>,
    now: Instant,
    housekeeping: Instant,
    fruitless: u32,
    index: usize,
    memory_limit: usize,
    host_timeout: Duration,
    stopped: bool,
}

struct Drain {
    scope: Scope,
    before: u64,
    done: oneshot::Sender<()>,
}

/// Starts reactor `index` on `cpu`.
pub(crate) fn spawn(
    index: usize,
    cpu: usize,
    domain: &DmaDomain,
    config: &ReactorConfig,
) -> Result<(ReactorHandle, JoinHandle<()>), ReactorError> {
    let memory = |source| ReactorError::Memory { index, source };
    let start = |source| ReactorError::Start { index, cpu, source };
    let pool = |direction| BufferPool::new(domain, direction, config.data_memory, config.max_transfer);
    let to_drive = pool(Direction::DeviceReads).map_err(memory)?;
    let from_drive = pool(Direction::DeviceWrites).map_err(memory)?;
    let capsules = BufferPool::new(
        domain,
        Direction::DeviceReads,
        config.receive_chunk * config.receive_chunks / 4,
        limits::IN_CAPSULE_DATA as usize,
    )
    .map_err(memory)?;
    let receive = ReceivePool::new(domain, config.receive_chunk, config.receive_chunks).map_err(memory)?;
    let wake = Arc::new(sockets::wake_descriptor().map_err(start)?);
    let (sender, inbox) = mpsc::channel();
    let handle = ReactorHandle::new(index, sender, Arc::clone(&wake));
    let reactor = Reactor {
        inbox,
        sockets: Sockets::new(&wake).map_err(start)?,
        wake,
        memory: ReceiveMemory::new(receive),
        connections: Slab::new(),
        by_socket: Vec::new(),
        exports: Vec::new(),
        engine: Engine::new(to_drive, from_drive, capsules, config.io_timeout),
        events: Vec::with_capacity(256),
        given_up: Vec::with_capacity(64),
        to_flush: Vec::with_capacity(64),
        starved: VecDeque::new(),
        unsettled: Vec::with_capacity(64),
        drains: Vec::new(),
        now: Instant::now(),
        housekeeping: Instant::now(),
        fruitless: 0,
        index,
        memory_limit: config.data_memory / 4,
        host_timeout: config.host_timeout,
        stopped: false,
    };
    let thread = std::thread::Builder::new()
        .name(format!("reactor-{index}"))
        .spawn(move || {
            let mut cpus = rustix::thread::CpuSet::new();
            cpus.set(cpu);
            if let Err(error) = rustix::thread::sched_setaffinity(None, &cpus) {
                tracing::warn!(cpu, %error, "the reactor cannot be pinned to its CPU and runs where it is put");
            }
            reactor.run();
        })
        .map_err(start)?;
    Ok((handle, thread))
}

impl Reactor {
    fn run(mut self) {
        while !self.stopped {
            if let Err(error) = self.turn() {
                tracing::error!(%error, reactor = self.index, "epoll failed; the reactor ends");
                break;
            }
        }
        let keys: Vec<usize> = self.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.drop_connection(key);
        }
    }

    fn turn(&mut self) -> io::Result<()> {
        let patience = self.patience();
        let woken = self.sockets.wait(patience.as_ref(), &mut self.events)?;
        self.now = Instant::now();
        self.sockets.advance(&mut self.memory, &mut self.events);
        let mut news = !self.events.is_empty() || woken;
        self.handle_events();
        if woken {
            self.read_inbox();
        }
        // Batches that have left gave their buffers back.
        self.feed_the_waiting();
        self.pump();
        self.engine.ring();
        if self.engine.reap() > 0 {
            news = true;
            self.handle_completions();
            // Completions made room on the hardware queues and in the pools: use it within the same turn.
            self.feed_the_waiting();
            self.pump();
            self.engine.ring();
        }
        self.flush();
        self.sockets.advance(&mut self.memory, &mut self.events);
        self.fruitless = if news { 0 } else { self.fruitless.saturating_add(1) };
        if !self.drains.is_empty() {
            self.check_drains();
        }
        if self.now.duration_since(self.housekeeping) >= HOUSEKEEPING {
            self.keep_house();
        }
        Ok(())
    }

    /// How long the next wait may take: not at all while there is work, for ever when only sockets can bring some.
    fn patience(&self) -> Option<Timespec> {
        let of = |time: Duration| Timespec {
            tv_sec: time.as_secs() as i64,
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        if !self.events.is_empty() || self.sockets.has_work() {
            return Some(of(Duration::ZERO));
        }
        if self.engine.with_drives() > 0 {
            return Some(of(match self.fruitless {
                0..SPINS => Duration::ZERO,
                SPINS..NAPS => NAP,
                _ => LONG_NAP,
            }));
        }
        let closing = self.connections.iter().any(|(_, connection)| connection.phase != Phase::Open);
        // Hosts that keep memory from others are looked at then.
        let short =
            self.engine.is_short_of_memory(Way::ToDrive) || self.engine.is_short_of_memory(Way::FromDrive);
        let watched = closing || short || !self.starved.is_empty() || self.sockets.is_short_of_memory();
        watched.then(|| of(HOUSEKEEPING))
    }

    fn handle_events(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event {
                SocketEvent::Received { key, filling, bytes, result } => match self.connection_of(key) {
                    Some(key) if result.is_ok() => {
                        self.work(key, |connection, context| connection.received(filling, bytes, context));
                    }
                    found => {
                        if let Some(filling) = filling {
                            self.engine.release_buffer(filling.buffer);
                        }
                        if let Some(key) = found {
                            self.drop_connection(key);
                        }
                    }
                },
                SocketEvent::Sent { key, mut batch, result } => match self.connection_of(key) {
                    Some(key) => {
                        self.connections[key].batch_sent(batch, &mut self.engine);
                        self.unsettled.push(key);
                        self.list_flush(key);
                        if result.is_err() {
                            self.drop_connection(key);
                        } else if self.connections[key].congested {
                            self.work(key, |connection, context| Ok(connection.next_receive(context)));
                        }
                    }
                    None => batch.recycle(|buffer| self.engine.release_buffer(buffer)),
                },
                SocketEvent::HungUp { key } => {
                    if let Some(key) = self.connection_of(key) {
                        self.drop_connection(key);
                    }
                }
            }
        }
        self.events = events;
    }

    fn connection_of(&self, socket: usize) -> Option<usize> {
        self.by_socket.get(socket).copied().filter(|key| self.connections.contains(*key))
    }

    /// Lets a connection work, and does what comes of it.
    fn work(
        &mut self,
        key: usize,
        step: impl FnOnce(&mut Connection, &mut Context<'_>) -> Result<Option<Receive>, End>,
    ) {
        let Some(outcome) = self.on(key, step) else { return };
        let connection = &mut self.connections[key];
        match outcome {
            Ok(Some(receive)) => self.sockets.start_receive(connection.socket, receive),
            Ok(None) if connection.starved => self.starved.push_back(key),
            Ok(None) => {}
            Err(End::ByHost) => connection.phase = Phase::Closing { since: self.now },
            Err(End::Protocol(fatal)) => {
                tracing::warn!(host = %connection.claim.association().connect.host, %fatal, "an I/O connection is terminated");
                connection.phase = Phase::Closing { since: self.now };
                // What the host still sends is read and dropped: unread bytes would turn the close into a reset,
                // which can overtake the termination request.
                self.sockets.start_receive(connection.socket, Receive::Stream);
            }
        }
    }

    /// Gives a connection what it works with. What it has to say is sent at the end of the turn.
    fn on<T>(&mut self, key: usize, step: impl FnOnce(&mut Connection, &mut Context<'_>) -> T) -> Option<T> {
        let connection = self.connections.get_mut(key)?;
        let view = self.exports.get(connection.export)?;
        let mut context = Context {
            engine: &mut self.engine,
            view,
            now: self.now,
            key,
            memory_limit: self.memory_limit,
            may_share: self.memory.is_plentiful(),
        };
        let value = step(connection, &mut context);
        self.list_flush(key);
        Some(value)
    }

    fn list_flush(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        if !connection.flush_listed {
            connection.flush_listed = true;
            self.to_flush.push(key);
        }
    }

    fn flush(&mut self) {
        let mut keys = std::mem::take(&mut self.to_flush);
        for key in keys.drain(..) {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            connection.flush_listed = false;
            if let Some(batch) = connection.take_batch() {
                self.sockets.start_send(connection.socket, batch);
            } else if connection.phase != Phase::Open && connection.is_flushed() {
                self.sockets.finish(connection.socket);
            }
        }
        self.to_flush = keys;
    }

    fn pump(&mut self) {
        self.engine.pump(self.now, &mut self.given_up);
        while let Some(GivenUp { command, status }) = self.given_up.pop() {
            self.answer(command, status);
        }
    }

    /// Answers a command that is not with a drive.
    fn answer(&mut self, command: usize, status: Status) {
        match self.engine.commands.get(command).and_then(|command| command.connection) {
            Some(key) => {
                self.connections[key].give_up(command, status, &mut self.engine);
                self.list_flush(key);
            }
            None => self.engine.forget(command),
        }
    }

    fn handle_completions(&mut self) {
        let mut completions = std::mem::take(&mut self.engine.completions);
        for Completion { user, entry, data } in completions.drain(..) {
            // CRD points at the drive's own retry delays, which Identify does not show.
            let status = entry.status().with_crd(0);
            self.complete(user, data, &Reply { status, result: entry.result() });
        }
        self.engine.completions = completions;
    }

    fn complete(&mut self, user: u64, data: CommandData, reply: &Reply) {
        let Some(command) = self.engine.remove(user as usize) else {
            self.engine.release(data);
            return;
        };
        match command.connection {
            Some(key) => {
                self.connections[key].completed(command, data, reply, &mut self.engine);
                self.unsettled.push(key);
                self.list_flush(key);
            }
            // Its host is gone. The drive is done with the buffer only now.
            None => self.engine.release(data),
        }
    }

    /// Gives buffers that became free to those who wait for them, in order of arrival for each drive.
    fn feed_the_waiting(&mut self) {
        for way in [Way::FromDrive, Way::ToDrive] {
            while self.engine.is_short_of_memory(way)
                && let Some(index) = self.engine.next_fed(way)
            {
                let Some(key) = self.engine.commands.get(index).and_then(|command| command.connection) else {
                    continue;
                };
                self.on(key, |connection, context| connection.with_memory(index, true, context));
            }
        }
        let mut unsettled = std::mem::take(&mut self.unsettled);
        for key in unsettled.drain(..) {
            if self.connections.get(key).is_some_and(Connection::holds_commands) {
                self.on(key, Connection::settle);
            }
        }
        self.unsettled = unsettled;
        for _ in 0..self.starved.len() {
            let Some(key) = self.starved.pop_front() else { break };
            if self.connections.get(key).is_some_and(|connection| connection.starved) {
                self.work(key, |connection, context| connection.resume(context));
            }
        }
    }

    fn drop_connection(&mut self, key: usize) {
        let Some(mut connection) = self.connections.try_remove(key) else { return };
        let (receive, batch) = self.sockets.remove(connection.socket);
        connection.dissolve(receive, batch, &mut self.engine);
        self.engine.remove_depth(connection.depth());
        self.by_socket[connection.socket] = usize::MAX;
        self.to_flush.retain(|listed| *listed != key);
        self.starved.retain(|listed| *listed != key);
    }

    fn keep_house(&mut self) {
        self.housekeeping = self.now;
        self.engine.check_deadlines(self.now);
        let now = self.now;
        let over = |connection: &Connection| match connection.phase {
            Phase::Open => false,
            Phase::Closing { since } => now.duration_since(since) > LINGER,
        };
        let ended: Vec<usize> =
            self.connections.iter().filter(|(_, c)| over(c)).map(|(key, _)| key).collect();
        for key in ended {
            self.drop_connection(key);
        }
        self.end_hoarders();
    }

    /// Ends connections that keep memory which others wait for: their hosts neither send what they were asked for nor
    /// receive what they asked for.
    fn end_hoarders(&mut self) {
        let writes_wait = self.engine.is_short_of_memory(Way::ToDrive) || !self.starved.is_empty();
        let reads_wait = self.engine.is_short_of_memory(Way::FromDrive);
        let mut hoarders = Vec::new();
        for (key, connection) in &mut self.connections {
            let sent = self.sockets.sent(connection.socket);
            let idle = connection.idle_for(sent, writes_wait, reads_wait, self.now);
            if idle > self.host_timeout {
                hoarders.push(key);
            }
        }
        for key in hoarders {
            let host = &self.connections[key].claim.association().connect.host;
            tracing::warn!(%host, "an I/O connection is ended: its host lets others wait for memory");
            self.drop_connection(key);
        }
    }

    /// Answers the drains whose commands have all completed.
    fn check_drains(&mut self) {
        let commands = &self.engine.commands;
        let pending = |drain: &Drain| {
            let commands_left = commands.iter().any(|(_, command)| {
                let concerned = match drain.scope {
                    Scope::Host { host, export, association } => {
                        let left = command.association != association || command.connection.is_none();
                        left && command.host == host && command.export == export
                    }
                    Scope::Export(export) => command.export == export,
                };
                concerned && command.sequence <= drain.before && command.is_on_its_way()
            });
            // What has arrived already, but waits for memory before it is looked at, comes from before the drain too.
            let unread = |connection: &Connection| match drain.scope {
                Scope::Host { host, export, association } => {
                    let other = connection.claim.association();
                    connection.starved
                        && other.id != association
                        && other.host() == host
                        && connection.export == export
                }
                Scope::Export(_) => false,
            };
            commands_left || self.connections.iter().any(|(_, connection)| unread(connection))
        };
        let mut at = 0;
        while let Some(drain) = self.drains.get(at) {
            if pending(drain) && !drain.done.is_closed() {
                at += 1;
            } else {
                let _ = self.drains.swap_remove(at).done.send(());
            }
        }
    }

    fn read_inbox(&mut self) {
        let mut counter = [0; 8];
        let _ = rustix::io::read(&*self.wake, &mut counter);
        while let Ok(message) = self.inbox.try_recv() {
            self.obey(message);
        }
    }

    fn obey(&mut self, message: Message) {
        match message {
            Message::Adopt(adoption) => self.adopt(*adoption),
            Message::Close { association, done } => {
                let keys: Vec<usize> = self
                    .connections
                    .iter()
                    .filter(|(_, connection)| connection.claim.association().id == association)
                    .map(|(key, _)| key)
                    .collect();
                for key in keys {
                    self.drop_connection(key);
                }
                let _ = done.send(());
            }
            Message::Drain { scope, done } => {
                // Hang-ups that the kernel knows of by now must be known here too: what a dead host left in its
                // sockets is void and must not become a command any more.
                let mut events = std::mem::take(&mut self.events);
                let learned = self.sockets.learn_all(&mut events);
                self.events = events;
                if let Err(error) = learned {
                    tracing::error!(%error, reactor = self.index, "epoll failed");
                }
                self.handle_events();
                let before = self.engine.next_sequence();
                self.drains.push(Drain { scope, before, done });
            }
            Message::Publish { export, view, done } => {
                for namespace in &view.namespaces {
                    self.engine.ensure_queue(namespace.queue);
                }
                while self.exports.len() <= export {
                    self.exports.push(Arc::default());
                }
                self.exports[export] = view;
                let _ = done.send(());
            }
            Message::Link { drive, link } => self.engine.link(drive, link),
            Message::Freeze { drive, reply } => {
                let pair = self.engine.drive(drive).and_then(|slot| slot.pair.take());
                if let Err(mpsc::SendError((_, Some(pair)))) = reply.send((self.index, pair)) {
                    // Too late: the manager has given the drive up, and nobody else can answer these commands.
                    for user in pair.abandon() {
                        let reply = Reply::status(Status::INTERNAL_PATH_ERROR);
                        self.complete(user, CommandData::None, &reply);
                    }
                }
            }
            Message::Thaw { drive, state, interrupted } => self.thaw(drive, state, interrupted),
            Message::Stop => self.stopped = true,
        }
    }

    fn thaw(&mut self, drive: usize, state: DriveState, interrupted: Vec<(u64, CommandData)>) {
        if let Some(slot) = self.engine.drive(drive) {
            slot.faulted = false;
            match state {
                DriveState::Ready(pair) => slot.pair = Some(*pair),
                DriveState::Failed => slot.failed = true,
            }
        }
        for (user, data) in interrupted {
            self.complete(user, data, &Reply::status(Status::COMMAND_INTERRUPTED));
        }
    }

    fn adopt(&mut self, adoption: Adoption) {
        let Adoption { stream, fabric, claim, export, queue_size, greeting, load } = adoption;
        if claim.is_stale() {
            // Its Close was obeyed while the connection was on its way here.
            return;
        }
        let socket = match self.sockets.add(stream) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "an I/O connection cannot be watched and is closed");
                return;
            }
        };
        let mut connection = Connection::new(socket, fabric, claim, export, queue_size, load);
        connection.out.headers(|out| out.extend_from_slice(&greeting));
        self.engine.add_depth(connection.depth());
        let key = self.connections.insert(connection);
        while self.by_socket.len() <= socket {
            self.by_socket.push(usize::MAX);
        }
        self.by_socket[socket] = key;
        self.to_flush.reserve(self.connections.len());
        self.starved.reserve(self.connections.len());
        self.sockets.start_receive(socket, Receive::Stream);
        self.list_flush(key);
    }
}
