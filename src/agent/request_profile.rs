//! The profile of one request: what its thread did in its span, weighed so that the sum is the request's time.
//!
//! Of a coroutine, what its thread did while it was the outermost one; when that began and ended is not known, so what it
//! ran for is its part of the thread's samples. The rest of the request's time it did not run.

use std::collections::{BTreeMap, HashMap};

use super::capture::{Capture, CaughtStack, RawFrame, Tally, WaitFrame};
use super::offspring::{Offspring, OffspringLosses};
use super::requests::StackAt;
use super::shares::shares;
use crate::model::{Outcome, Request, Root, ThreadState, ThreadSums};
use crate::transaction::timeline::{Measure, Moment};
use crate::transaction::tracker::{Finished, Span};

/// Stacks that share a time, and their parts of it.
type Parts = BTreeMap<CaughtStack, u64>;

/// States of a thread that waits for a CPU, and for something else.
const QUEUED: [ThreadState; 1] = [ThreadState::Queued];
const BLOCKED: [ThreadState; 2] = [ThreadState::Blocked, ThreadState::Gil];

/// A request's profile in the making.
pub(super) struct RequestProfile<'a> {
    root: &'a Root,
    pub capture: Capture,
    /// Time in stacks that waits have for themselves, by state.
    told: HashMap<ThreadState, u64>,
    shared: HashMap<ThreadState, Parts>,
    /// What the thread did for other coroutines, or for none.
    others: Others,
    offspring: Offspring,
    /// What that did while the coroutine awaited it: stacks, and how long.
    awaited: Vec<(CaughtStack, u64)>,
}

/// Whose time a profile is of.
pub(super) struct Whose<'a> {
    /// The responder.
    pub root: &'a Root,
    /// Of that, this coroutine alone.
    pub coroutine: Option<u64>,
    /// Threads that it made or gave work to, for which it waited.
    pub offspring: Offspring,
}

/// Of a thread's time, what another coroutine than the request's had, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Others {
    /// Of its samples.
    tick_ns: u64,
    /// Of the waits that share a time.
    share: u64,
    /// Waits in no coroutine: nothing was to be run.
    idle_ns: u64,
    /// Of these, the time in which other threads worked for the request's.
    awaiting_ns: u64,
}

impl Others {
    fn add(&mut self, moment: &Moment<StackAt>, offspring: &Offspring) {
        let sum = match (moment.measure, moment.state) {
            (Measure::Tick, _) => &mut self.tick_ns,
            (Measure::Share, _) => &mut self.share,
            (Measure::Exact, ThreadState::Blocked) if moment.coroutine.is_none() => {
                let ended_ns = moment.at_ns.saturating_add(moment.weight);
                self.awaiting_ns += offspring.overlap_ns(moment.at_ns, ended_ns);
                &mut self.idle_ns
            }
            (Measure::Exact, _) => return,
        };
        *sum = sum.saturating_add(moment.weight);
    }
}

impl<'a> RequestProfile<'a> {
    /// Sums `moments` of the responder, whose frames `frames_of` tells, leaf first; `None`: they are gone.
    pub(super) fn new<'m, F: Iterator<Item = RawFrame>>(
        whose: Whose<'a>,
        moments: impl Iterator<Item = &'m Moment<StackAt>>,
        frames_of: impl Fn(&StackAt) -> Option<F>,
    ) -> Self {
        let Whose { root, coroutine, offspring } = whose;
        let (told, shared, others) = (HashMap::new(), HashMap::new(), Others::default());
        let (capture, awaited) = (Capture::default(), Vec::new());
        let mut profile = Self { root, capture, told, shared, others, offspring, awaited };
        for moment in moments {
            if coroutine.is_some() && moment.coroutine != coroutine {
                profile.others.add(moment, &profile.offspring);
                continue;
            }
            let Some(frames) = frames_of(&moment.stack) else { continue };
            let mut frames: Vec<RawFrame> = frames.collect();
            frames.reverse();
            let StackAt { stack, .. } = moment.stack;
            let empty = CaughtStack::empty(stack.outcome, stack.holds_gil);
            let stack = profile.capture.extend(empty, frames.into_iter());
            let offspring_ns = match coroutine {
                Some(_) => 0,
                None => profile.add_offspring(moment, stack, &frames_of),
            };
            profile.add(moment, stack, offspring_ns);
        }
        if coroutine.is_some() {
            profile.note_awaited(&frames_of);
        }
        profile
    }

    /// Takes note of what offspring did, below the coroutine's awaiting.
    fn note_awaited<F: Iterator<Item = RawFrame>>(&mut self, frames_of: impl Fn(&StackAt) -> Option<F>) {
        let awaiting = CaughtStack::empty(Outcome::Complete, false);
        let idle = std::iter::once(RawFrame::Wait(WaitFrame::LoopIdle));
        let awaiting = self.capture.extend(awaiting, idle);
        for (thread, at, weight_ns) in self.offspring.all() {
            let Some(frames) = frames_of(&at) else { continue };
            let stack = self.extend_worked(awaiting, thread, frames);
            self.awaited.push((stack, weight_ns));
        }
    }

    /// `stack` with what one of the waits' threads did below it, whose frames are told leaf first.
    fn extend_worked(
        &mut self,
        stack: CaughtStack,
        thread: u32,
        frames: impl Iterator<Item = RawFrame>,
    ) -> CaughtStack {
        let mut frames: Vec<RawFrame> = frames.collect();
        frames.push(RawFrame::Wait(WaitFrame::WorkedBy(thread)));
        self.capture.extend(stack, frames.into_iter().rev())
    }

    /// Adds what offspring did in the wait `moment`, below its `stack`. Returns how much of it that was.
    fn add_offspring<F: Iterator<Item = RawFrame>>(
        &mut self,
        moment: &Moment<StackAt>,
        stack: CaughtStack,
        frames_of: impl Fn(&StackAt) -> Option<F>,
    ) -> u64 {
        if (moment.measure, moment.state) != (Measure::Exact, ThreadState::Blocked) {
            return 0;
        }
        let mut sum_ns = 0;
        let to_ns = moment.at_ns.saturating_add(moment.weight);
        for (thread, at, weight_ns) in self.offspring.during(moment.at_ns, to_ns) {
            let Some(frames) = frames_of(&at) else { continue };
            let stack = self.extend_worked(stack, thread, frames);
            let tally = Tally { count: 1, weight_ns, ..Tally::default() };
            self.capture.add(self.root, stack, moment.state, tally);
            sum_ns += weight_ns;
        }
        sum_ns
    }

    /// Adds `moment`, of which `told_ns` is there already.
    fn add(&mut self, moment: &Moment<StackAt>, stack: CaughtStack, told_ns: u64) {
        let Moment { state, measure, count, weight, .. } = *moment;
        if measure == Measure::Share {
            *self.shared.entry(state).or_default().entry(stack).or_default() += weight;
            return;
        }
        if measure == Measure::Exact {
            *self.told.entry(state).or_default() += weight;
        }
        let weight_ns = weight.saturating_sub(told_ns);
        if weight_ns > 0 {
            self.capture.add(self.root, stack, state, Tally { count, weight_ns, ..Tally::default() });
        }
    }

    /// What of other threads' work is not told.
    pub(super) fn offspring_losses(&self) -> OffspringLosses {
        self.offspring.losses
    }

    /// Adds what has no stack and weighs what ran, so that the sum is the time of `finished`; tells `request` where
    /// that went.
    pub(super) fn complete(&mut self, finished: &Finished, request: &mut Request) {
        let latency_ns = finished.ended_ns.saturating_sub(finished.began_ns);
        request.duration_ns = latency_ns;
        let Some(span) = finished.span else {
            return self.add_bare(WaitFrame::NobodyKnown, ThreadState::Blocked, latency_ns);
        };
        let handover_ns = span.from_ns.saturating_sub(finished.began_ns);
        self.add_bare(WaitFrame::HandedOver, ThreadState::Blocked, handover_ns);
        if span.coroutine.is_some() {
            return self.complete_coroutine(&span, handover_ns, request);
        }
        let span_ns = span.to_ns.saturating_sub(span.from_ns);
        // Waits that were told are certain; where the span begins within a time that sums tell, those may be too much.
        let (told_queue_ns, told_blocked_ns) = (self.told_ns(&QUEUED), self.told_ns(&BLOCKED));
        let told_ns = told_queue_ns.saturating_add(told_blocked_ns);
        let run_ns = span.sums.run_ns.min(span_ns.saturating_sub(told_ns));
        let left_ns = (span_ns - run_ns).saturating_sub(told_blocked_ns);
        let queue_ns = span.sums.queue_ns.max(told_queue_ns).min(left_ns);
        // Where a span begins with the end of a wait this was not told.
        let blocked_ns = span_ns - run_ns - queue_ns;
        self.add_waits(&span, queue_ns, blocked_ns);
        self.weigh_running(run_ns);
        request.run_ns = run_ns;
        request.queue_ns = queue_ns;
        request.gil_ns = self.told.get(&ThreadState::Gil).copied().unwrap_or(0).min(blocked_ns);
        request.blocked_ns = blocked_ns - request.gil_ns + handover_ns;
    }

    /// As [`Self::complete`] of a coroutine's span: what it had of the thread, and that it had nothing else.
    fn complete_coroutine(&mut self, span: &Span, handover_ns: u64, request: &mut Request) {
        let span_ns = span.to_ns.saturating_sub(span.from_ns);
        let (told_queue_ns, told_blocked_ns) = (self.told_ns(&QUEUED), self.told_ns(&BLOCKED));
        let mut rest_ns = span_ns.saturating_sub(told_queue_ns.saturating_add(told_blocked_ns));
        let ticks = self.capture.samples().filter(|sum| sum.state == ThreadState::Running);
        let tick_ns = ticks.fold(0, |sum: u64, tick| sum.saturating_add(tick.tally.weight_ns));
        let run_ns = part(span.sums.run_ns, tick_ns, self.others.tick_ns).min(rest_ns);
        rest_ns -= run_ns;
        let own: u64 = self.shared.values().flat_map(BTreeMap::values).sum();
        let thin_ns = span.sums.thin_queue_ns.saturating_add(span.sums.thin_blocked_ns);
        let thin_ns = part(thin_ns, own, self.others.share).min(rest_ns);
        if self.spread(&[ThreadState::Queued, ThreadState::Blocked, ThreadState::Gil], thin_ns) {
            rest_ns -= thin_ns;
        }
        self.weigh_running(run_ns);
        let awaited_ns = self.add_awaited(rest_ns);
        rest_ns -= awaited_ns;
        // Where both were so, the one is told as the other.
        let idle_ns = self.others.idle_ns - self.others.awaiting_ns.min(awaited_ns);
        let idle_ns = idle_ns.min(rest_ns);
        self.add_bare(WaitFrame::LoopIdle, ThreadState::Blocked, idle_ns);
        self.add_bare(WaitFrame::LoopBusy, ThreadState::Blocked, rest_ns - idle_ns);
        request.run_ns = run_ns;
        request.queue_ns = told_queue_ns.min(span_ns - run_ns);
        let blocked_ns = span_ns - run_ns - request.queue_ns;
        request.gil_ns = self.told.get(&ThreadState::Gil).copied().unwrap_or(0).min(blocked_ns);
        request.blocked_ns = blocked_ns - request.gil_ns + handover_ns;
    }

    /// Adds what offspring did while the coroutine awaited it, of which it did nothing else for `rest_ns`. Returns how much
    /// it was.
    fn add_awaited(&mut self, rest_ns: u64) -> u64 {
        let awaited = std::mem::take(&mut self.awaited);
        let mut times: Vec<u64> = awaited.iter().map(|(_, weight_ns)| *weight_ns).collect();
        if times.iter().fold(0, |sum: u64, ns| sum.saturating_add(*ns)) > rest_ns {
            times = shares(&times, rest_ns).unwrap_or_default();
        }
        let mut sum_ns = 0;
        for ((stack, _), weight_ns) in awaited.into_iter().zip(times).filter(|(_, weight_ns)| *weight_ns > 0)
        {
            let tally = Tally { count: 1, weight_ns, ..Tally::default() };
            self.capture.add(self.root, stack, ThreadState::Blocked, tally);
            sum_ns += weight_ns;
        }
        sum_ns
    }

    /// Time of waits in `states` that have stacks for themselves.
    fn told_ns(&self, states: &[ThreadState]) -> u64 {
        states.iter().filter_map(|state| self.told.get(state)).fold(0, |sum, ns| sum.saturating_add(*ns))
    }

    fn add_waits(&mut self, span: &Span, queue_ns: u64, blocked_ns: u64) {
        let ThreadSums { thin_queue_ns, thin_blocked_ns, short_queue_ns, short_blocked_ns, .. } = span.sums;
        for (states, wait_ns, thin_ns, short_ns) in [
            (&QUEUED[..], queue_ns, thin_queue_ns, short_queue_ns),
            (&BLOCKED, blocked_ns, thin_blocked_ns, short_blocked_ns),
        ] {
            let mut rest_ns = wait_ns.saturating_sub(self.told_ns(states));
            let thin_ns = thin_ns.min(rest_ns);
            if !self.spread(states, thin_ns) {
                self.add_bare(WaitFrame::Unsampled, states[0], thin_ns);
            }
            rest_ns -= thin_ns;
            let short_ns = short_ns.min(rest_ns);
            self.add_bare(WaitFrame::Short, states[0], short_ns);
            self.add_bare(WaitFrame::Bare, states[0], rest_ns - short_ns);
        }
    }

    /// Divides `wanted` among the stacks that waits in `states` share. `false` where there are none.
    fn spread(&mut self, states: &[ThreadState], wanted: u64) -> bool {
        let parts: Vec<(ThreadState, CaughtStack, u64)> = states
            .iter()
            .filter_map(|state| self.shared.get(state).map(|parts| (*state, parts)))
            .flat_map(|(state, parts)| parts.iter().map(move |(stack, part)| (state, *stack, *part)))
            .collect();
        let weights: Vec<u64> = parts.iter().map(|(_, _, part)| *part).collect();
        let Some(shares) = shares(&weights, wanted) else { return false };
        for ((state, stack, _), weight_ns) in parts.into_iter().zip(shares) {
            self.capture.add(self.root, stack, state, Tally { count: 1, weight_ns, ..Tally::default() });
        }
        true
    }

    fn weigh_running(&mut self, run_ns: u64) {
        let Some(thread) = &self.root.thread else { return };
        let weights = HashMap::from([((thread.pid, thread.tid), run_ns)]);
        if self.capture.weigh(&weights).is_empty() {
            self.add_bare(WaitFrame::NotSampled, ThreadState::Running, run_ns);
        }
    }

    fn add_bare(&mut self, frame: WaitFrame, state: ThreadState, weight_ns: u64) {
        if weight_ns == 0 {
            return;
        }
        let stack = CaughtStack::empty(Outcome::Complete, false);
        let stack = self.capture.extend(stack, std::iter::once(RawFrame::Wait(frame)));
        self.capture.add(self.root, stack, state, Tally { count: 1, weight_ns, ..Tally::default() });
    }
}

/// The part of `whole` that `own` has beside `other`.
fn part(whole: u64, own: u64, other: u64) -> u64 {
    shares(&[own, other], whole).map_or(0, |shares| shares[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::offspring::Work;
    use crate::model::profile::ThreadRoot;
    use crate::transaction::timeline::Timeline;

    /// A coroutine has its samples' part of the thread's run time and its own waits; the rest it awaited, as far as the
    /// thread waited in none, or waited for its turn. All is the request's time.
    #[test]
    fn coroutine_has_its_part_of_the_thread() {
        let thread = ThreadRoot { name: "t".to_owned(), pid: 1, tid: 1 };
        let root = Root { process: "p".to_owned(), thread: Some(thread) };
        let stack = StackAt { epoch: 0, stack: CaughtStack::empty(Outcome::Complete, false) };
        let moment = |coroutine, state, measure, weight| Moment {
            at_ns: 150,
            state,
            measure,
            stack,
            coroutine,
            count: 1,
            weight,
        };
        let (running, blocked) = (ThreadState::Running, ThreadState::Blocked);
        let moments = [
            moment(Some(7), running, Measure::Tick, 10),
            moment(Some(8), running, Measure::Tick, 20),
            moment(None, running, Measure::Tick, 10),
            moment(Some(7), blocked, Measure::Exact, 50),
            moment(Some(8), blocked, Measure::Exact, 60),
            moment(None, blocked, Measure::Exact, 70),
        ];
        let frames = |_: &StackAt| Some(std::iter::once(RawFrame::Unknown));
        let mut profile = RequestProfile::new(
            Whose { root: &root, coroutine: Some(7), offspring: Offspring::default() },
            moments.iter(),
            frames,
        );
        let sums = ThreadSums { run_ns: 80, ..ThreadSums::default() };
        let span = Span { tid: 1, from_ns: 100, to_ns: 400, sums, coroutine: Some(7) };
        let finished = Finished { began_ns: 100, ended_ns: 400, span: Some(span), ..Finished::default() };
        let mut request = Request::default();
        profile.complete(&finished, &mut request);
        assert_eq!((request.run_ns, request.blocked_ns, request.duration_ns), (20, 280, 300));
        let mut parts: Vec<u64> = profile.capture.samples().map(|sum| sum.tally.weight_ns).collect();
        parts.sort_unstable();
        assert_eq!(parts, [20, 50, 70, 160]);
    }

    /// What a thread did that the coroutine gave work stands below its awaiting, at most as long as it did nothing else; where
    /// the thread of both was idle meanwhile, this is told only once. All is the request's time.
    #[test]
    fn coroutine_awaits_what_it_gave() {
        let thread = ThreadRoot { name: "t".to_owned(), pid: 1, tid: 1 };
        let root = Root { process: "p".to_owned(), thread: Some(thread) };
        let stack = StackAt { epoch: 0, stack: CaughtStack::empty(Outcome::Complete, false) };
        let moment = |at_ns, state, measure, weight| Moment {
            at_ns,
            state,
            measure,
            stack,
            coroutine: None,
            count: 1,
            weight,
        };
        let (running, blocked) = (ThreadState::Running, ThreadState::Blocked);
        for (slept_ns, expected) in [(60, [70, 30, 200]), (900, [210, 30, 60])] {
            let mut timeline = Timeline::new(1 << 16);
            timeline.push(9, moment(130, blocked, Measure::Exact, slept_ns));
            timeline.push(9, moment(200, running, Measure::Tick, 10));
            let works = vec![Work { thread: 0, tid: 9, from_ns: 120, to_ns: 330 }];
            let offspring = Offspring::new(works, &timeline);
            // The loop was idle for 90, of which 30 before there was work.
            let moments = [moment(90, blocked, Measure::Exact, 30), moment(130, blocked, Measure::Exact, 60)];
            let frames = |_: &StackAt| Some(std::iter::once(RawFrame::Unknown));
            let whose = Whose { root: &root, coroutine: Some(7), offspring };
            let mut profile = RequestProfile::new(whose, moments.iter(), frames);
            let span = Span { tid: 1, from_ns: 100, to_ns: 400, coroutine: Some(7), ..Span::default() };
            let finished = Finished { began_ns: 100, ended_ns: 400, span: Some(span), ..Finished::default() };
            let mut request = Request::default();
            profile.complete(&finished, &mut request);
            let frames = [WaitFrame::WorkedBy(0), WaitFrame::LoopIdle, WaitFrame::LoopBusy];
            let [worked, idle, busy] = frames.map(RawFrame::Wait);
            let told = [vec![RawFrame::Unknown, worked, idle], vec![idle], vec![busy]].map(|stack| -> u64 {
                let samples = profile.capture.samples();
                let same = samples.filter(|sum| profile.capture.stack(sum.node).eq(stack.iter().copied()));
                same.map(|sum| sum.tally.weight_ns).sum()
            });
            assert_eq!(told, expected);
            assert_eq!((request.blocked_ns, request.run_ns), (300, 0));
        }
    }

    /// Waits that were told count as they are, whatever the sums say; the rest is divided, and nothing is left over.
    #[test]
    fn time_adds_up_whatever_sums_say() {
        let root = Root::default();
        for (run_ns, queue_ns, short_blocked_ns) in
            [(0, 0, 0), (50, 10, 7), (400, 300, 90), (u64::MAX, u64::MAX, 1)]
        {
            let told = HashMap::from([(ThreadState::Queued, 20), (ThreadState::Gil, 30)]);
            let (capture, shared, others) = (Capture::default(), HashMap::new(), Others::default());
            let offspring = Offspring::default();
            let awaited = Vec::new();
            let mut profile =
                RequestProfile { root: &root, capture, told, shared, others, offspring, awaited };
            let sums = ThreadSums { run_ns, queue_ns, short_blocked_ns, ..ThreadSums::default() };
            let span = Some(Span { tid: 1, from_ns: 110, to_ns: 300, sums, coroutine: None });
            let finished = Finished { began_ns: 100, ended_ns: 300, span, ..Finished::default() };
            let mut request = Request::default();
            profile.complete(&finished, &mut request);
            let Request { run_ns, queue_ns, blocked_ns, gil_ns, .. } = request;
            assert_eq!(run_ns + queue_ns + blocked_ns + gil_ns, 200);
            assert_eq!((gil_ns, run_ns <= 140, queue_ns >= 20), (30, true, true));
            let bare: u64 = profile.capture.samples().map(|sum| sum.tally.weight_ns).sum();
            assert_eq!(bare + 20 + 30 + run_ns, 200);
        }
    }
}
