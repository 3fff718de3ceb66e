//! Operations that take their time.

use std::time::{Duration, Instant};

/// How far an operation has come: it goes by the clock alone, and is looked at when the admin queue is stepped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    started: Instant,
    takes: Duration,
}

impl Clock {
    /// Starts an operation that takes this time; without one it is done at once.
    pub(super) fn start(takes: Option<Duration>) -> Self {
        Self { started: Instant::now(), takes: takes.unwrap_or_default() }
    }

    pub(super) fn is_done(&self) -> bool {
        self.started.elapsed() >= self.takes
    }

    /// The part that is done, as a number from 0 to 1.
    pub(super) fn fraction(&self) -> f64 {
        if self.is_done() { 1.0 } else { self.started.elapsed().as_secs_f64() / self.takes.as_secs_f64() }
    }

    /// Percent that are done.
    pub(super) fn percent(&self) -> u8 {
        (self.fraction() * 100.0) as u8
    }
}
