//! A command as a future.

use std::cell::RefCell;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use gangway_spec::SubmissionQueueEntry;

use super::{ExecuteError, Shared, Stage, wake};
use crate::dma::CommandData;
use crate::queue::{Completion, Rejected, SubmitError};

/// A hundred years: further than anybody looks, and yet something that can be added to now.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A command that is submitted when this is polled first, and complete when it is done. Made by
/// [`AsyncQueue::execute`](super::AsyncQueue::execute).
#[must_use = "a command is not submitted before it is polled"]
pub struct Execute {
    shared: Rc<RefCell<Shared>>,
    entry: SubmissionQueueEntry,
    limit: Duration,
    state: State,
}

enum State {
    /// With its data.
    New(CommandData),
    /// With its index in [`Shared::commands`].
    Submitted(usize),
    Done,
}

impl Execute {
    pub(super) fn new(
        shared: Rc<RefCell<Shared>>,
        entry: SubmissionQueueEntry,
        data: CommandData,
        limit: Duration,
    ) -> Self {
        Self { shared, entry, limit, state: State::New(data) }
    }
}

impl Future for Execute {
    type Output = Result<Completion, ExecuteError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let result = this.step(context);
        wake(&this.shared);
        result
    }
}

impl Execute {
    fn step(&mut self, context: &mut Context<'_>) -> Poll<Result<Completion, ExecuteError>> {
        let mut shared = self.shared.borrow_mut();
        match mem::replace(&mut self.state, State::Done) {
            State::New(data) => match shared.submit(&self.entry, data, self.limit, context) {
                Ok(index) => {
                    self.state = State::Submitted(index);
                    Poll::Pending
                }
                Err(Rejected { data, reason: SubmitError::Full }) => {
                    self.state = State::New(data);
                    shared.block(context);
                    Poll::Pending
                }
                Err(Rejected { data, reason }) => Poll::Ready(Err(ExecuteError::Rejected { data, reason })),
            },
            State::Submitted(index) => {
                let taken = shared.take(index, context);
                if taken.is_pending() {
                    self.state = State::Submitted(index);
                }
                taken
            }
            State::Done => panic!("a command was polled after it was complete"),
        }
    }
}

impl Drop for Execute {
    fn drop(&mut self) {
        if let State::Submitted(index) = self.state {
            self.shared.borrow_mut().forget(index);
            wake(&self.shared);
        }
    }
}

impl Shared {
    /// Puts a command onto the queue and sees to it that it is rung for.
    fn submit(
        &mut self,
        entry: &SubmissionQueueEntry,
        data: CommandData,
        limit: Duration,
        context: &Context<'_>,
    ) -> Result<usize, Rejected> {
        // Those that are complete have an index until somebody takes them.
        let Some(&index) = self.free.last() else {
            let reason = if self.ended.is_some() { SubmitError::Stopped } else { SubmitError::Full };
            return Err(Rejected { data, reason });
        };
        self.pair.submit(entry, data, index as u64, Instant::now() + limit.min(LONGEST))?;
        self.free.pop();
        self.commands[index] = Stage::Outstanding(Some(context.waker().clone()));
        self.due.extend(self.drives.drain(..).map(|(_, waker)| waker));
        Ok(index)
    }

    /// Remembers who waits for room. One task may ask often, and for many commands.
    fn block(&mut self, context: &Context<'_>) {
        if !self.blocked.iter().any(|waker| waker.will_wake(context.waker())) {
            self.blocked.push(context.waker().clone());
        }
    }

    fn take(&mut self, index: usize, context: &Context<'_>) -> Poll<Result<Completion, ExecuteError>> {
        match mem::replace(&mut self.commands[index], Stage::Free) {
            Stage::Complete(completion) => {
                self.release(index);
                Poll::Ready(Ok(completion))
            }
            outstanding => {
                self.commands[index] = outstanding;
                if let Some(ended) = self.ended {
                    self.forget(index);
                    return Poll::Ready(Err(ended.into()));
                }
                if let Stage::Outstanding(waker) = &mut self.commands[index]
                    && !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker()))
                {
                    *waker = Some(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// Nobody waits for a command any more.
    fn forget(&mut self, index: usize) {
        match mem::replace(&mut self.commands[index], Stage::Forgotten) {
            Stage::Complete(_) => self.release(index),
            Stage::Outstanding(_) | Stage::Forgotten | Stage::Free => {}
        }
    }

    /// Makes an index free, for one who waits for room.
    pub(super) fn release(&mut self, index: usize) {
        self.commands[index] = Stage::Free;
        self.free.push(index);
        // All of them: one alone might have lost interest, and the next would never hear of it.
        self.due.append(&mut self.blocked);
    }
}
