//! What every thread of some processes was doing at one moment.

use super::{Outcome, StackId};

/// All threads that were caught.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Ascending by pid.
    pub processes: Vec<ProcessSnapshot>,
}

/// One process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessSnapshot {
    /// Process id.
    pub pid: u32,
    /// Its main thread's `comm`.
    pub name: String,
    /// Ascending by thread id.
    pub threads: Vec<ThreadSnapshot>,
}

/// One thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadSnapshot {
    /// Thread id.
    pub tid: u32,
    /// What `threading` calls it, else its `comm`.
    pub name: String,
    /// What it was about.
    pub activity: Activity,
    /// CPU time since its start, in nanoseconds.
    pub cpu_ns: u64,
    /// It held the lock of its Python interpreter.
    pub holds_gil: bool,
    /// Its stack; `None` where it could not be caught.
    pub stack: Option<StackId>,
    /// How the walk ended.
    pub outcome: Outcome,
}

/// What a thread was about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Activity {
    /// On a CPU, or ready for one.
    Running,
    /// In a system call that has not returned: its name, `system call N` if that is not known.
    Waiting(String),
    /// Asleep in the kernel, for no system call.
    Asleep,
    /// Asleep where no signal can reach it: a disk, or the kernel's own locks.
    Uninterruptible(String),
    /// Stopped by a signal or a debugger.
    Stopped,
    /// Waiting for the lock of its Python interpreter.
    WaitingForGil,
    /// It has ended.
    Ended,
}
