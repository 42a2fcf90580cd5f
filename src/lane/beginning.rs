//! The first bytes of a body.

/// Most that is kept of a body, and made of it where it is compressed, in bytes. Calls name their method
/// within the first hundred; a kernel side that copies 4096 bytes of a receive has no more.
pub(super) const MAX_BEGINNING_BYTES: usize = 4 << 10;

/// The bytes that a body begins with, without chunk framing, up to the first that was not copied.
#[derive(Debug, Default)]
pub(super) struct Beginning {
    bytes: Vec<u8>,
    is_settled: bool,
}

impl Beginning {
    /// The body goes on with `bytes`.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.is_settled {
            return;
        }
        let room = MAX_BEGINNING_BYTES.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        self.is_settled = bytes.len() >= room;
    }

    /// The body goes on with bytes that are out of sight, or is over: no more is taken.
    pub(super) fn settle(&mut self) {
        self.is_settled = true;
    }

    /// Nothing will be added.
    pub(super) fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// What there is, at most [`MAX_BEGINNING_BYTES`].
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Memory that it holds.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Neither behind the limit nor behind a hole is anything added.
    #[test]
    fn beginning_ends_at_the_limit_and_at_a_hole() {
        let mut beginning = Beginning::default();
        beginning.push(b"abc");
        beginning.settle();
        beginning.push(b"def");
        assert_eq!(beginning.bytes(), b"abc");
        let mut beginning = Beginning::default();
        beginning.push(&[1; MAX_BEGINNING_BYTES - 1]);
        assert!(!beginning.is_settled());
        beginning.push(&[2; 9]);
        assert!(beginning.is_settled());
        assert_eq!(beginning.bytes().len(), MAX_BEGINNING_BYTES);
    }
}
