//! Weighted stacks plus where, when and how they were taken: what every
//! output is written from.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Frame, FrameKind, Outcome, ThreadState, ThreadTimes};

/// Index into [`Profile::stacks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StackId(pub u32);

/// The first frame of a folded stack: which process, and with `--per-thread` which thread.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Root {
    /// The process's name (its main thread's `comm`).
    pub process: String,
    /// Set when threads are told apart.
    pub thread: Option<ThreadRoot>,
}

/// A thread as a root of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ThreadRoot {
    /// The thread's `comm`.
    pub name: String,
    /// Process id, as userland says it.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
}

/// All samples that share a root, a stack, an outcome, what the thread was about, and whether the interpreter's lock
/// was held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Whose stack.
    pub root: Root,
    /// The stack.
    pub stack: StackId,
    /// How the walk ended.
    pub outcome: Outcome,
    /// What the thread was about.
    pub state: ThreadState,
    /// Whether the thread held the lock of its Python interpreter.
    pub holds_gil: bool,
    /// Whether the thread waited because it had nothing to do.
    pub is_idle: bool,
    /// How often this was observed; of waits, how many there were, each counted once: one that was blocked, then queued, among
    /// the blocked ones.
    pub count: u64,
    /// What it counts for, in nanoseconds: the sum of the sampling periods, of waits how long they took.
    pub weight_ns: u64,
}

/// What the numbers of folded lines count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightUnit {
    /// Samples at the nominal period, so that a changed rate does not change shares.
    Samples,
    /// Nanoseconds.
    Nanoseconds,
}

/// Which samples count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// All that were taken on a CPU.
    #[default]
    Cpu,
    /// Those of threads that held the lock of their Python interpreter.
    Gil,
    /// Waits, exactly.
    OffCpu,
    /// Running threads, weighed to the exact time that each ran, and waits.
    Wall,
}

impl Mode {
    /// Whether waits are seen.
    pub fn has_waits(self) -> bool {
        matches!(self, Self::OffCpu | Self::Wall)
    }
}

/// The rate was changed while recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateChange {
    /// Nanoseconds since the recording began.
    pub at_ns: u64,
    /// The period from then on, in nanoseconds per CPU.
    pub period_ns: u64,
}

/// What the recording itself cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// CPU time of txprof's own threads while recording, user and system.
    pub own_cpu_ns: u64,
    /// Run time of our BPF programs; `None` where the kernel does not tell.
    pub bpf_run_ns: Option<u64>,
    /// Runs of our BPF programs.
    pub bpf_runs: Option<u64>,
    /// Largest resident set of txprof so far.
    pub peak_rss_bytes: u64,
    /// Memory held by BPF maps and programs.
    pub bpf_memory_bytes: u64,
    /// How long threads were held, where samples are taken by stopping them.
    pub stops: Option<Stops>,
}

/// Threads that were stopped for samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stops {
    /// How many.
    pub count: u64,
    /// For how long together, in nanoseconds.
    pub total_ns: u64,
    /// The longest of them, in nanoseconds.
    pub longest_ns: u64,
}

impl Stops {
    /// Counts one more.
    pub fn add(&mut self, held: Duration) {
        let held_ns = u64::try_from(held.as_nanos()).unwrap_or(u64::MAX);
        self.count += 1;
        self.total_ns = self.total_ns.saturating_add(held_ns);
        self.longest_ns = self.longest_ns.max(held_ns);
    }
}

/// Where, when and how a profile was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// What was recorded, as the user would say it: `postgres (pid 4121)`.
    pub target: String,
    /// `ebpf`, …
    pub backend: String,
    /// `cpu-clock` or `cycles`.
    pub event: String,
    /// Which samples count.
    pub mode: Mode,
    /// Captured samples that do not count because of `mode`.
    pub left_out: u64,
    /// Samples per second and CPU asked for.
    pub frequency_hz: u32,
    /// The nominal period in nanoseconds.
    pub period_ns: u64,
    /// Wall clock at the beginning, Unix time in nanoseconds.
    pub started_unix_ns: u64,
    /// How long it took.
    pub elapsed_ns: u64,
    /// Changes of the rate, ascending by time; empty when it was held.
    pub rate_changes: Vec<RateChange>,
    /// Times that a thread came to a CPU, or left it, without the kernel's telling; what it did until then is by the
    /// scheduler's own account of it.
    pub switches_mended: u64,
    /// Samples that never reached userland, by reason.
    pub lost: BTreeMap<Outcome, u64>,
    /// Things the user should know, each a sentence; shown at the end.
    pub warnings: Vec<String>,
    /// What the recording cost.
    pub cost: Cost,
}

/// Weighted, symbolized stacks and how they were taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Where, when, how.
    pub recording: Recording,
    /// Distinct frames.
    pub frames: Vec<Frame>,
    /// Distinct stacks, leaf first, as indices into `frames`; may be empty lists.
    pub stacks: Vec<Vec<u32>>,
    /// Each combination of root, stack, outcome, `state`, `holds_gil` and `is_idle` once, in no particular order.
    pub samples: Vec<Sample>,
    /// How each thread spent its time, the busiest first; empty where waits are not seen.
    pub threads: Vec<ThreadTimes>,
}

impl Profile {
    /// Samples that were captured, complete or not.
    pub fn sample_count(&self) -> u64 {
        self.samples.iter().map(|sample| sample.count).sum()
    }

    /// Captured samples by outcome, plus those lost.
    pub fn outcomes(&self) -> BTreeMap<Outcome, u64> {
        let mut outcomes = self.recording.lost.clone();
        for sample in &self.samples {
            *outcomes.entry(sample.outcome).or_default() += sample.count;
        }
        outcomes
    }

    /// Samples of threads that ran.
    pub fn running_count(&self) -> u64 {
        let running = self.samples.iter().filter(|sample| sample.state == ThreadState::Running);
        running.map(|sample| sample.count).sum()
    }

    /// How many waits there were, and how many of them had their stack taken; `None` where they were not counted.
    pub fn wait_counts(&self) -> Option<(u64, u64)> {
        let sum = |of: fn(&ThreadTimes) -> u64| self.threads.iter().map(of).fold(0, u64::saturating_add);
        let (waits, stacks) = (sum(ThreadTimes::wait_count), sum(ThreadTimes::stack_count));
        (self.recording.mode.has_waits() && waits > 0).then_some((waits, stacks))
    }

    /// Stacks that were taken: of samples, and of waits.
    pub fn stack_count(&self) -> u64 {
        match self.wait_counts() {
            Some((_, stacks)) => self.running_count().saturating_add(stacks),
            None => self.sample_count(),
        }
    }

    /// Of these, those that reach the thread's start without a gap. What has no stack lacks nothing either.
    pub fn complete_count(&self) -> u64 {
        let cut = self.samples.iter().filter(|sample| !sample.outcome.is_complete());
        let cut: u64 = cut.map(|sample| sample.count).sum();
        self.stack_count().saturating_sub(cut + self.gaps().values().sum::<u64>())
    }

    /// Samples whose stack reaches the thread's start, but lacks frames in between, by the marker that says why;
    /// of several markers, the one nearest to the leaf.
    pub fn gaps(&self) -> BTreeMap<&str, u64> {
        let is_gap = |frame: &&Frame| frame.kind == FrameKind::Marker;
        let mut gaps = BTreeMap::new();
        for sample in self.samples.iter().filter(|sample| sample.outcome.is_complete()) {
            if let Some(marker) = self.frames_of(sample.stack).find(is_gap) {
                *gaps.entry(&*marker.function).or_default() += sample.count;
            }
        }
        gaps
    }

    /// For how long threads had nothing to do, in nanoseconds.
    pub fn idle_ns(&self) -> u64 {
        let idle = self.samples.iter().filter(|sample| sample.is_idle);
        idle.fold(0, |sum, sample| sum.saturating_add(sample.weight_ns))
    }

    /// Leaves out all samples of threads that did not hold the lock of their Python interpreter;
    /// how many is told in the recording.
    pub fn keep_gil_holders(&mut self) {
        let before = self.sample_count();
        self.samples.retain(|sample| sample.holds_gil);
        self.recording.mode = Mode::Gil;
        self.recording.left_out += before - self.sample_count();
    }

    /// The frames of `stack`, leaf first.
    pub fn frames_of(&self, stack: StackId) -> impl DoubleEndedIterator<Item = &Frame> {
        let indices = self.stacks.get(stack.0 as usize).map_or(&[][..], Vec::as_slice);
        indices.iter().filter_map(|index| self.frames.get(*index as usize))
    }
}

impl Default for Root {
    fn default() -> Self {
        Self { process: "?".to_owned(), thread: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stack with a gap is not complete, and is counted once, by what stands nearest to its leaf.
    #[test]
    fn gaps_are_counted_once() {
        let frame = |kind, function| Frame::named(kind, function);
        let frames = vec![
            frame(FrameKind::Native, "f"),
            frame(FrameKind::Marker, "[a]"),
            frame(FrameKind::Marker, "[b]"),
        ];
        let sample = |stack, outcome, count| Sample {
            root: Root::default(),
            stack: StackId(stack),
            outcome,
            state: ThreadState::Running,
            holds_gil: false,
            is_idle: false,
            count,
            weight_ns: 1,
        };
        let samples = vec![
            sample(0, Outcome::Complete, 10),
            sample(1, Outcome::Complete, 3),
            sample(2, Outcome::Complete, 4),
            sample(1, Outcome::ReadFailed, 5),
        ];
        let stacks = vec![vec![0, 0], vec![0, 1], vec![1, 0, 2]];
        let profile = Profile { frames, stacks, samples, ..Profile::default() };
        assert_eq!(profile.gaps(), BTreeMap::from([("[a]", 7)]));
        assert_eq!(profile.complete_count(), 10);
    }

    /// Samples without the lock go, and are counted once however often they are looked for.
    #[test]
    fn samples_without_the_lock_are_left_out_and_counted() {
        let sample = |holds_gil, count| Sample {
            root: Root::default(),
            stack: StackId(0),
            outcome: Outcome::Complete,
            state: ThreadState::Running,
            holds_gil,
            is_idle: false,
            count,
            weight_ns: 1,
        };
        let samples = vec![sample(false, 3), sample(true, 5), sample(false, 4)];
        let mut profile = Profile { samples, ..Profile::default() };
        for _ in 0..2 {
            profile.keep_gil_holders();
            assert_eq!((profile.sample_count(), profile.recording.left_out), (5, 7));
            assert_eq!(profile.recording.mode, Mode::Gil);
        }
    }
}
