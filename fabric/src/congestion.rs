//! Which congestion control the TCP connections of a storage network use.
//!
//! It decides how much is on its way at a time, and so how fast storage over TCP is. A system's own is chosen for what most
//! of its connections do. BBR, which suits downloads over long ways, sends by timers, and no more than it believes the way
//! to carry: on ways of microseconds both cost more than congestion would.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::str::FromStr;

use rustix::net::sockopt;

/// What replaces BBR, the better one first. Every Linux has Reno.
const INSTEAD_OF_BBR: [&str; 2] = ["cubic", "reno"];

/// The congestion control of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CongestionControl {
    /// What the system uses, except for BBR: CUBIC in its place, or Reno, as far as the system allows.
    #[default]
    Auto,
    /// What the system uses.
    System,
    /// The one of this name, as in `/proc/sys/net/ipv4/tcp_available_congestion_control`.
    Named(String),
}

impl CongestionControl {
    /// Applies it to a TCP socket; connections that a listening socket accepts have what it has. Gives what the socket
    /// uses then.
    ///
    /// # Errors
    /// What the kernel says: a name that it does not know (`ENOENT`), or lets only privileged processes use (`EPERM`).
    /// [`CongestionControl::Auto`] takes what it may have.
    pub fn apply(&self, socket: impl AsFd) -> io::Result<String> {
        match self {
            Self::System => {}
            Self::Named(name) => sockopt::set_tcp_congestion(&socket, name)?,
            Self::Auto if sockopt::tcp_congestion(&socket)?.starts_with("bbr") => {
                // Where neither may be had the system's stays.
                let _ = INSTEAD_OF_BBR.iter().any(|name| sockopt::set_tcp_congestion(&socket, name).is_ok());
            }
            Self::Auto => {}
        }
        Ok(sockopt::tcp_congestion(socket)?)
    }
}

impl FromStr for CongestionControl {
    type Err = NoName;

    fn from_str(text: &str) -> Result<Self, NoName> {
        match text {
            "auto" => Ok(Self::Auto),
            "system" => Ok(Self::System),
            // The kernel's limit is 16, with the zero at its end.
            name if (1..16).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Ok(Self::Named(name.to_owned()))
            }
            _ => Err(NoName),
        }
    }
}

impl fmt::Display for CongestionControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::System => "system",
            Self::Named(name) => name,
        })
    }
}

/// No congestion control can have such a name.
#[derive(Debug, thiserror::Error)]
#[error(
    "not a name of 1 to 15 characters; /proc/sys/net/ipv4/tcp_available_congestion_control has those there are"
)]
pub struct NoName;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn socket() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    #[test]
    fn connections_that_are_accepted_have_what_the_listener_has() {
        let listener = socket();
        // Whoever runs this may use it: it is always there and never privileged.
        assert_eq!(CongestionControl::Named("reno".to_owned()).apply(&listener).unwrap(), "reno");
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(CongestionControl::System.apply(&accepted).unwrap(), "reno");
    }

    #[test]
    fn bbr_is_replaced_and_nothing_else_is() {
        let listener = socket();
        let of_system = CongestionControl::System.apply(&listener).unwrap();
        let auto = CongestionControl::Auto.apply(&listener).unwrap();
        if of_system.starts_with("bbr") {
            assert!(INSTEAD_OF_BBR.contains(&auto.as_str()), "{auto}");
        } else {
            assert_eq!(auto, of_system);
        }
        assert_eq!(CongestionControl::Named("reno".to_owned()).apply(&listener).unwrap(), "reno");
        assert_eq!(CongestionControl::Auto.apply(&listener).unwrap(), "reno");
    }

    #[test]
    fn a_name_that_the_kernel_does_not_know_is_an_error() {
        let error = CongestionControl::Named("gangway".to_owned()).apply(socket()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn names_are_read_as_they_are_shown() {
        for text in ["auto", "system", "cubic", "dctcp"] {
            assert_eq!(text.parse::<CongestionControl>().unwrap().to_string(), text);
        }
        for text in ["", "more-than-fifteen-characters", "two words", "umläute"] {
            assert!(text.parse::<CongestionControl>().is_err(), "{text}");
        }
    }
}
