mod doorbells;
mod model;
mod pointers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use gangway_spec::{CompletionQueueEntry, Status, SubmissionQueueEntry, opcode::nvm};
use proptest::prelude::*;

use super::*;
use crate::dma::{BufferPool, DmaBuffer, ReceivePool};
use crate::testing::{self, Device, Memory};

const MAX: usize = 64 * 1024;

struct Bench {
    domain: DmaDomain,
    memory: Arc<Memory>,
    pair: QueuePair,
    device: Device,
    epoch: Epoch,
}

fn bench(entries: u16) -> Bench {
    let (domain, memory) = Memory::in_domain();
    let (pair, device, epoch) = testing::queue_pair(&domain, &memory, entries, MAX);
    Bench { domain, memory, pair, device, epoch }
}

impl Bench {
    fn buffer(&self, len: usize, direction: Direction) -> DmaBuffer {
        self.domain.buffer(len, direction).unwrap()
    }

    fn submit(&mut self, opcode: u8, data: CommandData, user: u64) -> Result<(), SubmitError> {
        let deadline = Instant::now() + Duration::from_secs(60);
        self.pair
            .submit(&SubmissionQueueEntry::new(opcode), data, user, deadline)
            .map_err(|error| error.reason)
    }

    fn submit_ok(&mut self, opcode: u8, data: CommandData, user: u64) {
        self.submit(opcode, data, user).unwrap();
    }

    fn reap(&mut self) -> Vec<Completion> {
        let mut out = Vec::new();
        let count = self.pair.reap(&mut out).unwrap();
        assert_eq!(count, out.len());
        out
    }

    fn fault(&mut self) -> QueueFault {
        self.pair.reap(&mut Vec::new()).unwrap_err()
    }

    /// Ends the test without the leak that a faulted pair is.
    fn end(self) -> Vec<(u64, CommandData)> {
        self.pair.dismantle(&self.epoch.stopped()).unwrap()
    }
}

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|index| (index.wrapping_mul(31) ^ (index >> 8) ^ seed.wrapping_mul(131)) as u8).collect()
}

#[test]
fn commands_are_seen_by_the_device_only_after_the_doorbell() {
    let mut b = bench(8);
    b.submit_ok(nvm::FLUSH, CommandData::None, 1);
    b.submit_ok(nvm::FLUSH, CommandData::None, 2);
    assert_eq!(b.device.rung_tail(), 0);
    b.pair.ring();
    assert_eq!(b.device.rung_tail(), 2);
    assert_eq!(b.device.fetch().len(), 2);
    b.end();
}

#[test]
fn a_batch_of_completions_costs_one_doorbell_and_wraps_around() {
    let mut b = bench(4);
    for round in 0..40u64 {
        for user in 0..3 {
            b.submit_ok(nvm::FLUSH, CommandData::None, round * 3 + user);
        }
        b.pair.ring();
        for entry in b.device.fetch() {
            b.device.complete(entry.cid.get(), round);
        }
        let users: Vec<_> = b.reap().iter().map(|done| (done.user, done.entry.result())).collect();
        assert_eq!(users, [(round * 3, round), (round * 3 + 1, round), (round * 3 + 2, round)]);
        assert_eq!(u64::from(b.device.rung_head()), (round + 1) * 3 % 4);
        assert!(b.reap().is_empty());
    }
    assert_eq!(b.pair.outstanding(), 0);
}

#[test]
fn a_write_that_crosses_pages_is_read_by_the_device_as_it_was_written() {
    let mut b = bench(8);
    for len in [1, 512, 4096, 4097, 8192, 8196, 3 * 4096, MAX] {
        let mut buffer = b.buffer(len, Direction::DeviceReads);
        buffer.copy_from_slice(&pattern(len, len));
        b.submit_ok(nvm::WRITE, buffer.into(), 0);
        b.pair.ring();
        let entry = b.device.fetch()[0];
        assert_eq!(b.device.read_data(&entry, len), pattern(len, len), "{len}");
        b.device.complete(entry.cid.get(), 0);
        assert_eq!(b.reap()[0].data.len(), len);
    }
}

#[test]
fn completions_out_of_order_bring_each_command_its_own_data() {
    let mut b = bench(16);
    let mut pool = BufferPool::new(&b.domain, Direction::DeviceWrites, 1 << 20, MAX).unwrap();
    for user in 0..15u64 {
        let mut entry = SubmissionQueueEntry::new(nvm::READ);
        entry.cdw10.set(user as u32);
        let buffer = pool.take(9000).unwrap();
        b.pair.submit(&entry, buffer.into(), user, Instant::now()).unwrap();
    }
    b.pair.ring();
    let mut entries = b.device.fetch();
    // Neither the order of submission nor its reverse.
    entries.sort_by_key(|entry| (entry.cdw10.get() * 7) % 15);
    for entry in &entries {
        let lba = entry.cdw10.get();
        b.device.write_data(entry, &pattern(lba as usize, 9000));
        b.device.complete(entry.cid.get(), u64::from(lba));
    }
    let done = b.reap();
    assert_eq!(done.len(), 15);
    for completion in done {
        assert_eq!(completion.entry.result(), completion.user);
        assert_eq!(completion.data.bytes(), pattern(completion.user as usize, 9000));
    }
}

#[test]
fn a_full_queue_gives_the_data_back() {
    let mut b = bench(3);
    assert_eq!(b.pair.capacity(), 2);
    b.submit_ok(nvm::FLUSH, CommandData::None, 1);
    b.submit_ok(nvm::FLUSH, CommandData::None, 2);
    assert!(!b.pair.has_room());
    let buffer = b.buffer(4096, Direction::DeviceReads);
    let rejected = b.pair.submit(&SubmissionQueueEntry::new(nvm::WRITE), buffer.into(), 3, Instant::now());
    let rejected = rejected.unwrap_err();
    assert_eq!(rejected.reason, SubmitError::Full);
    assert_eq!(rejected.data.len(), 4096);
    b.end();
}

#[test]
fn entries_that_the_device_has_not_fetched_are_not_overwritten() {
    let mut b = bench(4);
    for user in 0..3 {
        b.submit_ok(nvm::FLUSH, CommandData::None, user);
    }
    b.pair.ring();
    let entries = b.device.fetch();
    // A slot is free, but the device says that it has not gone past the first entry.
    let mut completion = CompletionQueueEntry::new(entries[0].cid.get(), Status::SUCCESS);
    completion.sq_id.set(1);
    b.device.post(completion);
    assert_eq!(b.reap().len(), 1);
    assert!(!b.pair.has_room());
    assert_eq!(b.submit(nvm::FLUSH, CommandData::None, 9), Err(SubmitError::Full));
    b.device.complete(entries[1].cid.get(), 0);
    b.reap();
    assert!(b.pair.has_room());
    b.end();
}

#[test]
fn a_head_behind_the_one_reported_before_takes_no_room_away() {
    let mut b = bench(5);
    for user in 0..4 {
        b.submit_ok(nvm::FLUSH, CommandData::None, user);
    }
    b.pair.ring();
    let entries = b.device.fetch();
    b.device.complete(entries[0].cid.get(), 0);
    b.reap();
    b.submit_ok(nvm::FLUSH, CommandData::None, 4);
    // Written by another engine of the device, before it knew that all entries were fetched.
    let mut old = CompletionQueueEntry::new(entries[1].cid.get(), Status::SUCCESS);
    old.sq_id.set(1);
    old.sq_head.set(1);
    b.device.post(old);
    b.reap();
    assert!(b.pair.has_room());
    b.end();
}

#[test]
fn with_nothing_outstanding_the_queue_has_room_whatever_head_was_reported() {
    let mut b = bench(3);
    for round in 0..6 {
        b.submit_ok(nvm::FLUSH, CommandData::None, round);
        b.submit_ok(nvm::FLUSH, CommandData::None, round);
        b.pair.ring();
        for entry in b.device.fetch() {
            let mut completion = CompletionQueueEntry::new(entry.cid.get(), Status::SUCCESS);
            completion.sq_id.set(1);
            b.device.post(completion);
        }
        assert_eq!(b.reap().len(), 2);
    }
}

#[test]
fn a_doubled_completion_faults_the_queue() {
    let mut b = bench(8);
    b.submit_ok(nvm::FLUSH, CommandData::None, 1);
    b.submit_ok(nvm::FLUSH, CommandData::None, 2);
    b.pair.ring();
    let cid = b.device.fetch()[0].cid.get();
    b.device.complete(cid, 0);
    b.device.complete(cid, 0);
    let mut out = Vec::new();
    assert_eq!(b.pair.reap(&mut out), Err(QueueFault::UnknownCommand { qid: 1, cid }));
    assert_eq!(out.len(), 1, "the first of the two is good");
    assert_eq!(b.fault(), QueueFault::UnknownCommand { qid: 1, cid }, "it stays faulted");
    assert_eq!(b.submit(nvm::FLUSH, CommandData::None, 3), Err(SubmitError::Stopped));
    assert!(!b.pair.has_room());
    let left = b.end();
    assert_eq!(left.iter().map(|(user, _)| *user).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_late_completion_does_not_complete_the_next_command_of_its_slot() {
    let mut b = bench(2);
    b.submit_ok(nvm::FLUSH, CommandData::None, 1);
    b.pair.ring();
    let old = b.device.fetch()[0].cid.get();
    b.device.complete(old, 0);
    b.reap();
    b.submit_ok(nvm::FLUSH, CommandData::None, 2);
    b.pair.ring();
    assert_ne!(b.device.fetch()[0].cid.get(), old);
    b.device.complete(old, 0);
    assert_eq!(b.fault(), QueueFault::UnknownCommand { qid: 1, cid: old });
    assert_eq!(b.end().len(), 1);
}

#[test]
fn a_lost_completion_is_overdue_after_its_deadline() {
    let mut b = bench(8);
    let now = Instant::now();
    let mut entry = SubmissionQueueEntry::new(nvm::READ);
    entry.nsid.set(7);
    for (user, seconds) in [(1, 30), (2, 10), (3, 20)] {
        b.pair.submit(&entry, CommandData::None, user, now + Duration::from_secs(seconds)).unwrap();
    }
    b.pair.ring();
    let cid = b.device.fetch()[1].cid.get();
    assert_eq!(b.pair.overdue(now + Duration::from_secs(10)), None);
    let late = Duration::from_secs(15);
    let expected = Overdue { user: 2, cid, opcode: nvm::READ, nsid: 7, late };
    assert_eq!(b.pair.overdue(now + Duration::from_secs(25)), Some(expected));
    b.device.complete(cid, 0);
    b.reap();
    assert_eq!(b.pair.overdue(now + Duration::from_secs(25)).unwrap().user, 3);
    b.end();
}

#[test]
fn completions_that_make_no_sense_fault_the_queue() {
    type Change = fn(&mut CompletionQueueEntry);
    let cases: [(Change, QueueFault); 4] = [
        (|entry| entry.sq_id.set(2), QueueFault::WrongQueue { qid: 1, sq_id: 2 }),
        (|entry| entry.sq_head.set(8), QueueFault::BadHead { qid: 1, sq_head: 8 }),
        (|entry| entry.cid.set(0x03ff), QueueFault::UnknownCommand { qid: 1, cid: 0x03ff }),
        (|entry| *entry = zerocopy::transmute!([0xffu8; 16]), QueueFault::Gone { qid: 1 }),
    ];
    for (change, fault) in cases {
        let mut b = bench(8);
        b.submit_ok(nvm::FLUSH, CommandData::None, 1);
        b.pair.ring();
        let mut entry = CompletionQueueEntry::new(b.device.fetch()[0].cid.get(), Status::SUCCESS);
        entry.sq_id.set(1);
        change(&mut entry);
        b.device.post(entry);
        assert_eq!(b.fault(), fault);
        assert_eq!(b.end().len(), 1);
    }
}

#[test]
fn a_completion_for_a_command_that_was_not_rung_for_faults_the_queue() {
    let mut b = bench(4);
    b.submit_ok(nvm::FLUSH, CommandData::None, 1);
    b.pair.ring();
    let cid = b.device.fetch()[0].cid.get();
    b.device.complete(cid, 0);
    assert_eq!(b.reap().len(), 1);
    // The device guesses the next identifier of the slot.
    let buffer = b.buffer(4096, Direction::DeviceWrites);
    b.submit_ok(nvm::READ, buffer.into(), 2);
    let guessed = b.pair.slots.iter().next().unwrap().0;
    b.device.complete(guessed, 0);
    assert_eq!(b.fault(), QueueFault::UnknownCommand { qid: 1, cid: guessed });
    let data = b.end();
    assert_eq!((data[0].0, data[0].1.len()), (2, 4096), "the buffer stays with its command");
}

#[test]
fn a_completion_without_any_command_faults_the_queue() {
    let mut b = bench(8);
    b.device.complete(0, 0);
    assert_eq!(b.fault(), QueueFault::UnknownCommand { qid: 1, cid: 0 });
    b.end();
}

#[test]
fn memory_that_is_mapped_the_wrong_way_is_refused() {
    let mut b = bench(8);
    let cases = [
        (nvm::WRITE, Direction::DeviceReads, true),
        (nvm::WRITE, Direction::DeviceWrites, false),
        (nvm::WRITE, Direction::Bidirectional, true),
        (nvm::READ, Direction::DeviceReads, false),
        (nvm::READ, Direction::DeviceWrites, true),
        (nvm::READ, Direction::Bidirectional, true),
        (nvm::FLUSH, Direction::Bidirectional, false),
        (0x83, Direction::DeviceReads, false),
        (0x83, Direction::DeviceWrites, false),
        (0x83, Direction::Bidirectional, true),
    ];
    for (opcode, direction, allowed) in cases {
        let buffer = b.buffer(512, direction);
        let expected = if allowed { Ok(()) } else { Err(SubmitError::WrongDirection { opcode }) };
        assert_eq!(b.submit(opcode, buffer.into(), 0), expected, "{opcode:#x} {direction:?}");
    }
    let mut pool = ReceivePool::new(&b.domain, 4096, 1).unwrap();
    let mut chunk = pool.take().unwrap();
    chunk.advance(512);
    let (slice, again) = (chunk.slice(0..512), chunk.slice(0..512));
    assert_eq!(b.submit(nvm::READ, slice.into(), 0), Err(SubmitError::WrongDirection { opcode: nvm::READ }));
    assert_eq!(b.submit(nvm::WRITE, again.into(), 0), Ok(()));
    b.end();
}

#[test]
fn data_that_is_too_long_or_not_dword_aligned_is_refused() {
    let mut b = bench(8);
    let buffer = b.buffer(MAX + 1, Direction::DeviceReads);
    let too_long = SubmitError::TooLong { len: MAX + 1, limit: MAX };
    assert_eq!(b.submit(nvm::WRITE, buffer.into(), 0), Err(too_long));
    let mut pool = ReceivePool::new(&b.domain, 4096, 1).unwrap();
    let mut chunk = pool.take().unwrap();
    chunk.advance(600);
    let (slice, aligned) = (chunk.slice(74..586), chunk.slice(72..584));
    let iova = slice.iova();
    assert_eq!(b.submit(nvm::WRITE, slice.into(), 0), Err(SubmitError::Misaligned { iova }));
    assert_eq!(b.submit(nvm::WRITE, aligned.into(), 0), Ok(()));
    assert_eq!(b.pair.outstanding(), 1);
    b.end();
}

#[test]
fn admin_commands_that_leave_memory_with_the_controller_are_refused() {
    let (domain, memory) = Memory::in_domain();
    let (mut pair, _device, epoch) = testing::queue_pair_of(0, &domain, &memory, 16, MAX);
    let far = Instant::now() + Duration::from_secs(60);
    let mut submit = |entry: &SubmissionQueueEntry| {
        let data = domain.buffer(4096, Direction::Bidirectional).unwrap().into();
        pair.submit(entry, data, 0, far).map_err(|error| error.reason)
    };
    for opcode in [
        admin::CREATE_IO_SQ,
        admin::CREATE_IO_CQ,
        admin::DOORBELL_BUFFER_CONFIG,
        admin::CONTROLLER_DATA_QUEUE,
    ] {
        let refused = submit(&SubmissionQueueEntry::new(opcode));
        assert_eq!(refused, Err(SubmitError::KeepsMemory { opcode }));
    }
    let mut set = SubmissionQueueEntry::new(admin::SET_FEATURES);
    set.cdw10.set(feature::fid::HOST_MEMORY_BUFFER.into());
    set.cdw11.set(1);
    assert_eq!(submit(&set), Err(SubmitError::KeepsMemory { opcode: admin::SET_FEATURES }));
    // Giving the buffer back, and features without addresses, are commands like others.
    set.cdw11.set(0);
    assert_eq!(submit(&set), Ok(()));
    set.cdw10.set(feature::fid::TIMESTAMP.into());
    set.cdw11.set(1);
    assert_eq!(submit(&set), Ok(()));
    pair.dismantle(&epoch.stopped()).unwrap();
    // On an I/O queue the same opcodes are Write and Compare.
    let mut b = bench(4);
    let data = b.buffer(512, Direction::DeviceReads).into();
    b.submit_ok(admin::CREATE_IO_SQ, data, 1);
    b.end();
}

#[test]
fn addresses_in_the_given_entry_never_reach_the_device() {
    let mut b = bench(8);
    let poison = b.domain.poison_iova();
    let mut entry = SubmissionQueueEntry::new(nvm::READ);
    entry.set_prp(0x1234_5000, 0x1234_6000);
    entry.mptr.set(0x1234_7000);
    entry.cid.set(0x1234);
    entry.set_psdt(1);
    entry.cdw10.set(99);
    b.pair.submit(&entry, CommandData::None, 0, Instant::now()).unwrap();
    entry.opcode = nvm::FLUSH;
    b.pair.submit(&entry, CommandData::None, 0, Instant::now()).unwrap();
    b.pair.ring();
    let seen = b.device.fetch();
    assert_eq!((seen[0].prp1(), seen[0].prp2()), (poison, poison), "a read without memory must fault");
    assert_eq!((seen[1].prp1(), seen[1].prp2()), (0, 0));
    for entry in &seen {
        assert_eq!((entry.psdt(), entry.mptr.get(), entry.cdw10.get()), (0, 0, 99));
    }
    assert_ne!(seen[0].cid.get(), seen[1].cid.get());
    assert!(!b.memory.mappings().iter().any(|&(iova, len)| iova <= poison && poison < iova + len as u64));
    b.end();
}

#[test]
fn a_shorter_list_leaves_nothing_of_the_longer_one_before_it() {
    let mut b = bench(2);
    let poison = b.domain.poison_iova();
    for pages in [16, 9, 3, 12] {
        let buffer = b.buffer(pages * 4096, Direction::DeviceReads);
        b.submit_ok(nvm::WRITE, buffer.into(), 0);
        b.pair.ring();
        let entry = b.device.fetch()[0];
        for index in 0..512 {
            let value = b.memory.read_u64(entry.prp2() + index * 8);
            assert_eq!(
                value == poison,
                index as usize >= pages - 1,
                "entry {index} of a list for {pages} pages"
            );
        }
        b.device.complete(entry.cid.get(), 0);
        b.reap();
    }
}

#[test]
fn a_buffer_cannot_be_had_again_before_its_command_completed() {
    let mut b = bench(8);
    let mut pool = BufferPool::new(&b.domain, Direction::DeviceReads, 8192, 4096).unwrap();
    let (first, second) = (pool.take(4096).unwrap(), pool.take(4096).unwrap());
    let iova = first.iova();
    b.submit_ok(nvm::WRITE, first.into(), 1);
    pool.put(second);
    let other = pool.take(4096).unwrap();
    assert_ne!(other.iova(), iova);
    assert!(pool.take(1).is_none());
    b.pair.ring();
    let cid = b.device.fetch()[0].cid.get();
    b.device.complete(cid, 0);
    let CommandData::Buffer(back) = b.reap().remove(0).data else { panic!("a buffer was given") };
    pool.put(back);
    assert_eq!(pool.take(1).unwrap().iova(), iova);
    drop(other);
}

#[test]
fn a_dropped_queue_pair_with_commands_outstanding_leaks_what_the_device_may_use() {
    let mut b = bench(8);
    let buffer = b.buffer(8192, Direction::DeviceWrites);
    let iova = buffer.iova();
    b.submit_ok(nvm::READ, buffer.into(), 1);
    b.pair.ring();
    let Bench { domain, memory, pair, mut device, .. } = b;
    let before = memory.mappings();
    drop(pair);
    assert_eq!(memory.mappings(), before);
    // The device goes on: it finds all of its memory, and nothing else was put there.
    let entry = device.fetch()[0];
    device.write_data(&entry, &[0xab; 8192]);
    device.complete(entry.cid.get(), 0);
    let others: Vec<_> = (0..4).map(|_| domain.buffer(8192, Direction::DeviceWrites).unwrap()).collect();
    assert!(others.iter().all(|other| other.iova() != iova && other.iter().all(|&byte| byte == 0)));
}

#[test]
fn a_dropped_queue_pair_with_nothing_outstanding_keeps_its_queues_mapped() {
    let mut b = bench(8);
    b.submit_ok(nvm::FLUSH, CommandData::None, 1);
    b.pair.ring();
    let cid = b.device.fetch()[0].cid.get();
    b.device.complete(cid, 0);
    b.reap();
    drop(b.pair);
    // A device that completes once more, against all rules, writes into no one's memory.
    b.device.complete(cid, 0);
}

#[test]
fn only_the_right_proof_dismantles() {
    let mut b = bench(8);
    let buffer = b.buffer(4096, Direction::DeviceWrites);
    b.submit_ok(nvm::READ, buffer.into(), 42);
    b.submit_ok(nvm::FLUSH, CommandData::None, 43);
    let pair = b.pair.dismantle(&Epoch::first().stopped()).expect_err("of another controller");
    assert_eq!(pair.outstanding(), 2);
    let data = pair.dismantle(&b.epoch.next().stopped()).expect("a later stop of its own controller");
    let users: Vec<_> = data.iter().map(|(user, data)| (*user, data.len())).collect();
    assert_eq!(users, [(42, 4096), (43, 0)]);
    assert_eq!(b.memory.mappings().len(), 1, "the buffer alone");
    drop(data);
    assert_eq!(b.memory.mappings(), []);
}

#[test]
fn a_proof_from_before_the_queue_pair_was_made_is_refused() {
    let (domain, memory) = Memory::in_domain();
    let (pair, _device, epoch) = testing::queue_pair(&domain, &memory, 4, MAX);
    let older = epoch.stopped();
    let parts = |qid| Parts {
        qid,
        run: Run::new(epoch.next()),
        entries: 4,
        max_transfer: MAX,
        sgl: None,
        tail_doorbell: Doorbell::in_memory(crate::mmio::DoorbellPage::new(1), 0).unwrap(),
        head_doorbell: Doorbell::in_memory(crate::mmio::DoorbellPage::new(1), 0).unwrap(),
    };
    let newer = QueuePair::new(&domain, parts(2)).unwrap();
    let newer = newer.dismantle(&older).expect_err("it may still be in use");
    assert!(pair.dismantle(&older).is_ok());
    assert!(newer.dismantle(&epoch.next().stopped()).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_mix_of_sizes_offsets_and_completion_orders_moves_the_right_bytes(
        commands in proptest::collection::vec((1usize..MAX, any::<bool>(), any::<u16>()), 1..60),
    ) {
        let mut b = bench(5);
        let mut reads = BufferPool::new(&b.domain, Direction::DeviceWrites, 1 << 20, MAX).unwrap();
        let mut chunks = ReceivePool::new(&b.domain, MAX + 4096, 8).unwrap();
        let mut waiting: Vec<(SubmissionQueueEntry, usize)> = Vec::new();
        let mut done = 0;
        for (index, &(len, write, order)) in commands.iter().enumerate() {
            let mut entry = SubmissionQueueEntry::new(if write { nvm::WRITE } else { nvm::READ });
            entry.cdw10.set(index as u32);
            let data = if write {
                let mut chunk = chunks.take().unwrap();
                let offset = usize::from(order) % 1024 * 4;
                let len = len.min(MAX - offset);
                chunk.spare_mut()[offset..offset + len].copy_from_slice(&pattern(index, len));
                chunk.advance(offset + len);
                CommandData::from(chunk.slice(offset..offset + len))
            } else {
                CommandData::from(reads.take(len).unwrap())
            };
            let len = data.len();
            b.pair.submit(&entry, data, index as u64, Instant::now()).unwrap();
            b.pair.ring();
            waiting.extend(b.device.fetch().into_iter().map(|entry| (entry, len)));
            while waiting.len() == b.pair.capacity() || (index + 1 == commands.len() && !waiting.is_empty()) {
                let (entry, len) = waiting.swap_remove(usize::from(order) % waiting.len());
                let index = entry.cdw10.get() as usize;
                if entry.opcode == nvm::WRITE {
                    prop_assert_eq!(b.device.read_data(&entry, len), pattern(index, len));
                } else {
                    b.device.write_data(&entry, &pattern(index, len));
                }
                b.device.complete(entry.cid.get(), index as u64);
                for completion in b.reap() {
                    prop_assert_eq!(completion.user, completion.entry.result());
                    let index = completion.user as usize;
                    prop_assert_eq!(completion.data.bytes(), pattern(index, completion.data.len()));
                    if let CommandData::Buffer(buffer) = completion.data {
                        reads.put(buffer);
                    }
                    done += 1;
                }
            }
        }
        prop_assert_eq!(done, commands.len());
        prop_assert_eq!(b.pair.outstanding(), 0);
        prop_assert_eq!(reads.available(), reads.capacity());
        prop_assert_eq!(chunks.unused(), chunks.chunks());
    }
}
