//! The seam between a reactor and its sockets, shaped by completions: an operation takes its buffers by value and
//! gives them back with a result.
//!
//! Behind it stands epoll today, edge-triggered, one system call per operation. A backend that completes by itself
//! (io_uring, TLS records) fits behind the same calls, which a seam made of "readable" and "writable" would not allow.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gangway_driver::dma::{DmaBuffer, DmaSlice, ReceiveChunk, ReceivePool};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use slab::Slab;

use super::batch::SendBatch;

/// Slices that one system call sends at most: the kernel's own limit. A call's fixed cost no longer shows beyond 128,
/// but each wakes the peer.
const SLICES_PER_SEND: usize = 1024;
/// Room that a receive into the shared chunk wants; with less the chunk is given up for a fresh one.
const CHUNK_ROOM: usize = 16 * 1024;
/// Sockets that one wait reports at most; the next one reports the others.
const READY_AT_ONCE: usize = 128;
/// The key under which the wake-up eventfd is registered.
const WAKE: u64 = u64::MAX;
/// The key under which drives' interrupts are registered: being woken is all there is to them.
const DRIVE: u64 = u64::MAX - 1;

/// A wait that is none.
pub(super) const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// In nanoseconds.
const MILLISECOND: i64 = 1_000_000;

/// A buffer that is being filled from a socket.
#[derive(Debug)]
pub(crate) struct Filling {
    pub(crate) buffer: DmaBuffer,
    /// Bytes of the buffer that are in place already.
    pub(crate) filled: usize,
    /// Where this piece ends; what follows it in the stream is not data of the buffer.
    pub(crate) end: usize,
    /// Bytes at most that are received of what follows.
    pub(crate) beyond: usize,
}

/// Where the next bytes of a socket go.
#[derive(Debug)]
pub(crate) enum Receive {
    /// Into receive memory that the seam takes when there is something to receive, so many bytes at most.
    Stream(usize),
    /// Into the rest of this buffer first, what follows it into receive memory.
    Buffer(Filling),
}

/// What came of an operation, with the buffers it had.
#[derive(Debug)]
pub(crate) enum SocketEvent {
    Received {
        key: usize,
        filling: Option<Filling>,
        bytes: Option<DmaSlice>,
        result: io::Result<()>,
    },
    Sent {
        key: usize,
        batch: Box<SendBatch>,
        result: io::Result<()>,
    },
    /// The peer closed its side. NVMe/TCP knows no half-closed connection, so what is still unread is void.
    HungUp {
        key: usize,
    },
}

#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    readable: bool,
    writable: bool,
    listed: bool,
    receive: Option<Receive>,
    send: Option<Box<SendBatch>>,
    /// Bytes that the kernel took.
    sent: u64,
}

impl Socket {
    fn can_progress(&self) -> bool {
        (self.readable && self.receive.is_some()) || (self.writable && self.send.is_some())
    }
}

/// Receive memory of a reactor: one chunk that all its sockets fill in turn, and the pool behind it. An idle
/// connection holds none of it.
pub(crate) struct ReceiveMemory {
    pool: ReceivePool,
    chunk: Option<ReceiveChunk>,
    /// As of when the current chunk was taken.
    plentiful: bool,
}

impl ReceiveMemory {
    pub(crate) fn new(pool: ReceivePool) -> Self {
        Self { pool, chunk: None, plentiful: true }
    }

    /// Whether chunks are free in such number that drives may keep some. Otherwise a drive that is stuck could end up
    /// with all of them, and no connection could receive anything.
    pub(crate) fn is_plentiful(&self) -> bool {
        self.plentiful
    }

    fn chunk(&mut self) -> Option<&mut ReceiveChunk> {
        if self.chunk.as_mut().is_none_or(|chunk| chunk.spare_mut().len() < CHUNK_ROOM) {
            self.chunk = None;
            self.chunk = self.pool.take();
            self.plentiful = self.pool.unused() * 4 > self.pool.chunks();
        }
        self.chunk.as_mut()
    }
}

/// The sockets of one reactor.
pub(crate) struct Sockets {
    epoll: OwnedFd,
    sockets: Slab<Socket>,
    runnable: VecDeque<usize>,
    /// Sockets that could receive if there were a free chunk.
    short: Vec<usize>,
    /// Signals of drives that are watched.
    signals: usize,
    /// Memory for the slices of a send.
    slices: Vec<IoSlice<'static>>,
}

impl Sockets {
    /// Makes the epoll instance with `wake` registered on it.
    pub(crate) fn new(wake: &OwnedFd) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        Ok(Self {
            epoll,
            sockets: Slab::new(),
            runnable: VecDeque::new(),
            short: Vec::new(),
            signals: 0,
            slices: Vec::with_capacity(SLICES_PER_SEND),
        })
    }

    /// Lets what a drive signals end a wait, from now on.
    pub(crate) fn watch(&mut self, signal: BorrowedFd<'_>) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        match epoll::add(&self.epoll, signal, epoll::EventData::new_u64(DRIVE), flags) {
            // The queue was made anew; what it signals is the same.
            Err(rustix::io::Errno::EXIST) => Ok(()),
            Ok(()) => {
                self.signals += 1;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes over a connected, non-blocking stream.
    pub(crate) fn add(&mut self, stream: TcpStream) -> io::Result<usize> {
        let entry = self.sockets.vacant_entry();
        let key = entry.key();
        let flags =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.epoll, stream.as_fd(), epoll::EventData::new_u64(key as u64), flags)?;
        entry.insert(Socket {
            stream,
            readable: true,
            writable: true,
            listed: false,
            receive: None,
            send: None,
            sent: 0,
        });
        // Each socket is listed at most once, so the list never grows on the path of an I/O.
        self.runnable.reserve(self.sockets.len());
        self.short.reserve(self.sockets.len());
        Ok(key)
    }

    /// Closes a socket and gives back what its operations held.
    pub(crate) fn remove(&mut self, key: usize) -> (Option<Receive>, Option<Box<SendBatch>>) {
        let Some(socket) = self.sockets.try_remove(key) else { return (None, None) };
        self.runnable.retain(|listed| *listed != key);
        self.short.retain(|listed| *listed != key);
        // Closing the last descriptor takes the socket out of the epoll set.
        (socket.receive, socket.send)
    }

    pub(crate) fn start_receive(&mut self, key: usize, receive: Receive) {
        if let Some(socket) = self.sockets.get_mut(key) {
            socket.receive = Some(receive);
            self.list(key);
        }
    }

    /// Sends at once what the kernel takes: the batch's bytes are still in the CPU's caches, and its buffers are free
    /// for the next command. The rest leaves as there is room for it.
    pub(crate) fn start_send(&mut self, key: usize, batch: Box<SendBatch>, events: &mut Vec<SocketEvent>) {
        if let Some(socket) = self.sockets.get_mut(key) {
            socket.send = Some(batch);
            if socket.writable {
                let slices = std::mem::take(&mut self.slices);
                self.slices = send(key, socket, slices, events);
            }
        }
    }

    /// Says that nothing more will be sent; the peer's answer to that is a hang-up.
    pub(crate) fn finish(&mut self, key: usize) {
        if let Some(socket) = self.sockets.get_mut(key) {
            // An error means that the peer is gone already, which a hang-up reports.
            let _ = socket.stream.shutdown(std::net::Shutdown::Write);
        }
    }

    /// Bytes that the kernel took to send so far.
    pub(crate) fn sent(&self, key: usize) -> u64 {
        self.sockets.get(key).map_or(0, |socket| socket.sent)
    }

    /// Sockets with operations that can go on without waiting for the kernel.
    pub(crate) fn runnable(&self) -> usize {
        self.runnable.len()
    }

    /// Whether sockets wait for a chunk to receive into.
    pub(crate) fn is_short_of_memory(&self) -> bool {
        !self.short.is_empty()
    }

    /// Has every socket tried at the next chance, whether the kernel said that there is something or not, if there are
    /// few. Says whether that is so.
    pub(crate) fn try_all(&mut self) -> bool {
        /// Sockets up to which that is less work than asking.
        const FEW: usize = 4;
        if self.sockets.len() > FEW {
            return false;
        }
        for (key, socket) in &mut self.sockets {
            socket.readable = true;
            if !socket.listed && socket.can_progress() {
                socket.listed = true;
                self.runnable.push_back(key);
            }
        }
        true
    }

    /// Learns everything that the kernel knows by now, however many sockets it is about.
    pub(crate) fn learn_all(&mut self, events: &mut Vec<SocketEvent>) -> io::Result<()> {
        // What was reported moves behind what was not, and the wake-up descriptor is reported each time. What drives
        // signal takes places as well.
        for _ in 0..=(self.sockets.len() + self.signals) / (READY_AT_ONCE - 1) {
            self.wait(Some(&AT_ONCE), events)?;
        }
        Ok(())
    }

    /// Learns what became ready, waiting at most `timeout` (`None`: as long as it takes). Returns whether the
    /// wake-up eventfd fired; hang-ups go to `events`.
    pub(crate) fn wait(
        &mut self,
        timeout: Option<&Timespec>,
        events: &mut Vec<SocketEvent>,
    ) -> io::Result<bool> {
        let mut room = [const { MaybeUninit::<epoll::Event>::uninit() }; READY_AT_ONCE];
        let mut timeout = timeout;
        if timeout.is_some_and(|timeout| timeout.tv_nsec % MILLISECOND != 0) {
            // epoll_wait counts in milliseconds, and its successor is not in every kernel.
            match poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], timeout) {
                Ok(_) | Err(rustix::io::Errno::INTR) => timeout = Some(&AT_ONCE),
                Err(error) => return Err(error.into()),
            }
        }
        let ready = match epoll::wait(&self.epoll, &mut room, timeout) {
            Ok((ready, _)) => ready,
            Err(rustix::io::Errno::INTR) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let mut woken = false;
        for event in ready {
            let (flags, data) = (event.flags, event.data.u64());
            if data == WAKE {
                woken = true;
                continue;
            }
            // A drive's interrupt is not news: the queues are looked at in any case.
            if data == DRIVE {
                continue;
            }
            let key = data as usize;
            let Some(socket) = self.sockets.get_mut(key) else { continue };
            if flags.intersects(epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                events.push(SocketEvent::HungUp { key });
                continue;
            }
            socket.readable |= flags.contains(epoll::EventFlags::IN);
            socket.writable |= flags.contains(epoll::EventFlags::OUT);
            self.list(key);
        }
        Ok(woken)
    }

    /// Has sockets that found no memory to receive into try again, if there is some now.
    pub(crate) fn relist(&mut self, memory: &mut ReceiveMemory) {
        if !self.short.is_empty() && memory.chunk().is_some() {
            let mut short = std::mem::take(&mut self.short);
            for key in short.drain(..) {
                self.list(key);
            }
            self.short = short;
        }
    }

    /// Lets the operations of one socket, if those of any can, progress once.
    pub(crate) fn advance(&mut self, memory: &mut ReceiveMemory, events: &mut Vec<SocketEvent>) {
        let Some(key) = self.runnable.pop_front() else { return };
        let Some(socket) = self.sockets.get_mut(key) else { return };
        socket.listed = false;
        if socket.writable && socket.send.is_some() {
            let slices = std::mem::take(&mut self.slices);
            self.slices = send(key, socket, slices, events);
        }
        if !socket.readable || socket.receive.is_none() || receive(key, socket, memory, events) {
            self.list(key);
        } else if !self.short.contains(&key) {
            // Listed again when there is memory, so that a reactor without any does not spin.
            self.short.push(key);
        }
    }

    fn list(&mut self, key: usize) {
        let socket = &mut self.sockets[key];
        if !socket.listed && socket.can_progress() {
            socket.listed = true;
            self.runnable.push_back(key);
        }
    }
}

/// Sends as much as the kernel takes now. Gives the memory of `slices` back.
fn send(
    key: usize,
    socket: &mut Socket,
    mut slices: Vec<IoSlice<'static>>,
    events: &mut Vec<SocketEvent>,
) -> Vec<IoSlice<'static>> {
    let Some(batch) = socket.send.as_mut() else { return slices };
    let result = loop {
        let mut gathered = recycle(slices);
        let bytes = batch.gather(&mut gathered, SLICES_PER_SEND);
        let outcome = if bytes == 0 { Ok(0) } else { socket.stream.write_vectored(&gathered) };
        slices = recycle(gathered);
        match outcome {
            Ok(0) if bytes == 0 => break Ok(()),
            Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => {
                socket.sent += sent as u64;
                if batch.advance(sent) {
                    break Ok(());
                }
                if sent < bytes {
                    // The kernel has no room for more. It tells when there is some, as after a call that had none.
                    socket.writable = false;
                    return slices;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                socket.writable = false;
                return slices;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    if let Some(batch) = socket.send.take() {
        events.push(SocketEvent::Sent { key, batch, result });
    }
    slices
}

/// The memory of a vector for slices of another lifetime: collecting a vector's own iterator keeps its allocation. The
/// standard library does not promise that; the test of allocations would show it.
fn recycle<'to>(mut slices: Vec<IoSlice<'_>>) -> Vec<IoSlice<'to>> {
    slices.clear();
    slices.into_iter().map(|_| IoSlice::new(&[])).collect()
}

/// Receives once. False when there is no memory to receive into.
fn receive(
    key: usize,
    socket: &mut Socket,
    memory: &mut ReceiveMemory,
    events: &mut Vec<SocketEvent>,
) -> bool {
    let mut chunk = memory.chunk();
    let start = chunk.as_ref().map_or(0, |chunk| chunk.filled());
    let most = match socket.receive.as_ref() {
        Some(Receive::Buffer(filling)) => filling.beyond,
        Some(Receive::Stream(most)) => *most,
        None => return true,
    };
    let room: &mut [u8] = match chunk.as_mut().map(|chunk| chunk.spare_mut()) {
        Some(spare) if spare.len() > most => &mut spare[..most],
        Some(spare) => spare,
        None => &mut [],
    };
    let (wanted, outcome) = match socket.receive.as_mut() {
        Some(Receive::Buffer(filling)) => {
            let rest = &mut filling.buffer[filling.filled..filling.end];
            let (wanted, all) = (rest.len(), rest.len() + room.len());
            (wanted, read(&mut socket.stream, rest, room).map(|count| (count, count == all)))
        }
        Some(Receive::Stream(_)) if room.is_empty() => return false,
        Some(Receive::Stream(_)) => {
            let all = room.len();
            (0, read(&mut socket.stream, &mut [], room).map(|count| (count, count == all)))
        }
        None => return true,
    };
    let (received, result) = match outcome {
        Ok((0, _)) => {
            events.push(SocketEvent::HungUp { key });
            socket.readable = false;
            return true;
        }
        Ok((received, full)) => {
            // Fewer bytes than room means the socket is drained: the next arrival makes a new edge.
            socket.readable = full;
            (received, Ok(()))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            socket.readable = false;
            return true;
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
        Err(error) => (0, Err(error)),
    };
    let in_buffer = received.min(wanted);
    let in_stream = received - in_buffer;
    let bytes = match chunk {
        Some(chunk) if in_stream > 0 => {
            chunk.advance(in_stream);
            Some(chunk.slice(start..start + in_stream))
        }
        _ => None,
    };
    let filling = match socket.receive.take() {
        Some(Receive::Buffer(mut filling)) => {
            filling.filled += in_buffer;
            Some(filling)
        }
        _ => None,
    };
    events.push(SocketEvent::Received { key, filling, bytes, result });
    true
}

fn read(stream: &mut TcpStream, first: &mut [u8], second: &mut [u8]) -> io::Result<usize> {
    if first.is_empty() {
        stream.read(second)
    } else if second.is_empty() {
        stream.read(first)
    } else {
        stream.read_vectored(&mut [IoSliceMut::new(first), IoSliceMut::new(second)])
    }
}

/// Makes the eventfd that wakes a reactor.
pub(crate) fn wake_descriptor() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}
