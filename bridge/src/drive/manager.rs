//! The manager of a drive: its loop, and what it has to do with reactors.

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use gangway_driver::controller::{Controller, ControllerError, EventKind, Health, Options, Stopped};
use gangway_driver::dma::CommandData;
use gangway_driver::function::{FunctionError, Interrupt, Notices};
use gangway_driver::queue::{Completion, QueuePair};
use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::feature::fid;
use gangway_spec::opcode::{FIRST_VENDOR_ADMIN, admin};
use gangway_spec::status::Status;
use tokio::sync::{broadcast, oneshot};

use super::abort::HostAborts;
use super::admin::Admin;
use super::events::{OWN_EVENTS, explain};
use super::info::read_namespaces;
use super::ladder::Ladder;
use super::link::{AdminReply, DriveLink, Inbox, Request, Trouble};
use super::power::Power;
use super::removal::Search;
use super::{DriveError, DriveEvent, DriveInfo, DriveNamespace, NamespaceChange, Opener, limits};
use crate::reactor::{DriveState, Message, ReactorHandle};

/// A queue pair that came back from the reactor at this place.
pub(super) type Held = (usize, QueuePair);

/// How a drive is.
pub(super) enum Condition {
    Works(Box<Controller>),
    /// It was removed.
    Gone(Search),
    /// It was given up.
    Failed,
}

/// A command that may change namespaces.
struct Withheld {
    ended: oneshot::Receiver<AdminReply>,
    /// How it ended.
    answer: Option<AdminReply>,
    reply: oneshot::Sender<AdminReply>,
}

/// Why a step did not bring the drive back.
pub(super) enum Setback {
    /// The drive is not there.
    Gone(String),
    /// It did not work.
    Failed(String),
}

impl From<ControllerError> for Setback {
    fn from(error: ControllerError) -> Self {
        match error {
            ControllerError::Function(FunctionError::Gone { .. }) => Self::Gone(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}

pub(super) struct Manager {
    pub(super) index: usize,
    pub(super) name: String,
    /// In use by the thread that looks for a drive that was removed.
    pub(super) open: Arc<Mutex<Opener>>,
    pub(super) options: Options,
    /// What the drive was like when it was started.
    pub(super) info: Arc<DriveInfo>,
    /// The namespaces as reactors know them.
    namespaces: Vec<DriveNamespace>,
    /// Whether that is not sure: a change was given to them, and nobody knows whether it is in force.
    uncertain: bool,
    pub(super) condition: Condition,
    pub(super) admin: Admin,
    /// What the drive last said of its power.
    pub(super) power: Power,
    /// Commands that are answered when it is known what they changed.
    withheld: Vec<Withheld>,
    pub(super) ladder: Ladder,
    pub(super) aborts: HostAborts,
    /// When the controller was last asked how it is.
    health: Instant,
    pub(super) link: DriveLink,
    inbox: Inbox,
    pub(super) reactors: Vec<ReactorHandle>,
    /// How many queue pairs each reactor has got so far.
    pub(super) issues: Vec<u64>,
    events: broadcast::Sender<DriveEvent>,
    /// Who puts changes of the namespaces in force on the reactors, once there is somebody.
    changes: Option<tokio::sync::mpsc::UnboundedSender<NamespaceChange>>,
    /// Whether the namespaces are to be read though the drive told nothing.
    stale: bool,
}

impl Manager {
    pub(super) fn new(
        index: usize,
        (open, options): (Opener, Options),
        info: Arc<DriveInfo>,
        controller: Controller,
        admin: Admin,
        (link, inbox): (DriveLink, Inbox),
        events: broadcast::Sender<DriveEvent>,
    ) -> Self {
        Self {
            index,
            name: info.name.clone(),
            open: Arc::new(Mutex::new(open)),
            options,
            namespaces: info.namespaces.clone(),
            uncertain: false,
            info,
            condition: Condition::Works(Box::new(controller)),
            admin,
            power: Power::default(),
            withheld: Vec::new(),
            ladder: Ladder::default(),
            aborts: HostAborts::default(),
            health: Instant::now(),
            link,
            inbox,
            reactors: Vec::new(),
            issues: Vec::new(),
            events,
            changes: None,
            stale: false,
        }
    }

    pub(super) fn run(mut self) {
        self.note_power();
        loop {
            self.sleep();
            while let Some(request) = self.inbox.next() {
                if let Some(done) = self.obey(request) {
                    let _ = done.send(self.shutdown());
                    return;
                }
            }
            if let Err(setback) = self.work() {
                self.recover(setback);
            }
            self.look_for_it();
            while let Err(setback) = self.answer_withheld() {
                self.recover(setback);
            }
        }
    }

    /// Sleeps until there may be something to do.
    fn sleep(&mut self) {
        match &self.condition {
            Condition::Works(controller) => {
                let busy = self.admin.is_busy() || self.ladder.is_busy() || self.aborts.is_busy();
                let (admin, notices) = (controller.admin_interrupt(), controller.notices());
                let time = match (busy, admin) {
                    (true, None) => self.admin.next_nap(),
                    (true, Some(_)) => limits::WATCH,
                    // Events of a drive that does not interrupt are found as late as that.
                    (false, _) => limits::HEALTH,
                };
                let signals: Vec<_> =
                    [admin, notices.removal.as_ref(), notices.error.as_ref()].into_iter().flatten().collect();
                self.inbox.wait(&signals, time);
                if let Some(signal) = admin {
                    signal.clear();
                }
            }
            Condition::Gone(search) => self.inbox.wait(&[], search.pause(Instant::now())),
            Condition::Failed => self.inbox.wait(&[], Duration::from_secs(3600)),
        }
    }

    /// Does what is asked for. Gives the channel to answer on when that is to end.
    fn obey(&mut self, request: Request) -> Option<oneshot::Sender<bool>> {
        match request {
            Request::Admin(mut request) => {
                if needs_a_look(&request.entry) {
                    request.reply = self.withhold(request.reply);
                }
                self.admin.push(request);
            }
            Request::Abort { target, verdict } => self.abort(target, verdict),
            Request::Withdraw(ticket) => drop(self.admin.withdraw(ticket)),
            Request::Trouble { reactor, issue, trouble } => {
                // What was reported of a queue pair that is gone is settled.
                if self.issues.get(reactor) == Some(&issue) {
                    match trouble {
                        Trouble::Fault(what) => self.reset(&what, Vec::new()),
                        Trouble::Overdue { qid, overdue } => self.ladder.note(Some(reactor), qid, &overdue),
                    }
                }
            }
            Request::Found(found) => self.found(found),
            Request::Connect { reactors, done } => {
                let _ = done.send(self.connect(reactors));
            }
            Request::Follow(changes) => {
                self.changes = Some(changes);
                self.stale = true;
            }
            Request::Shutdown { done } => return Some(done),
        }
        None
    }

    /// Sees to it that what ends a command goes to its host only after [`Manager::answer_withheld`]. `reply` leads to the
    /// host; what is given takes its place.
    fn withhold(&mut self, reply: oneshot::Sender<AdminReply>) -> oneshot::Sender<AdminReply> {
        let (end, ended) = oneshot::channel();
        self.withheld.push(Withheld { ended, answer: None, reply });
        end
    }

    /// Reads the namespaces after commands that may have changed them, and only then answers those: their hosts go by the
    /// new ones at once.
    fn answer_withheld(&mut self) -> Result<(), Setback> {
        let mut changed = false;
        for withheld in self.withheld.iter_mut().filter(|withheld| withheld.answer.is_none()) {
            withheld.answer = match withheld.ended.try_recv() {
                // Also one that failed, or was aborted, may have done half of its work.
                Ok(answer) => {
                    changed = true;
                    Some(answer)
                }
                Err(oneshot::error::TryRecvError::Empty) => None,
                // Its host has gone, and it was dropped before the drive had it.
                Err(oneshot::error::TryRecvError::Closed) => {
                    Some(AdminReply::status(Status::ABORT_REQUESTED))
                }
            };
        }
        if changed {
            // After a failure what follows it reads them.
            self.refresh_namespaces()?;
            self.note_power();
        }
        for withheld in self.withheld.extract_if(.., |withheld| withheld.answer.is_some()) {
            if let Some(answer) = withheld.answer {
                let _ = withheld.reply.send(answer);
            }
        }
        Ok(())
    }

    /// Admin commands, time limits and events.
    fn work(&mut self) -> Result<(), Setback> {
        match &mut self.condition {
            Condition::Works(controller) => {
                heed(&controller.notices())?;
                controller.want_events(OWN_EVENTS | self.inbox.wanted_events());
                self.admin.reap(controller)?;
                // What ended makes room for what waits, and nothing else would wake this thread for it.
                while self.admin.submit(controller) {
                    self.admin.reap(controller)?;
                }
                if self.health.elapsed() >= limits::HEALTH {
                    self.health = Instant::now();
                    check(controller)?;
                }
            }
            Condition::Gone(search) if search.holds() => return Ok(()),
            Condition::Gone(_) | Condition::Failed => {
                self.admin.refuse(Status::INTERNAL_PATH_ERROR);
                return Ok(());
            }
        }
        self.report()?;
        self.climb()?;
        self.ask_for_hosts()
    }

    /// Tells of what the drive told of.
    fn report(&mut self) -> Result<(), Setback> {
        let Condition::Works(controller) = &mut self.condition else { return Ok(()) };
        let events = controller.take_events();
        let changed = events.iter().any(|event| matches!(event.kind(), EventKind::NamespacesChanged(_)));
        for event in events {
            match explain(&event) {
                (true, text) => tracing::warn!(drive = %self.name, "{text}"),
                (false, text) => tracing::info!(drive = %self.name, "{text}"),
            }
            self.tell(DriveEvent::Reported(event));
        }
        if std::mem::take(&mut self.stale) || changed { self.refresh_namespaces() } else { Ok(()) }
    }

    /// Remembers what the drive says of its power.
    pub(super) fn note_power(&mut self) {
        if let Condition::Works(controller) = &mut self.condition {
            self.power = Power::read(controller);
        }
    }

    /// What follows when something did not work.
    pub(super) fn recover(&mut self, setback: Setback) {
        match setback {
            Setback::Gone(why) => {
                let (pairs, _) = self.freeze();
                self.removed(&why, pairs);
            }
            Setback::Failed(why) => self.reset(&why, Vec::new()),
        }
    }

    pub(super) fn tell(&self, event: DriveEvent) {
        // Nobody may be interested.
        let _ = self.events.send(event);
    }

    fn connect(&mut self, reactors: Vec<ReactorHandle>) -> Result<(), DriveError> {
        let Condition::Works(controller) = &self.condition else {
            return Err(DriveError::Gone { drive: self.name.clone() });
        };
        let granted = controller.io_queue_limit();
        if usize::from(granted) < reactors.len() {
            return Err(DriveError::Queues { drive: self.name.clone(), granted, wanted: reactors.len() });
        }
        for (place, reactor) in reactors.iter().enumerate() {
            reactor.send(Message::Link { drive: self.index, link: self.link.clone(), place });
        }
        self.issues = vec![0; reactors.len()];
        self.reactors = reactors;
        let mut pairs = Vec::new();
        let created = self.create_pairs(&mut pairs);
        // Also when there are not enough of them: they are taken back at the end.
        self.hand_out(pairs);
        created.map_err(|source| DriveError::Controller { drive: self.name.clone(), source })
    }

    /// Creates a queue pair for every reactor.
    pub(super) fn create_pairs(&mut self, pairs: &mut Vec<Held>) -> Result<(), ControllerError> {
        let Condition::Works(controller) = &mut self.condition else { return Ok(()) };
        for place in 0..self.reactors.len() {
            pairs.push((place, controller.create_io_queue_pair()?));
        }
        Ok(())
    }

    /// Gives reactors their queue pairs.
    pub(super) fn hand_out(&mut self, pairs: Vec<Held>) {
        for (place, pair) in pairs {
            if let Condition::Works(controller) = &self.condition
                && let Err(error) = controller.steer_interrupt(&pair, self.reactors[place].cpu)
            {
                tracing::debug!(drive = %self.name, %error, "interrupts come to any CPU");
            }
            self.issues[place] += 1;
            let state = DriveState::Works { pair: Box::new(pair), issue: self.issues[place] };
            self.reactors[place].send(Message::Thaw { drive: self.index, state });
        }
    }

    /// Lets all commands to the drive fail with a status.
    pub(super) fn refuse(&mut self, status: Status) {
        for reactor in &self.reactors {
            reactor.send(Message::Thaw { drive: self.index, state: DriveState::Refuses(status) });
        }
        self.admin.refuse(Status::INTERNAL_PATH_ERROR);
    }

    /// Asks a reactor for its queue pair: if command `late` is overdue, or in any case.
    pub(super) fn ask_back(&self, place: usize, late: Option<u16>) -> mpsc::Receiver<Option<QueuePair>> {
        let (reply, answer) = mpsc::channel();
        // A reactor that has ended drops the message, and so its answer comes at once: there is none.
        self.reactors[place].send(Message::Freeze { drive: self.index, late, reply });
        answer
    }

    /// Takes all queue pairs back from the reactors. False when one of them did not answer.
    pub(super) fn freeze(&mut self) -> (Vec<Held>, bool) {
        let answers: Vec<_> = (0..self.reactors.len()).map(|place| self.ask_back(place, None)).collect();
        let deadline = Instant::now() + limits::FREEZE;
        let mut pairs = Vec::new();
        let mut complete = true;
        for (place, answer) in answers.into_iter().enumerate() {
            match answer.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Some(pair)) => pairs.push((place, pair)),
                Ok(None) | Err(mpsc::RecvTimeoutError::Disconnected) => {}
                Err(mpsc::RecvTimeoutError::Timeout) => complete = false,
            }
        }
        (pairs, complete)
    }

    /// Tells a reactor of commands that ended without it: those that the drive completed, and those that it never will.
    pub(super) fn end_commands(
        &self,
        place: usize,
        completed: Vec<Completion>,
        interrupted: Vec<(u64, CommandData)>,
    ) {
        if !completed.is_empty() || !interrupted.is_empty() {
            self.reactors[place].send(Message::Ended { completed, interrupted });
        }
    }

    /// Ends queue pairs of a controller that is known to be stopped; their commands are answered.
    pub(super) fn dismantle(&mut self, stopped: &Stopped, pairs: &mut Vec<Held>) {
        for (place, pair) in pairs.drain(..) {
            match pair.dismantle(stopped) {
                Ok(interrupted) => self.end_commands(place, Vec::new(), interrupted),
                Err(pair) => self.abandon(place, pair),
            }
        }
    }

    /// Gives up a queue pair whose drive is not known to have stopped: its commands are answered, their memory is never
    /// used again.
    pub(super) fn abandon(&self, place: usize, pair: QueuePair) {
        let interrupted = pair.abandon().into_iter().map(|user| (user, CommandData::None)).collect();
        self.end_commands(place, Vec::new(), interrupted);
    }

    /// Reads the namespaces anew. When they are not what reactors go by, waits until these go by the new ones: with a
    /// block size that is no longer true, lengths of transfers would be wrong.
    pub(super) fn refresh_namespaces(&mut self) -> Result<(), Setback> {
        let Condition::Works(controller) = &mut self.condition else { return Ok(()) };
        let namespaces = read_namespaces(controller)?;
        let alike = |(new, old): (&DriveNamespace, &DriveNamespace)| new.is_like(old);
        let same =
            namespaces.len() == self.namespaces.len() && namespaces.iter().zip(&self.namespaces).all(alike);
        if same && !self.uncertain {
            return Ok(());
        }
        self.publish(namespaces)
    }

    /// Has reactors and hosts go by these namespaces.
    fn publish(&mut self, namespaces: Vec<DriveNamespace>) -> Result<(), Setback> {
        // Before anybody follows, what reactors go by stays as it is. It is compared again when somebody does.
        let Some(changes) = &self.changes else { return Ok(()) };
        let publish: Arc<[DriveNamespace]> = namespaces.as_slice().into();
        let (done, answer) = mpsc::channel();
        // When nobody receives it, nothing is served any more.
        let sent = changes.send(NamespaceChange { namespaces: Arc::clone(&publish), done }).is_ok();
        // It may come into force later than anybody waits for it here.
        self.uncertain = sent && answer.recv_timeout(limits::PUBLISH) == Err(mpsc::RecvTimeoutError::Timeout);
        if self.uncertain {
            return Err(Setback::Failed("a change of its namespaces is not in force in time".into()));
        }
        // Not before: after a failure they are other than what reactors go by, still.
        self.namespaces = namespaces;
        self.tell(DriveEvent::Namespaces(publish));
        Ok(())
    }

    /// Shows hosts no namespace of the drive until it is back: what uses them is told at once, and not by commands that
    /// fail one after the other.
    pub(super) fn withdraw_namespaces(&mut self) {
        if let Err(Setback::Gone(why) | Setback::Failed(why)) = self.publish(Vec::new()) {
            // Commands fail all the same.
            tracing::error!(drive = %self.name, why, "its namespaces are still shown");
        }
    }

    /// Whether no host sees a namespace of the drive.
    pub(super) fn has_withdrawn_namespaces(&self) -> bool {
        self.namespaces.is_empty()
    }

    /// Whether the controller was shut down in order.
    fn shutdown(mut self) -> bool {
        let (mut pairs, complete) = self.freeze();
        let mut in_order = complete;
        if let Condition::Works(controller) = &mut self.condition {
            match controller.shutdown() {
                Ok(shutdown) => {
                    in_order &= shutdown.in_order;
                    self.dismantle(&shutdown.stopped, &mut pairs);
                }
                Err(error) => {
                    tracing::warn!(drive = %self.name, %error, "the drive did not stop");
                    in_order = false;
                }
            }
        } else {
            in_order = false;
        }
        // There are some left when it is not known to have stopped.
        for (place, pair) in pairs {
            self.abandon(place, pair);
        }
        in_order
    }
}

/// Whether namespaces, their formats or the volatile write cache may be others after a command. What a vendor's command does is not known; a
/// Security Send may lock or revert a drive.
fn needs_a_look(entry: &SubmissionQueueEntry) -> bool {
    let switches_cache = entry.opcode == admin::SET_FEATURES
        && entry.cdw10.get().to_le_bytes()[0] == fid::VOLATILE_WRITE_CACHE;
    switches_cache
        || matches!(
            entry.opcode,
            admin::FIRMWARE_COMMIT
                | admin::NAMESPACE_MANAGEMENT
                | admin::NAMESPACE_ATTACHMENT
                | admin::CAPACITY_MANAGEMENT
                | admin::FORMAT_NVM
                | admin::SECURITY_SEND
                | admin::SANITIZE
                | FIRST_VENDOR_ADMIN..
        )
}

/// Looks whether the system has told of the drive's removal or of an error of its link.
fn heed(notices: &Notices) -> Result<(), Setback> {
    let told = |signal: &Option<Interrupt>| signal.as_ref().is_some_and(|signal| signal.wait(Duration::ZERO));
    if told(&notices.removal) {
        return Err(Setback::Gone("the system takes it away".into()));
    }
    if told(&notices.error) {
        return Err(Setback::Failed("its link reports an error that was not corrected".into()));
    }
    Ok(())
}

/// Asks the controller how it is: one register.
fn check(controller: &mut Controller) -> Result<(), Setback> {
    match controller.health() {
        Health::Working | Health::Paused => Ok(()),
        Health::Fatal => Err(Setback::Failed("it reports a fatal error (CSTS.CFS)".into())),
        Health::NotReady => {
            Err(Setback::Failed("it is no longer ready (CSTS.RDY): something else reset it".into()))
        }
        Health::Gone => Err(Setback::Gone("its registers read as all ones".into())),
    }
}
