//! Events, replayed in the order of time: who lives, what is mapped where, and
//! where in which file each sampled pc lies.

use std::collections::BTreeSet;

use super::capture::{Capture, PythonGap, RawFrame};
use super::codes::Codes;
use super::coverage::Coverage;
use super::module::{Modules, Rows};
use super::naming::JitMaps;
use super::process::{Place, Process, Processes};
use super::thread_names::ThreadNames;
use crate::model::profile::ThreadRoot;
use crate::model::{Avma, LookupAddress, Outcome, Root};
use crate::sampler::{Event, Tables};
use crate::symbolize::PerfMapReader;
use crate::sys::abi::{Counters, FRAME_INTERRUPTED, ProcessChange, PythonFrame, SampleRecord, comm_text};
use crate::sys::clock::monotonic_ns;
use crate::target::select::Selector;
use crate::unwind::python::merge::{Link, Merged, Piece, Wholeness, merge, own_frames};

/// How long after an exec the new program's libraries are looked for at once.
const EXEC_BURST_NS: u64 = 40_000_000;
/// Perf maps grow while we record; they are read further this often while they are of use.
const JIT_REFRESH_NS: u64 = 2_000_000_000;
/// Processes whose perf maps are read. Generated code of further ones is one frame without a name.
const MAX_JIT_MAPS: usize = 256;

/// All that events change.
pub(super) struct Replay {
    pub(super) processes: Processes,
    pub(super) modules: Modules,
    pub(super) coverage: Coverage,
    pub(super) capture: Capture,
    pub(super) codes: Codes,
    pub(super) jit: JitMaps,
    thread_names: ThreadNames,
    jit_refreshed_ns: u64,
    /// Decides about processes that start later.
    selector: Option<Selector>,
    follow_children: bool,
    per_thread: bool,
    /// Found by name or cgroup while recording; to be added as targets.
    pub(super) newcomers: Vec<u32>,
    /// Until then programs have just started and new mappings are looked for at once.
    pub(super) burst_until_ns: u64,
    pub(super) samples: u64,
    /// Interpreters that were given up, each a sentence.
    doubts: BTreeSet<String>,
}

/// Doubts kept; one is enough to act upon.
const MAX_DOUBTS: usize = 8;

impl Replay {
    pub(super) fn new(
        coverage: Coverage,
        selector: Option<Selector>,
        follow_children: bool,
        per_thread: bool,
    ) -> Self {
        Self {
            processes: Processes::new(),
            modules: Modules::default(),
            coverage,
            capture: Capture::default(),
            codes: Codes::default(),
            jit: JitMaps::new(),
            thread_names: ThreadNames::default(),
            jit_refreshed_ns: 0,
            selector,
            follow_children,
            per_thread,
            newcomers: Vec::new(),
            burst_until_ns: 0,
            samples: 0,
            doubts: BTreeSet::new(),
        }
    }

    /// Whether processes that start later may become targets.
    pub(super) fn watches(&self) -> bool {
        self.selector.is_some()
    }

    pub(super) fn apply(&mut self, tables: &mut Tables, event: Event<'_>) {
        match event {
            Event::Sample(sample, weight_ns) => self.add_sample(tables, &sample, weight_ns),
            Event::Task(record) => {
                if let Some(python) = self.processes.get(&record.pid).and_then(|p| p.python.walked()) {
                    self.codes.add_task(&record, python);
                }
            }
            Event::Code(record) => {
                if let Some(python) = self.processes.get(&record.pid).and_then(|p| p.python.walked()) {
                    self.codes.add(&record, python);
                }
            }
            Event::Mapped(record) => {
                if let Some(process) = self.processes.get_mut(&record.pid) {
                    process.map(record.mapping, &mut self.modules);
                }
            }
            Event::Process { pid, change, .. } => self.apply_change(tables, pid, change),
            Event::MappingsLost => {
                self.scan_all();
            }
            Event::Kept(_) => {}
        }
    }

    /// Reads all targets' mappings anew.
    pub(super) fn scan_all(&mut self) {
        let now_ns = monotonic_ns();
        for (pid, process) in &mut self.processes {
            let _gone = process.scan(*pid, &mut self.modules, now_ns);
        }
    }

    fn apply_change(&mut self, tables: &mut Tables, pid: u32, change: ProcessChange) {
        match change {
            ProcessChange::Fork { parent } => {
                let followed = self.processes.get(&parent).filter(|_| self.follow_children).cloned();
                match followed {
                    Some(mut child) => {
                        if let Some((slice, _)) = child.slice {
                            tables.share_slice(slice);
                        }
                        // A child that was found before its birth was told has a slice of its own.
                        child.is_dirty |= self.processes.contains_key(&pid);
                        self.bury(tables, pid);
                        self.processes.insert(pid, child);
                    }
                    None => self.consider(pid),
                }
            }
            ProcessChange::Exec => match self.processes.get_mut(&pid) {
                Some(process) => {
                    let now_ns = monotonic_ns();
                    if let Some((slice, _)) = process.slice.take() {
                        tables.release_slice(slice);
                    }
                    *process = Process { is_dirty: true, ..Process::default() };
                    if process.scan(pid, &mut self.modules, now_ns).is_ok() {
                        self.coverage.prefetch(pid, process, &mut self.modules);
                    }
                    self.burst_until_ns = now_ns + EXEC_BURST_NS;
                }
                None => self.consider(pid),
            },
            ProcessChange::Exit => self.bury(tables, pid),
        }
    }

    /// Forgets a process that is gone.
    pub(super) fn bury(&mut self, tables: &mut Tables, pid: u32) {
        if let Some((slice, _)) = self.processes.remove(&pid).and_then(|process| process.slice) {
            tables.release_slice(slice);
        }
    }

    /// A process that is no target may have become one by its new name or cgroup.
    fn consider(&mut self, pid: u32) {
        if self.selector.as_ref().is_some_and(|selector| selector.matches(pid)) {
            self.newcomers.push(pid);
        }
    }

    fn add_sample(&mut self, tables: &mut Tables, sample: &SampleRecord<'_>, weight_ns: u64) {
        self.samples += 1;
        let pid = sample.pid;
        let mut outcome = Outcome::from_number(sample.outcome).unwrap_or(Outcome::UnsupportedRule);
        let process = self.processes.entry(pid).or_default();
        if process.scanned_ns == 0 && process.mappings.is_empty() {
            let _gone = process.scan(pid, &mut self.modules, monotonic_ns());
        }
        let mut frames: Vec<RawFrame> = Vec::with_capacity(sample.user_frames().len() + 8);
        let mut last_table = None;
        for (index, word) in sample.user_frames().enumerate() {
            let pc = Avma(word & !FRAME_INTERRUPTED);
            let exact = index == 0 || word & FRAME_INTERRUPTED != 0;
            let lookup = if exact { LookupAddress::Interrupted(pc) } else { LookupAddress::Return(pc) };
            let place = place(process, sample, lookup.avma(), &mut self.modules);
            if let Place::Module(id, _) = place
                && let Rows::Placed(table) = self.modules.get(id).rows
                && last_table.replace(table) != Some(table)
            {
                tables.touch(table, sample.time_ns);
            }
            frames.push(raw_frame(place, pid, lookup.avma(), &mut self.jit));
        }
        if outcome == Outcome::TableNotLoaded
            && let Some(RawFrame::Module(id, svma)) = frames.last()
        {
            self.coverage.want(*id, Some(*svma), &mut self.modules);
        }
        if outcome == Outcome::UnknownMapping && frames.last() != Some(&RawFrame::Unknown) {
            // It is known by now: the walker was told too late.
            outcome = Outcome::MappingsNotLoaded;
        }
        let mapped_python = |frame: &RawFrame| match frame {
            RawFrame::Module(id, _) => self.modules.get(*id).python.is_some(),
            _ => false,
        };
        if process.python.is_open() && frames.iter().any(mapped_python) {
            // It was loaded under us; the walker is told with the next tick.
            process.is_dirty = true;
        }
        let was_walked = process.python.walked().is_some();
        let greenlet = greenlet_frames(&frames, process, sample, &self.modules);
        if let Some(count) = greenlet {
            // What lies below is another stack, of another moment even; whether its end was found says nothing.
            frames.truncate(count);
            outcome = Outcome::Complete;
        }
        let mut frames = with_python(frames, process, sample, outcome, &self.codes);
        frames.extend(greenlet.map(|_| RawFrame::Greenlet));
        if was_walked && process.python.walked().is_none() {
            process.is_dirty = true;
            self.doubts.insert(format!(
                "Python frames of {} (pid {pid}) contradict its native stack: it is seen as a C program",
                comm_text(&sample.process_comm)
            ));
        }
        if self.per_thread && sample.thread_pointer != 0 {
            self.thread_names.note(pid, sample.tid, sample.thread_pointer);
        }
        let root = self.root_of(sample);
        let root_first = frames.into_iter().rev().chain(kernel_frames(sample).into_iter().rev());
        self.capture.add(&root, root_first, outcome, sample.holds_gil, weight_ns);
    }

    fn root_of(&self, sample: &SampleRecord<'_>) -> Root {
        let thread = self.per_thread.then(|| ThreadRoot {
            name: comm_text(&sample.thread_comm),
            pid: sample.pid,
            tid: sample.tid,
        });
        Root { process: comm_text(&sample.process_comm), thread }
    }

    /// Asks Python programs for the names of threads that have none, when it is time.
    pub(super) fn name_threads_now_and_then(&mut self, now_ns: u64) {
        let Self { thread_names, processes, .. } = self;
        thread_names.refresh(now_ns, |pid| processes.get(&pid)?.python.walked());
    }

    /// Asks Python programs for the names of their threads for the last time, and calls the threads so.
    pub(super) fn name_threads(&mut self) {
        let Self { thread_names, processes, capture, .. } = self;
        thread_names.refresh_all(monotonic_ns(), |pid| processes.get(&pid)?.python.walked());
        capture.rename_threads(|thread| thread_names.find(thread.pid, thread.tid).map(str::to_owned));
    }

    /// Reads perf maps further, when it is time.
    pub(super) fn refresh_jit_now_and_then(&mut self, now_ns: u64) {
        if !self.jit.is_empty() && now_ns >= self.jit_refreshed_ns + JIT_REFRESH_NS {
            self.refresh_jit();
            self.jit_refreshed_ns = now_ns;
        }
    }

    /// Reads perf maps as far as they go.
    pub(super) fn refresh_jit(&mut self) {
        for reader in self.jit.values_mut() {
            let _unreadable_is_unnamed = reader.refresh();
        }
    }

    /// What the user should know at the end.
    pub(super) fn warnings(&self, tables: &Tables, counters: Counters, undecodable: u64) -> Vec<String> {
        let mut warnings = self.coverage.warnings.clone();
        warnings.extend(self.modules.unreadable.iter().cloned());
        warnings.extend(self.doubts.iter().take(MAX_DOUBTS).cloned());
        let used = tables.used();
        let counted = [
            (counters.processes_full, "child processes were not followed: more than 8192 targets at once"),
            (counters.events_lost, "process events were lost: the ring was full"),
            (used.slices_refused, "times the mappings of a process found no room: frame pointers only"),
            (used.pages_refused, "times unwind rows found no room at first; stacks there were cut meanwhile"),
            (undecodable, "records could not be decoded"),
            (self.codes.refused, "Python functions found no room for their names"),
        ];
        let told = counted.iter().filter(|(count, _)| *count > 0);
        warnings.extend(told.map(|(count, what)| format!("{count} {what}")));
        warnings
    }
}

/// The kernel's part of a stack, leaf first.
fn kernel_frames(sample: &SampleRecord<'_>) -> Vec<RawFrame> {
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
fn greenlet_frames(
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
fn with_python(
    frames: Vec<RawFrame>,
    process: &mut Process,
    sample: &SampleRecord<'_>,
    outcome: Outcome,
    codes: &Codes,
) -> Vec<RawFrame> {
    let instance = sample.python_instance;
    if instance == 0 || process.python.walked().is_none_or(|python| python.instance != instance) {
        return frames;
    }
    if process.python.is_unready(frames.first()) {
        let gap = RawFrame::PythonGap(PythonGap::Cut(Outcome::PythonEntering));
        return frames.into_iter().chain([gap]).collect();
    }
    let python: Vec<PythonFrame> = sample.python_frames().collect();
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
fn python_frame(frame: &PythonFrame, instance: u32, codes: &Codes) -> Option<RawFrame> {
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
fn place(process: &mut Process, sample: &SampleRecord<'_>, address: Avma, modules: &mut Modules) -> Place {
    let known = process.place(sample.pid, address, modules);
    if known != Place::Unknown || !process.may_scan(sample.time_ns) {
        return known;
    }
    let _gone = process.scan(sample.pid, modules, monotonic_ns());
    let found = process.place(sample.pid, address, modules);
    process.futile_scans = if found == Place::Unknown { process.futile_scans + 1 } else { 0 };
    found
}

fn raw_frame(place: Place, pid: u32, address: Avma, jit: &mut JitMaps) -> RawFrame {
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
