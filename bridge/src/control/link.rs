//! A connection on the control plane: a socket, the protocol's state, and the data of admin commands.

use std::collections::HashMap;
use std::io;

use gangway_fabric::target::{CapsuleData, Config, Connection, Event, Reply, Slot, Want};
use gangway_fabric::term::{Fatal, FatalErrorStatus};
use gangway_spec::command::{SubmissionQueueEntry, TransferDirection};
use gangway_spec::opcode::admin;
use gangway_spec::status::Status;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::remote::limits;

/// Replies that may wait to be sent before no more commands are read.
const MOST_UNSENT: usize = 256 << 10;
/// Data that an admin command may bring at most, and all that are arriving together.
const MOST_DATA: u32 = 128 << 10;
const MOST_ARRIVING: usize = 1 << 20;

/// Why a connection on the control plane ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkEnd {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("the peer violated the protocol: {0}")]
    Protocol(#[from] Fatal),
    #[error("the host terminated the connection: {fes} at {fei:#x}")]
    ByHost { fes: FatalErrorStatus, fei: u32 },
}

/// A command with all the data that it brings.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) slot: Slot,
    pub(super) entry: SubmissionQueueEntry,
    /// Bytes that its SGL declares.
    pub(super) declared: u32,
    pub(super) data: Vec<u8>,
}

struct Pending {
    entry: SubmissionQueueEntry,
    data: Vec<u8>,
}

pub(super) struct Link {
    stream: TcpStream,
    fabric: Connection,
    out: Vec<u8>,
    /// Commands whose data is arriving.
    pending: HashMap<Slot, Pending>,
}

impl Link {
    pub(super) fn new(stream: TcpStream) -> Self {
        let config = Config { in_capsule_data: limits::IN_CAPSULE_DATA, max_h2c_data: limits::MAX_H2C_DATA };
        Self { stream, fabric: Connection::new(config), out: Vec::new(), pending: HashMap::new() }
    }

    pub(super) fn establish(&mut self, qid: u16, queue_size: u16, flow_control: bool) {
        self.fabric.establish(qid, queue_size, flow_control);
    }

    /// Sends what is to be sent and receives until a command is complete. Can be cancelled without loss.
    ///
    /// Without `receives` it sends only, and gives nothing.
    pub(super) async fn next(&mut self, receives: bool) -> Result<Arrived, LinkEnd> {
        loop {
            let reads = receives && self.out.len() < MOST_UNSENT;
            if !reads && self.out.is_empty() {
                std::future::pending::<()>().await;
            }
            let interest = match (reads, self.out.is_empty()) {
                (true, true) => Interest::READABLE,
                (true, false) => Interest::READABLE | Interest::WRITABLE,
                (false, _) => Interest::WRITABLE,
            };
            let ready = self.stream.ready(interest).await?;
            if ready.is_writable() {
                self.send()?;
            }
            if !ready.is_readable() || !reads {
                continue;
            }
            while let Some(event) = self.receive()? {
                if let Some(arrived) = self.happened(event)? {
                    return Ok(arrived);
                }
            }
        }
    }

    fn send(&mut self) -> Result<(), LinkEnd> {
        while !self.out.is_empty() {
            match self.stream.try_write(&self.out) {
                Ok(0) => return Err(LinkEnd::Closed),
                Ok(sent) => drop(self.out.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Receives until something happens; `None` when the socket has nothing more for now.
    fn receive(&mut self) -> Result<Option<Event>, LinkEnd> {
        loop {
            let event = match self.fabric.want() {
                Want::Header { at_least, .. } => {
                    // Not a byte more, so that a connection can be handed over without any left here.
                    let mut bytes = [0; 256];
                    let room = at_least.min(bytes.len());
                    let Some(count) = self.read(&mut bytes[..room])? else { return Ok(None) };
                    match self.fabric.receive(&bytes[..count], &mut self.out) {
                        Ok((_, event)) => event,
                        Err(fatal) => {
                            self.fabric.terminate(&fatal, &mut self.out);
                            return Err(fatal.into());
                        }
                    }
                }
                Want::Payload { slot, offset, remaining } => {
                    let (start, end) = (offset as usize, (offset + remaining) as usize);
                    let Some(pending) = self.pending.get_mut(&slot) else { return Err(LinkEnd::Closed) };
                    let place = &mut pending.data[start..end];
                    let Some(count) = read(&self.stream, place)? else { return Ok(None) };
                    self.fabric.placed(&place[..count])
                }
                Want::Discard { remaining } => {
                    let mut bytes = [0; 4096];
                    let room = bytes.len().min(remaining as usize);
                    let Some(count) = self.read(&mut bytes[..room])? else { return Ok(None) };
                    self.fabric.discarded(count as u32)
                }
                Want::Nothing => return Err(LinkEnd::Closed),
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    fn read(&self, bytes: &mut [u8]) -> Result<Option<usize>, LinkEnd> {
        read(&self.stream, bytes)
    }

    fn happened(&mut self, event: Event) -> Result<Option<Arrived>, LinkEnd> {
        match event {
            Event::Initialized => {
                self.send()?;
                Ok(None)
            }
            Event::Command { slot, entry, data } => Ok(self.command(slot, entry, data)),
            Event::Refused { slot, status, .. } => {
                self.respond(slot, &Reply::status(status));
                Ok(None)
            }
            Event::DataComplete { slot, intact: true } => Ok(self
                .pending
                .remove(&slot)
                .map(|Pending { entry, data }| Arrived { slot, entry, declared: data.len() as u32, data })),
            Event::DataComplete { slot, intact: false } => {
                self.pending.remove(&slot);
                self.respond(slot, &Reply::status(Status::TRANSIENT_TRANSPORT_ERROR));
                Ok(None)
            }
            Event::HostTerminated { fes, fei } => Err(LinkEnd::ByHost { fes, fei }),
        }
    }

    fn command(&mut self, slot: Slot, entry: SubmissionQueueEntry, data: CapsuleData) -> Option<Arrived> {
        let bring = |declared: u32| Arrived { slot, entry, declared, data: Vec::new() };
        match data {
            CapsuleData::None => Some(bring(0)),
            CapsuleData::InCapsule { len } => {
                self.pending.insert(slot, Pending { entry, data: vec![0; len as usize] });
                None
            }
            CapsuleData::Transport { len } if !brings_data(&entry) => Some(bring(len)),
            CapsuleData::Transport { len } if len <= MOST_DATA => {
                let arriving: usize = self.pending.values().map(|pending| pending.data.len()).sum();
                if arriving + len as usize > MOST_ARRIVING {
                    // No Do Not Retry: there is room again soon.
                    self.respond(slot, &Reply::status(Status::COMMAND_INTERRUPTED));
                    return None;
                }
                self.pending.insert(slot, Pending { entry, data: vec![0; len as usize] });
                self.fabric.request_data(slot, &mut self.out);
                None
            }
            CapsuleData::Transport { .. } => {
                self.respond(slot, &Reply::status(Status::DATA_SGL_LENGTH_INVALID.with_dnr()));
                None
            }
        }
    }

    /// Answers a command.
    pub(super) fn respond(&mut self, slot: Slot, reply: &Reply) {
        self.fabric.respond(slot, reply, &mut self.out);
    }

    /// The command that the host gave this identifier, if it was not answered yet.
    pub(super) fn slot_of(&self, cid: u16) -> Option<Slot> {
        self.fabric.slot_of(cid)
    }

    /// Gives a command up that will have no completion.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.fabric.forget(slot);
    }

    /// Answers a command that reads, with its data.
    pub(super) fn respond_with(&mut self, slot: Slot, reply: &Reply, data: &[u8]) {
        if data.is_empty() {
            return self.respond(slot, reply);
        }
        let end = self.fabric.data_header(slot, data, reply, &mut self.out);
        self.out.extend_from_slice(data);
        self.fabric.data_end(end, &mut self.out);
    }

    /// Sends all that is to be sent, then says that nothing follows. Used for last words.
    pub(super) async fn flush(&mut self) -> Result<(), LinkEnd> {
        while !self.out.is_empty() {
            self.stream.writable().await?;
            self.send()?;
        }
        Ok(())
    }

    /// Waits until the peer closes, dropping what it still sends: closing with unread bytes would turn into a reset,
    /// which can overtake a termination request.
    pub(super) async fn linger(mut self) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let _ = self.stream.shutdown().await;
        let mut bytes = [0; 4096];
        while matches!(self.stream.read(&mut bytes).await, Ok(count) if count > 0) {}
    }

    /// Takes the connection apart for a reactor: socket, protocol state, and what is still to be sent.
    pub(super) fn into_parts(self) -> (TcpStream, Connection, Vec<u8>) {
        (self.stream, self.fabric, self.out)
    }

    pub(super) fn local_address(&self) -> io::Result<std::net::SocketAddr> {
        self.stream.local_addr()
    }
}

fn read(stream: &TcpStream, bytes: &mut [u8]) -> Result<Option<usize>, LinkEnd> {
    match stream.try_read(bytes) {
        Ok(0) => Err(LinkEnd::Closed),
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether the data of a command goes to the controller. Fabrics commands say so in FCTYPE, others in their opcode.
fn brings_data(entry: &SubmissionQueueEntry) -> bool {
    let code = match entry.opcode {
        admin::FABRICS => entry.fctype(),
        opcode => opcode,
    };
    matches!(
        TransferDirection::of_opcode(code),
        TransferDirection::HostToController | TransferDirection::Bidirectional
    )
}
