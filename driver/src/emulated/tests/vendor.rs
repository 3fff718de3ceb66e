//! Commands of the vendor.

use gangway_spec::identify::IdentifyController;
use gangway_spec::log::{CommandsSupportedAndEffectsLog, GetLogPage, lid};

use super::*;
use crate::emulated::vendor::{FETCH, OVERFETCH, STORE};

const ALL: [u8; 3] = [STORE, FETCH, OVERFETCH];

fn command(opcode: u8, len: usize, place: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(opcode);
    entry.nsid.set(1);
    entry.cdw10.set(len as u32 / 4);
    entry.cdw12.set(place);
    entry
}

#[test]
fn what_is_stored_on_one_queue_comes_back_on_any_and_outlives_a_reset() {
    let mut host = Host::new("size=1MiB,vendor");
    let bytes = pattern(7, 512);
    host.admin_write(command(STORE, 512, 1024), &bytes).unwrap();
    assert_eq!(host.admin_read(&command(FETCH, 512, 1024), 512).unwrap(), bytes);
    assert_eq!(host.admin_read(&command(OVERFETCH, 512, 1024), 512).unwrap(), bytes, "no lie was asked for");
    assert_eq!(host.admin_read(&command(FETCH, 8, 1020), 8).unwrap()[..4], [0; 4], "what was before it");

    let mut queue = host.create_queue(1);
    let buffer = host.buffer(PAGE, Direction::DeviceWrites);
    let mut entry = command(FETCH, 512, 1024);
    entry.set_prp(buffer.iova(), 0);
    assert_eq!(queue.run(&entry).status(), Status::SUCCESS);
    assert_eq!(buffer[..512], bytes);
    entry.nsid.set(2);
    assert!(queue.run(&entry).status().is(Status::INVALID_NAMESPACE_OR_FORMAT));

    host.reset();
    assert_eq!(host.admin_read(&command(FETCH, 512, 1024), 512).unwrap(), bytes);
}

#[test]
fn places_that_are_not_there_are_refused() {
    let mut host = Host::new("size=1MiB,vendor,mdts=1");
    for (len, place) in [(512, 65_536), (512, 65_028), (4, 2), (8196, 0), (4, u32::MAX - 3), (0x3fff_fffc, 0)]
    {
        for opcode in ALL {
            let status = host.admin(&command(opcode, len, place)).status();
            assert!(status.is(Status::INVALID_FIELD), "{len} at {place}: {status}");
        }
    }
    assert_eq!(host.admin(&command(FETCH, 0, 65_536)).status(), Status::SUCCESS, "nothing from the end");
    assert_eq!(host.probe.violations(), 0);
}

#[test]
fn the_command_that_lies_goes_on_until_something_stops_it() {
    let mut host = Host::new("size=1MiB,vendor,sgl");
    let mut lie = command(OVERFETCH, 512, 0);
    lie.cdw13.set(1024);
    let mut page = host.buffer(PAGE, Direction::DeviceWrites);
    page.fill(0x11);
    lie.set_prp(page.iova(), 0xdead_0000);
    assert_eq!(host.admin(&lie).status(), Status::SUCCESS, "the page is the host's");
    assert!(page[512..1536].iter().all(|byte| *byte == 0xa5) && page[1536] == 0x11);
    lie.cdw13.set(PAGE as u32);
    assert!(host.admin(&lie).status().is(Status::DATA_TRANSFER_ERROR));
    assert_eq!(host.probe.violations(), 1, "the IOMMU stopped it");

    let mut queue = host.create_queue(1);
    // A data block: the length is the second word.
    lie.set_prp(page.iova(), 512);
    lie.set_psdt(gangway_spec::command::PSDT_SGL);
    assert!(queue.run(&lie).status().is(Status::DATA_SGL_LENGTH_INVALID));
}

#[test]
fn they_are_promised_where_they_are_there_and_nowhere_else() {
    for (options, there) in [("size=1MiB,vendor", true), ("size=1MiB", false)] {
        let mut host = Host::new(options);
        let identify = host.identify(gangway_spec::identify::cns::CONTROLLER, 0).unwrap();
        let identify = IdentifyController::read_from_bytes(&identify).unwrap();
        assert_eq!((identify.avscc, identify.icsvscc), (u8::from(there), u8::from(there)));
        let log = host.log(GetLogPage::new(lid::COMMANDS_SUPPORTED_AND_EFFECTS, 4096), 4096).unwrap();
        let log = CommandsSupportedAndEffectsLog::read_from_bytes(&log).unwrap();
        for opcode in 0xc0..=0xff_u8 {
            let promised = there && ALL.contains(&opcode);
            let index = usize::from(opcode);
            assert_eq!(
                (log.admin[index].get() & 1, log.io[index].get() & 1),
                (promised.into(), promised.into())
            );
            let refused = host.admin(&command(opcode, 0, 0)).status().is(Status::INVALID_OPCODE);
            assert_eq!(refused, !promised, "{opcode:#x}");
        }
    }
}
