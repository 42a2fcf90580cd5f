//! Several profiles as one: equal frames, stacks and samples are summed.

use ahash::AHashMap;

use crate::model::{Frame, Outcome, Profile, Root, Sample, StackId, ThreadState};

/// What tells samples apart.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    root: Root,
    stack: StackId,
    outcome: Outcome,
    state: ThreadState,
    holds_gil: bool,
    is_idle: bool,
}

/// The sum of `profiles`, its weights and counts divided by `divisor` (0 counts as 1), rounded; counts are 1 at
/// least. Threads are no longer told apart. The recording is the first one's, with the time of all.
pub fn merge(profiles: &[Profile], divisor: u64) -> Profile {
    let divisor = divisor.max(1);
    let divide = |number: u64| number.saturating_add(divisor / 2) / divisor;
    let mut merged = Profile::default();
    let mut frames: AHashMap<&Frame, u32> = AHashMap::new();
    let mut stacks: AHashMap<Vec<u32>, StackId> = AHashMap::new();
    let mut sums: AHashMap<Key, (u64, u64)> = AHashMap::new();
    for profile in profiles {
        for sample in &profile.samples {
            let stack = profile.frames_of(sample.stack).map(|frame| {
                *frames.entry(frame).or_insert_with(|| {
                    merged.frames.push(frame.clone());
                    // Frames were numbered by u32 in profiles that fit in memory together.
                    (merged.frames.len() - 1) as u32
                })
            });
            let stack: Vec<u32> = stack.collect();
            let next = StackId(stacks.len() as u32);
            let stack = *stacks.entry(stack).or_insert_with_key(|stack| {
                merged.stacks.push(stack.clone());
                next
            });
            let root = Root { process: sample.root.process.clone(), thread: None };
            let Sample { outcome, state, holds_gil, is_idle, .. } = *sample;
            let (count, weight_ns) =
                sums.entry(Key { root, stack, outcome, state, holds_gil, is_idle }).or_default();
            *count = count.saturating_add(sample.count);
            *weight_ns = weight_ns.saturating_add(sample.weight_ns);
        }
    }
    merged.samples.extend(sums.into_iter().map(|(key, (count, weight_ns))| {
        let Key { root, stack, outcome, state, holds_gil, is_idle } = key;
        let (count, weight_ns) = (divide(count).max(1), divide(weight_ns));
        Sample { root, stack, outcome, state, holds_gil, is_idle, count, weight_ns }
    }));
    if let Some(first) = profiles.first() {
        merged.recording.clone_from(&first.recording);
    }
    let elapsed =
        profiles.iter().fold(0, |sum: u64, profile| sum.saturating_add(profile.recording.elapsed_ns));
    merged.recording.elapsed_ns = divide(elapsed);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FrameKind;

    fn profile(functions: &[&str], weight_ns: u64) -> Profile {
        let frames = functions.iter().map(|name| Frame::named(FrameKind::Python, *name)).collect();
        let sample = Sample {
            root: Root::default(),
            stack: StackId(0),
            outcome: Outcome::Complete,
            state: ThreadState::Running,
            holds_gil: false,
            is_idle: false,
            count: 1,
            weight_ns,
        };
        let stacks = vec![(0..functions.len() as u32).collect()];
        Profile { frames, stacks, samples: vec![sample], ..Profile::default() }
    }

    /// Equal stacks are summed wherever their frames stand, and the sum is divided.
    #[test]
    fn equal_stacks_are_summed_and_divided() {
        let mut other = profile(&["x", "f", "main"], 20);
        other.stacks = vec![vec![1, 2]];
        let merged = merge(&[profile(&["f", "main"], 11), other, profile(&["g"], 4)], 2);
        let mut weights: Vec<(String, u64)> = merged
            .samples
            .iter()
            .map(|sample| (merged.frames_of(sample.stack).map(|f| &*f.function).collect(), sample.weight_ns))
            .collect();
        weights.sort();
        assert_eq!(weights, [("fmain".to_owned(), 16), ("g".to_owned(), 2)]);
        assert_eq!(merge(&[], 0), Profile::default());
    }
}
