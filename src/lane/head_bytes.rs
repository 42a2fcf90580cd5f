//! The head of a message while it arrives: its bytes up to the empty line, wherever they are cut.

/// Most of a head that is kept, in bytes. Servers refuse heads of 8 to 64 KiB; what exceeds this is
/// passed over, and the message is known by what came before.
pub(super) const MAX_HEAD_BYTES: usize = 16 << 10;

/// The bytes of a head, without the line ends that may precede it (RFC 9112, section 2.2).
#[derive(Debug, Default)]
pub(super) struct HeadBytes {
    kept: Vec<u8>,
    /// Bytes of the line that is being read, carriage returns not counted.
    line_len: u64,
    is_ended: bool,
    is_cut: bool,
    is_interrupted: bool,
}

impl HeadBytes {
    /// Takes what belongs to the head from the front of `bytes` and tells how many bytes that were:
    /// all, unless the head ends before.
    pub(super) fn push(&mut self, bytes: &[u8]) -> usize {
        if self.is_ended {
            return 0;
        }
        let mut start = 0;
        if self.kept.is_empty() {
            start = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        }
        let mut end = bytes.len();
        for (index, byte) in bytes.iter().enumerate().skip(start) {
            match byte {
                b'\n' if self.line_len == 0 => {
                    self.is_ended = true;
                    end = index + 1;
                    break;
                }
                b'\n' => self.line_len = 0,
                b'\r' => {}
                _ => self.line_len = self.line_len.saturating_add(1),
            }
        }
        let head = bytes.get(start..end).unwrap_or_default();
        let room = MAX_HEAD_BYTES.saturating_sub(self.kept.len());
        self.is_cut |= head.len() > room;
        self.kept.extend_from_slice(head.get(..room).unwrap_or(head));
        end
    }

    /// Bytes were not copied: the rest of the head is out of sight.
    pub(super) fn interrupt(&mut self) {
        self.is_cut = true;
        self.is_interrupted = true;
    }

    /// The rest of it is out of sight, and with it the beginning of the body.
    pub(super) fn is_interrupted(&self) -> bool {
        self.is_interrupted
    }

    /// The empty line was read.
    pub(super) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Something of it is missing in [`kept`](Self::kept), which then may end in the middle of a line.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Its first bytes, at most [`MAX_HEAD_BYTES`].
    pub(super) fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Memory that it holds.
    pub(super) fn capacity(&self) -> usize {
        self.kept.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end is found at the same byte wherever the head is cut, also with bare line feeds.
    #[test]
    fn end_is_found_wherever_the_head_is_cut() {
        for message in ["\r\nGET / HTTP/1.1\r\nA: b\r\n\r\nbody", "GET / HTTP/1.1\nA: b\n\nbody"] {
            for cut in 0..=message.len() {
                let mut head = HeadBytes::default();
                let mut taken = head.push(&message.as_bytes()[..cut]);
                taken += head.push(&message.as_bytes()[taken..]);
                assert!(head.is_ended() && !head.is_cut());
                assert_eq!(&message[taken..], "body", "cut at {cut}");
                assert!(head.kept().starts_with(b"GET "));
            }
        }
    }

    /// A head over the limit is read to its end, but not kept.
    #[test]
    fn long_heads_are_read_but_not_kept() {
        let mut head = HeadBytes::default();
        for _ in 0..100 {
            assert_eq!(head.push(&[b'x'; 1000]), 1000);
        }
        assert_eq!(head.push(b"\r\n\r\nbody"), 4);
        assert!(head.is_ended() && head.is_cut());
        assert_eq!(head.kept().len(), MAX_HEAD_BYTES);
    }
}
