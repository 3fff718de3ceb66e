//! Threads that wait for each other, and end when one of them fails.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// A point that threads of a test reach together. Other than at a `Barrier`, nobody waits for a thread that panicked:
/// the test fails, and the first message says why.
pub struct Meeting {
    members: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: usize,
    /// How often all have met.
    met: u64,
    failed: bool,
}

/// One thread of a [`Meeting`]. Dropped by a panic, it ends the others' waiting.
pub struct Member<'a>(&'a Meeting);

impl Meeting {
    /// A meeting of so many threads.
    pub fn of(members: usize) -> Self {
        Self { members, state: Mutex::default(), changed: Condvar::new() }
    }

    /// To be called once by each thread, before anything that may panic.
    pub fn join(&self) -> Member<'_> {
        Member(self)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member<'_> {
    /// Waits until all are here; may be called again for the next time.
    ///
    /// # Panics
    /// When another one panicked.
    pub fn wait(&self) {
        let mut state = self.0.state();
        state.waiting += 1;
        if state.waiting == self.0.members {
            state.waiting = 0;
            state.met += 1;
            self.0.changed.notify_all();
            return;
        }
        let met = state.met;
        let here = |state: &mut State| state.met == met && !state.failed;
        let state = self.0.changed.wait_while(state, here).unwrap_or_else(PoisonError::into_inner);
        let all = state.met > met;
        drop(state);
        assert!(all, "another thread of this test failed: its message comes first");
    }

    /// Ends this thread too when another one panicked.
    ///
    /// # Panics
    /// When another one panicked.
    pub fn check(&self) {
        assert!(!self.0.state().failed, "another thread of this test failed: its message comes first");
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.state().failed = true;
            self.0.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_a_thread_that_panicked() {
        let meeting = Meeting::of(2);
        thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let member = meeting.join();
                member.wait();
                member.wait();
            });
            let fails = scope.spawn(|| {
                let member = meeting.join();
                member.wait();
                panic!("on purpose");
            });
            assert!(fails.join().is_err());
            assert!(waits.join().is_err());
        });
    }
}
