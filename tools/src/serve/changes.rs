//! What came of a change of a running server, as the control socket tells it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What was added.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Added {
    pub(crate) exports: Vec<AddedExport>,
    /// NSIDs that an export has now, besides those that it had.
    pub(crate) namespaces: Vec<u32>,
    pub(crate) drives: Vec<String>,
    /// Where the server listens.
    pub(crate) addresses: Vec<SocketAddr>,
}

/// An export that was added.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AddedExport {
    #[serde(rename = "SubsystemNQN")]
    pub(crate) nqn: String,
    pub(crate) description: String,
}

/// What was removed.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Removed {
    pub(crate) exports: Vec<String>,
    /// NSIDs that an export no longer has.
    pub(crate) namespaces: Vec<u32>,
    pub(crate) drives: Vec<RemovedDrive>,
}

/// A drive that is no longer served.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct RemovedDrive {
    pub(crate) name: String,
    /// Whether it was shut down in order, so that it kept all data that it had promised to keep.
    pub(crate) in_order: bool,
}

/// Hosts use what is to be taken from them.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InUse(pub(crate) String);
