//! A limit on how many bytes kept profiles take in a second.

/// Nanoseconds in a second.
const SECOND_NS: u64 = 1_000_000_000;

/// A bucket of one second's bytes that fills at the rate of the limit. A profile is kept while there is
/// something in the bucket, and charged when its size is known, which may leave a debt that later
/// seconds pay: in any time `t` at most `rate × (t + 1 s)` are kept, and what was being written.
///
/// Held as one time, at which the bucket will be full again:
///
/// ```text
/// content = rate × (1 s − (full_ns − now))      full_ns' = max(full_ns, now) + bytes ÷ rate
/// ```
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// `CLOCK_MONOTONIC`.
    full_ns: u64,
}

impl Budget {
    /// Whether there is something in the bucket at `now_ns`.
    pub(super) fn has_room(&self, now_ns: u64) -> bool {
        self.full_ns.saturating_sub(now_ns) < SECOND_NS
    }

    /// Takes `bytes` out of a bucket that gets `per_second`, which is not 0.
    pub(super) fn charge(&mut self, per_second: u64, bytes: u64, now_ns: u64) {
        let took_ns = (u128::from(bytes) * u128::from(SECOND_NS)).div_ceil(u128::from(per_second.max(1)));
        let took_ns = u64::try_from(took_ns).unwrap_or(u64::MAX);
        self.full_ns = self.full_ns.max(now_ns).saturating_add(took_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Profiles of 250 bytes offered a hundred times a second to 1,000 bytes a second, for 10 s.
    #[test]
    fn bytes_follow_the_rate() {
        let mut budget = Budget::default();
        let mut kept = 0;
        for tick in 0..1000 {
            let now_ns = SECOND_NS * 1000 + tick * 10_000_000;
            if budget.has_room(now_ns) {
                budget.charge(1000, 250, now_ns);
                kept += 250;
            }
        }
        assert!((10_000..=11_250).contains(&kept), "{kept}");
    }

    /// One large profile is paid by the seconds after it, and an absurd one does not wrap.
    #[test]
    fn debts_are_paid() {
        let mut budget = Budget::default();
        budget.charge(1000, 5000, SECOND_NS);
        assert!(!budget.has_room(SECOND_NS * 5) && budget.has_room(SECOND_NS * 5 + 1));
        budget.charge(1, u64::MAX, SECOND_NS * 9);
        assert!(!budget.has_room(u64::MAX / 2));
    }
}
