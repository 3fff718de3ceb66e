//! The emulated drive, driven by hand: registers, doorbells and queue entries, so that every wrong thing can be done.

mod admin;
mod data;
mod enabling;
mod faults;
mod firmware;
mod formats;
mod fuzz;
mod io;
mod namespaces;
mod queues;
mod sanitize;
mod scatter;
mod self_test;
mod telemetry;
mod vendor;
mod zones;

use gangway_spec::registers::{self, ControllerConfiguration, ControllerStatus};
use gangway_spec::{CompletionQueueEntry, Status, SubmissionQueueEntry, nvm, opcode};
use zerocopy::{FromBytes, IntoBytes};

use super::{EmulatedFunction, EmulatedProbe};
use crate::dma::{Direction, DmaBuffer, DmaDomain};
use crate::function::{Function, Stepper};
use crate::mmio::Doorbell;

const PAGE: usize = 4096;
/// Entries of the admin queues and, where a test does not say otherwise, of I/O queues.
const ENTRIES: u16 = 16;

/// CC as a host writes it to enable a controller.
fn good_configuration() -> ControllerConfiguration {
    ControllerConfiguration::new().with_en(true).with_iosqes(6).with_iocqes(4)
}

/// A queue pair from the host's side.
struct Queue {
    sq: DmaBuffer,
    cq: DmaBuffer,
    entries: usize,
    tail: usize,
    head: usize,
    phase: bool,
    sq_doorbell: Doorbell,
    cq_doorbell: Doorbell,
    stepper: Box<dyn Stepper>,
}

impl Queue {
    fn new(domain: &DmaDomain, function: &dyn Function, qid: u16, entries: u16, stride: u8) -> Self {
        let sq_doorbell = registers::submission_queue_tail_doorbell(qid, stride);
        let cq_doorbell = registers::completion_queue_head_doorbell(qid, stride);
        Self {
            sq: domain.buffer(usize::from(entries) * 64, Direction::DeviceReads).unwrap(),
            cq: domain.buffer(usize::from(entries) * 16, Direction::DeviceWrites).unwrap(),
            entries: entries.into(),
            tail: 0,
            head: 0,
            phase: true,
            sq_doorbell: function.doorbell(sq_doorbell).unwrap(),
            cq_doorbell: function.doorbell(cq_doorbell).unwrap(),
            stepper: function.stepper(qid).unwrap(),
        }
    }

    /// Puts a command on the queue, without ringing.
    fn put(&mut self, entry: &SubmissionQueueEntry) {
        self.sq[self.tail * 64..][..64].copy_from_slice(entry.as_bytes());
        self.tail = (self.tail + 1) % self.entries;
    }

    fn ring(&mut self) {
        self.sq_doorbell.write(self.tail as u32);
        self.stepper.step();
    }

    fn submit(&mut self, entry: &SubmissionQueueEntry) {
        self.put(entry);
        self.ring();
    }

    /// Takes the next completion, if there is one, and rings.
    fn poll(&mut self) -> Option<CompletionQueueEntry> {
        self.stepper.step();
        let entry = CompletionQueueEntry::read_from_bytes(&self.cq[self.head * 16..][..16]).unwrap();
        if entry.phase() != self.phase {
            return None;
        }
        self.head = (self.head + 1) % self.entries;
        self.phase ^= self.head == 0;
        self.cq_doorbell.write(self.head as u32);
        Some(entry)
    }

    fn run(&mut self, entry: &SubmissionQueueEntry) -> CompletionQueueEntry {
        self.submit(entry);
        let completion = self.poll().expect("the drive completes at once");
        assert_eq!(completion.cid, entry.cid);
        completion
    }
}

/// A drive that is enabled, with its admin queue.
struct Host {
    domain: DmaDomain,
    function: Box<dyn Function>,
    probe: EmulatedProbe,
    stride: u8,
    admin: Queue,
}

impl Host {
    /// A drive with its admin queues set up, not enabled yet.
    fn disabled(options: &str) -> Self {
        let domain = DmaDomain::new();
        let config: super::EmulatedConfig = options.parse().unwrap();
        let stride = config.stride;
        let (function, probe) = EmulatedFunction::with_probe(config, &domain).unwrap();
        let admin = Queue::new(&domain, &*function, 0, ENTRIES, stride);
        let host = Self { domain, function, probe, stride, admin };
        let sizes = u32::from(ENTRIES - 1) << 16 | u32::from(ENTRIES - 1);
        host.function.write_register32(registers::AQA, sizes).unwrap();
        host.function.write_register64(registers::ASQ, host.admin.sq.iova()).unwrap();
        host.function.write_register64(registers::ACQ, host.admin.cq.iova()).unwrap();
        host
    }

    fn new(options: &str) -> Self {
        let host = Self::disabled(options);
        host.configure(good_configuration());
        let status = host.status();
        assert!(status.rdy() && !status.cfs(), "{status:?}");
        host
    }

    /// Enables a controller that was disabled again, with the same admin queues.
    fn start_again(&mut self) {
        (self.admin.tail, self.admin.head, self.admin.phase) = (0, 0, true);
        self.admin.cq.fill(0);
        let sizes = u32::from(ENTRIES - 1) << 16 | u32::from(ENTRIES - 1);
        self.function.write_register32(registers::AQA, sizes).unwrap();
        self.function.write_register64(registers::ASQ, self.admin.sq.iova()).unwrap();
        self.function.write_register64(registers::ACQ, self.admin.cq.iova()).unwrap();
        self.configure(good_configuration());
    }

    fn configure(&self, configuration: ControllerConfiguration) {
        self.function.write_register32(registers::CC, configuration.into_bits()).unwrap();
    }

    fn status(&self) -> ControllerStatus {
        ControllerStatus::from_bits(self.function.read_register32(registers::CSTS).unwrap())
    }

    fn buffer(&self, len: usize, direction: Direction) -> DmaBuffer {
        self.domain.buffer(len, direction).unwrap()
    }

    /// Runs an admin command that moves no data.
    fn admin(&mut self, entry: &SubmissionQueueEntry) -> CompletionQueueEntry {
        self.admin.run(entry)
    }

    /// Runs an admin command that returns `len` bytes.
    fn admin_read(&mut self, entry: &SubmissionQueueEntry, len: usize) -> Result<Vec<u8>, Status> {
        let mut buffer = self.buffer(len, Direction::DeviceWrites);
        buffer.fill(0xee);
        let mut entry = *entry;
        let iova = buffer.iova();
        entry.set_prp(iova, iova + PAGE as u64);
        assert!(len <= 2 * PAGE);
        self.admin(&entry).status().into_result()?;
        Ok(buffer[..len].to_vec())
    }

    /// Runs an admin command that takes these bytes: a page at most, of which the rest is whatever it is.
    fn admin_write(&mut self, mut entry: SubmissionQueueEntry, bytes: &[u8]) -> Result<u32, Status> {
        let mut buffer = self.buffer(PAGE, Direction::DeviceReads);
        buffer[..bytes.len()].copy_from_slice(bytes);
        entry.set_prp(buffer.iova(), 0);
        let completion = self.admin(&entry);
        completion.status().into_result().map(|()| completion.dw0.get())
    }

    fn identify(&mut self, cns: u8, nsid: u32) -> Result<Vec<u8>, Status> {
        let mut entry = SubmissionQueueEntry::new(opcode::admin::IDENTIFY);
        entry.nsid.set(nsid);
        entry.cdw10.set(cns.into());
        self.admin_read(&entry, PAGE)
    }

    fn create_queue(&mut self, qid: u16) -> Queue {
        self.create_queue_of(qid, ENTRIES)
    }

    fn create_queue_of(&mut self, qid: u16, entries: u16) -> Queue {
        let queue = Queue::new(&self.domain, &*self.function, qid, entries, self.stride);
        let status = self.admin(&create_cq(qid, entries, queue.cq.iova())).status();
        assert!(status.is_success(), "{status}");
        let status = self.admin(&create_sq(qid, qid, entries, queue.sq.iova())).status();
        assert!(status.is_success(), "{status}");
        queue
    }
}

fn create_cq(qid: u16, entries: u16, iova: u64) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode::admin::CREATE_IO_CQ);
    entry.cdw10.set(u32::from(entries - 1) << 16 | u32::from(qid));
    entry.cdw11.set(1);
    entry.set_prp(iova, 0);
    entry
}

fn create_sq(qid: u16, cqid: u16, entries: u16, iova: u64) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode::admin::CREATE_IO_SQ);
    entry.cdw10.set(u32::from(entries - 1) << 16 | u32::from(qid));
    entry.cdw11.set(u32::from(cqid) << 16 | 1);
    entry.set_prp(iova, 0);
    entry
}

fn delete(opcode: u8, qid: u16) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.cdw10.set(qid.into());
    entry
}

/// A read, write or similar of `blocks` blocks from `slba` on in namespace 1, without data pointer.
fn io_command(opcode: u8, slba: u64, blocks: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.nsid.set(1);
    nvm::set_slba(&mut entry, slba);
    nvm::set_nlb(&mut entry, blocks);
    entry
}

/// Bytes that differ from place to place and from seed to seed.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(step).collect()
}
