//! How many files this process may have open: each connection is one.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit as far as that is allowed without asking. It is low by default for the sake of programs that use
/// `select`, which this one does not.
pub(crate) fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it is refused, less is possible, and said when it matters.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// How many there may be.
pub(crate) fn allowed() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_are_allowed_as_can_be() {
        raise_limit();
        assert_eq!(allowed(), getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX));
    }
}
