//! The associations of the process, by controller identifier.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use gangway_fabric::connect::{ConnectError, ConnectRequest};
use gangway_spec::fabrics::Nqn;

use crate::association::{Association, ONE_IDENTIFIER_ONE_NAME};

/// Identifiers from FFF0h on are reserved (NVMe Base 2.0, 3.1.2).
const LAST_CNTLID: u16 = 0xffef;

/// Associations with exports at most. Each costs a socket and a task, so a peer must not be able to make them without
/// end.
const MOST: usize = 4096;
/// Associations with the discovery controller at most. They need no permission, so they are counted apart: whoever
/// makes as many as there can be keeps no host from its drive.
const MOST_DISCOVERY: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Registry {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    associations: BTreeMap<u16, Arc<Association>>,
    last_cntlid: u16,
    last_id: u64,
}

impl State {
    fn with_exports(&self) -> usize {
        self.associations.values().filter(|association| association.export.is_some()).count()
    }
}

impl State {
    /// The name of another host that uses an export with the same host identifier. Without one hosts are not told apart.
    fn other_name(&self, connect: &ConnectRequest) -> Option<Nqn> {
        let same = |other: &ConnectRequest| other.host_id == connect.host_id && other.host != connect.host;
        let with_exports = self.associations.values().filter(|association| association.export.is_some());
        let mut others = with_exports.map(|association| &association.connect).filter(|other| same(other));
        others.next().filter(|_| connect.host_id.0 != [0; 16]).map(|other| other.host.clone())
    }
}

impl Registry {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an association for the host that asks for an admin queue.
    ///
    /// # Errors
    /// Connect Controller Busy when there are as many as there can be. Connect Invalid Parameters when a host of another
    /// name is connected with this host identifier: it is by that that commands and reservations are told apart.
    pub(super) fn create(
        &self,
        export: Option<usize>,
        connect: ConnectRequest,
        granted: u16,
    ) -> Result<Arc<Association>, ConnectError> {
        let mut state = self.state();
        let with_exports = state.with_exports();
        let full = match export {
            Some(_) => with_exports >= MOST,
            None => state.associations.len() - with_exports >= MOST_DISCOVERY,
        };
        if full {
            return Err(ConnectError::busy());
        }
        if export.is_some()
            && let Some(other) = state.other_name(&connect)
        {
            tracing::warn!(host = %connect.host, %other, "the host identifier is that of a connected host with another name: {ONE_IDENTIFIER_ONE_NAME}");
            return Err(ConnectError::host_identifier_taken());
        }
        // Upwards and around, so that an identifier is not handed out again at once.
        loop {
            state.last_cntlid = if state.last_cntlid >= LAST_CNTLID { 1 } else { state.last_cntlid + 1 };
            if !state.associations.contains_key(&state.last_cntlid) {
                break;
            }
        }
        state.last_id += 1;
        let (id, cntlid) = (state.last_id, state.last_cntlid);
        let association = Arc::new(Association::new(id, cntlid, export, connect, granted));
        state.associations.insert(cntlid, Arc::clone(&association));
        Ok(association)
    }

    pub(super) fn find(&self, cntlid: u16) -> Option<Arc<Association>> {
        self.state().associations.get(&cntlid).cloned()
    }

    pub(super) fn remove(&self, association: &Association) {
        let mut state = self.state();
        // It may be gone already, and its identifier be another's.
        if state.associations.get(&association.cntlid).is_some_and(|found| found.id == association.id) {
            state.associations.remove(&association.cntlid);
        }
    }

    /// How many there are with exports.
    pub(super) fn with_exports(&self) -> usize {
        self.state().with_exports()
    }

    /// Those with one export.
    pub(super) fn of_export(&self, export: usize) -> Vec<Arc<Association>> {
        let state = self.state();
        state
            .associations
            .values()
            .filter(|association| association.export == Some(export))
            .cloned()
            .collect()
    }

    pub(super) fn all(&self) -> Vec<Arc<Association>> {
        self.state().associations.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gangway_spec::fabrics::HostId;

    use super::*;

    fn connect() -> ConnectRequest {
        ConnectRequest {
            qid: 0,
            queue_size: 32,
            flow_control_disabled: false,
            kato: Duration::ZERO,
            host_id: HostId([7; 16]),
            cntlid: 0xffff,
            subsystem: "nqn.2014-08.org.example:drive".parse().unwrap(),
            host: "nqn.2014-08.org.example:host".parse().unwrap(),
        }
    }

    #[test]
    fn controller_identifiers_are_not_handed_out_again_at_once() {
        let registry = Registry::default();
        let first = registry.create(None, connect(), 1).unwrap();
        registry.remove(&first);
        let second = registry.create(None, connect(), 1).unwrap();
        assert_ne!(first.cntlid, second.cntlid);
        assert!(registry.find(first.cntlid).is_none());
        assert_eq!(registry.find(second.cntlid).unwrap().id, second.id);
    }

    #[test]
    fn identifiers_wrap_around_those_in_use() {
        let registry = Registry::default();
        let kept = registry.create(None, connect(), 1).unwrap();
        registry.state().last_cntlid = LAST_CNTLID;
        let next = registry.create(None, connect(), 1).unwrap();
        assert_eq!((kept.cntlid, next.cntlid), (1, 2));
    }

    #[test]
    fn there_is_a_limit_to_associations_and_discovery_does_not_use_up_that_of_drives() {
        let registry = Registry::default();
        for _ in 0..MOST_DISCOVERY {
            registry.create(None, connect(), 1).unwrap();
        }
        assert_eq!(registry.create(None, connect(), 1).unwrap_err(), ConnectError::busy());
        for _ in 0..MOST {
            registry.create(Some(0), connect(), 1).unwrap();
        }
        assert_eq!(registry.create(Some(0), connect(), 1).unwrap_err(), ConnectError::busy());
    }

    #[test]
    fn a_host_identifier_is_that_of_one_host_as_long_as_it_uses_an_export() {
        let registry = Registry::default();
        let other = ConnectRequest { host: "nqn.2014-08.org.example:other".parse().unwrap(), ..connect() };
        let first = registry.create(Some(0), connect(), 1).unwrap();
        let taken = Err(ConnectError::host_identifier_taken());
        assert_eq!(registry.create(Some(1), other.clone(), 1).map(drop), taken);
        registry.create(Some(1), connect(), 1).unwrap();
        registry.create(None, other.clone(), 1).unwrap();
        let third = ConnectRequest { host_id: HostId([8; 16]), ..other.clone() };
        registry.create(Some(0), third, 1).unwrap();
        for association in registry.of_export(1).iter().chain([&first]) {
            registry.remove(association);
        }
        registry.create(Some(1), other, 1).unwrap();
    }

    #[test]
    fn removing_an_association_twice_does_not_touch_its_successor() {
        let registry = Registry::default();
        let first = registry.create(None, connect(), 1).unwrap();
        registry.remove(&first);
        registry.state().last_cntlid = 0;
        let second = registry.create(None, connect(), 1).unwrap();
        assert_eq!(first.cntlid, second.cntlid);
        registry.remove(&first);
        assert!(registry.find(second.cntlid).is_some());
    }
}
