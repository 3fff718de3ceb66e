//! Commands that change a drive for good: `format`, namespaces, `sanitize`, self-tests, firmware.

mod firmware;
mod format;
mod namespaces;
mod sanitize;
mod self_test;

use std::time::{Duration, Instant};

use anyhow::bail;
use gangway_spec::SubmissionQueueEntry;

pub(crate) use self::firmware::{FwCommit, FwDownload};
pub(crate) use self::format::Format;
pub(crate) use self::namespaces::{AttachNs, CreateNs, DeleteNs, DetachNs};
pub(crate) use self::sanitize::Sanitize;
pub(crate) use self::self_test::DeviceSelfTest;
use super::progress::{Interrupts, Progress};
use super::session::{LOOK, Session};
use crate::device::{Answer, Data, QueueKind, time_limit};

/// How often a drive is asked how far it is.
const ASK: Duration = Duration::from_secs(1);

/// Runs an admin command that takes long, and says how far it is by what `ask` finds out: how much is done, of how much.
///
/// `leaving` says what becomes of the work when somebody presses Ctrl-C. On a drive that this process runs, the first
/// time it only says so: letting go resets the drive, in the middle of its work.
fn run_long(
    session: &mut Session,
    entry: &SubmissionQueueEntry,
    what: &str,
    leaving: &str,
    limit: Option<Duration>,
    mut ask: impl FnMut(&mut Session) -> Option<(u64, u64)>,
) -> anyhow::Result<Answer> {
    let interrupts = Interrupts::watch()?;
    let mut progress = Progress::new(what);
    let ticket = session.submit(QueueKind::Admin, entry, Data::None)?;
    let limit = limit.unwrap_or_else(|| time_limit(&*session.device, QueueKind::Admin, entry));
    let (start, mut asked, mut warned) = (Instant::now(), Instant::now(), false);
    loop {
        if let Some(answer) = session.device.poll(ticket, LOOK)? {
            return session.check(QueueKind::Admin, entry, answer);
        }
        if start.elapsed() >= limit {
            bail!("{}: {what} did not complete within {} s", session.name(), limit.as_secs_f32());
        }
        match interrupts.count() {
            0 => {}
            1 if session.device.is_ours() => {
                if !warned {
                    eprintln!("\n{what}: {leaving}; press Ctrl-C once more to leave all the same");
                    warned = true;
                }
            }
            _ => bail!("{what}: left before it was complete: {leaving}"),
        }
        if asked.elapsed() >= ASK {
            asked = Instant::now();
            let (done, total) = ask(session).unwrap_or((0, 0));
            progress.at(done, total);
        }
    }
}

/// Waits until an operation that goes on after its command is over; `ask` gives how much is done, of how much, or what
/// came of it. `None` when somebody pressed Ctrl-C.
fn follow<T>(
    session: &mut Session,
    what: &str,
    mut ask: impl FnMut(&mut Session) -> anyhow::Result<Result<T, (u64, u64)>>,
) -> anyhow::Result<Option<T>> {
    let interrupts = Interrupts::watch()?;
    let mut progress = Progress::new(what);
    let mut pause = LOOK;
    loop {
        match ask(session)? {
            Ok(outcome) => return Ok(Some(outcome)),
            Err((done, total)) => progress.at(done, total),
        }
        if interrupts.count() > 0 {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(ASK);
    }
}
