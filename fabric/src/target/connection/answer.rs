//! What the caller has the connection send.

use gangway_spec::{CompletionQueueEntry, Status};

use super::{Connection, Stage};
use crate::digest;
use crate::pdu::{C2hData, CapsuleResp, DigestFlags, PduFlags, PduType, R2t};
use crate::target::slots::Phase;
use crate::target::{Reply, Slot};
use crate::term::Fatal;

/// What follows the payload of a C2HData PDU.
#[derive(Debug)]
#[must_use = "a command whose data was sent ends with `Connection::data_end`"]
pub struct DataEnd {
    /// The data digest.
    digest: Option<u32>,
    /// The answer, unless the PDU's header told the host that the command succeeded.
    answer: Option<(Slot, Reply)>,
}

impl DataEnd {
    /// Whether a response capsule follows the data. Otherwise its header has ended the command.
    pub fn has_response(&self) -> bool {
        self.answer.is_some()
    }
}

impl Connection {
    /// Appends the R2T for all data of a command whose data is [`Transport`]. It arrives as [`Payload`], and
    /// [`DataComplete`] follows.
    ///
    /// From here to `DataComplete` the command must not be answered, since its host may be sending;
    /// [`Connection::discard_data`] is for data that is not wanted any more.
    ///
    /// [`Transport`]: crate::target::CapsuleData::Transport
    /// [`Payload`]: crate::target::Want::Payload
    /// [`DataComplete`]: crate::target::Event::DataComplete
    #[inline]
    pub fn request_data(&mut self, slot: Slot, out: &mut Vec<u8>) {
        let Some(command) = self.slots.get_mut(slot) else {
            debug_assert!(false, "no command in slot {slot}");
            return;
        };
        debug_assert!(command.phase == Phase::Idle && command.received == 0 && command.length > 0);
        command.phase = Phase::Requested;
        // The tag is the slot: the CID beside it tells a late PDU for an earlier command in this slot apart.
        self.framing.append(&R2t::new(command.cid, slot, 0, command.length), 0, out);
    }

    /// Appends the C2HData header for `payload`, all the data that the command returns; the caller sends the payload
    /// right behind it, and behind that what [`Connection::data_end`] appends. The payload has at least 1 byte and at
    /// most what the command's SGL declares. It is looked at only when the connection has data digests.
    ///
    /// The command ends with `reply`: here, if the header can say so, or by a response capsule behind the data.
    #[inline(always)]
    pub fn data_header(&mut self, slot: Slot, payload: &[u8], reply: &Reply, out: &mut Vec<u8>) -> DataEnd {
        let Some(command) = self.slots.get(slot) else {
            debug_assert!(false, "no command in slot {slot}");
            return DataEnd { digest: None, answer: None };
        };
        debug_assert!(!payload.is_empty() && payload.len() <= command.length as usize);
        // Never longer than the SGL says, which is a u32.
        let len = payload.len() as u32;
        // SUCCESS takes the place of a completion that has nothing to say: status 0, dwords 0, and no head pointer.
        let ends = *reply == Reply::SUCCESS && self.queue.is_some_and(|queue| !queue.flow_control);
        let flags = if ends { PduFlags::LAST | PduFlags::SUCCESS } else { PduFlags::LAST };
        self.framing.append(&C2hData::new(command.cid, 0, len, flags, self.framing.pda), len, out);
        if ends {
            self.slots.release(slot);
        }
        DataEnd {
            digest: self.framing.digests.contains(DigestFlags::DATA).then(|| digest::digest(payload)),
            answer: (!ends).then_some((slot, *reply)),
        }
    }

    /// Appends what follows the payload: its digest, and the response capsule, as far as there are such.
    #[inline(always)]
    pub fn data_end(&mut self, end: DataEnd, out: &mut Vec<u8>) {
        if let Some(digest) = end.digest {
            out.extend_from_slice(&digest.to_le_bytes());
        }
        if let Some((slot, reply)) = end.answer {
            self.respond(slot, &reply, out);
        }
    }

    /// Appends the response capsule and frees the slot. In-capsule data of the command that still arrives is
    /// discarded.
    #[inline]
    pub fn respond(&mut self, slot: Slot, reply: &Reply, out: &mut Vec<u8>) {
        let Some(command) = self.slots.release(slot) else {
            debug_assert!(false, "no command in slot {slot}");
            return;
        };
        debug_assert!(command.phase != Phase::Requested, "answered while its host may be sending data");
        let mut entry = CompletionQueueEntry::new(command.cid, reply.status);
        entry.set_result(reply.result);
        entry.sq_head.set(self.next_sq_head(slot, reply.status));
        self.framing.append(&CapsuleResp::new(entry), 0, out);
    }

    /// Frees the slot of a command that will have no completion, as the event requests of a controller that was reset or
    /// shut down (NVMe Base 2.0, 3.7.2). Its entry counts as fetched: the next completion's SQHD is beyond it.
    pub fn forget(&mut self, slot: Slot) {
        if self.slots.release(slot).is_some() {
            self.next_sq_head(slot, Status::SUCCESS);
        }
    }

    /// SQHD of the next completion, which ends the command in `slot`.
    fn next_sq_head(&mut self, slot: Slot, status: Status) -> u16 {
        let connects = self.connecting == Some(slot);
        if connects {
            self.connecting = None;
        }
        match &mut self.queue {
            Some(queue) if queue.flow_control => {
                let next = queue.sq_head + 1;
                queue.sq_head = if next == queue.size { 0 } else { next };
                queue.sq_head
            }
            // FFFFh in the response to Connect confirms that flow control is off (NVMe Base 2.0, 6.3).
            Some(_) if connects && status.is_success() => 0xffff,
            _ => 0,
        }
    }

    /// Appends C2HTermReq for `fatal` and ends the connection, which wants nothing from here on. The caller sends
    /// what is in `out`, closes its sending side and waits for the host to close, or a while.
    pub fn terminate(&mut self, fatal: &Fatal, out: &mut Vec<u8>) {
        self.stage = Stage::Terminated;
        fatal.write(PduType::C2H_TERM, out);
    }
}
