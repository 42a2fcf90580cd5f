//! Events, replayed in the order of time: who lives, what is mapped where, and
//! where in which file each sampled pc lies.

use std::collections::BTreeSet;

use tracing::{debug, warn};

use super::capture::{Capture, CaughtStack, RawFrame, Tally};
use super::codes::Codes;
use super::coverage::Coverage;
use super::losses::Loss;
use super::module::{Modules, Rows};
use super::naming::JitMaps;
use super::pool::Call;
use super::process::Place;
use super::process::{Process, Processes};
use super::requests::{Requests, untagged};
use super::stack::{Stack, greenlet_frames, kernel_frames, place, python_frame, raw_frame, with_python};
use super::thread_names::ThreadNames;
use super::waits::{Waits, thread_root};
use crate::model::{Avma, LookupAddress, Outcome, Root, ThreadState, ThreadTimes};
use crate::sampler::{Event, Tables};
use crate::sys::abi::{Counters, FRAME_INTERRUPTED, ProcessChange, SampleRecord, comm_text};
use crate::sys::clock::monotonic_ns;
use crate::sys::errand_record::{ErrandCall, ErrandRecord};
use crate::sys::wait_record::{WaitPart, WaitRecord};
use crate::target::procfs;
use crate::target::select::Selector;

/// How long after an exec the new program's libraries are looked for at once.
const EXEC_BURST_NS: u64 = 40_000_000;
/// Nodes of a capture whose stacks requests are cut out of, 60 bytes each, and as many of the one before it.
const MAX_FOLLOWED_NODES: usize = 150_000;
/// Perf maps grow while we record; they are read further this often while they are of use.
const JIT_REFRESH_NS: u64 = 2_000_000_000;

/// All that events change.
pub(super) struct Replay {
    pub(super) processes: Processes,
    /// Processes that became targets so far, and those of them that are gone.
    pub(super) met: u64,
    pub(super) gone: u64,
    pub(super) modules: Modules,
    pub(super) coverage: Coverage,
    pub(super) capture: Capture,
    pub(super) codes: Codes,
    pub(super) jit: JitMaps,
    pub(super) waits: Waits,
    pub(super) thread_names: ThreadNames,
    /// Requests are followed, and nothing is summed.
    pub(super) requests: Option<Requests>,
    jit_refreshed_ns: u64,
    /// Decides about processes that start later.
    selector: Option<Selector>,
    follow_children: bool,
    per_thread: bool,
    /// Waits are told too, so threads are kept apart until the end.
    pub(super) sees_waits: bool,
    /// Found by name or cgroup while recording; to be added as targets.
    pub(super) newcomers: Vec<u32>,
    /// To be looked at again: when they started nothing could be read.
    unseen: Vec<u32>,
    /// Until then programs have just started and new mappings are looked for at once.
    pub(super) burst_until_ns: u64,
    pub(super) samples: u64,
    /// Interpreters that were given up, each a sentence.
    doubts: BTreeSet<String>,
}

/// Doubts kept and told; one is enough to act upon.
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
            met: 0,
            gone: 0,
            modules: Modules::default(),
            coverage,
            capture: Capture::default(),
            codes: Codes::default(),
            jit: JitMaps::new(),
            waits: Waits::default(),
            thread_names: ThreadNames::default(),
            requests: None,
            jit_refreshed_ns: 0,
            selector,
            follow_children,
            per_thread,
            sees_waits: false,
            newcomers: Vec::new(),
            unseen: Vec::new(),
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
            Event::Wait(record) => self.apply_wait(tables, &record),
            Event::Thread(record) => {
                if let Some(requests) = &mut self.requests {
                    requests.note_end(&record);
                }
                self.waits.add_thread(&record);
            }
            Event::Lane(record) => {
                if let Some(requests) = &mut self.requests {
                    requests.apply(&record);
                }
            }
            Event::Errand(record) => self.apply_errand(&record),
            Event::Kept(_) => {}
        }
        if let Some(requests) = &mut self.requests {
            requests.take(&mut self.capture);
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
                        self.meet(pid, child);
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
                    debug!(pid, name = comm_of(pid), "a process runs another program");
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

    /// Follows requests from here on; what threads did of late takes at most `ring_bytes`.
    pub(super) fn follow_requests(&mut self, ring_bytes: usize) {
        self.requests = Some(Requests::new(ring_bytes));
        self.capture = Capture::journaling();
    }

    /// Begins a new capture when the stacks of the present one take too much room. What waits now has no stack then.
    /// Whether it did.
    pub(super) fn retire_stacks(&mut self) -> bool {
        let Some(requests) = &mut self.requests else { return false };
        self.waits.forget_sums();
        let is_full = self.capture.node_count() > MAX_FOLLOWED_NODES;
        if is_full {
            requests.retire(std::mem::replace(&mut self.capture, Capture::journaling()));
            // What waits refer to are stacks of the old capture.
            self.waits = Waits::default();
            self.thread_names = ThreadNames::default();
        }
        is_full
    }

    /// A process is a target from here on.
    pub(super) fn meet(&mut self, pid: u32, process: Process) {
        if self.processes.insert(pid, process).is_none() {
            self.met += 1;
            debug!(pid, name = comm_of(pid), "a process is watched");
        }
    }

    /// Forgets a process that is gone.
    pub(super) fn bury(&mut self, tables: &mut Tables, pid: u32) {
        if let Some(requests) = &mut self.requests {
            requests.bury(pid);
        }
        let Some(process) = self.processes.remove(&pid) else { return };
        self.gone += 1;
        debug!(pid, "a process is gone");
        if let Some((slice, _)) = process.slice {
            tables.release_slice(slice);
        }
    }

    /// A process that is no target may have become one by its new name or cgroup. Its birth and its program may be told
    /// at once.
    fn consider(&mut self, pid: u32) {
        let Some(selector) = self.selector.as_ref().filter(|_| !self.newcomers.contains(&pid)) else {
            return;
        };
        if selector.matches(pid) {
            self.newcomers.push(pid);
        } else if procfs::is_blind() && !self.unseen.contains(&pid) {
            self.unseen.push(pid);
        }
    }

    /// Looks again at processes that could not be looked at when they started, and returns how many still cannot.
    pub(super) fn consider_unseen(&mut self) -> usize {
        let unseen = std::mem::take(&mut self.unseen);
        unseen.into_iter().filter(|pid| procfs::is_there(*pid)).for_each(|pid| self.consider(pid));
        self.unseen.len()
    }

    fn add_sample(&mut self, tables: &mut Tables, sample: &SampleRecord<'_>, weight_ns: u64) {
        self.samples += 1;
        if self.waits.is_over(sample.pid, sample.tid, sample.time_ns) {
            return;
        }
        let root = self.root_of(sample);
        let stack = self.stack_of(tables, sample);
        let caught = CaughtStack::empty(stack.outcome, sample.holds_gil);
        let caught = self.capture.extend(caught, stack.root_first());
        self.capture.add(
            &root,
            caught,
            ThreadState::Running,
            Tally { count: 1, weight_ns, at_ns: sample.time_ns, coroutine: sample.coroutine },
        );
    }

    fn apply_wait(&mut self, tables: &mut Tables, record: &WaitRecord<'_>) {
        if self.waits.is_over(record.pid, record.tid, record.time_ns) {
            return;
        }
        if let Some(requests) = &mut self.requests {
            requests.note_wait(record);
        }
        let python = self.processes.get(&record.pid).and_then(|process| process.python.walked());
        let holder = record.holder.and_then(|holder| holder.frame).zip(python);
        let holder = holder.and_then(|(frame, python)| python_frame(&frame, python.instance, &self.codes));
        match &record.part {
            WaitPart::More => self.waits.add_more(record, holder, &mut self.capture),
            WaitPart::HandedOver => self.waits.note_handover(record, holder),
            WaitPart::Woken(sample) => {
                // Who is no target has no mappings here; where it stood in the kernel is known all the same.
                let stack = match self.processes.contains_key(&sample.pid) {
                    true => self.stack_of(tables, sample),
                    false => Stack::of_kernel(sample),
                };
                self.waits.note_waker(record, stack);
            }
            WaitPart::Whole(sample) | WaitPart::Opened(sample) => {
                self.samples += 1;
                let root = self.thread_root_of(sample);
                let stack = self.stack_of(tables, sample);
                self.waits.add(record, (root, stack), holder, &mut self.capture);
            }
        }
    }

    /// Work may have been given to a thread of a pool, or done.
    fn apply_errand(&mut self, record: &ErrandRecord<'_>) {
        let Self { processes, codes, requests, .. } = self;
        let python = processes.get(&record.pid).and_then(|process| process.python.walked());
        let (Some(requests), Some(python)) = (requests, python) else { return };
        let calls = record.calls().map_while(|ErrandCall { frame, first_local }| {
            let code = codes.get(codes.find(python.instance, frame.code, frame.cookie)?);
            let first_local = untagged(first_local);
            Some(Call { function: &code.function, file: &code.file, first_local })
        });
        requests.note_errand(record, &calls.collect::<Vec<_>>());
    }

    /// The frames of a sample: each pc a place in a file, and Python's where they belong.
    fn stack_of(&mut self, tables: &mut Tables, sample: &SampleRecord<'_>) -> Stack {
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
        if let Some(doubt) = process.python.doubt().filter(|_| was_walked) {
            process.is_dirty = true;
            let name = comm_text(&sample.process_comm);
            let doubt = format!("Python frames of {name} (pid {pid}) {doubt}: it is seen as a C program");
            if self.doubts.len() < MAX_DOUBTS {
                warn!(pid, "{doubt}");
                self.doubts.insert(doubt);
            }
        }
        if (self.per_thread || self.sees_waits) && sample.thread_pointer != 0 {
            self.thread_names.note(pid, sample.tid, sample.thread_pointer);
        }
        Stack { frames, kernel: kernel_frames(sample), outcome }
    }

    fn root_of(&self, sample: &SampleRecord<'_>) -> Root {
        match self.per_thread || self.sees_waits {
            true => self.thread_root_of(sample),
            false => Root { process: comm_text(&sample.process_comm), thread: None },
        }
    }

    fn thread_root_of(&self, sample: &SampleRecord<'_>) -> Root {
        thread_root(sample.pid, sample.tid, &sample.thread_comm, &sample.process_comm)
    }

    /// Asks Python programs for the names of threads that have none, when it is time.
    pub(super) fn name_threads_now_and_then(&mut self, now_ns: u64) {
        let Self { thread_names, processes, .. } = self;
        thread_names.refresh(now_ns, |pid| processes.get(&pid)?.python.walked());
    }

    /// Asks Python programs for the names of their threads for the last time, and calls the threads so.
    pub(super) fn name_threads(&mut self) {
        let Self { thread_names, processes, .. } = self;
        thread_names.refresh_all(monotonic_ns(), |pid| processes.get(&pid)?.python.walked());
        self.rename_threads();
    }

    fn rename_threads(&mut self) {
        let Self { thread_names, capture, .. } = self;
        capture.rename_threads(|thread| thread_names.find(thread.pid, thread.tid).map(str::to_owned));
    }

    /// All waits are told: how each thread spent its time. Where threads are not told apart, those of a process
    /// become one.
    pub(super) fn finish_waits(&mut self, is_sampled: bool) -> Vec<ThreadTimes> {
        let mut threads = self.waits.finish(is_sampled, &self.thread_names, &mut self.capture);
        self.waits.names.rename(&self.thread_names);
        for times in &mut threads {
            if let Some(name) = self.thread_names.find(times.pid, times.tid) {
                times.name = name.to_owned();
            }
        }
        if self.per_thread {
            self.rename_threads();
        } else {
            self.capture.merge_threads();
        }
        threads
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
        warnings.extend(self.doubts.iter().cloned());
        let losses = self.losses(tables, counters, undecodable);
        let told = losses.iter().filter(|loss| loss.count > 0);
        warnings.extend(told.map(|loss| format!("{} {}", loss.count, loss.what)));
        if self.waits.refused > 0 {
            warnings.push(format!("{} threads found no room in the account of waits", self.waits.refused));
        }
        warnings
    }

    /// What found no room or was not understood, by kind, beside samples.
    pub(super) fn losses(&self, tables: &Tables, counters: Counters, undecodable: u64) -> [Loss; 7] {
        let used = tables.used();
        [
            (
                "processes",
                counters.processes_full,
                "child processes were not followed: more than 8192 targets at once",
            ),
            ("events", counters.events_lost, "process events were lost: the ring was full"),
            (
                "mappings",
                used.slices_refused,
                "times the mappings of a process found no room: frame pointers only",
            ),
            (
                "unwind_rows",
                used.pages_refused,
                "times unwind rows found no room at first; stacks there were cut meanwhile",
            ),
            ("records", undecodable, "records could not be decoded"),
            ("threads", counters.threads_lost, "threads are not accounted for, or their end was lost"),
            ("code_names", self.codes.refused, "Python functions found no room for their names"),
        ]
        .map(|(kind, count, what)| Loss::new(kind, count, what))
    }
}

/// The kernel's name of a process, for words alone.
fn comm_of(pid: u32) -> String {
    procfs::comm(pid).unwrap_or_default()
}
