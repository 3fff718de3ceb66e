//! Commands that only look.

use crate::support::{Lab, Serve, arg, run};

const DRIVE: &str = "emulated:size=16MiB,block=512,namespaces=2,serial=LOOK1";

#[test]
fn id_ctrl_has_nvme_cli_s_keys_and_bytes() {
    let json = run("id-ctrl", DRIVE, &["-o", "json"]).good().json();
    assert_eq!(json["sn"].as_str().map(str::trim_end), Some("LOOK1"));
    assert_eq!(json["sn"].as_str().map(str::len), Some(20), "as wide as the field, as nvme-cli has it");
    assert_eq!((&json["nn"], json["psds"].as_array().map(Vec::len)), (&2.into(), Some(1)));
    assert_eq!(json.as_object().unwrap().len(), 86, "all of nvme-cli's keys");
    let bytes = run("id-ctrl", DRIVE, &["-b"]).good().stdout;
    assert_eq!((bytes.len(), &bytes[4..9]), (4096, &b"LOOK1"[..]));
    let text = run("id-ctrl", DRIVE, &["-H"]).good().text();
    assert!(text.contains("\nsn        : LOOK1\n") && text.contains("dataset management"), "{text}");
}

#[test]
fn namespaces_are_listed_and_described() {
    let json = run("list-ns", DRIVE, &["--output", "json"]).good().json();
    assert_eq!(json["nsid_list"][1]["nsid"], 2);
    assert_eq!(run("list-ns", DRIVE, &["-n", "2"]).good().text(), "[   0]:0x2\n");
    let json = run("id-ns", DRIVE, &["-n", "2", "-o", "json"]).good().json();
    assert_eq!((&json["nsze"], &json["lbafs"][0]["ds"]), (&32768.into(), &9.into()));
    let json = run("ns-descs", DRIVE, &["-n", "1", "-o", "json"]).good().json();
    let types: Vec<_> = json["ns-descs"].as_array().unwrap().iter().map(|found| &found["type"]).collect();
    assert!(types.iter().any(|kind| *kind == "nguid"), "{json}");
}

#[test]
fn with_several_namespaces_one_must_be_named() {
    run("id-ns", DRIVE, &[]).refused(1, "say which with -n (1, 2)");
    run("id-ns", "emulated:size=1MiB", &[]).good();
    run("id-ns", DRIVE, &["-n", "9"]).refused(1, "Invalid Namespace or Format (SCT 0h SC 0Bh");
    run("id-ns", DRIVE, &["-n", "0"]).refused(2, "namespaces count from 1");
}

#[test]
fn logs_are_shown_in_each_form() {
    let smart = run("smart-log", DRIVE, &["-o", "json"]).good().json();
    assert!(smart["temperature"].as_u64().is_some_and(|kelvin| kelvin > 273), "{smart}");
    assert!(run("smart-log", DRIVE, &[]).good().text().contains(" C ("));
    assert!(run("error-log", DRIVE, &["-e", "2", "-o", "json"]).good().json()["errors"][1]["sqid"].is_u64());
    assert!(run("error-log", DRIVE, &[]).good().text().ends_with("no errors\n"));
    let firmware = run("fw-log", DRIVE, &["-o", "json"]).good().json();
    assert_eq!(firmware[DRIVE]["Active Firmware Slot (afi)"], 1, "{firmware}");
    let effects = run("effects-log", DRIVE, &["-o", "json"]).good().json();
    assert!(effects[0]["admin_cmd_set"]["ACS_2 (Get Log Page)"].is_u64(), "{effects}");
    assert!(effects[0]["io_cmd_set"]["IOCS_2 (Read)"].is_u64(), "{effects}");
}

#[test]
fn any_log_page_can_be_read_as_bytes_from_any_offset() {
    let lab = Lab::new();
    let whole = run("get-log", DRIVE, &["-i", "5", "-l", "4096", "-b"]).good().stdout;
    assert_eq!(whole.len(), 4096);
    let offset = run("get-log", DRIVE, &["-i", "5", "-l", "64", "-o", "1024", "-b"]).good().stdout;
    assert_eq!(offset, whole[1024..1088]);
    let file = lab.path("log");
    run("get-log", DRIVE, &["-i", "2", "-l", "512", "--output-file", arg(&file)]).good();
    assert_eq!(std::fs::read(file).unwrap().len(), 512);
    assert!(run("get-log", DRIVE, &["--aen", "0x20000", "-l", "16"]).good().text().contains("0x02 (SMART"));
    run("get-log", DRIVE, &["-i", "0xfe", "-l", "16"]).refused(1, "Invalid Log Page");
}

#[test]
fn features_are_explained() {
    let text = run("get-feature", DRIVE, &["-f", "4", "-H"]).good().text();
    assert!(text.starts_with("get-feature:0x04 (Temperature Threshold), Current value:0x00000"), "{text}");
    assert!(text.contains(" K)"), "{text}");
    let text = run("get-feature", DRIVE, &["-f", "4", "-s", "3"]).good().text();
    assert!(
        text.contains("Supported capabilities value") && text.contains("Feature is changeable"),
        "{text}"
    );
}

#[test]
fn registers_are_shown_by_name() {
    let json = run("show-regs", DRIVE, &["-o", "json"]).good().json();
    assert_eq!(json["csts"], 1);
    assert!(json["cap"].as_u64().is_some_and(|cap| cap & 0xffff == 1023), "{json}");
    assert!(run("show-regs", DRIVE, &["-H"]).good().text().contains("1024 entries of a queue (MQES)"));
}

#[test]
fn what_a_target_exports_is_looked_at_in_the_same_way() {
    let serve = Serve::start("emulated:size=16MiB,serial=FAR1", &[]);
    let device = &serve.device;
    let json = run("id-ctrl", device, &["-o", "json"]).good().json();
    assert_eq!(json["sn"].as_str().map(str::trim_end), Some("FAR1"));
    assert!(json["ioccsz"].as_u64().is_some_and(|size| size >= 4));
    assert_eq!(run("list-ns", device, &[]).good().text(), "[   0]:0x1\n");
    assert_eq!(run("id-ns", device, &["-o", "json"]).good().json()["nsze"], 4096);
    assert!(run("smart-log", device, &["-o", "json"]).good().json()["temperature"].is_u64());
    assert_eq!(run("get-log", device, &["-i", "5", "-l", "4096", "-b"]).good().stdout.len(), 4096);
    assert!(run("show-regs", device, &["-o", "json"]).good().json()["cap"].is_u64());
    run("reset", device, &[]).good();
}

#[test]
fn what_cannot_be_opened_says_what_to_do() {
    run("id-ctrl", "nvme0", &[]).refused(2, "pci:0000:01:00.0");
    run("id-ctrl", "pci:ffff:1f:1f.7", &[]).refused(1, "gangway list");
    run("id-ctrl", "tcp:127.0.0.1:1/nqn.2014-08.org.example:none", &[]).refused(1, "127.0.0.1:1");
    run("get-log", DRIVE, &["-i", "2"]).refused(2, "--log-len");
}

#[test]
fn telemetry_is_collected_and_read_up_to_the_area_that_is_wanted() {
    let lab = Lab::new();
    let drive = "emulated:size=16MiB,serial=TELLTALE";
    let serve = Serve::start(drive, &["--allow", "tune"]);
    for device in [drive, &serve.device] {
        let file = lab.path("log");
        run("telemetry-log", device, &["-O", arg(&file), "-d", "2"]).good();
        let log = std::fs::read(&file).unwrap();
        assert_eq!((log[0], log.len() % 512), (7, 0));
        assert!(String::from_utf8_lossy(&log[512..1024]).contains("serial: TELLTALE\n"));
        let header = run("telemetry-log", device, &["-O", arg(&file), "-o", "json"]).good().json();
        let blocks = header["data_area_3_last_block"].as_u64().unwrap();
        assert_eq!(std::fs::read(&file).unwrap().len() as u64, (blocks + 1) * 512);
        assert_eq!(log.len() as u64, (header["data_area_2_last_block"].as_u64().unwrap() + 1) * 512);
        assert_eq!(header["reason"], "a host asked for it");
        let own = run("telemetry-log", device, &["-c"]).good().text();
        assert!(own.contains("controller_data_available") && own.contains("0 (0 bytes)"), "{own}");
    }
    // A drive of this process was reset meanwhile; the target's was not.
    let kept = run("telemetry-log", &serve.device, &["-g", "0", "-o", "json"]).good().json();
    assert_eq!(kept["host_generation"], 2);
    let closed = Serve::start(drive, &[]);
    run("telemetry-log", &closed.device, &[]).refused(1, "--allow tune");
    run("telemetry-log", drive, &["-d", "5"]).refused(1, "1, 2, 3 or 4");
}
