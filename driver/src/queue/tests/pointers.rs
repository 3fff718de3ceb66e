//! Data pointers: SGLs, metadata, and what stands before a device that moves more than it was asked for.

use gangway_spec::SglDescriptor;
use gangway_spec::identify::Sgls;

use super::*;

const VENDOR_WRITE: u8 = 0x81;
const VENDOR_READ: u8 = 0x82;

fn rules(sgls: Sgls) -> Option<SglRules> {
    SglRules::of(sgls, DataPointers::Auto)
}

fn sgl_bench(sgl: Option<SglRules>) -> Bench {
    let (domain, memory) = Memory::in_domain();
    let (pair, device, epoch) = testing::queue_pair_with(sgl, 1, &domain, &memory, 8, MAX);
    Bench { domain, memory, pair, device, epoch }
}

/// The entry that the device sees.
fn seen(b: &mut Bench) -> SubmissionQueueEntry {
    b.pair.ring();
    b.device.fetch().pop().expect("one command")
}

fn complete(b: &mut Bench, entry: &SubmissionQueueEntry) -> Completion {
    b.device.complete(entry.cid.get(), 0);
    b.reap().remove(0)
}

/// Lets a device move `len` bytes for a command that was given the memory from `first` to `last`. Says whether it is
/// stopped; fails when it reaches anything else before.
fn is_stopped(b: &Bench, entry: &SubmissionQueueEntry, len: usize, (first, last): (u64, u64)) -> bool {
    let allowed: fn(Direction) -> bool =
        if entry.opcode & 1 == 0 { Direction::device_writes } else { Direction::device_reads };
    let (pieces, mut fault) = b.device.follow(entry, len);
    for (iova, count) in pieces {
        match b.memory.reach(iova, count, allowed) {
            Err(why) => {
                fault = Some(why);
                break;
            }
            Ok(_) => {
                let end = iova + count as u64;
                assert!(first <= iova && end <= last, "{iova:#x} to {end:#x}, for {first:#x} to {last:#x}");
            }
        }
    }
    fault.is_some()
}

#[test]
fn the_two_lowest_bits_of_sgls_say_whether_and_how_sgls_are_used() {
    assert_eq!(rules(Sgls::empty()), None);
    assert_eq!(rules(Sgls::from_bits_retain(0b11)), None, "reserved");
    assert_eq!(SglRules::of(Sgls::SUPPORTED, DataPointers::Prp), None);
    assert_eq!(SglRules::of(Sgls::empty(), DataPointers::Sgl), None);
    let (any, dword) = (rules(Sgls::SUPPORTED).unwrap(), rules(Sgls::SUPPORTED_DWORD_ALIGNED).unwrap());
    let cases = [
        // Address, length; by SGL without and with a requirement on alignment.
        (0x1000, 512, true, true),
        (0x1004, 516, true, true),
        (0x1001, 512, true, false),
        (0x1000, 510, true, false),
    ];
    for (iova, len, freely, aligned) in cases {
        assert_eq!(any.apply_to(nvm::WRITE, iova, len, false), freely, "{iova:#x} {len}");
        assert_eq!(dword.apply_to(nvm::WRITE, iova, len, false), aligned, "{iova:#x} {len}");
    }
    assert!(!any.apply_to(nvm::DATASET_MANAGEMENT, 0x1000, 4096, false), "longer than its ranges");
    let longer = rules(Sgls::SUPPORTED | Sgls::LONGER_THAN_DATA).unwrap();
    assert!(longer.apply_to(nvm::DATASET_MANAGEMENT, 0x1000, 4096, false));
    let always = SglRules::of(Sgls::SUPPORTED_DWORD_ALIGNED, DataPointers::Sgl).unwrap();
    assert!(always.apply_to(nvm::DATASET_MANAGEMENT, 0x1001, 4096, false));
}

#[test]
fn with_sgls_a_command_carries_its_exact_length_whatever_that_is() {
    let mut b = sgl_bench(rules(Sgls::SUPPORTED));
    for len in [1, 512, 4096, 4097, 8192, 12288, MAX] {
        let mut buffer = b.buffer(len, Direction::DeviceReads);
        let iova = buffer.iova();
        buffer.copy_from_slice(&pattern(len, len));
        b.submit_ok(nvm::WRITE, buffer.into(), 0);
        let entry = seen(&mut b);
        let mut expected = SglDescriptor { identifier: 0, ..SglDescriptor::default() };
        expected.address.set(iova);
        expected.length.set(len as u32);
        assert_eq!((entry.psdt(), entry.sgl()), (1, expected));
        assert_eq!(b.device.read_data(&entry, len), pattern(len, len));
        assert!(is_stopped(&b, &entry, len + 1, (iova, iova + len as u64)));
        complete(&mut b, &entry);
    }
    b.end();
}

#[test]
fn what_an_sgl_cannot_name_goes_by_prps() {
    let mut b = sgl_bench(rules(Sgls::SUPPORTED_DWORD_ALIGNED));
    let ranges = b.buffer(4096, Direction::DeviceReads);
    b.submit_ok(nvm::DATASET_MANAGEMENT, ranges.into(), 0);
    let entry = seen(&mut b);
    assert_eq!((entry.psdt(), entry.prp2()), (0, b.domain.poison_iova()));
    complete(&mut b, &entry);
    let odd = b.buffer(4098, Direction::DeviceWrites);
    b.submit_ok(nvm::READ, odd.into(), 0);
    let entry = seen(&mut b);
    assert_eq!(entry.psdt(), 0);
    b.device.write_data(&entry, &pattern(3, 4098));
    assert_eq!(complete(&mut b, &entry).data.bytes(), pattern(3, 4098));
    b.end();
}

#[test]
fn without_alignment_rules_data_may_begin_anywhere() {
    let mut b = sgl_bench(rules(Sgls::SUPPORTED));
    let mut pool = ReceivePool::new(&b.domain, 4096, 1).unwrap();
    let mut chunk = pool.take().unwrap();
    chunk.spare_mut()[..600].copy_from_slice(&pattern(1, 600));
    chunk.advance(600);
    b.submit_ok(nvm::WRITE, chunk.slice(75..587).into(), 0);
    let entry = seen(&mut b);
    assert_eq!(b.device.read_data(&entry, 512), pattern(1, 600)[75..587]);
    complete(&mut b, &entry);
}

#[test]
fn a_read_without_memory_names_no_byte_by_sgl_either() {
    let mut b = sgl_bench(rules(Sgls::SUPPORTED));
    b.submit_ok(nvm::READ, CommandData::None, 0);
    b.submit_ok(nvm::FLUSH, CommandData::None, 0);
    b.pair.ring();
    let entries = b.device.fetch();
    assert_eq!((entries[0].psdt(), entries[0].sgl().length.get(), entries[0].sgl().address.get()), (1, 0, 0));
    assert_eq!((entries[1].psdt(), entries[1].prp1(), entries[1].prp2()), (0, 0, 0));
    b.end();
}

#[test]
fn a_vendor_command_that_moves_more_than_it_was_given_meets_the_iommu_and_nothing_else() {
    let most = 3 * MAX;
    for (opcode, direction) in
        [(VENDOR_WRITE, Direction::DeviceReads), (VENDOR_READ, Direction::DeviceWrites)]
    {
        let mut b = bench(8);
        for len in [512, 4096, 4104, 8188, 8192, 8196, 12288, 40_960, MAX - 4096] {
            let start = guarded_start(len).unwrap();
            let mut buffer = b.buffer(start + len, direction);
            buffer.set_len(len);
            buffer.begin_at(start);
            // Data that a device would find plausible as addresses of memory that is mapped.
            let target = b.buffer(4096, Direction::Bidirectional);
            let lure = target.iova().to_le_bytes();
            buffer.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&lure));
            // The rest of its last page is the command's too.
            let first = buffer.iova();
            let last = (first + len as u64).next_multiple_of(4096);
            b.submit_ok(opcode, buffer.into(), 0);
            let entry = seen(&mut b);
            assert!(!is_stopped(&b, &entry, len, (first, last)));
            for moved in ((last - first) as usize + 1..most).step_by(4093) {
                assert!(is_stopped(&b, &entry, moved, (first, last)), "{moved} instead of {len}");
            }
            complete(&mut b, &entry);
        }
        b.end();
    }
}

#[test]
fn a_vendor_command_whose_data_could_be_taken_for_addresses_is_refused() {
    let mut b = bench(8);
    for (len, start, refused) in
        [(4096, 0, false), (8192, 0, true), (8192, 4, false), (4097, 0, true), (4100, 4092, true)]
    {
        for opcode in [VENDOR_WRITE, 0x2d, nvm::WRITE] {
            let mut buffer = b.buffer(start + len, Direction::DeviceReads);
            buffer.set_len(len);
            buffer.begin_at(start);
            let known = opcode == nvm::WRITE;
            let expected =
                if refused && !known { Err(SubmitError::Unguarded { opcode, len }) } else { Ok(()) };
            assert_eq!(b.submit(opcode, buffer.into(), 0), expected, "{opcode:#x} {len} at {start}");
            if expected.is_ok() {
                let entry = seen(&mut b);
                complete(&mut b, &entry);
            }
        }
    }
    b.end();
    // An SGL has a length of its own.
    let mut b = sgl_bench(rules(Sgls::SUPPORTED));
    let buffer = b.buffer(8192, Direction::DeviceReads);
    b.submit_ok(VENDOR_WRITE, buffer.into(), 0);
    b.end();
}

#[test]
fn a_list_is_guarded_again_after_a_command_that_was_refused() {
    let mut b = bench(2);
    for pages in [16, 2, 3] {
        let buffer = b.buffer(pages * 4096, Direction::DeviceReads);
        let submitted = b.submit(VENDOR_WRITE, buffer.into(), 0);
        assert_eq!(submitted.is_err(), pages == 2);
        if submitted.is_ok() {
            let entry = seen(&mut b);
            for index in pages as u64 - 1..512 {
                assert_eq!(b.memory.read_u64(entry.prp2() + index * 8), b.domain.poison_iova());
            }
            complete(&mut b, &entry);
        }
    }
}

#[test]
fn metadata_in_a_buffer_of_its_own_lies_behind_the_data() {
    let beside = Sgls::SUPPORTED | Sgls::METADATA_BYTE_ALIGNED;
    let always = SglRules::of(Sgls::SUPPORTED, DataPointers::Sgl);
    for (sgl, by_sgl) in
        [(None, false), (rules(Sgls::SUPPORTED), false), (rules(beside), true), (always, true)]
    {
        let mut b = sgl_bench(sgl);
        let (data, metadata) = (8 * 512, 8 * 8);
        let buffer = b.buffer(data + metadata, Direction::DeviceWrites);
        let iova = buffer.iova();
        let deadline = Instant::now() + Duration::from_secs(60);
        let read = SubmissionQueueEntry::new(nvm::READ);
        b.pair.submit_with_metadata(&read, buffer.into(), metadata, 9, deadline).unwrap();
        let entry = seen(&mut b);
        assert_eq!(entry.mptr.get(), iova + data as u64);
        assert_eq!(entry.psdt() != 0, by_sgl, "{sgl:?}");
        b.device.write_data(&entry, &pattern(1, data));
        b.memory.write(entry.mptr.get(), &pattern(2, metadata));
        let done = complete(&mut b, &entry);
        assert_eq!(done.data.bytes()[..data], pattern(1, data));
        assert_eq!(done.data.bytes()[data..], pattern(2, metadata));
        // The next command without metadata carries no pointer to it.
        b.submit_ok(nvm::READ, done.data, 0);
        assert_eq!(seen(&mut b).mptr.get(), 0);
        b.end();
    }
}

#[test]
fn metadata_without_data_or_off_its_alignment_is_refused() {
    let mut b = bench(4);
    let mut refused = |len: usize, metadata| {
        let data: CommandData =
            if len == 0 { CommandData::None } else { b.buffer(len, Direction::DeviceReads).into() };
        let write = SubmissionQueueEntry::new(nvm::WRITE);
        let rejected = b.pair.submit_with_metadata(&write, data, metadata, 0, Instant::now()).unwrap_err();
        assert_eq!(rejected.data.len(), len, "the data comes back");
        rejected.reason
    };
    for (len, metadata) in [(0, 0), (0, 8), (512, 512), (512, 520)] {
        assert_eq!(refused(len, metadata), SubmitError::NoRoomForMetadata { len, metadata });
    }
    assert!(matches!(refused(520, 7), SubmitError::Misaligned { .. }));
    assert!(matches!(refused(MAX + 16, 8), SubmitError::TooLong { .. }), "metadata does not count as data");
    b.end();
}

proptest! {
    #[test]
    fn an_sgl_names_the_bytes_that_prps_name(
        offset in 0usize..1024, len in 1usize..MAX - 4096, byte: u8,
    ) {
        let expected = (0..len).map(|index| (index as u8).wrapping_add(byte)).collect::<Vec<_>>();
        for sgl in [None, rules(Sgls::SUPPORTED), rules(Sgls::SUPPORTED_DWORD_ALIGNED)] {
            let mut b = sgl_bench(sgl);
            let mut pool = ReceivePool::new(&b.domain, MAX, 1).unwrap();
            let mut chunk = pool.take().unwrap();
            chunk.advance(offset * 4);
            chunk.spare_mut()[..len].copy_from_slice(&expected);
            chunk.advance(len);
            let slice = chunk.slice(offset * 4..offset * 4 + len);
            let iova = slice.iova();
            b.submit_ok(nvm::WRITE, slice.into(), 0);
            let entry = seen(&mut b);
            prop_assert_eq!(b.device.read_data(&entry, len), &expected[..]);
            // Naively: each byte of the pieces, one after the other, is the next of the memory.
            let mut next = iova;
            for (start, count) in b.device.pages(&entry, len) {
                prop_assert_eq!(start, next);
                next += count as u64;
            }
            prop_assert_eq!(next, iova + len as u64);
            b.end();
        }
    }
}
