//! Log pages: each in its own form, and any of them as bytes (`get-log`).

mod decode;
mod get;
mod telemetry;

use std::mem::size_of;

use clap::Args;
use gangway_spec::command::NSID_BROADCAST;
use gangway_spec::log::{
    CommandsSupportedAndEffectsLog, DeviceSelfTestLog, ErrorLogEntry, FirmwareSlotLog, GetLogPage,
    SanitizeLog, SmartLog, lid,
};
use zerocopy::FromBytes;

pub(super) use self::decode::{sanitize_state, self_test_outcome};
pub(crate) use self::get::GetLog;
pub(crate) use self::telemetry::TelemetryLog;
use super::args::{self, Output, Show, Target};
use super::session;
use crate::exit::Exit;

/// Shows health and usage (log page 02h)
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway smart-log pci:0000:01:00.0
  gangway smart-log tcp:192.0.2.7:4420/NQN -o json | jq .temperature      in kelvin, as nvme-cli has it")]
pub(crate) struct SmartLogCommand {
    #[command(flatten)]
    target: Target,
    /// Namespace, for drives that keep a log for each
    #[arg(short, long, value_name = "NSID", value_parser = args::nsid, default_value = "0xffffffff")]
    namespace_id: u32,
    #[command(flatten)]
    show: Show,
}

impl SmartLogCommand {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            let bytes = session.log(GetLogPage { rae: false, ..page(lid::SMART) }, self.namespace_id, 512)?;
            let log = session::structure::<SmartLog>(&bytes)?;
            let title = format!("Smart Log for {} namespace-id:{:x}", session.name(), self.namespace_id);
            self.show.answer(&title, &bytes, || decode::smart(&log))?;
            Ok(Exit::Success)
        })
    }
}

/// Shows the newest errors (log page 01h)
#[derive(Args, Clone, Debug)]
pub(crate) struct ErrorLogCommand {
    #[command(flatten)]
    target: Target,
    /// Entries to show, as far as the drive has so many
    #[arg(short = 'e', long, value_name = "N", value_parser = args::number32, default_value_t = 64)]
    log_entries: u32,
    #[command(flatten)]
    show: Show,
}

impl ErrorLogCommand {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            let there_are = usize::from(session.controller().elpe) + 1;
            let entries = (self.log_entries.max(1) as usize).min(there_are);
            let length = entries * size_of::<ErrorLogEntry>();
            let bytes = session.log(GetLogPage { rae: false, ..page(lid::ERROR) }, NSID_BROADCAST, length)?;
            let errors = bytes.chunks(size_of::<ErrorLogEntry>());
            let errors: Vec<_> =
                errors.filter_map(|bytes| ErrorLogEntry::read_from_bytes(bytes).ok()).collect();
            match self.show.output() {
                Output::Binary => self.show.bytes(&bytes)?,
                Output::Json => self.show.json(&decode::errors(&errors))?,
                Output::Normal => {
                    self.show.text(&format!(
                        "Error Log Entries of {}:\n{}",
                        session.name(),
                        decode::error_lines(&errors)
                    ))?;
                }
            }
            Ok(Exit::Success)
        })
    }
}

/// Declares a command that shows one log page which is one structure.
macro_rules! simple_logs {
    ($($(#[$about:meta])* $name:ident: $lid:ident $log:ty, $title:literal, $decode:expr;)*) => {$(
        $(#[$about])*
        #[derive(Args, Clone, Debug)]
        pub(crate) struct $name {
            #[command(flatten)]
            target: Target,
            /// Keep the event that announced the log page
            #[arg(short, long)]
            rae: bool,
            #[command(flatten)]
            show: Show,
        }

        impl $name {
            pub(super) fn run(&self) -> anyhow::Result<Exit> {
                session::with(&self.target, |session| {
                    let request = GetLogPage { rae: self.rae, ..page(lid::$lid) };
                    let bytes = session.log(request, NSID_BROADCAST, size_of::<$log>())?;
                    let log = session::structure::<$log>(&bytes)?;
                    let title = format!(concat!($title, " of {}"), session.name());
                    let decode = $decode;
                    self.show.answer(&title, &bytes, || decode(&*log, session.name()))?;
                    Ok(Exit::Success)
                })
            }
        }
    )*};
}

simple_logs! {
    /// Shows the firmware of each slot (log page 03h)
    FwLog: FIRMWARE_SLOT FirmwareSlotLog, "Firmware Log", decode::firmware;
    /// Shows how a sanitize operation goes or went (log page 81h)
    SanitizeLogCommand: SANITIZE_STATUS SanitizeLog, "Sanitize Status", decode::sanitize;
}

/// Shows self-tests, running and past (log page 06h)
#[derive(Args, Clone, Debug)]
pub(crate) struct SelfTestLog {
    #[command(flatten)]
    target: Target,
    /// Results to show
    #[arg(short = 'e', long, value_name = "N", value_parser = args::number8, default_value_t = 20)]
    dst_entries: u8,
    #[command(flatten)]
    show: Show,
}

impl SelfTestLog {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            let length = size_of::<DeviceSelfTestLog>();
            let bytes = session.log(page(lid::DEVICE_SELF_TEST), NSID_BROADCAST, length)?;
            let log = session::structure::<DeviceSelfTestLog>(&bytes)?;
            let title = format!("Device Self-test Log of {}", session.name());
            self.show.answer(&title, &bytes, || decode::self_test(&log, self.dst_entries.into()))?;
            Ok(Exit::Success)
        })
    }
}

/// Shows which commands there are and what they affect (log page 05h)
#[derive(Args, Clone, Debug)]
pub(crate) struct EffectsLog {
    #[command(flatten)]
    target: Target,
    /// I/O command set (0 NVM, 2 zoned)
    #[arg(short, long, value_name = "CSI", value_parser = args::number8, default_value_t = 0)]
    csi: u8,
    #[command(flatten)]
    show: Show,
}

impl EffectsLog {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            let request = GetLogPage { csi: self.csi, ..page(lid::COMMANDS_SUPPORTED_AND_EFFECTS) };
            let length = size_of::<CommandsSupportedAndEffectsLog>();
            let bytes = session.log(request, NSID_BROADCAST, length)?;
            let log = session::structure::<CommandsSupportedAndEffectsLog>(&bytes)?;
            match self.show.output() {
                Output::Json => self.show.json(&[decode::effects(&log, self.csi)])?,
                Output::Binary => self.show.bytes(&bytes)?,
                Output::Normal => self.show.text(&decode::effect_lines(&log, self.show.human_readable))?,
            }
            Ok(Exit::Success)
        })
    }
}

/// Asks for a log page from its start, keeping its event; the length is filled in when it is read.
pub(super) fn page(lid: u8) -> GetLogPage {
    GetLogPage::new(lid, 0)
}
