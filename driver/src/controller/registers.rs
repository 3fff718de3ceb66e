//! The state machine of CC and CSTS (NVMe Base 2.0, 3.1.3.5, 3.5 and 3.6): disable, enable, shut down.

use std::thread;
use std::time::{Duration, Instant};

use gangway_spec::registers::{
    ACQ, AQA, ASQ, AdminQueueAttributes, CAP, CC, CRTO, CSTS, ControllerCapabilities,
    ControllerConfiguration, ControllerReadyTimeouts, ControllerStatus, VS, Version,
};

use super::ControllerError;
use crate::function::{Function, FunctionError};

/// CAP.TO and CRTO count in these.
const TIMEOUT_UNIT: Duration = Duration::from_millis(500);

/// CRTO can state nine hours. Neither start nor exit wait that long for a drive that states nonsense.
const LONGEST_READY: Duration = Duration::from_secs(600);

/// The driver sleeps this long between polls at first, twice as long each time, and [`LONGEST_SLEEP`] at most.
const SHORTEST_SLEEP: Duration = Duration::from_micros(20);
const LONGEST_SLEEP: Duration = Duration::from_millis(1);

/// Sleeps between polls, with a time limit.
pub(super) struct Poll {
    started: Instant,
    limit: Duration,
    sleep: Duration,
}

impl Poll {
    pub(super) fn new(limit: Duration) -> Self {
        Self { started: Instant::now(), limit, sleep: SHORTEST_SLEEP }
    }

    /// The time limit.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// Sleeps; `false` when the time is up.
    pub(super) fn again(&mut self) -> bool {
        let in_time = self.in_time();
        if in_time {
            self.sleep();
        }
        in_time
    }

    /// Whether the time is not up.
    pub(super) fn in_time(&self) -> bool {
        self.started.elapsed() < self.limit
    }

    /// Sleeps.
    pub(super) fn sleep(&mut self) {
        thread::sleep(self.sleep);
        self.sleep = (self.sleep * 2).min(LONGEST_SLEEP);
    }
}

/// Whether a controller is ready when its media is (CC.CRIME 0), which is what every one can do that has no modes to
/// choose from, and what is wanted: commands to namespaces are not to fail because the drive has not spun up. Only one
/// that cannot is told to be ready without; it answers Namespace Not Ready, or Admin Command Media Not Ready, meanwhile.
fn waits_for_media(cap: ControllerCapabilities) -> bool {
    cap.crms() & ControllerCapabilities::CRMS_WITH_MEDIA != 0
        || cap.crms() & ControllerCapabilities::CRMS_INDEPENDENT_OF_MEDIA == 0
}

/// The registers of one function, with the time limits that it states itself.
pub(super) struct Registers<'a> {
    function: &'a dyn Function,
}

impl<'a> Registers<'a> {
    pub(super) fn new(function: &'a dyn Function) -> Self {
        Self { function }
    }

    /// CAP, which tells a controller that answers from one that is gone.
    pub(super) fn capabilities(&self) -> Result<ControllerCapabilities, ControllerError> {
        match self.function.read_register64(CAP)? {
            u64::MAX => Err(self.gone().into()),
            bits => Ok(ControllerCapabilities::from_bits(bits)),
        }
    }

    pub(super) fn version(&self) -> Result<Version, ControllerError> {
        Ok(Version(self.function.read_register32(VS)?))
    }

    /// CC.EN to 0, and wait until CSTS.RDY is 0. From then on the controller touches no queue and no data.
    pub(super) fn disable(&self, cap: ControllerCapabilities) -> Result<(), ControllerError> {
        let limit = self.ready_timeout(cap)?;
        let cc = self.configuration()?;
        if cc.en() {
            if !self.status()?.rdy() {
                // EN may only be cleared once RDY has followed it. A controller that never gets there is disabled
                // all the same: that is its last chance.
                match self.wait(limit, "become ready before it is disabled", |csts| csts.rdy() || csts.cfs())
                {
                    Ok(_) | Err(ControllerError::Timeout { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            let cc = cc.with_en(false).with_shn(ControllerConfiguration::SHN_NONE);
            self.function.write_register32(CC, cc.into_bits())?;
        }
        self.wait(limit, "become disabled (CSTS.RDY to 0)", |csts| !csts.rdy())?;
        Ok(())
    }

    /// Sets the admin queues and CC, and waits until CSTS.RDY is 1. The controller must be disabled.
    pub(super) fn enable(
        &self,
        cap: ControllerCapabilities,
        entries: u16,
        (asq, acq): (u64, u64),
    ) -> Result<(), ControllerError> {
        if cap.mpsmin() != 0 {
            let smallest = 1u64 << (12 + cap.mpsmin());
            return Err(
                self.unsupported(format!("its smallest memory page size is {smallest} bytes, not 4096"))
            );
        }
        let css = if cap.css() & ControllerCapabilities::CSS_IO_COMMAND_SETS != 0 {
            ControllerConfiguration::CSS_ALL
        } else if cap.css() & ControllerCapabilities::CSS_NVM != 0 {
            ControllerConfiguration::CSS_NVM
        } else {
            return Err(
                self.unsupported(format!("it has no I/O command set (CAP.CSS is {:#04x})", cap.css()))
            );
        };
        let attributes = AdminQueueAttributes::new().with_asqs(entries - 1).with_acqs(entries - 1);
        self.function.write_register32(AQA, attributes.into_bits())?;
        self.function.write_register64(ASQ, asq)?;
        self.function.write_register64(ACQ, acq)?;
        let cc = ControllerConfiguration::new()
            .with_css(css)
            .with_mps(0)
            // 64-byte submission and 16-byte completion queue entries: the only ones defined.
            .with_iosqes(6)
            .with_iocqes(4)
            .with_crime(!waits_for_media(cap));
        // What may only be changed while EN is 0, is.
        self.function.write_register32(CC, cc.into_bits())?;
        self.function.write_register32(CC, cc.with_en(true).into_bits())?;
        let action = "become ready (CSTS.RDY to 1)";
        let csts = self.wait(self.ready_timeout(cap)?, action, |csts| csts.rdy() || csts.cfs())?;
        if csts.cfs() {
            return Err(ControllerError::Fatal {
                function: self.function.name().to_owned(),
                action: action.into(),
            });
        }
        Ok(())
    }

    /// CC.SHN to normal, and wait until CSTS.SHST says that it is complete, or CSTS.CFS that it will never be.
    pub(super) fn shut_down(&self, limit: Duration) -> Result<(), ControllerError> {
        let cc = self.configuration()?;
        if !cc.en() {
            return Ok(());
        }
        self.function.write_register32(CC, cc.with_shn(ControllerConfiguration::SHN_NORMAL).into_bits())?;
        let action = "shut down (CSTS.SHST)";
        let complete = |csts: ControllerStatus| csts.shst() == ControllerStatus::SHST_COMPLETE;
        if complete(self.wait(limit, action, |csts| complete(csts) || csts.cfs())?) {
            return Ok(());
        }
        Err(ControllerError::Fatal { function: self.function.name().to_owned(), action: action.into() })
    }

    fn configuration(&self) -> Result<ControllerConfiguration, ControllerError> {
        match self.function.read_register32(CC)? {
            u32::MAX => Err(self.gone().into()),
            bits => Ok(ControllerConfiguration::from_bits(bits)),
        }
    }

    pub(super) fn status(&self) -> Result<ControllerStatus, ControllerError> {
        let csts = ControllerStatus::from_bits(self.function.read_register32(CSTS)?);
        if csts.is_all_ones() { Err(self.gone().into()) } else { Ok(csts) }
    }

    fn wait(
        &self,
        limit: Duration,
        action: &str,
        reached: impl Fn(ControllerStatus) -> bool,
    ) -> Result<ControllerStatus, ControllerError> {
        let mut poll = Poll::new(limit);
        loop {
            let csts = self.status()?;
            if reached(csts) {
                return Ok(csts);
            }
            if !poll.again() {
                let function = self.function.name().to_owned();
                return Err(ControllerError::Timeout { function, action: action.into(), limit });
            }
        }
    }

    /// The worst case that the controller states for getting ready and for being disabled, and a unit more, since some
    /// state 0, but [`LONGEST_READY`] at most. CRTO replaces CAP.TO where it exists, but may be left 0 too (NVMe Base 2.0,
    /// 3.1.3.20); which half of it counts depends on the mode that [`Registers::enable`] chooses.
    pub(super) fn ready_timeout(&self, cap: ControllerCapabilities) -> Result<Duration, ControllerError> {
        let mut units = u32::from(cap.to());
        if cap.crms() != 0 {
            let crto = ControllerReadyTimeouts::from_bits(self.function.read_register32(CRTO)?);
            let stated = if waits_for_media(cap) { crto.crwmt() } else { crto.crimt() };
            units = units.max(u32::from(stated));
        }
        Ok((TIMEOUT_UNIT * (units + 1)).min(LONGEST_READY))
    }

    fn unsupported(&self, reason: String) -> ControllerError {
        ControllerError::Unsupported { function: self.function.name().to_owned(), reason }
    }

    fn gone(&self) -> FunctionError {
        FunctionError::Gone { function: self.function.name().to_owned() }
    }
}
