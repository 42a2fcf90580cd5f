//! A snapshot: what every thread was about, joined with its stack.

use std::collections::BTreeMap;

use crate::model::snapshot::{Activity, ProcessSnapshot, Snapshot, ThreadSnapshot};
use crate::model::{Frame, FrameKind, Outcome, Profile, StackId};
use crate::target::procfs;

/// What a thread was about and how long it has run, by thread id; looked up before it is stopped.
pub type Activities = BTreeMap<(u32, u32), (Activity, u64)>;

/// Looks up all threads of `pids`. Those that end meanwhile are left out.
pub fn activities(pids: &[u32]) -> Activities {
    let threads = pids
        .iter()
        .flat_map(|pid| procfs::thread_ids(*pid).unwrap_or_default().into_iter().map(move |tid| (*pid, tid)));
    threads
        .filter_map(|(pid, tid)| Some(((pid, tid), (procfs::activity(tid).ok()?, procfs::cpu_ns(tid)))))
        .collect()
}

/// Joins them with the stacks of `profile`, which tells threads apart and has each once.
pub fn join(activities: Activities, profile: &Profile) -> Snapshot {
    let mut caught = BTreeMap::new();
    for sample in &profile.samples {
        if let Some(thread) = &sample.root.thread {
            caught.insert((thread.pid, thread.tid), (sample, thread.name.clone()));
        }
    }
    let mut processes: BTreeMap<u32, ProcessSnapshot> = BTreeMap::new();
    for ((pid, tid), (activity, cpu_ns)) in activities {
        let process = processes.entry(pid).or_insert_with(|| ProcessSnapshot {
            pid,
            name: procfs::comm(pid).unwrap_or_default(),
            threads: Vec::new(),
        });
        let (name, holds_gil, stack, outcome) = match caught.remove(&(pid, tid)) {
            Some((sample, name)) => (name, sample.holds_gil, Some(sample.stack), sample.outcome),
            None => (procfs::comm(tid).unwrap_or_default(), false, None, Outcome::Complete),
        };
        process.threads.push(ThreadSnapshot { tid, name, activity, cpu_ns, holds_gil, stack, outcome });
    }
    let mut snapshot = Snapshot { processes: processes.into_values().collect() };
    for process in &mut snapshot.processes {
        mark_gil_waiters(process, profile);
    }
    snapshot
}

/// Threads that wait in a futex right below the interpreter, which is not there to take a lock of the program's,
/// while another thread holds its lock.
fn mark_gil_waiters(process: &mut ProcessSnapshot, profile: &Profile) {
    if !process.threads.iter().any(|thread| thread.holds_gil) {
        return;
    }
    for thread in &mut process.threads {
        let in_futex = thread.activity == Activity::Waiting("futex".to_owned());
        if in_futex && !thread.holds_gil && thread.stack.is_some_and(|stack| takes_gil(profile, stack)) {
            thread.activity = Activity::WaitingForGil;
        }
    }
}

/// Whether what called the C library at the leaf is the interpreter's own taking of its lock.
fn takes_gil(profile: &Profile, stack: StackId) -> bool {
    let is_of_c_library = |frame: &&Frame| {
        frame
            .module
            .as_deref()
            .is_some_and(|module| module.starts_with("libc.") || module.starts_with("libpthread"))
    };
    let mut frames = profile.frames_of(stack).skip_while(is_of_c_library);
    let is_own = |frame: &Frame| matches!(frame.kind, FrameKind::Interpreter | FrameKind::Inlined);
    frames.next().is_some_and(|frame| is_own(frame) && !frame.function.contains("lock_timed"))
        && frames.any(|frame| frame.kind == FrameKind::Python)
}
