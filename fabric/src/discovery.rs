//! The discovery service: its log page, built for a host and read by one, and its Identify Controller data.
//! NVMe over Fabrics 1.1, 5; NVMe Base 2.0, 5.16.1.23.

use std::net::{IpAddr, SocketAddr};

use gangway_spec::IdentifyController;
use gangway_spec::discovery::{self, DiscoveryLogEntry, DiscoveryLogHeader};
use gangway_spec::fabrics::{CNTLID_DYNAMIC, Nqn};
use gangway_spec::registers::Version;
use zerocopy::{FromBytes, IntoBytes};

use crate::keep_alive;

/// Bytes of the log page before its first entry, and bytes of every entry.
const RECORD: usize = size_of::<DiscoveryLogEntry>();
const _: () = assert!(size_of::<DiscoveryLogHeader>() == RECORD);

/// Entries of an admin submission queue that a host may ask for at most.
const ADMIN_QUEUE_ENTRIES: u16 = 128;

/// What a subsystem is to a host that reads the log page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subtype {
    /// An NVM subsystem.
    Nvm,
    /// The very discovery subsystem that the host reads from.
    CurrentDiscovery,
    /// Another discovery subsystem.
    Referral,
}

impl Subtype {
    fn code(self) -> u8 {
        match self {
            Subtype::Nvm => discovery::SUBTYPE_NVM,
            Subtype::CurrentDiscovery => discovery::SUBTYPE_CURRENT_DISCOVERY,
            Subtype::Referral => discovery::SUBTYPE_REFERRAL,
        }
    }
}

/// One way to a subsystem: what becomes one entry of the log page.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    /// The subsystem.
    pub subsystem: Nqn,
    /// What it is.
    pub subtype: Subtype,
    /// Where it listens. The unspecified address stands for every address of this machine.
    pub address: SocketAddr,
    /// Identifies the listener within the subsystem.
    pub port_id: u16,
}

impl Listing {
    /// The discovery subsystem itself, listening at `address`.
    pub fn current_discovery(address: SocketAddr, port_id: u16) -> Listing {
        Listing { subsystem: Nqn::discovery(), subtype: Subtype::CurrentDiscovery, address, port_id }
    }

    /// The entry for a host that reached this machine at address `local`.
    ///
    /// `None` when the listing has no address that the host could use: it listens at every address of one family,
    /// and the host came over the other.
    pub fn entry(&self, local: IpAddr) -> Option<DiscoveryLogEntry> {
        let address = self.address.ip().to_canonical();
        let local = local.to_canonical();
        let address = match address {
            // An IPv6 socket bound to `::` also takes IPv4; an IPv4 one takes nothing else.
            IpAddr::V6(any) if any.is_unspecified() => local,
            IpAddr::V4(any) if any.is_unspecified() => Some(local).filter(IpAddr::is_ipv4)?,
            address => address,
        };
        let mut entry = DiscoveryLogEntry::default();
        entry.trtype = discovery::TRTYPE_TCP;
        entry.adrfam = if address.is_ipv4() { discovery::ADRFAM_IPV4 } else { discovery::ADRFAM_IPV6 };
        entry.subtype = self.subtype.code();
        entry.portid.set(self.port_id);
        entry.cntlid.set(CNTLID_DYNAMIC);
        entry.asqsz.set(ADMIN_QUEUE_ENTRIES);
        entry.set_trsvcid(&self.address.port().to_string());
        entry.set_traddr(&address.to_string());
        entry.set_subnqn(&self.subsystem);
        Some(entry)
    }
}

/// The discovery log page as one host sees it.
#[derive(Debug, Clone)]
pub struct LogPage {
    bytes: Vec<u8>,
}

impl LogPage {
    /// A log page of the listings that a host can use which reached this machine at address `local`.
    ///
    /// `generation` must change whenever the listings do: hosts compare it before and after they read.
    pub fn new<'a>(
        generation: u64,
        listings: impl IntoIterator<Item = &'a Listing>,
        local: IpAddr,
    ) -> LogPage {
        let mut bytes = vec![0; RECORD];
        let mut records = 0;
        for entry in listings.into_iter().filter_map(|listing| listing.entry(local)) {
            bytes.extend_from_slice(entry.as_bytes());
            records += 1;
        }
        let header = DiscoveryLogHeader::new(generation, records);
        bytes[..RECORD].copy_from_slice(header.as_bytes());
        LogPage { bytes }
    }

    /// Length in bytes.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Fills `target` with the log page from `offset` on, and with zeros beyond its end.
    pub fn read(&self, offset: u64, target: &mut [u8]) {
        let rest =
            usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset..)).unwrap_or_default();
        let length = rest.len().min(target.len());
        target[..length].copy_from_slice(&rest[..length]);
        target[length..].fill(0);
    }
}

/// What [`parse_header`] and [`parse_entries`] find wrong with a log page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogPageError {
    /// The log page ends within its header or within an entry.
    #[error("the discovery log page is cut off: {length} bytes")]
    Truncated {
        /// How many bytes there are.
        length: usize,
    },
    /// The record format is not 0.
    #[error("the discovery log page has record format {0}, and only 0 is known")]
    UnknownFormat(u16),
}

/// Reads the generation counter and the number of entries from the start of a log page.
///
/// # Errors
/// A header that is cut off, or an unknown record format.
pub fn parse_header(bytes: &[u8]) -> Result<(u64, u64), LogPageError> {
    let truncated = LogPageError::Truncated { length: bytes.len() };
    let (header, _) = DiscoveryLogHeader::read_from_prefix(bytes).map_err(|_| truncated)?;
    match header.recfmt.get() {
        0 => Ok((header.genctr.get(), header.numrec.get())),
        format => Err(LogPageError::UnknownFormat(format)),
    }
}

/// Reads the entries behind the header of a log page: as many as there are bytes for.
///
/// # Errors
/// An entry that is cut off.
pub fn parse_entries(bytes: &[u8]) -> Result<Vec<DiscoveryLogEntry>, LogPageError> {
    let entries = <[DiscoveryLogEntry]>::ref_from_bytes(bytes)
        .map_err(|_| LogPageError::Truncated { length: bytes.len() })?;
    Ok(entries.to_vec())
}

/// What differs between the Identify Controller data of two discovery controllers.
#[derive(Debug, Clone)]
pub struct Identity<'a> {
    /// The controller's identifier.
    pub cntlid: u16,
    /// The version that VS reports.
    pub version: Version,
    /// Model number, at most 40 characters of ASCII.
    pub model: &'a str,
    /// Serial number, at most 20 characters of ASCII.
    pub serial: &'a str,
    /// Firmware revision, at most 8 characters of ASCII.
    pub firmware: &'a str,
    /// Most commands outstanding at a time.
    pub max_commands: u16,
    /// Most Asynchronous Event Requests outstanding at a time, at least 1.
    pub async_event_limit: u8,
    /// The name that the host connected to.
    pub subsystem: &'a Nqn,
}

impl Identity<'_> {
    /// Identify Controller data of a discovery controller.
    pub fn identify_controller(&self) -> IdentifyController {
        use gangway_spec::identify::{Lpa, Oaes, Sgls};
        let mut data = IdentifyController::default();
        data.set_serial(self.serial);
        data.set_model(self.model);
        data.set_firmware(self.firmware);
        data.cntlid.set(self.cntlid);
        data.ver.set(self.version.0);
        data.oaes.set(Oaes::DISCOVERY_LOG_CHANGE.bits());
        data.cntrltype = IdentifyController::TYPE_DISCOVERY;
        data.aerl = self.async_event_limit.saturating_sub(1);
        // Offsets and 32-bit lengths in Get Log Page: hosts read the log page in pieces.
        data.lpa = Lpa::EXTENDED_DATA.bits();
        data.kas.set(keep_alive::KAS);
        data.maxcmd.set(self.max_commands);
        data.sgls.set((Sgls::SUPPORTED | Sgls::OFFSET | Sgls::TRANSPORT).bits());
        data.set_subnqn(self.subsystem.as_str());
        data
    }
}

#[cfg(test)]
mod tests {
    use gangway_spec::fabrics::DISCOVERY_NQN;

    use super::*;

    fn listing(address: &str) -> Listing {
        Listing {
            subsystem: "nqn.2014-08.org.example:drive".parse().unwrap(),
            subtype: Subtype::Nvm,
            address: address.parse().unwrap(),
            port_id: 1,
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn page(generation: u64, listings: &[Listing], local: &str) -> Vec<u8> {
        let page = LogPage::new(generation, listings, ip(local));
        let mut bytes = vec![0xff; page.length()];
        page.read(0, &mut bytes);
        bytes
    }

    #[test]
    fn a_page_is_read_back_by_a_host() {
        let own = Listing::current_discovery("192.0.2.1:8009".parse().unwrap(), 2);
        let bytes = page(9, &[own, listing("192.0.2.1:4420")], "192.0.2.1");
        assert_eq!(parse_header(&bytes), Ok((9, 2)));
        let entries = parse_entries(&bytes[1024..]).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].subtype, discovery::SUBTYPE_CURRENT_DISCOVERY);
        assert_eq!(entries[0].subnqn().unwrap(), DISCOVERY_NQN);
        assert_eq!(entries[1].subtype, discovery::SUBTYPE_NVM);
        assert_eq!(entries[1].subnqn().unwrap(), "nqn.2014-08.org.example:drive");
        assert_eq!((entries[1].trtype, entries[1].adrfam), (3, 1));
        assert_eq!((entries[1].traddr(), entries[1].trsvcid()), ("192.0.2.1".into(), "4420".into()));
        assert_eq!((entries[1].cntlid.get(), entries[1].portid.get()), (0xffff, 1));
    }

    #[test]
    fn a_listener_at_every_address_is_listed_at_the_one_that_the_host_reached() {
        let address = |listen: &str, local: &str| {
            listing(listen).entry(ip(local)).map(|entry| (entry.adrfam, entry.traddr().to_string()))
        };
        assert_eq!(address("0.0.0.0:4420", "192.0.2.7"), Some((1, "192.0.2.7".into())));
        assert_eq!(address("[::]:4420", "2001:db8::7"), Some((2, "2001:db8::7".into())));
        assert_eq!(address("[::]:4420", "::ffff:192.0.2.7"), Some((1, "192.0.2.7".into())));
        assert_eq!(address("0.0.0.0:4420", "2001:db8::7"), None);
        assert_eq!(address("198.51.100.1:4420", "192.0.2.7"), Some((1, "198.51.100.1".into())));
    }

    #[test]
    fn a_page_is_read_in_pieces_with_zeros_beyond_its_end() {
        let listings = [listing("192.0.2.1:4420")];
        let whole = page(1, &listings, "192.0.2.1");
        let page = LogPage::new(1, &listings, ip("192.0.2.1"));
        let mut piece = [0xff; 700];
        for offset in (0..2048).step_by(100) {
            page.read(offset as u64, &mut piece);
            let expected: Vec<u8> = whole[offset..].iter().copied().chain([0; 700]).take(700).collect();
            assert_eq!(piece[..], expected[..], "at {offset}");
        }
        page.read(u64::MAX, &mut piece);
        assert_eq!(piece, [0; 700]);
    }

    #[test]
    fn an_empty_page_is_a_header_alone() {
        let bytes = page(3, &[], "192.0.2.1");
        assert_eq!(bytes.len(), 1024);
        assert_eq!(parse_header(&bytes), Ok((3, 0)));
    }

    #[test]
    fn damaged_pages_are_refused() {
        assert_eq!(parse_header(&[0; 17]), Err(LogPageError::Truncated { length: 17 }));
        let mut header = [0; 1024];
        header[16] = 1;
        assert_eq!(parse_header(&header), Err(LogPageError::UnknownFormat(1)));
        assert_eq!(parse_entries(&[0; 1025]).unwrap_err(), LogPageError::Truncated { length: 1025 });
    }

    #[test]
    fn identify_controller_satisfies_the_checks_of_hosts() {
        let subsystem = Nqn::discovery();
        let identity = Identity {
            cntlid: 5,
            version: Version::V1_4,
            model: "Gangway Discovery",
            serial: "0",
            firmware: "1.0",
            max_commands: 32,
            async_event_limit: 4,
            subsystem: &subsystem,
        };
        let data = identity.identify_controller();
        assert_eq!(data.cntrltype, 2);
        assert_eq!(data.cntlid.get(), 5);
        assert_eq!(data.aerl, 3);
        assert_ne!(data.kas.get(), 0);
        assert_ne!(data.sgls.get() & 0b11, 0);
        assert_ne!(data.maxcmd.get(), 0);
        assert_eq!(data.oaes.get() & 1 << 31, 1 << 31);
        assert_eq!(data.subnqn(), DISCOVERY_NQN);
        assert_eq!(data.model(), "Gangway Discovery");
    }
}
