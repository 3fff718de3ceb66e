//! Whole runs, against drives, targets and the floor in this process.

use std::net::TcpListener;
use std::thread::JoinHandle;
use std::time::Duration;

use gangway_fabric::pdu::DigestFlags;
use tokio::sync::oneshot;

use super::compare;
use super::floor::{SUBSYSTEM, Server};
use super::report::tests::run;
use super::run::Run;
use super::worker::Limit;
use super::workload::Pattern;
use crate::device::Address;

const EXPORT: &str = "nqn.2014-08.org.example:perf";

/// A target with an emulated drive, on a free port.
struct Serving {
    device: Address,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    fn start(drive: &str) -> Self {
        let config = drive.parse().unwrap();
        let (end, ended) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let target = crate::served::start(config, EXPORT).await;
                tell.send(target.addresses()[0]).unwrap();
                let _ = ended.await;
                target.shutdown().await;
            });
        });
        let address = told.recv().unwrap();
        let device = format!("tcp:{address}/{EXPORT}").parse().unwrap();
        Self { device, end: Some(end), thread: Some(thread) }
    }

    fn run(&self, run: &Run) -> Result<super::tally::Tally, String> {
        run.against(&self.device).map(|outcome| outcome.tally).map_err(|error| format!("{error:#}"))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.end.take());
        self.thread.take().map(JoinHandle::join);
    }
}

/// The floor, which lives until the test program ends.
fn floor(poll: bool) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || Server::new(listener, poll).unwrap().serve());
    format!("tcp:{address}/{SUBSYSTEM}").parse().unwrap()
}

fn counted(pattern: Pattern, block_size: u64, count: u64) -> Run {
    Run { pattern, block_size, limit: Limit::Count(count), queues: 1, depth: 8, verify: false, ..run() }
}

/// Writes a region once and checks all of it, with other commands than it was written with.
fn write_and_check(device: impl Fn(&Run) -> Result<super::tally::Tally, String>, base: &Run) {
    const REGION: u64 = 4 << 20;
    let write = Run {
        pattern: Pattern::Write,
        verify: true,
        size: Some(REGION),
        limit: Limit::Count(REGION / base.block_size),
        ..base.clone()
    };
    assert_eq!(device(&write).unwrap().writes.len(), REGION / base.block_size);
    let read = Run {
        pattern: Pattern::Read,
        block_size: 16384,
        limit: Limit::Count(REGION / 16384),
        queues: 3,
        ..write.clone()
    };
    assert_eq!(device(&read).unwrap().reads.len(), REGION / 16384);
    let beyond = Run { size: Some(REGION + (1 << 20)), limit: Limit::Count(REGION), ..read };
    assert!(device(&beyond).unwrap_err().contains("never written"));
}

#[test]
fn what_is_written_through_a_target_is_read_back() {
    let serving = Serving::start("size=16MiB");
    for block_size in [4096, 8192, 65536, 1 << 20] {
        for (flow_control, poll, queues) in [(true, false, 1), (false, true, 2), (false, false, 3)] {
            let depth = if block_size > 65536 { 1 } else { 8 };
            let base = Run { flow_control, poll, queues, depth, ..counted(Pattern::Write, block_size, 1) };
            // Another region each time would do as well: a new run does not take the stamps of an old one for its own.
            write_and_check(|run| serving.run(run), &base);
        }
        // So that the next block size finds nothing stamped beyond its region.
        assert!(serving.run(&counted(Pattern::Write, 1 << 20, 16)).is_ok());
    }
}

#[test]
fn digests_protect_headers_and_data_of_every_shape() {
    let serving = Serving::start("size=16MiB");
    for digests in [DigestFlags::HEADER, DigestFlags::DATA, DigestFlags::all()] {
        for block_size in [4096, 131_072] {
            write_and_check(
                |run| serving.run(run),
                &Run { digests, ..counted(Pattern::Write, block_size, 1) },
            );
            assert!(serving.run(&counted(Pattern::Write, 1 << 20, 16)).is_ok());
        }
    }
}

#[test]
fn reads_and_writes_at_random_places_are_checked_against_each_other() {
    let serving = Serving::start("size=1MiB,block=512");
    for queues in [1, 4] {
        let mixed = Run {
            verify: true,
            queues,
            limit: Limit::Time(Duration::from_millis(200)),
            ..counted(Pattern::Randrw, 1024, 1)
        };
        let tally = serving.run(&mixed).unwrap();
        assert!(
            tally.reads.len() > 100 && tally.writes.len() > 50,
            "{} {}",
            tally.reads.len(),
            tally.writes.len()
        );
    }
}

#[test]
fn a_drive_that_forgets_is_found_out() {
    let serving = Serving::start("size=1MiB,null");
    let mixed = Run { verify: true, ..counted(Pattern::Randrw, 4096, 100_000) };
    assert!(serving.run(&mixed).unwrap_err().contains("verify: the block at byte"));
}

#[test]
fn more_queues_than_a_host_gets_take_more_associations() {
    let serving = Serving::start("size=16MiB");
    let many = Run { queues: 11, depth: 2, ..counted(Pattern::Randread, 4096, 1000) };
    assert_eq!(serving.run(&many).unwrap().ios(), 1000);
}

#[test]
fn a_local_drive_gives_what_was_written() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().with_extension("img");
    let device: Address = format!("emulated:size=8MiB,file={}", path.display()).parse().unwrap();
    let once =
        |run: &Run| run.against(&device).map(|outcome| outcome.tally).map_err(|error| format!("{error:#}"));
    write_and_check(once, &Run { queues: 2, ..counted(Pattern::Write, 4096, 1) });
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_time_limit_ends_a_run_and_warmup_does_not_count() {
    let device: Address = "emulated:null".parse().unwrap();
    let (warmup, time) = (Duration::from_millis(100), Duration::from_millis(100));
    let timed = Run { warmup, limit: Limit::Time(time), ..counted(Pattern::Randread, 4096, 1) };
    let outcome = Run { target: Some(std::process::id()), ..timed }.against(&device).unwrap();
    assert!(outcome.tally.elapsed >= time);
    assert!(outcome.tally.ios() > 0 && outcome.tally.usage.cpu > Duration::ZERO);
    assert!(outcome.target.unwrap().cpu > 0.0);
}

#[test]
fn the_floor_answers_every_shape() {
    for poll in [false, true] {
        let device = floor(poll);
        for (pattern, block_size, queues) in [
            (Pattern::Randread, 4096, 1),
            (Pattern::Randwrite, 4096, 1),
            (Pattern::Randrw, 8192, 6),
            (Pattern::Read, 131_072, 2),
            (Pattern::Write, 131_072, 2),
        ] {
            for flow_control in [true, false] {
                let run = Run { flow_control, queues, ..counted(pattern, block_size, 500) };
                assert_eq!(run.against(&device).unwrap().tally.ios(), 500, "{pattern:?} {block_size}");
            }
        }
    }
}

#[test]
fn pairs_are_compared_in_turn() {
    let (a, b): (Address, Address) =
        ("emulated:null".parse().unwrap(), "emulated:size=1MiB".parse().unwrap());
    let (a, b) =
        (compare::Subject { device: &a, target: None }, compare::Subject { device: &b, target: None });
    let comparison = compare::compare(&counted(Pattern::Randread, 4096, 1000), &a, &b, 3).unwrap();
    assert_eq!(comparison.pairs.len(), 3);
    assert!(comparison.pairs.iter().all(|pair| pair.a.device == "emulated:null" && pair.b.ios == 1000));
    let ratio = comparison.iops_ratio.unwrap();
    assert!(ratio.min <= ratio.median && ratio.median <= ratio.max);
    assert!(comparison.text().contains("A/B, IOPS:"));
}

#[test]
fn workloads_that_do_not_fit_are_refused_before_anything_is_sent() {
    let device: Address = "emulated:size=1MiB,mdts=1,queues=2".parse().unwrap();
    let base = counted(Pattern::Read, 4096, 1);
    for (wrong, why) in [
        (Run { block_size: 512, ..base.clone() }, "multiple of the namespace's block size"),
        (Run { block_size: 0, ..base.clone() }, "multiple of the namespace's block size"),
        (Run { block_size: 16384, ..base.clone() }, "8 KiB at most"),
        (Run { offset: 100, ..base.clone() }, "--offset"),
        (Run { offset: 1 << 20, ..base.clone() }, "room for one command"),
        (Run { size: Some(2 << 20), ..base.clone() }, "lie in the namespace of 1 MiB"),
        (Run { nsid: 9, ..base.clone() }, "namespace 9"),
        (Run { queues: 3, ..base.clone() }, "2 I/O queues"),
        (Run { verify: true, depth: 300, ..base.clone() }, "--verify needs"),
        (Run { depth: 2000, ..base.clone() }, "smaller --depth"),
    ] {
        let error = format!("{:#}", wrong.against(&device).unwrap_err());
        assert!(error.contains(why), "{why}: {error}");
    }
    let error = format!(
        "{:#}",
        "tcp:127.0.0.1:1/nqn.2014-08.org.example:a"
            .parse::<Address>()
            .map(|device| base.against(&device))
            .unwrap()
            .unwrap_err()
    );
    assert!(error.contains("127.0.0.1:1"), "{error}");
}
