//! Says what a drive is, and reads its first block: the whole way through the library in one file.
//!
//! ```text
//! identify pci:0000:01:00.0     a drive of this machine; `gangway bind 0000:01:00.0` gives it to vfio-pci first
//! identify vfio-user:/run/x     one that another process serves on that socket
//! identify emulated             a software drive in this process
//! ```
//!
//! Nothing is written to the drive.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use gangway_driver::address::DeviceAddress;
use gangway_driver::controller::Options;
use gangway_driver::{CommandData, Controller, Direction, DmaDomain};
use gangway_spec::{SubmissionQueueEntry, nvm, opcode};

const TIME_LIMIT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let Some(device) = std::env::args().nth(1) else {
        eprintln!(
            "usage: identify DEVICE, where DEVICE is pci:ADDRESS, vfio-user:SOCKET or emulated[:OPTIONS]"
        );
        return ExitCode::from(2);
    };
    match identify(&device) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("identify: {error}");
            ExitCode::FAILURE
        }
    }
}

fn identify(device: &str) -> Result<(), Box<dyn Error>> {
    // All memory that drives may reach comes from one domain, whatever the drives are.
    let domain = DmaDomain::new();
    let function = device.parse::<DeviceAddress>()?.open(&domain)?;
    let mut controller = Controller::start(function, Options { io_queues_wanted: 1, ..Options::default() })?;
    let result = show(&mut controller);
    // Whatever happened above: a drive that is not told of its shutdown counts it as a loss of power.
    controller.shutdown()?;
    result
}

fn show(controller: &mut Controller) -> Result<(), Box<dyn Error>> {
    let identify = controller.identify();
    println!("{}", controller.function_name());
    println!("  model         {}", identify.model());
    println!("  serial        {}", identify.serial());
    println!("  firmware      {}", identify.firmware());
    println!("  NVMe          {}", controller.version());
    println!("  max transfer  {} bytes a command", controller.max_transfer());

    let namespaces = controller.active_namespaces()?;
    for &nsid in &namespaces {
        let namespace = controller.identify_namespace(nsid)?;
        match namespace.block_size() {
            Some(block) => println!("  namespace {nsid}   {} blocks of {block} bytes", namespace.nsze.get()),
            None => println!("  namespace {nsid}   has a format that this driver does not know"),
        }
    }
    if let Some(&nsid) = namespaces.first() {
        let block = read_first_block(controller, nsid)?;
        let shown: Vec<String> = block.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        println!("  block 0 of namespace {nsid} begins with {}", shown.join(" "));
    }
    Ok(())
}

/// Reads block 0 of a namespace through an I/O queue pair of its own.
fn read_first_block(controller: &mut Controller, nsid: u32) -> Result<Vec<u8>, Box<dyn Error>> {
    let block_size =
        controller.identify_namespace(nsid)?.block_size().ok_or("the block size is not known")?;
    // The drive may write this memory, and nothing else that it is not given as such.
    let buffer = controller.domain().buffer(block_size as usize, Direction::DeviceWrites)?;

    let mut entry = SubmissionQueueEntry::new(opcode::nvm::READ);
    entry.nsid = nsid.into();
    nvm::set_slba(&mut entry, 0);
    nvm::set_nlb(&mut entry, 1);

    let mut queue = controller.create_io_queue_pair()?;
    let deadline = Instant::now() + TIME_LIMIT;
    // The buffer moves into the queue pair, and comes back with the completion: nobody looks at it in
    // between.
    queue.submit(&entry, CommandData::Buffer(buffer), 0, deadline).map_err(|rejected| rejected.reason)?;
    queue.ring();

    let mut completions = Vec::with_capacity(1);
    while queue.reap(&mut completions)? == 0 {
        if Instant::now() > deadline {
            return Err("the drive does not answer".into());
        }
    }
    controller.delete_io_queue_pair(queue).map_err(|failed| failed.error)?;

    let completion = completions.pop().ok_or("no completion")?;
    let status = completion.entry.status();
    if !status.is_success() {
        return Err(status.into());
    }
    Ok(completion.data.bytes().to_vec())
}
