//! Device Self-test (NVMe Base 1.4, 5.8). A test finds nothing: it takes its time and passes, unless something ends it.

use std::collections::VecDeque;

use gangway_spec::Status;
use gangway_spec::command::NSID_BROADCAST;
use gangway_spec::log::{DeviceSelfTestLog, SelfTestResult};

use super::operation::Clock;
use super::{AdminCommand, Answer, invalid_field};

/// EDSTT: an extended test takes this many minutes, as far as a host has to know.
pub(super) const EXTENDED_MINUTES: u16 = 60;
/// DSTO: one test at a time in the subsystem.
pub(super) const OPTIONS: u8 = 1 << 0;
/// Results that the log keeps.
const RESULTS: usize = 20;
/// Which fields of a result are valid: the namespace.
const NSID_VALID: u8 = 1 << 0;

/// The test that goes on.
#[derive(Clone, Copy)]
struct Test {
    code: u8,
    nsid: u32,
    clock: Clock,
}

/// The test that goes on, and what came of those before.
#[derive(Default)]
pub(super) struct SelfTests {
    current: Option<Test>,
    /// Newest first.
    results: VecDeque<SelfTestResult>,
}

impl SelfTests {
    /// Notes that a test is over, when it is by the clock.
    pub(super) fn settle(&mut self, power_on_hours: u64) {
        if self.current.is_some_and(|test| test.clock.is_done()) {
            self.end(SelfTestResult::PASSED, power_on_hours);
        }
    }

    /// Ends the test that goes on, if there is one, with this result.
    pub(super) fn end(&mut self, result: u8, power_on_hours: u64) {
        let Some(Test { code, nsid, .. }) = self.current.take() else { return };
        self.results.truncate(RESULTS - 1);
        let mut ended = SelfTestResult::default();
        ended.status = code << 4 | result;
        ended.valid = if nsid == 0 { 0 } else { NSID_VALID };
        ended.nsid = nsid.into();
        ended.power_on_hours = power_on_hours.into();
        self.results.push_front(ended);
    }

    /// A controller reset ends a short test; an extended one goes on over it.
    pub(super) fn reset(&mut self, power_on_hours: u64) {
        self.settle(power_on_hours);
        if self.current.is_some_and(|test| test.code == DeviceSelfTestLog::SHORT) {
            self.end(SelfTestResult::ABORTED_BY_RESET, power_on_hours);
        }
    }

    pub(super) fn log(&self) -> DeviceSelfTestLog {
        let mut log = DeviceSelfTestLog::default();
        if let Some(test) = &self.current {
            log.current_operation = test.code;
            log.current_completion = test.clock.percent();
        }
        log.results.iter_mut().for_each(|unused| unused.status = SelfTestResult::UNUSED);
        log.results.iter_mut().zip(&self.results).for_each(|(place, result)| *place = *result);
        log
    }
}

impl AdminCommand<'_> {
    pub(super) fn device_self_test(&mut self) -> Answer {
        let (nsid, code) = (self.entry.nsid.get(), (self.entry.cdw10.get() & 0xf) as u8);
        let tests = &mut self.admin.self_tests;
        match code {
            DeviceSelfTestLog::SHORT | DeviceSelfTestLog::EXTENDED => {
                if !matches!(nsid, 0 | NSID_BROADCAST) {
                    self.device.namespaces.active(nsid)?;
                }
                if tests.current.is_some() {
                    return Err(Status::DEVICE_SELF_TEST_IN_PROGRESS);
                }
                tests.current = Some(Test { code, nsid, clock: Clock::start(self.device.config.operation) });
                tests.settle(self.device.power_on_hours());
            }
            DeviceSelfTestLog::ABORT => {
                tests.end(SelfTestResult::ABORTED_BY_COMMAND, self.device.power_on_hours());
            }
            _ => return invalid_field(),
        }
        Ok(0)
    }
}
