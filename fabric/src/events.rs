//! Asynchronous events of one controller: outstanding requests, events that wait for one, and masking.
//!
//! An event that was reported is masked until the host has read the log page that it names without Retain Asynchronous
//! Event. One more like it waits meanwhile: it is forgotten when the log page was asked for after it came, since the
//! host has read of it then, and reported otherwise. NVMe Base 2.0, 5.2 and 5.27.1.8.

use gangway_spec::Status;
use gangway_spec::aen;
pub use gangway_spec::aen::AsyncEvent;
use gangway_spec::identify::Oaes;

/// Most events that wait for a request. Beyond that, the host has long lost track, and memory must not grow.
const MAX_PENDING: usize = 64;
/// As many of those that are of one namespace each: they take no room from the others.
const MAX_OF_NAMESPACES: usize = 1024;

/// Whether there is room for an event beside others.
fn has_room<'a>(event: &AsyncEvent, others: impl Iterator<Item = &'a AsyncEvent>) -> bool {
    let of_namespace = event.parameter != 0;
    let limit = if of_namespace { MAX_OF_NAMESPACES } else { MAX_PENDING };
    others.filter(|other| (other.parameter != 0) == of_namespace).count() < limit
}

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
    one.kind == other.kind && is_told_by(one, (other.log_page, other.parameter))
}

/// Whether a log page, of what it is read of, tells of an event. Those of zones are of one namespace each.
fn is_told_by(event: &AsyncEvent, page: (u8, u32)) -> bool {
    (event.log_page, event.parameter) == page
}

/// A point in time: which events had come by then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// An event that is to be reported.
#[derive(Clone, Copy, Debug)]
struct Pending {
    event: AsyncEvent,
    /// When it came last.
    came: Moment,
}

/// The asynchronous events of one controller. `Tag` names a request that is outstanding.
#[derive(Debug)]
pub struct AsyncEvents<Tag> {
    limit: usize,
    configuration: u32,
    outstanding: Vec<Tag>,
    pending: Vec<Pending>,
    masked: Vec<AsyncEvent>,
    last: Moment,
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
            last: Moment::default(),
        }
    }

    /// The Asynchronous Event Configuration, feature 0Bh.
    pub fn configuration(&self) -> u32 {
        self.configuration
    }

    /// Sets the Asynchronous Event Configuration. Events that wait and are no longer wanted are forgotten.
    pub fn configure(&mut self, configuration: u32) {
        self.configuration = configuration;
        self.pending.retain(|pending| is_enabled(configuration, &pending.event));
    }

    /// Takes an Asynchronous Event Request. [`AsyncEvents::report`] says when it is to be completed.
    ///
    /// # Errors
    /// Asynchronous Event Request Limit Exceeded.
    pub fn request(&mut self, tag: Tag) -> Result<(), Status> {
        if self.outstanding.len() >= self.limit {
            return Err(Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED);
        }
        self.outstanding.push(tag);
        Ok(())
    }

    /// Something happened. Nothing comes of it when the host does not want such events.
    pub fn raise(&mut self, event: AsyncEvent) {
        if !is_enabled(self.configuration, &event) {
            return;
        }
        self.last.0 += 1;
        let came = self.last;
        if let Some(same) = self.pending.iter_mut().find(|pending| pending.event == event) {
            same.came = came;
        } else if has_room(&event, self.pending.iter().map(|pending| &pending.event)) {
            self.pending.push(Pending { event, came });
        }
    }

    /// The next request to be completed now, and dwords 0 and 1 of its completion. To be called until there is none, after
    /// whatever may have made one: a request, an event, a log page that was read.
    pub fn report(&mut self) -> Option<(Tag, u64)> {
        let next = self.pending.iter().position(|pending| !is_masked(&self.masked, &pending.event))?;
        if self.outstanding.is_empty() {
            return None;
        }
        let Pending { event, .. } = self.pending.remove(next);
        // Without a log page there is nothing that could clear the event, so it must not be masked.
        if event.log_page != 0 && has_room(&event, self.masked.iter()) {
            self.masked.push(event);
        }
        Some((self.outstanding.remove(0), event.into_result()))
    }

    /// The present, for [`AsyncEvents::log_read`]. To be noted before the content of the page is.
    pub fn now(&self) -> Moment {
        self.last
    }

    /// The host has read a log page as it was at `moment` or later: its identifier, and the parameter of the events that
    /// it tells of. `retain` is the command's Retain Asynchronous Event.
    pub fn log_read(&mut self, page: (u8, u32), retain: bool, moment: Moment) {
        if !retain && page.0 != 0 {
            self.masked.retain(|event| !is_told_by(event, page));
            // What the host has just read need not be announced to it.
            self.pending.retain(|pending| !is_told_by(&pending.event, page) || pending.came > moment);
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

    /// Raises an event, and gives what is to be completed for it.
    fn raise(events: &mut AsyncEvents<u16>, event: AsyncEvent) -> Option<(u16, u64)> {
        events.raise(event);
        events.report()
    }

    fn read(events: &mut AsyncEvents<u16>, lid: u8, retain: bool) {
        events.log_read((lid, 0), retain, events.now());
    }

    #[test]
    fn a_request_waits_until_an_event_is_raised() {
        let mut events = events();
        assert_eq!(events.request(7), Ok(()));
        assert_eq!(events.report(), None);
        assert_eq!(raise(&mut events, AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED), Some((7, 0x0004_0002)));
        assert_eq!(events.outstanding(), 0);
    }

    #[test]
    fn an_event_waits_for_a_request_and_is_reported_once() {
        let mut events = events();
        assert_eq!(raise(&mut events, AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED), None);
        assert_eq!(raise(&mut events, AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED), None);
        assert_eq!(events.request(1), Ok(()));
        assert_eq!(events.report(), Some((1, 0x0004_0002)));
        assert_eq!(events.request(2), Ok(()));
        assert_eq!(events.report(), None);
    }

    #[test]
    fn more_requests_than_the_limit_are_refused() {
        let mut events = events();
        for tag in 0..4 {
            assert_eq!(events.request(tag), Ok(()));
        }
        assert_eq!(events.request(4), Err(Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED));
        assert!(raise(&mut events, AsyncEvent::ANA_CHANGE).is_some());
        assert_eq!(events.request(4), Ok(()));
    }

    #[test]
    fn a_reported_event_is_masked_until_its_log_page_is_read_without_retain() {
        let mut events = events();
        for tag in 0..4 {
            assert_eq!(events.request(tag), Ok(()));
        }
        assert!(raise(&mut events, TEMPERATURE).is_some());
        assert_eq!(raise(&mut events, SPARE), None, "both are in the log page that has yet to be read");
        let namespaces = AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED;
        assert!(raise(&mut events, namespaces).is_some(), "another log page");
        read(&mut events, 0x02, true);
        read(&mut events, 0x04, false);
        assert_eq!(raise(&mut events, SPARE), None);
        read(&mut events, 0x02, false);
        assert_eq!(events.report(), None, "the host has read of it");
        assert_eq!(raise(&mut events, SPARE), Some((2, SPARE.into_result())));
    }

    #[test]
    fn what_happens_while_a_log_page_is_being_read_is_reported_afterwards() {
        let mut events = events();
        for tag in 0..4 {
            assert_eq!(events.request(tag), Ok(()));
        }
        assert!(raise(&mut events, TEMPERATURE).is_some());
        let asked = events.now();
        assert_eq!(raise(&mut events, SPARE), None, "masked");
        events.log_read((0x02, 0), false, asked);
        assert_eq!(events.report(), Some((1, SPARE.into_result())), "the page may be from before");
        let asked = events.now();
        assert_eq!(raise(&mut events, TEMPERATURE), None);
        assert_eq!(raise(&mut events, SPARE), None);
        events.log_read((0x02, 0), false, asked);
        assert_eq!(events.report(), Some((2, TEMPERATURE.into_result())));
        assert_eq!(events.report(), None, "one log page tells of both");
        read(&mut events, 0x02, false);
        assert_eq!(events.report(), None);
    }

    #[test]
    fn an_event_whose_log_page_was_read_before_it_was_reported_is_forgotten() {
        let mut events = events();
        assert_eq!(raise(&mut events, AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED), None);
        read(&mut events, 0x04, false);
        assert_eq!(events.request(1), Ok(()));
        assert_eq!(events.report(), None);
    }

    #[test]
    fn events_that_are_not_configured_are_not_reported() {
        let mut events = AsyncEvents::new(4);
        assert_eq!(events.request(0), Ok(()));
        assert_eq!(raise(&mut events, AsyncEvent::DISCOVERY_LOG_CHANGE), None);
        assert_eq!(raise(&mut events, TEMPERATURE), None);
        let error = AsyncEvent::new(aen::TYPE_ERROR, aen::ERROR_PERSISTENT_INTERNAL, 1);
        assert_eq!(raise(&mut events, error), Some((0, 0x0001_0300)), "errors cannot be turned off");
        events.configure(1 << 31 | 1 << 1);
        assert_eq!(events.request(1), Ok(()));
        assert_eq!(raise(&mut events, SPARE), None);
        assert_eq!(raise(&mut events, AsyncEvent::DISCOVERY_LOG_CHANGE), Some((1, 0x0070_f002)));
        assert_eq!(raise(&mut events, TEMPERATURE), None);
        events.configure(0);
        assert_eq!(events.request(2), Ok(()));
        assert_eq!(events.report(), None, "an event that waited is no longer wanted");
    }

    #[test]
    fn events_of_zones_are_masked_for_each_namespace_by_itself() {
        let mut events = events();
        for tag in 0..4 {
            assert_eq!(events.request(tag), Ok(()));
        }
        let [one, two] = [1, 2].map(|nsid| AsyncEvent::ZONE_DESCRIPTOR_CHANGED.of(nsid));
        assert_eq!(raise(&mut events, one), Some((0, one.into_result())));
        assert_eq!(raise(&mut events, one), None);
        assert_eq!(raise(&mut events, two), Some((1, two.into_result())), "another list tells of it");
        events.log_read((one.log_page, 2), false, events.now());
        assert_eq!(events.report(), None);
        assert_eq!(raise(&mut events, two), Some((2, two.into_result())));
        events.log_read((one.log_page, 1), false, events.now());
        assert_eq!(raise(&mut events, one), Some((3, one.into_result())));
    }

    #[test]
    fn an_event_without_a_log_page_is_never_masked() {
        let mut events = events();
        let shutdown = AsyncEvent::new(aen::TYPE_IMMEDIATE, aen::IMMEDIATE_NORMAL_SUBSYSTEM_SHUTDOWN, 0);
        for tag in 0..2 {
            assert_eq!(events.request(tag), Ok(()));
        }
        assert_eq!(raise(&mut events, shutdown), Some((0, 3)));
        assert_eq!(raise(&mut events, shutdown), Some((1, 3)));
    }

    #[test]
    fn a_reset_ends_every_request_and_forgets_the_rest() {
        let mut events = events();
        assert_eq!(events.request(3), Ok(()));
        assert!(raise(&mut events, SPARE).is_some());
        assert_eq!(events.request(5), Ok(()));
        assert_eq!(events.request(6), Ok(()));
        assert!(events.cancel(5) && !events.cancel(5));
        assert_eq!(events.drain(), [6]);
        assert_eq!(events.configuration(), 0);
        events.configure(ALL);
        assert_eq!(events.request(7), Ok(()));
        assert!(raise(&mut events, SPARE).is_some(), "the mask is gone");
    }

    #[test]
    fn events_that_wait_do_not_grow_without_limit() {
        let mut events = events();
        for log_page in 1..=255 {
            events.raise(AsyncEvent::new(aen::TYPE_VENDOR, 0, log_page));
        }
        let mut reported = 0;
        while events.request(0).is_ok() && events.report().is_some() {
            reported += 1;
        }
        assert_eq!(reported, MAX_PENDING);
    }
    #[test]
    fn events_of_many_namespaces_take_no_room_from_others() {
        let mut events = events();
        for nsid in 1..=2000 {
            events.raise(AsyncEvent::ZONE_DESCRIPTOR_CHANGED.of(nsid));
        }
        events.raise(SPARE);
        let mut reported = Vec::new();
        while events.request(0).is_ok()
            && let Some((_, result)) = events.report()
        {
            reported.push(result);
        }
        assert_eq!((reported.len(), reported.last()), (MAX_OF_NAMESPACES + 1, Some(&SPARE.into_result())));
        // They are masked, and take no room there either.
        assert_eq!(events.request(0), Ok(()));
        assert!(raise(&mut events, SPARE).is_none());
    }
}
