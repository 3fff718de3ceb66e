//! Binding on a faked machine, with a faked kernel that fails on request.

use std::{cell::Cell, io};

use super::*;
use crate::{
    binding::Outcome,
    fake::{Fake, Kernel},
};

const ONE: &str = "0000:01:00.0";
const DRY: Options = Options { dry_run: true, owner: None, persist: false, known: Vec::new() };

const TWO: &str = "0000:02:00.0";

/// Two drives with one namespace each, in groups of their own.
fn machine() -> Fake {
    let fake = Fake::new();
    fake.drive(ONE, 11, "nvme0");
    fake.namespace(ONE, "nvme0", "nvme0n1", 1, 2048);
    fake.drive(TWO, 12, "nvme1");
    fake.namespace(TWO, "nvme1", "nvme1n1", 1, 2048);
    fake
}

fn addresses(all: &[&str]) -> Vec<PciAddress> {
    all.iter().map(|text| text.parse().unwrap()).collect()
}

fn run(fake: &Fake, kernel: &mut Kernel<'_>, names: &[&str]) -> Report {
    bind(&fake.roots, kernel, &addresses(names), &Options::default())
}

fn statuses(report: &Report) -> Vec<Status> {
    report.outcomes.iter().map(|outcome| outcome.status).collect()
}

fn reasons(outcome: &Outcome) -> String {
    outcome.refusals.iter().map(Refusal::to_string).collect::<Vec<_>>().join("\n")
}

fn driver(fake: &Fake, address: &str) -> Option<String> {
    fake.pci(address).driver
}

/// Binds one drive that must be refused, and checks that nothing was touched.
fn refusal(fake: &Fake, kernel: &mut Kernel<'_>, names: &[&str]) -> String {
    let report = run(fake, kernel, names);
    assert_eq!(report.outcomes[0].status, Status::Refused, "{report:?}");
    assert_eq!(kernel.journal, Vec::<String>::new());
    reasons(&report.outcomes[0])
}

#[test]
fn a_free_drive_is_bound_in_the_right_order() {
    let fake = machine();
    let mut kernel = Kernel::new(&fake);
    let report = run(&fake, &mut kernel, &[ONE]);
    assert_eq!(statuses(&report), [Status::Changed], "{report:?}");
    assert_eq!(
        kernel.journal,
        [
            "save run/gangway/bind/0000:01:00.0",
            "flush dev/nvme0n1",
            "sys/bus/pci/devices/0000:01:00.0/driver_override = \"vfio-pci\"",
            "sys/bus/pci/drivers/nvme/unbind = \"0000:01:00.0\"",
            "sys/bus/pci/drivers/vfio-pci/bind = \"0000:01:00.0\"",
        ]
    );
    assert_eq!(driver(&fake, ONE).as_deref(), Some("vfio-pci"));
    assert_eq!(report.outcomes[0].vfio_node, Some(fake.roots.dev.join("vfio/11")));
    assert_eq!(report.outcomes[0].driver_before.as_deref(), Some("nvme"));
}

#[test]
fn what_the_drive_was_is_remembered() {
    let fake = machine();
    run(&fake, &mut Kernel::new(&fake), &[ONE]);
    let function = fake.pci(ONE);
    let record = Record::load(&fake.roots, &function).unwrap();
    assert_eq!(record.driver.as_deref(), Some("nvme"));
    assert_eq!(record.driver_override, None);
    assert_eq!(record.serial_number.as_deref(), Some("SN-nvme0"));
    assert_eq!(record.physical_size, Some(2048 * 512));
}

#[test]
fn a_drive_that_is_bound_already_is_left_as_it_is() {
    let fake = machine();
    run(&fake, &mut Kernel::new(&fake), &[ONE]);
    let mut kernel = Kernel::new(&fake);
    let report = run(&fake, &mut kernel, &[ONE]);
    assert_eq!(statuses(&report), [Status::Unchanged]);
    assert_eq!(report.outcomes[0].vfio_node, Some(fake.roots.dev.join("vfio/11")));
    assert!(kernel.journal.is_empty());
}

#[test]
fn who_drives_a_drive_that_is_bound_already_is_said() {
    let fake = machine();
    run(&fake, &mut Kernel::new(&fake), &[ONE]);
    fake.process(70, "gangway", 1);
    fake.open(70, 8, "vfio/11");
    let report = run(&fake, &mut Kernel::new(&fake), &[ONE]);
    assert_eq!(report.outcomes[0].holders[0].to_string(), "gangway (pid 70)");
}

#[test]
fn an_address_given_twice_is_bound_once() {
    let fake = machine();
    let report = run(&fake, &mut Kernel::new(&fake), &[ONE, ONE]);
    assert_eq!(statuses(&report), [Status::Changed]);
}

#[test]
fn a_dry_run_says_every_step_and_does_none() {
    let fake = machine();
    fake.remove("sys/bus/pci/drivers/vfio-pci");
    let mut kernel = Kernel::new(&fake);
    let report = bind(&fake.roots, &mut kernel, &addresses(&[ONE]), &DRY);
    assert_eq!(statuses(&report), [Status::Planned]);
    assert!(kernel.journal.is_empty());
    let steps = report.outcomes[0].steps.join("\n");
    for part in ["modprobe vfio-pci", "flush /dev/nvme0n1", "driver_override", "nvme/unbind", "vfio-pci/bind"]
    {
        assert!(steps.contains(part), "{part} in {steps}");
    }
    assert_eq!(driver(&fake, ONE).as_deref(), Some("nvme"));
}

#[test]
fn a_dry_run_refuses_what_a_real_run_would() {
    let fake = machine();
    fake.mount("nvme0n1", "/mnt");
    let report = bind(&fake.roots, &mut Kernel::new(&fake), &addresses(&[ONE]), &DRY);
    assert_eq!(statuses(&report), [Status::Refused]);
}

#[test]
fn what_is_not_there_or_not_nvme_is_refused() {
    let fake = machine();
    fake.function("0000:05:00.0", "020000", Some(5));
    let mut kernel = Kernel::new(&fake);
    assert!(refusal(&fake, &mut kernel, &["0000:77:00.0"]).contains("no PCI function"));
    assert!(refusal(&fake, &mut kernel, &["0000:05:00.0"]).contains("020000"));
}

#[test]
fn each_use_is_named_with_what_to_do() {
    let fake = machine();
    fake.partition("nvme0n1", "nvme0n1p1", 1);
    fake.partition("nvme0n1", "nvme0n1p2", 2);
    fake.mount("nvme0n1p1", "/mnt");
    fake.append("proc/swaps", "/dev/nvme0n1p2 partition 1 0 -2\n");
    let reasons = refusal(&fake, &mut Kernel::new(&fake), &[ONE]);
    assert!(reasons.contains("/dev/nvme0n1p1 mounted on /mnt (ext4): unmount it"), "{reasons}");
    assert!(reasons.contains("/dev/nvme0n1p2 used as swap: swapoff it"), "{reasons}");
}

#[test]
fn one_drive_in_use_keeps_all_from_being_bound() {
    let fake = machine();
    fake.mount("nvme1n1", "/mnt");
    let mut kernel = Kernel::new(&fake);
    let report = run(&fake, &mut kernel, &[ONE, TWO]);
    assert_eq!(statuses(&report), [Status::Withheld, Status::Refused]);
    assert!(report.outcomes[1].refusals[0].is_use());
    assert!(kernel.journal.is_empty());
}

#[test]
fn a_disk_that_somebody_holds_exclusively_is_refused_although_nothing_shows() {
    let fake = machine();
    fake.write("proc/spl/kstat/zfs/tank/state", "ONLINE\n");
    let mut kernel = Kernel::new(&fake);
    kernel.claimed.push("nvme0n1".into());
    let reasons = refusal(&fake, &mut kernel, &[ONE]);
    assert!(reasons.contains("tank"), "{reasons}");
}

#[test]
fn a_claim_that_a_mount_explains_is_not_reported_as_well() {
    let fake = machine();
    fake.mount("nvme0n1", "/mnt");
    let mut kernel = Kernel::new(&fake);
    kernel.claimed.push("nvme0n1".into());
    let report = run(&fake, &mut kernel, &[ONE]);
    assert_eq!(report.outcomes[0].refusals.len(), 1, "{report:?}");
}

#[test]
fn a_node_of_another_disk_is_not_trusted() {
    let fake = machine();
    fake.write("dev/nvme0n1", "block 8:0\n");
    assert!(refusal(&fake, &mut Kernel::new(&fake), &[ONE]).contains("not that of this disk"));
}

#[test]
fn udevs_look_at_a_new_disk_is_waited_for() {
    let fake = machine();
    fake.process(60, "(udev-worker)", 1);
    fake.open(60, 5, "nvme0n1");
    let mut kernel = Kernel::new(&fake);
    let mut pauses = 0;
    kernel.meanwhile = Some(Box::new(move |fake| {
        pauses += 1;
        if pauses == 3 {
            fake.remove("proc/60");
        }
    }));
    assert_eq!(statuses(&run(&fake, &mut kernel, &[ONE])), [Status::Changed]);
}

#[test]
fn udev_that_does_not_let_go_is_reported() {
    let fake = machine();
    fake.process(60, "systemd-udevd", 1);
    fake.open(60, 5, "nvme0n1");
    let mut kernel = Kernel::new(&fake);
    assert!(refusal(&fake, &mut kernel, &[ONE]).contains("systemd-udevd (pid 60)"));
    assert_eq!(kernel.paused, SETTLING);
}

#[test]
fn one_of_several_paths_to_a_used_disk_is_refused_and_says_so() {
    let fake = Fake::new();
    fake.drive(ONE, 1, "nvme0");
    fake.drive(TWO, 2, "nvme1");
    fake.multipath_head("nvme-subsys0", "nvme0n1", 1, 2048);
    fake.path("nvme-subsys0", ONE, "nvme0", "nvme0c0n1");
    fake.path("nvme-subsys0", TWO, "nvme1", "nvme0c1n1");
    fake.mount("nvme0n1", "/mnt");
    let reasons = refusal(&fake, &mut Kernel::new(&fake), &[ONE]);
    assert!(reasons.contains("several paths to /dev/nvme0n1 (the others: nvme1)"), "{reasons}");
    assert!(reasons.contains("mounted on /mnt"), "{reasons}");
}

#[test]
fn a_disk_behind_two_named_drives_is_held_until_the_second_is_taken() {
    let fake = Fake::new();
    fake.drive(ONE, 1, "nvme0");
    fake.drive(TWO, 2, "nvme1");
    fake.multipath_head("nvme-subsys0", "nvme0n1", 1, 2048);
    fake.path("nvme-subsys0", ONE, "nvme0", "nvme0c0n1");
    fake.path("nvme-subsys0", TWO, "nvme1", "nvme0c1n1");
    let report = bind(&fake.roots, &mut Kernel::new(&fake), &addresses(&[ONE, TWO]), &DRY);
    let releases =
        |index: usize| report.outcomes[index].steps.iter().any(|step| step == "release /dev/nvme0n1");
    assert!(!releases(0) && releases(1), "{report:?}");
    assert_eq!(statuses(&run(&fake, &mut Kernel::new(&fake), &[ONE, TWO])), [Status::Changed; 2]);
}

#[test]
fn without_an_iommu_the_user_is_told_how_to_switch_it_on() {
    let fake = Fake::new();
    fake.function(ONE, "010802", None);
    let reasons = refusal(&fake, &mut Kernel::new(&fake), &[ONE]);
    assert!(reasons.contains("intel_iommu=on") && reasons.contains("VT-d"), "{reasons}");
    fake.function(TWO, "020000", Some(1));
    let reasons = refusal(&fake, &mut Kernel::new(&fake), &[ONE]);
    assert!(reasons.contains("not behind the IOMMU"), "{reasons}");
}

#[test]
fn a_group_shared_with_a_kernel_driver_is_refused_unless_all_come_along() {
    let fake = machine();
    fake.drive("0000:01:00.1", 11, "nvme2");
    fake.function("0000:01:00.2", "020000", Some(11));
    fake.set_driver("0000:01:00.2", "e1000e");
    let reasons = refusal(&fake, &mut Kernel::new(&fake), &[ONE]);
    assert!(reasons.contains("0000:01:00.1 (NVMe, driver nvme), 0000:01:00.2 (driver e1000e)"), "{reasons}");
    assert!(reasons.contains("`gangway bind 0000:01:00.0 0000:01:00.1`"), "{reasons}");
    let reasons = refusal(&fake, &mut Kernel::new(&fake), &[ONE, "0000:01:00.1"]);
    assert!(
        !reasons.contains("0000:01:00.1") && reasons.contains("0000:01:00.2 (driver e1000e)"),
        "{reasons}"
    );
}

#[test]
fn harmless_members_of_a_group_are_no_obstacle() {
    let fake = machine();
    fake.drive("0000:01:00.1", 11, "nvme2");
    fake.function("0000:00:01.0", "060400", Some(11));
    fake.set_driver("0000:00:01.0", "pcieport");
    fake.function("0000:01:00.3", "020000", Some(11));
    fake.function("0000:01:00.4", "030000", Some(11));
    fake.set_driver("0000:01:00.4", "vfio-pci");
    fake.function("0000:01:00.5", "030000", Some(11));
    fake.set_driver("0000:01:00.5", "pci-stub");
    let report = run(&fake, &mut Kernel::new(&fake), &[ONE, "0000:01:00.1"]);
    assert_eq!(statuses(&report), [Status::Changed; 2], "{report:?}");
}

#[test]
fn a_group_that_a_virtual_machine_has_open_is_refused() {
    let fake = machine();
    fake.function("0000:01:00.4", "030000", Some(11));
    fake.set_driver("0000:01:00.4", "vfio-pci");
    fake.vfio_group(11);
    fake.process(70, "qemu", 1);
    fake.open(70, 8, "vfio/11");
    assert!(refusal(&fake, &mut Kernel::new(&fake), &[ONE]).contains("qemu (pid 70)"));
}

#[test]
fn a_physical_function_with_virtual_ones_is_refused() {
    let fake = machine();
    fake.write("sys/devices/pci0000:00/0000:01:00.0/sriov_numvfs", "4\n");
    assert!(refusal(&fake, &mut Kernel::new(&fake), &[ONE]).contains("4 SR-IOV virtual functions"));
}

/// A physical function with driver `physical`, and a virtual one of it in a group of its own.
fn virtual_function(physical: &str) -> Fake {
    let fake = Fake::new();
    fake.drive(ONE, 11, "nvme0");
    fake.namespace(ONE, "nvme0", "nvme0n1", 1, 2048);
    fake.write("sys/devices/pci0000:00/0000:01:00.0/sriov_numvfs", "1\n");
    fake.set_driver(ONE, physical);
    fake.drive(TWO, 12, "nvme1");
    fake.link("sys/devices/pci0000:00/0000:02:00.0/physfn", "../0000:01:00.0");
    fake
}

#[test]
fn a_virtual_function_is_bound_whatever_uses_the_physical_one() {
    let fake = virtual_function("nvme");
    fake.mount("nvme0n1", "/mnt");
    assert_eq!(statuses(&run(&fake, &mut Kernel::new(&fake), &[TWO])), [Status::Changed]);
    assert_eq!(driver(&fake, ONE).as_deref(), Some("nvme"));
}

#[test]
fn a_virtual_function_of_one_in_user_space_needs_a_token_that_we_have_not() {
    let fake = virtual_function("vfio-pci");
    let reason = refusal(&fake, &mut Kernel::new(&fake), &[TWO]);
    assert!(reason.contains("token") && reason.contains("gangway unbind 0000:01:00.0"), "{reason}");
}

#[test]
fn missing_modules_are_loaded_first() {
    let fake = machine();
    fake.remove("sys/bus/pci/drivers/vfio-pci");
    fake.remove("sys/module/vfio_iommu_type1");
    let mut kernel = Kernel::new(&fake);
    assert_eq!(statuses(&run(&fake, &mut kernel, &[ONE])), [Status::Changed]);
    assert_eq!(kernel.journal[..2], ["load vfio-pci", "load vfio_iommu_type1"]);
}

#[test]
fn a_module_that_cannot_be_loaded_leaves_everything_untouched() {
    let fake = machine();
    fake.remove("sys/bus/pci/drivers/vfio-pci");
    let mut kernel = Kernel::new(&fake);
    kernel.modules.clear();
    let report = run(&fake, &mut kernel, &[ONE, TWO]);
    assert_eq!(statuses(&report), [Status::Failed; 2]);
    assert!(report.outcomes[0].problems[0].contains("'vfio-pci' cannot be loaded"), "{report:?}");
    assert_eq!(kernel.journal, ["load vfio-pci"]);
}

#[test]
fn a_kernel_with_iommufd_needs_no_type1() {
    let fake = machine();
    fake.remove("sys/module/vfio_iommu_type1");
    fake.write("dev/iommu", "character 10:1\n");
    let mut kernel = Kernel::new(&fake);
    kernel.modules.clear();
    let report = run(&fake, &mut kernel, &[ONE]);
    assert_eq!(statuses(&report), [Status::Changed]);
    assert_eq!(report.notes.len(), 1);
}

#[test]
fn a_failure_half_way_is_undone_on_every_drive() {
    let fake = machine();
    let mut kernel = Kernel::new(&fake);
    kernel.failing.insert("devices/0000:02:00.0/driver_override".into(), io::ErrorKind::PermissionDenied);
    let report = run(&fake, &mut kernel, &[ONE, TWO]);
    assert_eq!(statuses(&report), [Status::Undone, Status::Failed]);
    assert!(report.outcomes[0].problems.is_empty(), "{report:?}");
    assert_eq!(report.outcomes[1].problems.len(), 1, "{report:?}");
    assert!(report.outcomes[1].problems[0].contains("sudo"), "{report:?}");
    for address in [ONE, TWO] {
        let function = fake.pci(address);
        assert_eq!(function.driver.as_deref(), Some("nvme"));
        assert_eq!(function.driver_override, None);
        assert_eq!(Record::load(&fake.roots, &function), None);
    }
}

#[test]
fn drives_behind_the_failing_one_are_not_touched() {
    let fake = machine();
    let mut kernel = Kernel::new(&fake);
    kernel.failing.insert("nvme/unbind".into(), io::ErrorKind::Other);
    let report = run(&fake, &mut kernel, &[ONE, TWO]);
    assert_eq!(statuses(&report), [Status::Failed, Status::Withheld]);
    assert!(kernel.journal.iter().all(|line| !line.contains(TWO)), "{:?}", kernel.journal);
    assert_eq!(fake.read("sys/bus/pci/devices/0000:01:00.0/driver_override").as_deref(), Some("(null)"));
}

#[test]
fn a_driver_that_does_not_take_the_drive_is_noticed_and_undone() {
    let fake = machine();
    let mut kernel = Kernel::new(&fake);
    kernel.takes = false;
    let report = run(&fake, &mut kernel, &[ONE]);
    assert_eq!(statuses(&report), [Status::Failed]);
    assert!(report.outcomes[0].problems[0].contains("did not take"), "{report:?}");
    // This kernel takes nothing at all, so the way back fails, too, and that is said.
    assert!(report.outcomes[0].problems[1].starts_with("not undone"), "{report:?}");
    assert_eq!(kernel.notices[0], "waiting for vfio-pci to take 0000:01:00.0 ...");
}

#[test]
fn a_flush_that_fails_leaves_the_drive_with_the_kernel() {
    let fake = machine();
    let mut kernel = Kernel::new(&fake);
    kernel.failing.insert("flush".into(), io::ErrorKind::Other);
    let report = run(&fake, &mut kernel, &[ONE]);
    assert_eq!(statuses(&report), [Status::Failed]);
    assert_eq!(kernel.changes(), ["flush dev/nvme0n1"]);
    assert_eq!(driver(&fake, ONE).as_deref(), Some("nvme"));
}

#[test]
fn a_drive_without_driver_is_bound_and_an_older_record_kept() {
    let fake = Fake::new();
    fake.function(ONE, "010802", Some(1));
    let record = Record { driver: Some("nvme".into()), ..Record::of(&fake.pci(ONE), None) };
    fake.write("run/gangway/bind/0000:01:00.0", &serde_json::to_string(&record).unwrap());
    let mut kernel = Kernel::new(&fake);
    assert_eq!(statuses(&run(&fake, &mut kernel, &[ONE])), [Status::Changed]);
    assert_eq!(Record::load(&fake.roots, &fake.pci(ONE)), Some(record));
    assert!(kernel.journal.iter().all(|line| !line.contains("unbind")));
}

#[test]
fn processes_that_cannot_be_looked_at_stop_all_but_root() {
    let fake = machine();
    fake.process(60, "shy", 1);
    fake.remove("proc/60/fd");
    fake.link("proc/60/fd", "fd");
    let mut kernel = Kernel::new(&fake);
    kernel.root = false;
    assert!(refusal(&fake, &mut kernel, &[ONE]).contains("open files of 1 processes"));
    kernel.root = true;
    let report = run(&fake, &mut kernel, &[ONE]);
    assert_eq!(statuses(&report), [Status::Changed]);
    assert_eq!(report.notes.len(), 1);
}

#[test]
fn a_user_who_may_not_open_the_disks_is_told_to_use_sudo() {
    let fake = machine();
    let mut kernel = Kernel::new(&fake);
    kernel.failing.insert("nvme0n1".into(), io::ErrorKind::PermissionDenied);
    assert!(refusal(&fake, &mut kernel, &[ONE]).contains("sudo"));
    let report = bind(&fake.roots, &mut kernel, &addresses(&[ONE]), &DRY);
    assert_eq!(statuses(&report), [Status::Planned]);
    assert!(report.notes[0].contains("sudo"));
}

#[test]
fn a_namespace_that_appears_meanwhile_is_claimed_too() {
    let fake = machine();
    let mut kernel = Kernel::new(&fake);
    let mut late = true;
    kernel.before_claim = Some(Box::new(move |fake| {
        if std::mem::take(&mut late) {
            fake.namespace(ONE, "nvme0", "nvme0n2", 2, 2048);
        }
    }));
    assert_eq!(statuses(&run(&fake, &mut kernel, &[ONE])), [Status::Changed]);
    assert!(kernel.journal.contains(&"flush dev/nvme0n2".to_owned()), "{:?}", kernel.journal);
}

#[test]
fn a_drive_whose_namespaces_never_settle_is_refused() {
    let fake = machine();
    let another = Cell::new(2);
    let mut kernel = Kernel::new(&fake);
    kernel.before_claim = Some(Box::new(|fake| {
        let number = another.get();
        fake.namespace(ONE, "nvme0", &format!("nvme0n{number}"), number, 2048);
    }));
    kernel.meanwhile = Some(Box::new(|_| another.set(another.get() + 1)));
    let reason = refusal(&fake, &mut kernel, &[ONE]);
    assert!(reason.contains("namespaces are changing"), "{reason}");
}
