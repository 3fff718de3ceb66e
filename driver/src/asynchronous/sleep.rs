//! Sleep until a queue pair interrupts, by tokio's reactor.
#![allow(unsafe_code)] // tokio must be promised that a descriptor stays open.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::function::Interrupt;

/// Polls without a completion before it sleeps. A short command is complete sooner than a sleep is over.
pub(super) const POLLS: u32 = 32;

/// Waits for the interrupts of one queue pair.
pub(super) struct Sleep {
    interrupt: Option<AsyncFd<OwnedFd>>,
    polls: u32,
}

impl Sleep {
    /// For a queue pair that signals this, if it signals anything.
    pub(super) fn new(interrupt: Option<&Interrupt>) -> Self {
        let register = |interrupt: &Interrupt| {
            // A descriptor of its own: queue pairs may share a vector, and a reactor takes each descriptor once.
            let eventfd = interrupt.as_fd().try_clone_to_owned()?;
            // SAFETY: the descriptor is open until it is dropped, which the `AsyncFd` does with itself.
            unsafe { AsyncFd::register_with_interest(eventfd, Interest::READABLE) }.map_err(io::Error::from)
        };
        // Another runtime may poll this.
        let in_tokio = tokio::runtime::Handle::try_current().is_ok();
        let interrupt = interrupt.filter(|_| in_tokio).and_then(|interrupt| {
            register(interrupt)
                .inspect_err(|error| tracing::warn!(%error, "completions are looked for without a pause"))
                .ok()
        });
        Self { interrupt, polls: 0 }
    }

    /// There were completions.
    pub(super) fn reset(&mut self) {
        self.polls = 0;
    }

    /// Whether there is anything to sleep on.
    pub(super) fn can_sleep(&self) -> bool {
        self.interrupt.is_some()
    }

    /// Ready when there may be completions; pending polls are followed by a wake-up.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(interrupt) = &self.interrupt else { return Poll::Ready(()) };
        if self.polls < POLLS {
            self.polls += 1;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        match interrupt.poll_read_ready(context) {
            // What was signalled before is looked at after: a completion that comes in between signals again.
            Poll::Ready(Ok(mut ready)) => {
                ready.clear_ready();
                self.polls = 0;
                Poll::Ready(())
            }
            // The runtime is about to end.
            Poll::Ready(Err(_)) => {
                self.interrupt = None;
                Poll::Ready(())
            }
            Poll::Pending => Poll::Pending,
        }
    }
}
