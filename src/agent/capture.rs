//! What was caught so far, summed: stacks of addresses that still mean the same
//! when the process is gone.

use std::collections::{BTreeMap, HashMap};

use super::codes::CodeId;
use super::module::ModuleId;
use crate::aggregate::{CallTree, NodeId};
use crate::model::profile::ThreadRoot;
use crate::model::{Avma, Outcome, Root, Svma};

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
    /// The native stack contradicts them; they are left out.
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
            Self::Disagreement => "[Python frames left out: the native stack contradicts them]".to_owned(),
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
}

/// Nodes of the call tree, 60 bytes each; beyond it new stacks are cut to the part that is
/// known, as "deeper than the frame limit".
const MAX_NODES: usize = 1 << 20;

/// Roots told apart. With `--per-thread` and a fleet of short-lived threads there could be
/// more; they share one.
const MAX_ROOTS: usize = 1 << 16;

/// Summed raw samples.
#[derive(Debug)]
pub struct Capture {
    tree: CallTree<RawFrame>,
    roots: Vec<Root>,
    root_ids: HashMap<Root, RootId>,
    tallies: HashMap<Key, Tally>,
}

/// What samples that are summed have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    root: RootId,
    node: NodeId,
    outcome: Outcome,
    holds_gil: bool,
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
    /// The thread held its interpreter's lock.
    pub holds_gil: bool,
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
        }
    }
}

impl Capture {
    /// Adds one sample; `frames` root first.
    pub fn add(
        &mut self,
        root: &Root,
        frames: impl Iterator<Item = RawFrame>,
        outcome: Outcome,
        holds_gil: bool,
        weight_ns: u64,
    ) {
        let root = self.root_id(root);
        let mut node = CallTree::<RawFrame>::ROOT;
        let mut outcome = outcome;
        for frame in frames {
            match self.tree.child(node, frame) {
                Some(child) => node = child,
                None => {
                    outcome = Outcome::TruncatedDepth;
                    break;
                }
            }
        }
        let tally = self.tallies.entry(Key { root, node, outcome, holds_gil }).or_default();
        tally.count += 1;
        tally.weight_ns = tally.weight_ns.saturating_add(weight_ns);
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
            holds_gil: key.holds_gil,
            tally: *tally,
        })
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
            let frames = [RawFrame::Unknown].into_iter();
            capture.add(&root(name, tid), frames, Outcome::Complete, false, 5);
        }
        capture.rename_threads(|thread| (thread.tid == 2).then(|| "worker".to_owned()));
        let mut sums: Vec<(Root, u64, u64)> =
            capture.samples().map(|sum| (sum.root.clone(), sum.tally.count, sum.tally.weight_ns)).collect();
        sums.sort();
        assert_eq!(sums, [(root("python3", 3), 1, 5), (root("worker", 2), 2, 10)]);
    }
}
