//! Asynchronous events, on their way to hosts.
//!
//! Whoever knows that something happened tells the associations concerned ([`Association::tell`]), from any thread.
//! What was told waits in the association's [`Mailbox`], where alike notices are one, until the task that owns its admin
//! queue takes it and raises the event at its controller, which knows what the host wants to hear of.
//!
//! [`Association::tell`]: crate::association::Association::tell

mod changed;
mod mailbox;
mod zones;

pub(crate) use self::changed::ChangedNamespaces;
pub(crate) use self::mailbox::{Mailbox, News};
pub(crate) use self::zones::ChangedZones;

use std::sync::Arc;

use gangway_spec::aen::AsyncEvent;

/// Something that a host may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// An event, as the completion of an Asynchronous Event Request tells of it.
    Event(AsyncEvent),
    /// The namespace that the host knows by this NSID came, went, or is another: it is in the host's Changed Namespace
    /// List from now on. FFFFFFFFh: any may be.
    NamespaceChanged(u32),
    /// Zones of the namespace that the host knows by this NSID changed by themselves: those of this log page (BFh), as far
    /// as it could be read, are in the host's Changed Zone List from now on.
    ZonesChanged(u32, Arc<[u8]>),
}
