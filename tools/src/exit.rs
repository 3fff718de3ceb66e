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
    /// What was served has ended, but a drive was not shut down in order, or nobody waited for that.
    NotInOrder,
}

impl Exit {
    /// What the program ends with.
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::InUse => 3,
            Exit::NotInOrder => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
