//! Limits in force on a reactor: who may have one more command now, and which commands wait until that is so.
//!
//! A command pays to its host's account, and then to its namespace's. Before one that has nothing it waits: before the account
//! of a host its connections have their turn one after the other, before that of a namespace hosts have ([`FairQueue`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use super::command::Command;
use super::fair::{FairQueue, Link, Links};
use super::tenants::Tenant;
use crate::admission::Admitted;
use crate::limits::{Meter, Purse};
use crate::reservation::Key;

/// How long a reactor sleeps at least before it looks again whether there is something. By then there is something for
/// several commands, unless few are allowed anyway.
const SHORTEST_WAIT: Duration = Duration::from_micros(200);

/// An account of a reactor, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AccountId(u32);

/// Whose account a command has to pay to next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Its host's, and then its namespace's.
    Host,
    /// Its namespace's. Its host's has been paid to.
    Namespace,
}

#[derive(Debug)]
struct Account {
    gate: Gate,
    meter: Arc<Meter>,
    purse: Purse,
    /// Connections, or namespaces of exports, that have it.
    users: usize,
    /// Commands that wait.
    queue: FairQueue,
}

/// Commands as they stand before an account: each connection of a host in a line of its own, or each host.
struct Lines<'a>(&'a mut Slab<Command>, Gate);

impl Links for Lines<'_> {
    fn link(&mut self, item: u32) -> &mut Link {
        self.0.link(item)
    }

    fn tenant(&self, item: u32) -> Tenant {
        match self.1 {
            Gate::Host => Tenant::new(self.0[item as usize].connection().unwrap_or(0)),
            Gate::Namespace => self.0.tenant(item),
        }
    }

    fn cost(&self, item: u32) -> u32 {
        self.0.cost(item)
    }
}

/// The accounts of a reactor.
#[derive(Debug)]
pub(super) struct Accounts {
    accounts: Slab<Account>,
    /// Those of limited namespaces, by export: ordered by drive and NSID there.
    namespaces: Vec<Vec<(Key, AccountId)>>,
    /// Accounts before which commands wait.
    busy: Vec<AccountId>,
    /// Keys of connections, and numbers of hosts, for which there is room.
    room: (usize, usize),
    /// The time of this turn.
    now: Instant,
}

impl Accounts {
    pub(super) fn new() -> Self {
        Self {
            accounts: Slab::new(),
            namespaces: Vec::new(),
            busy: Vec::new(),
            room: (0, 0),
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

    /// Makes room for so many connections, and so many hosts.
    pub(super) fn make_room(&mut self, connections: usize, tenants: usize) {
        self.room = (self.room.0.max(connections), self.room.1.max(tenants));
        let room = self.room;
        self.accounts.iter_mut().for_each(|(_, account)| account.make_room(room));
    }

    /// Opens an account with a meter, for one more user. `gate`: whose it is.
    pub(super) fn open(&mut self, gate: Gate, meter: Arc<Meter>) -> AccountId {
        let found = self.accounts.iter().find(|(_, account)| Arc::ptr_eq(&account.meter, &meter));
        let index = match found {
            Some((index, _)) => index,
            None => {
                let queue = FairQueue::default();
                let mut account = Account { gate, meter, purse: Purse::default(), users: 0, queue };
                account.make_room(self.room);
                self.accounts.insert(account)
            }
        };
        self.accounts[index].users += 1;
        self.busy.reserve(self.accounts.len().saturating_sub(self.busy.len()));
        AccountId(index as u32)
    }

    /// A user no longer has the account. Commands that wait for one that nobody has any more are put into `woken`.
    pub(super) fn close(
        &mut self,
        id: AccountId,
        commands: &mut Slab<Command>,
        woken: &mut Vec<(usize, Gate)>,
    ) {
        let Some(account) = self.accounts.get_mut(id.0 as usize) else { return };
        account.users -= 1;
        if account.users > 0 {
            return;
        }
        let Account { gate, queue, .. } = account;
        let mut lines = Lines(commands, *gate);
        while let Some(item) = queue.next(&lines, |_| true) {
            queue.remove(item, &mut lines);
            woken.push((item as usize, *gate));
        }
        self.busy.retain(|busy| *busy != id);
        self.accounts.remove(id.0 as usize);
    }

    /// Says which namespaces of an export are limited, by their drives and their NSIDs there. Commands that wait for
    /// accounts that nobody has any more are put into `woken`.
    pub(super) fn limit_namespaces(
        &mut self,
        export: usize,
        mut limited: Vec<(Key, Arc<Meter>)>,
        commands: &mut Slab<Command>,
        woken: &mut Vec<(usize, Gate)>,
    ) {
        if self.namespaces.len() <= export {
            self.namespaces.resize_with(export + 1, Vec::new);
        }
        limited.sort_unstable_by_key(|(key, _)| *key);
        // Opened before the old ones are closed, so that those which stay the same stay open.
        let open = |(key, meter)| (key, self.open(Gate::Namespace, meter));
        let new = limited.into_iter().map(open).collect();
        for (_, id) in std::mem::replace(&mut self.namespaces[export], new) {
            self.close(id, commands, woken);
        }
    }

    /// The account of the namespace of a command, if that is limited. What is for all namespaces counts for none.
    pub(super) fn of_namespace(&self, export: usize, admitted: &Admitted) -> Option<AccountId> {
        let limited = self.namespaces.get(export)?;
        let key = (admitted.drive, admitted.nsid);
        limited.binary_search_by_key(&key, |(key, _)| *key).ok().map(|at| limited[at].1)
    }

    /// Whether account `id` has this meter.
    pub(super) fn has(&self, id: Option<AccountId>, meter: Option<&Arc<Meter>>) -> bool {
        match (id.and_then(|id| self.accounts.get(id.0 as usize)), meter) {
            (Some(account), Some(meter)) => Arc::ptr_eq(&account.meter, meter),
            (None, None) => true,
            _ => false,
        }
    }

    /// Whose account this is.
    pub(super) fn gate(&self, id: AccountId) -> Gate {
        self.accounts.get(id.0 as usize).map_or(Gate::Namespace, |account| account.gate)
    }

    /// Pays for a command of `length` bytes. False when it has to wait: there is nothing, or others wait and it is not its
    /// `turn`.
    pub(super) fn pay(&mut self, id: AccountId, length: u32, turn: bool) -> bool {
        let Some(account) = self.accounts.get_mut(id.0 as usize) else { return true };
        let Account { meter, purse, queue, .. } = account;
        let may = (turn || queue.is_empty()) && purse.has_some(meter, self.now);
        if may {
            purse.pay(meter, length);
        }
        may
    }

    /// Pays for a command of `length` bytes that does not wait, if need be with what will be there later.
    pub(super) fn charge(&mut self, id: AccountId, length: u32) {
        if let Some(Account { meter, purse, .. }) = self.accounts.get_mut(id.0 as usize) {
            purse.pay(meter, length);
        }
    }

    /// Puts a command behind those that wait for an account.
    pub(super) fn wait(&mut self, id: AccountId, item: u32, commands: &mut Slab<Command>) {
        let Account { gate, queue, .. } = &mut self.accounts[id.0 as usize];
        if queue.is_empty() {
            self.busy.push(id);
        }
        queue.push(item, &mut Lines(commands, *gate));
    }

    /// A command no longer waits for an account.
    pub(super) fn forget(&mut self, id: AccountId, item: u32, commands: &mut Slab<Command>) {
        let Account { gate, queue, .. } = &mut self.accounts[id.0 as usize];
        queue.remove(item, &mut Lines(commands, *gate));
        if queue.is_empty() {
            self.busy.retain(|busy| *busy != id);
        }
    }

    /// Takes out a command that waits, which has its turn now, with whose account it waited for.
    pub(super) fn next_ready(&mut self, commands: &mut Slab<Command>) -> Option<(usize, Gate)> {
        for at in 0..self.busy.len() {
            let Account { gate, meter, purse, queue, .. } = &mut self.accounts[self.busy[at].0 as usize];
            let mut lines = Lines(commands, *gate);
            if purse.has_some(meter, self.now)
                && let Some(item) = queue.next(&lines, |_| true)
            {
                queue.take(item, &mut lines);
                let ready = (item as usize, *gate);
                if queue.is_empty() {
                    self.busy.swap_remove(at);
                }
                return Some(ready);
            }
        }
        None
    }

    /// How long it takes until a command that waits can have its turn; `None` when none waits.
    pub(super) fn ready_in(&self) -> Option<Duration> {
        let waits = self.busy.iter().map(|id| {
            let Account { meter, purse, .. } = &self.accounts[id.0 as usize];
            purse.ready_in(meter, self.now)
        });
        waits.min().map(|wait| wait.max(SHORTEST_WAIT))
    }
}

impl Account {
    fn make_room(&mut self, (connections, tenants): (usize, usize)) {
        self.queue.make_room(if self.gate == Gate::Host { connections } else { tenants });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // Tests end where something fails.
mod tests {
    use gangway_driver::dma::CommandData;
    use gangway_spec::SubmissionQueueEntry;
    use gangway_spec::command::TransferDirection;
    use gangway_spec::opcode::nvm;

    use super::*;
    use crate::admission::{Course, Handling};
    use crate::reactor::command::{Stage, Terms};

    fn waiting(connection: u32, tenant: usize) -> Command {
        Command {
            entry: SubmissionQueueEntry::new(nvm::READ),
            connection: Some(connection),
            slot: 0,
            tenant: Tenant::new(tenant),
            link: Link::default(),
            sequence: 0,
            admitted: Admitted {
                course: Course::Drive,
                drive: 0,
                queue: 0,
                nsid: 1,
                direction: TransferDirection::ControllerToHost,
                length: 4096,
                handling: Handling::Plain,
            },
            data: CommandData::None,
            terms: Terms::Usual,
            counted: false,
            stage: Stage::Receiving,
        }
    }

    /// Has commands of these connections and hosts wait before an account, and lets them go on one after the other.
    fn order(gate: Gate, of: &[(u32, usize)]) -> Vec<(u32, usize)> {
        let (mut accounts, mut commands) = (Accounts::new(), Slab::new());
        let now = Instant::now();
        accounts.begin_turn(now);
        accounts.make_room(8, 8);
        let id = accounts.open(gate, Arc::new(Meter::new(&"iops=1,burst=0ms".parse().unwrap()).unwrap()));
        while accounts.pay(id, 4096, false) {}
        for (connection, tenant) in of {
            assert!(!accounts.pay(id, 4096, false));
            let item = commands.insert(waiting(*connection, *tenant));
            accounts.wait(id, item as u32, &mut commands);
        }
        let turns = (1..=of.len() as u64).map(|turn| {
            assert_eq!(accounts.next_ready(&mut commands), None);
            accounts.begin_turn(now + Duration::from_secs(10 * turn));
            assert!(!accounts.pay(id, 4096, false), "nobody goes before those who wait");
            let (item, at) = accounts.next_ready(&mut commands).unwrap();
            assert!(at == gate && accounts.pay(id, 4096, true));
            let Command { connection, tenant, .. } = commands.remove(item);
            (connection.unwrap(), tenant.index())
        });
        let turns = turns.collect();
        assert_eq!(accounts.ready_in(), None);
        turns
    }

    #[test]
    fn connections_of_a_host_have_its_limit_in_turn() {
        let order = order(Gate::Host, &[(1, 0), (1, 0), (1, 0), (2, 0), (2, 0), (5, 0)]);
        assert_eq!(order, [(1, 0), (2, 0), (5, 0), (1, 0), (2, 0), (1, 0)]);
    }

    #[test]
    fn hosts_have_the_limit_of_a_namespace_in_turn() {
        let order = order(Gate::Namespace, &[(1, 0), (2, 0), (3, 0), (4, 1), (4, 1)]);
        assert_eq!(order, [(1, 0), (4, 1), (2, 0), (4, 1), (3, 0)]);
    }

    #[test]
    fn who_waits_for_an_account_that_is_closed_is_woken() {
        let (mut accounts, mut commands) = (Accounts::new(), Slab::new());
        accounts.make_room(8, 8);
        let meter = Arc::new(Meter::new(&"iops=1".parse().unwrap()).unwrap());
        let id = accounts.open(Gate::Host, Arc::clone(&meter));
        assert_eq!(accounts.open(Gate::Host, meter), id);
        for connection in [3, 4] {
            let item = commands.insert(waiting(connection, 0));
            accounts.wait(id, item as u32, &mut commands);
        }
        accounts.forget(id, 0, &mut commands);
        let mut woken = Vec::new();
        accounts.close(id, &mut commands, &mut woken);
        assert!(woken.is_empty() && accounts.are_in_force());
        accounts.close(id, &mut commands, &mut woken);
        assert_eq!(woken, [(1, Gate::Host)]);
        assert!(!accounts.are_in_force() && accounts.ready_in().is_none());
    }
}
