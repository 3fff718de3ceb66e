//! Asynchronous events (NVMe Base 2.0, 3.3.5 and 5.2): requests for them are kept outstanding, and each event is cleared
//! by reading the log page that it names, so that the next one of its type can come.
//!
//! Nobody needs to ask for that: it happens whenever the admin queue is looked at, be it by
//! [`Controller::reap_admin`] or while [`Controller::admin`] waits.

mod event;

use std::collections::VecDeque;
use std::mem;
use std::time::Instant;

use gangway_spec::aen::{self, AsyncEvent};
use gangway_spec::command::NSID_BROADCAST;
use gangway_spec::feature::{TELEMETRY_LOG_NOTICES, fid};
use gangway_spec::identify::{IdentifyController, Lpa, Oaes};
use gangway_spec::log::{ErrorLogEntry, GetLogPage, SmartLog, lid};
use gangway_spec::{Status, SubmissionQueueEntry, opcode};

pub use self::event::{ChangedNamespaces, Event, EventKind};
use super::tag::Tag;
use super::{AdminData, Controller, ControllerError};
use crate::dma::{CommandData, Direction, PAGE_SIZE};
use crate::queue::Completion;

/// Requests that are kept outstanding, if the controller takes as many: events of several types can then be told of while
/// the page of one is being read.
const MOST_REQUESTS: usize = 4;

/// Events that wait for someone to take them. Beyond that the oldest is forgotten.
const MOST_KEPT: usize = 64;

/// Requests that fail one after the other before no more are made.
const MOST_FAILURES: u32 = 16;

/// The critical warnings of the SMART log that every controller can tell of (feature 0Bh, bits 4:0).
const WARNINGS: u32 = (SmartLog::WARNING_SPARE
    | SmartLog::WARNING_TEMPERATURE
    | SmartLog::WARNING_RELIABILITY
    | SmartLog::WARNING_READ_ONLY
    | SmartLog::WARNING_VOLATILE_BACKUP) as u32;

/// Events from the controller to whoever takes them.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// What the controller is to tell of; `None`: all that it can.
    configuration: Option<u32>,
    /// What it was last told to; `None` while that is under way.
    configured: Option<u32>,
    /// Requests to be kept outstanding.
    wanted: usize,
    requests: usize,
    /// Events whose page is still to be asked for.
    unread: VecDeque<(AsyncEvent, u32)>,
    /// Pages that were asked for.
    reading: usize,
    ready: VecDeque<Event>,
    /// Requests that failed since one was answered with an event.
    failures: u32,
    /// There was no memory for a page, and that was told.
    starved: bool,
}

impl Events {
    /// Forgets what belongs to a run of the controller that is over.
    pub(super) fn end_run(&mut self) {
        let ready = mem::take(&mut self.ready);
        *self = Self { ready, configuration: self.configuration, ..Self::default() };
    }

    /// The controller has answered to its Asynchronous Event Configuration.
    pub(super) fn configured(&mut self, value: u32, completion: &Completion) {
        let status = completion.entry.status();
        if !status.is_success() {
            // Asked again it would say the same.
            tracing::warn!(%status, "events {value:#x} are not switched on");
        }
        self.configured = Some(value);
    }

    /// A request was answered. Gives the event.
    pub(super) fn reported(&mut self, completion: &Completion) -> Option<AsyncEvent> {
        self.requests = self.requests.saturating_sub(1);
        let status = completion.entry.status();
        if !status.is_success() {
            self.failures += 1;
            let refused =
                [Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED, Status::INVALID_OPCODE, Status::INVALID_FIELD];
            if refused.iter().any(|&refused| status.is(refused)) || self.failures >= MOST_FAILURES {
                // Asked again it would say the same.
                tracing::warn!(%status, "the controller refuses a request for events");
                self.wanted = self.requests;
            } else {
                tracing::debug!(%status, "a request for events failed, and is made again");
            }
            return None;
        }
        self.failures = 0;
        let (event, parameter) =
            (AsyncEvent::from_dw0(completion.entry.dw0.get()), completion.entry.dw1.get());
        if names_page(event) {
            self.unread.push_back((event, parameter));
        } else {
            self.keep(Event { event, parameter, page: Vec::new() });
        }
        Some(event)
    }

    /// The page of an event has come.
    pub(super) fn read(&mut self, event: AsyncEvent, parameter: u32, completion: &Completion) {
        self.reading = self.reading.saturating_sub(1);
        let status = completion.entry.status();
        let page = if status.is_success() {
            completion.data.bytes().to_vec()
        } else {
            tracing::warn!(%event, %status, "the log page of an event cannot be read");
            Vec::new()
        };
        self.keep(Event { event, parameter, page });
    }

    fn keep(&mut self, event: Event) {
        tracing::debug!(%event, "event");
        if self.ready.len() == MOST_KEPT {
            self.ready.pop_front();
        }
        self.ready.push_back(event);
    }

    /// How many more requests there should be: one less for each event that is being dealt with, so that a controller
    /// which never stops telling is slowed down to what can be read.
    fn missing(&self) -> usize {
        self.wanted.saturating_sub(self.requests + self.unread.len() + self.reading)
    }
}

impl Controller {
    /// The events that the controller has told of since the last call, each with its log page. They are there after
    /// [`Controller::reap_admin`], or after anything was waited for.
    ///
    /// Only the latest 64 are kept.
    pub fn take_events(&mut self) -> Vec<Event> {
        mem::take(&mut self.events.ready).into()
    }

    /// Switches on what the controller can tell of, and asks for the first events.
    pub(super) fn start_events(&mut self) -> Result<(), ControllerError> {
        let wanted = self.wanted_events();
        self.events.configured = Some(wanted);
        // What a controller does not know it may refuse, however much it promised.
        for configuration in [wanted, wanted & WARNINGS] {
            match self.admin(configure(configuration), AdminData::None) {
                Ok(_) => break,
                Err(error @ ControllerError::Status { .. }) => {
                    tracing::warn!(%error, "events {configuration:#x} are not switched on");
                }
                Err(error) => return Err(error),
            }
        }
        self.events.wanted = MOST_REQUESTS.min(usize::from(self.identify.aerl) + 1);
        self.serve_events();
        Ok(())
    }

    /// Says what the controller is to tell of, in this run and in later ones: bits of the Asynchronous Event
    /// Configuration (feature 0Bh). Those that it does not offer are left out; without this call it tells of all that it
    /// can. It comes in force as soon as there is room on the admin queue, which is looked at as for events.
    pub fn want_events(&mut self, configuration: u32) {
        if self.events.configuration.replace(configuration) != Some(configuration) && self.enabled {
            self.serve_events();
        }
    }

    /// What of that the controller offers.
    fn wanted_events(&self) -> u32 {
        let offered = self.identify.oaes() - Oaes::DISCOVERY_LOG_CHANGE;
        let region = if self.capabilities.pmrs() { u32::from(SmartLog::WARNING_PMR) } else { 0 };
        let telemetry = if self.identify.lpa().contains(Lpa::TELEMETRY) { TELEMETRY_LOG_NOTICES } else { 0 };
        let offered = WARNINGS | region | offered.bits() | telemetry;
        self.events.configuration.unwrap_or(u32::MAX) & offered
    }

    /// Sets the configuration, asks for the pages of events and for further events, as far as there is room on the admin
    /// queue.
    pub(super) fn serve_events(&mut self) {
        let mut submitted = false;
        let wanted = self.wanted_events();
        if self.events.configured.is_some_and(|configured| configured != wanted) && self.admin.has_room() {
            let entry = configure(wanted);
            let deadline = Instant::now() + self.limits.admin(&entry);
            let user = Tag::EventConfiguration(wanted).user();
            if self.admin.submit(&entry, CommandData::None, user, deadline).is_ok() {
                self.events.configured = None;
                submitted = true;
            }
        }
        while let Some(&(event, parameter)) = self.events.unread.front() {
            if !self.submit_page(event, parameter) {
                break;
            }
            self.events.unread.pop_front();
            self.events.reading += 1;
            submitted = true;
        }
        let request = SubmissionQueueEntry::new(opcode::admin::ASYNC_EVENT_REQUEST);
        while self.events.missing() > 0 && self.admin.has_room() {
            let deadline = Instant::now() + self.limits.admin(&request);
            let user = Tag::EventRequest.user();
            if self.admin.submit(&request, CommandData::None, user, deadline).is_err() {
                break;
            }
            self.events.requests += 1;
            submitted = true;
        }
        if submitted {
            self.admin.ring();
        }
    }

    /// Asks for the page of an event, and so for it to be cleared. `false` when that has to wait.
    fn submit_page(&mut self, event: AsyncEvent, parameter: u32) -> bool {
        if !self.admin.has_room() {
            return false;
        }
        let length = page_length(event.log_page, &self.identify);
        let buffer = match self.domain().buffer(length, Direction::DeviceWrites) {
            Ok(buffer) => {
                self.events.starved = false;
                buffer
            }
            Err(error) => {
                // It is tried again whenever somebody looks.
                if !mem::replace(&mut self.events.starved, true) {
                    tracing::warn!(%error, %event, "no memory for the log page of an event");
                }
                return false;
            }
        };
        // Telemetry that was read the controller may overwrite: whoever wants it clears its event.
        let rae = event.log_page == lid::TELEMETRY_CONTROLLER;
        let get = GetLogPage { rae, ..GetLogPage::new(event.log_page, length as u32) };
        let mut entry = SubmissionQueueEntry::from(get);
        // The list of changed zones is that of one namespace, which the event names.
        entry.nsid.set(if event.log_page == lid::CHANGED_ZONE_LIST { parameter } else { NSID_BROADCAST });
        let deadline = Instant::now() + self.limits.admin(&entry);
        let user = Tag::EventPage(event, parameter).user();
        self.admin.submit(&entry, buffer.into(), user, deadline).is_ok()
    }
}

/// Set Features of the Asynchronous Event Configuration.
fn configure(configuration: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode::admin::SET_FEATURES);
    entry.cdw10.set(u32::from(fid::ASYNC_EVENT_CONFIGURATION));
    entry.cdw11.set(configuration);
    entry
}

/// Whether an event is cleared by reading a log page. A shutdown that the controller announces is not.
fn names_page(event: AsyncEvent) -> bool {
    event.log_page != 0
        && (event.kind, event.info) != (aen::TYPE_IMMEDIATE, aen::IMMEDIATE_NORMAL_SUBSYSTEM_SHUTDOWN)
}

/// How much of a page is read: what the specification defines, without the parts that have no end.
fn page_length(page: u8, identify: &IdentifyController) -> usize {
    match page {
        // ELPE is 0's based.
        lid::ERROR => ((usize::from(identify.elpe) + 1) * size_of::<ErrorLogEntry>()).min(PAGE_SIZE),
        lid::CHANGED_NAMESPACES
        | lid::CHANGED_ALLOCATED_NAMESPACES
        | lid::ANA
        | lid::PREDICTABLE_LATENCY_EVENT_AGGREGATE
        | lid::ENDURANCE_GROUP_EVENT_AGGREGATE
        | lid::LBA_STATUS
        | lid::REACHABILITY_GROUPS
        | lid::REACHABILITY_ASSOCIATIONS
        | lid::CHANGED_ZONE_LIST => PAGE_SIZE,
        lid::RESERVATION_NOTIFICATION => 64,
        _ => 512,
    }
}

#[cfg(test)]
mod tests {
    use gangway_spec::CompletionQueueEntry;

    use super::*;

    fn fail(events: &mut Events, status: Status) {
        let entry = CompletionQueueEntry::new(0, status);
        events.reported(&Completion { user: 0, entry, data: CommandData::None });
    }

    #[test]
    fn requests_are_made_again_unless_the_controller_takes_no_more() {
        let outstanding = || Events { wanted: 4, requests: 4, ..Events::default() };
        let mut events = outstanding();
        fail(&mut events, Status::ABORT_REQUESTED);
        assert_eq!(events.missing(), 1);
        for refusal in
            [Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED, Status::INVALID_OPCODE, Status::INVALID_FIELD]
        {
            let mut events = outstanding();
            fail(&mut events, refusal.with_dnr());
            assert_eq!((events.missing(), events.requests), (0, 3), "{refusal}");
        }
    }

    #[test]
    fn requests_that_fail_again_and_again_are_given_up() {
        let mut events = Events { wanted: 1, ..Events::default() };
        let mut made = 0;
        while events.missing() > 0 {
            events.requests += 1;
            made += 1;
            fail(&mut events, Status::INTERNAL_ERROR);
        }
        assert_eq!(made, MOST_FAILURES);
    }
}
