//! `admin-passthru` and `io-passthru`: any command, as it is.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use gangway_spec::opcode::{admin, nvm, zns};
use gangway_spec::{SubmissionQueueEntry, TransferDirection, feature};

use super::args::{self, Consent, Target};
use super::features::input;
use super::fields::hex_dump;
use super::identify::describe_victim;
use super::session::{self, is_inspection};
use super::show;
use crate::device::{Data, QueueKind};
use crate::exit::Exit;
use crate::output;

/// A command, dword by dword.
#[derive(Args, Clone, Debug)]
pub(crate) struct Passthru {
    #[command(flatten)]
    target: Target,
    /// Opcode
    #[arg(short, long, value_name = "CODE", value_parser = args::number8)]
    opcode: u8,
    /// Flags: FUSE in bits 1:0; where data is, is set by the driver
    #[arg(short, long, value_name = "BITS", value_parser = args::number8, default_value_t = 0)]
    flags: u8,
    /// Bytes that the buffer is filled with beforehand, when it is sent without a file
    #[arg(short, long, value_name = "BYTE", value_parser = args::number8, default_value_t = 0)]
    prefill: u8,
    /// Namespace
    #[arg(short, long, value_name = "NSID", value_parser = args::number32, default_value_t = 0)]
    namespace_id: u32,
    /// Bytes of data
    #[arg(short = 'l', long, value_name = "BYTES", value_parser = args::number32, default_value_t = 0)]
    data_len: u32,
    /// How long it may take, in milliseconds [default: by the opcode]
    #[arg(short, long, value_name = "MS", value_parser = args::number)]
    timeout: Option<u64>,
    /// Command dword 2
    #[arg(short = '2', long, value_name = "DWORD", value_parser = args::number32, default_value_t = 0)]
    cdw2: u32,
    /// Command dword 3
    #[arg(short = '3', long, value_name = "DWORD", value_parser = args::number32, default_value_t = 0)]
    cdw3: u32,
    /// Command dword 10
    #[arg(short = '4', long, value_name = "DWORD", value_parser = args::number32, default_value_t = 0)]
    cdw10: u32,
    /// Command dword 11
    #[arg(short = '5', long, value_name = "DWORD", value_parser = args::number32, default_value_t = 0)]
    cdw11: u32,
    /// Command dword 12
    #[arg(short = '6', long, value_name = "DWORD", value_parser = args::number32, default_value_t = 0)]
    cdw12: u32,
    /// Command dword 13
    #[arg(short = '7', long, value_name = "DWORD", value_parser = args::number32, default_value_t = 0)]
    cdw13: u32,
    /// Command dword 14
    #[arg(short = '8', long, value_name = "DWORD", value_parser = args::number32, default_value_t = 0)]
    cdw14: u32,
    /// Command dword 15
    #[arg(short = '9', long, value_name = "DWORD", value_parser = args::number32, default_value_t = 0)]
    cdw15: u32,
    /// File with the data to send, or for the data received
    #[arg(short, long, value_name = "FILE")]
    input_file: Option<PathBuf>,
    /// Write the data received as it is
    #[arg(short = 'b', long)]
    raw_binary: bool,
    /// Print the command before it is sent
    #[arg(short, long)]
    show_command: bool,
    /// Print the command and do not send it
    #[arg(short, long)]
    dry_run: bool,
    /// Data comes from the drive [default: as the opcode says]
    #[arg(short, long, conflicts_with = "write")]
    read: bool,
    /// Data goes to the drive [default: as the opcode says]
    #[arg(short, long)]
    write: bool,
    /// Say how long it took
    #[arg(short = 'T', long)]
    latency: bool,
    #[command(flatten)]
    consent: Consent,
}

/// Sends any admin command
///
/// Commands that are not known to only look ask first.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway admin-passthru pci:0000:01:00.0 --opcode 0x06 --cdw10 1 --data-len 4096 -r       Identify Controller
  gangway admin-passthru pci:0000:01:00.0 --opcode 0xc1 --yes                              a vendor's command")]
pub(crate) struct AdminPassthru {
    #[command(flatten)]
    command: Passthru,
}

impl AdminPassthru {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        self.command.run(QueueKind::Admin)
    }
}

/// Sends any I/O command
///
/// Commands that are not known to only look ask first.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway io-passthru pci:0000:01:00.0 --opcode 2 -n 1 -l 4096 -r -b >block      Read of one block of 4096 bytes")]
pub(crate) struct IoPassthru {
    #[command(flatten)]
    command: Passthru,
}

impl IoPassthru {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        self.command.run(QueueKind::Io)
    }
}

impl Passthru {
    fn run(&self, queue: QueueKind) -> anyhow::Result<Exit> {
        let entry = self.entry();
        if self.show_command || self.dry_run {
            let command = match queue {
                QueueKind::Admin => entry.display_admin().to_string(),
                QueueKind::Io => entry.display_io().to_string(),
            };
            eprintln!("{command}, {} bytes", self.data_len);
        }
        if self.dry_run {
            return Ok(Exit::Success);
        }
        if queue == QueueKind::Admin {
            check_ownership(&entry)?;
        }
        let receives = self.receives();
        let mut bytes = vec![self.prefill; if receives { 0 } else { self.data_len as usize }];
        if !receives && self.input_file.is_some() {
            bytes = input(self.input_file.as_ref(), self.data_len as usize)?;
        }
        session::with(&self.target, |session| {
            if !only_looks(queue, entry.opcode) && !self.consent.yes {
                let victim = describe_victim(session, Some(self.namespace_id).filter(|nsid| *nsid > 0));
                let command = session::name(queue, &entry);
                if !self.consent.asked(&format!("{command} may change or destroy data of {victim}"))? {
                    return Ok(Exit::Failure);
                }
            }
            let data = if receives { Data::In(self.data_len as usize) } else { Data::Out(&bytes) };
            let start = Instant::now();
            let answer = session.execute(queue, &entry, data, self.timeout.map(Duration::from_millis))?;
            let took = start.elapsed();
            let answer = session.check(queue, &entry, answer)?;
            if self.latency {
                eprintln!("latency: {} us", took.as_micros());
            }
            eprintln!(
                "{} Command {} is Success and result: {:#010x}",
                kind(queue),
                session::name(queue, &entry),
                answer.entry.dw0.get()
            );
            match (&self.input_file, answer.data.is_empty()) {
                (_, true) => {}
                (Some(path), _) => {
                    fs::write(path, &answer.data)
                        .with_context(|| format!("cannot write {}", path.display()))?;
                }
                (None, _) if self.raw_binary => show::binary(None, &answer.data)?,
                (None, _) => output::print(&hex_dump(&answer.data))?,
            }
            Ok(Exit::Success)
        })
    }

    fn entry(&self) -> SubmissionQueueEntry {
        let mut entry = SubmissionQueueEntry::new(self.opcode);
        entry.flags = self.flags;
        entry.nsid.set(self.namespace_id);
        let dwords = [
            (&mut entry.cdw2, self.cdw2),
            (&mut entry.cdw3, self.cdw3),
            (&mut entry.cdw10, self.cdw10),
            (&mut entry.cdw11, self.cdw11),
            (&mut entry.cdw12, self.cdw12),
            (&mut entry.cdw13, self.cdw13),
            (&mut entry.cdw14, self.cdw14),
            (&mut entry.cdw15, self.cdw15),
        ];
        for (place, value) in dwords {
            place.set(value);
        }
        entry
    }

    fn receives(&self) -> bool {
        match (self.read, self.write) {
            (true, _) => true,
            (_, true) => false,
            _ => TransferDirection::of_opcode(self.opcode) == TransferDirection::ControllerToHost,
        }
    }
}

fn kind(queue: QueueKind) -> &'static str {
    match queue {
        QueueKind::Admin => "Admin",
        QueueKind::Io => "IO",
    }
}

/// Refuses commands that steer what the driver itself uses: it would be left with queues that are none.
fn check_ownership(entry: &SubmissionQueueEntry) -> anyhow::Result<()> {
    let of_the_driver = match entry.opcode {
        admin::CREATE_IO_SQ
        | admin::CREATE_IO_CQ
        | admin::DELETE_IO_SQ
        | admin::DELETE_IO_CQ
        | admin::ASYNC_EVENT_REQUEST
        | admin::DOORBELL_BUFFER_CONFIG
        | admin::FABRICS => true,
        admin::SET_FEATURES => matches!(
            feature::feature_id(entry),
            feature::fid::NUMBER_OF_QUEUES | feature::fid::HOST_MEMORY_BUFFER
        ),
        _ => false,
    };
    ensure!(
        !of_the_driver,
        "{} belongs to the driver: it steers queues or memory that this program uses",
        session::name(QueueKind::Admin, entry)
    );
    Ok(())
}

/// Whether a command is known to change nothing.
fn only_looks(queue: QueueKind, code: u8) -> bool {
    match queue {
        QueueKind::Admin => is_inspection(code),
        QueueKind::Io => matches!(
            code,
            nvm::FLUSH
                | nvm::READ
                | nvm::COMPARE
                | nvm::VERIFY
                | nvm::RESERVATION_REPORT
                | nvm::IO_MANAGEMENT_RECEIVE
                | zns::ZONE_MANAGEMENT_RECEIVE
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_commands_that_are_known_to_look_go_without_a_question() {
        let admin = |code| only_looks(QueueKind::Admin, code);
        assert!(admin(admin::IDENTIFY) && admin(admin::GET_LOG_PAGE) && admin(admin::GET_FEATURES));
        assert!(!admin(admin::FORMAT_NVM) && !admin(admin::SET_FEATURES) && !admin(0xc1) && !admin(0x33));
        let io = |code| only_looks(QueueKind::Io, code);
        assert!(io(nvm::READ) && io(nvm::COMPARE) && io(zns::ZONE_MANAGEMENT_RECEIVE));
        assert!(
            !io(nvm::WRITE) && !io(nvm::DATASET_MANAGEMENT) && !io(zns::ZONE_MANAGEMENT_SEND) && !io(0x82)
        );
    }

    #[test]
    fn what_steers_the_driver_s_own_queues_is_refused() {
        for code in [admin::CREATE_IO_CQ, admin::DELETE_IO_SQ, admin::DOORBELL_BUFFER_CONFIG] {
            assert!(check_ownership(&SubmissionQueueEntry::new(code)).is_err());
        }
        let mut entry = SubmissionQueueEntry::new(admin::SET_FEATURES);
        entry.cdw10.set(feature::fid::NUMBER_OF_QUEUES.into());
        assert!(check_ownership(&entry).is_err());
        entry.cdw10.set(feature::fid::TEMPERATURE_THRESHOLD.into());
        assert!(check_ownership(&entry).is_ok());
    }
}
