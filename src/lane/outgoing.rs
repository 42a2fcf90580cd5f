//! The answer that is being sent on a connection.

use super::body::{Body, Extent};
use super::chunks::Chunks;
use super::encoding::Encoding;
use super::head::{AnswerHead, Framing};
use super::head_bytes::HeadBytes;
use super::segment::{Moment, Piece};

/// What taking a part of a segment led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// The part is used up.
    Waiting,
    /// That was an interim answer, such as `100 Continue`; another follows.
    Interim,
    /// The answer is over, and what follows is another protocol.
    Switched,
    /// The answer is over.
    Whole,
    /// This is no answer.
    Nonsense,
}

/// What the head of an answer told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// The status code.
    pub(super) status: u16,
    /// How the body is compressed.
    pub(super) encoding: Encoding,
}

/// An answer while it is sent; by default, the place of one that has not begun.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    head: HeadBytes,
    body: Option<Body>,
    told: Option<Told>,
    /// The last send that was part of it.
    last: Option<Moment>,
    /// A send of bytes too few to tell whether the answer is an interim one.
    held: Option<Moment>,
}

impl Outgoing {
    /// Takes from the front of `piece` what belongs to the answer to a request with `method`; `None` if
    /// that was not seen.
    pub(super) fn take(&mut self, piece: &mut Piece<'_>, method: Option<&str>) -> Departure {
        if self.body.is_none() {
            match self.take_head(piece, method) {
                Ok(body) => self.body = Some(body),
                Err(departure) => return departure,
            }
        }
        let Some(body) = &mut self.body else { return Departure::Nonsense };
        body.take(piece);
        if body.is_whole() { Departure::Whole } else { Departure::Waiting }
    }

    /// As [`take`](Self::take), of the head, until the body follows.
    fn take_head(&mut self, piece: &mut Piece<'_>, method: Option<&str>) -> Result<Body, Departure> {
        match piece {
            Piece::Bytes(bytes) => {
                let taken = self.head.push(bytes);
                *bytes = bytes.get(taken..).unwrap_or_default();
            }
            Piece::Hole(1..) => self.head.interrupt(),
            Piece::Hole(_) => {}
        }
        let kept = self.head.kept();
        if !AnswerHead::may_begin(kept) {
            return Err(Departure::Nonsense);
        }
        let is_interrupted = self.head.is_interrupted();
        if !self.head.is_ended() && !is_interrupted {
            return Err(Departure::Waiting);
        }
        let head = AnswerHead::parse(kept).ok_or(Departure::Nonsense)?;
        if head.status < 200 && head.status != 101 {
            return Err(if is_interrupted { Departure::Nonsense } else { Departure::Interim });
        }
        self.told = Some(Told { status: head.status, encoding: head.fields.encoding() });
        if head.status == 101 || (method == Some("CONNECT") && head.status < 300) {
            return Err(Departure::Switched);
        }
        let has_no_body = method == Some("HEAD") || matches!(head.status, 204 | 304);
        Ok(Body::new(match (head.fields.framing(), is_interrupted) {
            (_, false) if has_no_body => Extent::Length(0),
            (_, true) if has_no_body => Extent::HeadCut(Some(0)),
            (Framing::Chunked, false) => Extent::Chunked(Chunks::new()),
            (Framing::Chunked, true) => Extent::Blind,
            (Framing::Length(length), false) => Extent::Length(length),
            (Framing::Length(length), true) => Extent::HeadCut(Some(length)),
            (_, true) => Extent::HeadCut(None),
            (_, false) if self.head.is_cut() => Extent::UntilTurn,
            (_, false) => Extent::UntilClose,
        }))
    }

    /// The segment is over; whether the answer is, too.
    pub(super) fn end_segment(&mut self) -> bool {
        self.body.as_mut().is_some_and(|body| {
            body.end_segment();
            body.is_whole()
        })
    }

    /// Notes that `moment` sent some of it, once per send. Returns the sends to tell as its: none while it may be an
    /// interim answer.
    pub(super) fn sent_by(&mut self, moment: Moment) -> [Option<Moment>; 2] {
        match self.head.kept().get(9) {
            Some(b'1') if self.told.is_none() => [None, None],
            Some(_) => {
                self.last = Some(moment);
                [self.held.take(), Some(moment)]
            }
            None => {
                if !self.head.kept().is_empty() {
                    self.held.get_or_insert(moment);
                }
                [None, None]
            }
        }
    }

    /// The last send that was part of it, once its head was sent.
    pub(super) fn last(&self) -> Option<Moment> {
        self.last.filter(|_| self.told.is_some())
    }

    /// What its head told, once that was sent.
    pub(super) fn told(&self) -> Option<Told> {
        self.told
    }

    /// Its body, once the head was sent.
    pub(super) fn body(&self) -> Option<&Body> {
        self.body.as_ref()
    }

    /// Only bytes in the other direction can tell that it is over.
    pub(super) fn ends_by_turn(&self) -> bool {
        self.body.as_ref().is_some_and(Body::ends_by_turn)
    }

    /// The end of the connection is its end.
    pub(super) fn ends_by_close(&self) -> bool {
        self.body.as_ref().is_some_and(Body::ends_by_close)
    }

    /// Nothing of a body was sent.
    pub(super) fn has_head_alone(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.size() == Some(0))
    }

    /// Memory that it holds.
    pub(super) fn capacity(&self) -> usize {
        self.head.capacity() + self.body.as_ref().map_or(0, |body| body.beginning().capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(bytes: &str, method: Option<&str>) -> (Departure, Outgoing) {
        let mut outgoing = Outgoing::default();
        (outgoing.take(&mut Piece::Bytes(bytes.as_bytes()), method), outgoing)
    }

    /// Methods and statuses without a body end with the head, whatever length is told.
    #[test]
    fn some_answers_have_no_body() {
        let with_length = |status: u16| format!("HTTP/1.1 {status} x\r\nContent-Length: 9\r\n\r\n");
        assert_eq!(take(&with_length(200), Some("HEAD")).0, Departure::Whole);
        assert_eq!(take(&with_length(204), Some("GET")).0, Departure::Whole);
        assert_eq!(take(&with_length(304), Some("GET")).0, Departure::Whole);
        assert_eq!(take(&with_length(200), Some("GET")).0, Departure::Waiting);
        assert_eq!(take(&with_length(100), Some("GET")).0, Departure::Interim);
        assert_eq!(take(&with_length(101), Some("GET")).0, Departure::Switched);
        assert_eq!(take(&with_length(200), Some("CONNECT")).0, Departure::Switched);
        assert_eq!(take("SSH-2.0", Some("GET")).0, Departure::Nonsense);
    }

    /// Without a length it lasts until the connection is closed.
    #[test]
    fn untold_length_lasts_until_close() {
        let (departure, outgoing) = take("HTTP/1.0 200 OK\r\n\r\nbody", Some("GET"));
        assert_eq!(departure, Departure::Waiting);
        assert!(outgoing.ends_by_close());
    }

    /// A send is told once it is clear that the answer is not an interim one.
    #[test]
    fn sends_are_held_until_the_status_is_seen() {
        let (first, second) = (Moment { time_ns: 1, tid: 1 }, Moment { time_ns: 2, tid: 1 });
        let (_, mut outgoing) = take("HTTP/1.1", None);
        assert_eq!(outgoing.sent_by(first), [None, None]);
        outgoing.take(&mut Piece::Bytes(b" 200"), None);
        assert_eq!(outgoing.sent_by(second), [Some(first), Some(second)]);
        let (_, mut outgoing) = take("HTTP/1.1 100", None);
        assert_eq!(outgoing.sent_by(first), [None, None]);
    }
}
