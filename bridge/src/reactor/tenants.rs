//! The hosts of a reactor's connections, by number.

use slab::Slab;

/// A host, as one reactor knows it: a small number, which another host gets when it has no connections left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tenant(u32);

impl Tenant {
    pub(super) fn new(index: usize) -> Self {
        Self(index as u32)
    }

    #[inline]
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug)]
struct Known {
    nqn: Box<str>,
    connections: usize,
}

/// Hosts that have connections.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    known: Slab<Known>,
}

impl Tenants {
    /// Counts a connection of the host with this NQN.
    pub(super) fn enter(&mut self, nqn: &str) -> Tenant {
        let found = self.known.iter().find(|(_, known)| &*known.nqn == nqn).map(|(index, _)| index);
        let index = found.unwrap_or_else(|| self.known.insert(Known { nqn: nqn.into(), connections: 0 }));
        self.known[index].connections += 1;
        Tenant::new(index)
    }

    /// A connection is gone.
    pub(super) fn leave(&mut self, tenant: Tenant) {
        let Some(known) = self.known.get_mut(tenant.index()) else { return };
        known.connections -= 1;
        if known.connections == 0 {
            self.known.remove(tenant.index());
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    /// Numbers at most that they have: all are below.
    pub(super) fn numbers(&self) -> usize {
        self.known.iter().next_back().map_or(0, |(last, _)| last + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_number_for_all_its_connections_and_gives_it_back_with_the_last() {
        let mut tenants = Tenants::default();
        let (a, b) = (tenants.enter("a"), tenants.enter("b"));
        assert_ne!(a, b);
        assert_eq!(tenants.enter("a"), a);
        assert_eq!((tenants.count(), tenants.numbers()), (2, 2));
        tenants.leave(a);
        assert_eq!(tenants.count(), 2);
        tenants.leave(a);
        assert_eq!((tenants.count(), tenants.numbers()), (1, 2));
        assert_eq!(tenants.enter("c"), a);
    }
}
