//! A limit on how many profiles are kept in a minute.

use std::collections::VecDeque;

/// A minute in nanoseconds.
const MINUTE_NS: u64 = 60_000_000_000;

/// When profiles were kept in the last minute. Exact: no 60 seconds, wherever they begin, have more
/// than the limit. Takes 8 bytes per profile of the limit at most.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// `CLOCK_MONOTONIC`, in the order they were kept; never more than the limit.
    kept_ns: VecDeque<u64>,
}

impl Rate {
    /// Whether one more may be kept at `now_ns`, of at most `per_minute`.
    pub(super) fn has_room(&mut self, per_minute: u64, now_ns: u64) -> bool {
        while self.kept_ns.front().is_some_and(|kept| now_ns.saturating_sub(*kept) >= MINUTE_NS) {
            self.kept_ns.pop_front();
        }
        (self.kept_ns.len() as u64) < per_minute
    }

    /// One was kept at `now_ns`, after [`has_room`](Self::has_room) said so.
    pub(super) fn take(&mut self, now_ns: u64) {
        self.kept_ns.push_back(now_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two a minute: the third waits until the first is a minute old, also across a minute's end.
    #[test]
    fn no_minute_has_more() {
        let mut rate = Rate::default();
        let mut keeps = |second: u64| {
            let now_ns = second * 1_000_000_000;
            let has_room = rate.has_room(2, now_ns);
            if has_room {
                rate.take(now_ns);
            }
            has_room
        };
        let kept = [50, 55, 59, 61, 109, 110, 111, 115, 116].map(&mut keeps);
        assert_eq!(kept, [true, true, false, false, false, true, false, true, false]);
        assert!(!keeps(0), "an earlier time makes no room");
    }
}
