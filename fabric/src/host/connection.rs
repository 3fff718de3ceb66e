//! One queue of a host over NVMe/TCP, without sockets.
//!
//! The caller feeds bytes to [`Connection::receive`], places payload where [`Connection::want`] says, and sends
//! what the methods append to `out`, followed by the payload that they name. The connection trusts its controller
//! with nothing: whatever the specification forbids ends in a term request.

use gangway_spec::{CompletionQueueEntry, SglDescriptor, Status, SubmissionQueueEntry, opcode};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::slots::{Data, QueueFull, Slots, State, Tag};
use crate::pdu::{
    C2hData, CapsuleCmd, CapsuleResp, CommonHeader, DigestFlags, H2cData, IcReq, IcResp, MAX_HEADER, MAX_PDA,
    MIN_MAX_H2C_DATA, PduFlags, PduType, R2t, TermReq,
};
use crate::term::{Fatal, FatalErrorStatus};

/// Bytes that any command on the admin queue may carry in its capsule, and a fabrics command on any queue (NVMe/TCP
/// 1.0, 3.3.2.1).
pub const ADMIN_IN_CAPSULE: u32 = 8192;

/// How a connection is set up.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// HPDA: alignment of the data of C2HData, in dwords, 0's based, at most 31.
    pub hpda: u8,
    /// Entries of the submission queue, 1's based: one command less than that may be in flight.
    pub queue_size: u16,
    /// The Connect command asks for SQ flow control, so a controller must not use SUCCESS.
    pub flow_control: bool,
    /// Most bytes of data in the capsule of a command, 0 for none: [`ADMIN_IN_CAPSULE`] on the admin queue, as IOCCSZ
    /// says on an I/O queue.
    pub in_capsule: u32,
    /// The same for fabrics commands, of which Connect has data: at most [`ADMIN_IN_CAPSULE`].
    pub fabrics_in_capsule: u32,
}

/// What comes next from the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Bytes for [`Connection::receive`], of which it will take so many at most.
    Header {
        /// Bytes that are missing from the part of the PDU that is being collected.
        at_most: usize,
    },
    /// Payload: the caller places the next bytes, and tells [`Connection::placed`].
    Payload {
        /// The command that the payload belongs to.
        tag: Tag,
        /// Where the next byte belongs in the command's data.
        offset: u32,
        /// Bytes until the end of the PDU.
        remaining: u32,
    },
    /// Nothing: the connection has ended.
    Nothing,
}

/// What happened.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// The controller accepted the connection: commands may be submitted.
    Initialized {
        /// MAXH2CDATA, bytes.
        max_h2c_data: u32,
    },
    /// A command completed. It stays in use until [`Connection::release`].
    Response {
        /// The command.
        tag: Tag,
        /// Its completion; made here when the controller sent SUCCESS in place of one.
        entry: CompletionQueueEntry,
        /// Bytes of data received.
        received: u32,
    },
    /// The controller is ready for data of a command: send it with [`Connection::data_header`].
    DataRequested(Transfer),
}

/// Data that the controller asked for, as far as it has not been sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Transfer {
    tag: Tag,
    ttag: u16,
    offset: u32,
    remaining: u32,
}

impl Transfer {
    /// The command whose data is asked for.
    pub fn tag(&self) -> Tag {
        self.tag
    }

    /// Bytes that have not been sent.
    pub fn remaining(&self) -> u32 {
        self.remaining
    }
}

/// A command whose capsule was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// Names the command.
    pub tag: Tag,
    /// The caller sends the command's data right behind the capsule.
    pub in_capsule: bool,
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConnectionError {
    /// The controller broke the protocol. The term request that tells it so was written to `out`.
    #[error(transparent)]
    Protocol(#[from] Fatal),
    /// The controller says that this host broke the protocol.
    #[error("the controller ended the connection: {fes}, information {fei:#x}")]
    Terminated {
        /// What the controller found wrong.
        fes: FatalErrorStatus,
        /// Where.
        fei: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// ICReq was not sent.
    New,
    /// ICReq was sent.
    Initializing,
    Ready,
    Ended,
}

/// The data PDU whose payload is being received.
#[derive(Debug, Clone, Copy)]
struct Receiving {
    tag: Tag,
    remaining: u32,
    /// Bytes of padding before the payload.
    padding: u32,
    success: bool,
}

/// One queue of a host.
#[derive(Debug)]
pub struct Connection {
    config: Config,
    phase: Phase,
    slots: Slots,
    header: [u8; MAX_HEADER],
    collected: usize,
    receiving: Option<Receiving>,
    cpda: u8,
    max_h2c_data: u32,
}

impl Connection {
    /// A connection that has not said anything yet.
    pub fn new(config: Config) -> Connection {
        Connection {
            config: Config { hpda: config.hpda.min(MAX_PDA), ..config },
            phase: Phase::New,
            slots: Slots::new(config.queue_size),
            header: [0; MAX_HEADER],
            collected: 0,
            receiving: None,
            cpda: 0,
            max_h2c_data: MIN_MAX_H2C_DATA,
        }
    }

    /// Writes the ICReq: digests off, one R2T at a time for a command.
    pub fn start(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(IcReq::new(self.config.hpda, DigestFlags::empty(), 0).as_bytes());
        self.phase = Phase::Initializing;
    }

    /// Whether commands may be submitted.
    pub fn is_initialized(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Commands that were submitted and not released.
    pub fn in_use(&self) -> usize {
        self.slots.used()
    }

    /// Whether there is no room for a command.
    pub fn is_full(&self) -> bool {
        self.slots.is_full()
    }

    /// Writes the capsule of a command. Command identifier and data pointer of `entry` are set here.
    ///
    /// # Errors
    /// As many commands are in use as the queue takes.
    pub fn submit(
        &mut self,
        entry: &SubmissionQueueEntry,
        data: Data,
        out: &mut Vec<u8>,
    ) -> Result<Submitted, QueueFull> {
        let limit = match entry.opcode {
            opcode::admin::FABRICS => self.config.fabrics_in_capsule,
            _ => self.config.in_capsule,
        };
        let in_capsule = matches!(data, Data::Send(length) if length <= limit && length > 0);
        let tag = self.slots.take(data, in_capsule)?;

        let mut entry = *entry;
        entry.cid.set(self.slots.cid(tag));
        let length = data.length();
        let sgl =
            if in_capsule { SglDescriptor::in_capsule(length) } else { SglDescriptor::transport(length) };
        entry.set_sgl(sgl);
        let capsule = CapsuleCmd::new(entry, self.cpda, if in_capsule { length } else { 0 });
        out.extend_from_slice(capsule.as_bytes());
        if in_capsule {
            pad(&capsule.header, out);
        }
        Ok(Submitted { tag, in_capsule })
    }

    /// Writes the header of the next H2CData of a transfer, and says which of the command's data the caller sends
    /// right behind it. Empty when all of the transfer has been sent.
    pub fn data_header(&mut self, transfer: &mut Transfer, out: &mut Vec<u8>) -> std::ops::Range<usize> {
        let length = transfer.remaining.min(self.max_h2c_data);
        let start = transfer.offset;
        if length == 0 {
            return start as usize..start as usize;
        }
        transfer.remaining -= length;
        transfer.offset += length;
        let last = transfer.remaining == 0;
        let cid = self.slots.cid(transfer.tag);
        let pdu = H2cData::new(cid, transfer.ttag, start, length, last, self.cpda);
        out.extend_from_slice(pdu.as_bytes());
        pad(&pdu.header, out);
        if last {
            self.slots.get_mut(transfer.tag).requested = false;
        }
        start as usize..(start + length) as usize
    }

    /// Gives the slot of a completed command back.
    pub fn release(&mut self, tag: Tag) {
        self.slots.release(tag);
    }

    /// What the connection needs next.
    pub fn want(&self) -> Want {
        if matches!(self.phase, Phase::New | Phase::Ended) {
            return Want::Nothing;
        }
        match self.receiving {
            Some(Receiving { padding, .. }) if padding > 0 => Want::Header { at_most: padding as usize },
            Some(receiving) => {
                let offset = self.slots.moved(receiving.tag);
                Want::Payload { tag: receiving.tag, offset, remaining: receiving.remaining }
            }
            None => Want::Header { at_most: self.header_length() - self.collected },
        }
    }

    /// The length of the header being collected, or the most that it can be as long as that is not known.
    fn header_length(&self) -> usize {
        match self.collected {
            0..COMMON => MAX_HEADER,
            _ => self.header[HLEN].into(),
        }
    }

    /// Takes bytes of PDU headers and padding: at most those that belong to the current PDU. Returns how many were
    /// taken, and what happened. Takes none while payload is wanted.
    ///
    /// # Errors
    /// The connection has ended. What has to be sent then, if anything, was appended to `out`.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(usize, Option<Event>), ConnectionError> {
        let Want::Header { at_most } = self.want() else {
            return Ok((0, None));
        };
        if let Some(receiving) = &mut self.receiving {
            let taken = at_most.min(bytes.len());
            receiving.padding -= taken as u32;
            return Ok((taken, None));
        }
        self.collect(bytes).inspect_err(|error| {
            self.phase = Phase::Ended;
            if let ConnectionError::Protocol(fatal) = error {
                fatal.write(PduType::H2C_TERM, out);
            }
        })
    }

    fn collect(&mut self, bytes: &[u8]) -> Result<(usize, Option<Event>), ConnectionError> {
        let mut taken = self.fill(COMMON, bytes);
        if self.collected < COMMON {
            return Ok((taken, None));
        }
        if taken > 0 {
            self.check_common_header()?;
        }
        taken += self.fill(self.header[HLEN].into(), &bytes[taken..]);
        if self.collected < usize::from(self.header[HLEN]) {
            return Ok((taken, None));
        }
        let event = self.handle()?;
        self.collected = 0;
        Ok((taken, event))
    }

    /// Collects bytes of the header until it has `length`.
    fn fill(&mut self, length: usize, bytes: &[u8]) -> usize {
        let taken = length.saturating_sub(self.collected).min(bytes.len());
        self.header[self.collected..][..taken].copy_from_slice(&bytes[..taken]);
        self.collected += taken;
        taken
    }

    fn received_header(&self) -> &[u8] {
        &self.header[..self.collected]
    }

    fn field_error(&self, offset: u32) -> ConnectionError {
        Fatal::field(offset, self.received_header()).into()
    }

    fn error(&self, fes: FatalErrorStatus) -> ConnectionError {
        Fatal::new(fes, 0, self.received_header()).into()
    }

    fn sequence_error(&self) -> ConnectionError {
        self.error(FatalErrorStatus::PDU_SEQUENCE_ERROR)
    }

    fn pdu<T: FromBytes + KnownLayout + Immutable + Copy>(&self) -> T {
        // A header is as long as its type says, by `check_common_header`.
        match T::read_from_prefix(&self.header) {
            Ok((pdu, _)) => pdu,
            Err(_) => unreachable!("the buffer holds the largest header"),
        }
    }

    fn check_common_header(&self) -> Result<(), ConnectionError> {
        let header: CommonHeader = self.pdu();
        let expected = match header.pdu_type {
            PduType::ICRESP => self.phase == Phase::Initializing,
            PduType::CAPSULE_RESP | PduType::C2H_DATA | PduType::R2T => self.phase == Phase::Ready,
            PduType::C2H_TERM => true,
            _ => return Err(self.field_error(CommonHeader::PDU_TYPE)),
        };
        if !expected {
            return Err(self.sequence_error());
        }
        if Some(header.hlen) != header.pdu_type.header_length() {
            return Err(self.field_error(CommonHeader::HLEN));
        }
        // No digests were asked for.
        if header.flags().intersects(PduFlags::HEADER_DIGEST | PduFlags::DATA_DIGEST) {
            return Err(self.field_error(CommonHeader::FLAGS));
        }
        let bare = matches!(header.pdu_type, PduType::ICRESP | PduType::CAPSULE_RESP | PduType::R2T);
        if bare && header.plen.get() != u32::from(header.hlen) {
            return Err(self.field_error(CommonHeader::PLEN));
        }
        Ok(())
    }

    fn handle(&mut self) -> Result<Option<Event>, ConnectionError> {
        match PduType(self.header[0]) {
            PduType::ICRESP => self.initialize().map(Some),
            PduType::CAPSULE_RESP => self.response().map(Some),
            PduType::C2H_DATA => self.data().map(|()| None),
            PduType::R2T => self.ready_to_transfer().map(|transfer| Some(Event::DataRequested(transfer))),
            // What follows is the header that the controller did not like, of which nothing more can be made.
            _ => {
                let term: TermReq = self.pdu();
                let fes = FatalErrorStatus(term.fes.get());
                Err(ConnectionError::Terminated { fes, fei: term.fei.get() })
            }
        }
    }

    fn initialize(&mut self) -> Result<Event, ConnectionError> {
        let response: IcResp = self.pdu();
        let max_h2c_data = response.maxh2cdata.get();
        if response.pfv.get() != 0 {
            return Err(self.field_error(IcResp::PFV));
        }
        if response.cpda > MAX_PDA {
            return Err(self.field_error(IcResp::CPDA));
        }
        if response.dgst != 0 {
            return Err(self.field_error(IcResp::DGST));
        }
        if max_h2c_data < MIN_MAX_H2C_DATA || !max_h2c_data.is_multiple_of(4) {
            return Err(self.field_error(IcResp::MAXH2CDATA));
        }
        self.cpda = response.cpda;
        self.max_h2c_data = max_h2c_data;
        self.phase = Phase::Ready;
        Ok(Event::Initialized { max_h2c_data })
    }

    fn response(&mut self) -> Result<Event, ConnectionError> {
        let entry = self.pdu::<CapsuleResp>().entry;
        let Some((tag, slot)) = self.slots.in_flight(entry.cid.get()) else {
            return Err(self.field_error(RESPONSE_CID));
        };
        // The controller still owes itself the data that it asked for: it cannot know the command's outcome.
        if slot.requested {
            return Err(self.sequence_error());
        }
        Ok(complete(tag, slot, entry))
    }

    fn data(&mut self) -> Result<(), ConnectionError> {
        let pdu: C2hData = self.pdu();
        let (offset, length) = (pdu.datao.get(), pdu.datal.get());
        let flags = pdu.header.flags();
        let last = flags.contains(PduFlags::LAST);
        let success = flags.contains(PduFlags::SUCCESS);
        let Some((tag, slot)) = self.slots.in_flight(pdu.cccid.get()) else {
            return Err(self.field_error(C2hData::CCCID));
        };
        let Data::Receive(expected) = slot.data else {
            return Err(self.sequence_error());
        };
        let (received, last_received) = (slot.moved, slot.last_received);
        if last_received {
            return Err(self.sequence_error());
        }
        if success && (!last || self.config.flow_control) {
            return Err(self.field_error(CommonHeader::FLAGS));
        }
        let pdo = pdu.header.pdo;
        let alignment = (self.config.hpda + 1) * 4;
        if pdo < pdu.header.hlen || !pdo.is_multiple_of(alignment) {
            return Err(self.field_error(CommonHeader::PDO));
        }
        if length == 0 {
            return Err(self.field_error(C2hData::DATAL));
        }
        if length.checked_add(pdo.into()) != Some(pdu.header.plen.get()) {
            return Err(self.field_error(CommonHeader::PLEN));
        }
        if offset != received || length > expected - received {
            return Err(self.error(FatalErrorStatus::DATA_TRANSFER_OUT_OF_RANGE));
        }
        self.slots.get_mut(tag).last_received = last;
        let padding = u32::from(pdo - pdu.header.hlen);
        self.receiving = Some(Receiving { tag, remaining: length, padding, success });
        Ok(())
    }

    fn ready_to_transfer(&mut self) -> Result<Transfer, ConnectionError> {
        let pdu: R2t = self.pdu();
        let (offset, length) = (pdu.r2to.get(), pdu.r2tl.get());
        let Some((tag, slot)) = self.slots.in_flight(pdu.cccid.get()) else {
            return Err(self.field_error(R2t::CCCID));
        };
        let (in_capsule, requested, moved) = (slot.in_capsule, slot.requested, slot.moved);
        let Data::Send(available) = slot.data else {
            return Err(self.sequence_error());
        };
        if in_capsule {
            return Err(self.sequence_error());
        }
        if requested {
            return Err(self.error(FatalErrorStatus::R2T_LIMIT_EXCEEDED));
        }
        if length == 0 {
            return Err(self.field_error(R2t::R2TL));
        }
        if offset != moved || length > available - moved {
            return Err(self.error(FatalErrorStatus::DATA_TRANSFER_OUT_OF_RANGE));
        }
        let slot = self.slots.get_mut(tag);
        slot.moved += length;
        slot.requested = true;
        Ok(Transfer { tag, ttag: pdu.ttag.get(), offset, remaining: length })
    }

    /// Tells that the next `count` bytes of the wanted payload are where they belong.
    pub fn placed(&mut self, count: u32) -> Option<Event> {
        let receiving = self.receiving.as_mut()?;
        debug_assert!(receiving.padding == 0 && count <= receiving.remaining, "more placed than was wanted");
        let count = count.min(receiving.remaining);
        receiving.remaining -= count;
        let slot = self.slots.get_mut(receiving.tag);
        slot.moved += count;
        if receiving.remaining > 0 {
            return None;
        }
        let Receiving { tag, success, .. } = self.receiving.take()?;
        success.then(|| {
            let entry = CompletionQueueEntry::new(self.slots.cid(tag), Status::SUCCESS);
            complete(tag, self.slots.get_mut(tag), entry)
        })
    }
}

const COMMON: usize = size_of::<CommonHeader>();
const HLEN: usize = CommonHeader::HLEN as usize;

/// Byte offset of the command identifier in a response capsule.
const RESPONSE_CID: u32 = 8 + 12;

fn complete(tag: Tag, slot: &mut super::slots::Slot, entry: CompletionQueueEntry) -> Event {
    slot.state = State::Completed;
    let received = if matches!(slot.data, Data::Receive(_)) { slot.moved } else { 0 };
    Event::Response { tag, entry, received }
}

/// Writes the padding between a header and its data.
fn pad(header: &CommonHeader, out: &mut Vec<u8>) {
    let padding = header.pdo.saturating_sub(header.hlen);
    out.resize(out.len() + usize::from(padding), 0);
}
