//! `zns`: zoned namespaces (ZNS Command Set 1.1).

mod report;
mod send;

use anyhow::ensure;
use clap::{Args, Subcommand};
use gangway_spec::identify::{cns, csi};
use gangway_spec::opcode;
use gangway_spec::zns::{IdentifyZonedController, IdentifyZonedNamespace};

use self::report::ReportZones;
use self::send::{CloseZone, FinishZone, OfflineZone, OpenZone, ResetZone, ZoneAppend, ZoneMgmtSend};
use super::args::{self, Show, Target};
use super::fields::Object;
use super::session::{self, Session, structure};
use crate::exit::Exit;

/// Zones: shows and changes them
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway zns report-zones pci:0000:01:00.0 -n 1
  gangway zns zone-append pci:0000:01:00.0 -n 1 -s 0 -d data
  gangway zns reset-zone pci:0000:01:00.0 -n 1 -s 0")]
pub(crate) struct Zns {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    IdCtrl(IdCtrl),
    IdNs(IdNs),
    ReportZones(ReportZones),
    OpenZone(OpenZone),
    CloseZone(CloseZone),
    FinishZone(FinishZone),
    ResetZone(ResetZone),
    OfflineZone(OfflineZone),
    ZoneMgmtSend(ZoneMgmtSend),
    ZoneAppend(ZoneAppend),
}

impl Zns {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        match &self.command {
            Command::IdCtrl(command) => command.run(),
            Command::IdNs(command) => command.run(),
            Command::ReportZones(command) => command.run(),
            Command::OpenZone(command) => command.run(),
            Command::CloseZone(command) => command.run(),
            Command::FinishZone(command) => command.run(),
            Command::ResetZone(command) => command.run(),
            Command::OfflineZone(command) => command.run(),
            Command::ZoneMgmtSend(command) => command.run(),
            Command::ZoneAppend(command) => command.run(),
        }
    }
}

/// Shows what the controller can do with zones
#[derive(Args, Clone, Debug)]
struct IdCtrl {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    show: Show,
}

impl IdCtrl {
    fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            let bytes = session.identify(cns::IO_COMMAND_SET_CONTROLLER, 0, csi::ZONED_NAMESPACE)?;
            let controller: Box<IdentifyZonedController> = structure(&bytes)?;
            self.show.answer("NVMe ZNS Identify Controller", &bytes, || {
                let mut object = Object::default();
                object.number("zasl", controller.zasl).notes([match controller.zasl {
                    0 => "Zone Append is limited by MDTS".to_owned(),
                    zasl => format!(
                        "Zone Append transfers {} pages of the smallest size at most",
                        1_u128 << zasl.min(127)
                    ),
                }]);
                object
            })?;
            Ok(Exit::Success)
        })
    }
}

/// Shows how a namespace is divided into zones
#[derive(Args, Clone, Debug)]
struct IdNs {
    #[command(flatten)]
    target: Target,
    /// Namespace [default: the only one]
    #[arg(short, long, value_name = "NSID", value_parser = args::nsid)]
    namespace_id: Option<u32>,
    #[command(flatten)]
    show: Show,
}

impl IdNs {
    fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            let nsid = session.one_namespace(self.namespace_id)?;
            let bytes = session.identify(cns::IO_COMMAND_SET_NAMESPACE, nsid, csi::ZONED_NAMESPACE)?;
            let zoned: Box<IdentifyZonedNamespace> = structure(&bytes)?;
            let common = session.namespace(nsid)?;
            let formats = usize::from(common.nlbaf) + 1;
            let title = format!("ZNS Command Set Identify Namespace {nsid}");
            self.show.answer(&title, &bytes, || describe(&zoned, formats, common.lba_format_index()))?;
            Ok(Exit::Success)
        })
    }
}

fn describe(n: &IdentifyZonedNamespace, formats: usize, current: usize) -> Object {
    let limit =
        |most: Option<u32>| [most.map_or_else(|| "no limit".to_owned(), |most| format!("{most} zones"))];
    let mut object = Object::default();
    let o = &mut object;
    o.bits("zoc", n.zoc).bits("ozcs", n.ozcs);
    o.bits("mar", n.mar).notes(limit(n.max_active())).bits("mor", n.mor).notes(limit(n.max_open()));
    o.number("rrl", n.rrl.get()).number("frl", n.frl.get());
    for (name, further) in [("rrl", n.rrl_further), ("frl", n.frl_further)] {
        for (index, seconds) in further.iter().enumerate() {
            o.number(format!("{name}{}", index + 1), seconds.get());
        }
    }
    o.number("numzrwa", n.numzrwa.get()).number("zrwafg", n.zrwafg.get()).number("zrwasz", n.zrwasz.get());
    o.number("zrwacap", n.zrwacap);
    o.list(
        "lbafe",
        n.lbafe.iter().take(formats).enumerate().map(|(index, format)| {
            let mut object = Object::default();
            object.number("zsze", format.zsze.get()).shown(format!("{:#x}", format.zsze.get()));
            object.number("zdes", format.zdes);
            if index == current {
                object.shown(format!("{} in use", format.zdes));
            }
            object
        }),
    );
    object
}

/// How the zones of a namespace are laid out.
#[derive(Clone, Copy, Debug)]
struct Zones {
    nsid: u32,
    /// Blocks from the start of a zone to that of the next.
    size: u64,
    /// Bytes of a descriptor's extension.
    extension: usize,
}

impl Zones {
    fn of(session: &mut Session, asked: Option<u32>) -> anyhow::Result<Self> {
        let nsid = session.one_namespace(asked)?;
        let common = session.namespace(nsid)?;
        let bytes = session.identify(cns::IO_COMMAND_SET_NAMESPACE, nsid, csi::ZONED_NAMESPACE)?;
        let zoned: Box<IdentifyZonedNamespace> = structure(&bytes)?;
        let format = zoned.lbafe[common.lba_format_index()];
        ensure!(format.zsze.get() > 0, "{}: namespace {nsid} has no zones", session.name());
        Ok(Self { nsid, size: format.zsze.get(), extension: usize::from(format.zdes) * 64 })
    }

    /// A Zone Management Receive command or a Zone Management Send command for a zone.
    fn entry(&self, code: u8, start: u64) -> gangway_spec::SubmissionQueueEntry {
        debug_assert!(matches!(
            code,
            opcode::zns::ZONE_MANAGEMENT_SEND | opcode::zns::ZONE_MANAGEMENT_RECEIVE
        ));
        let mut entry = gangway_spec::SubmissionQueueEntry::new(code);
        entry.nsid.set(self.nsid);
        gangway_spec::nvm::set_slba(&mut entry, start);
        entry
    }
}
