//! Both ends in one process: the driver's client against the served emulated drive, and a client that knows no manners.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gangway_spec::registers::{ACQ, AQA, ASQ, CC, CSTS, ControllerConfiguration, ControllerStatus};
use gangway_spec::{SubmissionQueueEntry, nvm, opcode};
use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::fs::MemfdFlags;
use tempfile::TempDir;
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE,
};
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::controller::{Controller, Options};
use crate::dma::{CommandData, Direction, DmaDomain};
use crate::function::{Function, FunctionError};
use crate::queue::{Completion, QueuePair};
use crate::vfio_user::client::Connection;
use crate::vfio_user::socket::{Message, Receiver, send, wait};
use crate::vfio_user::wire::{
    DeviceInfo, DmaMap, DmaUnmap, HEADER_LEN, Header, IrqInfo, IrqSet, LONGEST_PAYLOAD, MOST_FILES,
    RegionAccess, RegionInfo, Version, command,
};
use crate::vfio_user::{VfioUserError, VfioUserFunction};

const BLOCK: usize = 4096;
const BAR0: u32 = 0;
const CONFIG: u32 = 7;

/// A server on a thread of its own.
struct Serving {
    path: PathBuf,
    stopper: Stopper,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
    _folder: TempDir,
}

impl Serving {
    fn new(options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let server = Server::bind(&path, 0o600, options.parse().unwrap()).unwrap();
        let stopper = server.stopper();
        let thread = Some(std::thread::spawn(move || server.run()));
        Self { path, stopper, thread, _folder: folder }
    }

    fn stop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server does not panic").unwrap();
        }
    }

    fn function(&self) -> VfioUserFunction {
        VfioUserFunction::open_at(&self.path, &DmaDomain::new()).unwrap()
    }

    fn controller(&self) -> Controller {
        start(self.function())
    }

    /// That the server is well: its drive comes up, and goes down.
    fn is_well(&self) {
        self.controller().shutdown().unwrap();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.stopper.stop();
        } else {
            self.stop();
        }
    }
}

fn start(function: VfioUserFunction) -> Controller {
    let options = Options { interrupts: true, queue_depth: 32, ..Options::default() };
    Controller::start(Box::new(function), options).unwrap()
}

fn io(opcode: u8, slba: u64) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.nsid.set(1);
    nvm::set_slba(&mut entry, slba);
    nvm::set_nlb(&mut entry, 1);
    entry
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Reaps until `count` completions came.
fn reap(pair: &mut QueuePair, count: usize) -> Vec<Completion> {
    let mut out = Vec::new();
    while out.len() < count {
        assert!(Instant::now() < far());
        pair.reap(&mut out).unwrap();
        std::thread::yield_now();
    }
    out
}

fn block(slba: u64) -> Vec<u8> {
    (0..BLOCK).map(|at| (at as u64 ^ slba.wrapping_mul(0x9e37_79b9)) as u8).collect()
}

/// Writes blocks from `from` on at once.
fn write(controller: &Controller, pair: &mut QueuePair, from: u64, count: usize) {
    for slba in from..from + count as u64 {
        let mut data = controller.domain().buffer(BLOCK, Direction::Bidirectional).unwrap();
        data.copy_from_slice(&block(slba));
        pair.submit(&io(opcode::nvm::WRITE, slba), CommandData::Buffer(data), slba, far()).unwrap();
    }
    pair.ring();
    for completion in reap(pair, count) {
        assert!(completion.entry.status().is_success());
    }
}

/// Reads blocks, in one round, and compares.
fn verify(controller: &Controller, pair: &mut QueuePair, from: u64, count: usize) {
    for slba in from..from + count as u64 {
        let data = controller.domain().buffer(BLOCK, Direction::Bidirectional).unwrap();
        pair.submit(&io(opcode::nvm::READ, slba), CommandData::Buffer(data), slba, far()).unwrap();
    }
    pair.ring();
    for completion in reap(pair, count) {
        assert!(completion.entry.status().is_success());
        let CommandData::Buffer(data) = completion.data else { panic!("the buffer comes back") };
        assert!(data[..] == block(completion.user)[..], "block {}", completion.user);
    }
}

#[test]
fn a_controller_is_started_used_reset_used_again_and_shut_down() {
    let serving = Serving::new("size=16MiB,serial=ACROSS,queues=3");
    let mut controller = serving.controller();
    assert_eq!(controller.identify().serial().to_string(), "ACROSS");
    assert_eq!(controller.io_queue_limit(), 3);
    let mut pairs: Vec<_> = (0..3).map(|_| controller.create_io_queue_pair().unwrap()).collect();
    for (queue, pair) in pairs.iter_mut().enumerate() {
        for round in 0..10 {
            write(&controller, pair, (queue * 300 + round * 30) as u64, 30);
        }
    }
    verify(&controller, &mut pairs[2], 0, 30);
    for pair in pairs {
        assert!(controller.delete_io_queue_pair(pair).unwrap().outstanding.is_empty());
    }
    controller.restart().unwrap();
    let mut pair = controller.create_io_queue_pair().unwrap();
    verify(&controller, &mut pair, 870, 30);
    let shutdown = controller.shutdown().unwrap();
    assert!(shutdown.in_order);
    assert!(pair.dismantle(&shutdown.stopped).unwrap().is_empty());
}

#[test]
fn a_completion_interrupts() {
    let serving = Serving::new("size=16MiB");
    let mut controller = serving.controller();
    let mut pair = controller.create_io_queue_pair().unwrap();
    let interrupt = pair.interrupt().expect("the server has vectors").clone();
    let before = far();
    for slba in 0..5 {
        let data = controller.domain().buffer(BLOCK, Direction::Bidirectional).unwrap();
        pair.submit(&io(opcode::nvm::READ, slba), CommandData::Buffer(data), slba, far()).unwrap();
        pair.ring();
        wait(interrupt.as_fd(), PollFlags::IN, before).expect("an interrupt comes");
        assert_eq!(reap(&mut pair, 1)[0].user, slba);
        rustix::io::read(&interrupt, &mut [0; 8]).unwrap();
    }
}

#[test]
fn doorbells_that_are_not_shared_ring_by_message() {
    let serving = Serving::new("size=16MiB,stride=1");
    let mut function = serving.function();
    assert_eq!(mem::take(&mut function.pieces).len(), 1);
    let mut controller = start(function);
    let mut pair = controller.create_io_queue_pair().unwrap();
    write(&controller, &mut pair, 0, 20);
    verify(&controller, &mut pair, 0, 20);
}

#[test]
fn a_server_that_ends_under_load_leaves_a_function_that_is_gone_and_gives_the_memory_back() {
    let mut serving = Serving::new("size=16MiB,latency=3600s");
    let mut controller = serving.controller();
    let mut pair = controller.create_io_queue_pair().unwrap();
    for slba in 0..9 {
        let data = controller.domain().buffer(BLOCK, Direction::Bidirectional).unwrap();
        pair.submit(&io(opcode::nvm::READ, slba), CommandData::Buffer(data), slba, far()).unwrap();
    }
    pair.ring();
    serving.stop();
    let error = controller.disable().unwrap_err();
    assert!(error.to_string().contains("no longer answers"), "{error}");
    // Ringing into the void is harmless.
    pair.ring();
    let stopped = controller.isolate().unwrap();
    assert_eq!(pair.dismantle(&stopped).unwrap().len(), 9);
    assert!(controller.restart().is_err());
}

#[test]
fn a_doorbell_by_message_survives_its_server() {
    let mut serving = Serving::new("size=16MiB");
    let function = {
        let mut function = serving.function();
        function.pieces.clear();
        function
    };
    let doorbell = function.doorbell(0x1000).unwrap();
    serving.stop();
    doorbell.write(1);
    assert!(matches!(function.read_register32(CSTS), Err(FunctionError::Gone { .. })));
    assert!(matches!(function.write_register32(CC, 0), Err(FunctionError::Gone { .. })));
    drop(function);
    doorbell.write(2);
}

#[test]
fn a_client_that_vanishes_under_load_leaves_its_data_and_nothing_else() {
    let serving = Serving::new("size=16MiB");
    for round in 0..5 {
        let function = serving.function();
        let connection = Arc::clone(&function.connection);
        let mut controller = start(function);
        let mut pair = controller.create_io_queue_pair().unwrap();
        if round > 0 {
            verify(&controller, &mut pair, 20 * (round - 1), 20);
        }
        write(&controller, &mut pair, 20 * round, 20);
        for slba in 0..20 {
            let data = controller.domain().buffer(BLOCK, Direction::Bidirectional).unwrap();
            pair.submit(&io(opcode::nvm::READ, slba), CommandData::Buffer(data), slba, far()).unwrap();
        }
        pair.ring();
        // As if the process was killed.
        connection.close();
    }
    serving.is_well();
}

#[test]
fn one_client_has_the_drive_and_the_next_one_gets_it_afterwards() {
    let serving = Serving::new("size=16MiB");
    let first = serving.controller();
    let error = VfioUserFunction::open(&serving.path, &DmaDomain::new()).err().unwrap();
    assert!(matches!(error, VfioUserError::Busy { .. }), "{error}");
    drop(first);
    serving.is_well();
}

#[test]
fn what_is_no_server_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| VfioUserFunction::open(path, &DmaDomain::new()).err().unwrap();
    let path = folder.path().join("s");
    assert!(matches!(open(&path), VfioUserError::NotFound { .. }));
    assert!(matches!(open(&folder.path().join("x".repeat(120))), VfioUserError::PathTooLong { .. }));
    let listener = UnixListener::bind(&path).unwrap();
    let thread = std::thread::spawn({
        move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
            // Until the other end hangs up, in order or not.
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let error = open(&path);
    assert!(matches!(error, VfioUserError::Request { .. }), "{error}");
    thread.join().unwrap();
    assert!(matches!(open(&path), VfioUserError::Deserted { .. }));
}

/// A client that writes its messages by hand.
struct Rude {
    stream: UnixStream,
    receiver: Receiver,
}

impl Rude {
    fn silent(serving: &Serving) -> Self {
        Self { stream: UnixStream::connect(&serving.path).unwrap(), receiver: Receiver::default() }
    }

    fn new(serving: &Serving) -> Self {
        let mut rude = Self::silent(serving);
        rude.ask(command::VERSION, Version { major: 0, minor: 9 }.as_bytes(), &[]).unwrap();
        rude
    }

    fn say(&self, header: Header, payload: &[u8], files: &[BorrowedFd<'_>]) {
        send(self.stream.as_fd(), header, &[payload], files, far()).unwrap();
    }

    fn hear(&mut self) -> io::Result<Message> {
        self.receiver.receive_until(self.stream.as_fd(), far())
    }

    /// The payload of the reply, or the `errno` in it.
    fn ask(&mut self, command: u16, payload: &[u8], files: &[BorrowedFd<'_>]) -> Result<Vec<u8>, i32> {
        self.say(Header { id: 5, command, ..Header::default() }, payload, files);
        let reply = self.hear().expect("an answer");
        assert_eq!((reply.header.id, reply.header.command), (5, command));
        if reply.header.flags & Header::ERROR != 0 {
            Err(reply.header.error as i32)
        } else {
            Ok(reply.payload)
        }
    }

    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<Vec<u8>, i32> {
        let access = RegionAccess { offset, region, count: data.len() as u32 };
        self.ask(command::REGION_WRITE, &[access.as_bytes(), data].concat(), &[])
    }

    fn read32(&mut self, region: u32, offset: u32) -> u32 {
        let access = RegionAccess { offset: offset.into(), region, count: 4 };
        let reply = self.ask(command::REGION_READ, access.as_bytes(), &[]).unwrap();
        u32::from_le_bytes(reply[16..20].try_into().unwrap())
    }

    /// Maps a file of its own at an address.
    fn map(&mut self, address: u64, len: u64, file: &File) -> Result<Vec<u8>, i32> {
        let flags = DmaMap::READ | DmaMap::WRITE;
        self.ask(
            command::DMA_MAP,
            DmaMap { argsz: 32, flags, offset: 0, address, size: len }.as_bytes(),
            &[file.as_fd()],
        )
    }

    /// Lets the controller start with admin queues at 10000h.
    fn enable(&mut self) {
        self.write(CONFIG, 4, &[0x06, 0x04]).unwrap();
        self.write(BAR0, AQA.into(), &0x000f_000fu32.to_le_bytes()).unwrap();
        self.write(BAR0, ASQ.into(), &0x10000u64.to_le_bytes()).unwrap();
        self.write(BAR0, ACQ.into(), &0x11000u64.to_le_bytes()).unwrap();
        let cc = ControllerConfiguration::new().with_en(true).with_iosqes(6).with_iocqes(4);
        self.write(BAR0, CC.into(), &cc.into_bits().to_le_bytes()).unwrap();
    }

    fn status(&mut self) -> ControllerStatus {
        ControllerStatus::from_bits(self.read32(BAR0, CSTS))
    }

    fn is_sent_away(&mut self) {
        loop {
            match self.hear() {
                Ok(_) => {}
                Err(error) => {
                    assert!(
                        matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset),
                        "{error}"
                    );
                    return;
                }
            }
        }
    }
}

fn memory(len: u64) -> File {
    let file = File::from(rustix::fs::memfd_create("client", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(len).unwrap();
    file
}

#[test]
fn messages_that_make_no_sense_are_refused_and_the_client_stays() {
    let serving = Serving::new("size=16MiB");
    let mut rude = Rude::new(&serving);
    let access = |region, offset, count| RegionAccess { offset, region, count }.as_bytes().to_vec();
    let map =
        |flags, offset, address, size| DmaMap { argsz: 32, flags, offset, address, size }.as_bytes().to_vec();
    let irqs =
        |flags, index, start, count| IrqSet { argsz: 20, flags, index, start, count }.as_bytes().to_vec();
    let (file, event) = (memory(8192), eventfd(0, EventfdFlags::NONBLOCK).unwrap());
    let (pipe, _end) = io::pipe().unwrap();
    let eventfds = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    let cases: Vec<(u16, Vec<u8>, Vec<BorrowedFd<'_>>)> = vec![
        (0, vec![], vec![]),
        (99, vec![0; 100], vec![]),
        (command::DEVICE_GET_INFO, vec![], vec![]),
        (command::DEVICE_GET_INFO, DeviceInfo::default().as_bytes().to_vec(), vec![]),
        (command::DEVICE_GET_REGION_INFO, vec![0; 31], vec![]),
        (
            command::DEVICE_GET_REGION_INFO,
            RegionInfo { argsz: 31, ..Default::default() }.as_bytes().to_vec(),
            vec![],
        ),
        (
            command::DEVICE_GET_REGION_INFO,
            RegionInfo { argsz: 64, index: 9, ..Default::default() }.as_bytes().to_vec(),
            vec![],
        ),
        (
            command::DEVICE_GET_IRQ_INFO,
            IrqInfo { argsz: 16, index: 5, ..Default::default() }.as_bytes().to_vec(),
            vec![],
        ),
        // Reads and writes outside the regions, or of regions that are not there.
        (command::REGION_READ, access(BAR0, 0, u32::MAX), vec![]),
        (command::REGION_READ, access(BAR0, u64::MAX, 4), vec![]),
        (command::REGION_READ, access(BAR0, 1 << 20, 4), vec![]),
        (command::REGION_READ, access(1, 0, 4), vec![]),
        (command::REGION_READ, access(u32::MAX, 0, 4), vec![]),
        (command::REGION_READ, access(4, 1 << 20, 4), vec![]),
        (command::REGION_READ, access(CONFIG, 4095, 2), vec![]),
        (command::REGION_READ, access(CONFIG, u64::MAX, 2), vec![]),
        (command::REGION_WRITE, [access(BAR0, 0x14, 8), vec![0; 4]].concat(), vec![]),
        (command::REGION_WRITE, [access(BAR0, 0x14, 2), vec![0; 2]].concat(), vec![]),
        (command::REGION_WRITE, [access(BAR0, 0x15, 4), vec![0; 4]].concat(), vec![]),
        (command::REGION_WRITE, [access(BAR0, u64::MAX - 2, 4), vec![0; 4]].concat(), vec![]),
        (command::REGION_WRITE, [access(CONFIG, 4094, 4), vec![0; 4]].concat(), vec![]),
        (command::REGION_WRITE, [access(4, u64::MAX, 4), vec![0; 4]].concat(), vec![]),
        // Memory that is none, of no size, twice, beyond the end of its file, in no file.
        (command::DMA_MAP, map(0, 0, 0x1000, 4096), vec![file.as_fd()]),
        (command::DMA_MAP, map(7, 0, 0x1000, 4096), vec![file.as_fd()]),
        (command::DMA_MAP, map(3, 0, 0x1000, 0), vec![file.as_fd()]),
        (command::DMA_MAP, map(3, 0, u64::MAX, 4096), vec![file.as_fd()]),
        (command::DMA_MAP, map(3, 0, 0x1000, u64::MAX), vec![file.as_fd()]),
        (command::DMA_MAP, map(3, 4096, 0x1000, 8192), vec![file.as_fd()]),
        (command::DMA_MAP, map(3, u64::MAX, 0x1000, 4096), vec![file.as_fd()]),
        (command::DMA_MAP, map(3, 0, 0x1000, 4096), vec![pipe.as_fd()]),
        (command::DMA_MAP, map(3, 0, 0x1000, 4096), vec![event.as_fd()]),
        (command::DMA_MAP, map(3, 0, 0x1000, 4096), vec![file.as_fd(), file.as_fd()]),
        (
            command::DMA_UNMAP,
            DmaUnmap { argsz: 24, flags: 0, address: 0x5000, size: 4096 }.as_bytes().to_vec(),
            vec![],
        ),
        (
            command::DMA_UNMAP,
            DmaUnmap { argsz: 24, flags: 2, address: 1, size: 0 }.as_bytes().to_vec(),
            vec![],
        ),
        (
            command::DMA_UNMAP,
            DmaUnmap { argsz: 24, flags: 8, address: 0, size: 0 }.as_bytes().to_vec(),
            vec![],
        ),
        // Interrupts that there are not, by files that are none.
        (command::DEVICE_SET_IRQS, irqs(eventfds, 0, 0, 1), vec![event.as_fd()]),
        (command::DEVICE_SET_IRQS, irqs(eventfds, 2, 65, 1), vec![event.as_fd()]),
        (command::DEVICE_SET_IRQS, irqs(eventfds, 2, u32::MAX, 2), vec![event.as_fd()]),
        (command::DEVICE_SET_IRQS, irqs(eventfds, 2, 0, 2), vec![event.as_fd()]),
        (command::DEVICE_SET_IRQS, irqs(eventfds, 2, 0, 1), vec![pipe.as_fd()]),
        (command::DEVICE_SET_IRQS, irqs(eventfds, 2, 0, 1), vec![file.as_fd()]),
        (command::DEVICE_SET_IRQS, irqs(VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_MASK, 2, 0, 1), vec![]),
        (command::DEVICE_SET_IRQS, irqs(u32::MAX, 2, 0, 1), vec![]),
    ];
    for (index, (command, payload, files)) in cases.into_iter().enumerate() {
        assert!(rude.ask(command, &payload, &files).is_err(), "case {index}: command {command}");
    }
    rude.map(0x1000, 8192, &file).unwrap();
    for (address, len) in [(0x1000, 8192), (0x2000, 4096), (0, 4097)] {
        assert_eq!(rude.map(address, len, &file), Err(libc::EEXIST), "{address:#x}");
    }
    let unmap = |size| DmaUnmap { argsz: 24, flags: 0, address: 0x1000, size };
    assert!(rude.ask(command::DMA_UNMAP, unmap(4096).as_bytes(), &[]).is_err());
    rude.ask(command::DMA_UNMAP, unmap(8192).as_bytes(), &[]).unwrap();
    drop(rude);
    serving.is_well();
}

#[test]
fn a_stream_that_is_broken_ends_and_the_next_client_is_served() {
    let serving = Serving::new("size=16MiB");
    let header = |size: usize, flags| Header { id: 1, command: 4, size: size as u32, flags, error: 0 };
    for bytes in [
        header(0, 0).as_bytes().to_vec(),
        header(HEADER_LEN - 1, 0).as_bytes().to_vec(),
        header(HEADER_LEN + LONGEST_PAYLOAD + 1, 0).as_bytes().to_vec(),
        header(u32::MAX as usize, 0).as_bytes().to_vec(),
        // A reply to nothing.
        header(HEADER_LEN, Header::REPLY).as_bytes().to_vec(),
        vec![0xff; 100],
    ] {
        let mut rude = Rude::new(&serving);
        rude.stream.write_all(&bytes).unwrap();
        rude.is_sent_away();
    }
    // Half a message, and nothing more.
    let mut rude = Rude::new(&serving);
    rude.stream.write_all(&header(100, 0).as_bytes()[..9]).unwrap();
    drop(rude);
    // Something else than the version at first; the version twice.
    let mut rude = Rude::silent(&serving);
    rude.say(Header { command: command::DEVICE_RESET, ..Header::default() }, &[], &[]);
    rude.is_sent_away();
    let mut rude = Rude::new(&serving);
    rude.say(Header { command: command::VERSION, ..Header::default() }, &[0; 4], &[]);
    rude.is_sent_away();
    // Files in two parts of one message, more than are taken.
    let mut rude = Rude::new(&serving);
    let (file, half) = (memory(4096), header(2 * HEADER_LEN, 0));
    for _ in 0..2 {
        let files = vec![file.as_fd(); MOST_FILES];
        let mut space = [mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
        assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&files)));
        let bytes = [io::IoSlice::new(half.as_bytes())];
        // The server may hang up before the second half.
        let _ = rustix::net::sendmsg(&rude.stream, &bytes, &mut control, rustix::net::SendFlags::NOSIGNAL);
    }
    rude.is_sent_away();
    serving.is_well();
}

#[test]
fn random_messages_hurt_nobody() {
    let serving = Serving::new("size=16MiB");
    let mut state = 0x1234_5678_9abc_def0u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let file = memory(1 << 20);
    for _ in 0..20 {
        let mut rude = Rude::new(&serving);
        for _ in 0..100 {
            let mut payload: Vec<u8> = (0..random() % 64).map(|_| random() as u8).collect();
            // Small numbers are the ones that mean something.
            for byte in &mut payload {
                *byte &= if random() % 4 == 0 { 0xff } else { 0x07 };
            }
            let command = (random() % 19) as u16;
            if command == command::VERSION {
                continue;
            }
            let files = vec![file.as_fd(); (random() % 3) as usize];
            let _ = rude.ask(command, &payload, &files);
        }
    }
    serving.is_well();
}

#[test]
fn a_register_may_be_read_in_parts_and_many_at_once() {
    let serving = Serving::new("size=16MiB,depth=256");
    let mut rude = Rude::new(&serving);
    let mut read = |offset, count| {
        let access = RegionAccess { offset, region: BAR0, count };
        rude.ask(command::REGION_READ, access.as_bytes(), &[]).unwrap()[16..].to_vec()
    };
    let all = read(0, 0x40);
    assert_eq!(all.len(), 0x40);
    assert_eq!(u16::from_le_bytes([all[0], all[1]]), 255, "CAP.MQES");
    for (offset, count) in [(0, 1), (1, 1), (0, 2), (3, 2), (0, 8), (8, 4), (7, 9)] {
        assert_eq!(read(offset, count), all[offset as usize..][..count as usize], "{count} at {offset}");
    }
}

#[test]
fn queues_where_nothing_is_mapped_make_the_controller_fail_and_reset_mends_it() {
    let serving = Serving::new("size=16MiB");
    let mut rude = Rude::new(&serving);
    rude.enable();
    assert!(rude.status().cfs());
    rude.ask(command::DEVICE_RESET, &[], &[]).unwrap();
    assert_eq!(rude.status(), ControllerStatus::new());
    assert_eq!(rude.read32(BAR0, AQA), 0);
    let file = memory(0x10000);
    rude.map(0x10000, 0x10000, &file).unwrap();
    rude.enable();
    assert!(rude.status().rdy());
    // And by the bit in the configuration space: Device Control of the PCI Express capability.
    rude.write(CONFIG, 0x58, &0x8000u16.to_le_bytes()).unwrap();
    assert_eq!(rude.status(), ControllerStatus::new());
    // What is mapped for reading only is not written.
    let all = DmaUnmap { argsz: 24, flags: 2, address: 0, size: 0 };
    rude.ask(command::DMA_UNMAP, all.as_bytes(), &[]).unwrap();
    let read_only = DmaMap { argsz: 32, flags: DmaMap::READ, offset: 0, address: 0x10000, size: 0x10000 };
    rude.ask(command::DMA_MAP, read_only.as_bytes(), &[file.as_fd()]).unwrap();
    rude.enable();
    assert!(rude.status().cfs());
}

#[test]
fn a_file_that_is_shortened_ends_the_conversation_and_not_the_server() {
    let serving = Serving::new("size=16MiB");
    let mut rude = Rude::new(&serving);
    let file = memory(0x10000);
    rude.map(0x10000, 0x10000, &file).unwrap();
    rude.enable();
    assert!(rude.status().rdy());
    file.set_len(0).unwrap();
    rude.write(BAR0, 0x1000, &1u32.to_le_bytes()).unwrap();
    rude.is_sent_away();
    serving.is_well();
}

#[test]
fn a_controller_without_bus_mastering_waits_for_it() {
    let serving = Serving::new("size=16MiB");
    let mut rude = Rude::new(&serving);
    let file = memory(0x10000);
    rude.map(0x10000, 0x10000, &file).unwrap();
    rude.enable();
    rude.write(CONFIG, 4, &[0, 0]).unwrap();
    let event = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let set = IrqSet {
        argsz: 20,
        flags: VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
        index: 2,
        start: 0,
        count: 1,
    };
    rude.ask(command::DEVICE_SET_IRQS, set.as_bytes(), &[event.as_fd()]).unwrap();
    // An Identify command that names no memory: it is completed with an error, and that interrupts.
    let mut entry = SubmissionQueueEntry::new(opcode::admin::IDENTIFY);
    entry.cid.set(3);
    std::os::unix::fs::FileExt::write_all_at(&file, entry.as_bytes(), 0).unwrap();
    rude.write(BAR0, 0x1000, &1u32.to_le_bytes()).unwrap();
    assert!(wait(event.as_fd(), PollFlags::IN, Instant::now() + Duration::from_millis(20)).is_err());
    rude.write(CONFIG, 4, &[0x04, 0]).unwrap();
    wait(event.as_fd(), PollFlags::IN, far()).expect("an interrupt comes");
    let mut completion = [0; 16];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut completion, 0x1000).unwrap();
    let completion = gangway_spec::CompletionQueueEntry::read_from_bytes(&completion).unwrap();
    assert_eq!(completion.cid.get(), 3);
}

#[test]
fn requests_that_want_no_reply_get_none() {
    let serving = Serving::new("size=16MiB");
    let mut rude = Rude::new(&serving);
    let access = RegionAccess { offset: AQA.into(), region: BAR0, count: 4 };
    let message = [access.as_bytes(), &0x0007_0007u32.to_le_bytes()].concat();
    let header = Header { command: command::REGION_WRITE, flags: Header::NO_REPLY, ..Header::default() };
    rude.say(header, &message, &[]);
    rude.say(Header { command: 99, ..header }, &message, &[]);
    assert_eq!(rude.read32(BAR0, AQA), 0x0007_0007);
}

#[test]
fn a_server_that_answers_nonsense_or_hangs_up_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    // Replies with another number, too short, too long, of another command, or to nothing at all.
    let replies: [fn(Header) -> Vec<u8>; 5] = [
        |header| Header { id: header.id + 1, size: 16, flags: 1, ..header }.as_bytes().to_vec(),
        |header| Header { size: 16, flags: 1, ..header }.as_bytes().to_vec(),
        |header| Header { size: u32::MAX, flags: 1, ..header }.as_bytes().to_vec(),
        |header| Header { command: 12, size: 16, flags: 1, ..header }.as_bytes().to_vec(),
        |_| Vec::new(),
    ];
    for reply in replies {
        let connection = Connection::new(UnixStream::connect(&path).unwrap());
        let (server, _) = listener.accept().unwrap();
        let thread = std::thread::spawn(move || {
            let message = Receiver::default().receive_until(server.as_fd(), far()).unwrap();
            (&server).write_all(&reply(message.header)).unwrap();
        });
        let mut bytes = [0; 4];
        assert!(connection.read_region(BAR0, 0, &mut bytes).is_err());
        thread.join().unwrap();
        assert_ne!(connection.fate(), crate::vfio_user::client::Fate::Alive);
        assert!(connection.read_region(BAR0, 0, &mut bytes).is_err());
    }
}
