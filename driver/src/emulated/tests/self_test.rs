//! Device Self-test.

use gangway_spec::log::{DeviceSelfTestLog, GetLogPage, SelfTestResult, lid};

use super::*;

const ABORT: u32 = 0xf;

impl Host {
    pub(super) fn self_test(&mut self, nsid: u32, code: u32) -> Status {
        let mut entry = SubmissionQueueEntry::new(opcode::admin::DEVICE_SELF_TEST);
        entry.nsid.set(nsid);
        entry.cdw10.set(code);
        self.admin(&entry).status()
    }

    pub(super) fn tests(&mut self) -> DeviceSelfTestLog {
        let log = self.log(GetLogPage::new(lid::DEVICE_SELF_TEST, 564), 564).unwrap();
        DeviceSelfTestLog::read_from_bytes(&log).unwrap()
    }
}

#[test]
fn the_newest_twenty_results_are_kept() {
    let mut host = Host::new("size=1MiB");
    assert!(host.tests().results.iter().all(|result| result.result() == SelfTestResult::UNUSED));
    for number in 0..25 {
        assert_eq!(host.self_test(u32::from(number > 20), 1 + number % 2), Status::SUCCESS);
    }
    let log = host.tests();
    assert_eq!((log.current_operation, log.current_completion), (0, 0));
    let codes: Vec<_> = log.results.iter().map(|result| (result.result(), result.code())).collect();
    assert_eq!(codes[..3], [(0, 1), (0, 2), (0, 1)]);
    assert_eq!(codes.len(), 20);
    assert_eq!((log.results[0].nsid.get(), log.results[0].valid), (1, 1));
    assert_eq!((log.results[19].nsid.get(), log.results[19].valid), (0, 0));
    assert!(host.self_test(9, 1).is(Status::INVALID_NAMESPACE_OR_FORMAT));
    assert!(host.self_test(0, 3).is(Status::INVALID_FIELD));
}

#[test]
fn a_test_goes_on_until_it_is_over_or_something_ends_it() {
    let mut host = Host::new("size=1MiB,operation=1000s");
    assert_eq!(host.self_test(0, 1), Status::SUCCESS);
    assert_eq!(host.tests().current_operation, 1);
    assert!(host.self_test(0, 2).is(Status::DEVICE_SELF_TEST_IN_PROGRESS));
    assert_eq!(host.self_test(0, ABORT), Status::SUCCESS);
    assert_eq!(host.tests().results[0].result(), SelfTestResult::ABORTED_BY_COMMAND);
    assert_eq!(host.self_test(0, 1), Status::SUCCESS);
    host.reset();
    assert_eq!(host.tests().results[0].result(), SelfTestResult::ABORTED_BY_RESET);
    assert_eq!(host.self_test(0, 2), Status::SUCCESS);
    host.reset();
    assert_eq!(host.tests().current_operation, 2, "an extended one survives a reset");
    let mut format = SubmissionQueueEntry::new(opcode::admin::FORMAT_NVM);
    format.nsid.set(1);
    format.cid.set(9);
    host.admin.submit(&format);
    assert_eq!(host.tests().results[0].result(), SelfTestResult::ABORTED_BY_FORMAT);
}
