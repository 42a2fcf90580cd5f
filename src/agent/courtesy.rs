//! Letting others have the CPU. The scheduler lets a thread that works in bursts finish each one, some milliseconds long,
//! before anybody whom it wakes meanwhile on that CPU: where all CPUs are busy, the burst of a profiler is a delay of the
//! request that it is to explain. A thread of a lower priority would not be in the way, but be kept waiting amid a read
//! of its target's memory, which holds the lock of that; so it is by its own will, between two records, that it waits.

use crate::sys::clock::monotonic_ns;

/// Work is not interrupted before: some dozen records. Asking whether anybody waits takes half a microsecond.
const STRETCH_NS: u64 = 30_000;
/// A turn that takes longer than this is late, and goes on as anybody would: where others never rest, each of them may
/// take some milliseconds before it goes on.
const PATIENCE_NS: u64 = 10_000_000;

/// One thread's manners.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Courtesy {
    /// When its present turn began to work, `CLOCK_MONOTONIC`; `None`: it waits for work.
    turn_ns: Option<u64>,
    /// Since when nobody else was let through.
    since_ns: u64,
}

impl Courtesy {
    /// A new turn: it begins with the work.
    pub(super) fn begin_turn(&mut self) {
        self.turn_ns = None;
    }

    /// Between two pieces of work: whoever waits for this CPU goes first, if that is due.
    pub(super) fn give_way(&mut self) {
        if self.is_due(monotonic_ns()) {
            std::thread::yield_now();
            self.since_ns = monotonic_ns();
        }
    }

    fn is_due(&mut self, now_ns: u64) -> bool {
        let Some(turn_ns) = self.turn_ns else {
            (self.turn_ns, self.since_ns) = (Some(now_ns), now_ns);
            return false;
        };
        now_ns.saturating_sub(self.since_ns) >= STRETCH_NS && now_ns.saturating_sub(turn_ns) < PATIENCE_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Others are let through each so often, from the beginning of the work on, and not once it is late.
    #[test]
    fn others_are_let_through_until_it_is_late() {
        let mut courtesy = Courtesy::default();
        assert!(!courtesy.is_due(1_000_000));
        assert!(!courtesy.is_due(1_000_000 + STRETCH_NS - 1));
        assert!(courtesy.is_due(1_000_000 + STRETCH_NS));
        assert!(!courtesy.is_due(1_000_000 + PATIENCE_NS));
        courtesy.begin_turn();
        assert!(!courtesy.is_due(1_000_000 + 2 * PATIENCE_NS));
        assert!(courtesy.is_due(1_000_000 + 2 * PATIENCE_NS + STRETCH_NS));
    }
}
