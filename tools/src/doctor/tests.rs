//! Each finding on a faked machine.

use super::*;
use crate::{
    binding::{self, Options},
    fake::{Fake, Kernel},
    sysfs::PciAddress,
};

const ONE: &str = "0000:01:00.0";
const TWO: &str = "0000:02:00.0";
const ENOUGH: process::Limits = process::Limits { locked: None, files: None };

/// A machine on which everything is as it should be, with two free drives.
fn machine() -> Fake {
    let fake = Fake::new();
    fake.drive(ONE, 11, "nvme0");
    fake.namespace(ONE, "nvme0", "nvme0n1", 1, 2048);
    fake.drive(TWO, 12, "nvme1");
    fake.namespace(TWO, "nvme1", "nvme1n1", 1, 2048);
    fake.write("sys/class/iommu/dmar0/intel-iommu/ecap", "f020de\n");
    fake.write("proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/sda1 quiet\n");
    fake.write("proc/meminfo", "HugePages_Total: 64\nHugePages_Free: 64\nHugepagesize: 2048 kB\n");
    fake.write("proc/sys/net/ipv4/tcp_congestion_control", "cubic\n");
    fake.write("proc/sys/kernel/osrelease", "6.1.0\n");
    fake
}

fn addresses(names: &[&str]) -> Vec<PciAddress> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn look(fake: &Fake, kernel: &mut Kernel<'_>, names: &[&str]) -> Diagnosis {
    let diagnosis = diagnose(&fake.roots, kernel, &ENOUGH, &addresses(names));
    assert_eq!(kernel.journal, Vec::<String>::new(), "doctor changes nothing");
    diagnosis
}

/// All findings that are not as they should be.
fn complaints(diagnosis: &Diagnosis) -> Vec<String> {
    let bad = diagnosis.findings.iter().filter(|finding| finding.level != Level::Ok);
    let line = |finding: &Finding| {
        let remedy = finding.remedy.as_deref().unwrap_or("-");
        format!("{} {}: {} -> {remedy}", finding.level.word(), finding.subject, finding.text)
    };
    bad.map(line).collect()
}

/// The only finding that is not as it should be, on a machine that was changed a little.
fn complaint(change: impl FnOnce(&Fake)) -> (String, bool) {
    let fake = machine();
    change(&fake);
    let diagnosis = look(&fake, &mut Kernel::new(&fake), &[]);
    let complaints = complaints(&diagnosis);
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
    (complaints[0].clone(), diagnosis.serving_possible)
}

fn warned(change: impl FnOnce(&Fake), parts: &[&str]) {
    let (text, possible) = complaint(change);
    assert!(text.starts_with("warning") && possible, "{text}");
    assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} in {text}");
}

fn forbidden(change: impl FnOnce(&Fake), parts: &[&str]) {
    let (text, possible) = complaint(change);
    assert!(text.starts_with("PROBLEM") && !possible, "{text}");
    assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} in {text}");
}

fn subjects<'a>(diagnosis: &'a Diagnosis, subject: &str) -> Vec<&'a str> {
    let found = diagnosis.findings.iter().filter(|finding| finding.subject == subject);
    found.map(|finding| finding.text.as_str()).collect()
}

#[test]
fn a_machine_that_is_as_it_should_be_gets_no_complaint() {
    let fake = machine();
    let diagnosis = look(&fake, &mut Kernel::new(&fake), &[]);
    assert_eq!(complaints(&diagnosis), Vec::<String>::new());
    assert!(diagnosis.serving_possible);
    assert_eq!(subjects(&diagnosis, "IOMMU"), ["on (dmar0), 2 groups"]);
    assert_eq!(subjects(&diagnosis, ONE), ["free: gangway bind 0000:01:00.0"]);
    assert!(text(&diagnosis).ends_with("\n\nServing is possible."));
}

/// Takes the IOMMU away, and so what the drives say of it.
fn without_iommu(change: impl FnOnce(&Fake)) -> String {
    let fake = machine();
    fake.remove("sys/kernel/iommu_groups");
    fake.remove("sys/class/iommu");
    for name in [ONE, TWO] {
        fake.remove_file(&format!("sys/devices/pci0000:00/{name}/iommu_group"));
    }
    change(&fake);
    let diagnosis = look(&fake, &mut Kernel::new(&fake), &[]);
    assert!(!diagnosis.serving_possible);
    let complaints = complaints(&diagnosis);
    assert!(complaints[0].starts_with("PROBLEM IOMMU"), "{complaints:#?}");
    assert!(complaints.iter().any(|line| line.contains("none of the 2 NVMe drives")), "{complaints:#?}");
    complaints[0].clone()
}

#[test]
fn an_iommu_that_is_off_is_explained_by_who_switched_it_off() {
    let none = without_iommu(|_| {});
    assert!(none.contains("no ACPI table DMAR or IVRS") && none.contains("firmware's setup"), "{none}");
    let unused = without_iommu(|fake| fake.write("sys/firmware/acpi/tables/DMAR", ""));
    assert!(unused.contains("VT-d") && unused.contains("add intel_iommu=on"), "{unused}");
    let amd = without_iommu(|fake| fake.write("sys/firmware/acpi/tables/IVRS", ""));
    assert!(amd.contains("AMD-Vi"), "{amd}");
    let off = without_iommu(|fake| {
        fake.write("sys/firmware/acpi/tables/DMAR", "");
        fake.write("proc/cmdline", "quiet intel_iommu=on iommu=pt intel_iommu=off\n");
    });
    assert!(off.contains("remove intel_iommu=off") && off.contains("update-grub"), "{off}");
    let unsafe_mode = without_iommu(|fake| fake.write("sys/kernel/iommu_groups/0/name", "vfio-noiommu\n"));
    assert!(unsafe_mode.contains("off"), "{unsafe_mode}");
}

#[test]
fn interrupts_must_be_remapped() {
    forbidden(
        |fake| fake.write("sys/class/iommu/dmar1/intel-iommu/ecap", "f020d6\n"),
        &["interrupts", "gives VFIO no device"],
    );
    warned(
        |fake| fake.write("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y\n"),
        &["unsafe interrupts", "/etc/modprobe.d"],
    );
}

#[test]
fn modules_are_loaded_loadable_or_missing() {
    let fake = machine();
    fake.remove("sys/bus/pci/drivers/vfio-pci");
    let missing = complaints(&look(&fake, &mut Kernel::new(&fake), &[]));
    assert_eq!(missing.len(), 1, "{missing:#?}");
    assert!(
        missing[0].contains("PROBLEM vfio-pci") && missing[0].contains("CONFIG_VFIO_PCI"),
        "{missing:#?}"
    );
    fake.write("lib/modules/6.1.0/modules.dep", "kernel/drivers/vfio/pci/vfio-pci.ko.xz:\n");
    let diagnosis = look(&fake, &mut Kernel::new(&fake), &[]);
    assert_eq!(subjects(&diagnosis, "vfio-pci"), ["not loaded; `gangway bind` does that"]);
    fake.write("lib/modules/6.1.0/modules.builtin", "kernel/drivers/vfio/pci/vfio-pci.ko\n");
    let diagnosis = look(&fake, &mut Kernel::new(&fake), &[]);
    assert_eq!(subjects(&diagnosis, "vfio-pci"), ["built into the kernel"]);
    assert!(diagnosis.serving_possible);
    forbidden(
        |fake| fake.remove("sys/module/vfio_iommu_type1"),
        &["vfio_iommu_type1", "CONFIG_VFIO_IOMMU_TYPE1"],
    );
}

#[test]
fn dangerous_and_notable_options_are_named() {
    warned(
        |fake| fake.write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n"),
        &["noiommu", "reach all memory", "echo N"],
    );
    let fake = machine();
    fake.write("sys/module/vfio_pci/parameters/disable_idle_d3", "N\n");
    fake.write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
    let diagnosis = look(&fake, &mut Kernel::new(&fake), &[]);
    assert!(subjects(&diagnosis, "idle drives")[0].contains("disable_idle_d3=1"));
    assert!(subjects(&diagnosis, "lockdown")[0].contains("locked down (integrity)"));
    assert_eq!(complaints(&diagnosis), Vec::<String>::new());
}

#[test]
fn memory_and_files_that_do_not_suffice_are_counted() {
    warned(
        |fake| fake.write("proc/meminfo", "HugePages_Total: 0\nHugePages_Free: 0\nHugepagesize: 2048 kB\n"),
        &["huge pages", "echo 40 > /proc/sys/vm/nr_hugepages"],
    );
    warned(
        |fake| fake.write("proc/meminfo", "HugePages_Total: 64\nHugePages_Free: 2\nHugepagesize: 2048 kB\n"),
        &["2 of 64 are free, 40 are needed", "echo 102"],
    );
    let fake = machine();
    let few = process::Limits { locked: Some(8 << 20), files: Some(1024) };
    let diagnosis = diagnose(&fake.roots, &mut Kernel::new(&fake), &few, &addresses(&[ONE, TWO]));
    let complaints = complaints(&diagnosis);
    assert!(
        complaints[0].contains("may lock 8 MiB; some 88 MiB") && complaints[0].contains("ulimit -l 90112")
    );
    assert!(complaints[1].starts_with("warning open files: 1024"), "{complaints:#?}");
    assert!(!diagnosis.serving_possible);
    let some = process::Limits { locked: Some(96 << 20), files: Some(1 << 20) };
    assert!(diagnose(&fake.roots, &mut Kernel::new(&fake), &some, &[]).serving_possible);
}

#[test]
fn settings_that_cost_speed_are_hints() {
    warned(
        |fake| fake.write("proc/sys/net/ipv4/tcp_congestion_control", "bbr\n"),
        &["bbr", "sysctl net.ipv4.tcp_congestion_control=cubic"],
    );
    let governor = |fake: &Fake, driver: &str| {
        let policy = "sys/devices/system/cpu/cpu0/cpufreq";
        fake.write(&format!("{policy}/scaling_governor"), "powersave\n");
        fake.write(&format!("{policy}/scaling_driver"), driver);
        fake.write(&format!("{policy}/cpuinfo_max_freq"), "3700000\n");
    };
    warned(|fake| governor(fake, "acpi-cpufreq"), &["3700 MHz", "cpupower"]);
    let fake = machine();
    governor(&fake, "intel_pstate");
    assert_eq!(complaints(&look(&fake, &mut Kernel::new(&fake), &[])), Vec::<String>::new());
}

#[test]
fn a_node_that_this_user_may_not_open_is_a_problem() {
    let fake = machine();
    fake.write("dev/vfio/vfio", "character 10:196\n");
    let mut kernel = Kernel::new(&fake);
    kernel.failing.insert("vfio/vfio".into(), std::io::ErrorKind::PermissionDenied);
    let complaints = complaints(&look(&fake, &mut kernel, &[]));
    assert!(complaints[0].contains("chmod 666"), "{complaints:#?}");
}

#[test]
fn a_drive_in_use_is_a_problem_only_when_it_is_named() {
    let fake = machine();
    fake.mount("nvme0n1", "/");
    let diagnosis = look(&fake, &mut Kernel::new(&fake), &[]);
    assert!(diagnosis.serving_possible);
    assert!(subjects(&diagnosis, ONE)[0].starts_with("in use here: /dev/nvme0n1 mounted on /"));
    let diagnosis = look(&fake, &mut Kernel::new(&fake), &[ONE]);
    assert!(!diagnosis.serving_possible);
    fake.mount("nvme1n1", "/mnt");
    assert!(!look(&fake, &mut Kernel::new(&fake), &[]).serving_possible);
    assert!(!look(&fake, &mut Kernel::new(&fake), &["0000:77:00.0"]).serving_possible);
    assert!(!look(&Fake::new(), &mut Kernel::new(&Fake::new()), &[]).serving_possible);
}

#[test]
fn drives_of_one_group_are_free_only_together() {
    let fake = machine();
    fake.drive("0000:01:00.1", 11, "nvme2");
    let one = complaints(&look(&fake, &mut Kernel::new(&fake), &[ONE]));
    assert!(one[0].contains("gangway bind 0000:01:00.0 0000:01:00.1"), "{one:#?}");
    let all = look(&fake, &mut Kernel::new(&fake), &[]);
    assert_eq!(subjects(&all, ONE), ["free: gangway bind 0000:01:00.0 0000:01:00.1"]);
    let both = look(&fake, &mut Kernel::new(&fake), &[ONE, "0000:01:00.1"]);
    assert_eq!(complaints(&both), Vec::<String>::new());
}

#[test]
fn a_bound_drive_must_have_a_node_that_opens_and_no_holder() {
    let fake = machine();
    binding::bind(&fake.roots, &mut Kernel::new(&fake), &addresses(&[ONE]), &Options::default());
    let diagnosis = look(&fake, &mut Kernel::new(&fake), &[ONE]);
    assert_eq!(subjects(&diagnosis, ONE), ["bound to vfio-pci: gangway serve --device pci:0000:01:00.0"]);
    let mut kernel = Kernel::new(&fake);
    kernel.failing.insert("vfio/11".into(), std::io::ErrorKind::PermissionDenied);
    let refused = complaints(&look(&fake, &mut kernel, &[ONE]));
    assert!(refused[0].starts_with("PROBLEM") && refused[0].contains("bind --owner $USER"), "{refused:#?}");
    fake.process(70, "gangway", 1);
    fake.open(70, 8, "vfio/11");
    let held = complaints(&look(&fake, &mut Kernel::new(&fake), &[ONE]));
    assert!(held[0].contains("driven by gangway (pid 70)"), "{held:#?}");
    assert_eq!(complaints(&look(&fake, &mut Kernel::new(&fake), &[])), Vec::<String>::new());
    fake.remove("proc/70");
    fake.remove("dev/vfio");
    let lost = complaints(&look(&fake, &mut Kernel::new(&fake), &[ONE]));
    assert!(lost[0].contains("no node below /dev/vfio"), "{lost:#?}");
}

#[test]
fn what_an_interrupted_bind_left_is_reported() {
    let fake = machine();
    binding::bind(&fake.roots, &mut Kernel::new(&fake), &addresses(&[ONE]), &Options::default());
    fake.remove_file("sys/devices/pci0000:00/0000:01:00.0/driver");
    let complaints = complaints(&look(&fake, &mut Kernel::new(&fake), &[]));
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
    assert!(complaints[0].contains("interrupted; it has no driver now"), "{complaints:#?}");
    assert!(complaints[0].contains("`gangway unbind 0000:01:00.0`"), "{complaints:#?}");
}

#[test]
fn standing_bindings_that_do_not_hold_are_reported() {
    let persistent = || {
        let fake = machine();
        let mut kernel = Kernel::new(&fake);
        kernel.program = Ok("/");
        let options = Options { persist: true, ..Options::default() };
        binding::bind(&fake.roots, &mut kernel, &addresses(&[ONE]), &options);
        drop(kernel);
        assert_eq!(complaints(&look(&fake, &mut Kernel::new(&fake), &[])), Vec::<String>::new());
        fake
    };
    let complaint = |fake: &Fake, part: &str| {
        let complaints = complaints(&look(fake, &mut Kernel::new(fake), &[]));
        assert!(complaints.iter().any(|line| line.contains(part)), "{part} in {complaints:#?}");
    };
    let fake = persistent();
    fake.remove("etc/udev");
    complaint(&fake, "its rule for udev is gone -> gangway bind --persist 0000:01:00.0");
    let fake = persistent();
    fake.remove("run/gangway");
    fake.set_driver(ONE, "nvme");
    complaint(&fake, "at each boot (serial number SN-nvme0), but it has nvme now");
    let fake = persistent();
    fake.remove_file("sys/bus/pci/devices/0000:01:00.0");
    complaint(&fake, "its slot is empty -> gangway unbind 0000:01:00.0");
    let fake = persistent();
    let record = fake.read("etc/gangway/bind/0000:01:00.0").unwrap();
    fake.write("etc/gangway/bind/0000:01:00.0", &record.replace("\"/\"", "\"/gone/gangway\""));
    complaint(&fake, "by /gone/gangway, which is not there any more");
}

#[test]
fn json_has_levels_and_remedies() {
    let fake = machine();
    fake.write("proc/sys/net/ipv4/tcp_congestion_control", "bbr\n");
    let json = serde_json::to_value(look(&fake, &mut Kernel::new(&fake), &[])).unwrap();
    assert_eq!(json["ServingPossible"], true);
    let network = json["Findings"].as_array().unwrap().iter().find(|it| it["Subject"] == "network").unwrap();
    assert_eq!(network["Level"], "warning");
    assert!(network["Remedy"].as_str().unwrap().starts_with("sysctl"));
}
