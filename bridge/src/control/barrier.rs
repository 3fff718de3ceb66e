//! Commands that give blocks another meaning or take them away: no I/O may be on its way meanwhile.
//!
//! A read that was checked against blocks of 512 bytes must not reach a namespace that has them of 4096 by then: the drive
//! would write past the memory that is for it. So a Format, and what takes a namespace away, is a barrier: I/O to the
//! namespaces concerned is held back by every reactor, whichever export it comes through; what drives have is waited for;
//! then the command is executed, and what exports show is made anew ([`Shared::renew`]); then I/O goes on, by the new
//! table. Hosts notice a pause. When it gets long they are told that a format is in progress.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use gangway_spec::status::Status;

use super::Shared;
use crate::drive::{AdminReply, Drive};
use crate::events::Notice;
use crate::reactor::{Hold, Message, Scope};
use crate::remote::reach::Altered;

/// How long I/O is held back before it is refused: well within the time limits of hosts.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long commands that drives have may take to end. Time limits and resets see to it that they do.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);

impl Shared {
    /// Executes a command that alters namespaces of a drive while no I/O to them is on its way.
    pub(super) async fn keeping_io_out(
        &self,
        drive: &Arc<Drive>,
        altered: Altered,
        executed: impl Future<Output = Option<AdminReply>>,
    ) -> Option<AdminReply> {
        // One after the other: a drive can do no more than one at a time, and each is to see what the last one left.
        let Ok(_turn) = tokio::time::timeout(PATIENCE, drive.alteration().lock()).await else {
            return Some(AdminReply::status(Status::FORMAT_IN_PROGRESS));
        };
        let (index, nsid) = (
            drive.index(),
            match altered {
                Altered::One(nsid) => Some(nsid),
                Altered::All => None,
            },
        );
        let hold = |hold: Hold| self.tell_all(move |done| Message::Hold { drive: index, nsid, hold, done });
        hold(Hold::Back).await;
        let held_since = tokio::time::Instant::now();
        let work = async {
            let drained = self.drain(Scope::Namespace { drive: index, nsid });
            match tokio::time::timeout(DRAIN_LIMIT, drained).await {
                Ok(()) => executed.await,
                Err(_) => {
                    tracing::error!(drive = %drive.info().name, "commands do not end: the drive is not formatted");
                    Some(AdminReply::status(Status::COMMAND_INTERRUPTED))
                }
            }
        };
        tokio::pin!(work);
        let answer = match tokio::time::timeout_at(held_since + PATIENCE, &mut work).await {
            Ok(answer) => answer,
            Err(_) => {
                hold(Hold::Refuse(Status::FORMAT_IN_PROGRESS)).await;
                work.await
            }
        };
        hold(Hold::Release).await;
        if answer.as_ref().is_some_and(|answer| answer.entry.status().is_success()) {
            self.tell_of_altered(drive, nsid);
        }
        answer
    }

    /// Tells hosts of namespaces that hold other data now, also when they look as before.
    fn tell_of_altered(&self, drive: &Drive, nsid: Option<u32>) {
        for export in self.exports().iter() {
            let view = export.view();
            let of_drive = view.namespaces.iter().filter(|one| one.drive == drive.index());
            for one in of_drive.filter(|one| nsid.is_none_or(|nsid| nsid == one.drive_nsid)) {
                self.tell_hosts(export.index, Notice::NamespaceChanged(one.nsid));
            }
        }
    }
}
