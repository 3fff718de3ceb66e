//! Fabrics commands and the names of hosts and subsystems (NVMe Base 2.0, 6 and 4.5).

mod commands;
mod connect;
mod nqn;

pub use commands::{DisconnectCommand, PropertyGet, PropertySet};
pub use connect::{ConnectCommand, ConnectData, ConnectInvalidParameter};
pub use nqn::{HostId, Nqn, NqnError};

/// The well-known name of the discovery subsystem.
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// Controller identifier in Connect that leaves the choice to the subsystem (dynamic controllers).
pub const CNTLID_DYNAMIC: u16 = 0xffff;
/// Controller identifier in Connect that leaves the choice to the subsystem (static controllers).
pub const CNTLID_STATIC_ANY: u16 = 0xfffe;
/// The largest controller identifier that a controller may have.
pub const CNTLID_MAX: u16 = 0xffef;

/// Types of fabrics commands, in byte 4 of the command.
pub mod fctype {
    /// Property Set.
    pub const PROPERTY_SET: u8 = 0x00;
    /// Connect.
    pub const CONNECT: u8 = 0x01;
    /// Property Get.
    pub const PROPERTY_GET: u8 = 0x04;
    /// Authentication Send.
    pub const AUTHENTICATION_SEND: u8 = 0x05;
    /// Authentication Receive.
    pub const AUTHENTICATION_RECEIVE: u8 = 0x06;
    /// Disconnect.
    pub const DISCONNECT: u8 = 0x08;

    /// The specification's name of a fabrics command; `None` when it is unknown or the vendor's.
    #[must_use]
    pub const fn name(fctype: u8) -> Option<&'static str> {
        Some(match fctype {
            PROPERTY_SET => "Property Set",
            CONNECT => "Connect",
            PROPERTY_GET => "Property Get",
            AUTHENTICATION_SEND => "Authentication Send",
            AUTHENTICATION_RECEIVE => "Authentication Receive",
            DISCONNECT => "Disconnect",
            _ => return None,
        })
    }
}

/// Declares the conversions between a view of a command and the entry it is: the same 64 bytes.
macro_rules! same_bytes_as_an_entry {
    ($view:ty) => {
        const _: () = assert!(size_of::<$view>() == 64);

        impl From<crate::SubmissionQueueEntry> for $view {
            /// The same bytes. Neither opcode nor type is checked.
            fn from(entry: crate::SubmissionQueueEntry) -> Self {
                zerocopy::transmute!(entry)
            }
        }

        impl From<&crate::SubmissionQueueEntry> for $view {
            /// The same bytes. Neither opcode nor type is checked.
            fn from(entry: &crate::SubmissionQueueEntry) -> Self {
                zerocopy::transmute!(*entry)
            }
        }

        impl From<$view> for crate::SubmissionQueueEntry {
            fn from(view: $view) -> Self {
                zerocopy::transmute!(view)
            }
        }
    };
}
use same_bytes_as_an_entry;

impl crate::SubmissionQueueEntry {
    /// The type of a fabrics command, byte 4. Of any other command it is part of the NSID.
    #[must_use]
    pub const fn fctype(&self) -> u8 {
        self.nsid.to_bytes()[0]
    }
}
