//! Copy (NVM Command Set 1.0, 3.2.2), with source ranges in format 0, and in format 2 from other namespaces (NVM Command
//! Set 1.1, 3.3.2).

use std::sync::atomic::Ordering;

use gangway_spec::{Status, nvm};
use zerocopy::FromBytes;

use super::execute::{Buffers, Execution};
use super::special::Blocks;
use crate::emulated::protection::Expected;

/// OCFS: formats of source ranges. Those of format 2 name namespaces.
pub(in crate::emulated) const FORMATS: u16 = 1 << 0 | 1 << 2;
/// Those that are there before the host asks for more.
pub(in crate::emulated) const FIRST_FORMATS: u16 = FORMATS & !nvm::copy::FORMATS_ACROSS;
/// MSSRL and MCL: most blocks of a source range, and of all of them.
pub(in crate::emulated) const MOST_BLOCKS: u16 = 128;
/// MSRC + 1: most source ranges.
pub(in crate::emulated) const MOST_RANGES: u32 = 128;

const RANGE_LEN: usize = size_of::<nvm::CopyRange>();

impl Execution<'_> {
    pub(super) fn copy(&mut self) -> Result<(), Status> {
        let namespace = self.namespace()?;
        namespace.admit()?;
        let cdw12 = self.entry.cdw12.get();
        let ranges = nvm::copy::range_count(self.entry);
        let (source, target) = ((cdw12 >> 12) as u8 & 0xf, nvm::IoControl::of(self.entry).prinfo());
        let format = nvm::copy::format_bit(self.entry);
        if self.device.copy_formats.load(Ordering::Relaxed) & format == 0 {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        let names_sources = format & nvm::copy::FORMATS_ACROSS != 0;
        if ranges > MOST_RANGES {
            return Err(Status::COMMAND_SIZE_LIMIT_EXCEEDED.with_dnr());
        }
        self.refuse_directives()?;
        let protection = namespace.format.protection;
        // What is stripped on one side has to be inserted on the other.
        if protection.is_some() && (source ^ target) & nvm::IoControl::PRACT != 0 {
            return Err(Status::INVALID_PROTECTION_INFORMATION.with_dnr());
        }
        let mut list = [0; MOST_RANGES as usize * RANGE_LEN];
        let list = &mut list[..ranges as usize * RANGE_LEN];
        self.receive(list)?;
        let sources =
            list.chunks_exact(RANGE_LEN).filter_map(|range| nvm::CopyRange::read_from_bytes(range).ok());
        let source_of = |range: &nvm::CopyRange| match names_sources {
            true => self.namespaces.get(range.snsid.get()),
            false => Ok(namespace),
        };
        let mut total = 0;
        for range in sources.clone() {
            let from = source_of(&range)?;
            from.admit()?;
            if from.format != namespace.format {
                return Err(Status::INCOMPATIBLE_NAMESPACE_OR_FORMAT.with_dnr());
            }
            // A fast copy only (FCO) is not promised.
            if names_sources && range.sopt.get() != 0 {
                return Err(Status::INVALID_FIELD.with_dnr());
            }
            if range.blocks() > MOST_BLOCKS.into() {
                return Err(Status::COMMAND_SIZE_LIMIT_EXCEEDED.with_dnr());
            }
            total += u64::from(range.blocks());
            from.range(range.slba.get(), range.blocks().into())?;
        }
        if total > MOST_BLOCKS.into() {
            return Err(Status::COMMAND_SIZE_LIMIT_EXCEEDED.with_dnr());
        }
        let blocks = Blocks { namespace, slba: nvm::slba(self.entry), count: total };
        namespace.range(blocks.slba, total)?;
        let mut all = Buffers::default();
        for range in sources {
            let from = source_of(&range)?;
            let piece = Blocks { namespace: from, slba: range.slba.get(), count: range.blocks().into() };
            let cdw15 = u32::from(range.elbatm.get()) << 16 | u32::from(range.elbat.get());
            let expected = Expected::new(source, range.eilbrt.get(), cdw15);
            if let Some(protection) = protection {
                protection.admit(&expected, piece.slba)?;
            }
            self.admit_read(piece)?;
            piece.load(self.buffers)?;
            piece.check(&expected, self.buffers)?;
            all.data.extend_from_slice(&self.buffers.data);
            all.metadata.extend_from_slice(&self.buffers.metadata);
        }
        let expected = Expected::of(self.entry);
        if let Some(protection) = protection {
            protection.admit(&expected, blocks.slba)?;
        }
        let mut zones = namespace.zones();
        if let Some(zones) = &mut zones {
            zones.admit_write(blocks.slba, total)?;
        }
        if expected.acts() {
            blocks.insert(&expected, &mut all)?;
        } else {
            blocks.check(&expected, &mut all)?;
        }
        blocks.keep(&mut all)?;
        if let Some(zones) = &mut zones {
            zones.written(blocks.slba, total);
        }
        self.settle()?;
        let units = (total << namespace.format.shift) / 512;
        self.counters.reads += 1;
        self.counters.units_read += units;
        self.counters.writes += 1;
        self.counters.units_written += units;
        Ok(())
    }
}
