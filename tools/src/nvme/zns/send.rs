//! What changes zones: `zns open-zone` and its kin, `zns zone-append`.

use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;
use gangway_spec::nvm::{IoControl, set_nlb, set_slba};
use gangway_spec::zns::send;
use gangway_spec::{SubmissionQueueEntry, opcode};

use super::Zones;
use crate::device::Data;
use crate::exit::Exit;
use crate::nvme::args::{self, Consent, Target};
use crate::nvme::features::input;
use crate::nvme::identify::describe_victim;
use crate::nvme::session;

/// Which zones.
#[derive(Args, Clone, Debug)]
pub(super) struct Which {
    #[command(flatten)]
    target: Target,
    /// Namespace [default: the only one]
    #[arg(short, long, value_name = "NSID", value_parser = args::nsid)]
    namespace_id: Option<u32>,
    /// First block of the zone
    #[arg(short, long, value_name = "LBA", value_parser = args::number, default_value_t = 0)]
    start_lba: u64,
    /// All zones that this can be done with
    #[arg(short = 'a', long)]
    select_all: bool,
}

impl Which {
    /// Sends an action; `loses` says what goes, after "This".
    fn send(
        &self,
        name: &str,
        action: u32,
        data: &[u8],
        loses: Option<&str>,
        consent: Consent,
    ) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            let zones = Zones::of(session, self.namespace_id)?;
            if let Some(loses) = loses.filter(|_| !consent.yes) {
                let victim = describe_victim(session, Some(zones.nsid));
                let which = if self.select_all {
                    "all zones".to_owned()
                } else {
                    format!("the zone at {:#x}", self.start_lba)
                };
                if !consent.asked(&format!("This {loses} {which} of {victim}"))? {
                    return Ok(Exit::Failure);
                }
            }
            let mut entry = zones.entry(opcode::zns::ZONE_MANAGEMENT_SEND, self.start_lba);
            entry.cdw13.set(action | if self.select_all { send::SELECT_ALL } else { 0 });
            session.io(&entry, Data::Out(data))?;
            eprintln!(
                "{name}: Success, action:{:#x} zone:{:#x} all:{} nsid:{}",
                action & 0xff,
                self.start_lba,
                u8::from(self.select_all),
                zones.nsid
            );
            Ok(Exit::Success)
        })
    }
}

/// Declares a command that does one thing with zones.
macro_rules! simple_actions {
    ($($(#[$about:meta])* $name:ident: $command:literal $action:ident, $loses:expr;)*) => {$(
        $(#[$about])*
        #[derive(Args, Clone, Debug)]
        pub(super) struct $name {
            #[command(flatten)]
            which: Which,
            #[command(flatten)]
            consent: Consent,
        }

        impl $name {
            pub(super) fn run(&self) -> anyhow::Result<Exit> {
                self.which.send($command, send::$action.into(), &[], $loses, self.consent)
            }
        }
    )*};
}

simple_actions! {
    /// Closes open zones
    CloseZone: "close-zone" CLOSE, None;
    /// Finishes zones: nothing can be written to them until they are reset
    FinishZone: "finish-zone" FINISH, Some("ends all writing to");
    /// Resets zones: they are empty then
    ResetZone: "reset-zone" RESET, Some("gives up all data of");
    /// Takes read-only zones offline, for good
    OfflineZone: "offline-zone" OFFLINE, Some("gives up, for good, all data of");
}

/// Opens zones
///
/// A drive of this machine is reset when this program lets go of it, and closes the zones that are open.
#[derive(Args, Clone, Debug)]
pub(super) struct OpenZone {
    #[command(flatten)]
    which: Which,
    /// Give the zone a random write area
    #[arg(short = 'r', long)]
    zrwaa: bool,
}

impl OpenZone {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let action = u32::from(send::OPEN) | u32::from(self.zrwaa) << 9;
        self.which.send("open-zone", action, &[], None, Consent::default())
    }
}

/// Does anything with zones, by number
#[derive(Args, Clone, Debug)]
pub(super) struct ZoneMgmtSend {
    #[command(flatten)]
    which: Which,
    /// What to do: 1 close, 2 finish, 3 open, 4 reset, 5 take offline, 0x10 set the descriptor's extension, 0x11 flush the
    /// random write area
    #[arg(short, long, value_name = "ACTION", value_parser = args::number8)]
    zsa: u8,
    /// The option of the action
    #[arg(short = 'o', long)]
    zsaso: bool,
    /// Bytes of data
    #[arg(short = 'l', long, value_name = "BYTES", value_parser = args::number32, default_value_t = 0)]
    data_len: u32,
    /// File with the data [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    data: Option<PathBuf>,
    #[command(flatten)]
    consent: Consent,
}

impl ZoneMgmtSend {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let data = input(self.data.as_ref(), self.data_len as usize)?;
        let loses = match self.zsa {
            send::OPEN | send::CLOSE | send::FLUSH_ZRWA => None,
            send::FINISH => Some("ends all writing to"),
            send::RESET | send::OFFLINE => Some("gives up all data of"),
            _ => Some("may change"),
        };
        let action = u32::from(self.zsa) | u32::from(self.zsaso) << 9;
        self.which.send("zone-mgmt-send", action, &data, loses, self.consent)
    }
}

/// Writes data to where a zone is written to next, and says where that was
#[derive(Args, Clone, Debug)]
pub(super) struct ZoneAppend {
    #[command(flatten)]
    target: Target,
    /// Namespace [default: the only one]
    #[arg(short, long, value_name = "NSID", value_parser = args::nsid)]
    namespace_id: Option<u32>,
    /// First block of the zone
    #[arg(short = 's', long, value_name = "LBA", value_parser = args::number, default_value_t = 0)]
    zslba: u64,
    /// Bytes of data
    #[arg(short = 'z', long, value_name = "BYTES", value_parser = args::number32)]
    data_size: u32,
    /// File with the data [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Limit how often the drive tries again
    #[arg(short, long)]
    limited_retry: bool,
    /// Force unit access: past the volatile write cache
    #[arg(short, long)]
    force_unit_access: bool,
}

impl ZoneAppend {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let data = input(self.data.as_ref(), self.data_size as usize)?;
        session::with(&self.target, |session| {
            let zones = Zones::of(session, self.namespace_id)?;
            let geometry = session.geometry(zones.nsid)?;
            let unit = geometry.unit();
            ensure!(
                !data.is_empty() && data.len().is_multiple_of(unit),
                "{} bytes are no whole number of blocks, which have {unit} bytes each",
                data.len()
            );
            ensure!(
                geometry.metadata == 0 || geometry.extended,
                "namespace {} has metadata in a buffer of its own, which is not transferred here",
                zones.nsid
            );
            let blocks = (data.len() / unit) as u32;
            ensure!(blocks <= gangway_spec::nvm::MAX_BLOCKS, "{blocks} blocks are too many for one command");
            let mut entry = SubmissionQueueEntry::new(opcode::zns::ZONE_APPEND);
            entry.nsid.set(zones.nsid);
            let control = IoControl::new().with_fua(self.force_unit_access).with_lr(self.limited_retry);
            entry.cdw12.set(control.into_bits());
            set_slba(&mut entry, self.zslba);
            set_nlb(&mut entry, blocks);
            let answer = session.io(&entry, Data::Out(&data))?;
            crate::output::print(&format!("Success appended data to LBA {:x}", answer.entry.result()))?;
            Ok(Exit::Success)
        })
    }
}
