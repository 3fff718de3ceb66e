//! What a queue has yet to send: headers, with payload between them that is not copied.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

/// Slices of one send.
const MAX_SLICES: usize = 64;

/// Headers already sent are removed from the buffer when there are more bytes of them than this.
const COMPACT: usize = 64 * 1024;

struct Payload {
    /// Where in `headers` it is inserted.
    at: usize,
    data: Arc<[u8]>,
    range: Range<usize>,
}

/// A stream of bytes to be sent.
#[derive(Default)]
pub(super) struct Outbound {
    headers: Vec<u8>,
    /// Bytes of `headers` that were sent.
    sent: usize,
    payloads: VecDeque<Payload>,
}

impl Outbound {
    pub(super) fn is_empty(&self) -> bool {
        self.sent == self.headers.len() && self.payloads.is_empty()
    }

    /// Where headers are appended.
    pub(super) fn headers(&mut self) -> &mut Vec<u8> {
        &mut self.headers
    }

    /// Appends a part of `data`, behind the headers appended so far.
    pub(super) fn payload(&mut self, data: &Arc<[u8]>, range: Range<usize>) {
        if !range.is_empty() {
            self.payloads.push_back(Payload { at: self.headers.len(), data: Arc::clone(data), range });
        }
    }

    /// Passes the next bytes to `send`, which returns how many of them it took, until it fails or all are sent.
    pub(super) fn send<E>(
        &mut self,
        mut send: impl FnMut(&[IoSlice<'_>]) -> Result<usize, E>,
    ) -> Result<(), E> {
        while !self.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = self.slices(&mut slices);
            let sent = send(&slices[..count])?;
            self.advance(sent);
        }
        Ok(())
    }

    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        let mut header = self.sent;
        let mut count = 0;
        // A payload may need a second slice for the headers before it.
        for payload in self.payloads.iter().take(MAX_SLICES / 2 - 1) {
            if payload.at > header {
                slices[count] = IoSlice::new(&self.headers[header..payload.at]);
                header = payload.at;
                count += 1;
            }
            slices[count] = IoSlice::new(&payload.data[payload.range.clone()]);
            count += 1;
        }
        let end = self.payloads.get(MAX_SLICES / 2 - 1).map_or(self.headers.len(), |payload| payload.at);
        if end > header {
            slices[count] = IoSlice::new(&self.headers[header..end]);
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut sent: usize) {
        while sent > 0 {
            let before_payload = self.payloads.front().map_or(self.headers.len(), |payload| payload.at);
            let header = sent.min(before_payload - self.sent);
            self.sent += header;
            sent -= header;
            let Some(payload) = self.payloads.front_mut() else {
                break;
            };
            let part = sent.min(payload.range.len());
            payload.range.start += part;
            sent -= part;
            if payload.range.is_empty() {
                self.payloads.pop_front();
            }
        }
        if self.is_empty() {
            self.headers.clear();
            self.sent = 0;
        } else if self.sent > COMPACT {
            self.headers.drain(..self.sent);
            for payload in &mut self.payloads {
                payload.at -= self.sent;
            }
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbound: &mut Outbound, piece: usize, most: usize) -> Vec<u8> {
        let mut stream = Vec::new();
        let result = outbound.send(|slices| {
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            assert!(!bytes.is_empty());
            let taken = bytes.len().min(piece).min(most - stream.len());
            stream.extend_from_slice(&bytes[..taken]);
            if taken == 0 { Err(()) } else { Ok(taken) }
        });
        assert!(result.is_ok() || stream.len() == most);
        stream
    }

    #[test]
    fn headers_and_payload_leave_in_order_however_little_is_taken_at_a_time() {
        for piece in [1, 2, 3, 7, 64, 100_000] {
            let mut outbound = Outbound::default();
            let mut expected = Vec::new();
            for index in 0..200_u8 {
                let data: Arc<[u8]> = vec![index; 11].into();
                outbound.headers().extend_from_slice(&[255, index]);
                expected.extend_from_slice(&[255, index]);
                if index % 3 != 0 {
                    outbound.payload(&data, 2..usize::from(index % 9) + 2);
                    expected.extend(std::iter::repeat_n(index, usize::from(index % 9)));
                }
            }
            assert_eq!(drain(&mut outbound, piece, usize::MAX), expected);
            assert!(outbound.is_empty());
        }
    }

    #[test]
    fn headers_that_were_sent_do_not_pile_up() {
        let mut outbound = Outbound::default();
        let data: Arc<[u8]> = vec![9; 100].into();
        let mut expected = Vec::new();
        let mut stream = Vec::new();
        for round in 0..500_u32 {
            let header = vec![round as u8; 1000];
            outbound.headers().extend_from_slice(&header);
            outbound.payload(&data, 0..100);
            expected.extend(header);
            expected.extend_from_slice(&data);
            // Never quite all of it, so that the buffer is never simply emptied.
            let most = if round == 0 { 1000 } else { 1100 };
            stream.extend(drain(&mut outbound, 300, most));
            assert!(outbound.headers.len() < 2 * COMPACT);
        }
        stream.extend(drain(&mut outbound, 300, usize::MAX));
        assert_eq!(stream, expected);
    }
}
