//! Firmware Image Download and Firmware Commit.

use gangway_spec::IdentifyController;
use gangway_spec::aen::AsyncEvent;
use gangway_spec::feature::fid;
use gangway_spec::identify::{Oacs, Oaes, cns};
use gangway_spec::log::{FirmwareSlotLog, GetLogPage, lid};

use super::*;

const UNIT: usize = 4096;

fn image(revision: &str, units: usize, flags: u32) -> Vec<u8> {
    let mut image = pattern(5, units * UNIT);
    image[..8].copy_from_slice(format!("{revision:8}").as_bytes());
    image[8..16].copy_from_slice(b"GWFWIMG1");
    image[16..20].copy_from_slice(&((units * UNIT) as u32).to_le_bytes());
    image[20..24].copy_from_slice(&flags.to_le_bytes());
    image
}

impl Host {
    fn download_piece(&mut self, offset: usize, bytes: &[u8]) -> Status {
        let mut entry = SubmissionQueueEntry::new(opcode::admin::FIRMWARE_IMAGE_DOWNLOAD);
        entry.cdw10.set(bytes.len() as u32 / 4 - 1);
        entry.cdw11.set(offset as u32 / 4);
        self.admin_write(entry, bytes).err().unwrap_or(Status::SUCCESS)
    }

    fn download(&mut self, image: &[u8]) {
        for (number, piece) in image.chunks(UNIT).enumerate() {
            assert_eq!(self.download_piece(number * UNIT, piece), Status::SUCCESS);
        }
    }

    fn commit(&mut self, slot: u32, action: u32) -> Status {
        let mut entry = SubmissionQueueEntry::new(opcode::admin::FIRMWARE_COMMIT);
        entry.cdw10.set(action << 3 | slot);
        self.admin(&entry).status()
    }

    fn slots(&mut self) -> FirmwareSlotLog {
        let log = self.log(GetLogPage::new(lid::FIRMWARE_SLOT, 512), 512).unwrap();
        FirmwareSlotLog::read_from_bytes(&log).unwrap()
    }

    pub(super) fn controller(&mut self) -> IdentifyController {
        IdentifyController::read_from_bytes(&self.identify(cns::CONTROLLER, 0).unwrap()).unwrap()
    }

    pub(super) fn reset(&mut self) {
        self.configure(ControllerConfiguration::new());
        self.start_again();
    }
}

#[test]
fn an_image_replaces_a_slot_and_runs_from_the_reset_on_that_was_asked_for() {
    let mut host = Host::new("size=1MiB");
    let controller = host.controller();
    assert!(Oacs::from_bits_retain(controller.oacs.get()).contains(Oacs::FIRMWARE));
    assert_eq!((controller.frmw, controller.fwug), (0x17, 1));
    // In any order.
    let new = image("2.5", 3, 0);
    for number in [2, 0, 1] {
        assert_eq!(host.download_piece(number * UNIT, &new[number * UNIT..][..UNIT]), Status::SUCCESS);
    }
    assert_eq!(host.commit(2, 0), Status::SUCCESS);
    let slots = host.slots();
    assert_eq!((slots.active_slot(), slots.next_slot()), (1, 0));
    assert_eq!((slots.revision(1).unwrap(), slots.revision(2).unwrap()), ("1.0".into(), "2.5".into()));
    host.reset();
    assert_eq!(host.controller().firmware(), "1.0", "nobody asked for the other");
    // The slot's image, and one that is downloaded for that, in a slot of the drive's choice.
    assert_eq!(host.commit(2, 2), Status::SUCCESS);
    assert_eq!((host.slots().active_slot(), host.slots().next_slot()), (1, 2));
    assert_eq!(host.controller().firmware(), "1.0");
    host.reset();
    assert_eq!((host.slots().active_slot(), host.slots().next_slot()), (2, 0));
    assert_eq!(host.controller().firmware(), "2.5");
    host.download(&image("3", 1, 0));
    assert_eq!(host.commit(0, 1), Status::SUCCESS);
    host.reset();
    assert_eq!(host.slots().active_slot(), 3);
    assert_eq!(host.controller().firmware(), "3");
    host.reset();
    assert_eq!(host.controller().firmware(), "3", "a reset that nobody asked anything of changes nothing");
}

#[test]
fn an_activation_without_reset_is_announced_and_one_that_needs_a_reset_says_so() {
    let mut host = Host::new("size=1MiB");
    let mut configure = SubmissionQueueEntry::new(opcode::admin::SET_FEATURES);
    configure.cdw10.set(fid::ASYNC_EVENT_CONFIGURATION.into());
    configure.cdw11.set(Oaes::FIRMWARE_ACTIVATION.bits());
    assert_eq!(host.admin(&configure).status(), Status::SUCCESS);
    let request = SubmissionQueueEntry {
        cid: 77.into(),
        ..SubmissionQueueEntry::new(opcode::admin::ASYNC_EVENT_REQUEST)
    };
    host.admin.submit(&request);
    host.download(&image("2.0", 2, 0));
    assert_eq!(host.commit(3, 3), Status::SUCCESS);
    let event = AsyncEvent::from_dw0(host.admin.poll().expect("the event").dw0.get());
    assert_eq!(event, AsyncEvent::FIRMWARE_ACTIVATION_STARTING);
    assert_eq!((host.controller().firmware().into_owned(), host.slots().active_slot()), ("2.0".into(), 3));
    // Back, with nothing downloaded.
    assert_eq!(host.commit(1, 3), Status::SUCCESS);
    assert_eq!(host.controller().firmware(), "1.0");
    host.download(&image("4.0", 1, 1));
    assert!(host.commit(2, 3).is(Status::FIRMWARE_REQUIRES_CONTROLLER_RESET));
    assert_eq!((host.controller().firmware().into_owned(), host.slots().next_slot()), ("1.0".into(), 2));
    host.reset();
    assert_eq!(host.controller().firmware(), "4.0");
}

#[test]
fn what_is_no_image_or_no_slot_is_refused() {
    let mut host = Host::new("size=1MiB");
    let good = image("2.0", 2, 0);
    assert!(host.commit(2, 0).is(Status::INVALID_FIRMWARE_IMAGE), "nothing was downloaded");
    assert!(host.commit(2, 2).is(Status::INVALID_FIRMWARE_IMAGE), "the slot is empty");
    assert!(host.commit(4, 2).is(Status::INVALID_FIRMWARE_SLOT));
    assert!(host.commit(0, 2).is(Status::INVALID_FIRMWARE_SLOT));
    assert!(host.commit(1, 4).is(Status::INVALID_FIELD));
    // Units and overlaps.
    assert!(host.download_piece(0, &good[..512]).is(Status::INVALID_FIELD));
    assert!(host.download_piece(512, &good[..UNIT]).is(Status::INVALID_FIELD));
    assert!(host.download_piece(1 << 30, &good[..UNIT]).is(Status::INVALID_FIELD));
    host.download(&good);
    assert!(host.download_piece(UNIT, &good[..UNIT]).is(Status::OVERLAPPING_RANGE));
    assert!(host.commit(1, 0).is(Status::INVALID_FIRMWARE_SLOT), "slot 1 is read-only");
    for spoilt in [0, 8, 16] {
        let mut bad = good.clone();
        bad[spoilt] ^= 0x80;
        host.download(&bad);
        assert!(host.commit(2, 1).is(Status::INVALID_FIRMWARE_IMAGE), "byte {spoilt}");
    }
    // A gap, and half an image that a reset has swept away.
    assert_eq!(host.download_piece(UNIT, &good[UNIT..]), Status::SUCCESS);
    assert!(host.commit(2, 1).is(Status::INVALID_FIRMWARE_IMAGE));
    assert_eq!(host.download_piece(0, &good[..UNIT]), Status::SUCCESS);
    host.reset();
    assert_eq!(host.download_piece(UNIT, &good[UNIT..]), Status::SUCCESS);
    assert!(host.commit(2, 1).is(Status::INVALID_FIRMWARE_IMAGE));
    host.reset();
    assert_eq!(host.controller().firmware(), "1.0");
    assert_eq!(host.slots().revision(2), None);
}
