//! Sanitize.

use gangway_spec::aen::{self, AsyncEvent};
use gangway_spec::log::{GetLogPage, SanitizeLog, SelfTestResult, lid};

use super::*;

const EXIT_FAILURE_MODE: u32 = 1;
const BLOCK_ERASE: u32 = 2;

impl Host {
    fn sanitize(&mut self, cdw10: u32) -> Status {
        let mut entry = SubmissionQueueEntry::new(opcode::admin::SANITIZE);
        entry.cdw10.set(cdw10);
        self.admin(&entry).status()
    }

    fn sanitized(&mut self) -> SanitizeLog {
        let get = GetLogPage { rae: false, ..GetLogPage::new(lid::SANITIZE_STATUS, 512) };
        let log = self.log(get, 512).unwrap();
        SanitizeLog::read_from_bytes(&log).unwrap()
    }
}

#[test]
fn all_data_is_gone_and_the_event_says_when_it_is_over() {
    let mut host = Host::new("size=1MiB,block=512,namespaces=2");
    assert_eq!(host.controller().sanicap.get(), 0x6000_0007);
    assert_eq!((host.sanitized().status(), host.sanitized().sprog.get()), (SanitizeLog::NEVER, 0xffff));
    let mut queue = host.create_queue(1);
    let mut data = host.buffer(PAGE, Direction::Bidirectional);
    for (action, nsid) in [(BLOCK_ERASE, 1), (3, 2), (4, 1)] {
        let mut entry = io_command(opcode::nvm::WRITE, 3, 8);
        entry.nsid.set(nsid);
        entry.set_prp(data.iova(), 0);
        data.copy_from_slice(&pattern(6, PAGE));
        assert_eq!(queue.run(&entry).status(), Status::SUCCESS);
        let mut request = SubmissionQueueEntry::new(opcode::admin::ASYNC_EVENT_REQUEST);
        request.cid.set(77);
        host.admin.submit(&request);
        assert_eq!(host.sanitize(action), Status::SUCCESS);
        let event = AsyncEvent::from_dw0(host.admin.poll().expect("the event").dw0.get());
        assert_eq!((event.kind, event.log_page), (aen::TYPE_IO_COMMAND_SET, lid::SANITIZE_STATUS));
        let log = host.sanitized();
        assert_eq!((log.sstat.get(), log.sprog.get(), log.scdw10.get()), (0x101, 0xffff, action));
        entry.opcode = opcode::nvm::READ;
        assert_eq!(queue.run(&entry).status(), Status::SUCCESS);
        assert!(data.iter().all(|byte| *byte == 0), "action {action}");
        entry.opcode = opcode::nvm::WRITE;
        assert_eq!(queue.run(&entry).status(), Status::SUCCESS);
        assert_eq!(host.sanitized().sstat.get(), 1, "something was written since");
    }
    assert_eq!(host.sanitize(EXIT_FAILURE_MODE), Status::SUCCESS, "there is nothing to leave");
    for wrong in [0, 5, BLOCK_ERASE | 1 << 9] {
        assert!(host.sanitize(wrong).is(Status::INVALID_FIELD), "{wrong:#x}");
    }
}

#[test]
fn other_commands_are_refused_while_it_goes_on_and_a_reset_does_not_end_it() {
    let mut host = Host::new("size=1MiB,operation=1000s");
    let mut queue = host.create_queue(1);
    assert_eq!(host.self_test(0, 1), Status::SUCCESS);
    assert_eq!(host.sanitize(BLOCK_ERASE), Status::SUCCESS);
    assert_eq!(host.tests().results[0].result(), SelfTestResult::ABORTED_BY_SANITIZE);
    let flush = io_command(opcode::nvm::FLUSH, 0, 1);
    assert!(queue.run(&flush).status().is(Status::SANITIZE_IN_PROGRESS));
    assert!(host.self_test(0, 1).is(Status::SANITIZE_IN_PROGRESS));
    assert!(host.sanitize(BLOCK_ERASE).is(Status::SANITIZE_IN_PROGRESS));
    host.reset();
    let mut queue = host.create_queue(1);
    assert!(queue.run(&flush).status().is(Status::SANITIZE_IN_PROGRESS));
    let log = host.sanitized();
    assert_eq!(log.status(), SanitizeLog::IN_PROGRESS);
    assert!(log.sprog.get() < 0x1000);
    assert_eq!(log.block_erase_time.get(), 1000);
}
