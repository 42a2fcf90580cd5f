//! One row: from this offset of its page on, this rule.

/// `row_t` of `ebpf/shared.h`: offset in the 64 KiB page in the low half,
/// index into the table's rules in the high half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Row(pub u32);

impl Row {
    /// Packs both halves.
    pub const fn new(offset: u16, rule: u16) -> Self {
        Self(offset as u32 | (rule as u32) << 16)
    }

    /// Offset in bytes in the page.
    pub const fn offset(self) -> u16 {
        self.0 as u16
    }

    /// Index into the table's rules.
    pub const fn rule(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The offset is the low half, as `ROW_OFFSET` has it.
    #[test]
    fn offset_is_the_low_half() {
        let row = Row::new(0x1234, 0xabcd);
        assert_eq!(row.0, 0xabcd_1234);
        assert_eq!((row.offset(), row.rule()), (0x1234, 0xabcd));
    }
}
