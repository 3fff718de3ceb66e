use std::sync::{Arc, Mutex};
use std::time::Instant;

use gangway_spec::registers::{AQA, CAP, CC, CRTO, CSTS, ControllerConfiguration, ControllerStatus, VS};
use gangway_spec::{Status, SubmissionQueueEntry, nvm, opcode};

use super::*;
use crate::dma::{BufferPool, Direction, DmaBuffer};
use crate::emulated::{EmulatedConfig, EmulatedFunction, EmulatedProbe};
use crate::function::{FunctionError, Stepper};
use crate::mmio::{Doorbell, DoorbellPage};
use crate::queue::SubmitError;

fn small() -> EmulatedConfig {
    EmulatedConfig { size: 16 << 20, block: 512, queues: 3, ..EmulatedConfig::default() }
}

fn start(config: EmulatedConfig, options: Options) -> (Controller, EmulatedProbe) {
    let (function, probe) = EmulatedFunction::with_probe(config, &DmaDomain::new()).unwrap();
    (Controller::start(function, options).unwrap(), probe)
}

fn io(opcode: u8, slba: u64, blocks: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.nsid.set(1);
    nvm::set_slba(&mut entry, slba);
    nvm::set_nlb(&mut entry, blocks);
    entry
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Submits, rings, and reaps until the command is back.
fn run(pair: &mut QueuePair, entry: &SubmissionQueueEntry, data: CommandData) -> Completion {
    pair.submit(entry, data, 1, far()).unwrap();
    pair.ring();
    let mut out = Vec::new();
    while out.is_empty() {
        pair.reap(&mut out).unwrap();
    }
    assert_eq!(out.len(), 1);
    out.remove(0)
}

fn pattern(seed: u64, len: usize) -> impl Iterator<Item = u8> {
    (0..len as u64).map(move |index| (index.wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ seed) >> 29) as u8)
}

fn fill(buffer: &mut DmaBuffer, seed: u64) {
    let len = buffer.len();
    buffer.iter_mut().zip(pattern(seed, len)).for_each(|(byte, value)| *byte = value);
}

#[test]
fn a_started_controller_says_what_it_is_and_what_it_grants() {
    let config = EmulatedConfig { namespaces: 3, mdts: 5, serial: Some("S1".into()), ..small() };
    let (mut controller, probe) = start(config, Options::default());
    assert_eq!(controller.identify().serial(), "S1");
    assert_eq!(controller.max_transfer(), 128 << 10);
    assert_eq!(controller.io_queue_limit(), 3);
    assert_eq!(controller.active_namespaces().unwrap(), [1, 2, 3]);
    let namespace = controller.identify_namespace(2).unwrap();
    assert_eq!((namespace.block_size(), namespace.nsze.get()), (Some(512), 32768));
    drop(controller);
    assert_eq!(probe.violations(), 0);
}

#[test]
fn more_namespaces_than_one_list_holds_are_all_found() {
    let config = EmulatedConfig { namespaces: 1024, size: 1 << 20, ..small() };
    let (mut controller, _probe) = start(config, Options::default());
    assert_eq!(controller.active_namespaces().unwrap(), (1..=1024).collect::<Vec<_>>());
}

#[test]
fn the_options_limit_transfers_and_queues_below_what_the_controller_can() {
    let options = Options { max_transfer: 70_000, io_queues_wanted: 2, queue_depth: 8, ..Options::default() };
    let (mut controller, _probe) = start(small(), options);
    assert_eq!((controller.max_transfer(), controller.io_queue_limit()), (69_632, 2));
    let pair = controller.create_io_queue_pair().unwrap();
    assert_eq!((pair.capacity(), pair.max_transfer(), controller.io_queue_capacity()), (7, 69_632, 7));
}

#[test]
fn a_time_limit_without_end_is_no_overflow() {
    let options = Options { admin_timeout: Duration::MAX, ..Options::default() };
    assert_eq!(start(small(), options).0.active_namespaces().unwrap(), [1]);
}

#[test]
fn a_refused_command_is_an_error_with_its_status_and_its_name() {
    let (mut controller, _probe) = start(small(), Options::default());
    let error = controller.admin(SubmissionQueueEntry::new(0x7e), AdminData::In(512)).unwrap_err();
    assert!(
        matches!(error, ControllerError::Status { status, .. } if status.is(Status::INVALID_OPCODE)),
        "{error}"
    );
    let entry = SubmissionQueueEntry::new(opcode::admin::IDENTIFY);
    let error = controller.admin(entry, AdminData::Out(&[1])).unwrap_err();
    assert!(matches!(error, ControllerError::Rejected { reason: SubmitError::WrongDirection { .. }, .. }));
    assert!(error.to_string().contains("Identify"), "{error}");
}

#[test]
fn as_many_queue_pairs_as_granted_can_be_made_and_made_again() {
    let (mut controller, probe) = start(small(), Options::default());
    let mut pairs: Vec<_> = (0..3).map(|_| controller.create_io_queue_pair().unwrap()).collect();
    assert_eq!(pairs.iter().map(QueuePair::qid).collect::<Vec<_>>(), [1, 2, 3]);
    let error = controller.create_io_queue_pair().unwrap_err();
    assert!(matches!(error, ControllerError::NoMoreQueues { limit: 3, .. }), "{error}");
    let deleted = controller.delete_io_queue_pair(pairs.remove(1)).unwrap();
    assert!(deleted.completed.is_empty() && deleted.outstanding.is_empty());
    let mut again = controller.create_io_queue_pair().unwrap();
    assert_eq!(again.qid(), 2);
    let done = run(&mut again, &io(opcode::nvm::FLUSH, 0, 1), CommandData::None);
    assert!(done.entry.status().is_success());
    drop((pairs, again, controller));
    assert_eq!(probe.violations(), 0);
}

#[test]
fn what_is_written_is_read_back_at_every_length_and_offset_up_to_the_largest_transfer() {
    let (mut controller, probe) = start(EmulatedConfig { mdts: 6, ..small() }, Options::default());
    let domain = controller.domain().clone();
    let mut pair = controller.create_io_queue_pair().unwrap();
    let largest = controller.max_transfer() as usize;
    let mut writes = BufferPool::new(&domain, Direction::DeviceReads, 1 << 20, largest).unwrap();
    let mut reads = BufferPool::new(&domain, Direction::DeviceWrites, 1 << 20, largest).unwrap();
    for blocks in (1..=largest / 512).filter(|n| n % 7 < 3 || n % 8 == 0) {
        let (len, slba) = (blocks * 512, blocks as u64 % 61);
        let mut buffer = writes.take(len).unwrap();
        fill(&mut buffer, blocks as u64);
        let written = run(&mut pair, &io(opcode::nvm::WRITE, slba, blocks as u32), buffer.into());
        assert!(written.entry.status().is_success(), "{}", written.entry.status());
        let CommandData::Buffer(written) = written.data else { panic!("a buffer was given") };
        writes.put(written);
        let buffer = reads.take(len).unwrap();
        let read = run(&mut pair, &io(opcode::nvm::READ, slba, blocks as u32), buffer.into());
        assert!(
            read.data.bytes().iter().copied().eq(pattern(blocks as u64, len)),
            "{blocks} blocks at {slba}"
        );
        let CommandData::Buffer(read) = read.data else { panic!("a buffer was given") };
        reads.put(read);
    }
    assert_eq!(probe.violations(), 0);
}

#[test]
fn a_device_that_moves_more_than_its_memory_faults_and_touches_nothing() {
    let (mut controller, probe) = start(small(), Options::default());
    let domain = controller.domain().clone();
    let mut pair = controller.create_io_queue_pair().unwrap();
    // The command says more blocks than there is memory behind its data pointer.
    for (memory, blocks) in [(512, 16), (4096, 24), (16384, 48)] {
        let buffer = domain.buffer(memory, Direction::DeviceWrites).unwrap();
        let before = probe.violations();
        let done = run(&mut pair, &io(opcode::nvm::READ, 0, blocks), buffer.into());
        assert!(!done.entry.status().is_success(), "{blocks} blocks into {memory} bytes");
        assert!(probe.violations() > before);
    }
}

#[test]
fn deleting_a_queue_pair_gives_the_data_of_outstanding_commands_back() {
    let config = EmulatedConfig { latency: Some(Duration::from_secs(3600)), ..small() };
    let (mut controller, probe) = start(config, Options::default());
    let domain = controller.domain().clone();
    let mut pair = controller.create_io_queue_pair().unwrap();
    for user in 10..13 {
        let buffer = domain.buffer(8192, Direction::DeviceWrites).unwrap();
        pair.submit(&io(opcode::nvm::READ, 0, 16), buffer.into(), user, far()).unwrap();
    }
    pair.ring();
    assert_eq!(pair.reap(&mut Vec::new()), Ok(0));
    let deleted = controller.delete_io_queue_pair(pair).unwrap();
    assert_eq!(
        deleted.completed.iter().map(|done| (done.user, done.data.len())).collect::<Vec<_>>(),
        [(10, 8192), (11, 8192), (12, 8192)]
    );
    assert_eq!(controller.create_io_queue_pair().unwrap().qid(), 1);
    assert_eq!(probe.violations(), 0);
}

#[test]
fn stopping_and_restarting_gives_memory_back_and_makes_a_new_run() {
    let config = EmulatedConfig { latency: Some(Duration::from_secs(3600)), ..small() };
    let (mut controller, probe) = start(config, Options::default());
    let domain = controller.domain().clone();
    let mut old = controller.create_io_queue_pair().unwrap();
    let buffer = domain.buffer(4096, Direction::DeviceReads).unwrap();
    old.submit(&io(opcode::nvm::WRITE, 0, 8), buffer.into(), 77, far()).unwrap();
    old.ring();
    let keep_alive = SubmissionQueueEntry::new(opcode::admin::KEEP_ALIVE);
    controller.admin_queue().submit(&keep_alive, CommandData::None, 5, far()).unwrap();

    let stopped = controller.disable().unwrap();
    assert_eq!(controller.take_aborted_admin().iter().map(|(user, _)| *user).collect::<Vec<_>>(), [5]);
    let rejected = controller.admin_queue().submit(&keep_alive, CommandData::None, 5, far()).unwrap_err();
    assert_eq!(rejected.reason, SubmitError::Stopped);
    let data = old.dismantle(&stopped).unwrap();
    assert_eq!((data[0].0, data[0].1.len()), (77, 4096));

    controller.restart().unwrap();
    assert_eq!(controller.active_namespaces().unwrap(), [1]);
    let new = controller.create_io_queue_pair().unwrap();
    assert_eq!(new.qid(), 1);
    let new = new.dismantle(&stopped).expect_err("the proof is from before it was made");
    controller.delete_io_queue_pair(new).unwrap();
    assert_eq!(probe.violations(), 0);
}

#[test]
fn a_queue_pair_of_an_earlier_run_is_not_deleted_but_given_back() {
    let (mut controller, probe) = start(small(), Options::default());
    let old = controller.create_io_queue_pair().unwrap();
    controller.restart().unwrap();
    let failed = controller.delete_io_queue_pair(old).unwrap_err();
    assert!(matches!(failed.error, ControllerError::ForeignQueue { qid: 1, .. }), "{failed}");
    let stopped = controller.disable().unwrap();
    assert!(failed.pair.dismantle(&stopped).is_ok());
    assert_eq!(probe.violations(), 0);
}

#[test]
fn a_controller_that_is_cut_off_from_memory_is_stopped_and_can_be_restarted() {
    let config = EmulatedConfig { latency: Some(Duration::from_secs(3000)), ..small() };
    let (mut controller, probe) = start(config, Options::default());
    let mut pair = controller.create_io_queue_pair().unwrap();
    let buffer = controller.domain().buffer(4096, Direction::DeviceWrites).unwrap();
    let mut read = SubmissionQueueEntry::new(opcode::nvm::READ);
    read.nsid.set(1);
    pair.submit(&read, CommandData::Buffer(buffer), 7, far()).unwrap();
    pair.ring();
    let stopped = controller.isolate().unwrap();
    let data = pair.dismantle(&stopped).unwrap();
    assert_eq!((data[0].0, data[0].1.len()), (7, 4096));
    controller.restart().unwrap();
    assert_eq!(controller.active_namespaces().unwrap(), [1]);
    assert_eq!(probe.violations(), 0);
}

#[test]
fn a_queue_pair_of_an_earlier_run_does_not_ring_the_doorbells_of_the_next() {
    let (mut controller, probe) = start(small(), Options::default());
    let domain = controller.domain().clone();
    let mut old = controller.create_io_queue_pair().unwrap();
    let flush = io(opcode::nvm::FLUSH, 0, 1);
    old.submit(&flush, CommandData::None, 1, far()).unwrap();
    controller.restart().unwrap();
    let mut new = controller.create_io_queue_pair().unwrap();
    assert_eq!(new.qid(), old.qid());
    for _ in 0..3 {
        let buffer = domain.buffer(512, Direction::DeviceWrites).unwrap();
        assert!(run(&mut new, &io(opcode::nvm::READ, 0, 1), buffer.into()).entry.status().is_success());
    }
    // Its tail would make the device run through the whole queue of the new one.
    old.ring();
    assert!(!old.has_room());
    assert_eq!(old.submit(&flush, CommandData::None, 2, far()).unwrap_err().reason, SubmitError::Stopped);
    assert_eq!(old.reap(&mut Vec::new()), Ok(0));
    assert!(run(&mut new, &flush, CommandData::None).entry.status().is_success());
    let stopped = controller.disable().unwrap();
    let users: Vec<_> = old.dismantle(&stopped).unwrap().iter().map(|(user, _)| *user).collect();
    assert_eq!(users, [1]);
    new.dismantle(&stopped).unwrap();
    assert_eq!(probe.violations(), 0);
}

#[test]
fn a_shutdown_stops_the_controller_and_it_can_be_started_again() {
    let (mut controller, probe) = start(small(), Options::default());
    let pair = controller.create_io_queue_pair().unwrap();
    let Shutdown { stopped, in_order } = controller.shutdown().unwrap();
    assert!(in_order);
    assert!(pair.dismantle(&stopped).unwrap().is_empty());
    controller.restart().unwrap();
    assert_eq!(controller.io_queue_limit(), 3);
    assert_eq!(probe.violations(), 0);
}

#[test]
fn completions_of_other_admin_commands_are_kept_while_one_is_waited_for() {
    let (mut controller, _probe) = start(small(), Options::default());
    let mut entry = SubmissionQueueEntry::new(opcode::admin::IDENTIFY);
    entry.cdw10.set(1);
    for user in [1, 2] {
        let buffer = controller.domain().buffer(4096, Direction::DeviceWrites).unwrap();
        controller.admin_queue().submit(&entry, buffer.into(), user, far()).unwrap();
    }
    assert_eq!(controller.active_namespaces().unwrap(), [1]);
    let mut out = Vec::new();
    assert_eq!(controller.reap_admin(&mut out).unwrap(), 2);
    let users: Vec<_> = out.iter().map(|done| (done.user, done.entry.status().is_success())).collect();
    assert_eq!(users, [(1, true), (2, true)]);
    assert_eq!(controller.reap_admin(&mut out).unwrap(), 0);
}

#[test]
fn a_controller_that_was_left_running_is_reset_at_start() {
    let domain = DmaDomain::new();
    let (function, probe) = EmulatedFunction::with_probe(small(), &domain).unwrap();
    let region = domain.allocate(8192, Direction::Bidirectional).unwrap();
    function.write_register32(AQA, 0x0001_0001).unwrap();
    function.write_register64(gangway_spec::registers::ASQ, region.iova()).unwrap();
    function.write_register64(gangway_spec::registers::ACQ, region.iova() + 4096).unwrap();
    let cc = ControllerConfiguration::new().with_en(true).with_iosqes(6).with_iocqes(4);
    function.write_register32(CC, cc.into_bits()).unwrap();
    assert!(ControllerStatus::from_bits(function.read_register32(CSTS).unwrap()).rdy());
    let mut controller = Controller::start(function, Options::default()).unwrap();
    assert_eq!(controller.active_namespaces().unwrap(), [1]);
    assert_eq!(probe.violations(), 0);
}

#[test]
fn two_controllers_share_a_domain_and_their_proofs_do_not_mix() {
    let domain = DmaDomain::new();
    let start =
        || Controller::start(EmulatedFunction::new(small(), &domain).unwrap(), Options::default()).unwrap();
    let (mut first, mut second) = (start(), start());
    let mut pair = first.create_io_queue_pair().unwrap();
    let mut other = second.create_io_queue_pair().unwrap();
    let mut buffer = domain.buffer(4096, Direction::Bidirectional).unwrap();
    fill(&mut buffer, 3);
    // One buffer goes through both drives: its address is the same for each.
    let done = run(&mut pair, &io(opcode::nvm::WRITE, 0, 8), buffer.into());
    let done = run(&mut other, &io(opcode::nvm::WRITE, 0, 8), done.data);
    assert!(done.entry.status().is_success());
    let pair = pair.dismantle(&second.disable().unwrap()).expect_err("of the other controller");
    assert!(pair.dismantle(&first.disable().unwrap()).is_ok());
}

/// A function whose registers do what a script says, and which never answers a command.
struct Scripted {
    domain: DmaDomain,
    registers: Arc<Mutex<Registers>>,
    dies_of_commands: bool,
}

struct Registers {
    cap: ControllerCapabilities,
    cc: u32,
    csts: u32,
    crto: u32,
    /// What CSTS becomes when CC is written.
    on_cc: fn(ControllerConfiguration) -> u32,
}

impl Function for Scripted {
    fn name(&self) -> &str {
        "scripted:0"
    }

    fn domain(&self) -> &DmaDomain {
        &self.domain
    }

    fn read_register32(&self, offset: u32) -> Result<u32, FunctionError> {
        let registers = self.registers.lock().unwrap();
        let cap = registers.cap.into_bits();
        Ok(match offset {
            CAP => cap as u32,
            4 => (cap >> 32) as u32,
            VS => 0x0001_0400,
            CC => registers.cc,
            CSTS => registers.csts,
            CRTO => registers.crto,
            _ => 0,
        })
    }

    fn forbid_dma(&self) -> Result<(), FunctionError> {
        Ok(())
    }

    fn write_register32(&self, offset: u32, value: u32) -> Result<(), FunctionError> {
        if offset == CC {
            let mut registers = self.registers.lock().unwrap();
            registers.cc = value;
            registers.csts = (registers.on_cc)(ControllerConfiguration::from_bits(value));
        }
        Ok(())
    }

    fn doorbell(&self, _: u32) -> Result<Doorbell, FunctionError> {
        Ok(Doorbell::in_memory(DoorbellPage::new(1), 0).unwrap())
    }

    fn stepper(&self, _: u16) -> Option<Box<dyn Stepper>> {
        self.dies_of_commands.then(|| Box::new(Dying(Arc::clone(&self.registers))) as Box<dyn Stepper>)
    }
}

/// Stops with a fatal status when a command comes.
struct Dying(Arc<Mutex<Registers>>);

impl Stepper for Dying {
    fn step(&mut self) {
        self.0.lock().unwrap().csts |= CFS;
    }
}

const RDY: u32 = 1;
const CFS: u32 = 2;

fn obedient(cc: ControllerConfiguration) -> u32 {
    u32::from(cc.en())
}

fn scripted(on_cc: fn(ControllerConfiguration) -> u32) -> (Box<Scripted>, Arc<Mutex<Registers>>) {
    let cap =
        ControllerCapabilities::new().with_mqes(63).with_to(1).with_css(ControllerCapabilities::CSS_NVM);
    let registers = Arc::new(Mutex::new(Registers { cap, cc: 0, csts: 0, crto: 0, on_cc }));
    (
        Box::new(Scripted {
            domain: DmaDomain::new(),
            registers: Arc::clone(&registers),
            dies_of_commands: false,
        }),
        registers,
    )
}

fn failed(function: Box<Scripted>) -> ControllerError {
    let options = Options { admin_timeout: Duration::from_millis(20), ..Options::default() };
    Controller::start(function, options).unwrap_err()
}

#[test]
fn a_controller_that_never_gets_ready_is_given_up_after_its_own_time_limit() {
    let error = failed(scripted(|_| 0).0);
    let limit = Duration::from_secs(1);
    assert!(matches!(&error, ControllerError::Timeout { limit: l, .. } if *l == limit), "{error}");
}

#[test]
fn the_time_to_get_ready_is_the_longer_one_stated_but_not_hours() {
    let (function, registers) = scripted(obedient);
    let cap = ControllerCapabilities::new().with_to(255);
    let limit = |crms, crto| {
        registers.lock().unwrap().crto = crto;
        super::registers::Registers::new(&*function).ready_timeout(cap.with_crms(crms)).unwrap().as_secs()
    };
    assert_eq!(limit(0, 999), 128, "CRTO is not there");
    assert_eq!((limit(1, 0), limit(1, 0xffff_0000)), (128, 128), "CRWMT is not stated");
    assert_eq!((limit(1, 599), limit(1, 0xffff)), (300, 600));
    // CRIMT counts where the controller cannot wait for its media.
    assert_eq!((limit(3, 599 << 16), limit(2, 599 << 16), limit(2, 599)), (128, 300, 128));
}

#[test]
fn a_controller_that_does_not_stop_is_given_up_before_anything_is_given_to_it() {
    let (function, registers) = scripted(|_| RDY);
    registers.lock().unwrap().csts = RDY;
    let error = failed(function);
    assert!(error.to_string().contains("CSTS.RDY to 0"), "{error}");
    assert_eq!(registers.lock().unwrap().cc, 0);
}

#[test]
fn a_fatal_status_while_enabling_is_an_error_at_once() {
    let error = failed(scripted(|cc| if cc.en() { CFS } else { 0 }).0);
    assert!(matches!(error, ControllerError::Fatal { .. }), "{error}");
}

#[test]
fn registers_that_read_all_ones_mean_that_the_device_is_gone() {
    let (function, registers) = scripted(obedient);
    registers.lock().unwrap().cap = ControllerCapabilities::from_bits(u64::MAX);
    let error = failed(function);
    assert!(matches!(error, ControllerError::Function(FunctionError::Gone { .. })), "{error}");
    let error = failed(scripted(|cc| if cc.en() { u32::MAX } else { 0 }).0);
    assert!(matches!(error, ControllerError::Function(FunctionError::Gone { .. })), "{error}");
}

#[test]
fn a_controller_that_cannot_be_driven_says_why() {
    let (function, registers) = scripted(obedient);
    {
        let mut registers = registers.lock().unwrap();
        registers.cap = registers.cap.with_mpsmin(4).with_mpsmax(4);
    }
    let error = failed(function);
    assert!(error.to_string().contains("65536 bytes"), "{error}");
    let (function, registers) = scripted(obedient);
    {
        let mut registers = registers.lock().unwrap();
        registers.cap = registers.cap.with_css(ControllerCapabilities::CSS_ADMIN_ONLY);
    }
    let error = failed(function);
    assert!(error.to_string().contains("command set"), "{error}");
}

#[test]
fn a_command_that_is_never_answered_times_out_and_the_controller_is_stopped() {
    let (function, registers) = scripted(obedient);
    let error = failed(function);
    assert!(matches!(error, ControllerError::Timeout { .. }), "{error}");
    assert!(error.to_string().contains("Identify"), "{error}");
    let registers = registers.lock().unwrap();
    assert_eq!((registers.cc & 1, registers.csts), (0, 0), "nothing is left running");
}

#[test]
fn a_command_that_a_controller_dies_of_is_an_error_before_its_time_limit() {
    let (mut function, _registers) = scripted(obedient);
    function.dies_of_commands = true;
    let options = Options { admin_timeout: Duration::from_secs(3600), ..Options::default() };
    let error = Controller::start(function, options).unwrap_err();
    assert!(matches!(error, ControllerError::Fatal { .. }), "{error}");
    assert!(error.to_string().contains("Identify"), "{error}");
}

#[test]
fn what_crosses_threads_may_cross_threads() {
    fn send<T: Send>() {}
    fn shared<T: Send + Sync>() {}
    send::<Controller>();
    send::<QueuePair>();
    send::<Completion>();
    send::<BufferPool>();
    shared::<DmaDomain>();
    shared::<Stopped>();
}

/// An emulated function that would interrupt: it hands out eventfds, up to as many as it has.
struct Interrupting {
    function: Box<dyn Function>,
    vectors: u16,
}

impl Function for Interrupting {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn domain(&self) -> &DmaDomain {
        self.function.domain()
    }

    fn read_register32(&self, offset: u32) -> Result<u32, FunctionError> {
        self.function.read_register32(offset)
    }

    fn forbid_dma(&self) -> Result<(), FunctionError> {
        self.function.forbid_dma()
    }

    fn write_register32(&self, offset: u32, value: u32) -> Result<(), FunctionError> {
        self.function.write_register32(offset, value)
    }

    fn doorbell(&self, offset: u32) -> Result<Doorbell, FunctionError> {
        self.function.doorbell(offset)
    }

    fn enable_interrupts(&self, vectors: u16) -> Result<Vec<Interrupt>, FunctionError> {
        let eventfd = || {
            let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
            rustix::event::eventfd(0, flags).unwrap()
        };
        Ok((0..vectors.min(self.vectors)).map(|_| Interrupt::new(Arc::new(eventfd()))).collect())
    }

    fn stepper(&self, qid: u16) -> Option<Box<dyn Stepper>> {
        self.function.stepper(qid)
    }
}

/// The descriptors that the three I/O queue pairs of a controller signal whose function has so many vectors.
fn signals(vectors: u16, interrupts: bool) -> Vec<Option<i32>> {
    use std::os::fd::{AsFd, AsRawFd};
    let function = EmulatedFunction::new(small(), &DmaDomain::new()).unwrap();
    let options = Options { interrupts, ..Options::default() };
    let mut controller = Controller::start(Box::new(Interrupting { function, vectors }), options).unwrap();
    let pairs: Vec<QueuePair> = (0..3).map(|_| controller.create_io_queue_pair().unwrap()).collect();
    let signals =
        pairs.iter().map(|pair| pair.interrupt().map(|signal| signal.as_fd().as_raw_fd())).collect();
    for pair in pairs {
        controller.delete_io_queue_pair(pair).unwrap();
    }
    signals
}

#[test]
fn every_queue_has_a_vector_of_its_own_while_there_are_enough() {
    let all = signals(100, true);
    assert!(all.iter().all(Option::is_some));
    assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2], "{all:?}");
    let shared = signals(3, true);
    assert!(shared[0] != shared[1] && shared[0] == shared[2], "{shared:?}");
    let all_on_one = signals(2, true);
    assert!(all_on_one[0].is_some() && all_on_one == [all_on_one[0]; 3], "{all_on_one:?}");
    assert_eq!(signals(1, true), [None; 3], "the admin queue's vector has a reader already");
}

#[test]
fn the_admin_queue_has_the_first_vector_and_an_interrupt_that_got_lost_delays_it_only() {
    let function = EmulatedFunction::new(small(), &DmaDomain::new()).unwrap();
    let options = Options { interrupts: true, ..Options::default() };
    let mut controller = Controller::start(Box::new(Interrupting { function, vectors: 4 }), options).unwrap();
    assert!(controller.admin_interrupt().is_some());
    assert_eq!(controller.abort(1, 1).unwrap(), AbortOutcome::NotAborted);
}

#[test]
fn queues_do_not_interrupt_unless_asked_for_and_able_to() {
    assert_eq!(signals(100, false), [None; 3]);
    assert_eq!(signals(0, true), [None; 3]);
}

#[cfg(feature = "tokio")]
#[tokio::test(flavor = "current_thread")]
async fn who_sleeps_until_a_queue_pair_interrupts_hears_that_the_controller_was_stopped() {
    use crate::asynchronous::{AsyncQueue, QueueEnded};

    let mut config = small();
    config.latency = Some(Duration::from_secs(3600));
    let function = EmulatedFunction::new(config, &DmaDomain::new()).unwrap();
    let options = Options { interrupts: true, ..Options::default() };
    let mut controller = Controller::start(Box::new(Interrupting { function, vectors: 4 }), options).unwrap();
    let queue = AsyncQueue::new(controller.create_io_queue_pair().unwrap());
    let local = tokio::task::LocalSet::new();
    let drive = local.spawn_local(queue.drive());
    let mut entry = SubmissionQueueEntry::new(opcode::nvm::FLUSH);
    entry.nsid.set(1);
    let command = queue.execute(&entry, CommandData::None, Duration::from_secs(1));
    let command = local.spawn_local(command);
    let stopped = local
        .run_until(async {
            // So long that it sleeps.
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
            assert_eq!(queue.outstanding(), 1);
            let stopped = controller.disable().unwrap();
            for _ in 0..10_000 {
                tokio::task::yield_now().await;
            }
            assert!(drive.is_finished() && command.is_finished(), "they sleep for ever");
            assert_eq!(drive.await.unwrap(), QueueEnded::Stopped);
            assert!(command.await.unwrap().is_err());
            stopped
        })
        .await;
    drop(local);
    queue.into_pair().unwrap().dismantle(&stopped).unwrap();
}
