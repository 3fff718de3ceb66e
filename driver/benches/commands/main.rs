//! What the driver itself costs for each command.
//!
//! ```text
//! cargo bench -p gangway-driver --bench commands
//! ```
//!
//! Reads of 4 KiB on `emulated:null`, a drive that moves no data and is stepped by the thread that rings. Beside it, in
//! turn and in the same process, the floor: a loop that does nothing but write entries to a queue of such a drive, ring,
//! and read the completions. It has no slots, checks nothing, names the same memory each time and owns nothing. What the
//! driver takes longer than this loop is its own cost.
//!
//! Times are medians of rounds, with the smallest and the largest. Instructions are counted by callgrind (Debian:
//! `valgrind`), and do not depend on what else the machine does.
#![allow(unsafe_code)] // The floor reads and writes memory that it shares with the drive.

mod floor;
mod pointers;

use std::env;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use gangway_driver::controller::Options;
use gangway_driver::dma::BufferPool;
use gangway_driver::emulated::EmulatedFunction;
use gangway_driver::{Completion, Controller, Direction, DmaBuffer, DmaDomain, Function, QueuePair};
use gangway_spec::{SubmissionQueueEntry, nvm, opcode};

use crate::floor::Floor;

/// Commands outstanding at a time.
const DEPTHS: [usize; 3] = [1, 32, 128];
/// Bytes of a command.
const BLOCK: usize = 4096;
const ROUNDS: usize = 15;
/// How long either side runs in a round.
const ROUND: Duration = Duration::from_millis(40);
/// Commands of the short and of the long run whose difference is counted.
const COUNTED: [usize; 2] = [10_000, 30_000];

/// What is measured.
trait Subject {
    /// Takes so many commands, a multiple of the depth, from submission to completion.
    fn run(&mut self, commands: usize);
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let texts: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match texts[..] {
        [] => measure(),
        // How callgrind is given one subject alone; of those that submit, the depth is bytes.
        ["--count", subject, depth, commands] => {
            let (Ok(depth), Ok(commands)) = (depth.parse(), commands.parse()) else { return usage() };
            match subject {
                "driver" => Driver::new(depth).run(commands),
                "floor" => Floor::new(function(), depth).run(commands),
                "prp" | "sgl" => pointers::submit(subject, depth, commands),
                _ => return usage(),
            }
            ExitCode::SUCCESS
        }
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: commands, without arguments");
    ExitCode::from(2)
}

fn measure() -> ExitCode {
    println!(
        "4 KiB reads on emulated:null, one thread, {ROUNDS} rounds in turn; ns and instructions per command\n"
    );
    println!(
        "depth         driver ns           floor ns   added ns    driver instr  floor instr  added instr"
    );
    let mut counting = true;
    for depth in DEPTHS {
        let (mut driver, mut floor) = (Driver::new(depth), Floor::new(function(), depth));
        let (mut of_driver, mut of_floor, mut added) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let (one, other) = (time(&mut driver, depth), time(&mut floor, depth));
            // The first one warms up.
            if round > 0 {
                of_driver.push(one);
                of_floor.push(other);
                added.push(one - other);
            }
        }
        let [driver, floor, added] = [of_driver, of_floor, added].map(Spread::of);
        print!("{depth:>5}  {driver}  {floor}   {:>8.0}", added.median);
        if counting {
            match (count("driver", depth), count("floor", depth)) {
                (Ok(driver), Ok(floor)) => {
                    print!("    {driver:>12.0} {floor:>12.0} {:>12.0}", driver - floor)
                }
                (Err(error), _) | (_, Err(error)) => {
                    print!("    instructions are not counted: {error}");
                    counting = false;
                }
            }
        }
        println!();
    }
    if counting {
        compare_pointers();
    }
    ExitCode::SUCCESS
}

/// Instructions to submit a command, whose memory is named in either way.
fn compare_pointers() {
    const COMMANDS: [usize; 2] = [200, 900];
    println!("\nbytes     submitted by PRPs   by SGL, instructions");
    for len in pointers::LENGTHS {
        let [prp, sgl] = ["prp", "sgl"].map(|subject| {
            let [short, long] = COMMANDS.map(|commands| instructions(subject, len, commands));
            Ok::<_, String>((long? - short?) as f64 / (COMMANDS[1] - COMMANDS[0]) as f64)
        });
        match (prp, sgl) {
            (Ok(prp), Ok(sgl)) => println!("{len:>6}    {prp:>17.0}   {sgl:>6.0}"),
            (Err(error), _) | (_, Err(error)) => println!("{len:>6}    not counted: {error}"),
        }
    }
}

/// Nanoseconds per command.
fn time(subject: &mut impl Subject, depth: usize) -> f64 {
    let batch = 64 * depth;
    let (begin, mut commands) = (Instant::now(), 0);
    loop {
        subject.run(batch);
        commands += batch;
        let taken = begin.elapsed();
        if taken >= ROUND {
            return taken.as_secs_f64() * 1e9 / commands as f64;
        }
    }
}

/// Instructions per command: what a longer run takes more than a shorter one.
fn count(subject: &str, depth: usize) -> Result<f64, String> {
    let [short, long] = COUNTED.map(|commands| instructions(subject, depth, commands / depth * depth));
    let commands = COUNTED.map(|commands| commands / depth * depth);
    Ok((long? - short?) as f64 / (commands[1] - commands[0]) as f64)
}

fn instructions(subject: &str, depth: usize, commands: usize) -> Result<u64, String> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["--count", subject, &depth.to_string(), &commands.to_string()])
        .output()
        .map_err(|error| format!("valgrind cannot be run: {error} (Debian: apt-get install valgrind)"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    collected
        .and_then(|(_, count)| count.trim().parse().ok())
        .ok_or_else(|| format!("callgrind said: {}", said.lines().last().unwrap_or("nothing")))
}

struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { least: values[0], median: values[values.len() / 2], most: values[values.len() - 1] }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let range = format!("({:.0}-{:.0})", self.least, self.most);
        write!(f, "{:>5.0} {range:<11}", self.median)
    }
}

fn function() -> Box<dyn Function> {
    let config = "null,size=1GiB".parse().expect("the options of the drive are right");
    EmulatedFunction::new(config, &DmaDomain::new()).expect("a drive that keeps nothing can be made")
}

/// A read of one block.
fn read(number: usize) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode::nvm::READ);
    entry.nsid = 1.into();
    nvm::set_slba(&mut entry, number as u64 % (1 << 18));
    nvm::set_nlb(&mut entry, 1);
    entry
}

/// The driver as programs use it.
struct Driver {
    pair: Option<QueuePair>,
    controller: Controller,
    buffers: Vec<DmaBuffer>,
    completions: Vec<Completion>,
    depth: usize,
}

impl Driver {
    fn new(depth: usize) -> Self {
        let options = Options { queue_depth: 256, ..Options::default() };
        let mut controller = Controller::start(function(), options).expect("the drive starts");
        let pair = controller.create_io_queue_pair().expect("the drive has queues");
        let mut pool = BufferPool::new(controller.domain(), Direction::DeviceWrites, depth * BLOCK, BLOCK)
            .expect("memory");
        let buffers = (0..depth).map_while(|_| pool.take(BLOCK)).collect();
        Self { pair: Some(pair), controller, buffers, completions: Vec::with_capacity(256), depth }
    }
}

impl Subject for Driver {
    fn run(&mut self, commands: usize) {
        let pair = self.pair.as_mut().expect("it is there until this is dropped");
        // As a reactor does: one look at the clock for many commands.
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut number = 0;
        while number < commands {
            for buffer in self.buffers.drain(..) {
                pair.submit(&read(number), buffer.into(), number as u64, deadline)
                    .expect("the queue is empty");
                number += 1;
            }
            pair.ring();
            while self.buffers.len() < self.depth {
                pair.reap(&mut self.completions).expect("the drive keeps to the specification");
                for completion in self.completions.drain(..) {
                    assert!(black_box(completion.entry.status()).is_success());
                    if let gangway_driver::CommandData::Buffer(buffer) = completion.data {
                        self.buffers.push(buffer);
                    }
                }
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(pair) = self.pair.take() {
            self.controller.delete_io_queue_pair(pair).expect("the drive deletes its queues");
        }
    }
}
