//! `gangway top`.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::Args;

use super::Request;
use super::client::Server;
use super::report::{Done, Host, Report};
use crate::exit::Exit;
use crate::output;
use crate::perf::units;

const EXAMPLES: &str = "\
Examples:
  gangway top                        what hosts do, every second, until Ctrl-C
  gangway top --interval 10 --count 1
      what they do in ten seconds from now";

/// Shows what the hosts of a running server do, again and again.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Top {
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = units::parse_seconds)]
    interval: Duration,
    /// How often to look [default: until it is interrupted]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    #[command(flatten)]
    server: Server,
}

impl Top {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        /// Moves to the upper left corner and clears what is below.
        const CLEAR: &str = "\x1b[H\x1b[J";
        let mut client = self.server.connect()?;
        let clear = if std::io::stdout().is_terminal() { CLEAR } else { "" };
        let mut before: Report = client.ask(&Request::Status {})?;
        let mut since = Instant::now();
        let mut looks = 0;
        while self.count.is_none_or(|count| looks < count) {
            std::thread::sleep(self.interval);
            let now: Report = client.ask(&Request::Status {})?;
            let seconds = since.elapsed().as_secs_f64();
            since = Instant::now();
            output::print(&format!("{clear}{}", show(&before, &now, seconds)))?;
            before = now;
            looks += 1;
        }
        Ok(Exit::Success)
    }
}

fn show(before: &Report, now: &Report, seconds: f64) -> String {
    let key = |host: &Host| (host.nqn.clone(), host.subsystem.clone(), host.cntlid);
    let earlier: HashMap<_, Done> = before.hosts.iter().map(|host| (key(host), host.done)).collect();
    let mut rows: Vec<(u64, Vec<String>)> = now
        .hosts
        .iter()
        .map(|host| {
            let done = host.done.since(earlier.get(&key(host)).copied().unwrap_or_default());
            let commands = done.reads + done.writes + done.others;
            let rate = |count: u64| format!("{:.0}", count as f64 / seconds);
            let bytes = |count: u64| format!("{}/s", output::size((count as f64 / seconds) as u64));
            let waits = if host.limited_queues > 0 {
                format!("{} queues", host.limited_queues)
            } else {
                String::new()
            };
            let row = vec![
                host.nqn.clone(),
                host.subsystem.clone(),
                host.queues.to_string(),
                host.outstanding.to_string(),
                rate(commands),
                bytes(done.read_bytes),
                bytes(done.write_bytes),
                waits,
            ];
            (commands, row)
        })
        .collect();
    // The busiest first.
    rows.sort_by_key(|(commands, _)| std::cmp::Reverse(*commands));
    let header = ["Host", "Export", "Queues", "Outstanding", "IOPS", "Read", "Written", "At its limit"];
    let hosts = output::table(&header, rows.into_iter().map(|(_, row)| row).collect());
    let drives = now
        .drives
        .iter()
        .map(|drive| format!("{} {}, {} outstanding", drive.name, drive.state, drive.outstanding));
    format!("{hosts}\n\n{}", drives.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(nqn: &str, reads: u64) -> Host {
        Host {
            nqn: nqn.to_owned(),
            id: String::new(),
            subsystem: "nqn.drive".to_owned(),
            cntlid: 1,
            queues: 4,
            limited_queues: 2,
            outstanding: 0,
            done: Done { reads, read_bytes: reads * 4096, ..Done::default() },
        }
    }

    #[test]
    fn rates_are_those_between_two_looks_and_the_busiest_host_comes_first() {
        let before = Report { hosts: vec![host("nqn.a", 1000)], ..Report::default() };
        let now = Report { hosts: vec![host("nqn.a", 1500), host("nqn.b", 4000)], ..Report::default() };
        let shown = show(&before, &now, 2.0);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(
            lines[1].contains("nqn.b") && lines[1].contains("2000") && lines[1].contains("8.19 MB/s"),
            "{shown}"
        );
        assert!(
            lines[2].contains("nqn.a") && lines[2].contains(" 250 ") && lines[2].contains("2 queues"),
            "{shown}"
        );
    }
}
