//! The namespaces of a drive: which there are, how they are formatted, and where their blocks lie.
//!
//! A [`Namespace`] never changes its shape. What changes the shape (Format NVM, Namespace Management and Attachment)
//! makes a new one and [publishes](Device::publish_namespaces) a new [`Table`]: each I/O queue has its own reference to
//! the table, and gets the new one inside its gate. So the path of an I/O takes no lock, and when publishing has
//! returned, no command is still at work on the old table.

pub(super) mod format;
mod inventory;
pub(super) mod zones;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use gangway_spec::Status;
use gangway_spec::identify::csi;

use super::device::{Device, lock};
use super::store::Region;
use format::Format;
use zones::Zones;

pub(super) use inventory::{Namespaces, Wanted};

/// The namespace is not the plain kind: it has metadata, zones, or both.
const SHAPE: u8 = 1 << 0;
/// Commands are refused at present.
const REFUSED: u8 = 1 << 1;
/// Some blocks were marked by Write Uncorrectable.
const UNCORRECTABLE: u8 = 1 << 2;

/// One namespace.
pub(super) struct Namespace {
    pub(super) nsid: u32,
    /// How many namespaces had this identifier before; globally unique identifiers are derived from it.
    pub(super) generation: u32,
    /// I/O command set.
    pub(super) csi: u8,
    /// Logical blocks (NSZE).
    pub(super) blocks: u64,
    /// Bytes of the drive that it takes (NVMCAP).
    pub(super) capacity: u64,
    pub(super) format: Format,
    /// The blocks' data, and behind it their metadata.
    pub(super) region: Region,
    zones: Option<Mutex<Zones>>,
    /// Why the way of a plain read or write does not do; 0 when it does.
    special: AtomicU8,
    /// The status that commands are refused with.
    refusal: AtomicU16,
    /// Blocks that cannot be read: first block to the one behind the last.
    uncorrectable: Mutex<BTreeMap<u64, u64>>,
}

/// A range of blocks that lies inside a namespace, as bytes of its region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ByteRange {
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Namespace {
    /// Whether reads and writes need nothing but a range of bytes.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.special.load(Ordering::Relaxed) == 0
    }

    /// Where `blocks` logical blocks from `slba` on lie.
    ///
    /// # Errors
    /// LBA Out of Range.
    #[inline]
    pub(super) fn range(&self, slba: u64, blocks: u64) -> Result<ByteRange, Status> {
        match slba.checked_add(blocks) {
            Some(end) if end <= self.blocks => {
                Ok(ByteRange { offset: slba << self.format.shift, len: blocks << self.format.shift })
            }
            _ => Err(Status::LBA_OUT_OF_RANGE.with_dnr()),
        }
    }

    /// Where the metadata of `blocks` logical blocks from `slba` on lies. The blocks are inside.
    pub(super) fn metadata_range(&self, slba: u64, blocks: u64) -> ByteRange {
        let metadata = u64::from(self.format.metadata);
        ByteRange { offset: (self.blocks << self.format.shift) + slba * metadata, len: blocks * metadata }
    }

    /// The zones, locked, of a zoned namespace.
    pub(super) fn zones(&self) -> Option<MutexGuard<'_, Zones>> {
        self.zones.as_ref().map(lock)
    }

    /// Whether its I/O command set is the zoned one.
    pub(super) fn is_zoned(&self) -> bool {
        self.csi == csi::ZONED_NAMESPACE
    }

    /// Refuses all I/O commands with this status from now on, or takes that back. Commands under way are not waited
    /// for: see [`Device::publish_namespaces`].
    pub(super) fn refuse(&self, status: Option<Status>) {
        self.refusal.store(status.map_or(0, Status::bits), Ordering::Relaxed);
        self.mark(REFUSED, status.is_some());
    }

    /// What commands are refused with at present.
    ///
    /// # Errors
    /// That status.
    pub(super) fn admit(&self) -> Result<(), Status> {
        match self.refusal.load(Ordering::Relaxed) {
            0 => Ok(()),
            status => Err(Status::from_bits(status)),
        }
    }

    fn mark(&self, why: u8, set: bool) {
        if set {
            self.special.fetch_or(why, Ordering::Relaxed);
        } else {
            self.special.fetch_and(!why, Ordering::Relaxed);
        }
    }

    /// Makes blocks unreadable until they are written.
    pub(super) fn make_uncorrectable(&self, slba: u64, blocks: u64) {
        let mut bad = lock(&self.uncorrectable);
        cut(&mut bad, slba, slba + blocks);
        bad.insert(slba, slba + blocks);
        self.mark(UNCORRECTABLE, true);
    }

    /// Blocks were written, so they can be read.
    pub(super) fn make_readable(&self, slba: u64, blocks: u64) {
        if self.special.load(Ordering::Relaxed) & UNCORRECTABLE == 0 {
            return;
        }
        let mut bad = lock(&self.uncorrectable);
        cut(&mut bad, slba, slba + blocks);
        self.mark(UNCORRECTABLE, !bad.is_empty());
    }

    /// Checks that no block of a range was marked unreadable.
    ///
    /// # Errors
    /// Unrecovered Read Error.
    pub(super) fn readable(&self, slba: u64, blocks: u64) -> Result<(), Status> {
        if self.special.load(Ordering::Relaxed) & UNCORRECTABLE == 0 {
            return Ok(());
        }
        let bad = lock(&self.uncorrectable);
        match bad.range(..slba + blocks).next_back() {
            Some((_, end)) if *end > slba => Err(Status::UNRECOVERED_READ_ERROR.with_dnr()),
            _ => Ok(()),
        }
    }

    /// Makes all blocks as they are after a format: zeroes, readable, zones empty.
    ///
    /// # Errors
    /// The store's.
    pub(super) fn erase(&self) -> Result<(), Status> {
        self.region.zero(0, self.capacity, true)?;
        lock(&self.uncorrectable).clear();
        self.mark(UNCORRECTABLE, false);
        if let Some(mut zones) = self.zones() {
            zones.reset_all();
        }
        Ok(())
    }
}

/// Takes `start..end` out of a set of ranges.
fn cut(ranges: &mut BTreeMap<u64, u64>, start: u64, end: u64) {
    let first = ranges.range(..start).next_back().filter(|(_, last)| **last > start).map(|(first, _)| *first);
    let touched: Vec<u64> =
        first.into_iter().chain(ranges.range(start..end).map(|(first, _)| *first)).collect();
    for first in touched {
        let Some(last) = ranges.remove(&first) else { continue };
        if first < start {
            ranges.insert(first, start);
        }
        if last > end {
            ranges.insert(end, last);
        }
    }
}

/// The namespaces that I/O commands can name: those which are attached. Namespace 1 is at index 0.
#[derive(Default)]
pub(super) struct Table {
    attached: Box<[Option<Arc<Namespace>>]>,
}

impl Table {
    /// The namespace with this identifier.
    ///
    /// # Errors
    /// Invalid Namespace or Format when none can have it, Invalid Field when none is attached by it.
    #[inline]
    pub(super) fn get(&self, nsid: u32) -> Result<&Namespace, Status> {
        match self.attached.get(nsid.wrapping_sub(1) as usize) {
            Some(Some(namespace)) => Ok(namespace),
            other => Err(nobody(other.is_some())),
        }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Namespace> {
        self.attached.iter().filter_map(Option::as_deref)
    }
}

#[cold]
fn nobody(valid: bool) -> Status {
    if valid { Status::INVALID_FIELD.with_dnr() } else { Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr() }
}

impl Device {
    /// Lets all I/O queues see which namespaces there are now. When this returns, no command works on what was before.
    pub(super) fn publish_namespaces(&self) {
        let table = Arc::new(self.namespaces.table());
        for gate in &self.io {
            gate.enter().state.work.namespaces = Arc::clone(&table);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(cuts: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut ranges = BTreeMap::from([(10, 20), (30, 40)]);
        for (start, end) in cuts {
            cut(&mut ranges, *start, *end);
        }
        ranges.into_iter().collect()
    }

    #[test]
    fn what_is_cut_out_leaves_both_ends() {
        assert_eq!(ranges(&[(12, 14)]), [(10, 12), (14, 20), (30, 40)]);
        assert_eq!(ranges(&[(5, 12), (38, 50)]), [(12, 20), (30, 38)]);
        assert_eq!(ranges(&[(15, 35)]), [(10, 15), (35, 40)]);
        assert_eq!(ranges(&[(0, 10), (20, 30)]), [(10, 20), (30, 40)]);
        assert_eq!(ranges(&[(0, 100)]), []);
    }
}
