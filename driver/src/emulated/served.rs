//! The emulated controller as a server shows it to a driver in another process.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use gangway_spec::registers::DOORBELLS;

use super::config::EmulatedConfig;
use super::device::{Device, Doorbells, lock};
use super::error::EmulatedError;
use super::memory::SharedMemory;
use crate::dma::{Direction, DmaError, Iommu, PAGE_SIZE};
use crate::mmio::DoorbellPage;

/// A software NVMe controller whose driver is another process.
pub(crate) struct ServedDevice {
    device: Device,
    /// What the doorbells are in, at the offset that they have in BAR0.
    doorbells: File,
    /// Offset behind the last page of doorbells, in bytes.
    end: u64,
}

impl ServedDevice {
    /// Makes the device; what drivers see begins when one connects.
    ///
    /// # Errors
    /// As [`EmulatedFunction::new`](super::EmulatedFunction::new).
    pub(crate) fn new(name: String, config: EmulatedConfig) -> Result<Self, EmulatedError> {
        config.validate()?;
        let spread = 1 << config.stride;
        let count = 2 * (usize::from(config.queues) + 1) * spread;
        let (page, doorbells) =
            DoorbellPage::in_file(count, DOORBELLS as usize).map_err(EmulatedError::Doorbells)?;
        let end = (DOORBELLS as usize + 4 * count).next_multiple_of(PAGE_SIZE) as u64;
        let device = Device::with_doorbells(name, config, Doorbells { page, spread })?;
        Ok(Self { device, doorbells, end })
    }

    /// The file that the doorbells are in: mapped from offset 0 on it stands for BAR0, of which only the doorbells count.
    pub(crate) fn doorbells(&self) -> &File {
        &self.doorbells
    }

    /// Bytes of registers and doorbells, in whole pages.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// How many interrupt vectors there are: one for each queue.
    pub(crate) fn vectors(&self) -> u16 {
        self.device.queue_count()
    }

    /// Reads 32 bits at a multiple of 4.
    pub(crate) fn read(&self, offset: u32) -> u32 {
        if offset < DOORBELLS { self.device.read_register(offset) } else { 0 }
    }

    /// Writes 32 bits at a multiple of 4.
    pub(crate) fn write(&self, offset: u32, value: u32) {
        match offset.checked_sub(DOORBELLS) {
            None => self.device.write_register(offset, value),
            Some(place) => self.device.doorbells.store(place as usize / 4, value),
        }
    }

    /// Whether the controller works on queues at present.
    pub(crate) fn is_running(&self) -> bool {
        self.device.is_running()
    }

    /// Does what the doorbells ask for. Gives whether anything happened: a doorbell was rung since the last turn, or a
    /// completion posted. `interrupt` is called with the vectors that are to be signalled.
    pub(crate) fn turn(&self, turns: &mut Turns, mut interrupt: impl FnMut(u16)) -> bool {
        let mut happened = false;
        for qid in 0..self.device.queue_count() {
            let load = |completion| self.device.doorbells.load(self.device.doorbell_index(qid, completion));
            let queue = &mut turns.queues[usize::from(qid)];
            let now = (load(false).unwrap_or(0), load(true).unwrap_or(0));
            if now != queue.seen {
                queue.seen = now;
                // Nothing is ever on a queue of which the doorbell was not rung, apart from the answers of the drive
                // to what was asked before, of which the admin queue has some.
                queue.used = true;
                happened = true;
            }
            if queue.used || qid == 0 {
                self.device.step(qid);
                let posted_to =
                    self.device.io_queue(qid).map_or(Some(0), |gate| gate.enter().state.completion_queue());
                let queue = posted_to.and_then(|cq| self.device.completion_queue(cq));
                if let Some(vector) = queue.and_then(|mut queue| queue.as_mut()?.take_news()) {
                    happened = true;
                    vector.into_iter().for_each(&mut interrupt);
                }
            }
        }
        happened
    }

    /// Lets the device reach memory of its driver.
    ///
    /// # Errors
    /// The addresses are in use, or there are none such.
    pub(crate) fn map(
        &self,
        iova: u64,
        memory: Arc<SharedMemory>,
        direction: Direction,
    ) -> Result<(), DmaError> {
        self.device.iommu.map_shared(iova, memory, direction)
    }

    /// Takes memory away that was mapped as a whole. When it returns the device does not touch it any more.
    ///
    /// # Errors
    /// Nothing is mapped there, or of another length.
    pub(crate) fn unmap(&self, iova: u64, len: u64) -> Result<(), DmaError> {
        self.device.iommu.unmap(iova, len)
    }

    /// Function-level reset: all registers and queues are as they were in the beginning.
    pub(crate) fn reset(&self) {
        let mut registers = lock(&self.device.registers);
        self.device.reset();
        registers.clear();
        self.device.configuration.store(0, Ordering::Release);
    }

    /// The driver is gone: what it left goes too.
    pub(crate) fn release(&self) {
        self.reset();
        self.device.iommu.clear();
    }
}

/// What a server remembers from turn to turn.
pub(crate) struct Turns {
    queues: Vec<Watched>,
}

#[derive(Clone, Default)]
struct Watched {
    /// The doorbells as they were: tail, head.
    seen: (u32, u32),
    /// Whether one of them was ever rung.
    used: bool,
}

impl Turns {
    pub(crate) fn new(device: &ServedDevice) -> Self {
        Self { queues: vec![Watched::default(); device.device.queue_count().into()] }
    }
}
