//! What a running `gangway serve` can be asked, and told to change.
//!
//! It listens on a UNIX socket that only its own user may open. Each line is one request, a JSON object, and each is
//! answered by one line: an object with `Error`, or with what was asked for. Requests:
//!
//! - `{"Command":"status"}` gives `Hosts`, `Exports`, `Drives` and `Reactors`.
//! - `{"Command":"limit","Subject":"host:NQN","Limit":"iops=5k"}` changes a limit, of all exports or of the one that
//!   `Subsystem` names, and gives `Exports`: how many that were.

mod client;
mod limit;
mod report;
mod server;
mod status;
mod top;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use self::limit::SetLimit;
pub(crate) use self::server::Listener;
pub(crate) use self::status::Status;
pub(crate) use self::top::Top;

/// Bytes of a request at most.
const LONGEST_REQUEST: usize = 64 << 10;

/// One request.
#[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(tag = "Command", rename_all = "lowercase", rename_all_fields = "PascalCase", deny_unknown_fields)]
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
}

/// Where `serve` listens unless told otherwise: in the folder that the system has for the user's sockets.
fn usual_path() -> PathBuf {
    let folder = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) if !rustix::process::geteuid().is_root() => folder.into(),
        _ => PathBuf::from("/run"),
    };
    folder.join("gangway.sock")
}
