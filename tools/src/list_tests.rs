//! What the list shows of each kind of drive.

use super::*;
use crate::{
    binding,
    fake::{Fake, Kernel},
};

const ADDRESS: &str = "0000:01:00.0";

fn list(fake: &Fake) -> Vec<Drive> {
    drives(&fake.roots, &mut Kernel::new(fake)).0
}

fn machine() -> Fake {
    let fake = Fake::new();
    fake.drive(ADDRESS, 11, "nvme0");
    fake.namespace(ADDRESS, "nvme0", "nvme0n1", 1, 2_097_152);
    fake
}

#[test]
fn a_drive_of_the_kernel_is_shown_with_all_that_is_known() {
    let fake = machine();
    fake.function("0000:00:01.0", "060400", Some(11));
    fake.write("sys/devices/pci0000:00/0000:01:00.0/numa_node", "1\n");
    let text = table(&list(&fake));
    let row = text.lines().nth(1).unwrap();
    for part in [ADDRESS, "nvme0", "Fake Drive", "SN-nvme0", "1.07 GB", "nvme", "11 (+1)", " 1 "] {
        assert!(row.contains(part), "{part} in {row}");
    }
}

#[test]
fn other_functions_are_not_listed() {
    let fake = machine();
    fake.function("0000:05:00.0", "020000", Some(5));
    fake.function("0000:06:00.0", "010601", Some(6));
    assert_eq!(list(&fake).len(), 1);
}

#[test]
fn a_drive_that_nobody_bound_here_is_shown_by_its_identifiers() {
    let fake = Fake::new();
    fake.function(ADDRESS, "010802", None);
    let text = table(&list(&fake));
    assert!(text.contains("1b36:0010"), "{text}");
    let drive = &list(&fake)[0];
    assert_eq!((drive.driver.as_deref(), drive.physical_size, drive.iommu_group), (None, None, None));
}

#[test]
fn a_drive_that_we_bound_keeps_its_name() {
    let fake = machine();
    binding::bind(
        &fake.roots,
        &mut Kernel::new(&fake),
        &[ADDRESS.parse().unwrap()],
        &binding::Options::default(),
    );
    let drive = &list(&fake)[0];
    assert_eq!(drive.driver.as_deref(), Some("vfio-pci"));
    assert_eq!(drive.serial_number.as_deref(), Some("SN-nvme0"));
    assert_eq!(drive.physical_size, Some(1 << 30));
    assert_eq!(drive.device_path, None);
}

#[test]
fn long_lists_of_users_are_cut_and_counted() {
    let fake = machine();
    for pid in 1..=9 {
        fake.process(pid, "dd", 1);
        fake.open(pid, 3, "nvme0n1");
    }
    let text = table(&list(&fake));
    assert!(text.contains("dd (pid 6)") && !text.contains("dd (pid 7)"), "{text}");
    assert!(text.contains("and 3 more"), "{text}");
    assert_eq!(list(&fake)[0].used_by.len(), 9);
}

#[test]
fn a_use_that_only_a_claim_reveals_is_listed() {
    let fake = machine();
    let mut kernel = Kernel::new(&fake);
    kernel.claimed.push("nvme0n1".into());
    let drives = drives(&fake.roots, &mut kernel).0;
    assert_eq!(drives[0].used_by[0].kind, "claimed");
}

#[test]
fn json_has_the_names_that_nvme_cli_uses() {
    let fake = machine();
    fake.partition("nvme0n1", "nvme0n1p1", 1);
    fake.virtual_block("dm-0", &[("dm/name", "vg0-root"), ("dm/uuid", "LVM-1")]);
    fake.holder("nvme0n1p1", "dm-0");
    fake.mount("dm-0", "/");
    let json = serde_json::to_value(list(&fake)).unwrap();
    let drive = &json[0];
    assert_eq!(drive["Address"], ADDRESS);
    assert_eq!(drive["DevicePath"], "/dev/nvme0n1");
    assert_eq!(drive["ModelNumber"], "Fake Drive");
    assert_eq!(drive["SerialNumber"], "SN-nvme0");
    assert_eq!(drive["Firmware"], "1.0");
    assert_eq!(drive["PhysicalSize"], 1 << 30);
    assert_eq!(drive["Driver"], "nvme");
    assert_eq!(drive["IommuGroup"], 11);
    assert_eq!(drive["NumaNode"], serde_json::Value::Null);
    assert_eq!(drive["Namespaces"][0]["NameSpace"], 1);
    assert_eq!(drive["Namespaces"][0]["SectorSize"], 512);
    assert_eq!(drive["UsedBy"][0]["Device"], "/dev/nvme0n1p1");
    assert_eq!(drive["UsedBy"][0]["Via"][0]["Name"], "vg0-root");
    assert_eq!(drive["UsedBy"][0]["Kind"], "mount");
    assert_eq!(drive["UsedBy"][0]["MountPoint"], "/");
}

#[test]
fn virtual_functions_and_standing_bindings_are_shown() {
    let fake = machine();
    fake.write("sys/devices/pci0000:00/0000:01:00.0/sriov_numvfs", "1\n");
    fake.drive("0000:01:00.1", 12, "nvme1");
    fake.link("sys/devices/pci0000:00/0000:01:00.1/physfn", "../0000:01:00.0");
    let options = binding::Options { persist: true, ..binding::Options::default() };
    let address = "0000:01:00.1".parse().unwrap();
    binding::bind(&fake.roots, &mut Kernel::new(&fake), &[address], &options);
    let drives = list(&fake);
    let text = table(&drives);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    assert!(lines[2].contains("  1 VF"), "{text}");
    assert!(lines[4].contains("VF of 0000:01:00.0") && lines[4].contains("persistent"), "{text}");
    let json = serde_json::to_value(&drives).unwrap();
    assert_eq!(json[1]["PhysicalFunction"], ADDRESS);
    assert_eq!((&json[0]["VirtualFunctions"], &json[1]["Persistent"]), (&1.into(), &true.into()));
}
