//! Telemetry: what the drive writes down about itself when a host asks for it (log page 07h), and by itself when
//! something went wrong (log page 08h) (NVMe Base 1.4, 5.14.1.7, 5.14.1.8 and 8.23).
//!
//! Data area 1 is a page of text: what the drive is and what it has counted. Area 2 has the SMART log behind that, area 3
//! the error log as well. The drive collects by itself when it fails (CSTS.CFS), and when a declared fault raises
//! `event=telemetry`. What it collected outlives resets.

use std::fmt::Write;

use gangway_spec::aen::AsyncEvent;
use gangway_spec::feature::TELEMETRY_LOG_NOTICES;
use gangway_spec::log::{TelemetryHeader, lid};
use zerocopy::IntoBytes;

use super::logs::smart_log;
use super::{Admin, AdminCommand};
use crate::emulated::device::{Device, lock};

/// LSP of log page 07h: collect anew before answering.
const CREATE: u8 = 1 << 0;
/// A data block.
const BLOCK: usize = TelemetryHeader::BLOCK;

/// What was collected at one time.
#[derive(Default)]
struct Capture {
    generation: u8,
    reason: String,
    /// The last data block of each area; 0 when there was nothing collected yet.
    areas: [u16; 3],
    data: Vec<u8>,
}

impl Capture {
    /// Collects anew.
    fn collect(&mut self, admin_warnings: u8, device: &Device, reason: &str) {
        let mut smart = smart_log(device);
        smart.critical_warning = admin_warnings;
        let errors = lock(&device.error_log).latest_first();
        let mut data = description(device).into_bytes();
        let areas = [&[], smart.as_bytes(), errors.as_bytes()].map(|part| {
            data.extend_from_slice(part);
            data.resize(data.len().next_multiple_of(BLOCK), 0);
            (data.len() / BLOCK) as u16
        });
        *self = Self { generation: self.generation.wrapping_add(1), reason: reason.to_owned(), areas, data };
    }

    fn header(&self, lid: u8) -> TelemetryHeader {
        let mut header = TelemetryHeader::default();
        header.lid = lid;
        header.data_area_1_last = self.areas[0].into();
        header.data_area_2_last = self.areas[1].into();
        header.data_area_3_last = self.areas[2].into();
        let reason = self.reason.as_bytes();
        let len = reason.len().min(header.reason.len());
        header.reason[..len].copy_from_slice(&reason[..len]);
        header
    }
}

/// What the drive is and has counted, for people.
fn description(device: &Device) -> String {
    let counters = device.counters();
    let mut text = String::new();
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name}: {value}");
    };
    line("model", &device.config.model);
    line("serial", &device.identity.serial);
    line("options", &device.config);
    line("seconds", &device.since.elapsed().as_secs());
    line("reads", &counters.reads);
    line("writes", &counters.writes);
    line("media errors", &counters.media_errors);
    line("errors", &lock(&device.error_log).count());
    line("violations", &device.violations.load(std::sync::atomic::Ordering::Relaxed));
    text
}

/// Both logs.
#[derive(Default)]
pub(super) struct Telemetry {
    host: Capture,
    controller: Capture,
    /// What the controller collected has not been read without Retain Asynchronous Event.
    available: bool,
    /// The host is still to be told of it.
    untold: bool,
}

impl Telemetry {
    /// The log page 08h was read without Retain Asynchronous Event.
    pub(super) fn acknowledge(&mut self) {
        self.available = false;
    }
}

impl Admin {
    /// Collects when there is a reason, and tells the host of it when that wants to know.
    pub(super) fn settle_telemetry(&mut self, device: &Device) {
        if let Some(reason) = device.take_failure() {
            self.collect_telemetry(device, &reason);
        }
        if self.telemetry.untold && self.features.enables_bits(TELEMETRY_LOG_NOTICES) {
            self.telemetry.untold = false;
            self.events.raise(AsyncEvent::TELEMETRY_LOG_CHANGED);
        }
    }

    /// The controller collects by itself. Nothing new is collected before what there is was read.
    pub(super) fn collect_telemetry(&mut self, device: &Device, reason: &str) {
        if !self.telemetry.available {
            let warnings = self.features.critical_warning();
            self.telemetry.controller.collect(warnings, device, reason);
            self.telemetry.available = true;
            self.telemetry.untold = true;
        }
    }
}

impl AdminCommand<'_> {
    /// Log page 07h or 08h as a whole.
    pub(super) fn telemetry(&mut self, lid: u8, lsp: u8) -> Vec<u8> {
        let warnings = self.admin.features.critical_warning();
        let telemetry = &mut self.admin.telemetry;
        if lid == lid::TELEMETRY_HOST && lsp & CREATE != 0 {
            telemetry.host.collect(warnings, self.device, "a host asked for it");
        }
        let capture = if lid == lid::TELEMETRY_HOST { &telemetry.host } else { &telemetry.controller };
        let mut header = capture.header(lid);
        if lid == lid::TELEMETRY_HOST {
            header.host_generation = telemetry.host.generation;
        }
        header.controller_available = telemetry.available.into();
        header.controller_generation = telemetry.controller.generation;
        [header.as_bytes(), &capture.data].concat()
    }
}
