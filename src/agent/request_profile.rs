//! The profile of one request: what its thread did in its span, weighed so that the sum is the request's time.

use std::collections::{BTreeMap, HashMap};

use super::capture::{Capture, CaughtStack, RawFrame, Tally, WaitFrame};
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
}

impl<'a> RequestProfile<'a> {
    /// ThreadSums `moments` of the responder, whose frames `frames_of` tells, leaf first; `None`: they are gone.
    pub(super) fn new<'m, F: Iterator<Item = RawFrame>>(
        root: &'a Root,
        moments: impl Iterator<Item = &'m Moment<StackAt>>,
        frames_of: impl Fn(&StackAt) -> Option<F>,
    ) -> Self {
        let (told, shared) = (HashMap::new(), HashMap::new());
        let mut profile = Self { root, capture: Capture::default(), told, shared };
        for moment in moments {
            let Some(frames) = frames_of(&moment.stack) else { continue };
            let mut frames: Vec<RawFrame> = frames.collect();
            frames.reverse();
            let StackAt { stack, .. } = moment.stack;
            let empty = CaughtStack::empty(stack.outcome, stack.holds_gil);
            let stack = profile.capture.extend(empty, frames.into_iter());
            profile.add(moment, stack);
        }
        profile
    }

    fn add(&mut self, moment: &Moment<StackAt>, stack: CaughtStack) {
        let Moment { state, measure, count, weight, at_ns, .. } = *moment;
        if measure == Measure::Share {
            *self.shared.entry(state).or_default().entry(stack).or_default() += weight;
            return;
        }
        if measure == Measure::Exact {
            *self.told.entry(state).or_default() += weight;
        }
        self.capture.add(self.root, stack, state, Tally { count, weight_ns: weight, at_ns });
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
            if self.spread(states, thin_ns) {
                rest_ns -= thin_ns;
            }
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
            self.capture.add(self.root, stack, state, Tally { count: 1, weight_ns, at_ns: 0 });
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
        self.capture.add(self.root, stack, state, Tally { count: 1, weight_ns, at_ns: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits that were told count as they are, whatever the sums say; the rest is divided, and nothing is left over.
    #[test]
    fn time_adds_up_whatever_sums_say() {
        let root = Root::default();
        for (run_ns, queue_ns, short_blocked_ns) in
            [(0, 0, 0), (50, 10, 7), (400, 300, 90), (u64::MAX, u64::MAX, 1)]
        {
            let told = HashMap::from([(ThreadState::Queued, 20), (ThreadState::Gil, 30)]);
            let (capture, shared) = (Capture::default(), HashMap::new());
            let mut profile = RequestProfile { root: &root, capture, told, shared };
            let sums = ThreadSums { run_ns, queue_ns, short_blocked_ns, ..ThreadSums::default() };
            let span = Some(Span { tid: 1, from_ns: 110, to_ns: 300, sums });
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
