//! `gangway status`.

use clap::Args;

use super::Request;
use super::client::Server;
use super::report::{Export, Report};
use crate::exit::Exit;
use crate::output::{self, Format};

const EXAMPLES: &str = "\
Examples:
  gangway status
  gangway status --output json | jq -r '.Hosts[].HostNQN'
      the hosts that are connected to the running server";

/// Shows what a running server serves, and to whom.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Status {
    #[command(flatten)]
    server: Server,
    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

impl Status {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let report: Report = self.server.connect()?.ask(&Request::Status {})?;
        match self.output {
            Format::Json => output::print_json(&report)?,
            Format::Table => output::print(&show(&report))?,
        }
        Ok(Exit::Success)
    }
}

fn show(report: &Report) -> String {
    let drives = report.drives.iter().map(|drive| {
        let (model, serial) = (drive.model_number.clone(), drive.serial_number.clone());
        vec![drive.name.clone(), model, serial, drive.state.clone(), drive.outstanding.to_string()]
    });
    let exports = report.exports.iter().map(|export| {
        let access = if export.read_only { "read-only" } else { "" };
        let limits = if export.limits.is_empty() { "none".to_owned() } else { export.limits.join("\n") };
        vec![export.nqn.clone(), namespaces(export), access.to_owned(), limits]
    });
    let hosts = report.hosts.iter().map(|host| {
        let commands = host.done.reads + host.done.writes + host.done.others;
        vec![
            host.nqn.clone(),
            host.subsystem.clone(),
            host.cntlid.to_string(),
            host.queues.to_string(),
            host.outstanding.to_string(),
            commands.to_string(),
            output::size(host.done.read_bytes),
            output::size(host.done.write_bytes),
        ]
    });
    let reactors = report.reactors.iter().map(|one| vec![one.cpu.to_string(), one.connections.to_string()]);
    let hosts_header = ["Host", "Export", "CNTLID", "Queues", "Outstanding", "Commands", "Read", "Written"];
    let tables = [
        output::table(&["Drive", "Model", "Serial", "State", "Outstanding"], drives.collect()),
        output::table(&["Export", "Namespaces", "Access", "Limits"], exports.collect()),
        output::table(&hosts_header, hosts.collect()),
        output::table(&["Reactor on CPU", "Connections"], reactors.collect()),
    ];
    tables.join("\n\n")
}

/// Each with the drive that it is of, one a line.
fn namespaces(export: &Export) -> String {
    let lines: Vec<String> = export
        .namespaces
        .iter()
        .map(|one| format!("{} = {}/{}", one.nsid, one.drive, one.drive_nsid))
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_name_whatever_there_is() {
        let text = r#"{
            "Hosts":[{"HostNQN":"nqn.host","HostID":"7","SubsystemNQN":"nqn.drive","Cntlid":9,"Queues":2,"LimitedQueues":1,
                "Outstanding":5,"Reads":3,"ReadBytes":12288,"Writes":1,"WriteBytes":4096,"Others":1}],
            "Exports":[{"SubsystemNQN":"nqn.drive","ReadOnly":true,
                "Namespaces":[{"NSID":4,"Drive":"pci:0000:01:00.0","DriveNSID":1}],"Limits":["host=iops=5"]}],
            "Drives":[{"Name":"pci:0000:01:00.0","ModelNumber":"M","SerialNumber":"S","State":"works","Outstanding":5}],
            "Reactors":[{"CPU":3,"Connections":2}]}"#;
        let shown = show(&serde_json::from_str(text).unwrap());
        for expected in
            ["nqn.host", "4 = pci:0000:01:00.0/1", "read-only", "host=iops=5", "12.29 kB", "works"]
        {
            assert!(shown.contains(expected), "{expected} is not in\n{shown}");
        }
        assert!(show(&Report::default()).contains("Host"));
    }
}
