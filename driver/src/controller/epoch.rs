//! The proof that lets go of memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::signals::Signals;

static NEXT_CONTROLLER: AtomicU64 = AtomicU64::new(1);

/// One run of a controller, from enabling it to disabling it. Queue pairs belong to the run they were made in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch {
    controller: u64,
    number: u64,
}

impl Epoch {
    /// The first run of a controller that no other has the identity of.
    pub(crate) fn first() -> Self {
        Self { controller: NEXT_CONTROLLER.fetch_add(1, Ordering::Relaxed), number: 1 }
    }

    /// The run after this one.
    pub(crate) fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }

    /// The proof that this run is over. Only for who saw CSTS.RDY go to 0 after CC.EN did, or knows that the function is cut
    /// off from memory.
    pub(crate) fn stopped(self) -> Stopped {
        Stopped(self)
    }
}

/// A run as those see it who take part in it: the controller, and the queue pairs that were made in it.
///
/// A queue pair that is kept beyond the end of its run must not ring: its doorbells may be those of a queue pair of
/// the next run, whose old entries the device would then execute again, on memory that has other owners by now.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    epoch: Epoch,
    began: Instant,
    signals: Arc<Signals>,
}

impl Run {
    /// A run that begins.
    pub(crate) fn new(epoch: Epoch) -> Self {
        Self { epoch, began: Instant::now(), signals: Arc::new(Signals::new()) }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Ends the run for all who take part, before its controller is told to stop.
    pub(crate) fn end(&self) {
        self.signals.end();
    }

    /// Whether the run goes on.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.signals.is_on()
    }

    /// Puts the deadlines of all commands off that end before `then`: the controller has said why it takes longer.
    pub(crate) fn be_patient_until(&self, then: Instant) {
        self.signals.be_patient(self.nanoseconds_until(then));
    }

    /// Puts them off until `then` only, whatever was said before: the reason for it is gone.
    pub(crate) fn be_patient_only_until(&self, then: Instant) {
        self.signals.be_patient_only(self.nanoseconds_until(then));
    }

    fn nanoseconds_until(&self, then: Instant) -> u64 {
        u64::try_from(then.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Before this no command is overdue.
    pub(crate) fn patient_until(&self) -> Instant {
        self.began + Duration::from_nanos(self.signals.patience())
    }
}

/// Proof that a controller was stopped (CC.EN is 0, and CSTS.RDY was seen to be 0, or its function was reset), or that its
/// function was cut off from memory, whatever the controller does: so it touches none of the memory of the queue pairs
/// that were made before. Only a [`Controller`](super::Controller) makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped(Epoch);

impl Stopped {
    /// Whether it is about the controller of `epoch`, and about that run or a later one.
    pub(crate) fn covers(&self, epoch: Epoch) -> bool {
        self.0.controller == epoch.controller && self.0.number >= epoch.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_covers_its_run_and_earlier_ones_of_the_same_controller_only() {
        let first = Epoch::first();
        let second = first.next();
        assert!(first.stopped().covers(first));
        assert!(second.stopped().covers(first));
        assert!(!first.stopped().covers(second));
        assert!(!Epoch::first().stopped().covers(first));
    }
}
