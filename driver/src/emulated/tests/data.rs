//! Data that is written is read again, whatever the shape of the transfer and whatever keeps it.

use std::fs::{self, OpenOptions};
use std::path::Path;

use super::*;
use crate::emulated::EmulatedError;

/// A buffer for transfers of any shape, and a page for PRP lists.
struct Transfer {
    data: DmaBuffer,
    lists: DmaBuffer,
}

impl Transfer {
    fn new(host: &Host, len: usize) -> Self {
        Self {
            data: host.buffer(len, Direction::Bidirectional),
            lists: host.buffer(4 * PAGE, Direction::DeviceReads),
        }
    }

    /// Points the command at `len` bytes from `offset` on, the list beginning `list_offset` bytes into its page. Pages
    /// are listed backwards, so that no two are neighbours: page n of the transfer is page `order(n)` of the buffer.
    fn point(&mut self, entry: &mut SubmissionQueueEntry, offset: usize, len: usize, list_offset: usize) {
        let page = |index: usize| self.data.iova() + (index * PAGE) as u64;
        let pages = (offset + len).div_ceil(PAGE);
        let prp1 = page(pages - 1) + offset as u64;
        if pages <= 2 {
            return entry.set_prp(prp1, if pages == 2 { page(0) } else { 0 });
        }
        let mut rest: Vec<u64> = (0..pages - 1).rev().map(page).collect();
        let (mut at, prp2) = (list_offset, self.lists.iova() + list_offset as u64);
        while !rest.is_empty() {
            let room = (PAGE - at % PAGE) / 8;
            let chained = rest.len() > room;
            let take = if chained { room - 1 } else { rest.len() };
            for pointer in rest.drain(..take) {
                self.lists[at..at + 8].copy_from_slice(&pointer.to_le_bytes());
                at += 8;
            }
            if chained {
                let next =
                    at.next_multiple_of(PAGE).max(PAGE) + if at.is_multiple_of(PAGE) { PAGE } else { 0 };
                let pointer = self.lists.iova() + next as u64;
                self.lists[at..at + 8].copy_from_slice(&pointer.to_le_bytes());
                at = next;
            }
        }
        entry.set_prp(prp1, prp2);
    }

    /// Place in the buffer of byte `at` of a transfer that begins at `offset`.
    fn place(offset: usize, len: usize, at: usize) -> usize {
        let pages = (offset + len).div_ceil(PAGE);
        let (page, within) = ((offset + at) / PAGE, (offset + at) % PAGE);
        (pages - 1 - page) * PAGE + within
    }

    fn fill(&mut self, offset: usize, bytes: &[u8]) {
        for (at, byte) in bytes.iter().enumerate() {
            self.data[Self::place(offset, bytes.len(), at)] = *byte;
        }
    }

    fn collect(&self, offset: usize, len: usize) -> Vec<u8> {
        (0..len).map(|at| self.data[Self::place(offset, len, at)]).collect()
    }
}

#[test]
fn every_length_offset_and_list_moves_the_right_bytes() {
    for block in [512usize, 4096] {
        // 3 MiB need more than one page of list.
        let mut host = Host::new(&format!("size=16MiB,block={block},mdts=10,namespaces=2"));
        let mut queue = host.create_queue(1);
        let mut transfer = Transfer::new(&host, 4 << 20);
        let mut seed = 0;
        let lengths = [1, 2, 7, 8, 9, 16, 17, 64, 768].map(|blocks| blocks * 4096 / block);
        for blocks in lengths.into_iter().chain([1, 3]) {
            for offset in [0, 4, 512, 2048, 4092] {
                for list_offset in [0, 8, 2048, 4080, 4088] {
                    let len = blocks * block;
                    // The pages of the transfer, and one more that must stay as it is.
                    let pages = (offset + len).div_ceil(PAGE);
                    if pages <= 2 && list_offset != 0 {
                        continue;
                    }
                    let area = (pages + 1) * PAGE;
                    seed += 1;
                    let slba = seed * 31 % 1000;
                    let bytes = pattern(seed, len);
                    let mut write = io_command(opcode::nvm::WRITE, slba, blocks as u32);
                    write.nsid.set(1 + (seed % 2) as u32);
                    transfer.point(&mut write, offset, len, list_offset);
                    transfer.fill(offset, &bytes);
                    assert_eq!(
                        queue.run(&write).status(),
                        Status::SUCCESS,
                        "{len} bytes at {offset}, {list_offset}"
                    );
                    transfer.data[..area].fill(0);
                    let read = SubmissionQueueEntry { opcode: opcode::nvm::READ, ..write };
                    assert_eq!(queue.run(&read).status(), Status::SUCCESS);
                    assert!(transfer.collect(offset, len) == bytes, "{len} bytes at {offset}, {list_offset}");
                    let count = |bytes: &[u8]| bytes.iter().filter(|byte| **byte != 0).count();
                    assert_eq!(count(&transfer.data[..area]), count(&bytes), "nothing beside it");
                    let compare = SubmissionQueueEntry { opcode: opcode::nvm::COMPARE, ..write };
                    assert_eq!(queue.run(&compare).status(), Status::SUCCESS);
                    let last = Transfer::place(offset, len, len - 1);
                    transfer.data[last] ^= 1;
                    assert!(queue.run(&compare).status().is(Status::COMPARE_FAILURE));
                }
            }
        }
        assert_eq!(host.probe.violations(), 0);
    }
}

/// One block, moved through a buffer of its own.
struct Block<'a> {
    queue: &'a mut Queue,
    buffer: DmaBuffer,
}

impl<'a> Block<'a> {
    fn new(host: &Host, queue: &'a mut Queue) -> Self {
        Self { queue, buffer: host.buffer(PAGE, Direction::Bidirectional) }
    }

    fn run(&mut self, opcode: u8, nsid: u32, slba: u64, control: u32) -> Status {
        let mut entry = io_command(opcode, slba, 1);
        entry.nsid.set(nsid);
        entry.cdw12.set(control);
        entry.set_prp(self.buffer.iova(), 0);
        self.queue.run(&entry).status()
    }

    fn write(&mut self, nsid: u32, slba: u64, byte: u8) -> Status {
        self.buffer.fill(byte);
        self.run(opcode::nvm::WRITE, nsid, slba, 0)
    }

    fn read(&mut self, nsid: u32, slba: u64) -> Result<u8, Status> {
        self.buffer.fill(0xcc);
        self.run(opcode::nvm::READ, nsid, slba, 0).into_result()?;
        assert!(self.buffer.iter().all(|byte| *byte == self.buffer[0]));
        Ok(self.buffer[0])
    }
}

fn options(path: &Path) -> String {
    format!("file={},size=1MiB,namespaces=2", path.display())
}

#[test]
fn write_zeroes_and_deallocate_leave_zeroes_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    for options in ["size=1MiB,namespaces=2".to_owned(), options(&folder.path().join("disk"))] {
        let mut host = Host::new(&options);
        let mut queue = host.create_queue(1);
        let mut block = Block::new(&host, &mut queue);
        for deac in [0, 1 << 25] {
            for slba in 0..5 {
                assert_eq!(block.write(1, slba, 7), Status::SUCCESS);
                assert_eq!(block.write(2, slba, 8), Status::SUCCESS);
            }
            let mut zeroes = io_command(opcode::nvm::WRITE_ZEROES, 1, 3);
            zeroes.cdw12.set(zeroes.cdw12.get() | deac);
            assert_eq!(block.queue.run(&zeroes).status(), Status::SUCCESS);
            let found: Vec<u8> = (0..5).map(|slba| block.read(1, slba).unwrap()).collect();
            assert_eq!(found, [7, 0, 0, 0, 7]);
            assert!((0..5).all(|slba| block.read(2, slba) == Ok(8)));
        }
        assert_eq!(host.probe.violations(), 0);
    }
}

#[test]
fn zeroes_that_do_not_cover_pages_keep_their_edges() {
    let mut host = Host::new("size=1MiB,block=512");
    let mut queue = host.create_queue(1);
    let mut buffer = host.buffer(64 * 512, Direction::Bidirectional);
    let list = host.buffer(PAGE, Direction::DeviceReads);
    let (iova, mut list) = (buffer.iova(), list);
    for page in 0..7u64 {
        list[page as usize * 8..][..8].copy_from_slice(&(iova + (page + 1) * 4096).to_le_bytes());
    }
    buffer.fill(0x55);
    let mut all = io_command(opcode::nvm::WRITE, 0, 64);
    all.set_prp(iova, list.iova());
    assert_eq!(queue.run(&all).status(), Status::SUCCESS);
    let zeroes = io_command(opcode::nvm::WRITE_ZEROES, 3, 40);
    assert_eq!(queue.run(&zeroes).status(), Status::SUCCESS);
    let read = SubmissionQueueEntry { opcode: opcode::nvm::READ, ..all };
    assert_eq!(queue.run(&read).status(), Status::SUCCESS);
    for (slba, block) in buffer.chunks_exact(512).enumerate() {
        let expected = if (3..43).contains(&slba) { 0 } else { 0x55 };
        assert!(block.iter().all(|byte| *byte == expected), "block {slba}");
    }
}

#[test]
fn a_null_drive_moves_no_data() {
    let mut host = Host::new("null");
    let mut queue = host.create_queue(1);
    let mut block = Block::new(&host, &mut queue);
    assert_eq!(block.write(1, 0, 1), Status::SUCCESS);
    assert_eq!(block.read(1, 0), Ok(0xcc));
    // It is as strict as any other.
    assert!(block.write(1, 1 << 40, 1).is(Status::LBA_OUT_OF_RANGE));
}

#[test]
fn a_file_keeps_the_data_and_the_identity() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let mut identities = Vec::new();
    for round in 0..2 {
        let mut host = Host::new(&options(&path));
        identities.push(host.identify(1, 0).unwrap());
        let mut queue = host.create_queue(1);
        let mut block = Block::new(&host, &mut queue);
        if round == 0 {
            assert_eq!(block.write(2, 255, 0x42), Status::SUCCESS);
            assert_eq!(block.run(opcode::nvm::FLUSH, 1, 0, 0), Status::SUCCESS);
            assert_eq!(block.run(opcode::nvm::WRITE, 2, 254, 1 << 30), Status::SUCCESS, "Force Unit Access");
        } else {
            assert_eq!(
                (block.read(2, 255), block.read(2, 254), block.read(1, 255)),
                (Ok(0x42), Ok(0x42), Ok(0))
            );
            assert_eq!(block.run(opcode::nvm::VERIFY, 2, 255, 0), Status::SUCCESS);
        }
    }
    assert!(identities[0] == identities[1]);
    assert_eq!(identities[0][525] & 1, 1, "a file has a volatile cache: that of the kernel");
    assert_eq!(fs::metadata(&path).unwrap().len(), 2 << 20);
}

#[test]
fn the_write_cache_of_a_file_can_be_turned_off() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = Host::new(&options(&folder.path().join("disk")));
    let mut feature = SubmissionQueueEntry::new(opcode::admin::SET_FEATURES);
    feature.cdw10.set(6);
    assert_eq!(host.admin(&feature).status(), Status::SUCCESS);
    feature.opcode = opcode::admin::GET_FEATURES;
    assert_eq!(host.admin(&feature).dw0.get(), 0);
    let mut queue = host.create_queue(1);
    let mut block = Block::new(&host, &mut queue);
    assert_eq!(block.write(1, 0, 3), Status::SUCCESS);
    assert_eq!(block.read(1, 0), Ok(3));
}

#[test]
fn a_truncated_file_gives_a_status() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let mut host = Host::new(&options(&path));
    let mut queue = host.create_queue(1);
    let mut block = Block::new(&host, &mut queue);
    assert_eq!(block.write(1, 20, 1), Status::SUCCESS);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(10 * 4096 + 100).unwrap();
    assert_eq!(block.read(1, 9), Ok(0));
    assert!(block.read(1, 10).unwrap_err().is(Status::UNRECOVERED_READ_ERROR), "it ends within the block");
    assert!(block.read(1, 20).unwrap_err().is(Status::UNRECOVERED_READ_ERROR));
    assert!(block.run(opcode::nvm::VERIFY, 1, 20, 0).is(Status::UNRECOVERED_READ_ERROR));
    assert!(block.run(opcode::nvm::COMPARE, 1, 20, 0).is(Status::UNRECOVERED_READ_ERROR));
    assert!(!host.status().cfs());
    assert_eq!(host.probe.violations(), 0);
}

#[test]
fn a_file_that_cannot_be_written_gives_a_status() {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    use std::os::fd::AsRawFd;

    let memory = memfd_create("disk", MemfdFlags::ALLOW_SEALING).unwrap();
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    let mut host = Host::new(&options(Path::new(&path)));
    fcntl_add_seals(&memory, SealFlags::WRITE).unwrap();
    let mut queue = host.create_queue(1);
    let mut block = Block::new(&host, &mut queue);
    assert!(block.write(1, 0, 1).is(Status::WRITE_FAULT));
    assert!(block.run(opcode::nvm::WRITE_ZEROES, 1, 0, 0).is(Status::WRITE_FAULT));
    assert_eq!(block.read(1, 0), Ok(0));
}

#[test]
fn a_file_is_one_drive_only_and_has_one_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let domain = DmaDomain::new();
    let open = |options: &str| EmulatedFunction::new(options.parse().unwrap(), &domain).map(|_| ());
    let first = EmulatedFunction::new(options(&path).parse().unwrap(), &domain).unwrap();
    assert!(matches!(open(&options(&path)), Err(EmulatedError::FileInUse { .. })));
    drop(first);
    let other = format!("file={},size=1MiB", path.display());
    match open(&other) {
        Err(EmulatedError::FileSize { found, expected, .. }) => {
            assert_eq!((found, expected), (2 << 20, 1 << 20))
        }
        other => panic!("{other:?}"),
    }
    assert!(open(&options(&path)).is_ok());
    let folder = format!("file={}", folder.path().display());
    assert!(matches!(open(&folder), Err(EmulatedError::File { .. })));
    let nowhere = format!("file={}/a/b", path.display());
    assert!(open(&nowhere).unwrap_err().to_string().contains("could not open"));
}

#[test]
fn whatever_stands_behind_commands_of_one_doorbell_they_move_their_data_and_it_gets_its_own_status() {
    let mut host = Host::new("size=1MiB,block=512,mdts=1");
    let mut queue = host.create_queue(1);
    let mut data = host.buffer(PAGE, Direction::Bidirectional);
    let blocks = 1 << 11;
    let read = |slba, count| io_command(opcode::nvm::READ, slba, count);
    let of = |nsid: u32, entry| SubmissionQueueEntry { nsid: nsid.into(), ..entry };
    let behind = [
        (read(blocks - 8, 8), Status::SUCCESS),
        (read(blocks - 7, 8), Status::LBA_OUT_OF_RANGE),
        (read(u64::MAX, 1), Status::LBA_OUT_OF_RANGE),
        (read(0, 0x1_0000), Status::LBA_OUT_OF_RANGE),
        (read(0, 17), Status::INVALID_FIELD),
        (of(0, read(0, 1)), Status::INVALID_NAMESPACE_OR_FORMAT),
        (of(u32::MAX, read(0, 1)), Status::INVALID_NAMESPACE_OR_FORMAT),
        (io_command(opcode::nvm::FLUSH, 0, 1), Status::SUCCESS),
        (SubmissionQueueEntry::new(0x7f), Status::INVALID_OPCODE),
    ];
    for (number, (mut last, status)) in behind.into_iter().enumerate() {
        let written = pattern(number as u64, PAGE);
        data.copy_from_slice(&written);
        let mut write = io_command(opcode::nvm::WRITE, 8, 8);
        let mut back = read(8, 8);
        for entry in [&mut write, &mut back, &mut last] {
            entry.set_prp(data.iova(), 0);
        }
        // One behind the other, so that data moves before the last command, which may move some itself.
        queue.put(&write);
        queue.put(&back);
        queue.put(&last);
        queue.ring();
        for expected in [Status::SUCCESS, Status::SUCCESS, status] {
            let seen = queue.poll().unwrap().status();
            assert!(seen.is(expected), "{number}: {seen}");
        }
        queue.run(&back);
        assert!(data[..] == written[..], "{number}");
    }
    assert_eq!(host.probe.violations(), 0);
}
