//! SGLs and shadow doorbells, by hand.

use gangway_spec::command::PSDT_SGL;
use gangway_spec::identify::{Oacs, Sgls};
use gangway_spec::{IdentifyController, SglDescriptor};

use super::*;

fn descriptor(identifier: u8, iova: u64, len: usize) -> SglDescriptor {
    SglDescriptor {
        address: iova.into(),
        length: (len as u32).into(),
        identifier: identifier << 4,
        ..SglDescriptor::default()
    }
}

fn block(iova: u64, len: usize) -> SglDescriptor {
    descriptor(SglDescriptor::TYPE_DATA_BLOCK, iova, len)
}

fn with_sgl(mut entry: SubmissionQueueEntry, sgl: SglDescriptor) -> SubmissionQueueEntry {
    entry.set_sgl(sgl);
    entry.set_psdt(PSDT_SGL);
    entry
}

/// Memory of a host that lists of descriptors lie in.
struct Lists {
    buffer: DmaBuffer,
    used: usize,
}

impl Lists {
    fn new(host: &Host) -> Self {
        Self { buffer: host.buffer(16 * PAGE, Direction::DeviceReads), used: 0 }
    }

    /// Writes a segment and gives the descriptor of it.
    fn segment(&mut self, kind: u8, descriptors: &[SglDescriptor]) -> SglDescriptor {
        let bytes = descriptors.as_bytes();
        self.buffer[self.used..][..bytes.len()].copy_from_slice(bytes);
        let iova = self.buffer.iova() + self.used as u64;
        self.used += bytes.len();
        descriptor(kind, iova, bytes.len())
    }

    fn last(&mut self, descriptors: &[SglDescriptor]) -> SglDescriptor {
        self.segment(SglDescriptor::TYPE_LAST_SEGMENT, descriptors)
    }
}

fn drive(options: &str) -> (Host, Queue) {
    let mut host = Host::new(options);
    let queue = host.create_queue(1);
    (host, queue)
}

#[test]
fn what_the_options_ask_for_is_promised_and_nothing_else() {
    for (options, oacs, sgls) in [
        ("", Oacs::empty(), Sgls::empty()),
        ("sgl", Oacs::empty(), Sgls::SUPPORTED),
        ("shadow-doorbells", Oacs::DOORBELL_BUFFER_CONFIG, Sgls::empty()),
    ] {
        let mut host = Host::new(options);
        let identify = IdentifyController::read_from_bytes(&host.identify(1, 0).unwrap()).unwrap();
        let promised = Oacs::from_bits_retain(identify.oacs.get()) & Oacs::DOORBELL_BUFFER_CONFIG;
        assert_eq!((promised, identify.sgls()), (oacs, sgls), "{options}");
    }
}

#[test]
fn a_drive_that_takes_no_sgls_refuses_them() {
    let (host, mut queue) = drive("");
    let buffer = host.buffer(PAGE, Direction::DeviceWrites);
    let entry = with_sgl(io_command(opcode::nvm::READ, 0, 1), block(buffer.iova(), PAGE));
    assert_eq!(queue.run(&entry).status(), Status::INVALID_FIELD.with_dnr().with_more());
    let mut host = Host::new("sgl");
    let mut identify = SubmissionQueueEntry::new(opcode::admin::IDENTIFY);
    identify.cdw10.set(1);
    let entry = with_sgl(identify, block(buffer.iova(), PAGE));
    assert!(host.admin(&entry).status().is(Status::INVALID_FIELD), "admin commands take PRPs only");
}

#[test]
fn data_moves_through_blocks_at_any_address_and_through_segments() {
    let (host, mut queue) = drive("sgl,block=512,size=1MiB");
    let mut lists = Lists::new(&host);
    let mut source = host.buffer(4 * PAGE, Direction::DeviceReads);
    let bytes = pattern(3, 4 * PAGE);
    source.copy_from_slice(&bytes);
    let iova = source.iova();
    // 1 + 511 + 4000 + 0 + 96 bytes are 9 blocks.
    let tail = lists.last(&[block(iova + 9001, 4000), block(iova, 0), block(iova + 77, 96)]);
    let head =
        lists.segment(SglDescriptor::TYPE_SEGMENT, &[block(iova + 5, 1), block(iova + 4099, 511), tail]);
    let write = with_sgl(io_command(opcode::nvm::WRITE, 8, 9), head);
    assert_eq!(queue.run(&write).status(), Status::SUCCESS);
    let mut expected = vec![bytes[5]];
    expected.extend_from_slice(&bytes[4099..4610]);
    expected.extend_from_slice(&bytes[9001..13001]);
    expected.extend_from_slice(&bytes[77..173]);
    let sink = host.buffer(2 * PAGE, Direction::DeviceWrites);
    let read = with_sgl(io_command(opcode::nvm::READ, 8, 9), block(sink.iova() + 3, 9 * 512));
    assert_eq!(queue.run(&read).status(), Status::SUCCESS);
    assert!(sink[3..3 + 9 * 512] == expected[..]);
    assert!(sink[..3].iter().chain(&sink[3 + 9 * 512..]).all(|&byte| byte == 0), "and nothing beside it");
    assert_eq!(host.probe.violations(), 0);
}

#[test]
fn a_segment_may_be_longer_than_a_page() {
    let (host, mut queue) = drive("sgl,block=4096,size=16MiB");
    let mut lists = Lists::new(&host);
    let sink = host.buffer(16 * PAGE, Direction::DeviceWrites);
    let pieces: Vec<_> = (0..1024).map(|at| block(sink.iova() + at * 64, 64)).collect();
    let all = lists.last(&pieces);
    assert_eq!(queue.run(&with_sgl(io_command(opcode::nvm::READ, 0, 16), all)).status(), Status::SUCCESS);
}

#[test]
fn each_wrong_sgl_gets_its_status_and_moves_nothing() {
    let (host, mut queue) = drive("sgl,block=512,size=1MiB");
    let mut lists = Lists::new(&host);
    let sink = host.buffer(PAGE, Direction::DeviceWrites);
    let iova = sink.iova();
    let good = block(iova, 512);
    let inner = lists.last(&[good]);
    let own = lists.buffer.iova() + lists.used as u64;
    let cases = [
        (block(iova, 511), Status::DATA_SGL_LENGTH_INVALID),
        (block(iova, 513), Status::DATA_SGL_LENGTH_INVALID),
        (block(iova, u32::MAX as usize), Status::DATA_SGL_LENGTH_INVALID),
        (SglDescriptor { identifier: 1, ..good }, Status::SGL_DESCRIPTOR_TYPE_INVALID),
        (descriptor(SglDescriptor::TYPE_BIT_BUCKET, 0, 512), Status::SGL_DESCRIPTOR_TYPE_INVALID),
        (descriptor(SglDescriptor::TYPE_KEYED_DATA_BLOCK, iova, 512), Status::SGL_DESCRIPTOR_TYPE_INVALID),
        (descriptor(SglDescriptor::TYPE_VENDOR, iova, 512), Status::SGL_DESCRIPTOR_TYPE_INVALID),
        (SglDescriptor { identifier: 0x2a, ..inner }, Status::SGL_DESCRIPTOR_TYPE_INVALID),
        (descriptor(SglDescriptor::TYPE_LAST_SEGMENT, iova, 0), Status::INVALID_SGL_SEGMENT_DESCRIPTOR),
        (descriptor(SglDescriptor::TYPE_LAST_SEGMENT, iova, 24), Status::INVALID_SGL_SEGMENT_DESCRIPTOR),
        (lists.last(&[inner, good]), Status::INVALID_SGL_SEGMENT_DESCRIPTOR),
        (lists.last(&[inner]), Status::INVALID_SGL_SEGMENT_DESCRIPTOR),
        (lists.segment(SglDescriptor::TYPE_SEGMENT, &[good]), Status::INVALID_SGL_SEGMENT_DESCRIPTOR),
        (lists.last(&[good, block(iova, 1)]), Status::DATA_SGL_LENGTH_INVALID),
        (block(host.domain.poison_iova(), 512), Status::DATA_TRANSFER_ERROR),
        (
            descriptor(SglDescriptor::TYPE_LAST_SEGMENT, host.domain.poison_iova(), 16),
            Status::DATA_TRANSFER_ERROR,
        ),
    ];
    for (sgl, status) in cases {
        let entry = with_sgl(io_command(opcode::nvm::READ, 0, 1), sgl);
        assert!(queue.run(&entry).status().is(status), "{sgl}: {status}");
    }
    // A segment that leads back to itself.
    lists.used = (own - lists.buffer.iova()) as usize;
    let circle = descriptor(SglDescriptor::TYPE_SEGMENT, own, 32);
    lists.segment(SglDescriptor::TYPE_SEGMENT, &[block(iova, 0), circle]);
    let status = queue.run(&with_sgl(io_command(opcode::nvm::READ, 0, 1), circle)).status();
    assert!(status.is(Status::INVALID_SGL_DESCRIPTOR_COUNT), "{status}");
    assert!(sink.iter().all(|&byte| byte == 0));
    assert!(!host.status().cfs());
}

/// The host's side of shadow doorbells: two pages.
struct Shadows {
    doorbells: DmaBuffer,
    events: DmaBuffer,
}

impl Shadows {
    fn configure(host: &mut Host) -> Self {
        let shadows = Self {
            doorbells: host.buffer(PAGE, Direction::DeviceReads),
            events: host.buffer(PAGE, Direction::DeviceWrites),
        };
        let mut entry = SubmissionQueueEntry::new(opcode::admin::DOORBELL_BUFFER_CONFIG);
        entry.set_prp(shadows.doorbells.iova(), shadows.events.iova());
        assert!(host.admin(&entry).status().is_success());
        shadows
    }

    fn set(&mut self, doorbell: usize, value: u32) {
        self.doorbells[doorbell * 4..][..4].copy_from_slice(&value.to_le_bytes());
    }

    fn event(&self, doorbell: usize) -> u32 {
        u32::from_le_bytes(self.events[doorbell * 4..][..4].try_into().unwrap())
    }
}

#[test]
fn a_drive_asleep_wakes_by_the_register_only_and_takes_the_tail_from_memory() {
    let mut host = Host::new("shadow-doorbells");
    let mut shadows = Shadows::configure(&mut host);
    let mut queue = host.create_queue(1);
    let flush = io_command(opcode::nvm::FLUSH, 0, 1);
    queue.put(&flush);
    shadows.set(2, 1);
    // A new queue is looked at until the drive has gone to sleep on it.
    assert!(queue.poll().is_some());
    shadows.set(3, 1);
    assert_eq!(shadows.event(2), 1);
    queue.put(&flush);
    shadows.set(2, 2);
    assert!(queue.poll().is_none(), "it sleeps at 1 and was not woken");
    // The register is a bell: which value it is told does not matter, the memory does.
    queue.put(&flush);
    shadows.set(2, 3);
    queue.sq_doorbell.write(2);
    assert!(queue.poll().is_some() && queue.poll().is_some());
    assert_eq!(shadows.event(2), 3);
    assert_eq!(host.probe.violations(), 0);
}

#[test]
fn a_drive_with_work_looks_by_itself() {
    let mut host = Host::new("shadow-doorbells,fault=drop:nth=1");
    let mut shadows = Shadows::configure(&mut host);
    let mut queue = host.create_queue(1);
    let mut flush = io_command(opcode::nvm::FLUSH, 0, 1);
    queue.put(&flush);
    shadows.set(2, 1);
    assert!(queue.poll().is_none());
    for cid in 1..=3 {
        flush.cid.set(cid);
        queue.put(&flush);
        shadows.set(2, queue.tail as u32);
        assert_eq!(queue.poll().unwrap().cid.get(), cid);
        shadows.set(3, queue.head as u32);
    }
    assert_eq!(shadows.event(2), 0, "it did not go to sleep");
}

#[test]
fn an_impossible_shadow_is_fatal_and_a_reset_forgets_them() {
    let mut host = Host::new("shadow-doorbells");
    let mut shadows = Shadows::configure(&mut host);
    let mut queue = host.create_queue(1);
    shadows.set(2, u32::from(ENTRIES));
    assert!(queue.poll().is_none() && host.status().cfs());
    host.configure(ControllerConfiguration::new());
    drop(queue);
    host.start_again();
    assert_eq!(host.create_queue(1).run(&io_command(opcode::nvm::FLUSH, 0, 1)).status(), Status::SUCCESS);
}

#[test]
fn shadows_in_memory_that_is_not_theirs_are_refused() {
    let mut host = Host::new("shadow-doorbells");
    let page = host.buffer(PAGE, Direction::DeviceReads);
    let poison = host.domain.poison_iova();
    for (doorbells, events, status) in [
        (page.iova(), page.iova(), Status::DATA_TRANSFER_ERROR),
        (poison, page.iova(), Status::DATA_TRANSFER_ERROR),
        (page.iova() + 4, page.iova(), Status::INVALID_FIELD),
        (page.iova(), page.iova() + 8, Status::INVALID_FIELD),
    ] {
        let mut entry = SubmissionQueueEntry::new(opcode::admin::DOORBELL_BUFFER_CONFIG);
        entry.set_prp(doorbells, events);
        assert!(host.admin(&entry).status().is(status));
    }
    let mut host = Host::new("");
    let entry = SubmissionQueueEntry::new(opcode::admin::DOORBELL_BUFFER_CONFIG);
    assert!(host.admin(&entry).status().is(Status::INVALID_OPCODE));
}
