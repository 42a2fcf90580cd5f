//! Bytes of a target as text of a bounded length.

/// `bytes` as text: no more than the first `limit` of them, control characters and what is not UTF-8
/// replaced by `\u{FFFD}`, no blanks at the ends. At most `3 × limit` bytes.
pub(super) fn text(bytes: &[u8], limit: usize) -> String {
    let kept = bytes.get(..limit).unwrap_or(bytes);
    let lossy = String::from_utf8_lossy(kept);
    // A character that the limit cuts in two would end as a replacement.
    let whole =
        if kept.len() < bytes.len() { lossy.trim_end_matches(char::REPLACEMENT_CHARACTER) } else { &lossy };
    whole.trim().chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// `text` without its percent-encoding. A `%` that no two hexadecimal digits follow stays.
pub(super) fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, behind @ ..] = rest {
        let (byte, behind) = match (*first, behind) {
            (b'%', [high, low, after @ ..]) => match (hex_digit(*high), hex_digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (b'%', behind),
            },
            (byte, behind) => (byte, behind),
        };
        decoded.push(byte);
        rest = behind;
    }
    decoded
}

/// The value of a hexadecimal digit.
pub(super) fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No control character, no half character, no more than the limit.
    #[test]
    fn text_is_harmless_and_bounded() {
        assert_eq!(text(b" a\x1b[31m\xff ", 99), "a\u{fffd}[31m\u{fffd}");
        assert_eq!(text("aé".as_bytes(), 2), "a");
        assert_eq!(text(b"abcdef", 3), "abc");
    }

    /// Encoded bytes are decoded once; what is not an encoding stays.
    #[test]
    fn percent_encoding_is_undone() {
        assert_eq!(percent_decoded(b"a%20b%2525%zz%4"), b"a b%25%zz%4");
    }
}
