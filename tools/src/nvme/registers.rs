//! `show-regs`, `reset`, `subsystem-reset`.

use clap::Args;
use gangway_spec::registers::{
    self, ControllerCapabilities, ControllerConfiguration, ControllerStatus, Version,
};

use super::args::{Show, Target};
use super::fields::Object;
use super::session;
use crate::device::Device;
use crate::exit::Exit;

/// Shows the controller's registers (properties, over the network)
///
/// Registers that the host sets, such as CC and ASQ, show how this program set them.
#[derive(Args, Clone, Debug)]
pub(crate) struct ShowRegs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    show: Show,
}

impl ShowRegs {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            let (bytes, object) = read(&mut *session.device)?;
            self.show.answer(&format!("Registers of {}", session.name()), &bytes, || object)?;
            Ok(Exit::Success)
        })
    }
}

/// Resets the controller (CC.EN to 0 and to 1 again)
///
/// Data is kept. What was set and not saved is forgotten. Over the network this resets the controller of this
/// association, which is one that only this host sees.
#[derive(Args, Clone, Debug)]
pub(crate) struct Reset {
    #[command(flatten)]
    target: Target,
}

impl Reset {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            session.device.reset()?;
            eprintln!("{}: the controller was reset", session.name());
            Ok(Exit::Success)
        })
    }
}

/// Resets the NVM subsystem, with all of its controllers (NSSR)
///
/// Data is kept. Firmware that waits for such a reset runs afterwards.
#[derive(Args, Clone, Debug)]
pub(crate) struct SubsystemReset {
    #[command(flatten)]
    target: Target,
}

impl SubsystemReset {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            session.device.subsystem_reset()?;
            eprintln!("{}: the NVM subsystem was reset", session.name());
            Ok(Exit::Success)
        })
    }
}

/// Name, offset and bytes of each register, in nvme-cli's order.
const REGISTERS: &[(&str, u32, u8)] = &[
    ("cap", registers::CAP, 8),
    ("vs", registers::VS, 4),
    ("intms", registers::INTMS, 4),
    ("intmc", registers::INTMC, 4),
    ("cc", registers::CC, 4),
    ("csts", registers::CSTS, 4),
    ("nssr", registers::NSSR, 4),
    ("crto", registers::CRTO, 4),
    ("aqa", registers::AQA, 4),
    ("asq", registers::ASQ, 8),
    ("acq", registers::ACQ, 8),
    ("cmbloc", registers::CMBLOC, 4),
    ("cmbsz", registers::CMBSZ, 4),
    ("bpinfo", registers::BPINFO, 4),
    ("bprsel", registers::BPRSEL, 4),
    ("bpmbl", registers::BPMBL, 8),
    ("cmbmsc", registers::CMBMSC, 8),
    ("cmbsts", registers::CMBSTS, 4),
    ("pmrcap", registers::PMRCAP, 4),
    ("pmrctl", registers::PMRCAP + 0x04, 4),
    ("pmrsts", registers::PMRCAP + 0x08, 4),
    ("pmrebs", registers::PMRCAP + 0x0c, 4),
    ("pmrswtp", registers::PMRCAP + 0x10, 4),
    ("pmrmscl", registers::PMRCAP + 0x14, 4),
    ("pmrmscu", registers::PMRCAP + 0x18, 4),
];

/// Bytes up to the last register.
const END: usize = registers::PMRCAP as usize + 0x1c;

/// The registers that can be read, as bytes at their offsets and as fields.
fn read(device: &mut dyn Device) -> anyhow::Result<(Vec<u8>, Object)> {
    let mut bytes = vec![0; END];
    let mut object = Object::default();
    for &(name, offset, width) in REGISTERS {
        let Some(value) = device.register(offset, width)? else { continue };
        let at = offset as usize;
        bytes[at..at + usize::from(width)].copy_from_slice(&value.to_le_bytes()[..usize::from(width)]);
        object.bits(name, value).notes(notes(offset, value));
    }
    Ok((bytes, object))
}

fn notes(offset: u32, value: u64) -> Vec<String> {
    match offset {
        registers::CAP => {
            let cap = ControllerCapabilities::from_bits(value);
            vec![
                format!("{} entries of a queue (MQES)", u32::from(cap.mqes()) + 1),
                format!("queues contiguous: {} (CQR)", cap.cqr()),
                format!("ready within {} ms (TO)", u32::from(cap.to()) * 500),
                format!("doorbells {} bytes apart (DSTRD)", 4 << cap.dstrd()),
                format!("NVM subsystem reset: {} (NSSRS)", cap.nssrs()),
                format!("command sets {:#x} (CSS)", cap.css()),
                format!("pages of {} to {} bytes", 4096_u64 << cap.mpsmin(), 4096_u64 << cap.mpsmax()),
            ]
        }
        registers::VS => vec![Version(value as u32).to_string()],
        registers::CC => {
            let cc = ControllerConfiguration::from_bits(value as u32);
            vec![format!(
                "enabled: {}, command sets {}, pages of {} bytes, entries of 2^{} and 2^{} bytes",
                cc.en(),
                cc.css(),
                4096_u64 << cc.mps(),
                cc.iosqes(),
                cc.iocqes()
            )]
        }
        registers::CSTS => {
            let csts = ControllerStatus::from_bits(value as u32);
            vec![format!("ready: {}, fatal: {}, shutdown {}", csts.rdy(), csts.cfs(), csts.shst())]
        }
        _ => Vec::new(),
    }
}
