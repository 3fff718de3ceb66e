//! Get Log Page (NVMe Base 1.4, 5.14).

use std::borrow::Cow;

use gangway_spec::Status;
use gangway_spec::command::NSID_BROADCAST;
use gangway_spec::log::{GetLogPage, SmartLog, TelemetryHeader, lid};
use zerocopy::IntoBytes;

use super::{AdminCommand, Answer, invalid_field};
use crate::emulated::commands;
use crate::emulated::device::{Device, lock};

/// What the drive says its temperature is, in kelvin: it has none.
pub(super) const TEMPERATURE: u16 = 313;

/// Most namespaces that the Changed Namespace List names; when there are more, it says so.
const CHANGED_MOST: usize = 1024;

impl AdminCommand<'_> {
    pub(super) fn get_log_page(&mut self) -> Answer {
        let get = GetLogPage::from(self.entry);
        // Offsets count bytes in whole dwords; offsets as indices came with NVMe 2.0.
        if get.length() > self.device.max_transfer() as u64
            || !get.lpo.is_multiple_of(4)
            || get.offset_is_index
        {
            return invalid_field();
        }
        let page = self.log_page(&get)?;
        let Some(rest) = usize::try_from(get.lpo).ok().and_then(|offset| page.get(offset..)) else {
            return invalid_field();
        };
        // What lies beyond the end of a page is not specified: zeroes.
        let len = get.length() as usize;
        let data = match rest.get(..len) {
            Some(data) => Cow::Borrowed(data),
            None => {
                let mut data = rest.to_vec();
                data.resize(len, 0);
                Cow::Owned(data)
            }
        };
        self.send(&data)?;
        if !get.rae {
            if get.lid == lid::CHANGED_NAMESPACES {
                self.admin.changed_namespaces.clear();
            }
            if get.lid == lid::CHANGED_ZONE_LIST
                && let Some(mut zones) = self.device.namespaces.active(self.entry.nsid.get())?.zones()
            {
                zones.forget_changed();
            }
            if get.lid == lid::TELEMETRY_CONTROLLER {
                self.admin.telemetry.acknowledge();
            }
            self.admin.events.log_page_was_read(get.lid);
        }
        Ok(0)
    }

    fn log_page(&mut self, get: &GetLogPage) -> Result<Vec<u8>, Status> {
        Ok(match get.lid {
            lid::ERROR => lock(&self.device.error_log).latest_first().as_bytes().to_vec(),
            lid::SMART => {
                // The log of one namespace alone is not promised by LPA.
                if !matches!(self.entry.nsid.get(), 0 | NSID_BROADCAST) {
                    return invalid_field();
                }
                let mut log = smart_log(self.device);
                log.critical_warning = self.admin.features.critical_warning();
                log.as_bytes().to_vec()
            }
            lid::FIRMWARE_SLOT => self.admin.firmware.log().as_bytes().to_vec(),
            lid::DEVICE_SELF_TEST => self.admin.self_tests.log().as_bytes().to_vec(),
            // Parts of it are read by blocks (NVMe Base 1.4, 5.14.1.7).
            lid::TELEMETRY_HOST | lid::TELEMETRY_CONTROLLER
                if !get.lpo.is_multiple_of(TelemetryHeader::BLOCK as u64) =>
            {
                return invalid_field();
            }
            lid::TELEMETRY_HOST | lid::TELEMETRY_CONTROLLER => self.telemetry(get.lid, get.lsp),
            lid::SANITIZE_STATUS => self.admin.sanitizing.log(self.device).as_bytes().to_vec(),
            lid::COMMANDS_SUPPORTED_AND_EFFECTS => {
                commands::effects_log(self.device, get.csi).as_bytes().to_vec()
            }
            lid::CHANGED_ZONE_LIST => {
                let namespace = self.device.namespaces.active(self.entry.nsid.get())?;
                let zones = namespace.zones().ok_or(Status::INVALID_LOG_PAGE.with_dnr())?;
                zones.changed().as_bytes().to_vec()
            }
            lid::CHANGED_NAMESPACES => {
                let changed = &self.admin.changed_namespaces;
                let mut list = vec![0; CHANGED_MOST * size_of::<u32>()];
                if changed.len() > CHANGED_MOST {
                    list[..4].fill(0xff);
                } else {
                    let places = list.chunks_exact_mut(4);
                    places.zip(changed).for_each(|(place, nsid)| place.copy_from_slice(&nsid.to_le_bytes()));
                }
                list
            }
            _ => return Err(Status::INVALID_LOG_PAGE.with_dnr()),
        })
    }
}

pub(super) fn smart_log(device: &Device) -> SmartLog {
    let counters = device.counters();
    // Units are 1000 times 512 bytes, rounded up.
    let data_units = |blocks: u64| u128::from(blocks.div_ceil(1000)).into();
    let mut log = SmartLog::default();
    log.composite_temperature = TEMPERATURE.into();
    log.available_spare = 100;
    log.available_spare_threshold = 10;
    log.data_units_read = data_units(counters.units_read);
    log.data_units_written = data_units(counters.units_written);
    log.host_read_commands = u128::from(counters.reads).into();
    log.host_write_commands = u128::from(counters.writes).into();
    let (outages, unsafe_outages) = device.outages();
    log.power_cycles = u128::from(1 + outages).into();
    log.unsafe_shutdowns = u128::from(unsafe_outages).into();
    log.power_on_hours = u128::from(device.power_on_hours()).into();
    log.media_errors = u128::from(counters.media_errors).into();
    log.error_log_entries = u128::from(lock(&device.error_log).count()).into();
    log
}
