//! Identify (NVMe Base 1.4, 5.15). What is promised here, works; what does not work is not promised.

use gangway_spec::command::NSID_BROADCAST;
use gangway_spec::identify::{
    CommandSetIndependentNamespace, IDENTIFY_LENGTH, Lpa, NamespaceIdDescriptor,
    NamespaceIdDescriptorBuilder, Nsfeat, Oaes, Sgls, Vwc, cns, csi,
};
use gangway_spec::zns::{IdentifyZonedController, IdentifyZonedNamespace, ZonedLbaFormatExtension};
use gangway_spec::{IdentifyController, IdentifyNamespace, Status};
use zerocopy::IntoBytes;

use super::namespaces::CONTROLLER_ID;
use super::{
    ABORT_LIMIT, Admin, AdminCommand, Answer, EVENT_REQUEST_LIMIT, firmware, format, invalid_field, sanitize,
    self_test,
};
use crate::emulated::commands;
use crate::emulated::device::Device;
use crate::emulated::error_log;
use crate::emulated::io::copy;
use crate::emulated::namespace::Namespace;
use crate::emulated::namespace::format::{FORMATS, Format, METADATA_CAPABILITIES, PROTECTION_CAPABILITIES};
use crate::emulated::registers::VERSION;
use crate::emulated::vendor;

/// Temperature above which a drive warns, in kelvin.
pub(super) const WARNING_TEMPERATURE: u16 = 343;
/// Temperature above which a drive is in danger, in kelvin.
pub(super) const CRITICAL_TEMPERATURE: u16 = 353;

/// OAES: the events that are reported when the host wants them.
pub(super) fn events(device: &Device) -> Oaes {
    let mut events = Oaes::NAMESPACE_ATTRIBUTE | Oaes::FIRMWARE_ACTIVATION;
    events.set(Oaes::ZONE_DESCRIPTOR_CHANGED, device.namespaces.zones().is_some());
    events
}

/// DLFEAT: deallocated blocks read as zeroes, and Write Zeroes can deallocate.
const DEALLOCATED_READS_ZERO: u8 = 0b1001;
/// FPI: the format progress indicator is there.
const REPORTS_PROGRESS: u8 = 1 << 7;
/// The first NSID that no list can start after (NVMe Base 1.4, 5.15.2.2).
const LIST_END: u32 = 0xffff_fffe;
/// I/O command set combinations: the one that there is, as a vector of command sets.
const COMMAND_SETS: u64 = 1 << csi::NVM | 1 << csi::ZONED_NAMESPACE;

impl AdminCommand<'_> {
    pub(super) fn identify(&mut self) -> Answer {
        let nsid = self.entry.nsid.get();
        let set = (self.entry.cdw11.get() >> 24) as u8;
        let device = self.device;
        let cns = self.entry.cdw10.get() as u8;
        // What came with the first further command set is there when there is one.
        let has_sets = device.namespaces.zones().is_some();
        match cns {
            cns::NAMESPACE | cns::ALLOCATED_NAMESPACE => {
                if nsid == NSID_BROADCAST {
                    let common = common_namespace(device);
                    return self.send(common.as_bytes());
                }
                self.send_namespace(cns == cns::NAMESPACE, |device, admin, namespace| {
                    identify_namespace(device, admin, namespace).as_bytes().to_vec()
                })
            }
            cns::CONTROLLER => {
                let controller = identify_controller(device, self.admin);
                self.send(controller.as_bytes())
            }
            cns::ACTIVE_NAMESPACE_LIST => self.send_list(|_, attached| attached),
            cns::ALLOCATED_NAMESPACE_LIST => self.send_list(|_, _| true),
            cns::IO_COMMAND_SET_ACTIVE_LIST if has_sets => {
                known_set(set)?;
                self.send_list(|namespace, attached| attached && namespace.csi == set)
            }
            cns::IO_COMMAND_SET_ALLOCATED_LIST if has_sets => {
                known_set(set)?;
                self.send_list(|namespace, _| namespace.csi == set)
            }
            cns::NAMESPACE_DESCRIPTORS => {
                let namespace = device.namespaces.active(nsid)?;
                let generation = namespace.generation;
                let identity = &device.identity;
                let mut list = NamespaceIdDescriptorBuilder::new();
                for (kind, id) in [
                    (NamespaceIdDescriptor::EUI64, &identity.eui64(nsid, generation)[..]),
                    (NamespaceIdDescriptor::NGUID, &identity.nguid(nsid, generation)),
                    (NamespaceIdDescriptor::UUID, &identity.uuid(nsid, generation)),
                    (NamespaceIdDescriptor::CSI, &[namespace.csi]),
                ] {
                    let given = match kind {
                        NamespaceIdDescriptor::CSI => has_sets,
                        _ => id.iter().any(|byte| *byte != 0),
                    };
                    if given {
                        list.push(kind, id).map_err(|_| Status::INTERNAL_ERROR)?;
                    }
                }
                self.send(list.as_bytes())
            }
            cns::ATTACHED_CONTROLLER_LIST => {
                let attached = match device.namespaces.allocated(nsid)? {
                    Some((_, attached)) => attached,
                    None => return invalid_field(),
                };
                self.send_controllers(attached)
            }
            cns::CONTROLLER_LIST => self.send_controllers(true),
            cns::IO_COMMAND_SET_NAMESPACE | cns::IO_COMMAND_SET_ALLOCATED_NAMESPACE if has_sets => {
                known_set(set)?;
                self.send_namespace(cns == cns::IO_COMMAND_SET_NAMESPACE, move |_, _, namespace| match set {
                    csi::ZONED_NAMESPACE if namespace.is_zoned() => {
                        identify_zoned_namespace(namespace).as_bytes().to_vec()
                    }
                    // The NVM Command Set has nothing to add: no storage tags, no guards but those of 16 bits.
                    csi::NVM if !namespace.is_zoned() => vec![0; IDENTIFY_LENGTH],
                    _ => Vec::new(),
                })
            }
            cns::IO_COMMAND_SET_CONTROLLER if has_sets => {
                known_set(set)?;
                // ZASL 0: an append may be as large as MDTS says. For the NVM Command Set there are no other limits.
                let controller = IdentifyZonedController::default();
                self.send(controller.as_bytes())
            }
            cns::COMMAND_SET_INDEPENDENT_NAMESPACE if has_sets => {
                self.send_namespace(true, |device, admin, namespace| {
                    let namespace = identify_namespace(device, admin, namespace);
                    let mut data = CommandSetIndependentNamespace::from(&namespace).as_bytes().to_vec();
                    data.resize(IDENTIFY_LENGTH, 0);
                    data
                })
            }
            cns::IO_COMMAND_SET_COMBINATIONS if has_sets => {
                // Of this controller, or of one that is not there.
                let controller = (self.entry.cdw10.get() >> 16) as u16;
                if controller != u16::MAX && controller != CONTROLLER_ID {
                    return invalid_field();
                }
                let mut list = [0; IDENTIFY_LENGTH];
                list[..8].copy_from_slice(&COMMAND_SETS.to_le_bytes());
                self.send(&list)
            }
            _ => invalid_field(),
        }
    }

    /// Sends what `describe` says of the namespace that the command names; zeroes when no namespace has the identifier,
    /// or, with `attached_only`, only one that is not attached.
    fn send_namespace(
        &mut self,
        attached_only: bool,
        describe: impl Fn(&Device, &Admin, &Namespace) -> Vec<u8>,
    ) -> Answer {
        let found = self.device.namespaces.allocated(self.entry.nsid.get())?;
        let data = match found.filter(|(_, attached)| *attached || !attached_only) {
            Some((namespace, _)) => describe(self.device, self.admin, &namespace),
            None => vec![0; IDENTIFY_LENGTH],
        };
        if data.is_empty() { invalid_field() } else { self.send(&data) }
    }

    /// Sends the identifiers above the command's of the namespaces that are `wanted`.
    fn send_list(&mut self, wanted: impl Fn(&Namespace, bool) -> bool) -> Answer {
        let after = self.entry.nsid.get();
        if after >= LIST_END {
            return Err(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr());
        }
        let namespaces = self.device.namespaces.list(after);
        let wanted = namespaces.iter().filter(|(namespace, attached)| wanted(namespace, *attached));
        let mut list = [0; IDENTIFY_LENGTH];
        for (slot, (namespace, _)) in list.chunks_exact_mut(4).zip(wanted) {
            slot.copy_from_slice(&namespace.nsid.to_le_bytes());
        }
        self.send(&list)
    }

    /// Sends the list of the one controller, or an empty one, from the identifier in CDW10 on.
    fn send_controllers(&mut self, listed: bool) -> Answer {
        let first = (self.entry.cdw10.get() >> 16) as u16;
        let mut list = [0; IDENTIFY_LENGTH];
        if listed && first == CONTROLLER_ID {
            list[..2].copy_from_slice(&1u16.to_le_bytes());
            list[2..4].copy_from_slice(&CONTROLLER_ID.to_le_bytes());
        }
        self.send(&list)
    }
}

fn known_set(set: u8) -> Result<(), Status> {
    if matches!(set, csi::NVM | csi::ZONED_NAMESPACE) { Ok(()) } else { invalid_field() }
}

fn identify_controller(device: &Device, admin: &Admin) -> IdentifyController {
    let config = &device.config;
    let mut controller = IdentifyController::default();
    controller.mdts = config.mdts;
    controller.cntlid = CONTROLLER_ID.into();
    controller.ver = u32::from(VERSION).into();
    // Shutdown flushes a file at worst; hosts wait for as long as this says, so it is generous: 10 s.
    controller.rtd3r = 1_000_000.into();
    controller.rtd3e = 10_000_000.into();
    controller.oaes = events(device).bits().into();
    controller.cntrltype = IdentifyController::TYPE_IO;
    controller.oacs = commands::oacs(device).bits().into();
    if config.capabilities.sgl {
        controller.sgls = Sgls::SUPPORTED.bits().into();
    }
    controller.acl = ABORT_LIMIT - 1;
    controller.aerl = EVENT_REQUEST_LIMIT - 1;
    controller.frmw = firmware::UPDATES;
    controller.fwug = firmware::GRANULARITY;
    controller.mtfa = firmware::ACTIVATION_TIME.into();
    controller.edstt = self_test::EXTENDED_MINUTES.into();
    controller.dsto = self_test::OPTIONS;
    controller.sanicap = sanitize::CAPABILITIES.into();
    controller.lpa = (Lpa::COMMANDS_SUPPORTED_AND_EFFECTS | Lpa::EXTENDED_DATA | Lpa::TELEMETRY).bits();
    if config.capabilities.vendor {
        controller.avscc = vendor::STANDARD_FORM;
        controller.icsvscc = vendor::STANDARD_FORM;
    }
    controller.elpe = (error_log::ENTRIES - 1) as u8;
    controller.wctemp = WARNING_TEMPERATURE.into();
    controller.cctemp = CRITICAL_TEMPERATURE.into();
    controller.tnvmcap = u128::from(device.namespaces.capacity()).to_le_bytes();
    controller.unvmcap = u128::from(device.namespaces.unallocated()).to_le_bytes();
    controller.sqes = 0x66;
    controller.cqes = 0x44;
    controller.nn = device.namespaces.max().into();
    controller.oncs = commands::oncs(device).bits().into();
    controller.fna = format::ATTRIBUTES;
    controller.vwc = if device.store.has_volatile_cache() {
        (Vwc::PRESENT | Vwc::FLUSH_ALL).bits()
    } else {
        Vwc::FLUSH_ALL.bits()
    };
    controller.ocfs = copy::FORMATS.into();
    controller.set_serial(&device.identity.serial);
    controller.set_model(&config.model);
    controller.set_firmware(admin.firmware.revision());
    controller.set_subnqn(&device.identity.subnqn());
    // One power state, in which nothing is consumed that could be measured: 25 W as any drive might.
    controller.psd[0].mp.set(2500);
    controller
}

/// What all namespaces have in common.
fn common_namespace(device: &Device) -> IdentifyNamespace {
    let keeps_data = device.store.keeps_data();
    let mut namespace = IdentifyNamespace::default();
    namespace.nsfeat = Nsfeat::IDENTIFIERS_NOT_REUSED.bits();
    namespace.nlbaf = (FORMATS.len() - 1) as u8;
    namespace.dlfeat = DEALLOCATED_READS_ZERO;
    namespace.fpi = REPORTS_PROGRESS;
    if keeps_data {
        namespace.mc = METADATA_CAPABILITIES;
        namespace.dpc = PROTECTION_CAPABILITIES;
        namespace.mssrl = copy::MOST_BLOCKS.into();
        namespace.mcl = u32::from(copy::MOST_BLOCKS).into();
        namespace.msrc = (copy::MOST_RANGES - 1) as u8;
    }
    namespace.lbaf[..FORMATS.len()].copy_from_slice(&Format::list(keeps_data));
    namespace
}

fn identify_namespace(device: &Device, admin: &Admin, namespace: &Namespace) -> IdentifyNamespace {
    let mut data = common_namespace(device);
    data.nsze = namespace.blocks.into();
    data.ncap = namespace.blocks.into();
    data.nuse = namespace.blocks.into();
    data.flbas = namespace.format.flbas();
    data.dps = namespace.format.dps();
    if let Some(formatting) = &admin.formatting {
        data.fpi |= formatting.remaining(namespace.nsid);
    }
    data.nvmcap = u128::from(namespace.capacity).to_le_bytes();
    data.nguid = device.identity.nguid(namespace.nsid, namespace.generation);
    data.eui64 = device.identity.eui64(namespace.nsid, namespace.generation);
    data
}

fn identify_zoned_namespace(namespace: &Namespace) -> IdentifyZonedNamespace {
    let mut data = IdentifyZonedNamespace::default();
    let Some(zones) = namespace.zones() else { return data };
    // 0's based, and a limit of 0 is none: all ones.
    data.mar = zones.max_active().wrapping_sub(1).into();
    data.mor = zones.max_open().wrapping_sub(1).into();
    for (extension, (shift, _)) in data.lbafe.iter_mut().zip(FORMATS) {
        let size = (zones.size() << namespace.format.shift) >> shift;
        *extension = ZonedLbaFormatExtension::new(size, (zones.extension_len() / 64) as u8);
    }
    data
}
