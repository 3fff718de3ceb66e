//! Get Log Page (NVMe Base 1.4, 5.14).

use std::borrow::Cow;

use gangway_spec::Status;
use gangway_spec::command::NSID_BROADCAST;
use gangway_spec::log::{CommandsSupportedAndEffectsLog, FirmwareSlotLog, GetLogPage, SmartLog, lid};
use gangway_spec::opcode::{admin, nvm};
use zerocopy::IntoBytes;

use super::identify::FIRMWARE;
use super::{AdminCommand, Answer, invalid_field};
use crate::emulated::device::{Device, lock};

/// What the drive says its temperature is, in kelvin: it has none.
pub(super) const TEMPERATURE: u16 = 313;

/// CSUPP: the command is supported.
const SUPPORTED: u32 = 1 << 0;
/// LBCC: the command may change the content of blocks.
const CHANGES_BLOCKS: u32 = 1 << 1;

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
        let page = self.log_page(get.lid)?;
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
            self.admin.events.log_page_was_read(get.lid);
        }
        Ok(0)
    }

    fn log_page(&self, lid: u8) -> Result<Vec<u8>, Status> {
        Ok(match lid {
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
            lid::FIRMWARE_SLOT => {
                let mut log = FirmwareSlotLog::default();
                log.afi = 1;
                log.set_revision(1, FIRMWARE);
                log.as_bytes().to_vec()
            }
            lid::COMMANDS_SUPPORTED_AND_EFFECTS => effects_log(self.device).as_bytes().to_vec(),
            _ => return Err(Status::INVALID_LOG_PAGE.with_dnr()),
        })
    }
}

fn smart_log(device: &Device) -> SmartLog {
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
    log.power_cycles = 1.into();
    log.power_on_hours = u128::from(device.since.elapsed().as_secs() / 3600).into();
    log.media_errors = u128::from(counters.media_errors).into();
    log.error_log_entries = u128::from(lock(&device.error_log).count()).into();
    log
}

fn effects_log(device: &Device) -> CommandsSupportedAndEffectsLog {
    let mut log = CommandsSupportedAndEffectsLog::default();
    for opcode in [
        admin::DELETE_IO_SQ,
        admin::CREATE_IO_SQ,
        admin::GET_LOG_PAGE,
        admin::DELETE_IO_CQ,
        admin::CREATE_IO_CQ,
        admin::IDENTIFY,
        admin::ABORT,
        admin::SET_FEATURES,
        admin::GET_FEATURES,
        admin::ASYNC_EVENT_REQUEST,
    ] {
        log.admin[usize::from(opcode)].set(SUPPORTED);
    }
    for opcode in [nvm::FLUSH, nvm::READ, nvm::VERIFY] {
        log.io[usize::from(opcode)].set(SUPPORTED);
    }
    for opcode in [nvm::WRITE, nvm::WRITE_ZEROES, nvm::DATASET_MANAGEMENT] {
        log.io[usize::from(opcode)].set(SUPPORTED | CHANGES_BLOCKS);
    }
    if device.store.keeps_data() {
        log.io[usize::from(nvm::COMPARE)].set(SUPPORTED);
    }
    log
}
