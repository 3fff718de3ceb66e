//! The connection to a server: one request at a time, each with a time limit.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use zerocopy::{FromBytes, IntoBytes};

use super::socket::{Message, Receiver, send};
use super::wire::{self, Header, MAJOR, MINOR, RegionAccess, Version, command};

/// What we can do, as the protocol wants it: JSON and a zero byte.
const CAPABILITIES: &[u8] = b"{\"capabilities\":{\"max_msg_fds\":64,\"max_data_xfer_size\":65536}}\0";

/// How long a server may take for one answer. It answers at once unless it is stuck, but its machine may be busy.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A server that answers, until it does not.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    state: Mutex<State>,
    fate: AtomicU8,
}

#[derive(Debug, Default)]
struct State {
    receiver: Receiver,
    next_id: u16,
}

/// What became of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Fate {
    /// It answers.
    Alive,
    /// It hung up: it ended, and with it its view of our memory. That it did is taken on trust (see the module).
    Ended,
    /// It did not answer in time, or not in order. What it still does nobody knows.
    Lost,
}

/// Why a request was not done.
#[derive(Debug)]
pub(super) enum RequestError {
    /// The server refused it, and goes on.
    Refused(io::Error),
    /// There is no talking to the server any more.
    Gone(io::Error),
}

impl RequestError {
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Refused(error) | Self::Gone(error) => error,
        }
    }
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, state: Mutex::default(), fate: AtomicU8::new(Fate::Alive as u8) }
    }

    /// What became of the server, as far as it was noticed.
    pub(super) fn fate(&self) -> Fate {
        match self.fate.load(Ordering::Acquire) {
            fate if fate == Fate::Alive as u8 => Fate::Alive,
            fate if fate == Fate::Ended as u8 => Fate::Ended,
            _ => Fate::Lost,
        }
    }

    /// Hangs up. Requests fail from now on.
    pub(super) fn close(&self) {
        self.end(Fate::Ended);
    }

    fn end(&self, fate: Fate) {
        let alive = Fate::Alive as u8;
        if self.fate.compare_exchange(alive, fate as u8, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            // Only to tell the other side; there may be none.
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Agrees on a version; gives the server's.
    pub(super) fn negotiate(&self) -> Result<(u16, u16), RequestError> {
        let ours = Version { major: MAJOR, minor: MINOR };
        let reply = self.request(command::VERSION, &[ours.as_bytes(), CAPABILITIES], &[])?;
        let (version, _) =
            Version::read_from_prefix(&reply.payload).map_err(|_| self.nonsense("a version"))?;
        Ok((version.major, version.minor))
    }

    /// Reads `into.len()` bytes at `offset` into a region.
    pub(super) fn read_region(&self, region: u32, offset: u64, into: &mut [u8]) -> Result<(), RequestError> {
        let access = RegionAccess { offset, region, count: into.len() as u32 };
        let reply = self.request(command::REGION_READ, &[access.as_bytes()], &[])?;
        match RegionAccess::read_from_prefix(&reply.payload) {
            Ok((answer, data)) if answer.count == access.count && data.len() == into.len() => {
                into.copy_from_slice(data);
                Ok(())
            }
            _ => Err(self.nonsense("a read of a region")),
        }
    }

    /// Writes bytes at `offset` into a region.
    pub(super) fn write_region(&self, region: u32, offset: u64, from: &[u8]) -> Result<(), RequestError> {
        let access = RegionAccess { offset, region, count: from.len() as u32 };
        self.request(command::REGION_WRITE, &[access.as_bytes(), from], &[]).map(drop)
    }

    /// Asks for something by a structure, and takes the same structure as the answer, with what follows it and the
    /// files that come along.
    pub(super) fn ask<T: FromBytes + IntoBytes + zerocopy::Immutable + zerocopy::KnownLayout>(
        &self,
        command: u16,
        question: &T,
    ) -> Result<(T, Vec<u8>, Vec<OwnedFd>), RequestError> {
        let reply = self.request(command, &[question.as_bytes()], &[])?;
        match T::read_from_prefix(&reply.payload) {
            Ok((answer, _)) => Ok((answer, reply.payload, reply.files)),
            Err(_) => Err(self.nonsense("a question")),
        }
    }

    /// Sends a command and waits for its reply.
    pub(super) fn request(
        &self,
        command: u16,
        parts: &[&[u8]],
        files: &[BorrowedFd<'_>],
    ) -> Result<Message, RequestError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.fate() != Fate::Alive {
            return Err(RequestError::Gone(io::ErrorKind::NotConnected.into()));
        }
        let result = self.exchange(&mut state, command, parts, files);
        let reply = result.map_err(|error| {
            use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
            let ended = matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof);
            self.end(if ended { Fate::Ended } else { Fate::Lost });
            tracing::debug!(command, %error, "no more answers from the server");
            RequestError::Gone(error)
        })?;
        if reply.header.flags & Header::ERROR == 0 {
            return Ok(reply);
        }
        Err(RequestError::Refused(match i32::try_from(reply.header.error) {
            Ok(errno @ 1..) => io::Error::from_raw_os_error(errno),
            _ => io::Error::other("refused without a reason"),
        }))
    }

    fn exchange(
        &self,
        state: &mut State,
        command: u16,
        parts: &[&[u8]],
        files: &[BorrowedFd<'_>],
    ) -> io::Result<Message> {
        let deadline = Instant::now() + ANSWER_LIMIT;
        let socket = self.stream.as_fd();
        let id = state.next_id;
        state.next_id = id.wrapping_add(1);
        send(socket, Header { id, command, ..Header::default() }, parts, files, deadline)?;
        loop {
            let message = state.receiver.receive_until(socket, deadline)?;
            let header = message.header;
            if !header.is_reply() {
                // The server asks for memory by message, as one does that could not map it. It is given files to map.
                let refusal =
                    Header { flags: Header::REPLY | Header::ERROR, error: libc::ENOTSUP as u32, ..header };
                send(socket, refusal, &[], &[], deadline)?;
            } else if (header.id, header.command) == (id, command) {
                return Ok(message);
            } else {
                let text = format!("message {id} was answered by one with the number {}", header.id);
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
    }

    /// An answer that has not the form that the protocol gives it. Whatever follows is not to be trusted either.
    fn nonsense(&self, question: &str) -> RequestError {
        self.end(Fate::Lost);
        let text = format!("the answer to {question} has not the length that it must have");
        RequestError::Gone(io::Error::new(io::ErrorKind::InvalidData, text))
    }
}

const _: () = assert!(CAPABILITIES.len() < wire::LONGEST_PAYLOAD);
