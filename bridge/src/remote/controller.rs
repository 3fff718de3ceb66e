//! The controller of one association.

use std::sync::Arc;
use std::time::Instant;

use gangway_fabric::events::{AsyncEvents, Moment};
use gangway_fabric::keep_alive::KeepAlive;
use gangway_fabric::properties::{Capabilities, Effect, Properties};
use gangway_fabric::target::{Reply, Slot};
use gangway_spec::aen::AsyncEvent;
use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::fabrics::{PropertyGet, PropertySet, fctype};
use gangway_spec::feature::{feature_id, select};
use gangway_spec::identify::csi;
use gangway_spec::log::{GetLogPage, lid};
use gangway_spec::opcode::admin;
use gangway_spec::registers::{ControllerCapabilities, ControllerConfiguration, Version};
use gangway_spec::reservation::Rescap;
use gangway_spec::status::Status;
use zerocopy::IntoBytes;

use super::decide::{self, Finish, Forward};
use super::discovery::DiscoveryService;
use super::namespaces::{self, Destination};
use super::reach::{self, Altered, Reach};
use super::series::{Claim, Leaving};
use super::telemetry::HostTelemetry;
use super::{attachment, command_sets, common, features, finish, identity, limits};
use crate::admission::{ExportView, NamespaceView};
use crate::association::Association;
use crate::drive::{AdminReply, Drive};
use crate::events::{ChangedNamespaces, ChangedZones};
use crate::export::Export;
use crate::policy::Policy;
use crate::reservation::{Key, Reservations};

/// What the owner of the connection has to do about a command.
#[derive(Debug)]
pub(crate) enum Action {
    /// Answer, with data if there is any.
    Answer { reply: Reply, data: Vec<u8> },
    /// Keep it: an event will answer it.
    Hold,
    /// Let a drive execute it, then give its answer to [`RemoteController::finish`].
    Forward(Box<Order>),
    /// Abort the command that the host gave the identifier `cid` on queue `qid`.
    Abort { qid: u16, cid: u16 },
    /// Say whether the reservations of these namespaces survive a restart, then answer.
    Persist { keys: Vec<Key>, persists: bool },
    /// Answer, then do what the property change asks for.
    Effect { reply: Reply, effect: Effect },
}

impl Action {
    fn status(status: Status) -> Self {
        Action::Answer { reply: Reply::status(status), data: Vec::new() }
    }

    pub(super) fn result(result: u32) -> Self {
        Action::Answer { reply: Reply { status: Status::SUCCESS, result: result.into() }, data: Vec::new() }
    }

    pub(super) fn data(data: Vec<u8>) -> Self {
        Action::Answer { reply: Reply::SUCCESS, data }
    }
}

/// A command for a drive.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) drive: Arc<Drive>,
    /// Drives that are asked the same: a bit that one of them sets is set in the answer.
    pub(crate) also: Vec<Arc<Drive>>,
    pub(crate) entry: SubmissionQueueEntry,
    /// What it brings.
    pub(crate) data: Vec<u8>,
    pub(crate) forward: Forward,
    /// Namespaces of the drive that I/O has to keep out of meanwhile.
    pub(crate) alters: Option<Altered>,
    /// The events that came before this are part of what the drive will answer.
    pub(crate) moment: Moment,
    /// Keeps other hosts from what this is a part of.
    pub(crate) claim: Option<Claim>,
}

/// What stands behind the controller.
pub(crate) enum Role {
    Drive(Arc<Export>),
    Discovery(DiscoveryService),
}

/// One host's controller: properties, keep-alive timer, event requests, and the rules by which commands are treated.
pub(crate) struct RemoteController {
    pub(super) association: Arc<Association>,
    role: Role,
    pub(super) properties: Properties,
    pub(super) events: AsyncEvents<Slot>,
    /// Namespaces that changed since the host read of it.
    changed: ChangedNamespaces,
    /// Zones that changed by themselves since then.
    changed_zones: ChangedZones,
    pub(super) keep_alive: KeepAlive,
    pub(super) policy: Arc<Policy>,
    telemetry: HostTelemetry,
    pub(super) reservations: Arc<Reservations>,
    /// Its host has begun something that takes a series of commands.
    series: Option<Leaving>,
}

impl RemoteController {
    /// A controller in front of an export.
    pub(crate) fn for_export(
        association: Arc<Association>,
        export: Arc<Export>,
        reservations: Arc<Reservations>,
        kato: std::time::Duration,
        now: Instant,
    ) -> Self {
        let version = identity::version(export.primary().info().version);
        let policy = export.policies.of(&association.connect.host);
        association.set_policy(Arc::clone(&policy));
        let capabilities = capabilities(version, command_sets::capability(&export));
        Self {
            association,
            role: Role::Drive(export),
            properties: Properties::new(capabilities, version),
            events: AsyncEvents::new(limits::ASYNC_EVENT_REQUESTS.into()),
            changed: ChangedNamespaces::default(),
            changed_zones: ChangedZones::default(),
            keep_alive: KeepAlive::new(kato, now),
            policy,
            telemetry: HostTelemetry::default(),
            reservations,
            series: None,
        }
    }

    /// A discovery controller.
    pub(crate) fn for_discovery(
        association: Arc<Association>,
        service: DiscoveryService,
        kato: std::time::Duration,
        now: Instant,
    ) -> Self {
        let version = Version::V2_0;
        Self {
            association,
            role: Role::Discovery(service),
            properties: Properties::discovery(
                capabilities(version, ControllerCapabilities::CSS_NVM),
                version,
            ),
            events: AsyncEvents::new(limits::ASYNC_EVENT_REQUESTS.into()),
            changed: ChangedNamespaces::default(),
            changed_zones: ChangedZones::default(),
            keep_alive: KeepAlive::discovery(kato, now),
            policy: Arc::default(),
            telemetry: HostTelemetry::default(),
            reservations: Arc::default(),
            series: None,
        }
    }

    pub(crate) fn association(&self) -> &Arc<Association> {
        &self.association
    }

    pub(crate) fn export(&self) -> Option<&Arc<Export>> {
        match &self.role {
            Role::Drive(export) => Some(export),
            Role::Discovery(_) => None,
        }
    }

    pub(crate) fn properties(&mut self) -> &mut Properties {
        &mut self.properties
    }

    /// Notes commands, here or on I/O queues, and says when the keep-alive timer has to be looked at again.
    /// `None`: it is off.
    pub(crate) fn keep_alive_deadline(&mut self, now: Instant) -> Option<Instant> {
        if self.association.take_activity() {
            self.keep_alive.touch(now);
        }
        self.keep_alive.deadline()
    }

    /// Raises the events that the association was told of.
    pub(crate) fn hear(&mut self) {
        let news = self.association.take_news();
        if !news.namespaces.is_empty() {
            self.changed.append(&news.namespaces);
            self.events.raise(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED);
        }
        for nsid in news.zones.namespaces() {
            self.events.raise(AsyncEvent::ZONE_DESCRIPTOR_CHANGED.of(nsid));
        }
        self.changed_zones.append(news.zones);
        self.forget_zones();
        for event in news.events {
            // An event that nobody could clear would be the last of its kind.
            if self.reads_log_of(event) {
                self.events.raise(event);
            }
        }
    }

    /// Forgets the zones of namespaces that are gone: another that comes in the place of one has its own, and nobody
    /// could clear the event.
    fn forget_zones(&mut self) {
        let gone: Vec<u32> = self.changed_zones.namespaces().filter(|nsid| !self.zoned(*nsid)).collect();
        for nsid in gone {
            self.changed_zones.clear(nsid);
            self.events.log_read((lid::CHANGED_ZONE_LIST, nsid), false, self.events.now());
        }
    }

    /// Whether the host may read the log page that an event names.
    fn reads_log_of(&self, event: AsyncEvent) -> bool {
        match &self.role {
            Role::Drive(export) => {
                event.log_page == 0 || decide::log_page_is_open(&self.policy, &export.view(), event.log_page)
            }
            Role::Discovery(_) => event.log_page == lid::DISCOVERY,
        }
    }

    /// What the host wants to be told of: its Asynchronous Event Configuration.
    pub(crate) fn wanted_events(&self) -> u32 {
        self.events.configuration()
    }

    /// The next event request to be answered, with dwords 0 and 1 of its completion.
    pub(crate) fn report_event(&mut self) -> Option<(Slot, u64)> {
        self.events.report()
    }

    /// Takes an event request back. Whether it was one.
    pub(crate) fn cancel_event(&mut self, request: Slot) -> bool {
        self.events.cancel(request)
    }

    /// Event requests that end because the controller was reset.
    pub(crate) fn drain_events(&mut self) -> Vec<Slot> {
        self.changed.clear();
        self.changed_zones.clear_all();
        self.association.set_behavior(false, 0);
        self.association.notifications().reset();
        self.events.drain()
    }

    /// Decides on a command. `declared` are the bytes of data that its SGL declares, `data` those that arrived.
    pub(crate) fn handle(
        &mut self,
        slot: Slot,
        entry: &SubmissionQueueEntry,
        declared: u32,
        data: &[u8],
        now: Instant,
    ) -> Action {
        self.keep_alive.touch(now);
        if entry.opcode == admin::FABRICS {
            return self.fabrics(entry);
        }
        if !self.properties.is_ready() {
            return Action::status(Status::COMMAND_SEQUENCE_ERROR.with_dnr());
        }
        let outcome = match entry.opcode {
            admin::KEEP_ALIVE => Ok(Action::status(Status::SUCCESS)),
            admin::ASYNC_EVENT_REQUEST => self.events.request(slot).map(|()| Action::Hold),
            // SQID and CID (NVMe Base 2.0, 5.1).
            admin::ABORT => {
                let cdw10 = entry.cdw10.get();
                Ok(Action::Abort { qid: cdw10 as u16, cid: (cdw10 >> 16) as u16 })
            }
            admin::SET_FEATURES if features::is_ours(entry) => features::set(self, entry, data, now),
            admin::GET_FEATURES if features::is_ours(entry) => features::get(self, entry, declared),
            _ => self.ask(entry, declared, data),
        };
        outcome.unwrap_or_else(Action::status)
    }

    fn fabrics(&mut self, entry: &SubmissionQueueEntry) -> Action {
        match entry.fctype() {
            fctype::PROPERTY_GET => match self.properties.get(&PropertyGet::from(*entry)) {
                Ok(value) => Action::Answer {
                    reply: Reply { status: Status::SUCCESS, result: value },
                    data: Vec::new(),
                },
                Err(status) => Action::status(status),
            },
            fctype::PROPERTY_SET => match self.properties.set(&PropertySet::from(*entry)) {
                Ok(effect) => Action::Effect { reply: Reply::SUCCESS, effect },
                Err(status) => Action::status(status),
            },
            // It deletes I/O queues (NVMe Base 2.0, 6.4).
            fctype::DISCONNECT => Action::status(Status::INVALID_QUEUE_TYPE.with_dnr()),
            fctype::CONNECT => Action::status(Status::COMMAND_SEQUENCE_ERROR.with_dnr()),
            _ => Action::status(Status::INVALID_FIELD.with_dnr()),
        }
    }

    /// Commands for what stands behind: the drive, the discovery log, what is kept here.
    fn ask(&mut self, entry: &SubmissionQueueEntry, declared: u32, data: &[u8]) -> Result<Action, Status> {
        if let Role::Discovery(service) = &mut self.role {
            let answer = service.answer(entry, declared, &self.association)?;
            self.note_log_read(entry, self.events.now());
            return Ok(Action::data(answer));
        }
        if entry.opcode == admin::GET_LOG_PAGE
            && let Some(answer) = self.own_log(entry, declared)
        {
            return answer;
        }
        let Role::Drive(export) = &self.role else { return Err(Status::INTERNAL_ERROR) };
        let mut forward = decide::decide(&self.policy, entry, declared)?;
        if forward.length != declared {
            return Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr());
        }
        let view = export.view();
        if declared > view.max_transfer || !namespaces::can_translate(&view, forward.finish) {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        if forward.finish.is_about_the_inventory() && !Reach::Inventory.is_within(&view) {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        let cntlid = self.association.cntlid;
        match forward.finish {
            Finish::ActiveNamespaces { csi } => {
                if csi.is_some() && !command_sets::offered(export) {
                    return Err(Status::INVALID_FIELD.with_dnr());
                }
                // A host that did not enable the other command sets does not know what to do with their namespaces.
                let all = self.properties.configuration().css() == ControllerConfiguration::CSS_ALL;
                let csi = csi.or(if all { None } else { Some(csi::NVM) });
                return Ok(Action::data(namespaces::active(&view, entry.nsid.get(), csi)?));
            }
            Finish::Controllers { first } => {
                return Ok(Action::data(attachment::list((cntlid >= first).then_some(cntlid))));
            }
            Finish::CommandSets => {
                if !command_sets::offered(export) {
                    return Err(Status::INVALID_FIELD.with_dnr());
                }
                if let Some(data) = command_sets::identify(&view, &export.drives(), entry, cntlid)? {
                    return Ok(Action::data(data));
                }
            }
            _ => {}
        }
        let mut entry = *entry;
        let mut drive = Arc::clone(export.primary());
        match namespaces::destination(&view, &entry, forward.finish)? {
            Destination::Primary => {}
            Destination::Drive { drive: index, nsid } => {
                drive = export.drive(index).ok_or(Status::INTERNAL_ERROR)?;
                entry.nsid.set(nsid);
            }
            Destination::Inactive => {
                // Whether it can say so is for the drive to know. It has a number 1, if nothing else.
                forward.finish = Finish::Zeroes;
                entry.nsid.set(1);
            }
        }
        let asked = match entry.opcode {
            admin::GET_FEATURES => common::having(export, feature_id(&entry)),
            _ => None,
        };
        let mut asked = asked.unwrap_or_default().into_iter();
        if let Some(first) = asked.next() {
            drive = first;
            // It is of no namespace, and the one that was named is another's there.
            entry.nsid.set(0);
        }
        let identify = &drive.info().identify;
        if !Reach::of(&entry, forward.changes, identify.fna).is_within(&view) {
            return Err(Status::OPERATION_DENIED.with_dnr());
        }
        let alters = reach::altered(&entry, identify.fna);
        if export.read_only && alters.is_some() {
            return Err(Status::NAMESPACE_IS_WRITE_PROTECTED.with_dnr());
        }
        let data = match entry.opcode {
            admin::NAMESPACE_ATTACHMENT => attachment::to_drive(data, cntlid, identify.cntlid.get())?,
            _ => data.to_vec(),
        };
        let claim = drive.series().claim(entry.opcode, &self.association)?;
        if claim.is_some() {
            self.series.get_or_insert_with(|| drive.series().leaving(&self.association));
        }
        let entry = decide::to_drive(&entry, drive.info().version);
        let (also, moment) = (asked.collect(), self.events.now());
        Ok(Action::Forward(Box::new(Order { drive, also, entry, data, forward, alters, moment, claim })))
    }

    /// Log pages that are kept here, for each controller.
    fn own_log(&mut self, entry: &SubmissionQueueEntry, declared: u32) -> Option<Result<Action, Status>> {
        let GetLogPage { lid, rae, .. } = GetLogPage::from(entry);
        let nsid = entry.nsid.get();
        let page = match lid {
            lid::CHANGED_NAMESPACES => self.changed.page(),
            lid::CHANGED_ZONE_LIST if self.shows_zones() => match self.zoned(nsid) {
                true => self.changed_zones.page(nsid).as_bytes().to_vec(),
                false => return Some(Err(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr())),
            },
            lid::RESERVATION_NOTIFICATION if self.policy.reserves() => {
                self.association.notifications().read().as_bytes().to_vec()
            }
            _ => return None,
        };
        let data = match slice_of(&page, entry, declared) {
            Ok(data) => data,
            Err(status) => return Some(Err(status)),
        };
        self.note_log_read(entry, self.events.now());
        if !rae && lid == lid::CHANGED_NAMESPACES {
            self.changed.clear();
        }
        if !rae && lid == lid::CHANGED_ZONE_LIST {
            self.changed_zones.clear(nsid);
        }
        if !rae && lid == lid::RESERVATION_NOTIFICATION && self.association.notifications().pop() {
            // There is another page.
            self.events.raise(AsyncEvent::RESERVATION_LOG_AVAILABLE);
        }
        Some(Ok(Action::data(data)))
    }

    fn shows_zones(&self) -> bool {
        self.export().is_some_and(|export| export.view().has_zones())
    }

    /// Whether the host knows a zoned namespace by this NSID.
    fn zoned(&self, nsid: u32) -> bool {
        let is_zoned = |view: &ExportView| view.namespace(nsid).is_some_and(NamespaceView::is_zoned);
        self.export().is_some_and(|export| is_zoned(&export.view()))
    }

    fn note_log_read(&mut self, entry: &SubmissionQueueEntry, moment: Moment) {
        if entry.opcode == admin::GET_LOG_PAGE {
            let command = GetLogPage::from(entry);
            // The only page that is of a namespace each.
            let of = if command.lid == lid::CHANGED_ZONE_LIST { entry.nsid.get() } else { 0 };
            self.events.log_read((command.lid, of), command.rae, moment);
        }
    }

    /// Turns what a drive answered into what the host gets.
    pub(crate) fn finish(
        &mut self,
        entry: &SubmissionQueueEntry,
        finish: Finish,
        drive: &Drive,
        moment: Moment,
        answer: AdminReply,
    ) -> Action {
        let AdminReply { entry: completion, data } = answer;
        let status = match completion.status() {
            status if status.is_success() => status,
            status => self.association.with_delay(status),
        };
        let mut reply = Reply { status, result: completion.result() };
        if !status.is_success() {
            return Action::Answer { reply, data: Vec::new() };
        }
        self.note_log_read(entry, moment);
        let Role::Drive(export) = &self.role else { return Action::Answer { reply, data } };
        let view = export.view();
        let identity = identity::Identity {
            cntlid: self.association.cntlid,
            subsystem: &self.association.connect.subsystem,
            version: self.properties.version(),
            view: &view,
            fna: common::format_attributes(export),
            policy: &self.policy,
            rescap: if self.policy.reserves() { self.reservations.capabilities() } else { Rescap::empty() },
        };
        let mut data = finish::data(finish, data, &identity, export, (drive, entry.nsid.get()));
        match finish {
            Finish::Telemetry => {
                self.telemetry.show(&GetLogPage::from(entry), &mut data, drive.telemetry());
            }
            Finish::CreatedNamespace => {
                let nsid = reply.result as u32;
                reply.result = view.remote_nsid(drive.index(), nsid).unwrap_or(nsid).into();
            }
            _ => {}
        }
        if let Finish::FeatureCapabilities { id } = finish
            && !identity.sets(id)
        {
            reply.result &= !u64::from(select::SUPPORTED_SAVEABLE | select::SUPPORTED_CHANGEABLE);
        }
        Action::Answer { reply, data }
    }
}

/// The piece of a log page kept here that a Get Log Page asks for.
///
/// # Errors
/// When the length is not the declared one, or the offset is beyond the page.
pub(super) fn slice_of(page: &[u8], entry: &SubmissionQueueEntry, declared: u32) -> Result<Vec<u8>, Status> {
    let command = GetLogPage::from(entry);
    if command.length() != u64::from(declared) {
        return Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr());
    }
    if declared > limits::OWN_LOG_PAGE {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    let offset = usize::try_from(command.lpo).unwrap_or(usize::MAX);
    if command.offset_is_index || offset > page.len() || !offset.is_multiple_of(4) {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    let mut data = vec![0; declared as usize];
    let count = (page.len() - offset).min(data.len());
    data[..count].copy_from_slice(&page[offset..offset + count]);
    Ok(data)
}

fn capabilities(version: Version, css: u8) -> ControllerCapabilities {
    Capabilities { max_queue_entries: limits::QUEUE_ENTRIES, timeout: limits::READY_TIMEOUT, css }
        .build(version)
}
