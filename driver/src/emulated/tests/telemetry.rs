//! Telemetry, collected for a host and by the drive itself.

use gangway_spec::feature::{TELEMETRY_LOG_NOTICES, fid};
use gangway_spec::log::{ErrorLogEntry, GetLogPage, SmartLog, TelemetryHeader, lid};

use super::*;

const CREATE: u8 = 1;

impl Host {
    fn telemetry(&mut self, get: GetLogPage) -> TelemetryHeader {
        let header = self.log(GetLogPage { numd: 127, ..get }, 512).unwrap();
        TelemetryHeader::read_from_bytes(&header).unwrap()
    }

    fn block(&mut self, lid: u8, block: u32) -> Vec<u8> {
        let lpo = u64::from(block) * TelemetryHeader::BLOCK as u64;
        self.log(GetLogPage { lpo, ..GetLogPage::new(lid, 512) }, 512).unwrap()
    }

    /// Switches the events on; the request that is outstanding ends with one.
    fn want_telemetry_events(&mut self, request: u16) {
        let mut entry = SubmissionQueueEntry::new(opcode::admin::SET_FEATURES);
        entry.cdw10.set(fid::ASYNC_EVENT_CONFIGURATION.into());
        entry.cdw11.set(TELEMETRY_LOG_NOTICES);
        assert_eq!(self.admin(&entry).status(), Status::SUCCESS);
        let event = self.admin.poll().unwrap();
        assert_eq!((event.cid.get(), event.dw0.get()), (request, 0x0008_0202));
    }

    fn request_event(&mut self, cid: u16) {
        let mut entry = SubmissionQueueEntry::new(opcode::admin::ASYNC_EVENT_REQUEST);
        entry.cid.set(cid);
        self.admin.submit(&entry);
    }
}

/// What is read without clearing anything.
fn kept(lid: u8) -> GetLogPage {
    GetLogPage::new(lid, 512)
}

#[test]
fn a_host_collects_when_it_says_so_and_reads_what_was_collected_as_often_as_it_likes() {
    let mut host = Host::new("size=1MiB,serial=TELLTALE");
    let nothing = host.telemetry(kept(lid::TELEMETRY_HOST));
    assert_eq!((nothing.lid, nothing.last_block(3), nothing.host_generation), (7, 0, 0));

    let failing = SubmissionQueueEntry::new(0xc0);
    assert!(host.admin(&failing).status().is(Status::INVALID_OPCODE));
    let collected = host.telemetry(GetLogPage { lsp: CREATE, ..kept(lid::TELEMETRY_HOST) });
    let [one, two, three] = [1, 2, 3].map(|area| collected.last_block(area));
    assert!(one >= 1 && two == one + 1 && three == two + 8, "{one} {two} {three}");
    assert_eq!(host.telemetry(kept(lid::TELEMETRY_HOST)), collected, "reading alone changes nothing");
    assert_eq!(collected.host_generation, 1);

    let text = host.block(lid::TELEMETRY_HOST, 1);
    let text = str::from_utf8(&text).unwrap();
    assert!(text.contains("serial: TELLTALE\n") && text.contains("errors: 1\n"), "{text}");
    let smart = SmartLog::read_from_bytes(&host.block(lid::TELEMETRY_HOST, two)).unwrap();
    assert_eq!(smart.error_log_entries.get(), 1);
    let errors = host.block(lid::TELEMETRY_HOST, two + 1);
    let error = ErrorLogEntry::read_from_bytes(&errors[..64]).unwrap();
    assert!(error.status().is(Status::INVALID_OPCODE));
    assert!(host.block(lid::TELEMETRY_HOST, three).iter().all(|byte| *byte == 0), "no more errors");

    host.reset();
    assert_eq!(host.telemetry(kept(lid::TELEMETRY_HOST)), collected, "it outlives a reset");
    let again = host.telemetry(GetLogPage { lsp: CREATE, ..kept(lid::TELEMETRY_HOST) });
    assert_eq!(again.host_generation, 2);
}

#[test]
fn parts_are_read_by_blocks() {
    let mut host = Host::new("size=1MiB");
    for lid in [lid::TELEMETRY_HOST, lid::TELEMETRY_CONTROLLER] {
        let middle = GetLogPage { lpo: 256, ..GetLogPage::new(lid, 256) };
        assert!(host.log(middle, 256).unwrap_err().is(Status::INVALID_FIELD));
    }
}

#[test]
fn the_drive_collects_when_it_fails_and_keeps_that_until_it_was_read() {
    let mut host = Host::new("size=1MiB,fault=cfs:admin:op=0xc0:once,fault=event=telemetry:admin:op=0xc4");
    host.admin.submit(&SubmissionQueueEntry::new(0xc0));
    assert!(host.status().cfs());
    host.reset();

    let header = host.telemetry(kept(lid::TELEMETRY_CONTROLLER));
    assert_eq!((header.lid, header.controller_available, header.controller_generation), (8, 1, 1));
    assert!(header.reason.starts_with(b"a declared fault\0"));
    assert!(header.last_block(3) > 8);
    let other = host.telemetry(kept(lid::TELEMETRY_HOST));
    assert_eq!(
        (other.controller_available, other.controller_generation),
        (1, 1),
        "the other log says so too"
    );

    // A host that wants to know is told of what was collected before, once.
    host.request_event(7);
    assert!(host.admin.poll().is_none());
    host.want_telemetry_events(7);
    let again = SubmissionQueueEntry::new(0xc4);
    assert!(host.admin(&again).status().is(Status::INVALID_OPCODE));
    let header = host.telemetry(GetLogPage { rae: false, ..kept(lid::TELEMETRY_CONTROLLER) });
    assert_eq!((header.controller_available, header.controller_generation), (1, 1), "it was not read yet");
    assert_eq!(host.telemetry(kept(lid::TELEMETRY_CONTROLLER)).controller_available, 0);
    host.request_event(8);
    host.admin.submit(&again);
    let event = host.admin.poll().unwrap();
    assert_eq!((event.cid.get(), event.dw0.get()), (8, 0x0008_0202), "now it collects anew");
    assert!(host.admin.poll().unwrap().status().is(Status::INVALID_OPCODE));
    assert_eq!(host.telemetry(kept(lid::TELEMETRY_CONTROLLER)).controller_generation, 2);
}

#[test]
fn nobody_is_told_who_does_not_want_to_know() {
    let mut host = Host::new("size=1MiB,fault=event=telemetry:admin:op=0xc4");
    host.request_event(7);
    assert!(host.admin(&SubmissionQueueEntry::new(0xc4)).status().is(Status::INVALID_OPCODE));
    assert!(host.admin.poll().is_none());
    assert_eq!(host.telemetry(kept(lid::TELEMETRY_CONTROLLER)).controller_available, 1);
}
