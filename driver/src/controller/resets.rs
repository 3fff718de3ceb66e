//! What stops a controller besides CC.EN: cutting its function off, and the resets that reach further.
//!
//! Each of them gives the proof that the controller is stopped, and [`Controller::restart`] follows.

use std::mem;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use gangway_spec::registers::{CSTS, ControllerStatus, NSSR, NSSR_RESET};

use super::registers::Poll;
use super::{Controller, ControllerError, Stopped};
use crate::dma::DmaDomain;
use crate::function::{Function, FunctionError, Notices, Stepper};
use crate::mmio::Doorbell;

/// The least that an NVM subsystem reset is given: the link may go down meanwhile.
const SHORTEST_SUBSYSTEM_RESET: Duration = Duration::from_secs(10);

/// How long the system may take to take a function back: it may be waiting for the function to answer.
const LONGEST_CLOSING: Duration = Duration::from_secs(5);

impl Controller {
    /// Stops a controller that does not follow [`Controller::disable`], or is gone: cuts its function off from memory.
    /// It is the same to its queue pairs.
    ///
    /// A function that could be cut off may be found in order again by [`Controller::restart`]. Any other, as one that does
    /// not answer, is given back to the system, since that is the only proof left that it reaches nothing: everything that is asked of this controller
    /// then says that it is gone, and a drive that comes back is opened anew.
    ///
    /// # Errors
    /// When the function cannot be cut off and the system does not take it back within 5 s. All memory stays where it is
    /// then. It may be tried again: the system may have taken it back later.
    pub fn isolate(&mut self) -> Result<Stopped, ControllerError> {
        self.end_run();
        if let Err(error) = self.function.forbid_dma() {
            if self.given_back {
                return Err(error.into());
            }
            tracing::warn!(%error, "a function that does not answer is given back to the system");
            let closed = Closed::new(&*self.function);
            let (closing, closed_state) = (Arc::clone(&closed.state), Arc::clone(&closed.state));
            let function = mem::replace(&mut self.function, Box::new(closed));
            self.given_back = true;
            let close = move || closing.set(function.close());
            if let Err(source) = thread::Builder::new().name("close".to_owned()).spawn(close) {
                // It was dropped, and so closed, without a word on what came of it.
                let function = self.function_name().to_owned();
                let action = "start the thread that gives it back".to_owned();
                closed_state.set(Err(FunctionError::Io { function, action, source }));
            }
            self.function.forbid_dma()?;
        }
        Ok(self.is_stopped())
    }

    /// Resets the function alone (function-level reset, on PCI), which stops the controller whatever state it is in.
    /// [`Controller::restart`] brings it up again.
    ///
    /// # Errors
    /// [`FunctionError::Unsupported`] when the function cannot be reset alone; nothing happens to it then. Else when the reset fails, or the controller
    /// is not disabled after it.
    pub fn function_level_reset(&mut self) -> Result<Stopped, ControllerError> {
        if !self.function.can_reset() {
            let function = self.function_name().to_owned();
            return Err(FunctionError::Unsupported { function, what: "be reset alone" }.into());
        }
        self.end_run();
        self.function.reset()?;
        self.registers().disable(self.capabilities)?;
        Ok(self.is_stopped())
    }

    /// Resets the NVM subsystem, all of its controllers, which stops this one. [`Controller::restart`] brings it up again;
    /// that of the others is up to who drives them.
    ///
    /// The subsystem is given as long as the controller states for getting ready, and 10 s at least.
    ///
    /// # Errors
    /// [`ControllerError::Unsupported`] when the controller has no such reset (CAP.NSSRS), [`ControllerError::Timeout`] when
    /// it does not say that the reset occurred (CSTS.NSSRO), or what keeps its registers from answering when they still
    /// do not.
    pub fn subsystem_reset(&mut self) -> Result<Stopped, ControllerError> {
        if !self.capabilities.nssrs() {
            return Err(self.unsupported("it has no NVM subsystem reset (CAP.NSSRS is 0)"));
        }
        let limit = self.registers().ready_timeout(self.capabilities)?.max(SHORTEST_SUBSYSTEM_RESET);
        self.end_run();
        // One that occurred before is not to be taken for this one: it is cleared by writing a one to it.
        let occurred = ControllerStatus::new().with_nssro(true);
        self.function.write_register32(CSTS, occurred.into_bits())?;
        self.function.write_register32(NSSR, NSSR_RESET)?;
        let mut poll = Poll::new(limit);
        loop {
            let in_the_way = match self.registers().status() {
                Ok(status) if status.nssro() && !status.rdy() => break,
                Ok(_) => None,
                // It does not answer while its link is down, and not before its memory decoding is on again: to be
                // tried until the link is back.
                Err(ControllerError::Function(FunctionError::Gone { .. })) => self.function.revive().err(),
                Err(error) => return Err(error),
            };
            if !poll.again() {
                if let Some(error) = in_the_way {
                    return Err(error.into());
                }
                let function = self.function_name().to_owned();
                let action = "reset its NVM subsystem (CSTS.NSSRO to 1)".into();
                return Err(ControllerError::Timeout { function, action, limit });
            }
        }
        self.function.revive()?;
        self.function.write_register32(CSTS, occurred.into_bits())?;
        Ok(self.is_stopped())
    }

    /// What tells of the drive's removal and of its errors before an access to it does.
    pub fn notices(&self) -> Notices {
        self.function.notices()
    }
}

/// What stands in the place of a function that was given back.
struct Closed {
    name: String,
    domain: DmaDomain,
    state: Arc<Closing>,
}

/// What came of giving a function back; nothing as long as that is under way.
#[derive(Default)]
struct Closing {
    result: Mutex<Option<Result<(), FunctionError>>>,
    changed: Condvar,
}

impl Closing {
    fn set(&self, result: Result<(), FunctionError>) {
        *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.changed.notify_all();
    }

    /// Whether the function reaches nothing any more, as far as that is known in time.
    fn is_proven(&self) -> bool {
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(result, LONGEST_CLOSING, |result| result.is_none());
        let (result, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(error)) = &*result {
            tracing::error!(%error, "a function was given back that may still reach memory");
        }
        matches!(*result, Some(Ok(())))
    }
}

impl Closed {
    fn new(function: &dyn Function) -> Self {
        Self { name: function.name().to_owned(), domain: function.domain().clone(), state: Arc::default() }
    }

    fn gone<T>(&self) -> Result<T, FunctionError> {
        Err(FunctionError::Gone { function: self.name.clone() })
    }
}

impl Function for Closed {
    fn name(&self) -> &str {
        &self.name
    }

    fn domain(&self) -> &DmaDomain {
        &self.domain
    }

    fn read_register32(&self, _offset: u32) -> Result<u32, FunctionError> {
        self.gone()
    }

    fn write_register32(&self, _offset: u32, _value: u32) -> Result<(), FunctionError> {
        self.gone()
    }

    fn doorbell(&self, _offset: u32) -> Result<Doorbell, FunctionError> {
        self.gone()
    }

    fn allow_dma(&self) -> Result<(), FunctionError> {
        self.gone()
    }

    fn forbid_dma(&self) -> Result<(), FunctionError> {
        if self.state.is_proven() { Ok(()) } else { self.gone() }
    }

    fn reset(&self) -> Result<(), FunctionError> {
        self.gone()
    }

    fn stepper(&self, _qid: u16) -> Option<Box<dyn Stepper>> {
        None
    }
}
