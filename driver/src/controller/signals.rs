//! What the controller's side of a run tells the threads that have queue pairs of it.

use crate::sync::{AtomicBool, AtomicU64, Ordering};

/// Signals from the one who owns the controller to all who take part in a run.
#[derive(Debug)]
pub(crate) struct Signals {
    on: AtomicBool,
    /// Until when no command is overdue, in nanoseconds since the run began.
    patience: AtomicU64,
}

impl Signals {
    /// Of a run that begins.
    pub(crate) fn new() -> Self {
        Self { on: AtomicBool::new(true), patience: AtomicU64::new(0) }
    }

    /// Ends the run.
    pub(crate) fn end(&self) {
        self.on.store(false, Ordering::Release);
    }

    /// Whether the run goes on. Who finds it ended sees what was done before it was.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// No command is overdue before `nanoseconds` of the run have passed, if that is later than what was said before.
    pub(crate) fn be_patient(&self, nanoseconds: u64) {
        self.patience.fetch_max(nanoseconds, Ordering::Relaxed);
    }

    /// Withdraws what was said before: only before `nanoseconds` of the run have passed no command is overdue.
    pub(crate) fn be_patient_only(&self, nanoseconds: u64) {
        self.patience.store(nanoseconds, Ordering::Relaxed);
    }

    /// Before so many nanoseconds of the run no command is overdue.
    pub(crate) fn patience(&self) -> u64 {
        self.patience.load(Ordering::Relaxed)
    }
}
