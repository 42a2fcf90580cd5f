//! What a target burnt in the seconds of a recording.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Target;

/// Reads a target's account every few milliseconds until asked.
#[derive(Debug)]
pub struct History {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(f64, f64)>>,
}

impl History {
    /// Begins to read. For programs that count CPU time alone, in the first four slots.
    pub fn of(target: &Target) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, read) = (Arc::clone(&stop), target.reader());
        let thread = std::thread::spawn(move || {
            let mut readings = Vec::new();
            while !asked.load(Ordering::Relaxed) {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
                readings.push((now.as_nanos() as f64, read()[..4].iter().sum::<u64>() as f64));
                std::thread::sleep(Duration::from_millis(2));
            }
            readings
        });
        Self { stop, thread }
    }

    /// The CPU time counted between the start and the end of the recording `profile`, in its JSON form.
    pub fn burnt_ns(self, profile: &serde_json::Value) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        let readings = self.thread.join().expect("reading an account does not fail");
        let recording = &profile["recording"];
        let start = recording["started_unix_ns"].as_f64().expect("JSON form has started_unix_ns");
        let elapsed = recording["elapsed_ns"].as_f64().expect("JSON form has elapsed_ns");
        // Between two readings the account is taken to grow evenly.
        let at = |time: f64| {
            let index = readings.partition_point(|(read, _)| *read <= time);
            let ((from, low), (to, high)) = (readings[index - 1], readings[index]);
            low + (high - low) * (time - from) / (to - from)
        };
        at(start + elapsed) - at(start)
    }
}

/// The sum of all samples' weights in a profile in its JSON form.
pub fn weight_ns(profile: &serde_json::Value) -> f64 {
    let samples = profile["samples"].as_array().expect("JSON form has samples");
    samples.iter().map(|sample| sample["weight_ns"].as_f64().expect("samples have a weight")).sum()
}
