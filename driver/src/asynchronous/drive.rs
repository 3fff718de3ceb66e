//! What rings and looks for completions.

use std::cell::RefCell;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::{QueueEnded, Shared, Stage, wake};

/// Looks for completions and wakes those who wait for them. Made by
/// [`AsyncQueue::drive`](super::AsyncQueue::drive). Ends when the queue does, and says why.
#[must_use = "nothing completes unless this is polled"]
pub struct Drive {
    shared: Rc<RefCell<Shared>>,
    number: u64,
    #[cfg(feature = "tokio")]
    sleep: super::sleep::Sleep,
}

impl Drive {
    pub(super) fn new(shared: Rc<RefCell<Shared>>) -> Self {
        #[cfg(feature = "tokio")]
        let sleep = super::sleep::Sleep::new(shared.borrow().pair.interrupt());
        let number = {
            let mut shared = shared.borrow_mut();
            shared.drives_made += 1;
            shared.drives_made
        };
        Self {
            shared,
            number,
            #[cfg(feature = "tokio")]
            sleep,
        }
    }

    /// Nothing is complete: arranges to be polled when something may be.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<()> {
        #[cfg(feature = "tokio")]
        if self.sleep.can_sleep() {
            return self.sleep.poll(context);
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Future for Drive {
    type Output = QueueEnded;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<QueueEnded> {
        let this = self.get_mut();
        loop {
            let reaped = this.shared.borrow_mut().reap();
            wake(&this.shared);
            match reaped {
                Err(ended) => return Poll::Ready(ended),
                // Those who were waked may submit more: let them before looking again.
                Ok(true) => {
                    #[cfg(feature = "tokio")]
                    this.sleep.reset();
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Ok(false) => {}
            }
            let idle = {
                let mut shared = this.shared.borrow_mut();
                // Who submits something has it rung for, wherever this sleeps.
                shared.remember_drive(this.number, context);
                shared.pair.outstanding() == 0
            };
            if idle || this.wait(context).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        self.shared.borrow_mut().drives.retain(|(number, _)| *number != self.number);
    }
}

impl Shared {
    /// Remembers whom to wake when something is submitted. All of them are waked: any may be dropped before its turn.
    fn remember_drive(&mut self, number: u64, context: &Context<'_>) {
        match self.drives.iter_mut().find(|(known, _)| *known == number) {
            Some((_, waker)) => waker.clone_from(context.waker()),
            None => self.drives.push((number, context.waker().clone())),
        }
    }

    /// Rings, and hands the completions there are to those who wait. Gives whether there were any.
    fn reap(&mut self) -> Result<bool, QueueEnded> {
        self.pair.ring();
        let result = self.pair.reap(&mut self.completions);
        let mut completions = mem::take(&mut self.completions);
        for completion in completions.drain(..) {
            let index = completion.user as usize;
            match mem::replace(&mut self.commands[index], Stage::Complete(completion)) {
                Stage::Outstanding(waker) => self.due.extend(waker),
                Stage::Forgotten => self.release(index),
                Stage::Complete(_) | Stage::Free => {}
            }
        }
        self.completions = completions;
        let ended = match result {
            // A queue pair whose controller was stopped finds nothing, for ever.
            Ok(0) if !self.pair.is_running() => QueueEnded::Stopped,
            Ok(count) => return Ok(count > 0),
            Err(fault) => fault.into(),
        };
        self.ended = Some(ended);
        for stage in &mut self.commands {
            if let Stage::Outstanding(waker) = stage {
                self.due.extend(waker.take());
            }
        }
        self.due.append(&mut self.blocked);
        Err(ended)
    }
}
