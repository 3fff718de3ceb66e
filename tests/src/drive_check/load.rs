//! Many commands at once on two queue pairs, with batches of all sizes: what doorbells, in registers or in memory, are
//! there for.

use std::time::Instant;

use gangway_driver::controller::{Controller, Namespace};
use gangway_driver::dma::Direction;
use gangway_driver::{CommandData, QueuePair};
use gangway_spec::nvm::IoControl;
use gangway_spec::{Status, opcode};

use super::{Outcome, PATIENCE, command, expect, expect_bytes, pattern};

/// Commands on each queue pair.
const COMMANDS: u64 = 1500;

/// Queue entries, so that the queues go round often.
const DEPTH: usize = 24;

struct Lane {
    pair: QueuePair,
    /// Place of each of the lane's areas, and the seed of what it holds.
    areas: Vec<Area>,
    submitted: u64,
    finished: u64,
}

struct Area {
    slba: u64,
    seed: u64,
    /// Whether the next command reads what the last one wrote.
    reads: bool,
    memory: Option<CommandData>,
}

pub(super) fn check(controller: &mut Controller, namespace: &Namespace) -> Outcome<()> {
    let (Some(format), Some(identify)) = (namespace.format, &namespace.identify) else { return Ok(()) };
    let blocks = 4096_u32.div_ceil(format.block_size).max(2);
    let prinfo = if format.protection.is_some() { IoControl::PRACT } else { 0 };
    let shape = |opcode, slba| {
        let mut entry = command(opcode, namespace.nsid, slba, blocks);
        entry.cdw12.set(IoControl::of(&entry).with_prinfo(prinfo).into_bits());
        entry
    };
    let probe = shape(opcode::nvm::READ, 0);
    let (len, metadata) = (format.transfer_length(&probe) as usize, format.metadata_length(&probe) as usize);
    // Protection information inside of longer metadata is not what was written.
    let compared = if prinfo != 0 && len > (blocks * format.block_size) as usize {
        format.block_size as usize
    } else if prinfo != 0 {
        len
    } else {
        len + metadata
    };
    let mut lanes = Vec::new();
    for number in 0..controller.io_queue_limit().min(2) {
        let pair = controller.create_io_queue_pair()?;
        let depth = DEPTH.min(pair.capacity());
        let mut areas = Vec::new();
        for area in 0..depth as u64 {
            let slba = (u64::from(number) * depth as u64 + area) * u64::from(blocks);
            expect("room for the load", true, slba + u64::from(blocks) <= identify.nsze.get())?;
            let buffer = controller.domain().buffer(len + metadata, Direction::Bidirectional)?;
            areas.push(Area { slba, seed: 0, reads: false, memory: Some(buffer.into()) });
        }
        lanes.push(Lane { pair, areas, submitted: 0, finished: 0 });
    }
    let mut dice = 0x2545_f491_4f6c_dd1d_u64;
    let mut out = Vec::new();
    while lanes.iter().any(|lane| lane.finished < COMMANDS) {
        for lane in &mut lanes {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Batches of one command to all there can be.
            let mut batch = (dice >> 33) as usize % lane.areas.len() + 1;
            for (index, area) in lane.areas.iter_mut().enumerate() {
                if batch == 0 || lane.submitted == COMMANDS {
                    break;
                }
                let Some(mut memory) = area.memory.take() else { continue };
                if let CommandData::Buffer(buffer) = &mut memory {
                    if area.reads {
                        buffer.fill(0);
                    } else {
                        area.seed += 1;
                        buffer.copy_from_slice(&pattern(area.slba << 24 | area.seed, len + metadata));
                    }
                }
                let opcode = if area.reads { opcode::nvm::READ } else { opcode::nvm::WRITE };
                let (entry, deadline) = (shape(opcode, area.slba), Instant::now() + PATIENCE);
                match metadata {
                    0 => lane.pair.submit(&entry, memory, index as u64, deadline)?,
                    _ => lane.pair.submit_with_metadata(&entry, memory, metadata, index as u64, deadline)?,
                }
                lane.submitted += 1;
                batch -= 1;
            }
            lane.pair.ring();
            lane.pair.reap(&mut out)?;
            for done in out.drain(..) {
                let area = &mut lane.areas[done.user as usize];
                expect("a command of the load", Status::SUCCESS, done.entry.status())?;
                if area.reads {
                    let expected = pattern(area.slba << 24 | area.seed, len + metadata);
                    expect_bytes(
                        "what the load reads",
                        &expected[..compared],
                        &done.data.bytes()[..compared],
                    )?;
                }
                area.reads = !area.reads;
                area.memory = Some(done.data);
                lane.finished += 1;
            }
            if let Some(overdue) = lane.pair.overdue(Instant::now()) {
                return Err(format!("queue {}: {overdue}", lane.pair.qid()).into());
            }
        }
    }
    for lane in lanes {
        controller.delete_io_queue_pair(lane.pair)?;
    }
    Ok(())
}
