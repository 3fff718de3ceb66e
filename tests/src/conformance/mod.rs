//! One list of commands, and what a drive answers to each: a line per case, in a form that two drives can be compared by.
//!
//! The program `gangway-drive-conformance` prints it for a drive whose content may be lost, and compares two of them. The
//! scenario `conformance` does that with QEMU's drive and the emulated one. What the cases print is what the
//! specification fixes: status with Do Not Retry, results, and those fields of data that do not depend on who made the
//! drive. What differs nevertheless is listed in `differences.txt` beside this file, each with its reason.

mod admin;
mod blocks;
mod compare;
mod features;
mod protection;
mod queues;
mod zones;

use std::fmt::{Display, Write as _};
use std::time::{Duration, Instant};

use gangway_driver::address::DeviceAddress;
use gangway_driver::controller::{Controller, Namespace, Options};
use gangway_driver::dma::Direction;
use gangway_driver::queue::DataPointers;
use gangway_driver::{CommandData, Completion, DmaDomain, QueuePair};
use gangway_spec::{CompletionQueueEntry, Status, SubmissionQueueEntry, nvm};

pub use compare::{Comparison, compare};

use crate::drive_check::Outcome;

/// The differences between QEMU's drive and the emulated one that are known, with their reasons.
pub const KNOWN_DIFFERENCES: &str = include_str!("differences.txt");

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What goes with a command.
#[derive(Clone, Copy)]
enum Data<'a> {
    None,
    In(usize),
    Out(&'a [u8]),
}

impl Data<'_> {
    /// Some data for an opcode of which nothing is known: none, if it transfers none.
    fn of(opcode: u8) -> Self {
        if opcode & 0x3 == 0 { Self::None } else { Self::In(4096) }
    }
}

/// A drive that is asked.
struct Subject {
    controller: Controller,
    domain: DmaDomain,
    queue: QueuePair,
    namespace: Namespace,
    report: String,
}

/// Runs all cases on a drive and gives the report. The drive has one namespace at first, with NSID 1.
///
/// # Errors
/// The drive could not be started, or a command was not answered at all.
pub fn run(address: &DeviceAddress) -> Outcome<String> {
    let domain = DmaDomain::new();
    let options = Options {
        queue_depth: 32,
        io_queues_wanted: 2,
        data_pointers: DataPointers::Prp,
        shadow_doorbells: false,
        interrupts: false,
        ..Options::default()
    };
    let mut controller = Controller::start(address.open(&domain)?, options)?;
    let namespace = controller.namespace(1)?;
    let queue = controller.create_io_queue_pair()?;
    let mut subject = Subject { controller, domain, queue, namespace, report: String::new() };
    admin::run(&mut subject)?;
    features::run(&mut subject)?;
    queues::run(&mut subject)?;
    if subject.namespace.zoned.is_some() {
        zones::run(&mut subject)?;
    } else {
        blocks::run(&mut subject)?;
        protection::run(&mut subject)?;
    }
    let Subject { mut controller, queue, report, .. } = subject;
    controller.delete_io_queue_pair(queue)?;
    controller.shutdown()?;
    Ok(report)
}

/// A status in numbers: type, code, and whether the command is not to be repeated. Whether the error log has more to say
/// is the drive's own affair.
fn status(status: Status) -> String {
    let dnr = if status.dnr() { " dnr" } else { "" };
    match status.is_success() {
        true => "ok".to_owned(),
        false => format!("{:x}/{:02x}{dnr}", status.sct(), status.sc()),
    }
}

impl Subject {
    /// Notes what a drive answered.
    fn note(&mut self, case: impl Display, answer: impl Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.report, "{case}: {answer}");
    }

    fn data(&self, data: Data<'_>) -> Outcome<CommandData> {
        Ok(match data {
            Data::None => CommandData::None,
            Data::In(len) => {
                let mut buffer = self.domain.buffer(len, Direction::Bidirectional)?;
                buffer.fill(0xa5);
                buffer.into()
            }
            Data::Out(bytes) => {
                let mut buffer = self.domain.buffer(bytes.len(), Direction::Bidirectional)?;
                buffer.copy_from_slice(bytes);
                buffer.into()
            }
        })
    }

    /// Runs an admin command to its end, whatever that is.
    fn admin(
        &mut self,
        entry: &SubmissionQueueEntry,
        data: Data<'_>,
    ) -> Outcome<(CompletionQueueEntry, Vec<u8>)> {
        const TAG: u64 = u64::MAX >> 8;
        let data = self.data(data)?;
        let deadline = Instant::now() + PATIENCE;
        let queue = self.controller.admin_queue();
        queue.submit(entry, data, TAG, deadline)?;
        queue.ring();
        let mut out = Vec::new();
        loop {
            self.controller.reap_admin(&mut out)?;
            if let Some(done) = out.pop() {
                return Ok((done.entry, done.data.bytes().to_vec()));
            }
            if Instant::now() > deadline {
                return Err(format!("{}: not answered", entry.display_admin()).into());
            }
            std::hint::spin_loop();
        }
    }

    /// Runs an I/O command to its end. The last `metadata` bytes of the data are metadata.
    fn io(&mut self, entry: &SubmissionQueueEntry, data: Data<'_>, metadata: usize) -> Outcome<Completion> {
        let data = self.data(data)?;
        let deadline = Instant::now() + PATIENCE;
        match metadata {
            0 => self.queue.submit(entry, data, 0, deadline)?,
            _ => self.queue.submit_with_metadata(entry, data, metadata, 0, deadline)?,
        }
        self.queue.ring();
        let mut out = Vec::new();
        while self.queue.reap(&mut out)? == 0 {
            if let Some(overdue) = self.queue.overdue(Instant::now()) {
                return Err(overdue.to_string().into());
            }
            std::hint::spin_loop();
        }
        Ok(out.remove(0))
    }

    /// Runs an I/O command and notes its status.
    fn try_io(&mut self, case: impl Display, entry: &SubmissionQueueEntry, data: Data<'_>) -> Outcome<()> {
        let done = self.io(entry, data, 0)?;
        self.note(case, status(done.entry.status()));
        Ok(())
    }

    /// Runs an admin command and notes its status.
    fn try_admin(&mut self, case: impl Display, entry: &SubmissionQueueEntry, data: Data<'_>) -> Outcome<()> {
        let (done, _) = self.admin(entry, data)?;
        self.note(case, status(done.status()));
        Ok(())
    }

    fn blocks(&self) -> u64 {
        self.namespace.identify.as_ref().map_or(0, |identify| identify.nsze.get())
    }

    fn block_size(&self) -> usize {
        self.namespace.format.map_or(512, |format| format.block_size as usize)
    }
}

/// A command on blocks of namespace 1.
fn command(opcode: u8, slba: u64, blocks: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.nsid.set(1);
    nvm::set_slba(&mut entry, slba);
    nvm::set_nlb(&mut entry, blocks);
    entry
}

/// Whether all bytes are the same, and which; else a checksum. Fills what is not fixed is not printed.
fn digest(bytes: &[u8]) -> String {
    match bytes.first() {
        None => "nothing".to_owned(),
        Some(first) if bytes.iter().all(|byte| byte == first) => format!("all {first:02x}"),
        _ => {
            let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
            format!("sum {sum:016x}")
        }
    }
}
