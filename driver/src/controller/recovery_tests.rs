//! What happens when commands, queues or the whole controller fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gangway_spec::aen::{self, AsyncEvent};
use gangway_spec::feature::fid;
use gangway_spec::log::{SmartLog, lid};
use gangway_spec::registers::{CSTS, NSSR};
use gangway_spec::{Status, SubmissionQueueEntry, opcode};

use super::*;
use crate::dma::Direction;
use crate::emulated::{EmulatedConfig, EmulatedFunction, EmulatedProbe};
use crate::function::{FunctionError, Stepper};
use crate::mmio::Doorbell;

const SLOW: Option<Duration> = Some(Duration::from_secs(3600));

fn config(latency: Option<Duration>) -> EmulatedConfig {
    EmulatedConfig { size: 16 << 20, block: 512, queues: 3, latency, ..EmulatedConfig::default() }
}

fn hasty() -> Options {
    Options { admin_timeout: Duration::from_millis(30), ..Options::default() }
}

fn start(latency: Option<Duration>) -> (Controller, EmulatedProbe) {
    let (function, probe) = EmulatedFunction::with_probe(config(latency), &DmaDomain::new()).unwrap();
    (Controller::start(function, Options::default()).unwrap(), probe)
}

/// Submits a Write of one page and gives its identifier.
fn write(controller: &Controller, pair: &mut QueuePair, user: u64) -> u16 {
    let mut entry = SubmissionQueueEntry::new(opcode::nvm::WRITE);
    entry.nsid.set(1);
    let buffer = controller.domain().buffer(512, Direction::DeviceReads).unwrap();
    let (now, deadline) = (Instant::now(), Instant::now() + Duration::from_millis(1));
    pair.submit(&entry, buffer.into(), user, deadline).unwrap();
    pair.ring();
    pair.overdue(now + Duration::from_secs(1)).unwrap().cid
}

#[test]
fn a_command_that_the_controller_still_has_is_aborted() {
    let (mut controller, probe) = start(SLOW);
    let mut pair = controller.create_io_queue_pair().unwrap();
    let cid = write(&controller, &mut pair, 7);
    assert_eq!(controller.abort(1, cid).unwrap(), AbortOutcome::Aborted);
    let mut out = Vec::new();
    pair.reap(&mut out).unwrap();
    assert_eq!((out[0].user, out[0].data.len()), (7, 512), "its memory is back");
    assert!(out[0].entry.status().is(Status::ABORT_REQUESTED));
    assert_eq!(controller.abort(1, cid).unwrap(), AbortOutcome::NotAborted, "it is gone");
    assert_eq!(controller.abort(77, 0).unwrap(), AbortOutcome::NotAborted, "there is no such queue");
    assert_eq!(probe.violations(), 0);
}

#[test]
fn the_answer_to_an_earlier_abort_is_not_taken_for_that_of_this_one() {
    let (mut controller, _probe) = start(SLOW);
    let mut pair = controller.create_io_queue_pair().unwrap();
    let cid = write(&controller, &mut pair, 7);
    controller.submit_abort(1, cid, None).unwrap();
    settle(&mut controller);
    assert_eq!(controller.abort(1, cid).unwrap(), AbortOutcome::NotAborted, "it is gone");
    assert!(controller.take_abort_answers().is_empty());
    controller.delete_io_queue_pair(pair).unwrap();
}

#[test]
fn no_more_aborts_are_outstanding_than_the_controller_takes() {
    let (mut controller, _probe) = start(SLOW);
    let limit = controller.abort_limit();
    assert_eq!(limit, usize::from(controller.identify().acl) + 1);
    for cid in 0..limit as u16 {
        controller.submit_abort(1, cid, None).unwrap();
    }
    let error = controller.submit_abort(1, 99, None).unwrap_err();
    assert!(matches!(error, ControllerError::TooManyAborts { limit: l, .. } if l == limit), "{error}");

    // One that is waited for waits for room too, and leaves the answers of the others.
    assert_eq!(controller.abort(1, 500).unwrap(), AbortOutcome::NotAborted);
    let mut callers = Vec::new();
    assert_eq!(
        controller.reap_admin(&mut callers).unwrap(),
        0,
        "callers see no answers to what is not theirs"
    );
    let answers = controller.take_abort_answers();
    assert_eq!(
        answers.iter().map(|answer| answer.cid).collect::<Vec<_>>(),
        (0..limit as u16).collect::<Vec<_>>()
    );
    assert!(answers.iter().all(|answer| answer.qid == 1 && answer.outcome == AbortOutcome::NotAborted));
    assert!(controller.take_abort_answers().is_empty());
}

#[test]
fn a_reset_forgets_the_aborts_that_were_not_answered() {
    let (mut controller, rig) = rigged(Options::default());
    for cid in 0..controller.abort_limit() as u16 {
        rig.set_deaf(true);
        controller.submit_abort(1, cid, None).unwrap();
    }
    rig.set_deaf(false);
    controller.restart().unwrap();
    assert!(controller.take_aborted_admin().is_empty(), "they are nobody's");
    assert!(controller.take_abort_answers().is_empty());
    controller.submit_abort(1, 1, None).unwrap();
}

#[test]
fn deleting_a_queue_gives_back_what_completed_and_what_was_outstanding() {
    let (mut controller, probe) = start(SLOW);
    let mut pair = controller.create_io_queue_pair().unwrap();
    let first = write(&controller, &mut pair, 1);
    write(&controller, &mut pair, 2);
    assert_eq!(controller.abort(1, first).unwrap(), AbortOutcome::Aborted);
    let deleted = controller.delete_io_queue_pair(pair).unwrap();
    let statuses: Vec<_> = deleted.completed.iter().map(|done| (done.user, done.entry.status())).collect();
    assert_eq!(statuses.len(), 2, "the emulated drive completes what it ends: {statuses:?}");
    assert!(statuses[0].1.is(Status::ABORT_REQUESTED) && statuses[1].1.is(Status::ABORTED_SQ_DELETION));
    assert!(deleted.outstanding.is_empty());
    assert_eq!(controller.create_io_queue_pair().unwrap().qid(), 1);
    assert_eq!(probe.violations(), 0);
}

/// What can be done to a [`Rigged`] function.
#[derive(Debug, Default)]
struct Rig {
    /// The admin queue ignores its doorbell.
    deaf: AtomicBool,
    /// Bits that CSTS has in addition.
    csts: AtomicU32,
    /// It answers nothing, and is to be given back.
    gone: AtomicBool,
    /// It cannot be reset alone.
    unresettable: AtomicBool,
    /// An NVM subsystem reset takes its link down, for so many attempts to revive it.
    down_for: AtomicU32,
}

impl Rig {
    fn set_deaf(&self, deaf: bool) {
        self.deaf.store(deaf, Ordering::Relaxed);
    }

    fn set_csts(&self, bits: u32) {
        self.csts.store(bits, Ordering::Relaxed);
    }
}

/// An emulated function that misbehaves when it is told to.
struct Rigged {
    function: Box<dyn Function>,
    rig: Arc<Rig>,
}

struct RiggedStepper {
    stepper: Box<dyn Stepper>,
    rig: Arc<Rig>,
}

impl Stepper for RiggedStepper {
    fn step(&mut self) {
        if !self.rig.deaf.load(Ordering::Relaxed) {
            self.stepper.step();
        }
    }
}

impl Rigged {
    fn check(&self) -> Result<(), FunctionError> {
        if self.rig.gone.load(Ordering::Relaxed) {
            return Err(FunctionError::Gone { function: self.function.name().to_owned() });
        }
        Ok(())
    }
}

impl Function for Rigged {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn domain(&self) -> &DmaDomain {
        self.function.domain()
    }

    fn read_register32(&self, offset: u32) -> Result<u32, FunctionError> {
        self.check()?;
        let value = self.function.read_register32(offset)?;
        Ok(if offset == CSTS { value | self.rig.csts.load(Ordering::Relaxed) } else { value })
    }

    fn write_register32(&self, offset: u32, value: u32) -> Result<(), FunctionError> {
        self.function.write_register32(offset, value)?;
        if offset == NSSR && self.rig.down_for.load(Ordering::Relaxed) > 0 {
            self.rig.gone.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn doorbell(&self, offset: u32) -> Result<Doorbell, FunctionError> {
        self.function.doorbell(offset)
    }

    fn forbid_dma(&self) -> Result<(), FunctionError> {
        self.check()?;
        self.function.forbid_dma()
    }

    fn close(self: Box<Self>) -> Result<(), FunctionError> {
        self.function.close()
    }

    fn can_reset(&self) -> bool {
        !self.rig.unresettable.load(Ordering::Relaxed)
    }

    fn reset(&self) -> Result<(), FunctionError> {
        self.function.reset()
    }

    fn revive(&self) -> Result<(), FunctionError> {
        if self.rig.down_for.load(Ordering::Relaxed) > 0 {
            self.rig.down_for.fetch_sub(1, Ordering::Relaxed);
            return Err(FunctionError::Gone { function: self.function.name().to_owned() });
        }
        self.rig.gone.store(false, Ordering::Relaxed);
        self.function.revive()
    }

    fn stepper(&self, qid: u16) -> Option<Box<dyn Stepper>> {
        let stepper = self.function.stepper(qid)?;
        match qid {
            0 => Some(Box::new(RiggedStepper { stepper, rig: Arc::clone(&self.rig) })),
            _ => Some(stepper),
        }
    }
}

/// A slow controller that misbehaves when it is told to.
fn rigged(options: Options) -> (Controller, Arc<Rig>) {
    let function = EmulatedFunction::new(config(SLOW), &DmaDomain::new()).unwrap();
    let rig = Arc::<Rig>::default();
    let function = Box::new(Rigged { function, rig: Arc::clone(&rig) });
    (Controller::start(function, options).unwrap(), rig)
}

#[test]
fn a_queue_whose_deletion_is_not_answered_comes_back_and_a_reset_frees_it() {
    let (mut controller, rig) = rigged(hasty());
    let mut pair = controller.create_io_queue_pair().unwrap();
    write(&controller, &mut pair, 42);
    rig.set_deaf(true);
    assert!(matches!(controller.abort(1, 0), Err(ControllerError::Timeout { .. })));
    let failed = controller.delete_io_queue_pair(pair).unwrap_err();
    assert!(matches!(failed.error, ControllerError::Timeout { .. }), "{failed}");
    assert_eq!((failed.pair.outstanding(), failed.completed.len()), (1, 0));

    rig.set_deaf(false);
    let stopped = controller.disable().unwrap();
    let commands = failed.pair.dismantle(&stopped).unwrap();
    assert_eq!((commands[0].0, commands[0].1.len()), (42, 512));
    controller.restart().unwrap();
    assert_eq!(controller.create_io_queue_pair().unwrap().qid(), 1);
}

#[test]
fn the_answer_to_a_deletion_that_comes_too_late_is_no_surprise() {
    let (mut controller, rig) = rigged(hasty());
    let pair = controller.create_io_queue_pair().unwrap();
    rig.set_deaf(true);
    let failed = controller.delete_io_queue_pair(pair).unwrap_err();
    rig.set_deaf(false);
    assert_eq!(controller.active_namespaces().unwrap(), [1]);
    assert_eq!(controller.create_io_queue_pair().unwrap().qid(), 2, "its identifier is not used again");
    let stopped = controller.disable().unwrap();
    failed.pair.dismantle(&stopped).unwrap();
}

#[test]
fn what_a_caller_had_on_the_admin_queue_comes_back_with_a_reset_and_nothing_else() {
    let (mut controller, rig) = rigged(Options::default());
    rig.set_deaf(true);
    controller.submit_abort(1, 1, None).unwrap();
    let entry = SubmissionQueueEntry::new(opcode::admin::KEEP_ALIVE);
    controller.admin_queue().submit(&entry, CommandData::None, 5, Instant::now()).unwrap();
    controller.disable().unwrap();
    assert_eq!(controller.take_aborted_admin().iter().map(|(user, _)| *user).collect::<Vec<_>>(), [5]);
}

const SMART_EVENT: AsyncEvent = AsyncEvent::new(aen::TYPE_SMART, aen::SMART_SPARE, lid::SMART);

/// Looks at the admin queue until nothing more comes of it.
fn settle(controller: &mut Controller) {
    for _ in 0..4 {
        assert_eq!(controller.reap_admin(&mut Vec::new()).unwrap(), 0);
    }
}

#[test]
fn an_event_comes_with_its_page_and_makes_way_for_the_next_of_its_type() {
    let (mut controller, probe) = start(None);
    for _ in 0..10 {
        probe.raise_event(SMART_EVENT);
        settle(&mut controller);
        let events = controller.take_events();
        assert_eq!(events.iter().map(|event| event.event).collect::<Vec<_>>(), [SMART_EVENT]);
        assert_eq!(
            (events[0].page.len(), events[0].kind()),
            (512, EventKind::Health { critical_warning: Some(0) })
        );
    }
    assert!(controller.take_events().is_empty());
    assert_eq!(probe.violations(), 0);
}

#[test]
fn a_warning_that_was_switched_on_is_told_of() {
    let (mut controller, _probe) = start(None);
    let mut entry = SubmissionQueueEntry::new(opcode::admin::SET_FEATURES);
    entry.cdw10.set(u32::from(fid::TEMPERATURE_THRESHOLD));
    entry.cdw11.set(200);
    controller.admin(entry, AdminData::None).unwrap();
    settle(&mut controller);
    let kinds: Vec<_> = controller.take_events().iter().map(Event::kind).collect();
    assert_eq!(kinds, [EventKind::Health { critical_warning: Some(SmartLog::WARNING_TEMPERATURE) }]);
}

#[test]
fn events_come_to_a_caller_who_only_waits_for_commands_and_again_after_a_restart() {
    let (mut controller, probe) = start(None);
    for _ in 0..3 {
        probe.raise_event(SMART_EVENT);
        controller.active_namespaces().unwrap();
        controller.active_namespaces().unwrap();
        assert_eq!(controller.take_events().len(), 1);
        controller.restart().unwrap();
    }
    probe.raise_event(SMART_EVENT);
    settle(&mut controller);
    controller.restart().unwrap();
    assert_eq!(controller.take_events().len(), 1, "what was told before a reset is not lost");
}

#[test]
fn an_event_whose_page_cannot_be_read_is_handed_up_without_it() {
    let (mut controller, probe) = start(None);
    probe.raise_event(AsyncEvent::new(aen::TYPE_VENDOR, 3, 0xfe));
    settle(&mut controller);
    let events = controller.take_events();
    assert_eq!((events[0].kind(), events[0].page.len()), (EventKind::Vendor, 0));
    // An event that names no page is there at once.
    probe.raise_event(AsyncEvent::new(aen::TYPE_IMMEDIATE, aen::IMMEDIATE_NORMAL_SUBSYSTEM_SHUTDOWN, 0));
    controller.reap_admin(&mut Vec::new()).unwrap();
    assert_eq!(controller.take_events()[0].kind(), EventKind::SubsystemShutdown);
}

#[test]
fn events_that_nobody_takes_do_not_pile_up() {
    let (mut controller, probe) = start(None);
    for _ in 0..100 {
        probe.raise_event(SMART_EVENT);
        settle(&mut controller);
    }
    assert_eq!(controller.take_events().len(), 64);
}

#[test]
fn requests_for_events_are_outstanding_within_the_limit_and_never_overdue() {
    let (mut controller, _probe) = start(None);
    let limit = usize::from(controller.identify().aerl) + 1;
    let outstanding = controller.admin_queue().outstanding();
    assert!((1..=limit).contains(&outstanding), "{outstanding} of {limit}");
    let years = Instant::now() + Duration::from_secs(10 * 365 * 24 * 3600);
    assert_eq!(controller.admin_queue().overdue(years), None);
}

#[test]
fn the_health_of_a_controller_is_seen_without_a_command() {
    let (mut controller, rig) = rigged(Options::default());
    assert_eq!(controller.health(), Health::Working);
    for (bits, health) in [(1 << 1, Health::Fatal), (1 << 5, Health::Paused), (u32::MAX, Health::Gone)] {
        rig.set_csts(bits);
        assert_eq!(controller.health(), health);
    }
    rig.set_csts(0);
    assert_eq!(controller.health(), Health::Working);
    controller.disable().unwrap();
    assert_eq!(controller.health(), Health::NotReady);
}

#[test]
fn nothing_is_overdue_while_the_controller_says_that_it_pauses() {
    let (mut controller, rig) = rigged(hasty());
    let mut pair = controller.create_io_queue_pair().unwrap();
    write(&controller, &mut pair, 1);
    let soon = Instant::now() + Duration::from_secs(1);
    assert!(pair.overdue(soon).is_some());
    rig.set_csts(1 << 5);
    assert_eq!(controller.health(), Health::Paused);
    assert_eq!(pair.overdue(soon), None);
    assert!(
        pair.overdue(soon + Duration::from_secs(10)).is_some(),
        "patience ends when the pause is not seen again"
    );
}

#[test]
fn a_notice_of_firmware_activation_puts_deadlines_off() {
    let (mut controller, probe) = start(SLOW);
    let mut pair = controller.create_io_queue_pair().unwrap();
    write(&controller, &mut pair, 1);
    let soon = Instant::now() + Duration::from_secs(1);
    assert!(pair.overdue(soon).is_some());
    probe.raise_event(AsyncEvent::FIRMWARE_ACTIVATION_STARTING);
    settle(&mut controller);
    assert_eq!(controller.take_events()[0].kind(), EventKind::FirmwareActivationStarting);
    assert_eq!(pair.overdue(soon), None);
    assert!(pair.overdue(soon + Duration::from_secs(3600)).is_some());
}

#[test]
fn deadlines_are_put_off_when_an_activation_is_told_of_and_no_longer_than_it_takes() {
    let (function, probe) = EmulatedFunction::with_probe(config(SLOW), &DmaDomain::new()).unwrap();
    let rig = Arc::<Rig>::default();
    let function = Box::new(Rigged { function, rig: Arc::clone(&rig) });
    let mut controller = Controller::start(function, Options::default()).unwrap();
    // An hour and more, which is not believed.
    controller.limits = TimeLimits::new(&Options::default(), Duration::ZERO, u16::MAX);
    let mut pair = controller.create_io_queue_pair().unwrap();
    write(&controller, &mut pair, 1);
    let after = |seconds| Instant::now() + Duration::from_secs(seconds);
    probe.raise_event(AsyncEvent::FIRMWARE_ACTIVATION_STARTING);
    controller.reap_admin(&mut Vec::new()).unwrap();
    assert!(controller.take_events().is_empty(), "its page is still to come");
    assert_eq!(pair.overdue(after(100)), None);
    assert!(pair.overdue(after(200)).is_some());

    rig.set_csts(1 << 5);
    assert_eq!(controller.health(), Health::Paused);
    assert_eq!(pair.overdue(after(100)), None);
    rig.set_csts(0);
    assert_eq!(controller.health(), Health::Working);
    assert!(pair.overdue(after(100)).is_some(), "it is over");
}

#[test]
fn the_shutdown_of_a_controller_that_failed_is_not_waited_for() {
    let (mut controller, rig) = rigged(Options::default());
    // CSTS.SHST reads as a reserved value besides.
    rig.set_csts(1 << 1 | 1 << 2);
    let error = controller.registers().shut_down(Duration::from_secs(3600)).unwrap_err();
    assert!(matches!(error, ControllerError::Fatal { .. }), "{error}");
    assert!(!controller.shutdown().unwrap().in_order);
}

#[test]
fn an_admin_command_may_transfer_no_bytes() {
    let (mut controller, _probe) = start(None);
    let mut entry = SubmissionQueueEntry::new(opcode::admin::SET_FEATURES);
    entry.cdw10.set(u32::from(fid::ASYNC_EVENT_CONFIGURATION));
    controller.admin(entry, AdminData::Out(&[])).unwrap();
    entry.opcode = opcode::admin::GET_FEATURES;
    assert!(controller.admin(entry, AdminData::In(0)).unwrap().1.is_empty());
}

#[test]
fn waiting_ends_when_the_controller_gives_up_or_goes_or_is_reset_by_something_else() {
    let (mut controller, rig) = rigged(Options::default());
    rig.set_deaf(true);
    rig.set_csts(1 << 1);
    assert!(matches!(controller.active_namespaces(), Err(ControllerError::Fatal { .. })));
    rig.set_csts(u32::MAX);
    let error = controller.active_namespaces().unwrap_err();
    assert!(matches!(error, ControllerError::Function(FunctionError::Gone { .. })), "{error}");
    rig.set_csts(0);
    controller.function.write_register32(gangway_spec::registers::CC, 0).unwrap();
    assert!(matches!(controller.active_namespaces(), Err(ControllerError::NotReady { .. })));
    rig.set_deaf(false);
    controller.restart().unwrap();
    assert_eq!(controller.active_namespaces().unwrap(), [1]);
}

#[test]
fn a_changed_time_limit_counts_at_once() {
    let (mut controller, rig) = rigged(Options::default());
    controller.set_admin_timeout(Duration::from_millis(10));
    rig.set_deaf(true);
    let error = controller.active_namespaces().unwrap_err();
    assert!(matches!(&error, ControllerError::Timeout { limit, .. } if limit.as_millis() == 10), "{error}");
}

#[test]
fn what_a_drive_had_that_is_gone_comes_back_when_it_was_given_back() {
    let (mut controller, rig) = rigged(Options::default());
    let domain = controller.domain().clone();
    let mut pair = controller.create_io_queue_pair().unwrap();
    write(&controller, &mut pair, 9);
    rig.gone.store(true, Ordering::Relaxed);
    assert_eq!(controller.health(), Health::Gone);
    let error = controller.disable().unwrap_err();
    assert!(matches!(error, ControllerError::Function(FunctionError::Gone { .. })), "{error}");
    let stopped = controller.isolate().unwrap();
    assert_eq!(pair.dismantle(&stopped).unwrap()[0].0, 9);
    let error = controller.restart().unwrap_err();
    assert!(matches!(error, ControllerError::Function(FunctionError::Gone { .. })), "{error}");
    assert_eq!(controller.isolate().unwrap(), stopped, "there is nothing left to be cut off");
    drop(controller);

    // The drive that comes back is another function, in the same domain.
    let function = EmulatedFunction::new(config(None), &domain).unwrap();
    let mut again = Controller::start(function, Options::default()).unwrap();
    assert_eq!(again.active_namespaces().unwrap(), [1]);
}

#[test]
fn a_function_level_reset_stops_the_controller_and_it_comes_up_again() {
    let (mut controller, probe) = start(SLOW);
    let mut pair = controller.create_io_queue_pair().unwrap();
    write(&controller, &mut pair, 3);
    let stopped = controller.function_level_reset().unwrap();
    assert_eq!(controller.health(), Health::NotReady);
    assert_eq!(pair.dismantle(&stopped).unwrap()[0].0, 3);
    controller.restart().unwrap();
    assert_eq!(controller.create_io_queue_pair().unwrap().qid(), 1);
    assert_eq!(probe.violations(), 0);
}

#[test]
fn a_function_that_cannot_be_reset_alone_goes_on_working() {
    let (mut controller, rig) = rigged(Options::default());
    let mut pair = controller.create_io_queue_pair().unwrap();
    rig.unresettable.store(true, Ordering::Relaxed);
    let error = controller.function_level_reset().unwrap_err();
    assert!(matches!(error, ControllerError::Function(FunctionError::Unsupported { .. })), "{error}");
    write(&controller, &mut pair, 3);
    assert_eq!(controller.active_namespaces().unwrap(), [1]);
    let stopped = controller.disable().unwrap();
    pair.dismantle(&stopped).unwrap();
}

#[test]
fn an_nvm_subsystem_reset_goes_on_while_the_link_is_down() {
    let (mut controller, rig) = rigged(Options::default());
    rig.down_for.store(5, Ordering::Relaxed);
    controller.subsystem_reset().unwrap();
    controller.restart().unwrap();
    assert_eq!(controller.active_namespaces().unwrap(), [1]);
}

#[test]
fn an_nvm_subsystem_reset_is_waited_for_each_time() {
    let (mut controller, probe) = start(SLOW);
    for _ in 0..2 {
        let mut pair = controller.create_io_queue_pair().unwrap();
        write(&controller, &mut pair, 3);
        let stopped = controller.subsystem_reset().unwrap();
        assert_eq!(pair.dismantle(&stopped).unwrap()[0].0, 3);
        controller.restart().unwrap();
    }
    assert_eq!(probe.violations(), 0);
    controller.capabilities = controller.capabilities.with_nssrs(false);
    let error = controller.subsystem_reset().unwrap_err();
    assert!(error.to_string().contains("NSSRS"), "{error}");
    assert_eq!(controller.active_namespaces().unwrap(), [1], "nothing was done to it");
}
