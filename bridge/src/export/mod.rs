//! Exports: namespaces of drives under a name, for those who may use them.
//!
//! What an export shows is an [`ExportView`], an immutable table of its namespaces that is replaced as a whole when the
//! namespaces of its drives change. Reactors and the control plane go by the same table, in both directions, wherever
//! an NSID occurs.

pub(crate) mod identifiers;
mod selection;
mod view;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use gangway_spec::fabrics::Nqn;

pub use self::identifiers::Identifiers;
pub use self::selection::{ExportError, Mapping, RemoveError, Selection};
pub(crate) use self::view::QueueNumbers;
use crate::admission::ExportView;
use crate::drive::Drive;
use crate::limits::{LimitBook, Limits};
use crate::policy::HostPolicies;
use crate::reactor::ReactorConfig;

/// Which hosts may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whoever reaches the address.
    AnyHost,
    /// These host NQNs. A name is no proof of identity: anyone who knows it can claim it.
    Hosts(BTreeSet<String>),
}

impl Access {
    /// Whether `host` may connect.
    pub fn allows(&self, host: &Nqn) -> bool {
        match self {
            Access::AnyHost => true,
            Access::Hosts(hosts) => hosts.contains(host.as_str()),
        }
    }
}

/// What is exported, and how.
#[derive(Clone, Debug)]
pub struct ExportConfig {
    /// The name of the subsystem.
    pub nqn: Nqn,
    /// Which namespaces it shows.
    pub namespaces: Selection,
    /// By what hosts tell them apart.
    pub identifiers: Identifiers,
    /// Who may connect.
    pub access: Access,
    /// Refuse every command that changes data.
    pub read_only: bool,
    /// I/O queues that one host may have at most.
    pub max_io_queues: u16,
    /// What hosts may do besides I/O.
    pub policies: HostPolicies,
    /// What hosts and namespaces may have in a second.
    pub limits: Limits,
}

/// What hosts can connect to.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    /// Another one after each change.
    pub(crate) generation: u64,
    pub(crate) exports: Arc<[Arc<Export>]>,
}

impl Default for Offer {
    fn default() -> Self {
        Self { generation: 1, exports: Arc::default() }
    }
}

/// Namespaces as they are exported.
#[derive(Debug)]
pub(crate) struct Export {
    /// Unique in the process, and never used again.
    pub(crate) index: usize,
    pub(crate) nqn: Nqn,
    /// The drives that it is about; the first is the primary.
    drives: Vec<Arc<Drive>>,
    selection: Selection,
    pub(crate) identifiers: Identifiers,
    pub(crate) access: Access,
    pub(crate) read_only: bool,
    pub(crate) max_io_queues: u16,
    pub(crate) policies: HostPolicies,
    pub(crate) limits: Arc<LimitBook>,
    /// Bytes that one command may transfer at most. Hosts are told once.
    max_transfer: u32,
    /// What it shows now.
    view: Mutex<Arc<ExportView>>,
}

impl Export {
    /// Exports namespaces of `drives`, which are all there are in the process.
    ///
    /// # Errors
    /// [`ExportError`] when it names what there is not.
    pub(crate) fn new(
        index: usize,
        config: ExportConfig,
        drives: &[Arc<Drive>],
        queues: &mut QueueNumbers,
        reactor: &ReactorConfig,
    ) -> Result<Self, ExportError> {
        let find = |index: usize| drives.iter().find(|drive| drive.index() == index);
        let name = |index: usize| find(index).map_or_else(String::new, |drive| drive.info().name.clone());
        config.namespaces.check(config.nqn.as_str(), name)?;
        let nqn = || config.nqn.to_string();
        let found =
            config.namespaces.drives().into_iter().map(|drive| {
                find(drive).cloned().ok_or_else(|| ExportError::NoSuchDrive { nqn: nqn(), drive })
            });
        let drives = found.collect::<Result<Vec<_>, _>>()?;
        if let Selection::Namespaces(mappings) = &config.namespaces {
            for Mapping { drive, drive_nsid, .. } in mappings {
                let Some(drive) = drives.iter().find(|found| found.index() == *drive) else { continue };
                check_namespace(config.nqn.as_str(), drive, *drive_nsid)?;
            }
        }
        let largest = drives.iter().map(|drive| drive.info().max_transfer).min().unwrap_or(u32::MAX);
        let export = Self {
            index,
            nqn: config.nqn,
            drives,
            selection: config.namespaces,
            identifiers: config.identifiers,
            access: config.access,
            read_only: config.read_only,
            max_io_queues: config.max_io_queues,
            policies: config.policies,
            limits: Arc::new(LimitBook::new(config.limits)),
            max_transfer: power_of_two_below(largest.min(reactor.max_transfer as u32)),
            view: Mutex::default(),
        };
        export.set_view(Arc::new(view::compute(&export, 1, queues)));
        Ok(export)
    }

    /// The drive that answers what is about the controller.
    pub(crate) fn primary(&self) -> &Arc<Drive> {
        &self.drives[0]
    }

    /// All its drives, the primary first.
    pub(crate) fn drives(&self) -> &[Arc<Drive>] {
        &self.drives
    }

    /// The drive of this index, if it is one of its drives.
    pub(crate) fn drive(&self, index: usize) -> Option<&Arc<Drive>> {
        self.drives.iter().find(|drive| drive.index() == index)
    }

    /// What it shows now.
    pub(crate) fn view(&self) -> Arc<ExportView> {
        Arc::clone(&self.view.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What it is to show, by the namespaces that its drives have now.
    pub(crate) fn next_view(&self, queues: &mut QueueNumbers) -> ExportView {
        view::compute(self, self.view().version + 1, queues)
    }

    /// Shows `view` from now on.
    pub(crate) fn set_view(&self, view: Arc<ExportView>) {
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }
}

/// Checks that a drive has a namespace that can be exported.
fn check_namespace(nqn: &str, drive: &Drive, drive_nsid: u32) -> Result<(), ExportError> {
    let (nqn, name) = (nqn.to_owned(), drive.info().name.clone());
    let namespaces = drive.namespaces();
    match namespaces.iter().find(|namespace| namespace.nsid == drive_nsid) {
        Some(namespace) if namespace.format.is_some() => Ok(()),
        Some(_) => Err(ExportError::NotCarried { nqn, drive: name, drive_nsid }),
        None => {
            let found = namespaces.iter().map(|namespace| namespace.nsid).collect();
            Err(ExportError::NoSuchNamespace { nqn, drive: name, drive_nsid, found })
        }
    }
}

/// MDTS can only say powers of two.
fn power_of_two_below(value: u32) -> u32 {
    1 << value.max(4096).ilog2()
}
