//! One queue over one TCP connection: moves bytes between the socket and the protocol.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gangway_spec::SubmissionQueueEntry;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::outbound::Outbound;
use super::{Completed, HostError, Options, Transfer};
use crate::host::{Config, Connection, ConnectionError, Data, Event, Tag, Want};

/// Bytes read from the socket at a time, when it is not known yet where they belong.
const READ_AHEAD: usize = 64 * 1024;

/// Payload of at least so many bytes is read from the socket right into its buffer.
const DIRECT: usize = 8 * 1024;

/// Bytes that have been read and not been looked at.
struct Inbound {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

/// What a command in flight has by way of data.
enum Buffer {
    None,
    Send(Arc<[u8]>),
    Receive(Vec<u8>),
}

/// A queue: commands in, completions out. It is what [`AdminQueue`](super::AdminQueue) and
/// [`IoQueue`](super::IoQueue) have in common.
pub struct Queue {
    stream: TcpStream,
    address: SocketAddr,
    connection: Connection,
    outbound: Outbound,
    inbound: Inbound,
    /// By [`Tag::index`].
    buffers: Vec<Buffer>,
    completed: VecDeque<Completed>,
    command_timeout: Duration,
}

impl Queue {
    /// Makes the TCP connection and initializes it.
    pub(super) fn open(address: SocketAddr, config: Config, options: &Options) -> Result<Queue, HostError> {
        let unreachable = |source| HostError::Unreachable { address, source };
        let stream = TcpStream::connect_timeout(&address, options.connect_timeout).map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        stream.set_nonblocking(true).map_err(unreachable)?;
        let mut queue = Queue {
            stream,
            address,
            connection: Connection::new(config),
            outbound: Outbound::default(),
            inbound: Inbound { buffer: vec![0; READ_AHEAD].into(), start: 0, end: 0 },
            buffers: (0..config.queue_size).map(|_| Buffer::None).collect(),
            completed: VecDeque::with_capacity(config.queue_size.into()),
            command_timeout: options.command_timeout,
        };
        queue.connection.start(queue.outbound.headers());
        if !queue.run(options.connect_timeout, |queue| queue.connection.is_initialized())? {
            return Err(queue.timeout("the connection request (ICReq)", options.connect_timeout));
        }
        Ok(queue)
    }

    /// The target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of this end of the connection.
    ///
    /// # Errors
    /// The connection broke.
    pub fn local_address(&self) -> Result<SocketAddr, HostError> {
        self.stream.local_addr().map_err(|source| self.broken(source))
    }

    /// How long [`Queue::execute`] waits.
    pub fn command_timeout(&self) -> Duration {
        self.command_timeout
    }

    /// Queues a command, which leaves with the next [`Queue::flush`] or [`Queue::wait`]. Command identifier and data
    /// pointer of `entry` are set here.
    ///
    /// # Errors
    /// The queue is full, or the data is longer than a command can say.
    pub fn submit(&mut self, entry: &SubmissionQueueEntry, transfer: Transfer) -> Result<Tag, HostError> {
        if self.connection.is_full() {
            return Err(HostError::QueueFull(crate::host::QueueFull));
        }
        let length = |length: usize| u32::try_from(length).map_err(|_| HostError::TooLong { length });
        let (data, buffer) = match transfer {
            Transfer::None => (Data::None, Buffer::None),
            Transfer::Write(bytes) => (Data::Send(length(bytes.len())?), Buffer::Send(bytes)),
            Transfer::Read(length) => (Data::Receive(length), Buffer::Receive(vec![0; length as usize])),
            Transfer::ReadInto(bytes) => (Data::Receive(length(bytes.len())?), Buffer::Receive(bytes)),
        };
        let submitted = self.connection.submit(entry, data, self.outbound.headers())?;
        if let (Buffer::Send(bytes), true) = (&buffer, submitted.in_capsule) {
            self.outbound.payload(bytes, 0..bytes.len());
            self.connection.data_end(bytes, self.outbound.headers());
        }
        self.buffers[submitted.tag.index()] = buffer;
        Ok(submitted.tag)
    }

    /// Sends what the socket takes at the moment.
    ///
    /// # Errors
    /// The connection broke.
    pub fn flush(&mut self) -> Result<(), HostError> {
        let stream = &mut self.stream;
        let result = self.outbound.send(|slices| match stream.write_vectored(slices) {
            Ok(0) => Err(ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
            result => result,
        });
        match result {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            result => result.map_err(|source| self.broken(source)),
        }
    }

    /// A command that completed, or `None` when none does within `timeout`.
    ///
    /// Sends what is queued only when it has to wait: a caller that submits a command for each one that completed
    /// has all of them sent together.
    ///
    /// # Errors
    /// The connection ended.
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<Completed>, HostError> {
        if self.completed.is_empty() {
            self.run(timeout, |queue| !queue.completed.is_empty())?;
        }
        let completed = self.completed.pop_front();
        if let Some(completed) = &completed {
            self.connection.release(completed.tag);
        }
        Ok(completed)
    }

    /// Submits a command and waits for its completion, whatever its status. Others that complete meanwhile are kept
    /// for [`Queue::wait`].
    ///
    /// # Errors
    /// The queue is full, the connection ended, or the command did not complete in time.
    pub fn execute(
        &mut self,
        entry: &SubmissionQueueEntry,
        transfer: Transfer,
    ) -> Result<Completed, HostError> {
        let tag = self.submit(entry, transfer)?;
        let position = |queue: &Queue| queue.completed.iter().position(|completed| completed.tag == tag);
        self.run(self.command_timeout, |queue| position(queue).is_some())?;
        let completed = position(self).and_then(|index| self.completed.remove(index));
        let completed = completed.ok_or_else(|| self.timeout(entry.to_string(), self.command_timeout))?;
        self.connection.release(tag);
        Ok(completed)
    }

    /// The identifier of a command that was submitted and has not completed, as Abort needs it.
    pub fn cid(&self, tag: Tag) -> u16 {
        self.connection.cid(tag)
    }

    /// Gives up all commands that have not completed: the controller was reset and forgot them.
    pub(super) fn abandon(&mut self) {
        self.connection.abandon();
    }

    /// Commands that were submitted and whose completion the caller has not got.
    pub fn in_flight(&self) -> usize {
        self.connection.in_use()
    }

    /// Whether there is no room for a command.
    pub fn is_full(&self) -> bool {
        self.connection.is_full()
    }

    /// Moves bytes both ways until `done` or until `timeout` has passed; whether it is done.
    fn run(&mut self, timeout: Duration, done: impl Fn(&Queue) -> bool) -> Result<bool, HostError> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            if let Err(error) = self.flush() {
                return Err(self.last_words().unwrap_or(error));
            }
            let progress = self.receive()?;
            if done(self) {
                return Ok(true);
            }
            let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if late || (!progress && !self.poll(deadline)?) {
                return Ok(false);
            }
        }
    }

    /// Why the controller stopped reading, if it said so before: more to the point than a broken pipe.
    fn last_words(&mut self) -> Option<HostError> {
        loop {
            match self.receive() {
                Ok(true) => {}
                Err(error @ HostError::Protocol { .. }) => return Some(error),
                Ok(false) | Err(_) => return None,
            }
        }
    }

    /// Waits until the socket can be read, or written if there is something to write. Both, since a controller that
    /// cannot send may not read either. Returns whether that was before the deadline.
    fn poll(&self, deadline: Option<Instant>) -> Result<bool, HostError> {
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timespec = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut events = PollFlags::IN;
        events.set(PollFlags::OUT, !self.outbound.is_empty());
        let mut descriptors = [PollFd::new(&self.stream, events)];
        match poll(&mut descriptors, timespec.as_ref()) {
            Ok(ready) => Ok(ready > 0),
            // The deadline is looked at again.
            Err(rustix::io::Errno::INTR) => Ok(true),
            Err(errno) => Err(self.broken(errno.into())),
        }
    }

    /// Reads from the socket once and handles what came; whether anything came.
    fn receive(&mut self) -> Result<bool, HostError> {
        if !self.fill()? {
            return Ok(false);
        }
        while self.inbound.start < self.inbound.end {
            self.take_inbound()?;
        }
        Ok(true)
    }

    fn fill(&mut self) -> Result<bool, HostError> {
        let result = match self.connection.want() {
            Want::Nothing => return Err(HostError::Closed { address: self.address }),
            Want::Payload { tag, offset, remaining } if remaining as usize >= DIRECT => {
                let target = payload_buffer(&mut self.buffers, tag, offset, remaining);
                let result = self.stream.read(target);
                let event = match result {
                    Ok(count) => self.connection.placed(&target[..count]),
                    Err(_) => None,
                };
                if let Some(event) = event {
                    on_event(
                        &mut self.connection,
                        &mut self.outbound,
                        &mut self.buffers,
                        &mut self.completed,
                        event,
                    );
                }
                result
            }
            _ => self.stream.read(&mut self.inbound.buffer).inspect(|&count| {
                self.inbound.start = 0;
                self.inbound.end = count;
            }),
        };
        match result {
            Ok(0) => Err(HostError::Closed { address: self.address }),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(self.broken(error)),
        }
    }

    fn take_inbound(&mut self) -> Result<(), HostError> {
        let bytes = &self.inbound.buffer[self.inbound.start..self.inbound.end];
        let (taken, event) = match self.connection.want() {
            Want::Nothing => return Err(HostError::Closed { address: self.address }),
            Want::Payload { tag, offset, remaining } => {
                let count = bytes.len().min(remaining as usize);
                payload_buffer(&mut self.buffers, tag, offset, count as u32).copy_from_slice(&bytes[..count]);
                (count, self.connection.placed(&bytes[..count]))
            }
            Want::Header { .. } => match self.connection.receive(bytes, self.outbound.headers()) {
                Ok(result) => result,
                Err(source) => return Err(self.end(source)),
            },
        };
        self.inbound.start += taken;
        if let Some(event) = event {
            on_event(&mut self.connection, &mut self.outbound, &mut self.buffers, &mut self.completed, event);
        }
        Ok(())
    }

    /// Tells the controller why the connection ends, if the socket takes it, and closes it.
    fn end(&mut self, source: ConnectionError) -> HostError {
        // Nothing can be done about a failure: the reason that is reported is the one that came first.
        let _ = self.flush();
        let _ = self.stream.shutdown(Shutdown::Write);
        HostError::Protocol { address: self.address, source }
    }

    fn broken(&self, source: io::Error) -> HostError {
        HostError::Broken { address: self.address, source }
    }

    pub(super) fn timeout(&self, what: impl Into<String>, after: Duration) -> HostError {
        HostError::Timeout { address: self.address, what: what.into(), after }
    }
}

/// Where payload of a command goes. The connection has checked that the command receives data, and how much.
fn payload_buffer(buffers: &mut [Buffer], tag: Tag, offset: u32, length: u32) -> &mut [u8] {
    match &mut buffers[tag.index()] {
        Buffer::Receive(bytes) => &mut bytes[offset as usize..][..length as usize],
        _ => &mut [],
    }
}

fn on_event(
    connection: &mut Connection,
    outbound: &mut Outbound,
    buffers: &mut [Buffer],
    completed: &mut VecDeque<Completed>,
    event: Event,
) {
    match event {
        Event::Initialized { .. } => {}
        Event::Response { tag, entry, received } => {
            let data = match std::mem::replace(&mut buffers[tag.index()], Buffer::None) {
                Buffer::Receive(mut data) => {
                    data.truncate(received as usize);
                    data
                }
                Buffer::Send(_) | Buffer::None => Vec::new(),
            };
            completed.push_back(Completed { tag, entry, data });
        }
        Event::DataRequested(mut transfer) => {
            while let Buffer::Send(data) = &buffers[transfer.tag().index()]
                && transfer.remaining() > 0
            {
                let range = connection.data_header(&mut transfer, outbound.headers());
                outbound.payload(data, range.clone());
                connection.data_end(&data[range], outbound.headers());
            }
        }
    }
}
