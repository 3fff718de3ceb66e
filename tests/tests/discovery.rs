//! What a host finds when it asks where to connect.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use gangway_bridge::Access;
use gangway_driver::emulated::EmulatedConfig;
use gangway_fabric::host::client::{AdminQueue, HostError, Options, Transfer};
use gangway_fabric::host::discovery;
use gangway_spec::discovery::{
    DiscoveryLogEntry, DiscoveryLogHeader, SUBTYPE_CURRENT_DISCOVERY, SUBTYPE_NVM,
};
use gangway_spec::fabrics::Nqn;
use gangway_spec::identify::{IdentifyController, cns};
use gangway_spec::log::{GetLogPage, lid};
use gangway_spec::opcode::admin;
use gangway_spec::{Status, SubmissionQueueEntry, discovery as spec};
use gangway_tests::wire::{Wire, connect};
use gangway_tests::{Setup, TestTarget, identity, subsystem};
use zerocopy::FromBytes;

fn two_drives(listen: &[&str]) -> Setup {
    let drive = EmulatedConfig { size: 1 << 20, ..EmulatedConfig::default() };
    let listen = listen.iter().map(|address| address.parse().unwrap()).collect();
    Setup { drives: vec![drive; 2], listen, ..Setup::default() }
}

fn ask(address: SocketAddr, host: u8) -> Vec<DiscoveryLogEntry> {
    discovery::fetch(address, &identity(host), &Options::default()).unwrap()
}

fn controller(target: &TestTarget) -> AdminQueue {
    let mut admin =
        AdminQueue::connect(target.address, &Nqn::discovery(), &identity(1), &Options::default()).unwrap();
    admin.enable().unwrap();
    admin
}

fn names(entries: &[DiscoveryLogEntry], subtype: u8) -> Vec<Nqn> {
    entries.iter().filter(|entry| entry.subtype == subtype).map(|entry| entry.subnqn().unwrap()).collect()
}

/// Connects to every subsystem that the log lists, where it says that it is.
fn assert_every_entry_can_be_used(entries: &[DiscoveryLogEntry], host: u8) {
    for entry in entries {
        let ip: IpAddr = entry.traddr().parse().unwrap();
        assert!(!ip.is_unspecified(), "nobody can connect to {ip}");
        assert_eq!(entry.trtype, spec::TRTYPE_TCP);
        assert_eq!(entry.adrfam, if ip.is_ipv4() { spec::ADRFAM_IPV4 } else { spec::ADRFAM_IPV6 });
        let address = SocketAddr::new(ip, entry.trsvcid().parse().unwrap());
        let options = Options { admin_queue_size: entry.asqsz.get(), ..Options::default() };
        let mut admin =
            AdminQueue::connect(address, &entry.subnqn().unwrap(), &identity(host), &options).unwrap();
        admin.enable().unwrap();
    }
}

#[test]
fn every_subsystem_is_listed_once_with_the_discovery_subsystem_itself() {
    let target = TestTarget::with(two_drives(&["127.0.0.1:0"]));
    let entries = ask(target.address, 1);
    assert_eq!(names(&entries, SUBTYPE_NVM), [subsystem(0), subsystem(1)]);
    assert_eq!(names(&entries, SUBTYPE_CURRENT_DISCOVERY), [Nqn::discovery()]);
    assert_eq!(entries.len(), 3);
    assert_every_entry_can_be_used(&entries, 1);
}

#[test]
fn a_target_that_listens_everywhere_lists_the_address_that_the_host_used() {
    let target = TestTarget::with(two_drives(&["0.0.0.0:0"]));
    let port = target.address.port();
    for ip in ["127.0.0.1", "127.0.0.2"] {
        let entries = ask(SocketAddr::new(ip.parse().unwrap(), port), 1);
        assert_eq!(entries.len(), 3);
        for entry in &entries {
            assert_eq!((entry.traddr().as_ref(), entry.trsvcid().as_ref()), (ip, port.to_string().as_str()));
        }
        assert_every_entry_can_be_used(&entries, 1);
    }
}

#[test]
fn each_listener_is_listed_and_has_a_port_identifier_of_its_own() {
    let target = TestTarget::with(two_drives(&["127.0.0.1:0", "127.0.0.3:0"]));
    let entries = ask(target.address, 1);
    assert_eq!(entries.len(), 6);
    let places: BTreeSet<(String, u16)> =
        entries.iter().map(|entry| (entry.traddr().into_owned(), entry.portid.get())).collect();
    let ports: BTreeSet<u16> = places.iter().map(|(_, port)| *port).collect();
    assert_eq!((places.len(), ports.len()), (2, 2));
    assert_every_entry_can_be_used(&entries, 1);
}

#[test]
fn ipv6_is_listed_as_such() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("this machine has no IPv6: nothing was tested");
        return;
    }
    for listen in ["[::1]:0", "[::]:0"] {
        let target = TestTarget::with(two_drives(&[listen]));
        let address = SocketAddr::new("::1".parse().unwrap(), target.address.port());
        let entries = ask(address, 1);
        assert_eq!(entries.len(), 3);
        assert!(entries.iter().all(|entry| entry.traddr() == "::1" && entry.adrfam == spec::ADRFAM_IPV6));
        assert_every_entry_can_be_used(&entries, 1);
    }
}

#[test]
fn a_host_that_may_not_connect_does_not_see_what_it_may_not_connect_to() {
    let known = identity(1).nqn.as_str().to_owned();
    let access = Access::Hosts(BTreeSet::from([known]));
    let target = TestTarget::with(Setup { access, ..two_drives(&["127.0.0.1:0"]) });
    assert_eq!(names(&ask(target.address, 1), SUBTYPE_NVM).len(), 2);
    let entries = ask(target.address, 2);
    assert!(names(&entries, SUBTYPE_NVM).is_empty());
    assert_eq!(names(&entries, SUBTYPE_CURRENT_DISCOVERY), [Nqn::discovery()]);
    let refused = AdminQueue::connect(target.address, &subsystem(0), &identity(2), &Options::default());
    let Err(HostError::Refused { status, .. }) = refused else { panic!("the host was let in") };
    assert_eq!(status, Status::CONNECT_INVALID_HOST.with_dnr());
}

#[test]
fn the_log_is_the_same_in_pieces_of_any_size() {
    let target = TestTarget::with(two_drives(&["127.0.0.1:0"]));
    let mut admin = controller(&target);
    let whole = admin.log_page(lid::DISCOVERY, 0, 0, 4096, true).unwrap();
    let (header, _) = DiscoveryLogHeader::ref_from_prefix(&whole).unwrap();
    assert_eq!((header.numrec.get(), header.recfmt.get()), (3, 0));
    assert_ne!(header.genctr.get(), 0);
    for piece in [4_u32, 16, 100, 1024, 1028, 3000] {
        let mut read = Vec::new();
        while read.len() < whole.len() {
            let length = piece.min((whole.len() - read.len()) as u32);
            read.extend(admin.log_page(lid::DISCOVERY, 0, read.len() as u64, length, true).unwrap());
        }
        assert!(read == whole, "in pieces of {piece}");
    }
    let longer = admin.log_page(lid::DISCOVERY, 0, 4092, 64, true).unwrap();
    assert_eq!((&longer[..4], &longer[4..]), (&whole[4092..], &[0; 60][..]), "zeroes follow the page");
}

#[test]
fn the_generation_stays_as_it_is_as_long_as_the_log_does() {
    let target = TestTarget::with(two_drives(&["127.0.0.1:0"]));
    let generation = |admin: &mut AdminQueue| {
        let header = admin.log_page(lid::DISCOVERY, 0, 0, 1024, true).unwrap();
        DiscoveryLogHeader::read_from_bytes(&header).unwrap().genctr.get()
    };
    let first = generation(&mut controller(&target));
    let _someone = target.queue(5);
    assert_eq!(generation(&mut controller(&target)), first);
}

#[test]
fn a_discovery_controller_says_what_it_is_and_does_nothing_else() {
    let target = TestTarget::with(two_drives(&["127.0.0.1:0"]));
    let mut admin = controller(&target);
    let data = admin.identify(cns::CONTROLLER, 0).unwrap();
    let identify = IdentifyController::read_from_bytes(&data).unwrap();
    assert_eq!(identify.cntrltype, IdentifyController::TYPE_DISCOVERY);
    assert_eq!(identify.subnqn(), Nqn::discovery().as_str());
    assert_eq!(identify.cntlid.get(), admin.cntlid());
    assert_eq!(identify.nn.get(), 0);

    let mut status = |entry: SubmissionQueueEntry, length: u32| {
        admin.command(&entry, Transfer::Read(length)).unwrap().0.status()
    };
    let log =
        |lid, length, lpo| SubmissionQueueEntry::from(GetLogPage { lpo, ..GetLogPage::new(lid, length) });
    assert_eq!(status(log(lid::SMART, 512, 0), 512), Status::INVALID_LOG_PAGE.with_dnr());
    assert_eq!(status(log(lid::DISCOVERY, 1024, 0), 2048), Status::DATA_SGL_LENGTH_INVALID.with_dnr());
    assert_eq!(status(log(lid::DISCOVERY, 1024, 2), 1024), Status::INVALID_FIELD.with_dnr());
    assert_eq!(status(log(lid::DISCOVERY, 1024, 1 << 40), 1024), Status::INVALID_FIELD.with_dnr());
    let mut namespace = SubmissionQueueEntry::new(admin::IDENTIFY);
    namespace.nsid.set(1);
    assert_eq!(status(namespace, 4096), Status::INVALID_FIELD.with_dnr());
    let features = SubmissionQueueEntry::new(admin::FORMAT_NVM);
    assert_eq!(
        admin.command(&features, Transfer::None).unwrap().0.status(),
        Status::INVALID_OPCODE.with_dnr()
    );

    // It has no I/O queues.
    let mut wire = Wire::initialized(target.address);
    let host = identity(1);
    let refused = wire.status(&connect(1, 32, Some(admin.cntlid()), &Nqn::discovery(), &host));
    assert!(refused.is(Status::CONNECT_INVALID_PARAMETERS), "{refused}");
    admin.keep_alive().unwrap();
}

#[test]
fn a_discovery_controller_with_a_keep_alive_time_lives_and_dies_by_it() {
    let target = TestTarget::with(two_drives(&["127.0.0.1:0"]));
    let options = Options { kato: Duration::from_secs(2), ..Options::default() };
    let connect = || AdminQueue::connect(target.address, &Nqn::discovery(), &identity(1), &options).unwrap();
    let (mut kept, forgotten) = (connect(), connect());
    let mut patient =
        AdminQueue::connect(target.address, &Nqn::discovery(), &identity(2), &Options::default()).unwrap();
    patient.enable().unwrap();
    kept.enable().unwrap();
    for _ in 0..20 {
        kept.keep_alive().unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    gangway_tests::eventually("the silent one is gone", || {
        kept.keep_alive().unwrap();
        target.associations() == 2
    });
    // One without a keep-alive time has 120 seconds.
    patient.keep_alive().unwrap();
    drop(forgotten);
}
