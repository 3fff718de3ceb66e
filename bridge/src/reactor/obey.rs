//! What the control plane tells a reactor to do.

use std::os::fd::AsFd;
use std::sync::{Arc, mpsc};

use gangway_driver::dma::CommandData;
use gangway_fabric::target::Reply;
use gangway_spec::status::Status;

use super::connection::Connection;
use super::message::{Adoption, DriveState, Message};
use super::sockets::Receive;
use super::{Drain, Reactor};

impl Reactor {
    pub(super) fn read_inbox(&mut self) {
        let mut counter = [0; 8];
        let _ = rustix::io::read(&*self.wake, &mut counter);
        while let Ok(message) = self.inbox.try_recv() {
            self.obey(message);
        }
    }

    pub(super) fn obey(&mut self, message: Message) {
        match message {
            Message::Adopt(adoption) => self.adopt(*adoption),
            Message::Close { association, done } => {
                let keys: Vec<usize> = self
                    .connections
                    .iter()
                    .filter(|(_, connection)| connection.claim.association().id == association)
                    .map(|(key, _)| key)
                    .collect();
                for key in keys {
                    self.drop_connection(key);
                }
                let _ = done.send(());
            }
            Message::Drain { scope, done } => {
                // Hang-ups that the kernel knows of by now must be known here too: what a dead host left in its
                // sockets is void and must not become a command any more.
                let mut events = std::mem::take(&mut self.events);
                let learned = self.sockets.learn_all(&mut events);
                self.events = events;
                if let Err(error) = learned {
                    tracing::error!(%error, reactor = self.index, "epoll failed");
                }
                self.handle_events();
                let before = self.engine.next_sequence();
                self.drains.push(Drain { scope, before, done });
            }
            Message::Publish { export, view, done } => {
                for namespace in &view.namespaces {
                    self.engine.ensure_queue(namespace.queue);
                }
                while self.exports.len() <= export {
                    self.exports.push(Arc::default());
                }
                self.exports[export] = view;
                let _ = done.send(());
            }
            Message::Link { drive, link } => self.engine.link(drive, link),
            Message::Freeze { drive, reply } => {
                let pair = self.engine.drive(drive).and_then(|slot| slot.pair.take());
                if let Err(mpsc::SendError((_, Some(pair)))) = reply.send((self.index, pair)) {
                    // Too late: the manager has given the drive up, and nobody else can answer these commands.
                    for user in pair.abandon() {
                        let reply = Reply::status(Status::INTERNAL_PATH_ERROR);
                        self.complete(user, CommandData::None, &reply);
                    }
                }
            }
            Message::Thaw { drive, state, interrupted } => self.thaw(drive, state, interrupted),
            Message::Stop => self.stopped = true,
        }
    }

    pub(super) fn thaw(&mut self, drive: usize, state: DriveState, interrupted: Vec<(u64, CommandData)>) {
        if let Some(slot) = self.engine.drive(drive) {
            slot.faulted = false;
            match state {
                DriveState::Ready(pair) => {
                    let watched = pair.interrupt().map(|signal| self.sockets.watch(signal.as_fd()));
                    if let Some(Err(error)) = &watched {
                        tracing::warn!(drive, %error, "its interrupts cannot be watched; its completions are looked for");
                    }
                    slot.interrupts = matches!(watched, Some(Ok(())));
                    slot.pair = Some(*pair);
                }
                DriveState::Failed => slot.failed = true,
            }
            self.engine.make_room_for_completions();
        }
        for (user, data) in interrupted {
            self.complete(user, data, &Reply::status(Status::COMMAND_INTERRUPTED));
        }
    }

    pub(super) fn adopt(&mut self, adoption: Adoption) {
        let Adoption { stream, fabric, claim, export, queue_size, greeting, load } = adoption;
        if claim.is_stale() {
            // Its Close was obeyed while the connection was on its way here.
            return;
        }
        let socket = match self.sockets.add(stream) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "an I/O connection cannot be watched and is closed");
                return;
            }
        };
        let mut connection = Connection::new(socket, fabric, claim, export, queue_size, load);
        connection.greet(&greeting);
        let key = self.connections.insert(connection);
        while self.by_socket.len() <= socket {
            self.by_socket.push(usize::MAX);
        }
        self.by_socket[socket] = key;
        // Room for all connections in every list, and for all that sockets can say at a time: an answer that has left
        // and bytes that arrived. Lists that grow would allocate on the path of an I/O.
        let connections = self.connections.len();
        self.to_flush.reserve(connections);
        self.unsettled.reserve(connections);
        self.paused.reserve(connections);
        self.starved.reserve(connections);
        self.events.reserve(2 * connections);
        self.sockets.start_receive(socket, Receive::Stream(usize::MAX));
        self.list_flush(key);
    }
}
