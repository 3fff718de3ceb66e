//! A queue pair beside a naive model of one: lists that grow, and numbers that never wrap.

use std::collections::VecDeque;

use super::*;

/// What a queue pair must be like from outside.
#[derive(Default)]
struct Model {
    /// Submitted, not rung for.
    posted: VecDeque<u64>,
    /// Rung for, not fetched.
    told: VecDeque<u64>,
    /// Completed by the device, not reaped.
    completed: VecDeque<u64>,
    outstanding: usize,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Submit,
    Ring,
    Fetch,
    /// Completes one of the fetched commands; which one, and how far back its queue head is.
    Complete(u16, u16),
    Reap,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Submit),
        2 => Just(Step::Ring),
        2 => Just(Step::Fetch),
        4 => (any::<u16>(), 0u16..3).prop_map(|(which, stale)| Step::Complete(which, stale)),
        1 => Just(Step::Reap),
    ];
    proptest::collection::vec(step, 1..500)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn a_queue_pair_does_what_a_naive_one_does_in_any_order_of_events(entries in 2u16..9, steps in steps()) {
        let mut b = bench(entries);
        let capacity = usize::from(entries) - 1;
        let mut model = Model::default();
        // What the device has: the identifier and the number of each command, and the heads it went through.
        let mut held: Vec<(u16, u64)> = Vec::new();
        let mut heads: VecDeque<u16> = VecDeque::from([0]);
        let mut next = 0u64;
        let mut identifiers = std::collections::HashSet::new();
        for step in steps {
            match step {
                Step::Submit => {
                    let mut entry = SubmissionQueueEntry::new(nvm::FLUSH);
                    entry.cdw10.set(next as u32);
                    let had_room = b.pair.has_room();
                    let result = b.pair.submit(&entry, CommandData::None, next, Instant::now());
                    prop_assert_eq!(result.is_ok(), had_room);
                    if model.outstanding == capacity {
                        prop_assert!(!had_room, "more than there are entries");
                    }
                    if model.outstanding == 0 {
                        prop_assert!(had_room, "an empty queue has room");
                    }
                    if had_room {
                        model.posted.push_back(next);
                        model.outstanding += 1;
                        next += 1;
                    }
                }
                Step::Ring => {
                    b.pair.ring();
                    model.told.append(&mut model.posted);
                }
                Step::Fetch => {
                    for entry in b.device.fetch() {
                        let number = u64::from(entry.cdw10.get());
                        prop_assert_eq!(Some(number), model.told.pop_front(), "in the order of submission");
                        prop_assert!(identifiers.insert(entry.cid.get()), "an identifier is in use twice");
                        held.push((entry.cid.get(), number));
                        heads.push_back(b.device.head);
                    }
                    prop_assert!(model.told.is_empty());
                }
                Step::Complete(which, stale) => {
                    if held.is_empty() {
                        continue;
                    }
                    let (cid, number) = held.swap_remove(usize::from(which) % held.len());
                    identifiers.remove(&cid);
                    let mut entry = CompletionQueueEntry::new(cid, Status::SUCCESS);
                    entry.set_result(number);
                    entry.sq_id.set(1);
                    // Engines of a device report heads of a moment ago.
                    let back = usize::from(stale).min(heads.len() - 1);
                    entry.sq_head.set(heads[heads.len() - 1 - back]);
                    b.device.post(entry);
                    model.completed.push_back(number);
                    while heads.len() > 3 {
                        heads.pop_front();
                    }
                }
                Step::Reap => {
                    for completion in b.reap() {
                        let expected = model.completed.pop_front();
                        prop_assert_eq!(Some(completion.user), expected, "in the order of completion");
                        prop_assert_eq!(completion.entry.result(), completion.user);
                        model.outstanding -= 1;
                    }
                    prop_assert!(model.completed.is_empty(), "all that has come");
                    prop_assert_eq!(b.device.rung_head(), b.device.completed_tail(), "told how far it was read");
                }
            }
            prop_assert_eq!(b.pair.outstanding(), model.outstanding);
        }
        let mut left: Vec<u64> = model.posted.into_iter().chain(model.told).chain(model.completed).collect();
        left.extend(held.iter().map(|(_, number)| *number));
        left.sort_unstable();
        let mut users: Vec<u64> = b.end().into_iter().map(|(user, _)| user).collect();
        users.sort_unstable();
        prop_assert_eq!(users, left, "what never completed comes back");
    }
}
