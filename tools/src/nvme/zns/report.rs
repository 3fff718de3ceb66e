//! `zns report-zones`.

use anyhow::{Context, ensure};
use clap::Args;
use gangway_spec::opcode;
use gangway_spec::zns::{ZoneDescriptor, ZoneReportHeader, ZoneState, receive};
use zerocopy::FromBytes;

use super::Zones;
use crate::device::Data;
use crate::exit::Exit;
use crate::nvme::args::{self, LongVerbose, Output, Show, Target};
use crate::nvme::fields::{Object, hex, hex_dump};
use crate::nvme::session::{self, Session};

const HEADER: usize = size_of::<ZoneReportHeader>();
const DESCRIPTOR: usize = size_of::<ZoneDescriptor>();

/// Lists zones
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway zns report-zones pci:0000:01:00.0 -n 1 -d 8
  gangway zns report-zones pci:0000:01:00.0 -n 1 --state 5 -o json      those that are full")]
pub(super) struct ReportZones {
    #[command(flatten)]
    target: Target,
    /// Namespace [default: the only one]
    #[arg(short, long, value_name = "NSID", value_parser = args::nsid)]
    namespace_id: Option<u32>,
    /// First block of the zone to begin with
    #[arg(short, long, value_name = "LBA", value_parser = args::number, default_value_t = 0)]
    start_lba: u64,
    /// Zones to list [default: all]
    #[arg(short, long, value_name = "N", value_parser = args::number32)]
    descs: Option<u32>,
    /// Only zones in this state: 0 any, 1 empty, 2 implicitly open, 3 explicitly open, 4 closed, 5 full, 6 read only,
    /// 7 offline
    #[arg(short = 'S', long, value_name = "STATE", value_parser = args::number8, default_value_t = 0)]
    state: u8,
    /// With the descriptors' extensions
    #[arg(short, long)]
    extended: bool,
    /// Count only the zones that are listed
    #[arg(short, long)]
    partial: bool,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    _verbose: LongVerbose,
}

/// A zone, with its extension when it was asked for.
struct Zone {
    descriptor: ZoneDescriptor,
    extension: Vec<u8>,
}

impl ReportZones {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            let zones = Zones::of(session, self.namespace_id)?;
            let (total, found) = self.read(session, zones)?;
            match self.show.output() {
                Output::Json => {
                    let mut object = Object::default();
                    object.number("nr_zones", total);
                    object.list("zone_list", found.iter().map(|zone| describe(zone, self.extended)));
                    self.show.json(&object)?;
                }
                Output::Normal => {
                    let mut lines = vec![format!("nr_zones: {total}")];
                    lines.extend(found.iter().map(line));
                    self.show.text(&lines.join("\n"))?;
                }
                Output::Binary => {
                    let mut bytes = total.to_le_bytes().to_vec();
                    bytes.resize(HEADER, 0);
                    for zone in &found {
                        bytes.extend(zerocopy::IntoBytes::as_bytes(&zone.descriptor));
                        bytes.extend(&zone.extension);
                    }
                    self.show.bytes(&bytes)?;
                }
            }
            Ok(Exit::Success)
        })
    }

    /// How many zones match, and as many of them as were asked for, read in as many commands as it takes.
    fn read(&self, session: &mut Session, zones: Zones) -> anyhow::Result<(u64, Vec<Zone>)> {
        let each = DESCRIPTOR + if self.extended { zones.extension } else { 0 };
        let room = (session.device.max_transfer() - HEADER) / each;
        let wanted = self.descs.map_or(usize::MAX, |count| count as usize);
        let mut found: Vec<Zone> = Vec::new();
        let total = self.count(session, zones)?;
        let mut start = self.start_lba;
        while found.len() < wanted {
            let ask = room.min(wanted - found.len()).min(1024);
            let length = HEADER + ask * each;
            let action = if self.extended { receive::EXTENDED_REPORT } else { receive::REPORT };
            let partial = if self.partial { receive::PARTIAL } else { 0 };
            let (here, report) = self.receive(session, zones, start, length, partial | u32::from(action))?;
            let got = usize::try_from(here).unwrap_or(usize::MAX).min(ask);
            for bytes in report[HEADER..].chunks_exact(each).take(got) {
                let (descriptor, extension) =
                    ZoneDescriptor::read_from_prefix(bytes).ok().context("a descriptor is too short")?;
                found.push(Zone { descriptor, extension: extension.to_vec() });
            }
            let Some(last) = found.last().filter(|_| got == ask) else { break };
            let next =
                last.descriptor.zslba.get().checked_add(zones.size).context("the zones have no end")?;
            ensure!(next > start, "the zones in the drive's report do not ascend");
            start = next;
            // Beyond the last zone there is nothing to ask for.
            if start >= session.namespace(zones.nsid)?.nsze.get() {
                break;
            }
        }
        Ok((total, found))
    }

    /// How many zones of the namespace match, wherever the list begins.
    fn count(&self, session: &mut Session, zones: Zones) -> anyhow::Result<u64> {
        Ok(self.receive(session, zones, 0, HEADER, receive::REPORT.into())?.0)
    }

    /// One report of `length` bytes: how many zones match, and all of its bytes.
    fn receive(
        &self,
        session: &mut Session,
        zones: Zones,
        start: u64,
        length: usize,
        action: u32,
    ) -> anyhow::Result<(u64, Vec<u8>)> {
        let mut entry = zones.entry(opcode::zns::ZONE_MANAGEMENT_RECEIVE, start);
        entry.cdw12.set((length / 4 - 1) as u32);
        entry.cdw13.set(action | u32::from(self.state) << 8);
        let bytes = session.io(&entry, Data::In(length))?.data;
        ensure!(bytes.len() == length, "a report has {} of {length} bytes", bytes.len());
        let (header, _) =
            ZoneReportHeader::read_from_prefix(&bytes).ok().context("a report without header")?;
        Ok((header.nzones.get(), bytes))
    }
}

/// nvme-cli's names of states.
fn state(state: ZoneState) -> &'static str {
    match state {
        ZoneState::EMPTY => "EMPTY",
        ZoneState::IMPLICITLY_OPENED => "IMP_OPENED",
        ZoneState::EXPLICITLY_OPENED => "EXP_OPENED",
        ZoneState::CLOSED => "CLOSED",
        ZoneState::READ_ONLY => "READONLY",
        ZoneState::FULL => "FULL",
        ZoneState::OFFLINE => "OFFLINE",
        _ => "Unknown State",
    }
}

fn kind(zone: &ZoneDescriptor) -> &'static str {
    if zone.zt & 0xf == ZoneDescriptor::SEQUENTIAL_WRITE_REQUIRED { "SEQWRITE_REQ" } else { "Unknown" }
}

fn describe(zone: &Zone, extended: bool) -> Object {
    let descriptor = &zone.descriptor;
    let mut object = Object::default();
    object.number("slba", descriptor.zslba.get()).number("wp", descriptor.wp.get());
    object.number("cap", descriptor.zcap.get());
    object.text("state", state(descriptor.state())).text("type", kind(descriptor));
    object.number("attrs", descriptor.za).number("attrs_info", descriptor.zai);
    if extended {
        let valid = descriptor.za & ZoneDescriptor::EXTENSION_VALID != 0;
        object.text("ext_data", if valid { hex(&zone.extension) } else { "Not valid".to_owned() });
    }
    object
}

fn line(zone: &Zone) -> String {
    let descriptor = &zone.descriptor;
    let mut text = format!(
        "SLBA: {:#010x} WP: {:#010x} Cap: {:#010x} State: {:<12} Type: {:<14} Attrs: {:#x}",
        descriptor.zslba.get(),
        descriptor.wp.get(),
        descriptor.zcap.get(),
        state(descriptor.state()),
        kind(descriptor),
        descriptor.za
    );
    if descriptor.za & ZoneDescriptor::EXTENSION_VALID != 0 && !zone.extension.is_empty() {
        text.push_str(&format!("\nExtension Data:\n{}", hex_dump(&zone.extension)));
    }
    text
}
