//! Tests of the controller's side: a host made of bytes, fed in pieces of any size.

mod commands;
mod digests;
mod hostile;
mod initialize;
mod transfers;

use std::collections::HashMap;

use gangway_spec::fabrics::fctype;
use gangway_spec::{CompletionQueueEntry, SglDescriptor, SubmissionQueueEntry, opcode};
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::pdu::{CapsuleCmd, CapsuleResp, DigestFlags, H2cData, IcReq, PduType, TermReq};
use crate::term::Fatal;

pub(super) const CONFIG: Config = Config { in_capsule_data: 4096, max_h2c_data: 8192 };
pub(super) const QUEUE_SIZE: u16 = 8;

/// A connection with the memory that its caller would have.
pub(super) struct Harness {
    pub(super) connection: Connection,
    /// What the connection wants to send.
    pub(super) out: Vec<u8>,
    /// The data of commands that are not answered yet.
    pub(super) data: HashMap<Slot, Vec<u8>>,
    /// Bytes that were dropped on demand.
    pub(super) discarded: usize,
}

impl Harness {
    pub(super) fn new() -> Self {
        Self::with_config(CONFIG)
    }

    pub(super) fn with_config(config: Config) -> Self {
        Self { connection: Connection::new(config), out: Vec::new(), data: HashMap::new(), discarded: 0 }
    }

    /// Initialized, but not connected.
    pub(super) fn initialized(hpda: u8) -> Self {
        let mut harness = Self::new();
        let events = harness.feed(&icreq(hpda)).unwrap();
        assert_eq!(events, [Event::Initialized]);
        harness.out.clear();
        harness
    }

    /// Connected, with nothing outstanding.
    pub(super) fn connected(qid: u16, flow_control: bool) -> Self {
        Self::initialized(0).connect(qid, flow_control)
    }

    pub(super) fn connect(mut self, qid: u16, flow_control: bool) -> Self {
        let slot = self.command(&capsule(connect_entry(), &[7; 1024]));
        self.connection.establish(qid, QUEUE_SIZE, flow_control);
        let entry = self.respond(slot, &Reply::SUCCESS);
        assert_eq!(entry.sq_head.get(), if flow_control { 1 } else { 0xffff });
        assert_eq!(self.connection.commands_outstanding(), 0);
        self.data.clear();
        self
    }

    /// Feeds `bytes` in one piece.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Event>, Fatal> {
        self.feed_by(bytes, &mut std::iter::repeat(bytes.len()))
    }

    /// Feeds `bytes` in pieces of the sizes that `sizes` gives.
    pub(super) fn feed_by(
        &mut self,
        bytes: &[u8],
        sizes: &mut dyn Iterator<Item = usize>,
    ) -> Result<Vec<Event>, Fatal> {
        let mut events = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (mut piece, behind) = rest.split_at(sizes.next().unwrap().clamp(1, rest.len()));
            rest = behind;
            while !piece.is_empty() {
                let (taken, event) = self.step(piece)?;
                if taken == 0 {
                    return Ok(events);
                }
                piece = &piece[taken..];
                events.extend(event);
            }
        }
        Ok(events)
    }

    /// Does what the connection wants with bytes from the front of `bytes`.
    fn step(&mut self, bytes: &[u8]) -> Result<(usize, Option<Event>), Fatal> {
        match self.connection.want() {
            Want::Header { at_most, .. } => {
                assert!(at_most > 0);
                let (taken, event) = self.connection.receive(bytes, &mut self.out)?;
                assert!((1..=at_most.min(bytes.len())).contains(&taken));
                if let Some(Event::Command {
                    slot,
                    data: CapsuleData::InCapsule { len } | CapsuleData::Transport { len },
                    ..
                }) = event
                {
                    // What a peer declares and does not send must not cost memory.
                    self.data.insert(slot, vec![0; len.min(1 << 20) as usize]);
                }
                Ok((taken, event))
            }
            Want::Payload { slot, offset, remaining } => {
                let n = bytes.len().min(remaining as usize);
                let offset = offset as usize;
                self.data.get_mut(&slot).unwrap()[offset..offset + n].copy_from_slice(&bytes[..n]);
                let (behind, event) = self.connection.placed_before(&bytes[..n], &bytes[n..]);
                Ok((n + behind, event))
            }
            Want::Discard { remaining } => {
                let n = bytes.len().min(remaining as usize);
                self.discarded += n;
                Ok((n, self.connection.discarded(n as u32)))
            }
            Want::Nothing => Ok((0, None)),
        }
    }

    /// Feeds one good command and its in-capsule data, and returns its slot.
    pub(super) fn command(&mut self, bytes: &[u8]) -> Slot {
        let events = self.feed(bytes).unwrap();
        match &events[..] {
            [
                Event::Command { slot, data: CapsuleData::InCapsule { .. }, .. },
                Event::DataComplete { slot: done, intact: true },
            ] => {
                assert_eq!(slot, done);
                *slot
            }
            [Event::Command { slot, .. }] => *slot,
            other => panic!("not one command: {other:?}"),
        }
    }

    /// Feeds one command that must be refused without harm to the connection, and returns the status.
    pub(super) fn refused(&mut self, bytes: &[u8]) -> Status {
        let events = self.feed(bytes).unwrap();
        let [Event::Refused { slot, status, entry }] = events[..] else { panic!("not refused: {events:?}") };
        assert!(matches!(self.connection.want(), Want::Header { at_most: 128, at_least: 8 }));
        let answer = self.respond(slot, &Reply::status(status));
        assert_eq!((answer.cid, answer.status()), (entry.cid, status));
        status
    }

    /// Answers the command in `slot` and returns the completion that was sent.
    pub(super) fn respond(&mut self, slot: Slot, reply: &Reply) -> CompletionQueueEntry {
        self.out.clear();
        self.connection.respond(slot, reply, &mut self.out);
        self.data.remove(&slot);
        let response = CapsuleResp::read_from_bytes(&self.out).unwrap();
        assert_eq!(response.as_bytes()[..8], [5, 0, 24, 0, 24, 0, 0, 0]);
        response.entry
    }

    /// Feeds bytes that end the connection, checks the term request, and returns FES and FEI.
    pub(super) fn fatal(&mut self, bytes: &[u8]) -> (u16, u32) {
        let fatal = self.feed(bytes).unwrap_err();
        assert_eq!(self.connection.want(), Want::Nothing);
        self.out.clear();
        self.connection.terminate(&fatal, &mut self.out);
        let (term, header) = TermReq::ref_from_prefix(&self.out).unwrap();
        assert_eq!(term.header.pdu_type, PduType::C2H_TERM);
        assert_eq!(term.header.plen.get() as usize, self.out.len());
        assert!(header.len() >= 8 && bytes.windows(header.len()).any(|window| window == header));
        assert_eq!(self.connection.receive(bytes, &mut Vec::new()), Ok((0, None)));
        (term.fes.get(), term.fei.get())
    }
}

pub(super) fn icreq(hpda: u8) -> Vec<u8> {
    IcReq::new(hpda, DigestFlags::empty(), 0).as_bytes().to_vec()
}

pub(super) fn capsule(entry: SubmissionQueueEntry, data: &[u8]) -> Vec<u8> {
    let mut bytes = CapsuleCmd::new(entry, 0, data.len() as u32).as_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes
}

pub(super) fn h2c_data(cid: u16, ttag: u16, offset: u32, data: &[u8], last: bool) -> Vec<u8> {
    let mut bytes = H2cData::new(cid, ttag, offset, data.len() as u32, last, 0).as_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes
}

pub(super) fn entry(opcode: u8, cid: u16, sgl: SglDescriptor) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.cid.set(cid);
    entry.set_sgl(sgl);
    entry
}

pub(super) fn fabrics_entry(fctype: u8, cid: u16, sgl: SglDescriptor) -> SubmissionQueueEntry {
    let mut entry = entry(opcode::admin::FABRICS, cid, sgl);
    entry.nsid.set(u32::from(fctype));
    entry
}

pub(super) fn connect_entry() -> SubmissionQueueEntry {
    fabrics_entry(fctype::CONNECT, 0, SglDescriptor::in_capsule(1024))
}

/// Bytes that differ from their neighbours at any alignment.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}
