//! How far Unix time and `CLOCK_MONOTONIC` are apart while something runs: adjusted as the machine's clock may be, what
//! was told in one is compared with what was told in the other by a reading of the same moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use txprof::sys::clock::{monotonic_ns, unix_less_monotonic_ns};

/// The kernel lets one clock run faster than the other by 1 in 2,000 at most: 25 µs in this time.
const PERIOD: Duration = Duration::from_millis(50);

/// Reads both clocks again and again until asked.
#[derive(Debug)]
pub struct Clocks {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(u64, u64)>>,
}

/// What was read.
#[derive(Debug)]
pub struct ClockReadings(Vec<(u64, u64)>);

impl Clocks {
    /// Begins to read: the first time before this returns.
    pub fn watch() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let read = || (monotonic_ns(), unix_less_monotonic_ns());
        let mut readings = vec![read()];
        let thread = std::thread::spawn(move || {
            while !asked.load(Ordering::Relaxed) {
                std::thread::sleep(PERIOD);
                readings.push(read());
            }
            readings
        });
        Self { stop, thread }
    }

    /// Ends that.
    pub fn finish(self) -> ClockReadings {
        self.stop.store(true, Ordering::Relaxed);
        ClockReadings(self.thread.join().expect("reading clocks does not fail"))
    }
}

impl ClockReadings {
    /// `CLOCK_MONOTONIC` at `unix_ns`, which was converted `later_ns` later.
    pub fn monotonic_ns(&self, unix_ns: u64, later_ns: u64) -> u64 {
        let at_ns = unix_ns.saturating_add(later_ns);
        let next = self.0.partition_point(|(read_ns, difference_ns)| read_ns + difference_ns < at_ns);
        let (_, difference_ns) = self.0[next.min(self.0.len() - 1)];
        unix_ns.saturating_sub(difference_ns)
    }

    /// Between the least and the greatest difference: what was read amiss, and how far the clocks drifted apart.
    pub fn spread_ns(&self) -> u64 {
        let differences = || self.0.iter().map(|(_, difference_ns)| *difference_ns);
        differences().max().zip(differences().min()).map_or(0, |(most, least)| most - least)
    }
}
