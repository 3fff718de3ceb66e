//! What one vectored send carries: the headers and payloads of many replies.

use std::io::IoSlice;

use gangway_driver::dma::DmaBuffer;

#[derive(Debug)]
enum Part {
    /// Headers, by their place in `SendBatch::headers`.
    Headers {
        start: usize,
        end: usize,
    },
    Payload(DmaBuffer),
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Part::Headers { start, end } => end - start,
            Part::Payload(buffer) => buffer.len(),
        }
    }
}

/// Replies in the order in which they leave. Owns the payload buffers until the kernel has taken the bytes.
#[derive(Debug, Default)]
pub(crate) struct SendBatch {
    headers: Vec<u8>,
    parts: Vec<Part>,
    /// The part that leaves next, and how much of it has left.
    next: usize,
    offset: usize,
}

impl SendBatch {
    /// A batch with room for `replies` replies without allocating: each a C2HData header, padded as far as a host can
    /// ask for, the digest behind the data, and a response with its own.
    pub(crate) fn with_room(replies: usize) -> Self {
        Self {
            headers: Vec::with_capacity(replies * (128 + 4 + 28) + 128),
            parts: Vec::with_capacity(replies * 2 + 2),
            next: 0,
            offset: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Lets `write` append headers.
    pub(crate) fn headers<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let start = self.headers.len();
        let value = write(&mut self.headers);
        let end = self.headers.len();
        match self.parts.last_mut() {
            _ if start == end => {}
            // Headers that follow each other leave as one slice.
            Some(Part::Headers { end: last, .. }) if *last == start => *last = end,
            _ => self.parts.push(Part::Headers { start, end }),
        }
        value
    }

    /// Bytes of headers in it.
    pub(crate) fn header_bytes(&self) -> usize {
        self.headers.len()
    }

    /// Bytes of payload in it.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.parts.iter().filter(|part| matches!(part, Part::Payload(_))).map(Part::len).sum()
    }

    pub(crate) fn payload(&mut self, buffer: DmaBuffer) {
        self.parts.push(Part::Payload(buffer));
    }

    /// Fills `slices` with what is to leave next and returns how many there are.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        let mut skip = self.offset;
        for (part, slot) in self.parts[self.next..].iter().zip(slices.iter_mut()) {
            let bytes = match part {
                Part::Headers { start, end } => &self.headers[*start..*end],
                Part::Payload(buffer) => &buffer[..],
            };
            *slot = IoSlice::new(&bytes[skip..]);
            skip = 0;
            count += 1;
        }
        count
    }

    /// Notes that `sent` more bytes have left.
    pub(crate) fn advance(&mut self, mut sent: usize) {
        while sent > 0 {
            let Some(part) = self.parts.get(self.next) else { return };
            let rest = part.len() - self.offset;
            if sent < rest {
                self.offset += sent;
                return;
            }
            sent -= rest;
            self.next += 1;
            self.offset = 0;
        }
    }

    /// Empties the batch for its next use and hands its buffers to `release`.
    pub(crate) fn recycle(&mut self, mut release: impl FnMut(DmaBuffer)) {
        for part in self.parts.drain(..) {
            if let Part::Payload(buffer) = part {
                release(buffer);
            }
        }
        self.headers.clear();
        self.next = 0;
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
                batch.headers(|out| out.extend_from_slice(&[reply; 24]));
                batch.headers(|out| out.extend_from_slice(&[reply + 100; 8]));
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
