//! What a reactor does with what its sockets and drives tell it.

use gangway_driver::dma::CommandData;
use gangway_driver::queue::Completion;
use gangway_fabric::target::Reply;
use gangway_spec::status::Status;

use super::Reactor;
use super::command::{Command, GivenUp};
use super::connection::{Connection, Context, End, Phase};
use super::drives::Way;
use super::sockets::{Receive, SocketEvent};

impl Reactor {
    pub(super) fn handle_events(&mut self) {
        if self.events.is_empty() {
            return;
        }
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event {
                SocketEvent::Received { key, filling, bytes, result } => match self.connection_of(key) {
                    Some(key) if result.is_ok() => {
                        self.work(key, |connection, context| connection.received(filling, bytes, context));
                    }
                    found => {
                        if let Some(filling) = filling {
                            self.engine.release_buffer(filling.buffer);
                        }
                        if let Some(key) = found {
                            self.drop_connection(key);
                        }
                    }
                },
                SocketEvent::Sent { key, batch, result } => match self.connection_of(key) {
                    Some(key) => {
                        let connection = &mut self.connections[key];
                        connection.batch_sent(batch, &mut self.engine);
                        connection.list_unsettled(key, &mut self.unsettled);
                        connection.list_flush(key, &mut self.to_flush);
                        if result.is_err() {
                            self.drop_connection(key);
                        } else if connection.waits_to_send() {
                            self.work(key, |connection, context| Ok(connection.next_receive(context)));
                        }
                    }
                    None => self.engine.retire(batch),
                },
                SocketEvent::HungUp { key } => {
                    if let Some(key) = self.connection_of(key) {
                        self.drop_connection(key);
                    }
                }
            }
        }
        self.events = events;
    }

    pub(super) fn connection_of(&self, socket: usize) -> Option<usize> {
        self.by_socket.get(socket).copied().filter(|key| self.connections.contains(*key))
    }

    /// Lets a connection work, and does what comes of it.
    pub(super) fn work(
        &mut self,
        key: usize,
        step: impl FnOnce(&mut Connection, &mut Context<'_>) -> Result<Option<Receive>, End>,
    ) {
        let Some(outcome) = self.on(key, step) else { return };
        let connection = &mut self.connections[key];
        match outcome {
            Ok(Some(receive)) => self.sockets.start_receive(connection.socket, receive),
            Ok(None) if connection.starved => self.starved.push_back(key),
            Ok(None) if connection.paused => self.paused.push_back(key),
            Ok(None) => {}
            Err(End::ByHost) => self.begin_to_close(key),
            Err(End::Protocol(fatal)) => {
                tracing::warn!(host = %connection.claim.association().connect.host, %fatal, "an I/O connection is terminated");
                // What the host still sends is read and dropped: unread bytes would turn the close into a reset,
                // which can overtake the termination request.
                self.sockets.start_receive(connection.socket, Receive::Stream(usize::MAX));
                self.begin_to_close(key);
            }
        }
    }

    /// A connection ends when what it has to say has left.
    fn begin_to_close(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        if connection.phase == Phase::Open {
            connection.phase = Phase::Closing { since: self.now };
            self.closing += 1;
        }
    }

    /// Gives a connection what it works with. What it has to say is sent at the end of the round.
    pub(super) fn on<T>(
        &mut self,
        key: usize,
        step: impl FnOnce(&mut Connection, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let connection = self.connections.get_mut(key)?;
        let view = self.exports.get(connection.export)?;
        let mut context = Context {
            engine: &mut self.engine,
            view,
            key,
            reactor: self.index,
            memory_limit: self.memory_limit,
            may_share: self.memory.is_plentiful(),
        };
        let value = step(connection, &mut context);
        self.list_flush(key);
        Some(value)
    }

    pub(super) fn list_flush(&mut self, key: usize) {
        self.connections[key].list_flush(key, &mut self.to_flush);
    }

    pub(super) fn flush(&mut self) {
        let mut keys = std::mem::take(&mut self.to_flush);
        for key in keys.drain(..) {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            connection.flush_listed = false;
            if let Some(batch) = connection.take_batch() {
                self.sockets.start_send(connection.socket, batch, &mut self.events);
            } else if connection.phase != Phase::Open && connection.is_flushed() {
                self.sockets.finish(connection.socket);
            }
        }
        self.to_flush = keys;
    }

    pub(super) fn pump(&mut self) {
        self.engine.pump(&mut self.given_up);
        self.answer_given_up();
    }

    /// Answers commands that will not go to a drive.
    pub(super) fn answer_given_up(&mut self) {
        while let Some(GivenUp { command, status }) = self.given_up.pop() {
            self.answer(command, status);
        }
    }

    /// Answers a command that is not with a drive.
    pub(super) fn answer(&mut self, command: usize, status: Status) {
        match self.engine.commands.get(command).and_then(Command::connection) {
            Some(key) => {
                self.connections[key].give_up(command, status, &mut self.engine);
                self.list_flush(key);
            }
            None => {
                self.engine.remove(command);
            }
        }
    }

    pub(super) fn handle_completions(&mut self) {
        let mut completions = std::mem::take(&mut self.engine.completions);
        for Completion { user, entry, data } in completions.drain(..) {
            let status = entry.status();
            let status = if status.is_success() { status } else { self.as_its_host_sees_it(user, status) };
            self.complete(user, data, &Reply { status, result: entry.result() });
        }
        self.engine.completions = completions;
    }

    /// The status of a command that the drive did not execute, for its host.
    #[cold]
    fn as_its_host_sees_it(&mut self, user: u64, status: Status) -> Status {
        let aborted = status.is(Status::ABORT_REQUESTED);
        if aborted && self.note_aborted(user as usize) {
            return status;
        }
        // Aborted, or its queue deleted, because it took too long: not because its host asked for it. It may try again.
        let status = match aborted || status.is(Status::ABORTED_SQ_DELETION) {
            true => Status::COMMAND_INTERRUPTED,
            false => status,
        };
        let connection = self.engine.commands.get(user as usize).and_then(|command| command.connection);
        match connection.and_then(|key| self.connections.get(key as usize)) {
            Some(connection) => connection.claim.association().with_delay(status),
            None => status,
        }
    }

    /// Ends a command that its drive had and never will complete.
    pub(super) fn interrupt(&mut self, user: u64, data: CommandData) {
        let status = self.as_its_host_sees_it(user, Status::COMMAND_INTERRUPTED);
        self.complete(user, data, &Reply::status(status));
    }

    pub(super) fn complete(&mut self, user: u64, data: CommandData, reply: &Reply) {
        if self.engine.accounts.are_in_force() && self.owes(user as usize) {
            // Not those of commands that were not done: an Abort may wait for its command to end.
            if reply.status.is_success() || reply.status.sct() == Status::SCT_MEDIA {
                return self.keep_answer(user as usize, data, reply);
            }
            self.overdraw(user as usize);
        }
        let Some(ended) = self.engine.remove(user as usize) else {
            self.engine.release(data);
            return;
        };
        let Some(key) = ended.connection else {
            // Its host is gone. The drive is done with the buffer only now.
            return self.engine.release(data);
        };
        let connection = &mut self.connections[key];
        connection.completed(ended, data, reply, &mut self.engine);
        connection.list_unsettled(key, &mut self.unsettled);
        connection.list_flush(key, &mut self.to_flush);
    }

    /// Gives buffers that became free to those who wait for them, in order of arrival for each drive.
    pub(super) fn feed_the_waiting(&mut self) {
        for way in [Way::FromDrive, Way::ToDrive] {
            while self.engine.is_short_of_memory(way)
                && let Some(index) = self.engine.next_fed(way)
            {
                let Some(key) = self.engine.commands.get(index).and_then(Command::connection) else {
                    continue;
                };
                self.on(key, |connection, context| connection.with_memory(index, true, context));
            }
        }
        if !self.unsettled.is_empty() {
            self.settle_the_unsettled();
        }
        for _ in 0..self.starved.len() {
            let Some(key) = self.starved.pop_front() else { break };
            if self.connections.get(key).is_some_and(|connection| connection.starved) {
                self.work(key, |connection, context| connection.resume(context));
            }
        }
    }

    fn settle_the_unsettled(&mut self) {
        let mut unsettled = std::mem::take(&mut self.unsettled);
        for key in unsettled.drain(..) {
            self.on(key, |connection, context| {
                connection.settle_listed = false;
                connection.settle(context);
            });
        }
        self.unsettled = unsettled;
    }

    /// Lets connections that gave way to others take more of what has arrived.
    pub(super) fn resume_the_paused(&mut self) {
        for _ in 0..self.paused.len() {
            let Some(key) = self.paused.pop_front() else { break };
            if self.connections.get(key).is_some_and(|connection| connection.paused) {
                self.work(key, |connection, context| connection.resume(context));
            }
        }
    }

    pub(super) fn drop_connection(&mut self, key: usize) {
        let Some(mut connection) = self.connections.try_remove(key) else { return };
        if connection.phase != Phase::Open {
            self.closing -= 1;
        }
        let (receive, batch) = self.sockets.remove(connection.socket);
        connection.dissolve(key, receive, batch, &mut self.engine);
        let mut woken = Vec::new();
        if let Some(account) = connection.account {
            self.engine.close_account(account, &mut woken);
        }
        self.engine.tenants.leave(connection.tenant);
        self.by_socket[connection.socket] = usize::MAX;
        self.to_flush.retain(|listed| *listed != key);
        self.paused.retain(|listed| *listed != key);
        self.starved.retain(|listed| *listed != key);
        self.unsettled.retain(|listed| *listed != key);
        for (index, gate) in woken {
            self.let_go_on(index, gate, false);
        }
    }
}
