//! Commands that change a drive for good.

use std::fs;

use serde_json::json;

use crate::support::{Lab, Serve, arg, run};

#[test]
fn what_erases_says_all_that_would_be_lost_and_wants_a_yes() {
    let device = "emulated:size=1MiB,namespaces=2,serial=ERASE1";
    let victim = "Gangway Emulated NVMe Drive (serial ERASE1, emulated:";
    for (command, arguments, lost) in [
        ("format", &["-n", "2"][..], "namespace 2 of 1.05 MB of "),
        ("format", &["-n", "0xffffffff", "-l", "0"], "all namespaces (1 of 1.05 MB, 2 of 1.05 MB) of "),
        ("delete-ns", &["-n", "1"], "namespace 1 of 1.05 MB of "),
        ("sanitize", &["-a", "start-crypto-erase"], "all namespaces (1 of 1.05 MB, 2 of 1.05 MB) of "),
        ("sanitize", &["-a", "2"], "beyond recovery: all data of the whole drive will be lost"),
        ("fw-commit", &["-s", "2", "-a", "3"], "activates the firmware in slot 2 at once"),
    ] {
        let refused = run(command, device, arguments).refused(1, "Say --yes");
        assert!(refused.stderr.contains(lost) && refused.stderr.contains(victim), "{}", refused.stderr);
    }
}

#[test]
fn nothing_is_formatted_when_it_is_not_clear_what() {
    run("format", "emulated:size=1MiB,namespaces=2", &["--yes"]).refused(1, "say which with -n (1, 2)");
    run("format", "emulated:size=1MiB", &["--block-size", "1000", "--yes"])
        .refused(1, "no LBA format has blocks of 1000");
    run("format", "emulated:size=1MiB", &["-l", "63", "--yes"]).refused(1, "there are LBA formats 0 to");
    run("delete-ns", "emulated:size=1MiB", &["--yes"]).refused(2, "--namespace-id");
    run("sanitize", "emulated:size=1MiB", &["--yes"]).refused(2, "--sanact");
}

#[test]
fn an_image_that_would_be_forgotten_is_not_sent() {
    let lab = Lab::new();
    let image = lab.path("image");
    fs::write(&image, [7; 8192]).unwrap();
    let refused = run("fw-download", "emulated:size=1MiB", &["-f", arg(&image)]);
    refused.refused(1, "gangway fw-commit --fw");
    fs::write(&image, [7; 10]).unwrap();
    run("fw-commit", "emulated:size=1MiB", &["-f", arg(&image), "--yes"]).refused(1, "a multiple of 4");
}

#[test]
fn a_subsystem_is_reset_where_the_drive_is_and_not_from_afar() {
    run("subsystem-reset", "emulated:size=1MiB", &[]).good();
    run("reset", "emulated:size=1MiB", &[]).good();
    let serve = Serve::start("emulated:size=1MiB", &[]);
    run("subsystem-reset", &serve.device, &[]).refused(1, "run this on the machine that has the drive");
    run("id-ctrl", &serve.device, &[]).good();
}

#[test]
fn a_target_that_does_not_allow_a_format_is_named_with_the_way_out() {
    let serve = Serve::start("emulated:size=1MiB", &[]);
    let refused = run("format", &serve.device, &["--yes"]).refused(1, "have it served with `--allow`");
    assert!(refused.stderr.contains("(SCT "), "{}", refused.stderr);
}

#[test]
fn an_image_is_sent_and_runs_after_a_reset_or_at_once() {
    let lab = Lab::new();
    let image = lab.path("image");
    let mut bytes = vec![7; 16384];
    bytes[..16].copy_from_slice(b"9.8     GWFWIMG1");
    bytes[16..20].copy_from_slice(&16384u32.to_le_bytes());
    bytes[20..24].fill(0);
    fs::write(&image, &bytes).unwrap();
    let serve = Serve::start("emulated:size=1MiB", &["--allow", "firmware"]);
    let device = serve.device.as_str();
    run("fw-download", device, &["-f", arg(&image), "-x", "4096"]).good();
    run("fw-commit", device, &["-s", "2", "-a", "1", "--yes"]).good();
    let log = run("fw-log", device, &["--output", "json"]).good().text();
    assert!(log.contains("9.8"), "{log}");
    run("fw-commit", device, &["-s", "2", "-a", "3", "--yes"]).good();
    let controller = run("id-ctrl", device, &["--output", "json"]).good().json();
    assert_eq!(controller["fr"].as_str().unwrap().trim(), "9.8");
    // On a drive of this machine one run does both.
    run("fw-commit", "emulated:size=1MiB", &["-f", arg(&image), "-s", "2", "-a", "1", "--yes"]).good();
    let read_only = ["-f", arg(&image), "-s", "1", "--yes"];
    run("fw-commit", "emulated:size=1MiB", &read_only).refused(1, "Invalid Firmware Slot");
}

#[test]
fn a_self_test_is_waited_for_and_its_result_stays_in_the_log() {
    let device = "emulated:size=1MiB,operation=300ms";
    let waited = run("device-self-test", device, &["-s", "1"]).good();
    assert!(waited.text().contains("passed"), "{}", waited.text());

    let serve = Serve::start(device, &["--allow", "tune"]);
    let device = serve.device.as_str();
    assert!(run("device-self-test", device, &[]).good().text().contains("no self-test runs"));
    run("device-self-test", device, &["-s", "2", "--wait"]).good();
    run("device-self-test", device, &["-s", "1", "--wait"]).good();
    let log = run("self-test-log", device, &["--output", "json"]).good().json();
    let report = |at: usize| {
        (
            &log["List of Valid Reports"][at]["Self test code"],
            &log["List of Valid Reports"][at]["Self test result"],
        )
    };
    assert_eq!(report(0), (&json!(1), &json!(0)), "the latest comes first: {log}");
    assert_eq!(report(1), (&json!(2), &json!(0)), "{log}");
    assert_eq!(report(2).1, &json!(15), "an empty place: {log}");
}

#[test]
fn a_self_test_can_be_watched_and_ended() {
    let serve = Serve::start("emulated:size=1MiB,operation=60s", &["--allow", "tune"]);
    let device = serve.device.as_str();
    run("device-self-test", device, &["-s", "2"]).good();
    assert!(run("device-self-test", device, &[]).good().text().contains("an extended self-test runs"));
    run("device-self-test", device, &["-s", "1"]).refused(1, "Self-test In Progress");
    run("device-self-test", device, &["-s", "0xf"]).good();
    assert!(run("device-self-test", device, &[]).good().text().contains("no self-test runs"));
}

#[test]
fn a_sanitize_is_waited_for_and_leaves_nothing() {
    let lab = Lab::new();
    let secret = lab.path("secret");
    fs::write(&secret, [0x5a; 4096]).unwrap();
    let serve = Serve::start("emulated:size=1MiB,operation=300ms", &["--allow", "manage"]);
    let device = serve.device.as_str();
    let block = ["-s", "0", "-c", "0", "-z", "4096"];
    run("write", device, &[&block[..], &["-d", arg(&secret), "--yes"]].concat()).good();
    assert_eq!(run("read", device, &block).good().stdout, [0x5a; 4096]);
    let done = run("sanitize", device, &["-a", "start-block-erase", "--yes"]).good();
    assert!(done.stderr.contains("sanitize: "), "{}", done.stderr);
    assert_eq!(run("read", device, &block).good().stdout, [0; 4096]);
    let log = run("sanitize-log", device, &["--output", "json"]).good().text();
    assert!(log.contains("sprog") && log.contains("65535"), "{log}");
}
