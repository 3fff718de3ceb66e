//! The reservations of all namespaces in the process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gangway_spec::command::{NSID_BROADCAST, SubmissionQueueEntry};
use gangway_spec::fabrics::Nqn;
use gangway_spec::reservation::Rescap;
use tokio::sync::Mutex as AsyncMutex;

use super::access::{Group, Guard};
use super::state::{Host, Namespace};
use super::store::{Identity, StateError, Store};
use crate::admission::NamespaceIds;
use crate::drive::{Drive, DriveInfo, DriveNamespace};
use crate::remote::reach::Reach;

/// Commands that may wait for their turn at a namespace. Those of hosts that have gone are among them.
const MOST_WAITING: usize = 4096;

/// A namespace of a drive: the index of the drive, and the NSID that it has there.
pub(crate) type Key = (usize, u32);

/// What hosts have agreed on about each namespace.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    store: Option<Store>,
    namespaces: Mutex<BTreeMap<Key, Arc<Entry>>>,
}

/// One namespace.
#[derive(Debug)]
pub(crate) struct Entry {
    identity: Identity,
    /// Held while it is changed: commands follow each other.
    pub(crate) turn: AsyncMutex<()>,
    waiting: AtomicUsize,
    /// Deletions of which it is not known yet whether they were done.
    doubts: AtomicUsize,
    current: Mutex<Current>,
}

#[derive(Debug, Default)]
struct Current {
    namespace: Namespace,
    guard: Option<Arc<Guard>>,
}

impl Current {
    fn of(namespace: Namespace) -> Self {
        let guard = Guard::of(&namespace).map(Arc::new);
        Self { namespace, guard }
    }
}

impl Reservations {
    /// Keeps what persists in `store`; without one nothing does.
    pub(crate) fn new(store: Option<Store>) -> Self {
        Self { store, namespaces: Mutex::default() }
    }

    fn namespaces(&self) -> MutexGuard<'_, BTreeMap<Key, Arc<Entry>>> {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether reservations can survive a restart.
    pub(crate) fn can_persist(&self) -> bool {
        self.store.is_some()
    }

    /// What namespaces can do about reservations.
    pub(crate) fn capabilities(&self) -> Rescap {
        let mut all = Rescap::all();
        all.set(Rescap::PERSIST_THROUGH_POWER_LOSS, self.can_persist());
        all
    }

    /// A drive has these namespaces now. What was agreed on, or was kept, about one that comes back is in force again: a
    /// drive may have been away, or the namespace detached. Nothing is in force for another that has its NSID.
    ///
    /// Gives the namespaces of which something was kept that cannot be known: nobody may use those.
    pub(crate) fn adopt(
        &self,
        drive: usize,
        info: &DriveInfo,
        found: &[DriveNamespace],
    ) -> Vec<(u32, StateError)> {
        let identities: Vec<Identity> =
            found.iter().map(|one| Identity::of(info, one.nsid, one.ids())).collect();
        let mut namespaces = self.namespaces();
        let mut unknown = Vec::new();
        for identity in identities {
            let key = (drive, identity.nsid);
            if namespaces.get(&key).is_some_and(|entry| entry.identity == identity) {
                continue;
            }
            match self.store.as_ref().map_or(Ok(None), |store| store.load(&identity)) {
                Ok(kept) => {
                    if let Some(held) = kept.as_ref().and_then(Namespace::held) {
                        tracing::info!(drive = %info.name, nsid = key.1, kind = %held.kind, "the namespace is reserved from before");
                    }
                    let entry = Entry::new(identity, kept.unwrap_or_default());
                    namespaces.insert(key, Arc::new(entry));
                }
                Err(error) => {
                    // What was there under this NSID was another.
                    namespaces.remove(&key);
                    unknown.push((key.1, error));
                }
            }
        }
        unknown
    }

    /// A drive is no longer there. What is kept of its namespaces is in force when it is added again.
    pub(crate) fn forget(&self, drive: usize) {
        self.namespaces().retain(|(of, _), _| *of != drive);
    }

    /// What is known about the namespaces that a command with this NSID is about.
    pub(crate) fn named(&self, drive: usize, nsid: u32) -> Vec<(Key, Arc<Entry>)> {
        let named = |key: &Key| key.0 == drive && (nsid == NSID_BROADCAST || key.1 == nsid);
        let namespaces = self.namespaces();
        namespaces
            .iter()
            .filter(|(key, _)| named(key))
            .map(|(key, entry)| (*key, Arc::clone(entry)))
            .collect()
    }

    /// A namespace was deleted: nothing of it passes to one that has its NSID, which may be there by now. `entry` is what
    /// was known about it, of which the caller has the turn.
    ///
    /// # Errors
    /// [`StateError::Write`]; then its file is still there.
    pub(crate) async fn end(&self, key: Key, entry: &Arc<Entry>) -> Result<(), StateError> {
        if !self.has(key, entry) {
            // Another is known to be there.
            return Ok(());
        }
        let blank = Entry::new(entry.identity.clone(), Namespace::default());
        self.namespaces().insert(key, Arc::new(blank));
        if entry.namespace().persists() { self.keep(entry, &Namespace::default()).await } else { Ok(()) }
    }

    /// A namespace was made. Nothing passes to it of what was known, or is kept, about one that had its NSID: that is gone,
    /// whether its deletion was seen or not.
    ///
    /// # Errors
    /// [`StateError::Write`]; then the file of the other is still there.
    pub(crate) async fn begin(&self, drive: usize, info: &DriveInfo, nsid: u32) -> Result<(), StateError> {
        let key = (drive, nsid);
        if let Some(entry) = self.entry(key) {
            let _turn = entry.turn.lock().await;
            self.namespaces().remove(&key);
        }
        let named = Identity::of(info, nsid, NamespaceIds::default());
        self.save(named, Namespace::default()).await
    }

    /// The name of another host that is a registrant, on one of these drives, under a host identifier.
    pub(crate) fn other_name(&self, drives: &[Arc<Drive>], host: Host, name: &Nqn) -> Option<Nqn> {
        let concerned = |key: &Key| drives.iter().any(|drive| drive.index() == key.0);
        let namespaces = self.namespaces();
        let entries = namespaces.iter().filter(|(key, _)| concerned(key)).map(|(_, entry)| entry.current());
        let mut names = entries.filter_map(|current| current.namespace.name(host).cloned());
        names.find(|other| other != name)
    }

    /// What is known about a namespace; `None` when there is no such namespace.
    pub(crate) fn entry(&self, key: Key) -> Option<Arc<Entry>> {
        self.namespaces().get(&key).cloned()
    }

    /// Whether what is known about a namespace is this.
    pub(crate) fn has(&self, key: Key, entry: &Arc<Entry>) -> bool {
        self.namespaces().get(&key).is_some_and(|now| Arc::ptr_eq(now, entry))
    }

    /// What keeps hosts from a namespace, if it is reserved.
    pub(crate) fn guard(&self, key: Key) -> Option<Arc<Guard>> {
        self.entry(key).and_then(|entry| entry.guard())
    }

    /// Whether `host` may give this admin command, with the NSID that the drive knows, to a drive. `fna`: what the drive
    /// says of Format NVM.
    pub(crate) fn permit_admin(
        &self,
        host: Host,
        (drive, fna): (usize, u8),
        entry: &SubmissionQueueEntry,
    ) -> bool {
        let group = Group::of_admin(entry.opcode);
        if group == Group::Free {
            return true;
        }
        let nsid = entry.nsid.get();
        let all = nsid == NSID_BROADCAST || Reach::of(entry, true, fna) == Reach::Drive;
        let concerned = |key: &Key| key.0 == drive && (all || key.1 == nsid);
        self.namespaces()
            .iter()
            // Also those that are detached: they are as lost by a Sanitize as the others.
            .filter(|(key, _)| concerned(key))
            .all(|(_, entry)| entry.guard().is_none_or(|guard| guard.permits(host, group)))
    }

    /// Keeps what a namespace is about to become. It takes as long as a disk does.
    ///
    /// # Errors
    /// [`StateError::Write`]; then what was kept before is kept still.
    pub(crate) async fn keep(&self, entry: &Entry, namespace: &Namespace) -> Result<(), StateError> {
        self.save(entry.identity.clone(), namespace.clone()).await
    }

    async fn save(&self, identity: Identity, namespace: Namespace) -> Result<(), StateError> {
        let Some(store) = self.store.clone() else { return Ok(()) };
        let saved = tokio::task::spawn_blocking(move || store.save(&identity, &namespace));
        saved.await.unwrap_or_else(|error| Err(StateError::Interrupted(error.to_string())))
    }
}

impl Identity {
    fn of(info: &DriveInfo, nsid: u32, ids: NamespaceIds) -> Self {
        Self {
            model: info.identify.model().into_owned(),
            serial: info.identify.serial().into_owned(),
            nsid,
            nguid: u128::from_be_bytes(ids.nguid),
            eui64: u64::from_be_bytes(ids.eui64).into(),
            uuid: u128::from_be_bytes(ids.uuid),
        }
    }
}

/// A command that waits for its turn, or has it.
pub(crate) struct Waiting<'a>(&'a Entry);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Entry {
    fn new(identity: Identity, namespace: Namespace) -> Self {
        Self {
            identity,
            turn: AsyncMutex::default(),
            waiting: AtomicUsize::new(0),
            doubts: AtomicUsize::new(0),
            current: Mutex::new(Current::of(namespace)),
        }
    }

    /// Lets one more command wait; `None` when there are as many as there may be.
    pub(crate) fn wait(&self) -> Option<Waiting<'_>> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(self);
        (before < MOST_WAITING).then_some(waiting)
    }

    /// Notes that it is not known whether the namespace is there. Whether that was known before: then somebody has to find
    /// out.
    pub(crate) fn doubt(&self) -> bool {
        self.doubts.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// How often that was noted since it was known.
    pub(crate) fn doubts(&self) -> usize {
        self.doubts.load(Ordering::Relaxed)
    }

    /// Notes that it is there. False when there were more doubts than these: then it is not known.
    pub(crate) fn settle(&self, doubts: usize) -> bool {
        self.doubts.compare_exchange(doubts, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the namespace is now.
    pub(crate) fn namespace(&self) -> Namespace {
        self.current().namespace.clone()
    }

    /// What keeps hosts from it.
    pub(crate) fn guard(&self) -> Option<Arc<Guard>> {
        self.current().guard.clone()
    }

    /// Makes it what it is from now on. Whether others may do what they may was changed by it.
    pub(crate) fn set(&self, namespace: Namespace) -> bool {
        let mut current = self.current();
        let before = std::mem::replace(&mut *current, Current::of(namespace));
        if before.guard == current.guard {
            // Views share it with what is here.
            current.guard = before.guard;
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use gangway_spec::opcode::admin;
    use gangway_spec::reservation::ReservationType;

    use super::super::state::Held;
    use super::*;

    const DRIVE: usize = 4;
    const HOLDER: Host = 1;
    const OTHER: Host = 2;

    fn info() -> DriveInfo {
        DriveInfo {
            name: "drive".to_owned(),
            identify: Box::default(),
            capabilities: Default::default(),
            version: gangway_spec::registers::Version::V2_0,
            namespaces: Vec::new(),
            max_transfer: 4096,
            nvm_limits: None,
        }
    }

    fn namespace(nsid: u32, nguid: u8) -> DriveNamespace {
        let mut identify = Box::<gangway_spec::IdentifyNamespace>::default();
        identify.nguid = [nguid; 16];
        DriveNamespace { nsid, csi: 0, identify, uuid: [0; 16], format: None, zones: Default::default() }
    }

    fn reserved() -> Namespace {
        Namespace {
            registrants: [(HOLDER, 1)].into(),
            held: Some(Held { kind: ReservationType::ExclusiveAccess, holder: Some(HOLDER) }),
            persists: true,
            ..Namespace::default()
        }
    }

    fn has(reservations: &Reservations, found: &[DriveNamespace]) {
        assert!(reservations.adopt(DRIVE, &info(), found).is_empty());
    }

    fn permits(reservations: &Reservations, host: Host, opcode: u8, nsid: u32) -> bool {
        let mut entry = SubmissionQueueEntry::new(opcode);
        entry.nsid.set(nsid);
        reservations.permit_admin(host, (DRIVE, 0), &entry)
    }

    #[test]
    fn a_reservation_outlasts_a_drive_that_is_away_and_does_not_pass_to_another_namespace() {
        let reservations = Reservations::default();
        has(&reservations, &[namespace(1, 7), namespace(2, 8)]);
        let entry = reservations.entry((DRIVE, 1)).unwrap();
        assert!(entry.set(reserved()) && !entry.set(reserved()), "the same once more changes nothing");
        has(&reservations, &[]);
        has(&reservations, &[namespace(1, 7), namespace(2, 8)]);
        assert!(reservations.has((DRIVE, 1), &entry) && reservations.guard((DRIVE, 1)).is_some());
        let mut renewed = namespace(1, 7);
        renewed.uuid = [1; 16];
        has(&reservations, &[renewed, namespace(2, 8)]);
        assert!(!reservations.has((DRIVE, 1), &entry), "it has another UUID");
        has(&reservations, &[namespace(1, 9), namespace(2, 8)]);
        assert!(!reservations.has((DRIVE, 1), &entry) && reservations.guard((DRIVE, 1)).is_none());
        assert!(reservations.entry((DRIVE, 3)).is_none());
        reservations.forget(DRIVE + 1);
        assert!(reservations.entry((DRIVE, 2)).is_some());
        reservations.forget(DRIVE);
        assert!(reservations.entry((DRIVE, 2)).is_none());
    }

    #[test]
    fn admin_commands_are_kept_from_hosts_as_far_as_their_namespaces_are_reserved() {
        let reservations = Reservations::default();
        has(&reservations, &[namespace(1, 7), namespace(2, 8)]);
        reservations.entry((DRIVE, 1)).unwrap().set(reserved());
        let may = |host, opcode, nsid| permits(&reservations, host, opcode, nsid);
        for (opcode, nsid) in
            [(admin::FORMAT_NVM, 1), (admin::FORMAT_NVM, NSID_BROADCAST), (admin::SANITIZE, 0)]
        {
            assert!(may(HOLDER, opcode, nsid) && !may(OTHER, opcode, nsid), "{opcode:#x} of {nsid:#x}");
        }
        assert!(may(OTHER, admin::FORMAT_NVM, 2) && !may(OTHER, 0xc0, 2), "who knows what a vendor's does");
        assert!(may(OTHER, admin::IDENTIFY, 1) && may(OTHER, admin::GET_LOG_PAGE, NSID_BROADCAST));
        has(&reservations, &[namespace(2, 8)]);
        assert!(!permits(&reservations, OTHER, admin::SANITIZE, 0), "it is detached, and has its data");
        assert!(!permits(&reservations, OTHER, admin::NAMESPACE_ATTACHMENT, 1));
    }

    #[test]
    fn a_namespace_that_is_deleted_leaves_nothing_to_one_that_looks_like_it() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let reservations = Reservations::new(Some(Store::open(folder.path()).unwrap()));
        // Without NGUID and EUI-64.
        has(&reservations, &[namespace(1, 0), namespace(2, 0)]);
        for (key, entry) in reservations.named(DRIVE, NSID_BROADCAST) {
            runtime.block_on(reservations.keep(&entry, &reserved())).unwrap();
            entry.set(reserved());
            assert!(reservations.has(key, &entry));
        }
        let [(key, entry)] = &reservations.named(DRIVE, 1)[..] else { panic!("there is one") };
        runtime.block_on(reservations.end(*key, entry)).unwrap();
        has(&reservations, &[namespace(1, 0), namespace(2, 0)]);
        assert!(!reservations.has(*key, entry) && reservations.guard(*key).is_none());
        assert!(reservations.guard((DRIVE, 2)).is_some(), "the other one is as it was");
        assert_eq!(std::fs::read_dir(folder.path().join("reservations")).unwrap().count(), 1);
        // Whoever knew the first one does no harm to the next.
        reservations.entry(*key).unwrap().set(reserved());
        runtime.block_on(reservations.end(*key, entry)).unwrap();
        assert!(reservations.guard(*key).is_some());
    }

    #[test]
    fn a_namespace_that_is_made_inherits_nothing_also_when_no_deletion_was_seen() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let next = || Reservations::new(Some(Store::open(folder.path()).unwrap()));
        let reservations = next();
        has(&reservations, &[namespace(1, 0), namespace(2, 0)]);
        for (_, entry) in reservations.named(DRIVE, NSID_BROADCAST) {
            runtime.block_on(reservations.keep(&entry, &reserved())).unwrap();
            entry.set(reserved());
        }
        runtime.block_on(reservations.begin(DRIVE, &info(), 1)).unwrap();
        has(&reservations, &[namespace(1, 0), namespace(2, 0)]);
        assert!(reservations.guard((DRIVE, 1)).is_none() && reservations.guard((DRIVE, 2)).is_some());
        drop(reservations);
        // One that was kept by an earlier process, and is known to nobody since.
        let reservations = next();
        runtime.block_on(reservations.begin(DRIVE, &info(), 2)).unwrap();
        has(&reservations, &[namespace(1, 0), namespace(2, 0)]);
        assert!(reservations.guard((DRIVE, 2)).is_none());
    }

    #[test]
    fn what_is_kept_is_in_force_for_whoever_comes_next_and_what_is_spoiled_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let next = || Reservations::new(Some(Store::open(folder.path()).unwrap()));
        let reservations = next();
        has(&reservations, &[namespace(1, 7)]);
        let entry = reservations.entry((DRIVE, 1)).unwrap();
        runtime.block_on(reservations.keep(&entry, &reserved())).unwrap();
        drop((entry, reservations));
        let reservations = next();
        has(&reservations, &[namespace(1, 7), namespace(2, 8)]);
        assert_eq!(reservations.entry((DRIVE, 1)).unwrap().namespace(), reserved());
        let file = std::fs::read_dir(folder.path().join("reservations")).unwrap().next().unwrap().unwrap();
        std::fs::write(file.path(), "?").unwrap();
        drop(reservations);
        let reservations = next();
        let unknown = reservations.adopt(DRIVE, &info(), &[namespace(1, 7), namespace(2, 8)]);
        assert_eq!(unknown.iter().map(|(nsid, _)| *nsid).collect::<Vec<_>>(), [1]);
        assert!(reservations.entry((DRIVE, 2)).is_some(), "of the others all is known");
    }
}
