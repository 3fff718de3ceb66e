//! Unbinding on a faked machine.

use std::io;

use super::*;
use crate::{
    binding::{Options, bind},
    fake::{Fake, Kernel},
};

const ONE: &str = "0000:01:00.0";
const TWO: &str = "0000:02:00.0";

fn addresses(all: &[&str]) -> Vec<PciAddress> {
    all.iter().map(|text| text.parse().unwrap()).collect()
}

/// Two drives, bound by us.
fn machine() -> Fake {
    let fake = Fake::new();
    fake.drive(ONE, 11, "nvme0");
    fake.namespace(ONE, "nvme0", "nvme0n1", 1, 2048);
    fake.drive(TWO, 12, "nvme1");
    bind(&fake.roots, &mut Kernel::new(&fake), &addresses(&[ONE, TWO]), &Options::default());
    fake
}

fn run(fake: &Fake, kernel: &mut Kernel<'_>, names: &[&str]) -> Report {
    unbind(&fake.roots, kernel, &addresses(names), false)
}

fn statuses(report: &Report) -> Vec<Status> {
    report.outcomes.iter().map(|outcome| outcome.status).collect()
}

fn refusal(fake: &Fake, kernel: &mut Kernel<'_>, names: &[&str]) -> String {
    let report = run(fake, kernel, names);
    assert_eq!(report.outcomes[0].status, Status::Refused, "{report:?}");
    assert_eq!(kernel.journal, Vec::<String>::new());
    report.outcomes[0].refusals.iter().map(Refusal::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_drive_goes_back_to_the_driver_it_had() {
    let fake = machine();
    let mut kernel = Kernel::new(&fake);
    let report = run(&fake, &mut kernel, &[ONE]);
    assert_eq!(statuses(&report), [Status::Changed], "{report:?}");
    assert_eq!(
        kernel.journal,
        [
            "sys/bus/pci/drivers/vfio-pci/unbind = \"0000:01:00.0\"",
            "sys/bus/pci/devices/0000:01:00.0/driver_override = \"\\n\"",
            "sys/bus/pci/drivers/nvme/bind = \"0000:01:00.0\"",
            "remove run/gangway/bind/0000:01:00.0",
        ]
    );
    let function = fake.pci(ONE);
    assert_eq!(function.driver.as_deref(), Some("nvme"));
    assert_eq!(function.driver_override, None);
    assert_eq!(report.outcomes[0].controller.as_deref(), Some("nvme7"));
    assert_eq!(report.outcomes[0].disks, ["nvme7n1"]);
    assert_eq!(Record::load(&fake.roots, &function), None);
}

#[test]
fn an_override_from_before_is_put_back_unless_it_would_keep_the_driver_away() {
    for (before, after) in [("nvme", Some("nvme")), ("vfio-pci", None)] {
        let fake = Fake::new();
        fake.drive(ONE, 11, "nvme0");
        fake.write("sys/devices/pci0000:00/0000:01:00.0/driver_override", &format!("{before}\n"));
        bind(&fake.roots, &mut Kernel::new(&fake), &addresses(&[ONE]), &Options::default());
        assert_eq!(statuses(&run(&fake, &mut Kernel::new(&fake), &[ONE])), [Status::Changed]);
        assert_eq!(fake.pci(ONE).driver.as_deref(), Some("nvme"));
        assert_eq!(fake.pci(ONE).driver_override.as_deref(), after);
    }
}

#[test]
fn a_drive_that_others_bound_goes_to_the_kernels_driver() {
    let fake = machine();
    fake.remove("run/gangway");
    assert_eq!(statuses(&run(&fake, &mut Kernel::new(&fake), &[ONE])), [Status::Changed]);
}

#[test]
fn a_drive_that_is_back_already_is_left_as_it_is() {
    let fake = machine();
    run(&fake, &mut Kernel::new(&fake), &[ONE]);
    let mut kernel = Kernel::new(&fake);
    let report = run(&fake, &mut kernel, &[ONE]);
    assert_eq!(statuses(&report), [Status::Unchanged]);
    assert_eq!(report.outcomes[0].controller.as_deref(), Some("nvme7"));
    assert!(kernel.journal.is_empty());
}

#[test]
fn a_drive_that_a_process_drives_is_refused_and_the_process_named() {
    let fake = machine();
    fake.process(70, "gangway", 1);
    fake.open(70, 8, "vfio/11");
    let mut kernel = Kernel::new(&fake);
    let report = run(&fake, &mut kernel, &[ONE, TWO]);
    assert_eq!(statuses(&report), [Status::Refused, Status::Withheld]);
    let refusal = &report.outcomes[0].refusals[0];
    assert!(refusal.is_use() && refusal.to_string().contains("gangway (pid 70)"), "{refusal}");
    assert!(kernel.journal.is_empty());
}

#[test]
fn a_group_held_by_nobody_we_can_see_is_refused_as_well() {
    let fake = machine();
    let mut kernel = Kernel::new(&fake);
    kernel.group_is_busy = true;
    assert!(refusal(&fake, &mut kernel, &[ONE]).contains("cannot be seen from here"));
}

#[test]
fn other_drivers_and_other_functions_are_left_alone() {
    let fake = machine();
    fake.function("0000:05:00.0", "020000", Some(5));
    fake.set_driver("0000:05:00.0", "vfio-pci");
    fake.function("0000:06:00.0", "010802", Some(6));
    fake.set_driver("0000:06:00.0", "uio_pci_generic");
    fake.function("0000:07:00.0", "010802", Some(7));
    let mut kernel = Kernel::new(&fake);
    assert!(refusal(&fake, &mut kernel, &["0000:05:00.0"]).contains("not an NVMe function"));
    assert!(refusal(&fake, &mut kernel, &["0000:06:00.0"]).contains("'uio_pci_generic'"));
    assert!(refusal(&fake, &mut kernel, &["0000:07:00.0"]).contains("drivers_probe"));
}

#[test]
fn the_kernels_driver_is_loaded_before_the_drive_is_taken_from_vfio() {
    let fake = machine();
    fake.remove("sys/bus/pci/drivers/nvme");
    let mut kernel = Kernel::new(&fake);
    assert_eq!(statuses(&run(&fake, &mut kernel, &[ONE])), [Status::Changed]);
    assert_eq!(kernel.journal[0], "load nvme");
}

#[test]
fn a_driver_that_cannot_be_loaded_leaves_the_drive_with_vfio() {
    let fake = machine();
    fake.remove("sys/bus/pci/drivers/nvme");
    let mut kernel = Kernel::new(&fake);
    kernel.modules.clear();
    let report = run(&fake, &mut kernel, &[ONE]);
    assert_eq!(statuses(&report), [Status::Failed]);
    assert!(report.outcomes[0].problems[1].contains("bound to vfio-pci now"), "{report:?}");
}

#[test]
fn a_module_that_would_take_drives_not_named_is_not_loaded() {
    let fake = machine();
    fake.remove("sys/bus/pci/drivers/nvme");
    fake.function("0000:07:00.0", "010802", Some(7));
    let mut kernel = Kernel::new(&fake);
    assert!(refusal(&fake, &mut kernel, &[ONE]).contains("0000:07:00.0"));
}

#[test]
fn an_unbind_that_failed_half_way_can_be_repeated() {
    let fake = machine();
    fake.remove("run/gangway");
    let mut kernel = Kernel::new(&fake);
    kernel.failing.insert("nvme/bind".into(), io::ErrorKind::Other);
    let report = run(&fake, &mut kernel, &[ONE]);
    assert_eq!(statuses(&report), [Status::Failed]);
    assert!(report.outcomes[0].problems[1].contains("repeat this command"), "{report:?}");
    assert_eq!(statuses(&run(&fake, &mut Kernel::new(&fake), &[ONE])), [Status::Changed]);
}

#[test]
fn a_dry_run_says_every_step_and_does_none() {
    let fake = machine();
    let mut kernel = Kernel::new(&fake);
    let report = unbind(&fake.roots, &mut kernel, &addresses(&[ONE]), true);
    assert_eq!(statuses(&report), [Status::Planned]);
    let steps = report.outcomes[0].steps.join("\n");
    for part in ["vfio-pci/unbind", "driver_override", "nvme/bind"] {
        assert!(steps.contains(part), "{part} in {steps}");
    }
    assert!(kernel.journal.is_empty());
}

#[test]
fn a_virtual_function_that_takes_no_driver_goes_back_to_none() {
    for (autoprobe, driver) in [("0", None), ("1", Some("nvme"))] {
        let fake = Fake::new();
        fake.drive(ONE, 11, "nvme0");
        fake.write("sys/devices/pci0000:00/0000:01:00.0/sriov_drivers_autoprobe", &format!("{autoprobe}\n"));
        fake.function(TWO, "010802", Some(12));
        fake.link("sys/devices/pci0000:00/0000:02:00.0/physfn", "../0000:01:00.0");
        bind(&fake.roots, &mut Kernel::new(&fake), &addresses(&[TWO]), &Options::default());
        let report = run(&fake, &mut Kernel::new(&fake), &[TWO]);
        assert_eq!(statuses(&report), [Status::Changed], "{report:?}");
        let function = fake.pci(TWO);
        assert_eq!((function.driver.as_deref(), function.driver_override), (driver, None));
    }
}
