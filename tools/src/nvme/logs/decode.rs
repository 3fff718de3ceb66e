//! What log pages mean, with nvme-cli's names.

use std::fmt::Write as _;

use gangway_spec::log::{
    CommandEffects, CommandsSupportedAndEffectsLog, DeviceSelfTestLog, ErrorLogEntry, FirmwareSlotLog,
    SanitizeLog, SelfTestResult, SmartLog,
};
use gangway_spec::{admin_opcode_name, nvm_opcode_name};

use crate::nvme::fields::Object;
use crate::output;

pub(super) fn smart(log: &SmartLog) -> Object {
    let mut object = Object::default();
    let o = &mut object;
    let warnings = [
        (SmartLog::WARNING_SPARE, "available spare is low"),
        (SmartLog::WARNING_TEMPERATURE, "a temperature is beyond a threshold"),
        (SmartLog::WARNING_RELIABILITY, "reliability is degraded"),
        (SmartLog::WARNING_READ_ONLY, "all media is read only"),
        (SmartLog::WARNING_VOLATILE_BACKUP, "the backup of volatile memory has failed"),
        (SmartLog::WARNING_PMR, "the persistent memory region is read only or unreliable"),
    ];
    let warnings = warnings.iter().filter(|(bit, _)| log.critical_warning & bit != 0);
    o.bits("critical_warning", log.critical_warning).notes(warnings.map(|(_, text)| (*text).to_owned()));
    o.number("temperature", log.composite_temperature.get()).shown(celsius(log.composite_temperature.get()));
    o.number("avail_spare", log.available_spare).shown(format!("{} %", log.available_spare));
    o.number("spare_thresh", log.available_spare_threshold)
        .shown(format!("{} %", log.available_spare_threshold));
    o.number("percent_used", log.percentage_used).shown(format!("{} %", log.percentage_used));
    o.bits("endurance_grp_critical_warning_summary", log.endurance_group_critical_warning);
    for (name, units) in
        [("data_units_read", log.data_units_read.get()), ("data_units_written", log.data_units_written.get())]
    {
        let bytes = u64::try_from(units.saturating_mul(512_000)).unwrap_or(u64::MAX);
        o.number(name, units).shown(format!("{units} ({})", output::size(bytes)));
    }
    o.number("host_read_commands", log.host_read_commands.get());
    o.number("host_write_commands", log.host_write_commands.get());
    o.number("controller_busy_time", log.controller_busy_time.get()).notes(["minutes".to_owned()]);
    o.number("power_cycles", log.power_cycles.get()).number("power_on_hours", log.power_on_hours.get());
    o.number("unsafe_shutdowns", log.unsafe_shutdowns.get()).number("media_errors", log.media_errors.get());
    o.number("num_err_log_entries", log.error_log_entries.get());
    o.number("warning_temp_time", log.warning_temperature_time.get()).notes(["minutes".to_owned()]);
    o.number("critical_comp_time", log.critical_temperature_time.get()).notes(["minutes".to_owned()]);
    for (index, sensor) in log.temperature_sensors.iter().enumerate().filter(|(_, sensor)| sensor.get() != 0)
    {
        o.number(format!("temperature_sensor_{}", index + 1), sensor.get()).shown(celsius(sensor.get()));
    }
    o.number("thm_temp1_trans_count", log.thermal_management_1_count.get());
    o.number("thm_temp2_trans_count", log.thermal_management_2_count.get());
    o.number("thm_temp1_total_time", log.thermal_management_1_time.get()).notes(["seconds".to_owned()]);
    o.number("thm_temp2_total_time", log.thermal_management_2_time.get()).notes(["seconds".to_owned()]);
    object
}

fn celsius(kelvin: u16) -> String {
    if kelvin == 0 {
        "not reported".to_owned()
    } else {
        format!("{} C ({kelvin} K)", i32::from(kelvin) - 273)
    }
}

pub(super) fn errors(errors: &[ErrorLogEntry]) -> Object {
    let mut object = Object::default();
    object.list("errors", errors.iter().map(error));
    object
}

fn error(entry: &ErrorLogEntry) -> Object {
    let mut o = Object::default();
    o.number("error_count", entry.error_count.get()).number("sqid", entry.sqid.get());
    o.bits("cmdid", entry.cid);
    o.bits("status_field", entry.status().bits()).shown(entry.status().to_string());
    o.number("phase_tag", entry.status_field.get() & 1);
    o.bits("parm_error_location", entry.parameter_error_location)
        .bits("lba", entry.lba)
        .bits("nsid", entry.nsid);
    o.number("vs", entry.vendor_specific).number("trtype", entry.trtype);
    o.bits("cs", entry.command_specific).bits("trtype_spec_info", entry.transport_specific);
    o
}

/// Only entries that are valid: the others are empty places.
pub(super) fn error_lines(errors: &[ErrorLogEntry]) -> String {
    let valid = errors.iter().filter(|entry| entry.error_count.get() != 0);
    let lines: Vec<_> = valid.map(|entry| error(entry).lines(false)).collect();
    if lines.is_empty() { "no errors".to_owned() } else { lines.join("\n\n") }
}

pub(super) fn firmware(log: &FirmwareSlotLog, device: &str) -> Object {
    let mut slots = Object::default();
    slots.bits("Active Firmware Slot (afi)", log.afi);
    for (index, revision) in log.frs.iter().enumerate().filter(|(_, revision)| revision[0] != 0) {
        // nvme-cli shows the bytes as a number, and then what they say, with a dot for each that cannot be seen.
        let seen = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' };
        let text: String = revision.iter().map(seen).collect();
        slots.text(
            format!("Firmware Rev Slot {}", index + 1),
            format!("{} ({text})", u64::from_le_bytes(*revision)),
        );
        slots.shown(log.revision(index as u8 + 1).unwrap_or_default());
    }
    let mut object = Object::default();
    object.object(device, slots);
    object
}

pub(super) fn self_test(log: &DeviceSelfTestLog, entries: usize) -> Object {
    let mut object = Object::default();
    object.number("Current Device Self-Test Operation", log.current_operation).shown(
        match log.current_operation {
            DeviceSelfTestLog::NONE => "none".to_owned(),
            DeviceSelfTestLog::SHORT => "short".to_owned(),
            DeviceSelfTestLog::EXTENDED => "extended".to_owned(),
            other => format!("{other:#x}"),
        },
    );
    object.number("Current Device Self-Test Completion", log.current_completion);
    object.shown(format!("{} %", log.current_completion & 0x7f));
    object.list("List of Valid Reports", log.results.iter().take(entries).map(self_test_result));
    object
}

/// What came of a self-test, as a word behind "it".
pub(in crate::nvme) fn self_test_outcome(result: &SelfTestResult) -> &'static str {
    match result.result() {
        SelfTestResult::PASSED => "passed",
        SelfTestResult::ABORTED_BY_COMMAND => "was ended by a command",
        SelfTestResult::ABORTED_BY_RESET => "was ended by a reset",
        SelfTestResult::ABORTED_BY_NAMESPACE_REMOVAL => "was ended as a namespace was removed",
        SelfTestResult::ABORTED_BY_FORMAT => "was ended by a format",
        SelfTestResult::ABORTED_BY_SANITIZE => "was ended by a sanitize operation",
        SelfTestResult::UNUSED => "unused",
        _ => "failed",
    }
}

fn self_test_result(result: &SelfTestResult) -> Object {
    let mut o = Object::default();
    o.number("Self test result", result.result()).shown(self_test_outcome(result));
    if result.result() == SelfTestResult::UNUSED {
        return o;
    }
    o.number("Self test code", result.code()).number("Segment number", result.segment);
    o.bits("Valid Diagnostic Information", result.valid)
        .number("Power on hours", result.power_on_hours.get());
    if result.valid & 1 << 0 != 0 {
        o.bits("Namespace Identifier", result.nsid);
    }
    if result.valid & 1 << 1 != 0 {
        o.bits("Failing LBA", result.failing_lba);
    }
    if result.valid & 1 << 2 != 0 {
        o.number("Status Code Type", result.status_code_type);
    }
    if result.valid & 1 << 3 != 0 {
        o.bits("Status Code", result.status_code);
    }
    o.bits("Vendor Specific", result.vs);
    o
}

/// What the state of the last sanitize operation is called.
pub(in crate::nvme) fn sanitize_state(log: &SanitizeLog) -> &'static str {
    match log.status() {
        SanitizeLog::NEVER => "NVM Subsystem has never been sanitized.",
        SanitizeLog::SUCCEEDED => "Most Recent Sanitize Command Completed Successfully.",
        SanitizeLog::IN_PROGRESS => "Sanitize in Progress.",
        SanitizeLog::FAILED => "Most Recent Sanitize Command Failed.",
        SanitizeLog::SUCCEEDED_UNEXPECTED_DEALLOCATION => {
            "Most Recent Sanitize Command (No-Deallocate After Sanitize) Completed Successfully."
        }
        _ => "Unknown",
    }
}

pub(super) fn sanitize(log: &SanitizeLog, device: &str) -> Object {
    let status = log.sstat.get();
    let mut state = Object::default();
    state.number("global_erased", status >> 8 & 1).number("no_cmplted_passes", status >> 3 & 0x1f);
    state.text("status", format!("({}) {}", log.status(), sanitize_state(log)));
    let mut o = Object::default();
    o.number("sprog", log.sprog.get());
    o.shown(format!("{} ({} %)", log.sprog.get(), u32::from(log.sprog.get()) * 100 / 65536));
    o.object("sstat", state).bits("cdw10_info", log.scdw10);
    for (name, seconds) in [
        ("time_over_write", log.overwrite_time),
        ("time_block_erase", log.block_erase_time),
        ("time_crypto_erase", log.crypto_erase_time),
        ("time_over_write_no_dealloc", log.overwrite_no_deallocate_time),
        ("time_block_erase_no_dealloc", log.block_erase_no_deallocate_time),
        ("time_crypto_erase_no_dealloc", log.crypto_erase_no_deallocate_time),
    ] {
        o.number(name, seconds.get()).shown(match seconds.get() {
            u32::MAX => "not reported".to_owned(),
            seconds => format!("{seconds} s"),
        });
    }
    let mut object = Object::default();
    object.object(device, o);
    object
}

/// Commands that are supported: opcode, name and effects.
type Commands = Vec<(u8, &'static str, CommandEffects)>;

fn supported(log: &CommandsSupportedAndEffectsLog) -> (Commands, Commands) {
    let codes = || 0..=u8::MAX;
    let admin =
        codes().map(|code| (code, admin_opcode_name(code).unwrap_or("Unknown"), log.admin_effects(code)));
    let io = codes().map(|code| (code, nvm_opcode_name(code).unwrap_or("Unknown"), log.io_effects(code)));
    let is_supported = |(_, _, effects): &(u8, &str, CommandEffects)| effects.supported();
    (admin.filter(is_supported).collect(), io.filter(is_supported).collect())
}

pub(super) fn effects(log: &CommandsSupportedAndEffectsLog, csi: u8) -> Object {
    let (admin, io) = supported(log);
    let group = |prefix: &str, commands: &Commands| {
        let mut object = Object::default();
        for (code, name, effects) in commands {
            object.bits(format!("{prefix}_{code} ({name})"), effects.into_bits());
        }
        object
    };
    let mut object = Object::default();
    object.number("command_set_identifier", csi);
    object.object("admin_cmd_set", group("ACS", &admin)).object("io_cmd_set", group("IOCS", &io));
    object
}

pub(super) fn effect_lines(log: &CommandsSupportedAndEffectsLog, human: bool) -> String {
    let (admin, io) = supported(log);
    let mut text = String::new();
    for (title, prefix, commands) in [("Admin Commands", "ACS", admin), ("I/O Commands", "IOCS", io)] {
        let _ = writeln!(text, "{title}:");
        for (code, name, effects) in commands {
            let _ = writeln!(text, "{prefix}{code:<4} {name:<40} {:08x}", effects.into_bits());
            for note in effect_notes(effects).filter(|_| human) {
                let _ = writeln!(text, "           {note}");
            }
        }
    }
    text.truncate(text.trim_end().len());
    text
}

fn effect_notes(effects: CommandEffects) -> impl Iterator<Item = &'static str> {
    let notes = [
        (effects.logical_block_content_change(), "may change user data"),
        (effects.namespace_capability_change(), "may change what a namespace can do"),
        (effects.namespace_inventory_change(), "may change which namespaces there are"),
        (effects.controller_capability_change(), "may change what the controller can do"),
        (effects.execution() == 1, "no other command for the namespace meanwhile"),
        (effects.execution() == 2, "no other command at all meanwhile"),
    ];
    notes.into_iter().filter(|(holds, _)| *holds).map(|(_, text)| text)
}
