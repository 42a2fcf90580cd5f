//! Base64 (RFC 4648, sections 4 and 5), as far as credentials need it.

/// Longest text that is decoded, in bytes. Credentials are shorter; a header may be 16 KiB.
const MAX_ENCODED_BYTES: usize = 1024;

/// What `encoded` stands for, up to the first byte that is of neither alphabet; `None` if it is longer
/// than [`MAX_ENCODED_BYTES`] or if nothing comes of it. Bits left over at the end are not looked at.
pub(super) fn decode(encoded: &[u8]) -> Option<Vec<u8>> {
    if encoded.len() > MAX_ENCODED_BYTES {
        return None;
    }
    let mut decoded = Vec::with_capacity(encoded.len());
    let (mut bits, mut bit_count) = (0_u32, 0_u32);
    for byte in encoded {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => break,
        };
        bits = (bits << 6 | u32::from(value)) & 0xffff;
        bit_count += 6;
        if bit_count >= 8 {
            bit_count -= 8;
            decoded.push((bits >> bit_count & 0xff) as u8);
        }
    }
    (!decoded.is_empty()).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of RFC 4648, section 10, with and without padding.
    #[test]
    fn vectors_of_the_standard() {
        for (plain, encoded) in
            [("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(decode(encoded.as_bytes()).as_deref(), Some(plain.as_bytes()), "{encoded}");
        }
        assert_eq!(decode(b"_-8"), Some(vec![0xff, 0xef]));
        assert_eq!(decode(b""), None);
        assert_eq!(decode(&[b'A'; MAX_ENCODED_BYTES + 1]), None);
    }
}
