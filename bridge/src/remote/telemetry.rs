//! The drive's own telemetry, as each host finds it.
//!
//! What the drive collected by itself is available until log page 08h is read without Retain Asynchronous Event; the drive
//! collects nothing new before. Here it is available to each host until that host has read it so, whoever else did.

use std::mem::offset_of;
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

use gangway_spec::log::{GetLogPage, TelemetryHeader, lid};

/// What the drive was last seen to have collected by itself.
#[derive(Debug, Default)]
pub(crate) struct Collected(AtomicU16);

impl Collected {
    /// Bit that says that there is a generation, beside the eight bits of it.
    const SOME: u16 = 1 << 8;

    /// Looks at the beginning of log page 07h or 08h.
    pub(crate) fn look_at(&self, header: &[u8]) {
        if let Some([available, generation]) = header.get(FIELDS).and_then(|fields| fields.first_chunk())
            && *available != 0
        {
            self.0.store(Self::SOME | u16::from(*generation), Ordering::Relaxed);
        }
    }

    fn generation(&self) -> Option<u8> {
        let stored = self.0.load(Ordering::Relaxed);
        (stored & Self::SOME != 0).then_some(stored as u8)
    }
}

/// Where a log page says whether telemetry of the drive's own is available, and which.
const FIELDS: Range<usize> = {
    let available = offset_of!(TelemetryHeader, controller_available);
    assert!(offset_of!(TelemetryHeader, controller_generation) == available + 1);
    available..available + 2
};

/// What one host has done with of it.
#[derive(Debug, Default)]
pub(super) struct HostTelemetry {
    done: Option<u8>,
}

impl HostTelemetry {
    /// Turns what the drive answered to a read of log page 07h or 08h into what the host gets.
    pub(super) fn show(&mut self, read: &GetLogPage, data: &mut [u8], collected: &Collected) {
        // A piece that has one of the fields has both: pieces begin at multiples of four bytes.
        let start = u64::try_from(FIELDS.start).unwrap_or(u64::MAX).checked_sub(read.lpo);
        let fields =
            start.and_then(|start| data.get_mut(usize::try_from(start).ok()?..)?.first_chunk_mut::<2>());
        if let Some([available, generation]) = fields {
            let mut header = [0; FIELDS.end];
            header[FIELDS].copy_from_slice(&[*available, *generation]);
            collected.look_at(&header);
            let left = collected.generation() == Some(*generation) && self.done != Some(*generation);
            *available = (left || *available != 0).into();
        }
        if read.lid == lid::TELEMETRY_CONTROLLER && !read.rae {
            self.done = collected.generation();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a host reads: whether telemetry is available, where the drive says `available` of `generation`.
    fn read(host: &mut HostTelemetry, collected: &Collected, fields: (u8, u8), retain: bool) -> bool {
        let mut page = vec![0; 512];
        page[FIELDS].copy_from_slice(&[fields.0, fields.1]);
        let read = GetLogPage { rae: retain, ..GetLogPage::new(lid::TELEMETRY_CONTROLLER, 512) };
        host.show(&read, &mut page, collected);
        page[FIELDS][0] != 0
    }

    #[test]
    fn telemetry_is_available_to_each_host_until_it_has_read_it() {
        let collected = Collected::default();
        let (mut first, mut second) = (HostTelemetry::default(), HostTelemetry::default());
        assert!(!read(&mut first, &collected, (0, 0), true), "nothing was collected");
        assert!(read(&mut first, &collected, (1, 7), true));
        assert!(read(&mut first, &collected, (1, 7), false), "as it was");
        // The drive has nothing more for anybody now.
        assert!(!read(&mut first, &collected, (0, 7), true));
        assert!(read(&mut second, &collected, (0, 7), true));
        assert!(read(&mut second, &collected, (0, 7), false));
        assert!(!read(&mut second, &collected, (0, 7), true));
        // It collects anew.
        for host in [&mut first, &mut second] {
            assert!(read(host, &collected, (1, 8), true));
        }
    }

    #[test]
    fn a_piece_of_the_log_behind_the_header_ends_it_too_and_is_left_as_it_is() {
        let collected = Collected::default();
        let mut host = HostTelemetry::default();
        assert!(read(&mut host, &collected, (1, 3), true));
        let mut piece = vec![5; 512];
        let later = GetLogPage { lpo: 512, rae: false, ..GetLogPage::new(lid::TELEMETRY_CONTROLLER, 512) };
        host.show(&later, &mut piece, &collected);
        assert_eq!(piece, [5; 512]);
        assert!(!read(&mut host, &collected, (0, 3), true));
    }
}
