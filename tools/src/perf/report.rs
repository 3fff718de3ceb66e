//! What a run came to, for people and for programs.

use gangway_fabric::pdu::DigestFlags;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::run::{Load, Outcome, Run};
use super::units::{binary_size, grouped, time};
use crate::output;

/// Who waits for a CPU for a larger part of the time was not measured undisturbed.
pub(crate) const DISTURBED: f64 = 0.03;

/// A run and its results. Times are in nanoseconds.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Report {
    pub(crate) device: String,
    pub(crate) workload: Workload,
    /// Measured time.
    pub(crate) seconds: f64,
    pub(crate) ios: u64,
    #[serde(rename = "IOPS")]
    pub(crate) iops: f64,
    pub(crate) bytes_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reads: Option<Side>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) writes: Option<Side>,
    /// CPU time of the load generator.
    #[serde(rename = "ClientCpuPerIO")]
    pub(crate) client_cpu_per_io: f64,
    /// CPU time of the process named with `--target-pid`.
    #[serde(rename = "TargetCpuPerIO", skip_serializing_if = "Option::is_none")]
    pub(crate) target_cpu_per_io: Option<f64>,
    /// The part of the time that it ran; more than 1 when it has several threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target_load: Option<f64>,
    /// The part of the time that it was ready and others had its CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target_waited: Option<f64>,
    /// The same of the load generator.
    pub(crate) client_waited: f64,
    /// Blocks read with `--verify` of which nothing is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unverified_blocks: Option<u64>,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Workload {
    pub(crate) pattern: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) read_percentage: Option<u8>,
    pub(crate) block_size: u64,
    pub(crate) depth: u16,
    pub(crate) queues: usize,
    pub(crate) poll: bool,
    pub(crate) flow_control: bool,
    pub(crate) header_digest: bool,
    pub(crate) data_digest: bool,
    pub(crate) verify: bool,
}

/// One direction.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Side {
    pub(crate) ios: u64,
    #[serde(rename = "IOPS")]
    pub(crate) iops: f64,
    pub(crate) latency: Latency,
}

/// Latencies in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Latency {
    pub(crate) min: u64,
    pub(crate) mean: f64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    #[serde(rename = "P99.9")]
    pub(crate) p999: u64,
    #[serde(rename = "P99.99")]
    pub(crate) p9999: u64,
    pub(crate) max: u64,
}

impl Latency {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            min: histogram.min(),
            mean: histogram.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: histogram.max(),
        }
    }
}

impl Report {
    /// Sums a run up.
    pub(crate) fn new(device: String, run: &Run, outcome: &Outcome) -> Self {
        let Outcome { tally, target } = outcome;
        let seconds = tally.elapsed.as_secs_f64();
        let ios = tally.ios();
        let iops = ios as f64 / seconds.max(1e-9);
        let per_io = |seconds: f64| seconds * 1e9 / (ios.max(1) as f64);
        let side = |histogram: &Histogram<u64>| {
            (!histogram.is_empty()).then(|| Side {
                ios: histogram.len(),
                iops: histogram.len() as f64 / seconds.max(1e-9),
                latency: Latency::of(histogram),
            })
        };
        Self {
            device,
            workload: Workload {
                pattern: run.pattern.name(),
                read_percentage: run.pattern.writes().is_none().then_some(run.mix),
                block_size: run.block_size,
                depth: run.depth,
                queues: run.queues,
                poll: run.poll,
                flow_control: run.flow_control,
                header_digest: run.digests.contains(DigestFlags::HEADER),
                data_digest: run.digests.contains(DigestFlags::DATA),
                verify: run.verify,
            },
            seconds,
            ios,
            iops,
            bytes_per_second: iops * run.block_size as f64,
            reads: side(&tally.reads),
            writes: side(&tally.writes),
            client_cpu_per_io: per_io(tally.usage.cpu.as_secs_f64()),
            target_cpu_per_io: target.map(|load| per_io(load.cpu * seconds)),
            target_load: target.map(|load| load.cpu),
            target_waited: target.map(|load| load.waited),
            client_waited: Load::of(tally.usage, tally.elapsed).waited,
            unverified_blocks: run.verify.then_some(tally.unstamped),
        }
    }

    /// The figures that two devices are compared by; those of reads when there are any.
    pub(crate) fn latency(&self) -> Option<Latency> {
        self.reads.as_ref().or(self.writes.as_ref()).map(|side| side.latency)
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let Workload { pattern, read_percentage, block_size, depth, queues, .. } = &self.workload;
        let mix = read_percentage.map_or(String::new(), |mix| format!(" ({mix} % reads)"));
        let plural = if *queues == 1 { "queue" } else { "queues" };
        let mut lines = vec![format!(
            "{}: {pattern}{mix}, {}, {queues} {plural} of depth {depth}, {:.2} s",
            self.device,
            binary_size(*block_size),
            self.seconds
        )];
        let sides = [("read", &self.reads), ("write", &self.writes)];
        let rows = sides.iter().filter_map(|(name, side)| {
            let side = side.as_ref()?;
            let Latency { mean, p50, p90, p99, p999, p9999, max, .. } = side.latency;
            let bytes = output::size((side.iops * *block_size as f64) as u64);
            let mut row = vec![(*name).to_owned(), grouped(side.iops), format!("{bytes}/s"), time(mean)];
            row.extend([p50, p90, p99, p999, p9999, max].map(|nanos| time(nanos as f64)));
            Some(row)
        });
        let header = ["", "IOPS", "Bandwidth", "Mean", "p50", "p90", "p99", "p99.9", "p99.99", "Max"];
        lines.push(output::table(&header, rows.collect()));
        let mut costs = format!("CPU per I/O: {} here", time(self.client_cpu_per_io));
        if let (Some(cost), Some(load)) = (self.target_cpu_per_io, self.target_load) {
            costs.push_str(&format!(", {} in the target ({:.1} % of a CPU)", time(cost), load * 100.0));
        }
        lines.push(costs);
        let waited = self.client_waited.max(self.target_waited.unwrap_or(0.0));
        if waited > DISTURBED {
            lines.push(format!(
                "Disturbed: others had the CPU in {:.0} % of the time; the figures say little",
                waited * 100.0
            ));
        }
        if let Some(unverified) = self.unverified_blocks {
            lines.push(match unverified {
                _ if self.reads.is_none() => {
                    "Written with stamps, to be checked by a run that reads with --verify".to_owned()
                }
                0 => "Verified: every block read was as it was written".to_owned(),
                count => format!(
                    "Verified, but for {} blocks that this run had not written",
                    grouped(count as f64)
                ),
            });
        }
        lines.join("\n")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::super::tally::Tally;
    use super::super::worker::Limit;
    use super::super::workload::Pattern;
    use super::*;

    pub(crate) fn run() -> Run {
        Run {
            pattern: Pattern::Randrw,
            mix: 70,
            block_size: 4096,
            depth: 32,
            queues: 2,
            warmup: Duration::ZERO,
            limit: Limit::Time(Duration::from_secs(2)),
            offset: 0,
            size: None,
            nsid: 0,
            verify: true,
            cpus: Vec::new(),
            poll: false,
            flow_control: true,
            digests: DigestFlags::empty(),
            host: None,
            target: None,
            show_progress: false,
        }
    }

    #[test]
    fn figures_follow_from_counts_and_times() {
        let mut tally = Tally::new();
        for _ in 0..3000 {
            tally.record(false, 10_000);
        }
        for _ in 0..1000 {
            tally.record(true, 20_000);
        }
        tally.elapsed = Duration::from_secs(2);
        tally.usage.cpu = Duration::from_millis(4);
        tally.usage.waited = Duration::from_millis(200);
        let target = Some(Load { cpu: 0.5, waited: 0.01 });
        let report = Report::new("emulated".into(), &run(), &Outcome { tally, target });
        assert_eq!((report.ios, report.iops, report.bytes_per_second), (4000, 2000.0, 2000.0 * 4096.0));
        assert_eq!((report.client_cpu_per_io, report.target_cpu_per_io), (1000.0, Some(250_000.0)));
        let latency = report.latency().unwrap();
        assert!((9_990..=10_010).contains(&latency.p50) && (9_990..=10_010).contains(&latency.p9999));
        assert_eq!(report.writes.as_ref().unwrap().ios, 1000);
        let text = report.text();
        for part in
            ["randrw (70 % reads)", "4 KiB", "1,500", "250.00 us in the target (50.0 % of a CPU)", "Verified"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["IOPS"], 2000.0);
        assert!(text.contains("in 10 % of the time"), "{text}");
        assert_eq!(json["Reads"]["Latency"]["P99.9"], latency.p999);
    }

    #[test]
    fn a_run_without_any_command_has_no_figures_that_are_no_numbers() {
        let report = Report::new("x".into(), &run(), &Outcome { tally: Tally::new(), target: None });
        assert_eq!((report.iops, report.client_cpu_per_io), (0.0, 0.0));
        assert!(report.reads.is_none() && report.latency().is_none());
    }
}
