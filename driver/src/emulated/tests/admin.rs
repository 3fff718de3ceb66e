//! Identify, features, log pages, events, Abort.

use gangway_spec::aen::AsyncEvent;
use gangway_spec::command::NSID_BROADCAST;
use gangway_spec::feature::{HostBehaviorSupport, fid, select};
use gangway_spec::identify::{NamespaceIdDescriptor, Oacs, Oncs, cns};
use gangway_spec::log::{
    CommandsSupportedAndEffectsLog, ErrorLogEntry, FirmwareSlotLog, GetLogPage, SmartLog, lid,
};
use gangway_spec::{IdentifyController, IdentifyNamespace};

use super::*;

fn set_feature(fid: u8, cdw11: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode::admin::SET_FEATURES);
    entry.cdw10.set(fid.into());
    entry.cdw11.set(cdw11);
    entry
}

fn get_feature(fid: u8, select: u8, cdw11: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode::admin::GET_FEATURES);
    entry.cdw10.set(u32::from(select) << 8 | u32::from(fid));
    entry.cdw11.set(cdw11);
    entry
}

impl Host {
    pub(super) fn log(&mut self, get: GetLogPage, len: usize) -> Result<Vec<u8>, Status> {
        let mut entry = SubmissionQueueEntry::from(get);
        entry.nsid.set(NSID_BROADCAST);
        self.admin_read(&entry, len)
    }

    fn feature(&mut self, entry: &SubmissionQueueEntry) -> Result<u32, Status> {
        let completion = self.admin(entry);
        completion.status().into_result().map(|()| completion.dw0.get())
    }
}

#[test]
fn identify_controller_promises_what_works() {
    let mut host = Host::new("serial=S1,model=A Drive,namespaces=3,mdts=5");
    let bytes = host.identify(cns::CONTROLLER, 0).unwrap();
    let controller = IdentifyController::read_from_bytes(&bytes).unwrap();
    assert_eq!((controller.serial().as_ref(), controller.model().as_ref()), ("S1", "A Drive"));
    assert_eq!((controller.mdts, controller.nn.get(), controller.sqes, controller.cqes), (5, 3, 0x66, 0x44));
    assert_eq!(controller.ver.get(), 0x0001_0400);
    let promised = Oacs::FORMAT_NVM | Oacs::NAMESPACE_MANAGEMENT | Oacs::FIRMWARE | Oacs::DEVICE_SELF_TEST;
    assert_eq!(controller.oacs.get(), promised.bits());
    assert!(Oncs::from_bits_retain(controller.oncs.get()).contains(Oncs::COMPARE | Oncs::DATASET_MANAGEMENT));
    assert_eq!((controller.sgls.get(), controller.fuses.get(), controller.vwc & 1), (0, 0, 0));
    assert!(controller.subnqn().starts_with("nqn.2014-08.org.nvmexpress:uuid:"));
}

#[test]
fn a_drive_of_nothing_does_not_promise_compare() {
    let mut host = Host::new("null");
    let bytes = host.identify(cns::CONTROLLER, 0).unwrap();
    let controller = IdentifyController::read_from_bytes(&bytes).unwrap();
    assert!(!Oncs::from_bits_retain(controller.oncs.get()).contains(Oncs::COMPARE));
    let mut queue = host.create_queue(1);
    assert!(queue.run(&io_command(opcode::nvm::COMPARE, 0, 1)).status().is(Status::INVALID_OPCODE));
}

#[test]
fn namespaces_are_listed_and_described() {
    let mut host = Host::new("namespaces=3,size=1MiB,block=512");
    let list = |bytes: Vec<u8>| -> Vec<u32> {
        bytes.chunks_exact(4).map(|nsid| u32::from_le_bytes([nsid[0], nsid[1], nsid[2], nsid[3]])).collect()
    };
    assert_eq!(list(host.identify(cns::ACTIVE_NAMESPACE_LIST, 0).unwrap())[..4], [1, 2, 3, 0]);
    assert_eq!(list(host.identify(cns::ACTIVE_NAMESPACE_LIST, 2).unwrap())[..2], [3, 0]);
    assert_eq!(list(host.identify(cns::ACTIVE_NAMESPACE_LIST, 3).unwrap())[0], 0);
    let mut known = Vec::new();
    for nsid in 1..=3 {
        let bytes = host.identify(cns::NAMESPACE, nsid).unwrap();
        let namespace = IdentifyNamespace::read_from_bytes(&bytes).unwrap();
        assert_eq!((namespace.nsze.get(), namespace.block_size()), (2048, Some(512)));
        let bytes = host.identify(cns::NAMESPACE_DESCRIPTORS, nsid).unwrap();
        let descriptors: Vec<_> = NamespaceIdDescriptor::parse(&bytes).collect();
        assert!(descriptors.iter().all(|found| Some(found.nidl()) == found.expected_length()));
        let nguid = descriptors.iter().find(|found| found.nidt == NamespaceIdDescriptor::NGUID).unwrap();
        assert_eq!(nguid.nid, namespace.nguid);
        known.push(namespace.nguid);
    }
    assert!(known[0] != known[1] && known[1] != known[2]);
}

#[test]
fn identify_refuses_what_it_does_not_have() {
    let mut host = Host::new("namespaces=2");
    for (cns, nsid, status) in [
        (cns::NAMESPACE, 0, Status::INVALID_NAMESPACE_OR_FORMAT),
        (cns::NAMESPACE, 3, Status::INVALID_NAMESPACE_OR_FORMAT),
        (cns::NAMESPACE_DESCRIPTORS, 3, Status::INVALID_NAMESPACE_OR_FORMAT),
        (cns::ACTIVE_NAMESPACE_LIST, 0xffff_fffe, Status::INVALID_NAMESPACE_OR_FORMAT),
        (cns::IO_COMMAND_SET_NAMESPACE, 1, Status::INVALID_FIELD),
        (cns::NVM_SET_LIST, 0, Status::INVALID_FIELD),
        (0xff, 0, Status::INVALID_FIELD),
    ] {
        let found = host.identify(cns, nsid).unwrap_err();
        assert!(found.is(status) && found.dnr(), "CNS {cns:#x} NSID {nsid}: {found}");
    }
}

#[test]
fn unknown_and_malformed_admin_commands_are_refused() {
    let mut host = Host::new("");
    for opcode in
        [opcode::admin::SECURITY_SEND, opcode::admin::KEEP_ALIVE, opcode::admin::DIRECTIVE_SEND, 0xc0]
    {
        assert!(host.admin(&SubmissionQueueEntry::new(opcode)).status().is(Status::INVALID_OPCODE));
    }
    for flags in [1, 2, 0x40, 0x80] {
        let mut entry = SubmissionQueueEntry::new(opcode::admin::IDENTIFY);
        entry.cdw10.set(1);
        entry.flags = flags;
        assert!(host.admin(&entry).status().is(Status::INVALID_FIELD), "flags {flags:#x}");
    }
    let mut entry = SubmissionQueueEntry::new(opcode::admin::IDENTIFY);
    entry.cdw10.set(1);
    entry.set_prp(host.domain.poison_iova(), 0);
    assert!(host.admin(&entry).status().is(Status::DATA_TRANSFER_ERROR));
    assert_eq!(host.probe.violations(), 1);
}

#[test]
fn every_feature_can_be_set_and_read_back() {
    let mut host = Host::new("queues=4");
    for (fid, value, cdw11) in [
        (fid::ARBITRATION, 0x0102_0303, 0),
        (fid::POWER_MANAGEMENT, 0, 0),
        (fid::TEMPERATURE_THRESHOLD, 350, 0),
        (fid::INTERRUPT_COALESCING, 0x0203, 0),
        (fid::INTERRUPT_VECTOR_CONFIGURATION, 1 << 16 | 2, 2),
        (fid::WRITE_ATOMICITY, 1, 0),
        (fid::ASYNC_EVENT_CONFIGURATION, 0x1f, 0),
    ] {
        let capabilities = host.feature(&get_feature(fid, select::SUPPORTED_CAPABILITIES, 0)).unwrap();
        assert_eq!(capabilities, select::SUPPORTED_CHANGEABLE, "feature {fid:#x}");
        let default = host.feature(&get_feature(fid, select::DEFAULT, cdw11)).unwrap();
        assert_eq!(host.feature(&get_feature(fid, select::CURRENT, cdw11)), Ok(default));
        host.feature(&set_feature(fid, value)).unwrap();
        assert_eq!(host.feature(&get_feature(fid, select::CURRENT, cdw11)), Ok(value), "feature {fid:#x}");
        assert_eq!(host.feature(&get_feature(fid, select::DEFAULT, cdw11)), Ok(default), "feature {fid:#x}");
        assert_eq!(host.feature(&get_feature(fid, select::SAVED, cdw11)), Ok(default), "feature {fid:#x}");
    }
}

#[test]
fn formats_of_copy_are_enabled_by_host_behavior_until_a_reset() {
    let mut host = Host::new("size=1MiB");
    let get = |host: &mut Host, select| {
        let bytes = host.admin_read(&get_feature(fid::HOST_BEHAVIOR_SUPPORT, select, 0), 512).unwrap();
        HostBehaviorSupport::read_from_bytes(&bytes).unwrap()
    };
    let set = |host: &mut Host, cdfe: u16| {
        let behavior = HostBehaviorSupport { acre: 1, cdfe: cdfe.into(), ..Default::default() };
        host.admin_write(set_feature(fid::HOST_BEHAVIOR_SUPPORT, 0), behavior.as_bytes())
    };
    let none = HostBehaviorSupport::default();
    assert_eq!(get(&mut host, select::CURRENT), none);
    set(&mut host, 1 << 2).unwrap();
    assert_eq!(
        (get(&mut host, select::CURRENT).acre, get(&mut host, select::CURRENT).cdfe.get()),
        (1, 1 << 2)
    );
    assert_eq!(get(&mut host, select::DEFAULT), none);
    set(&mut host, 0xffff).unwrap();
    assert_eq!(get(&mut host, select::CURRENT).cdfe.get(), 1 << 2, "what it has");
    host.reset();
    assert_eq!(get(&mut host, select::CURRENT), none);
}

#[test]
fn features_that_are_not_there_or_not_that_way_are_refused() {
    let mut host = Host::new("namespaces=2");
    let mut save = set_feature(fid::ARBITRATION, 0);
    save.cdw10.set(save.cdw10.get() | 1 << 31);
    let mut of_namespace = set_feature(fid::ARBITRATION, 0);
    of_namespace.nsid.set(1);
    let mut recovery = set_feature(fid::ERROR_RECOVERY, 5);
    recovery.nsid.set(3);
    let mut dulbe = set_feature(fid::ERROR_RECOVERY, 1 << 16);
    dulbe.nsid.set(1);
    for (entry, status) in [
        (save, Status::FEATURE_NOT_SAVEABLE),
        (of_namespace, Status::FEATURE_NOT_NAMESPACE_SPECIFIC),
        (recovery, Status::INVALID_NAMESPACE_OR_FORMAT),
        (dulbe, Status::INVALID_FIELD),
        (set_feature(fid::POWER_MANAGEMENT, 1), Status::INVALID_FIELD),
        (set_feature(fid::VOLATILE_WRITE_CACHE, 1), Status::INVALID_FIELD),
        (set_feature(fid::HOST_MEMORY_BUFFER, 0), Status::INVALID_FIELD),
        (set_feature(fid::ASYNC_EVENT_CONFIGURATION, 1 << 11), Status::INVALID_FIELD),
        (get_feature(fid::KEEP_ALIVE_TIMER, 0, 0), Status::INVALID_FIELD),
        (get_feature(fid::LBA_RANGE_TYPE, select::SUPPORTED_CAPABILITIES, 0), Status::INVALID_FIELD),
        (get_feature(fid::ARBITRATION, 4, 0), Status::INVALID_FIELD),
        (get_feature(fid::TEMPERATURE_THRESHOLD, 0, 3 << 16), Status::INVALID_FIELD),
        (get_feature(fid::INTERRUPT_VECTOR_CONFIGURATION, 0, 5000), Status::INVALID_FIELD),
    ] {
        let found = host.feature(&entry).unwrap_err();
        assert!(found.is(status), "{}: {found} instead of {status}", entry.display_admin());
    }
}

#[test]
fn error_recovery_is_kept_per_namespace() {
    let mut host = Host::new("namespaces=2");
    let with_nsid = |mut entry: SubmissionQueueEntry, nsid: u32| {
        entry.nsid.set(nsid);
        entry
    };
    let get = get_feature(fid::ERROR_RECOVERY, select::CURRENT, 0);
    host.feature(&with_nsid(set_feature(fid::ERROR_RECOVERY, 5), 2)).unwrap();
    assert_eq!(host.feature(&with_nsid(get, 1)), Ok(0));
    assert_eq!(host.feature(&with_nsid(get, 2)), Ok(5));
    host.feature(&with_nsid(set_feature(fid::ERROR_RECOVERY, 7), NSID_BROADCAST)).unwrap();
    assert_eq!(host.feature(&with_nsid(get, 1)), Ok(7));
    assert!(host.feature(&with_nsid(get, 3)).is_err());
}

#[test]
fn number_of_queues_limits_what_can_be_created() {
    let mut host = Host::new("queues=4");
    let number =
        |submission: u32, completion: u32| set_feature(fid::NUMBER_OF_QUEUES, completion << 16 | submission);
    assert!(host.feature(&number(0xffff, 0)).unwrap_err().is(Status::INVALID_FIELD));
    assert_eq!(host.feature(&number(99, 99)), Ok(3 << 16 | 3));
    assert_eq!(host.feature(&number(1, 2)), Ok(2 << 16 | 1));
    let memory = host.buffer(PAGE, Direction::DeviceWrites);
    assert!(host.admin(&create_cq(4, 16, memory.iova())).status().is(Status::INVALID_QUEUE_IDENTIFIER));
    assert_eq!(host.admin(&create_cq(3, 16, memory.iova())).status(), Status::SUCCESS);
    assert!(host.feature(&number(1, 1)).unwrap_err().is(Status::COMMAND_SEQUENCE_ERROR));
}

#[test]
fn a_timestamp_goes_on_from_what_was_set() {
    let mut host = Host::new("");
    let mut data = host.buffer(8, Direction::DeviceReads);
    data.copy_from_slice(&1_000_000u64.to_le_bytes());
    let mut set = set_feature(fid::TIMESTAMP, 0);
    set.set_prp(data.iova(), 0);
    host.feature(&set).unwrap();
    let bytes = host.admin_read(&get_feature(fid::TIMESTAMP, select::CURRENT, 0), 8).unwrap();
    let value = u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], 0, 0]);
    assert!((1_000_000..2_000_000).contains(&value), "{value}");
    assert_eq!(bytes[6], 2, "set by the host");
}

#[test]
fn a_reset_brings_the_defaults_back() {
    let mut host = Host::new("");
    host.feature(&set_feature(fid::ARBITRATION, 0x0101_0101)).unwrap();
    host.configure(ControllerConfiguration::new());
    host.admin = Queue { tail: 0, head: 0, phase: true, ..host.admin };
    host.admin.cq.fill(0);
    host.configure(good_configuration());
    let default = host.feature(&get_feature(fid::ARBITRATION, select::DEFAULT, 0));
    assert_eq!(host.feature(&get_feature(fid::ARBITRATION, select::CURRENT, 0)), default);
}

#[test]
fn failed_commands_are_found_in_the_error_log() {
    let mut host = Host::new("size=1MiB");
    let mut queue = host.create_queue(2);
    let mut read = io_command(opcode::nvm::READ, 256, 1);
    read.cid.set(77);
    let status = queue.run(&read).status();
    assert!(status.is(Status::LBA_OUT_OF_RANGE) && status.more());
    let log = host.log(GetLogPage::new(lid::ERROR, 128), 128).unwrap();
    let entry = ErrorLogEntry::read_from_bytes(&log[..64]).unwrap();
    assert_eq!((entry.error_count.get(), entry.sqid.get(), entry.cid.get()), (1, 2, 77));
    assert_eq!((entry.lba.get(), entry.nsid.get(), entry.status()), (256, 1, status));
    assert!(log[64..].iter().all(|byte| *byte == 0));
}

#[test]
fn smart_counts_what_was_done() {
    let mut host = Host::new("size=8MiB,mdts=8");
    let mut queue = host.create_queue(1);
    let data = host.buffer(PAGE, Direction::Bidirectional);
    let with_data = |mut entry: SubmissionQueueEntry| {
        entry.set_prp(data.iova(), 0);
        entry
    };
    for _ in 0..3 {
        assert_eq!(queue.run(&with_data(io_command(opcode::nvm::READ, 0, 1))).status(), Status::SUCCESS);
    }
    for _ in 0..126 {
        assert_eq!(queue.run(&with_data(io_command(opcode::nvm::WRITE, 0, 1))).status(), Status::SUCCESS);
    }
    queue.run(&io_command(opcode::nvm::READ, 1 << 40, 1));
    let smart = SmartLog::read_from_bytes(&host.log(GetLogPage::new(lid::SMART, 512), 512).unwrap()).unwrap();
    assert_eq!((smart.host_read_commands.get(), smart.host_write_commands.get()), (3, 126));
    // 126 blocks of 4096 bytes are 1008 units of 512: two thousands, rounded up.
    assert_eq!((smart.data_units_read.get(), smart.data_units_written.get()), (1, 2));
    assert_eq!((smart.error_log_entries.get(), smart.critical_warning), (1, 0));
    host.feature(&set_feature(fid::TEMPERATURE_THRESHOLD, 300)).unwrap();
    let smart = SmartLog::read_from_bytes(&host.log(GetLogPage::new(lid::SMART, 512), 512).unwrap()).unwrap();
    assert_eq!(smart.critical_warning, SmartLog::WARNING_TEMPERATURE);
}

#[test]
fn the_effects_log_lists_exactly_what_is_accepted() {
    let mut host = Host::new("size=1MiB");
    let log = host.log(GetLogPage::new(lid::COMMANDS_SUPPORTED_AND_EFFECTS, 4096), 4096).unwrap();
    let log = CommandsSupportedAndEffectsLog::read_from_bytes(&log).unwrap();
    let mut queue = host.create_queue(1);
    for opcode in 0..=255 {
        let refused = queue.run(&SubmissionQueueEntry::new(opcode)).status().is(Status::INVALID_OPCODE);
        assert_eq!(log.io[usize::from(opcode)].get() & 1 == 0, refused, "I/O opcode {opcode:#x}");
        if opcode == opcode::admin::ASYNC_EVENT_REQUEST {
            continue;
        }
        let refused = host.admin(&SubmissionQueueEntry::new(opcode)).status().is(Status::INVALID_OPCODE);
        assert_eq!(log.admin[usize::from(opcode)].get() & 1 == 0, refused, "admin opcode {opcode:#x}");
    }
}

#[test]
fn log_pages_are_read_in_parts_and_end_in_zeroes() {
    let mut host = Host::new("");
    let slots = host.log(GetLogPage::new(lid::FIRMWARE_SLOT, 512), 512).unwrap();
    assert_eq!(FirmwareSlotLog::read_from_bytes(&slots).unwrap().active_slot(), 1);
    let part = host.log(GetLogPage { lpo: 8, ..GetLogPage::new(lid::FIRMWARE_SLOT, 8) }, 8).unwrap();
    assert_eq!(part, slots[8..16]);
    let beyond = host.log(GetLogPage { lpo: 504, ..GetLogPage::new(lid::FIRMWARE_SLOT, 64) }, 64).unwrap();
    assert_eq!(beyond, [0; 64]);
    for (get, status) in [
        (GetLogPage { lpo: 2, ..GetLogPage::new(lid::SMART, 8) }, Status::INVALID_FIELD),
        (GetLogPage { lpo: 516, ..GetLogPage::new(lid::SMART, 8) }, Status::INVALID_FIELD),
        (GetLogPage { offset_is_index: true, ..GetLogPage::new(lid::SMART, 8) }, Status::INVALID_FIELD),
        (GetLogPage::new(lid::SMART, (1 << 20) + 4), Status::INVALID_FIELD),
        (GetLogPage::new(lid::PERSISTENT_EVENT, 512), Status::INVALID_LOG_PAGE),
        (GetLogPage::new(0xc0, 512), Status::INVALID_LOG_PAGE),
    ] {
        assert!(host.log(get, 8).unwrap_err().is(status), "{get:?}");
    }
    let mut one = SubmissionQueueEntry::from(GetLogPage::new(lid::SMART, 8));
    one.nsid.set(1);
    assert!(host.admin_read(&one, 8).unwrap_err().is(Status::INVALID_FIELD));
}

#[test]
fn an_event_answers_a_request_and_masks_the_next_one() {
    let mut host = Host::new("");
    let request = |cid: u16| SubmissionQueueEntry {
        cid: cid.into(),
        ..SubmissionQueueEntry::new(opcode::admin::ASYNC_EVENT_REQUEST)
    };
    for cid in 100..104 {
        host.admin.submit(&request(cid));
        assert!(host.admin.poll().is_none());
    }
    assert!(host.admin(&request(104)).status().is(Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED));
    let conflict =
        SubmissionQueueEntry { cid: 101.into(), ..SubmissionQueueEntry::new(opcode::admin::IDENTIFY) };
    assert!(host.admin(&conflict).status().is(Status::CID_CONFLICT));

    let event = AsyncEvent::new(1, 1, lid::SMART);
    host.probe.raise_event(event);
    let completion = host.admin.poll().unwrap();
    assert_eq!((completion.cid.get(), completion.dw0.get()), (100, event.into_dw0()));
    host.probe.raise_event(event);
    assert!(host.admin.poll().is_none(), "masked");
    host.log(GetLogPage::new(lid::SMART, 512), 512).unwrap();
    assert!(host.admin.poll().is_none(), "read with RAE, so still masked");
    host.log(GetLogPage { rae: false, ..GetLogPage::new(lid::SMART, 512) }, 512).unwrap();
    assert_eq!(host.admin.poll().unwrap().cid.get(), 101);
}

#[test]
fn a_temperature_beyond_its_threshold_is_reported_if_that_was_asked_for() {
    let mut host = Host::new("");
    host.admin.submit(&SubmissionQueueEntry::new(opcode::admin::ASYNC_EVENT_REQUEST));
    let over = |kelvin: u32| SubmissionQueueEntry {
        cid: 1.into(),
        ..set_feature(fid::TEMPERATURE_THRESHOLD, kelvin)
    };
    host.feature(&over(300)).unwrap();
    assert!(host.admin.poll().is_none(), "not asked for");
    host.feature(&over(400)).unwrap();
    let enable = set_feature(fid::ASYNC_EVENT_CONFIGURATION, SmartLog::WARNING_TEMPERATURE.into());
    host.feature(&SubmissionQueueEntry { cid: 1.into(), ..enable }).unwrap();
    host.feature(&over(300)).unwrap();
    assert_eq!(host.admin.poll().unwrap().dw0.get(), AsyncEvent::new(1, 1, lid::SMART).into_dw0());
}

#[test]
fn abort_ends_a_command_that_waits_and_only_that() {
    let mut host = Host::new("latency=3600s,size=1MiB");
    let mut queue = host.create_queue(1);
    let flush = |cid: u16| SubmissionQueueEntry { cid: cid.into(), ..io_command(opcode::nvm::FLUSH, 0, 1) };
    for cid in 0..3 {
        queue.submit(&flush(cid));
    }
    assert!(queue.poll().is_none());
    let abort = |qid: u32, cid: u32| {
        let mut entry = SubmissionQueueEntry::new(opcode::admin::ABORT);
        entry.cdw10.set(cid << 16 | qid);
        entry
    };
    for (qid, cid) in [(1, 9), (2, 1), (0, 1), (99, 1)] {
        let completion = host.admin(&abort(qid, cid));
        assert_eq!(
            (completion.status(), completion.dw0.get()),
            (Status::SUCCESS, 1),
            "queue {qid} command {cid}"
        );
    }
    assert_eq!(host.admin(&abort(1, 1)).dw0.get(), 0);
    let completion = queue.poll().unwrap();
    assert_eq!((completion.cid.get(), completion.status()), (1, Status::ABORT_REQUESTED));
    assert!(queue.poll().is_none());
    assert_eq!(host.admin(&abort(1, 1)).dw0.get(), 1, "it is no longer there");
    assert_eq!(host.admin(&delete(opcode::admin::DELETE_IO_SQ, 1)).status(), Status::SUCCESS);
    for cid in [0, 2] {
        let completion = queue.poll().unwrap();
        assert_eq!((completion.cid.get(), completion.status()), (cid, Status::ABORTED_SQ_DELETION));
    }
}
