//! Limits in force on a reactor: who may have one more command now, and who waits until that is so.
//!
//! A command pays before anything is set aside for it, to its host's account and to its namespace's. One that must wait keeps
//! its connection from reading on, so that what waits holds no memory that others need. Before each account connections have
//! their turn by host ([`FairQueue`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use super::fair::{self, FairQueue, Link, Links};
use super::tenants::Tenant;
use crate::limits::{Meter, Purse};

/// How long a reactor sleeps at least before it looks again whether there is something. By then there is something for
/// several commands, unless few are allowed anyway.
const SHORTEST_WAIT: Duration = Duration::from_micros(200);

/// An account of a reactor, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AccountId(u32);

/// Where a command has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Before its host's account.
    Host,
    /// Before its namespace's. Its host's has been paid.
    Namespace,
}

#[derive(Debug)]
struct Account {
    meter: Arc<Meter>,
    purse: Purse,
    /// Connections and software queues that have it.
    users: usize,
    /// Connections that wait.
    queue: FairQueue,
}

/// A connection, as one that may wait.
#[derive(Clone, Copy, Debug)]
struct Place {
    link: Link,
    tenant: Tenant,
    cost: u32,
    waits_for: Option<AccountId>,
}

impl Links for Vec<Place> {
    fn link(&mut self, item: u32) -> &mut Link {
        &mut self[item as usize].link
    }

    fn tenant(&self, item: u32) -> Tenant {
        self[item as usize].tenant
    }

    fn cost(&self, item: u32) -> u32 {
        self[item as usize].cost
    }
}

/// The accounts of a reactor.
#[derive(Debug)]
pub(super) struct Accounts {
    accounts: Slab<Account>,
    /// Connections, by their keys.
    places: Vec<Place>,
    /// Those of limited namespaces, by export: ordered by NSID.
    namespaces: Vec<Vec<(u32, AccountId)>>,
    /// Accounts before which connections wait.
    busy: Vec<AccountId>,
    /// The time of this turn.
    now: Instant,
}

impl Accounts {
    pub(super) fn new() -> Self {
        Self {
            accounts: Slab::new(),
            places: Vec::new(),
            namespaces: Vec::new(),
            busy: Vec::new(),
            now: Instant::now(),
        }
    }

    /// Whether anything is limited.
    #[inline]
    pub(super) fn are_in_force(&self) -> bool {
        !self.accounts.is_empty()
    }

    /// A turn begins.
    #[inline]
    pub(super) fn begin_turn(&mut self, now: Instant) {
        self.now = now;
    }

    /// Makes room for the connection with this key, and for so many hosts.
    pub(super) fn make_room(&mut self, key: usize, tenant: Tenant, tenants: usize) {
        let vacant = Place { link: Link::default(), tenant, cost: 0, waits_for: None };
        if self.places.len() <= key {
            self.places.resize(key + 1, vacant);
        }
        self.places[key] = vacant;
        self.accounts.iter_mut().for_each(|(_, account)| account.queue.make_room(tenants));
    }

    /// Opens an account with a meter, for one more user.
    pub(super) fn open(&mut self, meter: Arc<Meter>, tenants: usize) -> AccountId {
        let found = self.accounts.iter().find(|(_, account)| Arc::ptr_eq(&account.meter, &meter));
        let index = match found {
            Some((index, _)) => index,
            None => {
                let mut queue = FairQueue::default();
                queue.make_room(tenants);
                let account = Account { meter, purse: Purse::default(), users: 0, queue };
                self.accounts.insert(account)
            }
        };
        self.accounts[index].users += 1;
        self.busy.reserve(self.accounts.len().saturating_sub(self.busy.len()));
        AccountId(index as u32)
    }

    /// A user no longer has the account. What waits for one that nobody has any more is put into `woken`.
    pub(super) fn close(&mut self, id: AccountId, woken: &mut Vec<usize>) {
        let Some(account) = self.accounts.get_mut(id.0 as usize) else { return };
        account.users -= 1;
        if account.users > 0 {
            return;
        }
        while let Some(item) = account.queue.next(&self.places, |_| true) {
            account.queue.remove(item, &mut self.places);
            self.places[item as usize].waits_for = None;
            woken.push(item as usize);
        }
        self.busy.retain(|busy| *busy != id);
        self.accounts.remove(id.0 as usize);
    }

    /// The account of a namespace of an export, if it is limited.
    pub(super) fn of_namespace(&self, export: usize, nsid: u32) -> Option<AccountId> {
        let limited = self.namespaces.get(export)?;
        limited.binary_search_by_key(&nsid, |(nsid, _)| *nsid).ok().map(|at| limited[at].1)
    }

    /// Says which namespaces of an export are limited, in order of NSID. What waits for accounts that nobody has any more
    /// is put into `woken`.
    pub(super) fn limit_namespaces(
        &mut self,
        export: usize,
        limited: Vec<(u32, Arc<Meter>)>,
        tenants: usize,
        woken: &mut Vec<usize>,
    ) {
        if self.namespaces.len() <= export {
            self.namespaces.resize_with(export + 1, Vec::new);
        }
        // Opened before the old ones are closed, so that those which stay the same stay open.
        let new = limited.into_iter().map(|(nsid, meter)| (nsid, self.open(meter, tenants))).collect();
        for (_, id) in std::mem::replace(&mut self.namespaces[export], new) {
            self.close(id, woken);
        }
    }

    /// Whether account `id` has this meter.
    pub(super) fn has(&self, id: Option<AccountId>, meter: Option<&Arc<Meter>>) -> bool {
        match (id.and_then(|id| self.accounts.get(id.0 as usize)), meter) {
            (Some(account), Some(meter)) => Arc::ptr_eq(&account.meter, meter),
            (None, None) => true,
            _ => false,
        }
    }

    /// Pays for a command of `length` bytes of connection `key`. False when it has to wait: then the connection is in the
    /// account's queue. `turn`: it has waited, and has its turn.
    pub(super) fn pay(&mut self, id: Option<AccountId>, key: usize, length: u32, turn: bool) -> bool {
        let Some((id, account)) = id.and_then(|id| Some((id, self.accounts.get_mut(id.0 as usize)?))) else {
            return true;
        };
        if self.places[key].waits_for.is_some() {
            // It is in a queue, and can be in one only.
            return false;
        }
        let Account { meter, purse, queue, .. } = account;
        if (turn || queue.is_empty()) && purse.has_some(meter, self.now) {
            purse.pay(meter, length);
            return true;
        }
        let place = &mut self.places[key];
        place.cost = fair::cost(length);
        place.waits_for = Some(id);
        if queue.is_empty() {
            self.busy.push(id);
        }
        queue.push(key as u32, &mut self.places);
        false
    }

    /// Takes out a connection that waits, which has its turn now.
    pub(super) fn next_ready(&mut self) -> Option<usize> {
        for at in 0..self.busy.len() {
            let Account { meter, purse, queue, .. } = &mut self.accounts[self.busy[at].0 as usize];
            if purse.has_some(meter, self.now)
                && let Some(item) = queue.next(&self.places, |_| true)
            {
                queue.take(item, &mut self.places);
                if queue.is_empty() {
                    self.busy.swap_remove(at);
                }
                self.places[item as usize].waits_for = None;
                return Some(item as usize);
            }
        }
        None
    }

    /// How long it takes until a connection that waits can have its turn; `None` when none waits.
    pub(super) fn ready_in(&self) -> Option<Duration> {
        let waits = self.busy.iter().map(|id| {
            let Account { meter, purse, .. } = &self.accounts[id.0 as usize];
            purse.ready_in(meter, self.now)
        });
        waits.min().map(|wait| wait.max(SHORTEST_WAIT))
    }

    /// A connection no longer waits for anything.
    pub(super) fn forget(&mut self, key: usize) {
        let Some(id) = self.places.get_mut(key).and_then(|place| place.waits_for.take()) else { return };
        let queue = &mut self.accounts[id.0 as usize].queue;
        queue.remove(key as u32, &mut self.places);
        if queue.is_empty() {
            self.busy.retain(|busy| *busy != id);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // Tests end where something fails.
mod tests {
    use super::*;

    #[test]
    fn a_connection_waits_before_one_account_once_however_often_it_asks() {
        let mut accounts = Accounts::new();
        let now = Instant::now();
        accounts.begin_turn(now);
        let meter = Arc::new(Meter::new(&"iops=1,burst=0ms".parse().unwrap()).unwrap());
        let account = Some(accounts.open(meter, 1));
        for key in 0..2 {
            accounts.make_room(key, Tenant::new(0), 1);
        }
        while accounts.pay(account, 0, 4096, false) {}
        for turn in [false, true] {
            assert!(!accounts.pay(account, 0, 4096, turn));
        }
        assert!(!accounts.pay(account, 1, 4096, false));
        assert!(!accounts.pay(account, 0, 4096, true));
        let turns = (0..10).filter_map(|second| {
            accounts.begin_turn(now + Duration::from_secs(10 * (second + 1)));
            let key = accounts.next_ready()?;
            assert!(accounts.pay(account, key, 4096, true));
            Some(key)
        });
        assert_eq!(turns.collect::<Vec<_>>(), [0, 1]);
    }
}
