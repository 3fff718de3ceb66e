//! Commands that are about a whole drive: one host at a time has some of them under way.
//!
//! What a vendor's command does is not known, and what Security, firmware and namespace management do to each other is up
//! to the drive, which takes all hosts for one. A host's own commands do not wait for each other: that is as it would be if
//! it had the drive to itself.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Whose turn it is at a drive.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    state: Mutex<State>,
    /// Told of each change that somebody may have waited for.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Whose commands are under way, and how many.
    owner: Option<(u128, usize)>,
    /// The hosts of those that wait.
    waiting: Vec<u128>,
}

impl State {
    /// Whether `host` may go on: nobody has a turn, or it has, and no other waits for it to end.
    fn admits(&self, host: u128) -> bool {
        match self.owner {
            None => true,
            Some((owner, _)) => owner == host && self.waiting.iter().all(|other| *other == host),
        }
    }
}

/// A command of the host whose turn it is, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a>(&'a Turns);

/// Somebody who waits.
struct Waiting<'a> {
    turns: &'a Turns,
    host: u128,
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is the turn of `host`.
    pub(crate) async fn take(&self, host: u128) -> Turn<'_> {
        let mut waiting = None;
        loop {
            // Before the look at the state: what changes afterwards is told.
            let changed = self.changed.notified();
            {
                let mut state = self.state();
                if state.admits(host) {
                    let (_, commands) = state.owner.get_or_insert((host, 0));
                    *commands += 1;
                    break;
                }
                if waiting.is_none() {
                    state.waiting.push(host);
                    waiting = Some(Waiting { turns: self, host });
                }
            }
            changed.await;
        }
        drop(waiting);
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.owner = match state.owner {
            Some((host, commands)) if commands > 1 => Some((host, commands - 1)),
            _ => None,
        };
        drop(state);
        self.0.changed.notify_waiters();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.state();
        if let Some(place) = state.waiting.iter().position(|host| *host == self.host) {
            state.waiting.swap_remove(place);
        }
        drop(state);
        self.turns.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_host_has_several_commands_under_way_and_another_none_meanwhile() {
        let turns = Turns::default();
        let first = poll(pin!(turns.take(1))).unwrap();
        let second = poll(pin!(turns.take(1))).unwrap();
        let mut other = pin!(turns.take(2));
        assert!(poll(other.as_mut()).is_none());
        drop(first);
        assert!(poll(other.as_mut()).is_none(), "one of them is under way still");
        drop(second);
        let turn = poll(other.as_mut()).unwrap();
        assert!(poll(pin!(turns.take(1))).is_none());
        drop(turn);
        assert!(poll(pin!(turns.take(1))).is_some());
    }

    #[test]
    fn who_has_the_turn_begins_nothing_more_while_another_waits() {
        let turns = Turns::default();
        let first = poll(pin!(turns.take(1))).unwrap();
        let mut more = pin!(turns.take(1));
        {
            let mut other = pin!(turns.take(2));
            assert!(poll(other.as_mut()).is_none());
            assert!(poll(more.as_mut()).is_none());
            // The other loses its patience.
        }
        let second = poll(more.as_mut()).expect("a command that waits for the next one gets it");
        drop((first, second));
        assert!(turns.state().owner.is_none() && turns.state().waiting.is_empty());
    }
}
