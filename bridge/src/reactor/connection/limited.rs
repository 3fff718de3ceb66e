//! What a connection does with commands of hosts and namespaces that are limited.
//!
//! A command pays before anything is set aside for it: while it waits it has no memory, and its host is not asked for its
//! data. Only data that came in its capsule is there already. It stays, as long as such data has no more than a part of the
//! memory for data of writes ([`Engine::set_aside`]). Beyond that a command is executed first and paid for afterwards: its
//! answer waits instead, and its host cannot send more than its queue holds. So a connection is always read on.

use gangway_fabric::target::Reply;
use gangway_spec::command::TransferDirection;
use slab::Slab;

use super::{Connection, Context, Phase};
use crate::admission::Admitted;
use crate::reactor::accounts::{AccountId, Accounts, Gate};
use crate::reactor::command::{Command, Stage, Terms};
use crate::reactor::engine::Engine;

impl Connection {
    /// Pays for a command, from `from` on; `turn`: it waited there, and has its turn. Where it has to wait, if there is
    /// not enough.
    fn toll(
        &self,
        admitted: &Admitted,
        from: Gate,
        turn: bool,
        accounts: &mut Accounts,
    ) -> Option<(Gate, AccountId)> {
        if from == Gate::Host
            && let Some(id) = self.account
            && !accounts.pay(id, admitted.length, turn)
        {
            return Some((Gate::Host, id));
        }
        let id = accounts.of_namespace(self.export, admitted)?;
        let turn = turn && from == Gate::Namespace;
        (!accounts.pay(id, admitted.length, turn)).then_some((Gate::Namespace, id))
    }

    /// Pays for a command that does not wait, from `from` on, if need be with what will be there later.
    pub(in crate::reactor) fn charge(&self, admitted: &Admitted, from: Gate, accounts: &mut Accounts) {
        let host = self.account.filter(|_| from == Gate::Host);
        for id in [host, accounts.of_namespace(self.export, admitted)].into_iter().flatten() {
            accounts.charge(id, admitted.length);
        }
    }

    /// Pays for a command that will be executed, or has been, though its connection ends: who leaves and comes again has
    /// no more than who stays.
    pub(super) fn settle_debt(&self, index: usize, engine: &mut Engine) {
        let Some(Command { admitted, stage, terms, .. }) = engine.commands.get(index) else { return };
        let from = match (*stage, *terms) {
            (Stage::Owing(account), _) => engine.accounts.gate(account),
            (Stage::WithDrive | Stage::Asked, Terms::InDebt(gate)) => gate,
            _ => return,
        };
        self.charge(admitted, from, &mut engine.accounts);
    }

    /// Pays for a command that has come. False when it has to wait.
    #[cold]
    pub(super) fn pays(&mut self, index: usize, context: &mut Context<'_>) -> bool {
        let engine = &mut *context.engine;
        let admitted = engine.commands[index].admitted;
        let Some((_, account)) = self.toll(&admitted, Gate::Host, false, &mut engine.accounts) else {
            return true;
        };
        engine.limit(index, Stage::Limited(account), account);
        false
    }

    /// Pays for a command whose data came in its capsule. False when it has to wait. If its data cannot, it goes on and
    /// is in debt.
    #[cold]
    pub(super) fn pays_with_data(&mut self, index: usize, context: &mut Context<'_>) -> bool {
        let engine = &mut *context.engine;
        let admitted = engine.commands[index].admitted;
        let Some((gate, account)) = self.toll(&admitted, Gate::Host, false, &mut engine.accounts) else {
            return true;
        };
        if engine.set_aside(index) {
            engine.limit(index, Stage::Limited(account), account);
            return false;
        }
        engine.commands[index].terms = Terms::InDebt(gate);
        true
    }

    /// A command that waited goes on, or its answer leaves, if it can be paid for from `from` on.
    pub(in crate::reactor) fn has_turn(
        &mut self,
        index: usize,
        from: Gate,
        turn: bool,
        context: &mut Context<'_>,
    ) {
        let engine = &mut *context.engine;
        let Some(Command { admitted, stage, slot, .. }) = engine.commands.get(index) else { return };
        let (admitted, stage, slot) = (*admitted, *stage, *slot);
        let next = self.toll(&admitted, from, turn, &mut engine.accounts);
        match (stage, next) {
            (Stage::Owing(_), Some((_, account))) => engine.limit(index, Stage::Owing(account), account),
            (Stage::Owing(_), None) => {
                let reply = engine.commands[index].answer();
                self.leave(slot, index, engine);
                self.respond(slot, &reply, engine);
            }
            (_, Some((_, account))) => engine.limit(index, Stage::Limited(account), account),
            (_, None) => {
                engine.pick_up(index);
                self.go(index, context);
            }
        }
    }

    /// A command that waits for a limit goes on at once. Those behind it wait until it is paid for.
    pub(in crate::reactor) fn go_first(&mut self, index: usize, context: &mut Context<'_>) {
        let engine = &mut *context.engine;
        let Some(&Command { admitted, stage: Stage::Limited(account), .. }) = engine.commands.get(index)
        else {
            return;
        };
        engine.unlist(index);
        self.charge(&admitted, engine.accounts.gate(account), &mut engine.accounts);
        self.go(index, context);
    }

    fn go(&mut self, index: usize, context: &mut Context<'_>) {
        let command = &mut context.engine.commands[index];
        command.stage = Stage::Receiving;
        if self.phase != Phase::Open {
            // Nothing follows a termination request.
            let slot = command.slot;
            self.leave(slot, index, context.engine);
        } else if command.data.is_empty() {
            let admitted = command.admitted;
            self.begin(index, &admitted, context);
        } else {
            self.dispatch(index, context);
        }
    }

    /// A command was executed that was not paid for. Its answer leaves when it is.
    pub(in crate::reactor) fn executed(&mut self, index: usize, reply: &Reply, engine: &mut Engine) {
        let Some(command) = engine.commands.get_mut(index) else { return };
        let (admitted, slot) = (command.admitted, command.slot);
        let Terms::InDebt(gate) = command.terms else { return };
        debug_assert_ne!(
            admitted.direction,
            TransferDirection::ControllerToHost,
            "what was read is not kept with the answer: only data in capsules makes debts"
        );
        self.tally.count(admitted.direction, admitted.length);
        match self.toll(&admitted, gate, false, &mut engine.accounts) {
            Some((_, account)) => {
                engine.commands[index].keep_answer(*reply);
                engine.limit(index, Stage::Owing(account), account);
            }
            None => {
                self.leave(slot, index, engine);
                self.respond(slot, reply, engine);
            }
        }
    }

    /// Its commands that wait for an account.
    pub(in crate::reactor) fn waiting_for(&self, account: AccountId, commands: &Slab<Command>) -> Vec<usize> {
        let waits = |index: &usize| {
            let stage = commands.get(*index).map(|command| command.stage);
            matches!(stage, Some(Stage::Limited(id) | Stage::Owing(id)) if id == account)
        };
        self.slots.iter().copied().filter(waits).collect()
    }

    /// Whether a command, or the answer of one, waits for a limit.
    pub(in crate::reactor) fn waits_for_limit(&self, engine: &Engine) -> bool {
        let mut commands = self.slots.iter().filter_map(|index| engine.commands.get(*index));
        commands.any(|command| matches!(command.stage, Stage::Limited(_) | Stage::Owing(_)))
    }
}
