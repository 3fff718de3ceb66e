//! The Error Information log (NVMe Base 1.4, 5.14.1.1).

use gangway_spec::log::ErrorLogEntry;
use gangway_spec::{Status, SubmissionQueueEntry, nvm};

/// Entries that are kept (ELPE + 1).
pub(super) const ENTRIES: usize = 64;
/// Parameter Error Location: not reported.
const NO_LOCATION: u16 = 0xffff;

/// The last commands that failed.
pub(super) struct ErrorLog {
    entries: [ErrorLogEntry; ENTRIES],
    count: u64,
}

impl Default for ErrorLog {
    fn default() -> Self {
        Self { entries: [ErrorLogEntry::default(); ENTRIES], count: 0 }
    }
}

impl ErrorLog {
    /// Keeps what is known about a command that failed.
    pub(super) fn record(&mut self, sqid: u16, command: &SubmissionQueueEntry, status: Status) {
        self.count += 1;
        let index = (self.count % ENTRIES as u64) as usize;
        let mut entry = ErrorLogEntry::default();
        entry.error_count.set(self.count);
        entry.sqid.set(sqid);
        entry.cid = command.cid;
        entry.status_field.set(status.bits() << 1);
        entry.parameter_error_location.set(NO_LOCATION);
        entry.lba.set(if sqid == 0 { 0 } else { nvm::slba(command) });
        entry.nsid = command.nsid;
        self.entries[index] = entry;
    }

    /// Errors since the drive was made.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// What is kept, the latest first; behind the last one come invalid entries.
    pub(super) fn latest_first(&self) -> [ErrorLogEntry; ENTRIES] {
        std::array::from_fn(|back| match self.count.checked_sub(back as u64) {
            None | Some(0) => ErrorLogEntry::default(),
            Some(count) => self.entries[(count % ENTRIES as u64) as usize],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_errors_are_kept_and_come_first() {
        let mut log = ErrorLog::default();
        assert!(log.latest_first().iter().all(|entry| entry.error_count.get() == 0));
        for cid in 0..ENTRIES as u16 + 3 {
            let command = SubmissionQueueEntry { cid: cid.into(), ..SubmissionQueueEntry::new(2) };
            log.record(1, &command, Status::LBA_OUT_OF_RANGE);
            let latest = log.latest_first();
            assert_eq!((latest[0].cid.get(), latest[0].error_count.get()), (cid, u64::from(cid) + 1));
        }
        let entries = log.latest_first();
        assert_eq!(entries[ENTRIES - 1].error_count.get(), log.count() - ENTRIES as u64 + 1);
        assert_eq!(entries[0].status(), Status::LBA_OUT_OF_RANGE);
    }
}
