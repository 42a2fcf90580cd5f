//! What threads were about, and for how long.

/// What a sample's thread was about.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum ThreadState {
    /// On a CPU.
    #[default]
    Running,
    /// Runnable, waiting for a CPU.
    Queued,
    /// Waiting for something else.
    Blocked,
    /// Waiting for the lock of its Python interpreter.
    Gil,
}

/// How a thread spent its time, in nanoseconds, from when it was first seen, or born, to its end or that of the
/// recording. The first three together are that time.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ThreadTimes {
    /// Name of the process.
    pub process: String,
    /// Name of the thread.
    pub name: String,
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// On a CPU.
    pub run_ns: u64,
    /// Runnable, waiting for a CPU.
    pub queue_ns: u64,
    /// Waiting for something else.
    pub blocked_ns: u64,
    /// Of that, for the lock of its Python interpreter, in waits that have a stack.
    pub gil_ns: u64,
    /// How many waits have a stack for themselves.
    #[serde(default)]
    pub told_count: u64,
    /// Of the waits, those that were too short for a stack.
    pub short_ns: u64,
    /// How many of these there were.
    pub short_count: u64,
    /// Of the waits, those that share the stacks of a sample of them.
    #[serde(default)]
    pub sampled_ns: u64,
    /// How many of these there were.
    #[serde(default)]
    pub sampled_count: u64,
    /// How many stacks these share.
    #[serde(default)]
    pub shared_stacks: u64,
    /// Of the waits, those that have no stack for any other reason.
    pub bare_ns: u64,
    /// How many of these there were, as far as they were counted one by one.
    pub bare_count: u64,
}

impl ThreadTimes {
    /// All of its time.
    pub fn total_ns(&self) -> u64 {
        self.run_ns.saturating_add(self.queue_ns).saturating_add(self.blocked_ns)
    }

    /// How many waits there were, as far as they were counted.
    pub fn wait_count(&self) -> u64 {
        let parts = [self.told_count, self.sampled_count, self.short_count, self.bare_count];
        parts.into_iter().fold(0, u64::saturating_add)
    }

    /// How many of them had their stack taken.
    pub fn stack_count(&self) -> u64 {
        self.told_count.saturating_add(self.shared_stacks)
    }
}

/// What a thread had done, in nanoseconds since it is accounted for. All zero: it is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadSums {
    /// On a CPU.
    pub run_ns: u64,
    /// Runnable, waiting for a CPU.
    pub queue_ns: u64,
    /// Waiting for something else.
    pub blocked_ns: u64,
    /// Of the waits for a CPU, those of which only a sample has stacks.
    pub thin_queue_ns: u64,
    /// Of the other waits, likewise.
    pub thin_blocked_ns: u64,
    /// Of the waits for a CPU, those that were too short for a stack.
    pub short_queue_ns: u64,
    /// Of the other waits, likewise.
    pub short_blocked_ns: u64,
}

impl ThreadSums {
    /// What was added since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let less = |now: u64, before: u64| now.saturating_sub(before);
        Self {
            run_ns: less(self.run_ns, earlier.run_ns),
            queue_ns: less(self.queue_ns, earlier.queue_ns),
            blocked_ns: less(self.blocked_ns, earlier.blocked_ns),
            thin_queue_ns: less(self.thin_queue_ns, earlier.thin_queue_ns),
            thin_blocked_ns: less(self.thin_blocked_ns, earlier.thin_blocked_ns),
            short_queue_ns: less(self.short_queue_ns, earlier.short_queue_ns),
            short_blocked_ns: less(self.short_blocked_ns, earlier.short_blocked_ns),
        }
    }
}
