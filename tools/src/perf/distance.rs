//! How far two CPUs are from each other: the time that a cache line takes from one to the other and back.
//!
//! On virtual machines it changes while nobody looks, and with it every figure of a benchmark.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::anyhow;

use super::cpu;

/// Round trips of one sample.
const TRIPS: u64 = 2000;
/// Samples, of which the median counts.
const SAMPLES: usize = 9;
/// Looks at a line before a thread lets others run.
const LOOKS: u32 = 100_000;

#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// Nanoseconds that a cache line takes from CPU `a` to CPU `b` and back.
///
/// # Errors
/// This process may not run on one of them.
pub(crate) fn round_trip(a: usize, b: usize) -> anyhow::Result<f64> {
    let (there, back) = (Line::default(), Line::default());
    let total = TRIPS * SAMPLES as u64;
    thread::scope(|scope| {
        // Both are pinned before either waits for the other.
        let pinned = scope.spawn(|| cpu::pin(&[b])).join().map_err(|_| anyhow!("a thread panicked"))?;
        pinned?;
        scope.spawn(|| {
            let pinned = cpu::pin(&[b]);
            for trip in 1..=total {
                wait(&there, trip);
                back.0.store(trip, Ordering::Release);
            }
            pinned
        });
        let sender = scope.spawn(|| {
            let pinned = cpu::pin(&[a]);
            let mut samples = [0.0; SAMPLES];
            let mut trip = 0;
            for sample in &mut samples {
                let start = Instant::now();
                for _ in 0..TRIPS {
                    trip += 1;
                    there.0.store(trip, Ordering::Release);
                    wait(&back, trip);
                }
                *sample = start.elapsed().as_nanos() as f64 / TRIPS as f64;
            }
            samples.sort_by(f64::total_cmp);
            pinned.map(|()| samples[SAMPLES / 2])
        });
        sender.join().map_err(|_| anyhow!("a thread panicked"))?
    })
}

fn wait(line: &Line, value: u64) {
    let mut looks = 0;
    while line.0.load(Ordering::Acquire) != value {
        looks += 1;
        if looks % LOOKS == 0 {
            thread::yield_now();
        }
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_travels_between_any_two_cpus() {
        let cpus = crate::cpus::allowed().unwrap().0;
        let (Some(&first), Some(&last)) = (cpus.first(), cpus.last()) else { return };
        assert!(round_trip(first, last).unwrap() > 0.0);
        assert!(round_trip(first, 1023).is_err() || cpus.contains(&1023));
    }
}
