//! Protection information: who inserts, strips and checks it, and what a wrong one is answered with.

use gangway_spec::SubmissionQueueEntry;
use gangway_spec::opcode::nvm as op;

use super::{Data, Subject, command, digest, status};
use crate::drive_check::Outcome;

const PRACT: u32 = 8;

/// A command with PRINFO, and the tags that go with it.
fn guarded(opcode: u8, slba: u64, prinfo: u32, reference: u32, tags: u32) -> SubmissionQueueEntry {
    let mut entry = command(opcode, slba, 2);
    entry.cdw12.set(entry.cdw12.get() | prinfo << 26);
    entry.cdw14.set(reference);
    entry.cdw15.set(tags);
    entry
}

pub(super) fn run(subject: &mut Subject) -> Outcome<()> {
    let Some(format) = subject.namespace.format.filter(|format| format.protection.is_some()) else {
        return Ok(());
    };
    let (block, metadata) = (format.block_size as usize, format.metadata_size as usize);
    let (data, separate) =
        if format.interleaved { (2 * (block + metadata), 0) } else { (2 * (block + metadata), 2 * metadata) };
    let stripped = if metadata == 8 { 2 * block } else { data };
    let tags = 0xffff_1234;
    let content: Vec<u8> = (0..stripped).map(|at| (at * 3) as u8).collect();
    let bare = if metadata == 8 { 0 } else { separate };

    let done = subject.io(&guarded(op::WRITE, 64, PRACT, 64, tags), Data::Out(&content), bare)?;
    subject.note("protected write, inserted", status(done.entry.status()));
    for prinfo in 0..16 {
        for (what, reference, tags) in [
            ("right tags", 64, tags),
            ("another reference", 65, tags),
            ("another application tag", 64, 0xffff_1235),
            ("an application tag that is masked", 64, 0xff00_12ff),
        ] {
            let (len, separate) = if prinfo & PRACT != 0 { (stripped, bare) } else { (data, separate) };
            let done =
                subject.io(&guarded(op::READ, 64, prinfo, reference, tags), Data::In(len), separate)?;
            let answer = match done.entry.status().is_success() {
                true => digest(done.data.bytes()),
                false => status(done.entry.status()),
            };
            subject.note(format!("protected read prinfo {prinfo:x} with {what}"), answer);
            let done = subject.io(&guarded(op::VERIFY, 64, prinfo, reference, tags), Data::None, 0)?;
            subject
                .note(format!("protected verify prinfo {prinfo:x} with {what}"), status(done.entry.status()));
        }
        // Blocks that were never written are not checked.
        let (len, separate) = if prinfo & PRACT != 0 { (stripped, bare) } else { (data, separate) };
        let done = subject.io(&guarded(op::READ, 96, prinfo, 96, tags), Data::In(len), separate)?;
        let answer = format!("{} {}", status(done.entry.status()), digest(done.data.bytes()));
        subject.note(format!("protected read of unwritten blocks, prinfo {prinfo:x}"), answer);
        // Metadata of zeroes is right for no check but that of nothing.
        let zeroes = vec![0x11; len];
        let done = subject.io(&guarded(op::WRITE, 80, prinfo, 80, tags), Data::Out(&zeroes), separate)?;
        subject.note(format!("protected write of nonsense, prinfo {prinfo:x}"), status(done.entry.status()));
    }
    for prinfo in [0, PRACT] {
        let done = subject.io(&guarded(op::WRITE_ZEROES, 64, prinfo, 64, tags), Data::None, 0)?;
        subject.note(format!("protected zeroes, prinfo {prinfo:x}"), status(done.entry.status()));
        let done = subject.io(&guarded(op::READ, 64, 0, 64, tags), Data::In(data), separate)?;
        subject.note(format!("protected read of zeroes, prinfo {prinfo:x}"), digest(done.data.bytes()));
    }
    Ok(())
}
