//! Namespaces that an export is given, or loses, while hosts use it.

use std::sync::Arc;

use gangway_spec::fabrics::Nqn;

use super::Shared;
use crate::drive::Drive;
use crate::events::Notice;
use crate::export::{ChangeError, Export, Mapping, Shown};

impl Shared {
    /// Shows more namespaces by an export that lists them. Its hosts are told.
    ///
    /// # Errors
    /// [`ChangeError`]; then nothing has changed.
    pub(super) async fn add_namespaces(&self, nqn: &Nqn, added: &[Mapping]) -> Result<(), ChangeError> {
        let mut numbers = self.catalogue.changing.lock().await;
        if numbers.ended {
            return Err(ChangeError::Ended);
        }
        let no_such = || ChangeError::NoSuchExport { nqn: nqn.to_string() };
        let export = self.export_named(nqn).ok_or_else(no_such)?;
        let shown = Arc::new(Shown::with(&export, added, &self.catalogue.drives())?);
        self.check_identifiers(&export, added)?;
        // Whoever finds a namespace finds its drive as well.
        export.set_shown(Arc::clone(&shown));
        let view = self.guarded(export.view_of(&shown, &mut numbers.queues));
        self.publish(export.index, &view).await;
        export.set_view(view);
        for Mapping { nsid, .. } in added {
            self.tell_hosts(export.index, Notice::NamespaceChanged(*nsid));
            tracing::info!(subsystem = %nqn, nsid, "a namespace was added to the export");
        }
        Ok(())
    }

    /// Takes namespaces, by the NSIDs that hosts know, out of an export that lists them. Its hosts are told, and what they
    /// had on drives is waited for.
    ///
    /// # Errors
    /// [`ChangeError`]; then nothing has changed.
    pub(super) async fn remove_namespaces(&self, nqn: &Nqn, removed: &[u32]) -> Result<(), ChangeError> {
        let export = {
            let mut numbers = self.catalogue.changing.lock().await;
            let no_such = || ChangeError::NoSuchExport { nqn: nqn.to_string() };
            let export = self.export_named(nqn).ok_or_else(no_such)?;
            let shown = Arc::new(Shown::without(&export, removed)?);
            let view = self.guarded(export.view_of(&shown, &mut numbers.queues));
            self.publish(export.index, &view).await;
            export.set_view(view);
            export.set_shown(shown);
            for nsid in removed {
                self.tell_hosts(export.index, Notice::NamespaceChanged(*nsid));
                tracing::info!(subsystem = %nqn, nsid, "a namespace was taken out of the export");
            }
            export
        };
        if !self.drain_export(&export).await {
            tracing::warn!(subsystem = %nqn, "drives still have commands to namespaces that are no longer in the export");
        }
        Ok(())
    }

    /// Checks that no host which is connected has an identifier that another host is registered with on a drive that joins:
    /// it would have that one's reservations.
    fn check_identifiers(&self, export: &Export, added: &[Mapping]) -> Result<(), ChangeError> {
        let all = self.catalogue.drives();
        let joining: Vec<Arc<Drive>> =
            all.iter().filter(|drive| added.iter().any(|one| one.drive == drive.index())).cloned().collect();
        for association in self.registry.of_export(export.index) {
            let host = &association.connect.host;
            if let Some(other) = self.reservations.other_name(&joining, association.host(), host) {
                let (nqn, host, other) = (export.nqn.to_string(), host.to_string(), other.to_string());
                return Err(ChangeError::SameHostIdentifier { nqn, host, other });
            }
        }
        Ok(())
    }
}
