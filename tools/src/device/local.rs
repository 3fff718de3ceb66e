//! A drive that this process drives itself.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use gangway_driver::address::DeviceAddress;
use gangway_driver::controller::{Controller, Options, Stopped, TimeLimits};
use gangway_driver::dma::{CommandData, Direction, DmaDomain};
use gangway_driver::queue::{Completion, QueuePair};
use gangway_spec::registers::{self, ControllerStatus};
use gangway_spec::{IdentifyController, SubmissionQueueEntry};

use super::{Answer, Data, Device, QueueKind, Ticket};

/// Most bytes of a command that the tools ask for.
const MAX_TRANSFER: u32 = 1 << 20;
/// How long completions are looked for without a pause, and the longest pause after that.
const SPIN: Duration = Duration::from_micros(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(5);
/// A controller of this process, with an I/O queue pair when one is needed.
pub(super) struct Local {
    controller: Controller,
    io: Option<QueuePair>,
    next: u64,
    /// Completions that nobody has asked for so far.
    completed: HashMap<(bool, u64), Completion>,
    reaped: Vec<Completion>,
}

impl Local {
    pub(super) fn open(address: &DeviceAddress) -> anyhow::Result<Self> {
        let options = Options {
            io_queues_wanted: 1,
            queue_depth: 32,
            max_transfer: MAX_TRANSFER,
            ..Options::default()
        };
        let controller = Controller::start(address.open(&DmaDomain::new())?, options)?;
        Ok(Self { controller, io: None, next: 0, completed: HashMap::new(), reaped: Vec::new() })
    }

    fn queue(&mut self, queue: QueueKind) -> anyhow::Result<&mut QueuePair> {
        match queue {
            QueueKind::Admin => Ok(self.controller.admin_queue()),
            QueueKind::Io => {
                if self.io.is_none() {
                    self.io = Some(self.controller.create_io_queue_pair()?);
                }
                self.io.as_mut().context("there is no I/O queue")
            }
        }
    }

    fn data(&self, data: Data<'_>) -> anyhow::Result<CommandData> {
        let domain = self.controller.domain();
        Ok(match data {
            Data::None => CommandData::None,
            Data::In(length) => domain.buffer(length, Direction::DeviceWrites)?.into(),
            Data::Out(bytes) => {
                let mut buffer = domain.buffer(bytes.len(), Direction::DeviceReads)?;
                buffer.copy_from_slice(bytes);
                buffer.into()
            }
        })
    }

    /// Takes in what has completed.
    fn reap(&mut self, queue: QueueKind) -> anyhow::Result<()> {
        match (queue, &mut self.io) {
            (QueueKind::Admin, _) => drop(self.controller.reap_admin(&mut self.reaped)?),
            (QueueKind::Io, Some(pair)) => drop(pair.reap(&mut self.reaped)?),
            (QueueKind::Io, None) => {}
        }
        let completed =
            self.reaped.drain(..).map(|completion| ((queue == QueueKind::Io, completion.user), completion));
        self.completed.extend(completed);
        Ok(())
    }

    /// After a stop: nothing of the run before is left.
    fn bring_up(&mut self, stopped: &Stopped) -> anyhow::Result<()> {
        if let Some(pair) = self.io.take() {
            drop(pair.dismantle(stopped));
        }
        self.completed.clear();
        Ok(self.controller.restart()?)
    }

    fn status(&self) -> anyhow::Result<ControllerStatus> {
        Ok(ControllerStatus::from_bits(self.controller.read_register32(registers::CSTS)?))
    }
}

impl Device for Local {
    fn is_ours(&self) -> bool {
        true
    }

    fn identify(&self) -> &IdentifyController {
        self.controller.identify()
    }

    fn max_transfer(&self) -> usize {
        self.controller.max_transfer() as usize
    }

    fn time_limits(&self) -> TimeLimits {
        self.controller.time_limits()
    }

    fn submit(
        &mut self,
        queue: QueueKind,
        entry: &SubmissionQueueEntry,
        data: Data<'_>,
    ) -> anyhow::Result<Ticket> {
        let data = self.data(data)?;
        let deadline = Instant::now() + super::time_limit(self, queue, entry);
        self.next += 1;
        let number = self.next;
        let pair = self.queue(queue)?;
        pair.submit(entry, data, number, deadline)
            .map_err(|rejected| anyhow!("the command cannot be submitted: {}", rejected.reason))?;
        pair.ring();
        Ok(Ticket { queue, number })
    }

    fn poll(&mut self, ticket: Ticket, wait: Duration) -> anyhow::Result<Option<Answer>> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(10);
        loop {
            self.reap(ticket.queue)?;
            if let Some(completion) = self.completed.remove(&(ticket.queue == QueueKind::Io, ticket.number)) {
                return Ok(Some(Answer { entry: completion.entry, data: completion.data.bytes().to_vec() }));
            }
            let waited = start.elapsed();
            if waited >= wait {
                ensure!(
                    !self.status()?.cfs(),
                    "the controller reports a fatal error (CSTS.CFS); `gangway reset` may bring it back"
                );
                return Ok(None);
            }
            if waited > SPIN {
                thread::sleep(pause.min(wait.saturating_sub(waited)));
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    fn register(&mut self, offset: u32, bytes: u8) -> anyhow::Result<Option<u64>> {
        Ok(Some(match bytes {
            8 => self.controller.read_register64(offset)?,
            _ => self.controller.read_register32(offset)?.into(),
        }))
    }

    fn reset(&mut self) -> anyhow::Result<()> {
        let stopped = self.controller.disable()?;
        self.bring_up(&stopped)
    }

    fn subsystem_reset(&mut self) -> anyhow::Result<()> {
        let stopped = self.controller.subsystem_reset()?;
        self.bring_up(&stopped)
    }

    fn close(mut self: Box<Self>) -> anyhow::Result<()> {
        if let Some(pair) = self.io.take() {
            self.controller.delete_io_queue_pair(pair).map_err(|failed| failed.error)?;
        }
        self.controller.shutdown()?;
        Ok(())
    }
}
