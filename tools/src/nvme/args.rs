//! Arguments that many commands have, and how numbers are written.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use gangway_spec::fabrics::Nqn;

use crate::device::Address;

/// The device, which every command has.
#[derive(Args, Clone, Debug)]
pub(crate) struct Target {
    /// pci:0000:01:00.0 (bound with `gangway bind`), tcp:HOST:PORT/NQN, vfio-user:SOCKET, or emulated:OPTION=VALUE,...
    pub(super) device: Address,
    /// Name of this host, towards a tcp: device [default: the one in /etc/nvme/hostnqn, or made up]
    #[arg(long, value_name = "NQN", display_order = 800)]
    pub(super) host_nqn: Option<Nqn>,
}

/// `--output-format`, which most commands have.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Format {
    /// How to show the answer
    #[arg(
        short,
        long = "output-format",
        alias = "output",
        value_enum,
        value_name = "FORMAT",
        default_value_t
    )]
    pub(super) output: Output,
}

/// How the answer is shown.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Show {
    #[command(flatten)]
    pub(super) format: Format,
    /// The bytes as the drive gave them; the same as `-o binary`
    #[arg(short = 'b', long)]
    pub(super) raw_binary: bool,
    /// Explain bits and units
    #[arg(short = 'H', long)]
    pub(super) human_readable: bool,
    /// Write to this file, and not to standard output
    #[arg(long, value_name = "FILE", display_order = 810)]
    pub(super) output_file: Option<PathBuf>,
}

impl Show {
    pub(super) fn output(&self) -> Output {
        if self.raw_binary { Output::Binary } else { self.format.output }
    }
}

/// `--output-format`, with nvme-cli's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    #[value(alias = "table")]
    Normal,
    /// For programs, with nvme-cli's keys
    Json,
    /// The bytes as the drive gave them
    Binary,
}

/// The program's `--verbose` for commands whose `-v` is nvme-cli's: it has the same name, so it takes the other's place.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct LongVerbose {
    /// Say more of what is done; twice: everything
    #[arg(id = "verbose", long = "verbose", action = clap::ArgAction::Count, display_order = 900)]
    _verbose: u8,
}

/// Whether what destroys data may go ahead without a question.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Consent {
    /// Go ahead without asking
    #[arg(long, visible_alias = "force", display_order = 700)]
    pub(crate) yes: bool,
}

/// A number as nvme-cli takes it: decimal, or hexadecimal after `0x`.
pub(super) fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16),
        _ => text.parse(),
    };
    parsed.map_err(|_| "write a number such as 17 or 0x11".to_owned())
}

/// Declares a parser of numbers that fit a type.
macro_rules! narrow {
    ($($name:ident $type:ty),*) => {$(
        pub(super) fn $name(text: &str) -> Result<$type, String> {
            number(text)?.try_into().map_err(|_| format!("it must be at most {}", <$type>::MAX))
        }
    )*};
}
narrow!(number8 u8, number16 u16, number32 u32);

/// A namespace identifier that a command can be for.
pub(super) fn nsid(text: &str) -> Result<u32, String> {
    match number32(text)? {
        0 => Err("namespaces count from 1; 0xffffffff is all of them".to_owned()),
        nsid => Ok(nsid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!((number("17"), number("0x11"), number("0XfF")), (Ok(17), Ok(17), Ok(255)));
        assert_eq!(number("0xffffffffffffffff"), Ok(u64::MAX));
        for wrong in ["", "0x", "0x+1", "-1", "1k", "0b1"] {
            assert!(number(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_number_that_does_not_fit_is_refused_and_not_cut() {
        assert_eq!(number8("255"), Ok(255));
        assert!(number8("256").is_err() && number32("0x100000000").is_err());
        assert!(nsid("0").is_err());
    }
}
