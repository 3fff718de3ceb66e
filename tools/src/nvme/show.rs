//! Where answers go.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, bail};
use serde::Serialize;

use super::args::{Output, Show};
use super::fields::Object;

impl Show {
    /// Shows an answer in the form that was asked for. `bytes` is what the drive gave, `decode` what it means.
    pub(super) fn answer(
        &self,
        title: &str,
        bytes: &[u8],
        decode: impl FnOnce() -> Object,
    ) -> anyhow::Result<()> {
        match self.output() {
            Output::Normal => self.text(&format!("{title}:\n{}", decode().lines(self.human_readable))),
            Output::Json => self.json(&decode()),
            Output::Binary => self.bytes(bytes),
        }
    }

    pub(super) fn json<T: Serialize>(&self, value: &T) -> anyhow::Result<()> {
        self.text(&serde_json::to_string_pretty(value)?)
    }

    pub(super) fn text(&self, text: &str) -> anyhow::Result<()> {
        write(self.output_file.as_deref(), format!("{text}\n").as_bytes())
    }

    pub(super) fn bytes(&self, bytes: &[u8]) -> anyhow::Result<()> {
        binary(self.output_file.as_deref(), bytes)
    }
}

/// Writes bytes that are no text to a file, or to standard output unless that is a terminal.
pub(super) fn binary(file: Option<&Path>, bytes: &[u8]) -> anyhow::Result<()> {
    if file.is_none() && io::stdout().is_terminal() {
        bail!("binary data is not for a terminal: redirect it, or write it to a file");
    }
    write(file, bytes)
}

fn write(file: Option<&Path>, bytes: &[u8]) -> anyhow::Result<()> {
    match file {
        Some(path) => fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display())),
        None => {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            Ok(out.flush()?)
        }
    }
}
