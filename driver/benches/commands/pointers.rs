//! What it takes to submit a command whose memory is named by PRPs, and by an SGL.

use std::time::{Duration, Instant};

use gangway_driver::controller::Options;
use gangway_driver::dma::BufferPool;
use gangway_driver::emulated::EmulatedFunction;
use gangway_driver::queue::DataPointers;
use gangway_driver::{Controller, Direction, DmaDomain};
use gangway_spec::{SubmissionQueueEntry, nvm, opcode};

/// Bytes of the commands that are compared.
pub(crate) const LENGTHS: [usize; 5] = [4096, 8192, 16 << 10, 64 << 10, 128 << 10];

/// Submits `commands` reads of `len` bytes and rings for none of them.
pub(crate) fn submit(pointers: &str, len: usize, commands: usize) {
    let config = "null,size=1GiB,sgl".parse().expect("the options of the drive are right");
    let function = EmulatedFunction::new(config, &DmaDomain::new()).expect("a drive that keeps nothing");
    let data_pointers = if pointers == "sgl" { DataPointers::Sgl } else { DataPointers::Prp };
    let options = Options { queue_depth: 1000, data_pointers, ..Options::default() };
    let mut controller = Controller::start(function, options).expect("the drive starts");
    let mut pair = controller.create_io_queue_pair().expect("the drive has queues");
    let mut pool = BufferPool::new(controller.domain(), Direction::DeviceWrites, 128 << 20, len)
        .expect("memory for all of them");
    let mut read = SubmissionQueueEntry::new(opcode::nvm::READ);
    read.nsid = 1.into();
    nvm::set_nlb(&mut read, (len / 4096) as u32);
    let deadline = Instant::now() + Duration::from_secs(30);
    for number in 0..commands {
        let buffer = pool.take(len).expect("there is enough");
        pair.submit(&read, buffer.into(), number as u64, deadline).expect("there is room");
    }
    let stopped = controller.disable().expect("the drive stops");
    pair.dismantle(&stopped).expect("it is of this controller");
}
