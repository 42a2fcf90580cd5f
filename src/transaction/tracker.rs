//! Requests in flight, and which thread worked for each.
//!
//! ```text
//! reader   ──read────────────────────────► …            waitress: one thread reads,
//!             ╰── hands over ──╮                         another answers
//! responder ░░░ waits ░░░░░░░░░╰─ works ── writes ──►
//!             └─ handover ─────┴──── span ───────┘       together the request's time
//! ```
//!
//! A request belongs to the thread that writes its answer. Where that has read it, too, the span begins with its first
//! byte; else with the end of the wait in which the responder was when that byte came, or with the end of its answer
//! to the request before, or, where that was earlier and no wait since then was long enough to be told, with that
//! byte. Threads that answer several requests at once are said to be shared; where the answer was written by a coroutine
//! of such a thread, the request has that coroutine's time, and no other one's.

use std::collections::{HashMap, VecDeque};

use crate::model::{Attributes, Binding, RequestStatus, ThreadSums};

/// A moment in the life of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Act {
    /// `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// What the thread had done by then.
    pub sums: ThreadSums,
    /// The outermost coroutine that wrote, named by an address that others get when it is gone.
    pub coroutine: Option<u64>,
}

/// The end of a thread's wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resumed {
    /// When the wait began.
    pub began_ns: u64,
    /// When it was over; of the sums, those of waits that have stacks may be missing.
    pub act: Act,
}

/// Names a request in flight: the socket, and which one on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestKey {
    /// The socket.
    pub socket: u64,
    /// Ascending.
    pub number: u64,
}

/// A request in flight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    /// Its first byte was read, or, if it is partial, it was met.
    pub began: Act,
    /// What is known of it.
    pub attributes: Attributes,
    /// The last send of its answer so far.
    pub written: Option<Act>,
    /// It had begun before it was watched.
    pub is_partial: bool,
    /// Its reader has read another one meanwhile.
    is_shared: bool,
    /// Which coroutine wrote what one wrote of its answer.
    writer: Writer,
    /// The end of the request before it on its connection, if it came before that.
    waited_for: Option<Act>,
}

/// Of several parts of an answer, who wrote them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Writer {
    /// No coroutine so far, or none that is known.
    #[default]
    Unknown,
    One(u64),
    Several,
}

impl Writer {
    fn and(self, coroutine: Option<u64>) -> Self {
        match (self, coroutine) {
            (writer, None) => writer,
            (Self::Unknown, Some(coroutine)) => Self::One(coroutine),
            (Self::One(known), Some(coroutine)) if known == coroutine => self,
            (_, Some(_)) => Self::Several,
        }
    }
}

/// The time of one thread for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Which thread.
    pub tid: u32,
    /// When it began to work for the request.
    pub from_ns: u64,
    /// The end of the answer.
    pub to_ns: u64,
    /// What it did in between.
    pub sums: ThreadSums,
    /// Of its time, only what this one had.
    pub coroutine: Option<u64>,
}

/// A request that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// Whose process.
    pub pid: u32,
    /// The thread that answered.
    pub tid: u32,
    /// When its first byte was read, `CLOCK_MONOTONIC`.
    pub began_ns: u64,
    /// When the last byte of the answer was written; without one, when it was over.
    pub ended_ns: u64,
    /// The responder's time; `None` where that is not known.
    pub span: Option<Span>,
    /// Whose time that is.
    pub binding: Binding,
    /// How it ended.
    pub status: RequestStatus,
    /// It had begun before it was watched.
    pub is_partial: bool,
    /// What is known of it.
    pub attributes: Attributes,
}

/// Threads remembered, 600 bytes each. Those of which nothing was heard for longest give way.
const MAX_THREADS: usize = 16_384;
/// Requests in flight; further ones are not tracked.
const MAX_REQUESTS: usize = 65_536;
/// Ends of waits in which a request came, of each thread.
const MAX_RESUMED: usize = 4;

/// What is remembered of a thread.
#[derive(Debug, Default)]
struct Worker {
    heard_ns: u64,
    answered: Option<Act>,
    resumed: VecDeque<Resumed>,
}

/// All requests in flight.
#[derive(Debug, Default)]
pub struct Tracker {
    requests: HashMap<RequestKey, InFlight>,
    workers: HashMap<u32, Worker>,
    /// When the last requests of each process came, and how many of its are in flight.
    arrivals: HashMap<u32, Arrivals>,
    /// Requests that found no room.
    pub refused: u64,
}

#[derive(Debug, Default)]
struct Arrivals {
    in_flight: usize,
    recent_ns: VecDeque<u64>,
}

/// Arrivals remembered of each process, to know which waits a request came in.
const MAX_ARRIVALS: usize = 256;

impl Tracker {
    /// A request begins: `act` read its first byte, or wrote of its answer, if it was not seen before.
    pub fn begin(&mut self, key: RequestKey, act: Act, is_partial: bool) {
        if self.requests.len() >= MAX_REQUESTS {
            self.refused += 1;
            return;
        }
        let mut is_shared = false;
        for other in self.requests.values_mut().filter(|other| other.began.tid == act.tid) {
            other.is_shared = true;
            is_shared = true;
        }
        let request = InFlight { began: act, is_partial, is_shared, ..InFlight::default() };
        if self.requests.insert(key, request).is_none() {
            self.arrivals.entry(act.pid).or_default().in_flight += 1;
        }
        let arrivals = self.arrivals.entry(act.pid).or_default();
        arrivals.recent_ns.push_back(act.time_ns);
        if arrivals.recent_ns.len() > MAX_ARRIVALS {
            arrivals.recent_ns.pop_front();
        }
    }

    /// More is known of a request.
    pub fn describe(&mut self, key: RequestKey, attributes: Attributes) {
        if let Some(request) = self.requests.get_mut(&key) {
            if request.attributes.is_empty() {
                request.attributes = attributes;
            } else {
                request.attributes.extend(attributes);
            }
        }
    }

    /// Something of its answer was written.
    pub fn write(&mut self, key: RequestKey, act: Act) {
        if let Some(request) = self.requests.get_mut(&key) {
            request.written = Some(act);
            request.writer = request.writer.and(act.coroutine);
        }
    }

    /// A wait of a thread is over.
    pub fn resume(&mut self, resumed: Resumed) {
        let Some(arrivals) = self.arrivals.get(&resumed.act.pid) else { return };
        let came_in_it = |at_ns: &u64| (resumed.began_ns..resumed.act.time_ns).contains(at_ns);
        if !arrivals.recent_ns.iter().rev().any(came_in_it) {
            return;
        }
        let worker = self.worker(&resumed.act);
        worker.resumed.push_back(resumed);
        if worker.resumed.len() > MAX_RESUMED {
            worker.resumed.pop_front();
        }
    }

    fn worker(&mut self, act: &Act) -> &mut Worker {
        if self.workers.len() >= MAX_THREADS && !self.workers.contains_key(&act.tid) {
            let mut heard: Vec<u64> = self.workers.values().map(|worker| worker.heard_ns).collect();
            let middle = heard.len() / 2;
            let (_, median, _) = heard.select_nth_unstable(middle);
            let median = *median;
            self.workers.retain(|_, worker| worker.heard_ns > median);
        }
        let worker = self.workers.entry(act.tid).or_default();
        worker.heard_ns = act.time_ns;
        worker
    }

    /// A request has ended: by its last write; without one at `time_ns`, and then nobody is known to have worked for it.
    pub fn end(
        &mut self,
        key: RequestKey,
        time_ns: u64,
        status: RequestStatus,
        attributes: Attributes,
    ) -> Option<Finished> {
        let request = self.requests.remove(&key)?;
        if let Some(arrivals) = self.arrivals.get_mut(&request.began.pid) {
            arrivals.in_flight = arrivals.in_flight.saturating_sub(1);
        }
        let (began, mut bound) = (request.began, (None, Binding::Unknown));
        let mut last = Act { time_ns: time_ns.max(began.time_ns), ..began };
        if let Some(written) = request.written {
            last = written;
            bound = self.bind(&request, last);
            let worker = self.worker(&last);
            worker.answered = Some(last);
            worker.resumed.clear();
            let next = RequestKey { number: key.number + 1, ..key };
            if let Some(next) = self.requests.get_mut(&next) {
                next.waited_for = Some(last);
            }
        }
        let (span, binding) = bound;
        let mut known = request.attributes;
        known.extend(attributes);
        Some(Finished {
            pid: last.pid,
            tid: last.tid,
            began_ns: began.time_ns,
            ended_ns: last.time_ns,
            span,
            binding,
            status,
            is_partial: request.is_partial,
            attributes: known,
        })
    }

    /// The responder's time for the request, and what is certain about it.
    fn bind(&self, request: &InFlight, last: Act) -> (Option<Span>, Binding) {
        let began = request.began;
        let span = |from: Act| {
            let sums = last.sums.since(&from.sums);
            Span { tid: last.tid, from_ns: from.time_ns, to_ns: last.time_ns, sums, coroutine: None }
        };
        if last.tid == began.tid {
            return match (request.is_shared, request.writer) {
                (false, _) => (Some(span(began)), Binding::Thread),
                // A connection's coroutine may have answered an earlier request when this one came.
                (true, Writer::One(coroutine)) => {
                    let from = request.waited_for.filter(|act| act.tid == last.tid).unwrap_or(began);
                    (Some(Span { coroutine: Some(coroutine), ..span(from) }), Binding::Coroutine)
                }
                (true, _) => (Some(span(began)), Binding::SharedThread),
            };
        }
        let worker = self.workers.get(&last.tid);
        let came_in_it =
            |resumed: &&Resumed| (resumed.began_ns..resumed.act.time_ns).contains(&began.time_ns);
        let resumed = worker.and_then(|worker| worker.resumed.iter().find(came_in_it));
        let answered = worker.and_then(|worker| worker.answered).filter(|act| act.pid == last.pid);
        // Without a wait that was told it was free since its last answer, and took the request soon after it came.
        let free = answered.map(|act| Act { time_ns: act.time_ns.max(began.time_ns), ..act });
        match resumed.map(|resumed| resumed.act).or(free) {
            Some(from) => (Some(span(from)), Binding::Thread),
            None => (None, Binding::Unknown),
        }
    }

    /// A process is gone, with its requests. Returns those that have not ended.
    pub fn bury(&mut self, pid: u32) -> Vec<RequestKey> {
        self.arrivals.remove(&pid);
        let of_process = self.requests.iter().filter(|(_, request)| request.began.pid == pid);
        of_process.map(|(key, _)| *key).collect()
    }

    /// Forgets all requests in flight.
    pub fn begin_anew(&mut self) {
        *self = Self { refused: self.refused, ..Self::default() };
    }

    /// How many requests of `pid` are in flight.
    pub fn in_flight_of(&self, pid: u32) -> usize {
        self.arrivals.get(&pid).map_or(0, |arrivals| arrivals.in_flight)
    }

    /// Processes that serve requests now.
    pub fn busy(&self) -> impl Iterator<Item = u32> + '_ {
        self.arrivals.iter().filter(|(_, arrivals)| arrivals.in_flight > 0).map(|(pid, _)| *pid)
    }

    /// All requests in flight.
    pub fn in_flight(&self) -> impl Iterator<Item = (&RequestKey, &InFlight)> {
        self.requests.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(socket: u64) -> RequestKey {
        RequestKey { socket, number: 1 }
    }

    /// A thread that has run for half of the time and was blocked in the other.
    fn act(tid: u32, time_ns: u64) -> Act {
        let sums =
            ThreadSums { run_ns: time_ns / 2, blocked_ns: time_ns - time_ns / 2, ..ThreadSums::default() };
        Act { time_ns, pid: 1, tid, sums, coroutine: None }
    }

    fn end(tracker: &mut Tracker, socket: u64) -> Finished {
        tracker.end(key(socket), 1 << 40, RequestStatus::Ok, Attributes::new()).expect("it was in flight")
    }

    /// One thread reads and answers: its time in between is the request's.
    #[test]
    fn reader_that_answers_is_bound() {
        let mut tracker = Tracker::default();
        tracker.begin(key(1), act(5, 100), false);
        tracker.write(key(1), act(5, 180));
        tracker.write(key(1), act(5, 200));
        let finished = end(&mut tracker, 1);
        let sums = ThreadSums { run_ns: 50, blocked_ns: 50, ..ThreadSums::default() };
        assert_eq!(finished.span, Some(Span { tid: 5, from_ns: 100, to_ns: 200, sums, coroutine: None }));
        assert_eq!((finished.binding, finished.began_ns, finished.ended_ns), (Binding::Thread, 100, 200));
        assert_eq!((tracker.in_flight_of(1), tracker.busy().count()), (0, 0));
    }

    /// Two requests at once on one thread: neither has it for itself, and the next one has it again.
    #[test]
    fn thread_of_several_requests_is_shared() {
        let mut tracker = Tracker::default();
        for (socket, time_ns) in [(1, 100), (2, 110)] {
            tracker.begin(key(socket), act(5, time_ns), false);
        }
        for (socket, time_ns) in [(1, 150), (2, 160)] {
            tracker.write(key(socket), act(5, time_ns));
            assert_eq!(end(&mut tracker, socket).binding, Binding::SharedThread);
        }
        tracker.begin(key(3), act(5, 200), false);
        tracker.write(key(3), act(5, 210));
        assert_eq!(end(&mut tracker, 3).binding, Binding::Thread);
    }

    /// What a coroutine of a shared thread answered has its time alone, from the request's first byte, or from the end
    /// of the answer before on that connection; what two wrote is nobody's, and alone a request has the thread.
    #[test]
    fn coroutine_of_a_shared_thread_is_bound() {
        let mut tracker = Tracker::default();
        let by = |coroutine, time_ns| Act { coroutine, ..act(5, time_ns) };
        let second = RequestKey { number: 2, ..key(1) };
        for (key, time_ns) in [(key(1), 100), (key(2), 101), (second, 102), (key(3), 103)] {
            tracker.begin(key, act(5, time_ns), false);
        }
        let mut span = |key, acts: &[Act]| {
            acts.iter().for_each(|act| tracker.write(key, *act));
            let finished =
                tracker.end(key, 1 << 40, RequestStatus::Ok, Attributes::new()).expect("it was in flight");
            let span = finished.span.expect("its thread is known");
            (finished.binding, span.coroutine, span.from_ns, span.to_ns)
        };
        let written = [by(Some(7), 150), by(None, 160)];
        assert_eq!(span(key(1), &written), (Binding::Coroutine, Some(7), 100, 160));
        assert_eq!(span(second, &[by(Some(7), 170)]), (Binding::Coroutine, Some(7), 160, 170));
        assert_eq!(
            span(key(2), &[by(Some(8), 180), by(Some(9), 190)]),
            (Binding::SharedThread, None, 101, 190)
        );
        assert_eq!(span(key(3), &[by(None, 200)]), (Binding::SharedThread, None, 103, 200));
        tracker.begin(key(4), act(5, 210), false);
        tracker.write(key(4), by(Some(7), 220));
        assert_eq!(end(&mut tracker, 4).binding, Binding::Thread);
    }

    /// One thread reads, another answers: from the end of the wait in which it was when the request came; a second
    /// request that waits for it meanwhile, from the end of the first.
    #[test]
    fn responder_is_bound_from_when_it_was_free() {
        let mut tracker = Tracker::default();
        tracker.begin(key(1), act(5, 100), false);
        tracker.resume(Resumed { began_ns: 40, act: act(6, 120) });
        tracker.begin(key(2), act(5, 130), false);
        tracker.resume(Resumed { began_ns: 125, act: act(6, 140) });
        tracker.write(key(1), act(6, 200));
        let first = end(&mut tracker, 1);
        assert_eq!((first.tid, first.binding, first.began_ns), (6, Binding::Thread, 100));
        assert_eq!(first.span.map(|span| (span.tid, span.from_ns, span.to_ns)), Some((6, 120, 200)));
        tracker.write(key(2), act(6, 260));
        let second = end(&mut tracker, 2);
        assert_eq!(second.span.map(|span| (span.from_ns, span.to_ns)), Some((200, 260)));
    }

    /// A responder that waited too shortly to be told was free since it had answered, before the request came.
    #[test]
    fn responder_without_a_told_wait_is_bound_from_the_first_byte() {
        let mut tracker = Tracker::default();
        for (began_ns, ended_ns) in [(100, 200), (230, 300)] {
            tracker.begin(key(1), act(5, began_ns), false);
            tracker.resume(Resumed { began_ns: 40, act: act(6, 120) });
            tracker.write(key(1), act(6, ended_ns));
            let finished = end(&mut tracker, 1);
            assert_eq!((finished.tid, finished.binding), (6, Binding::Thread));
            let from_ns = if began_ns == 100 { 120 } else { 230 };
            assert_eq!(finished.span.map(|span| (span.from_ns, span.to_ns)), Some((from_ns, ended_ns)));
        }
    }

    /// A responder of which nothing is known is not guessed at.
    #[test]
    fn unknown_responder_has_no_span() {
        let mut tracker = Tracker::default();
        tracker.begin(key(1), act(5, 100), false);
        tracker.write(key(1), act(6, 200));
        let finished = end(&mut tracker, 1);
        assert_eq!((finished.span, finished.binding, finished.ended_ns), (None, Binding::Unknown, 200));
    }

    /// Attributes add up, later ones win; a process takes its requests with it.
    #[test]
    fn requests_go_with_their_process() {
        let mut tracker = Tracker::default();
        let attributes = |value: &str| Attributes::from([("url.path".into(), value.to_owned().into())]);
        tracker.begin(key(1), act(5, 100), false);
        tracker.describe(key(1), attributes("/a"));
        assert_eq!(tracker.bury(1), [key(1)]);
        let finished =
            tracker.end(key(1), 300, RequestStatus::Error, attributes("/b")).expect("it is still there");
        assert_eq!((finished.status, finished.attributes), (RequestStatus::Error, attributes("/b")));
        assert_eq!((finished.ended_ns, finished.span, finished.binding), (300, None, Binding::Unknown));
        assert_eq!(tracker.end(key(1), 400, RequestStatus::Ok, attributes("/c")), None);
    }

    /// Requests and threads are bounded.
    #[test]
    fn room_is_bounded() {
        let mut tracker = Tracker::default();
        for n in 0..MAX_THREADS as u32 + 10 {
            tracker.begin(key(u64::from(n)), act(n, u64::from(n)), false);
            tracker.write(key(u64::from(n)), act(n, u64::from(n) + 1));
            end(&mut tracker, u64::from(n));
        }
        assert!(tracker.workers.len() <= MAX_THREADS);
        for n in 0..MAX_REQUESTS as u64 + 3 {
            tracker.requests.insert(key(n), InFlight::default());
        }
        tracker.begin(key(1 << 40), act(1, 1), false);
        assert_eq!(tracker.refused, 1);
    }
}
