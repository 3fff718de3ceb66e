//! Whether a drive that comes back may have lost what hosts believe it kept.
//!
//! A drive with a volatile write cache answers writes before they are on its media, and a Flush after a loss of power
//! succeeds whatever was lost. So a host would never learn of it: what it wrote between the two is gone. Therefore a drive
//! whose power was off is not served to hosts that were connected before.

use gangway_driver::controller::{AdminData, Controller};
use gangway_spec::command::{NSID_BROADCAST, SubmissionQueueEntry};
use gangway_spec::identify::Vwc;
use gangway_spec::log::{GetLogPage, SmartLog, lid};
use zerocopy::FromBytes;

/// What a drive says of its power, as far as it matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Power {
    /// Whether it has a volatile write cache that is on.
    caches: bool,
    /// `None` when it does not say, or was not asked: it has no cache.
    counts: Option<Counts>,
}

/// Counters of the SMART log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    power_cycles: u128,
    unsafe_shutdowns: u128,
}

impl Power {
    /// Asks the drive.
    pub(super) fn read(controller: &mut Controller) -> Self {
        if !controller.identify().vwc().contains(Vwc::PRESENT) {
            return Self::default();
        }
        // What it does not say counts as on.
        let caches = !matches!(controller.volatile_write_cache(), Ok(Some(false)));
        Self { caches, counts: read_counts(controller) }
    }

    /// What hosts may have lost when the drive was like this before it was gone, and is like `now`; `None` when nothing.
    pub(super) fn loss(&self, now: &Self) -> Option<String> {
        if !self.caches {
            return None;
        }
        let how = match (self.counts, now.counts) {
            (Some(then), Some(now)) if then == now => return None,
            (Some(then), Some(now)) => format!(
                "its power was off (power cycles {} then and {} now, unsafe shutdowns {} and {})",
                then.power_cycles, now.power_cycles, then.unsafe_shutdowns, now.unsafe_shutdowns
            ),
            _ => "it does not say whether its power was off (no SMART log)".to_owned(),
        };
        Some(format!(
            "{how}, so writes that it had acknowledged and that were in its volatile write cache may be lost; take down \
             the file systems of hosts that use it, then start gangway serve again"
        ))
    }

    /// As [`Power::loss`], after a reset, which some drives count as an unsafe shutdown: only power cycles count.
    pub(super) fn loss_in_reset(&self, now: &Self) -> Option<String> {
        let (then, counts) = (self.counts?, now.counts?);
        if then.power_cycles == counts.power_cycles { None } else { self.loss(now) }
    }
}

fn read_counts(controller: &mut Controller) -> Option<Counts> {
    let mut entry = SubmissionQueueEntry::from(GetLogPage {
        rae: true,
        ..GetLogPage::new(lid::SMART, size_of::<SmartLog>() as u32)
    });
    entry.nsid.set(NSID_BROADCAST);
    let (_, data) = controller
        .admin(entry, AdminData::In(size_of::<SmartLog>()))
        .inspect_err(|error| tracing::warn!(%error, "whether a drive loses power cannot be told"))
        .ok()?;
    let log = SmartLog::read_from_bytes(&data).ok()?;
    Some(Counts { power_cycles: log.power_cycles.get(), unsafe_shutdowns: log.unsafe_shutdowns.get() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn power(caches: bool, counts: Option<(u128, u128)>) -> Power {
        let counts = counts.map(|(power_cycles, unsafe_shutdowns)| Counts { power_cycles, unsafe_shutdowns });
        Power { caches, counts }
    }

    #[test]
    fn only_a_cache_whose_power_stayed_on_for_sure_has_lost_nothing() {
        let then = power(true, Some((3, 1)));
        assert_eq!(then.loss(&then), None);
        assert!(then.loss(&power(true, Some((4, 1)))).is_some());
        assert!(then.loss(&power(true, Some((3, 2)))).is_some());
        assert!(then.loss(&power(true, None)).is_some());
        assert!(power(true, None).loss(&power(true, None)).is_some());
        // What it is like now does not matter: what was written then does.
        assert!(then.loss(&power(false, Some((4, 1)))).is_some());
        assert_eq!(power(false, Some((3, 1))).loss(&power(true, Some((4, 2)))), None);
    }
}
