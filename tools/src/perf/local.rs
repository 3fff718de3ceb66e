//! A drive of this machine, through the driver: polled queue pairs.

use std::mem;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use gangway_driver::address::DeviceAddress;
use gangway_driver::controller::{Controller, Options};
use gangway_driver::dma::{BufferPool, CommandData, Direction, DmaDomain};
use gangway_driver::queue::{Completion, QueuePair};
use gangway_spec::SubmissionQueueEntry;

use super::namespace;
use super::queue::{Done, IoQueue, Namespace, QueueShape, Session};

/// How long a command may take; what is late is found by the load generator itself.
const DEADLINE: Duration = Duration::from_secs(60);

/// A controller that this process drives.
pub(crate) struct LocalSession {
    controller: Controller,
    namespace: Namespace,
}

impl LocalSession {
    /// Starts the controller and looks at a namespace; `nsid` 0 is the first one there is.
    ///
    /// # Errors
    /// The drive cannot be had or does not start, or has no such namespace.
    pub(crate) fn open(device: &DeviceAddress, nsid: u32, queues: usize, depth: u16) -> anyhow::Result<Self> {
        let domain = DmaDomain::new();
        let function = device.open(&domain)?;
        let options = Options {
            queue_depth: depth.saturating_add(1),
            max_transfer: 16 << 20,
            io_queues_wanted: queues.try_into().unwrap_or(u16::MAX),
            ..Options::default()
        };
        let mut controller = Controller::start(function, options)?;
        let nsid = if nsid > 0 { nsid } else { namespace::first(&controller.active_namespaces()?)? };
        let max_transfer = controller.max_transfer().into();
        let identify =
            controller.identify_namespace(nsid).with_context(|| format!("cannot use namespace {nsid}"))?;
        let namespace = namespace::examine(nsid, &identify, max_transfer)?;
        Ok(Self { controller, namespace })
    }
}

impl Session for LocalSession {
    type Queue = LocalQueue;

    fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn queues(&mut self, count: usize, shape: QueueShape) -> anyhow::Result<Vec<LocalQueue>> {
        let granted = self.controller.io_queue_limit();
        ensure!(count <= granted.into(), "the drive has {granted} I/O queues: choose fewer --queues");
        let domain = self.controller.domain().clone();
        let depth = usize::from(shape.depth);
        let mut queues = Vec::new();
        for _ in 0..count {
            let mut pool = BufferPool::new(
                &domain,
                Direction::Bidirectional,
                depth * shape.unit_bytes.next_power_of_two(),
                shape.unit_bytes,
            )?;
            let take = |_| pool.take(shape.unit_bytes).context("the memory for data is too small");
            let buffers: Vec<_> = (0..depth).map(take).collect::<anyhow::Result<_>>()?;
            let pair = self.controller.create_io_queue_pair()?;
            let most = pair.capacity();
            queues.push(LocalQueue {
                pair,
                buffers: buffers.into_iter().map(CommandData::Buffer).collect(),
                completions: Vec::with_capacity(most),
                deadline: Instant::now() + DEADLINE,
            });
            ensure!(
                depth <= most,
                "the drive takes {most} commands on a queue at most: choose a smaller --depth"
            );
        }
        Ok(queues)
    }

    fn close(mut self, queues: Vec<LocalQueue>) -> anyhow::Result<()> {
        for queue in queues {
            self.controller.delete_io_queue_pair(queue.pair).map_err(|failed| failed.error)?;
        }
        self.controller.shutdown().map(drop)?;
        Ok(())
    }
}

/// A queue pair.
pub(crate) struct LocalQueue {
    pair: QueuePair,
    /// By slot; nothing is there while the slot has a command.
    buffers: Vec<CommandData>,
    completions: Vec<Completion>,
    deadline: Instant,
}

impl IoQueue for LocalQueue {
    fn data(&mut self, slot: usize) -> &mut [u8] {
        match &mut self.buffers[slot] {
            CommandData::Buffer(buffer) => buffer,
            CommandData::None | CommandData::Shared(_) => &mut [],
        }
    }

    #[inline]
    fn submit(&mut self, slot: usize, entry: &SubmissionQueueEntry) -> anyhow::Result<()> {
        let data = mem::take(&mut self.buffers[slot]);
        self.pair
            .submit(entry, data, slot as u64, self.deadline)
            .map_err(|rejected| anyhow!("the queue refuses a command: {}", rejected.reason))
    }

    #[inline]
    fn flush(&mut self) -> anyhow::Result<()> {
        self.pair.ring();
        Ok(())
    }

    #[inline]
    fn poll(&mut self, _scratch: &mut [u8], done: &mut Vec<Done>) -> anyhow::Result<bool> {
        let result = self.pair.reap(&mut self.completions);
        for Completion { user, entry, data } in self.completions.drain(..) {
            let slot = user as usize;
            self.buffers[slot] = data;
            done.push(Done { slot, entry });
        }
        Ok(result? > 0)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    #[inline]
    fn is_blocked(&self) -> bool {
        false
    }
}
