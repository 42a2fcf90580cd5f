//! The bytes that identify a binary, whatever it is called.

use std::fmt;

/// Content of the `NT_GNU_BUILD_ID` note: 20 bytes from most linkers, at most
/// [`BuildId::MAX_BYTES`] accepted.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BuildId(Vec<u8>);

impl BuildId {
    /// Longest id accepted; the longest known (`--build-id=sha256` proposals) has 32 bytes.
    pub const MAX_BYTES: usize = 64;

    /// `None` when `bytes` is empty or longer than [`Self::MAX_BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (!bytes.is_empty() && bytes.len() <= Self::MAX_BYTES).then(|| Self(bytes.to_vec()))
    }

    /// The raw bytes, never empty.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Lower-case hexadecimal, as `readelf -n` and build-id directories write it.
impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildId({self})")
    }
}
