//! Opcodes, Identify, log pages, Abort and events.

use gangway_spec::identify::{IdentifyNamespace, cns};
use gangway_spec::log::GetLogPage;
use gangway_spec::opcode::admin;
use gangway_spec::{IdentifyController, SubmissionQueueEntry};
use zerocopy::FromBytes;

use super::{Data, Subject, digest, status};
use crate::drive_check::Outcome;

/// Commands that must not be tried without thought, or that have their own cases.
const APART: [u8; 16] = [
    admin::FABRICS,
    admin::CREATE_IO_SQ,
    admin::CREATE_IO_CQ,
    admin::CONTROLLER_DATA_QUEUE,
    admin::ASYNC_EVENT_REQUEST,
    admin::NAMESPACE_MANAGEMENT,
    admin::FIRMWARE_COMMIT,
    admin::FIRMWARE_IMAGE_DOWNLOAD,
    admin::DEVICE_SELF_TEST,
    admin::NAMESPACE_ATTACHMENT,
    admin::VIRTUALIZATION_MANAGEMENT,
    admin::DOORBELL_BUFFER_CONFIG,
    admin::FORMAT_NVM,
    admin::SANITIZE,
    admin::GET_FEATURES,
    admin::SET_FEATURES,
];

const NSIDS: [u32; 6] = [0, 1, 2, 0x1000, 0xffff_fffe, 0xffff_ffff];

pub(super) fn run(subject: &mut Subject) -> Outcome<()> {
    for opcode in (0..=u8::MAX).filter(|opcode| !APART.contains(opcode)) {
        let entry = SubmissionQueueEntry::new(opcode);
        subject.try_admin(format!("admin opcode {opcode:02x}"), &entry, Data::of(opcode))?;
    }
    for flags in [0x01, 0x02, 0x03, 0x40, 0x80, 0xc0] {
        let mut entry = SubmissionQueueEntry::new(admin::IDENTIFY);
        entry.cdw10.set(cns::CONTROLLER.into());
        // PSDT is the driver's to set: what remains is FUSE.
        entry.flags = flags & 0x3;
        if flags & 0x3 != 0 {
            subject.try_admin(format!("admin fuse {flags}"), &entry, Data::In(4096))?;
        }
    }
    identify(subject)?;
    logs(subject)?;
    for (sqid, cid) in [(0, 0x7777), (1, 0x7777), (7, 0), (0xffff, 0)] {
        let mut entry = SubmissionQueueEntry::new(admin::ABORT);
        entry.cdw10.set(cid << 16 | sqid);
        let (done, _) = subject.admin(&entry, Data::None)?;
        subject.note(
            format!("abort sq {sqid} cid {cid}"),
            format!("{} result {}", status(done.status()), done.dw0.get()),
        );
    }
    Ok(())
}

fn identify(subject: &mut Subject) -> Outcome<()> {
    for cns in (0..=0x20).chain([0xff]) {
        for nsid in NSIDS {
            let sets: &[u32] =
                if (5..=10).contains(&cns) || matches!(cns, 0x1a | 0x1b) { &[0, 1, 2] } else { &[0] };
            for set in sets {
                let mut entry = SubmissionQueueEntry::new(admin::IDENTIFY);
                entry.nsid.set(nsid);
                entry.cdw10.set(cns);
                entry.cdw11.set(set << 24);
                let (done, bytes) = subject.admin(&entry, Data::In(4096))?;
                let case = format!("identify cns {cns:02x} csi {set} nsid {nsid:x}");
                let answer = match (done.status().is_success(), cns as u8) {
                    (false, _) => status(done.status()),
                    (true, cns::NAMESPACE | cns::ALLOCATED_NAMESPACE) => namespace(&bytes),
                    (true, cns::CONTROLLER) => controller(&bytes),
                    // Who a drive is differs; that it says so does not.
                    (true, cns::NAMESPACE_DESCRIPTORS) => "ok".to_owned(),
                    (true, _) => digest(&bytes),
                };
                subject.note(case, answer);
            }
        }
    }
    Ok(())
}

fn namespace(bytes: &[u8]) -> String {
    let Ok(it) = IdentifyNamespace::read_from_bytes(bytes) else { return "short".to_owned() };
    let formats: Vec<String> = it.lbaf[..=usize::from(it.nlbaf)].iter().map(ToString::to_string).collect();
    format!(
        "nsze {} ncap {} flbas {:x} mc {:x} dpc {:x} dps {:x} dlfeat {:x} formats {}",
        it.nsze.get(),
        it.ncap.get(),
        it.flbas,
        it.mc,
        it.dpc,
        it.dps,
        it.dlfeat & 0x7,
        formats.join(", ")
    )
}

fn controller(bytes: &[u8]) -> String {
    let Ok(it) = IdentifyController::read_from_bytes(bytes) else { return "short".to_owned() };
    format!(
        "mdts {} cntrltype {} sqes {:x} cqes {:x} nn {} wctemp {} cctemp {}",
        it.mdts,
        it.cntrltype,
        it.sqes,
        it.cqes,
        it.nn.get(),
        it.wctemp.get(),
        it.cctemp.get()
    )
}

fn logs(subject: &mut Subject) -> Outcome<()> {
    for lid in (0..=0x10).chain([0x70, 0x80, 0x81, 0xbf, 0xc0]) {
        for nsid in [0xffff_ffff, 0, 1, 0x1000] {
            let get = GetLogPage::new(lid, 512);
            let mut entry = SubmissionQueueEntry::from(get);
            entry.nsid.set(nsid);
            subject.try_admin(format!("log {lid:02x} nsid {nsid:x}"), &entry, Data::In(512))?;
        }
    }
    for (lid, lpo, len) in [
        (2, 0, 4),
        (2, 4, 8),
        (2, 2, 8),
        (2, 508, 4),
        (2, 512, 4),
        (2, 1 << 32, 4),
        (3, 8, 16),
        (3, 1024, 4),
        (1, 64, 64),
        (5, 4092, 4),
    ] {
        let mut entry = SubmissionQueueEntry::from(GetLogPage { lpo, ..GetLogPage::new(lid, len) });
        entry.nsid.set(u32::MAX);
        subject.try_admin(
            format!("log {lid:02x} offset {lpo} length {len}"),
            &entry,
            Data::In(len as usize),
        )?;
    }
    Ok(())
}
