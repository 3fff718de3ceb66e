//! Get Features and Set Features.

use gangway_spec::SubmissionQueueEntry;
use gangway_spec::feature::feature_transfer_length;
use gangway_spec::opcode::admin;

use super::{Data, Subject, status};
use crate::drive_check::Outcome;

/// Set Features: save the value.
const SAVE: u32 = 1 << 31;

fn get(fid: u32, select: u32, nsid: u32, cdw11: u32) -> SubmissionQueueEntry {
    let mut entry = SubmissionQueueEntry::new(admin::GET_FEATURES);
    entry.nsid.set(nsid);
    entry.cdw10.set(select << 8 | fid);
    entry.cdw11.set(cdw11);
    entry
}

pub(super) fn run(subject: &mut Subject) -> Outcome<()> {
    for fid in (0..=0x20).chain(0x7d..=0x85).chain([0xc0]) {
        for select in 0..=4 {
            for nsid in [0, 1, 0x1000, u32::MAX] {
                let entry = get(fid, select, nsid, 0);
                let data = match feature_transfer_length(&entry) as usize {
                    0 => Data::None,
                    len => Data::In(len),
                };
                let (done, _) = subject.admin(&entry, data)?;
                let case = format!("get feature {fid:02x} select {select} nsid {nsid:x}");
                subject.note(case, format!("{} result {:x}", status(done.status()), done.dw0.get()));
            }
        }
    }
    for (fid, cdw11, nsid) in [
        (0x01, 0x0707_0703, 0),
        (0x01, 0, 1),
        (0x02, 1, 0),
        (0x02, 0, 0),
        (0x04, 340, 0),
        (0x04, 1 << 16, 0),
        (0x04, 3 << 20, 0),
        (0x05, 10, 1),
        (0x05, 10, 0x1000),
        (0x05, 0, u32::MAX),
        (0x06, 1, 0),
        (0x07, 0xffff, 0),
        (0x07, 0x0001_0001, 0),
        (0x08, 0x0101, 0),
        (0x09, 1, 0),
        (0x09, 0xffff, 0),
        (0x0a, 1, 0),
        (0x0b, 0x1f, 0),
        (0x0c, 0, 0),
        (0x0d, 0, 0),
        (0x0f, 1000, 0),
        (0x16, 0, 0),
        (0x00, 0, 0),
        (0x80, 1, 0),
        (0xc0, 1, 0),
    ] {
        for save in [0, SAVE] {
            let mut entry = SubmissionQueueEntry::new(admin::SET_FEATURES);
            entry.nsid.set(nsid);
            entry.cdw10.set(save | fid);
            entry.cdw11.set(cdw11);
            let zeroes = vec![0; feature_transfer_length(&entry) as usize];
            let data = if zeroes.is_empty() { Data::None } else { Data::Out(&zeroes) };
            let save = if save == 0 { "" } else { " saved" };
            subject.try_admin(
                format!("set feature {fid:02x} to {cdw11:x} nsid {nsid:x}{save}"),
                &entry,
                data,
            )?;
            if save.is_empty() {
                let (done, _) = subject.admin(&get(fid, 0, nsid, 0), Data::In(4096))?;
                let case = format!("set feature {fid:02x} to {cdw11:x} nsid {nsid:x} read back");
                subject.note(case, format!("{} result {:x}", status(done.status()), done.dw0.get()));
            }
        }
    }
    Ok(())
}
