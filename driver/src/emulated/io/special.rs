//! Commands to namespaces that are more than plain blocks: with metadata and protection information, with zones, with
//! blocks that cannot be read, or refused for the time of a long operation.

use gangway_spec::{Status, nvm};

use super::execute::{Buffers, Execution, deallocate};
use crate::emulated::memory::Access;
use crate::emulated::namespace::Namespace;
use crate::emulated::protection::{Expected, TUPLE};
use crate::emulated::store::dma_status;

/// Blocks of a namespace on their way.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    pub(super) namespace: &'a Namespace,
    pub(super) slba: u64,
    pub(super) count: u64,
}

impl Blocks<'_> {
    /// Bytes of data, and of metadata.
    fn lens(&self) -> (usize, usize) {
        let format = &self.namespace.format;
        let count = self.count as usize;
        (count << format.shift, count * usize::from(format.metadata))
    }

    /// Calls `visit` with the number, data and metadata of each block.
    fn each(
        &self,
        buffers: &mut Buffers,
        mut visit: impl FnMut(usize, &mut [u8], &mut [u8]) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let format = &self.namespace.format;
        let data = buffers.data.chunks_exact_mut(format.block());
        let metadata = buffers.metadata.chunks_exact_mut(format.metadata.into());
        data.zip(metadata).enumerate().try_for_each(|(index, (data, metadata))| visit(index, data, metadata))
    }

    /// Takes the blocks from the media.
    pub(super) fn load(&self, buffers: &mut Buffers) -> Result<(), Status> {
        let (data, metadata) = self.lens();
        buffers.data.resize(data, 0);
        buffers.metadata.resize(metadata, 0);
        let range = self.namespace.range(self.slba, self.count)?;
        self.namespace.region.peek(range.offset, &mut buffers.data)?;
        if metadata > 0 {
            let range = self.namespace.metadata_range(self.slba, self.count);
            self.namespace.region.peek(range.offset, &mut buffers.metadata)?;
            self.invert(buffers);
        }
        Ok(())
    }

    /// Puts the blocks on the media. The metadata is not to be used afterwards: it is in the form in which it is kept.
    pub(super) fn keep(&self, buffers: &mut Buffers) -> Result<(), Status> {
        let range = self.namespace.range(self.slba, self.count)?;
        self.namespace.region.poke(range.offset, &buffers.data)?;
        if self.namespace.format.metadata > 0 {
            self.invert(buffers);
            let range = self.namespace.metadata_range(self.slba, self.count);
            self.namespace.region.poke(range.offset, &buffers.metadata)?;
        }
        self.namespace.make_readable(self.slba, self.count);
        Ok(())
    }

    fn invert(&self, buffers: &mut Buffers) {
        if let Some(protection) = self.namespace.format.protection {
            let metadata = buffers.metadata.chunks_exact_mut(self.namespace.format.metadata.into());
            metadata.for_each(|metadata| protection.invert(metadata));
        }
    }

    /// Checks the protection information as the command asks.
    pub(super) fn check(&self, expected: &Expected, buffers: &mut Buffers) -> Result<(), Status> {
        let Some(protection) = self.namespace.format.protection else { return Ok(()) };
        self.each(buffers, |index, data, metadata| protection.check(expected, index, data, metadata))
    }

    /// Inserts protection information.
    pub(super) fn insert(&self, expected: &Expected, buffers: &mut Buffers) -> Result<(), Status> {
        let Some(protection) = self.namespace.format.protection else { return Ok(()) };
        self.each(buffers, |index, data, metadata| {
            protection.insert(expected, index, data, metadata);
            Ok(())
        })
    }

    /// Whether metadata is on the way between host and drive: it is not where the drive inserts or strips all of it.
    fn moves_metadata(&self, expected: &Expected) -> bool {
        let format = &self.namespace.format;
        match format.protection {
            Some(_) if expected.acts() => usize::from(format.metadata) > TUPLE,
            _ => format.metadata > 0,
        }
    }
}

impl<'a> Execution<'a> {
    /// The blocks that the command names, and what it says about protection information.
    pub(super) fn special(&self, namespace: &'a Namespace) -> Result<(Blocks<'a>, Expected), Status> {
        namespace.admit()?;
        let (slba, count) = self.blocks();
        namespace.range(slba, count)?;
        let expected = Expected::of(self.entry);
        if let Some(protection) = namespace.format.protection {
            protection.admit(&expected, slba)?;
        }
        Ok((Blocks { namespace, slba, count }, expected))
    }

    /// Bytes that the data pointer describes.
    fn wire_len(&self, blocks: Blocks<'_>, extended: bool) -> Result<usize, Status> {
        let (data, metadata) = blocks.lens();
        let len = if extended { data + metadata } else { data };
        if len > self.device.max_transfer() { Err(Status::INVALID_FIELD.with_dnr()) } else { Ok(len) }
    }

    /// Takes the blocks from the host: data, and metadata if it is on the way.
    fn receive_blocks(&mut self, blocks: Blocks<'_>, expected: &Expected) -> Result<(), Status> {
        let format = &blocks.namespace.format;
        let moved = blocks.moves_metadata(expected);
        let (data, metadata) = blocks.lens();
        let len = self.wire_len(blocks, moved && format.extended)?;
        let mut buffers = std::mem::take(self.buffers);
        buffers.data.resize(data, 0);
        buffers.metadata.clear();
        buffers.metadata.resize(metadata, 0);
        let received = if moved && format.extended {
            buffers.stream.resize(len, 0);
            let received = self.receive(&mut buffers.stream);
            let Buffers { stream, data, metadata } = &mut buffers;
            let parts =
                data.chunks_exact_mut(format.block()).zip(metadata.chunks_exact_mut(format.metadata.into()));
            for (whole, (data, metadata)) in stream.chunks_exact(format.stored() as usize).zip(parts) {
                data.copy_from_slice(&whole[..format.block()]);
                metadata.copy_from_slice(&whole[format.block()..]);
            }
            received
        } else {
            self.receive(&mut buffers.data).and_then(|()| {
                if moved {
                    let mptr = self.metadata_pointer(metadata, Access::Read)?;
                    self.host.read(mptr, &mut buffers.metadata).map_err(dma_status)?;
                }
                Ok(())
            })
        };
        *self.buffers = buffers;
        received
    }

    /// Hands the blocks to the host: data, and metadata if it is on the way.
    fn send_blocks(&mut self, blocks: Blocks<'_>, expected: &Expected) -> Result<(), Status> {
        let format = &blocks.namespace.format;
        let moved = blocks.moves_metadata(expected);
        let len = self.wire_len(blocks, moved && format.extended)?;
        let mut buffers = std::mem::take(self.buffers);
        let sent = if moved && format.extended {
            buffers.stream.resize(len, 0);
            let Buffers { stream, data, metadata } = &mut buffers;
            let parts = data.chunks_exact(format.block()).zip(metadata.chunks_exact(format.metadata.into()));
            for (whole, (data, metadata)) in stream.chunks_exact_mut(format.stored() as usize).zip(parts) {
                whole[..format.block()].copy_from_slice(data);
                whole[format.block()..].copy_from_slice(metadata);
            }
            self.send(&buffers.stream)
        } else if moved {
            // Before the data, so that a bad pointer moves nothing.
            self.metadata_pointer(buffers.metadata.len(), Access::Write).and_then(|mptr| {
                self.send(&buffers.data)?;
                self.host.write(mptr, &buffers.metadata).map_err(dma_status)
            })
        } else {
            self.send(&buffers.data)
        };
        *self.buffers = buffers;
        sent
    }

    /// MPTR: the address of a contiguous buffer, on a dword.
    fn metadata_pointer(&self, len: usize, access: Access) -> Result<u64, Status> {
        let mptr = self.entry.mptr.get();
        if !mptr.is_multiple_of(4) {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        self.host.check(mptr, len, access).map_err(dma_status)?;
        Ok(mptr)
    }

    pub(super) fn read_special(&mut self, namespace: &'a Namespace) -> Result<(), Status> {
        let (blocks, expected) = self.special(namespace)?;
        self.admit_read(blocks)?;
        if namespace.format.metadata == 0 {
            let (offset, len) = self.transfer(namespace)?;
            return self.move_to_host(namespace, offset, len);
        }
        self.wire_len(blocks, namespace.format.extended && blocks.moves_metadata(&expected))?;
        blocks.load(self.buffers)?;
        blocks.check(&expected, self.buffers)?;
        self.send_blocks(blocks, &expected)
    }

    /// Whether the blocks may and can be read.
    pub(super) fn admit_read(&self, blocks: Blocks<'_>) -> Result<(), Status> {
        if let Some(zones) = blocks.namespace.zones() {
            zones.admit_read(blocks.slba, blocks.count)?;
        }
        blocks.namespace.readable(blocks.slba, blocks.count)
    }

    pub(super) fn write_special(&mut self, namespace: &'a Namespace) -> Result<(), Status> {
        let (blocks, expected) = self.special(namespace)?;
        // Locked for the time of the write: the write pointer moves when the data is there.
        let mut zones = namespace.zones();
        if let Some(zones) = &mut zones {
            zones.admit_write(blocks.slba, blocks.count)?;
        }
        self.write_blocks(blocks, &expected, 0)?;
        if let Some(zones) = &mut zones {
            zones.written(blocks.slba, blocks.count);
        }
        Ok(())
    }

    /// Writes what the host has to the blocks. `moved` is by how much reference tags change on the way.
    pub(super) fn write_blocks(
        &mut self,
        blocks: Blocks<'_>,
        expected: &Expected,
        moved: u32,
    ) -> Result<(), Status> {
        if blocks.namespace.format.metadata == 0 {
            let range = blocks.namespace.range(blocks.slba, blocks.count)?;
            self.wire_len(blocks, false)?;
            self.move_from_host(blocks.namespace, range.offset, range.len as usize)?;
            blocks.namespace.make_readable(blocks.slba, blocks.count);
            return Ok(());
        }
        self.receive_blocks(blocks, expected)?;
        if expected.acts() {
            let expected = Expected { reference: expected.reference.wrapping_add(moved), ..*expected };
            blocks.insert(&expected, self.buffers)?;
        } else {
            blocks.check(expected, self.buffers)?;
            if let (Some(protection), 1..) = (blocks.namespace.format.protection, moved) {
                blocks.each(self.buffers, |_, _, metadata| {
                    protection.move_reference(metadata, moved);
                    Ok(())
                })?;
            }
        }
        blocks.keep(self.buffers)
    }

    pub(super) fn compare_special(&mut self, namespace: &'a Namespace) -> Result<(), Status> {
        let (blocks, expected) = self.special(namespace)?;
        refuse_action(namespace, &expected)?;
        self.admit_read(blocks)?;
        self.receive_blocks(blocks, &expected)?;
        let theirs = std::mem::take(self.buffers);
        blocks.load(self.buffers)?;
        blocks.check(&expected, self.buffers)?;
        let mut same = self.buffers.data == theirs.data;
        let format = &namespace.format;
        if same && format.metadata > 0 {
            let pairs = self.buffers.metadata.chunks_exact(format.metadata.into());
            let mut pairs = pairs.zip(theirs.metadata.chunks_exact(format.metadata.into()));
            // Protection information is checked, and not compared: its tags may differ for a good reason.
            same = pairs.all(|(ours, theirs)| match format.protection {
                Some(at) => {
                    let end = at.offset + TUPLE;
                    ours[..at.offset] == theirs[..at.offset] && ours[end..] == theirs[end..]
                }
                None => ours == theirs,
            });
        }
        if same { Ok(()) } else { Err(Status::COMPARE_FAILURE) }
    }

    pub(super) fn verify_special(&mut self, namespace: &'a Namespace) -> Result<(), Status> {
        let (blocks, expected) = self.special(namespace)?;
        refuse_action(namespace, &expected)?;
        self.admit_read(blocks)?;
        if namespace.format.metadata == 0 {
            let range = namespace.range(blocks.slba, blocks.count)?;
            return namespace.region.verify(range.offset, range.len);
        }
        // Verify names more blocks than a transfer may have, so it looks at them in pieces.
        const PIECE: u64 = 64;
        for at in (0..blocks.count).step_by(PIECE as usize) {
            let piece = Blocks { slba: blocks.slba + at, count: PIECE.min(blocks.count - at), ..blocks };
            let expected = Expected { reference: expected.reference.wrapping_add(at as u32), ..expected };
            piece.load(self.buffers)?;
            piece.check(&expected, self.buffers)?;
        }
        Ok(())
    }

    pub(super) fn write_zeroes_special(&mut self, namespace: &'a Namespace) -> Result<(), Status> {
        let (blocks, expected) = self.special(namespace)?;
        let mut zones = namespace.zones();
        if let Some(zones) = &mut zones {
            zones.admit_write(blocks.slba, blocks.count)?;
        }
        let inserts = expected.acts() && namespace.format.protection.is_some();
        if nvm::IoControl::of(self.entry).deac() || namespace.format.metadata == 0 {
            deallocate(namespace, blocks.slba, blocks.count)?;
        } else {
            for at in 0..blocks.count {
                let block = Blocks { slba: blocks.slba + at, count: 1, ..blocks };
                let (data, metadata) = block.lens();
                self.buffers.data.clear();
                self.buffers.data.resize(data, 0);
                self.buffers.metadata.clear();
                self.buffers.metadata.resize(metadata, 0);
                if inserts {
                    let step = if namespace.format.dps() & 7 == 3 { 0 } else { at as u32 };
                    let expected = Expected { reference: expected.reference.wrapping_add(step), ..expected };
                    block.insert(&expected, self.buffers)?;
                }
                block.keep(self.buffers)?;
            }
        }
        if let Some(zones) = &mut zones {
            zones.written(blocks.slba, blocks.count);
        }
        Ok(())
    }

    /// Makes blocks unreadable until they are written again.
    pub(super) fn write_uncorrectable(&mut self) -> Result<(), Status> {
        let namespace = self.namespace()?;
        namespace.admit()?;
        let (slba, blocks) = self.blocks();
        namespace.range(slba, blocks)?;
        let mut zones = namespace.zones();
        if let Some(zones) = &mut zones {
            zones.admit_write(slba, blocks)?;
            zones.written(slba, blocks);
        }
        namespace.make_uncorrectable(slba, blocks);
        Ok(())
    }
}

/// PRACT makes no sense in commands that move no protection information.
fn refuse_action(namespace: &Namespace, expected: &Expected) -> Result<(), Status> {
    if namespace.format.protection.is_some() && expected.acts() {
        return Err(Status::INVALID_PROTECTION_INFORMATION.with_dnr());
    }
    Ok(())
}
