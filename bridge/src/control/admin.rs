//! The admin queue of an association, from Connect to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gangway_fabric::events::Moment;
use gangway_fabric::properties::Effect;
use gangway_fabric::target::{Reply, Slot};
use gangway_spec::admin_opcode_name;
use gangway_spec::command::{SubmissionQueueEntry, TransferDirection};
use gangway_spec::fabrics::Nqn;
use gangway_spec::status::Status;
use tokio::sync::mpsc;

use super::Shared;
use super::link::{Arrived, Link, LinkEnd};
use crate::association::Association;
use crate::drive::{AdminReply, AdminTransfer, Drive};
use crate::remote::decide::Forward;
use crate::remote::{Action, RemoteController};

/// Commands of one host that the drive has at a time; further ones wait unread.
const MOST_FORWARDED: usize = 16;
/// Bytes that these commands may read together before further ones wait. One may always be as large as it likes.
const MOST_FORWARDED_BYTES: usize = 1 << 20;
/// How long commands that are with the drive may hold up a shutdown that the host asks for.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(30);

struct Forwarded {
    slot: Slot,
    entry: SubmissionQueueEntry,
    forward: Forward,
    moment: Moment,
    /// Index of the drive that had it.
    drive: usize,
    answer: AdminReply,
}

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
    let (answers, mut answered) = mpsc::unbounded_channel::<Forwarded>();
    let association = Arc::clone(controller.association());
    let mut closed = association.closed();
    let (mut forwarded, mut bytes) = (0, 0);
    loop {
        let now = Instant::now();
        let reads = forwarded < MOST_FORWARDED && bytes < MOST_FORWARDED_BYTES;
        if !reads {
            // Signs of life may be unread; that the drive is slow is not the host's fault.
            association.note_activity();
        }
        while let Some((slot, event)) = controller.report_event() {
            link.respond(slot, &Reply { status: Status::SUCCESS, result: event.into() });
        }
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
                    Action::Forward { drive, entry: command, forward, moment } => {
                        forwarded += 1;
                        bytes += forward.length as usize;
                        self::forward(controller, &answers, arrived, drive, command, (forward, moment));
                    }
                    Action::Effect { reply, effect } => {
                        apply(effect, link, controller, shared).await;
                        link.respond(*slot, &reply);
                    }
                }
            }
            Some(Forwarded { slot, entry, forward, moment, drive, answer }) = answered.recv() => {
                forwarded -= 1;
                bytes -= forward.length as usize;
                let finished = controller.finish(&entry, forward.finish, drive, moment, answer);
                if let Action::Answer { reply, data } = finished {
                    link.respond_with(slot, &reply, &data);
                }
            }
            () = association.told() => controller.hear(),
            () = expiry => {}
            _ = closed.changed() => return Ok(Ending::Closed),
        }
    }
}

/// Sends a command to the drive; its answer comes back through `answers`.
fn forward(
    controller: &RemoteController,
    answers: &mpsc::UnboundedSender<Forwarded>,
    arrived: Arrived,
    drive: Arc<Drive>,
    command: SubmissionQueueEntry,
    (forward, moment): (Forward, Moment),
) {
    let Some(export) = controller.export().cloned() else { return };
    let (answers, association) = (answers.clone(), Arc::clone(controller.association()));
    // Another host's image begins when the drive has no piece of this one's to come.
    let claim = controller.firmware_claim();
    let Arrived { slot, entry, data, .. } = arrived;
    let transfer = match forward.direction {
        TransferDirection::HostToController => AdminTransfer::ToDrive(data),
        _ => AdminTransfer::FromDrive(forward.length as usize),
    };
    tokio::spawn(async move {
        let answer = drive.admin(command, transfer, Arc::clone(&association)).await;
        let answer = answer.unwrap_or_else(|| AdminReply::status(Status::INTERNAL_PATH_ERROR));
        drop(claim);
        if forward.changes {
            audit(&association, &export.nqn, &entry, answer.entry.status());
        }
        // The queue may have ended meanwhile; then nobody waits for the answer.
        let _ = answers.send(Forwarded { slot, entry, forward, moment, drive: drive.index(), answer });
    });
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
async fn apply(effect: Effect, link: &mut Link, controller: &mut RemoteController, shared: &Arc<Shared>) {
    let association = Arc::clone(controller.association());
    match effect {
        Effect::None => {}
        Effect::Enabled => association.set_enabled(true),
        Effect::Disabled => stop(link, controller, shared, &association).await,
        Effect::Shutdown { .. } => {
            stop(link, controller, shared, &association).await;
            let drained = shared.drain_host(&association);
            if tokio::time::timeout(SHUTDOWN_LIMIT, drained).await.is_err() {
                tracing::warn!(host = %association.connect.host, "commands are still with the drive after a shutdown");
            }
            controller.properties().shutdown_complete();
        }
    }
}

/// Drops the I/O queues of a controller, and forgets its event requests. These have no completion: a host gives their
/// identifiers to other commands once it has asked for the shutdown, and would take a completion for that of another
/// (SPDK's does). Linux's target answers none either.
async fn stop(
    link: &mut Link,
    controller: &mut RemoteController,
    shared: &Arc<Shared>,
    association: &Association,
) {
    association.set_enabled(false);
    shared.close_queues(association).await;
    for slot in controller.drain_events() {
        link.forget(slot);
    }
}
