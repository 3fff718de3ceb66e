//! Asynchronous events: what the drive and the target tell reaches each host that asked for it, once.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use std::time::Duration;

use gangway_bridge::{HostPolicies, Mapping, Policy, Selection};
use gangway_driver::emulated::{EmulatedConfig, ZoneConfig};
use gangway_fabric::host::client::{AdminQueue, Options, Transfer};
use gangway_spec::aen::{self, AsyncEvent};
use gangway_spec::feature::{TELEMETRY_LOG_NOTICES, fid};
use gangway_spec::identify::{IdentifyController, Lpa, Oaes, cns};
use gangway_spec::log::{GetLogPage, SanitizeLog, SmartLog, TelemetryHeader, lid};
use gangway_spec::opcode::{admin, nvm};
use gangway_spec::zns::{ChangedZoneList, ZoneState};
use gangway_spec::{Status, SubmissionQueueEntry};
use gangway_tests::listening::{ask, listen, told};
use gangway_tests::{Setup, TestTarget, command};
use zerocopy::FromBytes;

/// How long nothing must happen before it counts as nothing.
const SILENCE: Duration = Duration::from_millis(300);

const SPARE: AsyncEvent = AsyncEvent::new(aen::TYPE_SMART, aen::SMART_SPARE, lid::SMART);
const TEMPERATURE: AsyncEvent = AsyncEvent::new(aen::TYPE_SMART, aen::SMART_TEMPERATURE, lid::SMART);
const ERROR: AsyncEvent = AsyncEvent::new(aen::TYPE_ERROR, aen::ERROR_PERSISTENT_INTERNAL, lid::ERROR);
/// Bits of feature 0Bh.
const WANTS_SPARE: u32 = 1 << 0;
const WANTS_TEMPERATURE: u32 = 1 << 1;

fn target() -> TestTarget {
    target_that_opens(&["inspect"])
}

/// A target that opens these items of its policy to every host.
fn target_that_opens(items: &[&str]) -> TestTarget {
    let drive = EmulatedConfig { size: 8 << 20, namespaces: 2, ..EmulatedConfig::default() };
    let usual = Policy::new(items.iter().map(|item| item.parse().unwrap()), []);
    let policies = HostPolicies::all(usual);
    TestTarget::with(Setup { drives: vec![drive], policies, ..Setup::default() })
}

fn assert_silence(admin: &mut AdminQueue) {
    assert!(admin.queue().wait(SILENCE).unwrap().is_none(), "an event that is none for this host");
}

fn read_log(admin: &mut AdminQueue, lid: u8, retain: bool) -> Vec<u8> {
    admin.log_page(lid, u32::MAX, 0, 512, retain).unwrap()
}

#[test]
fn an_event_of_the_drive_reaches_each_host_that_asked_for_its_type_once() {
    let target = target();
    let mut hosts: Vec<AdminQueue> = (1..=3).map(|number| target.host(number)).collect();
    listen(&mut hosts[0], WANTS_TEMPERATURE);
    listen(&mut hosts[1], WANTS_TEMPERATURE | WANTS_SPARE);
    listen(&mut hosts[2], WANTS_SPARE);
    target.probes[0].raise_event(TEMPERATURE);
    for host in &mut hosts[..2] {
        assert_eq!(told(host), TEMPERATURE);
        ask(host);
        assert_silence(host);
    }
    assert_silence(&mut hosts[2]);
    // An event that nobody can switch off.
    target.probes[0].raise_event(ERROR);
    for host in &mut hosts {
        assert_eq!(told(host), ERROR);
    }
}

#[test]
fn a_host_that_reads_the_log_page_clears_the_event_for_itself_alone() {
    let target = target();
    let (mut first, mut second) = (target.host(1), target.host(2));
    for host in [&mut first, &mut second] {
        listen(host, WANTS_TEMPERATURE | WANTS_SPARE);
    }
    target.probes[0].raise_event(TEMPERATURE);
    for host in [&mut first, &mut second] {
        assert_eq!(told(host), TEMPERATURE);
        ask(host);
    }
    read_log(&mut first, lid::SMART, false);
    read_log(&mut second, lid::SMART, true);
    // The drive's own event was cleared here, so that it tells of the next one.
    target.probes[0].raise_event(SPARE);
    assert_eq!(told(&mut first), SPARE);
    assert_silence(&mut second);
    read_log(&mut second, lid::SMART, false);
    assert_silence(&mut second);
    target.probes[0].raise_event(TEMPERATURE);
    assert_eq!(told(&mut second), TEMPERATURE);
}

#[test]
fn an_event_waits_for_a_host_that_has_no_request_outstanding() {
    let target = target();
    let mut host = target.host(1);
    listen(&mut host, WANTS_TEMPERATURE);
    target.probes[0].raise_event(ERROR);
    assert_eq!(told(&mut host), ERROR);
    target.probes[0].raise_event(TEMPERATURE);
    assert_silence(&mut host);
    ask(&mut host);
    assert_eq!(told(&mut host), TEMPERATURE);
}

#[test]
fn events_are_promised_as_far_as_their_log_pages_are_open() {
    let target = target();
    let mut host = target.host(1);
    let seen = IdentifyController::read_from_bytes(&host.identify(cns::CONTROLLER, 0).unwrap()).unwrap();
    let seen = Oaes::from_bits_retain(seen.oaes.get());
    let own = Oaes::from_bits_retain(target.infos[0].identify.oaes.get());
    assert!(seen.contains(Oaes::NAMESPACE_ATTRIBUTE));
    assert!((own | Oaes::NAMESPACE_ATTRIBUTE).contains(seen), "{seen:?}");
    // A vendor's log page that no policy opens, and one that it does, told of later.
    listen(&mut host, u32::MAX);
    target.probes[0].raise_event(AsyncEvent::new(aen::TYPE_VENDOR, 1, 0xc5));
    target.probes[0].raise_event(ERROR);
    assert_eq!(told(&mut host), ERROR);
    ask(&mut host);
    assert_silence(&mut host);
}

#[test]
fn a_critical_warning_of_the_drive_reaches_the_hosts_that_watch_its_temperature() {
    let target = target_that_opens(&["inspect", "tune"]);
    let (mut first, mut second) = (target.host(1), target.host(2));
    for host in [&mut first, &mut second] {
        listen(host, WANTS_TEMPERATURE);
    }
    // The drive is at 313 K.
    let mut threshold = SubmissionQueueEntry::new(admin::SET_FEATURES);
    threshold.cdw10.set(fid::TEMPERATURE_THRESHOLD.into());
    threshold.cdw11.set(300);
    assert!(first.command(&threshold, Transfer::None).unwrap().0.status().is_success());
    for host in [&mut first, &mut second] {
        assert_eq!(told(host), TEMPERATURE);
        let log = SmartLog::read_from_bytes(&read_log(host, lid::SMART, false)).unwrap();
        assert_eq!(log.critical_warning, SmartLog::WARNING_TEMPERATURE);
        ask(host);
        assert_silence(host);
    }
}

#[test]
fn the_end_of_a_sanitize_is_told_to_every_host() {
    let target = target_that_opens(&["inspect", "manage"]);
    let (mut first, mut second) = (target.host(1), target.host(2));
    for host in [&mut first, &mut second] {
        listen(host, 0);
    }
    let mut sanitize = SubmissionQueueEntry::new(admin::SANITIZE);
    // Block Erase.
    sanitize.cdw10.set(2);
    assert!(first.command(&sanitize, Transfer::None).unwrap().0.status().is_success());
    let completed = AsyncEvent::new(
        aen::TYPE_IO_COMMAND_SET,
        aen::IO_COMMAND_SET_SANITIZE_COMPLETED,
        lid::SANITIZE_STATUS,
    );
    for host in [&mut first, &mut second] {
        assert_eq!(told(host), completed);
        let page = read_log(host, lid::SANITIZE_STATUS, false);
        assert_eq!(SanitizeLog::read_from_bytes(&page).unwrap().status(), SanitizeLog::SUCCEEDED);
    }
}

/// Whether the drive's own telemetry is there for a host, and its generation.
fn telemetry(admin: &mut AdminQueue, retain: bool) -> (bool, u8) {
    let page = read_log(admin, lid::TELEMETRY_CONTROLLER, retain);
    let header = TelemetryHeader::read_from_bytes(&page).unwrap();
    (header.controller_available != 0, header.controller_generation)
}

#[test]
fn telemetry_that_one_host_has_read_is_there_for_another() {
    let target = target_that_opens(&["inspect", "tune"]);
    for lba in [9, 10] {
        target.probes[0].add_fault(format!("event=telemetry:read:lba={lba}:once").parse().unwrap());
    }
    let (mut first, mut second) = (target.host(1), target.host(2));
    let mut watcher = target.host(3);
    let mut queue = first.connect_io(1).unwrap();
    for host in [&mut first, &mut second] {
        listen(host, TELEMETRY_LOG_NOTICES);
    }
    listen(&mut watcher, 0);
    assert!(!telemetry(&mut second, true).0);
    for (generation, lba) in [(1, 9), (2, 10)] {
        queue.execute(&command(nvm::READ, lba, 1), Transfer::Read(4096)).unwrap();
        for host in [&mut first, &mut second] {
            assert_eq!(told(host), AsyncEvent::TELEMETRY_LOG_CHANGED, "generation {generation}");
            ask(host);
        }
        assert_silence(&mut watcher);
        assert_eq!(telemetry(&mut first, true), (true, generation));
        assert_eq!(telemetry(&mut first, false), (true, generation));
        assert_eq!(telemetry(&mut first, true), (false, generation), "it has read it");
        assert_eq!(telemetry(&mut second, false), (true, generation), "the other has not");
        assert_eq!(telemetry(&mut second, true), (false, generation));
    }
}

#[test]
fn who_sees_a_part_of_a_drive_is_neither_promised_its_telemetry_nor_told_of_it() {
    let drive = EmulatedConfig { size: 8 << 20, namespaces: 2, ..EmulatedConfig::default() };
    let items = ["inspect", "tune", "vendor"].map(|item| item.parse().unwrap());
    let part = vec![Mapping { nsid: 1, drive: 0, drive_nsid: 2 }];
    let target = TestTarget::with(Setup {
        drives: vec![drive],
        exports: Some(vec![Selection::Drive(0), Selection::Namespaces(part)]),
        policies: HostPolicies::all(Policy::new(items, [])),
        ..Setup::default()
    });
    target.probes[0].add_fault("event=telemetry:read:lba=9:once".parse().unwrap());
    let [mut whole, mut part] = [0, 1].map(|export| target.host_with(1, export, &Options::default()));
    for (host, promised) in [(&mut whole, Lpa::TELEMETRY), (&mut part, Lpa::empty())] {
        let lpa = Lpa::from_bits_retain(host.identify_controller().unwrap().lpa);
        assert_eq!(lpa & Lpa::TELEMETRY, promised);
        listen(host, TELEMETRY_LOG_NOTICES);
    }
    let mut queue = whole.connect_io(1).unwrap();
    queue.execute(&command(nvm::READ, 9, 1), Transfer::Read(4096)).unwrap();
    assert_eq!(told(&mut whole), AsyncEvent::TELEMETRY_LOG_CHANGED);
    let vendors = AsyncEvent::new(aen::TYPE_VENDOR, 1, 0xc5);
    ask(&mut whole);
    target.probes[0].raise_event(vendors);
    assert_eq!(told(&mut whole), vendors);
    // The page that would clear them it cannot read.
    assert_silence(&mut part);
}

#[test]
fn a_vendors_event_reaches_the_hosts_that_may_read_its_log_page() {
    let target = target_that_opens(&["inspect", "vendor"]);
    let (mut first, mut second) = (target.host(1), target.host(2));
    let event = AsyncEvent::new(aen::TYPE_VENDOR, 1, 0xc5);
    for host in [&mut first, &mut second] {
        listen(host, 0);
    }
    target.probes[0].raise_event(event);
    for host in [&mut first, &mut second] {
        assert_eq!(told(host), event);
    }
}

/// What the Changed Zone List of a namespace has for a host.
fn changed_zones(admin: &mut AdminQueue, nsid: u32, retain: bool) -> Result<Vec<u64>, Status> {
    let get = GetLogPage { rae: retain, ..GetLogPage::new(lid::CHANGED_ZONE_LIST, 4096) };
    let mut entry = SubmissionQueueEntry::from(get);
    entry.nsid.set(nsid);
    let (completion, data) = admin.command(&entry, Transfer::Read(4096)).unwrap();
    completion.status().into_result()?;
    Ok(ChangedZoneList::read_from_bytes(&data).unwrap().zones().unwrap().collect())
}

#[test]
fn zones_that_change_by_themselves_are_in_a_list_that_each_host_has_to_itself() {
    let zones = Some(ZoneConfig { size: 1 << 20, ..ZoneConfig::default() });
    let drive = EmulatedConfig { size: 8 << 20, namespaces: 2, zones, ..EmulatedConfig::default() };
    let renumbered = Mapping { nsid: 7, drive: 0, drive_nsid: 2 };
    let exports = Some(vec![Selection::Drive(0), Selection::Namespaces(vec![renumbered])]);
    let target = TestTarget::with(Setup { drives: vec![drive], exports, ..Setup::default() });
    let (mut first, mut second) = (target.host(1), target.host(2));
    let mut third = target.host_with(3, 1, &Options::default());
    let mut deaf = target.host(4);
    for host in [&mut first, &mut second, &mut third] {
        assert!(host.identify_controller().unwrap().oaes().contains(Oaes::ZONE_DESCRIPTOR_CHANGED));
        listen(host, Oaes::ZONE_DESCRIPTOR_CHANGED.bits());
    }
    listen(&mut deaf, WANTS_SPARE);
    let wear_out =
        |nsid, zone: u64| target.probes[0].wear_out_zone(nsid, zone * 256, ZoneState::OFFLINE).unwrap();
    let event = AsyncEvent::ZONE_DESCRIPTOR_CHANGED;
    wear_out(2, 3);
    for (host, nsid) in [(&mut first, 2), (&mut second, 2), (&mut third, 7)] {
        assert_eq!(told(host), event.of(nsid));
        ask(host);
    }
    // Until a host has read its list of that namespace it hears no more of it, but of others.
    wear_out(2, 5);
    wear_out(1, 0);
    for host in [&mut first, &mut second] {
        assert_eq!(told(host), event.of(1));
        ask(host);
        assert_silence(host);
    }
    assert_silence(&mut third);
    assert_silence(&mut deaf);
    assert_eq!(changed_zones(&mut first, 2, true), Ok(vec![768, 1280]));
    assert_eq!(changed_zones(&mut first, 2, false), Ok(vec![768, 1280]));
    assert_eq!(changed_zones(&mut first, 2, false), Ok(vec![]));
    assert_eq!(
        (changed_zones(&mut first, 1, false), changed_zones(&mut second, 2, false)),
        (Ok(vec![0]), Ok(vec![768, 1280]))
    );
    assert_eq!(changed_zones(&mut third, 7, false), Ok(vec![768, 1280]));
    for nsid in [1, 2, u32::MAX] {
        assert_eq!(
            changed_zones(&mut third, nsid, false),
            Err(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr())
        );
    }
    wear_out(2, 0);
    for (host, nsid) in [(&mut first, 2), (&mut second, 2), (&mut third, 7)] {
        assert_eq!(told(host), event.of(nsid));
        assert_eq!(changed_zones(host, nsid, false), Ok(vec![0]));
    }
}

#[test]
fn a_host_without_zones_has_no_list_of_changed_ones() {
    let target = target();
    let mut admin = target.host(1);
    assert!(!admin.identify_controller().unwrap().oaes().contains(Oaes::ZONE_DESCRIPTOR_CHANGED));
    assert_eq!(changed_zones(&mut admin, 1, false), Err(Status::INVALID_LOG_PAGE.with_dnr()));
}
