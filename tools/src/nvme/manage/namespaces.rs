//! `create-ns`, `delete-ns`, `attach-ns`, `detach-ns` (NVMe Base 2.0, 5.22 and 5.23).

use anyhow::{Context, ensure};
use clap::Args;
use gangway_spec::identify::IDENTIFY_LENGTH;
use gangway_spec::{IdentifyNamespace, SubmissionQueueEntry, opcode};
use zerocopy::IntoBytes;

use crate::device::Data;
use crate::exit::Exit;
use crate::nvme::args::{self, Consent, Target};
use crate::nvme::identify::describe_victim;
use crate::nvme::session::{self, Session};
use crate::output;

/// Namespace Management: create, and delete (CDW10 bits 3:0).
const CREATE: u32 = 0;
const DELETE: u32 = 1;
/// Namespace Attachment: attach, and detach (CDW10 bits 3:0).
const ATTACH: u32 = 0;
const DETACH: u32 = 1;
/// Identifiers in a list of controllers.
const MOST_CONTROLLERS: usize = 2047;
/// Where the logical block storage tag mask stands.
const LBSTM: usize = 384;

/// Creates a namespace; it is attached to no controller
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway create-ns pci:0000:01:00.0 --nsze 262144 --ncap 262144 --flbas 0
  gangway attach-ns pci:0000:01:00.0 -n 2       then, so that it can be used")]
pub(crate) struct CreateNs {
    #[command(flatten)]
    target: Target,
    /// Size in blocks
    #[arg(short = 's', long, value_name = "BLOCKS", value_parser = args::number)]
    nsze: u64,
    /// Capacity in blocks [default: the size]
    #[arg(short = 'c', long, value_name = "BLOCKS", value_parser = args::number)]
    ncap: Option<u64>,
    /// LBA format, as FLBAS has it
    #[arg(short, long, value_name = "FLBAS", value_parser = args::number8)]
    flbas: Option<u8>,
    /// Data protection settings
    #[arg(short, long, value_name = "DPS", value_parser = args::number8, default_value_t = 0)]
    dps: u8,
    /// Sharing: 1 is a namespace that several controllers may have
    #[arg(short = 'm', long, value_name = "NMIC", value_parser = args::number8, default_value_t = 0)]
    nmic: u8,
    /// ANA group
    #[arg(short, long, value_name = "ID", value_parser = args::number32, default_value_t = 0)]
    anagrp_id: u32,
    /// NVM set
    #[arg(short = 'i', long, value_name = "ID", value_parser = args::number16, default_value_t = 0)]
    nvmset_id: u16,
    /// Choose the LBA format with blocks of this size and no metadata
    #[arg(short, long, value_name = "BYTES", value_parser = args::number, conflicts_with = "flbas")]
    block_size: Option<u64>,
    /// I/O command set
    #[arg(short = 'y', long, value_name = "CSI", value_parser = args::number8, default_value_t = 0)]
    csi: u8,
    /// Logical block storage tag mask
    #[arg(short, long, value_name = "MASK", value_parser = args::number, default_value_t = 0)]
    lbstm: u64,
}

impl CreateNs {
    pub(in crate::nvme) fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            let mut namespace = IdentifyNamespace::default();
            namespace.nsze.set(self.nsze);
            namespace.ncap.set(self.ncap.unwrap_or(self.nsze));
            namespace.flbas = self.format(session)?;
            namespace.dps = self.dps;
            namespace.nmic = self.nmic;
            namespace.anagrpid.set(self.anagrp_id);
            namespace.nvmsetid.set(self.nvmset_id);
            let mut bytes = namespace.as_bytes().to_vec();
            bytes[LBSTM..LBSTM + 8].copy_from_slice(&self.lbstm.to_le_bytes());
            let mut entry = SubmissionQueueEntry::new(opcode::admin::NAMESPACE_MANAGEMENT);
            entry.cdw10.set(CREATE);
            entry.cdw11.set(u32::from(self.csi) << 24);
            let answer = session.admin(&entry, Data::Out(&bytes))?;
            output::print(&format!("create-ns: Success, created nsid:{}", answer.entry.dw0.get()))?;
            Ok(Exit::Success)
        })
    }

    fn format(&self, session: &mut Session) -> anyhow::Result<u8> {
        let Some(size) = self.block_size else { return Ok(self.flbas.unwrap_or(0)) };
        let common = session
            .namespace(gangway_spec::command::NSID_BROADCAST)
            .context("the drive does not tell which LBA formats it has: choose one with --flbas")?;
        let mut formats = common.lbaf.iter().take(usize::from(common.nlbaf.min(15)) + 1);
        let found = formats
            .position(|format| format.ms.get() == 0 && format.block_size().map(u64::from) == Some(size));
        let index =
            found.with_context(|| format!("no LBA format has blocks of {size} bytes and no metadata"))?;
        // At most 15.
        Ok(index as u8)
    }
}

/// Deletes a namespace with all of its data
#[derive(Args, Clone, Debug)]
pub(crate) struct DeleteNs {
    #[command(flatten)]
    target: Target,
    /// Namespace; 0xffffffff for all
    #[arg(short, long, value_name = "NSID", value_parser = args::nsid)]
    namespace_id: u32,
    #[command(flatten)]
    consent: Consent,
}

impl DeleteNs {
    pub(in crate::nvme) fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            if !self.consent.yes {
                let victim = describe_victim(session, Some(self.namespace_id));
                if !self.consent.asked(&format!("This deletes {victim}: all of its data will be lost"))? {
                    return Ok(Exit::Failure);
                }
            }
            let mut entry = SubmissionQueueEntry::new(opcode::admin::NAMESPACE_MANAGEMENT);
            entry.nsid.set(self.namespace_id);
            entry.cdw10.set(DELETE);
            session.admin(&entry, Data::None)?;
            output::print(&format!("delete-ns: Success, deleted nsid:{}", self.namespace_id))?;
            Ok(Exit::Success)
        })
    }
}

/// Which namespace, and which controllers.
#[derive(Args, Clone, Debug)]
pub(crate) struct Attachment {
    #[command(flatten)]
    target: Target,
    /// Namespace
    #[arg(short, long, value_name = "NSID", value_parser = args::nsid)]
    namespace_id: u32,
    /// Controllers [default: the one that is talked to]
    #[arg(short, long, value_name = "LIST", value_delimiter = ',', value_parser = args::number16)]
    controllers: Vec<u16>,
}

/// Attaches a namespace to controllers, so that it can be used
#[derive(Args, Clone, Debug)]
pub(crate) struct AttachNs {
    #[command(flatten)]
    what: Attachment,
}

impl AttachNs {
    pub(in crate::nvme) fn run(&self) -> anyhow::Result<Exit> {
        self.what.run("attach-ns", ATTACH)
    }
}

/// Detaches a namespace from controllers; its data is kept
#[derive(Args, Clone, Debug)]
pub(crate) struct DetachNs {
    #[command(flatten)]
    what: Attachment,
}

impl DetachNs {
    pub(in crate::nvme) fn run(&self) -> anyhow::Result<Exit> {
        self.what.run("detach-ns", DETACH)
    }
}

impl Attachment {
    fn run(&self, name: &str, action: u32) -> anyhow::Result<Exit> {
        let count = self.controllers.len();
        ensure!(
            count <= MOST_CONTROLLERS,
            "{count} controllers are too many: a command names {MOST_CONTROLLERS} at most"
        );
        session::with(&self.target, |session| {
            let own = [session.controller().cntlid.get()];
            let controllers = if self.controllers.is_empty() { &own[..] } else { &self.controllers };
            let mut list = Vec::with_capacity(IDENTIFY_LENGTH);
            // The list begins with how many there are.
            list.extend((controllers.len() as u16).to_le_bytes());
            list.extend(controllers.iter().flat_map(|id| id.to_le_bytes()));
            list.resize(IDENTIFY_LENGTH, 0);
            let mut entry = SubmissionQueueEntry::new(opcode::admin::NAMESPACE_ATTACHMENT);
            entry.nsid.set(self.namespace_id);
            entry.cdw10.set(action);
            session.admin(&entry, Data::Out(&list))?;
            output::print(&format!("{name}: Success, nsid:{}", self.namespace_id))?;
            Ok(Exit::Success)
        })
    }
}
