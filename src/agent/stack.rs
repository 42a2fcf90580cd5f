//! From what the walker noted to the frames of one stack: where each pc lies,
//! and Python's functions in the places of the interpreter's loops.

use super::capture::{PythonGap, RawFrame};
use super::codes::Codes;
use super::module::Modules;
use super::naming::JitMaps;
use super::process::{Place, Process};
use crate::model::{Avma, LookupAddress, Outcome};
use crate::symbolize::PerfMapReader;
use crate::sys::abi::{PythonFrame, SampleRecord};
use crate::sys::clock::monotonic_ns;
use crate::unwind::python::merge::{Link, Merged, Piece, Wholeness, merge, own_frames};

/// Processes whose perf maps are read. Generated code of further ones is one frame without a name.
const MAX_JIT_MAPS: usize = 256;

/// A stack by addresses.
#[derive(Clone, Debug)]
pub(super) struct Stack {
    /// What ran in user mode, leaf first.
    pub frames: Vec<RawFrame>,
    /// What ran in the kernel for it, leaf first.
    pub kernel: Vec<RawFrame>,
    /// How the walk ended.
    pub outcome: Outcome,
}

impl Stack {
    /// The kernel's part alone.
    pub(super) fn of_kernel(sample: &SampleRecord<'_>) -> Self {
        Self { frames: Vec::new(), kernel: kernel_frames(sample), outcome: Outcome::Complete }
    }

    /// The innermost Python function.
    pub(super) fn python_function(&self) -> Option<RawFrame> {
        self.frames.iter().find(|frame| matches!(frame, RawFrame::Python(..))).copied()
    }

    /// Both parts, root first.
    pub(super) fn root_first(&self) -> impl Iterator<Item = RawFrame> + '_ {
        self.frames.iter().rev().chain(self.kernel.iter().rev()).copied()
    }
}

/// The kernel's part of a stack, leaf first.
pub(super) fn kernel_frames(sample: &SampleRecord<'_>) -> Vec<RawFrame> {
    let frames = sample.kernel_frames().enumerate().map(|(index, pc)| {
        let pc = Avma(pc);
        let lookup = if index == 0 { LookupAddress::Interrupted(pc) } else { LookupAddress::Return(pc) };
        RawFrame::Kernel(lookup.avma())
    });
    frames.collect()
}

fn links(python: &[PythonFrame]) -> Vec<Link> {
    python.iter().map(|frame| Link { is_entry: frame.is_entry, is_empty: frame.is_empty }).collect()
}

fn python_outcome(sample: &SampleRecord<'_>) -> Outcome {
    Outcome::from_number(sample.python_outcome).unwrap_or(Outcome::UnsupportedRule)
}

/// How many of `frames`, leaf first, are of the greenlet that runs; `None` if none does.
pub(super) fn greenlet_frames(
    frames: &[RawFrame],
    process: &Process,
    sample: &SampleRecord<'_>,
    modules: &Modules,
) -> Option<usize> {
    let is_greenlet = |frame: &RawFrame| match frame {
        RawFrame::Module(id, _) => modules.get(*id).is_greenlet,
        _ => false,
    };
    let is_followed = sample.python_instance != 0 && python_outcome(sample).is_complete();
    if !is_followed || !frames.iter().any(is_greenlet) {
        return None;
    }
    let is_loop: Vec<bool> = frames.iter().map(|frame| process.python.is_loop(frame)).collect();
    let python: Vec<PythonFrame> = sample.python_frames().collect();
    own_frames(&is_loop, |index| is_greenlet(&frames[index]), &links(&python))
}

/// `frames` with those of the interpreter in their places, leaf first.
pub(super) fn with_python(
    frames: Vec<RawFrame>,
    process: &mut Process,
    sample: &SampleRecord<'_>,
    outcome: Outcome,
    codes: &Codes,
) -> Vec<RawFrame> {
    let instance = sample.python_instance;
    if instance == 0 && frames.iter().any(|frame| process.python.is_loop(frame)) {
        process.python.check(sample, &[], codes, &process.mappings);
    }
    if instance == 0 || process.python.walked().is_none_or(|python| python.instance != instance) {
        return frames;
    }
    if process.python.is_unready(frames.first()) {
        let gap = RawFrame::PythonGap(PythonGap::Cut(Outcome::PythonEntering));
        return frames.into_iter().chain([gap]).collect();
    }
    let python: Vec<PythonFrame> = sample.python_frames().collect();
    if !process.python.check(sample, &python, codes, &process.mappings) {
        return frames.into_iter().chain([RawFrame::PythonGap(PythonGap::Disagreement)]).collect();
    }
    let is_loop: Vec<bool> = frames.iter().map(|frame| process.python.is_loop(frame)).collect();
    let python_outcome = python_outcome(sample);
    let whole = Wholeness { native: outcome.is_complete(), python: python_outcome.is_complete() };
    let merged = merge(&is_loop, &links(&python), whole);
    process.python.judge(merged.is_ok() && python.iter().all(|frame| !frame.is_unread));
    let Ok(Merged { pieces, lacks_callers }) = merged else {
        return frames.into_iter().chain([RawFrame::PythonGap(PythonGap::Disagreement)]).collect();
    };
    let task = sample.task.map(RawFrame::Task);
    let last = pieces.iter().rposition(|piece| matches!(piece, Piece::Python(_)));
    let cut = match whole.python {
        false => Some(RawFrame::PythonGap(PythonGap::Cut(python_outcome))),
        true => lacks_callers.then_some(RawFrame::PythonGap(PythonGap::Callers)),
    };
    let mut all = Vec::with_capacity(pieces.len() + 1);
    if last.is_none() {
        all.extend(cut);
    }
    for (index, piece) in pieces.iter().enumerate() {
        all.extend(match *piece {
            Piece::Native(native) => frames.get(native).copied(),
            Piece::Python(number) => {
                python.get(number).and_then(|frame| python_frame(frame, instance, codes))
            }
        });
        if last == Some(index) {
            all.extend(cut);
            all.extend(task);
        }
    }
    all
}

/// `None` for frames that are nobody's.
pub(super) fn python_frame(frame: &PythonFrame, instance: u32, codes: &Codes) -> Option<RawFrame> {
    if frame.is_unread {
        return Some(RawFrame::PythonGap(PythonGap::Unread));
    }
    match codes.find(instance, frame.code, frame.cookie) {
        Some(id) if codes.is_glue(id) => None,
        Some(id) => Some(RawFrame::Python(id, frame.offset)),
        None => Some(RawFrame::PythonGap(PythonGap::Untold)),
    }
}

/// Where `address` lay when the sample was taken; unknown addresses are a reason to read the
/// mappings anew, at growing intervals.
pub(super) fn place(
    process: &mut Process,
    sample: &SampleRecord<'_>,
    address: Avma,
    modules: &mut Modules,
) -> Place {
    let known = process.place(sample.pid, address, modules);
    if known != Place::Unknown || !process.may_scan(sample.time_ns) {
        return known;
    }
    let _gone = process.scan(sample.pid, modules, monotonic_ns());
    let found = process.place(sample.pid, address, modules);
    process.futile_scans = if found == Place::Unknown { process.futile_scans + 1 } else { 0 };
    found
}

pub(super) fn raw_frame(place: Place, pid: u32, address: Avma, jit: &mut JitMaps) -> RawFrame {
    match place {
        Place::Module(id, svma) => RawFrame::Module(id, svma),
        Place::Offset(id, offset) => RawFrame::Offset(id, offset),
        Place::Unknown => RawFrame::Unknown,
        Place::Anonymous => {
            if !jit.contains_key(&pid) {
                if jit.len() >= MAX_JIT_MAPS {
                    return RawFrame::Jit(0, Avma(0));
                }
                // At once: the process may be gone before the next refresh.
                let mut reader = PerfMapReader::new(pid);
                let _unreadable_is_unnamed = reader.refresh();
                jit.insert(pid, reader);
            }
            RawFrame::Jit(pid, address)
        }
    }
}
