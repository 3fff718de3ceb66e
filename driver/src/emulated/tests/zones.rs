//! The Zoned Namespace Command Set.

use gangway_spec::identify::{cns, csi};
use gangway_spec::zns::{IdentifyZonedNamespace, ZoneDescriptor, ZoneState, receive, send};

use super::*;

/// Four zones of 16 blocks, of which 12 can be written.
const OPTIONS: &str =
    "zoned,size=256KiB,zone-size=64KiB,zone-capacity=48KiB,max-open=2,max-active=3,zone-extension=64";

struct Zoned {
    host: Host,
    queue: Queue,
    buffer: DmaBuffer,
}

impl Zoned {
    fn new(options: &str) -> Self {
        let host = Host::disabled(options);
        host.configure(good_configuration().with_css(ControllerConfiguration::CSS_ALL));
        assert!(host.status().rdy());
        let mut host = host;
        let queue = host.create_queue(1);
        let buffer = host.buffer(2 * PAGE, Direction::Bidirectional);
        Self { host, queue, buffer }
    }

    fn run(&mut self, mut entry: SubmissionQueueEntry) -> Result<u64, Status> {
        entry.set_prp(self.buffer.iova(), self.buffer.iova() + PAGE as u64);
        let completion = self.queue.run(&entry);
        completion.status().into_result().map(|()| completion.result())
    }

    fn write(&mut self, slba: u64, blocks: u32) -> Result<u64, Status> {
        self.run(io_command(opcode::nvm::WRITE, slba, blocks))
    }

    fn append(&mut self, zslba: u64, blocks: u32) -> Result<u64, Status> {
        self.run(io_command(opcode::zns::ZONE_APPEND, zslba, blocks))
    }

    fn send(&mut self, slba: u64, action: u8, flags: u32) -> Result<u64, Status> {
        let mut entry = io_command(opcode::zns::ZONE_MANAGEMENT_SEND, slba, 1);
        entry.cdw13.set(flags | u32::from(action));
        self.run(entry)
    }

    fn receive(&mut self, slba: u64, len: u32, cdw13: u32) -> Result<Vec<u8>, Status> {
        let mut entry = io_command(opcode::zns::ZONE_MANAGEMENT_RECEIVE, slba, 1);
        entry.cdw12.set(len / 4 - 1);
        entry.cdw13.set(cdw13);
        self.run(entry).map(|_| self.buffer[..len as usize].to_vec())
    }

    /// State and write pointer of each zone, the latter 0 where there is none.
    fn zones(&mut self) -> Vec<(ZoneState, u64)> {
        let report = self.receive(0, 64 * 5, 0).unwrap();
        let zones = report[64..].chunks_exact(64).map(|it| ZoneDescriptor::read_from_bytes(it).unwrap());
        zones.map(|zone| (zone.state(), if zone.wp.get() == u64::MAX { 0 } else { zone.wp.get() })).collect()
    }

    fn state(&mut self, zone: usize) -> ZoneState {
        self.zones()[zone].0
    }
}

fn refused(found: Result<u64, Status>, status: Status) {
    let found = found.unwrap_err();
    assert!(found.is(status) && found.dnr(), "{found} instead of {status}");
}

#[test]
fn zoned_namespaces_are_described() {
    let mut zoned = Zoned::new(OPTIONS);
    let mut identify = SubmissionQueueEntry::new(opcode::admin::IDENTIFY);
    identify.nsid.set(1);
    identify.cdw10.set(cns::IO_COMMAND_SET_NAMESPACE.into());
    identify.cdw11.set(u32::from(csi::ZONED_NAMESPACE) << 24);
    let bytes = zoned.host.admin_read(&identify, PAGE).unwrap();
    let namespace = IdentifyZonedNamespace::read_from_bytes(&bytes).unwrap();
    assert_eq!((namespace.max_open(), namespace.max_active()), (Some(2), Some(3)));
    assert_eq!((namespace.lbafe[4].zsze.get(), namespace.lbafe[4].zdes), (16, 1));
    assert_eq!(namespace.lbafe[0].zsze.get(), 128);
    let sets = zoned.host.identify(cns::IO_COMMAND_SET_COMBINATIONS, 0).unwrap();
    assert_eq!(sets[..9], [5, 0, 0, 0, 0, 0, 0, 0, 0]);
    identify.cdw11.set(0);
    assert!(
        zoned.host.admin_read(&identify, PAGE).unwrap_err().is(Status::INVALID_FIELD),
        "another command set"
    );
}

#[test]
fn a_zone_is_written_in_order_and_not_beyond_its_capacity() {
    let mut zoned = Zoned::new(OPTIONS);
    refused(zoned.write(1, 1), Status::ZONE_INVALID_WRITE);
    zoned.buffer.fill(3);
    assert_eq!(zoned.write(0, 2), Ok(0));
    assert_eq!(zoned.zones()[0], (ZoneState::IMPLICITLY_OPENED, 2));
    refused(zoned.write(0, 1), Status::ZONE_INVALID_WRITE);
    zoned.buffer.fill(3);
    for slba in (2..12).step_by(2) {
        assert_eq!(zoned.write(slba, 2), Ok(0));
    }
    assert_eq!(zoned.state(0), ZoneState::FULL);
    refused(zoned.write(12, 1), Status::ZONE_IS_FULL);
    assert_eq!(zoned.append(16, 1), Ok(16));
    assert_eq!(zoned.append(16, 2), Ok(17));
    refused(zoned.append(17, 1), Status::INVALID_FIELD);
    for _ in 0..4 {
        zoned.append(16, 2).unwrap();
    }
    refused(zoned.append(16, 2), Status::ZONE_BOUNDARY_ERROR);
    assert_eq!(zoned.append(16, 1), Ok(27));
    refused(zoned.append(16, 1), Status::ZONE_IS_FULL);
    assert_eq!(zoned.run(io_command(opcode::nvm::READ, 10, 2)), Ok(0));
    assert!(zoned.buffer.iter().all(|byte| *byte == 3));
    refused(zoned.run(io_command(opcode::nvm::READ, 15, 2)), Status::ZONE_BOUNDARY_ERROR);
    assert_eq!(zoned.send(0, send::RESET, 0), Ok(0));
    assert_eq!(zoned.run(io_command(opcode::nvm::READ, 10, 2)), Ok(0));
    assert!(zoned.buffer.iter().all(|byte| *byte == 0));
    assert_eq!(zoned.zones()[..2], [(ZoneState::EMPTY, 0), (ZoneState::FULL, 0)]);
}

#[test]
fn every_transition_is_that_of_the_specification() {
    use ZoneState as S;
    let actions = [send::OPEN, send::CLOSE, send::FINISH, send::RESET, send::OFFLINE];
    for (state, after) in [
        (S::EMPTY, [Some(S::EXPLICITLY_OPENED), None, Some(S::FULL), Some(S::EMPTY), None]),
        (
            S::IMPLICITLY_OPENED,
            [Some(S::EXPLICITLY_OPENED), Some(S::CLOSED), Some(S::FULL), Some(S::EMPTY), None],
        ),
        (
            S::EXPLICITLY_OPENED,
            [Some(S::EXPLICITLY_OPENED), Some(S::CLOSED), Some(S::FULL), Some(S::EMPTY), None],
        ),
        (S::CLOSED, [Some(S::EXPLICITLY_OPENED), Some(S::CLOSED), Some(S::FULL), Some(S::EMPTY), None]),
        (S::FULL, [None, None, Some(S::FULL), Some(S::EMPTY), None]),
        (S::READ_ONLY, [None, None, None, None, Some(S::OFFLINE)]),
        (S::OFFLINE, [None, None, None, None, Some(S::OFFLINE)]),
    ] {
        for (action, after) in actions.into_iter().zip(after) {
            let mut zoned = Zoned::new(OPTIONS);
            match state {
                S::EMPTY => {}
                S::IMPLICITLY_OPENED => drop(zoned.write(0, 1).unwrap()),
                S::EXPLICITLY_OPENED => drop(zoned.send(0, send::OPEN, 0).unwrap()),
                S::CLOSED => {
                    zoned.write(0, 1).unwrap();
                    zoned.send(0, send::CLOSE, 0).unwrap();
                }
                S::FULL => drop(zoned.send(0, send::FINISH, 0).unwrap()),
                worn => zoned.host.probe.wear_out_zone(1, 0, worn).unwrap(),
            }
            assert_eq!(zoned.state(0), state);
            let found = zoned.send(0, action, 0);
            match after {
                Some(after) => {
                    assert_eq!(found, Ok(0), "{state:?} action {action}");
                    assert_eq!(zoned.state(0), after, "{state:?} action {action}");
                }
                None => refused(found, Status::INVALID_ZONE_STATE_TRANSITION),
            }
        }
    }
    let mut zoned = Zoned::new(OPTIONS);
    refused(zoned.send(1, send::OPEN, 0), Status::INVALID_FIELD);
    refused(zoned.send(64, send::OPEN, 0), Status::LBA_OUT_OF_RANGE);
    refused(zoned.send(0, 0x77, 0), Status::INVALID_FIELD);
    zoned.host.probe.wear_out_zone(1, 16, S::READ_ONLY).unwrap();
    refused(zoned.write(16, 1), Status::ZONE_IS_READ_ONLY);
    assert_eq!(zoned.run(io_command(opcode::nvm::READ, 16, 1)), Ok(0));
    assert_eq!(zoned.send(0, send::OFFLINE, send::SELECT_ALL), Ok(0));
    refused(zoned.write(16, 1), Status::ZONE_IS_OFFLINE);
    refused(zoned.run(io_command(opcode::nvm::READ, 16, 1)), Status::ZONE_IS_OFFLINE);
}

#[test]
fn open_and_active_zones_are_limited() {
    let mut zoned = Zoned::new(OPTIONS);
    zoned.send(0, send::OPEN, 0).unwrap();
    zoned.write(16, 1).unwrap();
    // The drive closes what it opened by itself.
    zoned.write(32, 1).unwrap();
    let states: Vec<ZoneState> = zoned.zones().into_iter().map(|zone| zone.0).collect();
    let (explicit, implicit) = (ZoneState::EXPLICITLY_OPENED, ZoneState::IMPLICITLY_OPENED);
    assert_eq!(states, [explicit, ZoneState::CLOSED, implicit, ZoneState::EMPTY]);
    refused(zoned.write(48, 1), Status::TOO_MANY_ACTIVE_ZONES);
    zoned.send(32, send::OPEN, 0).unwrap();
    refused(zoned.write(17, 1), Status::TOO_MANY_OPEN_ZONES);
    refused(zoned.send(0, send::OPEN, send::SELECT_ALL), Status::TOO_MANY_OPEN_ZONES);
    zoned.send(0, send::FINISH, send::SELECT_ALL).unwrap();
    let states: Vec<ZoneState> = zoned.zones().into_iter().map(|zone| zone.0).collect();
    assert_eq!(states, [ZoneState::FULL, ZoneState::FULL, ZoneState::FULL, ZoneState::EMPTY]);
    zoned.send(0, send::RESET, send::SELECT_ALL).unwrap();
    assert!(zoned.zones().iter().all(|zone| zone.0 == ZoneState::EMPTY));
}

#[test]
fn reports_filter_count_and_extend() {
    let mut zoned = Zoned::new(OPTIONS);
    zoned.buffer.fill(0x5a);
    assert_eq!(zoned.send(16, send::SET_DESCRIPTOR_EXTENSION, 0), Ok(0));
    assert_eq!(zoned.state(1), ZoneState::CLOSED);
    refused(zoned.send(16, send::SET_DESCRIPTOR_EXTENSION, 0), Status::INVALID_ZONE_STATE_TRANSITION);
    let count = |report: &[u8]| report[0];
    let empty = u32::from(receive::EMPTY) << 8;
    let report = zoned.receive(0, 128, empty).unwrap();
    assert_eq!((count(&report), report[64 + 16]), (3, 0));
    assert_eq!(count(&zoned.receive(0, 128, empty | receive::PARTIAL).unwrap()), 1);
    assert_eq!(count(&zoned.receive(20, 128, 0).unwrap()), 3, "from the zone of that block on");
    let report = zoned.receive(16, 64 + 128, receive::EXTENDED_REPORT.into()).unwrap();
    let zone = ZoneDescriptor::read_from_bytes(&report[64..128]).unwrap();
    assert_eq!((zone.state(), zone.za), (ZoneState::CLOSED, ZoneDescriptor::EXTENSION_VALID));
    assert!(report[128..192].iter().all(|byte| *byte == 0x5a));
    for (slba, len, cdw13, status) in [
        (64, 128, 0, Status::LBA_OUT_OF_RANGE),
        (0, 60, 0, Status::INVALID_FIELD),
        (0, 128, 2, Status::INVALID_FIELD),
        (0, 128, 8 << 8, Status::INVALID_FIELD),
    ] {
        let found = zoned.receive(slba, len, cdw13).unwrap_err();
        assert!(found.is(status), "{found} instead of {status}");
    }
}

#[test]
fn zones_survive_a_reset_and_a_shutdown_closes_them() {
    let mut zoned = Zoned::new(OPTIONS);
    zoned.write(0, 2).unwrap();
    zoned.send(16, send::OPEN, 0).unwrap();
    let css = good_configuration().with_css(ControllerConfiguration::CSS_ALL);
    let restart = |zoned: &mut Zoned| {
        zoned.host.configure(ControllerConfiguration::new());
        let admin = &mut zoned.host.admin;
        (admin.tail, admin.head, admin.phase) = (0, 0, true);
        admin.cq.fill(0);
        zoned.host.configure(css);
        zoned.queue = zoned.host.create_queue(1);
    };
    restart(&mut zoned);
    let states: Vec<(ZoneState, u64)> = zoned.zones();
    assert_eq!(states[..2], [(ZoneState::IMPLICITLY_OPENED, 2), (ZoneState::EXPLICITLY_OPENED, 16)]);
    zoned.host.configure(css.with_shn(ControllerConfiguration::SHN_NORMAL));
    restart(&mut zoned);
    assert_eq!(zoned.zones()[..2], [(ZoneState::CLOSED, 2), (ZoneState::EMPTY, 16)]);
}

#[test]
fn appends_remap_the_reference_tags_of_type_1() {
    let mut zoned = Zoned::new("zoned,size=128KiB,zone-size=64KiB,block=512,ms=8,pi=1");
    let metadata = zoned.host.buffer(PAGE, Direction::Bidirectional);
    let append = |control: u32| {
        let mut entry = io_command(opcode::zns::ZONE_APPEND, 0, 1);
        entry.cdw12.set(control);
        entry.mptr.set(metadata.iova());
        entry
    };
    refused(zoned.run(append(1 << 29)), Status::INVALID_PROTECTION_INFORMATION);
    for slba in 0..3 {
        assert_eq!(zoned.run(append(1 << 29 | 1 << 25)), Ok(slba));
    }
    let mut read = io_command(opcode::nvm::READ, 0, 3);
    read.cdw12.set(read.cdw12.get() | 5 << 26);
    read.mptr.set(metadata.iova());
    assert_eq!(zoned.run(read), Ok(0));
    assert_eq!(metadata[16 + 7], 2);
}
