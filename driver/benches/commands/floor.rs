//! The floor: entries, doorbells and completions, and nothing else.

use std::hint::black_box;
use std::ptr;
use std::sync::atomic::{Ordering, fence};

use gangway_driver::{Direction, DmaBuffer, Doorbell, Function, Stepper};
use gangway_spec::registers::{
    ACQ, AQA, ASQ, CC, CSTS, ControllerConfiguration, completion_queue_head_doorbell,
    submission_queue_tail_doorbell,
};
use gangway_spec::{CompletionQueueEntry, SubmissionQueueEntry, opcode};

use crate::{BLOCK, Subject, read};

/// Entries of every queue.
const ENTRIES: u16 = 256;

/// A drive whose queues were programmed by hand.
pub(crate) struct Floor {
    queue: Queue,
    data: DmaBuffer,
    depth: usize,
    // After the queues: it goes first, or they would be memory of a running drive no more.
    _admin: Queue,
    function: Box<dyn Function>,
}

/// A submission and a completion queue, and what drives them.
struct Queue {
    sq: DmaBuffer,
    cq: DmaBuffer,
    tail: u16,
    head: u16,
    phase: bool,
    tail_doorbell: Doorbell,
    head_doorbell: Doorbell,
    stepper: Option<Box<dyn Stepper>>,
}

impl Floor {
    pub(crate) fn new(function: Box<dyn Function>, depth: usize) -> Self {
        assert!(depth < usize::from(ENTRIES));
        let write = |offset, value| function.write_register32(offset, value).expect("a register");
        let mut admin = Queue::new(&*function, 0);
        write(AQA, u32::from(ENTRIES - 1) << 16 | u32::from(ENTRIES - 1));
        function.write_register64(ASQ, admin.sq.iova()).expect("a register");
        function.write_register64(ACQ, admin.cq.iova()).expect("a register");
        write(CC, ControllerConfiguration::new().with_en(true).with_iosqes(6).with_iocqes(4).into_bits());
        while function.read_register32(CSTS).expect("a register") & 1 == 0 {}
        admin.stepper = function.stepper(0);

        let mut queue = Queue::new(&*function, 1);
        for (opcode, iova, cdw11) in [
            (opcode::admin::CREATE_IO_CQ, queue.cq.iova(), 1),
            (opcode::admin::CREATE_IO_SQ, queue.sq.iova(), 1 << 16 | 1),
        ] {
            let mut entry = SubmissionQueueEntry::new(opcode);
            entry.cdw10.set(u32::from(ENTRIES - 1) << 16 | 1);
            entry.cdw11.set(cdw11);
            entry.set_prp(iova, 0);
            admin.push(&entry);
            admin.ring();
            while admin.reap() == 0 {}
        }
        queue.stepper = function.stepper(1);
        let data = function.domain().buffer(BLOCK, Direction::DeviceWrites).expect("memory");
        Self { queue, data, depth, _admin: admin, function }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // The drive must not know of the queues when their memory is freed.
        let disabled = self.function.write_register32(CC, 0);
        assert!(disabled.is_ok() && self.function.read_register32(CSTS).is_ok_and(|csts| csts & 1 == 0));
    }
}

impl Subject for Floor {
    fn run(&mut self, commands: usize) {
        let mut number = 0;
        while number < commands {
            for slot in 0..self.depth {
                let mut entry = read(number);
                entry.cid.set(slot as u16);
                entry.set_prp(self.data.iova(), 0);
                self.queue.push(&entry);
                number += 1;
            }
            self.queue.ring();
            let mut left = self.depth;
            while left > 0 {
                left -= self.queue.reap();
            }
        }
    }
}

impl Queue {
    fn new(function: &dyn Function, qid: u16) -> Self {
        let memory = |entry: usize, direction| {
            function.domain().buffer(entry * usize::from(ENTRIES), direction).expect("memory")
        };
        let mut cq = memory(size_of::<CompletionQueueEntry>(), Direction::DeviceWrites);
        cq.fill(0);
        Self {
            sq: memory(size_of::<SubmissionQueueEntry>(), Direction::DeviceReads),
            cq,
            tail: 0,
            head: 0,
            phase: true,
            tail_doorbell: function.doorbell(submission_queue_tail_doorbell(qid, 0)).expect("a doorbell"),
            head_doorbell: function.doorbell(completion_queue_head_doorbell(qid, 0)).expect("a doorbell"),
            stepper: None,
        }
    }

    fn push(&mut self, entry: &SubmissionQueueEntry) {
        let place = self.sq.as_mut_ptr().cast::<SubmissionQueueEntry>();
        // SAFETY: the tail is below the number of entries that the memory was made for; the drive, which is stepped by
        // this thread, looks at them when it is rung.
        unsafe { place.add(self.tail.into()).write_volatile(*entry) };
        self.tail = (self.tail + 1) % ENTRIES;
    }

    fn ring(&mut self) {
        fence(Ordering::Release);
        self.tail_doorbell.write(self.tail.into());
        self.step();
    }

    fn step(&mut self) {
        if let Some(stepper) = &mut self.stepper {
            stepper.step();
        }
    }

    fn reap(&mut self) -> usize {
        self.step();
        let mut count = 0;
        loop {
            let place = self.cq.as_ptr().cast::<CompletionQueueEntry>().wrapping_add(self.head.into());
            // SAFETY: the head is below the number of entries that the memory was made for, and the last dword of an
            // entry is aligned to four bytes.
            let last = unsafe { ptr::read_volatile(place.cast::<u32>().add(3)) };
            if (last >> 16 & 1 == 1) != self.phase {
                break;
            }
            fence(Ordering::Acquire);
            // SAFETY: as above; its phase says that the drive has written it.
            let entry = unsafe { ptr::read_volatile(place) };
            assert!(black_box(entry.status()).is_success());
            self.head += 1;
            if self.head == ENTRIES {
                self.head = 0;
                self.phase = !self.phase;
            }
            count += 1;
        }
        if count > 0 {
            self.head_doorbell.write(self.head.into());
        }
        count
    }
}
