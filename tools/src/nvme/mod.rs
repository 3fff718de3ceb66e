//! Local tools: nvme-cli's commands on any device address.
//!
//! Names, options and JSON keys are those of nvme-cli 2.x, so that habits and scripts carry over. Where a drive that
//! this process drives itself behaves differently, because letting go of it resets it, the command says so.

mod args;
mod blocks;
mod confirm;
mod features;
mod fields;
mod identify;
mod logs;
mod manage;
mod passthru;
mod progress;
mod registers;
mod session;
mod show;
mod zns;

use clap::Subcommand;
use gangway_driver::address::OpenError;
use gangway_driver::vfio::VfioError;

pub(crate) use self::args::Consent;
use crate::exit::Exit;

/// Declares the commands: variant, arguments, and the group they are listed in.
macro_rules! commands {
    ($($group:literal: $($variant:ident($arguments:ty),)*)*) => {
        /// A command for a device.
        #[derive(Debug, Subcommand)]
        pub(crate) enum Command {
            $($(#[command(hide = true)] $variant($arguments),)*)*
        }

        impl Command {
            fn dispatch(&self) -> anyhow::Result<Exit> {
                match self {
                    $($(Self::$variant(command) => command.run(),)*)*
                }
            }
        }

        /// The groups of commands, with the variants in them, as the help lists them.
        const GROUPS: &[(&str, &[&str])] = &[$(($group, &[$(stringify!($variant)),*])),*];
    };
}

commands! {
    "look":
        IdCtrl(identify::IdCtrl),
        IdNs(identify::IdNs),
        ListNs(identify::ListNs),
        NsDescs(identify::NsDescs),
        ShowRegs(registers::ShowRegs),
        GetFeature(features::GetFeature),
    "logs":
        SmartLog(logs::SmartLogCommand),
        ErrorLog(logs::ErrorLogCommand),
        FwLog(logs::FwLog),
        EffectsLog(logs::EffectsLog),
        SelfTestLog(logs::SelfTestLog),
        SanitizeLog(logs::SanitizeLogCommand),
        TelemetryLog(logs::TelemetryLog),
        GetLog(logs::GetLog),
    "data":
        Read(blocks::Read),
        Write(blocks::Write),
        Compare(blocks::Compare),
        Verify(blocks::Verify),
        WriteZeroes(blocks::WriteZeroes),
        Dsm(blocks::Dsm),
        Flush(blocks::Flush),
    "change":
        SetFeature(features::SetFeature),
        Format(manage::Format),
        CreateNs(manage::CreateNs),
        DeleteNs(manage::DeleteNs),
        AttachNs(manage::AttachNs),
        DetachNs(manage::DetachNs),
        FwDownload(manage::FwDownload),
        FwCommit(manage::FwCommit),
        DeviceSelfTest(manage::DeviceSelfTest),
        Sanitize(manage::Sanitize),
        Reset(registers::Reset),
        SubsystemReset(registers::SubsystemReset),
    "zoned":
        Zns(zns::Zns),
    "any":
        AdminPassthru(passthru::AdminPassthru),
        IoPassthru(passthru::IoPassthru),
}

impl Command {
    /// Runs the command, and says how it ended.
    ///
    /// # Errors
    /// Whatever went wrong, with the next step.
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let result = self.dispatch();
        // Somebody else has the drive, most likely `gangway serve`: a case of its own for scripts.
        if let Err(error) = &result
            && let Some(OpenError::Vfio(VfioError::Busy { .. })) = error.downcast_ref()
        {
            eprintln!(
                "error: {}; if it is `gangway serve`, use what it exports: tcp:HOST:PORT/NQN",
                crate::output::explain(error)
            );
            return Ok(Exit::InUse);
        }
        result
    }
}

/// The commands by group, for the program's help.
pub(crate) fn overview() -> String {
    let mut text =
        String::from("Commands for a drive, with nvme-cli's names and options (`gangway help COMMAND`):");
    for (group, variants) in GROUPS {
        let mut line = format!("\n  {group:<9}");
        let mut width = line.len();
        for name in variants.iter().map(|variant| kebab(variant)) {
            if width + name.len() > 98 {
                line.push_str(&format!("\n  {:<9}", ""));
                width = 12;
            }
            width += name.len() + 2;
            line.push_str(&name);
            line.push_str("  ");
        }
        text.push_str(line.trim_end());
    }
    text
}

/// The name of a command, from that of its variant.
fn kebab(variant: &str) -> String {
    let mut name = String::new();
    for letter in variant.chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.extend(letter.to_lowercase());
    }
    name
}
