//! Data that goes through the whole path: host, connection, reactor, queue pair, drive, and back.

#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use gangway_driver::emulated::EmulatedConfig;
use gangway_fabric::host::client::{IoQueue, Options, Transfer};
use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::opcode::nvm;
use gangway_tests::{Setup, TestTarget, pattern};

const PATIENCE: Duration = Duration::from_secs(60);

fn command(opcode: u8, lba: u64, blocks: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.nsid.set(1);
    entry.cdw10.set(lba as u32);
    entry.cdw11.set((lba >> 32) as u32);
    entry.cdw12.set(blocks - 1);
    entry
}

/// Runs commands with the queue as full as it gets; `check` sees each completion with what was submitted.
fn run<T>(
    queue: &mut IoQueue,
    mut work: VecDeque<(SubmissionQueueEntry, Transfer, T)>,
    mut check: impl FnMut(T, &[u8]),
) {
    let mut waiting = HashMap::new();
    while !work.is_empty() || !waiting.is_empty() {
        while !queue.is_full() {
            let Some((entry, transfer, note)) = work.pop_front() else { break };
            let tag = queue.submit(&entry, transfer).unwrap();
            assert!(waiting.insert(tag, note).is_none(), "a tag that is in use");
        }
        let completed = queue.wait(PATIENCE).unwrap().expect("a completion in time");
        let note = waiting.remove(&completed.tag).expect("a completion of a command that is outstanding");
        assert!(completed.entry.status().is_success(), "{}", completed.entry.status());
        check(note, &completed.data);
    }
}

fn every_size(_size: usize, _most: usize) -> bool {
    true
}

/// The small sizes, the largest ones, and some between.
fn some_sizes(size: usize, most: usize) -> bool {
    size <= 40 || size.is_multiple_of(13) || size + 3 >= most
}

/// Writes and reads of all wanted numbers of blocks, from 1 to the most that one command transfers, one behind the other
/// with a block between them, from four different blocks on.
fn sizes_read_back(options: &Options, setup: Setup, wanted: impl Fn(usize, usize) -> bool) {
    let block = setup.drives[0].block as usize;
    let most = (1 << 20) / block;
    let target = TestTarget::with(setup);
    let mut admin = target.host_with(1, 0, options);
    let mut queue = admin.connect_io(1).unwrap();
    let last = (64 << 20) / block as u64;
    let sizes: Vec<usize> = (1..=most).filter(|&size| wanted(size, most)).collect();
    let mut seen = 0;
    for (round, offset) in [0_usize, 1, 3, 7].into_iter().enumerate() {
        let round = round as u64;
        let mut rest = &sizes[..];
        // As often as it takes to get through all sizes: the drive is smaller than all of them together.
        while !rest.is_empty() {
            let mut lba = offset as u64;
            let mut writes = VecDeque::new();
            let mut reads = VecDeque::new();
            while let Some((&size, others)) = rest.split_first()
                && lba + size as u64 <= last
            {
                let data = pattern(lba, round, size * block);
                writes.push_back((command(nvm::WRITE, lba, size as u32), Transfer::Write(data.into()), ()));
                let transfer = Transfer::Read((size * block) as u32);
                reads.push_back((command(nvm::READ, lba, size as u32), transfer, (lba, size)));
                lba += size as u64 + 1;
                rest = others;
            }
            run(&mut queue, writes, |(), _| {});
            run(&mut queue, reads, |(lba, size), data| {
                assert!(data == pattern(lba, round, size * block), "{size} blocks at {lba} differ");
                seen += 1;
            });
        }
    }
    assert_eq!(seen, 4 * sizes.len());
    target.assert_no_violations();
}

#[test]
fn every_size_up_to_mdts_at_odd_places_reads_back_as_written_with_512_byte_blocks() {
    let drive = EmulatedConfig { size: 64 << 20, block: 512, ..EmulatedConfig::default() };
    sizes_read_back(&Options::default(), Setup { drives: vec![drive], ..Setup::default() }, every_size);
}

#[test]
fn every_size_up_to_mdts_at_odd_places_reads_back_as_written_with_4_kib_blocks() {
    sizes_read_back(&Options::default(), Setup::default(), every_size);
}

#[test]
fn data_survives_every_way_a_host_can_ask_for_it() {
    for (flow_control, in_capsule, hpda) in
        [(false, true, 0), (true, false, 0), (false, false, 7), (true, true, 31)]
    {
        let options = Options { flow_control, in_capsule, hpda, ..Options::default() };
        sizes_read_back(&options, Setup::default(), some_sizes);
    }
}

#[test]
fn data_with_digests_survives_every_way_a_host_can_ask_for_it() {
    for (header_digest, data_digest) in [(true, false), (false, true), (true, true)] {
        for (flow_control, in_capsule, hpda) in
            [(true, true, 0), (false, true, 31), (true, false, 7), (false, false, 0)]
        {
            let digests = Options { header_digest, data_digest, ..Options::default() };
            let options = Options { flow_control, in_capsule, hpda, ..digests };
            sizes_read_back(&options, Setup::default(), some_sizes);
        }
    }
}

#[test]
fn every_size_up_to_mdts_with_digests_reads_back_as_written_with_512_byte_blocks() {
    let drive = EmulatedConfig { size: 64 << 20, block: 512, ..EmulatedConfig::default() };
    let options = Options { header_digest: true, data_digest: true, ..Options::default() };
    sizes_read_back(&options, Setup { drives: vec![drive], ..Setup::default() }, every_size);
}

#[test]
fn four_connections_with_128_commands_each_read_what_they_wrote() {
    let target = TestTarget::with(Setup { reactors: 2, ..Setup::default() });
    let mut admin = target.host_with(1, 0, &Options { queue_size: 129, ..Options::default() });
    let queues: Vec<IoQueue> = (1..=4).map(|qid| admin.connect_io(qid).unwrap()).collect();
    std::thread::scope(|scope| {
        for (index, mut queue) in queues.into_iter().enumerate() {
            scope.spawn(move || {
                // Each queue has a quarter of the drive to itself: 4096 blocks.
                let first = index as u64 * 4096;
                for round in 0..3 {
                    let places: Vec<(u64, u32)> =
                        (0..512_u64).map(|n| (first + n * 8, 1 + ((n * 7 + round) % 8) as u32)).collect();
                    let writes = places
                        .iter()
                        .map(|&(lba, blocks)| {
                            let data = pattern(lba, round, blocks as usize * 4096);
                            (command(nvm::WRITE, lba, blocks), Transfer::Write(data.into()), ())
                        })
                        .collect();
                    run(&mut queue, writes, |(), _| {});
                    let reads = places
                        .iter()
                        .map(|&(lba, blocks)| {
                            (command(nvm::READ, lba, blocks), Transfer::Read(blocks * 4096), (lba, blocks))
                        })
                        .collect();
                    run(&mut queue, reads, |(lba, blocks), data| {
                        assert!(
                            data == pattern(lba, round, blocks as usize * 4096),
                            "{blocks} blocks at {lba} differ"
                        );
                    });
                }
            });
        }
    });
    target.assert_no_violations();
}

#[test]
fn more_data_than_the_target_has_memory_for_is_delayed_and_not_lost() {
    // 8 MiB of memory, and 127 commands of 1 MiB in each direction.
    let target = TestTarget::start();
    let (_admin, mut queue) = target.queue(1);
    let places: Vec<u64> = (0..127).map(|n| n % 60 * 256).collect();
    let writes = places
        .iter()
        .map(|&lba| (command(nvm::WRITE, lba, 256), Transfer::Write(pattern(lba, 1, 1 << 20).into()), ()))
        .collect();
    run(&mut queue, writes, |(), _| {});
    let reads =
        places.iter().map(|&lba| (command(nvm::READ, lba, 256), Transfer::Read(1 << 20), lba)).collect();
    run(&mut queue, reads, |lba, data| assert!(data == pattern(lba, 1, 1 << 20), "{lba} differs"));
    target.assert_no_violations();
}
