//! The keep-alive timer of an association. NVMe Base 2.0, 3.9.
//!
//! Time is passed in, so that tests need not wait and a caller reads the clock once for many timers.

use std::time::{Duration, Instant};

/// The granularity of the timer, which [`KAS`] reports.
pub const GRANULARITY: Duration = Duration::from_millis(100);

/// Identify Controller's Keep Alive Support: the granularity in units of 100 ms.
pub const KAS: u16 = 1;

/// How long a discovery controller without a keep-alive timeout may stay silent before it is dropped.
pub const DISCOVERY_ACTIVITY_TIMEOUT: Duration = Duration::from_secs(120);

/// Watches that a host shows a sign of life in time.
#[derive(Debug, Clone)]
pub struct KeepAlive {
    kato: Duration,
    /// Stands in for a `kato` of zero.
    activity_timeout: Option<Duration>,
    last: Instant,
}

impl KeepAlive {
    /// A timer that starts at `now`; a timeout of zero turns it off.
    pub fn new(kato: Duration, now: Instant) -> KeepAlive {
        KeepAlive { kato: rounded_up(kato), activity_timeout: None, last: now }
    }

    /// The timer of a discovery controller: with a timeout of zero, 120 seconds without a command end the association.
    pub fn discovery(kato: Duration, now: Instant) -> KeepAlive {
        KeepAlive { activity_timeout: Some(DISCOVERY_ACTIVITY_TIMEOUT), ..KeepAlive::new(kato, now) }
    }

    /// The Keep Alive Timeout, zero when it is off.
    pub fn kato(&self) -> Duration {
        self.kato
    }

    /// The timeout as feature 0Fh reports it, in milliseconds.
    pub fn kato_millis(&self) -> u32 {
        u32::try_from(self.kato.as_millis()).unwrap_or(u32::MAX)
    }

    /// Changes the timeout by feature 0Fh, whose dword 11 is in milliseconds, and starts the timer anew.
    pub fn set_kato_millis(&mut self, millis: u32, now: Instant) {
        self.kato = rounded_up(Duration::from_millis(millis.into()));
        self.touch(now);
    }

    /// The host showed a sign of life.
    pub fn touch(&mut self, now: Instant) {
        // Signs of life are collected from several threads, so an older one may be reported late.
        self.last = self.last.max(now);
    }

    /// When the timer expires if nothing happens; never, when it is off.
    pub fn deadline(&self) -> Option<Instant> {
        let timeout = if self.kato.is_zero() { self.activity_timeout? } else { self.kato };
        self.last.checked_add(timeout)
    }

    /// Whether the host has been silent for too long.
    pub fn expired(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| now >= deadline)
    }
}

fn rounded_up(kato: Duration) -> Duration {
    let millis = u64::try_from(kato.as_millis()).unwrap_or(u64::MAX - 100);
    Duration::from_millis(millis.next_multiple_of(GRANULARITY.as_millis() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_timer_expires_at_its_deadline_and_not_before() {
        let start = Instant::now();
        let timer = KeepAlive::new(5 * SECOND, start);
        assert_eq!(timer.deadline(), Some(start + 5 * SECOND));
        assert!(!timer.expired(start + 5 * SECOND - Duration::from_nanos(1)));
        assert!(timer.expired(start + 5 * SECOND));
    }

    #[test]
    fn a_sign_of_life_starts_the_timer_anew_and_an_older_one_does_not_set_it_back() {
        let start = Instant::now();
        let mut timer = KeepAlive::new(5 * SECOND, start);
        timer.touch(start + 4 * SECOND);
        timer.touch(start + 2 * SECOND);
        assert_eq!(timer.deadline(), Some(start + 9 * SECOND));
    }

    #[test]
    fn a_timeout_of_zero_turns_the_timer_off() {
        let start = Instant::now();
        let mut timer = KeepAlive::new(Duration::ZERO, start);
        assert_eq!(timer.deadline(), None);
        assert!(!timer.expired(start + Duration::from_secs(1_000_000)));
        timer.set_kato_millis(250, start + SECOND);
        assert_eq!(timer.deadline(), Some(start + SECOND + Duration::from_millis(300)));
        assert_eq!(timer.kato_millis(), 300);
        timer.set_kato_millis(0, start + SECOND);
        assert_eq!(timer.deadline(), None);
    }

    #[test]
    fn a_discovery_controller_without_a_timeout_is_dropped_after_its_activity_timeout() {
        let start = Instant::now();
        let timer = KeepAlive::discovery(Duration::ZERO, start);
        assert_eq!(timer.kato(), Duration::ZERO);
        assert!(!timer.expired(start + 119 * SECOND));
        assert!(timer.expired(start + 120 * SECOND));
        assert!(KeepAlive::discovery(2 * SECOND, start).expired(start + 2 * SECOND));
    }

    #[test]
    fn the_longest_timeout_does_not_overflow() {
        let start = Instant::now();
        let mut timer = KeepAlive::new(Duration::MAX, start);
        assert!(!timer.expired(start + SECOND));
        timer.set_kato_millis(u32::MAX, start);
        assert!(!timer.expired(start + SECOND));
    }
}
