//! What joins NVMe/TCP connections to the hardware queues of drives.
//!
//! - [`Target`]: listens, makes associations, keeps admin queues. The control plane, on tokio.
//! - Reactors: one pinned thread per core asked for. Each owns some connections and one queue pair per drive, and
//!   moves commands between them.
//! - [`Drive`]: a started controller and its manager, which owns the admin queue and resets.
//! - [`admission`]: what an I/O command may do, decided before it can reach a drive.
//!
//! # What always holds
//!
//! - Hardware sees no address and no length that a host chose: data pointers are the driver's, and the length of a
//!   transfer is computed from the command and must equal what its SGL declares.
//! - A command is copied once; the copy is what is checked and what is executed.
//! - A buffer that a drive may touch is free again only when the drive completed its command or is known to be
//!   stopped, whatever happened to the host.
//! - Before a host gets an I/O queue, every command that it left on queues which are gone, or gave in another
//!   association, has left the drive.
//! - A connection has a part of its reactor's memory at most, and loses it when its host does nothing with it while
//!   others wait.
//! - A command reaches a drive only while its namespace is what it was admitted for: a Format, or a namespace that goes, is
//!   a barrier over all reactors.
//! - What a reservation forbids never reaches a drive. When a host is told that it has a reservation, no drive has a command
//!   any more that this one forbids.
//! - Data whose digest is wrong never reaches a drive, and costs its command only.
//! - A malformed PDU costs its connection, a drive that dies costs its namespaces, and neither costs anything else.
//!
//! # What this does not do yet
//!
//! - TLS and in-band authentication.
//! - Namespaces with metadata in a separate buffer, and command sets other than NVM and zoned, are left out of an export.

#![forbid(unsafe_code)]

pub mod admission;
mod association;
mod control;
mod drive;
mod events;
mod export;
mod limits;
pub mod policy;
mod reactor;
mod remote;
mod reservation;
mod status;

pub use control::{Target, TargetConfig, TargetError, TargetHandle};
pub use drive::{Drive, DriveError, DriveEvent, DriveInfo, DriveNamespace, OpenError, Opener};
pub use export::{
    Access, ChangeError, ExportConfig, ExportError, Identifiers, Mapping, RemoveError, Selection,
};
pub use limits::{Limit, LimitBook, LimitError, Limits, Subject};
pub use policy::{HostPolicies, Policy};
pub use reactor::{Poll, ReactorConfig, ReactorError};
pub use reservation::StateError;
pub use status::{
    DriveCondition, DriveStatus, ExportStatus, ExportUse, HostStatus, ReactorStatus, Tally, TargetStatus,
};
