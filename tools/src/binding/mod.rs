//! Moving drives between the kernel's driver and vfio-pci.
//!
//! Only `driver_override` is used, never `new_id`, and only addresses are written that were named: no other
//! function of the machine can change its driver through us. Everything is checked before anything is
//! changed, and a failure half-way is undone.
//!
//! While drives are checked and taken from the kernel, each of their namespaces is held open with `O_EXCL`.
//! That claims the whole disk: it fails when a partition is claimed, and it keeps anybody from mounting,
//! swapping on or assembling the disk or a partition of it until the kernel's driver has let go.

mod attach;
mod check;
mod detach;
mod machine;
mod owner;
mod persist;
mod record;
mod refusal;
mod restore;
mod step;

use std::path::PathBuf;

pub(crate) use attach::{Options, bind};
pub(crate) use detach::unbind;
pub(crate) use machine::{Machine, ModuleError, ProgramError, ThisMachine};
pub(crate) use owner::{Owner, Ownership};
pub(crate) use persist::{Standing, built_in, listed, standing_addresses};
pub(crate) use record::Record;
pub(crate) use refusal::{GroupMember, Refusal};
pub(crate) use restore::restore;

use crate::{
    sysfs::{PciAddress, Roots},
    usage::Process,
};

/// The driver that hands functions to user space.
pub(crate) const VFIO_PCI: &str = "vfio-pci";
/// The kernel's own driver.
pub(crate) const NVME: &str = "nvme";

/// What became of one function.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub address: PciAddress,
    pub status: Status,
    /// The driver it had when we came.
    pub driver_before: Option<String>,
    pub iommu_group: Option<u32>,
    /// The node through which user space reaches it.
    pub vfio_node: Option<PathBuf>,
    /// The driver it has afterwards, when that is known.
    pub driver: Option<String>,
    /// The controller that the kernel made of it, after it was given back.
    pub controller: Option<String>,
    /// The block devices of that controller.
    pub disks: Vec<String>,
    /// The processes that drive it through VFIO.
    pub holders: Vec<Process>,
    /// Whether it is bound at each boot: before, and now.
    pub persistent: (bool, bool),
    /// Who its node was given to.
    pub owner: Option<Owner>,
    /// Why it was refused.
    pub refusals: Vec<Refusal>,
    /// What would be done, in order.
    pub steps: Vec<String>,
    /// What failed, and what could not be done about it.
    pub problems: Vec<String>,
}

/// How it ended for one function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Done.
    Changed,
    /// It was so already.
    Unchanged,
    /// All checks passed; nothing was done since only that was asked for.
    Planned,
    /// Nothing was done because of what is said in `refusals`.
    Refused,
    /// Nothing was done because of another function of the same command.
    Withheld,
    /// A step failed; what had been done was undone unless `problems` says otherwise.
    Failed,
    /// It had been done, and was undone because of another function of the same command.
    Undone,
}

impl Outcome {
    fn new(roots: &Roots, address: PciAddress, status: Status) -> Self {
        let persistent = Standing::load(roots, address).is_some();
        Self {
            address,
            status,
            driver_before: None,
            iommu_group: None,
            vfio_node: None,
            driver: None,
            controller: None,
            disks: Vec::new(),
            holders: Vec::new(),
            persistent: (persistent, persistent),
            owner: None,
            refusals: Vec::new(),
            steps: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn refused(roots: &Roots, address: PciAddress, refusals: Vec<Refusal>) -> Self {
        Self { refusals, ..Self::new(roots, address, Status::Refused) }
    }
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Report {
    /// One for each function, in the order in which they were named.
    pub outcomes: Vec<Outcome>,
    /// What the user should know whatever the outcome.
    pub notes: Vec<String>,
}

/// Names once what was named twice, in the order given.
fn distinct(addresses: &[PciAddress]) -> Vec<PciAddress> {
    let mut all = Vec::new();
    for address in addresses {
        if !all.contains(address) {
            all.push(*address);
        }
    }
    all
}
