//! `format`.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use gangway_spec::command::NSID_BROADCAST;
use gangway_spec::{IdentifyNamespace, SubmissionQueueEntry, opcode};

use super::run_long;
use crate::exit::Exit;
use crate::nvme::args::{self, Consent, Target};
use crate::nvme::identify::describe_victim;
use crate::nvme::session;

/// FPI: the progress of a format is reported, and the percentage that remains.
const FPI_REPORTED: u8 = 1 << 7;

/// Formats a namespace: all of its data is lost
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway format pci:0000:01:00.0 -n 1 --lbaf 0
  gangway format pci:0000:01:00.0 -n 1 --block-size 4096 --ses 1 --yes      erases user data as well

`gangway id-ns -H` shows the LBA formats. Formatting may take minutes; a terminal shows how far it is.")]
pub(crate) struct Format {
    #[command(flatten)]
    target: Target,
    /// Namespace; 0xffffffff for all [default: the only one]
    #[arg(short, long, value_name = "NSID", value_parser = args::nsid)]
    namespace_id: Option<u32>,
    /// How long it may take, in milliseconds [default: an hour, or what the drive estimates]
    #[arg(short, long, value_name = "MS", value_parser = args::number)]
    timeout: Option<u64>,
    /// LBA format [default: the one in use]
    #[arg(short, long, value_name = "INDEX", value_parser = clap::value_parser!(u8).range(0..64))]
    lbaf: Option<u8>,
    /// Secure erase: 0 none, 1 user data, 2 cryptographic
    #[arg(short, long, value_name = "0-2", value_parser = clap::value_parser!(u8).range(0..8), default_value_t = 0)]
    ses: u8,
    /// Protection information: 0 none, or type 1 to 3
    #[arg(short = 'i', long, value_name = "0-3", value_parser = clap::value_parser!(u8).range(0..8), default_value_t = 0)]
    pi: u8,
    /// Protection information in the last (0) or the first (1) bytes of the metadata
    #[arg(short = 'p', long, value_name = "0-1", value_parser = clap::value_parser!(u8).range(0..2), default_value_t = 0)]
    pil: u8,
    /// Metadata in a buffer of its own (0), or at the end of each block (1)
    #[arg(short, long, value_name = "0-1", value_parser = clap::value_parser!(u8).range(0..2), default_value_t = 0)]
    ms: u8,
    /// Reset the controller afterwards
    #[arg(short, long)]
    reset: bool,
    /// Choose the LBA format with blocks of this size and no metadata
    #[arg(short, long, value_name = "BYTES", value_parser = args::number, conflicts_with = "lbaf")]
    block_size: Option<u64>,
    #[command(flatten)]
    consent: Consent,
}

impl Format {
    pub(in crate::nvme) fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            let nsid = session.one_namespace(self.namespace_id)?;
            // What all namespaces have in common, or one of them, has the formats.
            let known = if nsid == NSID_BROADCAST {
                session.namespace(nsid).ok()
            } else {
                Some(session.namespace(nsid)?)
            };
            let index = self.format_index(known.as_deref())?;
            // FNA: whether a format, or one with secure erase, reaches all namespaces whichever is named.
            let fna = session.controller().fna;
            let reaches_all = nsid == NSID_BROADCAST || fna & 1 != 0 || (self.ses > 0 && fna & 2 != 0);
            if !self.consent.yes {
                let victim = describe_victim(session, Some(nsid).filter(|_| !reaches_all));
                if !self.consent.asked(&format!("This formats {victim}: all of its data will be lost"))? {
                    return Ok(Exit::Failure);
                }
            }
            let mut entry = SubmissionQueueEntry::new(opcode::admin::FORMAT_NVM);
            entry.nsid.set(nsid);
            let (pi, pil, ms, ses) =
                (self.pi.into(), u32::from(self.pil), u32::from(self.ms), u32::from(self.ses));
            let lbaf = u32::from(index & 0xf) | u32::from(index >> 4) << 12;
            entry.cdw10.set(lbaf | ms << 4 | u32::wrapping_shl(pi, 5) | pil << 8 | ses << 9);
            let reports = known.is_some_and(|namespace| namespace.fpi & FPI_REPORTED != 0);
            let leaving = "the drive is still formatting, and a reset now may leave the namespace unusable until it is formatted again";
            let limit = self.timeout.map(Duration::from_millis);
            run_long(session, &entry, "format", leaving, limit, |session| {
                let remaining = session.namespace(nsid).ok().filter(|_| reports)?.fpi & 0x7f;
                Some((100_u64.saturating_sub(remaining.into()), 100))
            })?;
            eprintln!("Success formatting namespace:{nsid:x}");
            if self.reset {
                session.device.reset()?;
            }
            Ok(Exit::Success)
        })
    }

    fn format_index(&self, known: Option<&IdentifyNamespace>) -> anyhow::Result<u8> {
        if let Some(index) = self.lbaf {
            if let Some(namespace) = known {
                let formats = usize::from(namespace.nlbaf) + 1 + usize::from(namespace.nulbaf);
                ensure!(
                    usize::from(index) < formats,
                    "there are LBA formats 0 to {}: see `gangway id-ns -H`",
                    formats - 1
                );
            }
            return Ok(index);
        }
        let known = known.context(
            "say which LBA format with --lbaf: the drive does not tell what all namespaces have in common",
        )?;
        let Some(size) = self.block_size else { return Ok(known.lba_format_index() as u8) };
        let fits = |index: &u8| {
            let format = known.lbaf[usize::from(*index)];
            format.ms.get() == 0 && format.block_size().map(u64::from) == Some(size)
        };
        match (0..=known.nlbaf.min(63)).find(fits) {
            Some(index) => Ok(index),
            None => bail!("no LBA format has blocks of {size} bytes and no metadata: see `gangway id-ns -H`"),
        }
    }
}
