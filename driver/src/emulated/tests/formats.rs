//! Metadata, protection information, Format NVM, blocks that cannot be read, Copy.

use gangway_spec::command::NSID_BROADCAST;
use gangway_spec::identify::cns;
use gangway_spec::{IdentifyNamespace, feature};
use zerocopy::little_endian::{U16, U64};

use super::*;
use crate::emulated::protection::crc16;

/// PRINFO as CDW12 has it.
const PRACT: u32 = 1 << 29;
const CHECK_ALL: u32 = 7 << 26;

/// Data and metadata of a few blocks, each in a page of its own.
struct Blocks {
    data: DmaBuffer,
    metadata: DmaBuffer,
}

impl Blocks {
    fn new(host: &Host) -> Self {
        let buffer = || host.buffer(PAGE, Direction::Bidirectional);
        Self { data: buffer(), metadata: buffer() }
    }

    fn command(
        &self,
        opcode: u8,
        slba: u64,
        blocks: u32,
        control: u32,
        reference: u32,
    ) -> SubmissionQueueEntry {
        let mut entry = io_command(opcode, slba, blocks);
        entry.cdw12.set(entry.cdw12.get() | control);
        entry.cdw14.set(reference);
        entry.cdw15.set(0xffff_0000 | 0x1234);
        entry.mptr.set(self.metadata.iova());
        entry.set_prp(self.data.iova(), 0);
        entry
    }
}

fn format(nsid: u32, cdw10: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode::admin::FORMAT_NVM);
    entry.nsid.set(nsid);
    entry.cdw10.set(cdw10);
    entry
}

impl Host {
    fn namespace(&mut self, nsid: u32) -> IdentifyNamespace {
        IdentifyNamespace::read_from_bytes(&self.identify(cns::NAMESPACE, nsid).unwrap()).unwrap()
    }
}

#[test]
fn metadata_in_a_buffer_of_its_own_is_kept_with_its_blocks() {
    let mut host = Host::new("size=1MiB,block=512,ms=16");
    let mut queue = host.create_queue(1);
    let mut blocks = Blocks::new(&host);
    blocks.data.copy_from_slice(&pattern(1, PAGE));
    blocks.metadata.copy_from_slice(&pattern(2, PAGE));
    assert_eq!(queue.run(&blocks.command(opcode::nvm::WRITE, 5, 8, 0, 0)).status(), Status::SUCCESS);
    blocks.data.fill(0);
    blocks.metadata.fill(0);
    assert_eq!(queue.run(&blocks.command(opcode::nvm::READ, 6, 2, 0, 0)).status(), Status::SUCCESS);
    assert_eq!(blocks.data[..1024], pattern(1, PAGE)[512..1536]);
    assert_eq!(blocks.metadata[..32], pattern(2, PAGE)[16..48]);
    assert!(blocks.metadata[32..].iter().all(|byte| *byte == 0));
    let compare = blocks.command(opcode::nvm::COMPARE, 6, 2, 0, 0);
    assert_eq!(queue.run(&compare).status(), Status::SUCCESS);
    blocks.metadata[31] ^= 1;
    assert!(queue.run(&compare).status().is(Status::COMPARE_FAILURE));
    let misaligned = SubmissionQueueEntry { mptr: U64::new(blocks.metadata.iova() + 1), ..compare };
    assert!(queue.run(&misaligned).status().is(Status::INVALID_FIELD));
    let unmapped = SubmissionQueueEntry { mptr: U64::new(host.domain.poison_iova()), ..compare };
    assert!(queue.run(&unmapped).status().is(Status::DATA_TRANSFER_ERROR));
}

#[test]
fn extended_blocks_carry_their_metadata_behind_their_data() {
    let mut host = Host::new("size=1MiB,block=512,ms=8,extended");
    assert!(host.namespace(1).is_extended());
    let mut queue = host.create_queue(1);
    let mut blocks = Blocks::new(&host);
    blocks.data.copy_from_slice(&pattern(3, PAGE));
    assert_eq!(queue.run(&blocks.command(opcode::nvm::WRITE, 0, 7, 0, 0)).status(), Status::SUCCESS);
    blocks.data.fill(0);
    assert_eq!(queue.run(&blocks.command(opcode::nvm::READ, 1, 1, 0, 0)).status(), Status::SUCCESS);
    assert_eq!(blocks.data[..520], pattern(3, PAGE)[520..1040]);
    assert!(blocks.data[520..].iter().all(|byte| *byte == 0));
}

#[test]
fn the_drive_inserts_checks_and_strips_protection_information() {
    for kind in 1..=3u32 {
        let mut host = Host::new(&format!("size=1MiB,block=512,ms=8,pi={kind}"));
        let mut queue = host.create_queue(1);
        let mut blocks = Blocks::new(&host);
        let checks = if kind == 3 { 6 << 26 } else { CHECK_ALL };
        blocks.data.copy_from_slice(&pattern(9, PAGE));
        // Inserted by the drive.
        let write = blocks.command(opcode::nvm::WRITE, 7, 2, PRACT, 7);
        assert_eq!(queue.run(&write).status(), Status::SUCCESS);
        blocks.data.fill(0);
        let read = blocks.command(opcode::nvm::READ, 7, 2, checks, 7);
        assert_eq!(queue.run(&read).status(), Status::SUCCESS);
        let guard = crc16(0, &pattern(9, PAGE)[512..1024]).to_be_bytes();
        let reference = if kind == 3 { 7u32 } else { 8 }.to_be_bytes();
        assert_eq!(blocks.metadata[8..10], guard);
        assert_eq!(blocks.metadata[10..12], [0x12, 0x34]);
        assert_eq!(blocks.metadata[12..16], reference);
        // Stripped.
        blocks.metadata.fill(0xaa);
        let strip = blocks.command(opcode::nvm::READ, 7, 2, PRACT | checks, 7);
        assert_eq!(queue.run(&strip).status(), Status::SUCCESS);
        assert!(blocks.metadata.iter().all(|byte| *byte == 0xaa));
        assert_eq!(blocks.data[..1024], pattern(9, PAGE)[..1024]);
        // What does not fit together.
        let mut tag = read;
        tag.cdw15.set(0xffff_1235);
        assert!(queue.run(&tag).status().is(Status::APPLICATION_TAG_CHECK_ERROR));
        tag.cdw15.set(0xff00_1235);
        assert_eq!(queue.run(&tag).status(), Status::SUCCESS, "only the masked bits count");
        let wrong_reference = queue.run(&blocks.command(opcode::nvm::READ, 7, 2, 1 << 26, 9)).status();
        match kind {
            2 => assert!(wrong_reference.is(Status::REFERENCE_TAG_CHECK_ERROR)),
            _ => assert!(wrong_reference.is(Status::INVALID_PROTECTION_INFORMATION), "{wrong_reference}"),
        }
        blocks.metadata[..8].fill(0x11);
        let guard = queue.run(&blocks.command(opcode::nvm::WRITE, 7, 1, 4 << 26, 7)).status();
        assert!(guard.is(Status::GUARD_CHECK_ERROR), "{guard}");
        assert_eq!(queue.run(&read).status(), Status::SUCCESS, "nothing of it was written");
        // Blocks that were never written are not checked, nor are those which are given back.
        let unwritten = blocks.command(opcode::nvm::READ, 100, 2, checks, 100);
        assert_eq!(queue.run(&unwritten).status(), Status::SUCCESS);
        assert!(blocks.metadata[..16].iter().all(|byte| *byte == 0xff));
        let zeroes = blocks.command(opcode::nvm::WRITE_ZEROES, 7, 1, 1 << 25, 7);
        assert_eq!(queue.run(&zeroes).status(), Status::SUCCESS);
        assert_eq!(queue.run(&read).status(), Status::SUCCESS);
        let verify = blocks.command(opcode::nvm::VERIFY, 0, 100, 4 << 26, 0);
        assert_eq!(queue.run(&verify).status(), Status::SUCCESS);
    }
}

#[test]
fn a_format_changes_what_a_block_is_and_leaves_nothing() {
    let mut host = Host::new("size=1MiB,block=512,namespaces=2");
    let mut queue = host.create_queue(1);
    let mut blocks = Blocks::new(&host);
    blocks.data.fill(7);
    for nsid in 1..=2u32 {
        let mut write = blocks.command(opcode::nvm::WRITE, 0, 8, 0, 0);
        write.nsid.set(nsid);
        assert_eq!(queue.run(&write).status(), Status::SUCCESS);
    }
    for (cdw10, status) in [
        (8, Status::INVALID_FORMAT),
        (1 << 5, Status::INVALID_FORMAT),
        (1 | 4 << 5, Status::INVALID_FORMAT),
        (3 << 9, Status::INVALID_FIELD),
    ] {
        let found = host.admin(&format(1, cdw10)).status();
        assert!(found.is(status), "{cdw10:#x}: {found}");
    }
    assert!(host.admin(&format(3, 0)).status().is(Status::INVALID_NAMESPACE_OR_FORMAT));
    // 4096 bytes and 8, extended, protection of type 1.
    assert_eq!(host.admin(&format(1, 5 | 1 << 4 | 1 << 5 | 1 << 9)).status(), Status::SUCCESS);
    let namespace = host.namespace(1);
    assert_eq!((namespace.flbas, namespace.dps, namespace.nsze.get()), (0x15, 1, (1 << 20) / 4104));
    assert_eq!(host.namespace(2).flbas, 0);
    let read = blocks.command(opcode::nvm::READ, 0, 1, PRACT, 0);
    assert_eq!(queue.run(&read).status(), Status::SUCCESS);
    assert!(blocks.data.iter().all(|byte| *byte == 0));
    let other = SubmissionQueueEntry { nsid: 2.into(), ..blocks.command(opcode::nvm::READ, 0, 8, 0, 0) };
    assert_eq!(queue.run(&other).status(), Status::SUCCESS);
    assert!(blocks.data.iter().all(|byte| *byte == 7));
    assert_eq!(host.admin(&format(NSID_BROADCAST, 2 << 9)).status(), Status::SUCCESS);
    assert_eq!((host.namespace(1).flbas, host.namespace(1).nsze.get()), (0, 2048));
    assert_eq!(queue.run(&other).status(), Status::SUCCESS);
    assert!(blocks.data.iter().all(|byte| *byte == 0));
}

#[test]
fn a_format_that_takes_its_time_shows_progress_and_keeps_io_out() {
    let mut host = Host::new("size=1MiB,operation=3600s,namespaces=2");
    let mut queue = host.create_queue(1);
    let blocks = Blocks::new(&host);
    let entry = SubmissionQueueEntry { cid: U16::new(77), ..format(1, 0) };
    host.admin.submit(&entry);
    assert!(host.admin.poll().is_none());
    assert!(matches!(host.namespace(1).fpi & 0x7f, 99..=100));
    assert_eq!(host.namespace(2).fpi, 0x80);
    let read = blocks.command(opcode::nvm::READ, 0, 1, 0, 0);
    assert!(queue.run(&read).status().is(Status::FORMAT_IN_PROGRESS));
    let other = SubmissionQueueEntry { nsid: 2.into(), ..read };
    assert_eq!(queue.run(&other).status(), Status::SUCCESS);
    assert!(host.admin(&format(2, 0)).status().is(Status::FORMAT_IN_PROGRESS));

    let mut host = Host::new("size=1MiB,operation=20ms");
    host.admin.submit(&entry);
    let completion = loop {
        if let Some(completion) = host.admin.poll() {
            break completion;
        }
        std::thread::yield_now();
    };
    assert_eq!((completion.cid.get(), completion.status()), (77, Status::SUCCESS));
    let mut queue = host.create_queue(1);
    let blocks = Blocks::new(&host);
    assert_eq!(queue.run(&blocks.command(opcode::nvm::READ, 0, 1, 0, 0)).status(), Status::SUCCESS);
}

#[test]
fn uncorrectable_blocks_are_errors_until_they_are_written() {
    let mut host = Host::new("size=1MiB,block=512");
    let mut queue = host.create_queue(1);
    let blocks = Blocks::new(&host);
    let mut run = |opcode, slba, count| queue.run(&blocks.command(opcode, slba, count, 0, 0)).status();
    assert_eq!(run(opcode::nvm::WRITE_UNCORRECTABLE, 10, 4), Status::SUCCESS);
    for (slba, count, readable) in [(8, 2, true), (8, 3, false), (13, 1, false), (14, 2, true)] {
        for opcode in [opcode::nvm::READ, opcode::nvm::VERIFY, opcode::nvm::COMPARE] {
            let status = run(opcode, slba, count);
            assert_eq!(status.is(Status::UNRECOVERED_READ_ERROR), !readable, "{slba}+{count}: {status}");
        }
    }
    assert_eq!(run(opcode::nvm::WRITE, 11, 1), Status::SUCCESS);
    assert_eq!(run(opcode::nvm::READ, 11, 1), Status::SUCCESS);
    assert!(run(opcode::nvm::READ, 10, 1).is(Status::UNRECOVERED_READ_ERROR));
    assert_eq!(run(opcode::nvm::WRITE_ZEROES, 0, 20), Status::SUCCESS);
    assert_eq!(run(opcode::nvm::READ, 8, 8), Status::SUCCESS);
}

#[test]
fn copy_gathers_its_sources_and_keeps_to_its_limits() {
    for options in ["size=1MiB,block=512", "size=1MiB,block=512,ms=8,pi=1"] {
        let mut host = Host::new(options);
        let mut queue = host.create_queue(1);
        let mut blocks = Blocks::new(&host);
        let act = if options.contains("pi") { PRACT } else { 0 };
        let bytes = pattern(4, PAGE);
        blocks.data.copy_from_slice(&bytes);
        assert_eq!(queue.run(&blocks.command(opcode::nvm::WRITE, 0, 8, act, 0)).status(), Status::SUCCESS);
        let mut list = host.buffer(PAGE, Direction::DeviceReads);
        let mut copy = |host: &Host, ranges: &[(u64, u16)], control: u32| {
            for (place, (slba, nlb)) in list.chunks_exact_mut(32).zip(ranges) {
                let mut range =
                    nvm::CopyRange { slba: (*slba).into(), nlb: (*nlb).into(), ..Default::default() };
                range.eilbrt.set(*slba as u32);
                place.copy_from_slice(range.as_bytes());
            }
            let _ = host;
            let mut entry = SubmissionQueueEntry::new(opcode::nvm::COPY);
            entry.nsid.set(1);
            nvm::set_slba(&mut entry, 100);
            entry.cdw12.set((ranges.len() as u32 - 1) | control);
            entry.cdw14.set(100);
            entry.set_prp(list.iova(), 0);
            queue.run(&entry).status()
        };
        let both = if act != 0 { PRACT | 8 << 12 } else { 0 };
        assert_eq!(copy(&host, &[(6, 1), (1, 0)], both), Status::SUCCESS);
        assert!(copy(&host, &[(0, 128)], both).is(Status::COMMAND_SIZE_LIMIT_EXCEEDED));
        assert!(copy(&host, &[(0, 99), (0, 99)], both).is(Status::COMMAND_SIZE_LIMIT_EXCEEDED));
        assert!(copy(&host, &[(1 << 40, 0)], both).is(Status::LBA_OUT_OF_RANGE));
        assert!(copy(&host, &[(0, 0)], both | 1 << 8).is(Status::INVALID_FIELD));
        blocks.data.fill(0);
        let check = if act != 0 { CHECK_ALL & !(2 << 26) } else { 0 };
        let read = blocks.command(opcode::nvm::READ, 100, 3, check, 100);
        assert_eq!(queue.run(&read).status(), Status::SUCCESS);
        assert_eq!(blocks.data[..1024], bytes[6 * 512..8 * 512]);
        assert_eq!(blocks.data[1024..1536], bytes[512..1024]);
    }
}

#[test]
fn copy_takes_from_other_namespaces_of_the_same_format_once_that_is_enabled() {
    let mut host = Host::new("size=1MiB,block=512,namespaces=2");
    let mut queue = host.create_queue(1);
    let mut blocks = Blocks::new(&host);
    let bytes = pattern(6, PAGE);
    blocks.data.copy_from_slice(&bytes);
    let mut write = blocks.command(opcode::nvm::WRITE, 40, 8, 0, 0);
    write.nsid.set(2);
    assert_eq!(queue.run(&write).status(), Status::SUCCESS);
    let mut list = host.buffer(PAGE, Direction::DeviceReads);
    let mut copy = |queue: &mut Queue, snsid: u32, sopt: u16| {
        let range = nvm::CopyRange {
            snsid: snsid.into(),
            slba: 42.into(),
            nlb: 1.into(),
            sopt: sopt.into(),
            ..Default::default()
        };
        list[..32].copy_from_slice(range.as_bytes());
        let mut entry = SubmissionQueueEntry::new(opcode::nvm::COPY);
        entry.nsid.set(1);
        nvm::set_slba(&mut entry, 100);
        entry.cdw12.set(2 << 8);
        entry.set_prp(list.iova(), 0);
        queue.run(&entry).status()
    };
    assert!(copy(&mut queue, 2, 0).is(Status::INVALID_FIELD), "it is not enabled");
    let mut enable = SubmissionQueueEntry::new(opcode::admin::SET_FEATURES);
    enable.cdw10.set(feature::fid::HOST_BEHAVIOR_SUPPORT.into());
    let behavior = feature::HostBehaviorSupport { cdfe: (1 << 2).into(), ..Default::default() };
    host.admin_write(enable, behavior.as_bytes()).unwrap();
    assert!(copy(&mut queue, 2, 1).is(Status::INVALID_FIELD), "fast copies only are not offered");
    assert!(copy(&mut queue, 3, 0).is(Status::INVALID_NAMESPACE_OR_FORMAT));
    assert_eq!(copy(&mut queue, 2, 0), Status::SUCCESS);
    blocks.data.fill(0);
    assert_eq!(queue.run(&blocks.command(opcode::nvm::READ, 100, 2, 0, 0)).status(), Status::SUCCESS);
    assert_eq!(blocks.data[..1024], bytes[1024..2048]);
    let mut format = SubmissionQueueEntry::new(opcode::admin::FORMAT_NVM);
    format.nsid.set(2);
    format.cdw10.set(4);
    assert_eq!(host.admin(&format).status(), Status::SUCCESS);
    assert!(copy(&mut queue, 2, 0).is(Status::INCOMPATIBLE_NAMESPACE_OR_FORMAT), "its blocks are longer");
}
