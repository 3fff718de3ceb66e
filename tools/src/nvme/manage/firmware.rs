//! `fw-download` and `fw-commit` (NVMe Base 2.0, 5.11 and 5.12).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use gangway_spec::{Status, SubmissionQueueEntry, opcode};

use crate::device::{Data, QueueKind};
use crate::exit::Exit;
use crate::nvme::args::{self, Consent, Target};
use crate::nvme::identify::describe_victim;
use crate::nvme::progress::{Interrupts, Progress};
use crate::nvme::session::{self, Session};

/// What is transferred with a command when the drive has no wish of its own, and the unit of FWUG.
const PAGE: usize = 4096;
/// Statuses of Firmware Commit that say that it was done, and what is needed for the firmware to run.
const NEEDS: [(Status, &str); 3] = [
    (Status::FIRMWARE_REQUIRES_CONVENTIONAL_RESET, "a conventional reset or a power cycle"),
    (
        Status::FIRMWARE_REQUIRES_SUBSYSTEM_RESET,
        "an NVM subsystem reset (`gangway subsystem-reset`) or a power cycle",
    ),
    (Status::FIRMWARE_REQUIRES_CONTROLLER_RESET, "a controller reset (`gangway reset`)"),
];

/// Where an image is, and how it is sent.
#[derive(Args, Clone, Debug)]
struct Sending {
    /// Bytes with each command [default: what the drive wants]
    #[arg(short, long, value_name = "BYTES", value_parser = args::number32)]
    xfer: Option<u32>,
    /// Where in the image the file belongs, in dwords
    #[arg(short, long, value_name = "DWORDS", value_parser = args::number32, default_value_t = 0)]
    offset: u32,
}

/// Sends a firmware image to a drive that somebody else runs; `fw-commit` puts it into a slot
///
/// A drive forgets an image that was sent and not committed when it is reset. A drive of this machine is reset when this
/// program lets go of it: use `gangway fw-commit --fw FILE` there, which does both.
#[derive(Args, Clone, Debug)]
pub(crate) struct FwDownload {
    #[command(flatten)]
    target: Target,
    /// File with the image
    #[arg(short, long, value_name = "FILE")]
    fw: PathBuf,
    #[command(flatten)]
    sending: Sending,
    /// As with nvme-cli; progress is always shown
    #[arg(short, long, hide = true)]
    progress: bool,
}

impl FwDownload {
    pub(in crate::nvme) fn run(&self) -> anyhow::Result<Exit> {
        let image = read(&self.fw)?;
        session::with(&self.target, |session| {
            ensure!(
                !session.device.is_ours(),
                "a drive of this machine is reset when this program lets go of it, and forgets an image that was sent: \
                 `gangway fw-commit --fw {} ...` sends and commits it in one go",
                self.fw.display()
            );
            if !self.sending.send(session, &image)? {
                return Ok(Exit::Failure);
            }
            eprintln!("Firmware download success");
            Ok(Exit::Success)
        })
    }
}

/// Puts a firmware image into a slot, activates one, or both
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway fw-commit pci:0000:01:00.0 --fw image.bin --slot 2 --action 1    sends it, and activates it with the next reset
  gangway fw-commit pci:0000:01:00.0 --slot 1 --action 2                   back to the firmware of slot 1")]
pub(crate) struct FwCommit {
    #[command(flatten)]
    target: Target,
    /// Image to send first
    #[arg(short, long, value_name = "FILE")]
    fw: Option<PathBuf>,
    #[command(flatten)]
    sending: Sending,
    /// Slot; 0 has the drive choose one
    #[arg(short, long, value_name = "0-7", value_parser = clap::value_parser!(u8).range(0..8), default_value_t = 0)]
    slot: u8,
    /// 0 replaces the slot's image, 1 does that and activates it with the next reset, 2 activates the slot with the next
    /// reset, 3 at once; 6 and 7 are for boot partitions
    #[arg(short, long, value_name = "0-7", value_parser = clap::value_parser!(u8).range(0..8), default_value_t = 0)]
    action: u8,
    /// Boot partition
    #[arg(short, long, value_name = "0-1", value_parser = clap::value_parser!(u8).range(0..2), default_value_t = 0)]
    bpid: u8,
    #[command(flatten)]
    consent: Consent,
}

impl FwCommit {
    pub(in crate::nvme) fn run(&self) -> anyhow::Result<Exit> {
        let image = self.fw.as_deref().map(read).transpose()?;
        session::with(&self.target, |session| {
            if !self.consent.yes {
                let victim = describe_victim(session, None);
                let what = match self.action {
                    0 => format!("replaces the firmware in slot {}", self.slot),
                    1 => format!(
                        "replaces the firmware in slot {}, and activates it with the next reset,",
                        self.slot
                    ),
                    2 => format!("activates the firmware in slot {} with the next reset", self.slot),
                    3 => format!("activates the firmware in slot {} at once", self.slot),
                    _ => format!("changes boot partition {}", self.bpid),
                };
                if !self.consent.asked(&format!("This {what} of the drive with {victim}"))? {
                    return Ok(Exit::Failure);
                }
            }
            if let Some(image) = &image
                && !self.sending.send(session, image)?
            {
                return Ok(Exit::Failure);
            }
            let mut entry = SubmissionQueueEntry::new(opcode::admin::FIRMWARE_COMMIT);
            entry.cdw10.set(u32::from(self.bpid) << 31 | u32::from(self.action) << 3 | u32::from(self.slot));
            let answer = session.execute(QueueKind::Admin, &entry, Data::None, None)?;
            let status = answer.entry.status();
            if let Some((_, needed)) = NEEDS.iter().find(|(need, _)| status.is(*need)) {
                eprintln!("Success committing firmware: it runs after {needed}");
                return Ok(Exit::Success);
            }
            session.check(QueueKind::Admin, &entry, answer)?;
            eprintln!("Success committing firmware action:{} slot:{}", self.action, self.slot);
            Ok(Exit::Success)
        })
    }
}

impl Sending {
    /// Sends an image in parts; whether all of it was sent.
    fn send(&self, session: &mut Session, image: &[u8]) -> anyhow::Result<bool> {
        let fwug = session.controller().fwug;
        let granularity = if matches!(fwug, 0 | 0xff) { PAGE } else { usize::from(fwug) * PAGE };
        let part = self.xfer.map_or(granularity, |xfer| xfer as usize);
        ensure!(part > 0 && part.is_multiple_of(4), "--xfer must be a multiple of 4");
        let interrupts = Interrupts::watch()?;
        let mut progress = Progress::new("firmware download");
        for (index, bytes) in image.chunks(part).enumerate() {
            if interrupts.count() > 0 {
                eprintln!("firmware download: stopped; no slot was changed");
                return Ok(false);
            }
            let at = index * part;
            let dwords = u32::try_from(at / 4).ok().and_then(|dwords| dwords.checked_add(self.offset));
            let Some(dwords) = dwords else { bail!("the image is longer than a drive can be sent") };
            let mut entry = SubmissionQueueEntry::new(opcode::admin::FIRMWARE_IMAGE_DOWNLOAD);
            // Counted from 0.
            entry.cdw10.set((bytes.len() / 4 - 1) as u32);
            entry.cdw11.set(dwords);
            session.admin(&entry, Data::Out(bytes))?;
            progress.at(at as u64, image.len() as u64);
        }
        Ok(true)
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let image = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let length = image.len();
    ensure!(
        length > 0 && length.is_multiple_of(4),
        "{} has {length} bytes: an image is a multiple of 4",
        path.display()
    );
    Ok(image)
}
