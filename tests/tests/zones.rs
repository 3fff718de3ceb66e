//! Zoned namespaces from afar, on an emulated drive that has one beside an ordinary drive.
#![allow(clippy::unwrap_used)] // Tests end where something fails.

use gangway_bridge::{Mapping, Selection};
use gangway_driver::emulated::EmulatedConfig;
use gangway_fabric::host::client::{AdminQueue, IoQueue, Transfer};
use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::feature::fid;
use gangway_spec::identify::{NamespaceIdDescriptor, cns, csi};
use gangway_spec::log::{CommandsSupportedAndEffectsLog, GetLogPage, lid};
use gangway_spec::nvm::{set_nlb, set_slba};
use gangway_spec::opcode::{admin, nvm, zns};
use gangway_spec::registers::{self, ControllerCapabilities, ControllerConfiguration};
use gangway_spec::status::Status;
use gangway_spec::zns::{
    IdentifyZonedController, IdentifyZonedNamespace, ZoneDescriptor, ZoneState, receive, send,
};
use gangway_tests::{Setup, TestTarget};
use zerocopy::FromBytes;

/// Eight zones of 16 blocks, of which 12 can be written.
const ZONED: &str =
    "zoned,size=512KiB,zone-size=64KiB,zone-capacity=48KiB,max-open=2,max-active=3,zone-extension=64";

fn zoned(options: &str) -> TestTarget {
    TestTarget::with(Setup { drives: vec![options.parse().unwrap()], ..Setup::default() })
}

fn command(opcode: u8, slba: u64, blocks: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.nsid.set(1);
    set_slba(&mut entry, slba);
    set_nlb(&mut entry, blocks);
    entry
}

fn append(queue: &mut IoQueue, zone: u64, blocks: u32) -> Result<u64, Status> {
    let data = Transfer::Write(vec![zone as u8 + 1; blocks as usize * 4096].into());
    let completed = queue.execute(&command(zns::ZONE_APPEND, zone, blocks), data).unwrap();
    completed.entry.status().into_result().map(|()| completed.entry.result())
}

fn manage(queue: &mut IoQueue, zone: u64, action: u8) -> Status {
    let mut entry = command(zns::ZONE_MANAGEMENT_SEND, zone, 1);
    entry.cdw13.set(action.into());
    queue.execute(&entry, Transfer::None).unwrap().entry.status()
}

/// State and write pointer of each zone.
fn report(queue: &mut IoQueue) -> Vec<(ZoneState, u64)> {
    let mut entry = command(zns::ZONE_MANAGEMENT_RECEIVE, 0, 1);
    let length = 64 * 9;
    entry.cdw12.set(length / 4 - 1);
    entry.cdw13.set(receive::PARTIAL);
    let completed = queue.execute(&entry, Transfer::Read(length)).unwrap();
    assert_eq!(completed.entry.status(), Status::SUCCESS);
    let zones = completed.data[64..].chunks(64).map(|bytes| ZoneDescriptor::read_from_bytes(bytes).unwrap());
    zones.map(|zone| (zone.state(), zone.wp.get())).collect()
}

fn identify(host: &mut AdminQueue, cns: u8, nsid: u32, csi: u8) -> Result<Vec<u8>, Status> {
    let mut entry = SubmissionQueueEntry::new(admin::IDENTIFY);
    entry.nsid.set(nsid);
    entry.cdw10.set(0xffff_0000 | u32::from(cns));
    entry.cdw11.set(u32::from(csi) << 24);
    let (completion, data) = host.command(&entry, Transfer::Read(4096)).unwrap();
    completion.status().into_result().map(|()| data.to_vec())
}

fn io_effects(host: &mut AdminQueue, csi: u8) -> CommandsSupportedAndEffectsLog {
    let get = GetLogPage { csi, ..GetLogPage::new(lid::COMMANDS_SUPPORTED_AND_EFFECTS, 4096) };
    let (completion, data) = host.command(&get.into(), Transfer::Read(4096)).unwrap();
    assert_eq!(completion.status(), Status::SUCCESS);
    CommandsSupportedAndEffectsLog::read_from_bytes(&data).unwrap()
}

fn numbers(list: &[u8]) -> Vec<u32> {
    let numbers = list.chunks(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
    numbers.take_while(|number| *number != 0).collect()
}

#[test]
fn appends_say_where_they_went_and_zones_are_reported_opened_finished_and_reset() {
    let target = zoned(ZONED);
    let (_host, mut queue) = target.queue(1);
    assert_eq!((append(&mut queue, 16, 2), append(&mut queue, 16, 3)), (Ok(16), Ok(18)));
    assert_eq!(append(&mut queue, 32, 1), Ok(32));
    assert_eq!(queue.read_blocks(1, 16, 5, 4096).unwrap(), vec![17; 5 * 4096]);
    assert_eq!(manage(&mut queue, 0, send::OPEN), Status::SUCCESS);
    assert_eq!(manage(&mut queue, 32, send::FINISH), Status::SUCCESS);
    let zones = report(&mut queue);
    assert_eq!(zones[0], (ZoneState::EXPLICITLY_OPENED, 0));
    assert_eq!(zones[1], (ZoneState::CLOSED, 21), "there were two more to open, and two may be open");
    assert_eq!(zones[2].0, ZoneState::FULL);
    assert_eq!(zones[3], (ZoneState::EMPTY, 48));

    // What the drive refuses comes through as it says it.
    assert!(append(&mut queue, 32, 1).unwrap_err().is(Status::ZONE_IS_FULL));
    assert!(append(&mut queue, 17, 1).unwrap_err().is(Status::INVALID_FIELD), "not where a zone begins");
    let write = queue.execute(&command(nvm::WRITE, 20, 1), Transfer::Write(vec![1; 4096].into())).unwrap();
    assert!(write.entry.status().is(Status::ZONE_INVALID_WRITE));

    assert_eq!(manage(&mut queue, 16, send::RESET), Status::SUCCESS);
    let mut all = command(zns::ZONE_MANAGEMENT_SEND, 0, 1);
    all.cdw13.set(u32::from(send::RESET) | send::SELECT_ALL);
    assert_eq!(queue.execute(&all, Transfer::None).unwrap().entry.status(), Status::SUCCESS);
    assert!(report(&mut queue).iter().all(|(state, _)| *state == ZoneState::EMPTY));

    let mut extension = command(zns::ZONE_MANAGEMENT_SEND, 48, 1);
    extension.cdw13.set(send::SET_DESCRIPTOR_EXTENSION.into());
    let set = queue.execute(&extension, Transfer::Write(vec![7; 64].into())).unwrap();
    assert_eq!(set.entry.status(), Status::SUCCESS);
    assert_eq!(report(&mut queue)[3].0, ZoneState::CLOSED);
    let mut get = command(zns::ZONE_MANAGEMENT_RECEIVE, 48, 1);
    get.cdw12.set((64 + 128) / 4 - 1);
    get.cdw13.set(receive::PARTIAL | u32::from(receive::EXTENDED_REPORT));
    let extended = queue.execute(&get, Transfer::Read(192)).unwrap();
    assert_eq!(extended.data[128..], [7; 64]);
    target.assert_no_violations();
}

#[test]
fn the_controller_says_what_hosts_of_zones_look_at() {
    let target = zoned(ZONED);
    let mut host = target.host(1);
    let cap = ControllerCapabilities::from_bits(host.property_get(registers::CAP).unwrap());
    assert_eq!(cap.css(), ControllerCapabilities::CSS_NVM | ControllerCapabilities::CSS_IO_COMMAND_SETS);
    assert_eq!(host.active_namespaces().unwrap(), [1]);
    let list = |host: &mut AdminQueue, csi| {
        numbers(&identify(host, cns::IO_COMMAND_SET_ACTIVE_LIST, 0, csi).unwrap())
    };
    assert_eq!(list(&mut host, csi::ZONED_NAMESPACE), [1]);
    assert_eq!(list(&mut host, csi::NVM), [0; 0]);
    let data = identify(&mut host, cns::IO_COMMAND_SET_NAMESPACE, 1, csi::ZONED_NAMESPACE).unwrap();
    let namespace = IdentifyZonedNamespace::read_from_bytes(&data).unwrap();
    assert_eq!((namespace.max_open(), namespace.max_active()), (Some(2), Some(3)));
    let data = identify(&mut host, cns::IO_COMMAND_SET_CONTROLLER, 0, csi::ZONED_NAMESPACE).unwrap();
    assert_eq!(IdentifyZonedController::read_from_bytes(&data).unwrap().zasl, 0, "as MDTS");
    let data = identify(&mut host, cns::IO_COMMAND_SET_COMBINATIONS, 0, 0).unwrap();
    assert_eq!(data[..16], [0b101, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let data = identify(&mut host, cns::NAMESPACE_DESCRIPTORS, 1, 0).unwrap();
    let sets: Vec<_> = NamespaceIdDescriptor::parse(&data)
        .filter(|descriptor| descriptor.nidt == NamespaceIdDescriptor::CSI)
        .map(|descriptor| descriptor.nid.to_vec())
        .collect();
    assert_eq!(sets, [[csi::ZONED_NAMESPACE]]);
    for (set, there) in [(csi::NVM, 0), (csi::ZONED_NAMESPACE, 1)] {
        let log = io_effects(&mut host, set);
        assert_eq!(log.io[usize::from(nvm::READ)].get() & 1, 1);
        for opcode in [zns::ZONE_APPEND, zns::ZONE_MANAGEMENT_SEND, zns::ZONE_MANAGEMENT_RECEIVE] {
            assert_eq!(log.io[usize::from(opcode)].get() & 1, there, "{opcode:#x} in command set {set}");
        }
    }
    let mut profile = SubmissionQueueEntry::new(admin::SET_FEATURES);
    profile.cdw10.set(fid::IO_COMMAND_SET_PROFILE.into());
    let mut set = |index| {
        profile.cdw11.set(index);
        host.command(&profile, Transfer::None).unwrap().0.status()
    };
    assert_eq!(set(0), Status::SUCCESS);
    assert!(set(1).is(Status::IO_COMMAND_SET_COMBINATION_REJECTED));
}

#[test]
fn a_host_that_enables_the_nvm_command_set_alone_does_not_see_zones() {
    let target = zoned(ZONED);
    let mut host = target.host(1);
    host.disable().unwrap();
    let configuration =
        ControllerConfiguration::new().with_en(true).with_iosqes(6).with_iocqes(4).into_bits();
    host.property_set(registers::CC, configuration).unwrap();
    assert_eq!(host.active_namespaces().unwrap(), [0; 0]);
}

#[test]
fn an_export_may_have_ordinary_and_zoned_namespaces_of_several_drives() {
    let drives = vec![EmulatedConfig { size: 8 << 20, ..EmulatedConfig::default() }, ZONED.parse().unwrap()];
    let mapping = |nsid, drive| Mapping { nsid, drive, drive_nsid: 1 };
    let exports = Some(vec![Selection::Namespaces(vec![mapping(1, 1), mapping(5, 0)])]);
    let target = TestTarget::with(Setup { drives, exports, ..Setup::default() });
    let (mut host, mut queue) = target.queue(1);
    assert_eq!(host.active_namespaces().unwrap(), [1, 5]);
    // The drive of namespace 5 has no command sets, so it does not say to which one that belongs.
    let data = identify(&mut host, cns::NAMESPACE_DESCRIPTORS, 5, 0).unwrap();
    let found = NamespaceIdDescriptor::parse(&data).find(|one| one.nidt == NamespaceIdDescriptor::CSI);
    assert_eq!(found.unwrap().nid, [csi::NVM]);
    assert_eq!(io_effects(&mut host, csi::ZONED_NAMESPACE).io[usize::from(zns::ZONE_APPEND)].get() & 1, 1);
    assert_eq!(append(&mut queue, 0, 1), Ok(0));
    let mut foreign = command(zns::ZONE_APPEND, 0, 1);
    foreign.nsid.set(5);
    let refused = queue.execute(&foreign, Transfer::Write(vec![0; 4096].into())).unwrap().entry.status();
    assert_eq!(refused, Status::INVALID_OPCODE.with_dnr());
    queue.write_blocks(5, 3, 4096, &[6; 4096]).unwrap();
    assert_eq!(queue.read_blocks(5, 3, 1, 4096).unwrap(), [6; 4096]);
    target.assert_no_violations();
}
