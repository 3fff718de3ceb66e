//! One I/O queue's connection on a reactor: bytes become commands, completions become replies.

mod abort;
mod intake;
mod limited;
mod reservations;

use std::sync::Arc;
use std::time::{Duration, Instant};

use gangway_driver::dma::CommandData;
use gangway_fabric::target::{self, CapsuleData, Event, Reply, Slot};
use gangway_fabric::term::Fatal;
use gangway_spec::command::{SubmissionQueueEntry, TransferDirection};
use gangway_spec::fabrics::fctype;
use gangway_spec::opcode::admin;
use gangway_spec::status::Status;

pub(super) use self::abort::Found;
use self::intake::Arrived;
use super::accounts::AccountId;
use super::batch::SendBatch;
use super::budget::{Budget, Watch};
use super::command::{Command, Ended, NO_DRIVE, Origin, Stage, Terms};
use super::engine::Engine;
use super::fair::Link;
use super::message::LoadShare;
use super::sockets::Receive;
use super::tenants::Tenant;
use crate::admission::{Admitted, Course, ExportView, Handling, ListedBy};
use crate::association::QueueClaim;
use crate::policy::Policy;
use crate::reservation::CONFLICT;
use crate::status::Tally;

/// No command in this slot.
const VACANT: usize = usize::MAX;

/// Bytes of headers that may wait behind a batch that is leaving before no more commands are read.
const MOST_UNSENT: usize = 256 << 10;

/// What the connection does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// A last PDU is to leave, then the connection ends.
    Closing {
        since: Instant,
    },
}

pub(super) struct Connection {
    pub(super) socket: usize,
    fabric: target::Connection,
    pub(super) claim: QueueClaim,
    /// Its host.
    pub(super) tenant: Tenant,
    /// What its host may do.
    policy: Arc<Policy>,
    /// What its host may have, if that is limited.
    pub(super) account: Option<AccountId>,
    /// Its host, as reservations know it.
    host: u128,
    pub(super) export: usize,
    _load: LoadShare,
    /// Indices of commands by their slot.
    slots: Vec<usize>,
    /// Replies that leave with the next send, if there are any.
    out: Option<Box<SendBatch>>,
    /// A batch is with the socket.
    sending: bool,
    /// Whether there is room for its commands. One that was never used has none: there may be thousands of them.
    has_room: bool,
    pub(super) phase: Phase,
    /// Received bytes that could not be taken yet: for want of a buffer, or because others have their turn.
    stash: Option<Arrived>,
    /// Others have their turn; then it goes on with what has arrived.
    pub(super) paused: bool,
    /// Waits for a buffer for in-capsule data; nothing is received meanwhile.
    pub(super) starved: bool,
    /// Too many answers wait to leave; nothing is received until some have.
    pub(super) congested: bool,
    /// Memory for data of writes that is asked for with R2T, until all of it has arrived.
    writes: Budget,
    /// Bytes that were asked for and have not all arrived.
    requested: usize,
    /// Commands that they belong to.
    requests: usize,
    /// Memory for data of reads, until it has left.
    reads: Budget,
    /// Bytes of payload that arrived.
    placed: u64,
    /// Order of arrival of the bytes that were received last, among commands.
    pub(super) received_at: u64,
    /// What its host did.
    pub(super) tally: Tally,
    /// Watches the host that owes data.
    unsent: Watch,
    /// Watches the host that owes room for answers.
    unread: Watch,
    pub(super) flush_listed: bool,
    pub(super) settle_listed: bool,
}

/// What a connection reaches while it works.
pub(super) struct Context<'a> {
    pub(super) engine: &'a mut Engine,
    pub(super) view: &'a ExportView,
    /// Key of the connection, for its commands.
    pub(super) key: usize,
    /// Index of the reactor.
    pub(super) reactor: usize,
    /// Bytes of data that one connection may have in each direction.
    pub(super) memory_limit: usize,
    /// Whether there is so much receive memory that drives may read data where it arrived.
    pub(super) may_share: bool,
}

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum End {
    /// It said something it must not; a termination request was queued.
    Protocol(Fatal),
    /// The host ended it, by Disconnect or by a termination request.
    ByHost,
}

impl Connection {
    pub(super) fn new(
        socket: usize,
        fabric: target::Connection,
        (claim, tenant): (QueueClaim, Tenant),
        export: usize,
        queue_size: u16,
        load: LoadShare,
    ) -> Self {
        let depth = usize::from(queue_size);
        Self {
            socket,
            fabric,
            policy: claim.association().policy(),
            host: claim.association().host(),
            claim,
            tenant,
            account: None,
            export,
            _load: load,
            slots: vec![VACANT; depth + 1],
            out: None,
            sending: false,
            has_room: false,
            phase: Phase::Open,
            stash: None,
            paused: false,
            starved: false,
            congested: false,
            writes: Budget::new(depth),
            requested: 0,
            requests: 0,
            reads: Budget::new(depth),
            placed: 0,
            received_at: 0,
            tally: Tally::default(),
            unsent: Watch::default(),
            unread: Watch::default(),
            flush_listed: false,
            settle_listed: false,
        }
    }

    /// Whose commands it has.
    pub(super) fn origin(&self) -> Origin {
        let association = self.claim.association();
        Origin { host: association.host(), association: association.id, export: self.export }
    }

    /// Makes room for as many commands as it can have at a time, so that none allocates on its way.
    fn make_room(&mut self, engine: &mut Engine) {
        engine.add_depth(self.depth());
        self.has_room = true;
    }

    /// Where what it has to say is appended.
    #[inline]
    fn out<'a>(out: &'a mut Option<Box<SendBatch>>, engine: &mut Engine) -> &'a mut SendBatch {
        out.get_or_insert_with(|| engine.batches.take())
    }

    /// Says `pdus`, which were made before it came here. It may be long until it says more, so it does not get a batch
    /// with room for that.
    pub(super) fn greet(&mut self, pdus: &[u8]) {
        self.out.get_or_insert_default().headers().extend_from_slice(pdus);
    }

    /// The batch to send now, if there is one and none is on its way.
    pub(super) fn take_batch(&mut self) -> Option<Box<SendBatch>> {
        if self.sending {
            return None;
        }
        let batch = self.out.take();
        self.sending = batch.is_some();
        batch
    }

    /// A batch has left; its buffers are free again.
    pub(super) fn batch_sent(&mut self, batch: Box<SendBatch>, engine: &mut Engine) {
        self.reads.give_back(batch.payload_bytes());
        engine.retire(batch);
        self.sending = false;
    }

    /// Commands that drives have of it.
    pub(super) fn with_drives(&self, engine: &Engine) -> usize {
        let has = |index: &&usize| {
            engine.commands.get(**index).is_some_and(|command| command.stage == Stage::WithDrive)
        };
        self.slots.iter().filter(has).count()
    }

    /// Commands that it can have at a time, at most.
    fn depth(&self) -> usize {
        self.slots.len()
    }

    /// Whether all replies have left.
    pub(super) fn is_flushed(&self) -> bool {
        self.out.is_none() && !self.sending
    }

    /// Whether nothing but answers that have not left keeps it from receiving. What waits for something else goes on when
    /// it has that: it is listed for it already.
    pub(super) fn waits_to_send(&self) -> bool {
        let listed = self.starved || self.paused;
        self.phase == Phase::Open && self.congested && !listed
    }

    /// Whether commands wait until earlier ones of this connection give their memory back.
    pub(super) fn holds_commands(&self) -> bool {
        !self.writes.held.is_empty() || !self.reads.held.is_empty()
    }

    /// Puts it into the list of those that may have something to send. Each is listed at most once, so the list never
    /// grows on the path of an I/O.
    #[inline]
    pub(super) fn list_flush(&mut self, key: usize, list: &mut Vec<usize>) {
        if !self.flush_listed {
            self.flush_listed = true;
            list.push(key);
        }
    }

    /// Puts it into the list of those that may have room for commands that they held back, if it holds some. Each is
    /// listed at most once.
    #[inline]
    pub(super) fn list_unsettled(&mut self, key: usize, list: &mut Vec<usize>) {
        if !self.settle_listed && self.holds_commands() {
            self.settle_listed = true;
            list.push(key);
        }
    }

    /// Lets held commands go on when there is room for more.
    pub(super) fn settle(&mut self, context: &mut Context<'_>) {
        if self.phase != Phase::Open {
            // Nothing follows a termination request. What is held is withdrawn with the connection.
            return;
        }
        for reads in [false, true] {
            loop {
                let budget = if reads { &mut self.reads } else { &mut self.writes };
                let Some(&index) = budget.held.front() else { break };
                let length =
                    context.engine.commands.get(index).map_or(0, |command| command.admitted.length as usize);
                if budget.is_beyond(length, context.memory_limit) {
                    break;
                }
                budget.held.pop_front();
                budget.used += length;
                context.engine.commands[index].stage = Stage::Receiving;
                self.with_memory(index, false, context);
            }
        }
    }

    /// Starts a command that needs `length` bytes of memory, or holds it until there is room in its budget.
    #[inline]
    fn start(&mut self, index: usize, length: u32, reads: bool, context: &mut Context<'_>) {
        let budget = if reads { &mut self.reads } else { &mut self.writes };
        if !budget.held.is_empty() || budget.is_beyond(length as usize, context.memory_limit) {
            context.engine.commands[index].stage = Stage::Held;
            budget.held.push_back(index);
            return;
        }
        budget.used += length as usize;
        self.with_memory(index, false, context);
    }

    /// For how long the host has done nothing about what it owes: data that it was asked for, if `writes_wait` for
    /// its memory, and receiving its answers, if `reads_wait`. `sent` are the bytes that its socket took so far.
    pub(super) fn idle_for(
        &mut self,
        sent: u64,
        writes_wait: bool,
        reads_wait: bool,
        now: Instant,
    ) -> Duration {
        let owes_data = writes_wait && !self.starved && (self.requested > 0 || self.fabric.is_within_data());
        let owes_room = reads_wait && self.sending;
        let sending = self.unsent.idle_for(owes_data, self.placed, now);
        sending.max(self.unread.idle_for(owes_room, sent, now))
    }

    #[inline(always)]
    fn happened(&mut self, event: &Event, context: &mut Context<'_>) -> Result<(), End> {
        match *event {
            Event::Command { slot, ref entry, data } => self.command(slot, entry, data, context),
            // The handshake was done before a reactor took the connection.
            Event::Initialized => Ok(()),
            Event::Refused { slot, status, .. } => {
                self.respond(slot, &Reply { status, result: 0 }, context.engine);
                Ok(())
            }
            Event::DataComplete { slot, intact } => {
                self.data_complete(slot, intact, context);
                Ok(())
            }
            Event::HostTerminated { fes, fei } => {
                tracing::warn!(%fes, fei, "the host terminated an I/O connection");
                Err(End::ByHost)
            }
        }
    }

    fn command(
        &mut self,
        slot: Slot,
        entry: &SubmissionQueueEntry,
        data: CapsuleData,
        context: &mut Context<'_>,
    ) -> Result<(), End> {
        let (declared, in_capsule) = match data {
            CapsuleData::None => (0, false),
            CapsuleData::InCapsule { len } => (len, true),
            CapsuleData::Transport { len } => (len, false),
        };
        if entry.opcode == admin::FABRICS {
            return self.fabrics_command(slot, entry, in_capsule, context);
        }
        let admitted = match context.view.admit(entry, declared, &self.policy) {
            Ok(admitted) if context.view.permits(self.host, entry) => admitted,
            other => {
                self.refuse(slot, entry, in_capsule, other.err().unwrap_or(CONFLICT), context);
                return Ok(());
            }
        };
        let index = self.enter(slot, entry, admitted, Stage::Receiving, context);
        // With data in its capsule, it goes on when that has arrived.
        if !in_capsule && (!context.engine.accounts.are_in_force() || self.pays(index, context)) {
            self.begin(index, &admitted, context);
        }
        Ok(())
    }

    /// Has a command get what it needs before its drive can have it. Its data is not there.
    #[inline]
    fn begin(&mut self, index: usize, admitted: &Admitted, context: &mut Context<'_>) {
        match (admitted.direction, admitted.length) {
            // A vendor's command may have no data, whatever its opcode says.
            (TransferDirection::HostToController, 1..) => self.start(index, admitted.length, false, context),
            (TransferDirection::ControllerToHost, 1..) => self.start(index, admitted.length, true, context),
            _ => self.dispatch(index, context),
        }
    }

    /// Answers a command that is not admitted, once its in-capsule data has passed if it has some.
    #[cold]
    fn refuse(
        &mut self,
        slot: Slot,
        entry: &SubmissionQueueEntry,
        in_capsule: bool,
        status: Status,
        context: &mut Context<'_>,
    ) {
        if in_capsule {
            self.enter(slot, entry, nowhere(), Stage::Refused(status), context);
        } else {
            self.respond(slot, &Reply::status(status), context.engine);
        }
    }

    #[inline(always)]
    fn enter(
        &mut self,
        slot: Slot,
        entry: &SubmissionQueueEntry,
        admitted: Admitted,
        stage: Stage,
        context: &mut Context<'_>,
    ) -> usize {
        let sequence = context.engine.next_sequence();
        let index = context.engine.commands.insert(Command {
            entry: SubmissionQueueEntry { nsid: admitted.nsid.into(), ..*entry },
            connection: Some(context.key as u32),
            slot,
            tenant: self.tenant,
            link: Link::default(),
            sequence,
            admitted,
            data: CommandData::None,
            terms: Terms::Usual,
            counted: false,
            stage,
        });
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            *place = index;
        }
        index
    }

    /// Fabrics commands on an I/O queue: only Disconnect has a place here.
    #[cold]
    fn fabrics_command(
        &mut self,
        slot: Slot,
        entry: &SubmissionQueueEntry,
        in_capsule: bool,
        context: &mut Context<'_>,
    ) -> Result<(), End> {
        let kind = entry.fctype();
        let status = match kind {
            fctype::DISCONNECT => Status::SUCCESS,
            fctype::CONNECT => Status::COMMAND_SEQUENCE_ERROR.with_dnr(),
            _ => Status::INVALID_FIELD.with_dnr(),
        };
        self.refuse(slot, entry, in_capsule, status, context);
        if kind == fctype::DISCONNECT && !in_capsule { Err(End::ByHost) } else { Ok(()) }
    }

    /// Lets a command that needs memory go on once it has some: a write asks its host for the data, a read goes to
    /// its drive. `first`: it is the first of those that wait for memory.
    pub(super) fn with_memory(&mut self, index: usize, first: bool, context: &mut Context<'_>) {
        if !context.engine.provide(index, first) {
            return;
        }
        let command = &mut context.engine.commands[index];
        if command.admitted.direction == TransferDirection::ControllerToHost {
            return self.dispatch(index, context);
        }
        let slot = command.slot;
        command.terms = Terms::Requested;
        command.stage = Stage::Receiving;
        self.requested += command.data.len();
        self.requests += 1;
        self.fabric.request_data(slot, Self::out(&mut self.out, context.engine).headers());
    }

    fn data_complete(&mut self, slot: Slot, intact: bool, context: &mut Context<'_>) {
        let index = self.slots.get(usize::from(slot)).copied().unwrap_or(VACANT);
        let Some(command) = context.engine.commands.get(index) else { return };
        let requested = command.terms == Terms::Requested;
        if requested {
            let length = command.admitted.length as usize;
            self.writes.give_back(length);
            self.requested -= length;
            self.requests -= 1;
        }
        match command.stage {
            Stage::Refused(status) => {
                self.leave(slot, index, context.engine);
                self.respond(slot, &Reply { status, result: 0 }, context.engine);
            }
            Stage::Receiving => match self.examine(index, intact, context) {
                Ok(()) => {
                    let paid = requested || !context.engine.accounts.are_in_force();
                    if paid || self.pays_with_data(index, context) {
                        self.dispatch(index, context);
                    }
                }
                Err(status) => self.give_up(index, status, context.engine),
            },
            _ => {}
        }
    }

    /// Whether the data of a command may go to its drive.
    #[inline]
    fn examine(&self, index: usize, intact: bool, context: &mut Context<'_>) -> Result<(), Status> {
        let Some(command) = context.engine.commands.get_mut(index) else { return Ok(()) };
        if !intact {
            return Err(Status::TRANSIENT_TRANSPORT_ERROR);
        }
        match command.admitted.handling {
            Handling::Plain | Handling::Cleared | Handling::Guarded => Ok(()),
            Handling::List | Handling::Across => self.examine_list(command, context.view),
        }
    }

    #[cold]
    fn examine_list(&self, command: &mut Command, view: &ExportView) -> Result<(), Status> {
        // Nobody else can change what is in it.
        let CommandData::Buffer(list) = &mut command.data else { return Err(Status::INTERNAL_ERROR) };
        let by = ListedBy { host: self.host, copy_formats: self.claim.association().copy_formats() };
        view.check_list(&command.entry, &command.admitted, by, list)
    }

    #[inline]
    fn dispatch(&mut self, index: usize, context: &mut Context<'_>) {
        if context.engine.commands[index].admitted.course != Course::Drive {
            return self.divert(index, context);
        }
        if let Err(status) = context.engine.dispatch(index) {
            self.give_up(index, status, context.engine);
        }
    }

    /// Answers a command that will not reach its drive.
    #[cold]
    pub(super) fn give_up(&mut self, index: usize, status: Status, engine: &mut Engine) {
        let Some(command) = engine.commands.get(index) else { return };
        let Command { slot, admitted, stage, .. } = *command;
        let reads = admitted.direction == TransferDirection::ControllerToHost;
        let budget = if reads { &mut self.reads } else { &mut self.writes };
        match stage {
            Stage::Held => budget.held.retain(|held| *held != index),
            // What waits for a limit does so before it is counted. Data that came in its capsule never is.
            Stage::Limited(_) => {}
            // Of the data of a write nothing counts any more when it has arrived.
            _ if !reads && stage != Stage::Memory => {}
            _ => budget.give_back(admitted.length as usize),
        }
        self.leave(slot, index, engine);
        let status = self.claim.association().with_delay(status);
        self.respond(slot, &Reply { status, result: 0 }, engine);
    }

    fn leave(&mut self, slot: Slot, index: usize, engine: &mut Engine) {
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            *place = VACANT;
        }
        engine.remove(index);
    }

    /// A drive completed the command: its reply goes into the batch, with its data if it read any.
    #[inline]
    pub(super) fn completed(
        &mut self,
        Ended { slot, direction, length, .. }: Ended,
        data: CommandData,
        reply: &Reply,
        engine: &mut Engine,
    ) {
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            *place = VACANT;
        }
        self.tally.count(direction, length);
        let reads = direction == TransferDirection::ControllerToHost;
        if self.phase != Phase::Open {
            // Nothing follows a termination request.
            if reads {
                self.reads.give_back(length as usize);
            }
            engine.release(data);
            return;
        }
        match data {
            CommandData::Buffer(buffer) if reads && reply.status.is_success() => {
                let out = Self::out(&mut self.out, engine);
                let end = self.fabric.data_header(slot, &buffer, reply, out.headers());
                out.payload(buffer);
                self.fabric.data_end(end, out.headers());
            }
            data => {
                if reads {
                    self.reads.give_back(length as usize);
                }
                engine.release(data);
                self.respond(slot, reply, engine);
            }
        }
    }

    #[inline(always)]
    fn respond(&mut self, slot: Slot, reply: &Reply, engine: &mut Engine) {
        if self.phase != Phase::Open {
            return;
        }
        self.fabric.respond(slot, reply, Self::out(&mut self.out, engine).headers());
    }

    fn terminate(&mut self, fatal: Fatal, engine: &mut Engine) -> End {
        self.fabric.terminate(&fatal, Self::out(&mut self.out, engine).headers());
        End::Protocol(fatal)
    }

    /// Gives back everything that the connection holds, but what drives have: that is freed when they complete it.
    pub(super) fn dissolve(
        &mut self,
        key: usize,
        receive: Option<Receive>,
        batch: Option<Box<SendBatch>>,
        engine: &mut Engine,
    ) {
        if let Some(Receive::Buffer(filling)) = receive {
            engine.release_buffer(filling.buffer);
        }
        for batch in [batch, self.out.take()].into_iter().flatten() {
            engine.retire(batch);
        }
        self.claim.association().remember(self.tally);
        let origin = self.origin();
        self.stash = None;
        self.writes.held.clear();
        self.reads.held.clear();
        let depth = self.depth();
        for index in std::mem::take(&mut self.slots) {
            self.settle_debt(index, engine);
            match engine.commands.get(index) {
                // Not even a slot that was left behind by mistake may touch the command of another connection.
                Some(command) if command.connection() != Some(key) => debug_assert!(false, "a stale slot"),
                Some(command) if command.stage == Stage::WithDrive => engine.orphan(index, origin),
                Some(_) => engine.withdraw(index),
                None => {}
            }
        }
        if self.has_room {
            engine.remove_depth(depth);
        }
    }
}

/// Where a refused command would have gone.
fn nowhere() -> Admitted {
    Admitted {
        course: Course::Drive,
        drive: NO_DRIVE,
        queue: usize::MAX,
        nsid: 0,
        direction: TransferDirection::None,
        length: 0,
        handling: Handling::Plain,
    }
}
