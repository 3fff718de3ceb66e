//! Connect: makes a queue, and with the admin queue a controller (NVMe Base 2.0, 6.3).

use core::fmt;
use core::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned, transmute};

use super::{CNTLID_DYNAMIC, HostId, Nqn, NqnError, fctype, same_bytes_as_an_entry};
use crate::SglDescriptor;
use crate::opcode::admin::FABRICS;

/// The Connect command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ConnectCommand {
    /// 7Fh.
    pub opcode: u8,
    /// FUSE and PSDT.
    pub flags: u8,
    /// Command identifier.
    pub cid: U16,
    /// 01h.
    pub fctype: u8,
    reserved5: [u8; 19],
    /// Data pointer: the SGL descriptor of the [`ConnectData`].
    pub dptr: [u8; 16],
    /// Record format, 0.
    pub recfmt: U16,
    /// Queue identifier, 0 for the admin queue.
    pub qid: U16,
    /// Submission queue size in entries, 0's based.
    pub sqsize: U16,
    /// Connect attributes: see [`Self::CATTR_DISABLE_SQ_FLOW_CONTROL`] and its siblings.
    pub cattr: u8,
    reserved47: u8,
    /// Keep alive timeout in milliseconds; 0 turns it off. Admin queue only.
    pub kato: U32,
    reserved52: [u8; 12],
}

const _: () = assert!(offset_of!(ConnectCommand, fctype) == 4);
const _: () = assert!(offset_of!(ConnectCommand, dptr) == 24);
const _: () = assert!(offset_of!(ConnectCommand, recfmt) == 40);
const _: () = assert!(offset_of!(ConnectCommand, cattr) == 46);
const _: () = assert!(offset_of!(ConnectCommand, kato) == 48);

same_bytes_as_an_entry!(ConnectCommand);

impl ConnectCommand {
    /// CATTR: priority class of the queue, bits 1:0.
    pub const CATTR_PRIORITY_CLASS: u8 = 0x3;
    /// CATTR: the host does not use submission queue flow control.
    pub const CATTR_DISABLE_SQ_FLOW_CONTROL: u8 = 1 << 2;
    /// CATTR: the host can delete I/O queues one by one, with Disconnect.
    pub const CATTR_INDIVIDUAL_IO_QUEUE_DELETION: u8 = 1 << 3;

    /// Connects queue `qid` with `entries` entries. `entries` is 1's based; 0 is taken for 1.
    ///
    /// The data pointer says that the Connect data follows in the capsule.
    #[must_use]
    pub fn new(qid: u16, entries: u16) -> Self {
        let mut command = Self {
            opcode: FABRICS,
            fctype: fctype::CONNECT,
            qid: U16::new(qid),
            sqsize: U16::new(entries.saturating_sub(1)),
            ..Self::new_zeroed()
        };
        command.flags = crate::command::PSDT_SGL << 6;
        command.dptr = transmute!(SglDescriptor::in_capsule(size_of::<ConnectData>() as u32));
        command
    }

    /// Whether the host asks for no submission queue flow control.
    #[must_use]
    pub const fn disables_sq_flow_control(&self) -> bool {
        self.cattr & Self::CATTR_DISABLE_SQ_FLOW_CONTROL != 0
    }

    /// Where the Connect data is.
    #[must_use]
    pub fn sgl(&self) -> SglDescriptor {
        transmute!(self.dptr)
    }

    /// Dword 0 of a successful completion: the controller identifier.
    #[must_use]
    pub const fn response(cntlid: u16) -> u32 {
        cntlid as u32
    }

    /// Dword 0 of a successful completion, bit 17: the host must authenticate on this queue.
    pub const RESPONSE_AUTHENTICATION_REQUIRED: u32 = 1 << 17;
    /// Dword 0 of a successful completion, bit 18: the host must authenticate with secure channel
    /// concatenation.
    pub const RESPONSE_SECURE_CHANNEL_REQUIRED: u32 = 1 << 18;
}

/// The data of a Connect command.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ConnectData {
    /// Host identifier.
    pub hostid: [u8; 16],
    /// Controller identifier asked for; [`CNTLID_DYNAMIC`] with the admin queue of a dynamic controller.
    pub cntlid: U16,
    reserved18: [u8; 238],
    /// Name of the subsystem to connect to.
    pub subnqn: [u8; 256],
    /// Name of the host.
    pub hostnqn: [u8; 256],
    reserved768: [u8; 256],
}

const _: () = assert!(size_of::<ConnectData>() == 1024);
const _: () = assert!(offset_of!(ConnectData, cntlid) == 16);
const _: () = assert!(offset_of!(ConnectData, subnqn) == 256);
const _: () = assert!(offset_of!(ConnectData, hostnqn) == 512);

impl ConnectData {
    /// The data with which `host` asks `subsystem` for a new controller.
    #[must_use]
    pub fn new(hostid: HostId, subsystem: &Nqn, host: &Nqn) -> Self {
        Self {
            hostid: hostid.0,
            cntlid: U16::new(CNTLID_DYNAMIC),
            subnqn: subsystem.to_field(),
            hostnqn: host.to_field(),
            ..Self::new_zeroed()
        }
    }

    /// Host identifier.
    #[must_use]
    pub const fn hostid(&self) -> HostId {
        HostId(self.hostid)
    }

    /// Name of the subsystem.
    ///
    /// # Errors
    /// When the field holds no valid name.
    pub fn subnqn(&self) -> Result<Nqn, NqnError> {
        Nqn::from_field(&self.subnqn)
    }

    /// Name of the host.
    ///
    /// # Errors
    /// When the field holds no valid name.
    pub fn hostnqn(&self) -> Result<Nqn, NqnError> {
        Nqn::from_field(&self.hostnqn)
    }
}

impl fmt::Debug for ConnectData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectData")
            .field("hostid", &format_args!("{}", self.hostid()))
            .field("cntlid", &self.cntlid.get())
            .field("subnqn", &crate::text::terminated(&self.subnqn))
            .field("hostnqn", &crate::text::terminated(&self.hostnqn))
            .finish_non_exhaustive()
    }
}

/// Which parameter of a Connect was invalid: goes into dword 0 of a completion with
/// [`Status::CONNECT_INVALID_PARAMETERS`](crate::Status::CONNECT_INVALID_PARAMETERS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectInvalidParameter {
    /// At this byte of the submission queue entry.
    Command(u16),
    /// At this byte of the Connect data.
    Data(u16),
}

impl ConnectInvalidParameter {
    /// Record format of the command.
    pub const RECFMT: Self = Self::Command(offset_of!(ConnectCommand, recfmt) as u16);
    /// Queue identifier of the command.
    pub const QID: Self = Self::Command(offset_of!(ConnectCommand, qid) as u16);
    /// Submission queue size of the command.
    pub const SQSIZE: Self = Self::Command(offset_of!(ConnectCommand, sqsize) as u16);
    /// Connect attributes of the command.
    pub const CATTR: Self = Self::Command(offset_of!(ConnectCommand, cattr) as u16);
    /// Keep alive timeout of the command.
    pub const KATO: Self = Self::Command(offset_of!(ConnectCommand, kato) as u16);
    /// Host identifier of the data.
    pub const HOSTID: Self = Self::Data(offset_of!(ConnectData, hostid) as u16);
    /// Controller identifier of the data.
    pub const CNTLID: Self = Self::Data(offset_of!(ConnectData, cntlid) as u16);
    /// Subsystem name of the data.
    pub const SUBNQN: Self = Self::Data(offset_of!(ConnectData, subnqn) as u16);
    /// Host name of the data.
    pub const HOSTNQN: Self = Self::Data(offset_of!(ConnectData, hostnqn) as u16);

    /// IPO in bits 15:0 and IATTR in bits 23:16.
    #[must_use]
    pub const fn into_bits(self) -> u32 {
        match self {
            Self::Command(offset) => offset as u32,
            Self::Data(offset) => 1 << 16 | offset as u32,
        }
    }

    /// The parameter that dword 0 of a completion names.
    #[must_use]
    pub const fn from_bits(dw0: u32) -> Self {
        let offset = (dw0 & 0xffff) as u16;
        if dw0 & 1 << 16 == 0 { Self::Command(offset) } else { Self::Data(offset) }
    }
}

impl fmt::Display for ConnectInvalidParameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, place, offset) = match *self {
            Self::RECFMT => ("RECFMT", "command", 40),
            Self::QID => ("QID", "command", 42),
            Self::SQSIZE => ("SQSIZE", "command", 44),
            Self::CATTR => ("CATTR", "command", 46),
            Self::KATO => ("KATO", "command", 48),
            Self::HOSTID => ("HOSTID", "data", 0),
            Self::CNTLID => ("CNTLID", "data", 16),
            Self::SUBNQN => ("SUBNQN", "data", 256),
            Self::HOSTNQN => ("HOSTNQN", "data", 512),
            Self::Command(offset) => ("a parameter", "command", offset),
            Self::Data(offset) => ("a parameter", "data", offset),
        };
        write!(f, "{name} at byte {offset} of the Connect {place}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SubmissionQueueEntry;

    #[test]
    fn a_connect_is_the_entry_the_specification_describes() {
        let mut connect = ConnectCommand::new(1, 128);
        connect.kato.set(5000);
        connect.cattr = ConnectCommand::CATTR_DISABLE_SQ_FLOW_CONTROL;
        assert!(connect.disables_sq_flow_control());
        let entry = SubmissionQueueEntry::from(connect);
        assert_eq!((entry.opcode, entry.fctype(), entry.psdt()), (0x7f, fctype::CONNECT, 1));
        assert_eq!(entry.sgl(), SglDescriptor::in_capsule(1024));
        assert_eq!(entry.cdw10.get(), 1 << 16);
        assert_eq!(entry.cdw11.get(), 4 << 16 | 127);
        assert_eq!(entry.cdw12.get(), 5000);
        assert_eq!(ConnectCommand::from(entry), connect);
    }

    #[test]
    fn connect_data_keeps_names_and_identifier() {
        let subsystem: Nqn = "nqn.2014-08.org.example:disk".parse().unwrap();
        let host: Nqn = "nqn.2014-08.org.example:host".parse().unwrap();
        let data = ConnectData::new(HostId([5; 16]), &subsystem, &host);
        assert_eq!(data.subnqn(), Ok(subsystem));
        assert_eq!(data.hostnqn(), Ok(host));
        assert_eq!((data.hostid(), data.cntlid.get()), (HostId([5; 16]), 0xffff));
        assert_eq!(data.as_bytes()[256..260], *b"nqn.");
    }

    #[test]
    fn an_invalid_parameter_names_command_or_data_and_its_byte() {
        assert_eq!(ConnectInvalidParameter::SQSIZE.into_bits(), 44);
        assert_eq!(ConnectInvalidParameter::HOSTNQN.into_bits(), 0x1_0200);
        for parameter in [ConnectInvalidParameter::QID, ConnectInvalidParameter::HOSTID] {
            assert_eq!(ConnectInvalidParameter::from_bits(parameter.into_bits()), parameter);
        }
        assert_eq!(ConnectInvalidParameter::SUBNQN.to_string(), "SUBNQN at byte 256 of the Connect data");
        assert_eq!(
            ConnectInvalidParameter::Command(3).to_string(),
            "a parameter at byte 3 of the Connect command"
        );
    }
}
