//! Get Features and Set Features (NVMe Base 1.4, 5.13 and 5.21). No feature can be saved.

use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use gangway_spec::Status;
use gangway_spec::aen::{self, AsyncEvent};
use gangway_spec::command::NSID_BROADCAST;
use gangway_spec::feature::{self, HostBehaviorSupport, fid, select};
use gangway_spec::identify::Oaes;
use gangway_spec::log::{SmartLog, lid};
use zerocopy::IntoBytes;

use super::identify::{WARNING_TEMPERATURE, events};
use super::logs::TEMPERATURE;
use super::{AdminCommand, Answer, Granted, invalid_field};
use crate::emulated::config::EmulatedConfig;
use crate::emulated::io::copy;

/// Temperature Threshold: the under threshold instead of the over threshold (THSEL).
const UNDER: u32 = 1;
/// Error Recovery: Deallocated or Unwritten Logical Block Error Enable.
const DULBE: u32 = 1 << 16;
/// Asynchronous Event Configuration: the critical warnings of the SMART log, and telemetry, which LPA promises.
const EVENTS_SUPPORTED: u32 = 0x1f | feature::TELEMETRY_LOG_NOTICES;
/// Timestamp: bytes of its data structure.
const TIMESTAMP_LEN: usize = 8;
/// Timestamp: it was set by the host (origin 001b).
const TIMESTAMP_SET_BY_HOST: u8 = 1 << 1;
/// Timestamp: milliseconds take 48 bits.
const TIMESTAMP_MASK: u64 = (1 << 48) - 1;

/// What the host has set. Everything goes back to its default with a controller reset, but for the timestamp.
pub(super) struct Features {
    arbitration: u32,
    power_management: u32,
    over_temperature: u16,
    under_temperature: u16,
    /// Of each namespace, by index.
    error_recovery: Box<[u32]>,
    write_cache: u32,
    interrupt_coalescing: u32,
    /// Coalescing Disable of each vector, by index.
    coalescing_disabled: Box<[bool]>,
    write_atomicity: u32,
    event_configuration: u32,
    timestamp: Option<(u64, Instant)>,
    host_behavior: HostBehaviorSupport,
}

/// The temperature at which nothing warns: no threshold is set below the warning temperature of Identify.
const DEFAULT_OVER_TEMPERATURE: u16 = WARNING_TEMPERATURE;

impl Features {
    pub(super) fn new(config: &EmulatedConfig) -> Self {
        Self {
            // Arbitration burst: no limit.
            arbitration: 7,
            power_management: 0,
            over_temperature: DEFAULT_OVER_TEMPERATURE,
            under_temperature: 0,
            error_recovery: vec![0; config.max_namespaces() as usize].into(),
            write_cache: 1,
            interrupt_coalescing: 0,
            coalescing_disabled: vec![false; usize::from(config.queues) + 1].into(),
            write_atomicity: 0,
            event_configuration: 0,
            timestamp: None,
            host_behavior: HostBehaviorSupport::default(),
        }
    }

    /// Back to the defaults.
    pub(super) fn reset(&mut self, config: &EmulatedConfig) {
        *self = Self { timestamp: self.timestamp, ..Self::new(config) };
    }

    /// Whether the host wants events of this kind.
    pub(super) fn enables(&self, kind: Oaes) -> bool {
        self.enables_bits(kind.bits())
    }

    /// Whether the host has set one of these bits of the Asynchronous Event Configuration.
    pub(super) fn enables_bits(&self, bits: u32) -> bool {
        self.event_configuration & bits != 0
    }

    /// The critical warning of the SMART log.
    pub(super) fn critical_warning(&self) -> u8 {
        let beyond = TEMPERATURE >= self.over_temperature || TEMPERATURE <= self.under_temperature;
        if beyond { SmartLog::WARNING_TEMPERATURE } else { 0 }
    }
}

impl AdminCommand<'_> {
    pub(super) fn get_features(&mut self) -> Answer {
        let fid = feature::feature_id(self.entry);
        if fid == fid::VOLATILE_WRITE_CACHE && !self.device.store.has_volatile_cache() {
            return invalid_field();
        }
        match feature::feature_select(self.entry) {
            select::CURRENT => self.current(fid),
            // Nothing can be saved, so what is saved is the default.
            select::DEFAULT | select::SAVED => self.default(fid),
            select::SUPPORTED_CAPABILITIES => match fid {
                fid::ERROR_RECOVERY => {
                    Ok(select::SUPPORTED_CHANGEABLE | select::SUPPORTED_NAMESPACE_SPECIFIC)
                }
                fid::ARBITRATION..=fid::ASYNC_EVENT_CONFIGURATION
                | fid::TIMESTAMP
                | fid::HOST_BEHAVIOR_SUPPORT
                    if fid != fid::LBA_RANGE_TYPE =>
                {
                    Ok(select::SUPPORTED_CHANGEABLE)
                }
                _ => invalid_field(),
            },
            _ => invalid_field(),
        }
    }

    fn current(&mut self, fid: u8) -> Answer {
        if fid == fid::TIMESTAMP {
            let timestamp = timestamp(self.admin.features.timestamp);
            return self.send(&timestamp);
        }
        if fid == fid::HOST_BEHAVIOR_SUPPORT {
            let behavior = self.admin.features.host_behavior;
            return self.send(behavior.as_bytes());
        }
        self.current_without_data(fid)
    }

    fn current_without_data(&self, fid: u8) -> Answer {
        let features = &self.admin.features;
        let cdw11 = self.entry.cdw11.get();
        match fid {
            fid::ARBITRATION => Ok(features.arbitration),
            fid::POWER_MANAGEMENT => Ok(features.power_management),
            fid::TEMPERATURE_THRESHOLD => {
                let (sensor, kind) = temperature_selector(cdw11)?;
                match (sensor, kind) {
                    (0, UNDER) => Ok(features.under_temperature.into()),
                    (0, _) => Ok(features.over_temperature.into()),
                    _ => invalid_field(),
                }
            }
            fid::ERROR_RECOVERY => {
                self.device.namespaces.active(self.entry.nsid.get())?;
                let index = self.entry.nsid.get() as usize - 1;
                Ok(features.error_recovery.get(index).copied().unwrap_or(0))
            }
            fid::VOLATILE_WRITE_CACHE => Ok(features.write_cache),
            fid::NUMBER_OF_QUEUES => {
                let Granted { submission, completion } = self.admin.granted;
                Ok(feature::number_of_queues(submission.into(), completion.into()))
            }
            fid::INTERRUPT_COALESCING => Ok(features.interrupt_coalescing),
            fid::INTERRUPT_VECTOR_CONFIGURATION => {
                let vector = cdw11 & 0xffff;
                match features.coalescing_disabled.get(vector as usize) {
                    Some(disabled) => Ok(vector | u32::from(*disabled) << 16),
                    None => invalid_field(),
                }
            }
            fid::WRITE_ATOMICITY => Ok(features.write_atomicity),
            fid::ASYNC_EVENT_CONFIGURATION => Ok(features.event_configuration),
            fid::TIMESTAMP => Ok(0),
            _ => invalid_field(),
        }
    }

    fn default(&mut self, fid: u8) -> Answer {
        let usual = Features::new(&self.device.config);
        let set = std::mem::replace(&mut self.admin.features, usual);
        let granted = self.admin.granted;
        self.admin.granted =
            Granted { submission: self.device.config.queues, completion: self.device.config.queues };
        let answer = self.current(fid);
        self.admin.features = set;
        self.admin.granted = granted;
        answer
    }

    pub(super) fn set_features(&mut self) -> Answer {
        let (fid, cdw11, nsid) =
            (feature::feature_id(self.entry), self.entry.cdw11.get(), self.entry.nsid.get());
        if fid == fid::VOLATILE_WRITE_CACHE && !self.device.store.has_volatile_cache() {
            return invalid_field();
        }
        if feature::feature_save(self.entry) {
            return Err(Status::FEATURE_NOT_SAVEABLE.with_dnr());
        }
        if fid != fid::ERROR_RECOVERY && !matches!(nsid, 0 | NSID_BROADCAST) {
            return Err(Status::FEATURE_NOT_NAMESPACE_SPECIFIC.with_dnr());
        }
        match fid {
            fid::ERROR_RECOVERY => return self.set_error_recovery(nsid, cdw11),
            fid::NUMBER_OF_QUEUES => return self.set_number_of_queues(cdw11),
            fid::TIMESTAMP => return self.set_timestamp(),
            fid::HOST_BEHAVIOR_SUPPORT => return self.set_host_behavior(),
            _ => {}
        }
        let features = &mut self.admin.features;
        match fid {
            fid::ARBITRATION => features.arbitration = cdw11,
            // There is one power state.
            fid::POWER_MANAGEMENT if cdw11 & 0x1f == 0 => features.power_management = cdw11 & 0xff,
            fid::TEMPERATURE_THRESHOLD => {
                let (threshold, before) = (cdw11 as u16, features.critical_warning());
                match temperature_selector(cdw11)? {
                    (0 | 0xf, UNDER) => features.under_temperature = threshold,
                    (0 | 0xf, _) => features.over_temperature = threshold,
                    _ => return invalid_field(),
                }
                let new = features.critical_warning() & !before;
                if u32::from(new) & features.event_configuration != 0 {
                    self.admin.events.raise(AsyncEvent::new(
                        aen::TYPE_SMART,
                        aen::SMART_TEMPERATURE,
                        lid::SMART,
                    ));
                }
            }
            fid::VOLATILE_WRITE_CACHE => {
                features.write_cache = cdw11 & 1;
                self.device.write_cache.store(cdw11 & 1 == 1, Ordering::Relaxed);
                // What was written before may be in the cache still; it is not to stay there.
                self.device.store.flush()?;
            }
            fid::INTERRUPT_COALESCING => features.interrupt_coalescing = cdw11 & 0xffff,
            fid::INTERRUPT_VECTOR_CONFIGURATION => {
                match features.coalescing_disabled.get_mut((cdw11 & 0xffff) as usize) {
                    Some(disabled) => *disabled = cdw11 & 1 << 16 != 0,
                    None => return invalid_field(),
                }
            }
            fid::WRITE_ATOMICITY => features.write_atomicity = cdw11 & 1,
            fid::ASYNC_EVENT_CONFIGURATION
                if cdw11 & !(EVENTS_SUPPORTED | events(self.device).bits()) == 0 =>
            {
                features.event_configuration = cdw11
            }
            _ => return invalid_field(),
        }
        Ok(0)
    }

    fn set_error_recovery(&mut self, nsid: u32, cdw11: u32) -> Answer {
        self.device.namespaces.active_or_all(nsid)?;
        // The error for deallocated blocks is not promised by NSFEAT.
        if cdw11 & DULBE != 0 {
            return invalid_field();
        }
        let time_limit = cdw11 & 0xffff;
        let all = &mut self.admin.features.error_recovery;
        if nsid == NSID_BROADCAST {
            all.fill(time_limit);
        } else if let Some(one) = all.get_mut(nsid as usize - 1) {
            *one = time_limit;
        }
        Ok(0)
    }

    fn set_number_of_queues(&mut self, cdw11: u32) -> Answer {
        if self.admin.has_io_queues {
            return Err(Status::COMMAND_SEQUENCE_ERROR.with_dnr());
        }
        let (submission, completion) = (cdw11 as u16, (cdw11 >> 16) as u16);
        if submission == u16::MAX || completion == u16::MAX {
            return invalid_field();
        }
        let most = self.device.config.queues;
        let granted = Granted { submission: most.min(submission + 1), completion: most.min(completion + 1) };
        self.admin.granted = granted;
        Ok(feature::number_of_queues(granted.submission.into(), granted.completion.into()))
    }

    fn set_timestamp(&mut self) -> Answer {
        let mut data = [0; TIMESTAMP_LEN];
        self.receive(&mut data)?;
        let millis = u64::from_le_bytes(data) & TIMESTAMP_MASK;
        self.admin.features.timestamp = Some((millis, Instant::now()));
        Ok(0)
    }

    /// Host Behavior Support (NVMe Base 2.1, 5.1.25.1.14). Only formats of Copy depend on it.
    fn set_host_behavior(&mut self) -> Answer {
        let mut behavior = HostBehaviorSupport::default();
        self.receive(behavior.as_mut_bytes())?;
        behavior.cdfe &= copy::FORMATS & !copy::FIRST_FORMATS;
        self.device.copy_formats.store(copy::FIRST_FORMATS | behavior.cdfe.get(), Ordering::Relaxed);
        self.admin.features.host_behavior = behavior;
        Ok(0)
    }
}

/// Sensor and kind of threshold that CDW11 selects.
fn temperature_selector(cdw11: u32) -> Result<(u32, u32), Status> {
    let (sensor, kind) = (cdw11 >> 16 & 0xf, cdw11 >> 20 & 0x3);
    if kind > UNDER { invalid_field() } else { Ok((sensor, kind)) }
}

/// The Timestamp data structure; what was never set starts with the clock of this machine.
fn timestamp(set: Option<(u64, Instant)>) -> [u8; TIMESTAMP_LEN] {
    let (millis, attributes) = match set {
        Some((millis, at)) => (millis.wrapping_add(at.elapsed().as_millis() as u64), TIMESTAMP_SET_BY_HOST),
        None => (SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64, 0),
    };
    let mut data = (millis & TIMESTAMP_MASK).to_le_bytes();
    data[6] = attributes;
    data
}
