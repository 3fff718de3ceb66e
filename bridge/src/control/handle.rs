//! What a running target is asked, and what is changed while it runs.

use std::sync::{Arc, PoisonError, Weak};

use gangway_spec::fabrics::Nqn;

use super::{Shared, TargetError, Tasks, relay};
use crate::drive::Drive;
use crate::export::{ChangeError, ExportConfig, Mapping, RemoveError};
use crate::limits::{Limit, Subject};
use crate::status::{ExportUse, TargetStatus};

/// A running target, for whoever asks it or changes it. It does not keep the target alive.
#[derive(Clone)]
pub struct TargetHandle {
    pub(super) shared: Arc<Shared>,
    pub(super) tasks: Weak<Tasks>,
}

impl TargetHandle {
    /// What the target is doing.
    pub async fn status(&self) -> TargetStatus {
        self.shared.status().await
    }

    /// Which drives each export needs, and who uses it. Reactors are not asked.
    pub fn exports(&self) -> Vec<ExportUse> {
        self.shared.export_uses()
    }

    /// Limits a host or a namespace of the export of this name, or of all exports, from now on. Returns how many exports
    /// that are, once it is in force.
    pub async fn set_limit(&self, subsystem: Option<&Nqn>, subject: Subject, limit: Limit) -> usize {
        self.shared.set_limit(subsystem, &subject, limit).await
    }

    /// Serves one more drive, to be named by exports. Its [`Drive::index`] must be its own. One that is not taken is shut
    /// down.
    ///
    /// # Errors
    /// When it has fewer queue pairs than there are reactors, or does not create them, when there is a drive of this
    /// index, or one that has a namespace in common with it, or the target is ending.
    pub async fn add_drive(&self, drive: Drive) -> Result<(), TargetError> {
        // Before the drive is one of the target's: nobody would follow its changes.
        let Some(tasks) = self.tasks.upgrade() else {
            drive.shutdown().await;
            return Err(TargetError::Ended);
        };
        let drive = self.shared.add_drive(drive).await?;
        let (changes, events) = (drive.changes(), drive.events());
        let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of drives that are gone.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(relay::relay(Arc::clone(&self.shared), Arc::downgrade(&drive), events));
        tasks.spawn(Arc::clone(&self.shared).follow(drive, changes));
        Ok(())
    }

    /// Shuts a drive down that no export shows. Whether that was done in order, so that it kept all data that it had
    /// promised to keep.
    ///
    /// # Errors
    /// [`RemoveError::NoSuchDrive`], [`RemoveError::InUse`].
    pub async fn remove_drive(&self, index: usize) -> Result<bool, RemoveError> {
        self.shared.remove_drive(index).await
    }

    /// Shows one more export to hosts. Discovery controllers tell of it.
    ///
    /// # Errors
    /// [`ExportError`](crate::ExportError), as [`TargetError::Export`]; [`TargetError::Ended`].
    pub async fn add_export(&self, config: ExportConfig) -> Result<(), TargetError> {
        self.shared.add_export(config).await
    }

    /// Takes an export back: its hosts lose their connections, and find it gone when they connect again. Its drives stay.
    ///
    /// # Errors
    /// [`RemoveError::NoSuchExport`].
    pub async fn remove_export(&self, nqn: &Nqn) -> Result<(), RemoveError> {
        self.shared.remove_export(nqn).await
    }

    /// Shows more namespaces by an export that lists them. Its hosts are told, and go on meanwhile.
    ///
    /// # Errors
    /// [`ChangeError`]; then nothing has changed.
    pub async fn add_namespaces(&self, nqn: &Nqn, added: &[Mapping]) -> Result<(), ChangeError> {
        self.shared.add_namespaces(nqn, added).await
    }

    /// Takes namespaces, by the NSIDs that hosts know, out of an export that lists them. Its hosts are told; drives have
    /// completed what they had, or had 10 s for it, when this ends.
    ///
    /// # Errors
    /// [`ChangeError`]; then nothing has changed.
    pub async fn remove_namespaces(&self, nqn: &Nqn, removed: &[u32]) -> Result<(), ChangeError> {
        self.shared.remove_namespaces(nqn, removed).await
    }
}
