//! Commands for logical blocks: `read`, `write`, `compare`, `verify`, `write-zeroes`, `dsm`, `flush`.

mod data;
mod dsm;

use anyhow::{bail, ensure};
use clap::Args;
use gangway_spec::nvm::{IoControl, MAX_BLOCKS, set_nlb, set_slba};
use gangway_spec::{SubmissionQueueEntry, opcode};

pub(crate) use self::data::{Compare, Read, Write};
pub(crate) use self::dsm::{Dsm, Flush};
use super::args::{self, Consent, Target};
use super::identify::describe_victim;
use super::progress::{Interrupts, Progress};
use super::session::{self, Geometry, Session};
use crate::device::{Data, QueueKind};
use crate::exit::Exit;
use crate::output;

/// Commands in flight at a time when a range takes several.
const DEPTH: usize = 8;

/// Which blocks, and how.
#[derive(Args, Clone, Debug)]
pub(crate) struct Range {
    /// Namespace [default: the only one]
    #[arg(short, long, value_name = "NSID", value_parser = args::nsid)]
    namespace_id: Option<u32>,
    /// First block
    #[arg(short, long, value_name = "LBA", value_parser = args::number, default_value_t = 0)]
    start_block: u64,
    /// Number of blocks, counted from 0: 7 is eight blocks. More than one command takes are done in several
    #[arg(short = 'c', long, value_name = "N", value_parser = args::number)]
    block_count: Option<u64>,
    /// Limit how often the drive tries again
    #[arg(short, long)]
    limited_retry: bool,
    /// Force unit access: past the volatile write cache
    #[arg(short, long)]
    force_unit_access: bool,
    /// Protection information: 8 has the drive insert or strip it; 4, 2, 1 have it check guard, application tag,
    /// reference tag
    #[arg(short, long, value_name = "BITS", value_parser = args::number8, default_value_t = 0)]
    prinfo: u8,
    /// Reference tag that is expected, or written
    #[arg(short, long, value_name = "TAG", value_parser = args::number32, default_value_t = 0)]
    ref_tag: u32,
    /// Mask of the application tag
    #[arg(short = 'm', long, value_name = "MASK", value_parser = args::number16, default_value_t = 0)]
    app_tag_mask: u16,
    /// Application tag
    #[arg(short, long, value_name = "TAG", value_parser = args::number16, default_value_t = 0)]
    app_tag: u16,
}

/// Blocks of a namespace that commands are for.
#[derive(Clone, Copy, Debug)]
struct Extent {
    geometry: Geometry,
    first: u64,
    blocks: u64,
    /// Bytes that a block has on its way.
    unit: usize,
}

impl Extent {
    fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(self.unit as u64)
    }

    fn text(&self) -> String {
        let bytes = self.blocks.saturating_mul(self.geometry.block.into());
        let last = self.first.saturating_add(self.blocks - 1);
        format!("{} blocks ({} to {last}, {})", self.blocks, self.first, output::size(bytes))
    }
}

impl Range {
    /// The blocks that are meant. `bytes`: how many bytes were asked for, when no number of blocks was.
    fn extent(&self, session: &mut Session, bytes: Option<u64>) -> anyhow::Result<Extent> {
        let nsid = session.one_namespace(self.namespace_id)?;
        let geometry = session.geometry(nsid)?;
        let unit = if self.strips(geometry) { geometry.block as usize } else { geometry.unit() };
        let blocks = match (self.block_count, bytes) {
            (Some(count), _) => count.saturating_add(1),
            (None, Some(bytes)) => {
                ensure!(
                    bytes > 0 && bytes.is_multiple_of(unit as u64),
                    "{bytes} bytes are no whole number of blocks, which have {unit} bytes each"
                );
                bytes / unit as u64
            }
            (None, None) => 1,
        };
        let end = self.start_block.checked_add(blocks);
        ensure!(
            end.is_some_and(|end| end <= geometry.blocks),
            "namespace {nsid} has {} blocks: {blocks} from {} on are too many",
            geometry.blocks,
            self.start_block
        );
        Ok(Extent { geometry, first: self.start_block, blocks, unit })
    }

    /// Whether the drive inserts and strips metadata that is nothing but protection information.
    fn strips(&self, geometry: Geometry) -> bool {
        self.prinfo & IoControl::PRACT != 0 && geometry.metadata == 8
    }

    /// Refuses to transfer blocks whose metadata has no place to go.
    fn check_metadata(&self, extent: &Extent) -> anyhow::Result<()> {
        let Geometry { nsid, metadata, extended, .. } = extent.geometry;
        if metadata > 0 && !extended && !self.strips(extent.geometry) {
            bail!(
                "namespace {nsid} has {metadata} bytes of metadata per block in a buffer of their own, which are not \
                 transferred here; --prinfo 8 leaves protection information to the drive"
            );
        }
        Ok(())
    }

    fn entry(&self, code: u8, extent: &Extent, first: u64, blocks: u32) -> SubmissionQueueEntry {
        let mut entry = SubmissionQueueEntry::new(code);
        entry.nsid.set(extent.geometry.nsid);
        let control = IoControl::new()
            .with_prinfo(self.prinfo & 0xf)
            .with_fua(self.force_unit_access)
            .with_lr(self.limited_retry);
        entry.cdw12.set(control.into_bits());
        set_slba(&mut entry, first);
        set_nlb(&mut entry, blocks);
        // The reference tag counts on with the blocks.
        entry.cdw14.set(self.ref_tag.wrapping_add((first - extent.first) as u32));
        entry.cdw15.set(u32::from(self.app_tag_mask) << 16 | u32::from(self.app_tag));
        entry
    }
}

/// One command of several for a range.
struct Piece {
    entry: SubmissionQueueEntry,
    /// Which bytes of the whole it transfers.
    at: usize,
    length: usize,
}

/// How the data of a range goes.
enum Flow<'a> {
    /// Nowhere.
    None,
    /// To the device.
    Out(&'a [u8]),
    /// From the device: each piece, in order.
    In(&'a mut dyn FnMut(&[u8]) -> anyhow::Result<()>),
}

/// Runs a command for each part of a range, several at a time, in order. Says how far it is, and ends early when
/// somebody presses Ctrl-C.
fn run(
    session: &mut Session,
    what: &str,
    extent: &Extent,
    mut flow: Flow<'_>,
    entry: impl Fn(u64, u32) -> SubmissionQueueEntry,
) -> anyhow::Result<Exit> {
    let per_command = match flow {
        Flow::None => MAX_BLOCKS,
        _ => (session.device.max_transfer() / extent.unit) as u32,
    };
    let per_command = u64::from(per_command.clamp(1, MAX_BLOCKS));
    let mut progress = Progress::new(what);
    let interrupts = if extent.blocks > per_command { Some(Interrupts::watch()?) } else { None };
    let mut next = 0;
    let mut done = 0;
    let mut running = std::collections::VecDeque::new();
    while done < extent.blocks {
        let stopped = interrupts.as_ref().is_some_and(|interrupts| interrupts.count() > 0);
        while next < extent.blocks && running.len() < DEPTH && !stopped {
            let blocks = (extent.blocks - next).min(per_command);
            let at = (next * extent.unit as u64) as usize;
            let length = blocks as usize * extent.unit;
            let piece = Piece { entry: entry(extent.first + next, blocks as u32), at, length };
            let data = match &flow {
                Flow::None => Data::None,
                Flow::Out(bytes) => Data::Out(&bytes[piece.at..piece.at + piece.length]),
                Flow::In(_) => Data::In(piece.length),
            };
            let ticket = session.submit(QueueKind::Io, &piece.entry, data)?;
            running.push_back((ticket, piece, blocks));
            next += blocks;
        }
        let Some((ticket, piece, blocks)) = running.pop_front() else {
            eprintln!("{what}: stopped after {done} of {} blocks", extent.blocks);
            return Ok(Exit::Failure);
        };
        let answer = session.wait(ticket, QueueKind::Io, &piece.entry, None)?;
        let answer = session.check(QueueKind::Io, &piece.entry, answer)?;
        if let Flow::In(sink) = &mut flow {
            let (got, length) = (answer.data.len(), piece.length);
            ensure!(got == length, "{what}: the controller sent {got} of {length} bytes");
            sink(&answer.data)?;
        }
        done += blocks;
        progress.at(done, extent.blocks);
    }
    drop(progress);
    eprintln!("{what}: Success");
    Ok(Exit::Success)
}

/// Has the drive check that blocks can be read (Verify)
#[derive(Args, Clone, Debug)]
pub(crate) struct Verify {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    range: Range,
}

impl Verify {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            let extent = self.range.extent(session, None)?;
            run(session, "verify", &extent, Flow::None, |first, blocks| {
                self.range.entry(opcode::nvm::VERIFY, &extent, first, blocks)
            })
        })
    }
}

/// Sets blocks to zeroes (Write Zeroes)
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  gangway write-zeroes pci:0000:01:00.0 -s 0 -c 2047      the first 2048 blocks")]
pub(crate) struct WriteZeroes {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    range: Range,
    /// Have the drive deallocate the blocks
    #[arg(short, long)]
    deac: bool,
    #[command(flatten)]
    consent: Consent,
}

impl WriteZeroes {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        session::with(&self.target, |session| {
            let extent = self.range.extent(session, None)?;
            if !agreed(session, self.consent, "overwrites with zeroes", &extent)? {
                return Ok(Exit::Failure);
            }
            run(session, "write-zeroes", &extent, Flow::None, |first, blocks| {
                let mut entry = self.range.entry(opcode::nvm::WRITE_ZEROES, &extent, first, blocks);
                entry.cdw12.set(IoControl::of(&entry).with_deac(self.deac).into_bits());
                entry
            })
        })
    }
}

/// Asks whether the data of a range may go.
fn agreed(session: &mut Session, consent: Consent, what: &str, extent: &Extent) -> anyhow::Result<bool> {
    if consent.yes {
        return Ok(true);
    }
    let victim = describe_victim(session, Some(extent.geometry.nsid));
    consent.asked(&format!("This {what} {} of {victim}", extent.text()))
}
