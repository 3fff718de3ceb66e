//! How a person names a device: a drive of this machine, or one that a target exports.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use anyhow::{Context, bail};
use gangway_driver::address::DeviceAddress;
use gangway_spec::fabrics::Nqn;

/// The port that IANA assigned to NVMe over TCP.
const PORT: u16 = 4420;

/// The address of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a process has a handful of addresses")]
pub(crate) enum Address {
    /// A subsystem behind NVMe/TCP.
    Tcp {
        /// Name or address, and port, of the target.
        target: String,
        /// The subsystem.
        subsystem: Nqn,
    },
    /// A drive of this machine, through the driver.
    Local(DeviceAddress),
}

impl Address {
    /// Whether there is data on it that somebody could miss.
    pub(crate) fn keeps_data(&self) -> bool {
        !matches!(self, Self::Local(DeviceAddress::Emulated(config))
            if !matches!(config.backing, gangway_driver::emulated::Backing::File(_)))
    }
}

/// The first address that a target's name stands for.
pub(crate) fn resolve(target: &str) -> anyhow::Result<SocketAddr> {
    let mut addresses = target.to_socket_addrs().with_context(|| format!("cannot resolve {target}"))?;
    addresses.next().with_context(|| format!("{target} has no address"))
}

impl FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let Some(rest) = text.strip_prefix("tcp:") else {
            return match text.parse() {
                Ok(address) => Ok(Self::Local(address)),
                Err(gangway_driver::address::AddressError::Kind { .. }) => bail!(
                    "\"{text}\" is not a device: write tcp:HOST:PORT/NQN, pci:0000:01:00.0, \
                     vfio-user:/PATH/TO/SOCKET, or emulated:OPTION=VALUE,..."
                ),
                Err(error) => Err(error.into()),
            };
        };
        let form =
            "a target is written tcp:HOST:PORT/NQN, as in tcp:192.0.2.7:4420/nqn.2014-08.org.example:disk1";
        let (target, subsystem) = rest.split_once('/').context(form)?;
        let host_only = match target.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let number: Option<u16> = port.parse().ok();
                if number.is_none() || host.is_empty() || (host.contains(':') && !host.starts_with('[')) {
                    bail!("{form}; an IPv6 address goes into brackets");
                }
                false
            }
            _ => true,
        };
        if target.is_empty() {
            bail!(form);
        }
        let target = if host_only { format!("{target}:{PORT}") } else { target.to_owned() };
        Ok(Self::Tcp { target, subsystem: subsystem.parse().context("after the slash")? })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { target, subsystem } => write!(f, "tcp:{target}/{subsystem}"),
            Self::Local(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_survive_being_printed() {
        for text in [
            "tcp:192.0.2.7:4421/nqn.2014-08.org.example:a",
            "tcp:[::1]:4420/nqn.2014-08.org.example:a",
            "tcp:localhost:4420/nqn.2014-08.org.example:a/b",
            "pci:0000:01:00.0",
            "vfio-user:/run/nvme.sock",
            "emulated:null",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_port_may_be_left_out() {
        for (text, whole) in [
            ("tcp:host/nqn.2014-08.org.example:a", "tcp:host:4420/nqn.2014-08.org.example:a"),
            ("tcp:[::1]/nqn.2014-08.org.example:a", "tcp:[::1]:4420/nqn.2014-08.org.example:a"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), whole);
        }
    }

    #[test]
    fn what_is_no_device_says_how_one_is_written() {
        for text in [
            "nvme0",
            "tcp:",
            "tcp:host:1",
            "tcp:/nqn.a",
            "tcp:::1/nqn.a",
            "tcp:host:99999/nqn.a",
            "tcp::1/nqn.a",
        ] {
            let error = format!("{:#}", text.parse::<Address>().unwrap_err());
            assert!(error.contains("tcp:HOST:PORT/NQN"), "{text}: {error}");
        }
        assert!("tcp:host:1/disk".parse::<Address>().is_err());
    }

    #[test]
    fn only_data_in_memory_of_this_process_cannot_be_missed() {
        for (text, keeps) in [
            ("emulated", false),
            ("emulated:null", false),
            ("emulated:file=disk.img", true),
            ("pci:01:00.0", true),
            ("vfio-user:/run/nvme.sock", true),
            ("tcp:h/nqn.a", true),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().keeps_data(), keeps, "{text}");
        }
    }
}
