//! What the drive counts for its SMART log.

use std::ops::Add;

/// Counts of one I/O queue, or of all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// Reads, Compares and Verifies.
    pub(super) reads: u64,
    /// Writes and Write Zeroes.
    pub(super) writes: u64,
    /// Units of 512 bytes that the host has read.
    pub(super) units_read: u64,
    /// Units of 512 bytes that the host has written.
    pub(super) units_written: u64,
    /// Commands that failed for the media's sake.
    pub(super) media_errors: u64,
}

impl Add for Counters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            reads: self.reads + other.reads,
            writes: self.writes + other.writes,
            units_read: self.units_read + other.units_read,
            units_written: self.units_written + other.units_written,
            media_errors: self.media_errors + other.media_errors,
        }
    }
}
