//! What the caller has the connection send.

use gangway_spec::{CompletionQueueEntry, Status};
use zerocopy::IntoBytes;

use super::{Connection, Stage};
use crate::pdu::{C2hData, CapsuleResp, Layout, PduFlags, PduType, R2t};
use crate::target::slots::Phase;
use crate::target::{Reply, Slot};
use crate::term::Fatal;

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
        out.extend_from_slice(R2t::new(command.cid, slot, 0, command.length).as_bytes());
    }

    /// Appends the C2HData header for `len` bytes, all the data that the command returns; the caller sends the
    /// payload right behind it. `len` is at least 1 and at most what the command's SGL declares.
    ///
    /// Returns `true` if the header told the host that the command succeeded with `reply`: the slot is free, and
    /// no response follows. Otherwise answer the command with [`Connection::respond`].
    #[inline]
    #[must_use = "a command whose header did not end it must be answered with `respond`"]
    pub fn data_header(&mut self, slot: Slot, len: u32, reply: &Reply, out: &mut Vec<u8>) -> bool {
        let Some(command) = self.slots.get(slot) else {
            debug_assert!(false, "no command in slot {slot}");
            return false;
        };
        debug_assert!(len > 0 && len <= command.length);
        // SUCCESS takes the place of a completion that has nothing to say: status 0, dwords 0, and no head pointer.
        let ends = *reply == Reply::SUCCESS && self.queue.is_some_and(|queue| !queue.flow_control);
        let flags = if ends { PduFlags::LAST | PduFlags::SUCCESS } else { PduFlags::LAST };
        let pdu = C2hData::new(command.cid, 0, len, flags, self.hpda);
        out.extend_from_slice(pdu.as_bytes());
        let padding = Layout::new(pdu.header.hlen, self.hpda, len).padding(pdu.header.hlen);
        out.resize(out.len() + padding, 0);
        if ends {
            self.slots.release(slot);
        }
        ends
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
        out.extend_from_slice(CapsuleResp::new(entry).as_bytes());
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
