//! Aborts: what waits here ends at once, what a drive has the drive is asked to end.

use super::Reactor;
use super::command::Stage;
use super::connection::Found;
use crate::drive::Verdict;

/// In the place of a command that has ended.
const NONE: usize = usize::MAX;

/// A command whose host wants it aborted, until it has ended.
pub(super) struct Abort {
    command: usize,
    /// Tells the command from later ones in its place.
    sequence: u64,
    /// It ends, or has ended, as aborted.
    aborted: bool,
    verdict: Verdict,
}

impl Reactor {
    /// Aborts the command that the host of an association knows by `cid` on queue `qid`.
    pub(super) fn abort(&mut self, association: u64, qid: u16, cid: u16, verdict: Verdict) {
        let found = self.connections.iter().find(|(_, connection)| {
            connection.claim.association().id == association && connection.claim.qid() == qid
        });
        let Some((key, _)) = found else { return };
        let found = self.on(key, |connection, context| connection.abort(cid, context)).flatten();
        let (command, aborted) = match found {
            None => return,
            Some(Found::Here) => {
                // What held it up may go to others.
                self.connections[key].list_unsettled(key, &mut self.unsettled);
                (NONE, true)
            }
            Some(Found::Arriving { index }) => (index, true),
            Some(Found::WithDrive { index }) => {
                self.engine.abort(index, verdict.clone());
                (index, false)
            }
        };
        let sequence = self.engine.commands.get(command).map_or(0, |command| command.sequence);
        // Who gave up waiting may ask again, as often as it likes.
        self.aborts.retain(|abort| !abort.verdict.is_closed());
        self.aborts.push(Abort { command, sequence, aborted, verdict });
    }

    /// Notes that a drive aborted a command. Whether its host wanted that.
    pub(super) fn note_aborted(&mut self, command: usize) -> bool {
        let Some(sequence) = self.engine.commands.get(command).map(|command| command.sequence) else {
            return false;
        };
        let mut wanted = false;
        for abort in &mut self.aborts {
            if (abort.command, abort.sequence) == (command, sequence) {
                abort.aborted = true;
                wanted = true;
            }
        }
        wanted
    }

    /// Says of the commands that have ended how they did. Their answers are on their way by now.
    pub(super) fn check_aborts(&mut self) {
        let commands = &self.engine.commands;
        let ended = |abort: &mut Abort| {
            let command = commands.get(abort.command).filter(|command| command.sequence == abort.sequence);
            // What was executed, and waits to be paid for, is not aborted any more.
            command.is_none_or(|command| matches!(command.stage, Stage::Owing(_)))
        };
        for abort in self.aborts.extract_if(.., ended) {
            let _ = abort.verdict.send(abort.aborted);
        }
    }
}
