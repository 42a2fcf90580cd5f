//! Holds the own cost under a limit by taking fewer samples.

/// What was spent so far, both ever growing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// `CLOCK_MONOTONIC` at which it was read.
    pub time_ns: u64,
    /// CPU time of txprof and of its BPF programs.
    pub cost_ns: u64,
}

/// Chooses the sampling period.
#[derive(Debug)]
pub struct Governor {
    limit: f64,
    nominal_period_ns: u64,
    period_ns: u64,
    last: Option<Spent>,
}

/// The slowest rate: one sample a second and CPU still shows what is hot.
const MAX_PERIOD_NS: u64 = 1_000_000_000;
/// The rate rises again when the cost at the higher rate would stay below this share of the limit.
const RISE_BELOW: f64 = 0.7;

impl Governor {
    /// Keeps the cost under `max_overhead_percent` of one core.
    pub fn new(max_overhead_percent: f64, nominal_period_ns: u64) -> Self {
        let period_ns = nominal_period_ns;
        Self { limit: max_overhead_percent / 100.0, nominal_period_ns, period_ns, last: None }
    }

    /// Told once in a while what was spent; answers with the new period when it must change.
    pub fn decide(&mut self, spent: Spent) -> Option<u64> {
        let last = self.last.replace(spent)?;
        let elapsed_ns = spent.time_ns.checked_sub(last.time_ns).filter(|ns| *ns > 0)?;
        let share = spent.cost_ns.saturating_sub(last.cost_ns) as f64 / elapsed_ns as f64;
        let factor = share / self.limit;
        let wanted = self.period_ns as f64 * factor;
        let period_ns = if factor > 1.0 {
            (wanted as u64).min(MAX_PERIOD_NS)
        } else if factor < RISE_BELOW && self.period_ns > self.nominal_period_ns {
            // At most doubled, because part of the cost does not depend on the rate.
            let wanted = (wanted / RISE_BELOW).max(self.period_ns as f64 / 2.0);
            (wanted as u64).max(self.nominal_period_ns)
        } else {
            self.period_ns
        };
        (period_ns != self.period_ns).then(|| {
            self.period_ns = period_ns;
            period_ns
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cost of four times the limit quarters the rate; a cost far below it brings the rate back, never above the nominal one.
    #[test]
    fn rate_follows_the_limit() {
        let mut governor = Governor::new(1.0, 10_000_000);
        let second = |s: u64, cost_ns: u64| Spent { time_ns: s * 1_000_000_000, cost_ns };
        assert_eq!(governor.decide(second(0, 0)), None);
        assert_eq!(governor.decide(second(1, 40_000_000)), Some(40_000_000));
        assert_eq!(governor.decide(second(2, 49_000_000)), None, "0.9 of the limit is kept");
        assert_eq!(governor.decide(second(3, 50_000_000)), Some(20_000_000));
        assert_eq!(governor.decide(second(4, 51_000_000)), Some(10_000_000));
        assert_eq!(governor.decide(second(5, 51_000_000)), None);
        assert_eq!(governor.decide(second(6, 900_000_000_000)), Some(MAX_PERIOD_NS));
    }
}
