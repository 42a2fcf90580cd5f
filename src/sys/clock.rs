//! The clock of all events, and what it is of the world's.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC`.
pub fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| u64::try_from(now.num_nanoseconds()).unwrap_or(0))
}

/// How many readings of both clocks are compared, and how close together suffices.
const READINGS: u32 = 8;
const CLOSE_NS: u64 = 2_000;

/// Unix time less `CLOCK_MONOTONIC`, now, in nanoseconds: between the readings of the two another thread may have run, so
/// the closest pair of a few counts. 0 before 1970.
pub fn unix_less_monotonic_ns() -> u64 {
    let (mut closest_ns, mut difference_ns) = (u64::MAX, 0);
    for _ in 0..READINGS {
        let before_ns = monotonic_ns();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        let apart_ns = monotonic_ns().saturating_sub(before_ns);
        if apart_ns < closest_ns {
            let unix_ns = unix.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
            (closest_ns, difference_ns) = (apart_ns, unix_ns.saturating_sub(before_ns));
        }
        if closest_ns <= CLOSE_NS {
            break;
        }
    }
    difference_ns
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both clocks go on together.
    #[test]
    fn difference_of_the_clocks_stays() {
        let differences: Vec<u64> = (0..100).map(|_| unix_less_monotonic_ns()).collect();
        let (least, most) = (differences.iter().min(), differences.iter().max());
        let drift_ns = most.zip(least).map_or(u64::MAX, |(most, least)| most - least);
        assert!(drift_ns < 1_000_000, "{drift_ns}");
    }
}
