//! Fixed-width text fields: ASCII padded with spaces, or UTF-8 ended by a zero byte.
//!
//! What a drive or a target put there ends up on terminals and in logs, so control characters, of which escape
//! sequences are made, are read as U+FFFD, as bytes that are no UTF-8 are.

use std::borrow::Cow;

/// The text of a field that is padded with spaces, or with zero bytes by drives that do not know better.
pub(crate) fn padded(field: &[u8]) -> Cow<'_, str> {
    let end = field.iter().rposition(|&byte| byte != b' ' && byte != 0).map_or(0, |last| last + 1);
    let start = field[..end].iter().position(|&byte| byte != b' ').unwrap_or(end);
    readable(&field[start..end])
}

/// The text of a field that ends at its first zero byte, or at its width.
pub(crate) fn terminated(field: &[u8]) -> Cow<'_, str> {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    readable(&field[..end])
}

fn readable(bytes: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(bytes);
    if text.contains(char::is_control) { text.replace(char::is_control, "\u{fffd}").into() } else { text }
}

/// Writes `text` into `field`, cut to its width (never within a character) and padded with `padding`.
pub(crate) fn fill(field: &mut [u8], text: &str, padding: u8) {
    let mut length = text.len().min(field.len());
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    field[..length].copy_from_slice(&text.as_bytes()[..length]);
    field[length..].fill(padding);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_of_either_kind_is_not_part_of_the_text() {
        assert_eq!(padded(b"  S4EW NX0  "), "S4EW NX0");
        assert_eq!(padded(b"QEMU\0\0\0"), "QEMU");
        assert_eq!(padded(b"    "), "");
        assert_eq!(padded(b""), "");
    }

    #[test]
    fn a_terminated_field_ends_at_the_first_zero_or_at_its_width() {
        assert_eq!(terminated(b"4420\0junk"), "4420");
        assert_eq!(terminated(b"full"), "full");
    }

    #[test]
    fn a_drive_cannot_send_escape_sequences_to_a_terminal() {
        assert_eq!(padded(b"SSD\x1b[2J\xff  "), "SSD\u{fffd}[2J\u{fffd}");
        assert_eq!(padded(b"A\0B\r\n"), "A\u{fffd}B\u{fffd}\u{fffd}");
        assert_eq!(terminated("nqn.\u{9b}31m\0".as_bytes()), "nqn.\u{fffd}31m");
        assert!(matches!(padded(b"plain "), Cow::Borrowed("plain")));
    }

    #[test]
    fn text_that_is_too_long_is_cut_between_characters() {
        let mut field = [0xff; 4];
        fill(&mut field, "abcé", b' ');
        assert_eq!(&field, b"abc ");
    }
}
