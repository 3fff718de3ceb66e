//! Exit codes and what is printed.

use clap::Parser;

use super::*;
use crate::fake::{Fake, Kernel};

const ONE: &str = "0000:01:00.0";

#[derive(Debug, Parser)]
enum Line {
    Bind(Bind),
    Unbind(Unbind),
}

fn machine() -> Fake {
    let fake = Fake::new();
    fake.drive(ONE, 11, "nvme0");
    fake.namespace(ONE, "nvme0", "nvme0n1", 1, 2048);
    fake
}

fn run(fake: &Fake, kernel: &mut Kernel<'_>, direction: Direction, arguments: &[&str]) -> Exit {
    let command = if direction == Direction::Bind { "bind" } else { "unbind" };
    match Line::parse_from([&["gangway", command], arguments].concat()) {
        Line::Bind(bind) => bind.run(&fake.roots, kernel).unwrap(),
        Line::Unbind(unbind) => unbind.run(&fake.roots, kernel).unwrap(),
    }
}

fn report(fake: &Fake, kernel: &mut Kernel<'_>, dry_run: bool) -> Report {
    binding::bind(&fake.roots, kernel, &[ONE.parse().unwrap()], &Options { dry_run, ..Options::default() })
}

#[test]
fn the_exit_code_says_what_happened() {
    let fake = machine();
    let mut kernel = Kernel::new(&fake);
    assert_eq!(run(&fake, &mut kernel, Direction::Bind, &["nvme0"]), Exit::Usage);
    assert_eq!(run(&fake, &mut kernel, Direction::Bind, &["0000:99:00.0"]), Exit::Failure);
    assert_eq!(run(&fake, &mut kernel, Direction::Bind, &[ONE, "--dry-run"]), Exit::Success);
    assert_eq!(run(&fake, &mut kernel, Direction::Bind, &["pci:01:00.0"]), Exit::Success);
    assert_eq!(run(&fake, &mut kernel, Direction::Bind, &[ONE, "--output", "json"]), Exit::Success);
    fake.process(70, "gangway", 1);
    fake.open(70, 8, "vfio/11");
    assert_eq!(run(&fake, &mut kernel, Direction::Unbind, &[ONE]), Exit::InUse);
    fake.remove("proc/70");
    assert_eq!(run(&fake, &mut kernel, Direction::Unbind, &[ONE]), Exit::Success);
    assert_eq!(run(&fake, &mut kernel, Direction::Unbind, &[ONE]), Exit::Success);
}

#[test]
fn a_drive_in_use_has_an_exit_code_of_its_own() {
    let fake = machine();
    fake.mount("nvme0n1", "/mnt");
    assert_eq!(run(&fake, &mut Kernel::new(&fake), Direction::Bind, &[ONE]), Exit::InUse);
}

#[test]
fn a_step_that_fails_is_a_failure() {
    let fake = machine();
    let mut kernel = Kernel::new(&fake);
    kernel.failing.insert("vfio-pci/bind".into(), std::io::ErrorKind::Other);
    assert_eq!(run(&fake, &mut kernel, Direction::Bind, &[ONE]), Exit::Failure);
}

#[test]
fn one_mistaken_argument_keeps_all_from_being_touched() {
    let fake = machine();
    let mut kernel = Kernel::new(&fake);
    assert_eq!(run(&fake, &mut kernel, Direction::Bind, &[ONE, "rubbish"]), Exit::Usage);
    assert!(kernel.journal.is_empty());
}

#[test]
fn sentences_say_driver_group_and_node() {
    let fake = machine();
    let done = report(&fake, &mut Kernel::new(&fake), false);
    let node = fake.roots.dev.join("vfio/11");
    assert_eq!(
        sentence(&done.outcomes[0], Direction::Bind),
        format!("0000:01:00.0: bound to vfio-pci (IOMMU group 11, {}); before: nvme", node.display())
    );
    let again = report(&fake, &mut Kernel::new(&fake), false);
    assert!(sentence(&again.outcomes[0], Direction::Bind).contains("already bound"));
}

#[test]
fn json_says_result_and_reasons() {
    let fake = machine();
    fake.mount("nvme0n1", "/mnt");
    let refused = report(&fake, &mut Kernel::new(&fake), false);
    let json = serde_json::to_value(json(&refused, Direction::Bind)).unwrap();
    assert_eq!(json[0]["Address"], ONE);
    assert_eq!(json[0]["Result"], "refused");
    assert_eq!(json[0]["Reasons"][0]["InUse"], true);
    assert!(json[0]["Reasons"][0]["Text"].as_str().unwrap().contains("/mnt"));
}
