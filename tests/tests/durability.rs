//! What was written is there tomorrow, and what cannot be written is said.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gangway_driver::emulated::{Backing, EmulatedConfig};
use gangway_fabric::host::client::{HostError, Transfer};
use gangway_spec::Status;
use gangway_spec::opcode::nvm;
use gangway_tests::wire::{Wire, capsule};
use gangway_tests::{Setup, TestTarget, command, identity, pattern, subsystem};

/// Says to a process of this test where its small file system is.
const FULL: &str = "GANGWAY_TEST_FULL";
const SIZE: u64 = 16 << 20;

fn in_file(path: &Path) -> EmulatedConfig {
    EmulatedConfig { size: SIZE, backing: Backing::File(path.to_owned()), ..EmulatedConfig::default() }
}

fn serve(drive: EmulatedConfig) -> TestTarget {
    TestTarget::with(Setup { drives: vec![drive], ..Setup::default() })
}

#[test]
fn data_is_there_after_the_target_was_shut_down_and_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    let mut serial = None;
    for round in 0..4_u64 {
        let target = serve(in_file(&path));
        let (mut admin, mut queue) = target.queue(1);
        let identify = admin.identify_controller().unwrap();
        assert_eq!(*serial.get_or_insert(identify.sn), identify.sn, "it is the same drive");
        for (lba, blocks) in [(0, 1_u32), (7, 33), (1000, 256)] {
            let length = blocks as usize * 4096;
            if round > 0 {
                let read = queue.read_blocks(1, lba, blocks, 4096).unwrap();
                assert!(read == pattern(lba, round - 1, length), "round {round}: {blocks} blocks at {lba}");
            }
            queue.write_blocks(1, lba, 4096, &pattern(lba, round, length)).unwrap();
        }
        if round % 2 == 0 {
            queue.flush_namespace(1).unwrap();
        }
        target.assert_no_violations();
        target.shutdown();
    }
}

#[test]
fn writes_that_are_in_flight_at_the_end_are_finished_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    let target = serve(EmulatedConfig { latency: Some(Duration::from_millis(800)), ..in_file(&path) });
    let host = identity(1);
    let (_admin, cntlid) = Wire::admin(target.address, &subsystem(0), &host);
    let mut wire = Wire::io(target.address, cntlid, 1, &subsystem(0), &host);
    for lba in 0..40 {
        wire.send(&capsule(command(nvm::WRITE, lba, 1), &pattern(lba, 9, 4096)));
    }
    // When this is answered, all before it is with the drive.
    assert_eq!(wire.status(&capsule(command(0x03, 0, 1), &[])), Status::INVALID_OPCODE.with_dnr());
    target.shutdown();
    wire.drain();
    let target = serve(in_file(&path));
    let (_admin, mut queue) = target.queue(1);
    for lba in 0..40 {
        assert!(queue.read_blocks(1, lba, 1, 4096).unwrap() == pattern(lba, 9, 4096), "block {lba}");
    }
}

#[test]
fn a_write_with_fua_is_in_the_file_when_it_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    let target = serve(in_file(&path));
    let (_admin, mut queue) = target.queue(1);
    let mut write = command(nvm::WRITE, 3, 2);
    write.cdw12.set(write.cdw12.get() | 1 << 30);
    let data = pattern(3, 1, 8192);
    let completed = queue.execute(&write, Transfer::Write(data.clone().into())).unwrap();
    assert!(completed.entry.status().is_success());
    let file = std::fs::read(&path).unwrap();
    assert!(file[3 * 4096..][..8192] == data);
}

#[test]
fn a_file_that_somebody_truncates_gives_a_status() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    let target = serve(in_file(&path));
    let (_admin, mut queue) = target.queue(1);
    queue.write_blocks(1, 0, 4096, &[1; 4096]).unwrap();
    queue.write_blocks(1, 1000, 4096, &[2; 8192]).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1001 * 4096 + 100).unwrap();
    for (lba, blocks) in [(1001, 1), (1000, 2), (2000, 200)] {
        let Err(HostError::Command { status, .. }) = queue.read_blocks(1, lba, blocks, 4096) else {
            panic!("{blocks} blocks at {lba} can be read although they are gone");
        };
        assert!(status.is(Status::UNRECOVERED_READ_ERROR), "{blocks} blocks at {lba}: {status}");
    }
    assert_eq!(queue.read_blocks(1, 0, 1, 4096).unwrap(), [1; 4096], "what is left can be read");
    assert_eq!(queue.read_blocks(1, 1000, 1, 4096).unwrap(), [2; 4096]);
}

#[test]
fn a_disk_that_is_full_gives_a_status() {
    // A small file system in a mount namespace that ends with this process. Without root it takes a user namespace.
    let folder = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=2M tmpfs "$GANGWAY_TEST_FULL" && exec "$0" "$@""#;
    let me = std::env::current_exe().unwrap();
    let run = |namespaces: &[&str]| {
        Command::new("unshare")
            .args(namespaces)
            .args(["sh", "-c", script])
            .arg(&me)
            .args(["--ignored", "--exact", "--nocapture", "a_target_on_a_small_file_system"])
            .env(FULL, folder.path())
            .output()
            .unwrap()
    };
    let mut output = run(&["--mount"]);
    if !String::from_utf8_lossy(&output.stdout).contains("running 1 test") {
        output = run(&["--user", "--map-root-user", "--mount"]);
    }
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

#[test]
#[ignore = "a process that another test starts"]
fn a_target_on_a_small_file_system() {
    let Some(folder) = std::env::var_os(FULL) else { return };
    // The drive has room for more than its file system has.
    let target = serve(in_file(&Path::new(&folder).join("disk.img")));
    let (_admin, mut queue) = target.queue(1);
    let mut written = Vec::new();
    let mut refused = 0;
    for lba in (0..1024).step_by(16) {
        match queue.write_blocks(1, lba, 4096, &pattern(lba, 1, 1 << 16)) {
            Ok(()) => written.push(lba),
            Err(HostError::Command { status, .. }) => {
                assert!(status.is(Status::CAPACITY_EXCEEDED), "{status}");
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(!written.is_empty() && refused > 0, "{} written, {refused} refused", written.len());
    for lba in written {
        assert!(queue.read_blocks(1, lba, 16, 4096).unwrap() == pattern(lba, 1, 1 << 16), "block {lba}");
    }
}
