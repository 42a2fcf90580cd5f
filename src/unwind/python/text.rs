//! What a `str` object says, from its bytes as they lie in the target.
//!
//! `PyASCIIObject` in `Include/cpython/unicodeobject.h`, 3.7 to 3.15:
//!
//! ```text
//! object header │ length │ hash │ state                  │ … │ characters
//!               │ 8      │ 8    │ interned 2, kind 3,    │
//!               │        │      │ compact 1, ascii 1     │
//! ```
//!
//! The characters of an ASCII text follow `PyASCIIObject`, those of others `PyCompactUnicodeObject`;
//! `kind` is their size in bytes: Latin-1, UCS-2 or UCS-4. Texts that are not compact are of classes
//! derived from `str`, which no code object has for a name, and are not read.

use super::Layout;

/// Behind a text whose copy ends before it does.
const ELLIPSIS: char = '…';

/// The text of the object in `bytes`, which begin with its header and may be cut short: what is
/// missing is an ellipsis. Surrogates without a partner become U+FFFD. `None` when it is no compact `str`.
pub fn decode(bytes: &[u8], layout: &Layout) -> Option<String> {
    let field = |offset: u32| bytes.get(usize::try_from(offset).ok()?..);
    let length = u64::from_le_bytes(*field(layout.text_length)?.first_chunk()?);
    let state = u32::from_le_bytes(*field(layout.text_state)?.first_chunk()?);
    let state = state.checked_shr(layout.text_kind_shift)?;
    let (kind, is_compact, is_ascii) = (state & 7, state & 8 != 0, state & 16 != 0);
    let characters = field(if is_ascii { layout.text_ascii } else { layout.text_compact })?;
    if !is_compact {
        return None;
    }
    let width = match (is_ascii, kind) {
        (true, _) => 1,
        (false, 1 | 2 | 4) => kind as usize,
        _ => return None,
    };
    let length = usize::try_from(length).ok()?;
    let present = characters.len() / width;
    let used = characters.get(..length.min(present) * width)?;
    let character = |value: u32| char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER);
    let mut text: String = match width {
        1 => used.iter().map(|byte| character(u32::from(*byte))).collect(),
        2 => used.as_chunks().0.iter().map(|two| character(u16::from_le_bytes(*two).into())).collect(),
        _ => used.as_chunks().0.iter().map(|four| character(u32::from_le_bytes(*four))).collect(),
    };
    if present < length {
        text.push(ELLIPSIS);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Version;
    use super::*;

    fn layout(minor: u8) -> &'static Layout {
        Layout::of(Version { major: 3, minor, micro: 9 }).expect("there is a row")
    }

    /// An object as CPython lays it out.
    fn object(layout: &Layout, length: u64, kind: u32, is_ascii: bool, characters: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; if is_ascii { layout.text_ascii } else { layout.text_compact } as usize];
        let state = 1 | kind << 2 | 1 << 5 | u32::from(is_ascii) << 6;
        bytes[16..24].copy_from_slice(&length.to_le_bytes());
        bytes[32..36].copy_from_slice(&state.to_le_bytes());
        bytes.extend_from_slice(characters);
        bytes
    }

    /// Each width of characters, before and after the header shrank in 3.12.
    #[test]
    fn every_width_is_read() {
        for minor in [8, 12] {
            let layout = layout(minor);
            assert_eq!(decode(&object(layout, 3, 1, true, b"abcjunk"), layout).as_deref(), Some("abc"));
            assert_eq!(decode(&object(layout, 2, 1, false, b"\xe9\xe8"), layout).as_deref(), Some("éè"));
            let euros = [0xac, 0x20, 0xac, 0x20];
            assert_eq!(decode(&object(layout, 2, 2, false, &euros), layout).as_deref(), Some("€€"));
            let crab = 0x1f980_u32.to_le_bytes();
            assert_eq!(decode(&object(layout, 1, 4, false, &crab), layout).as_deref(), Some("🦀"));
        }
    }

    /// A copy that ends early says so; a lone surrogate is replaced; other forms are refused.
    #[test]
    fn cut_and_odd_texts_are_told() {
        let layout = layout(11);
        assert_eq!(decode(&object(layout, 9, 1, true, b"abc"), layout).as_deref(), Some("abc…"));
        assert_eq!(decode(&object(layout, 1, 2, false, &[0, 0xd8]), layout).as_deref(), Some("\u{fffd}"));
        assert_eq!(decode(&object(layout, 1, 3, false, b"abc"), layout), None);
        assert_eq!(decode(b"short", layout), None);
    }

    proptest! {
        /// Any bytes: a text no longer than they are, or none.
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), minor in 8_u8..13) {
            if let Some(text) = decode(&bytes, layout(minor)) {
                prop_assert!(text.chars().count() <= bytes.len() + 1);
            }
        }
    }
}
