//! The request that is being received on a connection.

use core::net::IpAddr;

use crate::model::Attributes;

use super::beginning::Beginning;
use super::body::{Body, Extent};
use super::chunks::Chunks;
use super::extractor::{EXTRACTORS, Extractor};
use super::head::{Framing, Opening, RequestHead, opening};
use super::head_bytes::HeadBytes;
use super::identity::identify;
use super::segment::{Moment, Piece};

/// What taking a part of a segment led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// The part is used up.
    Waiting,
    /// A request begins, with this method; it wants [`told_as`](Incoming::told_as).
    Begun(&'static str),
    /// The request is over.
    Whole,
    /// This is no request.
    Nonsense,
}

/// What a look at a request brought.
pub(super) struct Looked {
    /// All that is known of it.
    pub(super) attributes: Attributes,
    /// The protocols that have a say in how its answer is read.
    pub(super) spoken: Vec<&'static dyn Extractor>,
}

/// A request while it arrives; by default, the place of one that has not begun.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    head: HeadBytes,
    body: Option<Body>,
    began: Moment,
    number: Option<u64>,
    /// How long the body's beginning was when it was looked at last.
    looked_at: Option<usize>,
    /// How much was known then.
    known: usize,
}

impl Incoming {
    /// Takes from the front of `piece` what belongs to the request, which `moment` received.
    pub(super) fn take(&mut self, piece: &mut Piece<'_>, moment: Moment) -> Arrival {
        if self.body.is_none() {
            match self.take_head(piece, moment) {
                Some(arrival) => return arrival,
                None => self.body = self.open_body(),
            }
        }
        let Some(body) = &mut self.body else { return Arrival::Nonsense };
        body.take(piece);
        if body.is_whole() { Arrival::Whole } else { Arrival::Waiting }
    }

    /// As [`take`](Self::take), of the head; `None` where the body follows.
    fn take_head(&mut self, piece: &mut Piece<'_>, moment: Moment) -> Option<Arrival> {
        match piece {
            Piece::Bytes(bytes) if !self.head.is_interrupted() => {
                let was_empty = self.head.kept().is_empty();
                let taken = self.head.push(bytes);
                *bytes = bytes.get(taken..).unwrap_or_default();
                if was_empty {
                    self.began = moment;
                }
            }
            Piece::Hole(1..) if !self.head.is_ended() => self.head.interrupt(),
            _ => {}
        }
        if self.number.is_none() {
            return Some(self.judge());
        }
        let is_over = self.head.is_ended() || self.head.is_interrupted();
        (!is_over).then_some(Arrival::Waiting)
    }

    /// Whether what there is of the head begins a request.
    fn judge(&self) -> Arrival {
        let (kept, is_cut) = (self.head.kept(), self.head.is_cut());
        match opening(kept) {
            Opening::TooShort if !is_cut && !self.head.is_ended() => Arrival::Waiting,
            Opening::TooShort | Opening::Other => Arrival::Nonsense,
            Opening::Request => match RequestHead::parse(kept, is_cut) {
                Some(head) => Arrival::Begun(head.method),
                None if is_cut || kept.contains(&b'\n') => Arrival::Nonsense,
                None => Arrival::Waiting,
            },
        }
    }

    fn open_body(&self) -> Option<Body> {
        let head = RequestHead::parse(self.head.kept(), self.head.is_cut())?;
        let has_body_untold = !matches!(head.method, "GET" | "HEAD" | "DELETE" | "OPTIONS" | "TRACE");
        let extent = match (head.fields.framing(), self.head.is_interrupted()) {
            (Framing::Chunked, false) => Extent::Chunked(Chunks::new()),
            (Framing::Chunked, true) => Extent::Blind,
            (Framing::Length(length), false) => Extent::Length(length),
            (Framing::Length(length), true) => Extent::HeadCut(Some(length)),
            (Framing::Untold, false) if !self.head.is_cut() => Extent::Length(0),
            (Framing::Untold, true) if !has_body_untold => Extent::HeadCut(Some(0)),
            (_, true) => Extent::HeadCut(None),
            (_, false) => Extent::UntilTurn,
        };
        Some(Body::new(extent))
    }

    /// The segment is over; whether the request is, too.
    pub(super) fn end_segment(&mut self) -> bool {
        self.body.as_mut().is_some_and(|body| {
            body.end_segment();
            body.is_whole()
        })
    }

    /// The request was told under this number.
    pub(super) fn told_as(&mut self, number: u64) {
        self.number = Some(number);
    }

    /// Its number, once it was told.
    pub(super) fn number(&self) -> Option<u64> {
        self.number
    }

    /// When its first byte was received.
    pub(super) fn began(&self) -> Moment {
        self.began
    }

    /// Only bytes in the other direction can tell that it is over.
    pub(super) fn ends_by_turn(&self) -> bool {
        self.body.as_ref().is_some_and(Body::ends_by_turn)
    }

    /// Bytes of its body so far, if all were seen.
    pub(super) fn size(&self) -> Option<u64> {
        self.body.as_ref().and_then(Body::size)
    }

    /// Memory that it holds.
    pub(super) fn capacity(&self) -> usize {
        self.head.capacity() + self.body.as_ref().map_or(0, |body| body.beginning().capacity())
    }

    /// What is known of it, if that is more than at the last look. A look at the body is taken when
    /// it has doubled or is as long as it will be, so a body that comes byte by byte costs a dozen looks.
    /// `is_last` looks at a head that has not ended, too.
    pub(super) fn look(&mut self, client: Option<IpAddr>, is_last: bool) -> Option<Looked> {
        let beginning = self.body.as_ref().map(Body::beginning);
        if beginning.is_none() && !(is_last && self.looked_at.is_none()) {
            return None;
        }
        let len = beginning.map_or(0, |beginning| beginning.bytes().len());
        let is_settled = is_last || beginning.is_some_and(Beginning::is_settled);
        let is_due = self.looked_at.is_none_or(|last| len > last && (is_settled || len / 2 >= last));
        if !is_due {
            return None;
        }
        let head = RequestHead::parse(self.head.kept(), self.head.is_cut())?;
        let mut attributes = Attributes::new();
        identify(&head, client, &mut attributes);
        if self.head.is_cut() {
            attributes.insert("txprof.request.head_is_cut".into(), "true".into());
        }
        let text = head.fields.encoding().decode(beginning.map_or(&[], Beginning::bytes));
        let spoken: Vec<_> =
            EXTRACTORS.iter().copied().filter(|one| one.request(&head, &text, &mut attributes)).collect();
        let is_news = self.looked_at.is_none() || attributes.len() > self.known;
        self.looked_at = Some(len);
        self.known = attributes.len();
        is_news.then_some(Looked { attributes, spoken })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `bytes` as one segment until they are used up and returns what came of it.
    fn take(incoming: &mut Incoming, bytes: &[u8]) -> Vec<Arrival> {
        let mut piece = Piece::Bytes(bytes);
        let mut arrivals = Vec::new();
        loop {
            let arrival = incoming.take(&mut piece, Moment::default());
            arrivals.push(arrival);
            match arrival {
                Arrival::Begun(_) => incoming.told_as(7),
                Arrival::Waiting => return arrivals,
                Arrival::Whole | Arrival::Nonsense => return arrivals,
            }
        }
    }

    /// A request begins when its line is whole, and is over with its head where no body is told.
    #[test]
    fn request_begins_with_its_line() {
        let mut incoming = Incoming::default();
        assert_eq!(take(&mut incoming, b"GE"), [Arrival::Waiting]);
        assert_eq!(take(&mut incoming, b"T / HTTP/1.1\r"), [Arrival::Waiting]);
        assert_eq!(take(&mut incoming, b"\n\r"), [Arrival::Begun("GET"), Arrival::Waiting]);
        assert_eq!(take(&mut incoming, b"\n"), [Arrival::Whole]);
        for nonsense in ["GE\n", "GET key\r\n", "GET / HTTP/2.0\r\n", "get "] {
            assert_eq!(
                take(&mut Incoming::default(), nonsense.as_bytes()),
                [Arrival::Nonsense],
                "{nonsense}"
            );
        }
    }

    /// A body that comes byte by byte is looked at again a few times, and tells its method once.
    #[test]
    fn later_bytes_of_the_body_are_looked_at() {
        let mut incoming = Incoming::default();
        let body = br#"{"id":1,"method":"a.b","params":[]}"#;
        take(
            &mut incoming,
            b"POST / HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 35\r\n\r\n",
        );
        assert!(incoming.look(None, false).is_some_and(|looked| looked.spoken.is_empty()));
        let mut news = Vec::new();
        for byte in body {
            take(&mut incoming, &[*byte]);
            news.extend(incoming.look(None, false));
        }
        assert_eq!(news.len(), 1);
        assert_eq!(news[0].attributes["rpc.method"], "a.b");
        assert!(incoming.end_segment());
    }
}
