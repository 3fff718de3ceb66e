//! The Reservation Notification log of one controller, and what it does not want to hear.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gangway_spec::reservation::{NotificationMask, ReservationNotificationLog};

/// Pages that wait at most. Others are lost, which the gap in their count shows.
const MOST_PAGES: usize = 255;

/// Notifications that a host has not read (NVMe Base 2.0, 5.16.1.24), of one association.
#[derive(Debug, Default)]
pub(crate) struct NotificationLog(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    count: u64,
    pages: VecDeque<Page>,
    /// By NSID, as the host knows it.
    masks: BTreeMap<u32, NotificationMask>,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    count: u64,
    kind: u8,
    nsid: u32,
}

impl NotificationLog {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a notification about namespace `nsid`. Whether the host wants it.
    pub(crate) fn add(&self, kind: u8, nsid: u32) -> bool {
        let mut state = self.state();
        let mask = state.masks.get(&nsid).copied().unwrap_or_default();
        if mask.bits() & 1_u32.checked_shl(kind.into()).unwrap_or(0) != 0 {
            return false;
        }
        state.count += 1;
        if state.pages.len() < MOST_PAGES {
            let count = state.count;
            state.pages.push_back(Page { count, kind, nsid });
        }
        true
    }

    /// The oldest page, or an empty one.
    pub(crate) fn read(&self) -> ReservationNotificationLog {
        let state = self.state();
        let mut log = ReservationNotificationLog::default();
        if let Some(Page { count, kind, nsid }) = state.pages.front().copied() {
            log.count.set(count);
            log.kind = kind;
            log.available = u8::try_from(state.pages.len() - 1).unwrap_or(u8::MAX);
            log.nsid.set(nsid);
        }
        log
    }

    /// The oldest page was read for good. Whether there is another.
    pub(crate) fn pop(&self) -> bool {
        let mut state = self.state();
        state.pages.pop_front();
        !state.pages.is_empty()
    }

    /// Which notifications about a namespace are not wanted.
    pub(crate) fn mask(&self, nsid: u32) -> NotificationMask {
        self.state().masks.get(&nsid).copied().unwrap_or_default()
    }

    /// Says which notifications about a namespace of the export are not wanted.
    pub(crate) fn set_mask(&self, nsid: u32, mask: NotificationMask) {
        self.state().masks.insert(nsid, mask);
    }

    /// The controller was reset.
    pub(crate) fn reset(&self) {
        *self.state() = State::default();
    }
}

#[cfg(test)]
mod tests {
    use gangway_spec::reservation::notification;

    use super::*;

    fn page(log: &NotificationLog) -> (u64, u8, u8, u32) {
        let page = log.read();
        (page.count.get(), page.kind, page.available, page.nsid.get())
    }

    #[test]
    fn pages_are_read_in_order_and_stay_until_they_were_read_for_good() {
        let log = NotificationLog::default();
        assert!(log.add(notification::REGISTRATION_PREEMPTED, 5));
        assert!(log.add(notification::RESERVATION_RELEASED, 6));
        assert_eq!((page(&log), page(&log)), ((1, 1, 1, 5), (1, 1, 1, 5)));
        assert!(log.pop());
        assert_eq!(page(&log), (2, 2, 0, 6));
        assert!(!log.pop());
        assert_eq!(page(&log), (0, 0, 0, 0), "an empty page is all zeroes");
        assert!(!log.pop());
    }

    #[test]
    fn what_is_masked_is_not_noted_for_that_namespace() {
        let log = NotificationLog::default();
        log.set_mask(5, NotificationMask::RESERVATION_RELEASED);
        assert!(!log.add(notification::RESERVATION_RELEASED, 5));
        assert!(log.add(notification::RESERVATION_RELEASED, 6));
        assert!(log.add(notification::RESERVATION_PREEMPTED, 5));
        assert_eq!(page(&log), (1, 2, 1, 6));
        assert_eq!(log.mask(5), NotificationMask::RESERVATION_RELEASED);
        assert_eq!(log.mask(6), NotificationMask::empty());
        log.reset();
        assert_eq!(page(&log), (0, 0, 0, 0));
        assert!(log.mask(5).is_empty());
    }

    #[test]
    fn what_is_lost_leaves_a_gap_in_the_count() {
        let log = NotificationLog::default();
        for _ in 0..MOST_PAGES + 10 {
            log.add(notification::RESERVATION_RELEASED, 1);
        }
        for count in 1..=MOST_PAGES {
            assert_eq!(page(&log).0, count as u64);
            assert_eq!(log.pop(), count < MOST_PAGES);
        }
        log.add(notification::RESERVATION_RELEASED, 1);
        assert_eq!(page(&log).0, MOST_PAGES as u64 + 11);
    }
}
