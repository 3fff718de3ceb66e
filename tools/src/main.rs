//! `gangway`: exports NVMe SSDs over NVMe/TCP from user space.

mod bind;
mod binding;
mod control;
mod cpus;
mod device;
mod doctor;
mod emulate;
mod exit;
#[cfg(test)]
mod fake;
mod files;
mod list;
mod nvme;
mod output;
mod perf;
mod serve;
#[cfg(test)]
mod served;
mod sysfs;
mod texts;
mod usage;

use std::{
    env,
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::{binding::ThisMachine, exit::Exit, sysfs::Roots};

/// Adds what every command's help ends with.
macro_rules! with_exit_codes {
    ($text:literal) => {
        concat!(
            $text,
            "\n\nExit codes:\n  0  done, or nothing to do\n  1  failed or refused\n  2  the command line is wrong\n",
            "  3  refused because a drive or an export is in use\n  4  ended, but a drive was not shut down in order (serve, remove)"
        )
    };
}

const HELP: &str = with_exit_codes!(
    "\
Examples:
  gangway                          an emulated drive on 127.0.0.1:4420, to try things out
  gangway list                     the NVMe drives of this machine and what uses them
  gangway doctor                   what is in the way of serving them, and what to do
  gangway bind 0000:01:00.0        takes a drive from the kernel
  gangway serve --device pci:0000:01:00.0 --listen 192.0.2.7 --allow-host NQN
  gangway add pci:0000:02:00.0     one more drive for the running server; `gangway remove` takes it back
  gangway unbind 0000:01:00.0      gives a drive back to the kernel"
);

const BIND_HELP: &str = with_exit_codes!(
    "\
Examples:
  gangway bind --dry-run 01:00.0   what would be done, and whether anything is in the way
  gangway bind 01:00.0 02:00.0     two drives, both or none
  gangway bind --persist --owner gangway 01:00.0
      at each boot as well, for a user who is not root"
);

const LIST_HELP: &str = "\
Examples:
  gangway list
  gangway list --output json | jq -r '.[] | select(.UsedBy == []) | .Address'
      the addresses of the drives that nothing uses";

const UNBIND_HELP: &str = with_exit_codes!(
    "\
Examples:
  gangway unbind 01:00.0           back to the driver it had, its data as it is now"
);

const DOCTOR_HELP: &str = "\
Examples:
  gangway doctor                   can drives of this machine be served, and what should be done?
  gangway doctor 01:00.0           can this one?
  gangway doctor --output json | jq '.Findings[] | select(.Level != \"ok\")'

Exit codes:
  0  serving is possible
  1  it is not
  2  the command line is wrong";

/// Exports NVMe SSDs over NVMe/TCP from user space.
#[derive(Debug, Parser)]
#[command(name = "gangway", version, max_term_width = 100)]
struct Cli {
    /// Say more of what is done; twice: everything. RUST_LOG, when set, decides instead.
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 900)]
    verbose: u8,
    /// Without a command: `serve` without arguments.
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(after_help = LIST_HELP)]
    List(list::List),
    #[command(after_help = BIND_HELP)]
    Bind(bind::Bind),
    #[command(after_help = UNBIND_HELP)]
    Unbind(bind::Unbind),
    #[command(after_help = DOCTOR_HELP)]
    Doctor(doctor::Doctor),
    Serve(serve::Serve),
    Status(control::Status),
    Top(control::Top),
    Limit(control::SetLimit),
    Add(Box<control::Add>),
    Remove(control::Remove),
    Perf(Box<perf::Perf>),
    Bench(perf::bench::Bench),
    Emulate(emulate::Emulate),
    #[command(hide = true)]
    BenchFloor(perf::floor::Floor),
    #[command(flatten)]
    Nvme(nvme::Command),
}

fn main() -> ExitCode {
    // Before there are threads. Where it cannot be done, memory of hosts that have gone goes back more slowly.
    gangway_driver::heap::keep_large_pieces_apart();
    let matches = command_line().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let command = cli.command.unwrap_or_else(|| Command::Serve(serve::Serve::default()));
    start_log(cli.verbose, matches!(command, Command::Nvme(_)));
    files::raise_limit();
    match run(&command) {
        Ok(exit) => exit.into(),
        // As when the output goes to `head`: nobody is there to read a message.
        Err(error) if is_closed_pipe(&error) => Exit::Failure.into(),
        Err(error) => {
            eprintln!("error: {}", output::explain(&error));
            Exit::Failure.into()
        }
    }
}

/// The command line, with the commands for a drive in groups: in one list, nobody would find anything.
fn command_line() -> clap::Command {
    Cli::command().after_help(format!("{}\n\n{HELP}", nvme::overview()))
}

fn run(command: &Command) -> anyhow::Result<Exit> {
    let roots = Roots::default();
    match command {
        Command::List(list) => list.run(&roots, &mut ThisMachine).map(|()| Exit::Success),
        Command::Bind(bind) => bind.run(&roots, &mut ThisMachine),
        Command::Doctor(doctor) => doctor.run(&roots, &mut ThisMachine),
        Command::Unbind(unbind) => unbind.run(&roots, &mut ThisMachine),
        Command::Serve(serve) => serve.run(),
        Command::Status(status) => status.run(),
        Command::Top(top) => top.run(),
        Command::Limit(limit) => limit.run(),
        Command::Add(add) => add.run(),
        Command::Remove(remove) => remove.run(),
        Command::Perf(perf) => perf.run(),
        Command::Bench(bench) => bench.run(),
        Command::Emulate(emulate) => emulate.run(),
        Command::BenchFloor(floor) => floor.run(),
        Command::Nvme(command) => command.run(),
    }
}

/// `brief`: a command that shows an answer, where nobody waits for news of the driver.
fn start_log(verbose: u8, brief: bool) {
    let level = match verbose {
        0 if brief => "warn",
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    // Escape sequences have no place in a file or a journal (https://no-color.org).
    let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(!plain && io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io_errors = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    io_errors.into_iter().any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command_line().debug_assert();
    }

    #[test]
    fn bind_without_an_address_is_a_usage_error() {
        let error = Cli::try_parse_from(["gangway", "bind"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
