//! `gangway limit`.

use clap::Args;
use gangway_bridge::{Limit, Subject};
use gangway_spec::fabrics::Nqn;
use serde::Deserialize;

use super::Request;
use super::client::Server;
use crate::exit::Exit;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  gangway limit host iops=50k,bandwidth=500MiB
      No host has more than that in a second from now on.
  gangway limit host:nqn.2014-08.org.example:backup bandwidth=100MiB
  gangway limit namespace:2 none
      Namespace 2 is not limited, whatever others are.
  gangway limit host iops=5k --export nqn.2026-11.io.gangway:S123

It is forgotten when the server ends; --limit of `serve` says what a server starts with.";

/// Changes a limit of a running server.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SetLimit {
    /// Whose: `host` (each), `host:NQN`, `namespace` (each), or `namespace:NSID`
    subject: Subject,
    /// What there is in a second: `iops=50k`, `bandwidth=200MiB`, both with a comma between, with `,burst=1s` as much as
    /// that is saved up; or `none`
    limit: Limit,
    /// Of the export of this name only [default: all]
    #[arg(long, value_name = "NQN")]
    export: Option<Nqn>,
    #[command(flatten)]
    server: Server,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Changed {
    exports: usize,
}

impl SetLimit {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let request = Request::Limit {
            subject: self.subject.to_string(),
            limit: self.limit.to_string(),
            subsystem: self.export.as_ref().map(ToString::to_string),
        };
        let Changed { exports } = self.server.connect()?.ask(&request)?;
        let plural = if exports == 1 { "" } else { "s" };
        output::print(&format!("{}: {} ({exports} export{plural})", self.subject, self.limit))?;
        Ok(Exit::Success)
    }
}
