//! Ends a command whose host wants it aborted.

use gangway_fabric::target::Reply;
use gangway_spec::command::TransferDirection;
use gangway_spec::status::Status;

use super::{Connection, Context, VACANT};
use crate::reactor::command::Stage;

/// Where a command that is to be aborted was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::reactor) enum Found {
    /// It waited here, and has ended.
    Here,
    /// It ends as aborted when the data that its host was asked for has passed.
    Arriving { index: usize },
    /// Its drive has it.
    WithDrive { index: usize },
}

impl Connection {
    /// Aborts the command that its host knows by `cid`. `None` when there is none, or it is about to be answered.
    pub(in crate::reactor) fn abort(&mut self, cid: u16, context: &mut Context<'_>) -> Option<Found> {
        let slot = self.fabric.slot_of(cid)?;
        let engine = &mut *context.engine;
        let index = self.slots.get(usize::from(slot)).copied().unwrap_or(VACANT);
        let command = engine.commands.get_mut(index)?;
        let reads = command.admitted.direction == TransferDirection::ControllerToHost;
        let length = command.admitted.length as usize;
        let budget = if reads { &mut self.reads } else { &mut self.writes };
        match command.stage {
            // It was aborted before.
            Stage::Refused(Status::ABORT_REQUESTED) => return Some(Found::Arriving { index }),
            // The control plane may have executed it already, or its drive has.
            Stage::Refused(_) | Stage::Asked | Stage::Owing(_) => return None,
            Stage::Receiving => {
                command.stage = Stage::Refused(Status::ABORT_REQUESTED);
                return Some(Found::Arriving { index });
            }
            Stage::WithDrive => return Some(Found::WithDrive { index }),
            Stage::Held => budget.held.retain(|held| *held != index),
            // It had no memory yet, or none that counts.
            Stage::Limited(_) => {}
            // Of the data of a write nothing counts any more when it has arrived.
            Stage::Queued if !reads => {}
            Stage::Memory | Stage::Queued => {
                if length > 0 {
                    budget.give_back(length);
                }
            }
        }
        engine.unlist(index);
        self.leave(slot, index, engine);
        self.respond(slot, &Reply::status(Status::ABORT_REQUESTED), engine);
        Some(Found::Here)
    }
}
