//! Hosts that do anything: random registers, doorbells, entries, lists and faults. The drive neither panics nor gets
//! stuck: whatever was done to it, a reset brings it back.

use gangway_spec::command::NSID_BROADCAST;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// Bytes of the memory that entries point into: queues, lists and data alike.
const MEMORY: usize = 32 * PAGE;
const QUEUES: u16 = 3;

const DRIVES: [&str; 5] = [
    "size=1MiB,block=512",
    "size=1MiB,block=4096,sgl,shadow-doorbells,mdts=3",
    "size=1MiB,block=512,ms=8,pi=1,sgl",
    "size=1MiB,block=512,ms=16,extended,namespaces=2,capacity=4MiB,max-namespaces=4",
    "size=1MiB,block=512,zoned,zone-size=64KiB,max-open=2,max-active=3",
];

const FAULTS: [&str; 16] = [
    "drop:any:every=3",
    "lose:any:every=3",
    "skip:any:every=3",
    "delay=100us:any",
    "reorder=2:any:every=2",
    "duplicate:any:every=2",
    "corrupt=phase:any:every=4",
    "corrupt=sqhead:any:every=2",
    "late-phase=50us:any:every=2",
    "flip=99999:any",
    "overrun=70000:any",
    "status=0x4:any:every=5",
    "cfs:any:nth=9",
    "remove=100us:any:nth=9",
    "not-ready",
    "not-disabled=100us",
];

/// What a host does.
#[derive(Clone, Debug)]
enum Act {
    Register { offset: u32, value: u32 },
    Doorbell { number: u16, value: u32 },
    Word { at: usize, value: Address },
    Command { queue: u16, entry: Entry },
    Step { queue: u16 },
    Restart,
    Fault { index: usize },
}

/// Where something is.
#[derive(Clone, Copy, Debug)]
enum Address {
    Inside(u64),
    Poison,
    Any(u64),
}

#[derive(Clone, Debug)]
struct Entry {
    opcode: u8,
    flags: u8,
    cid: u16,
    nsid: u32,
    pointers: [Address; 3],
    dwords: [u32; 6],
}

fn address() -> impl Strategy<Value = Address> {
    prop_oneof![
        6 => (0..MEMORY as u64 / 8).prop_map(|at| Address::Inside(at * 8)),
        6 => (0..MEMORY as u64 / PAGE as u64).prop_map(|page| Address::Inside(page * PAGE as u64)),
        1 => Just(Address::Poison),
        // The last word of an SGL descriptor: a length and a type.
        3 => (select(vec![0u64, 1, 2, 3, 4, 15]), 0..5000u64).prop_map(|(kind, len)| Address::Any(kind << 60 | len)),
        1 => any::<u64>().prop_map(Address::Any),
    ]
}

fn dword() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..20u32, 2 => (0..6u32, 0..20u32).prop_map(|(high, low)| high << 16 | low), 1 => any::<u32>()]
}

fn entry() -> impl Strategy<Value = Entry> {
    let opcode =
        prop_oneof![3 => 0..0x20u8, 1 => select(vec![0x79, 0x7a, 0x7c, 0x7d, 0x80, 0x84]), 1 => any::<u8>()];
    let flags = prop_oneof![4 => Just(0u8), 2 => Just(0x40), 1 => any::<u8>()];
    let nsid = prop_oneof![4 => Just(1u32), 1 => 0..5u32, 1 => Just(NSID_BROADCAST), 1 => any::<u32>()];
    (opcode, flags, 0..40u16, nsid, [address(), address(), address()], prop::array::uniform6(dword()))
        .prop_map(|(opcode, flags, cid, nsid, pointers, dwords)| Entry {
            opcode,
            flags,
            cid,
            nsid,
            pointers,
            dwords,
        })
}

fn act() -> impl Strategy<Value = Act> {
    let register = select(vec![0, 4, 8, 0xc, 0x10, 0x14, 0x1c, 0x20, 0x24, 0x28, 0x2c, 0x30, 0x34, 0x68]);
    let value = prop_oneof![2 => dword(), 1 => Just(0x0046_0001u32), 1 => Just(0x4e56_4d65)];
    let queue = 0..QUEUES;
    prop_oneof![
        1 => (register, value).prop_map(|(offset, value)| Act::Register { offset, value }),
        2 => (0..2 * QUEUES, dword()).prop_map(|(number, value)| Act::Doorbell { number, value }),
        8 => (0..MEMORY / 8, address()).prop_map(|(at, value)| Act::Word { at, value }),
        24 => (queue.clone(), entry()).prop_map(|(queue, entry)| Act::Command { queue, entry }),
        4 => queue.prop_map(|queue| Act::Step { queue }),
        2 => Just(Act::Restart),
        1 => (0..FAULTS.len()).prop_map(|index| Act::Fault { index }),
    ]
}

/// A host that has lost its mind, with a drive.
struct Fool {
    host: Host,
    memory: DmaBuffer,
    queues: Vec<Queue>,
}

impl Fool {
    fn new(options: &str) -> Self {
        let mut host = Host::new(&format!("{options},queues={},depth=16", QUEUES - 1));
        let memory = host.buffer(MEMORY, Direction::Bidirectional);
        let queues = (1..QUEUES).map(|qid| host.create_queue(qid)).collect();
        Self { host, memory, queues }
    }

    fn address(&self, address: Address) -> u64 {
        match address {
            Address::Inside(offset) => self.memory.iova() + offset,
            Address::Poison => self.host.domain.poison_iova(),
            Address::Any(any) => any,
        }
    }

    /// Disables the controller, enables it with its admin queue and makes all I/O queues.
    fn restart(&mut self) {
        let host = &mut self.host;
        // Time that a fault takes passes; a host would wait as long.
        for _ in 0..200 {
            host.configure(ControllerConfiguration::new());
            if host.status().into_bits() & 1 == 0 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
        host.start_again();
        self.queues.clear();
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Register { offset, value } => {
                self.host.function.write_register32(offset, value).unwrap();
                self.host.function.read_register32(offset).unwrap();
            }
            Act::Doorbell { number, value } => {
                self.host
                    .function
                    .write_register32(registers::DOORBELLS + 4 * u32::from(number), value)
                    .unwrap();
            }
            Act::Word { at, value } => {
                let value = self.address(value);
                self.memory[at * 8..][..8].copy_from_slice(&value.to_le_bytes());
            }
            Act::Command { queue, entry } => {
                let mut command = SubmissionQueueEntry::new(entry.opcode);
                command.flags = entry.flags;
                command.cid.set(entry.cid);
                command.nsid.set(entry.nsid);
                let [prp1, prp2, mptr] = entry.pointers.map(|pointer| self.address(pointer));
                let flags = command.flags;
                command.set_prp(prp1, prp2);
                command.flags = flags;
                command.mptr.set(mptr);
                let [cdw10, cdw11, cdw12, cdw13, cdw14, cdw15] = entry.dwords.map(Into::into);
                command = SubmissionQueueEntry { cdw10, cdw11, cdw12, cdw13, cdw14, cdw15, ..command };
                let queue = match queue {
                    0 => &mut self.host.admin,
                    qid => match self.queues.get_mut(usize::from(qid) - 1) {
                        Some(queue) => queue,
                        None => return,
                    },
                };
                queue.submit(&command);
                while queue.poll().is_some() {}
            }
            Act::Step { queue } => self.host.function.stepper(queue).unwrap().step(),
            Act::Restart => self.restart(),
            Act::Fault { index } => {
                self.host.probe.add_fault(FAULTS[index].parse().unwrap());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn whatever_a_host_does_a_reset_brings_the_drive_back(
        drive in select(&DRIVES[..]), acts in prop::collection::vec(act(), 1..120),
    ) {
        let mut fool = Fool::new(drive);
        for act in acts {
            fool.act(act);
        }
        fool.host.probe.clear_faults();
        fool.host.probe.put_back();
        fool.restart();
        prop_assert!(fool.host.status().rdy() && !fool.host.status().cfs());
        prop_assert!(fool.host.identify(1, 0).is_ok());
        let mut queue = fool.host.create_queue(1);
        let flush = SubmissionQueueEntry { nsid: NSID_BROADCAST.into(), ..SubmissionQueueEntry::new(opcode::nvm::FLUSH) };
        queue.submit(&flush);
        prop_assert!(queue.poll().is_some(), "it answers");
    }
}
