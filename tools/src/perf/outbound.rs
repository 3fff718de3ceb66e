//! Bytes to be sent: headers, with payload between them that is not copied.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::mem;
use std::ops::Range;

/// Slices of one send: what Linux takes at most (IOV_MAX).
const MOST_SLICES: usize = 1024;

/// Payload between headers.
#[derive(Clone, Debug)]
struct Payload {
    /// Where in the headers it is inserted.
    at: usize,
    /// Which bytes of the store.
    range: Range<usize>,
}

/// A stream of bytes to be sent. Payload is named by its place in a store that is only needed to send.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    headers: Vec<u8>,
    payloads: Vec<Payload>,
    /// Bytes that were sent, of headers and payloads together.
    sent: usize,
    /// Empty between sends; kept for its memory.
    slices: Vec<IoSlice<'static>>,
}

impl Outbound {
    /// Where headers are appended.
    #[inline]
    pub(crate) fn headers(&mut self) -> &mut Vec<u8> {
        &mut self.headers
    }

    /// Appends bytes of the store, behind the headers appended so far.
    #[inline]
    pub(crate) fn payload(&mut self, range: Range<usize>) {
        self.payloads.push(Payload { at: self.headers.len(), range });
    }

    /// Whether there is nothing to send.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.payloads.is_empty()
    }

    /// Sends what the stream takes at the moment, with one call if it can be.
    ///
    /// # Errors
    /// Those of the stream, other than that it would block.
    pub(crate) fn send(&mut self, stream: &mut impl Write, store: &[u8]) -> io::Result<()> {
        while !self.is_empty() {
            let result = if self.payloads.is_empty() {
                stream.write(&self.headers[self.sent..])
            } else {
                let mut slices = recycle(mem::take(&mut self.slices));
                self.gather(store, &mut slices);
                let result = stream.write_vectored(&slices);
                self.slices = recycle(slices);
                result
            };
            match result {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.advance(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn advance(&mut self, count: usize) {
        self.sent += count;
        let payload: usize = self.payloads.iter().map(|payload| payload.range.len()).sum();
        if self.sent == self.headers.len() + payload {
            self.headers.clear();
            self.payloads.clear();
            self.sent = 0;
        }
    }

    /// Collects what was not sent, or as much of it as one call takes.
    fn gather<'a>(&'a self, store: &'a [u8], slices: &mut Vec<IoSlice<'a>>) {
        let mut skip = self.sent;
        let mut push = |bytes: &'a [u8]| {
            let skipped = skip.min(bytes.len());
            skip -= skipped;
            if skipped < bytes.len() && slices.len() < MOST_SLICES {
                slices.push(IoSlice::new(&bytes[skipped..]));
            }
        };
        let mut header = 0;
        for payload in &self.payloads {
            push(&self.headers[header..payload.at]);
            header = payload.at;
            push(&store[payload.range.clone()]);
        }
        push(&self.headers[header..]);
    }
}

/// The memory of a vector for slices of another lifetime: collecting a vector's own iterator keeps its allocation.
fn recycle<'to>(mut slices: Vec<IoSlice<'_>>) -> Vec<IoSlice<'to>> {
    slices.clear();
    slices.into_iter().map(|_| IoSlice::new(&[])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a few bytes at a time, and blocks now and then.
    struct Narrow {
        taken: Vec<u8>,
        most: usize,
        room: usize,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.write_vectored(&[IoSlice::new(bytes)])
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            let most = self.most.min(self.room);
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(most).collect();
            self.room -= bytes.len();
            self.taken.extend_from_slice(&bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn any_pieces_make_the_same_stream() {
        let store: Vec<u8> = (0..200).collect();
        for most in [1, 2, 3, 7, 64, 10_000] {
            let mut outbound = Outbound::default();
            let mut stream = Narrow { taken: Vec::new(), most, room: 0 };
            let mut expected = Vec::new();
            for round in 0..40_u8 {
                let header = vec![round; usize::from(round % 5)];
                outbound.headers().extend_from_slice(&header);
                expected.extend(header);
                if round % 3 > 0 {
                    let range = usize::from(round)..usize::from(round) * 4;
                    outbound.payload(range.clone());
                    expected.extend_from_slice(&store[range]);
                }
                stream.room = usize::from(round % 4) * 9;
                outbound.send(&mut stream, &store).unwrap();
            }
            stream.room = usize::MAX;
            outbound.send(&mut stream, &store).unwrap();
            assert!(outbound.is_empty());
            assert_eq!(stream.taken, expected, "{most}");
        }
    }

    #[test]
    fn more_slices_than_the_kernel_takes_are_sent_all_the_same() {
        let store = [9; 1];
        let mut outbound = Outbound::default();
        let mut expected = Vec::new();
        for index in 0..3000_u32 {
            outbound.headers().push(index as u8);
            outbound.payload(0..1);
            expected.extend([index as u8, 9]);
        }
        let mut stream = Narrow { taken: Vec::new(), most: usize::MAX, room: usize::MAX };
        outbound.send(&mut stream, &store).unwrap();
        assert_eq!(stream.taken, expected);
    }

    #[test]
    fn the_memory_for_slices_is_kept() {
        let mut slices = recycle(Vec::<IoSlice<'_>>::with_capacity(100));
        let bytes = [1, 2];
        slices.push(IoSlice::new(&bytes));
        let pointer = slices.as_ptr() as usize;
        let again: Vec<IoSlice<'static>> = recycle(slices);
        assert_eq!((again.capacity(), again.as_ptr() as usize, again.len()), (100, pointer, 0));
    }
}
