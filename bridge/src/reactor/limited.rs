//! What a reactor does about limits: commands go on when they can be paid for, and limits change.

use gangway_driver::dma::CommandData;
use gangway_fabric::target::Reply;

use super::accounts::{AccountId, Gate};
use super::command::{Command, Stage, Terms};
use super::engine::Engine;
use super::{Drain, Reactor};
use crate::admission::NamespaceView;

impl Engine {
    /// A user no longer has an account. Commands that wait for one that nobody has any more are put into `woken`.
    pub(super) fn close_account(&mut self, id: AccountId, woken: &mut Vec<(usize, Gate)>) {
        self.accounts.close(id, &mut self.commands, woken);
    }
}

impl Reactor {
    /// Lets commands go on that waited for a limit. Whether there were any.
    pub(super) fn serve_the_limited(&mut self) -> bool {
        let mut any = false;
        while let Some((index, gate)) = self.engine.accounts.next_ready(&mut self.engine.commands) {
            any = true;
            self.let_go_on(index, gate, true);
        }
        any
    }

    /// Lets a command go on that waited at `gate`.
    pub(super) fn let_go_on(&mut self, index: usize, gate: Gate, turn: bool) {
        if let Some(key) = self.engine.commands.get(index).and_then(Command::connection) {
            self.on(key, |connection, context| connection.has_turn(index, gate, turn, context));
        }
    }

    /// Puts the limits of an export in force, as they are now.
    pub(super) fn apply_limits(&mut self, export: usize) {
        let Some(view) = self.exports.get(export) else { return };
        let Engine { accounts, commands, .. } = &mut self.engine;
        let mut woken = Vec::new();
        let meter =
            |one: &NamespaceView| Some(((one.drive, one.drive_nsid), view.limits.namespace(one.nsid)?));
        let limited = view.namespaces.iter().filter_map(meter).collect();
        accounts.limit_namespaces(export, limited, commands, &mut woken);
        for (_, connection) in self.connections.iter_mut().filter(|(_, one)| one.export == export) {
            let meter = view.limits.host(connection.claim.association().connect.host.as_str());
            if accounts.has(connection.account, meter.as_ref()) {
                continue;
            }
            let new = meter.map(|meter| accounts.open(Gate::Host, meter));
            if let Some(old) = std::mem::replace(&mut connection.account, new) {
                // Others of its host may have that for a moment longer, if the limit changes again meanwhile.
                for index in connection.waiting_for(old, commands) {
                    accounts.forget(old, index as u32, commands);
                    woken.push((index, Gate::Host));
                }
                accounts.close(old, commands, &mut woken);
            }
        }
        for (index, gate) in woken {
            self.let_go_on(index, gate, false);
        }
    }

    /// Has commands that a drain waits for, and that would go to their drives only when they can be paid for, executed
    /// before that. Otherwise a host at its limit could not connect again for as long as its commands take.
    pub(super) fn hasten(&mut self) {
        if !self.engine.accounts.are_in_force() {
            return;
        }
        let waits = |command: &Command| {
            let key = command.connection().filter(|_| matches!(command.stage, Stage::Limited(_)))?;
            let origin = self.connections.get(key)?.origin();
            let concerned =
                |drain: &Drain| command.sequence <= drain.before && drain.scope.has(&origin, true);
            (command.is_on_its_way() && self.drains.iter().any(concerned)).then_some(key)
        };
        let commands = self.engine.commands.iter();
        let found: Vec<_> = commands.filter_map(|(index, command)| Some((index, waits(command)?))).collect();
        // Drives are told of them in the next turn.
        self.unfinished |= !found.is_empty();
        for (index, key) in found {
            self.on(key, |connection, context| connection.go_first(index, context));
        }
    }

    /// Whether a command that its drive has completed is to be paid for before its host has the answer.
    pub(super) fn owes(&self, index: usize) -> bool {
        let command = self.engine.commands.get(index);
        command
            .is_some_and(|command| matches!(command.terms, Terms::InDebt(_)) && command.connection.is_some())
    }

    /// Pays for such a command without keeping its host waiting.
    #[cold]
    pub(super) fn overdraw(&mut self, index: usize) {
        let Some(command) = self.engine.commands.get(index) else { return };
        let (Terms::InDebt(gate), Some(key)) = (command.terms, command.connection()) else { return };
        if let Some(connection) = self.connections.get(key) {
            connection.charge(&command.admitted, gate, &mut self.engine.accounts);
        }
    }

    /// Keeps the answer of such a command until then. Its drive is done with `data`.
    #[cold]
    pub(super) fn keep_answer(&mut self, index: usize, data: CommandData, reply: &Reply) {
        self.engine.retain(index, data);
        if let Some(key) = self.engine.commands.get(index).and_then(Command::connection) {
            self.on(key, |connection, context| connection.executed(index, reply, context.engine));
        }
    }
}
