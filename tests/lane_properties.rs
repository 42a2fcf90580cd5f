//! Properties of lanes: requests are told once and rightly however their bytes are cut into segments
//! and however much of these is copied, and no bytes at all harm.

use proptest::prelude::*;
use txprof::lane::{Connection, Direction, LaneEvent, Segment};
use txprof::model::{Attributes, RequestStatus};

/// How a message tells the length of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    None,
    Length,
    Chunked(usize),
}

/// A request and its answer.
#[derive(Clone, Debug)]
struct Exchange {
    method: &'static str,
    path: String,
    status: u16,
    request: Vec<u8>,
    answer: Vec<u8>,
    /// An interim answer between head and body of the request.
    has_interim: bool,
    head_len: usize,
}

/// `body` in its form: header fields, then what follows the head.
fn framed(body: &[u8], form: Form) -> (String, Vec<u8>) {
    match form {
        Form::None => (String::new(), Vec::new()),
        Form::Length => (format!("Content-Length: {}\r\n", body.len()), body.to_vec()),
        Form::Chunked(size) => {
            let mut bytes = Vec::new();
            for chunk in body.chunks(size) {
                bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
            ("Transfer-Encoding: chunked\r\n".to_owned(), bytes)
        }
    }
}

fn form() -> impl Strategy<Value = Form> {
    prop_oneof![Just(Form::Length), (1_usize..3000).prop_map(Form::Chunked)]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let short = prop::collection::vec(any::<u8>(), 0..60);
    // Texts that look like what frames messages.
    let tricky = "(GET / HTTP/1\\.1\r\n|\r\n\r\n|HTTP/1\\.1 200 OK\r\n|0\r\n|[a-f0-9]{1,9}){0,40}";
    let long = (0_usize..20_000).prop_map(|len| vec![b'x'; len]);
    prop_oneof![short, tricky.prop_map(String::into_bytes), long]
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let request = (prop::sample::select(vec!["GET", "HEAD", "POST", "PUT", "DELETE"]), "/[a-z]{0,20}");
    let statuses = prop::sample::select(vec![200_u16, 204, 304, 404, 500, 503]);
    (request, form(), body(), statuses, form(), body(), any::<bool>()).prop_map(
        |((method, path), request_form, request_body, status, answer_form, answer_body, has_interim)| {
            let has_body = matches!(method, "POST" | "PUT");
            let (fields, sent) = framed(&request_body, if has_body { request_form } else { Form::None });
            let mut request =
                format!("{method} {path}?q=secret HTTP/1.1\r\nHost: h\r\n{fields}\r\n").into_bytes();
            let head_len = request.len();
            request.extend(sent);
            let is_bodiless = method == "HEAD" || matches!(status, 204 | 304);
            let (fields, sent) = framed(&answer_body, answer_form);
            let mut answer = format!("HTTP/1.1 {status} Reason\r\n{fields}\r\n").into_bytes();
            if !is_bodiless {
                answer.extend(sent);
            }
            let has_interim = has_interim && request.len() > head_len;
            Exchange { method, path, status, request, answer, has_interim, head_len }
        },
    )
}

/// Feeds `bytes` in segments whose ends `cuts` choose; each keeps the bytes that the kernel side copies, or
/// more. Returns when the first and the last were.
fn feed(
    connection: &mut Connection,
    events: &mut Vec<LaneEvent>,
    now: &mut u64,
    direction: Direction,
    bytes: &[u8],
    cuts: &mut dyn FnMut() -> (usize, usize),
) -> (u64, u64) {
    let copied = if direction == Direction::Received { 4096 } else { 512 };
    let first = *now + 1;
    let mut rest = bytes;
    while !rest.is_empty() {
        let (cut, more) = cuts();
        let (segment, behind) = rest.split_at(cut.clamp(1, rest.len()));
        rest = behind;
        *now += 1;
        let head = &segment[..segment.len().min(copied + more)];
        let tail = if head.len() < segment.len() { &segment[segment.len() - 8..] } else { &[] };
        let length = segment.len() as u64;
        connection.feed(&Segment { time_ns: *now, direction, pid: 1, tid: 1, length, head, tail }, events);
    }
    (first, *now)
}

/// What was told of a request.
#[derive(Clone, Debug, Default, PartialEq)]
struct Told {
    began_ns: u64,
    ended_ns: u64,
    status: RequestStatus,
    attributes: Attributes,
}

/// Reads the events, each request's in the right order.
fn told(events: &[LaneEvent]) -> Vec<Told> {
    let mut all: Vec<(Told, bool)> = Vec::new();
    for event in events {
        match event {
            LaneEvent::Began { number, time_ns, .. } => {
                assert_eq!(*number as usize, all.len(), "numbers ascend");
                all.push((Told { began_ns: *time_ns, ..Told::default() }, false));
            }
            LaneEvent::Named { number, attributes } => {
                let (told, is_over) = &mut all[*number as usize];
                assert!(!*is_over, "nothing follows the end");
                told.attributes = attributes.clone();
            }
            LaneEvent::Read { number, .. } | LaneEvent::Written { number, .. } => {
                assert!(!all[*number as usize].1, "nothing follows the end");
            }
            LaneEvent::Ended { number, time_ns, status, attributes, .. } => {
                let (told, is_over) = &mut all[*number as usize];
                assert!(!*is_over, "one end");
                *is_over = true;
                (told.ended_ns, told.status) = (*time_ns, *status);
                told.attributes.extend(attributes.clone());
            }
        }
    }
    assert!(all.iter().all(|(_, is_over)| *is_over), "each request ends");
    all.into_iter().map(|(told, _)| told).collect()
}

fn check(told: &Told, exchange: &Exchange, began_ns: u64, ended_ns: u64) {
    assert_eq!((told.began_ns, told.ended_ns), (began_ns, ended_ns), "{exchange:?}");
    assert_eq!(told.attributes["http.request.method"], exchange.method);
    assert_eq!(told.attributes["url.path"], exchange.path);
    assert_eq!(told.attributes["http.response.status_code"], exchange.status.to_string());
    let status = if exchange.status >= 500 { RequestStatus::Error } else { RequestStatus::Ok };
    assert_eq!(told.status, status);
    assert!(!told.attributes.values().any(|value| value.contains("secret")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// One request after the other, cut anywhere: each is told once, with its own times.
    #[test]
    fn requests_are_told_however_they_are_cut(
        exchanges in prop::collection::vec(exchange(), 1..6),
        cuts in prop::collection::vec((prop_oneof![1_usize..40, 1_usize..9000], 0_usize..2000), 1..200),
        is_closed in any::<bool>(),
    ) {
        // A segment that hides where its body begins is told rightly, but not always at once: so heads
        // are seen, as they are by the kernel side, which copies more than these have.
        let mut cuts = cuts.iter().copied().cycle();
        let mut next = || cuts.next().unwrap_or((1, 0));
        let (mut connection, mut events, mut now) = (Connection::new(None), Vec::new(), 0);
        let mut times = Vec::new();
        for exchange in &exchanges {
            let mut go = |direction, bytes: &[u8]| {
                feed(&mut connection, &mut events, &mut now, direction, bytes, &mut next)
            };
            let began = if exchange.has_interim {
                let (head, body) = exchange.request.split_at(exchange.head_len);
                let (began, _) = go(Direction::Received, head);
                go(Direction::Sent, b"HTTP/1.1 100 Continue\r\n\r\n");
                go(Direction::Received, body);
                began
            } else {
                go(Direction::Received, &exchange.request).0
            };
            let (_, ended) = go(Direction::Sent, &exchange.answer);
            times.push((began, ended));
        }
        if is_closed {
            feed(&mut connection, &mut events, &mut now, Direction::Received, b"", &mut next);
        }
        connection.close(now + 1, &mut events);
        let told = told(&events);
        prop_assert_eq!(told.len(), exchanges.len());
        for ((told, exchange), (began, ended)) in told.iter().zip(&exchanges).zip(times) {
            check(told, exchange, began, ended);
        }
        prop_assert_eq!(connection.lost_sync, 0);
        prop_assert!(connection.is_http());
    }

    /// All requests first, then all answers, of segments that are copied as a whole: the times are those
    /// of the segments with the first and the last byte.
    #[test]
    fn pipelined_requests_are_told_however_they_are_cut(
        exchanges in prop::collection::vec(exchange(), 1..12),
        cuts in prop::collection::vec(prop_oneof![1_usize..40, 1_usize..9000], 1..200),
    ) {
        let mut cuts = cuts.iter().copied().cycle();
        let mut next = || (cuts.next().unwrap_or(1), usize::MAX / 2);
        let (mut connection, mut events, mut now) = (Connection::new(None), Vec::new(), 0);
        // Which segment holds each byte is learnt by a first run over lengths alone.
        let mut go = |direction, messages: Vec<&[u8]>| {
            let stream = messages.concat();
            let mut ends = Vec::new();
            let mut record = || {
                let cut = next();
                ends.push(cut.0);
                cut
            };
            let before = now;
            feed(&mut connection, &mut events, &mut now, direction, &stream, &mut record);
            let segment_of = |byte: usize| {
                let mut end = 0;
                let index = ends.iter().position(|len| { end += len; byte < end });
                before + 1 + index.unwrap_or(ends.len()) as u64
            };
            let mut end = 0;
            messages
                .iter()
                .map(|message| {
                    let start = end;
                    end += message.len();
                    (segment_of(start), segment_of(end - 1))
                })
                .collect::<Vec<_>>()
        };
        let began = go(Direction::Received, exchanges.iter().map(|one| &one.request[..]).collect());
        let ended = go(Direction::Sent, exchanges.iter().map(|one| &one.answer[..]).collect());
        let told = told(&events);
        prop_assert_eq!(told.len(), exchanges.len());
        for (index, exchange) in exchanges.iter().enumerate() {
            check(&told[index], exchange, began[index].0, ended[index].1);
        }
        prop_assert_eq!(connection.lost_sync, 0);
    }

    /// Any segments, lies about their lengths included: no panic, each request ends once, memory stays
    /// within the bound that is promised.
    #[test]
    fn any_bytes_are_harmless(
        segments in prop::collection::vec((any::<bool>(), hostile(), hostile(), 0_u64..9000, any::<bool>()), 0..60),
    ) {
        let mut connection = Connection::new("[::1]:80".parse().ok());
        let mut events = Vec::new();
        for (time_ns, (is_received, head, tail, more, is_huge)) in segments.iter().enumerate() {
            let direction = if *is_received { Direction::Received } else { Direction::Sent };
            let length = if *is_huge { u64::MAX - more } else { (head.len() as u64 + more).saturating_sub(40) };
            let segment =
                Segment { time_ns: time_ns as u64, direction, pid: 1, tid: 1, length, head, tail };
            connection.feed(&segment, &mut events);
            prop_assert!(connection.held_bytes() <= 96 << 10);
        }
        connection.close(u64::MAX, &mut events);
        told(&events);
        for event in &events {
            if let LaneEvent::Named { attributes, .. } | LaneEvent::Ended { attributes, .. } = event {
                prop_assert!(attributes.len() < 32);
                prop_assert!(attributes.values().all(|value| value.len() <= 3 * 1024));
            }
        }
    }
}

/// Bytes that are random, or made of the words of the protocols.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let words = vec![
        "GET / HTTP/1.1\r\n",
        "POST /db/rpc/ HTTP/1.1\r\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 100 Go\r\n",
        "\r\n",
        "\r\n\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 18446744073709551615\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Content-Encoding: gzip\r\n",
        "Content-Type: application/json\r\n",
        "Content-Type: text/xml\r\n",
        "Cookie: tryton_session=a:1:b\r\n",
        "Authorization: Basic dTpw\r\n",
        "0\r\n\r\n",
        "ffffffffffffffff\r\n",
        "5\r\nhello\r\n",
        "{\"id\":1,\"method\":\"a\"",
        "{\"error\":[\"E\"",
        "<methodName>a</methodName>",
        "<fault>",
        "\u{1f}\u{8b}\u{8}",
        "G",
        ":",
        "\"",
        "[[[[",
    ];
    let texts = prop::collection::vec(prop::sample::select(words), 0..12);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        texts.prop_map(|words| words.concat().into_bytes()),
        (any::<u8>(), 0_usize..5000).prop_map(|(byte, len)| vec![byte; len]),
    ]
}
