//! Three hosts that verify every block, and a hostile one beside them that does at random what no good host does, to a
//! target in a process of its own.
//!
//! It goes on for `GANGWAY_SIEGE` seconds, 15 unless that is set.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gangway_fabric::host::client::Options;
use gangway_fabric::pdu::{CapsuleResp, DigestFlags, H2cData, IcReq, PduType};
use gangway_spec::fabrics::PropertySet;
use gangway_spec::opcode::{admin, nvm};
use gangway_spec::{SglDescriptor, SubmissionQueueEntry, registers};
use gangway_tests::load::Load;
use gangway_tests::process::TargetProcess;
use gangway_tests::wire::{Wire, capsule, connect, enable, with_data};
use gangway_tests::{eventually, identity, subsystem};
use zerocopy::{FromBytes, IntoBytes};

/// Threads of the hostile host.
const ENEMIES: u64 = 3;
/// What it may write to: blocks that nobody verifies.
const OWN: u64 = 8192;

fn siege_time() -> Duration {
    let seconds =
        std::env::var("GANGWAY_SIEGE").map_or(15, |text| text.parse().expect("GANGWAY_SIEGE=SECONDS"));
    Duration::from_secs(seconds)
}

/// Numbers without end that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// Most fields of most commands are small.
    fn dword(&mut self) -> u32 {
        match self.below(4) {
            0 => 0,
            1 => self.below(16) as u32,
            2 => self.below(1 << 16) as u32,
            _ => self.roll() as u32,
        }
    }
}

/// Sends a capsule and waits for a response; `None` when the target ends the connection.
fn ask(wire: &mut Wire, capsule: &[u8]) -> Option<(bool, u32)> {
    wire.send(capsule);
    loop {
        let pdu = wire.pdu()?;
        if PduType(pdu[0]) == PduType::CAPSULE_RESP {
            let entry = CapsuleResp::ref_from_bytes(&pdu).unwrap().entry;
            return Some((entry.status().is_success(), entry.dw0.get()));
        }
    }
}

/// A host that breaks every rule.
struct Enemy<'a> {
    target: &'a TargetProcess,
    dice: Dice,
    host: u8,
}

impl Enemy<'_> {
    fn initialized(&self) -> Option<Wire> {
        let mut wire = Wire::open(self.target.address);
        wire.send(IcReq::new(0, DigestFlags::empty(), 0).as_bytes());
        wire.pdu()?;
        Some(wire)
    }

    /// An admin queue with its controller, and some I/O queues.
    fn association(&mut self) -> Option<(Wire, Vec<Wire>)> {
        let host = identity(self.host);
        let mut admin = self.initialized()?;
        let (_, cntlid) =
            ask(&mut admin, &connect(0, 32, None, &subsystem(0), &host)).filter(|(good, _)| *good)?;
        ask(&mut admin, &enable())?;
        let mut queues = Vec::new();
        for qid in 1..=self.dice.below(4) as u16 {
            let mut wire = self.initialized()?;
            let connect = connect(qid, 64, Some(cntlid as u16), &subsystem(0), &host);
            if ask(&mut wire, &connect).is_some_and(|(good, _)| good) {
                queues.push(wire);
            }
        }
        Some((admin, queues))
    }

    /// A command with anything in it, as a capsule. It does not change what others verify, and takes nothing that would
    /// be rightly its own away from them.
    fn command(&mut self, opcode: u8, io: bool) -> Vec<u8> {
        let mut entry = SubmissionQueueEntry::new(opcode);
        entry.cid.set(self.dice.below(64) as u16);
        entry.nsid.set(self.dice.pick(&[1, 1, 1, 1, 0, 2, u32::MAX, 77]));
        for dword in
            [&mut entry.cdw10, &mut entry.cdw11, &mut entry.cdw12, &mut entry.cdw13, &mut entry.cdw14]
        {
            dword.set(self.dice.dword());
        }
        if io && opcode != nvm::READ && opcode != nvm::COMPARE && opcode != nvm::VERIFY {
            gangway_spec::nvm::set_slba(&mut entry, OWN + self.dice.below(4096));
            entry.cdw12.set(self.dice.below(8) as u32 | self.dice.dword() & 0xfe00_0000);
        }
        if self.dice.below(8) == 0 {
            entry.flags = self.dice.roll() as u8;
        }
        if self.dice.below(8) == 0 {
            entry.mptr.set(self.dice.roll());
        }
        let length = self.dice.pick(&[0, 4, 512, 4096, 4096, 4096, 8192, 65536, 1 << 20, 3, u32::MAX]);
        let ranges = |count: u64| -> Vec<u8> {
            let range = |at: u64| [&[0; 4], &8_u32.to_le_bytes()[..], &(OWN + at * 8).to_le_bytes()].concat();
            (0..count).flat_map(range).collect()
        };
        let data = match opcode {
            nvm::DATASET_MANAGEMENT if io => ranges(256),
            _ => vec![self.dice.roll() as u8; self.dice.pick(&[0, 0, 16, 512, 4096, 8192])],
        };
        match self.dice.below(4) {
            0 => capsule(entry, &data),
            1 if opcode != nvm::DATASET_MANAGEMENT => {
                entry.set_sgl(SglDescriptor::in_capsule(length));
                with_data(&entry, &data)
            }
            2 => {
                entry.set_sgl(SglDescriptor::transport(length));
                with_data(&entry, &[])
            }
            _ => {
                entry.dptr.iter_mut().for_each(|byte| *byte = self.dice.roll() as u8);
                with_data(&entry, &[])
            }
        }
    }

    fn io_command(&mut self) -> Vec<u8> {
        let usual = [nvm::READ, nvm::READ, nvm::WRITE, nvm::WRITE_ZEROES, nvm::FLUSH, nvm::COMPARE];
        let rare =
            [nvm::DATASET_MANAGEMENT, nvm::VERIFY, nvm::WRITE_UNCORRECTABLE, 0x0c, 0x18, 0x7d, 0x80, 0xff];
        let opcode = if self.dice.below(2) == 0 { self.dice.pick(&usual) } else { self.dice.pick(&rare) };
        self.command(opcode, true)
    }

    fn admin_command(&mut self) -> Vec<u8> {
        let usual = [admin::IDENTIFY, admin::GET_LOG_PAGE, admin::GET_FEATURES, admin::SET_FEATURES];
        let rude =
            [admin::ABORT, admin::ABORT, admin::ASYNC_EVENT_REQUEST, admin::FORMAT_NVM, admin::SANITIZE];
        let opcode = match self.dice.below(3) {
            0 => self.dice.pick(&usual),
            1 => self.dice.pick(&rude),
            _ => self.dice.roll() as u8,
        };
        self.command(opcode, false)
    }

    /// One outrage. `None` when the target had enough of it before it was over.
    fn misbehave(&mut self) -> Option<()> {
        match self.dice.below(8) {
            0 => {
                let mut wire = Wire::open(self.target.address);
                let bytes: Vec<u8> = (0..self.dice.below(2000)).map(|_| self.dice.roll() as u8).collect();
                wire.send(&bytes);
                wire.finish();
                wire.drain();
            }
            // Half of a PDU, and nothing more.
            1 => {
                let (admin, mut queues) = self.association()?;
                let command = self.io_command();
                let half = self.dice.below(command.len() as u64) as usize;
                for queue in &mut queues {
                    queue.send(&command[..half]);
                }
                drop((queues, admin));
            }
            // Commands, and gone before any is answered.
            2 | 3 => {
                let (mut admin, mut queues) = self.association()?;
                for queue in &mut queues {
                    let burst: Vec<u8> = (0..self.dice.below(60)).flat_map(|_| self.io_command()).collect();
                    queue.send(&burst);
                }
                let burst: Vec<u8> = (0..self.dice.below(20)).flat_map(|_| self.admin_command()).collect();
                admin.send(&burst);
                if self.dice.below(2) == 0 {
                    drop(admin);
                    thread::sleep(Duration::from_millis(self.dice.below(5)));
                }
            }
            // Commands that are aborted, each several times, and others that are not there.
            4 => {
                let (mut admin, mut queues) = self.association()?;
                for queue in &mut queues {
                    let burst: Vec<u8> = (0..32).flat_map(|_| self.io_command()).collect();
                    queue.send(&burst);
                }
                // Nobody waits for an answer: the Abort of a write has one when its data has come, which it never does.
                let mut aborts = Vec::new();
                for _ in 0..self.dice.below(30) {
                    let mut abort = SubmissionQueueEntry::new(admin::ABORT);
                    abort.cdw10.set(self.dice.below(5) as u32 | (self.dice.below(64) as u32) << 16);
                    aborts.extend(capsule(abort, &[]));
                }
                admin.send(&aborts);
                thread::sleep(Duration::from_millis(self.dice.below(20)));
            }
            // Resets and shutdowns in the midst of commands.
            5 => {
                let (mut admin, mut queues) = self.association()?;
                for queue in &mut queues {
                    let burst: Vec<u8> = (0..32).flat_map(|_| self.io_command()).collect();
                    queue.send(&burst);
                }
                for _ in 0..self.dice.below(6) {
                    let cc = self.dice.pick(&[0, 1, 0x46_0001, 0x46_4001, 0x46_8001, u32::MAX]);
                    ask(&mut admin, &capsule(PropertySet::new32(registers::CC, cc).into(), &[]))?;
                }
            }
            // Data that nobody asked for.
            6 => {
                let (_admin, mut queues) = self.association()?;
                for queue in &mut queues {
                    let (cid, ttag) = (self.dice.below(64) as u16, self.dice.below(64) as u16);
                    queue.send(&self.io_command());
                    queue.send(H2cData::new(cid, ttag, 0, 4096, true, 0).as_bytes());
                    queue.send(&[0xee; 4096]);
                }
            }
            // Admin commands whose answers nobody reads.
            _ => {
                let (mut admin, _queues) = self.association()?;
                let burst: Vec<u8> = (0..200).flat_map(|_| self.admin_command()).collect();
                admin.send_for(&burst, Duration::from_millis(200));
            }
        }
        Some(())
    }
}

/// What a siege came to.
#[derive(Debug)]
struct Outcome {
    outrages: u64,
    retries: u64,
}

/// Besieges the target for a time. All hosts are gone afterwards.
fn besiege(target: &Arc<TargetProcess>, time: Duration, seed: u64) -> Outcome {
    let load = Load::with(3, |number| {
        let mut admin = target.host(number, &Options::default());
        let queue = admin.connect_io(1).unwrap();
        (admin, queue)
    });
    let stop = Arc::new(AtomicBool::new(false));
    let outrages = Arc::new(AtomicU64::new(0));
    let enemies: Vec<JoinHandle<()>> = (0..ENEMIES)
        .map(|number| {
            let (target, stop, outrages) = (Arc::clone(target), Arc::clone(&stop), Arc::clone(&outrages));
            thread::spawn(move || {
                // All of them are one host, but for one: so some of its associations outlive others.
                let host = if number == 0 { 200 } else { 201 };
                let mut enemy = Enemy { target: &target, dice: Dice(seed * 1000 + number), host };
                while !stop.load(Ordering::Relaxed) {
                    enemy.misbehave();
                    outrages.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let begin = Instant::now();
    while begin.elapsed() < time {
        load.assert_goes_on();
    }
    stop.store(true, Ordering::Relaxed);
    for enemy in enemies {
        enemy.join().unwrap();
    }
    let retries = load.retries();
    load.finish();
    Outcome { outrages: outrages.load(Ordering::Relaxed), retries }
}

#[test]
fn hosts_beside_a_hostile_one_lose_nothing_and_memory_ends_where_it_began() {
    let program = env!("CARGO_BIN_EXE_gangway-test-target");
    // In a file: how much of a drive in memory is filled is the hosts' affair, and would be counted as the target's. Where
    // it can be, a file that no disk holds: hostile hosts flush without end.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let drive = format!("file={},size=64MiB,latency=50us", folder.path().join("drive").display());
    let target = Arc::new(TargetProcess::with(program, &["adaptive", &drive]));
    // What is taken once and for all is taken by then.
    besiege(&target, siege_time() / 3, 1);
    thread::sleep(Duration::from_secs(8));
    let (before, allocated) = (target.resident(), target.allocated());
    assert!(allocated.bytes > 0, "the target counts");
    let outcome = besiege(&target, siege_time(), 2);
    println!("{outcome:?}");
    assert!(outcome.outrages > 20, "{outcome:?}");
    assert_eq!(outcome.retries, 0, "nothing happened to the drive");
    // What allocators keep of memory that was given back comes and goes; what is allocated does not.
    eventually("memory is given back", || {
        target.resident() < before + (1 << 20) && target.allocated().bytes < allocated.bytes + (64 << 10)
    });
    println!("allocated {allocated:?} before, {:?} after", target.allocated());
    println!("{} bytes before, {} after", before, target.resident());
}

#[test]
fn a_drive_that_fails_and_vanishes_under_a_siege_costs_nothing_but_time() {
    let program = env!("CARGO_BIN_EXE_gangway-test-target");
    let faults = "fault=cfs:write:from=3000:every=9000,fault=remove=300ms:read:from=5000:every=12000";
    let drive = format!("size=64MiB,latency=50us,{faults}");
    let target = Arc::new(TargetProcess::with(program, &["adaptive", &drive]));
    let outcome = besiege(&target, siege_time(), 3);
    println!("{outcome:?}");
    assert!(outcome.outrages > 20 && outcome.retries > 0, "{outcome:?}");
}
