//! The memory of the process that is not for devices.

#![allow(unsafe_code)] // One call into the C library.

/// Gives what nobody uses any more back to the system, page by page, also from the midst of what is in use.
///
/// The C library by itself gives back only what lies at the end of its memory, which may be nothing after thousands of
/// connections have gone. This takes some milliseconds for a hundred megabytes, and threads that allocate wait
/// meanwhile; threads that do not allocate are not disturbed. Does nothing with C libraries other than GNU's.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time, from any thread, and touches nothing that is allocated.
    unsafe {
        libc::malloc_trim(0);
    }
}
