//! Threads that a request's own thread made, and what they did while that waited.
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
use crate::transaction::lives::Life;
use crate::transaction::timeline::{Measure, Moment, Timeline};

/// Pieces of all of them, of a request, 48 bytes each; further ones are not told.
const MAX_PIECES: usize = 1 << 16;
/// Times that a piece is held against a wait, some 2 ns each. Waits that come behind that are not taken apart.
const MAX_LOOKS: usize = 1 << 22;

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
    fn new(thread: u32, moment: &Moment<StackAt>) -> Option<Self> {
        let Moment { at_ns, measure, weight, stack, .. } = *moment;
        let (length_ns, tick_ns) = match measure {
            Measure::Tick => (0, Some(weight)),
            Measure::Exact => (weight, None),
            Measure::Share => return None,
        };
        Some(Self { thread, from_ns: at_ns, to_ns: at_ns.saturating_add(length_ns), tick_ns, stack })
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

/// All of them, of one request.
#[derive(Debug, Default)]
pub(super) struct Offspring {
    pieces: Vec<Piece>,
    looks: usize,
}

impl Offspring {
    /// What the threads `lives`, each with its number among those that waits name, have done by `timeline`.
    pub(super) fn new<'a>(
        lives: impl Iterator<Item = (u32, &'a Life)>,
        timeline: &Timeline<StackAt>,
    ) -> Self {
        let of_life = |(thread, life): (u32, &Life)| {
            let moments = timeline.between(life.tid, life.born_ns, life.died_ns);
            moments.filter_map(move |moment| Piece::new(thread, moment))
        };
        Self { pieces: lives.flat_map(of_life).take(MAX_PIECES).collect(), looks: 0 }
    }

    /// What they did in a wait of the responder: thread, stack and nanoseconds, together at most as long as the wait.
    pub(super) fn during(&mut self, from_ns: u64, to_ns: u64) -> Vec<(u32, StackAt, u64)> {
        self.looks = self.looks.saturating_add(self.pieces.len());
        if self.looks > MAX_LOOKS {
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
        let life = |tid| Life { pid: 1, tid, name: String::new(), parent_tid: 1, born_ns: 5, died_ns: 160 };
        let (one, other) = (life(7), life(8));
        let mut offspring = Offspring::new([(0, &one), (1, &other)].into_iter(), &timeline);
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
    }
}
