//! Queue pairs for asynchronous programs: a command is a future.
//!
//! [`AsyncQueue`] takes a queue pair. [`AsyncQueue::execute`] submits a command and waits for its completion; any
//! number of tasks of one thread may do so at a time. Something must look for completions meanwhile: [`Drive`], which is
//! polled beside the tasks, or [`AsyncQueue::run`], which does so for as long as a future of the caller's takes.
//! Everything that was submitted before `Drive` has its turn is rung with one doorbell.
//!
//! ```
//! # use std::time::Duration;
//! # use gangway_driver::{Controller, Direction, DmaDomain, controller::Options, emulated::EmulatedFunction};
//! # use gangway_driver::asynchronous::AsyncQueue;
//! # use gangway_spec::{SubmissionQueueEntry, nvm, opcode};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let domain = DmaDomain::new();
//! let function = EmulatedFunction::new("size=16MiB".parse()?, &domain)?;
//! let mut controller = Controller::start(function, Options::default())?;
//! let queue = AsyncQueue::new(controller.create_io_queue_pair()?);
//!
//! let mut entry = SubmissionQueueEntry::new(opcode::nvm::READ);
//! entry.nsid = 1.into();
//! nvm::set_nlb(&mut entry, 1);
//! let buffer = domain.buffer(4096, Direction::DeviceWrites)?;
//! let command = queue.execute(&entry, buffer.into(), Duration::from_secs(10));
//! let completion = queue.run(command).await??;
//! assert!(completion.entry.status().is_success());
//! assert_eq!(completion.data.bytes(), [0; 4096]);
//!
//! let pair = queue.into_pair().map_err(|_| "the queue is still in use")?;
//! controller.delete_io_queue_pair(pair)?;
//! # controller.shutdown()?;
//! # Ok(())
//! # }
//! ```
//!
//! # What always holds
//!
//! - A command whose future is dropped goes on. Its buffer stays with the queue pair until the device is done with it, and
//!   is freed then.
//! - A command is submitted when its future is polled first. Commands are submitted in that order unless the queue is full.
//! - No allocation per command.
//!
//! # What this does not do
//!
//! - Several threads: a queue pair belongs to one. Use one queue pair on each, as many as the controller grants.
//! - Time limits: [`AsyncQueue::overdue`] names a command that is late. Whether to abort it or to reset the controller is
//!   a decision of the program.
//! - Sleep on queue pairs that do not interrupt: while commands are outstanding their `Drive` is polled again and again,
//!   with every other task having its turn in between. With the feature `tokio`, and made in a runtime of tokio's that has
//!   I/O enabled, `Drive` sleeps on those that do ([`Options::interrupts`](crate::controller::Options::interrupts));
//!   otherwise it polls these too.

mod drive;
mod execute;
#[cfg(feature = "tokio")]
mod sleep;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fmt;
use std::future::{self, Future};
use std::mem;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use gangway_spec::SubmissionQueueEntry;
use thiserror::Error;

pub use self::drive::Drive;
pub use self::execute::Execute;
use crate::dma::CommandData;
use crate::queue::{Completion, Overdue, QueueFault, QueuePair, SubmitError};

/// A queue pair whose commands are futures. Clones are the same queue pair.
#[derive(Clone)]
pub struct AsyncQueue {
    shared: Rc<RefCell<Shared>>,
}

/// Why a command has no completion.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExecuteError {
    /// It was not submitted.
    #[error("the command was not submitted: {reason}")]
    Rejected {
        /// The memory that came with the command.
        data: CommandData,
        /// Why.
        reason: SubmitError,
    },
    /// It was outstanding when the queue ended. Its memory comes back with [`QueuePair::dismantle`].
    #[error(transparent)]
    Ended(#[from] QueueEnded),
}

/// Why a queue pair completes nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum QueueEnded {
    /// The controller did what it must never do. It is to be reset.
    #[error(transparent)]
    Fault(#[from] QueueFault),
    /// The controller was stopped.
    #[error("the controller was stopped while commands were outstanding")]
    Stopped,
}

/// What all handles of a queue pair share.
struct Shared {
    pair: QueuePair,
    /// By what a command is submitted with ([`Completion::user`]).
    commands: Vec<Stage>,
    /// Indices into `commands` that are free.
    free: Vec<usize>,
    /// Who waits for room on the queue.
    blocked: Vec<Waker>,
    /// Who looks for completions, while it waits: each [`Drive`] by its number.
    drives: Vec<(u64, Waker)>,
    /// How many of them were made.
    drives_made: u64,
    /// Who is to be waked once nothing here is borrowed: what waking does is not known.
    due: Vec<Waker>,
    completions: Vec<Completion>,
    ended: Option<QueueEnded>,
}

/// Wakes whom the last change concerns.
fn wake(shared: &RefCell<Shared>) {
    let mut due = mem::take(&mut shared.borrow_mut().due);
    due.drain(..).for_each(Waker::wake);
    // What came meanwhile is few; the memory is what is kept.
    let later = mem::replace(&mut shared.borrow_mut().due, due);
    later.into_iter().for_each(Waker::wake);
}

/// How far a command is.
enum Stage {
    /// There is none.
    Free,
    /// It is outstanding, and somebody may wait for it.
    Outstanding(Option<Waker>),
    /// It is outstanding, and nobody wants its completion any more.
    Forgotten,
    /// It is complete.
    Complete(Completion),
}

impl AsyncQueue {
    /// Takes a queue pair over, on which nothing is outstanding.
    ///
    /// # Panics
    /// When commands are outstanding: nobody here knows whom their completions are for.
    pub fn new(pair: QueuePair) -> Self {
        assert_eq!(pair.outstanding(), 0, "commands of another owner are outstanding on the queue pair");
        let capacity = pair.capacity();
        let shared = Shared {
            pair,
            commands: (0..capacity).map(|_| Stage::Free).collect(),
            free: (0..capacity).rev().collect(),
            blocked: Vec::with_capacity(capacity),
            drives: Vec::new(),
            drives_made: 0,
            due: Vec::with_capacity(2 * capacity + 1),
            completions: Vec::with_capacity(capacity),
            ended: None,
        };
        Self { shared: Rc::new(RefCell::new(shared)) }
    }

    /// Executes a command: submits it when there is room, and gives its completion, whatever its status is. What is
    /// set in the copy of `entry` tells [`QueuePair::submit`].
    ///
    /// `limit` is how long it may take from submission on before [`AsyncQueue::overdue`] names it.
    pub fn execute(&self, entry: &SubmissionQueueEntry, data: CommandData, limit: Duration) -> Execute {
        Execute::new(Rc::clone(&self.shared), *entry, data, limit)
    }

    /// What looks for completions. To be polled by the same thread, as a task or beside other futures. There may be
    /// several. It ends when the queue pair is faulted, or finds the controller stopped.
    pub fn drive(&self) -> Drive {
        Drive::new(Rc::clone(&self.shared))
    }

    /// Looks for completions until `work` is done, and gives what it gives.
    ///
    /// # Errors
    /// The queue ended. `work` is dropped then.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> Result<T, QueueEnded> {
        let mut work = pin!(work);
        let mut drive = pin!(self.drive());
        future::poll_fn(|context| {
            // Commands are submitted here and rung there.
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Ok(done));
            }
            drive.as_mut().poll(context).map(Err)
        })
        .await
    }

    /// The command that is late for longest, if any is. Looks at all commands: ask now and then.
    pub fn overdue(&self, now: Instant) -> Option<Overdue> {
        self.shared.borrow().pair.overdue(now)
    }

    /// How many commands can be outstanding.
    pub fn capacity(&self) -> usize {
        self.shared.borrow().pair.capacity()
    }

    /// How many commands are outstanding, those included whose futures were dropped.
    pub fn outstanding(&self) -> usize {
        self.shared.borrow().pair.outstanding()
    }

    /// How many bytes one command can transfer.
    pub fn max_transfer(&self) -> usize {
        self.shared.borrow().pair.max_transfer()
    }

    /// Gives the queue pair back, to be deleted or dismantled. Commands may be outstanding: of those nobody hears.
    ///
    /// # Errors
    /// Gives the queue back when there are clones, commands' futures, or a [`Drive`].
    pub fn into_pair(self) -> Result<QueuePair, AsyncQueue> {
        match Rc::try_unwrap(self.shared) {
            Ok(shared) => Ok(shared.into_inner().pair),
            Err(shared) => Err(Self { shared }),
        }
    }
}

impl fmt::Debug for AsyncQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncQueue").field(&self.shared.borrow().pair).finish()
    }
}
