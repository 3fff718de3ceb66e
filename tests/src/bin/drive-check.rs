//! Checks the driver on a drive whose content may be lost:
//!
//!     gangway-drive-check DEVICE [--prp | --sgl] [--no-shadow-doorbells] [--expect NAME=VALUE]...
//!
//! It says what it found out about the drive, a line each, and fails when something is not as it must be or not as it
//! is expected.

use std::process::ExitCode;

use gangway_driver::address::DeviceAddress;
use gangway_driver::controller::Options;
use gangway_driver::queue::DataPointers;
use gangway_tests::drive_check::{self, Outcome};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("drive-check: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let address: DeviceAddress = arguments.next().ok_or("which device?")?.parse()?;
    let mut options = Options { queue_depth: 32, io_queues_wanted: 4, ..Options::default() };
    let mut expected = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--prp" => options.data_pointers = DataPointers::Prp,
            "--sgl" => options.data_pointers = DataPointers::Sgl,
            "--no-shadow-doorbells" => options.shadow_doorbells = false,
            "--expect" => expected.push(arguments.next().ok_or("--expect NAME=VALUE")?),
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    let facts = drive_check::check(&address, options)?;
    for (name, value) in &facts.0 {
        println!("{name}={value}");
    }
    for expected in expected {
        let (name, value) = expected.split_once('=').ok_or("--expect NAME=VALUE")?;
        let found = facts.0.get(name).map(String::as_str);
        if found != Some(value) {
            return Err(format!("{name} should be {value}, and is {}", found.unwrap_or("not known")).into());
        }
    }
    Ok(())
}
