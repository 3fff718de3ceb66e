//! The properties of a fabrics controller: what Property Get and Property Set see of CAP, VS, CC, CSTS and their kin.
//!
//! The state machine of enabling, resetting and shutting down is here; what has to be torn down then is the caller's
//! affair, which [`Effect`] tells it. NVMe Base 2.0, 3.1.3, 6.5 and 6.6.

use std::time::Duration;

use gangway_spec::Status;
use gangway_spec::fabrics::{PropertyGet, PropertySet};
use gangway_spec::registers::{
    self, ControllerCapabilities, ControllerConfiguration, ControllerReadyTimeouts, ControllerStatus, Version,
};

/// What the caller has to do about a Property Set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The controller is enabled and ready: I/O queues may be connected.
    Enabled,
    /// The controller was reset by the host: drop its I/O queues, asynchronous events and feature values.
    Disabled,
    /// The host shuts the controller down: call [`Properties::shutdown_complete`] when everything is written.
    Shutdown {
        /// The host does not wait for an orderly end.
        abrupt: bool,
    },
}

/// The capabilities of a controller that differ between exports; the rest of CAP follows from the transport.
#[derive(Debug, Clone, Copy)]
pub struct Capabilities {
    /// Most entries of an I/O queue, 1's based.
    pub max_queue_entries: u16,
    /// Longest time that enabling or disabling takes.
    pub timeout: Duration,
    /// Command sets supported, such as [`ControllerCapabilities::CSS_NVM`].
    pub css: u8,
}

impl Capabilities {
    /// CAP for a controller of version `vs`.
    pub fn build(&self, vs: Version) -> ControllerCapabilities {
        // Version 2.0 demands CRMS.CRWMS; hosts then take the timeout from CRTO.
        let crms = if vs >= Version::V2_0 { 0b01 } else { 0 };
        ControllerCapabilities::new()
            .with_mqes(self.max_queue_entries.saturating_sub(1))
            .with_cqr(true)
            .with_to(half_seconds(self.timeout).min(255) as u8)
            .with_css(self.css)
            .with_crms(crms)
    }
}

fn half_seconds(timeout: Duration) -> u128 {
    timeout.as_millis().div_ceil(500)
}

/// The properties of one controller.
#[derive(Debug, Clone)]
pub struct Properties {
    cap: ControllerCapabilities,
    vs: Version,
    cc: ControllerConfiguration,
    csts: ControllerStatus,
    has_io_queues: bool,
}

impl Properties {
    /// A controller with I/O queues, not yet enabled.
    pub fn new(cap: ControllerCapabilities, vs: Version) -> Properties {
        Properties {
            cap,
            vs,
            cc: ControllerConfiguration::new(),
            csts: ControllerStatus::new(),
            has_io_queues: true,
        }
    }

    /// A discovery controller: it has no I/O queues, so the host need not set their entry sizes.
    pub fn discovery(cap: ControllerCapabilities, vs: Version) -> Properties {
        Properties { has_io_queues: false, ..Properties::new(cap, vs) }
    }

    /// The value of a property.
    ///
    /// # Errors
    /// Invalid Field in Command for a property that does not exist or has another size.
    pub fn get(&self, command: &PropertyGet) -> Result<u64, Status> {
        let value = match (command.ofst.get(), command.size()) {
            (registers::CAP, Some(8)) => self.cap.into_bits(),
            (registers::VS, Some(4)) => self.vs.0.into(),
            (registers::CC, Some(4)) => self.cc.into_bits().into(),
            (registers::CSTS, Some(4)) => self.csts.into_bits().into(),
            // Reading the reset register returns 0 where it exists.
            (registers::NSSR, Some(4)) if self.cap.nssrs() => 0,
            (registers::CRTO, Some(4)) if self.cap.crms() != 0 => self.crto().into_bits().into(),
            _ => return Err(Status::INVALID_FIELD.with_dnr()),
        };
        Ok(value)
    }

    fn crto(&self) -> ControllerReadyTimeouts {
        ControllerReadyTimeouts::new().with_crwmt(self.cap.to().into())
    }

    /// Changes a property.
    ///
    /// # Errors
    /// Invalid Field in Command for a property that does not exist, cannot be written, or has another size.
    pub fn set(&mut self, command: &PropertySet) -> Result<Effect, Status> {
        // Both properties that can be written have four bytes, which are in the lower half of the value.
        let value = command.value.get() as u32;
        match command.ofst.get() {
            _ if command.size() != Some(4) => Err(Status::INVALID_FIELD.with_dnr()),
            registers::CC => Ok(self.configure(ControllerConfiguration::from_bits(value))),
            registers::NSSR if self.cap.nssrs() => {
                if value != registers::NSSR_RESET {
                    return Ok(Effect::None);
                }
                let was_enabled = self.cc.en();
                self.cc = ControllerConfiguration::new();
                self.csts = ControllerStatus::new().with_nssro(true);
                Ok(if was_enabled { Effect::Disabled } else { Effect::None })
            }
            _ => Err(Status::INVALID_FIELD.with_dnr()),
        }
    }

    fn configure(&mut self, new: ControllerConfiguration) -> Effect {
        let old = std::mem::replace(&mut self.cc, new);
        let mut effect = Effect::None;
        if new.en() && !old.en() {
            if self.is_usable(new) {
                self.csts.set_rdy(true);
                effect = Effect::Enabled;
            } else {
                self.csts.set_cfs(true);
            }
        } else if !new.en() && old.en() {
            // A controller level reset also ends a fatal status and a shutdown.
            self.csts = ControllerStatus::new();
            effect = Effect::Disabled;
        }
        if new.shn() != 0 && old.shn() == 0 {
            self.csts.set_shst(ControllerStatus::SHST_OCCURRING);
            effect = Effect::Shutdown { abrupt: new.shn() == ControllerConfiguration::SHN_ABRUPT };
        } else if new.shn() == 0 && old.shn() != 0 && !self.is_shut_down() {
            // The host thought better of it before the end was reached.
            self.csts.set_shst(ControllerStatus::SHST_NORMAL);
        }
        effect
    }

    /// NVMe Base 2.0, 3.1.3.5: what a host may write to CC when it enables this controller.
    fn is_usable(&self, cc: ControllerConfiguration) -> bool {
        let command_set = match cc.css() {
            ControllerConfiguration::CSS_NVM => self.cap.css() & ControllerCapabilities::CSS_NVM != 0,
            ControllerConfiguration::CSS_ALL => {
                self.cap.css() & ControllerCapabilities::CSS_IO_COMMAND_SETS != 0
            }
            ControllerConfiguration::CSS_ADMIN_ONLY => {
                self.cap.css() & ControllerCapabilities::CSS_ADMIN_ONLY != 0
            }
            _ => false,
        };
        // A discovery controller ought to see zero in the entry sizes, but every host writes those of I/O queues.
        let entry_sizes = !self.has_io_queues || (cc.iosqes() == 6 && cc.iocqes() == 4);
        let arbitration = match cc.ams() {
            0 => true,
            1 => self.cap.ams() & 1 != 0,
            _ => false,
        };
        let page_size = (self.cap.mpsmin()..=self.cap.mpsmax()).contains(&cc.mps());
        command_set && entry_sizes && arbitration && page_size
    }

    /// Tells that the shutdown which [`Effect::Shutdown`] announced is done.
    pub fn shutdown_complete(&mut self) {
        if self.cc.shn() != 0 {
            self.csts.set_shst(ControllerStatus::SHST_COMPLETE);
        }
    }

    /// Marks the controller as failed: only a reset by the host ends that.
    pub fn fail(&mut self) {
        self.csts.set_cfs(true);
    }

    /// Whether the controller is enabled and ready.
    pub fn is_ready(&self) -> bool {
        self.csts.rdy()
    }

    /// Whether a shutdown was asked for and is complete.
    pub fn is_shut_down(&self) -> bool {
        self.csts.shst() == ControllerStatus::SHST_COMPLETE
    }

    /// CAP.
    pub fn capabilities(&self) -> ControllerCapabilities {
        self.cap
    }

    /// VS.
    pub fn version(&self) -> Version {
        self.vs
    }

    /// CC as the host wrote it last.
    pub fn configuration(&self) -> ControllerConfiguration {
        self.cc
    }

    /// CSTS.
    pub fn status(&self) -> ControllerStatus {
        self.csts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities() -> ControllerCapabilities {
        Capabilities { max_queue_entries: 128, timeout: Duration::from_millis(7600), css: 1 }
            .build(Version::V2_0)
    }

    fn properties() -> Properties {
        Properties::new(capabilities(), Version::V2_0)
    }

    fn good() -> ControllerConfiguration {
        ControllerConfiguration::new().with_en(true).with_iosqes(6).with_iocqes(4)
    }

    fn set(properties: &mut Properties, cc: ControllerConfiguration) -> Effect {
        properties.set(&PropertySet::new32(registers::CC, cc.into_bits())).unwrap()
    }

    fn csts(properties: &Properties) -> ControllerStatus {
        let value = properties.get(&PropertyGet::new32(registers::CSTS)).unwrap();
        ControllerStatus::from_bits(value as u32)
    }

    #[test]
    fn the_order_of_properties_that_a_host_reads_works() {
        let mut properties = properties();
        let cap = ControllerCapabilities::from_bits(properties.get(&PropertyGet::new64(0)).unwrap());
        assert_eq!((cap.mqes(), cap.cqr(), cap.to(), cap.mpsmin(), cap.dstrd()), (127, true, 16, 0, 0));
        assert_eq!(properties.get(&PropertyGet::new32(8)), Ok(0x0002_0000));
        assert_eq!(properties.get(&PropertyGet::new32(0x68)), Ok(16));
        assert!(!csts(&properties).rdy());
        assert_eq!(set(&mut properties, good()), Effect::Enabled);
        assert!(csts(&properties).rdy());
        assert_eq!(properties.get(&PropertyGet::new32(registers::CC)), Ok(0x0046_0001));
    }

    #[test]
    fn a_wrong_configuration_is_a_fatal_status_until_the_controller_is_reset() {
        let wrong = [
            good().with_iosqes(7),
            good().with_iocqes(0),
            good().with_mps(1),
            good().with_ams(1),
            good().with_ams(7),
            good().with_css(6),
            good().with_css(1),
        ];
        for cc in wrong {
            let mut properties = properties();
            assert_eq!(set(&mut properties, cc), Effect::None, "{cc:?}");
            assert!(csts(&properties).cfs() && !csts(&properties).rdy(), "{cc:?}");
            assert_eq!(set(&mut properties, cc.with_en(false)), Effect::Disabled);
            assert!(!csts(&properties).cfs());
            assert_eq!(set(&mut properties, good()), Effect::Enabled);
        }
    }

    #[test]
    fn a_discovery_controller_does_not_mind_the_sizes_of_io_queue_entries() {
        let mut properties = Properties::discovery(capabilities(), Version::V2_0);
        assert_eq!(set(&mut properties, ControllerConfiguration::new().with_en(true)), Effect::Enabled);
    }

    #[test]
    fn a_shutdown_is_complete_only_when_it_is_said_to_be() {
        for (shn, abrupt) in [(1, false), (2, true)] {
            let mut properties = properties();
            set(&mut properties, good());
            properties.shutdown_complete();
            assert_eq!(csts(&properties).shst(), 0, "no shutdown was asked for");
            assert_eq!(set(&mut properties, good().with_shn(shn)), Effect::Shutdown { abrupt });
            assert_eq!(csts(&properties).shst(), 1);
            assert_eq!(set(&mut properties, good().with_shn(shn)), Effect::None, "said twice");
            properties.shutdown_complete();
            assert_eq!(csts(&properties).shst(), 2);
            assert!(properties.is_shut_down());
            assert_eq!(set(&mut properties, good().with_en(false)), Effect::Disabled);
            assert_eq!(csts(&properties).shst(), 0);
        }
    }

    #[test]
    fn a_reset_that_comes_with_a_shutdown_still_reaches_its_end() {
        let mut properties = properties();
        set(&mut properties, good());
        let cc = good().with_en(false).with_shn(1);
        assert_eq!(set(&mut properties, cc), Effect::Shutdown { abrupt: false });
        assert!(!properties.is_ready());
        properties.shutdown_complete();
        assert!(properties.is_shut_down());
    }

    #[test]
    fn properties_that_do_not_exist_or_have_another_size_are_refused() {
        let mut properties = properties();
        let invalid = Status::INVALID_FIELD.with_dnr();
        let mut reserved_size = PropertyGet::new32(registers::CC);
        reserved_size.attrib = 2;
        for command in [
            reserved_size,
            PropertyGet::new32(registers::CAP),
            PropertyGet::new64(registers::VS),
            PropertyGet::new64(registers::CC),
            PropertyGet::new32(registers::CC + 1),
            PropertyGet::new32(registers::NSSR),
            PropertyGet::new32(registers::AQA),
            PropertyGet::new32(registers::DOORBELLS),
            PropertyGet::new32(u32::MAX),
        ] {
            assert_eq!(properties.get(&command), Err(invalid), "{command:?}");
        }
        for command in [
            PropertySet::new64(registers::CAP, 1),
            PropertySet::new32(registers::VS, 1),
            PropertySet::new32(registers::CSTS, 1),
            PropertySet::new64(registers::CC, 1),
            PropertySet::new32(registers::NSSR, registers::NSSR_RESET),
        ] {
            assert_eq!(properties.set(&command), Err(invalid), "{command:?}");
        }
        assert!(!properties.is_ready());
    }

    #[test]
    fn a_subsystem_reset_needs_its_password() {
        let cap = capabilities().with_nssrs(true);
        let mut properties = Properties::new(cap, Version::V1_4);
        set(&mut properties, good());
        assert_eq!(properties.set(&PropertySet::new32(registers::NSSR, 1)), Ok(Effect::None));
        assert!(properties.is_ready());
        assert_eq!(
            properties.set(&PropertySet::new32(registers::NSSR, registers::NSSR_RESET)),
            Ok(Effect::Disabled)
        );
        assert!(!properties.is_ready() && csts(&properties).nssro());
    }
}
