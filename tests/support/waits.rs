//! Recordings of waits, thread by thread.

use serde_json::Value;

/// A thread's stack and the time that it stands for.
#[derive(Clone, Debug)]
pub struct Wait {
    /// Whose.
    pub tid: u64,
    /// `running`, `queued`, `blocked`, `gil`.
    pub state: String,
    /// How many.
    pub count: u64,
    /// Nanoseconds.
    pub weight_ns: u64,
    /// It waited for work.
    pub is_idle: bool,
    /// Functions and markers, root first.
    pub frames: Vec<String>,
}

impl Wait {
    /// Whether a function or marker of this name is in the stack.
    pub fn has(&self, name: &str) -> bool {
        self.frames.iter().any(|frame| frame == name)
    }

    /// Whether the frames of these names stand in the stack in this order.
    pub fn goes(&self, names: &[&str]) -> bool {
        let mut frames = self.frames.iter();
        names.iter().all(|name| frames.any(|frame| frame.starts_with(name)))
    }
}

/// What a recording with `--per-thread` tells of waits.
#[derive(Debug)]
pub struct Waits {
    /// Each stack of each thread.
    pub stacks: Vec<Wait>,
    /// The account of each thread, as in the JSON form.
    pub threads: Vec<Value>,
    /// How long the recording took.
    pub elapsed_ns: f64,
}

impl Waits {
    /// Of a profile in the JSON form.
    pub fn of(profile: &Value) -> Self {
        let number = |value: &Value| value.as_u64().expect("a number");
        let list = |name: &str| profile[name].as_array().cloned().unwrap_or_default();
        let (roots, frames, stacks) = (list("roots"), list("frames"), list("stacks"));
        let function = |index: &Value| {
            let frame = &frames[number(index) as usize];
            frame["function"].as_str().expect("frames have functions").to_owned()
        };
        let wait = |sample: &Value| Wait {
            tid: roots[number(&sample["root"]) as usize]["thread"]["tid"]
                .as_u64()
                .expect("recorded per thread"),
            state: sample["state"].as_str().unwrap_or("running").to_owned(),
            count: number(&sample["count"]),
            weight_ns: number(&sample["weight_ns"]),
            is_idle: sample["is_idle"].as_bool().unwrap_or(false),
            frames: stacks[number(&sample["stack"]) as usize]
                .as_array()
                .expect("a stack is a list")
                .iter()
                .rev()
                .map(function)
                .collect(),
        };
        Self {
            stacks: list("samples").iter().map(wait).collect(),
            threads: list("threads"),
            elapsed_ns: profile["recording"]["elapsed_ns"].as_f64().expect("it took some time"),
        }
    }

    /// The time of stacks for which `is_meant` holds, in nanoseconds.
    pub fn time_ns(&self, is_meant: impl Fn(&Wait) -> bool) -> f64 {
        self.stacks.iter().filter(|stack| is_meant(stack)).map(|stack| stack.weight_ns as f64).sum()
    }

    /// A member of a thread's account, in nanoseconds.
    pub fn ns(thread: &Value, name: &str) -> f64 {
        thread[name].as_f64().expect("accounts have numbers")
    }

    /// The thread called `name`; of several, the first.
    pub fn thread(&self, name: &str) -> &Value {
        let found = self.threads.iter().find(|thread| thread["name"] == name);
        found.unwrap_or_else(|| panic!("no thread is called {name}: {:#?}", self.threads))
    }

    /// What is wrong with the sums: of each thread, stacks must add up to its time, and of those that lived
    /// throughout that must be the time that passed, to 1 %.
    pub fn wrong_sums(&self, lived_throughout: impl Fn(&Value) -> bool) -> Vec<String> {
        let mut wrong = Vec::new();
        for thread in &self.threads {
            let total: f64 =
                ["run_ns", "queue_ns", "blocked_ns"].iter().map(|name| Self::ns(thread, name)).sum();
            let stacks = self.time_ns(|stack| thread["tid"] == stack.tid);
            if (stacks - total).abs() > 1.0 {
                wrong.push(format!("stacks add up to {stacks}, not to {total}: {thread}"));
            }
            if lived_throughout(thread) && (total / self.elapsed_ns - 1.0).abs() > 0.01 {
                wrong.push(format!("{total} of {} ns: {thread}", self.elapsed_ns));
            }
        }
        wrong
    }
}
