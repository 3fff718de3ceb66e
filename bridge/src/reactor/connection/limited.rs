//! What a connection does with commands of hosts and namespaces that are limited.
//!
//! A command that must wait is not taken in at all: no memory is set aside for it, the host is not asked for its data, and
//! nothing behind it is read. What was received already is kept.

use gangway_fabric::target::{CapsuleData, Event, Reply, Slot};
use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::status::Status;

use super::{Connection, Context, End, Found, nowhere};
use crate::admission::Admitted;
use crate::reactor::accounts::Gate;
use crate::reactor::commands::Stage;

/// A command that waits.
pub(super) struct Parked {
    pub(super) slot: Slot,
    pub(super) entry: SubmissionQueueEntry,
    pub(super) data: CapsuleData,
    /// Where.
    pub(super) gate: Gate,
}

impl Connection {
    /// Pays for a command. Where it has to wait, if it cannot.
    #[cold]
    pub(super) fn must_wait(
        &mut self,
        entry: &SubmissionQueueEntry,
        admitted: &Admitted,
        context: &mut Context<'_>,
    ) -> Option<Gate> {
        let waited = self.waited.take();
        let accounts = &mut context.engine.accounts;
        let (key, length) = (context.key, admitted.length);
        if waited != Some(Gate::Namespace)
            && !accounts.pay(self.account, key, length, waited == Some(Gate::Host))
        {
            return Some(Gate::Host);
        }
        let namespace = accounts.of_namespace(self.export, entry.nsid.get());
        let paid = accounts.pay(namespace, key, length, waited == Some(Gate::Namespace));
        (!paid).then_some(Gate::Namespace)
    }

    /// Whether a command waits for a limit.
    pub(in crate::reactor) fn is_parked(&self) -> bool {
        self.parked.is_some()
    }

    /// Whether that is the command in `slot`.
    pub(super) fn is_parked_in(&self, slot: Slot) -> bool {
        self.parked.as_ref().is_some_and(|parked| parked.slot == slot)
    }

    /// Whether bytes that were received wait for nothing any more.
    pub(in crate::reactor) fn is_halted(&self) -> bool {
        self.stash.is_some() && !self.is_parked() && !self.starved && !self.paused
    }

    /// Ends the command that waits, as aborted.
    pub(super) fn abort_parked(&mut self, context: &mut Context<'_>) -> Found {
        context.engine.accounts.forget(context.key);
        let status = Status::ABORT_REQUESTED;
        match self.parked.take() {
            Some(Parked { slot, entry, data: CapsuleData::InCapsule { .. }, .. }) => {
                let index = self.enter(slot, entry, nowhere(), Stage::Refused(status), context);
                Found::Arriving { index }
            }
            Some(Parked { slot, .. }) => {
                self.respond(slot, &Reply::status(status), context.engine);
                Found::Here
            }
            None => Found::Here,
        }
    }

    /// Lets the command that waited have its turn. It is judged anew: the namespace may be another one by now.
    pub(super) fn unpark(&mut self, context: &mut Context<'_>) -> Result<(), End> {
        let Some(Parked { slot, entry, data, gate }) = self.parked.take() else { return Ok(()) };
        self.waited = Some(gate);
        let taken = self.happened(Event::Command { slot, entry, data }, context);
        self.waited = None;
        taken
    }
}
