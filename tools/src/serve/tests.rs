use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    serve: Serve,
}

fn parse(arguments: &[&str]) -> Result<Serve, clap::Error> {
    Line::try_parse_from(std::iter::once(&"serve").chain(arguments)).map(|line| line.serve)
}

#[test]
fn without_arguments_only_this_machine_can_connect() {
    let serve = parse(&[]).unwrap();
    assert_eq!(serve.addresses(), ["127.0.0.1:4420".parse().unwrap()]);
    assert_eq!(serve.access().unwrap(), Access::AnyHost);
}

#[test]
fn an_error_names_its_drive_once() {
    let told =
        |text: &str| output::explain(&cannot_export("pci:0000:01:00.0", anyhow::anyhow!(text.to_owned())));
    assert_eq!(told("no permission"), "cannot export pci:0000:01:00.0: no permission");
    for text in ["0000:01:00.0 has no driver", "pci:0000:01:00.0 cannot be driven"] {
        assert_eq!(told(text), format!("cannot export a drive: {text}"));
    }
}

#[test]
fn an_address_that_others_reach_wants_hosts_to_be_named() {
    for address in ["192.0.2.7", "0.0.0.0:4420", "[::]:4420", "2001:db8::1"] {
        let refused = parse(&["--listen", address]).unwrap().access().unwrap_err();
        assert!(refused.to_string().contains("--allow-host"), "{refused}");
        assert!(parse(&["--listen", address, "--allow-any-host"]).unwrap().access().is_ok());
    }
    for address in ["127.0.0.1", "[::1]:4420", "::ffff:127.0.0.1"] {
        assert!(parse(&["--listen", address]).unwrap().access().is_ok(), "{address}");
    }
}

#[test]
fn named_hosts_are_the_only_ones_on_loopback_too() {
    let serve = parse(&["--allow-host", "nqn.2014-08.org.example:a"]).unwrap();
    let access = serve.access().unwrap();
    assert!(access.allows(&"nqn.2014-08.org.example:a".parse().unwrap()));
    assert!(!access.allows(&"nqn.2014-08.org.example:b".parse().unwrap()));
}

#[test]
fn memory_and_connections_have_limits() {
    let serve = parse(&["--data-memory", "8MiB", "--max-connections", "2"]).unwrap();
    assert_eq!((serve.data_memory, serve.max_connections), (Some(8 << 20), Some(2)));
    for arguments in [["--data-memory", "4k"], ["--max-connections", "1"]] {
        assert!(parse(&arguments).is_err(), "{arguments:?}");
    }
}

#[test]
fn there_are_no_more_connections_than_files() {
    let others = other_files(2, 3);
    assert_eq!(others, 2 * 7 + 256 + 64);
    assert_eq!(possible_connections(4096, 20_000, others), 4096);
    assert_eq!(possible_connections(4096, 4096 + others, others), 4096);
    assert_eq!(possible_connections(4096, 4096, others), 4096 - others as u32);
    assert_eq!(possible_connections(4096, 64, others), 2);
    assert_eq!(possible_connections(u32::MAX, u64::MAX, others), u32::MAX);
    assert_eq!(parse(&[]).unwrap().max_connections(u64::MAX, others), 4096);
    assert_eq!(parse(&["--max-connections", "7"]).unwrap().max_connections(u64::MAX, others), 7);
}

#[test]
fn an_export_can_have_neither_the_name_of_another_nor_that_of_discovery() {
    let (a, b) = ("nqn.2014-08.org.example:a", "nqn.2014-08.org.example:b");
    let two = ["--device", "emulated", "--device", "emulated"];
    let with = |names: &[&str]| {
        let names = names.iter().flat_map(|name| ["--nqn", name]);
        parse(&two.into_iter().chain(names).collect::<Vec<_>>()).unwrap().check_names()
    };
    assert!(with(&[]).is_ok() && with(&[a]).is_ok() && with(&[a, b]).is_ok());
    assert!(with(&[a, a]).unwrap_err().to_string().contains("twice"));
    assert!(with(&[a, b, a]).unwrap_err().to_string().contains("more --nqn"));
    assert!(with(&["nqn.2014-08.org.nvmexpress.discovery"]).unwrap_err().to_string().contains("discovery"));
}

#[test]
fn exports_name_drives_that_there_are_and_leave_none_out() {
    let name = "nqn=nqn.2014-08.org.example:a";
    let check = |exports: &[&str]| {
        let mut arguments = vec!["--device", "pci:0000:01:00.0", "--device", "emulated:serial=S"];
        exports.iter().for_each(|export| arguments.extend(["--export", export]));
        parse(&arguments).unwrap().check_exports()
    };
    assert!(check(&[&format!("{name},ns=1=1/1,ns=2=2/1")]).is_ok());
    assert!(check(&[&format!("{name},ns=1=1/1,ns=2=S/1")]).is_ok(), "S may be a serial number");
    assert!(check(&[&format!("{name},drive=1")]).unwrap_err().to_string().contains("serial=S"));
    let twice = format!("{name},drive=1");
    assert!(check(&[&twice, &twice]).unwrap_err().to_string().contains("twice"));
    assert!(parse(&["--nqn", "nqn.2014-08.org.example:a", "--export", &twice]).is_err());
}

#[test]
fn hosts_can_be_named_for_each_export() {
    let access = |exports: &[&str]| {
        let mut arguments = vec!["--listen", "192.0.2.7"];
        exports.iter().for_each(|export| arguments.extend(["--export", export]));
        parse(&arguments).unwrap().access()
    };
    let named = "nqn=nqn.2014-08.org.example:a,drive=1,host=nqn.2014-08.org.example:h";
    assert!(!access(&[named]).unwrap().allows(&"nqn.2014-08.org.example:x".parse().unwrap()));
    assert!(access(&[named, "nqn=nqn.2014-08.org.example:b,drive=1"]).is_err());
}

#[test]
fn a_drive_that_moves_no_data_is_served_by_itself() {
    let devices = |devices: &[&str]| {
        let arguments: Vec<&str> = devices.iter().flat_map(|device| ["--device", device]).collect();
        parse(&arguments).unwrap().check_devices()
    };
    assert!(devices(&["emulated:null", "emulated:null"]).is_ok());
    assert!(devices(&["emulated", "emulated"]).is_ok());
    assert!(devices(&["emulated", "emulated:null"]).unwrap_err().to_string().contains("null"));
}

#[test]
fn wrong_addresses_and_devices_are_usage_errors() {
    let control = ["--congestion-control", "more than a word"];
    for arguments in [["--listen", "example"], ["--device", "nvme0"], ["--nqn", "drive"], control] {
        assert!(parse(&arguments).is_err(), "{arguments:?}");
    }
}
