//! Namespace Management and Attachment.

use gangway_spec::aen::AsyncEvent;
use gangway_spec::feature::fid;
use gangway_spec::identify::{Oaes, cns};
use gangway_spec::log::{GetLogPage, lid};
use gangway_spec::{IdentifyController, IdentifyNamespace};

use super::*;

/// Select of both commands.
const CREATE_OR_ATTACH: u32 = 0;
const DELETE_OR_DETACH: u32 = 1;

impl Host {
    fn create(&mut self, blocks: u64, capacity: u64, flbas: u8, dps: u8) -> Result<u32, Status> {
        let mut namespace = IdentifyNamespace::default();
        namespace.nsze = blocks.into();
        namespace.ncap = capacity.into();
        namespace.flbas = flbas;
        namespace.dps = dps;
        self.admin_write(SubmissionQueueEntry::new(opcode::admin::NAMESPACE_MANAGEMENT), namespace.as_bytes())
    }

    fn delete(&mut self, nsid: u32) -> Result<u32, Status> {
        let mut entry = SubmissionQueueEntry::new(opcode::admin::NAMESPACE_MANAGEMENT);
        entry.nsid.set(nsid);
        entry.cdw10.set(DELETE_OR_DETACH);
        self.admin_write(entry, &[])
    }

    fn attach(&mut self, nsid: u32, select: u32) -> Result<u32, Status> {
        let mut entry = SubmissionQueueEntry::new(opcode::admin::NAMESPACE_ATTACHMENT);
        entry.nsid.set(nsid);
        entry.cdw10.set(select);
        self.admin_write(entry, &[1, 0, 0, 0])
    }

    fn list(&mut self, cns: u8) -> Vec<u32> {
        let bytes = self.identify(cns, 0).unwrap();
        let numbers = bytes.chunks_exact(4).map(|it| u32::from_le_bytes([it[0], it[1], it[2], it[3]]));
        numbers.take_while(|nsid| *nsid != 0).collect()
    }

    fn unallocated(&mut self) -> u128 {
        let bytes = self.identify(cns::CONTROLLER, 0).unwrap();
        IdentifyController::read_from_bytes(&bytes).unwrap().unallocated_capacity()
    }

    fn read_block(&mut self, queue: &mut Queue, nsid: u32) -> Status {
        let buffer = self.buffer(PAGE, Direction::Bidirectional);
        let mut entry = io_command(opcode::nvm::READ, 0, 1);
        entry.nsid.set(nsid);
        entry.set_prp(buffer.iova(), 0);
        entry.mptr.set(buffer.iova() + 2048);
        queue.run(&entry).status()
    }
}

#[test]
fn namespaces_come_and_go_and_capacity_is_accounted_for() {
    let mut host = Host::new("size=1MiB,capacity=4MiB,max-namespaces=4");
    let mut queue = host.create_queue(1);
    assert_eq!(host.unallocated(), 3 << 20);
    assert_eq!(host.create(256, 256, 4, 0), Ok(2));
    assert_eq!(host.create(2048, 2048, 1, 1), Ok(3));
    assert_eq!(host.unallocated(), (3 << 20) - (1 << 20) - 2048 * 520);
    assert!(host.create(2048, 2048, 1, 0).unwrap_err().is(Status::NAMESPACE_INSUFFICIENT_CAPACITY));
    assert_eq!(
        (host.list(cns::ACTIVE_NAMESPACE_LIST), host.list(cns::ALLOCATED_NAMESPACE_LIST)),
        (vec![1], vec![1, 2, 3])
    );
    assert!(host.read_block(&mut queue, 3).is(Status::INVALID_FIELD), "not attached");
    assert!(host.identify(cns::NAMESPACE, 3).unwrap().iter().all(|byte| *byte == 0));
    let bytes = host.identify(cns::ALLOCATED_NAMESPACE, 3).unwrap();
    let namespace = IdentifyNamespace::read_from_bytes(&bytes).unwrap();
    assert_eq!((namespace.nsze.get(), namespace.flbas, namespace.dps), (2048, 1, 1));

    assert_eq!(host.attach(3, CREATE_OR_ATTACH), Ok(0));
    assert!(host.attach(3, CREATE_OR_ATTACH).unwrap_err().is(Status::NAMESPACE_ALREADY_ATTACHED));
    assert_eq!(host.identify(cns::ATTACHED_CONTROLLER_LIST, 3).unwrap()[..4], [1, 0, 0, 0]);
    assert_eq!(host.identify(cns::ATTACHED_CONTROLLER_LIST, 2).unwrap()[..4], [0, 0, 0, 0]);
    assert_eq!(host.identify(cns::CONTROLLER_LIST, 0).unwrap()[..4], [1, 0, 0, 0]);
    assert_eq!(host.read_block(&mut queue, 3), Status::SUCCESS);
    assert_eq!(host.attach(3, DELETE_OR_DETACH), Ok(0));
    assert!(host.attach(3, DELETE_OR_DETACH).unwrap_err().is(Status::NAMESPACE_NOT_ATTACHED));
    assert!(host.read_block(&mut queue, 3).is(Status::INVALID_FIELD));

    let before = host.identify(cns::NAMESPACE_DESCRIPTORS, 1).unwrap();
    assert_eq!(host.delete(1), Ok(0));
    assert!(host.read_block(&mut queue, 1).is(Status::INVALID_FIELD));
    assert!(host.delete(1).unwrap_err().is(Status::INVALID_FIELD));
    assert!(host.delete(5).unwrap_err().is(Status::INVALID_NAMESPACE_OR_FORMAT));
    assert_eq!(host.create(16, 16, 4, 0), Ok(1));
    assert_eq!(host.attach(1, CREATE_OR_ATTACH), Ok(0));
    assert_ne!(host.identify(cns::NAMESPACE_DESCRIPTORS, 1).unwrap(), before, "another namespace");
    assert_eq!(host.delete(u32::MAX), Ok(0));
    assert_eq!((host.list(cns::ALLOCATED_NAMESPACE_LIST), host.unallocated()), (vec![], 4 << 20));
    for nsid in 1..=4 {
        assert_eq!(host.create(1, 1, 0, 0), Ok(nsid));
    }
    assert!(host.create(1, 1, 0, 0).unwrap_err().is(Status::NAMESPACE_IDENTIFIER_UNAVAILABLE));
    assert_eq!(host.probe.violations(), 0);
}

#[test]
fn namespaces_that_cannot_be_are_refused() {
    let mut host = Host::new("size=1MiB,capacity=4MiB,max-namespaces=4");
    for (blocks, capacity, flbas, dps, status) in [
        (0, 0, 0, 0, Status::INVALID_FIELD),
        (10, 11, 0, 0, Status::INVALID_FIELD),
        (10, 9, 0, 0, Status::THIN_PROVISIONING_NOT_SUPPORTED),
        (10, 10, 8, 0, Status::INVALID_FORMAT),
        (10, 10, 0, 1, Status::INVALID_FORMAT),
        (u64::MAX, u64::MAX, 0, 0, Status::NAMESPACE_INSUFFICIENT_CAPACITY),
    ] {
        let found = host.create(blocks, capacity, flbas, dps).unwrap_err();
        assert!(found.is(status), "{blocks} {capacity} {flbas} {dps}: {found}");
    }
    let mut zoned = SubmissionQueueEntry::new(opcode::admin::NAMESPACE_MANAGEMENT);
    zoned.cdw11.set(2 << 24);
    assert!(host.admin_write(zoned, &[1]).unwrap_err().is(Status::IO_COMMAND_SET_NOT_SUPPORTED));
    let mut attach = SubmissionQueueEntry::new(opcode::admin::NAMESPACE_ATTACHMENT);
    attach.nsid.set(1);
    for list in [[0, 0, 0, 0], [2, 0, 0, 0], [1, 0, 1, 0]] {
        assert!(host.admin_write(attach, &list).unwrap_err().is(Status::CONTROLLER_LIST_INVALID), "{list:?}");
    }
}

#[test]
fn what_is_created_where_something_was_reads_as_zeroes() {
    let folder = tempfile::tempdir().unwrap();
    let file = format!("file={},", folder.path().join("disk").display());
    for backing in ["", file.as_str()] {
        let mut host = Host::new(&format!("{backing}size=1MiB,namespaces=2"));
        let mut queue = host.create_queue(1);
        let mut buffer = host.buffer(PAGE, Direction::Bidirectional);
        let mut run = |opcode, nsid: u32, buffer: &DmaBuffer| {
            let mut entry = io_command(opcode, 0, 1);
            entry.nsid.set(nsid);
            entry.set_prp(buffer.iova(), 0);
            assert_eq!(queue.run(&entry).status(), Status::SUCCESS);
        };
        buffer.fill(9);
        run(opcode::nvm::WRITE, 1, &buffer);
        run(opcode::nvm::WRITE, 2, &buffer);
        assert_eq!((host.delete(1), host.create(10, 10, 4, 0)), (Ok(0), Ok(1)));
        assert_eq!(host.attach(1, CREATE_OR_ATTACH), Ok(0));
        run(opcode::nvm::READ, 2, &buffer);
        assert!(buffer.iter().all(|byte| *byte == 9));
        run(opcode::nvm::READ, 1, &buffer);
        assert!(buffer.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn changes_of_namespaces_are_reported_and_listed_if_that_was_asked_for() {
    let mut host = Host::new("size=1MiB,capacity=4MiB,max-namespaces=4");
    host.admin.submit(&SubmissionQueueEntry {
        cid: 99.into(),
        ..SubmissionQueueEntry::new(opcode::admin::ASYNC_EVENT_REQUEST)
    });
    assert_eq!(host.create(16, 16, 4, 0), Ok(2));
    assert_eq!(host.attach(2, CREATE_OR_ATTACH), Ok(0));
    assert!(host.admin.poll().is_none(), "not asked for");
    let mut enable = SubmissionQueueEntry::new(opcode::admin::SET_FEATURES);
    enable.cdw10.set(fid::ASYNC_EVENT_CONFIGURATION.into());
    enable.cdw11.set(Oaes::NAMESPACE_ATTRIBUTE.bits());
    assert_eq!(host.admin(&enable).status(), Status::SUCCESS);
    assert_eq!(host.attach(2, DELETE_OR_DETACH), Ok(0));
    let completion = host.admin.poll().unwrap();
    let event = AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED;
    assert_eq!((completion.cid.get(), completion.dw0.get()), (99, event.into_dw0()));
    for (rae, expected) in [(true, [2, 0]), (false, [2, 0]), (true, [0, 0])] {
        let get = GetLogPage { rae, ..GetLogPage::new(lid::CHANGED_NAMESPACES, 4096) };
        let log = host.admin_read(&SubmissionQueueEntry::from(get), PAGE).unwrap();
        assert_eq!([log[0], log[4]], expected);
    }
}
