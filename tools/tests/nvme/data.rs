//! Commands for blocks, and passthrough.

use std::fs;

use crate::support::{Lab, Serve, arg, run, run_with};

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 512 + index % 251) as u8).collect()
}

/// On a drive of this process, and through a target.
#[test]
fn what_is_written_is_read_compared_and_zeroed() {
    for remote in [false, true] {
        let lab = Lab::new();
        let drive = lab.drive("size=16MiB,block=512");
        let serve = remote.then(|| Serve::start(&drive, &[]));
        let device = serve.as_ref().map_or(drive.as_str(), |serve| &serve.device);
        // More than one command takes.
        let data = pattern(5 << 20);
        let (source, copy) = (lab.path("source"), lab.path("copy"));
        fs::write(&source, &data).unwrap();
        run("write", device, &["-s", "8", "-d", arg(&source), "--yes"]).good();
        run("read", device, &["-s", "8", "-c", "10239", "-d", arg(&copy)]).good();
        assert_eq!(fs::read(&copy).unwrap(), data, "remote: {remote}");
        let one = run("read", device, &["--start-block", "9", "--data-size", "512"]).good();
        assert_eq!(one.stdout, data[512..1024]);
        run("compare", device, &["-s", "8", "-d", arg(&source)]).good();
        run("write-zeroes", device, &["-s", "9", "-c", "1", "--yes"]).good();
        run("compare", device, &["-s", "8", "-d", arg(&source)]).refused(1, "Compare Failure");
        let zeroed = run("read", device, &["-s", "8", "-c", "3"]).good().stdout;
        assert_eq!(zeroed[..512], data[..512]);
        assert_eq!(zeroed[512..1536], [0; 1024]);
        assert_eq!(zeroed[1536..], data[1536..2048]);
        run("flush", device, &[]).good();
        run("dsm", device, &["--ad", "-s", "8,20", "-b", "1,2", "--yes"]).good();
        assert_eq!(run("read", device, &["-s", "8"]).good().stdout, [0; 512]);
    }
}

#[test]
fn data_may_come_from_standard_input() {
    let lab = Lab::new();
    let device = lab.drive("size=1MiB");
    run_with(&pattern(8192), "write", &device, &["-c", "1", "--yes"]).good();
    run_with(&pattern(8192), "compare", &device, &["-z", "8192"]).good();
    run_with(&pattern(100), "write", &device, &["-c", "0", "--yes"])
        .refused(1, "has 100 bytes, and 4096 are needed");
    run_with(&pattern(100), "write", &device, &["--yes"]).refused(1, "no whole number of blocks");
}

#[test]
fn a_range_beyond_the_end_is_refused_before_anything_is_done() {
    let device = "emulated:size=1MiB";
    run("read", device, &["-s", "255", "-c", "1"]).refused(1, "namespace 1 has 256 blocks");
    run("write-zeroes", device, &["-s", "0xffffffffffffffff", "--yes"]).refused(1, "too many");
}

#[test]
fn what_destroys_data_names_what_is_lost_and_wants_a_yes() {
    let lab = Lab::new();
    let device = lab.drive("size=1MiB,serial=KEEP1,block=512");
    let refused = run_with(&pattern(512), "write", &device, &["-z", "512"]).refused(1, "Say --yes");
    for part in ["1 blocks (0 to 0, 512 B)", "namespace 1 of 1.05 MB", "serial KEEP1"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    run("write-zeroes", &device, &[]).refused(1, "overwrites with zeroes");
    run("dsm", &device, &["-d", "-s", "0", "-b", "8"]).refused(1, "gives up the data of 8 blocks");
    run("io-passthru", &device, &["-o", "1", "-n", "1", "-l", "512"])
        .refused(1, "Write may change or destroy data");
    run("admin-passthru", &device, &["-o", "0xc1"])
        .refused(1, "admin command C1h may change or destroy data");
    run("set-feature", &device, &["-f", "0xc1", "-v", "1"]).refused(1, "Nobody but its vendor knows");
    assert_eq!(run("read", &device, &[]).good().stdout, [0; 512]);
}

#[test]
fn any_command_can_be_sent() {
    let lab = Lab::new();
    let device = lab.drive("size=1MiB,serial=ANY1");
    let identify = ["-o", "0x06", "--cdw10=1", "-l", "4096", "-r", "-b"];
    assert_eq!(run("admin-passthru", &device, &identify).good().stdout[4..8], *b"ANY1");
    let source = lab.path("block");
    fs::write(&source, pattern(4096)).unwrap();
    let write = ["-o", "1", "-n", "1", "-l", "4096", "-w", "-i", arg(&source), "--yes"];
    run("io-passthru", &device, &write).good();
    let read =
        run("io-passthru", &device, &["--opcode=2", "--namespace-id=1", "--data-len=4096", "-b"]).good();
    assert_eq!(read.stdout, pattern(4096));
    run("io-passthru", &device, &["-o", "2", "-n", "7", "-l", "4096"])
        .refused(1, "Invalid Namespace or Format");
    run("admin-passthru", &device, &["-o", "5", "--yes"]).refused(1, "belongs to the driver");
    let shown = run("admin-passthru", &device, &["-o", "0x80", "--dry-run"]).good();
    assert!(shown.stderr.contains("Format NVM (opcode 80h)"), "{}", shown.stderr);
}

#[test]
fn a_feature_is_set_and_the_drive_forgets_it_unless_it_is_saved() {
    let lab = Lab::new();
    let device = lab.drive("size=1MiB");
    let set = run("set-feature", &device, &["-f", "4", "-v", "0x150"]).good();
    assert!(set.stderr.contains("the drive forgets this"), "{}", set.stderr);
    run("set-feature", &device, &["-f", "7", "-v", "1"]).refused(1, "belongs to the driver");
}

#[test]
fn a_target_that_refuses_is_named_with_the_way_out() {
    let serve = Serve::start("emulated:size=1MiB", &[]);
    let refused = run("set-feature", &serve.device, &["-f", "4", "-v", "0x150"]);
    refused.refused(1, "run the command on the machine that has the drive");
}

/// Through a target: a drive of this process lives as long as one command does.
#[test]
fn commands_of_a_vendor_store_data_and_give_it_back() {
    let lab = Lab::new();
    let serve = Serve::start("emulated:size=16MiB,vendor", &["--allow", "vendor"]);
    let (source, data) = (lab.path("source"), pattern(8192));
    fs::write(&source, &data).unwrap();
    let store = ["-o", "0xc1", "-l", "8192", "-4", "2048", "-6", "4096", "-w", "-i", arg(&source), "--yes"];
    run("admin-passthru", &serve.device, &store).good();
    let fetch = ["-o", "0xc2", "-l", "8192", "-4", "2048", "-6", "4096", "-r", "-b", "--yes"];
    assert_eq!(run("admin-passthru", &serve.device, &fetch).good().stdout, data);
}
