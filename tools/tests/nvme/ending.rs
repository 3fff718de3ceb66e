//! How `gangway serve` ends.

use std::thread;

use rustix::process::Signal;

use crate::support::{Serve, run};

const BLOCK: [&str; 6] = ["-s", "0", "-c", "0", "-z", "4096"];

#[test]
fn a_signal_ends_it_in_order() {
    for signal in [Signal::INT, Signal::TERM] {
        let serve = Serve::start("emulated:size=1MiB", &[]);
        run("read", &serve.device, &BLOCK).good();
        serve.signal(signal);
        let ended = serve.end();
        assert_eq!(ended.code, 0, "{}", ended.stderr);
    }
}

#[test]
fn a_drive_that_is_gone_at_the_end_is_named() {
    let serve = Serve::start("emulated:size=1MiB,fault=remove:write-zeroes", &[]);
    let device = serve.device.clone();
    let writer = thread::spawn(move || run("write-zeroes", &device, &["-s", "0", "-c", "0", "--yes"]));
    serve.wait_for("the drive is gone");
    serve.signal(Signal::TERM);
    let ended = serve.end();
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("not shut down in order: emulated:"), "{}", ended.stderr);
    assert_ne!(writer.join().unwrap().code, 0);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    // The drive takes this long to stop.
    let serve = Serve::start("emulated:size=1MiB,fault=not-disabled,ready-timeout=60s", &[]);
    run("read", &serve.device, &BLOCK).good();
    serve.signal(Signal::TERM);
    serve.wait_for("a second signal ends at once");
    serve.signal(Signal::TERM);
    let ended = serve.end();
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert!(ended.stderr.contains("they are left as they are"), "{}", ended.stderr);
}

#[test]
fn two_controllers_of_one_drive_are_not_served_side_by_side() {
    let devices = ["--listen", "127.0.0.1:0", "--device", "emulated:size=1MiB,serial=ONE", "--nqn"];
    let other = ["nqn.2014-08.org.example:a", "--device", "emulated:size=1MiB,serial=ONE"];
    run("serve", devices[0], &[&devices[1..], &other].concat()).refused(1, "two controllers of one drive");
}

#[test]
fn a_congestion_control_that_there_is_not_is_named_and_so_is_where_to_look() {
    let options = ["--congestion-control", "gangway", "--device", "emulated:size=1MiB"];
    run("serve", "--listen", &[&["127.0.0.1:0"], &options[..]].concat())
        .refused(1, "tcp_available_congestion_control");
}
