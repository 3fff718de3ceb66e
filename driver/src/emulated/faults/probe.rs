//! Faults declared, withdrawn and watched while the drive runs.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::FaultRule;
use crate::emulated::device::lock;
use crate::emulated::function::EmulatedProbe;

/// Names a fault that was declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FaultId(u64);

/// How often a fault was met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// What it concerns came so often.
    pub matched: u64,
    /// It happened so often.
    pub fired: u64,
}

impl EmulatedProbe {
    /// Declares a fault; it concerns commands that the drive takes from now on.
    pub fn add_fault(&self, rule: FaultRule) -> FaultId {
        let id = self.device.faults.add(rule);
        self.device.attentive.store(true, Ordering::Release);
        FaultId(id)
    }

    /// Withdraws a fault, and says how often it was met; `None` when it was withdrawn before. What it did to commands
    /// stays done: one that was dropped stays dropped.
    pub fn remove_fault(&self, id: FaultId) -> Option<FaultCounts> {
        let mut rules = lock(&self.device.faults.rules);
        let index = rules.iter().position(|declared| declared.id == id.0)?;
        let declared = rules.remove(index);
        Some(FaultCounts { matched: declared.matched, fired: declared.fired })
    }

    /// Withdraws all faults, those from the drive's options too.
    pub fn clear_faults(&self) {
        lock(&self.device.faults.rules).clear();
    }

    /// How often a fault was met so far; `None` when it was withdrawn.
    pub fn fault_counts(&self, id: FaultId) -> Option<FaultCounts> {
        let rules = lock(&self.device.faults.rules);
        let declared = rules.iter().find(|declared| declared.id == id.0)?;
        Some(FaultCounts { matched: declared.matched, fired: declared.fired })
    }

    /// Sets CSTS.CFS: the controller stops until it is reset.
    pub fn set_fatal(&self) {
        self.device.stop_fatally("a declared fault");
        self.device.pass_through_gates();
    }

    /// Takes the drive away: all registers read as ones, and from when this returns on nothing is read, written or
    /// completed.
    pub fn remove(&self) {
        self.device.vanish(None);
        self.device.pass_through_gates();
    }

    /// Takes the drive away for a time.
    pub fn remove_for(&self, time: Duration) {
        self.device.vanish(Some(time));
        self.device.pass_through_gates();
    }

    /// Puts a drive that was taken away back, with its data: disabled, as when its power was switched on.
    pub fn put_back(&self) {
        if self.device.is_gone() {
            self.device.come_back();
        }
    }

    /// How many commands the drive has taken and keeps, delayed or dropped, over all queues; event requests are not
    /// among them.
    pub fn commands_held(&self) -> usize {
        let io = self.device.io.iter().map(|gate| gate.enter().state.held()).sum::<usize>();
        io + self.device.admin.enter().state.held.len()
    }
}
