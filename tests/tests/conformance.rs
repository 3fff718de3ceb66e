//! The questions of `gangway-drive-conformance`, asked of the emulated drive: each is answered, in every shape, and by
//! two drives alike. (The comparison with QEMU's drive is the scenario `conformance`.)

use gangway_tests::conformance;

#[test]
fn emulated_drives_of_one_shape_give_the_same_answers() {
    for options in [
        "block=512",
        "block=512,ms=8,pi=1,extended",
        "block=512,ms=16,pi=2",
        "block=4096,ms=64,pi=3,pi-first,extended",
        "zoned,zone-size=2MiB,zone-capacity=1536KiB,max-open=3,max-active=4,zone-extension=64",
    ] {
        let address = format!("emulated:size=16MiB,mdts=5,queues=8,{options}").parse().unwrap();
        let reports = [conformance::run(&address).unwrap(), conformance::run(&address).unwrap()];
        let found = conformance::compare("", &reports[0], &reports[1], "");
        assert!(found.is_as_expected(), "{options}: {found}");
        assert!(found.cases > 1500, "{options}: {found}");
    }
}
