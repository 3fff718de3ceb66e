//! Token buckets that reactors share.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Limit;

const SECOND: u128 = 1_000_000_000;
/// For how long at the full rate a reactor takes at a time. What it has not used stays with it.
const BATCH: Duration = Duration::from_millis(1);
/// For how long tokens are saved up at least: a reactor that sleeps does not look every moment.
const LEAST_BURST: Duration = Duration::from_millis(5);

/// Tokens that become available at a constant rate, and are saved up for some time.
///
/// What is kept is a time: that up to which tokens have been spent. It may be ahead of now, when more was spent than
/// there was; then there is nothing until that time.
#[derive(Debug)]
struct Bucket {
    /// Tokens per second.
    rate: u64,
    /// In nanoseconds: for how long they are saved up. One token always can be.
    burst: u64,
    /// Tokens that are taken at a time.
    batch: u64,
    start: Instant,
    /// Nanoseconds since `start`, with `burst` added.
    spent: AtomicU64,
}

impl Bucket {
    fn new(rate: NonZeroU64, burst: Duration) -> Self {
        let rate = rate.get();
        let token = nanoseconds(1, rate);
        let burst = u64::try_from(burst.max(LEAST_BURST).as_nanos()).unwrap_or(u64::MAX / 4).max(token);
        let batch = tokens(BATCH.as_nanos() as u64, rate).clamp(1, tokens(burst, rate).max(1));
        Self { rate, burst, batch, start: Instant::now(), spent: AtomicU64::new(0) }
    }

    fn time(&self, now: Instant) -> u64 {
        let elapsed = u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX);
        elapsed.saturating_add(self.burst)
    }

    /// Takes a batch, or what there is; 0 when there is nothing.
    fn take(&self, now: Instant) -> u64 {
        let now = self.time(now);
        let mut spent = self.spent.load(Ordering::Relaxed);
        loop {
            let from = spent.max(now - self.burst);
            let granted = tokens(now.saturating_sub(from), self.rate).min(self.batch);
            if granted == 0 {
                return 0;
            }
            let until = from.saturating_add(nanoseconds(granted, self.rate));
            match self.spent.compare_exchange_weak(spent, until, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return granted,
                Err(other) => spent = other,
            }
        }
    }

    /// Whether all that can be saved up is there.
    fn is_full(&self, now: Instant) -> bool {
        self.spent.load(Ordering::Relaxed) <= self.time(now) - self.burst
    }

    /// Spends what may not be there yet.
    fn overdraw(&self, count: u64) {
        self.spent.fetch_add(nanoseconds(count, self.rate), Ordering::Relaxed);
    }

    /// When there is something again.
    fn ready_in(&self, now: Instant) -> Duration {
        let ready = self.spent.load(Ordering::Relaxed).saturating_add(nanoseconds(1, self.rate));
        Duration::from_nanos(ready.saturating_sub(self.time(now)))
    }
}

/// How long it takes for so many tokens to become available. Rounded up, so that rounding gives nobody more than its
/// rate.
fn nanoseconds(tokens: u64, rate: u64) -> u64 {
    (u128::from(tokens) * SECOND).div_ceil(u128::from(rate)) as u64
}

/// Tokens that become available in that time.
fn tokens(nanoseconds: u64, rate: u64) -> u64 {
    u64::try_from(u128::from(nanoseconds) * u128::from(rate) / SECOND).unwrap_or(u64::MAX)
}

/// A limit in force, shared by all reactors.
#[derive(Debug)]
pub(crate) struct Meter {
    commands: Option<Bucket>,
    bytes: Option<Bucket>,
}

impl Meter {
    /// `None` when it would limit nothing.
    pub(crate) fn new(limit: &Limit) -> Option<Self> {
        let bucket = |rate: NonZeroU64| Bucket::new(rate, limit.burst);
        limit.is_any().then(|| Self { commands: limit.iops.map(bucket), bytes: limit.bandwidth.map(bucket) })
    }

    /// Whether it is like a new one: nothing is owed, and all that can be saved up is.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        [&self.commands, &self.bytes].into_iter().flatten().all(|bucket| bucket.is_full(now))
    }
}

/// What one reactor has taken of a meter and not spent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Purse {
    commands: u64,
    bytes: u64,
}

impl Purse {
    /// Whether a command may go on now. Any command may while there is something of both kinds, however little: a
    /// limit that is smaller than one command must not stop it for ever.
    pub(crate) fn has_some(&mut self, meter: &Meter, now: Instant) -> bool {
        let fill = |left: &mut u64, bucket: &Option<Bucket>| {
            if let Some(bucket) = bucket
                && *left == 0
            {
                *left = bucket.take(now);
                return *left > 0;
            }
            true
        };
        fill(&mut self.commands, &meter.commands) && fill(&mut self.bytes, &meter.bytes)
    }

    /// Pays for a command of `length` bytes, if need be with what will be there later.
    pub(crate) fn pay(&mut self, meter: &Meter, length: u32) {
        let pay = |left: &mut u64, bucket: &Option<Bucket>, cost: u64| {
            let Some(bucket) = bucket else { return };
            match left.checked_sub(cost) {
                Some(rest) => *left = rest,
                None => bucket.overdraw(cost - std::mem::take(left)),
            }
        };
        pay(&mut self.commands, &meter.commands, 1);
        pay(&mut self.bytes, &meter.bytes, length.into());
    }

    /// When a command may go on again.
    pub(crate) fn ready_in(&self, meter: &Meter, now: Instant) -> Duration {
        let ready = |left: u64, bucket: &Option<Bucket>| match bucket {
            Some(bucket) if left == 0 => bucket.ready_in(now),
            _ => Duration::ZERO,
        };
        ready(self.commands, &meter.commands).max(ready(self.bytes, &meter.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets `reactors` take turns at commands of `length` bytes, whenever they may, for some seconds after a pause.
    /// Returns how many commands went on, and the bytes.
    fn run(limit: &Limit, reactors: usize, length: u32, pause: Duration, seconds: u64) -> (u64, u64) {
        let meter = Meter::new(limit).unwrap();
        let start = Instant::now() + pause;
        let end = start + Duration::from_secs(seconds);
        let mut purses = vec![Purse::default(); reactors];
        let (mut now, mut commands, mut bytes) = (start, 0, 0);
        while now < end {
            let mut next = end;
            for purse in &mut purses {
                while purse.has_some(&meter, now) {
                    purse.pay(&meter, length);
                    commands += 1;
                    bytes += u64::from(length);
                }
                next = next.min(now + purse.ready_in(&meter, now));
            }
            assert!(next > now, "who must wait must wait for something");
            now = next;
        }
        (commands, bytes)
    }

    fn limit(text: &str) -> Limit {
        text.parse().unwrap()
    }

    #[test]
    fn a_limit_is_kept_to_and_used_whatever_the_number_of_reactors() {
        for reactors in [1, 2, 7] {
            for iops in [1, 3, 999, 25_000, 3_000_000] {
                let limit = limit(&format!("iops={iops},burst=0ms"));
                let (commands, _) = run(&limit, reactors, 0, Duration::ZERO, 3);
                // Times are whole nanoseconds, and a batch stays with each reactor.
                let (least, most) =
                    (3 * iops - iops / 50, 3 * iops + 1 + iops / 200 + iops / 500 * reactors as u64);
                assert!((least..=most).contains(&commands), "{reactors}, {iops}: {commands}");
            }
        }
    }

    #[test]
    fn commands_larger_than_what_there_is_in_a_second_go_on_and_are_paid_for() {
        for reactors in [1, 4] {
            let (commands, bytes) = run(&limit("bandwidth=100k"), reactors, 1 << 20, Duration::ZERO, 100);
            // In 100 s there are 10 MB; each reactor may be one command ahead.
            assert!((9..=11 + reactors as u64).contains(&commands), "{reactors}: {commands}, {bytes}");
        }
    }

    #[test]
    fn what_was_saved_up_is_one_burst_however_long_the_pause() {
        for pause in [Duration::from_millis(500), Duration::from_secs(100 * 365 * 24 * 3600)] {
            let (commands, _) = run(&limit("iops=1000,burst=500ms"), 1, 0, pause, 1);
            assert!((1490..=1501).contains(&commands), "{pause:?}: {commands}");
        }
    }

    #[test]
    fn the_narrower_of_two_limits_decides() {
        let (commands, _) = run(&limit("iops=100k,bandwidth=8192k,burst=0ms"), 2, 4096, Duration::ZERO, 2);
        assert!((4000..=4016).contains(&commands), "{commands}");
        let (commands, _) = run(&limit("iops=100,bandwidth=8192k,burst=0ms"), 2, 4096, Duration::ZERO, 2);
        assert!((200..=202).contains(&commands), "{commands}");
    }

    #[test]
    fn extreme_rates_neither_overflow_nor_stop() {
        let limit = Limit {
            iops: NonZeroU64::new(u64::MAX),
            bandwidth: NonZeroU64::new(u64::MAX),
            burst: Duration::MAX,
        };
        let meter = Meter::new(&limit).unwrap();
        let mut purse = Purse::default();
        for _ in 0..1000 {
            assert!(purse.has_some(&meter, Instant::now()));
            purse.pay(&meter, u32::MAX);
        }
    }
}
