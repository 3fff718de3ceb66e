//! The admin queue of an association, from Connect to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gangway_fabric::properties::Effect;
use gangway_fabric::target::{Reply, Slot};
use gangway_spec::admin_opcode_name;
use gangway_spec::command::{SubmissionQueueEntry, TransferDirection};
use gangway_spec::fabrics::Nqn;
use gangway_spec::status::Status;

use super::Shared;
use super::link::{Arrived, Link, LinkEnd};
use super::under_way::{Ended, Errand, Forwarded, UnderWay};
use crate::association::Association;
use crate::drive::{AdminReply, AdminTransfer, Drive, Turn, Verdict};
use crate::remote::decide::Finish;
use crate::remote::reach::{deletes, is_about_more};
use crate::remote::{Action, Order, RemoteController};
use crate::reservation::{CONFLICT, Group, Key};

/// How long commands that are with the drive may hold up a shutdown that the host asks for.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(30);

/// How long a command may wait for those of another host that are about the whole drive: well within the time limits of
/// hosts.
const TURN_LIMIT: Duration = Duration::from_secs(8);

/// What ends an admin queue without an error of its connection.
enum Ending {
    KeepAlive,
    Closed,
}

/// Serves an admin queue until it ends, and its association with it.
pub(super) async fn serve(
    mut link: Link,
    mut controller: RemoteController,
    shared: &Arc<Shared>,
) -> Result<(), (Link, LinkEnd)> {
    let association = Arc::clone(controller.association());
    let ended = run(&mut link, &mut controller, shared).await;
    shared.close(&association).await;
    let (host, cntlid) = (&association.connect.host, association.cntlid);
    match ended {
        Ok(Ending::KeepAlive) => {
            tracing::warn!(%host, cntlid, "nothing was heard of the host for its keep-alive time; its association is ended");
            Ok(())
        }
        Ok(Ending::Closed) => Ok(()),
        Err(end) => {
            if association.export.is_some() {
                tracing::info!(%host, cntlid, "host gone");
            }
            Err((link, end))
        }
    }
}

async fn run(
    link: &mut Link,
    controller: &mut RemoteController,
    shared: &Arc<Shared>,
) -> Result<Ending, LinkEnd> {
    let (mut under_way, mut ended) = UnderWay::new();
    let association = Arc::clone(controller.association());
    let mut closed = association.closed();
    loop {
        let now = Instant::now();
        let reads = under_way.has_room();
        if !reads {
            // Signs of life may be unread; that the drive is slow is not the host's fault.
            association.note_activity();
        }
        while let Some((slot, event)) = controller.report_event() {
            link.respond(slot, &Reply { status: Status::SUCCESS, result: event });
        }
        shared.want_events(&association, controller.wanted_events());
        let deadline = controller.keep_alive_deadline(now);
        if deadline.is_some_and(|deadline| now >= deadline) {
            return Ok(Ending::KeepAlive);
        }
        let expiry = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            arrived = link.next(reads) => {
                let arrived = arrived?;
                let Arrived { slot, entry, declared, data } = &arrived;
                match controller.handle(*slot, entry, *declared, data, Instant::now()) {
                    Action::Answer { reply, data } => link.respond_with(*slot, &reply, &data),
                    Action::Hold => {}
                    Action::Forward(order) => {
                        self::forward(controller, shared, &mut under_way, &arrived, *order);
                    }
                    Action::Persist { keys, persists } => {
                        persist(controller, shared, &mut under_way, (*slot, *entry), keys, persists);
                    }
                    Action::Abort { qid, cid } => {
                        let verdict = match under_way.begin_abort(*slot) {
                            Ok(verdict) => verdict,
                            Err(reply) => {
                                link.respond(*slot, &reply);
                                continue;
                            }
                        };
                        if qid == 0 {
                            abort_admin(link, controller, &mut under_way, (*slot, cid), verdict);
                        } else {
                            shared.abort(&association, (qid, cid), &verdict);
                        }
                    }
                    Action::Effect { reply, effect } => {
                        apply(effect, link, controller, &mut under_way, shared).await;
                        link.respond(*slot, &reply);
                    }
                }
            }
            Some(end) = ended.recv() => match end {
                Ended::Forwarded(forwarded) => {
                    let Forwarded { id, entry, forward, moment, drive, answer } = *forwarded;
                    let status = answer.entry.status();
                    let action = controller.finish(&entry, forward.finish, &drive, moment, answer);
                    // Unless it was forgotten by a reset meanwhile.
                    if let Some(slot) = under_way.end(id)
                        && let Action::Answer { reply, data } = action
                    {
                        link.respond_with(slot, &reply, &data);
                        for (abort, reply) in under_way.end_aborts_of(slot, status) {
                            link.respond(abort, &reply);
                        }
                    }
                }
                Ended::Shutdown { id } => {
                    if under_way.end_shutdown(id) {
                        controller.properties().shutdown_complete();
                    }
                }
                Ended::Executed { id, status } => {
                    if let Some(slot) = under_way.end(id) {
                        link.respond(slot, &Reply::status(status));
                    }
                }
                Ended::Abort { id, aborted } => {
                    if let Some((slot, reply)) = under_way.end_abort(id, aborted) {
                        link.respond(slot, &reply);
                    }
                }
            },
            () = association.told() => controller.hear(),
            () = expiry => {}
            () = end(&mut closed) => return Ok(Ending::Closed),
        }
    }
}

/// Aborts a command of the admin queue, for the Abort in `slot`.
fn abort_admin(
    link: &mut Link,
    controller: &mut RemoteController,
    under_way: &mut UnderWay,
    (slot, cid): (Slot, u16),
    verdict: Verdict,
) {
    // None there: the verdict is dropped, and so says that nothing was aborted.
    let Some(command) = link.slot_of(cid) else { return };
    if controller.cancel_event(command) {
        link.respond(command, &Reply::status(Status::ABORT_REQUESTED));
        let _ = verdict.send(true);
    } else {
        under_way.abort(slot, command, verdict);
    }
}

/// Sends a command to a drive; its answer comes back through `under_way`.
fn forward(
    controller: &RemoteController,
    shared: &Arc<Shared>,
    under_way: &mut UnderWay,
    arrived: &Arrived,
    order: Order,
) {
    let Some(export) = controller.export().cloned() else { return };
    let shared = Arc::clone(shared);
    let association = Arc::clone(controller.association());
    let (slot, entry) = (arrived.slot, arrived.entry);
    let Order { drive, also, entry: command, data, forward, alters, moment, claim } = order;
    let transfer = match forward.direction {
        TransferDirection::HostToController => AdminTransfer::ToDrive(data),
        _ => AdminTransfer::FromDrive(forward.length as usize),
    };
    let ticket = drive.ticket();
    let errand = Errand::new(Arc::clone(&drive), ticket);
    let (id, answers) = under_way.begin(slot, forward.length as usize, Some(errand.clone()));
    tokio::spawn(async move {
        let concerned = (drive.index(), drive.info().identify.fna);
        let permitted = || shared.reservations.permit_admin(association.host(), concerned, &command);
        let executed = async {
            let deleted = match deletes(&command) {
                true => shared.reservations.named(drive.index(), command.nsid.get()),
                false => Vec::new(),
            };
            // What came before may have taken long. Until the drive has ended the command, no reservation begins.
            let ongoing = match Group::of_admin(command.opcode) {
                Group::Free => None,
                Group::Read | Group::Write => Some(drive.reservable().read().await),
            };
            if !permitted() {
                return Some(AdminReply::status(CONFLICT));
            }
            let sent = errand.set_out();
            let mut answer = match sent {
                true => drive.admin(ticket, command, transfer, Arc::clone(&association)).await?,
                false => AdminReply::status(Status::ABORT_REQUESTED),
            };
            for other in also {
                if !answer.entry.status().is_success() && !lacks_feature(&answer) {
                    break;
                }
                let transfer = AdminTransfer::FromDrive(0);
                let next = other.admin(other.ticket(), command, transfer, Arc::clone(&association)).await?;
                answer = match (lacks_feature(&answer), lacks_feature(&next)) {
                    (true, _) => next,
                    (_, true) => answer,
                    _ => answer.with(next),
                };
            }
            // Acquire waits for it, and has the turn at a namespace meanwhile.
            drop(ongoing);
            match answer.entry.status().is_success() {
                true if forward.finish == Finish::CreatedNamespace => {
                    shared.begin_reservations(&drive, answer.entry.dw0.get()).await;
                }
                true => shared.end_reservations(deleted).await,
                // Cut off by a reset, for one, it may have been done all the same.
                false if sent && may_be_done(answer.entry.status()) => shared.doubt(&drive, deleted),
                false => {}
            }
            Some(answer)
        };
        // Before anybody's I/O is held back for it.
        let turn = turn_at(&drive, &command, &association, &errand).await;
        let answer = match alters {
            _ if turn.is_err() => turn.as_ref().err().map(|status| AdminReply::status(*status)),
            // Not even a pause for the others.
            _ if !permitted() => Some(AdminReply::status(CONFLICT)),
            Some(altered) => shared.keeping_io_out(&drive, altered, executed).await,
            None => executed.await,
        };
        let answer = answer.unwrap_or_else(|| AdminReply::status(Status::INTERNAL_PATH_ERROR));
        drop(turn);
        // Another host's series begins when the drive has nothing of this one's to come.
        drop(claim);
        if forward.changes {
            audit(&association, &export.nqn, &entry, answer.entry.status());
        }
        // The queue may have ended meanwhile; then nobody waits for the answer.
        let end = Forwarded { id, entry, forward, moment, drive: Arc::clone(&drive), answer };
        let _ = answers.send(Ended::Forwarded(Box::new(end)));
    });
}

/// Whether a command with this status may have been executed all the same, or in part.
fn may_be_done(status: Status) -> bool {
    let cut_off = [
        Status::COMMAND_INTERRUPTED,
        Status::ABORT_REQUESTED,
        Status::ABORTED_SQ_DELETION,
        Status::INTERNAL_ERROR,
        Status::INTERNAL_PATH_ERROR,
        Status::NAMESPACE_NOT_READY,
    ];
    cut_off.iter().any(|one| status.is(*one))
}

/// Whether a drive does not know the feature that it was asked: no bit of it is set there.
fn lacks_feature(answer: &AdminReply) -> bool {
    answer.entry.status().is(Status::INVALID_FIELD)
}

/// Waits until no other host has a command under way that is about the whole drive, if this is one.
///
/// # Errors
/// Command Interrupted when that takes too long: the host may try again. When the host takes the command back, or leaves,
/// that ends the wait.
async fn turn_at<'a>(
    drive: &'a Drive,
    command: &SubmissionQueueEntry,
    association: &Association,
    errand: &Errand,
) -> Result<Option<Turn<'a>>, Status> {
    if !is_about_more(command.opcode) {
        return Ok(None);
    }
    let mut closed = association.closed();
    tokio::select! {
        turn = drive.turns().take(&association.connect.host) => Ok(Some(turn)),
        () = tokio::time::sleep(TURN_LIMIT) => Err(Status::COMMAND_INTERRUPTED),
        () = errand.taken_back() => Err(Status::ABORT_REQUESTED),
        () = end(&mut closed) => Err(Status::ABORTED_SQ_DELETION),
    }
}

/// Says whether the reservations of namespaces survive a restart. That it is done is told through `under_way`.
fn persist(
    controller: &RemoteController,
    shared: &Arc<Shared>,
    under_way: &mut UnderWay,
    (slot, entry): (Slot, SubmissionQueueEntry),
    keys: Vec<Key>,
    persists: bool,
) {
    let shared = Arc::clone(shared);
    let association = Arc::clone(controller.association());
    let (id, answers) = under_way.begin(slot, 0, None);
    tokio::spawn(async move {
        let mut status = Status::SUCCESS;
        for key in keys {
            if let Err(failed) = shared.set_persistence(key, &association, persists).await {
                status = failed;
            }
        }
        audit(&association, &association.connect.subsystem, &entry, status);
        let _ = answers.send(Ended::Executed { id, status });
    });
}

/// Waits until an association is closed, also if it was before.
async fn end(closed: &mut tokio::sync::watch::Receiver<bool>) {
    // Whoever could close it is gone otherwise.
    let _ = closed.wait_for(|closed| *closed).await;
}

/// Writes down who changed what on a drive. The target of these lines is `audit`, so that a filter can tell them.
fn audit(association: &Association, subsystem: &Nqn, entry: &SubmissionQueueEntry, status: Status) {
    let (host, cntlid) = (&association.connect.host, association.cntlid);
    let dwords = [&entry.cdw10, &entry.cdw11, &entry.cdw12, &entry.cdw13, &entry.cdw14, &entry.cdw15];
    let dwords = dwords.map(|dword| format!("{:08x}", dword.get())).join(" ");
    tracing::info!(
        target: "audit",
        %subsystem,
        %host,
        cntlid,
        command = admin_opcode_name(entry.opcode).unwrap_or("of the vendor"),
        opcode = format_args!("{:02x}h", entry.opcode),
        nsid = entry.nsid.get(),
        cdw10_to_15 = %dwords,
        %status,
        "audit: a host changed the drive, or tried"
    );
}

/// Carries out what a change of CC asks for.
async fn apply(
    effect: Effect,
    link: &mut Link,
    controller: &mut RemoteController,
    under_way: &mut UnderWay,
    shared: &Arc<Shared>,
) {
    let association = Arc::clone(controller.association());
    match effect {
        Effect::None => {}
        Effect::Enabled => association.set_enabled(true),
        Effect::Disabled => stop(link, controller, under_way, shared).await,
        Effect::Shutdown { .. } => {
            stop(link, controller, under_way, shared).await;
            // The host looks at CSTS meanwhile, and may think better of it.
            let (id, ends) = under_way.begin_shutdown();
            let shared = Arc::clone(shared);
            tokio::spawn(async move {
                let drained = shared.drain_host(&association);
                if tokio::time::timeout(SHUTDOWN_LIMIT, drained).await.is_err() {
                    tracing::warn!(host = %association.connect.host, "commands are still with the drive after a shutdown");
                }
                let _ = ends.send(Ended::Shutdown { id });
            });
        }
    }
}

/// Drops the I/O queues of a controller, and forgets the commands of its admin queue. These have no completion: a host
/// gives their identifiers to other commands once it has asked for the shutdown, and would take a completion for that of
/// another (SPDK's does). Linux's target answers none either. What the drive has of them it completes.
async fn stop(
    link: &mut Link,
    controller: &mut RemoteController,
    under_way: &mut UnderWay,
    shared: &Arc<Shared>,
) {
    let association = Arc::clone(controller.association());
    association.set_enabled(false);
    shared.close_queues(&association).await;
    for slot in controller.drain_events().into_iter().chain(under_way.forget()) {
        link.forget(slot);
    }
}
