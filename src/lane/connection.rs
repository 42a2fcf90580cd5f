//! One connection of a server: which requests it carries, when each begins and ends.
//!
//! ```text
//!            Received: a method at a turn          nothing but nonsense
//! searching ──────────────────────────► following   ──────► given up
//!     ▲      Sent: `HTTP/1.`, seen first   │   │                ▲
//!     └────────────────────────────────────┘   └────────────────┘
//!          sync lost: counted                  another protocol follows
//! ```
//!
//! Requests are answered in their order (RFC 9112, section 9.3), so each answer belongs to the oldest
//! request in the queue.

use core::net::{IpAddr, SocketAddr};
use std::collections::VecDeque;

use super::event::LaneEvent;
use super::extractor::Extractor;
use super::incoming::{Arrival, Incoming};
use super::outgoing::{Departure, Outgoing};
use super::pending::Pending;
use super::search::{Found, Search, begins_answer, begins_request};
use super::segment::{Direction, Moment, Segment};

/// Most requests that wait for their answers. Clients that pipeline send fewer; beyond, sync is lost.
const MAX_PENDING: usize = 64;
/// What is being done with the segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A request is waited for.
    Searching,
    /// They are read as requests and answers.
    Following,
    /// They are something else.
    GivenUp,
}

/// One server-side socket. Holds at most two heads of 16 KiB, two beginnings of bodies of 4 KiB and 64
/// waiting requests; while an answer is waited for or sent, mostly less than 2 KiB.
#[derive(Debug)]
pub struct Connection {
    client: Option<IpAddr>,
    mode: Mode,
    search: Search,
    next_number: u64,
    /// The last segment's direction and moment.
    last: Option<(Direction, Moment)>,
    incoming: Incoming,
    outgoing: Outgoing,
    pending: VecDeque<Pending>,
    has_all_input: bool,
    /// How often what followed a request or an answer was not understood; each time the requests that
    /// waited ended as `Unset`.
    pub lost_sync: u64,
}

impl Connection {
    /// A connection of which nothing was seen; `client` is the other end, if known.
    pub fn new(client: Option<SocketAddr>) -> Self {
        Self {
            client: client.map(|client| client.ip()),
            mode: Mode::Searching,
            search: Search::default(),
            next_number: 0,
            last: None,
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
            pending: VecDeque::new(),
            has_all_input: false,
            lost_sync: 0,
        }
    }

    /// Whether it carries HTTP, or may yet. Once false it stays so, and [`feed`](Self::feed) does nothing.
    pub fn is_http(&self) -> bool {
        self.mode != Mode::GivenUp
    }

    /// Bytes held beyond the value itself: at most 96 KiB, as what is kept may have twice its size reserved while it grows.
    pub fn held_bytes(&self) -> usize {
        self.incoming.capacity()
            + self.outgoing.capacity()
            + self.pending.capacity() * size_of::<Pending>()
            + self.pending.iter().map(|pending| pending.spoken.capacity()).sum::<usize>()
                * size_of::<&dyn Extractor>()
    }

    /// Takes the next segment and adds to `events` what it tells. Segments come in the order of the stream in each
    /// direction, and by time. Takes time linear in the bytes copied, and a dozen looks at most at each beginning.
    pub fn feed(&mut self, segment: &Segment<'_>, events: &mut Vec<LaneEvent>) {
        if self.mode == Mode::GivenUp || segment.length == 0 {
            return;
        }
        let moment = segment.moment();
        if self.mode == Mode::Searching {
            self.search(segment, events);
        }
        if self.mode == Mode::Following {
            match segment.direction {
                Direction::Received => self.receive(segment, events),
                Direction::Sent => self.send(segment, events),
            }
        }
        self.last = Some((segment.direction, moment));
    }

    /// The socket was shut down or closed at `time_ns`. An answer that lasts until then ends with its last
    /// send; other requests without a whole answer end as errors now.
    pub fn close(&mut self, time_ns: u64, events: &mut Vec<LaneEvent>) {
        let tid = self.last.map_or(0, |(_, moment)| moment.tid);
        let reason = if self.has_all_input { "client_disconnected" } else { "connection_closed" };
        self.end_all(Moment { time_ns, tid }, reason, events);
    }

    /// The client will send no more. Whether it has gone or waits is known when it is answered, or the socket is closed.
    pub fn end_input(&mut self) {
        self.has_all_input = true;
    }

    /// Follows from this segment on, if it begins a request, or an answer before any request was seen.
    fn search(&mut self, segment: &Segment<'_>, events: &mut Vec<LaneEvent>) {
        match self.search.look(segment, self.last.map(|(direction, _)| direction)) {
            Found::Request => self.mode = Mode::Following,
            Found::Answer if self.next_number == 0 => {
                self.mode = Mode::Following;
                self.begin(None, segment.moment(), events);
            }
            Found::Answer => {}
            Found::Nothing if self.search.is_given_up() => self.mode = Mode::GivenUp,
            Found::Nothing => {}
        }
    }

    fn receive(&mut self, segment: &Segment<'_>, events: &mut Vec<LaneEvent>) {
        let moment = segment.moment();
        let is_turn = self.last.is_some_and(|(direction, _)| direction == Direction::Sent);
        if let Some(number) = self.incoming.number() {
            // A body without a visible end is over when the answer was followed by a request; so is one
            // that the client did not send, as the answer came before it.
            let may_be_over = self.incoming.ends_by_turn() || !self.is_waiting(number);
            if is_turn && may_be_over && begins_request(segment.head) {
                self.end_request(events);
            } else if self.is_waiting(number) {
                events.push(LaneEvent::Read { number, time_ns: moment.time_ns, tid: moment.tid });
            }
        }
        for mut piece in segment.pieces() {
            loop {
                match self.incoming.take(&mut piece, moment) {
                    Arrival::Waiting => break,
                    Arrival::Whole => self.end_request(events),
                    Arrival::Begun(_) if self.pending.len() >= MAX_PENDING => {
                        return self.lose_sync(moment, events);
                    }
                    Arrival::Begun(method) => {
                        self.end_previous_answer(events);
                        self.begin(Some(method), self.incoming.began(), events);
                    }
                    Arrival::Nonsense => return self.lose_sync(moment, events),
                }
            }
        }
        if self.incoming.end_segment() {
            self.end_request(events);
        } else {
            self.name(false, events);
        }
    }

    fn send(&mut self, segment: &Segment<'_>, events: &mut Vec<LaneEvent>) {
        let moment = segment.moment();
        if self.pending.len() > 1 && self.outgoing.ends_by_turn() && begins_answer(segment.head) {
            self.end_previous_answer(events);
        }
        for mut piece in segment.pieces() {
            loop {
                // Without a request it is not an answer: a server may say that it waited in vain.
                let Some(first) = self.pending.front() else { return };
                match self.outgoing.take(&mut piece, first.method) {
                    Departure::Waiting => break,
                    Departure::Interim => self.outgoing = Outgoing::default(),
                    Departure::Whole => self.end_answer(moment, events),
                    Departure::Switched => {
                        self.end_answer(moment, events);
                        self.forget(moment, events);
                        self.mode = Mode::GivenUp;
                        return;
                    }
                    Departure::Nonsense => return self.lose_sync(moment, events),
                }
            }
        }
        if self.outgoing.end_segment() {
            self.end_answer(moment, events);
        } else {
            self.tell_sent(moment, events);
        }
    }

    /// A request begins; without `method`, its answer.
    fn begin(&mut self, method: Option<&'static str>, began: Moment, events: &mut Vec<LaneEvent>) {
        let number = self.next_number;
        self.next_number += 1;
        self.search.succeed();
        if method.is_some() {
            self.incoming.told_as(number);
        }
        self.pending.push_back(Pending { number, method, spoken: Vec::new(), size: None });
        let is_partial = method.is_none();
        events.push(LaneEvent::Began { number, time_ns: began.time_ns, tid: began.tid, is_partial });
    }

    /// Tells what more is known of the request that is being received.
    fn name(&mut self, is_last: bool, events: &mut Vec<LaneEvent>) {
        let Some(number) = self.incoming.number() else { return };
        let Some(pending) = self.pending.iter_mut().rfind(|pending| pending.number == number) else { return };
        if let Some(looked) = self.incoming.look(self.client, is_last) {
            pending.spoken = looked.spoken;
            events.push(LaneEvent::Named { number, attributes: looked.attributes });
        }
    }

    /// The request was received as a whole.
    fn end_request(&mut self, events: &mut Vec<LaneEvent>) {
        self.name(true, events);
        let request = std::mem::take(&mut self.incoming);
        if let Some(pending) = self.pending.iter_mut().rfind(|one| Some(one.number) == request.number()) {
            pending.size = request.size();
        }
    }

    fn tell_sent(&mut self, moment: Moment, events: &mut Vec<LaneEvent>) {
        let Some(number) = self.pending.front().map(|pending| pending.number) else { return };
        for Moment { time_ns, tid } in self.outgoing.sent_by(moment).into_iter().flatten() {
            events.push(LaneEvent::Written { number, time_ns, tid });
        }
    }

    /// The answer to the oldest request was sent as a whole, with `moment`.
    fn end_answer(&mut self, moment: Moment, events: &mut Vec<LaneEvent>) {
        self.tell_sent(moment, events);
        self.conclude(moment, events);
    }

    /// The oldest request ended with the send at `moment`.
    fn conclude(&mut self, moment: Moment, events: &mut Vec<LaneEvent>) {
        if self.pending.front().map(|pending| pending.number) == self.incoming.number() {
            self.name(true, events);
        }
        let answer = std::mem::take(&mut self.outgoing);
        if let Some(pending) = self.pending.pop_front() {
            events.push(pending.answered(&answer, moment));
        }
    }

    /// Another request or answer begins: an answer that has no visible end was over with its last send.
    fn end_previous_answer(&mut self, events: &mut Vec<LaneEvent>) {
        let is_method_unknown = self.pending.front().is_some_and(|pending| pending.method.is_none());
        if (self.outgoing.ends_by_turn() || self.outgoing.ends_by_close() || is_method_unknown)
            && let Some(last) = self.outgoing.last()
        {
            self.conclude(last, events);
        }
    }

    /// The connection is over: ends what waits, an answer that may be whole with its last send.
    fn end_all(&mut self, moment: Moment, reason: &str, events: &mut Vec<LaneEvent>) {
        let is_method_unknown = self.pending.front().is_some_and(|pending| pending.method.is_none());
        let may_be_whole = self.outgoing.ends_by_turn()
            || self.outgoing.ends_by_close()
            || (is_method_unknown && self.outgoing.has_head_alone());
        if let Some(last) = self.outgoing.last().filter(|_| may_be_whole) {
            self.conclude(last, events);
        }
        self.name(true, events);
        let mut answer = std::mem::take(&mut self.outgoing);
        for pending in std::mem::take(&mut self.pending) {
            events.push(pending.broken(&answer, moment, reason));
            answer = Outgoing::default();
        }
        self.incoming = Incoming::default();
    }

    /// What came is neither request nor answer: begins the search anew.
    fn lose_sync(&mut self, moment: Moment, events: &mut Vec<LaneEvent>) {
        self.search.fail();
        self.mode = if self.search.is_given_up() { Mode::GivenUp } else { Mode::Searching };
        self.lost_sync += u64::from(self.next_number > 0);
        self.forget(moment, events);
    }

    /// Ends what waits as not seen to its end.
    fn forget(&mut self, moment: Moment, events: &mut Vec<LaneEvent>) {
        events.extend(self.pending.drain(..).map(|pending| pending.lost(moment)));
        self.incoming = Incoming::default();
        self.outgoing = Outgoing::default();
    }

    fn is_waiting(&self, number: u64) -> bool {
        self.pending.iter().any(|pending| pending.number == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Attributes, RequestStatus};

    /// A connection whose segments come one nanosecond after another, read by thread 1, answered by 2.
    struct Wire {
        connection: Connection,
        now: u64,
        events: Vec<LaneEvent>,
    }

    /// How a request ended.
    #[derive(Debug, PartialEq, Eq)]
    struct End {
        number: u64,
        began_ns: u64,
        ended_ns: u64,
        status: RequestStatus,
        code: String,
    }

    impl Wire {
        fn new() -> Self {
            Self { connection: Connection::new(None), now: 0, events: Vec::new() }
        }

        fn segment(&mut self, direction: Direction, length: usize, head: &[u8], tail: &[u8]) -> &mut Self {
            self.now += 1;
            let tid = if direction == Direction::Received { 1 } else { 2 };
            let segment =
                Segment { time_ns: self.now, direction, pid: 1, tid, length: length as u64, head, tail };
            self.connection.feed(&segment, &mut self.events);
            self
        }

        fn received(&mut self, text: &str) -> &mut Self {
            self.segment(Direction::Received, text.len(), text.as_bytes(), b"")
        }

        fn sent(&mut self, text: &str) -> &mut Self {
            self.segment(Direction::Sent, text.len(), text.as_bytes(), b"")
        }

        fn close(&mut self) -> &mut Self {
            self.now += 1;
            self.connection.close(self.now, &mut self.events);
            self
        }

        /// All that is known of request `number`, at last.
        fn known(&self, number: u64) -> Attributes {
            let mut known = Attributes::new();
            for event in &self.events {
                match event {
                    LaneEvent::Named { number: named, attributes } if *named == number => {
                        known = attributes.clone();
                    }
                    LaneEvent::Ended { number: ended, attributes, .. } if *ended == number => {
                        known.extend(attributes.clone());
                    }
                    _ => {}
                }
            }
            known
        }

        fn ends(&self) -> Vec<End> {
            let began = |wanted: u64| {
                self.events.iter().find_map(|event| match event {
                    LaneEvent::Began { number, time_ns, .. } if *number == wanted => Some(*time_ns),
                    _ => None,
                })
            };
            let end = |event: &LaneEvent| match event {
                LaneEvent::Ended { number, time_ns, status, attributes, .. } => Some(End {
                    number: *number,
                    began_ns: began(*number).expect("it began"),
                    ended_ns: *time_ns,
                    status: *status,
                    code: attributes.get("http.response.status_code").cloned().unwrap_or_default().into(),
                }),
                _ => None,
            };
            self.events.iter().filter_map(end).collect()
        }
    }

    fn end(number: u64, began_ns: u64, ended_ns: u64, status: RequestStatus, code: &str) -> End {
        End { number, began_ns, ended_ns, status, code: code.to_owned() }
    }

    const GET: &str = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    use RequestStatus::{Error, Ok as Fine, Unset};

    /// On a connection that is kept alive, each request lasts from its first byte to its answer's last.
    #[test]
    fn requests_follow_each_other() {
        let mut wire = Wire::new();
        wire.received("GET /a HT").received("TP/1.1\r\n\r\n").sent(&OK[..20]).sent(&OK[20..]);
        wire.received(GET).sent(&OK.replace("200", "503"));
        assert_eq!(wire.ends(), [end(0, 1, 4, Fine, "200"), end(1, 5, 6, Error, "503")]);
        assert_eq!(wire.known(0)["url.path"], "/a");
        assert_eq!(wire.known(0)["http.response.body.size"], "2");
        let written: Vec<_> =
            wire.events.iter().filter(|event| matches!(event, LaneEvent::Written { .. })).collect();
        assert_eq!(written.len(), 3);
        assert!(matches!(written[0], LaneEvent::Written { number: 0, time_ns: 3, tid: 2 }));
    }

    /// Requests that come in one segment are answered in their order.
    #[test]
    fn pipelined_requests_are_answered_in_order() {
        let mut wire = Wire::new();
        wire.received(&GET.repeat(3)).sent(OK).sent(&format!("{}{OK}", OK.replace("200", "404")));
        assert_eq!(
            wire.ends(),
            [end(0, 1, 2, Fine, "200"), end(1, 1, 3, Fine, "404"), end(2, 1, 3, Fine, "200")]
        );
    }

    /// More requests than the queue holds lose sync, and all that began end.
    #[test]
    fn queue_of_pipelined_requests_is_bounded() {
        let mut wire = Wire::new();
        wire.received(&GET.repeat(MAX_PENDING + 1));
        assert_eq!(wire.ends().len(), MAX_PENDING);
        assert!(wire.ends().iter().all(|end| end.status == Unset));
        assert_eq!(wire.connection.lost_sync, 1);
        wire.sent(OK).received(GET).sent(OK);
        assert_eq!(wire.ends().last(), Some(&end(64, 3, 4, Fine, "200")));
    }

    /// `100 Continue` ends nothing and binds nobody; the body that follows is read.
    #[test]
    fn interim_answers_end_nothing() {
        let mut wire = Wire::new();
        wire.received("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
        wire.sent("HTTP/1.1 100 Continue\r\n\r\n").received("GET ").sent(OK);
        assert_eq!(wire.ends(), [end(0, 1, 4, Fine, "200")]);
        let read = LaneEvent::Read { number: 0, time_ns: 3, tid: 1 };
        assert!(wire.events.contains(&read));
        assert!(!wire.events.iter().any(|event| matches!(event, LaneEvent::Written { time_ns: 2, .. })));
    }

    /// A client that is refused its body does not send it, and asks again.
    #[test]
    fn refused_body_does_not_hide_the_next_request() {
        let mut wire = Wire::new();
        wire.received("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 400\r\n\r\n");
        wire.sent(&OK.replace("200", "417")).received(GET).sent(OK);
        assert_eq!(wire.ends(), [end(0, 1, 2, Fine, "417"), end(1, 3, 4, Fine, "200")]);
    }

    /// After `101 Switching Protocols` the connection is left alone.
    #[test]
    fn switched_connections_are_left_alone() {
        let mut wire = Wire::new();
        wire.received(GET).sent("HTTP/1.1 101 Switching Protocols\r\n\r\nframe");
        assert!(!wire.connection.is_http());
        wire.received(GET).sent(OK).close();
        assert_eq!(wire.ends(), [end(0, 1, 2, Fine, "101")]);
    }

    /// An answer without a length ends with its last send, when the connection is closed or the next
    /// request begins; one that is cut ends as an error.
    #[test]
    fn answers_without_length_end_with_their_last_send() {
        let untold = "HTTP/1.1 200 OK\r\n\r\nsome";
        let mut wire = Wire::new();
        wire.received(GET).sent(untold).sent("more").close();
        assert_eq!(wire.ends(), [end(0, 1, 3, Fine, "200")]);
        let mut wire = Wire::new();
        wire.received(GET).sent(untold).received(GET).sent(&OK[..20]).close();
        assert_eq!(wire.ends(), [end(0, 1, 2, Fine, "200"), end(1, 3, 5, Error, "")]);
        assert_eq!(wire.known(1)["error.type"], "connection_closed");
    }

    /// A client that sends no more may still be answered; one that is not has gone, which is an error.
    #[test]
    fn client_that_vanishes_is_an_error() {
        let mut wire = Wire::new();
        wire.received(GET).connection.end_input();
        wire.close();
        assert_eq!(wire.ends(), [end(0, 1, 2, Error, "")]);
        assert_eq!(wire.known(0)["error.type"], "client_disconnected");
        wire.received(GET).connection.end_input();
        wire.sent(OK).close();
        assert_eq!(wire.ends()[1], end(1, 3, 4, Fine, "200"));
    }

    /// Bytes of a body that were not copied are counted: sendfile copies none.
    #[test]
    fn holes_in_bodies_are_counted() {
        let mut wire = Wire::new();
        wire.received(GET).sent("HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n");
        wire.segment(Direction::Sent, 60000, b"", b"").segment(Direction::Sent, 30000, b"abc", b"xyz");
        assert_eq!(wire.ends(), [end(0, 1, 4, Fine, "200")]);
        assert_eq!(wire.known(0)["http.response.body.size"], "90000");
    }

    /// Chunks whose sizes are out of sight end by their last bytes, else by the next request.
    #[test]
    fn chunks_out_of_sight_end_by_their_last_bytes_or_the_next_request() {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
        let mut wire = Wire::new();
        wire.received(GET).segment(Direction::Sent, 9000, head, b"x\r\n0\r\n\r\n");
        assert_eq!(wire.ends(), [end(0, 1, 2, Fine, "200")]);
        let mut wire = Wire::new();
        wire.received(GET).segment(Direction::Sent, 9000, head, b"").sent("more").received(GET);
        assert_eq!(wire.ends(), [end(0, 1, 3, Fine, "200")]);
        assert_eq!(wire.connection.lost_sync, 0);
    }

    /// A request whose head was not copied to its end is named by what there is, and marked.
    #[test]
    fn cut_heads_are_marked() {
        let mut wire = Wire::new();
        wire.segment(Direction::Received, 9000, b"POST /a?b HTTP/1.1\r\nHost: h\r\nCook", b"tail").sent(OK);
        wire.received(GET).sent(OK);
        assert_eq!(wire.ends(), [end(0, 1, 2, Fine, "200"), end(1, 3, 4, Fine, "200")]);
        let known = wire.known(0);
        assert_eq!((known["url.path"].as_ref(), known["server.address"].as_ref()), ("/a", "h"));
        assert_eq!(known["txprof.request.head_is_cut"], "true");
    }

    /// An answer seen first is that of a request that began before; what follows is read as usual.
    #[test]
    fn answer_seen_first_is_a_partial_request() {
        let mut wire = Wire::new();
        wire.sent("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab").sent("cd").received(GET).sent(OK);
        assert_eq!(wire.events[0], LaneEvent::Began { number: 0, time_ns: 1, tid: 2, is_partial: true });
        assert_eq!(wire.ends(), [end(0, 1, 2, Fine, "200"), end(1, 3, 4, Fine, "200")]);
    }

    /// In the middle of a body, the next request that follows an answer is waited for.
    #[test]
    fn search_begins_in_the_middle_of_a_body() {
        let mut wire = Wire::new();
        for _ in 0..500 {
            wire.sent("…more of a download…");
        }
        wire.received(GET).sent(OK);
        assert_eq!(wire.ends(), [end(0, 501, 502, Fine, "200")]);
    }

    /// A hole that hides where a request begins loses sync once; the next request after an answer is read.
    #[test]
    fn lost_sync_is_counted_and_found_again() {
        let mut wire = Wire::new();
        wire.segment(Direction::Received, 9000, GET.as_bytes(), b"").sent(OK).received(GET).sent(OK);
        assert_eq!(wire.ends(), [end(0, 1, 1, Unset, ""), end(1, 3, 4, Fine, "200")]);
        assert_eq!(wire.connection.lost_sync, 1);
    }

    /// Other protocols tell nothing and are given up.
    #[test]
    fn other_protocols_are_given_up() {
        for (asked, answered) in [("get key\r\n", "VALUE"), ("GET key\r\n", "$1"), ("EHLO x\r\n", "250 x")] {
            let mut wire = Wire::new();
            for _ in 0..8 {
                wire.received(asked).sent(answered);
            }
            wire.close();
            assert!(!wire.connection.is_http(), "{asked}");
            assert_eq!((wire.events.len(), wire.connection.lost_sync), (0, 0), "{asked}");
        }
    }

    /// An error of the protocol inside of status 200 is one, also in gzip and chunks, which are cut.
    #[test]
    fn error_inside_of_status_200_is_an_error() {
        use std::io::Write;
        let mut wire = Wire::new();
        wire.received(
            "POST /db/rpc/ HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 49\r\n\r\n",
        );
        wire.received(r#"{"id":3,"method":"model.res.user.read","params":["#);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        let trace: String = (0..2000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_string()).collect();
        write!(gzip, r#"{{"id":3,"error":["UserError",["{trace}"]]}}"#).expect("memory takes all");
        let body = gzip.finish().expect("memory takes all");
        let fields = "Transfer-Encoding: chunked\r\nContent-Encoding: gzip";
        let mut answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{:x}\r\n", body.len()).into_bytes();
        answer.extend([&body[..], b"\r\n0\r\n\r\n"].concat());
        wire.segment(Direction::Sent, answer.len(), &answer[..512], &answer[answer.len() - 8..]);
        assert_eq!(wire.ends(), [end(0, 1, 3, Error, "200")]);
        let known = wire.known(0);
        assert_eq!(
            (known["rpc.method"].as_ref(), known["db.namespace"].as_ref()),
            ("model.res.user.read", "db")
        );
        assert_eq!(known["rpc.status_code"], "UserError");
        assert_eq!(known["http.response.body.size"], body.len().to_string());
    }
}
