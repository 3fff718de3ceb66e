//! How many system calls a reactor makes for an I/O, as the kernel counts them.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::sync::Arc;
use std::time::Duration;

use gangway_fabric::host::client::{IoQueue, Options, Transfer};
use gangway_spec::opcode::nvm;
use gangway_tests::command;
use gangway_tests::process::TargetProcess;
use gangway_tests::system_calls::{Counts, Traced};

const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a command.
const BYTES: u32 = 4096;

/// Runs `count` bursts of `depth` commands: sends all of them, then waits for all answers. The reactor does not begin
/// before it could receive all, so that it is not left to chance how many come at a time.
fn bursts(reactor: &Traced, queue: &mut IoQueue, opcode: u8, depth: usize, count: usize) {
    let data: Arc<[u8]> = vec![0x5a; BYTES as usize].into();
    for _ in 0..count {
        for index in 0..depth as u64 {
            let transfer = match opcode {
                nvm::READ => Transfer::Read(BYTES),
                _ => Transfer::Write(Arc::clone(&data)),
            };
            queue.submit(&command(opcode, index * 7, 1), transfer).unwrap();
        }
        let held = reactor.hold();
        queue.flush().unwrap();
        drop(held);
        for _ in 0..depth {
            let completed = queue.wait(PATIENCE).unwrap().expect("a completion in time");
            assert!(completed.entry.status().is_success(), "{}", completed.entry.status());
        }
    }
}

/// What the reactor calls the kernel for in `count` bursts.
fn calls(reactor: &Traced, queue: &mut IoQueue, opcode: u8, depth: usize, count: usize) -> Counts {
    let before = reactor.counts();
    bursts(reactor, queue, opcode, depth, count);
    reactor.counts().since(&before)
}

/// Asserts that a reactor makes few system calls for each I/O. With `adaptive` polling it also looks for events while
/// it spins, for as long as there is nothing else to be done; how often is a matter of time, and these do not count.
fn few_calls(poll: &str, options: &Options) {
    const BURSTS: usize = 10;
    const ROUNDS: usize = 15;
    // A write whose data is asked for is two exchanges: the command and its R2T, the data and the response.
    let exchanges = if options.in_capsule { 1.0 } else { 2.0 };
    let target = TargetProcess::start(env!("CARGO_BIN_EXE_gangway-test-target"), poll);
    let [reactor] = target.reactors()[..] else { panic!("one reactor") };
    let mut admin = target.host(1, &Options { queue_size: 129, ..options.clone() });
    let mut queue = admin.connect_io(1).unwrap();
    let reactor = match Traced::begin(reactor, poll == "adaptive") {
        Ok(traced) => traced,
        Err(error) => panic!(
            "the kernel does not let this test count system calls by ptrace: {error}. Allow it: `sysctl \
             kernel.yama.ptrace_scope` must be 0 or 1; a container's seccomp profile must let ptrace pass (`docker run \
             --cap-add SYS_PTRACE`); PTRACE_GET_SYSCALL_INFO needs Linux 5.3"
        ),
    };
    let mut failures = Vec::new();
    for (depth, most) in [(32, 0.25), (128, 0.1)] {
        for (opcode, name, most) in [(nvm::READ, "read", most), (nvm::WRITE, "write", most * exchanges)] {
            bursts(&reactor, &mut queue, opcode, depth, 3 * BURSTS);
            let mut rounds: Vec<Counts> =
                (0..ROUNDS).map(|_| calls(&reactor, &mut queue, opcode, depth, BURSTS)).collect();
            // What does not fit the sockets' buffers comes in pieces, now and then in more than it must.
            rounds.sort_by_key(Counts::work);
            let median = &rounds[ROUNDS / 2];
            let each = median.work() as f64 / (depth * BURSTS) as f64;
            let line = format!("{poll}, depth {depth}, {name}: {each:.3} calls per I/O ({median:?})");
            println!("{line}");
            if each > most {
                failures.push(format!("at most {most} are allowed: {line}"));
            }
        }
    }
    drop((queue, admin, target));
    reactor.ended();
    assert!(failures.is_empty(), "too many system calls:\n{}", failures.join("\n"));
}

#[test]
fn a_reactor_that_never_spins_makes_few_system_calls() {
    few_calls("never", &Options::default());
}

#[test]
fn a_reactor_that_spins_while_it_pays_makes_few_system_calls() {
    few_calls("adaptive", &Options::default());
}

#[test]
fn digests_and_r2ts_cost_few_system_calls() {
    few_calls("never", &Options { header_digest: true, data_digest: true, ..Options::default() });
    few_calls("never", &Options { in_capsule: false, ..Options::default() });
}
