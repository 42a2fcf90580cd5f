//! What a target burnt in the seconds of a recording.

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
    /// Begins to read.
    pub fn of(target: &Target) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, read) = (Arc::clone(&stop), target.reader());
        let thread = std::thread::spawn(move || {
            let mut readings = Vec::new();
            while !asked.load(Ordering::Relaxed) {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
                readings.push((now.as_nanos() as f64, read()));
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

/// The sum of the weights of samples whose stack has a function with `part` in its name, in a
/// profile in its JSON form. Every sample has the empty part.
pub fn weight_ns(profile: &serde_json::Value, part: &str) -> f64 {
    let list = |value: &serde_json::Value| value.as_array().expect("JSON form has this list").clone();
    let (frames, stacks) = (list(&profile["frames"]), list(&profile["stacks"]));
    let number = |value: &serde_json::Value| value.as_u64().expect("JSON form has this index") as usize;
    let has = |stack: &serde_json::Value| {
        let mut names =
            stack.as_array().into_iter().flatten().map(|frame| &frames[number(frame)]["function"]);
        part.is_empty() || names.any(|name| name.as_str().is_some_and(|name| name.contains(part)))
    };
    let weight = |sample: &serde_json::Value| sample["weight_ns"].as_f64().expect("samples have a weight");
    let samples = list(&profile["samples"]);
    samples.iter().filter(|sample| has(&stacks[number(&sample["stack"])])).map(weight).sum()
}
