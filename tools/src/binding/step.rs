//! The single steps of binding and unbinding: what a dry run prints is what a real run executes.

use std::{fmt, fs, io, path::PathBuf, time::Duration};

use super::{Machine, ModuleError, Owner, Ownership, Record, Standing};
use crate::{
    output::explain,
    sysfs::{PciAddress, PciFunction, Roots, link_name},
};

/// How long a driver, or a node in /dev, may take to appear.
const PATIENCE: Duration = Duration::from_secs(5);
/// After this time the user is told what we wait for.
const SILENCE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(50);

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Load { module: String },
    Remember { address: PciAddress, record: Record },
    Forget { address: PciAddress },
    Flush { disk: String },
    Release { disk: String },
    Write { file: PathBuf, text: String },
    Bind { address: PciAddress, driver: String, file: PathBuf },
    ExpectDriver { address: PciAddress, driver: String },
    AwaitNode { address: PciAddress },
    Own { address: PciAddress, owner: Owner },
    OwnAs { node: PathBuf, ownership: Ownership },
    Persist { address: PciAddress, standing: Box<Standing> },
    Unpersist { address: PciAddress },
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error(transparent)]
    Module(#[from] ModuleError),
    #[error("{what}: {error}{}", hint(.error))]
    Io { what: String, error: io::Error },
    #[error("the driver '{driver}' did not take {address} (it has {}): the kernel's log says why (dmesg)",
        .found.as_deref().unwrap_or("none"))]
    NoDriver { address: PciAddress, driver: String, found: Option<String> },
    #[error(
        "the serial number of {address} could not be read ({reason}), so that at boot another drive in its slot \
         could not be told from it"
    )]
    NoSerialNumber { address: PciAddress, reason: String },
    #[error("no node for {address} appeared below {} within {} seconds: is /dev kept up by the kernel (devtmpfs) or udev?",
        .directory.display(), PATIENCE.as_secs())]
    NoNode { address: PciAddress, directory: PathBuf },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (run as root: sudo gangway ...)",
        io::ErrorKind::ReadOnlyFilesystem => " (sysfs is mounted read-only, as in most containers)",
        _ => "",
    }
}

impl Step {
    /// Names a new driver in `driver_override`, or clears it.
    pub(super) fn override_with(roots: &Roots, address: PciAddress, driver: Option<&str>) -> Self {
        // An empty line clears it; an empty write would be no write at all.
        let text = driver.unwrap_or("\n").to_owned();
        Self::Write { file: roots.pci_function(address).join("driver_override"), text }
    }

    pub(super) fn bind(roots: &Roots, address: PciAddress, driver: &str) -> Self {
        Self::Bind { address, driver: driver.to_owned(), file: roots.pci_driver(driver).join("bind") }
    }

    pub(super) fn unbind(roots: &Roots, address: PciAddress, driver: &str) -> Self {
        Self::Write { file: roots.pci_driver(driver).join("unbind"), text: address.to_string() }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load { module } => write!(f, "load the module {module} (modprobe {module})"),
            Self::Remember { record, .. } => {
                write!(f, "remember that its driver was {}", record.driver.as_deref().unwrap_or("none"))
            }
            Self::Forget { .. } => f.write_str("forget what driver it had"),
            Self::Flush { disk } => write!(f, "flush /dev/{disk}, which is held exclusively"),
            Self::Release { disk } => write!(f, "release /dev/{disk}"),
            Self::Write { file, text } => write!(f, "write {text:?} to {}", file.display()),
            Self::Bind { address, file, .. } => write!(f, "write \"{address}\" to {}", file.display()),
            Self::ExpectDriver { driver, .. } => write!(f, "check that {driver} has it"),
            Self::AwaitNode { .. } => f.write_str("wait for its node below /dev/vfio"),
            Self::Own { owner, .. } => write!(f, "give its node to {owner}"),
            Self::OwnAs { node, .. } => write!(f, "give {} back to who had it", node.display()),
            Self::Persist { address, standing } => {
                let serial = standing.record.serial_number.as_deref().unwrap_or("not known yet");
                write!(
                    f,
                    "let udev bind it at each boot (10-gangway-{address}.rules, serial number {serial})"
                )
            }
            Self::Unpersist { address } => {
                write!(f, "no longer let udev bind it at boot (10-gangway-{address}.rules)")
            }
        }
    }
}

/// Disks that are held exclusively, by name.
#[derive(Debug, Default)]
pub(super) struct Claims(pub(super) Vec<(String, fs::File)>);

/// Does one step.
pub(super) fn execute(
    roots: &Roots,
    machine: &mut dyn Machine,
    claims: &mut Claims,
    step: &Step,
) -> Result<(), StepError> {
    let io = |result: io::Result<()>| {
        result.map_err(|error| StepError::Io { what: format!("cannot {step}"), error })
    };
    match step {
        Step::Load { module } => Ok(machine.load(module)?),
        Step::Remember { address, record } => io(record.save(roots, *address, machine)),
        Step::Forget { address } => io(machine.remove(&Record::path(roots, *address))),
        Step::Flush { disk } => match claims.0.iter().find(|(name, _)| name == disk) {
            Some((_, claim)) => io(machine.flush(&roots.dev.join(disk), claim)),
            None => Ok(()),
        },
        Step::Release { disk } => {
            claims.0.retain(|(name, _)| name != disk);
            Ok(())
        }
        Step::Write { file, text } => io(machine.write(file, text)),
        Step::Bind { address, driver, file } => match machine.write(file, &address.to_string()) {
            // A driver that was just loaded may have taken it before we asked.
            Err(_) if link_name(&roots.pci_function(*address).join("driver")).as_ref() == Some(driver) => {
                Ok(())
            }
            result => io(result),
        },
        Step::ExpectDriver { address, driver } => {
            let has = |found: &Option<String>| found.as_deref() == Some(driver);
            let link = roots.pci_function(*address).join("driver");
            let what = format!("{driver} to take {address}");
            if until(machine, &what, || has(&link_name(&link))) {
                return Ok(());
            }
            Err(StepError::NoDriver { address: *address, driver: driver.clone(), found: link_name(&link) })
        }
        Step::AwaitNode { address } => {
            if until(machine, &format!("the node of {address}"), || vfio_node(roots, *address).is_some()) {
                return Ok(());
            }
            Err(StepError::NoNode { address: *address, directory: roots.dev.join("vfio") })
        }
        Step::Own { address, owner } => io(vfio_nodes(roots, *address).iter().try_for_each(|node| {
            let wanted = owner.applied_to(machine.ownership(node)?);
            machine.own(node, wanted)
        })),
        Step::OwnAs { node, ownership } => io(machine.own(node, *ownership)),
        Step::Persist { address, standing } => {
            let mut standing = standing.clone();
            if standing.record.serial_number.is_none() {
                let serial = machine.serial_number(*address).map_err(|error| StepError::NoSerialNumber {
                    address: *address,
                    reason: explain(&error),
                })?;
                standing.record.serial_number = Some(serial);
            }
            io(standing.save(roots, *address, machine))
        }
        Step::Unpersist { address } => io(Standing::remove(roots, *address, machine)),
    }
}

/// The nodes through which a program reaches a bound function, as far as they are there; the group's first.
pub(super) fn vfio_nodes(roots: &Roots, address: PciAddress) -> Vec<PathBuf> {
    let function = PciFunction::read(roots, address);
    let paths = function.map(|function| function.vfio_paths(roots)).unwrap_or_default();
    paths.into_iter().filter(|path| path.exists()).collect()
}

/// The first of them.
pub(super) fn vfio_node(roots: &Roots, address: PciAddress) -> Option<PathBuf> {
    vfio_nodes(roots, address).into_iter().next()
}

/// Waits until something is done; the result is whether it was before our patience ended.
pub(super) fn until(machine: &mut dyn Machine, what: &str, mut done: impl FnMut() -> bool) -> bool {
    let mut waited = Duration::ZERO;
    while !done() {
        if waited >= PATIENCE {
            return false;
        }
        if waited == SILENCE {
            machine.notice(&format!("waiting for {what} ..."));
        }
        machine.pause(POLL);
        waited += POLL;
    }
    true
}
