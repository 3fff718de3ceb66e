//! Asks a discovery service which subsystems there are.

use std::net::SocketAddr;

use gangway_spec::discovery::{DiscoveryLogEntry, DiscoveryLogHeader};
use gangway_spec::fabrics::Nqn;
use gangway_spec::log::lid;

use super::client::{AdminQueue, HostError, HostIdentity, Options};
use crate::discovery::{parse_entries, parse_header};

/// Entries read with one command.
const ENTRIES_AT_ONCE: u64 = 16;

/// Entries of a log page that are read at most: a target could claim any number.
const MAX_ENTRIES: u64 = 4096;

/// How often the log page is read before the host gives up on one that changes all the time.
const ATTEMPTS: usize = 10;

/// Connects to the discovery service at `address`, reads its log page, and disconnects.
///
/// # Errors
/// The service cannot be reached or refuses, or its log page is damaged or changes all the time.
pub fn fetch(
    address: SocketAddr,
    identity: &HostIdentity,
    options: &Options,
) -> Result<Vec<DiscoveryLogEntry>, HostError> {
    let mut admin = AdminQueue::connect(address, &Nqn::discovery(), identity, options)?;
    admin.enable()?;
    let entries = read(&mut admin)?;
    admin.shutdown()?;
    Ok(entries)
}

/// Reads the log page of a discovery controller that is enabled.
///
/// # Errors
/// The log page is damaged or changes all the time, or the errors of a command.
pub fn read(admin: &mut AdminQueue) -> Result<Vec<DiscoveryLogEntry>, HostError> {
    const HEADER: u32 = size_of::<DiscoveryLogHeader>() as u32;
    const ENTRY: u64 = size_of::<DiscoveryLogEntry>() as u64;
    for _ in 0..ATTEMPTS {
        let before = parse_header(&admin.log_page(lid::DISCOVERY, 0, 0, HEADER, true)?)?;
        let count = before.1.min(MAX_ENTRIES);
        let mut entries = Vec::new();
        let mut next = 0;
        while next < count {
            let part = (count - next).min(ENTRIES_AT_ONCE);
            let offset = u64::from(HEADER) + next * ENTRY;
            // `part` is small, so the product fits.
            let bytes = admin.log_page(lid::DISCOVERY, 0, offset, (part * ENTRY) as u32, true)?;
            entries.extend(parse_entries(&bytes)?);
            next += part;
        }
        // Read without retaining the event, so that further changes are announced. The counter tells whether what
        // was read in pieces is one whole.
        if parse_header(&admin.log_page(lid::DISCOVERY, 0, 0, HEADER, false)?)? == before {
            return Ok(entries);
        }
    }
    Err(HostError::DiscoveryUnstable { address: admin.address() })
}
