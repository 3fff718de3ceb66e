//! The Changed Zone Lists of a controller.

use std::collections::{BTreeMap, BTreeSet};

use gangway_spec::zns::ChangedZoneList;
use zerocopy::FromBytes;

/// Zones that the log page has room for.
const MOST: usize = 511;

/// Zones that changed by themselves since the host read of it, by the NSID that it knows (ZNS Command Set 1.1, 4.1.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChangedZones(BTreeMap<u32, Zones>);

/// Those of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Zones {
    zones: BTreeSet<u64>,
    /// There were more than the page has room for, or nobody knows which.
    any: bool,
}

impl ChangedZones {
    /// Adds what the log page of a drive says of a namespace. A page that could not be read stands for all zones.
    pub(crate) fn add(&mut self, nsid: u32, page: &[u8]) {
        let changed = self.0.entry(nsid).or_default();
        let list = ChangedZoneList::ref_from_prefix(page).ok();
        match list.and_then(|(list, _)| list.zones()) {
            Some(zones) => changed.zones.extend(zones),
            None => changed.any = true,
        }
        changed.settle();
    }

    /// Adds all that other lists have.
    pub(crate) fn append(&mut self, other: Self) {
        for (nsid, other) in other.0 {
            let changed = self.0.entry(nsid).or_default();
            changed.any |= other.any;
            changed.zones.extend(other.zones);
            changed.settle();
        }
    }

    /// The namespaces that have such zones.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = u32> {
        self.0.keys().copied()
    }

    /// The log page of a namespace.
    pub(crate) fn page(&self, nsid: u32) -> ChangedZoneList {
        match self.0.get(&nsid) {
            None => ChangedZoneList::default(),
            Some(Zones { any: true, .. }) => ChangedZoneList::of(None),
            Some(Zones { zones, .. }) => ChangedZoneList::of(Some(&Vec::from_iter(zones.iter().copied()))),
        }
    }

    /// The host has read the log page of a namespace.
    pub(crate) fn clear(&mut self, nsid: u32) {
        self.0.remove(&nsid);
    }

    /// The controller was reset.
    pub(crate) fn clear_all(&mut self) {
        self.0.clear();
    }
}

impl Zones {
    /// Holds no more than the page can say.
    fn settle(&mut self) {
        self.any |= self.zones.len() > MOST;
        if self.any {
            self.zones.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    fn of(zones: &[u64]) -> Vec<u8> {
        ChangedZoneList::of(Some(zones)).as_bytes().to_vec()
    }

    fn listed(changed: &ChangedZones, nsid: u32) -> Option<Vec<u64>> {
        changed.page(nsid).zones().map(Vec::from_iter)
    }

    #[test]
    fn zones_are_listed_once_in_order_and_by_their_namespace() {
        let mut changed = ChangedZones::default();
        changed.add(1, &of(&[32, 0]));
        changed.add(1, &of(&[16, 32]));
        let mut more = ChangedZones::default();
        more.add(2, &of(&[8]));
        more.add(1, &of(&[64]));
        changed.append(more);
        assert_eq!(listed(&changed, 1), Some(vec![0, 16, 32, 64]));
        assert_eq!((listed(&changed, 2), listed(&changed, 3)), (Some(vec![8]), Some(vec![])));
        changed.clear(1);
        assert_eq!(changed.namespaces().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn more_zones_than_the_page_has_room_for_and_a_page_that_could_not_be_read_are_all_of_them() {
        let mut changed = ChangedZones::default();
        changed.add(1, &of(&Vec::from_iter(0..511)));
        assert_eq!(listed(&changed, 1).map(|zones| zones.len()), Some(511));
        changed.add(1, &of(&[510]));
        assert!(listed(&changed, 1).is_some(), "it was there");
        changed.add(1, &of(&[511]));
        assert_eq!(listed(&changed, 1), None);
        changed.add(1, &of(&[0]));
        assert_eq!(listed(&changed, 1), None);
        changed.add(2, &[]);
        assert_eq!(listed(&changed, 2), None);
    }
}
