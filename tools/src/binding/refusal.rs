//! Reasons not to touch a function, and what to do about each.

use std::{fmt, path::PathBuf};

use super::{ProgramError, VFIO_PCI};
use crate::{
    sysfs::PciAddress,
    usage::{Process, Usage},
};

/// Why a function was left alone.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "there is no PCI function at this address; `gangway list` shows the NVMe functions of this machine"
    )]
    NoSuchFunction,
    #[error("it is not an NVMe function: its class is {class:06x}, that of NVMe is 010802")]
    NotNvme { class: u32 },
    #[error(
        "{count} SR-IOV virtual functions of it are enabled and would lose it: end what uses them, then write \
         0 to {sriov_numvfs}"
    )]
    HasVirtualFunctions { count: u32, sriov_numvfs: PathBuf },
    #[error(
        "the IOMMU is off: switch it on in the firmware's setup (VT-d or AMD-Vi) and boot the kernel with \
         intel_iommu=on (Intel) or amd_iommu=on (AMD)"
    )]
    IommuOff,
    #[error(
        "it is a virtual function of {physical}, which is bound to vfio-pci: the kernel lets a program open it only \
         with the token (VF token) of the program that drives {physical}, and gangway has none. Give {physical} back \
         to its driver first (`gangway unbind {physical}`)"
    )]
    NeedsToken { physical: PciAddress },
    #[error(
        "another drive is in this slot: expected serial number {expected}, found {found}. To bind this one, \
         `gangway unbind` the address and bind it with --persist again"
    )]
    OtherDrive { expected: String, found: String },
    #[error("it has no standing binding: `gangway bind --persist` makes one")]
    NotPersistent,
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("it has no IOMMU group although other functions have one: its slot is not behind the IOMMU")]
    NoIommuGroup,
    #[error(
        "IOMMU group {group} holds other functions that can reach its memory: {}. All of a group go to user \
         space or none: {}",
        list(.others), group_remedy(.together, .others)
    )]
    GroupNotViable {
        group: u32,
        others: Vec<GroupMember>,
        /// All NVMe functions of the group.
        together: Vec<PciAddress>,
    },
    #[error("{0}: {hint}", hint = .0.remedy())]
    InUse(Box<Usage>),
    #[error(
        "it is one of several paths to {disk} (the others: {}), and that is in use: {usage}: {hint}",
        .others.join(", "),
        hint = .usage.remedy()
    )]
    InUseBehindMultipath { disk: String, others: Vec<String>, usage: Box<Usage> },
    #[error("IOMMU group {group} is held open by {holder}: end that process first")]
    GroupHeld { group: u32, holder: Holder },
    #[error("{node} cannot be opened exclusively: {reason}")]
    CannotClaim { node: PathBuf, reason: String },
    #[error("its namespaces are changing: repeat this when the kernel has finished looking at it")]
    Unsettled,
    #[error(
        "the open files of {count} processes cannot be read, so it cannot be seen whether they use it: run as root (sudo)"
    )]
    CannotSeeProcesses { count: usize },
    #[error(
        "it has the driver '{driver}', which gangway did not give it; unbind it by the means that bound it"
    )]
    ForeignDriver { driver: String },
    #[error(
        "it has no driver, and gangway has no record of taking one from it; to let the kernel look for one, \
         write {address} to /sys/bus/pci/drivers_probe"
    )]
    NoDriver { address: PciAddress },
    #[error(
        "loading the module '{module}' would also give it {}, not named here and without a driver now; load it \
         yourself if that is wanted (modprobe {module}), then repeat this command",
        addresses(.others)
    )]
    ModuleTakesOthers { module: String, others: Vec<PciAddress> },
}

impl Refusal {
    /// Whether the reason is that somebody uses the drive.
    pub(crate) fn is_use(&self) -> bool {
        matches!(self, Self::InUse(_) | Self::InUseBehindMultipath { .. } | Self::GroupHeld { .. })
    }
}

/// Who holds a VFIO group.
#[derive(Clone, Debug)]
pub(crate) enum Holder {
    Process(Process),
    /// The kernel says that it is open; we cannot see by whom.
    Unseen,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(process) => process.fmt(f),
            Self::Unseen => {
                f.write_str("a process that cannot be seen from here, perhaps in another container")
            }
        }
    }
}

/// A device that shares an IOMMU group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupMember {
    /// A PCI address, or another bus's name.
    pub name: String,
    pub driver: Option<String>,
    pub is_nvme: bool,
}

impl fmt::Display for GroupMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nvme = if self.is_nvme { "NVMe, " } else { "" };
        write!(f, "{} ({nvme}driver {})", self.name, self.driver.as_deref().unwrap_or("none"))
    }
}

impl GroupMember {
    /// Drivers that leave a function's memory alone, so that it may share a group with one in user space.
    pub(super) fn driver_is_harmless(&self) -> bool {
        self.driver.as_deref().is_none_or(|driver| driver == VFIO_PCI || driver == "pci-stub")
    }
}

fn group_remedy(together: &[PciAddress], others: &[GroupMember]) -> String {
    let mut ways = Vec::new();
    if others.iter().any(|member| member.is_nvme) {
        let names: Vec<String> = together.iter().map(PciAddress::to_string).collect();
        ways.push(format!("take its NVMe functions together (`gangway bind {}`)", names.join(" ")));
    }
    if others.iter().any(|member| !member.is_nvme) {
        ways.push("unbind the others from their drivers".to_owned());
    }
    ways.push("put the drive into a slot with a group of its own".to_owned());
    ways.join(", or ")
}

fn list(members: &[GroupMember]) -> String {
    members.iter().map(GroupMember::to_string).collect::<Vec<_>>().join(", ")
}

fn addresses(all: &[PciAddress]) -> String {
    all.iter().map(PciAddress::to_string).collect::<Vec<_>>().join(", ")
}
