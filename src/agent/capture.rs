//! What was caught so far, summed: stacks of addresses that still mean the same
//! when the process is gone.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::codes::CodeId;
use super::idle::{Observed, idle};
use super::module::ModuleId;
use super::shares::shares;
use crate::aggregate::{CallTree, NodeId};
use crate::model::profile::ThreadRoot;
use crate::model::{Avma, Outcome, Root, Svma, ThreadState};

/// A frame by address; for a return address the byte before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RawFrame {
    /// In a file.
    Module(ModuleId, Svma),
    /// In a file without usable headers, at this offset.
    Offset(ModuleId, u64),
    /// In the kernel.
    Kernel(Avma),
    /// In generated code of this process.
    Jit(u32, Avma),
    /// A Python function, at this offset in bytes of its instructions; `None`: not started.
    Python(CodeId, Option<u32>),
    /// Not a call: all that follows ran for this asyncio task.
    Task(u64),
    /// Not a call: a greenlet begins here.
    Greenlet,
    /// Python frames are missing here.
    PythonGap(PythonGap),
    /// In no mapping that was known.
    Unknown,
    /// Not a call: what a thread that did not run was about.
    Wait(WaitFrame),
}

/// What stands in the stack of a thread that did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WaitFrame {
    /// Blocked in the system call of this number; `None`: outside of any, as by a page fault.
    Blocked(Option<u32>),
    /// What the call was for: this one of the waits' objects.
    Object(u32),
    /// Runnable, waiting for a CPU.
    Queue,
    /// Waiting for the lock of its Python interpreter.
    Gil,
    /// Which was held by this one of the waits' threads, in the function that follows.
    HeldBy(u32),
    /// Nobody knows by whom.
    HeldByUnknown,
    /// Woken by this one of the waits' threads; what that did follows.
    WokenBy(u32),
    /// Woken by an interrupt.
    WokenByInterrupt,
    /// Waits that were too short for a stack.
    Short,
    /// Waits of which only some have their stack taken, and here none had.
    Unsampled,
    /// Waits whose stack could not be told.
    Bare,
    /// Running, but never sampled.
    NotSampled,
    /// A request waited for a thread to take it.
    HandedOver,
    /// This one of the waits' threads was made by the request whose thread waited, or given work by it; what it did follows.
    WorkedBy(u32),
    /// A request's coroutine did not run, nor did any other of its thread.
    LoopIdle,
    /// A request's coroutine did not run, but others of its thread did.
    LoopBusy,
    /// Ran in stacks that found no room.
    Forgotten,
    /// It is not known which thread worked for a request.
    NobodyKnown,
}

impl WaitFrame {
    /// The one of the waits' threads that it names.
    pub fn thread(self) -> Option<u32> {
        match self {
            Self::HeldBy(thread) | Self::WokenBy(thread) | Self::WorkedBy(thread) => Some(thread),
            _ => None,
        }
    }
}

/// Why Python frames are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PythonGap {
    /// A frame's code object could not be read, or is none.
    Unread,
    /// Its names were lost on their way up, or found no room.
    Untold,
    /// The frames behind this one were not reached.
    Cut(Outcome),
    /// The native stack, or what the interpreter says of itself, contradicts them; they are left out.
    Disagreement,
    /// The native stack has more calls of the interpreter's loop than frames were found for.
    Callers,
}

impl PythonGap {
    /// As a frame's text.
    pub fn text(self) -> String {
        match self {
            Self::Unread => "[Python function that could not be read]".to_owned(),
            Self::Untold => "[Python function whose name was lost]".to_owned(),
            Self::Cut(outcome) => format!("[Python callers missing: {}]", outcome.text()),
            Self::Disagreement => "[Python frames left out: they are contradicted]".to_owned(),
            Self::Callers => "[Python callers missing: not among the thread's frames]".to_owned(),
        }
    }
}

/// Index of a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct RootId(u32);

/// How often, and for how much time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Samples.
    pub count: u64,
    /// Sum of their periods.
    pub weight_ns: u64,
    /// When it was seen, or the wait began, `CLOCK_MONOTONIC`; of sums this says nothing.
    pub at_ns: u64,
    /// The outermost coroutine that ran then, as [`SampleRecord`](crate::sys::abi::SampleRecord) names it; of sums this
    /// says nothing.
    pub coroutine: Option<u64>,
}

/// A stack of a thread, as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Observation {
    pub root: Root,
    pub stack: CaughtStack,
    pub state: ThreadState,
    pub tally: Tally,
    /// It stands for others like it: its weight is its part of what they weigh.
    pub is_share: bool,
}

/// Nodes of the call tree, 60 bytes each; beyond it new stacks are cut to the part that is
/// known, as "deeper than the frame limit".
const MAX_NODES: usize = 1 << 20;

/// Roots told apart. With `--per-thread` and a fleet of short-lived threads there could be
/// more; they share one.
const MAX_ROOTS: usize = 1 << 16;

/// A stack of the capture, and how it was walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CaughtStack {
    node: NodeId,
    /// How the walk ended.
    pub outcome: Outcome,
    /// The thread held its interpreter's lock.
    pub holds_gil: bool,
}

impl CaughtStack {
    /// No frame yet.
    pub fn empty(outcome: Outcome, holds_gil: bool) -> Self {
        Self { node: CallTree::<RawFrame>::ROOT, outcome, holds_gil }
    }
}

/// Summed raw samples.
#[derive(Debug)]
pub struct Capture {
    tree: CallTree<RawFrame>,
    roots: Vec<Root>,
    root_ids: HashMap<Root, RootId>,
    tallies: HashMap<Key, Tally>,
    /// Where observations are told one by one they go here instead of being summed.
    journal: Option<Vec<Observation>>,
}

/// What samples that are summed have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    root: RootId,
    node: NodeId,
    outcome: Outcome,
    state: ThreadState,
    holds_gil: bool,
    is_idle: bool,
}

/// Equal samples.
#[derive(Clone, Copy, Debug)]
pub struct Sum<'a> {
    /// Whose.
    pub root: &'a Root,
    /// Their stack.
    pub node: NodeId,
    /// How they ended.
    pub outcome: Outcome,
    /// What the thread was about.
    pub state: ThreadState,
    /// The thread held its interpreter's lock.
    pub holds_gil: bool,
    /// The thread waited because it had nothing to do.
    pub is_idle: bool,
    /// How many, and for how much time.
    pub tally: Tally,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            tree: CallTree::new(MAX_NODES),
            roots: Vec::new(),
            root_ids: HashMap::new(),
            tallies: HashMap::new(),
            journal: None,
        }
    }
}

impl Capture {
    /// The end of `stack` with `frames` behind it, root first.
    pub fn extend(&mut self, stack: CaughtStack, frames: impl Iterator<Item = RawFrame>) -> CaughtStack {
        let CaughtStack { mut node, mut outcome, holds_gil } = stack;
        for frame in frames {
            match self.tree.child(node, frame) {
                Some(child) => node = child,
                None => {
                    outcome = Outcome::TruncatedDepth;
                    break;
                }
            }
        }
        CaughtStack { node, outcome, holds_gil }
    }

    /// One that sums nothing, but tells each observation by [`Self::take_journal`].
    pub(super) fn journaling() -> Self {
        Self { journal: Some(Vec::new()), ..Self::default() }
    }

    /// What was observed since the last call.
    pub(super) fn take_journal(&mut self) -> Vec<Observation> {
        self.journal.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Tells one of several stacks that waits share, where observations are told one by one.
    pub(super) fn add_share(&mut self, root: &Root, stack: CaughtStack, state: ThreadState, tally: Tally) {
        if let Some(journal) = &mut self.journal {
            journal.push(Observation { root: root.clone(), stack, state, tally, is_share: true });
        }
    }

    /// How much room its stacks take, in nodes.
    pub(super) fn node_count(&self) -> usize {
        self.tree.len()
    }

    /// Adds to what was observed of a stack.
    pub fn add(&mut self, root: &Root, stack: CaughtStack, state: ThreadState, tally: Tally) {
        if let Some(journal) = &mut self.journal {
            journal.push(Observation { root: root.clone(), stack, state, tally, is_share: false });
            return;
        }
        let root = self.root_id(root);
        let CaughtStack { node, outcome, holds_gil } = stack;
        let sum =
            self.tallies.entry(Key { root, node, outcome, state, holds_gil, is_idle: false }).or_default();
        sum.count += tally.count;
        sum.weight_ns = sum.weight_ns.saturating_add(tally.weight_ns);
    }

    /// Gives what was observed of running threads the weight that `weights` has for each, by process and thread, in
    /// proportion to what each stack weighed. Returns the threads that were observed.
    pub fn weigh(&mut self, weights: &HashMap<(u32, u32), u64>) -> HashSet<(u32, u32)> {
        let thread_of = |key: &Key| {
            let thread = self.roots[key.root.0 as usize].thread.as_ref()?;
            (key.state == ThreadState::Running).then_some((thread.pid, thread.tid))
        };
        let mut of_threads: HashMap<(u32, u32), Vec<Key>> = HashMap::new();
        for key in self.tallies.keys() {
            if let Some(thread) = thread_of(key).filter(|thread| weights.contains_key(thread)) {
                of_threads.entry(thread).or_default().push(*key);
            }
        }
        for (thread, keys) in &mut of_threads {
            keys.sort_unstable();
            let observed: Vec<u64> = keys.iter().map(|key| self.tallies[key].weight_ns).collect();
            for (key, due) in keys.iter().zip(shares(&observed, weights[thread]).unwrap_or_default()) {
                self.tallies.get_mut(key).expect("the keys were just taken from it").weight_ns = due;
            }
        }
        of_threads.into_keys().collect()
    }

    /// Marks the waits of threads that had nothing to do. `has_run` tells whether a thread, by process and thread, ran.
    pub fn mark_idle(&mut self, has_run: impl Fn((u32, u32)) -> bool) {
        let mut of_threads: BTreeMap<(u32, u32), Vec<Key>> = BTreeMap::new();
        for key in self.tallies.keys() {
            if let Some(thread) = &self.roots[key.root.0 as usize].thread {
                of_threads.entry((thread.pid, thread.tid)).or_default().push(*key);
            }
        }
        for (thread, keys) in of_threads {
            let observed = keys.iter().map(|key| {
                let mut frames: Vec<RawFrame> = self.tree.stack(key.node).collect();
                frames.reverse();
                Observed { frames, state: key.state, count: self.tallies[key].count }
            });
            for index in idle(&observed.collect::<Vec<_>>(), has_run(thread)) {
                let key = keys[index];
                let tally = self.tallies.remove(&key).expect("the keys were just taken from it");
                self.tallies.insert(Key { is_idle: true, ..key }, tally);
            }
        }
    }

    /// Sums the threads of each process.
    pub fn merge_threads(&mut self) {
        self.roots.iter_mut().for_each(|root| root.thread = None);
        self.merge_roots();
    }

    fn root_id(&mut self, root: &Root) -> RootId {
        if let Some(id) = self.root_ids.get(root) {
            return *id;
        }
        if self.roots.len() >= MAX_ROOTS {
            return self.others();
        }
        let id = RootId(self.roots.len() as u32);
        self.roots.push(root.clone());
        self.root_ids.insert(root.clone(), id);
        id
    }

    /// The root of all that found no room.
    fn others(&mut self) -> RootId {
        let others = Root { process: "[others]".to_owned(), thread: None };
        if self.roots.len() == MAX_ROOTS {
            self.root_ids.insert(others.clone(), RootId(MAX_ROOTS as u32));
            self.roots.push(others);
        }
        RootId(MAX_ROOTS as u32)
    }

    /// Gives threads the names that `name_of` finds; others keep theirs. Roots that become equal are one.
    pub fn rename_threads(&mut self, name_of: impl Fn(&ThreadRoot) -> Option<String>) {
        for thread in self.roots.iter_mut().filter_map(|root| root.thread.as_mut()) {
            if let Some(name) = name_of(thread) {
                thread.name = name;
            }
        }
        self.merge_roots();
    }

    /// Roots that became equal are one.
    fn merge_roots(&mut self) {
        self.root_ids.clear();
        for (number, root) in self.roots.iter().enumerate() {
            self.root_ids.entry(root.clone()).or_insert(RootId(number as u32));
        }
        for (key, tally) in std::mem::take(&mut self.tallies) {
            let root = self.root_ids[&self.roots[key.root.0 as usize]];
            let sum = self.tallies.entry(Key { root, ..key }).or_default();
            sum.count += tally.count;
            sum.weight_ns = sum.weight_ns.saturating_add(tally.weight_ns);
        }
    }

    /// Each combination of root, stack and outcome once.
    pub fn samples(&self) -> impl Iterator<Item = Sum<'_>> {
        self.tallies.iter().map(|(key, tally)| Sum {
            root: &self.roots[key.root.0 as usize],
            node: key.node,
            outcome: key.outcome,
            state: key.state,
            holds_gil: key.holds_gil,
            is_idle: key.is_idle,
            tally: *tally,
        })
    }

    /// The frames of a caught stack, leaf first.
    pub(super) fn frames_of(&self, stack: CaughtStack) -> impl Iterator<Item = RawFrame> + '_ {
        self.tree.stack(stack.node)
    }

    /// The frames of a stack, leaf first.
    pub fn stack(&self, node: NodeId) -> impl Iterator<Item = RawFrame> + '_ {
        self.tree.stack(node)
    }

    /// All frames, some repeatedly.
    pub fn frames(&self) -> impl Iterator<Item = RawFrame> + '_ {
        self.tree.frames()
    }

    /// Samples by outcome.
    pub fn outcomes(&self) -> BTreeMap<Outcome, u64> {
        let mut outcomes = BTreeMap::new();
        for (key, tally) in &self.tallies {
            *outcomes.entry(key.outcome).or_default() += tally.count;
        }
        outcomes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples of a thread under two names become those of one root; the other thread's stay apart.
    #[test]
    fn renamed_threads_are_summed() {
        let root = |name: &str, tid| Root {
            process: "python3".to_owned(),
            thread: Some(ThreadRoot { name: name.to_owned(), pid: 1, tid }),
        };
        let mut capture = Capture::default();
        for (name, tid) in [("python3", 2), ("python3", 3), ("renamed", 2)] {
            let stack = CaughtStack::empty(Outcome::Complete, false);
            let stack = capture.extend(stack, [RawFrame::Unknown].into_iter());
            capture.add(
                &root(name, tid),
                stack,
                ThreadState::Running,
                Tally { count: 1, weight_ns: 5, ..Tally::default() },
            );
        }
        capture.rename_threads(|thread| (thread.tid == 2).then(|| "worker".to_owned()));
        let mut sums: Vec<(Root, u64, u64)> =
            capture.samples().map(|sum| (sum.root.clone(), sum.tally.count, sum.tally.weight_ns)).collect();
        sums.sort();
        assert_eq!(sums, [(root("python3", 3), 1, 5), (root("worker", 2), 2, 10)]);
    }
    /// The stacks of a thread weigh what it ran, to the nanosecond, and its waits and others' stacks what they weighed.
    #[test]
    fn running_threads_weigh_what_they_ran() {
        let root = |tid| Root {
            process: "server".to_owned(),
            thread: Some(ThreadRoot { name: "worker".to_owned(), pid: 1, tid }),
        };
        let mut capture = Capture::default();
        let mut add = |tid, frame, state, weight_ns| {
            let stack = CaughtStack::empty(Outcome::Complete, false);
            let stack = capture.extend(stack, [frame].into_iter());
            capture.add(&root(tid), stack, state, Tally { count: 1, weight_ns, ..Tally::default() });
        };
        let frames = [RawFrame::Unknown, RawFrame::Greenlet, RawFrame::Wait(WaitFrame::Queue)];
        for frame in frames {
            add(2, frame, ThreadState::Running, 10);
        }
        add(2, RawFrame::Unknown, ThreadState::Blocked, 7);
        add(3, RawFrame::Unknown, ThreadState::Running, 10);
        let weights = HashMap::from([((1, 2), 100), ((1, 9), 100)]);
        assert_eq!(capture.weigh(&weights), HashSet::from([(1, 2)]));
        let mut sums: Vec<(u32, ThreadState, u64)> = capture
            .samples()
            .map(|sum| {
                (sum.root.thread.as_ref().map_or(0, |thread| thread.tid), sum.state, sum.tally.weight_ns)
            })
            .collect();
        sums.sort_unstable();
        let running = ThreadState::Running;
        let expected = [
            (2, running, 33),
            (2, running, 33),
            (2, running, 34),
            (2, ThreadState::Blocked, 7),
            (3, running, 10),
        ];
        assert_eq!(sums, expected);
        capture.merge_threads();
        let total: u64 = capture.samples().map(|sum| sum.tally.weight_ns).sum();
        assert!(total == 117 && capture.samples().all(|sum| sum.root.thread.is_none()));
    }
}
