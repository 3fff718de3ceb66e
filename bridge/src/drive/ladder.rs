//! What is tried when a drive does not do what it should: Abort, its queue pair anew, a reset, and giving up.
//! [`limits`] tells how long each may take.

use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use gangway_driver::controller::{
    AbortAnswer, AbortOutcome, Controller, ControllerError, Deleted, DeletionFailed,
};
use gangway_driver::queue::Overdue;
use gangway_spec::opcode;
use gangway_spec::status::Status;

use super::manager::{Condition, Held, Manager, Setback};
use super::power::Power;
use super::{DriveEvent, limits};

/// Commands that are beyond their time limits, in the order in which that was noticed.
#[derive(Default)]
pub(super) struct Ladder {
    late: Vec<Late>,
    /// When admin commands' time limits were last looked at.
    looked: Option<Instant>,
}

/// A command that is beyond its time limit.
struct Late {
    /// Place of the reactor whose it is; `None`: a command of the admin queue.
    reactor: Option<usize>,
    qid: u16,
    overdue: Overdue,
    /// When the next step is taken.
    deadline: Instant,
    /// Whether the drive was asked to abort it.
    asked: bool,
    /// What the drive said to that.
    answer: Option<AbortOutcome>,
}

/// What was found when a queue pair was asked for.
enum Found {
    /// The command that is overdue, still.
    Pair(Box<gangway_driver::queue::QueuePair>),
    /// The command has ended.
    Ended,
    /// The reactor did not say.
    Silence,
}

impl Ladder {
    /// Whether the drive is waited for.
    pub(super) fn is_busy(&self) -> bool {
        !self.late.is_empty()
    }

    /// Notes a command that is overdue.
    pub(super) fn note(&mut self, reactor: Option<usize>, qid: u16, overdue: &Overdue) {
        if !self.late.iter().any(|late| (late.qid, late.overdue.cid) == (qid, overdue.cid)) {
            let deadline = Instant::now() + limits::ABORT;
            self.late.push(Late { reactor, qid, overdue: *overdue, deadline, asked: false, answer: None });
        }
    }

    /// Forgets everything: the queues that it was about are gone.
    pub(super) fn clear(&mut self) {
        self.late.clear();
    }

    /// Asks the drive to abort as many commands as it lets itself be asked for at a time.
    fn ask(&mut self, name: &str, controller: &mut Controller) -> Result<(), ControllerError> {
        let first = !self.late.iter().any(|late| late.asked);
        for late in self.late.iter_mut().filter(|late| !late.asked) {
            match controller.submit_abort(late.qid, late.overdue.cid, None) {
                Ok(()) => {
                    late.asked = true;
                    // It may have waited for its turn. That was shorter than ABORT, so this is bounded too.
                    late.deadline = Instant::now() + limits::ABORT;
                }
                Err(ControllerError::TooManyAborts { .. } | ControllerError::Rejected { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        if first && let Some(late) = self.late.first().filter(|late| late.asked) {
            let (queue, overdue, more) = (late.qid, &late.overdue, self.late.len() - 1);
            tracing::warn!(drive = %name, queue, %overdue, more, "the drive is slow: it is asked to abort what is overdue");
        }
        Ok(())
    }

    fn note_answer(&mut self, answer: &AbortAnswer) {
        let about = |late: &&mut Late| late.asked && (late.qid, late.overdue.cid) == (answer.qid, answer.cid);
        if let Some(late) = self.late.iter_mut().find(about) {
            late.answer = Some(answer.outcome);
        }
    }
}

impl Manager {
    /// Looks at what is overdue and takes the next step where it is time for it.
    pub(super) fn climb(&mut self) -> Result<(), Setback> {
        let now = Instant::now();
        let Condition::Works(controller) = &mut self.condition else { return Ok(()) };
        for answer in controller.take_abort_answers() {
            self.ladder.note_answer(&answer);
            self.aborts.note(&answer);
        }
        if self.ladder.looked.is_none_or(|looked| now.duration_since(looked) >= limits::WATCH) {
            self.ladder.looked = Some(now);
            let overdue: Vec<Overdue> = controller.admin_queue().all_overdue(now).collect();
            for overdue in &overdue {
                if overdue.opcode == opcode::admin::ABORT {
                    return Err(Setback::Failed(format!("it does not answer Abort: {overdue}")));
                }
                self.ladder.note(None, 0, overdue);
            }
        }
        if !self.ladder.is_busy() {
            return Ok(());
        }
        self.ladder.ask(&self.name, controller)?;
        let queue = controller.admin_queue();
        self.ladder.late.retain(|late| late.reactor.is_some() || queue.has(late.overdue.cid));
        while let Some(place) = self.ladder.late.iter().position(|late| late.deadline <= now) {
            let late = self.ladder.late.remove(place);
            self.next_step(&late)?;
        }
        Ok(())
    }

    /// Abort did not help in time, or there was no time for it.
    fn next_step(&mut self, late: &Late) -> Result<(), Setback> {
        let Late { qid, overdue, .. } = late;
        let Some(reactor) = late.reactor else {
            return Err(Setback::Failed(format!("on the admin queue, {overdue}, and Abort did not end it")));
        };
        let answer = self.ask_back(reactor, Some(overdue.cid));
        let found = match answer.recv_timeout(limits::FREEZE) {
            Ok(Some(pair)) => Found::Pair(Box::new(pair)),
            Ok(None) => Found::Ended,
            Err(mpsc::RecvTimeoutError::Disconnected) => Found::Ended,
            Err(mpsc::RecvTimeoutError::Timeout) => Found::Silence,
        };
        match found {
            Found::Ended => {
                tracing::debug!(drive = %self.name, queue = qid, %overdue, "the command has ended");
                Ok(())
            }
            Found::Silence => Err(Setback::Failed(format!("queue {qid} did not come back from its reactor"))),
            Found::Pair(pair) if late.asked && late.answer.is_none() => {
                let why = format!("queue {qid}: {overdue}, and Abort was not answered");
                self.reset(&why, vec![(reactor, *pair)]);
                Ok(())
            }
            Found::Pair(pair) => {
                let why = match late.answer {
                    Some(AbortOutcome::Aborted) => {
                        "the drive says that it aborted it, and did not complete it"
                    }
                    Some(AbortOutcome::NotAborted) => "the drive did not abort it",
                    Some(AbortOutcome::Refused(_)) => "the drive refused to abort it",
                    None => "there was no time to abort it, among so many",
                };
                tracing::warn!(drive = %self.name, queue = qid, %overdue, why, "the queue is deleted and made anew; others go on");
                self.renew((reactor, *pair));
                Ok(())
            }
        }
    }

    /// Deletes a queue pair, which ends its commands, and makes it anew.
    fn renew(&mut self, (place, pair): Held) {
        self.ladder.late.retain(|late| late.reactor != Some(place));
        let qid = pair.qid();
        self.aborts.forget(qid);
        let Condition::Works(controller) = &mut self.condition else { return };
        match controller.delete_io_queue_pair(pair) {
            Ok(Deleted { completed, outstanding }) => {
                let created = controller.create_io_queue_pair();
                self.end_commands(place, completed, outstanding);
                match created {
                    Ok(pair) => {
                        self.hand_out(vec![(place, pair)]);
                        tracing::info!(drive = %self.name, queue = qid, "the queue works again");
                    }
                    Err(error) => self.reset(&error.to_string(), Vec::new()),
                }
            }
            Err(DeletionFailed { pair, completed, error }) => {
                self.end_commands(place, completed, Vec::new());
                self.reset(&error.to_string(), vec![(place, *pair)]);
            }
        }
    }

    /// Resets the controller, more than once if need be. `pairs`: queue pairs that were taken back already.
    pub(super) fn reset(&mut self, why: &str, mut pairs: Vec<Held>) {
        if !matches!(self.condition, Condition::Works(_)) {
            return;
        }
        tracing::warn!(drive = %self.name, why, "the controller is reset; commands to it wait");
        self.tell(DriveEvent::Resetting);
        self.ladder.clear();
        self.aborts.clear();
        let (back, complete) = self.freeze();
        pairs.extend(back);
        if !complete {
            return self.give_up("a reactor did not stop using it", pairs);
        }
        for attempt in 1..=limits::RESETS {
            match self.restart(attempt, &mut pairs) {
                Ok(()) => {
                    self.hand_out(pairs);
                    tracing::info!(drive = %self.name, attempt, "the drive works again");
                    return self.tell(DriveEvent::Works);
                }
                Err(Setback::Gone(why)) => return self.removed(&why, pairs),
                Err(Setback::Failed(why)) => {
                    tracing::warn!(drive = %self.name, attempt, of = limits::RESETS, why, "the reset did not help");
                }
            }
            if attempt < limits::RESETS {
                thread::sleep(limits::PAUSE * attempt);
            }
        }
        self.give_up("no reset helped", pairs);
    }

    /// One attempt to reset the controller: takes `pairs` of the old run, and gives those of the new one.
    fn restart(&mut self, attempt: u32, pairs: &mut Vec<Held>) -> Result<(), Setback> {
        let Condition::Works(controller) = &mut self.condition else { return Ok(()) };
        let stopped = match attempt {
            1 => controller.disable()?,
            // It does not follow its registers. Where nothing resets it, what it can reach is taken from it.
            2 => controller.function_level_reset().or_else(|_| controller.isolate())?,
            _ => controller
                .subsystem_reset()
                .or_else(|_| controller.function_level_reset())
                .or_else(|_| controller.isolate())?,
        };
        let aborted = controller.take_aborted_admin();
        self.dismantle(&stopped, pairs);
        self.admin.interrupt(aborted);
        let Condition::Works(controller) = &mut self.condition else { return Ok(()) };
        controller.restart()?;
        if let Some(difference) = self.info.difference(controller, self.reactors.len()) {
            return Err(Setback::Failed(difference));
        }
        let power = Power::read(controller);
        if let Some(loss) = self.power.loss_in_reset(&power) {
            return Err(Setback::Failed(loss));
        }
        self.power = power;
        self.refresh_namespaces()?;
        self.create_pairs(pairs)?;
        Ok(())
    }

    fn give_up(&mut self, why: &str, mut pairs: Vec<Held>) {
        tracing::error!(
            drive = %self.name,
            why,
            "the drive is given up: commands to it fail from now on; power-cycle it and start gangway again"
        );
        let Condition::Works(mut controller) = std::mem::replace(&mut self.condition, Condition::Failed)
        else {
            return;
        };
        match controller.isolate() {
            Ok(stopped) => {
                self.dismantle(&stopped, &mut pairs);
                self.admin.interrupt(controller.take_aborted_admin());
            }
            Err(error) => {
                tracing::error!(drive = %self.name, %error, "the drive cannot be cut off from memory; what it had stays as it is");
                pairs.into_iter().for_each(|(place, pair)| self.abandon(place, pair));
                self.admin.interrupt(Vec::new());
            }
        }
        self.refuse(Status::NAMESPACE_NOT_READY.with_dnr());
        self.withdraw_namespaces();
        self.tell(DriveEvent::Failed);
    }
}
