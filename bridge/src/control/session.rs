//! A connection from its first byte to Connect, which decides whether it becomes an admin queue, served here, or an
//! I/O queue, handed to a reactor.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gangway_fabric::connect::{self, ConnectError, ConnectRequest};
use gangway_fabric::target::Reply;
use gangway_spec::fabrics::fctype;
use gangway_spec::opcode::admin as opcode;
use gangway_spec::status::Status;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::link::{Arrived, Link, LinkEnd};
use super::{Shared, admin};
use crate::association::{Association, ONE_IDENTIFIER_ONE_NAME, QueueClaim};
use crate::reactor::{Adoption, Message, ReactorHandle};
use crate::remote::{DiscoveryService, RemoteController, limits};

/// How long commands of a host's earlier association may hold up its new one. Beyond this the host is told to try
/// again.
const FENCE_LIMIT: Duration = Duration::from_secs(50);
/// How long a peer may take to close after a termination request.
const LINGER: Duration = Duration::from_secs(5);

/// Serves a connection until it ends or is handed over.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared>,
    permit: OwnedSemaphorePermit,
) {
    let link = Link::new(stream);
    let mut permit = Some(permit);
    match greet(link, peer, &shared, &mut permit).await {
        Ok(()) => tracing::debug!(%peer, "connection handed over or ended in order"),
        Err((link, end)) => part(link, end, peer).await,
    }
}

/// Says why a connection ends, and lets last words through.
async fn part(mut link: Link, end: LinkEnd, peer: SocketAddr) {
    match &end {
        LinkEnd::Closed => tracing::debug!(%peer, "{end}"),
        LinkEnd::Broken(_) => tracing::info!(%peer, "{end}"),
        LinkEnd::Protocol(_) | LinkEnd::ByHost { .. } => tracing::warn!(%peer, "{end}"),
    }
    if matches!(end, LinkEnd::Protocol(_)) {
        let farewell = async {
            if link.flush().await.is_ok() {
                link.linger().await;
            }
        };
        let _ = tokio::time::timeout(LINGER, farewell).await;
    }
}

async fn greet(
    mut link: Link,
    peer: SocketAddr,
    shared: &Arc<Shared>,
    permit: &mut Option<OwnedSemaphorePermit>,
) -> Result<(), (Link, LinkEnd)> {
    let deadline = tokio::time::Instant::now() + limits::HANDSHAKE_TIMEOUT;
    loop {
        let arrived = match tokio::time::timeout_at(deadline, link.next(true)).await {
            Ok(Ok(arrived)) => arrived,
            Ok(Err(end)) => return Err((link, end)),
            Err(_) => {
                tracing::info!("a peer did not say in time what its connection is for");
                return Ok(());
            }
        };
        let is_connect = arrived.entry.opcode == opcode::FABRICS && arrived.entry.fctype() == fctype::CONNECT;
        if !is_connect {
            link.respond(arrived.slot, &Reply::status(Status::COMMAND_SEQUENCE_ERROR.with_dnr()));
            continue;
        }
        let request = match ConnectRequest::parse(&arrived.entry, &arrived.data) {
            Ok(request) => request,
            Err(error) => {
                tracing::info!(%peer, %error, "a Connect is refused");
                refuse(&mut link, &arrived, &error);
                continue;
            }
        };
        if request.is_admin() {
            match admit_host(&request, shared, &link) {
                Ok(controller) => {
                    // It is no stranger any more.
                    *permit = None;
                    link.establish(0, request.queue_size, !request.flow_control_disabled);
                    let result = connect::accepted(controller.association().cntlid);
                    link.respond(arrived.slot, &Reply { status: Status::SUCCESS, result });
                    return admin::serve(link, controller, shared).await;
                }
                Err(error) => {
                    log_refusal(peer, &request, &error);
                    refuse(&mut link, &arrived, &error);
                }
            }
        } else {
            match admit_queue(&request, shared).await {
                Ok(claim) => {
                    hand_over(link, &arrived, &request, claim, shared);
                    return Ok(());
                }
                Err(error) => {
                    log_refusal(peer, &request, &error);
                    refuse(&mut link, &arrived, &error);
                }
            }
        }
    }
}

fn log_refusal(peer: SocketAddr, request: &ConnectRequest, error: &ConnectError) {
    let ConnectRequest { host, subsystem, qid, .. } = request;
    tracing::info!(%peer, %host, %subsystem, qid, %error, "a Connect is refused");
}

fn refuse(link: &mut Link, arrived: &Arrived, error: &ConnectError) {
    link.respond(arrived.slot, &Reply { status: error.status, result: error.result() });
}

/// Makes an association and a controller for a host that asks for an admin queue.
fn admit_host(
    request: &ConnectRequest,
    shared: &Arc<Shared>,
    link: &Link,
) -> Result<RemoteController, ConnectError> {
    request.check_queue_size(limits::ADMIN_QUEUE_ENTRIES)?;
    let now = std::time::Instant::now();
    let kato = request.kato;
    if request.subsystem.is_discovery() {
        let association = shared.registry.create(None, request.clone(), 0)?;
        let local = link.local_address().map_err(|_| ConnectError::busy())?;
        let catalogue = Arc::clone(shared);
        let offer = move || catalogue.catalogue.offer();
        let service = DiscoveryService::new(offer, &shared.listeners, local);
        tracing::debug!(host = %request.host, cntlid = association.cntlid, "a host reads the discovery log");
        return Ok(RemoteController::for_discovery(association, service, kato, now));
    }
    let export = shared.export_named(&request.subsystem).ok_or_else(ConnectError::unknown_subsystem)?;
    if !export.access.allows(&request.host) {
        return Err(ConnectError::host_not_allowed());
    }
    let (host, drives) = (u128::from_be_bytes(request.host_id.0), export.drives());
    if let Some(other) = shared.reservations.other_name(&drives, host, &request.host) {
        tracing::warn!(host = %request.host, %other, "the host identifier is that of a host that is registered for reservations under another name: {ONE_IDENTIFIER_ONE_NAME}");
        return Err(ConnectError::host_identifier_taken());
    }
    check_room(shared)?;
    let association = shared.registry.create(Some(export.index), request.clone(), export.max_io_queues)?;
    // Who takes an export back ends the associations that it finds, and must find this one, or be found here.
    if shared.export_named(&export.nqn).is_none_or(|found| found.index != export.index) {
        shared.registry.remove(&association);
        return Err(ConnectError::unknown_subsystem());
    }
    tracing::info!(host = %request.host, subsystem = %export.nqn, cntlid = association.cntlid, "host connected");
    let reservations = Arc::clone(&shared.reservations);
    Ok(RemoteController::for_export(association, export, reservations, kato, now))
}

/// Checks that a host may have the I/O queue that it asks for, and takes it.
async fn admit_queue(request: &ConnectRequest, shared: &Arc<Shared>) -> Result<QueueClaim, ConnectError> {
    let association = shared.registry.find(request.cntlid).ok_or_else(ConnectError::unknown_controller)?;
    request.check_association(&association.connect)?;
    request.check_queue_size(limits::QUEUE_ENTRIES)?;
    if association.export.is_none() {
        return Err(ConnectError::queue_out_of_range());
    }
    if !association.is_enabled() {
        return Err(ConnectError::out_of_sequence());
    }
    if request.qid > association.granted_queues() {
        return Err(ConnectError::queue_out_of_range());
    }
    fence(&association, shared).await?;
    if !association.is_enabled() || association.is_closed() {
        // It was reset, or has ended, meanwhile.
        return Err(ConnectError::out_of_sequence());
    }
    check_room(shared)?;
    association.claim_queue(request.qid).ok_or_else(ConnectError::out_of_sequence)
}

fn check_room(shared: &Shared) -> Result<(), ConnectError> {
    if !shared.is_full() {
        return Ok(());
    }
    tracing::warn!(
        limit = shared.max_connections,
        "there are as many connections as there can be; another one is refused (--max-connections)"
    );
    Err(ConnectError::busy())
}

/// Waits until nothing is left on the drive of what the host sent in earlier associations, or on earlier queues of
/// this one. Otherwise a write that the host has long given up could overtake one that it sends now.
async fn fence(association: &Arc<Association>, shared: &Arc<Shared>) -> Result<(), ConnectError> {
    match tokio::time::timeout(FENCE_LIMIT, shared.drain_host(association)).await {
        Ok(()) => Ok(()),
        Err(_) => {
            tracing::warn!(host = %association.connect.host, "commands of the host's earlier association are still on the drive");
            Err(ConnectError::busy())
        }
    }
}

fn hand_over(
    mut link: Link,
    arrived: &Arrived,
    request: &ConnectRequest,
    claim: QueueClaim,
    shared: &Arc<Shared>,
) {
    let association = Arc::clone(claim.association());
    link.establish(request.qid, request.queue_size, !request.flow_control_disabled);
    let result = connect::accepted(association.cntlid);
    link.respond(arrived.slot, &Reply { status: Status::SUCCESS, result });
    let (stream, fabric, greeting) = link.into_parts();
    let (Some(export), Ok(stream)) = (association.export, stream.into_std()) else { return };
    // Among those with the least to do, one on the CPU where the connection's packets arrive: what wakes it is near.
    let arrives_at = SockRef::from(&stream).cpu_affinity().ok();
    let rank = |reactor: &&ReactorHandle| (reactor.connections(), Some(reactor.cpu) != arrives_at);
    let Some(reactor) = shared.reactors.iter().min_by_key(rank) else { return };
    tracing::debug!(
        cntlid = association.cntlid,
        qid = request.qid,
        reactor = reactor.index,
        "I/O queue connected"
    );
    let adoption = Adoption {
        stream,
        fabric,
        claim,
        export,
        queue_size: request.queue_size,
        greeting,
        load: reactor.share_load(),
    };
    reactor.send(Message::Adopt(Box::new(adoption)));
}
