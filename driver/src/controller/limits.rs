//! How long a command may take, by its opcode.
//!
//! Most commands take what reading and writing takes. Some take minutes by their nature, and a driver that lost its
//! patience with them would reset a drive in the middle of a Format. One table says which those are.
//!
//! | command | time limit |
//! |---|---|
//! | admin commands that are not below | [`Options::admin_timeout`] |
//! | Abort, Delete I/O Submission and Completion Queue | [`Options::admin_timeout`], but 5 s and 10 s at most: they are steps of recovery |
//! | Asynchronous Event Request | none |
//! | Format NVM | an hour, or the longest time that the Sanitize Status log estimates |
//! | Sanitize, Namespace Management, Namespace Attachment, Capacity Management, Security Send and Receive, Firmware Commit, vendor commands | 10 minutes |
//! | Firmware Image Download, Device Self-test, Virtualization Management, Lockdown, Get Log Page of telemetry and of persistent events | 2 minutes |
//! | Firmware Commit that activates at once | MTFA in addition |
//! | I/O commands that are not below | [`Options::io_timeout`] |
//! | Flush | a minute |
//! | Dataset Management, Write Zeroes, Write Uncorrectable, Verify, Copy, Zone Management Send, I/O Management Send, vendor commands | 2 minutes |
//!
//! What the options say is the least for each of them, except for steps of recovery, where it is the most.

use std::time::Duration;

use gangway_spec::command::SubmissionQueueEntry;
use gangway_spec::log::{GetLogPage, lid};
use gangway_spec::opcode::{FIRST_VENDOR_ADMIN, FIRST_VENDOR_IO, admin, nvm, zns};

use super::{Controller, Options};

/// Longest wait for the answer to an Abort.
const ABORT: Duration = Duration::from_secs(5);
/// Longest wait for the deletion of a queue; a pair has two.
const DELETION: Duration = Duration::from_secs(10);
/// Of a Format whose drive does not say how long it takes to erase itself.
const FORMAT: Duration = Duration::from_secs(3600);
const MINUTES: Duration = Duration::from_secs(600);
const TWO_MINUTES: Duration = Duration::from_secs(120);
const MINUTE: Duration = Duration::from_secs(60);
/// MTFA counts in these.
const MTFA_UNIT: Duration = Duration::from_millis(100);
/// Further than anybody looks, and yet something that can be added to now.
pub(super) const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// How long commands to one controller may take before they count as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLimits {
    admin: Duration,
    io: Duration,
    /// The longest time that the controller estimates for erasing all of its media.
    erasure: Duration,
    /// The longest time that it stops for to activate firmware (MTFA).
    activation: Duration,
}

impl Default for TimeLimits {
    /// Of a controller of which nothing is known.
    fn default() -> Self {
        Self::new(&Options::default(), Duration::ZERO, 0)
    }
}

impl TimeLimits {
    pub(super) fn new(options: &Options, erasure: Duration, mtfa: u16) -> Self {
        Self {
            admin: options.admin_timeout,
            io: options.io_timeout,
            erasure,
            activation: MTFA_UNIT * u32::from(mtfa),
        }
    }

    pub(super) fn with_admin(self, admin: Duration) -> Self {
        Self { admin, ..self }
    }

    /// Of an admin command.
    #[must_use]
    pub fn admin(&self, entry: &SubmissionQueueEntry) -> Duration {
        match entry.opcode {
            admin::ABORT => self.admin.min(ABORT),
            admin::DELETE_IO_SQ | admin::DELETE_IO_CQ => self.admin.min(DELETION),
            admin::ASYNC_EVENT_REQUEST => NEVER,
            admin::FORMAT_NVM => self.admin.max(FORMAT).max(self.erasure),
            admin::FIRMWARE_COMMIT => self.admin.max(MINUTES + self.activation),
            admin::SANITIZE
            | admin::NAMESPACE_MANAGEMENT
            | admin::NAMESPACE_ATTACHMENT
            | admin::CAPACITY_MANAGEMENT
            | admin::SECURITY_SEND
            | admin::SECURITY_RECEIVE
            | FIRST_VENDOR_ADMIN.. => self.admin.max(MINUTES),
            admin::FIRMWARE_IMAGE_DOWNLOAD
            | admin::DEVICE_SELF_TEST
            | admin::VIRTUALIZATION_MANAGEMENT
            | admin::LOCKDOWN => self.admin.max(TWO_MINUTES),
            admin::GET_LOG_PAGE => match GetLogPage::from(entry).lid {
                lid::TELEMETRY_HOST | lid::TELEMETRY_CONTROLLER | lid::PERSISTENT_EVENT => {
                    self.admin.max(TWO_MINUTES)
                }
                _ => self.admin,
            },
            _ => self.admin,
        }
    }

    /// Of an I/O command of the NVM or the Zoned Namespace Command Set.
    #[inline]
    #[must_use]
    pub fn io(&self, opcode: u8) -> Duration {
        match opcode {
            nvm::FLUSH => self.io.max(MINUTE),
            nvm::WRITE_UNCORRECTABLE
            | nvm::WRITE_ZEROES
            | nvm::DATASET_MANAGEMENT
            | nvm::VERIFY
            | nvm::COPY
            | nvm::IO_MANAGEMENT_SEND
            | zns::ZONE_MANAGEMENT_SEND
            | FIRST_VENDOR_IO.. => self.io.max(TWO_MINUTES),
            _ => self.io,
        }
    }

    /// How long the controller may stop for while it activates firmware: what it states (MTFA), or the time limit of
    /// ordinary admin commands when it states nothing.
    #[must_use]
    pub fn activation(&self) -> Duration {
        if self.activation.is_zero() { self.admin } else { self.activation }
    }
}

impl Controller {
    /// How long commands may take: as a deadline for what is submitted by hand.
    pub fn time_limits(&self) -> TimeLimits {
        self.limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> TimeLimits {
        let options = Options {
            admin_timeout: Duration::from_secs(30),
            io_timeout: Duration::from_secs(20),
            ..Options::default()
        };
        TimeLimits::new(&options, Duration::from_secs(9000), 50)
    }

    fn admin_seconds(opcode: u8) -> u64 {
        limits().admin(&SubmissionQueueEntry::new(opcode)).as_secs()
    }

    #[test]
    fn what_takes_minutes_by_its_nature_is_given_minutes() {
        assert_eq!(admin_seconds(admin::IDENTIFY), 30);
        assert_eq!(admin_seconds(admin::FORMAT_NVM), 9000, "what the drive estimates");
        assert_eq!(admin_seconds(admin::FIRMWARE_COMMIT), 605);
        for opcode in [admin::SANITIZE, admin::SECURITY_SEND, admin::NAMESPACE_MANAGEMENT, 0xc0, 0xff] {
            assert_eq!(admin_seconds(opcode), 600, "{opcode:#x}");
        }
        assert_eq!(admin_seconds(admin::DEVICE_SELF_TEST), 120);
        let telemetry = GetLogPage::new(lid::TELEMETRY_HOST, 512).into();
        assert_eq!(limits().admin(&telemetry).as_secs(), 120);
        assert_eq!(limits().admin(&GetLogPage::new(lid::SMART, 512).into()).as_secs(), 30);
    }

    #[test]
    fn steps_of_recovery_take_seconds_whatever_the_options_say() {
        assert_eq!((admin_seconds(admin::ABORT), admin_seconds(admin::DELETE_IO_SQ)), (5, 10));
        let hasty = Options { admin_timeout: Duration::from_secs(1), ..Options::default() };
        let limits = TimeLimits::new(&hasty, Duration::ZERO, 0);
        assert_eq!(limits.admin(&SubmissionQueueEntry::new(admin::ABORT)).as_secs(), 1);
    }

    #[test]
    fn an_event_request_is_never_overdue_and_its_deadline_can_be_reckoned() {
        let limit = limits().admin(&SubmissionQueueEntry::new(admin::ASYNC_EVENT_REQUEST));
        assert!(limit >= Duration::from_secs(1 << 30));
        assert!(std::time::Instant::now().checked_add(limit).is_some());
    }

    #[test]
    fn io_commands_that_reach_over_many_blocks_are_given_longer_than_reads() {
        let seconds = |opcode| limits().io(opcode).as_secs();
        assert_eq!((seconds(nvm::READ), seconds(nvm::WRITE), seconds(zns::ZONE_APPEND)), (20, 20, 20));
        assert_eq!((seconds(nvm::FLUSH), seconds(nvm::DATASET_MANAGEMENT)), (60, 120));
        assert_eq!((seconds(zns::ZONE_MANAGEMENT_SEND), seconds(0x80)), (120, 120));
        let patient = Options { io_timeout: Duration::from_secs(300), ..Options::default() };
        assert_eq!(TimeLimits::new(&patient, Duration::ZERO, 0).io(nvm::COPY).as_secs(), 300);
    }
}
