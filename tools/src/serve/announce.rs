//! What is said of exports that hosts can connect to.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::output;

/// Says that an export is ready, and what to type on a host.
///
/// # Errors
/// Standard output is closed or full.
pub(crate) fn announce(nqn: &str, what: &str, addresses: &[SocketAddr]) -> io::Result<()> {
    for address in addresses {
        let (ip, port) = (shown(address.ip()), address.port());
        output::print(&format!("Ready: {nqn} at {address} ({what})"))?;
        output::print(&format!("  nvme connect -t tcp -a {ip} -s {port} -n {nqn}"))?;
    }
    Ok(())
}

/// The address to type: a wildcard stands for whatever address the host reaches this machine by.
fn shown(ip: IpAddr) -> String {
    if ip.is_unspecified() { "ADDRESS".to_owned() } else { ip.to_string() }
}
