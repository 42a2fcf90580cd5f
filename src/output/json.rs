//! txprof's own profile form, version 1: everything a [`Profile`] knows.
//!
//! UTF-8 JSON, one object. Numbers are whole and below 2^64, times are in
//! nanoseconds, sizes in bytes. A reader ignores members that it does not
//! know; what changes the meaning of a member gets a new version. Members
//! marked `?` may be missing.
//!
//! ```text
//! format        "txprof-profile"
//! version       1
//! recording     how it was taken
//!   target            what was recorded: "postgres (pid 4121)"
//!   backend           what took the samples: "ebpf"
//!   event             what made them: "cpu-clock", "cycles"
//!   mode?             which samples count: "cpu" all, as if it were missing;
//!                     "gil" those with holds_gil; "off_cpu" waits; "wall"
//!                     running threads, weighed to the time that each ran,
//!                     and waits
//!   left_out?         how many samples do not count because of that
//!   frequency_hz      samples per second and CPU asked for
//!   period_ns         the nominal period: one sample's weight at that rate
//!   started_unix_ns   wall clock at the beginning
//!   elapsed_ns        how long it took
//!   rate_changes      [{at_ns, period_ns}]: from at_ns after the beginning
//!                     on, a sample weighs period_ns; ascending
//!   switches_mended?  times that a thread came to a CPU or left it without the kernel's telling:
//!                     what it did until then is by the scheduler's own account of it
//!   lost              [{outcome, count}]: samples that were never captured
//!   warnings          [sentence]
//!   cost              what the recording cost
//!     own_cpu_ns        CPU time of txprof itself
//!     bpf_run_ns?       run time of its BPF programs, on all CPUs
//!     bpf_runs?         how often they ran
//!     peak_rss_bytes    txprof's largest resident set
//!     bpf_memory_bytes  memory of its BPF maps and programs
//!     stops?            where threads were stopped for samples: count, total_ns, longest_ns
//! outcomes      [{number, complete, text}]: how walks ended, for the numbers
//!               used elsewhere; `complete` if the thread's start was reached
//! roots         [{process, thread?: {name, pid, tid}}]: whose samples;
//!               thread where threads are told apart
//! frames        [{kind, function, module?, file?, line?}]: kind is "native",
//!               "inlined" (into the next frame towards the root),
//!               "interpreter" (native, of the Python interpreter itself),
//!               "python", "kernel", "jit" or, not calls, "marker" (frames
//!               are missing), "blocked", "run_queue", "gil" (what the thread
//!               waited for), "waker" (who ended that); function is demangled,
//!               or "module+0x12" without a symbol, or Python's qualified name
//! stacks        [[frame, …]]: indices into frames, leaf first; may be empty
//! samples       [{root, stack, outcome, state?, holds_gil?, is_idle?, count, weight_ns}]:
//!               indices into roots and stacks, an outcome's number, what the
//!               thread was about ("running" if missing, "queued", "blocked",
//!               "gil"), whether it held its Python interpreter's lock, whether
//!               it waited for work (both false if missing), how often this was seen (each wait once: one
//!               that was blocked, then queued, as blocked), and the time that it stands for
//! threads?      [{process, name, pid, tid, run_ns, queue_ns, blocked_ns, gil_ns,
//!               told_count, short_ns, short_count, sampled_ns, sampled_count,
//!               shared_stacks, bare_ns, bare_count}]: how each thread spent its
//!               time, where waits are seen: run, queue and blocked together are
//!               all of it; gil is part of blocked; of the waits, told have a
//!               stack each, sampled share so many of some of them, short and
//!               bare have none, being too short or lost
//! ```
//!
//! A sample's weight is the sum of the periods in force when it was taken, so
//! shares of time are shares of `weight_ns`, whatever the rate did. A wait's is its exact time. Names are
//! those of the target, unfiltered: escape them where you show them.
//!
//! The writer puts each element of the outer lists on a line of its own, so
//! that `grep` and `diff` are of use; readers must not rely on it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use serde_json::ser::{CompactFormatter, Formatter};

use crate::model::profile::ThreadRoot;
use crate::model::{
    Cost, Frame, FrameKind, Mode, Outcome, Profile, RateChange, Recording, Root, Sample, StackId, Stops,
    ThreadState, ThreadTimes,
};
use crate::{Error, ErrorKind, Result};

const FORMAT: &str = "txprof-profile";
const VERSION: u32 = 1;

/// Largest file read, in bytes. A profile of a million distinct stacks has some 300 MB; the
/// values in memory take at most about twelve times the file's size (of `[],`: 24 bytes for 3).
pub const MAX_SIZE_BYTES: usize = 512 << 20;

/// Deepest stack read, in frames: four times what is ever captured, inlined calls included.
pub const MAX_STACK_FRAMES: usize = 16 << 10;

/// Longest name of a process or thread read, in bytes; the kernel's have at most 63. Each
/// sample holds a copy, so this keeps memory linear.
pub const MAX_ROOT_NAME_BYTES: usize = 256;

#[derive(Serialize, Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    format: Cow<'a, str>,
    version: u32,
    #[serde(borrow)]
    recording: RecordingForm<'a>,
    outcomes: Vec<OutcomeForm<'a>>,
    roots: Vec<RootForm<'a>>,
    frames: Vec<FrameForm<'a>>,
    stacks: Cow<'a, [Vec<u32>]>,
    samples: Vec<SampleForm>,
    #[serde(default, skip_serializing_if = "<[ThreadTimes]>::is_empty")]
    threads: Cow<'a, [ThreadTimes]>,
}

#[derive(Serialize, Deserialize)]
struct RecordingForm<'a> {
    target: Cow<'a, str>,
    backend: Cow<'a, str>,
    event: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "is_default")]
    mode: Mode,
    #[serde(default, skip_serializing_if = "is_default")]
    left_out: u64,
    frequency_hz: u32,
    period_ns: u64,
    started_unix_ns: u64,
    elapsed_ns: u64,
    rate_changes: Vec<RateChangeForm>,
    #[serde(default, skip_serializing_if = "is_default")]
    switches_mended: u64,
    lost: Vec<LossForm>,
    warnings: Vec<Cow<'a, str>>,
    cost: CostForm,
}

#[derive(Serialize, Deserialize)]
struct RateChangeForm {
    at_ns: u64,
    period_ns: u64,
}

#[derive(Serialize, Deserialize)]
struct LossForm {
    outcome: u8,
    count: u64,
}

#[derive(Serialize, Deserialize)]
struct CostForm {
    own_cpu_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bpf_run_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bpf_runs: Option<u64>,
    peak_rss_bytes: u64,
    bpf_memory_bytes: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    stops: Option<Stops>,
}

#[derive(Serialize, Deserialize)]
struct OutcomeForm<'a> {
    number: u8,
    complete: bool,
    text: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
struct RootForm<'a> {
    process: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    thread: Option<ThreadForm<'a>>,
}

#[derive(Serialize, Deserialize)]
struct ThreadForm<'a> {
    name: Cow<'a, str>,
    pid: u32,
    tid: u32,
}

#[derive(Serialize, Deserialize)]
struct FrameForm<'a> {
    kind: FrameKind,
    function: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    module: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct SampleForm {
    root: u32,
    stack: u32,
    outcome: u8,
    #[serde(default, skip_serializing_if = "is_default")]
    state: ThreadState,
    #[serde(default, skip_serializing_if = "is_default")]
    holds_gil: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    is_idle: bool,
    count: u64,
    weight_ns: u64,
}

/// For members that are missing at their usual value.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Writes `profile` whole; roots in order of first use, all else in the
/// profile's own order. Fails only when `writer` does.
pub fn write(profile: &Profile, writer: &mut dyn Write) -> io::Result<()> {
    let mut roots: Vec<&Root> = Vec::new();
    let mut root_numbers: HashMap<&Root, u32> = HashMap::new();
    let samples = profile.samples.iter().map(|sample| {
        let root = *root_numbers.entry(&sample.root).or_insert_with(|| {
            roots.push(&sample.root);
            // There are at most as many roots as samples, and those that fit in memory have u32 numbers.
            (roots.len() - 1) as u32
        });
        SampleForm {
            root,
            stack: sample.stack.0,
            outcome: sample.outcome as u8,
            state: sample.state,
            holds_gil: sample.holds_gil,
            is_idle: sample.is_idle,
            count: sample.count,
            weight_ns: sample.weight_ns,
        }
    });
    let samples = samples.collect();
    let outcomes = profile.outcomes().into_keys().map(|outcome| OutcomeForm {
        number: outcome as u8,
        complete: outcome.is_complete(),
        text: outcome.text().into(),
    });
    let document = Document {
        format: FORMAT.into(),
        version: VERSION,
        recording: (&profile.recording).into(),
        outcomes: outcomes.collect(),
        roots: roots.into_iter().map(RootForm::from).collect(),
        frames: profile.frames.iter().map(FrameForm::from).collect(),
        stacks: Cow::Borrowed(&profile.stacks),
        samples,
        threads: Cow::Borrowed(&profile.threads),
    };
    let mut serializer = serde_json::Serializer::with_formatter(&mut *writer, LineFormatter::default());
    document.serialize(&mut serializer)?;
    writeln!(writer)
}

/// Parses what [`write()`] wrote, and anything hostile that resembles it.
///
/// Fails with [`ErrorKind::Corrupt`] for what is not this form in version 1, when
/// an index is out of range, a bound ([`MAX_SIZE_BYTES`], [`MAX_STACK_FRAMES`]) is exceeded, or
/// counts or weights do not add up below 2^64. Time and memory are linear in the input.
pub fn parse(bytes: &[u8]) -> Result<Profile> {
    if bytes.len() > MAX_SIZE_BYTES {
        return Err(corrupt(format!("profile of {} bytes is larger than {MAX_SIZE_BYTES}", bytes.len())));
    }
    let document: Document<'_> = serde_json::from_slice(bytes)
        .map_err(|error| corrupt(format!("not a profile of txprof: {error}")))?;
    if document.format != FORMAT {
        return Err(corrupt("not a profile of txprof"));
    }
    if document.version != VERSION {
        return Err(corrupt(format!("profile has version {}, not {VERSION}", document.version))
            .with_hint("read it with the version of txprof that wrote it"));
    }
    let roots = document.roots.into_iter().map(parse_root).collect::<Result<Vec<_>>>()?;
    let frames = document.frames.into_iter().map(parse_frame).collect::<Result<Vec<_>>>()?;
    let stacks = document.stacks.into_owned();
    check_stacks(&stacks, frames.len())?;
    let samples = parse_samples(document.samples, &roots, stacks.len())?;
    let recording = parse_recording(document.recording)?;
    let profile = Profile { recording, frames, stacks, samples, threads: document.threads.into_owned() };
    check_sums(&profile)?;
    Ok(profile)
}

fn parse_root(form: RootForm<'_>) -> Result<Root> {
    let name = |text: Cow<'_, str>| match text.len() {
        0..=MAX_ROOT_NAME_BYTES => Ok(text.into_owned()),
        length => Err(corrupt(format!("name of a process or thread has {length} bytes"))),
    };
    let thread = match form.thread {
        Some(thread) => Some(ThreadRoot { name: name(thread.name)?, pid: thread.pid, tid: thread.tid }),
        None => None,
    };
    Ok(Root { process: name(form.process)?, thread })
}

fn parse_frame(form: FrameForm<'_>) -> Result<Frame> {
    if form.function.is_empty() {
        return Err(corrupt("frame without a function"));
    }
    let boxed = |text: Cow<'_, str>| text.into_owned().into_boxed_str();
    Ok(Frame {
        kind: form.kind,
        function: boxed(form.function),
        module: form.module.map(boxed),
        file: form.file.map(boxed),
        line: form.line,
    })
}

fn check_stacks(stacks: &[Vec<u32>], frame_count: usize) -> Result<()> {
    for (number, stack) in stacks.iter().enumerate() {
        if stack.len() > MAX_STACK_FRAMES {
            return Err(corrupt(format!("stack {number} has {} frames", stack.len())));
        }
        if let Some(frame) = stack.iter().find(|frame| **frame as usize >= frame_count) {
            return Err(corrupt(format!("stack {number} names frame {frame} of {frame_count}")));
        }
    }
    Ok(())
}

fn parse_samples(forms: Vec<SampleForm>, roots: &[Root], stack_count: usize) -> Result<Vec<Sample>> {
    let samples = forms.into_iter().enumerate().map(|(number, form)| {
        let root = roots.get(form.root as usize);
        let root = root.ok_or_else(|| corrupt(format!("sample {number} names root {}", form.root)))?;
        if form.stack as usize >= stack_count {
            return Err(corrupt(format!("sample {number} names stack {} of {stack_count}", form.stack)));
        }
        Ok(Sample {
            root: root.clone(),
            stack: StackId(form.stack),
            outcome: parse_outcome(form.outcome)?,
            state: form.state,
            holds_gil: form.holds_gil,
            is_idle: form.is_idle,
            count: form.count,
            weight_ns: form.weight_ns,
        })
    });
    samples.collect()
}

fn parse_outcome(number: u8) -> Result<Outcome> {
    Outcome::from_number(number).ok_or_else(|| corrupt(format!("unknown outcome {number}")))
}

fn parse_recording(form: RecordingForm<'_>) -> Result<Recording> {
    if !form.rate_changes.is_sorted_by_key(|change| change.at_ns) {
        return Err(corrupt("rate changes are not ascending"));
    }
    let change = |change: RateChangeForm| RateChange { at_ns: change.at_ns, period_ns: change.period_ns };
    let mut lost = BTreeMap::new();
    for loss in form.lost {
        if lost.insert(parse_outcome(loss.outcome)?, loss.count).is_some() {
            return Err(corrupt(format!("outcome {} is listed twice as lost", loss.outcome)));
        }
    }
    Ok(Recording {
        target: form.target.into_owned(),
        backend: form.backend.into_owned(),
        event: form.event.into_owned(),
        mode: form.mode,
        left_out: form.left_out,
        frequency_hz: form.frequency_hz,
        period_ns: form.period_ns,
        started_unix_ns: form.started_unix_ns,
        elapsed_ns: form.elapsed_ns,
        rate_changes: form.rate_changes.into_iter().map(change).collect(),
        switches_mended: form.switches_mended,
        lost,
        warnings: form.warnings.into_iter().map(Cow::into_owned).collect(),
        cost: Cost {
            own_cpu_ns: form.cost.own_cpu_ns,
            bpf_run_ns: form.cost.bpf_run_ns,
            bpf_runs: form.cost.bpf_runs,
            peak_rss_bytes: form.cost.peak_rss_bytes,
            bpf_memory_bytes: form.cost.bpf_memory_bytes,
            stops: form.cost.stops,
        },
    })
}

/// All captured and lost samples together, and all weights, fit in 64 bits, so that
/// whoever adds them up later need not check.
fn check_sums(profile: &Profile) -> Result<()> {
    let captured = profile.samples.iter().map(|sample| sample.count);
    let counts = captured.chain(profile.recording.lost.values().copied()).chain([profile.recording.left_out]);
    let weights = profile.samples.iter().map(|sample| sample.weight_ns);
    for (what, sum) in [("counts", checked_sum(counts)), ("weights", checked_sum(weights))] {
        sum.ok_or_else(|| corrupt(format!("the samples' {what} exceed 64 bits")))?;
    }
    Ok(())
}

fn checked_sum(mut numbers: impl Iterator<Item = u64>) -> Option<u64> {
    numbers.try_fold(0_u64, u64::checked_add)
}

fn corrupt(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

impl<'a> From<&'a Recording> for RecordingForm<'a> {
    fn from(recording: &'a Recording) -> Self {
        let changes = recording.rate_changes.iter();
        let lost = recording.lost.iter();
        let cost = recording.cost;
        Self {
            target: (&recording.target).into(),
            backend: (&recording.backend).into(),
            event: (&recording.event).into(),
            mode: recording.mode,
            left_out: recording.left_out,
            frequency_hz: recording.frequency_hz,
            period_ns: recording.period_ns,
            started_unix_ns: recording.started_unix_ns,
            elapsed_ns: recording.elapsed_ns,
            rate_changes: changes
                .map(|change| RateChangeForm { at_ns: change.at_ns, period_ns: change.period_ns })
                .collect(),
            switches_mended: recording.switches_mended,
            lost: lost.map(|(outcome, count)| LossForm { outcome: *outcome as u8, count: *count }).collect(),
            warnings: recording.warnings.iter().map(Cow::from).collect(),
            cost: CostForm {
                own_cpu_ns: cost.own_cpu_ns,
                bpf_run_ns: cost.bpf_run_ns,
                bpf_runs: cost.bpf_runs,
                peak_rss_bytes: cost.peak_rss_bytes,
                bpf_memory_bytes: cost.bpf_memory_bytes,
                stops: cost.stops,
            },
        }
    }
}

impl<'a> From<&'a Root> for RootForm<'a> {
    fn from(root: &'a Root) -> Self {
        let thread = root.thread.as_ref().map(|thread| ThreadForm {
            name: (&thread.name).into(),
            pid: thread.pid,
            tid: thread.tid,
        });
        Self { process: (&root.process).into(), thread }
    }
}

impl<'a> From<&'a Frame> for FrameForm<'a> {
    fn from(frame: &'a Frame) -> Self {
        Self {
            kind: frame.kind,
            function: (&*frame.function).into(),
            module: frame.module.as_deref().map(Cow::from),
            file: frame.file.as_deref().map(Cow::from),
            line: frame.line,
        }
    }
}

/// Compact JSON with a line break before each member of the outer object and
/// each element of its lists.
#[derive(Default)]
struct LineFormatter {
    depth: usize,
}

impl LineFormatter {
    fn separate<W: ?Sized + Write>(&self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b"," })?;
        writer.write_all(if self.depth <= 2 { b"\n" } else { b"" })
    }
}

impl Formatter for LineFormatter {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth += 1;
        CompactFormatter.begin_array(writer)
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        CompactFormatter.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.separate(writer, first)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth += 1;
        CompactFormatter.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        CompactFormatter.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.separate(writer, first)
    }
}
