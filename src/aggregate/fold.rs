//! Folding: every sample becomes a path from its process to its leaf, and
//! equal paths are summed.
//!
//! ```text
//! postgres ; [truncated: …] ; main ; serve ; read_[k]     12
//! process    only if cut      outermost … leaf            weight
//! ```
//!
//! A stack that does not reach its thread's start has a marker where the
//! missing part would be, directly below process and thread, so that its
//! outermost known function never passes for the thread's first.
//!
//! Which frames are shown, the [`View`] and the [`HiddenFiles`] decide; the
//! time of those that are not belongs to their callers, at last to the process.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use ahash::AHashMap;

use super::hidden::HiddenFiles;
use super::name::harmless;
use super::view::{NO_PYTHON, Sight, View};
use crate::model::{Frame, FrameKind, Outcome, Profile, Root, Sample, WeightUnit};

/// What a fold shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoldOptions {
    /// Whether frames show file and line.
    pub lines: bool,
    /// Whether the kernel's frames are shown.
    pub kernel: bool,
    /// What the numbers count.
    pub unit: WeightUnit,
    /// Which frames of a stack are shown.
    pub view: View,
    /// Whether waits of threads that had nothing to do are left out.
    pub hide_idle: bool,
    /// Python files whose functions are not shown in any view; usually at most
    /// [`MAX_HIDDEN`](super::hidden::MAX_HIDDEN).
    pub hidden: Vec<HiddenFiles>,
}

impl Default for FoldOptions {
    fn default() -> Self {
        Self {
            lines: false,
            kernel: true,
            unit: WeightUnit::Samples,
            view: View::default(),
            hide_idle: false,
            hidden: Vec::new(),
        }
    }
}

/// What a frame of a fold stands for. The order is that of siblings of equal name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FoldKind {
    /// A process or thread.
    Root,
    /// A call or a marker.
    Frame(FrameKind),
    /// Calls that the view leaves out, where it leaves out a whole stack.
    NotShown,
}

/// A frame as it is shown. Two frames with equal fields are the same frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FoldFrame {
    /// A [`harmless`] name, with ` (file:line)` behind it if asked for; of Python always with ` (file)`.
    pub name: String,
    /// What it stands for.
    pub kind: FoldKind,
    /// The module's harmless name, of Python the file's whole path, when the fold tells modules apart.
    pub module: Option<String>,
}

/// A path and its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoldedStack {
    /// Indices into [`Fold::frames`], root first, never empty.
    pub frames: Box<[u32]>,
    /// Sum of the samples' weights, above 0, saturating.
    pub weight_ns: u64,
}

/// A folded profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fold {
    /// Distinct frames, ascending.
    pub frames: Vec<FoldFrame>,
    /// Distinct paths, ascending by their frames from the root on, so that
    /// paths with a common beginning are neighbours.
    pub stacks: Vec<FoldedStack>,
}

impl Fold {
    /// Folds `profile`. With `modules`, functions of one name in two modules, or
    /// in two files of Python, are two frames. Samples of no weight, and idle ones
    /// that are hidden, leave no trace.
    pub fn new(profile: &Profile, options: &FoldOptions, modules: bool) -> Self {
        let mut folder = Folder::new(profile, options, modules);
        let is_shown = |sample: &&Sample| sample.weight_ns > 0 && !(options.hide_idle && sample.is_idle);
        let stacks = profile.samples.iter().filter(is_shown);
        let stacks = stacks.map(|sample| (folder.path(sample), sample.weight_ns)).collect();
        sort_and_merge(folder.frames, stacks)
    }
}

/// Gives each path its number so that the numbers add up: a value is the
/// rounded running total less what was given before, so the sum of all values is
/// the rounded sum of all weights and no value is off by one or more.
#[derive(Clone, Copy, Debug)]
pub struct UnitCounter {
    unit_ns: u128,
    total_ns: u128,
    given: u128,
}

impl UnitCounter {
    /// Counts in `unit`; a sample is `period_ns` long (0 counts as 1).
    pub fn new(unit: WeightUnit, period_ns: u64) -> Self {
        let unit_ns = match unit {
            WeightUnit::Samples => u128::from(period_ns.max(1)),
            WeightUnit::Nanoseconds => 1,
        };
        Self { unit_ns, total_ns: 0, given: 0 }
    }

    /// The value of the next path; may be 0 for a weight below one unit.
    pub fn value(&mut self, weight_ns: u64) -> u64 {
        self.total_ns += u128::from(weight_ns);
        let due = (self.total_ns + self.unit_ns / 2) / self.unit_ns - self.given;
        self.given += due;
        u64::try_from(due).unwrap_or(u64::MAX)
    }
}

/// Interns frames in order of appearance.
struct Folder<'a> {
    profile: &'a Profile,
    options: &'a FoldOptions,
    modules: bool,
    frames: AHashMap<FoldFrame, u32>,
    /// Fold frame of each profile frame, once it was needed; within, `None` for one that is never shown.
    of_frame: Vec<Option<Option<u32>>>,
    of_root: HashMap<&'a Root, Vec<u32>>,
}

impl<'a> Folder<'a> {
    fn new(profile: &'a Profile, options: &'a FoldOptions, modules: bool) -> Self {
        Self {
            profile,
            options,
            modules,
            // Growing would hash all names again.
            frames: AHashMap::with_capacity(profile.frames.len()),
            of_frame: vec![None; profile.frames.len()],
            of_root: HashMap::new(),
        }
    }

    fn path(&mut self, sample: &'a Sample) -> Box<[u32]> {
        let mut path = self.root(&sample.root).to_vec();
        let kernel_missing = sample.outcome == Outcome::KernelStackFailed;
        let reaches_start = sample.outcome.is_complete() || kernel_missing;
        if !reaches_start {
            path.push(self.marker(format!("[truncated: {}]", sample.outcome.text())));
        }
        let view = self.options.view;
        let mut sight = Sight::new(view, self.profile.frames_of(sample.stack).rev(), reaches_start);
        let has_calls = || self.profile.frames_of(sample.stack).any(|frame| !frame.kind.is_wait());
        if sight.is_empty() && has_calls() {
            path.push(intern(&mut self.frames, named(FoldKind::NotShown, NO_PYTHON)));
        }
        let stack = self.profile.stacks.get(sample.stack.0 as usize);
        for index in stack.into_iter().flatten().rev() {
            let frame = self.profile.frames.get(*index as usize);
            if frame.is_some_and(|frame| sight.shows(frame)) {
                path.extend(self.frame(*index));
            }
        }
        // Here the leaf side is missing, not the root's.
        if kernel_missing && self.options.kernel && view != View::PythonOnly {
            path.push(self.marker(format!("[{}]", sample.outcome.text())));
        }
        path.into()
    }

    fn root(&mut self, root: &'a Root) -> &[u32] {
        let frames = &mut self.frames;
        self.of_root.entry(root).or_insert_with(|| {
            let names = match &root.thread {
                None => vec![root.process.clone()],
                Some(thread) => vec![
                    format!("{}-{}", root.process, thread.pid),
                    format!("{}-{}", thread.name, thread.tid),
                ],
            };
            names.iter().map(|name| intern(frames, named(FoldKind::Root, name))).collect()
        })
    }

    fn marker(&mut self, text: String) -> u32 {
        intern(&mut self.frames, named(FoldKind::Frame(FrameKind::Marker), &text))
    }

    /// `None` for frames that are not shown whatever the stack, and for an index out of range.
    fn frame(&mut self, index: u32) -> Option<u32> {
        let frame = self.profile.frames.get(index as usize)?;
        let cached = self.of_frame.get_mut(index as usize)?;
        *cached.get_or_insert_with(|| {
            let is_hidden = frame.kind == FrameKind::Kernel && !self.options.kernel
                || self.options.hidden.iter().any(|files| files.hide(frame));
            (!is_hidden).then(|| intern(&mut self.frames, shown(frame, self.options.lines, self.modules)))
        })
    }
}

fn named(kind: FoldKind, name: &str) -> FoldFrame {
    FoldFrame { name: harmless(name), kind, module: None }
}

fn shown(frame: &Frame, lines: bool, modules: bool) -> FoldFrame {
    let is_python = frame.kind == FrameKind::Python;
    let mut name = harmless(&frame.function);
    if let (true, Some(file)) = (lines || is_python, &frame.file) {
        let file = base_name(file);
        let line = frame.line.filter(|_| lines);
        let place = line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}"));
        name = format!("{name} ({})", harmless(&place));
    }
    let module = if is_python { &frame.file } else { &frame.module };
    let module = module.as_deref().filter(|_| modules).map(harmless);
    FoldFrame { name, kind: FoldKind::Frame(frame.kind), module }
}

/// What follows the last `/`, but all of what is no path: `<frozen importlib._bootstrap>`, `<a/b>`.
fn base_name(file: &str) -> &str {
    let is_path = !(file.starts_with('<') && file.ends_with('>'));
    file.rsplit('/').next().filter(|_| is_path).unwrap_or(file)
}

fn intern(frames: &mut AHashMap<FoldFrame, u32>, frame: FoldFrame) -> u32 {
    // Fewer than u32::MAX: each of the profile's frames, itself numbered by u32, adds at most one,
    // and a profile with that many roots beside them does not fit in memory.
    let next = frames.len() as u32;
    match frames.entry(frame) {
        Entry::Occupied(known) => *known.get(),
        Entry::Vacant(new) => *new.insert(next),
    }
}

/// Renumbers the frames in ascending order, sorts the paths and sums equal ones.
fn sort_and_merge(frames: AHashMap<FoldFrame, u32>, mut stacks: Vec<(Box<[u32]>, u64)>) -> Fold {
    let mut sorted: Vec<(FoldFrame, u32)> = frames.into_iter().collect();
    sorted.sort_unstable();
    let mut rank = vec![0; sorted.len()];
    for (new, (_, old)) in sorted.iter().enumerate() {
        rank[*old as usize] = new as u32;
    }
    for (path, _) in &mut stacks {
        path.iter_mut().for_each(|index| *index = rank[*index as usize]);
    }
    stacks.sort_unstable();
    let mut merged: Vec<FoldedStack> = Vec::new();
    for (frames, weight_ns) in stacks {
        match merged.last_mut() {
            Some(last) if last.frames == frames => last.weight_ns = last.weight_ns.saturating_add(weight_ns),
            _ => merged.push(FoldedStack { frames, weight_ns }),
        }
    }
    Fold { frames: sorted.into_iter().map(|(frame, _)| frame).collect(), stacks: merged }
}
