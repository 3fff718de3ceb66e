//! What the control plane tells a reactor to do.

use std::os::fd::AsFd;
use std::sync::{Arc, mpsc};

use gangway_driver::dma::CommandData;
use gangway_driver::queue::QueuePair;
use gangway_spec::status::Status;

use super::accounts::Gate;
use super::command::Command;
use super::connection::Connection;
use super::message::{Adoption, DriveState, Message};
use super::sockets::Receive;
use super::{Drain, Reactor};
use crate::admission::{ExportView, NamespaceView};

/// What a command ends with whose namespace is no longer what it was admitted for.
const IS_ANOTHER: Status = Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr();

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
            Message::Abort { association, qid, cid, verdict } => {
                self.abort(association, qid, cid, verdict);
            }
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
                self.engine.ensure_queues(&view.namespaces, &mut self.given_up);
                self.answer_given_up();
                while self.exports.len() <= export {
                    self.exports.push(Arc::default());
                }
                let old = std::mem::replace(&mut self.exports[export], view);
                self.retire_commands(export, &old);
                self.apply_limits(export);
                let _ = done.send(());
            }
            Message::Report { reply } => drop(reply.send(self.report())),
            Message::Limit { export, done } => {
                self.apply_limits(export);
                let _ = done.send(());
            }
            Message::Hold { drive, nsid, hold, done } => {
                self.engine.hold(drive, nsid, hold, &mut self.given_up);
                self.answer_given_up();
                let _ = done.send(());
            }
            Message::Answered { ticket, reply, data } => self.answered(ticket, &reply, &data),
            Message::Evict { eviction, done } => self.evict(eviction, done),
            Message::Link { drive, link, place } => self.engine.link(drive, link, place),
            Message::Unlink { drive, done } => {
                self.engine.unlink(drive, &mut self.given_up);
                self.answer_given_up();
                let _ = done.send(());
            }
            Message::Freeze { drive, late, reply } => self.freeze(drive, late, &reply),
            Message::Ended { completed, interrupted } => {
                self.engine.completions.extend(completed);
                self.handle_completions();
                for (user, data) in interrupted {
                    self.interrupt(user, data);
                }
            }
            Message::Thaw { drive, state } => self.thaw(drive, state),
            Message::Stop => self.stopped = true,
        }
    }

    /// Answers commands to namespaces that are no longer what the commands were admitted for: those of hosts of this
    /// export, which showed `old` before. Commands that drives have go on.
    fn retire_commands(&mut self, export: usize, old: &ExportView) {
        let view = &self.exports[export];
        let is_gone =
            |one: &&NamespaceView| !view.namespace(one.nsid).is_some_and(|now| one.lives_on_in(now));
        let gone: Vec<_> =
            old.namespaces.iter().filter(is_gone).map(|one| (one.drive, one.drive_nsid)).collect();
        if gone.is_empty() {
            return;
        }
        let connections = &self.connections;
        let of_export =
            |key: u32| connections.get(key as usize).is_some_and(|connection| connection.export == export);
        let verdict = |command: &Command| {
            let admitted = &command.admitted;
            if !command.connection.is_some_and(of_export) {
                None
            } else if gone.contains(&(admitted.drive, admitted.nsid)) {
                Some(IS_ANOTHER)
            } else {
                // What reaches several is to be looked at anew.
                let concerned = gone.iter().any(|(drive, nsid)| admitted.reaches(*drive, Some(*nsid)));
                concerned.then_some(Status::COMMAND_INTERRUPTED)
            }
        };
        self.engine.end(verdict, &mut self.given_up);
        self.answer_given_up();
    }

    /// Gives a drive's queue pair back: if there is one and, with `late`, the command of this identifier is overdue.
    fn freeze(&mut self, drive: usize, late: Option<u16>, reply: &mpsc::Sender<Option<QueuePair>>) {
        // What has completed by now has completed.
        if self.engine.reap() > 0 {
            self.handle_completions();
        }
        let now = self.now;
        let wanted =
            |pair: &QueuePair| late.is_none_or(|cid| pair.all_overdue(now).any(|overdue| overdue.cid == cid));
        let pair = self.engine.drive(drive).and_then(|slot| slot.pair.take_if(|pair| wanted(pair)));
        if let Err(mpsc::SendError(Some(pair))) = reply.send(pair) {
            // Too late: the manager no longer waits for it, and nobody else can answer these commands.
            for user in pair.abandon() {
                self.interrupt(user, CommandData::None);
            }
        }
    }

    fn thaw(&mut self, drive: usize, state: DriveState) {
        let Some(slot) = self.engine.drive(drive) else { return };
        match state {
            DriveState::Works { pair, issue } => {
                let watched = pair.interrupt().map(|signal| self.sockets.watch(signal.as_fd()));
                if let Some(Err(error)) = &watched {
                    tracing::warn!(drive, %error, "its interrupts cannot be watched; its completions are looked for");
                }
                slot.works(*pair, issue, matches!(watched, Some(Ok(()))));
            }
            DriveState::Refuses(status) => {
                slot.refuses = Some(status);
                // What waits ends with this status, whatever the reactor is told next.
                self.pump();
            }
        }
        self.engine.guard();
        self.engine.make_room_for_completions();
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
        let tenant = self.engine.tenants.enter(claim.association().connect.host.as_str());
        let mut connection = Connection::new(socket, fabric, (claim, tenant), export, queue_size, load);
        connection.greet(&greeting);
        let host = connection.claim.association().connect.host.as_str();
        let meter = self.exports.get(export).and_then(|view| view.limits.host(host));
        let accounts = &mut self.engine.accounts;
        connection.account = meter.map(|meter| accounts.open(Gate::Host, meter));
        let key = self.connections.insert(connection);
        accounts.make_room(key + 1, self.engine.tenants.numbers());
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
