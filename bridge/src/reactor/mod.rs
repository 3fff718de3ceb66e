//! Reactors: one pinned thread each, owning some connections and one queue pair per drive.
//!
//! A turn takes what arrived on sockets, puts commands onto hardware queues, rings each doorbell once, reaps
//! completions and sends all replies of a connection with one call. It spins while that pays ([`Poll`]) and sleeps
//! otherwise. Nothing on the way of a command allocates, locks or logs.

mod abort;
mod accounts;
mod batch;
mod budget;
mod command;
mod connection;
mod drives;
mod engine;
mod fair;
mod hold;
mod limited;
mod message;
mod neighbours;
mod obey;
mod pace;
mod placement;
mod reservations;
mod sockets;
mod tenants;
mod upkeep;
mod work;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gangway_driver::dma::{BufferPool, Direction, DmaDomain, DmaError, ReceivePool};
use rustix::event::Timespec;
use slab::Slab;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use self::abort::Abort;
use self::command::GivenUp;
use self::connection::Connection;
use self::drives::Way;
use self::engine::Engine;
pub(crate) use self::message::{
    Adoption, DriveState, Hold, Message, ReactorHandle, ReservationRequest, Scope,
};
use self::neighbours::Neighbours;
pub use self::pace::Poll;
use self::pace::{Pace, Wait};
use self::sockets::{AT_ONCE, ReceiveMemory, SocketEvent, Sockets};
use crate::admission::ExportView;
use crate::remote::limits;

/// Rounds of one turn at most, so that the kernel is asked for other sockets now and then.
const ROUNDS: u32 = 8;
/// Sockets that are received from in one round at most.
const SOCKETS_AT_ONCE: usize = 32;
/// Commands that are started before drives are told of them, and, when the drives are done at once, answered. What so
/// many commands touch stays in the CPU's nearest caches until they have ended; with hundreds it does not.
const COMMANDS_AT_ONCE: usize = 32;
/// One of how many looks of a reactor that spins asks the kernel about everything, not only about bytes of its sockets.
const LOOKS: u32 = 16;
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
    /// Whether it spins or sleeps when there is nothing to do.
    pub poll: Poll,
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
            poll: Poll::default(),
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
    /// Connections that go on when others have had their turn.
    paused: VecDeque<usize>,
    /// Connections that wait for a buffer before they can receive more.
    starved: VecDeque<usize>,
    /// Connections that may have room for commands that they held back.
    unsettled: Vec<usize>,
    /// Connections that are about to end.
    closing: usize,
    drains: Vec<Drain>,
    /// Commands whose hosts want them aborted.
    aborts: Vec<Abort>,
    now: Instant,
    housekeeping: Instant,
    pace: Pace,
    neighbours: Neighbours,
    /// Turns so far, around.
    looks: u32,
    /// The last turn left something to be done.
    unfinished: bool,
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

/// Starts reactor `index` on `cpu`. It hands reservation commands over to `reservations`.
pub(crate) fn spawn(
    index: usize,
    cpu: usize,
    domain: &DmaDomain,
    config: &ReactorConfig,
    reservations: UnboundedSender<ReservationRequest>,
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
        // What guards a vendor's command takes up to a page more.
        2 * limits::IN_CAPSULE_DATA as usize,
    )
    .map_err(memory)?;
    let receive = ReceivePool::new(domain, config.receive_chunk, config.receive_chunks).map_err(memory)?;
    let wake = Arc::new(sockets::wake_descriptor().map_err(start)?);
    let (sender, inbox) = mpsc::channel();
    let handle = ReactorHandle::new(index, cpu, sender, Arc::clone(&wake));
    let reactor = Reactor {
        inbox,
        sockets: Sockets::new(&wake).map_err(start)?,
        wake,
        memory: ReceiveMemory::new(receive),
        connections: Slab::new(),
        by_socket: Vec::new(),
        exports: Vec::new(),
        engine: Engine::new(to_drive, from_drive, capsules, reservations, config.io_timeout),
        events: Vec::with_capacity(256),
        given_up: Vec::with_capacity(64),
        to_flush: Vec::with_capacity(64),
        paused: VecDeque::new(),
        starved: VecDeque::new(),
        unsettled: Vec::with_capacity(64),
        closing: 0,
        drains: Vec::new(),
        aborts: Vec::new(),
        now: Instant::now(),
        housekeeping: Instant::now(),
        pace: Pace::new(config.poll),
        neighbours: Neighbours::unknown(),
        looks: 0,
        unfinished: false,
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
        if self.pace.is_adaptive() {
            self.neighbours = Neighbours::of_this_thread();
        }
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
        let wait = self.next_wait();
        let spins = wait == Some(AT_ONCE) && !self.unfinished;
        // While it spins for few sockets, trying to receive takes the place of asking whether that would work.
        self.looks = self.looks.wrapping_add(1);
        let direct = spins && !self.looks.is_multiple_of(LOOKS) && self.sockets.try_all();
        let woken = !direct && self.sockets.wait(wait.as_ref(), &mut self.events)?;
        self.now = Instant::now();
        self.engine.begin_turn(self.now);
        if woken {
            // Hang-ups first: a message may bring a connection that gets the place of one that is gone.
            self.handle_events();
            self.read_inbox();
        }
        let mut news = woken;
        // What one round gives the next one to do is done before the kernel is asked again.
        self.unfinished = true;
        for _ in 0..ROUNDS {
            if !self.round() {
                self.unfinished = false;
                break;
            }
            news = true;
        }
        self.pace.note(news, self.now);
        if self.now.duration_since(self.housekeeping) >= HOUSEKEEPING {
            // What it ends gives memory back, which others may wait for.
            self.unfinished |= self.keep_house();
        }
        if !self.drains.is_empty() {
            self.check_drains();
        }
        if !self.aborts.is_empty() {
            self.check_aborts();
        }
        Ok(())
    }

    /// Takes what arrived, submits, rings, reaps and sends. Whether there was anything.
    fn round(&mut self) -> bool {
        let mut news = !self.events.is_empty();
        self.handle_events();
        self.sockets.relist(&mut self.memory);
        for _ in 0..self.sockets.runnable().min(SOCKETS_AT_ONCE) {
            self.sockets.advance(&mut self.memory, &mut self.events);
            news |= !self.events.is_empty();
            self.handle_events();
            if self.engine.submitted() >= COMMANDS_AT_ONCE {
                break;
            }
        }
        news |= self.serve_the_limited();
        loop {
            self.feed_the_waiting();
            self.pump();
            self.engine.ring();
            if self.engine.reap() > 0 {
                news = true;
                self.handle_completions();
                // Completions made room on the hardware queues and in the pools: use it within the same round.
                self.feed_the_waiting();
                self.pump();
                self.engine.ring();
            }
            if self.paused.is_empty() {
                break;
            }
            self.resume_the_paused();
        }
        self.flush();
        // Batches that have left give their buffers back.
        news |= !self.events.is_empty();
        self.handle_events();
        news
    }

    /// How long the next wait may take: not at all while there is work, for ever when only sockets can bring some.
    fn next_wait(&mut self) -> Option<Timespec> {
        let of = |time: Duration| Timespec {
            tv_sec: time.as_secs() as i64,
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        if self.unfinished || !self.events.is_empty() || self.sockets.runnable() > 0 {
            return Some(AT_ONCE);
        }
        // The time of the last turn will do: turns follow each other without a pause but for these waits.
        let ready_in = self.engine.accounts.ready_in();
        let wait = match self.pace.wait(self.engine.with_drives(), ready_in.is_some(), self.now) {
            Wait::Look => return Some(AT_ONCE),
            Wait::GiveWay => {
                let away = neighbours::give_way();
                self.pace.gave_way(away, self.now + away);
                return Some(AT_ONCE);
            }
            wait => wait,
        };
        let mut now = Instant::now();
        if self.pace.falls_silent(now) && self.neighbours.go_first() {
            now = Instant::now();
        }
        // Who waits for a limit goes on by time alone, which is as of the turn's beginning.
        let spent = now.duration_since(self.now);
        let mut longest = ready_in.map(|time| time.saturating_sub(spent));
        if let Wait::AtMost(time) = wait {
            longest = Some(longest.map_or(time, |longest| longest.min(time)));
        }
        if let Some(longest) = longest {
            return Some(of(longest.min(HOUSEKEEPING)));
        }
        // Hosts that keep memory from others are looked at then.
        let short =
            self.engine.is_short_of_memory(Way::ToDrive) || self.engine.is_short_of_memory(Way::FromDrive);
        let watched =
            self.closing > 0 || short || !self.starved.is_empty() || self.sockets.is_short_of_memory();
        watched.then(|| of(HOUSEKEEPING))
    }
}
