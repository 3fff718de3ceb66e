//! The checks that drives of QEMU get, on the emulated drive.

use gangway_driver::controller::Options;
use gangway_tests::drive_check;

fn check(address: &str, name: &str, expected: &str) {
    let options = Options { queue_depth: 32, io_queues_wanted: 4, ..Options::default() };
    let address = address.parse().expect("an address");
    let facts = drive_check::check(&address, options).expect("a drive in order");
    assert_eq!(facts.0.get(name).map(String::as_str), Some(expected), "{facts:?}");
}

#[test]
fn the_emulated_drive_passes_with_small_and_with_large_blocks() {
    check("emulated:size=16MiB,block=512", "ns1", "512");
    check("emulated:size=16MiB,block=4096,namespaces=2", "ns2", "4096");
}

#[test]
fn sgls_and_doorbells_in_memory_bring_the_same_data() {
    check("emulated:size=16MiB,block=512,sgl", "sgls", "true");
    check("emulated:size=16MiB,block=512,shadow-doorbells", "shadow-doorbells", "true");
    check("emulated:size=16MiB,block=4096,sgl,shadow-doorbells,stride=2", "shadow-doorbells", "true");
}

#[test]
fn metadata_and_protection_are_as_the_format_says() {
    check("emulated:size=16MiB,block=512,ms=8,extended", "ns1", "512+8i");
    check("emulated:size=16MiB,block=512,ms=8,sgl", "ns1", "512+8");
    check("emulated:size=16MiB,block=512,ms=8,pi=1,extended,sgl", "ns1", "512+8i pi1/8");
    check("emulated:size=16MiB,block=4096,ms=16,pi=1,pi-first", "ns1", "4096+16 pi1/8");
}

#[test]
fn zones_are_appended_to_where_the_drive_says() {
    check("emulated:size=32MiB,block=4096,zoned,zone-size=4MiB,zone-capacity=3MiB", "ns1", "4096 zoned");
}
