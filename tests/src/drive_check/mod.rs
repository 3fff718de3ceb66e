//! Checks of the driver on a drive whose content may be lost: every namespace is written and read in the ways that its
//! format and command set have, and every byte is compared.
//!
//! The program `gangway-drive-check` runs this on a drive of the machine (in QEMU), a test on the emulated one.

mod blocks;
mod load;
mod zones;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use gangway_driver::address::DeviceAddress;
use gangway_driver::controller::{Controller, Namespace, Options};
use gangway_driver::dma::{Direction, DmaBuffer};
use gangway_driver::{CommandData, Completion, DmaDomain, QueuePair};
use gangway_spec::identify::csi;
use gangway_spec::{Status, SubmissionQueueEntry, nvm};

/// What went wrong, for a person.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was found out about a drive on the way, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts(pub BTreeMap<String, String>);

impl Facts {
    fn set(&mut self, name: impl Into<String>, value: impl fmt::Display) {
        self.0.insert(name.into(), value.to_string());
    }
}

/// A drive that is being checked.
struct Bench {
    controller: Controller,
    facts: Facts,
}

/// Checks a drive, before and after a reset of its controller.
///
/// # Errors
/// What is not as it must be.
pub fn check(address: &DeviceAddress, options: Options) -> Outcome<Facts> {
    let domain = DmaDomain::new();
    let mut bench =
        Bench { controller: Controller::start(address.open(&domain)?, options)?, facts: Facts::default() };
    bench.run()?;
    bench.controller.restart()?;
    bench.run()?;
    bench.controller.shutdown()?;
    Ok(bench.facts)
}

impl Bench {
    fn run(&mut self) -> Outcome<()> {
        let controller = &mut self.controller;
        self.facts.set("sgls", controller.uses_sgls());
        self.facts.set("shadow-doorbells", controller.has_shadow_doorbells());
        self.facts.set("max-transfer", controller.max_transfer());
        self.facts.set("command-sets", format_args!("{:#x}", controller.command_sets().bits()));
        if let Some(on) = controller.volatile_write_cache()? {
            controller.set_volatile_write_cache(!on)?;
            expect("the write cache that was switched", Some(!on), controller.volatile_write_cache()?)?;
            controller.set_volatile_write_cache(on)?;
        }
        let namespaces = controller.namespaces()?;
        let zoned = controller.active_namespaces_of(csi::ZONED_NAMESPACE)?;
        let pair = controller.create_io_queue_pair()?;
        let mut queue = Queue { pair, domain: controller.domain().clone() };
        for namespace in &namespaces {
            let nsid = namespace.nsid;
            self.facts.set(format!("ns{nsid}"), describe(namespace));
            expect(
                "being in the list of zoned namespaces",
                namespace.zoned.is_some(),
                zoned.contains(&nsid),
            )?;
            let done = if namespace.zoned.is_some() {
                let longest = self.controller.max_zone_append()?;
                zones::check(&mut queue, namespace, longest)
            } else {
                blocks::check(&mut queue, namespace, self.controller.uses_sgls())
            };
            done.map_err(|error| format!("namespace {nsid}: {error}"))?;
        }
        self.controller.delete_io_queue_pair(queue.pair)?;
        if let Some(namespace) = namespaces.iter().find(|namespace| namespace.zoned.is_none()) {
            load::check(&mut self.controller, namespace)?;
        }
        Ok(())
    }
}

/// A namespace in a word or two: `512`, `4096+8i pi1`, `512 zoned`.
fn describe(namespace: &Namespace) -> String {
    let Some(format) = namespace.format else { return format!("csi{}", namespace.csi) };
    let mut text = format.block_size.to_string();
    if format.metadata_size > 0 {
        text += &format!("+{}{}", format.metadata_size, if format.interleaved { "i" } else { "" });
    }
    if let Some(protection) = format.protection {
        text += &format!(" pi{}/{}", protection.kind, protection.size);
    }
    if namespace.zoned.is_some() {
        text += " zoned";
    }
    text
}

fn expect<T: PartialEq + fmt::Debug>(what: &str, expected: T, found: T) -> Outcome<()> {
    if expected == found {
        return Ok(());
    }
    Err(format!("{what}: expected {expected:?}, got {found:?}").into())
}

/// Says where two pieces of data begin to differ.
fn expect_bytes(what: &str, expected: &[u8], found: &[u8]) -> Outcome<()> {
    expect(&format!("length of {what}"), expected.len(), found.len())?;
    match expected.iter().zip(found).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(at) => Err(format!(
            "{what}: byte {at} of {} is {:#04x}, not {:#04x}",
            expected.len(),
            found[at],
            expected[at]
        )
        .into()),
    }
}

/// Bytes that no other seed gives.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|index| ((index ^ seed << 17).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 31) as u8)
        .collect()
}

/// An I/O command on blocks.
fn command(opcode: u8, nsid: u32, slba: u64, blocks: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.nsid.set(nsid);
    nvm::set_slba(&mut entry, slba);
    nvm::set_nlb(&mut entry, blocks);
    entry
}

/// A queue pair that is used for one command at a time.
struct Queue {
    pair: QueuePair,
    domain: DmaDomain,
}

impl Queue {
    fn buffer(&self, len: usize, direction: Direction) -> Outcome<DmaBuffer> {
        Ok(self.domain.buffer(len, direction)?)
    }

    /// Runs a command to its end, whatever that is.
    fn run(
        &mut self,
        entry: &SubmissionQueueEntry,
        data: CommandData,
        metadata: usize,
    ) -> Outcome<Completion> {
        let deadline = Instant::now() + PATIENCE;
        match metadata {
            0 => self.pair.submit(entry, data, 0, deadline)?,
            _ => self.pair.submit_with_metadata(entry, data, metadata, 0, deadline)?,
        }
        self.pair.ring();
        let mut out = Vec::new();
        while self.pair.reap(&mut out)? == 0 {
            if let Some(overdue) = self.pair.overdue(Instant::now()) {
                return Err(overdue.to_string().into());
            }
            std::hint::spin_loop();
        }
        Ok(out.remove(0))
    }

    /// Writes `data`, whose last `metadata` bytes are metadata; the status.
    fn write(&mut self, entry: &SubmissionQueueEntry, data: &[u8], metadata: usize) -> Outcome<Completion> {
        let mut buffer = self.buffer(data.len(), Direction::DeviceReads)?;
        buffer.copy_from_slice(data);
        self.run(entry, buffer.into(), metadata)
    }

    /// Reads `len` bytes and `metadata` bytes of metadata.
    fn read(
        &mut self,
        entry: &SubmissionQueueEntry,
        len: usize,
        metadata: usize,
    ) -> Outcome<(Status, Vec<u8>)> {
        let mut buffer = self.buffer(len + metadata, Direction::DeviceWrites)?;
        buffer.fill(0xa5);
        let done = self.run(entry, buffer.into(), metadata)?;
        Ok((done.entry.status(), done.data.bytes().to_vec()))
    }

    /// Runs a command without data that must succeed.
    fn tell(&mut self, what: &str, entry: &SubmissionQueueEntry) -> Outcome<()> {
        let done = self.run(entry, CommandData::None, 0)?;
        expect(what, Status::SUCCESS, done.entry.status())
    }
}
