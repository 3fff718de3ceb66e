//! What an export shows, computed from the namespaces that its drives have now.

use std::collections::HashMap;
use std::sync::Arc;

use gangway_spec::identify::Vwc;

use super::{Export, Identifiers, Mapping, Selection, Shown, identifiers};
use crate::admission::{ExportView, NamespaceIds, NamespaceView};
use crate::drive::{Drive, DriveNamespace};

/// Numbers of the software queues: one for each namespace of a drive that was ever shown, whoever shows it, and one for each
/// drive of an export. A namespace that is made later with the same NSID gets the same number, so there are no more than
/// drives have NSIDs.
#[derive(Debug, Default)]
pub(crate) struct QueueNumbers(HashMap<Line, usize>);

/// Who waits in a software queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Line {
    /// Commands to one namespace, by drive and NSID there.
    Namespace(usize, u32),
    /// Commands that reach several namespaces which an export shows of a drive.
    Several { export: usize, drive: usize },
}

impl QueueNumbers {
    fn of(&mut self, line: Line) -> usize {
        let next = self.0.len();
        *self.0.entry(line).or_insert(next)
    }
}

/// What `export` shows by now when it names `shown`.
pub(super) fn compute(export: &Export, shown: &Shown, version: u64, queues: &mut QueueNumbers) -> ExportView {
    let mut namespaces = Vec::new();
    let mut show = |drive: &Drive, namespace: &DriveNamespace, nsid: u32| {
        let Some(format) = namespace.format else { return };
        let derived = (export.identifiers == Identifiers::Derived)
            .then(|| identifiers::derive(&export.nqn, drive.info(), namespace));
        namespaces.push(NamespaceView {
            nsid,
            drive: drive.index(),
            drive_nsid: namespace.nsid,
            queue: queues.of(Line::Namespace(drive.index(), namespace.nsid)),
            across: queues.of(Line::Several { export: export.index, drive: drive.index() }),
            csi: namespace.csi,
            format,
            blocks: namespace.identify.nsze.get(),
            zones: namespace.zones,
            ids: NamespaceIds { derived, ..namespace.ids() },
            read_only: export.read_only,
        });
    };
    let mut nn = 0;
    match &shown.selection {
        Selection::Drive(_) => {
            let primary = export.primary();
            nn = primary.info().identify.nn.get();
            primary.namespaces().iter().for_each(|namespace| show(primary, namespace, namespace.nsid));
        }
        Selection::Namespaces(mappings) => {
            for Mapping { nsid, drive, drive_nsid } in mappings {
                nn = nn.max(*nsid);
                let Some(drive) = shown.drive(*drive) else { continue };
                let all = drive.namespaces();
                if let Some(namespace) = all.iter().find(|namespace| namespace.nsid == *drive_nsid) {
                    show(drive, namespace, *nsid);
                }
            }
        }
    }
    namespaces.sort_by_key(|namespace| namespace.nsid);
    // What is about a whole drive may only reach those who see all of it, and who see no more than that drive.
    // A list of namespaces is never that: what the drive has besides may be detached only for now.
    let whole = matches!(shown.selection, Selection::Drive(_))
        && namespaces.len() == export.primary().namespaces().len();
    let flush_all = Vwc::from_bits_retain(export.primary().info().identify.vwc).contains(Vwc::FLUSH_ALL);
    let formats = shown.drives.iter().map(|drive| drive.info().identify.ocfs.get());
    ExportView {
        version,
        namespaces,
        whole,
        nn,
        broadcast_flush: whole && flush_all,
        max_transfer: export.max_transfer(),
        copy_formats: formats.reduce(|all, of_one| all & of_one).unwrap_or(0),
        limits: Arc::clone(&export.limits),
        guards: Vec::new(),
    }
}
