//! A run: a workload against a device, on as many threads as were asked for.

use std::io::{IsTerminal, Write};
use std::sync::Barrier;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use gangway_fabric::pdu::DigestFlags;
use gangway_spec::fabrics::Nqn;

use super::cpu::{self, ProcessClock, Usage};
use super::local::LocalSession;
use super::queue::{QueueShape, Session};
use super::tally::Tally;
use super::tcp::{HostOptions, TcpSession};
use super::units;
use super::verify::{Geometry, Verifier};
use super::worker::{Lane, Limit, Progress, Signals, Task, Worker};
use super::workload::{Pattern, Source, share};
use crate::device::{Address, resolve};

/// What is run.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) pattern: Pattern,
    /// Percentage of reads in a mixed pattern.
    pub(crate) mix: u8,
    /// Bytes of a command.
    pub(crate) block_size: u64,
    /// Commands outstanding on each queue.
    pub(crate) depth: u16,
    pub(crate) queues: usize,
    pub(crate) warmup: Duration,
    pub(crate) limit: Limit,
    /// Bytes from the start of the namespace.
    pub(crate) offset: u64,
    /// Bytes; all there are behind `offset` when there is none.
    pub(crate) size: Option<u64>,
    /// 0: the first there is.
    pub(crate) nsid: u32,
    pub(crate) verify: bool,
    /// One thread each; empty: a thread for each queue, as far as there are CPUs for them.
    pub(crate) cpus: Vec<usize>,
    pub(crate) poll: bool,
    pub(crate) flow_control: bool,
    pub(crate) digests: DigestFlags,
    pub(crate) host: Option<Nqn>,
    /// The process that serves the device, whose CPU time is measured.
    pub(crate) target: Option<u32>,
    /// Say on standard error each second how it goes, if that is a terminal.
    pub(crate) show_progress: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    /// What the target had of the processor in each second, if that was measured.
    pub(crate) target: Option<Load>,
}

/// How busy somebody was: parts of one CPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    /// The part of the time that it ran.
    pub(crate) cpu: f64,
    /// The part of the time that it could have run, had it not been for others.
    pub(crate) waited: f64,
}

impl Load {
    /// What `usage` is of a time.
    pub(crate) fn of(usage: Usage, time: Duration) -> Self {
        let seconds = time.as_secs_f64().max(1e-9);
        Self { cpu: usage.cpu.as_secs_f64() / seconds, waited: usage.waited.as_secs_f64() / seconds }
    }
}

impl Run {
    /// Runs it.
    ///
    /// # Errors
    /// The device cannot be opened or does not take the workload, a command failed, or data was wrong.
    pub(crate) fn against(&self, device: &Address) -> anyhow::Result<Outcome> {
        match device {
            Address::Tcp { target, subsystem } => {
                let host = HostOptions {
                    nqn: self.host.clone(),
                    flow_control: self.flow_control,
                    digests: self.digests,
                    keep_alive: Duration::ZERO,
                };
                self.on(TcpSession::open(resolve(target)?, subsystem, self.nsid, &host)?)
            }
            Address::Local(address) => {
                self.on(LocalSession::open(address, self.nsid, self.queues, self.depth)?)
            }
        }
    }

    fn on<S: Session>(&self, mut session: S) -> anyhow::Result<Outcome> {
        let (task, units) = self.task(&session)?;
        let shape =
            QueueShape { depth: self.depth, unit_bytes: self.block_size as usize, keep_data: self.verify };
        let queues = session.queues(self.queues, shape)?;
        let lanes = self.lanes(&task, units, queues)?;
        let (queues, result) = self.measure(&task, lanes);
        let closed = session.close(queues);
        let outcome = result?;
        closed?;
        Ok(outcome)
    }

    /// What threads have to know, and how many units there are.
    fn task<S: Session>(&self, session: &S) -> anyhow::Result<(Task, u64)> {
        let namespace = *session.namespace();
        let (block, size) = (u64::from(namespace.block), u64::from(namespace.block) * namespace.blocks);
        ensure!(
            self.block_size > 0 && self.block_size.is_multiple_of(block),
            "--block-size must be a multiple of the namespace's block size of {block} bytes"
        );
        ensure!(
            self.block_size <= namespace.max_transfer,
            "--block-size must be {} at most: the controller transfers no more with one command",
            units::binary_size(namespace.max_transfer)
        );
        ensure!(self.offset.is_multiple_of(block), "--offset must be a multiple of {block} bytes");
        let room = size.saturating_sub(self.offset);
        let region = self.size.unwrap_or(room);
        ensure!(
            region <= room && region >= self.block_size,
            "the region from --offset on must lie in the namespace of {} and have room for one command",
            units::binary_size(size)
        );
        let units = region / self.block_size;
        ensure!(
            !self.verify || units / self.queues as u64 >= u64::from(self.depth),
            "--verify needs {} at least, so that no two commands are at the same place",
            units::binary_size(self.block_size * u64::from(self.depth) * self.queues as u64)
        );
        let task = Task {
            namespace,
            first_block: self.offset / block,
            unit_blocks: (self.block_size / block) as u32,
            depth: self.depth,
            poll: self.poll,
            warmup: self.warmup,
            limit: self.limit,
        };
        Ok((task, units))
    }

    fn lanes<Q: super::queue::IoQueue>(
        &self,
        task: &Task,
        units: u64,
        queues: Vec<Q>,
    ) -> anyhow::Result<Vec<Lane<Q>>> {
        let run = uuid::Uuid::new_v4().as_u64_pair().0;
        let count = queues.len() as u64;
        let lane = |(index, queue)| {
            let index = index as u64;
            let source = Source::new(self.pattern, self.mix, units, index, count, self.verify);
            let budget = match self.limit {
                Limit::Time(_) => u64::MAX,
                Limit::Count(total) => {
                    let (first, next) = share(total, index, count);
                    next - first
                }
            };
            let (first, units) = source.range();
            let geometry = Geometry {
                first,
                units,
                unit_bytes: self.block_size as usize,
                block: task.namespace.block as usize,
                base: self.offset,
            };
            let strict = self.pattern.writes() == Some(false);
            let verifier = self.verify.then(|| Verifier::new(geometry, run, strict)).transpose()?;
            Ok(Lane::new(queue, source, verifier, self.depth, budget))
        };
        queues.into_iter().enumerate().map(lane).collect()
    }

    /// The CPU of each thread, if it has one.
    fn threads(&self) -> Vec<Option<usize>> {
        if !self.cpus.is_empty() {
            return self.cpus.iter().take(self.queues).map(|cpu| Some(*cpu)).collect();
        }
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        vec![None; self.queues.min(cpus)]
    }

    fn measure<Q: super::queue::IoQueue + Send>(
        &self,
        task: &Task,
        lanes: Vec<Lane<Q>>,
    ) -> (Vec<Q>, anyhow::Result<Outcome>) {
        let cpus = self.threads();
        let mut shares: Vec<Vec<Lane<Q>>> = cpus.iter().map(|_| Vec::new()).collect();
        let threads = shares.len();
        for (index, lane) in lanes.into_iter().enumerate() {
            shares[index % threads].push(lane);
        }
        let signals = Signals::default();
        let progress: Vec<Progress> = cpus.iter().map(|_| Progress::default()).collect();
        let ready = Barrier::new(threads + 1);
        let (tell, told) = mpsc::channel();
        let mut queues = Vec::new();
        let mut tally = Tally::new();
        let mut failure = None;
        let mut load = Ok(None);
        thread::scope(|scope| {
            let (signals, ready) = (&signals, &ready);
            let workers: Vec<_> = (shares.into_iter().zip(cpus).zip(&progress))
                .map(|((lanes, cpu), progress)| {
                    let tell = tell.clone();
                    scope.spawn(move || {
                        let pinned = cpu.map_or(Ok(()), |cpu| cpu::pin(&[cpu]));
                        let worker = pinned.and_then(|()| Worker::new(task, lanes, signals, progress));
                        ready.wait();
                        let (queues, result) = match worker {
                            Ok(worker) => worker.run(|| {
                                // Nobody waits any more when another thread was first.
                                let _ = tell.send(());
                            }),
                            Err(error) => (Vec::new(), Err(error)),
                        };
                        if result.is_err() {
                            signals.stop.store(true, Ordering::Relaxed);
                        }
                        (queues, result)
                    })
                })
                .collect();
            drop(tell);
            ready.wait();
            load = self.watch(&progress, &told);
            for worker in workers {
                match worker.join() {
                    Ok((mut own, result)) => {
                        queues.append(&mut own);
                        match result {
                            Ok(own) => tally.merge(&own),
                            Err(error) => failure = failure.take().or(Some(error)),
                        }
                    }
                    Err(_) => failure = Some(anyhow!("a thread of the load generator panicked")),
                }
            }
        });
        let result = match failure {
            Some(error) => Err(error),
            None => load.map(|target| Outcome { tally, target }),
        };
        (queues, result)
    }

    /// Waits until the first thread has measured all it should, and says how it goes. Returns what the
    /// target had of the processor in the measured time.
    fn watch(&self, progress: &[Progress], told: &mpsc::Receiver<()>) -> anyhow::Result<Option<Load>> {
        let clock = self.target.map(ProcessClock::of).transpose()?;
        let sample = || clock.as_ref().map(|clock| clock.read().map(|cpu| (Instant::now(), cpu))).transpose();
        let completed = || progress.iter().map(|count| count.0.load(Ordering::Relaxed)).sum::<u64>();
        thread::sleep(self.warmup);
        let before = sample()?;
        let shown = self.show_progress && std::io::stderr().is_terminal();
        let (mut last, mut seconds) = (completed(), 0);
        while told.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
            let count = completed();
            seconds += 1;
            if shown {
                let iops = (count - last) as f64;
                let bytes = crate::output::size((count - last) * self.block_size);
                eprint!("\r\x1b[K{seconds} s: {} IOPS, {bytes}/s", units::grouped(iops));
            }
            last = count;
        }
        let after = sample()?;
        if shown && seconds > 0 {
            eprint!("\r\x1b[K");
            // Only what it looks like depends on it.
            let _ = std::io::stderr().flush();
        }
        Ok(match (before, after) {
            (Some((start, before)), Some((end, after))) => Some(Load::of(after.since(&before), end - start)),
            _ => None,
        })
    }
}
