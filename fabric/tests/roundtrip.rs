//! Both ends against each other, in memory: commands with and without data, streams split at random, answers in
//! random order, data that is damaged on its way. What arrives is compared with what was asked for.
#![allow(clippy::unwrap_used)] // The helpers of a test fail by panicking, too.

use std::collections::{HashMap, VecDeque};

use gangway_fabric::host::{self, Data, Tag};
use gangway_fabric::pdu::DigestFlags;
use gangway_fabric::target::{self, CapsuleData, Reply, Slot};
use gangway_spec::fabrics::fctype;
use gangway_spec::{Status, SubmissionQueueEntry, opcode};
use proptest::prelude::*;

const QUEUE_SIZE: u16 = 8;

/// What a host asks for. Commands are told apart by their number, which stands in dword 10.
#[derive(Clone, Copy, Debug)]
enum Task {
    Write(u32),
    Read(u32),
    Flush,
    /// A read that the controller fails.
    Fail(u32),
}

#[derive(Clone, Debug)]
struct Setting {
    hpda: u8,
    digests: DigestFlags,
    flow_control: bool,
    in_capsule: u32,
    /// For Connect: in its capsule, or by R2T.
    fabrics_in_capsule: u32,
    max_h2c_data: u32,
    qid: u16,
}

/// Small and fast; the same seed gives the same run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end.max(1)
    }
}

/// The data of command `number`.
fn pattern(number: u32, len: u32) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251 + number * 13) as u8).collect()
}

/// Whether a byte of the data of command `number` changes on its way, which only digests can tell.
fn is_damaged(setting: &Setting, number: u32) -> bool {
    setting.digests.contains(DigestFlags::DATA) && number % 5 == 4
}

/// Appends `data`, damaged if `damaged`.
fn send(data: &[u8], damaged: bool, out: &mut Vec<u8>) {
    out.extend(data);
    if let Some(last) = out.last_mut().filter(|_| damaged) {
        *last ^= 0x10;
    }
}

/// The result that command `number` has, so that some completions cannot be replaced by SUCCESS.
fn result(number: u32) -> u64 {
    if number.is_multiple_of(3) { 0x1_0000_0000 + u64::from(number) } else { 0 }
}

/// The controller: it keeps the data of what is under way, and answers when it is told to.
struct Controller {
    connection: target::Connection,
    out: Vec<u8>,
    commands: HashMap<Slot, (SubmissionQueueEntry, Vec<u8>)>,
    ready: Vec<Slot>,
    writes: HashMap<u32, Vec<u8>>,
    setting: Setting,
}

impl Controller {
    fn receive(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (taken, event) = match self.connection.want() {
                target::Want::Header { .. } => self.connection.receive(bytes, &mut self.out).unwrap(),
                target::Want::Payload { slot, offset, remaining } => {
                    let n = bytes.len().min(remaining as usize);
                    self.commands.get_mut(&slot).unwrap().1[offset as usize..][..n]
                        .copy_from_slice(&bytes[..n]);
                    (n, self.connection.placed(&bytes[..n]))
                }
                other => panic!("a good host made the controller want {other:?}"),
            };
            bytes = &bytes[taken..];
            match event {
                None | Some(target::Event::Initialized) => {}
                Some(target::Event::Command { slot, entry, data }) => self.command(slot, entry, data),
                Some(target::Event::DataComplete { slot, intact }) => {
                    let number = self.commands[&slot].0.cdw10.get();
                    assert_eq!(intact, !is_damaged(&self.setting, number), "command {number}");
                    self.ready.push(slot);
                }
                Some(other) => panic!("a good host caused {other:?}"),
            }
        }
    }

    fn command(&mut self, slot: Slot, entry: SubmissionQueueEntry, data: CapsuleData) {
        let len = match data {
            CapsuleData::None => 0,
            CapsuleData::InCapsule { len } | CapsuleData::Transport { len } => len,
        };
        assert!(self.commands.insert(slot, (entry, vec![0; len as usize])).is_none(), "slot {slot} twice");
        match data {
            CapsuleData::InCapsule { .. } => {}
            CapsuleData::Transport { .. } if entry.opcode & 1 == 1 => {
                self.connection.request_data(slot, &mut self.out);
            }
            _ => self.ready.push(slot),
        }
    }

    /// Answers one of the commands that are ready.
    fn answer(&mut self, random: &mut Random) {
        if self.ready.is_empty() {
            return;
        }
        let slot = self.ready.swap_remove(random.below(self.ready.len()));
        let (entry, data) = self.commands.remove(&slot).unwrap();
        let number = entry.cdw10.get();
        let mut reply = Reply { status: Status::SUCCESS, result: result(number) };
        match entry.opcode {
            opcode::admin::FABRICS => {
                assert_eq!(data, pattern(0, 1024));
                let Setting { qid, flow_control, .. } = self.setting;
                self.connection.establish(qid, QUEUE_SIZE, flow_control);
                reply.result = 1;
            }
            opcode::nvm::WRITE if is_damaged(&self.setting, number) => {
                reply.status = Status::TRANSIENT_TRANSPORT_ERROR;
            }
            opcode::nvm::WRITE => assert!(self.writes.insert(number, data).is_none()),
            opcode::nvm::READ if entry.cdw11.get() == 1 => {
                reply.status = Status::UNRECOVERED_READ_ERROR.with_dnr();
            }
            opcode::nvm::READ => {
                let data = pattern(number, data.len() as u32);
                let end = self.connection.data_header(slot, &data, &reply, &mut self.out);
                assert_eq!(end.has_response(), self.setting.flow_control || reply.result != 0);
                send(&data, is_damaged(&self.setting, number), &mut self.out);
                return self.connection.data_end(end, &mut self.out);
            }
            _ => {}
        }
        self.connection.respond(slot, &reply, &mut self.out);
    }
}

/// The host: it keeps the data of what is under way, and checks what comes back.
struct Host {
    connection: host::Connection,
    out: Vec<u8>,
    commands: HashMap<Tag, (Option<Task>, u32, Vec<u8>)>,
    completed: usize,
    setting: Setting,
}

impl Host {
    fn submit(&mut self, number: u32, task: Option<Task>) {
        let (opcode, data, bytes) = match task {
            None => (opcode::admin::FABRICS, Data::Send(1024), pattern(number, 1024)),
            Some(Task::Write(len)) => (opcode::nvm::WRITE, Data::Send(len), pattern(number, len)),
            Some(Task::Read(len) | Task::Fail(len)) => {
                (opcode::nvm::READ, Data::Receive(len), vec![0; len as usize])
            }
            Some(Task::Flush) => (opcode::nvm::FLUSH, Data::None, Vec::new()),
        };
        let mut entry = SubmissionQueueEntry::new(opcode);
        entry.cdw10.set(number);
        match task {
            None => entry.nsid.set(u32::from(fctype::CONNECT)),
            Some(Task::Fail(_)) => entry.cdw11.set(1),
            Some(_) => {}
        }
        let submitted = self.connection.submit(&entry, data, &mut self.out).unwrap();
        if submitted.in_capsule {
            send(&bytes, is_damaged(&self.setting, number), &mut self.out);
            self.connection.data_end(&bytes, &mut self.out);
        }
        assert!(self.commands.insert(submitted.tag, (task, number, bytes)).is_none());
    }

    fn receive(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (taken, event) = match self.connection.want() {
                host::Want::Header { .. } => self.connection.receive(bytes, &mut self.out).unwrap(),
                host::Want::Payload { tag, offset, remaining } => {
                    let n = bytes.len().min(remaining as usize);
                    self.commands.get_mut(&tag).unwrap().2[offset as usize..][..n]
                        .copy_from_slice(&bytes[..n]);
                    (n, self.connection.placed(&bytes[..n]))
                }
                other => panic!("a good controller made the host want {other:?}"),
            };
            bytes = &bytes[taken..];
            match event {
                None | Some(host::Event::Initialized { .. }) => {}
                Some(host::Event::DataRequested(mut transfer)) => {
                    let (_, number, data) = &self.commands[&transfer.tag()];
                    while transfer.remaining() > 0 {
                        // The first of several PDUs is the one that is damaged.
                        let damaged =
                            is_damaged(&self.setting, *number) && transfer.remaining() == data.len() as u32;
                        let range = self.connection.data_header(&mut transfer, &mut self.out);
                        send(&data[range.clone()], damaged, &mut self.out);
                        self.connection.data_end(&data[range], &mut self.out);
                    }
                }
                Some(host::Event::Response { tag, entry, received }) => {
                    let (task, number, data) = self.commands.remove(&tag).unwrap();
                    self.connection.release(tag);
                    self.completed += 1;
                    let damaged = is_damaged(&self.setting, number);
                    let (status, result, len) = match task {
                        Some(Task::Write(_)) if damaged => {
                            (Status::TRANSIENT_TRANSPORT_ERROR, result(number), 0)
                        }
                        Some(Task::Read(len)) if damaged => {
                            (Status::TRANSIENT_TRANSPORT_ERROR, result(number), len)
                        }
                        None => (Status::SUCCESS, 1, 0),
                        Some(Task::Fail(_)) => (Status::UNRECOVERED_READ_ERROR.with_dnr(), result(number), 0),
                        Some(Task::Read(len)) => (Status::SUCCESS, result(number), len),
                        Some(_) => (Status::SUCCESS, result(number), 0),
                    };
                    assert_eq!((entry.status(), entry.result(), received), (status, result, len));
                    if let Some(Task::Read(len)) = task
                        && !damaged
                    {
                        assert_eq!(data, pattern(number, len));
                    }
                }
            }
        }
    }
}

/// Moves what was written to the wire, and takes a random part of what is on it.
fn carry(out: &mut Vec<u8>, wire: &mut VecDeque<u8>, random: &mut Random) -> Vec<u8> {
    wire.extend(out.drain(..));
    let longest = [1, 30, 200, 5000, 100_000][random.below(5)].min(wire.len());
    wire.drain(..random.below(longest + 1)).collect()
}

fn run(setting: &Setting, tasks: &[Task], seed: u64) {
    let mut random = Random(seed);
    let mut controller = Controller {
        connection: target::Connection::new(target::Config {
            in_capsule_data: setting.in_capsule,
            max_h2c_data: setting.max_h2c_data,
        }),
        out: Vec::new(),
        commands: HashMap::new(),
        ready: Vec::new(),
        writes: HashMap::new(),
        setting: setting.clone(),
    };
    let mut host = Host {
        connection: host::Connection::new(host::Config {
            hpda: setting.hpda,
            digests: setting.digests,
            queue_size: QUEUE_SIZE,
            in_capsule: setting.in_capsule,
            fabrics_in_capsule: setting.fabrics_in_capsule,
        }),
        out: Vec::new(),
        commands: HashMap::new(),
        completed: 0,
        setting: setting.clone(),
    };
    let (mut to_controller, mut to_host) = (VecDeque::new(), VecDeque::new());
    let mut next = 0;
    host.connection.start(&mut host.out);
    // Steps are bounded, so that a session which hangs fails.
    for _ in 0..200_000 {
        match random.below(4) {
            0 => controller.receive(&carry(&mut host.out, &mut to_controller, &mut random)),
            1 => host.receive(&carry(&mut controller.out, &mut to_host, &mut random)),
            2 => controller.answer(&mut random),
            _ if !host.connection.is_initialized() || host.connection.is_full() => {}
            // Number 0 is Connect, and nothing follows before it is answered.
            _ if next == 0 => {
                host.submit(0, None);
                next = 1;
            }
            _ if host.completed > 0 && next <= tasks.len() => {
                host.submit(next as u32, Some(tasks[next - 1]));
                next += 1;
            }
            _ => {}
        }
        if host.completed == tasks.len() + 1 {
            break;
        }
    }
    assert_eq!(host.completed, tasks.len() + 1, "the session hangs");
    assert_eq!(controller.connection.commands_outstanding(), 0);
    assert_eq!(host.connection.in_use(), 0);
    for (number, task) in (1..).zip(tasks) {
        let written = match task {
            Task::Write(len) if !is_damaged(setting, number) => Some(pattern(number, *len)),
            _ => None,
        };
        assert_eq!(controller.writes.get(&number), written.as_ref(), "command {number}");
    }
}

fn task() -> impl Strategy<Value = Task> {
    let len = || prop_oneof![1..20_u32, 500..5000_u32, Just(4096), 8000..30_000_u32];
    prop_oneof![
        3 => len().prop_map(Task::Write),
        3 => len().prop_map(Task::Read),
        1 => Just(Task::Flush),
        1 => len().prop_map(Task::Fail),
    ]
}

fn setting() -> impl Strategy<Value = Setting> {
    (
        prop_oneof![Just(0_u8), 0..=31_u8],
        (0..4_u8).prop_map(DigestFlags::from_bits_retain),
        any::<bool>(),
        prop::sample::select(vec![0_u32, 4096, 8192, 16_384]),
        prop::sample::select(vec![0_u32, 8192]),
        prop::sample::select(vec![4096_u32, 8192, 131_072]),
        1..3_u16,
    )
        .prop_map(|(hpda, digests, flow_control, in_capsule, fabrics_in_capsule, max_h2c_data, qid)| {
            Setting { hpda, digests, flow_control, in_capsule, fabrics_in_capsule, max_h2c_data, qid }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_ends_agree_on_every_command_and_every_byte(
        setting in setting(),
        tasks in prop::collection::vec(task(), 1..60),
        seed in any::<u64>(),
    ) {
        run(&setting, &tasks, seed);
    }
}
