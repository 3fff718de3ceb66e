//! The memory of the process that is not for devices.

#![allow(unsafe_code)] // Two calls into the C library.

/// Bytes from which on a piece has pages of its own.
#[cfg(target_env = "gnu")]
const APART: libc::c_int = 256 << 10;

/// Has large pieces be apart from small ones, so that all of their memory goes back to the system when they are given up.
///
/// The C library begins with that, and stops when the first such piece is given up: from then on those of its size lie
/// among others, and what is left of a thousand connections that have gone is gaps that nobody can use.
///
/// This is for the program to say, not for a library, and before there is a second thread: it does nothing afterwards, nor
/// with C libraries other than GNU's. Whether it was done.
pub fn keep_large_pieces_apart() -> bool {
    #[cfg(target_env = "gnu")]
    if std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1) {
        // SAFETY: this is the only thread, so no other one allocates meanwhile or starts to, and it touches nothing that
        // is allocated (mallopt(3) is not safe beside other threads).
        return unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, APART) == 1 };
    }
    false
}

/// Gives what nobody uses any more back to the system, page by page, also from the midst of what is in use.
///
/// The C library by itself gives back only what lies at the end of its memory, which may be nothing after thousands of
/// connections have gone. This takes some milliseconds for a hundred megabytes, and threads that allocate wait
/// meanwhile; threads that do not allocate are not disturbed. Does nothing with C libraries other than GNU's.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time, from any thread (malloc_trim(3)), and touches nothing that is allocated.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_set_beside_other_threads() {
        let beside = std::thread::spawn(keep_large_pieces_apart).join();
        assert!(matches!(beside, Ok(false)));
    }
}
