use clap::Parser;
use gangway_bridge::Access;

use super::drives::cannot_export;
use super::*;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    serve: Serve,
}

fn parse(arguments: &[&str]) -> Result<Serve, clap::Error> {
    Arguments::try_parse_from(std::iter::once(&"serve").chain(arguments)).map(|line| line.serve)
}

fn access(arguments: &[&str]) -> anyhow::Result<Access> {
    let serve = parse(arguments).unwrap();
    serve.terms.access(&serve.addresses())
}

fn check(arguments: &[&str]) -> anyhow::Result<Access> {
    let serve = parse(arguments).unwrap();
    serve.wanted()?.check(&[], &serve.addresses())
}

/// A server in this process, started with these arguments on a free port of the loopback address.
pub(crate) async fn start(arguments: &[&str]) -> (Target, Arc<Site>) {
    let serve = parse(&[&["--listen", "127.0.0.1:0"], arguments].concat()).unwrap();
    let wanted = serve.wanted().unwrap();
    let access = wanted.check(&[], &serve.addresses()).unwrap();
    let (target, site, _) = serve.start(wanted, access, serve.reactors().unwrap()).await.unwrap();
    (target, site)
}

#[test]
fn without_arguments_only_this_machine_can_connect() {
    let serve = parse(&[]).unwrap();
    assert_eq!(serve.addresses(), ["127.0.0.1:4420".parse().unwrap()]);
    assert_eq!(access(&[]).unwrap(), Access::AnyHost);
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
        let refused = access(&["--listen", address]).unwrap_err();
        assert!(refused.to_string().contains("--allow-host"), "{refused}");
        assert!(access(&["--listen", address, "--allow-any-host"]).is_ok());
    }
    for address in ["127.0.0.1", "[::1]:4420", "::ffff:127.0.0.1"] {
        assert!(access(&["--listen", address]).is_ok(), "{address}");
    }
}

#[test]
fn named_hosts_are_the_only_ones_on_loopback_too() {
    let access = access(&["--allow-host", "nqn.2014-08.org.example:a"]).unwrap();
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
        check(&two.into_iter().chain(names).collect::<Vec<_>>())
    };
    assert!(with(&[]).is_ok() && with(&[a]).is_ok() && with(&[a, b]).is_ok());
    assert!(with(&[a, a]).unwrap_err().to_string().contains("twice"));
    assert!(with(&[a, b, a]).unwrap_err().to_string().contains("more --nqn"));
    assert!(with(&["nqn.2014-08.org.nvmexpress.discovery"]).unwrap_err().to_string().contains("discovery"));
}

#[test]
fn exports_name_drives_that_there_are_and_leave_none_out() {
    let name = "nqn=nqn.2014-08.org.example:a";
    let check_exports = |exports: &[&str]| {
        let mut arguments = vec!["--device", "pci:0000:01:00.0", "--device", "emulated:serial=S"];
        exports.iter().for_each(|export| arguments.extend(["--export", export]));
        check(&arguments)
    };
    assert!(check_exports(&[&format!("{name},ns=1=1/1,ns=2=2/1")]).is_ok());
    assert!(check_exports(&[&format!("{name},ns=1=1/1,ns=2=S/1")]).is_ok(), "S may be a serial number");
    assert!(check_exports(&[&format!("{name},drive=1")]).unwrap_err().to_string().contains("serial=S"));
    let twice = format!("{name},drive=1");
    assert!(check_exports(&[&twice, &twice]).unwrap_err().to_string().contains("twice"));
    assert!(parse(&["--nqn", "nqn.2014-08.org.example:a", "--export", &twice]).is_err());
}

#[test]
fn hosts_can_be_named_for_each_export() {
    let access = |exports: &[&str]| {
        let mut arguments = vec!["--listen", "192.0.2.7"];
        exports.iter().for_each(|export| arguments.extend(["--export", export]));
        access(&arguments)
    };
    let named = "nqn=nqn.2014-08.org.example:a,drive=1,host=nqn.2014-08.org.example:h";
    assert!(!access(&[named]).unwrap().allows(&"nqn.2014-08.org.example:x".parse().unwrap()));
    assert!(access(&[named, "nqn=nqn.2014-08.org.example:b,drive=1"]).is_err());
}

#[test]
fn what_hosts_may_do_can_be_said_for_each_export() {
    let (a, b) = ("nqn=nqn.2014-08.org.example:a,drive=1", "nqn=nqn.2014-08.org.example:b,drive=1");
    let host = "nqn.2014-08.org.example:h".parse().unwrap();
    let policies = |exports: &[&str], others: &[&str]| {
        let exports = exports.iter().flat_map(|export| ["--export", export]);
        let terms = parse(&exports.chain(others.iter().copied()).collect::<Vec<_>>()).unwrap().terms;
        let each = terms.export.iter().map(|export| terms.policies(Some(export)).unwrap().of(&host));
        each.collect::<Vec<_>>()
    };
    let managed = format!("{a},allow=manage,allow=admin:c1h,refuse=io:09h");
    let [first, second] = &policies(&[&managed, b], &["--allow", "tune", "--refuse", "io:08h"])[..] else {
        panic!("one each")
    };
    assert_eq!([0x80, 0xc1, 0x14].map(|opcode| first.admin(opcode)), [true, true, false]);
    assert_eq!([0x80, 0xc1, 0x14].map(|opcode| second.admin(opcode)), [false, false, true]);
    assert_eq!(
        [0x08, 0x09].map(|opcode| (first.io(opcode), second.io(opcode))),
        [(false, false), (false, true)]
    );
    // What a host is allowed by name holds everywhere.
    let named = format!("{}=firmware", host);
    for policy in policies(&[&managed, b], &["--allow-for", &named]) {
        assert!(policy.admin(0x11) && !policy.admin(0x80));
    }
    let read_only = format!("{b},read-only");
    assert!(check(&["--export", &managed, "--export", &read_only]).is_ok());
    assert!(check(&["--export", &format!("{read_only},allow=manage")]).is_err());
    assert!(check(&["--allow", "manage", "--export", &read_only]).is_err());
    assert!(check(&["--allow", "manage", "--export", &format!("{read_only},allow=inspect")]).is_ok());
    assert!(parse(&["--export", &format!("{a},allow=everything")]).is_err());
}

#[test]
fn a_drive_that_moves_no_data_is_served_by_itself() {
    let devices = |devices: &[&str]| {
        let arguments: Vec<&str> = devices.iter().flat_map(|device| ["--device", device]).collect();
        check(&arguments)
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

#[test]
fn what_add_leaves_unsaid_is_as_serve_was_told() {
    let terms = |arguments: &[&str]| parse(arguments).unwrap().terms;
    let (a, b) = ("nqn.2014-08.org.example:a", "nqn.2014-08.org.example:b");
    let tune = format!("{a}=tune");
    let usual = terms(&[
        "--allow-host",
        a,
        "--allow",
        "firmware",
        "--allow-for",
        &tune,
        "--limit",
        "host=iops=5k",
        "--read-only",
        "--prp",
        "--nqn",
        b,
    ]);
    let nothing = terms(&[]).or(&usual);
    assert_eq!(nothing, Terms { nqn: Vec::new(), ..usual.clone() }, "all but names");
    let other = terms(&["--allow-host", b, "--limit", "host=none", "--derive-ids"]).or(&usual);
    let text: Vec<String> = other.limit.iter().map(ToString::to_string).collect();
    assert_eq!((other.allow_host, text), (vec![b.parse().unwrap()], vec!["host=none".to_owned()]));
    assert!(other.allow_for.is_empty(), "that host may not connect");
    assert_eq!(other.allow, usual.allow);
    assert!(other.read_only && other.derive_ids && other.prp);
    let anyone = terms(&["--allow-any-host", "--allow", "inspect"]).or(&usual);
    assert!(anyone.allow_host.is_empty() && anyone.allow_any_host);
    assert!(
        anyone.allow != usual.allow && anyone.allow_for.is_empty(),
        "what hosts may do is said as a whole"
    );
}

#[test]
fn terms_are_the_same_after_their_way_through_json() {
    let export = "nqn=nqn.2014-08.org.example:a,ns=1=1/3,host=nqn.2014-08.org.example:h,read-only";
    let for_one = "nqn.2014-08.org.example:h=tune,firmware";
    let arguments = [
        &["--export", export, "--allow", "tune,admin:14h", "--refuse", "feature:06h", "--allow-for", for_one]
            [..],
        &["--limit", "host=iops=5k,burst=2000ms", "--limit", "namespace:2=none", "--allow-any-host", "--prp"]
            [..],
    ];
    let terms = parse(&arguments.concat()).unwrap().terms;
    let json = serde_json::to_value(&terms).unwrap();
    assert_eq!(json["Export"], serde_json::json!([export]));
    assert_eq!(serde_json::from_value::<Terms>(json).unwrap(), terms);
    assert_eq!(serde_json::to_string(&Terms::default()).unwrap(), "{}");
    assert!(serde_json::from_str::<Terms>(r#"{"Allow":["everything"]}"#).is_err());
    assert!(serde_json::from_str::<Terms>(r#"{"AllowAll":true}"#).is_err());
}
