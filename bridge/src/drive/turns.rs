//! Commands that are about a whole drive: one host at a time has some of them under way.
//!
//! What a vendor's command does is not known, and what Security, firmware and namespace management do to each other is up
//! to the drive, which takes all hosts for one. A host's own commands do not wait for each other: that is as it would be if
//! it had the drive to itself.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gangway_spec::fabrics::Nqn;
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
    /// Whose commands are under way, and how many. Hosts are known by their names: not all of them have an identifier.
    owner: Option<(Nqn, usize)>,
    /// The commands that wait and their hosts, in the order in which they came.
    waiting: VecDeque<(u64, Nqn)>,
    /// The number of the last one that came.
    last: u64,
}

impl State {
    /// Whether `host` may go on, with this command if it waits: nobody has a turn and it is next, or it has one and no other
    /// waits for that to end.
    fn admits(&self, host: &Nqn, command: Option<u64>) -> bool {
        match &self.owner {
            None => self.waiting.front().is_none_or(|(first, _)| Some(*first) == command),
            Some((owner, _)) => owner == host && self.waiting.iter().all(|(_, other)| other == host),
        }
    }
}

/// A command of the host whose turn it is, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a>(&'a Turns);

/// Somebody who waits.
struct Waiting<'a> {
    turns: &'a Turns,
    command: u64,
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is the turn of `host`.
    pub(crate) async fn take(&self, host: &Nqn) -> Turn<'_> {
        let mut waiting: Option<Waiting<'_>> = None;
        loop {
            // Before the look at the state: what changes afterwards is told.
            let changed = self.changed.notified();
            {
                let mut state = self.state();
                if state.admits(host, waiting.as_ref().map(|waiting| waiting.command)) {
                    let (_, commands) = state.owner.get_or_insert_with(|| (host.clone(), 0));
                    *commands += 1;
                    break;
                }
                if waiting.is_none() {
                    state.last += 1;
                    let command = state.last;
                    state.waiting.push_back((command, host.clone()));
                    waiting = Some(Waiting { turns: self, command });
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
        if let Some((_, commands)) = &mut state.owner {
            *commands -= 1;
        }
        state.owner.take_if(|(_, commands)| *commands == 0);
        drop(state);
        self.0.changed.notify_waiters();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.state();
        state.waiting.retain(|(command, _)| *command != self.command);
        drop(state);
        self.turns.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn host(number: u32) -> Nqn {
        format!("nqn.2014-08.org.example:host{number}").parse().unwrap()
    }

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_host_has_several_commands_under_way_and_another_none_meanwhile() {
        let (turns, one, two) = (Turns::default(), host(1), host(2));
        let first = poll(pin!(turns.take(&one))).unwrap();
        let second = poll(pin!(turns.take(&one))).unwrap();
        let mut other = pin!(turns.take(&two));
        assert!(poll(other.as_mut()).is_none());
        drop(first);
        assert!(poll(other.as_mut()).is_none(), "one of them is under way still");
        drop(second);
        let turn = poll(other.as_mut()).unwrap();
        assert!(poll(pin!(turns.take(&one))).is_none());
        drop(turn);
        assert!(poll(pin!(turns.take(&one))).is_some());
    }

    #[test]
    fn who_has_the_turn_begins_nothing_more_while_another_waits() {
        let (turns, one, two) = (Turns::default(), host(1), host(2));
        let first = poll(pin!(turns.take(&one))).unwrap();
        let mut more = pin!(turns.take(&one));
        {
            let mut other = pin!(turns.take(&two));
            assert!(poll(other.as_mut()).is_none());
            assert!(poll(more.as_mut()).is_none());
            // The other loses its patience.
        }
        let second = poll(more.as_mut()).expect("a command that waits for the next one gets it");
        drop((first, second));
        assert!(turns.state().owner.is_none() && turns.state().waiting.is_empty());
    }
    #[test]
    fn those_who_wait_go_on_in_the_order_in_which_they_came() {
        let (turns, hosts) = (Turns::default(), [1, 2, 3].map(host));
        let turn = poll(pin!(turns.take(&hosts[0]))).unwrap();
        let mut second = pin!(turns.take(&hosts[1]));
        let mut third = pin!(turns.take(&hosts[2]));
        assert!(poll(second.as_mut()).is_none() && poll(third.as_mut()).is_none());
        drop(turn);
        // Nobody gets in past those who were told and have not looked yet.
        assert!(poll(pin!(turns.take(&hosts[0]))).is_none());
        assert!(poll(third.as_mut()).is_none());
        let turn = poll(second.as_mut()).unwrap();
        drop(turn);
        assert!(poll(third.as_mut()).is_some());
    }
}
