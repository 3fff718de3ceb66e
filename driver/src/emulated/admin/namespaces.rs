//! Namespace Management and Namespace Attachment (NVMe Base 1.4, 5.19 and 5.20).

use gangway_spec::command::NSID_BROADCAST;
use gangway_spec::identify::{IDENTIFY_LENGTH, csi};
use gangway_spec::{IdentifyNamespace, Status};
use zerocopy::FromBytes;

use super::{AdminCommand, Answer, invalid_field};
use crate::emulated::commands;
use crate::emulated::namespace::Wanted;
use crate::emulated::namespace::format::Format;

/// The only controller of the subsystem.
pub(super) const CONTROLLER_ID: u16 = 0;

impl AdminCommand<'_> {
    pub(super) fn namespace_management(&mut self) -> Answer {
        match self.entry.cdw10.get() & 0xf {
            0 => self.create_namespace(),
            1 => self.delete_namespace(),
            _ => invalid_field(),
        }
    }

    fn create_namespace(&mut self) -> Answer {
        let device = self.device;
        let set = (self.entry.cdw11.get() >> 24) as u8;
        match set {
            csi::NVM => {}
            csi::ZONED_NAMESPACE if device.namespaces.zones().is_some() => {}
            _ => return Err(Status::IO_COMMAND_SET_NOT_SUPPORTED.with_dnr()),
        }
        let mut data = [0; IDENTIFY_LENGTH];
        self.receive(&mut data)?;
        let Ok(asked) = IdentifyNamespace::read_from_bytes(&data) else { return invalid_field() };
        let (size, capacity) = (asked.nsze.get(), asked.ncap.get());
        let index = asked.flbas & 0xf;
        let extended = asked.flbas & IdentifyNamespace::FLBAS_EXTENDED != 0;
        let format = Format::new(index, extended, asked.dps, device.store.keeps_data())?;
        if capacity > size || size == 0 {
            return invalid_field();
        }
        if capacity < size {
            return Err(Status::THIN_PROVISIONING_NOT_SUPPORTED.with_dnr());
        }
        // Neither ANA groups nor NVM sets nor endurance groups.
        if asked.anagrpid.get() != 0 || asked.nvmsetid.get() != 0 || asked.endgid.get() != 0 {
            return invalid_field();
        }
        if let (csi::ZONED_NAMESPACE, Some(shape)) = (set, device.namespaces.zones())
            && !size.is_multiple_of((shape.size >> format.shift).max(1))
        {
            return invalid_field();
        }
        let bytes = size.checked_mul(format.stored());
        let capacity = bytes.ok_or(Status::NAMESPACE_INSUFFICIENT_CAPACITY.with_dnr())?;
        device.namespaces.create(Wanted { csi: set, format, capacity }, &device.store)
    }

    fn delete_namespace(&mut self) -> Answer {
        let device = self.device;
        let nsid = self.entry.nsid.get();
        let all = nsid == NSID_BROADCAST;
        if !all && device.namespaces.allocated(nsid)?.is_none() {
            return invalid_field();
        }
        let doomed =
            device.namespaces.list(0).into_iter().filter(|(namespace, _)| all || namespace.nsid == nsid);
        for (namespace, attached) in doomed {
            if attached {
                device.namespaces.attach(namespace.nsid, false);
                self.admin.changed(namespace.nsid);
            }
            device.publish_namespaces();
            // Its room is given back when the last that knows of it lets go, which is here.
            namespace.erase()?;
            device.namespaces.delete(namespace.nsid);
        }
        Ok(0)
    }

    pub(super) fn namespace_attachment(&mut self) -> Answer {
        let device = self.device;
        let nsid = self.entry.nsid.get();
        let attach = match self.entry.cdw10.get() & 0xf {
            0 => true,
            1 => false,
            _ => return invalid_field(),
        };
        let Some((namespace, attached)) = device.namespaces.allocated(nsid)? else { return invalid_field() };
        self.receive_controllers()?;
        match (attach, attached) {
            (true, true) => return Err(Status::NAMESPACE_ALREADY_ATTACHED.with_dnr()),
            (false, false) => return Err(Status::NAMESPACE_NOT_ATTACHED.with_dnr()),
            (true, false) if namespace.is_zoned() && !commands::has_command_sets(device) => {
                return Err(Status::IO_COMMAND_SET_NOT_ENABLED.with_dnr());
            }
            _ => {}
        }
        device.namespaces.attach(nsid, attach);
        device.publish_namespaces();
        self.admin.changed(nsid);
        Ok(0)
    }

    /// Reads the controller list of an attachment, which can only name this controller.
    fn receive_controllers(&mut self) -> Result<(), Status> {
        let mut list = [0; IDENTIFY_LENGTH];
        self.receive(&mut list)?;
        let number = |at: usize| u16::from_le_bytes([list[2 * at], list[2 * at + 1]]);
        if number(0) != 1 || number(1) != CONTROLLER_ID {
            return Err(Status::CONTROLLER_LIST_INVALID.with_dnr());
        }
        Ok(())
    }
}
