//! Reservation commands, which reactors hand over, and what follows from them: who may do what is changed on all reactors,
//! commands that have no place any more are gone, others are told.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use gangway_fabric::target::Reply;
use gangway_spec::aen::AsyncEvent;
use gangway_spec::nvm_opcode_name;
use gangway_spec::opcode::nvm;
use gangway_spec::status::Status;
use tokio::sync::{MutexGuard, mpsc};
use tokio::task::JoinSet;

use super::Shared;
use crate::association::Association;
use crate::drive::Drive;
use crate::events::Notice;
use crate::reactor::{Message, ReservationRequest};
use crate::reservation::{
    CONFLICT, Command, Entry, Eviction, Host, Key, Namespace, Outcome, Waiting, report,
};

/// How long it takes until a drive that cannot say what it has is asked again, at first: twice as long each time.
const DOUBT: Duration = Duration::from_secs(1);
/// How often it is asked: for about an hour.
const QUESTIONS: u32 = 12;

impl Shared {
    /// Executes what reactors hand over, until there are none.
    pub(super) async fn serve_reservations(
        self: Arc<Self>,
        mut requests: mpsc::UnboundedReceiver<ReservationRequest>,
    ) {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                Some(request) = requests.recv() => {
                    let shared = Arc::clone(&self);
                    tasks.spawn(async move { shared.answer_request(request).await });
                }
                Some(_) = tasks.join_next() => {}
                else => return,
            }
        }
    }

    async fn answer_request(&self, request: ReservationRequest) {
        let (reply, data) = match self.execute(&request).await {
            Ok(data) => (Reply::SUCCESS, data),
            Err(status) => (Reply::status(status), Vec::new()),
        };
        if let Some(reactor) = self.reactors.get(request.ticket.reactor) {
            reactor.send(Message::Answered { ticket: request.ticket, reply, data });
        }
    }

    async fn execute(&self, request: &ReservationRequest) -> Result<Vec<u8>, Status> {
        let key = (request.drive, request.entry.nsid.get());
        let entry = self.reservations.entry(key).ok_or(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr())?;
        if request.entry.opcode == nvm::RESERVATION_REPORT {
            let controllers = self.controllers_at(key);
            let of = |host| controllers.get(&host).cloned().unwrap_or_default();
            return report(&entry.namespace(), &request.entry, of);
        }
        let command = Command::parse(&request.entry, &request.data)
            .ok_or(Status::DATA_SGL_LENGTH_INVALID.with_dnr())?;
        let result = self.change(key, &entry, &request.association, &command).await;
        audit(request, result.err().unwrap_or(Status::SUCCESS));
        result.map(|()| Vec::new())
    }

    /// Executes a command that changes something, when all before it are done.
    async fn change(
        &self,
        key: Key,
        entry: &Arc<Entry>,
        association: &Association,
        command: &Command,
    ) -> Result<(), Status> {
        let host = association.host();
        if host == 0 {
            return Err(Status::HOST_IDENTIFIER_NOT_INITIALIZED.with_dnr());
        }
        let _turn = self.turn(key, entry, association).await?;
        let mut namespace = entry.namespace();
        let Outcome { notices, aborts } =
            namespace.execute(host, command, self.reservations.can_persist())?;
        namespace.note_name(host, &association.connect.host);
        self.put_in_force(key, entry, namespace, aborts).await?;
        self.notify(key, &notices);
        Ok(())
    }

    /// Says for a host whether the reservations of a namespace survive a restart (Reservation Persistence, feature 83h).
    /// While it is reserved that is for registrants to say.
    pub(super) async fn set_persistence(
        &self,
        key: Key,
        association: &Association,
        persists: bool,
    ) -> Result<(), Status> {
        if persists && !self.reservations.can_persist() {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        let entry = self.reservations.entry(key).ok_or(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr())?;
        let _turn = self.turn(key, &entry, association).await?;
        let mut namespace = entry.namespace();
        if namespace.held().is_some() && !namespace.is_registrant(association.host()) {
            return Err(CONFLICT);
        }
        namespace.set_persists(persists);
        self.put_in_force(key, &entry, namespace, Vec::new()).await
    }

    /// Waits until a host may change something at a namespace: all before it is done.
    async fn turn<'a>(
        &self,
        key: Key,
        entry: &'a Arc<Entry>,
        association: &Association,
    ) -> Result<(Waiting<'a>, MutexGuard<'a, ()>), Status> {
        // Without Do Not Retry: there is room again soon.
        let waiting = entry.wait().ok_or(Status::COMMAND_INTERRUPTED)?;
        let turn = entry.turn.lock().await;
        if association.is_closed() {
            // Nobody waits for it, and the host may have said something else since.
            return Err(Status::ABORTED_SQ_DELETION);
        }
        if !self.reservations.has(key, entry) {
            // Another namespace has come in its place.
            return Err(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr());
        }
        Ok((waiting, turn))
    }

    /// Keeps what a namespace becomes, and has all reactors go by it. When that is done, no command that it forbids is
    /// with the drive.
    async fn put_in_force(
        &self,
        key: Key,
        entry: &Entry,
        namespace: Namespace,
        aborts: Vec<Host>,
    ) -> Result<(), Status> {
        let before = entry.namespace();
        if namespace == before {
            return Ok(());
        }
        if before.persists() || namespace.persists() {
            self.reservations.keep(entry, &namespace).await.map_err(|error| {
                tracing::error!(%error, "a change of reservations is refused, because it would not survive a restart");
                Status::INTERNAL_ERROR
            })?;
        }
        let guards_others = entry.set(namespace);
        if guards_others {
            self.guard_views(key).await;
        }
        let guard = entry.guard();
        if !aborts.is_empty() || guards_others && guard.is_some() {
            let eviction = Arc::new(Eviction { key, guard, aborts });
            self.tell_all(|done| Message::Evict { eviction: Arc::clone(&eviction), done }).await;
            // Admin commands that were checked before are ended as well: a Format can take long.
            let drives = self.catalogue.drives();
            if let Some(drive) = drives.iter().find(|drive| drive.index() == key.0) {
                drop(drive.reservable().write().await);
            }
        }
        Ok(())
    }

    /// What was known about these namespaces, which the drive has deleted, is not in force any more.
    pub(super) async fn end_reservations(&self, deleted: Vec<(Key, Arc<Entry>)>) {
        for (key, entry) in deleted {
            let _turn = entry.turn.lock().await;
            if let Err(error) = self.reservations.end(key, &entry).await {
                tracing::error!(%error, "the reservations of a namespace that was deleted are still in their file; remove it");
            }
            if entry.guard().is_some() {
                self.guard_views(key).await;
            }
        }
    }

    /// These namespaces may be gone, or not: their deletion did not succeed as far as is known. Finds out. What was known
    /// about them is in force until then.
    pub(super) fn doubt(self: &Arc<Self>, drive: &Arc<Drive>, deleted: Vec<(Key, Arc<Entry>)>) {
        for (key, entry) in deleted.into_iter().filter(|(_, entry)| entry.doubt()) {
            let (shared, drive) = (Arc::clone(self), Arc::clone(drive));
            tokio::spawn(async move {
                if shared.is_gone(&drive, key, &entry).await {
                    shared.end_reservations(vec![(key, entry)]).await;
                }
            });
        }
    }

    async fn is_gone(&self, drive: &Drive, key: Key, entry: &Arc<Entry>) -> bool {
        let mut pauses = (0..QUESTIONS).map(|question| DOUBT * 2_u32.pow(question));
        while self.reservations.has(key, entry) {
            let doubts = entry.doubts();
            match drive.allocates(key.1).await {
                None => return false,
                Some(Ok(false)) => return true,
                // Unless it was to be deleted once more meanwhile.
                Some(Ok(true)) if entry.settle(doubts) => return false,
                Some(Ok(true)) => {}
                Some(Err(status)) => {
                    let refused =
                        status.dnr() || status.is(Status::INVALID_FIELD) || status.is(Status::INVALID_OPCODE);
                    if let Some(pause) = pauses.next().filter(|_| !refused) {
                        tracing::debug!(%status, nsid = key.1, "the drive does not say whether a namespace was deleted");
                        tokio::time::sleep(pause).await;
                    } else if entry.settle(doubts) {
                        let drive = &drive.info().name;
                        tracing::warn!(%drive, %status, nsid = key.1, "the drive does not say whether a namespace was deleted; its reservations stay in force");
                        return false;
                    }
                }
            }
        }
        false
    }

    /// A drive has made a namespace: nothing that is known of another of its number is about it.
    pub(super) async fn begin_reservations(&self, drive: &Drive, nsid: u32) {
        if let Err(error) = self.reservations.begin(drive.index(), drive.info(), nsid).await {
            tracing::error!(%error, "the reservations of a namespace that is gone are still in their file; remove it");
        }
    }

    /// The associations that a namespace is shown to, with the NSID by which they know it.
    fn associations_at(&self, key: Key) -> Vec<(Arc<Association>, u32)> {
        let shown = self.exports_showing(key);
        let find = |association: Arc<Association>| {
            let export = association.export?;
            let (_, nsid) = shown.iter().find(|(index, _)| *index == export)?;
            Some((association, *nsid))
        };
        self.registry.all().into_iter().filter_map(find).collect()
    }

    /// The controllers through which each host reaches a namespace.
    fn controllers_at(&self, key: Key) -> HashMap<Host, Vec<u16>> {
        let mut controllers: HashMap<Host, Vec<u16>> = HashMap::new();
        for (association, _) in self.associations_at(key) {
            controllers.entry(association.host()).or_default().push(association.cntlid);
        }
        controllers
    }

    /// Tells hosts, on all their controllers, what they have not masked.
    fn notify(&self, key: Key, notices: &[(Host, u8)]) {
        if notices.is_empty() {
            return;
        }
        for (association, nsid) in self.associations_at(key) {
            let host = association.host();
            for (_, kind) in notices.iter().filter(|(told, _)| *told == host) {
                if association.notifications().add(*kind, nsid) {
                    association.tell(Notice::Event(AsyncEvent::RESERVATION_LOG_AVAILABLE));
                }
            }
        }
    }
}

/// Writes down who changed reservations, or tried. The target of these lines is `audit`, so that a filter can tell them.
fn audit(request: &ReservationRequest, status: Status) {
    let ReservationRequest { association, drive, entry, .. } = request;
    tracing::info!(
        target: "audit",
        subsystem = %association.connect.subsystem,
        host = %association.connect.host,
        cntlid = association.cntlid,
        command = nvm_opcode_name(entry.opcode).unwrap_or_default(),
        drive,
        drive_nsid = entry.nsid.get(),
        cdw10 = format_args!("{:08x}", entry.cdw10.get()),
        %status,
        "audit: a host changed reservations, or tried"
    );
}
