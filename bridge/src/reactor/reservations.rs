//! What the control plane tells a reactor about reservations.

use std::sync::Arc;

use gangway_driver::dma::CommandData;
use gangway_fabric::target::Reply;
use gangway_spec::command::{NSID_BROADCAST, SubmissionQueueEntry};
use gangway_spec::status::Status;
use slab::Slab;
use tokio::sync::oneshot;

use super::command::{Command, Orphan, Stage};
use super::connection::Connection;
use super::engine::Engine;
use super::message::{Scope, Ticket};
use super::{Drain, Reactor};
use crate::admission::{Admitted, ExportView, Handling};
use crate::reservation::{Eviction, Group};

impl Reactor {
    /// Answers a command that the control plane had, if it is there still. `bytes` are what a report returns; the rest of
    /// its memory is clear.
    pub(super) fn answered(&mut self, ticket: Ticket, reply: &Reply, bytes: &[u8]) {
        let found = self.engine.commands.get_mut(ticket.command);
        let Some(command) = found.filter(|command| command.sequence == ticket.sequence) else { return };
        let mut data = std::mem::take(&mut command.data);
        if let CommandData::Buffer(buffer) = &mut data {
            let count = bytes.len().min(buffer.len());
            buffer[..count].copy_from_slice(&bytes[..count]);
        }
        self.complete(ticket.command as u64, data, reply);
    }

    /// Ends commands that have no place at a namespace any more, as far as their drive does not have them, and answers
    /// when the drive has none of them.
    pub(super) fn evict(&mut self, eviction: Arc<Eviction>, done: oneshot::Sender<()>) {
        let (connections, exports) = (&self.connections, &self.exports);
        let (drive, nsid) = eviction.key;
        let shows = |export: usize| {
            exports.get(export).is_some_and(|view: &Arc<ExportView>| view.remote_nsid(drive, nsid).is_some())
        };
        let verdict = |command: &Command| {
            let connection = command.connection().and_then(|key| connections.get(key))?;
            let host = connection.origin().host;
            // Nobody copies from what his export does not show.
            let source = || source_verdict(&eviction, host, command).filter(|_| shows(connection.export));
            verdict(&eviction, host, command).or_else(source)
        };
        self.engine.end(verdict, &mut self.given_up);
        self.answer_given_up();
        let before = self.engine.next_sequence();
        self.drains.push(Drain { scope: Scope::Evicted(eviction), before, done });
    }
}

/// Whether a drive has commands of before that have no place at a namespace any more.
pub(super) fn has_evicted(
    connections: &Slab<Connection>,
    engine: &Engine,
    eviction: &Eviction,
    before: u64,
) -> bool {
    let concerned = |host: u128, command: &Command| {
        command.stage == Stage::WithDrive
            && command.sequence <= before
            && (verdict(eviction, host, command).is_some()
                || source_verdict(eviction, host, command).is_some())
    };
    let of_a_connection = |command: &Command| {
        let connection = command.connection().and_then(|key| connections.get(key));
        connection.is_some_and(|connection| concerned(connection.origin().host, command))
    };
    let of_a_host_that_is_gone = |orphan: &Orphan| {
        let command = engine.commands.get(orphan.command);
        command.is_some_and(|command| concerned(orphan.origin.host, command))
    };
    engine.commands.iter().any(|(_, command)| of_a_connection(command))
        || engine.orphans.iter().any(of_a_host_that_is_gone)
}

fn verdict(eviction: &Eviction, host: u128, command: &Command) -> Option<Status> {
    let SubmissionQueueEntry { opcode, nsid, .. } = &command.entry;
    eviction.verdict(host, command.admitted.drive, nsid.get(), Group::of_io(*opcode))
}

/// What a command ends with that may be copying from the namespace: from which it copies nobody remembers. It may try again,
/// and is looked at anew then.
fn source_verdict(eviction: &Eviction, host: u128, command: &Command) -> Option<Status> {
    let Admitted { drive, handling, .. } = command.admitted;
    if handling != Handling::Across {
        return None;
    }
    eviction.verdict(host, drive, NSID_BROADCAST, Group::Read).map(|_| Status::COMMAND_INTERRUPTED)
}
