//! How a controller is to be used.

use std::time::Duration;

use gangway_spec::registers::ControllerCapabilities;

use crate::dma::PAGE_SIZE;
use crate::queue::{self, DataPointers};

/// Longer time limits are cut to this: a deadline that the clock cannot express helps nobody.
pub(super) const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// How a controller is to be used. The defaults fit a drive that is shared by a few hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Entries of each I/O queue: one more than the commands that can be outstanding on it. 2 to
    /// [`queue::MAX_ENTRIES`], and no more than the controller supports.
    pub queue_depth: u16,
    /// The most bytes that one command may transfer; rounded down to pages of 4096. What the controller allows (MDTS)
    /// may be less.
    pub max_transfer: u32,
    /// How many I/O queue pairs to ask for. The controller may grant fewer.
    pub io_queues_wanted: u16,
    /// Whether I/O queues interrupt, if the function can: what is not polled without a pause needs it to sleep while
    /// commands are outstanding ([`QueuePair::interrupt`](crate::QueuePair::interrupt)).
    pub interrupts: bool,
    /// How I/O commands name the memory that they transfer: PRPs or SGLs.
    pub data_pointers: DataPointers,
    /// Whether a controller that can look at doorbells in memory (OACS bit 8) is asked to. It is emulated then, and
    /// writes to its registers cost more than most commands do.
    pub shadow_doorbells: bool,
    /// How long an ordinary admin command may take; a day at most. Some are given longer by their nature, and steps of
    /// recovery less: [`TimeLimits`](super::TimeLimits).
    pub admin_timeout: Duration,
    /// How long an ordinary I/O command may take, as [`TimeLimits`](super::TimeLimits) tells whoever sets deadlines; a day
    /// at most.
    pub io_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_depth: 256,
            max_transfer: 1 << 20,
            io_queues_wanted: 64,
            interrupts: false,
            data_pointers: DataPointers::Auto,
            shadow_doorbells: true,
            admin_timeout: Duration::from_secs(30),
            io_timeout: Duration::from_secs(30),
        }
    }
}

impl Options {
    /// The same within what is possible.
    pub(super) fn checked(mut self) -> Self {
        let page = PAGE_SIZE as u32;
        self.queue_depth = self.queue_depth.clamp(2, queue::MAX_ENTRIES);
        self.max_transfer = (self.max_transfer / page * page).max(page);
        self.io_queues_wanted = self.io_queues_wanted.max(1);
        self.admin_timeout = self.admin_timeout.min(LONGEST_TIMEOUT);
        self.io_timeout = self.io_timeout.min(LONGEST_TIMEOUT);
        self
    }

    /// Entries of an I/O queue on a controller with these capabilities.
    pub(super) fn io_entries(&self, capabilities: ControllerCapabilities) -> u16 {
        // MQES is 0's based, and 1 at least.
        self.queue_depth.min(capabilities.mqes().saturating_add(1)).max(2)
    }
}
