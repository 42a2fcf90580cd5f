//! Numbers of seven bits a byte, the lowest first (LEB128), and texts behind their length.

/// Appends `value`; 1 to 10 bytes.
pub(super) fn push(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Appends the length of `text` in bytes, then `text`.
pub(super) fn push_text(bytes: &mut Vec<u8>, text: &str) {
    push(bytes, text.len() as u64);
    bytes.extend_from_slice(text.as_bytes());
}

/// Reads what was pushed, in the same order; `None` where the bytes end early or are none of ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// Whether all was read.
    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The next number.
    pub(super) fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// The next number, if it fits.
    pub(super) fn fitting<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.number()?).ok()
    }

    /// How many elements follow. Each takes a byte at least, so that no more than there are bytes are promised.
    pub(super) fn count(&mut self) -> Option<usize> {
        self.fitting().filter(|count| *count <= self.0.len())
    }

    /// The next text.
    pub(super) fn text(&mut self) -> Option<&'a str> {
        let length = self.count()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is pushed is read again.
        #[test]
        fn numbers_and_texts_round_trip(number: u64, text in ".{0,40}") {
            let mut bytes = Vec::new();
            push(&mut bytes, number);
            push_text(&mut bytes, &text);
            let mut reader = Reader(&bytes);
            prop_assert_eq!((reader.number(), reader.text()), (Some(number), Some(&*text)));
            prop_assert!(reader.is_empty());
        }

        /// Any bytes are read or refused.
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let mut reader = Reader(&bytes);
            while reader.text().is_some() {}
            let mut reader = Reader(&bytes);
            while reader.number().is_some() {}
        }
    }

    /// An eleventh byte, a bit too many and a length beyond the end are refused.
    #[test]
    fn oversized_numbers_are_refused() {
        assert_eq!(Reader(&[0xff; 11]).number(), None);
        assert_eq!(Reader(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).number(), None);
        assert_eq!(Reader(&[3, b'a', b'b']).text(), None);
    }
}
