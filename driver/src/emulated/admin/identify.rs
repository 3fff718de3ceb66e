//! Identify (NVMe Base 1.4, 5.15). What is promised here, works; what does not work is not promised.

use gangway_spec::identify::{
    IDENTIFY_LENGTH, LbaFormat, Lpa, NamespaceIdDescriptor, NamespaceIdDescriptorBuilder, Oacs, Oncs, Sgls,
    Vwc, cns,
};
use gangway_spec::{IdentifyController, IdentifyNamespace, Status};
use zerocopy::IntoBytes;

use super::{ABORT_LIMIT, AdminCommand, Answer, EVENT_REQUEST_LIMIT, invalid_field};
use crate::emulated::device::Device;
use crate::emulated::error_log;
use crate::emulated::registers::VERSION;

/// Firmware revision.
pub(super) const FIRMWARE: &str = "1.0";
/// Temperature above which a drive warns, in kelvin.
pub(super) const WARNING_TEMPERATURE: u16 = 343;
/// Temperature above which a drive is in danger, in kelvin.
pub(super) const CRITICAL_TEMPERATURE: u16 = 353;

/// FRMW: one slot, which is read-only.
const ONE_READ_ONLY_SLOT: u8 = 1 << 1 | 1;
/// DLFEAT: deallocated blocks read as zeroes, and Write Zeroes can deallocate.
const DEALLOCATED_READS_ZERO: u8 = 0b1001;
/// The first NSID that no list can start after (NVMe Base 1.4, 5.15.2.2).
const LIST_END: u32 = 0xffff_fffe;

impl AdminCommand<'_> {
    pub(super) fn identify(&mut self) -> Answer {
        let nsid = self.entry.nsid.get();
        match self.entry.cdw10.get() as u8 {
            cns::NAMESPACE => {
                self.device.namespaces.check(nsid)?;
                let namespace = identify_namespace(self.device, nsid);
                self.send(namespace.as_bytes())
            }
            cns::CONTROLLER => {
                let controller = identify_controller(self.device);
                self.send(controller.as_bytes())
            }
            cns::ACTIVE_NAMESPACE_LIST => {
                if nsid >= LIST_END {
                    return Err(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr());
                }
                let mut list = [0; IDENTIFY_LENGTH];
                let active = nsid + 1..=self.device.namespaces.count();
                for (slot, nsid) in list.chunks_exact_mut(4).zip(active) {
                    slot.copy_from_slice(&nsid.to_le_bytes());
                }
                self.send(&list)
            }
            cns::NAMESPACE_DESCRIPTORS => {
                self.device.namespaces.check(nsid)?;
                let identity = &self.device.identity;
                let mut list = NamespaceIdDescriptorBuilder::new();
                for (kind, id) in [
                    (NamespaceIdDescriptor::EUI64, &identity.eui64(nsid)[..]),
                    (NamespaceIdDescriptor::NGUID, &identity.nguid(nsid)),
                    (NamespaceIdDescriptor::UUID, &identity.uuid(nsid)),
                ] {
                    list.push(kind, id).map_err(|_| Status::INTERNAL_ERROR)?;
                }
                self.send(list.as_bytes())
            }
            _ => invalid_field(),
        }
    }
}

fn identify_controller(device: &Device) -> IdentifyController {
    let config = &device.config;
    let mut controller = IdentifyController::default();
    controller.mdts = config.mdts;
    controller.ver = u32::from(VERSION).into();
    // Shutdown flushes a file at worst; hosts wait for as long as this says, so it is generous: 10 s.
    controller.rtd3r = 1_000_000.into();
    controller.rtd3e = 10_000_000.into();
    controller.cntrltype = IdentifyController::TYPE_IO;
    let mut oacs = Oacs::empty();
    oacs.set(Oacs::DOORBELL_BUFFER_CONFIG, config.capabilities.shadow_doorbells);
    controller.oacs = oacs.bits().into();
    if config.capabilities.sgl {
        controller.sgls = Sgls::SUPPORTED.bits().into();
    }
    controller.acl = ABORT_LIMIT - 1;
    controller.aerl = EVENT_REQUEST_LIMIT - 1;
    controller.frmw = ONE_READ_ONLY_SLOT;
    controller.lpa = (Lpa::COMMANDS_SUPPORTED_AND_EFFECTS | Lpa::EXTENDED_DATA).bits();
    controller.elpe = (error_log::ENTRIES - 1) as u8;
    controller.wctemp = WARNING_TEMPERATURE.into();
    controller.cctemp = CRITICAL_TEMPERATURE.into();
    controller.sqes = 0x66;
    controller.cqes = 0x44;
    controller.nn = device.namespaces.count().into();
    controller.oncs = optional_commands(device).bits().into();

    controller.vwc = if device.store.has_volatile_cache() {
        (Vwc::PRESENT | Vwc::FLUSH_ALL).bits()
    } else {
        Vwc::FLUSH_ALL.bits()
    };
    controller.set_serial(&device.identity.serial);
    controller.set_model(&config.model);
    controller.set_firmware(FIRMWARE);
    controller.set_subnqn(&device.identity.subnqn());
    // One power state, in which nothing is consumed that could be measured: 25 W as any drive might.
    controller.psd[0].mp.set(2500);
    controller
}

fn optional_commands(device: &Device) -> Oncs {
    let mut commands =
        Oncs::DATASET_MANAGEMENT | Oncs::WRITE_ZEROES | Oncs::FEATURE_SAVE | Oncs::TIMESTAMP | Oncs::VERIFY;
    commands.set(Oncs::COMPARE, device.store.keeps_data());
    commands
}

fn identify_namespace(device: &Device, nsid: u32) -> IdentifyNamespace {
    let blocks = device.namespaces.blocks;
    let mut namespace = IdentifyNamespace::default();
    namespace.nsze = blocks.into();
    namespace.ncap = blocks.into();
    namespace.nuse = blocks.into();
    namespace.dlfeat = DEALLOCATED_READS_ZERO;
    namespace.nguid = device.identity.nguid(nsid);
    namespace.eui64 = device.identity.eui64(nsid);

    namespace.lbaf[0] = LbaFormat::new(device.namespaces.block_shift(), 0);
    namespace
}
