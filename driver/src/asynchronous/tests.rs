use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake};

use gangway_spec::{CompletionQueueEntry, Status, opcode::nvm};

use super::*;
use crate::controller::epoch::Epoch;
use crate::dma::{Direction, DmaDomain};
use crate::testing::{self, Device, Memory};

const LIMIT: Duration = Duration::from_secs(60);

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A queue whose device is moved by hand, and whose tasks are polled by hand.
struct Bench {
    domain: DmaDomain,
    _memory: Arc<Memory>,
    queue: AsyncQueue,
    device: Device,
    epoch: Epoch,
}

fn bench(entries: u16) -> Bench {
    let (domain, memory) = Memory::in_domain();
    let (pair, device, epoch) = testing::queue_pair(&domain, &memory, entries, 64 * 1024);
    Bench { domain, _memory: memory, queue: AsyncQueue::new(pair), device, epoch }
}

impl Bench {
    fn read(&self) -> Execute {
        let buffer = self.domain.buffer(4096, Direction::DeviceWrites).unwrap();
        self.queue.execute(&SubmissionQueueEntry::new(nvm::READ), buffer.into(), LIMIT)
    }

    /// Ends without the leak that a queue pair is whose device is not known to have stopped.
    fn end(self) -> usize {
        let pair = self.queue.into_pair().unwrap();
        pair.dismantle(&self.epoch.stopped()).unwrap().len()
    }
}

/// A task that counts how often it was waked.
struct Task {
    count: Arc<Count>,
    waker: Waker,
}

impl Task {
    fn new() -> Self {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        Self { waker: Arc::clone(&count).into(), count }
    }

    fn poll<F: Future + Unpin>(&self, future: &mut F) -> Poll<F::Output> {
        std::pin::Pin::new(future).poll(&mut Context::from_waker(&self.waker))
    }

    fn wakes(&self) -> usize {
        self.count.0.swap(0, Ordering::Relaxed)
    }
}

#[test]
fn commands_submitted_in_one_turn_are_rung_once_and_complete_in_any_order() {
    let mut bench = bench(8);
    let (tasks, driver) = ([Task::new(), Task::new(), Task::new()], Task::new());
    let mut commands = [bench.read(), bench.read(), bench.read()];
    let mut drive = bench.queue.drive();
    for (task, command) in tasks.iter().zip(&mut commands) {
        assert!(task.poll(command).is_pending());
    }
    assert_eq!(bench.device.rung_tail(), 0, "nobody rang yet");
    assert!(driver.poll(&mut drive).is_pending());
    assert_eq!(bench.device.rung_tail(), 3);

    let entries = bench.device.fetch();
    for index in [2, 0, 1] {
        bench.device.complete(entries[index].cid.get(), index as u64);
        assert!(driver.poll(&mut drive).is_pending());
        for (other, task) in tasks.iter().enumerate() {
            assert_eq!(task.wakes(), usize::from(other == index));
        }
        let Poll::Ready(Ok(completion)) = tasks[index].poll(&mut commands[index]) else { panic!("pending") };
        assert_eq!((completion.entry.result(), completion.data.len()), (index as u64, 4096));
    }
    drop((commands, drive));
    assert_eq!(bench.end(), 0);
}

#[test]
fn a_drive_without_commands_sleeps_until_one_is_submitted() {
    let bench = bench(8);
    let (task, driver) = (Task::new(), Task::new());
    let (mut drive, mut command) = (bench.queue.drive(), bench.read());
    assert!(driver.poll(&mut drive).is_pending());
    assert_eq!(driver.wakes(), 0);
    assert!(task.poll(&mut command).is_pending());
    assert_eq!(driver.wakes(), 1);
    assert!(driver.poll(&mut drive).is_pending());
    assert_eq!(bench.device.rung_tail(), 1);
    assert_eq!(driver.wakes(), 1, "what does not interrupt is looked at again");
    drop((command, drive));
    assert_eq!(bench.end(), 1);
}

#[test]
fn a_drive_sleeps_on_when_another_of_its_queue_has_ended() {
    let bench = bench(8);
    let (task, first, second) = (Task::new(), Task::new(), Task::new());
    let (mut drive, mut other, mut command) = (bench.queue.drive(), bench.queue.drive(), bench.read());
    assert!(first.poll(&mut drive).is_pending());
    assert!(second.poll(&mut other).is_pending());
    drop(other);
    assert!(task.poll(&mut command).is_pending());
    assert_eq!((first.wakes(), second.wakes()), (1, 0));
    assert!(first.poll(&mut drive).is_pending());
    assert_eq!(bench.device.rung_tail(), 1);
    drop((command, drive));
    assert_eq!(bench.end(), 1);
}

#[test]
fn a_command_may_take_for_ever() {
    let bench = bench(2);
    let buffer = bench.domain.buffer(4096, Direction::DeviceWrites).unwrap();
    let entry = SubmissionQueueEntry::new(nvm::READ);
    let mut command = bench.queue.execute(&entry, buffer.into(), Duration::MAX);
    assert!(Task::new().poll(&mut command).is_pending());
    assert!(bench.queue.overdue(Instant::now() + Duration::from_secs(3600)).is_none());
    drop(command);
    assert_eq!(bench.end(), 1);
}

#[test]
fn a_command_that_finds_the_queue_full_is_submitted_when_another_is_complete() {
    let mut bench = bench(2);
    let (first, second, driver) = (Task::new(), Task::new(), Task::new());
    let mut drive = bench.queue.drive();
    let (mut outstanding, mut waiting) = (bench.read(), bench.read());
    assert!(first.poll(&mut outstanding).is_pending());
    assert!(second.poll(&mut waiting).is_pending());
    assert!(second.poll(&mut waiting).is_pending());
    assert!(driver.poll(&mut drive).is_pending());
    let cid = bench.device.fetch()[0].cid.get();
    bench.device.complete(cid, 0);
    assert!(driver.poll(&mut drive).is_pending());
    assert!(first.poll(&mut outstanding).is_ready());
    assert_eq!(second.wakes(), 1, "once, however often it asked");
    assert!(second.poll(&mut waiting).is_pending());
    assert!(driver.poll(&mut drive).is_pending());
    let cid = bench.device.fetch()[0].cid.get();
    bench.device.complete(cid, 0);
    assert!(driver.poll(&mut drive).is_pending());
    assert!(second.poll(&mut waiting).is_ready());
    drop((outstanding, waiting, drive));
    assert_eq!(bench.end(), 0);
}

#[test]
fn a_command_whose_future_is_dropped_keeps_its_buffer_until_it_is_complete() {
    let mut bench = bench(2);
    let (task, driver) = (Task::new(), Task::new());
    let (mut drive, mut command) = (bench.queue.drive(), bench.read());
    assert!(task.poll(&mut command).is_pending());
    assert!(driver.poll(&mut drive).is_pending());
    drop(command);
    assert_eq!(bench.queue.outstanding(), 1);
    // Its slot is not free, and its memory still mapped: the device writes it without a fault of the test's IOMMU.
    let mut next = bench.read();
    assert!(task.poll(&mut next).is_pending());
    let entry = bench.device.fetch()[0];
    bench.device.write_data(&entry, &[7; 4096]);
    bench.device.complete(entry.cid.get(), 0);
    assert!(driver.poll(&mut drive).is_pending());
    assert_eq!((bench.queue.outstanding(), task.wakes()), (0, 1));
    assert!(task.poll(&mut next).is_pending());
    assert_eq!(bench.queue.outstanding(), 1, "the next one has its place");
    drop((next, drive));
    assert_eq!(bench.end(), 1);
}

#[test]
fn a_fault_ends_the_drive_and_every_command() {
    let mut bench = bench(3);
    let (tasks, driver) = ([Task::new(), Task::new(), Task::new()], Task::new());
    let mut drive = bench.queue.drive();
    let mut commands = [bench.read(), bench.read(), bench.read()];
    for (task, command) in tasks.iter().zip(&mut commands) {
        assert!(task.poll(command).is_pending());
    }
    assert!(driver.poll(&mut drive).is_pending());
    bench.device.fetch();
    let mut nonsense = CompletionQueueEntry::new(0x1234, Status::SUCCESS);
    nonsense.sq_id.set(1);
    bench.device.post(nonsense);
    assert!(driver.poll(&mut drive).is_ready());
    for (index, (task, command)) in tasks.iter().zip(&mut commands).enumerate() {
        assert_eq!(task.wakes(), 1);
        match task.poll(command) {
            Poll::Ready(Err(ExecuteError::Ended(QueueEnded::Fault(QueueFault::UnknownCommand {
                cid: 0x1234,
                ..
            }))))
                if index < 2 => {}
            Poll::Ready(Err(ExecuteError::Rejected { data, reason: SubmitError::Stopped })) if index == 2 => {
                assert_eq!(data.len(), 4096);
            }
            other => panic!("command {index}: {other:?}"),
        }
    }
    drop((commands, drive));
    assert_eq!(bench.end(), 2, "the memory comes back when the controller was stopped");
}

#[test]
fn what_a_waker_does_may_use_the_queue() {
    struct Meddler(std::sync::Mutex<Option<Box<dyn FnOnce() + Send>>>);
    impl Wake for Meddler {
        fn wake(self: Arc<Self>) {
            if let Some(meddle) = self.0.lock().unwrap().take() {
                meddle();
            }
        }
    }
    thread_local!(static HELD: Cell<Option<Execute>> = const { Cell::new(None) });

    let mut bench = bench(4);
    let mut held = bench.read();
    assert!(Task::new().poll(&mut held).is_pending());
    HELD.set(Some(held));
    let waker = Arc::new(Meddler(std::sync::Mutex::new(Some(Box::new(|| drop(HELD.take()))))));
    let mut command = bench.read();
    let waker = Waker::from(waker);
    assert!(std::pin::Pin::new(&mut command).poll(&mut Context::from_waker(&waker)).is_pending());
    let (driver, mut drive) = (Task::new(), bench.queue.drive());
    assert!(driver.poll(&mut drive).is_pending());
    let entries = bench.device.fetch();
    bench.device.complete(entries[1].cid.get(), 0);
    assert!(driver.poll(&mut drive).is_pending());
    assert!(HELD.take().is_none(), "the waker ran, and dropped a command");
    drop((command, drive));
    assert_eq!(bench.end(), 1);
}

#[test]
fn a_queue_pair_in_use_is_not_given_back() {
    let bench = bench(2);
    let command = bench.read();
    let queue = bench.queue.into_pair().unwrap_err();
    drop(command);
    let drive = queue.drive();
    let queue = queue.into_pair().unwrap_err();
    drop(drive);
    queue.into_pair().unwrap().dismantle(&bench.epoch.stopped()).unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn commands_of_many_tasks_complete_on_a_drive_and_fail_when_it_is_stopped() {
    let domain = DmaDomain::new();
    let config = "size=16MiB,latency=200us,depth=8".parse().unwrap();
    let function = crate::emulated::EmulatedFunction::new(config, &domain).unwrap();
    let mut controller = crate::Controller::start(function, crate::controller::Options::default()).unwrap();
    let queue = AsyncQueue::new(controller.create_io_queue_pair().unwrap());

    let command = |opcode, slba| {
        let mut entry = SubmissionQueueEntry::new(opcode);
        entry.nsid = 1.into();
        gangway_spec::nvm::set_slba(&mut entry, slba);
        gangway_spec::nvm::set_nlb(&mut entry, 1);
        entry
    };
    let local = tokio::task::LocalSet::new();
    let work = local.run_until(async {
        // More tasks than the queue has room for.
        let tasks: Vec<_> = (0..100_u64)
            .map(|slba| {
                let (queue, domain) = (queue.clone(), domain.clone());
                tokio::task::spawn_local(async move {
                    let mut buffer = domain.buffer(4096, Direction::Bidirectional).unwrap();
                    buffer.fill(slba as u8);
                    let written =
                        queue.execute(&command(nvm::WRITE, slba), buffer.into(), LIMIT).await.unwrap();
                    assert!(written.entry.status().is_success());
                    let buffer = domain.buffer(4096, Direction::DeviceWrites).unwrap();
                    let read = queue.execute(&command(nvm::READ, slba), buffer.into(), LIMIT).await.unwrap();
                    assert_eq!(read.data.bytes(), [slba as u8; 4096]);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    queue.run(work).await.unwrap();

    let buffer = domain.buffer(4096, Direction::DeviceWrites).unwrap();
    let late = queue.execute(&command(nvm::READ, 0), buffer.into(), LIMIT);
    let mut late = Box::pin(late);
    let task = Task::new();
    assert!(task.poll(&mut late).is_pending());
    let stopped = controller.disable().unwrap();
    assert_eq!(queue.drive().await, QueueEnded::Stopped);
    assert!(matches!(task.poll(&mut late), Poll::Ready(Err(ExecuteError::Ended(QueueEnded::Stopped)))));
    drop((late, local));
    let interrupted = queue.into_pair().unwrap().dismantle(&stopped).unwrap();
    assert_eq!(interrupted.len(), 1);
}

#[cfg(feature = "tokio")]
#[tokio::test(flavor = "current_thread")]
async fn a_drive_sleeps_until_the_queue_pair_interrupts() {
    use crate::function::Interrupt;
    use rustix::event::{EventfdFlags, eventfd};

    let (domain, memory) = Memory::in_domain();
    let (mut pair, mut device, epoch) = testing::queue_pair(&domain, &memory, 4, 64 * 1024);
    let signal = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
    pair.set_interrupt(Some(Interrupt::new(Arc::clone(&signal))));
    let queue = AsyncQueue::new(pair);

    // Again and again: nobody reads the eventfd, so each signal must be one, and one before the sleep is not lost.
    for round in 0..100_u64 {
        let buffer = domain.buffer(4096, Direction::DeviceWrites).unwrap();
        let command = queue.execute(&SubmissionQueueEntry::new(nvm::READ), buffer.into(), LIMIT);
        let turns = Rc::new(Cell::new(0));
        let device_side = async {
            // So many turns of an idle drive that it sleeps, or fewer.
            for _ in 0..round {
                tokio::task::yield_now().await;
            }
            let entry = loop {
                if let Some(&entry) = device.fetch().first() {
                    break entry;
                }
                tokio::task::yield_now().await;
            };
            let before = turns.get();
            for _ in 0..2 * sleep::POLLS {
                tokio::task::yield_now().await;
            }
            assert!(turns.get() - before <= sleep::POLLS + 2, "it is polled while it should sleep");
            device.complete(entry.cid.get(), round);
            rustix::io::write(&signal, &1_u64.to_ne_bytes()).unwrap();
        };
        // As a task of its own: polled when it is waked, and not whenever the others are.
        let (mut drive, counter) = (Box::pin(queue.drive()), Rc::clone(&turns));
        let local = tokio::task::LocalSet::new();
        local.spawn_local(future::poll_fn(move |context| {
            counter.set(counter.get() + 1);
            drive.as_mut().poll(context)
        }));
        let (completion, ()) = local.run_until(async { tokio::join!(command, device_side) }).await;
        assert_eq!(completion.unwrap().entry.result(), round);
    }
    queue.into_pair().unwrap().dismantle(&epoch.stopped()).unwrap();
}

#[cfg(feature = "tokio")]
#[tokio::test(flavor = "current_thread")]
async fn queue_pairs_that_share_a_vector_all_sleep_on_it() {
    use crate::function::Interrupt;
    use rustix::event::{EventfdFlags, eventfd};

    let signal = Interrupt::new(Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap()));
    let sleeps = [(); 3].map(|()| sleep::Sleep::new(Some(&signal)));
    assert!(sleeps.iter().all(sleep::Sleep::can_sleep));
}
