//! Exports: a drive under a name, for those who may use it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gangway_spec::fabrics::Nqn;
use gangway_spec::identify::Vwc;

use crate::admission::{ExportView, NamespaceView};
use crate::drive::{Drive, DriveInfo, DriveNamespace};
use crate::policy::HostPolicies;
use crate::reactor::ReactorConfig;
use crate::remote::FirmwareLock;

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

/// How a drive is exported.
#[derive(Clone, Debug)]
pub struct ExportConfig {
    /// The name of the subsystem.
    pub nqn: Nqn,
    /// Who may connect.
    pub access: Access,
    /// Refuse every command that changes data.
    pub read_only: bool,
    /// I/O queues that one host may have at most.
    pub max_io_queues: u16,
    /// What hosts may do besides I/O.
    pub policies: HostPolicies,
}

/// A drive as it is exported.
#[derive(Debug)]
pub(crate) struct Export {
    pub(crate) index: usize,
    pub(crate) nqn: Nqn,
    pub(crate) drive: Arc<Drive>,
    pub(crate) access: Access,
    pub(crate) read_only: bool,
    pub(crate) max_io_queues: u16,
    pub(crate) policies: HostPolicies,
    pub(crate) firmware: FirmwareLock,
    /// What it showed when it was made.
    pub(crate) view: Arc<ExportView>,
    /// Whether it shows every namespace of the drive, as it is now.
    whole: AtomicBool,
}

impl Export {
    /// Exports `drive`. `first_queue` is the number of its first software queue; there is one for each namespace.
    pub(crate) fn new(
        index: usize,
        config: ExportConfig,
        drive: Arc<Drive>,
        first_queue: usize,
        reactor: &ReactorConfig,
    ) -> Self {
        let view = Arc::new(view(drive.info(), drive.index(), &config, first_queue, reactor));
        let whole = AtomicBool::new(view.namespaces.len() == drive.info().namespaces.len());
        Self {
            index,
            nqn: config.nqn,
            access: config.access,
            read_only: config.read_only,
            max_io_queues: config.max_io_queues,
            policies: config.policies,
            firmware: FirmwareLock::default(),
            drive,
            view,
            whole,
        }
    }

    /// What it shows when the drive has these namespaces: those that are gone, or have another block format, are
    /// withdrawn until the drive is exported anew. New ones are not shown.
    pub(crate) fn view_with(&self, version: u64, namespaces: &[DriveNamespace]) -> ExportView {
        let mut view = ExportView { version, ..(*self.view).clone() };
        for shown in &mut view.namespaces {
            let now = namespaces.iter().find(|now| now.nsid == shown.drive_nsid);
            shown.withdrawn = now.and_then(|now| now.format) != Some(shown.format);
        }
        let whole =
            namespaces.len() == view.namespaces.len() && view.namespaces.iter().all(|shown| !shown.withdrawn);
        view.broadcast_flush &= whole;
        self.whole.store(whole, Ordering::Release);
        view
    }

    /// Whether namespace `nsid` is part of the export.
    pub(crate) fn shows(&self, nsid: u32) -> bool {
        self.view.namespaces.binary_search_by_key(&nsid, |namespace| namespace.nsid).is_ok()
    }

    /// Whether it shows every namespace of the drive.
    pub(crate) fn shows_whole_drive(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }

    /// Bytes that one command may transfer at most.
    pub(crate) fn max_transfer(&self) -> u32 {
        self.view.max_transfer
    }
}

fn view(
    info: &DriveInfo,
    drive: usize,
    config: &ExportConfig,
    first_queue: usize,
    reactor: &ReactorConfig,
) -> ExportView {
    let mut namespaces = Vec::new();
    for namespace in &info.namespaces {
        let Some(format) = namespace.format else {
            tracing::warn!(
                drive = %info.name,
                nsid = namespace.nsid,
                "the namespace is left out: its format or command set cannot be exported (metadata in a separate \
                 buffer, or not the NVM command set)"
            );
            continue;
        };
        namespaces.push(NamespaceView {
            nsid: namespace.nsid,
            drive,
            drive_nsid: namespace.nsid,
            queue: first_queue + namespaces.len(),
            format,
            read_only: config.read_only,
            withdrawn: false,
        });
    }
    namespaces.sort_by_key(|namespace| namespace.nsid);
    // A command to all namespaces would also reach those that are left out.
    let whole = namespaces.len() == info.namespaces.len();
    let flush_all = Vwc::from_bits_retain(info.identify.vwc).contains(Vwc::FLUSH_ALL);
    ExportView {
        version: 1,
        namespaces,
        broadcast_flush: whole && flush_all,
        max_transfer: power_of_two_below(info.max_transfer.min(reactor.max_transfer as u32)),
    }
}

/// MDTS can only say powers of two.
fn power_of_two_below(value: u32) -> u32 {
    1 << value.max(4096).ilog2()
}
