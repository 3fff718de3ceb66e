//! A host that speaks PDU by PDU over a plain socket, and can say whatever it likes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use gangway_fabric::host::client::HostIdentity;
use gangway_fabric::pdu::{CapsuleCmd, CapsuleResp, DigestFlags, H2cData, IcReq, PduType, R2t, TermReq};
use gangway_fabric::term::FatalErrorStatus;
use gangway_spec::fabrics::{ConnectCommand, ConnectData, Nqn, PropertyGet, PropertySet};
use gangway_spec::registers::{self, ControllerConfiguration, ControllerStatus};
use gangway_spec::{CompletionQueueEntry, SglDescriptor, Status, SubmissionQueueEntry};
use socket2::SockRef;
use zerocopy::{FromBytes, IntoBytes};

/// How long the target may take for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// One connection.
pub struct Wire {
    stream: TcpStream,
}

/// Why the target ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminated {
    /// What was wrong.
    pub fes: FatalErrorStatus,
    /// Where.
    pub fei: u32,
}

impl Wire {
    /// Connects, and says nothing yet.
    ///
    /// # Panics
    /// When that fails.
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("a socket option");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
        Self { stream }
    }

    /// Sets the size of the kernel's receive buffer, in bytes: what the target can say before this side reads. Without
    /// it the kernel takes tens of megabytes on some machines.
    ///
    /// # Panics
    /// When the socket's options cannot be set.
    pub fn set_receive_buffer(&self, bytes: usize) {
        SockRef::from(&self.stream).set_recv_buffer_size(bytes).expect("a socket option");
    }

    /// Connects and has the connection initialized.
    ///
    /// # Panics
    /// When that fails.
    pub fn initialized(address: SocketAddr) -> Self {
        let mut wire = Self::open(address);
        wire.send(IcReq::new(0, DigestFlags::empty(), 0).as_bytes());
        let response = wire.pdu().expect("an ICResp");
        assert_eq!(PduType(response[0]), PduType::ICRESP);
        wire
    }

    /// Connects an admin queue and enables the controller, whose identifier comes back too.
    ///
    /// # Panics
    /// When that fails.
    pub fn admin(address: SocketAddr, subsystem: &Nqn, host: &HostIdentity) -> (Self, u16) {
        let mut wire = Self::initialized(address);
        let entry = wire.execute(&connect(0, 32, None, subsystem, host));
        assert!(entry.status().is_success(), "{}", entry.status());
        wire.enable();
        (wire, entry.dw0.get() as u16)
    }

    /// Connects I/O queue `qid` of controller `cntlid`.
    ///
    /// # Panics
    /// When that fails.
    pub fn io(address: SocketAddr, cntlid: u16, qid: u16, subsystem: &Nqn, host: &HostIdentity) -> Self {
        let mut wire = Self::initialized(address);
        let entry = wire.execute(&connect(qid, 128, Some(cntlid), subsystem, host));
        assert!(entry.status().is_success(), "{}", entry.status());
        wire
    }

    /// Sets CC.EN and waits for CSTS.RDY.
    ///
    /// # Panics
    /// When that fails.
    pub fn enable(&mut self) {
        assert!(self.execute(&enable()).status().is_success());
        for _ in 0..1000 {
            let entry = self.execute(&capsule(PropertyGet::new32(registers::CSTS).into(), &[]));
            if ControllerStatus::from_bits(entry.dw0.get()).rdy() {
                return;
            }
        }
        panic!("the controller does not get ready");
    }

    /// Sends bytes. What a target that closes the connection does not take any more is lost.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends bytes as far as the socket takes them within `timeout`; how many that were.
    ///
    /// # Panics
    /// When the socket's options cannot be set.
    pub fn send_for(&mut self, bytes: &[u8], timeout: Duration) -> usize {
        self.stream.set_write_timeout(Some(timeout)).expect("a socket option");
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.write(&bytes[sent..]) {
                Ok(0) | Err(_) => break,
                Ok(count) => sent += count,
            }
        }
        self.stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
        sent
    }

    /// The next PDU, whole; `None` when the target has closed the connection.
    ///
    /// # Panics
    /// When nothing comes, or something that is no PDU.
    pub fn pdu(&mut self) -> Option<Vec<u8>> {
        let mut pdu = vec![0; 8];
        if !self.fill(&mut pdu) {
            return None;
        }
        let length = u32::from_le_bytes([pdu[4], pdu[5], pdu[6], pdu[7]]) as usize;
        assert!((24..=2 << 20).contains(&length), "a PDU of {length} bytes");
        pdu.resize(length, 0);
        assert!(self.fill(&mut pdu[8..]), "the connection ended within a PDU");
        Some(pdu)
    }

    /// Fills `bytes`; false when the connection has ended before the first of them.
    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.stream.read(&mut bytes[filled..]) {
                Ok(0) if filled == 0 => return false,
                Ok(0) => panic!("the connection ended after {filled} of {} bytes", bytes.len()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset && filled == 0 => return false,
                Err(error) => panic!("reading: {error}"),
            }
        }
        true
    }

    /// The next PDU, which must be a response capsule.
    ///
    /// # Panics
    /// When it is not.
    pub fn response(&mut self) -> CompletionQueueEntry {
        let pdu = self.pdu().expect("a response");
        let response =
            CapsuleResp::ref_from_bytes(&pdu).ok().filter(|_| PduType(pdu[0]) == PduType::CAPSULE_RESP);
        response.unwrap_or_else(|| panic!("{} instead of a response", PduType(pdu[0]))).entry
    }

    /// The next PDU, which must be an R2T.
    ///
    /// # Panics
    /// When it is not.
    pub fn r2t(&mut self) -> R2t {
        let pdu = self.pdu().expect("an R2T");
        assert_eq!(PduType(pdu[0]), PduType::R2T);
        R2t::read_from_bytes(&pdu).expect("an R2T")
    }

    /// Sends a capsule and returns the response, which must be the next PDU.
    ///
    /// # Panics
    /// When it is not.
    pub fn execute(&mut self, capsule: &[u8]) -> CompletionQueueEntry {
        self.send(capsule);
        self.response()
    }

    /// Sends a capsule and returns the status of its response.
    ///
    /// # Panics
    /// When none comes.
    pub fn status(&mut self, capsule: &[u8]) -> Status {
        self.execute(capsule).status()
    }

    /// What the target sends until it closes the connection, which must end with a termination request, received
    /// whole although the connection is closed behind it.
    ///
    /// # Panics
    /// When there is none.
    pub fn terminated(&mut self) -> Terminated {
        let term = loop {
            let pdu = self.pdu().expect("a termination request before the end of the connection");
            if PduType(pdu[0]) == PduType::C2H_TERM {
                break pdu;
            }
        };
        let (request, _) = TermReq::ref_from_prefix(&term).expect("a termination request");
        let terminated = Terminated { fes: FatalErrorStatus(request.fes.get()), fei: request.fei.get() };
        assert!(term.len() <= 152, "at most 128 bytes of the header in error");
        assert!(self.pdu().is_none(), "nothing follows a termination request");
        terminated
    }

    /// Reads until the target closes the connection.
    ///
    /// # Panics
    /// When it does not.
    pub fn drain(&mut self) {
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("the target keeps a connection that is of no use: {error}"),
            }
        }
    }

    /// Says that this side sends nothing more.
    pub fn finish(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}

/// A command that is refused at once, with [`REFUSAL`]. When its response is there, the target has taken everything
/// before it.
pub fn refused() -> Vec<u8> {
    capsule(crate::command(0x03, 0, 1), &[])
}

/// The status of [`refused`].
pub const REFUSAL: Status = Status::INVALID_OPCODE.with_dnr();

/// A command capsule with `data` in it.
pub fn capsule(mut entry: SubmissionQueueEntry, data: &[u8]) -> Vec<u8> {
    if data.is_empty() {
        entry.set_sgl(SglDescriptor::transport(0));
    } else {
        entry.set_sgl(SglDescriptor::in_capsule(data.len() as u32));
    }
    with_data(&entry, data)
}

/// A command capsule whose data pointer is as it is, followed by `data`.
pub fn with_data(entry: &SubmissionQueueEntry, data: &[u8]) -> Vec<u8> {
    let mut bytes = CapsuleCmd::new(*entry, 0, data.len() as u32).as_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes
}

/// The capsule of a command whose `length` bytes of data the transport moves.
pub fn by_transport(mut entry: SubmissionQueueEntry, length: u32) -> Vec<u8> {
    entry.set_sgl(SglDescriptor::transport(length));
    with_data(&entry, &[])
}

/// Connect for queue `qid`; `cntlid` is `None` for an admin queue.
pub fn connect(qid: u16, entries: u16, cntlid: Option<u16>, subsystem: &Nqn, host: &HostIdentity) -> Vec<u8> {
    let mut data = ConnectData::new(host.id, subsystem, &host.nqn);
    if let Some(cntlid) = cntlid {
        data.cntlid.set(cntlid);
    }
    with_data(&ConnectCommand::new(qid, entries).into(), data.as_bytes())
}

/// Property Set that enables the controller.
pub fn enable() -> Vec<u8> {
    let configuration = ControllerConfiguration::new().with_en(true).with_iosqes(6).with_iocqes(4);
    capsule(PropertySet::new32(registers::CC, configuration.into_bits()).into(), &[])
}

/// Data of a command, in answer to an R2T.
pub fn h2c_data(r2t: &R2t, offset: u32, data: &[u8], last: bool) -> Vec<u8> {
    let header = H2cData::new(r2t.cccid.get(), r2t.ttag.get(), offset, data.len() as u32, last, 0);
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes
}
