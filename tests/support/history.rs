//! What a target burnt in the seconds of a recording.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Account, Target};

/// Reads a target's account every few milliseconds until asked.
#[derive(Debug)]
pub struct History {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(f64, Account)>>,
}

impl History {
    /// Begins to read: the first time before this returns.
    pub fn of(target: &Target) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, account) = (Arc::clone(&stop), target.reader());
        let read = move || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
            (now.as_nanos() as f64, account())
        };
        let mut readings = vec![read()];
        let thread = std::thread::spawn(move || {
            be_prompt();
            while !asked.load(Ordering::Relaxed) {
                readings.push(read());
                std::thread::sleep(Duration::from_millis(2));
            }
            readings
        });
        Self { stop, thread }
    }

    /// What each slot grew by between the start and the end of the recording `profile`, in its JSON form.
    pub fn burnt_ns(self, profile: &serde_json::Value) -> [f64; 16] {
        self.stop.store(true, Ordering::Relaxed);
        let readings = self.thread.join().expect("reading an account does not fail");
        let recording = &profile["recording"];
        let start = recording["started_unix_ns"].as_f64().expect("JSON form has started_unix_ns");
        let elapsed = recording["elapsed_ns"].as_f64().expect("JSON form has elapsed_ns");
        // Between two readings a slot is taken to grow evenly.
        let at = |time: f64, slot: usize| {
            let index = readings.partition_point(|(read, _)| *read <= time);
            let ((from, low), (to, high)) = (&readings[index - 1], &readings[index]);
            let (low, high) = (low[slot] as f64, high[slot] as f64);
            low + (high - low) * (time - from) / (to - from)
        };
        std::array::from_fn(|slot| at(start + elapsed, slot) - at(start, slot))
    }
}

/// Lets the calling thread run as soon as it wakes up, however busy the machine is: what happens
/// between two readings is guessed.
fn be_prompt() {
    let tid = nix::unistd::gettid().to_string();
    let renice = Command::new("renice").args(["-n", "-15", "-p", &tid]).stdout(Stdio::null()).status();
    assert!(renice.expect("renice runs").success(), "root may do this");
}

/// The time that the host has taken from all CPUs so far, as `/proc/stat` tells it in ticks of 10 ms.
pub fn stolen_ns() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").expect("Linux has /proc/stat");
    let ticks = text.split_whitespace().nth(8).and_then(|word| word.parse::<f64>().ok());
    ticks.expect("the eighth number of /proc/stat") * 1e7
}
