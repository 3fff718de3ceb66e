//! A device behind any address: what the tools need to know of it, whatever is in between.
//!
//! Commands are submitted and polled for, so that a tool can ask a drive how far it is while it is busy with a command.

mod address;
mod local;
mod tcp;

use std::time::Duration;

use gangway_driver::controller::TimeLimits;
use gangway_spec::fabrics::Nqn;
use gangway_spec::{CompletionQueueEntry, IdentifyController, SubmissionQueueEntry};

pub(crate) use self::address::{Address, resolve};
use self::local::Local;
use self::tcp::Tcp;

/// Which queue a command goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueKind {
    Admin,
    Io,
}

/// What a command transfers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Data<'a> {
    None,
    /// So many bytes from the controller.
    In(usize),
    /// These bytes to the controller.
    Out(&'a [u8]),
}

/// A command that was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) queue: QueueKind,
    pub(crate) number: u64,
}

/// What came of a command, whatever its status.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) entry: CompletionQueueEntry,
    /// What was read, cut to what the controller sent.
    pub(crate) data: Vec<u8>,
}

/// A device that was opened.
pub(crate) trait Device {
    /// Whether this process is what runs the controller: then letting go of it resets it.
    fn is_ours(&self) -> bool;

    /// Identify Controller, as it was when the device was opened.
    fn identify(&self) -> &IdentifyController;

    /// Most bytes that one command may transfer; a multiple of 4096.
    fn max_transfer(&self) -> usize;

    /// How long commands may take.
    fn time_limits(&self) -> TimeLimits;

    /// Submits a command. Identifier and data pointer are set here. The first I/O command makes an I/O queue.
    ///
    /// # Errors
    /// The device cannot take the command, or not so much data.
    fn submit(
        &mut self,
        queue: QueueKind,
        entry: &SubmissionQueueEntry,
        data: Data<'_>,
    ) -> anyhow::Result<Ticket>;

    /// The answer to a command, if it comes within `wait`.
    ///
    /// # Errors
    /// The device is gone or broken.
    fn poll(&mut self, ticket: Ticket, wait: Duration) -> anyhow::Result<Option<Answer>>;

    /// Reads a register or property of four or eight bytes; `None` when this kind of device cannot be asked for it.
    ///
    /// # Errors
    /// The device is gone or broken.
    fn register(&mut self, offset: u32, bytes: u8) -> anyhow::Result<Option<u64>>;

    /// Resets the controller (CC.EN to 0, and to 1 again).
    ///
    /// # Errors
    /// The controller does not follow.
    fn reset(&mut self) -> anyhow::Result<()>;

    /// Resets the NVM subsystem (NSSR), and brings the controller up again.
    ///
    /// # Errors
    /// The device cannot do that, or does not come back.
    fn subsystem_reset(&mut self) -> anyhow::Result<()>;

    /// Lets go of the device in order.
    ///
    /// # Errors
    /// The device does not follow.
    fn close(self: Box<Self>) -> anyhow::Result<()>;
}

/// Opens the device at an address; `host` is the name to give to a target.
///
/// # Errors
/// The device cannot be had, or does not start.
pub(crate) fn open(address: &Address, host: Option<&Nqn>) -> anyhow::Result<Box<dyn Device>> {
    Ok(match address {
        Address::Local(address) => Box::new(Local::open(address)?),
        Address::Tcp { target, subsystem } => Box::new(Tcp::open(resolve(target)?, subsystem, host)?),
    })
}

/// How long a command may take.
pub(crate) fn time_limit(device: &dyn Device, queue: QueueKind, entry: &SubmissionQueueEntry) -> Duration {
    match queue {
        QueueKind::Admin => device.time_limits().admin(entry),
        QueueKind::Io => device.time_limits().io(entry.opcode),
    }
}
