//! `read`, `write` and `compare`.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use clap::Args;
use gangway_spec::nvm::IoControl;
use gangway_spec::{SubmissionQueueEntry, opcode};

use super::{Extent, Flow, Range, agreed, run};
use crate::exit::Exit;
use crate::nvme::args::{self, Consent, Target};
use crate::nvme::session::{self, Session};

/// What reads, writes and compares have in common.
#[derive(Args, Clone, Debug)]
pub(crate) struct Transfer {
    #[command(flatten)]
    range: Range,
    /// Bytes in all, in place of a number of blocks
    #[arg(short = 'z', long, value_name = "BYTES", value_parser = args::number)]
    data_size: Option<u64>,
    /// File with the data, or for it [default: standard input or output]
    #[arg(short, long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Dataset management attributes (the lower 8 bits of command dword 13)
    #[arg(short = 'D', long, value_name = "BITS", value_parser = args::number8, default_value_t = 0)]
    dsm: u8,
    /// Directive type, of writes
    #[arg(short = 'T', long, value_name = "TYPE", value_parser = args::number8, default_value_t = 0)]
    dir_type: u8,
    /// Directive specific, of writes
    #[arg(short = 'S', long, value_name = "N", value_parser = args::number16, default_value_t = 0)]
    dir_spec: u16,
}

impl Transfer {
    fn entry(&self, code: u8, extent: &Extent, first: u64, blocks: u32) -> SubmissionQueueEntry {
        let mut entry = self.range.entry(code, extent, first, blocks);
        if code == opcode::nvm::WRITE {
            entry.cdw12.set(IoControl::of(&entry).with_dtype(self.dir_type & 0xf).into_bits());
        }
        entry.cdw13.set(u32::from(self.dir_spec) << 16 | u32::from(self.dsm));
        entry
    }

    /// The blocks that are meant, and that their data fits what was said of its size.
    fn extent(&self, session: &mut Session, bytes: Option<u64>) -> anyhow::Result<Extent> {
        let extent = self.range.extent(session, bytes)?;
        self.range.check_metadata(&extent)?;
        if let Some(size) = self.data_size {
            let needed = extent.bytes();
            ensure!(
                size >= needed,
                "{} blocks have {needed} bytes, and --data-size is {size}: --block-count counts from 0",
                extent.blocks
            );
        }
        Ok(extent)
    }

    /// The data to send, and the blocks it goes to.
    fn source(&self, session: &mut Session) -> anyhow::Result<(Extent, Vec<u8>)> {
        let (name, mut source): (_, Box<dyn io::Read>) = match &self.data {
            Some(path) => {
                let name = path.display().to_string();
                (name.clone(), Box::new(File::open(path).with_context(|| format!("cannot read {name}"))?))
            }
            None if io::stdin().is_terminal() => bail!("the data comes from --data FILE or standard input"),
            None => ("standard input".to_owned(), Box::new(io::stdin().lock())),
        };
        let mut bytes = Vec::new();
        let whole = self.range.block_count.is_none() && self.data_size.is_none();
        let extent = if whole {
            source.read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
            self.extent(session, Some(bytes.len() as u64))?
        } else {
            let extent = self.extent(session, self.data_size)?;
            let needed = extent.bytes();
            source.take(needed).read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
            ensure!(
                bytes.len() as u64 == needed,
                "{name} has {} bytes, and {needed} are needed",
                bytes.len()
            );
            extent
        };
        Ok((extent, bytes))
    }
}

/// Reads blocks
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway read pci:0000:01:00.0 -s 0 -c 7 -d first-eight-blocks
  gangway read tcp:192.0.2.7:4420/NQN -n 1 -z 4096 | hexdump -C")]
pub(crate) struct Read {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    transfer: Transfer,
}

impl Read {
    pub(in crate::nvme) fn run(&self) -> anyhow::Result<Exit> {
        let transfer = &self.transfer;
        session::with(&self.target, |session| {
            let extent = transfer.extent(session, transfer.data_size)?;
            let (name, mut sink): (_, Box<dyn io::Write>) = match &transfer.data {
                Some(path) => {
                    let name = path.display().to_string();
                    let file = fs::File::create(path).with_context(|| format!("cannot write {name}"))?;
                    (name, Box::new(file))
                }
                None if io::stdout().is_terminal() => {
                    bail!("binary data is not for a terminal: redirect it, or say --data FILE")
                }
                None => ("standard output".to_owned(), Box::new(io::stdout().lock())),
            };
            let mut write =
                |bytes: &[u8]| sink.write_all(bytes).with_context(|| format!("cannot write {name}"));
            let exit = run(session, "read", &extent, Flow::In(&mut write), |first, blocks| {
                transfer.entry(opcode::nvm::READ, &extent, first, blocks)
            })?;
            sink.flush()?;
            Ok(exit)
        })
    }
}

/// Writes blocks
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway write pci:0000:01:00.0 -n 1 -s 2048 -d image       all of a file, from block 2048 on
  gangway write pci:0000:01:00.0 -n 1 -z 4096 --yes <block")]
pub(crate) struct Write {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    transfer: Transfer,
    #[command(flatten)]
    consent: Consent,
}

impl Write {
    pub(in crate::nvme) fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            let (extent, bytes) = self.transfer.source(session)?;
            if !agreed(session, self.consent, "overwrites", &extent)? {
                return Ok(Exit::Failure);
            }
            run(session, "write", &extent, Flow::Out(&bytes), |first, blocks| {
                self.transfer.entry(opcode::nvm::WRITE, &extent, first, blocks)
            })
        })
    }
}

/// Has the drive compare blocks with data
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway compare pci:0000:01:00.0 -n 1 -s 2048 -d image")]
pub(crate) struct Compare {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    transfer: Transfer,
}

impl Compare {
    pub(in crate::nvme) fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            let (extent, bytes) = self.transfer.source(session)?;
            run(session, "compare", &extent, Flow::Out(&bytes), |first, blocks| {
                self.transfer.entry(opcode::nvm::COMPARE, &extent, first, blocks)
            })
        })
    }
}
