//! Asynchronous events (NVMe Base 1.4, 5.2).

use std::collections::VecDeque;

use gangway_spec::aen::AsyncEvent;

use super::EVENT_REQUEST_LIMIT;

/// Events that wait for a request, at most; further ones are dropped, as the host has enough to read.
const WAITING_LIMIT: usize = 16;

/// Requests that the host has left, and events that wait for one.
#[derive(Default)]
pub(in crate::emulated) struct Events {
    /// Command identifiers of outstanding requests.
    requests: VecDeque<u16>,
    waiting: VecDeque<AsyncEvent>,
    /// The log page that must be read before another event of the type is reported.
    masked: [Option<u8>; 8],
}

impl Events {
    /// Keeps a request. `false` when there are too many.
    pub(super) fn request(&mut self, cid: u16) -> bool {
        let fits = self.requests.len() < usize::from(EVENT_REQUEST_LIMIT);
        if fits {
            self.requests.push_back(cid);
        }
        fits
    }

    /// Takes a request back. `false` when there is none with this identifier.
    pub(super) fn cancel(&mut self, cid: u16) -> bool {
        let found = self.requests.iter().position(|&request| request == cid);
        found.and_then(|index| self.requests.remove(index)).is_some()
    }

    /// Whether a command with this identifier is outstanding.
    pub(super) fn holds(&self, cid: u16) -> bool {
        self.requests.contains(&cid)
    }

    /// Reports an event as soon as there is a request for it. One that waits already is not reported twice.
    pub(in crate::emulated) fn raise(&mut self, event: AsyncEvent) {
        if self.waiting.len() < WAITING_LIMIT && !self.waiting.contains(&event) {
            self.waiting.push_back(event);
        }
    }

    /// The next event to report and the request that it answers.
    pub(super) fn deliver(&mut self) -> Option<(u16, AsyncEvent)> {
        let request = *self.requests.front()?;
        let masked = self.masked;
        let next = self.waiting.iter().position(|event| masked[usize::from(event.kind & 7)].is_none())?;
        let event = self.waiting.remove(next)?;
        self.requests.pop_front();
        self.masked[usize::from(event.kind & 7)] = Some(event.log_page);
        Some((request, event))
    }

    /// The host has read a log page and did not ask to retain its event.
    pub(super) fn log_page_was_read(&mut self, log_page: u8) {
        for masked in &mut self.masked {
            if *masked == Some(log_page) {
                *masked = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMART: AsyncEvent = AsyncEvent::new(1, 1, 2);

    #[test]
    fn an_event_waits_for_a_request() {
        let mut events = Events::default();
        events.raise(SMART);
        assert_eq!(events.deliver(), None);
        assert!(events.request(7));
        assert_eq!(events.deliver(), Some((7, SMART)));
    }

    #[test]
    fn the_next_event_of_a_type_waits_until_the_log_page_was_read() {
        let mut events = Events::default();
        assert!(events.request(1) && events.request(2) && events.request(3));
        events.raise(SMART);
        assert!(events.deliver().is_some());
        events.raise(SMART);
        let notice = AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED;
        events.raise(notice);
        assert_eq!(events.deliver(), Some((2, notice)), "another type is not held up");
        assert_eq!(events.deliver(), None);
        events.log_page_was_read(3);
        assert_eq!(events.deliver(), None);
        events.log_page_was_read(2);
        assert_eq!(events.deliver(), Some((3, SMART)));
    }

    #[test]
    fn requests_beyond_the_limit_are_refused() {
        let mut events = Events::default();
        for cid in 0..EVENT_REQUEST_LIMIT {
            assert!(events.request(cid.into()));
        }
        assert!(!events.request(99));
        assert!(events.holds(0) && !events.holds(99));
    }
}
