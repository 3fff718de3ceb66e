//! What an association was told and has not looked at.

use std::sync::{Mutex, MutexGuard, PoisonError};

use gangway_spec::aen::AsyncEvent;
use tokio::sync::Notify;

use super::{ChangedNamespaces, ChangedZones, Notice};

/// Events that wait at most. Nobody but drives and the target itself can make events, and each waits once; one beyond
/// this is dropped, as the host has enough to read.
const MOST_EVENTS: usize = 64;

/// Notices that wait to be taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// In the order in which they were first told.
    pub(crate) events: Vec<AsyncEvent>,
    pub(crate) namespaces: ChangedNamespaces,
    pub(crate) zones: ChangedZones,
}

impl News {
    fn add(&mut self, notice: Notice) {
        match notice {
            Notice::Event(event) => {
                if !self.events.contains(&event) && self.events.len() < MOST_EVENTS {
                    self.events.push(event);
                }
            }
            Notice::NamespaceChanged(nsid) => self.namespaces.add(nsid),
            Notice::ZonesChanged(nsid, page) => self.zones.add(nsid, &page),
        }
    }
}

/// The way from whoever tells to whoever owns the admin queue.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    news: Mutex<News>,
    arrived: Notify,
}

impl Mailbox {
    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a notice in. Returns at once, on any thread.
    pub(crate) fn put(&self, notice: Notice) {
        self.news().add(notice);
        self.arrived.notify_one();
    }

    /// Waits until something may have been put in since the last time. For one task; can be cancelled without loss.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Takes all that is there.
    pub(crate) fn take(&self) -> News {
        std::mem::take(&mut self.news())
    }
}

#[cfg(test)]
mod tests {
    use gangway_spec::aen;
    use gangway_spec::log::lid;

    use super::*;

    const SPARE: AsyncEvent = AsyncEvent::new(aen::TYPE_SMART, aen::SMART_SPARE, lid::SMART);
    const TEMPERATURE: AsyncEvent = AsyncEvent::new(aen::TYPE_SMART, aen::SMART_TEMPERATURE, lid::SMART);

    #[test]
    fn alike_notices_are_one_and_others_keep_their_order() {
        let mailbox = Mailbox::default();
        // A host may want one of these and not the other, though one log page tells of both.
        for event in [TEMPERATURE, SPARE, TEMPERATURE] {
            mailbox.put(Notice::Event(event));
        }
        for nsid in [3, 1, 3] {
            mailbox.put(Notice::NamespaceChanged(nsid));
        }
        let news = mailbox.take();
        assert_eq!(news.events, [TEMPERATURE, SPARE]);
        assert_eq!(news.namespaces.page()[..12], [1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(mailbox.take(), News::default());
    }

    #[test]
    fn a_mailbox_that_nobody_empties_does_not_grow() {
        let mailbox = Mailbox::default();
        for number in 0..=u8::MAX {
            mailbox.put(Notice::Event(AsyncEvent::new(aen::TYPE_VENDOR, number, 0xc0)));
            mailbox.put(Notice::NamespaceChanged(number.into()));
        }
        assert_eq!(mailbox.take().events.len(), MOST_EVENTS);
    }

    #[tokio::test]
    async fn a_notice_that_came_before_anybody_waited_ends_the_wait() {
        let mailbox = Mailbox::default();
        mailbox.put(Notice::Event(SPARE));
        mailbox.arrived().await;
        assert_eq!(mailbox.take().events, [SPARE]);
    }
}
