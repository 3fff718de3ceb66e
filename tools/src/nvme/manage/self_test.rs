//! `device-self-test`.

use anyhow::bail;
use clap::Args;
use gangway_spec::command::NSID_BROADCAST;
use gangway_spec::log::{DeviceSelfTestLog, SelfTestResult, lid};
use gangway_spec::{SubmissionQueueEntry, opcode};

use super::follow;
use crate::device::Data;
use crate::exit::Exit;
use crate::nvme::args::{self, Target};
use crate::nvme::logs::{page, self_test_outcome};
use crate::nvme::session::{self, Session, structure};
use crate::output;

/// Starts, watches or ends a self-test of the drive
///
/// The drive does its work meanwhile. A short test takes two minutes at most and ends when the controller is reset, so on a
/// drive of this machine this waits for it; an extended one goes on over resets.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway device-self-test pci:0000:01:00.0 -s 1          a short test
  gangway device-self-test pci:0000:01:00.0 -s 2 --wait   an extended one, to its end
  gangway self-test-log pci:0000:01:00.0                  what came of the last 20")]
pub(crate) struct DeviceSelfTest {
    #[command(flatten)]
    target: Target,
    /// Namespace to test as well: 0 for none [default: all]
    #[arg(short, long, value_name = "NSID", value_parser = args::number32, default_value_t = NSID_BROADCAST)]
    namespace_id: u32,
    /// 0 shows what runs, 1 starts a short test, 2 an extended one, 0xe the vendor's, 0xf ends the test that runs
    #[arg(short, long, value_name = "CODE", value_parser = args::number8, default_value_t = 0)]
    self_test_code: u8,
    /// Wait until the test is over
    #[arg(short, long)]
    wait: bool,
}

impl DeviceSelfTest {
    pub(in crate::nvme) fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            let code = self.self_test_code;
            if code == 0 {
                return show(session);
            }
            let mut entry = SubmissionQueueEntry::new(opcode::admin::DEVICE_SELF_TEST);
            entry.nsid.set(self.namespace_id);
            entry.cdw10.set(u32::from(code & 0xf));
            session.admin(&entry, Data::None)?;
            if code == DeviceSelfTestLog::ABORT {
                output::print("The self-test was ended")?;
                return Ok(Exit::Success);
            }
            let ends_with_us = session.device.is_ours() && code != DeviceSelfTestLog::EXTENDED;
            if self.wait || ends_with_us {
                return wait(session, ends_with_us);
            }
            output::print("The self-test was started; `gangway device-self-test` shows how far it is")?;
            Ok(Exit::Success)
        })
    }
}

fn log(session: &mut Session) -> anyhow::Result<Box<DeviceSelfTestLog>> {
    let length = size_of::<DeviceSelfTestLog>();
    structure(&session.log(page(lid::DEVICE_SELF_TEST), NSID_BROADCAST, length)?)
}

fn show(session: &mut Session) -> anyhow::Result<Exit> {
    let log = log(session)?;
    output::print(&match log.current_operation & 0xf {
        DeviceSelfTestLog::NONE => "no self-test runs".to_owned(),
        code => {
            let kind = match code {
                DeviceSelfTestLog::SHORT => "a short",
                DeviceSelfTestLog::EXTENDED => "an extended",
                _ => "a",
            };
            format!("{kind} self-test runs, {} % of it are done", log.current_completion & 0x7f)
        }
    })?;
    Ok(Exit::Success)
}

fn wait(session: &mut Session, ends_with_us: bool) -> anyhow::Result<Exit> {
    let ended = follow(session, "self-test", |session| {
        let log = log(session)?;
        Ok(match log.current_operation & 0xf {
            DeviceSelfTestLog::NONE => Ok(log.results[0]),
            _ => Err(((log.current_completion & 0x7f).into(), 100)),
        })
    })?;
    let Some(result) = ended else {
        eprintln!(
            "self-test: {}",
            if ends_with_us {
                "left; the drive is reset now, which ends the test"
            } else {
                "left; the drive goes on, and `gangway device-self-test` shows how far it is"
            }
        );
        return Ok(Exit::Failure);
    };
    let outcome = self_test_outcome(&result);
    if result.result() != SelfTestResult::PASSED {
        bail!("{}: the self-test {outcome}; `gangway self-test-log` has more about it", session.name());
    }
    output::print(&format!("The self-test {outcome}"))?;
    Ok(Exit::Success)
}
