//! What happens to a drive, for the control plane.

use std::sync::{Arc, mpsc};

use super::DriveNamespace;

/// Something that happened to a drive.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DriveEvent {
    /// The active namespaces or their formats are others now.
    Namespaces(Arc<[DriveNamespace]>),
    /// It is being reset; commands wait.
    Resetting,
    /// It was removed; it is looked for.
    Removed,
    /// It works again, after a reset or after it was removed.
    Works,
    /// It is given up: all commands fail until the program is started again.
    Failed,
}

/// Namespaces that changed, to be put in force on all reactors.
#[derive(Debug)]
pub(crate) struct NamespaceChange {
    pub(crate) namespaces: Arc<[DriveNamespace]>,
    /// Told when no reactor goes by the old ones any more.
    pub(crate) done: mpsc::Sender<()>,
}
