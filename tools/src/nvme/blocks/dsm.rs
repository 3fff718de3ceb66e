//! `dsm` and `flush`.

use anyhow::ensure;
use clap::Args;
use gangway_spec::nvm::{DatasetManagementRange, dsm};
use gangway_spec::{SubmissionQueueEntry, opcode};
use zerocopy::IntoBytes;

use crate::device::Data;
use crate::exit::Exit;
use crate::nvme::args::{self, Consent, Target};
use crate::nvme::identify::describe_victim;
use crate::nvme::session;

/// Tells the drive about ranges of blocks: what is not needed any more, and how the rest is used
///
/// Deallocating (-d) gives up the data of the ranges.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway dsm pci:0000:01:00.0 -n 1 --ad --slbs 0,4096 --blocks 8,16")]
pub(crate) struct Dsm {
    #[command(flatten)]
    target: Target,
    /// Namespace [default: the only one]
    #[arg(short, long, value_name = "NSID", value_parser = args::nsid)]
    namespace_id: Option<u32>,
    /// Context attributes of each range
    #[arg(short = 'a', long, value_name = "LIST", value_delimiter = ',', value_parser = args::number32)]
    ctx_attrs: Vec<u32>,
    /// Number of blocks of each range
    #[arg(short, long, value_name = "LIST", value_delimiter = ',', value_parser = args::number32)]
    blocks: Vec<u32>,
    /// First block of each range
    #[arg(short, long, value_name = "LIST", value_delimiter = ',', value_parser = args::number)]
    slbs: Vec<u64>,
    /// Deallocate
    #[arg(short = 'd', long)]
    ad: bool,
    /// The ranges will be written as a whole
    #[arg(short = 'w', long)]
    idw: bool,
    /// The ranges will be read as a whole
    #[arg(short = 'r', long)]
    idr: bool,
    /// Command dword 11, in place of -d, -w and -r
    #[arg(short, long, value_name = "DWORD", value_parser = args::number32, conflicts_with_all = ["ad", "idw", "idr"])]
    cdw11: Option<u32>,
    #[command(flatten)]
    consent: Consent,
}

impl Dsm {
    pub(in crate::nvme) fn run(&self) -> anyhow::Result<Exit> {
        let count = self.slbs.len();
        ensure!(
            count > 0
                && count == self.blocks.len()
                && (self.ctx_attrs.is_empty() || self.ctx_attrs.len() == count),
            "--slbs and --blocks, and --ctx-attrs when it is there, need as many numbers as there are ranges"
        );
        ensure!(
            count <= dsm::MAX_RANGES as usize,
            "{count} ranges are too many: a command has {} at most",
            dsm::MAX_RANGES
        );
        let attributes = self.cdw11.unwrap_or(
            (u32::from(self.ad) * dsm::DEALLOCATE)
                | (u32::from(self.idw) * dsm::INTEGRAL_WRITE)
                | (u32::from(self.idr) * dsm::INTEGRAL_READ),
        );
        let ranges: Vec<_> = (0..count)
            .map(|index| {
                let mut range = DatasetManagementRange::new(self.slbs[index], self.blocks[index]);
                range.context_attributes.set(self.ctx_attrs.get(index).copied().unwrap_or(0));
                range
            })
            .collect();
        session::with(&self.target, |session| {
            let nsid = session.one_namespace(self.namespace_id)?;
            if attributes & dsm::DEALLOCATE != 0 && !self.consent.yes {
                let blocks: u64 = self.blocks.iter().map(|&blocks| u64::from(blocks)).sum();
                let victim = describe_victim(session, Some(nsid));
                let question =
                    format!("This gives up the data of {blocks} blocks in {count} ranges of {victim}");
                if !self.consent.asked(&question)? {
                    return Ok(Exit::Failure);
                }
            }
            let mut entry = SubmissionQueueEntry::new(opcode::nvm::DATASET_MANAGEMENT);
            entry.nsid.set(nsid);
            // 1 to 256 of them, counted from 0.
            entry.cdw10.set(count as u32 - 1);
            entry.cdw11.set(attributes);
            session.io(&entry, Data::Out(ranges.as_bytes()))?;
            eprintln!("dsm: Success");
            Ok(Exit::Success)
        })
    }
}

/// Has the drive write what it has cached (Flush)
#[derive(Args, Clone, Debug)]
pub(crate) struct Flush {
    #[command(flatten)]
    target: Target,
    /// Namespace; 0xffffffff for all, where the drive can [default: the only one]
    #[arg(short, long, value_name = "NSID", value_parser = args::nsid)]
    namespace_id: Option<u32>,
}

impl Flush {
    pub(in crate::nvme) fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            let mut entry = SubmissionQueueEntry::new(opcode::nvm::FLUSH);
            entry.nsid.set(session.one_namespace(self.namespace_id)?);
            session.io(&entry, Data::None)?;
            eprintln!("flush: Success");
            Ok(Exit::Success)
        })
    }
}
