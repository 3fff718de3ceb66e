//! What a benchmark came to.

use serde::Serialize;

use super::shape::Shape;
use crate::output;
use crate::perf::report::{DISTURBED, Report};
use crate::perf::spread::Spread;
use crate::perf::units::{grouped, time};

/// The distance of the cores may change by this factor during a round that counts.
const STEADY: f64 = 1.25;

/// One target in one round.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Sample {
    /// Nanoseconds that a cache line took from core to core and back before the run.
    pub(crate) distance_before: f64,
    /// And after it.
    pub(crate) distance_after: f64,
    #[serde(flatten)]
    pub(crate) report: Report,
}

/// All targets, one after the other, in the order of their names.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Round {
    pub(crate) samples: Vec<Sample>,
}

impl Round {
    fn distances(&self) -> impl Iterator<Item = f64> + '_ {
        self.samples.iter().flat_map(|sample| [sample.distance_before, sample.distance_after])
    }

    /// Whether the cores stayed where they were, and nobody else was on them.
    fn is_steady(&self) -> bool {
        let disturbed = |sample: &Sample| {
            let Report { client_waited, target_waited, .. } = sample.report;
            client_waited.max(target_waited.unwrap_or(0.0)) > DISTURBED
        };
        Spread::of(self.distances()).is_some_and(|distance| distance.max <= distance.min * STEADY)
            && !self.samples.iter().any(disturbed)
    }
}

/// Medians of one target, and its ratios to the floor, round by round. Times are in nanoseconds.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Summary {
    pub(crate) name: String,
    #[serde(rename = "IOPS")]
    pub(crate) iops: Option<Spread>,
    pub(crate) p50: Option<Spread>,
    pub(crate) p99: Option<Spread>,
    #[serde(rename = "P99.9")]
    pub(crate) p999: Option<Spread>,
    #[serde(rename = "TargetCpuPerIO")]
    pub(crate) target_cpu: Option<Spread>,
    #[serde(rename = "ClientCpuPerIO")]
    pub(crate) client_cpu: Option<Spread>,
    #[serde(rename = "IOPSToFloor")]
    pub(crate) iops_ratio: Option<Spread>,
    #[serde(rename = "P50ToFloor")]
    pub(crate) p50_ratio: Option<Spread>,
    #[serde(rename = "TargetCpuToFloor")]
    pub(crate) cpu_ratio: Option<Spread>,
}

/// One shape of load.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ShapeResult {
    pub(crate) shape: Shape,
    /// Nanoseconds, over all rounds.
    pub(crate) distance: Option<Spread>,
    /// Rounds in which the distance stayed the same and nobody else had the CPUs. Only these count, unless there is
    /// none.
    pub(crate) steady_rounds: usize,
    /// The floor first.
    pub(crate) targets: Vec<Summary>,
    pub(crate) rounds: Vec<Round>,
}

impl ShapeResult {
    /// Sums the rounds up. `names`: the floor first.
    pub(crate) fn new(shape: Shape, names: &[String], rounds: Vec<Round>) -> Self {
        let steady_rounds = rounds.iter().filter(|round| round.is_steady()).count();
        let counting: Vec<&Round> =
            rounds.iter().filter(|round| steady_rounds == 0 || round.is_steady()).collect();
        let targets = names.iter().enumerate().map(|(index, name)| summary(name, index, &counting)).collect();
        let distance = Spread::of(rounds.iter().flat_map(Round::distances));
        Self { shape, distance, steady_rounds, targets, rounds }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let spread = |spread: Option<Spread>, show: fn(f64) -> String| {
            spread.map_or(String::new(), |spread| spread.short(show))
        };
        let ratio = |spread: Option<Spread>| {
            spread.map_or(String::new(), |spread| spread.text(|value| format!("{value:.2}")))
        };
        let rows = self.targets.iter().map(|target| {
            vec![
                target.name.clone(),
                spread(target.iops, grouped),
                spread(target.p50, time),
                spread(target.p99, time),
                spread(target.target_cpu, time),
                spread(target.client_cpu, time),
                ratio(target.iops_ratio),
                ratio(target.cpu_ratio),
            ]
        });
        let header = ["", "IOPS", "p50", "p99", "CPU per I/O", "client's", "IOPS/floor", "CPU/floor"];
        let distance =
            self.distance.map_or(String::new(), |distance| distance.text(|nanos| format!("{nanos:.0}")));
        let (steady, all) = (self.steady_rounds, self.rounds.len());
        let note = match steady {
            0 => format!("none of {all} rounds was undisturbed, so all count, for little"),
            steady => format!("{steady} of {all} rounds were undisturbed and count"),
        };
        let table = output::table(&header, rows.collect());
        format!("{}\n{table}\nCores {distance} ns apart, {note}", self.shape)
    }
}

fn summary(name: &str, index: usize, rounds: &[&Round]) -> Summary {
    let of = |figure: &dyn Fn(&Report) -> Option<f64>| {
        Spread::of(rounds.iter().filter_map(|round| figure(&round.samples.get(index)?.report)))
    };
    let ratio = |figure: &dyn Fn(&Report) -> Option<f64>| {
        let one = |round: &&Round| {
            let [own, floor] =
                [index, 0].map(|index| round.samples.get(index).and_then(|sample| figure(&sample.report)));
            Some(own? / floor?).filter(|ratio| ratio.is_finite())
        };
        (index > 0).then(|| Spread::of(rounds.iter().filter_map(one))).flatten()
    };
    let iops = |report: &Report| Some(report.iops);
    let p50 = |report: &Report| report.latency().map(|latency| latency.p50 as f64);
    let target_cpu = |report: &Report| report.target_cpu_per_io;
    Summary {
        name: name.to_owned(),
        iops: of(&iops),
        p50: of(&p50),
        p99: of(&|report| report.latency().map(|latency| latency.p99 as f64)),
        p999: of(&|report| report.latency().map(|latency| latency.p999 as f64)),
        target_cpu: of(&target_cpu),
        client_cpu: of(&|report| Some(report.client_cpu_per_io)),
        iops_ratio: ratio(&iops),
        p50_ratio: ratio(&p50),
        cpu_ratio: ratio(&target_cpu),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::perf::run::{Load, Outcome};
    use crate::perf::tally::Tally;

    /// A run of one second with so many commands, whose target was busy for `load` of it.
    fn sample(ios: u64, load: f64, distance: f64) -> Sample {
        let mut tally = Tally::new();
        (0..ios).for_each(|_| tally.record(false, 1000));
        tally.elapsed = Duration::from_secs(1);
        let run = crate::perf::report::tests::run();
        let report = Report::new(
            String::new(),
            &run,
            &Outcome { tally, target: Some(Load { cpu: load, waited: 0.0 }) },
        );
        Sample { distance_before: distance, distance_after: distance, report }
    }

    fn names() -> Vec<String> {
        ["floor", "target"].map(str::to_owned).to_vec()
    }

    #[test]
    fn ratios_are_taken_within_each_round() {
        let rounds = vec![
            Round { samples: vec![sample(1000, 0.5, 60.0), sample(500, 0.5, 60.0)] },
            Round { samples: vec![sample(100, 0.1, 60.0), sample(200, 0.2, 60.0)] },
        ];
        let result = ShapeResult::new(Shape::usual()[0], &names(), rounds);
        let target = &result.targets[1];
        assert_eq!(target.iops_ratio, Spread::of([0.5, 2.0]));
        assert_eq!(target.cpu_ratio, Spread::of([2.0, 1.0]));
        assert!(result.targets[0].cpu_ratio.is_none());
        assert!(result.text().contains("1.25 (0.50 to 2.00)"), "{}", result.text());
    }

    #[test]
    fn rounds_in_which_the_cores_moved_do_not_count_if_there_are_others() {
        let steady = Round { samples: vec![sample(1000, 0.5, 60.0), sample(500, 0.5, 66.0)] };
        let moved = Round { samples: vec![sample(1000, 0.5, 60.0), sample(100, 0.5, 330.0)] };
        let result = ShapeResult::new(Shape::usual()[0], &names(), vec![steady, moved.clone()]);
        assert_eq!((result.steady_rounds, result.targets[1].iops_ratio), (1, Spread::of([0.5])));
        assert_eq!(result.distance.unwrap().max, 330.0);
        let result = ShapeResult::new(Shape::usual()[0], &names(), vec![moved]);
        assert_eq!((result.steady_rounds, result.targets[1].iops_ratio), (0, Spread::of([0.1])));
    }
}
