//! Exports: namespaces of drives under a name, for those who may use them.
//!
//! What an export shows is an [`ExportView`], an immutable table of its namespaces that is replaced as a whole when the
//! namespaces of its drives change. Reactors and the control plane go by the same table, in both directions, wherever
//! an NSID occurs.

pub(crate) mod identifiers;
mod selection;
mod shown;
mod view;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use gangway_spec::fabrics::Nqn;

pub use self::identifiers::Identifiers;
pub use self::selection::{ChangeError, ExportError, Mapping, RemoveError, Selection};
pub(crate) use self::shown::Shown;
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
    /// The drive that answers what is about the controller.
    primary: Arc<Drive>,
    /// What it names.
    shown: Mutex<Arc<Shown>>,
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
        let shown = Shown::new(&config.nqn, config.namespaces, drives)?;
        let largest = shown.drives.iter().map(|drive| drive.info().max_transfer).min().unwrap_or(u32::MAX);
        let export = Self {
            index,
            nqn: config.nqn,
            primary: Arc::clone(&shown.drives[0]),
            shown: Mutex::new(Arc::new(shown)),
            identifiers: config.identifiers,
            access: config.access,
            read_only: config.read_only,
            max_io_queues: config.max_io_queues,
            policies: config.policies,
            limits: Arc::new(LimitBook::new(config.limits)),
            max_transfer: power_of_two_below(largest.min(reactor.max_transfer as u32)),
            view: Mutex::default(),
        };
        export.set_view(Arc::new(view::compute(&export, &export.shown(), 1, queues)));
        Ok(export)
    }

    /// The drive that answers what is about the controller.
    pub(crate) fn primary(&self) -> &Arc<Drive> {
        &self.primary
    }

    /// What it names now.
    pub(crate) fn shown(&self) -> Arc<Shown> {
        Arc::clone(&self.shown.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Names something else from now on. What it shows is another matter: [`Export::set_view`].
    pub(crate) fn set_shown(&self, shown: Arc<Shown>) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
    }

    /// All its drives, the primary first.
    pub(crate) fn drives(&self) -> Arc<[Arc<Drive>]> {
        Arc::clone(&self.shown().drives)
    }

    /// The drive of this index, if it is one of its drives.
    pub(crate) fn drive(&self, index: usize) -> Option<Arc<Drive>> {
        self.shown().drive(index).cloned()
    }

    /// Bytes that one command may transfer at most.
    pub(crate) fn max_transfer(&self) -> u32 {
        self.max_transfer
    }

    /// What it shows now.
    pub(crate) fn view(&self) -> Arc<ExportView> {
        Arc::clone(&self.view.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What it is to show, by the namespaces that its drives have now.
    pub(crate) fn next_view(&self, queues: &mut QueueNumbers) -> ExportView {
        self.view_of(&self.shown(), queues)
    }

    /// What it would show if it named this.
    pub(crate) fn view_of(&self, shown: &Shown, queues: &mut QueueNumbers) -> ExportView {
        view::compute(self, shown, self.view().version + 1, queues)
    }

    /// Shows `view` from now on.
    pub(crate) fn set_view(&self, view: Arc<ExportView>) {
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }
}

/// MDTS can only say powers of two.
fn power_of_two_below(value: u32) -> u32 {
    1 << value.max(4096).ilog2()
}
