//! What the control plane tells reactors, and how it wakes them.

use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use gangway_driver::dma::CommandData;
use gangway_driver::queue::{Completion, QueuePair};
use gangway_fabric::target::{self, Reply};
use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::status::Status;
use tokio::sync::oneshot;

use super::command::Origin;
use crate::admission::ExportView;
use crate::association::{Association, QueueClaim};
use crate::drive::{DriveLink, Verdict};
use crate::reservation::Eviction;
use crate::status::ReactorReport;

/// An I/O queue's connection on its way to the reactor that will keep it.
pub(crate) struct Adoption {
    pub(crate) stream: TcpStream,
    pub(crate) fabric: target::Connection,
    pub(crate) claim: QueueClaim,
    pub(crate) export: usize,
    /// Entries of the queue.
    pub(crate) queue_size: u16,
    /// The response to Connect, which leaves when the reactor owns the connection.
    pub(crate) greeting: Vec<u8>,
    pub(crate) load: LoadShare,
}

/// Counts a connection for its reactor as long as it lives.
pub(crate) struct LoadShare(Arc<AtomicUsize>);

impl Drop for LoadShare {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whose commands a drain waits for.
#[derive(Clone, Debug)]
pub(crate) enum Scope {
    /// What a host left behind on an export: commands of its other associations, and of queues of this one that are
    /// gone. Its queues that are in use go on.
    Host { host: u128, export: usize, association: u64 },
    /// All commands to an export.
    Export(usize),
    /// What a drive has of commands to one of its namespaces, by its NSID there, or to any; not what waits for it.
    Namespace { drive: usize, nsid: Option<u32> },
    /// Commands that have no place at a namespace any more.
    Evicted(Arc<Eviction>),
}

/// What becomes of commands to a namespace while it is altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// They wait.
    Back,
    /// They end with this status.
    Refuse(Status),
    /// They go on.
    Release,
}

impl Scope {
    /// Whether a command of `origin` is among those waited for; `connected`: its queue is in use.
    pub(super) fn has(&self, origin: &Origin, connected: bool) -> bool {
        match *self {
            Scope::Host { host, export, association } => {
                let left = !connected || origin.association != association;
                left && origin.host == host && origin.export == export
            }
            Scope::Export(export) => origin.export == export,
            // It does not matter whose they are.
            Scope::Namespace { .. } | Scope::Evicted(_) => false,
        }
    }
}

/// Names a command of a reactor that the control plane has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    pub(crate) reactor: usize,
    pub(super) command: usize,
    /// Its order of arrival: the place of a command is used again.
    pub(super) sequence: u64,
}

/// A reservation command, for the control plane.
#[derive(Debug)]
pub(crate) struct ReservationRequest {
    pub(crate) ticket: Ticket,
    pub(crate) association: Arc<Association>,
    /// Index of the drive.
    pub(crate) drive: usize,
    /// With the NSID that the drive knows.
    pub(crate) entry: SubmissionQueueEntry,
    /// What it brings.
    pub(crate) data: Vec<u8>,
}

/// What became of a drive.
pub(crate) enum DriveState {
    /// It works; this is the reactor's new queue pair, the `issue`-th that it got.
    Works { pair: Box<QueuePair>, issue: u64 },
    /// There is none: commands to it end with this status.
    Refuses(Status),
}

/// One instruction to a reactor.
pub(crate) enum Message {
    Adopt(Box<Adoption>),
    /// Abort the command that a host gave the identifier `cid` on queue `qid` of an association. `verdict` is dropped
    /// when there is none.
    Abort {
        association: u64,
        qid: u16,
        cid: u16,
        verdict: Verdict,
    },
    /// Drop the I/O connections of an association, by its id.
    Close {
        association: u64,
        done: oneshot::Sender<()>,
    },
    /// Notice hang-ups that happened until now, then answer once every command in `scope` that is with a drive, or on
    /// its way to one, has completed.
    Drain {
        scope: Scope,
        done: oneshot::Sender<()>,
    },
    /// Replace what an export shows. Answered when it is in force.
    Publish {
        export: usize,
        view: Arc<ExportView>,
        done: oneshot::Sender<()>,
    },
    /// Hold commands back that are for a namespace of a drive, by its NSID there, or for any; or let them go on. Answered
    /// when it is in force: the drive gets none that it has not.
    Hold {
        drive: usize,
        nsid: Option<u32>,
        hold: Hold,
        done: oneshot::Sender<()>,
    },
    /// Say what there is to say of connections and drives.
    Report {
        reply: oneshot::Sender<ReactorReport>,
    },
    /// Limits of an export have changed: the book of its view says which there are. Answered when they are in force.
    Limit {
        export: usize,
        done: oneshot::Sender<()>,
    },
    /// What became of a command that the control plane had, and what it returns.
    Answered {
        ticket: Ticket,
        reply: Reply,
        data: Vec<u8>,
    },
    /// End commands that have no place at a namespace any more, then answer once drives have none of them.
    Evict {
        eviction: Arc<Eviction>,
        done: oneshot::Sender<()>,
    },
    /// A drive that the reactor may use from now on. `place`: by what the drive's manager knows the reactor.
    Link {
        drive: usize,
        link: DriveLink,
        place: usize,
    },
    /// Forget a drive that has ended.
    Unlink {
        drive: usize,
        done: oneshot::Sender<()>,
    },
    /// Stop using a drive's queue pair and give it back; with `late`, only if the command of this identifier is
    /// overdue.
    Freeze {
        drive: usize,
        late: Option<u16>,
        reply: mpsc::Sender<Option<QueuePair>>,
    },
    /// Commands that ended on a queue pair which is gone: those that the drive completed, and those that it never will,
    /// by their user value.
    Ended {
        completed: Vec<Completion>,
        interrupted: Vec<(u64, CommandData)>,
    },
    /// What is to be done with commands to a drive from now on.
    Thaw {
        drive: usize,
        state: DriveState,
    },
    Stop,
}

/// The control plane's end of a reactor.
#[derive(Clone)]
pub(crate) struct ReactorHandle {
    pub(crate) index: usize,
    /// Where it runs.
    pub(crate) cpu: usize,
    sender: mpsc::Sender<Message>,
    wake: Arc<OwnedFd>,
    load: Arc<AtomicUsize>,
}

impl ReactorHandle {
    pub(crate) fn new(index: usize, cpu: usize, sender: mpsc::Sender<Message>, wake: Arc<OwnedFd>) -> Self {
        Self { index, cpu, sender, wake, load: Arc::default() }
    }

    /// Sends a message; false when the reactor has ended.
    pub(crate) fn send(&self, message: Message) -> bool {
        let sent = self.sender.send(message).is_ok();
        // A full counter (EAGAIN) means that the wake-up is pending already.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        sent
    }

    pub(crate) fn connections(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    pub(crate) fn share_load(&self) -> LoadShare {
        self.load.fetch_add(1, Ordering::Relaxed);
        LoadShare(Arc::clone(&self.load))
    }
}
