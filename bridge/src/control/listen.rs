//! Where hosts arrive: listening sockets, and what every connection is told before it is looked at.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gangway_fabric::congestion::CongestionControl;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Shared, TargetError, session};

/// Listens at an address.
pub(super) fn listen(
    address: SocketAddr,
    congestion: &CongestionControl,
) -> Result<TcpListener, TargetError> {
    let listener = listen_at(address).map_err(|source| TargetError::Listen { address, source })?;
    // What is accepted inherits it.
    let used = congestion
        .apply(&listener)
        .map_err(|source| TargetError::CongestionControl { name: congestion.clone(), source })?;
    tracing::debug!(%address, congestion = used, "listening");
    Ok(listener)
}

fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    // Connections of an earlier run may linger in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

/// Accepts connections for ever.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => meet(stream, peer, &shared, &mut sessions),
                Err(error) => {
                    // Out of descriptors, most likely: connections that end make room.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = sessions.join_next() => {}
        }
    }
}

fn meet(stream: TcpStream, peer: SocketAddr, shared: &Arc<Shared>, sessions: &mut JoinSet<()>) {
    let Ok(permit) = Arc::clone(&shared.strangers).try_acquire_owned() else {
        tracing::warn!(%peer, "too many connections that have not said what they are for; this one is closed");
        return;
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "Nagle's algorithm stays on");
    }
    // A peer that lost its power is noticed even if its host wants no keep-alive timer.
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    if let Err(error) = SockRef::from(&stream).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%peer, %error, "TCP keep-alive stays off");
    }
    sessions.spawn(session::serve(stream, peer, Arc::clone(shared), permit));
}
