//! `get-log`: any log page, as bytes.

use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;
use gangway_spec::command::NSID_BROADCAST;
use gangway_spec::log::{GetLogPage, lid};

use crate::exit::Exit;
use crate::nvme::args::{self, Target};
use crate::nvme::fields::hex_dump;
use crate::nvme::{session, show};

/// Reads any log page
///
/// What is longer than one command transfers is read in parts, and the event that announced the log page is kept until
/// the last of them.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway get-log pci:0000:01:00.0 -i 2 -l 512
  gangway get-log pci:0000:01:00.0 --log-id 0x0d --lsp 1 --log-len 65536 -b >events.bin")]
pub(crate) struct GetLog {
    #[command(flatten)]
    target: Target,
    /// Namespace [default: all]
    #[arg(short, long, value_name = "NSID", value_parser = args::number32, default_value_t = NSID_BROADCAST)]
    namespace_id: u32,
    /// Log page
    #[arg(short = 'i', long, value_name = "LID", value_parser = args::number8, required_unless_present = "aen")]
    log_id: Option<u8>,
    /// Bytes to read
    #[arg(short = 'l', long, value_name = "BYTES", value_parser = args::number32)]
    log_len: u32,
    /// Result of an Asynchronous Event Request: read the log page that it names
    #[arg(short, long, value_name = "DWORD", value_parser = args::number32)]
    aen: Option<u32>,
    /// Offset in bytes, or an index with --ot
    #[arg(short = 'o', long, value_name = "OFFSET", value_parser = args::number, default_value_t = 0)]
    lpo: u64,
    /// Log specific parameter
    #[arg(short = 's', long, value_name = "LSP", value_parser = args::number8, default_value_t = 0)]
    lsp: u8,
    /// Log specific identifier, such as an endurance group
    #[arg(short = 'S', long, value_name = "LSI", value_parser = args::number16, default_value_t = 0)]
    lsi: u16,
    /// Keep the event that announced the log page
    #[arg(short, long)]
    rae: bool,
    /// Index into the list of UUIDs
    #[arg(short = 'U', long, value_name = "INDEX", value_parser = args::number8, default_value_t = 0)]
    uuid_index: u8,
    /// I/O command set
    #[arg(short = 'y', long, value_name = "CSI", value_parser = args::number8, default_value_t = 0)]
    csi: u8,
    /// The offset is an index of an entry
    #[arg(short = 'O', long)]
    ot: bool,
    /// The bytes as the drive gave them
    #[arg(short = 'b', long)]
    raw_binary: bool,
    /// Write the bytes to this file, and not to standard output
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,
}

impl GetLog {
    pub(in crate::nvme) fn run(&self) -> anyhow::Result<Exit> {
        // The event says in bits 23:16 which log page has more about it.
        let lid = self.aen.map_or(self.log_id.unwrap_or(0), |event| (event >> 16) as u8);
        ensure!(self.log_len > 0, "--log-len must not be 0");
        ensure!(self.lsp < 0x80 && self.uuid_index < 0x80, "--lsp and --uuid-index have 7 bits: at most 127");
        let request = GetLogPage {
            rae: self.rae,
            lsp: self.lsp,
            lsi: self.lsi,
            lpo: self.lpo,
            uuid_index: self.uuid_index,
            offset_is_index: self.ot,
            csi: self.csi,
            ..super::page(lid)
        };
        let length = self.log_len as usize;
        let (name, bytes) = session::with(&self.target, |session| {
            Ok((session.name().to_owned(), session.log(request, self.namespace_id, length)?))
        })?;
        if self.raw_binary || self.output_file.is_some() {
            show::binary(self.output_file.as_deref(), &bytes)?;
        } else {
            let known = lid::name(lid).map(|name| format!(" ({name})")).unwrap_or_default();
            crate::output::print(&format!("{name}, log page {lid:#04x}{known}:\n{}", hex_dump(&bytes)))?;
        }
        Ok(Exit::Success)
    }
}
