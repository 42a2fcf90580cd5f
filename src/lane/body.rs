//! The body of a message while it passes: where it ends, how long it is and how it begins.

use super::beginning::Beginning;
use super::chunks::Chunks;
use super::segment::Piece;

/// What the end of a chunked body looks like without trailers, behind the data of a chunk.
const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

/// How the end of the body will be recognised.
#[derive(Clone, Copy, Debug)]
pub(super) enum Extent {
    /// So many bytes are to come.
    Length(u64),
    /// By its last chunk.
    Chunked(Chunks),
    /// By the end of the connection.
    UntilClose,
    /// It is chunked, but the sizes of chunks are out of sight: by a segment that ends as a last chunk.
    Blind,
    /// The head did not end before bytes that were not copied; the length is told if it was seen. If
    /// the segment ends as a head does, the body follows with the next.
    HeadCut(Option<u64>),
    /// Nothing is known: by bytes in the other direction.
    UntilTurn,
    /// It is over.
    Whole,
}

/// A body, as it passes.
#[derive(Debug)]
pub(super) struct Body {
    extent: Extent,
    /// Bytes so far; those of chunk framing are not counted where it is seen.
    size: u64,
    is_size_known: bool,
    beginning: Beginning,
    last: LastBytes,
}

impl Body {
    /// A body that begins with the next byte.
    pub(super) fn new(extent: Extent) -> Self {
        let is_size_known = !matches!(extent, Extent::Blind | Extent::HeadCut(_) | Extent::UntilTurn);
        let mut body = Self {
            extent,
            size: 0,
            is_size_known,
            beginning: Beginning::default(),
            last: LastBytes::default(),
        };
        if matches!(extent, Extent::Blind | Extent::HeadCut(_)) {
            body.beginning.settle();
        }
        body.settle_if_whole();
        body
    }

    /// Takes what belongs to the body from the front of `piece`.
    pub(super) fn take(&mut self, piece: &mut Piece<'_>) {
        match piece {
            Piece::Bytes(bytes) => {
                let taken = self.take_bytes(bytes);
                *bytes = bytes.get(taken..).unwrap_or_default();
            }
            Piece::Hole(len) => *len -= self.take_hole(*len),
        }
        self.settle_if_whole();
    }

    /// How many of `bytes` belong to it.
    fn take_bytes(&mut self, bytes: &[u8]) -> usize {
        let mut taken = bytes.len();
        match &mut self.extent {
            Extent::Whole => return 0,
            Extent::Length(left) => {
                taken = usize::try_from(*left).unwrap_or(usize::MAX).min(taken);
                *left -= taken as u64;
            }
            Extent::Chunked(chunks) => match chunks.push(bytes, &mut self.beginning) {
                Ok(len) => {
                    self.size = chunks.data_len();
                    return len;
                }
                Err(_) => self.go_blind(),
            },
            Extent::UntilClose | Extent::Blind | Extent::HeadCut(_) | Extent::UntilTurn => {}
        }
        let own = bytes.get(..taken).unwrap_or(bytes);
        self.beginning.push(own);
        self.last.push(own);
        self.size = self.size.saturating_add(taken as u64);
        taken
    }

    /// How many of `len` bytes that were not copied belong to it.
    fn take_hole(&mut self, len: u64) -> u64 {
        if len == 0 {
            return 0;
        }
        let mut taken = len;
        match &mut self.extent {
            Extent::Whole => return 0,
            Extent::Length(left) => {
                taken = len.min(*left);
                *left -= taken;
            }
            Extent::Chunked(chunks) => match chunks.skip(len) {
                Ok(()) => {
                    self.beginning.settle();
                    self.size = chunks.data_len();
                    return len;
                }
                Err(_) => self.go_blind(),
            },
            Extent::UntilClose | Extent::Blind | Extent::HeadCut(_) | Extent::UntilTurn => {}
        }
        if taken > 0 {
            self.beginning.settle();
            self.last.clear();
        }
        self.size = self.size.saturating_add(taken);
        taken
    }

    fn go_blind(&mut self) {
        self.extent = Extent::Blind;
        self.is_size_known = false;
        self.beginning.settle();
    }

    /// The segment is over: what its last bytes tell, where nothing else does.
    pub(super) fn end_segment(&mut self) {
        let last = self.last.bytes();
        match self.extent {
            Extent::Blind if last.ends_with(LAST_CHUNK) || last == &LAST_CHUNK[2..] => {
                self.extent = Extent::Whole;
            }
            Extent::HeadCut(Some(length)) if last.ends_with(b"\r\n\r\n") => {
                *self = Self::new(Extent::Length(length));
            }
            Extent::HeadCut(_) => self.extent = Extent::UntilTurn,
            _ => {}
        }
        self.settle_if_whole();
    }

    fn settle_if_whole(&mut self) {
        if let Extent::Chunked(chunks) = &self.extent
            && chunks.is_whole()
        {
            self.extent = Extent::Whole;
        }
        if let Extent::Length(0) = self.extent {
            self.extent = Extent::Whole;
        }
        if self.is_whole() {
            self.beginning.settle();
        }
    }

    /// Its last byte has passed.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.extent, Extent::Whole)
    }

    /// Only bytes in the other direction can tell that it is over.
    pub(super) fn ends_by_turn(&self) -> bool {
        matches!(self.extent, Extent::Blind | Extent::HeadCut(_) | Extent::UntilTurn)
    }

    /// The end of the connection is its end.
    pub(super) fn ends_by_close(&self) -> bool {
        matches!(self.extent, Extent::UntilClose)
    }

    /// Bytes of the body so far, as sent, chunk framing not counted; `None` if they were not all seen.
    pub(super) fn size(&self) -> Option<u64> {
        self.is_size_known.then_some(self.size)
    }

    /// How it begins.
    pub(super) fn beginning(&self) -> &Beginning {
        &self.beginning
    }
}

/// The last bytes that passed without a hole between them.
#[derive(Clone, Copy, Debug, Default)]
struct LastBytes {
    bytes: [u8; LAST_CHUNK.len()],
    len: usize,
}

impl LastBytes {
    fn push(&mut self, bytes: &[u8]) {
        let start = bytes.len().saturating_sub(self.bytes.len());
        for byte in bytes.iter().skip(start) {
            self.bytes.rotate_left(1);
            if let Some(last) = self.bytes.last_mut() {
                *last = *byte;
            }
            self.len = (self.len + 1).min(self.bytes.len());
        }
    }

    fn clear(&mut self) {
        self.len = 0;
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(self.bytes.len() - self.len..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds one segment and tells how much of it is left.
    fn feed(body: &mut Body, pieces: &[Piece<'_>]) -> u64 {
        let mut left = 0;
        for piece in pieces {
            let mut piece = *piece;
            body.take(&mut piece);
            left += match piece {
                Piece::Bytes(bytes) => bytes.len() as u64,
                Piece::Hole(len) => len,
            };
        }
        body.end_segment();
        left
    }

    /// A body of known length counts bytes, copied or not, and leaves what follows.
    #[test]
    fn length_is_counted_through_holes() {
        let mut body = Body::new(Extent::Length(10));
        assert_eq!(feed(&mut body, &[Piece::Bytes(b"ab"), Piece::Hole(5)]), 0);
        assert_eq!(feed(&mut body, &[Piece::Bytes(b"abcGET")]), 3);
        assert!(body.is_whole());
        assert_eq!((body.beginning().bytes(), body.size()), (&b"ab"[..], Some(10)));
        assert!(Body::new(Extent::Length(0)).is_whole());
    }

    /// Where chunk sizes are out of sight, a segment that ends as a last chunk is the end, also when it
    /// is cut; a hole in between is not mistaken for nothing.
    #[test]
    fn last_chunk_is_recognised_without_the_sizes() {
        let blind = || {
            let mut body = Body::new(Extent::Chunked(Chunks::new()));
            feed(&mut body, &[Piece::Bytes(b"3\r\nabc"), Piece::Hole(100), Piece::Bytes(b"xyz")]);
            assert!(body.ends_by_turn() && !body.is_whole());
            assert_eq!(body.size(), None);
            body
        };
        let mut body = blind();
        feed(&mut body, &[Piece::Bytes(b"abc\r\n0\r\n")]);
        assert!(!body.is_whole());
        feed(&mut body, &[Piece::Bytes(b"\r\n")]);
        assert!(body.is_whole());
        let mut body = blind();
        feed(&mut body, &[Piece::Bytes(b"abc\r\n0"), Piece::Hole(2), Piece::Bytes(b"\r\n\r\n")]);
        assert!(!body.is_whole());
        let mut body = blind();
        feed(&mut body, &[Piece::Hole(9), Piece::Bytes(b"0\r\n\r\n")]);
        assert!(body.is_whole());
    }

    /// A head that was cut and ends with its segment lets the body be counted.
    #[test]
    fn body_behind_a_cut_head_is_counted_if_the_segment_ends_as_a_head() {
        let mut body = Body::new(Extent::HeadCut(Some(4)));
        feed(&mut body, &[Piece::Hole(100), Piece::Bytes(b"xyz\r\n\r\n")]);
        assert!(!body.ends_by_turn());
        feed(&mut body, &[Piece::Bytes(b"body")]);
        assert!(body.is_whole());
        let mut body = Body::new(Extent::HeadCut(Some(4)));
        feed(&mut body, &[Piece::Hole(100), Piece::Bytes(b"xyz")]);
        assert!(body.ends_by_turn());
    }
}
