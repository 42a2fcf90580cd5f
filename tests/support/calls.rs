//! A profile's stacks as calls, read from its JSON form: whose they are, what kind each call is of, which line it is at;
//! and the comparison with the chains that a program told of itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

/// One call of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// `python`, `native`, `kernel`, `interpreter`, …
    pub kind: String,
    /// Its name.
    pub function: String,
    /// The base name of the binary, or nothing.
    pub module: String,
    /// As the profile has it, or nothing.
    pub file: String,
    /// 0 where it is not known.
    pub line: u32,
}

impl Call {
    /// Whether it is a call of a Python function.
    pub fn is_python(&self) -> bool {
        self.kind == "python"
    }

    /// `qualified.name (file.py)`.
    pub fn label(&self) -> String {
        format!("{} ({})", self.function, self.file.rsplit('/').next().unwrap_or_default())
    }

    /// Whether it is native and of a binary called `name`, whatever its version: `libz` for `libz.so.1`.
    fn is_of(&self, name: &str) -> bool {
        !self.is_python() && self.module.split(['.', '-']).next() == Some(name)
    }
}

/// Samples with the same stack.
#[derive(Clone, Debug)]
pub struct Stack {
    /// The process's name.
    pub process: String,
    /// The process, where threads are told apart, else 0.
    pub pid: u32,
    /// The thread's name, where threads are told apart, else nothing.
    pub thread: String,
    /// Root first; shared, as deep stacks are many.
    pub calls: Vec<Arc<Call>>,
    /// Whether it reaches the thread's start.
    pub complete: bool,
    /// Samples.
    pub count: u64,
    /// The time that they stand for.
    pub weight_ns: f64,
}

impl Stack {
    /// The labels of its Python calls, root first.
    pub fn python(&self) -> Vec<String> {
        self.calls.iter().filter(|call| call.is_python()).map(|call| call.label()).collect()
    }

    /// The Python calls of `function`, which is its whole name.
    pub fn calls_of<'a>(&'a self, function: &'a str) -> impl Iterator<Item = &'a Call> {
        self.calls.iter().map(Arc::as_ref).filter(move |call| call.is_python() && call.function == function)
    }

    /// Whether any call's name contains `part`.
    pub fn has(&self, part: &str) -> bool {
        self.calls.iter().any(|call| call.function.contains(part))
    }

    /// One line for messages: runs of the interpreter's own calls and the middles of deep stacks shortened.
    pub fn text(&self) -> String {
        let mut names: Vec<String> = Vec::new();
        for calls in self.calls.chunk_by(|one, next| one.kind == next.kind) {
            match calls {
                [first, _, ..] if first.kind == "interpreter" => {
                    names.push(format!("<{} of the interpreter>", calls.len()))
                }
                _ => names.extend(
                    calls
                        .iter()
                        .map(|call| if call.is_python() { call.label() } else { call.function.clone() }),
                ),
            }
        }
        if names.len() > 16 {
            let left_out = names.len() - 14;
            names.splice(6..6 + left_out, [format!("… {left_out} more …")]);
        }
        let marker = if self.complete { "" } else { " INCOMPLETE" };
        format!("{:6} {};{}{marker}", self.count, self.process, names.join(";"))
    }

    /// Compares with a chain of Python labels and, in braces, names of modules of which a native call must stand there.
    /// Further native calls may stand anywhere.
    pub fn follows(&self, chain: &[String]) -> Follows {
        let python = self.python();
        let labels: Vec<&String> = chain.iter().filter(|part| !part.starts_with('{')).collect();
        let known = labels.len().min(python.len());
        if python[..known].iter().ne(labels[..known].iter().copied()) {
            return Follows::Not;
        }
        if python.len() < labels.len() {
            return Follows::Begins;
        }
        // What a helper calls is its own affair.
        let is_helper = |label: &String| HELPERS.iter().any(|helper| label.contains(helper));
        if python.get(known).is_some_and(|label| !is_helper(label)) {
            return Follows::Not;
        }
        let mut calls = self.calls.iter();
        let all = chain.iter().all(|part| match part.strip_prefix('{') {
            Some(module) => calls.by_ref().any(|call| call.is_of(module.trim_end_matches('}'))),
            None => calls.by_ref().any(|call| call.is_python()),
        });
        if all { Follows::Wholly } else { Follows::WithoutNative }
    }
}

/// What a leaf may call in Python for a moment, to keep the account or to give up its turn.
const HELPERS: &[&str] = &["(oracle.py)", "(random.py)", "add (", "sleep (tasks.py)"];

/// How a stack stands to a chain of calls, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Follows {
    /// It is the chain, but for helpers behind it.
    Wholly,
    /// Its Python calls are those of the chain, but a native call that belongs between them is not there.
    WithoutNative,
    /// It is a part of the chain, from the root on.
    Begins,
    /// It has a call that the chain has not, or in another order.
    Not,
}

/// A profile's stacks.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    /// In the order of the profile.
    pub stacks: Vec<Stack>,
}

impl Calls {
    /// Reads the JSON form; panics where that is not as `src/output/json.rs` says.
    pub fn of(profile: &Value) -> Self {
        let list = |name: &str| profile[name].as_array().unwrap_or_else(|| panic!("JSON form has `{name}`"));
        let frames: Vec<Arc<Call>> = list("frames").iter().map(|frame| Arc::new(call(frame))).collect();
        let complete = |outcome: &Value| {
            list("outcomes").iter().any(|known| known["number"] == *outcome && known["complete"] == true)
        };
        let stack = |sample: &Value| {
            let root = &list("roots")[index(&sample["root"])];
            let calls = list("stacks")[index(&sample["stack"])].as_array().expect("stacks are lists");
            Stack {
                process: text(&root["process"]),
                pid: root["thread"]["pid"].as_u64().unwrap_or(0) as u32,
                thread: text(&root["thread"]["name"]),
                calls: calls.iter().rev().map(|frame| Arc::clone(&frames[index(frame)])).collect(),
                complete: complete(&sample["outcome"]),
                count: sample["count"].as_u64().expect("samples have a count"),
                weight_ns: sample["weight_ns"].as_f64().expect("samples have a weight"),
            }
        };
        Self { stacks: list("samples").iter().map(stack).collect() }
    }

    /// The stacks for which `wanted` holds.
    pub fn filtered(&self, wanted: impl Fn(&Stack) -> bool) -> Self {
        Self { stacks: self.stacks.iter().filter(|stack| wanted(stack)).cloned().collect() }
    }

    /// Those of one process; for profiles whose threads are told apart.
    pub fn of_pid(&self, pid: &str) -> Self {
        let pid: u32 = pid.parse().expect("pids are numbers");
        self.filtered(|stack| stack.pid == pid)
    }

    /// All samples.
    pub fn count(&self) -> u64 {
        self.stacks.iter().map(|stack| stack.count).sum()
    }

    /// The time that all samples stand for.
    pub fn weight_ns(&self) -> f64 {
        self.stacks.iter().map(|stack| stack.weight_ns).sum()
    }

    /// The part of the samples for which `wanted` holds, from 0 to 1; 0 when there are none.
    pub fn share(&self, wanted: impl Fn(&Stack) -> bool) -> f64 {
        self.filtered(wanted).weight_ns() / self.weight_ns().max(1.0)
    }

    /// The heaviest `number` stacks, for messages.
    pub fn heaviest(&self, number: usize) -> String {
        let mut stacks: Vec<&Stack> = self.stacks.iter().collect();
        stacks.sort_by_key(|stack| std::cmp::Reverse(stack.count));
        stacks.iter().take(number).map(|stack| stack.text() + "\n").collect()
    }

    /// Sorts the stacks by the chains that a program told.
    pub fn compare(&self, chains: &BTreeMap<usize, Vec<String>>) -> Comparison {
        let leaves: Vec<&String> = chains.values().filter_map(|chain| leaf(chain)).collect();
        let mut comparison = Comparison::default();
        for stack in &self.stacks {
            let python = stack.python();
            if !python.iter().any(|label| leaves.contains(&label)) {
                continue;
            }
            let followed = chains.iter().map(|(slot, chain)| (stack.follows(chain), *slot));
            let (follows, slot) = followed.min().unwrap_or((Follows::Not, 0));
            match follows {
                Follows::Wholly => comparison.exact.add(slot, stack),
                Follows::WithoutNative => comparison.without_native.add(slot, stack),
                // One leaf may be another's caller.
                Follows::Begins => {}
                Follows::Not => comparison.others.stacks.push(stack.clone()),
            }
        }
        comparison
    }
}

/// The last Python label of a chain.
fn leaf(chain: &[String]) -> Option<&String> {
    chain.iter().rfind(|part| !part.starts_with('{'))
}

/// The samples that hold the leaf of a chain.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Those that follow a chain wholly.
    pub exact: BySlot,
    /// Those that lack a native call of it.
    pub without_native: BySlot,
    /// Those that follow none.
    pub others: Calls,
}

impl Comparison {
    /// The part of these samples that is exact, from 0 to 1; 0 when there are none.
    pub fn exact_share(&self) -> f64 {
        let all = self.exact.count() + self.without_native.count() + self.others.count();
        self.exact.count() as f64 / all.max(1) as f64
    }
}

/// Samples and the time that they stand for, by the slot of the account.
#[derive(Clone, Debug, Default)]
pub struct BySlot(BTreeMap<usize, (u64, f64)>);

impl BySlot {
    fn add(&mut self, slot: usize, stack: &Stack) {
        let (count, weight_ns) = self.0.entry(slot).or_default();
        *count += stack.count;
        *weight_ns += stack.weight_ns;
    }

    /// All samples.
    pub fn count(&self) -> u64 {
        self.0.values().map(|(count, _)| count).sum()
    }

    /// The samples of one slot.
    pub fn count_of(&self, slot: usize) -> u64 {
        self.0.get(&slot).map_or(0, |(count, _)| *count)
    }

    /// The time of one slot.
    pub fn weight_ns_of(&self, slot: usize) -> f64 {
        self.0.get(&slot).map_or(0.0, |(_, weight_ns)| *weight_ns)
    }
}

fn call(frame: &Value) -> Call {
    Call {
        kind: text(&frame["kind"]),
        function: text(&frame["function"]),
        module: text(&frame["module"]),
        file: text(&frame["file"]),
        line: frame["line"].as_u64().unwrap_or(0) as u32,
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn index(value: &Value) -> usize {
    value.as_u64().expect("the JSON form's indices are numbers") as usize
}
