//! What is remembered of a bound drive, so that it can be given back and still be recognised.

use std::{io, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::Machine;
use crate::sysfs::{Controller, PciAddress, PciFunction, Roots, attribute};

/// A file below /run, named after the function's address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Record {
    /// The driver to give it back to.
    pub driver: Option<String>,
    /// The `driver_override` it had.
    pub driver_override: Option<String>,
    /// PCI vendor and device, to notice that another drive was put into the slot.
    pub vendor: String,
    pub device: String,
    /// PCI subsystem, for the same purpose.
    pub subsystem_vendor: String,
    pub subsystem_device: String,
    pub model_number: Option<String>,
    pub serial_number: Option<String>,
    pub firmware: Option<String>,
    /// Bytes.
    pub physical_size: Option<u64>,
}

impl Record {
    pub(super) fn of(function: &PciFunction, controller: Option<&Controller>) -> Self {
        Self {
            driver: function.driver.clone(),
            driver_override: function.driver_override.clone(),
            vendor: function.vendor.clone(),
            device: function.device.clone(),
            subsystem_vendor: function.subsystem_vendor.clone(),
            subsystem_device: function.subsystem_device.clone(),
            model_number: controller.and_then(|controller| controller.model.clone()),
            serial_number: controller.and_then(|controller| controller.serial.clone()),
            firmware: controller.and_then(|controller| controller.firmware.clone()),
            physical_size: controller.map(Controller::size),
        }
    }

    pub(super) fn path(roots: &Roots, address: PciAddress) -> PathBuf {
        roots.run.join("gangway/bind").join(address.to_string())
    }

    /// What was remembered of this function; `None` when there is nothing, or it was of another drive.
    pub(crate) fn load(roots: &Roots, function: &PciFunction) -> Option<Self> {
        let record: Self = serde_json::from_str(&attribute(&Self::path(roots, function.address))?).ok()?;
        record.is_of(function).then_some(record)
    }

    /// Whether the function may be that of the remembered drive: it is of the same type.
    pub(super) fn is_of(&self, function: &PciFunction) -> bool {
        self.vendor == function.vendor
            && self.device == function.device
            && self.subsystem_vendor == function.subsystem_vendor
            && self.subsystem_device == function.subsystem_device
    }

    pub(super) fn save(
        &self,
        roots: &Roots,
        address: PciAddress,
        machine: &mut dyn Machine,
    ) -> io::Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        machine.save(&Self::path(roots, address), &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    #[test]
    fn a_record_of_another_drive_in_the_same_slot_is_not_used() {
        let fake = Fake::new();
        fake.drive("0000:01:00.0", 1, "nvme0");
        let function = fake.pci("0000:01:00.0");
        let mut record = Record::of(&function, None);
        fake.write("run/gangway/bind/0000:01:00.0", &serde_json::to_string(&record).unwrap());
        assert_eq!(Record::load(&fake.roots, &function), Some(record.clone()));
        record.device = "ffff".into();
        fake.write("run/gangway/bind/0000:01:00.0", &serde_json::to_string(&record).unwrap());
        assert_eq!(Record::load(&fake.roots, &function), None);
        fake.write("run/gangway/bind/0000:01:00.0", "{");
        assert_eq!(Record::load(&fake.roots, &function), None);
    }
}
