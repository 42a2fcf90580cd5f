//! The clock of all events.

use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC`.
pub fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| u64::try_from(now.num_nanoseconds()).unwrap_or(0))
}
