//! Whether the controller still works: what its status register says, and for how long a pause is believed.

use std::time::{Duration, Instant};

use super::{Controller, ControllerError};
use crate::function::FunctionError;

/// Deadlines are put off by so much each time that the controller is seen to pause.
const PAUSE_GRACE: Duration = Duration::from_secs(10);

/// The longest pause that is believed, unless the controller states a longer one for firmware (MTFA).
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// What a controller's status register (CSTS) says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It works.
    Working,
    /// It stopped processing commands for a while (CSTS.PP), to activate firmware for one. Deadlines are put off.
    Paused,
    /// It gave up (CSTS.CFS): it needs a reset.
    Fatal,
    /// It is not ready (CSTS.RDY is 0): it was disabled, or something else reset it.
    NotReady,
    /// It no longer answers: it was removed, or lost its power or its link.
    Gone,
}

impl Controller {
    /// Looks at the controller's status: one register. To be called now and then, every few seconds, also when no command
    /// is outstanding.
    ///
    /// While the controller says that it pauses, no command counts as overdue
    /// ([`QueuePair::overdue`](crate::QueuePair::overdue)), and for 10 s after. A pause of more than two minutes, or of more
    /// than it states for activating firmware (MTFA), is not believed any more.
    pub fn health(&mut self) -> Health {
        let status = match self.registers().status() {
            Ok(status) => status,
            Err(error) => {
                if !matches!(error, ControllerError::Function(FunctionError::Gone { .. })) {
                    tracing::warn!(%error, "the status of a controller cannot be read");
                }
                return Health::Gone;
            }
        };
        if status.cfs() {
            return Health::Fatal;
        }
        if !status.rdy() || !self.enabled {
            return Health::NotReady;
        }
        let now = Instant::now();
        if !status.pp() {
            if self.paused_since.take().is_some() {
                // What was expected to take longer is over.
                self.run.be_patient_only_until(now + PAUSE_GRACE);
            }
            return Health::Working;
        }
        let since = *self.paused_since.get_or_insert(now);
        if now.duration_since(since) < self.limits.activation().max(LONGEST_PAUSE) {
            self.run.be_patient_until(now + PAUSE_GRACE);
        }
        Health::Paused
    }

    /// The controller is about to stop for a while: it has told so. It is given what it states for that (MTFA), two
    /// minutes at most and when it states nothing: it may never stop, and for as long as it says that it pauses
    /// [`Controller::health`] gives it more.
    pub(super) fn expect_activation(&mut self) {
        let expected = match self.limits.activation() {
            Duration::ZERO => LONGEST_PAUSE,
            stated => stated.min(LONGEST_PAUSE),
        };
        self.run.be_patient_until(Instant::now() + expected + PAUSE_GRACE);
    }
}
