//! Hosts that fall silent.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gangway_fabric::host::client::{AdminQueue, Options};
use gangway_spec::SubmissionQueueEntry;
use gangway_spec::feature::fid;
use gangway_spec::opcode::admin;
use gangway_tests::{Bystander, TestTarget, eventually, identity, pattern, subsystem};

/// Says to a process of this test that it is a host, and where its target is.
const TARGET: &str = "GANGWAY_TEST_TARGET";

fn options(kato: Duration) -> Options {
    Options { kato, ..Options::default() }
}

/// Sends a signal to one process, which this test started.
fn signal(child: &Child, name: &str) {
    let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", child.id())).status().unwrap();
    assert!(sent.success());
}

#[test]
#[ignore = "a process that another test starts"]
fn a_host_in_a_process_of_its_own() {
    let Ok(address) = std::env::var(TARGET) else { return };
    let address = address.parse().unwrap();
    let options = options(Duration::from_secs(2));
    let mut admin = AdminQueue::connect(address, &subsystem(0), &identity(3), &options).unwrap();
    admin.enable().unwrap();
    let mut queue = admin.connect_io(1).unwrap();
    let say = |what: &str| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "\nhost: {what}").unwrap();
        out.flush().unwrap();
    };
    let mut round = 0;
    loop {
        round += 1;
        let data = pattern(300, round, 8192);
        let outcome = queue
            .write_blocks(1, 300, 4096, &data)
            .and_then(|()| queue.read_blocks(1, 300, 2, 4096))
            .and_then(|read| admin.keep_alive().map(|()| read));
        match outcome {
            Ok(read) => assert!(read == data),
            Err(_) => return say("gone"),
        }
        if round == 3 {
            say("working");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A host in a process of its own, ended with it.
struct HostProcess(Child);

impl HostProcess {
    fn start(target: &TestTarget) -> (Self, impl FnMut(&str)) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "a_host_in_a_process_of_its_own"])
            .env(TARGET, target.address.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wait_for = move |what: &str| {
            let line = format!("host: {what}");
            assert!(lines.any(|said| said.unwrap() == line), "the host does not say \"{what}\"");
        };
        (Self(child), wait_for)
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_host_that_is_stopped_is_torn_down_and_others_go_on() {
    let target = TestTarget::start();
    let bystander = Bystander::start(&target, 1, 0);
    let (process, mut wait_for) = HostProcess::start(&target);
    wait_for("working");
    assert_eq!(target.associations(), 2);
    signal(&process.0, "STOP");
    eventually("the association of the stopped host ends", || target.associations() == 1);
    bystander.assert_goes_on();
    // Its queue identifiers and its name are free for its successor, while it is still stopped.
    let (_admin, mut queue) = target.queue(3);
    queue.write_blocks(1, 400, 4096, &[1; 4096]).unwrap();
    // When it wakes up it finds that it has no connection any more.
    signal(&process.0, "CONT");
    wait_for("gone");
    bystander.finish();
}

#[test]
fn a_host_that_says_nothing_for_its_keep_alive_time_is_gone_with_its_queues() {
    let target = TestTarget::start();
    let mut admin = target.host_with(1, 0, &options(Duration::from_millis(700)));
    let mut queue = admin.connect_io(1).unwrap();
    let start = Instant::now();
    eventually("the association ends", || target.associations() == 0);
    assert!(start.elapsed() < Duration::from_secs(15));
    assert!(queue.read_blocks(1, 0, 1, 4096).is_err(), "the I/O queue is closed");
    assert!(admin.keep_alive().is_err(), "the admin queue is closed");
}

#[test]
fn without_a_keep_alive_time_a_host_may_be_silent() {
    let target = TestTarget::start();
    let (mut admin, mut queue) = target.queue(1);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(target.associations(), 1);
    queue.read_blocks(1, 0, 1, 4096).unwrap();
    admin.keep_alive().unwrap();
}

#[test]
fn commands_on_an_io_queue_are_signs_of_life() {
    let target = TestTarget::start();
    let mut admin = target.host_with(1, 0, &options(Duration::from_secs(2)));
    let mut queue = admin.connect_io(1).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        queue.read_blocks(1, 0, 1, 4096).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(target.associations(), 1);
    admin.keep_alive().unwrap();
}

#[test]
fn the_keep_alive_time_can_be_changed_while_connected() {
    let target = TestTarget::start();
    let mut admin = target.host(1);
    let mut set = SubmissionQueueEntry::new(admin::SET_FEATURES);
    set.cdw10.set(fid::KEEP_ALIVE_TIMER.into());
    set.cdw11.set(650);
    let (entry, _) = admin.command(&set, gangway_fabric::host::client::Transfer::None).unwrap();
    assert!(entry.status().is_success());
    let mut get = SubmissionQueueEntry::new(admin::GET_FEATURES);
    get.cdw10.set(fid::KEEP_ALIVE_TIMER.into());
    let (entry, _) = admin.command(&get, gangway_fabric::host::client::Transfer::None).unwrap();
    assert_eq!(entry.dw0.get(), 700, "rounded up to the granularity");
    eventually("the association ends", || target.associations() == 0);
}

#[test]
fn a_host_that_never_says_what_its_connection_is_for_holds_up_nobody() {
    let target = TestTarget::start();
    let silent: Vec<_> = (0..40).map(|_| std::net::TcpStream::connect(target.address).unwrap()).collect();
    let bystander = Bystander::start(&target, 1, 0);
    bystander.finish();
    let mut first = &silent[0];
    first.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!(first.read(&mut [0; 8]).unwrap_or(0), 0, "the connection is closed after a while");
}
