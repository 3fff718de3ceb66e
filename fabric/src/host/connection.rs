//! One queue of a host over NVMe/TCP, without sockets.
//!
//! The caller feeds bytes to [`Connection::receive`], places payload where [`Connection::want`] says, and sends
//! what the methods append to `out`, followed by the payload that they name, and behind each piece of payload what
//! [`Connection::data_end`] appends. The connection trusts its controller
//! with nothing: whatever the specification forbids ends in a term request.

use gangway_spec::{CompletionQueueEntry, SglDescriptor, Status, SubmissionQueueEntry, opcode};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::slots::{Data, QueueFull, Slots, State, Tag};
use crate::digest::{self, DIGEST_LENGTH, DataDigest};
use crate::pdu::{
    C2hData, CapsuleCmd, CapsuleResp, CommonHeader, DigestFlags, Framing, H2cData, IcReq, IcResp, MAX_HEADER,
    MAX_PDA, MIN_MAX_H2C_DATA, PduFlags, PduType, R2t, TermReq,
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
    /// The digests that the controller is asked for. It must agree.
    pub digests: DigestFlags,
    /// Entries of the submission queue, 1's based: one command less than that may be in flight.
    pub queue_size: u16,
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
        /// Its completion; made here when the controller sent SUCCESS in place of one. The status is Transient
        /// Transport Error when the controller succeeded, but a digest of the data that it sent was wrong.
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

impl Receiving {
    /// Bytes that go to [`Connection::receive`] now: padding, or what is missing of the data digest.
    fn around_payload(&self, digest: &DataDigest) -> usize {
        match *self {
            Receiving { padding: 0, remaining: 0, .. } => digest.missing(),
            Receiving { padding, .. } => padding as usize,
        }
    }
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
    /// Of the PDU in `receiving`.
    data_digest: DataDigest,
    /// How PDUs leave: the controller's CPDA, and the digests that both sides use.
    framing: Framing,
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
            data_digest: DataDigest::new(),
            framing: Framing::PLAIN,
            max_h2c_data: MIN_MAX_H2C_DATA,
        }
    }

    /// Writes the ICReq: one R2T at a time for a command.
    pub fn start(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(IcReq::new(self.config.hpda, self.config.digests, 0).as_bytes());
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

    /// The identifier of a command that was submitted and not released, as Abort needs it.
    pub fn cid(&self, tag: Tag) -> u16 {
        self.slots.cid(tag)
    }

    /// Whether there is no room for a command.
    pub fn is_full(&self) -> bool {
        self.slots.is_full()
    }

    /// Writes the capsule of a command. If its data goes in the capsule, the caller sends it right behind, and then
    /// what [`Connection::data_end`] writes. Command identifier and data pointer of `entry` are set here.
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
        let carried = if in_capsule { length } else { 0 };
        self.framing.append(&CapsuleCmd::new(entry, self.framing.pda, carried), carried, out);
        Ok(Submitted { tag, in_capsule })
    }

    /// Writes the header of the next H2CData of a transfer, and says which of the command's data the caller sends
    /// right behind it, and then what [`Connection::data_end`] writes. Empty when all of the transfer has been sent.
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
        let pdu = H2cData::new(cid, transfer.ttag, start, length, last, self.framing.pda);
        self.framing.append(&pdu, length, out);
        if last {
            self.slots.get_mut(transfer.tag).requested = false;
        }
        start as usize..(start + length) as usize
    }

    /// Writes what follows `data`, the payload of one PDU: its digest, if the connection has data digests.
    #[inline]
    pub fn data_end(&self, data: &[u8], out: &mut Vec<u8>) {
        if self.framing.digests.contains(DigestFlags::DATA) {
            out.extend_from_slice(&digest::digest(data).to_le_bytes());
        }
    }

    /// Frees the tags of all commands in flight, after a reset of the controller: it completes none of them.
    pub fn abandon(&mut self) {
        self.slots.abandon();
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
            Some(receiving) if receiving.padding > 0 || receiving.remaining == 0 => {
                Want::Header { at_most: receiving.around_payload(&self.data_digest) }
            }
            Some(receiving) => {
                let offset = self.slots.moved(receiving.tag);
                Want::Payload { tag: receiving.tag, offset, remaining: receiving.remaining }
            }
            None => Want::Header { at_most: self.header_length() - self.collected },
        }
    }

    /// The length of the header being collected, with its digest, or the most that it can be as long as that is not
    /// known.
    fn header_length(&self) -> usize {
        let digest = if self.has_header_digest() { DIGEST_LENGTH } else { 0 };
        match self.collected {
            0..COMMON => MAX_HEADER,
            _ => usize::from(self.header[HLEN]) + digest,
        }
    }

    /// Whether the PDU whose header is being collected has a header digest.
    fn has_header_digest(&self) -> bool {
        self.framing.digests.contains(DigestFlags::HEADER) && PduType(self.header[0]) != PduType::C2H_TERM
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
            if receiving.padding == 0 {
                let taken = self.data_digest.take(bytes);
                return Ok((taken, self.data_ended()));
            }
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
        taken += self.fill(self.header_length(), &bytes[taken..]);
        if self.collected < self.header_length() {
            return Ok((taken, None));
        }
        if self.has_header_digest() {
            self.verify_header()?;
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

    /// Compares the digest behind the header that was collected, and takes it away.
    fn verify_header(&mut self) -> Result<(), ConnectionError> {
        self.collected = self.header[HLEN].into();
        let Some((header, digest)) =
            self.header[..self.collected + DIGEST_LENGTH].split_last_chunk::<DIGEST_LENGTH>()
        else {
            return Err(self.field_error(CommonHeader::HLEN));
        };
        let received = u32::from_le_bytes(*digest);
        if received == digest::digest(header) {
            return Ok(());
        }
        Err(Fatal::new(FatalErrorStatus::HEADER_DIGEST_ERROR, received, header).into())
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
        // Digests are there when they were agreed on, and only then. One that is not there would be waited for.
        let data_digest =
            header.pdu_type == PduType::C2H_DATA && self.framing.digests.contains(DigestFlags::DATA);
        if header.flags().contains(PduFlags::HEADER_DIGEST) != self.has_header_digest()
            || header.flags().contains(PduFlags::DATA_DIGEST) != data_digest
        {
            return Err(self.field_error(CommonHeader::FLAGS));
        }
        let bare = matches!(header.pdu_type, PduType::ICRESP | PduType::CAPSULE_RESP | PduType::R2T);
        if bare && header.plen.get() as usize != self.header_length() {
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
        if response.dgst != self.config.digests.bits() {
            return Err(self.field_error(IcResp::DGST));
        }
        if max_h2c_data < MIN_MAX_H2C_DATA || !max_h2c_data.is_multiple_of(4) {
            return Err(self.field_error(IcResp::MAXH2CDATA));
        }
        if response.dgst != 0 {
            digest::warm_up();
        }
        self.framing = Framing { digests: self.config.digests, pda: response.cpda };
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
        // With flow control a controller must not set SUCCESS, since it takes the place of a completion with SQHD. SPDK's
        // target does so all the same, and nothing here goes by SQHD.
        if success && !last {
            return Err(self.field_error(CommonHeader::FLAGS));
        }
        let pdo = pdu.header.pdo;
        let alignment = (self.config.hpda + 1) * 4;
        let Some(padding) =
            usize::from(pdo).checked_sub(self.header_length()).filter(|_| pdo.is_multiple_of(alignment))
        else {
            return Err(self.field_error(CommonHeader::PDO));
        };
        if length == 0 {
            return Err(self.field_error(C2hData::DATAL));
        }
        let has_digest = self.framing.digests.contains(DigestFlags::DATA);
        let around = u32::from(pdo) + if has_digest { DIGEST_LENGTH as u32 } else { 0 };
        if length.checked_add(around) != Some(pdu.header.plen.get()) {
            return Err(self.field_error(CommonHeader::PLEN));
        }
        if offset != received || length > expected - received {
            return Err(self.error(FatalErrorStatus::DATA_TRANSFER_OUT_OF_RANGE));
        }
        self.slots.get_mut(tag).last_received = last;
        if has_digest {
            self.data_digest.start();
        }
        // The difference of two numbers below 256.
        self.receiving = Some(Receiving { tag, remaining: length, padding: padding as u32, success });
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

    /// Tells that `bytes`, the next of the wanted payload, are where they belong. They are looked at only when the
    /// connection has data digests.
    #[inline]
    pub fn placed(&mut self, bytes: &[u8]) -> Option<Event> {
        let receiving = self.receiving.as_mut()?;
        let fits = bytes.len() <= receiving.remaining as usize;
        debug_assert!(receiving.padding == 0 && fits, "more placed than was wanted");
        // At most what remains, which is a u32.
        let count = bytes.len().min(receiving.remaining as usize) as u32;
        receiving.remaining -= count;
        self.data_digest.placed(bytes);
        self.slots.get_mut(receiving.tag).moved += count;
        self.data_ended()
    }

    /// What there is to do when a data PDU has arrived whole.
    #[inline]
    fn data_ended(&mut self) -> Option<Event> {
        if self.receiving.is_none_or(|receiving| receiving.remaining > 0) || self.data_digest.missing() > 0 {
            return None;
        }
        let Receiving { tag, success, .. } = self.receiving.take()?;
        let slot = self.slots.get_mut(tag);
        if self.framing.digests.contains(DigestFlags::DATA) {
            slot.damaged |= !self.data_digest.is_right();
        }
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

fn complete(tag: Tag, slot: &mut super::slots::Slot, mut entry: CompletionQueueEntry) -> Event {
    slot.state = State::Completed;
    if slot.damaged && entry.status().is_success() {
        entry.set_status(Status::TRANSIENT_TRANSPORT_ERROR);
    }
    let received = if matches!(slot.data, Data::Receive(_)) { slot.moved } else { 0 };
    Event::Response { tag, entry, received }
}
