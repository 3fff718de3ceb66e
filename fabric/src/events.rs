//! Asynchronous events of one controller: outstanding requests, events that wait for one, and masking.
//!
//! An event that was reported is masked until the host reads the log page that it names without Retain Asynchronous
//! Event. While it is masked further ones like it are not queued: what they would tell is in the log page that the
//! host has yet to read. NVMe Base 2.0, 5.2 and 5.27.1.8.

use gangway_spec::Status;
use gangway_spec::aen;
pub use gangway_spec::aen::AsyncEvent;
use gangway_spec::identify::Oaes;

/// Most events that wait for a request. Beyond that, the host has long lost track, and memory must not grow.
const MAX_PENDING: usize = 64;

/// The bits of the Asynchronous Event Configuration of which one must be set for an event to be reported. Errors,
/// vendors' events and those of later specifications have none.
fn enabling_bits(event: &AsyncEvent) -> Option<u32> {
    match (event.kind, event.info) {
        (aen::TYPE_SMART, aen::SMART_SPARE) => Some(1 << 0),
        (aen::TYPE_SMART, aen::SMART_TEMPERATURE) => Some(1 << 1),
        // Degraded, read-only, without its volatile memory backup, or with a read-only persistent memory region.
        (aen::TYPE_SMART, aen::SMART_RELIABILITY) => Some(0b11_1100),
        // The first notices have bits 8 up, in order.
        (aen::TYPE_NOTICE, info @ ..=aen::NOTICE_ENDURANCE_GROUP_EVENT) => Some(1 << (8 + info)),
        (aen::TYPE_NOTICE, aen::NOTICE_ZONE_DESCRIPTOR_CHANGED) => Some(Oaes::ZONE_DESCRIPTOR_CHANGED.bits()),
        (aen::TYPE_NOTICE, aen::NOTICE_DISCOVERY_LOG_CHANGE) => Some(Oaes::DISCOVERY_LOG_CHANGE.bits()),
        (aen::TYPE_IMMEDIATE, aen::IMMEDIATE_NORMAL_SUBSYSTEM_SHUTDOWN) => {
            Some(Oaes::NORMAL_SUBSYSTEM_SHUTDOWN.bits())
        }
        (aen::TYPE_IMMEDIATE, aen::IMMEDIATE_TEMPERATURE_HYSTERESIS_RECOVERY) => {
            Some(Oaes::TEMPERATURE_HYSTERESIS.bits())
        }
        _ => None,
    }
}

/// Whether one event stands for the other: they are cleared together.
fn alike(one: &AsyncEvent, other: &AsyncEvent) -> bool {
    one.kind == other.kind && one.log_page == other.log_page
}

/// The asynchronous events of one controller. `Tag` names a request that is outstanding.
#[derive(Debug)]
pub struct AsyncEvents<Tag> {
    limit: usize,
    configuration: u32,
    outstanding: Vec<Tag>,
    pending: Vec<AsyncEvent>,
    masked: Vec<AsyncEvent>,
}

impl<Tag: Copy + PartialEq> AsyncEvents<Tag> {
    /// No events, and at most `limit` outstanding requests: one more than Identify Controller's AERL, which is 0's
    /// based.
    pub fn new(limit: usize) -> AsyncEvents<Tag> {
        AsyncEvents {
            limit,
            configuration: 0,
            outstanding: Vec::with_capacity(limit),
            pending: Vec::new(),
            masked: Vec::new(),
        }
    }

    /// The Asynchronous Event Configuration, feature 0Bh.
    pub fn configuration(&self) -> u32 {
        self.configuration
    }

    /// Sets the Asynchronous Event Configuration. Events that wait and are no longer wanted are forgotten.
    pub fn configure(&mut self, configuration: u32) {
        self.configuration = configuration;
        self.pending.retain(|event| is_enabled(configuration, event));
    }

    /// Takes an Asynchronous Event Request. When an event waits already, the request and its completion dword 0 come
    /// back to be completed at once.
    ///
    /// # Errors
    /// Asynchronous Event Request Limit Exceeded.
    pub fn request(&mut self, tag: Tag) -> Result<Option<(Tag, u32)>, Status> {
        if self.outstanding.len() >= self.limit {
            return Err(Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED);
        }
        let Some(next) = self.pending.iter().position(|event| !is_masked(&self.masked, event)) else {
            self.outstanding.push(tag);
            return Ok(None);
        };
        let event = self.pending.remove(next);
        Ok(Some((tag, self.report(event))))
    }

    /// Reports an event: a request and its completion dword 0, when there is one to be completed now.
    pub fn raise(&mut self, event: AsyncEvent) -> Option<(Tag, u32)> {
        if !is_enabled(self.configuration, &event) || is_masked(&self.masked, &event) {
            return None;
        }
        if !self.outstanding.is_empty() {
            let tag = self.outstanding.remove(0);
            return Some((tag, self.report(event)));
        }
        if !self.pending.iter().any(|other| alike(other, &event)) && self.pending.len() < MAX_PENDING {
            self.pending.push(event);
        }
        None
    }

    fn report(&mut self, event: AsyncEvent) -> u32 {
        // Without a log page there is nothing that could clear the event, so it must not be masked.
        if event.log_page != 0 && self.masked.len() < MAX_PENDING {
            self.masked.push(event);
        }
        event.into_dw0()
    }

    /// The host reads log page `lid`; `retain` is the command's Retain Asynchronous Event.
    pub fn log_read(&mut self, lid: u8, retain: bool) {
        if !retain {
            self.masked.retain(|event| event.log_page != lid);
            // What the host has just read need not be announced to it.
            self.pending.retain(|event| event.log_page != lid || lid == 0);
        }
    }

    /// Forgets a request, for Abort; whether it was outstanding.
    pub fn cancel(&mut self, tag: Tag) -> bool {
        let before = self.outstanding.len();
        self.outstanding.retain(|&other| other != tag);
        self.outstanding.len() != before
    }

    /// Ends all requests and forgets all events and the configuration, when the controller is reset or goes away.
    pub fn drain(&mut self) -> Vec<Tag> {
        self.pending.clear();
        self.masked.clear();
        self.configuration = 0;
        std::mem::take(&mut self.outstanding)
    }

    /// Requests that are outstanding.
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }
}

fn is_enabled(configuration: u32, event: &AsyncEvent) -> bool {
    enabling_bits(event).is_none_or(|bits| configuration & bits != 0)
}

fn is_masked(masked: &[AsyncEvent], event: &AsyncEvent) -> bool {
    masked.iter().any(|other| alike(other, event))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u32 = u32::MAX;
    const SPARE: AsyncEvent = AsyncEvent::new(aen::TYPE_SMART, aen::SMART_SPARE, 2);
    const TEMPERATURE: AsyncEvent = AsyncEvent::new(aen::TYPE_SMART, aen::SMART_TEMPERATURE, 2);

    fn events() -> AsyncEvents<u16> {
        let mut events = AsyncEvents::new(4);
        events.configure(ALL);
        events
    }

    #[test]
    fn a_request_waits_until_an_event_is_raised() {
        let mut events = events();
        assert_eq!(events.request(7), Ok(None));
        assert_eq!(events.raise(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED), Some((7, 0x0004_0002)));
        assert_eq!(events.outstanding(), 0);
    }

    #[test]
    fn an_event_waits_for_a_request_and_is_reported_once() {
        let mut events = events();
        assert_eq!(events.raise(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED), None);
        assert_eq!(events.raise(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED), None);
        assert_eq!(events.request(1), Ok(Some((1, 0x0004_0002))));
        assert_eq!(events.request(2), Ok(None));
    }

    #[test]
    fn more_requests_than_the_limit_are_refused() {
        let mut events = events();
        for tag in 0..4 {
            assert_eq!(events.request(tag), Ok(None));
        }
        assert_eq!(events.request(4), Err(Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED));
        assert!(events.raise(AsyncEvent::ANA_CHANGE).is_some());
        assert_eq!(events.request(4), Ok(None));
    }

    #[test]
    fn a_reported_event_is_masked_until_its_log_page_is_read_without_retain() {
        let mut events = events();
        for tag in 0..4 {
            assert_eq!(events.request(tag), Ok(None));
        }
        assert!(events.raise(TEMPERATURE).is_some());
        assert_eq!(events.raise(SPARE), None, "both are in the log page that has yet to be read");
        assert!(events.raise(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED).is_some(), "another log page");
        events.log_read(0x02, true);
        events.log_read(0x04, false);
        assert_eq!(events.raise(SPARE), None);
        events.log_read(0x02, false);
        assert_eq!(events.raise(SPARE), Some((2, SPARE.into_dw0())));
    }

    #[test]
    fn an_event_whose_log_page_was_read_before_it_was_reported_is_forgotten() {
        let mut events = events();
        assert_eq!(events.raise(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED), None);
        events.log_read(0x04, false);
        assert_eq!(events.request(1), Ok(None));
    }

    #[test]
    fn events_that_are_not_configured_are_not_reported() {
        let mut events = AsyncEvents::new(4);
        assert_eq!(events.request(0), Ok(None));
        assert_eq!(events.raise(AsyncEvent::DISCOVERY_LOG_CHANGE), None);
        assert_eq!(events.raise(TEMPERATURE), None);
        let error = AsyncEvent::new(aen::TYPE_ERROR, aen::ERROR_PERSISTENT_INTERNAL, 1);
        assert_eq!(events.raise(error), Some((0, 0x0001_0300)), "errors cannot be turned off");
        events.configure(1 << 31 | 1 << 1);
        assert_eq!(events.request(1), Ok(None));
        assert_eq!(events.raise(SPARE), None);
        assert_eq!(events.raise(AsyncEvent::DISCOVERY_LOG_CHANGE), Some((1, 0x0070_f002)));
        assert_eq!(events.raise(TEMPERATURE), None);
        events.configure(0);
        assert_eq!(events.request(2), Ok(None), "an event that waited is no longer wanted");
    }

    #[test]
    fn an_event_without_a_log_page_is_never_masked() {
        let mut events = events();
        let shutdown = AsyncEvent::new(aen::TYPE_IMMEDIATE, aen::IMMEDIATE_NORMAL_SUBSYSTEM_SHUTDOWN, 0);
        for tag in 0..2 {
            assert_eq!(events.request(tag), Ok(None));
        }
        assert_eq!(events.raise(shutdown), Some((0, 3)));
        assert_eq!(events.raise(shutdown), Some((1, 3)));
    }

    #[test]
    fn a_reset_ends_every_request_and_forgets_the_rest() {
        let mut events = events();
        assert_eq!(events.request(3), Ok(None));
        assert!(events.raise(SPARE).is_some());
        assert_eq!(events.request(5), Ok(None));
        assert_eq!(events.request(6), Ok(None));
        assert!(events.cancel(5) && !events.cancel(5));
        assert_eq!(events.drain(), [6]);
        assert_eq!(events.configuration(), 0);
        events.configure(ALL);
        assert_eq!(events.request(7), Ok(None));
        assert!(events.raise(SPARE).is_some(), "the mask is gone");
    }

    #[test]
    fn events_that_wait_do_not_grow_without_limit() {
        let mut events = events();
        for log_page in 1..=255 {
            assert_eq!(events.raise(AsyncEvent::new(aen::TYPE_VENDOR, 0, log_page)), None);
        }
        let mut reported = 0;
        while events.request(0).unwrap().is_some() {
            reported += 1;
        }
        assert_eq!(reported, MAX_PENDING);
    }
}
