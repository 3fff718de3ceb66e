//! Whose turn it is among hosts that wait for the same thing: each in turn, by what its commands cost.
//!
//! Deficit round robin (Shreedhar and Varghese, 1995): a host has its turn as long as its credit lasts, gets new credit
//! when that is used up, and goes to the end. How many connections and commands a host has makes no difference.
//!
//! What waits is in lists that run through it ([`Links`]), so that waiting never allocates.

use std::collections::VecDeque;

use super::tenants::Tenant;

/// What a turn is worth, in the unit of [`cost`]: one command of 4 KiB. A host that has one command at a time loses what is
/// left of its turn with each, so others must not have many in a row.
const TURN: u32 = 8192;
/// What a command costs besides its data.
const COMMAND: u32 = 4096;

/// What a command of `length` bytes costs others who wait: its bytes, and a block's worth for itself.
pub(super) fn cost(length: u32) -> u32 {
    length.saturating_add(COMMAND)
}

/// Nothing.
const NONE: u32 = u32::MAX;

/// Neighbours in a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    before: u32,
    behind: u32,
}

impl Default for Link {
    fn default() -> Self {
        Self { before: NONE, behind: NONE }
    }
}

/// Things that can wait, by number. Each is in one list at a time.
pub(super) trait Links {
    /// Its neighbours.
    fn link(&mut self, item: u32) -> &mut Link;
    /// Whose it is.
    fn tenant(&self, item: u32) -> Tenant;
    /// What it costs.
    fn cost(&self, item: u32) -> u32;
}

/// What waits of one host.
#[derive(Clone, Copy, Debug)]
struct Line {
    first: u32,
    last: u32,
    credit: u32,
}

const EMPTY: Line = Line { first: NONE, last: NONE, credit: 0 };

/// What waits for one thing.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    /// By host.
    lines: Vec<Line>,
    /// Hosts of which something waits, the next one first.
    turns: VecDeque<Tenant>,
}

impl FairQueue {
    /// Makes room for `tenants` hosts, so that nothing allocates on the way of a command.
    pub(super) fn make_room(&mut self, tenants: usize) {
        if self.lines.len() < tenants {
            self.lines.resize(tenants, EMPTY);
            self.turns.reserve(tenants.saturating_sub(self.turns.len()));
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Puts `item` behind all that waits of its host.
    pub(super) fn push(&mut self, item: u32, links: &mut impl Links) {
        let tenant = links.tenant(item);
        let line = &mut self.lines[tenant.index()];
        *links.link(item) = Link { before: line.last, behind: NONE };
        if line.last == NONE {
            line.first = item;
            line.credit = TURN;
            self.turns.push_back(tenant);
        } else {
            links.link(line.last).behind = item;
        }
        line.last = item;
    }

    /// What has its turn next among hosts that `may` have one. It stays where it is.
    pub(super) fn next(&mut self, links: &impl Links, may: impl Fn(Tenant) -> bool) -> Option<u32> {
        let mut passed_over = 0;
        while passed_over < self.turns.len() {
            let tenant = *self.turns.front()?;
            let line = &mut self.lines[tenant.index()];
            if !may(tenant) {
                passed_over += 1;
            } else if line.credit >= links.cost(line.first) {
                return Some(line.first);
            } else {
                line.credit = line.credit.saturating_add(TURN);
                passed_over = 0;
            }
            self.turns.rotate_left(1);
        }
        None
    }

    /// Takes out what [`next`](Self::next) gave, which has its turn now.
    pub(super) fn take(&mut self, item: u32, links: &mut impl Links) {
        let (tenant, cost) = (links.tenant(item), links.cost(item));
        let line = &mut self.lines[tenant.index()];
        line.credit = line.credit.saturating_sub(cost);
        self.remove(item, links);
    }

    /// Takes something out that has not had its turn.
    pub(super) fn remove(&mut self, item: u32, links: &mut impl Links) {
        let tenant = links.tenant(item);
        let line = &mut self.lines[tenant.index()];
        let Link { before, behind } = std::mem::take(links.link(item));
        match before {
            NONE => line.first = behind,
            before => links.link(before).behind = behind,
        }
        match behind {
            NONE => line.last = before,
            behind => links.link(behind).before = before,
        }
        if line.first == NONE {
            match self.turns.iter().position(|turn| *turn == tenant) {
                Some(0) => drop(self.turns.pop_front()),
                Some(at) => drop(self.turns.remove(at)),
                None => debug_assert!(false, "a host that waits has a turn"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Things(Vec<(Tenant, u32, Link)>);

    impl Links for Things {
        fn link(&mut self, item: u32) -> &mut Link {
            &mut self.0[item as usize].2
        }

        fn tenant(&self, item: u32) -> Tenant {
            self.0[item as usize].0
        }

        fn cost(&self, item: u32) -> u32 {
            self.0[item as usize].1
        }
    }

    struct Crowd {
        things: Things,
        queue: FairQueue,
    }

    impl Crowd {
        fn new() -> Self {
            let mut queue = FairQueue::default();
            queue.make_room(8);
            Self { things: Things::default(), queue }
        }

        fn push(&mut self, tenant: usize, cost: u32) -> u32 {
            let item = self.things.0.len() as u32;
            self.things.0.push((Tenant::new(tenant), cost, Link::default()));
            self.queue.push(item, &mut self.things);
            item
        }

        fn pop(&mut self, may: impl Fn(Tenant) -> bool) -> Option<u32> {
            let item = self.queue.next(&self.things, may)?;
            self.queue.take(item, &mut self.things);
            Some(item)
        }

        fn tenant(&self, item: u32) -> usize {
            self.things.tenant(item).index()
        }
    }

    #[test]
    fn a_host_with_many_commands_gets_no_more_than_one_with_few() {
        let mut crowd = Crowd::new();
        for _ in 0..1000 {
            crowd.push(0, cost(4096));
        }
        for _ in 0..100 {
            crowd.push(1, cost(4096));
        }
        let mut turns = [0; 2];
        for _ in 0..200 {
            let item = crowd.pop(|_| true).unwrap();
            turns[crowd.tenant(item)] += 1;
        }
        assert!((84..=100).contains(&turns[1]), "{turns:?}");
    }

    #[test]
    fn large_commands_do_not_buy_a_larger_share() {
        let mut crowd = Crowd::new();
        for _ in 0..64 {
            crowd.push(0, cost(1 << 20));
        }
        for _ in 0..4096 {
            crowd.push(1, cost(4096));
        }
        let mut bytes = [0_u64; 2];
        while bytes[0] < 16 << 20 {
            let item = crowd.pop(|_| true).unwrap();
            bytes[crowd.tenant(item)] += u64::from(crowd.things.cost(item));
        }
        let ratio = bytes[1] as f64 / bytes[0] as f64;
        assert!((0.9..1.1).contains(&ratio), "{bytes:?}");
    }

    #[test]
    fn who_comes_to_those_that_wait_has_its_turn_after_one_of_each() {
        let mut crowd = Crowd::new();
        for tenant in 0..4 {
            for _ in 0..100 {
                crowd.push(tenant, cost(4096));
            }
        }
        for _ in 0..50 {
            crowd.pop(|_| true);
        }
        let late = crowd.push(5, cost(4096));
        let before = std::iter::from_fn(|| crowd.pop(|_| true)).position(|item| item == late).unwrap();
        assert!(before <= 4 * (TURN / cost(4096)) as usize, "{before}");
    }

    #[test]
    fn who_may_not_have_a_turn_is_passed_over_and_keeps_its_place() {
        let mut crowd = Crowd::new();
        let (a, b) = (crowd.push(0, 1), crowd.push(1, 1));
        assert_eq!(crowd.queue.next(&crowd.things, |_| false), None);
        assert_eq!(crowd.pop(|tenant| tenant.index() != 0), Some(b));
        assert_eq!(crowd.pop(|_| true), Some(a));
        assert!(crowd.queue.is_empty());
    }

    proptest! {
        #[test]
        fn each_host_is_served_in_order_and_nothing_is_lost(
            steps in prop::collection::vec((0..4_usize, 0..4_u8, 1..2_000_000_u32), 1..400),
        ) {
            let mut crowd = Crowd::new();
            let mut model: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
            for (tenant, step, cost) in steps {
                match step {
                    0 | 1 => {
                        let item = crowd.push(tenant, cost);
                        model.entry(tenant).or_default().push(item);
                    }
                    2 => match crowd.pop(|_| true) {
                        Some(item) => {
                            let line = model.get_mut(&crowd.tenant(item)).unwrap();
                            prop_assert_eq!(line.remove(0), item);
                        }
                        None => prop_assert!(model.values().all(Vec::is_empty)),
                    },
                    _ => {
                        let line = model.entry(tenant).or_default();
                        if !line.is_empty() {
                            let item = line.remove(cost as usize % line.len());
                            crowd.queue.remove(item, &mut crowd.things);
                        }
                    }
                }
                prop_assert_eq!(crowd.queue.is_empty(), model.values().all(Vec::is_empty));
            }
            let mut left: Vec<u32> = std::iter::from_fn(|| crowd.pop(|_| true)).collect();
            left.sort_unstable();
            let mut expected: Vec<u32> = model.into_values().flatten().collect();
            expected.sort_unstable();
            prop_assert_eq!(left, expected);
            prop_assert!(crowd.queue.is_empty());
        }
    }
}
