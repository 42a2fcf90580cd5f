//! The slowest requests so far of a window of time, for each value of a field.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::cut::cut;

/// Values told apart in one window. They come from requests, so anybody may send new ones: those
/// beyond share one place, in which still the slowest are kept.
const MAX_VALUES: usize = 1024;

/// Bytes by which values are told apart.
const MAX_VALUE_BYTES: usize = 256;

/// What was slowest in the current window. Windows follow each other without a gap, the first from
/// time 0 of the clock. Takes at most 1,025 × (256 + 8 K) bytes and what maps need.
#[derive(Debug, Default)]
pub(super) struct TopK {
    /// Number of the current window.
    window: u64,
    /// For each value the K longest durations in nanoseconds, the shortest of them on top.
    slowest: BTreeMap<String, BinaryHeap<Reverse<u64>>>,
    /// The same for all other values together.
    others: BinaryHeap<Reverse<u64>>,
}

impl TopK {
    /// Whether a request that took `duration_ns` is among the `k` slowest so far with this `value` in
    /// the window of `window_ns` (not 0) around `now_ns` (`CLOCK_MONOTONIC`); it is remembered. Of
    /// equals the earlier count as slower. A time before the current window counts into it.
    pub(super) fn admits(
        &mut self,
        value: &str,
        duration_ns: u64,
        k: u64,
        window_ns: u64,
        now_ns: u64,
    ) -> bool {
        let window = now_ns / window_ns.max(1);
        if window > self.window {
            *self = Self { window, ..Self::default() };
        }
        let value = cut(value, MAX_VALUE_BYTES);
        let has_room = self.slowest.len() < MAX_VALUES;
        let slowest = if has_room && !self.slowest.contains_key(value) {
            self.slowest.entry(value.to_owned()).or_default()
        } else {
            self.slowest.get_mut(value).unwrap_or(&mut self.others)
        };
        if (slowest.len() as u64) < k {
            slowest.push(Reverse(duration_ns));
            return true;
        }
        let is_slower = slowest.peek().is_some_and(|Reverse(shortest)| duration_ns > *shortest);
        if is_slower {
            slowest.pop();
            slowest.push(Reverse(duration_ns));
        }
        is_slower
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_NS: u64 = 60;

    /// Two of a value are admitted, then only slower ones, until the window ends.
    #[test]
    fn slower_ones_are_admitted_until_the_window_ends() {
        let mut top = TopK::default();
        let mut admits = |value, duration_ns, now_ns| top.admits(value, duration_ns, 2, WINDOW_NS, now_ns);
        assert!(admits("a", 10, 0) && admits("a", 5, 1));
        assert!(!admits("a", 5, 2) && !admits("a", 4, 3));
        assert!(admits("a", 6, 4), "slower than 5");
        assert!(!admits("a", 6, 5) && admits("a", 11, 6) && !admits("a", 10, 7));
        assert!(admits("b", 1, 8), "another value has places of its own");
        assert!(!admits("a", 10, 59));
        assert!(admits("a", 1, 60), "a new window");
        assert!(admits("a", 1, 59), "late ones count into the current window");
        assert!(!admits("a", 1, 61));
    }

    /// However many values come, memory is bounded, and the slowest of those beyond is still admitted.
    #[test]
    fn values_are_bounded() {
        let mut top = TopK::default();
        for number in 0..10_000 {
            top.admits(&format!("{number}"), 5, 1, WINDOW_NS, 0);
        }
        assert_eq!((top.slowest.len(), top.others.len()), (MAX_VALUES, 1));
        assert!(!top.admits("new", 5, 1, WINDOW_NS, 0) && top.admits("newer", 6, 1, WINDOW_NS, 0));
        let long = "ä".repeat(1 << 16);
        let mut top = TopK::default();
        top.admits(&long, 1, 1, WINDOW_NS, 0);
        assert!(top.slowest.keys().all(|value| value.len() <= MAX_VALUE_BYTES));
    }
}
