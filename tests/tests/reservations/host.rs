//! A host that reserves.

use gangway_fabric::host::client::{AdminQueue, IoQueue, Options, Transfer};
use gangway_spec::aen::AsyncEvent;
use gangway_spec::log::lid;
use gangway_spec::opcode::{admin, nvm};
use gangway_spec::reservation::{
    ExtendedRegisteredController, ExtendedReservationStatus, ReservationAcquireData,
    ReservationNotificationLog, ReservationParameters, ReservationRegisterData, ReservationReleaseData,
    ReservationType, cptpl, rrega,
};
use gangway_spec::{Status, SubmissionQueueEntry};
use gangway_tests::{TestTarget, command, pattern};
use zerocopy::{FromBytes, IntoBytes};

use crate::PATIENCE;

/// A host with one I/O queue. Its key is its number.
pub(crate) struct Host {
    pub(crate) admin: AdminQueue,
    pub(crate) queue: IoQueue,
    pub(crate) number: u8,
    /// What it knows the namespace as.
    pub(crate) nsid: u32,
}

impl Host {
    pub(crate) fn connect(target: &TestTarget, number: u8) -> Self {
        Self::of(target, number, 0, 1)
    }

    /// One of this export, which shows the namespace as `nsid`.
    pub(crate) fn of(target: &TestTarget, number: u8, export: usize, nsid: u32) -> Self {
        let mut admin = target.host_with(number, export, &Options::default());
        let queue = admin.connect_io(1).unwrap();
        Self { admin, queue, number, nsid }
    }

    /// One that is a registrant.
    pub(crate) fn registered(target: &TestTarget, number: u8) -> Self {
        let mut host = Self::connect(target, number);
        assert_eq!(host.register(rrega::REGISTER, cptpl::NO_CHANGE), Status::SUCCESS);
        host
    }

    pub(crate) fn key(&self) -> u64 {
        self.number.into()
    }

    pub(crate) fn give(&mut self, opcode: u8, parameters: ReservationParameters, data: &[u8]) -> Status {
        let mut entry = SubmissionQueueEntry::new(opcode);
        entry.nsid.set(self.nsid);
        parameters.apply(&mut entry);
        self.queue.execute(&entry, Transfer::Write(data.into())).unwrap().entry.status()
    }

    pub(crate) fn register(&mut self, action: u8, cptpl: u8) -> Status {
        let parameters = ReservationParameters { action, ignore_existing_key: false, rtype: 0, cptpl };
        let data = ReservationRegisterData { crkey: self.key().into(), nrkey: self.key().into() };
        self.give(nvm::RESERVATION_REGISTER, parameters, data.as_bytes())
    }

    pub(crate) fn acquire(&mut self, action: u8, kind: ReservationType, prkey: u64) -> Status {
        let parameters =
            ReservationParameters { action, ignore_existing_key: false, rtype: kind.value(), cptpl: 0 };
        let data = ReservationAcquireData { crkey: self.key().into(), prkey: prkey.into() };
        self.give(nvm::RESERVATION_ACQUIRE, parameters, data.as_bytes())
    }

    pub(crate) fn release(&mut self, action: u8, kind: ReservationType) -> Status {
        let parameters =
            ReservationParameters { action, ignore_existing_key: false, rtype: kind.value(), cptpl: 0 };
        let data = ReservationReleaseData { crkey: self.key().into() };
        self.give(nvm::RESERVATION_RELEASE, parameters, data.as_bytes())
    }

    pub(crate) fn report(
        &mut self,
        length: u32,
    ) -> (ExtendedReservationStatus, Vec<ExtendedRegisteredController>) {
        let mut entry = SubmissionQueueEntry::new(nvm::RESERVATION_REPORT);
        entry.nsid.set(self.nsid);
        entry.cdw10.set(length / 4 - 1);
        entry.cdw11.set(1);
        let completed = self.queue.execute(&entry, Transfer::Read(length)).unwrap();
        assert_eq!(completed.entry.status(), Status::SUCCESS);
        assert_eq!(completed.data.len(), length as usize);
        let (status, rest) = ExtendedReservationStatus::read_from_prefix(&completed.data).unwrap();
        let (controllers, rest) =
            rest.split_at(usize::from(status.registered.get()) * size_of::<ExtendedRegisteredController>());
        assert!(rest.iter().all(|byte| *byte == 0), "what other commands left in memory is not shown");
        let controllers = controllers
            .chunks_exact(64)
            .map(|one| ExtendedRegisteredController::read_from_bytes(one).unwrap());
        (status, controllers.collect())
    }

    pub(crate) fn io(&mut self, opcode: u8, transfer: Transfer) -> Status {
        let mut entry = command(opcode, 8, 1);
        entry.nsid.set(self.nsid);
        self.queue.execute(&entry, transfer).unwrap().entry.status()
    }

    pub(crate) fn write(&mut self, round: u64) -> Status {
        self.io(nvm::WRITE, Transfer::Write(pattern(8, round, 4096).into()))
    }

    pub(crate) fn read(&mut self) -> Status {
        self.io(nvm::READ, Transfer::Read(4096))
    }

    pub(crate) fn set_feature(&mut self, id: u8, nsid: u32, value: u32) -> Status {
        let mut entry = SubmissionQueueEntry::new(admin::SET_FEATURES);
        entry.nsid.set(nsid);
        entry.cdw10.set(id.into());
        entry.cdw11.set(value);
        self.admin.command(&entry, Transfer::None).unwrap().0.status()
    }

    pub(crate) fn feature(&mut self, id: u8, nsid: u32) -> Result<u32, Status> {
        let mut entry = SubmissionQueueEntry::new(admin::GET_FEATURES);
        entry.nsid.set(nsid);
        entry.cdw10.set(id.into());
        let (completion, _) = self.admin.command(&entry, Transfer::None).unwrap();
        if completion.status().is_success() { Ok(completion.dw0.get()) } else { Err(completion.status()) }
    }

    /// Asks for one event.
    pub(crate) fn listen(&mut self) {
        let request = SubmissionQueueEntry::new(admin::ASYNC_EVENT_REQUEST);
        self.admin.queue().submit(&request, Transfer::None).unwrap();
        self.admin.queue().flush().unwrap();
    }

    pub(crate) fn told(&mut self) -> AsyncEvent {
        let completed = self.admin.queue().wait(PATIENCE).unwrap().expect("an event in time");
        AsyncEvent::from_dw0(completed.entry.dw0.get())
    }

    pub(crate) fn notification(&mut self) -> (u64, u8, u8, u32) {
        let page = self.admin.log_page(lid::RESERVATION_NOTIFICATION, 0, 0, 64, false).unwrap();
        let page = ReservationNotificationLog::read_from_bytes(&page).unwrap();
        (page.count.get(), page.kind, page.available, page.nsid.get())
    }
}
