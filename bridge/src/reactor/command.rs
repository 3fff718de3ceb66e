//! What a reactor keeps of a command from its arrival to its end.

use gangway_driver::dma::CommandData;
use gangway_fabric::target::{Reply, Slot};
use gangway_spec::command::{SubmissionQueueEntry, TransferDirection};
use gangway_spec::status::Status;
use slab::Slab;

use super::accounts::{AccountId, Gate};
use super::fair::{self, Link, Links};
use super::tenants::Tenant;
use crate::admission::{Admitted, Handling};

/// Where a command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Will be answered with this status once its in-capsule data has passed.
    Refused(Status),
    /// A buffer is to be had first.
    Memory,
    /// Its connection has as much data on the way as it may; it has its turn later.
    Held,
    /// Its data is arriving.
    Receiving,
    /// In a software queue.
    Queued,
    /// On the drive's submission queue: the drive may touch its buffer.
    WithDrive,
    /// With the control plane, which will answer it.
    Asked,
    /// It waits until it can be paid for. It has no memory, but for data that came in its capsule.
    Limited(AccountId),
    /// It was executed, and its answer waits until it can be paid for.
    Owing(AccountId),
}

/// What is to be remembered of a command until it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Terms {
    /// Nothing.
    Usual,
    /// Its data was asked for with R2T.
    Requested,
    /// It was not paid for. That is to be done, from here on, when it has been executed.
    InDebt(Gate),
}

#[derive(Debug)]
pub(super) struct Command {
    /// As the host gave it, with the NSID that the drive knows.
    pub(super) entry: SubmissionQueueEntry,
    /// Key of its connection; `None` once that is gone.
    pub(super) connection: Option<u32>,
    pub(super) slot: Slot,
    /// Whose it is.
    pub(super) tenant: Tenant,
    /// Neighbours in the list that it waits in.
    pub(super) link: Link,
    /// Order of arrival on this reactor.
    pub(super) sequence: u64,
    pub(super) admitted: Admitted,
    pub(super) data: CommandData,
    pub(super) terms: Terms,
    /// Whether its memory counts against its drive's share.
    pub(super) counted: bool,
    pub(super) stage: Stage,
}

impl Command {
    /// Key of its connection, unless that is gone.
    #[inline]
    pub(super) fn connection(&self) -> Option<usize> {
        self.connection.map(|key| key as usize)
    }

    /// Keeps the answer to it, now that it was executed: in dwords that say nothing to anybody any more.
    pub(super) fn keep_answer(&mut self, Reply { status, result }: Reply) {
        self.entry.cdw10.set(result as u32);
        self.entry.cdw11.set((result >> 32) as u32);
        self.entry.cdw12.set(status.bits().into());
    }

    /// The answer that was kept.
    pub(super) fn answer(&self) -> Reply {
        let SubmissionQueueEntry { cdw10, cdw11, cdw12, .. } = &self.entry;
        let result = u64::from(cdw10.get()) | u64::from(cdw11.get()) << 32;
        Reply { status: Status::from_bits(cdw12.get() as u16), result }
    }

    /// Whether the drive has it or will have it without the host doing anything more, so that whoever comes after it may
    /// not go before it.
    pub(super) fn is_on_its_way(&self) -> bool {
        match self.stage {
            Stage::Queued | Stage::WithDrive => true,
            Stage::Memory | Stage::Held => self.admitted.direction != TransferDirection::HostToController,
            // What only reads may be late. A vendor's command may do more than that.
            Stage::Limited(_) => {
                self.admitted.length == 0
                    || !self.data.is_empty()
                    || self.admitted.direction == TransferDirection::ControllerToHost
                        && self.admitted.handling == Handling::Guarded
            }
            Stage::Refused(_) | Stage::Receiving | Stage::Asked | Stage::Owing(_) => false,
        }
    }
}

// Thousands of them lie in the slab, and each touches as few cache lines as possible.
const _: () = assert!(size_of::<Command>() <= 168);

impl Links for Slab<Command> {
    fn link(&mut self, item: u32) -> &mut Link {
        &mut self[item as usize].link
    }

    fn tenant(&self, item: u32) -> Tenant {
        self[item as usize].tenant
    }

    fn cost(&self, item: u32) -> u32 {
        fair::cost(self[item as usize].admitted.length)
    }
}

/// Whose a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) host: u128,
    pub(super) association: u64,
    pub(super) export: usize,
}

/// A command that a drive still has, though its connection is gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Orphan {
    pub(super) command: usize,
    pub(super) sequence: u64,
    pub(super) origin: Origin,
}

/// What is to be known of a command when its drive has completed it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) connection: Option<usize>,
    pub(super) slot: Slot,
    pub(super) direction: TransferDirection,
    pub(super) length: u32,
}

/// A command that the engine gave up: the caller answers with `status`.
#[derive(Debug)]
pub(super) struct GivenUp {
    pub(super) command: usize,
    pub(super) status: Status,
}

/// In the place of the number of a drive that is gone, or that a command never had.
pub(super) const NO_DRIVE: usize = usize::MAX;
