//! The asking end of the control socket.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Request, usual_path};
use crate::output;
use crate::serve::InUse;

/// How long the server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which server is asked.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Server {
    /// The server's socket, as its --control says [default: that of the server without --control]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

impl Server {
    /// Connects to it.
    ///
    /// # Errors
    /// Nobody listens, or this user may not connect.
    pub(super) fn connect(&self) -> anyhow::Result<Client> {
        let path = self.control.clone().unwrap_or_else(usual_path);
        let shown = path.display();
        let stream = UnixStream::connect(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                anyhow!("no gangway serves at {shown}; start `gangway serve`, or name its socket with --control PATH")
            }
            ErrorKind::PermissionDenied => {
                anyhow!("{shown} is another user's; ask as that user, or as root")
            }
            _ => anyhow!("cannot connect to {shown}: {error}"),
        })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Client { stream: BufReader::new(stream) })
    }
}

/// A connection to a server.
pub(super) struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Asks, and gives the answer. What the server says meanwhile goes to standard error.
    ///
    /// # Errors
    /// [`InUse`], or what else the server says; or it says nothing.
    pub(super) fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> anyhow::Result<T> {
        let silent = "the server does not answer";
        let line = serde_json::to_string(request)? + "\n";
        self.stream.get_mut().write_all(line.as_bytes()).context(silent)?;
        loop {
            let mut answer = String::new();
            self.stream.read_line(&mut answer).context(silent)?;
            if answer.is_empty() {
                bail!("the server has ended");
            }
            let answer: Value = serde_json::from_str(&answer).context("the server's answer is no JSON")?;
            if let Some(progress) = answer.get("Progress").and_then(Value::as_str) {
                eprintln!("{}", output::printable(progress));
                continue;
            }
            return match answer.get("Error").and_then(Value::as_str) {
                Some(error) if answer.get("InUse").is_some() => Err(InUse(error.to_owned()).into()),
                Some(error) => bail!("{error}"),
                None => serde_json::from_value(answer).context("the server is of another version"),
            };
        }
    }
}
