//! Addresses, typed by what they are relative to.

use std::fmt;

/// Actual address, in the live process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Avma(pub u64);

/// Stated address, as the file's own headers say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Svma(pub u64);

impl Svma {
    /// `SVMA = AVMA − bias`, wrapping: a bias may be "negative".
    pub fn from_avma(avma: Avma, bias: u64) -> Self {
        Self(avma.0.wrapping_sub(bias))
    }
}

/// Where a pc came from, and therefore which address names it.
///
/// A return address points behind the call, possibly into the next function
/// or line; it is looked up one byte back. A pc that was interrupted, or
/// restored from a signal frame, is looked up as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LookupAddress {
    /// The thread was about to execute this instruction.
    Interrupted(Avma),
    /// A call will return to this instruction.
    Return(Avma),
}

impl LookupAddress {
    /// The address inside the instruction that was executing.
    pub fn avma(self) -> Avma {
        match self {
            Self::Interrupted(avma) => avma,
            Self::Return(avma) => Avma(avma.0.saturating_sub(1)),
        }
    }
}

impl fmt::Display for Avma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for Svma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A return address names the call, not what follows it; an interrupted pc names itself.
    #[test]
    fn return_address_is_looked_up_one_byte_back() {
        assert_eq!(LookupAddress::Return(Avma(0x1000)).avma(), Avma(0xfff));
        assert_eq!(LookupAddress::Interrupted(Avma(0x1000)).avma(), Avma(0x1000));
        assert_eq!(LookupAddress::Return(Avma(0)).avma(), Avma(0));
    }
}
