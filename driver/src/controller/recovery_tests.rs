//! What happens when commands, queues or the whole controller fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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
fn no_more_aborts_are_outstanding_than_the_controller_takes() {
    let (mut controller, _probe) = start(SLOW);
    let limit = controller.abort_limit();
    assert_eq!(limit, usize::from(controller.identify().acl) + 1);
    for cid in 0..limit as u16 {
        controller.submit_abort(1, cid).unwrap();
    }
    let error = controller.submit_abort(1, 99).unwrap_err();
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
    let (mut controller, deaf) = deaf(Options::default());
    for cid in 0..controller.abort_limit() as u16 {
        deaf.store(true, Ordering::Relaxed);
        controller.submit_abort(1, cid).unwrap();
    }
    deaf.store(false, Ordering::Relaxed);
    controller.restart().unwrap();
    assert!(controller.take_aborted_admin().is_empty(), "they are nobody's");
    assert!(controller.take_abort_answers().is_empty());
    controller.submit_abort(1, 1).unwrap();
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

/// An emulated function whose admin queue can be made to ignore its doorbell.
struct Deaf {
    function: Box<dyn Function>,
    deaf: Arc<AtomicBool>,
}

struct DeafStepper {
    stepper: Box<dyn Stepper>,
    deaf: Arc<AtomicBool>,
}

impl Stepper for DeafStepper {
    fn step(&mut self) {
        if !self.deaf.load(Ordering::Relaxed) {
            self.stepper.step();
        }
    }
}

impl Function for Deaf {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn domain(&self) -> &DmaDomain {
        self.function.domain()
    }

    fn read_register32(&self, offset: u32) -> Result<u32, FunctionError> {
        self.function.read_register32(offset)
    }

    fn write_register32(&self, offset: u32, value: u32) -> Result<(), FunctionError> {
        self.function.write_register32(offset, value)
    }

    fn doorbell(&self, offset: u32) -> Result<Doorbell, FunctionError> {
        self.function.doorbell(offset)
    }

    fn forbid_dma(&self) -> Result<(), FunctionError> {
        self.function.forbid_dma()
    }

    fn stepper(&self, qid: u16) -> Option<Box<dyn Stepper>> {
        let stepper = self.function.stepper(qid)?;
        match qid {
            0 => Some(Box::new(DeafStepper { stepper, deaf: Arc::clone(&self.deaf) })),
            _ => Some(stepper),
        }
    }
}

/// A slow controller that answers no admin command while the flag is set.
fn deaf(options: Options) -> (Controller, Arc<AtomicBool>) {
    let function = EmulatedFunction::new(config(SLOW), &DmaDomain::new()).unwrap();
    let deaf = Arc::new(AtomicBool::new(false));
    let function = Box::new(Deaf { function, deaf: Arc::clone(&deaf) });
    (Controller::start(function, options).unwrap(), deaf)
}

#[test]
fn a_queue_whose_deletion_is_not_answered_comes_back_and_a_reset_frees_it() {
    let (mut controller, deaf) = deaf(hasty());
    let mut pair = controller.create_io_queue_pair().unwrap();
    write(&controller, &mut pair, 42);
    deaf.store(true, Ordering::Relaxed);
    assert!(matches!(controller.abort(1, 0), Err(ControllerError::Timeout { .. })));
    let failed = controller.delete_io_queue_pair(pair).unwrap_err();
    assert!(matches!(failed.error, ControllerError::Timeout { .. }), "{failed}");
    assert_eq!((failed.pair.outstanding(), failed.completed.len()), (1, 0));

    deaf.store(false, Ordering::Relaxed);
    let stopped = controller.disable().unwrap();
    let commands = failed.pair.dismantle(&stopped).unwrap();
    assert_eq!((commands[0].0, commands[0].1.len()), (42, 512));
    controller.restart().unwrap();
    assert_eq!(controller.create_io_queue_pair().unwrap().qid(), 1);
}

#[test]
fn the_answer_to_a_deletion_that_comes_too_late_is_no_surprise() {
    let (mut controller, deaf) = deaf(hasty());
    let pair = controller.create_io_queue_pair().unwrap();
    deaf.store(true, Ordering::Relaxed);
    let failed = controller.delete_io_queue_pair(pair).unwrap_err();
    deaf.store(false, Ordering::Relaxed);
    assert_eq!(controller.active_namespaces().unwrap(), [1]);
    assert_eq!(controller.create_io_queue_pair().unwrap().qid(), 2, "its identifier is not used again");
    let stopped = controller.disable().unwrap();
    failed.pair.dismantle(&stopped).unwrap();
}
