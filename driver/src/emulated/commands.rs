//! Which commands the drive has, and what they do to it: the one place that OACS, ONCS, the Commands Supported and
//! Effects log and the execution of commands go by.

use std::sync::atomic::Ordering;

use gangway_spec::identify::{Oacs, Oncs, csi};
use gangway_spec::log::{CommandEffects, CommandsSupportedAndEffectsLog};
use gangway_spec::opcode::{admin, nvm, zns};
use gangway_spec::registers::ControllerConfiguration;

use super::device::Device;
use super::vendor;

/// A command that the drive knows.
struct Command {
    opcode: u8,
    effects: CommandEffects,
    /// Bit of OACS or ONCS that promises it; 0 when it is mandatory, or promised elsewhere.
    promise: u16,
    /// Whether it is there on every drive.
    when: When,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    /// The drive keeps what is written.
    KeepsData,
    /// The drive can have zoned namespaces.
    Zoned,
    /// The drive reads doorbells from memory.
    ShadowDoorbells,
    /// The drive has commands of a vendor.
    Vendor,
}

const PLAIN: CommandEffects = CommandEffects::new().with_supported(true);
/// LBCC.
const CHANGES_BLOCKS: CommandEffects = PLAIN.with_logical_block_content_change(true);
/// LBCC and NCC, with no other command for the namespace meanwhile.
const FORMATS: CommandEffects = CHANGES_BLOCKS.with_namespace_capability_change(true).with_execution(1);
/// CCC.
const CHANGES_CONTROLLER: CommandEffects = PLAIN.with_controller_capability_change(true);
/// LBCC, with no other command at all meanwhile.
const SANITIZES: CommandEffects = CHANGES_BLOCKS.with_execution(2);
/// NIC, with no other command for the namespace meanwhile.
const CHANGES_INVENTORY: CommandEffects = PLAIN.with_namespace_inventory_change(true).with_execution(1);

const fn command(opcode: u8, effects: CommandEffects, promise: u16, when: When) -> Command {
    Command { opcode, effects, promise, when }
}

const ADMIN: &[Command] = &[
    command(admin::DELETE_IO_SQ, PLAIN, 0, When::Always),
    command(admin::CREATE_IO_SQ, PLAIN, 0, When::Always),
    command(admin::GET_LOG_PAGE, PLAIN, 0, When::Always),
    command(admin::DELETE_IO_CQ, PLAIN, 0, When::Always),
    command(admin::CREATE_IO_CQ, PLAIN, 0, When::Always),
    command(admin::IDENTIFY, PLAIN, 0, When::Always),
    command(admin::ABORT, PLAIN, 0, When::Always),
    command(admin::SET_FEATURES, PLAIN, 0, When::Always),
    command(admin::GET_FEATURES, PLAIN, 0, When::Always),
    command(admin::ASYNC_EVENT_REQUEST, PLAIN, 0, When::Always),
    command(admin::FIRMWARE_COMMIT, CHANGES_CONTROLLER, Oacs::FIRMWARE.bits(), When::Always),
    command(admin::FIRMWARE_IMAGE_DOWNLOAD, PLAIN, Oacs::FIRMWARE.bits(), When::Always),
    command(admin::NAMESPACE_MANAGEMENT, CHANGES_INVENTORY, Oacs::NAMESPACE_MANAGEMENT.bits(), When::Always),
    command(admin::NAMESPACE_ATTACHMENT, CHANGES_INVENTORY, Oacs::NAMESPACE_MANAGEMENT.bits(), When::Always),
    command(admin::DOORBELL_BUFFER_CONFIG, PLAIN, Oacs::DOORBELL_BUFFER_CONFIG.bits(), When::ShadowDoorbells),
    command(admin::DEVICE_SELF_TEST, PLAIN, Oacs::DEVICE_SELF_TEST.bits(), When::Always),
    // Promised by SANICAP.
    command(admin::SANITIZE, SANITIZES, 0, When::Always),
    command(admin::FORMAT_NVM, FORMATS, Oacs::FORMAT_NVM.bits(), When::Always),
    command(vendor::STORE, PLAIN, 0, When::Vendor),
    command(vendor::FETCH, PLAIN, 0, When::Vendor),
    command(vendor::OVERFETCH, PLAIN, 0, When::Vendor),
];

const IO: &[Command] = &[
    command(nvm::FLUSH, PLAIN, 0, When::Always),
    command(nvm::WRITE, CHANGES_BLOCKS, 0, When::Always),
    command(nvm::READ, PLAIN, 0, When::Always),
    command(nvm::WRITE_UNCORRECTABLE, CHANGES_BLOCKS, Oncs::WRITE_UNCORRECTABLE.bits(), When::KeepsData),
    command(nvm::COMPARE, PLAIN, Oncs::COMPARE.bits(), When::KeepsData),
    command(nvm::WRITE_ZEROES, CHANGES_BLOCKS, Oncs::WRITE_ZEROES.bits(), When::Always),
    command(nvm::DATASET_MANAGEMENT, CHANGES_BLOCKS, Oncs::DATASET_MANAGEMENT.bits(), When::Always),
    command(nvm::VERIFY, PLAIN, Oncs::VERIFY.bits(), When::Always),
    command(nvm::COPY, CHANGES_BLOCKS, Oncs::COPY.bits(), When::KeepsData),
    command(zns::ZONE_MANAGEMENT_SEND, CHANGES_BLOCKS, 0, When::Zoned),
    command(zns::ZONE_MANAGEMENT_RECEIVE, PLAIN, 0, When::Zoned),
    command(zns::ZONE_APPEND, CHANGES_BLOCKS, 0, When::Zoned),
    command(vendor::STORE, PLAIN, 0, When::Vendor),
    command(vendor::FETCH, PLAIN, 0, When::Vendor),
    command(vendor::OVERFETCH, PLAIN, 0, When::Vendor),
];

impl Command {
    fn is_there(&self, device: &Device) -> bool {
        match self.when {
            When::Always => true,
            When::KeepsData => device.store.keeps_data(),
            When::Zoned => device.namespaces.zones().is_some(),
            When::ShadowDoorbells => device.config.capabilities.shadow_doorbells,
            When::Vendor => device.config.capabilities.vendor,
        }
    }
}

fn find<'a>(commands: &'a [Command], device: &Device, opcode: u8) -> Option<&'a Command> {
    commands.iter().find(|command| command.opcode == opcode && command.is_there(device))
}

/// Whether the drive has an admin command.
pub(super) fn offers_admin(device: &Device, opcode: u8) -> bool {
    find(ADMIN, device, opcode).is_some()
}

/// Whether an admin command runs while a sanitize operation goes on, or after one failed (NVMe Base 1.4, 8.15.1).
pub(super) fn runs_while_sanitizing(opcode: u8) -> bool {
    !matches!(
        opcode,
        admin::FIRMWARE_COMMIT
            | admin::FIRMWARE_IMAGE_DOWNLOAD
            | admin::DEVICE_SELF_TEST
            | admin::NAMESPACE_MANAGEMENT
            | admin::NAMESPACE_ATTACHMENT
            | admin::FORMAT_NVM
    )
}

/// Whether the drive has an I/O command, as it is configured.
pub(super) fn offers_io(device: &Device, opcode: u8) -> bool {
    find(IO, device, opcode).is_some_and(|command| command.when != When::Zoned || has_command_sets(device))
}

/// Whether the host has enabled all I/O command sets that there are (CC.CSS).
pub(super) fn has_command_sets(device: &Device) -> bool {
    let bits = device.configuration.load(Ordering::Acquire);
    ControllerConfiguration::from_bits(bits).css() == ControllerConfiguration::CSS_ALL
}

fn promised(commands: &[Command], device: &Device) -> u16 {
    commands.iter().filter(|command| command.is_there(device)).fold(0, |bits, command| bits | command.promise)
}

/// What Identify Controller promises of admin commands.
pub(super) fn oacs(device: &Device) -> Oacs {
    Oacs::from_bits_retain(promised(ADMIN, device))
}

/// What Identify Controller promises of I/O commands.
pub(super) fn oncs(device: &Device) -> Oncs {
    Oncs::from_bits_retain(promised(IO, device)) | Oncs::FEATURE_SAVE | Oncs::TIMESTAMP
}

/// The Commands Supported and Effects log of an I/O command set.
pub(super) fn effects_log(device: &Device, set: u8) -> CommandsSupportedAndEffectsLog {
    let mut log = CommandsSupportedAndEffectsLog::default();
    for command in ADMIN.iter().filter(|command| command.is_there(device)) {
        log.admin[usize::from(command.opcode)].set(command.effects.into_bits());
    }
    for command in IO.iter().filter(|command| command.is_there(device)) {
        if command.when != When::Zoned || set == csi::ZONED_NAMESPACE {
            log.io[usize::from(command.opcode)].set(command.effects.into_bits());
        }
    }
    log
}
