//! Threads that worked for a request beside its own, and what they did while that waited: those that it made, and those of
//! pools on its errands.
//!
//! ```text
//! responder  ── works ──┬─░░░░░░ waits for that ░░░░░░░░┬── works ──►
//! offspring             ╰──── works ─░ waits ░── works ───╯
//! ```
//!
//! The wait has its length; what the offspring did in it stands below, and where several did something at once each has its
//! part.

use super::requests::StackAt;
use super::shares::shares;
use crate::transaction::timeline::{Measure, Moment, Timeline};

/// Pieces of all of them, of a request, 48 bytes each; further ones are not told: of who
/// began last, what it did first.
const MAX_PIECES: usize = 1 << 16;
/// Times that a piece is held against a wait, some 2 ns each: 8 ms. Waits that come behind that are not taken apart.
const MAX_LOOKS: usize = 1 << 22;

/// The time in which one of them worked for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Work {
    /// Its number among the waits' threads.
    pub thread: u32,
    /// Which thread.
    pub tid: u32,
    /// `CLOCK_MONOTONIC`.
    pub from_ns: u64,
    /// On the same clock.
    pub to_ns: u64,
}

/// Something that one of them did.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Which of them.
    thread: u32,
    from_ns: u64,
    to_ns: u64,
    /// Of ticks, what each stands for; else the time is that between the two.
    tick_ns: Option<u64>,
    stack: StackAt,
}

impl Piece {
    fn new(work: &Work, moment: &Moment<StackAt>) -> Option<Self> {
        let Moment { at_ns, measure, weight, stack, .. } = *moment;
        let (length_ns, tick_ns) = match measure {
            Measure::Tick => (0, Some(weight)),
            Measure::Exact => (weight, None),
            Measure::Share => return None,
        };
        let to_ns = at_ns.saturating_add(length_ns).min(work.to_ns);
        Some(Self { thread: work.thread, from_ns: at_ns, to_ns, tick_ns, stack })
    }

    /// How much of it lies between `from_ns` and `to_ns`.
    fn within(&self, from_ns: u64, to_ns: u64) -> u64 {
        match self.tick_ns {
            Some(tick_ns) if (from_ns..to_ns).contains(&self.from_ns) => tick_ns,
            Some(_) => 0,
            None => self.to_ns.min(to_ns).saturating_sub(self.from_ns.max(from_ns)),
        }
    }
}

/// What of them is not told, of one request or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OffspringLosses {
    /// Pieces that found no room.
    pub pieces: u64,
    /// Waits that were not taken apart.
    pub waits: u64,
}

impl OffspringLosses {
    /// Adds those of one more request.
    pub(super) fn add(&mut self, more: Self) {
        self.pieces += more.pieces;
        self.waits += more.waits;
    }
}

/// All of them, of one request.
#[derive(Debug, Default)]
pub(super) struct Offspring {
    pieces: Vec<Piece>,
    /// What is not told of it so far.
    pub losses: OffspringLosses,
    /// The times in which at least one of them worked, ascending.
    stretches: Vec<(u64, u64)>,
    looks: usize,
}

impl Offspring {
    /// What was done in `works` by `timeline`.
    pub(super) fn new(mut works: Vec<Work>, timeline: &Timeline<StackAt>) -> Self {
        works.sort_unstable_by_key(|work| work.from_ns);
        let mut stretches: Vec<(u64, u64)> = Vec::new();
        for work in &works {
            match stretches.last_mut() {
                Some((_, to_ns)) if work.from_ns <= *to_ns => *to_ns = work.to_ns.max(*to_ns),
                _ => stretches.push((work.from_ns, work.to_ns)),
            }
        }
        let of_work = |work: Work| {
            let moments = timeline.between(work.tid, work.from_ns, work.to_ns);
            moments.filter_map(move |moment| Piece::new(&work, moment))
        };
        let mut all = works.into_iter().flat_map(of_work);
        let pieces = all.by_ref().take(MAX_PIECES).collect();
        let losses = OffspringLosses { pieces: all.count() as u64, waits: 0 };
        Self { pieces, losses, stretches, looks: 0 }
    }

    /// What they did at all: thread, stack and nanoseconds, together at most as long as at least one of them worked.
    pub(super) fn all(&mut self) -> Vec<(u32, StackAt, u64)> {
        let stretches = self.stretches.clone();
        stretches.into_iter().flat_map(|(from_ns, to_ns)| self.during(from_ns, to_ns)).collect()
    }

    /// How much of the time between `from_ns` and `to_ns` at least one of them worked.
    pub(super) fn overlap_ns(&self, from_ns: u64, to_ns: u64) -> u64 {
        let first = self.stretches.partition_point(|(_, ended_ns)| *ended_ns <= from_ns);
        let within = self.stretches[first..].iter().take_while(|(began_ns, _)| *began_ns < to_ns);
        within.map(|(began_ns, ended_ns)| ended_ns.min(&to_ns).saturating_sub(*began_ns.max(&from_ns))).sum()
    }

    /// What they did in a wait of the responder: thread, stack and nanoseconds, together at most as long as the wait. Nothing
    /// of a wait that counts as lost.
    pub(super) fn during(&mut self, from_ns: u64, to_ns: u64) -> Vec<(u32, StackAt, u64)> {
        self.looks = self.looks.saturating_add(self.pieces.len());
        if self.looks > MAX_LOOKS {
            self.losses.waits += 1;
            return Vec::new();
        }
        let done = self.pieces.iter().map(|piece| (piece, piece.within(from_ns, to_ns)));
        let (pieces, mut times): (Vec<&Piece>, Vec<u64>) = done.filter(|(_, ns)| *ns > 0).unzip();
        let whole_ns = to_ns.saturating_sub(from_ns);
        if times.iter().fold(0, |sum: u64, ns| sum.saturating_add(*ns)) > whole_ns {
            times = shares(&times, whole_ns).unwrap_or_default();
        }
        pieces.iter().zip(times).map(|(piece, ns)| (piece.thread, piece.stack, ns)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::capture::CaughtStack;
    use crate::model::{Outcome, ThreadState};

    /// Waits count for what of them lies in the responder's, samples where they were taken; what several did at once is
    /// scaled to the wait, and samples that share a weight say nothing.
    #[test]
    fn work_is_that_in_the_wait() {
        let mut timeline = Timeline::new(1 << 16);
        let stack = StackAt { epoch: 0, stack: CaughtStack::empty(Outcome::Complete, false) };
        for (tid, at_ns, measure, weight) in [
            (7, 10, Measure::Exact, 30), // till 40
            (7, 50, Measure::Tick, 20),
            (8, 90, Measure::Exact, 60), // till 150
            (8, 55, Measure::Share, 1000),
            (8, 170, Measure::Tick, 20), // it had died
        ] {
            let state = ThreadState::Blocked;
            timeline.push(tid, Moment { at_ns, state, measure, stack, coroutine: None, count: 1, weight });
        }
        let work = |thread, tid| Work { thread, tid, from_ns: 5, to_ns: 160 };
        let mut offspring = Offspring::new(vec![work(0, 7), work(1, 8)], &timeline);
        let mut during = |from_ns, to_ns| -> Vec<(u32, u64)> {
            let mut done: Vec<_> =
                offspring.during(from_ns, to_ns).iter().map(|(thread, _, ns)| (*thread, *ns)).collect();
            done.sort_unstable();
            done
        };
        assert_eq!(during(20, 100), [(0, 20), (0, 20), (1, 10)]);
        assert_eq!(during(45, 55), [(0, 10)]);
        assert_eq!(during(160, 200), []);
        assert_eq!(during(49, 101).iter().map(|(_, ns)| ns).sum::<u64>(), 31);
        assert_eq!(offspring.losses, OffspringLosses::default());
    }

    /// Pieces and waits that are too many are counted.
    #[test]
    fn what_finds_no_room_is_counted() {
        let mut timeline = Timeline::new(64 << 20);
        let stack = StackAt { epoch: 0, stack: CaughtStack::empty(Outcome::Complete, false) };
        let state = ThreadState::Running;
        let (measure, count, weight) = (Measure::Tick, 1, 1);
        for at_ns in 0..MAX_PIECES as u64 + 5 {
            timeline.push(7, Moment { at_ns, state, measure, stack, coroutine: None, count, weight });
        }
        let work = Work { thread: 0, tid: 7, from_ns: 0, to_ns: u64::MAX };
        let mut offspring = Offspring::new(vec![work], &timeline);
        assert_eq!(offspring.losses, OffspringLosses { pieces: 5, waits: 0 });
        let waits = MAX_LOOKS / MAX_PIECES;
        let told: Vec<usize> =
            (5..waits as u64 + 7).map(|at_ns| offspring.during(at_ns, at_ns + 1).len()).collect();
        assert_eq!((&told[..waits], &told[waits..]), (&vec![1; waits][..], &[0, 0][..]));
        let mut losses = OffspringLosses { pieces: 1, waits: 1 };
        losses.add(offspring.losses);
        assert_eq!(losses, OffspringLosses { pieces: 6, waits: 3 });
    }
}
