//! The drives and exports of a target, and changes of what they show.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gangway_spec::aen::AsyncEvent;
use gangway_spec::fabrics::Nqn;
use tokio::sync::{Mutex as AsyncMutex, RwLock, mpsc};

use super::{FAREWELL, Shared, TargetError};
use crate::admission::{ExportView, NamespaceView};
use crate::association::Association;
use crate::drive::{Drive, DriveNamespace, NamespaceChange};
use crate::events::Notice;
use crate::export::{Export, ExportConfig, ExportError, Offer, QueueNumbers, RemoveError};
use crate::limits::{Limit, Subject};
use crate::reactor::{Message, Scope};
use crate::reservation::Key;
use crate::status::ExportUse;

/// What there is now. Lists are replaced as a whole, so that whoever reads one has it for as long as needed.
#[derive(Default)]
pub(super) struct Catalogue {
    lists: Mutex<Lists>,
    /// Held while something changes: changes follow each other.
    pub(super) changing: AsyncMutex<Numbers>,
    /// Shared by drives that come: what they take seconds for, other changes do not wait for.
    coming: RwLock<()>,
}

#[derive(Default)]
struct Lists {
    drives: Arc<[Arc<Drive>]>,
    /// Indices of drives that come or go.
    taken: BTreeSet<usize>,
    /// What hosts can connect to.
    offer: Offer,
}

/// Numbers that are given once.
#[derive(Default)]
pub(super) struct Numbers {
    next_export: usize,
    pub(super) queues: QueueNumbers,
    /// Nothing is added any more.
    pub(super) ended: bool,
}

impl Catalogue {
    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The drives.
    pub(super) fn drives(&self) -> Arc<[Arc<Drive>]> {
        Arc::clone(&self.lists().drives)
    }

    /// What hosts can connect to.
    pub(super) fn offer(&self) -> Offer {
        self.lists().offer.clone()
    }

    /// Has the index of a drive for itself, if nobody has it.
    fn take_index(&self, index: usize) -> Option<TakenIndex<'_>> {
        let mut lists = self.lists();
        let free = lists.drives.iter().all(|drive| drive.index() != index) && lists.taken.insert(index);
        // Not made where it is not free: it would give the index back.
        free.then(|| TakenIndex { catalogue: self, index })
    }

    /// Offers these exports from now on.
    fn set_exports(&self, exports: Arc<[Arc<Export>]>) {
        let mut lists = self.lists();
        lists.offer = Offer { generation: lists.offer.generation + 1, exports };
    }
}

/// The index of a drive that comes or goes, which no other can have meanwhile.
struct TakenIndex<'a> {
    catalogue: &'a Catalogue,
    index: usize,
}

impl Drop for TakenIndex<'_> {
    fn drop(&mut self) {
        self.catalogue.lists().taken.remove(&self.index);
    }
}

/// `list` with one more.
fn with<T: Clone>(list: &[T], one: T) -> Arc<[T]> {
    list.iter().cloned().chain([one]).collect()
}

/// Those of `list` that are to `stay`.
fn without<T: Clone>(list: &[T], stay: impl Fn(&T) -> bool) -> Arc<[T]> {
    list.iter().filter(|one| stay(one)).cloned().collect()
}

impl Shared {
    /// The exports that there are now.
    pub(crate) fn exports(&self) -> Arc<[Arc<Export>]> {
        self.catalogue.offer().exports
    }

    /// The export of this name.
    pub(super) fn export_named(&self, nqn: &Nqn) -> Option<Arc<Export>> {
        self.exports().iter().find(|export| export.nqn == *nqn).cloned()
    }

    /// Lets nothing be added from now on; what is being added has been when this ends.
    pub(super) async fn end_changes(&self) {
        self.catalogue.changing.lock().await.ended = true;
        drop(self.catalogue.coming.write().await);
    }

    /// Gives every reactor a queue pair of the drive. A drive that is refused is shut down.
    ///
    /// # Errors
    /// When it has too few, or does not create them, when there is a drive of its index, or when it is not known which of
    /// its namespaces are reserved.
    pub(super) async fn add_drive(&self, drive: Drive) -> Result<Arc<Drive>, TargetError> {
        let _coming = self.catalogue.coming.read().await;
        let index = drive.index();
        let Some(_index) = self.catalogue.take_index(index) else {
            // Not by dropping it, which would hold up all hosts until it has stopped.
            drive.shutdown().await;
            return Err(TargetError::SameDrive { index });
        };
        let drive = Arc::new(drive);
        if let Err(error) = self.take_up(&drive).await {
            drive.shutdown().await;
            self.forget_drive(index).await;
            return Err(error);
        }
        Ok(drive)
    }

    /// Makes a drive one of those that there are. What the drive is asked takes its time, which changes of others do not
    /// wait for.
    async fn take_up(&self, drive: &Arc<Drive>) -> Result<(), TargetError> {
        {
            let numbers = self.catalogue.changing.lock().await;
            self.check_drive(&numbers, drive)?;
        }
        drive.connect(self.reactors.clone()).await?;
        let numbers = self.catalogue.changing.lock().await;
        // There may be others by now.
        self.check_drive(&numbers, drive)?;
        let unknown = self.reservations.adopt(drive.index(), drive.info(), &drive.namespaces());
        if let Some((_, error)) = unknown.into_iter().next() {
            return Err(error.into());
        }
        drive.namespaces().iter().for_each(|namespace| note_if_left_out(drive, namespace));
        let mut lists = self.catalogue.lists();
        lists.drives = with(&lists.drives, Arc::clone(drive));
        Ok(())
    }

    /// Whether a drive can be one of those that there are.
    fn check_drive(&self, numbers: &Numbers, drive: &Drive) -> Result<(), TargetError> {
        if numbers.ended {
            return Err(TargetError::Ended);
        }
        for other in self.catalogue.drives().iter() {
            if let Some(nsid) = drive.shares_namespace_with(other) {
                let name = |drive: &Drive| drive.info().name.clone();
                return Err(TargetError::SameNamespace { drive: name(drive), other: name(other), nsid });
            }
        }
        Ok(())
    }

    /// Forgets a drive that was shut down: what it had is answered by now.
    async fn forget_drive(&self, index: usize) {
        self.tell_all(|done| Message::Unlink { drive: index, done }).await;
        self.reservations.forget(index);
    }

    /// Shows an export to hosts.
    ///
    /// # Errors
    /// When there is one of this name, or it names what there is not.
    pub(super) async fn add_export(&self, config: ExportConfig) -> Result<(), TargetError> {
        let mut numbers = self.catalogue.changing.lock().await;
        if numbers.ended {
            return Err(TargetError::Ended);
        }
        if self.export_named(&config.nqn).is_some() {
            return Err(ExportError::SameName { nqn: config.nqn.to_string() }.into());
        }
        let (index, drives) = (numbers.next_export, self.catalogue.drives());
        let export = Export::new(index, config, &drives, &mut numbers.queues, &self.reactor_config)?;
        numbers.next_export += 1;
        let view = self.guarded((*export.view()).clone());
        self.publish(index, &view).await;
        export.set_view(view);
        let export = Arc::new(export);
        self.catalogue.set_exports(with(&self.exports(), Arc::clone(&export)));
        self.tell_of_offer(&export);
        Ok(())
    }

    /// Takes an export back: its hosts lose their connections, and what they left on drives is waited for.
    ///
    /// # Errors
    /// When there is none of this name.
    pub(super) async fn remove_export(&self, nqn: &Nqn) -> Result<(), RemoveError> {
        let export = {
            let _changing = self.catalogue.changing.lock().await;
            let no_such = || RemoveError::NoSuchExport { nqn: nqn.to_string() };
            let export = self.export_named(nqn).ok_or_else(no_such)?;
            self.catalogue.set_exports(without(&self.exports(), |other| other.index != export.index));
            export
        };
        // Changes of other exports do not wait for this: managers of drives wait for those.
        for association in self.registry.of_export(export.index) {
            self.close(&association).await;
        }
        if !self.drain_export(&export).await {
            tracing::warn!(subsystem = %nqn, "drives still have commands of hosts of an export that is gone");
        }
        let _changing = self.catalogue.changing.lock().await;
        self.publish(export.index, &Arc::default()).await;
        self.tell_of_offer(&export);
        tracing::info!(subsystem = %nqn, "the export is taken back");
        Ok(())
    }

    /// Waits until drives have completed what hosts of an export have given by now, but not for ever. Whether they have.
    pub(super) async fn drain_export(&self, export: &Export) -> bool {
        tokio::time::timeout(FAREWELL, self.drain(Scope::Export(export.index))).await.is_ok()
    }

    /// Gives a drive up that no export shows: it is shut down. Whether that was done in order.
    ///
    /// # Errors
    /// When there is no such drive, or an export shows something of it.
    pub(super) async fn remove_drive(&self, index: usize) -> Result<bool, RemoveError> {
        let (drive, _index) = {
            let _changing = self.catalogue.changing.lock().await;
            let drives = self.catalogue.drives();
            let found = drives.iter().find(|drive| drive.index() == index);
            let drive = found.ok_or(RemoveError::NoSuchDrive { index })?;
            let users = without(&self.exports(), |export| export.drive(index).is_some());
            if let Some(export) = users.first() {
                let (drive, nqn) = (drive.info().name.clone(), export.nqn.to_string());
                return Err(RemoveError::InUse { drive, nqn });
            }
            self.catalogue.lists().drives = without(&drives, |drive| drive.index() != index);
            (Arc::clone(drive), self.catalogue.take_index(index))
        };
        let in_order = drive.shutdown().await;
        self.forget_drive(index).await;
        Ok(in_order)
    }

    /// Which drives each export needs, and who uses it.
    pub(super) fn export_uses(&self) -> Vec<ExportUse> {
        let host = |association: Arc<Association>| association.connect.host.clone();
        let all = self.exports();
        let each = all.iter().map(|export| ExportUse {
            nqn: export.nqn.clone(),
            drives: export.drives().iter().map(|drive| drive.index()).collect(),
            hosts: self.registry.of_export(export.index).into_iter().map(host).collect(),
        });
        each.collect()
    }

    /// Tells discovery controllers of a change that concerns their hosts (NVMe over Fabrics 1.1, 5.4).
    fn tell_of_offer(&self, export: &Export) {
        let concerned = |association: &&Arc<Association>| {
            association.export.is_none() && export.access.allows(&association.connect.host)
        };
        for association in self.registry.all().iter().filter(concerned) {
            association.tell(Notice::Event(AsyncEvent::DISCOVERY_LOG_CHANGE));
        }
    }

    /// Puts a view in force on all reactors, for the export of this index.
    pub(super) async fn publish(&self, index: usize, view: &Arc<ExportView>) {
        self.tell_all(|done| Message::Publish { export: index, view: Arc::clone(view), done }).await;
    }

    /// Changes a limit of the export of this name, or of all. Returns how many there are once it is in force.
    pub(super) async fn set_limit(&self, subsystem: Option<&Nqn>, subject: &Subject, limit: Limit) -> usize {
        let exports = self.exports();
        let concerned = exports.iter().filter(|export| subsystem.is_none_or(|nqn| export.nqn == *nqn));
        let mut count = 0;
        for export in concerned {
            count += 1;
            export.limits.set(subject.clone(), limit);
            let index = export.index;
            self.tell_all(|done| Message::Limit { export: index, done }).await;
            tracing::info!(target: "audit", subsystem = %export.nqn, %subject, %limit, "a limit changed");
        }
        count
    }

    /// `view`, with what keeps hosts from its namespaces.
    pub(super) fn guarded(&self, mut view: ExportView) -> Arc<ExportView> {
        let guard = |shown: &NamespaceView| {
            let guard = self.reservations.guard((shown.drive, shown.drive_nsid))?;
            Some((shown.nsid, guard))
        };
        view.guards = view.namespaces.iter().filter_map(guard).collect();
        Arc::new(view)
    }

    /// Has all reactors go by the reservation of a namespace as it is now.
    pub(super) async fn guard_views(&self, (drive, drive_nsid): Key) {
        let _changing = self.catalogue.changing.lock().await;
        for export in self.exports().iter() {
            let old = export.view();
            if old.remote_nsid(drive, drive_nsid).is_some() {
                let version = old.version + 1;
                let new = self.guarded(ExportView { version, ..(*old).clone() });
                self.publish(export.index, &new).await;
                export.set_view(new);
            }
        }
    }

    /// The exports that show a namespace, by their index, with the NSID that it has there.
    pub(super) fn exports_showing(&self, (drive, drive_nsid): Key) -> Vec<(usize, u32)> {
        let shown = |export: &Arc<Export>| {
            let nsid = export.view().remote_nsid(drive, drive_nsid)?;
            Some((export.index, nsid))
        };
        self.exports().iter().filter_map(shown).collect()
    }

    /// Puts changes of a drive's namespaces in force, until the drive has no more of them.
    pub(super) async fn follow(
        self: Arc<Self>,
        drive: Arc<Drive>,
        mut changes: mpsc::UnboundedReceiver<NamespaceChange>,
    ) {
        while let Some(NamespaceChange { namespaces, done }) = changes.recv().await {
            self.renew(&drive, namespaces).await;
            // The manager may have lost its patience.
            let _ = done.send(());
        }
    }

    /// Lets every export of a drive show its namespaces as they are now.
    async fn renew(&self, drive: &Arc<Drive>, mut namespaces: Arc<[DriveNamespace]>) {
        let mut numbers = self.catalogue.changing.lock().await;
        let unknown = self.reservations.adopt(drive.index(), drive.info(), &namespaces);
        for (nsid, error) in &unknown {
            tracing::error!(%error, drive = %drive.info().name, nsid, "the namespace is not shown: it is not known who may use it");
        }
        let mut hidden: BTreeSet<u32> = unknown.into_iter().map(|(nsid, _)| nsid).collect();
        hidden.extend(self.shown_by_others(drive, &namespaces));
        if !hidden.is_empty() {
            let mut known = namespaces.to_vec();
            for namespace in known.iter_mut().filter(|namespace| hidden.contains(&namespace.nsid)) {
                // It is there, and exports do not show it.
                namespace.format = None;
            }
            namespaces = known.into();
        }
        let before = drive.set_namespaces(Arc::clone(&namespaces));
        let changed = differences(&before, &namespaces);
        let is_changed = |namespace: &&DriveNamespace| changed.contains(&namespace.nsid);
        namespaces.iter().filter(is_changed).for_each(|namespace| note_if_left_out(drive, namespace));
        for export in self.exports().iter().filter(|export| export.drive(drive.index()).is_some()) {
            let (old, new) = (export.view(), self.guarded(export.next_view(&mut numbers.queues)));
            // No host sees a namespace before reactors know it.
            self.publish(export.index, &new).await;
            export.set_view(Arc::clone(&new));
            for drive_nsid in &changed {
                let shown = |view: &ExportView| view.remote_nsid(drive.index(), *drive_nsid);
                let Some(nsid) = shown(&new).or(shown(&old)) else { continue };
                let what = match (old.namespace(nsid), new.namespace(nsid)) {
                    (None, _) => "it is shown",
                    (_, None) => "it is gone",
                    (Some(was), Some(is)) if was.lives_on_in(is) => "it grew, or changed in detail",
                    _ => {
                        "it is another, or has another format; commands that were on their way to it are refused"
                    }
                };
                // Only now: what a host sees when it looks again must be what is in force.
                self.tell_hosts(export.index, Notice::NamespaceChanged(nsid));
                tracing::info!(subsystem = %export.nqn, nsid, drive = %drive.info().name, drive_nsid, "a namespace changed: {what}");
            }
        }
    }
}

impl Shared {
    /// Those of the namespaces that a drive has from now on which another drive has already, being another controller of
    /// its NVM subsystem: as [`TargetError::SameNamespace`].
    fn shown_by_others(&self, drive: &Drive, namespaces: &[DriveNamespace]) -> Vec<u32> {
        let mut shared = Vec::new();
        for other in self.catalogue.drives().iter().filter(|other| drive.is_of_subsystem_of(other)) {
            let theirs = other.namespaces();
            let both = |nsid: &u32| theirs.iter().any(|one| one.nsid == *nsid && one.format.is_some());
            for nsid in namespaces.iter().map(|one| one.nsid).filter(both) {
                tracing::error!(drive = %drive.info().name, other = %other.info().name, nsid, "the namespace is not shown: another controller of the same drive has it already");
                shared.push(nsid);
            }
        }
        shared
    }
}

fn note_if_left_out(drive: &Drive, namespace: &DriveNamespace) {
    if namespace.format.is_none() {
        tracing::warn!(
            drive = %drive.info().name,
            nsid = namespace.nsid,
            "the namespace cannot be exported: its metadata is in a separate buffer, its command set is unknown here, or its reservations cannot be read"
        );
    }
}

/// The NSIDs of namespaces that came, went, or are no longer what hosts were told.
fn differences(before: &[DriveNamespace], after: &[DriveNamespace]) -> Vec<u32> {
    let find = |all: &[DriveNamespace], nsid| all.iter().position(|one| one.nsid == nsid);
    let gone = before.iter().map(|one| one.nsid).filter(|nsid| find(after, *nsid).is_none());
    let other = after.iter().filter(|one| find(before, one.nsid).is_none_or(|at| !one.is_like(&before[at])));
    let mut all: Vec<u32> = gone.chain(other.map(|one| one.nsid)).collect();
    all.sort_unstable();
    all
}
