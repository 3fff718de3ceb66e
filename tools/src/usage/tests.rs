//! Every way in which a drive can be used, on a faked machine.

use super::*;
use crate::{fake::Fake, sysfs::controller_of};

const ADDRESS: &str = "0000:01:00.0";

/// One drive with a namespace and two partitions.
fn machine() -> Fake {
    let fake = Fake::new();
    fake.drive(ADDRESS, 1, "nvme0");
    fake.namespace(ADDRESS, "nvme0", "nvme0n1", 1, 2048);
    fake.partition("nvme0n1", "nvme0n1p1", 1);
    fake.partition("nvme0n1", "nvme0n1p2", 2);
    fake
}

fn users(fake: &Fake) -> Vec<String> {
    users_of(fake, ADDRESS)
}

fn users_of(fake: &Fake, address: &str) -> Vec<String> {
    let function = fake.pci(address);
    let controller = controller_of(&fake.roots, &function);
    let usages = System::read(&fake.roots).users_of(&fake.roots, &function, controller.as_ref());
    usages.iter().map(Usage::to_string).collect()
}

#[test]
fn an_idle_drive_has_no_users() {
    assert!(users(&machine()).is_empty());
}

#[test]
fn mounts_of_the_disk_and_of_its_partitions_are_seen() {
    let fake = machine();
    fake.mount("nvme0n1p2", "/srv/my\\040data");
    assert_eq!(users(&fake), ["/dev/nvme0n1p2 mounted on /srv/my data (ext4)"]);
    fake.mount("nvme0n1", "/mnt");
    assert_eq!(users(&fake)[0], "/dev/nvme0n1 mounted on /mnt (ext4)");
}

#[test]
fn a_mount_of_another_drive_is_not_ours() {
    let fake = machine();
    fake.virtual_block("sda", &[]);
    fake.mount("sda", "/");
    assert!(users(&fake).is_empty());
}

#[test]
fn a_mount_in_another_namespace_names_a_process_there() {
    let fake = machine();
    fake.process(50, "dockerd", 2);
    fake.process(51, "postgres", 2);
    fake.mount_for(50, &fake.number("nvme0n1p1"), "/data", "xfs", "/dev/nvme0n1p1");
    let expected = "/dev/nvme0n1p1 mounted on /data (xfs) in the mount namespace of dockerd (pid 50)";
    assert_eq!(users(&fake), [expected]);
}

#[test]
fn a_copy_of_our_mount_in_another_namespace_is_not_repeated() {
    let fake = machine();
    fake.process(50, "systemd-resolve", 2);
    fake.mount("nvme0n1p1", "/data");
    fake.mount_for(50, &fake.number("nvme0n1p1"), "/data", "ext4", "/dev/nvme0n1p1");
    assert_eq!(users(&fake), ["/dev/nvme0n1p1 mounted on /data (ext4)"]);
}

#[test]
fn btrfs_is_seen_on_each_of_its_devices() {
    let fake = machine();
    fake.virtual_block("sda", &[]);
    for name in ["nvme0n1p2", "sda"] {
        let number = fake.number(name);
        fake.write(&format!("sys/fs/btrfs/11-22/devices/{name}/dev"), &format!("{number}\n"));
    }
    assert_eq!(users(&fake), ["/dev/nvme0n1p2 part of a mounted btrfs file system"]);
    fake.mount_for(1000, "0:45", "/pool", "btrfs", "/dev/sda");
    assert_eq!(users(&fake), ["/dev/nvme0n1p2 mounted on /pool (btrfs)"]);
}

#[test]
fn swap_is_seen() {
    let fake = machine();
    fake.append("proc/swaps", "/dev/nvme0n1p1                          partition\t1048572\t0\t-2\n");
    assert_eq!(users(&fake), ["/dev/nvme0n1p1 used as swap"]);
}

#[test]
fn a_logical_volume_is_named_with_its_mount() {
    let fake = machine();
    fake.virtual_block("dm-0", &[("dm/name", "vg0-root"), ("dm/uuid", "LVM-abcdef")]);
    fake.holder("nvme0n1p2", "dm-0");
    assert_eq!(users(&fake), ["/dev/nvme0n1p2 -> vg0-root (LVM)"]);
    fake.mount("dm-0", "/");
    assert_eq!(users(&fake), ["/dev/nvme0n1p2 -> vg0-root (LVM) mounted on / (ext4)"]);
}

#[test]
fn a_whole_stack_is_followed_to_its_top() {
    let fake = machine();
    fake.virtual_block("md127", &[("md/level", "raid1")]);
    fake.partition("md127", "md127p1", 1);
    fake.virtual_block("dm-0", &[("dm/name", "secret"), ("dm/uuid", "CRYPT-LUKS2-1-secret")]);
    fake.virtual_block("dm-1", &[("dm/name", "vg-swap"), ("dm/uuid", "LVM-1")]);
    fake.virtual_block("dm-2", &[("dm/name", "vg-spare"), ("dm/uuid", "LVM-2")]);
    fake.holder("nvme0n1p1", "md127");
    fake.holder("md127p1", "dm-0");
    fake.holder("dm-0", "dm-1");
    fake.holder("dm-0", "dm-2");
    fake.append("proc/swaps", "/dev/dm-1 partition 1 0 -2\n");
    let below = "/dev/nvme0n1p1 -> md127 (MD raid1) -> md127p1 (partition) -> secret (dm-crypt)";
    assert_eq!(
        users(&fake),
        [format!("{below} -> vg-swap (LVM) used as swap"), format!("{below} -> vg-spare (LVM)")]
    );
}

#[test]
fn other_device_mapper_users_are_named_by_what_they_are() {
    for (uuid, kind) in [
        ("mpath-3600", "dm-multipath"),
        ("part1-mpath-3600", "partition by device mapper"),
        ("", "device mapper"),
    ] {
        let fake = machine();
        fake.virtual_block("dm-3", &[("dm/name", "x"), ("dm/uuid", uuid)]);
        fake.holder("nvme0n1", "dm-3");
        assert_eq!(users(&fake), [format!("/dev/nvme0n1 -> x ({kind})")]);
    }
}

#[test]
fn stacks_that_bite_their_own_tail_end() {
    let fake = machine();
    fake.virtual_block("dm-0", &[("dm/name", "a")]);
    fake.virtual_block("dm-1", &[("dm/name", "b")]);
    fake.holder("nvme0n1", "dm-0");
    fake.holder("dm-0", "dm-1");
    fake.holder("dm-1", "dm-0");
    assert_eq!(users(&fake).len(), 1);
}

#[test]
fn a_loop_device_and_its_mount_are_seen() {
    let fake = machine();
    fake.virtual_block("loop3", &[("loop/backing_file", "/dev/nvme0n1p1")]);
    assert_eq!(users(&fake), ["/dev/nvme0n1p1 -> loop3 (loop device)"]);
    fake.mount("loop3", "/iso");
    assert_eq!(users(&fake), ["/dev/nvme0n1p1 -> loop3 (loop device) mounted on /iso (ext4)"]);
}

#[test]
fn a_loop_device_on_a_plain_file_is_nothing_to_us() {
    let fake = machine();
    fake.virtual_block("loop3", &[("loop/backing_file", "/home/x.img")]);
    assert!(users(&fake).is_empty());
}

#[test]
fn bcache_is_seen_as_backing_device_and_as_cache_without_one() {
    let fake = machine();
    fake.virtual_block("bcache0", &[]);
    fake.write("sys/devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1/nvme0n1p1/bcache/label", "");
    assert_eq!(users(&fake), ["/dev/nvme0n1p1 registered with bcache"]);
    fake.holder("nvme0n1p1", "bcache0");
    assert_eq!(users(&fake), ["/dev/nvme0n1p1 -> bcache0 (bcache)"]);
}

#[test]
fn exports_of_the_kernels_targets_are_seen_while_enabled() {
    let fake = machine();
    let namespace = "sys/kernel/config/nvmet/subsystems/nqn.test/namespaces/1";
    fake.write(&format!("{namespace}/device_path"), "/dev/disk/by-id/x\n");
    fake.link("dev/disk/by-id/x", "../../nvme0n1p1");
    fake.write(&format!("{namespace}/enable"), "0\n");
    assert!(users(&fake).is_empty());
    fake.write(&format!("{namespace}/enable"), "1\n");
    assert_eq!(users(&fake), ["/dev/nvme0n1p1 exported by nvmet as nqn.test"]);
    let passthru = "sys/kernel/config/nvmet/subsystems/nqn.pass/passthru";
    fake.write(&format!("{passthru}/device_path"), "/dev/nvme0\n");
    fake.write(&format!("{passthru}/enable"), "1\n");
    fake.write("sys/kernel/config/target/core/iblock_0/disk1/udev_path", "/dev/nvme0n1\n");
    assert_eq!(
        users(&fake),
        [
            "/dev/nvme0n1 exported by LIO as disk1",
            "/dev/nvme0n1p1 exported by nvmet as nqn.test",
            "/dev/nvme0 exported by nvmet as nqn.pass",
        ]
    );
}

#[test]
fn processes_with_block_and_character_devices_open_are_named_once() {
    let fake = machine();
    fake.process(77, "dd", 1);
    fake.open(77, 3, "nvme0n1p1");
    fake.open(77, 4, "nvme0n1p1");
    fake.process(78, "smartd", 1);
    fake.open(78, 3, "nvme0");
    fake.process(79, "fio", 1);
    fake.open(79, 9, "ng0n1");
    assert_eq!(
        users(&fake),
        [
            "/dev/nvme0n1p1 open by dd (pid 77)",
            "/dev/nvme0 open by smartd (pid 78)",
            "/dev/ng0n1 open by fio (pid 79)",
        ]
    );
}

#[test]
fn our_own_open_files_are_no_use() {
    let fake = machine();
    fake.open(1000, 3, "nvme0n1");
    assert!(users(&fake).is_empty());
}

#[test]
fn a_device_that_is_mapped_and_closed_is_still_open() {
    let fake = machine();
    fake.process(80, "db", 1);
    let node = fake.roots.dev.join("nvme0n1");
    let map = format!(
        "00400000-00500000 r-xp 00000000 08:01 5 /bin/db\n7f0000000000-7f0000001000 rw-s 00000000 00:05 7 {}\n",
        node.display()
    );
    fake.write("proc/80/maps", &map);
    fake.link("proc/80/map_files/7f0000000000-7f0000001000", node.to_str().unwrap());
    assert_eq!(users(&fake), ["/dev/nvme0n1 open by db (pid 80)"]);
}

#[test]
fn programs_that_drive_the_function_themselves_are_seen() {
    let fake = Fake::new();
    fake.function(ADDRESS, "010802", Some(9));
    fake.set_driver(ADDRESS, "vfio-pci");
    fake.vfio_group(9);
    assert!(users(&fake).is_empty());
    fake.process(90, "qemu-system-x86", 1);
    fake.open(90, 20, "vfio/9");
    let registers = fake.roots.sys.join("devices/pci0000:00").join(ADDRESS).join("resource0");
    fake.process(91, "spdk_tgt", 1);
    fake.link("proc/91/fd/7", registers.to_str().unwrap());
    fake.process(92, "mapper", 1);
    fake.write("proc/92/maps", &format!("7000-8000 rw-s 0 00:05 7 {}\n", registers.display()));
    assert_eq!(
        users(&fake),
        [
            "/dev/vfio/9 open by qemu-system-x86 (pid 90)",
            "its registers open by spdk_tgt (pid 91)",
            "its registers open by mapper (pid 92)",
        ]
    );
}

#[test]
fn uses_of_a_multipath_head_are_uses_of_every_drive_behind_it() {
    let fake = Fake::new();
    fake.drive(ADDRESS, 1, "nvme0");
    fake.drive("0000:02:00.0", 2, "nvme1");
    fake.drive("0000:03:00.0", 3, "nvme2");
    fake.multipath_head("nvme-subsys0", "nvme0n1", 1, 2048);
    fake.partition("nvme0n1", "nvme0n1p1", 1);
    fake.path("nvme-subsys0", ADDRESS, "nvme0", "nvme0c0n1");
    fake.path("nvme-subsys0", "0000:02:00.0", "nvme1", "nvme0c1n1");
    fake.mount("nvme0n1p1", "/mnt");
    let expected = ["/dev/nvme0n1p1 mounted on /mnt (ext4)"];
    assert_eq!(users(&fake), expected);
    assert_eq!(users_of(&fake, "0000:02:00.0"), expected);
    assert!(users_of(&fake, "0000:03:00.0").is_empty());
}

#[test]
fn a_claim_of_unknown_origin_names_the_pools_of_zfs() {
    let fake = machine();
    let claimed = System::read(&fake.roots).claimed("nvme0n1").to_string();
    assert_eq!(claimed, "/dev/nvme0n1 held exclusively by something in the kernel");
    fake.write("proc/spl/kstat/zfs/tank/state", "ONLINE\n");
    fake.write("proc/spl/kstat/zfs/arcstats", "");
    let claimed = System::read(&fake.roots).claimed("nvme0n1").to_string();
    assert_eq!(claimed, "/dev/nvme0n1 held exclusively, perhaps by ZFS (pools here: tank)");
}
