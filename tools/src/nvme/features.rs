//! `get-feature` and `set-feature`.

mod explain;

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Args;
use gangway_spec::feature::{self, fid, select};
use gangway_spec::{SubmissionQueueEntry, opcode};

use super::args::{self, Consent, LongVerbose, Target};
use super::fields::hex_dump;
use super::session::{self, Session};
use super::show;
use crate::device::Data;
use crate::exit::Exit;
use crate::output;

/// Reads a feature
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway get-feature pci:0000:01:00.0 -f 6 -H         whether the volatile write cache is on
  gangway get-feature pci:0000:01:00.0 -f 4 --sel 3    what can be done with temperature thresholds

A drive on this machine was reset when this program took it: current values are those that it saved or has by default,
but for what every driver sets.")]
pub(crate) struct GetFeature {
    #[command(flatten)]
    target: Target,
    /// Feature
    #[arg(short, long, value_name = "FID", value_parser = args::number8)]
    feature_id: u8,
    /// Namespace, for features of namespaces
    #[arg(short, long, value_name = "NSID", value_parser = args::number32, default_value_t = 0)]
    namespace_id: u32,
    /// Which value: 0 current, 1 default, 2 saved, 3 what can be done with the feature
    #[arg(short, long, value_name = "0-3", value_parser = clap::value_parser!(u8).range(0..=3), default_value_t = 0)]
    sel: u8,
    /// Bytes of data [default: what the specification says]
    #[arg(short = 'l', long, value_name = "BYTES", value_parser = args::number32)]
    data_len: Option<u32>,
    /// Command dword 11
    #[arg(short, long, value_name = "DWORD", value_parser = args::number32, default_value_t = 0)]
    cdw11: u32,
    /// Index into the list of UUIDs
    #[arg(short = 'U', long, value_name = "INDEX", value_parser = args::number8, default_value_t = 0)]
    uuid_index: u8,
    /// The data as the drive gave it
    #[arg(short = 'b', long)]
    raw_binary: bool,
    /// Explain the value
    #[arg(short = 'H', long)]
    human_readable: bool,
    /// Write the data to this file, and not to standard output
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,
}

impl GetFeature {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let mut entry = SubmissionQueueEntry::new(opcode::admin::GET_FEATURES);
        entry.nsid.set(self.namespace_id);
        entry.cdw10.set(u32::from(self.sel) << 8 | u32::from(self.feature_id));
        entry.cdw11.set(self.cdw11);
        entry.cdw14.set(u32::from(self.uuid_index & 0x7f));
        let length = self.data_len.unwrap_or_else(|| feature::feature_transfer_length(&entry));
        let answer = session::with(&self.target, |session| session.admin(&entry, Data::In(length as usize)))?;
        let value = answer.entry.dw0.get();
        if self.raw_binary && !answer.data.is_empty() {
            show::binary(self.output_file.as_deref(), &answer.data)?;
            return Ok(Exit::Success);
        }
        let which = ["Current", "Default", "Saved", "Supported capabilities"][usize::from(self.sel)];
        let fid = self.feature_id;
        let name = feature::feature_name(fid).unwrap_or("Unknown");
        let mut lines = vec![format!("get-feature:{fid:#04x} ({name}), {which} value:{}", padded(value))];
        if self.sel == select::SUPPORTED_CAPABILITIES {
            lines.extend(explain::capabilities(value));
        } else if self.human_readable {
            lines.extend(explain::value(fid, value, &answer.data));
        }
        let explained = self.human_readable && lines.len() > 1;
        if !answer.data.is_empty() && !explained {
            lines.push(hex_dump(&answer.data));
        }
        output::print(&lines.join("\n"))?;
        Ok(Exit::Success)
    }
}

/// As C prints it with `%#0*x`: zero has no prefix.
fn padded(value: u32) -> String {
    if value == 0 { "00000000".to_owned() } else { format!("{value:#010x}") }
}

/// Sets a feature
///
/// What is dangerous asks first: write protection, which can be for good, and features of vendors.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway set-feature pci:0000:01:00.0 -f 4 -v 0x15e --save      a temperature threshold that stays
  gangway set-feature tcp:192.0.2.7:4420/NQN -f 6 -v 0

A drive on this machine is reset when this program lets go of it, and forgets what was not saved.")]
pub(crate) struct SetFeature {
    #[command(flatten)]
    target: Target,
    /// Feature
    #[arg(short, long, value_name = "FID", value_parser = args::number8)]
    feature_id: u8,
    /// Its new value (command dword 11)
    #[arg(short, long, value_name = "DWORD", value_parser = args::number32)]
    value: u32,
    /// Namespace, for features of namespaces
    #[arg(short, long, value_name = "NSID", value_parser = args::number32, default_value_t = 0)]
    namespace_id: u32,
    /// Command dword 12
    #[arg(short, long, value_name = "DWORD", value_parser = args::number32, default_value_t = 0)]
    cdw12: u32,
    /// Index into the list of UUIDs
    #[arg(short = 'U', long, value_name = "INDEX", value_parser = args::number8, default_value_t = 0)]
    uuid_index: u8,
    /// Bytes of data [default: what the specification says]
    #[arg(short = 'l', long, value_name = "BYTES", value_parser = args::number32)]
    data_len: Option<u32>,
    /// File with the data [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Have the drive keep the value over resets and loss of power
    #[arg(short, long)]
    save: bool,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    _verbose: LongVerbose,
}

impl SetFeature {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let mut entry = SubmissionQueueEntry::new(opcode::admin::SET_FEATURES);
        entry.nsid.set(self.namespace_id);
        entry.cdw10.set(u32::from(self.save) << 31 | u32::from(self.feature_id));
        entry.cdw11.set(self.value);
        entry.cdw12.set(self.cdw12);
        entry.cdw14.set(u32::from(self.uuid_index & 0x7f));
        ensure!(
            self.feature_id != fid::NUMBER_OF_QUEUES && self.feature_id != fid::HOST_MEMORY_BUFFER,
            "feature {:#04x} belongs to the driver of the drive: it steers queues or memory that this program uses",
            self.feature_id
        );
        let length = self.data_len.unwrap_or_else(|| feature::feature_transfer_length(&entry)) as usize;
        let data = input(self.data.as_ref(), length)?;
        session::with(&self.target, |session| {
            if let Some(consequences) = self.consequences(session)
                && !self.consent.asked(&consequences)?
            {
                return Ok(Exit::Failure);
            }
            session.admin(&entry, Data::Out(&data))?;
            let name = feature::feature_name(self.feature_id).unwrap_or("Unknown");
            output::print(&format!(
                "set-feature:{:#04x} ({name}), value:{:#010x}",
                self.feature_id, self.value
            ))?;
            if session.device.is_ours() && !self.save {
                eprintln!(
                    "note: the drive forgets this when it is let go of, which is now; --save has it kept, where the \
                     drive can"
                );
            }
            Ok(Exit::Success)
        })
    }

    fn consequences(&self, session: &mut Session) -> Option<String> {
        let device =
            super::identify::describe_victim(session, Some(self.namespace_id).filter(|nsid| *nsid > 0));
        match self.feature_id {
            fid::NAMESPACE_WRITE_PROTECTION => Some(format!(
                "This sets the write protection of {device} to {}; 3 can never be taken back",
                self.value
            )),
            fid::BOOT_PARTITION_WRITE_PROTECTION => Some(format!(
                "This changes the write protection of boot partitions, which may be for good, of {device}"
            )),
            fid::FLEXIBLE_DATA_PLACEMENT | fid::IO_COMMAND_SET_PROFILE | fid::LBA_RANGE_TYPE => {
                Some(format!("This changes how data is kept or seen on {device}"))
            }
            code if feature::feature_name(code).is_none() => {
                Some(format!("Nobody but its vendor knows what feature {code:#04x} does to {device}"))
            }
            _ => None,
        }
    }
}

/// So many bytes of a file, or of standard input.
pub(super) fn input(file: Option<&PathBuf>, length: usize) -> anyhow::Result<Vec<u8>> {
    if length == 0 {
        return Ok(Vec::new());
    }
    let (name, source): (_, Box<dyn Read>) = match file {
        Some(path) => {
            let name = path.display().to_string();
            let file = fs::File::open(path).with_context(|| format!("cannot read {name}"))?;
            (name, Box::new(file))
        }
        None => ("standard input".to_owned(), Box::new(io::stdin().lock())),
    };
    let mut bytes = Vec::new();
    source.take(length as u64).read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
    ensure!(bytes.len() == length, "{name} has {} bytes, and {length} are needed", bytes.len());
    Ok(bytes)
}
