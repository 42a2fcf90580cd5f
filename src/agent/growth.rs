//! Numbers that only grow, as those of losses do, and when to tell of them. Pure: the time is an argument.

/// Between two lines about one number. What grows all the time is seen soon enough, and in at most 1,440 lines a day.
const PAUSE_NS: u64 = 60_000_000_000;

/// How much of a number was told, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Growth {
    told: u64,
    /// `CLOCK_MONOTONIC`; `None`: never.
    told_ns: Option<u64>,
}

impl Growth {
    /// By how much `total` has grown since it was told; from now on it counts as told. `None` while it has not grown,
    /// and for a minute after the last time.
    pub(super) fn due(&mut self, total: u64, now_ns: u64) -> Option<u64> {
        let is_paused = self.told_ns.is_some_and(|told_ns| now_ns.saturating_sub(told_ns) < PAUSE_NS);
        let grown = total.saturating_sub(self.told);
        if grown == 0 || is_paused {
            return None;
        }
        *self = Self { told: total, told_ns: Some(now_ns) };
        Some(grown)
    }

    /// `total` needs no telling: it was told in other words.
    pub(super) fn settle(&mut self, total: u64) {
        self.told = total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    /// The first growth is told at once, what follows once a minute with all that came since, and nothing twice.
    #[test]
    fn growth_is_told_at_once_and_then_once_a_minute() {
        let mut growth = Growth::default();
        assert_eq!(growth.due(0, 0), None);
        assert_eq!(growth.due(3, SECOND_NS), Some(3));
        for second in 2..=60 {
            assert_eq!(growth.due(3 + second, second * SECOND_NS), None);
        }
        assert_eq!(growth.due(63, 61 * SECOND_NS), Some(60));
        assert_eq!(growth.due(63, 1000 * SECOND_NS), None);
        assert_eq!(growth.due(64, 1001 * SECOND_NS), Some(1));
        growth.settle(70);
        assert_eq!(growth.due(72, 2000 * SECOND_NS), Some(2));
    }

    /// Something lost in every second of ten minutes makes ten lines, whose amounts sum to all but the last minute.
    #[test]
    fn amounts_sum_to_the_total() {
        let mut growth = Growth::default();
        let told: Vec<u64> =
            (1..=600).filter_map(|second| growth.due(second * 5, second * SECOND_NS)).collect();
        assert_eq!((told.len(), told.iter().sum::<u64>()), (10, 541 * 5));
    }
}
