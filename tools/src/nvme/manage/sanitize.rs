//! `sanitize`.

use anyhow::bail;
use clap::{Args, ValueEnum};
use gangway_spec::log::{SanitizeLog, lid};
use gangway_spec::{SubmissionQueueEntry, opcode};

use super::follow;
use crate::device::Data;
use crate::exit::Exit;
use crate::nvme::args::{self, Consent, Target};
use crate::nvme::identify::describe_victim;
use crate::nvme::logs::{page, sanitize_state};
use crate::nvme::session::{self, Session, structure};

/// Erases all data of the drive, of every namespace, beyond recovery
///
/// The command returns at once and the drive goes on by itself, over resets and loss of power as well. This waits until
/// it is done and shows how far it is; Ctrl-C ends the waiting alone.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway sanitize pci:0000:01:00.0 -a start-crypto-erase
  gangway sanitize pci:0000:01:00.0 -a start-block-erase --no-wait --yes")]
pub(crate) struct Sanitize {
    #[command(flatten)]
    target: Target,
    /// What to do
    #[arg(short = 'a', long, value_enum, value_name = "ACTION")]
    sanact: Action,
    /// Do not deallocate all blocks afterwards
    #[arg(short = 'd', long)]
    no_dealloc: bool,
    /// Invert the pattern between passes of an overwrite
    #[arg(short = 'i', long)]
    oipbp: bool,
    /// Passes of an overwrite; 0 stands for 16
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..16), default_value_t = 0)]
    owpass: u8,
    /// Let the failure mode be left without a successful sanitize
    #[arg(short = 'u', long)]
    ause: bool,
    /// Pattern of an overwrite
    #[arg(short = 'p', long, value_name = "DWORD", value_parser = args::number32, default_value_t = 0)]
    ovrpat: u32,
    /// Return when the drive has begun
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    consent: Consent,
}

/// `--sanact`, by nvme-cli's names and numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Leave the failure mode of a sanitize that failed
    #[value(alias = "1", alias = "0x01")]
    ExitFailure,
    /// Erase the blocks of the media
    #[value(alias = "2", alias = "0x02")]
    StartBlockErase,
    /// Write a pattern over all media
    #[value(alias = "3", alias = "0x03")]
    StartOverwrite,
    /// Change the keys that all data is encrypted with
    #[value(alias = "4", alias = "0x04")]
    StartCryptoErase,
}

impl Action {
    fn code(self) -> u32 {
        match self {
            Self::ExitFailure => 1,
            Self::StartBlockErase => 2,
            Self::StartOverwrite => 3,
            Self::StartCryptoErase => 4,
        }
    }
}

impl Sanitize {
    pub(in crate::nvme) fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            let erases = self.sanact != Action::ExitFailure;
            if erases && !self.consent.yes {
                let victim = describe_victim(session, None);
                let question =
                    format!("This erases {victim} beyond recovery: all data of the whole drive will be lost");
                if !self.consent.asked(&question)? {
                    return Ok(Exit::Failure);
                }
            }
            let mut entry = SubmissionQueueEntry::new(opcode::admin::SANITIZE);
            entry.cdw10.set(
                self.sanact.code()
                    | u32::from(self.ause) << 3
                    | u32::from(self.owpass) << 4
                    | u32::from(self.oipbp) << 8
                    | u32::from(self.no_dealloc) << 9,
            );
            entry.cdw11.set(self.ovrpat);
            session.admin(&entry, Data::None)?;
            if !erases || self.no_wait {
                eprintln!("sanitize: Success{}", if erases { "; the drive goes on by itself" } else { "" });
                return Ok(Exit::Success);
            }
            wait(session)
        })
    }
}

fn wait(session: &mut Session) -> anyhow::Result<Exit> {
    let ended = follow(session, "sanitize", |session| {
        let bytes = session.log(
            page(lid::SANITIZE_STATUS),
            gangway_spec::command::NSID_BROADCAST,
            size_of::<SanitizeLog>(),
        )?;
        let log: Box<SanitizeLog> = structure(&bytes)?;
        Ok(match log.status() {
            SanitizeLog::IN_PROGRESS => Err((log.sprog.get().into(), 1 << 16)),
            _ => Ok(log),
        })
    })?;
    let Some(log) = ended else {
        eprintln!("sanitize: the drive goes on by itself; `gangway sanitize-log` shows how far it is");
        return Ok(Exit::Failure);
    };
    match log.status() {
        SanitizeLog::SUCCEEDED | SanitizeLog::SUCCEEDED_UNEXPECTED_DEALLOCATION => {
            eprintln!("sanitize: {}", sanitize_state(&log));
            Ok(Exit::Success)
        }
        _ => bail!(
            "{}: sanitize: {} The drive answers little else until a sanitize succeeds, or `-a exit-failure` where it was \
             begun with --ause",
            session.name(),
            sanitize_state(&log)
        ),
    }
}
