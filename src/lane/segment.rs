//! What is seen of one receive or send of a target on a socket, and in which order its bytes lie:
//! the first ones, a hole that was not copied, the last ones.

/// Which way bytes went, as the target process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client, read by the target.
    Received,
    /// To the client, written by the target.
    Sent,
}

/// One receive or send that succeeded.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// When the call returned, CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// Which way the bytes went.
    pub direction: Direction,
    /// The process that did it.
    pub pid: u32,
    /// The thread that did it.
    pub tid: u32,
    /// Bytes moved; 0 received means that the other end closed.
    pub length: u64,
    /// The first bytes, at most 4096 of a receive and 512 of a send. May be shorter than `length`,
    /// even empty; what exceeds `length` is not looked at.
    pub head: &'a [u8],
    /// The last bytes, at most 8; empty where `head` holds all. May overlap `head`.
    pub tail: &'a [u8],
}

/// When something was done to a socket, and by whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moment {
    /// CLOCK_MONOTONIC.
    pub(super) time_ns: u64,
    /// The thread.
    pub(super) tid: u32,
}

/// A part of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// Bytes that were copied.
    Bytes(&'a [u8]),
    /// So many that were not.
    Hole(u64),
}

impl<'a> Segment<'a> {
    /// Its parts in the order of the stream, some maybe empty; their lengths add up to `length`.
    pub(super) fn pieces(&self) -> [Piece<'a>; 3] {
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        let head = self.head.get(..length).unwrap_or(self.head);
        let missing = self.length.saturating_sub(head.len() as u64);
        let tail_len = usize::try_from(missing).unwrap_or(usize::MAX).min(self.tail.len());
        let (_, tail) = self.tail.split_at(self.tail.len() - tail_len);
        [Piece::Bytes(head), Piece::Hole(missing - tail_len as u64), Piece::Bytes(tail)]
    }

    /// When, and by which thread.
    pub(super) fn moment(&self) -> Moment {
        Moment { time_ns: self.time_ns, tid: self.tid }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces<'a>(length: u64, head: &'a [u8], tail: &'a [u8]) -> [Piece<'a>; 3] {
        Segment { time_ns: 0, direction: Direction::Sent, pid: 1, tid: 1, length, head, tail }.pieces()
    }

    /// What the tail repeats of the head is taken once, and what lies between is a hole.
    #[test]
    fn parts_add_up_to_the_length() {
        use Piece::{Bytes, Hole};
        assert_eq!(pieces(5, b"abcde", b""), [Bytes(b"abcde"), Hole(0), Bytes(b"")]);
        assert_eq!(pieces(6, b"abcd", b"cdef"), [Bytes(b"abcd"), Hole(0), Bytes(b"ef")]);
        assert_eq!(pieces(99, b"abcd", b"yz"), [Bytes(b"abcd"), Hole(93), Bytes(b"yz")]);
        assert_eq!(pieces(9, b"", b""), [Bytes(b""), Hole(9), Bytes(b"")]);
        assert_eq!(pieces(2, b"abcd", b"cd"), [Bytes(b"ab"), Hole(0), Bytes(b"")]);
    }
}
