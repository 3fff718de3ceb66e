//! Whole messages over a UNIX stream socket, with file descriptors, without ever waiting for longer than a deadline.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use zerocopy::{FromBytes, IntoBytes};

use super::wire::{HEADER_LEN, Header, LONGEST_PAYLOAD, MOST_FILES};

/// A message as it came.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) header: Header,
    /// What follows the header.
    pub(super) payload: Vec<u8>,
    /// What came with it.
    pub(super) files: Vec<OwnedFd>,
}

/// Sends a message; waits until `deadline` for room in the socket.
///
/// # Errors
/// What the kernel says, and `TimedOut`. The stream is of no use then.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    mut header: Header,
    parts: &[&[u8]],
    files: &[BorrowedFd<'_>],
    deadline: Instant,
) -> io::Result<()> {
    let payload: usize = parts.iter().map(|part| part.len()).sum();
    header.size = (HEADER_LEN + payload) as u32;
    let mut bytes = Vec::with_capacity(HEADER_LEN + payload);
    bytes.extend_from_slice(header.as_bytes());
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    let mut rest = &bytes[..];
    let mut files = files;
    while !rest.is_empty() {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_FILES))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match sendmsg(socket, &[IoSlice::new(rest)], &mut control, flags) {
            Ok(sent) => {
                rest = &rest[sent..];
                // They left with the first byte.
                files = &[];
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(socket, PollFlags::OUT, deadline)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits until something can be read or written, or the other end is gone.
///
/// # Errors
/// `TimedOut` when the deadline comes first.
pub(super) fn wait(socket: BorrowedFd<'_>, what: PollFlags, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::from_borrowed_fd(socket, what)], Some(&left)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Puts messages together from what arrives.
///
/// No more is read than belongs to a message: the kernel hands file descriptors out with the bytes that they were sent
/// with, so they belong to the message that is being read.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    header: [u8; HEADER_LEN],
    /// Bytes of the message that are there, the header's included.
    have: usize,
    payload: Vec<u8>,
    files: Vec<OwnedFd>,
}

impl Receiver {
    /// Takes what has arrived; gives a message when one is complete, `None` when more has to arrive.
    ///
    /// # Errors
    /// `UnexpectedEof` when the other end has closed, `InvalidData` for a message that cannot be, or what the kernel
    /// says. The stream is of no use then.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<Option<Message>> {
        loop {
            let total = self.total()?;
            if self.have == total {
                let (header, _) =
                    Header::read_from_prefix(&self.header).map_err(|_| io::ErrorKind::InvalidData)?;
                self.have = 0;
                let (payload, files) = (std::mem::take(&mut self.payload), std::mem::take(&mut self.files));
                return Ok(Some(Message { header, payload, files }));
            }
            let into = match self.have.checked_sub(HEADER_LEN) {
                None => &mut self.header[self.have..],
                Some(at) => {
                    self.payload.resize(total - HEADER_LEN, 0);
                    &mut self.payload[at..]
                }
            };
            match receive_some(socket, into, &mut self.files) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.have += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// As [`receive`](Self::receive), but waits for the message until `deadline`.
    ///
    /// # Errors
    /// The same, and `TimedOut`.
    pub(super) fn receive_until(&mut self, socket: BorrowedFd<'_>, deadline: Instant) -> io::Result<Message> {
        loop {
            match self.receive(socket)? {
                Some(message) => return Ok(message),
                None => wait(socket, PollFlags::IN, deadline)?,
            }
        }
    }

    /// Bytes of the message, as far as it is known.
    fn total(&self) -> io::Result<usize> {
        if self.have < HEADER_LEN {
            return Ok(HEADER_LEN);
        }
        let (header, _) = Header::read_from_prefix(&self.header).map_err(|_| io::ErrorKind::InvalidData)?;
        let size = header.size as usize;
        if !(HEADER_LEN..=HEADER_LEN + LONGEST_PAYLOAD).contains(&size) {
            let text = format!("a message of {size} bytes cannot be");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(size)
    }
}

/// Reads what is there, and takes the files that come with it.
fn receive_some(socket: BorrowedFd<'_>, into: &mut [u8], files: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket.as_fd(), &mut [IoSliceMut::new(into)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) || files.len() > MOST_FILES {
        let text = format!("more than {MOST_FILES} file descriptors came with a message");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn header(command: u16) -> Header {
        Header { id: 7, command, ..Header::default() }
    }

    #[test]
    fn a_message_that_arrives_byte_by_byte_is_put_together() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let message = Header { size: 20, ..header(9) };
        let bytes = [message.as_bytes(), b"data"].concat();
        let mut receiver = Receiver::default();
        for byte in &bytes[..19] {
            near.write_all(&[*byte]).unwrap();
            assert!(receiver.receive(far.as_fd()).unwrap().is_none());
        }
        near.write_all(&bytes[19..]).unwrap();
        let whole = receiver.receive(far.as_fd()).unwrap().unwrap();
        assert_eq!((whole.header, &whole.payload[..]), (message, &b"data"[..]));
        assert!(receiver.receive(far.as_fd()).unwrap().is_none());
    }

    #[test]
    fn files_belong_to_the_message_that_they_were_sent_with() {
        let (near, far) = UnixStream::pair().unwrap();
        for (command, files) in [(1, 0), (2, 2), (3, 0), (4, 1), (5, 0)] {
            let files = vec![near.as_fd(); files];
            send(near.as_fd(), header(command), &[b"some", b"thing"], &files, soon()).unwrap();
        }
        let mut receiver = Receiver::default();
        for (command, files) in [(1, 0), (2, 2), (3, 0), (4, 1), (5, 0)] {
            let message = receiver.receive(far.as_fd()).unwrap().unwrap();
            assert_eq!((message.header.command, message.files.len()), (command, files));
            assert_eq!(message.payload, b"something");
        }
    }

    #[test]
    fn sizes_that_cannot_be_and_too_many_files_end_the_stream() {
        for size in [0, 15, HEADER_LEN + LONGEST_PAYLOAD + 1, u32::MAX as usize] {
            let (mut near, far) = UnixStream::pair().unwrap();
            near.write_all(Header { size: size as u32, ..header(1) }.as_bytes()).unwrap();
            let error = Receiver::default().receive(far.as_fd()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{size}");
        }
        let (near, far) = UnixStream::pair().unwrap();
        let message = Header { size: 2 * HEADER_LEN as u32, ..header(1) };
        let part = vec![near.as_fd(); MOST_FILES];
        for _ in 0..2 {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_FILES))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&part)));
            sendmsg(near.as_fd(), &[IoSlice::new(message.as_bytes())], &mut control, SendFlags::empty())
                .unwrap();
        }
        let error = Receiver::default().receive(far.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn an_end_in_the_middle_of_a_message_is_an_error() {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(&[1; 7]).unwrap();
        drop(near);
        let error = Receiver::default().receive(far.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn nobody_waits_for_longer_than_the_deadline() {
        let (near, far) = UnixStream::pair().unwrap();
        let error = Receiver::default().receive_until(far.as_fd(), Instant::now()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let payload = vec![0; 60_000];
        let error = (0..1000)
            .find_map(|_| send(near.as_fd(), header(1), &[&payload], &[], Instant::now()).err())
            .expect("a socket that nobody reads fills up");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
