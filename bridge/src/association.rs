//! Associations: what one host's connections have in common, and who is still alive.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use gangway_fabric::connect::ConnectRequest;
use gangway_spec::status::Status;
use tokio::sync::watch;

use crate::events::{Mailbox, News, Notice};
use crate::policy::Policy;
use crate::reservation::NotificationLog;
use crate::status::Tally;

/// What to do when two names come with the same host identifier.
pub(crate) const ONE_IDENTIFIER_ONE_NAME: &str = "give two hosts two identifiers (/etc/nvme/hostid), \
    and one host the same name everywhere (/etc/nvme/hostnqn); one that gives no name has the one that is made of its identifier";

/// One host's association with one controller of ours (NVMe Base 2.0, 3.3.2; NVMe over Fabrics 1.1, 1.5.2).
#[derive(Debug)]
pub(crate) struct Association {
    /// Unique in the process; unlike `cntlid` never used again.
    pub(crate) id: u64,
    pub(crate) cntlid: u16,
    /// Index of the export that it is with; `None` for a discovery controller.
    pub(crate) export: Option<usize>,
    /// The Connect command of its admin queue: who the host is.
    pub(crate) connect: ConnectRequest,
    /// Set by reactors when commands arrive, taken by the keep-alive timer (traffic-based keep-alive).
    activity: AtomicBool,
    /// Odd while CC.EN is set, when I/O queues can be connected; rises with each change.
    enabled: AtomicU64,
    queues: Mutex<Queues>,
    /// What its host did on queues that are gone.
    past: Mutex<Tally>,
    /// What its host may do.
    policy: OnceLock<Arc<Policy>>,
    mailbox: Mailbox,
    /// The host heeds retry delays (ACRE of Host Behavior Support).
    retries_later: AtomicBool,
    /// The formats of Copy that the host enabled (CDFE of Host Behavior Support).
    copy_formats: AtomicU16,
    /// Its controller's Asynchronous Event Configuration, for whoever asks the drive for events.
    wanted_events: AtomicU32,
    notifications: NotificationLog,
    closed: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Queues {
    /// I/O queues that Number of Queues granted.
    granted: u16,
    connected: BTreeSet<u16>,
}

impl Association {
    pub(crate) fn new(
        id: u64,
        cntlid: u16,
        export: Option<usize>,
        connect: ConnectRequest,
        granted: u16,
    ) -> Self {
        Self {
            id,
            cntlid,
            export,
            connect,
            activity: AtomicBool::new(false),
            enabled: AtomicU64::new(0),
            past: Mutex::default(),
            queues: Mutex::new(Queues { granted, ..Queues::default() }),
            policy: OnceLock::new(),
            mailbox: Mailbox::default(),
            retries_later: AtomicBool::new(false),
            copy_formats: AtomicU16::new(0),
            wanted_events: AtomicU32::new(0),
            notifications: NotificationLog::default(),
            closed: watch::Sender::new(false),
        }
    }

    /// By what reactors recognise the commands of one host.
    pub(crate) fn host(&self) -> u128 {
        u128::from_be_bytes(self.connect.host_id.0)
    }

    /// Says what its host may do. What was said first holds.
    pub(crate) fn set_policy(&self, policy: Arc<Policy>) {
        let _ = self.policy.set(policy);
    }

    /// What its host may do.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.policy.get().cloned().unwrap_or_default()
    }

    /// Notes that a command arrived. Writes only when nothing was noted since the timer looked, so that the line is
    /// not passed between cores for every command.
    pub(crate) fn note_activity(&self) {
        if !self.activity.load(Ordering::Relaxed) {
            self.activity.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn take_activity(&self) -> bool {
        self.activity.swap(false, Ordering::Relaxed)
    }

    /// Tells the host of something, as far as it wants to hear of it. From any thread, and never blocks: the task that
    /// owns the admin queue does the rest. Alike notices that it has not looked at are one.
    pub(crate) fn tell(&self, notice: Notice) {
        self.mailbox.put(notice);
    }

    /// Says whether the host heeds retry delays, and which formats of Copy it has enabled besides 0h and 1h.
    pub(crate) fn set_behavior(&self, retries_later: bool, copy_formats: u16) {
        self.retries_later.store(retries_later, Ordering::Relaxed);
        self.copy_formats.store(copy_formats, Ordering::Relaxed);
    }

    /// The formats of Copy that the host has enabled, as bits of OCFS.
    pub(crate) fn copy_formats(&self) -> u16 {
        self.copy_formats.load(Ordering::Relaxed)
    }

    pub(crate) fn retries_later(&self) -> bool {
        self.retries_later.load(Ordering::Relaxed)
    }

    /// The status of a command that was not executed, with how long its host is to wait before it tries again: which of
    /// the delays in Identify Controller (NVMe Base 2.0, 4.2.3). Those of the drive, which has others, are not passed on.
    #[cold]
    pub(crate) fn with_delay(&self, status: Status) -> Status {
        let delay = match status {
            _ if status.dnr() || !self.retries_later() => 0,
            _ if status.is(Status::COMMAND_INTERRUPTED) => 1,
            _ if status.is(Status::NAMESPACE_NOT_READY) || status.is(Status::FORMAT_IN_PROGRESS) => 2,
            _ => 0,
        };
        status.with_crd(delay)
    }

    /// Notes what the host wants to be told of. Whether that was something else before.
    pub(crate) fn want_events(&self, configuration: u32) -> bool {
        self.wanted_events.swap(configuration, Ordering::Relaxed) != configuration
    }

    pub(crate) fn wanted_events(&self) -> u32 {
        self.wanted_events.load(Ordering::Relaxed)
    }

    /// Waits until there may be notices. For the one task that owns the admin queue.
    pub(crate) async fn told(&self) {
        self.mailbox.arrived().await;
    }

    /// Takes the notices that there are.
    pub(crate) fn take_news(&self) -> News {
        self.mailbox.take()
    }

    /// What it was told about reservations.
    pub(crate) fn notifications(&self) -> &NotificationLog {
        &self.notifications
    }

    pub(crate) fn set_enabled(&self, enabled: bool) {
        if self.is_enabled() != enabled {
            self.enabled.fetch_add(1, Ordering::AcqRel);
        }
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire) % 2 == 1
    }

    /// A queue is gone, on which its host did this.
    pub(crate) fn remember(&self, tally: Tally) {
        *self.past.lock().unwrap_or_else(PoisonError::into_inner) += tally;
    }

    /// What its host did on queues that are gone.
    pub(crate) fn past(&self) -> Tally {
        *self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has_queues(&self) -> bool {
        !self.queues().connected.is_empty()
    }

    /// Ends the association; its admin queue and its I/O queues notice.
    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }

    pub(crate) fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    fn queues(&self) -> std::sync::MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of Queues: grants at most `limit` I/O queues and returns how many.
    pub(crate) fn grant_queues(&self, wanted: u16, limit: u16) -> u16 {
        let granted = wanted.clamp(1, limit);
        self.queues().granted = granted;
        granted
    }

    pub(crate) fn granted_queues(&self) -> u16 {
        self.queues().granted
    }

    /// Takes queue `qid` for a connection; `None` when it is taken. Dropping the claim frees it.
    pub(crate) fn claim_queue(self: &Arc<Self>, qid: u16) -> Option<QueueClaim> {
        let enabled = self.enabled.load(Ordering::Acquire);
        self.queues().connected.insert(qid).then(|| QueueClaim {
            association: Arc::clone(self),
            qid,
            enabled,
        })
    }
}

/// An I/O queue identifier in use by a connection.
#[derive(Debug)]
pub(crate) struct QueueClaim {
    association: Arc<Association>,
    qid: u16,
    enabled: u64,
}

impl QueueClaim {
    /// Whether the association ended, or its controller was disabled, since the queue was claimed.
    pub(crate) fn is_stale(&self) -> bool {
        self.association.is_closed() || self.association.enabled.load(Ordering::Acquire) != self.enabled
    }

    pub(crate) fn association(&self) -> &Arc<Association> {
        &self.association
    }

    /// The queue's identifier.
    pub(crate) fn qid(&self) -> u16 {
        self.qid
    }
}

impl Drop for QueueClaim {
    fn drop(&mut self) {
        self.association.queues().connected.remove(&self.qid);
    }
}

#[cfg(test)]
mod tests {
    use gangway_spec::fabrics::HostId;

    use super::*;

    fn association() -> Arc<Association> {
        let connect = ConnectRequest {
            qid: 0,
            queue_size: 32,
            flow_control_disabled: false,
            kato: std::time::Duration::from_secs(5),
            host_id: HostId([1; 16]),
            cntlid: 0xffff,
            subsystem: "nqn.2014-08.org.example:drive".parse().unwrap(),
            host: "nqn.2014-08.org.example:host".parse().unwrap(),
        };
        Arc::new(Association::new(1, 1, Some(0), connect, 4))
    }

    #[test]
    fn a_queue_is_free_again_when_its_connection_is_gone() {
        let association = association();
        let first = association.claim_queue(1).unwrap();
        assert!(association.claim_queue(1).is_none());
        assert!(association.claim_queue(2).is_some());
        drop(first);
        assert!(association.claim_queue(1).is_some());
    }

    #[test]
    fn activity_is_reported_once() {
        let association = association();
        assert!(!association.take_activity());
        association.note_activity();
        association.note_activity();
        assert!(association.take_activity());
        assert!(!association.take_activity());
    }

    #[test]
    fn granted_queues_stay_within_the_limit() {
        let association = association();
        assert_eq!(association.grant_queues(200, 64), 64);
        assert_eq!(association.grant_queues(0, 64), 1);
        assert_eq!(association.granted_queues(), 1);
    }
}
