//! Where on a connection requests begin to be followed, and when looking for them is given up.

use super::head::{AnswerHead, Opening, opening};
use super::segment::{Direction, Segment};

/// How many segments in one direction are looked at for a request: an up- or download that was running
/// when the connection was first seen may take as many.
const PATIENCE: u32 = 1024;
/// As how many of these counts a change of direction that begins no request: eight of them, and the
/// connection carries something else.
const TURN_COST: u32 = PATIENCE / 8;

/// What a segment is, at a place where a request may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It may begin a request.
    Request,
    /// It begins an answer.
    Answer,
    /// Neither.
    Nothing,
}

/// The search for a request, from when a connection is first seen or its sync is lost.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// What it has cost of [`PATIENCE`].
    spent: u32,
}

impl Search {
    /// What `segment` is, behind one of direction `last`.
    pub(super) fn look(&mut self, segment: &Segment<'_>, last: Option<Direction>) -> Found {
        let is_turn = last != Some(segment.direction);
        let head = segment.head;
        match segment.direction {
            Direction::Received if is_turn && begins_request(head) => return Found::Request,
            Direction::Sent if is_turn && begins_answer(head) => return Found::Answer,
            // TLS, HTTP/2, and the client's end of HTTP: there is nothing to wait for.
            Direction::Received
                if [&b"\x16\x03"[..], b"PRI * HTTP/2", b"HTTP/1."]
                    .iter()
                    .any(|other| head.starts_with(other)) =>
            {
                self.spent = PATIENCE;
            }
            _ if is_turn => self.fail(),
            _ => self.spent = self.spent.saturating_add(1),
        }
        Found::Nothing
    }

    /// What was found turned out to be none.
    pub(super) fn fail(&mut self) {
        self.spent = self.spent.saturating_add(TURN_COST);
    }

    /// What was found is a request.
    pub(super) fn succeed(&mut self) {
        self.spent = 0;
    }

    /// The connection carries something else.
    pub(super) fn is_given_up(&self) -> bool {
        self.spent >= PATIENCE
    }
}

/// Whether a segment that begins with `head` may begin a request.
pub(super) fn begins_request(head: &[u8]) -> bool {
    !head.is_empty() && opening(head) != Opening::Other
}

/// Whether a segment that begins with `head` begins an answer, and not an interim one.
pub(super) fn begins_answer(head: &[u8]) -> bool {
    AnswerHead::parse(head).is_some_and(|answer| answer.status >= 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(search: &mut Search, direction: Direction, last: Option<Direction>, head: &str) -> Found {
        let (length, head) = (head.len() as u64, head.as_bytes());
        search.look(&Segment { time_ns: 0, direction, pid: 1, tid: 1, length, head, tail: b"" }, last)
    }

    /// A method counts where the direction changes: within a body it is only text.
    #[test]
    fn requests_are_found_at_turns() {
        use Direction::{Received, Sent};
        let mut search = Search::default();
        assert_eq!(look(&mut search, Received, None, "GET /"), Found::Request);
        assert_eq!(look(&mut search, Received, Some(Sent), "PO"), Found::Request);
        assert_eq!(look(&mut search, Received, Some(Received), "GET /"), Found::Nothing);
        assert_eq!(look(&mut search, Sent, None, "HTTP/1.1 200 OK"), Found::Answer);
        assert_eq!(look(&mut search, Sent, Some(Sent), "HTTP/1.1 200 OK"), Found::Nothing);
        assert_eq!(look(&mut search, Sent, None, "HTTP/1.1 100 Continue"), Found::Nothing);
        assert!(!search.is_given_up());
    }

    /// Eight turns without a request are enough, and so are a thousand segments of one direction.
    #[test]
    fn patience_ends() {
        let mut search = Search::default();
        for turn in 0..8 {
            assert!(!search.is_given_up(), "turn {turn}");
            look(&mut search, Direction::Received, Some(Direction::Sent), "X");
        }
        assert!(search.is_given_up());
        let mut search = Search::default();
        let segments = (0..).take_while(|_| {
            look(&mut search, Direction::Sent, Some(Direction::Sent), "data");
            !search.is_given_up()
        });
        assert_eq!(segments.count(), 1023);
    }

    /// What says that it is another protocol is believed.
    #[test]
    fn other_protocols_are_given_up_at_once() {
        for opening in ["\x16\x03\x01", "PRI * HTTP/2.0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"] {
            let mut search = Search::default();
            look(&mut search, Direction::Received, None, opening);
            assert!(search.is_given_up(), "{opening}");
        }
    }
}
