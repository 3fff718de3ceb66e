//! What a connection does with bytes that arrive: headers to the protocol, payload to where its command has it.

use std::ops::{Deref, Range};

use gangway_driver::dma::{CommandData, DmaSlice};
use gangway_fabric::target::{Event, Slot, Want};
use gangway_fabric::term::Fatal;

use super::{Connection, Context, End, MOST_UNSENT, Phase, VACANT};
use crate::admission::Handling;
use crate::reactor::COMMANDS_AT_ONCE;
use crate::reactor::command::{Command, Stage};
use crate::reactor::engine::Engine;
use crate::reactor::sockets::{Filling, Receive};

/// Bytes that arrived.
pub(super) enum Arrived {
    /// In receive memory, which drives can read.
    Chunk(DmaSlice),
    /// A copy, from a place on. A connection that cannot go on for want of a buffer must not keep a chunk: a few of them
    /// would have all there are.
    Copy(Box<[u8]>, usize),
}

impl Arrived {
    /// What stands at `at` and behind it.
    fn rest(self, at: usize) -> Self {
        match self {
            Arrived::Chunk(bytes) => Arrived::Chunk(bytes.slice(at..bytes.len())),
            bytes => bytes.keep(at),
        }
    }

    /// What stands at `at` and behind it, out of receive memory.
    fn keep(self, at: usize) -> Self {
        match self {
            Arrived::Copy(bytes, from) => Arrived::Copy(bytes, from + at),
            Arrived::Chunk(bytes) => Arrived::Copy(bytes[at..].into(), 0),
        }
    }
}

impl Deref for Arrived {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Arrived::Chunk(bytes) => bytes,
            Arrived::Copy(bytes, from) => &bytes[*from..],
        }
    }
}

/// Payload of one command among the bytes that arrived.
struct Piece<'a> {
    bytes: &'a Arrived,
    from: Range<usize>,
    /// Where in the command's data it belongs.
    to: usize,
    /// Whether it is all the data that there is in its PDU, and the first of the command.
    whole: bool,
}

/// Bytes received at a time where headers are due, while data of large commands is on its way behind them. What of it
/// comes along must be copied to where it belongs.
const AHEAD_OF_DATA: usize = 8192;
/// Bytes of a command from which on receiving its data apart from others saves more than it costs.
const LARGE: usize = 32 * 1024;

impl Connection {
    /// Takes received bytes. Returns where the next ones go, or `None` while none may be received.
    pub(in crate::reactor) fn received(
        &mut self,
        filling: Option<Filling>,
        bytes: Option<DmaSlice>,
        context: &mut Context<'_>,
    ) -> Result<Option<Receive>, End> {
        if self.phase != Phase::Open {
            if let Some(filling) = filling {
                context.engine.release_buffer(filling.buffer);
            }
            return Ok(Some(Receive::Stream(usize::MAX)));
        }
        self.claim.association().note_activity();
        self.received_at = context.engine.sequence();
        if !self.has_room {
            self.make_room(context.engine);
        }
        if let Some(filling) = filling {
            self.filled(filling, context)?;
        }
        match bytes {
            Some(bytes) => self.consume(Arrived::Chunk(bytes), 0, context)?,
            None => self.settle(context),
        }
        Ok(self.next_receive(context))
    }

    /// Goes on after buffers became free, or others have had their turn.
    pub(in crate::reactor) fn resume(&mut self, context: &mut Context<'_>) -> Result<Option<Receive>, End> {
        self.starved = false;
        self.paused = false;
        if let Some(bytes) = self.stash.take() {
            self.consume(bytes, 0, context)?;
        }
        Ok(self.next_receive(context))
    }

    fn filled(&mut self, filling: Filling, context: &mut Context<'_>) -> Result<(), End> {
        let Want::Payload { slot, offset, .. } = self.fabric.want() else {
            context.engine.release_buffer(filling.buffer);
            return Ok(());
        };
        let (_, event) = self.placed(&filling.buffer[offset as usize..filling.filled], &[]);
        if let Some(command) = self.command_of(slot, context.engine) {
            command.data = CommandData::Buffer(filling.buffer);
        } else {
            context.engine.release_buffer(filling.buffer);
        }
        match event {
            Some(event) => self.happened(&event, context),
            None => Ok(()),
        }
    }

    fn command_of<'e>(&self, slot: Slot, engine: &'e mut Engine) -> Option<&'e mut Command> {
        engine.commands.get_mut(*self.slots.get(usize::from(slot))?)
    }

    /// Payload is where it belongs. Of what is `behind` it in the stream the protocol takes its digest: so many bytes.
    fn placed(&mut self, bytes: &[u8], behind: &[u8]) -> (usize, Option<Event>) {
        self.placed += bytes.len() as u64;
        self.fabric.placed_before(bytes, behind)
    }

    /// Has the protocol take a header.
    #[inline]
    fn parse(&mut self, bytes: &[u8], context: &mut Context<'_>) -> Result<(usize, Option<Event>), Fatal> {
        // Nothing that arrives once a queue is connected is answered by the protocol itself.
        let answers = &mut context.engine.answers;
        let taken = self.fabric.receive(bytes, answers);
        debug_assert!(answers.is_empty());
        answers.clear();
        taken
    }

    /// Works through `bytes` from `at` on.
    fn consume(&mut self, bytes: Arrived, mut at: usize, context: &mut Context<'_>) -> Result<(), End> {
        let mut commands = 0;
        let received: &[u8] = &bytes;
        while at < received.len() && self.phase == Phase::Open {
            let available = received.len() - at;
            match self.fabric.want() {
                Want::Header { .. } if commands == COMMANDS_AT_ONCE => {
                    self.stash = Some(bytes.rest(at));
                    self.paused = true;
                    return Ok(());
                }
                Want::Header { .. } => match self.parse(&received[at..], context) {
                    Ok((taken, event)) => {
                        at += taken;
                        if let Some(event) = event {
                            commands += 1;
                            self.happened(&event, context)?;
                        }
                    }
                    Err(fatal) => return Err(self.terminate(fatal, context.engine)),
                },
                Want::Discard { remaining } => {
                    let count = available.min(remaining as usize);
                    at += count;
                    if let Some(event) = self.fabric.discarded(count as u32) {
                        self.happened(&event, context)?;
                    }
                }
                Want::Payload { slot, offset, remaining } => {
                    let count = available.min(remaining as usize);
                    let piece = Piece {
                        bytes: &bytes,
                        from: at..at + count,
                        to: offset as usize,
                        whole: offset == 0 && count == remaining as usize,
                    };
                    if !self.store(slot, &piece, context) {
                        self.stash = Some(bytes.keep(at));
                        self.starved = true;
                        return Ok(());
                    }
                    let (data, behind) = received[at..].split_at(count);
                    let (digest, event) = self.placed(data, behind);
                    at += count + digest;
                    if let Some(event) = event {
                        self.happened(&event, context)?;
                    }
                }
                Want::Nothing => return Ok(()),
            }
        }
        self.settle(context);
        Ok(())
    }

    /// Puts received payload into the command in `slot`. False when a buffer is needed and none is free.
    fn store(&mut self, slot: Slot, piece: &Piece<'_>, context: &mut Context<'_>) -> bool {
        let Piece { bytes, from, to, whole } = piece;
        let index = self.slots.get(usize::from(slot)).copied().unwrap_or(VACANT);
        let Some(command) = context.engine.commands.get_mut(index) else { return true };
        if matches!(command.stage, Stage::Refused(_)) {
            return true;
        }
        if let CommandData::Buffer(buffer) = &mut command.data {
            buffer[*to..*to + from.len()].copy_from_slice(&bytes[from.clone()]);
            return true;
        }
        // Dword-aligned data that arrived in one piece goes to the drive from where the socket put it.
        if let Arrived::Chunk(chunk) = bytes
            && (chunk.iova() + from.start as u64).is_multiple_of(4)
            && *whole
            && context.may_share
            && command.admitted.handling == Handling::Plain
        {
            command.data = CommandData::Shared(chunk.slice(from.clone()));
            return true;
        }
        if !context.engine.provide_for_capsule(index) {
            return false;
        }
        if let CommandData::Buffer(buffer) = &mut context.engine.commands[index].data {
            buffer[*to..*to + from.len()].copy_from_slice(&bytes[from.clone()]);
        }
        true
    }

    /// Bytes at most to receive into receive memory behind `due` bytes that have their place.
    fn beyond(&self, due: usize) -> usize {
        let large = self.requested > due && self.requested >= LARGE * self.requests;
        if large { AHEAD_OF_DATA } else { usize::MAX }
    }

    pub(in crate::reactor) fn next_receive(&mut self, context: &mut Context<'_>) -> Option<Receive> {
        let unsent = self.out.as_ref().map_or(0, |batch| batch.header_bytes());
        self.congested = self.sending && unsent > MOST_UNSENT;
        if self.starved || self.paused || self.congested {
            return None;
        }
        let Want::Payload { slot, offset, remaining } = self.fabric.want() else {
            return Some(Receive::Stream(self.beyond(0)));
        };
        let index = self.slots.get(usize::from(slot)).copied().unwrap_or(VACANT);
        let (refused, has_buffer) = match context.engine.commands.get(index) {
            Some(command) => {
                (matches!(command.stage, Stage::Refused(_)), matches!(command.data, CommandData::Buffer(_)))
            }
            None => (true, false),
        };
        if refused {
            return Some(Receive::Stream(usize::MAX));
        }
        if !has_buffer && !context.engine.provide_for_capsule(index) {
            self.starved = true;
            return None;
        }
        let data = std::mem::replace(&mut context.engine.commands[index].data, CommandData::None);
        let CommandData::Buffer(buffer) = data else { return None };
        let filled = offset as usize;
        let beyond = self.beyond(remaining as usize);
        Some(Receive::Buffer(Filling { buffer, filled, end: filled + remaining as usize, beyond }))
    }
}
