//! What one vectored send carries: the headers and payloads of many replies.

use std::io::IoSlice;

use gangway_driver::dma::DmaBuffer;

/// Data of a reply, and how much of the headers stands before it.
#[derive(Debug)]
struct Payload {
    headers: usize,
    buffer: DmaBuffer,
}

/// Replies in the order in which they leave. Owns the payload buffers until the kernel has taken the bytes.
///
/// Headers of all replies lie one behind the other; each payload knows how many bytes of them go before it. So headers
/// that follow each other leave as one slice.
#[derive(Debug, Default)]
pub(crate) struct SendBatch {
    headers: Vec<u8>,
    payloads: Vec<Payload>,
    payload_bytes: usize,
    /// Bytes that have left, of headers and payloads.
    gone: usize,
    /// Payloads that have left.
    sent: usize,
    /// Bytes of the headers that have left.
    headers_sent: usize,
    /// Bytes that have left of the payload that leaves next.
    offset: usize,
}

impl SendBatch {
    /// Makes room for `replies` replies without allocating: each a C2HData header, padded as far as a host can ask for,
    /// the digest behind the data, and a response with its own.
    pub(crate) fn make_room(&mut self, replies: usize) {
        let headers = header_room(replies);
        self.headers.reserve_exact(headers.saturating_sub(self.headers.len()));
        self.payloads.reserve_exact(replies.saturating_sub(self.payloads.len()));
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    /// Where headers are appended.
    #[inline]
    pub(crate) fn headers(&mut self) -> &mut Vec<u8> {
        &mut self.headers
    }

    /// Bytes of headers in it.
    pub(crate) fn header_bytes(&self) -> usize {
        self.headers.len()
    }

    /// Bytes of payload in it.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Appends data, behind a header that announced it.
    #[inline]
    pub(crate) fn payload(&mut self, buffer: DmaBuffer) {
        debug_assert!(
            !buffer.is_empty() && self.headers.len() > self.payloads.last().map_or(0, |last| last.headers)
        );
        self.payload_bytes += buffer.len();
        self.payloads.push(Payload { headers: self.headers.len(), buffer });
    }

    /// Appends what is to leave next to `slices`, `most` of them at most, and returns how many bytes that are.
    pub(crate) fn gather<'a>(&'a self, slices: &mut Vec<IoSlice<'a>>, most: usize) -> usize {
        let mut bytes = 0;
        let mut from = self.headers_sent;
        let mut skip = self.offset;
        let payloads = &self.payloads[self.sent..];
        // Each with the headers before it.
        let these = &payloads[..payloads.len().min((most - 1) / 2)];
        slices.extend(these.iter().flat_map(|Payload { headers, buffer }| {
            let pair = [&self.headers[from..*headers], &buffer[skip..]];
            bytes += pair[0].len() + pair[1].len();
            from = *headers;
            skip = 0;
            pair.map(IoSlice::new)
        }));
        if these.len() == payloads.len() && from < self.headers.len() {
            bytes += self.headers.len() - from;
            slices.push(IoSlice::new(&self.headers[from..]));
        }
        bytes
    }

    /// Notes that `sent` more bytes have left. Whether all have; then it is to be [recycled](Self::recycle).
    pub(crate) fn advance(&mut self, sent: usize) -> bool {
        self.gone += sent;
        let all = self.gone == self.headers.len() + self.payload_bytes;
        if !all {
            self.leave_off_behind(sent);
        }
        all
    }

    fn leave_off_behind(&mut self, mut sent: usize) {
        while sent > 0 {
            let next = self.payloads.get(self.sent);
            let headers = next.map_or(self.headers.len(), |next| next.headers) - self.headers_sent;
            let gone = sent.min(headers);
            self.headers_sent += gone;
            sent -= gone;
            let Some(Payload { buffer, .. }) = next else { return };
            let rest = buffer.len() - self.offset;
            if sent < rest {
                self.offset += sent;
                return;
            }
            sent -= rest;
            self.sent += 1;
            self.offset = 0;
        }
    }

    /// Empties the batch for its next use and hands its buffers to `release`.
    pub(crate) fn recycle(&mut self, mut release: impl FnMut(DmaBuffer)) {
        for Payload { buffer, .. } in self.payloads.drain(..) {
            release(buffer);
        }
        self.headers.clear();
        self.payload_bytes = 0;
        self.gone = 0;
        self.sent = 0;
        self.headers_sent = 0;
        self.offset = 0;
    }
}

/// Bytes of headers of so many replies.
const fn header_room(replies: usize) -> usize {
    replies * (128 + 4 + 28) + 128
}

/// Batches for all connections of a reactor. A connection has one only while it has something to say; the one that was
/// given back last, whose memory is still in the CPU's caches, is the next to be used.
#[derive(Debug, Default)]
pub(crate) struct BatchPool {
    #[expect(
        clippy::vec_box,
        reason = "a batch goes from hand to hand as a pointer, and is not boxed anew each time"
    )]
    free: Vec<Box<SendBatch>>,
    /// Replies for which each batch has room.
    room: usize,
    /// Connections that use it.
    users: usize,
}

impl BatchPool {
    /// Batches that are made before they are needed, at most: with more than half as many connections that all have
    /// unsent answers, some are made on the way.
    const READY: usize = 64;
    /// Batches that are kept for later use at most.
    const KEPT: usize = 256;

    /// Makes room for a connection more, which has up to `replies` replies at a time. One batch may be on its way while
    /// another one is filled.
    pub(crate) fn admit(&mut self, replies: usize) {
        self.users += 1;
        if replies > self.room {
            self.room = replies;
            self.free.iter_mut().for_each(|batch| batch.make_room(replies));
        }
        self.free.reserve_exact(Self::KEPT.saturating_sub(self.free.len()));
        for _ in 0..2 {
            if self.free.len() < Self::READY {
                self.free.push(self.make());
            }
        }
    }

    /// A connection is gone, and what was only for it.
    pub(crate) fn dismiss(&mut self) {
        self.users -= 1;
        self.free.truncate(2 * self.users);
        if self.users == 0 {
            *self = Self::default();
        }
    }

    fn make(&self) -> Box<SendBatch> {
        let mut batch = Box::<SendBatch>::default();
        batch.make_room(self.room);
        batch
    }

    /// An empty batch.
    #[inline]
    pub(crate) fn take(&mut self) -> Box<SendBatch> {
        self.free.pop().unwrap_or_else(|| self.make())
    }

    /// Takes an empty batch back.
    #[inline]
    pub(crate) fn put(&mut self, mut batch: Box<SendBatch>) {
        debug_assert!(batch.is_empty());
        // One that a host which does not read made grow is not kept: hundreds of them would be much memory.
        let usual = batch.headers.capacity() <= 2 * header_room(self.room);
        if usual && self.free.len() < Self::KEPT.min(2 * self.users) {
            batch.make_room(self.room);
            self.free.push(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gangway_driver::dma::{BufferPool, Direction, DmaDomain};

    fn sent(batch: &SendBatch, at_most: usize) -> Vec<u8> {
        let mut slices = Vec::new();
        let gathered = batch.gather(&mut slices, 3);
        let mut bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        assert!(bytes.len() == gathered && slices.len() <= 3);
        bytes.truncate(at_most);
        bytes
    }

    #[test]
    fn a_batch_cut_at_any_byte_sends_every_byte_once_and_in_order() {
        let domain = DmaDomain::new();
        let mut pool = BufferPool::new(&domain, Direction::DeviceWrites, 64 * 1024, 8192).unwrap();
        for step in 1..200 {
            let mut batch = SendBatch::default();
            batch.make_room(8);
            let mut expected = Vec::new();
            for reply in 0..5_u8 {
                batch.headers().extend_from_slice(&[reply; 24]);
                batch.headers().extend_from_slice(&[reply + 100; 8]);
                expected.extend_from_slice(&[reply; 24]);
                expected.extend_from_slice(&[reply + 100; 8]);
                if reply % 2 == 0 {
                    let mut buffer = pool.take(100).unwrap();
                    buffer.set_len(100);
                    buffer.fill(reply + 200);
                    expected.extend_from_slice(&buffer);
                    batch.payload(buffer);
                }
            }
            let mut seen = Vec::new();
            loop {
                let bytes = sent(&batch, step);
                assert!(!bytes.is_empty());
                seen.extend_from_slice(&bytes);
                if batch.advance(bytes.len()) {
                    break;
                }
            }
            assert_eq!(seen, expected, "cut every {step} bytes");
            let mut released = 0;
            batch.recycle(|buffer| {
                released += 1;
                pool.put(buffer);
            });
            assert_eq!(released, 3);
            assert!(batch.is_empty());
        }
    }
}
