//! The Changed Namespace List of a controller.

use std::collections::BTreeSet;

use gangway_spec::command::NSID_BROADCAST;

/// NSIDs that the log page has room for.
const MOST: usize = 1024;
/// Bytes of the log page.
const LENGTH: usize = MOST * size_of::<u32>();

/// Namespaces that changed since the host read of it (NVMe Base 2.0, 5.16.1.5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChangedNamespaces {
    nsids: BTreeSet<u32>,
    /// There were more than the page has room for, or nobody knows which.
    any: bool,
}

impl ChangedNamespaces {
    /// Adds a namespace; FFFFFFFFh stands for all.
    pub(crate) fn add(&mut self, nsid: u32) {
        if !self.any {
            self.nsids.insert(nsid);
        }
        if nsid == NSID_BROADCAST || self.nsids.len() > MOST {
            self.any = true;
            self.nsids.clear();
        }
    }

    /// Adds all that another list has.
    pub(crate) fn append(&mut self, other: &Self) {
        if other.any {
            self.add(NSID_BROADCAST);
        }
        other.nsids.iter().for_each(|nsid| self.add(*nsid));
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.any && self.nsids.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The log page: NSIDs in ascending order and zeroes, or FFFFFFFFh alone when it cannot name them.
    pub(crate) fn page(&self) -> Vec<u8> {
        let all = self.any.then_some(NSID_BROADCAST);
        let mut page: Vec<u8> = self.nsids.iter().copied().chain(all).flat_map(u32::to_le_bytes).collect();
        page.resize(LENGTH, 0);
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(changed: &ChangedNamespaces) -> Vec<u32> {
        let page = changed.page();
        assert_eq!(page.len(), 4096);
        let nsids = page.chunks_exact(4).map(|nsid| u32::from_le_bytes([nsid[0], nsid[1], nsid[2], nsid[3]]));
        nsids.take_while(|nsid| *nsid != 0).collect()
    }

    #[test]
    fn changed_namespaces_are_listed_once_and_in_order() {
        let mut changed = ChangedNamespaces::default();
        assert!(changed.is_empty() && listed(&changed).is_empty());
        [7, 2, 7, 5].iter().for_each(|nsid| changed.add(*nsid));
        assert_eq!(listed(&changed), [2, 5, 7]);
        changed.clear();
        assert!(changed.is_empty() && listed(&changed).is_empty());
    }

    #[test]
    fn more_namespaces_than_the_page_has_room_for_are_all_of_them() {
        let mut changed = ChangedNamespaces::default();
        (1..=1024).for_each(|nsid| changed.add(nsid));
        assert_eq!(listed(&changed).len(), 1024);
        changed.add(1024);
        assert_eq!(listed(&changed).len(), 1024, "it was there");
        changed.add(1025);
        assert_eq!(listed(&changed), [NSID_BROADCAST]);
        changed.add(1);
        assert_eq!(listed(&changed), [NSID_BROADCAST]);
        let mut other = ChangedNamespaces::default();
        other.add(3);
        other.append(&changed);
        assert_eq!(listed(&other), [NSID_BROADCAST]);
    }
}
