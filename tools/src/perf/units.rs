//! Numbers with units, as people write and read them.

use std::time::Duration;

/// Binary units, smallest first.
const UNITS: [(&str, u64); 5] = [("", 1), ("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30), ("T", 1 << 40)];

/// Parses bytes: `4096`, `4k`, `4KiB`, `1G`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit.strip_suffix("iB") {
        // "iB" alone is no unit.
        Some("") => "?",
        Some(unit) => unit,
        None => unit,
    };
    let factor = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| *factor);
    factor
        .and_then(|factor| number.parse::<u64>().ok()?.checked_mul(factor))
        .ok_or_else(|| "expected a number of bytes, such as 4KiB, 64k, 1GiB or 512".to_owned())
}

/// Parses seconds: `10`, `0.5`.
pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|time| *time <= Duration::from_secs(365 * 86_400))
        .ok_or_else(|| "expected seconds, such as 10 or 0.5".to_owned())
}

/// Bytes in binary units when that is exact, as the options take them.
pub(crate) fn binary_size(bytes: u64) -> String {
    match UNITS.iter().skip(1).rev().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{} {unit}iB", bytes / factor),
        None => format!("{bytes} B"),
    }
}

/// A time in the unit that suits it, from nanoseconds.
pub(crate) fn time(nanos: f64) -> String {
    match nanos {
        ..1e3 => format!("{nanos:.0} ns"),
        1e3..1e6 => format!("{:.2} us", nanos / 1e3),
        1e6..1e9 => format!("{:.2} ms", nanos / 1e6),
        _ => format!("{:.2} s", nanos / 1e9),
    }
}

/// A whole number with its thousands apart.
pub(crate) fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_binary_units() {
        for (text, bytes) in
            [("512", 512), ("4k", 4096), ("4KiB", 4096), ("1m", 1 << 20), ("2G", 2 << 30), ("3TiB", 3 << 40)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "iB", "4iB", "4KB", "1.5k", "-1", "4 k", "99999999999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!((binary_size(4096), binary_size(1000)), ("4 KiB".into(), "1000 B".into()));
    }

    #[test]
    fn seconds_may_have_a_fraction_but_no_sign() {
        assert_eq!(parse_seconds("0.25"), Ok(Duration::from_millis(250)));
        for text in ["-1", "nan", "inf", "", "1s", "1e300"] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_shown_for_reading() {
        assert_eq!(grouped(1_234_567.4), "1,234,567");
        assert_eq!(grouped(999.0), "999");
        assert_eq!(
            (time(12.3), time(12_340.0), time(2.5e9)),
            ("12 ns".into(), "12.34 us".into(), "2.50 s".into())
        );
    }
}
