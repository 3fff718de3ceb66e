//! How others talk to the manager of a drive.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use gangway_driver::function::Interrupt;
use gangway_driver::queue::Overdue;
use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::completion::CompletionQueueEntry;
use gangway_spec::status::Status;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::sync::{mpsc as mpsc_async, oneshot};

use super::abort::{Target, Ticket, Verdict};
use super::removal::Found;
use super::{DriveError, NamespaceChange};
use crate::association::Association;
use crate::reactor::ReactorHandle;

/// The end of an admin command.
#[derive(Debug)]
pub(crate) struct AdminReply {
    pub(crate) entry: CompletionQueueEntry,
    pub(crate) data: Vec<u8>,
}

impl AdminReply {
    pub(crate) fn status(status: Status) -> Self {
        Self { entry: CompletionQueueEntry::new(0, status), data: Vec::new() }
    }

    /// What this one says together with what another drive said to the same: each bit of the result that either set. The
    /// other one, when it failed.
    pub(crate) fn with(mut self, other: Self) -> Self {
        if !other.entry.status().is_success() {
            return other;
        }
        self.entry.dw0 = (self.entry.dw0.get() | other.entry.dw0.get()).into();
        self
    }
}

/// The data of an admin command.
#[derive(Debug)]
pub(crate) enum AdminTransfer {
    /// So many bytes come from the drive; none is possible.
    FromDrive(usize),
    /// These go to it; none is possible.
    ToDrive(Vec<u8>),
}

pub(super) struct AdminRequest {
    pub(super) ticket: Ticket,
    pub(super) entry: SubmissionQueueEntry,
    pub(super) transfer: AdminTransfer,
    /// Whose it is; `None`: the target's own.
    pub(super) association: Option<Arc<Association>>,
    pub(super) reply: oneshot::Sender<AdminReply>,
}

/// What is wrong with a queue pair.
pub(super) enum Trouble {
    /// It went wrong as a whole.
    Fault(String),
    /// A command is beyond its time limit.
    Overdue { qid: u16, overdue: Overdue },
}

pub(super) enum Request {
    Admin(AdminRequest),
    /// Abort a command of a host.
    Abort {
        target: Target,
        verdict: Verdict,
    },
    /// A host has no more use for a command; it is to be dropped unless the drive has it.
    Withdraw(Ticket),
    /// About a reactor's queue pair, the `issue`-th that it got.
    Trouble {
        reactor: usize,
        issue: u64,
        trouble: Trouble,
    },
    /// A drive that was removed was looked for.
    Found(Found),
    Connect {
        reactors: Vec<ReactorHandle>,
        done: oneshot::Sender<Result<(), DriveError>>,
    },
    /// Changes of the namespaces go there from now on.
    Follow(mpsc_async::UnboundedSender<NamespaceChange>),
    Shutdown {
        done: oneshot::Sender<bool>,
    },
}

/// A line to the manager of a drive.
#[derive(Clone, Debug)]
pub(crate) struct DriveLink {
    sender: mpsc::Sender<Request>,
    wake: Arc<OwnedFd>,
    /// What hosts want the drive to tell of. No message: how often a host changes its mind is up to it.
    wanted_events: Arc<AtomicU32>,
}

impl DriveLink {
    /// A line, and the manager's end of it.
    pub(super) fn new() -> io::Result<(Self, Inbox)> {
        let (sender, receiver) = mpsc::channel();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let wanted_events = Arc::<AtomicU32>::default();
        let inbox = Inbox { receiver, wake: Arc::clone(&wake), wanted_events: Arc::clone(&wanted_events) };
        Ok((Self { sender, wake, wanted_events }, inbox))
    }

    /// A line to nobody.
    #[cfg(test)]
    #[allow(clippy::unwrap_used)] // Tests end where something fails.
    pub(crate) fn loose() -> Self {
        Self::new().unwrap().0
    }

    /// Sends a request; false when the manager has ended.
    pub(super) fn send(&self, request: Request) -> bool {
        let sent = self.sender.send(request).is_ok();
        self.wake();
        sent
    }

    fn wake(&self) {
        // A full counter (EAGAIN) means that the wake-up is pending already.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }

    /// Says what hosts want the drive to tell of: bits of the Asynchronous Event Configuration.
    pub(super) fn want_events(&self, configuration: u32) {
        if self.wanted_events.swap(configuration, Ordering::Relaxed) != configuration {
            self.wake();
        }
    }

    /// Reports that a reactor's queue pair went wrong: a reset follows. `issue`: which of those it got.
    pub(crate) fn report_fault(&self, reactor: usize, issue: u64, what: String) {
        self.send(Request::Trouble { reactor, issue, trouble: Trouble::Fault(what) });
    }

    /// Asks for command `cid` of a reactor's queue pair to be aborted. `verdict` is told when it was not; when it was, it
    /// completes.
    pub(crate) fn abort(&self, reactor: usize, issue: u64, (qid, cid): (u16, u16), verdict: Verdict) {
        self.send(Request::Abort { target: Target::Io { reactor, issue, qid, cid }, verdict });
    }

    /// Reports a command that is beyond its time limit.
    pub(crate) fn report_overdue(&self, reactor: usize, issue: u64, qid: u16, overdue: Overdue) {
        self.send(Request::Trouble { reactor, issue, trouble: Trouble::Overdue { qid, overdue } });
    }
}

/// The manager's end of the lines to it.
pub(super) struct Inbox {
    receiver: mpsc::Receiver<Request>,
    wake: Arc<OwnedFd>,
    wanted_events: Arc<AtomicU32>,
}

impl Inbox {
    /// Sleeps until a request comes or one of `signals`, which are left to be cleared, for `time` at most.
    pub(super) fn wait(&self, signals: &[&Interrupt], time: Duration) {
        let limit = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        let mut all = vec![PollFd::new(&*self.wake, PollFlags::IN)];
        all.extend(signals.iter().map(|signal| PollFd::from_borrowed_fd(signal.as_fd(), PollFlags::IN)));
        // Whatever ends it: everything is looked at afterwards.
        let _ = poll(&mut all, Some(&limit));
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
    }

    /// What hosts want the drive to tell of.
    pub(super) fn wanted_events(&self) -> u32 {
        self.wanted_events.load(Ordering::Relaxed)
    }

    /// The next request.
    pub(super) fn next(&self) -> Option<Request> {
        self.receiver.try_recv().ok()
    }
}
