//! The sampling clock: one perf event per CPU, all with the same period.

use crate::sys::perf_event::{EventSource, PerfEvent, RingContent, online_cpus};
use crate::{ErrorKind, Result};

/// What the user may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockChoice {
    /// Cycles where the CPU counts them, else the timer.
    Auto,
    /// The timer.
    CpuClock,
    /// Cycles.
    Cycles,
}

/// Opened, disabled clocks of all CPUs.
#[derive(Debug)]
pub struct Clock {
    /// One per online CPU.
    pub events: Vec<PerfEvent>,
    /// What they count.
    pub source: EventSource,
    /// Their CPUs, ascending, parallel to `events`.
    pub cpus: Vec<u32>,
    period: u64,
    unit_per_second: u64,
    /// When the period was changed last, `CLOCK_MONOTONIC`, and what it was before.
    changed: Option<(u64, u64)>,
}

impl Clock {
    /// Opens the clocks at `frequency_hz` per CPU, with rings for `content`.
    pub fn open(choice: ClockChoice, frequency_hz: u32, content: RingContent) -> Result<Self> {
        let open = |source| Self::open_source(source, frequency_hz, content);
        match choice {
            ClockChoice::CpuClock => open(EventSource::CpuClock),
            ClockChoice::Cycles => open(EventSource::Cycles).map_err(|error| {
                error.with_hint("this machine counts no cycles (a virtual machine?): use -e cpu-clock")
            }),
            ClockChoice::Auto => match open(EventSource::Cycles) {
                Err(error) if error.kind() != ErrorKind::PermissionDenied => open(EventSource::CpuClock),
                other => other,
            },
        }
    }

    fn open_source(source: EventSource, frequency_hz: u32, content: RingContent) -> Result<Self> {
        let unit_per_second = match source {
            EventSource::CpuClock => 1_000_000_000,
            EventSource::Cycles => cycles_per_second(),
        };
        let period = (unit_per_second / u64::from(frequency_hz.max(1))).max(1);
        let cpus = online_cpus()?;
        let open = |cpu: &u32| PerfEvent::open(source, *cpu, period, content);
        let events = cpus.iter().map(open).collect::<Result<_>>()?;
        Ok(Self { events, source, cpus, period, unit_per_second, changed: None })
    }

    /// Starts all clocks.
    pub fn enable(&self) -> Result<()> {
        self.events.iter().try_for_each(PerfEvent::enable)
    }

    /// Stops all clocks.
    pub fn disable(&self) -> Result<()> {
        self.events.iter().try_for_each(PerfEvent::disable)
    }

    /// Changes the period of all clocks, in nanoseconds of a running CPU, at `now_ns`. Samples
    /// taken before the last such change must have been weighed by then.
    pub fn set_period_ns(&mut self, period_ns: u64, now_ns: u64) -> Result<()> {
        self.changed = Some((now_ns, self.period));
        let period = u128::from(period_ns) * u128::from(self.unit_per_second) / 1_000_000_000;
        self.period = u64::try_from(period).unwrap_or(u64::MAX).max(1);
        self.events.iter().try_for_each(|event| event.set_period(self.period))
    }

    /// The period now, in nanoseconds.
    pub fn period_ns(&self) -> u64 {
        self.to_ns(self.period)
    }

    /// What a sample taken at `time_ns` that tells `period` stands for, in nanoseconds.
    ///
    /// The timer's samples tell the period it began with, whatever was set since (`last_period` in
    /// `perf_swevent_hrtimer`, `kernel/events/core.c`, Linux 6.18): for them the one in force at `time_ns` counts.
    pub fn weight_ns(&self, period: u64, time_ns: u64) -> u64 {
        match (self.source, self.changed) {
            (EventSource::Cycles, _) => self.to_ns(period),
            (EventSource::CpuClock, Some((changed_ns, before))) if time_ns < changed_ns => before,
            (EventSource::CpuClock, _) => self.period,
        }
    }

    fn to_ns(&self, period: u64) -> u64 {
        let ns = u128::from(period) * 1_000_000_000 / u128::from(self.unit_per_second.max(1));
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// The highest CPU number plus one.
    pub fn cpu_capacity(&self) -> u32 {
        self.cpus.last().map_or(1, |cpu| cpu + 1)
    }
}

/// The nominal clock rate from `/proc/cpuinfo`, to choose a period that gives about the
/// frequency asked for; 2.5 GHz where it is not told. Weights are in this nominal time.
fn cycles_per_second() -> u64 {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let megahertz = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == "cpu MHz").then(|| value.trim().parse::<f64>().ok())?
    });
    (megahertz.filter(|mhz| (100.0..20_000.0).contains(mhz)).unwrap_or(2500.0) * 1e6) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The timer's samples weigh the period in force when they were taken; a counter's weigh what they tell.
    #[test]
    fn sample_weighs_the_period_in_force() {
        let clock = |source, unit_per_second| Clock {
            events: Vec::new(),
            source,
            cpus: Vec::new(),
            period: 4_000_000,
            unit_per_second,
            changed: Some((50, 1_000_000)),
        };
        let timer = clock(EventSource::CpuClock, 1_000_000_000);
        assert_eq!(timer.weight_ns(1_000_000, 49), 1_000_000);
        assert_eq!(timer.weight_ns(1_000_000, 50), 4_000_000);
        assert_eq!(clock(EventSource::Cycles, 2_000_000_000).weight_ns(3_000_000, 60), 1_500_000);
    }
}
