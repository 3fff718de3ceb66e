//! The CRC-32C of a whole namespace, read with many commands at a time: the asynchronous side of the library.
//!
//! ```text
//! checksum pci:0000:01:00.0     a drive of this machine; `gangway bind 0000:01:00.0` gives it to vfio-pci first
//! checksum emulated:size=1GiB   a software drive in this process
//! ```
//!
//! Nothing is written to the drive.

use std::collections::VecDeque;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use gangway_driver::address::DeviceAddress;
use gangway_driver::asynchronous::AsyncQueue;
use gangway_driver::controller::Options;
use gangway_driver::dma::BufferPool;
use gangway_driver::{CommandData, Controller, Direction, DmaDomain};
use gangway_spec::{SubmissionQueueEntry, nvm, opcode};
use tokio::task::{LocalSet, spawn_local};

/// Commands outstanding at a time.
const DEPTH: usize = 32;
/// Bytes of one command, unless the drive takes less.
const CHUNK: usize = 128 * 1024;
const TIME_LIMIT: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(device) = std::env::args().nth(1) else {
        eprintln!("usage: checksum DEVICE, where DEVICE is pci:ADDRESS or emulated[:OPTIONS]");
        return ExitCode::from(2);
    };
    match checksum(&device).await {
        Ok(checksum) => {
            println!("{checksum:08x}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("checksum: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The checksum of the first namespace of a device.
pub(crate) async fn checksum(device: &str) -> Result<u32, Box<dyn Error>> {
    let domain = DmaDomain::new();
    let function = device.parse::<DeviceAddress>()?.open(&domain)?;
    // With interrupts the program sleeps while the drive works.
    let options = Options { io_queues_wanted: 1, interrupts: true, ..Options::default() };
    let mut controller = Controller::start(function, options)?;
    let result = read_all(&mut controller).await;
    controller.shutdown()?;
    result
}

async fn read_all(controller: &mut Controller) -> Result<u32, Box<dyn Error>> {
    let nsid = *controller.active_namespaces()?.first().ok_or("the drive has no namespace")?;
    let namespace = controller.identify_namespace(nsid)?;
    let block = namespace.block_size().ok_or("the namespace has a format that this program does not know")?;
    let blocks = namespace.nsze.get();
    let chunk = CHUNK.min(controller.max_transfer() as usize);
    let per_command = (chunk / block as usize) as u64;

    let queue = AsyncQueue::new(controller.create_io_queue_pair()?);
    let mut pool = BufferPool::new(controller.domain(), Direction::DeviceWrites, DEPTH * chunk, chunk)?;
    let tasks = LocalSet::new();
    let reading = tasks.run_until(async {
        let (mut checksum, mut slba) = (0, 0);
        let mut window = VecDeque::new();
        loop {
            while slba < blocks
                && let Some(buffer) = pool.take(chunk)
            {
                let count = per_command.min(blocks - slba);
                let mut entry = SubmissionQueueEntry::new(opcode::nvm::READ);
                entry.nsid = nsid.into();
                nvm::set_slba(&mut entry, slba);
                nvm::set_nlb(&mut entry, count as u32);
                let queue = queue.clone();
                let command =
                    spawn_local(async move { queue.execute(&entry, buffer.into(), TIME_LIMIT).await });
                window.push_back((command, count as usize * block as usize));
                slba += count;
            }
            // They complete in any order, and are waited for in that of their blocks.
            let Some((command, len)) = window.pop_front() else { return Ok(checksum) };
            let completion = command.await??;
            let status = completion.entry.status();
            if !status.is_success() {
                return Err(status.into());
            }
            checksum = crc32c::crc32c_append(checksum, &completion.data.bytes()[..len]);
            if let CommandData::Buffer(buffer) = completion.data {
                pool.put(buffer);
            }
        }
    });
    let result: Result<u32, Box<dyn Error>> = queue.run(reading).await?;
    // What an error left outstanding ends with the queue pair.
    drop(tasks);
    controller.delete_io_queue_pair(queue.into_pair().map_err(|_| "the queue is still in use")?)?;
    result
}
