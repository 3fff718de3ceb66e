//! Asks a drive whose content may be lost a long list of questions and prints its answers, or compares the answers of
//! two drives:
//!
//!     gangway-drive-conformance run DEVICE
//!     gangway-drive-conformance compare SHAPE FIRST SECOND
//!
//! DEVICE is an address as everywhere (`emulated:...`, `pci:0000:01:00.0`). FIRST and SECOND are files with the output
//! of `run` for drives of one shape. The known differences between them are in the program
//! (`tests/src/conformance/differences.txt`): it fails on any other, and on a known one that is gone.

use std::process::ExitCode;

use gangway_tests::conformance::{self, KNOWN_DIFFERENCES};
use gangway_tests::drive_check::Outcome;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("drive-conformance: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<bool> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", device] => {
            print!("{}", conformance::run(&device.parse()?)?);
            Ok(true)
        }
        ["compare", shape, first, second] => {
            let read = |path: &str| std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
            let found = conformance::compare(shape, &read(first)?, &read(second)?, KNOWN_DIFFERENCES);
            println!("{shape}: {found}");
            Ok(found.is_as_expected())
        }
        _ => Err("usage: gangway-drive-conformance run DEVICE | compare SHAPE FIRST SECOND".into()),
    }
}
