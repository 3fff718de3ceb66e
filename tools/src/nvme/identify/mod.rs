//! What Identify tells: `id-ctrl`, `id-ns`, `list-ns`, `ns-descs`.

mod controller;
mod namespace;

use clap::Args;
use gangway_spec::command::NSID_BROADCAST;
use gangway_spec::identify::{NamespaceIdDescriptor, cns};
use gangway_spec::{IdentifyController, IdentifyNamespace};
use zerocopy::IntoBytes;

use super::args::{self, Format, LongVerbose, Output, Show, Target};
use super::fields::{Object, hex, hex_dump};
use super::session::{self, Session, structure};
use crate::exit::Exit;

/// Shows what a controller is and can do (Identify Controller)
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway id-ctrl pci:0000:01:00.0
  gangway id-ctrl tcp:192.0.2.7:4420/NQN -o json | jq -r .sn")]
pub(crate) struct IdCtrl {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    show: Show,
    /// Show the vendor's bytes as well
    #[arg(short, long)]
    vendor_specific: bool,
    #[command(flatten)]
    _verbose: LongVerbose,
}

impl IdCtrl {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            // Read anew and not what the driver knows: the bytes may have changed since it started.
            let bytes = session.identify(cns::CONTROLLER, 0, 0)?;
            let controller: Box<IdentifyController> = structure(&bytes)?;
            self.show.answer("NVME Identify Controller", &bytes, || controller::describe(&controller))?;
            if self.vendor_specific && self.show.output() == Output::Normal {
                self.show.text(&format!("vs[]:\n{}", hex_dump(&controller.vs)))?;
            }
            Ok(Exit::Success)
        })
    }
}

/// Shows what a namespace is and how it is formatted (Identify Namespace)
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway id-ns pci:0000:01:00.0 -n 1
  gangway id-ns pci:0000:01:00.0 -n 0xffffffff      what all namespaces have in common")]
pub(crate) struct IdNs {
    #[command(flatten)]
    target: Target,
    /// Namespace [default: the only one]
    #[arg(short, long, value_name = "NSID", value_parser = args::nsid)]
    namespace_id: Option<u32>,
    /// Show a namespace that is allocated, whether it is attached or not
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    show: Show,
    /// Show the vendor's bytes as well
    #[arg(short, long)]
    vendor_specific: bool,
    #[command(flatten)]
    _verbose: LongVerbose,
}

impl IdNs {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            let nsid = session.one_namespace(self.namespace_id)?;
            let cns = if self.force { cns::ALLOCATED_NAMESPACE } else { cns::NAMESPACE };
            let bytes = session.identify(cns, nsid, 0)?;
            let namespace: Box<IdentifyNamespace> = structure(&bytes)?;
            let title = format!("NVME Identify Namespace {nsid}");
            self.show.answer(&title, &bytes, || namespace::describe(&namespace))?;
            if self.vendor_specific && self.show.output() == Output::Normal {
                self.show.text(&format!("vs[]:\n{}", hex_dump(&namespace.vs)))?;
            }
            Ok(Exit::Success)
        })
    }
}

/// Lists namespaces
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway list-ns pci:0000:01:00.0
  gangway list-ns pci:0000:01:00.0 --all      also those that are not attached to this controller")]
pub(crate) struct ListNs {
    #[command(flatten)]
    target: Target,
    /// Start with this namespace
    #[arg(short, long, value_name = "NSID", value_parser = args::nsid, default_value_t = 1)]
    namespace_id: u32,
    /// Only those of this I/O command set (0 NVM, 1 key-value, 2 zoned)
    #[arg(short = 'y', long, value_name = "CSI", value_parser = args::number8)]
    csi: Option<u8>,
    /// Also namespaces that are not attached to this controller
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    format: Format,
}

impl ListNs {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let cns = match (self.all, self.csi) {
            (false, None) => cns::ACTIVE_NAMESPACE_LIST,
            (true, None) => cns::ALLOCATED_NAMESPACE_LIST,
            (false, Some(_)) => cns::IO_COMMAND_SET_ACTIVE_LIST,
            (true, Some(_)) => cns::IO_COMMAND_SET_ALLOCATED_LIST,
        };
        // The list has those above the identifier that is asked with, and FFFFFFFEh and above may not be asked with.
        let after = (self.namespace_id - 1).min(NSID_BROADCAST - 2);
        let ids =
            session::with(&self.target, |session| session.namespaces(cns, self.csi.unwrap_or(0), after))?;
        let show = Show { format: self.format, ..Show::default() };
        match self.format.output {
            Output::Json => {
                let entry = |id: &u32| {
                    let mut object = Object::default();
                    object.number("nsid", *id);
                    object
                };
                let mut object = Object::default();
                object.list("nsid_list", ids.iter().map(entry));
                show.json(&object)?;
            }
            Output::Normal => {
                let lines: Vec<_> =
                    ids.iter().enumerate().map(|(index, id)| format!("[{index:>4}]:{id:#x}")).collect();
                if !lines.is_empty() {
                    show.text(&lines.join("\n"))?;
                }
            }
            Output::Binary => show.bytes(ids.as_bytes())?,
        }
        Ok(Exit::Success)
    }
}

/// Shows the identifiers of a namespace (EUI-64, NGUID, UUID, command set)
#[derive(Args, Clone, Debug)]
pub(crate) struct NsDescs {
    #[command(flatten)]
    target: Target,
    /// Namespace [default: the only one]
    #[arg(short, long, value_name = "NSID", value_parser = args::nsid)]
    namespace_id: Option<u32>,
    #[command(flatten)]
    show: Show,
}

impl NsDescs {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            let nsid = session.one_namespace(self.namespace_id)?;
            let bytes = session.identify(cns::NAMESPACE_DESCRIPTORS, nsid, 0)?;
            let found = descriptors(&bytes);
            match self.show.output() {
                Output::Binary => self.show.bytes(&bytes)?,
                Output::Json => {
                    let mut object = Object::default();
                    object.list("ns-descs", found.iter().map(Descriptor::describe));
                    self.show.json(&object)?;
                }
                Output::Normal => {
                    let mut object = Object::default();
                    for Descriptor { name, value, .. } in &found {
                        object.text(*name, value.clone());
                    }
                    let title = format!("NVME Namespace Identification Descriptors NS {nsid}");
                    self.show.text(&format!("{title}:\n{}", object.lines(self.show.human_readable)))?;
                }
            }
            Ok(Exit::Success)
        })
    }
}

/// An identifier of a namespace, as it is shown.
struct Descriptor {
    /// Where it stands in the list, in bytes.
    at: usize,
    nidt: u8,
    nidl: usize,
    name: &'static str,
    value: String,
}

impl Descriptor {
    fn describe(&self) -> Object {
        let mut object = Object::default();
        object.number("loc", self.at as u64).number("nidt", self.nidt).number("nidl", self.nidl as u64);
        object.text("type", self.name).text(self.name, self.value.clone());
        object
    }
}

fn descriptors(bytes: &[u8]) -> Vec<Descriptor> {
    let mut at = 0;
    let mut found = Vec::new();
    for descriptor in NamespaceIdDescriptor::parse(bytes) {
        let NamespaceIdDescriptor { nidt, nid } = descriptor;
        let known = match (nidt, nid) {
            (NamespaceIdDescriptor::EUI64, _) => Some(("eui64", hex(nid))),
            (NamespaceIdDescriptor::NGUID, _) => Some(("nguid", hex(nid))),
            (NamespaceIdDescriptor::UUID, _) => {
                let uuid = uuid::Uuid::from_slice(nid).map_or_else(|_| hex(nid), |uuid| uuid.to_string());
                Some(("uuid", uuid))
            }
            (NamespaceIdDescriptor::CSI, &[csi, ..]) => Some(("csi", number_sign_hex(csi))),
            _ => None,
        };
        if let Some((name, value)) = known {
            found.push(Descriptor { at, nidt, nidl: nid.len(), name, value });
        }
        at += 4 + nid.len();
    }
    found
}

/// As nvme-cli prints it: in hexadecimal, but 0 without a prefix.
fn number_sign_hex(number: u8) -> String {
    if number == 0 { "0".to_owned() } else { format!("{number:#x}") }
}

/// A line that names a drive and a namespace, for questions.
pub(super) fn describe_victim(session: &mut Session, nsid: Option<u32>) -> String {
    let controller = session.controller();
    let drive = format!("{} (serial {}, {})", controller.model(), controller.serial(), session.name());
    let drive = crate::output::printable(&drive);
    let size = |session: &mut Session, nsid: u32| {
        let bytes = session.namespace(nsid).ok().and_then(|namespace| namespace.size_in_bytes());
        bytes.map_or_else(String::new, |bytes| format!(" of {}", crate::output::size(bytes)))
    };
    match nsid {
        Some(nsid) if nsid != NSID_BROADCAST => {
            format!("namespace {nsid}{} of {drive}", size(session, nsid))
        }
        _ => {
            let all = session.namespaces(cns::ACTIVE_NAMESPACE_LIST, 0, 0).unwrap_or_default();
            let all: Vec<_> = all.iter().map(|&nsid| format!("{nsid}{}", size(session, nsid))).collect();
            format!("all namespaces ({}) of {drive}", all.join(", "))
        }
    }
}
