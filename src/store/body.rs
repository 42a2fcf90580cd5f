//! A request's samples, packed.
//!
//! ```text
//! body      := size zstd(content)            size of content, a varint
//! content   := recording roots samples       all numbers are varints
//! recording := mode left_out frequency_hz period_ns started_unix_ns elapsed_ns target backend event
//!              count (outcome number)*       samples lost
//!              count text*                   warnings
//! roots     := count (process 0 | process 1 name pid tid)*
//! samples   := count (stack root state outcome count weight_ns)*
//! text      := length bytes
//! ```
//!
//! Samples ascend by `stack`, a number of the day's table of stacks, of which
//! the difference to the sample before is written. `state` is the position in
//! `STATES`, plus 4 for a thread that held its interpreter's lock, plus 8 for an
//! idle one. `outcome` is its number.

use std::collections::HashMap;

use super::varint::{Reader, push, push_text};
use crate::model::profile::ThreadRoot;
use crate::model::{Mode, Outcome, Profile, Recording, Root, Sample, StackId, ThreadState};

/// Largest content written or read, in bytes: some five million samples.
pub const MAX_CONTENT_BYTES: usize = 64 << 20;

/// zstd's usual level.
const LEVEL: i32 = 3;

const STATES: [ThreadState; 4] =
    [ThreadState::Running, ThreadState::Queued, ThreadState::Blocked, ThreadState::Gil];
const HOLDS_GIL: u64 = 4;
const IS_IDLE: u64 = 8;
const MODES: [Mode; 4] = [Mode::Cpu, Mode::Gil, Mode::OffCpu, Mode::Wall];

/// A sample whose stack is still a number of the day's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PackedSample {
    /// The stack's number.
    pub(super) stack: i64,
    /// The sample; its `stack` means nothing.
    pub(super) sample: Sample,
}

/// Packs `profile`, whose stacks have the numbers `stacks`; samples without a stack of the profile's are left out.
/// `None` if it is too large.
pub(super) fn pack(profile: &Profile, stacks: &[i64]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    pack_recording(&profile.recording, &mut content);
    pack_samples(profile, stacks, &mut content);
    if content.len() > MAX_CONTENT_BYTES {
        return None;
    }
    let mut body = Vec::new();
    push(&mut body, content.len() as u64);
    body.extend(zstd::bulk::compress(&content, LEVEL).ok()?);
    Some(body)
}

fn pack_recording(recording: &Recording, content: &mut Vec<u8>) {
    let mode = MODES.iter().position(|mode| *mode == recording.mode).expect("MODES has every mode");
    push(content, mode as u64);
    push(content, recording.left_out);
    push(content, u64::from(recording.frequency_hz));
    push(content, recording.period_ns);
    push(content, recording.started_unix_ns);
    push(content, recording.elapsed_ns);
    for text in [&recording.target, &recording.backend, &recording.event] {
        push_text(content, text);
    }
    push(content, recording.lost.len() as u64);
    for (outcome, count) in &recording.lost {
        push(content, *outcome as u64);
        push(content, *count);
    }
    push(content, recording.warnings.len() as u64);
    recording.warnings.iter().for_each(|warning| push_text(content, warning));
}

fn pack_samples(profile: &Profile, stacks: &[i64], content: &mut Vec<u8>) {
    let mut roots: Vec<&Root> = Vec::new();
    let mut root_numbers: HashMap<&Root, usize> = HashMap::new();
    let mut samples = Vec::with_capacity(profile.samples.len());
    for sample in &profile.samples {
        let Some(stack) = stacks.get(sample.stack.0 as usize) else { continue };
        let root = *root_numbers.entry(&sample.root).or_insert_with(|| {
            roots.push(&sample.root);
            roots.len() - 1
        });
        samples.push((stack.cast_unsigned(), root, sample));
    }
    samples.sort_by_key(|(stack, root, _)| (*stack, *root));
    push(content, roots.len() as u64);
    for root in roots {
        push_text(content, &root.process);
        push(content, u64::from(root.thread.is_some()));
        if let Some(thread) = &root.thread {
            push_text(content, &thread.name);
            push(content, u64::from(thread.pid));
            push(content, u64::from(thread.tid));
        }
    }
    push(content, samples.len() as u64);
    let mut before = 0;
    for (stack, root, sample) in samples {
        let state = STATES.iter().position(|state| *state == sample.state).expect("STATES has every state");
        let gil = if sample.holds_gil { HOLDS_GIL } else { 0 };
        let idle = if sample.is_idle { IS_IDLE } else { 0 };
        push(content, stack - before);
        push(content, root as u64);
        push(content, state as u64 | gil | idle);
        push(content, sample.outcome as u64);
        push(content, sample.count);
        push(content, sample.weight_ns);
        before = stack;
    }
}

/// The recording and the samples of `body`; `None` when it contradicts itself or is too large.
pub(super) fn unpack(body: &[u8]) -> Option<(Recording, Vec<PackedSample>)> {
    let mut reader = Reader(body);
    let size = reader.fitting::<usize>().filter(|size| *size <= MAX_CONTENT_BYTES)?;
    let content = zstd::bulk::decompress(reader.0, size).ok()?;
    let mut reader = Reader(&content);
    let recording = unpack_recording(&mut reader)?;
    let samples = unpack_samples(&mut reader)?;
    Some((recording, samples))
}

fn unpack_recording(reader: &mut Reader<'_>) -> Option<Recording> {
    let mode = *MODES.get(reader.fitting::<usize>()?)?;
    let mut recording = Recording {
        mode,
        left_out: reader.number()?,
        frequency_hz: reader.fitting()?,
        period_ns: reader.number()?,
        started_unix_ns: reader.number()?,
        elapsed_ns: reader.number()?,
        target: reader.text()?.to_owned(),
        backend: reader.text()?.to_owned(),
        event: reader.text()?.to_owned(),
        ..Recording::default()
    };
    for _ in 0..reader.count()? {
        let outcome = Outcome::from_number(reader.fitting()?)?;
        recording.lost.insert(outcome, reader.number()?);
    }
    for _ in 0..reader.count()? {
        recording.warnings.push(reader.text()?.to_owned());
    }
    Some(recording)
}

/// Longest name of a process or thread read, in bytes; the kernel's have at most 63. Each sample holds a copy, so this
/// keeps memory linear.
const MAX_ROOT_NAME_BYTES: usize = 256;

fn unpack_samples(reader: &mut Reader<'_>) -> Option<Vec<PackedSample>> {
    let mut roots = Vec::new();
    for _ in 0..reader.count()? {
        let name = |text: &str| (text.len() <= MAX_ROOT_NAME_BYTES).then(|| text.to_owned());
        let process = name(reader.text()?)?;
        let thread = match reader.number()? {
            0 => None,
            1 => Some(ThreadRoot {
                name: name(reader.text()?)?,
                pid: reader.fitting()?,
                tid: reader.fitting()?,
            }),
            _ => return None,
        };
        roots.push(Root { process, thread });
    }
    let mut samples = Vec::new();
    let (mut stack, mut total_ns, mut total_count) = (0_u64, 0_u64, 0_u64);
    for _ in 0..reader.count()? {
        stack = stack.checked_add(reader.number()?)?;
        let root: &Root = roots.get(reader.fitting::<usize>()?)?;
        let state = reader.number().filter(|state| *state < 16)?;
        let sample = Sample {
            root: root.clone(),
            stack: StackId(u32::MAX),
            state: STATES[(state & 3) as usize],
            holds_gil: state & HOLDS_GIL != 0,
            is_idle: state & IS_IDLE != 0,
            outcome: Outcome::from_number(reader.fitting()?)?,
            count: reader.number()?,
            weight_ns: reader.number()?,
        };
        // Whoever sums them up relies on it.
        total_count = total_count.checked_add(sample.count)?;
        total_ns = total_ns.checked_add(sample.weight_ns)?;
        samples.push(PackedSample { stack: stack.cast_signed(), sample });
    }
    Some(samples)
}

/// Adds the stacks that `body` uses to `used`, in no order.
pub(super) fn stacks_used(body: &[u8], used: &mut Vec<i64>) {
    if let Some((_, samples)) = unpack(body) {
        used.extend(samples.iter().map(|packed| packed.stack));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Any bytes are unpacked or refused, also behind a valid compression.
        #[test]
        fn any_bytes_are_unpacked_or_refused(content: Vec<u8>) {
            let _ = unpack(&content);
            let mut body = Vec::new();
            push(&mut body, content.len() as u64);
            body.extend(zstd::bulk::compress(&content, LEVEL).expect("memory"));
            let _ = unpack(&body);
        }
    }

    /// A body that says to be larger than the bound, or is larger than it says, is refused.
    #[test]
    fn oversized_bodies_are_refused() {
        let profile = Profile::default();
        let good = pack(&profile, &[]).expect("small");
        assert_eq!(unpack(&good), Some((Recording::default(), Vec::new())));
        let mut small = Vec::new();
        push(&mut small, 1);
        small.extend(zstd::bulk::compress(&[0; 1000], LEVEL).expect("memory"));
        assert_eq!(unpack(&small), None);
        let mut large = Vec::new();
        push(&mut large, MAX_CONTENT_BYTES as u64 + 1);
        large.extend(&good[1..]);
        assert_eq!(unpack(&large), None);
    }
}
