//! `gangway bench-floor`: the least that a target can do.
//!
//! It answers reads with the same bytes whatever is asked for and drops what is written, with the PDUs that a real
//! target would send: one receive for many capsules, one send for all answers. What it costs is what the kernel's TCP
//! costs; `gangway bench` measures targets against it.

mod control;
mod io;

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;
use clap::Args;
use gangway_fabric::congestion::CongestionControl;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use self::control::Control;
use self::io::CannedQueue;
use super::cpu;
use super::outbound::Outbound;
use crate::exit::Exit;
use crate::output;

/// The subsystem's name.
pub(super) const SUBSYSTEM: &str = "nqn.2026-11.io.gangway:floor";
/// Most bytes of one command: MDTS 8.
const LARGEST: usize = 1 << 20;
/// Bytes received at a time.
const SCRATCH: usize = 64 * 1024;
/// Turns of polling between two looks at what is rare: new connections and admin queues.
const TURNS: u32 = 256;
/// Queues that are polled one by one; more of them are asked for through the kernel.
const FEW: usize = 4;
/// What the listener is known by among the sockets.
const LISTENER: u64 = u64::MAX;

/// Answers NVMe/TCP with canned replies.
#[derive(Args, Clone, Debug)]
pub(crate) struct Floor {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// CPU to run on
    #[arg(long)]
    cpu: Option<usize>,
    /// Spin while there are I/O queues
    #[arg(long)]
    poll: bool,
    /// End with standard input
    #[arg(long)]
    until_eof: bool,
}

impl Floor {
    /// Serves until it is killed.
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        if let Some(cpu) = self.cpu {
            cpu::pin(&[cpu])?;
        }
        if self.until_eof {
            std::thread::spawn(|| {
                // Whatever ends it: whoever started this is gone.
                let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
                std::process::exit(0);
            });
        }
        let listener =
            TcpListener::bind(self.listen).with_context(|| format!("cannot listen on {}", self.listen))?;
        // As the targets that it is measured beside.
        CongestionControl::Auto.apply(&listener)?;
        output::print(&format!("Ready: {SUBSYSTEM} at {}", listener.local_addr()?))?;
        Server::new(listener, self.poll)?.serve()
    }
}

/// Who is at the other end of a connection.
enum State {
    /// Not known yet, or an admin queue.
    Control(Box<Control>),
    /// An I/O queue.
    Canned(CannedQueue),
}

struct Peer {
    stream: TcpStream,
    state: State,
    outbound: Outbound,
    /// Whether the kernel was asked to tell when there is room to send.
    watched: bool,
}

/// All connections, on one thread.
pub(super) struct Server {
    listener: TcpListener,
    epoll: OwnedFd,
    peers: Vec<Option<Peer>>,
    poll: bool,
    /// Peers that are I/O queues.
    queues: Vec<usize>,
    scratch: Box<[u8]>,
    /// What every read returns.
    payload: Box<[u8]>,
    associations: u16,
}

impl Server {
    pub(super) fn new(listener: TcpListener, poll: bool) -> anyhow::Result<Self> {
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        Ok(Self {
            listener,
            epoll,
            peers: Vec::new(),
            poll,
            queues: Vec::new(),
            scratch: vec![0; SCRATCH].into(),
            payload: vec![0x5a; LARGEST].into(),
            associations: 0,
        })
    }

    /// Serves for ever.
    pub(super) fn serve(mut self) -> ! {
        let mut events = Vec::with_capacity(256);
        loop {
            let spins = self.poll && !self.queues.is_empty();
            if spins && self.queues.len() <= FEW {
                for _ in 0..TURNS {
                    for at in 0..self.queues.len() {
                        if let Some(&index) = self.queues.get(at) {
                            self.turn(index);
                        }
                    }
                }
            }
            events.clear();
            let timeout = spins.then_some(Timespec { tv_sec: 0, tv_nsec: 0 });
            if epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()).is_err() {
                continue;
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    index => self.turn(index as usize),
                }
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let index = self.peers.iter().position(Option::is_none).unwrap_or(self.peers.len());
            let data = epoll::EventData::new_u64(index as u64);
            let ready = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).is_ok()
                && epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN).is_ok();
            if !ready {
                continue;
            }
            if index == self.peers.len() {
                self.peers.push(None);
            }
            self.associations = self.associations % 0x7fff + 1;
            let state = State::Control(Box::new(Control::new(self.associations)));
            self.peers[index] = Some(Peer { stream, state, outbound: Outbound::default(), watched: false });
        }
    }

    /// Receives once from a peer, and sends all answers.
    fn turn(&mut self, index: usize) {
        let Some(Some(peer)) = self.peers.get_mut(index) else { return };
        let was_queue = matches!(peer.state, State::Canned(_));
        let alive =
            peer.turn(&mut self.scratch, &self.payload).is_ok() && peer.watch(&self.epoll, index).is_ok();
        let is_queue = matches!(peer.state, State::Canned(_));
        if !alive {
            self.peers[index] = None;
        }
        if was_queue != is_queue || !alive {
            let canned = |peer: &Option<Peer>| {
                peer.as_ref().is_some_and(|peer| matches!(peer.state, State::Canned(_)))
            };
            self.queues = (0..self.peers.len()).filter(|index| canned(&self.peers[*index])).collect();
        }
    }
}

impl Peer {
    fn turn(&mut self, scratch: &mut [u8], payload: &[u8]) -> anyhow::Result<()> {
        self.outbound.send(&mut self.stream, payload)?;
        if !self.outbound.is_empty() {
            // A host that does not read gets no more answers, and need not be heard.
            return Ok(());
        }
        let count = match self.stream.read(scratch) {
            Ok(0) => return Err(std::io::Error::from(ErrorKind::UnexpectedEof).into()),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let mut bytes = &scratch[..count];
        if let State::Control(control) = &mut self.state {
            let (taken, queue) = control.take(bytes, self.outbound.headers())?;
            bytes = &bytes[taken..];
            if let Some(queue) = queue {
                self.state = State::Canned(queue);
            }
        }
        if let State::Canned(queue) = &mut self.state {
            queue.take(bytes, &mut self.outbound)?;
        }
        self.outbound.send(&mut self.stream, payload)?;
        Ok(())
    }

    /// Has the kernel tell when there is room to send, as long as that is missing.
    fn watch(&mut self, epoll: &OwnedFd, index: usize) -> anyhow::Result<()> {
        if self.watched == self.outbound.is_empty() {
            self.watched = !self.watched;
            let interest = if self.watched { epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
            epoll::modify(epoll, self.stream.as_fd(), epoll::EventData::new_u64(index as u64), interest)?;
        }
        Ok(())
    }
}
