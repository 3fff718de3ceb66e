//! The options that say what the controller of an emulated drive can do, beyond what every one can.

use std::time::Duration;

use super::config::{ConfigError, DisplayDuration, EmulatedConfig, parse_nanoseconds, wrong};
use super::prp::PAGE;

/// CAP.TO and CRTO count in these.
pub(super) const TIMEOUT_UNIT: Duration = Duration::from_millis(500);
/// The largest value of CAP.TO.
const TIMEOUT_MAX: Duration = Duration::from_millis(500 * 255);
/// The largest value of CRTO.CRWMT.
const CRTO_MAX: Duration = Duration::from_millis(500 * 65_535);

/// What the controller of an emulated drive can do, beyond what every one can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// I/O commands may name their memory by SGLs (SGLS).
    pub sgl: bool,
    /// There is Doorbell Buffer Config (OACS bit 8).
    pub shadow_doorbells: bool,
    /// There are commands of a vendor, C1h, C2h and C6h: they store data in the drive, give it back, and lie.
    pub vendor: bool,
    /// CAP.MPSMIN: the smallest memory page size in bytes, a power of two from 4096 on. With more than 4096 the drive
    /// cannot be enabled, as it has no other pages: a driver is to refuse it.
    pub page: u32,
    /// CAP.TO: how long the controller may take to get ready and to be disabled, in steps of 500 ms.
    pub ready_timeout: Duration,
    /// CRTO.CRWMT, in steps of 500 ms, and CAP.CRMS to say that it is there. `None`: it is not.
    pub crto: Option<Duration>,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            sgl: false,
            shadow_doorbells: false,
            vendor: false,
            page: PAGE as u32,
            // Nothing takes time unless it is told to, but a host must not give up on a busy machine either.
            ready_timeout: Duration::from_secs(10),
            crto: None,
        }
    }
}

/// A time as these registers hold it.
pub(super) fn timeout_units(time: Duration) -> u16 {
    u16::try_from(time.as_millis() / TIMEOUT_UNIT.as_millis()).unwrap_or(u16::MAX)
}

impl Capabilities {
    /// Takes an option over if it is one of these.
    pub(super) fn apply(&mut self, name: &str, value: Option<&str>) -> Result<bool, ConfigError> {
        let bare = |option, form| {
            if value.is_none() { Ok(true) } else { Err(ConfigError::Form { option, form }) }
        };
        let time = |option, form| {
            let value = value.filter(|value| !value.is_empty()).ok_or(ConfigError::Form { option, form })?;
            let expected = "a time with its unit, such as 500ms or 2s";
            parse_nanoseconds(value).map(Duration::from_nanos).ok_or_else(|| wrong(option, value, expected))
        };
        match name {
            "sgl" => self.sgl = bare("sgl", "sgl, without a value")?,
            "shadow-doorbells" => {
                self.shadow_doorbells = bare("shadow-doorbells", "shadow-doorbells, without a value")?;
            }
            "vendor" => self.vendor = bare("vendor", "vendor, without a value")?,
            "page" => {
                let value = value.unwrap_or_default();
                self.page =
                    value.parse().map_err(|_| wrong("page", value, "a number of bytes, such as 8192"))?;
            }
            "ready-timeout" => self.ready_timeout = time("ready-timeout", "ready-timeout=10s")?,
            "crto" => self.crto = Some(time("crto", "crto=10s")?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Appends those that differ from the default.
    pub(super) fn show(&self, options: &mut Vec<String>) {
        let usual = Self::default();
        if self.sgl {
            options.push("sgl".to_owned());
        }
        if self.shadow_doorbells {
            options.push("shadow-doorbells".to_owned());
        }
        if self.vendor {
            options.push("vendor".to_owned());
        }
        if self.page != usual.page {
            options.push(format!("page={}", self.page));
        }
        if self.ready_timeout != usual.ready_timeout {
            options.push(format!("ready-timeout={}", DisplayDuration(self.ready_timeout)));
        }
        if let Some(crto) = self.crto {
            options.push(format!("crto={}", DisplayDuration(crto)));
        }
    }
}

impl EmulatedConfig {
    /// Checks that there can be such a controller.
    pub(super) fn validate_capabilities(&self) -> Result<(), ConfigError> {
        let Capabilities { shadow_doorbells, page, ready_timeout, crto, .. } = &self.capabilities;
        // MPSMIN has four bits.
        if !page.is_power_of_two() || !(PAGE as u32..=(PAGE as u32) << 15).contains(page) {
            return Err(wrong("page", page, "a power of two from 4096 to 134217728"));
        }
        for (option, time, most) in
            [("ready-timeout", Some(*ready_timeout), TIMEOUT_MAX), ("crto", *crto, CRTO_MAX)]
        {
            let Some(time) = time else { continue };
            if time > most || !time.as_nanos().is_multiple_of(TIMEOUT_UNIT.as_nanos()) {
                let expected = format!("a multiple of 500ms, and {} at most", DisplayDuration(most));
                return Err(wrong(option, DisplayDuration(time), expected));
            }
        }
        let doorbells = (2 * (usize::from(self.queues) + 1)) << (2 + self.stride);
        if *shadow_doorbells && doorbells > PAGE {
            let expected =
                format!("so few that their shadow doorbells, which take {doorbells} bytes, fit {PAGE}");
            return Err(wrong("queues", self.queues, expected));
        }
        Ok(())
    }
}
