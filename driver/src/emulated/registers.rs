//! The controller registers and what writing them does (NVMe Base 2.0, 3.1.3 and 3.5; PCIe Transport 1.0, 3.1).

use std::sync::atomic::Ordering;

use gangway_spec::registers::{
    self, AdminQueueAttributes, ControllerCapabilities, ControllerConfiguration, ControllerReadyTimeouts,
    ControllerStatus, Version,
};

use super::capabilities::timeout_units;
use super::config::EmulatedConfig;
use super::device::{Device, lock};
use super::faults::Unready;
use super::prp::PAGE;

/// The version of the specification that the drive follows.
pub(super) const VERSION: Version = Version::V1_4;

/// CAP.CRMS: the controller is ready once its media is.
const CONTROLLER_READY_WITH_MEDIA: u8 = 0b01;

/// Bits of CC that have a meaning for this controller, all others being reserved or not supported.
const CC_KNOWN: u32 = 0x00ff_fff1;

/// The last register that describes the admin queues: the upper half of ACQ.
const ADMIN_QUEUES_END: u32 = registers::ACQ + 4;

/// Registers that keep what is written to them.
#[derive(Default)]
pub(super) struct Registers {
    capabilities: ControllerCapabilities,
    ready_timeouts: ControllerReadyTimeouts,
    configuration: ControllerConfiguration,
    ready: bool,
    /// A fault holds up what CC.EN asked for last.
    pending: Option<Unready>,
    pub(super) shutdown: bool,
    /// CSTS.NSSRO: the NVM subsystem was reset.
    subsystem_reset: bool,
    interrupt_mask: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
    /// Times the controller was enabled.
    pub(super) starts: u64,
}

impl Registers {
    pub(super) fn new(config: &EmulatedConfig) -> Self {
        let crto = config.capabilities.crto;
        let capabilities = ControllerCapabilities::new()
            .with_mqes((config.depth - 1) as u16)
            .with_cqr(true)
            .with_to(timeout_units(config.capabilities.ready_timeout) as u8)
            .with_mpsmin((config.capabilities.page / PAGE as u32).trailing_zeros() as u8)
            .with_mpsmax((config.capabilities.page / PAGE as u32).trailing_zeros() as u8)
            .with_crms(if crto.is_some() { CONTROLLER_READY_WITH_MEDIA } else { 0 })
            .with_dstrd(config.stride)
            .with_nssrs(true)
            .with_css(if config.zones.is_some() {
                ControllerCapabilities::CSS_NVM | ControllerCapabilities::CSS_IO_COMMAND_SETS
            } else {
                ControllerCapabilities::CSS_NVM
            });
        let ready_timeouts = ControllerReadyTimeouts::new().with_crwmt(crto.map_or(0, timeout_units));
        Self { capabilities, ready_timeouts, ..Self::default() }
    }

    /// Back to what they are when the power comes on.
    pub(super) fn clear(&mut self) {
        let Self { capabilities, ready_timeouts, starts, .. } = *self;
        *self = Self { capabilities, ready_timeouts, starts, ..Self::default() };
    }

    fn status(&self, fatal: bool) -> ControllerStatus {
        let shst =
            if self.shutdown { ControllerStatus::SHST_COMPLETE } else { ControllerStatus::SHST_NORMAL };
        ControllerStatus::new()
            .with_rdy(self.ready)
            .with_cfs(fatal)
            .with_shst(shst)
            .with_nssro(self.subsystem_reset)
    }
}

/// The half of a 64-bit register that a 32-bit access at `offset` reaches.
fn half(register: u64, offset: u32) -> u32 {
    if offset & 4 == 0 { register as u32 } else { (register >> 32) as u32 }
}

fn set_half(register: &mut u64, offset: u32, value: u32) {
    *register = if offset & 4 == 0 {
        *register & !0xffff_ffff | u64::from(value)
    } else {
        *register & 0xffff_ffff | u64::from(value) << 32
    };
}

impl Device {
    /// Reads a register below the doorbells. What is not there reads as zero.
    pub(super) fn read_register(&self, offset: u32) -> u32 {
        if self.is_gone() {
            return u32::MAX;
        }
        let mut registers = lock(&self.registers);
        self.catch_up(&mut registers);
        match offset {
            registers::CAP | 0x04 => half(registers.capabilities.into_bits(), offset),
            registers::VS => VERSION.into(),
            registers::INTMS | registers::INTMC => registers.interrupt_mask,
            registers::CC => registers.configuration.into_bits(),
            registers::CSTS => registers.status(self.fatal.load(Ordering::Acquire)).into_bits(),
            registers::AQA => registers.aqa,
            registers::CRTO => registers.ready_timeouts.into_bits(),
            registers::ASQ | 0x2c => half(registers.asq, offset),
            registers::ACQ | 0x34 => half(registers.acq, offset),
            _ => 0,
        }
    }

    /// Writes a register below the doorbells. Writes to what is read-only or not there have no effect.
    pub(super) fn write_register(&self, offset: u32, value: u32) {
        if self.is_gone() {
            return;
        }
        let mut registers = lock(&self.registers);
        self.catch_up(&mut registers);
        match offset {
            registers::INTMS => registers.interrupt_mask |= value,
            registers::INTMC => registers.interrupt_mask &= !value,
            registers::CC => self.configure(&mut registers, value),
            registers::CSTS => {
                // Writing a one to it clears it.
                registers.subsystem_reset &= !ControllerStatus::from_bits(value).nssro();
            }
            registers::NSSR if value == registers::NSSR_RESET => {
                self.reset_all(&mut registers);
                registers.subsystem_reset = true;
            }
            registers::AQA..=ADMIN_QUEUES_END if registers.configuration.en() => {
                self.fail("AQA, ASQ or ACQ was written while the controller is enabled");
            }
            registers::AQA => registers.aqa = value,
            registers::ASQ | 0x2c => set_half(&mut registers.asq, offset, value),
            registers::ACQ | 0x34 => set_half(&mut registers.acq, offset, value),
            _ => {}
        }
    }

    fn configure(&self, registers: &mut Registers, value: u32) {
        let old = registers.configuration;
        let new = ControllerConfiguration::from_bits(value);
        registers.configuration = new;
        self.configuration.store(value, Ordering::Release);
        match (old.en(), new.en()) {
            (false, true) if registers.pending.is_some() => {
                self.fail("CC.EN was set before CSTS.RDY had followed it to 0");
            }
            (false, true) | (true, false) => {
                // A controller that never got ready is disabled without ado.
                let enabling = new.en();
                registers.pending = None;
                match self.faults.unready(enabling, self.since.elapsed()) {
                    Some(unready) if enabling || registers.ready => registers.pending = Some(unready),
                    _ => self.follow(registers),
                }
                if !enabling {
                    return;
                }
            }
            (true, true) if (old.css(), old.mps(), old.ams()) != (new.css(), new.mps(), new.ams()) => {
                self.fail("CC.CSS, CC.MPS or CC.AMS changed while the controller is enabled");
            }
            _ => {}
        }
        if new.shn() != ControllerConfiguration::SHN_NONE && !registers.shutdown {
            // Inside the gates nobody works any more when this has passed through them.
            self.running.store(false, Ordering::Release);
            self.pass_through_gates();
            self.namespaces.shut_down();
            if self.store.flush().is_err() {
                self.fail("data could not be made durable at shutdown");
            }
            registers.shutdown = true;
        }
    }

    /// Puts everything back to what it is when the power comes on, but for what the drive stores.
    pub(super) fn reset_registers(&self) {
        self.reset_all(&mut lock(&self.registers));
    }

    /// As when the power comes on, but for the data.
    pub(super) fn reset_all(&self, registers: &mut Registers) {
        self.reset();
        registers.clear();
        self.configuration.store(0, Ordering::Release);
    }

    /// Does what CC.EN asked for and a fault has held up until now.
    fn catch_up(&self, registers: &mut Registers) {
        if registers.pending.is_some_and(Unready::is_over) {
            registers.pending = None;
            self.follow(registers);
        }
    }

    /// Lets CSTS.RDY follow CC.EN.
    fn follow(&self, registers: &mut Registers) {
        if registers.configuration.en() {
            return self.enable(registers);
        }
        self.reset();
        registers.ready = false;
        registers.shutdown = false;
        registers.interrupt_mask = 0;
        registers.configuration = ControllerConfiguration::new();
    }

    fn enable(&self, registers: &mut Registers) {
        let configuration = registers.configuration;
        let attributes = AdminQueueAttributes::from_bits(registers.aqa);
        let wrong = if configuration.into_bits() & !CC_KNOWN != 0 {
            Some("CC has bits set that are reserved, or that CAP does not offer")
        } else if !(configuration.css() == ControllerConfiguration::CSS_NVM
            || configuration.css() == ControllerConfiguration::CSS_ALL && self.config.zones.is_some())
        {
            Some("CC.CSS selects command sets that CAP.CSS does not offer")
        } else if configuration.mps() != registers.capabilities.mpsmin() {
            Some("CC.MPS is not the page size that CAP offers")
        } else if configuration.mps() != 0 {
            Some("the drive has no memory pages but those of 4 KiB, whatever CAP says")
        } else if configuration.ams() != 0 {
            Some("CC.AMS selects an arbitration that CAP.AMS does not offer")
        } else if registers.aqa & 0xf000_f000 != 0 || attributes.asqs() == 0 || attributes.acqs() == 0 {
            Some("AQA does not hold two queue sizes of 2 to 4096 entries")
        } else if registers.asq & 0xfff != 0 || registers.acq & 0xfff != 0 {
            Some("ASQ or ACQ is not page-aligned")
        } else if registers.shutdown {
            Some("the controller was shut down and not reset since")
        } else {
            let asq = (registers.asq, u32::from(attributes.asqs()) + 1);
            let acq = (registers.acq, u32::from(attributes.acqs()) + 1);
            self.doorbells.reset();
            (!self.start(asq, acq)).then_some("ASQ or ACQ is not in memory that the controller can reach")
        };
        match wrong {
            Some(why) => self.fail(why),
            None => {
                registers.ready = true;
                registers.starts += 1;
            }
        }
    }
}
