//! The discovery controller: what a host can connect to.

use std::net::SocketAddr;

use gangway_fabric::discovery::{Identity, Listing, LogPage, Subtype};
use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::fabrics::Nqn;
use gangway_spec::identify::cns;
use gangway_spec::log::{GetLogPage, lid};
use gangway_spec::opcode::admin;
use gangway_spec::registers::Version;
use gangway_spec::status::Status;
use zerocopy::IntoBytes;

use super::controller::slice_of;
use super::limits;
use crate::association::Association;
use crate::export::Offer;

/// The discovery log as one host sees it.
pub(crate) struct DiscoveryService {
    /// What there is to connect to by now.
    offer: Box<dyn Fn() -> Offer + Send>,
    listeners: Vec<SocketAddr>,
    /// The address that the host itself uses.
    local: SocketAddr,
    /// As it was when the host last read its beginning: pieces of one reading belong together.
    log: Vec<u8>,
}

impl DiscoveryService {
    /// Lists what hosts may connect to, by way of the address `local` that this one used itself.
    pub(crate) fn new(
        offer: impl Fn() -> Offer + Send + 'static,
        listeners: &[SocketAddr],
        local: SocketAddr,
    ) -> Self {
        Self { offer: Box::new(offer), listeners: listeners.to_vec(), local, log: Vec::new() }
    }

    fn list(&self, host: &Nqn) -> Vec<u8> {
        let Offer { generation, exports } = (self.offer)();
        let mut listings = Vec::new();
        for (port, listener) in self.listeners.iter().enumerate() {
            let port_id = port as u16 + 1;
            listings.push(Listing::current_discovery(*listener, port_id));
            for export in exports.iter().filter(|export| export.access.allows(host)) {
                let subsystem = export.nqn.clone();
                listings.push(Listing { subsystem, subtype: Subtype::Nvm, address: *listener, port_id });
            }
        }
        let page = LogPage::new(generation, &listings, self.local.ip());
        let mut log = vec![0; page.length()];
        page.read(0, &mut log);
        log
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
                lid::DISCOVERY => {
                    if GetLogPage::from(entry).lpo == 0 || self.log.is_empty() {
                        self.log = self.list(&association.connect.host);
                    }
                    slice_of(&self.log, entry, declared)
                }
                _ => Err(Status::INVALID_LOG_PAGE.with_dnr()),
            },
            _ => Err(Status::INVALID_OPCODE.with_dnr()),
        }
    }
}
