//! Queues that cannot be deleted, and requests for events. Queues cannot be created here: the driver does that alone, as
//! it vouches for their memory.

use std::time::Instant;

use gangway_spec::SubmissionQueueEntry;
use gangway_spec::opcode::admin;

use super::{Data, PATIENCE, Subject, status};
use crate::drive_check::Outcome;

pub(super) fn run(subject: &mut Subject) -> Outcome<()> {
    for (what, opcode, qid) in [
        ("delete sq 0", admin::DELETE_IO_SQ, 0),
        ("delete sq that is not there", admin::DELETE_IO_SQ, 2),
        ("delete sq 9999", admin::DELETE_IO_SQ, 9999),
        ("delete cq 0", admin::DELETE_IO_CQ, 0),
        ("delete cq that is not there", admin::DELETE_IO_CQ, 2),
        ("delete cq 9999", admin::DELETE_IO_CQ, 9999),
        ("delete cq in use", admin::DELETE_IO_CQ, 1),
    ] {
        let mut entry = SubmissionQueueEntry::new(opcode);
        entry.cdw10.set(qid);
        subject.try_admin(format!("queue: {what}"), &entry, Data::None)?;
    }
    events(subject)
}

/// More requests for events than the drive takes: those beyond the limit come back.
fn events(subject: &mut Subject) -> Outcome<()> {
    let limit = usize::from(subject.controller.identify().aerl) + 1;
    let mut out = Vec::new();
    let request = SubmissionQueueEntry::new(admin::ASYNC_EVENT_REQUEST);
    let deadline = Instant::now() + PATIENCE;
    for tag in 0..=limit as u64 {
        let queue = subject.controller.admin_queue();
        queue.submit(&request, gangway_driver::CommandData::None, tag, Instant::now() + 60 * PATIENCE)?;
        queue.ring();
    }
    while out.is_empty() && Instant::now() < deadline {
        subject.controller.reap_admin(&mut out)?;
        std::hint::spin_loop();
    }
    let answers: Vec<String> = out.iter().map(|done| status(done.entry.status())).collect();
    subject.note("more requests for events than the limit", answers.join(", "));
    Ok(())
}
