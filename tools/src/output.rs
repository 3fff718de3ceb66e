//! What people and programs read: tables, sizes, JSON.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;

/// How results are written to standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: one JSON document.
    Json,
}

/// A table without lines; cells may have several lines themselves.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)).collect::<Vec<_>>());
    }
    // Every cell is padded, the first one as well.
    let trimmed = |line: String| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned();
    let lines: Vec<String> = table.lines().map(trimmed).collect();
    lines.join("\n")
}

/// Names come from drives, file systems and processes; none of them may move the cursor of a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
}

/// An error with its causes in one line. Many errors name their cause themselves; it is not said again.
pub(crate) fn explain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    printable(&text)
}

/// Bytes as drives are labelled: powers of 1000, as nvme-cli shows them.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut unit = 0;
    let mut divisor = 1_u64;
    while unit + 1 < UNITS.len() && bytes / divisor >= 1000 {
        divisor = divisor.saturating_mul(1000);
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
    let value = bytes as f64 / divisor as f64;
    format!("{value:.2} {}", UNITS[unit])
}

/// Writes lines to standard output.
///
/// # Errors
/// Standard output is closed or full.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Writes one JSON document to standard output.
///
/// # Errors
/// As for [`print()`].
pub(crate) fn print_json<T: Serialize>(value: &T) -> io::Result<()> {
    print(&serde_json::to_string_pretty(value).map_err(io::Error::other)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_powers_of_a_thousand() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1 << 30), "1.07 GB");
        assert_eq!(size(3_840_755_982_336), "3.84 TB");
        assert_eq!(size(u64::MAX), "18.45 EB");
    }

    #[test]
    fn a_cell_of_several_lines_keeps_the_columns_aligned() {
        let text =
            table(&["A", "B"], vec![vec!["x".into(), "one\ntwo".into()], vec!["yy".into(), "three".into()]]);
        let column = |needle: &str| text.lines().find_map(|line| line.find(needle)).unwrap();
        assert_eq!(column("one"), column("two"));
        assert_eq!(column("one"), column("three"));
    }

    #[test]
    fn a_cause_is_said_once() {
        let cause = || io::Error::other("no space");
        let named = anyhow::Error::new(cause()).context("cannot write a: no space").context("cannot start");
        assert_eq!(explain(&named), "cannot start: cannot write a: no space");
        let unnamed = anyhow::Error::new(cause()).context("cannot write a");
        assert_eq!(explain(&unnamed), "cannot write a: no space");
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        let text = table(&["A"], vec![vec!["\u{1b}[2Jx\r".into()]]);
        assert!(!text.contains('\u{1b}') && !text.contains('\r') && text.contains("?[2Jx?"));
    }
}
