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
