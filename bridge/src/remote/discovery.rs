//! The discovery controller: what a host can connect to.

use std::net::SocketAddr;
use std::sync::Arc;

use gangway_fabric::discovery::{Identity, Listing, LogPage, Subtype};
use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::identify::cns;
use gangway_spec::log::{GetLogPage, lid};
use gangway_spec::opcode::admin;
use gangway_spec::registers::Version;
use gangway_spec::status::Status;
use zerocopy::IntoBytes;

use super::controller::slice_of;
use super::limits;
use crate::association::Association;
use crate::export::Export;

/// The exports do not change while they are served, so there is one generation of the log.
const GENERATION: u64 = 1;

/// The discovery log as one host sees it.
pub(crate) struct DiscoveryService {
    log: Vec<u8>,
}

impl DiscoveryService {
    /// Lists what the host behind `association` may connect to, by way of the address that it used itself.
    pub(crate) fn new(
        association: &Association,
        exports: &[Arc<Export>],
        listeners: &[SocketAddr],
        local: SocketAddr,
    ) -> Self {
        let mut listings = Vec::new();
        for (port, listener) in listeners.iter().enumerate() {
            let port_id = port as u16 + 1;
            listings.push(Listing::current_discovery(*listener, port_id));
            for export in exports.iter().filter(|export| export.access.allows(&association.connect.host)) {
                let subsystem = export.nqn.clone();
                listings.push(Listing { subsystem, subtype: Subtype::Nvm, address: *listener, port_id });
            }
        }
        let page = LogPage::new(GENERATION, &listings, local.ip());
        let mut log = vec![0; page.length()];
        page.read(0, &mut log);
        Self { log }
    }

    /// Data of Identify Controller and of the log page; a discovery controller has nothing else.
    pub(super) fn answer(
        &mut self,
        entry: &SubmissionQueueEntry,
        declared: u32,
        association: &Association,
    ) -> Result<Vec<u8>, Status> {
        match entry.opcode {
            admin::IDENTIFY => {
                if (entry.cdw10.get() & 0xff) as u8 != cns::CONTROLLER {
                    return Err(Status::INVALID_FIELD.with_dnr());
                }
                if declared != 4096 {
                    return Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr());
                }
                let identity = Identity {
                    cntlid: association.cntlid,
                    version: Version::V2_0,
                    model: "Gangway discovery",
                    serial: "0",
                    firmware: env!("CARGO_PKG_VERSION"),
                    max_commands: limits::ADMIN_QUEUE_ENTRIES,
                    async_event_limit: limits::ASYNC_EVENT_REQUESTS,
                    subsystem: &association.connect.subsystem,
                };
                let mut data = identity.identify_controller();
                data.mdts = (limits::OWN_LOG_PAGE / 4096).ilog2() as u8;
                Ok(data.as_bytes().to_vec())
            }
            admin::GET_LOG_PAGE => match GetLogPage::from(entry).lid {
                lid::DISCOVERY => slice_of(&self.log, entry, declared),
                _ => Err(Status::INVALID_LOG_PAGE.with_dnr()),
            },
            _ => Err(Status::INVALID_OPCODE.with_dnr()),
        }
    }
}
