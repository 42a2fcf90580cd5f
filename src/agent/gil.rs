//! Who held Python's lock while others waited for it.
//!
//! ```text
//!   A holds it           B holds it        C …
//! ──────────────┬──────────────────┬─────────►
//!            A wakes B          B wakes C          a handover each
//!        └───── C waits ──────────┘
//!          for A  │   for B
//! ```
//!
//! Who gives the lock up wakes one of those who wait, and is in the function in which it held it. So between
//! two handovers the lock was held by who gave it up at the second.
//!
//! Nobody is woken when all who want the lock are between two retries. Then it was held by whom the interpreter
//! named at the end of the retry, in the function in which that one was then.

use std::collections::VecDeque;

use super::capture::{Capture, CaughtStack, RawFrame, Tally, WaitFrame};
use crate::model::{Root, ThreadState};
use crate::sys::wait_record::WaitRecord;

/// Handovers remembered in a process: three seconds of the busiest that was seen. What was waited before the
/// oldest was for an unknown holder.
const MAX_HANDOVERS: usize = 1 << 14;
/// Parts of one wait, 5 ms each; one that takes longer is settled in between.
const MAX_PARTS: usize = 1 << 10;
/// Of all processes; what finds no room has an unknown holder.
const MAX_UNSETTLED: usize = 1 << 16;

/// A thread gives up the lock and wakes another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handover {
    /// `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Which one.
    pub tid: u32,
    /// The same, among the waits' threads.
    pub holder: u32,
    /// The Python function that it was in.
    pub function: Option<RawFrame>,
}

/// Those of a process, ascending by time.
#[derive(Debug, Default)]
pub(super) struct Handovers {
    all: VecDeque<Handover>,
    /// Those up to then are forgotten.
    forgotten_ns: u64,
}

impl Handovers {
    /// Adds one. It may be microseconds before the last.
    pub(super) fn push(&mut self, handover: Handover) {
        let at = self.all.iter().rposition(|known| known.time_ns <= handover.time_ns).map_or(0, |at| at + 1);
        self.all.insert(at, handover);
        if self.all.len() > MAX_HANDOVERS {
            self.forgotten_ns = self.all.pop_front().map_or(0, |oldest| oldest.time_ns);
        }
    }

    /// Cuts the time from `start_ns` to `end_ns` into pieces of one holder each: how long, and the handover by which
    /// it ended; `None` where that is not known.
    fn cut(&self, start_ns: u64, end_ns: u64) -> Vec<(u64, Option<Handover>)> {
        let mut pieces = Vec::new();
        let mut at_ns = start_ns;
        if at_ns < self.forgotten_ns {
            let until_ns = self.forgotten_ns.min(end_ns);
            pieces.push((until_ns - at_ns, None));
            at_ns = until_ns;
        }
        let first = self.all.partition_point(|handover| handover.time_ns <= at_ns);
        for handover in self.all.range(first..) {
            if at_ns >= end_ns {
                break;
            }
            let until_ns = handover.time_ns.min(end_ns);
            pieces.push((until_ns - at_ns, Some(*handover)));
            at_ns = until_ns;
        }
        if at_ns < end_ns {
            pieces.push((end_ns - at_ns, None));
        }
        pieces
    }

    /// Who held the lock in the wait of `record`, which is over: frames, and how long.
    pub(super) fn holders(
        &self,
        record: &WaitRecord<'_>,
    ) -> Vec<(impl Iterator<Item = RawFrame> + use<>, u64)> {
        let pieces = self.cut(record.began_ns, record.began_ns.saturating_add(record.blocked_ns));
        let held = |(ns, handover): (u64, Option<Handover>)| {
            let handover = handover.filter(|handover| handover.tid != record.tid);
            (held_frames(handover.map(|known| (known.holder, known.function))), ns)
        };
        pieces.into_iter().map(held).collect()
    }
}

/// A part of a wait for the lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// `CLOCK_MONOTONIC`.
    pub began_ns: u64,
    /// How long.
    pub blocked_ns: u64,
    /// Thread pointer of who had the lock at its end, and its Python function.
    pub holder: Option<(u64, Option<RawFrame>)>,
}

/// A thread's wait for the lock, as far as it has come.
#[derive(Debug)]
pub(super) struct GilWait {
    /// Whose.
    pub root: Root,
    /// The same.
    tid: u32,
    /// What it wants the lock for.
    pub user: CaughtStack,
    /// In which coroutine.
    pub coroutine: Option<u64>,
    parts: Vec<Part>,
}

/// Some of a wait that no handover ended.
#[derive(Debug)]
pub(super) struct Unsettled {
    root: Root,
    user: CaughtStack,
    /// Process and thread that waited.
    waiter: (u32, u32),
    holder: (u64, Option<RawFrame>),
    tally: Tally,
}

impl GilWait {
    /// One that has no part yet.
    pub(super) fn new(root: Root, tid: u32, user: CaughtStack, coroutine: Option<u64>) -> Self {
        Self { root, tid, user, coroutine, parts: Vec::new() }
    }

    /// Adds a part.
    pub(super) fn add(&mut self, part: Part) {
        self.parts.push(part);
    }

    /// Whether it is time to settle it.
    pub(super) fn is_full(&self) -> bool {
        self.parts.len() >= MAX_PARTS
    }

    /// Adds the parts so far to `capture`, each for who held the lock; what no handover ends to `unsettled`. One by the
    /// thread itself is a later one: how it got the lock before that was not told.
    pub(super) fn settle(
        &mut self,
        pid: u32,
        handovers: &Handovers,
        unsettled: &mut Vec<Unsettled>,
        capture: &mut Capture,
    ) {
        // Its retries are one wait.
        let mut count = 1;
        for part in self.parts.drain(..) {
            let end_ns = part.began_ns.saturating_add(part.blocked_ns);
            for (weight_ns, handover) in handovers.cut(part.began_ns, end_ns) {
                let tally = Tally { count, weight_ns, at_ns: part.began_ns, coroutine: self.coroutine };
                count = 0;
                match handover.filter(|handover| handover.tid != self.tid) {
                    Some(Handover { holder, function, .. }) => {
                        add_held(&self.root, self.user, Some((holder, function)), tally, capture);
                    }
                    None => match part.holder.filter(|_| unsettled.len() < MAX_UNSETTLED) {
                        Some(holder) => {
                            let (root, user, waiter) = (self.root.clone(), self.user, (pid, self.tid));
                            unsettled.push(Unsettled { root, user, waiter, holder, tally });
                        }
                        None => add_held(&self.root, self.user, None, tally, capture),
                    },
                }
            }
        }
    }
}

impl Unsettled {
    /// Adds it to `capture`. `thread_of` finds a thread by process and thread pointer and gives its id, `number_of` its
    /// number among the waits' threads. Who waits does not have the lock: where it seems so, it had it last.
    pub(super) fn settle(
        self,
        thread_of: impl FnOnce(u32, u64) -> Option<u32>,
        number_of: impl FnOnce(u32, u32) -> u32,
        capture: &mut Capture,
    ) {
        let ((pid, waiter), (pointer, function)) = (self.waiter, self.holder);
        let holder = thread_of(pid, pointer).filter(|tid| *tid != waiter);
        let holder = holder.map(|tid| (number_of(pid, tid), function));
        add_held(&self.root, self.user, holder, self.tally, capture);
    }
}

/// What stands above the user's part of a wait for the lock: the holder among the waits' threads and its function, where
/// they are known.
fn held_frames(holder: Option<(u32, Option<RawFrame>)>) -> impl Iterator<Item = RawFrame> {
    let by = holder.map_or(WaitFrame::HeldByUnknown, |(holder, _)| WaitFrame::HeldBy(holder));
    let function = holder.and_then(|(_, function)| function);
    [WaitFrame::Gil, by].map(RawFrame::Wait).into_iter().chain(function)
}

fn add_held(
    root: &Root,
    user: CaughtStack,
    holder: Option<(u32, Option<RawFrame>)>,
    tally: Tally,
    capture: &mut Capture,
) {
    let stack = capture.extend(user, held_frames(holder));
    capture.add(root, stack, ThreadState::Gil, tally);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::wait_record::{WaitObject, WaitPart};

    fn handovers(times: &[(u64, u32)]) -> Handovers {
        let mut handovers = Handovers::default();
        for (time_ns, holder) in times {
            handovers.push(Handover { time_ns: *time_ns, tid: *holder, holder: *holder, function: None });
        }
        handovers
    }

    fn cut(handovers: &Handovers, start_ns: u64, end_ns: u64) -> Vec<(u64, Option<u32>)> {
        let pieces = handovers.cut(start_ns, end_ns).into_iter();
        pieces.map(|(ns, handover)| (ns, handover.map(|handover| handover.holder))).collect()
    }

    /// Each piece belongs to who gave the lock up at its end; what no handover ends, to nobody.
    #[test]
    fn waits_are_cut_by_who_held_the_lock() {
        let handovers = handovers(&[(10, 1), (30, 3), (20, 2)]);
        assert_eq!(cut(&handovers, 5, 30), [(5, Some(1)), (10, Some(2)), (10, Some(3))]);
        assert_eq!(cut(&handovers, 10, 15), [(5, Some(2))]);
        assert_eq!(cut(&handovers, 25, 40), [(5, Some(3)), (10, None)]);
        assert_eq!(cut(&handovers, 40, 50), [(10, None)]);
        assert_eq!(cut(&handovers, 20, 20), []);
    }

    /// A wait that stands for others is told for each who held the lock in it, but not for the thread that waited.
    #[test]
    fn sampled_waits_tell_their_holders() {
        let handovers = handovers(&[(10, 1), (20, 2), (30, 3)]);
        let record = WaitRecord {
            time_ns: 40,
            pid: 1,
            tid: 2,
            sequence: 1,
            began_ns: 5,
            blocked_ns: 25,
            queue_ns: 4,
            run_sum_ns: 0,
            queue_sum_ns: 4,
            stands_for_ns: 0,
            call: None,
            argument: 0,
            object: WaitObject::default(),
            is_sampled: true,
            is_gil: true,
            holder: None,
            waker: None,
            tells_waker: false,
            part: WaitPart::More,
        };
        let held = |by| vec![RawFrame::Wait(WaitFrame::Gil), RawFrame::Wait(by)];
        let holders: Vec<_> = handovers
            .holders(&record)
            .into_iter()
            .map(|(frames, ns)| (frames.collect::<Vec<_>>(), ns))
            .collect();
        assert_eq!(
            holders,
            [
                (held(WaitFrame::HeldBy(1)), 5),
                (held(WaitFrame::HeldByUnknown), 10),
                (held(WaitFrame::HeldBy(3)), 10)
            ]
        );
    }

    /// Handovers are bounded; what was waited before the oldest that is known has no holder.
    #[test]
    fn forgotten_handovers_are_unknown_holders() {
        let times: Vec<(u64, u32)> = (0..=MAX_HANDOVERS as u64).map(|n| (100 + n, 7)).collect();
        let handovers = handovers(&times);
        assert_eq!(cut(&handovers, 90, 101), [(10, None), (1, Some(7))]);
    }
}
