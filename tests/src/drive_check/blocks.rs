//! Reads and writes of blocks, with the metadata and the protection that a namespace is formatted with.

use gangway_driver::controller::Namespace;
use gangway_driver::dma::Direction;
use gangway_spec::nvm::{BlockFormat, IoControl};
use gangway_spec::{Status, SubmissionQueueEntry, opcode};

use super::{Outcome, Queue, command, expect, expect_bytes, pattern};

/// PRINFO: what is checked.
const GUARD: u8 = 0b100;
const APPLICATION_TAG: u8 = 0b010;

const TAG: u32 = 0x1234;
const WHOLE_TAG: u32 = 0xffff << 16;

pub(super) fn check(queue: &mut Queue, namespace: &Namespace, sgls: bool) -> Outcome<()> {
    let format = namespace.format.ok_or("its format is not understood")?;
    let identify = namespace.identify.as_ref().ok_or("it has no blocks")?;
    let longest = queue.pair.max_transfer() as u64;
    let per_block = u64::from(format.block_size) + u64::from(format.metadata_size);
    let most = (longest / per_block).min(identify.nsze.get() / 2) as u32;
    let pages = 4096_u32.div_ceil(format.block_size);
    let mut counts: Vec<u32> = vec![1, 2, 3, 5, 7, pages, pages + 1, 2 * pages, 2 * pages + 1, 3 * pages];
    counts.extend([most / 2 + 1, most - 1, most]);
    if format.metadata_size > 0 && !format.interleaved {
        // QEMU's drive (7.2) moves the wrong part of separate metadata that is longer than 512 bytes and no multiple.
        let whole = 512 / format.metadata_size.min(512);
        counts.iter_mut().filter(|blocks| **blocks > whole).for_each(|blocks| *blocks -= *blocks % whole);
    }
    for (turn, &blocks) in counts.iter().filter(|&&blocks| (1..=most).contains(&blocks)).enumerate() {
        let slba = 3 + turn as u64 * 11;
        round_trip(queue, &format, namespace.nsid, slba, blocks)
            .map_err(|error| format!("{blocks} blocks from {slba} on: {error}"))?;
    }
    if sgls {
        the_drive_refuses_what_does_not_fit(queue, &format, namespace.nsid)?;
    }
    if format.protection.is_some() {
        protection_is_checked_as_it_is_asked_for(queue, &format, namespace.nsid)?;
    }
    let mut flush = SubmissionQueueEntry::new(opcode::nvm::FLUSH);
    flush.nsid.set(namespace.nsid);
    queue.tell("Flush", &flush)
}

fn lengths(format: &BlockFormat, entry: &SubmissionQueueEntry) -> (usize, usize) {
    (format.transfer_length(entry) as usize, format.metadata_length(entry) as usize)
}

/// `entry` with protection information: `prinfo`, and the tags that go with the first block.
fn protect(entry: &SubmissionQueueEntry, prinfo: u8) -> SubmissionQueueEntry {
    let mut entry = *entry;
    entry.cdw12.set(IoControl::of(&entry).with_prinfo(prinfo).into_bits());
    entry.cdw14.set(entry.cdw10.get());
    entry.cdw15.set(WHOLE_TAG | TAG);
    entry
}

fn round_trip(queue: &mut Queue, format: &BlockFormat, nsid: u32, slba: u64, blocks: u32) -> Outcome<()> {
    let (mut write, mut read) =
        (command(opcode::nvm::WRITE, nsid, slba, blocks), command(opcode::nvm::READ, nsid, slba, blocks));
    if format.protection.is_some() {
        let prinfo = IoControl::PRACT | GUARD;
        (write, read) = (protect(&write, prinfo), protect(&read, prinfo));
    }
    let (len, metadata) = lengths(format, &write);
    let data = pattern(slba << 20 | u64::from(blocks), len + metadata);
    expect("Write", Status::SUCCESS, queue.write(&write, &data, metadata)?.entry.status())?;
    let (status, found) = queue.read(&read, len, metadata)?;
    expect("Read", Status::SUCCESS, status)?;
    let (mut expected, mut compared) = (data.clone(), found);
    blank_protection(format, &write, &mut expected);
    blank_protection(format, &write, &mut compared);
    expect_bytes("what was read", &expected, &compared)?;
    if format.protection.is_none() {
        let compare = SubmissionQueueEntry { opcode: opcode::nvm::COMPARE, ..read };
        expect("Compare", Status::SUCCESS, queue.write(&compare, &data, metadata)?.entry.status())?;
        let mut other = data;
        other[len - 1] ^= 1;
        let status = queue.write(&compare, &other, metadata)?.entry.status();
        return expect("Compare with another byte", true, status.is(Status::COMPARE_FAILURE));
    }
    // As it is stored: data, and the metadata with its protection information.
    let raw = protect(&command(opcode::nvm::READ, nsid, slba, blocks), 0);
    let (len, metadata) = lengths(format, &raw);
    let (status, stored) = queue.read(&raw, len, metadata)?;
    expect("Read of all metadata", Status::SUCCESS, status)?;
    for block in 0..blocks as usize {
        let (data, metadata) = block_of(format, &stored, blocks as usize, block);
        let information = protection_of(format, metadata);
        if information.len() == 8 {
            let mut guarded = data.to_vec();
            if let Some(protection) = format.protection.filter(|protection| !protection.first) {
                guarded.extend_from_slice(&metadata[..metadata.len() - protection.size as usize]);
            }
            let guard = u16::from_be_bytes([information[0], information[1]]);
            expect("the guard", crc16_t10(&guarded), guard)?;
            let tag = u16::from_be_bytes([information[2], information[3]]);
            expect("the application tag", TAG as u16, tag)?;
            let reference =
                u32::from_be_bytes([information[4], information[5], information[6], information[7]]);
            expect("the reference tag", (slba + block as u64) as u32, reference)?;
        }
    }
    // With the protection information that it gave, the drive takes the blocks again and finds them in order.
    let write = protect(&command(opcode::nvm::WRITE, nsid, slba, blocks), GUARD | APPLICATION_TAG);
    expect("Write of all metadata", Status::SUCCESS, queue.write(&write, &stored, metadata)?.entry.status())
}

/// A block's data and metadata in what a command without PRACT transfers.
fn block_of<'a>(format: &BlockFormat, bytes: &'a [u8], blocks: usize, block: usize) -> (&'a [u8], &'a [u8]) {
    let (size, metadata) = (format.block_size as usize, format.metadata_size as usize);
    if format.interleaved {
        bytes[block * (size + metadata)..(block + 1) * (size + metadata)].split_at(size)
    } else {
        let from = blocks * size + block * metadata;
        (&bytes[block * size..(block + 1) * size], &bytes[from..from + metadata])
    }
}

/// The protection information in a block's metadata.
fn protection_of<'a>(format: &BlockFormat, metadata: &'a [u8]) -> &'a [u8] {
    match format.protection {
        None => &[],
        Some(protection) if protection.first => &metadata[..protection.size as usize],
        Some(protection) => &metadata[metadata.len() - protection.size as usize..],
    }
}

/// Takes out what the drive itself puts into metadata that goes along with PRACT.
fn blank_protection(format: &BlockFormat, entry: &SubmissionQueueEntry, bytes: &mut [u8]) {
    let Some(protection) = format.protection else { return };
    let (len, metadata) = lengths(format, entry);
    let (size, own) = (protection.size as usize, format.metadata_size as usize);
    let each = match (format.interleaved, metadata) {
        (true, _) if len.is_multiple_of(format.block_size as usize + own) && own > size => {
            (0, format.block_size as usize + own, format.block_size as usize)
        }
        (false, 1..) => (len, own, 0),
        _ => return,
    };
    let (from, step, before) = each;
    for block in bytes[from..].chunks_exact_mut(step) {
        let metadata = &mut block[before..];
        let at = if protection.first { 0 } else { own - size };
        metadata[at..at + size].fill(0);
    }
}

/// By SGL, a command that would move more than it was given fails, and touches nothing behind it.
fn the_drive_refuses_what_does_not_fit(queue: &mut Queue, format: &BlockFormat, nsid: u32) -> Outcome<()> {
    let mut read = command(opcode::nvm::READ, nsid, 0, 4);
    if format.protection.is_some() {
        read = protect(&read, 0);
    }
    let (len, metadata) = lengths(format, &read);
    let mut buffer = queue.buffer(len, Direction::DeviceWrites)?;
    buffer.fill(0xa5);
    if metadata > 0 {
        return Ok(());
    }
    buffer.set_len(len - format.block_size as usize);
    let done = queue.run(&read, buffer.into(), 0)?;
    let status = done.entry.status();
    expect("a read into less memory, refused", true, status.is(Status::DATA_SGL_LENGTH_INVALID))
}

fn protection_is_checked_as_it_is_asked_for(
    queue: &mut Queue,
    format: &BlockFormat,
    nsid: u32,
) -> Outcome<()> {
    let prinfo = IoControl::PRACT | APPLICATION_TAG;
    let read = protect(&command(opcode::nvm::READ, nsid, 3, 1), prinfo);
    let (len, metadata) = lengths(format, &read);
    expect("Read with the right tag", Status::SUCCESS, queue.read(&read, len, metadata)?.0)?;
    let mut wrong = read;
    wrong.cdw15.set(WHOLE_TAG | (TAG ^ 1));
    let (status, _) = queue.read(&wrong, len, metadata)?;
    expect("Read with another tag, refused", true, status.is(Status::APPLICATION_TAG_CHECK_ERROR))?;
    // A guard that is not that of the data.
    let write = protect(&command(opcode::nvm::WRITE, nsid, 3, 1), GUARD);
    let (len, metadata) = lengths(format, &write);
    let status = queue.write(&write, &pattern(9, len + metadata), metadata)?.entry.status();
    expect("Write with another guard, refused", true, status.is(Status::GUARD_CHECK_ERROR))
}

/// The guard of 16 bits: CRC-16 of T10 DIF.
fn crc16_t10(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        (0..8).fold(
            crc ^ u16::from(byte) << 8,
            |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x8bb7 }
            },
        )
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_guard_is_the_crc_of_its_check_value() {
        assert_eq!(super::crc16_t10(b"123456789"), 0xd0db);
    }
}
