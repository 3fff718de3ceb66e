//! What a running `gangway serve` can be asked, and told to change.
//!
//! It listens on a UNIX socket that only its own user may open. Each line is one request, a JSON object, and each is
//! answered by one line: an object with `Error`, or with what was asked for. As long as that takes, there is a line with
//! `Progress` each second. Requests:
//!
//! - `{"Command":"status"}` gives `Hosts`, `Exports`, `Drives` and `Reactors`.
//! - `{"Command":"limit","Subject":"host:NQN","Limit":"iops=5k"}` changes a limit, of all exports or of the one that
//!   `Subsystem` names, and gives `Exports`: how many that were.
//! - `{"Command":"add","Devices":["pci:0000:01:00.0"],"Terms":{"AllowHost":["NQN"]}}` starts drives and exports them.
//!   `Terms` has the options of `gangway add` (`NQN`, `Export`, `AllowHost`, `AllowAnyHost`, `ReadOnly`, `DeriveIDs`, `Allow`,
//!   `Refuse`, `AllowFor`, `Limit`, `PRP`), as texts or flags. It gives `Exports`, `Drives` and `Addresses`. With `Subsystem`
//!   and `Namespaces` (as `--ns` has them) it adds these to an export, and gives `Namespaces`: their NSIDs.
//! - `{"Command":"remove","Names":["NQN","pci:0000:01:00.0"]}` takes exports and drives back, and
//!   `{"Command":"removeFrom","Subsystem":"NQN","Namespaces":[3]}` namespaces. Where hosts are connected there is an `Error` with
//!   `InUse`, unless the request has `"Disconnect":true`. They give `Exports`, `Namespaces` and `Drives`.
//!
//! Paths in device addresses are those of the server: absolute ones mean the same to both.

mod add;
mod client;
mod limit;
mod remove;
mod report;
mod server;
mod status;
mod top;

use std::path::PathBuf;

use gangway_driver::address::DeviceAddress;
use serde::{Deserialize, Serialize};

pub(crate) use self::add::Add;
pub(crate) use self::limit::SetLimit;
pub(crate) use self::remove::Remove;
pub(crate) use self::server::Listener;
pub(crate) use self::status::Status;
pub(crate) use self::top::Top;
use crate::serve::{NamespaceArg, Terms};
use crate::texts;

/// Bytes of a request at most.
const LONGEST_REQUEST: usize = 64 << 10;

/// One request.
#[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(tag = "Command", rename_all = "camelCase", rename_all_fields = "PascalCase", deny_unknown_fields)]
enum Request {
    /// What is the target doing?
    Status {},
    /// Changes a limit.
    Limit {
        /// As `--limit` has it.
        subject: String,
        /// As `--limit` has it, or `none`.
        limit: String,
        /// The export of this name. All, when there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subsystem: Option<String>,
    },
    /// Starts drives, and shows them or others to hosts.
    Add {
        #[serde(default, with = "texts", skip_serializing_if = "Vec::is_empty")]
        devices: Vec<DeviceAddress>,
        #[serde(default)]
        terms: Box<Terms>,
        /// By an export that there is.
        #[serde(default, rename = "Subsystem", skip_serializing_if = "Option::is_none")]
        to: Option<String>,
        #[serde(default, with = "texts", skip_serializing_if = "Vec::is_empty")]
        namespaces: Vec<NamespaceArg>,
    },
    /// Takes exports and drives back.
    Remove {
        names: Vec<String>,
        /// Also where hosts are connected.
        #[serde(default)]
        disconnect: bool,
    },
    /// Takes namespaces out of an export.
    RemoveFrom {
        subsystem: String,
        namespaces: Vec<u32>,
        /// Also where hosts are connected.
        #[serde(default)]
        disconnect: bool,
    },
}

/// Where `serve` listens unless told otherwise: in the folder that the system has for the user's sockets.
fn usual_path() -> PathBuf {
    let folder = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) if !rustix::process::geteuid().is_root() => folder.into(),
        _ => PathBuf::from("/run"),
    };
    folder.join("gangway.sock")
}
