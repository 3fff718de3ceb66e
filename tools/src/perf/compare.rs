//! Two devices in turn. What a machine does changes from minute to minute; the ratio of neighbours changes less.

use serde::Serialize;

use super::report::Report;
use super::run::Run;
use super::spread::Spread;
use super::units::{grouped, time};
use crate::device::Address;
use crate::output;

/// One device's run, and the other's right after it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Pair {
    pub(crate) a: Report,
    pub(crate) b: Report,
}

/// All pairs, and the ratios A to B.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Comparison {
    pub(crate) pairs: Vec<Pair>,
    #[serde(rename = "IOPSRatio")]
    pub(crate) iops_ratio: Option<Spread>,
    pub(crate) p50_ratio: Option<Spread>,
    pub(crate) p99_ratio: Option<Spread>,
    #[serde(rename = "TargetCpuRatio", skip_serializing_if = "Option::is_none")]
    pub(crate) target_cpu_ratio: Option<Spread>,
}

/// A device, and the process that serves it if its CPU time is of interest.
#[derive(Clone, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) device: &'a Address,
    pub(crate) target: Option<u32>,
}

/// Runs the two in turn, `rounds` times; which one is first alternates.
///
/// # Errors
/// As [`Run::against`].
pub(crate) fn compare(
    run: &Run,
    a: &Subject<'_>,
    b: &Subject<'_>,
    rounds: u32,
) -> anyhow::Result<Comparison> {
    let once = |subject: &Subject<'_>| {
        let run = Run { target: subject.target, ..run.clone() };
        let outcome = run.against(subject.device)?;
        anyhow::Ok(Report::new(subject.device.to_string(), &run, &outcome))
    };
    let mut pairs = Vec::new();
    for round in 0..rounds {
        let pair = if round % 2 == 0 {
            let a = once(a)?;
            Pair { a, b: once(b)? }
        } else {
            let b = once(b)?;
            Pair { a: once(a)?, b }
        };
        if run.show_progress {
            eprintln!(
                "pair {} of {rounds}: {} and {} IOPS",
                round + 1,
                grouped(pair.a.iops),
                grouped(pair.b.iops)
            );
        }
        pairs.push(pair);
    }
    Ok(Comparison::of(pairs))
}

impl Comparison {
    fn of(pairs: Vec<Pair>) -> Self {
        let ratio = |figure: fn(&Report) -> Option<f64>| {
            let one =
                |pair: &Pair| Some(figure(&pair.a)? / figure(&pair.b)?).filter(|ratio| ratio.is_finite());
            Spread::of(pairs.iter().filter_map(one))
        };
        Self {
            iops_ratio: ratio(|report| Some(report.iops)),
            p50_ratio: ratio(|report| report.latency().map(|latency| latency.p50 as f64)),
            p99_ratio: ratio(|report| report.latency().map(|latency| latency.p99 as f64)),
            target_cpu_ratio: ratio(|report| report.target_cpu_per_io),
            pairs,
        }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let cells = |report: &Report| {
            let latency = report.latency();
            [
                grouped(report.iops),
                latency.map_or(String::new(), |latency| time(latency.p50 as f64)),
                latency.map_or(String::new(), |latency| time(latency.p99 as f64)),
                report.target_cpu_per_io.map_or(String::new(), time),
            ]
        };
        let rows = self.pairs.iter().enumerate().map(|(index, pair)| {
            let ratio = format!("{:.3}", pair.a.iops / pair.b.iops);
            let mut row = vec![(index + 1).to_string()];
            row.extend(cells(&pair.a).into_iter().chain(cells(&pair.b)).chain([ratio]));
            row
        });
        let header = [
            "Pair",
            "A: IOPS",
            "p50",
            "p99",
            "CPU per I/O",
            "B: IOPS",
            "p50",
            "p99",
            "CPU per I/O",
            "A/B: IOPS",
        ];
        let mut lines = Vec::new();
        if let Some(pair) = self.pairs.first() {
            lines.extend([format!("A: {}", pair.a.device), format!("B: {}", pair.b.device)]);
        }
        lines.push(output::table(&header, rows.collect()));
        let ratios = [
            ("IOPS", self.iops_ratio),
            ("p50", self.p50_ratio),
            ("p99", self.p99_ratio),
            ("target's CPU per I/O", self.target_cpu_ratio),
        ];
        for (name, ratio) in ratios {
            if let Some(ratio) = ratio {
                lines.push(format!("A/B, {name}: {}", ratio.text(|value| format!("{value:.3}"))));
            }
        }
        lines.join("\n")
    }
}
