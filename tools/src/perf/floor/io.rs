//! An I/O queue that answers without looking at more than it must.

use anyhow::{Context, bail, ensure};
use gangway_fabric::pdu::{C2hData, CapsuleCmd, CapsuleResp, CommonHeader, H2cData, PduFlags, PduType, R2t};
use gangway_spec::{CompletionQueueEntry, Status, TransferDirection};
use zerocopy::{FromBytes, IntoBytes};

use super::LARGEST;
use crate::perf::outbound::Outbound;

/// Bytes of the largest header that a host sends.
const LARGEST_HEADER: usize = size_of::<CapsuleCmd>();

/// The state of the stream of one queue.
pub(super) struct CannedQueue {
    flow_control: bool,
    /// Entries of the submission queue.
    size: u16,
    /// SQHD of the last response.
    head: u16,
    /// The beginning of a header whose end has not arrived.
    partial: [u8; LARGEST_HEADER],
    collected: usize,
    /// Bytes of data that are dropped before the next header.
    skip: usize,
    /// The command that is answered then.
    after: Option<u16>,
}

impl CannedQueue {
    pub(super) fn new(flow_control: bool, size: u16) -> Self {
        Self { flow_control, size, head: 0, partial: [0; LARGEST_HEADER], collected: 0, skip: 0, after: None }
    }

    /// Takes what arrived, and appends the answers.
    ///
    /// # Errors
    /// The host sends something else than Read, Write and their data.
    pub(super) fn take(&mut self, mut bytes: &[u8], out: &mut Outbound) -> anyhow::Result<()> {
        loop {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                if self.skip > 0 {
                    return Ok(());
                }
            }
            if let Some(cid) = self.after.take() {
                self.respond(cid, out);
            }
            if bytes.is_empty() {
                return Ok(());
            }
            if self.collected == 0
                && let Some(length) = header_length(bytes)
                && let Some((header, rest)) = bytes.split_at_checked(length)
            {
                self.handle(header, out)?;
                bytes = rest;
                continue;
            }
            // Its length is known from its first byte.
            let known = if self.collected > 0 { &self.partial[..] } else { bytes };
            let length = header_length(known).context("a PDU that hosts do not send")?;
            let count = (length - self.collected).min(bytes.len());
            self.partial[self.collected..][..count].copy_from_slice(&bytes[..count]);
            self.collected += count;
            bytes = &bytes[count..];
            if self.collected == length {
                self.collected = 0;
                let partial = self.partial;
                self.handle(&partial[..length], out)?;
            }
        }
    }

    #[inline]
    fn handle(&mut self, header: &[u8], out: &mut Outbound) -> anyhow::Result<()> {
        if let Ok(capsule) = CapsuleCmd::ref_from_bytes(header) {
            return self.command(capsule, out);
        }
        match H2cData::ref_from_bytes(header) {
            Ok(data) if data.header.pdu_type == PduType::H2C_DATA => {
                self.skip = data.datal.get() as usize;
                self.after = data.header.flags().contains(PduFlags::LAST).then_some(data.cccid.get());
                Ok(())
            }
            _ => bail!("the host ended the connection, or sent a PDU of an unexpected length"),
        }
    }

    #[inline]
    fn command(&mut self, capsule: &CapsuleCmd, out: &mut Outbound) -> anyhow::Result<()> {
        let cid = capsule.entry.cid.get();
        let length = capsule.entry.sgl().length.get();
        ensure!(length > 0 && length as usize <= LARGEST, "a command for {length} bytes");
        match capsule.entry.transfer_direction() {
            TransferDirection::ControllerToHost => {
                let flags =
                    if self.flow_control { PduFlags::LAST } else { PduFlags::LAST | PduFlags::SUCCESS };
                out.headers().extend_from_slice(C2hData::new(cid, 0, length, flags, 0).as_bytes());
                out.payload(0..length as usize);
                if self.flow_control {
                    self.respond(cid, out);
                }
            }
            TransferDirection::HostToController => {
                let carried = capsule.header.plen.get() as usize;
                if carried > LARGEST_HEADER {
                    self.skip = carried - LARGEST_HEADER;
                    self.after = Some(cid);
                } else {
                    out.headers().extend_from_slice(R2t::new(cid, cid, 0, length).as_bytes());
                }
            }
            _ => bail!("a command that is neither Read nor Write"),
        }
        Ok(())
    }

    #[inline]
    fn respond(&mut self, cid: u16, out: &mut Outbound) {
        let mut entry = CompletionQueueEntry::new(cid, Status::SUCCESS);
        if self.flow_control {
            self.head = if self.head + 1 == self.size { 0 } else { self.head + 1 };
            entry.sq_head.set(self.head);
        }
        out.headers().extend_from_slice(CapsuleResp::new(entry).as_bytes());
    }
}

/// Bytes of the header of what begins here, if a host sends such.
#[inline]
fn header_length(bytes: &[u8]) -> Option<usize> {
    let kind = PduType(*bytes.get(CommonHeader::PDU_TYPE as usize)?);
    matches!(kind, PduType::CAPSULE_CMD | PduType::H2C_DATA | PduType::H2C_TERM)
        .then(|| kind.header_length().unwrap_or(0).into())
}

#[cfg(test)]
mod tests {
    use gangway_spec::{SglDescriptor, SubmissionQueueEntry, opcode};

    use super::*;

    fn command(opcode: u8, cid: u16, in_capsule: u32, length: u32) -> Vec<u8> {
        let mut entry = SubmissionQueueEntry::new(opcode);
        entry.cid.set(cid);
        entry.set_sgl(if in_capsule > 0 {
            SglDescriptor::in_capsule(length)
        } else {
            SglDescriptor::transport(length)
        });
        let mut bytes = CapsuleCmd::new(entry, 0, in_capsule).as_bytes().to_vec();
        bytes.resize(bytes.len() + in_capsule as usize, 0x11);
        bytes
    }

    fn h2c(cid: u16, offset: u32, length: u32, last: bool) -> Vec<u8> {
        let mut bytes = H2cData::new(cid, cid, offset, length, last, 0).as_bytes().to_vec();
        bytes.resize(bytes.len() + length as usize, 0x22);
        bytes
    }

    fn response(cid: u16, head: u16) -> Vec<u8> {
        let mut entry = CompletionQueueEntry::new(cid, Status::SUCCESS);
        entry.sq_head.set(head);
        CapsuleResp::new(entry).as_bytes().to_vec()
    }

    fn answers(flow_control: bool, piece: usize) -> Vec<u8> {
        let stream = [
            command(opcode::nvm::READ, 1, 0, 16),
            command(opcode::nvm::WRITE, 2, 100, 100),
            command(opcode::nvm::WRITE, 3, 0, 5000),
            h2c(3, 0, 4096, false),
            h2c(3, 4096, 904, true),
            command(opcode::nvm::READ, 4, 0, 8),
        ]
        .concat();
        let mut queue = CannedQueue::new(flow_control, 3);
        let mut out = Outbound::default();
        for piece in stream.chunks(piece) {
            queue.take(piece, &mut out).unwrap();
        }
        let mut sent = Vec::new();
        out.send(&mut sent, &[0x5a; 16]).unwrap();
        sent
    }

    #[test]
    fn answers_have_the_pdus_of_a_real_target_however_the_stream_is_cut() {
        let data = |cid, length, flags| {
            [C2hData::new(cid, 0, length, flags, 0).as_bytes(), &[0x5a; 16][..length as usize]].concat()
        };
        let requested = R2t::new(3, 3, 0, 5000).as_bytes().to_vec();
        let with = [
            data(1, 16, PduFlags::LAST),
            response(1, 1),
            response(2, 2),
            requested.clone(),
            response(3, 0),
            data(4, 8, PduFlags::LAST),
            response(4, 1),
        ];
        let success = PduFlags::LAST | PduFlags::SUCCESS;
        let without = [data(1, 16, success), response(2, 0), requested, response(3, 0), data(4, 8, success)];
        for piece in [1, 7, 71, 72, 73, 1000, 100_000] {
            assert_eq!(answers(true, piece), with.concat(), "{piece}");
            assert_eq!(answers(false, piece), without.concat(), "{piece}");
        }
    }

    #[test]
    fn what_it_cannot_answer_ends_the_connection() {
        let take = |bytes: &[u8]| CannedQueue::new(true, 3).take(bytes, &mut Outbound::default());
        assert!(take(&command(opcode::nvm::FLUSH, 1, 0, 0)).is_err());
        assert!(take(&command(opcode::nvm::READ, 1, 0, u32::MAX)).is_err());
        assert!(take(&[0xff; 72]).is_err());
        assert!(take(&[PduType::H2C_TERM.0; 24]).is_err());
    }
}
