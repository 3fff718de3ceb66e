//! Creating, deleting and filling queues.

use super::*;

#[test]
fn each_wrong_completion_queue_is_refused() {
    let mut host = Host::new("queues=4,depth=64");
    let memory = host.buffer(64 * 16, Direction::DeviceWrites);
    let good = create_cq(1, 16, memory.iova());
    let with = |change: &dyn Fn(&mut SubmissionQueueEntry)| {
        let mut entry = good;
        change(&mut entry);
        entry
    };
    for (entry, status) in [
        (create_cq(0, 16, memory.iova()), Status::INVALID_QUEUE_IDENTIFIER),
        (create_cq(5, 16, memory.iova()), Status::INVALID_QUEUE_IDENTIFIER),
        (create_cq(1, 1, memory.iova()), Status::INVALID_QUEUE_SIZE),
        (create_cq(1, 65, memory.iova()), Status::INVALID_QUEUE_SIZE),
        (create_cq(1, 16, memory.iova() + 16), Status::INVALID_PRP_OFFSET),
        (create_cq(1, 16, host.domain.poison_iova()), Status::DATA_TRANSFER_ERROR),
        (with(&|entry| entry.cdw11.set(0)), Status::INVALID_FIELD),
        (with(&|entry| entry.cdw11.set(5 << 16 | 1)), Status::INVALID_INTERRUPT_VECTOR),
        (with(&|entry| entry.set_psdt(1)), Status::INVALID_FIELD),
    ] {
        let found = host.admin(&entry).status();
        assert!(found.is(status) && found.dnr(), "{entry}: {found} instead of {status}");
    }
    assert_eq!(host.admin(&good).status(), Status::SUCCESS);
    assert!(host.admin(&good).status().is(Status::INVALID_QUEUE_IDENTIFIER), "it exists");
}

#[test]
fn each_wrong_submission_queue_is_refused() {
    let mut host = Host::new("queues=4,depth=64");
    let memory = host.buffer(64 * 64, Direction::DeviceReads);
    let completions = host.buffer(64 * 16, Direction::DeviceWrites);
    assert_eq!(host.admin(&create_cq(1, 16, completions.iova())).status(), Status::SUCCESS);
    for (entry, status) in [
        (create_sq(0, 1, 16, memory.iova()), Status::INVALID_QUEUE_IDENTIFIER),
        (create_sq(5, 1, 16, memory.iova()), Status::INVALID_QUEUE_IDENTIFIER),
        (create_sq(1, 0, 16, memory.iova()), Status::INVALID_QUEUE_IDENTIFIER),
        (create_sq(1, 2, 16, memory.iova()), Status::COMPLETION_QUEUE_INVALID),
        (create_sq(1, 9, 16, memory.iova()), Status::INVALID_QUEUE_IDENTIFIER),
        (create_sq(1, 1, 1, memory.iova()), Status::INVALID_QUEUE_SIZE),
        (create_sq(1, 1, 65, memory.iova()), Status::INVALID_QUEUE_SIZE),
        (create_sq(1, 1, 16, memory.iova() + 8), Status::INVALID_PRP_OFFSET),
        (create_sq(1, 1, 16, completions.iova()), Status::DATA_TRANSFER_ERROR),
    ] {
        let found = host.admin(&entry).status();
        assert!(found.is(status) && found.dnr(), "{entry}: {found} instead of {status}");
    }
    assert_eq!(host.admin(&create_sq(1, 1, 16, memory.iova())).status(), Status::SUCCESS);
    assert!(host.admin(&create_sq(1, 1, 16, memory.iova())).status().is(Status::INVALID_QUEUE_IDENTIFIER));
}

#[test]
fn queues_are_refused_while_the_entry_sizes_are_wrong() {
    let mut host = Host::disabled("");
    host.configure(good_configuration().with_iosqes(7).with_iocqes(5));
    let memory = host.buffer(PAGE, Direction::DeviceWrites);
    assert!(host.admin(&create_cq(1, 16, memory.iova())).status().is(Status::INVALID_QUEUE_SIZE));
}

#[test]
fn a_completion_queue_is_deleted_after_its_submission_queues() {
    let mut host = Host::new("");
    let _queue = host.create_queue(3);
    let (delete_sq, delete_cq) = (opcode::admin::DELETE_IO_SQ, opcode::admin::DELETE_IO_CQ);
    assert!(host.admin(&delete(delete_cq, 3)).status().is(Status::INVALID_QUEUE_DELETION));
    assert!(host.admin(&delete(delete_sq, 2)).status().is(Status::INVALID_QUEUE_IDENTIFIER));
    assert!(host.admin(&delete(delete_sq, 0)).status().is(Status::INVALID_QUEUE_IDENTIFIER));
    assert!(host.admin(&delete(delete_cq, 0)).status().is(Status::INVALID_QUEUE_IDENTIFIER));
    assert_eq!(host.admin(&delete(delete_sq, 3)).status(), Status::SUCCESS);
    assert_eq!(host.admin(&delete(delete_cq, 3)).status(), Status::SUCCESS);
    assert!(host.admin(&delete(delete_cq, 3)).status().is(Status::INVALID_QUEUE_IDENTIFIER));
    let mut queue = host.create_queue(3);
    assert_eq!(queue.run(&io_command(opcode::nvm::FLUSH, 0, 1)).status(), Status::SUCCESS);
}

#[test]
fn two_submission_queues_may_share_a_completion_queue() {
    let mut host = Host::new("");
    let mut first = host.create_queue(1);
    let second = Queue::new(&host.domain, &*host.function, 2, ENTRIES, 0);
    assert_eq!(host.admin(&create_sq(2, 1, ENTRIES, second.sq.iova())).status(), Status::SUCCESS);
    let mut second = second;
    let flush = io_command(opcode::nvm::FLUSH, 0, 1);
    first.submit(&SubmissionQueueEntry { cid: 5.into(), ..flush });
    second.submit(&SubmissionQueueEntry { cid: 5.into(), ..flush });
    let completions = [first.poll().unwrap(), first.poll().unwrap()];
    assert_eq!(completions.map(|entry| entry.sq_id.get()), [1, 2]);
}

#[test]
fn queues_wrap_around_and_flip_the_phase() {
    let mut host = Host::new("");
    let mut queue = host.create_queue_of(1, 3);
    for cid in 0..20u16 {
        let entry = SubmissionQueueEntry { cid: cid.into(), ..io_command(opcode::nvm::FLUSH, 0, 1) };
        let completion = queue.run(&entry);
        assert_eq!((completion.sq_id.get(), completion.sq_head.get()), (1, (cid + 1) % 3));
    }
}

#[test]
fn a_full_completion_queue_holds_commands_back_and_loses_none() {
    let mut host = Host::new("");
    let mut queue = Queue::new(&host.domain, &*host.function, 1, ENTRIES, 0);
    assert_eq!(host.admin(&create_cq(1, 4, queue.cq.iova())).status(), Status::SUCCESS);
    assert_eq!(host.admin(&create_sq(1, 1, ENTRIES, queue.sq.iova())).status(), Status::SUCCESS);
    for cid in 0..10u16 {
        queue.put(&SubmissionQueueEntry { cid: cid.into(), ..io_command(opcode::nvm::FLUSH, 0, 1) });
    }
    queue.ring();
    // From here on the completion queue's size counts.
    queue.entries = 4;
    for cid in 0..10 {
        let completion = queue.poll().expect("more was held back");
        assert_eq!(completion.cid.get(), cid);
    }
    assert!(queue.poll().is_none());
}

#[test]
fn an_impossible_doorbell_is_fatal() {
    for (tail, head) in [(16, 0), (u32::MAX, 0), (1, 1), (0, 1), (0, 16)] {
        let mut host = Host::new("");
        let mut queue = host.create_queue(1);
        // An unknown command, which would be completed if the doorbells were accepted.
        queue.put(&SubmissionQueueEntry::new(0x7f));
        queue.sq_doorbell.write(tail);
        queue.cq_doorbell.write(head);
        queue.stepper.step();
        assert!(host.status().cfs(), "tail {tail} head {head}");
        assert!(host.probe.violations() > 0);
        assert!(host.admin.poll().is_none());
        host.configure(ControllerConfiguration::new());
        assert!(!host.status().cfs());
    }
}

#[test]
fn an_entry_that_cannot_be_fetched_is_fatal() {
    let mut host = Host::new("");
    let mut queue = host.create_queue(1);
    // The queue's memory is given back to the domain, and so unmapped, while the drive knows it.
    queue.sq = host.buffer(PAGE, Direction::DeviceReads);
    queue.sq_doorbell.write(1);
    queue.stepper.step();
    assert!(host.status().cfs());
}

#[test]
fn mappings_change_while_a_queue_is_at_work() {
    let mut host = Host::new("size=1MiB");
    let mut queue = host.create_queue(1);
    let data = host.buffer(PAGE, Direction::Bidirectional);
    let domain = host.domain.clone();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                drop(domain.buffer(PAGE, Direction::DeviceReads).unwrap());
            }
        });
        let mut read = io_command(opcode::nvm::READ, 0, 1);
        read.set_prp(data.iova(), 0);
        for _ in 0..2000 {
            assert_eq!(queue.run(&read).status(), Status::SUCCESS);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(host.probe.violations(), 0);
}
