//! Standing bindings on a faked machine: made, restored at boot, ended.

use super::*;
use crate::{
    binding::{Owner, bind, unbind},
    fake::{Fake, Kernel},
};

const ONE: &str = "0000:01:00.0";
const TWO: &str = "0000:01:00.1";
const RULE: &str = "etc/udev/rules.d/10-gangway-0000:01:00.0.rules";
const RECORD: &str = "etc/gangway/bind/0000:01:00.0";

fn address(text: &str) -> PciAddress {
    text.parse().unwrap()
}

fn persist() -> Options {
    Options { persist: true, ..Options::default() }
}

/// A machine with one drive that is bound for good.
fn machine() -> Fake {
    let fake = Fake::new();
    fake.drive(ONE, 11, "nvme0");
    fake.namespace(ONE, "nvme0", "nvme0n1", 1, 2048);
    let report = bind(&fake.roots, &mut Kernel::new(&fake), &[address(ONE)], &persist());
    assert_eq!(report.outcomes[0].status, Status::Changed, "{report:?}");
    fake
}

/// What a reboot leaves of a function: no driver, and the override that the rule has set.
fn reboot(fake: &Fake, name: &str) {
    fake.remove("run/gangway");
    fake.remove(&format!("sys/devices/pci0000:00/{name}"));
    fake.function(name, "010802", Some(11));
    fake.write(&format!("sys/devices/pci0000:00/{name}/driver_override"), "vfio-pci\n");
}

fn run(fake: &Fake, kernel: &mut Kernel<'_>) -> Report {
    restore(&fake.roots, kernel, address(ONE))
}

fn reason(outcome: &Outcome) -> String {
    assert_eq!(outcome.status, Status::Refused, "{outcome:?}");
    outcome.refusals.iter().map(Refusal::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_standing_binding_is_a_record_and_a_rule() {
    let fake = machine();
    assert!(fake.read(RULE).unwrap().contains("bind --restore 0000:01:00.0"));
    let standing = Standing::load(&fake.roots, address(ONE)).unwrap();
    assert_eq!(standing.record.serial_number.as_deref(), Some("SN-nvme0"));
    assert_eq!(standing.record.driver.as_deref(), Some("nvme"));
}

#[test]
fn the_rule_is_the_last_step_and_a_failure_takes_all_back() {
    for file in [RULE, RECORD] {
        let fake = Fake::new();
        fake.drive(ONE, 11, "nvme0");
        let mut kernel = Kernel::new(&fake);
        kernel.failing.insert(file.into(), std::io::ErrorKind::ReadOnlyFilesystem);
        let report = bind(&fake.roots, &mut kernel, &[address(ONE)], &persist());
        assert_eq!(report.outcomes[0].status, Status::Failed, "{report:?}");
        assert_eq!(fake.pci(ONE).driver.as_deref(), Some("nvme"));
        assert_eq!((fake.read(RULE), fake.read(RECORD)), (None, None));
    }
}

#[test]
fn a_drive_that_is_bound_already_becomes_persistent_without_being_touched() {
    let fake = Fake::new();
    fake.drive(ONE, 11, "nvme0");
    bind(&fake.roots, &mut Kernel::new(&fake), &[address(ONE)], &Options::default());
    let mut kernel = Kernel::new(&fake);
    let report = bind(&fake.roots, &mut kernel, &[address(ONE)], &persist());
    assert_eq!(report.outcomes[0].status, Status::Changed);
    assert_eq!(report.outcomes[0].persistent, (false, true));
    assert_eq!(kernel.journal, [format!("save {RECORD}"), format!("save {RULE}")]);
    let mut kernel = Kernel::new(&fake);
    let report = bind(&fake.roots, &mut kernel, &[address(ONE)], &persist());
    assert_eq!(report.outcomes[0].status, Status::Unchanged);
    assert_eq!(kernel.journal, Vec::<String>::new());
}

#[test]
fn a_drive_that_others_bound_is_asked_for_its_serial_number() {
    let fake = Fake::new();
    fake.function(ONE, "010802", Some(11));
    fake.set_driver(ONE, "vfio-pci");
    let mut kernel = Kernel::new(&fake);
    let report = bind(&fake.roots, &mut kernel, &[address(ONE)], &persist());
    assert_eq!(report.outcomes[0].status, Status::Failed);
    assert!(report.outcomes[0].problems[0].contains("does not answer"), "{report:?}");
    kernel.serial = Some("S1");
    bind(&fake.roots, &mut kernel, &[address(ONE)], &persist());
    let standing = Standing::load(&fake.roots, address(ONE)).unwrap();
    assert_eq!(standing.record.serial_number.as_deref(), Some("S1"));
}

#[test]
fn a_program_that_others_may_replace_is_refused_before_anything_is_done() {
    let fake = Fake::new();
    fake.drive(ONE, 11, "nvme0");
    let mut kernel = Kernel::new(&fake);
    kernel.program = Err("others than root may write to /home/alice");
    let report = bind(&fake.roots, &mut kernel, &[address(ONE)], &persist());
    assert!(reason(&report.outcomes[0]).contains("install /home/alice/gangway /usr/local/bin"));
    assert_eq!(kernel.journal, Vec::<String>::new());
}

#[test]
fn at_boot_the_drive_is_bound_then_asked_for_its_serial_number() {
    let fake = machine();
    reboot(&fake, ONE);
    let mut kernel = Kernel::new(&fake);
    kernel.serial = Some("SN-nvme0");
    let report = run(&fake, &mut kernel);
    assert_eq!(report.outcomes[0].status, Status::Changed, "{report:?}");
    assert_eq!(fake.pci(ONE).driver.as_deref(), Some("vfio-pci"));
    assert!(kernel.journal.contains(&"ask 0000:01:00.0".to_owned()), "{:?}", kernel.journal);
    // What was known of it is known again, and it is not asked twice.
    assert_eq!(Record::load(&fake.roots, &fake.pci(ONE)).unwrap().serial_number.as_deref(), Some("SN-nvme0"));
    let mut kernel = Kernel::new(&fake);
    assert_eq!(run(&fake, &mut kernel).outcomes[0].status, Status::Unchanged);
    assert_eq!(kernel.journal, Vec::<String>::new());
}

#[test]
fn a_drive_that_vfio_pci_took_by_itself_is_compared_and_remembered() {
    let fake = machine();
    reboot(&fake, ONE);
    fake.set_driver(ONE, "vfio-pci");
    fake.vfio_group(11);
    let mut kernel = Kernel::new(&fake);
    kernel.serial = Some("SN-nvme0");
    run(&fake, &mut kernel);
    assert_eq!(kernel.journal, ["ask 0000:01:00.0", "save run/gangway/bind/0000:01:00.0"]);
    let record = Record::load(&fake.roots, &fake.pci(ONE)).unwrap();
    assert_eq!((record.driver.as_deref(), record.serial_number.as_deref()), (Some("nvme"), Some("SN-nvme0")));
}

#[test]
fn a_drive_that_does_not_answer_stays_bound_and_is_reported() {
    let fake = machine();
    reboot(&fake, ONE);
    let report = run(&fake, &mut Kernel::new(&fake));
    assert_eq!(fake.pci(ONE).driver.as_deref(), Some("vfio-pci"));
    assert!(
        report.notes[0].contains("could not be compared with SN-nvme0: it does not answer"),
        "{report:?}"
    );
}

#[test]
fn another_drive_of_the_same_type_in_the_slot_goes_back_to_the_kernel() {
    let fake = machine();
    reboot(&fake, ONE);
    let mut kernel = Kernel::new(&fake);
    kernel.serial = Some("OTHER");
    let report = run(&fake, &mut kernel);
    assert!(reason(&report.outcomes[0]).contains("expected serial number SN-nvme0, found OTHER"));
    let function = fake.pci(ONE);
    assert_eq!((function.driver.as_deref(), function.driver_override), (Some("nvme"), None));
    assert!(fake.read(RULE).is_some());
}

#[test]
fn a_drive_that_the_kernel_had_first_is_compared_before_it_is_touched() {
    let fake = machine();
    reboot(&fake, ONE);
    fake.drive(ONE, 11, "nvme0");
    fake.write("sys/devices/pci0000:00/0000:01:00.0/driver_override", "vfio-pci\n");
    let mut kernel = Kernel::new(&fake);
    assert_eq!(run(&fake, &mut kernel).outcomes[0].status, Status::Changed);
    assert!(kernel.journal.iter().all(|line| !line.starts_with("ask")), "{:?}", kernel.journal);

    reboot(&fake, ONE);
    fake.drive(ONE, 11, "nvme1");
    fake.write("sys/devices/pci0000:00/0000:01:00.0/driver_override", "vfio-pci\n");
    let mut kernel = Kernel::new(&fake);
    assert!(reason(&run(&fake, &mut kernel).outcomes[0]).contains("found SN-nvme1"));
    // Only what the rule has set is taken back.
    assert_eq!(kernel.journal, ["sys/bus/pci/devices/0000:01:00.0/driver_override = \"\\n\""]);
}

#[test]
fn what_a_rule_did_that_is_gone_by_now_is_taken_back() {
    let fake = machine();
    reboot(&fake, ONE);
    fake.remove("etc/gangway");
    assert!(reason(&run(&fake, &mut Kernel::new(&fake)).outcomes[0]).contains("no standing binding"));
    let function = fake.pci(ONE);
    assert_eq!((function.driver.as_deref(), function.driver_override), (Some("nvme"), None));
}

#[test]
fn a_drive_of_another_type_is_left_to_the_kernel() {
    let fake = machine();
    reboot(&fake, ONE);
    fake.write("sys/devices/pci0000:00/0000:01:00.0/device", "0xffff\n");
    let mut kernel = Kernel::new(&fake);
    assert!(reason(&run(&fake, &mut kernel).outcomes[0]).contains("another type"));
    assert_eq!(fake.pci(ONE).driver.as_deref(), Some("nvme"));
}

#[test]
fn a_drive_that_is_in_use_by_then_is_refused() {
    let fake = machine();
    reboot(&fake, ONE);
    fake.drive(ONE, 11, "nvme0");
    fake.namespace(ONE, "nvme0", "nvme0n1", 1, 2048);
    fake.mount("nvme0n1", "/mnt");
    assert!(reason(&run(&fake, &mut Kernel::new(&fake)).outcomes[0]).contains("mounted on /mnt"));
    assert_eq!(fake.pci(ONE).driver.as_deref(), Some("nvme"));
}

#[test]
fn all_of_a_group_come_together() {
    let fake = Fake::new();
    fake.drive(ONE, 11, "nvme0");
    fake.drive(TWO, 11, "nvme1");
    bind(&fake.roots, &mut Kernel::new(&fake), &[address(ONE), address(TWO)], &persist());
    reboot(&fake, ONE);
    fake.write("run/gangway/lock", "");
    reboot(&fake, TWO);
    let mut kernel = Kernel::new(&fake);
    let report = run(&fake, &mut kernel);
    assert_eq!(report.outcomes.len(), 2);
    for name in [ONE, TWO] {
        assert_eq!(fake.pci(name).driver.as_deref(), Some("vfio-pci"), "{report:?}");
    }
}

#[test]
fn unbind_ends_it_whatever_is_in_the_slot() {
    let bound = machine();
    let replaced = machine();
    reboot(&replaced, ONE);
    let empty = machine();
    empty.remove("sys/bus/pci/devices");
    let given_back = machine();
    reboot(&given_back, ONE);
    given_back.drive(ONE, 11, "nvme0");
    for fake in [bound, replaced, empty, given_back] {
        let report = unbind(&fake.roots, &mut Kernel::new(&fake), &[address(ONE)], false);
        assert_eq!(report.outcomes[0].status, Status::Changed, "{report:?}");
        assert_eq!(report.outcomes[0].persistent, (true, false));
        assert_eq!((fake.read(RULE), fake.read(RECORD)), (None, None));
    }
}

#[test]
fn the_owner_of_the_node_is_set_kept_and_taken_back() {
    let fake = Fake::new();
    fake.write("etc/passwd", "alice:x:1001:100::/:/bin/sh\n");
    fake.drive(ONE, 11, "nvme0");
    let owner = Owner::find(&fake.roots, "alice").unwrap();
    let options = Options { owner: Some(owner), persist: true, ..Options::default() };
    let mut kernel = Kernel::new(&fake);
    bind(&fake.roots, &mut kernel, &[address(ONE)], &options);
    assert!(kernel.journal.contains(&"own dev/vfio/11 1001:0 600".to_owned()), "{:?}", kernel.journal);
    let report = bind(&fake.roots, &mut kernel, &[address(ONE)], &options);
    assert_eq!(report.outcomes[0].status, Status::Unchanged);

    reboot(&fake, ONE);
    let mut kernel = Kernel::new(&fake);
    kernel.serial = Some("SN-nvme0");
    run(&fake, &mut kernel);
    assert!(kernel.journal.contains(&"own dev/vfio/11 1001:0 600".to_owned()), "{:?}", kernel.journal);

    // On a drive that is bound already, a failure brings the old owner back.
    fake.remove("etc/gangway");
    let mut kernel = Kernel::new(&fake);
    kernel.failing.insert(RECORD.into(), std::io::ErrorKind::StorageFull);
    let report = bind(&fake.roots, &mut kernel, &[address(ONE)], &options);
    assert_eq!(report.outcomes[0].status, Status::Failed);
    assert!(kernel.journal.contains(&"own dev/vfio/11 0:0 600".to_owned()), "{:?}", kernel.journal);
    assert_eq!(fake.pci(ONE).driver.as_deref(), Some("vfio-pci"));
}
