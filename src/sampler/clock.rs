//! The sampling clock: one perf event per CPU, all with the same period.

use crate::sys::perf_event::{EventSource, PerfEvent, online_cpus};
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
}

impl Clock {
    /// Opens the clocks at `frequency_hz` per CPU.
    pub fn open(choice: ClockChoice, frequency_hz: u32) -> Result<Self> {
        match choice {
            ClockChoice::CpuClock => Self::open_source(EventSource::CpuClock, frequency_hz),
            ClockChoice::Cycles => Self::open_source(EventSource::Cycles, frequency_hz).map_err(|error| {
                error.with_hint("this machine counts no cycles (a virtual machine?): use -e cpu-clock")
            }),
            ClockChoice::Auto => match Self::open_source(EventSource::Cycles, frequency_hz) {
                Err(error) if error.kind() != ErrorKind::PermissionDenied => {
                    Self::open_source(EventSource::CpuClock, frequency_hz)
                }
                other => other,
            },
        }
    }

    fn open_source(source: EventSource, frequency_hz: u32) -> Result<Self> {
        let unit_per_second = match source {
            EventSource::CpuClock => 1_000_000_000,
            EventSource::Cycles => cycles_per_second(),
        };
        let period = (unit_per_second / u64::from(frequency_hz.max(1))).max(1);
        let cpus = online_cpus()?;
        let events = cpus.iter().map(|cpu| PerfEvent::open(source, *cpu, period)).collect::<Result<_>>()?;
        Ok(Self { events, source, cpus, period, unit_per_second })
    }

    /// Starts all clocks.
    pub fn enable(&self) -> Result<()> {
        self.events.iter().try_for_each(PerfEvent::enable)
    }

    /// Stops all clocks.
    pub fn disable(&self) -> Result<()> {
        self.events.iter().try_for_each(PerfEvent::disable)
    }

    /// Changes the period of all clocks, in nanoseconds of a running CPU.
    pub fn set_period_ns(&mut self, period_ns: u64) -> Result<()> {
        let period = u128::from(period_ns) * u128::from(self.unit_per_second) / 1_000_000_000;
        self.period = u64::try_from(period).unwrap_or(u64::MAX).max(1);
        self.events.iter().try_for_each(|event| event.set_period(self.period))
    }

    /// The period now, in nanoseconds.
    pub fn period_ns(&self) -> u64 {
        self.to_ns(self.period)
    }

    /// A sample's period in nanoseconds.
    pub fn to_ns(&self, period: u64) -> u64 {
        match self.source {
            EventSource::CpuClock => period,
            EventSource::Cycles => {
                let ns = u128::from(period) * 1_000_000_000 / u128::from(self.unit_per_second.max(1));
                u64::try_from(ns).unwrap_or(u64::MAX)
            }
        }
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
