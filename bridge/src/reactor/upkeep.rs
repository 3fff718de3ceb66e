//! What a reactor looks at now and then: time limits, hosts that hoard memory, and drains.

use super::command::Command;
use super::connection::{Connection, Phase};
use super::drives::Way;
use super::message::Scope;
use super::reservations::has_evicted;
use super::{Drain, LINGER, Reactor};
use crate::status::{QueueReport, ReactorReport};

impl Reactor {
    /// Looks at time limits and ends what is over. Whether any connection was ended.
    pub(super) fn keep_house(&mut self) -> bool {
        self.housekeeping = self.now;
        let before = self.connections.len();
        self.engine.check_deadlines(self.now);
        let now = self.now;
        let over = |connection: &Connection| match connection.phase {
            Phase::Open => false,
            Phase::Closing { since } => now.duration_since(since) > LINGER,
        };
        let ended: Vec<usize> =
            self.connections.iter().filter(|(_, c)| over(c)).map(|(key, _)| key).collect();
        for key in ended {
            self.drop_connection(key);
        }
        self.end_hoarders();
        self.connections.len() < before
    }

    /// Ends connections that keep memory which others wait for: their hosts neither send what they were asked for nor
    /// receive what they asked for.
    pub(super) fn end_hoarders(&mut self) {
        let writes_wait = self.engine.is_short_of_memory(Way::ToDrive) || !self.starved.is_empty();
        let reads_wait = self.engine.is_short_of_memory(Way::FromDrive);
        let mut hoarders = Vec::new();
        for (key, connection) in &mut self.connections {
            let sent = self.sockets.sent(connection.socket);
            let idle = connection.idle_for(sent, writes_wait, reads_wait, self.now);
            if idle > self.host_timeout {
                hoarders.push(key);
            }
        }
        for key in hoarders {
            let host = &self.connections[key].claim.association().connect.host;
            tracing::warn!(%host, "an I/O connection is ended: its host lets others wait for memory");
            self.drop_connection(key);
        }
    }

    /// What there is to say of connections and drives.
    pub(super) fn report(&self) -> ReactorReport {
        let report = |connection: &Connection| QueueReport {
            association: connection.claim.association().id,
            with_drives: connection.with_drives(&self.engine),
            waits: connection.waits_for_limit(&self.engine),
            tally: connection.tally,
        };
        ReactorReport {
            queues: self.connections.iter().map(|(_, connection)| report(connection)).collect(),
            drives: self.engine.conditions().collect(),
        }
    }

    /// Answers the drains whose commands have all completed.
    pub(super) fn check_drains(&mut self) {
        self.hasten();
        let pending = |drain: &Drain| {
            if let Scope::Namespace { drive, nsid } = drain.scope {
                return self.engine.has_with_drive(drive, nsid, drain.before);
            }
            if let Scope::Evicted(eviction) = &drain.scope {
                return has_evicted(&self.connections, &self.engine, eviction, drain.before);
            }
            let of_a_connection = |command: &Command| {
                let connection = command.connection().and_then(|key| self.connections.get(key));
                let concerned =
                    connection.is_some_and(|connection| drain.scope.has(&connection.origin(), true));
                concerned && command.sequence <= drain.before && command.is_on_its_way()
            };
            let orphans = &self.engine.orphans;
            let commands_left = self.engine.commands.iter().any(|(_, command)| of_a_connection(command))
                || orphans
                    .iter()
                    .any(|orphan| orphan.sequence <= drain.before && drain.scope.has(&orphan.origin, false));
            // What had arrived already, but waits for memory before it is looked at, comes from before the drain too.
            let unread = |connection: &Connection| {
                let of_a_host = matches!(drain.scope, Scope::Host { .. });
                of_a_host
                    && connection.starved
                    && connection.received_at < drain.before
                    && drain.scope.has(&connection.origin(), true)
            };
            commands_left || self.connections.iter().any(|(_, connection)| unread(connection))
        };
        let mut at = 0;
        while let Some(drain) = self.drains.get(at) {
            if pending(drain) && !drain.done.is_closed() {
                at += 1;
            } else {
                let _ = self.drains.swap_remove(at).done.send(());
            }
        }
    }
}
