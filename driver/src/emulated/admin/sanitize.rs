//! Sanitize (NVMe Base 1.4, 5.24 and 8.15). All data is gone when the command completes; what takes its time after that is
//! the rest of the operation, which goes on over resets.

use gangway_spec::Status;
use gangway_spec::aen::{self, AsyncEvent};
use gangway_spec::log::{SanitizeLog, SelfTestResult, lid};

use super::operation::Clock;
use super::{Admin, AdminCommand, Answer, invalid_field};
use crate::emulated::device::Device;

/// SANICAP: crypto erase, block erase and overwrite; No-Deallocate After Sanitize is not there (NDI), and media is not
/// modified afterwards (NODMMAS).
pub(super) const CAPABILITIES: u32 = 1 << 30 | 1 << 29 | 0b111;

const EXIT_FAILURE_MODE: u32 = 1;
const BLOCK_ERASE: u32 = 2;
const CRYPTO_ERASE: u32 = 4;
/// Allow Unrestricted Sanitize Exit.
const AUSE: u32 = 1 << 3;
/// No-Deallocate After Sanitize.
const NO_DEALLOCATE: u32 = 1 << 9;
/// SPROG when nothing goes on.
const NO_PROGRESS: u16 = u16::MAX;

const COMPLETED: AsyncEvent =
    AsyncEvent::new(aen::TYPE_IO_COMMAND_SET, aen::IO_COMMAND_SET_SANITIZE_COMPLETED, lid::SANITIZE_STATUS);

/// What a sanitize operation has come to.
#[derive(Clone, Copy)]
enum State {
    InProgress(Clock),
    Failed,
    Succeeded {
        /// Write commands that the drive had executed by then.
        writes: u64,
    },
}

/// The last sanitize operation.
#[derive(Default)]
pub(super) struct Sanitizing {
    state: Option<State>,
    /// CDW10 of its command.
    cdw10: u32,
    /// Whether erasing failed.
    spoilt: bool,
}

impl Sanitizing {
    /// What commands are refused with at present that may not run while a sanitize goes on, or after it failed.
    pub(super) fn refusal(&self) -> Option<Status> {
        match self.state {
            Some(State::InProgress(_)) => Some(Status::SANITIZE_IN_PROGRESS),
            Some(State::Failed) => Some(Status::SANITIZE_FAILED),
            _ => None,
        }
    }

    pub(super) fn log(&self, device: &Device) -> SanitizeLog {
        let mut log = SanitizeLog::default();
        let (progress, status) = match self.state {
            None => (NO_PROGRESS, SanitizeLog::NEVER.into()),
            Some(State::InProgress(clock)) => {
                ((clock.fraction() * f64::from(NO_PROGRESS - 1)) as u16, SanitizeLog::IN_PROGRESS.into())
            }
            Some(State::Failed) => (NO_PROGRESS, SanitizeLog::FAILED.into()),
            Some(State::Succeeded { writes }) => {
                let erased = device.counters().writes == writes;
                let erased = if erased { SanitizeLog::GLOBAL_DATA_ERASED } else { 0 };
                (NO_PROGRESS, u16::from(SanitizeLog::SUCCEEDED) | erased)
            }
        };
        log.sprog = progress.into();
        log.sstat = status.into();
        log.scdw10 = self.cdw10.into();
        let seconds = device.config.operation.map_or(0, |time| time.as_secs_f64().ceil() as u32);
        for time in [&mut log.overwrite_time, &mut log.block_erase_time, &mut log.crypto_erase_time] {
            time.set(seconds);
        }
        for time in [
            &mut log.overwrite_no_deallocate_time,
            &mut log.block_erase_no_deallocate_time,
            &mut log.crypto_erase_no_deallocate_time,
        ] {
            time.set(u32::MAX);
        }
        log
    }
}

impl Admin {
    /// Notes that a sanitize operation is over, when it is by the clock.
    pub(super) fn settle_sanitize(&mut self, device: &Device) {
        let Some(State::InProgress(clock)) = self.sanitizing.state else { return };
        if !clock.is_done() {
            return;
        }
        let state = if self.sanitizing.spoilt {
            State::Failed
        } else {
            State::Succeeded { writes: device.counters().writes }
        };
        self.sanitizing.state = Some(state);
        device.refuse_io(self.sanitizing.refusal());
        self.events.raise(COMPLETED);
    }
}

impl AdminCommand<'_> {
    pub(super) fn sanitize(&mut self) -> Answer {
        let cdw10 = self.entry.cdw10.get();
        let (action, device) = (cdw10 & 0x7, self.device);
        if self.admin.formatting.is_some() {
            return Err(Status::FORMAT_IN_PROGRESS);
        }
        match (action, self.admin.sanitizing.refusal()) {
            (_, Some(Status::SANITIZE_IN_PROGRESS)) => return Err(Status::SANITIZE_IN_PROGRESS),
            (EXIT_FAILURE_MODE, Some(failed)) if self.admin.sanitizing.cdw10 & AUSE == 0 => {
                return Err(failed);
            }
            (EXIT_FAILURE_MODE, Some(_)) => {
                self.admin.sanitizing = Sanitizing::default();
                device.refuse_io(None);
                return Ok(0);
            }
            (EXIT_FAILURE_MODE, None) => return Ok(0),
            (BLOCK_ERASE..=CRYPTO_ERASE, _) if cdw10 & NO_DEALLOCATE == 0 => {}
            _ => return invalid_field(),
        }
        // What has failed in restricted mode is not to be followed by something that can be left.
        let restricted = self.admin.sanitizing.refusal().is_some() && self.admin.sanitizing.cdw10 & AUSE == 0;
        if restricted && cdw10 & AUSE != 0 {
            return Err(Status::SANITIZE_FAILED);
        }
        if self.admin.firmware.waits_for_reset() {
            return Err(Status::FIRMWARE_REQUIRES_CONTROLLER_RESET.with_dnr());
        }
        self.admin.self_tests.end(SelfTestResult::ABORTED_BY_SANITIZE, device.power_on_hours());
        device.refuse_io(Some(Status::SANITIZE_IN_PROGRESS));
        // From here on no command is at work on the data.
        device.publish_namespaces();
        let erased = device.namespaces.list(0).iter().try_for_each(|(namespace, _)| namespace.erase());
        self.admin.sanitizing = Sanitizing {
            state: Some(State::InProgress(Clock::start(device.config.operation))),
            cdw10,
            spoilt: erased.is_err(),
        };
        self.admin.settle_sanitize(device);
        Ok(0)
    }
}

impl Device {
    /// Refuses I/O commands for all namespaces with this status from now on, or takes that back.
    fn refuse_io(&self, status: Option<Status>) {
        self.namespaces.list(0).iter().for_each(|(namespace, _)| namespace.refuse(status));
    }
}
