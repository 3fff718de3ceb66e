//! What is to be served: drives, and what hosts are to see of them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, bail};
use gangway_bridge::{Access, DriveInfo, ExportConfig, Identifiers, Selection};
use gangway_driver::address::DeviceAddress;
use gangway_spec::fabrics::Nqn;

use super::drives::{check_together, default_nqn, describe, known};
use super::exports::{ExportArg, Named};
use super::terms::Terms;

/// I/O queues that one host may have at most.
const MAX_IO_QUEUES: u16 = 64;

/// Drives to be served, and on what terms.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) devices: Vec<DeviceAddress>,
    pub(crate) terms: Terms,
}

/// Numbers of drives in the process. One that is given back is given again: what reactors keep by number stays small.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers(Arc<Mutex<BTreeSet<usize>>>);

impl Numbers {
    /// The smallest that nobody has.
    pub(super) fn take(&self) -> Arc<Number> {
        let mut taken = self.taken();
        let index = (0..).find(|index| !taken.contains(index)).unwrap_or(usize::MAX);
        taken.insert(index);
        Arc::new(Number { all: self.clone(), index })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of a drive, as long as somebody has it.
#[derive(Debug)]
pub(super) struct Number {
    all: Numbers,
    index: usize,
}

impl Number {
    pub(super) fn index(&self) -> usize {
        self.index
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        self.all.taken().remove(&self.index);
    }
}

/// A drive of the process.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) number: Arc<Number>,
    pub(super) device: DeviceAddress,
    pub(super) info: Arc<DriveInfo>,
}

impl Member {
    /// [`Drive::index`](gangway_bridge::Drive::index).
    pub(super) fn index(&self) -> usize {
        self.number.index()
    }

    /// How exports name it. `place`: on the command line, if it stands there.
    pub(super) fn named(&self, place: Option<usize>) -> Named {
        Named { index: self.index(), device: self.device.clone(), known: Some(known(&self.info)), place }
    }
}

/// How exports name drives: those of a command line, by their places as well, and those that were there before.
pub(super) fn named(started: &[Member], present: &[Member]) -> Vec<Named> {
    let started = started.iter().enumerate().map(|(at, member)| member.named(Some(at + 1)));
    started.chain(present.iter().map(|member| member.named(None))).collect()
}

impl Wanted {
    /// Checks what can be checked before drives are started. `present` are drives that are served already.
    ///
    /// # Errors
    /// What is wrong with what is wanted.
    pub(super) fn check(&self, present: &[Member], addresses: &[SocketAddr]) -> anyhow::Result<Access> {
        self.terms.check_names(self.devices.len())?;
        self.check_devices(present)?;
        self.check_exports(present)?;
        self.terms.check(addresses)
    }

    /// Devices that cannot be served beside each other.
    pub(super) fn check_devices(&self, present: &[Member]) -> anyhow::Result<()> {
        for member in present {
            let again = |device: &&DeviceAddress| **device == member.device;
            if let Some(device) = self.devices.iter().find(again)
                && !matches!(device, DeviceAddress::Emulated(_))
            {
                bail!("{device} is served already; `gangway status` shows by which exports");
            }
        }
        check_together(self.devices.iter().chain(present.iter().map(|member| &member.device)))
    }

    /// Exports that name no drive there can be, and drives that none of them names.
    pub(super) fn check_exports(&self, present: &[Member]) -> anyhow::Result<()> {
        if self.terms.export.is_empty() {
            return Ok(());
        }
        let drives = self.named_before(present);
        let mut used = Vec::new();
        for export in &self.terms.export {
            used.extend(export.drives(&drives)?);
        }
        self.check_used(&used, "--export")
    }

    /// How drives can be named before those that are to be started are known: by place and address alone.
    pub(super) fn named_before(&self, present: &[Member]) -> Vec<Named> {
        let unknown = |(at, device): (usize, &DeviceAddress)| Named {
            index: usize::MAX - at,
            device: device.clone(),
            known: None,
            place: Some(at + 1),
        };
        let unknown = self.devices.iter().enumerate().map(unknown);
        unknown.chain(present.iter().map(|member| member.named(None))).collect()
    }

    /// Drives to be started that no `option` names, by what [`Wanted::named_before`] calls them. One may be named by its
    /// serial number, which is not known yet.
    pub(super) fn check_used(&self, used: &[Option<usize>], option: &str) -> anyhow::Result<()> {
        let unused = (0..self.devices.len()).find(|at| !used.contains(&Some(usize::MAX - at)));
        match unused {
            Some(at) if !used.contains(&None) => bail!("{}: no {option} names it", self.devices[at]),
            _ => Ok(()),
        }
    }

    /// What is to be exported: what --export says, or each drive that was started under a name of its own.
    ///
    /// # Errors
    /// An export names a drive that there is not, or a drive has no name.
    pub(super) fn exports(
        &self,
        started: &[Member],
        present: &[Member],
        access: &Access,
    ) -> anyhow::Result<Vec<ExportConfig>> {
        let terms = &self.terms;
        let config = |nqn, namespaces, export: Option<&ExportArg>| {
            let says = |what: fn(&ExportArg) -> bool| export.is_some_and(what);
            let derive_ids = terms.derive_ids || says(|export| export.derive_ids);
            let hosts = export.map(|export| &export.hosts).filter(|hosts| !hosts.is_empty());
            anyhow::Ok(ExportConfig {
                nqn,
                namespaces,
                identifiers: if derive_ids { Identifiers::Derived } else { Identifiers::Own },
                access: hosts.map_or_else(|| access.clone(), |hosts| Access::Hosts(hosts.clone())),
                policies: terms.policies(export)?,
                limits: terms.limits(),
                read_only: terms.read_only || says(|export| export.read_only),
                max_io_queues: MAX_IO_QUEUES,
            })
        };
        if terms.export.is_empty() {
            let each = started.iter().enumerate().map(|(at, member)| {
                let nqn = terms.nqn.get(at).cloned().map_or_else(|| default_nqn(&member.info), Ok)?;
                config(nqn, Selection::Drive(member.index()), None)
            });
            return each.collect();
        }
        let drives = named(started, present);
        let mut used = Vec::new();
        for export in &terms.export {
            used.extend(export.drives(&drives)?);
        }
        if let Some(unused) = started.iter().find(|member| !used.contains(&Some(member.index()))) {
            bail!("{}: no --export names it", unused.device);
        }
        let each = terms.export.iter().map(|export| {
            let namespaces =
                export.selection(&drives).with_context(|| format!("--export nqn={}", export.nqn))?;
            config(export.nqn.clone(), namespaces, Some(export))
        });
        each.collect()
    }
}

/// What is said of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) nqn: Nqn,
    pub(super) what: String,
}

impl Line {
    /// `members`: all drives of the process.
    pub(super) fn of(export: &ExportConfig, members: &[&Member]) -> Self {
        let find = |index: usize| members.iter().find(|member| member.index() == index);
        let mut what = match &export.namespaces {
            Selection::Drive(drive) => find(*drive).map_or_else(String::new, |drive| describe(&drive.info)),
            Selection::Namespaces(mappings) => {
                let each = mappings.iter().map(|one| {
                    let drive = find(one.drive).map_or("", |drive| drive.info.name.as_str());
                    format!("namespace {} is {} of {drive}", one.nsid, one.drive_nsid)
                });
                each.collect::<Vec<_>>().join(", ")
            }
        };
        if export.read_only {
            what.push_str(", read-only");
        }
        Self { nqn: export.nqn.clone(), what }
    }
}
