//! Which meters an export has.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{Limit, Limits, Meter, Subject};

/// Meters at most that are kept while no reactor uses them.
const MOST_IDLE: usize = 4096;

/// The limits of an export, and the meters of those who use it. Reactors look into it when a connection comes, and when
/// they are told that it has changed.
#[derive(Debug, Default)]
pub struct LimitBook {
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    limits: Limits,
    /// As long as a reactor uses them, and until what is owed is paid: who leaves and comes again has no more than who
    /// stays. Not each host that ever came is remembered.
    meters: BTreeMap<Subject, (Limit, Arc<Meter>)>,
}

impl Pages {
    /// The meter of one host or namespace, the same for all who ask.
    fn meter(&mut self, subject: Subject, limit: Limit) -> Option<Arc<Meter>> {
        if let Some((as_of, meter)) = self.meters.get(&subject)
            && *as_of == limit
        {
            return Some(Arc::clone(meter));
        }
        self.meters.remove(&subject);
        let meter = Arc::new(Meter::new(&limit)?);
        let (now, mut idle) = (Instant::now(), 0);
        self.meters.retain(|_, (_, meter)| {
            let is_used = Arc::strong_count(meter) > 1;
            idle += usize::from(!is_used);
            is_used || idle <= MOST_IDLE && !meter.is_full(now)
        });
        self.meters.insert(subject, (limit, Arc::clone(&meter)));
        Some(meter)
    }
}

impl LimitBook {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { pages: Mutex::new(Pages { limits, meters: BTreeMap::new() }) }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The meter of a host, if it is limited.
    pub(crate) fn host(&self, nqn: &str) -> Option<Arc<Meter>> {
        let mut pages = self.pages();
        let limit = pages.limits.of_host(nqn);
        pages.meter(Subject::Host(nqn.to_owned()), limit)
    }

    /// The meter of a namespace, if it is limited.
    pub(crate) fn namespace(&self, nsid: u32) -> Option<Arc<Meter>> {
        let mut pages = self.pages();
        let limit = pages.limits.of_namespace(nsid);
        pages.meter(Subject::Namespace(nsid), limit)
    }

    /// The limits as they are.
    pub(crate) fn limits(&self) -> Limits {
        self.pages().limits.clone()
    }

    /// Changes a limit. Reactors are to be told.
    pub(crate) fn set(&self, subject: Subject, limit: Limit) {
        self.pages().limits.set(subject, limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Purse;

    #[test]
    fn all_reactors_get_one_meter_until_the_limit_changes() {
        let book = LimitBook::default();
        assert!(book.host("a").is_none());
        book.set(Subject::EachHost, "iops=5".parse().unwrap());
        let (a, b) = (book.host("a").unwrap(), book.host("b").unwrap());
        assert!(Arc::ptr_eq(&a, &book.host("a").unwrap()) && !Arc::ptr_eq(&a, &b));
        book.set(Subject::Host("a".to_owned()), "iops=6".parse().unwrap());
        assert!(!Arc::ptr_eq(&a, &book.host("a").unwrap()));
        assert!(Arc::ptr_eq(&b, &book.host("b").unwrap()));
        assert!(book.namespace(1).is_none());
    }

    #[test]
    fn hosts_that_have_gone_are_forgotten() {
        let book = LimitBook::default();
        book.set(Subject::EachHost, "iops=5".parse().unwrap());
        for number in 0..100 {
            assert!(book.host(&format!("host {number}")).is_some());
        }
        assert_eq!(book.pages().meters.len(), 1);
    }

    #[test]
    fn who_owes_something_is_remembered_until_it_is_paid() {
        let book = LimitBook::default();
        book.set(Subject::EachHost, "iops=5".parse().unwrap());
        let meter = book.host("a").unwrap();
        let mut purse = Purse::default();
        (0..100).for_each(|_| purse.pay(&meter, 0));
        let owed = Arc::as_ptr(&meter);
        drop(meter);
        book.host("b").unwrap();
        assert_eq!(Arc::as_ptr(&book.host("a").unwrap()), owed);
        // What is lifted is forgiven.
        book.set(Subject::EachHost, Limit::NONE);
        assert!(book.host("a").is_none());
        book.set(Subject::EachHost, "iops=5".parse().unwrap());
        assert!(book.host("a").unwrap().is_full(Instant::now()));
    }

    #[test]
    fn hosts_that_owe_something_and_are_gone_are_not_remembered_without_end() {
        let book = LimitBook::default();
        book.set(Subject::EachHost, "iops=1".parse().unwrap());
        for number in 0..MOST_IDLE + 100 {
            let meter = book.host(&format!("host {number}")).unwrap();
            let mut purse = Purse::default();
            (0..1000).for_each(|_| purse.pay(&meter, 0));
        }
        assert!(book.pages().meters.len() <= MOST_IDLE + 1);
    }
}
