//! A cursor over hostile bytes: every read may find nothing, none goes past the end.

/// What is left to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Bytes up to a zero, which is consumed and not returned.
    pub(super) fn c_string(&mut self) -> Option<&'a [u8]> {
        let len = self.rest.iter().position(|byte| *byte == 0)?;
        let string = self.take(len)?;
        self.take(1)?;
        Some(string)
    }

    /// An unsigned LEB128 number (DWARF 5, 7.6); nothing if longer than 10 bytes.
    #[inline]
    pub(super) fn uleb(&mut self) -> Option<u64> {
        let first = self.u8()?;
        if first < 0x80 {
            return Some(first.into());
        }
        let (value, _, _) = self.leb_tail(first)?;
        Some(value)
    }

    /// A signed LEB128 number; nothing if longer than 10 bytes.
    #[inline]
    pub(super) fn sleb(&mut self) -> Option<i64> {
        let first = self.u8()?;
        if first < 0x80 {
            return Some(((first << 1) as i8 >> 1).into());
        }
        let (value, shift, last) = self.leb_tail(first)?;
        let negative = last & 0x40 != 0 && shift < 64;
        Some(if negative { value | u64::MAX << shift } else { value } as i64)
    }

    /// The value so far, the bits it took and its last byte.
    fn leb_tail(&mut self, first: u8) -> Option<(u64, u32, u8)> {
        let mut value = u64::from(first & 0x7f);
        for shift in (7..70).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some((value, shift + 7, byte));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of DWARF 5, figures 32 and 33, and the ends of the range.
    #[test]
    fn leb128_reads_the_standards_examples() {
        let unsigned = |bytes: &[u8]| Reader::new(bytes).uleb();
        let signed = |bytes: &[u8]| Reader::new(bytes).sleb();
        assert_eq!(unsigned(&[0x7f]), Some(127));
        assert_eq!(unsigned(&[0xb9, 0x64]), Some(12857));
        assert_eq!(signed(&[0x7e]), Some(-2));
        assert_eq!(signed(&[0x80, 0x7f]), Some(-128));
        assert_eq!(signed(&[0xff, 0x00]), Some(127));
        assert_eq!(signed(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f]), Some(i64::MIN));
        assert_eq!(unsigned(&[0xff; 11]), None);
        assert_eq!(unsigned(&[0x80]), None);
    }
}
