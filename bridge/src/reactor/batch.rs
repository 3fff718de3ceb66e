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
    /// Payloads that have left.
    sent: usize,
    /// Bytes of the headers that have left.
    headers_sent: usize,
    /// Bytes that have left of the payload that leaves next.
    offset: usize,
}

impl SendBatch {
    /// A batch with room for `replies` replies without allocating: each a C2HData header, padded as far as a host can
    /// ask for, the digest behind the data, and a response with its own.
    pub(crate) fn with_room(replies: usize) -> Self {
        Self {
            headers: Vec::with_capacity(replies * (128 + 4 + 28) + 128),
            payloads: Vec::with_capacity(replies),
            ..Self::default()
        }
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
        debug_assert!(!buffer.is_empty() && self.headers.len() > self.payloads.last().map_or(0, |last| last.headers));
        self.payload_bytes += buffer.len();
        self.payloads.push(Payload { headers: self.headers.len(), buffer });
    }

    /// Fills `slices` with what is to leave next and returns how many there are.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut from = self.headers_sent;
        let mut skip = self.offset;
        let mut room = slices.iter_mut();
        for Payload { headers, buffer } in &self.payloads[self.sent..] {
            if from < *headers {
                let Some(slot) = room.next() else { break };
                *slot = IoSlice::new(&self.headers[from..*headers]);
                from = *headers;
            }
            let Some(slot) = room.next() else { break };
            *slot = IoSlice::new(&buffer[skip..]);
            skip = 0;
        }
        if from < self.headers.len()
            && let Some(slot) = room.next()
        {
            *slot = IoSlice::new(&self.headers[from..]);
        }
        let left = room.len();
        slices.len() - left
    }

    /// Notes that `sent` more bytes have left.
    pub(crate) fn advance(&mut self, mut sent: usize) {
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
        self.sent = 0;
        self.headers_sent = 0;
        self.offset = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gangway_driver::dma::{BufferPool, Direction, DmaDomain};

    fn sent(batch: &SendBatch, at_most: usize) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 3];
        let count = batch.slices(&mut slices);
        let mut bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
        bytes.truncate(at_most);
        bytes
    }

    #[test]
    fn a_batch_cut_at_any_byte_sends_every_byte_once_and_in_order() {
        let domain = DmaDomain::new();
        let mut pool = BufferPool::new(&domain, Direction::DeviceWrites, 64 * 1024, 8192).unwrap();
        for step in 1..200 {
            let mut batch = SendBatch::with_room(8);
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
                if bytes.is_empty() {
                    break;
                }
                batch.advance(bytes.len());
                seen.extend_from_slice(&bytes);
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
