//! What can go wrong with a controller.

use std::time::Duration;

use gangway_spec::Status;
use thiserror::Error;

use crate::dma::DmaError;
use crate::function::FunctionError;
use crate::queue::{QueueFault, SubmitError};

/// Why something could not be done with a controller.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ControllerError {
    /// The function could not be reached.
    #[error(transparent)]
    Function(#[from] FunctionError),
    /// Memory could not be had or mapped.
    #[error("{function}: {source}")]
    Dma {
        /// Name of the function.
        function: String,
        /// What went wrong.
        source: DmaError,
    },
    /// The controller is none that this driver can drive.
    #[error("{function} cannot be driven: {reason}")]
    Unsupported {
        /// Name of the function.
        function: String,
        /// What it lacks.
        reason: String,
    },
    /// The controller did not do what it was told within the time it, or the specification, allows.
    #[error("{function} did not {action} within {limit:?}; if a reset does not help, it needs a power cycle")]
    Timeout {
        /// Name of the function.
        function: String,
        /// What it should have done.
        action: String,
        /// How long it was given.
        limit: Duration,
    },
    /// The controller reports a fatal error (CSTS.CFS).
    #[error("{function} reports a fatal error (CSTS.CFS) while it should {action}; it needs a reset")]
    Fatal {
        /// Name of the function.
        function: String,
        /// What it should have done.
        action: String,
    },
    /// The controller is not ready any more, though nobody here disabled it.
    #[error("{function} was reset by something else while it should {action}; it needs to be started again")]
    NotReady {
        /// Name of the function.
        function: String,
        /// What it should have done.
        action: String,
    },
    /// A command failed.
    #[error("{function}: {command} failed: {status}")]
    Status {
        /// Name of the function.
        function: String,
        /// The command.
        command: String,
        /// What the controller answered.
        status: Status,
    },
    /// The admin queue is faulted.
    #[error("{function}: {fault}")]
    Queue {
        /// Name of the function.
        function: String,
        /// What happened.
        fault: QueueFault,
    },
    /// A command could not be submitted.
    #[error("{function}: {command} could not be submitted: {reason}")]
    Rejected {
        /// Name of the function.
        function: String,
        /// The command.
        command: String,
        /// Why.
        reason: SubmitError,
    },
    /// As many Abort commands are outstanding as the controller allows.
    #[error(
        "{function} takes {limit} Abort commands at a time, and as many are outstanding; wait for an answer"
    )]
    TooManyAborts {
        /// Name of the function.
        function: String,
        /// How many it takes (ACL + 1).
        limit: usize,
    },
    /// All I/O queue pairs that the controller granted are in use.
    #[error("{function} grants {limit} I/O queue pairs, and all are in use; use fewer of them at a time")]
    NoMoreQueues {
        /// Name of the function.
        function: String,
        /// How many it grants.
        limit: u16,
    },
    /// A queue pair was to be deleted that this controller, in this run, did not make.
    #[error("queue pair {qid} does not belong to this run of {function}")]
    ForeignQueue {
        /// Name of the function.
        function: String,
        /// Queue identifier.
        qid: u16,
    },
}
