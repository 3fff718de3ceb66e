//! What an export names: namespaces, and the drives that they are of. It may change while hosts are connected.

use std::sync::Arc;

use gangway_spec::fabrics::Nqn;
use gangway_spec::identify::csi;

use super::{ChangeError, Export, ExportError, Mapping, Selection};
use crate::drive::Drive;
use crate::remote::keeps_promises;

/// What an export names.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(super) selection: Selection,
    /// The drives that it is about; the first is the primary.
    pub(super) drives: Arc<[Arc<Drive>]>,
}

impl Shown {
    /// `drives` are all there are in the process.
    ///
    /// # Errors
    /// [`ExportError`] when something is named that there is not.
    pub(super) fn new(nqn: &Nqn, selection: Selection, drives: &[Arc<Drive>]) -> Result<Self, ExportError> {
        let shown = Self::naming(nqn, selection, drives)?;
        shown.check_namespaces(nqn, shown.mappings())?;
        Ok(shown)
    }

    /// As [`Shown::new`], of namespaces that may be away, as those of a drive that was pulled out are.
    fn naming(nqn: &Nqn, selection: Selection, drives: &[Arc<Drive>]) -> Result<Self, ExportError> {
        let find = |index: usize| drives.iter().find(|drive| drive.index() == index);
        let name = |index: usize| find(index).map_or_else(String::new, |drive| drive.info().name.clone());
        selection.check(nqn.as_str(), name)?;
        let found = selection.drives().into_iter().map(|drive| {
            find(drive).cloned().ok_or_else(|| ExportError::NoSuchDrive { nqn: nqn.to_string(), drive })
        });
        let drives = found.collect::<Result<Arc<[_]>, _>>()?;
        Ok(Self { selection, drives })
    }

    /// Checks that drives have these of its namespaces.
    fn check_namespaces(&self, nqn: &Nqn, mappings: &[Mapping]) -> Result<(), ExportError> {
        for Mapping { drive, drive_nsid, .. } in mappings {
            if let Some(drive) = self.drive(*drive) {
                check_namespace(nqn.as_str(), drive, *drive_nsid)?;
            }
        }
        Ok(())
    }

    /// The drive of this index, if it is about it.
    pub(crate) fn drive(&self, index: usize) -> Option<&Arc<Drive>> {
        self.drives.iter().find(|drive| drive.index() == index)
    }

    /// The namespaces that it lists.
    fn mappings(&self) -> &[Mapping] {
        match &self.selection {
            Selection::Drive(_) => &[],
            Selection::Namespaces(mappings) => mappings,
        }
    }

    /// What it lists, which a whole drive does not.
    fn listed(&self, nqn: &Nqn) -> Result<&[Mapping], ChangeError> {
        match &self.selection {
            Selection::Drive(_) => Err(ChangeError::WholeDrive { nqn: nqn.to_string() }),
            Selection::Namespaces(mappings) => Ok(mappings),
        }
    }

    /// What `export` names with these namespaces as well. `drives` are all there are in the process.
    ///
    /// # Errors
    /// [`ChangeError`]: when they cannot be shown, or not by what connected hosts were told.
    pub(crate) fn with(
        export: &Export,
        added: &[Mapping],
        drives: &[Arc<Drive>],
    ) -> Result<Self, ChangeError> {
        let (before, nqn) = (export.shown(), &export.nqn);
        let all = before.listed(nqn)?.iter().chain(added).copied().collect();
        let after = Self::naming(nqn, Selection::Namespaces(all), drives)?;
        after.check_namespaces(nqn, added)?;
        let joining = after.drives.iter().filter(|drive| before.drive(drive.index()).is_none());
        for drive in joining {
            if drive.info().max_transfer < export.max_transfer() || !keeps_promises(export, drive) {
                let drive = drive.info().name.clone();
                return Err(ChangeError::PromisesLess { nqn: nqn.to_string(), drive });
            }
        }
        let longest_append = longest_append(export);
        for Mapping { drive, drive_nsid, .. } in added {
            let Some(drive) = after.drive(*drive) else { continue };
            let namespaces = drive.namespaces();
            let one = namespaces.iter().find(|namespace| namespace.nsid == *drive_nsid);
            if one.is_some_and(|one| one.csi == csi::ZONED_NAMESPACE && one.zones.append < longest_append) {
                let drive = drive.info().name.clone();
                return Err(ChangeError::PromisesLess { nqn: nqn.to_string(), drive });
            }
        }
        Ok(after)
    }

    /// What `export` names without the namespaces that hosts know by these numbers.
    ///
    /// # Errors
    /// [`ChangeError`]: when there are none, or hosts would be left without the drive that answers what is about their
    /// controller.
    pub(crate) fn without(export: &Export, removed: &[u32]) -> Result<Self, ChangeError> {
        let (before, nqn) = (export.shown(), &export.nqn);
        let listed = before.listed(nqn)?;
        if let Some(nsid) = removed.iter().find(|nsid| listed.iter().all(|one| one.nsid != **nsid)) {
            let found = listed.iter().map(|one| one.nsid).collect();
            return Err(ChangeError::NotShown { nqn: nqn.to_string(), nsid: *nsid, found });
        }
        let mut left: Vec<Mapping> = listed.to_vec();
        left.retain(|one| !removed.contains(&one.nsid));
        let primary = export.primary();
        // The drive of the first one is the primary.
        let Some(first) = left.iter().position(|one| one.drive == primary.index()) else {
            let drive = primary.info().name.clone();
            return Err(ChangeError::LastOfPrimary { nqn: nqn.to_string(), drive });
        };
        left[..=first].rotate_right(1);
        Ok(Self::naming(nqn, Selection::Namespaces(left), &before.drives)?)
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

/// Bytes that a Zone Append may have, as hosts of an export were told: what the least of its namespaces takes, or as much
/// as any command transfers.
fn longest_append(export: &Export) -> u32 {
    let view = export.view();
    let zoned = view.namespaces.iter().filter(|one| one.csi == csi::ZONED_NAMESPACE);
    zoned.map(|one| one.zones.append).fold(export.max_transfer(), u32::min)
}
