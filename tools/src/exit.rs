//! Exit codes.

use std::process::ExitCode;

/// How the program ends; documented in its help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Success,
    /// Something was tried and did not work, or must not be done.
    Failure,
    /// The command line is wrong.
    Usage,
    /// Refused because a drive is in use.
    InUse,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::InUse => 3,
        })
    }
}
