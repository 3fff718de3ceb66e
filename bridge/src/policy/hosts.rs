//! Policies of the hosts of an export.

use std::collections::BTreeMap;
use std::sync::Arc;

use gangway_spec::fabrics::Nqn;

use super::Policy;

/// What each host may do: hosts that are named have a policy of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPolicies {
    usual: Arc<Policy>,
    named: BTreeMap<String, Arc<Policy>>,
}

impl HostPolicies {
    /// The same for all hosts.
    pub fn all(policy: Policy) -> Self {
        Self { usual: Arc::new(policy), named: BTreeMap::new() }
    }

    /// Another one for the host of this name.
    pub fn name(&mut self, host: &Nqn, policy: Policy) {
        self.named.insert(host.as_str().to_owned(), Arc::new(policy));
    }

    /// What a host may do.
    pub fn of(&self, host: &Nqn) -> Arc<Policy> {
        Arc::clone(self.named.get(host.as_str()).unwrap_or(&self.usual))
    }

    /// Whether any host may do what changes data or could.
    pub fn change_data(&self) -> bool {
        self.usual.changes_data() || self.named.values().any(|policy| policy.changes_data())
    }
}
