//! Requests of the targets: from what is received and sent to whose time is whose.
//!
//! ```text
//! transfers ──► Connection ──► Tracker ──finished──► policies ──kept──► profile
//! samples, waits ───────────► Timeline ───────────────────────────────────▲
//! ```

use std::collections::{HashMap, VecDeque};

use super::capture::{Capture, CaughtStack, Observation, RawFrame, Tally};
use super::minute::Minute;
use super::offspring::{Offspring, OffspringLosses, Work};
use super::pool::{Call, Queue, Told};
use super::wait_names::WaitNames;
use super::waits::has_woken;
use crate::lane::{Connection, Direction, LaneEvent, Segment};
use crate::model::{Attributes, Binding, RequestStatus, ThreadState, ThreadSums};
use crate::sys::abi::comm_text;
use crate::sys::clock::monotonic_ns;
use crate::sys::errand_record::ErrandRecord;
use crate::sys::lane_record::{LanePart, LaneRecord, Transfer};
use crate::sys::wait_record::{ThreadRecord, WaitPart, WaitRecord, Waker};
use crate::transaction::errands::{Errand, Errands};
use crate::transaction::lives::{Life, Lives};
use crate::transaction::timeline::{Measure, Moment, Timeline};
use crate::transaction::tracker::{Act, Finished, RequestKey, Resumed, Span, Tracker};

/// Connections looked at, some 30 KiB each at most and far less as a rule. Those that were quiet for longest give way.
const MAX_CONNECTIONS: usize = 16_384;
/// Transfers of a connection whose moment is remembered: a request may be known to have begun some later.
const MAX_ACTS: usize = 16;
/// Requests that wait to be judged.
const MAX_FINISHED: usize = 16_384;
/// Captures of earlier times.
const MAX_RETIRED: usize = 1;
/// Processes whose name is remembered, and threads whose PostgreSQL backend is.
const MAX_NAMES: usize = 8192;

/// Stacks of a timeline are numbers in the capture of their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct StackAt {
    pub epoch: u32,
    pub stack: CaughtStack,
}

/// A socket that speaks HTTP.
#[derive(Debug)]
struct Socket {
    connection: Connection,
    pid: u32,
    heard_ns: u64,
    acts: VecDeque<Act>,
}

/// What was lost on the way to the requests' profiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RequestLosses {
    /// Connections that gave way to others while they may have been in use.
    pub connections: u64,
    /// Requests that were not followed because too many were in flight, or waited to be judged.
    pub requests: u64,
    /// Times that a connection's bytes made no sense and were left alone until its next request.
    pub lost_sync: u64,
}

/// All requests of all targets.
#[derive(Debug)]
pub(super) struct Requests {
    sockets: HashMap<u64, Socket>,
    pub tracker: Tracker,
    pub timeline: Timeline<StackAt>,
    /// Threads that ended of late.
    pub lives: Lives,
    /// Work that coroutines gave to pools of threads.
    pub errands: Errands,
    /// Each with the name of its process, which may be gone.
    finished: VecDeque<(Finished, String)>,
    /// Which capture new stacks are in.
    pub epoch: u32,
    /// Those of earlier times, oldest first.
    pub retired: VecDeque<(u32, Capture)>,
    names: HashMap<u32, String>,
    /// What ran since the last minute began.
    pub minute: Minute,
    /// Who answered each thread's query last, and when.
    backends: HashMap<u32, (u32, u64)>,
    pub losses: RequestLosses,
    /// Of what threads did for requests beside their own.
    pub offspring_losses: OffspringLosses,
    /// Requests that ended so far.
    pub count: u64,
    events: Vec<LaneEvent>,
}

/// The object that a word of a Python frame stands for: from 3.14 its low bits are a tag.
pub(super) fn untagged(word: u64) -> u64 {
    word & !7
}

impl Requests {
    /// None yet; what threads did of late takes at most `ring_bytes`.
    pub(super) fn new(ring_bytes: usize) -> Self {
        Self {
            sockets: HashMap::new(),
            tracker: Tracker::default(),
            timeline: Timeline::new(ring_bytes),
            lives: Lives::default(),
            errands: Errands::default(),
            finished: VecDeque::new(),
            epoch: 0,
            retired: VecDeque::new(),
            names: HashMap::new(),
            minute: Minute::default(),
            backends: HashMap::new(),
            losses: RequestLosses::default(),
            offspring_losses: OffspringLosses::default(),
            count: 0,
            events: Vec::new(),
        }
    }

    /// Takes what was observed since the last call.
    pub(super) fn take(&mut self, capture: &mut Capture) {
        for Observation { root, stack, state, tally, is_share } in capture.take_journal() {
            let Some(thread) = root.thread else { continue };
            if !self.names.contains_key(&thread.pid) {
                self.note_name(thread.pid, root.process);
            }
            let measure = match (is_share, state) {
                (true, _) => Measure::Share,
                (false, ThreadState::Running) => Measure::Tick,
                (false, _) => Measure::Exact,
            };
            let stack = StackAt { epoch: self.epoch, stack };
            if measure == Measure::Tick {
                let service = self.names.get(&thread.pid).map_or("?", String::as_str);
                self.minute.add(service, stack, tally);
            }
            let (count, weight) = (tally.count, tally.weight_ns);
            let Tally { at_ns, coroutine, .. } = tally;
            let moment = Moment { at_ns, state, measure, stack, coroutine, count, weight };
            self.timeline.push(thread.tid, moment);
        }
    }

    fn note_name(&mut self, pid: u32, name: String) {
        if self.names.len() >= MAX_NAMES {
            self.names.clear();
        }
        self.names.insert(pid, name);
    }

    /// The name of a process, as far as one of its threads was seen.
    pub(super) fn process_name(&self, pid: u32) -> Option<&str> {
        self.names.get(&pid).map(String::as_str)
    }

    /// The PostgreSQL backend that woke thread `tid` last, if that was after `since_ns`.
    pub(super) fn postgres_of(&self, tid: u32, since_ns: u64) -> Option<u32> {
        self.backends.get(&tid).filter(|(_, at_ns)| *at_ns >= since_ns).map(|(pid, _)| *pid)
    }

    /// A wait is over: who had it may take over a request.
    pub(super) fn note_wait(&mut self, record: &WaitRecord<'_>) {
        if matches!(record.part, WaitPart::Woken(_) | WaitPart::HandedOver | WaitPart::Opened(_)) {
            return;
        }
        // What ran when a timer's interrupt came has nothing to do with it.
        let is_backend = |waker: &Waker| waker.comm.starts_with(b"postgres") && has_woken(waker);
        if let Some(waker) = record.waker.filter(is_backend) {
            if self.backends.len() >= MAX_NAMES {
                self.backends.clear();
            }
            self.backends.insert(record.tid, (waker.pid, record.time_ns));
        }
        // What it was blocked for is not told, but follows from the other two and the time.
        let sums =
            ThreadSums { run_ns: record.run_sum_ns, queue_ns: record.queue_sum_ns, ..ThreadSums::default() };
        let act = Act { time_ns: record.time_ns, pid: record.pid, tid: record.tid, sums, coroutine: None };
        self.tracker.resume(Resumed { began_ns: record.began_ns, act });
    }

    /// A thread has ended: it may have been made for a request.
    pub(super) fn note_end(&mut self, record: &ThreadRecord) {
        self.errands.forget(record.pid, record.tid);
        let Some(birth) = record.birth else { return };
        self.lives.push(Life {
            pid: record.pid,
            tid: record.tid,
            name: comm_text(&record.thread_comm),
            parent_tid: birth.parent_tid,
            born_ns: birth.time_ns,
            died_ns: record.time_ns,
        });
    }

    /// A thread that is in `calls`, leaf first, is given work by a coroutine, or tells that it has done it; or neither.
    pub(super) fn note_errand(&mut self, record: &ErrandRecord<'_>, calls: &[Call<'_>]) {
        let ErrandRecord { time_ns, pid, tid, giver, .. } = *record;
        if let Some(giver) = giver {
            let Some(queue) = Queue::waited_at(calls) else { return };
            let candidates = (queue == Queue::Shared).then_some(giver.locals.map(untagged));
            let (giver_tid, coroutine) = (giver.tid, giver.coroutine);
            let errand = Errand { pid, tid, giver_tid, coroutine, from_ns: time_ns, to_ns: 0 };
            self.errands.give(errand, candidates);
        } else if let Some(told) = Told::by(calls) {
            self.errands.finish(pid, tid, told.item, time_ns);
        }
    }

    /// The work of pools for a request. Where its thread served several, it is that which its coroutine gave.
    pub(super) fn errands(&mut self, finished: &Finished) -> Vec<Errand> {
        let Some(Span { tid, from_ns, to_ns, coroutine, .. }) = finished.span else { return Vec::new() };
        match finished.binding {
            Binding::Thread | Binding::Coroutine => {
                self.errands.given_by((finished.pid, tid), coroutine, from_ns, to_ns)
            }
            Binding::SharedThread | Binding::Unknown => Vec::new(),
        }
    }

    /// What threads did for a request beside its own: those that did `errands`, each with its name, and, where it had a
    /// thread for itself, those that were made for it; `names` gets theirs.
    pub(super) fn offspring(
        &self,
        finished: &Finished,
        errands: &[(Errand, String)],
        names: &mut WaitNames,
    ) -> Offspring {
        let (pid, span) = (finished.pid, finished.span.unwrap_or_default());
        let lives = match finished.binding {
            Binding::Thread => self.lives.begun_by((pid, span.tid), span.from_ns, span.to_ns),
            Binding::Coroutine | Binding::SharedThread | Binding::Unknown => Vec::new(),
        };
        // Of a thread that was made for it all is told already.
        let errands = errands.iter().filter(|(errand, _)| lives.iter().all(|life| life.tid != errand.tid));
        let errands = errands.map(|(errand, name)| (errand.tid, name, errand.from_ns, errand.to_ns));
        let born = lives.iter().map(|life| (life.tid, &life.name, life.born_ns, life.died_ns));
        let works = born.chain(errands).map(|(tid, name, from_ns, to_ns)| {
            let thread = names.thread(pid, tid, name);
            Work { thread, tid, from_ns, to_ns: to_ns.min(span.to_ns) }
        });
        Offspring::new(works.collect(), &self.timeline)
    }

    /// A transfer, or the end of a connection.
    pub(super) fn apply(&mut self, record: &LaneRecord<'_>) {
        let mut events = std::mem::take(&mut self.events);
        match &record.part {
            LanePart::Transfer(transfer) => self.feed(record, transfer, &mut events),
            LanePart::EndOfInput => {
                if let Some(socket) = self.sockets.get_mut(&record.socket) {
                    socket.connection.end_input();
                }
            }
            LanePart::HangUp => {
                if let Some(mut socket) = self.sockets.remove(&record.socket) {
                    socket.connection.close(record.time_ns, &mut events);
                    self.follow(record.socket, &socket, &mut events);
                }
            }
        }
        self.events = events;
    }

    fn feed(&mut self, record: &LaneRecord<'_>, transfer: &Transfer<'_>, events: &mut Vec<LaneEvent>) {
        let LaneRecord { time_ns, pid, socket: number, .. } = *record;
        if self.sockets.len() >= MAX_CONNECTIONS && !self.sockets.contains_key(&number) {
            self.make_room(events);
        }
        let mut socket = self.sockets.remove(&number).unwrap_or_else(|| Socket {
            connection: Connection::new(transfer.client),
            pid,
            heard_ns: 0,
            acts: VecDeque::new(),
        });
        socket.heard_ns = time_ns;
        if socket.acts.len() >= MAX_ACTS {
            socket.acts.pop_front();
        }
        let Transfer { tid, sums, coroutine, length, head, tail, .. } = *transfer;
        let act = Act { time_ns, pid, tid, sums, coroutine };
        socket.acts.push_back(act);
        if !self.names.contains_key(&pid) {
            self.note_name(pid, comm_text(&transfer.comm));
        }
        let direction = if transfer.is_sent { Direction::Sent } else { Direction::Received };
        socket.connection.feed(&Segment { time_ns, direction, pid, tid, length, head, tail }, events);
        self.losses.lost_sync += std::mem::take(&mut socket.connection.lost_sync);
        self.follow(number, &socket, events);
        if socket.connection.is_http() {
            self.sockets.insert(number, socket);
        }
    }

    /// The half that was quiet for longest goes.
    fn make_room(&mut self, events: &mut Vec<LaneEvent>) {
        let mut heard: Vec<u64> = self.sockets.values().map(|socket| socket.heard_ns).collect();
        let middle = heard.len() / 2;
        let median = *heard.select_nth_unstable(middle).1;
        let quiet: Vec<u64> = self
            .sockets
            .iter()
            .filter(|(_, socket)| socket.heard_ns <= median)
            .map(|(key, _)| *key)
            .collect();
        for key in quiet {
            let Some(mut socket) = self.sockets.remove(&key) else { continue };
            self.losses.connections += 1;
            let heard_ns = socket.heard_ns;
            socket.connection.close(heard_ns, events);
            self.follow(key, &socket, events);
        }
    }

    /// What a connection's events mean for its requests.
    fn follow(&mut self, number: u64, socket: &Socket, events: &mut Vec<LaneEvent>) {
        let key = |request| RequestKey { socket: number, number: request };
        let act = |time_ns, tid| {
            let known = socket.acts.iter().rev().find(|act| act.time_ns == time_ns && act.tid == tid);
            known.copied().unwrap_or(Act { time_ns, pid: socket.pid, tid, ..Act::default() })
        };
        for event in events.drain(..) {
            match event {
                LaneEvent::Began { number, time_ns, tid, is_partial } => {
                    self.tracker.begin(key(number), act(time_ns, tid), is_partial);
                }
                LaneEvent::Named { number, attributes } => self.tracker.describe(key(number), attributes),
                LaneEvent::Read { .. } => {}
                LaneEvent::Written { number, time_ns, tid } => {
                    self.tracker.write(key(number), act(time_ns, tid));
                }
                LaneEvent::Ended { number, time_ns, status, attributes, .. } => {
                    let finished = self.tracker.end(key(number), time_ns, status, attributes);
                    self.keep(finished);
                }
            }
        }
    }

    fn keep(&mut self, finished: Option<Finished>) {
        let Some(finished) = finished else { return };
        self.count += 1;
        if self.finished.len() >= MAX_FINISHED {
            self.losses.requests += 1;
            return;
        }
        let process = self.process_name(finished.pid).unwrap_or("?").to_owned();
        self.finished.push_back((finished, process));
    }

    /// The frames of a stack, leaf first, of which `present` has those of now; `None`: they are forgotten.
    pub(super) fn frames_of<'a>(
        &'a self,
        present: &'a Capture,
        at: StackAt,
    ) -> Option<impl Iterator<Item = RawFrame> + use<'a>> {
        let retired = self.retired.iter().find(|(epoch, _)| *epoch == at.epoch).map(|(_, capture)| capture);
        Some(retired.or((at.epoch == self.epoch).then_some(present))?.frames_of(at.stack))
    }

    /// Transfers were lost, so what is known of connections may be wrong: all begin anew with their next request, and
    /// requests in flight are not told.
    pub(super) fn begin_anew(&mut self) {
        self.losses.requests += self.tracker.in_flight().count() as u64;
        self.losses.connections += self.sockets.len() as u64;
        self.sockets.clear();
        self.tracker.begin_anew();
    }

    /// From here on stacks are in a new capture; `old` is kept for as long as there is room.
    pub(super) fn retire(&mut self, old: Capture) {
        self.retired.push_back((self.epoch, old));
        self.epoch += 1;
        if self.retired.len() > MAX_RETIRED {
            self.retired.pop_front();
        }
        let oldest = self.retired.front().map_or(self.epoch, |(epoch, _)| *epoch);
        self.timeline.forget_stacks(|at| at.epoch < oldest);
    }

    /// A process is gone: what it had not answered has failed.
    pub(super) fn bury(&mut self, pid: u32) {
        self.sockets.retain(|_, socket| socket.pid != pid);
        let now_ns = monotonic_ns();
        for key in self.tracker.bury(pid) {
            let attributes = Attributes::from([("error.type".into(), "process_ended".into())]);
            let finished = self.tracker.end(key, now_ns, RequestStatus::Error, attributes);
            self.keep(finished);
        }
        self.names.remove(&pid);
        self.errands.bury(pid);
    }

    /// The next request that ended before `until_ns`, and the name of its process: what belongs to it is all there by
    /// then.
    pub(super) fn next_finished(&mut self, until_ns: u64) -> Option<(Finished, String)> {
        let is_due = self.finished.front().is_some_and(|(finished, _)| finished.ended_ns <= until_ns);
        is_due.then(|| self.finished.pop_front()).flatten()
    }

    /// How many requests wait to be judged.
    pub(super) fn waiting(&self) -> usize {
        self.finished.len()
    }

    /// Whether any request waits to be judged, or is in flight.
    pub(super) fn is_busy(&self) -> bool {
        !self.finished.is_empty() || self.tracker.busy().next().is_some()
    }
}
