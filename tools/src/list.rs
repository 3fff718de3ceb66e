//! `gangway list`: the NVMe functions of this machine.

use anyhow::Context;
use serde::Serialize;

use crate::{
    binding::{Machine, Record, Standing, VFIO_PCI},
    output::{self, Format},
    sysfs::{Controller, Disk, PciFunction, Roots, controller_of, functions, group_members},
    usage::{System, Usage, Use},
};

/// Lines of one drive in the table; the rest is counted.
const MAX_USES_SHOWN: usize = 6;

/// Lists the NVMe functions of this machine, whatever driver they have, and what uses them.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

impl List {
    /// # Errors
    /// Standard output cannot be written.
    pub(crate) fn run(&self, roots: &Roots, machine: &mut dyn Machine) -> anyhow::Result<()> {
        let (drives, notes) = drives(roots, machine);
        match self.output {
            Format::Json => output::print_json(&drives),
            Format::Table if drives.is_empty() => {
                output::print("No NVMe functions on the PCI bus of this machine.")
            }
            Format::Table => output::print(&table(&drives)),
        }
        .context("cannot write the list")?;
        for note in notes {
            tracing::warn!("{note}");
        }
        Ok(())
    }
}

/// One function as it is printed. Names are those of nvme-cli where it has them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Drive {
    address: String,
    /// The block device of the first namespace.
    device_path: Option<String>,
    /// The kernel's controller.
    controller: Option<String>,
    model_number: Option<String>,
    serial_number: Option<String>,
    firmware: Option<String>,
    /// Bytes in all namespaces.
    physical_size: Option<u64>,
    vendor_id: String,
    device_id: String,
    driver: Option<String>,
    /// Whether gangway binds it at each boot.
    persistent: bool,
    /// The function that this one is a virtual function of.
    physical_function: Option<String>,
    /// Virtual functions of this one that are enabled.
    virtual_functions: u32,
    iommu_group: Option<u32>,
    /// The other devices in the group.
    iommu_group_others: Vec<String>,
    numa_node: Option<u32>,
    namespaces: Vec<Namespace>,
    used_by: Vec<User>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Namespace {
    name_space: Option<u32>,
    device_path: String,
    physical_size: u64,
    sector_size: Option<u32>,
    /// Controllers through which the same namespace is reached.
    other_paths: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct User {
    device: String,
    /// What is stacked on the device, lowest first.
    via: Vec<Layer>,
    kind: &'static str,
    mount_point: Option<String>,
    process_id: Option<u32>,
    /// All of it as a sentence.
    text: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Layer {
    name: String,
    kind: String,
}

fn drives(roots: &Roots, machine: &mut dyn Machine) -> (Vec<Drive>, Vec<String>) {
    let system = System::read(roots);
    let mut notes = Vec::new();
    if system.unreadable_processes() > 0 {
        notes.push(format!(
            "the open files of {} processes could not be read, so some uses may be missing: run as root (sudo) to \
             see all",
            system.unreadable_processes()
        ));
    }
    let nvme = functions(roots).into_iter().filter(PciFunction::is_nvme);
    (nvme.map(|function| drive(roots, machine, &system, &function)).collect(), notes)
}

fn drive(roots: &Roots, machine: &mut dyn Machine, system: &System, function: &PciFunction) -> Drive {
    let controller = controller_of(roots, function);
    let mut usages = system.users_of(roots, function, controller.as_ref());
    if usages.is_empty() {
        usages = unseen(roots, machine, system, controller.as_ref());
    }
    // A drive that user space has tells the kernel nothing; what it was when it was taken is remembered.
    let record =
        function.is_bound_to(VFIO_PCI).then(|| Record::load(roots, function)).flatten().unwrap_or_default();
    let own = function.address.to_string();
    let others = function.iommu_group.map(|group| group_members(roots, group)).unwrap_or_default();
    let known = controller.as_ref();
    let disks: &[Disk] = known.map_or(&[], |known| &known.disks);
    Drive {
        device_path: disks.first().map(|disk| format!("/dev/{}", disk.name)),
        controller: known.map(|known| known.name.clone()),
        model_number: known.and_then(|known| known.model.clone()).or(record.model_number),
        serial_number: known.and_then(|known| known.serial.clone()).or(record.serial_number),
        firmware: known.and_then(|known| known.firmware.clone()).or(record.firmware),
        physical_size: known.map(Controller::size).or(record.physical_size),
        vendor_id: function.vendor.clone(),
        device_id: function.device.clone(),
        driver: function.driver.clone(),
        persistent: Standing::load(roots, function.address).is_some(),
        physical_function: function.physical_function.map(|address| address.to_string()),
        virtual_functions: function.virtual_functions,
        iommu_group: function.iommu_group,
        iommu_group_others: others.into_iter().filter(|name| *name != own).collect(),
        numa_node: function.numa_node,
        namespaces: disks.iter().map(namespace).collect(),
        used_by: usages.iter().map(user).collect(),
        address: own,
    }
}

/// Uses that only a claim reveals, such as ZFS. It is held for no longer than the call takes, and is not
/// tried where a use is known already.
fn unseen(
    roots: &Roots,
    machine: &mut dyn Machine,
    system: &System,
    controller: Option<&Controller>,
) -> Vec<Usage> {
    let disks = controller.into_iter().flat_map(|controller| &controller.disks);
    let claimed = disks.filter(|disk| {
        let claim = machine.claim(&roots.dev.join(&disk.name));
        claim.is_err_and(|error| error.kind() == std::io::ErrorKind::ResourceBusy)
    });
    claimed.map(|disk| system.claimed(&disk.name)).collect()
}

fn namespace(disk: &Disk) -> Namespace {
    Namespace {
        name_space: disk.nsid,
        device_path: format!("/dev/{}", disk.name),
        physical_size: disk.size,
        sector_size: disk.block_size,
        other_paths: disk.other_paths.clone(),
    }
}

fn user(usage: &Usage) -> User {
    let layer = |layer: &crate::usage::Layer| Layer { name: layer.name.clone(), kind: layer.kind.clone() };
    User {
        device: usage.device.clone(),
        via: usage.via.iter().map(layer).collect(),
        kind: usage.what.as_ref().map_or("holder", Use::kind),
        mount_point: match &usage.what {
            Some(Use::Mounted { at, .. }) => Some(at.clone()),
            _ => None,
        },
        process_id: match &usage.what {
            Some(Use::Open(process) | Use::Mounted { within: Some(process), .. }) => Some(process.pid),
            _ => None,
        },
        text: usage.to_string(),
    }
}

fn table(drives: &[Drive]) -> String {
    let header = ["ADDRESS", "DEVICE", "MODEL", "SERIAL", "CAPACITY", "DRIVER", "GROUP", "NUMA", "USED BY"];
    output::table(&header, drives.iter().map(row).collect())
}

fn row(drive: &Drive) -> Vec<String> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let group = match (drive.iommu_group, drive.iommu_group_others.len()) {
        (None, _) => "-".into(),
        (Some(group), 0) => group.to_string(),
        (Some(group), others) => format!("{group} (+{others})"),
    };
    let model =
        drive.model_number.clone().unwrap_or_else(|| format!("{}:{}", drive.vendor_id, drive.device_id));
    let address = match (&drive.physical_function, drive.virtual_functions) {
        (Some(physical), _) => format!("{}\n  VF of {physical}", drive.address),
        (None, 0) => drive.address.clone(),
        (None, 1) => format!("{}\n  1 VF", drive.address),
        (None, count) => format!("{}\n  {count} VFs", drive.address),
    };
    let driver = match &drive.driver {
        Some(driver) if drive.persistent && driver == VFIO_PCI => format!("{driver}\n  persistent"),
        driver if drive.persistent => format!("{}\n  persistent: {VFIO_PCI}", or_dash(driver)),
        driver => or_dash(driver),
    };
    vec![
        address,
        or_dash(&drive.controller),
        model,
        or_dash(&drive.serial_number),
        drive.physical_size.map_or_else(|| "-".into(), output::size),
        driver,
        group,
        drive.numa_node.map_or_else(|| "-".into(), |node| node.to_string()),
        users_cell(&drive.used_by),
    ]
}

fn users_cell(users: &[User]) -> String {
    if users.is_empty() {
        return "-".into();
    }
    // A line break in a mount point must not look like another line.
    let mut lines: Vec<String> =
        users.iter().take(MAX_USES_SHOWN).map(|user| user.text.replace('\n', "?")).collect();
    if users.len() > MAX_USES_SHOWN {
        lines.push(format!("and {} more", users.len() - MAX_USES_SHOWN));
    }
    lines.join("\n")
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
