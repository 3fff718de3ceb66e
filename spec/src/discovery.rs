//! The Discovery log page, 70h (NVMe Base 2.0, 5.16.1.23).

use core::fmt;
use core::mem::{offset_of, size_of};
use std::borrow::Cow;

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::fabrics::{Nqn, NqnError};
use crate::identify::zeroed_default;
use crate::text;

/// TRTYPE: RDMA.
pub const TRTYPE_RDMA: u8 = 1;
/// TRTYPE: Fibre Channel.
pub const TRTYPE_FIBRE_CHANNEL: u8 = 2;
/// TRTYPE: TCP.
pub const TRTYPE_TCP: u8 = 3;
/// TRTYPE: within one host.
pub const TRTYPE_LOOP: u8 = 254;

/// ADRFAM: IPv4.
pub const ADRFAM_IPV4: u8 = 1;
/// ADRFAM: IPv6.
pub const ADRFAM_IPV6: u8 = 2;

/// SUBTYPE: another discovery subsystem.
pub const SUBTYPE_REFERRAL: u8 = 1;
/// SUBTYPE: an NVM subsystem.
pub const SUBTYPE_NVM: u8 = 2;
/// SUBTYPE: the discovery subsystem that returned the log.
pub const SUBTYPE_CURRENT_DISCOVERY: u8 = 3;

/// TREQ bits 1:0: it is not said whether a secure channel is needed.
pub const TREQ_SECURE_CHANNEL_NOT_SPECIFIED: u8 = 0;
/// TREQ bits 1:0: a secure channel is needed.
pub const TREQ_SECURE_CHANNEL_REQUIRED: u8 = 1;
/// TREQ bits 1:0: a secure channel is not needed.
pub const TREQ_SECURE_CHANNEL_NOT_REQUIRED: u8 = 2;
/// TREQ bit 2: submission queue flow control can be turned off.
pub const TREQ_DISABLE_SQ_FLOW_CONTROL: u8 = 1 << 2;

/// EFLAGS: another entry returns the same information.
pub const EFLAGS_DUPLICATE_RETURNED_INFORMATION: u16 = 1 << 0;
/// EFLAGS: the discovery controller has explicit persistent connections: keep alive and events.
pub const EFLAGS_EXPLICIT_PERSISTENT_CONNECTION: u16 = 1 << 1;

/// TSAS byte 0 for TCP: no security.
pub const TSAS_TCP_NO_SECURITY: u8 = 0;
/// TSAS byte 0 for TCP: TLS 1.2, obsolete.
pub const TSAS_TCP_TLS_1_2: u8 = 1;
/// TSAS byte 0 for TCP: TLS 1.3.
pub const TSAS_TCP_TLS_1_3: u8 = 2;

/// What the log starts with.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiscoveryLogHeader {
    /// Generation counter: changes whenever the log does. A reader compares it before and after.
    pub genctr: U64,
    /// Number of entries.
    pub numrec: U64,
    /// Record format, 0.
    pub recfmt: U16,
    reserved18: [u8; 1006],
}

const _: () = assert!(size_of::<DiscoveryLogHeader>() == 1024);
const _: () = assert!(offset_of!(DiscoveryLogHeader, recfmt) == 16);

zeroed_default!(DiscoveryLogHeader);

impl DiscoveryLogHeader {
    /// The header of a log of `numrec` entries in generation `genctr`.
    #[must_use]
    pub fn new(genctr: u64, numrec: u64) -> Self {
        Self { genctr: U64::new(genctr), numrec: U64::new(numrec), ..Self::default() }
    }
}

impl fmt::Debug for DiscoveryLogHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryLogHeader")
            .field("genctr", &self.genctr.get())
            .field("numrec", &self.numrec.get())
            .field("recfmt", &self.recfmt.get())
            .finish()
    }
}

/// One subsystem at one address.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiscoveryLogEntry {
    /// Transport type, such as [`TRTYPE_TCP`].
    pub trtype: u8,
    /// Address family, such as [`ADRFAM_IPV4`].
    pub adrfam: u8,
    /// Subsystem type, such as [`SUBTYPE_NVM`].
    pub subtype: u8,
    /// Transport requirements, such as [`TREQ_SECURE_CHANNEL_REQUIRED`].
    pub treq: u8,
    /// Identifies the port of the subsystem.
    pub portid: U16,
    /// Controller identifier to ask for; FFFFh with dynamic controllers.
    pub cntlid: U16,
    /// Admin submission queue size, the most a host may ask for.
    pub asqsz: U16,
    /// Entry flags, such as [`EFLAGS_EXPLICIT_PERSISTENT_CONNECTION`].
    pub eflags: U16,
    reserved12: [u8; 20],
    /// Transport service identifier, ASCII padded with spaces: the port number of TCP.
    pub trsvcid: [u8; 32],
    reserved64: [u8; 192],
    /// Subsystem name, UTF-8 ended by a zero byte.
    pub subnqn: [u8; 256],
    /// Transport address, ASCII padded with spaces.
    pub traddr: [u8; 256],
    /// Transport specific address subtype: for TCP, byte 0 is the kind of security.
    pub tsas: [u8; 256],
}

const _: () = assert!(size_of::<DiscoveryLogEntry>() == 1024);
const _: () = assert!(offset_of!(DiscoveryLogEntry, portid) == 4);
const _: () = assert!(offset_of!(DiscoveryLogEntry, asqsz) == 8);
const _: () = assert!(offset_of!(DiscoveryLogEntry, trsvcid) == 32);
const _: () = assert!(offset_of!(DiscoveryLogEntry, subnqn) == 256);
const _: () = assert!(offset_of!(DiscoveryLogEntry, traddr) == 512);
const _: () = assert!(offset_of!(DiscoveryLogEntry, tsas) == 768);

zeroed_default!(DiscoveryLogEntry);

impl DiscoveryLogEntry {
    /// The port as text, without its padding.
    #[must_use]
    pub fn trsvcid(&self) -> Cow<'_, str> {
        text::padded(text_before_zero(&self.trsvcid))
    }

    /// The address as text, without its padding.
    #[must_use]
    pub fn traddr(&self) -> Cow<'_, str> {
        text::padded(text_before_zero(&self.traddr))
    }

    /// The subsystem's name.
    ///
    /// # Errors
    /// When the field holds no valid name.
    pub fn subnqn(&self) -> Result<Nqn, NqnError> {
        Nqn::from_field(&self.subnqn)
    }

    /// Sets the port, cut to 32 bytes.
    pub fn set_trsvcid(&mut self, port: &str) {
        text::fill(&mut self.trsvcid, port, b' ');
    }

    /// Sets the address, cut to 256 bytes.
    pub fn set_traddr(&mut self, address: &str) {
        text::fill(&mut self.traddr, address, b' ');
    }

    /// Sets the subsystem's name.
    pub fn set_subnqn(&mut self, nqn: &Nqn) {
        self.subnqn = nqn.to_field();
    }
}

/// Some targets end their texts with a zero byte and leave anything behind it.
fn text_before_zero(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or(field)
}

impl fmt::Debug for DiscoveryLogEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryLogEntry")
            .field("trtype", &self.trtype)
            .field("adrfam", &self.adrfam)
            .field("subtype", &self.subtype)
            .field("treq", &self.treq)
            .field("portid", &self.portid.get())
            .field("cntlid", &self.cntlid.get())
            .field("asqsz", &self.asqsz.get())
            .field("eflags", &self.eflags.get())
            .field("trsvcid", &self.trsvcid())
            .field("subnqn", &text::terminated(&self.subnqn))
            .field("traddr", &self.traddr())
            .finish_non_exhaustive()
    }
}

/// Subsystem and address, as a person needs them to connect.
impl fmt::Display for DiscoveryLogEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.subtype {
            SUBTYPE_REFERRAL => "referral",
            SUBTYPE_NVM => "nvm",
            SUBTYPE_CURRENT_DISCOVERY => "current discovery",
            _ => "unknown subtype",
        };
        let transport = match self.trtype {
            TRTYPE_RDMA => "rdma",
            TRTYPE_FIBRE_CHANNEL => "fc",
            TRTYPE_TCP => "tcp",
            TRTYPE_LOOP => "loop",
            _ => "unknown transport",
        };
        let (nqn, address, port) = (text::terminated(&self.subnqn), self.traddr(), self.trsvcid());
        match self.adrfam {
            ADRFAM_IPV6 => write!(f, "{nqn} ({kind}) at {transport} [{address}]:{port}"),
            _ => write!(f, "{nqn} ({kind}) at {transport} {address}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> DiscoveryLogEntry {
        let mut entry = DiscoveryLogEntry {
            trtype: TRTYPE_TCP,
            adrfam: ADRFAM_IPV4,
            subtype: SUBTYPE_NVM,
            ..Default::default()
        };
        entry.set_trsvcid("4420");
        entry.set_traddr("127.0.0.1");
        entry.set_subnqn(&"nqn.2014-08.org.example:disk".parse().unwrap());
        entry
    }

    #[test]
    fn texts_are_padded_with_spaces_and_the_name_with_zeroes() {
        let entry = entry();
        assert_eq!(&entry.trsvcid[..6], b"4420  ");
        assert_eq!(entry.traddr[255], b' ');
        assert_eq!(entry.subnqn[255], 0);
        assert_eq!((entry.trsvcid(), entry.traddr()), ("4420".into(), "127.0.0.1".into()));
        assert_eq!(entry.subnqn().unwrap(), "nqn.2014-08.org.example:disk");
    }

    #[test]
    fn texts_that_end_with_a_zero_byte_are_read_too() {
        let mut entry = entry();
        entry.trsvcid[..12].copy_from_slice(b"8009  \0junk ");
        assert_eq!(entry.trsvcid(), "8009");
    }

    #[test]
    fn a_name_that_is_none_is_an_error() {
        let mut entry = entry();
        entry.subnqn.fill(b'n');
        assert_eq!(entry.subnqn(), Err(NqnError::NotTerminated));
    }

    #[test]
    fn a_person_can_read_an_entry() {
        let mut entry = entry();
        assert_eq!(entry.to_string(), "nqn.2014-08.org.example:disk (nvm) at tcp 127.0.0.1:4420");
        entry.adrfam = ADRFAM_IPV6;
        entry.set_traddr("::1");
        entry.subtype = SUBTYPE_CURRENT_DISCOVERY;
        assert_eq!(entry.to_string(), "nqn.2014-08.org.example:disk (current discovery) at tcp [::1]:4420");
    }

    #[test]
    fn the_header_starts_with_generation_and_count() {
        let header = DiscoveryLogHeader::new(3, 2);
        assert_eq!(header.as_bytes()[..18], [3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
